//go:build linux

package markroute

import (
	"net/netip"
	"slices"
	"testing"
)

// TestTakeOver: what others made is ours where it is wanted, and gone where it is not. Other things of theirs stay.
func TestTakeOver(t *testing.T) {
	const theirs = `
		ip link add eth0 type veth peer name peer0; ip link set eth0 up; ip address add fd00:244::5/64 dev eth0 nodad
		ip address add ::6/128 dev lo
		for f in -4 -6; do
			ip $f rule add fwmark 1337 lookup 133
			ip $f route add local default dev lo table 133
			ip $f rule add fwmark 7 lookup 77
		done`
	sources := []netip.Addr{netip.MustParseAddr("::6")}
	for name, want := range map[string]Want{
		"wanted":     {Routes: routes, Families: both, Sources: sources},
		"of IPv4":    {Routes: routes, Families: both[:1]},
		"not wanted": {},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			n.run(theirs)
			c := n.open()
			do := func(f func() error) {
				t.Helper()
				if err := n.Do(f); err != nil {
					t.Fatal(err)
				}
			}
			ours := func() (count int) {
				do(func() error {
					objects, _, err := c.all()
					for _, o := range objects {
						if slices.ContainsFunc(wanted(routes, both), o.is) {
							count++
							if !o.ours {
								t.Errorf("%s is still theirs", o)
							}
						}
					}
					return err
				})
				return count
			}
			do(func() error {
				if _, _, err := c.Add(want); err != nil { // as apply does first
					return err
				}
				return c.TakeOver(routes, sources, want)
			})
			if got := ours(); got != 2*len(want.Families) {
				t.Errorf("%d of ours", got)
			}
			do(func() error {
				diffs, err := c.Check(want)
				if len(diffs) > 0 {
					t.Errorf("%v", diffs)
				}
				return err
			})
			do(func() error { _, err := c.Keep(Want{}); return err })
			if got := ours(); got != 0 {
				t.Errorf("%d are left", got)
			}
			if got := n.run("ip -6 address show dev lo to ::6; ip rule | grep -c 77; ip -6 rule | grep -c 77"); got != "1\n1\n" {
				t.Errorf("left is %q", got)
			}
		})
	}
}
