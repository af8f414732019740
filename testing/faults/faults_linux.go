package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Fault is what becomes of a call.
type Fault uint8

const (
	// None: it goes on.
	None Fault = iota
	// Interrupted is EINTR: a signal came before anything was done. A call that does not wait goes on.
	Interrupted
	// Lost is ENOBUFS: an answer is lost, or a message was not sent.
	Lost
)

// A Call is a system call on a netlink socket.
type Call struct {
	// N is its number among those of the program and its children, from 0.
	N int
	// Receives is whether it takes an answer. Else it sends.
	Receives bool
	// Program is the name of the thread that calls, as of proc_pid_comm(5): mostly that of the program.
	Program string
}

// Injector chooses what becomes of calls, and counts what became of them. Several programs can be run by one, at the
// same time.
type Injector struct {
	// Choose is called from one goroutine for each program that runs.
	Choose func(Call) Fault

	// Calls were all; the others are those that failed.
	Calls, Interrupted, Lost atomic.Int64
}

// Run starts a program and waits for its end, as cmd.Run does. started, if it is not nil, is called in between. The
// program gets a signal, Kill, when this process ends. What the program leaves running goes on to have faults.
func (i *Injector) Run(cmd *exec.Cmd, started func()) error {
	n := 0
	return watch(cmd, only(unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_RECVFROM, unix.SYS_RECVMSG), started,
		func(asked notification) (errno unix.Errno) {
			errno, is := i.judge(asked, n)
			if is {
				n++
			}
			return errno
		})
}

// starting is held by who has the garbage collector off: the percentage is the process's, and two that set it at the
// same time would leave it off for ever.
var starting sync.Mutex

// watch starts a program, asks judge about the system calls that a filter picks, and waits for the program's end. A
// call goes on if judge has no error for it.
func watch(cmd *exec.Cmd, filter []unix.SockFilter, started func(), judge func(notification) unix.Errno) error {
	attr := unix.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	attr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr = &attr
	done := make(chan error)
	go func() {
		// A filter is a thread's for ever, and its children's: the thread ends with the goroutine.
		runtime.LockOSThread()
		own := uint32(unix.Gettid())
		// While this thread asks about a call that the runtime does not know to wait, as those of a fork are, nobody can stop
		// the world: who answers would be stopped, too.
		starting.Lock()
		gc := debug.SetGCPercent(-1)
		listener, err := install(filter)
		if err == nil {
			go serve(listener, func(asked notification) unix.Errno {
				if asked.pid == own {
					return 0
				}
				return judge(asked)
			})
			err = cmd.Start()
		}
		debug.SetGCPercent(gc)
		starting.Unlock()
		if err == nil {
			if started != nil {
				started()
			}
			err = cmd.Wait()
		}
		done <- err
	}()
	return <-done
}

// only is a filter that asks about these system calls.
func only(calls ...uint32) []unix.SockFilter {
	return choose(calls, unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_ALLOW)
}

// choose is a filter that does one thing for some system calls, and another for others.
func choose(calls []uint32, those, others uint32) []unix.SockFilter {
	const numberAt = 0 // of struct seccomp_data
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: numberAt}}
	for n, call := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call,
			Jt: uint8(len(calls) - n)})
	}
	return append(filter, unix.SockFilter{Code: unix.BPF_RET, K: others}, unix.SockFilter{Code: unix.BPF_RET, K: those})
}

// install has the calling thread ask, and returns where.
func install(filter []unix.SockFilter) (listener int, err error) {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, os.NewSyscallError("seccomp", errno)
	}
	return int(fd), nil
}

// notification is struct seccomp_notif of linux/seccomp.h.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// serve answers until nobody is left who asks.
func serve(listener int, judge func(notification) unix.Errno) {
	defer unix.Close(listener)
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return
		}
		var asked notification
		if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&asked)); err != nil {
			continue // who asked is gone
		}
		answer := response{id: asked.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := judge(asked); errno != 0 {
			answer.error, answer.flags = -int32(errno), 0
		}
		_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer)) // it can be gone by now
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// judge says what becomes of a call, and whether it is one on a netlink socket.
func (i *Injector) judge(asked notification, n int) (errno unix.Errno, is bool) {
	socket, err := take(asked)
	if err != nil {
		return 0, false
	}
	defer unix.Close(socket)
	if domain, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil ||
		domain != unix.AF_NETLINK {
		return 0, false
	}
	i.Calls.Add(1)
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", asked.pid)) // who has gone since has no name
	call := Call{N: n, Receives: asked.nr == unix.SYS_RECVFROM || asked.nr == unix.SYS_RECVMSG,
		Program: strings.TrimSuffix(string(name), "\n")}
	switch i.Choose(call) {
	case None:
	case Interrupted:
		if waits(socket, asked) {
			i.Interrupted.Add(1)
			return unix.EINTR, true
		}
	case Lost:
		if call.Receives && !lose(socket) {
			return 0, true // there is nothing to be lost
		}
		i.Lost.Add(1)
		return unix.ENOBUFS, true
	}
	return 0, true
}

// take returns a copy of the socket that a call is about.
func take(asked notification) (int, error) {
	// A thread has no descriptor of its own before Linux 6.9.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", asked.pid))
	if err != nil {
		return -1, err
	}
	process, err := processOf(status)
	if err != nil {
		return -1, err
	}
	pidfd, err := unix.PidfdOpen(process, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, int(int32(asked.args[0])), 0)
}

// waits reports whether a call waits if there is nothing to be had: only such a one is interrupted.
func waits(socket int, asked notification) bool {
	flags := asked.args[3] // of recvfrom and sendto
	if asked.nr == unix.SYS_RECVMSG || asked.nr == unix.SYS_SENDMSG {
		flags = asked.args[2]
	}
	status, err := unix.FcntlInt(uintptr(socket), unix.F_GETFL, 0)
	return err == nil && status&unix.O_NONBLOCK == 0 && flags&unix.MSG_DONTWAIT == 0
}

// lose takes an answer out of a socket, if there is one. A part of a listing is not lost: where the kernel has no
// memory for it, it goes on with it later.
func lose(socket int) bool {
	header := make([]byte, unix.SizeofNlMsghdr)
	if _, _, err := unix.Recvfrom(socket, header, unix.MSG_DONTWAIT|unix.MSG_PEEK); err != nil {
		return false
	}
	const flagsAt = 6 // of struct nlmsghdr
	if binary.NativeEndian.Uint16(header[flagsAt:])&unix.NLM_F_MULTI == 0 {
		_, _, _ = unix.Recvfrom(socket, header, unix.MSG_DONTWAIT) // it is there
	}
	return true
}
