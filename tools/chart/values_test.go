package chart_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// property is a value of the chart, as values.schema.json has it, which says what each is and what it is by default.
type property struct {
	// Path is its name, with those of the values that it is in.
	Path        []string
	Description string
	// Default is JSON. Empty: it is made of Properties.
	Default    string
	Type       string
	Enum       []string
	Properties []property
}

func (p property) name() string { return p.Path[len(p.Path)-1] }

// properties are the values, in the order of the schema.
func properties(t *testing.T) []property {
	t.Helper()
	b, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	return propertiesOf(t, root.Content[0], nil)
}

func propertiesOf(t *testing.T, schema *yaml.Node, path []string) (all []property) {
	t.Helper()
	list := field(schema, "properties")
	if list == nil {
		return nil
	}
	for i := 0; i < len(list.Content); i += 2 {
		name, of := list.Content[i].Value, list.Content[i+1]
		p := property{Path: append(path[:len(path):len(path)], name)}
		var plain struct {
			Description string
			Type        any
			Enum        []string
			Default     any
		}
		if err := of.Decode(&plain); err != nil {
			t.Fatal(err)
		}
		p.Description, p.Type, p.Enum = plain.Description, fmt.Sprint(plain.Type), plain.Enum
		p.Properties = propertiesOf(t, of, p.Path)
		if field(of, "default") != nil {
			text, err := json.Marshal(plain.Default)
			if err != nil {
				t.Fatal(err)
			}
			p.Default = string(text)
		}
		all = append(all, p)
	}
	return all
}

// field is what a mapping has under a name, or nil.
func field(of *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(of.Content); i += 2 {
		if of.Content[i].Value == name {
			return of.Content[i+1]
		}
	}
	return nil
}

// isPart is whether a value is no more than what is in it.
func (p property) isPart() bool { return p.Default == "" && len(p.Properties) > 0 }

// walk calls a function of each value that has a default, and of those that are made of others.
func walk(all []property, do func(property)) {
	for _, p := range all {
		if p.isPart() {
			do(p)
			walk(p.Properties, do)
		} else if p.Default != "" {
			do(p)
		}
	}
}

// TestValues: values.yaml has the defaults of values.schema.json with its descriptions, and docs/helm.md a table of
// them.
func TestValues(t *testing.T) {
	all := properties(t)
	var file, table strings.Builder
	file.WriteString("# MESH_TEST_UPDATE=1 make chart writes this file, from values.schema.json.\n")
	table.WriteString("| value | default | meaning |\n| --- | --- | --- |\n")
	walk(all, func(p property) {
		if p.Description == "" || !strings.HasSuffix(p.Description, ".") {
			t.Errorf("%s: not described in sentences", strings.Join(p.Path, "."))
		}
		indent := strings.Repeat("  ", len(p.Path)-1)
		if len(p.Path) == 1 {
			file.WriteString("\n")
		}
		for _, line := range wrap(p.Description, 110-len(indent)) {
			file.WriteString(indent + "# " + line + "\n")
		}
		file.WriteString(indent + p.name() + ":")
		if p.isPart() {
			file.WriteString("\n")
			return
		}
		file.WriteString(" " + p.Default + "\n")
		text := p.Description
		if p.Enum != nil {
			text = strings.TrimSuffix(text, ".") + ": " + strings.TrimPrefix(strings.Join(p.Enum, ", "), ", ") + "."
		}
		fmt.Fprintf(&table, "| `%s` | `%s` | %s |\n", strings.Join(p.Path, "."), p.Default, text)
	})
	same(t, chartDir+"/values.yaml", file.String())
	samePart(t, "values", table.String())
}

// samePart compares a part of docs/helm.md.
func samePart(t *testing.T, name, want string) {
	t.Helper()
	const page = "../../docs/helm.md"
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+name+": a test keeps this table the same as the chart -->\n", "<!-- /"+name+" -->\n"
	head, rest, found := strings.Cut(string(b), begin)
	_, tail, ends := strings.Cut(rest, end)
	if !found || !ends {
		t.Fatalf("%s has no part %s", page, name)
	}
	same(t, page, head+begin+want+end+tail)
}

// wrap breaks a text into lines.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
