//go:build linux

package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/nslock"
	"github.com/mesh-intercept/intercept/ruleset"
)

// soon is a context that ends while a program hangs.
func soon(t *testing.T) context.Context { return soonAfter(t, 0) }

// soonAfter is a context that ends soon, but not before what takes so long on this machine is done.
func soonAfter(t *testing.T, usual time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond+8*usual)
	t.Cleanup(cancel)
	return ctx
}

// mustBeEmpty fails if a process is left in the namespace.
func (s site) mustBeEmpty(t *testing.T) {
	t.Helper()
	here, err := os.Stat(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	left := func() (names []string) {
		procs, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range procs {
			if there, err := os.Stat(p + "/ns/net"); err == nil && os.SameFile(here, there) {
				comm, _ := os.ReadFile(p + "/comm")
				names = append(names, strings.TrimSpace(string(comm)))
			}
		}
		return names
	}
	// Who is killed by a signal to a group ends soon, not at once.
	for end := time.Now().Add(2 * time.Second); len(left()) > 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still at work: %v", left())
		}
	}
}

// TestHangingProgram: a program that hangs is ended with the context, and the error is the context's. What was written
// until then is undone, or said.
func TestHangingProgram(t *testing.T) {
	old := withDNS()
	old.Outbound.ExcludePorts = must(ruleset.ParsePorts("1-80"))
	aloneEach(t, func(t *testing.T, v Variant) {
		var usual time.Duration // of an apply
		for _, tt := range []struct {
			name, program, script string
			outcome               ruleset.Outcome // of Apply: what is said to be written
			words                 string
		}{
			{"listing", "ip6tables-%s-save", `[ $n != 1 ] && exec REAL "$@"; sleep 1000`, "", "list the rules: "},
			{"writing IPv4", "iptables-%s-restore", `[ $n != 1 ] && exec REAL "$@"; sleep 1000`, "", "IPv4: "},
			{"writing IPv6", "ip6tables-%s-restore", `[ $n != 1 ] && exec REAL "$@"; sleep 1000`, "", "IPv6: "},
			{"half way", "ip6tables-%s-restore", `[ $n != 1 ] && exec REAL "$@"; sed '/^.nat/,$d' | REAL "$@"; sleep 1000`, "",
				"IPv6: "},
			{"after all was written", "ip6tables-%s-restore", `REAL "$@"; [ $n != 1 ] || sleep 1000`, "", "IPv6: "},
			{"reading back", "iptables-%s-save", `[ $n = 1 ] && exec REAL "$@"; sleep 1000`, ruleset.Replaced,
				"the rules are written, but could not be read back"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				s := newSite(t, Options{Variant: v})
				begun := time.Now()
				s.mustApply(t, compileConfig(t, old), ruleset.Created)
				usual = time.Since(begun)
				s.seedCounters(t)
				saved := ruled(s.saved(t))
				wrap(t, fmt.Sprintf(tt.program, v), tt.script)
				s.b = s.open(t, Options{Variant: v})
				begun = time.Now()
				outcome, err := s.applyIn(soonAfter(t, usual), compileConfig(t, withDNS()))
				if took := time.Since(begun); took > 10*time.Second+20*usual {
					t.Errorf("it took %s", took)
				}
				if !errors.Is(err, context.DeadlineExceeded) || outcome != tt.outcome || !strings.Contains(err.Error(), tt.words) {
					t.Errorf("Apply: %s, %v; want %q", outcome, err, tt.words)
				}
				s.mustBeEmpty(t)
				if tt.outcome == "" {
					if diff := cmp.Diff(saved, ruled(s.saved(t))); diff != "" {
						t.Errorf("it is not as it was (-):\n%s", diff)
					}
				}
			})
		}
		t.Run("the undo as well", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			wrap(t, "iptables-"+string(v)+"-restore", `REAL "$@"; sleep 1000`)
			s.b = s.open(t, Options{Variant: v})
			_, err := s.applyIn(soonAfter(t, usual), compileConfig(t, withDNS()))
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "could not be undone") {
				t.Errorf("Apply: %v", err)
			}
			s.mustBeEmpty(t)
		})
		t.Run("others", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			rs := compileConfig(t, withDNS())
			s.mustApply(t, rs, ruleset.Created)
			saved := s.saved(t)
			released := filepath.Join(t.TempDir(), "released") // a call can also end before it comes to its program
			wrap(t, "iptables-"+string(v)+"-save", `[ -e `+released+` ] && exec REAL "$@"; sleep 1000`)
			s.b = s.open(t, Options{Variant: v})
			err := s.Do(func() error {
				_, cerr := s.b.Check(soon(t), rs)
				_, nerr := s.b.Counters(soon(t), nil)
				_, rerr := s.b.Remove(soon(t))
				for _, err := range []error{cerr, nerr, rerr} {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
				}
				return os.WriteFile(released, nil, 0o644)
			})
			if err != nil {
				t.Fatal(err)
			}
			s.mustBeEmpty(t)
			if diff := cmp.Diff(saved, s.saved(t)); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
		})
		t.Run("what it is", func(t *testing.T) {
			hide(t, "/usr/sbin", "/usr/local/sbin", "/sbin")
			dir := t.TempDir()
			for _, name := range []string{"iptables-save", "iptables-restore"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nsleep 1000\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir+":/usr/bin:/bin")
			if _, err := Open(Options{Variant: v, Wait: 100 * time.Millisecond}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Open: %v", err)
			}
		})
	})
}

// TestContextEnds: nothing is begun when the context has ended, and waiting for the lock ends with it.
func TestContextEnds(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v, Wait: time.Minute})
		rs := compileConfig(t, intercept.Default())
		was := s.everything(t)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.applyIn(ended, rs); !errors.Is(err, context.Canceled) {
			t.Errorf("Apply: %v", err)
		}
		checkRestored(t, s, was)
		err := s.Do(func() error {
			lock, err := nslock.Open(t.Context(), 0, nil)
			if err != nil {
				return err
			}
			_, err = s.b.Apply(soon(t), rs)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ruleset.ErrLocked) {
				t.Errorf("Apply while another has the lock: %v", err)
			}
			return lock.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
		checkRestored(t, s, was)
	})
}
