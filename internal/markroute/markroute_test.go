//go:build linux

package markroute

import (
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	direct "github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var (
	both   = []intercept.Family{intercept.IPv4, intercept.IPv6}
	routes = []intercept.MarkRoute{{Mark: intercept.Mark{Value: 0x539, Mask: 1<<32 - 1}, Table: 133}}
	masked = []intercept.MarkRoute{{Mark: intercept.Mark{Value: 0x100, Mask: 0xf00}, Table: 1000}}
)

// namespace is one with lo up, and what a test does in it.
type namespace struct {
	*netlab.Namespace
	t *testing.T
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	netlab.Require(t)
	netlab.RequireProgram(t, "ip")
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	n := namespace{ns, t}
	n.run("ip link set lo up")
	return n
}

// run runs lines of shell.
func (n namespace) run(lines string) string {
	n.t.Helper()
	var out strings.Builder
	cmd := exec.Command("sh", "-ec", lines)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Start(cmd, nil); err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		n.t.Fatalf("%s: %v\n%s", lines, err, &out)
	}
	return out.String()
}

// contents are all rules and routes.
func (n namespace) contents() string {
	n.t.Helper()
	return n.run("for f in -4 -6; do ip -d $f rule; ip -d $f route show table all; done")
}

// conn is a Conn whose methods run where they have to: in the namespace.
type conn struct {
	*Conn
	n namespace
}

func (n namespace) open() conn {
	n.t.Helper()
	c := conn{n: n}
	err := n.Do(func() (err error) {
		c.Conn, err = Open()
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

func (c conn) addMarked(routes []intercept.MarkRoute, families []intercept.Family) (
	added bool, undo func() error, err error) {
	var inside func() error
	err = c.n.Do(func() (err error) {
		added, inside, err = c.Conn.addMarked(routes, families)
		return err
	})
	return added, func() error { return c.n.Do(inside) }, err
}

func (c conn) keepMarked(routes []intercept.MarkRoute, families []intercept.Family) (removed bool, err error) {
	err = c.n.Do(func() (err error) {
		removed, err = c.Conn.keepMarked(routes, families)
		return err
	})
	return removed, err
}

// expect compares the namespace with what it should have.
func (n namespace) expect(when, want string) {
	n.t.Helper()
	if diff := cmp.Diff(want, n.contents()); diff != "" {
		n.t.Errorf("%s: -expected +found\n%s", when, diff)
	}
}

func add(t *testing.T, c conn, routes []intercept.MarkRoute, families []intercept.Family) (undo func() error) {
	t.Helper()
	_, undo, err := c.addMarked(routes, families)
	if err != nil {
		t.Fatal(err)
	}
	return undo
}

// differences is what Check says, line by line.
func differences(t *testing.T, c conn, routes []intercept.MarkRoute, families []intercept.Family) string {
	t.Helper()
	diffs, err := c.checkMarked(routes, families)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, d := range diffs {
		b.WriteString(d.String() + "\n")
	}
	return b.String()
}

// TestAdd: twice is once, what undoes the second removes nothing, and what
// undoes the first all.
func TestAdd(t *testing.T) {
	for name, families := range map[string][]intercept.Family{"both": both, "IPv4": both[:1], "IPv6": both[1:]} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			c, before := n.open(), n.contents()
			all := append(routes, masked...)
			undo := add(t, c, all, families)
			made := n.contents()
			for _, f := range families {
				flag := map[intercept.Family]string{intercept.IPv4: "-4", intercept.IPv6: "-6"}[f]
				for _, r := range []struct{ mark, table string }{{"0x539", "133"}, {"0x100/0xf00", "1000"}} {
					if got := n.run("ip " + flag + " rule"); strings.Count(got, "fwmark "+r.mark+" lookup "+r.table+" ") != 1 {
						t.Errorf("%s: not one rule for the mark %s:\n%s", f, r.mark, got)
					}
					if got := n.run("ip " + flag + " route show table " + r.table); strings.Count(got, "\n") != 1 ||
						!strings.HasPrefix(got, "local default dev lo ") {
						t.Errorf("%s: table %s:\n%s", f, r.table, got)
					}
				}
			}
			if added, _, err := c.addMarked(all, families); err != nil || added {
				t.Errorf("the second Add: %v, %v", added, err)
			}
			nothing := add(t, c, all, families)
			n.expect("the second Add", made)
			if err := nothing(); err != nil {
				t.Error(err)
			}
			n.expect("the second undone", made)
			if diffs := differences(t, c, all, families); diffs != "" {
				t.Errorf("differences:\n%s", diffs)
			}
			// Only what the first Add made: the rest was there.
			n.run("ip rule add pref 10 fwmark 0x77 lookup 133 proto 5; ip -6 rule add pref 10 fwmark 0x77 lookup 133 proto 5")
			if err := undo(); err != nil {
				t.Error(err)
			}
			n.run("ip rule del pref 10; ip -6 rule del pref 10")
			n.expect("undone", before)
			if err := undo(); err != nil {
				t.Errorf("undone again: %v", err)
			}
		})
	}
}

