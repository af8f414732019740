//go:build !linux

package dataplane

import (
	"context"
	"net/netip"
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
)

func connect(context.Context, netip.AddrPort, time.Duration) error { return ruleset.ErrNeedsLinux }

func hasIPv6() bool { return false }

func release() string { return "unknown" }

func errnoName(error) string { return "" }
