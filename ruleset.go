package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Ruleset is everything interception needs from the kernel, as plain data.
// [Compile] makes one; the packages nft and iptables put it into the kernel;
// [Ruleset.Trace] says what it does to a packet.
type Ruleset struct {
	// Families are the address families the rules are written for. Packets of
	// another family meet none of them.
	Families []Family
	Chains   []Chain
	// Routes are marked packets to deliver locally. They need a routing rule
	// and a route beside the chains.
	Routes []MarkRoute
}

// Family is an address family.
type Family uint8

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// MarkRoute delivers packets that carry a mark to this host, whatever their
// destination (ip-rule(8) fwmark, and a route of type local in Table).
type MarkRoute struct {
	Mark  Mark
	Table uint32
}

// Chain is a list of rules. A base chain (one with a Hook) is where packets
// enter; another is reached by [Goto] or [Jump].
type Chain struct {
	Name     string
	Hook     Hook      // zero: not a base chain
	Priority Priority  // of a base chain
	Type     ChainType // NAT rules stand in NAT chains, base or not
	Rules    []Rule
}

// Hook is a point on a packet's way through the network stack.
type Hook uint8

// The hooks that interception uses (linux/netfilter.h).
const (
	Prerouting Hook = iota + 1 // a packet has arrived
	Input                      // it is for this host
	Forward                    // it is for another
	Output                     // a local process has sent a packet
)

// String returns nft's word for the hook.
func (h Hook) String() string {
	switch h {
	case Prerouting:
		return "prerouting"
	case Input:
		return "input"
	case Forward:
		return "forward"
	case Output:
		return "output"
	}
	return fmt.Sprintf("hook(%d)", uint8(h))
}

// Priority orders the base chains of one hook; the smallest comes first.
type Priority int32

// The priorities of the xtables of the same names (linux/netfilter_ipv4.h).
// A chain at one of them can be expressed by every backend.
const (
	PriorityRaw    Priority = -300 // before conntrack, at -200
	PriorityMangle Priority = -150
	PriorityDstNAT Priority = -100
	PriorityFilter Priority = 0
)

// ChainType is nft's type of a chain.
type ChainType uint8

const (
	// FilterChain sees every packet.
	FilterChain ChainType = iota
	// NATChain sees the first packet of every connection. What it decides
	// holds for the connection, in both directions.
	NATChain
	// RouteChain sees every packet and has it routed again when its mark changed.
	RouteChain
)

