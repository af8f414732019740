package intercept

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The names of the chains that Compile makes. A backend may spell them in its
// own way (iptables: MESH_OUTPUT).
const (
	ChainOutput         = "output"          // O1-O14
	ChainOutputIncluded = "output_included" // O8-O14, for the owners included
	ChainPrerouting     = "prerouting"      // I1-I8
	ChainVirtual        = "virtual"         // I2: O5, O8-O14
	ChainInvalid        = "invalid"         // I1, I3

	ChainInbound        = "inbound"         // I1-I8, in mode tproxy
	ChainInboundCapture = "inbound_capture" // I7, O3: connections that go to the proxy
	ChainInboundDeliver = "inbound_deliver" // I7, O3: and their packets
	ChainMarks          = "marks"           // O3, and the replies to a proxy that binds its client's address

	ChainRejectOutput   = "reject_output"   // O13, and the family left out
	ChainRejectIncluded = "reject_included" // the same, for the owners included
	ChainRejectInput    = "reject_input"    // I2, and the family left out
	ChainRejectForward  = "reject_forward"  // I2, and the family left out
	ChainRejectVirtual  = "reject_virtual"  // I2: O5, O8-O14

	ChainRawOutput     = "raw_output"     // conntrack zones of DNS
	ChainRawPrerouting = "raw_prerouting" // conntrack zones of DNS
	ChainRawVirtual    = "raw_virtual"    // conntrack zones of DNS, I2

	loopbackInterface = "lo"
	dnsPort           = 53
	quicPort          = 443
	zoneUpstream      = 1
	zoneCaptured      = 2
)

// Compile returns the Ruleset that enforces c, or everything that is wrong
// with c (see [Config.Validate]). It does no I/O and is the only place that
// holds the policy: backends translate what it returns.
func Compile(c Config) (Ruleset, error) {
	if err := c.Validate(); err != nil {
		return Ruleset{}, err
	}
	rs := Ruleset{Families: c.families()}
	add := func(chains ...Chain) { rs.Chains = append(rs.Chains, chains...) }
	add(c.zones()...)
	virtual := len(c.VirtualInterfaces) > 0
	tproxy := c.Inbound.Mode == InboundTProxy
	switch {
	case tproxy:
		add(c.tproxy()...)
		rs.Routes = []MarkRoute{{Mark: c.Inbound.TProxy.Mark, Table: c.Inbound.TProxy.Table}}
	case c.Inbound.DropInvalid:
		add(Chain{Name: ChainInvalid, Hook: Prerouting, Priority: PriorityMangle, Rules: c.dropInvalid()})
	}
	if virtual {
		add(Chain{Name: ChainVirtual, Type: NATChain, Rules: c.virtual()})
	}
	if virtual || c.Inbound.Mode == InboundRedirect {
		add(Chain{Name: ChainPrerouting, Hook: Prerouting, Priority: PriorityDstNAT, Type: NATChain, Rules: c.prerouting()})
	}
	add(c.outbound()...)
	add(c.rejections()...)
	if c.rejectsOtherFamily() {
		rs = rs.guard(c.families()[0])
	}
	return rs, nil
}

// rejectsOtherFamily reports whether there are rules for a family that is not
// captured.
func (c Config) rejectsOtherFamily() bool {
	return c.OtherFamily == TreatmentReject && len(c.families()) == 1
}

// guard makes of rules that were written for one family rules for both: the
// other one's packets leave the chains that capture at once.
func (rs Ruleset) guard(captured Family) Ruleset {
	rs.Families = []Family{IPv4, IPv6}
	for i, c := range rs.Chains {
		if c.Hook == 0 || strings.HasPrefix(c.Name, "reject_") {
			continue
		}
		line := "I8"
		if c.Hook == Output {
			line = "O14"
		}
		leave := Rule{line, captured.other().String() + " is not captured", []Match{IsFamily(captured.other())}, Return{}}
		rs.Chains[i].Rules = append([]Rule{leave}, c.Rules...)
	}
	return rs
}

func (f Family) other() Family {
	if f == IPv4 {
		return IPv6
	}
	return IPv4
}

func (c Config) families() []Family {
	switch c.Families {
	case FamiliesIPv4:
		return []Family{IPv4}
	case FamiliesIPv6:
		return []Family{IPv6}
	case FamiliesAuto, FamiliesDual:
	}
	return []Family{IPv4, IPv6}
}

