package classes

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"sort"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A set is one of atoms of an axis, a bit each.
type set []uint64

func newSet(atoms int) set { return make(set, (atoms+63)/64) }

func fullSet(atoms int) set {
	s := newSet(atoms)
	for i := range atoms {
		s.add(i)
	}
	return s
}

func (s set) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s set) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s set) empty() bool { return !slices.ContainsFunc(s, func(w uint64) bool { return w != 0 }) }

func (s set) and(t set) set {
	out := slices.Clone(s)
	for i := range out {
		out[i] &= t[i]
	}
	return out
}

func (s set) or(t set) set {
	out := slices.Clone(s)
	for i := range out {
		out[i] |= t[i]
	}
	return out
}

// without returns s less t.
func (s set) without(t set) set {
	out := slices.Clone(s)
	for i := range out {
		out[i] &^= t[i]
	}
	return out
}

// A value is one of a field: a number, or an address.
type value struct{ hi, lo uint64 }

func number[N uint8 | uint16 | uint32 | int](n N) value { return value{lo: uint64(n)} }

func addrValue(a netip.Addr) value {
	if a.Is4() {
		b := a.As4()
		return value{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return value{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (v value) addr(f ruleset.Family) netip.Addr {
	if f == ruleset.IPv4 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(v.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], v.hi)
	binary.BigEndian.PutUint64(b[8:], v.lo)
	return netip.AddrFrom16(b)
}

func (v value) compare(w value) int {
	if c := cmp.Compare(v.hi, w.hi); c != 0 {
		return c
	}
	return cmp.Compare(v.lo, w.lo)
}

func (v value) next() value {
	lo, carry := bits.Add64(v.lo, 1, 0)
	return value{v.hi + carry, lo}
}

func (v value) previous() value {
	lo, borrow := bits.Sub64(v.lo, 1, 0)
	return value{v.hi - borrow, lo}
}

// A span is a range of values, both ends included.
type span struct{ first, last value }

// An axis is a field's values, cut into atoms: those of an atom satisfy the same conditions.
type axis struct {
	// atoms are the ranges of each.
	atoms [][]span
	// on are the atoms that satisfy a condition, by its text.
	on map[string]set
	// starts are where the ranges begin, in order, and at the atoms that they belong to.
	starts []value
	at     []int32
}

func (a *axis) all() set { return fullSet(len(a.atoms)) }

// atom returns the atom of a value, or -1 if no packet has it.
func (a *axis) atom(v value) int {
	i := sort.Search(len(a.starts), func(i int) bool { return a.starts[i].compare(v) > 0 }) - 1
	if i < 0 {
		return -1
	}
	return int(a.at[i])
}

// spans are the ranges of a set of atoms, merged and in order.
func (a *axis) spans(s set) []span {
	var all []span
	for i, spans := range a.atoms {
		if s.has(i) {
			all = append(all, spans...)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].first.compare(all[j].first) < 0 })
	merged := all[:0]
	for _, s := range all {
		if n := len(merged); n > 0 && merged[n-1].last.next() == s.first {
			merged[n-1].last = s.last
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// A test is a condition on one field: the values that satisfy it, in ranges that neither overlap nor touch.
type test struct {
	key   string
	spans []span
}

// cut makes an axis of the values that packets have, and of the conditions on them.
func cut(domain []span, tests []test) axis {
	// The domain is a condition, too.
	tests = append([]test{{"", domain}}, tests...)
	type edge struct {
		at   value
		test int
	}
	var edges []edge
	for i, t := range tests {
		for _, s := range t.spans {
			edges = append(edges, edge{s.first, i})
			if end := s.last.next(); end != (value{}) { // else it goes on to the last value that there is
				edges = append(edges, edge{end, i})
			}
		}
	}
	sort.Slice(edges, func(i, j int) bool { return edges[i].at.compare(edges[j].at) < 0 })

	a := axis{on: map[string]set{}}
	var signatures []set
	known := map[string]int32{}
	satisfied := newSet(len(tests))
	var text []byte
	for i := 0; i < len(edges); {
		first := edges[i].at
		for ; i < len(edges) && edges[i].at == first; i++ {
			satisfied[edges[i].test/64] ^= 1 << (edges[i].test % 64)
		}
		last := value{^uint64(0), ^uint64(0)}
		if i < len(edges) {
			last = edges[i].at.previous()
		}
		at := int32(-1)
		if satisfied.has(0) {
			text = text[:0]
			for _, w := range satisfied {
				text = binary.NativeEndian.AppendUint64(text, w)
			}
			var is bool
			if at, is = known[string(text)]; !is {
				at = int32(len(a.atoms))
				known[string(text)] = at
				a.atoms = append(a.atoms, nil)
				signatures = append(signatures, slices.Clone(satisfied))
			}
			a.atoms[at] = append(a.atoms[at], span{first, last})
		}
		a.starts, a.at = append(a.starts, first), append(a.at, at)
	}
	for i, t := range tests[1:] {
		s := newSet(len(a.atoms))
		for atom, signature := range signatures {
			if signature.has(i + 1) {
				s.add(atom)
			}
		}
		a.on[t.key] = s
	}
	return a
}

// where are the ranges of the numbers from first to last that have a property.
func where(first, last int, has func(int) bool) (all []span) {
	for i := first; i <= last; i++ {
		switch n := len(all); {
		case !has(i):
		case n > 0 && all[n-1].last == number(i-1):
			all[n-1].last = number(i)
		default:
			all = append(all, span{number(i), number(i)})
		}
	}
	return all
}

// size is how many values a set of atoms has.
func (a *axis) size(s set) (n float64) {
	for _, r := range a.spans(s) {
		n += float64(r.last.hi-r.first.hi)*(1<<64) + float64(r.last.lo) - float64(r.first.lo) + 1
	}
	return n
}
