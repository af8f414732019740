package watching

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/nfevents"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Kept is the configuration in force, when it was applied and by whom.
type Kept struct {
	Config intercept.Config
	At     time.Time
	By     string
	// Omitted are lists of the configuration that were too long to be kept: what there should be is then not known.
	Omitted []string
	// Polls is whether nobody tells of changes of the rules, so that they have to be looked at each second: those of
	// iptables-legacy.
	Polls bool
}

// Namespace is what a watch asks of the namespace. All but Open are for one goroutine.
type Namespace struct {
	// In runs a function on a thread in the namespace.
	In func(func() error) error
	// InForce returns what is kept beside our rules. Nil without an error: there are rules of ours, and nothing is kept.
	// Where there are none the error is [ruleset.ErrNotIntercepted].
	InForce func() (*Kept, error)
	// Check compares the rules with a configuration, and Repair puts it in force and says how that went.
	Check  func(intercept.Config) ([]ruleset.Difference, error)
	Repair func(intercept.Config) (string, error)
	// Polls is [Kept.Polls] where nothing is kept.
	Polls bool
	// Tracking is the table, of family inet, that keeps connection tracking at work when our rules are gone. Empty: nothing
	// does.
	Tracking string
}

// Options say what to do beside telling.
type Options struct {
	// Repair is whether to put the configuration in force again when our rules are no longer as it makes them.
	Repair bool
	// Tell takes each record; the watch ends with its error.
	Tell func(Record) error
	// Note takes what cannot be seen here. Nil: nobody is told.
	Note func(string)
}

// Summary says what was seen in all.
type Summary struct {
	Captured, Passed, Uncaptured, Changes int
	// Resumed counts those of [Flow.Resumed]: they are none of the others.
	Resumed int
	// Unjudged counts connections of which the sender was not looked for, since there were too many: Uncaptured has none of
	// them.
	Unjudged int
	Lost     uint64
	// State is the last [State.State].
	State string
	// Unseen is whether new connections could not be seen.
	Unseen bool
}

// Bounds on what is told of in a second, and on how often our rules are looked at.
const (
	mostFlows     = 200
	mostSenders   = 200
	mostProcesses = 10
	maxTables     = 64
	maxDiffs      = 5
	second        = time.Second
	turn          = 50 * time.Millisecond
)

// watch is one that is at work.
type watch struct {
	Options
	ns      Namespace
	judge   Judge
	kept    *Kept
	summary Summary

	tables  []Table // changed by the transaction that is being told of
	checked time.Time
	due     bool
	placed  time.Time
	// What was done in the second that began at since.
	since                     time.Time
	flows, senders, processes int
	more                      More
}

// Watch tells what happens until ctx ends, which is no error. The errors are [ruleset.ErrPermission],
// [ruleset.ErrNotIntercepted] where there are no rules of ours at first, or say what failed.
func Watch(ctx context.Context, ns Namespace, o Options) (s Summary, err error) {
	w := &watch{Options: o, ns: ns}
	var events *nfevents.Stream
	err = ns.In(func() error {
		events, err = nfevents.Open(nfevents.NewFlows, nfevents.RuleChanges)
		return err
	})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, ns.In(events.Close)) }()
	if err := ns.In(conntrack.Supported); err != nil {
		if w.summary.Unseen = true; o.Note != nil {
			o.Note("new connections are not seen: " + err.Error())
		}
	}
	if w.kept, err = ns.InForce(); err != nil {
		return s, err
	}
	if err := w.use(); err != nil {
		return s, err
	}
	w.due = true
	lost := uint64(0)
	for {
		now := time.Now()
		ended := ctx.Err() != nil
		if now.Sub(w.since) >= second || ended {
			if err := w.nextSecond(now); err != nil {
				return w.summary, err
			}
			if n := events.Lost(); n > lost {
				if err := w.Tell(Record{Lost: &Lost{now, n - lost}}); err != nil {
					return w.summary, err
				}
				lost = n
				w.summary.Lost = n
				w.due = true // it may have been about rules
			}
		}
		if ended {
			return w.summary, nil
		}
		if w.due || w.polls() {
			if err := w.check(now); err != nil {
				return w.summary, err
			}
		}
		all, err := events.Next(now.Add(turn))
		if err != nil {
			return w.summary, err
		}
		for _, e := range all {
			if err := w.event(time.Now(), e); err != nil {
				return w.summary, err
			}
		}
	}
}

// polls is whether our rules have to be looked at each second. Where there are none, any backend may be the next.
func (w *watch) polls() bool {
	return w.summary.State == Gone || w.kept == nil && w.ns.Polls || w.kept != nil && w.kept.Polls
}

func (w *watch) use() error {
	if w.kept == nil || len(w.kept.Omitted) > 0 {
		return w.judge.Use(nil)
	}
	return w.judge.Use(&w.kept.Config)
}

// nextSecond tells how many connections were not told of, and begins to count anew.
func (w *watch) nextSecond(now time.Time) error {
	w.since, w.flows, w.senders, w.processes = now, 0, 0, 0
	more := w.more
	if w.more = (More{}); more == (More{}) {
		return nil
	}
	more.At = now
	return w.Tell(Record{More: &more})
}

func (w *watch) event(now time.Time, e nfevents.Event) error {
	switch {
	case e.Flow != nil && e.Flow.Change == nfevents.Began:
		return w.flow(now, *e.Flow)
	case e.Rules != nil && e.Rules.Table != "":
		w.changed(*e.Rules)
	case e.Rules != nil:
		tables := w.tables
		if w.tables = nil; len(tables) == 0 {
			return nil
		}
		w.due = true
		w.summary.Changes++
		return w.Tell(Record{Rules: &Rules{now, e.Rules.By, e.Rules.PID, e.Rules.Generation, tables}})
	}
	return nil
}

