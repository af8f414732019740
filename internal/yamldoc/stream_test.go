package yamldoc_test

import (
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
		"a: &x {k: 1}\nb: *x\n":                                    `{"a":{"k":1},"b":{"k":1}}`,
		"x: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3\n":               `{"x":{"k":1,"l":2},"b":{"k":3,"l":2}}`,
		"x: &x {k: 1}\ny: &y {k: 2, l: 2}\nb: {<<: [*x, *y]}\n":    `{"x":{"k":1},"y":{"k":2,"l":2},"b":{"k":1,"l":2}}`,
		"- 0x1F\n- 1e3\n- ~\n- 'yes'\n- 2026-01-02\n- \"\\u00e9\"": `[31,1000,null,"yes","2026-01-02","é"]`,
		"a: 1\nb: 2\na: 3\n":                                       `a: "a" is there twice, first on line 1 (line 3)`,
		"a: &a [*a]\n":                                             "nested too deep",
		"<<: 1\n":                                                  "<< takes in the fields of a mapping",
		"? [a]\n: 1\n":                                             "a field's name is one word",
		"a: .inf\n":                                                "has no form in JSON",
		bomb:                                                       "aliases stand for over",
		strings.Repeat("[", 60) + strings.Repeat("]", 60): "nested too deep",
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
