package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
	return findInProc(p, func(l listed) bool { return l.peer == peer })
}

// Find finds the namespace's socket of a connection, by its own end and its peer's. ok is false if there is none.
// Errors are those of [List].
func Find(p ruleset.Protocol, local, peer netip.AddrPort) (s Socket, ok bool, err error) {
	l, ok, err := ask(p, local, peer)
	if errors.Is(err, ruleset.ErrUnsupported) {
		return findInProc(p, func(l listed) bool { return l.Local == local && l.peer == peer })
	}
	// Where the connection has gone the kernel tells of the socket that listens.
	return l.Socket, ok && l.peer == peer, err
}

// FindSender finds the namespace's socket that sends from an end to a peer, connected or not. ok is false if there is
// none. Errors are those of [List].
func FindSender(p ruleset.Protocol, local, peer netip.AddrPort) (s Socket, ok bool, err error) {
	if p != ruleset.UDP {
		return Find(p, local, peer)
	}
	// Of UDP the kernel asks for the ends as of a packet that arrives (udp_dump_one in net/ipv4/udp_diag.c).
	l, ok, err := ask(p, peer, local)
	if errors.Is(err, ruleset.ErrUnsupported) {
		return findInProc(p, func(l listed) bool {
			return l.Local.Port() == local.Port() && (l.peer == peer || l.peer.Port() == 0)
		})
	}
	return l.Socket, ok && l.Local.Port() == local.Port(), err
}

// findInProc finds the first socket that is what is sought.
func findInProc(p ruleset.Protocol, is func(listed) bool) (s Socket, ok bool, err error) {
	all, err := readProc(p)
	if err != nil {
		return s, false, fmt.Errorf("find a %s socket of the namespace: %w", p, err)
	}
	i := slices.IndexFunc(all, is)
	if i < 0 {
		return s, false, nil
	}
	return all[i].Socket, true, nil
}

// ask asks sock_diag for one socket.
func ask(p ruleset.Protocol, local, peer netip.AddrPort) (l listed, ok bool, err error) {
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
	if errors.Is(err, unix.ENOENT) {
		// There is no such socket, or nobody who knows those of the protocol: nobody lists sockets in none of the states.
		_, err = ofDiag(p, 0)
		return l, false, err
	}
	if err != nil {
		return l, false, fmt.Errorf("find a %s socket of the namespace: %w", p, explain(err))
	}
	if len(replies) == 0 {
		return l, false, nil
	}
	l, err = parse(replies[0])
	return l, err == nil, err
}
