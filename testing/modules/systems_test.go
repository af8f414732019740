package modules_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSameAPI: what the packages that people import export, and what is written about it, is the same on every system,
// so that a program that uses them builds everywhere.
func TestSameAPI(t *testing.T) {
	document := func(system, pkg string) string {
		cmd := exec.CommandContext(t.Context(), "go", "doc", "-all", pkg)
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local", "GOOS="+system)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("GOOS=%s %s: %v\n%s", system, cmd, err, out)
		}
		return string(out)
	}
	packages := strings.Fields(command(t, "../..", "", "go", "list", "./..."))
	tried := 0
	for _, pkg := range packages {
		within := strings.TrimPrefix(pkg, module)
		if strings.Contains(within, "/internal/") || strings.HasPrefix(within, "/cmd/") ||
			strings.HasPrefix(within, "/testing/") || strings.HasPrefix(within, "/examples/") {
			continue
		}
		tried++
		linux := document("linux", pkg)
		for _, system := range []string{"darwin", "windows"} {
			if diff := cmp.Diff(linux, document(system, pkg)); diff != "" {
				t.Errorf("%s on %s, beside Linux (-):\n%s", pkg, system, diff)
			}
		}
	}
	if tried < 5 {
		t.Errorf("%d packages to import, of %q", tried, packages)
	}
}
