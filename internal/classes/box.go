package classes

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A Box is packets that have, in each field, one of some values: all combinations of them.
type Box struct {
	space *space
	// families and senders have a bit for each.
	families, senders uint8
	in                cell
	// base is what is said of the packets elsewhere, and not among their conditions.
	base cell
}

func familyBit(f ruleset.Family) uint8 { return ofFamily[uint8](f, 1, 2) }

// family is one that the packets have.
func (b Box) family() ruleset.Family {
	if b.families&1 != 0 {
		return ruleset.IPv4
	}
	return ruleset.IPv6
}

func (b Box) isFrom(s Sender) bool { return b.senders&(1<<s) != 0 }

// inPod reports whether the pod sends some of the packets.
func (b Box) inPod() bool { return b.isFrom(Process) || b.isFrom(Kernel) }

// mostBoxes is how many boxes one group of packets is described by. What is beyond is counted nowhere, but said.
const mostBoxes = 256

// root is where the diagram of one kind of packets begins.
type root struct {
	family ruleset.Family
	sender Sender
	lo     bool
	ref    ref
}

// start is the box of all packets of a kind.
func (s *space) start(r root) Box {
	a := &s.axes[Interface]
	by := a.on[ruleset.Loopback]
	if !r.lo {
		by = a.all().without(by)
	}
	return Box{space: s, families: familyBit(r.family), senders: 1 << r.sender, in: cell(nil).but(Interface, by)}
}

// within returns the box of the packets that are in the cell, too; false if there are none.
func (b Box) within(c cell) (Box, bool) {
	b.in = b.in.with(c)
	for _, in := range b.in {
		if in != nil && in.empty() {
			return b, false
		}
	}
	return b, true
}

// boxes calls f for each end of a diagram, in boxes that have no packet in common, until f is false.
func (s *space) boxes(r ref, b Box, f func(end any, b Box) bool) bool {
	if r < 0 {
		return f(s.at(r), b)
	}
	n := s.nodes[r]
	done := newSet(len(n.kids))
	for i, k := range n.kids {
		if done.has(i) {
			continue
		}
		same := newSet(len(n.kids))
		for j := i; j < len(n.kids); j++ {
			if n.kids[j] == k {
				same.add(j)
				done.add(j)
			}
		}
		if was := b.in[n.field]; was != nil {
			same = same.and(was)
		}
		if same.empty() {
			continue
		}
		part := b
		part.in = b.in.but(n.field, same)
		if !s.boxes(k, part, f) {
			return false
		}
	}
	return true
}

// merged returns the same packets in fewer boxes.
func merged(all []Box) []Box {
	for again := true; again; {
		again = false
		for i := 0; i < len(all); i++ {
			for j := i + 1; j < len(all); j++ {
				if b, ok := all[i].join(all[j]); ok {
					all[i] = b
					all = slices.Delete(all, j, j+1)
					again = true
					j = i
				}
			}
		}
	}
	return all
}

// join returns the packets of both boxes as one, if they are one.
func (b Box) join(c Box) (Box, bool) {
	var differ []Field
	for f := range fieldCount {
		if !b.same(c, f) {
			differ = append(differ, f)
		}
	}
	families, senders := b.families == c.families, b.senders == c.senders
	switch {
	case !families && senders:
		// The addresses of one family say nothing of packets of another.
		if b.families&c.families != 0 || slices.ContainsFunc(differ, func(f Field) bool { return !f.isAddress() }) {
			return b, false
		}
		for _, f := range differ {
			if b.in[f] == nil {
				b.in = b.in.but(f, c.in[f])
			}
		}
		b.families |= c.families
		return b, true
	case families && !senders && len(differ) == 0:
		b.senders |= c.senders
		return b, true
	case families && senders && len(differ) == 1:
		f := differ[0]
		b.in = b.in.but(f, b.all(f).or(c.all(f)))
		return b, true
	}
	return b, families && senders && len(differ) == 0
}

func (f Field) isAddress() bool { return f == Dst4 || f == Dst6 || f == Src4 || f == Src6 }

func (b Box) all(f Field) set {
	if b.in[f] == nil {
		return b.space.axes[f].all()
	}
	return b.in[f]
}

func (b Box) same(c Box, f Field) bool {
	if b.in[f] == nil && c.in[f] == nil {
		return true
	}
	return slices.Equal(b.all(f), c.all(f))
}

