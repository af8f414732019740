//go:build linux

package markroute

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// FuzzRead holds that no rule and no route, whoever made it, makes a panic, and that
// one of ours says what it is.
func FuzzRead(f *testing.F) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[7] = unix.AF_INET, unix.RTN_LOCAL
	f.Add(header, false)
	f.Add(header[:5], true)
	f.Add(append(header, 5, 0, unix.FRA_FWMARK, 0, 1, 0, 0, 0), true)
	f.Add(append(header, 8, 0, unix.FRA_FWMARK, 0, 1, 0, 0, 0, 4, 0, unix.FRA_PROTOCOL, 0), true)
	f.Fuzz(func(t *testing.T, message []byte, rule bool) {
		o, ok, err := read(message, rule)
		if ok && err == nil && (o.family != ruleset.IPv4 && o.family != ruleset.IPv6 || o.String() == "" ||
			rule && o.mark.Value == 0) {
			t.Fatalf("%+v", o)
		}
	})
}
