//go:build !linux

package markroute

import (
	"net/netip"

	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Conn speaks with nobody on other systems.
type Conn struct{}

// Open fails with [ruleset.ErrNeedsLinux].
func Open() (*Conn, error) { return nil, ruleset.ErrNeedsLinux }

// Close does nothing.
func (*Conn) Close() error { return nil }

// Links fails with [ruleset.ErrNeedsLinux].
func (*Conn) Links() ([]links.Link, error) { return nil, ruleset.ErrNeedsLinux }

// Forget does nothing.
func (*Conn) Forget() {}

// Add fails with [ruleset.ErrNeedsLinux].
func (*Conn) Add(Want) (added bool, undo func() error, err error) {
	return false, nil, ruleset.ErrNeedsLinux
}

// Keep fails with [ruleset.ErrNeedsLinux].
func (*Conn) Keep(Want) (removed bool, err error) { return false, ruleset.ErrNeedsLinux }

// Check fails with [ruleset.ErrNeedsLinux].
func (*Conn) Check(Want) ([]ruleset.Difference, error) { return nil, ruleset.ErrNeedsLinux }

// TakeOver fails with [ruleset.ErrNeedsLinux].
func (*Conn) TakeOver([]ruleset.MarkRoute, []netip.Addr, Want) error { return ruleset.ErrNeedsLinux }
