//go:build linux

package iptables

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestConcurrentApplies: six at once end in one of the six, whole.
func TestConcurrentApplies(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		// Six wait for each other's lock. How long an apply takes here says how long that may be.
		first := newSite(t, Options{Variant: v})
		begun := time.Now()
		first.mustApply(t, random(t, 300), ruleset.Created)
		o := Options{Variant: v, Wait: max(DefaultWait, 100*time.Since(begun))}
		for round := range 3 {
			if round == 2 {
				o.sets = 2
			}
			s := newSite(t, o)
			was := s.everything(t)
			if round == 1 {
				s.mustApply(t, random(t, 999), ruleset.Created)
			}
			var wg sync.WaitGroup
			errs := make([]error, 6)
			for i := range errs {
				rs := random(t, 300+uint64(i))
				own := site{s.Namespace, s.open(t, o), v}
				wg.Go(func() { _, errs[i] = own.apply(rs) })
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			var all []string
			same := 0
			for i := range uint64(6) {
				diffs, err := s.check(random(t, 300+i))
				if err != nil {
					t.Fatal(err)
				}
				if len(diffs) == 0 {
					same++
				}
				all = append(all, joinDifferences(diffs))
			}
			if same != 1 {
				t.Fatalf("the kernel holds %d of them:\n%s", same, strings.Join(all, "\n"))
			}
			s.mustRemove(t)
			checkRestored(t, s, was)
		}
	})
}

const (
	applierEnv = "MESH_TEST_APPLIER"
	choices    = 4
)

// TestMain makes of the test binary, if asked, a program that applies rules
// until it is killed.
func TestMain(m *testing.M) {
	if v := os.Getenv(applierEnv); v != "" {
		applyForever(Variant(v))
	}
	os.Exit(m.Run())
}

// choice is one of the configurations that are applied and killed. They differ
// in the tables they need.
func choice(i uint64) intercept.Config {
	c := gen.Config(rand.New(rand.NewPCG(500+i, 11)))
	c.Families, c.OtherFamily = intercept.FamiliesAuto, intercept.TreatmentPass
	c.DNS.Mode = []intercept.DNSMode{intercept.DNSAll, intercept.DNSOff}[i%2]
	c.DNS.Servers = nil
	c.Inbound.DropInvalid = i < 2
	return c
}

