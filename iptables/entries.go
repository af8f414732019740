package iptables

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// An entry of a legacy table is a rule, as linux/netfilter_ipv4/ip_tables.h and linux/netfilter/x_tables.h have it: a
// head with the addresses, matches, and a target. A chain begins with an entry whose target is called ERROR and holds
// the chain's name; it has as many entries as follow up to the next one. The built-in chains come first, without such a
// head.
type entry struct {
	at, next int    // where it begins and ends
	head     []byte // struct ipt_entry or ip6t_entry
	matches  []byte // each a struct xt_entry_match and what it is given
	target   string
	revision uint8  // of the target
	info     []byte // what the target is given
}

// legacyChains reads the chains of a table. What cannot be an entry ends it.
func legacyChains(f ruleset.Family, table string, info, blob []byte) []beside.Chain {
	family := "ip"
	if f == ruleset.IPv6 {
		family = "ip6"
	}
	number := func(at int) int { return int(int32(binary.NativeEndian.Uint32(info[at:]))) }
	if len(info) < underflowAt+5*4 {
		return nil
	}
	all := []beside.Chain{{Legacy: true, Family: family, Table: table}}
	base := map[int]beside.Chain{} // by the offset at which it begins
	policies := map[int]bool{}     // the offsets of their last entries
	for i, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
		if number(validHooksAt)&(1<<i) == 0 {
			continue
		}
		c := beside.Chain{Legacy: true, Family: family, Table: table, Name: builtinName(hook), Base: true, Type: "filter",
			Hook: hook, Priority: legacyPriority(table, hook)}
		switch {
		case table == "nat":
			c.Type = "nat"
		case table == "mangle" && hook == "output":
			c.Type = "route"
		case hook == "postrouting":
			c.Hook = "" // none of ours
		}
		base[number(hookEntryAt+4*i)] = c
		policies[number(underflowAt+4*i)] = true
	}
	list := readEntries(f, blob)
	names := map[int]string{} // of chains, by the offset of their first rule
	for i, e := range list {
		if name, is := e.chainHead(); is && i+1 < len(list) {
			names[list[i+1].at] = name
		}
	}
	for _, e := range list {
		if c, begins := base[e.at]; begins {
			all = append(all, c)
		}
		c := &all[len(all)-1]
		if name, is := e.chainHead(); is {
			all = append(all, beside.Chain{Legacy: true, Family: family, Table: table, Name: name})
			continue
		}
		r, drops := e.rule(names)
		r.Handle = handle(e)
		if !policies[e.at] && r.Else != "" {
			c.Else = append(c.Else, r.Else)
		}
		if policies[e.at] {
			c.Drops = drops
		} else if r.Matters() {
			c.Rules = append(c.Rules, r)
		} else if r.Idle && c.Base {
			c.Idle = append(c.Idle, r)
		}
	}
	return all
}

func builtinName(hook string) string { return string(bytes.ToUpper([]byte(hook))) }

// legacyPriority returns when packets meet a built-in chain (linux/netfilter_ipv4.h).
func legacyPriority(table, hook string) int32 {
	switch table {
	case "raw":
		return int32(ruleset.PriorityRaw)
	case "mangle":
		return int32(ruleset.PriorityMangle)
	case "nat":
		if hook == "prerouting" || hook == "output" {
			return int32(ruleset.PriorityDstNAT)
		}
		return 100 // NF_IP_PRI_NAT_SRC
	case "security":
		return 50
	}
	return int32(ruleset.PriorityFilter)
}

// readEntries cuts a table's content into entries.
func readEntries(f ruleset.Family, blob []byte) []entry {
	const targetHead, nameAt, nameSize = 32, 2, 29 // struct xt_entry_target
	targetAt, head := 88, 112                      // of target_offset in struct ipt_entry, and its size
	if f == ruleset.IPv6 {
		targetAt, head = 140, 168
	}
	var all []entry
	for at := 0; at+head <= len(blob); {
		target := int(binary.NativeEndian.Uint16(blob[at+targetAt:]))
		next := int(binary.NativeEndian.Uint16(blob[at+targetAt+2:]))
		if next < head || target < head || target+targetHead > next || at+next > len(blob) {
			break
		}
		t := blob[at+target : at+next]
		name, _, _ := bytes.Cut(t[nameAt:nameAt+nameSize], []byte{0})
		all = append(all, entry{at, at + next, blob[at : at+head], blob[at+head : at+target], string(name),
			t[nameAt+nameSize], t[targetHead:]})
		at += next
	}
	return all
}

