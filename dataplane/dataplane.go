// Package dataplane applies configurations to network namespaces: it chooses
// a backend and says why, enters the namespace, and refuses the host's.
package dataplane

import (
	"errors"
	"fmt"

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

// Target is a network namespace to act on, and how. The zero Target is the
// namespace the process is in, with the backend that suits it.
//
// The errors of its methods are those of package nft ([intercept.ErrPermission] and
// its siblings), [ErrHostNetNS], [ErrNotNetNS], or others that say what failed;
// test with [errors.Is].
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
	Outcome intercept.Outcome `json:"outcome"`
	// Warnings are things that work but may surprise.
	Warnings []string `json:"warnings,omitempty"`
}

// Apply makes the namespace's rules those of c, all or nothing. It is safe to
// call again, with the same Config or another, and while others do.
func (t Target) Apply(c intercept.Config) (Result, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return Result{}, err
	}
	var res Result
	err = t.open(func(n netns, b *nft.Backend, choice Choice) error {
		res.Choice = choice
		if res.Warnings, err = warnings(n, c); err != nil {
			return err
		}
		res.Outcome, err = b.Apply(rs)
		return err
	})
	return res, err
}

// Check compares the kernel with c and returns the differences. None: it is as
// Apply leaves it. It changes nothing.
func (t Target) Check(c intercept.Config) ([]intercept.Difference, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return nil, err
	}
	var diffs []intercept.Difference
	err = t.open(func(_ netns, b *nft.Backend, _ Choice) error {
		diffs, err = b.Check(rs)
		return err
	})
	return diffs, err
}

// Remove takes our rules out. It reports whether there were any.
func (t Target) Remove() (removed bool, err error) {
	err = t.open(func(_ netns, b *nft.Backend, _ Choice) error {
		removed, err = b.Remove()
		return err
	})
	return removed, err
}

// Counters returns what our rules have counted, in the order packets meet
// them. The error is [intercept.ErrNotIntercepted] if there are none.
func (t Target) Counters() (counters []intercept.Counter, err error) {
	err = t.open(func(_ netns, b *nft.Backend, _ Choice) error {
		counters, err = b.Counters()
		return err
	})
	return counters, err
}

// open connects the chosen backend to the namespace for the time of fn.
func (t Target) open(fn func(netns, *nft.Backend, Choice) error) (err error) {
	choice, err := choose(t.Backend)
	if err != nil {
		return err
	}
	n, err := openNetNS(t.NetNS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if !t.AllowHostNetNS {
		host, err := n.isHost()
		if err != nil {
			return err
		}
		if host {
			return fmt.Errorf("%w: rules here would capture the traffic of the whole node; name the pod's namespace with --netns PATH, or insist with --allow-host-netns", ErrHostNetNS)
		}
	}
	b, err := nft.Open(n.fd())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	return fn(n, b, choice)
}

// choose picks the backend and gives the reason.
func choose(want Backend) (Choice, error) {
	switch want {
	case "", BackendAuto:
		return Choice{BackendNFT, "nftables over netlink needs no program and writes both families in one transaction"}, nil
	case BackendNFT:
		return Choice{BackendNFT, "asked for"}, nil
	}
	return Choice{}, fmt.Errorf("backend %q is not one of auto, nft", string(want))
}
