package iptables

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// vocabulary is a Ruleset that holds every Match and every Target, plain and
// negated, with one item and with several, in every place where xtables has
// them.
func vocabulary() ruleset.Ruleset {
	tcp, udp, both := ruleset.Proto{ruleset.TCP}, ruleset.Proto{ruleset.UDP}, ruleset.Proto{ruleset.TCP, ruleset.UDP}
	ports := func(s string) ruleset.Ports { return must(ruleset.ParsePorts(s)) }
	ids := func(s string) ruleset.IDs { return must(ruleset.ParseIDs(s)) }

	var filter []ruleset.Rule
	add := func(target ruleset.Target, match ...ruleset.Match) {
		reason := fmt.Sprintf(`"vocabulary" \%d, it's -j DROP`, len(filter))
		filter = append(filter, ruleset.Rule{ID: "O14", Reason: reason, Match: match, Target: target})
	}
	for _, m := range []ruleset.Match{
		tcp, both, ruleset.Proto{ruleset.ICMP}, ruleset.Proto{ruleset.ICMP, ruleset.ICMPv6},
		ruleset.Src(mustCIDRs("192.0.2.1")), ruleset.Src(mustCIDRs("192.0.2.0/24,10.0.0.0/8,fd00::/8,::1")),
		ruleset.Dst(mustCIDRs("fd00::1")), ruleset.Dst(mustCIDRs("224.0.0.0/3,8000::/1,0.0.0.0/8,::/16")),
		ruleset.Src(ruleset.AllCIDRs()), ruleset.Dst(mustCIDRs("0.0.0.0/1,128.0.0.0/1,2001:db8::/47")),
		ruleset.OutInterface("lo"), ruleset.OutInterface("fifteen-bytes-x"), ruleset.OutInterface("k6t-*"),
		ruleset.OutInterface("eth0.7@a"),
		ruleset.MetaMark{Value: 0x539, Mask: 0xfff}, ruleset.MetaMark{Value: 7, Mask: 1<<32 - 1}, ruleset.MetaMark{Mask: 1},
		ruleset.MetaMark{Value: 2, Mask: 1},
		ruleset.ConnMark{Value: 0x539, Mask: 0xfff}, ruleset.ConnMark{Value: 7, Mask: 1<<32 - 1}, ruleset.ConnMark{},
		ruleset.CTInvalid, ruleset.CTNew | ruleset.CTEstablished, ruleset.CTRelated, ruleset.CTState(15),
		ruleset.IsFamily(ruleset.IPv4), ruleset.IsFamily(ruleset.IPv6),
	} {
		add(ruleset.Return{}, m)
		add(ruleset.Return{}, ruleset.Not{Match: m})
	}
	for _, m := range []ruleset.Match{
		ruleset.SrcPort(ports("53")), ruleset.SrcPort(ports("1-1023")),
		ruleset.SrcPort(ports("1,3,5,7,9,11,13,15,17,19,21,23,25,31-40,42")),
		ruleset.DstPort(ports("80,8000-8010,60000-65535")), ruleset.DstPort(ports("8000-8010")),
		ruleset.DstPort(ports("60000-65535")), ruleset.DstPort(ports("1-65535")),
	} {
		add(ruleset.Return{}, both, m)
		add(ruleset.Return{}, udp, m)
		add(ruleset.Return{}, udp, ruleset.Not{Match: m})
		add(ruleset.Return{}, both, ruleset.Not{Match: m})
	}
	for _, f := range []ruleset.TCPFlags{ruleset.Opens(), {Mask: 63}, {Mask: 63, Value: 63},
		{Mask: ruleset.ACK, Value: ruleset.ACK}} {
		add(ruleset.Return{}, tcp, f)
		add(ruleset.Return{}, tcp, ruleset.Not{Match: f})
	}
	for _, m := range []ruleset.Match{
		ruleset.UID(ids("1337")), ruleset.UID(ids("1000-1999")), ruleset.UID(ids("0,5-7,4294967294")),
		ruleset.GID(ids("1337")), ruleset.GID(ids("1000-1999")), ruleset.GID(ids("0,5-7,4294967294")),
	} {
		add(ruleset.Return{}, m)
	}
	for _, m := range []ruleset.Match{ruleset.CTDNAT{}, ruleset.CTOriginal, ruleset.CTReply, ruleset.HasSocket{},
		ruleset.Length(1500)} {
		add(ruleset.Return{}, m)
	}
	add(ruleset.Return{}, ruleset.Not{Match: ruleset.Length(40)})
	add(ruleset.Return{}, ruleset.Not{Match: ruleset.CTInvalid}, ruleset.CTDNAT{}, ruleset.CTReply,
		ruleset.UID(ids("1337")), ruleset.HasSocket{})
	for _, m := range []ruleset.Match{ruleset.ICMPEcho{}, ruleset.ICMPEcho{Extended: true},
		ruleset.ICMPQuote{SrcPort: 53}} {
		add(ruleset.Return{}, ruleset.Proto{ruleset.ICMP, ruleset.ICMPv6}, m)
		add(ruleset.Return{}, ruleset.Proto{ruleset.ICMPv6, ruleset.ICMP}, ruleset.Not{Match: m})
	}
	add(ruleset.Return{}, tcp, ruleset.TCPHeader(5))
	add(ruleset.Return{}, tcp, ruleset.Not{Match: ruleset.TCPHeader(15)})
	add(ruleset.Return{}, tcp, ruleset.MPTCP{}, ruleset.HasSocket{})
	add(ruleset.Return{}, tcp, ruleset.Not{Match: ruleset.MPTCP{}})
	add(ruleset.Return{}, tcp, ruleset.Opens(), ruleset.DstPort(ports("80")), ruleset.Not{Match: ruleset.MPTCP{}})
	add(ruleset.Return{}, tcp, ruleset.Older{}, ruleset.OutInterface("eth0"))
	add(ruleset.Return{}, ruleset.Opens(), tcp)
	// All kinds of conditions in one rule.
	everything := []ruleset.Match{tcp, ruleset.Not{Match: ruleset.DstPort(ports("80,443"))},
		ruleset.SrcPort(ports("1024-65535")), ruleset.Opens(),
		ruleset.Not{Match: ruleset.Src(mustCIDRs("192.0.2.1,fd00::/8"))},
		ruleset.Dst(mustCIDRs("192.0.2.0/24,10.0.0.0/8,fd00::/8,::1")),
		ruleset.OutInterface("eth*"), ruleset.UID(ids("0,5")), ruleset.GID(ids("5-7,9")),
		ruleset.MetaMark{Value: 1, Mask: 1}, ruleset.Not{Match: ruleset.ConnMark{Value: 1, Mask: 1}},
		ruleset.Not{Match: ruleset.CTInvalid}}
	add(ruleset.Return{}, everything...)
	add(ruleset.Accept{}, ruleset.OutInterface("a0"))
	add(ruleset.Drop{}, ruleset.OutInterface("a1"))
	add(ruleset.Reject{}, ruleset.OutInterface("a2"))
	add(ruleset.Reject{}, tcp, ruleset.OutInterface("a2"))
	add(ruleset.Jump{Chain: "sub"}, ruleset.OutInterface("a3"))
	add(ruleset.Goto{Chain: "sub"}, ruleset.OutInterface("a4"))

	marks := []ruleset.Rule{
		{ID: "O14", Reason: "some bits", Target: ruleset.SetMark{Value: 0x539, Mask: 0xfff}},
		{ID: "O14", Reason: "all bits", Target: ruleset.SetMark{Value: 0x539, Mask: 1<<32 - 1}},
		{ID: "O14", Reason: "more bits than its mask", Target: ruleset.SetMark{Value: 3, Mask: 1}},
		{ID: "O14", Reason: "some bits of the connection's", Target: ruleset.SetConnMark{Value: 0x539, Mask: 0xfff}},
		{ID: "O14", Reason: "all bits of the connection's", Target: ruleset.SetConnMark{Value: 0x539, Mask: 1<<32 - 1}},
	}
	arriving := []ruleset.Rule{
		{ID: "I1", Reason: "by eth0", Match: []ruleset.Match{ruleset.InInterface("eth0")}, Target: ruleset.Return{}},
		{ID: "I1", Reason: "not by eth0", Match: []ruleset.Match{ruleset.Not{Match: ruleset.InInterface("eth0")}},
			Target: ruleset.Jump{Chain: "sub"}},
		{ID: "I1", Reason: "by a bridge", Match: []ruleset.Match{ruleset.InInterface("br-*")}, Target: ruleset.Drop{}},
		{ID: "I1", Reason: "not by a bridge", Match: []ruleset.Match{ruleset.Not{Match: ruleset.InInterface("br-*")}},
			Target: ruleset.SetMark{Value: 1, Mask: 1}},
		{ID: "I9", Reason: "to the pod", Match: []ruleset.Match{ruleset.ToLocal{}}, Target: ruleset.Jump{Chain: "sub"}},
		{ID: "I9", Reason: "not to the pod", Match: []ruleset.Match{ruleset.Not{Match: ruleset.ToLocal{}}},
			Target: ruleset.Return{}},
		{ID: "I7", Reason: "its socket's", Match: []ruleset.Match{ruleset.SocketOpen{Transparent: true}},
			Target: ruleset.Divert{Port: 15006}},
		{ID: "I7", Reason: "tproxy", Match: []ruleset.Match{tcp},
			Target: ruleset.TProxy{Port: 15006, Mark: ruleset.Mark{Value: 0x539, Mask: 0xfff}}},
		{ID: "I7", Reason: "tproxy of UDP", Match: []ruleset.Match{udp},
			Target: ruleset.TProxy{Port: 15006, Mark: ruleset.Mark{Value: 0x539, Mask: 1<<32 - 1}}},
	}
	nat := []ruleset.Rule{
		{ID: "O12", Reason: "one port", Match: []ruleset.Match{tcp}, Target: ruleset.Redirect{Ports: ruleset.Port(15001)}},
		{ID: "O12", Reason: "spread", Match: []ruleset.Match{tcp},
			Target: ruleset.Redirect{Ports: ruleset.PortRange{First: 15001, Last: 15004}}},
		{ID: "O8", Reason: "elsewhere", Match: []ruleset.Match{udp, ruleset.IsFamily(ruleset.IPv4)},
			Target: ruleset.DNAT{To: netip.MustParseAddrPort("192.0.2.53:53")}},
		{ID: "O8", Reason: "elsewhere, by IPv6", Match: []ruleset.Match{udp, ruleset.IsFamily(ruleset.IPv6)},
			Target: ruleset.DNAT{To: netip.MustParseAddrPort("[2001:db8::53]:5353")}},
		{ID: "I7", Reason: "as it is", Match: []ruleset.Match{tcp}, Target: ruleset.Keep{}},
		{ID: "O14", Reason: "to another chain", Target: ruleset.Goto{Chain: "nat_sub"}},
	}
	zones := []ruleset.Rule{
		{ID: "O8", Reason: "no zone", Match: []ruleset.Match{ruleset.Not{Match: both}}, Target: ruleset.Return{}},
		{ID: "O8", Reason: "zone", Match: []ruleset.Match{udp}, Target: ruleset.CTZone{Zone: 2}},
		{ID: "O8", Reason: "the greatest zone", Match: []ruleset.Match{tcp}, Target: ruleset.CTZone{Zone: 65535}},
	}
	tuple := func(src, dst string) ruleset.Tuple {
		return ruleset.Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
	}
	return numbered(ruleset.Ruleset{
		Families: []ruleset.Family{ruleset.IPv4, ruleset.IPv6},
		Older: []ruleset.Tuple{tuple("10.244.0.5:40000", "203.0.113.10:443"), tuple("[fd00::5]:40000", "[2001:db8::1]:443"),
			tuple("[fd00::5]:65535", "[2001:db8::1]:1")},
		Chains: []ruleset.Chain{
			{Name: "zones", Hook: ruleset.Output, Priority: ruleset.PriorityRaw, Rules: zones},
			{Name: "arriving_zones", Hook: ruleset.Prerouting, Priority: ruleset.PriorityRaw, Rules: zones},
			{Name: "sub", Rules: []ruleset.Rule{{ID: "O14", Reason: "back", Target: ruleset.Return{}}}},
			{Name: "nat_sub", Type: ruleset.NATChain, Rules: nat[:2]},
			{Name: "filters", Hook: ruleset.Output, Priority: ruleset.PriorityFilter, Rules: filter},
			{Name: "marks", Hook: ruleset.Output, Priority: ruleset.PriorityMangle, Type: ruleset.RouteChain, Rules: marks},
			{Name: "arriving", Hook: ruleset.Prerouting, Priority: ruleset.PriorityMangle, Rules: arriving},
			{Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain, Rules: nat},
			{Name: "in", Hook: ruleset.Input, Priority: ruleset.PriorityFilter, Rules: []ruleset.Rule{
				{ID: "B7", Reason: "somebody listens", Match: []ruleset.Match{ruleset.SocketOpen{}}, Target: ruleset.Return{}},
				{ID: "O13", Reason: "for the pod", Match: []ruleset.Match{udp, ruleset.InInterface("br-*")},
					Target: ruleset.Reject{}}}},
			{Name: "through", Hook: ruleset.Forward, Priority: ruleset.PriorityFilter, Rules: []ruleset.Rule{
				{ID: "O13", Reason: "through the pod", Match: []ruleset.Match{udp, ruleset.InInterface("br-*")},
					Target: ruleset.Reject{}}}},
			{Name: "prerouting", Hook: ruleset.Prerouting, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain, Rules: nat},
		},
	})
}

