// Package gen makes random valid configurations, and packets that are likely
// to meet their rules. What it makes depends on the source of randomness
// alone, so a seed reproduces it.
package gen

import (
	"math/rand/v2"
	"net/netip"

	"github.com/mesh-intercept/intercept"
)

// The pod's own addresses, which Packet takes for local ones.
var (
	PodIPv4 = netip.MustParseAddr("10.244.0.5")
	PodIPv6 = netip.MustParseAddr("fd00:244::5")
)

// Where packets come from that arrive by a virtual interface.
var (
	VirtualIPv4 = netip.MustParseAddr("10.246.0.5")
	VirtualIPv6 = netip.MustParseAddr("fd00:246::5")
)

// Everything is drawn from small worlds that overlap, so that inclusions,
// exclusions and packets meet.
var (
	ports = []intercept.PortRange{
		intercept.Port(22), intercept.Port(53), intercept.Port(80), intercept.Port(443),
		intercept.Port(8080), {First: 80, Last: 90}, {First: 1000, Last: 2000}, {First: 1500, Last: 9000},
		{First: 8080, Last: 8081}, {First: 60000, Last: 65535}, {First: 1, Last: 79}, intercept.Port(15008),
	}
	cidrs = prefixes("10.0.0.0/8", "10.96.0.0/12", "10.96.0.10/32", "192.0.2.0/24", "192.0.2.128/25",
		"203.0.113.10/32", "203.0.113.0/24", "224.0.0.0/3", "0.0.0.0/1", "127.1.0.0/16", "127.0.0.53/32", "10.244.0.5/32",
		"fd00::/8", "fd00:96::/32", "2001:db8::/32", "2001:db8::10/128", "2001:db8:0:1::/64", "8000::/1", "fd00:244::5/128")
	sources = prefixes("10.0.0.0/8", "172.16.0.0/12", "172.16.5.5/32", "192.168.0.0/16", "fd00::/8", "2001:db8:7::/48",
		"2001:db8:7::7/128")
	owners = []intercept.IDRange{
		intercept.ID(0), intercept.ID(1000), intercept.ID(2000), {First: 1000, Last: 1999},
		{First: 2000, Last: 4000000000}, intercept.ID(65534), intercept.ID(1338), intercept.ID(intercept.MaxID),
	}
	servers = addrs("10.96.0.10", "127.0.0.53", "203.0.113.10", "fd00:96::a", "2001:db8::10", "::1")

	destinations = addrs("10.96.0.10", "10.1.2.3", "192.0.2.7", "192.0.2.200", "203.0.113.10", "203.0.113.99",
		"203.0.113.53", "10.244.0.5", "127.0.0.1", "127.0.0.53", "127.1.2.3", "127.0.0.6",
		"fd00:96::a", "fd12::1", "2001:db8::10", "2001:db8:0:1::7", "2001:db8::53",
		"fd00:244::5", "::1")
	clients = addrs("10.244.0.1", "172.16.5.5", "172.16.9.9", "192.168.7.7", "198.18.0.1",
		"fd00:244::1", "2001:db8:7::7", "2001:db8:7::8", "2001:db8:9::9")
	packetPorts = []uint16{22, 53, 53, 80, 85, 443, 1500, 1999, 8080, 8081, 9000, 9001, 5300, 15008, 15020, 15021, 15090,
		65535}
	people = []uint32{0, 1000, 1500, 1337, 1338, 2000, 65534, 3999999999}
)

// marks are those that a proxy is known by, and marks of sockets that carry one.
var marks = []intercept.Mark{{Value: 0x700, Mask: 0xf00}, {Value: 7, Mask: 7}, {Value: 0x7007, Mask: 1<<32 - 1}}

// targets are outside the pod, one of each family.
func targets(port uint16) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.MustParseAddr("203.0.113.53"), port),
		netip.AddrPortFrom(netip.MustParseAddr("2001:db8::53"), port),
	}
}

func prefixes(s ...string) (out intercept.CIDRs) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Config returns a random valid configuration.
func Config(r *rand.Rand) intercept.Config {
	for {
		if c := candidate(r); c.Validate() == nil {
			return c
		}
	}
}

