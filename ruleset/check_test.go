package ruleset

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// TestCheckRefuses: what no backend could write, or would not write alike.
func TestCheckRefuses(t *testing.T) {
	for _, test := range []struct {
		what  string
		match []Match
	}{
		{"a port without a protocol", []Match{DstPort{Port(80)}}},
		{"a port without a protocol", []Match{SrcPort{Port(80)}, Proto{TCP}}},
		{"a port without a protocol", []Match{Proto{TCP, ICMP}, DstPort{Port(80)}}},
		{"a port without a protocol", []Match{Not{Proto{TCP}}, DstPort{Port(80)}}},
		{"without protocol TCP", []Match{Opens()}},
		{"without protocol TCP", []Match{Proto{TCP, UDP}, Opens()}},
		{"without protocol TCP", []Match{TCPHeader(5)}},
		{"without protocol TCP", []Match{MPTCP{}}},
		{"without protocol TCP", []Match{Proto{UDP}, TCPHeader(5)}},
		{"without protocol TCP", []Match{Older{}}},
		{"without protocol TCP", []Match{Not{Proto{TCP}}, Older{}}},
		{"without protocol ICMP", []Match{ICMPEcho{}}},
		{"without protocol ICMP", []Match{Proto{ICMP, UDP}, ICMPEcho{}}},
		{"without protocol ICMP", []Match{Proto{TCP}, ICMPQuote{SrcPort: 53}}},
		{"backends disagree", []Match{Not{CTDNAT{}}}},
		{"backends disagree", []Match{Not{CTOriginal}}},
		{"backends disagree", []Match{Not{CTReply}}},
		{"backends disagree", []Match{Not{HasSocket{}}}},
		{"backends disagree", []Match{Not{SocketOpen{}}}},
		{"backends disagree", []Match{Not{UID{ID(1)}}}},
		{"backends disagree", []Match{Not{GID{ID(1)}}}},
		{"negation of a negation", []Match{Not{Not{CTNew}}}},
		{"empty list", []Match{Proto{}}},
		{"empty list", []Match{Src{}}},
		{"empty list", []Match{Not{Dst{}}}},
		{"empty list", []Match{UID{}}},
		{"empty list", []Match{GID{}}},
		{"empty list", []Match{Proto{TCP}, SrcPort{}}},
		{"empty list", []Match{Proto{TCP}, DstPort{}}},
		{"unknown match", []Match{nil}},
	} {
		refused(t, filter(Output, test.match...), "base", "I1", test.what)
	}

	nat := func(target Target, match ...Match) Ruleset {
		rs := filter(Output, match...)
		rs.Chains[0].Type, rs.Chains[0].Rules[0].Target = NATChain, target
		return rs
	}
	dnat := DNAT{netip.MustParseAddrPort("10.0.0.1:53")}
	refused(t, nat(Redirect{Port(1)}), "base", "I1", "without exactly one protocol")
	refused(t, nat(Redirect{Port(1)}, Proto{TCP, UDP}), "base", "I1", "without exactly one protocol")
	refused(t, nat(dnat, Proto{ICMP}), "base", "I1", "without exactly one protocol")
	refused(t, nat(TProxy{Port: 1}, Proto{TCP}), "base", "I1", "in a NAT chain")
	refused(t, nat(Divert{Port: 1}, Proto{TCP}, SocketOpen{Transparent: true}), "base", "I1", "in a NAT chain")
	refused(t, nat(nil), "base", "I1", "unknown target")
	unfound := filter(Prerouting, Proto{TCP}, SocketOpen{})
	unfound.Chains[0].Rules[0].Target = Divert{Port: 1}
	refused(t, unfound, "base", "I1", "without a match on such a socket")
	for _, target := range []Target{Redirect{Port(1)}, dnat} {
		rs := filter(Output, Proto{TCP})
		rs.Chains[0].Rules[0].Target = target
		refused(t, rs, "base", "I1", "outside a NAT chain")
	}
	for _, target := range []Target{Jump{"next"}, Goto{"next"}} {
		rs := filter(Output)
		rs.Chains[0].Rules[0].Target = target
		refused(t, rs, "base", "I1", "does not exist")
		rs.Chains = append(rs.Chains, Chain{Name: "next", Type: NATChain})
		refused(t, rs, "base", "I1", "of another type")
		rs.Chains[1] = Chain{Name: "next", Hook: Output}
		refused(t, rs, "base", "I1", "a base chain")
		rs.Chains[1] = Chain{Name: "next"}
		if err := rs.Check(); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}

	for id, what := range map[RuleID]string{
		"": "not the ID", "I": "not the ID", "i1": "not the ID", "I1x": "not the ID",
		"I1: x": "not the ID", `I1."`: "not the ID", "reject/": "not the ID",
	} {
		rs := filter(Output)
		rs.Chains[0].Rules[0].ID = id
		refused(t, rs, "base", id, what)
	}
	rs := filter(Output)
	rs.Chains[0].Rules[0].Reason = strings.Repeat("x", MaxComment-len("I1: ")+1)
	refused(t, rs, "base", "I1", "comment of 129 bytes")
	rs.Chains[0].Rules[0].Reason = rs.Chains[0].Rules[0].Reason[1:]
	if err := rs.Check(); err != nil {
		t.Error(err)
	}
	rs.Chains = append(rs.Chains, Chain{Name: "other", Rules: rs.Chains[0].Rules})
	refused(t, rs, "other", "I1", "another rule with this ID")
	rs = filter(Output)
	rs.Chains = append(rs.Chains, Chain{Name: "base"})
	if err := rs.Check(); err == nil || !strings.Contains(err.Error(), "defined twice") {
		t.Errorf("two chains of one name: %v", err)
	}
}

