// Package dataplane applies configurations to network namespaces: it chooses
// a backend and says why, enters the namespace, and refuses the host's.
package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/iptables"
)

var (
	// ErrHostNetNS refuses to program the host's own network namespace.
	ErrHostNetNS = errors.New("this is the host's own network namespace")
	// ErrNotNetNS reports a path at which there is no network namespace.
	ErrNotNetNS = netns.ErrNotNetNS
)

// Target is a network namespace to act on, and how. The zero Target is the
// namespace the process is in, with the backend that suits it.
//
// The errors of its methods are those of package intercept
// ([intercept.ErrPermission] and its siblings), [ErrHostNetNS], [ErrNotNetNS],
// or others that say what failed; test with [errors.Is].
type Target struct {
	// NetNS is a network namespace: its path, such as /run/netns/pod or
	// /proc/123/ns/net; its name, as "ip netns" lists them; pid:NUMBER, a
	// process in it; container:ID or containerd://ID, a container in it. Empty:
	// the one the process is in.
	NetNS string
	// AllowHostNetNS permits acting on the host's own network namespace.
	AllowHostNetNS bool
	// Backend is how. Empty means BackendAuto.
	Backend Backend
	// IPTables says how the iptables backends write. Others ignore it.
	IPTables IPTables
	// SetSysctls permits Apply to set the namespace's sysctls that the
	// configuration needs. Otherwise it fails and names them.
	SetSysctls bool
}

// IPTables says how the iptables backends write.
type IPTables struct {
	// Dialect is how much of xtables the rules use. Empty: iptables.Standard.
	Dialect iptables.Dialect
	// Last puts the jumps to our chains behind the rules that the built-in
	// chains have, not before them.
	Last bool
	// Wait is how long to wait for the lock of another program. Zero:
	// iptables.DefaultWait.
	Wait time.Duration
}

// Result says what Apply did.
type Result struct {
	Choice
	Outcome intercept.Outcome `json:"outcome"`
	// Warnings are things that work but may surprise.
	Warnings []string `json:"warnings,omitempty"`
}

// Apply makes the namespace's rules those of c, all or nothing. It is safe to
// call again, with the same Config or another, and while others do. What
// another backend of ours had put there is removed.
func (t Target) Apply(c intercept.Config) (Result, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return Result{}, err
	}
	var res Result
	err = t.openToWrite(func(s *space) error {
		if res.Warnings, err = s.warnings(c); err != nil {
			return err
		}
		if err := requireSysctls(c, t.SetSysctls); err != nil {
			return err
		}
		res.Choice, res.Outcome, err = s.apply(t.Backend, forKernel(rs, c.Families, hasIPv6()))
		return err
	})
	return res, err
}

// forKernel leaves out the family that the kernel does not have, if the
// configuration asks for what there is.
func forKernel(rs intercept.Ruleset, want intercept.Families, hasIPv6 bool) intercept.Ruleset {
	if want == intercept.FamiliesAuto && !hasIPv6 {
		rs.Families = []intercept.Family{intercept.IPv4}
	}
	return rs
}

// Check compares the kernel with c and returns the differences. None: it is as
// Apply leaves it. It changes nothing.
func (t Target) Check(c intercept.Config) ([]intercept.Difference, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return nil, err
	}
	rs = forKernel(rs, c.Families, hasIPv6())
	routes := rs.Routes
	rs.Routes = nil
	var diffs []intercept.Difference
	err = t.open(func(s *space) error {
		holding, err := s.holding()
		if err != nil {
			return err
		}
		probe := s.prober(rs)
		choice, err := choose(t.Backend, func(b Backend) Finding {
			if slices.Contains(holding, b) {
				// It took our rules once. To try again takes some milliseconds.
				return Finding{Backend: b, State: StateOK, Reason: "it has our rules"}
			}
			return probe(b)
		})
		if err != nil {
			return err
		}
		for _, b := range holding {
			if b != choice.Backend {
				diffs = append(diffs, intercept.Difference{What: "backend " + string(b), Problem: "has rules of ours, which belong to " + string(choice.Backend)})
			}
		}
		b, err := s.backend(choice.Backend)
		if err != nil {
			return err
		}
		more, err := b.Check(rs)
		if errors.Is(err, intercept.ErrNotIntercepted) && len(diffs) > 0 {
			err = nil
		}
		if err != nil {
			return err
		}
		diffs = append(diffs, more...)
		c, err := s.routing()
		if err != nil {
			return err
		}
		more, err = c.Check(routes, rs.Families)
		diffs = append(diffs, more...)
		return err
	})
	return diffs, err
}

// Remove takes our rules out: those of the backend asked for, or of all. It
// reports whether there were any.
func (t Target) Remove() (removed bool, err error) {
	if _, err := candidates(t.Backend); err != nil {
		return false, err
	}
	err = t.openToWrite(func(s *space) error {
		removed, err = s.removeFrom(t.Backend)
		return err
	})
	return removed, err
}

// Counters returns what our rules have counted, in the order packets meet
// them: those of the backend asked for, or of the one that has rules. The error
// is [intercept.ErrNotIntercepted] if there are none.
func (t Target) Counters() (counters []intercept.Counter, err error) {
	wanted, err := candidates(t.Backend)
	if err != nil {
		return nil, err
	}
	err = t.open(func(s *space) error {
		if len(wanted) > 1 {
			holding, err := s.holding()
			if err != nil {
				return err
			}
			wanted = slices.DeleteFunc(wanted, func(b Backend) bool { return !slices.Contains(holding, b) })
		}
		for _, w := range wanted {
			b, err := s.backend(w)
			if err != nil {
				return err
			}
			more, err := b.Counters()
			if err != nil {
				return err
			}
			counters = append(counters, more...)
		}
		if len(wanted) == 0 {
			return intercept.ErrNotIntercepted
		}
		return nil
	})
	return counters, err
}

// open runs fn in the namespace, which must not be the host's.
func (t Target) open(fn func(*space) error) (err error) {
	n, err := netns.Open(t.NetNS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return n.Do(func() (err error) {
		if !t.AllowHostNetNS {
			host, err := isHost()
			if err != nil {
				return err
			}
			if host {
				return fmt.Errorf("%w: rules here would capture the traffic of the whole node; name the pod's namespace with --netns PATH, or insist with --allow-host-netns", ErrHostNetNS)
			}
		}
		s := &space{NetNS: n, how: t.IPTables}
		defer func() { err = errors.Join(err, s.close()) }()
		return fn(s)
	})
}

// openToWrite is open, and keeps others of ours from writing meanwhile.
func (t Target) openToWrite(fn func(*space) error) error {
	return t.open(func(s *space) (err error) {
		unlock, err := lock(cmp.Or(t.IPTables.Wait, iptables.DefaultWait))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		return fn(s)
	})
}
