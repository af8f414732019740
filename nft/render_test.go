//go:build linux

package nft

import "testing"

// TestTypeNames: in a text, the type of a set is what the library calls the one that the kernel gets.
func TestTypeNames(t *testing.T) {
	for k := keyPort; k <= keySettling; k++ {
		if got, want := k.String(), k.datatype().Name; got != want {
			t.Errorf("%s is written, and %s is made", got, want)
		}
	}
}
