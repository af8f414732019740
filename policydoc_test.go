package intercept_test

import (
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestPolicyPage: docs/policy.md has every line that a rule is of, and its table
// of scopes says in which chains each scope is.
func TestPolicyPage(t *testing.T) {
	text, err := os.ReadFile("docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([OIZB]\d+) \|`).FindAllStringSubmatch(string(text), -1) {
		lines[m[1]] = true
	}
	chains := map[string][]string{}
	name := regexp.MustCompile("`([^`]+)`")
	for _, m := range regexp.MustCompile("(?m)^\\| (none|`[^|]*/`) \\| ([^|]*) \\|").FindAllStringSubmatch(string(text),
		-1) {
		for scope := range strings.SplitSeq(m[1], ", ") {
			scope = strings.TrimSuffix(strings.Trim(strings.TrimPrefix(scope, "none"), "`"), "/")
			for _, c := range name.FindAllStringSubmatch(m[2], -1) {
				chains[scope] = append(chains[scope], c[1])
			}
		}
	}

	wrong, met := map[string]bool{}, map[string]bool{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		rs, err := intercept.Compile(gen.Config(r))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range rs.Chains {
			for _, rule := range c.Rules {
				scope := ""
				if i := strings.LastIndexByte(string(rule.ID), '/'); i >= 0 {
					scope = string(rule.ID[:i])
				}
				met[scope+" "+c.Name] = true
				if !lines[rule.ID.Line()] {
					wrong["no line "+rule.ID.Line()] = true
				}
				if !slices.Contains(chains[scope], c.Name) {
					wrong["the scopes lack: "+scope+"/ in chain "+c.Name] = true
				}
			}
		}
	}
	for scope, in := range chains {
		for _, c := range in {
			if !met[scope+" "+c] {
				wrong["the scopes have one too many: "+scope+"/ in chain "+c] = true
			}
		}
	}
	for what := range wrong {
		t.Error(what)
	}
}
