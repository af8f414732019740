package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/internal/nslock"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Session is an open network namespace and the backends in it. The namespace is entered once, by a thread that does all
// that is asked; in the process's own it is the caller's. A Session may be used by several goroutines: one call follows
// the other.
type Session struct {
	pod   Pod
	netns *netns.NetNS
	space *space
	// mu is held during a call, and guards closed.
	mu     sync.Mutex
	closed bool
	// work is what the thread in the namespace takes its work from, and left what it says when it has left. Both are nil
	// in the process's own namespace.
	work chan func()
	left chan error
}

// Open enters the network namespace of a pod. It refuses the host's own, unless the pod allows it. The caller closes
// the session: until then the namespace stays, even if the pod goes.
func Open(ctx context.Context, p Pod) (*Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := netns.Open(p.NetNS)
	if err != nil {
		return nil, err
	}
	return start(ctx, p, n, func(s *space) error {
		if p.AllowHostNetNS {
			return nil
		}
		return s.refuseHost(p)
	})
}

// OpenNew opens a session in a network namespace that is made for it and goes with it: what works there shows what the
// node can do, and harms nobody. The pod's NetNS is ignored. It takes CAP_SYS_ADMIN.
func OpenNew(ctx context.Context, p Pod) (*Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, err := netns.New()
	if err != nil {
		return nil, err
	}
	return start(ctx, p, n, func(*space) error {
		// Routes lead to lo, which has to be up.
		lo, err := netlink.LinkByName(ruleset.Loopback)
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return fmt.Errorf("set up lo of a new network namespace: %w", err)
		}
		return nil
	})
}

// start starts the session's thread and has it run prepare.
func start(ctx context.Context, p Pod, n *netns.NetNS, prepare func(*space) error) (*Session, error) {
	s := &Session{pod: p, netns: n, space: &space{netns: n, how: p.IPTables, gvisor: gvisor.Here()}}
	var entered error
	if !n.IsOwn() {
		s.work, s.left = make(chan func()), make(chan error, 1)
		ready := make(chan struct{})
		go func() {
			s.left <- n.Do(func() error {
				close(ready)
				for job := range s.work {
					job()
				}
				return nil
			})
		}()
		select {
		case <-ready:
		case entered = <-s.left: // it could not enter
			s.work = nil
		}
	}
	if entered == nil {
		entered = s.do(ctx, func() error { return prepare(s.space) })
	}
	if entered != nil {
		return nil, errors.Join(entered, s.Close())
	}
	return s, nil
}

// Close leaves the namespace. Calls after it fail.
func (s *Session) Close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err = s.space.close()
	if s.work != nil {
		close(s.work)
		err = errors.Join(err, <-s.left)
	}
	return errors.Join(err, s.netns.Close())
}

// errClosed reports the use of a session after its end.
var errClosed = errors.New("the session is closed")

// do runs fn on the thread that is in the namespace. fn has to end when ctx does: to return before fn has would leave
// unsaid what it did. If fn panics, so does do.
func (s *Session) do(ctx context.Context, fn func() error) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.space.forget()
	defer func() { err = s.denied(err) }()
	if s.work == nil {
		return s.netns.Do(fn)
	}
	var panicked any
	done := make(chan struct{})
	s.work <- func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				panicked = fmt.Sprintf("%v\n%s", r, debug.Stack())
			}
		}()
		err = fn()
	}
	<-done
	if panicked != nil {
		panic(panicked) // where the caller can recover it
	}
	return err
}

// Do runs fn on the thread that is in the namespace, for a look that the session has no method for. fn starts no
// goroutine that counts on being there, and ends when ctx does.
func (s *Session) Do(ctx context.Context, fn func() error) error { return s.do(ctx, fn) }

// denied adds to a refusal for want of privilege, if this process has what it takes, that something else refuses.
func (s *Session) denied(err error) error {
	if !errors.Is(err, ruleset.ErrPermission) || errors.Is(err, iptables.ErrHidden) {
		return err
	}
	own, unknown := s.netns.IsOfOwnUser()
	if unknown != nil || !own {
		return err
	}
	_, byProgram := errors.AsType[*iptables.ProgramError](err)
	for _, p := range privileges() {
		if !p.Held && (p.Name == netAdmin || p.Name == netRaw && byProgram) {
			return err
		}
	}
	return fmt.Errorf("%w; this process has these capabilities, so something else refuses: SELinux, AppArmor (the node's "+
		"audit log says which: ausearch -m avc) or a seccomp profile", err)
}

