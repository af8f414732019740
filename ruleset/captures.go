package ruleset

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// Captured returns a packet that opens a connection, or is the first datagram of a flow, and that the rules send to the
// proxy: one that arrives, or one of a process whose user and group are not among the proxy's. It is false if there is
// none, whatever the addresses, ports, interfaces and owners. A Ruleset whose lists overlap in too many ways to try
// them all is taken to capture something, and the packet is then none.
func (rs Ruleset) Captured(proxyUIDs, proxyGIDs IDs) (Packet, bool) {
	s := search{rs: rs, left: searchLimit}
	// Mostly one of two packets will do, or one of a few, and long lists need not be looked at value by value.
	for _, all := range []func() flows{usual, ordinary, s.classes} {
		f := all().sorted()
		f.uids = slices.DeleteFunc(f.uids, proxyUIDs.Contains)
		f.gids = slices.DeleteFunc(f.gids, proxyGIDs.Contains)
		if s.among(f) {
			return s.found, true
		}
	}
	return Packet{}, s.left <= 0
}

// among reports whether any of the flows are captured, as what arrives or as what a process sends.
func (s *search) among(all flows) bool {
	lo, others := divide(all.interfaces, func(name string) bool { return name == Loopback })
	src, _ := divide(all.src, sends)
	for _, family := range s.rs.Families {
		of := func(a netip.Addr) bool { return FamilyOf(a) == family }
		f := all
		f.src, _ = divide(src, of)
		f.dst, _ = divide(all.dst, of)
		_, far := divide(f.dst, netip.Addr.IsLoopback)
		for _, p := range []Protocol{TCP, UDP} {
			f.packet = Packet{Hook: Prerouting, Protocol: p, State: CTNew, Flags: SYN}
			arriving := f
			arriving.dst, arriving.interfaces = far, others
			foreign := arriving
			_, arriving.dst = divide(far, isGroup)
			foreign.packet.Foreign = true
			f.packet.Hook, f.packet.Owner = Output, &Owner{}
			inside, outside := f, f
			inside.interfaces = lo
			outside.dst, outside.interfaces = far, others
			if p == TCP {
				_, inside.dst = divide(inside.dst, isGroup)
				_, outside.dst = divide(outside.dst, isGroup)
			}
			if slices.ContainsFunc([]flows{arriving, foreign, outside, inside}, s.hook) {
				return true
			}
		}
	}
	return false
}

// searchLimit is how many values Captured looks at: some tens of milliseconds.
const searchLimit = 1_000_000

// sends reports whether packets can come from outside, or from a process, with the source address.
func sends(a netip.Addr) bool { return !a.IsLoopback() && !isGroup(a) }

// isGroup reports whether an address is that of many hosts. No connection of TCP goes there (tcp_v4_connect in
// net/ipv4/tcp_ipv4.c, tcp_v6_connect in net/ipv6/tcp_ipv6.c).
func isGroup(a netip.Addr) bool { return a.IsMulticast() || a == broadcast }

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// flows are packets that differ in the values listed, and have all else in common. Of values that all rules treat alike
// one stands for all. They are in order.
type flows struct {
	packet     Packet
	src, dst   []netip.Addr
	ports      []uint16
	uids, gids []uint32
	interfaces []string
}

func (f flows) none() bool {
	owner := f.packet.Owner != nil
	return len(f.src) == 0 || len(f.dst) == 0 || len(f.ports) == 0 || len(f.interfaces) == 0 ||
		owner && (len(f.uids) == 0 || len(f.gids) == 0)
}

// one returns one of the packets.
func (f flows) one() Packet {
	p := f.packet
	p.Src, p.Dst = netip.AddrPortFrom(f.src[0], 40000), netip.AddrPortFrom(f.dst[0], f.ports[0])
	p.Interface = f.interfaces[0]
	if p.Owner != nil {
		p.Owner = &Owner{f.uids[0], f.gids[0]}
	}
	return p
}

// search follows flows through the rules until some of them are captured.
type search struct {
	rs    Ruleset
	left  int // how many values may still be looked at
	found Packet
}

// bases are the base chains of a hook that can capture, in the order in which packets meet them.
func (s *search) bases(hooks ...Hook) []Chain {
	bases := slices.DeleteFunc(slices.Clone(s.rs.Chains), func(c Chain) bool {
		return !slices.Contains(hooks, c.Hook) || c.Priority == PriorityRaw || c.Type == RouteChain ||
			c.Priority >= PriorityFilter
	})
	sort.SliceStable(bases, func(i, j int) bool { return bases[i].Asked() < bases[j].Asked() })
	return bases
}

func (s *search) hook(f flows) bool {
	bases := s.bases(f.packet.Hook)
	var from func(n int) func(flows) bool
	from = func(n int) func(flows) bool {
		return func(f flows) bool {
			return n < len(bases) && s.chain(bases[n], 0, f, from(n+1), from(n+1))
		}
	}
	return !f.none() && from(0)(f)
}

