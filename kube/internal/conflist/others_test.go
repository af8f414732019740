package conflist

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestLockHeld: whoever may read the directory can hold its lock; the agent waits
// for it for a while.
func TestLockHeld(t *testing.T) {
	dir := Dir{Path: t.TempDir()}
	theirs, err := os.Open(dir.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := syscall.Flock(int(theirs.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ours, err := dir.open(dir.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := flock(ours, 30*time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Errorf("a lock that is held: %v", err)
	}
	if err := syscall.Flock(int(theirs.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := flock(ours, time.Minute); err != nil {
		t.Error(err)
	}
}

// TestFIFOs: what waits for a writer is an error wherever a file or a directory is
// named.
func TestFIFOs(t *testing.T) {
	_, conf, bin := node(t, "calico")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"configurations": func() error { _, err := Dir{Path: fifo}.Read(); return err },
		"installation":   func() error { _, err := Dir{Path: fifo}.Install(ours()); return err },
		"programs":       func() error { _, err := Dir{Path: fifo}.InstallBinary("/proc/self/exe", "mesh-cni"); return err },
		"the plugin":     func() error { _, err := bin.InstallBinary(fifo, "mesh-cni"); return err },
		"removal":        func() error { return bin.RemoveBinary("mesh-cni", Dir{Path: fifo}) },
	} {
		if err := do(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// In place of the plugin it is replaced.
	if err := syscall.Mkfifo(filepath.Join(bin.Path, "mesh-cni"), 0o755); err != nil {
		t.Fatal(err)
	}
	if changed, err := bin.InstallBinary("/proc/self/exe", "mesh-cni"); err != nil || !changed {
		t.Errorf("a FIFO in the plugin's place: %v, %v", changed, err)
	}
	if info, err := os.Lstat(filepath.Join(bin.Path, "mesh-cni")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := conf.Install(ours()); err != nil {
		t.Error(err)
	}
}
