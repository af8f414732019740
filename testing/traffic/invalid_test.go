package traffic

import (
	"encoding/binary"
	"errors"
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
		raw := rawTCP(t, lab)
		src, dst := netip.MustParseAddrPort("10.244.0.1:45678"), netip.MustParseAddrPort("10.244.0.5:8080")
		segment := tcpSegment(src, dst, intercept.ACK)
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
		poll := []unix.PollFd{{Fd: int32(raw), Events: unix.POLLIN}}
		for deadline := time.Now().Add(3 * time.Second); ; {
			if _, ok := reset(t, raw, dst, src); ok {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("an invalid segment that is let through was not answered: the test proves nothing")
			}
			if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
		}
	}
}

func rawTCP(t *testing.T, lab *netlab.Lab) (fd int) {
	t.Helper()
	err := lab.Peer.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// tcpSegment returns a segment without data (RFC 9293, section 3.1).
func tcpSegment(src, dst netip.AddrPort, flags uint8) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint32(b[4:], 12345)
	binary.BigEndian.PutUint32(b[8:], 67890)
	b[12], b[13] = 5<<4, flags
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
		if len(tcp) >= 20 && binary.BigEndian.Uint16(tcp) == src.Port() && binary.BigEndian.Uint16(tcp[2:]) == dst.Port() && tcp[13]&intercept.RST != 0 {
			return tcp, true
		}
	}
}

// awaitCount waits until the rules of a line have counted so many packets.
func awaitCount(t *testing.T, b backend, line string, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Second); ; {
		counters, err := b.Counters()
		if err != nil {
			t.Fatal(err)
		}
		var got uint64
		for _, c := range counters {
			if c.Line == line {
				got += c.Packets
			}
		}
		if got >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s counted %d packets, not %d: %+v", line, got, want, counters)
		}
	}
}
