// Package rulediff names the differences between the rules a chain should have
// and those it has, in the same words for every backend.
package rulediff

import (
	"fmt"
	"slices"

	"github.com/mesh-intercept/intercept"
)

// Rule is a rule in a form in which equal rules are equal.
type Rule struct {
	Comment string
	Body    string // its conditions and its target
}

// Chain names what is missing in the chain, what is not ours, and what stands
// in another order.
func Chain(name string, want, have []Rule) []intercept.Difference {
	if slices.Equal(want, have) {
		return nil
	}
	var diffs []intercept.Difference
	add := func(r Rule, problem string) {
		what := fmt.Sprintf("chain %s, rule %q", name, r.Comment)
		if r.Comment == "" {
			what = "chain " + name + ", a rule without comment"
		}
		d := intercept.Difference{What: what, Problem: problem}
		// One rule of the policy can be many in a kernel.
		if !slices.Contains(diffs, d) {
			diffs = append(diffs, d)
		}
	}
	left := make(map[Rule]int, len(have))
	for _, r := range have {
		left[r]++
	}
	for _, r := range want {
		if left[r] == 0 {
			add(r, "missing")
			continue
		}
		left[r]--
	}
	comments := make(map[string]bool, len(want))
	for _, r := range want {
		comments[r.Comment] = true
	}
	for _, r := range slices.Backward(have) { // the first of equal ones is the one that is ours
		if left[r] == 0 {
			continue
		}
		left[r]--
		if comments[r.Comment] {
			add(r, "has other conditions or another target")
		} else {
			add(r, "not ours")
		}
	}
	if len(diffs) == 0 {
		diffs = append(diffs, intercept.Difference{What: "chain " + name, Problem: "its rules stand in another order"})
	}
	return diffs
}
