//go:build linux

package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"github.com/mesh-intercept/intercept/dataplane"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestDropInvalid sends a segment that belongs to no connection. Left alone it
// is answered with a reset; with DropInvalid it is counted by I3 and not
// answered.
func TestDropInvalid(t *testing.T) { each(t, dropInvalid) }

func dropInvalid(t *testing.T, w way) {
	for _, drop := range []bool{false, true} {
		lab := netlab.NewT(t, netlab.Options{})
		c := intercept.Default()
		c.Inbound.DropInvalid = drop
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		b := w.open(t, lab)
		apply(t, b, rs)
		// Conntrack takes up connections in the middle unless told not to.
		if err := lab.Pod.Do(func() error {
			return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte("0"), 0)
		}); err != nil {
			t.Fatal(err)
		}
		raw := rawTCP(t, lab, unix.AF_INET)
		src, dst := netip.MustParseAddrPort("10.244.0.1:45678"), netip.MustParseAddrPort("10.244.0.5:8080")
		segment := tcpSegment(src, dst, 12345, 67890)
		if err := unix.Sendto(raw, segment, 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()}); err != nil {
			t.Fatal(err)
		}
		if drop {
			// By the time it is counted it is dropped: there will be no answer.
			awaitCount(t, b, "I3", 1)
			if got, ok := reset(t, raw, dst, src); ok {
				t.Errorf("an invalid segment was answered: % x", got)
			}
			continue
		}
		for answered := false; !answered; { // else the test proves nothing
			awaitReadable(t, raw)
			_, answered = reset(t, raw, dst, src)
		}
	}
}

// TestDropInvalidConnection sends a segment far outside the window, as a
// network does that delivers late, on a connection that the proxy has.
// Conntrack calls it invalid, and does not translate it in mode redirect: it
// comes to the app's socket, or to none, and is answered with a reset, which
// the client believes. With DropInvalid it is counted by I3 and the connection
// lives. In mode tproxy there is nothing to translate, and it lives anyway.
func TestDropInvalidConnection(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, mode := range []intercept.InboundMode{intercept.InboundRedirect, intercept.InboundTProxy} {
			for _, drop := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, drop %t", mode, drop), func(t *testing.T) {
					lab := netlab.NewT(t, netlab.Options{})
					if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
						t.Fatal(err)
					}
					c := intercept.Default()
					c.Inbound.Mode = mode
					c.Inbound.DropInvalid = drop
					target := w.target(t, lab)
					applyConfig(t, target, c)
					for i, pod := range pods {
						conn, got, err := lab.Dial(inbound(pod, noAddr))
						if err != nil || conn == nil || got.Role != netlab.RoleInbound {
							t.Fatalf("%s, %v", got, err)
						}
						defer conn.Close()
						client := longLived{pod.String(), conn}
						client.echo(t, "before")
						lateSegment(t, lab, conn)
						if drop {
							awaitCount(t, status{target}, "I3", uint64(i+1))
						}
						if mode == intercept.InboundRedirect && !drop {
							_, err := conn.Read(make([]byte, 1))
							if !errors.Is(err, unix.ECONNRESET) {
								t.Errorf("%s: the connection is not reset without DropInvalid, which the test then does not prove to work: %v",
									pod, err)
							}
							continue
						}
						client.echo(t, "after")
					}
					if got := counted(t, status{target}, "I3"); got != map[bool]uint64{true: 2}[drop] {
						t.Errorf("I3 counted %d", got)
					}
				})
			}
		}
	})
}

// lateSegment sends a segment in the client's name, of which the sequence
// number is far ahead, and the acknowledgement right.
func lateSegment(t *testing.T, lab *netlab.Lab, conn net.Conn) {
	t.Helper()
	src, dst := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	var next [3]int // by TCP_RECV_QUEUE and TCP_SEND_QUEUE of linux/tcp.h
	const receive, send, off = 1, 2, -1
	err := control(conn, func(fd int) error {
		set := func(option, value int) error {
			return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_TCP, option, value))
		}
		err := set(unix.TCP_REPAIR, 1)
		for _, queue := range []int{receive, send} {
			var seqErr error
			err = errors.Join(err, set(unix.TCP_REPAIR_QUEUE, queue))
			next[queue], seqErr = unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
			err = errors.Join(err, seqErr)
		}
		return errors.Join(err, set(unix.TCP_REPAIR, off)) // without probing the window
	})
	if err != nil {
		t.Fatal(err)
	}
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	segment := tcpSegment(src, dst, uint32(next[send])+100_000_000, uint32(next[receive]))
	to := netip.AddrPortFrom(dst.Addr(), 0)
	if err := unix.Sendto(rawTCP(t, lab, family), segment, 0, netlab.Sockaddr(to)); err != nil {
		t.Fatal(err)
	}
}

func rawTCP(t *testing.T, lab *netlab.Lab, family int) (fd int) {
	t.Helper()
	err := lab.Peer.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// tcpSegment returns an acknowledgement without data (RFC 9293, section 3.1).
func tcpSegment(src, dst netip.AddrPort, seq, ack uint32) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, intercept.ACK
	binary.BigEndian.PutUint16(b[14:], 65535)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	sum := uint32(0)
	for _, part := range [][]byte{pseudo, b} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[16:], ^uint16(sum))
	return b
}

// reset reports whether a reset from src to dst is among what has arrived.
func reset(t *testing.T, raw int, src, dst netip.AddrPort) ([]byte, bool) {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(raw, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return nil, false
		}
		if err != nil {
			t.Fatal(err)
		}
		header := int(buf[0]&0xf) * 4
		tcp := buf[header:n]
		if len(tcp) >= 20 && binary.BigEndian.Uint16(tcp) == src.Port() && binary.BigEndian.Uint16(tcp[2:]) == dst.Port() &&
			tcp[13]&intercept.RST != 0 {
			return tcp, true
		}
	}
}

// awaitReadable waits until there is something to read.
func awaitReadable(t *testing.T, fd int) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(5 * time.Second); ; {
		n, err := unix.Poll(poll, int(max(time.Until(deadline), 0)/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("nothing has come: %v", err)
		}
		return
	}
}

// counters is what counts.
type counters interface {
	Counters() ([]intercept.Counter, error)
}

// status counts in a pod.
type status struct{ pod dataplane.Pod }

func (s status) Counters() ([]intercept.Counter, error) {
	got, err := s.pod.Status(context.Background())
	return got.Counters, err
}

// counted returns how many packets the rules of a line have counted.
func counted(t *testing.T, b counters, line string) (n uint64) {
	t.Helper()
	all, err := b.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Line == line {
			n += c.Packets
		}
	}
	return n
}

// awaitCount waits until the rules of a line have counted so many packets.
func awaitCount(t *testing.T, b counters, line string, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); ; {
		got := counted(t, b, line)
		if got >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s counted %d packets, not %d", line, got, want)
		}
	}
}
