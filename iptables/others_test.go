//go:build linux

package iptables

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

func (s site) others(ctx context.Context) (rules []OtherRule, err error) {
	err = s.Do(func() error { rules, err = s.b.Others(ctx); return err })
	return rules, err
}

// TestOthers: other people's rules at our hooks are listed with what they have counted, those before ours as such. To
// look brings nothing about.
func TestOthers(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, jumps := range []Jumps{JumpsFirst, JumpsLast} {
			last := jumps == JumpsLast
			s := newSite(t, Options{Variant: v, Jumps: jumps})
			was := s.everything(t)
			if rules, err := s.others(t.Context()); err != nil || len(rules) > 0 {
				t.Fatalf("%v, %v", rules, err)
			}
			for _, f := range families() {
				if tables, err := s.b.tables(t.Context(), f); v == NFT && (err != nil || len(tables) > 0) {
					t.Errorf("%v, %v", tables, err)
				}
			}
			if now := s.everything(t); now != was {
				t.Errorf("to look has changed something:\n%s", cmp.Diff(was, now))
			}
			s.restore(t, foreign)
			s.mustApply(t, compileConfig(t, intercept.Default()), ruleset.Created)
			s.restore(t, "*nat\n-I OUTPUT 1 -p tcp -m tcp --dport 7 "+
				`-m comment --comment "-c 8 9, \" -c 8 9 x" -j ACCEPT`+"\nCOMMIT\n")
			was = s.everything(t)
			rules, err := s.others(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if now := s.everything(t); now != was {
				t.Errorf("to look has changed something:\n%s", cmp.Diff(was, now))
			}
			var want []OtherRule
			for _, f := range families() {
				add := func(earlier bool, packets uint64, table, chain, rule string) {
					want = append(want, OtherRule{f.String(), table, chain, rule, earlier, packets, 60 * packets})
				}
				add(last, 11, "filter", "INPUT", "-p tcp -m tcp --dport 22 -j ACCEPT")
				add(last, 10, "filter", "OUTPUT", "-j KUBE-FIREWALL")
				add(last, 1, "nat", "PREROUTING",
					`-m comment --comment "kubernetes service portals, not MESH_OUTPUT" -j KUBE-SERVICES`)
				add(last, 2, "nat", "PREROUTING", "-m addrtype --dst-type LOCAL -j DOCKER")
				add(true, 0, "nat", "OUTPUT", `-p tcp -m tcp --dport 7 -m comment --comment "-c 8 9, \" -c 8 9 x" -j ACCEPT`)
				add(last, 3, "nat", "OUTPUT", `-m comment --comment "kubernetes service portals" -j KUBE-SERVICES`)
				add(last, 4, "nat", "OUTPUT", "! -o lo -j NOT_MESH_OUTPUT")
			}
			// ip6tables-nft-restore of iptables 1.8.9 takes no counters, that of later ones does.
			uncounted := func(r OtherRule) bool { return v == NFT && r.Family == "IPv6" && r.Packets == 0 }
			for i := range want {
				if i < len(rules) && uncounted(rules[i]) {
					want[i].Packets, want[i].Bytes = 0, 0
				}
			}
			if diff := cmp.Diff(want, rules); diff != "" {
				t.Errorf("last %t: want (-), got (+):\n%s", last, diff)
			}
		}
	})
}

// TestCutCounters: the counters are told from what looks like them.
func TestCutCounters(t *testing.T) {
	for spec, want := range map[string]string{
		" -p tcp -c 1 2 -j ACCEPT": "-p tcp -j ACCEPT",
		" -c 1 2":                  "",
		" -j ACCEPT -c 1 2":        "-j ACCEPT",
		` -m comment --comment "a -c 8 9 b" -c 1 2 -j ACCEPT`:       `-m comment --comment "a -c 8 9 b" -j ACCEPT`,
		` -m comment --comment "a \" -c 8 9 \" b" -c 1 2 -j ACCEPT`: `-m comment --comment "a \" -c 8 9 \" b" -j ACCEPT`,
	} {
		if rule, packets, bytes := cutCounters(spec); rule != want || packets != 1 || bytes != 2 {
			t.Errorf("%q: %q, %d, %d", spec, rule, packets, bytes)
		}
	}
}

// TestProgramsSayTheirVersions as the programs themselves do.
func TestProgramsSayTheirVersions(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		r, err := Open(Options{Variant: v})
		if err != nil {
			t.Fatal(err)
		}
		programs, err := r.Programs(t.Context())
		if err != nil || len(programs) != 2 {
			t.Fatalf("%+v, %v", programs, err)
		}
		for i, name := range []string{"iptables-" + string(v), "ip6tables-" + string(v)} {
			said, err := exec.Command(name, "--version").Output()
			p := programs[i]
			if err != nil || !strings.HasSuffix(p.Path, "/"+name) || !strings.Contains(string(said), " v"+p.Version+" ") ||
				p.Family != families()[i].String() || p.Variant != v || !p.Waits {
				t.Errorf("%+v, want %s, %v", p, said, err)
			}
		}
	})
}

// TestListerThatIsNotThere, or is of another name, or cannot be asked: it is said, and is no panic.
func TestListerThatIsNotThere(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		real := hide(t, "/usr/sbin", "/usr/local/sbin", "/sbin")
		multi := real + "/xtables-" + string(v) + "-multi"
		dir := t.TempDir()
		link := func(names ...string) {
			for _, name := range names {
				if err := exec.Command("ln", "-s", multi, dir+"/"+name).Run(); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Setenv("PATH", dir+":/usr/bin:/bin")
		link("iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore")
		r, err := Open(Options{Variant: v})
		if err != nil {
			t.Fatal(err)
		}
		if all, err := r.Programs(t.Context()); !errors.Is(err, ruleset.ErrUnsupported) || len(all) > 0 ||
			!strings.Contains(err.Error(), "IPv6: ") || !strings.Contains(err.Error(), "but no iptables-"+string(v)) {
			t.Errorf("%+v, %v", all, err)
		}
		link("iptables", "ip6tables-"+string(v))
		if all, err := r.Programs(t.Context()); err != nil || len(all) != 2 || all[0].Path != dir+"/iptables" {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

// TestHangingLister: a program that go-iptables waits for is killed when the context ends, and nobody else is.
func TestHangingLister(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		s.restore(t, foreign)
		wrap(t, "iptables-"+string(v)+"-restore", `exec REAL "$@"`) // so that the one beside it is not taken
		wrap(t, "iptables-"+string(v), `[ "$1" = --version ] && exec REAL "$@"; exec sleep 1000`)
		s.b = s.open(t, Options{Variant: v})
		bystander := exec.Command("cat")
		stdin, err := bystander.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		err = s.Do(func() error {
			if err := bystander.Start(); err != nil {
				return err
			}
			rules, err := s.b.Others(soon(t))
			if !errors.Is(err, context.DeadlineExceeded) ||
				slices.ContainsFunc(rules, func(r OtherRule) bool { return r.Family == "IPv4" }) {
				t.Errorf("%v, %v", rules, err)
			}
			return nil
		})
		if took := time.Since(begun); err != nil || took > 5*time.Second {
			t.Errorf("%v, %s", err, took)
		}
		if err := errors.Join(stdin.Close(), bystander.Wait()); err != nil {
			t.Errorf("a process that was there before: %v", err)
		}
		s.mustBeEmpty(t)
	})
}
