//go:build linux

// Package containerd_test runs mesh-cni under containerd, for pods with real
// processes in them.
package containerd_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/testing/program"
)

// plugins is a directory with mesh-cni, as it is shipped, and part, the program
// that runs in containers and around them.
var plugins string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "mesh-cni-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		plugins = dir
		if err := errors.Join(
			program.Build(filepath.Join(dir, "mesh-cni"), "cmd/mesh-cni"),
			program.Build(filepath.Join(dir, "part"), "testing/part"),
		); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// readLog reads a log file, of which every line has to be a whole record.
func readLog(t *testing.T, file string) (records []cniwire.Record) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	for line := range bytes.Lines(b) {
		var r cniwire.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		records = append(records, r)
	}
	return records
}
