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

// apps are owners whose connections the configuration captures, as far as owners go: those that no list speaks of, or
// those of the lists of owners that are included.
func apps(c intercept.Config) (all []sender) {
	someUIDs, someGIDs := others(uids(c)...), others(gids(c)...)
	add := func(uids, gids []uint32) {
		for _, u := range uids {
			for _, g := range gids {
				all = append(all, sender{who: "an app", owner: ruleset.Owner{UID: u, GID: g}})
			}
		}
	}
	if len(c.Outbound.IncludeUIDs)+len(c.Outbound.IncludeGIDs) == 0 {
		add(someUIDs, someGIDs)
		return all
	}
	add(idsOf(c.Outbound.IncludeUIDs), someGIDs)
	add(someUIDs, idsOf(c.Outbound.IncludeGIDs))
	return all
}

// proxies are the ways to be the proxy: by a user, a group, a mark, each alone.
func proxies(c intercept.Config) (all []sender) {
	uid, gid := first(others(uids(c)...)), first(others(gids(c)...))
	for _, id := range idsOf(c.Proxy.UIDs) {
		all = append(all, sender{"the proxy, by its user", ruleset.Owner{UID: id, GID: gid}, 0})
	}
	for _, id := range idsOf(c.Proxy.GIDs) {
		all = append(all, sender{"the proxy, by its group", ruleset.Owner{UID: uid, GID: id}, 0})
	}
	if m := c.Proxy.Mark; m.Mask != 0 {
		all = append(all, sender{"the proxy, by its mark", ruleset.Owner{UID: uid, GID: gid}, m.Value})
	}
	return all
}

// listed are owners on each list of owners, one a list, and somebody on none.
func listed(c intercept.Config) (all []sender) {
	uid, gid := first(others(uids(c)...)), first(others(gids(c)...))
	user := func(who string, list ruleset.IDs) {
		for _, id := range idsOf(list) {
			all = append(all, sender{who, ruleset.Owner{UID: id, GID: gid}, 0})
		}
	}
	group := func(who string, list ruleset.IDs) {
		for _, id := range idsOf(list) {
			all = append(all, sender{who, ruleset.Owner{UID: uid, GID: id}, 0})
		}
	}
	o := c.Outbound
	user("an excluded user", o.ExcludeUIDs)
	group("an excluded group", o.ExcludeGIDs)
	user("an included user", o.IncludeUIDs)
	group("an included group", o.IncludeGIDs)
	return append(all, sender{"somebody who is on no list", ruleset.Owner{UID: uid, GID: gid}, 0})
}

func first(ids []uint32) uint32 {
	if len(ids) == 0 {
		return 65533
	}
	return ids[0]
}
