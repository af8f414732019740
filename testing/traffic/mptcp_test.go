//go:build linux

package traffic

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// Multipath TCP: the kernel opens subflows by itself, and they belong to nobody until they are there.

// others are further addresses of the pod, of which subflows come, and announced is one of a server's.
var (
	others    = []string{"10.245.0.5", "fd00:245::5"}
	announced = []string{"198.51.100.10", "2001:db8:1::10"}
)

// mptcpLab is a lab whose pod adds a subflow to each connection of Multipath TCP, with a sidecar and a server that
// speak it.
type mptcpLab struct {
	*netlab.Lab
	target        dataplane.Pod
	proxy, server mptcpServer
}

const mptcpPort = 7000

func newMPTCPLab(t *testing.T, w way, c intercept.Config) mptcpLab {
	t.Helper()
	lab := mptcpLab{Lab: netlab.NewT(t, netlab.Options{SecondInterface: true})}
	lab.target = w.target(t, lab.Lab)
	// The peer is a plain host here: its own server takes no subflows.
	runIn(t, lab.Peer, "nft", "delete table inet netlab\n")
	for _, ns := range []*netlab.Namespace{lab.Pod, lab.Peer} {
		runIn(t, ns, "ip", "", "mptcp", "limits", "set", "subflows", "4", "add_addr_accepted", "4")
	}
	lab.server = serveMPTCP(t, lab.Peer, nil, mptcpPort)
	lab.proxy = serveMPTCP(t, lab.Pod, proxy, 15001)
	applyConfig(t, lab.target, c)
	return lab
}

// addSubflows has the kernel open a subflow of every connection.
func (l mptcpLab) addSubflows(t *testing.T) {
	t.Helper()
	for _, a := range others {
		runIn(t, l.Pod, "ip", "", "mptcp", "endpoint", "add", a, "subflow")
	}
}

// dial opens a connection of Multipath TCP to a server outside.
func (l mptcpLab) dial(t *testing.T, to netip.AddrPort, owner *intercept.Owner) *net.TCPConn {
	t.Helper()
	conn, err := dialTCP(l.Lab, netlab.Flow{Protocol: intercept.TCP, Dst: to, Owner: owner}, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := echoes(conn, []byte("first")); err != nil { // after it the kernel may add subflows
		t.Fatal(err)
	}
	return conn
}

// echoes sends data, and reads it back.
func echoes(conn net.Conn, data []byte) error {
	got := make([]byte, len(data))
	err := write(conn, data)
	if err == nil {
		_, err = io.ReadFull(conn, got)
	}
	if err == nil && !bytes.Equal(got, data) {
		err = errors.New("other data came back")
	}
	return err
}

// mptcpServer echoes on a port.
type mptcpServer struct{ accepted *atomic.Int32 }

func serveMPTCP(t *testing.T, in *netlab.Namespace, owner *intercept.Owner, port uint16) mptcpServer {
	t.Helper()
	s := mptcpServer{new(atomic.Int32)}
	for _, addr := range []string{"0.0.0.0", "::"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
		domain := unix.AF_INET
		if at.Addr().Is6() {
			domain = unix.AF_INET6
		}
		fd, err := in.SocketOf(domain, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, owner)
		if err != nil {
			t.Fatal(err)
		}
		if domain == unix.AF_INET6 {
			err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
		}
		if err := errors.Join(err, unix.Bind(fd, netlab.Sockaddr(at)), unix.Listen(fd, 16)); err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "mptcp")
		listener, err := net.FileListener(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				s.accepted.Add(1)
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
	}
	return s
}

// TestSubflows: the subflows of the proxy's and of an excluded user's connections go where those go. Else the proxy
// would get its own.
func TestSubflows(t *testing.T) {
	eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
		c := intercept.Default()
		exempting(&c)
		c.Backstop = b
		lab := newMPTCPLab(t, w, c)
		lab.addSubflows(t)
		for _, who := range []*intercept.Owner{proxy, excludedUser} {
			for i, dst := range outside {
				to := netip.AddrPortFrom(dst.Addr(), mptcpPort)
				watch, err := lab.Peer.Watch()
				if err != nil {
					t.Fatal(err)
				}
				conn := lab.dial(t, to, who)
				other := netip.MustParseAddr(others[i])
				_, err = watch.Until(func(p netlab.Seen) bool { return p.Src.Addr() == other && p.Flags == intercept.ACK })
				if err != nil {
					t.Fatalf("user %d to %s: no subflow from %s: %v", who.UID, to, other, err)
				}
				// Without the first subflow all goes by the second.
				runIn(t, lab.Pod, "ip", "", "mptcp", "endpoint", "del", "id", "0", pods[i].Addr().String())
				if err := echoes(conn, bytes.Repeat([]byte("x"), 100_000)); err != nil {
					t.Errorf("user %d to %s, by the subflow: %v", who.UID, to, err)
				}
				_, err = watch.Until(func(p netlab.Seen) bool { return p.Src.Addr() == other && len(p.Data) > 0 })
				if err := errors.Join(err, watch.Close()); err != nil {
					t.Errorf("user %d to %s: no data came by the subflow: %v", who.UID, to, err)
				}
			}
		}
		if n := lab.proxy.accepted.Load(); n != 0 {
			t.Errorf("the proxy got %d connections of its own and of an excluded user's", n)
		}
		if got := refusals(t, lab.target, c); len(got) > 0 {
			t.Errorf("refused: %v", got)
		}
	})
}

