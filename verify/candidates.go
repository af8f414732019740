package verify

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// What could be tried of each part of a configuration. The first rows of each list are what has to be proven; the
// others are taken if they meet a rule that none before has met.

func tcp() []ruleset.Protocol { return []ruleset.Protocol{ruleset.TCP} }
func udp() []ruleset.Protocol { return []ruleset.Protocol{ruleset.UDP} }

// usual are the ports at which servers are.
func usual() []uint16 { return []uint16{80, 443, 8080, 9} }

// quiet are ports at which hardly anybody listens.
func quiet() []uint16 { return []uint16{9, 7, 13, 19, 1} }

// goesSomewhere is what has to become of what is included: it is captured, or rejected if its family is left out.
func goesSomewhere(t ruleset.Trace) bool { return isCaptured(t) || t.Fate.Action == ruleset.Rejected }

func passes(t ruleset.Trace) bool { return t.Fate.Action == ruleset.Pass }

func of(f ruleset.Family, addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return ruleset.FamilyOf(a) != f })
}

// base is the first connection of an app's that is captured, and without one something that the app can send.
func (p *planner) base(f ruleset.Family) (sender, netip.Addr, uint16) {
	for _, probe := range p.plan.Probes {
		k := probe.Packet
		if probe.Family() == f && k.Hook == ruleset.Output && k.Protocol == ruleset.TCP && goesSomewhere(probe.Trace) {
			return sender{who: "an app", owner: *k.Owner, anybody: true}, k.Dst.Addr(), k.Dst.Port()
		}
	}
	return apps(p.c)[0], p.reach[f].dst[0], usual()[0]
}

// outbound are candidates of what the pod sends to others.
func (p *planner) outbound(f ruleset.Family) (all []candidate) {
	o := p.c.Outbound
	base := candidate{what: "an app's connection", senders: apps(p.c), protos: tcp(),
		dsts:  slices.Concat(p.reach[f].dst, included(o, f)),
		ports: append(usual(), portsOf(o.IncludePorts)...), wants: goesSomewhere}
	if len(o.IncludeCIDRs.Of(f))+len(o.IncludePorts) > 0 {
		base.why = "this pod reaches nothing of what is included"
	}
	p.take(base, f)
	app, dst, port := p.base(f)
	add := func(what string, s sender, protos []ruleset.Protocol, dsts []netip.Addr, ports ...uint16) {
		all = append(all, candidate{what: what, senders: []sender{s}, protos: protos, dsts: dsts, ports: ports})
	}
	here := []netip.Addr{dst}
	anywhere := append(here, p.reach[f].dst...)
	for _, s := range proxies(p.c) {
		all = append(all, candidate{what: s.who, senders: []sender{s}, protos: tcp(), dsts: here, ports: []uint16{port},
			wants: passes, why: "a rule captures what the proxy sends"})
	}
	for _, s := range proxies(p.c) {
		// What ours let go, a rule of another's may send back, by its port.
		if port != 443 {
			all = append(all, candidate{what: s.who + ", to port 443", senders: []sender{s}, protos: tcp(), dsts: here,
				ports: []uint16{443}, wants: passes})
		}
	}
	for _, dst := range named(p.pod.Others, true, f, ruleset.Output, dst) {
		all = append(all, candidate{what: "an app's connection, to what another's rule names", senders: []sender{app},
			protos: tcp(), dsts: []netip.Addr{dst.Addr()}, ports: []uint16{cmp.Or(dst.Port(), port)}, wants: goesSomewhere, once: true})
	}
	add("an included network", app, tcp(), included(o, f), append(usual(), port)...)
	add("an included port", app, tcp(), anywhere, portsOf(o.IncludePorts)...)
	add("an excluded port", app, tcp(), here, portsOf(o.ExcludePorts)...)
	add("an excluded network", app, tcp(), members(o.ExcludeCIDRs, f), append(usual(), port)...)
	add("what is not included", app, tcp(), anywhere, append(usual(), 7)...)
	for _, t := range o.Target {
		add("the proxy outside the pod", app, tcp(), of(f, []netip.Addr{t.Addr()}), t.Port())
	}
	for _, s := range listed(p.c) {
		add(s.who, s, tcp(), here, port)
	}
	for i, e := range o.Exclude {
		all = append(all, p.exclusion(f, i, e, app, dst, port))
	}
	add("UDP of the port of QUIC", app, udp(), anywhere, 443)
	add("UDP", app, udp(), anywhere, append(portsOf(o.IncludePorts), 9)...)
	for _, i := range p.pod.Interfaces {
		if matches(p.c.ExcludeInterfaces, i.Name) {
			add("the excluded interface "+i.Name, app, tcp(), members(p.pod.Networks, f), port)
		}
	}
	for _, dst := range named(p.pod.Others, false, f, ruleset.Output, dst) {
		for _, s := range append(proxies(p.c), app) {
			c := candidate{what: s.who + ", to what another's rule names", senders: []sender{s}, protos: tcp(),
				dsts: []netip.Addr{dst.Addr()}, ports: []uint16{cmp.Or(dst.Port(), port)}, wants: passes, once: true}
			all = append(all, c)
		}
	}
	return all
}

