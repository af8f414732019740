package markroute

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// protocol is who we say made a rule or a route (rtm_protocol, FRA_PROTOCOL):
// a number that nobody in iproute2's rt_protos has. What has it is ours, and
// nothing else is ever removed.
const protocol = 177

// TrialGroup is the group (ip-link(8)) of interfaces that come and go with a trial. They need no routes.
const TrialGroup = 177

// priority is where our rules stand: before everybody else's but the first,
// which leads to table local. Left to the kernel it would be the next that is
// free, so that of two who add the same rule at once both succeed: it refuses a
// second one (NLM_F_EXCL) only if their priorities are the same, too
// (rule_exists in net/core/fib_rules.c). Rules that others add later, and leave
// the priority to the kernel, come before ours (fib_default_rule_pref): Check
// says so, and Add then makes ours again in front of them.
const priority = 100

// Want is what rules need of the pod's routing. The zero value is nothing.
type Want struct {
	// Routes are marked packets to deliver locally, in each of the families.
	Routes   []ruleset.MarkRoute
	Families []ruleset.Family
	// Bound are the families in which sockets that are bound to an interface need routes to loopback.
	Bound []ruleset.Family
	// Sources are addresses for lo (see [ruleset.Ruleset]).
	Sources []netip.Addr
}

// WantOf is what the rules of a configuration need.
func WantOf(rs ruleset.Ruleset) Want {
	w := Want{Routes: rs.Routes, Families: rs.Families, Sources: rs.Sources}
	if rs.SendsToLoopback() {
		w.Bound = rs.Families
	}
	return w
}

// Commands are those of a shell and ip(8) by which a person makes what [Conn.Add] does, in that order: each rule's route
// comes before the rule.
func (w Want) Commands() []string {
	var all []string
	for _, f := range w.Families {
		for _, r := range w.Routes {
			all = append(all,
				fmt.Sprintf("ip -%d route add local default dev %s table %d proto %d", f, ruleset.Loopback, r.Table, protocol),
				fmt.Sprintf("ip -%d rule add pref %d fwmark %#x/%#x lookup %d protocol %d", f, priority, r.Mark.Value,
					r.Mark.Mask, r.Table, protocol))
		}
	}
	for _, f := range w.Bound {
		all = append(all, fmt.Sprintf(`ip -o link show up | while IFS=': ' read -r n dev rest; do [ "$dev" = %s ] || `+
			`ip -%d route add local %s dev "${dev%%@*}" table local metric "$n" proto %d; done`,
			ruleset.Loopback, f, loopbackNetwork(f), protocol))
	}
	for _, a := range w.Sources {
		all = append(all, fmt.Sprintf("ip -%d address add %s dev %s metric %d preferred_lft 0 noprefixroute",
			ruleset.FamilyOf(a), netip.PrefixFrom(a, a.BitLen()), ruleset.Loopback, protocol))
	}
	return all
}

// Comment is the Commands as they stand behind rules that are printed: in comments. Empty: there are none.
func (w Want) Comment() string {
	commands := w.Commands()
	if len(commands) == 0 {
		return ""
	}
	return "# ip(8): the routes that go with these rules, which mesh-init apply makes, too\n#   " +
		strings.Join(commands, "\n#   ") + "\n"
}

// loopbackNetwork is the destination of the kernel's own route by lo: a smaller one would be taken by everybody.
func loopbackNetwork(f ruleset.Family) netip.Prefix {
	if f == ruleset.IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	}
	return netip.PrefixFrom(netip.IPv6Loopback(), 128)
}
