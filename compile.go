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
	ChainInvalid        = "invalid"         // I1, I3
	ChainRawOutput      = "raw_output"      // conntrack zones of DNS
	ChainRawPrerouting  = "raw_prerouting"  // conntrack zones of DNS
	loopbackInterface   = "lo"
	dnsPort             = 53
	zoneUpstream        = 1
	zoneCaptured        = 2
)

// Compile returns the Ruleset that enforces c, or everything that is wrong
// with c (see [Config.Validate]). It does no I/O and is the only place that
// holds the policy: backends translate what it returns.
func Compile(c Config) (Ruleset, error) {
	if err := c.Validate(); err != nil {
		return Ruleset{}, err
	}
	rs := Ruleset{Families: c.families()}
	if c.capturesDNS() {
		rs.Chains = append(rs.Chains,
			Chain{Name: ChainRawPrerouting, Hook: Prerouting, Priority: PriorityRaw, Rules: c.zonesOfReplies()},
			Chain{Name: ChainRawOutput, Hook: Output, Priority: PriorityRaw, Rules: c.zonesOfQueries()})
	}
	if c.Inbound.DropInvalid {
		rs.Chains = append(rs.Chains,
			Chain{Name: ChainInvalid, Hook: Prerouting, Priority: PriorityMangle, Rules: c.dropInvalid()})
	}
	if c.Inbound.Mode != InboundOff {
		rs.Chains = append(rs.Chains,
			Chain{Name: ChainPrerouting, Hook: Prerouting, Priority: PriorityDstNAT, Type: NATChain, Rules: c.inbound()})
	}
	rs.Chains = append(rs.Chains, c.outbound()...)
	return rs, nil
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
	var rules []Rule
	add := func(r ...Rule) { rules = append(rules, r...) }

	add(c.excludedOutInterfaces(Return{})...)    // O1
	add(c.passthrough(Return{})...)              // O2
	add(c.proxyToItself()...)                    // O3
	add(c.fromProxy(Return{})...)                // O4
	add(c.exclusions(Return{}, anyExclusion)...) // O5
	if !slices.ContainsFunc(c.Outbound.IncludeCIDRs, inLoopback) {
		add(c.insideThePod()...) // O6
	}
	add(c.excludedOwners(Return{})...) // O7

	captured := c.captured()
	if !c.includesOwners() {
		add(captured...)
		return []Chain{natOutput(rules)}
	}
	// Owners are matched positively only, so that a packet without a socket is
	// on no list in every backend.
	add(c.includedOwners(Goto{ChainOutputIncluded})...)
	add(Rule{"O7", "its owner is not included", nil, Return{}})
	return []Chain{
		{Name: ChainOutputIncluded, Type: NATChain, Rules: captured},
		natOutput(rules),
	}
}

func natOutput(rules []Rule) Chain {
	return Chain{Name: ChainOutput, Hook: Output, Priority: PriorityDstNAT, Type: NATChain, Rules: rules}
}

