//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestProfile: each profile is written.
func TestProfile(t *testing.T) {
	netlab.Require(t)
	dir := filepath.Join(t.TempDir(), "profile")
	if err := profile(t.Context(), dir, 2, true, "", dataplane.BackendNFT); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cpu.pprof", "heap.pprof", "trace.out"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
