//go:build linux

package security

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
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
		return askOf(domain(to.Addr()), sockaddr(linkLocal(to)), little)
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
			return askOf(domain(to.Addr()), sockaddr(to), little, byFamily(to, from("127.0.0.6"), from("::6")))
		}},
	{claim: "passthrough-source", name: "from other loopback addresses", by: plain, inert: inBoth,
		do: func(to netip.AddrPort) string {
			return askOf(domain(to.Addr()), sockaddr(to), little, byFamily(to, from("127.0.0.5"), from("::1")))
		}},
	{claim: "inside", name: "from 127.0.0.6 and ::6 to the application of the pod", by: plain, says: theApp, inert: inBoth,
		do: func(to netip.AddrPort) string {
			inside := netip.AddrPortFrom(here(to), insidePort)
			return ask(inside, byFamily(to, from("127.0.0.6"), from("::6")))
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
		return askOf(domain(to.Addr()), sockaddr(to), little, device("eth0"))
	}},
	{claim: "bound-fast-open", name: "bound to the interface, with Fast Open", by: plain, leaves: inBoth,
		do:   func(to netip.AddrPort) string { return fastOpen(to, little, device("eth0")) },
		also: func(p netlab.Seen) bool { return p.Dst.Addr().IsLoopback() && len(p.Data) > 0 }},

	// What a socket can be told to send.
	{claim: "options", name: "IPv4 options and an IPv6 routing header", by: plain, do: func(to netip.AddrPort) string {
		set := func(fd int) error {
			return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, "\x07\x07\x04\x00\x00\x00\x00\x00")
		}
		return askOf(domain(to.Addr()), sockaddr(to), little, byFamily(to, set, routed(to)))
	}},
	{claim: "options", name: "a source route", by: plain, inert: inIPv4, do: func(to netip.AddrPort) string {
		// It goes to the first hop, which the attempt's destination is.
		route := "\x83\x07\x04" + string(to.Addr().AsSlice()) + "\x00"
		set := func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, route) }
		return askOf(domain(to.Addr()), sockaddr(to), little, byFamily(to, set, routed(to)))
	}},
	{claim: "openings", name: "Fast Open without a cookie", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string { return fastOpen(to, patience) }},
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
	{claim: "user-namespaces", name: "the proxy's user in a user namespace", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string { return program("/proc/self/exe", to, mapped(0)) }},
	{claim: "user-namespaces", name: "a network namespace in a user namespace", by: plain, inert: inBoth,
		says: []string{"ENETUNREACH", "EADDRNOTAVAIL"},
		do: func(to netip.AddrPort) string {
			return program("/proc/self/exe", to, mapped(unix.CLONE_NEWNET))
		}},
	{claim: "io-uring", name: "a socket of io_uring", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string { return askURing(to, 0, false) }},
	{claim: "io-uring", name: "by a thread of the kernel", by: plain, says: theProxy,
		do: func(to netip.AddrPort) string { return askURing(to, setupSQPoll, false) }},
	{claim: "io-uring", name: "with a registered personality", by: plain, says: theProxy,
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
			return askBy(map[bool]int{true: inherited4, false: inherited6}[to.Addr().Is4()], sockaddr(to), patience)
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
		do: func(to netip.AddrPort) string { return ask(to, flag(unix.SOL_SOCKET, unix.SO_MARK, 7)) }},
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
	{claim: "let-in-ports", name: "sends late from a port that is let in", by: plain, leaves: inBoth, says: []string{"sent"},
		from: lateFromLetIn},
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
	{claim: "packet-sockets", name: "AF_XDP", by: raw, leaves: inBoth, says: []string{"sent"},
		do: func(to netip.AddrPort) string { return said(sendXDP(segment(to, 24001, intercept.SYN).Packet())) }},
}

