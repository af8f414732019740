package ruleset

import (
	"fmt"
	"net/netip"
	"strings"
)

// Match is a condition on a packet: one of Proto, SrcPort, DstPort, Src, Dst,
// InInterface, OutInterface, UID, GID, HasSocket, SocketOpen, MetaMark, ConnMark, CTState, CTDNAT, CTDirection,
// ToLocal, Length, TCPFlags, TCPHeader, MPTCP, ICMPEcho, ICMPQuote, Older, IsFamily and Not. A match on a list holds if
// any item does; on an empty list it never holds.
//
//sumtype:decl
type Match interface {
	isMatch()
	// String says the condition in words close to nft's.
	String() string
}

// Proto matches the transport protocol.
type Proto []Protocol

// SrcPort matches the source port. A Proto with TCP, UDP or both has to stand
// before it in the same rule.
type SrcPort Ports

// DstPort matches the destination port. A Proto with TCP, UDP or both has to
// stand before it in the same rule.
type DstPort Ports

// Src matches the source address.
type Src CIDRs

// Dst matches the destination address.
type Dst CIDRs

// InInterface matches the interface a packet arrived by: a name, or the
// beginning of one and a `*`.
type InInterface string

// OutInterface matches the interface a packet leaves by: a name, or the
// beginning of one and a `*`.
type OutInterface string

// UID matches the user that opened the packet's socket. A packet without a
// socket never matches. Under Not it is refused: xtables and nftables do not
// agree on what the negation says of a packet without a socket.
type UID IDs

// GID matches the group that opened the packet's socket, as UID does the user.
type GID IDs

// MetaMark matches the packet's mark, which is its socket's unless a rule has set another: mark & Mask == Value.
type MetaMark Mark

// ConnMark matches the connection's mark: mark & Mask == Value.
type ConnMark Mark

// CTState matches conntrack's state of the packet: any of those set.
type CTState uint8

// The states of conntrack, with the bits of linux/netfilter/nf_conntrack_common.h.
const (
	CTInvalid     CTState = 1
	CTEstablished CTState = 2
	CTRelated     CTState = 4
	CTNew         CTState = 8
)

// CTDNAT matches packets of a connection whose destination has been translated, by a rule of ours or of anybody's
// (IPS_DST_NAT in linux/netfilter/nf_conntrack_common.h), in both directions. A packet that conntrack calls invalid
// never matches. Under Not it is refused, for nftables and xtables do not agree on what that says of such a packet.
type CTDNAT struct{}

// CTDirection matches the direction of the packet in what conntrack takes for its connection. A packet that conntrack
// calls invalid has none.
type CTDirection uint8

// The directions: of the packet that made the entry, and the other one.
const (
	CTOriginal CTDirection = iota + 1
	CTReply
)

// HasSocket matches packets whose socket a process has open: those that have an owner, whoever it is. Sockets that the
// kernel opens for itself have none. Under Not it is refused, as UID is.
type HasSocket struct{}

// SocketOpen matches arriving packets for which this host has a socket open, bound to any address or to that of the
// packet. It is asked at hook input. With Transparent it is a socket with the option IP_TRANSPARENT, and may be asked at
// hook prerouting, too; whether one that listens at any address is one of those is for the backend to say.
type SocketOpen struct{ Transparent bool }

// ToLocal matches packets to an address of this host. It is asked at hook prerouting.
type ToLocal struct{}

// Length matches the length of the whole packet in bytes, as its IP header says it.
type Length uint16

// TCPHeader matches the length of the TCP header, in words of four bytes: 5 without options. A Proto of TCP has to
// stand before it in the same rule.
type TCPHeader uint8

// MPTCP matches TCP packets with an option of Multipath TCP (kind 30, RFC 8684, section 3), such as the SYN by which
// the kernel adds a subflow to a connection. A Proto of TCP has to stand before it in the same rule.
type MPTCP struct{}

// ICMPEcho matches echo requests of ICMP and ICMPv6 (RFC 792, RFC 4443), or with Extended those that are called so (RFC
// 8335): a process needs no privilege for either (ping_supported in net/ipv4/ping.c). A Proto of ICMP, ICMPv6 or both
// has to stand before it in the same rule.
type ICMPEcho struct{ Extended bool }

// ICMPQuote matches errors of ICMP and ICMPv6 that are about a UDP datagram from a port: the beginning of it stands in
// the error (RFC 792, RFC 4443). A datagram with IP options or extension headers is not known. A Proto of ICMP, ICMPv6
// or both has to stand before it in the same rule.
type ICMPQuote struct{ SrcPort uint16 }

// Tuple is one direction of a connection: where its packets come from and where they go.
type Tuple struct{ Src, Dst netip.AddrPort }

