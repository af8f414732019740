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

// SourcePorts are the ports that verify sends from: whoever reads a log or a capture knows its connections by them. They
// are none that Linux gives to sockets which ask for none (net.ipv4.ip_local_port_range).
var SourcePorts = ruleset.PortRange{First: 61000, Last: 61999}

// Probe is one thing to try: a connection or a datagram, and what the rules have to make of it.
type Probe struct {
	// What is what it proves.
	What string
	// Packet is the first packet, with the source port that it has to have.
	Packet ruleset.Packet
	// Trace is what the rules make of it.
	Trace ruleset.Trace
	// Lookup is true of a name lookup: it asks a question.
	Lookup bool
	// Waits is true if somebody has to accept, answer or refuse it.
	Waits bool
	// Lenient is true where it is enough that it is captured: who accepts does not matter.
	Lenient bool
}

// Family is that of the packet.
func (p Probe) Family() ruleset.Family { return ruleset.FamilyOf(p.Packet.Dst.Addr()) }

// Outside is true of what comes from a client outside the pod.
func (p Probe) Outside() bool { return p.Packet.Hook == ruleset.Prerouting }

// captured reports whether it has to go to the proxy or to a resolver.
func (p Probe) captured() bool {
	switch p.Trace.Fate.Action {
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
		// What is sent goes to loopback, what arrives to the address of its interface.
		addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		switch {
		case p.Outside():
			addr = p.Packet.Dst.Addr()
		case p.Family() == ruleset.IPv6:
			addr = netip.IPv6Loopback()
		}
		for port := int(f.Ports.First); port <= int(f.Ports.Last); port++ {
			all = append(all, netip.AddrPortFrom(addr, uint16(port)))
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
		return s + " from " + k.Src.Addr().String() + ", outside"
	case k.Mark != 0:
		return fmt.Sprintf("%s with mark %#x", s, k.Mark)
	}
	s += fmt.Sprintf(" by user %d, group %d", k.Owner.UID, k.Owner.GID)
	if k.Interface == ruleset.Loopback {
		s += ", inside the pod"
	}
	return s
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
	p := &planner{c: c, rs: rs, pod: pod, port: port, met: map[met]bool{}, reach: map[ruleset.Family]reach{}}
	for _, f := range rs.Families {
		p.reach[f] = p.look(f)
		if r := p.reach[f]; r.why != "" {
			p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("%s: not reachable here (%s), nothing to prove", f, r.why))
			continue
		}
		p.outbound(f)
		p.lookups(f)
		p.inside(f)
	}
	for _, f := range rs.Families {
		if p.reach[f].why == "" {
			p.inbound(f)
		}
	}
	p.conclude()
	return p.plan
}

type planner struct {
	c     intercept.Config
	rs    ruleset.Ruleset
	pod   Pod
	port  uint16
	plan  Plan
	met   map[met]bool
	reach map[ruleset.Family]reach
	rules map[ruleset.RuleID]*ruleset.Rule // see universe
	order []ruleset.RuleID
}

// met is a rule that a probe meets, in a family.
type met struct {
	rule   ruleset.RuleID
	family ruleset.Family
}

// reach is what the pod reaches of a family.
type reach struct {
	why  string     // it reaches nothing
	addr netip.Addr // by which others reach the pod
	dst  []netip.Addr
}

// documentation are addresses that nobody has (RFC 5737, RFC 3849).
func documentation(f ruleset.Family) []netip.Addr {
	if f == ruleset.IPv4 {
		return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{198, 51, 100, 1}),
			netip.AddrFrom4([4]byte{203, 0, 113, 1})}
	}
	return []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:ffff::1")}
}

// look finds out what the pod reaches of a family: the addresses that nobody has, or, where it has no default route,
// members of the networks that its routes lead to.
func (p *planner) look(f ruleset.Family) reach {
	var r reach
	var ok bool
	if r.addr, _, ok = p.pod.addr(f); !ok {
		r.why = "it has no address of that family by which others could reach it"
		return r
	}
	candidates := append(documentation(f), members(p.pod.Networks, f)...)
	var why error
	for _, a := range candidates {
		route, err := p.pod.Route(a)
		switch {
		case err != nil:
			why = cmp.Or(why, err)
		case route.Interface != ruleset.Loopback && !p.pod.own(a):
			r.dst = append(r.dst, a)
		}
	}
	if len(r.dst) == 0 {
		r.why = "no route leads anywhere"
		if why != nil {
			r.why += ": " + why.Error()
		}
	}
	return r
}