// opens are the conditions of every redirect of TCP: a NAT chain sees the
// packets that conntrack calls new, and one that opens no connection is new
// only where conntrack was not active when its connection began. Redirecting
// it would hand it to a listening socket, which answers with a reset.
func opens() []Match { return []Match{Proto{TCP}, Opens()} }

// outbound returns lines O1 to O14: the chains for what the pod sends.
func (c Config) outbound() []Chain {
	rules, chains := c.sent(c.proxyToItself(), c.captured(), ChainOutputIncluded, NATChain)
	return append(chains, Chain{Name: ChainOutput, Hook: Output, Priority: PriorityDstNAT, Type: NATChain, Rules: rules})
}

// sent returns lines O1 to O7, which let go, and then the rules for the rest.
// If owners are included, those rules are in a chain of their own, for them.
func (c Config) sent(toItself, rest []Rule, included string, typ ChainType) (rules []Rule, chains []Chain) {
	add := func(r ...Rule) { rules = append(rules, r...) }
	add(c.excludedOutInterfaces(Return{})...)    // O1
	add(c.passthrough(Return{})...)              // O2
	add(toItself...)                             // O3
	add(c.fromProxy(Return{})...)                // O4
	add(c.exclusions(Return{}, anyExclusion)...) // O5
	add(c.insideThePod()...)                     // O6
	add(c.excludedOwners(Return{})...)           // O7
	if !c.includesOwners() {
		add(rest...)
		return rules, nil
	}
	// Owners are matched positively only, so that a packet without a socket is
	// on no list in every backend.
	add(c.includedOwners(Goto{included})...)
	add(Rule{"O7", "its owner is not included", nil, Return{}})
	return rules, []Chain{{Name: included, Type: typ, Rules: rest}}
}

// insideThePod returns line O6. While DNS is captured, port 53 is not exempt;
// while a part of loopback is included, nothing is.
func (c Config) insideThePod() []Rule {
	lo := OutInterface(loopbackInterface)
	switch {
	case slices.ContainsFunc(c.Outbound.IncludeCIDRs, inLoopback):
		return nil
	case c.DNS.Mode == DNSOff:
		return []Rule{{"O6", "inside the pod", []Match{lo}, Return{}}}
	}
	return []Rule{
		{"O6", "inside the pod, no name lookup", []Match{lo, Proto{TCP, UDP}, Not{DstPort{Port(dnsPort)}}}, Return{}},
		{"O6", "inside the pod, neither TCP nor UDP", []Match{lo, Not{Proto{TCP, UDP}}}, Return{}},
	}
}

// captured returns lines O8 to O14: what happens to a connection that neither
// its sender nor an exclusion exempts.
func (c Config) captured() []Rule {
	var rules []Rule
	if c.capturesDNS() {
		for _, proto := range []Protocol{UDP, TCP} {
			match := []Match{Proto{UDP}, DstPort{Port(dnsPort)}}
			if proto == TCP {
				match = append(opens(), DstPort{Port(dnsPort)})
			}
			reason := "a name lookup over " + strings.ToUpper(proto.String())
			if c.DNS.Mode == DNSResolvConf {
				reason += ", to a server of resolv.conf"
			}
			rules = append(rules, send("O8", reason, append(match, c.toServers()...), Port(c.DNS.Port), c.DNS.Target)...)
		}
	}
	rules = append(rules, c.leftAlone()...)
	for _, d := range c.destinations() {
		rules = append(rules, send(d.line, d.reason, append(opens(), d.match...), c.Outbound.Port, c.Outbound.Target)...)
	}
	return append(rules, Rule{"O14", "not included", nil, Return{}})
}

// send returns the rules by which matching connections go to a port of the
// pod, or to a target elsewhere.
func send(line, reason string, match []Match, port PortRange, target []netip.AddrPort) []Rule {
	if len(target) == 0 {
		return []Rule{{line, reason, match, Redirect{port}}}
	}
	var rules []Rule
	for _, to := range target {
		rules = append(rules, Rule{line, reason, slices.Concat(match, []Match{IsFamily(FamilyOf(to.Addr()))}), DNAT{to}})
	}
	return rules
}

// leavesPod reports whether a target is outside the pod's own loopback network.
func leavesPod(target []netip.AddrPort) bool {
	return slices.ContainsFunc(target, func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() })
}

