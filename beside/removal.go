package beside

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Removal is what takes the rules of a mesh out.
type Removal struct {
	// Tables are those of its own, and Chains its chains in tables that others use, too.
	Tables, Chains []Chain
	// Rules are its rules in the chains of others: those that lead to its chains, and those known by their comments.
	Rules []RuleOf
}

// RuleOf is a rule and the chain in which it stands.
type RuleOf struct {
	In Chain
	Rule
}

// ReferenceError reports a rule of somebody else's that leads to a chain, or asks a set, which is to go: it cannot.
type ReferenceError struct {
	// In says which chain has the rule, and To to which it leads.
	In, To string
	// Set is the set of ours that it asks, if it is not a chain that is to go.
	Set string
	// Rule is the rule as iptables-save writes it, if it is known.
	Rule string
}

// ReferenceTo reports that a rule of in leads to another chain.
func ReferenceTo(in Chain, to string) *ReferenceError { return &ReferenceError{In: in.name(), To: to} }

// Error names both chains, or the chain and the set, and the rule.
func (e *ReferenceError) Error() string {
	rule := "a rule"
	if e.Rule != "" {
		rule = "the rule " + strconv.Quote(e.Rule)
	}
	what := "leads to chain " + e.To
	if e.Set != "" {
		what = "asks set " + e.Set
	}
	return fmt.Sprintf("%s of %s is somebody else's and %s: delete that rule first", rule, e.In, what)
}

// Removal returns what takes the rules of the mesh out of the tables that chains are of. What bears a name of its own is
// its, and with it, of a mesh that writes such, idle rules in built-in chains where there are no others but ours: rules
// that lead to chains of which isOurs holds. The error is a [*ReferenceError].
func (m Mesh) Removal(chains []Chain, isOurs func(chain string) bool) (r Removal, err error) {
	for _, c := range chains {
		switch {
		case m.has(name{table: c.Table}):
			if c.Name == "" {
				r.Tables = append(r.Tables, c)
			}
			continue
		case m.has(name{chain: c.Name}):
			r.Chains = append(r.Chains, c)
			continue
		}
		for _, rule := range c.Rules {
			to := ""
			for _, t := range rule.To {
				if m.has(name{chain: t}) {
					to = t
				}
			}
			switch {
			case m.has(name{comment: rule.Comment}), to != "" && c.Base:
				r.Rules = append(r.Rules, RuleOf{c, rule})
			case to != "":
				return Removal{}, ReferenceTo(c, to)
			}
		}
		if m.isAloneIn(c, chains, isOurs) {
			for _, rule := range c.Idle {
				r.Rules = append(r.Rules, RuleOf{c, rule})
			}
		}
	}
	return r, nil
}

// isAloneIn reports whether all that a built-in chain has is the mesh's, which writes rules without a name, or ours.
func (m Mesh) isAloneIn(c Chain, chains []Chain, isOurs func(chain string) bool) bool {
	return c.Base && m.owner.nameless && slices.ContainsFunc(chains, func(other Chain) bool {
		return other.Legacy == c.Legacy && other.Family == c.Family && other.Table == c.Table && m.HasChain(other.Name)
	}) && !slices.ContainsFunc(c.Rules, func(r Rule) bool {
		return !slices.ContainsFunc(r.To, func(to string) bool { return m.HasChain(to) || isOurs(to) })
	})
}

