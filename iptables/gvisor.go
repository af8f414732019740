package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// gVisor's network stack knows part of what xtables is (pkg/sentry/socket/netfilter in gvisor.dev/gvisor): the matches
// tcp, udp, owner, mark and multiport, and the targets ACCEPT, DROP, RETURN, jumps, REDIRECT, DNAT, REJECT and CT,
// which does nothing. A table in the minimal dialect is written for it once more: in other words where it has some, and
// refused by name where it has none.

// gvisorTables are the tables that it takes rules for. Its table mangle cannot be written.
func gvisorTables() []string { return []string{"raw", "filter", "nat"} }

const (
	// gvisorDepth is how deep chains may lead to each other, the built-in one among them: a packet that comes further is
	// dropped (maxJumps of pkg/tcpip/stack/iptables.go).
	gvisorDepth = 16
	// gvisorOwners is how many owners a rule may list: an owner match takes one, and 32 KiB hold some 150 rules.
	gvisorOwners = 150
)

// forGVisor returns the table as gVisor takes it.
func (t table) forGVisor(f ruleset.Family) (table, error) {
	inbound := t.reachedBut("OUTPUT")
	chains := slices.Clone(t.chains)
	for i, c := range chains {
		var rules []rule
		for k, r := range c.rules {
			words, err := t.wordsForGVisor(r.words, inbound[c.name])
			if err != nil {
				name, _ := partOf(c.name)
				return table{}, &ruleset.RuleError{Chain: name, Rule: t.ruleFrom(i, k),
					Err: fmt.Errorf("%s, table %s: %w", f, t.name, err)}
			}
			for _, w := range words {
				like := r
				like.words = w
				rules = append(rules, like)
			}
		}
		chains[i].rules = rules
	}
	t.chains = chains
	if w := t.walk(); w.depth > gvisorDepth {
		return table{}, fmt.Errorf("%s, table %s: %w for chains that lead to each other %d deep; gVisor takes %d: give "+
			"fewer exclusions with several lists each", f, t.name, ruleset.ErrUnsupported, w.depth, gvisorDepth)
	}
	return t, nil
}

// ruleFrom returns the ID of the policy's rule that a rule is a part of, by the places of its chain and its own. Where
// it only leads from one part of a chain to another, that is the next one that has an ID.
func (t table) ruleFrom(chain, place int) ruleset.RuleID {
	for _, c := range t.chains[chain:] {
		for _, r := range c.rules[min(place, len(c.rules)):] {
			if r.id != "" {
				return r.id
			}
		}
		place = 0
	}
	return ""
}

// Ask asks gVisor for all that rules need, and writes nothing: its tables, which are there all the time, matches and
// targets. The error is [ruleset.ErrUnsupported] if something is missing, and about other kernels.
func (r *Runner) Ask(ctx context.Context, rs ruleset.Ruleset) error {
	if !r.o.gvisor {
		return fmt.Errorf("%w for asking without writing", ruleset.ErrUnsupported)
	}
	want, err := r.compile(rs)
	if err != nil {
		return err
	}
	if _, err := r.Counters(ctx, nil); err != nil && !errors.Is(err, ruleset.ErrNotIntercepted) {
		return err
	}
	for _, f := range families() {
		for _, e := range want[f].extensions() {
			if has, known := knows(f, e); known && !has {
				return fmt.Errorf("%s: %w", f, gvisorLacks(e.String(), "use a newer one"))
			}
		}
	}
	return nil
}

// reachedBut are the chains that are reached from built-in chains other than the one given.
func (t table) reachedBut(builtin string) map[string]bool {
	reached := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if reached[name] {
			return
		}
		reached[name] = true
		for _, r := range t.chain(name).rules {
			if to, ok := r.leadsTo(); ok {
				visit(to)
			}
		}
	}
	for _, j := range t.jumps {
		if j.builtin != builtin {
			visit(j.chain)
		}
	}
	return reached
}

