//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestOverview: a pod is broken in some way, and the first line names the cause.
func TestOverview(t *testing.T) {
	nft := []Backend{BackendNFT}
	xtables := []Backend{BackendIPTablesNFT, BackendIPTablesLegacy}
	all := append(xtables, BackendNFT)
	for _, tt := range []struct {
		name     string
		backends []Backend
		sidecar  bool
		script   string // what somebody does, with $B, the program of the backend
		verdict  Verdict
		says     []string // in the summary
	}{
		{"as it should be", all, true, "", Intercepting, []string{"rules by ", ", IPv4 and IPv6, applied ",
			" s ago by the test; unchanged"}},
		{"beside another", nft, true, "nft add table ip filter; nft add chain ip filter FORWARD " +
			"'{ type filter hook output priority 0; }'; nft add rule ip filter FORWARD tcp dport 9 reject", Intercepting,
			[]string{"; 1 chain of others that may act"}},
		{"nobody listens", all, false, "", Unserved, []string{"nobody listens at TCP port 15001", "start the sidecar"}},
		{"somebody else listens", nft, true, "", Intercepting,
			[]string{"; who listens at 15001 is user 0, not the proxy: mesh-init verify tries it"}}, // the test's process, which is root
		{"lo is down", nft, true, "ip link set lo down", Partial, []string{"lo is down", "ip link set lo up"}},
		{"a rule is taken out", all, true, "case $B in nft) nft flush chain inet mesh_intercept output;; " +
			"*) ip6tables-${B#iptables-} -t nat -F MESH_OUTPUT;; esac", Changed,
			[]string{"OUTPUT", "missing", "mesh-init apply --live puts it right"}},
		{"all rules are taken out", nft, true, "nft flush table inet mesh_intercept", Changed,
			[]string{"has no rules", "0 rules", "is not kept", "mesh-init apply with their flags puts it right"}},
		{"minimal, as it should be", xtables, true, "", Intercepting, []string{"is not kept"}},
		{"minimal, a jump is taken out", xtables, true, "iptables-${B#iptables-} -w -t nat -F OUTPUT", Changed,
			[]string{"IPv4, table nat, chain MESH_OUTPUT: no rule leads to it; mesh-init apply with their flags"}},
		{"every interface is excluded", nft, true, "", Partial, []string{"every interface is excluded (", "leave one out"}},
		{"its interface is down", nft, true, "ip link set eth0 down", Intercepting,
			[]string{"; no interface but lo is up"}},
		{"no route to others", nft, true, "ip -4 route flush table main", Intercepting,
			[]string{"; no route of IPv4 leads to others, as to 192.0.2.1: the kernel refuses"}},
		{"one family is left out", nft, true, "", Partial, []string{"mesh-init apply --live --families auto"}},
		{"asleep", nft, true, "nft add table inet mesh_intercept '{ flags dormant; }'", Asleep, []string{"dormant"}},
		{"another comes first", nft, true, "nft add table ip a; nft add chain ip a b " +
			"'{ type nat hook output priority -199; }'; nft add rule ip a b tcp dport 80 dnat to 10.0.0.9", Changed,
			[]string{"table ip a, chain b", "asks it first"}},
		{"another keeps packets from conntrack", nft, true, "nft add table ip a; nft add chain ip a b " +
			"'{ type filter hook output priority -310; }'; nft add rule ip a b tcp dport 80 notrack", Taken,
			[]string{"chain b of table ip a"}},
		{"another takes what ours let go, iptables-nft", []Backend{BackendNFT, BackendIPTablesNFT}, true, "iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9999",
			Taken, []string{"chain OUTPUT of table ip nat (nat at hook output, priority -100) comes after ours, and sends what ours let go",
				"mesh-init verify tries it", "; 1 chain of others that may act on what ours let go"}},
		{"another takes what ours let go, legacy", nft, true, "ip6tables-legacy -w -t nat -N X; " +
			"ip6tables-legacy -w -t nat -A X -p tcp --dport 443 -j DNAT --to [::1]:9999; ip6tables-legacy -w -t nat -A OUTPUT -j X",
			Taken, []string{"chain OUTPUT of legacy table ip6 nat"}},
		{"another takes what arrives and ours let go", nft, true, "nft 'table inet a { chain b { type nat hook prerouting priority -100; " +
			"meta l4proto tcp redirect to :9999; }; }'", Taken, []string{"chain b of table inet a"}},
		{"another has a resolver of its own", nft, true, "nft 'table ip a { chain b { type nat hook output priority -100; " +
			"ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:41053; }; }'", Intercepting,
			[]string{"; 1 chain of others that may act on what ours let go"}},
		{"another serves a port of the pod's at another", nft, true, "iptables-nft -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080",
			Intercepting, []string{"; 1 chain of others that may act on what ours let go"}},
		{"another's NAT for one address", nft, true, "iptables-legacy -w -t nat -A OUTPUT -d 203.0.113.7 -p tcp -j REDIRECT --to-ports 9999",
			Intercepting, []string{"; 1 chain of others that may act on what ours let go"}},
	} {
		for _, b := range tt.backends {
			t.Run(tt.name+", "+string(b), func(t *testing.T) {
				t.Parallel()
				lab := netlab.NewT(t, netlab.Options{})
				if tt.sidecar {
					var owner *intercept.Owner
					if tt.name == "somebody else listens" {
						owner = &intercept.Owner{UID: 7, GID: 7}
					}
					if _, err := lab.StartSidecar(netlab.SidecarConfig{Owner: owner}); err != nil {
						t.Fatal(err)
					}
				}
				ctx, pod := t.Context(), Pod{NetNS: lab.Pod.Path(), Backend: b, By: "the test"}
				if strings.HasPrefix(tt.name, "minimal") {
					pod.IPTables.Dialect = iptables.Minimal
				}
				c := intercept.Default()
				if tt.name == "one family is left out" {
					c.Families = intercept.FamiliesIPv4
				}
				if tt.name == "every interface is excluded" {
					c.ExcludeInterfaces = []string{"eth*"}
				}
				c.Outbound.ExcludePorts = ruleset.Ports{{First: 5432, Last: 5432}}
				if _, err := pod.Apply(ctx, c); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command("sh", "-ec", "B="+string(b)+"\n"+tt.script)
				if err := lab.Pod.Start(cmd, nil); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err != nil {
					t.Fatal(err)
				}
				o, err := Pod{NetNS: lab.Pod.Path()}.Overview(ctx)
				if err != nil || o.Verdict != tt.verdict || !strings.HasPrefix(o.Summary, string(tt.verdict)+": ") {
					t.Errorf("%v: %q", err, o.Summary)
				}
				for _, says := range tt.says {
					if !strings.Contains(strings.ToUpper(o.Summary), strings.ToUpper(says)) {
						t.Errorf("%q does not say %q", o.Summary, says)
					}
				}
				if tt.name == "as it should be" && strings.Contains(o.Summary, "not the proxy") {
					t.Errorf("the proxy is not known: %q", o.Summary)
				}
				if tt.sidecar && o.Verdict == Intercepting && o.InForce != nil && (len(o.Ports) != 2 || len(o.Ports[0].Listeners) == 0 ||
					o.Ports[0].Listeners[0].PID == 0) {
					t.Errorf("ports: %+v", o.Ports)
				}
			})
		}
	}
}

