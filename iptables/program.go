package iptables

import (
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A program is what stands in the kernel for a Ruleset in one address family: chains of our own in the tables of
// xtables, and jumps to them from the built-in chains. It is data; text.go writes it, session.go loads it.
type program struct {
	family ruleset.Family
	tables []table // in the order of tableNames
	sets   []asked // that rules ask, each once
}

// tableNames are the tables in the order they are written in. NAT comes last, so that what it redirects finds its
// conntrack zones.
func tableNames() []string { return []string{"raw", "mangle", "filter", "nat"} }

type table struct {
	name   string
	chains []chain
	jumps  []jump
	// moments are the rules of which what is listed is of one moment, and not compared.
	moments []ruleset.RuleID
}

// compared returns the rules of a chain that say what the configuration does.
func (c chain) compared() []rule {
	return slices.DeleteFunc(slices.Clone(c.rules), func(r rule) bool { return r.moment })
}

// compared returns the rules of a chain but for those that are of one moment.
func (t table) compared(c savedChain) []savedRule {
	if len(t.moments) == 0 && !strings.HasPrefix(c.name, specPrefix) {
		return c.rules
	}
	var rules []savedRule
	for i, comment := range c.comments() {
		if id, _ := ruleset.ParseComment(comment); !slices.Contains(t.moments, id) && !ruleset.IsNote(comment) {
			rules = append(rules, c.rules[i])
		}
	}
	return rules
}

type chain struct {
	name  string
	rules []rule
}

// rule is what follows `-A CHAIN`.
type rule struct {
	words   []string // conditions and target, without the comment
	comment string   // empty in the minimal dialect
	// id and reason are those of the policy's rule that it is, or a part of. Without an id it only leads from one part
	// of a chain to another.
	id     ruleset.RuleID
	reason string
	// moment is true if it holds what was so when it was written. It belongs neither to the fingerprint nor to what is
	// compared.
	moment bool
}

// jump is a rule of a built-in chain that sends packets to a chain of ours.
type jump struct {
	builtin, chain string
	comment        string
}

const (
	// prefix begins the names of all our chains.
	prefix = "MESH_"
	// specPrefix begins the name of a chain that every table of ours has, and that no packet meets. The rest is the
	// fingerprint of the table's content. A MESH_ chain in a table without it is somebody else's. Its rules hold the note.
	specPrefix = prefix + "SPEC_"
	// madePrefix begins the names of empty chains that say what of nf_tables was made for our sake, and goes with the
	// rest: the table itself, or a base chain of it.
	madePrefix = prefix + "MADE_"
	madeTable  = madePrefix + "TABLE"
	// maxChainName is XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, less the final zero.
	maxChainName = 28
	// maxComment is the most that the match comment takes: XT_MAX_COMMENT_LEN of linux/netfilter/xt_comment.h, less the
	// final zero.
	maxComment = 255
)

// compile lowers a Ruleset for one family, for the users that there are. It decides nothing about packets.
func compile(rs ruleset.Ruleset, f ruleset.Family, o Options, users ruleset.IDs) (program, error) {
	if err := rs.Check(); err != nil {
		return program{}, err
	}
	if len(rs.Routes) > 0 {
		return program{}, fmt.Errorf("%w for routes here: package dataplane writes them", ruleset.ErrUnsupported)
	}
	p := program{family: f}
	if !slices.Contains(rs.Families, f) {
		return p, nil
	}
	homes, err := homes(rs)
	if err != nil {
		return program{}, err
	}
	for _, name := range tableNames() {
		l := lowering{family: f, dialect: o.dialect(), users: users, gvisor: o.gvisor, sets: o.sets}
		if err := l.fill(name, rs, homes); err != nil {
			return program{}, err
		}
		if o.gvisor {
			if l.table, err = l.table.forGVisor(f); err != nil {
				return program{}, err
			}
		}
		walked := o.Variant != Legacy // its kernel side meets each rule once
		w := l.table.walk()
		if walked && o.dialect() == Standard && !w.isEasy() {
			flagged := lowering{family: f, dialect: o.dialect(), users: users, flag: true, sets: o.sets}
			if err := flagged.fill(name, rs, homes); err != nil {
				return program{}, err
			}
			if less := flagged.table.walk(); less.visits < w.visits {
				l, w = flagged, less
			}
		}
		if len(l.table.chains) == 0 {
			continue
		}
		if size := l.table.size(f); o.dialect() == Minimal && size > maxMinimal {
			return program{}, fmt.Errorf("%s, table %s: %w: its rules take %d bytes, and kernels that need the minimal dialect "+
				"take %d; exclude fewer ports and CIDRs, or use another backend", f, name, ruleset.ErrUnsupported, size, maxMinimal)
		}
		if walked && !w.isPossible() {
			return program{}, l.tooMuch(w)
		}
		spec := chain{name: l.table.fingerprint()}
		if o.dialect() == Standard {
			note, err := rs.KeptNote()
			if err != nil {
				return program{}, err
			}
			spec.rules = notes(note)
		}
		l.table.chains = append(l.table.chains, spec)
		p.tables = append(p.tables, l.table)
		p.sets = addAsked(p.sets, l.asked)
	}
	return p, nil
}

// notes are rules that no packet meets, and that hold a note.
func notes(note string) (rules []rule) {
	for _, comment := range ruleset.NoteComments(note, maxComment) {
		rules = append(rules, rule{words: []string{"-j", "RETURN"}, comment: comment, moment: true})
	}
	return rules
}

// fill builds a table of what rs has in it.
func (l *lowering) fill(name string, rs ruleset.Ruleset, homes map[string]map[string][]ruleset.Hook) error {
	l.table, l.older, l.places = table{name: name}, rs.Older, map[string]int{}
	for _, c := range rs.Chains {
		l.hooks = homes[c.Name][name]
		if len(l.hooks) == 0 {
			continue
		}
		if err := l.chain(c); err != nil {
			return err
		}
		if c.Hook == 0 {
			continue
		}
		j := jump{builtin: strings.ToUpper(c.Hook.String()), chain: chainName(c.Name), comment: l.comment("Intercept")}
		if slices.ContainsFunc(l.table.jumps, func(other jump) bool { return other.builtin == j.builtin }) {
			return fmt.Errorf("chain %s: %w for a second base chain at hook %s, priority %d",
				c.Name, ruleset.ErrUnsupported, c.Hook, c.Priority)
		}
		l.table.jumps = append(l.table.jumps, j)
	}
	if l.zones && l.others != nil {
		// xt_CT leaves a packet alone that has a zone, so the first one counts; but evaluation goes on, and other
		// targets have effect.
		return fmt.Errorf("%w: xtables goes on after it has chosen a zone, so %s cannot be in its raw table, too",
			ruleset.ErrUnsupported, l.others)
	}
	return nil
}

func chainName(name string) string { return prefix + strings.ToUpper(name) }

// homes returns the tables that each chain stands in, and the hooks from which it is reached there: a base chain in the
// one with its hook and priority, another in those from which it is reached.
func homes(rs ruleset.Ruleset) (map[string]map[string][]ruleset.Hook, error) {
	out := map[string]map[string][]ruleset.Hook{}
	byName := map[string]ruleset.Chain{}
	for _, c := range rs.Chains {
		byName[c.Name] = c
	}
	var visit func(name, table string, from ruleset.Hook)
	visit = func(name, table string, from ruleset.Hook) {
		if slices.Contains(out[name][table], from) {
			return
		}
		if out[name] == nil {
			out[name] = map[string][]ruleset.Hook{}
		}
		out[name][table] = append(out[name][table], from)
		for _, r := range byName[name].Rules {
			if t, is := r.Target.(ruleset.Jump); is {
				visit(t.Chain, table, from)
			}
			if t, is := r.Target.(ruleset.Goto); is {
				visit(t.Chain, table, from)
			}
		}
	}
	for _, c := range rs.Chains {
		if c.Hook == 0 {
			continue
		}
		table, err := home(c)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		visit(c.Name, table, c.Hook)
	}
	return out, nil
}

// home returns the table whose built-in chain is at the hook and priority of c.
func home(c ruleset.Chain) (string, error) {
	switch {
	case c.Type == ruleset.NATChain &&
		(c.Priority == ruleset.PriorityDstNAT || c.Priority == ruleset.PriorityFirstNAT):
		return "nat", nil
	case c.Type == ruleset.FilterChain && c.Priority == ruleset.PriorityRaw:
		return "raw", nil
	case c.Type == ruleset.FilterChain && c.Priority == ruleset.PriorityMangle && c.Hook == ruleset.Prerouting,
		// In OUTPUT, xtables' mangle routes a packet again whose mark changed.
		c.Type == ruleset.RouteChain && c.Priority == ruleset.PriorityMangle && c.Hook == ruleset.Output:
		return "mangle", nil
	case c.Type == ruleset.FilterChain && c.Priority == ruleset.PriorityFilter && c.Hook != ruleset.Prerouting:
		return "filter", nil
	}
	return "", fmt.Errorf("%w: xtables has no table of type %s at hook %s, priority %d",
		ruleset.ErrUnsupported, c.Type, c.Hook, c.Priority)
}

func (p program) table(name string) table {
	i := slices.IndexFunc(p.tables, func(t table) bool { return t.name == name })
	if i < 0 {
		return table{name: name}
	}
	return p.tables[i]
}

func (t table) chain(name string) chain {
	i := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == name })
	if i < 0 {
		return chain{name: name}
	}
	return t.chains[i]
}

