//go:build !linux

package trial

import (
	"context"
	"net/netip"

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

// StandIns listen and answer in place of a proxy that is not up yet.
type StandIns struct{ Owner ruleset.Owner }

// Listen fails with [ruleset.ErrNeedsLinux].
func Listen(intercept.Config, []ruleset.Family) (*StandIns, error) { return nil, ruleset.ErrNeedsLinux }

// Close does nothing.
func (*StandIns) Close() error { return nil }

// Arrive fails with [ruleset.ErrNeedsLinux].
func Arrive(context.Context, netip.AddrPort, netip.AddrPort) error { return ruleset.ErrNeedsLinux }

// HasRoute is true.
func HasRoute(netip.Addr) bool { return true }
