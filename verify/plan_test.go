package verify

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

var podAddrs = []netip.Addr{gen.PodIPv4, gen.PodIPv6}

// aPod is a pod with a default route of each of the families.
func aPod(families ...ruleset.Family) Pod {
	eth0 := Interface{Name: "eth0"}
	for _, a := range podAddrs {
		if slices.Contains(families, ruleset.FamilyOf(a)) {
			eth0.Addrs = append(eth0.Addrs, a)
		}
	}
	pod := Pod{Interfaces: []Interface{{Name: "lo"}, eth0}, AnyOwner: true,
		Outside: Way{Interface: "mesh0", Pair: "mesh0", Clients: []netip.Addr{
			netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:ff00::7")}}}
	pod.Route = func(to netip.Addr) (Route, error) {
		if pod.own(to) {
			return Route{Interface: ruleset.Loopback, Src: to}, nil
		}
		for _, a := range eth0.Addrs {
			if ruleset.FamilyOf(a) == ruleset.FamilyOf(to) {
				return Route{Interface: "eth0", Src: a}, nil
			}
		}
		return Route{}, errors.New("no route")
	}
	return pod
}

func planOf(t *testing.T, c intercept.Config, pod Pod) (Plan, ruleset.Ruleset) {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return MakePlan(c, rs, pod, SourcePorts.Last-5), rs
}

// TestPlanCoversEveryRule: of random configurations each rule that decides is met by a probe, or listed with a reason,
// and what probes say of themselves is what the rules say.
func TestPlanCoversEveryRule(t *testing.T) {
	families := [][]ruleset.Family{{ruleset.IPv4, ruleset.IPv6}, {ruleset.IPv4}, {ruleset.IPv6}, {}}
	tried := 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 2))
		c := gen.Config(r)
		pod := aPod(families[seed%4]...)
		pod.AnyOwner = seed%5 != 0
		if seed%7 == 0 {
			pod.NoOutside = errors.New("no privilege")
		}
		plan, rs := planOf(t, c, pod)
		met := map[ruleset.RuleID]bool{}
		for _, p := range plan.Probes {
			trace, err := rs.Trace(p.Packet)
			if err != nil || trace.Rule != p.Trace.Rule || trace.Fate != p.Trace.Fate {
				t.Errorf("seed %d: %+v is planned, and %+v, %v by the rules", seed, p, trace, err)
			}
			for _, s := range trace.Steps {
				met[s.Rule.ID] = met[s.Rule.ID] || s.Matched
			}
			checkProbe(t, pod, p)
		}
		tried += plan.Coverage.Tried
		checkCoverage(t, plan, rs, met)
		for _, v := range plan.Verdicts {
			if v.Verdict == OK || v.What == "" || v.Found == "" || v.Remedy == "" {
				t.Errorf("seed %d: %+v", seed, v)
			}
		}
		if len(plan.Probes)+len(plan.Verdicts)+len(plan.Notes) == 0 {
			t.Errorf("seed %d: nothing is tried, and nothing is said", seed)
		}
		if t.Failed() {
			t.Fatalf("seed %d: %+v", seed, c)
		}
	}
	if tried < 400 {
		t.Errorf("only %d rules are tried", tried)
	}
}

// checkProbe: it can be sent, from a port of ours, and disturbs nobody outside.
func checkProbe(t *testing.T, pod Pod, p Probe) {
	t.Helper()
	k := p.Packet
	switch {
	case !(ruleset.Ports{SourcePorts}).Contains(k.Src.Port()):
		t.Errorf("%+v is not from a port of ours", p)
	case p.Hops != 1:
		t.Errorf("%+v begins with %d hops", p, p.Hops)
	case k.Dst.Port() == 0 || !k.Dst.Addr().IsValid() || !k.Src.Addr().IsValid():
		t.Errorf("%+v cannot be sent", p)
	case k.Hook == ruleset.Output && k.Mark == 0 && !pod.AnyOwner && *k.Owner != pod.Self:
		t.Errorf("%+v is sent by somebody that this process cannot be", p)
	case p.Outside() && (pod.NoOutside != nil || pod.own(k.Src.Addr())):
		t.Errorf("%+v cannot come from outside", p)
	}
}

func checkCoverage(t *testing.T, plan Plan, rs ruleset.Ruleset, met map[ruleset.RuleID]bool) {
	t.Helper()
	c := plan.Coverage
	if c.Rules != len(universe(rs)) || c.Tried+len(c.NotTried) != c.Rules {
		t.Errorf("%s, and %d not tried, of %d", c, len(c.NotTried), len(universe(rs)))
	}
	for _, r := range universe(rs) {
		i := slices.IndexFunc(c.NotTried, func(n NotTried) bool { return n.Rule == r.ID })
		switch {
		case i < 0 && !met[r.ID]:
			t.Errorf("%s is not met, and not listed", r.ID)
		case i >= 0 && met[r.ID]:
			t.Errorf("%s is met, and listed: %s", r.ID, c.NotTried[i].Because)
		case i >= 0 && (c.NotTried[i].Because == "" || c.NotTried[i].Reason == ""):
			t.Errorf("%s is listed without a reason", r.ID)
		}
	}
}

