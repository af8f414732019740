package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/rulediff"
	"github.com/mesh-intercept/intercept/ruleset"
)

// jumpsRight reports whether the jumps of a built-in chain to ours are those of want, and stand where they should.
func (t savedTable) jumpsRight(want table, c savedChain, o Options) bool {
	var at []int
	for i, r := range c.rules {
		if r.isJump() {
			at = append(at, i)
		}
	}
	i := slices.IndexFunc(want.jumps, func(j jump) bool { return j.builtin == c.name })
	if i < 0 {
		return len(at) == 0
	}
	place := 0
	if o.Jumps.last(c.name) {
		place = len(c.rules) - 1
	}
	return len(at) == 1 && at[0] == place && c.rules[place].key() == want.jumps[i].rule().key()
}

// holds reports whether what of the table is ours is exactly want.
func (t savedTable) holds(want table, o Options) bool {
	return len(t.differences(want, o)) == 0
}

// sameOurs reports whether what is ours reads the same in both.
func (t savedTable) sameOurs(other savedTable) bool {
	type part struct{ chain, spec string }
	list := func(t savedTable) (parts []part) {
		for _, c := range t.chains {
			isOurs := strings.HasPrefix(c.name, prefix)
			if isOurs && !strings.HasPrefix(c.name, madePrefix) {
				parts = append(parts, part{c.name, ""})
			}
			for i, r := range c.rules {
				if isOurs {
					parts = append(parts, part{c.name, r.spec})
				} else if c.builtin && r.isJump() {
					parts = append(parts, part{c.name, fmt.Sprint(i, r.spec)})
				}
			}
		}
		return parts
	}
	return slices.Equal(list(t), list(other))
}

// differences names how what is ours in a table differs from want.
func (t savedTable) differences(want table, o Options) []ruleset.Difference {
	var diffs []ruleset.Difference
	add := func(what, problem string) {
		diffs = append(diffs, ruleset.Difference{What: "table " + t.name + ", " + what, Problem: problem})
	}
	for _, c := range t.ours() {
		if strings.HasPrefix(c.name, madePrefix) && (len(want.chains) > 0 || o.Objects != nil) || want.has(c.name) {
			continue
		}
		if strings.HasPrefix(c.name, specPrefix) && len(want.chains) > 0 {
			add("chain "+c.name, "made from another configuration, or an apply was interrupted")
			continue
		}
		add("chain "+c.name, "not part of this configuration")
	}
	for _, c := range want.chains {
		i := slices.IndexFunc(t.chains, func(k savedChain) bool { return k.name == c.name })
		if i < 0 {
			add("chain "+c.name, "missing")
			continue
		}
		wanted, saved := c.compared(), want.compared(t.chains[i])
		if slices.EqualFunc(wanted, saved, func(r rule, s savedRule) bool { return r.key() == s.key() }) {
			continue
		}
		var w, h []rulediff.Rule
		for _, r := range wanted {
			key := r.key()
			key.ID = r.id
			w = append(w, key)
		}
		for _, r := range saved {
			h = append(h, r.key())
		}
		for _, d := range rulediff.Chain(c.name, w, h) {
			d.What = "table " + t.name + ", " + d.What
			diffs = append(diffs, d)
		}
	}
	builtins := map[string]bool{}
	for _, c := range t.chains {
		builtins[c.name] = c.builtin
	}
	for _, j := range want.jumps {
		builtins[j.builtin] = true
	}
	for _, name := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if builtins[name] && !t.jumpsRight(want, t.chain(name), o) {
			where := "first"
			if o.Jumps.last(name) {
				where = "last"
			}
			if !slices.ContainsFunc(want.jumps, func(j jump) bool { return j.builtin == name }) {
				add("chain "+name, "leads to a chain of ours, but should not")
			} else {
				problem := "does not lead to our chain exactly once, " + where + " of its rules"
				if rules := t.chain(name).rules; where == "first" && len(rules) > 0 && !rules[0].isJump() {
					problem += "; another's is first: " + rules[0].spec
				}
				add("chain "+name, problem)
			}
		}
	}
	return diffs
}

// same reports whether two listings have the same rules in the same chains. Tables without rules do not count: the
// kernel keeps those of the legacy variant once they were asked for.
func (l listing) same(other listing) bool {
	rules := func(l listing) (all []string) {
		for _, name := range tableNames() {
			for _, c := range l.table(name).chains {
				if !c.builtin && !strings.HasPrefix(c.name, madePrefix) {
					all = append(all, name+" "+c.name)
				}
				for _, r := range c.rules {
					all = append(all, name+" "+c.name+" "+r.spec)
				}
			}
		}
		return all
	}
	return slices.Equal(rules(l), rules(other))
}
