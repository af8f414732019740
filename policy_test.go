package intercept_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// judgement is a packet under a configuration. Its methods read docs/policy.md
// line by line, on the Config itself: they share nothing with Compile, so that
// the two can disagree.
type judgement struct {
	intercept.Config
	p     intercept.Packet
	older []intercept.Tuple // connections that were there before the rules
	noO8  bool
}

var (
	pass     = intercept.Fate{}
	rejected = intercept.Fate{Action: intercept.Rejected}
	dropped  = intercept.Fate{Action: intercept.Dropped}
)

// fate returns the packet's fate and the line that decides it. No line: any may.
func (j judgement) fate() (intercept.Fate, string) {
	f := j.family()
	if j.p.Hook == intercept.Prerouting && j.p.Dst.Addr() == netip.IPv6Loopback() {
		return pass, "" // the kernel drops it first
	}
	leftOut := j.Families == intercept.FamiliesIPv4 && f == intercept.IPv6 ||
		j.Families == intercept.FamiliesIPv6 && f == intercept.IPv4
	switch {
	case leftOut && j.OtherFamily == intercept.TreatmentReject:
		return j.leftOut()
	case leftOut:
		return pass, ""
	case j.p.Hook == intercept.Output:
		return j.sent()
	}
	return j.arriving()
}

func (j judgement) family() intercept.Family { return intercept.FamilyOf(j.p.Dst.Addr()) }
func (j judgement) tcp() bool                { return j.p.Protocol == intercept.TCP }
func (j judgement) udp() bool                { return j.p.Protocol == intercept.UDP }
func (j judgement) onLo() bool               { return j.p.Interface == "lo" }
func (j judgement) invalid() bool            { return j.p.State == intercept.CTInvalid }
func (j judgement) tproxy() bool             { return j.Inbound.Mode == intercept.InboundTProxy }
func (j judgement) dnsOn() bool              { return j.DNS.Mode != intercept.DNSOff }
func (j judgement) isNew() bool              { return j.p.State == 0 || j.p.State == intercept.CTNew }

// reply: the packet answers what conntrack takes for an earlier one.
func (j judgement) reply() bool { return j.p.Reply && !j.invalid() }

// dnat: its destination is translated. What conntrack calls invalid is in no connection.
func (j judgement) dnat() bool { return j.p.DNAT && !j.invalid() }

// opens: fin,syn,rst,ack == syn.
func (j judgement) opens() bool {
	const mask = intercept.FIN | intercept.SYN | intercept.RST | intercept.ACK
	return j.tcp() && (j.p.Flags == 0 || j.p.Flags&mask == intercept.SYN)
}

// asked: NAT looks at the packet. It does once for an entry.
func (j judgement) asked() bool {
	return (j.isNew() || j.p.State == intercept.CTRelated) && !j.p.Known && !j.p.DNAT
}

func (j judgement) interfaceExcluded() bool { return oneOf(j.ExcludeInterfaces, j.p.Interface) }

// virtual: I2, what arrives from behind the pod.
func (j judgement) virtual() bool {
	return j.p.Hook == intercept.Prerouting && slices.ContainsFunc(j.VirtualInterfaces, func(pattern string) bool {
		return oneOf([]string{pattern}, j.p.Interface) &&
			!(j.tcp() && slices.ContainsFunc(j.VirtualNetworks, func(n intercept.VirtualNetwork) bool {
				return n.Interface == pattern && n.CIDRs.Contains(j.p.Dst.Addr())
			}))
	})
}

func oneOf(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if stem, glob := strings.CutSuffix(pattern, "*"); glob {
			return strings.HasPrefix(name, stem)
		}
		return pattern == name
	})
}

func (j judgement) uidIn(l intercept.IDs) bool { return j.p.Owner != nil && l.Contains(j.p.Owner.UID) }
func (j judgement) gidIn(l intercept.IDs) bool { return j.p.Owner != nil && l.Contains(j.p.Owner.GID) }

func has(mark uint32, m intercept.Mark) bool { return m.Mask != 0 && mark&m.Mask == m.Value }

func (j judgement) fromProxy() bool {
	return j.uidIn(j.Proxy.UIDs) || j.gidIn(j.Proxy.GIDs) || has(j.p.Mark, j.Proxy.Mark)
}

// outside: a target is outside the pod, where no packet with a loopback address can go.
func outside(targets []netip.AddrPort) bool {
	return slices.ContainsFunc(targets, func(t netip.AddrPort) bool { return !t.Addr().IsLoopback() })
}

// outbound is section 3 for the sender and the destination, or for I2: the line that would decide if the packet opened
// a flow, whatever it does and whatever conntrack says.
func (j judgement) outbound() string {
	line := j.ofProcess()
	if line == "O8" && j.subflow() {
		j.noO8 = true
		line = j.ofProcess()
	}
	if (line == "O11" || line == "O12") && j.subflow() {
		return "O14"
	}
	return line
}

