package intercept

import (
	"fmt"
	"net/netip"
	"slices"
)

// The backstop, lines B1 to B11: a second look at every packet, after NAT.
//
// NAT is asked once, for the first packet of a conntrack entry, and conntrack can be wrong about what that is: it
// forgot (a flush, a timeout, a full table), or it was told before, by a packet that opens nothing, by another sender
// from the same port, or from the other side. What is captured would then leave, or arrive, in clear. These chains
// judge each packet by its flags, its sender and its addresses, and by conntrack only where a line says so.
//
// The order of the lines is for speed: most packets meet two rules, "opens" and "translated" (TestWays).

// Scopes of outbound lines that the backstop asks again.
const (
	scopeSyn     = "syn"
	scopeStream  = "stream"
	scopeInput   = "input"
	scopeForward = "forward"
)

// filters returns the chains at priority 0, where packets have their final addresses: the backstop and what rejects.
func (c Config) filters() []Chain {
	r := c.rejections()
	if c.Backstop == BackstopOff {
		return c.withForwarded(r.bases())
	}
	output, chains := c.backstopOutput(r)
	chains = append(chains, r.chains...)
	chains = append(chains, Chain{Name: ChainFilterOutput, Hook: Output, Priority: PriorityFilter, Rules: output})
	input, more := c.backstopInput(r)
	chains = append(chains, more...)
	if len(input) > 0 {
		chains = append(chains, Chain{Name: ChainFilterInput, Hook: Input, Priority: PriorityFilter, Rules: input})
	}
	forward, more := c.backstopForward(r)
	chains = append(chains, more...)
	if len(forward) > 0 {
		chains = append(chains, Chain{Name: ChainFilterForward, Hook: Forward, Priority: PriorityFilter, Rules: forward})
	}
	return c.withForwarded(chains)
}

// withForwarded puts what mode tproxy asks of what is forwarded before all else of that hook.
func (c Config) withForwarded(chains []Chain) []Chain {
	rules := c.forwarded()
	i := slices.IndexFunc(chains, func(c Chain) bool { return c.Hook == Forward })
	switch {
	case len(rules) == 0:
	case i < 0:
		chains = append(chains, Chain{Name: ChainFilterForward, Hook: Forward, Priority: PriorityFilter, Rules: rules})
	default:
		chains[i].Rules = slices.Concat(rules, chains[i].Rules)
	}
	return chains
}

// backstopOutput returns the base chain for what the pod sends, and the chains that it leads to.
func (c Config) backstopOutput(r rejections) (rules []Rule, chains []Chain) {
	add := func(all ...Rule) { rules = append(rules, all...) }
	if c.rejectsOtherFamily() {
		// Of the other family no connection is translated, so there is nothing to stand behind.
		match := []Match{IsFamily(c.families()[0].Other()), Proto{TCP, UDP}}
		add(rule("B12.family", "not captured", match, Goto{Chain: ChainRejectOutput}))
	}
	add(rule("B4.opens", "opens a connection", openers(), Goto{Chain: ChainBackstopSyn}))
	chains = append(chains, c.backstopSyn()...)
	if c.Backstop == BackstopSyn {
		if len(r.output) > 0 {
			add(rule("B12.reject", "may be rejected", nil, Goto{Chain: ChainRejectOutput}))
		}
		return rules, chains
	}
	add(uncounted(rule("B2.dnat", "translated", []Match{CTDNAT{}}, Return{})))
	if len(r.output) > 0 {
		// Before what is inside the pod, for loopback can be included.
		add(rule("B7.udp", "UDP, which may be rejected", []Match{Proto{UDP}}, Goto{Chain: ChainRejectOutput}))
	}
	add(rule("B2.lo", "inside the pod", []Match{leavingByLo}, Return{}))
	add(in("B2", "", c.excludedOutInterfaces(Return{}))...)
	add(uncounted(rule("B5.stream", "goes on with a connection", []Match{Proto{TCP}}, Goto{Chain: ChainBackstopStream})))
	chains = append(chains, c.backstopStream()...)
	if c.Outbound.OtherProtocols == TreatmentReject {
		if len(r.output) == 0 {
			add(rule("B12.udp", "UDP", []Match{Proto{UDP}}, Return{}))
		}
		add(rule("B8.other", "neither TCP nor UDP", nil, Goto{Chain: ChainBackstopOther}))
		chains = append(chains, c.backstopOther()...)
	}
	return rules, chains
}

