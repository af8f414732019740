//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// Others have rules in the pod: a nested Docker, a kube-proxy, Cilium, a firewall, another mesh. They come before ours
// or start after them.

// A neighbour is what somebody else writes, by a program that reads rules: to SERVICE, port 80, and to the pod's port
// 8080 somebody else answers, at BACKEND and at POD, port 9999. V4 stands before lines that are for IPv4 alone.
type neighbour struct {
	name, owner, program, rules string
}

const (
	nftProgram    = "nft"
	xtNFTProgram  = "iptables-nft"
	legacyProgram = "iptables-legacy"
)

const dockerRules = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d LOOPBACK -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -d SERVICE -p tcp -m tcp --dport 80 -j DNAT --to-destination BACKEND:8080
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination POD:9999
COMMIT
`

const kubeProxyRules = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SVC-X - [0:0]
-I PREROUTING 1 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT 1 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d SERVICE -p tcp -m tcp --dport 80 -j KUBE-SVC-X
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 8080 -j DNAT --to-destination POD:9999
-A KUBE-SVC-X -p tcp -j DNAT --to-destination BACKEND:8080
COMMIT
`

const kubeProxyNFT = `table FAMILY kube-proxy {
	map service-ips { type ADDRTYPE . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	chain nat-prerouting { type nat hook prerouting priority -100; policy accept; jump services; }
	chain nat-output { type nat hook output priority -100; policy accept; jump services; }
	chain services {
		FAMILY daddr . meta l4proto . th dport vmap @service-ips
		fib daddr type local meta l4proto . th dport vmap @service-nodeports
	}
	chain service-x { meta l4proto tcp dnat to BACKEND:8080; }
	chain external-y { meta l4proto tcp dnat to POD:9999; }
}
add element FAMILY kube-proxy service-ips { SERVICE . tcp . 80 : goto service-x }
add element FAMILY kube-proxy service-nodeports { tcp . 8080 : goto external-y }
`

// natChains is what programs write that use nftables by themselves.
func natChains(table, prefix string, priority int) string {
	return fmt.Sprintf(`table FAMILY %[1]s {
	chain %[2]sprerouting { type nat hook prerouting priority %[3]d; fib daddr type local tcp dport 8080 dnat to POD:9999; }
	chain %[2]soutput { type nat hook output priority %[3]d; FAMILY daddr SERVICE tcp dport 80 dnat to BACKEND:8080; }
}
`, table, prefix, priority)
}

// xtables is what programs write that use iptables.
func xtables(pre, out string) string {
	return fmt.Sprintf(`*nat
:%[1]s - [0:0]
:%[2]s - [0:0]
-I PREROUTING 1 -j %[1]s
-I OUTPUT 1 -j %[2]s
-A %[1]s -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 8080 -j DNAT --to-destination POD:9999
-A %[2]s -d SERVICE -p tcp -m tcp --dport 80 -j DNAT --to-destination BACKEND:8080
COMMIT
`, pre, out)
}

func neighbours() []neighbour {
	return []neighbour{
		{"Docker, iptables-nft", "Docker", xtNFTProgram, dockerRules},
		{"Docker, iptables-legacy", "Docker", legacyProgram, dockerRules},
		{"Docker, nftables", "Docker", nftProgram, natChains("docker-bridges", "nat-", -100)},
		{"kube-proxy, iptables-nft", "kube-proxy", xtNFTProgram, kubeProxyRules},
		{"kube-proxy, iptables-legacy", "kube-proxy", legacyProgram, kubeProxyRules},
		{"kube-proxy, nftables", "kube-proxy", nftProgram, kubeProxyNFT},
		{"Cilium, iptables-nft", "Cilium", xtNFTProgram, xtables("CILIUM_PRE_nat", "CILIUM_OUTPUT_nat")},
		{"Calico, iptables-nft", "Calico", xtNFTProgram, xtables("cali-PREROUTING", "cali-OUTPUT")},
		{"firewalld", "firewalld", nftProgram, natChains("firewalld", "nat_", -90)},
		{"systemd-nspawn", "systemd", nftProgram, natChains("io.systemd.nat", "", -99)},
		{"Podman", "Podman", nftProgram, natChains("netavark", "", -100)},
		{"somebody at -150", "", nftProgram, natChains("somebody", "", -150)},
	}
}

