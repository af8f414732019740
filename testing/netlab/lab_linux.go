package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Lab is a pod and a peer, joined as the package documentation draws it. Its
// methods may be called at the same time. The zero Lab is not usable; see
// [New] and [NewT].
type Lab struct {
	// Pod is the namespace to put rules into. Peer stands for the rest of the
	// world.
	Pod, Peer *Namespace
	// VM is the machine behind the pod. It is nil without [Options].VM.
	VM *Namespace

	cables   []cable
	own      group // the sockets of the peer and of the apps
	lastPort atomic.Uint32

	mu        sync.Mutex
	listening map[endpoint]*group // what listens in the pod
	sidecars  []*Sidecar
	relays    relays
}

// Options are choices about a [Lab]. The zero Options are the usual ones.
type Options struct {
	// SecondInterface adds net1 to the pod.
	SecondInterface bool
	// VM adds a machine behind the pod, for flows [FromVM]. The pod then
	// forwards, IPv4 and IPv6.
	VM bool
	// Accidents happen on eth0. They take /dev/net/tun.
	Accidents Accidents
}

// cable is a veth pair between the pod and the peer or the VM.
type cable struct {
	name string         // of the interface that has the pod's addresses
	far  Side           // who is at the other end
	ends []ends         // one of each family
	to   []netip.Prefix // where the pod sends by it

	accidents Accidents
}

// ends are the addresses of a cable's ends.
type ends struct {
	pod netip.Prefix
	far netip.Addr
}

func cables(o Options) []cable {
	eth0 := cable{
		name: "eth0",
		far:  FromPeer,
		ends: []ends{
			{netip.MustParsePrefix("10.244.0.5/24"), netip.MustParseAddr("10.244.0.1")},
			{netip.MustParsePrefix("fd00:244::5/64"), netip.MustParseAddr("fd00:244::1")},
		},
		to: []netip.Prefix{
			netip.MustParsePrefix("0.0.0.0/0"),
			netip.MustParsePrefix("::/0"),
		},
		accidents: o.Accidents,
	}
	net1 := cable{
		name: "net1",
		far:  FromPeer,
		ends: []ends{
			{netip.MustParsePrefix("10.245.0.5/24"), netip.MustParseAddr("10.245.0.1")},
			{netip.MustParsePrefix("fd00:245::5/64"), netip.MustParseAddr("fd00:245::1")},
		},
		to: []netip.Prefix{
			netip.MustParsePrefix("10.245.0.0/24"),
			netip.MustParsePrefix("fd00:245::/64"),
			netip.MustParsePrefix("198.51.100.0/24"),
			netip.MustParsePrefix("2001:db8:1::/48"),
		},
	}
	vm := cable{
		name: "br-vm",
		far:  FromVM,
		ends: []ends{
			{netip.MustParsePrefix("10.246.0.1/24"), netip.MustParseAddr("10.246.0.5")},
			{netip.MustParsePrefix("fd00:246::1/64"), netip.MustParseAddr("fd00:246::5")},
		},
		to: []netip.Prefix{
			netip.MustParsePrefix("10.246.0.0/24"),
			netip.MustParsePrefix("fd00:246::/64"),
		},
	}
	all := []cable{eth0}
	if o.SecondInterface {
		all = append(all, net1)
	}
	if o.VM {
		all = append(all, vm)
	}
	return all
}

// end returns the cable's addresses of the family of a.
func (c cable) end(a netip.Addr) ends {
	return c.ends[slices.IndexFunc(c.ends, func(e ends) bool { return e.far.Is4() == a.Is4() })]
}

// namespace returns what is at a side of the lab, or nil if there is nothing.
func (l *Lab) namespace(s Side) *Namespace {
	switch s {
	case FromPod:
		return l.Pod
	case FromPeer:
		return l.Peer
	case FromVM:
		return l.VM
	}
	return nil
}

// OnPaper returns a lab that does not exist. It needs no privilege, and is good
// for [Flow.Packet] alone.
func OnPaper(o Options) *Lab { return &Lab{cables: cables(o)} }

// New makes a lab. It fails without the privileges or the kernel it needs;
// [Require] tells whether they are there.
func New(o Options) (_ *Lab, err error) {
	l := &Lab{cables: cables(o), listening: map[endpoint]*group{}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("netlab: make a lab: %w", errors.Join(err, l.Close()))
		}
	}()
	if l.Pod, err = NewNamespace(); err != nil {
		return nil, err
	}
	if l.Peer, err = NewNamespace(); err != nil {
		return nil, err
	}
	type step struct {
		in *Namespace
		do func(*netlink.Handle) error
	}
	steps := []step{
		{l.Pod, l.configurePod},
		{l.Peer, l.configurePeer},
		{l.Pod, l.awaitPod},
	}
	if o.VM {
		if l.VM, err = NewNamespace(); err != nil {
			return nil, err
		}
		steps = slices.Insert(steps, 2, step{l.VM, l.configureVM})
	}
	for _, step := range steps {
		err := step.in.Do(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			return step.do(h)
		})
		if err != nil {
			return nil, err
		}
	}
	return l, l.startPeer()
}

