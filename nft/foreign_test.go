//go:build linux

package nft

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/beside"
)

// TestForeignRules: what others' rules do is read from their expressions, and from what iptables-nft makes of its
// targets.
func TestForeignRules(t *testing.T) {
	ns, b := namespace(t)
	run(t, ns, `table inet theirs {
	map verdicts { type inet_service : verdict; }
	chain c { type filter hook prerouting priority -150; policy drop;
		tcp dport 1 counter accept
		tcp dport 2 notrack
		tcp dport 3 meta nfproto ipv4 tproxy ip to :15006 meta mark set 1
		tcp dport 5 reject
		tcp dport 6 drop comment "cilium: six"
		tcp dport vmap @verdicts
		tcp dport 8 ip daddr set 192.0.2.1
		tcp dport 9 ct zone set 2
		tcp dport 10 jump d
	}
	chain d { ct mark set 1; }
}
table ip6 asleep { flags dormant; chain n { type nat hook output priority -100; redirect; }; }
`, "nft", "-f", "-")
	run(t, ns, `*nat
:FOO - [0:0]
-A OUTPUT -p tcp -j DNAT --to-destination 192.0.2.1
-A OUTPUT -p tcp -m comment --comment "proxy-init/x" -j REDIRECT --to-ports 1
-A OUTPUT -j FOO
-A FOO -j LOG
-A FOO -j MARK --set-mark 1
-A FOO -j ACCEPT
-A FOO -j RETURN
-A POSTROUTING -j MASQUERADE
COMMIT
`, "iptables-nft-restore", "--noflush")
	chains, err := b.ForeignChains()
	if err == nil {
		err = b.ForeignRules(chains)
	}
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range chains {
		line := fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name)
		if c.Base {
			line += fmt.Sprintf(" %s %q %d %t", c.Type, c.Hook, c.Priority, c.Drops)
		}
		if c.Dormant {
			line += " dormant"
		}
		if want, known := map[string]string{"c": "[ACCEPT MARK]", "d": "[CONNMARK]", "FOO": "[LOG MARK ACCEPT]"}[c.Name]; known &&
			fmt.Sprint(c.Else) != want {
			t.Errorf("chain %s does %v, want %s", c.Name, c.Else, want)
		}
		for _, r := range c.Rules {
			line += fmt.Sprintf(" %v%v", r.Acts, r.To)
			if r.Mapped {
				line += "mapped"
			}
			if r.Comment != "" {
				line += fmt.Sprintf("%q", r.Comment)
			}
			if r.Handle == 0 {
				t.Errorf("a rule of %s has no handle", c.Name)
			}
		}
		got = append(got, strings.TrimSpace(line))
	}
	want := []string{
		"inet theirs",
		`inet theirs c filter "prerouting" -150 true [notrack][] [tproxy][] [discard][] [discard][]"cilium: six" ` +
			`[][]mapped [rewrite][] [zone][] [][d]`,
		"inet theirs d",
		"ip6 asleep  dormant", `ip6 asleep n nat "output" -100 false dormant [redirect][]`,
		"ip nat", "ip nat FOO", `ip nat OUTPUT nat "output" -100 false [dnat][] [redirect][]"proxy-init/x" [][FOO]`,
		`ip nat POSTROUTING nat "" 100 false`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if all := beside.Survey(chains, beside.Ours{NAT: -199}); len(all) != 3 {
		t.Errorf("%+v", all)
	}
}

// TestForeignDevices: chains of network devices are listed with the hooks that they have, the first and the last that a
// packet meets.
func TestForeignDevices(t *testing.T) {
	ns, b := namespace(t)
	run(t, ns, "", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	run(t, ns, `table netdev theirs {
	chain incoming { type filter hook ingress device eth0 priority 10;
		ip daddr 192.0.2.1 fwd to "eth1"
	}
	chain outgoing { type filter hook egress device eth0 priority -500;
		tcp dport 81 drop
	}
}
table inet others {
	chain incoming { type filter hook ingress device eth0 priority -500;
		ip daddr set 192.0.2.1
	}
	chain output { type filter hook output priority 0;
		tcp dport 82 drop
	}
}
`, "nft", "-f", "-")
	chains, err := b.ForeignChains()
	if err == nil {
		err = b.ForeignRules(chains)
	}
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range beside.Survey(chains, beside.Ours{NAT: -199}) {
		got = append(got, fmt.Sprintf("%s %s %v %s: %s", f.Family, f.Hook, f.Acts, f.Asked, f.Effect))
	}
	want := []string{
		"inet ingress [rewrite] before: takes",
		"netdev ingress [fwd] before: takes",
		"inet output [discard] after: may discard",
		"netdev egress [discard] after: may discard",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
