package iptables

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/ipset"
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
			// One for each condition: conntrack's asks about no more than the state where there is no connection.
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
		for number := range 1 << 8 { // each once, in order
			p := ruleset.Protocol(number)
			if !slices.Contains(m, p) {
				continue
			}
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
	case ruleset.CTDNAT:
		fix("conntrack", "--ctstate", "DNAT")
	case ruleset.CTDirection:
		dir := "ORIGINAL"
		if m == ruleset.CTReply {
			dir = "REPLY"
		}
		fix("conntrack", "--ctdir", dir)
	case ruleset.HasSocket:
		// Not --socket-exists, which is true of sockets that the kernel has for itself, too (owner_mt in
		// net/netfilter/xt_owner.c). The kernel takes only IDs that are mapped.
		list(owners("--uid-owner", l.users), func(item []string) { a.fixed = append(a.fixed, item...) })
	case ruleset.SocketOpen:
		if m.Transparent {
			fix("socket", "--transparent")
		} else {
			fix("socket", "--nowildcard")
		}
	case ruleset.ToLocal:
		fix("addrtype", "--dst-type", "LOCAL")
	case ruleset.Length:
		fix("length", "--length", strconv.Itoa(int(m)))
	case ruleset.TCPHeader:
		l.u32(fix, []string{fmt.Sprintf("0x0>>0x16&0x3c@0xc>>0x1c=%#x", uint8(m))},
			[]string{fmt.Sprintf("0x34>>0x1c=%#x", uint8(m))})
	case ruleset.MPTCP:
		fix("", "--tcp-option", "30") // RFC 8684, section 3
	case ruleset.ICMPEcho:
		l.icmp(a)
		// RFC 792, RFC 4443 and RFC 8335.
		types := map[bool][2]string{false: {"8", "128"}, true: {"42", "160"}}[m.Extended]
		if l.family == ruleset.IPv4 {
			fix("icmp", "--icmp-type", types[0])
		} else {
			fix("icmp6", "--icmpv6-type", types[1])
		}
	case ruleset.ICMPQuote:
		l.icmp(a)
		// Behind the eight bytes of ICMP's own: the IP header of the packet, of 20 bytes or 40, and its ports.
		l.u32(fix,
			[]string{"0x0>>0x16&0x3c@0x8>>0x18=0x45", "0x0>>0x16&0x3c@0xe&0xff=0x11",
				fmt.Sprintf("0x0>>0x16&0x3c@0x1c>>0x10=%#x", m.SrcPort)},
			[]string{"0x33&0xff=0x11", fmt.Sprintf("0x58>>0x10=%#x", m.SrcPort)})
	case ruleset.Older:
		if negated || l.dialect == Minimal {
			// What is not compared is known by its comment.
			return fmt.Errorf("%w for match %T, negated or in the minimal dialect", ruleset.ErrUnsupported, m)
		}
		a.moment = true
		var items [][]string
		for _, t := range l.older {
			if ruleset.FamilyOf(t.Src.Addr()) == l.family {
				items = append(items, []string{"-s", single(t.Src.Addr()), "--sport", strconv.Itoa(int(t.Src.Port())),
					"-d", single(t.Dst.Addr()), "--dport", strconv.Itoa(int(t.Dst.Port()))})
			}
		}
		a.never = a.never || len(items) == 0
		a.lists = append(a.lists, items)
	case ruleset.IsFamily, ruleset.Not:
		// Rule.For has taken the one out, the lines above the other.
		return fmt.Errorf("%w for match %T here", ruleset.ErrUnsupported, m)
	default:
		return fmt.Errorf("%w for match %T", ruleset.ErrUnsupported, m)
	}
	return nil
}

// u32 asks for bytes of the packet, in the form in which iptables-save writes it.
func (l *lowering) u32(fix func(module, option string, values ...string), ipv4, ipv6 []string) {
	tests := ipv4
	if l.family == ruleset.IPv6 {
		tests = ipv6
	}
	fix("u32", "--u32", strings.Join(tests, "&&"))
}

// icmp leaves of the protocols of a rule the one that is the family's: xtables does not ask others for what is ICMP's.
func (l *lowering) icmp(a *lowered) {
	p := ruleset.ICMP
	if l.family == ruleset.IPv6 {
		p = ruleset.ICMPv6
	}
	own := []string{"-p", p.String()}
	switch {
	case slices.Equal(protoWords(a.fixed), own):
	case slices.ContainsFunc(a.protos, func(words []string) bool { return slices.Equal(words, own) }):
		a.protos = [][]string{own}
	default:
		a.never = true
	}
}

// single writes one address as iptables-save does.
func single(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

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
	if l.gvisor && negated {
		// It negates no port of UDP. The others are a list, and as such no chain of its own.
		ports, negated = otherPorts(ports), false
		a.never = a.never || len(ports) == 0
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
	if l.sets > 0 && len(chunks) >= l.sets {
		l.askSet(a, ipset.OfPorts(ports), map[string]string{"sport": "src", "dport": "dst"}[option], negated)
		return
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
	var prefixes ruleset.CIDRs
	for _, r := range cidrs.Merge() {
		prefixes = append(prefixes, r.Prefixes()...)
	}
	if l.sets > 0 && len(prefixes) >= l.sets {
		l.askSet(a, ipset.Addresses(l.family, prefixes), map[string]string{"-s": "src", "-d": "dst"}[option], negated)
		return
	}
	var items [][]string
	for _, p := range prefixes {
		items = append(items, []string{option, p.String()})
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

// otherPorts returns the ports that are not on a list.
func otherPorts(ports ruleset.Ports) (all ruleset.Ports) {
	next := 0
	for _, p := range ports.Merge() {
		if int(p.First) > next {
			all = append(all, ruleset.PortRange{First: uint16(next), Last: p.First - 1})
		}
		next = int(p.Last) + 1
	}
	if next <= 1<<16-1 {
		all = append(all, ruleset.PortRange{First: uint16(next), Last: 1<<16 - 1})
	}
	return all
}

func owners(option string, ids ruleset.IDs) [][]string {
	var items [][]string
	for _, r := range ids.Merge() {
		items = append(items, []string{"-m", "owner", option, r.String()})
	}
	return items
}