// TestPlanOfDefaults: what has to be proven of the default configuration is tried, whoever is there.
func TestPlanOfDefaults(t *testing.T) {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	plan, _ := planOf(t, c, aPod(ruleset.IPv4, ruleset.IPv6))
	var got []string
	for _, p := range plan.Probes {
		got = append(got, p.What)
	}
	for _, f := range []string{", IPv4", ", IPv6"} {
		for _, want := range []string{"an app's connection", "the proxy, by its user", "the proxy, by its group",
			"an app's lookup over UDP", "an app's lookup over TCP", "the proxy, by its user, a lookup over UDP",
			"the proxy, by its group, a lookup over TCP", "a client's connection", "the tunnel port",
			"an excluded port, inbound", "an app's call to loopback"} {
			if !slices.Contains(got, want+f) {
				t.Errorf("%s%s is not tried: %q", want, f, got)
			}
		}
	}
	if len(plan.Verdicts)+len(plan.Notes) != 0 {
		t.Errorf("%+v %q", plan.Verdicts, plan.Notes)
	}
}

// TestLoopbackIsNamed: probes that take lo say what is wrong with it, and what is not tried of what arrives is not said to
// be of what the pod sends.
func TestLoopbackIsNamed(t *testing.T) {
	for want, lo := range map[string]Interface{
		"":              {Name: "lo", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}},
		"lo is down":    {Name: "lo", Down: true},
		"lo has no ::1": {Name: "lo", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
	} {
		pod := aPod(ruleset.IPv6)
		pod.Interfaces[0] = lo
		plan, _ := planOf(t, intercept.Default(), pod)
		for _, p := range plan.Probes {
			takes := !p.Outside() && (p.Packet.Interface == "lo" || p.Trace.Fate.Action == ruleset.Redirected)
			if p.Loopback != want && takes || !takes && p.Loopback != "" {
				t.Errorf("%s: %q, want %q", p.What, p.Loopback, want)
			}
			v := Judge(intercept.Default(), p, Seen{Err: errors.New("no way"), Tracked: true})
			if said := strings.Contains(v.Found, "; "+want); v.Verdict == Failed && takes && want != "" && !said {
				t.Errorf("%+v does not say %q", v, want)
			}
		}
		for _, n := range plan.Coverage.NotTried {
			if strings.HasPrefix(string(n.Rule), "I") && strings.Contains(n.Because, "can send here") {
				t.Errorf("%s arrives, and is not tried %s", n.Rule, n.Because)
			}
		}
	}
}

// TestPlanSaysWhatIsMissing: what cannot be tried is not proven, or there is nothing to prove.
func TestPlanSaysWhatIsMissing(t *testing.T) {
	both := []ruleset.Family{ruleset.IPv4, ruleset.IPv6}
	for name, test := range map[string]struct {
		change func(*Pod)
		config func(*intercept.Config)
		// verdicts and notes are how many there have to be.
		verdicts, notes int
	}{
		"nothing reachable": {change: func(p *Pod) { p.Interfaces = nil }, notes: 2},
		"IPv4 alone":        {change: func(p *Pod) { *p = aPod(ruleset.IPv4) }, notes: 1},
		"no default route": {change: func(p *Pod) {
			route := p.Route
			p.Networks = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:244::/64")}
			p.Route = func(to netip.Addr) (Route, error) {
				if slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(to) }) || to.IsLoopback() {
					return route(to)
				}
				return Route{}, errors.New("no route")
			}
		}, notes: 2},
		"no client outside": {change: func(p *Pod) { p.NoOutside = errors.New("no privilege") }, verdicts: 2},
		// By its user and by its group, of each family.
		"nobody else": {change: func(p *Pod) { p.AnyOwner, p.Self = false, ruleset.Owner{UID: 1000, GID: 1000} },
			verdicts: 4},
		// Then an app is missing, and what the group shows.
		"the proxy itself": {change: func(p *Pod) { p.AnyOwner, p.Self = false, ruleset.Owner{UID: 1337, GID: 1337} },
			verdicts: 2},
		"nothing reachable of what is included": {config: func(c *intercept.Config) {
			c.Outbound.IncludeCIDRs = intercept.CIDRs{netip.MustParsePrefix("10.244.0.5/32")}
		}, verdicts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			pod, c := aPod(both...), intercept.Default()
			if test.change != nil {
				test.change(&pod)
			}
			if test.config != nil {
				test.config(&c)
			}
			plan, _ := planOf(t, c, pod)
			if len(plan.Verdicts) < test.verdicts || test.verdicts == 0 && len(plan.Verdicts) > 0 ||
				len(plan.Notes) != test.notes {
				t.Errorf("%+v %q", plan.Verdicts, plan.Notes)
			}
			for _, v := range plan.Verdicts {
				if v.Verdict != NotProven {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}
