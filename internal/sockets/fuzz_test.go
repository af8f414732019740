//go:build linux

package sockets

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzParse holds that no description of a socket makes a panic, and that one that is
// read has an address.
func FuzzParse(f *testing.F) {
	m := make([]byte, 72)
	m[0] = unix.AF_INET6
	f.Add(m)
	f.Add(append(m, 5, 0, 11, 0, 1, 0, 0, 0))
	f.Add(m[:70])
	f.Fuzz(func(t *testing.T, message []byte) {
		l, err := parse(message)
		if err == nil && (!l.Local.IsValid() || !l.peer.IsValid()) {
			t.Fatalf("%+v", l)
		}
	})
}
