package iptables

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
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
	// gvisor is true if the rules are for gVisor.
	gvisor bool
	// places are those of the chains in the table.
	places map[string]int
	// flag is true if packets are marked for a moment, so that the ways through the chains do not multiply.
	flag bool
	// lists are the rules with how long their lists are.
	lists []list
	// sets is from how many rules on a list is a set, and asked are the sets.
	sets  int
	asked []asked
	// rule is the one that is taken apart.
	rule ruleset.RuleID
}

func (l *lowering) comment(s string) string {
	if l.dialect == Minimal {
		return ""
	}
	return s
}

// open begins a chain.
func (l *lowering) open(name string) error {
	switch {
	case len(name) > maxChainName:
		return fmt.Errorf("chain name %s has %d bytes, over %d", name, len(name), maxChainName)
	case strings.HasPrefix(name, specPrefix) || strings.HasPrefix(name, madePrefix):
		return fmt.Errorf("chain name %s is one that this backend needs", name)
	case !isWord(name):
		return fmt.Errorf("chain name %q: only letters, digits, _, - and . can be in it", name)
	}
	if _, taken := l.places[name]; taken {
		return fmt.Errorf("chain name %s is taken", name)
	}
	l.places[name] = len(l.table.chains)
	l.table.chains = append(l.table.chains, chain{name: name})
	return nil
}

// isWord reports whether a name can stand in the text as it is.
func isWord(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.", r)
	})
}

// piece is a rule of a chain, taken apart.
type piece struct {
	lowered
	// like is what its rules in the kernel are, but for their words.
	like rule
	// leaves is true if the packets that it is about go on elsewhere, and passes if they go on with the rules after it,
	// with the mark that they have.
	leaves, passes bool
	// marks is true if they go on with the rules after it, and may have another mark then.
	marks bool
}

// chain lowers a chain. A rule that xtables cannot say in a few plain ones ends its chain, and the rules after it stand
// in another: NAME_1, NAME_2, …
func (l *lowering) chain(c ruleset.Chain) error {
	here := chainName(c.Name)
	if err := l.open(here); err != nil {
		return err
	}
	parts := 0
	part := func() (string, error) {
		parts++
		name := chainName(c.Name) + "_" + strconv.Itoa(parts)
		return name, l.open(name)
	}
	var pieces []piece
	for _, r := range c.Rules {
		p, ok, err := l.piece(r)
		if err != nil {
			return &ruleset.RuleError{Chain: c.Name, Rule: r.ID, Err: err}
		}
		if !ok {
			continue
		}
		pieces = append(pieces, p)
		l.lists = append(l.lists, list{c.Name, r.ID, r.Reason, p.items()})
	}
	if l.flag {
		return l.withFlag(here, pieces, part)
	}
	return l.inParts(here, pieces, part)
}

// piece takes a rule apart. ok is false if no packet can meet it.
func (l *lowering) piece(r ruleset.Rule) (p piece, ok bool, err error) {
	of, ok := r.For(l.family)
	if !ok {
		return piece{}, false, nil
	}
	l.rule = r.ID
	if p.lowered, err = l.alternatives(of); err != nil {
		return piece{}, false, err
	}
	if strings.ContainsFunc(r.Comment(), unicode.IsControl) {
		return piece{}, false, errors.New("its comment has a control character, which would end the line")
	}
	p.like = rule{comment: l.comment(r.Comment()), id: r.ID, reason: r.Reason, moment: p.moment}
	if p.moment {
		l.table.moments = append(l.table.moments, r.ID)
	}
	switch r.Target.(type) {
	case ruleset.Return, ruleset.Goto:
		p.leaves = true
	case ruleset.SetConnMark, ruleset.CTZone:
		p.passes = true
	case ruleset.Jump, ruleset.SetMark:
		p.marks = true
	case ruleset.Accept, ruleset.Drop, ruleset.Reject, ruleset.Redirect, ruleset.DNAT, ruleset.Keep,
		ruleset.TProxy, ruleset.Divert:
	}
	return p, !p.never, nil
}

// add appends a rule like another to a chain, with words of its own.
func (l *lowering) add(chainName string, like rule, words ...[]string) {
	like.words = slices.Concat(words...)
	c := &l.table.chains[l.places[chainName]]
	c.rules = append(c.rules, like)
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

// items is how many items the rule's lists have.
func (a lowered) items() int {
	n := len(a.nots)
	for _, list := range a.lists {
		n += len(list)
	}
	return n
}

// isPlain reports whether the rule is a few rules in the chain that it stands in.
func (a lowered) isPlain() bool {
	return len(a.nots) == 0 && (len(a.lists) <= 1 || a.product() <= maxProduct)
}

// product is how many combinations of items the lists have.
func (a lowered) product() int {
	product := 1
	for _, list := range a.lists {
		product *= len(list)
	}
	return product
}

// inParts appends the rules of a chain. Where they cannot be plain they go on in the next part of it: what is on a
// negated list, and what is on none of an asked for one. That is a chain of its own, since a rule further down the way
// has to get there without coming back.
func (l *lowering) inParts(here string, pieces []piece, part func() (string, error)) error {
	follow := rule{comment: l.comment(plumbing)}
	for _, a := range pieces {
		if a.isPlain() {
			l.multiply(here, a.lowered, a.like)
			continue
		}
		chains := []string{here}
		for range max(len(a.lists), 1) {
			next, err := part()
			if err != nil {
				return err
			}
			chains = append(chains, next)
		}
		rest := chains[len(chains)-1]
		chains = chains[:len(chains)-1]
		aside := follow
		for _, p := range a.protos {
			for _, item := range a.nots {
				l.add(here, aside, p, item, []string{"-g", rest})
				aside.comment = ""
			}
		}
		for i, name := range chains {
			last := i == len(chains)-1
			switch {
			case last && len(a.lists) == 0:
				l.multiply(name, a.lowered, a.like)
			case last:
				l.multiply(name, lowered{protos: a.protos, fixed: a.fixed, lists: a.lists[i:], target: a.target}, a.like)
			default:
				next := []string{"-g", chains[i+1]}
				l.multiply(name, lowered{protos: a.protos, fixed: a.fixed, lists: a.lists[i : i+1], target: next}, follow)
			}
			if !last || !a.unconditional() {
				l.add(name, follow, []string{"-g", rest})
			}
		}
		here = rest
	}
	return nil
}

// unconditional reports whether the rule decides about every packet that is on none of its negated lists.
func (a lowered) unconditional() bool {
	return len(a.protos) == 1 && len(a.protos[0]) == 0 && len(a.fixed) == 0 && len(a.lists) == 0 &&
		slices.Contains([]string{"RETURN", "ACCEPT", "DROP"}, a.target[1])
}

// plumbing is the comment of rules that only lead from one part of a chain to another.
const plumbing = "go on"

// multiply appends a rule for each combination of the items of the lists. The first says which rule of the policy they
// are: a packet is compared with each, and to pass a comment takes as long as half a comparison.
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
			like.comment = ""
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
	// The protocol comes first, for it loads the module that knows a header's fields.
	matches := slices.Clone(r.Match)
	protocol := reflect.TypeFor[ruleset.Proto]()
	sort.SliceStable(matches, func(i, j int) bool { return kindOf(matches[i]) == protocol && kindOf(matches[j]) != protocol })
	for _, m := range matches {
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
	// What the first list does not have on it need not meet the others.
	sort.SliceStable(a.lists, func(i, j int) bool { return len(a.lists[i]) < len(a.lists[j]) })
	var err error
	a.target, err = l.target(r)
	return a, err
}
