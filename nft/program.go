package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/nft/internal/expr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// A program is what stands in the kernel for a Ruleset, in full detail but
// still as data: render.go writes it as text, batch.go sends it.
//
// Every condition is lowered once, into its text and its expressions side by
// side, so that neither can know a condition the other does not.
type program []table

type table struct {
	family expr.TableFamily
	spec   string // name of the chain that says what the table was made from
	note   []rule // what is kept in that chain
	// olderChains is that chain's comment. Empty: it has none.
	olderChains string
	sets        []set
	chains      []chain
	older       []ruleset.Tuple // what the sets of tuples hold
	settling    ruleset.Settling
	lists       lists
}

type chain struct {
	name     string
	hook     ruleset.Hook
	priority ruleset.Priority
	typ      ruleset.ChainType
	rules    []rule
}

func (c chain) isBase() bool { return c.hook != 0 }

type rule struct {
	id      ruleset.RuleID
	comment string
	stmts   []stmt
	encoded []byte // the statements' expressions, as the kernel takes them; nil for text alone
}

// stmt is one statement of a rule, as nft(8) reads it and as the kernel does.
type stmt struct {
	text  string
	exprs []expr.Any
}

// keyType is the type of a set's keys.
type keyType uint8

const (
	keyPort keyType = iota
	keyIPv4
	keyIPv6
	keyUID
	keyGID
	keyProto
	keyTuple4 // address . port . address . port: where packets come from, and where they go
	keyTuple6
	keySettling // states of conntrack, for a time
)

// String is the type as nft(8) names it.
func (k keyType) String() string {
	return [...]string{
		keyPort: "inet_service", keyIPv4: "ipv4_addr", keyIPv6: "ipv6_addr", keyUID: "uid", keyGID: "gid",
		keyProto: "inet_proto", keyTuple4: "ipv4_addr . inet_service . ipv4_addr . inet_service",
		keyTuple6: "ipv6_addr . inet_service . ipv6_addr . inet_service", keySettling: "ct_state",
	}[k]
}

// prefix begins the names of sets of the type.
func (k keyType) prefix() string {
	return [...]string{
		keyPort: "ports", keyIPv4: "ipv4", keyIPv6: "ipv6", keyUID: "uids", keyGID: "gids", keyProto: "protocols",
		keyTuple4: "older_ipv4", keyTuple6: "older_ipv6", keySettling: "settling",
	}[k]
}

// isInterval reports whether the kernel keeps ranges of the type, not single
// keys.
func (k keyType) isInterval() bool { return k != keyProto && !k.isOfOneMoment() }

// isOfOneMoment reports whether a set of the type holds what was so when the rules were written. It belongs neither to
// their fingerprint nor to what is compared.
func (k keyType) isOfOneMoment() bool { return k == keyTuple4 || k == keyTuple6 || k == keySettling }

// text writes a range as nft(8) reads it.
func (k keyType) text(r keyRange) string {
	switch k {
	case keyPort:
		return ruleset.PortRange{First: binary.BigEndian.Uint16(r.first), Last: binary.BigEndian.Uint16(r.last)}.String()
	case keyUID, keyGID:
		return ruleset.IDRange{First: binary.BigEndian.Uint32(r.first), Last: binary.BigEndian.Uint32(r.last)}.String()
	case keyIPv4, keyIPv6:
		first, _ := netip.AddrFromSlice(r.first)
		last, _ := netip.AddrFromSlice(r.last)
		return ruleset.AddrRange{First: first, Last: last}.String()
	case keyTuple4, keyTuple6:
		t, _ := tupleOf(r.first)
		return fmt.Sprintf("%s . %d . %s . %d", t.Src.Addr(), t.Src.Port(), t.Dst.Addr(), t.Dst.Port())
	case keySettling:
		return stateName(r.first)
	case keyProto:
	}
	return fmt.Sprint(r.first[0])
}

