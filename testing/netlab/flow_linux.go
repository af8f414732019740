package netlab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Side is the side of the lab that opens a flow.
type Side uint8

// The sides.
const (
	FromPod  Side = iota // a process of the pod: outbound
	FromPeer             // the peer: inbound
	FromVM               // the VM behind the pod: inbound for the kernel, outbound for the mesh
)

// String returns "pod", "peer" or "vm".
func (s Side) String() string {
	switch s {
	case FromPod:
		return "pod"
	case FromPeer:
		return "peer"
	case FromVM:
		return "vm"
	}
	return fmt.Sprintf("Side(%d)", uint8(s))
}

// Flow is a connection to be opened, or for UDP a datagram to be sent and
// answered.
type Flow struct {
	From Side
	// Protocol is TCP or UDP.
	Protocol intercept.Protocol
	// Src is the source. A zero address is the kernel's choice, a zero port
	// the lab's. From the peer it may be any address; from the pod one of the
	// pod's, any of 127.0.0.0/8, or ::1 or ::6 (::6 becomes an address of the
	// pod's lo when it is first used); from the VM one of the VM's.
	Src netip.AddrPort
	// Dst is the destination. From the peer it is an address of the pod on
	// eth0 or net1; from the VM any address but the VM's own and loopback.
	Dst netip.AddrPort
	// Owner is the sender's user and group. Nil is root. From elsewhere than
	// the pod it makes no difference.
	Owner *intercept.Owner
	// Mark is the mark of the sender's packets (SO_MARK). It does not leave
	// the namespace, so only flows from the pod can have one.
	Mark uint32
	// Device is the interface that the sender's socket is bound to (SO_BINDTODEVICE). Empty: none.
	Device string
	// Timeout is how long to wait before the flow counts as dropped. Zero
	// stands for two seconds. Less than one may take a rejection for a drop:
	// an ICMP message about a TCP connection often finds the socket busy
	// (LockDroppedIcmps in nstat(8)), and the next comes after a second.
	Timeout time.Duration
}

// String describes the flow, as in "tcp from pod to 203.0.113.7:80 as
// 1000:1000 with mark 0x539".
func (f Flow) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from %s", f.Protocol, f.From)
	switch {
	case f.Src.Addr().IsValid():
		fmt.Fprintf(&b, " (%s)", f.Src)
	case f.Src.Port() != 0:
		fmt.Fprintf(&b, " (port %d)", f.Src.Port())
	}
	fmt.Fprintf(&b, " to %s", f.Dst)
	if f.From == FromPod {
		o := orRoot(f.Owner)
		fmt.Fprintf(&b, " as %d:%d", o.UID, o.GID)
	}
	if f.Mark != 0 {
		fmt.Fprintf(&b, " with mark %#x", f.Mark)
	}
	if f.Device != "" {
		fmt.Fprintf(&b, " bound to %s", f.Device)
	}
	return b.String()
}

// Packet returns the first packet of the flow in l, for
// [intercept.Ruleset.Trace] to judge. Where f leaves a choice to the kernel
// the packet has what the kernel will choose, but for the source port, which
// is a placeholder. It knows the lab's own addresses and routes, not those
// added to it.
func (f Flow) Packet(l *Lab) intercept.Packet {
	p := intercept.Packet{Protocol: f.Protocol, Dst: f.Dst, Mark: f.Mark}
	src := f.Src.Addr()
	if f.From != FromPod {
		p.Hook = intercept.Prerouting
		c, ok := l.arrival(f)
		p.Interface = c.name
		_, local := l.local(f.Dst.Addr())
		p.Foreign, p.Listening = !local, true
		if !src.IsValid() && ok {
			src = c.end(f.Dst.Addr()).far
		}
	} else {
		p.Hook = intercept.Output
		var from netip.Addr
		p.Interface, from = l.route(f.Dst.Addr())
		if !src.IsValid() {
			src = from
		}
		owner := orRoot(f.Owner)
		p.Owner = &owner
	}
	port := f.Src.Port()
	if port == 0 {
		port = firstClientPort
	}
	p.Src = netip.AddrPortFrom(src, port)
	return p
}