func (t table) has(name string) bool {
	return slices.ContainsFunc(t.chains, func(c chain) bool { return c.name == name })
}

// ruleAt returns the rule that a line of the input appends, known by its place in its chain, and the name that the
// Ruleset has for the chain.
func (p program) ruleAt(input string, line int) (chain string, _ rule, ok bool) {
	var t table
	place := map[string]int{}
	for text := range strings.Lines(input) {
		if name, is := strings.CutPrefix(text, "*"); is {
			t = p.table(strings.TrimSpace(name))
			clear(place)
		}
		if words := strings.Fields(text); len(words) > 1 && words[0] == "-A" {
			chain = words[1]
			place[chain]++
		} else {
			chain = ""
		}
		if line--; line > 0 {
			continue
		}
		rules := t.chain(chain).rules
		if line < 0 || place[chain] == 0 || place[chain] > len(rules) {
			return "", rule{}, false
		}
		name, _ := partOf(chain)
		r := rules[place[chain]-1]
		return name, r, r.id != ""
	}
	return "", rule{}, false
}

// fingerprint returns the name of the chain that tells the content of the others. It need not withstand an adversary:
// who can write the table can write its fingerprint, and the content is compared as well.
func (t table) fingerprint() string {
	h := fnv.New64a()
	var b strings.Builder
	lasting := table{name: t.name}
	for _, c := range t.chains {
		lasting.chains = append(lasting.chains, chain{c.name, c.compared()})
	}
	lasting.write(&b, false)
	_, _ = io.WriteString(h, b.String()) // a hash.Hash never fails
	return fmt.Sprintf("%s%016x", specPrefix, h.Sum64())
}
