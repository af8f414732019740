package intercept_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/settings"
)

// TestLeavesNothing: what together leaves nothing is named, and nothing else; and what captures anything is accepted.
func TestLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		environ string // separated by spaces
		due     string // fields; none: it is accepted
	}{
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=tcp", "outbound.exclude inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=0.0.0.0/0,::/0", "outbound.exclude inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=:1-65535", "outbound.exclude inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=uid=0-4294967294", "outbound.exclude inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=uid=0-4294967294 DNS=all", "outbound.exclude inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE_PORTS=*", "outbound.excludePorts inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE_PORTS=1-443,444-65535", "outbound.excludePorts inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE_CIDRS=*", "outbound.excludeCIDRs inbound.mode"},
		{"INBOUND_MODE=off EXCLUDE_UIDS=0-4294967294", "outbound.excludeUIDs inbound.mode"},
		{"INBOUND_MODE=off PROXY_GID=0-4294967294 ALLOW_ROOT_PROXY=true", "proxy.gids inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_INCLUDE_CIDRS=none", "outbound.includeCIDRs inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_INCLUDE_CIDRS=127.0.0.1", "outbound.includeCIDRs inbound.mode"},
		{"INBOUND_MODE=off OUTBOUND_INCLUDE_CIDRS=224.0.0.0/4", "outbound.includeCIDRs inbound.mode"},
		{"INBOUND_MODE=off INCLUDE_UIDS=1000 OUTBOUND_EXCLUDE=uid=1000",
			"outbound.exclude outbound.includeUIDs inbound.mode"},
		{"INBOUND_MODE=off INCLUDE_UIDS=1337", "outbound.includeUIDs inbound.mode"},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_EXCLUDE=*", "outbound.includeCIDRs inbound.exclude"},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_MODE=tproxy INBOUND_EXCLUDE=:*", "outbound.includeCIDRs inbound.exclude"},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_EXCLUDE_SOURCES=0.0.0.0/0,::/0",
			"outbound.includeCIDRs inbound.excludeSources"},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_INCLUDE_PORTS=80 INBOUND_EXCLUDE_PORTS=80",
			"outbound.includeCIDRs inbound.includePorts inbound.excludePorts"},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_INCLUDE_PORTS=15008", "outbound.includeCIDRs inbound.includePorts"},
		{"OUTBOUND_INCLUDE_CIDRS=fd00::/8 INBOUND_MODE=off FAMILIES=ipv4", "outbound.includeCIDRs inbound.mode families"},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_MODE=off DNS=all OUTBOUND_EXCLUDE_PORTS=53 EXCLUDE_GIDS=5",
			"outbound.includeCIDRs outbound.excludePorts inbound.mode"},

		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_MODE=off DNS=all", ""},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_MODE=off DNS=all OUTBOUND_EXCLUDE=udp", ""}, // lookups over TCP
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_MODE=off DNS=all OUTBOUND_EXCLUDE_CIDRS=*", ""},
		{"OUTBOUND_INCLUDE_CIDRS=none", ""},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_EXCLUDE_PORTS=1-65534", ""},
		{"OUTBOUND_INCLUDE_CIDRS=none INBOUND_MODE=tproxy", ""},
		{"INBOUND_MODE=off", ""},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=udp", ""},
		{"INBOUND_MODE=off OUTBOUND_INCLUDE_CIDRS=127.0.0.53", ""},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE_PORTS=1-65534", ""},
		{"INBOUND_MODE=off EXCLUDE_UIDS=0-4294967294 VIRTUAL_INTERFACES=br-vm", ""},
		{"INBOUND_MODE=off OUTBOUND_INCLUDE_CIDRS=none OUTBOUND_INCLUDE_PORTS=443 EXCLUDE_INTERFACES=e*,lo", ""},
		{"INBOUND_MODE=off OUTBOUND_EXCLUDE=tcp,10.0.0.0/8", ""},
		{"INBOUND_MODE=off EXCLUDE_UIDS=0-999,1001-4294967294", ""},
	} {
		var environ []string
		for v := range strings.SplitSeq(tt.environ, " ") {
			environ = append(environ, "MESH_"+strings.ReplaceAll(v, "tcp,10", "tcp 10"))
		}
		_, err := settings.FromEnvironment(environ)
		due := ""
		if nothing, ok := errors.AsType[*intercept.NothingCapturedError](err); ok {
			due = strings.Join(nothing.Fields, " ")
		} else if err != nil {
			t.Errorf("%s: %v", tt.environ, err)
		}
		if diff := cmp.Diff(tt.due, due); diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.environ, err, diff)
		}
	}
}

