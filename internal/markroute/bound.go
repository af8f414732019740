//go:build linux

package markroute

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A packet of a socket that is bound to an interface (SO_BINDTODEVICE, or a connection to a link-local address) is
// routed by that interface alone, after a redirect, too: the kernel's own routes to loopback are by lo, so that the
// packet would leave the pod with a loopback address, and its sender wait in vain. A local route by the interface
// delivers it. Without an interface in the question the kernel's routes are the answer: their metric is 0.

// A detour is a local route to the loopback network by an interface other than lo.
type detour struct {
	family ruleset.Family
	link   int
}

func (d detour) String() string { return d.by(strconv.Itoa(d.link)) }

// by describes it with the name of its interface.
func (d detour) by(name string) string {
	return fmt.Sprintf("%s route local %s dev %s table local", d.family, loopbackNetwork(d.family), name)
}

// addBound makes what is missing of the routes by which sockets that are bound to an interface reach the loopback
// network, for each interface that there is. It reports whether that was anything, and returns what undoes it. An
// interface that comes later has none: checkBound says so.
func (c *Conn) addBound(families []ruleset.Family) (added bool, undo func() error, err error) {
	var made []detour
	undo = undoing(&made, c.removeDetour)
	want, _, err := c.detoursFor(families)
	if err != nil || len(want) == 0 {
		return false, undo, err
	}
	there, err := c.detours()
	if err != nil {
		return false, nil, err
	}
	for _, d := range want {
		if slices.Contains(there, d) {
			continue
		}
		switch lost, err := insist(func() error { return c.changeDetour(d, true) }); {
		case err == nil, lost && errors.Is(err, unix.EEXIST):
			made = append(made, d)
		case isNoWay(err), errors.Is(err, unix.EEXIST): // or somebody was quicker
		default:
			return false, nil, errors.Join(explain("add the "+d.String(), err), undo())
		}
	}
	return len(made) > 0, undo, nil
}

// checkBound compares the routes that are there with those that addBound makes, for the interfaces that are there now.
func (c *Conn) checkBound(families []ruleset.Family) (diffs []ruleset.Difference, err error) {
	want, names, err := c.detoursFor(families)
	if err != nil {
		return nil, err
	}
	there, err := c.detours()
	if err != nil {
		return nil, err
	}
	for _, d := range want {
		if name := names[d.link]; !slices.Contains(there, d) {
			diffs = append(diffs, ruleset.Difference{What: d.by(name),
				Problem: fmt.Sprintf("missing: what a socket bound to %s sends to the proxy is lost", name)})
		}
	}
	for _, d := range there {
		if !slices.Contains(families, d.family) {
			diffs = append(diffs, ruleset.Difference{What: d.by(cmp.Or(names[d.link], strconv.Itoa(d.link))),
				Problem: "not part of this configuration"})
		}
	}
	return diffs, nil
}

// isNoWay reports whether an interface takes no such route: it has gone or is down since it was listed, or has lost a
// family. No socket that is bound to it sends anything then.
func isNoWay(err error) bool {
	return slices.ContainsFunc([]error{
		unix.ENODEV, unix.ENETDOWN, unix.EINVAL, unix.EACCES, unix.EAFNOSUPPORT, unix.EOPNOTSUPP,
	}, func(e error) bool { return errors.Is(err, e) })
}

