//go:build !linux

package trial

import (
	"context"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// Look fails with [ruleset.ErrNeedsLinux].
func Look(intercept.Config) (verify.Pod, error) { return verify.Pod{}, ruleset.ErrNeedsLinux }

// Run fails with [ruleset.ErrNeedsLinux].
func Run(context.Context, []verify.Probe, Options) ([]verify.Seen, error) {
	return nil, ruleset.ErrNeedsLinux
}
