package classes

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Field is what a condition can be about. Diagrams ask for fields in this order.
type Field uint8

// The fields of a packet.
const (
	Protocol Field = iota
	ICMP           // what an ICMP message is: an echo request, an error
	Conntrack
	Flags
	Older
	MPTCP
	Interface
	UID
	GID
	Mark
	ConnMark
	Dst4
	Dst6
	DstPort
	Src4
	Src6
	SrcPort
	Header
	Length
	Listening

	fieldCount
	noField = fieldCount
)

// The values of Listening; zero: no socket is open.
const (
	openSocket        = 1
	transparentSocket = 2
)

// A cell is the packets whose fields have one of the atoms each; nil: any. It does not change once it is made. The nil
// cell is of all packets.
type cell []set

// of returns what the cell says of a field.
func (c cell) of(f Field) set {
	if c == nil {
		return nil
	}
	return c[f]
}

// but returns the cell with another word on a field.
func (c cell) but(f Field, in set) cell {
	out := make(cell, fieldCount)
	copy(out, c)
	out[f] = in
	return out
}

// with returns what is in all of the cells.
func (c cell) with(others ...cell) cell {
	out := append(make(cell, 0, fieldCount), c...)[:fieldCount]
	for _, o := range others {
		for f, in := range o {
			switch {
			case in == nil:
			case out[f] == nil:
				out[f] = in
			default:
				out[f] = out[f].and(in)
			}
		}
	}
	return out
}

// Sender is who sends a packet, as far as rules can know it.
type Sender uint8

// The senders. A process and the kernel are in the pod.
const (
	Process   Sender = iota // a socket that somebody has open
	Kernel                  // no socket, or one of the kernel's own
	Arriving                // somebody outside, to the pod
	Forwarded               // somebody outside, to an address that is not the pod's

	senderCount
)

// A belief is what conntrack can say of a packet.
type belief struct {
	state              ruleset.CTState
	known, reply, dnat bool
}

// beliefs are all. What arrives for no connection at all has no entry, so an invalid packet has no direction; what is
// established has been seen before.
func beliefs() []belief {
	var all []belief
	for _, b := range []belief{
		{state: ruleset.CTNew},
		{state: ruleset.CTNew, known: true},
		{state: ruleset.CTRelated},
		{state: ruleset.CTRelated, known: true},
		{state: ruleset.CTRelated, known: true, reply: true},
		{state: ruleset.CTEstablished, known: true},
		{state: ruleset.CTEstablished, known: true, reply: true},
	} {
		translated := b
		translated.dnat = true
		all = append(all, b, translated)
	}
	return append(all, belief{state: ruleset.CTInvalid})
}

// What ICMP messages are, above the ports that an error can quote.
const (
	icmpOther        = 0
	icmpEcho         = 1 << 16
	icmpExtendedEcho = icmpEcho + 1
)

// The lengths of a TCP header in words: its field has four bits, and the header five words at least (RFC 9293).
const firstHeader, lastHeader = 5, 15

// space is the fields of packets, cut by the conditions of all rules that are compared.
type space struct {
	diagram
	axes [fieldCount]axis
	// names and marks stand for the atoms of interfaces and marks: a value of the axis is an index.
	names    []string
	patterns []string
	marks    [2][]uint32
	tests    [2][]ruleset.Mark
	beliefs  []belief
}

