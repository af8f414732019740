//go:build !linux

package ipset

import "github.com/mesh-intercept/intercept/ruleset"

// Conn is of Linux.
type Conn struct{}

// Open fails with [ruleset.ErrNeedsLinux].
func Open() (*Conn, error) { return nil, ruleset.ErrNeedsLinux }

// Loaded is false.
func Loaded() bool { return false }

// Close does nothing.
func (*Conn) Close() error { return nil }

// Can fails.
func (*Conn) Can() error { return ruleset.ErrNeedsLinux }

// References fails.
func (*Conn) References() (map[string]int, error) { return nil, ruleset.ErrNeedsLinux }

// Look fails.
func (*Conn) Look(Set) (Content, error) { return Missing, ruleset.ErrNeedsLinux }

// Make fails.
func (*Conn) Make(Set) (bool, error) { return false, ruleset.ErrNeedsLinux }

// Destroy fails.
func (*Conn) Destroy(string) error { return ruleset.ErrNeedsLinux }
