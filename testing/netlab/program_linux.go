package netlab

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// packages is the table of the programs that tests run, which `make deps` reads, too.
//
//go:embed packages.txt
var packages string

// packageOf returns the Debian package of a program or file; "" if packages.txt does not have it.
func packageOf(name string) string {
	for line := range strings.Lines(packages) {
		if f := strings.Fields(line); len(f) > 2 && f[0] != "#" && slices.Contains(f[2:], name) {
			return f[1]
		}
	}
	return ""
}

// RequireProgram skips the test if a program is not installed, and says which Debian package brings it. With
// MESH_TEST_REQUIRE=1 in the environment the test fails. It also fails if packages.txt does not name the program:
// `make deps` would not install it. An absolute path outside of that file is the tester's own, and only looked for.
func RequireProgram(t TB, name string) {
	t.Helper()
	debian := packageOf(name)
	if debian == "" && !filepath.IsAbs(name) {
		t.Fatal(fmt.Sprintf("testing/netlab/packages.txt does not say which package brings %s", name))
	}
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if debian == "" {
		Skip(t, "needs "+name)
		return
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err == nil && !filepath.IsAbs(name) {
			Skip(t, fmt.Sprintf("needs %s, which is in %s: add that to PATH", name, dir))
			return
		}
	}
	Skip(t, fmt.Sprintf("needs %s of the Debian package %s; `make deps` as root installs it", name, debian))
}

// Skip skips the test, for the reason given. With MESH_TEST_REQUIRE=1 in the
// environment the test fails: a test that must run was not run.
func Skip(t TB, why string) {
	t.Helper()
	if os.Getenv("MESH_TEST_REQUIRE") == "1" {
		t.Fatal(why + " (MESH_TEST_REQUIRE=1 forbids to skip it)")
	}
	t.Skip(why)
}
