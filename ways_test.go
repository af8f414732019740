package intercept_test

import (
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept"
)

// TestWays counts what looks at a packet of an established connection: the rules, and their conditions up to the first
// that fails. Every packet of every connection pays for these, so no change may make them more without saying so here.
// What it costs in time says testing/bench.
func TestWays(t *testing.T) {
	app, proxy := &intercept.Owner{UID: 1000, GID: 1000}, &intercept.Owner{UID: 1337, GID: 1337}
	sent := func(p intercept.Protocol, owner *intercept.Owner, src, dst string) intercept.Packet {
		return intercept.Packet{Hook: intercept.Output, Protocol: p, Owner: owner, Interface: "eth0",
			Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
			Flags: intercept.ACK | intercept.PSH, State: intercept.CTEstablished, Known: true}
	}
	arriving := func(p intercept.Protocol, src, dst string) intercept.Packet {
		packet := sent(p, nil, src, dst)
		packet.Hook = intercept.Prerouting
		return packet
	}
	with := func(p intercept.Packet, change func(*intercept.Packet)) intercept.Packet { change(&p); return p }
	reply := func(p *intercept.Packet) { p.Reply = true }
	translated := func(p *intercept.Packet) { p.DNAT = true }
	answer := func(p *intercept.Packet) { p.DNAT, p.Reply = true, true }
	inside := func(p *intercept.Packet) { p.DNAT, p.Interface = true, "lo" }
	insideAnswer := func(p *intercept.Packet) { p.DNAT, p.Reply, p.Interface = true, true, "lo" }
	const pod, server, excluded, client = "10.244.0.5:40000", "203.0.113.10:443", "192.0.2.1:443", "10.244.0.9:50000"

	packets := map[string]intercept.Packet{
		"captured":                with(sent(intercept.TCP, app, pod, "127.0.0.1:15001"), inside),
		"captured, its answer":    with(sent(intercept.TCP, proxy, server, pod), insideAnswer),
		"the proxy's own":         sent(intercept.TCP, proxy, pod, server),
		"its answer":              with(arriving(intercept.TCP, server, pod), reply),
		"excluded":                sent(intercept.TCP, app, pod, excluded),
		"inbound":                 with(arriving(intercept.TCP, client, "10.244.0.5:15006"), translated),
		"inbound, its answer":     with(sent(intercept.TCP, proxy, "10.244.0.5:8080", client), answer),
		"UDP":                     sent(intercept.UDP, app, pod, server),
		"UDP, its answer":         with(arriving(intercept.UDP, server, pod), reply),
		"transparent":             with(arriving(intercept.TCP, client, "10.244.0.5:8080"), toProxy),
		"transparent, its answer": with(sent(intercept.TCP, proxy, "10.244.0.5:8080", client), ofProxy),
	}
	configs := map[string]func(*intercept.Config){
		"default":      func(*intercept.Config) {},
		"no backstop":  func(c *intercept.Config) { c.Backstop = intercept.BackstopOff },
		"DNS":          func(c *intercept.Config) { c.DNS.Mode = intercept.DNSAll },
		"tproxy":       func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy },
		"tproxy alone": func(c *intercept.Config) { c.Inbound.Mode, c.Backstop = intercept.InboundTProxy, intercept.BackstopOff },
	}
	for _, way := range []struct {
		config, packet    string
		rules, conditions int
	}{
		{"no backstop", "captured", 0, 0},
		{"no backstop", "the proxy's own", 0, 0},
		{"no backstop", "inbound", 0, 0},
		{"no backstop", "UDP", 0, 0},
		{"default", "captured", 3, 3},
		{"default", "captured, its answer", 3, 3},
		{"default", "the proxy's own", 5, 5},
		{"default", "its answer", 1, 1},
		{"default", "excluded", 7, 7},
		{"default", "inbound", 1, 1},
		{"default", "inbound, its answer", 2, 2},
		{"default", "UDP", 4, 4},
		{"default", "UDP, its answer", 1, 1},
		{"DNS", "captured, its answer", 5, 5},
		{"DNS", "the proxy's own", 6, 6},
		{"DNS", "its answer", 2, 2},
		{"DNS", "excluded", 8, 10},
		{"DNS", "UDP", 6, 7},
		{"DNS", "UDP, its answer", 2, 3},
		{"tproxy alone", "transparent", 3, 6},
		{"tproxy alone", "transparent, its answer", 2, 2},
		{"tproxy", "transparent", 3, 6},
		{"tproxy", "transparent, its answer", 8, 8},
		{"tproxy", "the proxy's own", 8, 8},
		{"tproxy", "captured", 5, 5},
	} {
		t.Run(way.config+"/"+way.packet, func(t *testing.T) {
			c := intercept.Default()
			c.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.MustParsePrefix("192.0.2.0/24")}
			configs[way.config](&c)
			rs, err := intercept.Compile(c)
			if err != nil {
				t.Fatal(err)
			}
			trace, err := rs.Trace(packets[way.packet])
			if err != nil {
				t.Fatal(err)
			}
			conditions := 0
			for _, s := range trace.Steps {
				for _, m := range s.Rule.Match {
					if conditions++; !s.Matched && same(m, s.Failed) {
						break
					}
				}
			}
			if got := len(trace.Steps); got != way.rules || conditions != way.conditions {
				t.Errorf("%d rules and %d conditions, not %d and %d:", got, conditions, way.rules, way.conditions)
				for _, s := range trace.Steps {
					t.Errorf("  %s: %s, matched: %t", s.Chain, s.Rule.ID, s.Matched)
				}
			}
		})
	}
}

// toProxy makes of a packet one of a connection that the proxy has in mode tproxy, ofProxy one of its answers.
func toProxy(p *intercept.Packet) { p.Transparent, p.ConnMark = true, 1338 }
func ofProxy(p *intercept.Packet) { p.Reply, p.ConnMark = true, 1338 }

// same reports whether two conditions are one. Those with lists cannot be compared.
func same(a, b intercept.Match) bool { return a.String() == b.String() }
