package iptables

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// gVisor returns a match without its revision, and iptables-save then prints "[unsupported revision]" in its place,
// whatever it asks for. What the kernel holds is in the entries all the same, so they are read here. The structures are
// those of linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h and linux/netfilter/xt_*.h. What is not
// known is written as bytes, so that it equals nothing of ours.

var errNoTable = errors.New("what the kernel returned is no table of iptables")

// decode reads the content of a legacy table, as [content] returns it, into rules as iptables-save writes them.
func decode(f ruleset.Family, name string, info, blob []byte) (savedTable, error) {
	const maskAt, hookAt, underflowAt = 32, 36, 56 // in struct ipt_getinfo
	t := savedTable{name: name}
	if len(info) < underflowAt+5*4 {
		return t, errNoTable
	}
	number := func(at int) int { return int(binary.NativeEndian.Uint32(info[at:])) }
	list := readEntries(f, blob)
	if len(list) == 0 || list[len(list)-1].next != len(blob) {
		return t, errNoTable
	}
	starts := map[int]string{} // of chains, by the offset of their first rule
	for i, e := range list {
		if chain, is := e.chainHead(); is && i+1 < len(list) {
			starts[list[i+1].at] = chain
		}
	}
	builtins, policies := map[int]string{}, map[int]bool{}
	for i, hook := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if number(maskAt)&(1<<i) != 0 {
			builtins[number(hookAt+4*i)] = hook
			policies[number(underflowAt+4*i)] = true
		}
	}
	for i, e := range list {
		if chain, begins := builtins[e.at]; begins {
			t.chains = append(t.chains, savedChain{name: chain, builtin: true})
		}
		chain, is := e.chainHead()
		switch {
		case is:
			t.chains = append(t.chains, savedChain{name: chain})
			continue
		case i == len(list)-1: // the entry that ends the table
			continue
		case len(t.chains) == 0:
			return t, errNoTable
		}
		c := &t.chains[len(t.chains)-1]
		_, last := list[i+1].chainHead()
		if c.builtin && policies[e.at] || !c.builtin && (last || i+1 == len(list)-1) {
			continue // a chain ends with its policy, or with a return
		}
		spec, err := e.spec(f, starts)
		if err != nil {
			return t, err
		}
		packets, bytes := e.counters()
		c.rules = append(c.rules, savedRule{spec: spec, packets: packets, bytes: bytes})
	}
	return t, nil
}

// counters are at the end of an entry's head.
func (e entry) counters() (packets, bytes uint64) {
	at := len(e.head) - 16
	return binary.NativeEndian.Uint64(e.head[at:]), binary.NativeEndian.Uint64(e.head[at+8:])
}

// spec returns a rule as iptables takes it. starts are the names of chains by the offset of their first rule.
func (e entry) spec(f ruleset.Family, starts map[int]string) (string, error) {
	words, goesTo := headWords(f, e.head)
	matches, ok := e.eachMatch()
	if !ok {
		return "", errNoTable
	}
	for _, m := range matches {
		words = append(words, m.words()...)
	}
	words = append(words, e.targetWords(f, goesTo, starts)...)
	return strings.Join(words, " "), nil
}

// headWords reads struct ipt_ip or ip6t_ip6. goesTo is true if the target is of -g.
func headWords(f ruleset.Family, head []byte) (words []string, goesTo bool) {
	const interfaceSize = 16 // IFNAMSIZ
	size, interfaces, protocol, flags, inverse := 4, 16, 80, 82, 83
	if f == ruleset.IPv6 {
		size, interfaces, protocol, flags, inverse = 16, 64, 128, 131, 132
	}
	const viaIn, viaOut, source, destination, notProtocol = 1, 2, 8, 0x10, 0x40 // IPT_INV_…
	add := func(bit byte, option, value string) {
		if head[inverse]&bit != 0 {
			words = append(words, "!")
		}
		words = append(words, option, value)
	}
	for i, option := range []string{"-s", "-d"} {
		bit := []byte{source, destination}[i]
		addr, mask := head[i*size:][:size], head[(2+i)*size:][:size]
		if bytes.Count(mask, []byte{0}) == size && head[inverse]&bit == 0 {
			continue
		}
		a, _ := netip.AddrFromSlice(addr)
		m, _ := netip.AddrFromSlice(mask)
		add(bit, option, normalPrefix(a.String()+"/"+m.String()))
	}
	for i, option := range []string{"-i", "-o"} {
		name, _, _ := bytes.Cut(head[interfaces+i*interfaceSize:][:interfaceSize], []byte{0})
		if len(name) > 0 {
			add([]byte{viaIn, viaOut}[i], option, word(name))
		}
	}
	goTo, asksProtocol := byte(2), head[protocol]|head[protocol+1] != 0 // IPT_F_GOTO
	rest := head[flags] &^ goTo
	if f == ruleset.IPv6 {
		goTo, asksProtocol = 4, head[flags]&1 != 0 // IP6T_F_GOTO, IP6T_F_PROTO
		rest = head[flags] &^ (goTo | 1)
	}
	number := native16(head[protocol:])
	if asksProtocol {
		add(notProtocol, "-p", ruleset.Protocol(number).String())
	}
	odd := head[inverse] &^ (viaIn | viaOut | source | destination | notProtocol)
	if rest != 0 || odd != 0 || number > 1<<8-1 {
		words = append(words, unknown("flags", []byte{rest, odd})...)
	}
	return words, head[flags]&goTo != 0
}

