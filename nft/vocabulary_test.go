package nft

import (
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
// negated, with one item and with several.
func vocabulary() intercept.Ruleset {
	tcp, udp, both := intercept.Proto{intercept.TCP}, intercept.Proto{intercept.UDP}, intercept.Proto{intercept.TCP, intercept.UDP}
	ports := func(s string) intercept.Ports { return must(intercept.ParsePorts(s)) }
	ids := func(s string) intercept.IDs { return must(intercept.ParseIDs(s)) }
	cidrs := func(s string) intercept.CIDRs { return must(intercept.ParseCIDRs(s)) }

	var filter []intercept.Rule
	add := func(target intercept.Target, match ...intercept.Match) {
		filter = append(filter, intercept.Rule{Line: "O14", Reason: "vocabulary", Match: match, Target: target})
	}
	for _, m := range []intercept.Match{
		tcp, both,
		intercept.Src(cidrs("192.0.2.1")), intercept.Src(cidrs("192.0.2.0/24,10.0.0.0/8,fd00::/8,::1")),
		intercept.Dst(cidrs("fd00::1")), intercept.Dst(cidrs("224.0.0.0/3,8000::/1,0.0.0.0/8,::/16")),
		intercept.InInterface("eth0"), intercept.InInterface("br-*"),
		intercept.OutInterface("lo"), intercept.OutInterface("fifteen-bytes-x"), intercept.OutInterface("k6t-*"),
		intercept.Mark{Value: 0x539, Mask: 0xfff}, intercept.Mark{Value: 7, Mask: 1<<32 - 1},
		intercept.ConnMark{Value: 0x539, Mask: 0xfff}, intercept.ConnMark{Value: 7, Mask: 1<<32 - 1},
		intercept.CTInvalid, intercept.CTNew | intercept.CTEstablished,
		intercept.IsFamily(intercept.IPv4), intercept.IsFamily(intercept.IPv6),
	} {
		add(intercept.Return{}, m)
		add(intercept.Return{}, intercept.Not{Match: m})
	}
	for _, m := range []intercept.Match{
		intercept.SrcPort(ports("53")), intercept.SrcPort(ports("1-1023")),
		intercept.DstPort(ports("80,8000-8010,60000-65535")), intercept.DstPort(ports("8000-8010")),
	} {
		add(intercept.Return{}, both, m)
		add(intercept.Return{}, udp, intercept.Not{Match: m})
	}
	add(intercept.Return{}, tcp, intercept.Opens())
	add(intercept.Return{}, tcp, intercept.Not{Match: intercept.Opens()})
	for _, m := range []intercept.Match{
		intercept.UID(ids("1337")), intercept.UID(ids("1000-1999")), intercept.UID(ids("0,5-7,4294967294")),
		intercept.GID(ids("1337")), intercept.GID(ids("1000-1999")), intercept.GID(ids("0,5-7,4294967294")),
	} {
		add(intercept.Return{}, m)
	}
	add(intercept.Accept{}, intercept.OutInterface("a0"))
	add(intercept.Drop{}, intercept.OutInterface("a1"))
	add(intercept.Reject{}, intercept.OutInterface("a2"))
	add(intercept.Reject{}, tcp, intercept.OutInterface("a2"))
	add(intercept.Jump{Chain: "sub"}, intercept.OutInterface("a3"))
	add(intercept.Goto{Chain: "sub"}, intercept.OutInterface("a4"))
	add(intercept.SetMark{Value: 0x539, Mask: 0xfff})
	add(intercept.SetMark{Value: 0x539, Mask: 1<<32 - 1})
	add(intercept.SetConnMark{Value: 0x539, Mask: 0xfff})
	add(intercept.SetConnMark{Value: 0x539, Mask: 1<<32 - 1})

	nat := []intercept.Rule{
		{Line: "O12", Reason: "one port", Match: []intercept.Match{tcp}, Target: intercept.Redirect{Ports: intercept.Port(15001)}},
		{Line: "O12", Reason: "spread", Match: []intercept.Match{tcp}, Target: intercept.Redirect{Ports: intercept.PortRange{First: 15001, Last: 15004}}},
		{Line: "O8", Reason: "elsewhere", Match: []intercept.Match{udp, intercept.IsFamily(intercept.IPv4)}, Target: intercept.DNAT{To: netip.MustParseAddrPort("192.0.2.53:53")}},
		{Line: "O8", Reason: "elsewhere", Match: []intercept.Match{udp}, Target: intercept.DNAT{To: netip.MustParseAddrPort("[2001:db8::53]:5353")}},
	}
	return intercept.Ruleset{
		Families: []intercept.Family{intercept.IPv4, intercept.IPv6},
		Chains: []intercept.Chain{
			{Name: "zones", Hook: intercept.Output, Priority: intercept.PriorityRaw, Rules: []intercept.Rule{
				{Line: "O8", Reason: "zone", Match: []intercept.Match{udp}, Target: intercept.CTZone{Zone: 2}}}},
			{Name: "sub", Rules: []intercept.Rule{{Line: "O14", Reason: "back", Target: intercept.Return{}}}},
			{Name: "in", Hook: intercept.Input, Priority: intercept.PriorityFilter, Rules: []intercept.Rule{
				{Line: "O13", Reason: "reject", Match: []intercept.Match{intercept.InInterface("br-*")}, Target: intercept.Reject{}}}},
			{Name: "through", Hook: intercept.Forward, Priority: intercept.PriorityFilter, Rules: []intercept.Rule{
				{Line: "O13", Reason: "reject", Match: []intercept.Match{intercept.OutInterface("eth0")}, Target: intercept.Reject{}}}},
			{Name: "filters", Hook: intercept.Output, Priority: intercept.PriorityFilter, Rules: filter},
			{Name: "marks", Hook: intercept.Output, Priority: intercept.PriorityMangle, Type: intercept.RouteChain},
			{Name: "nats", Hook: intercept.Output, Priority: intercept.PriorityDstNAT, Type: intercept.NATChain, Rules: nat},
			{Name: "tproxies", Hook: intercept.Prerouting, Priority: intercept.PriorityMangle, Rules: []intercept.Rule{
				{Line: "I7", Reason: "tproxy", Match: []intercept.Match{tcp}, Target: intercept.TProxy{Port: 15006, Mark: intercept.Mark{Value: 0x539, Mask: 0xfff}}}}},
		},
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
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

// TestRenderKnowsTheVocabulary: nothing is left out without a word.
func TestRenderKnowsTheVocabulary(t *testing.T) {
	for _, lay := range []layout{oneTable, twoTables} {
		prog, err := compile(vocabulary(), lay)
		if err != nil {
			t.Fatal(err)
		}
		for _, tab := range prog {
			for _, c := range tab.chains {
				for _, r := range c.rules {
					for _, s := range r.stmts {
						if s.text == "" || len(s.exprs) == 0 {
							t.Errorf("chain %s: statement %q has %d expressions", c.name, s.text, len(s.exprs))
						}
					}
					if r.body() == "" {
						t.Errorf("chain %s: rule %q is nothing", c.name, r.comment)
					}
				}
			}
		}
	}
}

// TestUnknownRefused: a rule the backend cannot express is an error, not a
// rule that matches more.
func TestUnknownRefused(t *testing.T) {
	rs := vocabulary()
	rs.Routes = []intercept.MarkRoute{{Table: 133}}
	if _, err := Render(rs); err == nil || !strings.Contains(err.Error(), "routes") {
		t.Errorf("routes: %v", err)
	}
	for name, bad := range map[string]intercept.Rule{
		"port without protocol": {Match: []intercept.Match{intercept.DstPort{intercept.Port(80)}}, Target: intercept.Return{}},
		"negated owner":         {Match: []intercept.Match{intercept.Not{Match: intercept.UID{intercept.ID(1)}}}, Target: intercept.Return{}},
		"empty list":            {Match: []intercept.Match{intercept.Dst{}}, Target: intercept.Return{}},
		"NAT in a filter":       {Match: []intercept.Match{intercept.Proto{intercept.TCP}}, Target: intercept.Redirect{Ports: intercept.Port(1)}},
		"jump to nowhere":       {Target: intercept.Jump{Chain: "nowhere"}},
		"no target":             {},
		"long comment":          {Reason: strings.Repeat("x", 200), Target: intercept.Return{}},
	} {
		rs := intercept.Ruleset{Families: []intercept.Family{intercept.IPv4},
			Chains: []intercept.Chain{{Name: "c", Hook: intercept.Output, Rules: []intercept.Rule{bad}}}}
		if _, err := Render(rs); err == nil {
			t.Errorf("%s: rendered", name)
		}
	}
}