// outgoing returns a packet that the pod sends, if there is a way.
func (p *planner) outgoing(s sender, proto ruleset.Protocol, dst netip.AddrPort) (ruleset.Packet, bool) {
	if !p.pod.AnyOwner {
		if s.mark == 0 && s.owner != p.pod.Self {
			return ruleset.Packet{}, false
		}
		s.owner = p.pod.Self
	}
	route, err := p.pod.Route(dst.Addr())
	if err != nil {
		return ruleset.Packet{}, false
	}
	owner := s.owner
	return ruleset.Packet{Hook: ruleset.Output, Protocol: proto, Interface: route.Interface,
		Src: netip.AddrPortFrom(route.Src, p.port), Dst: dst, Owner: &owner, Mark: s.mark}, true
}

// arriving returns a packet that a client outside sends.
func (p *planner) arriving(proto ruleset.Protocol, src netip.Addr, dst netip.AddrPort) (ruleset.Packet, bool) {
	if p.pod.Outside != nil {
		return ruleset.Packet{}, false
	}
	return ruleset.Packet{Hook: ruleset.Prerouting, Protocol: proto, Interface: p.pod.Client,
		Src: netip.AddrPortFrom(src, p.port), Dst: dst, Foreign: !p.pod.own(dst.Addr())}, true
}

// try adds a probe. It returns what the rules make of it.
func (p *planner) try(what string, k ruleset.Packet) (ruleset.Trace, bool) {
	trace, err := p.rs.Trace(k)
	if err != nil || trace.Rule == "" {
		return trace, false
	}
	probe := Probe{What: what, Packet: k, Trace: trace}
	probe.Lookup = !probe.Outside() && k.Dst.Port() == 53
	probe.Waits = probe.captured() || trace.Fate.Action == ruleset.Rejected
	p.plan.Probes = append(p.plan.Probes, probe)
	for _, id := range meets(trace) {
		p.met[met{id, probe.Family()}] = true
	}
	if p.port++; p.port > SourcePorts.Last {
		p.port = SourcePorts.First
	}
	return trace, true
}

// offer adds a probe if it meets a rule that none of its family has met.
func (p *planner) offer(what string, k ruleset.Packet, ok bool) bool {
	if !ok {
		return false
	}
	trace, err := p.rs.Trace(k)
	if err != nil || k.Foreign && trace.Fate.Action != ruleset.Pass { // what it would meet if the pod forwarded
		return false
	}
	f := ruleset.FamilyOf(k.Dst.Addr())
	known := p.universe()
	for _, id := range meets(trace) {
		if known[id] != nil && !p.met[met{id, f}] {
			_, ok := p.try(what, k)
			return ok
		}
	}
	return false
}

// meets are the rules that matched on a packet's way.
func meets(t ruleset.Trace) (all []ruleset.RuleID) {
	for _, s := range t.Steps {
		if s.Matched {
			all = append(all, s.Rule.ID)
		}
	}
	return all
}

// usual are the ports at which servers are.
func usual() []uint16 { return []uint16{80, 443, 8080, 9} }

func captures(t ruleset.Trace) bool { return Probe{Trace: t}.captured() }

// base returns the first connection of an app's that is captured, and whether there is one.
func (p *planner) base(f ruleset.Family) (sender, netip.AddrPort, bool) {
	dsts := slices.Concat(p.reach[f].dst, members(p.c.Outbound.IncludeCIDRs, f))
	ports := append(usual(), portsOf(p.c.Outbound.IncludePorts)...)
	for _, s := range p.apps() {
		for _, a := range dsts {
			for _, port := range ports {
				dst := netip.AddrPortFrom(a, port)
				k, ok := p.outgoing(s, ruleset.TCP, dst)
				if !ok {
					continue
				}
				t, err := p.rs.Trace(k)
				if err == nil && (captures(t) || t.Fate.Action == ruleset.Rejected) {
					return s, dst, true
				}
			}
		}
	}
	return sender{}, netip.AddrPort{}, false
}