// changed counts a change of the transaction that is being told of.
func (w *watch) changed(r nfevents.Rules) {
	family := nfevents.FamilyName(r.Family)
	if family == "inet" && r.Table == w.ns.Tracking {
		return
	}
	for i := range w.tables {
		if t := &w.tables[i]; t.Family == family && t.Name == r.Table {
			t.Added += r.Added
			t.Removed += r.Removed
			return
		}
	}
	if len(w.tables) < maxTables {
		w.tables = append(w.tables, Table{family, r.Table, r.Added, r.Removed})
	}
}

// check looks whether our rules are as their configuration makes them, at most once a second.
func (w *watch) check(now time.Time) error {
	if now.Sub(w.checked) < second {
		return nil
	}
	w.checked, w.due = now, false
	kept, err := w.ns.InForce()
	switch {
	case errors.Is(err, ruleset.ErrNotIntercepted):
		return w.found(State{At: now, State: Gone, Detail: w.without()})
	case err != nil:
		return fmt.Errorf("read what is in force: %w", err)
	case kept == nil: // it is not known what there should be
		known := w.kept != nil || w.summary.State == Gone
		if w.kept = nil; !known {
			return nil
		}
		return errors.Join(w.use(), w.tell(State{At: now, State: Replaced, Detail: "rules beside which no configuration is kept"}))
	}
	applied := ""
	if w.kept == nil || !kept.At.Equal(w.kept.At) {
		applied = " was applied"
		if kept.By != "" {
			applied += " by " + kept.By
		}
		same := w.kept != nil && reflect.DeepEqual(kept.Config, w.kept.Config) && len(kept.Omitted) == 0
		w.kept = kept
		if !same {
			err := errors.Join(w.use(), w.tell(State{At: now, State: Replaced, Detail: "another configuration" + applied}))
			if err != nil {
				return err
			}
		}
		applied = "the same configuration" + applied
	}
	if len(w.kept.Omitted) > 0 {
		return nil // it is not known what there should be
	}
	diffs, err := w.ns.Check(w.kept.Config)
	switch {
	case errors.Is(err, ruleset.ErrNotIntercepted):
		return w.found(State{At: now, State: Gone, Detail: w.without()})
	case err != nil:
		return fmt.Errorf("check the rules: %w", err)
	case len(diffs) == 0:
		return w.found(State{At: now, State: OK, Detail: applied})
	}
	s := State{At: now, State: Drifted}
	for i, d := range diffs {
		if i == maxDiffs {
			s.More = len(diffs) - i
			break
		}
		s.Differences = append(s.Differences, d.String())
	}
	return w.found(s)
}

// without says what it means that our rules are gone.
func (w *watch) without() string {
	if w.ns.Tracking == "" {
		return "nothing is captured, and new connections are seen only as long as rules of others ask for connection tracking"
	}
	return "nothing is captured"
}

// found tells how our rules are, and repairs them if asked to.
func (w *watch) found(s State) error {
	if err := w.tell(s); err != nil || s.State == OK || !w.Repair || w.kept == nil || len(w.kept.Omitted) > 0 {
		return err
	}
	outcome, err := w.ns.Repair(w.kept.Config)
	w.due = true // to see that it held
	if err != nil {
		return w.tell(State{At: time.Now(), State: Failed, Detail: err.Error()})
	}
	if kept, err := w.ns.InForce(); err == nil && kept != nil {
		w.kept = kept
	}
	return w.tell(State{At: time.Now(), State: Repaired, Detail: outcome})
}

// tell tells of a state, if it is another than the last.
func (w *watch) tell(s State) error {
	last := w.summary.State
	w.summary.State = s.State
	if last == s.State || s.State == OK && (last == Repaired || last == Replaced) {
		return nil
	}
	return w.Tell(Record{State: &s})
}

// flow tells of a new connection: who sends it, as long as there are not too many.
func (w *watch) flow(now time.Time, f nfevents.Flow) error {
	if !w.judge.Knows(f) || now.Sub(w.placed) > 10*second {
		if w.placed.IsZero() || now.Sub(w.placed) > second {
			w.placed = now
			err := w.ns.In(func() error {
				all, err := links.List()
				w.judge.Place(all)
				return err
			})
			if err != nil {
				return fmt.Errorf("list interfaces: %w", err)
			}
		}
	}
	var sender *Sender
	_, translated := f.Translated()
	switch sends := w.judge.Sends(f); {
	case sends && w.senders >= mostSenders:
		w.summary.Unjudged++
	case sends:
		w.senders++
		process := w.processes < mostProcesses
		if process {
			w.processes++
		}
		err := w.ns.In(func() error {
			sender = senderOf(f.Original, process)
			return nil
		})
		if err != nil {
			return err
		}
	}
	told := w.judge.Flow(now, f, sender)
	if told.Unexpected && (w.summary.State == Gone || w.summary.State == Drifted) {
		told.Rules = w.summary.State
	}
	captured := told.Captured || w.flows >= mostFlows && translated
	switch {
	case told.Resumed:
		w.summary.Resumed++
	case captured:
		w.summary.Captured++
	default:
		w.summary.Passed++
	}
	if told.Uncaptured {
		w.summary.Uncaptured++
	}
	if w.flows >= mostFlows {
		if captured {
			w.more.Captured++
		} else {
			w.more.Passed++
		}
		return nil
	}
	w.flows++
	return w.Tell(Record{Flow: &told})
}