// subflow: what the kernel opens for a connection of Multipath TCP, whose it is nobody knows.
func (j judgement) subflow() bool {
	return j.p.Hook == intercept.Output && j.opens() && j.p.MPTCP && j.p.Owner == nil
}

// ofProcess is the line if a process sends the packet.
func (j judgement) ofProcess() string {
	p, port, o := j.p, j.p.Dst.Port(), j.Outbound
	tcp, udp := j.tcp(), j.udp()
	loopback := j.Loopback.Contains(p.Dst.Addr())
	if !j.virtual() {
		fromClientsAddress := j.tproxy() && has(p.Mark, j.Inbound.TProxy.Mark) // the proxy, on to the app
		switch {
		case j.interfaceExcluded():
			return "O1"
		case j.onLo() && slices.Contains(j.PassthroughSources, p.Src.Addr()):
			return "O2"
		case tcp && j.onLo() && j.fromProxy() && !loopback && (j.TunnelPort == 0 || port != j.TunnelPort) &&
			(!j.dnsOn() || !j.DNS.TCP || port != 53) && j.Inbound.Mode != intercept.InboundOff && !fromClientsAddress &&
			j.Inbound.Hairpin == intercept.HairpinCapture:
			return "O3"
		case j.fromProxy():
			return "O4"
		}
	}
	if tcp || udp {
		if o.ExcludePorts.Contains(port) {
			return "O5"
		}
		for _, e := range o.Exclude {
			if (e.Protocol == 0 || e.Protocol == p.Protocol) &&
				(len(e.CIDRs) == 0 || e.CIDRs.Contains(p.Dst.Addr())) &&
				(len(e.Ports) == 0 || e.Ports.Contains(port)) &&
				(len(e.UIDs) == 0 || j.uidIn(e.UIDs)) && (len(e.GIDs) == 0 || j.gidIn(e.GIDs)) {
				return "O5"
			}
		}
	}
	if !j.virtual() {
		loopbackIncluded := slices.ContainsFunc(o.IncludeCIDRs, func(q netip.Prefix) bool {
			return q.Addr().IsLoopback() && (q.Addr().Is4() && q.Bits() >= 8 || q.Bits() == 128)
		})
		switch {
		case j.onLo() && !(j.dnsOn() && (tcp && j.DNS.TCP || udp) && port == 53) && !loopbackIncluded:
			return "O6"
		case j.uidIn(o.ExcludeUIDs) || j.gidIn(o.ExcludeGIDs),
			len(o.IncludeUIDs)+len(o.IncludeGIDs) > 0 && !j.uidIn(o.IncludeUIDs) && !j.gidIn(o.IncludeGIDs):
			return "O7"
		}
	}
	byPort, byCIDR := o.IncludePorts.Contains(port), o.IncludeCIDRs.Contains(p.Dst.Addr())
	switch {
	case !j.noO8 && (tcp && j.DNS.TCP || udp) && port == 53 && (j.DNS.Virtual || !j.virtual()) &&
		(j.DNS.Mode == intercept.DNSAll ||
			j.DNS.Mode == intercept.DNSResolvConf && slices.Contains(j.DNS.Servers, p.Dst.Addr())) &&
		!(outside(j.DNS.Target) && p.Dst.Addr().IsLoopback()):
		return "O8"
	case loopback, outside(o.Target) && p.Dst.Addr().IsLoopback():
		return "O9"
	case tcp && slices.Contains(o.Target, p.Dst), o.ExcludeCIDRs.Contains(p.Dst.Addr()):
		return "O10"
	case udp && (byPort || byCIDR) &&
		(o.UDP == intercept.TreatmentReject || o.QUIC == intercept.TreatmentReject && port == 443):
		return "O13"
	case tcp && byPort:
		return "O11"
	case tcp && byCIDR:
		return "O12"
	}
	return "O14"
}

// inbound is section 4 from I9 on, of what opens a TCP connection.
func (j judgement) inbound() string {
	p, in := j.p, j.Inbound
	switch {
	case p.Dst.Addr().IsLoopback(), p.Foreign && len(j.VirtualInterfaces) == 0 && !in.CaptureForwarded:
		// The kernel drops it. A pod with virtual interfaces forwards to what is behind them.
		return "I9"
	case j.TunnelPort != 0 && p.Dst.Port() == j.TunnelPort:
		return "I4"
	case in.ExcludeSources.Contains(p.Src.Addr()), j.inboundExcluded(p.Src.Addr(), p.Dst.Port()):
		return "I5"
	case in.ExcludePorts.Contains(p.Dst.Port()):
		return "I6"
	case in.IncludePorts.Contains(p.Dst.Port()):
		return "I7"
	}
	return "I8"
}