// locked runs fn in the namespace while no other of ours writes there. Each backend has a lock of its own or needs
// none; this one is for what takes several steps: routes and rules, or one backend's rules and another's.
func (s *Session) locked(ctx context.Context, fn func() error) error {
	return s.do(ctx, func() (err error) {
		wait := cmp.Or(s.pod.IPTables.Wait, iptables.DefaultWait)
		if s.space.lock, err = nslock.Open(ctx, wait, s.pod.LockedBy); err != nil {
			return err
		}
		defer func() { err, s.space.lock = errors.Join(err, s.space.lock.Close()), nil }()
		return fn()
	})
}

// forKernel leaves out the family that the kernel does not have, if the configuration asks for what there is.
func forKernel(rs ruleset.Ruleset, want intercept.Families, hasIPv6 bool) ruleset.Ruleset {
	if want == intercept.FamiliesAuto && !hasIPv6 {
		rs.Families = []ruleset.Family{ruleset.IPv4}
	}
	return rs
}

// Check compares the kernel with c and returns the differences. None: it is as Apply leaves it. It changes nothing.
// Where there is nothing of ours the error is [ruleset.ErrNotIntercepted].
func (s *Session) Check(ctx context.Context, c intercept.Config) (diffs []ruleset.Difference, err error) {
	want, err := newPlan(c)
	if err != nil {
		return nil, err
	}
	err = s.do(ctx, func() error {
		diffs, err = s.space.check(ctx, s.pod.Backend, want)
		return err
	})
	return diffs, err
}

func (s *space) check(ctx context.Context, want Backend, p plan) ([]ruleset.Difference, error) {
	holding, err := s.holding()
	if err != nil {
		return nil, err
	}
	choice, err := choose(want, func(b Backend) Finding {
		if slices.Contains(holding, b) {
			// It took our rules once. To try again takes some milliseconds.
			return Finding{Backend: b, State: StateOK, Reason: "it has our rules"}
		}
		return s.probe(ctx, b, s.rulesFor(p, b))
	})
	if err != nil {
		return nil, err
	}
	var diffs []ruleset.Difference
	for _, b := range holding {
		if b != choice.Backend {
			diffs = append(diffs, ruleset.Difference{What: "backend " + string(b),
				Problem: "has rules of ours, where those of " + string(choice.Backend) + " are asked for (backend)"})
		}
	}
	w, err := s.writer(choice.Backend)
	if err != nil {
		return nil, err
	}
	rs := s.rulesFor(p, choice.Backend)
	more, err := w.Check(ctx, rs)
	if errors.Is(err, ruleset.ErrNotIntercepted) && len(diffs) > 0 {
		err = nil
	}
	if err != nil {
		return nil, s.notIntercepted(err)
	}
	diffs = append(diffs, more...)
	if choice.Backend == BackendIPTablesNFT {
		asleep, err := s.dormant([]Backend{choice.Backend})
		if err != nil {
			return nil, err
		}
		for _, name := range asleep {
			diffs = append(diffs, dormantTable(name))
		}
	}
	if s.gvisor {
		return diffs, nil // it may take no routes
	}
	routing, err := s.routing()
	if err != nil {
		return nil, err
	}
	more, err = routing.Check(p.routes)
	return append(diffs, more...), err
}

// Status returns what of ours is in force: of the backend that the pod asks for, or of all. The error is
// [ruleset.ErrNotIntercepted] if there is nothing.
func (s *Session) Status(ctx context.Context) (status Status, err error) {
	err = s.do(ctx, func() error {
		if status, err = s.space.status(ctx, s.pod.Backend, nil); err == nil {
			status.Foreign = s.space.foreign(status.Backends[0])
			status.Dormant, err = s.space.dormant(status.Backends)
		}
		if err == nil {
			status.Others, err = s.space.others(ctx)
		}
		return err
	})
	return status, err
}

// status names the rules whose IDs the kernel does not hold by their places in those of a plan, if they are in force.
func (s *space) status(ctx context.Context, want Backend, p *plan) (Status, error) {
	wanted, err := candidates(want)
	if err != nil {
		return Status{}, err
	}
	if len(wanted) > 1 {
		holding, err := s.holding()
		if err != nil {
			return Status{}, err
		}
		wanted = slices.DeleteFunc(wanted, func(b Backend) bool { return !slices.Contains(holding, b) })
	}
	status := Status{Backends: wanted, Uncounted: s.gvisor}
	for _, b := range wanted {
		w, err := s.writer(b)
		if err != nil {
			return status, err
		}
		var like *ruleset.Ruleset
		if p != nil {
			rs := s.rulesFor(*p, b)
			like = &rs
		}
		counters, err := w.Counters(ctx, like)
		if err != nil {
			return status, err
		}
		status.Counters = append(status.Counters, counters...)
	}
	if len(wanted) == 0 {
		return status, s.notIntercepted(ruleset.ErrNotIntercepted)
	}
	return status, nil
}
