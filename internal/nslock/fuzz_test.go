package nslock

import (
	"slices"
	"strings"
	"testing"
)

// FuzzRow holds that no file of /proc/net makes a panic, and that what is found
// stands on one line of it.
func FuzzRow(f *testing.F) {
	f.Add("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"+
		"0000000000000000 12  4711       00000000 0        0        0     2        0        99   \n", "4711")
	f.Add("0000000000000000: 00000002 00000000 00000000 0002 01 12345 @mesh-intercept\n", "")
	f.Add("19277 4711 0 0 0 0 0\n12\n\x00", "x")
	f.Fuzz(func(t *testing.T, text, port string) {
		for _, is := range []func([]string) bool{bound, netlinkOf(port), named} {
			fields := rowOf(text, is)
			if fields == nil {
				continue
			}
			if !is(fields) || !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
				return slices.Equal(strings.Fields(line), fields)
			}) {
				t.Fatalf("%q of %q", fields, text)
			}
		}
	})
}
