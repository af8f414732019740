package verify

import (
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// StandIn is a listener that stands in for the proxy's while that is not up yet.
type StandIn struct {
	Protocol ruleset.Protocol
	Addr     netip.AddrPort
	// Transparent is true where connections arrive with the destination that they had (IP_TRANSPARENT).
	Transparent bool
	// Lookups is true of a resolver's.
	Lookups bool
}

// StandIns are the listeners that the proxy has to have, by the configuration.
func StandIns(c intercept.Config, families []ruleset.Family) (all []StandIn) {
	for _, f := range families {
		any4or6, inPod := unspecified(f), func(targets []netip.AddrPort) bool {
			return !slices.ContainsFunc(targets, func(t netip.AddrPort) bool { return ruleset.FamilyOf(t.Addr()) == f })
		}
		add := func(s StandIn, addr netip.Addr, ports ruleset.PortRange) {
			for port := int(ports.First); port <= int(ports.Last); port++ {
				s.Addr = netip.AddrPortFrom(addr, uint16(port))
				all = append(all, s)
			}
		}
		if inPod(c.Outbound.Target) {
			add(StandIn{Protocol: ruleset.TCP}, any4or6, c.Outbound.Port)
		}
		if c.Inbound.Mode != intercept.InboundOff {
			add(StandIn{Protocol: ruleset.TCP, Transparent: c.Inbound.Mode == intercept.InboundTProxy}, any4or6, c.Inbound.Port)
		}
		if c.DNS.Mode != intercept.DNSOff && inPod(c.DNS.Target) {
			port := ruleset.Port(c.DNS.Port)
			if c.DNS.TCP {
				add(StandIn{Protocol: ruleset.TCP, Lookups: true}, any4or6, port)
			}
			// An answer has to come from where the lookup was sent.
			add(StandIn{Protocol: ruleset.UDP, Lookups: true}, localhost(f), port)
		}
	}
	return all
}

// StandInOwner is who a stand-in is: somebody that the rules take for the proxy, by all of its user, group and mark.
func StandInOwner(c intercept.Config) (owner ruleset.Owner, mark uint32) {
	owner = nobody(c)
	if uids := idsOf(c.Proxy.UIDs); len(uids) > 0 {
		owner.UID = uids[0]
	}
	if gids := idsOf(c.Proxy.GIDs); len(gids) > 0 {
		owner.GID = gids[0]
	}
	return owner, c.Proxy.Mark.Value
}

func unspecified(f ruleset.Family) netip.Addr {
	if f == ruleset.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
