package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Segment is one TCP segment, of a connection or of none.
type Segment struct {
	Src, Dst netip.AddrPort
	Flags    uint8
	Seq, Ack uint32
	// Options are the TCP options. Their length is a multiple of four, at most 40.
	Options []byte
	Data    []byte
}

// MD5Option is an option that a receiver has to know (RFC 2385): a socket that
// does not discards the segment, without an answer.
func MD5Option() []byte {
	const kind, length, noOperation = 19, 18, 1
	return append([]byte{kind, length}, append(make([]byte, 16), noOperation, noOperation)...)
}

// Inject sends a segment from a raw socket, which takes CAP_NET_RAW: whatever
// it says, no connection is asked. Its source is any address of the side's.
func (l *Lab) Inject(from Side, s Segment, o Injection) error {
	err := l.namespace(from).inject(s, o)
	if err != nil {
		return fmt.Errorf("netlab: inject a segment from the %s, %s > %s: %w", from, s.Src, s.Dst, err)
	}
	return nil
}

// Injection is how a segment is sent. The zero Injection is root's, without a
// mark, with the usual time to live.
type Injection struct {
	Owner *intercept.Owner
	Mark  uint32
	// TTL is the time to live, or the hop limit. Zero stands for the usual one.
	TTL int
}

func (n *Namespace) inject(s Segment, o Injection) (err error) {
	fd, err := n.SocketOf(Domain(s.Dst.Addr()), unix.SOCK_RAW, unix.IPPROTO_TCP, o.Owner)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	set := func(level, option, value int) {
		err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value)))
	}
	level, transparent, ttl := unix.SOL_IP, unix.IP_TRANSPARENT, unix.IP_TTL
	if s.Dst.Addr().Is6() {
		level, transparent, ttl = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, unix.IPV6_UNICAST_HOPS
	}
	set(level, transparent, 1)
	if o.TTL != 0 {
		set(level, ttl, o.TTL)
	}
	if err = errors.Join(err, setMark(fd, o.Mark)); err != nil {
		return err
	}
	// A raw socket's port is its protocol.
	if err := unix.Bind(fd, Sockaddr(netip.AddrPortFrom(s.Src.Addr(), 0))); err != nil {
		return os.NewSyscallError("bind", err)
	}
	return os.NewSyscallError("sendto", unix.Sendto(fd, s.encode(), 0, Sockaddr(netip.AddrPortFrom(s.Dst.Addr(), 0))))
}

