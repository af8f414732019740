// Package trial tries what package verify has planned: it opens connections in the pod under other users, asks for
// names, comes in from outside, and watches what becomes of it.
package trial

import (
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// Counts are what rules have counted, by their IDs.
type Counts map[ruleset.RuleID]uint64

// Options say how to try.
type Options struct {
	// Count reads the rules' counters. Nil: the kernel counts nothing, and what arrives has to show all.
	Count func() (Counts, error)
	// Refuses are the rules that refuse or discard what they match, and Discards those of them that say nothing.
	Refuses, Discards []ruleset.RuleID
	// Ways are those by which clients come into the pod.
	Ways []verify.Way
	// StandIn is who stand-ins of this process are, where they listen in place of the proxy. Nil: there are none.
	StandIn *ruleset.Owner
	// Patience is how long to wait for answers, all told.
	Patience time.Duration
}
