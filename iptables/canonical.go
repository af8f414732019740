package iptables

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/rulediff"
	"github.com/mesh-intercept/intercept/ruleset"
)

// split reads the words of a rule as iptables-save writes them: separated by spaces, quoted where needed, with
// backslashes before quotes.
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

// canonical brings conditions into one order and values into one form: iptables-save has its own, and versions of it
// differ.
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
		for i < len(words) && words[i] != "!" &&
			(!strings.HasPrefix(words[i], "-") || name == "--comment" && len(args) == 0) {
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
	inOrder := func(all []option) {
		sort.Slice(all, func(i, j int) bool { return all[i].name+" "+all[i].value < all[j].name+" "+all[j].value })
	}
	inOrder(conditions)
	if len(target) > 1 {
		inOrder(target[1:])
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
			return cmp.Or(first, "0") + ":" + cmp.Or(last, "65535")
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
