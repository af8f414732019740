package rulediff

import (
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/ruleset"
)

// TestChain: a rule is known by its comment; where the kernel has none, by its place.
func TestChain(t *testing.T) {
	// "O1=a" is a rule with the comment "O1: why" and the body a, "(O1)=a" one that has the ID but no comment, and "a"
	// one that has neither.
	rules := func(all string) (list []Rule) {
		for word := range strings.FieldsSeq(all) {
			name, body, named := strings.Cut(word, "=")
			switch {
			case !named:
				list = append(list, Rule{Body: word})
			case strings.HasPrefix(name, "("):
				list = append(list, Rule{Body: body, ID: ruleset.RuleID(strings.Trim(name, "()"))})
			default:
				list = append(list, Rule{Comment: name + ": why", Body: body})
			}
		}
		return list
	}
	const other = ": has other conditions, another target or another comment"
	for name, tt := range map[string]struct{ want, have, diffs string }{
		"the same":                    {"O1=a O2=b", "O1=a O2=b", ""},
		"one is missing":              {"O1=a O2=b", "O1=a", "chain c, rule O2: missing"},
		"one is another":              {"O1=a O2=b", "O1=a O2=x", "chain c, rule O2: missing; chain c, rule O2" + other},
		"one is not ours":             {"O1=a", "O1=a O7=x", "chain c, rule O7: not ours"},
		"one without a comment":       {"O1=a", "O1=a x", "chain c, a rule without comment: not ours"},
		"another order":               {"O1=a O2=b", "O2=b O1=a", "chain c: its rules stand in another order"},
		"twice":                       {"O1=a O2=b", "O1=a O1=a O2=b", "chain c, rule O1" + other},
		"many of one":                 {"O1=a O1=b", "", "chain c, rule O1: missing"},
		"no comments: the same":       {"(O1)=a (O2)=b", "a b", ""},
		"no comments: one is missing": {"(O1)=a (O2)=b (O3)=c", "a c", "chain c, rule O2: missing"},
		"no comments: one is another": {"(O1)=a (O2)=b (O3)=c", "a x c",
			"chain c, rule O2: missing; chain c, rule O2" + other},
		"no comments: one is in between": {"(O1)=a (O2)=b", "a x b", "chain c, a rule without comment: not ours"},
		"no comments: two are others": {"(O1)=a (O2)=b (O3)=c", "a x y",
			"chain c, rule O2: missing; chain c, rule O3: missing; chain c, rule O2" + other + "; chain c, rule O3" + other},
		"no comments: after a missing one": {"(O1)=a (O2)=b (O3)=c", "b x",
			"chain c, rule O1: missing; chain c, rule O3: missing; chain c, rule O3" + other},
		"no comments: another order": {"(O1)=a (O2)=b", "b a", "chain c: its rules stand in another order"},
	} {
		var got []string
		for _, d := range Chain("c", rules(tt.want), rules(tt.have)) {
			got = append(got, d.String())
			if id, is := strings.CutPrefix(d.What, "chain c, rule "); is != (d.Rule != "") || is &&
				ruleset.RuleID(id) != d.Rule {
				t.Errorf("%s: %q has the ID %q", name, d.What, d.Rule)
			}
		}
		if text := strings.Join(got, "; "); text != tt.diffs {
			t.Errorf("%s: %q, want %q", name, text, tt.diffs)
		}
		if !slices.Equal(Chain("c", rules(tt.want), rules(tt.want)), nil) {
			t.Errorf("%s: it differs from itself", name)
		}
	}
}