// ofProxy returns the rules that lead the proxy's packets on.
func (c Config) ofProxy(line, reason string, t Target) []Rule {
	var rules []Rule
	for _, who := range c.proxy() {
		rules = append(rules, rule(RuleID(line+".")+who.id, reason+" ("+who.by+")", []Match{who.match}, t))
	}
	return rules
}

// repliesOfTProxy returns the rule by which an application's replies pass that mode tproxy brings back to a proxy which
// has called from its client's address. What the proxy itself sends passes as all of its do (O4). The mark alone would
// not do: NET_RAW is enough to set it.
func (c Config) repliesOfTProxy() []Rule {
	if c.Inbound.Mode != InboundTProxy {
		return nil
	}
	match := []Match{MetaMark(c.Inbound.TProxy.Mark), CTReply}
	return []Rule{rule("I7.mark", "a reply, delivered to the pod by its mark", match, Return{})}
}

// backstopSyn returns the chain for what opens a TCP connection: lines B1, B2, B4 and B6.
func (c Config) backstopSyn() []Chain {
	rules := []Rule{
		rule("B2.syn", "translated", []Match{CTDNAT{}, CTOriginal}, Goto{Chain: ChainBackstopTranslated}),
		rule("B2.syn-lo", "inside the pod", []Match{leavingByLo}, Return{}),
	}
	refused := c.toResolver(scopeSyn)
	for _, l := range c.lookups() {
		if l.id == "O8.tcp" {
			refused = append(refused, rule("B6.syn", l.reason+", with its own destination", l.match, Reject{}))
		}
	}
	refused = append(refused, in(scopeSyn, "", c.leftAlone())...)
	for _, d := range c.outboundDestinations() {
		refused = append(refused, rule("B4."+d.id, "untranslated: "+d.reason, append(opens(), d.match...), Reject{}))
	}
	sent, chains := c.sent(scopeSyn, nil, c.ofProcesses(refused), ChainBackstopSynIncluded,
		FilterChain, "O2", "O6")
	rules = append(rules, sent...)
	loop := c.loop()
	if len(loop) == 0 {
		// What is sent to a target outside the pod cannot come back to the proxy by the target's address.
		rules[0].Target = Return{}
		return append(chains, Chain{Name: ChainBackstopSyn, Rules: rules})
	}
	subflow := []Rule{
		rule("B1.owned", "a process opens it", []Match{HasSocket{}}, Return{}),
		rule("B1.subflow", "a subflow that the kernel opens", nil, Goto{Chain: ChainBackstopLoop}),
	}
	translated := append(c.ofProxy("B1", "from the proxy", Goto{Chain: ChainBackstopLoop}),
		rule("B1.mptcp", "Multipath TCP", []Match{Proto{TCP}, MPTCP{}}, Goto{Chain: ChainBackstopSubflow}))
	return append(chains,
		Chain{Name: ChainBackstopLoop, Rules: loop},
		Chain{Name: ChainBackstopSubflow, Rules: subflow},
		Chain{Name: ChainBackstopTranslated, Rules: translated},
		Chain{Name: ChainBackstopSyn, Rules: rules})
}