func candidate(r *rand.Rand) intercept.Config {
	c := intercept.Default()
	if one(r, 3) {
		c.Proxy.UIDs = append(some(r, owners, 2), intercept.ID(1337))
	}
	if one(r, 3) {
		c.Proxy.GIDs = some(r, owners, 2)
	}
	c.Proxy.AllowRoot = true

	if one(r, 2) {
		c.Outbound.IncludeCIDRs = some(r, cidrs, 4)
	}
	c.Outbound.ExcludeCIDRs = maybe(r, cidrs, 4)
	c.Outbound.IncludePorts = maybe(r, ports, 3)
	c.Outbound.ExcludePorts = maybe(r, ports, 3)
	for one(r, 3) {
		e := intercept.Exclusion{CIDRs: maybe(r, cidrs, 2), Ports: maybe(r, ports, 2), UIDs: maybe(r, owners, 2),
			GIDs: maybe(r, owners, 1)}
		e.Protocol = pick(r, []intercept.Protocol{0, intercept.TCP, intercept.UDP})
		c.Outbound.Exclude = append(c.Outbound.Exclude, e)
	}
	if one(r, 4) {
		c.Outbound.IncludeUIDs = maybe(r, owners, 2)
		c.Outbound.IncludeGIDs = maybe(r, owners, 2)
	}
	if one(r, 4) {
		c.Outbound.ExcludeUIDs = maybe(r, owners, 2)
		c.Outbound.ExcludeGIDs = maybe(r, owners, 2)
	}

	c.Inbound.Mode = pick(r, []intercept.InboundMode{intercept.InboundOff, intercept.InboundTProxy,
		intercept.InboundTProxy, intercept.InboundRedirect, intercept.InboundRedirect})
	if one(r, 4) {
		c.Inbound.IncludePorts = some(r, ports, 4)
	}
	for one(r, 4) {
		c.Inbound.Exclude = append(c.Inbound.Exclude, intercept.InboundExclusion{Sources: maybe(r, sources, 2),
			Ports: maybe(r, ports, 2)})
	}
	if one(r, 5) {
		c.Inbound.TProxy = intercept.TProxyMarks{Mark: intercept.Mark{Value: 0x100, Mask: 0xf00},
			SelfMark: intercept.Mark{Value: 0x200, Mask: 0xf00}, Table: 7}
	}
	if one(r, 4) {
		c.Proxy.Mark = pick(r, marks)
	}
	c.Outbound.UDP = pick(r, []intercept.Treatment{intercept.TreatmentPass, intercept.TreatmentPass,
		intercept.TreatmentReject})
	c.Outbound.QUIC = pick(r, []intercept.Treatment{intercept.TreatmentPass, intercept.TreatmentPass,
		intercept.TreatmentReject})
	if one(r, 4) {
		c.VirtualInterfaces = some(r, []string{"br-vm", "br-*", "docker0"}, 2)
		for _, name := range c.VirtualInterfaces {
			if one(r, 3) {
				c.VirtualNetworks = append(c.VirtualNetworks,
					intercept.VirtualNetwork{Interface: name, CIDRs: some(r, cidrs, 2)})
			}
		}
	}
	if one(r, 2) {
		c.Inbound.ExcludePorts = maybe(r, ports, 4)
	}
	c.Inbound.ExcludeSources = maybe(r, sources, 3)
	c.Inbound.DropInvalid = one(r, 3)
	c.Inbound.CaptureForwarded = one(r, 8)
	if one(r, 5) {
		c.Inbound.Hairpin = intercept.HairpinPass
	}

	switch r.IntN(3) {
	case 0:
		c.DNS.Mode = intercept.DNSAll
	case 1:
		c.DNS.Mode = intercept.DNSResolvConf
		c.DNS.Servers = append(some(r, servers, 3), pick(r, servers))
	}

	c.DNS.TCP, c.DNS.Virtual = !one(r, 4), !one(r, 4)
	if one(r, 6) {
		c.DNS.Target = targets(pick(r, []uint16{53, 5300}))
	}
	if one(r, 6) {
		c.Outbound.Target = targets(15001)
	}
	if one(r, 5) {
		c.TunnelPort = 0
	}
	if one(r, 5) {
		c.ExcludeInterfaces = some(r, []string{"net1", "net*", "mgmt0", "br-vm"}, 2)
	}
	if one(r, 5) {
		c.Loopback = append(prefixes("::1/128"), pick(r, prefixes("127.0.0.0/8", "127.0.0.0/24")))
	}
	if one(r, 5) {
		c.PassthroughSources = maybe(r, c.PassthroughSources, 2)
		if len(c.PassthroughSources) == 2 && c.PassthroughSources[0] == c.PassthroughSources[1] {
			c.PassthroughSources = c.PassthroughSources[:1]
		}
	}
	c.Backstop = pick(r, []intercept.Backstop{
		intercept.BackstopOn, intercept.BackstopOn, intercept.BackstopOn, intercept.BackstopSyn, intercept.BackstopOff,
	})
	if c.Backstop == intercept.BackstopOn && one(r, 3) {
		c.Outbound.OtherProtocols = intercept.TreatmentReject
	}
	if one(r, 6) {
		c.Families = pick(r, []intercept.Families{intercept.FamiliesIPv4, intercept.FamiliesIPv6})
		c.OtherFamily = pick(r, []intercept.Treatment{intercept.TreatmentPass, intercept.TreatmentReject})
	}
	return c
}

