//go:build linux

package e2e_test

import (
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestMigrateKuma types the commands of docs/migrate-kuma.md, and compares what they print with what the page shows.
// With MESH_TEST_UPDATE=1 it writes that into the page instead.
func TestMigrateKuma(t *testing.T) {
	netlab.RequireProgram(t, "iptables-nft-restore")
	quickstart.Type(t, "../../docs/migrate-kuma.md", quickstart.Typing{})
}

// TestMigrateLinkerd does the same with docs/migrate-linkerd.md.
func TestMigrateLinkerd(t *testing.T) {
	netlab.RequireProgram(t, "iptables-nft-restore")
	quickstart.Type(t, "../../docs/migrate-linkerd.md", quickstart.Typing{})
}