// lower makes tables of a Ruleset, without what compile encodes for the kernel. It decides nothing about packets.
func lower(rs ruleset.Ruleset, lay layout) (program, error) {
	if err := rs.Check(); err != nil {
		return nil, err
	}
	if len(rs.Routes) > 0 {
		return nil, fmt.Errorf("%w for routes here: package dataplane writes them", ruleset.ErrUnsupported)
	}
	var prog program
	for _, fam := range tableFamilies(rs.Families, lay) {
		t := table{family: fam, older: rs.Older, settling: rs.Settling}
		for _, c := range rs.Chains {
			lc := chain{name: c.Name, hook: c.Hook, priority: c.Priority, typ: c.Type}
			for _, r := range c.Rules {
				if err := t.lower(&lc, r); err != nil {
					return nil, &ruleset.RuleError{Chain: c.Name, Rule: r.ID, Err: err}
				}
			}
			t.chains = append(t.chains, lc)
		}
		t.spec = specPrefix + fingerprint(t)
		prog = append(prog, t)
	}
	return prog, prog.fits(bufferSize)
}

func tableFamilies(families []ruleset.Family, lay layout) []expr.TableFamily {
	if len(families) == 2 && lay == oneTable {
		return []expr.TableFamily{expr.TableFamilyINet}
	}
	var out []expr.TableFamily
	for _, f := range families {
		if f == ruleset.IPv4 {
			out = append(out, expr.TableFamilyIPv4)
		} else {
			out = append(out, expr.TableFamilyIPv6)
		}
	}
	return out
}

// specPrefix begins the name of a chain without hooks or callers that every
// table of ours has. The rest of its name is the fingerprint of the table's
// content: a name survives in every kernel and shows in every listing. Its
// rules hold the note.
const specPrefix = "spec_"

// fingerprint need not withstand an adversary: who can write the table can
// write its fingerprint, and the content is compared as well.
func fingerprint(t table) string {
	h := fnv.New128a()
	sets := t.sets
	t.sets = nil
	_, _ = io.WriteString(h, t.render()) // a hash.Hash never fails
	for _, s := range sets {
		if s.key.isOfOneMoment() {
			s.ranges = ranges{}
		}
		_, _ = fmt.Fprintf(h, "%s %d", s.name, s.ranges.len())
		if !s.key.isInterval() { // of those the name is a sum
			_, _ = h.Write(s.ranges.bytes)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// lower appends a rule to c: one, or in an inet table one for each family if
// the rule reads differently for them.
func (t *table) lower(c *chain, r ruleset.Rule) error {
	if slices.Contains(r.Match, ruleset.Match(ruleset.Older{})) {
		if err := t.lowerSettling(c, r); err != nil {
			return err
		}
	}
	switch {
	case t.family == expr.TableFamilyIPv4:
		return t.lowerFor(c, r, ruleset.IPv4)
	case t.family == expr.TableFamilyIPv6:
		return t.lowerFor(c, r, ruleset.IPv6)
	case r.IsFamilySpecific():
		for _, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
			if err := t.lowerFor(c, r, f, nfproto(f)); err != nil {
				return err
			}
		}
		return nil
	}
	return t.append(c, r, 0, t.match)
}

// lowerSettling appends the rule by which every connection counts as older while the rules are settling.
func (t *table) lowerSettling(c *chain, r ruleset.Rule) error {
	return t.append(c, r, 0, func(m ruleset.Match) (stmt, error) {
		if m != ruleset.Match(ruleset.Older{}) {
			return t.match(m)
		}
		name := t.set(keySettling, stateKeys(t.settling))
		return stmt{"ct state @" + name, []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: name}}}, nil
	})
}

// states are those that a packet can have, as the kernel has them in a register (NF_CT_STATE_BIT and others in
// linux/netfilter/nf_conntrack_common.h), and as nft(8) calls them.
func states() map[uint32]string {
	return map[uint32]string{
		expr.CtStateBitINVALID: "invalid", expr.CtStateBitESTABLISHED: "established", expr.CtStateBitRELATED: "related",
		expr.CtStateBitNEW: "new", expr.CtStateBitUNTRACKED: "untracked",
	}
}

func stateName(key []byte) string { return states()[binary.NativeEndian.Uint32(key)] }

