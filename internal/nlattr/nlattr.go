// Package nlattr walks over netlink attributes (struct nlattr in linux/netlink.h) as the kernel sends them. Nothing is made
// of one but two slices: a listing of rules has some thousand. It does no I/O, on any system.
package nlattr

import (
	"encoding/binary"
	"iter"
)

const (
	head  = 4       // NLA_HDRLEN: two bytes of length, two of type
	align = 4       // NLA_ALIGNTO
	flags = 3 << 14 // NLA_F_NESTED and NLA_F_NET_BYTEORDER, which are no part of the type
)

// All yields the attributes in b by their types, without the flags of these. It ends at one that is cut short.
func All(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for typ, data, rest, ok := Cut(b); ok; typ, data, rest, ok = Cut(rest) {
			if !yield(typ, data) {
				return
			}
		}
	}
}

// Cut takes the first attribute off b, as All does. ok is false at the end, and at one that is cut short.
func Cut(b []byte) (typ uint16, data, rest []byte, ok bool) {
	if len(b) < head {
		return 0, nil, nil, false
	}
	length := int(binary.NativeEndian.Uint16(b))
	if length < head || length > len(b) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(b[2:]) &^ flags, b[head:length], b[min(len(b), (length+align-1)&^(align-1)):], true
}

// Number is a number in network byte order, or zero of what is longer than one.
func Number[N uint16 | uint32 | uint64](b []byte) (n N) {
	if len(b) > 8 {
		return 0
	}
	for _, c := range b {
		n = n<<8 | N(c)
	}
	return n
}
