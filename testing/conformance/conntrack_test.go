//go:build linux

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// Where conntrack errs, NAT is not asked, and what the policy captures would go
// where it was to go. These are the ways to mislead it, each with the line that
// stands behind NAT, and with what comes of it without one.

var (
	app   = &intercept.Owner{UID: 1000, GID: 1000}
	proxy = &intercept.Owner{UID: 1337, GID: 1337}

	passed   = intercept.Fate{}
	rejected = intercept.Fate{Action: intercept.Rejected}
	dropped  = intercept.Fate{Action: intercept.Dropped}
)

// mistake is a way in which conntrack errs.
type mistake struct {
	name string
	line string // of the policy, that knows better
	set  func(*intercept.Config)
	// vm and slow say what the lab has: a machine behind the pod, and a proxy of which the queue of connections is full.
	vm, slow bool
	// now: what misleads conntrack comes while the rules are in force. Else it came before the second look was.
	now bool
	// mislead does it, send sends what conntrack then errs about, and packet is what that is.
	mislead func(*scene, *testing.T)
	send    func(*scene, *testing.T) intercept.Fate
	packet  func(*scene) intercept.Packet
	// with and without are the fates with a second look and without one.
	with, without intercept.Fate
}

// scene is where a mistake is made.
type scene struct {
	lab  *netlab.Lab
	flow netlab.Flow // what conntrack errs about, or its connection
	conn *os.File    // of the flow, where it was there before
	slow *slowProxy
}

// known returns the scene's packet with what conntrack believes.
func known(change func(*intercept.Packet)) func(*scene) intercept.Packet {
	return func(s *scene) intercept.Packet {
		p := s.flow.Packet(s.lab)
		p.Known = true
		change(&p)
		return p
	}
}

func nothing(*intercept.Packet)      {}
func invalid(p *intercept.Packet)    { p.State = intercept.CTInvalid }
func othersSyn(p *intercept.Packet)  { p.State, p.Reply = intercept.CTEstablished, true }
func answered(p *intercept.Packet)   { p.State = intercept.CTEstablished }
func dnsOfAll(c *intercept.Config)   { c.DNS.Mode = intercept.DNSAll }
func rejectUDP(c *intercept.Config)  { c.Outbound.UDP = intercept.TreatmentReject }
func rejectQUIC(c *intercept.Config) { c.Outbound.QUIC = intercept.TreatmentReject }

// late is a segment with data of the application's.
func late(s *scene) intercept.Packet {
	p := s.flow.Packet(s.lab)
	p.Flags, p.Length, p.TCPHeader = intercept.ACK|intercept.PSH, 100, 8
	return p
}

// flow sends the scene's flow.
func flow(s *scene, t *testing.T) intercept.Fate {
	t.Helper()
	got, err := s.lab.Send(s.flow)
	if err != nil {
		t.Fatal(err)
	}
	return got.Fate
}

// anotherSends sends the scene's flow as another user.
func anotherSends(who *intercept.Owner) func(*scene, *testing.T) {
	return func(s *scene, t *testing.T) {
		t.Helper()
		f := s.flow
		f.Owner = who
		if got, err := s.lab.Send(f); err != nil || got.Fate != passed {
			t.Fatalf("%s: %s, %v", f, got, err)
		}
	}
}

// ack is an acknowledgment from the flow's side, or from the other one.
func (s *scene) ack(t *testing.T, side netlab.Side, options []byte, flags uint8, how netlab.Injection) {
	t.Helper()
	seg := netlab.Segment{Src: s.flow.Src, Dst: s.flow.Dst, Flags: flags, Seq: 1000, Options: options}
	if side != s.flow.From {
		seg.Src, seg.Dst = seg.Dst, seg.Src
	}
	if flags&intercept.ACK != 0 {
		seg.Ack = 2000
	}
	// What the second look refuses, the sender hears of at once.
	if err := s.lab.Inject(side, seg, how); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	if side != netlab.FromPod {
		s.arrives(t)
	}
}

