package nft

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// isIn reports whether the kernel has all tables of the program, going by
// their fingerprints alone.
func (p program) isIn(st state) bool {
	return !slices.ContainsFunc(p, func(t table) bool {
		return !slices.ContainsFunc(st, func(kt kernelTable) bool { return kt.family == t.family && kt.spec == t.spec })
	})
}

// differences compares what the kernel holds with a program: tables, chains
// with their hooks, sets with their elements, rules and their order.
func (p program) differences(st state) []intercept.Difference {
	var diffs []intercept.Difference
	for _, kt := range st {
		if !slices.ContainsFunc(p, func(t table) bool { return t.family == kt.family }) {
			diffs = append(diffs, intercept.Difference{What: "table " + familyName(kt.family) + " " + Table, Problem: "not part of this configuration"})
		}
	}
	for _, t := range p {
		i := slices.IndexFunc(st, func(kt kernelTable) bool { return kt.family == t.family })
		if i < 0 {
			diffs = append(diffs, intercept.Difference{What: "table " + familyName(t.family) + " " + Table, Problem: "missing"})
			continue
		}
		diffs = append(diffs, t.differences(st[i])...)
	}
	return diffs
}

func (t table) differences(kt kernelTable) []intercept.Difference {
	var diffs []intercept.Difference
	add := func(what, format string, args ...any) {
		diffs = append(diffs, intercept.Difference{What: what, Problem: fmt.Sprintf(format, args...)})
	}
	if kt.spec != t.spec {
		add("table "+familyName(t.family)+" "+Table, "made from another configuration (%s, not %s)", kt.spec, t.spec)
	}

	for _, s := range t.sets {
		i := slices.IndexFunc(kt.sets, func(ks kernelSet) bool { return ks.name == s.name })
		if i < 0 {
			add("set "+s.name, "missing")
			continue
		}
		ks := kt.sets[i]
		if ks.key.Name != s.key.datatype().Name || ks.interval != s.key.isInterval() {
			add("set "+s.name, "is of another type (%s)", ks.key.Name)
			continue
		}
		if want := canonicalElements(s.elements()); !slices.Equal(ks.elements, want) {
			add("set "+s.name, "%s", elementsProblem(want, ks.elements))
		}
	}
	for _, ks := range kt.sets {
		if !slices.ContainsFunc(t.sets, func(s set) bool { return s.name == ks.name }) {
			add("set "+ks.name, "not ours")
		}
	}

	for _, c := range t.chains {
		i := slices.IndexFunc(kt.chains, func(kc *nftables.Chain) bool { return kc.Name == c.name })
		if i < 0 {
			add("chain "+c.name, "missing")
			continue
		}
		if problem := c.baseProblem(kt.chains[i]); problem != "" {
			add("chain "+c.name, "%s", problem)
		}
		diffs = append(diffs, c.ruleDifferences(kt.rules[c.name])...)
	}
	for _, kc := range kt.chains {
		if kc.Name == kt.spec {
			if n := len(kt.rules[kc.Name]); n > 0 {
				add("chain "+kc.Name, "has %d rules that are not ours", n)
			}
		} else if !slices.ContainsFunc(t.chains, func(c chain) bool { return c.name == kc.Name }) {
			add("chain "+kc.Name, "not ours")
		}
	}
	return diffs
}

func (c chain) baseProblem(kc *nftables.Chain) string {
	if !c.isBase() {
		if kc.Hooknum != nil {
			return "is a base chain"
		}
		return ""
	}
	switch {
	case kc.Hooknum == nil || kc.Priority == nil:
		return "is not a base chain"
	case *kc.Hooknum != hookNumber(c.hook):
		return "is on another hook"
	case *kc.Priority != nftables.ChainPriority(c.priority):
		return fmt.Sprintf("has priority %d, not %d", *kc.Priority, c.priority)
	case string(kc.Type) != c.typ.String():
		return fmt.Sprintf("is of type %s, not %s", kc.Type, c.typ)
	case kc.Policy != nil && *kc.Policy != nftables.ChainPolicyAccept:
		return "has policy drop"
	}
	return ""
}

// ruleDifferences names what is missing, what is not ours, and what stands in
// another order.
func (c chain) ruleDifferences(kernel []kernelRule) []intercept.Difference {
	want := make([]string, len(c.rules))
	for i, r := range c.rules {
		want[i] = ruleKey(r.comment, r.body())
	}
	have := make([]string, len(kernel))
	for i, r := range kernel {
		have[i] = ruleKey(r.comment, r.body)
	}
	if slices.Equal(want, have) {
		return nil
	}
	var diffs []intercept.Difference
	left := slices.Clone(have)
	for i, w := range want {
		if j := slices.Index(left, w); j >= 0 {
			left = slices.Delete(left, j, j+1)
			continue
		}
		diffs = append(diffs, intercept.Difference{What: fmt.Sprintf("chain %s, rule %q", c.name, c.rules[i].comment), Problem: "missing"})
	}
	for _, l := range left {
		comment, _, _ := strings.Cut(l, "\x00")
		what := fmt.Sprintf("chain %s, rule %q", c.name, comment)
		if comment == "" {
			what = "chain " + c.name + ", a rule without comment"
		}
		problem := "not ours"
		if slices.ContainsFunc(c.rules, func(r rule) bool { return r.comment == comment }) {
			problem = "has other conditions or another target"
		}
		diffs = append(diffs, intercept.Difference{What: what, Problem: problem})
	}
	if len(diffs) == 0 {
		diffs = append(diffs, intercept.Difference{What: "chain " + c.name, Problem: "its rules stand in another order"})
	}
	return diffs
}

func ruleKey(comment, body string) string { return comment + "\x00" + body }

func elementsProblem(want, have []string) string {
	count := func(a, b []string) (n int) {
		for _, e := range a {
			if _, found := slices.BinarySearch(b, e); !found && strings.HasSuffix(e, "+") {
				n++
			}
		}
		return n
	}
	missing, extra := count(want, have), count(have, want)
	if missing == 0 && extra == 0 {
		return "its ranges end elsewhere"
	}
	return fmt.Sprintf("%d ranges missing, %d not ours", missing, extra)
}

// hookNumber returns the kernel's number of a hook (linux/netfilter.h).
func hookNumber(h intercept.Hook) nftables.ChainHook {
	if h == intercept.Prerouting {
		return unix.NF_INET_PRE_ROUTING
	}
	return unix.NF_INET_LOCAL_OUT
}
