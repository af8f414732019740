package ruleset

import (
	"fmt"
	"strings"
)

// Match is a condition on a packet: one of Proto, SrcPort, DstPort, Src, Dst,
// InInterface, OutInterface, UID, GID, MetaMark, ConnMark, CTState, TCPFlags,
// IsFamily and Not. A match on a list holds if any item does; on an empty
// list it never holds.
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

// TCPFlags matches a TCP header's flags: flags & Mask == Value. A Proto of
// TCP has to stand before it in the same rule.
type TCPFlags struct{ Mask, Value uint8 }

// The TCP header's flags (RFC 9293, section 3.1).
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
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
func (Not) isMatch()          {}

func (m Proto) String() string        { return "protocol " + listString(m, Protocol.String) }
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
