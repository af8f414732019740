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
	pass := intercept.Fate{}
	family := intercept.FamilyOf(p.Dst.Addr())
	if c.Families == intercept.FamiliesIPv4 && family != intercept.IPv4 || c.Families == intercept.FamiliesIPv6 && family != intercept.IPv6 {
		return pass, ""
	}
	interfaceExcluded := slices.ContainsFunc(c.ExcludeInterfaces, func(pattern string) bool {
		if stem, glob := strings.CutSuffix(pattern, "*"); glob {
			return strings.HasPrefix(p.Interface, stem)
		}
		return pattern == p.Interface
	})
	tcp, udp := p.Protocol == intercept.TCP, p.Protocol == intercept.UDP
	opens := tcp && (p.Flags == 0 || p.Flags&(intercept.FIN|intercept.SYN|intercept.RST|intercept.ACK) == intercept.SYN)
	redirect := func(to intercept.PortRange, line string) (intercept.Fate, string) {
		if tcp && !opens {
			return pass, "" // redirects are of connections that open
		}
		return intercept.Fate{Action: intercept.Redirected, Ports: to}, line
	}
	port := p.Dst.Port()

	if p.Hook == intercept.Prerouting {
		switch {
		case interfaceExcluded && p.State == intercept.CTInvalid:
			return pass, "" // no chain need look at it
		case interfaceExcluded && c.Inbound.Mode == intercept.InboundOff:
			return pass, ""
		case interfaceExcluded:
			return pass, "I1"
		case p.State == intercept.CTInvalid:
			if c.Inbound.DropInvalid {
				return intercept.Fate{Action: intercept.Dropped}, "I3"
			}
			return pass, ""
		case c.Inbound.Mode == intercept.InboundOff || !tcp:
			return pass, ""
		case port == c.TunnelPort:
			return pass, "I4"
		case c.Inbound.ExcludeSources.Contains(p.Src.Addr()):
			return pass, "I5"
		case c.Inbound.ExcludePorts.Contains(port):
			return pass, "I6"
		case c.Inbound.IncludePorts.Contains(port):
			return redirect(c.Inbound.Port, "I7")
		}
		return pass, "I8"
	}

	if p.State == intercept.CTInvalid {
		return pass, ""
	}
	uidIn := func(l intercept.IDs) bool { return p.Owner != nil && l.Contains(p.Owner.UID) }
	gidIn := func(l intercept.IDs) bool { return p.Owner != nil && l.Contains(p.Owner.GID) }
	fromProxy := uidIn(c.Proxy.UIDs) || gidIn(c.Proxy.GIDs)
	onLo := p.Interface == "lo"
	loopback := c.Loopback.Contains(p.Dst.Addr())
	dnsOn := c.DNS.Mode != intercept.DNSOff

	if interfaceExcluded {
		return pass, "O1"
	}
	if onLo && slices.Contains(c.PassthroughSources, p.Src.Addr()) {
		return pass, "O2"
	}
	if opens && onLo && fromProxy && !loopback && (c.TunnelPort == 0 || port != c.TunnelPort) &&
		!(dnsOn && port == 53) && c.Inbound.Mode != intercept.InboundOff {
		return redirect(c.Inbound.Port, "O3")
	}
	if fromProxy {
		return pass, "O4"
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
	loopbackIncluded := slices.ContainsFunc(c.Outbound.IncludeCIDRs, func(q netip.Prefix) bool {
		return q.Addr().IsLoopback() && (q.Addr().Is4() && q.Bits() >= 8 || q.Bits() == 128)
	})
	if onLo && !(dnsOn && (tcp || udp) && port == 53) && !loopbackIncluded {
		return pass, "O6"
	}
	if uidIn(c.Outbound.ExcludeUIDs) || gidIn(c.Outbound.ExcludeGIDs) {
		return pass, "O7"
	}
	if len(c.Outbound.IncludeUIDs)+len(c.Outbound.IncludeGIDs) > 0 && !uidIn(c.Outbound.IncludeUIDs) && !gidIn(c.Outbound.IncludeGIDs) {
		return pass, "O7"
	}
	if (tcp || udp) && port == 53 {
		if c.DNS.Mode == intercept.DNSAll || c.DNS.Mode == intercept.DNSResolvConf && slices.Contains(c.DNS.Servers, p.Dst.Addr()) {
			return redirect(intercept.Port(c.DNS.Port), "O8")
		}
	}
	switch {
	case loopback:
		return pass, "O9"
	case c.Outbound.ExcludeCIDRs.Contains(p.Dst.Addr()):
		return pass, "O10"
	case tcp && c.Outbound.IncludePorts.Contains(port):
		return redirect(c.Outbound.Port, "O11")
	case tcp && c.Outbound.IncludeCIDRs.Contains(p.Dst.Addr()):
		return redirect(c.Outbound.Port, "O12")
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
			trace := rs.Trace(p)
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
	captured := trace.Fate.Action == intercept.Redirected
	if p.Owner != nil && (c.Proxy.UIDs.Contains(p.Owner.UID) || c.Proxy.GIDs.Contains(p.Owner.GID)) && captured && trace.Fate.Ports != c.Inbound.Port {
		t.Fatalf("the proxy's own packet %+v loops: %s by %s", p, trace.Fate, trace.Line)
	}
	if captured && p.Protocol == intercept.TCP && p.Flags != 0 && p.Flags != intercept.SYN {
		t.Fatalf("a packet in the middle of a connection is captured: %+v", p)
	}
	if captured && p.Hook == intercept.Output && trace.Fate.Ports == c.Outbound.Port &&
		(c.Outbound.ExcludeCIDRs.Contains(p.Dst.Addr()) || c.Outbound.ExcludePorts.Contains(p.Dst.Port())) {
		t.Fatalf("an excluded destination is captured: %+v by %s", p, trace.Line)
	}
}

// TestFamiliesAgree sends the same packet in both families under
// configurations that say the same of both.
func TestFamiliesAgree(t *testing.T) {
	toIPv6 := map[string]string{
		"10.0.0.0/8": "fd00::/8", "10.96.0.10/32": "fd00:96::a/128", "203.0.113.0/24": "2001:db8::/32", "192.0.2.0/24": "2001:db9::/32",
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
		c.Families = intercept.FamiliesAuto
		c.PassthroughSources, c.Loopback = intercept.Default().PassthroughSources, intercept.Default().Loopback
		c.Outbound.IncludeCIDRs, c.Outbound.ExcludeCIDRs, c.Outbound.Exclude = both(r), both(r), nil
		c.DNS.Mode, c.DNS.Servers = intercept.DNSAll, nil
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range packets {
			p := gen.Packet(r)
			p.Hook, p.Interface = intercept.Output, "eth0"
			p.Dst, p.Src = netip.MustParseAddrPort(pair.v4), netip.MustParseAddrPort("10.244.0.5:40000")
			v4 := rs.Trace(p)
			p.Dst, p.Src = netip.MustParseAddrPort(pair.v6), netip.MustParseAddrPort("[fd00:244::5]:40000")
			v6 := rs.Trace(p)
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
			trace := rs.Trace(p)
			redirected := trace.Fate == intercept.RedirectedTo(c.DNS.Port)
			if redirected != (trace.Zone == 2) {
				t.Fatalf("seed %d: packet %+v owner %+v: %s by %s, but in zone %d", seed, p, p.Owner, trace.Fate, trace.Line, trace.Zone)
			}
		}
	}
}
