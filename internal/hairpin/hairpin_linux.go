package hairpin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

func verify(ctx context.Context, c intercept.Config, to netip.AddrPort) error {
	direct, err := listen(to)
	if err != nil {
		return fmt.Errorf("listen at %s, to see calls that are not captured: %w; name another port", to, err)
	}
	defer closed(direct)
	inbound, err := listen(netip.AddrPortFrom(localhost(to.Addr()), c.Inbound.Port.First))
	if err != nil {
		inbound = none // taken: the proxy is up
	}
	defer closed(inbound)
	for {
		found, captured := call(c.Inbound.Mode == intercept.InboundTProxy, to, direct, inbound)
		if captured {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: a call of the proxy's to %s %s, and should come to the inbound port %s", ErrNotCaptured, to,
				found, c.Inbound.Port)
		case <-time.After(wait / 5):
		}
	}
}

// none is no socket.
const none = -1

func closed(fd int) {
	if fd != none {
		_ = unix.Close(fd)
	}
}

func socket(like netip.Addr) (fd int, err error) {
	domain := unix.AF_INET
	if like.Is6() {
		domain = unix.AF_INET6
	}
	fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

func listen(at netip.AddrPort) (fd int, err error) {
	if fd, err = socket(at.Addr()); err != nil {
		return none, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(at)))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, 16))
	}
	if err != nil {
		closed(fd)
		return none, err
	}
	return fd, nil
}

// call calls, and says what became of it.
func call(tproxy bool, to netip.AddrPort, direct, inbound int) (found string, captured bool) {
	fd, err := socket(to.Addr())
	if err != nil {
		return err.Error(), false
	}
	defer closed(fd)
	if err = unix.Connect(fd, sockaddr(to)); errors.Is(err, unix.EINPROGRESS) {
		if !ready(fd, unix.POLLOUT, wait) {
			return "is dropped", tproxy
		}
		var errno int
		if errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
	}
	if err != nil {
		return "fails: " + err.Error(), false
	}
	switch {
	case accepts(direct, fd):
		return "arrives there", false
	case inbound == none, tproxy:
		return "", true // the proxy has it
	}
	return "arrives at neither port", accepts(inbound, fd)
}

// accepts reports whether a connection has come to a listener.
func accepts(listener, conn int) bool {
	local, err := unix.Getsockname(conn)
	for err == nil && ready(listener, unix.POLLIN, wait/5) {
		got, from, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return false
		}
		closed(got)
		if port(from) == port(local) {
			return true
		}
	}
	return false
}

// ready waits for an event of a socket.
func ready(fd int, event int16, atMost time.Duration) bool {
	end := time.Now().Add(atMost)
	for {
		left := time.Until(end)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, int(max(left, 0).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func port(a unix.Sockaddr) int {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}
