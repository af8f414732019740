package intercept

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
)

// manyProxies is more IDs than a proxy has. A wider list has apps' in it.
const manyProxies = 16

// Lint returns what is allowed in a valid Config but is rarely meant, a
// sentence each.
func Lint(c Config) []string {
	var warn []string
	say := func(format string, args ...any) { warn = append(warn, fmt.Sprintf(format, args...)) }
	o := c.Outbound

	for _, f := range c.families() {
		if included := o.IncludeCIDRs.Of(f); len(included) > 0 && covers(o.ExcludeCIDRs, included) {
			say("outbound.excludeCIDRs excludes everything of %s that outbound.includeCIDRs includes: no connection of it is "+
				"captured", f)
		}
	}
	if len(o.IncludePorts) > 0 && coversPorts(o.ExcludePorts, o.IncludePorts) {
		say("outbound.excludePorts excludes every port that outbound.includePorts includes")
	}
	in := c.Inbound
	if in.Mode != InboundOff && len(in.IncludePorts) > 0 && coversPorts(in.ExcludePorts, in.IncludePorts) {
		say("inbound.excludePorts excludes every port that inbound.includePorts includes: no inbound connection is captured")
	}
	if len(warn) == 0 {
		warn = c.lintDirections()
	}
	if c.DNS.Mode == DNSResolvConf {
		for _, s := range c.DNS.Servers {
			if o.ExcludeCIDRs.Contains(s) {
				say("the name server %s is in outbound.excludeCIDRs, but its lookups are captured all the same; "+
					"to leave them alone, add %q to outbound.exclude",
					s, Exclusion{CIDRs: single([]netip.Addr{s}), Ports: Ports{Port(dnsPort)}})
			}
		}
	}
	if c.DNS.Mode != DNSOff && o.ExcludePorts.Contains(dnsPort) {
		say("outbound.excludePorts has port 53: no name lookup is captured, although dns.mode is %s", c.DNS.Mode)
	}
	for _, proxy := range []struct {
		field, what string
		ids         IDs
	}{{"proxy.uids", "users", c.Proxy.UIDs}, {"proxy.gids", "groups", c.Proxy.GIDs}} {
		if n := proxy.ids.Count(); n > manyProxies {
			say("%s has %d %s: nothing is captured of what any process of theirs sends; name the proxy's alone",
				proxy.field, n, proxy.what)
		}
		if proxy.ids.Contains(0) {
			say("%s has 0: nothing is captured of what runs as root; run the proxy as another user", proxy.field)
		}
	}
	for _, who := range []struct {
		field      string
		proxy, app IDs
	}{
		{"outbound.includeUIDs", c.Proxy.UIDs, o.IncludeUIDs}, {"outbound.excludeUIDs", c.Proxy.UIDs, o.ExcludeUIDs},
		{"outbound.includeGIDs", c.Proxy.GIDs, o.IncludeGIDs}, {"outbound.excludeGIDs", c.Proxy.GIDs, o.ExcludeGIDs},
	} {
		if id, ok := common(who.proxy, who.app); ok {
			say("%s has %d, which is the proxy's: what it sends is never captured", who.field, id)
		}
	}
	if len(o.IncludeUIDs) > 0 && coversIDs(o.ExcludeUIDs, o.IncludeUIDs) {
		say("outbound.excludeUIDs excludes every user that outbound.includeUIDs includes")
	}
	if o.UDP == TreatmentReject && o.QUIC == TreatmentReject {
		say("outbound.quic is part of outbound.udp, which rejects all UDP already")
	}
	return warn
}

// lintDirections says in which direction nothing is captured, in all families or in one, although c includes something.
func (c Config) lintDirections() (warn []string) {
	c.DNS.Mode, c.DNS.Servers, c.DNS.Target = DNSOff, nil, nil
	c.VirtualInterfaces, c.VirtualNetworks = nil, nil
	in, out := c, c
	in.Outbound.IncludeCIDRs, in.Outbound.IncludePorts = nil, nil
	out.Inbound.Mode = InboundOff
	included := func(f Family) bool {
		return len(c.Outbound.IncludeCIDRs.Of(f)) > 0 || len(c.Outbound.IncludePorts) > 0
	}
	for _, d := range []struct {
		name  string
		alone Config
		asked bool
		asks  func(Family) bool
	}{
		{"outbound", out, included(IPv4) || included(IPv6), included},
		{"inbound", in, c.Inbound.Mode != InboundOff && len(c.Inbound.IncludePorts) > 0, func(Family) bool { return true }},
	} {
		if !d.asked {
			continue
		}
		rs := d.alone.rules()
		if !c.captures(rs) {
			warn = append(warn, fmt.Sprintf("no %s connection is captured: all that %[1]s includes is excluded, or of a family "+
				"that is not captured", d.name))
			continue
		}
		for _, f := range c.families() {
			if rs.Families = []Family{f}; d.asks(f) && !c.captures(rs) {
				warn = append(warn, fmt.Sprintf("no %s connection over %s is captured: all that %[1]s includes is excluded", d.name, f))
			}
		}
	}
	return warn
}

// covers reports whether every address of inner, which has one, is in outer.
func covers(outer, inner CIDRs) bool {
	if !outer.Contains(inner[0].Addr()) {
		return false // as mostly, and a long list need not be sorted for it
	}
	ranges := outer.Merge()
	return !slices.ContainsFunc(inner.Merge(), func(in AddrRange) bool {
		i := sort.Search(len(ranges), func(i int) bool { return in.Last.Compare(ranges[i].Last) <= 0 })
		return i == len(ranges) || ranges[i].First.Compare(in.First) > 0
	})
}

func coversPorts(outer, inner Ports) bool {
	ranges := outer.Merge()
	return !slices.ContainsFunc(inner.Merge(), func(in PortRange) bool {
		return !slices.ContainsFunc(ranges, func(r PortRange) bool { return r.First <= in.First && in.Last <= r.Last })
	})
}

func coversIDs(outer, inner IDs) bool {
	ranges := outer.Merge()
	return !slices.ContainsFunc(inner.Merge(), func(in IDRange) bool {
		return !slices.ContainsFunc(ranges, func(r IDRange) bool { return r.First <= in.First && in.Last <= r.Last })
	})
}

// common returns an ID that is in both lists.
func common(a, b IDs) (uint32, bool) {
	for _, x := range a {
		for _, y := range b {
			if first := max(x.First, y.First); first <= min(x.Last, y.Last) {
				return first, true
			}
		}
	}
	return 0, false
}