// chain reports whether any of the flows are captured by a chain's rules from the one at first, or later: those that
// the chain lets go on are given to back, and those that leave the base chain to done.
func (s *search) chain(c Chain, first int, f flows, back, done func(flows) bool) bool {
	for i := first; i < len(c.Rules); i++ {
		yes, others := s.meets(f, c.Rules[i].Match)
		rest := func(f flows) bool { return s.chain(c, i+1, f, back, done) }
		if !yes.none() && s.target(c.Rules[i].Target, yes, rest, back, done) {
			return true
		}
		if len(others) == 0 || s.left <= 0 {
			return false
		}
		last := len(others) - 1
		if slices.ContainsFunc(others[:last], rest) {
			return true
		}
		f = others[last]
	}
	return back(f)
}

// target reports whether any of the flows that a rule matches are captured, by its target or later.
func (s *search) target(t Target, f flows, rest, back, done func(flows) bool) bool {
	switch t := t.(type) {
	case Redirect, DNAT, TProxy, Divert:
		s.found = f.one()
		return true
	case Jump:
		return s.chain(s.rs.chain(t.Chain), 0, f, rest, done)
	case Goto:
		return s.chain(s.rs.chain(t.Chain), 0, f, back, done)
	case Return:
		return back(f)
	case Accept, Keep, CTZone:
		return done(f)
	case SetMark:
		f.packet.Mark = f.packet.Mark&^t.Mask | t.Value
		return rest(f)
	case SetConnMark:
		f.packet.ConnMark = f.packet.ConnMark&^t.Mask | t.Value
		return rest(f)
	case Drop, Reject:
	}
	return false
}

// meets returns the flows for which all conditions hold, and the others, which may be in several parts.
func (s *search) meets(f flows, match []Match) (yes flows, others []flows) {
	yes = f
	for _, m := range match {
		var no flows
		if yes, no = s.divide(yes, m); !no.none() {
			others = append(others, no)
		}
		if yes.none() {
			break
		}
	}
	return yes, others
}

// divide returns the flows for which a condition holds, and those for which it does not.
func (s *search) divide(f flows, m Match) (yes, no flows) {
	yes, no = f, f
	switch m := m.(type) {
	case Not:
		no, yes = s.divide(f, m.Match)
	case DstPort:
		yes.ports, no.ports = divideBy(s, f.ports, Ports(m).Merge(), cmp.Compare)
	case Src:
		yes.src, no.src = s.byAddress(f.src, CIDRs(m))
	case Dst:
		yes.dst, no.dst = s.byAddress(f.dst, CIDRs(m))
	case UID:
		if yes.uids, no.uids = divideBy(s, f.uids, IDs(m).Merge(), cmp.Compare); f.packet.Owner == nil {
			yes, no = flows{}, f
		}
	case GID:
		if yes.gids, no.gids = divideBy(s, f.gids, IDs(m).Merge(), cmp.Compare); f.packet.Owner == nil {
			yes, no = flows{}, f
		}
	case InInterface:
		yes.interfaces, no.interfaces = s.byInterface(f, string(m), Prerouting)
	case OutInterface:
		yes.interfaces, no.interfaces = s.byInterface(f, string(m), Output)
	case Proto, SrcPort, MetaMark, ConnMark, CTState, CTDNAT, CTDirection, HasSocket, SocketOpen, ToLocal, Length,
		TCPHeader, TCPFlags, MPTCP, ICMPEcho, ICMPQuote, Older, IsFamily:
		s.left--
		t := tracer{rs: s.rs, p: f.one()}
		if t.satisfies(m) {
			no = flows{}
		} else {
			yes = flows{}
		}
	}
	return yes, no
}

// byAddress divides ordered addresses by whether they are in a list. Few are looked for in the list as it is: it can be
// long.
func (s *search) byAddress(all []netip.Addr, list CIDRs) (yes, no []netip.Addr) {
	const few = 16
	if len(all) > few {
		return divideBy(s, all, list.Merge(), netip.Addr.Compare)
	}
	s.left -= len(all) + len(list)
	return divide(all, list.Contains)
}

func (s *search) byInterface(f flows, pattern string, hook Hook) (yes, no []string) {
	s.left -= len(f.interfaces)
	return divide(f.interfaces, func(name string) bool {
		return f.packet.Hook == hook && InterfaceMatches(pattern, name)
	})
}

// divide returns the items that have a property, and the others.
func divide[V any](all []V, has func(V) bool) (yes, no []V) {
	for _, v := range all {
		if has(v) {
			yes = append(yes, v)
		} else {
			no = append(no, v)
		}
	}
	return yes, no
}

// span is a range of ports, IDs or addresses, both ends included.
type span[V any] interface{ ~struct{ First, Last V } }

// divideBy divides ordered values by whether they are in one of the ordered ranges.
func divideBy[V any, R span[V]](s *search, all []V, ranges []R, compare func(a, b V) int) (yes, no []V) {
	s.left -= len(all) + len(ranges)
	return divide(all, func(v V) bool {
		for len(ranges) > 0 && compare(struct{ First, Last V }(ranges[0]).Last, v) < 0 {
			ranges = ranges[1:]
		}
		return len(ranges) > 0 && compare(struct{ First, Last V }(ranges[0]).First, v) <= 0
	})
}

