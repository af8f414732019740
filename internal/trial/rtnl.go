//go:build linux

package trial

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/ruleset"
)

// The messages of rtnetlink(7) that making a client takes, and asking for a route. Package netlink has a call for each,
// which knows every kind of interface and of route that there is, and with it 130 KB of them.

// execute sends a request and returns the answers.
func execute(typ uint16, flags int, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(int(typ), flags)
	for _, p := range parts {
		req.AddData(p)
	}
	return req.Execute(unix.NETLINK_ROUTE, 0)
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL | unix.NLM_F_ACK

// end is one end of a veth pair.
type vethEnd struct {
	name string
	mac  []byte
}

// addVeth makes a veth pair, its near end here, up, and in a bridge if master is not zero; its far end in the network
// namespace of a file descriptor.
func addVeth(near, far vethEnd, ns uintptr, master int) error {
	attrs := func(add func(int, []byte), e vethEnd) {
		add(unix.IFLA_IFNAME, nl.ZeroTerminated(e.name))
		add(unix.IFLA_ADDRESS, e.mac)
	}
	up := nl.NewIfInfomsg(unix.AF_UNSPEC)
	up.Flags, up.Change = unix.IFF_UP, unix.IFF_UP
	parts := []nl.NetlinkRequestData{up}
	attrs(func(typ int, b []byte) { parts = append(parts, nl.NewRtAttr(typ, b)) }, near)
	if !gvisor.Here() { // it has no groups
		parts = append(parts, nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(markroute.TrialGroup)))
	}
	if master != 0 {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	attrs(func(typ int, b []byte) { peer.AddRtAttr(typ, b) }, far)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	_, err := execute(unix.RTM_NEWLINK, create, append(parts, info)...)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w for a pair of interfaces: load veth on the node (%w)", ruleset.ErrUnsupported, err)
	}
	return err
}

// deleteLink removes an interface, and with an end of a veth pair the pair.
func deleteLink(name string) error {
	_, err := execute(unix.RTM_DELLINK, unix.NLM_F_ACK, nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return err
}

// setUp sets an interface up.
func setUp(index int) error {
	up := nl.NewIfInfomsg(unix.AF_UNSPEC)
	up.Index, up.Flags, up.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	_, err := execute(unix.RTM_NEWLINK, unix.NLM_F_ACK, up)
	return err
}

// addAddr gives an interface an address.
func addAddr(index int, a netip.Addr) error {
	m := nl.NewIfAddrmsg(familyOf(a))
	m.Index, m.Prefixlen, m.Flags = uint32(index), uint8(a.BitLen()), unix.IFA_F_NODAD
	_, err := execute(unix.RTM_NEWADDR, create, m, nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()),
		nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	return err
}

// addNeighbor says what hardware address an address has: for good (NUD_PERMANENT), or as if it had said so itself
// (NUD_REACHABLE). gVisor takes no such thing, and asks the neighbour.
func addNeighbor(index int, a netip.Addr, mac []byte, state uint16) error {
	m := binary.NativeEndian.AppendUint32([]byte{uint8(familyOf(a)), 0, 0, 0}, uint32(index)) // struct ndmsg
	m = binary.NativeEndian.AppendUint16(m, state)
	_, err := execute(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, raw(append(m, 0, 0)),
		nl.NewRtAttr(unix.NDA_DST, a.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, mac))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// addRoute sends what goes to an address to an interface.
func addRoute(index int, a netip.Addr) error {
	m := nl.NewRtMsg()
	m.Family, m.Dst_len, m.Scope = uint8(familyOf(a)), uint8(a.BitLen()), unix.RT_SCOPE_LINK
	_, err := execute(unix.RTM_NEWROUTE, create, m, nl.NewRtAttr(unix.RTA_DST, a.AsSlice()),
		nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return err
}

// path is what the kernel says of a route.
type path struct {
	dst   netip.Prefix
	typ   uint8
	table uint8
	index int
	src   netip.Addr
	via   netip.Addr // a router
}

// lookUp asks by which way an address is reached.
func lookUp(a netip.Addr) (path, error) {
	m := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(a)), Dst_len: uint8(a.BitLen())}}
	replies, err := execute(unix.RTM_GETROUTE, 0, m, nl.NewRtAttr(unix.RTA_DST, a.AsSlice()))
	switch {
	case err != nil:
		return path{}, err
	case len(replies) == 0:
		return path{}, unix.ENETUNREACH
	}
	p, err := parsePath(replies[0])
	if err == nil && gvisor.Here() && isOwn(a) {
		p.typ, p.src = unix.RTN_LOCAL, a // it calls every route unicast, and names any address of the interface
	}
	return p, err
}

// HasRoute reports whether a route leads to an address. It is true where that cannot be found out.
func HasRoute(a netip.Addr) bool {
	_, err := lookUp(a)
	return !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.EINVAL)
}

// isOwn reports whether an address is one of the namespace's.
func isOwn(a netip.Addr) bool {
	all, err := links.List()
	return err == nil && (a.IsLoopback() ||
		slices.ContainsFunc(all, func(l links.Link) bool { return slices.Contains(l.Addrs, a) }))
}

// paths lists the routes of a family.
func paths(family uint8) (all []path, err error) {
	replies, err := links.Whole(func() ([][]byte, error) {
		return execute(unix.RTM_GETROUTE, unix.NLM_F_DUMP, &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
	})
	if err != nil {
		return nil, err
	}
	for _, m := range replies {
		p, err := parsePath(m)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func parsePath(b []byte) (p path, err error) {
	if len(b) < unix.SizeofRtMsg {
		return p, errors.New("a route is cut short")
	}
	m := nl.DeserializeRtMsg(b)
	p.typ, p.table = m.Type, m.Table
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofRtMsg:])
	for _, a := range attrs {
		addr, isAddr := netip.AddrFromSlice(a.Value)
		switch {
		case a.Attr.Type == unix.RTA_DST && isAddr:
			p.dst = netip.PrefixFrom(addr, int(m.Dst_len))
		case a.Attr.Type == unix.RTA_PREFSRC && isAddr:
			p.src = addr
		case a.Attr.Type == unix.RTA_GATEWAY && isAddr:
			p.via = addr
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
			p.index = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return p, err
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// raw is a part of a message as it is.
type raw []byte

// Len is part of [nl.NetlinkRequestData].
func (r raw) Len() int { return len(r) }

// Serialize is part of [nl.NetlinkRequestData].
func (r raw) Serialize() []byte { return r }