// refused fails unless Check names the rule and says what is wrong.
func refused(t *testing.T, rs Ruleset, chain string, id RuleID, what string) {
	t.Helper()
	err := rs.Check()
	var wrong *RuleError
	if !errors.As(err, &wrong) || wrong.Chain != chain || wrong.Rule != id || !strings.Contains(wrong.Error(), what) {
		t.Errorf("%v: %v; want it of chain %s, rule %s: %s", rs.Chains, err, chain, id, what)
	}
}

// TestCheckAccepts: each condition where it may stand, and under Not where it may.
func TestCheckAccepts(t *testing.T) {
	for _, match := range [][]Match{
		{Not{Proto{TCP, UDP}}},
		{Proto{UDP}, Not{DstPort{Port(53)}}},
		{Not{CTNew}}, {Not{ToLocal{}}}, {Not{Length(40)}}, {Not{IsFamily(IPv4)}},
		{Not{InInterface("lo")}}, {Not{OutInterface("lo")}}, {Not{MetaMark{1, 1}}}, {Not{ConnMark{1, 1}}},
		{Proto{TCP}, Not{Opens()}}, {Proto{TCP}, Not{TCPHeader(5)}}, {Proto{TCP}, Not{Older{}}},
		{Proto{TCP}, MPTCP{}}, {Proto{TCP}, Not{MPTCP{}}},
		{Proto{ICMP, ICMPv6}, Not{ICMPEcho{}}}, {Proto{ICMPv6}, Not{ICMPQuote{SrcPort: 53}}},
		{CTDNAT{}, CTOriginal, HasSocket{}},
	} {
		if err := filter(Output, match...).Check(); err != nil {
			t.Errorf("%v: %v", match, err)
		}
	}
}

func TestRuleID(t *testing.T) {
	for id, line := range map[RuleID]string{
		"O5.ports": "O5", "reject/O5.ports": "O5", "I7": "I7", "Z2.proxy.uid": "Z2", "other-family/I8.prerouting": "I8",
		"Z1/O4.uid": "O4", "syn/O1.br-vm.1": "O1", "B4.O12": "B4", "B5/I8.reply": "I8", "": "",
	} {
		if got := id.Line(); got != line {
			t.Errorf("%s is of line %q, not %q", id, got, line)
		}
	}
	if got := RuleID("O5.ports").In("reject"); got != "reject/O5.ports" {
		t.Error(got)
	}
	if got := RuleID("O5.ports").In("a").In("b"); got != "b/a/O5.ports" || got.Line() != "O5" {
		t.Error(got)
	}
}

// TestComment: what stands beside a rule in the kernel says which it is; what somebody else has written is no ID.
func TestComment(t *testing.T) {
	r := Rule{ID: "reject/O5.ports", Reason: "excluded: port"}
	if id, reason := ParseComment(r.Comment()); id != r.ID || reason != r.Reason {
		t.Errorf("%q is %q and %q", r.Comment(), id, reason)
	}
	for _, s := range []string{"", "I7", "I7:no space", "somebody's: rule", "i7: x", ": x", "A B1: x"} {
		if id, reason := ParseComment(s); id != "" || reason != s {
			t.Errorf("%q is taken for %q and %q", s, id, reason)
		}
	}
}

