//go:build !linux

package netns

import "github.com/mesh-intercept/intercept/ruleset"

// NetNS is a network namespace, of which other systems have none.
type NetNS struct{}

// Open fails with [ruleset.ErrNeedsLinux].
func Open(string) (*NetNS, error) { return nil, ruleset.ErrNeedsLinux }

// New fails with [ruleset.ErrNeedsLinux].
func New() (*NetNS, error) { return nil, ruleset.ErrNeedsLinux }

// Path is "".
func (*NetNS) Path() string { return "" }

// IsOwn is true.
func (*NetNS) IsOwn() bool { return true }

// Close does nothing.
func (*NetNS) Close() error { return nil }

// Do fails with [ruleset.ErrNeedsLinux].
func (*NetNS) Do(func() error) error { return ruleset.ErrNeedsLinux }

// Same is false.
func (*NetNS) Same(*NetNS) bool { return false }

// IsOfOwnUser fails with [ruleset.ErrNeedsLinux].
func (*NetNS) IsOfOwnUser() (bool, error) { return false, ruleset.ErrNeedsLinux }

// inode is of Linux.
type inode struct{}

// List fails with [ruleset.ErrNeedsLinux].
func List() ([]Found, int, error) { return nil, 0, ruleset.ErrNeedsLinux }

// IsThere is false.
func (Found) IsThere() bool { return false }

// Hostname is "".
func (Found) Hostname() string { return "" }
