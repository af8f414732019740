//go:build linux

package markroute

import (
	"net/netip"
	"strings"
	"testing"
)

// TestSources: lo gets ::6 where the pod is reached over IPv6, once, and loses it again if it is ours.
func TestSources(t *testing.T) {
	const (
		none   = ""
		ours   = "::6/128 metric 177 scope global deprecated noprefixroute"
		theirs = "::6/128 scope global"
		eth0   = "ip link add eth0 type veth peer name peer0; ip link set eth0 up; "
		both   = eth0 + "ip address add fd00:244::5/64 dev eth0 nodad; "
	)
	w := Want{Sources: []netip.Addr{netip.MustParseAddr("::6")}}
	for name, tt := range map[string]struct {
		network string // lines of shell
		added   bool
		want    string // what lo has while it is wanted
		left    string // and after
	}{
		"dual stack":           {both, true, ours, none},
		"IPv4 alone":           {eth0 + "ip address add 10.0.0.5/24 dev eth0", false, none, none},
		"link-local IPv6":      {eth0, false, none, none},
		"added by others":      {both + "ip address add ::6/128 dev lo", false, theirs, theirs},
		"no IPv6 on lo":        {both + "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6", false, none, none},
		"lo is down":           {both + "ip link set lo down", true, ours, none},
		"left by a killed one": {both + strings.Join(w.Commands(), "\n"), false, ours, none},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			n.run(tt.network)
			c := n.open()
			expect := func(when, want string) {
				t.Helper()
				got := n.run(`ip -6 -o address show dev lo to ::6 | sed 's/.*inet6 //; s/ *\\.*//'`)
				if got = strings.NewReplacer(" nodad", "", " tentative", "").Replace(strings.TrimSpace(got)); got != want {
					t.Errorf("%s: %q, not %q", when, got, want)
				}
			}
			do := func(f func() error) {
				t.Helper()
				if err := n.Do(f); err != nil {
					t.Fatal(err)
				}
			}
			check := func(when string, w Want, want int) {
				t.Helper()
				do(func() error {
					diffs, err := c.Check(w)
					if len(diffs) != want {
						t.Errorf("%s: %v", when, diffs)
					}
					return err
				})
			}
			add := func(want bool) (undo func() error) {
				t.Helper()
				do(func() error {
					added, u, err := c.Add(w)
					if added != want {
						t.Errorf("added: %v", added)
					}
					undo = u
					return err
				})
				return undo
			}
			keep := func(w Want, want bool) {
				t.Helper()
				do(func() error {
					removed, err := c.Keep(w)
					if removed != want {
						t.Errorf("removed: %v", removed)
					}
					return err
				})
			}
			if tt.added {
				check("before", w, 1)
				undo := add(true)
				do(undo)
				expect("undone", none)
			}
			add(tt.added)
			add(false)
			expect("added", tt.want)
			if tt.want != none {
				// The kernel makes the route a moment after the address.
				n.run("ip link set lo up; until ip -6 route get ::6 from ::6 2>&1 | grep '^local ::6 '; do sleep 0.01; done")
			}
			check("added", w, 0)
			keep(w, false)
			expect("kept", tt.want)
			isOurs := 0
			if tt.want == ours {
				isOurs = 1
			}
			check("not wanted any more", Want{}, isOurs)
			keep(Want{}, tt.want == ours)
			keep(Want{}, false)
			expect("at the end", tt.left)
		})
	}
}
