// Package iptables puts a Ruleset into the kernel with iptables-restore and ip6tables-restore, of either variant, for
// kernels without nf_tables and for those who insist. The methods of a [Runner] act on the network namespace of the
// calling thread. [Render] works on every system, the rest on Linux: elsewhere it fails with [ruleset.ErrNeedsLinux].
package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/userns"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Options say how rules are written.
type Options struct {
	// Variant is the program to write them with.
	Variant Variant
	// Dialect is how much of xtables they use. Empty: Standard.
	Dialect Dialect
	// Jumps is where in the built-in chains the jumps to ours stand. Empty: JumpsFirst.
	Jumps Jumps
	// Wait is how long to wait for a lock that another program holds. Zero: DefaultWait.
	Wait time.Duration
	// Lock is the lock of the network namespace (package nslock), if the caller holds it. The programs get the file, so
	// that one which outlives this process still keeps others out. Nil: each method takes the lock itself.
	Lock *os.File
	// SharedLock says that the other programs that write to the namespace use the same file as a lock
	// (XTABLES_LOCKFILE, /run/xtables.lock) as programs started from here. It is true of the process's own namespace.
	SharedLock bool
	// Objects makes Remove take out what iptables-nft itself leaves of nf_tables, and compares what it lists with what
	// there is. Nil: the former stays, empty, and the list is believed. It is of no use with Legacy.
	Objects Objects
	// gvisor is true if the kernel is gVisor's.
	gvisor bool
	// sets is from how many rules on a list is a set that a rule asks. Zero: setFrom for a [Runner], never for [Render].
	sets int
}

// Objects are the tables and base chains of nf_tables in the namespace. iptables-nft makes them when it writes and has
// no command to remove them.
type Objects interface {
	// BaseChains returns the base chains of each table of a family.
	BaseChains(context.Context, ruleset.Family) (map[string][]string, error)
	// CountRules returns, by table, how many rules there are in each chain whose name begins with the prefix, and how many
	// in each other chain that lead to one of those, if any.
	CountRules(ctx context.Context, f ruleset.Family, prefix string) (map[string]map[string]int, error)
	// RemoveEmpty removes, at once, those of the chains that have no rules, and the table if it is to go and nothing is
	// left in it.
	RemoveEmpty(ctx context.Context, f ruleset.Family, table string, chains []string, andTable bool) error
}

// DefaultWait is how long to wait for a lock if Options do not say.
const DefaultWait = 5 * time.Second

func (o Options) dialect() Dialect { return cmp.Or(o.Dialect, Standard) }

func (o Options) wait() time.Duration {
	if o.Wait <= 0 {
		return DefaultWait
	}
	return o.Wait
}

// seconds is the wait as iptables takes it.
func (o Options) seconds() int { return int(max(o.wait()/time.Second, 1)) }

// Runner runs the programs of one variant of iptables.
//
// Its methods end when their context does: a program that is still at work is killed, and the error is the context's.
// Apply and Remove then put back what they found; that can take up to five seconds more.
//
// Other errors are [ruleset.ErrPermission], [ruleset.ErrUnsupported], [ruleset.ErrForeign] and [ruleset.ErrLocked], or
// others that say what failed. [errors.As] finds a [ProgramError] in them where a program refused, and a
// [ruleset.RuleError] where it is known which rule was.
type Runner struct {
	o        Options
	users    ruleset.IDs
	programs map[ruleset.Family]programs
	missing  map[ruleset.Family]error
}

func families() []ruleset.Family { return []ruleset.Family{ruleset.IPv4, ruleset.IPv6} }

