//go:build linux

package trial

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// Look finds out what there is to know of the pod, in the thread's namespace, to try a configuration.
func Look(c intercept.Config) (verify.Pod, error) {
	pod := verify.Pod{Route: route, Self: self(), NoOutside: canMake()}
	pod.AnyOwner = canBe(ruleset.Owner{UID: 65533, GID: 65533})
	named, err := links.List()
	if err != nil {
		return pod, err
	}
	for _, l := range named {
		pod.Interfaces = append(pod.Interfaces, verify.Interface{Name: l.Name, Addrs: l.Addrs, Down: !l.Up})
	}
	if pod.NoOutside == nil {
		all, err := links.Whole(netlink.LinkList)
		if err != nil {
			return pod, fmt.Errorf("list the interfaces of the namespace: %w", err)
		}
		pod.Outside = outsideWay(c, pod.Interfaces)
		pod.Behind = behind(c, all)
	}
	if pod.Networks, err = networks(); err != nil {
		return pod, err
	}
	for _, p := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		listed, err := sockets.List(p)
		if err != nil {
			return pod, err
		}
		for _, s := range listed {
			pod.Sockets = append(pod.Sockets, verify.Socket{Protocol: p, Local: s.Local, V6Only: s.V6Only,
				Holder: verify.Holder{UID: s.UID, Mark: s.Mark}})
		}
	}
	return pod, nil
}

// outsideWay is how a client outside comes in: by an interface of which the configuration does not speak, with the
// addresses that the pod has for others.
func outsideWay(c intercept.Config, all []verify.Interface) verify.Way {
	name := free(slices.Concat(c.ExcludeInterfaces, c.VirtualInterfaces), all, "mesh", "client", "outside")
	w := verify.Way{Interface: name, Pair: name}
	host := byte(2 + rand.IntN(249))
	for _, network := range [][3]byte{{198, 51, 100}, {192, 0, 2}, {203, 0, 113}, {198, 18, 255}} {
		w.Clients = append(w.Clients, netip.AddrFrom4([4]byte{network[0], network[1], network[2], host}))
	}
	for _, network := range []byte{0xff, 0, 0x80} {
		w.Clients = append(w.Clients, netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, network, 14: 0xff, 15: host}))
	}
	return w
}

// free is a name for an interface that is not there, and that no pattern matches.
func free(patterns []string, all []verify.Interface, stems ...string) string {
	begin := rand.IntN(1000) // others who do the same at the same time take another
	for i := range 1000 {
		i = (begin + i) % 1000
		for _, stem := range stems {
			name := fmt.Sprintf("%s%d", stem, i)
			if !slices.ContainsFunc(all, func(i verify.Interface) bool { return i.Name == name }) &&
				!slices.ContainsFunc(patterns, func(p string) bool { return ruleset.InterfaceMatches(p, name) }) {
				return name
			}
		}
	}
	return stems[0]
}

// behind are the ways by which what is behind the pod comes in: of each virtual interface that is a bridge a port of
// it, and where there is none of that name, one that is made.
func behind(c intercept.Config, all []netlink.Link) (ways []verify.Way) {
	for i, pattern := range c.VirtualInterfaces {
		at := slices.IndexFunc(all, func(l netlink.Link) bool { return ruleset.InterfaceMatches(pattern, l.Attrs().Name) })
		if at >= 0 {
			if w, ok := inBridge(all[at], i); ok {
				ways = append(ways, w)
			}
			continue
		}
		name := pattern
		if stem, glob := strings.CutSuffix(pattern, "*"); glob {
			name = fmt.Sprintf("%s%d", stem, i)
		}
		net := byte(i)
		ways = append(ways, verify.Way{Interface: name, Pair: name, Forwards: true,
			Own: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, net, 1}),
				netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, net, 15: 1})},
			Clients: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, net, 5}),
				netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, net, 15: 5})}})
	}
	return ways
}

// inBridge is the way by a port of a bridge that has addresses, with clients of their networks.
func inBridge(bridge netlink.Link, i int) (w verify.Way, ok bool) {
	addrs, err := netlink.AddrList(bridge, netlink.FAMILY_ALL)
	if bridge.Type() != "bridge" || err != nil {
		return w, false
	}
	name := bridge.Attrs().Name
	w = verify.Way{Interface: name, Pair: fmt.Sprintf("meshport%d", i), Bridge: name, Forwards: true}
	for _, a := range addrs {
		own, is := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if !is || own.IsLinkLocalUnicast() {
			continue
		}
		// Hardly anybody's: the last but one.
		last := ruleset.CIDRs{netip.PrefixFrom(own, bits).Masked()}.Merge()[0].Last
		client := last.Prev()
		if client == own || !netip.PrefixFrom(own, bits).Contains(client) {
			continue
		}
		// Its answers have to reach it: not by way of somebody else.
		if p, err := lookUp(client); err == nil && p.index == bridge.Attrs().Index && !p.via.IsValid() {
			w.Own, w.Clients = append(w.Own, own), append(w.Clients, client)
		}
	}
	return w, len(w.Own) > 0
}

// route asks the kernel.
func route(to netip.Addr) (verify.Route, error) {
	p, err := lookUp(to)
	if err != nil {
		return verify.Route{}, err
	}
	if !p.src.IsValid() {
		p.src = to // to itself
	}
	if p.typ == unix.RTN_LOCAL {
		return verify.Route{Interface: ruleset.Loopback, Src: p.src}, nil
	}
	link, err := netlink.LinkByIndex(p.index)
	if err != nil {
		return verify.Route{}, err
	}
	return verify.Route{Interface: link.Attrs().Name, Src: p.src}, nil
}

// networks lists where routes lead.
func networks() (all []netip.Prefix, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		routes, err := paths(family)
		if err != nil {
			return nil, fmt.Errorf("list the routes of the namespace: %w", err)
		}
		for _, r := range routes {
			unicast := r.typ == unix.RTN_UNICAST && r.table != unix.RT_TABLE_LOCAL && r.dst.IsValid()
			if unicast && !r.dst.Addr().IsLinkLocalUnicast() && !r.dst.Addr().IsMulticast() {
				all = append(all, r.dst)
			}
		}
	}
	return all, nil
}