// strangers are rules and routes that other people could have beside ours.
const strangers = `
for f in -4 -6; do
	ip $f rule add pref 50 fwmark 0x53a lookup 133 protocol 5
	ip $f rule add pref 99 fwmark 0x539/0xfff lookup 133
	ip $f rule add pref 100 iif lo fwmark 0x539 lookup 133
	ip $f rule add pref 101 fwmark 0x539 lookup 134
	ip $f rule add pref 32765 lookup 133
	ip $f rule add fwmark 0x100/0xf00 lookup 1001
	ip $f rule add fwmark 0x77 unreachable
	ip $f route add local default dev lo table 134 proto static
	ip $f route add unreachable default table 1001 metric 7
done
ip route add 192.0.2.0/24 dev lo table 133
ip -6 route add 2001:db8::/32 dev lo table 133
`

// TestKeep: what others have stays as it is, whatever we add, keep and remove.
func TestKeep(t *testing.T) {
	n := newNamespace(t)
	n.run(strangers)
	c, before := n.open(), n.contents()
	keep := func(routes []intercept.MarkRoute, families []intercept.Family, want bool) {
		t.Helper()
		if removed, err := c.keepMarked(routes, families); err != nil || removed != want {
			t.Errorf("Keep(%v, %v): %v, %v", routes, families, removed, err)
		}
	}
	keep(nil, nil, false)
	n.expect("nothing of ours", before)

	add(t, c, routes, both)
	ours := n.contents()
	if ours == before {
		t.Fatal("nothing was added")
	}
	add(t, c, masked, both)
	keep(append(masked, routes...), both, false)
	keep(routes, both, true)
	n.expect("one of two kept", ours)
	keep(routes, both, false)

	keep(routes, both[:1], true)
	if diffs := differences(t, c, routes, both[:1]); diffs != "" {
		t.Errorf("IPv4 kept: %s", diffs)
	}
	const missing = "IPv6 route local default dev lo table 133: missing\n" +
		"IPv6 rule fwmark 0x539/0xffffffff lookup 133: missing\n"
	if got := differences(t, c, routes, both); got != missing {
		t.Errorf("IPv4 kept: %s", got)
	}
	keep(nil, both, true)
	n.expect("nothing kept", before)
}

