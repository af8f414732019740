//go:build linux

package security

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// attempt is a way in which somebody in the pod tries to get something out of the pod past the proxy.
type attempt struct {
	// claim is the ID of the sentence in SECURITY.md that says what comes of it.
	claim string
	name  string
	by    kind
	// do makes the attempt, in the sender's process, and says what it hears. Its destination is like no other's.
	do func(to netip.AddrPort) string
	// from makes it in the test's process, on the sender's behalf, where the other side has to help.
	from func(*testing.T, *netlab.Lab, netip.AddrPort) string
	// leaves are the families in which something goes to the destination. Without rules it always does, or the attempt
	// proves nothing; except in those of inert, in which the kernel itself can refuse it, or it stays in the pod.
	leaves, inert families
	// says is what the sender may hear. Nil: anything, such as nothing.
	says []string
	// lacks is what the sender hears where the kernel, or who set it up, does without what the attempt takes. Then
	// nothing leaves.
	lacks []string
	// but is what leaves all the same and does not count; also is what counts to whatever destination.
	but, also func(netlab.Seen) bool
}

// families are those of addresses.
type families int

const (
	inIPv4 families = 1 << iota
	inIPv6
	inBoth = inIPv4 | inIPv6
)

// What a sender may hear.
var (
	theProxy = []string{"outbound"}
	theWorld = []string{"peer"}
	theApp   = []string{"app"}
	// forbidden is what systems say that have no user namespaces, no io_uring, or no AF_XDP for everybody.
	forbidden = []string{"EPERM", "EACCES", "ENOSYS", "ENOSPC", "EAFNOSUPPORT"}
)

// destination returns the one of an attempt, in a family.
func destination(i, family int) netip.AddrPort {
	if family == 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)}), 80)
	}
	a := netip.MustParseAddr("2001:db8::1:0").As16()
	a[15] = byte(i)
	return netip.AddrPortFrom(netip.AddrFrom16(a), 80)
}

func podAddr(family int) netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:244::5")}[family]
}

// scene is a configuration, and what is tried under it.
type scene struct {
	name     string
	set      func(*intercept.Config)
	attempts []attempt
	// both: in mode tproxy, too.
	both bool
}

// scenes is the table. Each attempt is made by each backend, and once without rules.
func scenes() []scene {
	return []scene{
		{name: "defaults", set: func(*intercept.Config) {}, attempts: defaults, both: true},
		{name: "mark", set: func(c *intercept.Config) {
			c.Proxy = intercept.Proxy{Mark: intercept.Mark{Value: 0x539, Mask: 0xfff}}
		}, attempts: known},
		{name: "lookups", set: func(c *intercept.Config) { c.DNS.Mode = intercept.DNSAll }, attempts: lookups},
		{name: "locked", set: func(c *intercept.Config) {
			c.DNS.Mode = intercept.DNSAll
			c.Outbound.UDP, c.Outbound.OtherProtocols = intercept.TreatmentReject, intercept.TreatmentReject
		}, attempts: locked},
	}
}

