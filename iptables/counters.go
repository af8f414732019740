package iptables

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Counters returns what the rules have counted since they were applied, in the order packets meet them. The many rules
// that one rule of the policy can be are added up. Where there is nothing of ours the error is
// [ruleset.ErrNotIntercepted].
//
// Rules say by their comments which rule of the policy they are. Where they have none (the dialect Minimal) their
// places in the chains of like tell, if like is the Ruleset in force. If it is not, or nil, Counter.Rule is empty and
// Counter.Reason the rule's text.
func (r *Runner) Counters(ctx context.Context, like *ruleset.Ruleset) ([]ruleset.Counter, error) {
	have, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	var counters []ruleset.Counter
	places := map[ruleset.Counter]int{}
	for _, f := range families() {
		want := r.minimal(like, f)
		for _, name := range tableNames() {
			t := have[f].table(name)
			for _, c := range inOrder(t.ours()) {
				if strings.HasPrefix(c.name, specPrefix) {
					continue
				}
				chain, _ := partOf(c.name)
				comments := c.comments()
				for i, s := range c.rules {
					id, reason, counts := t.is(want.table(name), c.name, i, s, comments[i])
					if !counts {
						continue
					}
					counters = count(counters, places, ruleset.Counter{Chain: chain, Rule: id, Line: id.Line(), Reason: reason,
						Family: f.String(), Packets: s.packets, Bytes: s.bytes})
				}
			}
		}
	}
	return counters, nil
}

// Hollow returns what is missing in our chains whatever they were made of: rules that lead to them.
func (r *Runner) Hollow(ctx context.Context) (all []ruleset.Difference, err error) {
	have, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range families() {
		for _, t := range have[f] {
			led := map[string]bool{}
			for _, c := range t.chains {
				for _, rule := range c.rules {
					words := split(rule.spec)
					if i := slices.IndexFunc(words, isTarget); i >= 0 && i+1 < len(words) {
						led[words[i+1]] = true
					}
				}
			}
			for _, c := range t.ours() {
				if mark := strings.HasPrefix(c.name, specPrefix) || strings.HasPrefix(c.name, madePrefix); !mark && !led[c.name] {
					all = append(all, ruleset.Difference{What: f.String() + ", table " + t.name + ", chain " + c.name,
						Problem: "no rule leads to it"})
				}
			}
		}
	}
	return all, nil
}

// Older returns the connections that our rules were given as older than they are ([ruleset.Ruleset.Older]). Their rules
// alone name addresses and ports of both ends.
func (r *Runner) Older(ctx context.Context) ([]ruleset.Tuple, error) {
	have, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	var all []ruleset.Tuple
	for _, f := range families() {
		for _, t := range have[f] {
			for _, c := range t.ours() {
				for _, s := range c.rules {
					if tuple, ok := tupleOf(split(s.spec)); ok {
						all = append(all, tuple)
					}
				}
			}
		}
	}
	return all, nil
}

// Note returns the [ruleset.Ruleset.Note] that is kept beside our rules. Empty: none is. Each table has the one of when
// it was written, so it is the greatest as strings are compared: let notes begin with the time.
func (r *Runner) Note(ctx context.Context) (note string, err error) {
	have, err := r.look(ctx)
	if err != nil {
		return "", err
	}
	for _, f := range families() {
		for _, t := range have[f] {
			for _, c := range t.ours() {
				if !strings.HasPrefix(c.name, specPrefix) {
					continue
				}
				comments := make([]string, len(c.rules))
				for i, s := range c.rules {
					comments[i] = s.key().Comment
				}
				note = max(note, ruleset.ReadNote(comments))
			}
		}
	}
	return note, nil
}

// tupleOf reads the addresses and ports of a rule that has two of each.
func tupleOf(words []string) (t ruleset.Tuple, ok bool) {
	value := map[string]string{}
	for i, w := range words[:max(len(words)-1, 0)] {
		value[w] = words[i+1]
	}
	end := func(addr, port string) netip.AddrPort {
		a, errAddr := netip.ParsePrefix(value[addr])
		n, errPort := strconv.ParseUint(value[port], 10, 16)
		if errAddr != nil || errPort != nil || !a.IsSingleIP() {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(a.Addr(), uint16(n))
	}
	t = ruleset.Tuple{Src: end("-s", "--sport"), Dst: end("-d", "--dport")}
	return t, t.Src.IsValid() && t.Dst.IsValid()
}

// count appends a counter, or adds it to the one of the same rule, whose place is in places. What is known by its text
// alone is added to the last one only.
func count(counters []ruleset.Counter, places map[ruleset.Counter]int, c ruleset.Counter) []ruleset.Counter {
	key := c
	key.Packets, key.Bytes = 0, 0
	i, known := places[key]
	if !known || c.Rule == "" && i != len(counters)-1 {
		places[key] = len(counters)
		return append(counters, c)
	}
	counters[i].Packets += c.Packets
	counters[i].Bytes += c.Bytes
	return counters
}

// minimal is what the minimal dialect makes of a Ruleset. What it cannot make cannot be in force.
func (r *Runner) minimal(rs *ruleset.Ruleset, f ruleset.Family) program {
	if rs == nil {
		return program{family: f}
	}
	rules := *rs
	rules.Routes = nil // others' business
	p, err := compile(rules, f, Options{Variant: Legacy, Dialect: Minimal, gvisor: r.o.gvisor}, r.users)
	if err != nil {
		return program{family: f}
	}
	return p
}

// is finds out which rule of the policy a rule is, the one at a place in a chain: by a comment, or as the one at this
// place in like, if like has the table's fingerprint and the same rule there. Without an ID the reason is the rule's
// text. counts is false for rules that only lead from one part of a chain to another.
func (t savedTable) is(like table, name string, place int, s savedRule, comment string) (id ruleset.RuleID,
	reason string, counts bool) {
	if id, reason := ruleset.ParseComment(comment); id != "" {
		return id, reason, true
	}
	inForce := slices.ContainsFunc(like.chains,
		func(c chain) bool { return strings.HasPrefix(c.name, specPrefix) && t.has(c.name) })
	rules := like.chain(name).rules
	if !inForce || place >= len(rules) || rules[place].key() != s.key() {
		return "", s.spec, comment != plumbing
	}
	r := rules[place]
	return r.id, r.reason, r.id != ""
}

// inOrder puts the parts of each chain into the order of their numbers. They are listed by name, NAME_10 before NAME_2.
func inOrder(chains []savedChain) []savedChain {
	chains = slices.Clone(chains)
	sort.SliceStable(chains, func(i, j int) bool {
		nameA, numberA := partOf(chains[i].name)
		nameB, numberB := partOf(chains[j].name)
		return cmp.Or(cmp.Compare(nameA, nameB), cmp.Compare(numberA, numberB)) < 0
	})
	return chains
}

// partOf returns the Ruleset's name of a chain or of a part of it, and the part's number.
func partOf(name string) (string, int) {
	name = strings.ToLower(strings.TrimPrefix(name, prefix))
	if i := strings.LastIndexByte(name, '_'); i >= 0 {
		if n, err := strconv.Atoi(name[i+1:]); err == nil {
			return name[:i], n
		}
	}
	return name, 0
}
