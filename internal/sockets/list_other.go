//go:build !linux

package sockets

import "github.com/mesh-intercept/intercept/ruleset"

// List fails with [ruleset.ErrNeedsLinux].
func List(ruleset.Protocol) ([]Socket, error) { return nil, ruleset.ErrNeedsLinux }
