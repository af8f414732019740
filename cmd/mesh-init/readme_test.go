package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/decode"
)

const readme = "../../README.md"

// TestReadme keeps the README's tables and example the same as the code. With
// MESH_TEST_UPDATE=1 it writes the tables instead.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	update := os.Getenv("MESH_TEST_UPDATE") == "1"
	for name, want := range map[string]string{"flags": flagTable(), "exits": exitTable()} {
		begin, end := strings.Index(text, "<!-- "+name+":"), strings.Index(text, "<!-- /"+name+" -->")
		if begin < 0 || end < begin {
			t.Fatalf("no place for the table of %s", name)
		}
		begin += strings.Index(text[begin:], "\n") + 1
		if update {
			text = text[:begin] + want + text[end:]
		} else if diff := cmp.Diff(want, text[begin:end]); diff != "" {
			t.Errorf("the table of %s differs from the code (-): run MESH_TEST_UPDATE=1 go test ./cmd/mesh-init -run Readme\n%s",
				name, diff)
		}
	}
	if update {
		if err := os.WriteFile(readme, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

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

func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | value | field | default | meaning |\n| --- | --- | --- | --- | --- |\n")
	var group decode.Group
	for _, f := range allFlags() {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "| **%s** | | | | |\n", group)
		}
		name, initial := "`--"+f.Name+"`", f.Initial
		if f.Short != "" {
			name += ", `-" + f.Short + "`"
		}
		if f.IsSwitch() {
			initial = ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, cell(f.Form), cell(f.Path), cell(initial),
			strings.ReplaceAll(strings.ReplaceAll(f.Usage+f.Again, "\n", " "), "|", "\\|"))
	}
	return b.String()
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
