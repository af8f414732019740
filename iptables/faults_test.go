//go:build linux

package iptables

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/nslock"
	"github.com/mesh-intercept/intercept/ruleset"
)

const aloneEnv = "MESH_TEST_ALONE"

// alone runs the test once more, in a process that has its environment, its
// mounts and its network namespace to itself, and reports whether this is that
// process. In the other one the test is over when alone returns.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return true
	}
	t.Parallel()
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run="+pattern)
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err == nil && strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skipf("%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// aloneEach runs a test with each variant, each alone.
func aloneEach(t *testing.T, f func(*testing.T, Variant)) {
	if os.Getenv(aloneEnv) == "" {
		t.Parallel()
	}
	for _, v := range []Variant{NFT, Legacy} {
		t.Run(string(v), func(t *testing.T) {
			require(t, v)
			if alone(t) {
				f(t, v)
			}
		})
	}
}

// wrap puts a script in front of a program of the variant. REAL stands for the
// program, and $n counts its calls, from 1.
func wrap(t *testing.T, program, script string) {
	t.Helper()
	real, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\nn=$(($(cat %[1]s/n 2>/dev/null || echo 0) + 1)); echo $n > %[1]s/n\n%s\n", dir,
		strings.ReplaceAll(script, "REAL", real))
	if err := os.WriteFile(filepath.Join(dir, program), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func withDNS() intercept.Config {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Inbound.DropInvalid = true
	return c
}

// TestRefusedLineIsNamed: the program or the kernel refuses a rule. The error
// holds the rule, and nothing is written.
func TestRefusedLineIsNamed(t *testing.T) {
	old := compileConfig(t, withDNS())
	nat := func(rules ...ruleset.Rule) ruleset.Chain {
		return ruleset.Chain{Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain,
			Rules: rules}
	}
	variants(t, func(t *testing.T, v Variant) {
		for name, tt := range map[string]struct {
			chains []ruleset.Chain
			want   []string
		}{
			"by the program": {[]ruleset.Chain{nat(
				ruleset.Rule{ID: "O1", Reason: "fine", Target: ruleset.Return{}},
				ruleset.Rule{ID: "O2", Reason: "the culprit", Match: []ruleset.Match{ruleset.OutInterface("longer-than-fifteen")},
					Target: ruleset.Return{}})},
				[]string{"IPv4", `-A MESH_OUTPUT -o longer-than-fifteen -m comment --comment \"O2: the culprit\" -j RETURN`}},
			"by the kernel": {[]ruleset.Chain{
				nat(ruleset.Rule{ID: "O1", Reason: "in circles", Target: ruleset.Jump{Chain: "a"}}),
				{Name: "a", Type: ruleset.NATChain,
					Rules: []ruleset.Rule{{ID: "O2", Reason: "in circles", Target: ruleset.Jump{Chain: "b"}}}},
				{Name: "b", Type: ruleset.NATChain,
					Rules: []ruleset.Rule{{ID: "O3", Reason: "in circles", Target: ruleset.Jump{Chain: "a"}}}}},
				[]string{"IPv4", "; line "}},
		} {
			t.Run(name, func(t *testing.T) {
				s := newSite(t, Options{Variant: v})
				rs := ruleset.Ruleset{Families: old.Families, Chains: tt.chains}
				// Beside nothing, and beside rules of ours.
				was := s.everything(t)
				_, err := s.apply(rs)
				for _, want := range tt.want {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("Apply: %v, want %q", err, want)
					}
				}
				checkRestored(t, s, was)
				s.mustApply(t, old, ruleset.Created)
				s.seedCounters(t)
				saved := s.saved(t)
				if _, err := s.apply(rs); err == nil {
					t.Error("no error")
				}
				if diff := cmp.Diff(saved, s.saved(t)); diff != "" {
					t.Errorf("a failed Apply changed something:\n%s", diff)
				}
				s.mustBe(t, old)
				s.mustRemove(t)
				checkRestored(t, s, was)
			})
		}
	})
}

// ruled is what is saved, without tables that have no rules and without the
// notes on what was made of nf_tables, which may grow.
func ruled(saved string) string {
	var b strings.Builder
	for line := range strings.Lines(withoutEmpty(saved)) {
		if !strings.HasPrefix(line, ":"+madePrefix) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestNeitherOldNorNew: what is there after a failure is neither what was there before nor what was asked for. It is
// written again, and if that does not come about, the error says so.
func TestNeitherOldNorNew(t *testing.T) {
	const (
		// The nat table is not written, and the undo does nothing.
		half = `case $n in 1) sed '/^.nat/,$d' | REAL "$@"; echo "$0: no luck" >&2; exit 1;; 2) ;; ` +
			`*) exec REAL "$@";; esac`
		noLuck = `{ echo "$0: no luck" >&2; exit 1; }`
	)
	aloneEach(t, func(t *testing.T, v Variant) {
		for _, tt := range []struct {
			name, save, restore string // what goes wrong with them
			outcome             ruleset.Outcome
			words               string
		}{
			{"written at last", `[ $n = 4 ] && ` + noLuck, half, ruleset.Replaced, ""},
			{"half written", `[ $n -gt 3 ] && [ $n -lt 9 ] && ` + noLuck, half, "", "may be in force"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				s := newSite(t, Options{Variant: v})
				c := withDNS()
				c.Outbound.ExcludePorts = must(ruleset.ParsePorts("1-80"))
				s.mustApply(t, compileConfig(t, c), ruleset.Created)
				wrap(t, "ip6tables-"+string(v)+"-save", tt.save+`; exec REAL "$@"`)
				wrap(t, "ip6tables-"+string(v)+"-restore", tt.restore)
				s.b = s.open(t, Options{Variant: v})
				outcome, err := s.apply(compileConfig(t, withDNS()))
				switch {
				case outcome != tt.outcome, (err == nil) != (tt.words == ""):
					t.Errorf("Apply: %q, %v; want %q, %q", outcome, err, tt.outcome, tt.words)
				case err != nil && (!strings.Contains(err.Error(), tt.words) || !strings.Contains(err.Error(), "list the rules")):
					t.Errorf("Apply: %v", err)
				case err == nil:
					s.mustBe(t, compileConfig(t, withDNS()))
				}
			})
		}
	})
}

// TestOtherFamilyFails: the IPv6 rules cannot be written when those of IPv4 are.
// Both families are as they were, counters and all.
func TestOtherFamilyFails(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		program := "ip6tables-" + string(v) + "-restore"
		for _, fault := range []struct{ name, script string }{
			{"at once", `[ $n != 1 ] && exec REAL "$@"; echo "$0: line 1 failed: no luck" >&2; exit 1`},
			{"at the nat table", `[ $n != 1 ] && exec REAL "$@"; sed '/^.nat/,$d' | REAL "$@"; ` +
				`echo "$0: line 7 failed: no luck" >&2; exit 1`},
			{"after all was written", `REAL "$@"; [ $n != 1 ] || { echo "$0: no luck" >&2; exit 1; }`},
		} {
			for _, before := range []string{"nothing", "others", "ours", "ours beside others"} {
				for _, jumps := range []Jumps{JumpsFirst, JumpsLast} {
					if jumps == JumpsLast && before != "ours beside others" {
						continue
					}
					t.Run(fmt.Sprintf("%s, %s, %s", fault.name, before, jumps), func(t *testing.T) {
						s := newSite(t, Options{Variant: v, Jumps: jumps})
						empty := s.everything(t)
						if strings.Contains(before, "others") {
							s.restore(t, foreign)
						}
						if strings.Contains(before, "ours") {
							c := withDNS()
							c.Outbound.ExcludePorts = must(ruleset.ParsePorts("1-80"))
							c.Inbound.Mode = intercept.InboundOff
							s.mustApply(t, compileConfig(t, c), ruleset.Created)
							if strings.Contains(before, "others") {
								s.iptables(t, ruleset.IPv4, "-t nat -I OUTPUT 1 -j DOCKER") // our jump is in another place now
							}
							s.seedCounters(t)
						}
						saved := ruled(s.saved(t))
						wrap(t, program, fault.script)
						s.b = s.open(t, Options{Variant: v, Jumps: jumps})
						_, err := s.apply(compileConfig(t, withDNS()))
						if err == nil || !strings.HasPrefix(err.Error(), "IPv6: ") || !strings.Contains(err.Error(), "no luck") ||
							strings.Contains(err.Error(), "undone") {
							t.Errorf("Apply: %v", err)
						}
						if before == "nothing" {
							checkRestored(t, s, empty)
						}
						if diff := cmp.Diff(saved, ruled(s.saved(t))); diff != "" {
							t.Errorf("it is not as it was (-):\n%s", diff)
						}
						s.mustApply(t, compileConfig(t, withDNS()), "")
						s.mustBe(t, compileConfig(t, withDNS()))
						s.mustRemove(t)
						if !strings.Contains(before, "others") {
							checkRestored(t, s, empty)
						}
					})
				}
			}
		}
		t.Run("for ever", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			wrap(t, program, `[ $n != 1 ] || sed '/^.nat/,$d' | REAL "$@"; echo "$0: line 7 failed: no luck" >&2; exit 1`)
			s.b = s.open(t, Options{Variant: v})
			if _, err := s.apply(compileConfig(t, withDNS())); err == nil ||
				!strings.Contains(err.Error(), "IPv6 rules written before it could not be undone") {
				t.Errorf("Apply: %v", err)
			}
			if left := s.run(t, "", s.program(ruleset.IPv4, "save")); strings.Contains(left, "MESH_") {
				t.Errorf("left in IPv4:\n%s", left)
			}
		})
		t.Run("twice", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			s.mustApply(t, compileConfig(t, withDNS()), ruleset.Created)
			saved := s.rules(t)
			wrap(t, program, `sed '/^.nat/,$d' | REAL "$@"; [ $n -gt 2 ] || { echo "$0: line 7 failed: no luck" >&2; exit 1; }`)
			s.b = s.open(t, Options{Variant: v})
			if _, err := s.apply(compileConfig(t, intercept.Default())); err == nil || strings.Contains(err.Error(), "undone") {
				t.Errorf("Apply: %v", err)
			}
			if diff := cmp.Diff(saved, s.rules(t)); diff != "" {
				t.Errorf("it is not as it was (-):\n%s", diff)
			}
		})
		t.Run("at removal", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			s.mustApply(t, compileConfig(t, withDNS()), ruleset.Created)
			s.seedCounters(t)
			saved := s.saved(t)
			wrap(t, program, `[ $n != 1 ] && exec REAL "$@"; echo "$0: line 1 failed: no luck" >&2; exit 1`)
			s.b = s.open(t, Options{Variant: v})
			if removed, err := s.remove(); err == nil || removed || !strings.Contains(err.Error(), "no luck") {
				t.Errorf("Remove: %v, %v", removed, err)
			}
			if diff := cmp.Diff(saved, s.saved(t)); diff != "" {
				t.Errorf("it is not as it was (-):\n%s", diff)
			}
			s.mustRemove(t)
		})
	})
}