// TestIdentical: what somebody else has made for the same purpose serves, and
// stays theirs.
func TestIdentical(t *testing.T) {
	n := newNamespace(t)
	// As people do by hand.
	n.run(`for f in -4 -6; do ip $f rule add fwmark 1337 lookup 133; ip $f route add local default dev lo table 133; done`)
	c, before := n.open(), n.contents()
	undo := add(t, c, routes, both)
	n.expect("Add", before)
	if err := undo(); err != nil {
		t.Error(err)
	}
	n.expect("undone", before)
	if removed, err := c.keepMarked(nil, nil); err != nil || removed {
		t.Errorf("Keep: %v, %v", removed, err)
	}
	n.expect("Keep", before)

	// Half of it.
	n.run("ip rule del fwmark 1337; ip -6 route del local default table 133")
	half := n.contents()
	undo = add(t, c, routes, both)
	if diffs := differences(t, c, routes, both); diffs != "" {
		t.Errorf("differences:\n%s", diffs)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	n.expect("half", half)
}

// TestAlike: what does not deliver all packets with the mark does not serve.
func TestAlike(t *testing.T) {
	const rule, route = "ip $f rule add fwmark 1337 lookup 133", "ip $f route add local default dev lo table 133"
	for name, lines := range map[string]string{
		"by interface":     "ip $f rule add iif lo fwmark 1337 lookup 133;" + route,
		"by out interface": "ip $f rule add oif lo fwmark 1337 lookup 133;" + route,
		"by type":          "ip $f rule add fwmark 1337 tos 0x10 lookup 133;" + route,
		"by source": "ip $f rule add from default fwmark 1337 lookup 133;" +
			"ip $f rule add from $a fwmark 1337 lookup 133;" + route,
		"by destination":    "ip $f rule add to $a fwmark 1337 lookup 133;" + route,
		"by user":           "ip $f rule add uidrange 0-5 fwmark 1337 lookup 133;" + route,
		"by protocol":       "ip $f rule add ipproto tcp fwmark 1337 lookup 133;" + route,
		"by port":           "ip $f rule add sport 80 fwmark 1337 lookup 133;" + route,
		"negated":           "ip $f rule add not fwmark 1337 lookup 133;" + route,
		"suppressed":        "ip $f rule add fwmark 1337 lookup 133 suppress_prefixlength 0;" + route,
		"too late":          rule + " pref 40000;" + route,
		"another mask":      "ip $f rule add fwmark 1337/0xffff lookup 133;" + route,
		"another table":     "ip $f rule add fwmark 1337 lookup 132;" + route,
		"not a table":       "ip $f rule add fwmark 1337 unreachable;" + route,
		"refused":           "ip $f rule add fwmark 1337 lookup 133 prohibit;" + route,
		"by its VRF":        "ip $f rule add fwmark 1337 l3mdev;" + route,
		"by another route":  rule + "; [ $f = -4 ] || ip $f route add local default from $a dev lo table 133",
		"part of a route":   rule + "; ip $f route add local $a dev lo table 133",
		"route elsewhere":   rule + "; ip $f route add local default dev lo table 132",
		"route by its type": rule + "; [ $f = -6 ] || ip $f route add local default tos 0x10 dev lo table 133",
	} {
		t.Run(name, func(t *testing.T) {
			n := newNamespace(t)
			n.run("f=-4; a=192.0.2.0/24;" + strings.Replace(lines, "from default", "from 192.0.2.9", 1))
			n.run("f=-6; a=2001:db8::/32;" + strings.Replace(lines, "from default", "from 2001:db8::9", 1))
			c, before := n.open(), n.contents()
			if got := differences(t, c, routes, both); strings.Count(got, ": missing\n") != 2 || strings.Count(got, "\n") != 2 {
				t.Errorf("differences:\n%s", got)
			}
			undo := add(t, c, routes, both)
			if got := differences(t, c, routes, both); got != "" {
				t.Errorf("differences after Add:\n%s", got)
			}
			if err := undo(); err != nil {
				t.Error(err)
			}
			n.expect("undone", before)
		})
	}
}

// TestTableInUse: a table that leads somewhere else is refused by its number,
// and nothing is left behind.
func TestTableInUse(t *testing.T) {
	for family, line := range map[string]string{
		"IPv4": "ip route add unreachable default table 133",
		"IPv6": "ip -6 route add unreachable default table 133 metric 1024",
	} {
		n := newNamespace(t)
		n.run(line)
		c, before := n.open(), n.contents()
		_, _, err := c.addMarked(routes, both)
		if err == nil || !strings.Contains(err.Error(), family+" route local default dev lo table 133") ||
			!strings.Contains(err.Error(), "table 133 has another default route") {
			t.Errorf("%s: %v", line, err)
		}
		n.expect(line, before)
	}
}

// TestCheck: every difference is named.
func TestCheck(t *testing.T) {
	n := newNamespace(t)
	c := n.open()
	const (
		route4 = "IPv4 route local default dev lo table 133: "
		rule4  = "IPv4 rule fwmark 0x539/0xffffffff lookup 133: "
		route6 = "IPv6 route local default dev lo table 133: "
		rule6  = "IPv6 rule fwmark 0x539/0xffffffff lookup 133: "
	)
	expect := func(when string, routes []intercept.MarkRoute, families []intercept.Family, want ...string) {
		t.Helper()
		if diff := cmp.Diff(strings.Join(want, ""), differences(t, c, routes, families)); diff != "" {
			t.Errorf("%s: -expected +found\n%s", when, diff)
		}
	}
	const missing, extra = "missing\n", "not part of this configuration\n"
	expect("nothing, and nothing wanted", nil, nil)
	expect("nothing", routes, both, route4+missing, rule4+missing, route6+missing, rule6+missing)
	add(t, c, routes, both)
	expect("all", routes, both)
	expect("none wanted", nil, both, route4+extra, rule4+extra, route6+extra, rule6+extra)
	expect("IPv6 wanted", routes, both[1:], route4+extra, rule4+extra)
	n.run("ip rule del fwmark 1337 lookup 133; ip -6 route flush table 133")
	expect("two taken away", routes, both, rule4+missing, route6+missing)
	// Strangers' are no difference.
	n.run(strangers)
	expect("strangers", routes, both, rule4+missing, route6+missing)
	add(t, c, routes, both)
	expect("put right", routes, both)
}

// TestPermission: who may not change routes is told so. Looking is free.
func TestPermission(t *testing.T) {
	n := newNamespace(t)
	before := n.contents()
	err := n.Do(func() error {
		c, err := Open()
		if err != nil {
			return err
		}
		defer c.Close()
		var there error
		return errors.Join(withoutNetAdmin(func() error {
			if _, err := c.checkMarked(routes, both); err != nil {
				t.Errorf("Check: %v", err)
			}
			if removed, err := c.keepMarked(nil, nil); err != nil || removed {
				t.Errorf("Keep of nothing: %v, %v", removed, err)
			}
			_, _, err := c.addMarked(routes, both)
			if !errors.Is(err, intercept.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("Add: %v", err)
			}
			return nil
		}), func() error { _, _, there = c.addMarked(routes, both); return there }(), withoutNetAdmin(func() error {
			if _, _, err := c.addMarked(routes, both); err != nil {
				t.Errorf("Add of what is there: %v", err)
			}
			if _, err := c.keepMarked(nil, nil); !errors.Is(err, intercept.ErrPermission) {
				t.Errorf("Keep: %v", err)
			}
			return nil
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	c := n.open()
	if diffs := differences(t, c, routes, both); diffs != "" {
		t.Errorf("differences:\n%s", diffs)
	}
	if _, err := c.keepMarked(nil, nil); err != nil {
		t.Error(err)
	}
	n.expect("at the end", before)
}

// withoutNetAdmin runs f on this thread without the capability.
func withoutNetAdmin(f func() error) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		return err
	}
	less := all
	less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &less[0]); err != nil {
		return err
	}
	return errors.Join(f(), unix.Capset(&header, &all[0]))
}

// TestConcurrent: eight who add at once make one of each, and all of them are
// content.
func TestConcurrent(t *testing.T) {
	n := newNamespace(t)
	before := n.contents()
	var conns [8]conn
	for i := range conns {
		conns[i] = n.open()
	}
	var once string
	for range 10 {
		var adders sync.WaitGroup
		start := make(chan struct{})
		undo := make([]func() error, len(conns))
		for i, c := range conns {
			adders.Go(func() {
				<-start
				var err error
				if _, undo[i], err = c.addMarked(append(routes, masked...), both); err != nil {
					t.Errorf("Add: %v", err)
				}
			})
		}
		close(start)
		adders.Wait()
		if t.Failed() {
			return
		}
		if once == "" {
			once = n.contents()
			if strings.Count(once, "proto 177") != 8 {
				t.Errorf("not one of each:\n%s", once)
			}
		}
		n.expect("all at once", once)
		for _, undo := range undo {
			if err := undo(); err != nil {
				t.Error(err)
			}
		}
		n.expect("undone", before)
	}
}

// TestIPv6Off: where IPv6 is switched off, as it is in many containers, there
// is nothing to deliver, and nothing is missing.
func TestIPv6Off(t *testing.T) {
	n := newNamespace(t)
	n.run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
	c, before := n.open(), n.contents()
	add(t, c, routes, both)
	if diffs := differences(t, c, routes, both); diffs != "" {
		t.Errorf("differences:\n%s", diffs)
	}
	if got := n.run("ip rule"); !strings.Contains(got, "fwmark 0x539 lookup 133 ") {
		t.Errorf("IPv4 has no rule:\n%s", got)
	}
	n.run("echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
	if got := differences(t, c, routes, both); strings.Count(got, "IPv6") != 2 {
		t.Errorf("IPv6 is on again, and the differences are %q", got)
	}
	add(t, c, routes, both)
	// This takes the route away, and leaves the rule.
	n.run("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
	if diffs := differences(t, c, routes, both); diffs != "" {
		t.Errorf("differences:\n%s", diffs)
	}
	if _, err := c.keepMarked(nil, nil); err != nil {
		t.Error(err)
	}
	n.expect("Keep", before)
}

// TestElsewhere: nothing is changed in a namespace that the Conn was not opened
// in.
func TestElsewhere(t *testing.T) {
	n, other := newNamespace(t), newNamespace(t)
	c, here, there := n.open(), n.contents(), other.contents()
	err := other.Do(func() error {
		_, _, err := c.Conn.addMarked(routes, both)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "another network namespace") {
		t.Errorf("Add: %v", err)
	}
	n.expect("Add elsewhere", here)
	other.expect("Add elsewhere", there)
}

// TestLoDown: the error says what to do.
func TestLoDown(t *testing.T) {
	n := newNamespace(t)
	n.run("ip link set lo down")
	c, before := n.open(), n.contents()
	if _, _, err := c.addMarked(routes, both); err == nil || !strings.Contains(err.Error(), "ip link set lo up") {
		t.Errorf("Add: %v", err)
	}
	n.expect("Add", before)
}

// BenchmarkNothing is what an apply pays for routes that it does not want.
func BenchmarkNothing(b *testing.B) {
	netlab.Require(b)
	ns, err := netlab.NewNamespace()
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		for b.Loop() {
			c, err := Open()
			if err != nil {
				return err
			}
			if _, _, err = c.addMarked(nil, both); err == nil {
				_, err = c.keepMarked(nil, both)
			}
			if err := errors.Join(err, c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAll is what it pays for those that it wants, and for their removal.
func BenchmarkAll(b *testing.B) {
	netlab.Require(b)
	ns, err := netlab.NewNamespace()
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
			return err
		}
		for b.Loop() {
			c, err := Open()
			if err != nil {
				return err
			}
			if _, _, err = c.addMarked(routes, both); err == nil {
				_, err = c.keepMarked(routes, both)
			}
			if err == nil {
				_, err = c.keepMarked(nil, both)
			}
			if err := errors.Join(err, c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

// TestWithoutPolicyRouting: a kernel without it would put the route into table main, so nothing is written.
func TestWithoutPolicyRouting(t *testing.T) {
	rule := func(family byte) direct.Message {
		return direct.Message{Header: direct.Header{Type: unix.RTM_NEWRULE},
			Data: append([]byte{family}, make([]byte, 11)...)}
	}
	for name, tt := range map[string]struct {
		rules []direct.Message // nil: there is no such listing
		want  ruleset.Family   // of the route that is refused
	}{
		"no rules": {nil, ruleset.IPv4}, "rules of IPv4": {[]direct.Message{rule(unix.AF_INET)}, ruleset.IPv6},
		"rules of IPv6": {[]direct.Message{rule(unix.AF_INET6)}, ruleset.IPv4},
	} {
		c := &Conn{list: nltest.Dial(func(req []direct.Message) (answer []direct.Message, err error) {
			if len(req) == 0 {
				return nil, io.EOF
			}
			switch typ := req[0].Header.Type; {
			case typ == unix.RTM_GETLINK:
				answer = lo()
			case typ == unix.RTM_GETRULE && tt.rules == nil:
				req[0].Header.Flags = 0 // which mean something else in an answer
				return nltest.Error(int(unix.EOPNOTSUPP), req)
			case typ == unix.RTM_GETRULE:
				answer = slices.Clone(tt.rules)
			}
			for i := range answer {
				answer[i].Header.Sequence, answer[i].Header.PID = req[0].Header.Sequence, req[0].Header.PID
			}
			return answer, nil
		})}
		_, _, err := c.addMarked([]ruleset.MarkRoute{{Mark: ruleset.Mark{Value: 1, Mask: 1}, Table: 133}},
			[]ruleset.Family{ruleset.IPv4, ruleset.IPv6})
		if !errors.Is(err, ruleset.ErrUnsupported) || !strings.Contains(err.Error(), "MULTIPLE_TABLES") ||
			!strings.Contains(err.Error(), tt.want.String()) || c.handle != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// lo is what the kernel says of lo, with IPv6 on.
func lo() []direct.Message {
	conf := make([]byte, 4*64)
	attr := func(typ uint16, value []byte) []byte { return nl.NewRtAttr(int(typ), value).Serialize() }
	data := append(make([]byte, unix.SizeofIfInfomsg),
		attr(unix.IFLA_AF_SPEC, attr(unix.AF_INET6, attr(unix.IFLA_INET6_CONF, conf)))...)
	return []direct.Message{{Header: direct.Header{Type: unix.RTM_NEWLINK}, Data: data}}
}
