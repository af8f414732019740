//go:build linux

package soak

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestNotices: what must not be is noticed, whoever brings it about.
func TestNotices(t *testing.T) {
	netlab.Require(t)
	for _, name := range []string{"nft", "ip", "iptables-legacy-save", "iptables-nft-save"} {
		netlab.RequireProgram(t, name)
	}
	const nft, legacy, overNFT = dataplane.BackendNFT, dataplane.BackendIPTablesLegacy, dataplane.BackendIPTablesNFT
	for _, tt := range []struct {
		name    string
		backend dataplane.Backend
		breaks  string // lines of shell
		want    string // a part of what is noticed
	}{
		{"no rules", nft, "nft delete table inet mesh_intercept", "outside: "},
		{"no capture in one family", legacy, "ip6tables-legacy -w -t nat -F MESH_OUTPUT\n" +
			"ip6tables-legacy -w -t filter -F MESH_FILTER_OUTPUT", "2001:db8::77"},
		{"lookups past the resolver", nft, "nft insert rule inet mesh_intercept output udp dport 53 return", ":53"},
		{"clients past the proxy", nft, "nft flush chain inet mesh_intercept prerouting\n" +
			"nft flush chain inet mesh_intercept filter_input\nnft flush chain inet mesh_intercept filter_output",
			"from peer to 10.244.0.5:8080"},
		{"clients past the proxy, iptables", overNFT, "iptables-nft -t nat -F MESH_PREROUTING\n" +
			"iptables-nft -t filter -F MESH_FILTER_INPUT\niptables-nft -t filter -F MESH_FILTER_OUTPUT",
			"from peer to 10.244.0.5:8080"},
		{"a loop", nft, "nft flush chain inet mesh_intercept filter_output\n" +
			"nft 'table inet loop { chain c { type nat hook output priority -100; tcp dport 443 redirect to :15001; }; }'",
			"198.18.0.9:443"},
		{"half a policy", nft, "nft flush chain inet mesh_intercept output", "chain output"},
		{"half a policy in one table", legacy, "iptables-legacy -w -t nat -D OUTPUT 1", "table nat"},
		{"half a policy in one family", overNFT, "ip6tables-nft -t filter -F MESH_FILTER_INPUT", "IPv6, table filter"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, &counts{}, tt.backend, nil, 1)
			c := intercept.Default()
			c.DNS.Mode = intercept.DNSAll
			p.asked = []intercept.Config{c}
			if _, err := p.target().Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			noticed := func() string {
				open := map[int]*conversation{}
				for i, f := range flows() {
					p.flow(f, open, i)
				}
				for _, c := range open {
					hangUp(c)
				}
				p.look()
				if err := p.isOneOf(halfway, tt.backend != nft, p.asked...); err != nil {
					p.violated("%v", err)
				}
				return strings.Join(p.violations, "\n")
			}
			p.vow(true)
			if found := noticed(); found != "" {
				t.Fatalf("nothing is broken: %s", found)
			}
			if err := run(p.lab.Pod, nil, "sh", "-ec", tt.breaks); err != nil {
				t.Fatal(err)
			}
			if found := noticed(); !strings.Contains(found, tt.want) {
				t.Errorf("noticed: %q", found)
			}
		})
	}
}

// TestNoticesWhatIsLeft: a chain or a route that is left, and what a process holds ever more of.
func TestNoticesWhatIsLeft(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "nft")
	netlab.RequireProgram(t, "ip")
	p := newPod(t, &counts{}, dataplane.BackendNFT, nil, 1)
	before, err := p.contents()
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"nft add table inet x; nft add chain inet x y", "ip rule add fwmark 7 lookup 7",
		"iptables-legacy -w 5 -t nat -N X"} {
		if err := run(p.lab.Pod, nil, "sh", "-ec", left); err != nil {
			t.Fatal(err)
		}
		after, err := p.contents()
		if err != nil || after == before {
			t.Errorf("after %s: the same, %v", left, err)
		}
		before = after
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	a := &agent{p: p, cmd: cmd}
	if err := a.weigh(); err != nil || p.bad() {
		t.Fatal(err, p.violations)
	}
	a.first.descriptors -= 100
	if err := a.weigh(); err != nil || !p.bad() {
		t.Errorf("100 descriptors more: %v, %v", p.violations, err)
	}
}