// stateKeys are the states of the packets whose connections count as older for a time.
func stateKeys(s ruleset.Settling) (keys ranges) {
	all := states()
	for state := uint32(1); state != 0; state <<= 1 {
		if _, known := all[state]; known && s.For > 0 && (!s.Tracked || state == expr.CtStateBitESTABLISHED) {
			key := binary.NativeEndian.AppendUint32(nil, state)
			keys.add(key, key)
		}
	}
	return keys
}

// nfproto asks for the family of the packet.
func nfproto(f ruleset.Family) stmt {
	name, number := "ipv6", byte(expr.NFPROTO_IPV6)
	if f == ruleset.IPv4 {
		name, number = "ipv4", expr.NFPROTO_IPV4
	}
	return stmt{"meta nfproto " + name, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}}
}

func (t *table) lowerFor(c *chain, r ruleset.Rule, f ruleset.Family, guard ...stmt) error {
	r, ok := t.lists.family(r, f).For(f)
	if !ok {
		return nil
	}
	return t.append(c, r, f, func(m ruleset.Match) (stmt, error) { return t.familyMatch(m, f) }, guard...)
}

// append appends a rule for a family or, if f is zero, for both.
func (t *table) append(c *chain, r ruleset.Rule, f ruleset.Family, lower func(ruleset.Match) (stmt, error),
	guard ...stmt) error {
	stmts := guard
	isProto := func(m ruleset.Match) bool { _, is := m.(ruleset.Proto); return is }
	for i, m := range r.Match {
		s, err := lower(m)
		if err != nil {
			return err
		}
		if flags, is := m.(ruleset.TCPFlags); is && !slices.ContainsFunc(r.Match[:i], isProto) {
			// With "tcp flags" nft(8) would ask for the protocol first.
			s.text = fmt.Sprintf("@th,104,8 & %#x == %#x", flags.Mask, flags.Value)
		}
		stmts = append(stmts, s)
	}
	if !r.Uncounted {
		stmts = append(stmts, stmt{"counter", []expr.Any{&expr.Counter{}}})
	}
	target, err := t.target(r, f)
	if err != nil {
		return err
	}
	stmts = append(stmts, target)
	c.rules = append(c.rules, rule{id: r.ID, comment: r.Comment(), stmts: stmts})
	return nil
}