// inboundExcluded: an exclusion is about a client and a port of the pod's.
func (j judgement) inboundExcluded(client netip.Addr, port uint16) bool {
	return slices.ContainsFunc(j.Inbound.Exclude, func(e intercept.InboundExclusion) bool {
		return (len(e.Sources) == 0 || e.Sources.Contains(client)) && (len(e.Ports) == 0 || e.Ports.Contains(port))
	})
}

// redirection is where a line's captured connections go.
func (j judgement) redirection(line string) intercept.Fate {
	var target []netip.AddrPort
	fate := intercept.Fate{Action: intercept.Redirected}
	switch line {
	case "O3", "I7":
		fate.Ports = j.Inbound.Port
	case "O8":
		fate.Ports, target = intercept.Port(j.DNS.Port), j.DNS.Target
	case "O11", "O12":
		fate.Ports, target = j.Outbound.Port, j.Outbound.Target
	}
	for _, t := range target {
		if intercept.FamilyOf(t.Addr()) == j.family() {
			return intercept.Fate{Action: intercept.Translated, To: t}
		}
	}
	return fate
}

func capturing(line string) bool {
	return slices.Contains([]string{"O3", "O8", "O11", "O12", "I7"}, line)
}

// sent is the fate of what the pod sends: section 3, then section 6, and then, on lo, section 4.
func (j judgement) sent() (intercept.Fate, string) {
	line := j.outbound()
	opensFlow := j.opens() || j.udp()
	selfByTProxy := line == "O3" && j.tproxy()
	if j.asked() && opensFlow && capturing(line) && !selfByTProxy {
		return j.redirection(line), line
	}
	fate, second := j.output(line)
	switch {
	case fate != pass:
		return fate, second
	case j.invalid() && j.Inbound.DropInvalid && j.onLo() && !j.interfaceExcluded():
		return dropped, "I3"
	case selfByTProxy && j.opens() && !(j.dnat() && !j.reply()):
		return intercept.Fate{Action: intercept.Transparent, Ports: j.Inbound.Port}, "I7"
	case !j.asked():
		return pass, second
	case capturing(line) || line == "O13": // a packet that opens nothing, or no flow
		return pass, ""
	}
	return pass, line
}

// arriving is the fate of what arrives: section 4, and section 6.
func (j judgement) arriving() (intercept.Fate, string) {
	before := j.dnat() && !j.reply() // somebody's DNAT has it: what is before NAT saw another destination
	switch {
	case j.interfaceExcluded():
		if j.Inbound.Mode == intercept.InboundOff && len(j.VirtualInterfaces) == 0 || !j.asked() {
			return pass, ""
		}
		return pass, "I1"
	case j.invalid() && j.Inbound.DropInvalid:
		return dropped, "I3"
	case j.virtual():
		line := j.outbound()
		if j.asked() && (j.opens() || j.udp()) && capturing(line) {
			return j.redirection(line), line
		}
		if fate, second := j.beyond(line); fate != pass {
			return fate, second
		}
		if !j.asked() || capturing(line) || line == "O13" {
			return pass, "" // a packet that opens nothing, or no flow
		}
		return pass, line
	}
	line := ""
	if j.tcp() && j.Inbound.Mode != intercept.InboundOff {
		line = j.inbound()
	}
	switch {
	case j.tproxy() && line != "" && line != "I9" && has(j.p.ConnMark, j.Inbound.TProxy.SelfMark) && !before:
		// Of a connection that the proxy has, whatever the lists say.
		return intercept.Fate{Action: intercept.Transparent, Ports: j.Inbound.Port}, "I7"
	case j.tproxy() && line == "I7" && j.opens() && !before:
		return intercept.Fate{Action: intercept.Transparent, Ports: j.Inbound.Port}, "I7"
	case !j.tproxy() && line == "I7" && j.opens() && j.asked():
		return j.redirection("I7"), "I7"
	}
	if j.translatedByAnother() {
		return rejected, "I7"
	}
	if fate, second := j.input(line); fate != pass {
		return fate, second
	}
	if j.tproxy() && !j.opens() || !j.asked() || line == "I7" {
		return pass, ""
	}
	return pass, line
}

// translatedByAnother: of a connection that the proxy has in mode tproxy, and on its way to where another's DNAT sends
// it.
func (j judgement) translatedByAnother() bool {
	return j.tproxy() && j.tcp() && j.dnat() && j.p.Foreign && len(j.VirtualInterfaces) == 0 &&
		!j.Inbound.CaptureForwarded && has(j.p.ConnMark, j.Inbound.TProxy.SelfMark) && !j.p.Dst.Addr().IsLoopback()
}

// untranslated: a lookup over UDP that O8 has left untranslated is like other UDP. It can only be an answer, for others
// have entries of their own zone.
func (j judgement) untranslated(line string) string {
	if line == "O8" && j.udp() {
		j.noO8 = true
		return j.outbound()
	}
	return line
}

// Section 6, the second look.