// A Condition is what one field has to be: one of In, or none of NotIn.
type Condition struct {
	Field string   `json:"field"`
	In    []string `json:"in,omitempty"`
	NotIn []string `json:"notIn,omitempty"`
}

// String returns "port 80,443" or "port not 80,443".
func (c Condition) String() string {
	if words, is := switches()[c.Field]; is && len(c.In) == 1 && (c.In[0] == "yes" || c.In[0] == "no") {
		return words[c.In[0] == "no"]
	}
	if len(c.NotIn) > 0 {
		return c.Field + " not " + strings.Join(c.NotIn, ",")
	}
	return c.Field + " " + strings.Join(c.In, ",")
}

// switches are the fields that are yes or no, and what to say if they are (false) and if they are not (true).
func switches() map[string]map[bool]string {
	return map[string]map[bool]string{
		"older than the rules":    {false: "older than the rules", true: "not older than the rules"},
		"option of Multipath TCP": {false: "with an option of Multipath TCP", true: "without an option of Multipath TCP"},
		"open socket":             {false: "with an open socket", true: "without an open socket"},
	}
}

// String returns the conditions in words.
func (b Box) String() string { return words(b.Conditions()) }

// Beginning returns the conditions in words, of packets that are known to begin a flow.
func (b Box) Beginning() string { return words(b.Conditions(Beginning()...)) }

// Beginning are the fields that are the same for all that begins a flow: see [Change.First].
func Beginning() []Field { return []Field{Conntrack, Flags, Older} }

func words(conditions []Condition) string {
	var all []string
	for _, c := range conditions {
		all = append(all, c.String())
	}
	if len(all) == 0 {
		return "all"
	}
	return strings.Join(all, "; ")
}

// Conditions are what the packets of the box have in common, without what all packets have, and without some fields.
func (b Box) Conditions(without ...Field) []Condition {
	var all []Condition
	if b.base == nil && b.families != 3 {
		all = append(all, Condition{Field: "family", In: []string{b.family().String()}})
	}
	if b.base == nil && b.senders != 1<<senderCount-1 {
		c := Condition{Field: "from"}
		for s := range senderCount {
			if b.isFrom(s) {
				c.In = append(c.In, s.String())
			}
		}
		all = append(all, c)
	}
	for f := range fieldCount {
		if slices.Contains(without, f) {
			continue
		}
		var yes, no []string
		for _, f := range f.both() {
			if b.in[f] == nil {
				continue
			}
			in, domain := b.in[f], b.domain(f)
			if in = in.and(domain); !slices.Equal(in, domain) {
				yes, no = append(yes, b.space.texts(f, in)...), append(no, b.space.texts(f, domain.without(in))...)
			} else if f.isAddress() && b.families == 3 {
				yes = append(yes, "any "+ofFamily(f.family(), ruleset.IPv4, ruleset.IPv6).String())
			}
		}
		c := Condition{Field: f.String(), In: yes}
		switch {
		case len(no) == 0:
			continue
		case slices.Contains(no, others):
		case len(no) < len(yes) || slices.Contains(yes, others):
			c.In, c.NotIn = nil, no
		}
		all = append(all, c)
	}
	return all
}

// both are the fields that conditions on f are shown with: addresses of IPv4 and IPv6 are one field to people.
func (f Field) both() []Field {
	switch f {
	case Dst4, Src4:
		return []Field{f, f + 1}
	case Dst6, Src6:
		return nil
	default:
		return []Field{f}
	}
}

func (f Field) family() ruleset.Family {
	if f == Dst6 || f == Src6 {
		return ruleset.IPv6
	}
	return ruleset.IPv4
}

// domain is what the packets of the box can have in a field, as far as other fields say.
func (b Box) domain(f Field) set {
	a := &b.space.axes[f]
	all := a.all()
	switch f {
	case Interface:
		if !b.inPod() { // what arrives by lo has been sent in the pod
			all = all.without(a.on[ruleset.Loopback])
		}
	case Dst4, Dst6:
		family := f.family()
		on := func(l ruleset.CIDRs) set {
			_, key := fieldOf(ruleset.Dst(l), family)
			return a.on[key]
		}
		if !b.isFrom(Forwarded) {
			all = all.without(on(noHost()))
			tcp := b.space.axes[Protocol].on[ruleset.Proto{ruleset.TCP}.String()]
			if only := slices.Equal(b.all(Protocol), tcp); only || !b.inPod() {
				all = all.without(on(manyHosts()))
			}
		}
	default:
	}
	if base := b.base.of(f); base != nil {
		all = all.and(base)
	}
	return all
}

