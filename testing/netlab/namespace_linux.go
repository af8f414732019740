package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Namespace is a network namespace that exists only as long as this process
// holds it: it has no name and no process of its own. Its methods may be
// called at the same time. The zero Namespace is not usable; see
// [NewNamespace].
type Namespace struct {
	file *os.File

	mu      sync.Mutex
	closed  bool
	spawner chan func() // runs functions on a thread that stays inside; nil until used
	cmds    []*exec.Cmd
}

// threadNetNS is the namespace of the thread that opens it.
const threadNetNS = "/proc/thread-self/ns/net"

// NewNamespace makes a network namespace in which there is a loopback
// interface, down, and nothing else. It fails without the privilege to
// (CAP_SYS_ADMIN).
func NewNamespace() (*Namespace, error) {
	n := &Namespace{}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		n.file, err = os.Open(threadNetNS)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlab: %w", err)
	}
	return n, nil
}

// Do runs f on a thread that is inside the namespace, and returns its error.
//
// What f does itself happens inside: system calls, sockets it opens, reading
// /proc/sys/net. Goroutines that f starts are outside, so f must not dial or
// listen with package net; sockets stay inside wherever they are used later.
// f must not call [runtime.Goexit], and so not t.Fatal.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := n.enter(); err != nil {
			return fmt.Errorf("netlab: %w", err)
		}
		return f()
	})
}

// enter puts the calling thread into the namespace.
func (n *Namespace) enter() error {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	// While Control runs, Close cannot give the number to another file.
	if err = raw.Control(func(fd uintptr) { setErr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err == nil {
		err = setErr
	}
	if err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

// onThread runs f on a thread of its own and puts the thread back into the
// namespace it was in.
func onThread(f func() error) error {
	result := make(chan error, 1)
	lockThread(func() {
		err := errors.New("netlab: the function did not return")
		defer func() { result <- err }()
		home, openErr := os.Open(threadNetNS)
		if openErr != nil {
			err = openErr
			return
		}
		defer home.Close()
		err = f()
		if isAt(home) { // f could not leave, and to return takes privilege
			runtime.UnlockOSThread()
			return
		}
		if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("netlab: return to the own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	})
	return <-result
}

// isAt reports whether the thread is in the namespace.
func isAt(namespace *os.File) bool {
	var here, there unix.Stat_t
	return unix.Stat(threadNetNS, &here) == nil && unix.Fstat(int(namespace.Fd()), &there) == nil &&
		here.Dev == there.Dev && here.Ino == there.Ino
}

// lockThread runs f in a goroutine of its own that is locked to a thread. If f
// leaves it locked, the runtime destroys the thread when f ends.
//
// It is never the main thread, whose namespace is the process's in the eyes of
// others, and which the runtime parks for ever instead of destroying it. If the
// goroutine finds itself there it stays, so that f gets another.
func lockThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		done := make(chan struct{})
		lockThread(func() {
			defer close(done)
			f()
		})
		<-done
		runtime.UnlockOSThread()
	}()
}

// FD returns the file descriptor that holds the namespace. It belongs to the
// Namespace and is closed with it; after Close it is an invalid one.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Path returns a path at which this and other processes can open the
// namespace, as with nsenter --net=PATH, until it is closed.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD()) }

// Socket opens a socket inside the namespace that belongs to owner, as the
// kernel's owner matches see it (nft's meta skuid, xtables' -m owner). Nil is
// root. The socket does not block and is closed on exec. The caller owns it.
func (n *Namespace) Socket(domain, typ int, owner *intercept.Owner) (fd int, err error) {
	return n.SocketOf(domain, typ, 0, owner)
}

// SocketOf is [Namespace.Socket] for a protocol that is not the usual one of the domain and the type.
func (n *Namespace) SocketOf(domain, typ, protocol int, owner *intercept.Owner) (fd int, err error) {
	err = n.Do(func() error {
		return As(orRoot(owner), func() error {
			fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
			return os.NewSyscallError("socket", err)
		})
	})
	return fd, err
}

// Start starts cmd inside the namespace and under owner; nil leaves user and
// group as they are. As after cmd.Start, the caller calls cmd.Wait. Closing
// the namespace kills the process if it still runs, and so does the end, of
// whatever kind, of this process.
func (n *Namespace) Start(cmd *exec.Cmd, owner *intercept.Owner) error {
	attr := syscall.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	if owner != nil {
		attr.Credential = &syscall.Credential{Uid: owner.UID, Gid: owner.GID}
	}
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = &attr

	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("netlab: start %s: the namespace is closed", cmd.Path)
	}
	if n.spawner == nil {
		work := make(chan func())
		n.spawner = work
		lockThread(func() { spawn(work) })
	}
	result := make(chan error)
	n.spawner <- func() {
		defer keepDumpable()()
		if err := n.enter(); err != nil {
			result <- err
			return
		}
		result <- cmd.Start()
	}
	if err := <-result; err != nil {
		return fmt.Errorf("netlab: start %s: %w", cmd.Path, err)
	}
	n.cmds = append(n.cmds, cmd)
	return nil
}

// spawn carries out what is sent to it on its thread. The kernel sends a
// process its parent-death signal when the thread that started it ends, so
// the thread has to live as long as the namespace is open. It never returns
// to the namespace it came from: still locked, it is destroyed.
func spawn(work <-chan func()) {
	for f := range work {
		f()
	}
}

// Close kills the processes started in the namespace and lets go of it. The
// kernel removes it once no socket is open in it any more. Closing again does
// nothing.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	var errs []error
	for _, cmd := range n.cmds {
		if err := cmd.Process.Kill(); err == nil {
			cmd.Process.Wait() // fails if the caller's cmd.Wait came first
		} else if !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("netlab: kill %s: %w", cmd.Path, err))
		}
	}
	if n.spawner != nil {
		close(n.spawner)
	}
	return errors.Join(append(errs, n.file.Close())...)
}

