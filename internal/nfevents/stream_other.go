//go:build !linux

package nfevents

import (
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Stream receives events, on Linux.
type Stream struct{}

// Open fails.
func Open(...Group) (*Stream, error) { return nil, ruleset.ErrNeedsLinux }

// BindLog fails.
func (*Stream) BindLog() error { return ruleset.ErrNeedsLinux }

// Next fails.
func (*Stream) Next(time.Time) ([]Event, error) { return nil, ruleset.ErrNeedsLinux }

// Lost returns nothing.
func (*Stream) Lost() uint64 { return 0 }

// Close does nothing.
func (*Stream) Close() error { return nil }
