package iptables

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/rulediff"
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
			// It has rules that iptables-nft has no words for, and so lists none.
			// What is ours in it could be neither seen nor taken out.
			for _, name := range tableNames {
				if strings.Contains(line, "`"+name+"'") {
					return nil, fmt.Errorf("%w: table %s has rules that iptables cannot list, written with nft or by another program: move them to a table of another name, or use the backend nft", ruleset.ErrUnsupported, name)
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
			return fmt.Errorf("%s, table %s, chain %s: %w; rename it, or remove it and the rules that lead to it", f, t.name, ours[0].name, ruleset.ErrForeign)
		}
	}
	return nil
}

// isJump reports whether the rule leads to a chain of ours.
func (r savedRule) isJump() bool {
	if !strings.Contains(r.spec, prefix) {
		return false
	}
	words := split(r.spec)
	i := slices.IndexFunc(words, func(w string) bool { return w == "-j" || w == "-g" })
	return i >= 0 && i+1 < len(words) && strings.HasPrefix(words[i+1], prefix)
}

// jumpsRight reports whether the jumps of a built-in chain to ours are those
// of want, and stand where they should.
func (t savedTable) jumpsRight(want table, c savedChain, o Options) bool {
	var at []int
	for i, r := range c.rules {
		if r.isJump() {
			at = append(at, i)
		}
	}
	i := slices.IndexFunc(want.jumps, func(j jump) bool { return j.builtin == c.name })
	if i < 0 {
		return len(at) == 0
	}
	place := 0
	if o.Last {
		place = len(c.rules) - 1
	}
	return len(at) == 1 && at[0] == place && c.rules[place].key() == want.jumps[i].rule().key()
}

// holds reports whether what of the table is ours is exactly want.
func (t savedTable) holds(want table, o Options) bool {
	return len(t.differences(want, o)) == 0
}

// sameOurs reports whether what is ours reads the same in both.
func (t savedTable) sameOurs(other savedTable) bool {
	type part struct{ chain, spec string }
	list := func(t savedTable) (parts []part) {
		for _, c := range t.chains {
			isOurs := strings.HasPrefix(c.name, prefix)
			if isOurs && !strings.HasPrefix(c.name, madePrefix) {
				parts = append(parts, part{c.name, ""})
			}
			for i, r := range c.rules {
				if isOurs {
					parts = append(parts, part{c.name, r.spec})
				} else if c.builtin && r.isJump() {
					parts = append(parts, part{c.name, fmt.Sprint(i, r.spec)})
				}
			}
		}
		return parts
	}
	return slices.Equal(list(t), list(other))
}

// differences names how what is ours in a table differs from want.
func (t savedTable) differences(want table, o Options) []ruleset.Difference {
	var diffs []ruleset.Difference
	add := func(what, problem string) {
		diffs = append(diffs, ruleset.Difference{What: "table " + t.name + ", " + what, Problem: problem})
	}
	for _, c := range t.ours() {
		if strings.HasPrefix(c.name, madePrefix) && (len(want.chains) > 0 || o.Objects != nil) || want.has(c.name) {
			continue
		}
		if strings.HasPrefix(c.name, specPrefix) && len(want.chains) > 0 {
			add("chain "+c.name, "made from another configuration")
			continue
		}
		add("chain "+c.name, "not part of this configuration")
	}
	for _, c := range want.chains {
		i := slices.IndexFunc(t.chains, func(k savedChain) bool { return k.name == c.name })
		if i < 0 {
			add("chain "+c.name, "missing")
			continue
		}
		if slices.EqualFunc(c.rules, t.chains[i].rules, func(r rule, s savedRule) bool { return r.key() == s.key() }) {
			continue
		}
		var w, h []rulediff.Rule
		for _, r := range c.rules {
			w = append(w, r.key())
		}
		for _, r := range t.chains[i].rules {
			h = append(h, r.key())
		}
		for _, d := range rulediff.Chain(c.name, w, h) {
			add(d.What, d.Problem)
		}
	}
	builtins := map[string]bool{}
	for _, c := range t.chains {
		builtins[c.name] = c.builtin
	}
	for _, j := range want.jumps {
		builtins[j.builtin] = true
	}
	for _, name := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if builtins[name] && !t.jumpsRight(want, t.chain(name), o) {
			where := "first"
			if o.Last {
				where = "last"
			}
			if !slices.ContainsFunc(want.jumps, func(j jump) bool { return j.builtin == name }) {
				add("chain "+name, "leads to a chain of ours, but should not")
			} else {
				add("chain "+name, "does not lead to our chain exactly once, "+where+" of its rules")
			}
		}
	}
	return diffs
}

