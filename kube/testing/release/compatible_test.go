//go:build linux && release

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompatible: make compatible sees what would no longer compile, in the library alone, and is content with what is new.
func TestCompatible(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "library")
	output(t, exec.Command("git", "clone", "-q", "--no-hardlinks", source, folder))
	git := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(output(t, exec.Command("git", append([]string{"-C", folder, "-c", "user.name=x", "-c",
			"user.email=x@example.org", "-c", "tag.gpgSign=false"}, args...)...)))
	}
	for tag := range strings.FieldsSeq(git("tag", "--list")) {
		git("tag", "--delete", tag)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says := func(wanted int, want string) {
		t.Helper()
		cmd := exec.Command("make", "--no-print-directory", "--silent", "compatible")
		cmd.Dir = folder
		out, _ := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); (cmd.ProcessState.ExitCode() != 0) != (wanted != 0) || !strings.Contains(got, want) {
			t.Errorf("%s: want exit code %d and %q:\n%s", cmd.ProcessState, wanted, want, got)
		}
	}
	says(0, "there is no tag to compare with")

	const file, hidden, before = "promised.go", "internal/version/promised.go", "package intercept\n\nfunc Promised() {}\n"
	write(file, before)
	write(hidden, "package version\n\nfunc Promised() {}\n")
	git("add", ".")
	git("commit", "--quiet", "--no-verify", "--message", "A promise")
	git("tag", "v0.1.0")
	says(0, "since v0.1.0: what compiled compiles")
	write(file, "package intercept\n\nfunc Promised() { does not compile }\n")
	says(1, "")
	write(file, before+"\nfunc Added() {}\n")
	write(hidden, "package version\n\nfunc Other() {}\n")
	says(0, "since v0.1.0: what compiled compiles")
	write(file, "package intercept\n\nfunc Promised(int) {}\n")
	says(0, "Promised: changed from func() to func(int)\nbefore 1.0.0 this may be")
	git("tag", "--delete", "v0.1.0")
	git("tag", "v1.0.0")
	says(1, "since v1.0.0:\n- Promised: changed from func() to func(int)")
}