// match lowers a condition.
func (t *table) match(m ruleset.Match) (stmt, error) {
	negated := false
	if n, is := m.(ruleset.Not); is {
		m, negated = n.Match, true
	}
	switch m := m.(type) {
	case ruleset.Proto:
		var keys ranges
		for p := range 1 << 8 { // each once, in order
			if slices.Contains(m, ruleset.Protocol(p)) {
				keys.add([]byte{byte(p)}, []byte{byte(p)})
			}
		}
		return t.compare("meta l4proto", meta(expr.MetaKeyL4PROTO), keyProto, keys, negated), nil
	case ruleset.SrcPort:
		return t.compare("th sport", transport(0, 2), keyPort, portKeys(ruleset.Ports(m)), negated), nil
	case ruleset.DstPort:
		return t.compare("th dport", transport(2, 2), keyPort, portKeys(ruleset.Ports(m)), negated), nil
	case ruleset.Src:
		return t.address(ruleset.CIDRs(m), "saddr", 12, 8, negated)
	case ruleset.Dst:
		return t.address(ruleset.CIDRs(m), "daddr", 16, 24, negated)
	case ruleset.InInterface:
		return iface("iif", expr.MetaKeyIIF, expr.MetaKeyIIFNAME, string(m), negated), nil
	case ruleset.OutInterface:
		return iface("oif", expr.MetaKeyOIF, expr.MetaKeyOIFNAME, string(m), negated), nil
	case ruleset.UID:
		return t.compare("meta skuid", meta(expr.MetaKeySKUID), keyUID, idKeys(ruleset.IDs(m)), negated), nil
	case ruleset.GID:
		return t.compare("meta skgid", meta(expr.MetaKeySKGID), keyGID, idKeys(ruleset.IDs(m)), negated), nil
	case ruleset.MetaMark:
		return masked("meta mark", meta(expr.MetaKeyMARK), m.Value, m.Mask, negated), nil
	case ruleset.ConnMark:
		return masked("ct mark", []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}}, m.Value, m.Mask, negated), nil
	case ruleset.CTState:
		return ctState(m, negated), nil
	case ruleset.TCPFlags:
		op, word := equality(negated)
		return stmt{fmt.Sprintf("tcp flags & %#x %s %#x", m.Mask, word, m.Value), append(transport(13, 1),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{m.Mask}, Xor: []byte{0}},
			&expr.Cmp{Op: op, Register: 1, Data: []byte{m.Value}})}, nil
	case ruleset.HasSocket:
		all := ruleset.IDs{{First: 0, Last: ruleset.MaxID}}
		return t.compare("meta skuid", meta(expr.MetaKeySKUID), keyUID, idKeys(all), negated), nil
	case ruleset.SocketOpen:
		if m.Transparent {
			return stmt{"socket transparent 1", []expr.Any{&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}}}}, nil
		}
		// What is loaded does not matter: where there is no socket nothing is.
		return stmt{"socket transparent <= 1", []expr.Any{&expr.Socket{Key: expr.SocketKeyTransparent, Register: 1},
			&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{1}}}}, nil
	case ruleset.CTDNAT:
		return ctBits("status", expr.CtKeySTATUS, dstNAT, negated), nil
	case ruleset.CTDirection:
		text, dir := "original", byte(0)
		if m == ruleset.CTReply {
			text, dir = "reply", 1
		}
		return stmt{"ct direction " + text, []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{dir}}}}, nil
	case ruleset.ToLocal:
		op, word := equality(negated)
		return stmt{fmt.Sprintf("fib daddr type %s local", word), []expr.Any{
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: op, Register: 1, Data: host32(expr.RTN_LOCAL)}}}, nil
	case ruleset.Length:
		op, word := equality(negated)
		return stmt{fmt.Sprintf("meta length %s %d", word, m), append(meta(expr.MetaKeyLEN),
			&expr.Cmp{Op: op, Register: 1, Data: host32(uint32(m))})}, nil
	case ruleset.TCPHeader:
		op, word := equality(negated)
		return stmt{fmt.Sprintf("tcp doff %s %d", word, m), append(transport(12, 1),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0xf0}, Xor: []byte{0}},
			&expr.Cmp{Op: op, Register: 1, Data: []byte{byte(m) << 4}})}, nil
	case ruleset.MPTCP:
		text, there := "exists", byte(1)
		if negated {
			text, there = "missing", 0
		}
		return stmt{"tcp option mptcp " + text, []expr.Any{&expr.Exthdr{Op: expr.ExthdrOpTcpopt, Type: mptcpOption,
			Len: 1, Flags: expr.NFT_EXTHDR_F_PRESENT, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{there}}}}, nil
	case ruleset.ICMPEcho, ruleset.ICMPQuote, ruleset.Older, ruleset.IsFamily, ruleset.Not:
		// Rule.For has taken IsFamily out, the lines above Not, and lowerFor the others.
	}
	return stmt{}, fmt.Errorf("%w for match %T", ruleset.ErrUnsupported, m)
}

