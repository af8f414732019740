package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/internal/nslock"
	"github.com/mesh-intercept/intercept/ruleset"
)

var (
	// errChanged reports that the tables changed between looking and writing.
	errChanged = errors.New("another program changed the tables meanwhile")
	// errMixed reports that so it was, and that what was written until then could not be told from what is there.
	errMixed = errors.New("another program changed the tables meanwhile, and some of the rules may be in force")
	// errNotHeld reports that what was written reads differently.
	errNotHeld = errors.New("the kernel does not hold what it was given")
)

// undoTime is how long an undo may take. Its context is not the caller's, which may have ended.
const undoTime = 5 * time.Second

// session is a change or a look, with the namespace locked.
type session struct {
	*Runner
	env []string
	// files are for the programs: the lock of xtables, and that of the namespace. One that outlives this process keeps
	// the others of us out until it has ended, so that it cannot write over what they do.
	files []*os.File
	own   []*os.File  // of those, the ones to close
	sets  *ipset.Conn // nil until it is needed
}

// begin locks the namespace, unless the caller has. What is read in order to write it must still hold when it is
// written, and the lock of xtables covers no more than one program's run.
func (r *Runner) begin(ctx context.Context) (*session, error) {
	namespace := r.o.Lock
	if namespace == nil {
		var err error
		if namespace, err = nslock.Open(ctx, r.o.wait(), nil); err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			return nil, err
		}
	}
	path, lock, err := r.o.xtablesLock()
	s := &session{Runner: r, files: []*os.File{lock, namespace}, own: []*os.File{lock, namespace}}
	if r.o.Lock != nil {
		s.own = s.own[:1]
	}
	if err != nil {
		s.end()
		return nil, err
	}
	s.env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "XTABLES_LOCKFILE=" + path}
	if dir, ok := os.LookupEnv("XTABLES_LIBDIR"); ok {
		s.env = append(s.env, "XTABLES_LIBDIR="+dir)
	}
	return s, nil
}

func (s *session) end() {
	for _, f := range s.own {
		_ = f.Close() // a lock; nothing was written to it
	}
	if s.sets != nil {
		_ = s.sets.Close() // a socket, of which every answer was read
	}
}

func (s *session) apply(ctx context.Context, want form, other func() form) (ruleset.Outcome, error) {
	before, err := s.readOurs(ctx)
	if err != nil {
		return "", err
	}
	if isAnyOurs(before) && !isIn(want, before) {
		if plain := other(); plain != nil && isIn(plain, before) && len(s.differences(plain, before)) == 0 {
			want = plain // written where there were no sets, or by hand
		}
	}
	others, err := s.askedByOthers(before)
	if err != nil {
		return "", err
	}
	inUse := func(set string) bool { return isAsked(want, set) }
	for _, f := range families() {
		if err := before[f].setReferences(f, func(set string) bool { return !inUse(set) }); err != nil {
			return "", err
		}
	}
	setsChanged, err := s.makeSets(want)
	if err != nil {
		return "", s.sweepAfter(before, err)
	}
	outcome := ruleset.Unchanged
	inputs := map[ruleset.Family]string{}
	for _, f := range families() {
		if transition(before[f], want[f], s.o) == "" {
			continue
		}
		outcome = ruleset.Created
		p, err := s.remember(ctx, want[f])
		if err != nil {
			return "", err
		}
		want[f] = p
		inputs[f] = transition(before[f], p, s.o)
	}
	tidy := func() error {
		for _, f := range families() {
			inUse := func(table string) bool { return len(want[f].table(table).chains) > 0 }
			if err := s.tidy(ctx, f, before[f], inUse); err != nil {
				return err
			}
		}
		_, err := s.sweep(ctx, others, inUse)
		return err
	}
	if outcome == ruleset.Unchanged && !setsChanged {
		return outcome, tidy() // an earlier one may have been killed before it came to that
	}
	if before[ruleset.IPv4].isOurs() || before[ruleset.IPv6].isOurs() {
		outcome = ruleset.Replaced
	}
	for _, f := range families() {
		if inputs[f] == "" {
			continue
		}
		if err := s.restore(ctx, want[f], inputs[f]); err != nil {
			return "", s.undo(ctx, before, f, err)
		}
	}
	// What a family no longer needs goes last.
	if err := tidy(); err != nil {
		return outcome, err
	}
	return outcome, s.verify(ctx, want)
}