// arrives waits until conntrack knows what was sent to the pod, or for as long as that may take where a rule keeps it from
// that: a segment from outside is on its way for a while.
func (s *scene) arrives(t *testing.T) {
	t.Helper()
	family := netlink.InetFamily(unix.AF_INET)
	if s.flow.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	ports := []uint16{s.flow.Src.Port(), s.flow.Dst.Port()}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); _, _ = unix.Poll(nil, 1) {
		var entries []*netlink.ConntrackFlow
		err := s.lab.Pod.Do(func() (err error) {
			entries, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
			return err
		})
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			t.Fatal(err)
		}
		if slices.ContainsFunc(entries, func(e *netlink.ConntrackFlow) bool {
			return slices.Contains(ports, e.Forward.SrcPort) && slices.Contains(ports, e.Forward.DstPort)
		}) {
			return
		}
	}
}

// mistakes are the kinds that are known.
var mistakes = []mistake{
	{
		name: "an entry is forgotten, and the application goes on", line: "B5", now: true,
		mislead: func(s *scene, t *testing.T) { s.connect(t); s.forget(t) },
		send:    (*scene).sendLate, packet: late,
		with: rejected, without: passed,
	}, {
		name: "an entry is forgotten, and the application goes on after the proxy has closed", line: "B5", now: true,
		mislead: func(s *scene, t *testing.T) { s.connect(t); s.halfClose(t); s.forget(t) },
		send:    (*scene).sendLate, packet: late,
		with: rejected, without: passed,
	}, {
		name: "an application sends an acknowledgment that gets nowhere, and then connects", line: "B4",
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPod, netlab.MD5Option(), intercept.ACK, netlab.Injection{Owner: app})
		},
		send: flow, packet: known(nothing),
		with: rejected, without: passed,
	}, {
		// The acknowledgment itself is refused, and leaves no entry.
		name: "an application does so under the rules", line: "O12", now: true,
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPod, netlab.MD5Option(), intercept.ACK, netlab.Injection{Owner: app})
		},
		send: flow, packet: known(func(p *intercept.Packet) { p.Known = false }),
		with: intercept.RedirectedTo(15001), without: passed,
	}, {
		name: "a client sends an acknowledgment that no socket takes, and then connects", line: "B9", now: true,
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPeer, netlab.MD5Option(), intercept.ACK, netlab.Injection{})
		},
		send: flow, packet: known(nothing),
		with: rejected, without: passed,
	}, {
		name: "a client sends an acknowledgment to everybody, and then connects", line: "B9", now: true,
		mislead: func(s *scene, t *testing.T) {
			seg := netlab.Segment{Src: s.flow.Src, Dst: s.flow.Dst, Flags: intercept.ACK, Seq: 1000, Ack: 2000}
			if err := s.lab.InjectFrame("eth0", seg, true); err != nil {
				t.Fatal(err)
			}
		},
		send: flow, packet: known(nothing),
		with: rejected, without: passed,
	}, {
		name: "an application makes the entry of a client's connection", line: "B9",
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPod, netlab.MD5Option(), intercept.ACK, netlab.Injection{Owner: app})
		},
		send: flow, packet: known(invalid),
		with: rejected, without: passed,
	}, {
		// Mode tproxy looks at each packet, and needs no second look.
		name: "an application makes the entry of a client's connection, which goes to a transparent proxy", line: "I7",
		set: func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy },
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPod, netlab.MD5Option(), intercept.ACK, netlab.Injection{Owner: app})
		},
		send: (*scene).clientAsks, packet: known(invalid),
		with:    intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)},
		without: intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)},
	}, {
		name: "a server makes the entry of an application's connection", line: "B4", now: true,
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPeer, netlab.MD5Option(), intercept.ACK, netlab.Injection{})
		},
		send: flow, packet: known(invalid),
		with: rejected, without: passed,
	}, {
		name: "a server makes it as if both opened the connection", line: "B4", now: true,
		// Arriving, it would be captured; what is not included is answered by no proxy.
		set: func(c *intercept.Config) { c.Inbound.IncludePorts = nil },
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPeer, netlab.MD5Option(), intercept.SYN, netlab.Injection{})
		},
		send: flow, packet: known(othersSyn),
		with: rejected, without: passed,
	}, {
		name: "the proxy has tried to connect from the same port", line: "B4", now: true,
		mislead: func(s *scene, t *testing.T) { s.tryInVain(t, proxy) },
		send:    flow, packet: known(nothing),
		with: rejected, without: passed,
	}, {
		name: "an excluded user has tried to connect from the same port", line: "B4", now: true,
		set:     func(c *intercept.Config) { c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(2000)} },
		mislead: func(s *scene, t *testing.T) { s.tryInVain(t, &intercept.Owner{UID: 2000, GID: 2000}) },
		send:    flow, packet: known(nothing),
		with: rejected, without: passed,
	}, {
		name: "an application has waited for the proxy at the port that the proxy takes", line: "B1", now: true, slow: true,
		mislead: func(s *scene, t *testing.T) { s.waitForProxy(t) },
		send:    (*scene).proxyConnects, packet: known(func(p *intercept.Packet) {
			p.Owner, p.DNAT = proxy, true
			p.Dst = netip.AddrPortFrom(localhost(p.Dst.Addr()), 15001)
		}),
		with: rejected, without: intercept.RedirectedTo(15001),
	}, {
		name: "the proxy has spoken UDP from the same port", line: "O13", set: rejectUDP, now: true,
		mislead: anotherSends(proxy), send: flow, packet: known(answered),
		with: rejected, without: passed,
	}, {
		name: "the proxy has spoken QUIC from the same port", line: "O13", set: rejectQUIC, now: true,
		mislead: anotherSends(proxy), send: flow, packet: known(answered),
		with: rejected, without: passed,
	}, {
		// The server's datagram is refused where no socket waits for it, and leaves no entry.
		name: "a server has sent a datagram to the port", line: "O13", set: rejectUDP, now: true,
		mislead: func(s *scene, t *testing.T) { s.datagramFromServer(t) },
		send:    flow, packet: known(func(p *intercept.Packet) { p.Known = false }),
		with: rejected, without: passed,
	}, {
		name: "an application sends an acknowledgment that gets nowhere, and then asks for a name by TCP",
		line: "B6", set: dnsOfAll,
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromPod, netlab.MD5Option(), intercept.ACK, netlab.Injection{Owner: app})
		},
		send: flow, packet: known(nothing),
		with: rejected, without: passed,
	}, {
		name: "a machine behind the pod sends an acknowledgment that no socket takes, and then connects",
		line: "B11", vm: true, now: true,
		set: func(c *intercept.Config) { c.VirtualInterfaces = []string{"br-*"} },
		mislead: func(s *scene, t *testing.T) {
			s.ack(t, netlab.FromVM, netlab.MD5Option(), intercept.ACK, netlab.Injection{})
		},
		send: flow, packet: known(nothing),
		with: rejected, without: passed,
	},
}

