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

// rulesFor returns the rules as a backend can have them: the minimal dialect of iptables knows nothing of conntrack, and
// so has no backstop.
func (p plan) rulesFor(b Backend, how IPTables) ruleset.Ruleset {
	if b != BackendNFT && how.Dialect == iptables.Minimal && p.config.Backstop != intercept.BackstopOff {
		return p.with(intercept.BackstopOff)
	}
	return p.rules
}

// warning says what rulesFor leaves out, or nothing.
func (p plan) warning(b Backend, how IPTables) []string {
	if b != BackendNFT && how.Dialect == iptables.Minimal && p.config.Backstop != intercept.BackstopOff {
		return []string{"the minimal dialect of iptables has no backstop: what conntrack is wrong about goes past the proxy"}
	}
	return nil
}

// needsOlder reports whether the rules would break a TCP connection that is older than they are, unless they know it.
func (p plan) needsOlder() bool { return p.config.Backstop == intercept.BackstopOn }
