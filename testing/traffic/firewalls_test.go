//go:build linux

package traffic

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// ufwRules let in port 8080 and what belongs to connections, as ufw(8) writes them.
const ufwRules = `*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p ipv6-icmp -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT
COMMIT
`

// fail2banRules refuse clients of port 8080 that have misbehaved.
const fail2banRules = `*filter
:f2b-http - [0:0]
-I INPUT -p tcp -m multiport --dports 80,8080 -j f2b-http
-A f2b-http -s CLIENT -j REJECT
-A f2b-http -j RETURN
COMMIT
`

// calicoRules are those of a host endpoint that allows everything: they mark, and accept what is marked.
const calicoRules = `*raw
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x0/0xf0000
COMMIT
*mangle
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*filter
:cali-INPUT - [0:0]
:cali-OUTPUT - [0:0]
:cali-tw - [0:0]
-A INPUT -j cali-INPUT
-A OUTPUT -j cali-OUTPUT
-A cali-INPUT -j MARK --set-xmark 0x0/0xf0000
-A cali-INPUT -j cali-tw
-A cali-OUTPUT -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-tw -j MARK --set-xmark 0x10000/0x10000
-A cali-tw -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
`

// TestFirewalls: what becomes of captured connections beside firewalls and others that look at packets, and what is
// said of them.
func TestFirewalls(t *testing.T) {
	redirectedOut, redirectedIn := intercept.RedirectedTo(15001), intercept.RedirectedTo(15006)
	const marks = "table FAMILY marks { chain outgoing { type route hook output priority -150; meta mark set 0x1; }; }\n"
	for _, tc := range []struct {
		neighbour
		ip      string // arguments of ip(8), of each family
		out, in intercept.Fate
		says    beside.Effect // what one of its chains is said to do; empty: nothing but what is harmless
	}{
		// It looks at the port to which the connection was redirected, and that is not let in.
		{neighbour: neighbour{"ufw", "", xtNFTProgram, ufwRules}, out: redirectedOut,
			in: intercept.Fate{Action: intercept.Dropped}, says: beside.MayDiscard},
		{neighbour: neighbour{"ufw, legacy", "", legacyProgram, ufwRules}, out: redirectedOut,
			in: intercept.Fate{Action: intercept.Dropped}, says: beside.MayDiscard},
		{neighbour: neighbour{"ufw that lets the proxy in", "", xtNFTProgram, strings.ReplaceAll(ufwRules, "8080", "15006")},
			out: redirectedOut, in: redirectedIn, says: beside.MayDiscard},
		// So it does not refuse by the port that the client called.
		{neighbour: neighbour{"fail2ban", "", xtNFTProgram, fail2banRules}, out: redirectedOut, in: redirectedIn,
			says: beside.MayDiscard},
		{neighbour: neighbour{"fail2ban by the proxy's port", "", xtNFTProgram,
			strings.ReplaceAll(fail2banRules, "80,8080", "15006")}, out: redirectedOut,
			in: intercept.Fate{Action: intercept.Rejected}, says: beside.MayDiscard},
		{neighbour: neighbour{"Calico", "", xtNFTProgram, calicoRules}, out: redirectedOut, in: redirectedIn},
		{neighbour: neighbour{"Calico, legacy", "", legacyProgram, calicoRules}, out: redirectedOut, in: redirectedIn},
		// A chain of type route routes again at once, before NAT is asked.
		{neighbour: neighbour{"a mark that leads nowhere", "", nftProgram, marks}, ip: "rule add fwmark 1 unreachable",
			out: intercept.Fate{Action: intercept.Dropped}, in: intercept.Fate{Action: intercept.Dropped}},
		{neighbour: neighbour{"notrack for other ports", "", nftProgram, `table FAMILY plain {
			chain incoming { type filter hook prerouting priority -300; tcp dport 9100 notrack; }
			chain outgoing { type filter hook output priority -300; tcp sport 9100 notrack; }
		}`}, out: redirectedOut, in: redirectedIn, says: beside.Untracks},
	} {
		t.Run(tc.name, func(t *testing.T) {
			each(t, func(t *testing.T, w way) {
				t.Parallel()
				lab := netlab.NewT(t, netlab.Options{})
				if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
					t.Fatal(err)
				}
				pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.Backend(w)}
				clients := []string{"203.0.113.66", "2001:db8::66"}
				for i, client := range clients {
					n := tc.neighbour
					n.rules = strings.ReplaceAll(n.rules, "CLIENT", client)
					n.writeOf(t, lab, i)
					if tc.ip != "" {
						runIn(t, lab.Pod, "ip", "", append([]string{[]string{"-4", "-6"}[i]}, strings.Fields(tc.ip)...)...)
					}
				}
				applied, err := pod.Apply(t.Context(), intercept.Default())
				if err != nil {
					t.Fatal(err)
				}
				for i, client := range clients {
					expectIs(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: outside[i], Owner: app}, tc.out)
					expectIs(t, lab, netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: pods[i],
						Src: netip.AddrPortFrom(netip.MustParseAddr(client), 0)}, tc.in)
				}
				said := slices.ContainsFunc(applied.Foreign.Chains, func(f beside.Foreign) bool { return f.Effect == tc.says })
				other := slices.ContainsFunc(applied.Foreign.Chains, func(f beside.Foreign) bool {
					return f.Effect != tc.says && f.Effect != beside.Harmless
				})
				if tc.says != "" && !said || other {
					t.Errorf("listed: %+v", applied.Foreign)
				}
				if diffs, err := pod.Check(t.Context(), intercept.Default()); err != nil || len(diffs) > 0 {
					t.Errorf("Check: %v, %v", diffs, err)
				}
			})
		})
	}
}

// expectIs sends a flow and says what became of it instead.
func expectIs(t *testing.T, lab *netlab.Lab, f netlab.Flow, want intercept.Fate) {
	t.Helper()
	if got, err := lab.Send(f); err != nil || !got.Is(want) {
		t.Errorf("%s: %s, %v; want %s", f, got, err, want)
	}
}