// inDialect makes of a Ruleset those that the dialect has room for: with the
// minimal one, a few rules each, without those about older connections.
func inDialect(t *testing.T, rs ruleset.Ruleset, d Dialect) []ruleset.Ruleset {
	t.Helper()
	if d == Minimal {
		rs.Chains = slices.Clone(rs.Chains)
		for i, c := range rs.Chains {
			rs.Chains[i].Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r ruleset.Rule) bool {
				return slices.Contains(r.Match, ruleset.Match(ruleset.Older{}))
			})
		}
	}
	_, err := Render(rs, Options{Dialect: d})
	if !isTooBig(d, err) {
		return []ruleset.Ruleset{rs}
	}
	i := slices.IndexFunc(rs.Chains, func(c ruleset.Chain) bool { return c.Name == "filters" })
	all := rs.Chains[i].Rules
	var out []ruleset.Ruleset
	var part ruleset.Ruleset
	var rules []ruleset.Rule
	skipped := 0
	for len(all) > 0 {
		next := rs
		next.Chains = slices.Clone(rs.Chains)
		next.Chains[i].Rules = append(slices.Clone(rules), all[0])
		if len(out) > 0 { // the others once are enough
			next.Chains = slices.DeleteFunc(next.Chains, func(c ruleset.Chain) bool {
				return c.Name != "filters" &&
					c.Name != "sub"
			})
		}
		_, err := Render(next, Options{Dialect: d})
		switch {
		case err == nil:
			part, rules, all = next, next.Chains[slices.IndexFunc(next.Chains,
				func(c ruleset.Chain) bool { return c.Name == "filters" })].Rules, all[1:]
		case isTooBig(d, err) && len(rules) > 0:
			out, rules = append(out, part), nil
		case isTooBig(d, err):
			all = all[1:]
			skipped++
		default:
			t.Fatal(err)
		}
	}
	if skipped > 2 {
		t.Fatalf("%d rules are too big by themselves", skipped)
	}
	out = append(out, part)
	return out
}