func loopbackNetworks() CIDRs { return CIDRs{loopbackIPv4, netip.PrefixFrom(localhost6, 128)} }

// leftAlone returns lines O9 and O10.
func (c Config) leftAlone() []Rule {
	rules := []Rule{{"O9", "the exempt loopback range", []Match{Dst(c.Loopback)}, Return{}}}
	if leavesPod(c.Outbound.Target) {
		// A packet with a loopback address cannot leave the host.
		rules[0] = Rule{"O9", "loopback, which cannot leave the pod", []Match{Dst(loopbackNetworks())}, Return{}}
	}
	for _, to := range c.Outbound.Target {
		// Else what is sent on to the proxy would be sent to it again.
		match := []Match{Proto{TCP}, Dst(single([]netip.Addr{to.Addr()})), DstPort{Port(to.Port())}}
		rules = append(rules, Rule{"O10", "the proxy itself", match, Return{}})
	}
	if len(c.Outbound.ExcludeCIDRs) > 0 {
		rules = append(rules, Rule{"O10", "excluded destination", []Match{Dst(c.Outbound.ExcludeCIDRs)}, Return{}})
	}
	return rules
}

// destination is a condition under which a connection goes to the proxy. It
// stands behind a protocol that has ports.
type destination struct {
	line, reason string
	match        []Match
}

// destinations returns lines O11 and O12.
func (c Config) destinations() []destination {
	var all []destination
	o := c.Outbound
	if len(o.IncludePorts) > 0 {
		all = append(all, destination{"O11", "included port", []Match{DstPort(o.IncludePorts)}})
	}
	switch {
	case o.IncludeCIDRs.All():
		all = append(all, destination{"O12", "every destination is included", nil})
	case len(o.IncludeCIDRs) > 0:
		all = append(all, destination{"O12", "included destination", []Match{Dst(o.IncludeCIDRs)}})
	}
	return all
}

// prerouting returns lines I1 to I8. I3 is in a chain of its own, since NAT
// chains do not see invalid packets. In mode tproxy the chain is there for
// virtual interfaces alone.
func (c Config) prerouting() []Rule {
	rules := append(c.excludedInInterfaces(), c.fromBehind(Goto{ChainVirtual})...) // I1, I2
	if c.Inbound.Mode != InboundRedirect {
		return rules
	}
	rules = append(rules, c.notInbound()...) // I4-I6
	for _, match := range c.inbound() {
		rules = append(rules, Rule{"I7", match.reason, append(opens(), match.match...), Redirect{c.Inbound.Port}})
	}
	return append(rules, Rule{"I8", "not included", nil, Return{}})
}

// notInbound returns lines I4 to I6.
func (c Config) notInbound() []Rule {
	var rules []Rule
	in := c.Inbound
	if c.TunnelPort != 0 {
		rules = append(rules, Rule{"I4", "the tunnel port", ports(Proto{TCP}, Ports{Port(c.TunnelPort)}), Return{}})
	}
	if len(in.ExcludeSources) > 0 {
		rules = append(rules, Rule{"I5", "excluded source", []Match{Proto{TCP}, Src(in.ExcludeSources)}, Return{}})
	}
	for i, e := range in.Exclude {
		match := []Match{Proto{TCP}}
		if len(e.Ports) > 0 {
			match = ports(Proto{TCP}, e.Ports)
		}
		if len(e.Sources) > 0 && !e.Sources.All() {
			match = append(match, Src(e.Sources))
		}
		rules = append(rules, Rule{"I5", fmt.Sprintf("exclusion %d", i+1), match, Return{}})
	}
	if len(in.ExcludePorts) > 0 {
		rules = append(rules, Rule{"I6", "excluded port", ports(Proto{TCP}, in.ExcludePorts), Return{}})
	}
	return rules
}

// inbound returns the conditions of line I7.
func (c Config) inbound() []destination {
	switch in := c.Inbound; {
	case in.IncludePorts.All():
		return []destination{{"I7", "every port is included", nil}}
	case len(in.IncludePorts) > 0:
		return []destination{{"I7", "included port", []Match{DstPort(in.IncludePorts)}}}
	}
	return nil
}

// virtual returns what line I2 makes of what arrives from behind the pod:
// outbound traffic without owners.
func (c Config) virtual() []Rule {
	return append(c.exclusions(Return{}, Exclusion.ownerless), c.captured()...)
}