// What is tried where the proxy is known by its mark.
var known = []attempt{
	{claim: "mark", name: "sets the mark", by: plain, inert: inBoth, says: []string{"EPERM"}, do: marked},
	{claim: "mark", name: "under the user that it might be", by: namesake, says: theProxy,
		do: func(to netip.AddrPort) string { return ask(to) }},
	// Since Linux 5.17 NET_RAW is enough.
	{claim: "proxy-mark", name: "sets the mark", by: raw, leaves: inBoth, says: theWorld, do: marked},
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
	{claim: "lookups", name: "from ports of others", by: plain, says: []string{"EADDRINUSE", "dns"}, do: func(to netip.AddrPort) string {
		answers := map[string]bool{}
		for _, port := range []uint16{1, 53, 5353, 15008, 15053} {
			answers[askUDP(0, lookup(to), patience, fromPort(netip.AddrPortFrom(here(to), port)))] = true
		}
		return oneOf(answers)
	}},
	{claim: "lookups", name: "a lookup in fragments", by: plain, do: func(to netip.AddrPort) string {
		return said(withSocket(0, lookup(to), func(fd int) error { _, err := unix.Write(fd, make([]byte, 4000)); return err }))
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
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
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

// insidePort is where an application of the pod listens.
const insidePort = 9000

// linkLocal is the neighbour's link-local address that ends as a destination does.
func linkLocal(to netip.AddrPort) netip.AddrPort {
	if to.Addr().Is4() {
		a := to.Addr().As4()
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 9, a[3]}), to.Port())
	}
	a := netip.MustParseAddr("fe80::9:0").As16()
	a[15] = to.Addr().As16()[15]
	return netip.AddrPortFrom(netip.AddrFrom16(a).WithZone("eth0"), to.Port())
}

// closesAtOnce connects, and closes the socket before anything is answered.
func closesAtOnce(to netip.AddrPort) string {
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return said(err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return said(err)
	}
	return said(unix.Close(fd))
}

// routed sets a routing header with the destination as the segment that is next.
func routed(to netip.AddrPort) option {
	return func(fd int) error {
		// RFC 8754: two segments, of which one is left, the destination.
		header := "\x00\x04\x04\x01\x01\x00\x00\x00" + string(to.Addr().AsSlice()) + string(to.Addr().AsSlice())
		return unix.SetsockoptString(fd, unix.SOL_IPV6, unix.IPV6_RTHDR, header)
	}
}

func fastOpen(to netip.AddrPort, wait time.Duration, options ...option) string {
	const noCookie = 34 // TCP_FASTOPEN_NO_COOKIE
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(patient(fd, wait), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, noCookie, 1)); err != nil {
		return said(err)
	}
	for _, set := range options {
		if err := set(fd); err != nil {
			return said(err)
		}
	}
	if err := unix.Sendto(fd, []byte("whoami\n"), unix.MSG_FASTOPEN, sockaddr(to)); err != nil {
		return said(err)
	}
	return answerer(fd)
}

// congestion is the algorithm that asks for congestion notification, where users may choose it.
func congestion() string {
	allowed, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err == nil && slices.Contains(strings.Fields(string(allowed)), "dctcp") {
		return "dctcp"
	}
	return "reno" // the pod asks for it by tcp_ecn
}

// mapped is a user namespace in which the sender is the proxy's user and group.
func mapped(flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1337, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1337, HostID: os.Getgid(), Size: 1}},
	}
}

// takesSocket takes the proxy's socket from its process.
func takesSocket(to netip.AddrPort) string {
	pid, err := strconv.Atoi(os.Getenv(pidVariable))
	if err != nil {
		return err.Error()
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(process)
	number := map[bool]int{true: inherited4, false: inherited6}[to.Addr().Is4()]
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	return askBy(fd, sockaddr(to), patience)
}

// programOf asks by a program of the image's that has a bit set.
func programOf(bit string, to netip.AddrPort) string {
	return program(filepath.Join(os.Getenv(dirVariable), bit), to, nil)
}

// ownProgram makes a program, gives it to a user and a group, and asks by it with their identities.
func ownProgram(to netip.AddrPort, uid, gid int) string {
	path := filepath.Join(os.Getenv(dirVariable), fmt.Sprintf("own-%d-%d-%s", os.Getpid(), uid, to.Addr()))
	if err := copyProgram(path); err != nil {
		return said(err)
	}
	bits := os.ModeSetgid
	if uid >= 0 {
		bits |= os.ModeSetuid
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, bits|0o755)); err != nil {
		return said(err)
	}
	return program(path, to, nil)
}

