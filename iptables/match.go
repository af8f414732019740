package iptables

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// match lowers a condition into a.
func (l *lowering) match(a *lowered, m ruleset.Match) error {
	negated := false
	if n, is := m.(ruleset.Not); is {
		m, negated = n.Match, true
	}
	// fix is for what one rule can say either way.
	fix := func(module, option string, values ...string) {
		if module != "" {
			a.fixed = append(a.fixed, "-m", module)
		}
		if negated {
			a.fixed = append(a.fixed, "!")
		}
		a.fixed = append(append(a.fixed, option), values...)
	}
	// list is for what takes a rule for each item.
	list := func(items [][]string, one func(item []string)) {
		switch {
		case len(items) == 1:
			one(items[0])
		case negated:
			a.nots = append(a.nots, items...)
		default:
			a.lists = append(a.lists, items)
		}
	}
	switch m := m.(type) {
	case ruleset.Proto:
		var items [][]string
		for _, p := range slices.Compact(slices.Sorted(slices.Values(m))) {
			if _, err := strconv.Atoi(p.String()); err == nil {
				// -p 0 is every protocol, and others are listed by names that the system has for them.
				return fmt.Errorf("%w for protocol %s: this backend knows TCP, UDP and ICMP", ruleset.ErrUnsupported, p)
			}
			items = append(items, []string{"-p", p.String()}) // as iptables-save calls it
		}
		switch {
		case len(items) == 1:
			fix("", "-p", items[0][1])
		case negated:
			a.nots = append(a.nots, items...)
		default:
			a.protos = items
		}
	case ruleset.SrcPort:
		l.ports(a, "sport", ruleset.Ports(m), negated)
	case ruleset.DstPort:
		l.ports(a, "dport", ruleset.Ports(m), negated)
	case ruleset.Src:
		l.addresses(a, "-s", ruleset.CIDRs(m), negated)
	case ruleset.Dst:
		l.addresses(a, "-d", ruleset.CIDRs(m), negated)
	case ruleset.InInterface:
		name, err := interfaceName(string(m))
		if err != nil {
			return err
		}
		fix("", "-i", name)
	case ruleset.OutInterface:
		name, err := interfaceName(string(m))
		if err != nil {
			return err
		}
		fix("", "-o", name)
	case ruleset.UID:
		list(owners("--uid-owner", ruleset.IDs(m)), func(item []string) { a.fixed = append(a.fixed, item...) })
	case ruleset.GID:
		list(owners("--gid-owner", ruleset.IDs(m)), func(item []string) { a.fixed = append(a.fixed, item...) })
	case ruleset.MetaMark:
		fix("mark", "--mark", masked(m.Value, m.Mask))
	case ruleset.ConnMark:
		fix("connmark", "--mark", masked(m.Value, m.Mask))
	case ruleset.CTState:
		const all = ruleset.CTInvalid | ruleset.CTNew | ruleset.CTRelated | ruleset.CTEstablished
		if m == 0 || m&^all != 0 {
			return fmt.Errorf("%w for connection state %#x", ruleset.ErrUnsupported, uint8(m))
		}
		fix("conntrack", "--ctstate", states(m))
	case ruleset.TCPFlags:
		if (m.Mask|m.Value)&^63 != 0 {
			return fmt.Errorf("%w for TCP flags %#x: xtables knows six", ruleset.ErrUnsupported, m.Mask|m.Value)
		}
		// Not -m tcp: -p loads it, and iptables-nft 1.8.9 makes one of two.
		fix("", "--tcp-flags", flagNames(m.Mask), flagNames(m.Value))
	case ruleset.IsFamily, ruleset.Not:
		// Rule.For has taken the one out, the lines above the other.
		return fmt.Errorf("%w for match %T here", ruleset.ErrUnsupported, m)
	default:
		return fmt.Errorf("%w for match %T", ruleset.ErrUnsupported, m)
	}
	return nil
}

// interfaceName writes a glob the way xtables does. A name that ends in its own sign for one would match more than
// itself, and others would not be read as one word.
func interfaceName(pattern string) (string, error) {
	stem, isGlob := strings.CutSuffix(pattern, "*")
	if stem == "" || strings.HasPrefix(stem, "-") || strings.HasSuffix(stem, "+") ||
		strings.ContainsFunc(stem, func(r rune) bool { return r <= ' ' || strings.ContainsRune("\"\\'!*", r) }) {
		return "", fmt.Errorf("%w for interface %q", ruleset.ErrUnsupported, pattern)
	}
	if isGlob {
		stem += "+"
	}
	return stem, nil
}