// A small world, in which lists often cover all there is; and of each class that it has, a member.
var (
	fewCIDRs = []string{"0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "127.1.0.0/16", "127.0.0.1"}
	fewPorts = []intercept.PortRange{{First: 1, Last: 79}, intercept.Port(80), {First: 81, Last: 65535},
		intercept.Port(53)}
	fewIDs = []intercept.IDRange{{First: 0, Last: 999}, intercept.ID(1000), {First: 1001, Last: intercept.MaxID}}

	someAddrs = []string{"10.1.2.3", "20.1.2.3", "203.0.113.5", "127.1.2.3", "127.0.0.2", "127.0.0.1", "2001:db8::5",
		"::1"}
	somePorts = []uint16{1, 53, 80, 81, 15008}
	someIDs   = []uint32{500, 1000, 1001, 1337}
	someNames = []string{"lo", "eth0", "net1", "br-vm"}
)

// tight returns a random configuration that leaves little, or nothing.
func tight(t *testing.T, r *rand.Rand) intercept.Config {
	cidrs := func() (l intercept.CIDRs) {
		for range r.IntN(4) {
			l = append(l, mustCIDRs(t, fewCIDRs[r.IntN(len(fewCIDRs))])...)
		}
		return l
	}
	ports := func() (l intercept.Ports) {
		for range r.IntN(5) {
			l = append(l, fewPorts[r.IntN(len(fewPorts))])
		}
		return l
	}
	ids := func() (l intercept.IDs) {
		if r.IntN(2) == 0 {
			return nil
		}
		for range r.IntN(4) {
			l = append(l, fewIDs[r.IntN(len(fewIDs))])
		}
		return l
	}
	c := intercept.Default()
	c.Proxy.AllowRoot = true
	c.Outbound.ExcludeCIDRs, c.Outbound.ExcludePorts = cidrs(), ports()
	c.Outbound.IncludeUIDs, c.Outbound.IncludeGIDs = ids(), ids()
	c.Outbound.ExcludeUIDs, c.Outbound.ExcludeGIDs = ids(), ids()
	if r.IntN(2) == 0 {
		c.Outbound.IncludeCIDRs, c.Outbound.IncludePorts = cidrs(), ports()
	}
	if r.IntN(4) == 0 {
		c.Proxy.UIDs = append(ids(), intercept.ID(1337))
	}
	for range r.IntN(6) {
		e := intercept.Exclusion{CIDRs: cidrs(), Ports: ports(), UIDs: ids(), GIDs: ids()}
		e.Protocol = []intercept.Protocol{0, intercept.TCP, intercept.UDP}[r.IntN(3)]
		c.Outbound.Exclude = append(c.Outbound.Exclude, e)
	}
	c.Inbound.Mode = []intercept.InboundMode{intercept.InboundOff, intercept.InboundOff, intercept.InboundTProxy,
		intercept.InboundRedirect}[r.IntN(4)]
	c.Inbound.IncludePorts, c.Inbound.ExcludePorts, c.Inbound.ExcludeSources = ports(), ports(), cidrs()
	for range r.IntN(3) {
		c.Inbound.Exclude = append(c.Inbound.Exclude, intercept.InboundExclusion{Sources: cidrs(), Ports: ports()})
	}
	if r.IntN(3) == 0 {
		c.DNS.Mode = intercept.DNSAll
	}
	if r.IntN(4) == 0 {
		c.VirtualInterfaces = []string{"br-*"}
	}
	c.ExcludeInterfaces = [][]string{nil, nil, {"net*"}, {"lo"}, {"br-vm", "br-*"}}[r.IntN(5)]
	c.Families = []intercept.Families{intercept.FamiliesAuto, intercept.FamiliesIPv4, intercept.FamiliesIPv6}[r.IntN(3)]
	return c
}

// captured returns a packet of the small world, not the proxy's, that the policy captures.
func captured(c intercept.Config, world []intercept.Packet) (intercept.Packet, bool) {
	for _, p := range world {
		j := judgement{Config: c, p: p}
		if j.fromProxy() {
			continue
		}
		if fate, _ := j.fate(); captures(fate) {
			return p, true
		}
	}
	return intercept.Packet{}, false
}

func smallWorld() (all []intercept.Packet) {
	for _, proto := range []intercept.Protocol{intercept.TCP, intercept.UDP} {
		for _, a := range someAddrs {
			for _, b := range someAddrs {
				for _, port := range somePorts {
					for _, name := range someNames {
						all = append(all, packets(proto, netip.MustParseAddr(a), netip.MustParseAddr(b), port, name)...)
					}
				}
			}
		}
	}
	return all
}

func packets(proto intercept.Protocol, src, dst netip.Addr, port uint16, name string) (all []intercept.Packet) {
	if src.Is4() != dst.Is4() || src.IsLoopback() {
		return nil
	}
	p := intercept.Packet{Protocol: proto, Src: netip.AddrPortFrom(src, 40000), Dst: netip.AddrPortFrom(dst, port),
		Interface: name}
	if name == "lo" || !dst.IsLoopback() {
		p.Hook = intercept.Output
		for _, uid := range someIDs {
			for _, gid := range someIDs {
				p.Owner = &intercept.Owner{UID: uid, GID: gid}
				all = append(all, p)
			}
		}
	}
	if name != "lo" && !dst.IsLoopback() {
		p.Hook, p.Owner = intercept.Prerouting, nil
		all = append(all, p)
		p.Foreign = true
		all = append(all, p)
	}
	return all
}

// TestNothingIsRefused: a configuration is refused exactly if the policy captures no packet.
func TestNothingIsRefused(t *testing.T) {
	var refused, accepted int
	world := smallWorld()
	for seed := range uint64(800) {
		c := tight(t, rand.New(rand.NewPCG(seed, 24)))
		err := c.Validate()
		if err != nil && !errors.Is(err, intercept.ErrNothingCaptured) {
			continue
		}
		p, any := captured(c, world)
		if any != (err == nil) {
			t.Fatalf("seed %d: %v, and %+v owner %+v is captured: %v\n%+v", seed, err, p, p.Owner, any, c)
		}
		if err == nil {
			accepted++
			rs, _ := intercept.Compile(c)
			p, _ := rs.Captured(c.Proxy.UIDs, c.Proxy.GIDs)
			if trace, err := rs.Trace(p); err != nil || !captures(trace.Fate) {
				t.Fatalf("seed %d: %+v owner %+v: %s, %v", seed, p, p.Owner, trace.Fate, err)
			}
			continue
		}
		refused++
		if nothing, _ := errors.AsType[*intercept.NothingCapturedError](err); len(nothing.Fields) == 0 {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	if refused < 100 || accepted < 100 {
		t.Errorf("%d refused, %d accepted: too few to show anything", refused, accepted)
	}
}
