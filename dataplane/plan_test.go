package dataplane

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestFit: what a dialect cannot have is left out, and said in one line.
func TestFit(t *testing.T) {
	t.Parallel()
	c := intercept.Default()
	c.DNS.Mode, c.Outbound.OtherProtocols = intercept.DNSAll, intercept.TreatmentReject
	for _, tt := range []struct {
		dialect iptables.Dialect
		gvisor  bool
		says    []string
	}{
		{iptables.Standard, false, nil},
		{iptables.Standard, true, nil}, // which is refused there
		{iptables.Minimal, false, []string{"no backstop"}},
		{iptables.Minimal, true, []string{"gVisor", "no backstop", "no conntrack zones", "the pod's own addresses"}},
	} {
		fitting, left := fit(c, tt.dialect, tt.gvisor)
		said := left.say(fitting)
		if len(said) != min(len(tt.says), 1) {
			t.Errorf("%+v: %q", tt, said)
		}
		for _, word := range tt.says {
			if !strings.Contains(said[0], word) {
				t.Errorf("%+v: %q", tt, said)
			}
		}
		off := fitting.Backstop == intercept.BackstopOff && fitting.Outbound.OtherProtocols == intercept.TreatmentPass
		if off != (tt.says != nil) {
			t.Errorf("%+v: %+v", tt, fitting)
		}
		if err := fitting.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// TestWithoutConntrack: there are no zones, and I9 asks for the addresses that the interfaces have.
func TestWithoutConntrack(t *testing.T) {
	t.Parallel()
	c := intercept.Default()
	c.DNS.Mode, c.Backstop = intercept.DNSAll, intercept.BackstopOff
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	own := []links.Link{{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.5"),
		netip.MustParseAddr("fd00:244::5")}}}
	rules := withoutConntrack(rs, own, true)
	for _, chain := range rules.Chains {
		if chain.Priority == ruleset.PriorityRaw {
			t.Errorf("chain %s is there", chain.Name)
		}
	}
	for dst, want := range map[string]ruleset.RuleID{"10.244.0.5:80": "I7", "10.244.0.6:80": "I9", "[fd00:244::5]:80": "I7",
		"[fd00:244::6]:80": "I9", "[fe80::1]:80": "I7", "127.0.0.1:80": "I9.loopback"} {
		src := "192.0.2.9:1234"
		if dst[0] == '[' {
			src = "[2001:db8::9]:1234"
		}
		trace, err := rules.Trace(ruleset.Packet{Hook: ruleset.Prerouting, Protocol: ruleset.TCP, Interface: "eth0",
			Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Flags: ruleset.SYN})
		if err != nil || trace.Rule != want {
			t.Errorf("%s: %s, %v; want %s", dst, trace.Rule, err, want)
		}
	}
	unknown := withoutConntrack(rs, nil, false)
	for _, chain := range unknown.Chains {
		if slices.ContainsFunc(chain.Rules, func(r ruleset.Rule) bool { return r.ID == "I9" }) {
			t.Error("I9 asks for addresses that are not known")
		}
	}
}
