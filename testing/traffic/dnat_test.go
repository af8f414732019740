//go:build linux

package traffic

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// nodeLocal is a resolver on the node, at addresses that lead no further.
var nodeLocal = []netip.AddrPort{
	netip.MustParseAddrPort("169.254.20.10:53"), netip.MustParseAddrPort("[fd00:53::10]:53")}

// TestTargets: lookups go to a resolver on the node, other connections to a
// proxy there, and are answered from the address they were sent to. What goes
// to those two by itself arrives, and what the proxy sends goes where it wants.
func TestTargets(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		nodeProxy := []netip.AddrPort{
			netip.MustParseAddrPort("169.254.20.11:15001"), netip.MustParseAddrPort("[fd00:53::11]:15001")}
		c := intercept.Default()
		c.Inbound.Mode = intercept.InboundOff
		c.DNS.Mode = intercept.DNSAll
		c.DNS.Target = nodeLocal
		c.Outbound.Target = nodeProxy
		c.Outbound.UDP = intercept.TreatmentReject
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		b := w.open(t, lab)
		apply(t, b, rs)
		translated := func(to netip.AddrPort) intercept.Fate { return intercept.Fate{Action: intercept.Translated, To: to} }
		for i, server := range []netip.AddrPort{
			netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00:96::a]:53")} {
			for _, proto := range []intercept.Protocol{intercept.UDP, intercept.TCP} {
				lookup := netlab.Flow{Protocol: proto, Dst: server, Owner: app}
				expectFate(t, lab, lookup, translated(nodeLocal[i]))
				lookup.Owner = proxy
				expectFate(t, lab, lookup, intercept.Fate{})
				for _, owner := range []*intercept.Owner{app, proxy} {
					lookup.Owner, lookup.Dst = owner, nodeLocal[i]
					expectFate(t, lab, lookup, intercept.Fate{})
				}
			}
			call := netlab.Flow{Protocol: intercept.TCP, Dst: outside[i], Owner: app}
			expectFate(t, lab, call, translated(nodeProxy[i]))
			call.Owner = proxy
			expectFate(t, lab, call, intercept.Fate{})
			for _, owner := range []*intercept.Owner{app, proxy} {
				call.Owner, call.Dst = owner, nodeProxy[i]
				expectFate(t, lab, call, intercept.Fate{})
			}
			// The resolver's other ports are like anybody's.
			call.Owner, call.Dst = app, netip.AddrPortFrom(nodeLocal[i].Addr(), 80)
			expectFate(t, lab, call, translated(nodeProxy[i]))
			expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: call.Dst, Owner: app},
				intercept.Fate{Action: intercept.Rejected})

			// A socket that is not connected takes answers from anywhere, and
			// resolvers compare: it has to be the server asked.
			if from := answerer(t, lab, server); from != server {
				t.Errorf("%s was asked, and %s answered", server, from)
			}
		}
	})
}

// answerer asks a server and returns the address that the answer comes from.
func answerer(t *testing.T, lab *netlab.Lab, server netip.AddrPort) (from netip.AddrPort) {
	t.Helper()
	domain := unix.AF_INET
	if server.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_DGRAM, app)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("whoami\n"), 0, netlab.Sockaddr(server)); err != nil {
		t.Fatal(err)
	}
	awaitReadable(t, fd)
	_, sa, err := unix.Recvfrom(fd, make([]byte, 2048), 0)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	t.Fatal(err)
	return
}

// TestZonesOfTarget is TestZones with a resolver on the node: the app's
// questions go there, the proxy's to the server they are for.
func TestZonesOfTarget(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		asks := asking{
			set: func(c *intercept.Config) { c.DNS.Target = nodeLocal },
			answers: func(b netlab.Banner, proxy bool) bool {
				return b.Role == netlab.RolePeer && (b.Local == nodeLocal[0] || b.Local == nodeLocal[1]) == !proxy
			},
			ports: 16, rounds: 50,
		}
		result := asks.fromSharedPorts(t, w)
		t.Log(result)
		if result.lost.Load() > 0 || result.crossed.Load() > 0 {
			t.Error("lookups were lost or crossed")
		}
	})
}
