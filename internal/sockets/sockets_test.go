//go:build linux

package sockets

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

func newNamespace(t testing.TB) *netlab.Namespace {
	t.Helper()
	netlab.Require(t)
	netlab.RequireProgram(t, "ip")
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := ns.Do(exec.Command("ip", "link", "set", "lo", "up").Run); err != nil {
		t.Fatal(err)
	}
	return ns
}

// open opens a socket in the namespace that is bound to an address, and that
// belongs to a user.
func open(t testing.TB, ns *netlab.Namespace, typ int, addr string, v6Only bool, uid uint32) (fd int) {
	t.Helper()
	to := netip.MustParseAddrPort(addr)
	domain := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := ns.Socket(domain, typ, &ruleset.Owner{UID: uid, GID: uid})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if v6Only {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sa))
	if err != nil {
		t.Fatalf("%s: %v", addr, err)
	}
	return fd
}

func list(t testing.TB, ns *netlab.Namespace, p ruleset.Protocol) (all []Socket) {
	t.Helper()
	err := ns.Do(func() (err error) {
		all, err = List(p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b Socket) int { return a.Local.Compare(b.Local) })
	return all
}

// TestList: who listens is listed, with the user and whether it serves IPv4; who
// is bound only, or connected, is not.
func TestList(t *testing.T) {
	ns := newNamespace(t)
	for _, p := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		if got := list(t, ns, p); len(got) > 0 {
			t.Errorf("nobody is there: %v", got)
		}
	}
	tcp := func(addr string, v6Only bool, uid uint32) int {
		fd := open(t, ns, unix.SOCK_STREAM, addr, v6Only, uid)
		if err := unix.Listen(fd, 8); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	tcp("127.0.0.1:80", false, 0)
	tcp("0.0.0.0:81", false, 1337)
	tcp("[::]:82", false, 4294967294)
	tcp("[::]:83", true, 7)
	tcp("[::1]:84", false, 0)
	tcp("[::ffff:127.0.0.1]:85", false, 0)
	open(t, ns, unix.SOCK_STREAM, "127.0.0.1:86", false, 0)
	connect(t, open(t, ns, unix.SOCK_STREAM, "127.0.0.1:0", false, 0), "127.0.0.1:80") // and its other side
	connect(t, open(t, ns, unix.SOCK_STREAM, "[::1]:0", false, 0), "[::1]:84")
	open(t, ns, unix.SOCK_DGRAM, "127.0.0.1:53", false, 1337)
	open(t, ns, unix.SOCK_DGRAM, "[::]:54", true, 0)
	connect(t, open(t, ns, unix.SOCK_DGRAM, "127.0.0.1:55", false, 0), "127.0.0.1:53")

	socket := func(addr string, v6Only bool, uid uint32) Socket {
		return Socket{Local: netip.MustParseAddrPort(addr), UID: uid, V6Only: v6Only}
	}
	for p, want := range map[ruleset.Protocol][]Socket{
		ruleset.TCP: {
			socket("0.0.0.0:81", false, 1337),
			socket("127.0.0.1:80", false, 0),
			socket("127.0.0.1:85", false, 0),
			socket("[::]:82", false, 4294967294),
			socket("[::]:83", true, 7),
			socket("[::1]:84", true, 0), // as bind(2) makes it
		},
		ruleset.UDP: {
			socket("127.0.0.1:53", false, 1337),
			socket("[::]:54", true, 0),
		},
	} {
		same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
		inode := cmpopts.IgnoreFields(Socket{}, "Inode")
		if diff := cmp.Diff(want, list(t, ns, p), same, inode); diff != "" {
			t.Errorf("%s: -expected +found\n%s", p, diff)
		}
	}
}

// TestConnections: what is open counts, and no socket that waits for others or for the end of TIME_WAIT.
func TestConnections(t *testing.T) {
	ns := newNamespace(t)
	if err := ns.Do(exec.Command("ip", "addr", "add", "10.0.0.1/24", "dev", "lo").Run); err != nil {
		t.Fatal(err)
	}
	server := open(t, ns, unix.SOCK_STREAM, "0.0.0.0:80", false, 0)
	if err := unix.Listen(server, 8); err != nil {
		t.Fatal(err)
	}
	dial := func(from string) (client, accepted int) {
		client = open(t, ns, unix.SOCK_STREAM, from, false, 0)
		connect(t, client, "10.0.0.1:80")
		await(t, server, unix.POLLIN)
		accepted, _, err := unix.Accept(server)
		if err != nil {
			t.Fatal(err)
		}
		return client, accepted
	}
	_, accepted := dial("10.0.0.1:40000")
	defer unix.Close(accepted)
	client, ended := dial("10.0.0.1:40001")
	if err := errors.Join(unix.Close(ended), unix.Shutdown(client, unix.SHUT_WR)); err != nil { // TIME_WAIT is the server's
		t.Fatal(err)
	}
	var all []ruleset.Tuple
	err := ns.Do(func() (err error) {
		// The packets that end a connection are on their way.
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if all, err = Connections(); err != nil || len(all) == 2 {
				return err
			}
		}
		return nil
	})
	end := netip.MustParseAddrPort
	there := ruleset.Tuple{Src: end("10.0.0.1:40000"), Dst: end("10.0.0.1:80")}
	back := ruleset.Tuple{Src: there.Dst, Dst: there.Src}
	if err != nil || len(all) != 2 || !slices.Contains(all, there) || !slices.Contains(all, back) {
		t.Errorf("%v, %v", all, err)
	}
}

