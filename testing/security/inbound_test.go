//go:build linux

package security

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// site is a pod, and what its peer sends by and its test sees by. To close a socket of packets takes the kernel long.
type site struct {
	lab    *netlab.Lab
	frames int
	watch  *netlab.Watch
}

func newSite(t *testing.T, m mode) *site {
	t.Helper()
	s := &site{lab: m.pod(t)}
	prepare(t, scene{}, s.lab)
	watch, err := s.lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watch.Close() })
	s.watch = watch
	err = s.lab.Peer.Do(func() error { s.frames, err = frames(); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.frames) })
	return s
}

// arrival is a way in which a peer tries to get something past the proxy into the pod.
type arrival struct {
	claim, name string
	// do makes the attempt from a port of the peer's like no other's, and says what the peer hears or gets.
	do func(*testing.T, *site, netip.AddrPort) string
	// says is what it may be. Without rules it is never that, or the attempt proves nothing; unless it is inert: then
	// the kernel itself can refuse it.
	says  []string
	inert families
}

// What a peer may get.
const (
	byProxy = "inbound" // the proxy's inbound listener answers

	// Segments go to a port at which no application listens: only the proxy opens a connection there.
	opened  = "opened"  // somebody opens a connection: the proxy
	reset   = "reset"   // the pod's kernel refuses it: it was not captured
	nothing = "nothing" // nobody answers
)

// nobodysPort is one at which nobody in the pod listens.
const nobodysPort = 7000

var arrivals = []arrival{
	{claim: "peer-tcp", name: "a client connects", says: []string{byProxy},
		do: asks(insidePort)},
	{claim: "peer-openings", name: "with Fast Open", says: []string{byProxy},
		do: asPeer(func(from, to netip.AddrPort) string { return fastOpen(to, patience) }, insidePort)},
	{claim: "peer-openings", name: "a SYN with any flags beside it", says: []string{opened},
		do: segments(false, []uint8{intercept.SYN, intercept.SYN | intercept.PSH, intercept.SYN | intercept.URG,
			intercept.SYN | intercept.PSH | intercept.URG | 0x40 | 0x80})},
	{claim: "peer-openings", name: "a SYN that says to be of a connection of Multipath TCP", says: []string{opened},
		do: func(t *testing.T, s *site, from netip.AddrPort) string {
			p := netlab.Segment{Src: from, Dst: inPod(from, nobodysPort), Flags: intercept.SYN, Seq: 1, Options: joins()}
			return answer(t, s, [][]byte{p.Packet()}, from)
		}},
	{claim: "peer-openings", name: "a SYN with data", says: []string{opened},
		do: segments(true, []uint8{intercept.SYN})},
	// The kernel takes none of these for an opening either; a reset is no way in.
	{claim: "peer-openings", name: "segments with any other flags", says: []string{nothing, reset},
		inert: inBoth, do: segments(true, notOpening())},
	{claim: "peer-first", name: "a segment of any kind, and then a connection from the same port",
		says: []string{byProxy, "ECONNREFUSED", "ECONNRESET"}, do: firstThenAsks},
	{claim: "peer-ports", name: "the proxy's ports", says: []string{byProxy}, inert: inBoth,
		do: func(t *testing.T, s *site, from netip.AddrPort) string {
			answers := map[string]bool{}
			for _, port := range []uint16{15001, 15006, 15053} {
				answers[asks(port)(t, s, netip.AddrPortFrom(from.Addr(), from.Port()+port-15001))] = true
			}
			return oneOf(answers)
		}},
	{claim: "peer-fragments", name: "a SYN in fragments", says: []string{opened},
		do: func(t *testing.T, s *site, from netip.AddrPort) string {
			var packets [][]byte
			for i, at := range []int{16, 24} {
				p := netlab.Segment{Src: from, Dst: inPod(from, nobodysPort), Flags: intercept.SYN, Seq: 1, Data: make([]byte, 64)}
				packets = append(packets, fragments(p.Packet(), at, uint16(100+i))...)
			}
			return answer(t, s, packets, from)
		}},
	{claim: "peer-fragments", name: "a SYN with options and extension headers", says: []string{opened},
		do: func(t *testing.T, s *site, from netip.AddrPort) string {
			p := netlab.Segment{Src: from, Dst: inPod(from, nobodysPort), Flags: intercept.SYN, Seq: 1}
			return answer(t, s, extensions(p.Packet()), from)
		}},
	{claim: "peer-sources", name: "a SYN from the pod's own addresses", says: []string{nothing, opened}, inert: inBoth,
		do: func(t *testing.T, s *site, from netip.AddrPort) string {
			var packets [][]byte
			var sources []netip.AddrPort
			for _, a := range [2][]string{
				{"10.244.0.5", "127.0.0.1", "127.0.0.6", "0.0.0.0", "255.255.255.255"}, {"fd00:244::5", "::1", "::6", "ff02::1"},
			}[family(from.Addr())] {
				src := netip.AddrPortFrom(netip.MustParseAddr(a), from.Port())
				p := netlab.Segment{Src: src, Dst: inPod(from, nobodysPort), Flags: intercept.SYN, Seq: 1}
				packets, sources = append(packets, p.Packet()), append(sources, src)
			}
			return answer(t, s, packets, sources...)
		}},
}

