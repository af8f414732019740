//go:build linux

package traffic

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// udpSocket returns a connected UDP socket of the app's.
func udpSocket(t *testing.T, lab *netlab.Lab, dst netip.AddrPort) net.Conn {
	t.Helper()
	domain := unix.AF_INET
	if dst.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_DGRAM, app)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "udp")
	defer file.Close()
	if err := unix.Connect(fd, netlab.Sockaddr(dst)); err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	// Long enough never to be waited for.
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestUDPRejected: who sends UDP that the proxy does not take learns it from
// its next read, and from its writes. The kernel sends 50 ICMP messages at once
// and 1,000 a second (icmp_msgs_burst and icmp_msgs_per_sec in icmp(7)); but
// every write fails, with EPERM, since a rule discards the packet. Servers in
// the pod go on answering their clients.
func TestUDPRejected(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for name, test := range map[string]struct {
			set  func(*intercept.Outbound)
			port uint16
			past []uint16 // other ports
		}{
			"all":  {func(o *intercept.Outbound) { o.UDP = intercept.TreatmentReject }, 9999, nil},
			"QUIC": {func(o *intercept.Outbound) { o.QUIC = intercept.TreatmentReject }, 443, []uint16{442, 444, 8443}},
		} {
			t.Run(name, func(t *testing.T) {
				lab, b := labWithSidecar(t, w)
				c := intercept.Default()
				c.DNS.Mode = intercept.DNSAll
				test.set(&c.Outbound)
				rs, err := intercept.Compile(c)
				if err != nil {
					t.Fatal(err)
				}
				apply(t, b, rs)

				const each = 15
				sent := uint64(0)
				send := func(conn net.Conn) {
					t.Helper()
					if err := write(conn, []byte("hello")); !errors.Is(err, unix.EPERM) {
						t.Fatalf("%s: write: %v", conn.RemoteAddr(), err)
					}
					sent++
				}
				for _, dst := range outside {
					dst := netip.AddrPortFrom(dst.Addr(), test.port)
					conn := udpSocket(t, lab, dst)
					var took []time.Duration
					for range each {
						start := time.Now()
						send(conn)
						n, err := conn.Read(make([]byte, 1))
						took = append(took, time.Since(start))
						if !errors.Is(err, unix.ECONNREFUSED) {
							t.Fatalf("%s: read %d, %v", dst, n, err)
						}
					}
					slices.Sort(took)
					t.Logf("%s: refused after %s (median), %s (longest)", dst, took[each/2], took[each-1])

					// What the last message said the next write says, too.
					send(conn)
					if err := write(conn, []byte("hello")); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("%s: the second write: %v", dst, err)
					}

					for _, port := range test.past {
						f := netlab.Flow{Protocol: intercept.UDP, Dst: netip.AddrPortFrom(dst.Addr(), port), Owner: app}
						expectFate(t, lab, f, intercept.Fate{})
					}
					tcp := netlab.Flow{Protocol: intercept.TCP, Dst: dst, Owner: app}
					expectFate(t, lab, tcp, intercept.RedirectedTo(15001))
					expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: dst, Owner: proxy}, intercept.Fate{})
				}
				if got := counted(t, b, "O13"); got != sent {
					t.Errorf("O13 counted %d of %d", got, sent)
				}
				for _, dst := range outside {
					conn := udpSocket(t, lab, netip.AddrPortFrom(dst.Addr(), test.port))
					for range 300 {
						switch err := write(conn, []byte("hello")); {
						case errors.Is(err, unix.EPERM):
							sent++
						case !errors.Is(err, unix.ECONNREFUSED): // what was sent before
							t.Fatalf("%s: one write of many: %v", dst, err)
						}
					}
				}
				for _, pod := range pods {
					served := netlab.Flow{
						From: netlab.FromPeer, Protocol: intercept.UDP, Dst: netip.AddrPortFrom(pod.Addr(), test.port)}
					for _, client := range clients(pod.Addr()) {
						served.Src = netip.AddrPortFrom(client, 0)
						expectFate(t, lab, served, intercept.Fate{})
					}
				}
				if got := counted(t, b, "O13"); got != sent {
					t.Errorf("O13 counted answers: %d of %d", got, sent)
				}
			})
		}
	})
}