// familyMatch lowers a condition that is written otherwise for each family.
func (t *table) familyMatch(asked ruleset.Match, f ruleset.Family) (stmt, error) {
	m, negated := asked, false
	if n, is := m.(ruleset.Not); is {
		m, negated = n.Match, true
	}
	v4 := f == ruleset.IPv4
	op, word := equality(negated)
	switch m := m.(type) { //nolint:gochecksumtype // lowerFor asks for no others
	case ruleset.ICMPEcho:
		echo := icmpEcho(m, f)
		// Not "icmp type", with which nft(8) would ask for the protocol once more.
		return stmt{fmt.Sprintf("@th,0,8 %s %d", word, echo),
			append(transport(0, 1), &expr.Cmp{Op: op, Register: 1, Data: []byte{echo}})}, nil
	case ruleset.ICMPQuote:
		if negated {
			break
		}
		// Behind the eight bytes of ICMP's own: the IP header of the packet, of 20 bytes or 40, and its ports.
		protocol, ports := uint32(8+6), uint32(8+40)
		var s stmt
		if v4 {
			protocol, ports = 8+9, 8+20
			s = stmt{"@th,64,8 0x45 ", append(transport(8, 1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x45}})}
		}
		s.exprs = append(append(s.exprs, transport(protocol, 1)...),
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{expr.IPPROTO_UDP}})
		s.exprs = append(append(s.exprs, transport(ports, 2)...),
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: be16(m.SrcPort)})
		s.text += fmt.Sprintf("@th,%d,8 %d @th,%d,16 %d", 8*protocol, expr.IPPROTO_UDP, 8*ports, m.SrcPort)
		return s, nil
	case ruleset.Older:
		if negated {
			break
		}
		key, addr, length, src, dst := keyTuple4, "ip", uint32(4), uint32(12), uint32(16)
		if !v4 {
			key, addr, length, src, dst = keyTuple6, "ip6", 16, 8, 24
		}
		name := t.set(key, tupleKeys(t.older, f))
		// Each part of the key begins with a register of four bytes (NFT_REG32_00 and on).
		load := []expr.Any{}
		at := uint32(0)
		for _, part := range []struct {
			base        expr.PayloadBase
			offset, len uint32
		}{
			{expr.PayloadBaseNetworkHeader, src, length}, {expr.PayloadBaseTransportHeader, 0, 2},
			{expr.PayloadBaseNetworkHeader, dst, length}, {expr.PayloadBaseTransportHeader, 2, 2},
		} {
			load = append(load, &expr.Payload{DestRegister: register(at), Base: part.base, Offset: part.offset, Len: part.len})
			at += (part.len + 3) / 4
		}
		return stmt{fmt.Sprintf("%s saddr . tcp sport . %s daddr . tcp dport @%s", addr, addr, name),
			append(load, &expr.Lookup{SourceRegister: 1, SetName: name})}, nil
	default:
		return t.match(asked)
	}
	return stmt{}, fmt.Errorf("%w for match %s", ruleset.ErrUnsupported, asked)
}

// register returns the number of a register of four bytes, as the kernel lists it: the first of each four by the number
// of the register of sixteen bytes that begins there (nft_dump_register in net/netfilter/nf_tables_api.c).
func register(n uint32) uint32 {
	if n%4 == 0 {
		return expr.NFT_REG_1 + n/4
	}
	return expr.NFT_REG32_00 + n
}

// tupleKeys returns the keys of the tuples of one family.
func tupleKeys(tuples []ruleset.Tuple, f ruleset.Family) (keys ranges) {
	end := func(key []byte, a netip.AddrPort) []byte {
		return append(binary.BigEndian.AppendUint16(append(key, a.Addr().AsSlice()...), a.Port()), 0, 0)
	}
	for _, tuple := range tuples {
		if ruleset.FamilyOf(tuple.Src.Addr()) == f {
			key := end(end(nil, tuple.Src), tuple.Dst)
			keys.add(key, key)
		}
	}
	return keys
}

// tupleOf reads a key that tupleKeys has written.
func tupleOf(key []byte) (t ruleset.Tuple, ok bool) {
	n := len(key)/2 - 4 // an address; ports are padded to four bytes
	if n != 4 && n != 16 {
		return t, false
	}
	end := func(b []byte) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(b[:n])
		return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[n:]))
	}
	return ruleset.Tuple{Src: end(key), Dst: end(key[n+4:])}, true
}

func equality(negated bool) (expr.CmpOp, string) {
	if negated {
		return expr.CmpOpNeq, "!="
	}
	return expr.CmpOpEq, "=="
}

func meta(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}}
}

func transport(offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}}
}

func network(offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}}
}