// split reads the words of a rule as iptables-save writes them: separated by
// spaces, quoted where needed, with backslashes before quotes.
func split(s string) []string {
	if !strings.ContainsAny(s, `"\'`) {
		return strings.Fields(s)
	}
	var words []string
	var word strings.Builder
	inWord, quoted, escaped := false, false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped, inWord = true, true
		case r == '"':
			quoted, inWord = !quoted, true
		case r == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// key returns the rule in a form that does not depend on who wrote it down.
func (r savedRule) key() rulediff.Rule { return canonical(split(r.spec)) }

func (r rule) key() rulediff.Rule {
	k := canonical(r.words)
	k.Comment = r.comment
	return k
}

// canonical brings conditions into one order and values into one form:
// iptables-save has its own, and versions of it differ.
func canonical(words []string) rulediff.Rule {
	var out rulediff.Rule
	type option struct{ name, value string }
	var conditions, target []option
	inTarget := false
	module := ""
	for i := 0; i < len(words); {
		not := ""
		if words[i] == "!" && i+1 < len(words) {
			not = "! "
			i++
		}
		name := words[i]
		i++
		var args []string
		for i < len(words) && words[i] != "!" && (!strings.HasPrefix(words[i], "-") || name == "--comment" && len(args) == 0) {
			args = append(args, words[i])
			i++
		}
		value := normal(name, strings.Join(args, " "))
		if name == "-j" || name == "-g" {
			inTarget = true
		}
		switch {
		case name == "-m" || name == "--match":
			module = value
			continue // most options say which match they belong to
		case name == "--mark":
			name = module + " --mark"
		case name == "--comment":
			out.Comment = value
			continue
		case name == "--on-ip" && (value == "0.0.0.0" || value == "::"):
			continue // what TPROXY without an address is listed as
		}
		o := option{not + name, value}
		if inTarget {
			target = append(target, o)
		} else {
			conditions = append(conditions, o)
		}
	}
	compare := func(a, b option) int {
		return strings.Compare(a.name+" "+a.value, b.name+" "+b.value)
	}
	slices.SortFunc(conditions, compare)
	if len(target) > 1 {
		slices.SortFunc(target[1:], compare)
	}
	var body strings.Builder
	for _, o := range append(conditions, target...) {
		body.WriteString(o.name + " " + o.value + " ")
	}
	out.Body = body.String()
	return out
}

// normal brings the value of an option into one form.
func normal(name, value string) string {
	switch name {
	case "-p":
		for _, p := range []ruleset.Protocol{ruleset.ICMP, ruleset.TCP, ruleset.UDP, ruleset.ICMPv6} {
			if value == p.String() || value == "icmpv6" && p == ruleset.ICMPv6 {
				return strconv.Itoa(int(p))
			}
		}
	case "-s", "-d":
		return normalPrefix(value)
	case "--sport", "--dport":
		first, last, isRange := strings.Cut(value, ":")
		if isRange {
			return cmpOr(first, "0") + ":" + cmpOr(last, "65535")
		}
	case "--ctstate":
		s := strings.Split(value, ",")
		slices.Sort(s)
		return strings.Join(s, ",")
	case "--mark", "--set-xmark", "--tproxy-mark", "--nfmask", "--ctmask":
		v, mask, _ := strings.Cut(value, "/")
		return number(v, 0) + "/" + number(mask, 1<<32-1)
	}
	return value
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func number(s string, otherwise uint64) string {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		n = otherwise
	}
	return strconv.FormatUint(n, 16)
}

// normalPrefix reads an address with or without a length, or with a mask.
func normalPrefix(s string) string {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked().String()
	}
	addr, mask, hasMask := strings.Cut(s, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return s
	}
	length := a.BitLen()
	if hasMask {
		m, err := netip.ParseAddr(mask)
		if err != nil {
			return s
		}
		ones := 0
		for _, b := range m.AsSlice() {
			ones += bits.OnesCount8(b)
		}
		if p := netip.PrefixFrom(m, ones).Masked().Addr(); p != m {
			return s // not a prefix
		}
		length = ones
	}
	return netip.PrefixFrom(a, length).Masked().String()
}
