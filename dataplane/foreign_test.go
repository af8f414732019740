//go:build linux

package dataplane

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestDormant: rules in a table that sleeps are not in force. Check and Status say so; Apply wakes a table of our own,
// and refuses to write into one that others can have.
func TestDormant(t *testing.T) {
	needPrograms(t)
	netlab.Require(t)
	for _, tt := range []struct {
		backend Backend
		table   string
	}{{BackendNFT, "inet mesh_intercept"}, {BackendIPTablesNFT, "ip6 nat"}, {BackendIPTablesNFT, "ip filter"}} {
		t.Run(string(tt.backend)+" "+tt.table, func(t *testing.T) {
			ns, err := netlab.NewNamespace()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.Close() })
			p := Pod{NetNS: ns.Path(), Backend: tt.backend}
			c := intercept.Default()
			apply := func() ruleset.Outcome {
				res, err := p.Apply(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				return res.Outcome
			}
			apply()
			run(t, ns.Path(), "nft", "add table "+tt.table+" { flags dormant; }")
			diffs, err := p.Check(t.Context(), c)
			if err != nil || len(diffs) != 1 || !strings.Contains(diffs[0].String(), "table "+tt.table) ||
				!strings.Contains(diffs[0].Problem, "dormant") {
				t.Errorf("Check: %v, %v", diffs, err)
			}
			status, err := p.Status(t.Context())
			if err != nil || !slices.Equal(status.Dormant, []string{tt.table}) {
				t.Errorf("Status: %q, %v", status.Dormant, err)
			}
			if tt.backend == BackendNFT {
				if o := apply(); o != ruleset.Replaced {
					t.Error(o)
				}
			} else {
				if _, err := p.Apply(t.Context(), c); !errors.Is(err, ruleset.ErrUnsupported) ||
					!strings.Contains(err.Error(), "nft add table "+tt.table) {
					t.Error(err)
				}
				run(t, ns.Path(), "nft", "add table "+tt.table)
			}
			if o := apply(); o != ruleset.Unchanged {
				t.Error(o)
			}
			if diffs, err := p.Check(t.Context(), c); err != nil || len(diffs) > 0 {
				t.Errorf("Check: %v, %v", diffs, err)
			}
			if status, err := p.Status(t.Context()); err != nil || len(status.Dormant) > 0 {
				t.Errorf("Status: %q, %v", status.Dormant, err)
			}
		})
	}
}

// TestReferenceUnseen: a rule leads to a chain of ours where the programs of iptables do not see it. Remove names it,
// and takes out neither family.
func TestReferenceUnseen(t *testing.T) {
	needPrograms(t)
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	p := Pod{NetNS: ns.Path(), Backend: BackendIPTablesNFT}
	if _, err := p.Apply(t.Context(), intercept.Default()); err != nil {
		t.Fatal(err)
	}
	run(t, ns.Path(), "nft", "add chain ip6 nat theirs { type nat hook output priority 50; }; "+
		"add rule ip6 nat theirs tcp dport 80 jump MESH_OUTPUT")
	was := contents(t, ns.Path())
	removed, err := p.Remove(t.Context())
	ref, is := errors.AsType[*beside.ReferenceError](err)
	if removed || !is || ref.To != "MESH_OUTPUT" || ref.In != "chain theirs of table ip6 nat" {
		t.Errorf("%t, %v", removed, err)
	}
	for _, family := range []string{"table ip nat", "table ip6 nat"} {
		if now := contents(t, ns.Path()); strings.Count(now, "chain MESH_") != strings.Count(was, "chain MESH_") ||
			!strings.Contains(now, family) {
			t.Errorf("was\n%s\nis\n%s", was, now)
		}
	}
	run(t, ns.Path(), "nft", "flush chain ip6 nat theirs")
	if removed, err := p.Remove(t.Context()); err != nil || !removed {
		t.Errorf("%t, %v", removed, err)
	}
}

