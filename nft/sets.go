//go:build linux

package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlattr"
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

// maxElements is the room for a message's list of elements: an attribute's
// length has 16 bits, and the list is one.
const maxElements = 1<<16 - 1024

// elementSize is more than an element takes beside its key.
const elementSize = 64

// addElements adds the elements of a set that is there, or that the batch adds: more then has its number. An interval
// set gets the start of each range and the key after its end, unless there is none.
func (b *batch) addElements(family nftables.TableFamily, table string, s set, more ...netlink.Attribute) {
	var m []byte
	list := 0 // where the list of elements begins in m
	flush := func() {
		if m == nil {
			return
		}
		endNested(m, list)
		for _, a := range more {
			m = putAttribute(m, a.Type, a.Data)
		}
		b.messages = append(b.messages, messageOf(unix.NFT_MSG_NEWSETELEM, netlink.Create, m))
		m = nil
	}
	left := s.ranges.len()
	element := func(key []byte, end, open bool) {
		if m != nil && len(m)-list+elementSize+len(key) > maxElements {
			flush()
		}
		if m == nil {
			m = append(make([]byte, 0, min(2*left*(elementSize+len(key)), maxElements)+512),
				byte(family), unix.NFNETLINK_V0, 0, 0)
			m = putAttribute(m, unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(table), 0))
			m = putAttribute(m, unix.NFTA_SET_ELEM_LIST_SET, append([]byte(s.name), 0))
			list = len(m)
			m = beginNested(m, unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		}
		m = s.appendElement(m, key, end, open)
	}
	var next []byte
	for i := range s.ranges.len() {
		r := s.ranges.at(i)
		if !s.key.isInterval() {
			element(r.first, false, false)
			continue
		}
		var ok bool
		next, ok = increment(append(next[:0], r.last...))
		element(r.first, false, !ok)
		if ok {
			element(next, true, false)
		}
		left--
	}
	flush()
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

// appendElement writes one key of a set. end: it is the first that is not in the range before; open: the range that
// begins with it has no end.
func (s set) appendElement(m, key []byte, end, open bool) []byte {
	elem := len(m)
	m = beginNested(m, unix.NFTA_LIST_ELEM)
	if end {
		m = putAttribute(m, unix.NFTA_SET_ELEM_FLAGS, []byte{0, 0, 0, unix.NFT_SET_ELEM_INTERVAL_END})
	}
	at := len(m)
	m = beginNested(m, unix.NFTA_SET_ELEM_KEY)
	m = putAttribute(m, unix.NFTA_DATA_VALUE, key)
	endNested(m, at)
	if open {
		// For nft(8), which would else expect an end.
		m = putAttribute(m, unix.NFTA_SET_ELEM_USERDATA, userdata.AppendUint32(nil,
			userdata.NFTNL_UDATA_SET_ELEM_FLAGS, userdata.NFTNL_UDATA_SET_ELEM_F_INTERVAL_OPEN))
	}
	if s.timeout > 0 {
		m = putAttribute(m, unix.NFTA_SET_ELEM_TIMEOUT,
			binary.BigEndian.AppendUint64(nil, uint64(s.timeout.Milliseconds())))
	}
	endNested(m, elem)
	return m
}

// putAttribute is appendAttribute of one that is short enough.
func putAttribute(b []byte, typ uint16, value []byte) []byte {
	b, _ = appendAttribute(b, typ, value)
	return b
}

// beginNested begins an attribute that holds those that are written next.
func beginNested(b []byte, typ uint16) []byte { return putAttribute(b, unix.NLA_F_NESTED|typ, nil) }

// endNested ends the attribute that begins at a place.
func endNested(b []byte, at int) { binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at)) }

// increment makes of a key the one after it. ok is false after the greatest.
func increment(key []byte) (_ []byte, ok bool) {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]++; key[i] != 0 {
			return key, true
		}
	}
	return key, false
}

// elements are those of a set, each a key and one of the bytes below, in one piece: in the order in which the kernel
// lists ranges, from the greatest to the least.
type elements struct {
	size  int // of each
	bytes []byte
	odd   bool // the sizes of keys differ: no set of ours is such
}

