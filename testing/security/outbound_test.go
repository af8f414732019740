//go:build linux

package security

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// mode is a mode of the configuration.
type mode struct {
	name    string
	backend dataplane.Backend // empty: there are no rules
	tproxy  bool
}

// modes are those in which there are rules.
func modes(both bool) (all []mode) {
	for _, b := range []dataplane.Backend{
		dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy,
	} {
		all = append(all, mode{string(b), b, false})
		if both {
			all = append(all, mode{string(b) + ", tproxy", b, true})
		}
	}
	return all
}

// noRules is a pod without rules.
var noRules = mode{name: "no rules"}

// pod returns a pod with a sidecar and rules.
func (m mode) pod(t *testing.T, change ...func(*intercept.Config)) *netlab.Lab {
	t.Helper()
	lab := m.podWithoutProxy(t, change...)
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: m.tproxy}); err != nil {
		t.Fatal(err)
	}
	return lab
}

// podWithoutProxy returns a pod with rules.
func (m mode) podWithoutProxy(t *testing.T, change ...func(*intercept.Config)) *netlab.Lab {
	t.Helper()
	for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		netlab.RequireProgram(t, "iptables-"+string(v)+"-restore")
		netlab.RequireProgram(t, "ip6tables-"+string(v)+"-restore")
	}
	lab := netlab.NewT(t, netlab.Options{})
	for sysctl, value := range map[string]string{
		// Every port is every user's, as under Docker and containerd.
		"net/ipv4/ip_unprivileged_port_start": "0",
		"net/ipv4/tcp_ecn":                    "1",
		"net/ipv4/ping_group_range":           "0 2147483647",
		"net/ipv4/tcp_fastopen":               "0x607", // without a cookie, by every server
	} {
		for _, ns := range []*netlab.Namespace{lab.Pod, lab.Peer} {
			if err := ns.Do(func() error { return os.WriteFile("/proc/sys/"+sysctl, []byte(value), 0) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if m.backend == "" {
		return lab
	}
	c := intercept.Default()
	if m.tproxy {
		c.Inbound.Mode = intercept.InboundTProxy
	}
	for _, f := range change {
		f(&c)
	}
	if _, err := (dataplane.Pod{NetNS: lab.Pod.Path(), Backend: m.backend}).Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return lab
}

// prepare makes what the attempts take for granted: an application that listens, a neighbour whose link-local address
// is known, and ::6.
func prepare(t *testing.T, s scene, lab *netlab.Lab) {
	t.Helper()
	for family := range 2 {
		resolver := netip.AddrPortFrom(podAddr(family), 53)
		f := netlab.Flow{Protocol: intercept.UDP, Dst: resolver, Owner: &intercept.Owner{UID: 1337, GID: 1337}}
		if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleApp {
			t.Fatalf("%s: %s, %v", f, got, err)
		}
	}
	for family, src := range []string{"127.0.0.6", "::6"} {
		for _, dst := range []netip.Addr{podAddr(family), netip.MustParseAddr([]string{"127.0.0.1", "::1"}[family])} {
			f := netlab.Flow{Protocol: intercept.TCP, Src: netip.AddrPortFrom(netip.MustParseAddr(src), 0),
				Dst: netip.AddrPortFrom(dst, insidePort)}
			if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleApp {
				t.Fatalf("%s: %s, %v", f, got, err)
			}
		}
	}
	err := lab.Pod.Do(func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for i := range s.attempts {
			to := linkLocal(destination(i, 1))
			err = errors.Join(err, netlink.NeighAdd(&netlink.Neigh{LinkIndex: dev.Attrs().Index, IP: to.Addr().AsSlice(),
				HardwareAddr: []byte{2, 0, 0, 0, 0, 1}, State: unix.NUD_PERMANENT}))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// programs makes programs with bits set, in a directory in which everybody may make others.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "security")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	err = os.Chmod(dir, 0o777|os.ModeSticky)
	for bit, mode := range map[string]os.FileMode{"setuid": os.ModeSetuid, "setgid": os.ModeSetgid} {
		path := filepath.Join(dir, bit)
		err = errors.Join(err, copyProgram(path))
		uid, gid := 0, 1337
		if bit == "setuid" {
			uid, gid = 1337, 0
		}
		err = errors.Join(err, os.Chown(path, uid, gid), os.Chmod(path, mode|0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sockets returns the files that a sender is given, and the process of the proxy's that has them, too.
func sockets(t *testing.T, lab *netlab.Lab) []*os.File {
	t.Helper()
	var files []*os.File
	keep := func(fd int, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	proxys := func(domain int) *os.File {
		t.Helper()
		f := keep(lab.Pod.Socket(domain, unix.SOCK_STREAM, &intercept.Owner{UID: 1337, GID: 1337}))
		// It is to block.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			t.Fatal(err)
		}
		return f
	}
	files = append(files, proxys(unix.AF_INET), proxys(unix.AF_INET6))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	ours, theirs := keep(pair[0], err), keep(pair[1], err)
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		rights := unix.UnixRights(int(proxys(domain).Fd()))
		if err := unix.Sendmsg(int(ours.Fd()), []byte{0}, rights, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return append(files, theirs)
}

// TestAttempts makes the attempts of the table.
func TestAttempts(t *testing.T) {
	netlab.Require(t)
	dir := programs(t)
	for _, s := range scenes() {
		for _, m := range append(modes(s.both), noRules) {
			t.Run(s.name+"/"+m.name, func(t *testing.T) {
				t.Parallel()
				s.make(t, m, dir)
			})
		}
	}
}

func (s scene) make(t *testing.T, m mode, dir string) {
	t.Helper()
	lab := m.pod(t, s.set)
	prepare(t, s, lab)
	watch, err := lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	env := []string{dirVariable + "=" + dir, pidVariable + "=" + strconv.Itoa(proxyProcess(t, lab))}
	for _, k := range kinds {
		h := k.start(t, s, lab, sockets(t, lab), env...)
		for i, a := range s.attempts {
			if a.by.name == k.name && a.from != nil {
				for family := range 2 {
					h[key(i, family)] = a.from(t, lab, destination(i, family))
				}
			}
		}
		seen, err := watch.SoFar()
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range s.attempts {
			if a.by.name != k.name {
				continue
			}
			for family := range 2 {
				a.judge(t, destination(i, family), m.backend != "", h[key(i, family)], seen)
			}
		}
	}
}

// judge compares what was heard and seen of an attempt with what is claimed.
func (a attempt) judge(t *testing.T, to netip.AddrPort, rules bool, heard string, seen []netlab.Seen) {
	t.Helper()
	var left []netlab.Seen
	for _, p := range seen {
		at := p.Dst.Addr().WithZone("")
		here := at == to.Addr() || at == linkLocal(to).Addr().WithZone("")
		if p.Sent && p.Interface == "eth0" && (here && (a.but == nil || !a.but(p)) || a.also != nil && a.also(p)) {
			left = append(left, p)
		}
	}
	in := families(1 << family(to.Addr()))
	if slices.Contains(a.lacks, heard) {
		if len(left) > 0 {
			t.Errorf("%s: %s, %s to %s: hears %q, and all the same: %s", a.claim, a.by.name, a.name, to, heard, left)
		}
		t.Logf("%s: %s, %s to %s: %s", a.claim, a.by.name, a.name, to, heard)
		return
	}
	want, proves := a.leaves&in != 0, true
	if !rules {
		want, proves = true, a.inert&in == 0
	}
	if proves && (len(left) > 0) != want {
		t.Errorf("%s: %s, %s to %s: leaves: %t, hears %q: %s", a.claim, a.by.name, a.name, to, len(left) > 0, heard, left)
	}
	if rules && a.says != nil && !within(heard, a.says) {
		t.Errorf("%s: %s, %s to %s: hears %q, not one of %q", a.claim, a.by.name, a.name, to, heard, a.says)
	}
}

// proxyProcess starts a process of the proxy's that has sockets, and returns its number.
func proxyProcess(t *testing.T, lab *netlab.Lab) int {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.ExtraFiles = sockets(t, lab)
	if _, err := cmd.StdinPipe(); err != nil { // closed with this process
		t.Fatal(err)
	}
	if err := lab.Pod.Start(cmd, &intercept.Owner{UID: 1337, GID: 1337}); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