// loop returns line B1: what the proxy opens and what an entry of the app's has sent to the proxy itself.
func (c Config) loop() []Rule {
	var rules []Rule
	to := func(what string, addrs CIDRs, ports PortRange) {
		match := append(opens(), Dst(addrs), DstPort{ports})
		rules = append(rules, rule(RuleID("B1."+what), "the proxy would be redirected to itself", match, Reject{}))
	}
	both := single([]netip.Addr{localhost4, localhost6})
	if len(c.outboundDestinations()) > 0 {
		if len(c.Outbound.Target) == 0 {
			to("outbound", both, c.Outbound.Port)
		}
		for _, t := range c.Outbound.Target {
			to("outbound-target"+string(ofFamily(FamilyOf(t.Addr()))), single([]netip.Addr{t.Addr()}), Port(t.Port()))
		}
	}
	if c.capturesDNS() {
		if len(c.DNS.Target) == 0 {
			to("dns", both, Port(c.DNS.Port))
		}
		for _, t := range c.DNS.Target {
			to("dns-target"+string(ofFamily(FamilyOf(t.Addr()))), single([]netip.Addr{t.Addr()}), Port(t.Port()))
		}
	}
	return rules
}

// backstopStream returns the chains for other TCP: lines B3, B5 and B6. The order is for speed, for what lets go can
// stand in any: who sends it and where it goes come first.
func (c Config) backstopStream() []Chain {
	letGo := []Rule{rule("B5.reset", "a reset", []Match{Proto{TCP}, TCPFlags{Mask: RST, Value: RST}}, Return{})}
	letGo = append(letGo, c.letIn()...)
	letGo = append(letGo, rule("B3", "a connection older than the rules", []Match{Proto{TCP}, Older{}}, Return{}))
	refuse := func(id RuleID, reason string, match []Match) []Rule {
		return []Rule{
			rule(id, reason+", of a connection that is not translated", slices.Concat(match, []Match{HasSocket{}}), Reject{}),
			rule(id+".unowned", reason+", without a socket", match, Goto{Chain: ChainBackstopUnowned}),
		}
	}
	var lookups, rest []Rule
	for _, l := range c.lookups() {
		if l.id == "O8.tcp" {
			lookups = refuse("B6.stream", l.reason, slices.DeleteFunc(slices.Clone(l.match),
				func(m Match) bool { return m == Match(Opens()) }))
		}
	}
	leftAlone := in(scopeStream, "", c.leftAlone())
	slices.Reverse(leftAlone) // what goes to loopback leaves by lo, and is seldom asked
	if len(lookups) == 0 {
		rest = slices.Concat(leftAlone, letGo)
	} else {
		early, late := c.besideLookups(leftAlone)
		rest = slices.Concat(c.toResolver(scopeStream), early, letGo, lookups, late)
	}
	for _, d := range c.outboundDestinations() {
		rest = append(rest, refuse("B5."+d.id, d.reason, append([]Match{Proto{TCP}}, d.match...))...)
	}
	rules, chains := c.sent(scopeStream, c.repliesOfTProxy(), rest, ChainBackstopStreamIncluded, FilterChain,
		"O1", "O2", "O6")
	for i, r := range rules {
		if r.ID.Line() == "O4" {
			rules[i] = uncounted(r)
		}
	}
	return append(chains,
		Chain{Name: ChainBackstopUnowned, Rules: c.unowned()},
		Chain{Name: ChainBackstopStream, Rules: rules})
}

// besideLookups divides lines O9 and O10, which do not hold for captured lookups. Those that say nothing of ports come
// early for all that is no lookup, and late for lookups of which O8 captures not all.
func (c Config) besideLookups(leftAlone []Rule) (early, late []Rule) {
	for _, r := range leftAlone {
		if slices.ContainsFunc(r.Match, func(m Match) bool { _, is := m.(DstPort); return is }) {
			late = append(late, r)
			continue
		}
		e := r
		e.Match = slices.Concat(r.Match, []Match{Proto{TCP}, not(DstPort{Port(dnsPort)})})
		early = append(early, e)
		if len(c.toServers()) > 0 {
			r.ID += ".dns"
			late = append(late, r)
		}
	}
	return early, late
}

