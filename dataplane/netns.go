package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

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
