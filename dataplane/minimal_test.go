//go:build linux

package dataplane

import (
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
)

// TestVerifyMinimal: with rules that have no comments a connection is known to be captured all the same, and what was
// drifted is named by its ID.
func TestVerifyMinimal(t *testing.T) {
	for _, b := range []Backend{BackendIPTablesNFT, BackendIPTablesLegacy} {
		t.Run(string(b), func(t *testing.T) {
			needPrograms(t)
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			s := openSession(t, Pod{NetNS: lab.Pod.Path(), Backend: b, IPTables: IPTables{Dialect: iptables.Minimal}})
			c := intercept.Default()
			if _, err := s.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			report, err := s.Verify(t.Context(), c)
			if err != nil || report.Verdict != verify.OK || len(report.Verdicts) < 1+2*2+2 {
				t.Fatalf("%+v, %v", report, err)
			}
			for _, v := range report.Verdicts {
				if v.Verdict != verify.OK {
					t.Errorf("%+v", v)
				}
			}
			other := c
			other.Outbound.ExcludePorts = intercept.Ports{intercept.Port(8080)}
			if _, err := s.Apply(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			diffs, err := s.Check(t.Context(), c)
			named := false
			for _, d := range diffs {
				named = named || d.Problem == "not ours" || d.Rule != ""
			}
			if err != nil || !named {
				t.Errorf("%+v, %v", diffs, err)
			}
		})
	}
}
