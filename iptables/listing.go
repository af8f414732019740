package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// A listing is what iptables-save -c prints, read as far as we have to know it.
type listing []savedTable

type savedTable struct {
	name   string
	chains []savedChain
}

type savedChain struct {
	name    string
	builtin bool
	rules   []savedRule
}

// savedRule is a rule as the kernel has it.
type savedRule struct {
	spec           string // what follows `-A CHAIN`
	packets, bytes uint64
}

// comments returns those of the rules. The rules of a list after its first have none: theirs is that of the rule before
// them, which does the same.
func (c savedChain) comments() []string {
	all := make([]string, len(c.rules))
	before := ""
	for i, r := range c.rules {
		words := split(r.spec)
		target := strings.Join(words[max(slices.IndexFunc(words, isTarget), 0):], " ")
		all[i] = r.key().Comment
		if all[i] == "" && i > 0 && target == before {
			all[i] = all[i-1]
		}
		before = target
	}
	return all
}

// isTarget reports whether a rule says after this word what it does.
func isTarget(word string) bool { return word == "-j" || word == "-g" }

// parse reads what iptables-save -c prints.
func parse(text string) (listing, error) {
	var l listing
	index := map[string]int{} // chains of the table at hand
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		bad := func(why string) error {
			return fmt.Errorf("what iptables-save prints was not understood: %s: %q", why, line)
		}
		switch {
		case strings.HasSuffix(line, "is incompatible, use 'nft' tool."):
			// It has rules that iptables-nft has no words for, and so lists none. What is ours in it could be neither
			// seen nor taken out.
			for _, name := range tableNames() {
				if strings.Contains(line, "`"+name+"'") {
					return nil, fmt.Errorf("%w: table %s has rules that iptables cannot list, written with nft or by another "+
						"program: move them to a table of another name, or use the backend nft", ruleset.ErrUnsupported, name)
				}
			}
		case line == "" || line[0] == '#':
		case line[0] == '*':
			l = append(l, savedTable{name: line[1:]})
			clear(index)
		case line == "COMMIT":
		case len(l) == 0:
			return nil, bad("no table before it")
		case line[0] == ':':
			name, rest, ok := strings.Cut(line[1:], " ")
			if !ok {
				return nil, bad("a chain without a policy")
			}
			t := &l[len(l)-1]
			index[name] = len(t.chains)
			t.chains = append(t.chains, savedChain{name: name, builtin: !strings.HasPrefix(rest, "-")})
		default:
			var r savedRule
			counts, rest, ok := strings.Cut(line, "] -A ")
			if !ok {
				return nil, bad("neither a table nor a chain nor a rule")
			}
			packets, bytes, ok := strings.Cut(strings.TrimPrefix(counts, "["), ":")
			if !ok {
				return nil, bad("a rule without counters")
			}
			var err1, err2 error
			r.packets, err1 = strconv.ParseUint(packets, 10, 64)
			r.bytes, err2 = strconv.ParseUint(bytes, 10, 64)
			if err1 != nil || err2 != nil {
				return nil, bad("bad counters")
			}
			name, spec, _ := strings.Cut(rest, " ")
			i, ok := index[name]
			if !ok {
				return nil, bad("a rule of no chain")
			}
			r.spec = spec
			c := &l[len(l)-1].chains[i]
			c.rules = append(c.rules, r)
		}
	}
	return l, nil
}

// table returns the table of a name, empty if there is none.
func (l listing) table(name string) savedTable {
	for _, t := range l {
		if t.name == name {
			return t
		}
	}
	return savedTable{name: name}
}

func (t savedTable) chain(name string) savedChain {
	for _, c := range t.chains {
		if c.name == name {
			return c
		}
	}
	return savedChain{name: name}
}

func (t savedTable) has(name string) bool {
	return slices.ContainsFunc(t.chains, func(c savedChain) bool { return c.name == name })
}

// ours are the chains of our prefix.
func (t savedTable) ours() []savedChain {
	var ours []savedChain
	for _, c := range t.chains {
		if strings.HasPrefix(c.name, prefix) {
			ours = append(ours, c)
		}
	}
	return ours
}

// isOurs reports whether there is anything of ours in the listing.
func (l listing) isOurs() bool {
	return slices.ContainsFunc(l, func(t savedTable) bool { return len(t.ours()) > 0 })
}

// foreign reports chains of our prefix in a table that has no mark of ours.
func (l listing) foreign(f ruleset.Family) error {
	for _, t := range l {
		ours := t.ours()
		if len(ours) > 0 && !slices.ContainsFunc(ours, func(c savedChain) bool { return IsOurs(c.name) }) {
			return fmt.Errorf("%s, table %s, chain %s: %w; rename it, or remove it and the rules that lead to it",
				f, t.name, ours[0].name, ruleset.ErrForeign)
		}
	}
	return nil
}

// references reports rules of others that lead to our chains, which then cannot be removed.
func (l listing) references(f ruleset.Family) error {
	var errs []error
	for _, t := range l {
		for _, c := range t.chains {
			for _, r := range c.rules {
				if strings.HasPrefix(c.name, prefix) || !r.isJump() || c.builtin && r.isPlainJump() {
					continue
				}
				words := split(r.spec)
				errs = append(errs, &beside.ReferenceError{
					In: fmt.Sprintf("chain %s of table %s, %s,", c.name, t.name, f), Rule: "-A " + c.name + " " + r.spec,
					To: words[slices.IndexFunc(words, isTarget)+1]})
			}
		}
	}
	return errors.Join(errs...)
}

// isPlainJump reports whether a jump is without conditions, as ours are.
func (r savedRule) isPlainJump() bool { return strings.HasPrefix(r.key().Body, "-j ") }

// isJump reports whether the rule leads to a chain of ours.
func (r savedRule) isJump() bool {
	if !strings.Contains(r.spec, prefix) {
		return false
	}
	words := split(r.spec)
	i := slices.IndexFunc(words, isTarget)
	return i >= 0 && i+1 < len(words) && strings.HasPrefix(words[i+1], prefix)
}
