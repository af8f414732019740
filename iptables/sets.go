package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/ruleset"
)

// setFrom is from how many rules on a list becomes a set instead. A packet is compared with a rule of iptables-legacy in 2
// to 3 ns, or twice that with a comment, with one of iptables-nft in 15 (IPv4) to 60 ns (IPv6), and with a set in some 200.
// So with as many the one loses 0.1 µs at most, and the other has lost 2. Fewer are not worth the two messages for a set.
const setFrom = 32

// asked is a set, and the rule of the policy that asks it.
type asked struct {
	ipset.Set
	rule ruleset.RuleID
}

// addAsked adds to sets those of others that are not among them.
func addAsked(sets, others []asked) []asked {
	for _, a := range others {
		if !slices.ContainsFunc(sets, func(b asked) bool { return a.Name() == b.Name() }) {
			sets = append(sets, a)
		}
	}
	return sets
}

// askSet has the rule at hand ask a set.
func (l *lowering) askSet(a *lowered, s ipset.Set, which string, negated bool) {
	l.asked = append(l.asked, asked{s, l.rule})
	a.fixed = append(a.fixed, "-m", "set")
	if negated {
		a.fixed = append(a.fixed, "!")
	}
	a.fixed = append(a.fixed, matchSet, s.Name(), which)
}

// matchSet is the option that asks a set.
const matchSet = "--match-set"

// IsLong reports whether a condition is about a list that is long enough for a set, where there are sets.
func IsLong(m ruleset.Match) bool { return isLong(m, setFrom) }

// isLong reports whether a condition is about a list that may be so many rules.
func isLong(m ruleset.Match, from int) bool {
	if n, is := m.(ruleset.Not); is {
		m = n.Match
	}
	switch m := any(m).(type) { // no other condition has a list
	case ruleset.Src:
		return len(m) >= from
	case ruleset.Dst:
		return len(m) >= from
	case ruleset.SrcPort:
		return len(m) >= from
	case ruleset.DstPort:
		return len(m) >= from
	}
	return false
}

// hasLong reports whether a Ruleset has long lists.
func hasLong(rs ruleset.Ruleset, from int) bool {
	return slices.ContainsFunc(rs.Chains, func(c ruleset.Chain) bool {
		return slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool {
			return slices.ContainsFunc(r.Match, func(m ruleset.Match) bool { return isLong(m, from) })
		})
	})
}

// errNoSets reports a dialect without sets.
var errNoSets = fmt.Errorf("%w for sets in the minimal dialect", ruleset.ErrUnsupported)

// Sets reports why rules of this Runner are one for each item of a long list. Nil: they ask sets. It asks the kernel, which
// loads modules if it can.
//
// The error is a [ruleset.ModulesError], [ruleset.ErrPermission], or [ruleset.ErrUnsupported] for the minimal dialect:
// that is for kernels of which nobody knows more than that they have a few matches.
func (r *Runner) Sets() error {
	if r.o.gvisor || r.o.dialect() == Minimal {
		return errNoSets
	}
	c, err := ipset.Open()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // a socket, of which every answer was read
	if err := c.Can(); err != nil {
		return err
	}
	return r.matchesSets()
}

// asks is how many rules of ours ask each set.
func (l listing) asks() map[string]int {
	all := map[string]int{}
	for _, t := range l {
		for _, c := range t.ours() {
			for _, r := range c.rules {
				for _, set := range r.sets() {
					all[set]++
				}
			}
		}
	}
	return all
}

// sets are those of ours that a rule asks.
func (r savedRule) sets() (names []string) {
	if !strings.Contains(r.spec, matchSet) {
		return nil
	}
	words := split(r.spec)
	for i, w := range words[:len(words)-1] {
		if w == matchSet && ipset.IsOurs(words[i+1]) {
			names = append(names, words[i+1])
		}
	}
	return names
}

// isAsked reports whether one of the programs asks a set.
func isAsked(want map[ruleset.Family]program, set string) bool {
	for _, p := range want {
		if slices.ContainsFunc(p.sets, func(a asked) bool { return a.Name() == set }) {
			return true
		}
	}
	return false
}

// setReferences reports rules of others that ask sets of ours which are to go, and then cannot.
func (l listing) setReferences(f ruleset.Family, goes func(set string) bool) error {
	var errs []error
	for _, t := range l {
		for _, c := range t.chains {
			if strings.HasPrefix(c.name, prefix) {
				continue
			}
			for _, r := range c.rules {
				for _, set := range slices.DeleteFunc(r.sets(), func(set string) bool { return !goes(set) }) {
					errs = append(errs, &beside.ReferenceError{In: fmt.Sprintf("chain %s of table %s, %s,", c.name, t.name, f),
						Rule: "-A " + c.name + " " + r.spec, Set: set})
				}
			}
		}
	}
	return errors.Join(errs...)
}

