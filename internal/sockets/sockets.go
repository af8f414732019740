// Package sockets lists who listens in the calling thread's network namespace.
package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

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
}

// Serves reports whether the socket gets what is sent to an address and port.
func (s Socket) Serves(to netip.AddrPort) bool {
	local := s.Local.Addr()
	return s.Local.Port() == to.Port() && (local == to.Addr() ||
		local == netip.IPv4Unspecified() && to.Addr().Is4() ||
		local == netip.IPv6Unspecified() && (to.Addr().Is6() || !s.V6Only))
}

// List lists the namespace's sockets of a protocol, TCP or UDP, those of IPv4
// first. Call it on a thread that is locked to the namespace. The error is
// [ruleset.ErrUnsupported] if the kernel has no sock_diag(7) for the protocol.
func List(p ruleset.Protocol) ([]Socket, error) {
	var all []Socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		replies, err := dump(p, family)
		if err != nil {
			return nil, fmt.Errorf("list the %s sockets of the namespace: %w", p, err)
		}
		for _, m := range replies {
			s, err := parse(m)
			if err != nil {
				return nil, fmt.Errorf("list the %s sockets of the namespace: %w", p, err)
			}
			all = append(all, s)
		}
	}
	return all, nil
}

// dump asks for the sockets of a family. The library's SocketDiagTCP and its
// siblings list those of every state, with every connection's statistics, and
// drop what is said of IPV6_V6ONLY.
func dump(p ruleset.Protocol, family uint8) ([][]byte, error) {
	const listening, closed = 10, 7 // TCP_LISTEN, TCP_CLOSE of net/tcp_states.h
	protocol, state := uint8(unix.IPPROTO_TCP), listening
	if p == ruleset.UDP {
		protocol, state = unix.IPPROTO_UDP, closed
	}
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	// struct inet_diag_req_v2 of linux/inet_diag.h. No address asks for all.
	message := make([]byte, 56)
	message[0], message[1] = family, protocol
	binary.NativeEndian.PutUint32(message[4:], 1<<state)
	req.AddRawData(message)
	replies, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	return replies, explain(err)
}

// explain tells apart a kernel without sock_diag: for a protocol, or at all.
func explain(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("%w: it has no sock_diag (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG): %w",
			ruleset.ErrUnsupported, err)
	}
	return err
}

// parse reads a struct inet_diag_msg of linux/inet_diag.h.
func parse(m []byte) (s Socket, err error) {
	const size = 72
	if len(m) < size {
		return s, fmt.Errorf("the kernel describes a socket in %d bytes, not %d", len(m), size)
	}
	addr := netip.AddrFrom16([16]byte(m[8:24])).Unmap()
	if m[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(m[8:12]))
	}
	s.Local = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:]))
	s.UID = binary.NativeEndian.Uint32(m[64:])
	attrs, err := nl.ParseRouteAttr(m[size:])
	for _, a := range attrs {
		s.V6Only = s.V6Only || a.Attr.Type == netlink.INET_DIAG_SKV6ONLY && len(a.Value) > 0 && a.Value[0] != 0
	}
	return s, err
}
