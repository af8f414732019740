package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// An effect is one thing that an apply has changed, and what puts it back.
type effect struct {
	what string
	undo func(context.Context) error
}

// effects are all that an apply has changed, in order.
type effects []effect

// patience is how long it may take to undo what was changed. It has a time of its own: most often what is undone is the
// work of an apply whose own time is over.
const patience = 10 * time.Second

// undo puts everything back, the last first, and adds to err what could not be.
func (e effects) undo(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var left []error
	for _, each := range slices.Backward(e) {
		if err := each.undo(ctx); err != nil {
			left = append(left, fmt.Errorf("%s: %w", each.what, err))
		}
	}
	if len(left) == 0 {
		return err
	}
	return &UndoError{Err: err, Left: left}
}

// UndoError is a failure of which something is left behind. It is Err by [errors.Is] and [errors.As].
type UndoError struct {
	// Err is why Apply failed.
	Err error
	// Left says of each thing that could not be undone what it is, and why not.
	Left []error
}

func (e *UndoError) Error() string {
	return fmt.Sprintf("%s; what could not be undone: %s", e.Err, joinLine(e.Left))
}

func (e *UndoError) Unwrap() error { return e.Err }

// errReplaced says why rules that are in force stay.
var errReplaced = errors.New("they have replaced those of an earlier configuration, which is not known any more")

// Apply makes the namespace's rules those of c, all or nothing. It is safe to call again, with the same Config or
// another, and while others do. What another backend of ours had put there is removed. If it fails, or ctx ends, it
// undoes what it has changed; what it could not undo is said by an [*UndoError].
func (s *Session) Apply(ctx context.Context, c intercept.Config) (res Result, err error) {
	return s.applyAs(ctx, s.pod, c)
}

func (s *Session) applyAs(ctx context.Context, p Pod, c intercept.Config) (res Result, err error) {
	want, err := newPlan(c)
	if err != nil {
		return res, err
	}
	now := time.Now()
	want.note = sync.OnceValues(func() (string, error) { return p.note(c, now) })
	err = s.locked(ctx, func() error {
		if res.Warnings, err = s.space.warnings(c, p); err != nil {
			return err
		}
		chains, unlisted := s.space.allForeign()
		var replaced []beside.Mesh
		if !p.BesideOtherMesh {
			replaced, err = p.replaced(foreignTo(BackendNFT, chains, unlisted), chains, c)
			if err != nil {
				return err
			}
		}
		res.Warnings = append(res.Warnings, resolversInPod(want)...)
		var done effects
		s.space.switched, s.space.untold = false, ""
		res.Choice, res.Outcome, err = s.space.apply(ctx, p, want, &done)
		if err != nil {
			return done.undo(err)
		}
		// Ours stand before theirs: until theirs are gone, what ours capture does not meet them.
		if res.TakenOver, err = s.space.takeOut(ctx, replaced, want); err != nil {
			return done.undo(err)
		}
		isAfter := func(c beside.Chain) bool { return c.Registered != "" && c.Registered != beside.BeforeOurs }
		if s.space.switched || len(replaced) > 0 ||
			len(chains) > 0 && (backendOf(res.Backend).variant != "" || slices.ContainsFunc(chains, isAfter)) {
			// Some are gone, our jumps stand in their chains, or ours are registered after theirs.
			s.space.chains = nil
			chains, unlisted = s.space.allForeign()
		}
		res.Rules = s.space.rulesFor(want, res.Backend).Count()
		res.Foreign = foreignTo(res.Backend, chains, unlisted)
		res.Warnings = append(res.Warnings, res.Foreign.Warnings()...)
		res.Warnings = append(res.Warnings, s.space.warning(want, res.Backend)...)
		res.Warnings = append(res.Warnings, s.space.slowLists(want, res.Backend)...)
		if s.space.untold != "" {
			res.Warnings = append(res.Warnings, s.space.untold)
		}
		if s.space.hidden != nil {
			res.Warnings = append(res.Warnings, "rules of ours that iptables-legacy has, of an earlier apply, would stay: "+
				s.space.hidden.Error())
		}
		return nil
	})
	return res, err
}

