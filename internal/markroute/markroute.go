//go:build linux

// Package markroute delivers marked packets to the local host: for each address
// family a rule (ip-rule(8), fwmark) and a local route in a table of its own. And
// it delivers there what sockets that are bound to an interface send to the
// loopback network.
package markroute

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sort"
	"time"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/ruleset"
)

// mainPriority is that of the rule that leads to table main, whose default
// route leaves nothing to the rules behind it.
const mainPriority = 32766

// Conn speaks with the routing of one network namespace. It is for one
// goroutine at a time, on a thread that is in the namespace.
type Conn struct {
	// list lists rules and routes, which every apply does; the most do nothing
	// else. The library's own listings will not do: of a rule they leave out its
	// action, l3mdev and what kernels have learnt since (dscp, flowlabel), of a
	// route its source, so that others' that ask for more would look like ours;
	// and one route of others' that they cannot parse fails them. Its parser of
	// attributes panics at one whose padding is missing. Its sockets are
	// not for every apply: a second thread watches over them and is woken by each
	// answer.
	list *direct.Conn
	// handle makes and removes rules and routes. It is nil until there is one to.
	handle *netlink.Handle
	home   unix.Stat_t // the namespace
	// ruled are the families of which the last listing had rules, anybody's. The kernel makes some in every namespace, so
	// one without has no policy routing: there a route goes to table main, whatever table it is for.
	ruled map[ruleset.Family]bool
	// links and addrs are what Links has listed. Nil: nothing.
	links, addrs []direct.Message
}

// Links lists the namespace's interfaces. Add and Keep go by the same list, until Forget is called: who writes here holds
// the lock of the namespace, so that nobody else of ours does meanwhile.
func (c *Conn) Links() ([]links.Link, error) {
	c.Forget()
	list, err := c.listLinks()
	if err != nil {
		return nil, err
	}
	addrs, err := c.listAddrs()
	if err != nil {
		return nil, err
	}
	c.links, c.addrs = list, addrs
	return links.Read(list, addrs)
}

// Forget has Add and Keep look at the interfaces anew.
func (c *Conn) Forget() { c.links, c.addrs = nil, nil }

func (c *Conn) listLinks() (_ []direct.Message, err error) {
	if c.links != nil {
		return c.links, nil
	}
	list, err := c.get(unix.RTM_GETLINK, unix.NLM_F_DUMP, nl.NewIfInfomsg(unix.AF_UNSPEC))
	return list, explain("list interfaces", err)
}

func (c *Conn) listAddrs() ([]direct.Message, error) {
	if c.addrs != nil {
		return c.addrs, nil
	}
	list, err := c.get(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	return list, explain("list addresses", err)
}

// patience is how long the kernel may take to answer, which it does at once. The
// library's handles wait for ever.
const patience = time.Minute

// Open connects to the network namespace that the calling thread is in.
func Open() (*Conn, error) {
	list, err := nlsock.Dial(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, explain("open a netlink socket for routes", err)
	}
	c := &Conn{list: list}
	if err := unix.Stat(here, &c.home); err != nil {
		return nil, errors.Join(fmt.Errorf("look at %s: %w: mount /proc", here, err), list.Close())
	}
	return c, nil
}

// here is the network namespace of the thread that looks.
const here = "/proc/thread-self/ns/net"

// open opens the handle, unless the thread has left the namespace: it would then
// change the routes of another, such as the host's.
func (c *Conn) open() (err error) {
	var now unix.Stat_t
	if err := unix.Stat(here, &now); err != nil {
		return err
	}
	if now.Dev != c.home.Dev || now.Ino != c.home.Ino {
		return errors.New("the calling thread is in another network namespace")
	}
	if c.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
		err = c.handle.SetSocketTimeout(patience)
	}
	return err
}

// Close closes the sockets.
func (c *Conn) Close() error {
	if c.handle != nil {
		c.handle.Close()
	}
	return c.list.Close()
}