// sweepAfter takes out the sets that were made before something failed. Those that are mended stay so: what is in a set
// its name says, and the rules that ask it were written for that.
func (s *session) sweepAfter(before map[ruleset.Family]listing, cause error) error {
	others, err := s.askedByOthers(before)
	if err == nil {
		_, err = s.sweep(context.Background(), others, func(string) bool { return true })
	}
	if err != nil {
		return fmt.Errorf("%w; %w", cause, err)
	}
	return cause
}

// undo puts back what was there, in all families, after f could not be written.
func (s *session) undo(ctx context.Context, before map[ruleset.Family]listing, f ruleset.Family, cause error) error {
	return s.sweepAfter(before, s.undoRules(ctx, before, f, cause))
}

func (s *session) undoRules(ctx context.Context, before map[ruleset.Family]listing, f ruleset.Family,
	cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	now, err := s.putBack(ctx, before)
	for range 4 { // a program that has failed once may do so again
		if err == nil || ctx.Err() != nil {
			break
		}
		now, err = s.putBack(ctx, before)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; %w", f, cause, err)
	}
	for _, g := range families() {
		if !before[g].same(now[g]) {
			// Not by us: what failed was meant for something else.
			return fmt.Errorf("%s: %w: %w", f, errMixed, cause)
		}
	}
	if refusal, ok := errors.AsType[*ProgramError](cause); ok && refusal.missed() {
		return fmt.Errorf("%s: %w: %w", f, errChanged, cause)
	}
	return fmt.Errorf("%s: %w", f, cause)
}

// putBack makes what is there what was there before, and returns what is there then.
func (s *session) putBack(ctx context.Context, before map[ruleset.Family]listing) (map[ruleset.Family]listing, error) {
	now, err := s.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("what was written before it could not be read to be undone: %w", err)
	}
	for _, g := range families() {
		if input := restoration(before[g], now[g], s.o); input != "" {
			if err := s.restore(ctx, program{family: g}, input); err != nil {
				return nil, fmt.Errorf("the %s rules written before it could not be undone: %w", g, err)
			}
		}
		inUse := func(table string) bool { return len(before[g].table(table).ours()) > 0 }
		if err := s.tidy(ctx, g, now[g], inUse); err != nil {
			return nil, fmt.Errorf("undone, but %w", err)
		}
	}
	if now, err = s.read(ctx); err != nil {
		return nil, fmt.Errorf("undone, but it could not be read back: %w", err)
	}
	return now, nil
}

// verify reads back what was written.
func (s *session) verify(ctx context.Context, want map[ruleset.Family]program) error {
	now, err := s.read(ctx)
	if err != nil {
		return fmt.Errorf("the rules are written, but could not be read back: %w", err)
	}
	diffs, err := s.setDifferences(want)
	if err != nil {
		return fmt.Errorf("the rules are written, but their sets could not be read back: %w", err)
	}
	if diffs = append(s.differences(want, now), diffs...); len(diffs) > 0 {
		text := make([]string, len(diffs))
		for i, d := range diffs {
			text[i] = d.String()
		}
		return fmt.Errorf("%w: %s", errNotHeld, strings.Join(text, "; "))
	}
	return nil
}

// readOurs is read, and refuses chains of our names that are not ours.
func (s *session) readOurs(ctx context.Context) (map[ruleset.Family]listing, error) {
	have, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range families() {
		if err := have[f].foreign(f); err != nil {
			return nil, err
		}
	}
	return have, nil
}

// read lists both families.
func (s *session) read(ctx context.Context) (map[ruleset.Family]listing, error) {
	if s.o.gvisor {
		return readEntriesOfAll()
	}
	const attempts = 20
	for range attempts {
		have, err := s.list(ctx)
		if err != nil || s.o.Variant != NFT || s.o.Objects == nil {
			return have, err
		}
		whole := true
		for _, f := range families() {
			counts, err := s.o.Objects.CountRules(ctx, f, prefix)
			if err != nil {
				return nil, err
			}
			whole = whole && (s.missing[f] != nil || have[f].has(counts))
		}
		if whole {
			return have, nil
		}
	}
	return nil, fmt.Errorf("list the rules: iptables-nft-save has left out some of them, %d times", attempts)
}

// has reports whether the listing has all of ours that the kernel has. iptables-nft-save (1.8.9) passes over the errors
// of its own questions: where an answer was lost (ENOBUFS), or a signal came, it lists what it has, and says nothing.
func (l listing) has(counts map[string]map[string]int) bool {
	for _, name := range tableNames() {
		listed := map[string]int{}
		for _, c := range l.table(name).chains {
			if strings.HasPrefix(c.name, prefix) {
				listed[c.name] = len(c.rules)
				continue
			}
			for _, r := range c.rules {
				if r.isJump() {
					listed[c.name]++
				}
			}
		}
		if !maps.Equal(listed, counts[name]) {
			return false
		}
	}
	return true
}