// TestTablesChangeMeanwhile: another program changes the tables between our
// look at them and our writing. Apply starts over.
func TestTablesChangeMeanwhile(t *testing.T) {
	const jump, forEver = "-m comment --comment Intercept -j MESH_OUTPUT", "a jump is gone for ever"
	aloneEach(t, func(t *testing.T, v Variant) {
		iptables, err := exec.LookPath("iptables-" + string(v))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, before, script string
			want                 ruleset.Outcome
		}{
			{"a jump that was right is gone", "", `REAL "$@"; [ $n != 1 ] || DELETE`, ruleset.Replaced},
			{"a jump that was to be moved is gone", "-t nat -I OUTPUT 1 -j ACCEPT", `REAL "$@"; [ $n != 1 ] || DELETE`,
				ruleset.Replaced},
			{"a jump is gone as soon as it is written", "nothing",
				`[ -e ${0%/*}/done ] || { DELETE && touch ${0%/*}/done; }; exec REAL "$@"`, ruleset.Created},
			// What is written all the same is said beside the error.
			{forEver, "", `DELETE; exec REAL "$@"`, ruleset.Replaced},
		} {
			t.Run(tt.name, func(t *testing.T) {
				s := newSite(t, Options{Variant: v})
				if tt.before != "nothing" {
					s.mustApply(t, compileConfig(t, withDNS()), ruleset.Created)
					if tt.before != "" {
						s.iptables(t, ruleset.IPv4, tt.before)
					}
				}
				wrap(t, "iptables-"+string(v)+"-save",
					strings.ReplaceAll(tt.script, "DELETE", "XTABLES_LOCKFILE=${0%/*}/theirs "+iptables+" -t nat -D OUTPUT "+jump))
				s.b = s.open(t, Options{Variant: v})
				rs := compileConfig(t, intercept.Default())
				outcome, err := s.apply(rs)
				ok := tt.name != forEver
				if ok != (err == nil) || outcome != tt.want || !ok &&
					!strings.Contains(err.Error(), "chain OUTPUT: does not lead to our chain") {
					t.Errorf("Apply: %s, %v", outcome, err)
				}
				if ok {
					s.mustBe(t, rs)
				}
			})
		}
	})
}