// Packet returns a random packet that opens a connection, or the first
// datagram of one: sent by a process in the pod, or arriving in it.
func Packet(r *rand.Rand) intercept.Packet {
	p := intercept.Packet{Protocol: pick(r, []intercept.Protocol{intercept.TCP, intercept.TCP, intercept.UDP})}
	port := pick(r, packetPorts)
	srcPort := uint16(40000 + r.IntN(20000))
	if one(r, 8) {
		// From behind the pod.
		p.Hook, p.Interface = intercept.Prerouting, "br-vm"
		dst := pick(r, destinations)
		for dst.IsLoopback() {
			dst = pick(r, destinations)
		}
		src := VirtualIPv4
		if dst.Is6() {
			src = VirtualIPv6
		}
		p.Src, p.Dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, port)
		p.Foreign, p.Listening = !IsLocal(dst), IsLocal(dst)
		return p
	}
	if one(r, 3) {
		p.Listening = true
		p.Hook, p.Interface = intercept.Prerouting, pick(r, []string{"eth0", "eth0", "net1"})
		src := pick(r, clients)
		dst := PodIPv4
		if src.Is6() {
			dst = PodIPv6
		}
		p.Src, p.Dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, port)
		return p
	}
	p.Hook = intercept.Output
	dst := pick(r, destinations)
	src := SourceFor(dst)
	p.Interface = "eth0"
	if IsLocal(dst) {
		p.Interface = "lo"
		if one(r, 6) {
			src = netip.MustParseAddr("127.0.0.6")
			if dst.Is6() {
				src = netip.MustParseAddr("::6")
			}
		}
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, port)
	p.Owner = &intercept.Owner{UID: pick(r, people), GID: pick(r, people)}
	if one(r, 4) {
		p.Mark = pick(r, marks).Value
	}
	return p
}

// Believe makes of a packet that opens a flow any that the kernel can meet, with what conntrack can believe of it:
// nothing, that another packet has made its entry, that it is an answer, that its destination is translated, or that it
// is invalid. c is the configuration that it meets.
func Believe(r *rand.Rand, c intercept.Config, p *intercept.Packet) {
	switch r.IntN(12) {
	case 0:
		p.Owner = nil
	case 1, 2:
		p.Protocol = pick(r, []intercept.Protocol{icmpOf(p.Dst.Addr()), icmpOf(p.Dst.Addr()), sctp, udpLite, igmp})
		if p.Protocol != sctp && p.Protocol != udpLite {
			p.Src, p.Dst = netip.AddrPortFrom(p.Src.Addr(), 0), netip.AddrPortFrom(p.Dst.Addr(), 0)
		}
		if p.Protocol == icmpOf(p.Dst.Addr()) {
			p.Echo = one(r, 2)
			p.ExtendedEcho = !p.Echo && one(r, 2)
			if !p.Echo && !p.ExtendedEcho {
				p.Quotes = pick(r, []uint16{0, 53, 53, 443})
			}
		}
	}
	if p.Protocol == intercept.TCP && !one(r, 4) {
		flags, options, data := Segment(r)
		Carry(p, flags, options, data)
		switch r.IntN(8) {
		case 0, 1, 2: // what answers comes from a server's port
			p.Src = netip.AddrPortFrom(p.Src.Addr(), ServerPort(r))
		case 3: // or from the proxy's
			p.Src = netip.AddrPortFrom(p.Src.Addr(), c.Inbound.Port.First)
		}
	}
	if p.Protocol == intercept.TCP && one(r, 4) {
		p.MPTCP = true
		if one(r, 3) { // the kernel opens a subflow
			p.Owner, p.Flags = nil, intercept.SYN
		}
	}
	if p.Hook == intercept.Prerouting {
		p.Listening = one(r, 2)
		if one(r, 6) {
			p.Dst = netip.AddrPortFrom(pick(r, notThePods(p.Dst.Addr())), p.Dst.Port())
			p.Foreign = !p.Dst.Addr().IsLoopback()
		}
	}
	switch r.IntN(8) {
	case 0, 1:
		p.Known = true
	case 2:
		p.Known, p.State = true, intercept.CTEstablished
	case 3:
		p.Known, p.State, p.Reply = true, intercept.CTEstablished, true
	case 4:
		p.State = intercept.CTInvalid
	case 5:
		p.State = intercept.CTRelated
	case 6:
		translate(r, c, p)
	}
	if m := c.Inbound.TProxy; c.Inbound.Mode == intercept.InboundTProxy && p.Known && one(r, 2) {
		p.ConnMark = m.SelfMark.Value
		if one(r, 2) { // the proxy calls the app from its client's address, or the app answers
			p.ConnMark = m.Mark.Value
			p.Mark = pick(r, []uint32{0, m.Mark.Value})
		}
		if p.Hook != intercept.Output {
			p.Mark = 0
			// Of what goes to others, or comes from outside to loopback, the kernel discards whatever is let on.
			p.Transparent = p.Protocol == intercept.TCP && p.ConnMark == m.SelfMark.Value && !p.Foreign &&
				!p.Dst.Addr().IsLoopback() && one(r, 2)
		}
	}
}