var defaults = []attempt{
	// A careless application.
	{claim: "tcp", name: "connects", by: plain, says: theProxy, do: func(to netip.AddrPort) string { return ask(to) }},
	{claim: "tcp", name: "connects as root", by: root, says: theProxy,
		do: func(to netip.AddrPort) string { return ask(to) }},
	{claim: "tcp", name: "connects, and closes at once", by: plain, says: []string{"sent"}, do: closesAtOnce},

	// Addresses.
	{claim: "addresses", name: "an IPv4 address in IPv6", by: plain, says: theProxy, do: func(to netip.AddrPort) string {
		if to.Addr().Is6() {
			return ask(to)
		}
		mapped := unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
		return askOf(unix.AF_INET6, &mapped, patience)
	}},
	{claim: "addresses", name: "a neighbour's link-local address", by: plain, do: func(to netip.AddrPort) string {
		return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(linkLocal(to)), little)
	}},
	{claim: "addresses", name: "broadcast, multicast and other loopback addresses", by: plain, inert: inBoth,
		do: func(to netip.AddrPort) string {
			others := []string{"255.255.255.255", "10.244.0.255", "224.0.0.251", "0.0.0.0", "127.0.0.2", "127.255.255.254"}
			if to.Addr().Is6() {
				others = []string{"ff02::1", "::", "::1"}
			}
			answers := map[string]bool{}
			for _, a := range others {
				answers[ask(netip.AddrPortFrom(netip.MustParseAddr(a), 4))] = true
			}
			return oneOf(answers)
		}},

	// Sources.
	{claim: "passthrough-source", name: "from 127.0.0.6 and ::6", by: plain, inert: inIPv4,
		do: func(to netip.AddrPort) string {
			return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, byFamily(to, from("127.0.0.6"), from("::6")))
		}},
	{claim: "passthrough-source", name: "from other loopback addresses", by: plain, inert: inBoth,
		do: func(to netip.AddrPort) string {
			return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, byFamily(to, from("127.0.0.5"), from("::1")))
		}},
	{claim: "inside", name: "from 127.0.0.6 and ::6 to the application of the pod", by: plain, says: theApp, inert: inBoth,
		do: func(to netip.AddrPort) string {
			inside := netip.AddrPortFrom(here(to), insidePort)
			return ask(inside, byFamily(to, from("127.0.0.6"), from("::6")))
		}},
	{claim: "passthrough-source", name: "from an address that nobody has (IP_FREEBIND)", by: plain, inert: inIPv4,
		do: func(to netip.AddrPort) string {
			const freeBind6 = 78 // IPV6_FREEBIND
			free := byFamily(to, flag(unix.SOL_IP, unix.IP_FREEBIND, 1), flag(unix.SOL_IPV6, freeBind6, 1))
			return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, free,
				byFamily(to, from("192.0.2.200"), from("2001:db8:200::1")))
		}},
	{claim: "source-ports", name: "from ports of others", by: plain, do: func(to netip.AddrPort) string {
		answers := map[string]bool{}
		ports := []uint16{1, 22, 53, 80, 443}
		for p := uint16(15000); p <= 15090; p++ {
			ports = append(ports, p)
		}
		for _, p := range ports {
			answers[ask(to, flag(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), fromPort(netip.AddrPortFrom(here(to), p)))] = true
		}
		return oneOf(answers)
	}, says: []string{"EADDRINUSE", "outbound"}},
	{claim: "bound", name: "bound to the interface", by: plain, do: func(to netip.AddrPort) string {
		return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, device("eth0"))
	}},
	{claim: "bound", name: "bound to the interface, with Fast Open", by: plain,
		do:   func(to netip.AddrPort) string { return fastOpen(to, little, device("eth0")) },
		also: func(p netlab.Seen) bool { return p.Dst.Addr().IsLoopback() && len(p.Data) > 0 }},

	// What a socket can be told to send.
	{claim: "options", name: "IPv4 options and an IPv6 routing header", by: plain, do: func(to netip.AddrPort) string {
		set := func(fd int) error {
			return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, "\x07\x07\x04\x00\x00\x00\x00\x00")
		}
		return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, byFamily(to, set, routed(to)))
	}},
	{claim: "options", name: "a source route", by: plain, inert: inIPv4, do: func(to netip.AddrPort) string {
		// It goes to the first hop, which the attempt's destination is.
		route := "\x83\x07\x04" + string(to.Addr().AsSlice()) + "\x00"
		set := func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, route) }
		return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, byFamily(to, set, routed(to)))
	}},
	{claim: "openings", name: "Fast Open without a cookie", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string { return fastOpen(to, patience) }},
	{claim: "openings", name: "with a signature that the proxy does not know (TCP_MD5SIG)", by: plain,
		do: func(to netip.AddrPort) string {
			return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, func(fd int) error { return sign(fd, to) })
		}},
	{claim: "openings", name: "with congestion notification", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string {
			return ask(to, func(fd int) error {
				return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion())
			})
		}},
	{claim: "openings", name: "both ends open the connection", by: plain, from: bothOpen,
		says: []string{"outbound", "ECONNREFUSED"},
		// The proxy answers the other end.
		but: func(p netlab.Seen) bool { return p.Flags == intercept.SYN|intercept.ACK }},
	{claim: "reset", name: "again from the port of a connection that was reset", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string {
			answers := map[string]bool{}
			for range 10 {
				answers[ask(to, fromPort(netip.AddrPortFrom(here(to), 22001)),
					func(fd int) error {
						return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
					})] = true
			}
			return oneOf(answers)
		}},

	// Who it is.
	{claim: "mark", name: "sets the mark", by: plain, inert: inBoth, says: []string{"EPERM"},
		do: func(to netip.AddrPort) string {
			return ask(to, flag(unix.SOL_SOCKET, unix.SO_MARK, 1337))
		}},
	{claim: "setfsuid", name: "setfsuid(2), setuid(2) and their like", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string {
			for _, call := range []uintptr{unix.SYS_SETFSGID, unix.SYS_SETFSUID, unix.SYS_SETGID, unix.SYS_SETUID} {
				_, _, _ = unix.RawSyscall(call, 1337, 0, 0) // they fail
			}
			return ask(to)
		}},
	{claim: "groups", name: "with a supplementary group", by: grouped, says: theProxy,
		do: func(to netip.AddrPort) string { return ask(to) }},
	{claim: "user-namespaces", name: "the proxy's user in a user namespace", by: plain, says: theProxy, lacks: forbidden,
		do: func(to netip.AddrPort) string { return program("/proc/self/exe", to, mapped(0)) }},
	{claim: "user-namespaces", name: "a network namespace in a user namespace", by: plain, inert: inBoth, lacks: forbidden,
		says: []string{"ENETUNREACH", "EADDRNOTAVAIL"},
		do: func(to netip.AddrPort) string {
			return program("/proc/self/exe", to, mapped(unix.CLONE_NEWNET))
		}},
	{claim: "io-uring", name: "a socket of io_uring", by: plain, says: theProxy, lacks: forbidden,
		do: func(to netip.AddrPort) string { return askURing(to, 0, false) }},
	{claim: "io-uring", name: "by a thread of the kernel", by: plain, says: theProxy, lacks: forbidden,
		do: func(to netip.AddrPort) string { return askURing(to, setupSQPoll, false) }},
	{claim: "io-uring", name: "with a registered personality", by: plain, says: theProxy, lacks: forbidden,
		do: func(to netip.AddrPort) string { return askURing(to, setupSQPoll, true) }},
	{claim: "pidfd", name: "takes a socket of the proxy's", by: plain, inert: inBoth, says: []string{"EPERM"},
		do: takesSocket},
	{claim: "no-new-privileges", name: "programs with the set-user-ID and set-group-ID bits", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string {
			if err := noNewPrivileges(); err != nil {
				return said(err)
			}
			return oneOf(map[string]bool{programOf("setuid", to): true, programOf("setgid", to): true})
		}},
	{claim: "no-new-privileges", name: "a program of its own with the group of the proxy", by: grouped, says: theProxy,
		do: func(to netip.AddrPort) string {
			if err := noNewPrivileges(); err != nil {
				return said(err)
			}
			return ownProgram(to, -1, 1337)
		}},
	{claim: "no-new-privileges", name: "root that gives a program to the proxy", by: limited, says: theProxy,
		do: func(to netip.AddrPort) string {
			if err := noNewPrivileges(); err != nil {
				return said(err)
			}
			return ownProgram(to, 1337, 1337)
		}},
	{claim: "no-new-privileges", name: "root that becomes the proxy", by: limited, says: theProxy, do: becomes},

	// Who passes as the proxy.
	{claim: "setuid-programs", name: "a set-user-ID program", by: plain, leaves: inBoth, says: theWorld,
		do: func(to netip.AddrPort) string { return programOf("setuid", to) }},
	{claim: "setuid-programs", name: "a set-group-ID program", by: plain, leaves: inBoth, says: theWorld,
		do: func(to netip.AddrPort) string { return programOf("setgid", to) }},
	{claim: "own-programs", name: "a program of its own with the group of the proxy", by: grouped, leaves: inBoth,
		says: theWorld, do: func(to netip.AddrPort) string { return ownProgram(to, -1, 1337) }},
	{claim: "own-programs", name: "root that gives a program to the proxy", by: limited, leaves: inBoth,
		says: theWorld, do: func(to netip.AddrPort) string { return ownProgram(to, 1337, 1337) }},
	{claim: "root", name: "root that becomes the proxy", by: root, leaves: inBoth, says: theWorld, do: becomes},
	{claim: "sockets", name: "an inherited socket", by: plain, leaves: inBoth, says: theWorld,
		do: func(to netip.AddrPort) string {
			return askBy(map[bool]int{true: inherited4, false: inherited6}[to.Addr().Is4()], netlab.Sockaddr(to), patience)
		}},
	{claim: "sockets", name: "a socket that is handed over", by: plain, leaves: inBoth, says: theWorld, do: handed},

	// NET_RAW, by raw sockets.
	{claim: "raw-segments", name: "segments of any kind", by: raw, says: []string{"sent"},
		do: func(to netip.AddrPort) string { return eachSegment(to, combinations(0, intercept.RST)) }},
	{claim: "raw-segments", name: "with congestion notification and a push", by: raw, says: []string{"sent"},
		do: func(to netip.AddrPort) string {
			const ece, cwr = 0x40, 0x80
			return eachSegment(to, []uint8{
				intercept.SYN | ece | cwr, intercept.SYN | ece, intercept.SYN | cwr, intercept.SYN | intercept.PSH | intercept.URG})
		}},
	{claim: "raw-segments", name: "a SYN that says to be of a connection of Multipath TCP", by: raw,
		says: []string{"sent"}, do: func(to netip.AddrPort) string {
			s := segment(to, 25100, intercept.SYN)
			s.Options = joins()
			return refusedOnly(sendRaw(s.Packet(), to))
		}},
	{claim: "raw-segments", name: "by a raw socket of TCP", by: raw, says: []string{"sent"}, do: rawTCP},
	{claim: "raw-first", name: "a segment of any kind, and then a connection from the same port", by: raw,
		do:   func(to netip.AddrPort) string { return eachFirst(to, combinations(0, 0)) },
		says: []string{"outbound", "ECONNRESET"},
		but:  func(p netlab.Seen) bool { return p.Flags&intercept.RST != 0 }},
	{claim: "fragments", name: "fragments of a SYN", by: raw, says: []string{"sent"},
		do: func(to netip.AddrPort) string {
			var errs []error
			for i, at := range []int{8, 16, 24} {
				s := segment(to, uint16(23000+i), intercept.SYN)
				s.Data = make([]byte, 64)
				for _, f := range fragments(s.Packet(), at, uint16(1000+i)) {
					errs = append(errs, sendRaw(f, to))
				}
			}
			if to.Addr().Is6() {
				errs = append(errs, sendRaw(atomicFragment(segment(to, 23100, intercept.SYN).Packet()), to))
			}
			return refusedOnly(errs...)
		}},
	{claim: "raw-extensions", name: "options and extension headers", by: raw, says: []string{"sent"},
		do: func(to netip.AddrPort) string {
			var errs []error
			for _, f := range []uint8{intercept.SYN, intercept.SYN | intercept.PSH, intercept.ACK} {
				for _, p := range extensions(segment(to, 23200+uint16(f), f).Packet()) {
					errs = append(errs, sendRaw(p, to))
				}
			}
			return refusedOnly(errs...)
		}},
	{claim: "mark-net-raw", name: "sets the mark, where the proxy is known by its user", by: raw, says: theProxy,
		lacks: forbidden,
		do:    func(to netip.AddrPort) string { return ask(to, flag(unix.SOL_SOCKET, unix.SO_MARK, 7)) }},
	{claim: "mark-net-raw", name: "sets the marks of mode tproxy, on what opens nothing and then on what does", by: raw,
		lacks: forbidden, do: marksOfTProxy},
	{claim: "fragments", name: "fragments that the kernel leaves as they are", by: raw, says: []string{"sent"},
		do: noDefrag},
	{claim: "raw-resets", name: "resets with data", by: raw, leaves: inBoth, says: []string{"sent"},
		do: func(to netip.AddrPort) string { return eachSegment(to, combinations(intercept.RST, 0)) }},
	{claim: "raw-let-in", name: "segments from a port that is let in", by: raw, leaves: inBoth, says: []string{"sent"},
		do: func(to netip.AddrPort) string {
			return refusedOnly(sendRaw(segment(to, 15008, intercept.ACK|intercept.PSH).Packet(), to),
				sendRaw(segment(to, 15021, intercept.ACK|intercept.PSH).Packet(), to))
		}},
	{claim: "same-user", name: "runs under the proxy's group", by: namesake, leaves: inBoth, says: theWorld,
		do: func(to netip.AddrPort) string { return ask(to) }},
	{claim: "let-in-ports", name: "sends late from a port that is let in", by: plain, leaves: inBoth,
		says: []string{"sent"}, from: lateFromLetIn},
	{claim: "udp", name: "UDP and UDP-Lite", by: plain, leaves: inBoth, do: func(to netip.AddrPort) string {
		return oneOf(map[string]bool{askUDP(0, to, patience): true, askUDP(unix.IPPROTO_UDPLITE, to, little): true})
	}},
	{claim: "udp", name: "a ping", by: plain, leaves: inBoth, says: []string{"sent"}, do: ping},
	{claim: "udp", name: "SCTP, DCCP and protocols without a name", by: raw, leaves: inBoth, says: []string{"sent"},
		do: eachProtocol},
	{claim: "listeners", name: "listens at the proxy's ports", by: plain, inert: inBoth, says: []string{"EADDRINUSE"},
		do: listens},
	{claim: "net-admin", name: "removes the rules", by: admin, leaves: inBoth, says: theWorld, do: removes},
	{claim: "packet-sockets", name: "AF_PACKET", by: raw, leaves: inBoth, says: []string{"sent"},
		do: func(to netip.AddrPort) string {

			fd, err := frames()
			if err != nil {
				return said(err)
			}
			defer unix.Close(fd)
			return said(sendFrame(fd, segment(to, 24000, intercept.SYN).Packet(), peerMAC))

		}},
	{claim: "packet-sockets", name: "AF_XDP", by: raw, leaves: inBoth, says: []string{"sent"}, lacks: forbidden,
		do: func(to netip.AddrPort) string { return said(sendXDP(segment(to, 24001, intercept.SYN).Packet())) }},
}

