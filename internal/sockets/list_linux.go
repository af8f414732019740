package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/ruleset"
)

// List lists the namespace's sockets of a protocol, TCP or UDP, those of IPv4
// first. Call it on a thread that is locked to the namespace. The error is
// [ruleset.ErrUnsupported] if the kernel has no sock_diag(7) for the protocol.
func List(p ruleset.Protocol) ([]Socket, error) {
	var all []Socket
	if gvisor.Here() {
		listed, err := readProc(p)
		for _, l := range listed {
			if waiting(p)&(1<<l.state) != 0 {
				all = append(all, l.Socket)
			}
		}
		return all, err
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		replies, err := dump(p, family, waiting(p))
		if err != nil {
			return nil, fmt.Errorf("list the %s sockets of the namespace: %w", p, err)
		}
		for _, m := range replies {
			s, _, err := parse(m)
			if err != nil {
				return nil, fmt.Errorf("list the %s sockets of the namespace: %w", p, err)
			}
			s.Device = device(m)
			all = append(all, s)
		}
	}
	return all, nil
}

// States of net/tcp_states.h, two of them as bits: they tell sockets that wait from others.
const (
	listening   = 1 << 10 // of TCP_LISTEN
	closed      = 1 << 7  // of TCP_CLOSE
	established = 1       // TCP_ESTABLISHED itself
	synReceived = 3       // TCP_SYN_RECV itself
)

// waiting are the states of sockets that get what anybody sends.
func waiting(p ruleset.Protocol) uint32 {
	if p == ruleset.UDP {
		return closed
	}
	return listening
}

// AnyTCP reports whether the namespace has any TCP socket, listening ones too: whether somebody is at work there.
// Errors are those of [List].
func AnyTCP() (bool, error) {
	if noneInUse() {
		return false, nil
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		replies, err := dump(ruleset.TCP, family, 1<<32-1)
		if err != nil {
			return false, fmt.Errorf("list the TCP sockets of the namespace: %w", err)
		}
		if len(replies) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Connections lists the namespace's TCP connections by what the pod sends on them, those that end among them, and none
// inside the pod. IPv4 is such even where the socket is one of IPv6. Errors are those of [List].
func Connections() (all []ruleset.Tuple, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		replies, err := dump(ruleset.TCP, family, 1<<32-1&^(listening|closed))
		if err != nil {
			return nil, fmt.Errorf("list the TCP connections of the namespace: %w", err)
		}
		for _, m := range replies {
			s, peer, err := parse(m)
			if err != nil {
				return nil, fmt.Errorf("list the TCP connections of the namespace: %w", err)
			}
			if !s.Local.Addr().IsLoopback() && !peer.Addr().IsLoopback() {
				all = append(all, ruleset.Tuple{Src: s.Local, Dst: peer})
			}
		}
	}
	return all, nil
}

// Untranslated lists the [Connections] that conntrack does not translate: with rules in force that capture what opens,
// those that are older than the rules. Where conntrack cannot be listed, it is all of them, and the error is
// [ruleset.ErrUnsupported]. Other errors are those of [List].
func Untranslated() ([]ruleset.Tuple, error) {
	return connectionsBut(func(_ ruleset.Tuple, is tracked) bool { return is == translated })
}

// GoingOn lists the [Connections] that rules in force let go, which stop what conntrack has forgotten: those that it
// knows and does not translate, and those of older, which the rules know. Where conntrack cannot be listed, it is all of
// them, and the error is [ruleset.ErrUnsupported]. Other errors are those of [List].
func GoingOn(older []ruleset.Tuple) ([]ruleset.Tuple, error) {
	let := map[ruleset.Tuple]bool{}
	for _, t := range older {
		let[t] = true
	}
	return connectionsBut(func(t ruleset.Tuple, is tracked) bool { return is == translated || is == unknown && !let[t] })
}

// tracked is what conntrack has of a connection.
type tracked uint8

const (
	unknown tracked = iota
	untranslated
	translated
)

// connectionsBut lists the [Connections] but those that are to be left out, by what conntrack has of them. Where that
// cannot be listed, none is left out.
func connectionsBut(leaveOut func(ruleset.Tuple, tracked) bool) ([]ruleset.Tuple, error) {
	connections, err := Connections()
	if err != nil || len(connections) == 0 {
		return nil, err
	}
	has := map[ruleset.Tuple]tracked{}
	for _, t := range connections {
		has[t] = unknown
	}
	note := func(t ruleset.Tuple, is tracked) {
		if _, asked := has[t]; asked {
			has[t] = is
		}
	}
	err = conntrack.Each(func(e conntrack.Entry) {
		if e.Original.Protocol != ruleset.TCP {
			return
		}
		sent, answered := ruleset.Tuple{Src: e.Original.Src, Dst: e.Original.Dst}, ruleset.Tuple{Src: e.Reply.Src, Dst: e.Reply.Dst}
		if sent != (ruleset.Tuple{Src: answered.Dst, Dst: answered.Src}) {
			note(sent, translated)
			return
		}
		note(sent, untranslated)
		note(answered, untranslated)
	})
	if errors.Is(err, ruleset.ErrUnsupported) {
		return connections, err
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(connections, func(t ruleset.Tuple) bool { return leaveOut(t, has[t]) }), nil
}

// dump asks for the sockets of a family. The library's SocketDiagTCP and its
// siblings list those of every state, with every connection's statistics, and
// drop what the kernel says about IPV6_V6ONLY.
func dump(p ruleset.Protocol, family uint8, states uint32) ([][]byte, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	// struct inet_diag_req_v2 of linux/inet_diag.h. No address asks for all.
	message := make([]byte, 56)
	message[0], message[1] = family, uint8(p)
	binary.NativeEndian.PutUint32(message[4:], states)
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

// device names the interface that a socket is bound to: a question to the kernel for each that is, so that connections
// are not asked about. m is one that parse has read.
func device(m []byte) string {
	index := int(binary.NativeEndian.Uint32(m[40:]))
	if index == 0 {
		return ""
	}
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return fmt.Sprintf("interface %d", index) // one that has gone
}

// parse reads a struct inet_diag_msg of linux/inet_diag.h, but for the Device.
func parse(m []byte) (s Socket, peer netip.AddrPort, err error) {
	const size = 72
	if len(m) < size {
		return s, peer, fmt.Errorf("the kernel describes a socket in %d bytes, not %d", len(m), size)
	}
	end := func(addr, port int) netip.AddrPort {
		a := netip.AddrFrom16([16]byte(m[addr : addr+16])).Unmap()
		if m[0] == unix.AF_INET {
			a = netip.AddrFrom4([4]byte(m[addr : addr+4]))
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(m[port:]))
	}
	s.Local, peer = end(8, 4), end(24, 6)
	s.UID, s.Inode = binary.NativeEndian.Uint32(m[64:]), uint64(binary.NativeEndian.Uint32(m[68:]))
	s.Pending, s.Opening = s.Inode == 0 && m[1] == established, m[1] == synReceived
	attrs, err := direct.UnmarshalAttributes(m[size:]) // the library's own panics at one whose padding is missing
	for _, a := range attrs {
		s.V6Only = s.V6Only || a.Type == netlink.INET_DIAG_SKV6ONLY && len(a.Data) > 0 && a.Data[0] != 0
		if a.Type == netlink.INET_DIAG_MARK && len(a.Data) >= 4 {
			s.Mark = binary.NativeEndian.Uint32(a.Data)
		}
	}
	return s, peer, err
}
