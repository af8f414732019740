package iptables

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mesh-intercept/intercept/ruleset"
)

// lowering builds one table.
type lowering struct {
	family  ruleset.Family
	dialect Dialect
	table   table
	hooks   []ruleset.Hook // from which the chain at hand is reached
	// zones is true if the table chooses zones, and others is a target that it then cannot have.
	zones  bool
	others ruleset.Target
	// users are all that there are.
	users ruleset.IDs
	// older are the connections that the rules for them list.
	older []ruleset.Tuple
}

func (l *lowering) comment(s string) string {
	if l.dialect == Minimal {
		return ""
	}
	return s
}

// open begins a chain.
func (l *lowering) open(name string) (*chain, error) {
	switch {
	case len(name) > maxChainName:
		return nil, fmt.Errorf("chain name %s has %d bytes, over %d", name, len(name), maxChainName)
	case strings.HasPrefix(name, specPrefix) || strings.HasPrefix(name, madePrefix):
		return nil, fmt.Errorf("chain name %s is one that this backend needs", name)
	case !isPlain(name):
		return nil, fmt.Errorf("chain name %q: only letters, digits, _, - and . can be in it", name)
	}
	if slices.ContainsFunc(l.table.chains, func(c chain) bool { return c.name == name }) {
		return nil, fmt.Errorf("chain name %s is taken", name)
	}
	l.table.chains = append(l.table.chains, chain{name: name})
	return &l.table.chains[len(l.table.chains)-1], nil
}

// isPlain reports whether a name can stand in the text as it is.
func isPlain(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.", r)
	})
}

// chain lowers a chain. A rule that xtables cannot say in a few plain ones ends its chain, and the rules after it stand
// in another: NAME_1, NAME_2, …
func (l *lowering) chain(c ruleset.Chain) error {
	name := chainName(c.Name)
	parts := 0
	part := func() string {
		parts++
		return name + "_" + strconv.Itoa(parts)
	}
	here := name
	if _, err := l.open(here); err != nil {
		return err
	}
	for _, r := range c.Rules {
		lowered, ok := r.For(l.family)
		if !ok {
			continue
		}
		alternatives, err := l.alternatives(lowered)
		if err == nil && strings.ContainsFunc(r.Comment(), unicode.IsControl) {
			err = errors.New("its comment has a control character, which would end the line")
		}
		if err == nil {
			like := rule{comment: l.comment(r.Comment()), id: r.ID, reason: r.Reason, moment: alternatives.moment}
			if like.moment {
				l.table.moments = append(l.table.moments, r.ID)
			}
			here, err = l.rule(here, part, alternatives, like)
		}
		if err != nil {
			return &ruleset.RuleError{Chain: c.Name, Rule: r.ID, Err: err}
		}
	}
	return nil
}

// add appends a rule like another to a chain, with words of its own.
func (l *lowering) add(chainName string, like rule, words ...[]string) {
	i := slices.IndexFunc(l.table.chains, func(c chain) bool { return c.name == chainName })
	like.words = slices.Concat(words...)
	l.table.chains[i].rules = append(l.table.chains[i].rules, like)
}

// lowered is a rule in the pieces that rules of xtables are put together from.
type lowered struct {
	// protos are the -p of each alternative protocol; one, maybe empty, at least.
	protos [][]string
	// fixed stands in every rule.
	fixed []string
	// lists are conditions of which any item will do, one item a rule.
	lists [][][]string
	// nots are conditions of which no item may hold, one item a rule.
	nots   [][]string
	target []string
	// twoPorts is true if the rule asks for source and destination port.
	twoPorts bool
	// never is true if no packet satisfies the rule.
	never bool
	// moment is true if the rule holds what was so when it was written.
	moment bool
}

// maxProduct is up to how many rules two lists are multiplied out to. Beyond it they get a chain each, so that the
// rules add up instead.
const maxProduct = 8

