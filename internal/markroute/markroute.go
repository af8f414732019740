// Package markroute delivers marked packets to the local host: for each address
// family a rule (ip-rule(8), fwmark) and a local route in a table of its own.
package markroute

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/ruleset"
)

// protocol is who we say made a rule or a route (rtm_protocol, FRA_PROTOCOL):
// a number that nobody in iproute2's rt_protos has. What has it is ours, and
// nothing else is ever removed.
const protocol = 177

// priority is where our rules stand: before everybody else's but the first,
// which leads to table local. Left to the kernel it would be the next that is
// free, so that of two who add the same rule at once both succeed: it refuses a
// second one (NLM_F_EXCL) only if their priorities are the same, too
// (rule_exists in net/core/fib_rules.c).
const priority = 100

// mainPriority is that of the rule that leads to table main, whose default
// route leaves nothing to the rules behind it.
const mainPriority = 32766

// Conn speaks with the routing of one network namespace. It is for one
// goroutine at a time.
type Conn struct{ sock *netlink.Conn }

// Open connects to the network namespace that the calling thread is in.
func Open() (*Conn, error) {
	sock, err := nlsock.Dial(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, explain("open a netlink socket for routes", err)
	}
	return &Conn{sock}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return c.sock.Close() }

// An object is a rule or a route, as far as we make them.
type object struct {
	family   ruleset.Family
	rule     bool
	mark     ruleset.Mark // of a rule
	priority uint32       // of a rule
	table    uint32
	ours     bool
}

// is reports whether two objects do the same.
func (o object) is(other object) bool {
	return o.family == other.family && o.rule == other.rule && o.mark == other.mark && o.table == other.table
}

func (o object) String() string {
	if o.rule {
		return fmt.Sprintf("%s rule fwmark %#x/%#x lookup %d", o.family, o.mark.Value, o.mark.Mask, o.table)
	}
	return fmt.Sprintf("%s route local default dev lo table %d", o.family, o.table)
}

// wanted are the objects that routes take. The route comes first, so that no
// rule ever leads to an empty table.
func wanted(routes []ruleset.MarkRoute, families []ruleset.Family) []object {
	var all []object
	for _, f := range families {
		for _, r := range routes {
			all = append(all, object{family: f, table: r.Table},
				object{family: f, rule: true, mark: r.Mark, table: r.Table, priority: priority})
		}
	}
	return all
}

// possible returns what the namespace can have of what is wanted. Where IPv6 is
// off on lo (net.ipv6.conf.*.disable_ipv6) the kernel takes no such route, and
// there is nothing to deliver.
func (c *Conn) possible(want []object) ([]object, error) {
	isIPv6 := func(o object) bool { return o.family == ruleset.IPv6 }
	if !slices.ContainsFunc(want, isIPv6) {
		return want, nil
	}
	off, err := c.isIPv6Off()
	if err != nil {
		return nil, explain("look at lo", err)
	}
	if off {
		want = slices.DeleteFunc(slices.Clone(want), isIPv6)
	}
	return want, nil
}

// Add makes what is missing, reports whether that was anything, and returns
// what undoes it. What is there already, whoever made it, is not made again: the
// kernel would keep it twice.
func (c *Conn) Add(routes []ruleset.MarkRoute, families []ruleset.Family) (added bool, undo func() error, err error) {
	want, err := c.possible(wanted(routes, families))
	if err != nil {
		return false, nil, err
	}
	var there []object
	if len(want) > 0 {
		if there, err = c.list(); err != nil {
			return false, nil, err
		}
	}
	var made []object
	undo = func() error {
		var errs []error
		for _, o := range slices.Backward(made) {
			errs = append(errs, c.remove(o))
		}
		return errors.Join(errs...)
	}
	for _, o := range want {
		if slices.ContainsFunc(there, o.is) {
			continue
		}
		err := c.change(o, true)
		if errors.Is(err, unix.EEXIST) {
			err = c.isThere(o)
		} else if err == nil {
			made = append(made, o)
		}
		if err != nil {
			return false, nil, errors.Join(explain("add the "+o.String(), err), undo())
		}
	}
	return len(made) > 0, undo, nil
}

// isThere looks again for what the kernel says it has. It may be something
// else: a table has one route to a destination.
func (c *Conn) isThere(o object) error {
	there, err := c.list()
	if err == nil && !slices.ContainsFunc(there, o.is) {
		err = fmt.Errorf("%w: table %d has another default route; choose another table", unix.EEXIST, o.table)
	}
	return err
}

