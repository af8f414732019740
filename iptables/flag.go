package iptables

import (
	"fmt"
	"slices"
	"strings"
)

// Before the kernel takes the chains of iptables-nft it follows every way through them (walk.go). Where several rules
// of a chain are written in parts, the ways multiply. Where that is too much, the chain is written with a flag: what a
// rule asks for is asked in chains of its own, which come back. They flip a bit of the packet's mark if the packet is
// on all of the lists, and a rule behind them asks for the bit. So the ways add up.
//
// The packet keeps its mark: the bit is flipped back before anything else sees it. A packet that came with the bit set
// meets a second copy of these rules, in which the flag is the bit cleared. The lists are shared.

// flagBit is the bit. It does not matter which it is: no rule that asks for a mark sees it flipped.
const flagBit uint32 = 1 << 31

// flip is the target that flips it.
func flip() []string { return []string{"-j", "MARK", "--set-xmark", fmt.Sprintf("%#x/0x0", flagBit)} }

// whereBit asks what the bit is.
func whereBit(set bool) []string {
	value := uint32(0)
	if set {
		value = flagBit
	}
	return []string{"-m", "mark", "--mark", masked(value, flagBit)}
}

// multiplies reports whether the rule, if it is written in parts, makes several ways to what follows it.
func (p piece) multiplies() bool {
	return p.flags() && (!p.isPlain() || p.target[0] == "-g")
}

// flags reports whether the rule takes the flag, where a chain has one.
func (p piece) flags() bool {
	return !p.moment && (p.leaves && (!p.isPlain() || p.isLong()) || p.passes && !p.isPlain())
}

// isLong reports whether the rule takes many rules, if it is plain.
func (a lowered) isLong() bool { return len(a.protos)*a.product() > maxProduct }

// withFlag appends the rules of a chain. Those that multiply, and what is between them, use the flag.
func (l *lowering) withFlag(here string, pieces []piece, part func() (string, error)) error {
	first := slices.IndexFunc(pieces, piece.multiplies)
	if first < 0 {
		return l.allApart(here, pieces, part)
	}
	if err := l.allApart(here, pieces[:first], part); err != nil {
		return err
	}
	end := first + 1
	// A mark that is set between these rules could be the flag's own bit: what follows it looks at the bit anew.
	for i := end; i < len(pieces) && !pieces[i].marks; i++ {
		if pieces[i].multiplies() {
			end = i + 1
		}
	}
	other, err := part()
	if err != nil {
		return err
	}
	flipper, err := part()
	if err != nil {
		return err
	}
	l.lead(flipper, flip())
	l.lead(here, whereBit(true), []string{"-g", other})
	copies := []string{here, other}
	for _, p := range pieces[first:end] {
		if p.flags() {
			err = l.flagged(copies, flipper, p, part)
		} else {
			err = l.apart(copies, p, part)
		}
		if err != nil {
			return err
		}
	}
	if end == len(pieces) {
		return nil
	}
	rest, err := part()
	if err != nil {
		return err
	}
	for _, in := range copies {
		l.lead(in, []string{"-g", rest})
	}
	return l.withFlag(rest, pieces[end:], part)
}

// allApart appends rules that do not multiply.
func (l *lowering) allApart(here string, pieces []piece, part func() (string, error)) error {
	for _, p := range pieces {
		if err := l.apart([]string{here}, p, part); err != nil {
			return err
		}
	}
	return nil
}

