package classes

import (
	"fmt"
	"slices"
	"sort"

	"github.com/mesh-intercept/intercept/ruleset"
)

// familyRules are rules as packets of one family meet them.
type familyRules struct {
	family ruleset.Family
	chains []ruleset.Chain
	// captured is false of a family for which there are no rules.
	captured bool
}

func forFamily(rs ruleset.Ruleset, f ruleset.Family) familyRules {
	r := familyRules{family: f, captured: slices.Contains(rs.Families, f)}
	if !r.captured {
		return r
	}
	for _, c := range rs.Chains {
		rules := make([]ruleset.Rule, 0, len(c.Rules))
		for _, rule := range c.Rules {
			if rule, ok := rule.For(f); ok {
				rules = append(rules, rule)
			}
		}
		c.Rules = rules
		r.chains = append(r.chains, c)
	}
	return r
}

// An outcome is an end of the diagram of rules: a packet's fate, and the rule that decides it.
type outcome struct {
	fate ruleset.Fate
	rule ruleset.RuleID
	// decided is false of what rules let go on without a word.
	decided bool
	// weak is the number of a base chain by which a packet passes if no chain before has decided. 0: it is not so.
	weak int
	// never is true of packets that there cannot be.
	never bool
}

// walker follows packets of one kind through rules, from the last rule to the first: what follows a rule is there
// before the rule is looked at.
type walker struct {
	*space
	rules   familyRules
	sender  Sender
	arrived bool // what the pod has sent to itself
	chains  map[string]ruleset.Chain
	memo    map[chainKey]ref
	bases   int
}

type chainKey struct {
	name       string
	back, done ref
	mode       mode
	base       int
}

// mode is what a return says of the packet's fate.
type mode uint8

const (
	silent mode = iota // nothing
	strong             // it passes, unless a later chain decides otherwise
	weak               // it passes, unless an earlier one has decided, or a later one decides otherwise
)

// root returns the diagram of what becomes of packets of a family and a sender that leave by lo, or by another
// interface.
func (s *space) root(rules familyRules, sender Sender, lo bool) ref {
	w := walker{space: s, rules: rules, sender: sender, chains: map[string]ruleset.Chain{}, memo: map[chainKey]ref{}}
	for _, c := range rules.chains {
		w.chains[c.Name] = c
	}
	r := s.end(outcome{})
	switch {
	case !rules.captured:
	case sender == Forwarded:
		r = w.arriving(r, ruleset.Prerouting, ruleset.Forward)
	case sender == Arriving:
		r = w.arriving(r, ruleset.Prerouting, ruleset.Input)
	default:
		if lo {
			// What is sent inside the pod arrives there. NAT and the conntrack zone are settled by then.
			w.arrived = true
			r = w.hooks([]ruleset.Hook{ruleset.Prerouting, ruleset.Input}, r)
			w.arrived = false
		}
		r = w.hooks([]ruleset.Hook{ruleset.Output}, r)
	}
	r = s.mapped(r, func(end any) ref {
		o := end.(outcome)
		return s.end(outcome{fate: o.fate, rule: o.rule, decided: true})
	})
	// What there cannot be.
	never := s.end(outcome{never: true})
	switch sender {
	case Process, Kernel:
		r = s.choose(s.literals(rules.family, ruleset.Dst(noHost())), never, r)
		r = s.choose(s.literals(rules.family, ruleset.Proto{ruleset.TCP}, ruleset.Dst(manyHosts())), never, r)
	case Arriving:
		// They are nobody's own address.
		r = s.choose(s.literals(rules.family, ruleset.Dst(noHost())), never, r)
		r = s.choose(s.literals(rules.family, ruleset.Dst(manyHosts())), never, r)
	case Forwarded, senderCount:
	}
	return r
}

// arriving returns what becomes of packets that pass two hooks, unless they go to loopback: the kernel discards those
// before or after the first one (see Packet.path in package ruleset).
func (w *walker) arriving(r ref, first, second ruleset.Hook) ref {
	discarded := r
	if w.rules.family == ruleset.IPv4 {
		discarded = w.hooks([]ruleset.Hook{first}, r)
	}
	r = w.hooks([]ruleset.Hook{first, second}, r)
	return w.choose(w.literals(w.rules.family, ruleset.Dst(loopback())), discarded, r)
}

