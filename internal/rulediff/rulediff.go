// Package rulediff names the differences between the rules a chain should have
// and those it has, in the same words for every backend.
package rulediff

import (
	"fmt"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Rule is a rule in a form in which equal rules are equal.
type Rule struct {
	// Comment is as ruleset.Rule.Comment writes it. Others' rules have another, or none.
	Comment string
	Body    string // its conditions and its target
}

// Chain names what is missing in the chain, what is not ours, and what stands
// in another order. Rules are known by their IDs.
func Chain(name string, want, have []Rule) []ruleset.Difference {
	if slices.Equal(want, have) {
		return nil
	}
	var diffs []ruleset.Difference
	add := func(r Rule, problem string) {
		id, comment := ruleset.ParseComment(r.Comment)
		d := ruleset.Difference{What: fmt.Sprintf("chain %s, rule %s", name, id), Rule: id, Problem: problem}
		switch {
		case id != "":
		case comment == "":
			d.What = "chain " + name + ", a rule without comment"
		default:
			d.What = fmt.Sprintf("chain %s, rule %q", name, comment)
		}
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
	ours := make(map[ruleset.RuleID]bool, len(want))
	for _, r := range want {
		id, _ := ruleset.ParseComment(r.Comment)
		ours[id] = true
	}
	for _, r := range slices.Backward(have) { // the first of equal ones is the one that is ours
		if left[r] == 0 {
			continue
		}
		left[r]--
		if id, _ := ruleset.ParseComment(r.Comment); id != "" && ours[id] {
			add(r, "has other conditions, another target or another comment")
		} else {
			add(r, "not ours")
		}
	}
	if len(diffs) == 0 {
		diffs = append(diffs, ruleset.Difference{What: "chain " + name, Problem: "its rules stand in another order"})
	}
	return diffs
}
