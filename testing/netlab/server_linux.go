package netlab

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Role is what a server of the lab is there for.
type Role string

// The roles of servers.
const (
	RoleOutbound Role = "outbound" // the sidecar's listener for what the pod sends
	RoleInbound  Role = "inbound"  // the sidecar's listener for what comes to the pod
	RoleDNS      Role = "dns"      // the sidecar's resolver
	RoleApp      Role = "app"      // an app in the pod
	RolePeer     Role = "peer"     // the world outside the pod
)

// sidecar reports whether the role is one of the sidecar's.
func (r Role) sidecar() bool { return r == RoleOutbound || r == RoleInbound || r == RoleDNS }

// Banner is what a server answers: who it is and what it sees of the flow.
type Banner struct {
	Role Role `json:"role"`
	// Port is the one the server listens on. At the peer, which listens on
	// all of them, it is Local's.
	Port uint16 `json:"port"`
	// Local is the server's end of the flow, after any translation.
	Local netip.AddrPort `json:"local"`
	// Original is the destination before translation, as connection tracking
	// tells it (SO_ORIGINAL_DST), or Local if it knows of none. It is zero
	// over UDP at a sidecar, where it cannot be known.
	Original netip.AddrPort `json:"original,omitzero"`
	// Client is the client's end of the flow, as the server sees it.
	Client netip.AddrPort `json:"client"`
}

// endpoint is where a server listens.
type endpoint struct {
	protocol intercept.Protocol
	addr     netip.AddrPort
}

// server answers at one endpoint, as the package documentation says.
type server struct {
	endpoint
	role  Role
	in    *Namespace
	owner intercept.Owner
	// transparent: takes packets to any address that are steered to it, and
	// answers from that address.
	transparent bool
	// relay passes TCP connections on. Nil: the server answers them itself.
	relay *relay
}

// start opens the server's socket and answers on it until g is closed.
func (s server) start(g *group) error {
	typ, serve := unix.SOCK_STREAM, s.serveTCP
	if s.protocol == intercept.UDP {
		typ, serve = unix.SOCK_DGRAM, s.serveUDP
	}
	socket, err := s.listen(typ)
	if err != nil {
		return fmt.Errorf("listen as %s on %s %s: %w", s.role, s.protocol, s.addr, err)
	}
	g.serve(socket, func() { serve(g, socket) })
	return nil
}

func (s server) listen(typ int) (*os.File, error) {
	fd, err := s.in.Socket(Domain(s.addr.Addr()), typ, &s.owner)
	if err != nil {
		return nil, err
	}
	err = bind(fd, s.addr, s.transparent)
	switch {
	case err != nil:
	case typ == unix.SOCK_STREAM:
		// Connections get it from the listener: those whose clients have gone without a word end some time, two hours
		// later unless the namespace says otherwise (net.ipv4.tcp_keepalive_time).
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
		if err == nil {
			err = os.NewSyscallError("listen", unix.Listen(fd, 4096))
		}
	case s.transparent && s.addr.Addr().Is4():
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1))
	case s.transparent:
		err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), string(s.role)), nil
}

// serveTCP accepts connections until the socket is closed. They are accepted
// as the server's owner, who then owns their packets as well.
func (s server) serveTCP(g *group, socket *os.File) {
	raw, err := socket.SyscallConn()
	for err == nil {
		var fd int
		var acceptErr error
		err = raw.Read(func(listener uintptr) bool {
			acceptErr = As(s.owner, func() (err error) {
				fd, _, err = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				return err
			})
			return acceptErr != unix.EAGAIN
		})
		switch {
		case err != nil || acceptErr == unix.ECONNABORTED:
		case acceptErr != nil:
			return
		default:
			conn := os.NewFile(uintptr(fd), string(s.role))
			g.serve(conn, func() { s.converse(g, conn, fd) })
		}
	}
}