// output is B1 to B8. line is that of section 3.
func (j judgement) output(line string) (intercept.Fate, string) {
	p := j.p
	line = j.untranslated(line)
	if j.Backstop == intercept.BackstopOff || j.Backstop == intercept.BackstopSyn && !j.opens() {
		if line == "O13" && j.isNew() && !j.toResolver() {
			return rejected, "O13"
		}
		return pass, ""
	}
	// What mode tproxy brings back to the proxy passes B5.
	marked := j.tproxy() && j.reply() && (has(p.Mark, j.Inbound.TProxy.Mark) ||
		j.tcp() && has(p.ConnMark, j.Inbound.TProxy.Mark) && line != "O1" && line != "O2" && !(p.DNAT && !p.Reply))
	if j.opens() {
		sentByDNAT := j.dnat() && !j.reply()
		switch {
		case sentByDNAT && (j.fromProxy() || j.subflow()) && j.toProxy():
			return rejected, "B1"
		case sentByDNAT:
			return pass, ""
		case j.onLo():
			return pass, "B2"
		case line == "O8" && !j.toResolver():
			return rejected, "B6"
		case capturing(line) && line != "O3" && line != "O8":
			return rejected, "B4"
		}
		return pass, ""
	}
	if line == "O13" && !j.dnat() && !j.reply() && !j.toResolver() {
		return rejected, "O13"
	}
	switch {
	case j.dnat(), j.onLo(), j.interfaceExcluded():
		return pass, ""
	case j.fromProxy():
		return pass, ""
	case j.udp():
		return pass, ""
	case !j.tcp():
		icmp := p.Protocol == intercept.ICMP || p.Protocol == intercept.ICMPv6
		refuses := j.Outbound.OtherProtocols == intercept.TreatmentReject
		if refuses && (!icmp || p.Echo || p.ExtendedEcho) && p.Owner != nil && j.allTCPCaptured() {
			return rejected, "B8"
		}
		return pass, ""
	}
	switch {
	case marked || !capturing(line) || line == "O8" && j.toResolver() || j.letIn():
		return pass, ""
	case p.Flags&intercept.RST != 0:
		return pass, "B5"
	case slices.Contains(j.older, intercept.Tuple{Src: p.Src, Dst: p.Dst}):
		return pass, "B3"
	}
	second := "B5"
	if line == "O8" {
		second = "B6"
	}
	bare := intercept.FIN | intercept.SYN | intercept.RST | intercept.PSH | intercept.URG | intercept.ACK
	switch {
	case p.Owner != nil:
		return rejected, second
	case p.State == intercept.CTEstablished && !p.Reply, j.ofInbound():
		return pass, "B5"
	case p.Flags&bare == intercept.ACK && withoutData(p):
		return pass, "B5"
	}
	return dropped, "B5"
}

// ofInbound: of a connection that has come to the proxy's inbound port with its addresses unchanged.
func (j judgement) ofInbound() bool {
	switch j.Inbound.Mode {
	case intercept.InboundRedirect:
		return intercept.Ports{j.Inbound.Port}.Contains(j.p.Src.Port())
	case intercept.InboundTProxy:
		return has(j.p.ConnMark, j.Inbound.TProxy.SelfMark) && j.reply()
	case intercept.InboundOff:
	}
	return false
}

// toProxy: to where O8, O11 or O12 sends what it captures.
func (j judgement) toProxy() bool {
	at := func(targets []netip.AddrPort, ports intercept.PortRange) bool {
		self := localhost(j.p.Dst.Addr())
		return slices.Contains(targets, j.p.Dst) ||
			len(targets) == 0 && j.p.Dst.Addr() == self && intercept.Ports{ports}.Contains(j.p.Dst.Port())
	}
	anything := len(j.Outbound.IncludeCIDRs)+len(j.Outbound.IncludePorts) > 0
	return anything && at(j.Outbound.Target, j.Outbound.Port) ||
		j.dnsCaptured() && at(j.DNS.Target, intercept.Port(j.DNS.Port))
}

