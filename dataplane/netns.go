package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/osthread"
)

// netns is an open network namespace, or the calling process's own.
type netns struct {
	path string
	file *os.File // nil: the process's own
}

// openNetNS opens the namespace at path. The caller closes it: an open file
// keeps the namespace of a dead pod alive.
func openNetNS(path string) (netns, error) {
	if path == "" {
		return netns{}, nil
	}
	// Not blocking, so that a FIFO in place of the namespace cannot hang us.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return netns{}, fmt.Errorf("%s: %w: there is no such file; the pod may be gone", path, ErrNotNetNS)
	case err != nil:
		return netns{}, fmt.Errorf("%s: %w: %w", path, ErrNotNetNS, err)
	}
	n := netns{path, os.NewFile(uintptr(fd), path)}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		_ = n.close()
		return netns{}, fmt.Errorf("%s: %w: it is a file of another kind; use a path such as /run/netns/NAME or /proc/PID/ns/net", path, ErrNotNetNS)
	}
	return n, nil
}

func (n netns) close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// do runs fn in the namespace. It is the one place that changes namespace: a
// goroutine of its own, locked to its thread, which never goes back to other
// work unless the thread is back in the namespace it came from. Everything that
// is done in a namespace is done in one do: from thread to thread and back
// takes longer than most of what is done there.
//
// fn must not start goroutines that count on the namespace: they run on threads
// elsewhere.
func (n netns) do(fn func() error) error {
	if n.file == nil {
		return fn()
	}
	return osthread.Apart(func() (err error, restored bool) { return n.doLocked(fn) })
}

func (n netns) doLocked(fn func() error) (err error, restored bool) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err, true
	}
	defer func() { _ = own.Close() }() // opened for reading
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w: it takes CAP_SYS_ADMIN", n.path, err), true
	}
	err = fn()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace %s: %w", n.path, back)), false
	}
	return err, true
}

// elsewhere runs fn in a new network namespace, which goes with it.
func elsewhere(fn func() error) error {
	return osthread.Apart(func() (err error, restored bool) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace to try in: %w", err), true
		}
		return fn(), false
	})
}

// lock waits until none of ours writes in the namespace of the calling thread,
// in whatever process. The lock is an abstract name of a UNIX socket (unix(7)):
// a network namespace has its own, they take no place in a file system, and the
// kernel lets go of one when the process ends.
//
// Each backend has a lock of its own or needs none. This one is for what takes
// several steps: routes and rules, or one backend's rules and another's.
func lock(wait time.Duration) (unlock func() error, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(wait); ; <-time.After(2 * time.Millisecond) {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@mesh-intercept"})
		switch {
		case err == nil:
			return func() error { return unix.Close(fd) }, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return nil, errors.Join(err, unix.Close(fd))
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("%w for %s", intercept.ErrLocked, wait), unix.Close(fd))
		}
	}
}

// isOfOwnUser reports whether the namespace belongs to the user namespace the
// process is in.
func (n netns) isOfOwnUser() (bool, error) {
	file := n.file
	if file == nil {
		own, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return false, err
		}
		defer func() { _ = own.Close() }()
		file = own
	}
	fd, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return false, nil // it is not below the process's own (ioctl_ns(2))
	}
	if err != nil {
		return false, fmt.Errorf("find the user namespace of the network namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var owner, own unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &owner), unix.Stat("/proc/self/ns/user", &own)); err != nil {
		return false, err
	}
	return owner.Dev == own.Dev && owner.Ino == own.Ino, nil
}

// isHost reports whether the calling thread is in the namespace that the system
// booted with. Linux shows net.core.dev_weight there alone
// (net/core/sysctl_net_core.c), and somaxconn everywhere.
func isHost() (bool, error) {
	if _, err := os.Stat("/proc/sys/net/core/somaxconn"); err != nil {
		return false, fmt.Errorf("cannot tell whether this is the host's own network namespace: %w; mount /proc, or allow it with --allow-host-netns", err)
	}
	_, err := os.Stat("/proc/sys/net/core/dev_weight")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("cannot tell whether this is the host's own network namespace: %w; allow it with --allow-host-netns", err)
	}
	return err == nil, nil
}
