//go:build linux

package security

import (
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// What takes NET_RAW: packets that no socket of TCP's would send.

// here is the pod's own address of a destination's family.
func here(to netip.AddrPort) netip.Addr { return podAddr(family(to.Addr())) }

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// sendRaw sends a whole IP packet.
func sendRaw(packet []byte, to netip.AddrPort, options ...option) error {
	fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const ipv6HeaderIncluded = 36 // IPV6_HDRINCL
	options = append(options, byFamily(to, flag(unix.SOL_IP, unix.IP_HDRINCL, 1),
		flag(unix.SOL_IPV6, ipv6HeaderIncluded, 1)))
	for _, set := range options {
		if err := set(fd); err != nil {
			return err
		}
	}
	return unix.Sendto(fd, packet, 0, netlab.Sockaddr(netip.AddrPortFrom(to.Addr(), 0)))
}

// segment is a segment from a port of the pod, with data unless it opens something.
func segment(to netip.AddrPort, port uint16, flags uint8) netlab.Segment {
	src := netip.AddrPortFrom(here(to), port)
	s := netlab.Segment{Src: src, Dst: to, Flags: flags, Seq: 1000, Data: []byte("in clear")}
	if flags&intercept.ACK != 0 {
		s.Ack = 2000
	}
	return s
}

// combinations are all values of the flags FIN to URG, with a flag or without it.
func combinations(with, without uint8) (all []uint8) {
	for f := range uint8(64) {
		if f&with == with && f&without == 0 {
			all = append(all, f)
		}
	}
	return all
}

// refusedOnly says which errors there were but a rule's refusal, of several packets.
func refusedOnly(errs ...error) string {
	for _, err := range errs {
		if err != nil && !errors.Is(err, unix.EPERM) {
			return said(err)
		}
	}
	return "sent"
}

// eachSegment sends a segment of each kind of flags.
func eachSegment(to netip.AddrPort, flags []uint8) string {
	var errs []error
	for _, f := range flags {
		errs = append(errs, sendRaw(segment(to, 20000+uint16(f), f).Packet(), to))
	}
	return refusedOnly(errs...)
}

// eachFirst sends a segment of each kind of flags, and then connects from the same port.
func eachFirst(to netip.AddrPort, flags []uint8) string {
	answers := map[string]bool{}
	for _, f := range flags {
		port := 21000 + uint16(f)
		s := segment(to, port, f)
		s.Options, s.Data = netlab.MD5Option(), nil
		p := s.Packet()
		setTTL(p, 1)
		if err := sendRaw(p, to); err != nil && !errors.Is(err, unix.EPERM) {
			return said(err)
		}
		answers[ask(to, fromPort(s.Src))] = true
	}
	return oneOf(answers)
}

// within reports whether all that was heard is among some.
func within(heard string, some []string) bool {
	for h := range strings.SplitSeq(heard, ", ") {
		if !slices.Contains(some, h) {
			return false
		}
	}
	return true
}

// oneOf joins what was heard.
func oneOf(answers map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(answers)), ", ")
}

// joins are options by which a SYN asks to be a part of a connection of Multipath TCP (RFC 8684, section 3.2), which is
// not there.
func joins() []byte { return []byte{30, 12, 0x10, 0, 1, 2, 3, 4, 5, 6, 7, 8} }

func setTTL(packet []byte, ttl byte) {
	if packet[0]>>4 == 6 {
		packet[7] = ttl
		return
	}
	packet[8] = ttl
	seal(packet)
}

// seal writes the checksum of an IPv4 header.
func seal(packet []byte) {
	header := packet[:int(packet[0]&15)*4]
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], netlab.Checksum(header))
}