// TestSubflowsOfCaptured: the kernel opens subflows of an app's connection, which the proxy has, to the server. It does
// not know the connection; nothing of the app's data leaves, and the connection goes on.
func TestSubflowsOfCaptured(t *testing.T) {
	eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
		c := intercept.Default()
		c.Backstop = b
		lab := newMPTCPLab(t, w, c)
		lab.addSubflows(t)
		for i, dst := range outside {
			watch, err := lab.Peer.Watch()
			if err != nil {
				t.Fatal(err)
			}
			conn := lab.dial(t, netip.AddrPortFrom(dst.Addr(), mptcpPort), app)
			other := netip.MustParseAddr(others[i])
			seen, err := watch.Until(func(p netlab.Seen) bool {
				return p.Dst.Addr() == other && p.Flags&intercept.RST != 0
			})
			if err != nil {
				t.Fatalf("%s: no subflow that is refused: %v", dst.Addr(), err)
			}
			err = echoes(conn, bytes.Repeat([]byte("x"), 100_000))
			more, watchErr := watch.SoFar()
			if err := errors.Join(err, watchErr, watch.Close()); err != nil {
				t.Errorf("%s: %v", dst.Addr(), err)
			}
			for _, p := range append(seen, more...) {
				if !p.Sent && p.Protocol == intercept.TCP && len(p.Data) > 0 {
					t.Errorf("the app's data leaves: %s", p)
				}
			}
		}
		if p, s := lab.proxy.accepted.Load(), lab.server.accepted.Load(); p != 2 || s != 0 {
			t.Errorf("the proxy got %d connections, and the server %d", p, s)
		}
	})
}

// TestSubflowToCaptured: a server to which connections pass announces an address to which they do not. Where the kernel
// is told to go there by itself, it does; with the second look the app's data does not.
func TestSubflowToCaptured(t *testing.T) {
	eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
		c := intercept.Default()
		c.Backstop = b
		c.Outbound.ExcludeCIDRs = intercept.CIDRs{
			netip.PrefixFrom(outside[0].Addr(), 32), netip.PrefixFrom(outside[1].Addr(), 128),
		}
		lab := newMPTCPLab(t, w, c)
		for i, dst := range outside {
			runIn(t, lab.Peer, "ip", "", "mptcp", "endpoint", "flush")
			runIn(t, lab.Peer, "ip", "", "mptcp", "endpoint", "add", announced[i], "signal")
			watch, err := lab.Peer.Watch()
			if err != nil {
				t.Fatal(err)
			}
			conn := lab.dial(t, netip.AddrPortFrom(dst.Addr(), mptcpPort), app)
			other := netip.MustParseAddr(announced[i])
			_, err = watch.Until(func(p netlab.Seen) bool { return p.Dst.Addr() == other && p.Flags == intercept.ACK })
			if err != nil {
				t.Fatalf("no subflow to %s: %v", other, err)
			}
			runIn(t, lab.Pod, "ip", "", "mptcp", "endpoint", "del", "id", "0", pods[i].Addr().String())
			if b == intercept.BackstopOff {
				err = echoes(conn, []byte("x"))
			} else if err = write(conn, []byte("x")); err == nil { // it hears nothing: another subflow may come
				awaitRefused(t, lab.target, c, "B5", uint64(i+1))
			}
			seen, watchErr := watch.SoFar()
			if err := errors.Join(err, watchErr, watch.Close()); err != nil {
				t.Fatal(err)
			}
			leaves := false
			for _, p := range seen {
				leaves = leaves || p.Dst.Addr() == other && len(p.Data) > 0
			}
			if leaves != (b == intercept.BackstopOff) {
				t.Errorf("the app's data leaves to %s: %t", other, leaves)
			}
		}
	})
}

