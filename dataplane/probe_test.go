//go:build linux

package dataplane

import (
	"maps"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestEverythingAtOnce: rules that have every need, beside those of a configuration, are taken in one go, so that doctor
// tries once where nothing is missing. What is refused of them is found, and nothing else.
func TestEverythingAtOnce(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "iptables-nft-restore")
	netlab.RequireProgram(t, "iptables-legacy-restore")
	s, err := OpenNew(t.Context(), Pod{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tproxy, dns := intercept.Default(), intercept.Default()
	tproxy.Inbound.Mode = intercept.InboundTProxy
	dns.DNS.Mode = intercept.DNSAll
	impossible := needs()[1]
	impossible.name, impossible.chain.Rules = "TPROXY of what is sent", []ruleset.Rule{{ID: "O14.none", Reason: "none",
		Match:  []ruleset.Match{ruleset.Proto{ruleset.TCP}},
		Target: ruleset.TProxy{Port: 1, Mark: ruleset.Mark{Value: 1, Mask: 1}}}}
	impossible.chain.Type, impossible.chain.Priority = ruleset.FilterChain, ruleset.PriorityRaw
	some := slices.Insert(needs(), 5, impossible)
	err = s.do(t.Context(), func() error {
		for _, b := range backends() {
			for name, c := range map[string]intercept.Config{"default": intercept.Default(), "tproxy": tproxy, "dns": dns} {
				p, err := newPlan(c)
				if err != nil {
					return err
				}
				if f := b.try(t.Context(), s.space, withNeeds(s.space.rulesFor(p, b.name), needs())); f.State != StateOK {
					t.Errorf("%s, %s: %s: %s", b.name, name, f.State, f.Reason)
				}
			}
			found := map[string]Finding{}
			ok := s.space.missingNeeds(t.Context(), b, []ruleset.Family{ruleset.IPv4, ruleset.IPv6}, some, found)
			want := []string{impossible.name}
			if b.name == BackendNFT {
				want = nil // it looks at the hooks of what expressions ask for when all is sent, and a trial ends before
			}
			if missing := slices.Collect(maps.Keys(found)); !ok || !slices.Equal(missing, want) {
				t.Errorf("%s: found out is %t, missing: %q", b.name, ok, missing)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