// keepBound removes the routes that addBound makes, but those of families. It reports whether there were any.
func (c *Conn) keepBound(families []ruleset.Family) (removed bool, err error) {
	if len(families) == 2 {
		return false, nil
	}
	there, err := c.detours()
	if err != nil {
		return false, err
	}
	for _, d := range there {
		if slices.Contains(families, d.family) {
			continue
		}
		if err := c.removeDetour(d); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

func (c *Conn) removeDetour(d detour) error {
	_, err := insist(func() error { return c.changeDetour(d, false) })
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
		return nil // it went with its interface
	}
	return explain("remove the "+d.String(), err)
}

// changeDetour adds or removes a route. Its metric is the interface's number, for a table has one route to a
// destination with a metric. It goes by the socket that lists, for every first apply does it.
func (c *Conn) changeDetour(d detour, add bool) error {
	typ, flags := unix.RTM_DELROUTE, unix.NLM_F_ACK
	if add {
		typ, flags = unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL
	}
	to := loopbackNetwork(d.family)
	m := nl.NewRtMsg()
	m.Family, m.Dst_len = uint8(family(d.family)), uint8(to.Bits())
	m.Table, m.Type, m.Scope, m.Protocol = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, unix.RT_SCOPE_HOST, protocol
	data := m.Serialize()
	attr := func(typ int, value []byte) { data = append(data, nl.NewRtAttr(typ, value).Serialize()...) }
	attr(unix.RTA_DST, to.Addr().AsSlice())
	attr(unix.RTA_OIF, nl.Uint32Attr(uint32(d.link)))
	attr(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(d.link)))
	_, err := c.list.Execute(direct.Message{
		Header: direct.Header{Type: direct.HeaderType(typ), Flags: direct.Request | direct.HeaderFlags(flags)}, Data: data,
	})
	return err
}

// detoursFor are the routes for the interfaces that are up and send for themselves, and not for a bridge or a VRF, and
// for the families that each has: one with a small MTU has none. There is no route of IPv6 where that is off on lo.
// Names are those of the interfaces, by number.
func (c *Conn) detoursFor(families []ruleset.Family) (all []detour, names map[int]string, err error) {
	links, err := c.listLinks()
	if err != nil {
		return nil, nil, err
	}
	names = map[int]string{}
	offOnLo := true
	for _, m := range links {
		header := nl.DeserializeIfInfomsg(m.Data)
		link, err := readLink(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, nil, explain("list interfaces", err)
		}
		names[int(header.Index)] = link.name
		if header.Index == loopbackIndex {
			offOnLo = !slices.Contains(link.families, ruleset.IPv6)
		}
		if header.Flags&unix.IFF_UP == 0 || header.Flags&unix.IFF_LOOPBACK != 0 || link.passing {
			continue
		}
		for _, f := range families {
			if slices.Contains(link.families, f) {
				all = append(all, detour{f, int(header.Index)})
			}
		}
	}
	all = slices.DeleteFunc(all, func(d detour) bool { return offOnLo && d.family == ruleset.IPv6 })
	return all, names, nil
}

// link is what matters of an interface.
type link struct {
	name     string
	families []ruleset.Family // those that it has
	passing  bool             // it sends for another, or is there for a trial
}

// readLink reads the attributes of an interface.
func readLink(attrs []byte) (l link, err error) {
	all, err := direct.UnmarshalAttributes(attrs)
	if err != nil {
		return l, err
	}
	for _, a := range all {
		switch a.Type {
		case unix.IFLA_IFNAME:
			l.name = strings.TrimRight(string(a.Data), "\x00")
		case unix.IFLA_MASTER:
			l.passing = true
		case unix.IFLA_GROUP:
			l.passing = l.passing || number(a) == TrialGroup
		case unix.IFLA_AF_SPEC:
			four, err := find(a.Data, unix.AF_INET)
			if err != nil {
				return l, err
			}
			if len(four) > 0 {
				l.families = append(l.families, ruleset.IPv4)
			}
		}
	}
	off, err := isIPv6Off(attrs)
	if !off {
		l.families = append(l.families, ruleset.IPv6)
	}
	return l, err
}

// detours lists those that are there.
func (c *Conn) detours() (all []detour, err error) {
	routes, err := c.get(unix.RTM_GETROUTE, unix.NLM_F_DUMP, &nl.RtMsg{})
	if err != nil {
		return nil, explain("list routes", err)
	}
	for _, m := range routes {
		header := nl.DeserializeRtMsg(m.Data)
		if header.Protocol != protocol || header.Type != unix.RTN_LOCAL || header.Table != unix.RT_TABLE_LOCAL {
			continue
		}
		link, err := find(m.Data[unix.SizeofRtMsg:], unix.RTA_OIF)
		if err != nil || len(link) != 4 {
			return nil, explain("list routes", errors.Join(err, unix.EBADMSG))
		}
		d := detour{ruleset.IPv4, int(binary.NativeEndian.Uint32(link))}
		if int(header.Family) == unix.AF_INET6 {
			d.family = ruleset.IPv6
		}
		all = append(all, d)
	}
	return all, nil
}