// String returns nft's word for the type.
func (t ChainType) String() string {
	switch t {
	case FilterChain:
		return "filter"
	case NATChain:
		return "nat"
	case RouteChain:
		return "route"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// Rule applies Target to the packets that satisfy all of Match.
type Rule struct {
	// Line is the line of the policy that the rule enforces: "O1" to "O14"
	// for outbound, "I1" to "I8" for inbound. See docs/policy.md.
	Line string
	// Reason says in a few words why the rule exists.
	Reason string
	Match  []Match
	Target Target
}

// Comment is what stands beside the rule in the kernel, in errors and in
// explanations: its line and its reason.
func (r Rule) Comment() string { return r.Line + ": " + r.Reason }

// MaxComment is the greatest length of a rule's comment in bytes. nft(8)
// refuses longer ones (NFTNL_UDATA_COMMENT_MAXLEN in libnftnl).
const MaxComment = 128

// Match is a condition on a packet: one of Proto, SrcPort, DstPort, Src, Dst,
// InInterface, OutInterface, UID, GID, Mark, ConnMark, CTState, TCPFlags,
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

// Mark matches the packet's mark: mark & Mask == Value.
type Mark struct{ Value, Mask uint32 }

// ConnMark matches the connection's mark: mark & Mask == Value.
type ConnMark struct{ Value, Mask uint32 }

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
func (Mark) isMatch()         {}
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
func (m Mark) String() string         { return fmt.Sprintf("mark %#x/%#x", m.Value, m.Mask) }
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

// Target is what happens to a packet: one of Accept, Return, Drop, Reject,
// Jump, Goto, Redirect, DNAT, TProxy, SetMark, SetConnMark and CTZone.
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

// TProxy gives the packet to a transparent socket on a local port, source and
// destination unchanged, and marks it so that it is routed to the local host.
type TProxy struct {
	Port uint16
	Mark Mark
}

// SetMark sets the masked bits of the packet's mark and goes on.
type SetMark struct{ Value, Mask uint32 }

// SetConnMark sets the masked bits of the connection's mark and goes on.
type SetConnMark struct{ Value, Mask uint32 }

// CTZone puts the packet into a conntrack zone and ends the evaluation of the
// chain. It has effect in raw chains only, before conntrack has seen the packet.
type CTZone struct{ Zone uint16 }

func (Accept) isTarget()      {}
func (Return) isTarget()      {}
func (Drop) isTarget()        {}
func (Reject) isTarget()      {}
func (Jump) isTarget()        {}
func (Goto) isTarget()        {}
func (Redirect) isTarget()    {}
func (DNAT) isTarget()        {}
func (TProxy) isTarget()      {}
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
func (t TProxy) String() string   { return fmt.Sprintf("tproxy to :%d", t.Port) }
func (t SetMark) String() string  { return fmt.Sprintf("set mark %#x/%#x", t.Value, t.Mask) }
func (t SetConnMark) String() string {
	return fmt.Sprintf("set connection mark %#x/%#x", t.Value, t.Mask)
}
func (t CTZone) String() string { return fmt.Sprintf("conntrack zone %d", t.Zone) }

// OnlyTCP reports whether the rule is of TCP alone.
func (r Rule) OnlyTCP() bool {
	return slices.ContainsFunc(r.Match, func(m Match) bool {
		p, is := m.(Proto)
		return is && len(p) == 1 && p[0] == TCP
	})
}

// For returns the rule as it reads for packets of one family: address lists
// hold that family's items only, and a condition that always holds is gone.
// ok is false if the rule can match no packet of the family.
func (r Rule) For(f Family) (_ Rule, ok bool) {
	match := make([]Match, 0, len(r.Match))
	for _, m := range r.Match {
		inner, negated := m, false
		if n, is := m.(Not); is {
			inner, negated = n.Match, true
		}
		always, never := false, false
		switch in := inner.(type) {
		case Src:
			in = Src(CIDRs(in).Of(f))
			never, inner = len(in) == 0, in
		case Dst:
			in = Dst(CIDRs(in).Of(f))
			never, inner = len(in) == 0, in
		case IsFamily:
			always, never = Family(in) == f, Family(in) != f
		case Proto, SrcPort, DstPort, InInterface, OutInterface, UID, GID, Mark, ConnMark, CTState, TCPFlags, Not:
			// They read the same for both families.
		}
		if negated {
			always, never = never, always
			inner = Not{inner}
		}
		switch {
		case never:
			return Rule{}, false
		case always:
		default:
			match = append(match, inner)
		}
	}
	if t, is := r.Target.(DNAT); is && FamilyOf(t.To.Addr()) != f {
		return Rule{}, false
	}
	r.Match = match
	return r, true
}

// IsFamilySpecific reports whether the rule reads differently for IPv4 and IPv6.
func (r Rule) IsFamilySpecific() bool {
	if _, is := r.Target.(DNAT); is {
		return true
	}
	return slices.ContainsFunc(r.Match, func(m Match) bool {
		if n, is := m.(Not); is {
			m = n.Match
		}
		switch m.(type) {
		case Src, Dst, IsFamily:
			return true
		case Proto, SrcPort, DstPort, InInterface, OutInterface, UID, GID, Mark, ConnMark, CTState, TCPFlags, Not:
		}
		return false
	})
}

// AsksForOwner reports whether any rule asks for the owner of a packet's socket.
func (rs Ruleset) AsksForOwner() bool {
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			for _, m := range r.Match {
				_, isUID := m.(UID)
				_, isGID := m.(GID)
				if isUID || isGID {
					return true
				}
			}
		}
	}
	return false
}

