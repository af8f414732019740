//go:build !linux

package facts

import "github.com/mesh-intercept/intercept/ruleset"

// Interfaces fails with [ruleset.ErrNeedsLinux].
func Interfaces() ([]Interface, error) { return nil, ruleset.ErrNeedsLinux }

// Routes fails with [ruleset.ErrNeedsLinux].
func Routes() ([]Route, error) { return nil, ruleset.ErrNeedsLinux }

// Rules fails with [ruleset.ErrNeedsLinux].
func Rules() ([]Rule, error) { return nil, ruleset.ErrNeedsLinux }

// Listeners fails with [ruleset.ErrNeedsLinux].
func Listeners() ([]Listener, error) { return nil, ruleset.ErrNeedsLinux }

// Sysctls fails with [ruleset.ErrNeedsLinux].
func Sysctls() (map[string]string, error) { return nil, ruleset.ErrNeedsLinux }

// Tracked fails with [ruleset.ErrNeedsLinux].
func Tracked() (Conntrack, error) { return Conntrack{}, ruleset.ErrNeedsLinux }

// Key fails with [ruleset.ErrNeedsLinux].
func Key() ([2]uint64, error) { return [2]uint64{}, ruleset.ErrNeedsLinux }

// Self fails with [ruleset.ErrNeedsLinux].
func Self() (Process, error) { return Process{}, ruleset.ErrNeedsLinux }
