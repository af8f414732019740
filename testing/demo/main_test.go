//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// TestDemo: every flow of the demonstration goes as the rules say, and what the
// README shows of it is what it prints.
func TestDemo(t *testing.T) {
	netlab.Require(t)
	meshInit := filepath.Join(t.TempDir(), "mesh-init")
	if err := program.Build(meshInit, "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := demo(&out, meshInit); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(readme), "```text\nFLOW ")
	shown, _, found := strings.Cut("FLOW "+shown, "```")
	if !found {
		t.Fatal("the README shows nothing of the demonstration")
	}
	for line := range strings.Lines(shown) {
		if !strings.Contains(out.String(), "\n"+line) {
			t.Errorf("the README shows a line that is not printed: %s", line)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}