// ownerless reports whether e can match a packet that has no socket.
func (e Exclusion) ownerless() bool { return len(e.UIDs) == 0 && len(e.GIDs) == 0 }

// tproxy returns the chains of mode tproxy.
//
// A connection is captured by its first packet, which gets a mark: the
// connection keeps it (conntrack's mark), so that its other packets are told by
// it alone, whatever the lists of exclusions. Packets inside the pod arrive by
// lo, where the proxy's own calls to the pod (O3) are told by the mark that
// they got when they were sent.
func (c Config) tproxy() []Chain {
	t := c.Inbound.TProxy
	lo, self := InInterface(loopbackInterface), t.SelfMark
	var rules []Rule
	add := func(r ...Rule) { rules = append(rules, r...) }
	if c.Inbound.DropInvalid {
		add(c.dropInvalid()...) // I1, I3
	} else {
		add(c.excludedInInterfaces()...) // I1
	}
	add(Rule{"O3", "the proxy calls its own pod", append(opens(), lo, self), Goto{ChainInboundCapture}},
		Rule{"O6", "inside the pod", []Match{lo}, Return{}})
	add(c.fromBehind(Return{})...)
	// A first packet, too: it comes again when the answer is lost, and for
	// conntrack, which saw the answer, it is then not new.
	add(Rule{"I7", "of a connection that the proxy has", []Match{Proto{TCP}, ConnMark(t.SelfMark)}, Goto{ChainInboundDeliver}},
		Rule{"I8", "opens no connection", []Match{Proto{TCP}, Not{Opens()}}, Return{}},
		Rule{"I8", "not TCP", []Match{Not{Proto{TCP}}}, Return{}})
	add(c.notInbound()...) // I4-I6
	for _, d := range c.inbound() {
		add(Rule{"I7", d.reason, append(opens(), d.match...), Goto{ChainInboundCapture}})
	}
	add(Rule{"I8", "not included", nil, Return{}})

	return []Chain{
		{Name: ChainInboundDeliver, Rules: []Rule{
			{"I7", "to the proxy, addresses unchanged", []Match{Proto{TCP}}, TProxy{c.Inbound.Port.First, t.Mark}},
			// nftables goes on if the proxy has no socket; xtables drops.
			{"I7", "the proxy does not listen", nil, Drop{}},
		}},
		{Name: ChainInboundCapture, Rules: []Rule{
			{"I8", "conntrack calls it invalid", []Match{Not{CTNew}}, Return{}},
			{"I7", "remember the connection", nil, SetConnMark(t.SelfMark)},
			{"I7", "captured", nil, Goto{ChainInboundDeliver}},
		}},
		{Name: ChainInbound, Hook: Prerouting, Priority: PriorityMangle, Rules: rules},
		{Name: ChainMarks, Hook: Output, Priority: PriorityMangle, Type: RouteChain, Rules: c.marks()},
	}
}

// marks returns what mode tproxy does to packets that are sent: it marks the
// proxy's calls to its own pod, and brings the application's replies back to
// a proxy that has called it from its client's address.
func (c Config) marks() []Rule {
	t := c.Inbound.TProxy
	lo := OutInterface(loopbackInterface)
	rules := c.excludedOutInterfaces(Return{})        // O1
	rules = append(rules, c.passthrough(Return{})...) // O2
	rules = append(rules,
		Rule{"I7", "the proxy calls from its client's address", append(opens(), t.Mark), SetConnMark(t.Mark)},
		Rule{"I7", "it is for the application", append(opens(), t.Mark), Return{}},
		Rule{"I7", "a reply to the proxy, whatever its address", []Match{Proto{TCP}, Not{t.Mark}, ConnMark(t.Mark)}, SetMark(t.Mark)})
	for _, r := range c.toItself(lo) {
		r.Target = SetMark(t.SelfMark)
		rules = append(rules, r)
	}
	return rules
}

// dropInvalid returns line I3, and I1 before it.
func (c Config) dropInvalid() []Rule {
	return append(c.excludedInInterfaces(),
		Rule{"I3", "conntrack calls it invalid", []Match{CTInvalid}, Drop{}})
}

