package intercept

import (
	"net/netip"
	"slices"
)

// The conntrack zone of name lookups, lines Z0 and Z2, and B10.
//
// Redirected UDP lookups and the resolver's own lookups upstream can use the same addresses and ports at the same time.
// Conntrack binds a translation to that tuple, so in one table the answer to one would be given to the other. So a
// captured lookup makes an entry of another zone (Z2). Only its original direction is in that zone: answers, and ICMP
// errors about it, are found where all others are (Z0), whoever sends them and whatever NAT they go through. And a
// datagram to port 53 that answers an earlier one is found by its conversation, and is no lookup.
const (
	zoneCaptured = 2

	scopeUsual    = "Z0"
	scopeCaptured = "Z2"

	exempt     = "a lookup left alone"
	redirected = "zone of a captured lookup"
)

// zones returns the chains that choose a zone.
func (c Config) zones() []Chain {
	if !c.capturesDNS() {
		return nil
	}
	chains := []Chain{{Name: ChainRawOutput, Hook: Output, Priority: PriorityRaw, Rules: c.zonesOfQueries()}}
	if len(c.VirtualInterfaces) > 0 && c.DNS.Virtual {
		rules := notLookups()
		rules = append(rules, c.excludedInInterfaces()...)
		rules = append(rules, c.fromBehind(Goto{Chain: ChainRawVirtual})...)
		chains = append(chains,
			Chain{Name: ChainRawPrerouting, Hook: Prerouting, Priority: PriorityRaw, Rules: in("arrives", "", rules)},
			Chain{Name: ChainRawVirtual, Rules: c.zonesOfVirtual()})
	}
	return chains
}

// notLookups are the rules that nearly all packets meet: they can be no lookup, nor an error about one.
func notLookups() []Rule {
	return []Rule{
		uncounted(rule("Z0.tcp", "TCP", []Match{Proto{TCP}}, Return{})),
		uncounted(rule("Z0.ports", "not a name lookup", []Match{Proto{UDP}, not(DstPort{Port(dnsPort)})}, Return{})),
		rule("Z0.protocol", "neither UDP nor ICMP", []Match{not(Proto{UDP, ICMP, ICMPv6})}, Return{}),
	}
}

// zonesOfQueries returns the zones of what the pod sends. It follows lines O1 to O7, so that a lookup is in zone 2
// exactly if O8 captures it.
func (c Config) zonesOfQueries() []Rule {
	rules := append(notLookups(), c.notCapturedLookups()...)
	add := func(r ...Rule) { rules = append(rules, in(scopeUsual, exempt, r)...) }
	add(c.excludedOutInterfaces(Return{})...)
	add(c.passthrough(Return{})...)
	add(c.fromProxy(Return{})...)
	add(c.exclusions(Return{}, Exclusion.concernsDNS)...)
	add(c.excludedOwners(Return{})...)
	if !c.includesOwners() {
		return append(rules, rule("Z2", redirected, nil, CTZone{Zone: zoneCaptured}))
	}
	rules = append(rules, in(scopeCaptured, redirected, c.includedOwners(CTZone{Zone: zoneCaptured}))...)
	add(rule("O7.other", "its owner is not included", nil, Return{}))
	return rules
}

// zonesOfVirtual follows line I2: lookups that are left alone are the pod's to forward.
func (c Config) zonesOfVirtual() []Rule {
	rules := c.notCapturedLookups()
	concerns := func(e Exclusion) bool { return e.ownerless() && e.concernsDNS() }
	rules = append(rules, in(scopeUsual, exempt, c.exclusions(Return{}, concerns))...)
	return in("virtual", "", append(rules, rule("Z2", redirected, nil, CTZone{Zone: zoneCaptured})))
}

// notCapturedLookups are the rules that let the lookups of other servers than the captured ones go, and errors.
func (c Config) notCapturedLookups() []Rule {
	errors := Proto{ICMP, ICMPv6}
	rules := []Rule{
		// A late answer finds no socket, and the error about it would leave the pod with the name in it: conntrack has to
		// find the lookup, to send it to the resolver.
		rule("B10", "an error about a captured answer", []Match{errors, ICMPQuote{SrcPort: dnsPort}},
			CTZone{Zone: zoneCaptured}),
		rule("Z0.icmp", "other ICMP", []Match{errors}, Return{}),
	}
	switch {
	case c.DNS.Mode == DNSResolvConf:
		rules = append(rules, rule("Z0.servers", "not a server of resolv.conf", []Match{not(Dst(c.dnsServers()))}, Return{}))
	case leavesPod(c.DNS.Target):
		rules = append(rules, rule("Z0.loopback", "loopback, which cannot leave the pod", []Match{Dst(loopbackNetworks())},
			Return{}))
	}
	return rules
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
