// Package sockets lists who listens in the calling thread's network namespace,
// and the TCP connections there.
package sockets

import "net/netip"

// Socket is one that gets connections, or packets from anybody: a listening one
// of TCP, an unconnected one of UDP.
type Socket struct {
	// Local is where. Of an IPv6 socket that is bound to an IPv4 address it is
	// that.
	Local netip.AddrPort
	// UID is whose it is, as the process's user namespace counts.
	UID uint32
	// V6Only is whether an IPv6 socket refuses IPv4 (IPV6_V6ONLY of ipv6(7)).
	V6Only bool
	// Mark is its SO_MARK (socket(7)). The kernel tells it to CAP_NET_ADMIN alone.
	Mark uint32
	// Device is the interface that it is bound to (SO_BINDTODEVICE of socket(7)): it gets what comes by that alone. Empty: to
	// none, or it was not asked for: List does.
	Device string
	// Inode is its number among the files of its process. Zero: no process has it.
	Inode uint64
	// Pending is true of a connection that no process has accepted yet, and Opening of one whose handshake is not over at
	// this end (SYN_RECV): the listening socket still answers for it.
	Pending, Opening bool
}

// Serves reports whether the socket gets what is sent to an address and port.
func (s Socket) Serves(to netip.AddrPort) bool {
	local := s.Local.Addr()
	return s.Local.Port() == to.Port() && (local == to.Addr() ||
		local == netip.IPv4Unspecified() && to.Addr().Is4() ||
		local == netip.IPv6Unspecified() && (to.Addr().Is6() || !s.V6Only))
}

// Process is who has a socket.
type Process struct {
	PID  int
	Name string
	// UID and GID are the user and the group under which it opens files and sockets.
	UID, GID uint32
}
