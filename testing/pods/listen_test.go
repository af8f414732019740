//go:build linux

package pods

import (
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
)

// TestListen: verify before the proxy is up, listening in its place. Then the proxy can listen at once.
func TestListen(t *testing.T) {
	tproxy := func(c *intercept.Config) { c.Inbound.Mode, c.DNS.Mode = intercept.InboundTProxy, intercept.DNSAll }
	for _, p := range []pod{
		{name: "the defaults"},
		{name: "with lookups", config: allDNS},
		{name: "with lookups, iptables-legacy", config: allDNS, backend: dataplane.BackendIPTablesLegacy},
		{name: "tproxy", config: tproxy},
		{name: "a range of ports", config: func(c *intercept.Config) {
			c.Outbound.Port = intercept.PortRange{First: 15010, Last: 15013}
		}},
		{name: "no IPv6", config: allDNS,
			before: "cd /proc/sys/net/ipv6/conf; echo 1 > all/disable_ipv6; echo 1 > lo/disable_ipv6"},
		{name: "the proxy by its group alone", config: func(c *intercept.Config) {
			c.Proxy.UIDs, c.DNS.Mode = nil, intercept.DNSAll
		}},
		{name: "the proxy by its mark alone", config: func(c *intercept.Config) {
			c.Proxy = intercept.Proxy{Mark: intercept.Mark{Value: 0x77, Mask: 0xff}}
			c.DNS.Mode = intercept.DNSAll
		}},
		{name: "an app that listens elsewhere", in: []process{by(anApp, at(hold, "[::]:8080", "0.0.0.0:8080"))}},
		{name: "containers in the pod", before: docker,
			config: func(c *intercept.Config) { c.VirtualInterfaces, c.DNS.Mode = []string{"docker0"}, intercept.DNSAll }},

		{name: "no rules", unapplied: true, broken: []string{"failed: "}, says: []string{"not intercepted"}},
		{name: "the rule that captures is gone",
			after:  `nft delete rule inet mesh_intercept output handle $(nft -a list chain inet mesh_intercept output | sed -n 's/.*"O12:.*# handle //p')`,
			broken: []string{"failed: rules: ", "failed: an app's connection, "}},
		{name: "another's NAT comes first",
			after:  `nft 'table ip other { chain outgoing { type nat hook output priority -199; tcp dport 80 dnat to 10.244.0.1:8080; }; }'`,
			broken: []string{"failed: rules: ", "failed: an app's connection, IPv4"}},
		{name: "another discards what comes from outside",
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; iifname != lo tcp dport 15006 drop; }; }'`,
			broken: []string{"failed: a client's connection, "}},
		{name: "another discards lookups", config: allDNS,
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; udp dport 15053 drop; }; }'`,
			broken: []string{"failed: an app's lookup over UDP, "}},

		{name: "the proxy is there", in: sidecar(), served: "user 1337, group 1337 (exe, process "},
		{name: "an app has the port of one family", in: []process{by(anApp, at(hold, "[::1]:15006"))},
			served: "user 1000, group 1000 (exe, process "},
		{name: "an app has the resolver's port", config: allDNS, in: []process{by(anApp, resolver("", "10.244.0.5:15053"))},
			served: "user 1000, group 1000 (exe, process "},
	} {
		p.standIn = true
		t.Run(p.name, p.run)
	}
}