// converse answers on one connection until its client is done. The
// conversation's end is the only thing to do about its errors.
func (s server) converse(g *group, conn *os.File, fd int) {
	b, err := s.connBanner(fd)
	if err != nil {
		return
	}
	if s.relay != nil && s.relay.takes(b) {
		s.relay.run(g, conn, b)
		return
	}
	r := bufio.NewReader(conn)
	first, err := r.Peek(1)
	if err != nil {
		return
	}
	if first[0] == 0 {
		answerDNSStream(conn, r, b)
		return
	}
	if _, err := r.ReadSlice('\n'); err != nil {
		return
	}
	if _, err := conn.Write(b.line()); err != nil {
		return
	}
	io.Copy(conn, r)
}

func (s server) connBanner(fd int) (Banner, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return Banner{}, err
	}
	client, err := unix.Getpeername(fd)
	if err != nil {
		return Banner{}, err
	}
	b := s.banner(addrPort(local), addrPort(client))
	if original, ok := OriginalDst(fd, b.Local.Addr()); ok {
		b.Original = original
	}
	return b, nil
}

// OriginalDst asks connection tracking for the first destination of a
// connection that has come to the address local. It knows nothing of
// connections in namespaces where nothing uses it.
func OriginalDst(fd int, local netip.Addr) (netip.AddrPort, bool) {
	// The calls are named after other options; what counts is that their
	// results have room for, or are, the address the kernel writes.
	const soOriginalDst = 80 // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
	if local.Is4() {
		m, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
		if err != nil {
			return netip.AddrPort{}, false
		}
		sin := m.Multiaddr // struct sockaddr_in: family, port, address
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(sin[4:8])), binary.BigEndian.Uint16(sin[2:])), true
	}
	m, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, m.Addr.Port))
	return netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), port), true
}

// serveUDP answers datagrams until the socket is closed.
func (s server) serveUDP(g *group, socket *os.File) {
	buf, oob := make([]byte, 64<<10), make([]byte, 256)
	raw, err := socket.SyscallConn()
	for err == nil {
		var n, oobn int
		var from unix.Sockaddr
		var recvErr error
		err = raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return recvErr != unix.EAGAIN
		})
		if err != nil || recvErr != nil {
			continue
		}
		local := s.addr
		if s.transparent {
			local = steeredFrom(oob[:oobn])
		}
		b := s.banner(local, addrPort(from))
		if s.role.sidecar() {
			b.Original = netip.AddrPort{}
		}
		answer, ok := answerDNS(buf[:n], b)
		if !ok {
			answer = b.line()
		}
		// A lost answer is the network's business, as UDP has it.
		if s.transparent {
			s.sendFrom(local, from, answer)
			continue
		}
		raw.Write(func(fd uintptr) bool {
			return unix.Sendto(int(fd), answer, 0, from) != unix.EAGAIN
		})
	}
}

// sendFrom sends a datagram from any address.
func (s server) sendFrom(local netip.AddrPort, to unix.Sockaddr, data []byte) error {
	fd, err := s.in.Socket(Domain(local.Addr()), unix.SOCK_DGRAM, &s.owner)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := bind(fd, local, true); err != nil {
		return err
	}
	return unix.Sendto(fd, data, 0, to)
}

// steeredFrom reads the destination that a datagram had from its control
// messages.
func steeredFrom(oob []byte) netip.AddrPort {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}
	}
	for _, m := range msgs {
		if sa, err := unix.ParseOrigDstAddr(&m); err == nil {
			return addrPort(sa)
		}
	}
	return netip.AddrPort{}
}

// banner returns the banner of a flow that is not known to have been
// translated.
func (s server) banner(local, client netip.AddrPort) Banner {
	b := Banner{Role: s.role, Port: s.addr.Port(), Local: local, Original: local, Client: client}
	if s.role == RolePeer {
		b.Port = local.Port()
	}
	return b
}

// text returns the banner as JSON.
func (b Banner) text() []byte {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings, numbers and addresses: there is nothing to fail
	}
	return text
}

// line returns the banner as a line of JSON.
func (b Banner) line() []byte { return append(b.text(), '\n') }

// answerDNSStream answers the queries of a DNS connection, each after two
// bytes of its length.
func answerDNSStream(w io.Writer, r io.Reader, b Banner) {
	var length [2]byte
	for {
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(r, query); err != nil {
			return
		}
		answer, ok := answerDNS(query, b)
		if !ok {
			return
		}
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)
		if _, err := w.Write(framed); err != nil {
			return
		}
	}
}