// fragments cuts a packet after so many bytes of what it carries, a multiple of eight.
func fragments(packet []byte, at int, id uint16) [][]byte {
	const moreV4, moreV6 = 0x2000, 1
	if packet[0]>>4 == 4 {
		first, second := slices.Clone(packet[:20+at]), slices.Concat(packet[:20], packet[20+at:])
		for i, p := range [][]byte{first, second} {
			binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
			binary.BigEndian.PutUint16(p[4:], id)
			binary.BigEndian.PutUint16(p[6:], []uint16{moreV4, uint16(at / 8)}[i])
			seal(p)
		}
		return [][]byte{first, second}
	}
	cut := func(data []byte, field uint16) []byte {
		header := []byte{packet[6], 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(header[2:], field)
		binary.BigEndian.PutUint32(header[4:], uint32(id))
		p := slices.Concat(packet[:40], header, data)
		p[6] = unix.IPPROTO_FRAGMENT
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
		return p
	}
	return [][]byte{cut(packet[40:40+at], moreV6), cut(packet[40+at:], uint16(at))}
}

// atomicFragment is an IPv6 packet in one fragment, which is all of it.
func atomicFragment(packet []byte) []byte {
	p := slices.Concat(packet[:40], []byte{packet[6], 0, 0, 0, 0, 0, 0, 1}, packet[40:])
	p[6] = unix.IPPROTO_FRAGMENT
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	return p
}

// extended has something between its IP header and what it carries: IPv4 options, or an IPv6 extension header.
func extended(packet, more []byte, number byte) []byte {
	if packet[0]>>4 == 4 {
		p := slices.Concat(packet[:20], more, packet[20:])
		p[0] = 0x40 | byte(20+len(more))/4
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		seal(p)
		return p
	}
	header := slices.Clone(more)
	header[0] = packet[6]
	p := slices.Concat(packet[:40], header, packet[40:])
	p[6] = number
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	return p
}

// extensions are the ways to extend a packet, by family: options of IPv4 (no operation, record route, timestamp, stream
// and a router's alert), and extension headers (hop by hop, destination options, a routing header that is at its end).
func extensions(packet []byte) (all [][]byte) {
	if packet[0]>>4 == 4 {
		for _, options := range [][]byte{
			{1, 1, 1, 1}, {7, 7, 4, 0, 0, 0, 0, 0}, {68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {136, 4, 0, 1}, {148, 4, 0, 0},
		} {
			all = append(all, extended(packet, options, 0))
		}
		return all
	}
	padding := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	routing := []byte{0, 2, 4, 0, 0, 0, 0, 0}
	segment := packet[24:40]
	return append(all,
		extended(packet, padding, unix.IPPROTO_HOPOPTS),
		extended(packet, padding, unix.IPPROTO_DSTOPTS),
		extended(packet, append(routing, segment...), unix.IPPROTO_ROUTING),
		extended(extended(packet, padding, unix.IPPROTO_DSTOPTS), padding, unix.IPPROTO_HOPOPTS))
}

// The ends of the cable.
var (
	podMAC  = [8]uint8{2, 0, 0, 0, 0, 5}
	peerMAC = [8]uint8{2, 0, 0, 0, 0, 1}
)

// frames opens an AF_PACKET socket on eth0.
func frames() (fd int, err error) {
	dev, err := net.InterfaceByName("eth0")
	if err != nil {
		return -1, err
	}
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Index})
}

// sendFrame sends a packet by it.
func sendFrame(fd int, packet []byte, mac [8]uint8) error {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	typ := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		typ = unix.ETH_P_IPV6
	}
	to := unix.SockaddrLinklayer{Ifindex: at.(*unix.SockaddrLinklayer).Ifindex, Halen: 6, Addr: mac}
	to.Protocol = binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, typ))
	return unix.Sendto(fd, packet, 0, &to)
}

// xdp is an AF_XDP socket on eth0, without a program.
type xdp struct {
	fd       int
	umem, tx []byte
	offsets  unix.XDPRingOffset
	sent     uint32
}

const xdpChunk, xdpChunks = 4096, 4