// compare asks whether what load leaves in register 1 is one of keys: a
// comparison for one key, and a set, whose cost does not grow with the list,
// for more.
func (t *table) compare(what string, load []expr.Any, key keyType, keys ranges, negated bool) stmt {
	op, _ := equality(negated)
	text := func(value string) string {
		if negated {
			return what + " != " + value
		}
		return what + " " + value
	}
	single, one := keys.isOne(), keys.at(0)
	if key == keyUID || key == keyGID {
		// IDs are loaded in host byte order, in which ranges do not sort.
		if single {
			host := host32(binary.BigEndian.Uint32(one.first))
			return stmt{text(key.text(one)), append(load, &expr.Cmp{Op: op, Register: 1, Data: host})}
		}
		load = append(load, &expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4})
	}
	switch {
	case single:
		return stmt{text(key.text(one)), append(load, &expr.Cmp{Op: op, Register: 1, Data: one.first})}
	case keys.len() > 1 || key == keyIPv4 || key == keyIPv6: // below
	case bytes.Count(one.first, []byte{0}) == len(one.first):
		// One comparison does, which every version of nft(8) writes the same.
		word, op := "<= ", expr.CmpOpLte
		if negated {
			word, op = "> ", expr.CmpOpGt
		}
		return stmt{what + " " + word + key.text(keyRange{one.last, one.last}),
			append(load, &expr.Cmp{Op: op, Register: 1, Data: one.last})}
	case negated:
		return stmt{text(key.text(one)), append(load,
			&expr.Range{Op: op, Register: 1, FromData: one.first, ToData: one.last})}
	default:
		return stmt{text(key.text(one)), append(load,
			&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: one.first},
			&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: one.last})}
	}
	name := t.set(key, keys)
	return stmt{text("@" + name), append(load, &expr.Lookup{SourceRegister: 1, SetName: name, Invert: negated})}
}

// set returns the name of a set with these keys. Rules that ask for the same
// keys share it.
func (t *table) set(key keyType, keys ranges) string {
	n := 1
	for _, s := range t.sets {
		if s.key != key {
			continue
		}
		if s.ranges.equal(keys) {
			return s.name
		}
		n++
	}
	name := fmt.Sprintf("%s_%d", key.prefix(), n)
	if key.isInterval() {
		// It is put there before the rules that ask it, beside those of the rules that they replace (see write).
		name = fmt.Sprintf("%s_%016x", key.prefix(), keys.sum())
	}
	s := set{name: name, key: key, ranges: keys}
	if key == keySettling {
		s.timeout = t.settling.For
	}
	t.sets = append(t.sets, s)
	return name
}

func (t *table) address(list ruleset.CIDRs, field string, offset4, offset6 uint32, negated bool) (stmt, error) {
	first := ruleset.FamilyOf(list[0].Addr())
	if slices.ContainsFunc(list, func(p netip.Prefix) bool { return ruleset.FamilyOf(p.Addr()) != first }) {
		return stmt{}, fmt.Errorf("addresses of both families in one rule: %s", list)
	}
	keys := t.lists.addresses(list, first)
	if first == ruleset.IPv4 {
		return t.compare("ip "+field, network(offset4, 4), keyIPv4, keys, negated), nil
	}
	return t.compare("ip6 "+field, network(offset6, 16), keyIPv6, keys, negated), nil
}

func be16(n uint16) []byte   { return binary.BigEndian.AppendUint16(nil, n) }
func be32(n uint32) []byte   { return binary.BigEndian.AppendUint32(nil, n) }
func host16(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
func host32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// loopbackIndex is that of every namespace's loopback interface (LOOPBACK_IFINDEX in the kernel's include/net/flow.h).
const loopbackIndex = 1

// iface compares an interface's name. The kernel compares as many bytes as it
// is given: all 16, zeros included, for a name, fewer for the beginning of one.
// For that of the loopback interface it compares the index, which takes half the time.
func iface(what string, index, name expr.MetaKey, pattern string, negated bool) stmt {
	op, word := equality(negated)
	if pattern == ruleset.Loopback {
		return stmt{fmt.Sprintf("%s %s %q", what, word, pattern),
			append(meta(index), &expr.Cmp{Op: op, Register: 1, Data: host32(loopbackIndex)})}
	}
	data := make([]byte, expr.IFNAMSIZ)
	prefix, isPrefix := strings.CutSuffix(pattern, "*")
	if n := copy(data, prefix); isPrefix {
		data = data[:n]
	}
	return stmt{fmt.Sprintf("%sname %s %q", what, word, pattern),
		append(meta(name), &expr.Cmp{Op: op, Register: 1, Data: data})}
}

func masked(what string, load []expr.Any, value, mask uint32, negated bool) stmt {
	op, word := equality(negated)
	cmp := &expr.Cmp{Op: op, Register: 1, Data: host32(value)}
	if mask == 1<<32-1 {
		return stmt{fmt.Sprintf("%s %s %#x", what, word, value), append(load, cmp)}
	}
	return stmt{fmt.Sprintf("%s & %#x %s %#x", what, mask, word, value), append(load, and(mask, 0), cmp)}
}

func and(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: host32(mask), Xor: host32(xor)}
}

