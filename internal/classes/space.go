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

func upTo(last uint64) []span          { return fromTo(0, last) }
func fromTo(first, last uint64) []span { return []span{{value{lo: first}, value{lo: last}}} }

// ipv6 is all of it but the addresses that are IPv4 written as IPv6: the kernel sends those as IPv4.
func ipv6() []span {
	mapped := netip.MustParsePrefix("::ffff:0:0/96")
	first := addrValue(mapped.Addr())
	after := value{first.hi, first.lo + 1<<32}
	return []span{{value{}, first.previous()}, {after, value{^uint64(0), ^uint64(0)}}}
}

// newSpace cuts the fields by the conditions of the rules, and by more.
func newSpace(rules []familyRules, more []ruleset.Match) *space {
	s := &space{diagram: *newDiagram(), beliefs: beliefs()}
	var tests [fieldCount][]test
	known := [fieldCount]map[string]bool{}
	add := func(f Field, key string, spans func() []span) {
		if known[f] == nil {
			known[f] = map[string]bool{}
		}
		if !known[f][key] {
			known[f][key] = true
			tests[f] = append(tests[f], test{key, spans()})
		}
	}
	for _, m := range append([]ruleset.Match{
		ruleset.Dst(manyHosts()), ruleset.Dst(noHost()), ruleset.Dst(loopback()), ruleset.Opens(),
		ruleset.Proto{ruleset.TCP}, ruleset.OutInterface(ruleset.Loopback),
	}, more...) {
		s.collect(m, ruleset.IPv4, add)
		s.collect(m, ruleset.IPv6, add)
	}
	var setMarks [2][]ruleset.Mark
	for _, r := range rules {
		for _, c := range r.chains {
			for _, rule := range c.Rules {
				for _, m := range rule.Match {
					if n, is := m.(ruleset.Not); is {
						m = n.Match
					}
					s.collect(m, r.family, add)
				}
				switch t := rule.Target.(type) {
				case ruleset.SetMark:
					setMarks[0] = append(setMarks[0], ruleset.Mark(t))
				case ruleset.SetConnMark:
					setMarks[1] = append(setMarks[1], ruleset.Mark(t))
				case ruleset.Accept, ruleset.Return, ruleset.Drop, ruleset.Reject, ruleset.Jump, ruleset.Goto,
					ruleset.Redirect, ruleset.DNAT, ruleset.Keep, ruleset.TProxy, ruleset.CTZone:
				}
			}
		}
	}
	for i := range s.beliefs { // they are few, and not all of what asks for them is a condition of a rule
		add(Conntrack, s.beliefs[i].String(), func() []span { return fromTo(uint64(i), uint64(i)) })
	}
	s.names = interfaceNames(s.patterns)
	for _, p := range s.patterns {
		add(Interface, p, func() []span {
			return where(0, len(s.names)-1, func(i int) bool { return ruleset.InterfaceMatches(p, s.names[i]) })
		})
	}
	for i, f := range []Field{Mark, ConnMark} {
		s.tests[i] = closed(s.tests[i], setMarks[i])
		s.marks[i] = markValues(s.tests[i])
		for _, m := range s.tests[i] {
			add(f, m.String(), func() []span {
				return where(0, len(s.marks[i])-1, func(k int) bool { return s.marks[i][k]&m.Mask == m.Value })
			})
		}
	}
	for f, domain := range [fieldCount][]span{
		Protocol: fromTo(1, 255), ICMP: upTo(icmpExtendedEcho), Conntrack: upTo(uint64(len(s.beliefs) - 1)),
		Flags: fromTo(1, 255), Older: upTo(1), MPTCP: upTo(1), Interface: upTo(uint64(len(s.names) - 1)),
		UID: upTo(1<<32 - 1), GID: upTo(1<<32 - 1), Mark: upTo(uint64(len(s.marks[0]) - 1)),
		ConnMark: upTo(uint64(len(s.marks[1]) - 1)), Dst4: upTo(1<<32 - 1), Src4: upTo(1<<32 - 1), Dst6: ipv6(), Src6: ipv6(),
		DstPort: upTo(1<<16 - 1), SrcPort: upTo(1<<16 - 1), Header: fromTo(firstHeader, lastHeader),
		Length: fromTo(1, 1<<16-1), Listening: upTo(1),
	} {
		s.axes[f] = cut(domain, tests[f])
	}
	return s
}

