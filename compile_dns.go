package intercept

import (
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Conntrack zones of name lookups, lines Z0 to Z2.
//
// Redirected UDP lookups and the resolver's own lookups upstream can use the same addresses and ports at the same time.
// Conntrack binds a translation to that tuple, so in one table the answer to one would be given to the other. Two zones
// keep them apart: what goes to or comes from a real server is in zone 1 (Z1), what goes between the application and
// the resolver in zone 2 (Z2). All else is in zone 0 (Z0).
const (
	zoneUpstream = 1
	zoneCaptured = 2

	scopeUpstream = "Z1"
	scopeCaptured = "Z2"

	exempt     = "zone of a lookup left alone"
	redirected = "zone of a captured lookup"
)

// zones returns the chains that choose a zone. With a resolver outside the pod captured lookups stay in zone 0, and the
// others go to zone 1 all the same: app and proxy can use one tuple there, too.
func (c Config) zones() []Chain {
	if !c.capturesDNS() {
		return nil
	}
	chains := []Chain{
		{Name: ChainRawPrerouting, Hook: Prerouting, Priority: PriorityRaw, Rules: c.zonesOfArrivals()},
		{Name: ChainRawOutput, Hook: Output, Priority: PriorityRaw, Rules: c.zonesOfQueries()},
	}
	if len(c.VirtualInterfaces) > 0 {
		chains = append(chains, Chain{Name: ChainRawVirtual, Rules: c.zonesOfVirtual()})
	}
	return chains
}

// zonesOfQueries returns the zones of what the pod sends. It follows lines O1 to O7, so that a lookup is in zone 2
// exactly if O8 redirects it.
func (c Config) zonesOfQueries() []Rule {
	upstream, captured := CTZone{Zone: zoneUpstream}, c.zoneOfCaptured()
	errors := Proto{ICMP, ICMPv6}
	rules := []Rule{

		rule("Z0.protocol", "neither UDP nor ICMP", []Match{not(Proto{UDP, ICMP, ICMPv6})}, Return{}),
	}
	add := func(r ...Rule) { rules = append(rules, r...) }
	inside := len(c.resolverOutside()) == 0
	if inside {
		// If nothing listens on the DNS port the kernel says so, and conntrack has to find the lookup to translate
		// that for who asked.
		for _, name := range append([]string{ruleset.Loopback}, unique(c.VirtualInterfaces)...) {
			match := []Match{errors, OutInterface(name)}
			add(rule(byInterface("Z2.icmp", name), "zone of errors to captured lookups", match, captured))
		}
	}
	// A late answer finds no socket, and the kernel's error about it would leave the pod with the name in it: conntrack
	// has to find the lookup, to send it to the resolver (B10).
	if inside {
		add(rule("B10", "an error about a captured answer", []Match{errors, ICMPQuote{SrcPort: dnsPort}}, captured))
	}
	add(rule("Z0.icmp", "other ICMP", []Match{errors}, Return{}))
	if inside {
		for _, who := range c.proxy() {
			match := []Match{Proto{UDP}, SrcPort{Port(c.resolverPort())}, who.match}
			add(rule("Z2.proxy."+who.id, "zone of the resolver's answers ("+who.by+")", match, captured))
		}
	}
	add(c.notCapturedLookups()...)
	add(in(scopeUpstream, exempt, c.excludedOutInterfaces(upstream))...)
	add(in(scopeUpstream, exempt, c.passthrough(upstream))...)
	add(in(scopeUpstream, exempt, c.fromProxy(upstream))...)
	add(in(scopeUpstream, exempt, c.exclusions(upstream, Exclusion.concernsDNS))...)
	add(in(scopeUpstream, exempt, c.excludedOwners(upstream))...)
	if c.includesOwners() {
		add(in(scopeCaptured, redirected, c.includedOwners(captured))...)
		add(rule("Z1/O7.other", exempt+": its owner is not included", nil, upstream))
		return rules
	}
	add(rule("Z2", redirected, nil, captured))
	return rules
}

// zonesOfArrivals returns the zones of the servers' answers, which are known by the source they come from, and of
// lookups from behind the pod.
func (c Config) zonesOfArrivals() []Rule {
	const scope = "arrives"
	match := []Match{Proto{UDP}, SrcPort{Port(dnsPort)}}
	if c.DNS.Mode == DNSResolvConf {
		match = append(match, Src(c.dnsServers()))
	}
	rules := []Rule{rule(RuleID("Z0.protocol").In(scope), "not UDP", []Match{not(Proto{UDP})}, Return{})}
	if to := c.resolverOutside(); len(to) > 0 {
		rules = append(rules, rule(RuleID("Z0.resolver").In(scope), "from the resolver outside the pod", []Match{Src(to)},
			Return{}))
	}
	rules = append(rules, in(scope, "", c.fromBehind(Goto{Chain: ChainRawVirtual}))...)
	return append(rules, rule(RuleID("Z1").In(scope), "zone of the servers' answers", match, CTZone{Zone: zoneUpstream}))
}

// zonesOfVirtual follows line I2: lookups that are left alone are the pod's to forward, and their answers come in by
// zone 1.
func (c Config) zonesOfVirtual() []Rule {
	rules := c.notCapturedLookups()
	for _, r := range c.excludedInInterfaces() {
		r.Target = CTZone{Zone: zoneUpstream}
		rules = append(rules, in(scopeUpstream, exempt, []Rule{r})...)
	}
	concerns := func(e Exclusion) bool { return e.ownerless() && e.concernsDNS() }
	rules = append(rules, in(scopeUpstream, exempt, c.exclusions(CTZone{Zone: zoneUpstream}, concerns))...)
	rules = append(rules, rule("Z2", redirected, nil, c.zoneOfCaptured()))
	return in("virtual", "", rules)
}

// notCapturedLookups are the rules that let all but captured servers' lookups go.
func (c Config) notCapturedLookups() []Rule {
	rules := []Rule{rule("Z0.ports", "not a name lookup", []Match{Proto{UDP}, not(DstPort{Port(dnsPort)})}, Return{})}
	if c.DNS.Mode == DNSResolvConf {
		rules = append(rules, rule("Z0.servers", "not a server of resolv.conf", []Match{not(Dst(c.dnsServers()))}, Return{}))
	}
	if to := c.resolverOutside(); len(to) > 0 {
		rules = append(rules, rule("Z0.resolver", "to the resolver outside the pod", []Match{Dst(to)}, Return{}))
	}
	return rules
}

// zoneOfCaptured is what becomes of a lookup that O8 captures.
func (c Config) zoneOfCaptured() Target {
	if len(c.resolverOutside()) > 0 {
		return Return{}
	}
	return CTZone{Zone: zoneCaptured}
}

// resolverOutside are the addresses of a resolver that is not in the pod. What goes to it stays in zone 0, captured or
// not: its answers come from the network like ICMP errors about them, which can have no other zone.
func (c Config) resolverOutside() (addrs CIDRs) {
	if leavesPod(c.DNS.Target) {
		for _, to := range c.DNS.Target {
			addrs = append(addrs, single([]netip.Addr{to.Addr()})...)
		}
	}
	return addrs
}

// toServers are the destinations of the lookups that are captured, where not all are.
func (c Config) toServers() []Match {
	switch {
	case c.DNS.Mode == DNSResolvConf:
		return []Match{Dst(c.dnsServers())}
	case leavesPod(c.DNS.Target):
		return []Match{not(Dst(loopbackNetworks()))}
	}
	return nil
}

// dnsServers are the servers to which lookups are captured in mode resolvconf.
func (c Config) dnsServers() CIDRs {
	servers := c.DNS.Servers
	if leavesPod(c.DNS.Target) {
		// A packet with a loopback address cannot leave the host.
		servers = slices.DeleteFunc(slices.Clone(servers), netip.Addr.IsLoopback)
	}
	return single(servers)
}

// resolverPort is where the resolver in the pod listens.
func (c Config) resolverPort() uint16 {
	if len(c.DNS.Target) > 0 {
		return c.DNS.Target[0].Port()
	}
	return c.DNS.Port
}
