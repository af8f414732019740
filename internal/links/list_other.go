//go:build !linux

package links

import "github.com/mesh-intercept/intercept/ruleset"

// List fails with [ruleset.ErrNeedsLinux].
func List() ([]Link, error) { return nil, ruleset.ErrNeedsLinux }
