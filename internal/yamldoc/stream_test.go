package yamldoc_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// TestResolve: each value stands by itself, as YAML has it; and what stands for too
// much, or for itself, is refused.
func TestResolve(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for _, name := range "bcdefg" {
		before := string(name - 1)
		bomb += string(name) + ": &" + string(name) + " [" + strings.Repeat("*"+before+", ", 9) + "*" + before + "]\n"
	}
	for text, want := range map[string]string{
		"a: &x {k: 1}\nb: *x\n":                                          `{"a":{"k":1},"b":{"k":1}}`,
		"x: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3\n":                     `{"x":{"k":1,"l":2},"b":{"k":3,"l":2}}`,
		"x: &x {k: 1}\ny: &y {k: 2, l: 2}\nb: {<<: [*x, *y]}\n":          `{"x":{"k":1},"y":{"k":2,"l":2},"b":{"k":1,"l":2}}`,
		"- 0x1F\n- 1e3\n- ~\n- 'yes'\n- 2026-01-02\n- \"\\u00e9\"":       `[31,1000,null,"yes","2026-01-02","é"]`,
		"[yes, On, y, True, n, OFF, 'yes', \"on\", !!str no, !!bool No]": `[true,true,true,true,false,false,"yes","on","no",false]`,
		"[2026-01-02T00:00:00Z, !!timestamp 2026-01-02]":                 `["2026-01-02T00:00:00Z","2026-01-02"]`,
		"a: 1\nb: 2\na: 3\n":                                             `a: "a" is there twice, first on line 1 (line 3)`,
		"a: &a [*a]\n":                                                   "nested too deep",
		"<<: 1\n":                                                        "<< takes in the fields of a mapping",
		"? [a]\n: 1\n":                                                   "a field's name is one word",
		"a: .inf\n":                                                      "has no form in JSON",
		bomb:                                                             "aliases stand for over",
		strings.Repeat("[", 60) + strings.Repeat("]", 60):                "nested too deep",
	} {
		roots, err := yamldoc.Stream([]byte(text), 50)
		if err != nil && !strings.HasPrefix(text, "[[") { // JSON is parsed to that depth alone
			t.Fatal(err)
		}
		got := ""
		if err == nil {
			n, err2 := yamldoc.Resolve(roots[0], 50)
			if err = err2; err == nil {
				var out []byte
				out, err = yamldoc.JSON(n)
				got = string(out)
			}
		}
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && cmp.Diff(want, got) != "" {
			t.Errorf("%.60s: %s, %v", text, got, err)
		}
	}
}

// TestStreamJSON: objects of JSON can follow each other, as `mesh-init inject -o json` and jq write them.
func TestStreamJSON(t *testing.T) {
	for text, want := range map[string]string{
		"{\"a\": 1}\n{\"b\":\n2}\n":      "1 2",
		"\n\n{\n\"a\": 1\n}\n\n{}\n{\n}": "3 7 8",
		"{} {}":                          "two objects of JSON on one line; let each begin on its own (line 1)",
		"{}\n{\"a\":1,\n\"a\":2}":        `a: "a" is there twice`,
		"{a: 1}\n---\n{b: 2}":            "1 3", // YAML
		"{}\n---\n{b: 2}":                "1 3",
	} {
		roots, err := yamldoc.Stream([]byte(text), 50)
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		var lines []string
		for _, root := range roots {
			lines = append(lines, strconv.Itoa(root.Line))
		}
		if got := strings.Join(lines, " "); got != want {
			t.Errorf("%q: documents on lines %s, want %s", text, got, want)
		}
	}
}

// TestStreamMalformed: the line is that of the mistake, and what looks like a template is called one.
func TestStreamMalformed(t *testing.T) {
	for text, want := range map[string]string{
		"a: 1\nb: 2\nmetadata: {name: p\nc: 1\n": "line 3: did not find expected ',' or '}'",
		"a:\n\tb: 1\n":                           "line 2: found character that cannot start any token; indent with spaces",
		"a: 1\nb: 2\n- c":                        "line 3: did not find expected key",
		"a: 1\nb:\n  - x\n  y: 1\n":              "line 3: did not find expected '-' indicator",
		"a: 1\nb: [":                             "line 2: did not find expected node content",
		"a: 1\nb: *\n":                           "line 2: did not find expected alphabetic or numeric character",
		"a: 1\nb: \xe4":                          "incomplete UTF-8 octet sequence (line 2)",
		"{{- if .Values.on }}\na: 1\n":           "(line 1)",
		"a: 1\n{{ include \"b\" . }}\nb: 1\n":    "render a template first, as helm template does",
	} {
		if _, err := yamldoc.Stream([]byte(text), 50); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
	}
}