// flows returns the mistake's flow in each family. Its source port is none of the lab's clients.
func (m mistake) flows() (flows []netlab.Flow) {
	for _, family := range []int{0, 1} {
		at := func(word string, port uint16) netip.AddrPort {
			return netip.AddrPortFrom(named(word)[family], port)
		}
		f := netlab.Flow{Protocol: intercept.TCP, Src: at("pod", 20001), Dst: at("outside", 80), Owner: app}
		switch {
		case m.line == "B9" || m.line == "I7":
			f = netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Src: at("client", 20001), Dst: at("pod", 8080)}
		case m.line == "O13":
			f.Protocol, f.Dst = intercept.UDP, at("outside", 443)
		case m.line == "B6":
			f.Dst = at("dns", 53)
		case m.vm:
			f.From, f.Owner, f.Src = netlab.FromVM, nil, netip.AddrPortFrom([]netip.Addr{
				netip.MustParseAddr("10.246.0.5"), netip.MustParseAddr("fd00:246::5")}[family], 20001)
		}
		flows = append(flows, f)
	}
	return flows
}

func (m mistake) config(b intercept.Backstop) intercept.Config {
	c := intercept.Default()
	if m.set != nil {
		m.set(&c)
	}
	c.Backstop = b
	return c
}

// TestMistakesTrace judges the mistakes without a kernel.
func TestMistakesTrace(t *testing.T) {
	for _, m := range mistakes {
		s := &scene{lab: netlab.OnPaper(netlab.Options{SecondInterface: true, VM: m.vm})}
		for _, s.flow = range m.flows() {
			rs, err := intercept.Compile(m.config(intercept.BackstopOn))
			if err != nil {
				t.Fatal(err)
			}
			trace, err := rs.Trace(m.packet(s))
			if err != nil {
				t.Fatal(err)
			}
			if trace.Fate != m.with || trace.Line != m.line {
				t.Errorf("%s: %s: Trace says %s by %s (%s), and not %s by %s",
					m.name, s.flow, trace.Fate, trace.Rule, trace.Reason, m.with, m.line)
			}
		}
	}
}

