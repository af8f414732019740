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

// judge reads the policy of docs/policy.md line by line, on the Config itself.
// It shares nothing with Compile, so that the two can disagree.
func judge(c intercept.Config, p intercept.Packet) (intercept.Fate, string) {
	family := intercept.FamilyOf(p.Dst.Addr())
	if c.Families == intercept.FamiliesAuto || c.Families == intercept.FamiliesDual ||
		c.Families == intercept.FamiliesIPv4 && family == intercept.IPv4 || c.Families == intercept.FamiliesIPv6 &&
		family == intercept.IPv6 {
		return judgeFamily(c, p)
	}
	// A family that is not captured: what would be is rejected, if so asked.
	if c.OtherFamily != intercept.TreatmentReject || p.State == intercept.CTInvalid {
		return intercept.Fate{}, ""
	}
	switch fate, line := judgeFamily(c, p); {
	case fate.Action == intercept.Rejected:
		return fate, line
	case fate.Action != intercept.Pass && (line != "O3" &&
		(line != "I7" || p.Hook == intercept.Prerouting)): // the proxy's own calls pass
		return intercept.Fate{Action: intercept.Rejected}, line
	}
	return intercept.Fate{}, ""
}

func oneOf(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if stem, glob := strings.CutSuffix(pattern, "*"); glob {
			return strings.HasPrefix(name, stem)
		}
		return pattern == name
	})
}

