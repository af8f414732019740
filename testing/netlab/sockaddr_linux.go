package netlab

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Domain returns the socket domain of an address.
func Domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Sockaddr returns an address as system calls take it. A zone is the name of an
// interface in the calling thread's network namespace; one that is not there is
// no zone.
func Sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	zone := uint32(0)
	if z := a.Addr().Zone(); z != "" {
		if dev, err := net.InterfaceByName(z); err == nil {
			zone = uint32(dev.Index)
		}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port()), ZoneId: zone}
}
