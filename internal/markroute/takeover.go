//go:build linux

package markroute

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// TakeOver makes ours what others have made of some routes, and of some addresses of lo, where it is wanted, and removes
// it where it is not: Keep then knows it as ours.
func (c *Conn) TakeOver(routes []ruleset.MarkRoute, sources []netip.Addr, w Want) error {
	c.Forget()
	there, _, err := c.all()
	if err != nil {
		return err
	}
	some := wanted(routes, []ruleset.Family{ruleset.IPv4, ruleset.IPv6})
	want := wanted(w.Routes, w.Families)
	var errs []error
	// Rules first: then nothing leads to a table whose route goes.
	for _, rules := range []bool{true, false} {
		for _, o := range there {
			if !o.ours && o.rule == rules && slices.ContainsFunc(some, o.is) {
				errs = append(errs, explain("take over the "+o.String(), c.own(o, slices.ContainsFunc(want, o.is))))
			}
		}
	}
	addrs, err := c.addresses()
	errs = append(errs, err)
	for _, a := range addrs {
		if a.ours || a.link != loopbackIndex || !slices.Contains(sources, a.addr) {
			continue
		}
		change := func() error { return c.removeSource(a.addr) }
		if slices.Contains(w.Sources, a.addr) {
			change = func() error { return c.sendSource(a.addr, unix.RTM_NEWADDR, unix.NLM_F_REPLACE) }
		}
		_, err := insist(change)
		errs = append(errs, explain("take over the "+source(a.addr), err))
	}
	return errors.Join(errs...)
}

// own makes an object of others ours, or removes it.
func (c *Conn) own(o object, keep bool) error {
	if keep && o.rule {
		mine := o
		mine.priority = priority
		if _, err := insist(func() error { return c.change(mine, true) }); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if c.handle == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	_, err := insist(func() error {
		switch {
		case o.rule:
			rule := ruleOf(o)
			rule.Protocol = 0 // whoever's
			return c.handle.RuleDel(rule)
		case keep:
			return c.handle.RouteReplace(routeOf(o))
		}
		route := routeOf(o)
		route.Protocol = 0
		return c.handle.RouteDel(route)
	})
	return err
}