func judgeFamily(c intercept.Config, p intercept.Packet) (intercept.Fate, string) {
	pass := intercept.Fate{}
	dropped := intercept.Fate{Action: intercept.Dropped}
	family := intercept.FamilyOf(p.Dst.Addr())
	interfaceExcluded := oneOf(c.ExcludeInterfaces, p.Interface)
	tcp, udp := p.Protocol == intercept.TCP, p.Protocol == intercept.UDP
	opens := tcp && (p.Flags == 0 || p.Flags&(intercept.FIN|intercept.SYN|intercept.RST|intercept.ACK) == intercept.SYN)
	capture := func(to intercept.PortRange, target []netip.AddrPort, line string) (intercept.Fate, string) {
		if tcp && !opens {
			return pass, "" // redirects are of connections that open
		}
		for _, t := range target {
			if intercept.FamilyOf(t.Addr()) == family {
				return intercept.Fate{Action: intercept.Translated, To: t}, line
			}
		}
		return intercept.Fate{Action: intercept.Redirected, Ports: to}, line
	}
	port := p.Dst.Port()
	tproxy := c.Inbound.Mode == intercept.InboundTProxy
	inbound := func(line string) (intercept.Fate, string) {
		if tproxy && opens {
			return intercept.Fate{Action: intercept.Transparent, Ports: c.Inbound.Port}, "I7"
		}
		return capture(c.Inbound.Port, nil, line)
	}
	// I2: what arrives from behind the pod meets the lines of what is sent.
	virtual := p.Hook == intercept.Prerouting && oneOf(c.VirtualInterfaces, p.Interface)

	if p.State == intercept.CTInvalid {
		arrives := p.Hook == intercept.Prerouting || p.Interface == "lo"
		if c.Inbound.DropInvalid && arrives && !interfaceExcluded {
			return dropped, "I3"
		}
		return pass, ""
	}
	if p.Hook == intercept.Prerouting && !virtual {
		switch {
		case interfaceExcluded && c.Inbound.Mode == intercept.InboundOff:
			return pass, ""
		case interfaceExcluded:
			return pass, "I1"
		case c.Inbound.Mode == intercept.InboundOff || !tcp || tproxy && !opens:
			return pass, ""
		case port == c.TunnelPort:
			return pass, "I4"
		case c.Inbound.ExcludeSources.Contains(p.Src.Addr()) ||
			slices.ContainsFunc(c.Inbound.Exclude, func(e intercept.InboundExclusion) bool {
				return (len(e.Sources) == 0 || e.Sources.Contains(p.Src.Addr())) && (len(e.Ports) == 0 || e.Ports.Contains(port))
			}):
			return pass, "I5"
		case c.Inbound.ExcludePorts.Contains(port):
			return pass, "I6"
		case c.Inbound.IncludePorts.Contains(port):
			return inbound("I7")
		}
		return pass, "I8"
	}
	if virtual && interfaceExcluded {
		return pass, "I1"
	}

	uidIn := func(l intercept.IDs) bool { return p.Owner != nil && l.Contains(p.Owner.UID) }
	gidIn := func(l intercept.IDs) bool { return p.Owner != nil && l.Contains(p.Owner.GID) }
	fromProxy := uidIn(c.Proxy.UIDs) || gidIn(c.Proxy.GIDs) || c.Proxy.Mark.Mask != 0 &&
		p.Mark&c.Proxy.Mark.Mask == c.Proxy.Mark.Value
	fromClientsAddress := tproxy &&
		p.Mark&c.Inbound.TProxy.Mark.Mask == c.Inbound.TProxy.Mark.Value // the proxy, on to the app
	onLo := p.Interface == "lo"
	loopback := c.Loopback.Contains(p.Dst.Addr())
	dnsOn := c.DNS.Mode != intercept.DNSOff

	if !virtual {
		if interfaceExcluded {
			return pass, "O1"
		}
		if onLo && slices.Contains(c.PassthroughSources, p.Src.Addr()) {
			return pass, "O2"
		}
		if opens && onLo && fromProxy && !loopback && (c.TunnelPort == 0 || port != c.TunnelPort) &&
			!(dnsOn && port == 53) && c.Inbound.Mode != intercept.InboundOff && !fromClientsAddress {
			return inbound("O3")
		}
		if fromProxy {
			return pass, "O4"
		}
	}
	if tcp || udp {
		if c.Outbound.ExcludePorts.Contains(port) {
			return pass, "O5"
		}
		for _, e := range c.Outbound.Exclude {
			if (e.Protocol == 0 || e.Protocol == p.Protocol) &&
				(len(e.CIDRs) == 0 || e.CIDRs.Contains(p.Dst.Addr())) &&
				(len(e.Ports) == 0 || e.Ports.Contains(port)) &&
				(len(e.UIDs) == 0 || uidIn(e.UIDs)) &&
				(len(e.GIDs) == 0 || gidIn(e.GIDs)) {
				return pass, "O5"
			}
		}
	}
	if !virtual {
		loopbackIncluded := slices.ContainsFunc(c.Outbound.IncludeCIDRs, func(q netip.Prefix) bool {
			return q.Addr().IsLoopback() && (q.Addr().Is4() && q.Bits() >= 8 || q.Bits() == 128)
		})
		if onLo && !(dnsOn && (tcp || udp) && port == 53) && !loopbackIncluded {
			return pass, "O6"
		}
		if uidIn(c.Outbound.ExcludeUIDs) || gidIn(c.Outbound.ExcludeGIDs) {
			return pass, "O7"
		}
		if len(c.Outbound.IncludeUIDs)+len(c.Outbound.IncludeGIDs) > 0 && !uidIn(c.Outbound.IncludeUIDs) &&
			!gidIn(c.Outbound.IncludeGIDs) {
			return pass, "O7"
		}
	}
	if (tcp || udp) && port == 53 && (c.DNS.Mode == intercept.DNSAll || c.DNS.Mode == intercept.DNSResolvConf &&
		slices.Contains(c.DNS.Servers, p.Dst.Addr())) {
		stays := slices.ContainsFunc(c.DNS.Target, func(t netip.AddrPort) bool { return !t.Addr().IsLoopback() }) &&
			p.Dst.Addr().IsLoopback()
		if !stays {
			return capture(intercept.Port(c.DNS.Port), c.DNS.Target, "O8")
		}
	}
	outside := slices.ContainsFunc(c.Outbound.Target, func(t netip.AddrPort) bool { return !t.Addr().IsLoopback() })
	if loopback || outside && p.Dst.Addr().IsLoopback() {
		return pass, "O9"
	}
	if tcp && slices.Contains(c.Outbound.Target, p.Dst) || c.Outbound.ExcludeCIDRs.Contains(p.Dst.Addr()) {
		return pass, "O10"
	}
	byPort, byCIDR := c.Outbound.IncludePorts.Contains(port), c.Outbound.IncludeCIDRs.Contains(p.Dst.Addr())
	switch {
	case udp && (byPort || byCIDR) && (c.Outbound.UDP == intercept.TreatmentReject ||
		c.Outbound.QUIC == intercept.TreatmentReject && port == 443):
		return intercept.Fate{Action: intercept.Rejected}, "O13"
	case tcp && byPort:
		return capture(c.Outbound.Port, c.Outbound.Target, "O11")
	case tcp && byCIDR:
		return capture(c.Outbound.Port, c.Outbound.Target, "O12")
	}
	return pass, "O14"
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
			vary(r, &p)
			trace, err := rs.Trace(p)
			if err != nil {
				t.Fatal(err)
			}
			fate, line := judge(c, p)
			if trace.Fate != fate || line != "" && trace.Line != line {
				t.Fatalf("config %+v\npacket %+v owner %+v\nTrace says %s (%s: %s), the policy says %s (%s)",
					c, p, p.Owner, trace.Fate, trace.Line, trace.Reason, fate, line)
			}
			checkNever(t, c, p, trace)
		}
	})
}

