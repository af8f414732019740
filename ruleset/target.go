package ruleset

import (
	"fmt"
	"net/netip"
)

// Target is what happens to a packet: one of Accept, Return, Drop, Reject,
// Jump, Goto, Redirect, DNAT, Keep, TProxy, Divert, SetMark, SetConnMark and CTZone.
//
//sumtype:decl
type Target interface {
	isTarget()
	// String says the target in nft's words.
	String() string
}

// Accept ends the evaluation of the base chain and lets the packet on.
type Accept struct{}

// Return ends the evaluation of the chain. In a base chain, and in one
// reached by Goto from a base chain, the packet goes on untouched.
type Return struct{}

// Drop discards the packet.
type Drop struct{}

// Reject discards the packet and tells its sender: in a rule of TCP alone with
// a reset, else with an ICMP port unreachable message.
//
// A process that connects holds its socket's lock while the packet is on its
// way through the chains. The kernel throws away what ICMP says of such a
// socket (LockDroppedIcmps), and keeps a reset until the lock is free.
type Reject struct{}

// Jump continues in the named chain and comes back if that returns.
type Jump struct{ Chain string }

// Goto continues in the named chain and does not come back.
type Goto struct{ Chain string }

// Redirect sends the connection to a port of the local host, spread evenly if
// there are several. The original destination stays readable with
// SO_ORIGINAL_DST. A Proto of TCP or of UDP has to stand in the rule.
type Redirect struct{ Ports PortRange }

// DNAT sends the connection to another address and port. As a rule of both
// families it needs an IsFamily beside it.
type DNAT struct{ To netip.AddrPort }

// Keep leaves the connection its destination: NAT is decided, and no NAT chain that would be asked later is. A
// Proto of TCP or of UDP has to stand in the rule.
type Keep struct{}

// TProxy gives the packet to a transparent socket on a local port, source and
// destination unchanged, and marks it so that it is routed to the local host. The
// zero Mark leaves it without one, which does for a packet to an address of the
// host's own.
type TProxy struct {
	Port uint16
	Mark Mark
}

// Divert lets a packet on to the transparent socket, of this local port, that has its connection: what TProxy has given
// to it before. The kernel then finds the socket and the route of the connection by itself, which is quicker than
// TProxy. A SocketOpen that is Transparent has to stand in the rule.
type Divert struct{ Port uint16 }

// SetMark sets the masked bits of the packet's mark and goes on.
type SetMark Mark

// SetConnMark sets the masked bits of the connection's mark and goes on.
type SetConnMark Mark

// CTZone puts the conversation that the packet begins into a conntrack zone, and
// ends the evaluation of the chain. Only the original direction is in the zone,
// the other one is in the default zone: that is where answers and ICMP errors
// find it. A packet that itself answers a conversation of the default zone goes
// on with that one (resolve_normal_ct in net/netfilter/nf_conntrack_core.c). It
// has effect in raw chains only, before conntrack has seen the packet.
type CTZone struct{ Zone uint16 }

func (Accept) isTarget()      {}
func (Return) isTarget()      {}
func (Drop) isTarget()        {}
func (Reject) isTarget()      {}
func (Jump) isTarget()        {}
func (Goto) isTarget()        {}
func (Redirect) isTarget()    {}
func (DNAT) isTarget()        {}
func (Keep) isTarget()        {}
func (TProxy) isTarget()      {}
func (Divert) isTarget()      {}
func (SetMark) isTarget()     {}
func (SetConnMark) isTarget() {}
func (CTZone) isTarget()      {}

func (Accept) String() string     { return "accept" }
func (Return) String() string     { return "return" }
func (Drop) String() string       { return "drop" }
func (Reject) String() string     { return "reject" }
func (t Jump) String() string     { return "jump " + t.Chain }
func (t Goto) String() string     { return "goto " + t.Chain }
func (t Redirect) String() string { return "redirect to :" + t.Ports.String() }
func (t DNAT) String() string     { return "dnat to " + t.To.String() }
func (Keep) String() string       { return "keep the destination" }
func (t TProxy) String() string   { return fmt.Sprintf("tproxy to :%d", t.Port) }
func (t Divert) String() string   { return fmt.Sprintf("leave to the socket of :%d", t.Port) }
func (t SetMark) String() string  { return fmt.Sprintf("set mark %#x/%#x", t.Value, t.Mask) }
func (t SetConnMark) String() string {
	return fmt.Sprintf("set connection mark %#x/%#x", t.Value, t.Mask)
}
func (t CTZone) String() string { return fmt.Sprintf("conntrack zone %d", t.Zone) }
