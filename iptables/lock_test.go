//go:build linux

package iptables

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/ruleset"
)

// TestLockIsFIFO: the programs would wait at it for ever, and are not started.
func TestLockIsFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "xtables.lock")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XTABLES_LOCKFILE", fifo)
	if _, _, err := (Options{Variant: Legacy, SharedLock: true}).xtablesLock(); !errors.Is(err, ErrLockFIFO) ||
		!strings.Contains(err.Error(), fifo) {
		t.Errorf("the shared lock: %v", err)
	}
	r := &Runner{o: Options{Variant: Legacy}, missing: map[ruleset.Family]error{}}
	if _, err := r.Others(t.Context()); !errors.Is(err, ErrLockFIFO) {
		t.Errorf("others' rules: %v", err)
	}
	// Where it is not shared it is nobody's affair.
	path, f, err := (Options{Variant: Legacy}).xtablesLock()
	if err != nil || path == fifo {
		t.Fatalf("a lock of our own: %s, %v", path, err)
	}
	f.Close()
}

// FuzzLockedBy holds that no list of locks makes a panic, and that who holds one is a
// process.
func FuzzLockedBy(f *testing.F) {
	f.Add("1: FLOCK  ADVISORY  WRITE 4711 00:1a:12345 0 EOF\n"+
		"2: -> FLOCK ADVISORY WRITE 5 00:1a:12345 0 EOF\n", uint64(12345))
	f.Add("1: FLOCK ADVISORY WRITE -1 00:1a:7 0 EOF", uint64(7))
	f.Add("1: FLOCK ADVISORY WRITE ../self x:7 0", uint64(7))
	f.Fuzz(func(t *testing.T, locks string, inode uint64) {
		if pid := lockedBy(locks, inode); pid != "" && strings.Trim(pid, "0123456789") != "" {
			t.Fatalf("%q: %q", locks, pid)
		}
	})
}

// FuzzOthers holds that whatever iptables prints of others' rules is shown, each rule
// of the chain but those that lead to ours, with no word of it lost but its counters.
func FuzzOthers(f *testing.F) {
	f.Add("-P OUTPUT ACCEPT\n-A OUTPUT -p tcp -m comment --comment \"a -c 1 2 \\\" b\" -c 3 4 -j DOCKER\n" +
		"-A OUTPUT -c 1 1 -j MESH_OUTPUT\n-A OUTPUT -j X -c 5 6")
	f.Add("-A OUTPUT -c 99999999999999999999 1 -j \"\\\n-A OUTPUT\n-A OUTPUTX -j Y")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		rules := others(lines, OtherRule{Chain: "OUTPUT"})
		if len(rules) > len(lines) {
			t.Fatalf("%d rules of %d lines", len(rules), len(lines))
		}
		for _, r := range rules {
			if !strings.Contains(text, strings.Fields(r.Rule + " -A")[0]) || strings.TrimSpace(r.Rule) != r.Rule {
				t.Fatalf("%+v of %q", r, text)
			}
		}
	})
}