// TestIncompleteListing: iptables-nft-save leaves rules out where it does not hear an answer of the kernel's, and says
// nothing. They are not taken for gone.
func TestIncompleteListing(t *testing.T) {
	require(t, NFT)
	if !alone(t) {
		return
	}
	for _, omit := range []string{"/^:MESH_OUTPUT/d;/-A MESH_OUTPUT/d", "/-A MESH_OUTPUT/d", "/-A OUTPUT/d", "d"} {
		t.Run(omit, func(t *testing.T) {
			s := newSite(t, Options{Variant: NFT})
			rs := compileConfig(t, intercept.Default())
			s.mustApply(t, rs, ruleset.Created)
			everything := func() string { return s.run(t, "", "nft", "-s", "list", "ruleset") }
			was := everything()
			wrap(t, "iptables-nft-save", `if [ $(($n % 2)) = 1 ]; then REAL "$@" | sed '`+omit+`'; else exec REAL "$@"; fi`)
			s.b = s.open(t, Options{Variant: NFT})
			s.mustBe(t, rs)
			s.mustApply(t, rs, ruleset.Unchanged)
			if _, err := s.counters(); err != nil {
				t.Error(err)
			}
			wrap(t, "iptables-nft-save", `REAL "$@" | sed '`+omit+`'`)
			s.b = s.open(t, Options{Variant: NFT})
			if outcome, err := s.apply(compileConfig(t, withDNS())); outcome != "" || err == nil ||
				!strings.Contains(err.Error(), "has left out some") {
				t.Errorf("Apply: %q, %v", outcome, err)
			}
			if diff := cmp.Diff(was, everything()); diff != "" {
				t.Errorf("-before +after\n%s", diff)
			}
		})
	}
}