// As runs f with owner as the user and group of this thread that count for
// files: a socket remembers those of the thread that opened or accepted it.
func As(owner intercept.Owner, f func() error) error {
	self := intercept.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if owner == self {
		return f()
	}
	defer keepDumpable()()

	runtime.LockOSThread()
	err := setFSIDs(owner)
	if err == nil {
		err = f()
	}
	if back := setFSIDs(self); back != nil {
		return errors.Join(err, back) // locked still: the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// keepDumpable is for a thread about to change its user or group, or about to
// start a process that shares its memory until it has done so: that makes this
// whole process undumpable, and others lose the right to open Path
// (PR_SET_DUMPABLE in prctl(2)). The function it returns makes up for it.
func keepDumpable() (restore func()) {
	was := dumpable()
	return func() { unix.Prctl(unix.PR_SET_DUMPABLE, was, 0, 0, 0) }
}

// dumpable returns whether the process was dumpable when it was first asked.
// Later it may be another thread that is about to restore it.
var dumpable = sync.OnceValue(func() uintptr {
	v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || v != 1 { // 2 cannot be set
		return 0
	}
	return 1
})

// setFSIDs calls setfsgid(2) and setfsuid(2), which report no errors: they
// return the value there was, whether or not they changed it.
func setFSIDs(o intercept.Owner) error {
	const keep = 1<<32 - 1
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(o.GID), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(o.UID), 0, 0)
	gid, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, keep, 0, 0)
	uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, keep, 0, 0)
	if got := (intercept.Owner{UID: uint32(uid), GID: uint32(gid)}); got != o {
		return fmt.Errorf("become user %d and group %d for sockets: still %d and %d "+
			"(no CAP_SETUID and CAP_SETGID, or not mapped in the user namespace)", o.UID, o.GID, got.UID, got.GID)
	}
	return nil
}

func orRoot(o *intercept.Owner) intercept.Owner {
	if o == nil {
		return intercept.Owner{}
	}
	return *o
}
