//go:build linux

package iptables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/beside"
)

// TestRemoveLegacy: without a program the same goes as with one, nothing else changes, and it can be put back, with what
// was counted.
func TestRemoveLegacy(t *testing.T) {
	const more = `*mangle
:ISTIO_DIVERT - [0:0]
[7:420] -A PREROUTING -p udp -j MARK --set-xmark 0x1/0xffffffff
-A PREROUTING -p tcp -j ISTIO_DIVERT
-A ISTIO_DIVERT -j RETURN
-A OUTPUT -o lo -j RETURN
COMMIT
*filter
:MINE - [0:0]
[1:60] -A INPUT -i eth9 -j MINE
-A INPUT -p icmp
-A MINE -m multiport -p tcp --dports 1,2,3:9 -j DROP
COMMIT
`
	istio, _ := beside.MeshOf("istio")
	aloneEach(t, func(t *testing.T, v Variant) {
		if v != Legacy {
			return
		}
		s := newSite(t, Options{Variant: v})
		s.restore(t, meshOfOthers+more)
		was := s.saved(t)

		var back func() error
		native := func() error {
			return s.Do(func() (err error) {
				back, err = RemoveLegacy(func(chains []beside.Chain) (beside.Removal, error) { return istio.Removal(chains, HasOurName) })
				return err
			})
		}
		if err := native(); err != nil {
			t.Fatal(err)
		}
		without := s.saved(t)
		if strings.Contains(without, "ISTIO_OUTPUT -") || strings.Contains(without, "-j ISTIO") || !strings.Contains(without, "MINE") {
			t.Errorf("%s", without)
		}
		if err := s.Do(back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(was, s.saved(t)); diff != "" {
			t.Errorf("put back it is not as it was (-):\n%s", diff)
		}
		err := s.Do(func() error { _, err := s.b.RemoveForeign(t.Context(), istio); return err })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.saved(t), without); diff != "" {
			t.Errorf("with programs (-) and without:\n%s", diff)
		}
		if err := native(); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}
