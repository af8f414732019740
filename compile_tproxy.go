package intercept

// Mode tproxy: lines I1 to I8 and O3 in chains that see every packet.

// tproxy returns the chains of mode tproxy.
//
// A connection is captured by its first packet, which gets a mark: the connection keeps it (conntrack's mark), so that
// its other packets are told by it alone, whatever the lists of exclusions. Once the proxy has the connection they are
// let on, for the kernel then finds the socket, and the route that the socket remembers. Packets inside the pod arrive
// by lo, where the proxy's own calls to the pod (O3) are told by the mark that they got when they were sent.
func (c Config) tproxy() []Chain {
	if c.Inbound.Mode != InboundTProxy {
		return nil
	}
	t := c.Inbound.TProxy
	rules := c.excludedInInterfaces() // I1
	add := func(r ...Rule) { rules = append(rules, r...) }
	if c.Inbound.DropInvalid {
		add(c.dropInvalid()) // I3
	}
	if c.Inbound.Hairpin == HairpinCapture {
		add(rule("O3.arrives", "the proxy calls its own pod", append(openers(), arrivingByLo, MetaMark(t.SelfMark)),
			Goto{Chain: ChainInboundCapture}))
	}
	add(rule("O6.arrives", "inside the pod", []Match{arrivingByLo}, Return{}))
	add(c.fromBehind(Return{})...) // I2
	if !c.forwards() {
		// Else it may need a mark to be routed here. Without a socket, as when SYN cookies are used, the proxy's listening
		// one has to be found, and what opens a connection is for that one, too.
		add(uncounted(rule("I7.divert", "its socket is the proxy's", []Match{ConnMark(t.SelfMark), Proto{TCP}, not(Opens()),
			SocketOpen{Transparent: true}}, Divert{Port: c.Inbound.Port.First})))
	}
	add(c.notOurs()...) // I9
	// A first packet, too: it comes again when the answer is lost, and for conntrack, which saw the answer, it is then
	// not new.
	add(rule("I7.known", "of a connection that the proxy has", []Match{Proto{TCP}, ConnMark(t.SelfMark)},
		Goto{Chain: ChainInboundDeliver}),
		rule("I8.opens", "opens no connection", []Match{Proto{TCP}, not(Opens())}, Return{}),
		rule("I8.protocol", "not TCP", []Match{not(Proto{TCP})}, Return{}))
	add(c.notInbound()...) // I4-I6
	for _, d := range c.inboundDestinations() {
		add(rule(d.id, d.reason, append(opens(), d.match...), Goto{Chain: ChainInboundCapture}))
	}
	add(rule("I8", "not included", nil, Return{}))

	return []Chain{
		{Name: ChainInboundDeliver, Rules: c.deliver()},
		{Name: ChainInboundCapture, Rules: []Rule{
			rule("I7.mark", "remember the connection", nil, SetConnMark(t.SelfMark)),
			rule("I7.captured", "captured", nil, Goto{Chain: ChainInboundDeliver}),
		}},
		{Name: ChainInbound, Hook: Prerouting, Priority: PriorityMangle, Rules: rules},
		{Name: ChainMarksOpening, Type: RouteChain, Rules: c.marksOfOpening()},
		{Name: ChainMarksReplies, Type: RouteChain, Rules: c.marksOfReplies()},
		{Name: ChainMarks, Hook: Output, Priority: PriorityMangle, Type: RouteChain, Rules: []Rule{
			rule("marks/O3.opens", "opens a connection", openers(), Goto{Chain: ChainMarksOpening}),
			rule("I7.client", "the proxy called from its client's address", []Match{ConnMark(t.Mark), Proto{TCP}},
				Goto{Chain: ChainMarksReplies}),
		}},
	}
}

// deliver returns the end of line I7. Unless the pod forwards only what goes to an address of the pod's is captured
// (I9), which is routed there without a mark. With one, the kernel would ask for the route to its source by that mark,
// too, where the sysctl src_valid_mark is set, and take it for a martian (__fib_validate_source in
// net/ipv4/fib_frontend.c).
func (c Config) deliver() []Rule {
	to := TProxy{Port: c.Inbound.Port.First}
	if c.forwards() {
		to.Mark = c.Inbound.TProxy.Mark
	}
	return []Rule{
		rule("I7.deliver", "to the proxy, addresses unchanged", []Match{Proto{TCP}}, to),
		rule("I7.no-socket", "the proxy does not listen", nil, Drop{}),
	}
}

// forwarded returns the rules for what mode tproxy has captured and does not deliver, for it has no mark: another's
// DNAT has sent it elsewhere.
func (c Config) forwarded() []Rule {
	if c.Inbound.Mode != InboundTProxy || c.forwards() {
		return nil
	}
	match := []Match{Proto{TCP}, CTDNAT{}, ConnMark(c.Inbound.TProxy.SelfMark)}
	if c.rejectsOtherFamily() {
		match = append(match, IsFamily(c.families()[0]))
	}
	return append(in("forwarded", "", c.excludedInInterfaces()),
		rule("I7.forwarded", "captured, and translated by another", match, Reject{}))
}

// Scopes of outbound lines that are asked where packets get marks.
const (
	scopeOfMarks   = "marks"
	scopeOfReplies = "marks-replies"
)

// marksOfReplies returns the rules that bring the application's replies back to a proxy which has called it from its
// client's address.
func (c Config) marksOfReplies() []Rule {
	return append(c.leavingAlone(scopeOfReplies), c.reply("I7.reply"))
}

// leavingAlone returns lines O1 and O2.
func (c Config) leavingAlone(scope string) []Rule {
	return in(scope, "", append(c.excludedOutInterfaces(Return{}), c.passthrough(Return{})...))
}

func (c Config) reply(id RuleID) Rule {
	t := c.Inbound.TProxy
	return rule(id, "a reply to the proxy, whatever its address",
		[]Match{Proto{TCP}, not(MetaMark(t.Mark)), ConnMark(t.Mark)}, SetMark(t.Mark))
}

// marksOfOpening returns what mode tproxy does to packets by which the pod opens connections: it marks the proxy's
// calls to its own pod, and remembers those from its client's address.
func (c Config) marksOfOpening() []Rule {
	t := c.Inbound.TProxy
	rules := c.leavingAlone(scopeOfMarks)
	fromClient := append(opens(), MetaMark(t.Mark))
	rules = append(rules,
		rule("I7.from-client", "the proxy calls from its client's address", fromClient, SetConnMark(t.Mark)),
		rule("I7.to-app", "it is for the application", fromClient, Return{}),
		c.reply("I7.reply.opens"),
	)
	toItself := in(scopeOfMarks, "", c.toItself()) // O3
	for i := range toItself {
		toItself[i].Target = SetMark(t.SelfMark)
	}
	return append(rules, toItself...)
}