// literals are conditions, each on a field of its own.
func (s *space) literals(f ruleset.Family, all ...ruleset.Match) []literal {
	var out []literal
	for _, m := range all {
		field, key := fieldOf(m, f)
		a := &s.axes[field]
		out = append(out, literal{field, a.on[key], len(a.atoms)})
	}
	return out
}

// asked is when packets meet a base chain, among all of its hook.
func asked(c ruleset.Chain) ruleset.Priority {
	if c.Type == ruleset.NATChain {
		return ruleset.PriorityDstNAT
	}
	return c.Priority
}

// hooks returns what becomes of packets that pass the hooks, and then what is after them.
func (w *walker) hooks(hooks []ruleset.Hook, after ref) ref {
	var bases []ruleset.Chain
	for _, h := range hooks {
		of := slices.DeleteFunc(slices.Clone(w.rules.chains), func(c ruleset.Chain) bool { return c.Hook != h })
		sort.SliceStable(of, func(i, j int) bool { return asked(of[i]) < asked(of[j]) })
		bases = append(bases, of...)
	}
	// NAT is asked about the first packet of what conntrack takes for a connection, if nobody has translated it.
	first := w.believedBy(func(b belief) bool {
		return b.state&(ruleset.CTNew|ruleset.CTRelated) != 0 && !b.known && !b.dnat
	})
	// The destination is where the packet really goes; chains before NAT saw where it was to go.
	translated := w.believedBy(func(b belief) bool { return b.dnat && !b.reply })
	for _, c := range slices.Backward(bases) {
		m := strong
		switch {
		case w.arrived && (c.Type == ruleset.NATChain || c.Priority == ruleset.PriorityRaw):
			continue
		case w.arrived || c.Priority == ruleset.PriorityRaw || c.Type == ruleset.RouteChain:
			m = silent
		case c.Priority == ruleset.PriorityFilter:
			m = weak
		}
		w.bases++
		r := w.chain(c, after, after, m, w.bases)
		if c.Type == ruleset.NATChain {
			r = w.choose(first, r, after)
		}
		if !w.arrived && asked(c) < ruleset.PriorityDstNAT {
			r = w.choose(translated, after, r)
		}
		after = r
	}
	return after
}

func (w *walker) believedBy(has func(belief) bool) []literal {
	return []literal{{Conntrack, w.beliefSet(has), len(w.axes[Conntrack].atoms)}}
}

// chain returns what becomes of packets from the first rule of a chain on. back is what follows if the chain lets them
// go on, and done if they leave its base chain.
func (w *walker) chain(c ruleset.Chain, back, done ref, m mode, base int) ref {
	k := chainKey{c.Name, back, done, m, base}
	if r, is := w.memo[k]; is {
		return r
	}
	next := back
	for _, r := range slices.Backward(c.Rules) {
		if all, can := w.conditions(r); can {
			next = w.choose(all, w.target(r, next, back, done, m, base), next)
		}
	}
	w.memo[k] = next
	return next
}

// conditions are those of a rule, in the order of their fields. can is false if no packet of this kind satisfies all.
func (w *walker) conditions(r ruleset.Rule) (all []literal, can bool) {
	for _, m := range r.Match {
		negated := false
		if n, is := m.(ruleset.Not); is {
			m, negated = n.Match, true
		}
		sent := w.sender == Process || w.sender == Kernel
		leaves := sent && !w.arrived
		owned := w.sender == Process && !w.arrived
		holds, always := false, true // for all packets of this kind, or for none
		switch m.(type) {
		case ruleset.InInterface:
			always = leaves
		case ruleset.OutInterface:
			always = !leaves
		case ruleset.UID, ruleset.GID:
			always = !owned
		case ruleset.HasSocket:
			holds = owned
		case ruleset.ToLocal:
			holds = w.sender != Forwarded
		case ruleset.IsFamily:
			holds = true // else Rule.For had left the rule out
		case ruleset.Proto, ruleset.SrcPort, ruleset.DstPort, ruleset.Src, ruleset.Dst, ruleset.MetaMark, ruleset.ConnMark,
			ruleset.CTState, ruleset.CTDNAT, ruleset.CTDirection, ruleset.SocketOpen, ruleset.Length, ruleset.TCPFlags,
			ruleset.TCPHeader, ruleset.MPTCP, ruleset.ICMPEcho, ruleset.ICMPQuote, ruleset.Older, ruleset.Not:
			always = false
		}
		if always {
			if holds == negated {
				return nil, false
			}
			continue
		}
		f, key := fieldOf(m, w.rules.family)
		a := &w.axes[f]
		in := a.on[key]
		if negated {
			in = a.all().without(in)
		}
		i := slices.IndexFunc(all, func(l literal) bool { return l.field == f })
		if i < 0 {
			all = append(all, literal{f, in, len(a.atoms)})
			continue
		}
		all[i].in = all[i].in.and(in)
	}
	for _, l := range all {
		if l.in.empty() {
			return nil, false
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].field < all[j].field })
	return all, true
}