// Keep removes what is ours and not one of routes. Keep(nil, nil) removes all.
// It reports whether there was anything.
func (c *Conn) Keep(routes []ruleset.MarkRoute, families []ruleset.Family) (removed bool, err error) {
	there, err := c.list()
	if err != nil {
		return false, err
	}
	return c.removeFrom(there, wanted(routes, families))
}

// removeFrom removes what is ours of there, but what is wanted.
func (c *Conn) removeFrom(there, want []object) (removed bool, err error) {
	// Rules first: then nothing leads to the table when its route goes.
	for _, rules := range []bool{true, false} {
		for _, o := range there {
			if !o.ours || o.rule != rules || slices.ContainsFunc(want, o.is) {
				continue
			}
			if err := c.remove(o); err != nil {
				return removed, err
			}
			removed = true
		}
	}
	return removed, nil
}

// Check names what differs from routes.
func (c *Conn) Check(routes []ruleset.MarkRoute, families []ruleset.Family) ([]ruleset.Difference, error) {
	there, err := c.list()
	if err != nil {
		return nil, err
	}
	var diffs []ruleset.Difference
	want := wanted(routes, families)
	possible, err := c.possible(want)
	if err != nil {
		return nil, err
	}
	for _, o := range possible {
		if !slices.ContainsFunc(there, o.is) {
			diffs = append(diffs, ruleset.Difference{What: o.String(), Problem: "missing"})
		}
	}
	for _, o := range there {
		if o.ours && !slices.ContainsFunc(want, o.is) {
			diffs = append(diffs, ruleset.Difference{What: o.String(), Problem: "not part of this configuration"})
		}
	}
	return diffs, nil
}

func (c *Conn) remove(o object) error {
	err := c.change(o, false)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil // somebody was quicker
	}
	return explain("remove the "+o.String(), err)
}

// change adds or removes an object.
func (c *Conn) change(o object, add bool) error {
	typ, flags := unix.RTM_DELROUTE, netlink.Request|netlink.Acknowledge
	if add {
		typ, flags = unix.RTM_NEWROUTE, flags|netlink.Create|netlink.Excl
	}
	// struct fib_rule_hdr and struct rtmsg have the same size; see
	// linux/fib_rules.h and linux/rtnetlink.h.
	header := make([]byte, unix.SizeofRtMsg)
	header[0] = family(o.family)
	attrs := netlink.NewAttributeEncoder()
	if o.rule {
		typ += unix.RTM_NEWRULE - unix.RTM_NEWROUTE
		header[7] = unix.FR_ACT_TO_TBL
		attrs.Uint32(unix.FRA_FWMARK, o.mark.Value)
		attrs.Uint32(unix.FRA_FWMASK, o.mark.Mask)
		attrs.Uint32(unix.FRA_TABLE, o.table)
		attrs.Uint32(unix.FRA_PRIORITY, o.priority)
		attrs.Uint8(unix.FRA_PROTOCOL, protocol)
	} else {
		header[5], header[6], header[7] = protocol, unix.RT_SCOPE_HOST, unix.RTN_LOCAL
		attrs.Uint32(unix.RTA_TABLE, o.table)
		attrs.Uint32(unix.RTA_OIF, loopbackIndex)
	}
	data, err := attrs.Encode()
	if err != nil {
		return err
	}
	_, err = c.sock.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: flags},
		Data:   append(header, data...),
	})
	return err
}

// isIPv6Off reports whether lo has no IPv6.
func (c *Conn) isIPv6Off() (bool, error) {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], loopbackIndex)
	replies, err := c.sock.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request},
		Data:   header,
	})
	if err != nil {
		return false, err
	}
	const disableIPv6 = 26 // DEVCONF_DISABLE_IPV6 of linux/ipv6.h
	off := true
	for _, m := range replies {
		if len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return false, err
		}
		for attrs.Next() {
			if attrs.Type() != unix.IFLA_AF_SPEC {
				continue
			}
			attrs.Nested(func(families *netlink.AttributeDecoder) error {
				for families.Next() {
					if families.Type() != unix.AF_INET6 {
						continue
					}
					families.Nested(func(inet6 *netlink.AttributeDecoder) error {
						for inet6.Next() {
							conf := inet6.Bytes()
							if inet6.Type() == unix.IFLA_INET6_CONF && len(conf) >= 4*(disableIPv6+1) {
								off = binary.NativeEndian.Uint32(conf[4*disableIPv6:]) != 0
							}
						}
						return nil
					})
				}
				return nil
			})
		}
		if err := attrs.Err(); err != nil {
			return false, err
		}
	}
	return off, nil
}

