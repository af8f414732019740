//go:build linux

package pods

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// The host two routers away from the pod: the peer is the first, and the second is one hop behind it.
var (
	far4 = netip.MustParseAddr("10.99.0.9")
	far6 = netip.MustParseAddr("fd00:99::9")
)

// farther makes the second router and the host, and starts the processes there. The function that it returns fails the
// test if the second router has seen anything of verify's that is not for the host.
func (p pod) farther(t *testing.T, lab *netlab.Lab) (strangers func()) {
	t.Helper()
	var made []*netlab.Namespace
	for range 2 {
		n, err := netlab.NewNamespace()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		made = append(made, n)
	}
	router, host := made[0], made[1]
	run := func(in *netlab.Namespace, script string) string {
		t.Helper()
		var out []byte
		err := in.Do(func() (err error) {
			out, err = exec.Command("sh", "-euc", script).CombinedOutput()
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	run(lab.Peer, `
		echo 1 > /proc/sys/net/ipv4/conf/all/forwarding; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
		for i in all default; do echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad; done
		# The peer takes all else as its own.
		nft insert rule inet netlab every-port fib daddr type != local return
		ip link add east address 02:00:00:00:01:01 type veth peer name west address 02:00:00:00:01:02 netns `+router.Path()+`
		ip link set east up
		ip addr add 10.98.0.1/30 dev east; ip -6 addr add fd00:98::1/126 dev east nodad
		ip route add 10.99.0.0/24 via 10.98.0.2; ip -6 route add fd00:99::/64 via fd00:98::2
		# What the pod sends to others goes the same way as far as it may.
		ip route replace 192.0.2.0/24 via 10.98.0.2; ip -6 route replace 2001:db8::/32 via fd00:98::2`)
	run(router, `
		echo 1 > /proc/sys/net/ipv4/conf/all/forwarding; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		for i in all default west; do echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad; done
		ip link set lo up; ip link set west up
		ip addr add 10.98.0.2/30 dev west; ip -6 addr add fd00:98::2/126 dev west nodad
		ip link add east address 02:00:00:00:02:01 type veth peer name west address 02:00:00:00:02:02 netns `+host.Path()+`
		ip link set east up
		ip addr add 10.99.0.1/24 dev east; ip -6 addr add fd00:99::1/64 dev east nodad
		ip route add default via 10.98.0.1; ip -6 route add default via fd00:98::1
		nft 'table inet seen { chain incoming { type filter hook prerouting priority 0;
			ip daddr 10.99.0.9 return; ip6 daddr fd00:99::9 return
			meta l4proto { tcp, udp } th sport 61000-61999 counter; }; }'`)
	run(host, `
		for i in all default west; do echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad; done
		ip link set lo up; ip link set west up
		ip addr add 10.99.0.9/24 dev west; ip -6 addr add fd00:99::9/64 dev west nodad
		ip route add default via 10.99.0.1; ip -6 route add default via fd00:99::1`)
	for _, each := range p.far {
		each.start(t, host)
	}
	return func() {
		t.Helper()
		if seen := run(router, "nft list table inet seen"); !strings.Contains(seen, "counter packets 0 ") {
			t.Errorf("what is for others went past the first router: %s", seen)
		}
	}
}

// TestFar: the proxy, the resolver, and what is excluded are two routers away. Only what is for them goes that far.
func TestFar(t *testing.T) {
	targets := func(c *intercept.Config) {
		c.Inbound.Mode, c.DNS.Mode = intercept.InboundOff, intercept.DNSAll
		c.Outbound.Target = []netip.AddrPort{netip.AddrPortFrom(far4, 16000), netip.AddrPortFrom(far6, 16000)}
		c.DNS.Target = []netip.AddrPort{netip.AddrPortFrom(far4, 16053), netip.AddrPortFrom(far6, 16053)}
	}
	excluding := func(c *intercept.Config) {
		c.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.PrefixFrom(far4, 32), netip.PrefixFrom(far6, 128)}
	}
	root := intercept.Owner{}
	proxy := at(hold, "0.0.0.0:16000", "[::]:16000")
	server := resolver("", "10.99.0.9:16053", "[fd00:99::9]:16053")
	const app, overUDP, overTCP = "failed: an app's connection, ", "failed: an app's lookup over UDP, ",
		"failed: an app's lookup over TCP, "
	for _, p := range []pod{
		{name: "targets", config: targets, far: []process{by(root, proxy, server)}},
		{name: "targets from behind the pod", config: func(c *intercept.Config) {
			targets(c)
			c.VirtualInterfaces = []string{"docker0"}
		}, before: docker + "; echo 1 > /proc/sys/net/ipv4/conf/all/forwarding; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding;" +
			"nft 'table inet docker { chain post { type nat hook postrouting priority 100; oifname eth0 masquerade; }; }'",
			far: []process{by(root, proxy, server)}},
		{name: "what is excluded", config: excluding, in: sidecar(), far: []process{by(root, at(hold, "[::]:80"))}},
		{name: "what is excluded, and nobody there", config: excluding, in: sidecar(), far: []process{}},
		{name: "nobody at the targets", config: targets, far: []process{}, broken: []string{app, overUDP, overTCP},
			says: []string{"10.99.0.9:16000", "[fd00:99::9]:16053", "and refused"}},
		{name: "the proxy in IPv4 alone", config: targets, far: []process{by(root, at(hold, "0.0.0.0:16000"), server)},
			broken: []string{app + "IPv6"}, says: []string{"[fd00:99::9]:16000", "and refused"}},
		{name: "the resolver over UDP alone", config: targets, far: []process{by(root, proxy, []listener{
			{Protocol: "udp", Addr: "10.99.0.9:16053", Do: answer}, {Protocol: "udp", Addr: "[fd00:99::9]:16053", Do: answer}})},
			broken: []string{overTCP}},
		{name: "no rules", config: targets, unapplied: true, far: []process{by(root, proxy, server)},
			broken: []string{"failed: rules: "}, says: []string{"not intercepted"}},
		{name: "the rules of another configuration", config: targets, far: []process{by(root, proxy, server)},
			applied: func(c *intercept.Config) {
				c.Outbound.Target, c.DNS.Target = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.77:80")},
					[]netip.AddrPort{netip.MustParseAddrPort("192.0.2.77:53")}
				c.Families = intercept.FamiliesIPv4
			},
			broken: []string{"failed: "}, says: []string{"192.0.2.77:80", "192.0.2.77:53"}},
	} {
		t.Run(p.name, p.run)
	}
}
