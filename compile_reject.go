package intercept

import (
	"net/netip"
	"slices"
)

// Rejection, line O13, and what is rejected of a family that is not captured. A reject has to be in a chain that sees
// packets after their translation: by then what was captured goes to a port of the pod or to a target, which is left
// alone.

// The scopes of the lines that are asked again here.
const (
	scopeReject        = "reject"
	scopeRejectVirtual = "reject-virtual"
	scopeRejectInput   = "reject-input"
	scopeRejectForward = "reject-forward"
)

// rejectsOtherFamily reports whether there are rules for a family that is not captured.
func (c Config) rejectsOtherFamily() bool {
	return c.OtherFamily == TreatmentReject && len(c.families()) == 1
}

// rejectsUDP reports whether any UDP is rejected.
func (c Config) rejectsUDP() bool {
	return c.Outbound.UDP == TreatmentReject || c.Outbound.QUIC == TreatmentReject
}

// rejections are the rules that reject, for each hook, and the chains that they lead to. Behind a backstop they are
// chains that it leads to; without one they are base chains.
type rejections struct {
	output, input, forward []Rule
	// chains are all, those of output, input and forward among them.
	chains []Chain
}

// bases returns the chains with hooks of their own.
func (r rejections) bases() []Chain {
	hooks := map[string]Hook{ChainRejectOutput: Output, ChainRejectInput: Input, ChainRejectForward: Forward}
	for i, c := range r.chains {
		if hook := hooks[c.Name]; hook != 0 {
			r.chains[i].Hook, r.chains[i].Priority = hook, PriorityFilter
		}
	}
	return r.chains
}

// rejections returns what rejects.
func (c Config) rejections() (r rejections) {
	other := c.rejectsOtherFamily()
	if !c.rejectsUDP() && !other {
		return r
	}
	rules, chains := c.sent(scopeReject, nil, c.rejected(scopeReject), ChainRejectIncluded, FilterChain)
	r.output = append(in(scopeReject, "", c.notToReject()), rules...)
	r.chains = append(chains, Chain{Name: ChainRejectOutput, Rules: r.output})

	// What arrives: for the pod itself, or to be forwarded by it.
	var arriving []Rule
	if len(c.VirtualInterfaces) > 0 {
		virtual := append(c.notToReject(), c.exclusions(Return{}, Exclusion.ownerless)...)
		virtual = append(in(scopeRejectVirtual, "", virtual), c.ofGuests().rejected(scopeRejectVirtual)...)
		r.chains = append(r.chains, Chain{Name: ChainRejectVirtual, Rules: virtual})
		arriving = c.fromBehind(Goto{Chain: ChainRejectVirtual})
	}
	if other && c.Inbound.Mode != InboundOff {
		arriving = append(arriving, c.rejectedInbound()...)
	}
	if len(arriving) == 0 {
		return r
	}
	arriving = append(c.excludedInInterfaces(), arriving...)
	input := slices.Clone(arriving)
	if len(c.VirtualInterfaces) > 0 && c.ofGuests().capturesDNS() && len(c.DNS.Target) == 0 {
		// It has been redirected to the interface's own address.
		match := []Match{Proto{UDP}, DstPort{Port(c.DNS.Port)}}
		input = append([]Rule{rule("O8.redirected", "a captured name lookup", match, Return{})}, input...)
	}
	r.input = in(scopeRejectInput, "", input)
	r.forward = in(scopeRejectForward, "", arriving)
	r.chains = append(r.chains, Chain{Name: ChainRejectInput, Rules: r.input},
		Chain{Name: ChainRejectForward, Rules: r.forward})
	return r
}

// rejectedInbound returns lines I4 to I7 for the family that is not captured.
func (c Config) rejectedInbound() []Rule {
	rules := append([]Rule{rule("I8.inside", "inside the pod", []Match{arrivingByLo}, Return{})}, c.notInbound()...)
	for _, d := range c.inboundDestinations() {
		match := slices.Concat(opens(), d.match, []Match{IsFamily(c.families()[0].Other())})
		if c.Backstop == BackstopOff {
			match = append(match, CTNew)
		}
		rules = append(rules, rule(d.id, d.reason+", of a family that is not captured", match, Reject{}))
	}
	return rules
}