// special are the networks whose addresses are not like others to the kernel.
func special() CIDRs {
	var l CIDRs
	for _, s := range []string{
		"0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "::1/128", "::ffff:0:0/96", "ff00::/8",
	} {
		l = append(l, netip.MustParsePrefix(s))
	}
	return l
}

// usual are flows of which one is enough in most configurations.
func usual() flows {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: 1})}
	return flows{src: addrs, dst: slices.Clone(addrs), ports: []uint16{1}, uids: []uint32{0}, gids: []uint32{0},
		interfaces: []string{Loopback, otherName}}
}

// ordinary are flows of which one is enough where lists are short of everything.
func ordinary() flows {
	var f flows
	f.dst = starts(f.dst, AllCIDRs().Merge(), netip.Addr.Next)
	f.dst = starts(f.dst, special().Merge(), netip.Addr.Next)
	f.src = slices.Clone(f.dst)
	f.ports, f.uids, f.gids = []uint16{1, dnsPort}, []uint32{0}, []uint32{0}
	f.interfaces = []string{Loopback, otherName}
	return f
}

// dnsPort is the port of name lookups.
const dnsPort = 53

// classes are all flows, one value for all of which no rule tells one from the other: the first of each range in the
// rules' lists, and the first after it.
func (s *search) classes() flows {
	f := ordinary()
	known := map[string]bool{}
	var visit func(c Chain)
	visit = func(c Chain) {
		if known[c.Name] {
			return
		}
		known[c.Name] = true
		for _, r := range c.Rules {
			for _, m := range r.Match {
				f.add(m)
			}
			if to, is := r.Target.(Jump); is {
				visit(s.rs.chain(to.Chain))
			}
			if to, is := r.Target.(Goto); is {
				visit(s.rs.chain(to.Chain))
			}
		}
	}
	for _, c := range s.bases(Output, Prerouting) {
		visit(c)
	}
	return f
}

// sorted returns the flows in order, each once, without what no packet has.
func (f flows) sorted() flows {
	nobody := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() || a.Is4In6() }
	f.src, f.dst = slices.DeleteFunc(f.src, nobody), slices.DeleteFunc(f.dst, nobody)
	f.ports = slices.DeleteFunc(f.ports, func(p uint16) bool { return p == 0 })
	f.uids = slices.DeleteFunc(f.uids, func(id uint32) bool { return id > MaxID })
	f.gids = slices.DeleteFunc(f.gids, func(id uint32) bool { return id > MaxID })
	f.src, f.dst = ordered(f.src, netip.Addr.Compare), ordered(f.dst, netip.Addr.Compare)
	f.ports, f.uids, f.gids = ordered(f.ports, cmp.Compare), ordered(f.uids, cmp.Compare), ordered(f.gids, cmp.Compare)
	f.interfaces = ordered(f.interfaces, strings.Compare)
	return f
}

// otherName ends the names of interfaces that no list has: no name has a slash (dev_valid_name in net/core/dev.c).
const otherName = "/"

// add adds the values at which a condition begins to hold, and ceases to.
func (f *flows) add(m Match) {
	switch m := m.(type) {
	case Not:
		f.add(m.Match)
	case DstPort:
		f.ports = starts(f.ports, Ports(m).Merge(), nextInt)
	case Src:
		f.src = starts(f.src, CIDRs(m).Merge(), netip.Addr.Next)
	case Dst:
		f.dst = starts(f.dst, CIDRs(m).Merge(), netip.Addr.Next)
	case UID:
		f.uids = starts(f.uids, IDs(m).Merge(), nextInt)
	case GID:
		f.gids = starts(f.gids, IDs(m).Merge(), nextInt)
	case InInterface:
		f.interfaces = append(f.interfaces, named(string(m)))
	case OutInterface:
		f.interfaces = append(f.interfaces, named(string(m)))
	case Proto, SrcPort, MetaMark, ConnMark, CTState, CTDNAT, CTDirection, HasSocket, SocketOpen, ToLocal, Length,
		TCPHeader, TCPFlags, MPTCP, ICMPEcho, ICMPQuote, Older, IsFamily:
		// All of the flows have the same.
	}
}

// named returns a name that a pattern matches, and as few others as can be.
func named(pattern string) string {
	if stem, ok := strings.CutSuffix(pattern, "*"); ok {
		return stem + otherName
	}
	return pattern
}

func starts[V any, R span[V]](all []V, ranges []R, next func(V) V) []V {
	for _, r := range ranges {
		ends := struct{ First, Last V }(r)
		all = append(all, ends.First, next(ends.Last))
	}
	return all
}

func ordered[V comparable](all []V, compare func(a, b V) int) []V {
	sort.Slice(all, func(i, j int) bool { return compare(all[i], all[j]) < 0 })
	return slices.Compact(all)
}