// copyProgram copies this program.
func copyProgram(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, self)
	return errors.Join(err, file.Close())
}

// becomes has this thread take the proxy's identity for its sockets.
func becomes(to netip.AddrPort) string {
	for _, call := range []uintptr{unix.SYS_SETFSGID, unix.SYS_SETFSUID} {
		_, _, _ = unix.RawSyscall(call, 1337, 0, 0) // they tell no errors
	}
	return ask(to)
}

// handed asks by a socket that somebody hands over.
func handed(to netip.AddrPort) string {
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(handedOver, make([]byte, 1), rights, 0)
	if err != nil {
		return said(err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Sprint("no socket: ", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Sprint("no socket: ", err)
	}
	defer unix.Close(fds[0])
	return askBy(fds[0], sockaddr(to), patience)
}

// rawTCP sends segments by a socket whose IP header is the kernel's.
func rawTCP(to netip.AddrPort) string {
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	var errs []error
	for _, f := range combinations(0, intercept.RST) {
		p := segment(to, 25000+uint16(f), f).Packet()
		tcp := p[20:]
		if to.Addr().Is6() {
			tcp = p[40:]
		}
		errs = append(errs, unix.Sendto(fd, tcp, 0, sockaddr(netip.AddrPortFrom(to.Addr(), 0))))
	}
	return refusedOnly(errs...)
}

// noDefrag sends fragments of a SYN and of what would follow it, which the kernel does not put together.
func noDefrag(to netip.AddrPort) string {
	var errs []error
	for i, at := range []int{8, 24} {
		s := segment(to, uint16(26000+i), intercept.SYN)
		s.Data = make([]byte, 64)
		for _, f := range fragments(s.Packet(), at, uint16(2000+i)) {
			errs = append(errs, sendRaw(f, to, leaveFragments(to, 1)))
		}
	}
	return refusedOnly(errs...)
}

// bothOpen has the pod and its peer open one connection from both ends.
func bothOpen(t *testing.T, lab *netlab.Lab, to netip.AddrPort) string {
	t.Helper()
	src := netip.AddrPortFrom(here(to), 27001)
	fd, err := lab.Pod.Socket(domain(to.Addr()), unix.SOCK_STREAM, &plain.owner)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	syn := netlab.Segment{Src: to, Dst: src, Flags: intercept.SYN, Seq: 1}
	err = errors.Join(unix.SetNonblock(fd, false), unix.Bind(fd, sockaddr(src)),
		lab.Inject(netlab.FromPeer, syn, netlab.Injection{}))
	if err != nil {
		t.Fatal(err)
	}
	return askBy(fd, sockaddr(to), patience)
}

// lateFromLetIn sends on a captured connection from an excluded inbound port, after connection tracking has forgotten it.
func lateFromLetIn(t *testing.T, lab *netlab.Lab, to netip.AddrPort) string {
	t.Helper()
	fd, err := lab.Pod.Socket(domain(to.Addr()), unix.SOCK_STREAM, &plain.owner)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = errors.Join(unix.SetNonblock(fd, false), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, sockaddr(netip.AddrPortFrom(here(to), 15021))))
	if err != nil {
		t.Fatal(err)
	}
	if by := askBy(fd, sockaddr(to), patience); by != "outbound" {
		return by
	}
	if err := lab.Pod.FlushEntries(); err != nil {
		t.Fatal(err)
	}
	_, err = unix.Write(fd, []byte("late"))
	return said(err)
}

// listens takes the proxy's ports at the pod's own address, which is more exact than the proxy's.
func listens(to netip.AddrPort) string {
	answers := map[string]bool{}
	for _, port := range []uint16{15001, 15006, 15053} {
		fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return said(err)
		}
		at := here(to)
		if port == 15053 {
			at = netip.MustParseAddr(map[bool]string{true: "127.0.0.1", false: "::1"}[at.Is4()])
		}
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		if err == nil {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(at, port)))
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		answers[said(err)] = true
		unix.Close(fd)
	}
	return oneOf(answers)
}