// encode returns the segment (RFC 9293, section 3.1), with its checksum.
func (s Segment) encode() []byte {
	b := make([]byte, 20, 20+len(s.Options)+len(s.Data))
	binary.BigEndian.PutUint16(b, s.Src.Port())
	binary.BigEndian.PutUint16(b[2:], s.Dst.Port())
	binary.BigEndian.PutUint32(b[4:], s.Seq)
	binary.BigEndian.PutUint32(b[8:], s.Ack)
	b[12], b[13] = byte(5+len(s.Options)/4)<<4, s.Flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	b = append(append(b, s.Options...), s.Data...)
	pseudo := append(s.Src.Addr().AsSlice(), s.Dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
	binary.BigEndian.PutUint16(b[16:], Checksum(pseudo, b))
	return b
}

// Checksum is the Internet's (RFC 1071). All parts but the last are even.
func Checksum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, part := range parts {
		for i, b := range part {
			sum += uint32(b) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// broadcast is the hardware address of everybody on a link.
var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// InjectFrame sends a segment by the peer's end of a cable in a frame to the
// pod's hardware address, or to everybody's, whosever the addresses in it are.
func (l *Lab) InjectFrame(link string, s Segment, toEverybody bool) error {
	mac := podMAC
	if toEverybody {
		mac = broadcast
	}
	err := l.Peer.Do(func() error {
		dev, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		typ := uint16(unix.ETH_P_IP)
		if s.Dst.Addr().Is6() {
			typ = unix.ETH_P_IPV6
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		to := unix.SockaddrLinklayer{Protocol: networkOrder(typ), Ifindex: dev.Index, Halen: uint8(len(mac))}
		copy(to.Addr[:], mac)
		return os.NewSyscallError("sendto", unix.Sendto(fd, s.Packet(), 0, &to))
	})
	if err != nil {
		return fmt.Errorf("netlab: send a frame by %s, %s > %s: %w", link, s.Src, s.Dst, err)
	}
	return nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Packet returns the segment in an IP packet without options or extension headers.
func (s Segment) Packet() []byte {
	tcp := s.encode()
	src, dst := s.Src.Addr().AsSlice(), s.Dst.Addr().AsSlice()
	var ip []byte
	if s.Dst.Addr().Is4() {
		ip = append([]byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}, append(src, dst...)...)
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		binary.BigEndian.PutUint16(ip[10:], Checksum(ip))
	} else {
		ip = append([]byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_TCP, 64}, append(src, dst...)...)
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	}
	return append(ip, tcp...)
}

// Seen is a packet that an interface has sent or received.
type Seen struct {
	Interface string
	// Sent: the namespace has sent it. Else it has arrived.
	Sent     bool
	Protocol intercept.Protocol
	// Src and Dst have ports if the protocol is TCP or UDP.
	Src, Dst netip.AddrPort
	Flags    uint8  // of TCP
	Data     []byte // behind the headers of TCP and UDP; all behind IP's of others
}

// String describes the packet, as in "eth0 sends tcp 10.244.0.5:40000 >
// 203.0.113.7:80, flags 0x2, 0 bytes".
func (s Seen) String() string {
	does := "gets"
	if s.Sent {
		does = "sends"
	}
	return fmt.Sprintf("%s %s %s %s > %s, flags %#x, %d bytes",
		s.Interface, does, s.Protocol, s.Src, s.Dst, s.Flags, len(s.Data))
}

// Watch sees what all interfaces of a namespace send and receive: after its
// rules what is sent, and before them what is received. What a system call
// sends is seen when the call returns.
type Watch struct {
	socket *os.File
	links  map[int]string
}

// Watch begins to watch. The caller closes what it returns.
func (n *Namespace) Watch() (*Watch, error) {
	w := &Watch{links: map[int]string{}}
	err := n.Do(func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			w.links[l.Index] = l.Name
		}
		const typ = unix.SOCK_DGRAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
		fd, err := unix.Socket(unix.AF_PACKET, typ, int(networkOrder(unix.ETH_P_ALL)))
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		w.socket = os.NewFile(uintptr(fd), "watch")
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	})
	if err != nil {
		if w.socket != nil {
			w.socket.Close()
		}
		return nil, fmt.Errorf("netlab: watch: %w", err)
	}
	return w, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.socket.Close() }

// SoFar returns what was seen since it was last asked.
func (w *Watch) SoFar() ([]Seen, error) { return w.read(time.Time{}) }

// Until returns what is seen until found holds for it, that included. It fails
// if nothing such is seen within half a minute.
func (w *Watch) Until(found func(Seen) bool) (all []Seen, err error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		some, err := w.read(deadline)
		if err != nil {
			return all, err
		}
		for i, s := range some {
			if found(s) {
				return append(all, some[:i+1]...), nil
			}
		}
		all = append(all, some...)
	}
}

// read returns what is there, and at least one packet if it may wait until a
// deadline.
func (w *Watch) read(deadline time.Time) (all []Seen, err error) {
	if err := w.socket.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	raw, err := w.socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			var n int
			var from unix.Sockaddr
			n, from, recvErr = unix.Recvfrom(int(fd), buf, 0)
			if recvErr != nil {
				// Without a deadline there is nothing to wait for.
				return recvErr != unix.EAGAIN || deadline.IsZero() || len(all) > 0
			}
			link := from.(*unix.SockaddrLinklayer)
			if s, ok := parse(buf[:n]); ok {
				s.Interface, s.Sent = w.links[link.Ifindex], link.Pkttype == unix.PACKET_OUTGOING
				all = append(all, s)
			}
		}
	})
	if errors.Is(recvErr, unix.EAGAIN) {
		recvErr = nil
	}
	return all, errors.Join(err, os.NewSyscallError("recvfrom", recvErr))
}

// parse reads an IP packet. Of one with extension headers the protocol is the
// first one's number; of fragments but the first nothing is known of ports.
func parse(b []byte) (s Seen, ok bool) {
	var src, dst netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && int(b[0]&15)*4 >= 20 && int(b[0]&15)*4 <= len(b):
		s.Protocol = intercept.Protocol(b[9])
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		if n := int(binary.BigEndian.Uint16(b[2:])); n >= 20 && n <= len(b) {
			b = b[:n] // short frames are filled up
		}
		later := binary.BigEndian.Uint16(b[6:])&0x1fff != 0
		b = b[min(int(b[0]&15)*4, len(b)):]
		if later {
			s.Src, s.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
			s.Data = append([]byte(nil), b...)
			return s, true
		}
	case len(b) >= 40 && b[0]>>4 == 6:
		s.Protocol = intercept.Protocol(b[6])
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		b = b[40:]
	default:
		return s, false
	}
	header := 0
	switch {
	case s.Protocol == intercept.TCP && len(b) >= 20:
		s.Flags, header = b[13], int(b[12]>>4)*4
	case s.Protocol == intercept.UDP && len(b) >= 8:
		header = 8
	}
	var from, to uint16
	if header > 0 {
		from, to = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	s.Src, s.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	s.Data = append([]byte(nil), b[min(header, len(b)):]...)
	return s, true
}
