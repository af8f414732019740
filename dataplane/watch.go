package dataplane

import (
	"context"
	"errors"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/watching"
	"github.com/mesh-intercept/intercept/ruleset"
)

// What a watch is asked for, and what it tells: see package watching.
type (
	WatchOptions = watching.Options
	WatchRecord  = watching.Record
	WatchSummary = watching.Summary
	WatchFlow    = watching.Flow
)

// Watch tells who changes rules in the namespace, whether ours are still as their configuration makes them, and what
// becomes of new connections, until ctx ends, which is no error. With [WatchOptions].Repair it applies the configuration
// that is kept beside the rules again when they are no longer so. Where there are no rules of ours at first the error is
// [ruleset.ErrNotIntercepted].
func (s *Session) Watch(ctx context.Context, o WatchOptions) (WatchSummary, error) {
	// What was begun is done to its end, also if ctx ends.
	whole := context.WithoutCancel(ctx)
	backend, origins := s.pod.Backend, map[string]string(nil)
	n := watching.Namespace{
		In: func(f func() error) error { return s.do(whole, f) },
		InForce: func() (*watching.Kept, error) {
			f, err := s.InForce(whole)
			origins = f.Origins
			if errors.Is(err, ErrNotKept) {
				return nil, nil //nolint:nilnil // there are rules, and nothing is kept
			}
			return &watching.Kept{Config: f.Config, At: f.At, By: f.By, Omitted: f.Omitted}, err
		},
		Check: func(c intercept.Config) (diffs []ruleset.Difference, err error) {
			want, err := newPlan(c)
			if err != nil {
				return nil, err
			}
			err = s.do(whole, func() error {
				diffs, err = s.space.check(whole, backend, want)
				return err
			})
			return diffs, err
		},
		Repair: func(c intercept.Config) (string, error) {
			as := s.pod
			as.Backend, as.Origins = backend, origins
			r, err := s.applyAs(ctx, as, c)
			return string(r.Outcome), err
		},
	}
	err := s.do(ctx, func() error {
		holding, err := s.space.holding()
		n.Polls = slices.Contains(holding, BackendIPTablesLegacy)
		if len(holding) > 0 && (backend == "" || backend == BackendAuto) {
			backend = holding[0] // as the rules are, and not as they would be if they were written anew
		}
		return err
	})
	if err != nil {
		return WatchSummary{}, err
	}
	return watching.Watch(ctx, n, o)
}

// Watch is [Session.Watch] in a session of its own.
func (p Pod) Watch(ctx context.Context, o WatchOptions) (WatchSummary, error) {
	return once(ctx, p, func(s *Session) (WatchSummary, error) { return s.Watch(ctx, o) })
}