// notOpening are the flags of segments that open nothing.
func notOpening() []uint8 {
	return slices.DeleteFunc(combinations(0, 0), func(f uint8) bool {
		return f&(intercept.SYN|intercept.FIN|intercept.RST|intercept.ACK) == intercept.SYN
	})
}

// inPod is a port of the pod in the family of an address.
func inPod(from netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(podAddr(family(from.Addr())), port)
}

// asPeer does something in the peer's namespace.
func asPeer(
	do func(from, to netip.AddrPort) string, port uint16,
) func(*testing.T, *site, netip.AddrPort) string {
	return func(t *testing.T, s *site, from netip.AddrPort) (heard string) {
		t.Helper()
		err := s.lab.Peer.Do(func() error { heard = do(from, inPod(from, port)); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return heard
	}
}

// asks connects to a port of the pod.
func asks(port uint16) func(*testing.T, *site, netip.AddrPort) string {
	return asPeer(func(from, to netip.AddrPort) string {
		level, transparent := unix.SOL_IP, unix.IP_TRANSPARENT
		if to.Addr().Is6() {
			level, transparent = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		return ask(to, flag(level, transparent, 1), fromPort(from))
	}, port)
}

// segments sends segments with these flags from ports of their own, and says what answers them.
func segments(data bool, flags []uint8) func(*testing.T, *site, netip.AddrPort) string {
	return func(t *testing.T, s *site, from netip.AddrPort) string {
		t.Helper()
		var packets [][]byte
		var sources []netip.AddrPort
		for _, f := range flags {
			src := netip.AddrPortFrom(from.Addr(), from.Port()+uint16(f))
			p := netlab.Segment{Src: src, Dst: inPod(from, nobodysPort), Flags: f, Seq: 1}
			if f&intercept.ACK != 0 {
				p.Ack = 2
			}
			if data {
				p.Data = []byte("hello")
			}
			packets, sources = append(packets, p.Packet()), append(sources, src)
		}
		return answer(t, s, packets, sources...)
	}
}

// answer sends packets in frames to the port of the pod at which nobody listens, and says what the pod answers to their
// sources.
func answer(t *testing.T, s *site, packets [][]byte, sources ...netip.AddrPort) string {
	t.Helper()
	if _, err := s.watch.SoFar(); err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if err := sendFrame(s.frames, p, podMAC); err != nil {
			t.Fatal(err)
		}
	}
	// What follows on the cable tells that they are through.
	fence := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.UDP, Dst: inPod(sources[0], 53)}
	if got, err := s.lab.Send(fence); err != nil || got.Role != netlab.RoleApp {
		t.Fatalf("%s: %s, %v", fence, got, err)
	}
	seen, err := s.watch.SoFar()
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]bool{}
	for _, p := range seen {
		if !p.Sent || p.Protocol != intercept.TCP || p.Src != inPod(p.Dst, nobodysPort) ||
			!slices.Contains(sources, p.Dst) {
			continue
		}
		switch {
		case p.Flags&(intercept.SYN|intercept.ACK) == intercept.SYN|intercept.ACK:
			answers[opened] = true
		case p.Flags&intercept.RST != 0:
			answers[reset] = true
		}
	}
	if len(answers) == 0 {
		return nothing
	}
	return oneOf(answers)
}

