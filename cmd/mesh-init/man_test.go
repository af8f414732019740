package main

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMan keeps the manual page the same as the code. With MESH_TEST_UPDATE=1 it writes it instead.
func TestMan(t *testing.T) {
	const path = "../../packaging/mesh-init.8"
	c := program{}.commandLine(nil)
	want := c.Man(8)
	for _, f := range allFlags() {
		if !strings.Contains(want, `\fB\-\-`+strings.ReplaceAll(f.Name, "-", `\-`)+`\fR`) {
			t.Errorf("it has no --%s", f.Name)
		}
	}
	for _, v := range c.Verbs {
		if !strings.Contains(want, "\n.B \""+strings.ReplaceAll(v.Name, "-", `\-`)+"\"\n") {
			t.Errorf("it has no verb %s", v.Name)
		}
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("%s differs from the code (-): run MESH_TEST_UPDATE=1 go test ./cmd/mesh-init -run 'TestMan$'\n%s", path, diff)
	}
}
