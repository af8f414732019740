package verify

import (
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// most is how many items of a list are looked at for a member that will do.
const most = 32

// members are addresses of a list, of a family: of each network one that is hardly a host's, the last but one, and its
// first.
func members(list ruleset.CIDRs, f ruleset.Family) (all []netip.Addr) {
	for _, p := range list.Of(f) {
		if len(all) >= 2*most {
			break
		}
		r := ruleset.CIDRs{p}.Merge()[0]
		last := r.Last
		if before := last.Prev(); before.IsValid() && p.Contains(before) && before != r.First {
			last = before
		}
		all = append(all, last)
		if first := r.First.Next(); first.IsValid() && p.Contains(first) && first != last {
			all = append(all, first)
		}
	}
	return all
}

// portsOf are ports of a list, its ranges' first.
func portsOf(list ruleset.Ports) (all []uint16) {
	for _, r := range list.Merge() {
		if len(all) >= most {
			break
		}
		all = append(all, r.First)
		if r.Last != r.First {
			all = append(all, r.Last)
		}
	}
	return all
}

// idsOf are IDs of a list, its ranges' first.
func idsOf(list ruleset.IDs) (all []uint32) {
	for _, r := range list.Merge() {
		if len(all) >= most {
			break
		}
		all = append(all, r.First)
	}
	return all
}

// others are IDs that are on none of the lists, the usual ones first.
func others(lists ...ruleset.IDs) (all []uint32) {
	taken := slices.Concat(lists...).Merge()
	candidates := []uint32{65533, 1000, 2000, 60000}
	for _, r := range taken {
		if r.Last < ruleset.MaxID {
			candidates = append(candidates, r.Last+1)
		}
		if r.First > 1 {
			candidates = append(candidates, r.First-1)
		}
	}
	for _, id := range candidates {
		if !taken.Contains(id) && len(all) < 4 {
			all = append(all, id)
		}
	}
	return all
}

// A sender is who a packet of the pod comes from.
type sender struct {
	who   string
	owner ruleset.Owner
	mark  uint32
	// anybody is true of an app: whoever this process is will do, if it cannot be another.
	anybody bool
}

// uids and gids are all that the configuration speaks of.
func uids(c intercept.Config) []ruleset.IDs {
	all := []ruleset.IDs{c.Proxy.UIDs, c.Outbound.IncludeUIDs, c.Outbound.ExcludeUIDs}
	for _, e := range c.Outbound.Exclude {
		all = append(all, e.UIDs)
	}
	return all
}

func gids(c intercept.Config) []ruleset.IDs {
	all := []ruleset.IDs{c.Proxy.GIDs, c.Outbound.IncludeGIDs, c.Outbound.ExcludeGIDs}
	for _, e := range c.Outbound.Exclude {
		all = append(all, e.GIDs)
	}
	return all
}

// documentation are addresses that nobody has (RFC 5737, RFC 3849).
func documentation(f ruleset.Family) []netip.Addr {
	if f == ruleset.IPv4 {
		return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{198, 51, 100, 1}),
			netip.AddrFrom4([4]byte{203, 0, 113, 1})}
	}
	return []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:ffff::1")}
}

// apps are owners whose connections the configuration captures, as far as owners go: those that no list speaks of, or
// those of the lists of owners that are included.
func apps(c intercept.Config) (all []sender) {
	someUIDs, someGIDs := others(uids(c)...), others(gids(c)...)
	add := func(uids, gids []uint32) {
		for _, u := range uids {
			for _, g := range gids {
				all = append(all, sender{who: "an app", owner: ruleset.Owner{UID: u, GID: g}, anybody: true})
			}
		}
	}
	if len(c.Outbound.IncludeUIDs)+len(c.Outbound.IncludeGIDs) == 0 {
		add(someUIDs, someGIDs)
	} else {
		add(idsOf(c.Outbound.IncludeUIDs), someGIDs)
		add(someUIDs, idsOf(c.Outbound.IncludeGIDs))
	}
	return append(all, sender{who: "an app", owner: ruleset.Owner{UID: first(someUIDs), GID: first(someGIDs)},
		anybody: true})
}

// proxies are the ways to be the proxy: by a user, a group, a mark, each alone.
func proxies(c intercept.Config) []sender {
	all := alone(c, "the proxy, by its user", "the proxy, by its group", c.Proxy.UIDs, c.Proxy.GIDs)
	if m := c.Proxy.Mark; m.Mask != 0 {
		all = append(all, sender{who: "the proxy, by its mark", owner: nobody(c), mark: m.Value})
	}
	return all
}

// listed are owners on each list of owners, and somebody on none.
func listed(c intercept.Config) []sender {
	o := c.Outbound
	all := alone(c, "an excluded user", "an excluded group", o.ExcludeUIDs, o.ExcludeGIDs)
	all = append(all, alone(c, "an included user", "an included group", o.IncludeUIDs, o.IncludeGIDs)...)
	return append(all, sender{who: "somebody who is on no list", owner: nobody(c)})
}

// alone are senders by a user of a list, and by a group of another, each with nothing else that a list speaks of.
func alone(c intercept.Config, user, group string, uids, gids ruleset.IDs) (all []sender) {
	for _, id := range idsOf(uids) {
		all = append(all, sender{who: user, owner: ruleset.Owner{UID: id, GID: nobody(c).GID}})
	}
	for _, id := range idsOf(gids) {
		all = append(all, sender{who: group, owner: ruleset.Owner{UID: nobody(c).UID, GID: id}})
	}
	return all
}

// nobody is an owner that no list speaks of.
func nobody(c intercept.Config) ruleset.Owner {
	return ruleset.Owner{UID: first(others(uids(c)...)), GID: first(others(gids(c)...))}
}

func first(ids []uint32) uint32 {
	if len(ids) == 0 {
		return 65533
	}
	return ids[0]
}