// fromBehind returns line I2: what arrives by a virtual interface.
func (c Config) fromBehind(t Target) []Rule {
	var rules []Rule
	for _, name := range c.VirtualInterfaces {
		rules = append(rules, Rule{"I2", "from behind the pod", []Match{InInterface(name)}, t})
	}
	return rules
}

// excludedInInterfaces returns line I1.
func (c Config) excludedInInterfaces() []Rule {
	var rules []Rule
	for _, name := range c.ExcludeInterfaces {
		rules = append(rules, Rule{"I1", "excluded interface", []Match{InInterface(name)}, Return{}})
	}
	return rules
}

// excludedOutInterfaces returns line O1.
func (c Config) excludedOutInterfaces(t Target) []Rule {
	var rules []Rule
	for _, name := range c.ExcludeInterfaces {
		rules = append(rules, Rule{"O1", "excluded interface", []Match{OutInterface(name)}, t})
	}
	return rules
}

// passthrough returns line O2.
func (c Config) passthrough(t Target) []Rule {
	if len(c.PassthroughSources) == 0 {
		return nil
	}
	match := []Match{OutInterface(loopbackInterface), Src(single(c.PassthroughSources))}
	return []Rule{{"O2", "the proxy's passthrough source", match, t}}
}

// proxyToItself returns line O3: a proxy that calls its own pod's service by
// the pod's address comes in as inbound, excluded outbound ports or not. In
// mode tproxy it has its mark already, and keeps its address.
func (c Config) proxyToItself() []Rule {
	switch c.Inbound.Mode {
	case InboundOff:
		return nil
	case InboundTProxy:
		match := []Match{OutInterface(loopbackInterface), c.Inbound.TProxy.SelfMark}
		return []Rule{{"O3", "the proxy calls its own pod", match, Return{}}}
	case InboundRedirect:
	}
	return c.toItself(OutInterface(loopbackInterface))
}

// toItself returns the rules that know the connections of line O3, with the
// target they have in mode redirect.
func (c Config) toItself(lo Match) []Rule {
	var not Ports
	if c.TunnelPort != 0 {
		not = append(not, Port(c.TunnelPort))
	}
	if c.DNS.Mode != DNSOff {
		not = append(not, Port(dnsPort))
	}
	var rules []Rule
	for _, who := range c.proxy() {
		match := append(opens(), lo, who.match, Not{Dst(c.Loopback)})
		if len(not) > 0 {
			match = append(match, Not{DstPort(not)})
		}
		rules = append(rules, Rule{"O3", "the proxy calls its own pod (" + who.by + ")", match, Redirect{c.Inbound.Port}})
	}
	return rules
}

// fromProxy returns line O4: whatever the proxy sends passes, so nothing loops.
func (c Config) fromProxy(t Target) []Rule {
	var rules []Rule
	for _, who := range c.proxy() {
		rules = append(rules, Rule{"O4", "from the proxy (" + who.by + ")", []Match{who.match}, t})
	}
	return rules
}

type identity struct {
	by    string
	match Match
}

// proxy returns the ways to know the proxy by. Any one suffices, so each is a
// rule of its own.
func (c Config) proxy() []identity {
	var ids []identity
	if len(c.Proxy.UIDs) > 0 {
		ids = append(ids, identity{"by user", UID(c.Proxy.UIDs)})
	}
	if len(c.Proxy.GIDs) > 0 {
		ids = append(ids, identity{"by group", GID(c.Proxy.GIDs)})
	}
	if c.Proxy.Mark.Mask != 0 {
		ids = append(ids, identity{"by mark", c.Proxy.Mark})
	}
	return ids
}

// exclusions returns line O5 for the exclusions that concern the caller.
func (c Config) exclusions(t Target, concerns func(Exclusion) bool) []Rule {
	var rules []Rule
	if p := c.Outbound.ExcludePorts; len(p) > 0 && concerns(Exclusion{Ports: p}) {
		rules = append(rules, Rule{"O5", "excluded port", ports(Proto{TCP, UDP}, p), t})
	}
	for i, e := range c.Outbound.Exclude {
		if concerns(e) {
			rules = append(rules, Rule{"O5", fmt.Sprintf("exclusion %d", i+1), e.matches(), t})
		}
	}
	return rules
}

func anyExclusion(Exclusion) bool { return true }

// concernsDNS reports whether e can match a lookup over UDP.
func (e Exclusion) concernsDNS() bool {
	return e.Protocol != TCP && (len(e.Ports) == 0 || e.Ports.Contains(dnsPort))
}