// wordsForGVisor returns the rules that are, for gVisor, what one is for Linux: none if no packet there can meet it.
// inbound is true if packets that arrive meet it.
func (t table) wordsForGVisor(words []string, inbound bool) ([][]string, error) {
	if t.name == "mangle" {
		return nil, gvisorLacks("rules before NAT, in table mangle",
			"leave out --drop-invalid, and use --inbound-mode redirect")
	}
	var conditions [][]string
	var target []string
	for _, o := range options(words) {
		if len(target) > 0 || o.name == "-j" || o.name == "-g" {
			target = append(append(target, o.name), o.values...)
		} else {
			conditions = append(conditions, o.words())
		}
	}
	rules := [][]string{nil}
	either := func(alternatives ...[]string) {
		var all [][]string
		for _, r := range rules {
			for _, a := range alternatives {
				all = append(all, slices.Concat(r, a))
			}
		}
		rules = all
	}
	for _, o := range options(slices.Concat(conditions...)) {
		switch {
		case o.name == "--tcp-option" && o.values[0] == "30" && o.not:
			continue // it has no Multipath TCP, so this is so
		case o.name == "--tcp-option" && o.values[0] == "30":
			return nil, nil
		case o.name == "-i" && o.not && o.values[0] == ruleset.Loopback && t.name == "nat":
			// It would not say that this is negated, and write it without at the next change. What arrives by lo has met NAT
			// when it was sent, and is not asked again.
			continue
		case o.name == "-m":
			if !slices.Contains([]string{"owner", "mark"}, o.values[0]) {
				return nil, gvisorLacks("match "+o.values[0], "leave out what asks for it (--drop-invalid, --udp reject, "+
					"--quic reject, --other-family reject)")
			}
			either(o.words())
		case strings.HasSuffix(o.name, "-owner"):
			ids, err := oneByOne(o.values[0])
			switch {
			case err != nil:
				return nil, err
			case o.not:
				return nil, gvisorLacks("negated match of owners", "list those who are meant")
			case inbound:
				// A packet that has none is dropped.
				return nil, gvisorLacks("match of owners for what arrives", "leave out owners there")
			}
			var each [][]string
			for _, id := range ids {
				each = append(each, []string{o.name, id})
			}
			either(each...)
		case o.not && !slices.Contains([]string{"-s", "-d", "-o"}, o.name):
			return nil, gvisorLacks("a negated "+o.name, "list what is meant")
		default:
			either(o.words())
		}
	}
	return t.withTarget(rules, target)
}

// withTarget adds a target to each of the rules.
func (t table) withTarget(rules [][]string, target []string) (all [][]string, err error) {
	goesTo, name := target[0] == "-g", target[1]
	switch {
	case name == "REDIRECT" && strings.Contains(target[3], "-"):
		return nil, gvisorLacks("redirection to several ports", "give one port where a range is: --outbound-port, "+
			"--inbound-port, --dns-port")
	case slices.Contains([]string{"TPROXY", "MARK", "CONNMARK", "CT"}, name):
		return nil, gvisorLacks("target "+name, "leave out what asks for it")
	}
	for _, r := range rules {
		if !goesTo {
			all = append(all, slices.Concat(r, target))
			continue
		}
		// -g comes back to where the chain was called from: -j comes back here, and leaves by a rule of the same conditions.
		all = append(all, slices.Concat(r, []string{"-j", name}))
		if len(r) > 0 {
			all = append(all, slices.Concat(r, []string{"-j", "RETURN"}))
		}
	}
	return all, nil
}

func gvisorLacks(what, remedy string) error {
	return fmt.Errorf("%w: gVisor has no %s; %s", ruleset.ErrUnsupported, what, remedy)
}

// option is one of a rule's, with its values.
type option struct {
	not    bool
	name   string
	values []string
}

func (o option) words() []string {
	words := append([]string{o.name}, o.values...)
	if o.not {
		words = append([]string{"!"}, words...)
	}
	return words
}

// options takes the words of a rule of ours apart.
func options(words []string) (all []option) {
	not := false
	for _, w := range words {
		switch {
		case w == "!":
			not = true
		case strings.HasPrefix(w, "-"):
			all, not = append(all, option{not: not, name: w}), false
		default:
			last := &all[len(all)-1]
			last.values = append(last.values, w)
		}
	}
	return all
}

// oneByOne returns the IDs of a range.
func oneByOne(text string) (ids []string, err error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		return []string{text}, nil
	}
	from, err1 := strconv.ParseUint(first, 10, 32)
	to, err2 := strconv.ParseUint(last, 10, 32)
	if err1 != nil || err2 != nil || to-from >= gvisorOwners {
		return nil, gvisorLacks("ranges of owners, and "+text+" are too many to list", "list fewer")
	}
	for id := from; id <= to; id++ {
		ids = append(ids, strconv.FormatUint(id, 10))
	}
	return ids, nil
}