// An object is a rule or a route, as far as we make them.
type object struct {
	family   ruleset.Family
	rule     bool
	mark     ruleset.Mark // of a rule
	priority uint32       // of a rule
	table    uint32
	ours     bool
	order    int // of a rule: its place among all of its family
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

// addMarked makes what is missing, reports whether that was anything, and returns
// what undoes it. What is there already, whoever made it, is not made again: the
// kernel would keep it twice.
func (c *Conn) addMarked(routes []ruleset.MarkRoute, families []ruleset.Family) (added bool, undo func() error, err error) {
	want, err := c.possible(wanted(routes, families))
	if err != nil {
		return false, nil, err
	}
	var there []object
	var others []otherRule
	if len(want) > 0 {
		if there, others, err = c.all(); err != nil {
			return false, nil, err
		}
	}
	for _, o := range want {
		if !c.ruled[o.family] {
			return false, nil, explain("add the "+o.String(), unix.EOPNOTSUPP)
		}
	}
	var made []object
	undo = undoing(&made, c.remove)
	for _, o := range want {
		if found := first(there, o); found != nil && before(others, *found) == nil {
			continue
		}
		o = inFront(others, o)
		lost, err := insist(func() error { return c.change(o, true) })
		there := errors.Is(err, unix.EEXIST)
		if there {
			err = c.isThere(o)
		}
		if err == nil && (lost || !there) {
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
	there, _, err := c.all()
	if err == nil && !slices.ContainsFunc(there, o.is) {
		err = fmt.Errorf("%w: table %d has another default route; choose another table", unix.EEXIST, o.table)
	}
	return err
}

// keepMarked removes what is ours and not one of routes. keepMarked(nil, nil) removes all.
// It reports whether there was anything.
func (c *Conn) keepMarked(routes []ruleset.MarkRoute, families []ruleset.Family) (removed bool, err error) {
	there, _, err := c.all()
	if err != nil {
		return false, err
	}
	return c.removeFrom(there, wanted(routes, families))
}

// removeFrom removes what is ours of there, but what is wanted, once.
func (c *Conn) removeFrom(there, want []object) (removed bool, err error) {
	// Rules first: then nothing leads to the table when its route goes.
	for _, rules := range []bool{true, false} {
		for _, o := range there {
			// One that others' rules had come before has been made again in front of them.
			again := o.rule && first(there, o).order != o.order
			if !o.ours || o.rule != rules || slices.ContainsFunc(want, o.is) && !again {
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

// checkMarked names what differs from routes.
func (c *Conn) checkMarked(routes []ruleset.MarkRoute, families []ruleset.Family) ([]ruleset.Difference, error) {
	there, others, err := c.all()
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
		found := first(there, o)
		if found == nil {
			diffs = append(diffs, ruleset.Difference{What: o.String(), Problem: "missing"})
		} else if other := before(others, *found); other != nil {
			diffs = append(diffs, ruleset.Difference{What: o.String(), Problem: fmt.Sprintf(
				"is asked after the rule %s, which can send its packets elsewhere", other)})
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
	_, err := insist(func() error { return c.change(o, false) })
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil // somebody was quicker
	}
	return explain("remove the "+o.String(), err)
}

// insist makes a change until the kernel's answer to it is heard. If one was lost (ENOBUFS: there was no memory for
// it), the change may have been made before the last try, which then finds it made.
func insist(change func() error) (lost bool, err error) {
	for range maxTries {
		if err = change(); !errors.Is(err, unix.ENOBUFS) {
			break
		}
		lost = true
	}
	return lost, err
}

// maxTries bounds how often a change is tried whose answer is lost.
const maxTries = 100

// change adds or removes an object.
func (c *Conn) change(o object, add bool) error {
	if c.handle == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	switch {
	case o.rule && add:
		return c.handle.RuleAdd(ruleOf(o))
	case o.rule:
		return c.handle.RuleDel(ruleOf(o))
	case add:
		return c.handle.RouteAdd(routeOf(o))
	}
	return c.handle.RouteDel(routeOf(o))
}

func ruleOf(o object) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Protocol = family(o.family), int(o.priority), protocol
	rule.Mark, rule.Mask, rule.Table = o.mark.Value, &o.mark.Mask, int(o.table)
	rule.Type = unix.FR_ACT_TO_TBL
	return rule
}

func routeOf(o object) *netlink.Route {
	return &netlink.Route{
		Family: family(o.family), Table: int(o.table), LinkIndex: loopbackIndex, Type: unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST, Protocol: protocol, Dst: everywhere(o.family),
	}
}

// everywhere is the destination of a default route.
func everywhere(f ruleset.Family) *net.IPNet {
	if f == ruleset.IPv4 {
		return &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// isIPv6Off reports whether lo has no IPv6, of which the library's links do not
// speak.
func (c *Conn) isIPv6Off() (bool, error) {
	lo := nl.NewIfInfomsg(unix.AF_UNSPEC)
	lo.Index = loopbackIndex
	replies, err := c.get(unix.RTM_GETLINK, 0, lo)
	if err != nil || len(replies) == 0 {
		return true, err
	}
	return isIPv6Off(replies[0].Data[unix.SizeofIfInfomsg:])
}

// isIPv6Off reads the attributes of an interface.
func isIPv6Off(attr []byte) (off bool, err error) {
	for _, typ := range []uint16{unix.IFLA_AF_SPEC, unix.AF_INET6, unix.IFLA_INET6_CONF} {
		if attr, err = find(attr, typ); err != nil {
			return true, err
		}
	}
	const disableIPv6 = 26 // DEVCONF_DISABLE_IPV6 of linux/ipv6.h
	return len(attr) < 4*(disableIPv6+1) || binary.NativeEndian.Uint32(attr[4*disableIPv6:]) != 0, nil
}

// find returns the value of an attribute among others, or nothing.
func find(attrs []byte, typ uint16) ([]byte, error) {
	all, err := direct.UnmarshalAttributes(attrs)
	for _, a := range all {
		if a.Type == typ {
			return a.Data, err
		}
	}
	return nil, err
}

// loopbackIndex is lo's in every network namespace (LOOPBACK_IFINDEX of
// net/flow.h).
const loopbackIndex = 1

func family(f ruleset.Family) int {
	if f == ruleset.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// all returns the namespace's mark rules and local default routes, and the other rules.
func (c *Conn) all() (all []object, others []otherRule, err error) {
	c.ruled = map[ruleset.Family]bool{}
	for _, typ := range []int{unix.RTM_GETROUTE, unix.RTM_GETRULE} {
		// No family asks for those of all (rtnl_dump_all in net/core/rtnetlink.c,
		// fib_nl_dumprule in net/core/fib_rules.c).
		replies, err := c.get(typ, unix.NLM_F_DUMP, &nl.RtMsg{})
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // the kernel has no rules
		}
		for i, m := range replies {
			o, ok, malformed := read(m.Data, typ == unix.RTM_GETRULE)
			err = cmp.Or(err, malformed)
			o.order = i // the kernel lists those of a family in the order in which it asks them
			c.ruled[o.family] = c.ruled[o.family] || o.rule
			if ok {
				all = append(all, o)
			}
			if o.rule && !o.ours && malformed == nil {
				other, malformed := readOther(m.Data, o)
				err = cmp.Or(err, malformed)
				others = append(others, other)
			}
		}
		if err != nil {
			return nil, nil, explain("list routes and rules", err)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].family < all[j].family })
	return all, others, nil
}

// get asks the kernel, again where its answer was lost.
func (c *Conn) get(typ, flags int, header nl.NetlinkRequestData) (replies []direct.Message, err error) {
	_, err = insist(func() error {
		replies, err = c.list.Execute(direct.Message{
			Header: direct.Header{Type: direct.HeaderType(typ), Flags: direct.Request | direct.HeaderFlags(flags)},
			Data:   header.Serialize(),
		})
		return err
	})
	return replies, err
}

// read reads a rule or a route. It is ok if it is a route that delivers
// everything, or a rule that asks for a mark alone and that is asked before
// everything goes to table main.
func read(message []byte, rule bool) (o object, ok bool, err error) {
	// struct fib_rule_hdr has the size of struct rtmsg; see linux/fib_rules.h and
	// linux/rtnetlink.h.
	if len(message) < unix.SizeofRtMsg {
		return o, false, fmt.Errorf("the kernel describes a rule or a route in %d bytes", len(message))
	}
	header := nl.DeserializeRtMsg(message)
	attrs, err := direct.UnmarshalAttributes(message[unix.SizeofRtMsg:])
	o = object{rule: rule, table: uint32(header.Table), ours: header.Protocol == protocol}
	switch int(header.Family) {
	case family(ruleset.IPv4):
		o.family = ruleset.IPv4
	case family(ruleset.IPv6):
		o.family = ruleset.IPv6
	default:
		return o, false, err
	}
	ok = header.Dst_len == 0 && header.Src_len == 0 && header.Tos == 0
	if rule {
		ok = ok && header.Type == unix.FR_ACT_TO_TBL && header.Flags&unix.FIB_RULE_INVERT == 0
		o.mark.Mask = 1<<32 - 1
	} else {
		ok = ok && header.Type == unix.RTN_LOCAL
	}
	for _, a := range attrs {
		if !rule && a.Type != unix.RTA_TABLE {
			continue // however it is delivered
		}
		switch a.Type {
		case unix.FRA_TABLE: // the number of RTA_TABLE, too
			o.table = number(a)
		case unix.FRA_FWMARK:
			o.mark.Value = number(a)
		case unix.FRA_FWMASK:
			o.mark.Mask = number(a)
		case unix.FRA_PRIORITY:
			o.priority = number(a)
		case unix.FRA_PROTOCOL:
			o.ours = len(a.Data) == 1 && a.Data[0] == protocol
		case unix.FRA_SUPPRESS_PREFIXLEN: // always there
			ok = ok && number(a) == 1<<32-1
		default:
			ok = false // a condition, or what we do not know
		}
	}
	return o, ok && (!rule || o.mark.Value != 0 && o.priority < mainPriority), err
}

// number is the value of an attribute that the kernel has as a number.
func number(a direct.Attribute) uint32 {
	if len(a.Data) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(a.Data)
}

func explain(attempted string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w", attempted, ruleset.NoNetAdmin(err))
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%s: %w: set lo up (ip link set lo up)", attempted, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: %w (%w): mode tproxy needs policy routing "+
			"(CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)", attempted, ruleset.ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", attempted, err)
}