// hide mounts an empty file system over directories, and returns one in which
// all programs of iptables are.
func hide(t *testing.T, dirs ...string) string {
	t.Helper()
	real := t.TempDir()
	if err := unix.Mount("/usr/sbin", real, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	t.Cleanup(func() { unix.Unmount(real, unix.MNT_DETACH) })
	return real
}

// TestPrograms: the programs are found under all names they have, and what is
// missing is named.
func TestPrograms(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		other := map[Variant]Variant{NFT: Legacy, Legacy: NFT}[v]
		require(t, other)
		real := hide(t, "/usr/sbin", "/usr/local/sbin", "/usr/bin", "/sbin", "/bin")
		multi := filepath.Join(real, "xtables-"+string(v)+"-multi")
		all := []string{"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"}
		for name, tt := range map[string]struct {
			link, copy map[string]string
			opens      string // an error of Open
			applies    string // an error of Apply
		}{
			"none": {nil, nil,
				"there is no iptables-" + string(v) + "-restore and no iptables-restore in PATH or /usr/sbin, ", ""},
			"only the multi-purpose binary": {map[string]string{filepath.Base(multi): multi}, nil, "", ""},
			"without suffix, as links":      {map[string]string{"*": multi}, nil, "", ""},
			"without suffix, as copies":     {nil, map[string]string{"*": multi}, "", ""},
			"without suffix, of the other variant": {
				map[string]string{"*": filepath.Join(real, "xtables-"+string(other)+"-multi")}, nil,
				"is the " + string(other) + " variant, and there is no iptables-" + string(v) + "-restore: " +
					"install it, or use the backend iptables-" + string(other), ""},
			"copies of the other variant": {nil, map[string]string{"*": filepath.Join(real, "xtables-"+string(other)+"-multi")},
				"is the " + string(other) + " variant", ""},
			"to restore but not to save": {map[string]string{"iptables-restore": multi, "ip6tables-restore": multi}, nil,
				"install iptables, or use the backend nft", ""},
			"for IPv4 only": {map[string]string{"iptables-restore": multi, "iptables-save": multi}, nil, "",
				"IPv6: there is no ip6tables-"},
		} {
			t.Run(name, func(t *testing.T) {
				path := t.TempDir()
				t.Setenv("PATH", path)
				put := func(m map[string]string, how func(from, to string) error) {
					for name, target := range m {
						names := []string{name}
						if name == "*" {
							names = all
						}
						for _, n := range names {
							if err := how(target, filepath.Join(path, n)); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				put(tt.link, os.Symlink)
				put(tt.copy, copyFile)
				b, err := Open(Options{Variant: v})
				if tt.opens != "" {
					if !errors.Is(err, ruleset.ErrUnsupported) || !strings.Contains(err.Error(), tt.opens) {
						t.Errorf("Open: %v, want %q", err, tt.opens)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				s := newSite(t, Options{Variant: v})
				s.b = b
				if tt.applies != "" {
					if _, err := s.apply(compileConfig(t, withDNS())); !errors.Is(err, ruleset.ErrUnsupported) ||
						!strings.Contains(err.Error(), tt.applies) {
						t.Errorf("Apply: %v, want %q", err, tt.applies)
					}
					c := withDNS()
					c.Families = intercept.FamiliesIPv4
					s.mustApply(t, compileConfig(t, c), ruleset.Created)
					s.mustBe(t, compileConfig(t, c))
					return
				}
				s.mustApply(t, compileConfig(t, withDNS()), ruleset.Created)
				s.mustBe(t, compileConfig(t, withDNS()))
			})
		}
		// PATH does not name them, but they are where they usually are.
		t.Run("not in PATH", func(t *testing.T) {
			if err := os.Symlink(multi, "/usr/local/sbin/"+filepath.Base(multi)); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", "")
			s := newSite(t, Options{Variant: v})
			s.mustApply(t, compileConfig(t, withDNS()), ruleset.Created)
		})
	})
	for _, o := range []Options{{}, {Variant: "iptables"}, {Variant: NFT, Dialect: "gaelic"}} {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "of iptables; there are") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// TestXtablesLock: another program holds the lock of xtables all the time.
func TestXtablesLock(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		path := filepath.Join(t.TempDir(), "lock")
		t.Setenv("XTABLES_LOCKFILE", path)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		rs := compileConfig(t, withDNS())
		s := newSite(t, Options{Variant: v, SharedLock: true, Wait: time.Second})
		was := s.everything(t)
		if v == NFT { // it needs no lock
			s.mustApply(t, rs, ruleset.Created)
			return
		}
		_, err = s.apply(rs)
		holder := fmt.Sprintf("%s is held, by process %d (", path, os.Getpid())
		if !errors.Is(err, ruleset.ErrLocked) || !strings.Contains(err.Error(), holder) {
			t.Errorf("Apply: %v, want %q", err, holder)
		}
		checkRestored(t, s, was)
		// Who has another file system does not wait for it.
		other := newSite(t, Options{Variant: v, Wait: time.Second})
		other.mustApply(t, rs, ruleset.Created)
		if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		s.mustApply(t, rs, ruleset.Created)
	})
}

// TestNamespaceLock: one of us is at work in the namespace all the time.
func TestNamespaceLock(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v, Wait: 20 * time.Millisecond})
		rs := compileConfig(t, withDNS())
		s.mustApply(t, rs, ruleset.Created)
		var lock *os.File
		err := s.Do(func() (err error) { lock, err = nslock.Open(t.Context(), 0, nil); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		_, aerr := s.apply(rs)
		_, cerr := s.check(rs)
		_, nerr := s.counters()
		_, rerr := s.remove()
		holder := fmt.Sprintf("locked by another program for 20ms: by process %d (", os.Getpid())
		for _, err := range []error{aerr, cerr, nerr, rerr} {
			if !errors.Is(err, ruleset.ErrLocked) || !strings.Contains(err.Error(), holder) {
				t.Errorf("%v, want %q", err, holder)
			}
		}
		// Who holds it does not wait for itself, and keeps it.
		s.b.o.Lock = lock
		s.mustApply(t, rs, ruleset.Unchanged)
		s.b.o.Lock = nil
		if _, err := s.check(rs); !errors.Is(err, ruleset.ErrLocked) {
			t.Errorf("the lock is not held any more: %v", err)
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		s.mustApply(t, rs, ruleset.Unchanged)
	})
}

// TestNoPlaceForTheLock: where the lock's file cannot be, none is needed.
func TestNoPlaceForTheLock(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		dir := t.TempDir()
		defer unix.Unmount(dir, unix.MNT_DETACH)
		mount := func(flags uintptr, data string) {
			unix.Unmount(dir, unix.MNT_DETACH)
			if err := unix.Mount("none", dir, "tmpfs", flags, data); err != nil {
				t.Fatal(err)
			}
		}
		for name, f := range map[string]func(){
			"no directory": func() { t.Setenv("XTABLES_LOCKFILE", dir+"/missing/lock") },
			"read-only":    func() { mount(unix.MS_RDONLY, ""); t.Setenv("XTABLES_LOCKFILE", dir+"/lock") },
			"full":         func() { mount(0, "size=4k,nr_inodes=1"); t.Setenv("XTABLES_LOCKFILE", dir+"/lock") },
			"a directory":  func() { mount(0, ""); t.Setenv("XTABLES_LOCKFILE", dir) },
			"read-only /run": func() {
				if err := unix.Mount("none", "/run", "tmpfs", unix.MS_RDONLY, ""); err != nil {
					t.Fatal(err)
				}
				t.Setenv("XTABLES_LOCKFILE", "")
			},
		} {
			f()
			s := newSite(t, Options{Variant: v, SharedLock: true})
			if outcome, err := s.apply(compileConfig(t, withDNS())); err != nil || outcome != ruleset.Created {
				t.Errorf("%s: %s, %v", name, outcome, err)
			}
			if removed, err := s.remove(); err != nil || !removed {
				t.Errorf("%s: %t, %v", name, removed, err)
			}
		}
	})
}