// insideThePod returns line O6. While DNS is captured, port 53 is not exempt.
func (c Config) insideThePod() []Rule {
	lo := OutInterface(loopbackInterface)
	if c.DNS.Mode == DNSOff {
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
	add := func(r ...Rule) { rules = append(rules, r...) }
	o := c.Outbound

	if c.capturesDNS() {
		for _, proto := range []Protocol{UDP, TCP} {
			match := []Match{Proto{UDP}, DstPort{Port(dnsPort)}}
			if proto == TCP {
				match = append(opens(), DstPort{Port(dnsPort)})
			}
			reason := "a name lookup over " + strings.ToUpper(proto.String())
			if c.DNS.Mode == DNSResolvConf {
				match = append(match, Dst(c.dnsServers()))
				reason += ", to a server of resolv.conf"
			}
			add(Rule{"O8", reason, match, Redirect{Port(c.DNS.Port)}})
		}
	}
	add(Rule{"O9", "the exempt loopback range", []Match{Dst(c.Loopback)}, Return{}})
	if len(o.ExcludeCIDRs) > 0 {
		add(Rule{"O10", "excluded destination", []Match{Dst(o.ExcludeCIDRs)}, Return{}})
	}
	if len(o.IncludePorts) > 0 {
		add(Rule{"O11", "included port", append(opens(), DstPort(o.IncludePorts)), Redirect{o.Port}})
	}
	switch {
	case o.IncludeCIDRs.All():
		add(Rule{"O12", "every destination is included", opens(), Redirect{o.Port}})
	case len(o.IncludeCIDRs) > 0:
		add(Rule{"O12", "included destination", append(opens(), Dst(o.IncludeCIDRs)), Redirect{o.Port}})
	}
	add(Rule{"O14", "not included", nil, Return{}})
	return rules
}

// inbound returns lines I1 to I8: the chain for what arrives in the pod. I3 is
// in a chain of its own, since NAT chains do not see invalid packets.
func (c Config) inbound() []Rule {
	var rules []Rule
	add := func(r ...Rule) { rules = append(rules, r...) }
	in := c.Inbound

	add(c.excludedInInterfaces()...) // I1
	if c.TunnelPort != 0 {
		add(Rule{"I4", "the tunnel port", ports(Proto{TCP}, Ports{Port(c.TunnelPort)}), Return{}})
	}
	if len(in.ExcludeSources) > 0 {
		add(Rule{"I5", "excluded source", []Match{Proto{TCP}, Src(in.ExcludeSources)}, Return{}})
	}
	if len(in.ExcludePorts) > 0 {
		add(Rule{"I6", "excluded port", ports(Proto{TCP}, in.ExcludePorts), Return{}})
	}
	switch {
	case in.IncludePorts.All():
		add(Rule{"I7", "every port is included", opens(), Redirect{in.Port}})
	case len(in.IncludePorts) > 0:
		add(Rule{"I7", "included port", append(opens(), DstPort(in.IncludePorts)), Redirect{in.Port}})
	}
	add(Rule{"I8", "not included", nil, Return{}})
	return rules
}

// dropInvalid returns line I3, and I1 before it.
func (c Config) dropInvalid() []Rule {
	return append(c.excludedInInterfaces(),
		Rule{"I3", "conntrack calls it invalid", []Match{CTInvalid}, Drop{}})
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
// the pod's address comes in as inbound, excluded outbound ports or not.
func (c Config) proxyToItself() []Rule {
	if c.Inbound.Mode == InboundOff {
		return nil
	}
	var not Ports
	if c.TunnelPort != 0 {
		not = append(not, Port(c.TunnelPort))
	}
	if c.DNS.Mode != DNSOff {
		not = append(not, Port(dnsPort))
	}
	var rules []Rule
	for _, who := range c.proxy() {
		match := append(opens(), OutInterface(loopbackInterface), who.match, Not{Dst(c.Loopback)})
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

func (c Config) dnsServers() CIDRs { return single(c.DNS.Servers) }

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

// zonesOfQueries returns the zones of what the pod sends. It follows lines O1
// to O7, so that a lookup is in zone 2 exactly if O8 redirects it.
func (c Config) zonesOfQueries() []Rule {
	upstream, captured := CTZone{zoneUpstream}, CTZone{zoneCaptured}
	errors := Proto{ICMP, ICMPv6}
	rules := []Rule{
		// This chain sees every packet of the pod: let the others go at once.
		{"O8", "neither UDP nor ICMP", []Match{Not{Proto{UDP, ICMP, ICMPv6}}}, Return{}},
		// If nothing listens on the DNS port the kernel says so, and conntrack
		// has to find the lookup to translate that for the application.
		{"O8", "zone of errors to captured lookups", []Match{errors, OutInterface(loopbackInterface)}, captured},
		{"O8", "other ICMP", []Match{errors}, Return{}},
	}
	add := func(what string, more []Rule) {
		for _, r := range more {
			r.Reason = what + ": " + r.Reason
			rules = append(rules, r)
		}
	}
	for _, who := range c.proxy() {
		match := []Match{Proto{UDP}, SrcPort{Port(c.DNS.Port)}, who.match}
		rules = append(rules, Rule{"O8", "zone of the resolver's answers (" + who.by + ")", match, captured})
	}
	rules = append(rules, Rule{"O8", "not a name lookup", []Match{Proto{UDP}, Not{DstPort{Port(dnsPort)}}}, Return{}})
	if c.DNS.Mode == DNSResolvConf {
		rules = append(rules, Rule{"O8", "not a server of resolv.conf", []Match{Not{Dst(c.dnsServers())}}, Return{}})
	}
	const exempt, redirected = "zone of a lookup left alone", "zone of a captured lookup"
	add(exempt, c.excludedOutInterfaces(upstream))
	add(exempt, c.passthrough(upstream))
	add(exempt, c.fromProxy(upstream))
	add(exempt, c.exclusions(upstream, Exclusion.concernsDNS))
	add(exempt, c.excludedOwners(upstream))
	if c.includesOwners() {
		add(redirected, c.includedOwners(captured))
		add(exempt, []Rule{{"O7", "its owner is not included", nil, upstream}})
		return rules
	}
	add(redirected, []Rule{{"O8", "every other", nil, captured}})
	return rules
}

// zonesOfReplies returns the zone of the servers' answers. They are known by
// the source they come from.
func (c Config) zonesOfReplies() []Rule {
	match := []Match{Proto{UDP}, SrcPort{Port(dnsPort)}}
	if c.DNS.Mode == DNSResolvConf {
		match = append(match, Src(c.dnsServers()))
	}
	return []Rule{
		{"O8", "not UDP", []Match{Not{Proto{UDP}}}, Return{}},
		{"O8", "zone of the servers' answers", match, CTZone{zoneUpstream}},
	}
}
