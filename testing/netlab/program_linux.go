package netlab

import (
	"fmt"
	"os"
	"os/exec"
)

// RequireProgram skips the test if a program is not installed. With
// MESH_TEST_REQUIRE=1 in the environment the test fails.
func RequireProgram(t TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		skip(t, fmt.Sprintf("needs the program %s; `make test` installs it", name))
	}
}

// skip skips the test, or fails it where it must run.
func skip(t TB, why string) {
	t.Helper()
	if os.Getenv("MESH_TEST_REQUIRE") == "1" {
		t.Fatal(why + " (MESH_TEST_REQUIRE=1 forbids to skip it)")
	}
	t.Skip(why)
}
