package nlattr

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// TestAll: attributes with padding and flags, one without its padding at the end, and what is none.
func TestAll(t *testing.T) {
	attr := func(typ uint16, data string, pad int) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
		b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
		return append(b, make([]byte, pad)...)
	}
	for _, tt := range []struct {
		in   []byte
		want string
	}{
		{nil, ""},
		{attr(1, "abcd", 0), "1=abcd "},
		{append(attr(1, "a", 3), attr(2|1<<15|1<<14, "bc", 2)...), "1=a 2=bc "},
		{append(attr(1, "a", 3), attr(2, "bc", 0)...), "1=a 2=bc "},
		{append(attr(1, "", 0), 9, 0, 1), "1= "},
		{append(attr(1, "a", 3), 9, 0, 1, 0, 'x'), "1=a "}, // longer than what is there
		{append(attr(1, "a", 3), 3, 0, 1, 0, 'x'), "1=a "}, // shorter than a head
	} {
		got := ""
		for typ, data := range All(tt.in) {
			got += fmt.Sprintf("%d=%s ", typ, data)
		}
		if got != tt.want {
			t.Errorf("%v: %q, want %q", tt.in, got, tt.want)
		}
	}
	for range All(append(attr(1, "a", 3), attr(2, "b", 3)...)) {
		break // and is asked no further
	}
}
