//go:build linux

// Package examples_test types what the README of each example shows, and holds the examples to the pages that explain
// them.
package examples_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mesh-intercept/intercept/testing/quickstart"
)

const folder = "../../examples"

// elsewhere are examples that need what a package of Debian does not bring, and the test that runs them.
var elsewhere = map[string]string{"coredns": "TestCoreDNS, in make cluster"}

// listening are the ports of programs that the READMEs start in the background.
var listening = map[string]map[string][]int{
	"coredns":   {"sidecar coredns": {15053}},
	"dnsmasq":   {"sidecar dnsmasq": {15053}},
	"haproxy":   {"sidecar haproxy": {15001, 15006}},
	"own-proxy": {"sidecar ./own-proxy": {15001, 15006}},
	"sandbox":   {"sidecar haproxy": {15001, 15006, 15080}, "sidecar dnsmasq": {15053}},
	"tproxy":    {"inside pod setpriv": {15006}},
	"vm":        {"sidecar haproxy": {15001, 15006}},
}

func readme(example string) string { return filepath.Join(folder, example, "README.md") }

// typing is how an example's commands are typed: in its folder, beside the others. In the end nothing may be left.
func typing(t *testing.T, example string) quickstart.Typing {
	t.Helper()
	golang, err := filepath.Glob(filepath.Join(folder, example, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return quickstart.Typing{
		Folder: folder, At: example, InClone: len(golang) > 0, Cleans: true, Listening: listening[example],
	}
}

// examples are the folders of examples/.
func examples(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestExamples types the commands of each README in examples/ as root, and compares what they print with what it shows.
// With MESH_TEST_UPDATE=1 it writes that into the README instead.
func TestExamples(t *testing.T) {
	for _, example := range examples(t) {
		if elsewhere[example] != "" {
			continue
		}
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			quickstart.Type(t, readme(example), typing(t, example))
		})
	}
}