// apply puts sysctls and routes, then rules, in place, and removes what others of ours had there: no rule ever marks
// packets that nothing delivers. What it does goes to done.
func (s *space) apply(ctx context.Context, p Pod, want plan, done *effects) (choice Choice, outcome ruleset.Outcome,
	err error) {
	if s.gvisor && want.config.Inbound.Mode == intercept.InboundTProxy {
		return choice, "", fmt.Errorf("%w: gVisor has no TPROXY, and no routes by mark; use --inbound-mode redirect",
			ruleset.ErrUnsupported)
	}
	if s.gvisor {
		want.routes.Sources = nil // it would not say later that they are ours
	}
	if err := requireSysctls(want.config, p.SetSysctls, done); err != nil {
		return choice, "", err
	}
	if err := setCloseWait(p.CloseWait, done); err != nil {
		return choice, "", err
	}
	routing, err := s.routing()
	if err != nil {
		return choice, "", err
	}
	added, undo, err := routing.Add(want.routes)
	if err != nil {
		return choice, "", err
	}
	*done = append(*done, effect{"routes", func(context.Context) error { return undo() }})
	choice, outcome, err = s.applyBesideOlder(ctx, p.Backend, want)
	if err != nil && outcome != "" {
		// They were written, and somebody has changed them since: they are in force, and need what was put there for
		// them.
		*done = nil
		return choice, outcome, err
	}
	switch outcome {
	case ruleset.Created:
		*done = append(*done, effect{"rules", func(ctx context.Context) error { return s.remove(ctx, choice.Backend) }})
	case ruleset.Replaced:
		*done = staying()
	case ruleset.Unchanged:
		*done = nil
	}
	if err != nil {
		return choice, outcome, err
	}
	if err = s.removeOthers(ctx, choice.Backend); err != nil {
		return choice, outcome, err
	}
	if s.switched && outcome == ruleset.Created {
		outcome, *done = ruleset.Replaced, staying()
	}
	if choice.Backend == BackendNFT { // the others see to theirs, and somebody may have been killed
		if _, _, err = iptables.SweepSets(ctx, false); err != nil {
			return choice, outcome, err
		}
	}
	// Whatever the outcome: somebody who was killed may have left some.
	removed, err := routing.Keep(want.routes)
	if outcome == ruleset.Unchanged && (added || removed) {
		outcome = ruleset.Replaced
	}
	return choice, outcome, err
}

// staying is for rules that have replaced others: they are in force now, and need what was put there for them.
func staying() effects {
	return effects{{"rules", func(context.Context) error { return errReplaced }}}
}

// settlingFor is for how long more connections count as older than the rules if nobody lives to say which are: longer than
// it takes to write the rules and to list connections again, where the first list took that long.
func settlingFor(list time.Duration) time.Duration {
	const least, most = time.Second, 30 * time.Second
	return min(least+5*list, most)
}