// translate makes p one of an entry that translates its destination, by a rule of ours or of somebody else's.
func translate(r *rand.Rand, c intercept.Config, p *intercept.Packet) {
	p.DNAT, p.Known = true, one(r, 2)
	if p.Known {
		p.State = pick(r, []intercept.CTState{intercept.CTNew, intercept.CTEstablished})
		if p.State == intercept.CTEstablished && one(r, 3) {
			p.Reply = true
			return
		}
	}
	if one(r, 3) || p.Hook != intercept.Output {
		return
	}
	self := netip.IPv6Loopback()
	if p.Dst.Addr().Is4() {
		self = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	to := []netip.AddrPort{
		netip.AddrPortFrom(self, c.Outbound.Port.First), netip.AddrPortFrom(self, c.Inbound.Port.First),
		netip.AddrPortFrom(self, c.DNS.Port), netip.AddrPortFrom(p.Dst.Addr(), c.Outbound.Port.First),
	}
	for _, t := range append(c.Outbound.Target, c.DNS.Target...) {
		if t.Addr().Is4() == p.Dst.Addr().Is4() {
			to = append(to, t)
		}
	}
	p.Dst = pick(r, to)
}

// The protocols, other than TCP and UDP, of generated packets.
const (
	igmp    intercept.Protocol = 2
	sctp    intercept.Protocol = 132
	udpLite intercept.Protocol = 136
)

func icmpOf(a netip.Addr) intercept.Protocol {
	if a.Is4() {
		return intercept.ICMP
	}
	return intercept.ICMPv6
}

// flags are those of TCP packets, ECE and CWR among them.
var flags = []uint8{
	intercept.SYN, intercept.SYN, intercept.SYN, intercept.SYN | intercept.PSH, intercept.SYN | intercept.URG,
	intercept.SYN | ece | cwr, intercept.SYN | intercept.ACK, intercept.SYN | intercept.FIN,
	intercept.ACK, intercept.ACK, intercept.ACK | ece, intercept.ACK | intercept.PSH, intercept.ACK | intercept.URG,
	intercept.FIN | intercept.ACK, intercept.RST, intercept.RST | intercept.ACK, intercept.PSH,
}

const ece, cwr = 0x40, 0x80

// Segment returns the flags of a TCP packet, and how many bytes of options and of data it has.
func Segment(r *rand.Rand) (f uint8, options, data int) {
	return pick(r, flags), pick(r, []int{0, 0, 12, 12, 20}), pick(r, []int{0, 0, 1, 12, 1200})
}

// Carry makes p a TCP packet with such flags, and so many bytes of options and of data.
func Carry(p *intercept.Packet, flags uint8, options, data int) {
	p.Flags, p.TCPHeader = flags, uint8(5+options/4)
	p.Length = uint16(40 + options + data)
	if p.Dst.Addr().Is6() {
		p.Length += 20
	}
}

// ServerPort returns a port that a packet which answers can come from.
func ServerPort(r *rand.Rand) uint16 { return pick(r, packetPorts) }

// notThePods are destinations of frames that a neighbour sends to the pod's hardware address.
func notThePods(like netip.Addr) []netip.Addr {
	if like.Is4() {
		return addrs("127.0.0.1", "127.0.0.53", "198.51.100.7", "192.0.2.7")
	}
	return addrs("::1", "2001:db8:99::7", "2001:db8::10")
}

// IsLocal reports whether the pod itself has the address.
func IsLocal(a netip.Addr) bool { return a == PodIPv4 || a == PodIPv6 || a.IsLoopback() }

// SourceFor returns the source address the pod's kernel picks for dst.
func SourceFor(dst netip.Addr) netip.Addr {
	switch {
	case dst.IsLoopback() && dst.Is4():
		return netip.MustParseAddr("127.0.0.1")
	case IsLocal(dst):
		return dst
	case dst.Is4():
		return PodIPv4
	}
	return PodIPv6
}

// one is true once in n times.
func one(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func pick[E any](r *rand.Rand, from []E) E { return from[r.IntN(len(from))] }

// some returns 1 to most items, which may repeat and overlap.
func some[S ~[]E, E any](r *rand.Rand, from S, most int) S {
	out := make(S, 1+r.IntN(most))
	for i := range out {
		out[i] = pick(r, from)
	}
	return out
}

// maybe returns nothing half of the time, else some.
func maybe[S ~[]E, E any](r *rand.Rand, from S, most int) S {
	if one(r, 2) || len(from) == 0 {
		return nil
	}
	return some(r, from, most)
}
