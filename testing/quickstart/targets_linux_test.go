package quickstart_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestTargets: a target makes what it takes from bin or dist, and not all programs where it takes one.
func TestTargets(t *testing.T) {
	netlab.RequireProgram(t, "make")
	for target, runs := range map[string]string{
		"demo":     "go run ./testing/demo ",
		"packages": " completion ",
	} {
		cmd := exec.Command("make", "-n", target)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("make -n %s: %v: %s", target, err, out)
		}
		before, _, found := strings.Cut(string(out), runs)
		if !found || !strings.Contains(before, " ./cmd/mesh-init\n") || strings.Contains(before, "/cmd/mesh-cni") {
			t.Errorf("make -n %s: %s", target, out)
		}
	}
}