// TestRuleFor: a rule as it reads in one family.
func TestRuleFor(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")
	for _, test := range []struct {
		rule   Rule
		family Family
		want   string // the conditions; "none" if no packet of the family matches
	}{
		{Rule{Match: []Match{Dst{v4, v6}}}, IPv4, "destination 10.0.0.0/8"},
		{Rule{Match: []Match{Dst{v4}}}, IPv6, "none"},
		{Rule{Match: []Match{Not{Dst{v4}}}}, IPv6, ""},
		{Rule{Match: []Match{Not{Src{v4, v6}}}}, IPv6, "not source fd00::/8"},
		{Rule{Match: []Match{IsFamily(IPv6), CTDNAT{}}}, IPv6, "of a translated connection"},
		{Rule{Match: []Match{IsFamily(IPv6)}}, IPv4, "none"},
		{Rule{Match: []Match{Not{IsFamily(IPv6)}}}, IPv4, ""},
		{Rule{Match: []Match{Not{IsFamily(IPv6)}}}, IPv6, "none"},
		{Rule{Target: DNAT{netip.MustParseAddrPort("10.0.0.1:1")}}, IPv6, "none"},
	} {
		got := "none"
		if r, ok := test.rule.For(test.family); ok {
			var words []string
			for _, m := range r.Match {
				words = append(words, m.String())
			}
			got = strings.Join(words, ", ")
		}
		if got != test.want {
			t.Errorf("%v %v for %s: %q, not %q", test.rule.Match, test.rule.Target, test.family, got, test.want)
		}
		if !test.rule.IsFamilySpecific() {
			t.Errorf("%v reads the same for both families", test.rule.Match)
		}
	}
	for _, m := range []Match{ICMPEcho{}, ICMPQuote{SrcPort: 53}, Older{}} { // their places and lists differ
		if !(Rule{Match: []Match{m}}).IsFamilySpecific() || !(Rule{Match: []Match{Not{m}}}).IsFamilySpecific() {
			t.Errorf("%s reads the same for both families", m)
		}
	}
	for _, m := range []Match{
		Proto{TCP}, SrcPort{Port(1)}, DstPort{Port(1)}, InInterface("a"), OutInterface("a"), UID{ID(1)}, GID{ID(1)},
		HasSocket{}, SocketOpen{}, MetaMark{1, 1}, ConnMark{1, 1}, CTNew, CTDNAT{}, CTReply, ToLocal{}, Length(40),
		Opens(), TCPHeader(5), MPTCP{},
	} {
		if (Rule{Match: []Match{m}}).IsFamilySpecific() {
			t.Errorf("%s reads differently by family", m)
		}
	}
}

// TestWords: a condition and a fate as explanations say them.
func TestWords(t *testing.T) {
	for want, got := range map[string]interface{ String() string }{
		"of a translated connection": CTDNAT{}, "of the reply direction": CTReply, "of the original direction": CTOriginal,
		"with an owner": HasSocket{}, "for an open socket": SocketOpen{},
		"for an open transparent socket": SocketOpen{Transparent: true}, "leave to the socket of :15006": Divert{Port: 15006},
		"not to an address of the pod": Not{ToLocal{}},
		"of 40 bytes":                  Length(40), "TCP header of 32 bytes": TCPHeader(8),
		"not with an option of Multipath TCP": Not{MPTCP{}}, "an echo request": ICMPEcho{},
		"an extended echo request":        ICMPEcho{Extended: true},
		"an error about UDP from port 53": ICMPQuote{SrcPort: 53}, "of a connection that is older than the rules": Older{},
		"opens a TCP connection": Opens(), "TCP flags 0x4/0x4": TCPFlags{RST, RST},
		"connection state invalid,new,established,related": CTInvalid | CTNew | CTEstablished | CTRelated,
		"pass": Fate{}, "redirect(15001-15004)": Fate{Action: Redirected, Ports: PortRange{First: 15001, Last: 15004}},
		"dnat(10.0.0.1:53)": Fate{Action: Translated, To: netip.MustParseAddrPort("10.0.0.1:53")},
		"tproxy(15006)":     Fate{Action: Transparent, Ports: Port(15006)},
		"reject":            Fate{Action: Rejected}, "drop": Fate{Action: Dropped}, "fate(9)": Fate{Action: 9},
		"10.0.0.1:1 > [::1]:2": Tuple{netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("[::1]:2")},
	} {
		if got.String() != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
