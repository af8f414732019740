package ruleset

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strconv"
)

// Protocol is an IP protocol number (RFC 5237; iana.org/assignments/protocol-numbers).
type Protocol uint8

// The protocols that interception knows by name. Zero means none was given.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
)

var protocolNames = map[Protocol]string{ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPv6: "ipv6-icmp"}

// String returns the protocol's name in lower case, or its number.
func (p Protocol) String() string {
	if s, ok := protocolNames[p]; ok {
		return s
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads "tcp" or "udp".
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	}
	return 0, fmt.Errorf(`%q is not a protocol; write "tcp" or "udp"`, s)
}

// MarshalText writes the protocol's name.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads "tcp" or "udp".
func (p *Protocol) UnmarshalText(b []byte) (err error) {
	*p, err = ParseProtocol(string(b))
	return err
}

// Packet is what a rule can see of a packet.
type Packet struct {
	// Hook is where the packet is: Output if a process of the pod sent it,
	// Prerouting if it arrived.
	Hook     Hook
	Protocol Protocol
	// Src and Dst are the addresses, and the ports of TCP and UDP. Both are of
	// one family.
	Src, Dst netip.AddrPort
	// Interface is the one the packet leaves or arrives by. Traffic inside the
	// pod leaves by "lo", whatever address of the pod it goes to.
	Interface string
	// Owner is who opened the sending socket. Nil: there is no socket, as with
	// a reset that the kernel sends, and with every packet that arrives.
	Owner *Owner
	// Flags are the flags of a TCP packet. Zero stands for SYN, which opens a
	// connection.
	Flags uint8
	// Length is that of the whole packet in bytes, and TCPHeader that of a TCP header in words of four. Zero stands for
	// a packet without data and a header without options.
	Length    uint16
	TCPHeader uint8
	// MPTCP is true of a TCP packet with an option of Multipath TCP.
	MPTCP bool
	// State is conntrack's. Zero stands for CTNew.
	State CTState
	// Known is true of a packet of an entry that another packet has made. NAT has been asked about that one, and is not
	// asked again; until the entry has seen an answer, State is CTNew all the same.
	Known bool
	// Reply is true of a packet that conntrack takes for an answer: it goes against the direction of the packet that
	// made the entry.
	Reply bool
	// DNAT is true of a packet of an entry that translates its destination. Dst is then where it really goes; chains
	// before NAT, which see where it was to go, are not asked.
	DNAT bool
	// Listening is true of an arriving packet for which the pod has a socket open, and Transparent of one for which it
	// has a transparent one open.
	Listening, Transparent bool
	// Foreign is true of an arriving packet to an address that is not the pod's: a frame that a neighbour has sent to
	// its hardware address, or one to be forwarded. What goes to many hosts, or to none, is so anyway.
	Foreign bool
	// Echo is true of an ICMP echo request, ExtendedEcho of an extended one, and Quotes is the source port of the UDP
	// datagram that an ICMP error is about.
	Echo, ExtendedEcho bool
	Quotes             uint16
	// Mark and ConnMark are the packet's and the connection's mark.
	Mark, ConnMark uint32
}

// Owner is the user and group that opened a socket.
type Owner struct{ UID, GID uint32 }

// Fate is what becomes of a packet. The zero Fate is Pass.
type Fate struct {
	Action Action
	// Ports are the local ports of Redirected and Transparent.
	Ports PortRange
	// To is the destination of Translated.
	To netip.AddrPort
}

// Action is the kind of a fate.
type Action uint8

// The kinds of fates.
const (
	Pass        Action = iota // goes on untouched
	Redirected                // goes to a port of the local proxy
	Translated                // goes to another address
	Transparent               // is delivered to the local proxy, addresses unchanged
	Rejected                  // is discarded, and its sender told
	Dropped                   // is discarded
)

// RedirectedTo is the fate of a packet that goes to a port of the local proxy.
func RedirectedTo(port uint16) Fate { return Fate{Action: Redirected, Ports: Port(port)} }

