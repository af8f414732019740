//go:build linux

package trial

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// open opens a probe's socket in the thread's namespace, bound to its source port, or the next that is not taken. It
// does not block.
func open(p verify.Probe, taken map[uint16]bool) (fd int, err error) {
	k := p.Packet
	domain, typ := unix.AF_INET, unix.SOCK_STREAM
	if k.Dst.Addr().Is6() {
		domain = unix.AF_INET6
	}
	if k.Protocol == ruleset.UDP {
		typ = unix.SOCK_DGRAM
	}
	owner := self()
	if k.Owner != nil {
		owner = *k.Owner
	}
	err = as(owner, func() error {
		fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return -1, err
	}
	if err := prepare(fd, p, taken); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func prepare(fd int, p verify.Probe, taken map[uint16]bool) error {
	k := p.Packet
	set := func(level, option, value int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
	}
	var err error
	if k.Mark != 0 {
		err = set(unix.SOL_SOCKET, unix.SO_MARK, int(k.Mark))
	}
	if err = errors.Join(err, hops(fd, k.Dst.Addr(), p.Hops)); err != nil {
		return err
	}
	src := k.Src
	if !p.Outside() && !isPassthrough(p) {
		src = netip.AddrPortFrom(unspecified(k.Dst.Addr()), k.Src.Port())
	}
	err = bind(fd, src, taken)
	if errors.Is(err, unix.EADDRINUSE) {
		// All linger, of very many that were tried before (TIME_WAIT). Most can be had again.
		if err := set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		err = bind(fd, src, nil)
	}
	return os.NewSyscallError("bind", err)
}

// bind binds a socket to an address and port, or to the next port that is neither taken nor in use.
func bind(fd int, src netip.AddrPort, taken map[uint16]bool) (err error) {
	err = unix.EADDRINUSE
	for range ports {
		if !taken[src.Port()] {
			err = unix.Bind(fd, sockaddr(src))
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			if taken != nil {
				taken[src.Port()] = true // no other probe has it, whatever its address
			}
			return err
		}
		src = netip.AddrPortFrom(src.Addr(), next(src.Port()))
	}
	return err
}

// isPassthrough reports whether a probe asks for a source of its own. A link-local one is what the kernel names for ::1
// where lo is down.
func isPassthrough(p verify.Probe) bool {
	src := p.Packet.Src.Addr()
	return p.Packet.Interface == ruleset.Loopback && src != p.Packet.Dst.Addr() && !src.IsLinkLocalUnicast()
}

// usualHops has the kernel choose the hop limit (ip(7), ipv6(7)).
const usualHops = -1

// hops sets the hop limit.
func hops(fd int, dst netip.Addr, n int) error {
	if dst.Is4() {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, n))
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n))
}

var ports = int(verify.SourcePorts.Last-verify.SourcePorts.First) + 1

func next(port uint16) uint16 {
	if port >= verify.SourcePorts.Last {
		return verify.SourcePorts.First
	}
	return port + 1
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// local is where a socket is bound.
func local(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
