//go:build linux && cluster

package examples_test

import (
	"os"
	"testing"

	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestCoreDNS types the commands of examples/coredns, with the CoreDNS that `make cluster` builds.
func TestCoreDNS(t *testing.T) {
	coredns := os.Getenv("MESH_TEST_COREDNS")
	if coredns == "" {
		t.Fatal("MESH_TEST_COREDNS names no coredns; make cluster builds one, and runs this test")
	}
	how := typing(t, "coredns")
	how.Programs = []string{coredns}
	quickstart.Type(t, readme("coredns"), how)
}
