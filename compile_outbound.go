package intercept

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Outbound, lines O1 to O14: what the pod sends. The order of the lines is in sent and captured.

// outbound returns the chains for what the pod sends.
func (c Config) outbound() []Chain {
	rules, chains := c.sent("", c.proxyToItself(), c.ofProcesses(c.captured()), ChainOutputIncluded, NATChain)
	return append(chains, Chain{Name: ChainOutput, Hook: Output, Priority: PriorityFirstNAT, Type: NATChain, Rules: rules})
}

// sent returns lines O1 to O7, which let go, and then the rules for the rest. If owners are included, those rules are
// in a chain of their own, for them. It leaves out the lines that rules before have decided.
func (c Config) sent(
	scope string, toItself, rest []Rule, included string, typ ChainType, decided ...string,
) (rules []Rule, chains []Chain) {
	for _, line := range [][]Rule{
		c.excludedOutInterfaces(Return{}),    // O1
		c.passthrough(Return{}),              // O2
		toItself,                             // O3
		c.fromProxy(Return{}),                // O4
		c.exclusions(Return{}, anyExclusion), // O5
		c.insideThePod(),                     // O6
		c.excludedOwners(Return{}),           // O7
	} {
		rules = append(rules, line...)
	}
	rules = slices.DeleteFunc(rules, func(r Rule) bool { return slices.Contains(decided, r.ID.Line()) })
	if c.includesOwners() {
		// Owners are matched positively only, so that a packet without a socket is on no list in every backend.
		rules = append(rules, c.includedOwners(Goto{Chain: included})...)
		rules = append(rules, rule("O7.other", "its owner is not included", nil, Return{}))
		chains = []Chain{{Name: included, Type: typ, Rules: rest}}
		rest = nil
	}
	if scope != "" {
		rules = in(scope, "", rules)
	}
	return append(rules, rest...), chains
}

// excludedOutInterfaces returns line O1.
func (c Config) excludedOutInterfaces(t Target) []Rule {
	var rules []Rule
	for _, name := range unique(c.ExcludeInterfaces) {
		rules = append(rules, rule(byInterface("O1", name), "excluded interface", []Match{OutInterface(name)}, t))
	}
	return rules
}

