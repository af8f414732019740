//go:build linux

package nft

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/rulediff"
	"github.com/mesh-intercept/intercept/ruleset"
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
func (p program) differences(st state) []ruleset.Difference {
	var diffs []ruleset.Difference
	for _, kt := range st {
		if !slices.ContainsFunc(p, func(t table) bool { return t.family == kt.family }) {
			diffs = append(diffs, ruleset.Difference{What: "table " + familyName(kt.family) + " " + Table,
				Problem: "not part of this configuration"})
		}
	}
	for _, t := range p {
		i := slices.IndexFunc(st, func(kt kernelTable) bool { return kt.family == t.family })
		if i < 0 {
			diffs = append(diffs, ruleset.Difference{What: "table " + familyName(t.family) + " " + Table, Problem: "missing"})
			continue
		}
		diffs = append(diffs, t.differences(st[i])...)
	}
	return diffs
}

func (t table) differences(kt kernelTable) []ruleset.Difference {
	var diffs []ruleset.Difference
	add := func(what, format string, args ...any) {
		diffs = append(diffs, ruleset.Difference{What: what, Problem: fmt.Sprintf(format, args...)})
	}
	switch {
	case kt.isDormant():
		add("table "+familyName(t.family)+" "+Table, "is dormant: none of its rules is in force")
	case kt.flags != 0:
		add("table "+familyName(t.family)+" "+Table, "has flags %#x that are not ours", kt.flags)
	}
	if kt.spec != t.spec {
		add("table "+familyName(t.family)+" "+Table, "made from another configuration (%s, not %s)", kt.spec, t.spec)
	}

	for _, l := range kt.first {
		if kt.registered(l) == beside.AfterOurs && slices.ContainsFunc(t.chains, func(c chain) bool {
			return c.isBase() && c.typ == ruleset.NATChain && hookNumber(c.hook) == nftables.ChainHook(l.chain.hook)
		}) {
			add(fmt.Sprintf("table %s %s, chain %s", familyName(l.in.family), l.in.name, l.chain.name),
				"was registered after ours at priority %d, so the kernel asks it first", l.chain.priority)
		}
	}
	for _, s := range t.sets {
		i := slices.IndexFunc(kt.sets, func(ks kernelSet) bool { return ks.name == s.name })
		if i < 0 {
			add("set "+s.name, "missing")
			continue
		}
		ks := kt.sets[i]
		if !s.isOfType(ks) {
			add("set "+s.name, "is of another type")
			continue
		}
		if s.key.isOfOneMoment() {
			continue
		}
		if want := s.elements(); !ks.elements.equal(want) {
			add("set "+s.name, "%s", elementsProblem(want, ks.elements))
		}
	}
	for _, ks := range kt.sets {
		// A set that waits for its rules, or was to: no rule asks it.
		if !isSum(ks.name) && !slices.ContainsFunc(t.sets, func(s set) bool { return s.name == ks.name }) {
			add("set "+ks.name, "not ours")
		}
	}

	for _, c := range t.chains {
		i := slices.IndexFunc(kt.chains, func(kc kernelChain) bool { return kc.name == c.name })
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
		if kc.name == kt.spec {
			others := slices.DeleteFunc(slices.Clone(kt.rules[kc.name]), kernelRule.isNote)
			if len(others) > 0 {
				add("chain "+kc.name, "has %d rules that are not ours", len(others))
			}
		} else if !slices.ContainsFunc(t.chains, func(c chain) bool { return c.name == kc.name }) {
			add("chain "+kc.name, "not ours")
		}
	}
	return diffs
}

// isOfType reports whether the kernel's set can be it, but for its elements.
func (s set) isOfType(ks kernelSet) bool {
	typ := s.key.datatype()
	return ks.key == typ.GetNFTMagic() && ks.flags == s.flags() && !ks.more
}

// isSum reports whether a name is that of a set of ranges of ours (see sum).
func isSum(name string) bool {
	_, sum, _ := strings.Cut(name, "_")
	_, err := strconv.ParseUint(sum, 16, 64)
	return len(sum) == 16 && err == nil
}

// chainIsBase is the flag of a base chain (NFT_CHAIN_BASE).
const chainIsBase = 1

func (c chain) baseProblem(kc kernelChain) string {
	switch {
	case !c.isBase() && !kc.base:
		return ""
	case !c.isBase():
		return "is a base chain"
	case !kc.base:
		return "is not a base chain"
	case nftables.ChainHook(kc.hook) != hookNumber(c.hook):
		return "is on another hook"
	case kc.priority != int32(c.priority):
		return fmt.Sprintf("has priority %d, not %d", kc.priority, c.priority)
	case kc.typ != c.typ.String():
		return fmt.Sprintf("is of type %s, not %s", kc.typ, c.typ)
	case kc.drops:
		return "has policy drop"
	case kc.device:
		return "is bound to a network device"
	case kc.flags&^chainIsBase != 0:
		return fmt.Sprintf("has flags %#x that are not ours", kc.flags)
	}
	return ""
}

func (c chain) ruleDifferences(kernel []kernelRule) []ruleset.Difference {
	want := make([]rulediff.Rule, len(c.rules))
	for i, r := range c.rules {
		want[i] = rulediff.Rule{Comment: r.comment, Body: r.body()}
	}
	have := make([]rulediff.Rule, len(kernel))
	for i, r := range kernel {
		have[i] = rulediff.Rule{Comment: r.comment, Body: r.body}
	}
	return rulediff.Chain(c.name, want, have)
}

func elementsProblem(want, have elements) string {
	missing, extra := want.without(have), have.without(want)
	if missing == 0 && extra == 0 {
		return "its ranges end elsewhere"
	}
	return fmt.Sprintf("%d ranges missing, %d not ours", missing, extra)
}

// hookNumber returns the kernel's number of a hook (linux/netfilter.h).
func hookNumber(h ruleset.Hook) nftables.ChainHook {
	switch h {
	case ruleset.Prerouting:
		return unix.NF_INET_PRE_ROUTING
	case ruleset.Input:
		return unix.NF_INET_LOCAL_IN
	case ruleset.Forward:
		return unix.NF_INET_FORWARD
	case ruleset.Output:
	}
	return unix.NF_INET_LOCAL_OUT
}