// localhost is 127.0.0.1 or ::1.
func localhost(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// dnsCaptured: lookups to some server are.
func (j judgement) dnsCaptured() bool {
	toServer := slices.ContainsFunc(j.DNS.Servers, func(a netip.Addr) bool {
		return !outside(j.DNS.Target) || !a.IsLoopback()
	})
	return !j.Outbound.ExcludePorts.Contains(53) &&
		(j.DNS.Mode == intercept.DNSAll || j.DNS.Mode == intercept.DNSResolvConf && toServer)
}

// toResolver: to where lookups are sent, which nobody is kept from.
func (j judgement) toResolver() bool {
	return j.dnsCaptured() && slices.Contains(j.DNS.Target, j.p.Dst)
}

// withoutData: a TCP packet as long as its headers, if those are without options or have the timestamp alone.
func withoutData(p intercept.Packet) bool {
	ip := uint16(20)
	if p.Dst.Addr().Is6() {
		ip = 40
	}
	header := max(p.TCPHeader, 5)
	return (header == 5 || header == 8) && (p.Length == 0 || p.Length == ip+4*uint16(header))
}

// letIn: what the packet answers came in past I7.
func (j judgement) letIn() bool {
	p, in := j.p, j.Inbound
	port := p.Src.Port()
	givenToClients := 32768 <= port && port <= 60999 // net.ipv4.ip_local_port_range
	if in.Mode == intercept.InboundOff {
		return !givenToClients || j.reply()
	}
	return len(j.ExcludeInterfaces) > 0 && j.reply() || // what came by one need not leave by it
		j.TunnelPort != 0 && port == j.TunnelPort ||
		in.ExcludePorts.Contains(port) || in.ExcludeSources.Contains(p.Dst.Addr()) ||
		j.inboundExcluded(p.Dst.Addr(), port) ||
		!in.IncludePorts.Contains(port) && (!givenToClients || j.reply()) ||
		oneOf(j.VirtualInterfaces, p.Interface) && j.reply() // what I2 has left alone
}

// allTCPCaptured: of this sender, to this destination, whatever the port.
func (j judgement) allTCPCaptured() bool {
	all := j
	all.Outbound.ExcludePorts = nil
	if j.Outbound.ExcludePorts.All() {
		return false
	}
	all.Outbound.Exclude = slices.DeleteFunc(slices.Clone(j.Outbound.Exclude), func(e intercept.Exclusion) bool {
		return len(e.Ports) > 0 && !e.Ports.All()
	})
	all.Outbound.Exclude = slices.Clone(all.Outbound.Exclude)
	for i := range all.Outbound.Exclude {
		all.Outbound.Exclude[i].Ports = nil
	}
	if !j.Outbound.IncludePorts.All() {
		all.Outbound.IncludePorts = nil
	}
	all.DNS.Mode = intercept.DNSOff
	all.Outbound.Target = slices.Clone(j.Outbound.Target)
	all.p.Protocol = intercept.TCP
	all.p.Src, all.p.Dst = netip.AddrPortFrom(j.p.Src.Addr(), 1), netip.AddrPortFrom(j.p.Dst.Addr(), 1)
	return capturing(all.outbound())
}

// input is B7 and B9. line is that of section 4, or none of what it is not about.
func (j judgement) input(line string) (intercept.Fate, string) {
	p := j.p
	switch {
	case p.Dst.Addr().IsLoopback(): // the kernel has dropped it
		return pass, ""
	case j.Backstop == intercept.BackstopOff:
		return pass, ""
	case line == "I7" && j.opens() && j.Inbound.Mode == intercept.InboundRedirect && !j.dnat() &&
		!intercept.Ports{j.Inbound.Port}.Contains(p.Dst.Port()):
		return rejected, "B9"
	}
	return j.closed()
}

// closed is the part of B7 that is about what arrives.
func (j judgement) closed() (intercept.Fate, string) {
	on := j.Outbound.UDP == intercept.TreatmentReject || j.Outbound.QUIC == intercept.TreatmentReject ||
		j.dnsCaptured() && j.p.Src.Port() == 53
	if j.Backstop == intercept.BackstopOn && on && j.udp() && j.isNew() && !j.p.Foreign && !j.p.Listening {
		return rejected, "B7"
	}
	return pass, ""
}

// beyond is B11, and O13 and B7 of what arrives by a virtual interface. line is that of section 3.
func (j judgement) beyond(line string) (intercept.Fate, string) {
	line = j.untranslated(line)
	waits := !j.isNew()
	if j.Backstop == intercept.BackstopOn {
		waits = j.reply()
	}
	switch {
	case j.p.Dst.Addr().IsLoopback():
		return pass, ""
	case line == "O13" && !waits && !j.toResolver():
		return rejected, "O13"
	case line == "O8" && j.toResolver():
		return j.closed()
	case j.p.Foreign && j.Backstop != intercept.BackstopOff && j.opens() && capturing(line) && !j.dnat():
		return rejected, "B11"
	}
	return j.closed()
}

// leftOut is the fate of a packet of the family that is not captured: what would be captured or rejected is rejected.
func (j judgement) leftOut() (intercept.Fate, string) {
	known := !j.isNew() // an answer is left alone
	switch {
	case j.Backstop == intercept.BackstopOn && j.udp():
		known = j.reply()
	case j.Backstop != intercept.BackstopOff && j.tcp():
		known = false
	}
	if j.p.Hook == intercept.Output || j.virtual() {
		if j.interfaceExcluded() || j.virtual() && j.p.Dst.Addr().IsLoopback() {
			return pass, ""
		}
		line := j.outbound()
		if !known && !j.toResolver() && (line == "O13" || (j.opens() || j.udp()) && capturing(line) && line != "O3") {
			return rejected, line
		}
		if j.p.Hook != intercept.Output {
			return j.closed()
		}
		if fate, second := j.output(line); second == "B8" {
			return fate, second
		}
		return pass, ""
	}
	if j.interfaceExcluded() || j.p.Dst.Addr().IsLoopback() {
		return pass, ""
	}
	local := j
	local.p.Foreign = false
	if j.opens() && !known && j.Inbound.Mode != intercept.InboundOff && local.inbound() == "I7" {
		return rejected, "I7"
	}
	return j.closed()
}

// FuzzPolicy compares Compile and Trace with the policy's text, for any
// configuration and packet, and holds them to what must never happen.
func FuzzPolicy(f *testing.F) {
	for seed := range uint64(2000) {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		c := gen.Config(r)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatalf("Compile of a valid Config: %v", err)
		}
		if err := rs.Check(); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			p := gen.Packet(r)
			if r.IntN(3) > 0 {
				gen.Believe(r, c, &p)
			}
			if rs.Older = nil; r.IntN(6) == 0 {
				rs.Older = []intercept.Tuple{{Src: p.Src, Dst: p.Dst}}
			}
			trace, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			fate, line := judgement{Config: c, p: p, older: rs.Older}.fate()
			if trace.Fate != fate || line != "" && trace.Line != line {
				t.Fatalf("config %+v\npacket %+v owner %+v\nTrace says %s (%s: %s), the policy says %s (%s)",
					c, p, p.Owner, trace.Fate, trace.Rule, trace.Reason, fate, line)
			}
			checkNever(t, c, p, trace)
		}
	})
}