// What is tried where the proxy is known by its mark.
var known = []attempt{
	{claim: "mark", name: "sets the mark", by: plain, inert: inBoth, says: []string{"EPERM"}, do: marked},
	{claim: "mark", name: "under the user that it might be", by: namesake, says: theProxy,
		do: func(to netip.AddrPort) string { return ask(to) }},
	// Since Linux 5.17 NET_RAW is enough.
	{claim: "proxy-mark", name: "sets the mark", by: raw, leaves: inBoth, says: theWorld, lacks: forbidden, do: marked},
}

func marked(to netip.AddrPort) string { return ask(to, flag(unix.SOL_SOCKET, unix.SO_MARK, 0x539)) }

// What is tried where lookups are captured.
var lookups = []attempt{
	{claim: "lookups", name: "a lookup", by: plain, says: theResolver, do: func(to netip.AddrPort) string {
		return askUDP(0, lookup(to), patience)
	}},
	{claim: "lookups", name: "a lookup over TCP", by: plain, says: theResolver, do: func(to netip.AddrPort) string {
		return ask(lookup(to))
	}},
	{claim: "lookups", name: "from ports of others", by: plain, says: []string{"EADDRINUSE", "dns"},
		do: func(to netip.AddrPort) string {
			answers := map[string]bool{}
			for _, port := range []uint16{1, 53, 5353, 15008, 15053} {
				answers[askUDP(0, lookup(to), patience, fromPort(netip.AddrPortFrom(here(to), port)))] = true
			}
			return oneOf(answers)
		}},
	{claim: "lookups", name: "a lookup in fragments", by: plain, do: func(to netip.AddrPort) string {
		return said(withSocket(0, lookup(to), func(fd int) error {
			_, err := unix.Write(fd, make([]byte, 4000))
			return err
		}))
	}},
	{claim: "lookups", name: "a lookup with IPv4 options, or an IPv6 routing header", by: plain,
		do: func(to netip.AddrPort) string {
			set := func(fd int) error {
				return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, "\x07\x07\x04\x00\x00\x00\x00\x00")
			}
			return askUDP(0, lookup(to), little, byFamily(to, set, routed(to)))
		}},
	{claim: "lookups", name: "from 127.0.0.6 and ::6", by: plain, inert: inIPv4, do: func(to netip.AddrPort) string {
		return askUDP(0, lookup(to), little, byFamily(to, from("127.0.0.6"), from("::6")))
	}},
	{claim: "inside", name: "a lookup from 127.0.0.6 and ::6 to a resolver of the pod's", by: plain, inert: inBoth,
		says: theApp, do: func(to netip.AddrPort) string {
			return askUDP(0, lookup(netip.AddrPortFrom(here(to), 0)), patience, byFamily(to, from("127.0.0.6"), from("::6")))
		}},
	{claim: "raw-lookups", name: "lookups from a raw socket", by: raw, says: []string{"sent"}, do: rawLookups},
	{claim: "raw-lookup-fragments", name: "fragments of a lookup", by: raw, leaves: inIPv4,
		says: []string{"sent"}, do: rawLookupFragments},
}

