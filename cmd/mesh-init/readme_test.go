package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const readme = "../../README.md"

// TestReadme keeps the README's tables and example the same as the code. With
// MESH_TEST_UPDATE=1 it writes the tables instead.
func TestReadme(t *testing.T) {
	keep(t, readme, map[string]string{"exits": exitTable()})
	b, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	source, err := os.ReadFile("../../dataplane/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "func Example() {\n")
	body, _, _ = strings.Cut(body, "\n}\n")
	body = strings.TrimPrefix(strings.ReplaceAll("\n"+body, "\n\t", "\n"), "\n")
	if body == "" || !strings.Contains(text, "```go\n"+body+"\n```") {
		t.Errorf("the README's example is not that of dataplane/example_test.go:\n%s", body)
	}
}

func exitTable() string {
	var b strings.Builder
	b.WriteString("| code | meaning |\n| --- | --- |\n")
	for _, e := range exits() {
		fmt.Fprintf(&b, "| %d | %s |\n", e.Code, e.Meaning)
	}
	return b.String()
}

func cell(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", "\\|") + "`"
}