// service is what somebody else translates to answers.
var (
	service = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.96:80"), netip.MustParseAddrPort("[2001:db8::96]:80")}
	answers = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.97:8080"),
		netip.MustParseAddrPort("[2001:db8::97]:8080")}
)

// write writes a neighbour's rules into the pod, for both families.
func (n neighbour) write(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	for i := range pods {
		n.writeOf(t, lab, i)
	}
}

// writeOf writes those of one family: 0 is IPv4, 1 is IPv6.
func (n neighbour) writeOf(t *testing.T, lab *netlab.Lab, i int) {
	t.Helper()
	pod, six := pods[i], i == 1
	text := func(a netip.Addr) string {
		if six {
			return "[" + a.String() + "]"
		}
		return a.String()
	}
	word := func(four, other string) string {
		if six {
			return other
		}
		return four
	}
	rules := strings.NewReplacer("POD", text(pod.Addr()), "BACKEND", text(answers[i].Addr()),
		"SERVICE", service[i].Addr().String(), "LOOPBACK", word("127.0.0.0/8", "::1/128"),
		"FAMILY", word("ip", "ip6"), "ADDRTYPE", word("ipv4_addr", "ipv6_addr")).Replace(n.rules)
	if n.program == nftProgram {
		inPodRun(t, lab, rules, "nft", "-f", "-")
		return
	}
	name := strings.Replace(n.program, "ip", word("ip", "ip6"), 1) + "-restore"
	netlab.RequireProgram(t, name)
	inPodRun(t, lab, rules, name, "--noflush", "-w")
}

func inPodRun(t *testing.T, lab *netlab.Lab, input, name string, args ...string) string {
	t.Helper()
	netlab.RequireProgram(t, name)
	cmd := exec.Command(name, args...)
	cmd.Env = append(cmd.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock"))
	cmd.Stdin = strings.NewReader(input)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := lab.Pod.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s\ninput:\n%s", cmd, err, out.String(), input)
	}
	return out.String()
}

// TestNeighbours: beside whom, and whoever started first, ours capture what they should with nftables. With iptables
// they do, or somebody is said to take it. What ours let go the neighbour translates.
func TestNeighbours(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, n := range neighbours() {
			for _, order := range []string{"before", "after"} {
				t.Run(n.name+" "+order, func(t *testing.T) {
					t.Parallel()
					testNeighbour(t, w, n, order == "before")
				})
			}
		}
	})
}

func testNeighbour(t *testing.T, w way, n neighbour, before bool) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	c := intercept.Default()
	c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(2000)}
	pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.Backend(w)}
	if before {
		n.write(t, lab)
	}
	applied, err := pod.Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	listed := applied.Foreign
	if !before {
		n.write(t, lab)
		if listed, err = pod.Foreign(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	takes := slices.ContainsFunc(listed.Chains, func(f beside.Foreign) bool {
		return f.Effect == beside.Takes || f.Effect == beside.MayTake
	})
	if listed.Error != "" || len(listed.Chains) < 4 || (len(listed.Warnings()) > 0) != takes {
		t.Errorf("listed: %+v", listed)
	}
	for _, f := range listed.Chains {
		if n.owner == "" && len(f.Owners) > 0 || n.owner != "" && !slices.Equal(f.Owners, []string{n.owner}) {
			t.Errorf("%s is of %q, not of %q", f.Name(), f.Owners, n.owner)
		}
	}
	if takes && w == byNFT {
		t.Errorf("somebody takes what is captured: %q", listed.Warnings())
	}
	for i := range pods {
		for _, f := range []netlab.Flow{
			{Protocol: intercept.TCP, Dst: service[i], Owner: app},
			{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.AddrPortFrom(pods[i].Addr(), 8080)},
		} {
			want := intercept.RedirectedTo(15001)
			if f.From == netlab.FromPeer {
				want = intercept.RedirectedTo(15006)
				// Somebody waits where the neighbour sends it.
				expectFate(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(pods[i].Addr(), 9999), Owner: app},
					intercept.Fate{})
			}
			if got, err := lab.Send(f); err != nil || !got.Is(want) && !takes {
				t.Errorf("%s: %s, %v; want %s, and nobody is said to take it: %+v", f, got, err, want, listed)
			}
		}
		letGo := netlab.Flow{Protocol: intercept.TCP, Dst: service[i], Owner: excludedUser}
		expectFate(t, lab, letGo, intercept.Fate{Action: intercept.Translated, To: answers[i]})
		letGo.Owner = proxy
		expectFate(t, lab, letGo, intercept.Fate{Action: intercept.Translated, To: answers[i]})
	}
	if diffs, err := pod.Check(t.Context(), c); err != nil || len(diffs) > 0 && !takes {
		t.Errorf("Check: %v, %v", diffs, err)
	}
}