const begins, ends = '+', '-'

func (e elements) Len() int {
	if e.size == 0 {
		return 0
	}
	return len(e.bytes) / e.size
}

func (e elements) at(i int) []byte { return e.bytes[i*e.size:][:e.size] }

// Less and Swap are part of [sort.Interface].
func (e elements) Less(i, j int) bool { return bytes.Compare(e.at(i), e.at(j)) > 0 }

func (e elements) Swap(i, j int) {
	swap(e.at(i), e.at(j))
}

// add leaves out the end mark that nft(8) puts before the first range: it excludes nothing.
func (e *elements) add(key []byte, end bool) {
	mark := byte(begins)
	if end {
		mark = ends
		if bytes.Count(key, []byte{0}) == len(key) {
			return
		}
	}
	if e.size == 0 {
		e.size = len(key) + 1
	}
	if cap(e.bytes)-len(e.bytes) < e.size {
		e.bytes = slices.Grow(e.bytes, len(e.bytes)+64*e.size)
	}
	if len(key)+1 != e.size {
		e.odd = true
		return
	}
	e.bytes = append(append(e.bytes, key...), mark)
}

// sort orders them. Those of a set of ranges are in order.
func (e elements) sort() {
	for i := 1; i < e.Len(); i++ {
		if bytes.Compare(e.at(i-1), e.at(i)) < 0 {
			sort.Sort(e)
			return
		}
	}
}

// elements returns those that the set has in the kernel, in order.
func (s set) elements() (e elements) {
	e.bytes = make([]byte, 0, 2*s.ranges.len()*(s.ranges.width+1))
	var next []byte
	for i := s.ranges.len() - 1; i >= 0; i-- {
		r := s.ranges.at(i)
		if s.key.isInterval() {
			var ok bool
			if next, ok = increment(append(next[:0], r.last...)); ok {
				e.add(next, true)
			}
		}
		e.add(r.first, false)
	}
	return e
}

func (e elements) equal(other elements) bool { return !e.odd && bytes.Equal(e.bytes, other.bytes) }

// without returns how many ranges begin in e and not in other. Both are in order.
func (e elements) without(other elements) (n int) {
	for i := range e.Len() {
		at := e.at(i)
		if at[e.size-1] != begins {
			continue
		}
		j := sort.Search(other.Len(), func(j int) bool { return bytes.Compare(other.at(j), at) <= 0 })
		if j == other.Len() || !bytes.Equal(other.at(j), at) {
			n++
		}
	}
	return n
}

// elements reads the elements of a set of our table.
func (conn *Conn) elements(family nftables.TableFamily, set string) (e elements, err error) {
	err = conn.eachElement(family, Table, set, func(key []byte, end bool) { e.add(key, end) })
	e.sort()
	return e, err
}

// eachElement reads the elements of a set.
func (conn *Conn) eachElement(family nftables.TableFamily, table, set string, f func(key []byte, end bool)) error {
	return conn.dump(unix.NFT_MSG_GETSETELEM, family, []netlink.Attribute{
		text(unix.NFTA_SET_ELEM_LIST_TABLE, table), text(unix.NFTA_SET_ELEM_LIST_SET, set),
	}, func(_ nftables.TableFamily, message []byte) error {
		for typ, list, rest, ok := nlattr.Cut(message); ok; typ, list, rest, ok = nlattr.Cut(rest) {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, elem, rest, ok := nlattr.Cut(list); ok; _, elem, rest, ok = nlattr.Cut(rest) {
				key, end := element(elem)
				f(key, end)
			}
		}
		return nil
	})
}

// element returns the key of an element, and whether it is the end of a range.
func element(attrs []byte) (key []byte, end bool) {
	for typ, data, rest, ok := nlattr.Cut(attrs); ok; typ, data, rest, ok = nlattr.Cut(rest) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			for _, value, rest, ok := nlattr.Cut(data); ok; _, value, rest, ok = nlattr.Cut(rest) {
				key = value
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			end = len(data) == 4 && binary.BigEndian.Uint32(data)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		}
	}
	return key, end
}