// named are where rules of others, of a hook, ask packets to go: a few. dst stands where they name no address; a port that
// they do not name is 0. The others are those that act on what ours capture, or on what they let go.
func named(others []Other, captured bool, f ruleset.Family, hook ruleset.Hook, dst netip.Addr) (all []netip.AddrPort) {
	const most = 8
	add := func(to netip.AddrPort) {
		if len(all) < most && !slices.Contains(all, to) {
			all = append(all, to)
		}
	}
	for _, o := range others {
		if len(all) >= most {
			break
		}
		if o.Captured != captured || o.Hook != hook.String() || !slices.Contains(o.Families, f) {
			continue
		}
		for _, port := range o.Ports {
			add(netip.AddrPortFrom(dst, port))
		}
		for _, a := range of(f, o.Dsts) {
			if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
				continue
			}
			if len(all) >= most {
				break
			}
			add(netip.AddrPortFrom(a, 0))
			for _, port := range o.Ports {
				add(netip.AddrPortFrom(a, port))
			}
		}
	}
	return all
}

// included are members of the networks that are included, if not all are.
func included(o intercept.Outbound, f ruleset.Family) []netip.Addr {
	if o.IncludeCIDRs.All() {
		return nil
	}
	return members(o.IncludeCIDRs, f)
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return ruleset.InterfaceMatches(p, name) })
}

// exclusion is a candidate for one rule of the list of exclusions.
func (p *planner) exclusion(f ruleset.Family, i int, e intercept.Exclusion, app sender, dst netip.Addr,
	port uint16) candidate {
	c := candidate{what: fmt.Sprintf("exclusion %d", i+1), protos: []ruleset.Protocol{ruleset.TCP, ruleset.UDP},
		dsts: []netip.Addr{dst}, ports: []uint16{port}}
	if e.Protocol != 0 {
		c.protos = []ruleset.Protocol{e.Protocol}
	}
	if len(e.CIDRs) > 0 && !e.CIDRs.All() {
		c.dsts = members(e.CIDRs, f)
	}
	if len(e.Ports) > 0 && !e.Ports.All() {
		c.ports = portsOf(e.Ports)
	}
	if len(e.UIDs)+len(e.GIDs) > 0 {
		app.anybody = false
	}
	if len(e.UIDs) > 0 {
		app.owner.UID = first(idsOf(e.UIDs))
	}
	if len(e.GIDs) > 0 {
		app.owner.GID = first(idsOf(e.GIDs))
	}
	c.senders = []sender{app}
	return c
}

// lookups are candidates of what asks for names.
func (p *planner) lookups(f ruleset.Family) (all []candidate) {
	if p.c.DNS.Mode == intercept.DNSOff {
		return nil
	}
	servers := p.reach[f].dst
	if p.c.DNS.Mode == intercept.DNSResolvConf {
		servers = of(f, p.c.DNS.Servers)
	}
	if len(servers) == 0 {
		return nil
	}
	for _, protos := range [][]ruleset.Protocol{udp(), tcp()} {
		if protos[0] == ruleset.TCP && !p.c.DNS.TCP {
			continue
		}
		over := "lookup over " + strings.ToUpper(protos[0].String())
		c := candidate{what: "an app's " + over, senders: apps(p.c), protos: protos, dsts: servers, ports: []uint16{53},
			wants: goesSomewhere, why: "none that is captured can be sent here"}
		all = append(all, c)
		for _, s := range proxies(p.c) {
			c.what, c.senders, c.wants, c.why = s.who+", a "+over, []sender{s}, passes, "a rule captures what the proxy sends"
			all = append(all, c)
		}
	}
	return all
}