func networks(list ...string) ruleset.CIDRs {
	var all ruleset.CIDRs
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// The destinations that the kernel treats in its own way.
func manyHosts() ruleset.CIDRs { return networks("224.0.0.0/4", "255.255.255.255/32", "ff00::/8") }
func noHost() ruleset.CIDRs    { return networks("0.0.0.0/32", "::/128") }
func loopback() ruleset.CIDRs  { return networks("127.0.0.0/8", "::1/128") }

func fromTo(first, last uint64) []span { return []span{{value{lo: first}, value{lo: last}}} }

// ipv6 is all of it but the addresses that are IPv4 written as IPv6: the kernel sends those as IPv4.
func ipv6() []span {
	mapped := netip.MustParsePrefix("::ffff:0:0/96")
	first := addrValue(mapped.Addr())
	after := value{first.hi, first.lo + 1<<32}
	return []span{{value{}, first.previous()}, {after, value{^uint64(0), ^uint64(0)}}}
}

// tests are the conditions on each field, once each.
type tests struct {
	of    [fieldCount][]test
	known map[condition]bool
}

type condition struct {
	field Field
	key   string
}

// isNew reports whether a condition has not been met before.
func (t *tests) isNew(f Field, key string) bool {
	k := condition{f, key}
	was := t.known[k]
	t.known[k] = true
	return !was
}

func (t *tests) add(f Field, key string, spans []span) { t.of[f] = append(t.of[f], test{key, spans}) }

// newSpace cuts the fields by the conditions of the rules, and by more.
func newSpace(rules []familyRules, more []ruleset.Match) *space {
	s := &space{diagram: *newDiagram(), beliefs: beliefs()}
	all := tests{known: map[condition]bool{}}
	more = append([]ruleset.Match{
		ruleset.Dst(manyHosts()), ruleset.Dst(noHost()), ruleset.Dst(loopback()), ruleset.Opens(),
		ruleset.Proto{ruleset.TCP}, ruleset.OutInterface(ruleset.Loopback),
	}, more...)
	for _, m := range more {
		s.collect(m, ruleset.IPv4, &all)
		s.collect(m, ruleset.IPv6, &all)
	}
	var set [2][]ruleset.Mark
	for _, r := range rules {
		for _, c := range r.chains {
			for _, rule := range c.Rules {
				for _, m := range rule.Match {
					if n, is := m.(ruleset.Not); is {
						m = n.Match
					}
					s.collect(m, r.family, &all)
				}
				if m, is := rule.Target.(ruleset.SetMark); is {
					set[0] = append(set[0], ruleset.Mark(m))
				}
				if m, is := rule.Target.(ruleset.SetConnMark); is {
					set[1] = append(set[1], ruleset.Mark(m))
				}
			}
		}
	}
	for i := range s.beliefs { // they are few, and not all of what asks for them is a condition of a rule
		all.add(Conntrack, s.beliefs[i].String(), fromTo(uint64(i), uint64(i)))
	}
	s.names = interfaceNames(s.patterns)
	for _, p := range s.patterns {
		all.add(Interface, p, where(0, len(s.names)-1, func(i int) bool { return ruleset.InterfaceMatches(p, s.names[i]) }))
	}
	for i, f := range []Field{Mark, ConnMark} {
		s.tests[i] = closed(s.tests[i], set[i])
		s.marks[i] = markValues(s.tests[i])
		for _, m := range s.tests[i] {
			all.add(f, m.String(), where(0, len(s.marks[i])-1, func(k int) bool { return s.marks[i][k]&m.Mask == m.Value }))
		}
	}
	const port, id = 1<<16 - 1, 1<<32 - 1
	first := [fieldCount]uint64{Protocol: 1, Flags: 1, Header: firstHeader, Length: 1}
	last := [fieldCount]uint64{
		Protocol: 255, ICMP: icmpExtendedEcho, Flags: 255, Older: 1, MPTCP: 1, UID: id, GID: id, Dst4: id, Src4: id,
		DstPort: port, SrcPort: port, Header: lastHeader, Length: port, Listening: transparentSocket,
	}
	last[Conntrack], last[Interface] = uint64(len(s.beliefs)-1), uint64(len(s.names)-1)
	last[Mark], last[ConnMark] = uint64(len(s.marks[0])-1), uint64(len(s.marks[1])-1)
	for f := range fieldCount {
		domain := fromTo(first[f], last[f])
		if f == Dst6 || f == Src6 {
			domain = ipv6()
		}
		s.axes[f] = cut(domain, all.of[f])
	}
	return s
}

// collect adds the test that a condition is.
func (s *space) collect(m ruleset.Match, family ruleset.Family, to *tests) {
	f, key := fieldOf(m, family)
	if f == noField || !to.isNew(f, key) {
		return
	}
	var spans []span
	believed := func(has func(belief) bool) {
		spans = where(0, len(s.beliefs)-1, func(i int) bool { return has(s.beliefs[i]) })
	}
	switch m := m.(type) {
	case ruleset.Proto:
		spans = where(1, 255, func(i int) bool { return slices.Contains(m, ruleset.Protocol(i)) })
	case ruleset.SrcPort:
		spans = numbers(ruleset.Ports(m).Merge())
	case ruleset.DstPort:
		spans = numbers(ruleset.Ports(m).Merge())
	case ruleset.Src:
		spans = addresses(ruleset.CIDRs(m).Of(family))
	case ruleset.Dst:
		spans = addresses(ruleset.CIDRs(m).Of(family))
	case ruleset.UID:
		spans = numbers(ruleset.IDs(m).Merge())
	case ruleset.GID:
		spans = numbers(ruleset.IDs(m).Merge())
	case ruleset.InInterface, ruleset.OutInterface:
		s.patterns = append(s.patterns, key)
		return
	case ruleset.MetaMark:
		s.tests[0] = append(s.tests[0], ruleset.Mark(m))
		return
	case ruleset.ConnMark:
		s.tests[1] = append(s.tests[1], ruleset.Mark(m))
		return
	case ruleset.CTState:
		believed(func(b belief) bool { return b.state&m != 0 })
	case ruleset.CTDNAT:
		believed(func(b belief) bool { return b.dnat })
	case ruleset.CTDirection:
		believed(func(b belief) bool { return b.state != ruleset.CTInvalid && b.reply == (m == ruleset.CTReply) })
	case ruleset.TCPFlags:
		spans = where(1, 255, func(i int) bool { return uint8(i)&m.Mask == m.Value })
	case ruleset.Length:
		spans = fromTo(uint64(m), uint64(m))
	case ruleset.TCPHeader:
		spans = fromTo(uint64(m), uint64(m))
	case ruleset.ICMPEcho:
		if spans = fromTo(icmpEcho, icmpEcho); m.Extended {
			spans = fromTo(icmpExtendedEcho, icmpExtendedEcho)
		}
	case ruleset.ICMPQuote:
		spans = fromTo(uint64(m.SrcPort), uint64(m.SrcPort))
	case ruleset.MPTCP, ruleset.Older:
		spans = fromTo(1, 1)
	case ruleset.SocketOpen:
		if spans = fromTo(openSocket, transparentSocket); m.Transparent {
			spans = fromTo(transparentSocket, transparentSocket)
		}
	case ruleset.HasSocket, ruleset.ToLocal, ruleset.IsFamily, ruleset.Not:
		// They have no field.
	}
	to.add(f, key, spans)
}

// beliefSet are the atoms of what conntrack can say that have a property.
func (s *space) beliefSet(has func(belief) bool) set {
	out := newSet(len(s.axes[Conntrack].atoms))
	for i, b := range s.beliefs {
		if has(b) {
			out.add(s.axes[Conntrack].atom(number(i)))
		}
	}
	return out
}

// fieldOf returns the field that a condition is about, and the text by which its axis knows it. Conditions that are of
// all packets of a sender and a family, or of none, have no field.
func fieldOf(m ruleset.Match, family ruleset.Family) (Field, string) {
	field := noField
	switch m := m.(type) {
	case ruleset.Proto:
		field = Protocol
	case ruleset.SrcPort:
		field = SrcPort
	case ruleset.DstPort:
		field = DstPort
	case ruleset.Src:
		field = ofFamily(family, Src4, Src6)
	case ruleset.Dst:
		field = ofFamily(family, Dst4, Dst6)
	case ruleset.UID:
		field = UID
	case ruleset.GID:
		field = GID
	case ruleset.InInterface:
		return Interface, string(m)
	case ruleset.OutInterface:
		return Interface, string(m)
	case ruleset.MetaMark:
		return Mark, ruleset.Mark(m).String()
	case ruleset.ConnMark:
		return ConnMark, ruleset.Mark(m).String()
	case ruleset.CTState, ruleset.CTDNAT, ruleset.CTDirection:
		field = Conntrack
	case ruleset.TCPFlags:
		field = Flags
	case ruleset.Length:
		field = Length
	case ruleset.TCPHeader:
		field = Header
	case ruleset.ICMPEcho, ruleset.ICMPQuote:
		field = ICMP
	case ruleset.MPTCP:
		field = MPTCP
	case ruleset.Older:
		field = Older
	case ruleset.SocketOpen:
		field = Listening
	case ruleset.HasSocket, ruleset.ToLocal, ruleset.IsFamily, ruleset.Not:
		return noField, ""
	}
	return field, m.String()
}

func ofFamily[T any](f ruleset.Family, four, six T) T {
	if f == ruleset.IPv4 {
		return four
	}
	return six
}

func numbers[R ~struct{ First, Last N }, N uint16 | uint32](list []R) []span {
	out := make([]span, len(list))
	for i, r := range list {
		ends := struct{ First, Last N }(r)
		out[i] = span{number(ends.First), number(ends.Last)}
	}
	return out
}

func addresses(list ruleset.CIDRs) []span {
	merged := list.Merge()
	out := make([]span, len(merged))
	for i, r := range merged {
		out[i] = span{addrValue(r.First), addrValue(r.Last)}
	}
	return out
}

// interfaceNames returns names of which each matches other patterns, the usual one first: one that no pattern knows,
// if there can be.
func interfaceNames(patterns []string) []string {
	var names []string
	known := map[string]bool{}
	add := func(name string) bool {
		signature := make([]byte, len(patterns))
		for i, p := range patterns {
			if ruleset.InterfaceMatches(p, name) {
				signature[i] = 1
			}
		}
		if known[string(signature)] {
			return false
		}
		known[string(signature)] = true
		names = append(names, name)
		return true
	}
	free := func(stem string) {
		// A name that begins so, and that no pattern has by itself. There are more digits than such patterns.
		for i := range len(patterns) + 1 {
			name := stem + string(rune('0'+i%10)) + strings.Repeat("x", i/10)
			if !slices.Contains(patterns, name) && !slices.ContainsFunc(patterns, func(p string) bool {
				return strings.HasSuffix(p, "*") && len(p)-1 > len(stem) && ruleset.InterfaceMatches(p, name)
			}) {
				add(name)
				return
			}
		}
	}
	free("eth")
	for _, p := range patterns {
		if stem, glob := strings.CutSuffix(p, "*"); glob {
			free(stem)
		} else {
			add(p)
		}
	}
	// Names that no pattern knows, should one know all that begin with eth.
	for c := 'a'; c <= 'z'; c++ {
		if !slices.ContainsFunc(patterns, func(p string) bool { return strings.HasPrefix(p, string(c)) }) {
			add(string(c) + "0")
			break
		}
	}
	return names
}

// closed returns the conditions on a mark that decide about it now, and those that do once marks have been set: of a
// condition what remains are the bits that no rule has set.
func closed(tests, sets []ruleset.Mark) []ruleset.Mark {
	var all []ruleset.Mark
	for len(tests) > 0 {
		t := tests[0]
		tests = tests[1:]
		if slices.Contains(all, t) {
			continue
		}
		all = append(all, t)
		for _, s := range sets {
			if rest := t.Mask &^ s.Mask; rest != t.Mask && rest != 0 {
				tests = append(tests, ruleset.Mark{Value: t.Value & rest, Mask: rest})
			}
		}
	}
	return all
}

// mostMarks is how many conditions on one mark can be told apart.
const mostMarks = 10

// markValues returns marks of which each satisfies other conditions: one for each combination that there can be, and 0
// before all.
func markValues(tests []ruleset.Mark) []uint32 {
	if len(tests) > mostMarks {
		panic(&TooManyError{})
	}
	values := []uint32{0}
	var choose func(i int, fixed ruleset.Mark, not []ruleset.Mark)
	choose = func(i int, fixed ruleset.Mark, not []ruleset.Mark) {
		if i == len(tests) {
			same := func(v uint32) func(uint32) bool {
				return func(w uint32) bool {
					return !slices.ContainsFunc(tests, func(t ruleset.Mark) bool {
						return (v&t.Mask == t.Value) != (w&t.Mask == t.Value)
					})
				}
			}
			if v, is := differing(fixed, not); is && !slices.ContainsFunc(values, same(v)) {
				values = append(values, v)
			}
			return
		}
		t := tests[i]
		if both := t.Mask & fixed.Mask; t.Value&both == fixed.Value&both {
			choose(i+1, ruleset.Mark{Value: fixed.Value | t.Value, Mask: fixed.Mask | t.Mask}, not)
		}
		choose(i+1, fixed, append(slices.Clip(not), t))
	}
	choose(0, ruleset.Mark{}, nil)
	return values
}

// differing returns a mark that has the bits that are fixed and satisfies none of the conditions.
func differing(fixed ruleset.Mark, not []ruleset.Mark) (uint32, bool) {
	i := slices.IndexFunc(not, func(t ruleset.Mark) bool { return fixed.Value&t.Mask == t.Value })
	if i < 0 {
		return fixed.Value, true
	}
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if not[i].Mask&^fixed.Mask&bit != 0 {
			if v, is := differing(ruleset.Mark{Value: fixed.Value ^ bit, Mask: fixed.Mask | bit}, not); is {
				return v, true
			}
		}
	}
	return 0, false
}
