//go:build linux

package trial

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

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
	pod := verify.Pod{Route: route, Self: Self(), Outside: canMake()}
	pod.AnyOwner = canBe(ruleset.Owner{UID: 65533, GID: 65533})
	all, err := links.List()
	if err != nil {
		return pod, err
	}
	for _, l := range all {
		pod.Interfaces = append(pod.Interfaces, verify.Interface{Name: l.Name, Addrs: l.Addrs})
	}
	pod.Client = clientName(c, pod.Interfaces)
	if pod.Networks, err = networks(); err != nil {
		return pod, err
	}
	for _, p := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		listed, err := sockets.List(p)
		if errors.Is(err, ruleset.ErrUnsupported) {
			continue
		}
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

// clientName is a name for an interface that is not there, and of which the configuration does not speak.
func clientName(c intercept.Config, all []verify.Interface) string {
	patterns := slices.Concat(c.ExcludeInterfaces, c.VirtualInterfaces)
	for i := range 1000 {
		for _, stem := range []string{"mesh", "client", "outside"} {
			name := fmt.Sprintf("%s%d", stem, i)
			if !slices.ContainsFunc(all, func(i verify.Interface) bool { return i.Name == name }) &&
				!slices.ContainsFunc(patterns, func(p string) bool { return ruleset.InterfaceMatches(p, name) }) {
				return name
			}
		}
	}
	return "mesh-client"
}

// route asks the kernel.
func route(to netip.Addr) (verify.Route, error) {
	routes, err := netlink.RouteGet(to.AsSlice())
	switch {
	case err != nil:
		return verify.Route{}, err
	case len(routes) == 0:
		return verify.Route{}, unix.ENETUNREACH
	}
	r := routes[0]
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return verify.Route{}, err
	}
	src, _ := netip.AddrFromSlice(r.Src)
	if !src.IsValid() {
		src = to // to itself
	}
	if r.Type == unix.RTN_LOCAL {
		return verify.Route{Interface: ruleset.Loopback, Src: src.Unmap()}, nil
	}
	return verify.Route{Interface: link.Attrs().Name, Src: src.Unmap()}, nil
}

// networks lists where routes lead.
func networks() (all []netip.Prefix, err error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the routes of the namespace: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Type != unix.RTN_UNICAST {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if ok && bits > 0 && !addr.IsLinkLocalUnicast() && !addr.IsMulticast() {
			all = append(all, netip.PrefixFrom(addr.Unmap(), bits))
		}
	}
	return all, nil
}