// openXDP opens the one such socket that this process has: it takes a while until another can be opened.
var openXDP = sync.OnceValues(func() (*xdp, error) {
	dev, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, err
	}
	x := &xdp{}
	if x.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	const prot = unix.PROT_READ | unix.PROT_WRITE
	x.umem, err = unix.Mmap(-1, 0, xdpChunk*xdpChunks, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	region := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&x.umem[0]))), Len: xdpChunk * xdpChunks, Size: xdpChunk}
	err = setsockopt(x.fd, unix.SOL_XDP, unix.XDP_UMEM_REG, unsafe.Pointer(&region), unsafe.Sizeof(region))
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		err = errors.Join(err, unix.SetsockoptInt(x.fd, unix.SOL_XDP, ring, xdpChunks))
	}
	var offsets unix.XDPMmapOffsets
	err = errors.Join(err, getsockopt(x.fd, unix.SOL_XDP, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&offsets),
		uint32(unsafe.Sizeof(offsets))))
	if err != nil {
		return nil, err
	}
	x.offsets = offsets.Tx
	size := int(x.offsets.Desc) + xdpChunks*int(unsafe.Sizeof(unix.XDPDesc{}))
	x.tx, err = unix.Mmap(x.fd, unix.XDP_PGOFF_TX_RING, size, prot, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	return x, unix.Bind(x.fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(dev.Index)})
})

// sendXDP sends a packet by it.
func sendXDP(packet []byte) error {
	x, err := openXDP()
	if err != nil {
		return err
	}
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 5, 8, 0}
	if packet[0]>>4 == 6 {
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IPV6)
	}
	frame = append(frame, packet...)
	at := uint64(x.sent) * xdpChunk
	copy(x.umem[at:], frame)
	desc := x.tx[x.offsets.Desc+uint64(x.sent)*uint64(unsafe.Sizeof(unix.XDPDesc{})):]
	binary.NativeEndian.PutUint64(desc, at)
	binary.NativeEndian.PutUint32(desc[8:], uint32(len(frame)))
	x.sent++
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&x.tx[x.offsets.Producer])), x.sent)
	return unix.Sendto(x.fd, nil, unix.MSG_DONTWAIT, nil)
}

// datagram is a lookup in an IP packet, as long as it takes to be cut.
func datagram(to netip.AddrPort, port uint16) []byte {
	data := append([]byte("whoami\n"), make([]byte, 57)...)
	udp := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(udp, port)
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(data)))
	udp = append(udp, data...)
	src, dst := here(to).AsSlice(), to.Addr().AsSlice()
	pseudo := slices.Concat(src, dst, []byte{0, unix.IPPROTO_UDP}, udp[4:6])
	binary.BigEndian.PutUint16(udp[6:], netlab.Checksum(pseudo, udp))
	if to.Addr().Is4() {
		p := slices.Concat([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, src, dst, udp)
		seal(p)
		return p
	}
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, src, dst, udp)
}

// rawLookups sends lookups that no socket of UDP's would, from several ports.
func rawLookups(to netip.AddrPort) string {
	to = lookup(to)
	var errs []error
	for _, port := range []uint16{53, 15053, 28000} {
		p := datagram(to, port)
		errs = append(errs, sendRaw(p, to))
		for _, e := range extensions(p) {
			errs = append(errs, sendRaw(e, to))
		}
	}
	return refusedOnly(errs...)
}

// rawLookupFragments sends lookups in fragments, which the kernel is to leave as they are where it can be told.
func rawLookupFragments(to netip.AddrPort) string {
	to = lookup(to)
	var errs []error
	for i, at := range []int{8, 24} {
		for _, leave := range []int{0, 1} {
			for _, f := range fragments(datagram(to, uint16(28100+2*i+leave)), at, uint16(3000+2*i+leave)) {
				errs = append(errs, sendRaw(f, to, leaveFragments(to, leave)))
			}
		}
	}
	return refusedOnly(errs...)
}

// leaveFragments has the kernel leave fragments of IPv4 as they are.
func leaveFragments(to netip.AddrPort, leave int) option {
	const ipNoDefrag = 22 // IP_NODEFRAG
	return byFamily(to, flag(unix.SOL_IP, ipNoDefrag, leave), func(int) error { return nil })
}

// eachProtocol sends packets of protocols that no proxy takes.
func eachProtocol(to netip.AddrPort) string {
	var errs []error
	for _, protocol := range []int{unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE, unix.IPPROTO_GRE, 253} {
		fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return said(err)
		}
		data := make([]byte, 32)
		data[5] = 8 // the checksum's coverage, where there is one
		errs = append(errs, unix.Sendto(fd, data, 0, netlab.Sockaddr(netip.AddrPortFrom(to.Addr(), 0))), unix.Close(fd))
	}
	return refusedOnly(errs...)
}