func (p *planner) apps() []sender {
	if p.pod.AnyOwner {
		return apps(p.c)
	}
	return []sender{{who: "an app", owner: p.pod.Self}}
}

// outbound chooses what the pod sends to others.
func (p *planner) outbound(f ruleset.Family) {
	o, family := p.c.Outbound, ", "+f.String()
	app, dst, found := p.base(f)
	switch {
	case found:
		k, _ := p.outgoing(app, ruleset.TCP, dst)
		p.try("an app's connection"+family, k)
	case len(o.IncludeCIDRs.Of(f))+len(o.IncludePorts) > 0:
		p.missing("an app's connection"+family, p.whyNoBase(f))
		app = first1(p.apps())
		dst = netip.AddrPortFrom(p.reach[f].dst[0], 80)
	default:
		app = first1(p.apps())
		dst = netip.AddrPortFrom(p.reach[f].dst[0], 80)
	}
	to := func(what string, s sender, proto ruleset.Protocol, addrs []netip.Addr, ports []uint16) {
		for _, a := range addrs {
			for _, port := range ports {
				k, ok := p.outgoing(s, proto, netip.AddrPortFrom(a, port))
				if p.offer(what+family, k, ok) {
					return
				}
			}
		}
	}
	any := append(slices.Clone(p.reach[f].dst), dst.Addr())
	at := []uint16{dst.Port()}
	to("an included network", app, ruleset.TCP, members(o.IncludeCIDRs, f), append(at, usual()...))
	to("an included port", app, ruleset.TCP, any, portsOf(o.IncludePorts))
	to("an excluded port", app, ruleset.TCP, []netip.Addr{dst.Addr()}, portsOf(o.ExcludePorts))
	to("an excluded network", app, ruleset.TCP, members(o.ExcludeCIDRs, f), append(at, usual()...))
	to("what is not included", app, ruleset.TCP, any, append(usual(), 7))
	for _, t := range o.Target {
		if ruleset.FamilyOf(t.Addr()) == f {
			to("the proxy outside the pod", app, ruleset.TCP, []netip.Addr{t.Addr()}, []uint16{t.Port()})
		}
	}
	for _, s := range proxies(p.c) {
		k, ok := p.outgoing(s, ruleset.TCP, dst)
		if ok {
			p.try(s.who+family, k)
		}
	}
	for _, s := range listed(p.c) {
		to(s.who, s, ruleset.TCP, []netip.Addr{dst.Addr()}, at)
	}
	for i, e := range o.Exclude {
		p.exclusion(f, i, e, app, dst)
	}
	to("UDP of the port of QUIC", app, ruleset.UDP, any, []uint16{443})
	to("UDP", app, ruleset.UDP, any, append([]uint16{9}, portsOf(o.IncludePorts)...))
	for _, i := range p.pod.Interfaces {
		if slices.ContainsFunc(p.c.ExcludeInterfaces,
			func(pattern string) bool { return ruleset.InterfaceMatches(pattern, i.Name) }) {
			to("the excluded interface "+i.Name, app, ruleset.TCP, members(p.pod.Networks, f), at)
		}
	}
}

func first1(all []sender) sender {
	if len(all) == 0 {
		return sender{who: "an app"}
	}
	return all[0]
}

// whyNoBase says why no connection of an app's was found that is captured.
func (p *planner) whyNoBase(f ruleset.Family) string {
	if !p.pod.AnyOwner {
		return fmt.Sprintf("this process is user %d, group %d, whose connections are not captured, and it cannot be "+
			"another without CAP_SETUID and CAP_SETGID", p.pod.Self.UID, p.pod.Self.GID)
	}
	return "this pod reaches nothing of what is included"
}

