//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// nodeLab is a namespace with an uplink, into which a test puts what pods and nodes have.
type nodeLab struct {
	*testing.T
	ns  *netlab.Namespace
	end []io.Closer
	n   int
}

func newNodeLab(t *testing.T) *nodeLab {
	t.Helper()
	netlab.Require(t)
	for _, name := range []string{"ip", "nft", "iptables-nft-restore", "iptables-legacy-restore", "nsenter"} {
		netlab.RequireProgram(t, name)
	}
	l := &nodeLab{T: t}
	l.ns = l.namespace()
	l.sh(`ip link set lo up`)
	t.Cleanup(func() {
		for _, c := range slices.Backward(l.end) {
			_ = c.Close() // there is nothing to lose
		}
	})
	return l
}

func (l *nodeLab) namespace() *netlab.Namespace {
	l.Helper()
	ns, err := netlab.NewNamespace()
	if err != nil {
		l.Fatal(err)
	}
	l.end = append(l.end, ns)
	return ns
}

func (l *nodeLab) sh(script string) {
	l.Helper()
	run(l.T, l.ns.Path(), "sh", "-ec", script)
}

// uplink joins the namespace with one that is its gateway.
func (l *nodeLab) uplink(script string) {
	l.Helper()
	other := l.namespace()
	l.sh(`ip link add eth0 type veth peer name gw netns ` + other.Path() + `; ip link set eth0 up`)
	run(l.T, other.Path(), "ip", "link", "set", "gw", "up")
	l.sh(script)
}

// behind puts containers behind a bridge, or behind routes of their own.
func (l *nodeLab) behind(bridge string, n int) {
	l.Helper()
	if bridge != "" {
		l.sh(`ip link add ` + bridge + ` type bridge; ip link set ` + bridge + ` up; ip addr add 10.42.0.1/24 dev ` + bridge)
	}
	for range n {
		l.n++
		name := fmt.Sprintf("veth%d", l.n)
		l.sh(fmt.Sprintf(`ip link add %s type veth peer name eth0 netns %s; ip link set %[1]s up`, name,
			l.namespace().Path()))
		if bridge != "" {
			l.sh(`ip link set ` + name + ` master ` + bridge)
		} else {
			l.sh(fmt.Sprintf(`ip route add 10.42.0.%d dev %s`, 1+l.n, name))
		}
	}
}