// TestProcIsDiag: /proc shows the same sockets as sock_diag, but for what it does not show.
func TestProcIsDiag(t *testing.T) {
	ns := newNamespace(t)
	for i, addr := range []string{"127.0.0.1:80", "0.0.0.0:81", "[::]:82", "[::1]:83"} {
		if err := unix.Listen(open(t, ns, unix.SOCK_STREAM, addr, false, uint32(i)), 8); err != nil {
			t.Fatal(err)
		}
		open(t, ns, unix.SOCK_DGRAM, addr, false, uint32(i))
	}
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		connect(t, open(t, ns, typ, "127.0.0.1:40000", false, 1337), "127.0.0.1:80")
		connect(t, open(t, ns, typ, "[::1]:40000", false, 1337), "[::1]:82")
		connect(t, open(t, ns, typ, "[::]:40001", false, 1337), "[::ffff:127.0.0.1]:81")
	}
	for _, p := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		var byDiag, byProc []listed
		err := ns.Do(func() (err error) {
			if byDiag, err = ofDiag(p, whatever); err != nil {
				return err
			}
			byProc, err = readProc(p)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		of := func(all []listed) (lines []string) {
			for _, l := range all {
				l.V6Only = false
				lines = append(lines, fmt.Sprintf("%+v", l))
			}
			slices.Sort(lines)
			return lines
		}
		if diff := cmp.Diff(of(byDiag), of(byProc)); diff != "" || len(byProc) < 7 {
			t.Errorf("%s: -sock_diag +/proc\n%s", p, diff)
		}
	}
}

// await waits until a socket can be read or written.
func await(t testing.TB, fd int, events int16) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Fatalf("poll: %d, %v", n, err)
		}
		return
	}
}

func connect(t testing.TB, fd int, addr string) {
	t.Helper()
	to := netip.MustParseAddrPort(addr)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("%s: %v", addr, err)
	}
}

// TestServes compares what is said of sockets with what the kernel does: it is
// asked by connections.
func TestServes(t *testing.T) {
	ns := newNamespace(t)
	for _, s := range []struct {
		addr   string
		v6Only bool
	}{
		{"127.0.0.1", false}, {"127.0.0.2", false}, {"0.0.0.0", false},
		{"::", false}, {"::", true}, {"::1", false}, {"::ffff:127.0.0.1", false},
	} {
		port := uint16(80)
		fd := open(t, ns, unix.SOCK_STREAM, netip.AddrPortFrom(netip.MustParseAddr(s.addr), port).String(), s.v6Only, 0)
		if err := unix.Listen(fd, 8); err != nil {
			t.Fatal(err)
		}
		all := list(t, ns, ruleset.TCP)
		if len(all) != 1 {
			t.Fatalf("%v: %v", s, all)
		}
		for _, to := range []string{"127.0.0.1", "::1"} {
			to := netip.AddrPortFrom(netip.MustParseAddr(to), port)
			client := open(t, ns, unix.SOCK_STREAM, netip.AddrPortFrom(to.Addr(), 0).String(), false, 0)
			connect(t, client, to.String())
			await(t, client, unix.POLLOUT)
			errno, err := unix.GetsockoptInt(client, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				t.Fatal(err)
			}
			if got := all[0].Serves(to); got != (errno == 0) {
				t.Errorf("%+v serves %s: %v, and to connect is %v", s, to, got, unix.Errno(errno))
			}
			if all[0].Serves(netip.AddrPortFrom(to.Addr(), port+1)) {
				t.Errorf("%+v serves another port", s)
			}
			unix.Close(client)
		}
		unix.Close(fd)
	}
}

// TestUnsupported: a kernel without sock_diag is told apart from other errors.
func TestUnsupported(t *testing.T) {
	if _, err := parse(make([]byte, 71)); err == nil {
		t.Error("half a socket was read")
	}
	for errno, want := range map[unix.Errno]bool{unix.ENOENT: true, unix.EPROTONOSUPPORT: true, unix.EPERM: false} {
		err := explain(fmt.Errorf("wrapped: %w", errno))
		if errors.Is(err, ruleset.ErrUnsupported) != want || !errors.Is(err, errno) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}