// Delivery is what became of a flow.
type Delivery struct {
	// Fate is what the flow met:
	//
	//   - Pass: the destination itself answered.
	//   - Redirected, Transparent: a port of the sidecar answered, or relayed;
	//     with Transparent it saw the destination's address as its own.
	//   - Translated: an app or the peer answered at another destination.
	//   - Rejected: the sender was told so, by a reset or by ICMP.
	//   - Dropped: nothing came back in time.
	Fate intercept.Fate
	// Source is the sender's own end of the flow. If no address and no port
	// was changed on the way, it is the Client that the server saw. It is zero
	// if nobody answered.
	Source netip.AddrPort
	// Banner is who answered, and which Client it saw. It is zero if nobody
	// did.
	Banner
	// Via is the sidecar's listener that relayed the flow to who answered (see
	// [SidecarConfig].Forward), and the Client that it saw. It is zero if none
	// did.
	Via Banner
}

// first returns the server that the flow itself came to.
func (d Delivery) first() Banner {
	if d.Via.Role != "" {
		return d.Via
	}
	return d.Banner
}

// Is reports whether the delivery is what the fate f leads to. It differs from
// d.Fate == f in two ways: a redirection to a range of ports is one to any of
// them, and a flow that was on its way to the sidecar's very port, or to the very
// target, arrives the same whether it is sent there or passes.
func (d Delivery) Is(f intercept.Fate) bool {
	if f.Action == intercept.Translated && d.Fate.Action == intercept.Pass {
		return d.Role != "" && d.Local == f.To
	}
	if f.Action != intercept.Redirected && f.Action != intercept.Transparent {
		return d.Fate == f
	}
	first := d.first()
	return first.Role.sidecar() && intercept.Ports{f.Ports}.Contains(first.Port) &&
		(d.Fate.Action == f.Action || d.Fate.Action == intercept.Pass)
}

// String describes the delivery, as in "redirect(15001): outbound at
// 127.0.0.1:15001 answered 10.244.0.5:32768, original destination
// 203.0.113.7:80".
func (d Delivery) String() string {
	if d.Role == "" {
		return d.Fate.String()
	}
	s := fmt.Sprintf("%s: %s at %s answered %s", d.Fate, d.Role, d.Local, d.Client)
	if d.Original.IsValid() {
		s += fmt.Sprintf(", original destination %s", d.Original)
	}
	if d.Via.Role != "" {
		s += fmt.Sprintf("; relayed by %s at %s for %s", d.Via.Role, d.Via.Local, d.Via.Client)
	}
	return s
}

// Send sends a flow, lets it be answered, and says what became of it.
//
// If the destination is in the pod and nothing listens there, an app that does
// is started first, and stays. An error means that the flow could not be sent,
// or that its answer makes no sense, as when the sidecar is told a wrong
// original destination; being rejected or dropped is no error.
func (l *Lab) Send(f Flow) (Delivery, error) {
	conn, d, err := l.Dial(f)
	if conn == nil {
		return d, err
	}
	// Whatever its addresses, they can be used again at once.
	HangUp(conn.(syscall.Conn))
	return d, conn.Close()
}

// Dial is [Lab.Send] and leaves the connection open. What is written to it
// comes back over TCP; over UDP every datagram is answered with the Banner. The
// connection is nil if the flow was rejected or dropped. The caller closes it.
func (l *Lab) Dial(f Flow) (net.Conn, Delivery, error) {
	conn, d, err := l.dial(f)
	if err != nil {
		return nil, Delivery{}, fmt.Errorf("netlab: %s: %w", f, err)
	}
	return conn, d, nil
}

func (l *Lab) dial(f Flow) (_ net.Conn, d Delivery, err error) {
	if err := l.prepare(f); err != nil {
		return nil, Delivery{}, err
	}
	socket, err := l.clientSocket(f)
	if err != nil {
		return nil, Delivery{}, err
	}
	defer func() {
		if err != nil || d.Role == "" {
			HangUp(socket)
		}
		socket.Close()
	}()
	timeout := f.Timeout
	if timeout == 0 {
		timeout = 2 * time.Second
	}
	deadline := time.Now().Add(timeout)

	if err := connect(socket, f.Dst, deadline); err != nil {
		d.Fate, err = fateOf(err)
		return nil, d, err
	}
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, Delivery{}, err
	}
	defer func() {
		if err != nil || d.Role == "" {
			conn.Close()
		}
	}()
	b, err := greet(conn, deadline)
	switch {
	case err == nil:
		d.Banner = b
		d.Source = conn.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
		if f.Protocol == intercept.TCP {
			d.Via = l.relayOf(d.Source, f.Dst)
		}
		d.Fate, err = f.fate(d.first())
		return conn, d, err
	case f.Protocol == intercept.TCP:
		return nil, Delivery{}, fmt.Errorf("connected, but: %w", err)
	}
	d.Fate, err = fateOf(err)
	return nil, d, err
}

