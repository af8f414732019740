//go:build linux

package dataplane

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestOthers: a session lists other people's rules of both variants of iptables, and says which of them stand before
// ours. Probe names the programs.
func TestOthers(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	var want []iptables.OtherRule
	for i, name := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		netlab.RequireProgram(t, name)
		cmd := exec.Command(name, "-t", "nat", "-A", "OUTPUT", "-o", "dummy7", "-j", "ACCEPT")
		cmd.Env = append(cmd.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock"))
		if err := lab.Pod.Start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		want = append(want, iptables.OtherRule{Family: []string{"IPv4", "IPv6"}[i%2], Table: "nat", Chain: "OUTPUT",
			Rule: "-o dummy7 -j ACCEPT"})
	}
	for _, b := range []Backend{BackendIPTablesNFT, BackendNFT} {
		s := openSession(t, Pod{NetNS: lab.Pod.Path(), Backend: b, IPTables: IPTables{Jumps: iptables.JumpsLast}})
		if _, err := s.Apply(t.Context(), intercept.Default()); err != nil {
			t.Fatal(err)
		}
		want[0].Earlier, want[1].Earlier = b == BackendIPTablesNFT, b == BackendIPTablesNFT
		status, err := s.Status(t.Context())
		if diff := cmp.Diff(Others{Rules: want}, status.Others); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", b, err, diff)
		}
	}
	report, err := openSession(t, Pod{NetNS: lab.Pod.Path()}).Probe(t.Context(), intercept.Default())
	if diff := cmp.Diff(Others{Rules: want}, report.Others); err != nil || diff != "" {
		t.Errorf("Probe: %v\n%s", err, diff)
	}
	var paths []string
	for _, d := range report.Backends {
		for _, p := range d.Programs {
			paths = append(paths, p.Path[strings.LastIndexByte(p.Path, '/')+1:])
		}
	}
	if diff := cmp.Diff([]string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"},
		paths); diff != "" {
		t.Error(diff)
	}
}
