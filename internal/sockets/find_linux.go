package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/ruleset"
)

// FindPeer finds the namespace's socket of a connection by its peer alone, wherever the connection has come to. It
// knows gVisor's sockets, where nothing else tells that; elsewhere ok is false. Errors are those of [List].
func FindPeer(p ruleset.Protocol, peer netip.AddrPort) (s Socket, ok bool, err error) {
	if !gvisor.Here() {
		return s, false, nil
	}
	return findInProc(p, peer, func(netip.AddrPort) bool { return true })
}

func findInProc(p ruleset.Protocol, peer netip.AddrPort, is func(netip.AddrPort) bool) (s Socket, ok bool, err error) {
	all, err := readProc(p)
	for _, l := range all {
		if l.peer == peer && is(l.Local) {
			return l.Socket, true, err
		}
	}
	return s, false, err
}

// Find finds the namespace's socket of a connection, by its own end and its peer's. ok is false if there is none.
// Errors are those of [List].
func Find(p ruleset.Protocol, local, peer netip.AddrPort) (s Socket, ok bool, err error) {
	if gvisor.Here() {
		return findInProc(p, peer, func(l netip.AddrPort) bool { return l == local })
	}
	s, far, ok, err := ask(p, local, peer)
	// Where the connection has gone the kernel tells of the socket that listens.
	return s, ok && far == peer, err
}

// FindSender finds the namespace's socket that sends from an end to a peer, connected or not. ok is false if there is
// none. Errors are those of [List].
func FindSender(p ruleset.Protocol, local, peer netip.AddrPort) (s Socket, ok bool, err error) {
	if p != ruleset.UDP || gvisor.Here() {
		return Find(p, local, peer)
	}
	// Of UDP the kernel asks for the ends as of a packet that arrives (udp_dump_one in net/ipv4/udp_diag.c).
	s, _, ok, err = ask(p, peer, local)
	return s, ok && s.Local.Port() == local.Port(), err
}

// ask asks for one socket.
func ask(p ruleset.Protocol, local, peer netip.AddrPort) (s Socket, far netip.AddrPort, ok bool, err error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	message := make([]byte, 56)
	message[0], message[1] = unix.AF_INET, uint8(p)
	if local.Addr().Is6() {
		message[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(message[4:], 1<<32-1)
	// struct inet_diag_sockid of linux/inet_diag.h.
	id := message[8:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], peer.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], peer.Addr().AsSlice())
	for i := 40; i < 48; i++ {
		id[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	req.AddRawData(message)
	replies, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	switch {
	case errors.Is(err, unix.ENOENT):
		return s, far, false, nil
	case err != nil:
		return s, far, false, fmt.Errorf("find a %s socket of the namespace: %w", p, explain(err))
	case len(replies) == 0:
		return s, far, false, nil
	}
	s, far, err = parse(replies[0])
	return s, far, err == nil, err
}