func (e Exclusion) matches() []Match {
	protos := Proto{TCP, UDP}
	if e.Protocol != 0 {
		protos = Proto{e.Protocol}
	}
	match := []Match{protos}
	if len(e.Ports) > 0 && !e.Ports.All() {
		match = append(match, DstPort(e.Ports))
	}
	if len(e.CIDRs) > 0 && !e.CIDRs.All() {
		match = append(match, Dst(e.CIDRs))
	}
	if len(e.UIDs) > 0 {
		match = append(match, UID(e.UIDs))
	}
	if len(e.GIDs) > 0 {
		match = append(match, GID(e.GIDs))
	}
	return match
}

// excludedOwners returns the first half of line O7.
func (c Config) excludedOwners(t Target) []Rule {
	return owners(c.Outbound.ExcludeUIDs, c.Outbound.ExcludeGIDs, "excluded", t)
}

// includedOwners continues with the owners that line O7 lets be captured.
func (c Config) includedOwners(t Target) []Rule {
	return owners(c.Outbound.IncludeUIDs, c.Outbound.IncludeGIDs, "included", t)
}

func (c Config) includesOwners() bool {
	return len(c.Outbound.IncludeUIDs) > 0 || len(c.Outbound.IncludeGIDs) > 0
}

func owners(uids, gids IDs, what string, t Target) []Rule {
	var rules []Rule
	if len(uids) > 0 {
		rules = append(rules, Rule{"O7", what + " user", []Match{UID(uids)}, t})
	}
	if len(gids) > 0 {
		rules = append(rules, Rule{"O7", what + " group", []Match{GID(gids)}, t})
	}
	return rules
}

// ports returns the matches for a list of ports. A list of all of them needs
// no match.
func ports(protos Proto, p Ports) []Match {
	if p.All() {
		return []Match{protos}
	}
	return []Match{protos, DstPort(p)}
}