// vary makes of a packet some that no client would send first.
func vary(r *rand.Rand, p *intercept.Packet) {
	switch r.IntN(8) {
	case 0:
		p.Owner = nil
	case 1:
		p.Flags = intercept.ACK
	case 2:
		p.Flags = intercept.RST
	case 3:
		p.State = intercept.CTInvalid
	case 4:
		p.Protocol = intercept.ICMP
		p.Src, p.Dst = netip.AddrPortFrom(p.Src.Addr(), 0), netip.AddrPortFrom(p.Dst.Addr(), 0)
	}
}

// checkNever holds for every configuration, whatever the lines say.
func checkNever(t *testing.T, c intercept.Config, p intercept.Packet, trace intercept.Trace) {
	t.Helper()
	captured := trace.Fate.Action == intercept.Redirected || trace.Fate.Action == intercept.Translated ||
		trace.Fate.Action == intercept.Transparent
	if p.Hook == intercept.Output && p.Owner != nil &&
		(c.Proxy.UIDs.Contains(p.Owner.UID) || c.Proxy.GIDs.Contains(p.Owner.GID)) && captured &&
		trace.Fate.Ports != c.Inbound.Port {
		t.Fatalf("the proxy's own packet %+v loops: %s by %s", p, trace.Fate, trace.Line)
	}
	if captured && p.Protocol == intercept.TCP && p.Flags != 0 && p.Flags != intercept.SYN {
		t.Fatalf("a packet in the middle of a connection is captured: %+v", p)
	}
	if captured && p.Hook == intercept.Output && (trace.Fate.Ports == c.Outbound.Port || p.Protocol == intercept.TCP &&
		p.Dst.Port() != 53 && trace.Fate.Action == intercept.Translated) &&
		(c.Outbound.ExcludeCIDRs.Contains(p.Dst.Addr()) || c.Outbound.ExcludePorts.Contains(p.Dst.Port())) {
		t.Fatalf("an excluded destination is captured: %+v by %s", p, trace.Line)
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
// exactly if it is redirected to the resolver.
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
			redirected := trace.Fate == intercept.RedirectedTo(c.DNS.Port)
			if redirected != (trace.Zone == 2) {
				t.Fatalf("seed %d: packet %+v owner %+v: %s by %s, but in zone %d", seed, p, p.Owner, trace.Fate, trace.Line,
					trace.Zone)
			}
		}
	}
}