func masked(value, mask uint32) string {
	if mask == 1<<32-1 {
		return fmt.Sprintf("%#x", value)
	}
	return fmt.Sprintf("%#x/%#x", value, mask)
}

func states(s ruleset.CTState) string {
	return names(s, []named[ruleset.CTState]{{ruleset.CTInvalid, "INVALID"}, {ruleset.CTNew, "NEW"},
		{ruleset.CTRelated, "RELATED"}, {ruleset.CTEstablished, "ESTABLISHED"}})
}

func flagNames(f uint8) string {
	return cmp.Or(names(f, []named[uint8]{{ruleset.FIN, "FIN"}, {ruleset.SYN, "SYN"}, {ruleset.RST, "RST"},
		{ruleset.PSH, "PSH"}, {ruleset.ACK, "ACK"}, {1 << 5, "URG"}}), "NONE")
}

// named is a bit and xtables' name for it.
type named[T ~uint8] struct {
	bit  T
	name string
}

// names joins the names of the bits that are set.
func names[T ~uint8](set T, all []named[T]) string {
	var words []string
	for _, b := range all {
		if set&b.bit != 0 {
			words = append(words, b.name)
		}
	}
	return strings.Join(words, ",")
}

// ports lowers a list of ports. multiport has room for fifteen, and a range takes the room of two (XT_MULTI_PORTS of
// linux/netfilter/xt_multiport.h).
func (l *lowering) ports(a *lowered, option string, ports ruleset.Ports, negated bool) {
	words := func(p ruleset.PortRange) string {
		if p.First == p.Last {
			return strconv.Itoa(int(p.First))
		}
		return fmt.Sprintf("%d:%d", p.First, p.Last)
	}
	const room = 15
	var chunks [][]string
	used := room
	for _, p := range ports.Merge() {
		size := 1
		if p.First != p.Last {
			size = 2
		}
		if l.dialect == Minimal || used+size > room {
			chunks = append(chunks, nil)
			used = 0
		}
		chunks[len(chunks)-1] = append(chunks[len(chunks)-1], words(p))
		used += size
	}
	not := []string{}
	if negated && len(chunks) == 1 {
		not = []string{"!"}
	}
	var items [][]string
	for _, chunk := range chunks {
		if len(chunk) == 1 && (!a.twoPorts || l.dialect == Minimal) {
			// The module of a port is the protocol's, which -p loads. But after multiport, --sport would be taken for
			// the beginning of --sports.
			items = append(items, append(slices.Clone(not), "--"+option, chunk[0]))
		} else {
			list := []string{"--" + option + "s", strings.Join(chunk, ",")}
			items = append(items, slices.Concat([]string{"-m", "multiport"}, not, list))
		}
	}
	switch {
	case len(items) == 1:
		a.fixed = append(a.fixed, items[0]...)
	case negated:
		// The protocol has to stand before the port in these rules, too.
		p := protoWords(a.fixed)
		for _, item := range items {
			a.nots = append(a.nots, slices.Concat(p, item))
		}
	default:
		a.lists = append(a.lists, items)
	}
}

// protoWords returns the -p of the words, if there is one.
func protoWords(words []string) []string {
	if i := slices.Index(words, "-p"); i >= 0 && (i == 0 || words[i-1] != "!") {
		return words[i : i+2]
	}
	return nil
}

// addresses lowers a list of prefixes of the family.
func (l *lowering) addresses(a *lowered, option string, cidrs ruleset.CIDRs, negated bool) {
	var items [][]string
	for _, r := range cidrs.Merge() {
		for _, p := range r.Prefixes() {
			items = append(items, []string{option, p.String()})
		}
	}
	switch {
	case len(items) == 1 && strings.HasSuffix(items[0][1], "/0"):
		// Every address. xtables keeps no condition for it.
		a.never = a.never || negated
	case len(items) == 1 && negated:
		a.fixed = append(a.fixed, "!", option, items[0][1])
	case len(items) == 1:
		a.fixed = append(a.fixed, items[0]...)
	case negated:
		a.nots = append(a.nots, items...)
	default:
		a.lists = append(a.lists, items)
	}
}

func owners(option string, ids ruleset.IDs) [][]string {
	var items [][]string
	for _, r := range ids.Merge() {
		items = append(items, []string{"-m", "owner", option, r.String()})
	}
	return items
}
