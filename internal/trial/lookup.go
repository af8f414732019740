//go:build linux

package trial

import (
	"encoding/binary"
	"math/rand/v2"
)

// question is a name lookup (RFC 1035, section 4): for the address of a name that nobody has (RFC 2606) and that no
// cache knows, so that the resolver has to ask others, as it does for an app.
func question() []byte {
	q := binary.BigEndian.AppendUint16(nil, uint16(rand.Uint32()))
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	label := []byte("intercept-verify-")
	for range 8 {
		label = append(label, "abcdefghijklmnopqrstuvwxyz"[rand.IntN(26)])
	}
	for _, l := range [][]byte{label, []byte("example")} {
		q = append(append(q, byte(len(l))), l...)
	}
	return append(q, 0, 0, 1, 0, 1) // the root, type A, class IN
}

// answers reports whether a message answers a question: whatever it says.
func answers(q, a []byte) bool { return len(a) >= 12 && a[0] == q[0] && a[1] == q[1] && a[2]&0x80 != 0 }

// failure is the name of an answer's RCODE, if it says that the resolver could not or would not tell.
func failure(a []byte) string {
	switch a[3] & 0xf {
	case 2:
		return "SERVFAIL"
	case 5:
		return "REFUSED"
	}
	return ""
}

// framed is a message as it goes over TCP.
func framed(q []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) }