// TestNeighboursOfTProxy: in mode tproxy the proxy gets connections with the destination that their clients called,
// whatever others would translate it to: by nftables whoever started first, and by iptables where ours are asked first.
// Its own calls to its pod keep theirs, too.
func TestNeighboursOfTProxy(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, n := range neighbours() {
			for _, order := range []string{"before", "after"} {
				t.Run(n.name+" "+order, func(t *testing.T) {
					t.Parallel()
					lab := netlab.NewT(t, netlab.Options{})
					if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
						t.Fatal(err)
					}
					pod := w.target(t, lab)
					if order == "before" {
						n.write(t, lab)
					}
					applyConfig(t, pod, tproxy())
					if order == "after" {
						n.write(t, lab)
					}
					listed, err := pod.Foreign(t.Context())
					if err != nil || len(listed.Warnings()) > 0 && w == byNFT {
						t.Fatal(err, listed.Warnings())
					}
					for i, to := range pods {
						f := inbound(to, netip.Addr{})
						if got, err := lab.Send(f); len(listed.Warnings()) == 0 && (err != nil || got.Fate != transparently ||
							got.Original != to || got.Client != got.Source) {
							t.Errorf("%s: %s, %v", f, got, err)
						}
						if f := (netlab.Flow{Protocol: intercept.TCP, Dst: to, Owner: proxy}); len(listed.Warnings()) == 0 {
							expectFate(t, lab, f, transparently)
						}
						letGo := netlab.Flow{Protocol: intercept.TCP, Dst: service[i], Owner: proxy}
						expectFate(t, lab, letGo, intercept.Fate{Action: intercept.Translated, To: answers[i]})
					}
				})
			}
		}
	})
}

// TestNeighbourThatGoesAhead: a chain that is registered later at our very priority is asked first, also in a table that
// is older than ours. Check says so. To apply again puts ours before it, and then nobody warns of it.
func TestNeighbourThatGoesAhead(t *testing.T) {
	lab, _ := labWithSidecar(t, byNFT)
	pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.BackendNFT}
	c := intercept.Default()
	if _, err := pod.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ahead := neighbour{program: nftProgram, rules: natChains("ahead", "", -199)}
	call := netlab.Flow{Protocol: intercept.TCP, Dst: service[0], Owner: app}
	for _, tt := range []struct {
		name  string
		again bool
	}{{"a newer table", false}, {"an older table", true}} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.again {
				neighbour{program: nftProgram, rules: "delete chain FAMILY ahead prerouting\ndelete chain FAMILY ahead output\n"}.
					write(t, lab)
			}
			ahead.write(t, lab)
			expectFate(t, lab, call, intercept.Fate{Action: intercept.Translated, To: answers[0]})
			diffs, err := pod.Check(t.Context(), c)
			if err != nil || len(diffs) != 4 || !strings.Contains(diffs[0].String(), "asks it first") {
				t.Errorf("Check: %v, %v", diffs, err)
			}
			expectOrder(t, pod, dataplane.Changed, "is asked before ours: what it translates is not captured")
			res, err := pod.Apply(t.Context(), c)
			if err != nil || res.Outcome != intercept.Replaced || len(res.Foreign.Warnings()) > 0 {
				t.Errorf("Apply: %v, %v, %q", res.Outcome, err, res.Foreign.Warnings())
			}
			expectFate(t, lab, call, intercept.RedirectedTo(15001))
			if diffs, err := pod.Check(t.Context(), c); err != nil || len(diffs) > 0 {
				t.Errorf("Check again: %v, %v", diffs, err)
			}
			if res, err := pod.Apply(t.Context(), c); err != nil || res.Outcome != intercept.Unchanged {
				t.Errorf("Apply again: %v, %v", res.Outcome, err)
			}
			expectOrder(t, pod, dataplane.Intercepting, "")
		})
	}
}

