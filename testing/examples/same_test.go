//go:build linux

package examples_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// shown are the files of examples that a page of docs/ shows and explains.
var shown = map[string]map[string][]string{
	"quickstart.md": {"haproxy": {"haproxy.cfg"}, "envoy": {"envoy.yaml"}},
	"sandbox.md": {"sandbox": {"sandbox.yaml", "allowed.lst", "private.lst", "haproxy.cfg", "dnsmasq.conf", "world.cfg",
		"world.conf"}},
}

// TestSameAsPages: the files are those of the page. With MESH_TEST_UPDATE=1 they become so.
func TestSameAsPages(t *testing.T) {
	for name, folders := range shown {
		page := quickstart.Read(t, filepath.Join("../../docs", name))
		for example, files := range folders {
			for _, file := range files {
				path, want := filepath.Join(folder, example, file), page.File(t, file)
				if os.Getenv("MESH_TEST_UPDATE") == "1" {
					if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				got, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, string(got)); diff != "" {
					t.Errorf("%s is not as docs/%s shows it (-):\n%s", path, name, diff)
				}
			}
		}
	}
}

// TestREADMEs: each example is listed, fits on a page, says what it needs and how to clean up, and lists its own files.
func TestREADMEs(t *testing.T) {
	list, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, example := range examples(t) {
		if link := "| [" + example + "](" + example + "/README.md) |"; !strings.Contains(string(list), link) {
			t.Errorf("examples/README.md lacks %q", link)
		}
		b, err := os.ReadFile(readme(example))
		if err != nil {
			t.Error(err)
			continue
		}
		text := string(b)
		for _, part := range []string{"\nIt needs ", "](../README.md#before-you-begin)", "\n## Run ", "\n## Clean up\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q", readme(example), part)
			}
		}
		if n := strings.Count(text, "\n"); n > 125 {
			t.Errorf("%s has %d lines, which is no page", readme(example), n)
		}
		files, err := os.ReadDir(filepath.Join(folder, example))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if name := f.Name(); name != "README.md" && !strings.Contains(text, "]("+name+")") {
				t.Errorf("%s does not say what %s is", readme(example), name)
			}
		}
	}
}

// TestFields: the fields that a table of an example has are such as make a configuration.
func TestFields(t *testing.T) {
	text, err := os.ReadFile(readme("vm"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| fields |\n| --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	tried := 0
	for row := range strings.Lines(table) {
		var config []string
		for i, part := range strings.Split(strings.Split(row, "|")[2], "`") {
			if i%2 == 1 {
				config = append(config, part)
			}
		}
		c, err := settings.Load([]byte(strings.Join(config, "\n")))
		if err == nil {
			err = c.Validate()
		}
		if err != nil || len(config) == 0 {
			t.Errorf("%s: %v", row, err)
		}
		tried++
	}
	if tried < 5 {
		t.Errorf("%d rows", tried)
	}
}

// TestCommands: each of the pages has commands, and there is no other way to be left out than the lists above.
func TestCommands(t *testing.T) {
	names := examples(t)
	for _, example := range names {
		if page := quickstart.Read(t, readme(example)); len(page.Commands) < 3 {
			t.Errorf("%s has %d commands", readme(example), len(page.Commands))
		}
	}
	for example := range elsewhere {
		if !slices.Contains(names, example) {
			t.Errorf("there is no example %s", example)
		}
	}
}
