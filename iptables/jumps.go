package iptables

import "slices"

// Jumps is where in the built-in chains the jumps to our chains stand: before the rules of others, or after them.
type Jumps string

// The places.
const (
	JumpsFirst Jumps = "first"
	JumpsLast  Jumps = "last"
	// JumpsLastInbound is last in the chains for what arrives, and first in those for what the pod sends.
	JumpsLastInbound Jumps = "last-inbound"
	// JumpsLastOutbound is the other way round.
	JumpsLastOutbound Jumps = "last-outbound"
)

// AllJumps are all there are, the usual one first.
func AllJumps() []Jumps { return []Jumps{JumpsFirst, JumpsLast, JumpsLastInbound, JumpsLastOutbound} }

// last reports whether the jump of a built-in chain comes after its other rules.
func (j Jumps) last(builtin string) bool {
	sent := slices.Contains([]string{"OUTPUT", "POSTROUTING"}, builtin)
	return j == JumpsLast || j == JumpsLastInbound && !sent || j == JumpsLastOutbound && sent
}
