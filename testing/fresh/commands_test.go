//go:build linux

package fresh_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
			pattern, _, _ := strings.Cut(strings.Trim(m[2], "'"), "/") // subtests come after it
			run, err := regexp.Compile(pattern)
			must(t, err)
			if !slices.ContainsFunc(tests(t, filepath.Join(root, m[1])), run.MatchString) {
				t.Errorf("%s: %s: it runs no test", page, m[0])
			}
		}
	}
	if found == 0 {
		t.Error("no page has such a command")
	}
}

// tests returns the names of a package's tests.
func tests(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}
