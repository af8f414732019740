package verify

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// SourcePorts are the ports that verify sends from: whoever reads a log or a capture knows its connections by them.
// They are none that Linux gives to sockets which ask for none (net.ipv4.ip_local_port_range).
var SourcePorts = ruleset.PortRange{First: 61000, Last: 61999}

// RandomPort is one of [SourcePorts].
func RandomPort() uint16 {
	return SourcePorts.First + rand.N(SourcePorts.Last-SourcePorts.First+1)
}

// Probe is one thing to try: a connection or a datagram, and what the rules have to make of it.
type Probe struct {
	// What is what it proves.
	What string
	// Packet is the first packet, with the source port that it has to have.
	Packet ruleset.Packet
	// Trace is what the rules make of it.
	Trace ruleset.Trace
	// At is the address of the pod to which a redirect goes: loopback for what the pod sends, that of the interface for
	// what arrives.
	At netip.Addr
	// Hops is the hop limit that it begins with: what is not captured gets no further than the first router behind the
	// pod.
	Hops int
	// Lookup is true of a name lookup: it asks a question.
	Lookup bool
	// Waits is true if somebody has to accept, answer or refuse it.
	Waits bool
	// Loopback says what is wrong with lo, if it takes lo. Empty: nothing is.
	Loopback string
	// Lenient is true where it is enough that it is captured: who accepts does not matter.
	Lenient bool
}

// Family is that of the packet.
func (p Probe) Family() ruleset.Family { return ruleset.FamilyOf(p.Packet.Dst.Addr()) }

// Outside is true of what comes from a client that is not in the pod.
func (p Probe) Outside() bool { return p.Packet.Hook == ruleset.Prerouting }

// isCaptured reports whether it has to go to the proxy or to a resolver.
func isCaptured(t ruleset.Trace) bool {
	switch t.Fate.Action {
	case ruleset.Redirected, ruleset.Translated, ruleset.Transparent:
		return true
	case ruleset.Pass, ruleset.Rejected, ruleset.Dropped:
	}
	return false
}

// Destinations are where it has to arrive: at one of them, where the rules spread connections over several ports.
// There are none if it is left alone.
func (p Probe) Destinations() (all []netip.AddrPort) {
	switch f := p.Trace.Fate; f.Action {
	case ruleset.Redirected:
		for port := int(f.Ports.First); port <= int(f.Ports.Last); port++ {
			all = append(all, netip.AddrPortFrom(p.At, uint16(port)))
		}
	case ruleset.Transparent:
		all = append(all, netip.AddrPortFrom(p.Packet.Dst.Addr(), f.Ports.First))
	case ruleset.Translated:
		all = append(all, f.To)
	case ruleset.Pass, ruleset.Rejected, ruleset.Dropped:
	}
	return all
}

// tried says what is done, for people.
func (p Probe) tried() string {
	k := p.Packet
	s := strings.ToUpper(k.Protocol.String()) + " to " + k.Dst.String()
	if p.Lookup {
		s = "a lookup over " + s
	}
	switch {
	case p.Outside():
		return s + " from " + k.Src.Addr().String()
	case k.Mark != 0:
		return fmt.Sprintf("%s with mark %#x", s, k.Mark)
	}
	return s + fmt.Sprintf(" by user %d, group %d", k.Owner.UID, k.Owner.GID)
}

// Plan is what to try.
type Plan struct {
	Probes []Probe
	// Verdicts are about what cannot be tried, and Notes about what there is nothing to prove of.
	Verdicts []Verdict
	Notes    []string
	// Coverage is what the probes cover.
	Coverage Coverage
}

// MakePlan returns what to try of rules in a pod. They are those that c compiles to. port is the first source port.
func MakePlan(c intercept.Config, rs ruleset.Ruleset, pod Pod, port uint16) Plan {
	p := &planner{c: c, rs: rs, pod: pod, port: port, known: universe(rs), met: map[met]bool{},
		reach: map[ruleset.Family]reach{}}
	for _, f := range rs.Families {
		r := look(pod, f)
		p.reach[f] = r
		if r.why != "" {
			p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("%s: not reachable here (%s), nothing to prove", f, r.why))
			continue
		}
		if r.near {
			p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("%s: no default route: an app here reaches nothing but the "+
				"networks to which routes lead, and what is tried goes there, as to %s", f, r.dst[0]))
		}
		for _, candidates := range []func(ruleset.Family) []candidate{
			p.outbound, p.lookups, p.inside, p.inbound, p.behind,
		} {
			for _, each := range candidates(f) {
				p.take(each, f)
			}
		}
	}
	p.conclude()
	return p.plan
}

