package netlab

import (
	"errors"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// vmInterface is the VM's interface, and vmPort the bridge's port at which the
// VM's cable ends.
const vmInterface, vmPort = "eth0", "vm0"

// addBridge makes the cable to the VM end in a bridge, as virtual machines and
// nested containers are mostly connected, and the pod a router.
func (l *Lab) addBridge(h *netlink.Handle, c cable) (index int, err error) {
	for _, set := range []struct{ name, value string }{
		// A router's are also the first addresses of its networks, as fd00:246::
		// (RFC 4291, section 2.6.1).
		{"net/ipv4/conf/all/forwarding", "1"},
		{"net/ipv6/conf/all/forwarding", "1"},
		// After six messages at once a host gets only one more a second, so that
		// rejected datagrams would look dropped. On lo there is no such limit.
		{"net/ipv4/icmp_ratelimit", "0"},
		{"net/ipv6/icmp/ratelimit", "0"},
	} {
		if err := sysctl(set.name, set.value); err != nil {
			return 0, err
		}
	}
	// Where the host has the module br_netfilter, bridges of new namespaces hand
	// frames to the hooks of IP before IP gets them, with connection tracking.
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		if err := sysctl("net/bridge/"+name, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	bridge := &netlink.Bridge{LinkAttrs: podLink(c.name)}
	if err := h.LinkAdd(bridge); err != nil {
		return 0, err
	}
	port := podLink(vmPort)
	port.MasterIndex = bridge.Index
	if _, err := addVeth(h, port, vmInterface, l.VM); err != nil {
		return 0, err
	}
	return bridge.Index, nil
}

// configureVM gives the VM its addresses, and the pod as its router.
func (l *Lab) configureVM(h *netlink.Handle) error {
	if err := configureHost(h); err != nil {
		return err
	}
	for _, c := range l.cables {
		if c.far != FromVM {
			continue
		}
		index, err := configureFar(h, c, vmInterface)
		if err != nil {
			return err
		}
		for _, all := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
			via := c.end(all.Addr()).pod.Addr().AsSlice()
			if err := addRoute(h, netlink.Route{LinkIndex: index, Gw: via}, all); err != nil {
				return err
			}
		}
		for _, e := range c.ends {
			if err := awaitLocal(h, e.far); err != nil {
				return err
			}
		}
	}
	return nil
}