// toServers are the destinations of the lookups that are captured, where not
// all are.
func (c Config) toServers() []Match {
	switch {
	case c.DNS.Mode == DNSResolvConf:
		return []Match{Dst(c.dnsServers())}
	case leavesPod(c.DNS.Target):
		return []Match{Not{Dst(loopbackNetworks())}}
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

func single(addrs []netip.Addr) CIDRs {
	list := make(CIDRs, len(addrs))
	for i, a := range addrs {
		list[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return list
}

// Redirected UDP lookups and the resolver's own lookups upstream can use the
// same addresses and ports at the same time. Conntrack binds a translation to
// that tuple, so in one table the answer to one would be given to the other.
// Two zones keep them apart: what goes to or comes from a real server is in
// zone 1, what goes between the application and the resolver in zone 2.

// zones returns the chains that choose them. With a resolver outside the pod
// captured lookups stay in zone 0, and the others go to zone 1 all the same: app
// and proxy can use one tuple there, too.
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

const (
	exempt     = "zone of a lookup left alone"
	redirected = "zone of a captured lookup"
)

// lookups are the rules that let all but captured servers' lookups go.
func (c Config) lookups() []Rule {
	rules := []Rule{{"O8", "not a name lookup", []Match{Proto{UDP}, Not{DstPort{Port(dnsPort)}}}, Return{}}}
	if c.DNS.Mode == DNSResolvConf {
		rules = append(rules, Rule{"O8", "not a server of resolv.conf", []Match{Not{Dst(c.dnsServers())}}, Return{}})
	}
	if to := c.resolverOutside(); len(to) > 0 {
		rules = append(rules, Rule{"O8", "to the resolver outside the pod", []Match{Dst(to)}, Return{}})
	}
	return rules
}

// resolverOutside are the addresses of a resolver that is not in the pod. What
// goes to it stays in zone 0, captured or not: its answers come from the network
// like ICMP errors about them, which can have no other zone.
func (c Config) resolverOutside() (addrs CIDRs) {
	if leavesPod(c.DNS.Target) {
		for _, to := range c.DNS.Target {
			addrs = append(addrs, single([]netip.Addr{to.Addr()})...)
		}
	}
	return addrs
}

// zoneOfCaptured is what becomes of a lookup that O8 captures.
func (c Config) zoneOfCaptured() Target {
	if len(c.resolverOutside()) > 0 {
		return Return{}
	}
	return CTZone{zoneCaptured}
}

// under says of rules what they are for here.
func under(what string, rules []Rule) []Rule {
	for i := range rules {
		rules[i].Reason = what + ": " + rules[i].Reason
	}
	return rules
}

// zonesOfQueries returns the zones of what the pod sends. It follows lines O1
// to O7, so that a lookup is in zone 2 exactly if O8 redirects it.
func (c Config) zonesOfQueries() []Rule {
	upstream, captured := CTZone{zoneUpstream}, c.zoneOfCaptured()
	errors := Proto{ICMP, ICMPv6}
	rules := []Rule{
		// This chain sees every packet of the pod: let the others go at once.
		{"O8", "neither UDP nor ICMP", []Match{Not{Proto{UDP, ICMP, ICMPv6}}}, Return{}},
	}
	add := func(r ...Rule) { rules = append(rules, r...) }
	inside := len(c.resolverOutside()) == 0
	if inside {
		// If nothing listens on the DNS port the kernel says so, and conntrack
		// has to find the lookup to translate that for who asked.
		for _, name := range append([]string{loopbackInterface}, c.VirtualInterfaces...) {
			add(Rule{"O8", "zone of errors to captured lookups", []Match{errors, OutInterface(name)}, captured})
		}
	}
	add(Rule{"O8", "other ICMP", []Match{errors}, Return{}})
	if inside {
		for _, who := range c.proxy() {
			match := []Match{Proto{UDP}, SrcPort{Port(c.resolverPort())}, who.match}
			add(Rule{"O8", "zone of the resolver's answers (" + who.by + ")", match, captured})
		}
	}
	add(c.lookups()...)
	add(under(exempt, c.excludedOutInterfaces(upstream))...)
	add(under(exempt, c.passthrough(upstream))...)
	add(under(exempt, c.fromProxy(upstream))...)
	add(under(exempt, c.exclusions(upstream, Exclusion.concernsDNS))...)
	add(under(exempt, c.excludedOwners(upstream))...)
	if c.includesOwners() {
		add(under(redirected, c.includedOwners(captured))...)
		add(Rule{"O7", exempt + ": its owner is not included", nil, upstream})
		return rules
	}
	add(Rule{"O8", redirected, nil, captured})
	return rules
}

// zonesOfArrivals returns the zones of the servers' answers, which are known by
// the source they come from, and of lookups from behind the pod.
func (c Config) zonesOfArrivals() []Rule {
	match := []Match{Proto{UDP}, SrcPort{Port(dnsPort)}}
	if c.DNS.Mode == DNSResolvConf {
		match = append(match, Src(c.dnsServers()))
	}
	rules := []Rule{{"O8", "not UDP", []Match{Not{Proto{UDP}}}, Return{}}}
	if to := c.resolverOutside(); len(to) > 0 {
		rules = append(rules, Rule{"O8", "from the resolver outside the pod", []Match{Src(to)}, Return{}})
	}
	rules = append(rules, c.fromBehind(Goto{ChainRawVirtual})...)
	return append(rules, Rule{"O8", "zone of the servers' answers", match, CTZone{zoneUpstream}})
}

// zonesOfVirtual follows line I2: lookups that are left alone are the pod's
// to forward, and their answers come in by zone 1.
func (c Config) zonesOfVirtual() []Rule {
	rules := c.lookups()
	for _, name := range c.ExcludeInterfaces {
		rules = append(rules, Rule{"I1", exempt + ": excluded interface", []Match{InInterface(name)}, CTZone{zoneUpstream}})
	}
	rules = append(rules, under(exempt, c.exclusions(CTZone{zoneUpstream}, func(e Exclusion) bool { return e.ownerless() && e.concernsDNS() }))...)
	return append(rules, Rule{"O8", redirected, nil, c.zoneOfCaptured()})
}

// rejections returns line O13, and what is rejected of a family that is not
// captured. A reject has to be in a chain that sees packets after their
// translation: by then what was captured goes to a port of the pod or to a
// target, which is left alone.
func (c Config) rejections() []Chain {
	other := c.rejectsOtherFamily()
	if c.Outbound.UDP != TreatmentReject && c.Outbound.QUIC != TreatmentReject && !other {
		return nil
	}
	rules, chains := c.sent(nil, c.rejected(), ChainRejectIncluded, FilterChain)
	chains = append(chains, Chain{Name: ChainRejectOutput, Hook: Output, Priority: PriorityFilter, Rules: append(c.notToReject(), rules...)})

	// What arrives: for the pod itself, or to be forwarded by it.
	var arriving []Rule
	if len(c.VirtualInterfaces) > 0 {
		virtual := append(c.notToReject(), c.exclusions(Return{}, Exclusion.ownerless)...)
		virtual = append(virtual, c.rejected()...)
		chains = append(chains, Chain{Name: ChainRejectVirtual, Rules: virtual})
		arriving = c.fromBehind(Goto{ChainRejectVirtual})
	}
	if other && c.Inbound.Mode != InboundOff {
		arriving = append(arriving, Rule{"I8", "inside the pod", []Match{InInterface(loopbackInterface)}, Return{}})
		arriving = append(arriving, c.notInbound()...)
		for _, d := range c.inbound() {
			match := slices.Concat(opens(), d.match, []Match{CTNew, IsFamily(c.families()[0].other())})
			arriving = append(arriving, Rule{"I7", d.reason + ", of a family that is not captured", match, Reject{}})
		}
	}
	if len(arriving) == 0 {
		return chains
	}
	arriving = append(c.excludedInInterfaces(), arriving...)
	input := arriving
	if len(c.VirtualInterfaces) > 0 && c.capturesDNS() && len(c.DNS.Target) == 0 {
		// It has been redirected to the interface's own address.
		match := []Match{Proto{UDP}, DstPort{Port(c.DNS.Port)}}
		input = append([]Rule{{"O8", "a captured name lookup", match, Return{}}}, arriving...)
	}
	return append(chains,
		Chain{Name: ChainRejectInput, Hook: Input, Priority: PriorityFilter, Rules: input},
		Chain{Name: ChainRejectForward, Hook: Forward, Priority: PriorityFilter, Rules: arriving})
}

// notToReject returns the rules that let go what no line of the policy
// rejects: answers, other protocols, and what has been captured.
func (c Config) notToReject() []Rule {
	rules := []Rule{
		{"O14", "neither TCP nor UDP", []Match{Not{Proto{TCP, UDP}}}, Return{}},
		{"O14", "of a connection that is there", []Match{Not{CTNew}}, Return{}},
	}
	if c.capturesDNS() {
		for _, to := range c.DNS.Target {
			match := []Match{Proto{TCP, UDP}, Dst(single([]netip.Addr{to.Addr()})), DstPort{Port(to.Port())}}
			rules = append(rules, Rule{"O8", "a captured name lookup", match, Return{}})
		}
	}
	return rules
}

// rejected returns lines O8 to O14 as far as they reject.
func (c Config) rejected() []Rule {
	var rules []Rule
	captured := c.families()[0]
	if c.rejectsOtherFamily() {
		left := IsFamily(captured.other())
		if c.capturesDNS() {
			for _, proto := range [][]Match{{Proto{UDP}}, opens()} {
				match := slices.Concat(proto, []Match{DstPort{Port(dnsPort)}, left}, c.toServers())
				rules = append(rules, Rule{"O8", "a name lookup, of a family that is not captured", match, Reject{}})
			}
		}
		rules = append(rules, c.leftAlone()...)
		for _, d := range c.destinations() {
			match := slices.Concat(opens(), d.match, []Match{left})
			rules = append(rules, Rule{d.line, d.reason + ", of a family that is not captured", match, Reject{}})
		}
	} else {
		rules = append(rules, c.leftAlone()...)
	}
	for _, d := range c.destinations() {
		match := slices.Concat([]Match{Proto{UDP}}, d.match)
		switch {
		case c.Outbound.UDP == TreatmentReject:
		case c.Outbound.QUIC == TreatmentReject && d.line == "O11":
			if !c.Outbound.IncludePorts.Contains(quicPort) {
				continue
			}
			match = []Match{Proto{UDP}, DstPort{Port(quicPort)}}
		case c.Outbound.QUIC == TreatmentReject:
			match = append(match, DstPort{Port(quicPort)})
		default:
			continue
		}
		rules = append(rules, Rule{"O13", "UDP, which the proxy does not take: " + d.reason, match, Reject{}})
	}
	return append(rules, Rule{"O14", "not included", nil, Return{}})
}
