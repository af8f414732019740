package dataplane

import (
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// plan is what a configuration comes to on this kernel.
type plan struct {
	config intercept.Config
	rules  ruleset.Ruleset
	routes []ruleset.MarkRoute
	bound  []ruleset.Family // those in which sockets bound to an interface need routes to loopback
}

// newPlan compiles a configuration.
func newPlan(c intercept.Config) (plan, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return plan{}, err
	}
	rs = forKernel(rs, c.Families, hasIPv6())
	p := plan{config: c, routes: rs.Routes}
	rs.Routes = nil
	if rs.SendsToLoopback() {
		p.bound = rs.Families
	}
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
	rs.Routes, rs.Families = nil, p.rules.Families
	return rs
}

// lenient returns the rules with a backstop that lets go what conntrack has seen open without a translation, and the
// connections that are known to be older than the rules.
func (p plan) lenient(older []ruleset.Tuple) ruleset.Ruleset {
	rs := p.rules
	rs.Older = older
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
		rs = withoutConntrack(rs)
	}
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

// withoutConntrack leaves out what takes more of conntrack and of routing than gVisor has: the zones of name lookups,
// and I9 for other addresses than loopback.
func withoutConntrack(rs ruleset.Ruleset) ruleset.Ruleset {
	var chains []ruleset.Chain
	for _, c := range rs.Chains {
		if slices.Contains([]string{intercept.ChainRawOutput, intercept.ChainRawPrerouting, intercept.ChainRawVirtual}, c.Name) {
			continue
		}
		c.Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r ruleset.Rule) bool { return r.ID == "I9" })
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
	conntrack bool // so are the zones of name lookups, and I9 for other addresses than loopback
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
		without = append(without, "no conntrack zones: a lookup that the resolver sends from a port with which an app has just "+
			"asked the same server comes back to the resolver, which asks again")
	}
	if c.Inbound.Mode == intercept.InboundRedirect {
		without = append(without, "no match of the pod's own addresses: what a neighbour sends here for another address is "+
			"captured, too")
	}
	if len(without) == 0 {
		return nil
	}
	return []string{"gVisor has " + strings.Join(without, "; ")}
}

// needsOlder reports whether the rules would break a TCP connection that is older than they are, unless they know it.
func (p plan) needsOlder() bool { return p.config.Backstop == intercept.BackstopOn }