// letIn returns the part of line B5 by which what answers a connection that was let in passes, conntrack or not: its
// source port, or where it goes, is one of lines I4 to I6 and I8.
func (c Config) letIn() []Rule {
	const scope = "B5"
	var rules []Rule
	add := func(id RuleID, reason string, match ...Match) {
		rules = append(rules, rule(id.In(scope), "let in: "+reason, append([]Match{Proto{TCP}}, match...), Return{}))
	}
	arriving := c.Inbound
	if len(c.ExcludeInterfaces) > 0 {
		// It need not leave by the interface that its client's packets come by.
		add("I1", "an answer, perhaps to what came by an excluded interface", CTReply)
	}
	for _, name := range unique(c.VirtualInterfaces) {
		add(byInterface("I2", name), "an answer to what is behind the pod", OutInterface(name), CTReply)
	}
	if arriving.Mode == InboundOff {
		add("I8.port", "a port that no client is given", not(SrcPort{clientPorts}))
		add("I8.reply", "an answer", CTReply)
		return rules
	}
	if c.TunnelPort != 0 {
		add("I4", "the tunnel port", SrcPort{Port(c.TunnelPort)})
	}
	if len(arriving.ExcludeSources) > 0 {
		add("I5.cidrs", "excluded source", Dst(arriving.ExcludeSources))
	}
	for i, e := range arriving.Exclude {
		var match []Match
		if len(e.Ports) > 0 && !e.Ports.All() {
			match = append(match, SrcPort(e.Ports))
		}
		if len(e.Sources) > 0 && !e.Sources.All() {
			match = append(match, Dst(e.Sources))
		}
		add(numbered("I5.exclude", i), "an exclusion", match...)
	}
	if len(arriving.ExcludePorts) > 0 {
		add("I6", "excluded port", SrcPort(arriving.ExcludePorts))
	}
	if !arriving.IncludePorts.All() {
		// A client's port is none that anything was let in at, unless it answers.
		add("I8.port", "a port that is not included", not(SrcPort(slices.Concat(arriving.IncludePorts, Ports{clientPorts}))))
		answers := []Match{CTReply}
		if len(arriving.IncludePorts) > 0 {
			answers = append(answers, not(SrcPort(arriving.IncludePorts)))
		}
		add("I8.reply", "an answer", answers...)
	}
	return rules
}

// clientPorts are those that Linux gives to sockets which ask for none: net.ipv4.ip_local_port_range, as it is unless
// somebody changes it.
var clientPorts = PortRange{First: 32768, Last: 60999}

// unowned returns the end of line B5: a packet that no process sends. The proxy's orphans, its SYN cookies, and
// TIME_WAIT, go on as long as conntrack knows them; a bare acknowledgment gives nothing away.
func (c Config) unowned() []Rule {
	const flags = FIN | SYN | RST | PSH | URG | ACK
	ack := []Match{Proto{TCP}, TCPFlags{Mask: flags, Value: ACK}}
	// Headers alone: 20 or 40 bytes of IP, 20 of TCP, and 12 of a timestamp.
	bare := func(f Family, length Length, more ...Match) Rule {
		id := RuleID("B5.ack") + ofFamily(f)
		if len(more) > 0 {
			id += ".timestamp"
		}
		return rule(id, "an acknowledgment without data", slices.Concat(ack, []Match{IsFamily(f), length}, more), Return{})
	}
	rules := []Rule{rule("B5.orphan", "of a connection that conntrack knows", []Match{CTEstablished, CTOriginal},
		Return{})}
	switch c.Inbound.Mode {
	case InboundRedirect:
		// Only connections to that very port come untranslated.
		match := []Match{Proto{TCP}, SrcPort{c.Inbound.Port}}
		rules = append(rules, rule("B5.inbound", "from the proxy's inbound port", match, Return{}))
	case InboundTProxy:
		match := []Match{ConnMark(c.Inbound.TProxy.SelfMark), CTReply}
		rules = append(rules, rule("B5.inbound", "an answer of a connection that the proxy has", match, Return{}))
	case InboundOff:
	}
	return append(rules,
		bare(IPv4, 40), bare(IPv4, 52, TCPHeader(8)),
		bare(IPv6, 60), bare(IPv6, 72, TCPHeader(8)),
		rule("B5.unowned", "no process sends it", nil, Drop{}),
	)
}

