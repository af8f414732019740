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
	"github.com/mesh-intercept/intercept/ruleset"
)

// List lists the namespace's sockets of a protocol, TCP or UDP, those of IPv4
// first. Call it on a thread that is locked to the namespace.
func List(p ruleset.Protocol) ([]Socket, error) {
	all, err := inStates(p, waiting(p))
	list := make([]Socket, len(all))
	for i, l := range all {
		list[i] = l.Socket
		list[i].Device = device(l.device)
	}
	return list, err
}

// States of net/tcp_states.h, most of them as bits.
const (
	established = 1       // TCP_ESTABLISHED itself
	synReceived = 3       // TCP_SYN_RECV itself
	closed      = 1 << 7  // of TCP_CLOSE
	listening   = 1 << 10 // of TCP_LISTEN
	// connected are those of connections: not of a socket that waits, that is bound alone, or that has sent all and is there
	// lest what the other end sends again is unknown (TCP_TIME_WAIT).
	connected = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11 | 1<<12
	whatever  = 1<<32 - 1
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
	all, err := inStates(ruleset.TCP, whatever)
	return len(all) > 0, err
}

// Connections lists the namespace's TCP connections by what the pod sends on them, those that end among them, and none
// inside the pod. IPv4 is such even where the socket is one of IPv6. Errors are those of [List].
func Connections() (all []ruleset.Tuple, err error) {
	open, err := inStates(ruleset.TCP, connected)
	for _, l := range open {
		if !l.Local.Addr().IsLoopback() && !l.peer.Addr().IsLoopback() {
			all = append(all, ruleset.Tuple{Src: l.Local, Dst: l.peer})
		}
	}
	return all, err
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
		sent := ruleset.Tuple{Src: e.Original.Src, Dst: e.Original.Dst}
		if e.Reply != e.Original.Reverse() {
			note(sent, translated)
			return
		}
		note(sent, untranslated)
		note(ruleset.Tuple{Src: e.Reply.Src, Dst: e.Reply.Dst}, untranslated)
	})
	if errors.Is(err, ruleset.ErrUnsupported) {
		return connections, err
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(connections, func(t ruleset.Tuple) bool { return leaveOut(t, has[t]) }), nil
}

// inStates lists the sockets of a protocol that are in one of the states, by sock_diag(7). Where the kernel has none for
// the protocol, as gVisor has none, they are as proc_pid_net(5) shows them: of no device, no mark, and without V6Only.
func inStates(p ruleset.Protocol, states uint32) ([]listed, error) {
	all, err := ofDiag(p, states)
	if errors.Is(err, ruleset.ErrUnsupported) {
		all, err = readProc(p)
		all = slices.DeleteFunc(all, func(l listed) bool { return states&(1<<l.state) == 0 })
	}
	if err != nil {
		return nil, fmt.Errorf("list the %s sockets of the namespace: %w", p, err)
	}
	return all, nil
}

// ofDiag asks sock_diag for both families. The library's SocketDiagTCP and its
// siblings list the sockets of every state, with every connection's statistics, and
// drop what the kernel says about IPV6_V6ONLY.
func ofDiag(p ruleset.Protocol, states uint32) (all []listed, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		// struct inet_diag_req_v2 of linux/inet_diag.h. No address asks for all.
		message := make([]byte, 56)
		message[0], message[1] = family, uint8(p)
		binary.NativeEndian.PutUint32(message[4:], states)
		req.AddRawData(message)
		replies, err := req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		if err != nil {
			return nil, explain(err)
		}
		for _, m := range replies {
			l, err := parse(m)
			if err != nil {
				return nil, err
			}
			all = append(all, l)
		}
	}
	return all, nil
}

// explain tells apart a kernel without sock_diag: for a protocol, or at all.
func explain(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("%w: it has no sock_diag (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG): %w",
			ruleset.ErrUnsupported, err)
	}
	return err
}

// device names the interface that a socket is bound to. That is a question to the kernel.
func device(index uint32) string {
	if index == 0 {
		return ""
	}
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return fmt.Sprintf("interface %d", index) // one that has gone
}

// listed is a socket as the kernel lists it. Its Device is not known yet, but the number of that.
type listed struct {
	Socket
	peer   netip.AddrPort
	state  uint8
	device uint32
}

// is notes the state, and what follows from it and the Inode.
func (l *listed) is(state uint8) {
	l.state, l.Pending, l.Opening = state, l.Inode == 0 && state == established, state == synReceived
}

// parse reads a struct inet_diag_msg of linux/inet_diag.h.
func parse(m []byte) (l listed, err error) {
	const size = 72
	if len(m) < size {
		return l, fmt.Errorf("the kernel describes a socket in %d bytes, not %d", len(m), size)
	}
	end := func(addr, port int) netip.AddrPort {
		a := netip.AddrFrom16([16]byte(m[addr : addr+16])).Unmap()
		if m[0] == unix.AF_INET {
			a = netip.AddrFrom4([4]byte(m[addr : addr+4]))
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(m[port:]))
	}
	l.Local, l.peer = end(8, 4), end(24, 6)
	l.device = binary.NativeEndian.Uint32(m[40:])
	l.UID, l.Inode = binary.NativeEndian.Uint32(m[64:]), uint64(binary.NativeEndian.Uint32(m[68:]))
	l.is(m[1])
	attrs, err := direct.UnmarshalAttributes(m[size:]) // the library's own panics at one whose padding is missing
	for _, a := range attrs {
		l.V6Only = l.V6Only || a.Type == netlink.INET_DIAG_SKV6ONLY && len(a.Data) > 0 && a.Data[0] != 0
		if a.Type == netlink.INET_DIAG_MARK && len(a.Data) >= 4 {
			l.Mark = binary.NativeEndian.Uint32(a.Data)
		}
	}
	return l, err
}
