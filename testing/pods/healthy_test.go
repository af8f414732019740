//go:build linux

package pods

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

func with(all []listener, change func(*listener)) []listener {
	for i := range all {
		change(&all[i])
	}
	return all
}

// docker is what there is of Docker in a pod, and a container.
const docker = `
	ip link add docker0 type bridge; ip link set docker0 up
	ip link add c1 type veth peer name c1-eth0; ip link set c1 master docker0 up; ip link set c1-eth0 up
	ip addr add 172.17.0.1/16 dev docker0; ip addr add fd00:172::1/64 dev docker0 nodad`

// onLo has lo alone have the pod's IPv4 address, and routes that name it.
const onLo = `
	ip -4 route flush dev eth0; ip -4 addr flush dev eth0
	ip addr add 10.244.0.5/32 dev lo; ip route add 10.244.0.1 dev eth0 src 10.244.0.5
	ip route add default via 10.244.0.1 src 10.244.0.5`

// falters spoils the first acknowledgement of each connection to the proxy: the listening socket answers it itself.
const falters = `
	nft 'table inet falters {
		set seen { type inet_service; size 65535; flags dynamic; }
		chain spoil {
			type filter hook output priority 300;
			tcp dport 15001 tcp flags & (syn|ack) == ack tcp sport != @seen add @seen { tcp sport } tcp sequence set 1
		}
	}'`