// applyBesideOlder applies the rules where there are TCP connections, which go on: those that are older than the rules
// have to be known to them, and while a list is made others open. With nftables everything is in force at once, the
// connections that are there are known, and until a second list is made, but no longer than settlingFor says, all count as
// older. With iptables the rules that look at every packet come in a second step. In an init container there is no
// socket, and one step is enough.
//
// Where rules that look at every packet are replaced, there is no moment without such: older is what conntrack has seen
// open, and what the replaced ones know to be older than they are. What conntrack has forgotten is neither, and is
// stopped as before.
func (s *space) applyBesideOlder(ctx context.Context, want Backend, p plan) (Choice, ruleset.Outcome, error) {
	whole := func(b Backend) ruleset.Ruleset { return s.rulesFor(p, b) }
	if !p.needsOlder() {
		return s.applyRules(ctx, want, whole)
	}
	atWork, err := sockets.AnyTCP()
	if err != nil {
		return Choice{}, "", err
	}
	if !atWork {
		return s.applyRules(ctx, want, whole)
	}
	began := time.Now()
	if diffs, err := s.check(ctx, want, p); err == nil && len(diffs) == 0 {
		return s.applyRules(ctx, want, whole) // which finds the same and writes nothing
	}
	before, guarded, err := s.guarded(ctx)
	if err != nil {
		return Choice{}, "", err
	}
	list, first := sockets.Untranslated, p.with(intercept.BackstopSyn)
	if guarded {
		list, first = func() ([]ruleset.Tuple, error) { return sockets.GoingOn(before) }, p.lenient(before)
	}
	older, err := s.told(list)
	if err != nil {
		return Choice{}, "", err
	}
	took := time.Since(began)
	beside := func(b Backend) ruleset.Ruleset {
		rs := s.rulesFor(p, b)
		rs.Older = older
		return rs
	}
	choice, outcome, err := s.applyRules(ctx, want, func(b Backend) ruleset.Ruleset {
		switch {
		case b == BackendNFT:
			rs := beside(b)
			rs.Settling = ruleset.Settling{For: settlingFor(took), Tracked: guarded}
			return rs
		case s.warning(p, b) != nil:
			return s.rulesFor(p, b)
		}
		return first
	})
	if err != nil {
		return choice, outcome, err
	}
	again := ruleset.Outcome("")
	if older, err = s.told(list); err == nil {
		again, err = s.settle(ctx, beside(choice.Backend), choice.Backend)
	}
	switch {
	case err != nil && again == "" && outcome == ruleset.Created:
		created := effects{{"rules", func(ctx context.Context) error { return s.remove(ctx, choice.Backend) }}}
		return choice, "", created.undo(err)
	case err != nil:
		err = fmt.Errorf("the rules are written, but not which connections are older than they are: %w", err)
	case outcome == ruleset.Unchanged:
		outcome = again
	}
	return choice, outcome, err
}

// told is what list lists. Where conntrack cannot be asked, that is every connection, and is to be said.
func (s *space) told(list func() ([]ruleset.Tuple, error)) ([]ruleset.Tuple, error) {
	older, err := list()
	if errors.Is(err, ruleset.ErrUnsupported) {
		s.untold = "every connection that is there counts as older than the rules, captured ones, too; if conntrack forgets " +
			"one of these, it can go past the proxy: " + strict.InLine(err)
		return older, nil
	}
	return older, err
}

// settle makes known which connections are older than the rules.
func (s *space) settle(ctx context.Context, rs ruleset.Ruleset, b Backend) (ruleset.Outcome, error) {
	if b != BackendNFT {
		_, outcome, err := s.applyRules(ctx, b, func(Backend) ruleset.Ruleset { return rs })
		return outcome, err
	}
	conn, err := s.nft()
	if err == nil {
		err = conn.Settle(ctx, rs)
	}
	if err != nil {
		return "", err
	}
	return ruleset.Unchanged, nil
}

// guarded reports whether rules of ours are in force that look at every packet, and which connections they know to be
// older than they are.
func (s *space) guarded(ctx context.Context) (older []ruleset.Tuple, guarded bool, err error) {
	holding, err := s.holding()
	for _, b := range holding {
		w, err := s.present(b)
		if err != nil {
			return nil, false, err
		}
		counters, err := w.Counters(ctx, nil)
		if errors.Is(err, ruleset.ErrNotIntercepted) || errors.Is(err, ruleset.ErrForeign) {
			continue // or gone, or about to be refused
		}
		if err != nil {
			return nil, false, err
		}
		if !slices.ContainsFunc(counters, func(c ruleset.Counter) bool { return c.Line == "B5" }) {
			continue
		}
		known, err := w.Older(ctx)
		if err != nil {
			return nil, false, err
		}
		older, guarded = append(older, known...), true
	}
	return older, guarded, err
}

