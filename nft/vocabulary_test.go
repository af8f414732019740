//go:build linux

package nft

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/ruleset"
)

// vocabulary is a Ruleset that holds every Match and every Target, plain and
// negated, with one item and with several.
func vocabulary() ruleset.Ruleset {
	tcp, udp, both := ruleset.Proto{ruleset.TCP}, ruleset.Proto{ruleset.UDP}, ruleset.Proto{ruleset.TCP, ruleset.UDP}
	ports := func(s string) ruleset.Ports { return must(ruleset.ParsePorts(s)) }
	ids := func(s string) ruleset.IDs { return must(ruleset.ParseIDs(s)) }
	cidrs := func(s string) ruleset.CIDRs { return must(ruleset.ParseCIDRs(s)) }

	var filter []ruleset.Rule
	add := func(target ruleset.Target, match ...ruleset.Match) {
		filter = append(filter, ruleset.Rule{ID: "O14", Reason: "vocabulary", Match: match, Target: target})
	}
	for _, m := range []ruleset.Match{
		tcp, both,
		ruleset.Src(cidrs("192.0.2.1")), ruleset.Src(cidrs("192.0.2.0/24,10.0.0.0/8,fd00::/8,::1")),
		ruleset.Dst(cidrs("fd00::1")), ruleset.Dst(cidrs("224.0.0.0/3,8000::/1,0.0.0.0/8,::/16")),
		ruleset.InInterface("eth0"), ruleset.InInterface("br-*"),
		ruleset.OutInterface("lo"), ruleset.OutInterface("fifteen-bytes-x"), ruleset.OutInterface("k6t-*"),
		ruleset.MetaMark{Value: 0x539, Mask: 0xfff}, ruleset.MetaMark{Value: 7, Mask: 1<<32 - 1},
		ruleset.ConnMark{Value: 0x539, Mask: 0xfff}, ruleset.ConnMark{Value: 7, Mask: 1<<32 - 1},
		ruleset.CTInvalid, ruleset.CTNew | ruleset.CTEstablished,
		ruleset.IsFamily(ruleset.IPv4), ruleset.IsFamily(ruleset.IPv6),
	} {
		add(ruleset.Return{}, m)
		add(ruleset.Return{}, ruleset.Not{Match: m})
	}
	for _, m := range []ruleset.Match{
		ruleset.SrcPort(ports("53")), ruleset.SrcPort(ports("1-1023")),
		ruleset.DstPort(ports("80,8000-8010,60000-65535")), ruleset.DstPort(ports("8000-8010")),
	} {
		add(ruleset.Return{}, both, m)
		add(ruleset.Return{}, udp, ruleset.Not{Match: m})
	}
	add(ruleset.Return{}, tcp, ruleset.Opens())
	add(ruleset.Return{}, tcp, ruleset.Not{Match: ruleset.Opens()})
	add(ruleset.Return{}, ruleset.Opens(), tcp)
	filter = append(filter, ruleset.Rule{ID: "O14", Reason: "not counted", Match: []ruleset.Match{tcp},
		Target: ruleset.Return{}, Uncounted: true})
	for _, m := range []ruleset.Match{
		ruleset.UID(ids("1337")), ruleset.UID(ids("1000-1999")), ruleset.UID(ids("0,5-7,4294967294")),
		ruleset.GID(ids("1337")), ruleset.GID(ids("1000-1999")), ruleset.GID(ids("0,5-7,4294967294")),
	} {
		add(ruleset.Return{}, m)
	}
	add(ruleset.Accept{}, ruleset.OutInterface("a0"))
	add(ruleset.Drop{}, ruleset.OutInterface("a1"))
	add(ruleset.Reject{}, ruleset.OutInterface("a2"))
	icmp := ruleset.Proto{ruleset.ICMP, ruleset.ICMPv6}
	add(ruleset.Return{}, ruleset.HasSocket{})
	add(ruleset.Return{}, ruleset.CTDNAT{})
	add(ruleset.Return{}, ruleset.CTOriginal)
	add(ruleset.Return{}, ruleset.CTReply)
	add(ruleset.Return{}, ruleset.Length(40))
	add(ruleset.Return{}, ruleset.Not{Match: ruleset.Length(1280)})
	add(ruleset.Return{}, tcp, ruleset.TCPHeader(8))
	add(ruleset.Return{}, tcp, ruleset.Not{Match: ruleset.TCPHeader(5)})
	add(ruleset.Return{}, tcp, ruleset.MPTCP{})
	add(ruleset.Return{}, tcp, ruleset.Opens(), ruleset.Not{Match: ruleset.MPTCP{}})
	add(ruleset.Return{}, icmp, ruleset.ICMPEcho{})
	add(ruleset.Return{}, icmp, ruleset.ICMPEcho{Extended: true})
	add(ruleset.Return{}, icmp, ruleset.Not{Match: ruleset.ICMPEcho{}})
	add(ruleset.Return{}, icmp, ruleset.ICMPQuote{SrcPort: 53})
	add(ruleset.Return{}, tcp, ruleset.Older{})
	add(ruleset.Reject{}, tcp, ruleset.OutInterface("a2"))
	add(ruleset.Jump{Chain: "sub"}, ruleset.OutInterface("a3"))
	add(ruleset.Goto{Chain: "sub"}, ruleset.OutInterface("a4"))
	add(ruleset.SetMark{Value: 0x539, Mask: 0xfff})
	add(ruleset.SetMark{Value: 0x539, Mask: 1<<32 - 1})
	add(ruleset.SetConnMark{Value: 0x539, Mask: 0xfff})
	add(ruleset.SetConnMark{Value: 0x539, Mask: 1<<32 - 1})

	nat := []ruleset.Rule{
		{ID: "O12", Reason: "one port", Match: []ruleset.Match{tcp}, Target: ruleset.Redirect{Ports: ruleset.Port(15001)}},
		{ID: "O12", Reason: "spread", Match: []ruleset.Match{tcp},
			Target: ruleset.Redirect{Ports: ruleset.PortRange{First: 15001, Last: 15004}}},
		{ID: "O8", Reason: "elsewhere", Match: []ruleset.Match{udp, ruleset.IsFamily(ruleset.IPv4)},
			Target: ruleset.DNAT{To: netip.MustParseAddrPort("192.0.2.53:53")}},
		{ID: "O8", Reason: "elsewhere", Match: []ruleset.Match{udp},
			Target: ruleset.DNAT{To: netip.MustParseAddrPort("[2001:db8::53]:5353")}},
		{ID: "I7", Reason: "as it is", Match: []ruleset.Match{tcp}, Target: ruleset.Keep{}},
	}
	return numbered(ruleset.Ruleset{
		Families: []ruleset.Family{ruleset.IPv4, ruleset.IPv6},
		Older: []ruleset.Tuple{
			{Src: netip.MustParseAddrPort("10.244.0.5:40000"), Dst: netip.MustParseAddrPort("203.0.113.10:443")},
			{Src: netip.MustParseAddrPort("10.244.0.5:40001"), Dst: netip.MustParseAddrPort("203.0.113.10:443")},
			{Src: netip.MustParseAddrPort("[fd00:244::5]:40000"), Dst: netip.MustParseAddrPort("[2001:db8::10]:443")},
		},
		Chains: []ruleset.Chain{
			{Name: "zones", Hook: ruleset.Output, Priority: ruleset.PriorityRaw, Rules: []ruleset.Rule{
				{ID: "O8", Reason: "zone", Match: []ruleset.Match{udp}, Target: ruleset.CTZone{Zone: 2}}}},
			{Name: "sub", Rules: []ruleset.Rule{{ID: "O14", Reason: "back", Target: ruleset.Return{}}}},
			{Name: "in", Hook: ruleset.Input, Priority: ruleset.PriorityFilter, Rules: []ruleset.Rule{
				{ID: "O13", Reason: "reject", Match: []ruleset.Match{ruleset.InInterface("br-*")}, Target: ruleset.Reject{}},
				{ID: "B7", Reason: "open", Match: []ruleset.Match{udp, ruleset.SocketOpen{}}, Target: ruleset.Return{}}}},
			{Name: "through", Hook: ruleset.Forward, Priority: ruleset.PriorityFilter, Rules: []ruleset.Rule{
				{ID: "O13", Reason: "reject", Match: []ruleset.Match{ruleset.OutInterface("eth0")}, Target: ruleset.Reject{}}}},
			{Name: "filters", Hook: ruleset.Output, Priority: ruleset.PriorityFilter, Rules: filter},
			{Name: "marks", Hook: ruleset.Output, Priority: ruleset.PriorityMangle, Type: ruleset.RouteChain},
			{Name: "nats", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain, Rules: nat},
			{Name: "tproxies", Hook: ruleset.Prerouting, Priority: ruleset.PriorityMangle, Rules: []ruleset.Rule{
				{ID: "I9", Reason: "local", Match: []ruleset.Match{ruleset.ToLocal{}}, Target: ruleset.SetMark{Value: 1, Mask: 1}},
				{ID: "I9", Reason: "not local", Match: []ruleset.Match{ruleset.Not{Match: ruleset.ToLocal{}}},
					Target: ruleset.SetMark{Value: 1, Mask: 1}},
				{ID: "I7", Reason: "its socket's", Match: []ruleset.Match{ruleset.SocketOpen{Transparent: true}},
					Target: ruleset.Divert{Port: 15006}},
				{ID: "I7", Reason: "tproxy", Match: []ruleset.Match{tcp},
					Target: ruleset.TProxy{Port: 15006, Mark: ruleset.Mark{Value: 0x539, Mask: 0xfff}}}}},
		},
	})
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
	rs.Routes = []ruleset.MarkRoute{{Table: 133}}
	if _, err := Render(rs); err == nil || !strings.Contains(err.Error(), "routes") {
		t.Errorf("routes: %v", err)
	}
	for name, bad := range map[string]ruleset.Rule{
		"port without protocol": {Match: []ruleset.Match{ruleset.DstPort{ruleset.Port(80)}}, Target: ruleset.Return{}},
		"negated owner": {Match: []ruleset.Match{ruleset.Not{Match: ruleset.UID{ruleset.ID(1)}}},
			Target: ruleset.Return{}},
		"empty list": {Match: []ruleset.Match{ruleset.Dst{}}, Target: ruleset.Return{}},
		"NAT in a filter": {Match: []ruleset.Match{ruleset.Proto{ruleset.TCP}},
			Target: ruleset.Redirect{Ports: ruleset.Port(1)}},
		"jump to nowhere": {Target: ruleset.Jump{Chain: "nowhere"}},
		"no target":       {},
		"long comment":    {Reason: strings.Repeat("x", 200), Target: ruleset.Return{}},
	} {
		rs := ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4},
			Chains: []ruleset.Chain{{Name: "c", Hook: ruleset.Output, Rules: []ruleset.Rule{bad}}}}
		if _, err := Render(rs); err == nil {
			t.Errorf("%s: rendered", name)
		}
	}
}
