package iptables

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// walk is what the kernel does to make sure of the chains of iptables-nft. From each built-in chain it follows every
// way, and a chain again for each rule that leads to it (nft_chain_validate of net/netfilter/nf_tables_api.c). It does
// so for all tables of the namespace whenever one is written, and nothing interrupts it. Newer kernels remember where
// they were (6.12.117, 6.18 and 7.2 were seen to); Debian's 5.10 and 6.1 do not.
type walk struct {
	visits uint64 // of rules
	depth  int    // of chains, the built-in one among them
}

// isEasy reports whether it takes the kernel no time to speak of: 20,000 visits are 10 ms, with the processor emulated
// by software.
func (w walk) isEasy() bool { return w.visits <= 20_000 && w.depth <= maxDepth }

// isPossible reports whether the kernel takes the chains, and without being busy for long: a million visits are half a
// second of Linux 5.10 and 6.1, with the processor emulated by software.
func (w walk) isPossible() bool { return w.visits <= maxVisits && w.depth <= maxDepth }

const (
	maxVisits = 1_000_000
	// maxDepth is NFT_JUMP_STACK_SIZE of include/net/netfilter/nf_tables.h. What is deeper is refused: EMLINK, "Too many
	// links".
	maxDepth = 16
)

// walk returns what the built-in chains take together, of our rules.
func (t table) walk() walk {
	places := map[string]int{}
	for i, c := range t.chains {
		places[c.name] = i
	}
	known := map[string]walk{}
	var from func(name string) walk
	from = func(name string) walk {
		if w, ok := known[name]; ok {
			return w
		}
		known[name] = walk{} // of a chain that leads to itself: the kernel refuses it at once
		w := walk{depth: 1}
		if i, ours := places[name]; ours {
			for _, r := range t.chains[i].rules {
				w = w.and(walk{visits: 1})
				if to, ok := r.leadsTo(); ok {
					below := from(to)
					w = w.and(walk{below.visits, below.depth + 1})
				}
			}
		}
		known[name] = w
		return w
	}
	var all walk
	for _, j := range t.jumps {
		w := from(j.chain)
		all = all.and(walk{w.visits + 1, w.depth + 1})
	}
	return all
}

// and adds up the visits, which end at a number that is too many by far.
func (w walk) and(other walk) walk {
	return walk{min(w.visits+other.visits, 1<<50), max(w.depth, other.depth)}
}

// leadsTo returns the chain that a rule leads to, if it does.
func (r rule) leadsTo() (string, bool) {
	i := slices.IndexFunc(r.words, func(w string) bool { return w == "-j" || w == "-g" })
	return r.words[i+1], strings.HasPrefix(r.words[i+1], prefix)
}

// list is a rule of the policy and how many items its lists have.
type list struct {
	chain  string
	id     ruleset.RuleID
	reason string
	items  int
}

// tooMuch returns the error for a table that the kernel would refuse, or be busy with for long. It names the rules with
// the longest lists.
func (l *lowering) tooMuch(w walk) error {
	what := fmt.Sprintf("for chains that lead through %d rules on all ways together; it takes up to %d",
		w.visits, maxVisits)
	if w.depth > maxDepth {
		what = fmt.Sprintf("for chains that lead to each other %d deep; it takes %d", w.depth, maxDepth)
	}
	sort.SliceStable(l.lists, func(i, j int) bool { return l.lists[i].items > l.lists[j].items })
	remedy := "use"
	var names []string
	for _, r := range l.lists[:min(3, len(l.lists))] {
		if r.items > 1 {
			names = append(names, fmt.Sprintf("%s (%s, %d items)", r.id, r.reason, r.items))
			remedy = "shorten the lists of " + strings.Join(names, ", ") + ", or use"
		}
	}
	return &ruleset.RuleError{Chain: l.lists[0].chain, Rule: l.lists[0].id, Err: fmt.Errorf(
		"%s, table %s: %w %s; %s the backend nft or iptables-legacy",
		l.family, l.table.name, ruleset.ErrUnsupported, what, remedy)}
}
