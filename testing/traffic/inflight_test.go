//go:build linux

package traffic

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestReplacedUnderway: rules are replaced while the first packet of a connection is on its way through the hooks. It
// met the old ones at the first hooks, where mode redirect does nothing, and meets those of mode tproxy at the others.
// It does not get past the proxy.
func TestReplacedUnderway(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, backstop := range []intercept.Backstop{intercept.BackstopOn, intercept.BackstopSyn} {
			lab, b := labWithSidecar(t, w)
			c := intercept.Default()
			c.Inbound.Mode, c.Backstop = intercept.InboundTProxy, backstop
			rs, err := intercept.Compile(c)
			if err != nil {
				t.Fatal(err)
			}
			rs.Routes = nil // what goes to the pod's own addresses needs none
			first := []string{intercept.ChainInbound, intercept.ChainInboundCapture, intercept.ChainInboundDeliver}
			rs.Chains = slices.DeleteFunc(rs.Chains, func(c intercept.Chain) bool { return slices.Contains(first, c.Name) })
			apply(t, b, rs)
			for _, dst := range []string{"10.244.0.5:8080", "[fd00:244::5]:8080"} {
				f := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst)}
				if got, err := lab.Send(f); err != nil || got.Fate.Action != intercept.Rejected {
					t.Errorf("backstop %s: %s: %s, %v", backstop, f, got, err)
				}
			}
		}
	})
}