// match is one of an entry's conditions.
type match struct {
	name string
	info []byte // what it is given
}

// eachMatch returns the matches of an entry (struct xt_entry_match, which is like that of a target). ok is false if
// something in them cannot be one; those before it are returned.
func (e entry) eachMatch() (all []match, ok bool) {
	const head, nameAt, nameSize = 32, 2, 29
	left := e.matches
	for len(left) >= head {
		size := int(binary.NativeEndian.Uint16(left))
		if size < head || size > len(left) {
			return all, false
		}
		name, _, _ := bytes.Cut(left[nameAt:nameAt+nameSize], []byte{0})
		all = append(all, match{string(name), left[head:size]})
		left = left[size:]
	}
	return all, len(left) == 0
}

// comment returns that of the match of this name, which iptables -m comment adds.
func (e entry) comment() string {
	all, _ := e.eachMatch()
	for _, m := range all {
		if m.name == "comment" {
			comment, _, _ := bytes.Cut(m.info, []byte{0})
			return string(comment)
		}
	}
	return ""
}

// arrivesBy returns the interface by which a packet has to arrive (struct ipt_ip, ip6t_ip6), if there is a condition
// that says so.
func (e entry) arrivesBy() []string {
	const inverted, size = 1, 16 // IPT_INV_VIA_IN, IFNAMSIZ
	nameAt, maskAt, flagsAt := 16, 48, 83
	if e.isIPv6() {
		nameAt, maskAt, flagsAt = 64, 96, 132
	}
	name, _, _ := bytes.Cut(e.head[nameAt:nameAt+size], []byte{0})
	if len(name) == 0 || e.head[flagsAt]&inverted != 0 {
		return nil
	}
	if n := len(name) - 1; e.head[maskAt+n] == 0 { // "eth+": what begins so
		return []string{string(name[:n]) + "*"}
	}
	return []string{string(name)}
}

func (e entry) isIPv6() bool { return len(e.head) > 112 } // of struct ipt_entry

// goesTo reads the conditions on where packets go.
func (e entry) goesTo(r *beside.Rule) {
	const inverted = 0x10 // IPT_INV_DSTIP
	size, flagsAt := 4, 83
	if e.isIPv6() {
		size, flagsAt = 16, 132
	}
	addr, mask := e.head[size:2*size], e.head[3*size:4*size]
	if bytes.Count(mask, []byte{0}) < size && e.head[flagsAt]&inverted == 0 {
		a, _ := netip.AddrFromSlice(addr)
		r.Dst, r.Dsts = true, []netip.Addr{a}
	}
	all, _ := e.eachMatch()
	for _, m := range all {
		r.Called = append(r.Called, beside.CalledByXTables(m.name, m.info)...)
		r.Dst = r.Dst || beside.AsksDestination(m.name, m.info)
		r.ByUser = r.ByUser || m.name == "owner"
	}
}

// chainHead returns the name of the chain of which this is the head.
func (e entry) chainHead() (name string, is bool) {
	if e.target != "ERROR" {
		return "", false
	}
	before, _, _ := bytes.Cut(e.info, []byte{0})
	return string(before), string(before) != "ERROR" // which ends the table
}

// rule returns what an entry does. names are those of chains by the offset of their first rule. drops is true if the
// verdict is to drop.
func (e entry) rule(names map[int]string) (r beside.Rule, drops bool) {
	r.Comment, r.Interfaces = e.comment(), e.arrivesBy()
	e.goesTo(&r)
	if e.target != "" { // the standard target has no name
		if a, known := beside.OfXTables(e.target, e.info); known {
			r.Acts = []beside.Act{a}
		} else if e.target != "ERROR" { // which ends the table
			r.Else = e.target
		}
		r.Idle = r.Comment == "" && beside.IsMark(e.target)
		r.Local = beside.ToThisHost(e.target, e.info, e.isIPv6())
		if port, known := beside.PortOfXTables(e.target, e.info); known {
			r.Ports = []uint16{port}
		}
		return r, false
	}
	if len(e.info) < 4 {
		return r, false
	}
	const drop, accept, returns = -1, -2, -5 // -NF_DROP-1, -NF_ACCEPT-1, -NF_REPEAT-1
	verdict := int32(binary.NativeEndian.Uint32(e.info))
	if name, is := names[int(verdict)]; verdict > 0 && is {
		r.To = []string{name}
	}
	r.Idle = r.Comment == "" && verdict == returns
	if verdict == accept {
		r.Else = "ACCEPT"
	}
	if verdict == drop {
		r.Acts = []beside.Act{beside.Discard}
	}
	return r, verdict == drop
}
