package dataplane

import (
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

// rulesFor returns the rules as a backend can have them.
func (p plan) rulesFor(b Backend, how IPTables) ruleset.Ruleset {
	if _, left := fit(p.config, b, how); left != nil {
		return p.with(intercept.BackstopOff)
	}
	return p.rules
}

// warning says what rulesFor leaves out, or nothing.
func (p plan) warning(b Backend, how IPTables) []string {
	_, left := fit(p.config, b, how)
	return left
}

// Fit returns a configuration as the pod's backend can have it, and says what it leaves out: the minimal dialect of
// iptables knows nothing of conntrack, and so has no backstop. [Session.Apply] does the same.
func (p Pod) Fit(c intercept.Config) (intercept.Config, []string) {
	all, err := candidates(p.Backend)
	if err != nil {
		return c, nil // whoever uses the backend says so
	}
	return fit(c, all[0], p.IPTables)
}

func fit(c intercept.Config, b Backend, how IPTables) (intercept.Config, []string) {
	if b == BackendNFT || how.Dialect != iptables.Minimal || c.Backstop == intercept.BackstopOff {
		return c, nil
	}
	c.Backstop, c.Outbound.OtherProtocols = intercept.BackstopOff, intercept.TreatmentPass
	return c, []string{"the minimal dialect of iptables has no backstop: where conntrack is wrong, connections go past the proxy"}
}

// needsOlder reports whether the rules would break a TCP connection that is older than they are, unless they know it.
func (p plan) needsOlder() bool { return p.config.Backstop == intercept.BackstopOn }
