//go:build !linux

package nslock

import "github.com/mesh-intercept/intercept/ruleset"

func takeLogGroup() (fd int, err error) { return -1, ruleset.ErrNeedsLinux }
func takeSocket() (fd int, err error)   { return -1, ruleset.ErrNeedsLinux }