// list runs the programs that list, for both families at once.
func (s *session) list(ctx context.Context) (map[ruleset.Family]listing, error) {
	var errs []error
	running := map[ruleset.Family]*process{}
	for _, f := range families() {
		there, err := s.mayHave(ctx, f)
		if err == nil && there {
			running[f], err = s.programs[f].save.start(ctx, "", s.env, s.files, "-c")
		}
		errs = append(errs, err)
	}
	have := map[ruleset.Family]listing{}
	for _, f := range families() {
		if running[f] == nil {
			continue
		}
		text, err := running[f].finish(ctx)
		if err == nil {
			have[f], err = parse(text)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, withRemedy(fmt.Errorf("list the rules: %w", err))
	}
	return have, nil
}

// readEntriesOfAll lists both families without a program.
func readEntriesOfAll() (map[ruleset.Family]listing, error) {
	have := map[ruleset.Family]listing{}
	for _, f := range families() {
		var bad error
		err := legacyContents(f, func(table string, info, entries []byte) bool {
			var t savedTable
			if t, bad = decode(f, table, info, entries); bad == nil {
				have[f] = append(have[f], t)
			}
			return bad == nil
		})
		if err == nil && bad != nil {
			err = fmt.Errorf("list the rules of %s: %w", f, bad)
		}
		if err != nil {
			return nil, err
		}
	}
	return have, nil
}

// mayHave reports whether there can be anything of this variant.
func (s *session) mayHave(ctx context.Context, f ruleset.Family) (bool, error) {
	if s.missing[f] != nil {
		return false, nil
	}
	tables, err := s.tables(ctx, f)
	return len(tables) > 0, err
}

// restore loads a text, which makes p of what is there.
func (s *session) restore(ctx context.Context, p program, input string) error {
	args := []string{"--noflush", "--counters"}
	if s.o.Variant == Legacy {
		args = append(args, "--wait="+strconv.Itoa(s.o.seconds()))
	}
	_, err := s.programs[p.family].restore.run(ctx, input, s.env, s.files, args...)
	refusal, ok := errors.AsType[*ProgramError](err)
	if !ok {
		return err
	}
	if s.o.Variant == Legacy {
		refusal.askForTable(p.family)
	}
	err = p.why(s.o, err)
	if chain, r, ok := p.ruleAt(input, refusal.Line); ok {
		err = &ruleset.RuleError{Chain: chain, Rule: r.id, Err: err}
	}
	if errors.Is(err, ruleset.ErrLocked) {
		return fmt.Errorf("%w: the lock %s is held, %s", err, s.files[0].Name(), holder(s.files[0]))
	}
	return withRemedy(err)
}

// remember adds to p the chains that say which objects of nf_tables are made for it.
func (s *session) remember(ctx context.Context, p program) (program, error) {
	if s.o.Variant != NFT || s.o.Objects == nil || len(p.tables) == 0 {
		return p, nil
	}
	there, err := s.o.Objects.BaseChains(ctx, p.family)
	if err != nil {
		return program{}, err
	}
	tables := slices.Clone(p.tables)
	for i, t := range tables {
		made := []chain{}
		chains, hasTable := there[t.name]
		if !hasTable {
			made = append(made, chain{name: madeTable})
		}
		for _, j := range t.jumps {
			if !slices.Contains(chains, j.builtin) {
				made = append(made, chain{name: madePrefix + j.builtin})
			}
		}
		tables[i].chains = slices.Concat(t.chains, made)
	}
	p.tables = tables
	return p, nil
}

// tidy removes the objects of nf_tables that were made for rules which are gone, and the chains that say so, all of
// them of a table at once: whoever is killed before it leaves the chains, so that the next one does it.
func (s *session) tidy(ctx context.Context, f ruleset.Family, have listing, inUse func(table string) bool) error {
	if s.o.Variant != NFT || s.o.Objects == nil {
		return nil
	}
	for _, t := range have {
		var chains []string
		andTable := false
		for _, c := range t.ours() {
			if what, ok := strings.CutPrefix(c.name, madePrefix); ok {
				chains = append(chains, c.name)
				if c.name == madeTable {
					andTable = true
				} else {
					chains = append(chains, what)
				}
			}
		}
		if len(chains) == 0 || inUse(t.name) {
			continue
		}
		if err := s.o.Objects.RemoveEmpty(ctx, f, t.name, chains, andTable); err != nil {
			return fmt.Errorf("remove what is left of table %s: %w", t.name, err)
		}
	}
	return nil
}