// answerDNS answers a DNS query. It reports false for anything else.
func answerDNS(query []byte, b Banner) ([]byte, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response || h.OpCode != 0 {
		return nil, false
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) == 0 {
		return nil, false
	}
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID:                 h.ID,
			Response:           true,
			RecursionDesired:   h.RecursionDesired,
			RecursionAvailable: true,
		},
		Questions: questions,
	}
	for _, q := range questions {
		var body dnsmessage.ResourceBody
		switch q.Type {
		case dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: [4]byte{192, 0, 2, 53}}
		case dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::53").As16()}
		case dnsmessage.TypeTXT:
			body = &dnsmessage.TXTResource{TXT: txt(b.text())}
		default:
			continue
		}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class},
			Body:   body,
		})
	}
	answer, err := reply.Pack()
	return answer, err == nil
}

// txt cuts text into the strings of a TXT record, of at most 255 bytes.
func txt(text []byte) (parts []string) {
	for len(text) > 255 {
		parts, text = append(parts, string(text[:255])), text[255:]
	}
	return append(parts, string(text))
}

// group is a set of open sockets and the goroutines that serve them. The zero
// group is empty.
type group struct {
	mu     sync.Mutex
	closed bool
	open   map[*os.File]bool
	wg     sync.WaitGroup
}

// serve runs answer in a goroutine, and closes f when it returns. Closing the
// group closes f to make it return.
func (g *group) serve(f *os.File, answer func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.add(f) {
		return
	}
	g.wg.Go(func() {
		answer()
		g.release(f)
	})
}

// hold is serve for a socket of a goroutine that the group runs already. It
// reports whether the group is still open; if so, the goroutine releases f.
func (g *group) hold(f *os.File) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.add(f)
}

// add puts f into the group, or closes it if the group is closed. g.mu is
// held.
func (g *group) add(f *os.File) bool {
	if g.closed {
		f.Close()
		return false
	}
	if g.open == nil {
		g.open = map[*os.File]bool{}
	}
	g.open[f] = true
	return true
}

// release closes a socket of the group.
func (g *group) release(f *os.File) {
	g.mu.Lock()
	delete(g.open, f)
	g.mu.Unlock()
	f.Close()
}

// close closes the group's sockets and waits for its goroutines.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	for f := range g.open {
		HangUp(f)
		f.Close()
	}
	g.mu.Unlock()
	g.wg.Wait()
}

// HangUp ends what a socket does, at once: it resets a connection, stops
// listening, or disconnects a UDP socket. Closing it alone may do that later: a
// child process between fork and exec has a copy of it, marked close-on-exec or
// not, and a connection whose end is not acknowledged, perhaps since a rule
// drops the packets, would hold its namespace for minutes.
func HangUp(socket syscall.Conn) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	nowhere := unix.RawSockaddr{Family: unix.AF_UNSPEC} // connect(2); no type of package unix's stands for it
	raw.Control(func(fd uintptr) {
		unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere))
	})
}

// bind sets a socket's local address; a zero port is for the kernel to
// choose. A transparent socket may have one that is not the namespace's own.
func bind(fd int, addr netip.AddrPort, transparent bool) error {
	set := func(level, option int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, 1))
	}
	// Ports that were in use a moment ago can be used again.
	err := set(unix.SOL_SOCKET, unix.SO_REUSEADDR)
	switch {
	case addr.Addr().Is4() && transparent:
		err = errors.Join(err, set(unix.SOL_IP, unix.IP_TRANSPARENT))
	case addr.Addr().Is6() && transparent:
		err = errors.Join(err, set(unix.SOL_IPV6, unix.IPV6_V6ONLY), set(unix.SOL_IPV6, unix.IPV6_TRANSPARENT))
	case addr.Addr().Is6():
		err = errors.Join(err, set(unix.SOL_IPV6, unix.IPV6_V6ONLY))
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("bind", unix.Bind(fd, Sockaddr(addr)))
}

// anyAddr returns the addresses at which a server of both families listens.
func anyAddr(port uint16) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.IPv4Unspecified(), port),
		netip.AddrPortFrom(netip.IPv6Unspecified(), port),
	}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
