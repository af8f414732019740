package markroute

import (
	"fmt"
	"net/netip"

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

// Commands are those of ip(8) by which a person makes what [Conn.Add] does, in
// that order: each rule's route comes before the rule.
func Commands(routes []ruleset.MarkRoute, families []ruleset.Family) []string {
	var all []string
	for _, f := range families {
		for _, r := range routes {
			all = append(all,
				fmt.Sprintf("ip -%d route add local default dev %s table %d proto %d", f, ruleset.Loopback, r.Table, protocol),
				fmt.Sprintf("ip -%d rule add pref %d fwmark %#x/%#x lookup %d protocol %d", f, priority, r.Mark.Value,
					r.Mark.Mask, r.Table, protocol))
		}
	}
	return all
}

// BoundCommands are those of a shell by which a person makes what [Conn.AddBound] does, one of each family.
func BoundCommands(families []ruleset.Family) []string {
	var all []string
	for _, f := range families {
		all = append(all, fmt.Sprintf(`ip -o link show up | while IFS=': ' read -r n dev rest; do [ "$dev" = %s ] || `+
			`ip -%d route add local %s dev "${dev%%@*}" table local metric "$n" proto %d; done`,
			ruleset.Loopback, f, loopbackNetwork(f), protocol))
	}
	return all
}

// loopbackNetwork is the destination of the kernel's own route by lo: a smaller one would be taken by everybody.
func loopbackNetwork(f ruleset.Family) netip.Prefix {
	if f == ruleset.IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
	}
	return netip.PrefixFrom(netip.IPv6Loopback(), 128)
}