// TestVocabularyIsComplete: vocabulary uses every type that package intercept
// declares as a Match or a Target, so that the tests which render it and load
// it miss none.
func TestVocabularyIsComplete(t *testing.T) {
	rs := vocabulary()
	if err := rs.Check(); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	note := func(v any) { used[reflect.TypeOf(v).Name()] = true }
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			note(r.Target)
			for _, m := range r.Match {
				note(m)
				if n, is := m.(ruleset.Not); is {
					note(n.Match)
				}
			}
		}
	}
	var decls []ast.Decl
	for _, name := range []string{"match.go", "target.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), "../ruleset/"+name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		decls = append(decls, file.Decls...)
	}
	found := 0
	for _, d := range decls {
		f, is := d.(*ast.FuncDecl)
		if !is || !slices.Contains([]string{"isMatch", "isTarget"}, f.Name.Name) {
			continue
		}
		found++
		if name := f.Recv.List[0].Type.(*ast.Ident).Name; !used[name] {
			t.Errorf("no rule of the vocabulary has a %s", name)
		}
	}
	if found < 25 {
		t.Fatalf("found %d types only", found)
	}
}

// TestVocabularyIsRendered: every rule of the vocabulary stands in the text of
// every family it concerns, and xtables can read all of it.
func TestVocabularyIsRendered(t *testing.T) {
	for _, d := range []Dialect{Standard, Minimal} {
		for _, rs := range inDialect(t, vocabulary(), d) {
			if _, err := machines(rs, d); err != nil {
				t.Errorf("%s: %v", d, err)
			}
			if d == Minimal {
				continue
			}
			for _, f := range rs.Families {
				text := textOf(t, rs, d, f)
				for _, c := range rs.Chains {
					for _, r := range c.Rules {
						_, ok := r.For(f)
						// What a negation of every address asks for, no packet has.
						never := r.Match != nil && strings.HasPrefix(r.Match[0].String(), "not ") &&
							strings.Contains(r.Match[0].String(), "source *")
						halves := f == ruleset.IPv4 && r.Match != nil &&
							strings.HasPrefix(r.Match[0].String(), "not destination 0.0.0.0/1,")
						if got := strings.Contains(text, quote(r.Comment())); got != (ok && !never && !halves) {
							t.Errorf("%s, chain %s, rule %v %s: rendered %t", f, c.Name, r.Match, r.Target, got)
						}
					}
				}
			}
		}
	}
}