// loopbackIndex is lo's in every network namespace (LOOPBACK_IFINDEX of
// net/flow.h).
const loopbackIndex = 1

func family(f ruleset.Family) byte {
	if f == ruleset.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// list returns the namespace's mark rules and local default routes.
func (c *Conn) list() ([]object, error) {
	routes, err := c.listOf(false)
	if err != nil {
		return nil, err
	}
	rules, err := c.listOf(true)
	all := append(routes, rules...)
	slices.SortStableFunc(all, func(a, b object) int { return cmp.Compare(a.family, b.family) })
	return all, err
}

// listOf returns the rules, or the routes, of both families.
func (c *Conn) listOf(rules bool) ([]object, error) {
	typ := unix.RTM_GETROUTE
	if rules {
		typ = unix.RTM_GETRULE
	}
	// No family asks for those of all (rtnl_dump_all in net/core/rtnetlink.c,
	// fib_nl_dumprule in net/core/fib_rules.c).
	replies, err := c.sock.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofRtMsg),
	})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // the kernel has no rules
	}
	if err != nil {
		return nil, explain("list routes and rules", err)
	}
	var all []object
	for _, m := range replies {
		if len(m.Data) < unix.SizeofRtMsg {
			continue
		}
		o := object{rule: rules, table: uint32(m.Data[4])}
		switch m.Data[0] {
		case family(ruleset.IPv4):
			o.family = ruleset.IPv4
		case family(ruleset.IPv6):
			o.family = ruleset.IPv6
		default:
			continue
		}
		read := o.readRoute
		if rules {
			read = o.readRule
		}
		ok, err := read(m.Data)
		if err != nil {
			return nil, explain("list routes and rules", err)
		}
		if ok {
			all = append(all, o)
		}
	}
	return all, nil
}

// readRule reads a rule that asks for a mark alone, and that is asked before
// everything goes to table main.
func (o *object) readRule(data []byte) (ok bool, err error) {
	attrs, err := netlink.NewAttributeDecoder(data[unix.SizeofRtMsg:])
	if err != nil {
		return false, err
	}
	plain := data[1] == 0 && data[2] == 0 && data[3] == 0 && data[7] == unix.FR_ACT_TO_TBL && binary.NativeEndian.Uint32(data[8:])&unix.FIB_RULE_INVERT == 0
	o.mark.Mask = 1<<32 - 1
	for attrs.Next() {
		switch attrs.Type() {
		case unix.FRA_FWMARK:
			o.mark.Value = attrs.Uint32()
		case unix.FRA_FWMASK:
			o.mark.Mask = attrs.Uint32()
		case unix.FRA_TABLE:
			o.table = attrs.Uint32()
		case unix.FRA_PRIORITY:
			o.priority = attrs.Uint32()
		case unix.FRA_PROTOCOL:
			o.ours = attrs.Uint8() == protocol
		case unix.FRA_SUPPRESS_PREFIXLEN: // always there
			plain = plain && attrs.Uint32() == 1<<32-1
		default:
			plain = false // a condition, or what we do not know
		}
	}
	return plain && o.mark.Value != 0 && o.priority < mainPriority, attrs.Err()
}

// readRoute reads a route that delivers everything.
func (o *object) readRoute(data []byte) (ok bool, err error) {
	attrs, err := netlink.NewAttributeDecoder(data[unix.SizeofRtMsg:])
	if err != nil {
		return false, err
	}
	o.ours = data[5] == protocol
	for attrs.Next() {
		if attrs.Type() == unix.RTA_TABLE {
			o.table = attrs.Uint32()
		}
	}
	// No destination, no source, no type of service.
	everything := data[1] == 0 && data[2] == 0 && data[3] == 0
	return everything && data[7] == unix.RTN_LOCAL, attrs.Err()
}

func explain(attempted string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w (%w): it takes CAP_NET_ADMIN in the user namespace that owns the network namespace", attempted, ruleset.ErrPermission, err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%s: %w: set lo up (ip link set lo up)", attempted, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: %w (%w): mode tproxy needs policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)", attempted, ruleset.ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", attempted, err)
}