// WithoutCounters returns the plan for a kernel that counts nothing and does not show what conntrack has (gVisor): less
// the datagrams that are to be left alone, of which nothing shows there. A note names them.
func (p Plan) WithoutCounters() Plan {
	var left []string
	silent := func(each Probe) bool {
		is := each.Packet.Protocol == ruleset.UDP && each.Trace.Fate.Action == ruleset.Pass
		if is {
			left = append(left, each.What)
		}
		return is
	}
	p.Probes = slices.DeleteFunc(slices.Clone(p.Probes), silent)
	if len(left) > 0 {
		p.Notes = append(slices.Clone(p.Notes), "the kernel counts nothing, and shows nothing of a datagram that is left "+
			"alone, so not tried: "+strings.Join(left, "; "))
	}
	return p
}

// planner makes a plan.
type planner struct {
	c     intercept.Config
	rs    ruleset.Ruleset
	pod   Pod
	port  uint16
	plan  Plan
	known []ruleset.Rule // see universe
	met   map[met]bool
	reach map[ruleset.Family]reach
}

// met is a rule that a probe meets, in a family.
type met struct {
	rule   ruleset.RuleID
	family ruleset.Family
}

// A candidate is a row of what could be tried: the first packet that does, of those that it stands for.
type candidate struct {
	what string
	// senders in the pod, or clients by a way into it.
	senders []sender
	clients []netip.Addr
	way     Way
	// src is a source that the sender asks for.
	src    netip.Addr
	protos []ruleset.Protocol
	dsts   []netip.Addr
	ports  []uint16
	// wants is what has to become of it. Nil: anything, if a rule decides that no probe of the family has met.
	wants func(ruleset.Trace) bool
	// why says why nothing does, where wants is given and something has to be proven.
	why     string
	lenient bool
	// once is true if the same is not to be tried a second time.
	once bool
}

// take adds the candidate's first probe that does.
func (p *planner) take(c candidate, f ruleset.Family) bool {
	forbidden := false
	for _, proto := range c.protos {
		for _, a := range c.dsts {
			for _, port := range c.ports {
				if port == 0 {
					continue // there is none
				}
				dst := netip.AddrPortFrom(a, port)
				for _, client := range c.clients {
					k := &ruleset.Packet{Hook: ruleset.Prerouting, Protocol: proto, Interface: c.way.Interface,
						Src: netip.AddrPortFrom(client, p.port), Dst: dst, Foreign: c.way.isOutside() && !p.pod.own(a)}
					if p.try(c, k, c.way.own(f)) {
						return true
					}
				}
				for _, s := range c.senders {
					k, denied := p.outgoing(c, s, proto, dst)
					forbidden = forbidden || denied
					if k != nil && p.try(c, k, localhost(f)) {
						return true
					}
				}
			}
		}
	}
	if c.wants != nil && c.why != "" {
		why := c.why
		if forbidden {
			why = fmt.Sprintf("this process is user %d, group %d, and cannot be another without CAP_SETUID and CAP_SETGID",
				p.pod.Self.UID, p.pod.Self.GID)
		}
		p.missing(c.what+", "+f.String(), why)
	}
	return false
}

// outgoing returns a packet that the pod sends, nil if there is no way. denied is true if this process cannot be the
// sender.
func (p *planner) outgoing(c candidate, s sender, proto ruleset.Protocol, dst netip.AddrPort) (_ *ruleset.Packet,
	denied bool) {
	if !p.pod.AnyOwner {
		if s.mark == 0 && !s.anybody && s.owner != p.pod.Self {
			return nil, true
		}
		s.owner = p.pod.Self
	}
	route, err := p.pod.Route(dst.Addr())
	if err != nil {
		return nil, false
	}
	if c.src.IsValid() {
		route.Src = c.src
	}
	return &ruleset.Packet{Hook: ruleset.Output, Protocol: proto, Interface: route.Interface,
		Src: netip.AddrPortFrom(route.Src, p.port), Dst: dst, Owner: &s.owner, Mark: s.mark}, false
}