// unique returns the names without those that come again: a rule for each, and its ID, stands once.
func unique(names []string) []string {
	var once []string
	for _, name := range names {
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}

// byInterface returns the ID of a line's rule for one interface.
func byInterface(line, name string) RuleID { return RuleID(line + "." + name) }

// passthrough returns line O2.
func (c Config) passthrough(t Target) []Rule {
	if len(c.PassthroughSources) == 0 {
		return nil
	}
	return []Rule{rule("O2", "the proxy's passthrough source", []Match{leavingByLo, Src(single(c.PassthroughSources))}, t)}
}

// proxyToItself returns line O3: a proxy that calls its own pod's service by the pod's address comes in as inbound,
// excluded outbound ports or not. In mode tproxy it has its mark already, and keeps its address.
func (c Config) proxyToItself() []Rule {
	if c.Inbound.Mode == InboundTProxy && c.Inbound.Hairpin == HairpinCapture {
		match := []Match{leavingByLo, Proto{TCP}, MetaMark(c.Inbound.TProxy.SelfMark)}
		return []Rule{rule("O3.mark", "the proxy calls its own pod", match, Keep{})}
	}
	return c.toItself()
}

// toItself returns the rules that know the connections of line O3, with the target they have in mode redirect.
func (c Config) toItself() []Rule {
	if c.Inbound.Mode == InboundOff || c.Inbound.Hairpin == HairpinPass {
		return nil
	}
	var except Ports
	if c.TunnelPort != 0 {
		except = append(except, Port(c.TunnelPort))
	}
	if c.DNS.Mode != DNSOff && c.DNS.TCP {
		except = append(except, Port(dnsPort))
	}
	var rules []Rule
	for _, who := range c.proxy() {
		match := append(opens(), leavingByLo, who.match, not(Dst(c.Loopback)))
		if len(except) > 0 {
			match = append(match, not(DstPort(except)))
		}
		rules = append(rules,
			rule("O3."+who.id, "the proxy calls its own pod ("+who.by+")", match, Redirect{Ports: c.Inbound.Port}))
	}
	return rules
}

// fromProxy returns line O4: whatever the proxy sends passes, so nothing loops.
func (c Config) fromProxy(t Target) []Rule {
	var rules []Rule
	for _, who := range c.proxy() {
		rules = append(rules, rule("O4."+who.id, "from the proxy ("+who.by+")", []Match{who.match}, t))
	}
	return rules
}

type identity struct {
	id    RuleID
	by    string
	match Match
}

// proxy returns the ways to know the proxy by. Any one suffices, so each is a rule of its own.
func (c Config) proxy() []identity {
	var ids []identity
	if len(c.Proxy.UIDs) > 0 {
		ids = append(ids, identity{"uid", "by user", UID(c.Proxy.UIDs)})
	}
	if len(c.Proxy.GIDs) > 0 {
		ids = append(ids, identity{"gid", "by group", GID(c.Proxy.GIDs)})
	}
	if c.Proxy.Mark.Mask != 0 {
		ids = append(ids, identity{"mark", "by mark", MetaMark(c.Proxy.Mark)})
	}
	return ids
}

// exclusions returns line O5 for the exclusions that concern the caller.
func (c Config) exclusions(t Target, concerns func(Exclusion) bool) []Rule {
	var rules []Rule
	if p := c.Outbound.ExcludePorts; len(p) > 0 && concerns(Exclusion{Ports: p}) {
		rules = append(rules, rule("O5.ports", "excluded port", ports(Proto{TCP, UDP}, p), t))
	}
	for i, e := range c.Outbound.Exclude {
		if concerns(e) {
			rules = append(rules, rule(numbered("O5.exclude", i), fmt.Sprintf("exclusion %d", i+1), e.matches(), t))
		}
	}
	return rules
}

// numbered returns the ID of a line's rule for one item of a list.
func numbered(line string, i int) RuleID { return RuleID(fmt.Sprintf("%s.%d", line, i+1)) }

func anyExclusion(Exclusion) bool { return true }

// concernsDNS reports whether e can match a lookup over UDP.
func (e Exclusion) concernsDNS() bool {
	return e.Protocol != TCP && (len(e.Ports) == 0 || e.Ports.Contains(dnsPort))
}

// ownerless reports whether e can match a packet that has no socket.
func (e Exclusion) ownerless() bool { return len(e.UIDs) == 0 && len(e.GIDs) == 0 }

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

// insideThePod returns line O6. While DNS is captured, port 53 is not exempt; while a part of loopback is included,
// nothing is.
func (c Config) insideThePod() []Rule {
	switch {
	case slices.ContainsFunc(c.Outbound.IncludeCIDRs, inLoopback):
		return nil
	case c.DNS.Mode == DNSOff:
		return []Rule{rule("O6", "inside the pod", []Match{leavingByLo}, Return{})}
	}
	asks, other := Proto{TCP, UDP}, "inside the pod, neither TCP nor UDP"
	if !c.DNS.TCP {
		asks, other = Proto{UDP}, "inside the pod, not UDP"
	}
	return []Rule{
		rule("O6.ports", "inside the pod, no name lookup", []Match{leavingByLo, asks, not(DstPort{Port(dnsPort)})}, Return{}),
		rule("O6.other", other, []Match{leavingByLo, not(asks)}, Return{}),
	}
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
		rules = append(rules, rule(RuleID("O7."+what+"-uid"), what+" user", []Match{UID(uids)}, t))
	}
	if len(gids) > 0 {
		rules = append(rules, rule(RuleID("O7."+what+"-gid"), what+" group", []Match{GID(gids)}, t))
	}
	return rules
}

// captured returns lines O8 to O14: what happens to a connection that neither its sender nor an exclusion exempts.
func (c Config) captured() []Rule {
	var rules []Rule
	for _, l := range c.lookups() { // O8
		rules = append(rules, send(l, l.match, Port(c.DNS.Port), c.DNS.Target)...)
	}
	rules = append(rules, c.leftAlone()...)      // O9, O10
	for _, d := range c.outboundDestinations() { // O11, O12
		rules = append(rules, send(d, append(opens(), d.match...), c.Outbound.Port, c.Outbound.Target)...)
	}
	return append(rules, rule("O14", "not included", nil, Return{}))
}

