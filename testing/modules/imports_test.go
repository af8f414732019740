package modules_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDrawnImports: docs/design.md draws each package of the library on one
// line, and what a package imports is drawn further down.
func TestDrawnImports(t *testing.T) {
	text, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, drawing, found := strings.Cut(string(text), "<!-- imports")
	drawing, _, end := strings.Cut(drawing, "<!-- /imports -->")
	if !found || !end {
		t.Fatal("docs/design.md has no drawing of the imports")
	}
	packages := map[string]bool{} // all there are
	list := command(t, "../..", "", "go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...")
	name := func(path string) string {
		if path == module {
			return "intercept"
		}
		return strings.TrimPrefix(path, module+"/")
	}
	lines := map[string]int{}
	for i, line := range strings.Split(drawing, "\n") {
		for _, field := range regexp.MustCompile(`[\w/-]+`).FindAllString(line, -1) {
			lines[field] = i
		}
	}
	for line := range strings.Lines(list) {
		paths := strings.Fields(line)
		if strings.HasPrefix(paths[0], module+"/testing/") || strings.HasPrefix(paths[0], module+"/examples/") {
			continue
		}
		from := name(paths[0])
		packages[from] = true
		if lines[from] == 0 {
			t.Errorf("%s is not drawn", from)
		}
		for _, path := range paths[1:] {
			if to := name(path); strings.HasPrefix(path, module) && lines[to] <= lines[from] {
				t.Errorf("%s imports %s, which is not drawn below it", from, to)
			}
		}
	}
	for drawn := range lines {
		if strings.Contains(drawn, "/") && !packages[drawn] {
			t.Errorf("%s is drawn, and does not exist", drawn)
		}
	}
}