// TestNoPrivilege: without CAP_NET_ADMIN the error says so and how to get it.
func TestNoPrivilege(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		if v == Legacy { // where there is no table, nothing is asked of the kernel
			s.mustApply(t, compileConfig(t, intercept.Default()), ruleset.Created)
		}
		was := s.everything(t)
		err := s.Do(func() error {
			// The programs started by this thread get no more than its bounding set.
			for _, c := range []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
					return err
				}
			}
			_, err := s.b.Apply(t.Context(), compileConfig(t, withDNS()))
			return err
		})
		if !errors.Is(err, ruleset.ErrPermission) || !strings.Contains(err.Error(), "NET_ADMIN") {
			t.Errorf("Apply: %v", err)
		}
		checkRestored(t, s, was)
	})
}

// refusedByAll fails unless every verb says the same, and changes nothing.
func (s site) refusedByAll(t *testing.T, kind error, words ...string) {
	t.Helper()
	rs := compileConfig(t, withDNS())
	before := s.everything(t)
	_, aerr := s.apply(rs)
	_, cerr := s.check(rs)
	_, rerr := s.remove()
	_, nerr := s.counters()
	for verb, err := range map[string]error{"Apply": aerr, "Check": cerr, "Remove": rerr, "Counters": nerr} {
		if !errors.Is(err, kind) {
			t.Errorf("%s: %v", verb, err)
			continue
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", verb, err, w)
			}
		}
	}
	if diff := cmp.Diff(before, s.everything(t)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
}