// Close ends everything that runs in the lab and lets go of its namespaces.
// Connections from [Lab.Dial] are their owners' to close. Closing again does
// nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	sidecars := l.sidecars
	l.sidecars = nil
	l.mu.Unlock()
	for _, s := range sidecars {
		s.sockets.close()
	}
	l.own.close()
	var errs []error
	for _, n := range []*Namespace{l.Pod, l.Peer, l.VM} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

// The ends' hardware addresses are known beforehand, so that nobody has to ask
// for them: for its first second an interface has no link-local address to ask
// from over IPv6 (RFC 4862, duplicate address detection).
var (
	podMAC = net.HardwareAddr{2, 0, 0, 0, 0, 5}
	farMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

const lo = 1 // the index of every namespace's loopback interface

// configurePod makes the cables and gives the pod's ends what they need.
func (l *Lab) configurePod(h *netlink.Handle) error {
	if err := configureHost(h); err != nil {
		return err
	}
	for _, c := range l.cables {
		index, err := l.addCable(h, c)
		if err != nil {
			return fmt.Errorf("add %s: %w", c.name, err)
		}
		for _, e := range c.ends {
			if err := addEnd(h, index, e.pod, e.far, farMAC); err != nil {
				return err
			}
		}
		for _, to := range c.to {
			via := c.end(to.Addr()).far.AsSlice()
			if err := addRoute(h, netlink.Route{LinkIndex: index, Gw: via}, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// addCable makes a cable and returns the index of the pod's interface.
func (l *Lab) addCable(h *netlink.Handle, c cable) (index int, err error) {
	switch {
	case c.far == FromVM:
		return l.addBridge(h, c)
	case c.accidents != Accidents{}:
		return l.addTAPs(h, c)
	}
	return addVeth(h, podLink(c.name), c.name, l.Peer)
}

// podLink describes an interface of the pod.
func podLink(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags, attrs.HardwareAddr = name, net.FlagUp, podMAC
	return attrs
}

// addVeth makes a veth pair. The far end is not set up yet.
func addVeth(h *netlink.Handle, near netlink.LinkAttrs, farName string, far *Namespace) (index int, err error) {
	veth := &netlink.Veth{
		LinkAttrs:        near,
		PeerName:         farName,
		PeerHardwareAddr: farMAC,
		PeerNamespace:    netlink.NsFd(far.FD()),
	}
	if err := h.LinkAdd(veth); err != nil {
		return 0, err
	}
	return veth.Index, nil
}

// configurePeer makes every address the peer's, except the pod's and those
// behind it.
func (l *Lab) configurePeer(h *netlink.Handle) error {
	if err := configureHost(h); err != nil {
		return err
	}
	for _, c := range l.cables {
		if c.far != FromPeer {
			continue
		}
		if _, err := configureFar(h, c, c.name); err != nil {
			return err
		}
	}
	for _, c := range l.cables {
		if c.far != FromVM {
			continue
		}
		for _, to := range c.to {
			via := l.cables[0].end(to.Addr()).pod.Addr().AsSlice()
			if err := addRoute(h, netlink.Route{Gw: via}, to); err != nil {
				return err
			}
		}
	}
	// Routes of type local are asked last here, in table main, so that they do
	// not swallow the pod's addresses.
	for _, all := range []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		local := netlink.Route{LinkIndex: lo, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: unix.RT_TABLE_MAIN}
		if err := addRoute(h, local, all); err != nil {
			return err
		}
	}
	return nil
}

// configureFar gives a cable's far end what it needs, and returns its index.
func configureFar(h *netlink.Handle, c cable, name string) (index int, err error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return 0, err
	}
	if err := h.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set the other end of %s up: %w", c.name, err)
	}
	index = link.Attrs().Index
	for _, e := range c.ends {
		if err := addEnd(h, index, host(e.far), e.pod.Addr(), podMAC); err != nil {
			return 0, err
		}
	}
	return index, nil
}

// addEnd gives an end of a cable its address, and the way to the other end's.
func addEnd(h *netlink.Handle, index int, own netip.Prefix, other netip.Addr, otherMAC net.HardwareAddr) error {
	if err := addAddr(h, index, own); err != nil {
		return err
	}
	if err := addRoute(h, netlink.Route{LinkIndex: index, Scope: unix.RT_SCOPE_LINK}, host(other)); err != nil {
		return err
	}
	return addNeighbor(h, index, other, otherMAC)
}

// awaitPod waits until the kernel's threads have finished what configuring the
// pod started.
func (l *Lab) awaitPod(h *netlink.Handle) error {
	for _, c := range l.cables {
		// An interface that got its carrier after it was set up cannot send yet.
		// Since Linux 6.8 the kernel settles that before it answers.
		err := until(c.name+" to be up", func() (bool, error) {
			link, err := h.LinkByName(c.name)
			if err != nil {
				return false, err
			}
			up := link.Attrs().OperState
			return up == netlink.OperUp || up == netlink.OperUnknown, nil // a TAP device's is never known
		})
		if err != nil {
			return err
		}
		for _, e := range c.ends {
			if err := awaitLocal(h, e.pod.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitLocal waits until an address that was added is the namespace's own. An
// IPv6 address gets its local route later than itself, IFA_F_NODAD or not
// (addrconf_dad_work in the kernel's net/ipv6/addrconf.c), and until then
// packets to it leave by the default route.
func awaitLocal(h *netlink.Handle, a netip.Addr) error {
	return until(a.String()+" to be local", func() (bool, error) {
		routes, err := h.RouteGet(a.AsSlice())
		if errors.Is(err, unix.ENETUNREACH) {
			return false, nil
		}
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, err
	})
}

// until asks again and again until the answer is true.
func until(what string, ok func() (bool, error)) error {
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited in vain for %s", what)
		}
	}
}

// configureHost does what both namespaces need.
func configureHost(h *netlink.Handle) error {
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: lo}}); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	// New namespaces inherit the host's reverse path filter, which would
	// discard what arrives by one interface and is answered by another.
	for _, conf := range []string{"all", "default"} {
		if err := sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0"); err != nil {
			return err
		}
	}
	return nil
}

