//go:build !linux

package sockets

import "github.com/mesh-intercept/intercept/ruleset"

// List fails with [ruleset.ErrNeedsLinux].
func List(ruleset.Protocol) ([]Socket, error) { return nil, ruleset.ErrNeedsLinux }

// AnyTCP fails with [ruleset.ErrNeedsLinux].
func AnyTCP() (bool, error) { return false, ruleset.ErrNeedsLinux }

// Untranslated fails with [ruleset.ErrNeedsLinux].
func Untranslated() ([]ruleset.Tuple, error) { return nil, ruleset.ErrNeedsLinux }

// GoingOn fails with [ruleset.ErrNeedsLinux].
func GoingOn([]ruleset.Tuple) ([]ruleset.Tuple, error) { return nil, ruleset.ErrNeedsLinux }

// Processes needs Linux.
func Processes(map[uint64]bool) map[uint64]Process { return nil }

// Beside needs Linux.
func Beside([]int, func(Process) bool) Process { return Process{} }