// Check reports what every backend would stumble over: a rule that depends on
// a protocol it does not ask for, a negation that backends read differently,
// an address translation outside a NAT chain, a jump to nowhere, an empty
// list, an over-long comment. Compile's rulesets have none of it.
func (rs Ruleset) Check() error {
	chains := map[string]Chain{}
	var errs []error
	for _, c := range rs.Chains {
		if _, dup := chains[c.Name]; dup {
			errs = append(errs, fmt.Errorf("chain %s: defined twice", c.Name))
		}
		chains[c.Name] = c
	}
	for _, c := range rs.Chains {
		for i, r := range c.Rules {
			if err := r.check(c, chains); err != nil {
				errs = append(errs, fmt.Errorf("chain %s, rule %d (%s): %w", c.Name, i+1, r.Comment(), err))
			}
		}
	}
	return errors.Join(errs...)
}

func (r Rule) check(c Chain, chains map[string]Chain) error {
	if n := len(r.Comment()); n > MaxComment {
		return fmt.Errorf("comment of %d bytes, over %d", n, MaxComment)
	}
	var protos Proto
	for _, m := range r.Match {
		inner, negated := m, false
		if n, is := m.(Not); is {
			inner, negated = n.Match, true
		}
		empty := false
		switch in := inner.(type) {
		case Proto:
			empty = len(in) == 0
			if !negated {
				protos = in
			}
		case SrcPort:
			empty = len(in) == 0
			if !protos.hasPorts() {
				return errors.New("a port without a protocol that has ports")
			}
		case DstPort:
			empty = len(in) == 0
			if !protos.hasPorts() {
				return errors.New("a port without a protocol that has ports")
			}
		case TCPFlags:
			if len(protos) != 1 || protos[0] != TCP {
				return errors.New("TCP flags without protocol TCP")
			}
		case Src:
			empty = len(in) == 0
		case Dst:
			empty = len(in) == 0
		case UID:
			empty = len(in) == 0
			if negated {
				return errors.New("a negated owner, on which backends disagree for packets without a socket")
			}
		case GID:
			empty = len(in) == 0
			if negated {
				return errors.New("a negated owner, on which backends disagree for packets without a socket")
			}
		case InInterface, OutInterface, Mark, ConnMark, CTState, IsFamily:
		case Not:
			return errors.New("a negation of a negation")
		default:
			return fmt.Errorf("unknown match %T", in)
		}
		if empty {
			return fmt.Errorf("%T with an empty list", inner)
		}
	}
	switch t := r.Target.(type) {
	case Redirect, DNAT:
		if c.Type != NATChain {
			return fmt.Errorf("%s outside a NAT chain", t)
		}
		return protos.checkOne(t)
	case TProxy:
		if c.Type == NATChain {
			return fmt.Errorf("%s in a NAT chain, which sees the first packet alone", t)
		}
		return protos.checkOne(t)
	case Jump:
		return checkJump(c, chains, t.Chain)
	case Goto:
		return checkJump(c, chains, t.Chain)
	case Accept, Return, Drop, Reject, SetMark, SetConnMark, CTZone:
	default:
		return fmt.Errorf("unknown target %T", t)
	}
	return nil
}

func checkJump(c Chain, chains map[string]Chain, name string) error {
	to, ok := chains[name]
	switch {
	case !ok:
		return fmt.Errorf("continues in chain %q, which does not exist", name)
	case to.Hook != 0:
		return fmt.Errorf("continues in chain %q, which is a base chain", name)
	case to.Type != c.Type:
		return fmt.Errorf("continues in chain %q, of another type", name)
	}
	return nil
}

// checkOne makes sure that a target that rewrites ports knows the protocol:
// nft(8) and xtables both want it named in the rule.
func (p Proto) checkOne(t Target) error {
	if len(p) != 1 || !p.hasPorts() {
		return fmt.Errorf("%s without exactly one protocol that has ports", t)
	}
	return nil
}

func (p Proto) hasPorts() bool {
	return len(p) > 0 && !slices.ContainsFunc(p, func(q Protocol) bool { return q != TCP && q != UDP })
}
