package dataplane

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// plan is what a configuration comes to on this kernel.
type plan struct {
	config intercept.Config
	rules  ruleset.Ruleset
	routes markroute.Want
	note   func() (string, error) // to keep beside the rules
}

// newPlan compiles a configuration.
func newPlan(c intercept.Config) (plan, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return plan{}, err
	}
	rs = forKernel(rs, c.Families, hasIPv6())
	p := plan{config: c, routes: markroute.WantOf(rs)}
	rs.Routes = nil
	p.rules = rs
	return p, nil
}

// with returns the rules of the configuration with another backstop.
func (p plan) with(b intercept.Backstop) ruleset.Ruleset {
	c := p.config
	c.Backstop, c.Outbound.OtherProtocols = b, intercept.TreatmentPass
	rs, err := intercept.Compile(c)
	if err != nil {
		return p.rules // no configuration is valid with a backstop alone
	}
	rs.Routes, rs.Families, rs.Note = nil, p.rules.Families, p.note
	return rs
}

// lenient returns the rules with a backstop that lets go what conntrack has seen open without a translation, and the
// connections that are known to be older than the rules.
func (p plan) lenient(older []ruleset.Tuple) ruleset.Ruleset {
	rs := p.rules
	rs.Older, rs.Note = older, p.note
	rs.Chains = slices.Clone(rs.Chains)
	for i, c := range rs.Chains {
		if c.Name == intercept.ChainBackstopStream {
			rs.Chains[i].Rules = slices.Concat([]ruleset.Rule{{ID: "B3.open", Reason: "open while rules are replaced",
				Match: []ruleset.Match{ruleset.CTEstablished}, Target: ruleset.Return{}}}, c.Rules)
		}
	}
	return rs
}

// rulesFor returns the rules as a backend can have them here.
func (s *space) rulesFor(p plan, b Backend) ruleset.Ruleset {
	_, left := s.fit(p.config, b)
	rs := p.rules
	if left.backstop {
		rs = p.with(intercept.BackstopOff)
	}
	if left.conntrack {
		own, err := links.List()
		rs = withoutConntrack(rs, own, err == nil)
	}
	rs.Note = p.note
	return rs
}

// warning says what rulesFor leaves out, or nothing.
func (s *space) warning(p plan, b Backend) []string {
	_, left := s.fit(p.config, b)
	return left.say(p.config)
}

func (s *space) fit(c intercept.Config, b Backend) (intercept.Config, lacking) {
	variant := backendOf(b).variant
	if variant == "" {
		return c, lacking{}
	}
	return fit(c, s.dialect(variant), s.gvisor)
}

// withoutConntrack leaves out what takes more of conntrack than gVisor has, the zones of name lookups, and has I9 ask
// for the addresses that the interfaces have now: gVisor cannot ask for those that are the pod's. It gives them to a
// sandbox when that starts. Where they are not known, I9 is about loopback alone.
func withoutConntrack(rs ruleset.Ruleset, interfaces []links.Link, known bool) ruleset.Ruleset {
	own := ruleset.CIDRs{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("fe80::/10")}
	for _, l := range interfaces {
		for _, a := range l.Addrs {
			own = append(own, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	zones := []string{intercept.ChainRawOutput, intercept.ChainRawPrerouting, intercept.ChainRawVirtual}
	var chains []ruleset.Chain
	for _, c := range rs.Chains {
		if slices.Contains(zones, c.Name) {
			continue
		}
		var rules []ruleset.Rule
		for _, r := range c.Rules {
			at := slices.Index(r.Match, ruleset.Match(ruleset.Not{Match: ruleset.ToLocal{}}))
			if at >= 0 {
				r.Match = slices.Clone(r.Match)
				r.Match[at] = ruleset.Not{Match: ruleset.Dst(own)}
			}
			if at < 0 || known {
				rules = append(rules, r)
			}
		}
		c.Rules = rules
		chains = append(chains, c)
	}
	rs.Chains = chains
	return rs
}

// Fit returns a configuration as the pod's backend can have it, and says what it leaves out: the minimal dialect of
// iptables knows nothing of conntrack, and so has no backstop. [Session.Apply] does the same.
func (p Pod) Fit(c intercept.Config) (intercept.Config, []string) {
	all, err := candidates(p.Backend)
	if err != nil {
		return c, nil // whoever uses the backend says so
	}
	if all[0] == BackendNFT {
		return c, nil
	}
	c, left := fit(c, p.IPTables.Dialect, false)
	return c, left.say(c)
}

// lacking is what a backend cannot have.
type lacking struct {
	backstop  bool // it is left out
	conntrack bool // so are the zones of name lookups, and I9 asks for the addresses of now
}

func fit(c intercept.Config, d iptables.Dialect, inGVisor bool) (intercept.Config, lacking) {
	left := lacking{backstop: d == iptables.Minimal && c.Backstop != intercept.BackstopOff}
	left.conntrack = d == iptables.Minimal && inGVisor
	if left.backstop {
		c.Backstop, c.Outbound.OtherProtocols = intercept.BackstopOff, intercept.TreatmentPass
	}
	return c, left
}

// say says it in one line, or not at all.
func (l lacking) say(c intercept.Config) []string {
	const backstop = "no backstop: where conntrack is wrong, connections go past the proxy"
	if !l.conntrack {
		if l.backstop {
			return []string{"the minimal dialect of iptables has " + backstop}
		}
		return nil
	}
	var without []string
	if l.backstop {
		without = append(without, backstop)
	}
	if c.DNS.Mode != intercept.DNSOff {
		without = append(without, "no conntrack zones: a lookup that the resolver sends from a port with which an app has "+
			"just asked the same server comes back to the resolver, which asks again")
	}
	if c.Inbound.Mode == intercept.InboundRedirect {
		without = append(without, "no match of the pod's own addresses: the rules have those of now, so apply again after "+
			"another is added")
	}
	if len(without) == 0 {
		return nil
	}
	return []string{"gVisor has " + strings.Join(without, "; ")}
}

// needsOlder reports whether the rules would break a TCP connection that is older than they are, unless they know it.
func (p plan) needsOlder() bool { return p.config.Backstop == intercept.BackstopOn }