// TestForeignChain: a chain of our name that is not ours is refused by every
// verb, and stays as it is.
func TestForeignChain(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, table := range []string{"nat", "raw", "mangle", "filter"} {
			for _, f := range families() {
				s := newSite(t, Options{Variant: v})
				if table == "mangle" { // where ours are, too, in other tables
					s.mustApply(t, compileConfig(t, intercept.Default()), ruleset.Created)
				}
				s.run(t, "*"+table+"\n:MESH_OUTPUT - [0:0]\n-A MESH_OUTPUT -p tcp -j RETURN\n-A OUTPUT -j MESH_OUTPUT\nCOMMIT\n",
					s.program(f, "restore"), "--noflush")
				s.refusedByAll(t, ruleset.ErrForeign, f.String()+", table "+table+", chain MESH_OUTPUT", "rename it, or remove it")
			}
		}
	})
}

// TestTableThatCannotBeListed: nft rules in a table of iptables-nft can make it
// say nothing about the table. What was written there could not be found again.
func TestTableThatCannotBeListed(t *testing.T) {
	t.Parallel()
	require(t, NFT) // legacy tables can be listed
	const rule = `add table ip nat; add chain ip nat OUTPUT { type nat hook output priority -100; policy accept; }; ` +
		`add rule ip nat OUTPUT fib daddr type local counter`
	for _, applied := range []bool{false, true} {
		s := newSite(t, Options{Variant: NFT})
		if applied {
			s.mustApply(t, compileConfig(t, withDNS()), ruleset.Created)
		}
		s.run(t, rule, "nft", "-f", "-")
		s.refusedByAll(t, ruleset.ErrUnsupported, "table nat has rules that iptables cannot list", "use the backend nft")
	}
}