func ctState(m ruleset.CTState, negated bool) stmt {
	return ctBits("state", expr.CtKeySTATE, uint32(m), negated)
}

// icmpEcho is the type of an echo request (RFC 792, RFC 4443), or of an extended one (RFC 8335).
func icmpEcho(m ruleset.ICMPEcho, f ruleset.Family) byte {
	switch {
	case m.Extended && f == ruleset.IPv4:
		return 42
	case m.Extended:
		return 160
	case f == ruleset.IPv4:
		return 8
	}
	return 128
}

// mptcpOption is the kind of the option (RFC 8684, section 3).
const mptcpOption = 30

// dstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const dstNAT = 1 << 5

// ctBits asks for any of some bits: the masked value is not zero.
func ctBits(what string, key expr.CtKey, bits uint32, negated bool) stmt {
	op, word := equality(!negated)
	return stmt{fmt.Sprintf("ct %s & %#x %s 0", what, bits, word), []expr.Any{
		&expr.Ct{Key: key, Register: 1}, and(bits, 0), &expr.Cmp{Op: op, Register: 1, Data: host32(0)}}}
}

// target lowers what happens to a packet.
func (t *table) target(r ruleset.Rule, f ruleset.Family) (stmt, error) {
	switch target := r.Target.(type) {
	case ruleset.Accept, ruleset.Divert:
		return verdict("accept", expr.VerdictAccept, ""), nil
	case ruleset.Return:
		return verdict("return", expr.VerdictReturn, ""), nil
	case ruleset.Drop:
		return verdict("drop", expr.VerdictDrop, ""), nil
	case ruleset.Jump:
		return verdict("jump "+target.Chain, expr.VerdictJump, target.Chain), nil
	case ruleset.Goto:
		return verdict("goto "+target.Chain, expr.VerdictGoto, target.Chain), nil
	case ruleset.Reject:
		return t.reject(r.OnlyTCP()), nil
	case ruleset.Redirect:
		redir := &expr.Redir{RegisterProtoMin: 1, Flags: expr.NF_NAT_RANGE_PROTO_SPECIFIED}
		exprs := []expr.Any{&expr.Immediate{Register: 1, Data: be16(target.Ports.First)}}
		text := "redirect to :" + target.Ports.String()
		if target.Ports.Last != target.Ports.First {
			// Without random the kernel takes the first port whenever it can.
			text += " random"
			exprs = append(exprs, &expr.Immediate{Register: 2, Data: be16(target.Ports.Last)})
			redir.RegisterProtoMax = 2
			redir.Flags |= expr.NF_NAT_RANGE_PROTO_RANDOM
		}
		return stmt{text, append(exprs, redir)}, nil
	case ruleset.DNAT:
		family, word := uint32(expr.NFPROTO_IPV6), "ip6"
		if target.To.Addr().Is4() {
			family, word = expr.NFPROTO_IPV4, "ip"
		}
		return stmt{fmt.Sprintf("dnat %s to %s", word, target.To), []expr.Any{
			&expr.Immediate{Register: 1, Data: target.To.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: be16(target.To.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		}}, nil
	case ruleset.Keep:
		// To its own destination: that is decided then, and the packet is as it was.
		family, word, at, length := uint32(expr.NFPROTO_IPV6), "ip6", uint32(24), uint32(16)
		if f == ruleset.IPv4 {
			family, word, at, length = expr.NFPROTO_IPV4, "ip", 16, 4
		}
		return stmt{fmt.Sprintf("dnat %s to %[1]s daddr", word), []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: length},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1},
		}}, nil
	case ruleset.SetMark:
		return setMark(target.Value, target.Mask), nil
	case ruleset.SetConnMark:
		return setConnMark(target.Value, target.Mask), nil
	case ruleset.CTZone:
		end := verdict("return", expr.VerdictReturn, "")
		return stmt{fmt.Sprintf("ct original zone set %d %s", target.Zone, end.text), append([]expr.Any{
			&expr.Immediate{Register: 1, Data: host16(target.Zone)},
			&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true, Direction: expr.CtDirOriginal,
				OptDirection: true}}, end.exprs...)}, nil
	case ruleset.TProxy:
		stmts := []stmt{{fmt.Sprintf("tproxy to :%d", target.Port), []expr.Any{
			&expr.Immediate{Register: 1, Data: be16(target.Port)},
			&expr.TProxy{Family: tproxyFamily(t.family), TableFamily: byte(t.family), RegPort: 1}}}}
		if target.Mark.Mask != 0 {
			stmts = append(stmts, setMark(target.Mark.Value, target.Mark.Mask))
		}
		return joined(append(stmts, verdict("accept", expr.VerdictAccept, ""))), nil
	}
	return stmt{}, fmt.Errorf("%w for target %T", ruleset.ErrUnsupported, r.Target)
}