// firstThenAsks sends a segment of each kind, and then connects from the same port.
func firstThenAsks(t *testing.T, s *site, from netip.AddrPort) string {
	t.Helper()
	answers := map[string]bool{}
	for _, f := range combinations(0, 0) {
		src := netip.AddrPortFrom(from.Addr(), from.Port()+uint16(f))
		p := netlab.Segment{Src: src, Dst: inPod(from, insidePort), Flags: f, Seq: 1, Options: netlab.MD5Option()}
		if f&intercept.ACK != 0 {
			p.Ack = 2
		}
		if err := s.lab.Inject(netlab.FromPeer, p, netlab.Injection{}); err != nil {
			t.Fatal(err)
		}
		answers[asks(insidePort)(t, s, src)] = true
	}
	return oneOf(answers)
}

// TestArrivals makes the attempts of peers.
func TestArrivals(t *testing.T) {
	for _, m := range append(modes(true), noRules) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, m)
			for i, a := range arrivals {
				for f := range 2 {
					from := netip.AddrPortFrom([]netip.Addr{
						netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}[f], uint16(20000+i*300))
					got := a.do(t, s, from)
					may := within(got, a.says)
					if m.backend != "" && !may {
						t.Errorf("%s: %s, from %s: %s, not one of %q", a.claim, a.name, from, got, a.says)
					} else if m.backend == "" && may && a.inert&(1<<f) == 0 {
						t.Errorf("%s: %s, from %s: without rules: %s, too", a.claim, a.name, from, got)
					}
				}
			}
		})
	}
}

// TestEarlyListeners: an application that listens at the proxy's ports before the proxy does has its connections. In
// mode tproxy it takes a privilege.
func TestEarlyListeners(t *testing.T) {
	for _, m := range modes(true) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			lab := m.podWithoutProxy(t)
			for f := range 2 {
				// The first flow to a port has an application listen there.
				localhost := netip.MustParseAddr([]string{"127.0.0.1", "::1"}[f])
				for _, at := range []netip.AddrPort{
					netip.AddrPortFrom(localhost, 15001), netip.AddrPortFrom(podAddr(f), 15006),
					netip.AddrPortFrom(podAddr(f), insidePort),
				} {
					own := netlab.Flow{Protocol: intercept.TCP, Dst: at}
					if got, err := lab.Send(own); err != nil || got.Role != netlab.RoleApp {
						t.Fatalf("%s: %s, %v", own, got, err)
					}
				}
				out := netlab.Flow{Protocol: intercept.TCP, Dst: destination(0, f), Owner: &plain.owner}
				in := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP,
					Dst: netip.AddrPortFrom(podAddr(f), insidePort), Timeout: little}
				for _, flow := range []netlab.Flow{out, in} {
					got, err := lab.Send(flow)
					want := netlab.RoleApp
					if m.tproxy && flow.From == netlab.FromPeer {
						want = ""
					}
					if err != nil || got.Role != want {
						t.Errorf("%s: %s, %v; not %q", flow, got, err, want)
					}
				}
			}
		})
	}
}
