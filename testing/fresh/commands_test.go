//go:build linux

package fresh_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommandsOfPages: a go test command of a page runs a test, as it stands in
// the raw file. In a Markdown table it cannot have alternatives: \| is none.
func TestCommandsOfPages(t *testing.T) {
	const root = "../.."
	pages, err := filepath.Glob(root + "/docs/*.md")
	must(t, err)
	command := regexp.MustCompile("go test (\\./\\S+) .*?-run ('[^']*'|[^\\s`]+)")
	found := 0
	for _, page := range append(pages, root+"/README.md", root+"/CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		must(t, err)
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			found++
			cmd := exec.Command("go", "test", "-list", strings.Trim(m[2], "'"), m[1])
			cmd.Dir = root
			if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "Test") {
				t.Errorf("%s: %s: %v, and it runs no test:\n%s", page, m[0], err, out)
			}
		}
	}
	if found == 0 {
		t.Error("no page has such a command")
	}
}
