package dataplane

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept/internal/links"
)

// podsBehind finds interfaces that only a node has, or virtual ones whose other ends are in namespaces of pods: behind
// a bridge, or each behind a route of its own.
func podsBehind() string {
	all, err := links.Whole(netlink.LinkList)
	if err != nil {
		return ""
	}
	byIndex := map[int]netlink.Link{}
	for _, l := range all {
		byIndex[l.Attrs().Index] = l
		if isOfNodes(l.Attrs().Name) {
			return "the interface " + l.Attrs().Name
		}
	}
	routes, err := links.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return ""
	}
	uplink, host := map[int]bool{}, map[int]bool{}
	for _, r := range routes {
		switch {
		case r.Gw != nil || r.Dst == nil || len(r.MultiPath) > 0:
			uplink[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				uplink[hop.LinkIndex] = true
			}
		case isHostRoute(r.Dst):
			host[r.LinkIndex] = true
		}
	}
	behind := map[string][]string{}
	for _, l := range all {
		a := l.Attrs()
		if _, is := l.(*netlink.Veth); !is || a.NetNsID < 0 {
			continue // its other end is here, too
		}
		bridge, enslaved := byIndex[a.MasterIndex]
		switch {
		case enslaved && !uplink[a.MasterIndex] && !isOfEngines(bridge.Attrs().Name):
			behind["bridge "+bridge.Attrs().Name] = append(behind["bridge "+bridge.Attrs().Name], a.Name)
		case !enslaved && host[a.Index] && !uplink[a.Index]:
			behind["routes of their own"] = append(behind["routes of their own"], a.Name)
		}
	}
	for by, names := range behind {
		return fmt.Sprintf("%d interfaces to pods behind the %s (%s)", len(names), by, names[0])
	}
	return ""
}

func isHostRoute(n *net.IPNet) bool {
	ones, bits := n.Mask.Size()
	return ones == bits && !n.IP.IsLinkLocalUnicast()
}