// exclusion tries one rule of the list of exclusions.
func (p *planner) exclusion(f ruleset.Family, i int, e intercept.Exclusion, app sender, dst netip.AddrPort) {
	protos := []ruleset.Protocol{ruleset.TCP, ruleset.UDP}
	if e.Protocol != 0 {
		protos = []ruleset.Protocol{e.Protocol}
	}
	addrs, ports := []netip.Addr{dst.Addr()}, []uint16{dst.Port()}
	if len(e.CIDRs) > 0 {
		addrs = members(e.CIDRs, f)
		if e.CIDRs.All() {
			addrs = p.reach[f].dst
		}
	}
	if len(e.Ports) > 0 && !e.Ports.All() {
		ports = portsOf(e.Ports)
	}
	s := app
	if len(e.UIDs) > 0 {
		s.owner.UID = first(idsOf(e.UIDs))
	}
	if len(e.GIDs) > 0 {
		s.owner.GID = first(idsOf(e.GIDs))
	}
	for _, proto := range protos {
		for _, a := range addrs {
			for _, port := range ports {
				k, ok := p.outgoing(s, proto, netip.AddrPortFrom(a, port))
				if p.offer(fmt.Sprintf("exclusion %d, %s", i+1, f), k, ok) {
					return
				}
			}
		}
	}
}

// lookups chooses what asks for names.
func (p *planner) lookups(f ruleset.Family) {
	if p.c.DNS.Mode == intercept.DNSOff {
		return
	}
	family := ", " + f.String()
	servers := p.reach[f].dst
	if p.c.DNS.Mode == intercept.DNSResolvConf {
		servers = slices.DeleteFunc(slices.Clone(p.c.DNS.Servers), func(a netip.Addr) bool {
			_, err := p.pod.Route(a)
			return ruleset.FamilyOf(a) != f || err != nil
		})
	}
	for _, proto := range []ruleset.Protocol{ruleset.UDP, ruleset.TCP} {
		what := "an app's lookup over " + strings.ToUpper(proto.String()) + family
		found := false
		for _, a := range servers {
			for _, s := range p.apps() {
				k, ok := p.outgoing(s, proto, netip.AddrPortFrom(a, 53))
				t, err := p.rs.Trace(k)
				if !ok || err != nil || !captures(t) && t.Fate.Action != ruleset.Rejected {
					continue
				}
				p.try(what, k)
				found = true
				break
			}
			if found {
				break
			}
		}
		if !found && len(servers) > 0 {
			p.missing(what, p.whyNoBase(f))
		}
		for _, s := range proxies(p.c) {
			if len(servers) == 0 {
				break
			}
			if k, ok := p.outgoing(s, proto, netip.AddrPortFrom(servers[0], 53)); ok {
				p.try(s.who+", a lookup over "+strings.ToUpper(proto.String())+family, k)
			}
		}
	}
}

// inside chooses what the pod sends to itself.
func (p *planner) inside(f ruleset.Family) {
	family := ", " + f.String()
	app := first1(p.apps())
	port := p.quietPort()
	localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == ruleset.IPv6 {
		localhost = netip.IPv6Loopback()
	}
	own := netip.AddrPortFrom(p.reach[f].addr, port)
	k, ok := p.outgoing(app, ruleset.TCP, own)
	p.offer("an app's call inside the pod"+family, k, ok)
	k, ok = p.outgoing(app, ruleset.TCP, netip.AddrPortFrom(localhost, port))
	p.offer("an app's call to loopback"+family, k, ok)
	for _, s := range proxies(p.c) {
		k, ok := p.outgoing(s, ruleset.TCP, own)
		if p.offer(s.who+", to its own pod"+family, k, ok) {
			p.plan.Probes[len(p.plan.Probes)-1].Lenient = true
		}
	}
	for _, src := range p.c.PassthroughSources {
		if ruleset.FamilyOf(src) != f || !p.pod.own(src) {
			continue
		}
		for _, s := range proxies(p.c) {
			k, ok := p.outgoing(s, ruleset.TCP, own)
			k.Src = netip.AddrPortFrom(src, p.port)
			p.offer("the proxy's call from its passthrough source"+family, k, ok)
		}
	}
}

// quietPort is one at which nobody listens, so that nobody is disturbed.
func (p *planner) quietPort() uint16 {
	for _, port := range []uint16{9, 7, 13, 19, 1} {
		if !p.pod.listens(ruleset.TCP, port) {
			return port
		}
	}
	return 9
}