// listen opens a socket in the namespace.
func (l *nodeLab) listen(network, address string) {
	l.Helper()
	err := l.ns.Do(func() error {
		c, err := net.Listen(network, address)
		if err == nil {
			l.end = append(l.end, c)
		}
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
}

func (l *nodeLab) restore(program, table string, rules ...string) {
	l.Helper()
	l.sh("printf '%s\\n' '*" + table + "' '" + strings.Join(rules, "' '") + "' COMMIT | " + program + " --noflush")
}

const ptp = `ip addr add 10.244.0.5/32 dev eth0; ip route add 169.254.1.1 dev eth0; ip route add 10.244.0.1 dev eth0
	ip route add default via 169.254.1.1 dev eth0`

// TestPodsAndNodes: a node that is a container is refused, and why is said; a pod is none, whatever runs in it.
func TestPodsAndNodes(t *testing.T) {
	docker := func(l *nodeLab) {
		l.uplink(`ip addr add 10.244.0.5/24 dev eth0; ip route add default via 10.244.0.1`)
		l.behind("docker0", 3)
		l.behind("br-0123456789ab", 2)
		l.restore("iptables-nft-restore", "nat", ":DOCKER - [0:0]", "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER")
		l.sh(`echo 1 > /proc/sys/net/ipv4/ip_forward`)
		l.listen("unix", filepath.Join(l.TempDir(), "docker.sock"))
	}
	chains := func(l *nodeLab) { l.restore("iptables-nft-restore", "nat", ":KUBE-SERVICES - [0:0]") }
	for name, tt := range map[string]struct {
		build func(*nodeLab)
		pod   Pod
		want  []string // of the refusal; none: it is a pod
	}{
		"empty pod":               {build: func(*nodeLab) {}},
		"pod behind a bridge":     {build: func(l *nodeLab) { l.uplink(`ip addr add 10.244.0.5/24 dev eth0; ip route add default via 10.244.0.1`) }},
		"pod with a host route":   {build: func(l *nodeLab) { l.uplink(ptp); l.listen("tcp", ":10250") }},
		"Docker in a pod":         {build: docker},
		"Docker and kubelet's":    {build: func(l *nodeLab) { docker(l); l.listen("tcp", "127.0.0.1:10250") }},
		"Podman in a pod":         {build: func(l *nodeLab) { l.behind("podman0", 2); l.listen("tcp", ":10256") }},
		"left-over chains":        {build: func(l *nodeLab) { l.uplink(ptp); chains(l) }},
		"another bridge in a pod": {build: func(l *nodeLab) { l.behind("br0", 9) }},
		"KubeVirt's bridge": {build: func(l *nodeLab) {
			l.uplink(`ip link set eth0 down; ip link set eth0 name eth0-nic; ip link set eth0-nic up; ip link add k6t-eth0 type bridge; ip link set eth0-nic master k6t-eth0`)
			l.listen("tcp", ":10250")
		}},
		"a virtual machine's bridge": {build: func(l *nodeLab) {
			l.uplink(`ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0; ip addr add 10.244.0.5/24 dev br0
				ip route add default via 10.244.0.1`)
			chains(l)
		}},

		"kubelet and its chains": {build: func(l *nodeLab) { chains(l); l.listen("tcp", "127.0.0.1:10248") },
			want: []string{"chains of kube-proxy or kubelet (KUBE-SERVICES)", "a listener at kubelet's port 10248"}},
		"legacy chains, pods behind a bridge": {build: func(l *nodeLab) {
			l.restore("ip6tables-legacy-restore", "mangle", ":KUBE-KUBELET-CANARY - [0:0]")
			l.behind("cni0", 2)
		}, want: []string{"by iptables-legacy", "2 interfaces to pods behind the bridge cni0"}},
		"kube-proxy's nftables, routed pods": {build: func(l *nodeLab) {
			l.uplink(ptp)
			l.sh(`nft add table ip kube-proxy`)
			l.behind("", 3)
		}, want: []string{"kube-proxy's table", "3 interfaces to pods behind the routes of their own"}},
		"no chains": {build: func(l *nodeLab) { l.listen("tcp", ":10250"); l.behind("cni0", 1) },
			want: []string{"kubelet's port 10250", "cni0"}},
		"a runtime with pods": {build: func(l *nodeLab) {
			l.listen("unix", filepath.Join(l.TempDir(), "containerd.sock"))
			l.behind("cbr0", 2)
		}, want: []string{"containerd.sock", "cbr0"}},
		"with Docker beside it": {build: func(l *nodeLab) { docker(l); chains(l); l.listen("tcp", ":10256") },
			want: []string{"KUBE-SERVICES", "kube-proxy's port 10256"}},
		"a Service's addresses": {build: func(l *nodeLab) { chains(l); l.behind("kube-ipvs0", 0) },
			want: []string{"KUBE-SERVICES", "kube-ipvs0"}},
		"the node's address": {build: func(l *nodeLab) { l.uplink(`ip addr add 172.18.0.2/16 dev eth0`) },
			pod:  Pod{HostIPs: []netip.Addr{netip.MustParseAddr("fd00::2"), netip.MustParseAddr("172.18.0.2")}},
			want: []string{"the node's address 172.18.0.2 (interface eth0)"}},
		"insisted on": {build: func(l *nodeLab) { chains(l); l.listen("tcp", ":10250") }, pod: Pod{AllowHostNetNS: true}},
		"known for a pod's": {build: func(l *nodeLab) { chains(l); l.listen("tcp", ":10250") },
			pod: Pod{IsPod: true, HostIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newNodeLab(t)
			tt.build(l)
			tt.pod.NetNS = l.ns.Path()
			_, err := tt.pod.Status(t.Context())
			if len(tt.want) == 0 {
				if !errors.Is(err, intercept.ErrNotIntercepted) {
					t.Errorf("it is taken for a node: %v", err)
				}
				return
			}
			says(t, "status", err, ErrHostNetNS, tt.want...)
			if name != "no chains" {
				return // the doctor tries all backends, which takes a while
			}
			report, err := tt.pod.Probe(t.Context(), intercept.Default())
			if err != nil || !report.HostNetNS || !strings.Contains(report.HostReason, tt.want[0]) {
				t.Errorf("doctor: %v, %q", err, report.HostReason)
			}
		})
	}
}
