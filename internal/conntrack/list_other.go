//go:build !linux

package conntrack

import "github.com/mesh-intercept/intercept/ruleset"

// Supported fails with [ruleset.ErrNeedsLinux].
func Supported() error { return ruleset.ErrNeedsLinux }