// collect adds the test that a condition is.
func (s *space) collect(m ruleset.Match, family ruleset.Family, add func(Field, string, func() []span)) {
	f, key := fieldOf(m, family)
	switch m := m.(type) {
	case ruleset.Proto:
		add(f, key, func() []span {
			return where(1, 255, func(i int) bool { return slices.Contains(m, ruleset.Protocol(i)) })
		})
	case ruleset.SrcPort:
		add(f, key, func() []span { return numbers(ruleset.Ports(m).Merge()) })
	case ruleset.DstPort:
		add(f, key, func() []span { return numbers(ruleset.Ports(m).Merge()) })
	case ruleset.Src:
		add(f, key, func() []span { return addresses(ruleset.CIDRs(m).Of(family)) })
	case ruleset.Dst:
		add(f, key, func() []span { return addresses(ruleset.CIDRs(m).Of(family)) })
	case ruleset.UID:
		add(f, key, func() []span { return numbers(ruleset.IDs(m).Merge()) })
	case ruleset.GID:
		add(f, key, func() []span { return numbers(ruleset.IDs(m).Merge()) })
	case ruleset.InInterface:
		s.pattern(string(m))
	case ruleset.OutInterface:
		s.pattern(string(m))
	case ruleset.MetaMark:
		s.tests[0] = append(s.tests[0], ruleset.Mark(m))
	case ruleset.ConnMark:
		s.tests[1] = append(s.tests[1], ruleset.Mark(m))
	case ruleset.CTState:
		add(f, key, s.believed(func(b belief) bool { return b.state&m != 0 }))
	case ruleset.CTDNAT:
		add(f, key, s.believed(func(b belief) bool { return b.dnat && b.state != ruleset.CTInvalid }))
	case ruleset.CTDirection:
		add(f, key, s.believed(func(b belief) bool {
			return b.state != ruleset.CTInvalid && b.reply == (m == ruleset.CTReply)
		}))
	case ruleset.TCPFlags:
		add(f, key, func() []span { return where(1, 255, func(i int) bool { return uint8(i)&m.Mask == m.Value }) })
	case ruleset.Length:
		add(f, key, func() []span { return fromTo(uint64(m), uint64(m)) })
	case ruleset.TCPHeader:
		add(f, key, func() []span { return fromTo(uint64(m), uint64(m)) })
	case ruleset.ICMPEcho:
		kind := uint64(icmpEcho)
		if m.Extended {
			kind = icmpExtendedEcho
		}
		add(f, key, func() []span { return fromTo(kind, kind) })
	case ruleset.ICMPQuote:
		add(f, key, func() []span { return fromTo(uint64(m.SrcPort), uint64(m.SrcPort)) })
	case ruleset.MPTCP, ruleset.Older, ruleset.SocketOpen:
		add(f, key, func() []span { return fromTo(1, 1) })
	case ruleset.HasSocket, ruleset.ToLocal, ruleset.IsFamily, ruleset.Not:
		// They are of all packets of a sender and a family, or of none.
	}
}

func (s *space) pattern(p string) {
	if !slices.Contains(s.patterns, p) {
		s.patterns = append(s.patterns, p)
	}
}

func (s *space) believed(has func(belief) bool) func() []span {
	return func() []span { return where(0, len(s.beliefs)-1, func(i int) bool { return has(s.beliefs[i]) }) }
}

// beliefSet are the atoms of what conntrack can say that have a property. It has to be one of the axis.
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
	switch m := m.(type) {
	case ruleset.Proto:
		return Protocol, m.String()
	case ruleset.SrcPort:
		return SrcPort, m.String()
	case ruleset.DstPort:
		return DstPort, m.String()
	case ruleset.Src:
		return ofFamily(family, Src4, Src6), m.String()
	case ruleset.Dst:
		return ofFamily(family, Dst4, Dst6), m.String()
	case ruleset.UID:
		return UID, m.String()
	case ruleset.GID:
		return GID, m.String()
	case ruleset.InInterface:
		return Interface, string(m)
	case ruleset.OutInterface:
		return Interface, string(m)
	case ruleset.MetaMark:
		return Mark, ruleset.Mark(m).String()
	case ruleset.ConnMark:
		return ConnMark, ruleset.Mark(m).String()
	case ruleset.CTState, ruleset.CTDNAT, ruleset.CTDirection:
		return Conntrack, m.String()
	case ruleset.TCPFlags:
		return Flags, m.String()
	case ruleset.Length:
		return Length, m.String()
	case ruleset.TCPHeader:
		return Header, m.String()
	case ruleset.ICMPEcho, ruleset.ICMPQuote:
		return ICMP, m.String()
	case ruleset.MPTCP:
		return MPTCP, m.String()
	case ruleset.Older:
		return Older, m.String()
	case ruleset.SocketOpen:
		return Listening, m.String()
	case ruleset.HasSocket, ruleset.ToLocal, ruleset.IsFamily, ruleset.Not:
	}
	return noField, ""
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
