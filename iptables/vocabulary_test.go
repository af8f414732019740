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
)

// vocabulary is a Ruleset that holds every Match and every Target, plain and
// negated, with one item and with several, in every place where xtables has
// them.
func vocabulary() intercept.Ruleset {
	tcp, udp, both := intercept.Proto{intercept.TCP}, intercept.Proto{intercept.UDP}, intercept.Proto{intercept.TCP, intercept.UDP}
	ports := func(s string) intercept.Ports { return must(intercept.ParsePorts(s)) }
	ids := func(s string) intercept.IDs { return must(intercept.ParseIDs(s)) }

	var filter []intercept.Rule
	add := func(target intercept.Target, match ...intercept.Match) {
		reason := fmt.Sprintf(`"vocabulary" \%d, it's -j DROP`, len(filter))
		filter = append(filter, intercept.Rule{Line: "O14", Reason: reason, Match: match, Target: target})
	}
	for _, m := range []intercept.Match{
		tcp, both, intercept.Proto{intercept.ICMP}, intercept.Proto{intercept.ICMP, intercept.ICMPv6},
		intercept.Src(mustCIDRs("192.0.2.1")), intercept.Src(mustCIDRs("192.0.2.0/24,10.0.0.0/8,fd00::/8,::1")),
		intercept.Dst(mustCIDRs("fd00::1")), intercept.Dst(mustCIDRs("224.0.0.0/3,8000::/1,0.0.0.0/8,::/16")),
		intercept.Src(intercept.AllCIDRs()), intercept.Dst(mustCIDRs("0.0.0.0/1,128.0.0.0/1,2001:db8::/47")),
		intercept.OutInterface("lo"), intercept.OutInterface("fifteen-bytes-x"), intercept.OutInterface("k6t-*"), intercept.OutInterface("eth0.7@a"),
		intercept.Mark{Value: 0x539, Mask: 0xfff}, intercept.Mark{Value: 7, Mask: 1<<32 - 1}, intercept.Mark{Mask: 1}, intercept.Mark{Value: 2, Mask: 1},
		intercept.ConnMark{Value: 0x539, Mask: 0xfff}, intercept.ConnMark{Value: 7, Mask: 1<<32 - 1}, intercept.ConnMark{},
		intercept.CTInvalid, intercept.CTNew | intercept.CTEstablished, intercept.CTRelated, intercept.CTState(15),
		intercept.IsFamily(intercept.IPv4), intercept.IsFamily(intercept.IPv6),
	} {
		add(intercept.Return{}, m)
		add(intercept.Return{}, intercept.Not{Match: m})
	}
	for _, m := range []intercept.Match{
		intercept.SrcPort(ports("53")), intercept.SrcPort(ports("1-1023")), intercept.SrcPort(ports("1,3,5,7,9,11,13,15,17,19,21,23,25,31-40,42")),
		intercept.DstPort(ports("80,8000-8010,60000-65535")), intercept.DstPort(ports("8000-8010")), intercept.DstPort(ports("60000-65535")), intercept.DstPort(ports("1-65535")),
	} {
		add(intercept.Return{}, both, m)
		add(intercept.Return{}, udp, m)
		add(intercept.Return{}, udp, intercept.Not{Match: m})
		add(intercept.Return{}, both, intercept.Not{Match: m})
	}
	for _, f := range []intercept.TCPFlags{intercept.Opens(), {Mask: 63}, {Mask: 63, Value: 63}, {Mask: intercept.ACK, Value: intercept.ACK}} {
		add(intercept.Return{}, tcp, f)
		add(intercept.Return{}, tcp, intercept.Not{Match: f})
	}
	for _, m := range []intercept.Match{
		intercept.UID(ids("1337")), intercept.UID(ids("1000-1999")), intercept.UID(ids("0,5-7,4294967294")),
		intercept.GID(ids("1337")), intercept.GID(ids("1000-1999")), intercept.GID(ids("0,5-7,4294967294")),
	} {
		add(intercept.Return{}, m)
	}
	// All kinds of conditions in one rule.
	everything := []intercept.Match{tcp, intercept.Not{Match: intercept.DstPort(ports("80,443"))}, intercept.SrcPort(ports("1024-65535")), intercept.Opens(),
		intercept.Not{Match: intercept.Src(mustCIDRs("192.0.2.1,fd00::/8"))}, intercept.Dst(mustCIDRs("192.0.2.0/24,10.0.0.0/8,fd00::/8,::1")),
		intercept.OutInterface("eth*"), intercept.UID(ids("0,5")), intercept.GID(ids("5-7,9")),
		intercept.Mark{Value: 1, Mask: 1}, intercept.Not{Match: intercept.ConnMark{Value: 1, Mask: 1}}, intercept.Not{Match: intercept.CTInvalid}}
	add(intercept.Return{}, everything...)
	add(intercept.Accept{}, intercept.OutInterface("a0"))
	add(intercept.Drop{}, intercept.OutInterface("a1"))
	add(intercept.Reject{}, intercept.OutInterface("a2"))
	add(intercept.Reject{}, tcp, intercept.OutInterface("a2"))
	add(intercept.Jump{Chain: "sub"}, intercept.OutInterface("a3"))
	add(intercept.Goto{Chain: "sub"}, intercept.OutInterface("a4"))

	marks := []intercept.Rule{
		{Line: "O14", Reason: "some bits", Target: intercept.SetMark{Value: 0x539, Mask: 0xfff}},
		{Line: "O14", Reason: "all bits", Target: intercept.SetMark{Value: 0x539, Mask: 1<<32 - 1}},
		{Line: "O14", Reason: "more bits than its mask", Target: intercept.SetMark{Value: 3, Mask: 1}},
		{Line: "O14", Reason: "some bits of the connection's", Target: intercept.SetConnMark{Value: 0x539, Mask: 0xfff}},
		{Line: "O14", Reason: "all bits of the connection's", Target: intercept.SetConnMark{Value: 0x539, Mask: 1<<32 - 1}},
	}
	arriving := []intercept.Rule{
		{Line: "I1", Reason: "by eth0", Match: []intercept.Match{intercept.InInterface("eth0")}, Target: intercept.Return{}},
		{Line: "I1", Reason: "not by eth0", Match: []intercept.Match{intercept.Not{Match: intercept.InInterface("eth0")}}, Target: intercept.Jump{Chain: "sub"}},
		{Line: "I1", Reason: "by a bridge", Match: []intercept.Match{intercept.InInterface("br-*")}, Target: intercept.Drop{}},
		{Line: "I1", Reason: "not by a bridge", Match: []intercept.Match{intercept.Not{Match: intercept.InInterface("br-*")}}, Target: intercept.SetMark{Value: 1, Mask: 1}},
		{Line: "I7", Reason: "tproxy", Match: []intercept.Match{tcp}, Target: intercept.TProxy{Port: 15006, Mark: intercept.Mark{Value: 0x539, Mask: 0xfff}}},
		{Line: "I7", Reason: "tproxy of UDP", Match: []intercept.Match{udp}, Target: intercept.TProxy{Port: 15006, Mark: intercept.Mark{Value: 0x539, Mask: 1<<32 - 1}}},
	}
	nat := []intercept.Rule{
		{Line: "O12", Reason: "one port", Match: []intercept.Match{tcp}, Target: intercept.Redirect{Ports: intercept.Port(15001)}},
		{Line: "O12", Reason: "spread", Match: []intercept.Match{tcp}, Target: intercept.Redirect{Ports: intercept.PortRange{First: 15001, Last: 15004}}},
		{Line: "O8", Reason: "elsewhere", Match: []intercept.Match{udp, intercept.IsFamily(intercept.IPv4)}, Target: intercept.DNAT{To: netip.MustParseAddrPort("192.0.2.53:53")}},
		{Line: "O8", Reason: "elsewhere, by IPv6", Match: []intercept.Match{udp, intercept.IsFamily(intercept.IPv6)}, Target: intercept.DNAT{To: netip.MustParseAddrPort("[2001:db8::53]:5353")}},
		{Line: "O14", Reason: "to another chain", Target: intercept.Goto{Chain: "nat_sub"}},
	}
	zones := []intercept.Rule{
		{Line: "O8", Reason: "no zone", Match: []intercept.Match{intercept.Not{Match: both}}, Target: intercept.Return{}},
		{Line: "O8", Reason: "zone", Match: []intercept.Match{udp}, Target: intercept.CTZone{Zone: 2}},
		{Line: "O8", Reason: "the greatest zone", Match: []intercept.Match{tcp}, Target: intercept.CTZone{Zone: 65535}},
	}
	return intercept.Ruleset{
		Families: []intercept.Family{intercept.IPv4, intercept.IPv6},
		Chains: []intercept.Chain{
			{Name: "zones", Hook: intercept.Output, Priority: intercept.PriorityRaw, Rules: zones},
			{Name: "arriving_zones", Hook: intercept.Prerouting, Priority: intercept.PriorityRaw, Rules: zones},
			{Name: "sub", Rules: []intercept.Rule{{Line: "O14", Reason: "back", Target: intercept.Return{}}}},
			{Name: "nat_sub", Type: intercept.NATChain, Rules: nat[:2]},
			{Name: "filters", Hook: intercept.Output, Priority: intercept.PriorityFilter, Rules: filter},
			{Name: "marks", Hook: intercept.Output, Priority: intercept.PriorityMangle, Type: intercept.RouteChain, Rules: marks},
			{Name: "arriving", Hook: intercept.Prerouting, Priority: intercept.PriorityMangle, Rules: arriving},
			{Name: "output", Hook: intercept.Output, Priority: intercept.PriorityDstNAT, Type: intercept.NATChain, Rules: nat},
			{Name: "in", Hook: intercept.Input, Priority: intercept.PriorityFilter, Rules: []intercept.Rule{
				{Line: "O13", Reason: "for the pod", Match: []intercept.Match{udp, intercept.InInterface("br-*")}, Target: intercept.Reject{}}}},
			{Name: "through", Hook: intercept.Forward, Priority: intercept.PriorityFilter, Rules: []intercept.Rule{
				{Line: "O13", Reason: "through the pod", Match: []intercept.Match{udp, intercept.InInterface("br-*")}, Target: intercept.Reject{}}}},
			{Name: "prerouting", Hook: intercept.Prerouting, Priority: intercept.PriorityDstNAT, Type: intercept.NATChain, Rules: nat},
		},
	}
}