// TestMistakesKernel makes the mistakes in a kernel, with a second look and
// without one: there they have to lead past the proxy, or the test proves
// nothing.
func TestMistakesKernel(t *testing.T) {
	for _, backend := range backends {
		for _, m := range mistakes {
			for _, second := range []intercept.Backstop{intercept.BackstopOn, intercept.BackstopOff} {
				t.Run(fmt.Sprintf("%s/%s/%s", backend, m.name, second), func(t *testing.T) {
					t.Parallel()
					requireIPTables(t)
					for _, f := range m.flows() {
						m.make(t, backend, second, f)
					}
				})
			}
		}
	}
}

func (m mistake) make(t *testing.T, backend dataplane.Backend, second intercept.Backstop, f netlab.Flow) {
	t.Helper()
	s := &scene{lab: netlab.NewT(t, netlab.Options{VM: m.vm}), flow: f}
	if m.slow {
		s.slow = newSlowProxy(t, s)
	} else if _, err := s.lab.StartSidecar(netlab.SidecarConfig{Transparent: m.line == "I7"}); err != nil {
		t.Fatal(err)
	}
	target := dataplane.Pod{NetNS: s.lab.Pod.Path(), Backend: backend}
	apply := func(b intercept.Backstop) {
		t.Helper()
		if _, err := target.Apply(t.Context(), m.config(b)); err != nil {
			t.Fatal(err)
		}
	}
	if m.now {
		apply(second)
		m.mislead(s, t)
	} else {
		apply(intercept.BackstopOff)
		m.mislead(s, t)
		apply(second)
	}
	want := m.with
	if second == intercept.BackstopOff {
		want = m.without
	}
	if got := m.send(s, t); got != want {
		t.Errorf("%s, backstop %s: %s, not %s\n%s", f, second, got, want, listing(target))
	}
}

func localhost(like netip.Addr) netip.Addr { return word("localhost", like) }

// socket opens a TCP socket in the pod, bound to the flow's source.
func (s *scene) socket(t *testing.T, who *intercept.Owner) *os.File {
	t.Helper()
	return s.socketAt(t, s.lab.Pod, who, false)
}

func (s *scene) socketAt(t *testing.T, in *netlab.Namespace, who *intercept.Owner, transparent bool) *os.File {
	t.Helper()
	domain, level, option := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	if s.flow.Dst.Addr().Is6() {
		domain, level, option = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	fd, err := in.Socket(domain, unix.SOCK_STREAM, who)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "client")
	t.Cleanup(func() { file.Close() })
	if transparent {
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, netlab.Sockaddr(s.flow.Src)))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// control calls f with the socket's descriptor.
func control(t *testing.T, socket *os.File, f func(fd int) error) {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := errors.Join(raw.Control(func(fd uintptr) { inner = f(int(fd)) }), inner); err != nil {
		t.Fatal(err)
	}
}

