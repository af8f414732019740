//go:build linux

package pods

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
)

// TestBroken: pods that are broken in one way. verify names it, and nothing else.
func TestBroken(t *testing.T) {
	const (
		app, app4, app6 = "failed: an app's connection, ", "failed: an app's connection, IPv4: ",
			"failed: an app's connection, IPv6: "
		client, client4 = "failed: a client's connection, ", "failed: a client's connection, IPv4: "
		client6         = "failed: a client's connection, IPv6: "
		overUDP         = "failed: an app's lookup over UDP, "
		overTCP         = "failed: an app's lookup over TCP, "
		rules           = "failed: rules: "
		toOwnPod        = "failed: the proxy, by its " // user, or group; to its own pod
	)
	root := intercept.Owner{}
	other := intercept.Owner{UID: 2000, GID: 2000}
	tproxy := func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy }
	transparent := func(all []listener) []listener { return with(all, func(l *listener) { l.Transparent = true }) }
	cidrs := func(all ...string) (list intercept.CIDRs) {
		for _, s := range all {
			list = append(list, netip.MustParsePrefix(s))
		}
		return list
	}
	for _, p := range []pod{
		// Rules.
		{name: "no rules", in: sidecar(), unapplied: true,
			broken: []string{rules}, says: []string{"not intercepted", "run mesh-init apply there"}},
		{name: "a dormant table", in: sidecar(), after: `nft 'add table inet mesh_intercept { flags dormant; }'`,
			broken: []string{"failed: "}, says: []string{app4, client6, "is dormant", "it goes past the proxy"}},
		{name: "the routes of bound sockets are gone", in: sidecar(), after: "ip route flush table local proto 177",
			broken: []string{rules}, says: []string{"127.0.0.0/8 dev eth0"}},
		{name: "the rule that captures is gone", in: sidecar(),
			after:  `nft delete rule inet mesh_intercept output handle $(nft -a list chain inet mesh_intercept output | sed -n 's/.*"O12:.*# handle //p')`,
			broken: []string{rules, app}, says: []string{"O12"}},
		{name: "IPv6 is not captured", in: sidecar(), backend: dataplane.BackendIPTablesNFT,
			after: `ip6tables-nft -t nat -F OUTPUT`,
			broken: []string{rules, app6, "failed: the proxy, by its user, IPv6", "failed: the proxy, by its group, IPv6",
				"failed: "},
			says: []string{"refused by B4.O12"}},
		{name: "inbound is not captured, legacy", in: sidecar(), backend: dataplane.BackendIPTablesLegacy,
			after: `iptables-legacy -w -t nat -F PREROUTING`,
			broken: []string{rules, client4, "failed: the tunnel port, IPv4", "failed: an excluded port, inbound, IPv4",
				"failed: UDP, inbound, IPv4", "failed: what is not for the pod, IPv4"}},
		{name: "an excluded port is captured", in: sidecar(),
			config:  func(c *intercept.Config) { c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)} },
			applied: func(c *intercept.Config) { c.Outbound.ExcludePorts = nil },
			broken:  []string{rules, "failed: an excluded port, "}, says: []string{"O5.ports", "127.0.0.1:15001"}},
		{name: "another captures an excluded port", in: sidecar(),
			config: func(c *intercept.Config) { c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)} },
			after: `nft 'add table ip r; add chain ip r o { type nat hook output priority -100; }; ` +
				`add rule ip r o oif != "lo" meta skuid != 1337 tcp dport 5432 redirect to :15001'`,
			broken: []string{"failed: an excluded port, IPv4", "failed: the proxy, by its group, to what another's rule names, IPv4"},
			says: []string{"our rule O5.ports has let it go",
				"another's rule sends it to 127.0.0.1:15001", "lists the chains of others that translate what ours let go"}},
		{name: "an excluded network is captured", in: sidecar(),
			config:  func(c *intercept.Config) { c.Outbound.ExcludeCIDRs = cidrs("10.96.0.0/12", "fd00:96::/64") },
			applied: func(c *intercept.Config) { c.Outbound.ExcludeCIDRs = nil },
			broken:  []string{rules, "failed: an excluded network, "}, says: []string{"O10.cidrs"}},
		{name: "an excluded user is captured", in: sidecar(),
			config:  func(c *intercept.Config) { c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(3000)} },
			applied: func(c *intercept.Config) { c.Outbound.ExcludeUIDs = nil },
			broken:  []string{rules, "failed: an excluded user, "}, says: []string{"O7.excluded-uid"}},
		{name: "an exclusion is captured", in: sidecar(),
			config: func(c *intercept.Config) {
				c.Outbound.Exclude = []intercept.Exclusion{{CIDRs: cidrs("10.1.0.0/16"),
					Ports: intercept.Ports{intercept.Port(443)}}}
			},
			applied: func(c *intercept.Config) { c.Outbound.Exclude = nil },
			broken:  []string{rules, "failed: exclusion 1, IPv4"}, says: []string{"O5.exclude.1"}},
		{name: "an excluded client is captured", in: sidecar(),
			config:  func(c *intercept.Config) { c.Inbound.ExcludeSources = cidrs("10.7.0.0/16") },
			applied: func(c *intercept.Config) { c.Inbound.ExcludeSources = nil },
			broken:  []string{rules, "failed: an excluded client, IPv4"}, says: []string{"I5.cidrs", ":15006"}},
		{name: "an inbound exclusion is captured", in: sidecar(),
			config: func(c *intercept.Config) {
				c.Inbound.Exclude = []intercept.InboundExclusion{{Ports: intercept.Ports{intercept.Port(2222)}}}
			},
			applied: func(c *intercept.Config) { c.Inbound.Exclude = nil },
			broken:  []string{rules, "failed: inbound exclusion 1, "}, says: []string{"I5.exclude.1"}},
		{name: "the rules are for another user", in: []process{by(intercept.Owner{UID: 5000, GID: 5000}, outbound(),
			inbound())},
			config:  func(c *intercept.Config) { c.Proxy.UIDs, c.Proxy.GIDs = intercept.IDs{intercept.ID(5000)}, nil },
			applied: func(c *intercept.Config) { c.Proxy.UIDs, c.Proxy.GIDs = intercept.IDs{intercept.ID(1337)}, nil },
			broken:  []string{rules, "failed: the proxy, by its user, "},
			says:    []string{"O4.uid", "it is sent to 127.0.0.1:15001"}},
		{name: "one user is included in vain", in: sidecar(),
			config:  func(c *intercept.Config) { c.Outbound.IncludeUIDs = intercept.IDs{intercept.ID(1000)} },
			applied: func(c *intercept.Config) { c.Outbound.IncludeUIDs = intercept.IDs{intercept.ID(1001)} },
			broken:  []string{rules, app, "failed: UDP of the port of QUIC, "}, says: []string{"by user 1000"}},
		{name: "UDP is not rejected", in: sidecar(),
			config:  func(c *intercept.Config) { c.Outbound.UDP = intercept.TreatmentReject },
			applied: func(c *intercept.Config) { c.Outbound.UDP = intercept.TreatmentPass },
			broken:  []string{rules, "failed: UDP of the port of QUIC, ", "failed: UDP, inbound, "},
			says:    []string{"not rejected", "O13.O12"}},
		{name: "the other family is not rejected", in: sidecar(),
			config: func(c *intercept.Config) {
				c.Families, c.OtherFamily = intercept.FamiliesIPv4, intercept.TreatmentReject
			},
			applied: func(c *intercept.Config) {
				c.OtherFamily = intercept.TreatmentPass
				c.Families = intercept.FamiliesIPv4
			},
			broken: []string{rules, "failed: "}, says: []string{app6, client6, "not rejected"}},

		// The outbound listener.
		{name: "no proxy", broken: []string{app, client}, says: []string{"nobody listens at 127.0.0.1:15001",
			"nobody listens at [::1]:15001", "nobody listens at 10.244.0.5:15006", "start the proxy"}},
		{name: "outbound at the pod's address", in: []process{by(theProxy,
			at(hold, "10.244.0.5:15001", "[fd00:244::5]:15001"), inbound())},
			broken: []string{app}, says: []string{"nobody listens at 127.0.0.1:15001; there is user 1337",
				"at 10.244.0.5:15001"}},
		{name: "outbound in IPv4 alone", in: []process{by(theProxy, at(hold, "0.0.0.0:15001"), inbound())},
			broken: []string{app6}, says: []string{"nobody listens at [::1]:15001"}},
		{name: "outbound in IPv6 alone", in: []process{by(theProxy, at(hold, "[::]:15001"), inbound())},
			broken: []string{app4}, says: []string{"nobody listens at 127.0.0.1:15001"}},
		{name: "one of a range of ports",
			config: func(c *intercept.Config) { c.Outbound.Port = intercept.PortRange{First: 15001, Last: 15002} },
			in:     []process{by(theProxy, outbound(), inbound(), at(hold, "0.0.0.0:15002"))},
			broken: []string{app6}, says: []string{"[::1]:15002"}},
		{name: "one of a range of ports is the app's",
			config: func(c *intercept.Config) { c.Outbound.Port = intercept.PortRange{First: 15001, Last: 15002} },
			in:     []process{by(theProxy, outbound(), inbound(), at(hold, "[::]:15002")), by(anApp, at(hold, "0.0.0.0:15002"))},
			broken: []string{app4}, says: []string{"user 1000, group 1000"}},
		{name: "a proxy that is stopped", in: []process{{Owner: theProxy, Listen: outbound(), Stopped: true},
			by(theProxy, inbound())},
			broken: []string{app}, says: []string{"no process has accepted it"}},
		{name: "a proxy that does not accept", in: []process{by(theProxy, at(ignore, "0.0.0.0:15001", "[::]:15001"),
			inbound())},
			broken: []string{app}, says: []string{"no process has accepted it"}},
		{name: "a proxy that resets", in: []process{by(theProxy, at(reset, "0.0.0.0:15001", "[::]:15001"), inbound())},
			broken: []string{app}, says: []string{"closed at once by user 1337, group 1337 (exe, process ",
				"who listens at 127.0.0.1:15001", "who listens at [::1]:15001", "its own rules may refuse"}},
		{name: "a proxy that connects to itself", in: []process{by(theProxy,
			with(at(itself, "[::]:15001"), func(l *listener) { l.Both = true }), inbound())},
			broken: []string{app}, says: []string{"then who listens there connected to itself",
				"more connections to 127.0.0.1:15001", "does not know the original destination"}},
		{name: "another refuses what comes to the proxy", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; tcp dport 15001 reject with tcp reset; }; }'`,
			broken: []string{app}, says: []string{"refused, though user 1337, group 1337 (exe, process ",
				"listens at 127.0.0.1:15001; perhaps another's rule (in chain incoming of table inet other) rejects it"}},
		{name: "lo is down", in: sidecar(), after: "ip addr add fe80::5/64 dev eth0 nodad; ip link set lo down",
			broken: []string{app, "failed: an app's call to loopback, ", "failed: an app's call inside the pod, ",
				"failed: the proxy's call from its passthrough source, ", "failed: rules: "},
			says: []string{"not accepted in time", "the pod does not answer itself", "::6/128 dev lo: missing"}},
		{name: "lo is down, and named", in: sidecar(), after: "ip link set lo down",
			broken: []string{"failed: "}, says: []string{"the pod does not answer itself; lo is down; set lo up",
				"not accepted in time; lo is down; set lo up"}},
		{name: "no IPv6 on lo", in: sidecar(), after: "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6",
			broken: []string{app6, "failed: an app's call inside the pod, IPv6", "failed: an app's call to loopback, IPv6", "failed: "},
			says:   []string{"lo has no ::1; set lo up"}},
		{name: "the address on lo alone", in: sidecar(), before: onLo,
			broken: []string{"failed: a client's connection, IPv4: lo alone has the address 10.244.0.5"},
			says:   []string{"--inbound-mode tproxy"}},

		// Who the proxy is.
		{name: "the proxy is root, and every connection comes back to it",
			in:     []process{by(root, at(relay, "0.0.0.0:15001", "[::]:15001"), inbound())},
			broken: []string{app, client, "failed: the proxy, by its "},
			says:   []string{"user 0, group 0", "is not the proxy (user 1337 or group 1337)"}},
		{name: "the proxy is another user", in: []process{by(other, outbound(), inbound())},
			broken: []string{app, client, toOwnPod}, says: []string{"user 2000, group 2000"}},
		{name: "outbound is the app's", in: []process{by(anApp, outbound()), by(theProxy, inbound())},
			broken: []string{app}, says: []string{"user 1000, group 1000"}},
		{name: "inbound is the app's", in: []process{by(theProxy, outbound()), by(anApp, inbound())},
			broken: []string{client, toOwnPod}, says: []string{"user 1000, group 1000"}},
		{name: "outbound is the app's in IPv6", in: []process{by(anApp, at(hold, "[::]:15001")),
			by(theProxy, at(hold, "0.0.0.0:15001"), inbound())},
			broken: []string{app6}, says: []string{"user 1000, group 1000"}},
		{name: "the app closes what is the proxy's", in: []process{by(anApp, at(hangUp, "0.0.0.0:15001", "[::]:15001")),
			by(theProxy, inbound())},
			broken: []string{app}, says: []string{"user 1000, group 1000"}},
		{name: "the proxy drops to another user", in: []process{{Owner: root, Listen: slices.Concat(outbound(), inbound()),
			Drop: other}},
			broken: []string{app, client, toOwnPod}, says: []string{"user 2000, group 2000"}},
		{name: "another user shares the port with the proxy", in: []process{
			{Owner: root, Drop: theProxy, Listen: with(outbound(), func(l *listener) { l.ReusePort = true })},
			{Owner: root, Drop: other, Listen: with(outbound(), func(l *listener) { l.ReusePort = true })},
			by(theProxy, inbound())},
			broken: []string{app}, says: []string{"user 2000, group 2000"}},
		{name: "the proxy has another mark", in: []process{by(other,
			with(slices.Concat(outbound(), inbound()), func(l *listener) { l.Mark = 0x78 }))},
			config: func(c *intercept.Config) {
				c.Proxy = intercept.Proxy{Mark: intercept.Mark{Value: 0x77, Mask: 0xffffffff}}
			},
			broken: []string{app, client, toOwnPod}, says: []string{"mark 0x78"}},

		// The inbound listener.
		{name: "inbound at loopback", in: []process{by(theProxy, outbound(), at(hold, "127.0.0.1:15006", "[::1]:15006"))},
			broken: []string{client}, says: []string{"nobody listens at 10.244.0.5:15006; there is user 1337",
				"at 127.0.0.1:15006"}},
		{name: "inbound in IPv4 alone", in: []process{by(theProxy, outbound(), at(hold, "0.0.0.0:15006"))},
			broken: []string{client6}},
		{name: "tproxy, and a socket that is not transparent", in: sidecar(), config: tproxy, broken: []string{client},
			says: []string{"IP_TRANSPARENT"}},
		{name: "tproxy without a proxy", in: []process{by(theProxy, outbound())}, config: tproxy, broken: []string{client},
			says: []string{"nobody listens at 10.244.0.5:15006"}},
		// What our rules discard of IPv4 the kernel sends again while IPv6 is tried.
		{name: "tproxy without a proxy, and another discards IPv6", in: []process{by(theProxy, outbound())}, config: tproxy,
			after: `nft 'table inet other { chain early { type filter hook prerouting priority -310;
				iifname != "lo" meta nfproto ipv6 meta l4proto tcp drop; }; }'`,
			broken: []string{client4, client6, "failed: the tunnel port, IPv6", "failed: an excluded port, inbound, IPv6",
				"failed: what is not for the pod, IPv6"},
			says: []string{"not captured: it has not come to our rules"}},
		{name: "tproxy without its route", in: []process{by(theProxy, outbound(), transparent(inbound()))}, config: tproxy,
			after: "ip route flush table 133", broken: []string{rules}, says: []string{"route local default dev lo table 133"}},

		// Lookups.
		{name: "no resolver", in: sidecar(), config: allDNS, broken: []string{overUDP, overTCP},
			says: []string{"nobody listens at 127.0.0.1:15053"}},
		{name: "a resolver over UDP alone", config: allDNS, in: append(sidecar(), by(theProxy,
			[]listener{{Protocol: "udp", Addr: "127.0.0.1:15053", Do: answer},
				{Protocol: "udp", Addr: "[::1]:15053", Do: answer}})),
			broken: []string{overTCP}, says: []string{"O8.tcp"}},
		{name: "a resolver over TCP alone", config: allDNS, in: append(sidecar(), by(theProxy,
			[]listener{{Protocol: "tcp", Addr: "127.0.0.1:15053", Do: answer},
				{Protocol: "tcp", Addr: "[::1]:15053", Do: answer}})),
			broken: []string{overUDP}, says: []string{"O8.udp", "nobody listens at 127.0.0.1:15053"}},
		{name: "a resolver in IPv4 alone", config: allDNS,
			in:     append(sidecar(), by(theProxy, resolver("", "127.0.0.1:15053"))),
			broken: []string{overUDP + "IPv6", overTCP + "IPv6"}},
		{name: "a resolver at every address", config: allDNS,
			in:     append(sidecar(), by(theProxy, resolver("", "0.0.0.0:15053", "[::]:15053"))),
			broken: []string{overUDP}, says: []string{"it answers from another address than 127.0.0.1:15053"}},
		{name: "a resolver that is root, whose lookups come back to it", config: allDNS,
			in:     append(sidecar(), by(root, resolver("203.0.113.53:53", "127.0.0.1:15053", "[::1]:15053"))),
			broken: []string{overUDP, overTCP}, says: []string{"user 0, group 0"}},
		{name: "a resolver that is another user, and needs nobody", config: allDNS,
			in:     append(sidecar(), by(other, dns())),
			broken: []string{overUDP, overTCP}, says: []string{"user 2000, group 2000"}},
		{name: "a resolver that does not answer", config: allDNS, in: append(sidecar(), by(theProxy,
			[]listener{{Protocol: "udp", Addr: "127.0.0.1:15053", Do: ignore},
				{Protocol: "udp", Addr: "[::1]:15053", Do: ignore}},
			at(answer, "127.0.0.1:15053", "[::1]:15053"))),
			broken: []string{overUDP}, says: []string{"not answered in time; it is heard by user 1337"}},
		{name: "the app beside the resolver", config: allDNS, in: append(sidecar(),
			by(theProxy, with(dns(), func(l *listener) { l.Reuse = true })),
			by(anApp, []listener{{Protocol: "udp", Addr: "127.0.0.1:15053", Do: ignore, Reuse: true}})),
			broken: []string{overUDP + "IPv4"}, says: []string{"user 1000, group 1000"}},
		{name: "the app answers beside the resolver", config: allDNS, in: append(sidecar(),
			by(theProxy, with(dns(), func(l *listener) { l.Reuse = true })),
			by(anApp, []listener{{Protocol: "udp", Addr: "[::1]:15053", Do: answer, Reuse: true}})),
			broken: []string{overUDP + "IPv6"}, says: []string{"user 1000, group 1000"}},

		// Targets outside the pod. The peer answers everything; a router behind which there is nobody says so.
		{name: "nobody at the target", config: func(c *intercept.Config) {
			c.Families, c.Inbound.Mode = intercept.FamiliesIPv4, intercept.InboundOff
			c.Outbound.Target = []netip.AddrPort{netip.MustParseAddrPort("10.99.0.1:16000")}
		}, after: "ip route add unreachable 10.99.0.1", broken: []string{app4}, says: []string{"10.99.0.1:16000"}},
		{name: "nobody at the resolver outside", config: func(c *intercept.Config) {
			c.Families, c.Inbound.Mode, c.DNS.Mode = intercept.FamiliesIPv4, intercept.InboundOff, intercept.DNSAll
			c.Outbound.IncludeCIDRs = nil
			c.DNS.Target = []netip.AddrPort{netip.MustParseAddrPort("10.99.0.1:16053")}
		}, after: "ip route add blackhole 10.99.0.1", broken: []string{overUDP, overTCP}, says: []string{"10.99.0.1:16053"}},

		// Others.
		{name: "another's NAT comes first", in: sidecar(),
			after:  `nft 'table ip other { chain outgoing { type nat hook output priority -199; tcp dport 80 dnat to 10.244.0.1:8080; }; }'`,
			broken: []string{rules, app4}, says: []string{"another's rule sends it to 10.244.0.1:8080", "mesh-init doctor"}},
		{name: "another's NAT comes first, iptables", in: sidecar(), backend: dataplane.BackendIPTablesLegacy,
			after:  `iptables-legacy -w -t nat -I OUTPUT -p tcp --dport 80 -j DNAT --to 10.244.0.1:8080`,
			broken: []string{rules, app4}, says: []string{"another's rule sends it to 10.244.0.1:8080"}},
		{name: "another's NAT comes first, inbound", in: append(sidecar(), by(anApp, at(hold, "[::]:8080"))),
			after:  `nft 'table ip6 other { chain incoming { type nat hook prerouting priority -199; ip6 daddr fd00:244::5 tcp dport 9 dnat to [fd00:244::5]:8080; }; }'`,
			broken: []string{rules, client6}, says: []string{"another's rule sends it to [fd00:244::5]:8080"}},
		{name: "another's NAT takes one included network", in: sidecar(),
			config: func(c *intercept.Config) { c.Outbound.IncludeCIDRs = cidrs("10.9.0.0/16") },
			after:  `nft 'table ip other { chain outgoing { type nat hook output priority -199; ip daddr 10.9.0.0/16 tcp dport 80 dnat to 10.244.0.1:8080; }; }'`,
			broken: []string{rules, app4}, says: []string{"another's rule sends it to 10.244.0.1:8080"}},
		{name: "another keeps conntrack away", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority -310; tcp dport 80 notrack; }; }'`,
			broken: []string{app, "not proven: the proxy, by its user, ", "not proven: the proxy, by its group, "},
			says: []string{"another's rule (in chain outgoing of table inet other) keeps it from conntrack, and it is refused by B4.O12",
				"our rule O4.uid was not asked"}},
		{name: "another puts the port of HTTPS into a zone", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority -300; tcp dport 443 ct zone set 9; }; }'`,
			broken: []string{"failed: an app's connection, to what another's rule names, IPv4: TCP to 192.0.2.1:443", "failed: an app's connection, to what another's rule names, IPv6"},
			says:   []string{"not accepted in time"}},
		{name: "another puts a port into a zone that nobody else tries", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority -300; tcp dport 7777 ct zone set 9; }; }'`,
			broken: []string{"failed: an app's connection, to what another's rule names, "}},
		{name: "another keeps conntrack from what some users send", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority -300; meta skuid 1000 notrack; }; }'`,
			broken: []string{"not proven: apps of some users: "}, says: []string{"untracks", "mesh-init trace"}},
		{name: "another keeps conntrack from what a user sends, iptables", in: sidecar(),
			after:  `iptables-legacy -w -t raw -A OUTPUT -m owner --uid-owner 1000 -j NOTRACK; iptables-nft -t raw -A OUTPUT -m owner --uid-owner 1000 -j NOTRACK`,
			broken: []string{"not proven: apps of some users: "}, says: []string{"legacy table ip raw", "of table ip raw"}},
		{name: "another discards what one user sends to the proxy", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority 0; meta skuid 1000 tcp dport 15001 drop; }; }'`,
			broken: []string{"not proven: apps of some users: "}, says: []string{"may discard"}},
		{name: "another discards it", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority -310; meta skuid != 1337 tcp dport 80 drop; }; }'`,
			broken: []string{app, "failed: the proxy, by its group, "}, says: []string{"discards it"}},
		{name: "another discards what comes to the proxy", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; tcp dport 15001 drop; }; }'`,
			broken: []string{app}, says: []string{"perhaps another's rule (in chain incoming of table inet other) discards it"}},
		{name: "another discards what comes from outside", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; iifname != lo tcp dport 15006 drop; }; }'`,
			broken: []string{client}, says: []string{"perhaps another's rule (in chain incoming of table inet other) discards it"}},
		{name: "ufw lets in what the client called", in: sidecar(),
			after: `for p in iptables-nft ip6tables-nft; do $p -P INPUT DROP; $p -A INPUT -i lo -j ACCEPT
				$p -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; done
				iptables-nft -A INPUT -p tcp --dport 8080 -j ACCEPT; ip6tables-nft -A INPUT -p tcp --dport 8080 -j ACCEPT
				ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT`,
			broken: []string{client, "failed: the tunnel port, ", "failed: an excluded port, inbound, "},
			says:   []string{"not accepted in time", "discarded in the pod"}},
		{name: "a firewall lets in what was translated alone", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 10; policy drop; ct state established,related accept; ct status dnat accept; iifname lo accept; meta l4proto icmpv6 accept; }; }'`,
			broken: []string{"failed: the tunnel port, ", "failed: an excluded port, inbound, "},
			says:   []string{"discarded in the pod"}},
		{name: "another's NAT takes lookups", in: withDNS(), config: allDNS,
			after:  `nft 'table ip other { chain outgoing { type nat hook output priority -199; meta skuid != 1337 udp dport 53 dnat to 10.244.0.1:5353; }; }'`,
			broken: []string{rules, overUDP + "IPv4"}, says: []string{"10.244.0.1:5353"}},

		{name: "another keeps conntrack from what arrives by eth0", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook prerouting priority -300; iifname eth0 notrack; }; }'`,
			broken: []string{"not proven: clients by eth0: "}, says: []string{"chain incoming of table inet other", "untracks", "--allow-unproven"}},
		{name: "another discards what arrives by eth0", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; iif eth0 tcp dport 15006 drop; }; }'`,
			broken: []string{"not proven: clients by eth0: "}, says: []string{"may discard"}},
		{name: "another's chain discards what arrives by eth0", in: sidecar(),
			after:  `iptables-nft -N X; iptables-nft -A X -p tcp --dport 15006 -j DROP; iptables-nft -A INPUT -i eth+ -j X`,
			broken: []string{"not proven: clients by eth*: "}, says: []string{"may discard"}},
		{name: "another discards what arrives by eth0, legacy", in: sidecar(),
			after:  `iptables-legacy -w -A INPUT -i eth0 -p tcp --dport 15006 -j DROP; ip6tables-legacy -w -A INPUT -i eth+ -p tcp --dport 15006 -j DROP`,
			broken: []string{"not proven: clients by eth"}, says: []string{"legacy table ip filter", "clients by eth*"}},
		{name: "another discards what arrives at a device", in: sidecar(),
			after:  `nft 'table netdev other { chain incoming { type filter hook ingress device eth0 priority 0; tcp dport 80 drop; }; }'`,
			broken: []string{"not proven: clients by some interfaces: "}, says: []string{"chain incoming of table netdev other"}},
		{name: "another discards what arrives by interfaces of a set", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; iifname { eth0, eth7 } tcp dport 15006 drop; }; }'`,
			broken: []string{"not proven: clients by some interfaces: "}, says: []string{"may discard"}},
		{name: "another returns what the proxy sends to HTTPS", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type nat hook output priority -100; meta skgid 1337 tcp dport 443 redirect to :15001; }; }'`,
			broken: []string{"failed: the proxy, by its group, to port 443, "}, says: []string{"refused by B1.outbound", "doctor lists the chains"}},
		{name: "another discards what is excluded", in: sidecar(),
			config: func(c *intercept.Config) { c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)} },
			after:  `nft 'table inet other { chain outgoing { type filter hook postrouting priority 0; tcp dport 5432 drop; }; }'`,
			broken: []string{"failed: an excluded port, "}, says: []string{"discarded in the pod"}},
		{name: "another discards what the proxy sends", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority 0; meta skuid 1337 oifname eth0 drop; }; }'`,
			broken: []string{"failed: the proxy, by its user, "}, says: []string{"discarded in the pod"}},
		{name: "another discards what a client sends to an excluded port", in: sidecar(),
			after:  `nft 'table inet other { chain incoming { type filter hook input priority 0; tcp dport 15008 drop; }; }'`,
			broken: []string{"failed: the tunnel port, "}, says: []string{"discarded in the pod"}},

		// What ours let go comes to chains of others.
		{name: "another sends what the proxy sends to a port where nobody listens, iptables-nft", in: sidecar(),
			after: `iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9999`,
			broken: []string{"failed: the proxy, by its user, IPv4", "failed: the proxy, by its group, IPv4",
				"failed: the proxy, by its user, to port 443, IPv4", "failed: the proxy, by its group, to port 443, IPv4",
				"failed: an app's call inside the pod, IPv4", "failed: an app's call to loopback, IPv4",
				"failed: the proxy's call from its passthrough source, IPv4"},
			says: []string{"our rule O4.uid has let it go, and another's rule sends it to 127.0.0.1:9999 (in chain OUTPUT of table ip nat)"}},
		{name: "another sends what the proxy sends to a port, legacy", in: append(sidecar(), by(anApp, at(hold, "[::]:9999"))),
			after: `ip6tables-legacy -w -t nat -A OUTPUT ! -o lo -p tcp -j REDIRECT --to-ports 9999`,
			broken: []string{"failed: the proxy, by its user, IPv6", "failed: the proxy, by its group, IPv6",
				"failed: the proxy, by its user, to port 443, IPv6", "failed: the proxy, by its group, to port 443, IPv6"},
			says: []string{"another's rule sends it to [::1]:9999 (in chain OUTPUT of legacy table ip6 nat)"}},
		{name: "another sends what the proxy sends to a port, behind ours in a chain that both use", in: sidecar(),
			backend: dataplane.BackendIPTablesNFT,
			after:   `iptables-nft -t nat -A OUTPUT ! -o lo -p tcp --dport 80 -j DNAT --to 127.0.0.1:9999`,
			broken:  []string{"failed: the proxy, by its user, IPv4", "failed: the proxy, by its group, IPv4"},
			says:    []string{"another's rule sends it to 127.0.0.1:9999 (in chain OUTPUT of table ip nat)"}},
		{name: "another sends one port to the pod's address", in: sidecar(),
			after: `nft 'table ip other { chain outgoing { type nat hook output priority -100; tcp dport 5432 dnat to 10.244.0.5:9999; }; }'`,
			broken: []string{"failed: the proxy, by its user, to what another's rule names, IPv4",
				"failed: the proxy, by its group, to what another's rule names, IPv4"},
			says: []string{"TCP to 192.0.2.1:5432 by user 1337", "sends it to 10.244.0.5:9999 (in chain outgoing of table ip other)"}},
		{name: "another sends a set of ports, of one address", in: sidecar(),
			config: func(c *intercept.Config) { c.Outbound.ExcludeCIDRs = cidrs("203.0.113.0/24") },
			after: `nft 'table ip other { chain ports { tcp dport { 6379, 8000-8010 } redirect to :9999; };
				chain outgoing { type nat hook output priority -100; ip daddr 203.0.113.7 jump ports; }; }'`,
			broken: []string{"failed: the proxy, by its user, to what another's rule names, IPv4",
				"failed: the proxy, by its group, to what another's rule names, IPv4",
				"failed: an app, to what another's rule names, IPv4"},
			says: []string{"TCP to 203.0.113.7:6379 by user 65533", "TCP to 203.0.113.7:8000 by user 1337", "our rule O10.cidrs has let it go"}},
		{name: "another sends ports of a list, legacy", in: sidecar(),
			config: func(c *intercept.Config) { c.Outbound.ExcludePorts = intercept.Ports{{First: 5400, Last: 5500}} },
			after:  `iptables-legacy -w -t nat -A OUTPUT -p tcp -m multiport --dports 5432,5433 -m owner ! --uid-owner 1337 ! --gid-owner 1337 -j REDIRECT --to-ports 9999`,
			broken: []string{"failed: an app, to what another's rule names, IPv4"},
			says:   []string{"TCP to 192.0.2.1:5432", "TCP to 192.0.2.1:5433", "our rule O5.ports has let it go", "legacy table ip nat"}},
		{name: "another sends what arrives to one port", in: append(sidecar(), by(anApp, at(hold, "0.0.0.0:9999"))),
			after: `iptables-nft -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 9999`,
			broken: []string{"failed: the tunnel port, IPv4", "failed: an excluded port, inbound, IPv4",
				"failed: what is not for the pod, IPv4"},
			says: []string{"our rule I4 has let it go, and another's rule sends it to 10.244.0.5:9999 (in chain PREROUTING of table ip nat)"}},
		{name: "another takes what ours capture to a port where nobody listens", in: sidecar(),
			after:  `nft 'table ip other { chain outgoing { type nat hook output priority -199; meta skuid != 1337 tcp dport 80 redirect to :9999; }; }'`,
			broken: []string{rules, app4, "failed: the proxy, by its group, IPv4"},
			says:   []string{"not captured: another's rule sends it to 127.0.0.1:9999 (in chain outgoing of table ip other)"}},
		{name: "another discards what the proxy sends before ours see it", in: sidecar(),
			after:  `nft 'table inet other { chain outgoing { type filter hook output priority -150; meta skuid 1337 tcp dport 80 drop; }; }'`,
			broken: []string{"failed: the proxy, by its user, "},
			says:   []string{"it has not come to our rules: another's rule (in chain outgoing of table inet other) discards it before"}},

		// What is behind the pod.
		{name: "nobody listens to what is behind the pod",
			in:     []process{by(theProxy, at(hold, "127.0.0.1:15001", "[::1]:15001"), inbound())},
			before: docker,
			config: func(c *intercept.Config) { c.VirtualInterfaces = []string{"docker0"} },
			broken: []string{"failed: a connection from behind docker0, "},
			says:   []string{"nobody listens at 172.17.0.1:15001"}},
	} {
		t.Run(p.name, p.run)
	}
}
