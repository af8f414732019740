package nft

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
)

// set holds the items of one list: inclusive ranges of keys in network byte order.
type set struct {
	name    string
	key     keyType
	ranges  ranges
	timeout time.Duration // after which they are out of the set again; zero: they stay
}

// ranges are ranges of keys, ascending, without a gap between them: of each its first key and its last. A list can
// have tens of thousands, so there is one allocation for all of them.
type ranges struct {
	width int // of one key
	bytes []byte
}

type keyRange struct{ first, last []byte }

func (r ranges) len() int {
	if r.width == 0 {
		return 0
	}
	return len(r.bytes) / (2 * r.width)
}

func (r ranges) at(i int) keyRange {
	b := r.bytes[2*i*r.width:][:2*r.width]
	return keyRange{b[:r.width:r.width], b[r.width:]}
}

func (r *ranges) add(first, last []byte) {
	r.width = len(first)
	r.bytes = append(append(r.bytes, first...), last...)
}

func (r ranges) equal(other ranges) bool {
	return r.width == other.width && bytes.Equal(r.bytes, other.bytes)
}

// isOne reports whether it is one range of one key.
func (r ranges) isOne() bool { return r.len() == 1 && bytes.Equal(r.at(0).first, r.at(0).last) }

// sum tells lists of ranges apart.
func (r ranges) sum() uint64 {
	h := fnv.New64a()
	_, _ = h.Write(r.bytes)
	return h.Sum64()
}

func portKeys(list ruleset.Ports) (keys ranges) {
	for _, r := range list.Merge() {
		keys.add(be16(r.First), be16(r.Last))
	}
	return keys
}

func idKeys(list ruleset.IDs) (keys ranges) {
	for _, r := range list.Merge() {
		keys.add(be32(r.First), be32(r.Last))
	}
	return keys
}

// The sizes of addresses in bytes.
const sizeIPv4, sizeIPv6 = 4, 16

// addressKeys returns the keys of the addresses of one family in a list.
func addressKeys(list ruleset.CIDRs, f ruleset.Family) ranges {
	count := 0
	for _, p := range list {
		if ruleset.FamilyOf(p.Addr()) == f {
			count++
		}
	}
	keys := ranges{width: sizeIPv6}
	if f == ruleset.IPv4 {
		keys.width = sizeIPv4
	}
	keys.bytes = make([]byte, 0, 2*keys.width*count)
	for _, p := range list {
		if ruleset.FamilyOf(p.Addr()) != f {
			continue
		}
		addr := p.Addr().As16()
		first := addr[sizeIPv6-keys.width:] // IPv4 is at the end
		begin := len(keys.bytes)
		keys.bytes = append(append(keys.bytes, first...), first...)
		first, last := keys.bytes[begin:][:keys.width], keys.bytes[begin+keys.width:]
		host := byte(0xff) >> (p.Bits() % 8) // the bits of a byte that differ
		for i := p.Bits() / 8; i < keys.width; i++ {
			first[i] &^= host
			last[i] |= host
			host = 0xff
		}
	}
	keys.merge()
	return keys
}

// merge orders the ranges, and joins those that overlap or touch.
func (r *ranges) merge() {
	sorted := true
	for i := 1; i < r.len() && sorted; i++ {
		sorted = bytes.Compare(r.at(i-1).first, r.at(i).first) <= 0
	}
	if !sorted { // most are, and long ones take their time
		sort.Sort(r)
	}
	n := 0
	for i := range r.len() {
		next := r.at(i)
		if n > 0 {
			last := r.at(n - 1).last
			if bytes.Compare(next.first, last) <= 0 || isNext(last, next.first) {
				if bytes.Compare(next.last, last) > 0 {
					copy(last, next.last)
				}
				continue
			}
		}
		if n < i {
			copy(r.bytes[2*n*r.width:], r.bytes[2*i*r.width:][:2*r.width])
		}
		n++
	}
	r.bytes = r.bytes[:2*n*r.width]
}

// Len, Less and Swap are [sort.Interface]'s.
func (r *ranges) Len() int { return r.len() }