// notToReject returns the rules that let go what no line of the policy rejects: answers, other protocols, and what has
// been captured.
func (c Config) notToReject() []Rule {
	rules := []Rule{rule("O14.protocol", "neither TCP nor UDP", []Match{not(Proto{TCP, UDP})}, Return{})}
	switch c.Backstop {
	case BackstopOn:
		// An entry that the proxy or an excluded user has made is no answer (B7).
		rules = append(rules, rule("O14.reply", "an answer", []Match{Proto{UDP}, CTReply}, Return{}))
	case BackstopSyn:
		rules = append(rules, rule("O14.known", "of a flow that is there", []Match{Proto{UDP}, not(CTNew)}, Return{}))
	case BackstopOff:
		rules = append(rules, rule("O14.known", "of a connection that is there", []Match{not(CTNew)}, Return{}))
	}
	if c.capturesDNS() {
		rules = append(rules, atResolver(Proto{TCP, UDP}, c.DNS.Target)...)
	}
	return rules
}

// atResolver returns the rules that let go what has come to a resolver outside the sidecar.
func atResolver(protos Proto, target []netip.AddrPort) []Rule {
	var rules []Rule
	for _, to := range target {
		match := []Match{protos, Dst(single([]netip.Addr{to.Addr()})), DstPort{Port(to.Port())}}
		rules = append(rules, rule("O8.target"+ofFamily(FamilyOf(to.Addr())), "a captured name lookup", match, Return{}))
	}
	return rules
}

// toResolver returns the rules for lookups over TCP that O8 sends to where they go anyway, of which no translation
// tells.
func (c Config) toResolver(scope string) []Rule {
	if !c.capturesDNS() || !c.DNS.TCP {
		return nil
	}
	elsewhere := func(to netip.AddrPort) bool {
		asked := c.DNS.Mode == DNSAll || slices.Contains(c.DNS.Servers, to.Addr())
		return to.Port() != dnsPort || !asked
	}
	return in(scope, "", atResolver(Proto{TCP}, slices.DeleteFunc(slices.Clone(c.DNS.Target), elsewhere)))
}

// rejected returns lines O8 to O14 as far as they reject.
func (c Config) rejected(scope string) []Rule {
	var rules []Rule
	other := c.rejectsOtherFamily()
	left := IsFamily(c.families()[0].Other())
	if other {
		for _, l := range c.lookups() {
			rules = append(rules, rule(l.id, "a name lookup, of a family that is not captured", append(l.match, left), Reject{}))
		}
	}
	rules = append(rules, c.leftAlone()...)
	for _, d := range c.outboundDestinations() {
		if other {
			match := slices.Concat(opens(), d.match, []Match{left})
			rules = append(rules, rule(d.id, d.reason+", of a family that is not captured", match, Reject{}))
		}
	}
	for _, d := range c.outboundDestinations() {
		match := slices.Concat([]Match{Proto{UDP}}, d.match)
		switch {
		case c.Outbound.UDP == TreatmentReject:
		case c.Outbound.QUIC == TreatmentReject && d.id == "O11":
			if !c.Outbound.IncludePorts.Contains(quicPort) {
				continue
			}
			match = []Match{Proto{UDP}, DstPort{Port(quicPort)}}
		case c.Outbound.QUIC == TreatmentReject:
			match = append(match, DstPort{Port(quicPort)})
		default:
			continue
		}
		rules = append(rules, rule("O13."+d.id, "UDP, which the proxy does not take: "+d.reason, match, Reject{}))
	}
	if scope == scopeReject {
		rules = c.ofProcesses(rules)
	}
	return in(scope, "", append(rules, rule("O14", "not included", nil, Return{})))
}