// String returns "pass", "redirect(15001)", "dnat(10.0.0.1:53)",
// "tproxy(15006)", "reject" or "drop".
func (f Fate) String() string {
	switch f.Action {
	case Pass:
		return "pass"
	case Redirected:
		return "redirect(" + f.Ports.String() + ")"
	case Translated:
		return "dnat(" + f.To.String() + ")"
	case Transparent:
		return "tproxy(" + f.Ports.String() + ")"
	case Rejected:
		return "reject"
	case Dropped:
		return "drop"
	}
	return fmt.Sprintf("fate(%d)", f.Action)
}

// MarshalJSON writes the text form.
func (f Fate) MarshalJSON() ([]byte, error) { return json.Marshal(f.String()) }

// Trace is a packet's way through a Ruleset.
type Trace struct {
	Fate Fate
	// Rule is the ID of the rule that decided, Line its line and Reason its reason. Empty: none did.
	Rule         RuleID
	Line, Reason string
	// Zone is the conntrack zone the packet was put into. Zero is the default one.
	Zone uint16
	// Steps are the rules that looked at the packet, in order.
	Steps []Step
}

// Step is one rule's look at a packet.
type Step struct {
	Chain string
	Rule  Rule
	// Matched reports whether the rule's target was carried out. If not,
	// Failed is the first condition that did not hold.
	Matched bool
	Failed  Match
	// Decided is true of the one step that gave the packet its fate.
	Decided bool
}

// PacketError reports a Packet that does not say enough to be traced, or that there cannot be.
type PacketError struct {
	// Field is the field of Packet.
	Field   string
	Problem string
}

func (e *PacketError) Error() string { return "packet: " + e.Field + ": " + e.Problem }

