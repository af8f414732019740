package intercept_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestMeaningOf: every rule that ends a packet's way in a chain of its own says what that means, and every meaning is one
// of some rule.
func TestMeaningOf(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	seen := map[intercept.Meaning]bool{}
	for range 3000 {
		c := gen.Config(r)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, chain := range rs.Chains {
			for _, rule := range chain.Rules {
				_, rejects := rule.Target.(ruleset.Reject)
				_, drops := rule.Target.(ruleset.Drop)
				_, redirects := rule.Target.(ruleset.Redirect)
				_, translates := rule.Target.(ruleset.DNAT)
				_, delivers := rule.Target.(ruleset.TProxy)
				ends := rejects || drops || redirects || translates || delivers
				m := intercept.MeaningOf(rule.ID, rejects || drops)
				if m == "" && ends && rule.ID != "I7.no-socket" {
					t.Errorf("%s (%s), %s, has no meaning", rule.ID, rule.Reason, chain.Name)
				}
				if m != "" && !slices.Contains(intercept.Meanings(), m) {
					t.Errorf("%s: %q is none of the meanings", rule.ID, m)
				}
				seen[m] = true
			}
		}
	}
	for _, m := range intercept.Meanings() {
		if !seen[m] {
			t.Errorf("no rule means %q", m)
		}
	}
}
