//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// sandboxConfig is what docs/sandbox.md has for the rules.
func sandboxConfig(t *testing.T) intercept.Config {
	t.Helper()
	config, err := settings.Load([]byte(quickstart.Read(t, sandboxPage).File(t, "sandbox.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// attempt is a socket and what it sends.
type attempt struct {
	name              string
	typ               int
	protocol          [2]int // by family
	data              [2]string
	connects, mayLack bool // the kernel may lack it
}

// attempts are all the ways in which IP leaves a socket: those that need no privilege, and some raw ones.
func attempts() []attempt {
	both := func(n int) [2]int { return [2]int{n, n} }
	all := []attempt{
		{name: "TCP", typ: unix.SOCK_STREAM, connects: true},
		{name: "Multipath TCP", typ: unix.SOCK_STREAM, protocol: both(unix.IPPROTO_MPTCP), connects: true},
		{name: "UDP", typ: unix.SOCK_DGRAM},
		{name: "UDP-Lite", typ: unix.SOCK_DGRAM, protocol: both(unix.IPPROTO_UDPLITE), mayLack: true},
		{name: "SCTP", typ: unix.SOCK_STREAM, protocol: both(unix.IPPROTO_SCTP), connects: true, mayLack: true},
		{name: "SCTP, many to one", typ: unix.SOCK_SEQPACKET, protocol: both(unix.IPPROTO_SCTP), mayLack: true},
		{name: "DCCP", typ: unix.SOCK_DCCP, protocol: both(unix.IPPROTO_DCCP), connects: true, mayLack: true},
		{name: "L2TP", typ: unix.SOCK_DGRAM, protocol: both(unix.IPPROTO_L2TP), mayLack: true},
		{name: "ping", typ: unix.SOCK_DGRAM, protocol: [2]int{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6},
			data: [2]string{"\x08\x00\x00\x00\x00\x00\x00\x01", "\x80\x00\x00\x00\x00\x00\x00\x01"}},
		{name: "extended ping", typ: unix.SOCK_DGRAM, protocol: [2]int{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6},
			data: [2]string{"\x2a\x00\x00\x00\x00\x00\x01\x01", "\xa0\x00\x00\x00\x00\x00\x01\x01"}},
	}
	for _, n := range []int{unix.IPPROTO_IPIP, unix.IPPROTO_IPV6, unix.IPPROTO_GRE, unix.IPPROTO_ESP, unix.IPPROTO_DCCP,
		unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE, unix.IPPROTO_L2TP, 253} {
		all = append(all, attempt{name: fmt.Sprintf("raw %d", n), typ: unix.SOCK_RAW, protocol: both(n)})
	}
	return all
}

// TestSandboxSockets: under the rules of docs/sandbox.md nothing that a process other than the proxy's sends leaves the
// pod, whatever kind of socket it takes. Without them all of it does.
func TestSandboxSockets(t *testing.T) {
	to := []netip.Addr{netip.MustParseAddr("203.0.113.66"), netip.MustParseAddr("2001:db8::66")}
	for _, backend := range []dataplane.Backend{
		"", dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy,
	} {
		t.Run("by "+string(backend), func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			if backend != "" {
				if backend != dataplane.BackendNFT {
					netlab.RequireProgram(t, string(backend)+"-restore")
				}
				if _, err := (dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}).Apply(t.Context(),
					sandboxConfig(t)); err != nil {
					t.Fatal(err)
				}
			}
			if err := lab.Pod.Do(func() error { // as containerd has it
				return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
			}); err != nil {
				t.Fatal(err)
			}
			watch, err := lab.Pod.Watch()
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Close()
			for family, addr := range to {
				for _, a := range attempts() {
					sent, err := a.send(lab, family, addr)
					if err != nil {
						t.Errorf("%s to %s: %v", a.name, addr, err)
					}
					seen, err := watch.SoFar()
					if err != nil {
						t.Fatal(err)
					}
					leaves := false
					for _, p := range seen {
						leaves = leaves || p.Sent && p.Interface == "eth0" && p.Dst.Addr() == addr
					}
					if backend == "" && !sent && !a.mayLack {
						t.Errorf("%s to %s is refused without rules", a.name, addr)
					}
					if backend == "" && !sent {
						continue // what is seen is what others sent before
					}
					if want := sent && backend == ""; leaves != want {
						t.Errorf("%s to %s: it leaves: %t: %v", a.name, addr, leaves, seen)
					}
				}
			}
		})
	}
}

// send sends from a socket of the app's, and says whether the kernel has taken it. A rule that refuses is no error, and
// of some sockets the kernel knows nothing.
func (a attempt) send(lab *netlab.Lab, family int, to netip.Addr) (sent bool, err error) {
	domain := []int{unix.AF_INET, unix.AF_INET6}[family]
	fd, err := lab.Pod.SocketOf(domain, a.typ, a.protocol[family], app)
	if err != nil {
		if a.mayLack && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)) {
			err = nil
		}
		return false, err
	}
	defer unix.Close(fd)
	port := 443
	if a.typ == unix.SOCK_RAW || a.data[family] != "" {
		port = 0 // these have none
	}
	var addr unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16(), Port: port}
	if to.Is4() {
		addr = &unix.SockaddrInet4{Addr: to.As4(), Port: port}
	}
	if a.connects {
		err = unix.Connect(fd, addr)
	} else {
		err = unix.Sendto(fd, []byte(a.data[family]+"the secret is 42"), 0, addr)
	}
	switch {
	case err == nil, errors.Is(err, unix.EINPROGRESS):
		return true, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	}
	return false, err
}

// TestSandboxIsCalled: what the page says of callers. TCP to the sandbox is captured, whatever the port. UDP from
// outside comes in, and its answer goes out; nothing else does.
func TestSandboxIsCalled(t *testing.T) {
	t.Parallel()
	config := sandboxConfig(t)
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	if _, err := (dataplane.Pod{NetNS: lab.Pod.Path()}).Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{"10.244.0.5", "fd00:244::5"} {
		for _, port := range []uint16{22, 8080, 15008, 15020, 15021, 15090} {
			f := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP,
				Dst: netip.AddrPortFrom(netip.MustParseAddr(pod), port)}
			if got, err := lab.Send(f); err != nil || got.Fate != intercept.RedirectedTo(15006) {
				t.Errorf("%s: %s, %v", f, got, err)
			}
		}
		f := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.UDP,
			Dst: netip.AddrPortFrom(netip.MustParseAddr(pod), 5353)}
		if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleApp {
			t.Errorf("%s: %s, %v; the page says that it is answered", f, got, err)
		}
	}
}