// backstopOther returns the chains of line B8: protocols that no proxy takes, from senders whose TCP is captured to
// destinations to which it is.
func (c Config) backstopOther() []Chain {
	const scope = "other"
	rules := []Rule{
		rule("B8.echo", "an echo request", []Match{Proto{ICMP, ICMPv6}, ICMPEcho{}}, Goto{Chain: ChainBackstopOtherSent}),
		rule("B8.extended-echo", "an extended echo request", []Match{Proto{ICMP, ICMPv6}, ICMPEcho{Extended: true}},
			Goto{Chain: ChainBackstopOtherSent}),
		rule("B8.icmp", "other ICMP", []Match{Proto{ICMP, ICMPv6}}, Return{}),
		rule("B8.protocol", "another protocol", nil, Goto{Chain: ChainBackstopOtherSent}),
	}
	// Without a port it is the lines that say the same of every port of TCP which say something of it.
	every := c
	every.Outbound.ExcludePorts, every.Outbound.Exclude = nil, nil
	var refused []Rule
	if c.Outbound.ExcludePorts.All() {
		refused = append(refused, rule("O5.ports", "every port is excluded", nil, Return{}))
	}
	for i, e := range c.Outbound.Exclude {
		if e.Protocol != UDP && (len(e.Ports) == 0 || e.Ports.All()) {
			// The protocols are not its own, and it may have no other property.
			id, reason := numbered("O5.exclude", i), fmt.Sprintf("exclusion %d", i+1)
			refused = append(refused, rule(id, reason, e.matches()[1:], Return{}))
		}
	}
	refused = in(scope, "", append(refused, every.leftAlone()...))
	for _, d := range c.outboundDestinations() {
		match := []Match{HasSocket{}}
		switch {
		case d.id != "O11":
			match = append(match, d.match...)
		case !c.Outbound.IncludePorts.All():
			continue
		}
		refused = append(refused, rule("B8."+d.id, "another protocol: "+d.reason, match, Reject{}))
	}
	sent, chains := every.sent(scope, nil, refused, ChainBackstopOtherIncluded, FilterChain, "O1", "O2", "O6")
	return append(chains, Chain{Name: ChainBackstopOtherSent, Rules: sent}, Chain{Name: ChainBackstopOther, Rules: rules})
}

// backstopInput returns the base chain for what arrives, and the chains that it leads to: line B9, and B7 where UDP is
// rejected or lookups are captured.
func (c Config) backstopInput(r rejections) (rules []Rule, chains []Chain) {
	if c.rejectsOtherFamily() && len(r.input) > 0 {
		match := []Match{IsFamily(c.families()[0].Other()), Proto{TCP}}
		rules = append(rules, rule("B12.input-family", "not captured", match, Goto{Chain: ChainRejectInput}))
	}
	if c.refusesUncaptured() {
		syn := []Rule{
			rule("B9.lo", "inside the pod", []Match{arrivingByLo}, Return{}),
			rule("B9.dnat", "translated", []Match{CTDNAT{}}, Return{}),
		}
		if c.Inbound.Mode == InboundTProxy {
			syn = append(syn,
				rule("B9.mark", "given to the proxy", []Match{ConnMark(c.Inbound.TProxy.SelfMark)}, Return{}),
				// What another keeps from conntrack has no mark, and is given to the proxy all the same.
				rule("B9.known", "not new to conntrack", []Match{not(CTNew)}, Return{}))
		}
		syn = append(syn, in(scopeInput, "", c.excludedInInterfaces())...)
		syn = append(syn, in(scopeInput, "", c.fromBehind(Return{}))...)
		syn = append(syn, rule("B9.port", "the proxy's own port", []Match{Proto{TCP}, DstPort{c.Inbound.Port}}, Return{}))
		syn = append(syn, in(scopeInput, "", c.notInbound())...)
		for _, d := range c.inboundDestinations() {
			syn = append(syn, rule("B9."+d.id, "untranslated: "+d.reason, append(opens(), d.match...), Reject{}))
		}
		rules = append(rules, rule("B9.opens", "opens a connection", openers(), Goto{Chain: ChainBackstopInput}))
		chains = append(chains, Chain{Name: ChainBackstopInput, Rules: syn})
	}
	if len(r.input) > 0 {
		rules = append(rules, rule("B12.input", "may be rejected", nil, Jump{Chain: ChainRejectInput}))
	}
	if c.Backstop == BackstopOn && (c.rejectsUDP() || c.capturesDNS()) {
		opens := rule("B7.arrives", "opens a flow of UDP", []Match{Proto{UDP}, CTNew}, Goto{Chain: ChainBackstopDatagram})
		if !c.rejectsUDP() {
			// What answers this would be no lookup.
			opens = rule("B7.from-server", "a name server opens a flow of UDP", []Match{Proto{UDP},
				SrcPort{Port(dnsPort)}, CTNew}, Goto{Chain: ChainBackstopDatagram})
		}
		rules = append(rules, opens)
		datagram := []Rule{
			rule("B7.lo", "inside the pod", []Match{arrivingByLo}, Return{}),
			rule("B7.socket", "a socket waits for it", []Match{SocketOpen{}}, Return{}),
		}
		datagram = append(datagram, in("datagram", "", c.excludedInInterfaces())...)
		// Else the app's next datagram to its sender would be an answer.
		datagram = append(datagram, rule("B7.closed", "no socket waits for it", []Match{Proto{UDP}}, Reject{}))
		chains = append(chains, Chain{Name: ChainBackstopDatagram, Rules: datagram})
	}
	return rules, chains
}

