//go:build linux

package trial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Arrive listens at an address, opens a connection to another, and waits until that comes to where it listens, in the
// thread's namespace. It fails with [ErrAstray] if it does not, at the latest when ctx ends.
//
// The connection has a hop limit of 1: what nobody captures gets no further than the first router.
func Arrive(ctx context.Context, listen, to netip.AddrPort) error {
	server, err := arrivalSocket(listen)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(server) }()
	set := func(level, option, value int) {
		err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptInt(server, level, option, value)))
	}
	set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if listen.Addr().Is6() {
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(server, sockaddr(listen)))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(server, mostServed))
	}
	if err != nil {
		return fmt.Errorf("listen at %s: %w", listen, err)
	}
	client, err := arrivalSocket(to)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(client) }()
	if err := hops(client, to.Addr(), 1); err != nil {
		return err
	}
	if err := unix.Connect(client, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return astray(to, err)
	}
	own, open := local(client), time.Time{}
	for {
		waiting := []unix.PollFd{{Fd: int32(server), Events: unix.POLLIN}, {Fd: int32(client), Events: unix.POLLOUT}}
		if !open.IsZero() {
			waiting = waiting[:1]
		}
		if _, err := unix.Poll(waiting, int(pollFor.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		switch came, err := accepted(server, own); {
		case came:
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil, !open.IsZero() && time.Since(open) > comesWithin:
			if open.IsZero() {
				return astray(to, errors.New("nobody answered"))
			}
			return astray(to, errors.New("somebody else answered"))
		}
		if open.IsZero() && waiting[1].Revents != 0 {
			code, err := unix.GetsockoptInt(client, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				return os.NewSyscallError("getsockopt", err)
			}
			if code != 0 {
				return astray(to, unix.Errno(code))
			}
			open = time.Now()
		}
	}
}

const (
	// pollFor is how long one look takes at most, and so by how much the end of a context may be missed.
	pollFor = 20 * time.Millisecond
	// comesWithin is how much later a connection may arrive than the one who opened it learns that it is open.
	comesWithin = time.Second
)

// accepted accepts what there is, and reports whether one of them is from an address.
func accepted(server int, from netip.AddrPort) (bool, error) {
	for {
		fd, sa, err := unix.Accept4(server, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, os.NewSyscallError("accept", err)
		}
		_ = unix.Close(fd)
		if addrPort(sa) == from {
			return true, nil
		}
	}
}

func astray(to netip.AddrPort, err error) error { return AstrayError{to, err} }

func arrivalSocket(a netip.AddrPort) (fd int, err error) {
	domain := unix.AF_INET
	if a.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}