// TestAllCountTheSameRules: an apply says as many rules as an overview does, whatever a backend makes of them.
func TestAllCountTheSameRules(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	for _, b := range concrete() {
		for _, families := range []intercept.Families{intercept.FamiliesAuto, intercept.FamiliesIPv4, intercept.FamiliesIPv6} {
			for name, change := range map[string]func(*intercept.Config){
				"the default":  func(*intercept.Config) {},
				"lookups":      func(c *intercept.Config) { c.DNS.Mode = intercept.DNSAll },
				"other family": func(c *intercept.Config) { c.OtherFamily = intercept.TreatmentReject },
				"lists": func(c *intercept.Config) {
					c.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16")}
					c.VirtualInterfaces = []string{"virt0"}
				},
			} {
				c := intercept.Default()
				c.Families = families
				if change(&c); c.Validate() != nil { // both families are captured, and there is no other
					continue
				}
				pod := Pod{NetNS: lab.Pod.Path(), Backend: b}
				res, err := pod.Apply(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				o, err := pod.Overview(t.Context())
				if want := fmt.Sprintf("; %d rules by %s, ", res.Rules, b); err != nil || !strings.Contains(o.Summary, want) {
					t.Errorf("%s, %s, %s: %q, %v, want %q", b, families, name, o.Summary, err, want)
				}
			}
		}
	}
}

// TestOverviewOfOtherAddresses: who listens where nothing comes is seen, and serves nobody.
func TestOverviewOfOtherAddresses(t *testing.T) {
	for _, tt := range []struct {
		at      []string
		virtual bool   // a virtual machine sends to the outbound port, too
		want    string // what is said; nothing where all is served
	}{
		{at: []string{"127.0.0.1:15001", "[::1]:15001", ":15006"}},
		{at: []string{":15001", "10.244.0.5:15006", "[fd00:244::5]:15006"}},
		{[]string{":15001", "127.0.0.1:15006"}, false, "nobody listens at TCP port 15006, where rules send inbound connections; " +
			"none of it comes to 127.0.0.1:15006: let the proxy listen at 0.0.0.0 and ::"},
		{[]string{"10.244.0.5:15001", "[::1]:15001", ":15006"}, false, "nobody listens at TCP port 15001 over IPv4"},
		{[]string{"127.0.0.2:15001", ":15006"}, false, "none of it comes to 127.0.0.2:15001"},
		{[]string{"eth0@:15001", ":15006"}, false, "none of it comes to [::]:15001, bound to eth0: let the proxy listen at 0.0.0.0 and ::, by all interfaces"},
		{[]string{"lo@:15001", "eth0@:15006"}, false, ""},
		{[]string{":15001", "lo@:15006"}, false, "none of it comes to [::]:15006, bound to lo"},
		{[]string{"10.244.0.5:15001", "[fd00:244::5]:15001", ":15006"}, true, ""},
	} {
		lab := netlab.NewT(t, netlab.Options{})
		for _, at := range tt.at {
			err := lab.Pod.Do(func() error {
				device, address, bound := strings.Cut(at, "@")
				if !bound {
					device, address = "", at
				}
				how := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
					if bound {
						control := c.Control(func(fd uintptr) {
							err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
						})
						err = errors.Join(err, control)
					}
					return err
				}}
				l, err := how.Listen(t.Context(), "tcp", address)
				if err == nil {
					t.Cleanup(func() { _ = l.Close() })
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		pod, c := Pod{NetNS: lab.Pod.Path()}, intercept.Default()
		if tt.virtual {
			c.VirtualInterfaces = []string{"virt0"}
		}
		if _, err := pod.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		o, err := pod.Overview(t.Context())
		said := strings.Join(o.Causes, "\n")
		if err != nil || !strings.Contains(said, tt.want) || (o.Verdict == Unserved) != (tt.want != "") {
			t.Errorf("%v: %v, %s, want %q", tt.at, err, o.Summary, tt.want)
		}
		if len(o.Ports[0].Listeners) == 0 || len(o.Ports[1].Listeners) == 0 {
			t.Errorf("%v: not all are seen: %+v", tt.at, o.Ports)
		}
	}
}

// TestOverviewOfWhatIsLeft: routes without rules, as a killed apply leaves them, are named until remove has taken them out.
func TestOverviewOfWhatIsLeft(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	ctx, pod := t.Context(), Pod{NetNS: lab.Pod.Path()}
	const left = "of ours are left"
	if _, err := pod.Overview(ctx); !errors.Is(err, intercept.ErrNotIntercepted) || strings.Contains(err.Error(), left) {
		t.Errorf("before: %v", err)
	}
	if _, err := pod.Apply(ctx, intercept.Default()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nft", "delete", "table", "inet", "mesh_intercept")
	if err := lab.Pod.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := pod.Overview(ctx); !errors.Is(err, intercept.ErrNotIntercepted) || !strings.Contains(err.Error(), left) ||
		!strings.Contains(err.Error(), "mesh-init remove") {
		t.Errorf("without the rules: %v", err)
	}
	if removed, err := pod.Remove(ctx); !removed || err != nil {
		t.Errorf("remove: %v, %v", removed, err)
	}
	if _, err := pod.Overview(ctx); err == nil || strings.Contains(err.Error(), left) {
		t.Errorf("removed: %v", err)
	}
}

// TestOverviewOfOneFamily: a proxy that listens in one family serves no other.
func TestOverviewOfOneFamily(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	for _, port := range []string{"15001", "15006"} {
		err := lab.Pod.Do(func() error {
			l, err := net.Listen("tcp4", ":"+port)
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for families, want := range map[intercept.Families]string{
		intercept.FamiliesAuto: "unserved: nobody listens at TCP port 15001 over IPv6",
		intercept.FamiliesIPv4: "intercepting: ",
	} {
		c := intercept.Default()
		if c.Families = families; families == intercept.FamiliesIPv4 {
			c.OtherFamily = intercept.TreatmentReject
		}
		pod := Pod{NetNS: lab.Pod.Path()}
		if _, err := pod.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if o, err := pod.Overview(t.Context()); err != nil || !strings.HasPrefix(o.Summary, want) {
			t.Errorf("%s: %v: %q", families, err, o.Summary)
		}
	}
}

// TestOverviewCounts by what it means, whatever the backend.
func TestOverviewCounts(t *testing.T) {
	for _, b := range []Backend{BackendNFT, BackendIPTablesNFT, BackendIPTablesLegacy} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			c := intercept.Default()
			c.Outbound.ExcludePorts = ruleset.Ports{{First: 5432, Last: 5432}}
			pod := Pod{NetNS: lab.Pod.Path(), Backend: b}
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			app, proxy := &intercept.Owner{UID: 1000, GID: 1000}, &intercept.Owner{UID: 1337, GID: 1337}
			for _, f := range []netlab.Flow{
				{From: netlab.FromPod, Protocol: intercept.TCP, Owner: app, Dst: netip.MustParseAddrPort("192.0.2.7:80")},
				{From: netlab.FromPod, Protocol: intercept.TCP, Owner: app, Dst: netip.MustParseAddrPort("[2001:db8::7]:80")},
				{From: netlab.FromPod, Protocol: intercept.TCP, Owner: app, Dst: netip.MustParseAddrPort("192.0.2.7:5432")},
				{From: netlab.FromPod, Protocol: intercept.TCP, Owner: proxy, Dst: netip.MustParseAddrPort("192.0.2.7:443")},
				{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:8080")},
			} {
				f.Timeout = 10 * time.Second
				if _, err := lab.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			o, err := pod.Overview(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[intercept.Meaning]uint64{}
			for _, n := range o.Meanings {
				got[n.Meaning] = n.Packets
			}
			for m, want := range map[intercept.Meaning]uint64{intercept.MeaningOutbound: 2, intercept.MeaningExcludedPort: 1,
				intercept.MeaningProxy: 1, intercept.MeaningInbound: 1, intercept.MeaningPastProxy: 0} {
				if got[m] != want {
					t.Errorf("%s: %d, want %d", m, got[m], want)
				}
			}
		})
	}
}
