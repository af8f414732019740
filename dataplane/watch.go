package dataplane

import (
	"context"
	"errors"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/watching"
	"github.com/mesh-intercept/intercept/nft"
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
func (s *Session) Watch(ctx context.Context, o WatchOptions) (summary WatchSummary, err error) {
	// What was begun is done to its end, also if ctx ends.
	whole := context.WithoutCancel(ctx)
	as := s.pod // with the backend of the rules, and not as they would be if they were written anew
	n := watching.Namespace{
		In: func(f func() error) error { return s.do(whole, f) },
		InForce: func() (*watching.Kept, error) {
			f, err := s.InForce(whole)
			if errors.Is(err, ErrNotKept) {
				return nil, nil //nolint:nilnil // there are rules, and nothing is kept
			}
			if err != nil {
				return nil, err
			}
			as = f.On(s.pod)
			as.Origins = f.Origins
			return &watching.Kept{Config: f.Config, At: f.At, By: f.By, Omitted: f.Omitted,
				Polls: f.Backend == BackendIPTablesLegacy}, nil
		},
		Check: func(c intercept.Config) (diffs []ruleset.Difference, err error) {
			want, err := newPlan(c)
			if err != nil {
				return nil, err
			}
			err = s.do(whole, func() error {
				s.space.how = as.IPTables
				diffs, err = s.space.check(whole, as.Backend, want)
				return err
			})
			return diffs, err
		},
		Repair: func(c intercept.Config) (string, error) {
			r, err := s.applyAs(ctx, as, c)
			return string(r.Outcome), err
		},
	}
	var tracking *nft.Tracking
	err = s.do(ctx, func() error {
		holding, err := s.space.holding()
		n.Polls = slices.Contains(holding, BackendIPTablesLegacy)
		if err != nil || len(holding) == 0 {
			return err // of these, watching says that there are none
		}
		as = InForce{Backend: holding[0]}.On(s.pod)
		if s.space.gvisor {
			return nil
		}
		if tracking, err = nft.OpenTracking(); errors.Is(err, ruleset.ErrUnsupported) {
			return nil
		}
		return err
	})
	if err != nil {
		return WatchSummary{}, err
	}
	if tracking != nil {
		n.Tracking = tracking.Table()
		defer func() { err = errors.Join(err, s.do(whole, tracking.Close)) }()
	}
	return watching.Watch(ctx, n, o)
}

// Watch is [Session.Watch] in a session of its own.
func (p Pod) Watch(ctx context.Context, o WatchOptions) (WatchSummary, error) {
	return once(ctx, p, func(s *Session) (WatchSummary, error) { return s.Watch(ctx, o) })
}
