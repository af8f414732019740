package yamldoc_test

import (
	"errors"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

func TestExpand(t *testing.T) {
	for in, want := range map[string]string{
		"a: &x {b: 1}\nc: *x # why\n":                           "a: {b: 1}\nc: {b: 1} # why\n",
		"a: &x [1, 2]\nb: [*x, *x]\n":                           "a: [1, 2]\nb: [[1, 2], [1, 2]]\n",
		"a: &x\n    b: 1\n    c: 2\nd:\n    <<: *x\n    c: 3\n": "a:\n    b: 1\n    c: 2\nd:\n    c: 3\n    b: 1\n",
		"a: &x {b: 1}\nc: {<<: [*x, {b: 2, d: 3}]}\n":           "a: {b: 1}\nc: {b: 1, d: 3}\n",
		"# as it is\na: 'x'\n":                                  "# as it is\na: 'x'\n",
	} {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(in), &doc); err != nil {
			t.Fatal(err)
		}
		before, _ := yaml.Marshal(&doc)
		out, err := yamldoc.Expand(&doc)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := yaml.Marshal(out); err != nil || string(got) != want {
			t.Errorf("%s: %v: %s", in, err, got)
		}
		if after, _ := yaml.Marshal(&doc); string(after) != string(before) {
			t.Errorf("%s: the original became %s", in, after)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	bomb := "a0: &a0 [x]\n"
	for i := range 9 {
		name := func(i int) string { return "a" + string(rune('0'+i)) }
		bomb += name(i+1) + ": &" + name(i+1) + " [" + strings.Repeat("*"+name(i)+", ", 10) + "]\n"
	}
	for in, tooMuch := range map[string]bool{bomb: true, "a: &x [*x]": true, "a: {<<: 5}": false, "a: {<<: [5]}": false} {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(in), &doc); err != nil {
			t.Fatal(err)
		}
		if _, err := yamldoc.Expand(&doc); err == nil || errors.Is(err, yamldoc.ErrExpand) != tooMuch {
			t.Errorf("%s: %v", in, err)
		}
	}
}
