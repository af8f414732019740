//go:build linux

package trial

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/verify"
)

// outside is a network namespace with a client of the pod's in it, joined to the pod by a veth pair. The kernel takes
// away all of it when the namespace goes, however the process ends.
type outside struct {
	ns       *netns.NetNS
	pair     string // the pod's end, once it is there
	attempts []*attempt
}

// The ends know each other's hardware addresses, so that nobody has to ask for them.
var (
	podMAC    = []byte{2, 0x6d, 0x65, 0x73, 0x68, 5}
	clientMAC = []byte{2, 0x6d, 0x65, 0x73, 0x68, 1}
	// A bridge takes the lowest of its ports' for its own, which must not change.
	portMAC = []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xfe}
)

// far is the name of the client's end.
const far = "eth0"

// canMake reports why no client outside can be made: nil if nothing is seen that stands in the way.
func canMake() (err error) {
	n, err := netns.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	file, err := os.Open(n.Path())
	if err != nil {
		return err
	}
	defer file.Close()
	return n.Do(func() error { return addVeth(vethEnd{"mesh", podMAC}, vethEnd{far, clientMAC}, file.Fd(), 0) })
}

// makeOutside makes a client for probes that come by a way. The thread is in the pod's namespace.
//
// The pod's end has the pod's own addresses, as the interface has by which its clients come: to these a redirect goes.
// In a bridge it needs none: the bridge has them.
func makeOutside(ctx context.Context, w verify.Way, attempts []*attempt) (o *outside, err error) {
	o = &outside{attempts: attempts}
	if o.ns, err = netns.New(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a client by %s: %w", w.Interface, errors.Join(err, o.close()))
		}
	}()
	var own, clients, dsts []netip.Addr
	for _, a := range attempts {
		clients, dsts = append(clients, a.Packet.Src.Addr()), append(dsts, a.Packet.Dst.Addr())
		own = append(own, a.At)
	}
	clients, dsts, own = unique(clients), unique(dsts), unique(own)
	file, err := os.Open(o.ns.Path())
	if err != nil {
		return o, err
	}
	defer file.Close()
	mac, master := podMAC, 0
	pair := vethEnd{w.Pair, podMAC}
	if w.Bridge != "" {
		bridge, err := netlink.LinkByName(w.Bridge)
		if err != nil {
			return o, err
		}
		mac, master = bridge.Attrs().HardwareAddr, bridge.Attrs().Index
		pair.mac = portMAC
	}
	if err := addVeth(pair, vethEnd{far, clientMAC}, file.Fd(), master); err != nil {
		return o, err
	}
	o.pair = w.Pair
	if err := o.ns.Do(func() error { return configure(far, mac, clients, unique(append(dsts, own...))) }); err != nil {
		return o, err
	}
	if w.Bridge == "" {
		err = configure(w.Pair, clientMAC, own, clients)
	}
	for _, a := range clients {
		if w.Bridge != "" {
			err = errors.Join(err, addNeighbor(master, a, clientMAC, unix.NUD_REACHABLE))
		}
	}
	if err != nil {
		return o, err
	}
	if err := o.ns.Do(func() error { return await(ctx, far, clients) }); err != nil {
		return o, err
	}
	return o, await(ctx, w.Pair, nil)
}

// close takes the client away. Without it the kernel does, in its own time.
func (o *outside) close() (err error) {
	if o.pair != "" {
		err = deleteLink(o.pair)
	}
	return errors.Join(err, o.ns.Close())
}

func unique(all []netip.Addr) []netip.Addr {
	sort.Slice(all, func(i, j int) bool { return all[i].Less(all[j]) })
	return slices.Compact(all)
}

// configure gives an end of the pair its addresses, and the way to the other end's.
func configure(name string, other []byte, own, others []netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	if slices.ContainsFunc(own, netip.Addr.Is6) {
		// Where it is off for new interfaces it is on for this one. What follows fails if it has to.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0)
	}
	if err := setUp(index); err != nil {
		return err
	}
	for _, a := range own {
		if err := addAddr(index, a); err != nil {
			return fmt.Errorf("add the address %s: %w", a, err)
		}
	}
	for _, a := range others {
		if err := errors.Join(addNeighbor(index, a, other, unix.NUD_PERMANENT), addRoute(index, a)); err != nil {
			return fmt.Errorf("add the way to %s: %w", a, err)
		}
	}
	return nil
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
		p, err := lookUp(a)
		switch {
		case errors.Is(err, unix.ENETUNREACH):
			return false, nil
		case err != nil:
			return false, err
		case p.typ != unix.RTN_LOCAL:
			return false, nil
		}
	}
	return true, nil
}
