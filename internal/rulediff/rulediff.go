// Package rulediff names the differences between the rules a chain should have and those it has, in the same words for
// every backend.
package rulediff

import (
	"fmt"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Rule is a rule in a form in which equal rules have the same comment and the same body.
type Rule struct {
	// Comment is as ruleset.Rule.Comment writes it. Others' rules have another, or none.
	Comment string
	Body    string // its conditions and its target
	// ID is that of a rule that should be there. Empty: the comment tells it.
	ID ruleset.RuleID
}

// text is what is compared.
type text struct{ comment, body string }

func (r Rule) text() text { return text{r.Comment, r.Body} }

func (r Rule) id() ruleset.RuleID {
	if r.ID != "" {
		return r.ID
	}
	id, _ := ruleset.ParseComment(r.Comment)
	return id
}

// Chain names what is missing in the chain, what is not ours, and what stands in another order. Rules are known by
// their IDs. Where a rule in the kernel has no comment, its place tells the ID: between the same two rules that are
// as they should be, the first that is not takes the place of the first that is missing, and so on.
func Chain(name string, want, have []Rule) []ruleset.Difference {
	left := make(map[text]int, len(have))
	for _, r := range have {
		left[r.text()]++
	}
	// matches tells of a rule whether the other list has it, too. Of equal ones it is the first.
	matches := func(r Rule, left map[text]int) bool {
		left[r.text()]--
		return left[r.text()] >= 0
	}
	var d differences
	ours := make(map[ruleset.RuleID]bool, len(want))
	missing := map[place]ruleset.RuleID{}
	var at place
	common := make(map[text]int, len(want))
	for _, r := range want {
		ours[r.id()] = true
		is := matches(r, left)
		if is {
			common[r.text()]++
		} else {
			missing[at] = r.id()
			d.add(name, r.id(), r.Comment, "missing")
		}
		at = at.next(is)
	}
	at = place{}
	for _, r := range have {
		is := matches(r, common)
		if !is {
			id := r.id()
			if r.Comment == "" {
				id = missing[at]
			}
			if id != "" && ours[id] {
				d.add(name, id, r.Comment, "has other conditions, another target or another comment")
			} else {
				d.add(name, id, r.Comment, "not ours")
			}
		}
		at = at.next(is)
	}
	inOrder := slices.EqualFunc(want, have, func(a, b Rule) bool { return a.text() == b.text() })
	if len(d) == 0 && !inOrder {
		d = differences{{What: "chain " + name, Problem: "its rules stand in another order"}}
	}
	return d
}

// place is that of a rule which the other list does not have: behind so many that it has, and so many that it has not.
type place struct{ matching, others int }

func (p place) next(matches bool) place {
	if matches {
		return place{matching: p.matching + 1}
	}
	p.others++
	return p
}

type differences []ruleset.Difference

func (all *differences) add(chain string, id ruleset.RuleID, comment, problem string) {
	d := ruleset.Difference{What: fmt.Sprintf("chain %s, rule %s", chain, id), Rule: id, Problem: problem}
	switch {
	case id != "":
	case comment == "":
		d.What = "chain " + chain + ", a rule without comment"
	default:
		d.What = fmt.Sprintf("chain %s, rule %q", chain, comment)
	}
	// One rule of the policy can be many in a kernel.
	if !slices.Contains(*all, d) {
		*all = append(*all, d)
	}
}
