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

// BenchmarkBackstop sends a byte to and fro over an established connection,
// without a backstop, with one for what opens connections, and with all of it,
// in turn. The metrics x-syn and x-on are the ratios of the medians to that
// without.
func BenchmarkBackstop(b *testing.B) {
	netlab.Require(b)
	modes := []intercept.Backstop{intercept.BackstopOff, intercept.BackstopSyn, intercept.BackstopOn}
	eachBackend(b, func(b *testing.B, backend dataplane.Backend, pod netip.Addr) {
		server, excluded := netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("10.244.0.1")
		if pod.Is6() {
			server, excluded = netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("fd00:244::1")
		}
		const app, proxy = 1000, 1337
		for _, kind := range []struct {
			name string
			pair func(*testing.B, *netlab.Lab) pair
		}{
			{"captured", func(b *testing.B, l *netlab.Lab) pair {
				return tcpPairOf(b, side{l.Pod, app}, netip.AddrPortFrom(server, 80), side{l.Pod, proxy}, 15001)
			}},
			{"proxy", func(b *testing.B, l *netlab.Lab) pair {
				return tcpPairOf(b, side{l.Pod, proxy}, netip.AddrPortFrom(server, 9997), side{l.Peer, app}, 9997)
			}},
			{"excluded", func(b *testing.B, l *netlab.Lab) pair {
				return tcpPairOf(b, side{l.Pod, app}, netip.AddrPortFrom(excluded, 9997), side{l.Peer, app}, 9997)
			}},
			{"inbound", func(b *testing.B, l *netlab.Lab) pair {
				return tcpPairOf(b, side{l.Peer, app}, netip.AddrPortFrom(pod, 8080), side{l.Pod, proxy}, 15006)
			}},
		} {
			b.Run(kind.name, func(b *testing.B) {
				var pairs []pair
				for _, mode := range modes {
					c := intercept.Default()
					c.Backstop = mode
					c.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.PrefixFrom(excluded, excluded.BitLen())}
					lab := netlab.NewT(b, netlab.Options{})
					if _, err := (dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}).Apply(b.Context(), c); err != nil {
						b.Fatal(err)
					}
					listensItself(b, lab.Peer)
					pairs = append(pairs, kind.pair(b, lab))
				}
				ratios := pingPong(b, pairs)
				b.ReportMetric(ratios[1], "x-syn")
				b.ReportMetric(ratios[2], "x-on")
			})
		}
	})
}

// BenchmarkBackstopConnect connects through the redirect, without a backstop,
// with one for what opens connections, and with all of it, in turn. The metrics
// are those of [BenchmarkBackstop], of connect(2).
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
