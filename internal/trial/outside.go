//go:build linux

package trial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/verify"
)

// outside is a network namespace with a client of the pod's in it, joined to the pod by a veth pair. The kernel takes
// away all of it when the namespace goes, however the process ends.
type outside struct {
	ns *netns.NetNS
}

// The ends know each other's hardware addresses, so that nobody has to ask for them.
var (
	podMAC    = net.HardwareAddr{2, 0x6d, 0x65, 0x73, 0x68, 5}
	clientMAC = net.HardwareAddr{2, 0x6d, 0x65, 0x73, 0x68, 1}
)

// far is the name of the client's end.
const far = "eth0"

// canMake reports why no client outside can be made: nil if nothing is seen that stands in the way.
func canMake() error {
	n, err := netns.New()
	if err != nil {
		return err
	}
	return n.Close()
}

// makeOutside makes a client for probes. The thread is in the pod's namespace. The pod's end has the pod's own
// addresses, as the interface has by which its clients come: to these a redirect goes.
func makeOutside(ctx context.Context, name string, probes []verify.Probe) (o *outside, err error) {
	o = new(outside)
	if o.ns, err = netns.New(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	var own, clients, foreign []netip.Addr
	for _, p := range probes {
		if k := p.Packet; p.Outside() {
			clients = append(clients, k.Src.Addr())
			if k.Foreign {
				foreign = append(foreign, k.Dst.Addr())
			} else {
				own = append(own, k.Dst.Addr())
			}
		}
	}
	own, clients, foreign = unique(own), unique(clients), unique(foreign)
	file, err := os.Open(o.ns.Path())
	if err != nil {
		return o, err
	}
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, podMAC
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerHardwareAddr: clientMAC,
		PeerNamespace: netlink.NsFd(file.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return o, fmt.Errorf("make a veth pair: %w", err)
	}
	if err := o.ns.Do(func() error { return configure(far, podMAC, clients, append(own, foreign...)) }); err != nil {
		return o, fmt.Errorf("configure a client outside the pod: %w", err)
	}
	if err := configure(name, clientMAC, own, clients); err != nil {
		return o, fmt.Errorf("configure the pod's end of a veth pair: %w", err)
	}
	return o, o.ns.Do(func() error { return await(ctx, far, clients) })
}

func (o *outside) close() error {
	if o == nil || o.ns == nil {
		return nil
	}
	return o.ns.Close()
}

func unique(all []netip.Addr) []netip.Addr {
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// configure gives an end of the pair its addresses, and the way to the other end's.
func configure(name string, other net.HardwareAddr, own, others []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	six := slices.ContainsFunc(own, netip.Addr.Is6)
	if six {
		// Where it is off for new interfaces it is on for this one.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0) // it fails below if it has to
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	index := link.Attrs().Index
	for _, a := range own {
		addr := &netlink.Addr{IPNet: network(a), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add the address %s: %w", a, err)
		}
	}
	for _, a := range others {
		family := netlink.FAMILY_V4
		if a.Is6() {
			family = netlink.FAMILY_V6
		}
		neigh := &netlink.Neigh{LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(),
			HardwareAddr: other}
		route := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: network(a)}
		if err := errors.Join(netlink.NeighSet(neigh), netlink.RouteReplace(route)); err != nil {
			return fmt.Errorf("add the way to %s: %w", a, err)
		}
	}
	return nil
}

func network(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// await waits until the client can send, and its addresses are its own: the kernel's threads do what configuring has
// started (addrconf_dad_work in net/ipv6/addrconf.c, linkwatch).
func await(ctx context.Context, name string, addrs []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		ready, err := isReady(name, addrs)
		if ready || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the client's interface: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func isReady(name string, addrs []netip.Addr) (bool, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, err
	}
	if up := link.Attrs().OperState; up != netlink.OperUp && up != netlink.OperUnknown {
		return false, nil
	}
	for _, a := range addrs {
		routes, err := netlink.RouteGet(a.AsSlice())
		switch {
		case errors.Is(err, unix.ENETUNREACH):
			return false, nil
		case err != nil:
			return false, err
		case len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL:
			return false, nil
		}
	}
	return true, nil
}
