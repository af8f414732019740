package dataplane

import (
	"context"
	"errors"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Others are other people's rules in the built-in chains of iptables where rules of ours stand, or would. nf_tables
// does not know those of iptables-legacy, and packets meet both.
type Others struct {
	Rules []iptables.OtherRule `json:"rules"`
	// Error says why not all could be listed.
	Error string `json:"error,omitempty"`
}

// others lists them with the programs of iptables that are here, if there are tables of iptables.
func (s *space) others(ctx context.Context) (Others, error) {
	all := Others{Rules: []iptables.OtherRule{}}
	var errs []error
	for _, b := range backends() {
		if b.variant == "" {
			continue
		}
		r, err := s.iptables(b.variant)
		if err != nil {
			continue // nobody here can list them
		}
		rules, err := r.Others(ctx)
		all.Rules = append(all.Rules, rules...)
		if !errors.Is(err, ruleset.ErrUnsupported) { // else there are none
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		all.Error = strict.InLine(err)
	}
	return all, ctx.Err()
}

// programs asks those of a variant of iptables that are here, and returns what they say. What they do not say stays
// unknown.
func (s *space) programs(ctx context.Context, v iptables.Variant) func() []iptables.Program {
	if v == "" {
		return func() []iptables.Program { return nil }
	}
	r, err := s.iptables(v)
	if err != nil {
		return func() []iptables.Program { return nil }
	}
	said := make(chan []iptables.Program, 1)
	go func() { // in whatever namespace: they only tell their versions
		programs, _ := r.Programs(ctx)
		said <- programs
	}()
	return func() []iptables.Program { return <-said }
}
