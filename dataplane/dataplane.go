// Package dataplane applies Rulesets to network namespaces: it chooses a
// backend and says why, enters the namespace, and refuses the host's.
package dataplane

import (
	"errors"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/nft"
)

var (
	// ErrHostNetNS refuses to program the host's own network namespace.
	ErrHostNetNS = errors.New("this is the host's own network namespace")
	// ErrNotNetNS reports a path at which there is no network namespace.
	ErrNotNetNS = errors.New("not a network namespace")
)

// Backend names a way to put rules into the kernel.
type Backend string

// The backends.
const (
	BackendAuto Backend = "auto" // choose, and say why
	BackendNFT  Backend = "nft"  // nftables over netlink
)

// Target is a network namespace to act on, and how.
type Target struct {
	// NetNS is the path of a network namespace, such as /run/netns/pod or
	// /proc/123/ns/net. Empty: the one the process is in.
	NetNS string
	// AllowHostNetNS permits acting on the host's own network namespace.
	AllowHostNetNS bool
	// Backend is how. Empty means BackendAuto.
	Backend Backend
}

// Choice is the backend chosen and the reason for it.
type Choice struct {
	Backend Backend `json:"backend"`
	Reason  string  `json:"reason"`
}

// Result says what Apply did.
type Result struct {
	Choice
	Outcome nft.Outcome `json:"outcome"`
	// Warnings are things that work but may surprise.
	Warnings []string `json:"warnings,omitempty"`
}

// Apply makes the namespace's rules those of c's ruleset, all or nothing.
func (t Target) Apply(c intercept.Config) (Result, error) { panic("being written") }

// Check compares the kernel with c and returns the differences. None: it is as
// Apply leaves it. It changes nothing.
func (t Target) Check(c intercept.Config) ([]nft.Difference, error) { panic("being written") }

// Remove takes our rules out. It reports whether there were any.
func (t Target) Remove() (removed bool, err error) { panic("being written") }

// Counters returns what our rules have counted, in the order packets meet
// them. The error is nft.ErrNotIntercepted if there are none.
func (t Target) Counters() ([]nft.Counter, error) { panic("being written") }
