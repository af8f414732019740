package ruleset

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

// packet is an app's SYN, or what becomes of it by the changes.
func packet(change ...func(*Packet)) Packet {
	p := Packet{
		Hook: Output, Protocol: TCP, Interface: "eth0", Owner: &Owner{UID: 1000, GID: 2000},
		Src: netip.MustParseAddrPort("10.244.0.5:40000"), Dst: netip.MustParseAddrPort("203.0.113.10:443"),
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

func arriving(p *Packet) {
	p.Hook, p.Owner = Prerouting, nil
	p.Src, p.Dst = netip.MustParseAddrPort("172.16.5.5:40000"), netip.MustParseAddrPort("10.244.0.5:8080")
}

func ipv6(p *Packet) {
	p.Src, p.Dst = netip.MustParseAddrPort("[fd00:244::5]:40000"), netip.MustParseAddrPort("[2001:db8::10]:443")
}

// filter is a Ruleset of one base chain with one rule, which drops what satisfies all of match.
func filter(h Hook, match ...Match) Ruleset {
	return Ruleset{Families: []Family{IPv4, IPv6}, Chains: []Chain{{
		Name: "base", Hook: h, Priority: PriorityFilter,
		Rules: []Rule{{ID: "I1", Reason: "the one rule", Match: match, Target: Drop{}}},
	}}}
}

func trace(t *testing.T, rs Ruleset, p Packet) Trace {
	t.Helper()
	got, err := rs.Trace(p)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestMatches: what each condition holds for, and what it does not.
func TestMatches(t *testing.T) {
	set := func(f func(*Packet)) []func(*Packet) { return []func(*Packet){f} }
	invalid := func(p *Packet) { p.State = CTInvalid }
	for _, test := range []struct {
		hook    Hook
		match   []Match
		holds   []func(*Packet)
		doesNot []func(*Packet)
	}{
		{Output, []Match{Proto{TCP, UDP}},
			set(func(p *Packet) { p.Protocol = UDP }), set(func(p *Packet) { p.Protocol = ICMP })},
		{Output, []Match{Proto{TCP}, SrcPort{Port(1), {First: 40000, Last: 40001}}},
			set(func(*Packet) {}), set(func(p *Packet) { p.Src = netip.AddrPortFrom(p.Src.Addr(), 40002) })},
		{Output, []Match{Proto{TCP}, DstPort{Port(443)}},
			set(func(*Packet) {}), set(func(p *Packet) { p.Dst = netip.AddrPortFrom(p.Dst.Addr(), 444) })},
		{Output, []Match{Src{netip.MustParsePrefix("10.244.0.0/16")}}, set(func(*Packet) {}), set(ipv6)},
		{Output, []Match{Not{Src{netip.MustParsePrefix("10.244.0.0/16")}}}, set(ipv6), set(func(*Packet) {})},
		{Output, []Match{Dst{netip.MustParsePrefix("203.0.113.0/24")}}, set(func(*Packet) {}), set(ipv6)},
		{Output, []Match{OutInterface("eth*")}, set(func(*Packet) {}), set(func(p *Packet) { p.Interface = "et" })},
		{Input, []Match{InInterface("eth0")}, set(arriving), set(func(p *Packet) { arriving(p); p.Interface = "eth01" })},
		{Output, []Match{UID{ID(1000)}}, set(func(*Packet) {}),
			[]func(*Packet){func(p *Packet) { p.Owner = nil }, func(p *Packet) { p.Owner = &Owner{UID: 1001, GID: 1000} }}},
		{Output, []Match{GID{ID(2000)}}, set(func(*Packet) {}),
			[]func(*Packet){func(p *Packet) { p.Owner = nil }, func(p *Packet) { p.Owner = &Owner{UID: 2000} }}},
		{Output, []Match{HasSocket{}}, set(func(p *Packet) { p.Owner = &Owner{} }), set(func(p *Packet) { p.Owner = nil })},
		{Input, []Match{SocketOpen{}}, []func(*Packet){func(p *Packet) { arriving(p); p.Listening = true },
			func(p *Packet) { arriving(p); p.Transparent = true }}, set(arriving)},
		{Prerouting, []Match{SocketOpen{Transparent: true}}, set(func(p *Packet) { arriving(p); p.Transparent = true }),
			set(func(p *Packet) { arriving(p); p.Listening = true })},
		{Output, []Match{MetaMark{Value: 2, Mask: 3}},
			set(func(p *Packet) { p.Mark = 6 }), set(func(p *Packet) { p.Mark = 3 })},
		{Output, []Match{ConnMark{Value: 2, Mask: 3}},
			set(func(p *Packet) { p.ConnMark = 6 }), set(func(p *Packet) { p.Mark = 2 })},
		{Output, []Match{CTNew | CTRelated}, []func(*Packet){
			func(*Packet) {}, func(p *Packet) { p.Known = true }, func(p *Packet) { p.State = CTRelated }},
			[]func(*Packet){func(p *Packet) { p.State = CTEstablished }, invalid}},
		// Of what conntrack calls invalid there is neither an entry nor a direction.
		{Output, []Match{CTDNAT{}}, set(func(p *Packet) { p.DNAT = true }),
			[]func(*Packet){func(*Packet) {}, func(p *Packet) { p.DNAT = true; invalid(p) }}},
		{Output, []Match{CTOriginal}, set(func(*Packet) {}), []func(*Packet){func(p *Packet) { p.Reply = true }, invalid}},
		{Output, []Match{CTReply}, set(func(p *Packet) { p.Reply = true }),
			[]func(*Packet){func(*Packet) {}, func(p *Packet) { p.Reply = true; invalid(p) }}},
		{Prerouting, []Match{ToLocal{}}, set(arriving), set(func(p *Packet) { arriving(p); p.Foreign = true })},
		{Prerouting, []Match{Not{ToLocal{}}}, set(func(p *Packet) { arriving(p); p.Foreign = true }), set(arriving)},
		// A packet of which nothing is said is as long as its headers.
		{Output, []Match{Length(40)}, []func(*Packet){func(*Packet) {}, func(p *Packet) { p.Length = 40 }},
			[]func(*Packet){func(p *Packet) { p.Length = 41 }, ipv6, func(p *Packet) { p.TCPHeader = 8 }}},
		{Output, []Match{Length(60)}, []func(*Packet){ipv6, func(p *Packet) { p.TCPHeader = 10 }}, set(func(*Packet) {})},
		{Output, []Match{Proto{TCP}, TCPHeader(5)}, set(func(*Packet) {}), set(func(p *Packet) { p.TCPHeader = 8 })},
		{Output, []Match{Proto{TCP}, MPTCP{}}, set(func(p *Packet) { p.MPTCP = true }), set(func(*Packet) {})},
		{Output, []Match{Proto{TCP}, Opens()},
			[]func(*Packet){func(*Packet) {}, func(p *Packet) { p.Flags = SYN | PSH | URG | 0xc0 }},
			[]func(*Packet){
				func(p *Packet) { p.Flags = SYN | ACK }, func(p *Packet) { p.Flags = SYN | FIN },
				func(p *Packet) { p.Flags = SYN | RST }, func(p *Packet) { p.Flags = ACK },
			}},
		{Output, []Match{Opens(), Proto{TCP}}, set(func(*Packet) {}), []func(*Packet){
			func(p *Packet) { p.Flags = ACK }, func(p *Packet) { p.Protocol = UDP }}},
		{Output, []Match{Proto{ICMP}, ICMPEcho{Extended: true}},
			set(func(p *Packet) { p.Protocol, p.ExtendedEcho = ICMP, true }),
			set(func(p *Packet) { p.Protocol, p.Echo = ICMP, true })},
		{Output, []Match{Proto{ICMP, ICMPv6}, ICMPEcho{}},
			set(func(p *Packet) { p.Protocol, p.Echo = ICMP, true }), set(func(p *Packet) { p.Protocol = ICMP })},
		{Output, []Match{Proto{ICMP, ICMPv6}, ICMPQuote{SrcPort: 53}},
			set(func(p *Packet) { p.Protocol, p.Quotes = ICMPv6, 53 }),
			set(func(p *Packet) { p.Protocol, p.Quotes = ICMPv6, 54 })},
		{Output, []Match{Proto{TCP}, Older{}}, []func(*Packet){func(*Packet) {}, ipv6},
			[]func(*Packet){
				func(p *Packet) { p.Src, p.Dst = p.Dst, p.Src },
				func(p *Packet) { p.Dst = netip.AddrPortFrom(p.Dst.Addr(), 80) },
			}},
		{Output, []Match{IsFamily(IPv6)}, set(ipv6), set(func(*Packet) {})},
	} {
		rs := filter(test.hook, test.match...)
		if err := rs.Check(); err != nil {
			t.Errorf("%s: %v", test.match, err)
		}
		six := packet(ipv6)
		rs.Older = []Tuple{{packet().Src, packet().Dst}, {six.Src, six.Dst}}
		words := map[Action]string{Dropped: "holds", Pass: "does not hold"}
		for want, changes := range map[Action][]func(*Packet){Dropped: test.holds, Pass: test.doesNot} {
			for i, change := range changes {
				p := packet(change)
				got := trace(t, rs, p)
				if got.Fate.Action != want {
					t.Errorf("%s, %s %d: %+v: %s", test.match, words[want], i, p, got.Fate)
				}
				if last := got.Steps[len(got.Steps)-1]; last.Matched != (want == Dropped) || !last.Matched && last.Failed == nil {
					t.Errorf("%s: the step says %+v", test.match, last)
				}
			}
		}
	}
}

// TestPath: which hooks a packet passes.
func TestPath(t *testing.T) {
	every := Ruleset{Families: []Family{IPv4, IPv6}}
	for _, h := range []Hook{Prerouting, Input, Forward, Output} {
		every.Chains = append(every.Chains, Chain{Name: h.String(), Hook: h, Priority: PriorityFilter, Rules: []Rule{
			{ID: RuleID("I1." + h.String()), Target: Return{}},
		}})
	}
	to := func(dst string) func(*Packet) { return func(p *Packet) { p.Dst = netip.MustParseAddrPort(dst) } }
	for name, test := range map[string]struct {
		p    Packet
		want []string
	}{
		"sent":              {packet(), []string{"output"}},
		"sent inside":       {packet(func(p *Packet) { p.Interface = Loopback }), []string{"output", "prerouting", "input"}},
		"for the pod":       {packet(arriving), []string{"prerouting", "input"}},
		"for another":       {packet(arriving, func(p *Packet) { p.Foreign = true }), []string{"prerouting", "forward"}},
		"a martian":         {packet(arriving, to("127.0.0.1:80")), []string{"prerouting"}},
		"loopback, of IPv6": {packet(arriving, ipv6, to("[::1]:80")), nil},
		"loopback, by lo": {packet(arriving, to("127.0.0.1:80"), func(p *Packet) { p.Interface = Loopback }),
			[]string{"prerouting", "input"}},
	} {
		var got []string
		for _, s := range trace(t, every, test.p).Steps {
			got = append(got, s.Chain)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: passes %s, not %s", name, got, test.want)
		}
	}
}

// TestNATIsAskedOnce: about the first packet of an entry, if nobody has
// translated it, and not again where it arrives by lo.
func TestNATIsAskedOnce(t *testing.T) {
	rs := Ruleset{Families: []Family{IPv4}, Chains: []Chain{
		{Name: "raw", Hook: Output, Priority: PriorityRaw, Rules: []Rule{{ID: "Z1", Target: CTZone{1}}}},
		{Name: "nat", Hook: Output, Priority: PriorityDstNAT, Type: NATChain, Rules: []Rule{
			{ID: "O12", Match: []Match{Proto{TCP}}, Target: Redirect{Port(15001)}},
		}},
		{Name: "arrives", Hook: Prerouting, Priority: PriorityDstNAT, Type: NATChain, Rules: []Rule{
			{ID: "I7", Match: []Match{Proto{TCP}}, Target: Redirect{Port(15006)}},
		}},
	}}
	redirected, pass := RedirectedTo(15001), Fate{}
	for name, test := range map[string]struct {
		change func(*Packet)
		want   Fate
		zone   uint16
	}{
		"first":       {func(*Packet) {}, redirected, 1},
		"related":     {func(p *Packet) { p.State = CTRelated }, redirected, 1},
		"known":       {func(p *Packet) { p.Known = true }, pass, 1},
		"established": {func(p *Packet) { p.State = CTEstablished }, pass, 1},
		"invalid":     {func(p *Packet) { p.State = CTInvalid }, pass, 1},
		// Chains before NAT have seen another destination.
		"translated": {func(p *Packet) { p.DNAT = true }, pass, 0},
		"an answer in an entry that translates": {func(p *Packet) {
			p.State, p.DNAT, p.Known, p.Reply = CTEstablished, true, true, true
		}, pass, 0}, // it is in the zone of what it answers
		"known, inside": {func(p *Packet) { p.Known, p.Interface = true, Loopback }, pass, 1},
	} {
		if got := trace(t, rs, packet(test.change)); got.Fate != test.want || got.Zone != test.zone {
			t.Errorf("%s: %s, zone %d; want %s, zone %d", name, got.Fate, got.Zone, test.want, test.zone)
		}
	}
}

// TestWhoDecides: the rule that gives a packet its fate is the first that lets it go, and any that does not.
func TestWhoDecides(t *testing.T) {
	rs := Ruleset{Families: []Family{IPv4}, Chains: []Chain{
		{Name: "behind", Rules: []Rule{
			{ID: "B4", Match: []Match{Proto{TCP}, DstPort{Port(80)}}, Target: Reject{}},
			{ID: "O5", Target: Return{}},
		}},
		{Name: "filter", Hook: Output, Priority: PriorityFilter, Rules: []Rule{
			{ID: "B4.opens", Target: Goto{"behind"}},
			{ID: "B12", Target: Drop{}},
		}},
		{Name: "marks", Hook: Output, Priority: PriorityMangle, Type: RouteChain, Rules: []Rule{
			{ID: "I7", Target: Return{}},
		}},
		{Name: "nat", Hook: Output, Priority: PriorityDstNAT, Type: NATChain, Rules: []Rule{{ID: "O14", Target: Return{}}}},
	}}
	port80 := func(p *Packet) { p.Dst = netip.AddrPortFrom(p.Dst.Addr(), 80) }
	known := func(p *Packet) { p.Known = true }
	for name, test := range map[string]struct {
		p       Packet
		by      RuleID
		visited []RuleID
	}{
		"NAT lets it go":             {packet(), "O14", []RuleID{"I7", "O14", "B4.opens", "B4", "O5"}},
		"NAT lets it go, not B4":     {packet(port80), "B4", []RuleID{"I7", "O14", "B4.opens", "B4"}},
		"NAT is not asked":           {packet(known), "O5", []RuleID{"I7", "B4.opens", "B4", "O5"}},
		"NAT is not asked, nor lets": {packet(known, port80), "B4", []RuleID{"I7", "B4.opens", "B4"}},
	} {
		got := trace(t, rs, test.p)
		var visited []RuleID
		decided := 0
		for _, s := range got.Steps {
			visited = append(visited, s.Rule.ID)
			if s.Decided {
				decided++
				if s.Rule.ID != test.by {
					t.Errorf("%s: step %s is marked as the one that decides", name, s.Rule.ID)
				}
			}
		}
		if got.Rule != test.by || got.Line != test.by.Line() || decided != 1 || !slices.Equal(visited, test.visited) {
			t.Errorf("%s: by %s (%s), %d steps decide, over %s", name, got.Rule, got.Line, decided, visited)
		}
	}
}

// TestFamilyWithoutRules: its packets meet none.
func TestFamilyWithoutRules(t *testing.T) {
	rs := filter(Output)
	rs.Families = []Family{IPv4}
	if got := trace(t, rs, packet(ipv6)); got.Fate.Action != Pass || len(got.Steps) > 0 || got.Reason == "" {
		t.Errorf("%+v", got)
	}
}

// TestMapped: the kernel sends what goes to an IPv4 address written as IPv6 as IPv4.
func TestMapped(t *testing.T) {
	rs := filter(Output, Dst{netip.MustParsePrefix("203.0.113.0/24")}, Length(40))
	p := packet(func(p *Packet) {
		p.Src = netip.MustParseAddrPort("[::ffff:10.244.0.5]:40000")
		p.Dst = netip.MustParseAddrPort("[::ffff:203.0.113.10]:443")
	})
	if got := trace(t, rs, p); got.Fate.Action != Dropped {
		t.Errorf("%+v meets %s", p, got.Fate)
	}
	rs.Families = []Family{IPv6}
	if got := trace(t, rs, p); got.Fate.Action != Pass {
		t.Errorf("%+v is taken for IPv6", p)
	}
}

// TestPacketErrors: which field of a packet is wrong.
func TestPacketErrors(t *testing.T) {
	for field, changes := range map[string][]func(*Packet){
		"Hook": {
			func(p *Packet) { p.Hook = 0 }, func(p *Packet) { p.Hook = Input }, func(p *Packet) { p.Hook = Forward },
		},
		"Protocol": {func(p *Packet) { p.Protocol = 0 }},
		"Dst": {
			func(p *Packet) { p.Dst = netip.AddrPort{} },
			func(p *Packet) { p.Dst = netip.MustParseAddrPort("224.0.0.1:80") },
		},
		"Src": {
			func(p *Packet) { p.Src = netip.AddrPort{} },
			func(p *Packet) { p.Src = netip.MustParseAddrPort("[fd00::1]:1") },
		},
	} {
		for _, change := range changes {
			p := packet(change)
			_, err := filter(Output).Trace(p)
			var wrong *PacketError
			if !errors.As(err, &wrong) || wrong.Field != field || wrong.Problem == "" {
				t.Errorf("%+v: %v, not about %s", p, err, field)
			}
		}
	}
}