// clients are addresses that a client outside can have.
func clients(f ruleset.Family) []netip.Addr {
	if f == ruleset.IPv4 {
		return []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, 254}), netip.AddrFrom4([4]byte{192, 0, 2, 254}),
			netip.AddrFrom4([4]byte{203, 0, 113, 254}), netip.AddrFrom4([4]byte{198, 18, 255, 254})}
	}
	return []netip.Addr{netip.MustParseAddr("2001:db8:ffff::fffe"), netip.MustParseAddr("2001:db8::fffe"),
		netip.MustParseAddr("2001:db8:8000::fffe")}
}

// inbound chooses what a client outside sends.
func (p *planner) inbound(f ruleset.Family) {
	in, family := p.c.Inbound, ", "+f.String()
	if in.Mode == intercept.InboundOff {
		return
	}
	what := "a client's connection" + family
	if p.pod.Outside != nil {
		if len(in.IncludePorts) > 0 {
			p.missing(what, "no client outside the pod can be made: "+p.pod.Outside.Error())
		}
		return
	}
	ports := []uint16{9, 7, 13, 19, 8080, 80, 443}
	slices.SortStableFunc(ports, func(a, b uint16) int {
		return cmp.Compare(count(p.pod.listens(ruleset.TCP, a)), count(p.pod.listens(ruleset.TCP, b)))
	})
	ports = append(ports, portsOf(in.IncludePorts)...)
	own := p.reach[f].addr
	var from netip.Addr
	at := uint16(0)
	for _, src := range clients(f) {
		for _, port := range ports {
			k, ok := p.arriving(ruleset.TCP, src, netip.AddrPortFrom(own, port))
			t, err := p.rs.Trace(k)
			if ok && err == nil && at == 0 && (captures(t) || t.Fate.Action == ruleset.Rejected) {
				from, at = src, port
			}
		}
	}
	switch {
	case at != 0:
		k, _ := p.arriving(ruleset.TCP, from, netip.AddrPortFrom(own, at))
		p.try(what, k)
	case len(in.IncludePorts) > 0:
		p.missing(what, "an exclusion lets in every connection that was thought of")
		fallthrough
	default:
		from, at = clients(f)[0], 9
	}
	arrives := func(what string, proto ruleset.Protocol, srcs []netip.Addr, dst netip.Addr, ports []uint16) {
		for _, src := range srcs {
			for _, port := range ports {
				k, ok := p.arriving(proto, src, netip.AddrPortFrom(dst, port))
				if p.offer(what+family, k, ok) {
					return
				}
			}
		}
	}
	here, now := []netip.Addr{from}, []uint16{at}
	if p.c.TunnelPort != 0 {
		arrives("the tunnel port", ruleset.TCP, here, own, []uint16{p.c.TunnelPort})
	}
	arrives("an excluded port, inbound", ruleset.TCP, here, own, portsOf(in.ExcludePorts))
	arrives("an excluded client", ruleset.TCP, p.strangers(members(in.ExcludeSources, f)), own, now)
	for i, e := range in.Exclude {
		srcs, ports := here, now
		if len(e.Sources) > 0 && !e.Sources.All() {
			srcs = p.strangers(members(e.Sources, f))
		}
		if len(e.Ports) > 0 && !e.Ports.All() {
			ports = portsOf(e.Ports)
		}
		arrives(fmt.Sprintf("inbound exclusion %d", i+1), ruleset.TCP, srcs, own, ports)
	}
	arrives("a port that is not included", ruleset.TCP, here, own, append(usual(), 7, 11, 13))
	arrives("UDP, inbound", ruleset.UDP, here, own, []uint16{9})
	arrives("what is not for the pod", ruleset.TCP, here, documentation(f)[0], now)
}

// strangers are those addresses that a client outside can have: unicast, and not the pod's own.
func (p *planner) strangers(all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(all, func(a netip.Addr) bool {
		return p.pod.own(a) || !a.IsGlobalUnicast() || a.IsLoopback()
	})
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// missing says what has to be proven and cannot be tried.
func (p *planner) missing(what, why string) {
	p.plan.Verdicts = append(p.plan.Verdicts, Verdict{What: what, Verdict: NotProven, Found: "not tried: " + why,
		Remedy: "run verify where it can be tried, or accept that with --allow-unproven"})
}

// RandomPort is one of [SourcePorts].
func RandomPort() uint16 {
	return SourcePorts.First + rand.N(SourcePorts.Last-SourcePorts.First+1)
}
