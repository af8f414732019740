package verify

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestJudge: what was seen of a connection, and what that shows.
func TestJudge(t *testing.T) {
	var (
		group     = uint32(1337)
		proxy     = []Holder{{UID: 1337, GID: &group, Process: "envoy", PID: 7}}
		someGroup = uint32(1000)
		app       = []Holder{{UID: 1000, GID: &someGroup, Process: "app", PID: 8}}
		unknown   = []Holder{{UID: 1000}}
		there     = netip.MustParseAddrPort("127.0.0.1:15001")
		back      = netip.MustParseAddrPort("127.0.0.1:9999")
		other     = netip.MustParseAddrPort("10.244.0.1:8080")
		original  = netip.MustParseAddrPort("192.0.2.1:80")
		target    = netip.MustParseAddrPort("10.99.0.9:16000")
		entry     = func(to netip.AddrPort) *Entry { return &Entry{To: to} }
	)
	packet := ruleset.Packet{Hook: ruleset.Output, Protocol: ruleset.TCP, Dst: original,
		Src: netip.MustParseAddrPort("10.244.0.5:61000"), Owner: &ruleset.Owner{UID: 65533, GID: 65533}}
	probe := func(a ruleset.Action) Probe {
		p := Probe{What: "it", Packet: packet, At: there.Addr(), Waits: true, Hops: 1}
		p.Trace.Rule, p.Trace.Reason = "O12", "every destination is included"
		p.Trace.Fate = ruleset.Fate{Action: a, Ports: ruleset.Port(15001), To: target}
		return p
	}
	captured, passed, rejected := probe(ruleset.Redirected), probe(ruleset.Pass), probe(ruleset.Rejected)
	far, lookup, lenient, several := probe(ruleset.Translated), captured, captured, captured
	inside := passed
	inside.Packet.Interface = ruleset.Loopback
	datagram := passed
	datagram.Packet.Protocol, datagram.Waits = ruleset.UDP, false
	down := inside
	down.Loopback = "lo is down"
	lookup.Lookup, lenient.Lenient = true, true
	several.Trace.Fate.Ports = ruleset.PortRange{First: 15001, Last: 15002}
	for _, test := range []struct {
		name  string
		probe Probe
		seen  Seen
		want  Word
		says  string
	}{
		{"accepted by the proxy", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), Counts: true,
			Counted: 1, By: proxy}, OK, "accepted by user 1337, group 1337 (envoy, process 7)"},
		{"by the counter alone", captured, Seen{Outcome: Accepted, Counts: true, Counted: 1, By: proxy}, OK, "redirect"},
		{"by conntrack alone", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: proxy}, OK, ""},
		{"by conntrack, and not by our rule", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there),
			Counts: true, By: proxy}, OK, "another's does the same before"},
		{"nothing is known", captured, Seen{Outcome: Accepted, By: proxy}, Failed, "goes past the proxy"},
		{"accepted by the original destination", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(original),
			Counts: true}, Failed, "goes past the proxy"},
		{"counted, and then sent to its destination", captured, Seen{Outcome: Accepted, Tracked: true,
			Entry: entry(original), Counts: true, Counted: 1}, Failed, "goes past the proxy"},
		{"sent elsewhere", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(other)}, Failed,
			"another's rule sends it to 10.244.0.1:8080"},
		{"discarded", captured, Seen{Outcome: TimedOut, Tracked: true, Counts: true}, Failed, "no conntrack has seen it"},
		{"stopped by the backstop", captured, Seen{Outcome: Refused, Tracked: true, Counts: true, RefusedBy: "B4.O12"},
			Failed, "refused by B4.O12"},
		{"refused by another", captured, Seen{Outcome: Refused, Tracked: true, Counts: true}, Failed, "no rule of ours"},
		{"could not be opened", captured, Seen{Err: errors.New("no route"), Tracked: true}, Failed, "no route"},
		{"nobody listens", captured, Seen{Outcome: Refused, Tracked: true, Counts: true, Counted: 1,
			Nearby: []Socket{{Local: netip.MustParseAddrPort("10.244.0.5:15001"), Holder: proxy[0]}}}, Failed,
			"nobody listens at 127.0.0.1:15001; there is user 1337, group 1337 (envoy, process 7) at 10.244.0.5:15001"},
		{"rejected on its way to the listener", captured, Seen{Outcome: Refused, Tracked: true, Entry: entry(there), Counted: 1,
			By: proxy}, Failed, "refused, though user 1337, group 1337 (envoy, process 7) listens at 127.0.0.1:15001"},
		{"reset", captured, Seen{Outcome: Reset, Tracked: true, Entry: entry(there), Counted: 1, By: proxy}, Failed,
			"closed at once by user 1337, group 1337 (envoy, process 7), who listens at 127.0.0.1:15001"},
		{"reset by nobody knows whom", captured, Seen{Outcome: Reset, Tracked: true, Entry: entry(there)}, Failed,
			"closed at once by whoever listens at 127.0.0.1:15001"},
		{"reset by the app", captured, Seen{Outcome: Reset, Tracked: true, Entry: entry(there), By: app}, Failed,
			"user 1000, group 1000 (app, process 8) is not the proxy"},
		{"the proxy connects to itself", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: proxy,
			Looped: 4}, Failed, "4 more connections to 127.0.0.1:15001"},
		{"others try the listener", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: proxy,
			Looped: 3}, OK, ""},
		{"not accepted", captured, Seen{Outcome: TimedOut, Tracked: true, Entry: entry(there), Counted: 1}, Failed,
			"not accepted in time"},
		{"accepted by the kernel", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), Counted: 1,
			Pending: true}, Failed, "no process has accepted it"},
		{"accepted by the app", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: app}, Failed,
			"user 1000, group 1000 (app, process 8) is not the proxy (user 1337 or group 1337)"},
		{"accepted by the proxy and the app", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there),
			By: append(proxy, app...)}, Failed, "user 1000"},
		{"accepted by nobody knows whom", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there)}, NotProven,
			"could not be found out"},
		{"accepted by an unknown group", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: unknown},
			NotProven, "could not be found out"},
		{"it comes back", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: proxy, Returned: 3},
			Failed, "3 more connections"},
		{"one of several ports", several, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there), By: proxy,
			Unserved: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15002")}}, Failed, "127.0.0.1:15002"},
		{"captured, which is enough", lenient, Seen{Outcome: Refused, Tracked: true, Counted: 1}, OK, ""},
		{"answered", lookup, Seen{Outcome: Answered, Tracked: true, Entry: entry(there), By: proxy}, OK, "answered"},
		{"not answered", lookup, Seen{Outcome: TimedOut, Tracked: true, Entry: entry(there), By: proxy}, Failed,
			"not answered in time; it is heard by user 1337"},
		{"heard by two", lookup, Seen{Outcome: TimedOut, Tracked: true, Entry: entry(there), By: append(proxy, proxy...)},
			Failed, "these share the port"},
		{"heard by the app", lookup, Seen{Outcome: TimedOut, Tracked: true, Entry: entry(there), By: app}, Failed,
			"is not the proxy"},

		{"accepted by the target", far, Seen{Outcome: Accepted, Tracked: true, Entry: entry(target), Counted: 1}, OK,
			"dnat(10.99.0.9:16000)"},
		{"refused by the target", far, Seen{Outcome: Refused, Tracked: true, Counted: 1}, Failed,
			"nobody listens at 10.99.0.9:16000"},
		{"the target is out of reach", far, Seen{Outcome: Unreachable, Tracked: true, Entry: entry(target), Counted: 1},
			Failed, "a router says"},
		{"another target", far, Seen{Outcome: Accepted, Tracked: true, Entry: entry(other), Counted: 1}, Failed,
			"another's rule sends it"},

		{"left alone", passed, Seen{Tracked: true, Entry: entry(original), Counts: true, Counted: 1}, OK, "left alone"},
		{"left alone, and refused", passed, Seen{Tracked: true, Counts: true, Counted: 1, Replied: true}, OK, "left alone"},
		{"left alone, and refused at once", passed, Seen{Outcome: Refused, Tracked: true, Counts: true, Counted: 1}, OK, ""},
		{"left alone, and discarded", passed, Seen{Tracked: true, Counts: true, Counted: 1}, Failed, "discarded in the pod"},
		{"a datagram that is left alone", datagram, Seen{Tracked: true, Entry: entry(original), Counts: true, Counted: 1}, OK,
			"left alone"},
		{"a datagram that another discards where it is sent", datagram, Seen{Outcome: Refused, Tracked: true, Counts: true,
			Counted: 1}, Failed, "discarded in the pod"},
		{"a call inside the pod", inside, Seen{Outcome: Refused, Tracked: true, Counts: true, Counted: 1}, OK, ""},
		{"a call inside the pod, and accepted", inside, Seen{Replied: true, Tracked: true, Entry: entry(original),
			Counts: true, Counted: 1}, OK, ""},
		{"a call inside the pod, without an answer", inside, Seen{Tracked: true, Entry: entry(original), Counts: true,
			Counted: 1}, Failed, "does not answer itself"},
		{"left alone, and translated by another", passed, Seen{Tracked: true, Entry: entry(other), Counts: true, Counted: 1},
			OK, "another's rule sends it to 10.244.0.1:8080"},
		{"left alone, and sent back to the pod by another", passed, Seen{Tracked: true, Entry: entry(back), Counts: true,
			Counted: 1, Translators: []Translator{{Name: "chain x", Ports: []uint16{9999}}, {Name: "chain y", Ports: []uint16{1}}}},
			Failed, "our rule O12 has let it go, and another's rule sends it to 127.0.0.1:9999 (in chain x); by O12"},
		{"the same, of what is refused at once, which conntrack forgets", passed, Seen{Outcome: Refused, Tracked: true,
			Counts: true, Counted: 1, Sent: []netip.AddrPort{back}, Translators: []Translator{{Name: "x"}, {Name: "y"}}},
			Failed, "another's rule sends it to 127.0.0.1:9999 (in x, or in y)"},
		{"lo is down", down, Seen{Tracked: true, Entry: entry(original), Counts: true, Counted: 1}, Failed, "; lo is down"},
		{"refused where it was to go", passed, Seen{Outcome: Refused, Tracked: true, Counts: true, Counted: 1,
			Sent: []netip.AddrPort{original}}, OK, "left alone"},
		{"inside the pod, by a rule for it", inside, Seen{Tracked: true, Entry: entry(back), Counts: true, Counted: 1,
			Translators: []Translator{{Name: "x"}}}, OK, "another's rule sends it to 127.0.0.1:9999 (in x)"},
		{"inside the pod, by a rule for all", inside, Seen{Tracked: true, Entry: entry(back), Counts: true, Counted: 1,
			Translators: []Translator{{Name: "x", Rest: true}}}, Failed, "another's rule sends it to 127.0.0.1:9999 (in x)"},
		{"captured elsewhere, and refused there", captured, Seen{Outcome: Refused, Tracked: true, Counts: true,
			Sent: []netip.AddrPort{back}, Translators: []Translator{{Name: "x"}}}, Failed,
			"not captured: another's rule sends it to 127.0.0.1:9999 (in x)"},
		{"discarded before ours", passed, Seen{Tracked: true, Counts: true, Before: []string{"chain z"}}, Failed,
			"it has not come to our rules: another's rule (in chain z) discards it before, or queues it"},
		{"captured by nobody, since it is discarded before", captured, Seen{Outcome: TimedOut, Tracked: true, Counts: true,
			Before: []string{"chain z"}}, Failed, "not captured: it has not come to our rules: another's rule (in chain z)"},
		{"kept from conntrack, and refused", captured, Seen{Outcome: Refused, RefusedBy: "B2", Tracked: true, Counts: true,
			Untrackers: []string{"chain z"}}, Failed,
			"not captured: another's rule (in chain z) keeps it from conntrack, and it is refused by B2"},
		{"kept from conntrack, without a backstop", captured, Seen{Outcome: TimedOut, Tracked: true, Counts: true,
			Untrackers: []string{"chain z"}}, Failed, "keeps it from conntrack, and it goes past the proxy"},
		{"left alone, since it is kept from conntrack", passed, Seen{Outcome: TimedOut, Tracked: true, Counts: true,
			Untrackers: []string{"chain z"}}, NotProven, "another's rule (in chain z) keeps it from conntrack"},
		{"captured past what keeps others from conntrack", captured, Seen{Outcome: Accepted, Tracked: true, Entry: entry(there),
			Counts: true, Counted: 1, By: proxy, Untrackers: []string{"chain z"}}, OK, "accepted"},
		{"past what could discard it", passed, Seen{Tracked: true, Counts: true, Entry: entry(original),
			Before: []string{"chain z"}}, Failed, "has not counted it"},
		{"discarded after ours", passed, Seen{Tracked: true, Counts: true, Counted: 1, After: []string{"chain z"}}, Failed,
			"perhaps another's rule (in chain z) discards it"},
		{"captured in vain", passed, Seen{Tracked: true, Entry: entry(there), Counts: true}, Failed,
			"it is sent to 127.0.0.1:15001"},
		{"refused by a rule of ours", passed, Seen{Outcome: Refused, RefusedBy: "B4.O12", Tracked: true}, Failed,
			"refused by B4.O12"},
		{"by no rule of ours", passed, Seen{Tracked: true, Entry: entry(original), Counts: true}, Failed,
			"has not counted it"},
		{"nothing can be read", passed, Seen{}, NotProven, "neither conntrack nor counters"},
		{"it cannot be sent", passed, Seen{Err: errors.New("no route")}, NotProven, "no route"},

		{"rejected", rejected, Seen{Outcome: Refused, Counts: true, Counted: 1}, OK, "rejected by O12"},
		{"rejected by another", rejected, Seen{Outcome: Refused, Counts: true}, Failed, "has not counted it"},
		{"not rejected", rejected, Seen{Outcome: Accepted}, Failed, "not rejected"},
		{"to be rejected, and not sent", rejected, Seen{Err: errors.New("no route")}, Failed, "no route"},
	} {
		v := Judge(intercept.Default(), test.probe, test.seen)
		if v.Verdict != test.want || !strings.Contains(v.Found, test.says) {
			t.Errorf("%s: %s: %s, want %s: %q", test.name, v.Verdict, v, test.want, test.says)
		}
		if lo := "set lo up, with its addresses 127.0.0.1 and ::1, and run verify again"; (v.Remedy == lo) != (test.probe.Loopback != "") {
			t.Errorf("%s: %q", test.name, v.Remedy)
		}
		if v.Rule != "O12" || v.Tried == "" || v.What != "it" || (v.Remedy == "") != (v.Verdict == OK) {
			t.Errorf("%s: not all is said: %+v", test.name, v)
		}
	}
}

// TestConclude: the worst word is the report's, and nothing proven is not proven.
func TestConclude(t *testing.T) {
	for _, test := range []struct {
		words []Word
		want  Word
	}{
		{nil, NotProven}, {[]Word{OK}, OK}, {[]Word{OK, NotProven}, NotProven}, {[]Word{NotProven}, NotProven},
		{[]Word{OK, Failed, NotProven}, Failed}, {[]Word{NotProven, Failed}, Failed},
	} {
		var all []Verdict
		for _, w := range test.words {
			all = append(all, Verdict{Verdict: w})
		}
		if r := Conclude(all, Coverage{}, nil); r.Verdict != test.want || r.Notes == nil || r.Coverage.NotTried == nil {
			t.Errorf("%q: %+v", test.words, r)
		}
	}
}
