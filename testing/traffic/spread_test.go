//go:build linux

package traffic

import (
	"flag"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestSpread: a range of outbound or inbound ports gets an even share of the
// new connections each, and the original destination stays readable (Send
// checks it).
func TestSpread(t *testing.T) { each(t, spread) }

var connections = flag.Int("spread.connections", 8000, "how many connections each backend spreads, of each kind")

func spread(t *testing.T, w way) {
	const ports, patience = 4, 20 * time.Second // on a busy machine some of them wait long
	// An even share is within five standard deviations of chance: a tenth, of 8000.
	share := float64(*connections) / ports
	off := 5 * math.Sqrt(share*(1-1./ports))
	c := intercept.Default()
	c.Outbound.Port = intercept.PortRange{First: 15101, Last: 15104}
	c.Inbound.Port = intercept.PortRange{First: 15201, Last: 15204}
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, flow := range map[string]netlab.Flow{
		"outbound IPv4": {Protocol: intercept.TCP, Dst: outside[0], Owner: app},
		"outbound IPv6": {Protocol: intercept.TCP, Dst: outside[1], Owner: app},
		"inbound IPv4":  {Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:8080"), From: netlab.FromPeer},
		"inbound IPv6":  {Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("[fd00:244::5]:8080"), From: netlab.FromPeer},
	} {
		flow.Timeout = patience
		t.Run(name, func(t *testing.T) {
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{Outbound: c.Outbound.Port, Inbound: c.Inbound.Port}); err != nil {
				t.Fatal(err)
			}
			apply(t, w.open(t, lab), rs)
			want := intercept.Fate{Action: intercept.Redirected, Ports: c.Outbound.Port}
			if flow.From == netlab.FromPeer {
				want.Ports = c.Inbound.Port
			}
			var counts [ports]atomic.Int64
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for range *connections / 4 {
						got, err := lab.Send(flow)
						if err != nil || !got.Is(want) {
							t.Errorf("%s, %v; want %s", got, err, want)
							return
						}
						counts[got.Port-want.Ports.First].Add(1)
					}
				})
			}
			clients.Wait()
			var shares []int64
			even := true
			for i := range counts {
				n := counts[i].Load()
				shares = append(shares, n)
				even = even && math.Abs(float64(n)-share) < off
			}
			t.Logf("connections to each port: %v", shares)
			if !even {
				t.Errorf("not an even share, %.0f, give or take %.0f", share, off)
			}
		})
	}
}
