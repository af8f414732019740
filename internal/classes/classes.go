package classes

import (
	"slices"
	"sort"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Classes are those of one Ruleset's packets, or of two.
type Classes struct {
	space *space
	// roots are the diagrams of each Ruleset, in the same order.
	roots [][]root
}

// New divides packets into classes that each of the rulesets treats alike, and that satisfy the same conditions of
// more. The error is a [*TooManyError].
func New(more []ruleset.Match, all ...ruleset.Ruleset) (_ *Classes, err error) {
	defer bounded(&err)
	families := []ruleset.Family{ruleset.IPv4, ruleset.IPv6}
	rules := make([][]familyRules, len(all))
	for i, rs := range all {
		for _, f := range families {
			rules[i] = append(rules[i], forFamily(rs, f))
		}
	}
	c := &Classes{space: newSpace(slices.Concat(rules...), more), roots: make([][]root, len(all))}
	for i := range rules {
		for _, r := range rules[i] {
			for sender := range senderCount {
				c.roots[i] = append(c.roots[i], root{r.family, sender, false, c.space.root(r, sender, false)})
				if sender.inPod() {
					c.roots[i] = append(c.roots[i], root{r.family, sender, true, c.space.root(r, sender, true)})
				}
			}
		}
	}
	return c, nil
}

// Verdict is what becomes of packets.
type Verdict struct {
	Fate ruleset.Fate
	// Rule is the rule that decides; empty: none does.
	Rule ruleset.RuleID
}

// Of returns what the ruleset of a number, from 0 on, does with a packet, by its class. It is false for a packet that
// the classes leave out, for there is none: one that arrives by lo, conntrack's state of no connection, a protocol of
// number 0.
func (c *Classes) Of(ruleset int, e Example) (Verdict, bool) {
	p, err := e.Packet.Complete()
	if err != nil {
		return Verdict{}, false
	}
	e.Packet = p
	atoms, ok := c.space.atomsOf(e)
	if !ok {
		return Verdict{}, false
	}
	for _, r := range c.roots[ruleset] {
		if !r.is(p) {
			continue
		}
		at := r.ref
		for at >= 0 {
			n := c.space.nodes[at]
			at = n.kids[atoms[n.field]]
		}
		o, is := c.space.at(at).(outcome)
		return Verdict{o.fate, o.rule}, is && !o.never
	}
	return Verdict{}, false
}

// is reports whether a packet is of the root's kind.
func (r root) is(p ruleset.Packet) bool {
	sender := Process
	switch {
	case p.Hook == ruleset.Prerouting && p.Foreign:
		sender = Forwarded
	case p.Hook == ruleset.Prerouting:
		sender = Arriving
	case p.Owner == nil:
		sender = Kernel
	}
	return r.sender == sender && r.lo == (p.Interface == ruleset.Loopback) && r.family == ruleset.FamilyOf(p.Dst.Addr())
}

// A Change is packets of which two rulesets make different things.
type Change struct {
	Before, After Verdicts
	// First is true of what begins a flow: a packet that opens a TCP connection, or of which conntrack knows nothing.
	// The others are those that rules look at again: of flows that are there, or about which conntrack is wrong.
	First bool
	// Boxes are the packets. They have none in common.
	Boxes []Box
	// More is true if there are more than mostBoxes: those that are beyond are left out.
	More    bool
	Example Example
}

// Verdicts are what becomes of some packets: one fate, by rules of one line of the policy.
type Verdicts struct {
	Fate ruleset.Fate
	// Line is that of the rules that decide; empty: none does.
	Line  string
	Rules []ruleset.RuleID
}

// pair is an end of the diagram of two rulesets that differ.
type pair struct{ before, after outcome }

// group is what the packets of a change have in common.
type group struct {
	before, after         ruleset.Fate
	beforeLine, afterLine string
	first                 bool
}

func groupOf(p pair, first bool) group {
	return group{p.before.fate, p.after.fate, p.before.rule.Line(), p.after.rule.Line(), first}
}

// Diff returns the packets whose fate differs between the first ruleset and the second, the usual ones first. If there
// are none, no packet's fate differs. The error is a [*TooManyError].
func (c *Classes) Diff() (_ []Change, err error) {
	defer bounded(&err)
	s := c.space
	same := s.end(nil)
	var changes []Change
	index := map[group]int{}
	for i, r := range c.roots[0] {
		pairs := s.joined(r.ref, c.roots[1][i].ref, func(a, b any) ref {
			p := pair{a.(outcome), b.(outcome)}
			if p.before.fate == p.after.fate {
				return same
			}
			return s.end(p)
		})
		if pairs == same {
			continue
		}
		start := s.start(r)
		for _, part := range s.flows() {
			box, can := start.within(part.cell)
			if !can {
				continue
			}
			s.endsOf(pairs, box.in, func(end any) {
				p, differs := end.(pair)
				if !differs {
					return
				}
				g := groupOf(p, part.first)
				k, is := index[g]
				if !is {
					k = len(changes)
					index[g] = k
					changes = append(changes, Change{First: g.first, Before: Verdicts{Fate: g.before, Line: g.beforeLine},
						After: Verdicts{Fate: g.after, Line: g.afterLine}})
				}
				changes[k].Before.add(p.before.rule)
				changes[k].After.add(p.after.rule)
			})
			groups := s.mapped(pairs, func(end any) ref {
				if p, differs := end.(pair); differs {
					return s.end(groupOf(p, part.first))
				}
				return same
			})
			for g, k := range index {
				if g.first == part.first {
					s.gather(groups, box, g, &changes[k].Boxes, &changes[k].More)
				}
			}
		}
	}
	for i := range changes {
		changes[i].Boxes = merged(changes[i].Boxes)
		sortBoxes(changes[i].Boxes)
		changes[i].Example = changes[i].Boxes[0].Example()
	}
	sort.SliceStable(changes, func(i, j int) bool {
		a, b := changes[i], changes[j]
		if a.First != b.First {
			return a.First
		}
		return a.Boxes[0].unusual() < b.Boxes[0].unusual()
	})
	return changes, nil
}

// gather adds the boxes of one end of a diagram. A part of the diagram that never comes to it is left out at once.
func (s *space) gather(r ref, b Box, end any, all *[]Box, more *bool) {
	only := s.mapped(r, func(e any) ref {
		if e == end {
			return s.end(true)
		}
		return s.end(false)
	})
	var found []Box
	s.boxes(only, b, func(end any, b Box) bool {
		if end != true {
			return true
		}
		if len(*all)+len(found) >= mostBoxes {
			*more = true
			return false
		}
		found = append(found, b)
		return true
	})
	*all = merged(append(*all, merged(found)...))
}

func (v *Verdicts) add(id ruleset.RuleID) {
	if id != "" && !slices.Contains(v.Rules, id) {
		v.Rules = append(v.Rules, id)
	}
}

// part is a part of all packets.
type part struct {
	first bool
	cell  cell
}

// flows divides packets into those that begin a flow, and the others.
func (s *space) flows() []part {
	on := func(m ruleset.Match) (set, set) {
		f, key := fieldOf(m, ruleset.IPv4)
		in := s.axes[f].on[key]
		if in == nil { // no rule asks for it
			in = newSet(len(s.axes[f].atoms))
		}
		return in, s.axes[f].all().without(in)
	}
	tcp, other := on(ruleset.Proto{ruleset.TCP})
	syn, noSyn := on(ruleset.Opens())
	fresh := s.beliefSet(func(b belief) bool { return b == belief{state: ruleset.CTNew} })
	stale := s.axes[Conntrack].all().without(fresh)
	yes, no := on(ruleset.Older{})
	opens := cell(nil).but(Conntrack, fresh).but(Protocol, tcp)
	return []part{
		{true, opens.but(Flags, syn).but(Older, no)},
		{true, cell(nil).but(Conntrack, fresh).but(Protocol, other)},
		{false, cell(nil).but(Conntrack, stale)},
		{false, opens.but(Flags, noSyn)},
		{false, opens.but(Flags, syn).but(Older, yes)},
	}
}

// unusual counts in how many fields no packet of the box is as most packets are.
func (b Box) unusual() int {
	e := b.Example().Packet
	n := 0
	for _, is := range []bool{
		e.Protocol != ruleset.TCP, e.Hook != ruleset.Output, e.Owner == nil, e.Interface == ruleset.Loopback, e.Known,
		e.State != ruleset.CTNew, e.Reply, e.DNAT, e.MPTCP, e.Mark != 0, e.ConnMark != 0, e.Foreign,
		e.Dst.Addr().Is6(), e.Protocol == ruleset.TCP && e.Flags != ruleset.SYN,
	} {
		if is {
			n++
		}
	}
	return n
}

func sortBoxes(all []Box) {
	sort.SliceStable(all, func(i, j int) bool { return all[i].unusual() < all[j].unusual() })
}

// Share returns which part of all that begins a flow some changes are about: of the values of each field, as if all were
// as frequent. It says which of two changes is the smaller one.
func Share(changes []Change) (sum float64) {
	for _, c := range changes {
		for _, b := range c.Boxes {
			if c.First {
				sum += b.share()
			}
		}
	}
	return sum
}

func (b Box) share() float64 {
	share := 0.0
	for _, family := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		if b.families&familyBit(family) == 0 {
			continue
		}
		part := 0.5
		for f := range fieldCount {
			if f.isAddress() && f.family() != family {
				continue
			}
			part *= b.space.axes[f].size(b.all(f)) / b.space.axes[f].size(b.space.axes[f].all())
		}
		share += part
	}
	for s := range senderCount {
		if !b.isFrom(s) {
			share -= share / float64(senderCount)
		}
	}
	return share
}