func (s Sender) inPod() bool { return s == Process || s == Kernel }

// String says who sends.
func (s Sender) String() string {
	switch s {
	case Process:
		return "a process of the pod"
	case Kernel:
		return "the pod's kernel"
	case Arriving:
		return "outside"
	case Forwarded:
		return "outside, to another's address"
	case senderCount:
	}
	return fmt.Sprintf("sender(%d)", uint8(s))
}

// String names the field as conditions do.
func (f Field) String() string {
	switch f {
	case Protocol:
		return "protocol"
	case ICMP:
		return "ICMP"
	case Conntrack:
		return "conntrack"
	case Flags:
		return "TCP flags"
	case Older:
		return "older than the rules"
	case MPTCP:
		return "option of Multipath TCP"
	case Interface:
		return "interface"
	case UID:
		return "UID"
	case GID:
		return "GID"
	case Mark:
		return "mark"
	case ConnMark:
		return "connection mark"
	case Dst4, Dst6:
		return "destination"
	case DstPort:
		return "port"
	case Src4, Src6:
		return "source"
	case SrcPort:
		return "source port"
	case Header:
		return "words of the TCP header"
	case Length:
		return "length"
	case Listening:
		return "open socket"
	case fieldCount:
	}
	return fmt.Sprintf("field(%d)", uint8(f))
}

// texts says atoms of a field in words: ranges of numbers and addresses, and names of what has some.
func (s *space) texts(f Field, in set) (all []string) {
	a := &s.axes[f]
	switch f {
	case Dst4, Dst6, Src4, Src6:
		for _, r := range a.spans(in) {
			ends := ruleset.AddrRange{First: r.first.addr(f.family()), Last: r.last.addr(f.family())}
			all = append(all, ends.String())
		}
	case DstPort, SrcPort, UID, GID, Header, Length:
		for _, r := range a.spans(in) {
			all = append(all, numberText(r))
		}
	case Protocol:
		for _, r := range a.spans(in) {
			if r.last.lo-r.first.lo > 2 {
				all = append(all, numberText(r))
				continue
			}
			for v := r.first.lo; v <= r.last.lo; v++ {
				all = append(all, ruleset.Protocol(v).String())
			}
		}
	default:
		for i, spans := range a.atoms {
			if in.has(i) {
				all = append(all, s.name(f, spans[0].first.lo))
			}
		}
	}
	return all
}

func numberText(r span) string {
	text := strconv.FormatUint(r.first.lo, 10)
	if r.first != r.last {
		text += "-" + strconv.FormatUint(r.last.lo, 10)
	}
	return text
}

// name is that of an atom by its first value.
func (s *space) name(f Field, first uint64) string {
	switch f {
	case Interface:
		return s.interfaceText(s.names[first])
	case Mark, ConnMark:
		return s.markText(f, s.marks[f-Mark][first])
	case Conntrack:
		return s.beliefs[first].String()
	case Flags:
		if first != uint64(ruleset.FIN) { // which no rule asks for by itself
			return FlagsText(uint8(first))
		}
	case ICMP:
		switch first {
		case icmpEcho:
			return "echo request"
		case icmpExtendedEcho:
			return "extended echo request"
		case icmpOther:
		default:
			return "error about UDP from port " + strconv.FormatUint(first, 10)
		}
	default:
		return []string{"no", "yes", "a transparent one"}[first]
	}
	return others
}

// others is the name of what no condition speaks of.
const others = "others"

// interfaceText says which interfaces a name stands for: itself, if a rule names it; those of a pattern, but for those
// that others say more of; or all others.
func (s *space) interfaceText(name string) string {
	if slices.Contains(s.patterns, name) {
		return name
	}
	best := ""
	for _, p := range s.patterns {
		if len(p) > len(best) && ruleset.InterfaceMatches(p, name) {
			best = p
		}
	}
	if best == "" {
		return others
	}
	for _, p := range s.patterns {
		if p != best && ruleset.InterfaceMatches(best, strings.TrimSuffix(p, "*")) {
			return others + " of " + best
		}
	}
	return best
}