// checkNever holds for every configuration, whatever the lines say.
func checkNever(t *testing.T, c intercept.Config, p intercept.Packet, trace intercept.Trace) {
	t.Helper()
	captured := captures(trace.Fate)
	fromProxy := p.Owner != nil && (c.Proxy.UIDs.Contains(p.Owner.UID) || c.Proxy.GIDs.Contains(p.Owner.GID))
	if p.Hook == intercept.Output && fromProxy && captured && trace.Fate.Ports != c.Inbound.Port {
		t.Fatalf("the proxy's own packet %+v loops: %s by %s", p, trace.Fate, trace.Line)
	}
	if p.Hook == intercept.Output && p.Owner == nil && p.MPTCP && captured && trace.Fate.Ports != c.Inbound.Port {
		t.Fatalf("a subflow that may be the proxy's, %+v, loops: %s by %s", p, trace.Fate, trace.Line)
	}
	opens := p.Flags == 0 || p.Flags&(intercept.FIN|intercept.SYN|intercept.RST|intercept.ACK) == intercept.SYN
	if captured && p.Protocol == intercept.TCP && !opens && trace.Fate.Action != intercept.Transparent {
		t.Fatalf("a packet in the middle of a connection is captured: %+v", p)
	}
	toProxy := trace.Fate.Ports == c.Outbound.Port ||
		p.Protocol == intercept.TCP && p.Dst.Port() != 53 && trace.Fate.Action == intercept.Translated
	if captured && p.Hook == intercept.Output && toProxy &&
		(c.Outbound.ExcludeCIDRs.Contains(p.Dst.Addr()) || c.Outbound.ExcludePorts.Contains(p.Dst.Port())) {
		t.Fatalf("an excluded destination is captured: %+v by %s", p, trace.Line)
	}
}

func captures(f intercept.Fate) bool {
	return f.Action == intercept.Redirected || f.Action == intercept.Translated || f.Action == intercept.Transparent
}

// beliefs are what conntrack can take a packet for that it has not translated.
var beliefs = []func(*intercept.Packet){
	func(*intercept.Packet) {}, // it has forgotten the connection, or never known it
	func(p *intercept.Packet) { p.Known = true },
	func(p *intercept.Packet) { p.Known, p.State = true, intercept.CTEstablished },
	func(p *intercept.Packet) { p.Known, p.State, p.Reply = true, intercept.CTEstablished, true },
	func(p *intercept.Packet) { p.Known, p.State = true, intercept.CTRelated },
	func(p *intercept.Packet) { p.State = intercept.CTRelated },
	func(p *intercept.Packet) { p.State = intercept.CTInvalid },
	func(p *intercept.Packet) { p.Known, p.State = true, intercept.CTInvalid },
}

var opening = []uint8{
	intercept.SYN, intercept.SYN | intercept.PSH, intercept.SYN | intercept.URG,
	intercept.SYN | 0xc0, // with ECE and CWR, as clients ask for ECN
}

var going = []uint8{
	intercept.ACK | intercept.PSH, intercept.ACK | intercept.URG, intercept.ACK | intercept.FIN,
	intercept.ACK, intercept.SYN | intercept.ACK, intercept.SYN | intercept.FIN, intercept.PSH, intercept.FIN,
}