// TestHealthy: pods in which everything works, each in a way of its own. verify says ok of all.
func TestHealthy(t *testing.T) {
	noIPv6 := "ip -6 addr flush dev eth0; ip -6 route flush dev eth0"
	noIPv4 := "ip -4 route flush dev eth0; ip -4 addr flush dev eth0"
	only4 := []process{by(theProxy, at(hold, "0.0.0.0:15001", "0.0.0.0:15006"), resolver("", "127.0.0.1:15053"))}
	only6 := []process{by(theProxy, at(hold, "[::]:15001", "[::]:15006"), resolver("", "[::1]:15053"))}
	tproxy := func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy }
	transparent := []process{by(theProxy, outbound(), with(inbound(), func(l *listener) { l.Transparent = true }))}
	excluding := func(c *intercept.Config) {
		c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432), {First: 7000, Last: 7100}}
		c.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.MustParsePrefix("10.96.0.0/12"),
			netip.MustParsePrefix("fd00:96::/64")}
		c.Outbound.ExcludeUIDs = intercept.IDs{{First: 3000, Last: 3010}}
		c.Outbound.ExcludeGIDs = intercept.IDs{intercept.ID(4000)}
		c.Outbound.Exclude = []intercept.Exclusion{
			{Protocol: intercept.UDP, Ports: intercept.Ports{intercept.Port(123)}},
			{CIDRs: intercept.CIDRs{netip.MustParsePrefix("192.0.2.7/32")}, Ports: intercept.Ports{intercept.Port(443)}},
			{UIDs: intercept.IDs{intercept.ID(1234)}},
		}
		c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, intercept.Port(9999))
		c.Inbound.ExcludeSources = intercept.CIDRs{netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("fd07::/64")}
		c.Inbound.Exclude = []intercept.InboundExclusion{
			{Sources: intercept.CIDRs{netip.MustParsePrefix("10.8.0.0/24")}, Ports: intercept.Ports{intercept.Port(22)}}}
	}
	for _, p := range []pod{
		{name: "a sidecar", in: sidecar()},
		{name: "a sidecar with a resolver", in: withDNS(), config: allDNS},
		{name: "iptables-nft", in: withDNS(), config: allDNS, backend: dataplane.BackendIPTablesNFT},
		{name: "iptables-legacy", in: withDNS(), config: allDNS, backend: dataplane.BackendIPTablesLegacy},
		{name: "the minimal dialect", in: sidecar(), backend: dataplane.BackendIPTablesNFT, minimal: true},
		{name: "the minimal dialect, legacy", in: sidecar(), backend: dataplane.BackendIPTablesLegacy, minimal: true},
		{name: "no IPv6 address", in: only4, config: allDNS, before: noIPv6},
		{name: "IPv6 off", in: only4, config: allDNS,
			before: "cd /proc/sys/net/ipv6/conf; echo 1 > all/disable_ipv6; echo 1 > lo/disable_ipv6"},
		{name: "no IPv4 address", in: only6, config: allDNS, before: noIPv4},
		{name: "link-local IPv6 alone", in: only4, config: allDNS,
			before: noIPv6 + "; ip -6 addr add fe80::5/64 dev eth0 nodad"},
		{name: "no default route", in: sidecar(), notes: []string{"IPv4: no default route", "IPv6: no default route"}, before: `
			ip -4 route del default; ip -6 route del default
			ip -4 route add 10.96.0.0/12 via 10.244.0.1; ip -6 route add fd00:96::/64 via fd00:244::1`},
		{name: "no default route in IPv6", in: withDNS(), config: allDNS, before: "ip -6 route del default"},
		{name: "an excluded network out of reach", in: sidecar(), config: excluding,
			before: "ip route add unreachable 10.96.0.0/12; ip -6 route add unreachable fd00:96::/64"},
		{name: "sockets of both families", config: allDNS, in: []process{by(theProxy,
			with(at(hold, "[::]:15001", "[::]:15006"), func(l *listener) { l.Both = true }), dns())}},
		{name: "mapped addresses", in: []process{by(theProxy, at(hold, "[::1]:15001", "[::]:15006"),
			with(at(hold, "[::ffff:127.0.0.1]:15001", "[::ffff:0.0.0.0]:15006"), func(l *listener) { l.Both = true }))}},
		{name: "inbound at the pod's addresses", in: []process{by(theProxy, outbound(),
			at(hold, "10.244.0.5:15006", "[fd00:244::5]:15006"))}},
		{name: "the proxy by its group", in: []process{by(intercept.Owner{UID: 4242, GID: 1337}, outbound(), inbound(),
			dns())},
			config: allDNS},
		{name: "the proxy by its mark", in: []process{by(intercept.Owner{UID: 4242, GID: 4242},
			with(slices.Concat(outbound(), inbound(), dns()), func(l *listener) { l.Mark = 0x77 }))},
			config: func(c *intercept.Config) {
				c.Proxy = intercept.Proxy{Mark: intercept.Mark{Value: 0x77, Mask: 0xffffffff}}
				c.DNS.Mode = intercept.DNSAll
			}},
		{name: "a proxy that was root when it began to listen", in: []process{{Owner: intercept.Owner{},
			Listen: slices.Concat(outbound(), inbound()), Drop: theProxy}}},
		{name: "a proxy that was root when it began to listen, and whose handshakes falter", after: falters,
			in: []process{{Owner: intercept.Owner{}, Listen: slices.Concat(outbound(), inbound()), Drop: theProxy}}},
		{name: "a proxy that is told of connections once there is data", in: []process{
			by(theProxy, with(slices.Concat(outbound(), inbound()), func(l *listener) { l.Defer = true }))}},
		{name: "a proxy that closes at once", in: []process{by(theProxy, at(hangUp, "0.0.0.0:15001", "[::]:15001",
			"0.0.0.0:15006", "[::]:15006"))}},
		{name: "a proxy that speaks first", in: []process{by(theProxy, at(greet, "0.0.0.0:15001", "[::]:15001",
			"0.0.0.0:15006", "[::]:15006"))}},
		{name: "a proxy that goes on", in: []process{by(theProxy, at(relay, "0.0.0.0:15001", "[::]:15001",
			"0.0.0.0:15006", "[::]:15006"))}},
		{name: "several processes on a port", config: allDNS, in: []process{
			by(theProxy, with(slices.Concat(outbound(), inbound(), dns()), func(l *listener) { l.ReusePort = true })),
			by(theProxy, with(slices.Concat(outbound(), inbound(), dns()), func(l *listener) { l.ReusePort = true }))}},
		{name: "a range of ports", config: func(c *intercept.Config) {
			c.Outbound.Port = intercept.PortRange{First: 15001,
				Last: 15004}
		},
			in: []process{by(theProxy, outbound(), inbound(), at(hold, "0.0.0.0:15002", "0.0.0.0:15003", "0.0.0.0:15004",
				"[::]:15002", "[::]:15003", "[::]:15004"))}},
		{name: "tproxy", in: transparent, config: tproxy},
		{name: "the IPv6 address on lo alone", in: sidecar(), before: `
			ip -6 route flush dev eth0; ip -6 addr flush dev eth0 scope global; ip -6 addr add fe80::5/64 dev eth0 nodad
			ip -6 addr add fd00:244::5/128 dev lo; ip -6 route add fd00:244::1 dev eth0
			ip -6 route add default via fd00:244::1`},
		{name: "tproxy, the address on lo alone", in: transparent, config: tproxy, before: onLo},
		{name: "tproxy, iptables-legacy", in: transparent, config: tproxy, backend: dataplane.BackendIPTablesLegacy},
		{name: "backstop syn", in: sidecar(), config: func(c *intercept.Config) { c.Backstop = intercept.BackstopSyn }},
		{name: "backstop off", in: sidecar(), config: func(c *intercept.Config) { c.Backstop = intercept.BackstopOff }},
		{name: "exclusions of every kind", in: sidecar(), config: excluding},
		{name: "exclusions of every kind, iptables-legacy", in: sidecar(), config: excluding,
			backend: dataplane.BackendIPTablesLegacy},
		{name: "one network included", in: sidecar(), config: func(c *intercept.Config) {
			c.Outbound.IncludeCIDRs = intercept.CIDRs{netip.MustParsePrefix("10.9.0.0/16")}
		}},
		{name: "one user included", in: sidecar(), config: func(c *intercept.Config) {
			c.Outbound.IncludeUIDs = intercept.IDs{intercept.ID(1000)}
		}},
		{name: "one port included, inbound another", in: sidecar(), config: func(c *intercept.Config) {
			c.Outbound.IncludeCIDRs, c.Outbound.IncludePorts = nil, intercept.Ports{intercept.Port(3306)}
			c.Inbound.IncludePorts = intercept.Ports{intercept.Port(8443)}
		}},
		{name: "inbound off", in: []process{by(theProxy, outbound())},
			config: func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundOff }},
		{name: "servers of resolv.conf", in: withDNS(), config: func(c *intercept.Config) {
			c.DNS.Mode = intercept.DNSResolvConf
			c.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::a")}
		}},
		{name: "a resolver that answers SERVFAIL", config: allDNS, in: []process{by(theProxy, outbound(), inbound(),
			with(dns(), func(l *listener) { l.Fails = true }))},
			notes: []string{"an app's lookup over UDP, IPv4: the resolver answers SERVFAIL",
				"an app's lookup over TCP, IPv6: the resolver answers SERVFAIL"}},
		{name: "a server that is link-local", in: withDNS(), before: "ip -6 addr add fe80::5/64 dev eth0 nodad",
			config: func(c *intercept.Config) {
				c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, []netip.Addr{netip.MustParseAddr("fe80::1")}
			}},
		{name: "targets outside the pod", config: func(c *intercept.Config) {
			c.Inbound.Mode, c.DNS.Mode = intercept.InboundOff, intercept.DNSAll
			c.Outbound.Target = []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:16000"),
				netip.MustParseAddrPort("[fd00:244::1]:16000")}
			c.DNS.Target = []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:16053"),
				netip.MustParseAddrPort("[fd00:244::1]:16053")}
		}},
		{name: "UDP rejected", in: sidecar(), config: func(c *intercept.Config) {
			c.Outbound.UDP, c.Outbound.QUIC = intercept.TreatmentReject, intercept.TreatmentReject
		}},
		{name: "the other family rejected", in: only4, config: func(c *intercept.Config) {
			c.Families, c.OtherFamily, c.DNS.Mode = intercept.FamiliesIPv4, intercept.TreatmentReject, intercept.DNSAll
		}},
		{name: "invalid packets dropped", in: sidecar(), config: func(c *intercept.Config) { c.Inbound.DropInvalid = true }},
		{name: "an excluded interface", in: sidecar(), lab: netlab.Options{SecondInterface: true},
			config: func(c *intercept.Config) { c.ExcludeInterfaces = []string{"net*"} }},
		{name: "a virtual machine", in: []process{by(theProxy, outbound(), inbound(),
			dns(), resolver("", "10.246.0.1:15053", "[fd00:246::1]:15053"))}, lab: netlab.Options{VM: true},
			config: func(c *intercept.Config) { c.VirtualInterfaces, c.DNS.Mode = []string{"br-vm"}, intercept.DNSAll }},
		{name: "containers in the pod", in: []process{by(theProxy, outbound(), inbound(), dns(),
			resolver("", "172.17.0.1:15053", "[fd00:172::1]:15053"))}, before: docker,
			config: func(c *intercept.Config) { c.VirtualInterfaces, c.DNS.Mode = []string{"docker0"}, intercept.DNSAll }},
		{name: "virtual interfaces to come", in: sidecar(),
			config: func(c *intercept.Config) { c.VirtualInterfaces = []string{"br-*"} }},
		{name: "Docker's NAT for its own resolver", in: []process{by(theProxy, outbound(), inbound(),
			resolver("127.0.0.11:53", "127.0.0.1:15053", "[::1]:15053")),
			by(intercept.Owner{}, resolver("", "127.0.0.11:41053"))},
			config: func(c *intercept.Config) {
				c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, []netip.Addr{netip.MustParseAddr("10.96.0.10")}
			}, after: `nft 'table ip nat { chain outgoing { type nat hook output priority -100; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:41053; }; }'`},
		{name: "another's NAT for the proxy's port", in: sidecar(),
			notes: []string{"chain outgoing of table ip other translates some of what our rules let go"},
			after: `nft 'table ip other { chain outgoing { type nat hook output priority -100; tcp dport 80 dnat to 10.244.0.1:8080; }; }'`},
		{name: "a port of the pod's that another sends to another of it", in: append(sidecar(), by(anApp, at(hold, "0.0.0.0:9999"))),
			config: func(c *intercept.Config) {
				c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, intercept.Port(8080))
			}, after: `iptables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 9999`},
		{name: "another's rules for lo, for what leaves, and for interfaces that are not there", in: sidecar(),
			after: `nft 'table inet other { chain incoming { type filter hook input priority 0; iifname lo tcp dport 1 drop; iifname != lo tcp dport 2 drop; iifname "tun*" drop; }
				chain outgoing { type filter hook output priority 0; oifname eth0 tcp dport 1 drop; }; }'`},
		{name: "a strict reverse path filter", in: sidecar(),
			before: "cd /proc/sys/net/ipv4/conf; for i in all eth0 default; do echo 1 > $i/rp_filter; done"},
	} {
		t.Run(p.name, p.run)
	}
}