// openSets returns what speaks with the kernel about sets, or nil if it has none.
func (s *session) openSets() (*ipset.Conn, error) {
	if s.sets == nil && !s.o.gvisor && ipset.Loaded() {
		c, err := ipset.Open()
		if errors.Is(err, ruleset.ErrUnsupported) {
			return nil, nil
		}
		s.sets = c
		return c, err
	}
	return s.sets, nil
}

// askedByOthers returns how many rules ask each set of ours, beside those that were listed.
func (s *session) askedByOthers(have map[ruleset.Family]listing) (map[string]int, error) {
	c, err := s.openSets()
	if c == nil || err != nil {
		return nil, err
	}
	all, err := c.References()
	for _, l := range have {
		for set, n := range l.asks() {
			all[set] -= n
		}
	}
	return all, err
}

// makeSets makes what sets the programs ask, as they should be. It reports whether one was not.
func (s *session) makeSets(want map[ruleset.Family]program) (changed bool, err error) {
	for _, f := range families() {
		for _, a := range want[f].sets {
			c, err := s.openSets()
			if err != nil {
				return changed, err
			}
			if c == nil {
				return changed, fmt.Errorf("%w for sets: the kernel has lost them", ruleset.ErrUnsupported)
			}
			made, err := c.Make(a.Set)
			changed = changed || made
			if err != nil {
				return changed, &ruleset.RuleError{Rule: a.rule, Err: err}
			}
		}
	}
	return changed, nil
}

// setDifferences names the sets that are not as the programs ask them.
func (s *session) setDifferences(want map[ruleset.Family]program) (diffs []ruleset.Difference, err error) {
	for _, f := range families() {
		for _, a := range want[f].sets {
			c, err := s.openSets()
			if c == nil || err != nil {
				return nil, err // there is no such rule, either
			}
			found, err := c.Look(a.Set)
			if err != nil {
				return nil, err
			}
			problem := map[ipset.Content]string{ipset.Missing: "missing", ipset.Other: "has other members"}[found]
			d := ruleset.Difference{What: fmt.Sprintf("set %s of rule %s", a.Name(), a.rule), Rule: a.rule, Problem: problem}
			if problem != "" && !slices.Contains(diffs, d) { // both families can ask the same ports
				diffs = append(diffs, d)
			}
		}
	}
	return diffs, nil
}

// sweepTime is how long to wait for the kernel to take out rules of iptables-nft. It does so after it has said that they
// are gone, and until then they keep the sets that they ask.
const sweepTime = 2 * time.Second

// sweep takes out the sets that no rule asks. Those which are not in use any more, and are asked by more rules than those
// of others, will be free in a moment. It reports whether there were any.
func (s *session) sweep(ctx context.Context, others map[string]int, inUse func(set string) bool) (swept bool, err error) {
	c, err := s.openSets()
	if c == nil || err != nil {
		return false, err
	}
	swept, _, err = takeOut(ctx, c, func(set string, n int) bool { return n <= others[set] || inUse(set) })
	return swept, err
}

// takeOut takes out the sets that no rule asks, and returns those that rules ask. It waits for those of them that are not
// to stay, as long as ctx and sweepTime allow.
func takeOut(ctx context.Context, c *ipset.Conn, stays func(set string, n int) bool) (swept bool, left []string,
	err error) {
	for end := time.Now().Add(sweepTime); ; {
		now, err := c.References()
		if err != nil {
			return swept, left, err
		}
		left = nil
		free := true
		for set, n := range now {
			if n == 0 {
				err := c.Destroy(set)
				if err != nil && !errors.Is(err, ipset.ErrBusy) {
					return swept, left, err
				}
				swept = true
				if err == nil {
					continue
				}
			}
			left = append(left, set)
			free = free && stays(set, n)
		}
		if free || time.Now().After(end) || ctx.Err() != nil {
			slices.Sort(left)
			return swept, left, nil
		}
		<-time.After(time.Millisecond)
	}
}

// SweepSets takes out the sets of ours that no rule asks, in the namespace of the calling thread, without a program:
// somebody may have been killed after they were made. It reports whether there were any. left are those that rules ask; if
// wait is set, after the kernel had time to take out rules of iptables-nft that somebody has just deleted.
func SweepSets(ctx context.Context, wait bool) (swept bool, left []string, err error) {
	if gvisor.Here() || !ipset.Loaded() {
		return false, nil, nil
	}
	c, err := ipset.Open()
	if errors.Is(err, ruleset.ErrUnsupported) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	defer func() { _ = c.Close() }() // a socket, of which every answer was read
	return takeOut(ctx, c, func(string, int) bool { return !wait })
}