// TestCapturedNeverInClear: what is captured when conntrack tells the truth does
// not get where it was to go, past the proxy, whatever conntrack believes of
// it. Nothing is opened so in either direction; with the whole backstop nothing
// that an application sends is left of a connection either.
func TestCapturedNeverInClear(t *testing.T) {
	opened, sent := 0, 0
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 22))
		c := gen.Config(r)
		if c.Backstop == intercept.BackstopOff {
			continue
		}
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		fate := func(p intercept.Packet) intercept.Trace {
			trace, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			return trace
		}
		for range 10 {
			p := gen.Packet(r)
			fresh := fate(p)
			switch {
			case p.Protocol != intercept.TCP || !captures(fresh.Fate):
				continue
			case fresh.Fate.To == p.Dst: // it is sent to where it goes anyway
				continue
			case p.Interface == "lo": // B2: it does not leave the pod
				continue
			case p.Interface == "br-vm" && !p.Foreign: // B11: it goes to the pod itself
				continue
			case p.Hook == intercept.Prerouting && p.Interface != "br-vm" && c.Inbound.Port.First == p.Dst.Port():
				continue
			}
			for _, believe := range beliefs {
				for _, flags := range opening {
					q := p
					q.Flags = flags
					believe(&q)
					opened++
					if got := fate(q); got.Fate.Action == intercept.Pass {
						t.Fatalf("seed %d: config %+v\npacket %+v\nopens a connection past the proxy, by %s; "+
							"without an entry it meets %s by %s", seed, c, q, got.Rule, fresh.Fate, fresh.Rule)
					}
				}
				if p.Hook != intercept.Output || c.Backstop != intercept.BackstopOn {
					continue
				}
				for _, flags := range going {
					q := p
					q.Flags, q.Length, q.TCPHeader = flags, 1240, 8
					believe(&q)
					if (judgement{Config: c, p: q}).letIn() {
						continue // it may be an answer
					}
					sent++
					if got := fate(q); got.Fate.Action == intercept.Pass {
						t.Fatalf("seed %d: config %+v\npacket %+v\nleaves past the proxy, by %s; its SYN meets %s by %s",
							seed, c, q, got.Rule, fresh.Fate, fresh.Rule)
					}
				}
			}
		}
	}
	if opened < 100_000 || sent < 50_000 {
		t.Errorf("%d and %d packets are too few to mean anything", opened, sent)
	}
}

// TestProxyNeverReachesItself: a packet by which the proxy opens a connection
// does not come to its own outbound port, nor to the resolver's, by an entry
// that an application's packet has made.
func TestProxyNeverReachesItself(t *testing.T) {
	tried := 0
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 71))
		c := gen.Config(r)
		if c.Backstop == intercept.BackstopOff || len(c.Outbound.Target)+len(c.DNS.Target) > 0 {
			continue
		}
		if r.IntN(2) == 0 {
			c.Outbound.Port = intercept.PortRange{First: 15001, Last: 15004}
		}
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			p := gen.Packet(r)
			if p.Hook != intercept.Output {
				continue
			}
			p.Protocol, p.Flags = intercept.TCP, opening[r.IntN(len(opening))]
			// Where the entry of an application's sends it.
			p.Owner = &intercept.Owner{UID: 1000, GID: 1000}
			p.Mark = 0
			fresh, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			if fresh.Fate.Action != intercept.Redirected || fresh.Fate.Ports == c.Inbound.Port {
				continue
			}
			self := localhost(p.Dst.Addr())
			ports := fresh.Fate.Ports
			p.Dst = netip.AddrPortFrom(self, ports.First+uint16(r.IntN(int(ports.Last-ports.First)+1)))
			p.DNAT, p.Known = true, true
			p.State = []intercept.CTState{intercept.CTNew, intercept.CTEstablished}[r.IntN(2)]
			switch {
			case r.IntN(4) == 0: // a subflow of the proxy's
				p.Owner, p.MPTCP = nil, true
			case c.Proxy.Mark.Mask != 0 && r.IntN(2) == 0:
				p.Mark = c.Proxy.Mark.Value
			case len(c.Proxy.UIDs) > 0:
				p.Owner.UID = c.Proxy.UIDs[0].First
			default:
				p.Owner.GID = c.Proxy.GIDs[0].First
			}
			tried++
			got, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			if got.Fate.Action != intercept.Rejected || got.Line != "B1" {
				t.Fatalf("seed %d: config %+v\npacket %+v owner %+v of the proxy: %s by %s",
					seed, c, p, p.Owner, got.Fate, got.Rule)
			}
			// The application's own, by the same entry, goes on to the proxy.
			p.Owner, p.Mark = &intercept.Owner{UID: 1000, GID: 1000}, 0
			if got, err = rs.Trace(p); err != nil || got.Fate.Action != intercept.Pass {
				t.Fatalf("seed %d: config %+v\npacket %+v that is translated already: %s by %s, %v",
					seed, c, p, got.Fate, got.Rule, err)
			}
		}
	}
	if tried < 2000 {
		t.Errorf("%d packets are too few to mean anything", tried)
	}
}