// Complete returns the packet with its defaults in place, and IPv4 addresses as such where they are written as IPv6:
// the kernel sends what goes to ::ffff:192.0.2.1 as IPv4, and what goes to 0.0.0.0 or :: to this host
// (ip_route_output_key_hash_rcu in net/ipv4/route.c, tcp_v6_connect and udpv6_sendmsg).
func (p Packet) Complete() (Packet, error) {
	p.Src = netip.AddrPortFrom(p.Src.Addr().Unmap(), p.Src.Port())
	p.Dst = netip.AddrPortFrom(p.Dst.Addr().Unmap(), p.Dst.Port())
	switch nobody := p.Dst.Addr().IsUnspecified(); {
	case p.Hook == Output && nobody:
		self := netip.IPv6Loopback()
		if p.Dst.Addr().Is4() {
			self = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		p.Dst, p.Interface = netip.AddrPortFrom(self, p.Dst.Port()), Loopback
	case p.Hook == Prerouting && (nobody || isGroup(p.Dst.Addr())):
		p.Foreign = true
	}
	switch {
	case p.Hook != Output && p.Hook != Prerouting:
		return p, &PacketError{"Hook", "neither Output, for what the pod sends, nor Prerouting, for what arrives"}
	case p.Protocol == 0:
		return p, &PacketError{"Protocol", "none"}
	case !p.Dst.Addr().IsValid():
		return p, &PacketError{"Dst", "no address"}
	case p.Hook == Output && p.Protocol == TCP && isGroup(p.Dst.Addr()):
		return p, &PacketError{"Dst", fmt.Sprintf("%s stands for many hosts, and TCP connects to one: the kernel refuses it",
			p.Dst.Addr())}
	case !p.Src.Addr().IsValid():
		return p, &PacketError{"Src", "no address"}
	case p.Src.Addr().Is4() != p.Dst.Addr().Is4():
		return p, &PacketError{"Src", fmt.Sprintf("%s and the destination %s are of different families", p.Src.Addr(),
			p.Dst.Addr())}
	}
	if p.State == 0 {
		p.State = CTNew
	}
	if p.Flags == 0 {
		p.Flags = SYN
	}
	if p.TCPHeader == 0 {
		p.TCPHeader = 5
	}
	if p.Length == 0 {
		p.Length = 20 + 4*uint16(p.TCPHeader)
		if p.Dst.Addr().Is6() {
			p.Length += 20
		}
	}
	return p, nil
}

// Trace says what happens to p, and which rules led to it, as the kernel would. The error is a [*PacketError].
func (rs Ruleset) Trace(p Packet) (Trace, error) {
	p, err := p.Complete()
	if err != nil {
		return Trace{}, err
	}
	return rs.trace(p), nil
}

func (rs Ruleset) trace(p Packet) Trace {
	t := tracer{rs: rs, p: p}
	if !slices.Contains(rs.Families, FamilyOf(p.Dst.Addr())) {
		t.out.Reason = fmt.Sprintf("%s is not captured", FamilyOf(p.Dst.Addr()))
		return t.out
	}
	if t.hooks(p.path()) == stop || p.Hook != Output || p.Interface != Loopback {
		return t.out
	}
	// What is sent inside the pod arrives there, with its mark and without a
	// socket. NAT and the conntrack zone are settled by then.
	t.p.Hook, t.p.Owner, t.arrived = Prerouting, nil, true
	t.hooks(t.p.path())
	return t.out
}

// path returns the hooks that the packet passes, unless a rule decides its fate on the way.
func (p Packet) path() []Hook {
	switch {
	case p.Hook == Output:
		return []Hook{Output}
	case p.Interface != Loopback && p.Dst.Addr() == netip.IPv6Loopback():
		return nil // the kernel discards it before all hooks (ip6_rcv_core in net/ipv6/ip6_input.c)
	case p.Interface != Loopback && p.Dst.Addr().IsLoopback():
		return []Hook{Prerouting} // and this as a martian, after that one (ip_route_input_slow in net/ipv4/route.c)
	case p.Foreign:
		// The kernel discards it here if the pod does not forward.
		return []Hook{Prerouting, Forward}
	}
	return []Hook{Prerouting, Input}
}

// asksNAT reports whether NAT chains are asked about the packet: it is the first of what conntrack takes for a
// connection, and nobody has translated it (nf_nat_inet_fn in net/netfilter/nf_nat_core.c).
func (t *tracer) asksNAT() bool {
	return t.p.State&(CTNew|CTRelated) != 0 && !t.p.Known && !t.p.DNAT && !t.arrived
}

// hooks evaluates the base chains of the hooks, as one after the other a
// packet passes them.
func (t *tracer) hooks(hooks []Hook) verdict {
	for _, h := range hooks {
		bases := slices.DeleteFunc(slices.Clone(t.rs.Chains), func(c Chain) bool {
			before := c.Asked() < PriorityDstNAT
			return c.Hook != h || c.Type == NATChain && !t.asksNAT() ||
				t.arrived && c.Priority == PriorityRaw ||
				before && t.p.DNAT && !t.p.Reply && !t.arrived
		})
		sort.SliceStable(bases, func(i, j int) bool { return bases[i].Asked() < bases[j].Asked() })
		for _, c := range bases {
			// Chains that choose a zone or set marks, and those behind one that
			// has decided, say nothing of a packet's fate by letting it go on.
			t.undecided = t.arrived || c.Priority == PriorityRaw || c.Type == RouteChain ||
				c.Priority == PriorityFilter && t.out.Rule != ""
			if t.chain(c) == stop {
				return stop
			}
		}
	}
	return next
}

type tracer struct {
	rs  Ruleset
	p   Packet
	out Trace
	// undecided is true in chains in which to return decides nothing.
	undecided bool
	// arrived is true once a packet that the pod sent to itself arrives.
	arrived bool
}

// verdict says where evaluation goes on after a rule or a chain.
type verdict uint8

const (
	next     verdict = iota // with the next rule; at a chain's end, with the caller's
	baseDone                // with the next base chain
	stop                    // nowhere: the packet's fate is decided
)

// Asked is when packets meet a base chain, among all of its hook: those of NAT are asked at [PriorityDstNAT], whatever
// priorities they have among themselves.
func (c Chain) Asked() Priority {
	if c.Type == NATChain {
		return PriorityDstNAT
	}
	return c.Priority
}

// chain evaluates a chain. It answers next if the chain returned.
func (t *tracer) chain(c Chain) verdict {
	for _, r := range c.Rules {
		step := Step{Chain: c.Name, Rule: r, Matched: true}
		for _, m := range r.Match {
			if !t.satisfies(m) {
				step.Matched, step.Failed = false, m
				break
			}
		}
		t.out.Steps = append(t.out.Steps, step)
		if !step.Matched {
			continue
		}
		if v, done := t.apply(r); done {
			return v
		}
	}
	return next
}

// apply carries out a rule's target. done is false if the next rule is to be
// looked at.
func (t *tracer) apply(r Rule) (_ verdict, done bool) {
	decide := func(f Fate) {
		for i := range t.out.Steps {
			t.out.Steps[i].Decided = i == len(t.out.Steps)-1
		}
		t.out.Fate, t.out.Rule, t.out.Line, t.out.Reason = f, r.ID, r.ID.Line(), r.Reason
	}
	switch target := r.Target.(type) {
	case Accept, Keep:
		decide(Fate{})
		return baseDone, true
	case Return:
		if !t.undecided {
			decide(Fate{})
		}
		return next, true
	case Drop:
		decide(Fate{Action: Dropped})
		return stop, true
	case Reject:
		decide(Fate{Action: Rejected})
		return stop, true
	case Redirect:
		decide(Fate{Action: Redirected, Ports: target.Ports})
		return stop, true
	case DNAT:
		decide(Fate{Action: Translated, To: target.To})
		return stop, true
	case TProxy:
		decide(Fate{Action: Transparent, Ports: Port(target.Port)})
		return stop, true
	case Divert:
		decide(Fate{Action: Transparent, Ports: Port(target.Port)})
		return stop, true
	case Jump:
		v := t.chain(t.rs.chain(target.Chain))
		return v, v != next
	case Goto:
		return t.chain(t.rs.chain(target.Chain)), true
	case SetMark:
		t.p.Mark = t.p.Mark&^target.Mask | target.Value
		return next, false
	case SetConnMark:
		t.p.ConnMark = t.p.ConnMark&^target.Mask | target.Value
		return next, false
	case CTZone:
		// A packet that has a zone keeps it (net/netfilter/xt_CT.c, nft_ct.c), and an answer that of its conversation.
		if t.out.Zone == 0 && !t.p.Reply {
			t.out.Zone = target.Zone
		}
		return next, true
	}
	panic(fmt.Sprintf("intercept: unknown target %T", r.Target))
}

func (rs Ruleset) chain(name string) Chain {
	for _, c := range rs.Chains {
		if c.Name == name {
			return c
		}
	}
	panic("intercept: no chain " + name)
}

// satisfies reports whether m holds for the packet.
func (t *tracer) satisfies(m Match) bool {
	p := t.p
	switch m := m.(type) {
	case Not:
		return !t.satisfies(m.Match)
	case Proto:
		return slices.Contains(m, p.Protocol)
	case SrcPort:
		return Ports(m).Contains(p.Src.Port())
	case DstPort:
		return Ports(m).Contains(p.Dst.Port())
	case Src:
		return CIDRs(m).Contains(p.Src.Addr())
	case Dst:
		return CIDRs(m).Contains(p.Dst.Addr())
	case InInterface:
		return p.Hook != Output && InterfaceMatches(string(m), p.Interface)
	case OutInterface:
		return p.Hook == Output && InterfaceMatches(string(m), p.Interface)
	case UID:
		return p.Owner != nil && IDs(m).Contains(p.Owner.UID)
	case GID:
		return p.Owner != nil && IDs(m).Contains(p.Owner.GID)
	case MetaMark:
		return p.Mark&m.Mask == m.Value
	case ConnMark:
		return p.ConnMark&m.Mask == m.Value
	case HasSocket:
		return p.Owner != nil
	case SocketOpen:
		return p.Transparent || p.Listening && !m.Transparent
	case CTState:
		return p.State&m != 0
	case CTDNAT:
		return p.DNAT && p.State != CTInvalid
	case CTDirection:
		return p.State != CTInvalid && p.Reply == (m == CTReply)
	case ToLocal:
		return !p.Foreign
	case Length:
		return p.Length == uint16(m)
	case TCPHeader:
		return p.TCPHeader == uint8(m)
	case MPTCP:
		return p.MPTCP
	case ICMPEcho:
		return m.Extended && p.ExtendedEcho || !m.Extended && p.Echo
	case ICMPQuote:
		return p.Quotes == m.SrcPort
	case Older:
		return slices.Contains(t.rs.Older, Tuple{p.Src, p.Dst})
	case TCPFlags:
		return p.Flags&m.Mask == m.Value
	case IsFamily:
		return FamilyOf(p.Dst.Addr()) == Family(m)
	}
	panic(fmt.Sprintf("intercept: unknown match %T", m))
}
