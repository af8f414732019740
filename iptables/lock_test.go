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