// markText says which marks one stands for.
func (s *space) markText(f Field, v uint32) string {
	var all []string
	for _, t := range s.tests[f-Mark] {
		if v&t.Mask == t.Value {
			all = append(all, t.String())
		}
	}
	if len(all) == 0 {
		return others
	}
	return strings.Join(all, " and ")
}

// FlagsText names flags of TCP: "SYN+ACK".
func FlagsText(flags uint8) string {
	var all []string
	for _, f := range []struct {
		bit  uint8
		name string
	}{{ruleset.FIN, "FIN"}, {ruleset.SYN, "SYN"}, {ruleset.RST, "RST"}, {ruleset.PSH, "PSH"}, {ruleset.ACK, "ACK"},
		{ruleset.URG, "URG"}} {
		if flags&f.bit != 0 {
			all = append(all, f.name)
		}
	}
	return strings.Join(all, "+")
}

// String says what conntrack knows: "new", "established+translated".
func (b belief) String() string {
	text := "new"
	switch {
	case b.state == ruleset.CTInvalid:
		return "invalid"
	case b.state == ruleset.CTRelated && b.reply:
		text = "related-answer"
	case b.state == ruleset.CTRelated && b.known:
		text = "related-known"
	case b.state == ruleset.CTRelated:
		text = "related"
	case b.reply:
		text = "answer"
	case b.state == ruleset.CTEstablished:
		text = "established"
	case b.known:
		text = "unanswered"
	}
	if b.dnat {
		text += "+translated"
	}
	return text
}

// Example is a packet that stands for its class. If Older, it is of a connection that is older than the rules
// ([ruleset.Ruleset.Older]).
type Example struct {
	Packet ruleset.Packet
	Older  bool
	// Conntrack says what conntrack knows of it: "new", "invalid".
	Conntrack string
}

// Example returns a packet of the box, as usual a one as can be.
func (b Box) Example() Example {
	pick := func(f Field, usual ...value) value {
		a := &b.space.axes[f]
		in := b.all(f).and(b.domain(f))
		for _, v := range usual {
			if i := a.atom(v); i >= 0 && in.has(i) {
				return v
			}
		}
		r := a.spans(in)[0]
		if f.isAddress() && r.first != r.last { // the first of a network is its own
			return r.first.next()
		}
		return r.first
	}
	num := func(f Field, usual ...uint64) uint64 {
		values := make([]value, len(usual))
		for i, u := range usual {
			values[i] = value{lo: u}
		}
		return pick(f, values...).lo
	}
	family, sender := b.family(), Sender(bits.TrailingZeros8(b.senders))
	addr := func(f Field, usual ...string) netip.Addr {
		var values []value
		for _, u := range usual {
			if a := netip.MustParseAddr(u); ruleset.FamilyOf(a) == family {
				values = append(values, addrValue(a))
			}
		}
		return pick(f, values...).addr(family)
	}
	icmp := ofFamily(family, ruleset.ICMP, ruleset.ICMPv6)
	p := ruleset.Packet{Protocol: ruleset.Protocol(num(Protocol, uint64(ruleset.TCP), uint64(ruleset.UDP), uint64(icmp)))}
	p.Interface = b.space.names[num(Interface, 0)]
	inside := sender.inPod() && p.Interface == ruleset.Loopback
	src, dst := ofFamily(family, Src4, Src6), ofFamily(family, Dst4, Dst6)
	const pod4, pod6 = "10.244.0.5", "fd00:244::5"
	const far4, far6 = "192.0.2.1", "2001:db8::1"
	var from, to netip.Addr
	switch {
	case inside:
		from, to = addr(src, pod4, pod6, "127.0.0.1", "::1"), addr(dst, pod4, pod6, "127.0.0.1", "::1")
	case sender == Arriving:
		from, to = addr(src, far4, far6, "198.51.100.1", "2001:db8:1::1"), addr(dst, pod4, pod6)
	case sender == Forwarded:
		from, to = addr(src, "10.244.0.6", "fd00:244::6"), addr(dst, far4, far6)
	default:
		from, to = addr(src, pod4, pod6), addr(dst, far4, far6, "198.51.100.1", "2001:db8:1::1")
	}
	fromPort, toPort := uint16(0), uint16(0)
	if p.Protocol == ruleset.TCP || p.Protocol == ruleset.UDP {
		fromPort = uint16(num(SrcPort, 40000))
		toPort = uint16(num(DstPort, 80, 443, 8080, 53))
	}
	p.Src, p.Dst = netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort)
	switch sender {
	case Process:
		p.Hook, p.Owner = ruleset.Output, &ruleset.Owner{UID: uint32(num(UID, 1000)), GID: uint32(num(GID, 1000))}
	case Kernel:
		p.Hook = ruleset.Output
	case Arriving, Forwarded, senderCount:
		p.Hook, p.Foreign = ruleset.Prerouting, sender == Forwarded
	}
	belief := b.space.beliefs[num(Conntrack, 0)]
	p.State, p.Known, p.Reply, p.DNAT = belief.state, belief.known, belief.reply, belief.dnat
	p.Mark = b.space.marks[0][num(Mark, 0)]
	p.ConnMark = b.space.marks[1][num(ConnMark, 0)]
	socket := num(Listening, openSocket)
	p.Listening, p.Transparent = socket >= openSocket, socket == transparentSocket
	older := false
	switch p.Protocol {
	case ruleset.TCP:
		p.Flags = uint8(num(Flags, uint64(ruleset.SYN), uint64(ruleset.ACK)))
		p.TCPHeader = uint8(num(Header, firstHeader))
		p.MPTCP = num(MPTCP, 0) == 1
		p.Length = uint16(num(Length, ofFamily[uint64](family, 40, 60)))
		older = num(Older, 0) == 1
	case ruleset.ICMP, ruleset.ICMPv6:
		switch kind := num(ICMP, icmpEcho); kind {
		case icmpEcho:
			p.Echo = true
		case icmpExtendedEcho:
			p.ExtendedEcho = true
		default:
			p.Quotes = uint16(kind)
		}
	default:
	}
	return Example{p, older, belief.String()}
}

