//go:build linux

package bench

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// BenchmarkBackstopConnect connects through the redirect, without a backstop,
// with one for what opens connections (x-syn), and with all of it (x-on), in
// turn. The metrics are the ratios of the medians of connect(2).
func BenchmarkBackstopConnect(b *testing.B) {
	netlab.Require(b)
	modes := []intercept.Backstop{intercept.BackstopOff, intercept.BackstopSyn, intercept.BackstopOn}
	eachBackend(b, func(b *testing.B, backend dataplane.Backend, pod netip.Addr) {
		server := netip.MustParseAddrPort("203.0.113.10:80")
		if pod.Is6() {
			server = netip.MustParseAddrPort("[2001:db8::10]:80")
		}
		var labs []*netlab.Lab
		for _, mode := range modes {
			labs = append(labs, labWith(b, func(l *netlab.Lab) error {
				c := intercept.Default()
				c.Backstop = mode
				_, err := dataplane.Pod{NetNS: l.Pod.Path(), Backend: backend}.Apply(b.Context(), c)
				return err
			}))
		}
		took := make([][]time.Duration, len(labs))
		for round := 0; b.Loop(); round++ {
			for i := range labs {
				i = (i + round) % len(labs)
				took[i] = append(took[i], connect(b, labs[i], server))
			}
		}
		off := float64(median(took[0]))
		b.ReportMetric(off, "ns/connect")
		b.ReportMetric(float64(median(took[1]))/off, "x-syn")
		b.ReportMetric(float64(median(took[2]))/off, "x-on")
	})
}

// listensItself takes from the peer the rules by which its server answers on
// every port.
func listensItself(b *testing.B, peer *netlab.Namespace) {
	b.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(peer.FD()))
	if err != nil {
		b.Fatal(err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "netlab"})
	if err := c.Flush(); err != nil {
		b.Fatal(err)
	}
}