// awaitRefused waits until the rules of a line have refused so many packets.
func awaitRefused(t *testing.T, target dataplane.Pod, c intercept.Config, line string, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; {
		n := uint64(0)
		for id, packets := range refusals(t, target, c) {
			if id.Line() == line {
				n += packets
			}
		}
		if n >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s refused %d packets, not %d", line, n, want)
		}
	}
}

// TestSubflowOfAnEntry: an entry of the app's, from the port that a subflow of the proxy's takes, does not send the
// subflow to the proxy (B1).
func TestSubflowOfAnEntry(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		c := intercept.Default()
		lab := newMPTCPLab(t, w, c)
		podSysctl(t, lab.Lab, "net/ipv4/ip_local_port_range", "40000 40001")
		lab.addSubflows(t)
		for i, dst := range outside {
			to := netip.AddrPortFrom(dst.Addr(), mptcpPort)
			self := netip.MustParseAddrPort([]string{"127.0.0.1:15001", "[::1]:15001"}[i])
			for port := range uint16(2) {
				err := lab.Pod.AddEntry(netlab.Entry{
					Protocol: intercept.TCP, TCP: netlab.TCPSynSent, To: self,
					Src: netip.AddrPortFrom(netip.MustParseAddr(others[i]), 40000+port), Dst: to,
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			conn := lab.dial(t, to, proxy)
			const rules = 3 // that know it, that lead on, and that refuse
			awaitCount(t, status{lab.target}, "B1", rules*uint64(i+1))
			if err := echoes(conn, []byte("on")); err != nil {
				t.Errorf("%s: the connection does not go on: %v", dst.Addr(), err)
			}
		}
		if n := lab.proxy.accepted.Load(); n != 0 {
			t.Errorf("the proxy got %d connections of its own", n)
		}
	})
}

// TestForgedSubflow: a process with NET_RAW sends what looks like a subflow's SYN, with data. It has an owner, and is
// captured.
func TestForgedSubflow(t *testing.T) {
	// MP_JOIN with a token and a number used once (RFC 8684, section 3.2).
	join := []byte{30, 12, 0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8}
	eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
		lab := netlab.NewT(t, netlab.Options{})
		c := intercept.Default()
		c.Backstop = b
		applyConfig(t, w.target(t, lab), c)
		watch, err := lab.Pod.Watch()
		if err != nil {
			t.Fatal(err)
		}
		for i, dst := range outside {
			forged := netlab.Segment{
				Src: netip.AddrPortFrom(pods[i].Addr(), 40000), Dst: dst, Flags: intercept.SYN, Options: join,
				Data: []byte("secret"),
			}
			if err := lab.Inject(netlab.FromPod, forged, netlab.Injection{Owner: app}); err != nil {
				t.Fatal(err)
			}
		}
		seen, err := watch.SoFar()
		if err := errors.Join(err, watch.Close()); err != nil {
			t.Fatal(err)
		}
		captured := 0
		for _, p := range seen {
			if strings.Contains(string(p.Data), "secret") && p.Sent {
				if p.Interface != "lo" {
					t.Errorf("it leaves: %s", p)
				}
				captured++
			}
		}
		if captured != 2 {
			t.Errorf("%d of 2 were captured: %v", captured, seen)
		}
	})
}