// word makes of a name one that can stand in a rule.
func word(name []byte) string {
	if s := string(name); isWord(strings.TrimSuffix(s, "+")) {
		return s
	}
	return "[" + hex.EncodeToString(name) + "]"
}

// unknown writes down what is not known, so that it equals nothing of ours.
func unknown(name string, data []byte) []string {
	return []string{"-m", word([]byte(name)), "--unknown", "[" + hex.EncodeToString(data) + "]"}
}

// words returns a match as iptables takes it.
func (m match) words() []string {
	words, ok := []string(nil), false
	switch {
	case m.name == "tcp" && len(m.info) >= 12:
		words, ok = tcpWords(m.info)
	case m.name == "udp" && len(m.info) >= 9:
		words, ok = portWords(m.info, m.info[8]), m.info[8]&^3 == 0
	case m.name == "owner" && len(m.info) == 24:
		words, ok = ownerWords(m.info)
	case m.name == "mark" && len(m.info) == 16:
		words, ok = []string{"-m", "mark", "--mark", masked(native32(m.info), native32(m.info[4:]))}, m.info[8] == 0
	case m.name == "multiport" && len(m.info) == 48:
		words, ok = multiportWords(m.info)
	}
	if !ok {
		return unknown(m.name, m.info)
	}
	return words
}

func native32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func native16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }

// portWords reads what struct xt_tcp and xt_udp begin with: first and last source port, then destination port.
func portWords(info []byte, inverse byte) (words []string) {
	for i, option := range []string{"--sport", "--dport"} {
		first, last := native16(info[4*i:]), native16(info[4*i+2:])
		not := inverse&(1<<i) != 0 // XT_TCP_INV_SRCPT, XT_TCP_INV_DSTPT
		if first == 0 && last == 1<<16-1 && !not {
			continue
		}
		if not {
			words = append(words, "!")
		}
		words = append(words, option, portRange(first, last, ":"))
	}
	return words
}

func portRange(first, last uint16, sign string) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d%s%d", first, sign, last)
}

// tcpWords reads struct xt_tcp.
func tcpWords(info []byte) (words []string, ok bool) {
	const optionAt, maskAt, valueAt, inverseAt = 8, 9, 10, 11
	const notFlags, notOption = 4, 8 // XT_TCP_INV_FLAGS, XT_TCP_INV_OPTION
	inverse := info[inverseAt]
	words = portWords(info, inverse)
	mask, value := info[maskAt], info[valueAt]
	if mask|value != 0 {
		words = append(words, "--tcp-flags", flagNames(mask), flagNames(value))
	}
	if info[optionAt] != 0 {
		if inverse&notOption != 0 {
			words = append(words, "!")
		}
		words = append(words, "--tcp-option", strconv.Itoa(int(info[optionAt])))
	}
	return words, (mask|value)&^63 == 0 && inverse&notFlags == 0 && inverse&^15 == 0
}

// ownerWords reads struct xt_owner_match_info.
func ownerWords(info []byte) (words []string, ok bool) {
	const matchAt, inverseAt, uid, gid = 16, 17, 1, 2 // XT_OWNER_UID, XT_OWNER_GID
	for i, option := range []string{"--uid-owner", "--gid-owner"} {
		bit := byte(1 << i)
		if info[matchAt]&bit == 0 {
			continue
		}
		words = append(words, "-m", "owner")
		if info[inverseAt]&bit != 0 {
			words = append(words, "!")
		}
		words = append(words, option, ruleset.IDRange{First: native32(info[8*i:]), Last: native32(info[8*i+4:])}.String())
	}
	return words, info[matchAt]&^(uid|gid) == 0 && len(words) > 0
}

