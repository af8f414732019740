//go:build !linux

package hairpin

import (
	"context"
	"net/netip"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

func verify(context.Context, intercept.Config, netip.AddrPort) error { return ruleset.ErrNeedsLinux }
