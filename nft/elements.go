//go:build linux

package nft

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlattr"
)

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
