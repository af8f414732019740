//go:build linux

package markroute

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
)

func (c conn) addBound(families []intercept.Family) (added bool, undo func() error, err error) {
	var inside func() error
	err = c.n.Do(func() (err error) {
		added, inside, err = c.Conn.addBound(families)
		return err
	})
	return added, func() error { return c.n.Do(inside) }, err
}

func (c conn) keepBound(families []intercept.Family) (removed bool, err error) {
	err = c.n.Do(func() (err error) {
		removed, err = c.Conn.keepBound(families)
		return err
	})
	return removed, err
}

// interfaces are two that are up, one of a bridge with a port, and one that is down.
const interfaces = `
ip link add eth0 type veth peer name peer0
ip link add eth1 type veth peer name peer1
ip link add br0 type bridge
ip link set peer1 master br0
for i in eth0 eth1 peer1 br0; do ip link set $i up; done
`

// detours are the routes that addBound makes, and those of others beside them.
func (n namespace) detours() string {
	n.t.Helper()
	return n.run("for f in -4 -6; do ip $f route show table local; done | grep -e 'proto 177' -e 'proto 5' -e 192.0.2 || :")
}

// TestBound: each interface that sends for itself gets its routes, once; they go when they are not wanted, and others'
// stay. Who asks without an interface gets the kernel's own.
func TestBound(t *testing.T) {
	n := newNamespace(t)
	n.run(interfaces)
	n.run("ip route add local 127.0.0.0/8 dev eth1 table local metric 99 proto 5; ip route add local 192.0.2.1 dev eth0")
	c, before := n.open(), n.detours()
	expect := func(when, want string) {
		t.Helper()
		if diff := cmp.Diff(want, n.detours()); diff != "" {
			t.Errorf("%s: -expected +found\n%s", when, diff)
		}
	}
	checked := func() []intercept.Difference {
		t.Helper()
		var diffs []intercept.Difference
		if err := n.Do(func() (err error) { diffs, err = c.checkBound(both); return err }); err != nil {
			t.Error(err)
		}
		return diffs
	}
	if diffs := checked(); len(diffs) != 6 {
		t.Errorf("none there: %v", diffs)
	}
	added, undo, err := c.addBound(both)
	if err != nil || !added {
		t.Fatalf("addBound: %v, %v", added, err)
	}
	made := n.detours()
	for _, dev := range []string{"eth0", "eth1", "br0"} {
		for _, dst := range []string{"127.0.0.1", "127.0.0.53", "::1"} {
			if got := n.run("ip route get " + dst + " oif " + dev); !strings.HasPrefix(got, "local ") {
				t.Errorf("to %s by %s: %s", dst, dev, got)
			}
		}
	}
	for dst, want := range map[string]string{"127.0.0.1": "src 127.0.0.1", "127.0.0.53": "src 127.0.0.1",
		"::1": "src ::1"} {
		if got := n.run("ip route get " + dst); !strings.Contains(got, want) {
			t.Errorf("to %s: %s", dst, got)
		}
	}
	if got := strings.Count(made, "proto 177"); got != 6 {
		t.Errorf("%d routes, not one of each family for three interfaces:\n%s", got, made)
	}
	if added, _, err := c.addBound(both); err != nil || added {
		t.Errorf("the second addBound: %v, %v", added, err)
	}
	if removed, err := c.keepBound(both); err != nil || removed {
		t.Errorf("all kept: %v, %v", removed, err)
	}
	expect("twice", made)
	if diffs := checked(); len(diffs) > 0 {
		t.Errorf("differences: %v", diffs)
	}
	n.run("ip link add late type bridge; ip link set late up")
	n.run("ip link add small type bridge; ip link set small mtu 1000; ip link set small up")
	n.run("ip link add trial group 177 type bridge; ip link set trial up")
	if diffs := checked(); len(diffs) != 3 || !strings.Contains(diffs[0].String(), "127.0.0.0/8 dev late ") ||
		!strings.Contains(diffs[1].String(), "::1/128 dev late ") || !strings.Contains(diffs[2].String(), "dev small ") {
		t.Errorf("two interfaces that have come: %v", diffs)
	}
	if added, _, err := c.addBound(both); err != nil || !added || strings.Count(n.detours(), "dev late proto 177") != 2 {
		t.Errorf("an interface that has come: %v, %v:\n%s", added, err, n.detours())
	}
	if diffs := checked(); len(diffs) > 0 {
		t.Errorf("differences: %v", diffs)
	}
	n.run("ip link set late down; ip link set late up")
	if diffs := checked(); len(diffs) != 1 || !strings.Contains(diffs[0].String(), "::1/128 dev late ") {
		t.Errorf("an interface that was down: %v", diffs)
	}
	n.run("ip link del late; ip link del small; ip link del trial")
	expect("an interface has gone", made)
	if removed, err := c.keepBound(both[:1]); err != nil || !removed {
		t.Errorf("IPv4 kept: %v, %v", removed, err)
	}
	if got := n.detours(); strings.Count(got, "proto 177") != 3 || strings.Contains(got, "::1 ") {
		t.Errorf("IPv4 kept:\n%s", got)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	expect("undone", before)

	// What is for marks does not touch them, nor they that.
	if _, _, err := c.addBound(both); err != nil {
		t.Fatal(err)
	}
	add(t, c, routes, both)
	if removed, err := c.keepMarked(nil, nil); err != nil || !removed {
		t.Errorf("Keep: %v, %v", removed, err)
	}
	expect("Keep", made)
	if diffs := differences(t, c, nil, both); diffs != "" {
		t.Errorf("differences: %s", diffs)
	}
	add(t, c, routes, both)
	if removed, err := c.keepBound(nil); err != nil || !removed {
		t.Errorf("keepBound: %v, %v", removed, err)
	}
	expect("keepBound", before)
	if diffs := differences(t, c, routes, both); diffs != "" {
		t.Errorf("differences: %s", diffs)
	}
}

// TestBoundWithoutIPv6: where IPv6 is off, on lo or on an interface, there are no routes of it, and no error.
func TestBoundWithoutIPv6(t *testing.T) {
	for where, want := range map[string]int{"all": 0, "eth0": 2} {
		n := newNamespace(t)
		n.run(interfaces + "echo 1 > /proc/sys/net/ipv6/conf/" + where + "/disable_ipv6")
		c := n.open()
		if _, _, err := c.addBound(both); err != nil {
			t.Errorf("off on %s: %v", where, err)
		}
		if got := strings.Count(n.run("ip -6 route show table local"), "proto 177"); got != want {
			t.Errorf("off on %s: %d routes of IPv6, not %d", where, got, want)
		}
		if got := strings.Count(n.run("ip route show table local"), "proto 177"); got != 3 {
			t.Errorf("off on %s: %d routes of IPv4, not 3", where, got)
		}
	}
}

// TestOthersInFront: others' rules that come before ours and can send its packets elsewhere are named, and ours is made
// again in front of them. Those that no packet of ours meets are left alone.
func TestOthersInFront(t *testing.T) {
	const problem = "is asked after the rule "
	for lines, named := range map[string]string{
		// As wg-quick(8) makes them.
		"ip $f rule add not fwmark 51820 table 51820":                                                    "99: not fwmark 0xca6c/0xffffffff lookup 51820",
		"ip $f rule add not fwmark 51820 table 51820; ip $f rule add table main suppress_prefixlength 0": "98: lookup 254",
		"ip $f rule add from $a lookup 100":                                                              "99: lookup 100",
		"ip $f rule add to $a unreachable":                                                               "99:",
		"ip $f rule add fwmark 0x539/0xfff lookup 100":                                                   "99: fwmark 0x539/0xfff lookup 100",
		"ip $f rule add iif lo lookup 100":                                                               "99: lookup 100",
		"ip $f rule add uidrange 0-1000 prohibit":                                                        "99:",
		"ip $f rule add pref 40 lookup main; ip $f rule add pref 30 goto 40":                             "30:",
		"ip $f rule add not fwmark 0x539 to $a lookup 100":                                               "99: not fwmark 0x539/0xffffffff lookup 100",
		"ip $f rule add pref 1 lookup main":                                                              "1: lookup 254",
		// No packet of ours meets these, or they say nothing about it.
		"ip $f rule add not fwmark 0x539 lookup 100":     "",
		"ip $f rule add fwmark 0x53a lookup 100":         "",
		"ip $f rule add iif eth7 lookup 100":             "",
		"ip $f rule add oif eth7 lookup 100":             "",
		"ip $f rule add lookup local":                    "",
		"ip $f rule add lookup 133":                      "",
		"ip $f rule add l3mdev":                          "",
		"ip $f rule add pref 200 lookup main":            "",
		"ip $f rule add ipproto udp dport 53 lookup 100": "",
	} {
		t.Run(lines, func(t *testing.T) {
			n := newNamespace(t)
			c, before := n.open(), n.contents()
			add(t, c, routes, both)
			n.run("f=-4; a=192.0.2.0/24;" + lines)
			n.run("f=-6; a=2001:db8::/32;" + lines)
			got := differences(t, c, routes, both)
			if named == "" {
				if got != "" {
					t.Errorf("differences:\n%s", got)
				}
				if added, _, err := c.addMarked(routes, both); err != nil || added {
					t.Errorf("Add: %v, %v", added, err)
				}
				return
			}
			if strings.Count(got, problem+named) != 2 || strings.Count(got, "\n") != 2 {
				t.Errorf("differences:\n%s", got)
			}
			if added, _, err := c.addMarked(routes, both); err != nil || !added {
				t.Errorf("Add: %v, %v", added, err)
			}
			if removed, err := c.keepMarked(routes, both); err != nil || !removed {
				t.Errorf("Keep: %v, %v", removed, err)
			}
			if got := differences(t, c, routes, both); got != "" {
				t.Errorf("differences after Add:\n%s", got)
			}
			if got := strings.Count(n.contents(), "fwmark 0x539 lookup 133"); got != 2 {
				t.Errorf("%d rules of ours:\n%s", got, n.contents())
			}
			if added, _, err := c.addMarked(routes, both); err != nil || added {
				t.Errorf("the second Add: %v, %v", added, err)
			}
			// What others have made is theirs.
			n.run("for f in -4 -6; do ip $f rule | sed -n '/proto 177\\|^0:\\|^3276[67]:/!s/:.*//p' | " +
				"while read p; do ip $f rule del pref $p; done; done")
			if _, err := c.keepMarked(nil, nil); err != nil {
				t.Error(err)
			}
			n.expect("at the end", before)
		})
	}
}