// inside are candidates of what the pod sends to itself.
func (p *planner) inside(f ruleset.Family) (all []candidate) {
	app, _, _ := p.base(f)
	ports := p.free(quiet())
	own := []netip.Addr{p.reach[f].addr}
	all = append(all,
		candidate{what: "an app's call inside the pod", senders: []sender{app}, protos: tcp(), dsts: own, ports: ports},
		candidate{what: "an app's call to a loopback network", senders: []sender{app}, protos: tcp(),
			dsts: members(p.c.Loopback, f), ports: ports},
		candidate{what: "an app's call to loopback", senders: []sender{app}, protos: tcp(),
			dsts: []netip.Addr{localhost(f)}, ports: ports,
			wants: func(ruleset.Trace) bool { return true }, why: "no route leads to it: lo is down, or has lost it"})
	for _, s := range proxies(p.c) {
		all = append(all, candidate{what: s.who + ", to its own pod", senders: []sender{s}, protos: tcp(), dsts: own,
			ports: ports, lenient: true})
	}
	for _, src := range of(f, p.c.PassthroughSources) {
		if p.pod.own(src) {
			all = append(all, candidate{what: "the proxy's call from its passthrough source", senders: proxies(p.c),
				protos: tcp(), dsts: own, ports: ports, src: src})
		}
	}
	return all
}

// free returns the ports at which nobody listens, and then the others: nobody is to be disturbed.
func (p *planner) free(ports []uint16) []uint16 {
	taken := func(port uint16) bool { return p.pod.listens(ruleset.TCP, port) }
	return append(slices.DeleteFunc(slices.Clone(ports), taken),
		slices.DeleteFunc(slices.Clone(ports), func(port uint16) bool { return !taken(port) })...)
}

// inbound are candidates of what a client outside sends.
func (p *planner) inbound(f ruleset.Family) (all []candidate) {
	in := p.c.Inbound
	if in.Mode == intercept.InboundOff {
		return nil
	}
	// Over IPv6 the interface has at least a link-local address.
	if p.reach[f].onLo && f == ruleset.IPv4 && in.Mode == intercept.InboundRedirect {
		p.plan.Verdicts = append(p.plan.Verdicts, Verdict{What: "a client's connection, " + f.String(), Verdict: Failed,
			Found: fmt.Sprintf("lo alone has the address %s: a redirect of what arrives goes to an address of the interface by "+
				"which it has come, which has none, so that it is lost", p.reach[f].addr),
			Remedy: "use --inbound-mode tproxy, or give the address to the interface"})
		return nil
	}
	own := []netip.Addr{p.reach[f].addr}
	c := candidate{what: "a client's connection", clients: of(f, p.pod.Outside.Clients), way: p.outside(f), protos: tcp(),
		dsts: own, ports: append(p.free(append(quiet(), usual()...)), portsOf(in.IncludePorts)...), wants: goesSomewhere}
	if len(in.IncludePorts) > 0 {
		c.why = "an exclusion lets in every connection that was thought of"
	}
	if p.pod.NoOutside != nil {
		if c.why != "" {
			p.untried(c.what, f)
		}
		return nil
	}
	at := c.ports[:1]
	if p.take(c, f) {
		k := p.plan.Probes[len(p.plan.Probes)-1].Packet
		c.clients, at = []netip.Addr{k.Src.Addr()}, []uint16{k.Dst.Port()}
	}
	c.wants, c.why = nil, ""
	add := func(what string, protos []ruleset.Protocol, clients, dsts []netip.Addr, ports []uint16) {
		c.what, c.protos, c.clients, c.dsts, c.ports = what, protos, clients, dsts, ports
		all = append(all, c)
	}
	from := c.clients
	add("the tunnel port", tcp(), from, own, []uint16{p.c.TunnelPort})
	add("an excluded port, inbound", tcp(), from, own, portsOf(in.ExcludePorts))
	add("an excluded client", tcp(), p.strangers(members(in.ExcludeSources, f)), own, at)
	for i, e := range in.Exclude {
		srcs, ports := from, at
		if len(e.Sources) > 0 && !e.Sources.All() {
			srcs = p.strangers(members(e.Sources, f))
		}
		if len(e.Ports) > 0 && !e.Ports.All() {
			ports = portsOf(e.Ports)
		}
		add(fmt.Sprintf("inbound exclusion %d", i+1), tcp(), srcs, own, ports)
	}
	add("a port that is not included", tcp(), from, own, p.free(append(quiet(), usual()...)))
	add("UDP, inbound", udp(), from, own, quiet())
	toNamed := func(captured bool, wants func(ruleset.Trace) bool) {
		for _, dst := range named(p.pod.Others, captured, f, ruleset.Prerouting, own[0]) {
			if dst.Addr() == own[0] {
				add("a client, to what another's rule names", tcp(), from, own, []uint16{dst.Port()})
				all[len(all)-1].wants, all[len(all)-1].once = wants, true
			}
		}
	}
	toNamed(true, goesSomewhere)
	toNamed(false, passes)
	add("what is not for the pod", tcp(), from, documentation(f), at)
	return all
}