// Open looks for the programs. It fails with [ruleset.ErrUnsupported] if there are none for either family.
func Open(o Options) (*Runner, error) {
	switch {
	case runtime.GOOS != "linux":
		return nil, ruleset.ErrNeedsLinux
	case o.Variant != NFT && o.Variant != Legacy:
		return nil, fmt.Errorf("%q is no variant of iptables; there are %q and %q", o.Variant, NFT, Legacy)
	case o.dialect() != Standard && o.dialect() != Minimal:
		return nil, fmt.Errorf("%q is no dialect of iptables; there are %q and %q", o.Dialect, Standard, Minimal)
	}
	if o.gvisor = gvisor.Here(); o.gvisor && o.Variant == NFT {
		return nil, fmt.Errorf("%w: gVisor has no nf_tables; use the backend iptables-legacy", ruleset.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.wait()) // a program may be asked what it is
	defer cancel()
	r := &Runner{o: o, users: userns.Mapped(userns.UIDs), programs: map[ruleset.Family]programs{},
		missing: map[ruleset.Family]error{}}
	r.o.sets = cmp.Or(o.sets, setFrom)
	for _, f := range families() {
		p, err := find(ctx, o.Variant, f)
		if err != nil {
			r.missing[f] = err
			continue
		}
		r.programs[f] = p
	}
	if len(r.programs) == 0 {
		return nil, r.missing[ruleset.IPv4]
	}
	return r, nil
}

// compile lowers rs for both families, without sets.
func (r *Runner) compile(rs ruleset.Ruleset) (map[ruleset.Family]program, error) {
	return r.compileForm(rs, 0)
}

// compileForm lowers rs for both families, with sets of lists that would be so many rules.
func (r *Runner) compileForm(rs ruleset.Ruleset, sets int) (map[ruleset.Family]program, error) {
	if r.o.gvisor && r.o.dialect() != Minimal {
		return nil, fmt.Errorf("%w: gVisor has no match comment; use --iptables-dialect minimal", ruleset.ErrUnsupported)
	}
	want := map[ruleset.Family]program{}
	o := r.o
	o.sets = sets
	for _, f := range families() {
		p, err := compile(rs, f, o, r.users)
		if err != nil {
			return nil, err
		}
		want[f] = p
	}
	return want, nil
}

// A form is what rs can be in the kernel, by family. A packet meets the same fate in each.
type form = map[ruleset.Family]program

// forms lowers rs in the best form that it can have here: with sets for long lists, if the kernel has sets. plain is then
// the other one, with a rule for each item, which takes a while: it is nil if the best is that, or if it is too much for
// rules.
func (r *Runner) forms(rs ruleset.Ruleset) (best form, plain func() form, err error) {
	if hasLong(rs, r.o.sets) && r.Sets() == nil {
		best, err = r.compileForm(rs, r.o.sets)
		if err != nil || len(best[ruleset.IPv4].sets)+len(best[ruleset.IPv6].sets) > 0 {
			return best, sync.OnceValue(func() form {
				plain, _ := r.compile(rs) // what is too much for rules is not in force
				return plain
			}), err
		}
	}
	best, err = r.compile(rs)
	return best, func() form { return nil }, err
}

// Apply makes the kernel's rules those of rs. Each table of each family is one transaction: a packet meets its old
// rules or its new ones. If one fails, those before it are undone. Where the same rules are in place it writes nothing,
// and their counters go on. It reads back what it wrote.
//
// Long lists are sets that the rules ask (ipset), if the kernel has sets, and else a rule for each item.
//
// An outcome beside an error says what was written all the same: it then did not read as it should, or could not be
// read before the context ended.
func (r *Runner) Apply(ctx context.Context, rs ruleset.Ruleset) (outcome ruleset.Outcome, err error) {
	best, plain, err := r.forms(rs)
	if err != nil {
		return "", err
	}
	outcome, err = r.applyForm(ctx, best, plain)
	if outcome == "" && errors.Is(err, ruleset.ErrUnsupported) && plain() != nil {
		// There may be no room for a set, or the program have no match for sets (libxt_set).
		return r.applyForm(ctx, plain(), func() form { return nil })
	}
	return outcome, err
}

// applyForm applies a form, if the other is not in force.
func (r *Runner) applyForm(ctx context.Context, want form, other func() form) (ruleset.Outcome, error) {
	for _, f := range families() {
		if err := r.missing[f]; err != nil && len(want[f].tables) > 0 {
			return "", fmt.Errorf("%s: %w", f, err)
		}
	}
	s, err := r.begin(ctx)
	if err != nil {
		return "", err
	}
	defer s.end()
	outcome, err := s.apply(ctx, want, other)
	// Another program, which our lock does not keep out, can have changed what was read before it was written to, or
	// what was written. What is there then is neither old nor new, and a program that has failed may not do so again.
	var mixed error
	for range 5 {
		if errors.Is(err, errMixed) || errors.Is(err, errNotHeld) {
			mixed = err
		}
		if ctx.Err() != nil || err == nil || mixed == nil && !errors.Is(err, errChanged) {
			break
		}
		var again ruleset.Outcome
		again, err = s.apply(ctx, want, other)
		outcome = cmp.Or(outcome, again)
	}
	if err != nil && mixed != nil && !errors.Is(err, errMixed) && !errors.Is(err, errNotHeld) {
		err = fmt.Errorf("%w; and then: %w", mixed, err)
	}
	return outcome, err
}

// Check compares the kernel with rs and returns the differences. None: it is as Apply leaves it, here or where there are
// no sets. It changes nothing. Where there is nothing of ours the error is [ruleset.ErrNotIntercepted].
func (r *Runner) Check(ctx context.Context, rs ruleset.Ruleset) ([]ruleset.Difference, error) {
	want, plain, err := r.forms(rs)
	if err != nil {
		return nil, err
	}
	s, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	have, err := s.readOurs(ctx)
	if err != nil {
		return nil, err
	}
	if !isAnyOurs(have) {
		return nil, ruleset.ErrNotIntercepted
	}
	if !isIn(want, have) {
		if other := plain(); other != nil && isIn(other, have) {
			want = other
		}
	}
	diffs, err := s.setDifferences(want)
	return append(r.differences(want, have), diffs...), err
}

// isIn reports whether every table of the programs is there, to go by the fingerprints.
func isIn(want form, have map[ruleset.Family]listing) bool {
	for f, p := range want {
		for _, t := range p.tables {
			if !have[f].table(t.name).has(t.chains[len(t.chains)-1].name) {
				return false
			}
		}
	}
	return true
}

func (r *Runner) differences(want map[ruleset.Family]program, have map[ruleset.Family]listing) []ruleset.Difference {
	var diffs []ruleset.Difference
	for _, f := range families() {
		for _, name := range tableNames() {
			for _, d := range have[f].table(name).differences(want[f].table(name), r.o) {
				d.What = f.String() + ", " + d.What
				diffs = append(diffs, d)
			}
		}
	}
	return diffs
}

// Remove takes our chains and the jumps to them out. It reports whether there were any. Of the legacy variant the
// tables stay, empty, since the kernel keeps them as long as the namespace.
func (r *Runner) Remove(ctx context.Context) (removed bool, err error) {
	s, err := r.begin(ctx)
	if err != nil {
		return false, err
	}
	defer s.end()
	before, err := s.readOurs(ctx)
	if err != nil {
		return false, err
	}
	for _, f := range families() {
		all := func(string) bool { return true }
		if err := errors.Join(before[f].references(f), before[f].setReferences(f, all)); err != nil {
			return false, fmt.Errorf("remove the rules: %w", err)
		}
	}
	others, err := s.askedByOthers(before)
	if err != nil {
		return false, err
	}
	for _, f := range families() {
		if !before[f].isOurs() {
			continue
		}
		if input := transition(before[f], program{family: f}, s.o); input != "" {
			if err := s.restore(ctx, program{family: f}, input); err != nil {
				return false, s.undo(ctx, before, f, fmt.Errorf("remove the rules: %w", err))
			}
		}
		removed = true
	}
	for _, f := range families() {
		if err := s.tidy(ctx, f, before[f], func(string) bool { return false }); err != nil {
			return removed, err
		}
	}
	swept, err := s.sweep(ctx, others, func(string) bool { return false })
	return removed || swept, err
}

// look reads what is there, or says that nothing of it is ours.
func (r *Runner) look(ctx context.Context) (map[ruleset.Family]listing, error) {
	s, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	have, err := s.readOurs(ctx)
	if err != nil {
		return nil, err
	}
	if !isAnyOurs(have) {
		return nil, ruleset.ErrNotIntercepted
	}
	return have, nil
}

func isAnyOurs(have map[ruleset.Family]listing) bool {
	return have[ruleset.IPv4].isOurs() || have[ruleset.IPv6].isOurs()
}
