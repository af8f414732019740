package dataplane

import (
	"context"

	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

type runner struct{ b *iptables.Backend }

func (r runner) Apply(_ context.Context, rs ruleset.Ruleset) (ruleset.Outcome, error) {
	return r.b.Apply(rs)
}
func (r runner) Check(_ context.Context, rs ruleset.Ruleset) ([]ruleset.Difference, error) {
	return r.b.Check(rs)
}
func (r runner) Remove(context.Context) (bool, error) { return r.b.Remove() }
func (r runner) Counters(context.Context, *ruleset.Ruleset) ([]ruleset.Counter, error) {
	return r.b.Counters()
}