// refusesUncaptured reports whether line B9 has something to stand behind. In mode tproxy that is a packet which was on
// its way while the rules were replaced: it met the old ones, which redirect, where these give to the proxy, and these
// where the old ones redirect.
func (c Config) refusesUncaptured() bool {
	return c.Inbound.Mode != InboundOff && len(c.inboundDestinations()) > 0
}

// backstopForward returns the base chain for what is forwarded from behind the pod: line B11.
func (c Config) backstopForward(r rejections) (rules []Rule, chains []Chain) {
	rules = in(scopeForward, "", c.fromBehind(Goto{Chain: ChainBackstopVirtual}, opens()...))
	behind := len(rules) > 0
	if c.forwards() && c.refusesUncaptured() {
		// What goes to behind the pod, or is forwarded by it, is captured like what goes to the pod.
		rules = append(rules, rule("B9.forward", "opens a connection", openers(), Goto{Chain: ChainBackstopInput}))
	}
	if behind {
		virtual := in(scopeForward, "", c.excludedInInterfaces())
		virtual = append(virtual, rule("B11.dnat", "translated", []Match{CTDNAT{}}, Return{}))
		virtual = append(virtual, in(scopeForward, "", c.exclusions(Return{}, Exclusion.ownerless))...)
		virtual = append(virtual, c.ofGuests().toResolver(scopeForward)...)
		for _, l := range c.ofGuests().lookups() {
			if l.id == "O8.tcp" {
				virtual = append(virtual, rule("B11.O8", "untranslated: "+l.reason, l.match, Reject{}))
			}
		}
		virtual = append(virtual, in(scopeForward, "", c.leftAlone())...)
		for _, d := range c.outboundDestinations() {
			virtual = append(virtual, rule("B11."+d.id, "untranslated: "+d.reason, append(opens(), d.match...), Reject{}))
		}
		chains = append(chains, Chain{Name: ChainBackstopVirtual, Rules: virtual})
	}
	if len(r.forward) > 0 {
		if c.rejectsOtherFamily() {
			guard := rule("B12.forward-family", "not captured", []Match{IsFamily(c.families()[0].Other())},
				Goto{Chain: ChainRejectForward})
			rules = append([]Rule{guard}, rules...)
		}
		rules = append(rules, rule("B12.forward", "may be rejected", nil, Goto{Chain: ChainRejectForward}))
	}
	return rules, chains
}