// TestForeignWithoutOurs: where there are no rules of ours, it is said what others would be to those of the backend
// asked for.
func TestForeignWithoutOurs(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	run(t, ns.Path(), "nft", "add table ip theirs; add chain ip theirs c { type nat hook output priority -100; }; "+
		"add rule ip theirs c tcp dport 80 dnat to 192.0.2.1")
	for b, want := range map[Backend]beside.Effect{BackendAuto: beside.NeverReached, BackendNFT: beside.NeverReached,
		BackendIPTables: beside.MayTake, BackendIPTablesLegacy: beside.MayTake} {
		all, err := Pod{NetNS: ns.Path(), Backend: b}.Foreign(t.Context())
		if err != nil || len(all.Chains) != 1 || all.Chains[0].Effect != want || all.Error != "" {
			t.Errorf("%s: %+v, %v", b, all, err)
		}
	}
	if _, err := (Pod{NetNS: ns.Path(), Backend: "x"}).Foreign(t.Context()); err == nil {
		t.Error("no such backend")
	}
}

// TestForeignConditions: whether a chain behind ours takes all that ours let go is known by the conditions of its rules, as
// each program writes them.
func TestForeignConditions(t *testing.T) {
	needPrograms(t)
	netlab.Require(t)
	const all, some = beside.TakesRest, beside.NeverReached
	for rule, want := range map[string]beside.Effect{
		"nft tcp dport 80":                                    all,
		"nft meta l4proto tcp":                                all,
		"nft ip daddr 203.0.113.7 tcp dport 80":               some,
		"nft ip daddr 203.0.0.0/16 meta skuid 0 tcp dport 80": some,
		"nft ip daddr 203.0.113.0/28":                         some,
		"nft ip daddr != 203.0.113.7 tcp dport 80":            all,
		"nft ip daddr { 203.0.113.7, 203.0.113.9 }":           some,
		"nft ip daddr != { 203.0.113.7, 203.0.113.9 }":        all,
		"nft ip saddr 203.0.113.7":                            all,
		"nft meta skuid 1000":                                 all,
		"nft fib daddr type local":                            some,
		"nft fib daddr type != local":                         all,
		"nft fib saddr type local":                            all,
		"nft ip daddr . tcp dport { 203.0.113.7 . 80 }":       some,
		"iptables -d 203.0.113.7":                             some,
		"iptables ! -d 203.0.113.7":                           all,
		"iptables -p tcp --dport 80":                          all,
		"iptables -m addrtype --dst-type LOCAL":               some,
		"iptables -m addrtype ! --dst-type LOCAL":             all,
		"iptables -m addrtype --src-type LOCAL":               all,
		"iptables -s 203.0.113.7 -m owner --uid-owner 100":    all,
	} {
		conditions, isNFT := strings.CutPrefix(rule, "nft ")
		conditions = strings.TrimPrefix(conditions, "iptables ")
		scripts := map[string][]string{
			"iptables-nft":    {"-t", "nat", "-A", "OUTPUT"},
			"iptables-legacy": {"-w", "-t", "nat", "-A", "OUTPUT"},
		}
		if isNFT {
			scripts = map[string][]string{"nft": {"add table ip theirs; add chain ip theirs c { type nat hook output priority -100; }; " +
				"add rule ip theirs c " + conditions + " redirect"}}
			if !strings.Contains(conditions, "tcp") {
				scripts["nft"][0] = strings.TrimSuffix(scripts["nft"][0], " redirect") + " meta l4proto tcp redirect to :9999"
			}
		}
		for program, args := range scripts {
			ns, err := netlab.NewNamespace()
			if err != nil {
				t.Fatal(err)
			}
			if !isNFT {
				if !strings.Contains(conditions, "-p tcp") {
					args = append(args, "-p", "tcp")
				}
				args = append(append(args, strings.Fields(conditions)...), "-j", "REDIRECT", "--to-ports", "9999")
			}
			run(t, ns.Path(), append([]string{program}, args...)...)
			found, err := Pod{NetNS: ns.Path(), Backend: BackendNFT}.Foreign(t.Context())
			if err != nil || len(found.Chains) != 1 || found.Chains[0].Effect != want {
				t.Errorf("%s %v: %+v, %v; want %s", program, args, found, err, want)
			}
			ns.Close()
		}
	}
}