// joined makes one statement of several.
func joined(stmts []stmt) (all stmt) {
	texts := make([]string, len(stmts))
	for i, s := range stmts {
		texts[i] = s.text
		all.exprs = append(all.exprs, s.exprs...)
	}
	all.text = strings.Join(texts, " ")
	return all
}

// tproxyFamily is what nft sends: an inet table leaves the family to the packet.
func tproxyFamily(f expr.TableFamily) byte {
	if f == expr.TableFamilyINet {
		return expr.NFPROTO_UNSPEC
	}
	return byte(f)
}

func verdict(text string, kind expr.VerdictKind, chain string) stmt {
	return stmt{text, []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

func writeMark() expr.Any {
	return &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}
}

func setMark(value, mask uint32) stmt {
	if mask == 1<<32-1 {
		return stmt{fmt.Sprintf("meta mark set %#x", value), []expr.Any{
			&expr.Immediate{Register: 1, Data: host32(value)}, writeMark()}}
	}
	return stmt{fmt.Sprintf("meta mark set meta mark & %#x ^ %#x", ^mask, value),
		append(meta(expr.MetaKeyMARK), and(^mask, value), writeMark())}
}

func setConnMark(value, mask uint32) stmt {
	write := &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true}
	if mask == 1<<32-1 {
		return stmt{fmt.Sprintf("ct mark set %#x", value), []expr.Any{
			&expr.Immediate{Register: 1, Data: host32(value)}, write}}
	}
	return stmt{fmt.Sprintf("ct mark set ct mark & %#x ^ %#x", ^mask, value),
		[]expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, and(^mask, value), write}}
}

func (t *table) reject(tcp bool) stmt {
	if tcp {
		return stmt{"reject with tcp reset", []expr.Any{&expr.Reject{Type: expr.NFT_REJECT_TCP_RST}}}
	}
	// The codes are those of linux/netfilter/nf_tables.h and the ICMP RFCs
	// (792, type 3 code 3; 4443, type 1 code 4).
	switch t.family {
	case expr.TableFamilyIPv4:
		return stmt{"reject with icmp port-unreachable",
			[]expr.Any{&expr.Reject{Type: expr.NFT_REJECT_ICMP_UNREACH, Code: 3}}}
	case expr.TableFamilyIPv6:
		return stmt{"reject with icmpv6 port-unreachable",
			[]expr.Any{&expr.Reject{Type: expr.NFT_REJECT_ICMP_UNREACH, Code: 4}}}
	default:
		return stmt{"reject with icmpx port-unreachable", []expr.Any{
			&expr.Reject{Type: expr.NFT_REJECT_ICMPX_UNREACH, Code: expr.NFT_REJECT_ICMPX_PORT_UNREACH}}}
	}
}