// ofProcesses makes of rules about what opens TCP connections those about what processes open. The kernel opens
// subflows of Multipath TCP by itself. Until one is there it belongs to nobody: it can be the proxy's or an excluded
// owner's, and none of their lines knows it. A SYN with the option that a process sends, for which it needs NET_RAW, is
// like any other.
func (c Config) ofProcesses(rules []Rule) []Rule {
	if c.includesOwners() {
		return rules // they stand behind the lists of owners, on which the kernel is not
	}
	var all []Rule
	for _, r := range rules {
		if !slices.ContainsFunc(r.Match, func(m Match) bool { return m == Match(Opens()) }) {
			all = append(all, r)
			continue
		}
		sent := r
		sent.ID += ".mptcp"
		sent.Match = append(slices.Clone(r.Match), MPTCP{}, HasSocket{})
		r.Match = append(slices.Clone(r.Match), not(MPTCP{}))
		all = append(all, r, sent)
	}
	return all
}

// lookups returns line O8, a protocol each, with all its conditions. There are none unless DNS is captured.
func (c Config) lookups() []capture {
	if !c.capturesDNS() {
		return nil
	}
	lookup := func(p Protocol, match []Match) capture {
		reason := "a name lookup over " + strings.ToUpper(p.String())
		if c.DNS.Mode == DNSResolvConf {
			reason += ", to a server of resolv.conf"
		}
		match = slices.Concat(match, []Match{DstPort{Port(dnsPort)}}, c.toServers())
		return capture{RuleID("O8." + p.String()), reason, match}
	}
	all := []capture{lookup(UDP, []Match{Proto{UDP}})}
	if c.DNS.TCP {
		all = append(all, lookup(TCP, opens()))
	}
	return all
}

// send returns the rules by which the matching connections of a line go to a port of the pod, or to a target elsewhere.
func send(line capture, match []Match, port PortRange, target []netip.AddrPort) []Rule {
	if len(target) == 0 {
		return []Rule{rule(line.id, line.reason, match, Redirect{Ports: port})}
	}
	var rules []Rule
	for _, to := range target {
		f := FamilyOf(to.Addr())
		rules = append(rules, rule(line.id+ofFamily(f), line.reason, slices.Concat(match, []Match{IsFamily(f)}),
			DNAT{To: to}))
	}
	return rules
}

// ofFamily ends the IDs of rules of which there is one a family.
func ofFamily(f Family) RuleID { return RuleID("." + strings.ToLower(f.String())) }

// leavesPod reports whether a target is outside the pod's own loopback network.
func leavesPod(target []netip.AddrPort) bool {
	return slices.ContainsFunc(target, func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() })
}

func loopbackNetworks() CIDRs { return CIDRs{loopbackIPv4, netip.PrefixFrom(localhost6, 128)} }

// leftAlone returns lines O9 and O10.
func (c Config) leftAlone() []Rule {
	rules := []Rule{rule("O9", "the exempt loopback range", []Match{Dst(c.Loopback)}, Return{})}
	if leavesPod(c.Outbound.Target) {
		// A packet with a loopback address cannot leave the host.
		rules[0] = rule("O9", "loopback, which cannot leave the pod", []Match{Dst(loopbackNetworks())}, Return{})
	}
	for _, to := range c.Outbound.Target {
		// Else what is sent on to the proxy would be sent to it again.
		match := []Match{Proto{TCP}, Dst(single([]netip.Addr{to.Addr()})), DstPort{Port(to.Port())}}
		rules = append(rules, rule("O10.proxy"+ofFamily(FamilyOf(to.Addr())), "the proxy itself", match, Return{}))
	}
	if len(c.Outbound.ExcludeCIDRs) > 0 {
		rules = append(rules, rule("O10.cidrs", "excluded destination", []Match{Dst(c.Outbound.ExcludeCIDRs)}, Return{}))
	}
	return rules
}

// outboundDestinations returns lines O11 and O12.
func (c Config) outboundDestinations() []capture {
	var all []capture
	o := c.Outbound
	if len(o.IncludePorts) > 0 {
		all = append(all, capture{"O11", "included port", []Match{DstPort(o.IncludePorts)}})
	}
	switch {
	case o.IncludeCIDRs.All():
		all = append(all, capture{"O12", "every destination is included", nil})
	case len(o.IncludeCIDRs) > 0:
		all = append(all, capture{"O12", "included destination", []Match{Dst(o.IncludeCIDRs)}})
	}
	return all
}

// ports returns the matches for a list of ports. A list of all of them needs no match.
func ports(protos Proto, p Ports) []Match {
	if p.All() {
		return []Match{protos}
	}
	return []Match{protos, DstPort(p)}
}

func single(addrs []netip.Addr) CIDRs {
	list := make(CIDRs, len(addrs))
	for i, a := range addrs {
		list[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return list
}