// TestTranslatedGoesOn: what a rule has translated, the second look lets go: by
// our own rules to the proxy, by those of others where they send it.
func TestTranslatedGoesOn(t *testing.T) {
	tried := 0
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 2))
		c := gen.Config(r)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			p := gen.Packet(r)
			fresh, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			q := p
			q.DNAT = true
			switch {
			case fresh.Fate.Action == intercept.Translated:
				q.Dst = fresh.Fate.To
			case fresh.Fate.Action != intercept.Redirected:
				continue
			case p.Hook == intercept.Output:
				q.Dst = netip.AddrPortFrom(localhost(p.Dst.Addr()), fresh.Fate.Ports.First)
			default: // to the address of the interface
				q.Dst, q.Foreign, q.Listening = netip.AddrPortFrom(p.Dst.Addr(), fresh.Fate.Ports.First), false, true
			}
			tried++
			got, err := rs.Trace(q)
			if err != nil {
				t.Fatal(err)
			}
			if got.Fate.Action != intercept.Pass && got.Fate.Action != intercept.Transparent {
				t.Fatalf("seed %d: config %+v\npacket %+v meets %s by %s, and then %s by %s",
					seed, c, p, fresh.Fate, fresh.Rule, got.Fate, got.Rule)
			}
		}
	}
	if tried < 3000 {
		t.Errorf("%d packets are too few to mean anything", tried)
	}
}

// TestFamiliesAgree sends the same packet in both families under
// configurations that say the same of both.
func TestFamiliesAgree(t *testing.T) {
	toIPv6 := map[string]string{
		"10.0.0.0/8": "fd00::/8", "10.96.0.10/32": "fd00:96::a/128", "203.0.113.0/24": "2001:db8::/32",
		"192.0.2.0/24": "2001:db9::/32",
	}
	packets := []struct{ v4, v6 string }{
		{"10.96.0.10:80", "[fd00:96::a]:80"}, {"10.1.1.1:443", "[fd11::1]:443"}, {"203.0.113.9:53", "[2001:db8::9]:53"},
		{"192.0.2.1:8080", "[2001:db9::1]:8080"}, {"198.18.0.1:80", "[2002::1]:80"}, {"127.0.0.1:80", "[::1]:80"},
	}
	both := func(r *rand.Rand) (out intercept.CIDRs) {
		for v4, v6 := range toIPv6 {
			if r.IntN(2) == 0 {
				out = append(out, netip.MustParsePrefix(v4), netip.MustParsePrefix(v6))
			}
		}
		return out
	}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 6))
		c := gen.Config(r)
		c.Families, c.OtherFamily = intercept.FamiliesAuto, intercept.TreatmentPass
		c.PassthroughSources, c.Loopback = intercept.Default().PassthroughSources, intercept.Default().Loopback
		c.Outbound.IncludeCIDRs, c.Outbound.ExcludeCIDRs, c.Outbound.Exclude = both(r), both(r), nil
		c.DNS.Mode, c.DNS.Servers = intercept.DNSAll, nil
		c.DNS.Target, c.Outbound.Target = nil, nil // they differ by family
		if c.Validate() != nil {
			continue // it captures nothing any more
		}
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range packets {
			p := gen.Packet(r)
			p.Hook, p.Interface = intercept.Output, "eth0"
			p.Dst, p.Src = netip.MustParseAddrPort(pair.v4), netip.MustParseAddrPort("10.244.0.5:40000")
			v4, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			p.Dst, p.Src = netip.MustParseAddrPort(pair.v6), netip.MustParseAddrPort("[fd00:244::5]:40000")
			v6, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			if v4.Fate != v6.Fate || v4.Line != v6.Line {
				t.Fatalf("config %+v: %s is %s (%s), %s is %s (%s)", c, pair.v4, v4.Fate, v4.Line, pair.v6, v6.Fate, v6.Line)
			}
		}
	}
}

// TestZonesFollowTheRedirect: a lookup is in the zone of captured lookups
// exactly if it is sent to the resolver. One that answers an earlier datagram
// goes on with that, in the zone of all others.
func TestZonesFollowTheRedirect(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 53))
		c := gen.Config(r)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			p := gen.Packet(r)
			p.Protocol, p.Dst = intercept.UDP, netip.AddrPortFrom(p.Dst.Addr(), 53)
			if p.Hook != intercept.Output {
				continue
			}
			trace, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			if captured := captures(trace.Fate); captured != (trace.Zone == 2) {
				t.Fatalf("seed %d: packet %+v owner %+v: %s by %s, but in zone %d", seed, p, p.Owner, trace.Fate, trace.Line,
					trace.Zone)
			}
			p.Known, p.State, p.Reply = true, intercept.CTEstablished, true
			if trace, err = rs.Trace(p); err != nil || trace.Fate != pass || trace.Zone != 0 {
				t.Fatalf("seed %d: an answer %+v owner %+v: %s by %s, in zone %d, %v", seed, p, p.Owner, trace.Fate,
					trace.Line, trace.Zone, err)
			}
		}
	}
}