// Strange says which rule of the mesh, of those that chains have, is none that its programs write for a proxy that
// listens at ports: another does more, or leads elsewhere, or sends to somebody else. Empty: there is none. With drops
// they may discard, too. For which packets a rule holds is not looked at.
func (m Mesh) Strange(chains []Chain, ports []uint16, drops bool) string {
	for _, c := range chains {
		whole := m.has(name{table: c.Table}) || m.has(name{chain: c.Name})
		for _, does := range c.Else {
			// For TPROXY they mark and accept, in their table mangle.
			if whole && (does == "LOG" || !strings.HasSuffix(c.Table, "mangle")) {
				return fmt.Sprintf("a rule of %s does what its programs do not: %s", c.name(), does)
			}
		}
		for _, r := range c.Rules {
			leads := slices.ContainsFunc(r.To, m.HasChain)
			if !whole && !leads && !m.HasComment(r.Comment) {
				continue
			}
			switch {
			case r.Mapped, slices.ContainsFunc(r.To, func(to string) bool { return !m.has(name{table: c.Table, chain: to}) }):
				return "a rule of " + c.name() + " leads to a chain that is not its own"
			case !whole && c.Base && len(r.Interfaces) == 0 && slices.ContainsFunc(r.To, func(to string) bool {
				return m.leads(chains, c, to)
			}): // with an interface it is about guests
				return fmt.Sprintf("a rule of %s leads to %s, past the chain that leads there", c.name(), r.To[0])
			case slices.ContainsFunc(r.Ports, func(p uint16) bool { return !slices.Contains(ports, p) }):
				return fmt.Sprintf("a rule of %s sends to port %d, where this proxy does not listen", c.name(), r.Ports[0])
			case slices.ContainsFunc(r.Acts, func(a Act) bool {
				return a != Zone && (a != Discard || !drops) && ((a != Redirect && a != TProxy) || len(r.Ports) == 0)
			}):
				return fmt.Sprintf("a rule of %s does what its programs do not: %s", c.name(), r.Acts)
			}
		}
	}
	return ""
}

// leads reports whether a chain of the mesh, in the table of c, leads to another.
func (m Mesh) leads(chains []Chain, c Chain, to string) bool {
	return slices.ContainsFunc(chains, func(own Chain) bool {
		return own.Legacy == c.Legacy && own.Family == c.Family && own.Table == c.Table && m.HasChain(own.Name) &&
			slices.ContainsFunc(own.Rules, func(r Rule) bool { return slices.Contains(r.To, to) })
	})
}

// HasChain reports whether a chain of this name is the mesh's, and HasComment whether a rule with this comment is.
func (m Mesh) HasChain(chain string) bool { return m.has(name{chain: chain}) }

// WritesNameless reports whether the mesh's programs write rules into built-in chains that have no name of its own.
func (m Mesh) WritesNameless() bool { return m.owner.nameless }

// HasComment reports whether a rule with this comment is the mesh's.
func (m Mesh) HasComment(comment string) bool { return m.has(name{comment: comment}) }

func (m Mesh) has(n name) bool { return n.isOf(m.owner) }

// IsEmpty reports whether there is nothing to take out.
func (r Removal) IsEmpty() bool { return len(r.Tables)+len(r.Chains)+len(r.Rules) == 0 }

// Of returns the part that is of the legacy variant of xtables, or the part that is of nf_tables.
func (r Removal) Of(legacy bool) (part Removal) {
	for _, t := range r.Tables {
		if t.Legacy == legacy {
			part.Tables = append(part.Tables, t)
		}
	}
	for _, c := range r.Chains {
		if c.Legacy == legacy {
			part.Chains = append(part.Chains, c)
		}
	}
	for _, rule := range r.Rules {
		if rule.In.Legacy == legacy {
			part.Rules = append(part.Rules, rule)
		}
	}
	return part
}

// Lines says what goes, a line for each part.
func (r Removal) Lines() (lines []string) {
	for _, t := range r.Tables {
		lines = append(lines, "table "+t.Family+" "+t.Table+", with all that is in it")
	}
	for _, c := range r.Chains {
		lines = append(lines, c.name()+", with its rules")
	}
	for _, rule := range r.Rules {
		what := "the rule with the comment " + fmt.Sprintf("%q", rule.Comment)
		switch {
		case len(rule.To) > 0:
			what = "the rule that leads to " + rule.To[0]
		case rule.Idle:
			what = "a rule that returns or marks"
		}
		lines = append(lines, "in "+rule.In.name()+", "+what)
	}
	return lines
}
