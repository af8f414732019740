//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NetNS is an open network namespace: it is there as long as it is open, even if
// its pod has gone, and stays the same one whatever its path leads to later. The
// zero NetNS is the namespace of the thread that calls its methods. All methods
// may be called at the same time.
type NetNS struct {
	spec, path string
	file       *os.File // nil: the calling thread's
}

// own is the namespace of the thread that opens it. Not by the numbers of
// process and thread, as the library's Get has it: where /proc is that of
// another PID namespace they are somebody else's.
const own = "/proc/thread-self/ns/net"

// Open opens a network namespace. The spec is
//
//   - a path, which has a slash: /run/netns/web, /proc/4711/ns/net
//   - a name, as "ip netns" lists them: web
//   - pid:NUMBER, a process in it
//   - container:ID, a container in it, by 12 or more of the 64 hexadecimal digits
//     of its id; or as Kubernetes writes it: containerd://ID, cri-o://ID
//   - "" for that of the calling thread.
//
// Errors are of type [*Error]. The caller closes what is opened.
func Open(spec string) (*NetNS, error) {
	if spec == "" {
		return &NetNS{}, nil
	}
	t, err := parse(spec)
	if err != nil {
		return nil, err
	}
	return t.open()
}

// New makes a network namespace, with lo in it, down. It goes with the last who
// uses it: Close is enough. Errors are of type [*Error].
func New() (n *NetNS, err error) {
	err = apart(func() (err error, restored bool) {
		// The library's New opens it by its Get; see own.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return failed("make", target{}, err, "it takes CAP_SYS_ADMIN"), true
		}
		handle, err := netns.GetFromPath(own)
		if err != nil {
			return failed("open", target{spec: own}, err, ""), false
		}
		file := os.NewFile(uintptr(handle), own)
		path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), handle)
		n = &NetNS{path, path, file}
		return nil, false
	})
	return n, err
}

// Path is where the namespace was opened, such as /proc/4711/ns/net for
// pid:4711. That of one that [New] made is good for other processes, too, until
// it is closed. It is "" for the calling thread's own.
func (n *NetNS) Path() string { return n.path }

// IsOwn reports whether this is the namespace of whatever thread asks.
func (n *NetNS) IsOwn() bool { return n.file == nil }

// Close lets go of the namespace.
func (n *NetNS) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}

// Do runs fn in the namespace and returns its error, or one of type [*Error] if
// the namespace cannot be entered or left. fn runs on a thread of its own, which
// never goes back to other work unless it is back in the namespace it came from;
// in the calling thread's own namespace it runs on that thread. If fn panics, so
// does Do. To change threads and namespaces takes longer than most of what is
// done in one, so do all in one Do.
//
// fn must not start goroutines that count on the namespace: they run on threads
// elsewhere.
func (n *NetNS) Do(fn func() error) error {
	if n.file == nil {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		return fn()
	}
	return apart(func() (err error, restored bool) { return n.doLocked(fn) })
}

func (n *NetNS) doLocked(fn func() error) (err error, restored bool) {
	t := target{spec: n.spec, path: n.path}
	home, err := netns.GetFromPath(own)
	if err != nil {
		return failed("open", target{spec: own}, err, "mount /proc"), true
	}
	defer func() { _ = home.Close() }() // opened for reading
	if err := n.with(func(h netns.NsHandle) error { return netns.Set(h) }); err != nil {
		return failed("enter", t, err, "it takes CAP_SYS_ADMIN, in the user namespace that owns it, too"), true
	}
	err = fn()
	if back := netns.Set(home); back != nil {
		return errors.Join(err, failed("leave", t, back, "")), false
	}
	return err, true
}

// with runs fn with a handle that nobody closes meanwhile.
func (n *NetNS) with(fn func(netns.NsHandle) error) error {
	if n.file == nil {
		h, err := netns.GetFromPath(own)
		if err != nil {
			return err
		}
		defer func() { _ = h.Close() }() // opened for reading
		return fn(h)
	}
	raw, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if raw.Control(func(fd uintptr) { inner = fn(netns.NsHandle(fd)) }) != nil {
		return os.ErrClosed // the one error that Control has of its own
	}
	return inner
}

// Same reports whether two are the same namespace, by device and inode. It is
// false if that cannot be found out.
func (n *NetNS) Same(other *NetNS) bool {
	same := false
	err := n.with(func(a netns.NsHandle) error {
		return other.with(func(b netns.NsHandle) error {
			same = a.Equal(b)
			return nil
		})
	})
	return err == nil && same
}

// IsOfOwnUser reports whether the namespace belongs to the user namespace that
// the process is in.
func (n *NetNS) IsOfOwnUser() (is bool, err error) {
	err = n.with(func(h netns.NsHandle) error {
		fd, err := unix.IoctlRetInt(int(h), unix.NS_GET_USERNS)
		if errors.Is(err, unix.EPERM) {
			return nil // it is not below the process's own (ioctl_ns(2))
		}
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		var owner, own unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &owner), unix.Stat("/proc/self/ns/user", &own)); err != nil {
			return err
		}
		is = owner.Dev == own.Dev && owner.Ino == own.Ino
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("find the user namespace of the network namespace: %w", err)
	}
	return is, nil
}