// String returns "10.244.0.5:40000 > 203.0.113.10:443".
func (t Tuple) String() string { return t.Src.String() + " > " + t.Dst.String() }

// Older matches the packets that the pod sends on the TCP connections of [Ruleset.Older] and, as long as
// [Ruleset.Settling] says, on every one.
type Older struct{}

// TCPFlags matches a TCP header's flags: flags & Mask == Value. A Proto of
// TCP has to stand in the same rule. Behind it, it is not asked of the packets that have other flags, which is quicker
// where few have those.
type TCPFlags struct{ Mask, Value uint8 }

// The TCP header's flags (RFC 9293, section 3.1).
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Opens matches the packet that opens a TCP connection: xtables' --syn.
func Opens() TCPFlags { return TCPFlags{Mask: FIN | SYN | RST | ACK, Value: SYN} }

// IsFamily matches packets of one address family.
type IsFamily Family

// Not matches what Match does not. Not of an address list holds for packets
// of a family of which the list has no item.
type Not struct{ Match Match }

func (Proto) isMatch()        {}
func (SrcPort) isMatch()      {}
func (DstPort) isMatch()      {}
func (Src) isMatch()          {}
func (Dst) isMatch()          {}
func (InInterface) isMatch()  {}
func (OutInterface) isMatch() {}
func (UID) isMatch()          {}
func (GID) isMatch()          {}
func (MetaMark) isMatch()     {}
func (ConnMark) isMatch()     {}
func (CTState) isMatch()      {}
func (TCPFlags) isMatch()     {}
func (IsFamily) isMatch()     {}
func (CTDNAT) isMatch()       {}
func (CTDirection) isMatch()  {}
func (HasSocket) isMatch()    {}
func (SocketOpen) isMatch()   {}
func (ToLocal) isMatch()      {}
func (Length) isMatch()       {}
func (TCPHeader) isMatch()    {}
func (MPTCP) isMatch()        {}
func (ICMPEcho) isMatch()     {}
func (ICMPQuote) isMatch()    {}
func (Older) isMatch()        {}
func (Not) isMatch()          {}

func (m Proto) String() string {
	return "protocol " + listString(m, func(b []byte, p Protocol) []byte { return append(b, p.String()...) })
}
func (m SrcPort) String() string      { return "source port " + Ports(m).String() }
func (m DstPort) String() string      { return "port " + Ports(m).String() }
func (m Src) String() string          { return "source " + CIDRs(m).String() }
func (m Dst) String() string          { return "destination " + CIDRs(m).String() }
func (m InInterface) String() string  { return "arriving by " + string(m) }
func (m OutInterface) String() string { return "leaving by " + string(m) }
func (m UID) String() string          { return "UID " + IDs(m).String() }
func (m GID) String() string          { return "GID " + IDs(m).String() }
func (m MetaMark) String() string     { return fmt.Sprintf("mark %#x/%#x", m.Value, m.Mask) }
func (m ConnMark) String() string     { return fmt.Sprintf("connection mark %#x/%#x", m.Value, m.Mask) }
func (m IsFamily) String() string     { return Family(m).String() }
func (m Not) String() string          { return "not " + m.Match.String() }
func (CTDNAT) String() string         { return "of a translated connection" }
func (HasSocket) String() string      { return "with an owner" }
func (ToLocal) String() string        { return "to an address of the pod" }
func (m Length) String() string       { return fmt.Sprintf("of %d bytes", uint16(m)) }
func (m TCPHeader) String() string    { return fmt.Sprintf("TCP header of %d bytes", 4*uint(m)) }
func (MPTCP) String() string          { return "with an option of Multipath TCP" }
func (m ICMPQuote) String() string    { return fmt.Sprintf("an error about UDP from port %d", m.SrcPort) }
func (Older) String() string          { return "of a connection that is older than the rules" }

func (m SocketOpen) String() string {
	if m.Transparent {
		return "for an open transparent socket"
	}
	return "for an open socket"
}

func (m ICMPEcho) String() string {
	if m.Extended {
		return "an extended echo request"
	}
	return "an echo request"
}

func (m CTDirection) String() string {
	if m == CTReply {
		return "of the reply direction"
	}
	return "of the original direction"
}

func (m CTState) String() string {
	var s []string
	for _, b := range []struct {
		bit  CTState
		name string
	}{{CTInvalid, "invalid"}, {CTNew, "new"}, {CTEstablished, "established"}, {CTRelated, "related"}} {
		if m&b.bit != 0 {
			s = append(s, b.name)
		}
	}
	return "connection state " + strings.Join(s, ",")
}

func (m TCPFlags) String() string {
	if m == Opens() {
		return "opens a TCP connection"
	}
	return fmt.Sprintf("TCP flags %#x/%#x", m.Value, m.Mask)
}