// applyRules chooses a backend and applies with it. That nftables works is proven by using it, and so is what could not
// be tried before. What the kernel then refuses is proven missing, and the next is chosen, unless the backend was asked
// for by name.
func (s *space) applyRules(ctx context.Context, want Backend, rules func(Backend) ruleset.Ruleset) (choice Choice,
	outcome ruleset.Outcome, err error) {
	all, err := candidates(want)
	if err != nil {
		return choice, "", err
	}
	refused := map[Backend]Finding{}
	for {
		choice, err = choose(want, func(b Backend) Finding {
			f, is := refused[b]
			switch {
			case is:
				return f
			case len(all) == 1, b == BackendNFT:
				return s.quickProbe(b, rules(b))
			}
			return s.probe(ctx, b, rules(b))
		})
		if err != nil {
			return choice, "", err
		}
		var w writer
		if w, err = s.writer(choice.Backend); err == nil {
			outcome, err = w.Apply(ctx, rules(choice.Backend))
		}
		if len(all) == 1 || !errors.Is(err, ruleset.ErrUnsupported) {
			return choice, outcome, err
		}
		refused[choice.Backend] = missing(choice.Backend, err)
	}
}

// removeOthers takes out what backends other than the one in use have there.
func (s *space) removeOthers(ctx context.Context, inUse Backend) error {
	holding, err := s.holdingBeside(inUse)
	if err != nil {
		return err
	}
	for _, other := range holding {
		if other == inUse {
			continue
		}
		w, err := s.present(other)
		if err != nil {
			return err
		}
		if _, err := s.removeBy(ctx, other, w); err != nil {
			return fmt.Errorf("the rules that %s had put there could not be removed: %w", other, err)
		}
		s.switched = true
	}
	return nil
}

func (s *space) remove(ctx context.Context, b Backend) error {
	_, err := s.removeOf(ctx, b)
	return err
}

func (s *space) removeOf(ctx context.Context, b Backend) (removed bool, err error) {
	w, err := s.writer(b)
	if err != nil {
		return false, err
	}
	return s.removeBy(ctx, b, w)
}

// removeBy takes out the rules of a backend by its writer.
func (s *space) removeBy(ctx context.Context, b Backend, w writer) (removed bool, err error) {
	removed, err = w.Remove(ctx)
	if err != nil && b == BackendIPTablesNFT {
		err = joinLine(append([]error{err}, s.references()...))
	}
	return removed, err
}

// Remove takes our rules out: those of the backend that the pod asks for, or of all. It reports whether there were any.
func (s *Session) Remove(ctx context.Context) (removed bool, err error) {
	if _, err := candidates(s.pod.Backend); err != nil {
		return false, err
	}
	err = s.locked(ctx, func() error {
		removed, err = s.space.removeAll(ctx, s.pod.Backend)
		return err
	})
	return removed, err
}

// removeAll takes out our rules, of one backend or of all that have some, and then their routes.
func (s *space) removeAll(ctx context.Context, want Backend) (removed bool, err error) {
	removed, err = s.removeRules(ctx, want)
	if err != nil {
		return removed, err
	}
	// The rules of a backend that was not asked for still need their routes.
	if holding, err := s.holding(); err != nil || len(holding) > 0 {
		return removed, err
	}
	routing, err := s.routing()
	if err != nil {
		return removed, err
	}
	routes, err := routing.Keep(markroute.Want{})
	if err != nil {
		return removed || routes, err
	}
	swept, left, err := iptables.SweepSets(ctx, true)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("all is removed but the sets %s: rules of others ask them, which have to go first",
			strings.Join(left, ", "))
	}
	return removed || routes || swept, err
}

func (s *space) removeRules(ctx context.Context, want Backend) (removed bool, err error) {
	wanted, err := candidates(want)
	if err != nil {
		return false, err
	}
	if len(wanted) == 1 {
		return s.removeOf(ctx, want)
	}
	holding, err := s.holding()
	if err != nil {
		return false, err
	}
	for _, b := range holding {
		if !slices.Contains(wanted, b) {
			continue
		}
		if err := s.remove(ctx, b); err != nil {
			return removed, fmt.Errorf("backend %s: %w", b, err)
		}
		removed = true
	}
	return removed, nil
}