// prepare checks the flow and provides what it needs in the pod.
func (l *Lab) prepare(f Flow) error {
	dst := f.Dst.Addr()
	switch {
	case f.Protocol != intercept.TCP && f.Protocol != intercept.UDP:
		return fmt.Errorf("a flow's protocol is tcp or udp, not %s", f.Protocol)
	case !f.Dst.IsValid() || f.Dst.Port() == 0 || dst.Is4In6() || dst.Zone() != "":
		return fmt.Errorf("%s is not a destination", f.Dst)
	case f.Src.Addr().IsValid() && f.Src.Addr().Is4() != dst.Is4():
		return errors.New("source and destination are not of one family")
	case f.Mark != 0 && f.From != FromPod:
		return errors.New("a mark does not leave the namespace: only flows from the pod have one")
	case l.namespace(f.From) == nil:
		return fmt.Errorf("the lab has no %s; see Options", f.From)
	}
	if f.From != FromPod {
		if c, ok := l.arrival(f); !ok {
			return fmt.Errorf("%s does not lead from the %s through an interface of the pod", dst, f.From)
		} else if c.end(dst).far == dst {
			return fmt.Errorf("%s is the %s's own", dst, f.From)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.From == FromPod && (f.Src.Addr() == passthrough6 || dst == passthrough6) {
		if err := l.Pod.Do(addPassthrough); err != nil {
			return err
		}
	}
	if _, local := l.local(dst); !local {
		return nil
	}
	app := server{endpoint: endpoint{f.Protocol, f.Dst}, role: RoleApp, in: l.Pod}
	anywhere := endpoint{f.Protocol, netip.AddrPortFrom(unspecified(dst), f.Dst.Port())}
	if l.listening[app.endpoint] != nil || l.listening[anywhere] != nil {
		return nil
	}
	// A process of the user's may listen there as well: let it answer.
	if err := app.start(&l.own); err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return err
	} else if err == nil {
		l.listening[app.endpoint] = &l.own
	}
	return nil
}

// clientSocket opens the socket of a flow's sender and binds its source.
func (l *Lab) clientSocket(f Flow) (*os.File, error) {
	typ := unix.SOCK_STREAM
	if f.Protocol == intercept.UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := l.namespace(f.From).Socket(Domain(f.Dst.Addr()), typ, f.Owner)
	if err != nil {
		return nil, err
	}
	if err = setMark(fd, f.Mark); err == nil && f.Device != "" {
		err = os.NewSyscallError("setsockopt", unix.BindToDevice(fd, f.Device))
	}
	if err == nil {
		err = l.bindClient(fd, f)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "client"), nil
}

// setMark gives the socket's packets a mark; zero is what they have anyway.
func setMark(fd int, mark uint32) error {
	if mark == 0 {
		return nil
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
}

// The lab chooses the source ports of its flows, one after the other. Left to
// the kernel, a port could soon come again and its flow meet what connection
// tracking remembers of an earlier one: over UDP the fate of half a minute ago.
const firstClientPort, lastClientPort = 32768, 60999

func (l *Lab) bindClient(fd int, f Flow) error {
	addr := f.Src.Addr()
	if !addr.IsValid() {
		addr = unspecified(f.Dst.Addr())
	}
	if port := f.Src.Port(); port != 0 {
		return bind(fd, netip.AddrPortFrom(addr, port), f.From == FromPeer)
	}
	_, err := l.bindNext(fd, f.Protocol, addr, f.From == FromPeer)
	return err
}

// bindNext binds a socket to the next port, and returns what it is bound to.
func (l *Lab) bindNext(fd int, p intercept.Protocol, addr netip.Addr, transparent bool) (bound netip.AddrPort,
	err error) {
	for range lastClientPort - firstClientPort {
		port := uint16(firstClientPort + l.lastPort.Add(1)%(lastClientPort-firstClientPort+1))
		if l.listens(p, port) {
			continue
		}
		bound = netip.AddrPortFrom(addr, port)
		if err = bind(fd, bound, transparent); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return bound, err
}

// listens reports whether a server in the pod has the port: over UDP the
// kernel would let a client share it.
func (l *Lab) listens(p intercept.Protocol, port uint16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := range l.listening {
		if e.protocol == p && e.addr.Port() == port {
			return true
		}
	}
	return false
}

// connect connects a socket that does not block. Until it is connected or has
// failed, the kernel answers that it is still trying.
func connect(socket *os.File, to netip.AddrPort, deadline time.Time) error {
	if err := socket.SetDeadline(deadline); err != nil {
		return err
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var connErr error
	err = raw.Write(func(fd uintptr) bool {
		connErr = unix.Connect(int(fd), Sockaddr(to))
		return connErr != unix.EINPROGRESS && connErr != unix.EALREADY
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", connErr)
}

// greet has a connected server say who it is.
func greet(conn net.Conn, deadline time.Time) (Banner, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return Banner{}, err
	}
	// A datagram that a rule discards at once fails to be written with EPERM.
	// Whether its sender was told more than that, reading tells.
	if _, err := conn.Write([]byte("whoami\n")); err != nil && !errors.Is(err, unix.EPERM) {
		return Banner{}, err
	}
	// No more than a line comes before the client goes on.
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return Banner{}, err
	}
	var b Banner
	if err := json.Unmarshal(line, &b); err != nil {
		return Banner{}, fmt.Errorf("answered by something that is no server of the lab: %q", line)
	}
	return b, conn.SetDeadline(time.Time{})
}

// fateOf returns the fate that an error of a connection tells of, or the
// error if it tells of none.
func fateOf(err error) (intercept.Fate, error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return intercept.Fate{Action: intercept.Dropped}, nil
	}
	// What resets and ICMP's messages become (icmp_err_convert and tab_unreach
	// in the kernel's net/ipv4/icmp.c and net/ipv6/icmp.c).
	rejections := []syscall.Errno{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOPROTOOPT, unix.EACCES}
	if slices.ContainsFunc(rejections, func(e syscall.Errno) bool { return errors.Is(err, e) }) {
		return intercept.Fate{Action: intercept.Rejected}, nil
	}
	return intercept.Fate{}, err
}

// fate returns the fate of a flow that was answered with b.
func (f Flow) fate(b Banner) (intercept.Fate, error) {
	switch {
	case b.Role.sidecar() && b.Original.IsValid() && b.Original != f.Dst:
		return intercept.Fate{}, fmt.Errorf("%s on port %d was told a wrong original destination, %s", b.Role, b.Port,
			b.Original)
	case b.Local == f.Dst && b.Port == f.Dst.Port():
		return intercept.Fate{}, nil
	case b.Local == f.Dst:
		return intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(b.Port)}, nil
	case b.Role.sidecar():
		return intercept.RedirectedTo(b.Port), nil
	}
	return intercept.Fate{Action: intercept.Translated, To: b.Local}, nil
}

var (
	loopback4    = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	passthrough4 = netip.AddrFrom4([4]byte{127, 0, 0, 6})
	passthrough6 = netip.AddrFrom16([16]byte{15: 6}) // ::6
)

// addPassthrough makes ::6 an address of the loopback interface, as 127.0.0.6
// is by itself.
func addPassthrough() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := addAddr(h, lo, host(passthrough6)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return awaitLocal(h, passthrough6)
}

// unspecified returns the address that stands for all of a's family.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// cableOf returns the cable whose address in the pod is a.
func (l *Lab) cableOf(a netip.Addr) (cable, bool) {
	for _, c := range l.cables {
		if c.end(a).pod.Addr() == a {
			return c, true
		}
	}
	return cable{}, false
}

// arrival returns the cable by which a flow from outside the pod arrives
// there.
func (l *Lab) arrival(f Flow) (cable, bool) {
	dst := f.Dst.Addr()
	to, onCable := l.cableOf(dst)
	if f.From == FromPeer {
		return to, onCable && to.far == FromPeer
	}
	for _, c := range l.cables {
		// What is local to the pod without being on a cable is loopback, which
		// every namespace has for itself.
		if _, local := l.local(dst); c.far == f.From && (onCable || !local) {
			return c, true
		}
	}
	return cable{}, false
}

// local reports whether a is an address of the pod, and the source that the
// kernel gives to what is sent to it.
func (l *Lab) local(a netip.Addr) (src netip.Addr, ok bool) {
	if _, ok := l.cableOf(a); ok || a == netip.IPv6Loopback() || a == passthrough6 {
		return a, true
	}
	return loopback4, a.Is4() && a.IsLoopback()
}

// route returns the interface by which the pod sends to a, and the source that
// the kernel gives it.
func (l *Lab) route(a netip.Addr) (dev string, src netip.Addr) {
	if src, ok := l.local(a); ok {
		return "lo", src
	}
	best := -1
	for _, c := range l.cables {
		for _, to := range c.to {
			if to.Contains(a) && to.Bits() > best {
				best, dev, src = to.Bits(), c.name, c.end(a).pod.Addr()
			}
		}
	}
	return dev, src
}