// rule appends a rule to the chain here and returns the chain in which the next one goes. What it becomes is like
// the rule given, but for its words.
func (l *lowering) rule(here string, part func() string, a lowered, like rule) (string, error) {
	if a.never {
		return here, nil
	}
	product := 1
	for _, list := range a.lists {
		product *= len(list)
	}
	if len(a.nots) == 0 && (len(a.lists) <= 1 || product <= maxProduct) {
		l.multiply(here, a, like)
		return here, nil
	}
	// What is on a negated list, and what is on none of an asked for one, goes on with the rules that follow. They get
	// a chain of their own, since a rule further down the way has to get there without coming back.
	chains := []string{here}
	for range max(len(a.lists)-1, 0) {
		chains = append(chains, part())
	}
	rest := part()
	for _, name := range append(chains[1:], rest) {
		if _, err := l.open(name); err != nil {
			return "", err
		}
	}
	follow := rule{comment: l.comment(plumbing)}
	for _, p := range a.protos {
		for _, item := range a.nots {
			l.add(here, follow, p, item, []string{"-g", rest})
		}
	}
	for i, name := range chains {
		last := i == len(chains)-1
		switch {
		case last && len(a.lists) == 0:
			l.multiply(name, a, like)
		case last:
			l.multiply(name, lowered{protos: a.protos, fixed: a.fixed, lists: a.lists[i:], target: a.target}, like)
		default:
			next := []string{"-g", chains[i+1]}
			l.multiply(name, lowered{protos: a.protos, fixed: a.fixed, lists: a.lists[i : i+1], target: next}, follow)
		}
		if !last || !a.unconditional() {
			l.add(name, follow, []string{"-g", rest})
		}
	}
	return rest, nil
}

// unconditional reports whether the rule decides about every packet that is on none of its negated lists.
func (a lowered) unconditional() bool {
	return len(a.protos) == 1 && len(a.protos[0]) == 0 && len(a.fixed) == 0 && len(a.lists) == 0 &&
		slices.Contains([]string{"RETURN", "ACCEPT", "DROP"}, a.target[1])
}

// plumbing is the comment of rules that only lead from one part of a chain to another.
const plumbing = "go on"

// multiply appends a rule for each combination of the items of the lists.
func (l *lowering) multiply(here string, a lowered, like rule) {
	combinations := [][]string{nil}
	for _, list := range a.lists {
		var longer [][]string
		for _, c := range combinations {
			for _, item := range list {
				longer = append(longer, slices.Concat(c, item))
			}
		}
		combinations = longer
	}
	for _, p := range a.protos {
		for _, c := range combinations {
			l.add(here, like, p, a.fixed, c, a.target)
		}
	}
}

// alternatives takes a rule apart.
func (l *lowering) alternatives(r ruleset.Rule) (lowered, error) {
	a := lowered{protos: [][]string{nil}}
	kinds := map[reflect.Type]bool{}
	kindOf := func(m ruleset.Match) reflect.Type {
		if n, is := m.(ruleset.Not); is {
			m = n.Match
		}
		return reflect.TypeOf(m)
	}
	ports := 0
	for _, m := range r.Match {
		switch kindOf(m) {
		case reflect.TypeFor[ruleset.SrcPort](), reflect.TypeFor[ruleset.DstPort]():
			ports++
		}
	}
	a.twoPorts = ports == 2
	for _, m := range r.Match {
		kind := kindOf(m)
		if kinds[kind] {
			// xtables refuses the second -d, and iptables-nft 1.8.9 drops a second --dport.
			return lowered{}, fmt.Errorf("%w for two conditions %s in a rule", ruleset.ErrUnsupported, kind)
		}
		kinds[kind] = true
		if err := l.match(&a, m); err != nil {
			return lowered{}, err
		}
	}
	if of := reflect.TypeFor[ruleset.Older](); kinds[of] {
		others := []reflect.Type{reflect.TypeFor[ruleset.Src](), reflect.TypeFor[ruleset.Dst](),
			reflect.TypeFor[ruleset.SrcPort](), reflect.TypeFor[ruleset.DstPort]()}
		// A list of connections asks for addresses and ports itself, and only its own rules are left out of comparisons.
		if slices.ContainsFunc(others, func(k reflect.Type) bool { return kinds[k] }) || len(a.lists) > 1 || len(a.nots) > 0 {
			return lowered{}, fmt.Errorf("%w for %s beside addresses, ports and other lists", ruleset.ErrUnsupported, of)
		}
	}
	var err error
	a.target, err = l.target(r)
	return a, err
}