// target returns what becomes of packets that a rule matches. next is what becomes of the others.
func (w *walker) target(r ruleset.Rule, next, back, done ref, m mode, base int) ref {
	decide := func(f ruleset.Fate) ref { return w.end(outcome{fate: f, rule: r.ID, decided: true}) }
	switch t := r.Target.(type) {
	case ruleset.Accept, ruleset.Keep:
		return w.unless(done, outcome{rule: r.ID, decided: true})
	case ruleset.Return:
		switch m {
		case strong:
			return w.unless(back, outcome{rule: r.ID, decided: true})
		case weak:
			return w.unless(back, outcome{rule: r.ID, weak: base})
		case silent:
		}
		return back
	case ruleset.Drop:
		return decide(ruleset.Fate{Action: ruleset.Dropped})
	case ruleset.Reject:
		return decide(ruleset.Fate{Action: ruleset.Rejected})
	case ruleset.Redirect:
		return decide(ruleset.Fate{Action: ruleset.Redirected, Ports: t.Ports})
	case ruleset.DNAT:
		return decide(ruleset.Fate{Action: ruleset.Translated, To: t.To})
	case ruleset.TProxy:
		return decide(ruleset.Fate{Action: ruleset.Transparent, Ports: ruleset.Port(t.Port)})
	case ruleset.Divert:
		return decide(ruleset.Fate{Action: ruleset.Transparent, Ports: ruleset.Port(t.Port)})
	case ruleset.Jump:
		return w.chain(w.chains[t.Chain], next, done, m, base)
	case ruleset.Goto:
		return w.chain(w.chains[t.Chain], back, done, m, base)
	case ruleset.SetMark:
		return w.marked(next, Mark, ruleset.Mark(t))
	case ruleset.SetConnMark:
		return w.marked(next, ConnMark, ruleset.Mark(t))
	case ruleset.CTZone:
		return back
	}
	panic(fmt.Sprintf("classes: unknown target %T", r.Target))
}

// unless returns r, with an outcome for packets of which nothing after decides.
func (w *walker) unless(r ref, o outcome) ref {
	return w.mapped(r, func(end any) ref {
		later := end.(outcome)
		// In one base chain the last return says why a packet passes; of several the first one does.
		if later.decided || later.weak != 0 && later.weak == o.weak {
			return w.end(later)
		}
		return w.end(o)
	})
}

// marked returns r as it is for packets that have been given a mark.
func (w *walker) marked(r ref, f Field, m ruleset.Mark) ref {
	marks := w.marks[f-Mark]
	a := &w.axes[f]
	to := make([]int, len(a.atoms))
	for i, v := range marks {
		to[a.atom(number(i))] = w.markAtom(f, v&^m.Mask|m.Value)
	}
	return w.assigned(r, f, to)
}

// markAtom is the atom of any mark.
func (s *space) markAtom(f Field, v uint32) int {
	marks, tests := s.marks[f-Mark], s.tests[f-Mark]
	for i, w := range marks {
		if !slices.ContainsFunc(tests, func(t ruleset.Mark) bool { return (v&t.Mask == t.Value) != (w&t.Mask == t.Value) }) {
			return s.axes[f].atom(number(i))
		}
	}
	panic("classes: a mark of no atom")
}