// flagged appends a rule that takes the flag to both copies of its chain.
func (l *lowering) flagged(copies []string, flipper string, p piece, part func() (string, error)) error {
	var lists []string
	for _, items := range p.lists {
		name, err := part()
		if err != nil {
			return err
		}
		lists = append(lists, name)
		l.leadAll(name, p.lowered, items, []string{"-g", flipper})
	}
	leave := flipper
	if p.target[0] == "-g" {
		var err error
		if leave, err = part(); err != nil {
			return err
		}
		l.lead(leave, flip())
		l.lead(leave, p.target)
	}
	for i, in := range copies {
		set := i == 1 // in this copy, of a packet without the flag
		ask := ""
		if len(lists) == 1 && len(p.nots) == 0 {
			ask = lists[0]
		} else {
			var err error
			if ask, err = part(); err != nil {
				return err
			}
			l.ask(ask, p, lists, set)
		}
		l.call(in, p.lowered, ask)
		if p.leaves {
			l.add(in, p.like, whereBit(!set), []string{"-g", leave})
			continue
		}
		l.add(in, p.like, whereBit(!set), p.target)
		l.lead(in, whereBit(!set), flip())
	}
	return nil
}

// ask fills the chain that sets the flag of packets that are on all of the lists, and on no negated one.
func (l *lowering) ask(name string, p piece, lists []string, set bool) {
	l.unless(name, p.lowered)
	if len(lists) == 0 {
		l.lead(name, flip())
		return
	}
	last := len(lists) - 1
	for _, list := range lists[:last] {
		l.lead(name, []string{"-j", list})
		l.lead(name, whereBit(set), []string{"-j", "RETURN"})
		l.lead(name, flip())
	}
	l.lead(name, []string{"-g", lists[last]})
}

// apart appends a rule to copies of its chain: as plain rules or, if that is not possible, as a call of a chain of its
// own, which comes back if it does not decide. That is for rules that do not leave their chain.
func (l *lowering) apart(copies []string, p piece, part func() (string, error)) error {
	if p.isPlain() {
		for _, in := range copies {
			l.multiply(in, p.lowered, p.like)
		}
		return nil
	}
	name, err := part()
	if err != nil {
		return err
	}
	for _, in := range copies {
		l.call(in, p.lowered, name)
	}
	l.unless(name, p.lowered)
	for i := range p.lists {
		if i == len(p.lists)-1 {
			break
		}
		next, err := part()
		if err != nil {
			return err
		}
		l.leadAll(name, p.lowered, p.lists[i], []string{"-g", next})
		name = next
	}
	final := lowered{protos: p.protos, fixed: protoWords(p.fixed), target: p.target}
	if n := len(p.lists); n > 0 {
		final.lists = p.lists[n-1:]
	}
	l.multiply(name, final, p.like)
	return nil
}

// call leads what satisfies the conditions that stand in every rule to a chain, and back.
func (l *lowering) call(in string, a lowered, name string) {
	for _, p := range a.protos {
		l.lead(in, p, a.fixed, []string{"-j", name})
	}
}

// unless returns from a chain with what is on a negated list.
func (l *lowering) unless(name string, a lowered) {
	l.leadAll(name, a, a.nots, []string{"-j", "RETURN"})
}

// leadAll appends such rules for each of several items. The first says so.
func (l *lowering) leadAll(in string, a lowered, items [][]string, target []string) {
	follow := rule{comment: l.comment(plumbing)}
	for _, item := range items {
		for _, words := range a.alone(item) {
			l.add(in, follow, words, target)
			follow.comment = ""
		}
	}
}

// lead appends a rule that only leads from one part of a chain to another.
func (l *lowering) lead(in string, words ...[]string) {
	l.add(in, rule{comment: l.comment(plumbing)}, words...)
}

// alone returns the conditions of rules that ask for an item alone: a port needs its protocol beside it.
func (a lowered) alone(item []string) [][]string {
	isPort := slices.ContainsFunc(item, func(w string) bool {
		return strings.HasPrefix(w, "--sport") || strings.HasPrefix(w, "--dport")
	})
	switch p := protoWords(a.fixed); {
	case !isPort || protoWords(item) != nil:
		return [][]string{item}
	case p != nil:
		return [][]string{slices.Concat(p, item)}
	}
	var all [][]string
	for _, p := range a.protos {
		all = append(all, slices.Concat(p, item))
	}
	return all
}