// inDialect makes of a Ruleset those that the dialect has room for: with the
// minimal one, a few rules each.
func inDialect(t *testing.T, rs intercept.Ruleset, d Dialect) []intercept.Ruleset {
	t.Helper()
	_, err := Render(rs, Options{Dialect: d})
	if !isTooBig(d, err) {
		return []intercept.Ruleset{rs}
	}
	i := slices.IndexFunc(rs.Chains, func(c intercept.Chain) bool { return c.Name == "filters" })
	all := rs.Chains[i].Rules
	var out []intercept.Ruleset
	var part intercept.Ruleset
	var rules []intercept.Rule
	skipped := 0
	for len(all) > 0 {
		next := rs
		next.Chains = slices.Clone(rs.Chains)
		next.Chains[i].Rules = append(slices.Clone(rules), all[0])
		if len(out) > 0 { // the others once are enough
			next.Chains = slices.DeleteFunc(next.Chains, func(c intercept.Chain) bool { return c.Name != "filters" && c.Name != "sub" })
		}
		_, err := Render(next, Options{Dialect: d})
		switch {
		case err == nil:
			part, rules, all = next, next.Chains[slices.IndexFunc(next.Chains, func(c intercept.Chain) bool { return c.Name == "filters" })].Rules, all[1:]
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
				if n, is := m.(intercept.Not); is {
					note(n.Match)
				}
			}
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../ruleset.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, d := range file.Decls {
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
						never := r.Match != nil && strings.HasPrefix(r.Match[0].String(), "not ") && strings.Contains(r.Match[0].String(), "source *")
						halves := f == intercept.IPv4 && r.Match != nil && strings.HasPrefix(r.Match[0].String(), "not destination 0.0.0.0/1,")
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
	tcp := intercept.Proto{intercept.TCP}
	output := intercept.Chain{Name: "c", Hook: intercept.Output, Priority: intercept.PriorityFilter}
	prerouting := intercept.Chain{Name: "c", Hook: intercept.Prerouting, Priority: intercept.PriorityMangle}
	raw := intercept.Chain{Name: "c", Hook: intercept.Output, Priority: intercept.PriorityRaw}
	route := intercept.Chain{Name: "c", Hook: intercept.Output, Priority: intercept.PriorityMangle, Type: intercept.RouteChain}
	nat := intercept.Chain{Name: "c", Hook: intercept.Output, Priority: intercept.PriorityDstNAT, Type: intercept.NATChain}
	with := func(c intercept.Chain, rules ...intercept.Rule) []intercept.Chain {
		c.Rules = rules
		return []intercept.Chain{c}
	}
	returns := func(m ...intercept.Match) intercept.Rule {
		return intercept.Rule{Line: "O1", Reason: "the culprit", Match: m, Target: intercept.Return{}}
	}
	does := func(target intercept.Target, m ...intercept.Match) intercept.Rule {
		return intercept.Rule{Line: "O1", Reason: "the culprit", Match: m, Target: target}
	}
	tproxy := does(intercept.TProxy{Port: 1, Mark: intercept.Mark{Value: 1, Mask: 1}}, tcp)
	at := func(hook intercept.Hook, p intercept.Priority, typ intercept.ChainType) []intercept.Chain {
		return []intercept.Chain{{Name: "here", Hook: hook, Priority: p, Type: typ}}
	}
	tests := map[string]struct {
		chains []intercept.Chain
		want   string // in the error
	}{
		"port without protocol":     {with(output, returns(intercept.DstPort{intercept.Port(80)})), "a port without a protocol"},
		"negated owner":             {with(output, returns(intercept.Not{Match: intercept.UID{intercept.ID(1)}})), "negated owner"},
		"negated group":             {with(output, returns(intercept.Not{Match: intercept.GID{intercept.ID(1)}})), "negated owner"},
		"empty list":                {with(output, returns(intercept.Dst{})), "empty list"},
		"no protocol":               {with(output, returns(intercept.Proto{})), "empty list"},
		"no match":                  {with(output, returns(nil)), "unknown match"},
		"negated negation":          {with(output, returns(intercept.Not{Match: intercept.Not{Match: tcp}})), "negation of a negation"},
		"no target":                 {with(output, intercept.Rule{Line: "O1", Reason: "the culprit"}), "unknown target"},
		"jump to nowhere":           {with(output, does(intercept.Jump{Chain: "nowhere"})), `"nowhere"`},
		"long comment":              {with(output, intercept.Rule{Reason: strings.Repeat("x", 200), Target: intercept.Return{}}), "comment of"},
		"comment of two lines":      {with(output, intercept.Rule{Reason: "x\n-A OUTPUT -j DROP", Target: intercept.Return{}}), "control character"},
		"NAT in a filter":           {with(output, does(intercept.Redirect{Ports: intercept.Port(1)}, tcp)), "outside a NAT chain"},
		"two sources":               {with(output, returns(intercept.Src(mustCIDRs("10.0.0.0/8")), intercept.Src(mustCIDRs("10.0.0.1")))), "two conditions intercept.Src"},
		"a port and not another":    {with(output, returns(tcp, intercept.DstPort{{First: 1, Last: 9}}, intercept.Not{Match: intercept.DstPort{intercept.Port(5)}})), "two conditions intercept.DstPort"},
		"two protocols":             {with(output, returns(tcp, intercept.Proto{intercept.UDP})), "two conditions intercept.Proto"},
		"two marks":                 {with(output, returns(intercept.Mark{Mask: 1}, intercept.Mark{Mask: 2})), "two conditions intercept.Mark"},
		"protocol 0 is all of them": {with(output, returns(intercept.Proto{0})), "protocol 0"},
		"protocol by number":        {with(output, returns(intercept.Proto{intercept.TCP, 132})), "protocol 132"},
		"no state":                  {with(output, returns(intercept.CTState(0))), "connection state 0x0"},
		"an unknown state":          {with(output, returns(intercept.Not{Match: intercept.CTState(0x48)})), "connection state 0x48"},
		"TCP flags beyond six":      {with(output, returns(tcp, intercept.TCPFlags{Mask: 0xff, Value: 2})), "TCP flags 0xff"},
		"every interface":           {with(output, returns(intercept.InInterface("*"))), `interface "*"`},
		"no interface":              {with(output, returns(intercept.OutInterface(""))), `interface ""`},
		"a name that ends in +":     {with(output, returns(intercept.OutInterface("eth+"))), `interface "eth+"`},
		"an option for a name":      {with(output, returns(intercept.OutInterface("-j"))), `interface "-j"`},
		"a name of two words":       {with(output, returns(intercept.OutInterface("a b"))), `interface "a b"`},
		"a name of two lines":       {with(output, returns(intercept.OutInterface("a\n"))), "interface"},
		"an inversion for a name":   {with(output, returns(intercept.OutInterface("!"))), `interface "!"`},
		"tproxy in a filter":        {with(output, tproxy), "TPROXY in its mangle table's PREROUTING alone"},
		"tproxy in mangle output":   {with(route, tproxy), "TPROXY in its mangle table's PREROUTING alone"},
		"tproxy in raw":             {with(raw, tproxy), "TPROXY in its mangle table's PREROUTING alone"},
		"tproxy through a jump":     {append(with(route, does(intercept.Jump{Chain: "sub"})), intercept.Chain{Name: "sub", Type: intercept.RouteChain, Rules: []intercept.Rule{tproxy}}), "TPROXY in its mangle"},
		"reject in mangle":          {with(prerouting, does(intercept.Reject{})), "rejects in its filter table alone"},
		"reject in NAT":             {with(nat, does(intercept.Reject{})), "rejects in its filter table alone"},
		"reject through a jump":     {append(with(raw, does(intercept.Goto{Chain: "sub"})), intercept.Chain{Name: "sub", Rules: []intercept.Rule{does(intercept.Reject{})}}), "rejects in its filter table alone"},
		"drop in NAT":               {with(nat, does(intercept.Drop{})), "does not drop in its nat table"},
		"zone in mangle":            {with(prerouting, does(intercept.CTZone{Zone: 1})), "zones in its raw table alone"},
		"zone and more":             {with(raw, does(intercept.CTZone{Zone: 1}, tcp), does(intercept.Drop{})), "goes on after it has chosen a zone"},
		"zone and a jump":           {append(with(raw, does(intercept.Jump{Chain: "sub"}), does(intercept.CTZone{Zone: 1})), intercept.Chain{Name: "sub", Rules: []intercept.Rule{does(intercept.CTZone{Zone: 2})}}), "goes on after it has chosen a zone"},
		"filter in prerouting":      {at(intercept.Prerouting, intercept.PriorityFilter, intercept.FilterChain), "no table of type filter at hook prerouting, priority 0"},
		"filter in mangle output":   {at(intercept.Output, intercept.PriorityMangle, intercept.FilterChain), "no table of type filter at hook output, priority -150"},
		"route in filter":           {at(intercept.Output, intercept.PriorityFilter, intercept.RouteChain), "no table of type route at hook output, priority 0"},
		"route in prerouting":       {at(intercept.Prerouting, intercept.PriorityMangle, intercept.RouteChain), "no table of type route at hook prerouting, priority -150"},
		"NAT in mangle":             {at(intercept.Prerouting, intercept.PriorityMangle, intercept.NATChain), "no table of type nat at hook prerouting, priority -150"},
		"a priority in between":     {at(intercept.Output, -1, intercept.FilterChain), "no table of type filter at hook output, priority -1"},
		"two at one place":          {append(with(raw), intercept.Chain{Name: "d", Hook: intercept.Output, Priority: intercept.PriorityRaw}), "chain d: the kernel lacks support for a second base chain"},
		"two names in upper case":   {append(with(raw), intercept.Chain{Name: "C", Hook: intercept.Prerouting, Priority: intercept.PriorityRaw}), "MESH_C is taken"},
		"a long name":               {[]intercept.Chain{{Name: strings.Repeat("x", 24), Hook: intercept.Output, Priority: intercept.PriorityRaw}}, "has 29 bytes, over 28"},
		"a name of ours":            {[]intercept.Chain{{Name: "spec_0123", Hook: intercept.Output, Priority: intercept.PriorityRaw}}, "MESH_SPEC_0123"},
		"another name of ours":      {[]intercept.Chain{{Name: "made_table", Hook: intercept.Output, Priority: intercept.PriorityRaw}}, "MESH_MADE_TABLE"},
		"a chain of two words":      {[]intercept.Chain{{Name: "a b", Hook: intercept.Output, Priority: intercept.PriorityRaw}}, "MESH_A B"},
	}
	for name, tt := range tests {
		for _, d := range []Dialect{Standard, Minimal} {
			rs := intercept.Ruleset{Families: []intercept.Family{intercept.IPv4, intercept.IPv6}, Chains: tt.chains}
			inputs, err := Render(rs, Options{Dialect: d})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: %v, want an error with %q\n%v", name, d, err, tt.want, inputs)
				continue
			}
			if n := len(tt.chains[0].Rules); n == 1 && tt.chains[0].Rules[0].Line != "" && len(tt.chains) == 1 && !strings.Contains(err.Error(), "O1: the culprit") {
				t.Errorf("%s, %s: the error does not name the rule: %v", name, d, err)
			}
		}
	}
	rs := compileConfig(t, intercept.Default())
	rs.Routes = []intercept.MarkRoute{{Table: 133}}
	if _, err := Render(rs, Options{}); !errors.Is(err, intercept.ErrUnsupported) || !strings.Contains(err.Error(), "routes") {
		t.Errorf("routes: %v", err)
	}
}