// expectOrder expects a verdict, and of all warnings of others' chains that they say something; nothing: there are none.
func expectOrder(t *testing.T, pod dataplane.Pod, want dataplane.Verdict, says string) {
	t.Helper()
	o, err := pod.Overview(t.Context())
	if err != nil || o.Verdict != want {
		t.Errorf("%q, %v", o.Summary, err)
	}
	warn := o.Foreign.Warnings()
	if (says == "") != (len(warn) == 0) {
		t.Errorf("%q", warn)
	}
	for _, w := range warn {
		if !strings.Contains(w, says) {
			t.Errorf("%q, want %q", w, says)
		}
	}
}

// TestNeighbourThatUntracks: what somebody keeps from conntrack cannot be translated. It is said, and the second look
// refuses it.
func TestNeighbourThatUntracks(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, _ := labWithSidecar(t, w)
		pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.Backend(w)}
		neighbour{program: xtNFTProgram, rules: `*raw
:CILIUM_OUTPUT_raw - [0:0]
-A OUTPUT -m comment --comment "cilium-feeder: CILIUM_OUTPUT_raw" -j CILIUM_OUTPUT_raw
-A CILIUM_OUTPUT_raw -d SERVICE -m comment --comment "cilium: NOTRACK" -j CT --notrack
-A PREROUTING -p tcp -m tcp --dport 8080 -m comment --comment "cilium: NOTRACK" -j CT --notrack
COMMIT
`}.write(t, lab)
		res, err := pod.Apply(t.Context(), intercept.Default())
		if err != nil || len(res.Warnings) != 4 || !strings.Contains(res.Warnings[0], "keeps packets from conntrack") ||
			!strings.Contains(res.Warnings[0], "Cilium") {
			t.Errorf("%v, %q", err, res.Warnings)
		}
		for i := range pods {
			expectFate(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: service[i], Owner: app},
				intercept.Fate{Action: intercept.Rejected})
			expectFate(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: outside[i], Owner: app}, intercept.RedirectedTo(15001))
			expectFate(t, lab, netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: pods[i]},
				intercept.Fate{Action: intercept.Rejected})
		}
	})
}

// meshRules are what the init containers of other meshes write, in short.
func meshRules() []neighbour {
	istio := `*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 16006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 16001
COMMIT
`
	linkerd := `*nat
:PROXY_INIT_REDIRECT - [0:0]
:PROXY_INIT_OUTPUT - [0:0]
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191 -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-ports 16006
-A PROXY_INIT_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A PROXY_INIT_OUTPUT -o lo -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-ports 16001
COMMIT
`
	kuma := `*nat
:KUMA_MESH_INBOUND - [0:0]
:KUMA_MESH_OUTBOUND - [0:0]
:KUMA_MESH_INBOUND_REDIRECT - [0:0]
:KUMA_MESH_OUTBOUND_REDIRECT - [0:0]
-A PREROUTING -p tcp -j KUMA_MESH_INBOUND
-A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND
-I OUTPUT 1 -p udp -m udp --dport 53 -m comment --comment "kuma/mesh/transparent/proxy/dns" -j REDIRECT --to-ports 15053
-A KUMA_MESH_INBOUND -p tcp -j KUMA_MESH_INBOUND_REDIRECT
-A KUMA_MESH_OUTBOUND -m owner --uid-owner 1337 -j RETURN
-A KUMA_MESH_OUTBOUND -j KUMA_MESH_OUTBOUND_REDIRECT
-A KUMA_MESH_INBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 16006
-A KUMA_MESH_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 16001
COMMIT
`
	native := `table inet istio-proxy-nat
delete table inet istio-proxy-nat
table inet istio-proxy-nat {
	chain prerouting { type nat hook prerouting priority -100; meta l4proto tcp counter jump istio-inbound; }
	chain output { type nat hook output priority -100; counter jump istio-output; }
	chain istio-inbound { meta l4proto tcp counter redirect to :16006; }
	chain istio-output { skuid 1337 counter return; meta l4proto tcp counter redirect to :16001; }
}
`
	return []neighbour{
		{"istio", "Istio", xtNFTProgram, istio}, {"istio", "Istio", legacyProgram, istio},
		{"istio", "Istio", nftProgram, native},
		{"linkerd", "Linkerd", xtNFTProgram, linkerd}, {"linkerd", "Linkerd", legacyProgram, linkerd},
		{"kuma", "Kuma", xtNFTProgram, kuma}, {"kuma", "Kuma", legacyProgram, kuma},
	}
}

