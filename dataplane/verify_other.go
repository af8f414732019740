//go:build !linux

package dataplane

import (
	"context"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

func podFacts(intercept.Config) (verify.Pod, error) { return verify.Pod{}, ruleset.ErrNeedsLinux }

func (*space) try(context.Context, Backend, plan, []verify.Probe, verify.Pod) ([]verify.Seen, error) {
	return nil, ruleset.ErrNeedsLinux
}