// connect opens the scene's connection, which is captured.
func (s *scene) connect(t *testing.T) {
	t.Helper()
	s.conn = s.socket(t, s.flow.Owner)
	dial(t, s.conn, s.flow.Dst)
}

// dial connects a socket.
func dial(t *testing.T, socket *os.File, dst netip.AddrPort) {
	t.Helper()
	if err := connect(t, socket, dst); err != nil {
		t.Fatal(err)
	}
}

// connect connects a socket that does not block.
func connect(t *testing.T, socket *os.File, dst netip.AddrPort) (err error) {
	t.Helper()
	raw, rawErr := socket.SyscallConn()
	if rawErr != nil {
		t.Fatal(rawErr)
	}
	rawErr = raw.Write(func(fd uintptr) bool {
		err = unix.Connect(int(fd), netlab.Sockaddr(dst))
		return !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EALREADY)
	})
	if errors.Is(err, unix.EISCONN) {
		err = nil
	}
	return errors.Join(rawErr, err)
}

// halfClose has the proxy close the connection. The application does not.
func (s *scene) halfClose(t *testing.T) {
	t.Helper()
	// What is no lookup of DNS, which begins with its length, ends the conversation.
	if _, err := s.conn.Write([]byte{0, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.conn.Read(make([]byte, 1)); n != 0 {
		t.Fatalf("the proxy answers: %d, %v", n, err)
	}
	// Let the kernel acknowledge that now.
	control(t, s.conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}

func (s *scene) forget(t *testing.T) {
	t.Helper()
	if err := s.lab.Pod.FlushEntries(); err != nil {
		t.Fatal(err)
	}
}

// sendLate sends on the scene's connection, and says where that goes.
func (s *scene) sendLate(t *testing.T) intercept.Fate {
	t.Helper()
	watch := watchPod(t, s.lab)
	if _, err := s.conn.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	return fateOfSegment(t, watch, s.flow.Src, s.flow.Dst, nil)
}

// clientAsks connects from outside the pod, and says which listener answers. The entry tells that one nothing of value.
func (s *scene) clientAsks(t *testing.T) intercept.Fate {
	t.Helper()
	socket := s.socketAt(t, s.lab.Peer, nil, true)
	dial(t, socket, s.flow.Dst)
	if _, err := socket.Write([]byte("whoami\n")); err != nil {
		t.Fatal(err)
	}
	var b netlab.Banner
	if err := json.NewDecoder(socket).Decode(&b); err != nil {
		t.Fatal(err)
	}
	switch {
	case b.Role == netlab.RoleInbound && b.Local == s.flow.Dst:
		return intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(b.Port)}
	case b.Role == netlab.RoleInbound:
		return intercept.RedirectedTo(b.Port)
	}
	return passed
}

func watchPod(t *testing.T, lab *netlab.Lab) *netlab.Watch {
	t.Helper()
	watch, err := lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watch.Close() })
	return watch
}

// fateOfSegment says what the pod has done with a segment that one of its
// processes has sent, by what its interfaces have sent since.
func fateOfSegment(t *testing.T, watch *netlab.Watch, src, dst netip.AddrPort, all *[]netlab.Seen) intercept.Fate {
	t.Helper()
	seen, err := watch.SoFar()
	if err != nil {
		t.Fatal(err)
	}
	if all != nil {
		*all = seen
	}
	switch {
	case slices.ContainsFunc(seen, func(p netlab.Seen) bool { return p.Sent && p.Src == src && p.Dst == dst }):
		return passed
	case slices.ContainsFunc(seen, func(p netlab.Seen) bool {
		return p.Sent && p.Interface == "lo" && p.Src == dst && p.Dst == src && p.Flags&intercept.RST != 0
	}):
		return rejected
	}
	return dropped
}

