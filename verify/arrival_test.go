package verify

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestJudgeByArrival: where the kernel counts nothing and shows nothing of conntrack, it is where a connection arrives
// that shows what became of it.
func TestJudgeByArrival(t *testing.T) {
	t.Parallel()
	end := netip.MustParseAddrPort
	proxy, group := []Holder{{UID: 1337}}, uint32(5)
	redirected := ruleset.Trace{Rule: "O12", Fate: ruleset.Fate{Action: ruleset.Redirected, Ports: ruleset.Port(15001)}}
	lookup := ruleset.Trace{Rule: "O8.udp", Fate: ruleset.Fate{Action: ruleset.Redirected, Ports: ruleset.Port(15053)}}
	passes := ruleset.Trace{Rule: "O10", Fate: ruleset.Fate{Action: ruleset.Pass}}
	c := intercept.Default()
	c.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	for name, tt := range map[string]struct {
		trace    ruleset.Trace
		protocol ruleset.Protocol
		dst      string
		seen     Seen
		want     Word
		says     string
	}{
		"at the proxy": {redirected, ruleset.TCP, "192.0.2.1:80",
			Seen{Outcome: Accepted, At: end("127.0.0.1:15001"), By: proxy}, OK, "accepted by user 1337"},
		"at somebody else's": {redirected, ruleset.TCP, "192.0.2.1:80",
			Seen{Outcome: Accepted, At: end("127.0.0.1:15001"), By: []Holder{{UID: 5, GID: &group}}}, Failed, "is not the proxy"},
		"nowhere": {redirected, ruleset.TCP, "192.0.2.1:80", Seen{Outcome: Accepted}, Failed, "goes past the proxy"},
		"at another port": {redirected, ruleset.TCP, "192.0.2.1:80",
			Seen{Outcome: Accepted, At: end("127.0.0.1:15006"), By: proxy}, Failed, "goes past the proxy"},
		"a lookup answered": {lookup, ruleset.UDP, "192.0.2.1:53", Seen{Outcome: Answered, By: proxy}, OK, "answered"},
		"a lookup answered, perhaps by its server": {lookup, ruleset.UDP, "10.96.0.10:53", Seen{Outcome: Answered, By: proxy},
			Failed, "goes past the proxy"},
		"left alone, and refused": {passes, ruleset.TCP, "192.0.2.1:80", Seen{Outcome: Refused}, OK, "refused"},
		"left alone, and where it was to go": {passes, ruleset.TCP, "10.244.0.5:80",
			Seen{Outcome: Accepted, At: end("10.244.0.5:80")}, OK, "arrived at 10.244.0.5:80"},
		"not left alone": {passes, ruleset.TCP, "192.0.2.1:80", Seen{Outcome: Accepted, At: end("127.0.0.1:15001")},
			Failed, "sent to 127.0.0.1:15001"},
		"a datagram": {passes, ruleset.UDP, "192.0.2.1:443", Seen{}, NotProven, "neither conntrack nor counters"},
	} {
		p := Probe{Trace: tt.trace, At: netip.MustParseAddr("127.0.0.1"), Lookup: tt.protocol == ruleset.UDP,
			Packet: ruleset.Packet{Hook: ruleset.Output, Protocol: tt.protocol, Src: end("10.244.0.5:61000"), Dst: end(tt.dst),
				Owner: &ruleset.Owner{}}}
		if v := Judge(c, p, tt.seen); v.Verdict != tt.want || !strings.Contains(v.Found, tt.says) {
			t.Errorf("%s: %s, %s", name, v.Verdict, v.Found)
		}
	}
}

// TestWithoutCounters: datagrams that are to be left alone are not tried, and the plan says so.
func TestWithoutCounters(t *testing.T) {
	t.Parallel()
	probe := func(what string, p ruleset.Protocol, a ruleset.Action) Probe {
		return Probe{What: what, Packet: ruleset.Packet{Protocol: p}, Trace: ruleset.Trace{Fate: ruleset.Fate{Action: a}}}
	}
	before := Plan{Probes: []Probe{probe("a", ruleset.TCP, ruleset.Pass), probe("b", ruleset.UDP, ruleset.Pass),
		probe("c", ruleset.UDP, ruleset.Redirected)}}
	after := before.WithoutCounters()
	if len(after.Probes) != 2 || len(after.Notes) != 1 || !strings.HasSuffix(after.Notes[0], ": b") || len(before.Probes) != 3 {
		t.Errorf("%+v", after)
	}
}