// TestCounters: the many rules that one of the policy can be are added up, in
// the order in which packets meet them.
func TestCounters(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		var rules []ruleset.Rule
		for i := range 14 { // with a part of the chain each, so that names do not sort
			rules = append(rules, ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("O%d", i+1)), Reason: "not there: really",
				Target: ruleset.Return{}, Match: []ruleset.Match{
					ruleset.Proto{ruleset.TCP,
						ruleset.UDP}, ruleset.Not{Match: ruleset.Dst(mustCIDRs(fmt.Sprintf("192.0.2.%d,198.51.100.0/24,fd00::/8,::%d",
						2*i+1, i+2)))}}})
		}
		rs := ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4, ruleset.IPv6}, Chains: []ruleset.Chain{
			{Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain, Rules: rules}}}
		s.mustApply(t, rs, ruleset.Created)
		s.seedCounters(t)
		want := map[string]uint64{} // packets by family and line
		for _, f := range families() {
			l, err := parse(s.run(t, "", s.program(f, "save"), "-c"))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range l.table("nat").chains {
				for i, comment := range c.comments() {
					r := c.rules[i]
					if line, ok := strings.CutPrefix(comment, "O"); ok {
						n, _, _ := strings.Cut(line, ":")
						want[f.String()+" O"+n] += r.packets
						if r.bytes != 100*r.packets {
							t.Fatalf("%+v", r)
						}
					}
				}
			}
		}
		got, err := s.counters()
		if err != nil || len(got) != 28 || len(want) != 28 {
			t.Fatalf("%d counters, %d wanted, %v: %+v", len(got), len(want), err, got)
		}
		for i, c := range got {
			family, n := ruleset.IPv4, i+1
			if i >= 14 {
				family, n = ruleset.IPv6, i-13
			}
			line := fmt.Sprintf("O%d", n)
			packets := want[family.String()+" "+line]
			if c != (ruleset.Counter{Chain: "output", Rule: ruleset.RuleID(line), Line: line, Reason: "not there: really",
				Family: family.String(), Packets: packets, Bytes: 100 * packets}) || packets == 0 &&
				(v == Legacy || family == ruleset.IPv4) {
				t.Errorf("counter %d: %+v, want %s, %d packets", i, c, line, packets)
			}
		}
		// Without comments a rule is called by what it says.
		s = newSite(t, Options{Variant: v, Dialect: Minimal})
		s.mustApply(t, compileConfig(t, fitting(intercept.Default(), Minimal)), ruleset.Created)
		if got, err = s.counters(); err != nil || len(got) < 10 || !strings.HasPrefix(got[0].Reason, "-") {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
