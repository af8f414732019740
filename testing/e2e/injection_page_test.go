//go:build linux

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestInjectionPage types the commands of docs/injection.md, in a directory with its
// files, and compares what they print with what the page shows. With
// MESH_TEST_UPDATE=1 it writes that into the page instead.
func TestInjectionPage(t *testing.T) { typeAnywhere(t, "../../docs/injection.md") }

// TestReadingPages does the same with pages whose commands need no pod: docs/concepts.md, docs/configuration.md and
// docs/annotations.md.
func TestReadingPages(t *testing.T) {
	for _, page := range []string{"concepts.md", "configuration.md", "annotations.md"} {
		t.Run(page, func(t *testing.T) { typeAnywhere(t, "../../docs/"+page) })
	}
}

// typeAnywhere types the commands of a page that act on nothing but files.
func typeAnywhere(t *testing.T, page string) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	program, err := meshInit()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeProgram(filepath.Join(dir, "mesh-init"), program); err != nil {
		t.Fatal(err)
	}
	shown := quickstart.Read(t, page)
	for name, text := range shown.Files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var printed []string
	for _, c := range shown.Commands {
		cmd := exec.Command("bash", "-c", c.Line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.Output()
		if _, ended := err.(*exec.ExitError); err != nil && !ended { // grep -c and diff fail in their own way
			t.Fatal(err)
		}
		printed = append(printed, string(out))
	}
	shown.Compare(t, printed)
}

// writeProgram writes a program that is run at once. Meanwhile no test starts another: a new process has all files open for
// a moment, and one that somebody writes cannot be run (ETXTBSY in execve(2)).
func writeProgram(path string, program []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, program, 0o755)
}
