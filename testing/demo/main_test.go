//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	if !strings.HasSuffix(out.String(), "\n\n"+next+"\n") {
		t.Error("it does not end with what to do next")
	}
	for _, page := range regexp.MustCompile(`docs/\S+\.md`).FindAllString(next, -1) {
		if _, err := os.Stat("../../" + page); err != nil {
			t.Error(err)
		}
	}
	if out, err := exec.Command(meshInit, "explain", "--matrix").CombinedOutput(); err != nil {
		t.Errorf("mesh-init explain --matrix: %v: %s", err, out)
	}
	if t.Failed() {
		t.Log(out.String())
	}
}