// TestRefused: what xtables cannot say is an error that names it, not rules
// that match more.
func TestRefused(t *testing.T) {
	tcp := ruleset.Proto{ruleset.TCP}
	output := ruleset.Chain{Name: "c", Hook: ruleset.Output, Priority: ruleset.PriorityFilter}
	prerouting := ruleset.Chain{Name: "c", Hook: ruleset.Prerouting, Priority: ruleset.PriorityMangle}
	raw := ruleset.Chain{Name: "c", Hook: ruleset.Output, Priority: ruleset.PriorityRaw}
	route := ruleset.Chain{Name: "c", Hook: ruleset.Output, Priority: ruleset.PriorityMangle, Type: ruleset.RouteChain}
	nat := ruleset.Chain{Name: "c", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain}
	with := func(c ruleset.Chain, rules ...ruleset.Rule) []ruleset.Chain {
		c.Rules = rules
		return []ruleset.Chain{c}
	}
	returns := func(m ...ruleset.Match) ruleset.Rule {
		return ruleset.Rule{ID: "O1", Reason: "the culprit", Match: m, Target: ruleset.Return{}}
	}
	does := func(target ruleset.Target, m ...ruleset.Match) ruleset.Rule {
		return ruleset.Rule{ID: "O1", Reason: "the culprit", Match: m, Target: target}
	}
	tproxy := does(ruleset.TProxy{Port: 1, Mark: ruleset.Mark{Value: 1, Mask: 1}}, tcp)
	at := func(hook ruleset.Hook, p ruleset.Priority, typ ruleset.ChainType) []ruleset.Chain {
		return []ruleset.Chain{{Name: "here", Hook: hook, Priority: p, Type: typ}}
	}
	tests := map[string]struct {
		chains []ruleset.Chain
		want   string // in the error
	}{
		"port without protocol": {with(output, returns(ruleset.DstPort{ruleset.Port(80)})), "a port without a protocol"},
		"negated owner":         {with(output, returns(ruleset.Not{Match: ruleset.UID{ruleset.ID(1)}})), "negated owner"},
		"negated group":         {with(output, returns(ruleset.Not{Match: ruleset.GID{ruleset.ID(1)}})), "negated owner"},
		"empty list":            {with(output, returns(ruleset.Dst{})), "empty list"},
		"no protocol":           {with(output, returns(ruleset.Proto{})), "empty list"},
		"no match":              {with(output, returns(nil)), "unknown match"},
		"negated negation": {with(output, returns(ruleset.Not{Match: ruleset.Not{Match: tcp}})),
			"negation of a negation"},
		"no target":       {with(output, ruleset.Rule{ID: "O1", Reason: "the culprit"}), "unknown target"},
		"jump to nowhere": {with(output, does(ruleset.Jump{Chain: "nowhere"})), `"nowhere"`},
		"long comment": {with(output, ruleset.Rule{ID: "O1", Reason: strings.Repeat("x", 200),
			Target: ruleset.Return{}}), "comment of"},
		"comment of two lines": {with(output, ruleset.Rule{ID: "O1", Reason: "x\n-A OUTPUT -j DROP",
			Target: ruleset.Return{}}), "control character"},
		"NAT in a filter": {with(output, does(ruleset.Redirect{Ports: ruleset.Port(1)}, tcp)),
			"outside a NAT chain"},
		"two sources": {with(output, returns(ruleset.Src(mustCIDRs("10.0.0.0/8")),
			ruleset.Src(mustCIDRs("10.0.0.1")))), "two conditions ruleset.Src"},
		"a port and not another": {with(output, returns(tcp, ruleset.DstPort{{First: 1, Last: 9}},
			ruleset.Not{Match: ruleset.DstPort{ruleset.Port(5)}})), "two conditions ruleset.DstPort"},
		"two protocols": {with(output, returns(tcp, ruleset.Proto{ruleset.UDP})), "two conditions ruleset.Proto"},
		"two marks": {with(output, returns(ruleset.MetaMark{Mask: 1}, ruleset.MetaMark{Mask: 2})),
			"two conditions ruleset.MetaMark"},
		"protocol 0 is all of them": {with(output, returns(ruleset.Proto{0})), "protocol 0"},
		"protocol by number":        {with(output, returns(ruleset.Proto{ruleset.TCP, 132})), "protocol 132"},
		"older, negated":            {with(output, returns(tcp, ruleset.Not{Match: ruleset.Older{}})), "match ruleset.Older"},
		"older, to somewhere": {with(output, returns(tcp, ruleset.Older{},
			ruleset.Dst(mustCIDRs("10.0.0.0/8,fd00::1")))), "ruleset.Older"},
		"older, of one of several": {with(output, returns(tcp, ruleset.Older{}, ruleset.UID{ruleset.ID(1), ruleset.ID(5)})),
			"ruleset.Older"},
		"older, to other ports": {with(output, returns(tcp, ruleset.Not{Match: ruleset.DstPort{ruleset.Port(80)}},
			ruleset.Older{})), "ruleset.Older"},
		"no state": {with(output, returns(ruleset.CTState(0))), "connection state 0x0"},
		"an unknown state": {with(output, returns(ruleset.Not{Match: ruleset.CTState(0x48)})),
			"connection state 0x48"},
		"TCP flags beyond six":    {with(output, returns(tcp, ruleset.TCPFlags{Mask: 0xff, Value: 2})), "TCP flags 0xff"},
		"every interface":         {with(output, returns(ruleset.InInterface("*"))), `interface "*"`},
		"no interface":            {with(output, returns(ruleset.OutInterface(""))), `interface ""`},
		"a name that ends in +":   {with(output, returns(ruleset.OutInterface("eth+"))), `interface "eth+"`},
		"an option for a name":    {with(output, returns(ruleset.OutInterface("-j"))), `interface "-j"`},
		"a name of two words":     {with(output, returns(ruleset.OutInterface("a b"))), `interface "a b"`},
		"a name of two lines":     {with(output, returns(ruleset.OutInterface("a\n"))), "interface"},
		"an inversion for a name": {with(output, returns(ruleset.OutInterface("!"))), `interface "!"`},
		"tproxy in a filter":      {with(output, tproxy), "TPROXY in its mangle table's PREROUTING alone"},
		"tproxy in mangle output": {with(route, tproxy), "TPROXY in its mangle table's PREROUTING alone"},
		"tproxy in raw":           {with(raw, tproxy), "TPROXY in its mangle table's PREROUTING alone"},
		"tproxy through a jump": {append(with(route, does(ruleset.Jump{Chain: "sub"})),
			ruleset.Chain{Name: "sub", Type: ruleset.RouteChain, Rules: []ruleset.Rule{tproxy}}), "TPROXY in its mangle"},
		"reject in mangle": {with(prerouting, does(ruleset.Reject{})), "rejects in its filter table alone"},
		"reject in NAT":    {with(nat, does(ruleset.Reject{})), "rejects in its filter table alone"},
		"reject through a jump": {append(with(raw, does(ruleset.Goto{Chain: "sub"})),
			ruleset.Chain{Name: "sub", Rules: []ruleset.Rule{does(ruleset.Reject{})}}), "rejects in its filter table alone"},
		"drop in NAT":    {with(nat, does(ruleset.Drop{})), "does not drop in its nat table"},
		"zone in mangle": {with(prerouting, does(ruleset.CTZone{Zone: 1})), "zones in its raw table alone"},
		"zone and more": {with(raw, does(ruleset.CTZone{Zone: 1}, tcp), does(ruleset.Drop{})),
			"goes on after it has chosen a zone"},
		"zone and a jump": {append(with(raw, does(ruleset.Jump{Chain: "sub"}), does(ruleset.CTZone{Zone: 1})),
			ruleset.Chain{Name: "sub", Rules: []ruleset.Rule{does(ruleset.CTZone{Zone: 2})}}),
			"goes on after it has chosen a zone"},
		"filter in prerouting": {at(ruleset.Prerouting, ruleset.PriorityFilter, ruleset.FilterChain),
			"no table of type filter at hook prerouting, priority 0"},
		"filter in mangle output": {at(ruleset.Output, ruleset.PriorityMangle, ruleset.FilterChain),
			"no table of type filter at hook output, priority -150"},
		"route in filter": {at(ruleset.Output, ruleset.PriorityFilter, ruleset.RouteChain),
			"no table of type route at hook output, priority 0"},
		"route in prerouting": {at(ruleset.Prerouting, ruleset.PriorityMangle, ruleset.RouteChain),
			"no table of type route at hook prerouting, priority -150"},
		"NAT in mangle": {at(ruleset.Prerouting, ruleset.PriorityMangle, ruleset.NATChain),
			"no table of type nat at hook prerouting, priority -150"},
		"a priority in between": {at(ruleset.Output, -1, ruleset.FilterChain),
			"no table of type filter at hook output, priority -1"},
		"two at one place": {append(with(raw), ruleset.Chain{Name: "d", Hook: ruleset.Output,
			Priority: ruleset.PriorityRaw}), "chain d: the kernel lacks support for a second base chain"},
		"two names in upper case": {append(with(raw), ruleset.Chain{Name: "C", Hook: ruleset.Prerouting,
			Priority: ruleset.PriorityRaw}), "MESH_C is taken"},
		"a long name": {[]ruleset.Chain{{Name: strings.Repeat("x", 24), Hook: ruleset.Output,
			Priority: ruleset.PriorityRaw}}, "has 29 bytes, over 28"},
		"a name of ours": {[]ruleset.Chain{{Name: "spec_0123", Hook: ruleset.Output,
			Priority: ruleset.PriorityRaw}}, "MESH_SPEC_0123"},
		"another name of ours": {[]ruleset.Chain{{Name: "made_table", Hook: ruleset.Output,
			Priority: ruleset.PriorityRaw}}, "MESH_MADE_TABLE"},
		"a chain of two words": {[]ruleset.Chain{{Name: "a b", Hook: ruleset.Output, Priority: ruleset.PriorityRaw}},
			"MESH_A B"},
	}
	for name, tt := range tests {
		for _, d := range []Dialect{Standard, Minimal} {
			rs := numbered(ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4, ruleset.IPv6},
				Chains: slices.Clone(tt.chains)})
			inputs, err := Render(rs, Options{Dialect: d})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: %v, want an error with %q\n%v", name, d, err, tt.want, inputs)
				continue
			}
			if n := len(tt.chains[0].Rules); n == 1 && tt.chains[0].Rules[0].ID != "" && len(tt.chains) == 1 &&
				!strings.Contains(err.Error(), "rule O1") {
				t.Errorf("%s, %s: the error does not name the rule: %v", name, d, err)
			}
		}
	}
	rs := compileConfig(t, intercept.Default())
	rs.Routes = []ruleset.MarkRoute{{Table: 133}}
	if _, err := Render(rs, Options{}); !errors.Is(err, ruleset.ErrUnsupported) ||
		!strings.Contains(err.Error(), "routes") {
		t.Errorf("routes: %v", err)
	}
}

// numbered gives each rule an ID of its own.
func numbered(rs ruleset.Ruleset) ruleset.Ruleset {
	for i, c := range rs.Chains {
		rs.Chains[i].Rules = slices.Clone(c.Rules)
		for j := range c.Rules {
			rs.Chains[i].Rules[j].ID += ruleset.RuleID(fmt.Sprintf(".%s.%d", c.Name, j+1))
		}
	}
	return rs
}
