package intercept

import (
	"fmt"
	"slices"
)

// Inbound, lines I1 to I8: what arrives in the pod. Mode tproxy has chains of its own (compile_tproxy.go).

// invalid returns the chain of line I3, which NAT chains cannot hold: they do not see invalid packets. In mode tproxy
// the line stands among the others.
func (c Config) invalid() []Chain {
	if !c.Inbound.DropInvalid || c.Inbound.Mode == InboundTProxy {
		return nil
	}
	rules := append(in("invalid", "", c.excludedInInterfaces()), c.dropInvalid())
	return []Chain{{Name: ChainInvalid, Hook: Prerouting, Priority: PriorityMangle, Rules: rules}}
}

// dropInvalid returns line I3.
func (c Config) dropInvalid() Rule {
	return rule("I3", "conntrack calls it invalid", []Match{CTInvalid}, Drop{})
}

// inbound returns the chains for what arrives: lines I1, I2 and I4 to I8. With inbound off there is none but for
// virtual interfaces, and in mode tproxy one that keeps the destination of what the proxy gets: others translate, too.
func (c Config) inbound() []Chain {
	virtual, redirect := len(c.VirtualInterfaces) > 0, c.Inbound.Mode == InboundRedirect
	if !virtual && c.Inbound.Mode == InboundOff {
		return nil
	}
	var rules []Rule
	if virtual || redirect {
		rules = c.excludedInInterfaces()                                  // I1
		rules = append(rules, c.fromBehind(Goto{Chain: ChainVirtual})...) // I2
	}
	if redirect {
		rules = append(rules, c.notOurs()...) // I9
	}
	if c.Inbound.Mode == InboundTProxy {
		rules = in("virtual", "", rules) // the lines stand in chain inbound, too
		captured := []Match{Proto{TCP}, ConnMark(c.Inbound.TProxy.SelfMark)}
		rules = append([]Rule{rule("I7.keep", "to the proxy, whatever others translate", captured, Keep{})}, rules...)
	}
	if redirect {
		rules = append(rules, c.notInbound()...) // I4-I6
		for _, d := range c.inboundDestinations() {
			rules = append(rules, rule(d.id, d.reason, append(opens(), d.match...), Redirect{Ports: c.Inbound.Port}))
		}
		rules = append(rules, rule("I8", "not included", nil, Return{}))
	}
	chains := []Chain{{Name: ChainPrerouting, Hook: Prerouting, Priority: PriorityFirstNAT, Type: NATChain, Rules: rules}}
	if virtual {
		chains = append([]Chain{{Name: ChainVirtual, Type: NATChain, Rules: c.virtual()}}, chains...)
	}
	return chains
}

// excludedInInterfaces returns line I1.
func (c Config) excludedInInterfaces() []Rule {
	var rules []Rule
	for _, name := range unique(c.ExcludeInterfaces) {
		rules = append(rules, rule(byInterface("I1", name), "excluded interface", []Match{InInterface(name)}, Return{}))
	}
	return rules
}

// notOurs returns line I9: what does not go to an address of the pod's. The kernel drops it; a redirect would give it
// an address of the pod's before the kernel asks whose it is, and hand a neighbour's frame to the proxy. A pod with
// virtual interfaces forwards, to what is behind them and to everybody else, and one may that is told to capture what it
// forwards: there only loopback is nobody's.
func (c Config) notOurs() []Rule {
	outside := []Match{Proto{TCP}, not(arrivingByLo)}
	rules := []Rule{rule("I9.loopback", "to loopback, from outside", slices.Concat(outside, []Match{Dst{loopbackIPv4}}),
		Return{})}
	if !c.forwards() {
		rules = append(rules, rule("I9", "not to an address of the pod", append(outside, not(ToLocal{})), Return{}))
	}
	return rules
}

// forwards reports whether what goes to others than the pod can be captured.
func (c Config) forwards() bool { return len(c.VirtualInterfaces) > 0 || c.Inbound.CaptureForwarded }

// fromBehind returns line I2: what arrives by a virtual interface, but TCP to a network behind it. With opening it is
// what opens a TCP connection alone.
func (c Config) fromBehind(t Target, opening ...Match) []Rule {
	var rules []Rule
	for _, name := range unique(c.VirtualInterfaces) {
		id, reason, match := byInterface("I2", name), "from behind the pod", []Match{InInterface(name)}
		behind, tcp := c.networksBehind(name), opening
		if len(behind) > 0 && len(opening) == 0 {
			rules = append(rules, rule(id+".other", reason+", not TCP", append(slices.Clone(match), not(Proto{TCP})), t))
			tcp = []Match{Proto{TCP}}
		}
		match = append(match, tcp...)
		if len(behind) > 0 {
			reason += ", not to a network there"
			match = append(match, not(Dst(behind)))
		}
		rules = append(rules, rule(id, reason, match, t))
	}
	return rules
}

// virtual returns what line I2 makes of what arrives from behind the pod: outbound traffic without owners.
func (c Config) virtual() []Rule {
	return in("virtual", "", append(c.exclusions(Return{}, Exclusion.ownerless), c.ofGuests().captured()...))
}

// ofGuests is the configuration for what comes from behind the pod.
func (c Config) ofGuests() Config {
	if !c.DNS.Virtual {
		c.DNS.Mode = DNSOff
	}
	return c
}

// notInbound returns lines I4 to I6.
func (c Config) notInbound() []Rule {
	var rules []Rule
	arriving := c.Inbound
	if c.TunnelPort != 0 {
		rules = append(rules, rule("I4", "the tunnel port", ports(Proto{TCP}, Ports{Port(c.TunnelPort)}), Return{}))
	}
	if len(arriving.ExcludeSources) > 0 {
		rules = append(rules, rule("I5.cidrs", "excluded source", []Match{Proto{TCP}, Src(arriving.ExcludeSources)},
			Return{}))
	}
	for i, e := range arriving.Exclude {
		match := []Match{Proto{TCP}}
		if len(e.Ports) > 0 {
			match = ports(Proto{TCP}, e.Ports)
		}
		if len(e.Sources) > 0 && !e.Sources.All() {
			match = append(match, Src(e.Sources))
		}
		rules = append(rules, rule(numbered("I5.exclude", i), fmt.Sprintf("exclusion %d", i+1), match, Return{}))
	}
	if len(arriving.ExcludePorts) > 0 {
		rules = append(rules, rule("I6", "excluded port", ports(Proto{TCP}, arriving.ExcludePorts), Return{}))
	}
	return rules
}

// inboundDestinations returns line I7.
func (c Config) inboundDestinations() []capture {
	switch p := c.Inbound.IncludePorts; {
	case p.All():
		return []capture{{"I7", "every port is included", nil}}
	case len(p) > 0:
		return []capture{{"I7", "included port", []Match{DstPort(p)}}}
	}
	return nil
}
