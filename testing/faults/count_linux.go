package faults

import (
	"os/exec"

	"golang.org/x/sys/unix"
)

// Counter counts what a program asks of the kernel.
type Counter struct {
	// Calls are its system calls and those of its children, from the start of the program on, but for those that Go's
	// runtime makes by itself: for memory, threads, timers and signals. How many of these there are is chance.
	Calls int
	// ByNumber are the same by their numbers (asm/unistd.h).
	ByNumber map[int32]int
	// Sent are the bytes that went to sockets.
	Sent int
}

// Run starts a program and waits for its end, as cmd.Run does.
func (c *Counter) Run(cmd *exec.Cmd) error {
	c.ByNumber = map[int32]int{}
	filter := choose(ofRuntime(), unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_USER_NOTIF)
	return watch(cmd, filter, nil, func(asked notification) unix.Errno {
		if asked.nr == unix.SYS_EXECVE {
			*c = Counter{ByNumber: map[int32]int{}} // what comes before it is ours
			return 0
		}
		c.Calls++
		c.ByNumber[asked.nr]++
		if asked.nr == unix.SYS_SENDTO {
			c.Sent += int(asked.args[2])
		}
		return 0
	})
}

// ofRuntime are the system calls that Go's runtime makes, and a program besides does not.
func ofRuntime() []uint32 {
	return []uint32{
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_PRCTL,
		unix.SYS_FUTEX, unix.SYS_CLONE, unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETTID, unix.SYS_GETPID, unix.SYS_TGKILL,
		unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SET_TID_ADDRESS,
		unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_RESTART_SYSCALL, unix.SYS_PRLIMIT64,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
		unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2,
	}
}
