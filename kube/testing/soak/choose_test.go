//go:build linux

package soak

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// kind is what a flow is there to show.
type kind uint8

const (
	appOut   kind = iota // the app's connections go to the proxy
	appAsks              // its lookups go to the proxy's resolver
	proxyOut             // the proxy's own connections go where they want to
	clientIn             // clients' connections go to the proxy
)

// promised is a flow of which every configuration decides the same.
type promised struct {
	kind kind
	netlab.Flow
}

// flows are those that are sent all the time. The app's destinations are nobody else's.
func flows() (all []promised) {
	app, proxy := &intercept.Owner{UID: 1000, GID: 1000}, &intercept.Owner{UID: 1337, GID: 1337}
	add := func(k kind, from netlab.Side, p intercept.Protocol, owner *intercept.Owner, dst ...string) {
		for _, d := range dst {
			all = append(all, promised{k, netlab.Flow{From: from, Protocol: p, Owner: owner,
				Dst: netip.MustParseAddrPort(d)}})
		}
	}
	add(appOut, netlab.FromPod, intercept.TCP, app, "192.0.2.77:80", "[2001:db8::77]:80")
	add(appAsks, netlab.FromPod, intercept.UDP, app, "192.0.2.78:53", "[2001:db8::78]:53")
	add(proxyOut, netlab.FromPod, intercept.TCP, proxy, "198.18.0.9:443", "[2001:db8:9::9]:443")
	add(clientIn, netlab.FromPeer, intercept.TCP, nil, "10.244.0.5:8080", "[fd00:244::5]:8080")
	return all
}

// isApps reports whether a destination is one of the app's.
func isApps(a netip.Addr) bool {
	for _, f := range flows() {
		if f.kind <= appAsks && f.Dst.Addr() == a {
			return true
		}
	}
	return false
}

// is reports whether a fate is what is promised of a flow.
func (f promised) is(fate intercept.Fate) bool {
	switch f.kind {
	case appOut:
		return fate == intercept.RedirectedTo(15001)
	case appAsks:
		return fate == intercept.RedirectedTo(15053)
	case proxyOut:
		return fate == intercept.Fate{}
	case clientIn:
		return fate == intercept.RedirectedTo(15006) || fate.Action == intercept.Transparent
	}
	return false
}

// configuration returns a random one that keeps the promises.
func configuration(r *rand.Rand, lab *netlab.Lab) intercept.Config {
	for {
		c := gen.Config(r)
		usual := intercept.Default()
		c.Backstop, c.Families, c.OtherFamily = intercept.BackstopOn, usual.Families, usual.OtherFamily
		c.Outbound.Target, c.DNS.Target = nil, nil
		c.DNS.Mode, c.DNS.Servers = intercept.DNSAll, nil
		if c.Inbound.Mode == intercept.InboundOff {
			c.Inbound.Mode = intercept.InboundRedirect
		}
		if c.Validate() == nil && keeps(c, lab) {
			return c
		}
	}
}

func keeps(c intercept.Config, lab *netlab.Lab) bool {
	rs, err := intercept.Compile(c)
	if err != nil {
		return false
	}
	for _, f := range flows() {
		packet := f.Packet(lab)
		trace, err := rs.Trace(packet)
		if err != nil || !f.is(trace.Fate) || f.kind == appOut && !isStopped(rs, c, packet) {
			return false
		}
	}
	return true
}

// isStopped reports whether what goes on with a connection that conntrack has forgotten is stopped, from every port that a
// client is given. From one that the configuration lets in it passes, as an answer would (B5 in docs/policy.md).
func isStopped(rs intercept.Ruleset, c intercept.Config, packet intercept.Packet) bool {
	const first, last = 32768, 60999 // net.ipv4.ip_local_port_range
	ports := []uint16{first, last, c.TunnelPort}
	lists := []intercept.Ports{c.Inbound.ExcludePorts, c.Inbound.IncludePorts}
	for _, e := range c.Inbound.Exclude {
		lists = append(lists, e.Ports)
	}
	for _, p := range slices.Concat(lists...) {
		ports = append(ports, p.First, p.Last)
	}
	packet.Flags, packet.Length = intercept.PSH|intercept.ACK, 321
	for _, port := range ports {
		if port < first || port > last {
			continue
		}
		packet.Src = netip.AddrPortFrom(packet.Src.Addr(), port)
		trace, err := rs.Trace(packet)
		if err != nil || trace.Fate.Action != intercept.Rejected && trace.Fate.Action != intercept.Dropped {
			return false
		}
	}
	return true
}

// file is a configuration as mesh-init and the plugin read it.
func file(c intercept.Config) ([]byte, error) { return json.Marshal(c) }
