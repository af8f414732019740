//go:build linux

package traffic

import (
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestNobodyListens: where the sidecar is not there, what is captured is
// refused at once, lookups over UDP too, and nothing slips past it.
func TestNobodyListens(t *testing.T) { each(t, nobodyListens) }

func nobodyListens(t *testing.T, w way) {
	lab := netlab.NewT(t, netlab.Options{})
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, w.open(t, lab), rs)
	for _, dst := range []string{"10.96.0.10:53", "[fd00:96::a]:53", "127.0.0.53:53", "10.244.0.5:53", "[::1]:53"} {
		for _, proto := range []intercept.Protocol{intercept.UDP, intercept.TCP} {
			expectRejected(t, lab, netlab.Flow{Protocol: proto, Dst: netip.MustParseAddrPort(dst), Owner: app})
		}
	}
	for _, dst := range outside {
		expectRejected(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: dst, Owner: app})
	}
	expectRejected(t, lab,
		netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:8080")})
}

func expectRejected(t *testing.T, lab *netlab.Lab, f netlab.Flow) {
	t.Helper()
	got, err := lab.Send(f)
	if err != nil || got.Fate.Action != intercept.Rejected {
		t.Errorf("%s: %s, %v; want reject", f, got, err)
	}
}