// multiportWords reads struct xt_multiport_v1.
func multiportWords(info []byte) (words []string, ok bool) {
	const portsAt, rangesAt, inverseAt, most = 2, 32, 47, 15
	kinds := []string{"--sports", "--dports", "--ports"}
	if int(info[0]) >= len(kinds) || info[1] > most {
		return nil, false
	}
	var ports []string
	for i := 0; i < int(info[1]); i++ {
		first := native16(info[portsAt+2*i:])
		last := first
		if info[rangesAt+i] != 0 && i+1 < int(info[1]) {
			i++
			last = native16(info[portsAt+2*i:])
		}
		ports = append(ports, portRange(first, last, ":"))
	}
	words = []string{"-m", "multiport"}
	if info[inverseAt] != 0 {
		words = append(words, "!")
	}
	return append(words, kinds[info[0]], strings.Join(ports, ",")), len(ports) > 0
}

// targetWords returns an entry's target as iptables takes it.
func (e entry) targetWords(f ruleset.Family, goesTo bool, starts map[int]string) []string {
	words := []string(nil)
	switch {
	case e.target == "" && len(e.info) >= 4:
		words = e.verdict(goesTo, starts)
	case e.target == "REDIRECT" || e.target == "DNAT":
		words = e.natWords(f)
	case e.target == "REJECT" && len(e.info) >= 4:
		words = rejectWords(f, native32(e.info))
	}
	if words == nil {
		u := unknown("", slices.Concat([]byte{e.revision}, e.info))
		return []string{"-j", word([]byte(e.target)), u[2], u[3]}
	}
	return words
}

// verdict reads struct xt_standard_target.
func (e entry) verdict(goesTo bool, starts map[int]string) []string {
	switch v := int32(native32(e.info)); v {
	case -1: // -NF_DROP-1
		return []string{"-j", "DROP"}
	case -2: // -NF_ACCEPT-1
		return []string{"-j", "ACCEPT"}
	case -5: // XT_RETURN
		return []string{"-j", "RETURN"}
	default:
		chain, known := starts[int(v)]
		switch {
		case known && goesTo:
			return []string{"-g", chain}
		case known:
			return []string{"-j", chain}
		case int(v) == e.next:
			return []string{} // a rule without a target
		}
	}
	return nil
}

// natWords reads what a packet is translated to: struct nf_nat_ipv4_multi_range_compat, nf_nat_range or nf_nat_range2.
func (e entry) natWords(f ruleset.Family) []string {
	const mapsAddress, mapsPort, random = 1, 2, 4 // NF_NAT_RANGE_…
	var flags uint32
	var addr [2]netip.Addr
	var ports []byte
	switch {
	case f == ruleset.IPv4 && e.revision == 0 && len(e.info) >= 20 && native32(e.info) == 1:
		flags, ports = native32(e.info[4:]), e.info[16:20]
		addr[0], addr[1] = netip.AddrFrom4([4]byte(e.info[8:])), netip.AddrFrom4([4]byte(e.info[12:]))
	case (f == ruleset.IPv6 || e.revision > 0) && e.revision <= 2 && len(e.info) >= 40:
		flags, ports = native32(e.info), e.info[36:40]
		addr[0], addr[1] = netip.AddrFrom16([16]byte(e.info[4:])), netip.AddrFrom16([16]byte(e.info[20:]))
		if f == ruleset.IPv4 {
			addr[0], addr[1] = netip.AddrFrom4([4]byte(e.info[4:])), netip.AddrFrom4([4]byte(e.info[20:]))
		}
	default:
		return nil
	}
	first, last := binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	words := []string{"-j", e.target}
	switch {
	case e.target == "REDIRECT" && flags&^random == mapsPort:
		words = append(words, "--to-ports", portRange(first, last, "-"))
	case e.target == "DNAT" && flags&^random == mapsAddress|mapsPort && first == last && addr[0] == addr[1]:
		words = append(words, "--to-destination", netip.AddrPortFrom(addr[0], first).String())
	default:
		return nil
	}
	if flags&random != 0 {
		words = append(words, "--random")
	}
	return words
}

// rejectWords reads struct ipt_reject_info or ip6t_reject_info.
func rejectWords(f ruleset.Family, with uint32) []string {
	names := map[uint32]string{3: "icmp-port-unreachable", 7: "tcp-reset"}
	if f == ruleset.IPv6 {
		names = map[uint32]string{4: "icmp6-port-unreachable", 6: "tcp-reset"}
	}
	name, known := names[with]
	if !known {
		return nil
	}
	return []string{"-j", "REJECT", "--reject-with", name}
}