func applyForever(v Variant) {
	o := Options{Variant: v, sets: 2}
	if v == NFT {
		sock, err := nft.Open()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		o.Objects = objects{sock}
	}
	b, err := Open(o)
	if err == nil {
		fmt.Println("ready")
		for i := uint64(0); err == nil; i++ {
			var rs ruleset.Ruleset
			rs, err = intercept.Compile(choice(i % choices))
			rs.Routes = nil
			if err == nil {
				_, err = b.Apply(context.Background(), rs)
			}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// survivors are the programs of iptables that run in the namespace.
func (s site) survivors(t *testing.T) (names []string) {
	t.Helper()
	here, err := os.Stat(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		comm, err := os.ReadFile(p + "/comm")
		if err != nil || !strings.Contains(string(comm), "tables") && !strings.Contains(string(comm), "exe") {
			continue
		}
		if there, err := os.Stat(p + "/ns/net"); err == nil && os.SameFile(here, there) {
			names = append(names, strings.TrimSpace(string(comm)))
		}
	}
	return names
}

// mustHold fails unless each set that rules of ours ask has all that one of the configurations has in it.
func (s site) mustHold(t *testing.T, l listing, want []map[ruleset.Family]program) {
	t.Helper()
	s.withSets(t, func(c *ipset.Conn) error {
		for name := range l.asks() {
			known := false
			for _, w := range want {
				for _, p := range w {
					if i := slices.IndexFunc(p.sets, func(a asked) bool { return a.Name() == name }); i >= 0 && !known {
						known = true
						if found, err := c.Look(p.sets[i].Set); err != nil || found != ipset.Whole {
							t.Errorf("set %s, which rules ask: %d, %v", name, found, err)
						}
					}
				}
			}
			if !known {
				t.Errorf("nobody has set %s", name)
			}
		}
		return nil
	})
}

// TestKilled: a program that applies rules is killed at random moments. What
// it leaves in a table is always all that one of the configurations has there,
// and the next Apply and Remove find nothing in their way.
func TestKilled(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		var want []map[ruleset.Family]program
		var rulesets []ruleset.Ruleset
		for i := range uint64(choices) {
			rs := compileConfig(t, choice(i))
			rulesets = append(rulesets, rs)
			w := map[ruleset.Family]program{}
			for _, f := range families() {
				w[f] = must(compile(rs, f, Options{Variant: v, sets: 2}, everyone()))
			}
			want = append(want, w)
		}
		s := newSite(t, Options{Variant: v, sets: 2})
		s.restore(t, foreign)
		was, wasTheirs := s.everything(t), withoutEmpty(s.saved(t))
		// How long it takes here to apply each of the configurations. The first time the kernel may have to load modules.
		var span time.Duration
		for range 2 {
			begun := time.Now()
			for _, rs := range rulesets {
				s.mustApply(t, rs, "")
			}
			span = max(100*time.Millisecond, time.Since(begun))
		}
		s.mustRemove(t)
		r := rand.New(rand.NewPCG(9, 9))
		outcomes := map[string]bool{}
		mixed := 0
		for kill := range 24 {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), applierEnv+"="+string(v))
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(cmd, nil); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 100)
			n, err := stdout.Read(line)
			if err != nil || string(line[:n]) != "ready\n" {
				t.Fatalf("%q, %v", line[:n], err)
			}
			// The moment is what varies; nothing is waited for.
			<-time.After(time.Duration(r.Int64N(int64(span))))
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the program ended by itself: %v", err)
			}
			if kill%3 == 2 {
				// Who comes next need not wait: what the killed one started keeps
				// the namespace locked until it has ended.
				rs := rulesets[r.IntN(choices)]
				s.mustApply(t, rs, "")
				if left := s.survivors(t); len(left) > 0 {
					t.Fatalf("still at work: %v", left)
				}
				s.mustBe(t, rs)
				continue
			}
			for end := time.Now().Add(10*time.Second + 10*span); len(s.survivors(t)) > 0; <-time.After(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%v never end", s.survivors(t))
				}
			}
			saved := s.saved(t)
			seen := map[int]bool{}
			for _, f := range families() {
				l, err := parse(s.run(t, "", s.program(f, "save"), "-c"))
				if err != nil {
					t.Fatal(err)
				}
				if err := l.foreign(f); err != nil {
					t.Error(err)
				}
				for _, name := range tableNames() {
					found := -1
					var all []string
					for i := range choices {
						diffs := l.table(name).differences(want[i][f].table(name), s.b.o)
						all = append(all, joinDifferences(diffs))
						if len(diffs) == 0 {
							found = i
							break
						}
					}
					if found < 0 && len(l.table(name).differences(table{name: name}, s.b.o)) > 0 {
						t.Fatalf("%s, table %s, is none of them:\n%s", f, name, strings.Join(all, "\n"))
					}
					if len(want[0][f].table(name).chains) > 0 {
						seen[found] = true
					}
				}
				s.mustHold(t, l, want)
			}
			if len(seen) > 1 {
				mixed++
			}
			if diff := cmp.Diff(wasTheirs, theirs(saved)); diff != "" {
				t.Fatalf("other people's rules changed:\n%s", diff)
			}
			outcomes[saved] = true
			if kill%4 == 1 {
				if _, err := s.remove(); err != nil {
					t.Fatal(err)
				}
				checkRestored(t, s, was)
			}
		}
		if len(outcomes) < 3 {
			t.Errorf("the rules were hardly ever replaced before the kill: %d outcomes", len(outcomes))
		}
		t.Logf("%d outcomes, in %d of them tables of different configurations", len(outcomes), mixed)
		s.mustApply(t, rulesets[0], "")
		s.mustBe(t, rulesets[0])
		s.mustRemove(t)
		checkRestored(t, s, was)
	})
}
