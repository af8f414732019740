//go:build linux

package markroute

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Every pod has all of 127.0.0.0/8, so a proxy can bind 127.0.0.6. Of IPv6 lo has ::1 alone: to bind another address,
// the pod has to be given it.

// An address is one of an interface.
type address struct {
	addr  netip.Addr
	link  int
	ours  bool
	owned bool // an address by which others reach the pod
}

func source(a netip.Addr) string {
	return fmt.Sprintf("%s address %s dev lo", ruleset.FamilyOf(a), netip.PrefixFrom(a, a.BitLen()))
}

// addSources gives lo the addresses that are missing, where the pod has others of their family: programs take an
// address for a sign that the family is of use. It reports whether that was anything, and returns what undoes it.
func (c *Conn) addSources(want []netip.Addr) (added bool, undo func() error, err error) {
	var made []netip.Addr
	undo = undoing(&made, c.removeSource)
	missing, _, err := c.sources(want)
	if err != nil {
		return false, nil, err
	}
	for _, a := range missing {
		switch lost, err := insist(func() error { return c.changeSource(a, true) }); {
		case err == nil, lost && errors.Is(err, unix.EEXIST):
			made = append(made, a)
		case isNoWay(err), errors.Is(err, unix.EEXIST): // lo has no IPv6, or somebody was quicker
		default:
			return false, nil, errors.Join(explain("add the "+source(a), err), undo())
		}
	}
	return len(made) > 0, undo, nil
}

// checkSources names what differs.
func (c *Conn) checkSources(want []netip.Addr) (diffs []ruleset.Difference, err error) {
	missing, left, err := c.sources(want)
	for _, a := range missing {
		diffs = append(diffs, ruleset.Difference{What: source(a), Problem: "missing: the proxy cannot call the app from it"})
	}
	for _, a := range left {
		diffs = append(diffs, ruleset.Difference{What: source(a), Problem: "not part of this configuration"})
	}
	return diffs, err
}

// keepSources removes those of ours that are not wanted, and reports whether there were any.
func (c *Conn) keepSources(want []netip.Addr) (removed bool, err error) {
	_, left, err := c.sources(want)
	if err != nil {
		return false, err
	}
	for _, a := range left {
		if err := c.removeSource(a); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

// sources returns what is missing of those that are wanted, and what is ours beside them.
func (c *Conn) sources(want []netip.Addr) (missing, left []netip.Addr, err error) {
	there, err := c.addresses()
	if err != nil {
		return nil, nil, err
	}
	for _, a := range want {
		reached := slices.ContainsFunc(there, func(t address) bool { return t.owned && t.addr.Is4() == a.Is4() })
		if reached && !slices.ContainsFunc(there, func(t address) bool { return t.addr == a }) {
			missing = append(missing, a)
		}
	}
	if len(missing) > 0 {
		off, err := c.isIPv6Off()
		if err != nil {
			return nil, nil, explain("look at lo", err)
		}
		if off {
			missing = nil
		}
	}
	for _, t := range there {
		if t.ours && !slices.Contains(want, t.addr) {
			left = append(left, t.addr)
		}
	}
	return missing, left, nil
}

// addresses lists those of all interfaces.
func (c *Conn) addresses() (all []address, err error) {
	replies, err := c.listAddrs()
	if err != nil {
		return nil, err
	}
	for _, m := range replies {
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return nil, explain("list addresses", unix.EBADMSG)
		}
		attrs, err := direct.UnmarshalAttributes(m.Data[unix.SizeofIfAddrmsg:])
		if err != nil {
			return nil, explain("list addresses", err)
		}
		a := address{link: int(binary.NativeEndian.Uint32(m.Data[4:]))}
		for _, attr := range attrs {
			switch attr.Type {
			case unix.IFA_LOCAL:
				a.addr, _ = netip.AddrFromSlice(attr.Data)
			case unix.IFA_ADDRESS: // of the peer, if there is a local one
				if !a.addr.IsValid() {
					a.addr, _ = netip.AddrFromSlice(attr.Data)
				}
			case unix.IFA_RT_PRIORITY:
				a.ours = a.link == loopbackIndex && number(attr) == protocol
			}
		}
		a.owned = a.link != loopbackIndex && a.addr.IsGlobalUnicast()
		all = append(all, a)
	}
	return all, nil
}

func (c *Conn) removeSource(a netip.Addr) error {
	_, err := insist(func() error { return c.changeSource(a, false) })
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil // somebody was quicker
	}
	return explain("remove the "+source(a), err)
}

// changeSource gives lo an address, or takes it away. Its metric says that it is ours: kernels before 5.18 keep no
// protocol of an address (IFA_PROTO). It is deprecated, so that nothing takes it as its source unless it asks for it.
// The library's addresses have no metric.
func (c *Conn) changeSource(a netip.Addr, add bool) error {
	if add {
		return c.sendSource(a, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	}
	return c.sendSource(a, unix.RTM_DELADDR, 0)
}

func (c *Conn) sendSource(a netip.Addr, typ int, flags direct.HeaderFlags) error {
	m := nl.NewIfAddrmsg(family(ruleset.FamilyOf(a)))
	m.Prefixlen, m.Scope, m.Index = uint8(a.BitLen()), unix.RT_SCOPE_UNIVERSE, loopbackIndex
	data := m.Serialize()
	attr := func(typ int, value []byte) { data = append(data, nl.NewRtAttr(typ, value).Serialize()...) }
	attr(unix.IFA_LOCAL, a.AsSlice())
	attr(unix.IFA_ADDRESS, a.AsSlice())
	if typ == unix.RTM_NEWADDR {
		attr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE))
		attr(unix.IFA_RT_PRIORITY, nl.Uint32Attr(protocol))
		const preferred, valid = 0, 1<<32 - 1 // struct ifa_cacheinfo of linux/if_addr.h; two more are the kernel's
		attr(unix.IFA_CACHEINFO, slices.Concat(nl.Uint32Attr(preferred), nl.Uint32Attr(valid), make([]byte, 8)))
	}
	_, err := c.list.Execute(direct.Message{
		Header: direct.Header{Type: direct.HeaderType(typ), Flags: direct.Request | direct.Acknowledge | flags}, Data: data,
	})
	return err
}