// outside is the way of a client outside: it finds the pod at the address by which others reach it.
func (p *planner) outside(f ruleset.Family) Way {
	w := p.pod.Outside
	w.Own = []netip.Addr{p.reach[f].addr}
	return w
}

// untried says what is known of inbound connections where no client outside can be made.
func (p *planner) untried(what string, f ruleset.Family) {
	what += ", " + f.String()
	at := netip.AddrPortFrom(p.reach[f].addr, p.c.Inbound.Port.First)
	known := slices.ContainsFunc(p.pod.Sockets, func(s Socket) bool { return s.Protocol == ruleset.TCP })
	serves := func(s Socket) bool { return s.Serves(ruleset.TCP, at) }
	if known && !slices.ContainsFunc(p.pod.Sockets, serves) {
		p.plan.Verdicts = append(p.plan.Verdicts, Verdict{What: what, Verdict: Failed,
			Found: fmt.Sprintf("nobody listens at %s, where what arrives is sent", at), Remedy: startListen})
		return
	}
	p.missing(what, fmt.Sprintf("no client outside the pod can be made (%s); the pod's own calls do not show that what "+
		"arrives is captured", p.pod.NoOutside))
}

// strangers are those addresses that a client outside can have: unicast, and not the pod's own.
func (p *planner) strangers(all []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(all, func(a netip.Addr) bool {
		return p.pod.own(a) || !a.IsGlobalUnicast() || a.IsLoopback()
	})
}

// behind are candidates of what a machine or a container behind the pod sends.
func (p *planner) behind(f ruleset.Family) (all []candidate) {
	o := p.c.Outbound
	for _, w := range p.pod.Behind {
		c := candidate{clients: of(f, w.Clients), way: w}
		add := func(what string, protos []ruleset.Protocol, dsts []netip.Addr, ports ...uint16) {
			c.what, c.protos, c.dsts, c.ports = what+" from behind "+w.Interface, protos, dsts, ports
			all = append(all, c)
		}
		dsts := slices.Concat(p.reach[f].dst, included(o, f))
		c.wants = goesSomewhere
		add("a connection", tcp(), dsts, append(usual(), portsOf(o.IncludePorts)...)...)
		if p.c.DNS.Mode != intercept.DNSOff && p.c.DNS.TCP && p.c.DNS.Virtual {
			servers := p.reach[f].dst
			if p.c.DNS.Mode == intercept.DNSResolvConf {
				servers = of(f, p.c.DNS.Servers)
			}
			add("a lookup over TCP", tcp(), servers, 53)
		}
		c.wants = nil
		add("an excluded port", tcp(), dsts, portsOf(o.ExcludePorts)...)
		add("an excluded network", tcp(), members(o.ExcludeCIDRs, f), usual()...)
		add("an included network", tcp(), included(o, f), usual()...)
		add("what is not included", tcp(), dsts, append(usual(), 7)...)
		add("UDP", udp(), dsts, 443, 9)
	}
	return all
}