// What is tried where what is neither TCP nor a lookup is rejected, too.
var locked = []attempt{
	{claim: "locked", name: "UDP", by: plain, says: refused, do: func(to netip.AddrPort) string {
		return askUDP(0, to, patience)
	}},
	{claim: "locked", name: "UDP-Lite", by: plain, says: refused, do: func(to netip.AddrPort) string {
		return askUDP(unix.IPPROTO_UDPLITE, to, patience)
	}},
	{claim: "locked", name: "lookups in fragments", by: raw, says: []string{"sent"}, do: rawLookupFragments},
	{claim: "locked", name: "a ping", by: plain, do: ping},
	{claim: "locked", name: "SCTP, DCCP and protocols without a name", by: raw, says: []string{"sent"}, do: eachProtocol},
}

// theResolver is what a captured lookup hears, and refused what hears who may not send.
var (
	theResolver = []string{"dns"}
	refused     = []string{"EPERM"}
)

func lookup(to netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(to.Addr(), 53) }

// withSocket does something with a connected socket of datagrams.
func withSocket(protocol int, to netip.AddrPort, f func(fd int) error) error {
	fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, netlab.Sockaddr(to)); err != nil {
		return err
	}
	return f(fd)
}

// ping sends an echo request, which users may (ping_group_range in icmp(7)).
func ping(to netip.AddrPort) string {
	protocol, typ := unix.IPPROTO_ICMP, byte(8)
	if to.Addr().Is6() {
		protocol, typ = unix.IPPROTO_ICMPV6, 128
	}
	return said(withSocket(protocol, to, func(fd int) error {
		_, err := unix.Write(fd, []byte{typ, 0, 0, 0, 0, 0, 0, 0})
		return err
	}))
}