// try adds a probe, if it does.
func (p *planner) try(c candidate, k *ruleset.Packet, at netip.Addr) bool {
	f := ruleset.FamilyOf(k.Dst.Addr())
	t, err := p.rs.Trace(*k)
	if err != nil || t.Rule == "" || k.Foreign && t.Fate.Action != ruleset.Pass { // it would have to be forwarded
		return false
	}
	meets := func(r ruleset.Rule) bool {
		return !p.met[met{r.ID, f}] &&
			slices.ContainsFunc(t.Steps, func(s ruleset.Step) bool { return s.Matched && s.Rule.ID == r.ID })
	}
	if c.wants != nil && !c.wants(t) || c.wants == nil && !slices.ContainsFunc(p.known, meets) {
		return false
	}
	if c.once && slices.ContainsFunc(p.plan.Probes, func(earlier Probe) bool { return isLike(earlier.Packet, *k) }) {
		return false
	}
	rejected := t.Fate.Action == ruleset.Rejected
	hops := 1
	if c.way.Forwards {
		hops++ // the pod itself is the first
	}
	p.plan.Probes = append(p.plan.Probes, Probe{What: c.what + ", " + f.String(), Packet: *k, Trace: t, At: at, Hops: hops,
		Lookup: k.Dst.Port() == 53 && len(c.clients) == 0, Waits: isCaptured(t) || rejected, Lenient: c.lenient,
		Loopback: p.loopback(*k, t)})
	for _, s := range t.Steps {
		if s.Matched {
			p.met[met{s.Rule.ID, f}] = true
		}
	}
	if p.port++; p.port > SourcePorts.Last {
		p.port = SourcePorts.First
	}
	return true
}

// isLike reports whether two packets differ in their source port alone.
func isLike(a, b ruleset.Packet) bool {
	return a.Hook == b.Hook && a.Protocol == b.Protocol && a.Dst == b.Dst && a.Mark == b.Mark &&
		(a.Owner == nil) == (b.Owner == nil) && (a.Owner == nil || *a.Owner == *b.Owner)
}

// loopback says what is wrong with lo, if a packet takes it.
func (p *planner) loopback(k ruleset.Packet, t ruleset.Trace) string {
	if k.Hook == ruleset.Output && (k.Interface == ruleset.Loopback || t.Fate.Action == ruleset.Redirected) {
		return p.pod.brokenLoopback(ruleset.FamilyOf(k.Dst.Addr()))
	}
	return ""
}

// missing says what has to be proven and cannot be tried.
func (p *planner) missing(what, why string) {
	p.plan.Verdicts = append(p.plan.Verdicts, Verdict{What: what, Verdict: NotProven, Found: "not tried: " + why,
		Remedy: "run verify where it can be tried, or accept that with --allow-unproven"})
}

// reach is what the pod reaches of a family.
type reach struct {
	why  string     // it reaches nothing
	addr netip.Addr // by which others reach the pod
	onLo bool       // lo alone has it
	near bool       // there is no route but to networks
	dst  []netip.Addr
}

// look finds out what a pod reaches of a family: the addresses that nobody has, or, where it has no default route,
// members of the networks that its routes lead to.
func look(pod Pod, f ruleset.Family) (r reach) {
	var ok bool
	if r.addr, ok = pod.addr(f); !ok {
		r.addr, r.onLo = pod.onLoopback(f)
	}
	if !r.addr.IsValid() {
		r.why = "it has no address of that family by which others could reach it"
		return r
	}
	var why error
	for _, a := range append(documentation(f), members(pod.Networks, f)...) {
		route, err := pod.Route(a)
		switch {
		case err != nil:
			why = cmp.Or(why, err)
		case route.Interface != ruleset.Loopback && !pod.own(a):
			r.dst = append(r.dst, a)
		}
	}
	r.near = len(r.dst) > 0 && !slices.Contains(documentation(f), r.dst[0])
	if len(r.dst) == 0 {
		r.why = "no route leads anywhere"
		if why != nil {
			r.why += ": " + why.Error()
		}
	}
	return r
}

func localhost(f ruleset.Family) netip.Addr {
	if f == ruleset.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