// Less is by the first keys.
func (r *ranges) Less(i, j int) bool { return bytes.Compare(r.at(i).first, r.at(j).first) < 0 }

// Swap swaps two ranges.
func (r *ranges) Swap(i, j int) {
	swap(r.bytes[2*i*r.width:][:2*r.width], r.bytes[2*j*r.width:][:2*r.width])
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// isNext reports whether a key is the one after another.
func isNext(key, next []byte) bool {
	i := len(key) - 1
	for ; i >= 0 && key[i] == 0xff; i-- {
		if next[i] != 0 {
			return false
		}
	}
	return i >= 0 && next[i] == key[i]+1 && bytes.Equal(key[:i], next[:i])
}

// lists remembers the keys of long lists: several rules may have the same, and no copy is made of them.
type lists struct {
	standIns map[listed]ruleset.CIDRs
	keys     map[*netip.Prefix]ranges // of a stand-in, by where its item is
}

// listed is the part of a list, by where that is in memory, that is of one family.
type listed struct {
	first *netip.Prefix
	count int
	of    ruleset.Family
}

// long is how long a list is that is worth remembering.
const long = 64

// family returns a rule in which one address of a family stands for all those of a long list that are of it.
func (l *lists) family(r ruleset.Rule, f ruleset.Family) ruleset.Rule {
	cloned := false
	for i, m := range r.Match {
		n, negated := m.(ruleset.Not)
		if negated {
			m = n.Match
		}
		src, isSrc := m.(ruleset.Src)
		dst, isDst := m.(ruleset.Dst)
		switch {
		case isSrc && len(src) >= long:
			m = ruleset.Src(l.standIn(ruleset.CIDRs(src), f))
		case isDst && len(dst) >= long:
			m = ruleset.Dst(l.standIn(ruleset.CIDRs(dst), f))
		default:
			continue
		}
		if negated {
			m = ruleset.Not{Match: m}
		}
		if !cloned {
			r.Match, cloned = slices.Clone(r.Match), true
		}
		r.Match[i] = m
	}
	return r
}

func (l *lists) standIn(list ruleset.CIDRs, f ruleset.Family) ruleset.CIDRs {
	at := listed{&list[0], len(list), f}
	if one, known := l.standIns[at]; known {
		return one
	}
	if l.keys == nil {
		l.standIns, l.keys = map[listed]ruleset.CIDRs{}, map[*netip.Prefix]ranges{}
	}
	i := slices.IndexFunc(list, func(p netip.Prefix) bool { return ruleset.FamilyOf(p.Addr()) == f })
	var one ruleset.CIDRs // none, if there are none of the family
	if i >= 0 {
		one = ruleset.CIDRs{list[i]}
		l.keys[&one[0]] = addressKeys(list, f)
	}
	l.standIns[at] = one
	return one
}

// addresses returns the keys of a list of one family, or of that for which it stands.
func (l *lists) addresses(list ruleset.CIDRs, f ruleset.Family) ranges {
	if keys, is := l.keys[&list[0]]; is {
		return keys
	}
	return addressKeys(list, f)
}

// size is how many bytes the elements of a set take.
func (s set) size() int { return s.ranges.len() * (32 + 2*s.ranges.width) }

// fits refuses lists that a transaction has no room for, by the rule that asks the longest.
func (p program) fits(room int) error {
	size, longest := 0, set{}
	for _, t := range p {
		for _, s := range t.sets {
			if size += s.size(); s.size() > longest.size() {
				longest = s
			}
		}
	}
	if size <= room {
		return nil
	}
	err := fmt.Errorf("its list has %d ranges; all lists together take %d bytes, and a transaction of nf_tables has room for "+
		"%d: shorten it", longest.ranges.len(), size, room)
	for _, t := range p {
		for _, c := range t.chains {
			for _, r := range c.rules {
				if slices.ContainsFunc(r.stmts, func(s stmt) bool { return strings.HasSuffix(s.text, "@"+longest.name) }) {
					return &ruleset.RuleError{Chain: c.name, Rule: r.id, Err: err}
				}
			}
		}
	}
	return err
}