// removes removes the rules, and connects.
func removes(to netip.AddrPort) string {
	if _, err := (dataplane.Pod{NetNS: "/proc/thread-self/ns/net"}).Remove(context.Background()); err != nil {
		return err.Error()
	}
	return ask(to)
}

// mode is a mode of the configuration.
type mode struct {
	name    string
	backend dataplane.Backend // empty: there are no rules
	tproxy  bool
}

// modes are those in which there are rules.
func modes(both bool) (all []mode) {
	for _, b := range []dataplane.Backend{
		dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy,
	} {
		all = append(all, mode{string(b), b, false})
		if both {
			all = append(all, mode{string(b) + ", tproxy", b, true})
		}
	}
	return all
}

// noRules is a pod without rules.
var noRules = mode{name: "no rules"}

// pod returns a pod with a sidecar and rules.
func (m mode) pod(t *testing.T, change ...func(*intercept.Config)) *netlab.Lab {
	t.Helper()
	lab := m.podWithoutProxy(t, change...)
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: m.tproxy}); err != nil {
		t.Fatal(err)
	}
	return lab
}

// podWithoutProxy returns a pod with rules.
func (m mode) podWithoutProxy(t *testing.T, change ...func(*intercept.Config)) *netlab.Lab {
	t.Helper()
	for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		netlab.RequireProgram(t, "iptables-"+string(v)+"-restore")
		netlab.RequireProgram(t, "ip6tables-"+string(v)+"-restore")
	}
	lab := netlab.NewT(t, netlab.Options{})
	for sysctl, value := range map[string]string{
		// Every port is every user's, as under Docker and containerd.
		"net/ipv4/ip_unprivileged_port_start": "0",
		"net/ipv4/tcp_ecn":                    "1",
		"net/ipv4/ping_group_range":           "0 2147483647",
		"net/ipv4/tcp_fastopen":               "0x607", // without a cookie, by every server
	} {
		for _, ns := range []*netlab.Namespace{lab.Pod, lab.Peer} {
			if err := ns.Do(func() error { return os.WriteFile("/proc/sys/"+sysctl, []byte(value), 0) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if m.backend == "" {
		return lab
	}
	c := intercept.Default()
	if m.tproxy {
		c.Inbound.Mode = intercept.InboundTProxy
	}
	for _, f := range change {
		f(&c)
	}
	if _, err := (dataplane.Pod{NetNS: lab.Pod.Path(), Backend: m.backend}).Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return lab
}

// prepare makes what the attempts take for granted: an application that listens, a neighbour whose link-local address
// is known, and ::6.
func prepare(t *testing.T, s scene, lab *netlab.Lab) {
	t.Helper()
	for family := range 2 {
		resolver := netip.AddrPortFrom(podAddr(family), 53)
		f := netlab.Flow{Protocol: intercept.UDP, Dst: resolver, Owner: &intercept.Owner{UID: 1337, GID: 1337}}
		if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleApp {
			t.Fatalf("%s: %s, %v", f, got, err)
		}
	}
	for family, src := range []string{"127.0.0.6", "::6"} {
		for _, dst := range []netip.Addr{podAddr(family), netip.MustParseAddr([]string{"127.0.0.1", "::1"}[family])} {
			f := netlab.Flow{Protocol: intercept.TCP, Src: netip.AddrPortFrom(netip.MustParseAddr(src), 0),
				Dst: netip.AddrPortFrom(dst, insidePort)}
			if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleApp {
				t.Fatalf("%s: %s, %v", f, got, err)
			}
		}
	}
	err := lab.Pod.Do(func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for i := range s.attempts {
			to := linkLocal(destination(i, 1))
			err = errors.Join(err, netlink.NeighAdd(&netlink.Neigh{LinkIndex: dev.Attrs().Index, IP: to.Addr().AsSlice(),
				HardwareAddr: []byte{2, 0, 0, 0, 0, 1}, State: unix.NUD_PERMANENT}))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// programs makes programs with bits set, in a directory in which everybody may make others.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "security")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	err = os.Chmod(dir, 0o777|os.ModeSticky)
	for bit, mode := range map[string]os.FileMode{"setuid": os.ModeSetuid, "setgid": os.ModeSetgid} {
		path := filepath.Join(dir, bit)
		err = errors.Join(err, copyProgram(path))
		uid, gid := 0, 1337
		if bit == "setuid" {
			uid, gid = 1337, 0
		}
		err = errors.Join(err, os.Chown(path, uid, gid), os.Chmod(path, mode|0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sockets returns the files that a sender is given, and the process of the proxy's that has them, too.
func sockets(t *testing.T, lab *netlab.Lab) []*os.File {
	t.Helper()
	var files []*os.File
	keep := func(fd int, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	proxys := func(domain int) *os.File {
		t.Helper()
		f := keep(lab.Pod.Socket(domain, unix.SOCK_STREAM, &intercept.Owner{UID: 1337, GID: 1337}))
		// It is to block.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			t.Fatal(err)
		}
		return f
	}
	files = append(files, proxys(unix.AF_INET), proxys(unix.AF_INET6))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	ours, theirs := keep(pair[0], err), keep(pair[1], err)
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		rights := unix.UnixRights(int(proxys(domain).Fd()))
		if err := unix.Sendmsg(int(ours.Fd()), []byte{0}, rights, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	return append(files, theirs)
}

// TestAttempts makes the attempts of the table.
func TestAttempts(t *testing.T) {
	dir := programs(t)
	for _, s := range scenes() {
		for _, m := range append(modes(s.both), noRules) {
			t.Run(s.name+"/"+m.name, func(t *testing.T) {
				t.Parallel()
				s.make(t, m, dir)
			})
		}
	}
}

func (s scene) make(t *testing.T, m mode, dir string) {
	t.Helper()
	lab := m.pod(t, s.set)
	prepare(t, s, lab)
	watch, err := lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	env := []string{dirVariable + "=" + dir, pidVariable + "=" + strconv.Itoa(proxyProcess(t, lab))}
	for _, k := range kinds {
		h := k.start(t, s, lab, sockets(t, lab), env...)
		for i, a := range s.attempts {
			if a.by.name == k.name && a.from != nil {
				for family := range 2 {
					h[key(i, family)] = a.from(t, lab, destination(i, family))
				}
			}
		}
		seen, err := watch.SoFar()
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range s.attempts {
			if a.by.name != k.name {
				continue
			}
			for family := range 2 {
				a.judge(t, destination(i, family), m.backend != "", h[key(i, family)], seen)
			}
		}
	}
}

// judge compares what was heard and seen of an attempt with what is claimed.
func (a attempt) judge(t *testing.T, to netip.AddrPort, rules bool, heard string, seen []netlab.Seen) {
	t.Helper()
	var left []netlab.Seen
	for _, p := range seen {
		at := p.Dst.Addr().WithZone("")
		here := at == to.Addr() || at == linkLocal(to).Addr().WithZone("")
		if p.Sent && p.Interface == "eth0" && (here && (a.but == nil || !a.but(p)) || a.also != nil && a.also(p)) {
			left = append(left, p)
		}
	}
	in := families(1 << family(to.Addr()))
	want, proves := a.leaves&in != 0, true
	if !rules {
		want, proves = true, a.inert&in == 0
	}
	if proves && (len(left) > 0) != want {
		t.Errorf("%s: %s, %s to %s: leaves: %t, hears %q: %s", a.claim, a.by.name, a.name, to, len(left) > 0, heard, left)
	}
	if rules && a.says != nil && !within(heard, a.says) {
		t.Errorf("%s: %s, %s to %s: hears %q, not one of %q", a.claim, a.by.name, a.name, to, heard, a.says)
	}
}

// proxyProcess starts a process of the proxy's that has sockets, and returns its number.
func proxyProcess(t *testing.T, lab *netlab.Lab) int {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.ExtraFiles = sockets(t, lab)
	if _, err := cmd.StdinPipe(); err != nil { // closed with this process
		t.Fatal(err)
	}
	if err := lab.Pod.Start(cmd, &intercept.Owner{UID: 1337, GID: 1337}); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