// atomsOf returns the atom of each field of a packet, which has all of them. false: there can be no such packet.
func (s *space) atomsOf(e Example) (atoms [fieldCount]int, ok bool) {
	p := e.Packet
	yes := func(is bool) value {
		if is {
			return value{lo: 1}
		}
		return value{}
	}
	belief := slices.IndexFunc(s.beliefs, func(b belief) bool {
		known := p.Known || b.state == ruleset.CTEstablished
		return b.state == p.State && b.known == known && b.reply == p.Reply && b.dnat == p.DNAT
	})
	if belief < 0 {
		return atoms, false
	}
	four, six := value{}, value{}
	from4, from6 := value{}, value{}
	if p.Dst.Addr().Is4() {
		four, from4 = addrValue(p.Dst.Addr()), addrValue(p.Src.Addr())
	} else {
		six, from6 = addrValue(p.Dst.Addr()), addrValue(p.Src.Addr())
	}
	icmp := number(p.Quotes)
	if p.Echo {
		icmp = value{lo: icmpEcho}
	} else if p.ExtendedEcho {
		icmp = value{lo: icmpExtendedEcho}
	}
	owner := ruleset.Owner{}
	if p.Owner != nil {
		owner = *p.Owner
	}
	socket := yes(p.Listening)
	if p.Transparent {
		socket = number(uint8(transparentSocket))
	}
	for f, v := range [fieldCount]value{
		Protocol: number(uint8(p.Protocol)), ICMP: icmp, Conntrack: number(belief), Flags: number(p.Flags),
		Older: yes(e.Older), MPTCP: yes(p.MPTCP), UID: number(owner.UID), GID: number(owner.GID),
		Dst4: four, Dst6: six, Src4: from4, Src6: from6, DstPort: number(p.Dst.Port()), SrcPort: number(p.Src.Port()),
		Header: number(p.TCPHeader), Length: number(p.Length), Listening: socket,
	} {
		switch Field(f) {
		case Interface:
			name := slices.IndexFunc(s.names, func(name string) bool {
				return !slices.ContainsFunc(s.patterns, func(pattern string) bool {
					return ruleset.InterfaceMatches(pattern, name) != ruleset.InterfaceMatches(pattern, p.Interface)
				})
			})
			atoms[f] = s.axes[f].atom(number(name))
		case Mark:
			atoms[f] = s.markAtom(Mark, p.Mark)
		case ConnMark:
			atoms[f] = s.markAtom(ConnMark, p.ConnMark)
		default:
			atoms[f] = s.axes[f].atom(v)
		}
		if atoms[f] < 0 {
			return atoms, false
		}
	}
	return atoms, true
}