// TestOtherMesh: rules of another mesh are refused, by name. Beside them, when insisted, ours capture what they should,
// and it is said that the other takes what they let go. To remove them takes all of them and nothing else.
func TestOtherMesh(t *testing.T) {
	for _, n := range meshRules() {
		t.Run(n.name+" "+n.program, func(t *testing.T) {
			t.Parallel()
			lab, _ := labWithSidecar(t, byNFT)
			// The other proxy.
			if _, err := lab.StartSidecar(netlab.SidecarConfig{Outbound: intercept.Port(16001), Inbound: intercept.Port(16006),
				DNSPort: 16053, Owner: &intercept.Owner{UID: 5678, GID: 5678}}); err != nil {
				t.Fatal(err)
			}
			others := neighbours()[0] // somebody else, who stays
			if n.program == legacyProgram {
				others = neighbours()[1]
			}
			others.write(t, lab)
			was := everything(t, lab)
			n.write(t, lab)
			c := intercept.Default()
			c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(9000)}
			excluded := func(i int) netlab.Flow {
				return netlab.Flow{Protocol: intercept.TCP, Dst: netip.AddrPortFrom(outside[i].Addr(), 9000), Owner: app}
			}
			pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.BackendNFT}
			res, err := pod.Apply(t.Context(), c)
			refused, is := errors.AsType[*dataplane.OtherMeshError](err)
			if !errors.Is(err, dataplane.ErrOtherMesh) || !is || len(refused.Meshes) != 1 || refused.Meshes[0].Name != n.name ||
				!strings.Contains(err.Error(), n.owner) || res.Outcome != "" {
				t.Fatalf("%+v, %v", res, err)
			}
			pod.BesideOtherMesh = true
			res, err = pod.Apply(t.Context(), c)
			warned := strings.Join(res.Warnings, "\n")
			if err != nil || !strings.Contains(warned, n.owner) || !strings.Contains(warned, "captures what ours let go") {
				t.Errorf("%v, %q", err, warned)
			}
			for i, to := range pods {
				expectFate(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: outside[i], Owner: app}, intercept.RedirectedTo(15001))
				expectFate(t, lab, netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: to},
					intercept.RedirectedTo(15006))
				expectFate(t, lab, excluded(i), intercept.RedirectedTo(16001))
			}
			if _, err := pod.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			mesh, _ := beside.MeshOf(n.name)
			with := everything(t, lab)
			out, err := pod.RemoveForeign(t.Context(), mesh, true)
			if now := everything(t, lab); err != nil || out.Removed || len(out.Parts) == 0 || now != with {
				t.Errorf("dry run: %+v, %v\n%s", out, err, now)
			}
			out, err = pod.RemoveForeign(t.Context(), mesh, false)
			if now := everything(t, lab); err != nil || !out.Removed || now != was {
				t.Errorf("%+v, %v\nwas\n%s\nis\n%s", out, err, was, now)
			}
			out, err = pod.RemoveForeign(t.Context(), mesh, false)
			if err != nil || out.Removed || len(out.Parts) != 0 {
				t.Errorf("again: %+v, %v", out, err)
			}
			pod.BesideOtherMesh = false
			if _, err = pod.Apply(t.Context(), c); err != nil {
				t.Error(err)
			}
			for i := range pods {
				expectFate(t, lab, excluded(i), intercept.Fate{})
			}
		})
	}
}

// everything is all rules in the pod, without what they have counted and without chains of nf_tables that are empty:
// programs of iptables make those and leave them.
func everything(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save",
		"ip6tables-legacy-save"} {
		for line := range strings.Lines(inPodRun(t, lab, "", name)) {
			if strings.HasPrefix(line, "-A") || strings.HasSuffix(line, " - [0:0]\n") || line[0] == '*' {
				all.WriteString(line)
			}
		}
	}
	for line := range strings.Lines(inPodRun(t, lab, "", "nft", "list", "tables")) {
		all.WriteString(line)
	}
	return all.String()
}
