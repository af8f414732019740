//go:build linux

package traffic

import (
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// fromNode is where node-local DNS listens: a link-local address of the node.
var fromNode = netip.MustParseAddrPort("169.254.20.10:53")

// TestResolversOfEveryKind: a resolver asks from random ports or always from one, from its server's port too, by UDP
// and then by TCP. The app asks the same server from the same port before it and after it: each gets answers of its
// own, over whatever family, of node-local DNS, too.
func TestResolversOfEveryKind(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for name, c := range capturing() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lab := netlab.NewT(t, netlab.Options{})
				if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
					t.Fatal(err)
				}
				if c.DNS.Mode == intercept.DNSResolvConf {
					c.DNS.Servers = append(c.DNS.Servers, fromNode.Addr())
				}
				applyConfig(t, w.target(t, lab), c)
				for _, server := range append([]netip.AddrPort{fromNode}, servers...) {
					self := pods[0].Addr()
					if server.Addr().Is6() {
						self = pods[1].Addr()
					}
					for _, port := range []uint16{53, 5353, 15053, 40000, 52341, 65535} {
						f := netlab.Flow{Dst: server, Src: netip.AddrPortFrom(self, port)}
						for range 2 {
							for _, f.Protocol = range []intercept.Protocol{intercept.UDP, intercept.TCP} {
								if f.Protocol == intercept.TCP && port == 15053 {
									continue // the resolver listens there
								}
								f.Owner = app
								expectFate(t, lab, f, intercept.RedirectedTo(15053))
								if f.Protocol == intercept.TCP {
									f.Src = netip.AddrPortFrom(self, port-1) // the app's is in TIME_WAIT
								}
								f.Owner = proxy
								expectFate(t, lab, f, intercept.Fate{})
								f.Src = netip.AddrPortFrom(self, port)
							}
							if port != 40000 {
								break
							}
						}
					}
				}
			})
		}
	})
}

// TestOneSocketForAllServers: a resolver that has one socket for all servers, and does not connect it, hears each of
// them, while the app's lookups go to the sidecar.
func TestOneSocketForAllServers(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		applyConfig(t, w.target(t, lab), capturing()["all"])
		for i, all := range [][]string{{"203.0.113.53:53", "203.0.113.54:53", "169.254.20.10:53"},
			{"[2001:db8::53]:53", "[2001:db8::54]:53"}} {
			for _, port := range []uint16{53, 40000} {
				local := netip.AddrPortFrom(pods[i].Addr(), port)
				resolver := datagrams(t, lab.Pod, proxy, local)
				for _, text := range all {
					server := netip.MustParseAddrPort(text)
					upstream := connected(t, lab.Peer, nil, server, local)
					go echo(upstream, text)
					if got, err := exchange(resolver, server, "who"); err != nil || got != text+":who" {
						t.Errorf("%s from port %d: %q, %v", text, port, got, err)
					}
					expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: server, Src: netip.AddrPortFrom(pods[i].Addr(), 40001),
						Owner: app}, intercept.RedirectedTo(15053))
				}
				resolver.Close()
			}
		}
	})
}

// TestLinkLocalServer: an app's lookups to a name server with a link-local address are captured, whether all are or
// those to that server alone.
func TestLinkLocalServer(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		server := netip.AddrPortFrom(linkLocal(t, lab.Peer, "eth0"), 53)
		for _, c := range capturing() {
			if c.DNS.Mode == intercept.DNSResolvConf {
				c.DNS.Servers = []netip.Addr{server.Addr()}
			}
			applyConfig(t, w.target(t, lab), c)
			f := netlab.Flow{Dst: server, Device: "eth0", Owner: app}
			for _, f.Protocol = range []intercept.Protocol{intercept.UDP, intercept.TCP} {
				expectFate(t, lab, f, intercept.RedirectedTo(15053))
			}
		}
	})
}