// sysctl sets a kernel parameter of the calling thread's namespace. It may be
// read-only if that is its value already.
func sysctl(name, value string) error {
	path, want := "/proc/sys/"+name, []byte(value+"\n")
	got, err := os.ReadFile(path)
	if err != nil || bytes.Equal(got, want) {
		return err
	}
	return os.WriteFile(path, want, 0)
}

// addAddr adds an address, without duplicate address detection and without a
// route to the rest of its prefix. See awaitLocal.
func addAddr(h *netlink.Handle, index int, p netip.Prefix) error {
	err := h.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, &netlink.Addr{
		IPNet: ipNet(p),
		Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE,
	})
	if err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

func addNeighbor(h *netlink.Handle, index int, a netip.Addr, mac net.HardwareAddr) error {
	err := h.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: a.AsSlice(), HardwareAddr: mac, State: unix.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("add neighbor %s: %w", a, err)
	}
	return nil
}

func addRoute(h *netlink.Handle, r netlink.Route, to netip.Prefix) error {
	r.Dst = ipNet(to)
	if err := h.RouteAdd(&r); err != nil {
		return fmt.Errorf("add route to %s: %w", to, err)
	}
	return nil
}

// host returns the prefix that holds a alone.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// peerPort is where the peer's servers listen. It takes nothing away, as
// flows to it are given to the same servers.
const peerPort = 1

// startPeer makes every port of the peer answer. Packets are steered with
// tproxy, not rewritten: servers see the very addresses and ports the client
// used, over UDP too, and the peer needs no connection tracking, whose own
// clashes and time-outs would mix with the pod's.
func (l *Lab) startPeer() error {
	err := l.Peer.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "netlab"})
		chain := c.AddChain(&nftables.Chain{
			Name:     "every-port",
			Table:    table,
			Type:     nftables.ChainTypeFilter,
			Hooknum:  nftables.ChainHookPrerouting,
			Priority: nftables.ChainPriorityMangle,
		})
		c.AddRule(&nftables.Rule{
			Table: table,
			Chain: chain,
			Exprs: []expr.Any{
				&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(peerPort)},
				&expr.TProxy{TableFamily: byte(nftables.TableFamilyINet), RegPort: 1}, // TCP and UDP alone
			},
		})
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("steer the peer's packets (nftables tproxy): %w", err)
	}
	for _, addr := range anyAddr(peerPort) {
		for _, p := range []intercept.Protocol{intercept.TCP, intercept.UDP} {
			s := server{endpoint: endpoint{p, addr}, role: RolePeer, in: l.Peer, transparent: true}
			if err := s.start(&l.own); err != nil {
				return err
			}
		}
	}
	return nil
}