// tryInVain has somebody connect to where nothing answers, for now.
func (s *scene) tryInVain(t *testing.T, who *intercept.Owner) {
	t.Helper()
	hole := netlink.Route{
		Dst: netlink.NewIPNet(s.flow.Dst.Addr().AsSlice()), Type: unix.RTN_BLACKHOLE,
	}
	change := func(f func(*netlink.Handle) error) {
		t.Helper()
		err := s.lab.Peer.Do(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			return f(h)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(func(h *netlink.Handle) error { return h.RouteAdd(&hole) })
	// From a socket that does not block and is closed at once: its SYN is sent by the call.
	socket := s.socket(t, who)
	control(t, socket, func(fd int) error {
		if err := unix.Connect(fd, netlab.Sockaddr(s.flow.Dst)); !errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	})
	netlab.HangUp(socket)
	change(func(h *netlink.Handle) error { return h.RouteDel(&hole) })
}

// datagramFromServer sends a datagram as the flow's server.
func (s *scene) datagramFromServer(t *testing.T) {
	t.Helper()
	domain, level, transparent := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	if s.flow.Dst.Addr().Is6() {
		domain, level, transparent = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	watch := watchPod(t, s.lab)
	fd, err := s.lab.Peer.Socket(domain, unix.SOCK_DGRAM, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = errors.Join(unix.SetsockoptInt(fd, level, transparent, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, netlab.Sockaddr(s.flow.Dst)), unix.Sendto(fd, []byte("hello"), 0, netlab.Sockaddr(s.flow.Src)))
	if err != nil {
		t.Fatal(err)
	}
	// Whoever refuses it says so. The socket is connected at no time: a child of
	// this process may hold it longer, and would then get what is for the server.
	if _, err := watch.Until(isUnreachable); err != nil {
		t.Fatal(err)
	}
}

// isUnreachable: an ICMP destination-unreachable message (RFC 792, RFC 4443) that is sent.
func isUnreachable(p netlab.Seen) bool {
	return p.Sent && len(p.Data) > 8 &&
		(p.Protocol == intercept.ICMP && p.Data[0] == 3 || p.Protocol == intercept.ICMPv6 && p.Data[0] == 1)
}

// slowProxy is an outbound port that takes one connection and lets others wait.
type slowProxy struct {
	listener *os.File
	fill     *os.File
}

func newSlowProxy(t *testing.T, s *scene) *slowProxy {
	t.Helper()
	at := s.flow
	s.flow.Src = netip.AddrPortFrom(localhost(at.Dst.Addr()), 15001)
	p := &slowProxy{listener: s.socket(t, proxy)}
	s.flow = at
	control(t, p.listener, func(fd int) error { return unix.Listen(fd, 0) })
	return p
}

// waitForProxy has an application connect while the proxy takes nothing. It gives up.
func (s *scene) waitForProxy(t *testing.T) {
	t.Helper()
	at := s.flow.Src
	s.flow.Src = netip.AddrPortFrom(at.Addr(), at.Port()+1)
	s.slow.fill = s.socket(t, app)
	dial(t, s.slow.fill, s.flow.Dst)
	// The client has a connection before the listener has, and only then another one waits.
	control(t, s.slow.listener, func(fd int) error {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Minute/time.Millisecond))
		return err
	})
	s.flow.Src = at
	socket := s.socket(t, app)
	control(t, socket, func(fd int) error {
		if err := unix.Connect(fd, netlab.Sockaddr(s.flow.Dst)); !errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	})
	netlab.HangUp(socket)
	if from := s.slow.accept(t); from.Port() == at.Port() {
		t.Fatal("the proxy takes what was to wait")
	}
}

// accept takes a connection, and returns its client.
func (p *slowProxy) accept(t *testing.T) (from netip.AddrPort) {
	t.Helper()
	if err := p.listener.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	raw, err := p.listener.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sa unix.Sockaddr
	var acceptErr error
	err = raw.Read(func(fd uintptr) bool {
		var conn int
		if conn, sa, acceptErr = unix.Accept(int(fd)); acceptErr == nil {
			unix.Close(conn)
		}
		return acceptErr != unix.EAGAIN
	})
	if err := errors.Join(err, acceptErr); err != nil {
		t.Fatal(err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return from
}

// proxyConnects has the proxy connect, and says whether it comes to itself.
func (s *scene) proxyConnects(t *testing.T) intercept.Fate {
	t.Helper()
	socket := s.socket(t, proxy)
	if err := connect(t, socket, s.flow.Dst); errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
		return rejected
	} else if err != nil {
		t.Fatal(err)
	}
	if from := s.slow.accept(t); from != s.flow.Src {
		t.Fatalf("the proxy has a connection from %s", from)
	}
	return intercept.RedirectedTo(15001)
}

// without returns rules that lack a line.
func without(rs intercept.Ruleset, line string) intercept.Ruleset {
	rs.Chains = slices.Clone(rs.Chains)
	for i, c := range rs.Chains {
		ofLine := func(r intercept.Rule) bool { return r.ID.Line() == line }
		rs.Chains[i].Rules = slices.DeleteFunc(slices.Clone(c.Rules), ofLine)
	}
	return rs
}

// applyRules writes rules that no configuration makes.
func applyRules(t *testing.T, lab *netlab.Lab, rs intercept.Ruleset) {
	t.Helper()
	var b *nft.Conn
	err := lab.Pod.Do(func() (err error) { b, err = nft.Open(); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	rs.Routes = nil // they are there already
	if _, err := b.Apply(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
}

// eachWithLine runs a test by each backend, and once by rules that lack a line, of which the test has to tell.
func eachWithLine(t *testing.T, c intercept.Config, line string, test func(t *testing.T, lab *netlab.Lab, has bool)) {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	lab := func(t *testing.T) *netlab.Lab {
		t.Helper()
		return netlab.NewT(t, netlab.Options{})
	}
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			requireIPTables(t)
			l := lab(t)
			if _, err := (dataplane.Pod{NetNS: l.Pod.Path(), Backend: backend}).Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			test(t, l, true)
		})
	}
	t.Run("without "+line, func(t *testing.T) {
		t.Parallel()
		l := lab(t)
		if _, err := (dataplane.Pod{NetNS: l.Pod.Path(), Backend: dataplane.BackendNFT}).Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		applyRules(t, l, without(rs, line))
		test(t, l, false)
	})
}

// TestFramesOfNeighbours: a neighbour's frame to the pod's hardware address, to
// a destination that is not the pod's, is not given to the proxy (I9).
func TestFramesOfNeighbours(t *testing.T) {
	for _, mode := range []intercept.InboundMode{intercept.InboundRedirect, intercept.InboundTProxy} {
		c := intercept.Default()
		c.Inbound.Mode = mode
		t.Run(string(mode), func(t *testing.T) {
			eachWithLine(t, c, "I9", func(t *testing.T, lab *netlab.Lab, has bool) {
				if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
					t.Fatal(err)
				}
				for i, dst := range []string{
					"127.0.0.1", "127.0.0.53", "192.0.2.7", "2001:db8:99::7", "::1", "10.244.0.5", "fd00:244::5",
				} {
					a := netip.MustParseAddr(dst)
					seg := netlab.Segment{
						Src: netip.AddrPortFrom(word("peer", a), uint16(20000+i)), Dst: netip.AddrPortFrom(a, 9000),
						Flags: intercept.SYN, Seq: 1,
					}
					watch := watchPod(t, lab)
					if err := lab.InjectFrame("eth0", seg, false); err != nil {
						t.Fatal(err)
					}
					// What follows it on the cable tells that it is through.
					proxys := netip.AddrPortFrom(word("pod", a), 15006)
					fence := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: proxys}
					if got, err := lab.Send(fence); err != nil || got.Role != netlab.RoleInbound {
						t.Fatalf("%s: %s, %v", fence, got, err)
					}
					seen, err := watch.SoFar()
					if err != nil {
						t.Fatal(err)
					}
					answered := slices.ContainsFunc(seen, func(p netlab.Seen) bool {
						return p.Sent && p.Protocol == intercept.TCP && p.Dst == seg.Src && p.Flags == intercept.SYN|intercept.ACK
					})
					pods := a == word("pod", a)
					// The kernel drops ::1 before anybody sees it, and with tproxy what is not for the pod: that has no mark.
					taken := !has && a != netip.IPv6Loopback() && mode == intercept.InboundRedirect
					if want := pods || taken; answered != want {
						t.Errorf("%s: answered %t, not %t: %s", seg.Dst, answered, want, seen)
					}
				}
			})
		})
	}
}

// TestErrorAboutLateAnswer: an application asks for a name and is gone when the
// answer comes. The kernel's error about that, which quotes it, stays in the
// pod (B10).
func TestErrorAboutLateAnswer(t *testing.T) {
	for _, mode := range []intercept.DNSMode{intercept.DNSAll, intercept.DNSResolvConf} {
		c := intercept.Default()
		c.DNS.Mode = mode
		servers := named("dns")
		if mode == intercept.DNSResolvConf {
			c.DNS.Servers = servers
		}
		t.Run(string(mode), func(t *testing.T) {
			eachWithLine(t, c, "B10", func(t *testing.T, lab *netlab.Lab, has bool) {
				for _, server := range servers {
					leaks := lateAnswer(t, lab, netip.AddrPortFrom(server, 53))
					if leaks == has {
						t.Errorf("%s: the error leaves the pod: %t", server, leaks)
					}
				}
			})
		})
	}
}

// lateAnswer answers a lookup to which nobody listens any more, as the pod's
// resolver, and reports whether the error leaves the pod.
func lateAnswer(t *testing.T, lab *netlab.Lab, server netip.AddrPort) (leaks bool) {
	t.Helper()
	domain := unix.AF_INET
	if server.Addr().Is6() {
		domain = unix.AF_INET6
	}
	socket := func(who *intercept.Owner) int {
		t.Helper()
		fd, err := lab.Pod.Socket(domain, unix.SOCK_DGRAM, who)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	resolver, client := socket(proxy), socket(app)
	defer unix.Close(resolver)
	if err := unix.Bind(resolver, netlab.Sockaddr(netip.AddrPortFrom(localhost(server.Addr()), 15053))); err != nil {
		t.Fatal(err)
	}
	watch := watchPod(t, lab)
	err := errors.Join(unix.Connect(client, netlab.Sockaddr(server)), unix.Sendto(client, []byte("secret.test?"), 0, nil))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(resolver), Events: unix.POLLIN}}, 5000); n != 1 || err != nil {
		t.Fatalf("the lookup does not come to the resolver: %v", err)
	}
	_, from, err := unix.Recvfrom(resolver, make([]byte, 100), 0)
	err = errors.Join(err, unix.Close(client), unix.Sendto(resolver, []byte("ANSWER"), 0, from))
	if err != nil {
		t.Fatal(err)
	}
	// The kernel limits how many such errors it sends (icmp_msgs_per_sec of icmp(7)), so it answers again.
	seenIt, again := make(chan struct{}), sync.WaitGroup{}
	again.Go(func() {
		for {
			select {
			case <-seenIt:
				return
			case <-time.After(300 * time.Millisecond):
				_ = unix.Sendto(resolver, []byte("ANSWER"), 0, from)
			}
		}
	})
	seen, err := watch.Until(isUnreachable)
	close(seenIt)
	again.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return seen[len(seen)-1].Interface != ruleset.Loopback
}
