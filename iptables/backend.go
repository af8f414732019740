// Package iptables puts a Ruleset into the kernel with iptables-restore and
// ip6tables-restore, of either variant, for kernels without nf_tables and for
// those who insist. Its methods act on the network namespace of the calling
// thread.
package iptables

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Options say how rules are written.
type Options struct {
	// Variant is the program to write them with.
	Variant Variant
	// Dialect is how much of xtables they use. Empty: Standard.
	Dialect Dialect
	// Last puts the jumps to our chains after the rules that the built-in
	// chains have, not before them.
	Last bool
	// Wait is how long to wait for a lock that another program holds. Zero:
	// DefaultWait.
	Wait time.Duration
	// SharedLock says that the other programs that write to the namespace use
	// the same file as a lock (XTABLES_LOCKFILE, /run/xtables.lock) as
	// programs started from here. It is true of the process's own namespace.
	SharedLock bool
	// Objects makes Remove take out what iptables-nft itself leaves of
	// nf_tables. Nil: it stays, empty. It is of no use with Legacy.
	Objects Objects
}

// Objects are the tables and base chains of nf_tables in the namespace.
// iptables-nft makes them when it writes and has no command to remove them.
type Objects interface {
	// BaseChains returns the base chains of each table of a family.
	BaseChains(ruleset.Family) (map[string][]string, error)
	// RemoveEmpty removes, at once, those of the chains that have no rules, and the
	// table if it is to go and nothing is left in it.
	RemoveEmpty(f ruleset.Family, table string, chains []string, andTable bool) error
}

// DefaultWait is how long one waits for a lock if Options do not say.
const DefaultWait = 5 * time.Second

func (o Options) dialect() Dialect { return cmp.Or(o.Dialect, Standard) }

// Backend writes with one variant of iptables.
type Backend struct {
	o        Options
	programs map[ruleset.Family]programs
	missing  map[ruleset.Family]error
}

var families = []ruleset.Family{ruleset.IPv4, ruleset.IPv6}

// Open looks for the programs. It fails with [ruleset.ErrUnsupported] if
// there are none for either family.
func Open(o Options) (*Backend, error) {
	switch {
	case o.Variant != NFT && o.Variant != Legacy:
		return nil, fmt.Errorf("%q is no variant of iptables; there are %q and %q", o.Variant, NFT, Legacy)
	case o.dialect() != Standard && o.dialect() != Minimal:
		return nil, fmt.Errorf("%q is no dialect of iptables; there are %q and %q", o.Dialect, Standard, Minimal)
	}
	b := &Backend{o: o, programs: map[ruleset.Family]programs{}, missing: map[ruleset.Family]error{}}
	for _, f := range families {
		p, err := find(o.Variant, f)
		if err != nil {
			b.missing[f] = err
			continue
		}
		b.programs[f] = p
	}
	if len(b.programs) == 0 {
		return nil, b.missing[ruleset.IPv4]
	}
	return b, nil
}

// Apply makes the kernel's rules those of rs. Each table of each family is one
// transaction: a packet meets its old rules or its new ones. If one fails, those
// before it are undone. Where the same rules are in place it writes nothing,
// and their counters go on. It reads back what it wrote.
//
// The errors are [ruleset.ErrPermission], [ruleset.ErrUnsupported],
// [ruleset.ErrForeign] and [ruleset.ErrLocked], or others that say what failed.
// An outcome beside an error says what was written all the same: it then did
// not read as it should.
func (b *Backend) Apply(rs ruleset.Ruleset) (ruleset.Outcome, error) {
	want := map[ruleset.Family]program{}
	for _, f := range families {
		p, err := compile(rs, f, b.o.dialect())
		if err != nil {
			return "", err
		}
		if err := b.missing[f]; err != nil && len(p.tables) > 0 {
			return "", fmt.Errorf("%s: %w", f, err)
		}
		want[f] = p
	}
	s, err := b.begin()
	if err != nil {
		return "", err
	}
	defer s.end()
	outcome, err := s.apply(want)
	// Another program, which our lock does not keep out, can have changed what
	// was read before it was written to, or what was written.
	for range 3 {
		if !errors.Is(err, errChanged) && !errors.Is(err, errNotHeld) {
			break
		}
		var again ruleset.Outcome
		again, err = s.apply(want)
		outcome = cmp.Or(outcome, again)
	}
	return outcome, err
}

var (
	// errChanged reports that the tables changed between looking and writing.
	errChanged = errors.New("another program changed the tables meanwhile")
	// errNotHeld reports that what was written reads differently.
	errNotHeld = errors.New("the kernel does not hold what it was given")
)

// session is a change or a look, with the namespace locked.
type session struct {
	*Backend
	env []string
	// files are for the programs: the lock of xtables, and that of the
	// namespace. One that outlives this process keeps the others of us out
	// until it has ended, so that it cannot write over what they do.
	files []*os.File
}

func (b *Backend) begin() (*session, error) {
	namespace, err := lockNamespace(b.o.wait())
	if err != nil {
		return nil, err
	}
	path, lock, err := b.o.xtablesLock()
	if err != nil {
		return nil, errors.Join(err, namespace.Close())
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "XTABLES_LOCKFILE=" + path}
	if dir, ok := os.LookupEnv("XTABLES_LIBDIR"); ok {
		env = append(env, "XTABLES_LIBDIR="+dir)
	}
	return &session{b, env, []*os.File{lock, namespace}}, nil
}

func (s *session) end() {
	for _, f := range s.files {
		_ = f.Close()
	}
}

func (s *session) apply(want map[ruleset.Family]program) (ruleset.Outcome, error) {
	before, err := s.read()
	if err != nil {
		return "", err
	}
	outcome := ruleset.Unchanged
	inputs := map[ruleset.Family]string{}
	wasOurs := false
	for _, f := range families {
		if err := before[f].foreign(f); err != nil {
			return "", err
		}
		wasOurs = wasOurs || before[f].isOurs()
		if transition(before[f], want[f], s.o) != "" {
			outcome = ruleset.Created
			p, err := s.remember(want[f])
			if err != nil {
				return "", err
			}
			want[f] = p
			inputs[f] = transition(before[f], p, s.o)
		}
	}
	tidy := func() error {
		for _, f := range families {
			err := s.tidy(f, before[f], func(table string) bool { return len(want[f].table(table).chains) > 0 })
			if err != nil {
				return err
			}
		}
		return nil
	}
	if outcome == ruleset.Unchanged {
		return outcome, tidy() // an earlier one may have been killed before it came to that
	}
	if wasOurs {
		outcome = ruleset.Replaced
	}
	for _, f := range families {
		if inputs[f] == "" {
			continue
		}
		if err := s.restore(f, inputs[f]); err != nil {
			return "", s.undo(before, f, err)
		}
	}
	// What a family no longer needs goes last.
	if err := tidy(); err != nil {
		return outcome, err
	}
	return outcome, s.verify(want)
}

// undo puts back what was there, in all families, after f could not be written.
func (s *session) undo(before map[ruleset.Family]listing, f ruleset.Family, cause error) error {
	now, err := s.read()
	if err != nil {
		return fmt.Errorf("%s: %w; what was written before it could not be read to be undone: %w", f, cause, err)
	}
	for _, g := range families {
		if input := restoration(before[g], now[g], s.o); input != "" {
			if err := s.restore(g, input); err != nil {
				return fmt.Errorf("%s: %w; the %s rules written before it could not be undone: %w", f, cause, g, err)
			}
		}
		if err := s.tidy(g, now[g], func(table string) bool { return len(before[g].table(table).ours()) > 0 }); err != nil {
			return fmt.Errorf("%s: %w; undone, but %w", f, cause, err)
		}
	}
	if now, err = s.read(); err != nil {
		return fmt.Errorf("%s: %w; undone, but it could not be read back: %w", f, cause, err)
	}
	for _, g := range families {
		if !before[g].same(now[g]) {
			// Not by us: what failed was meant for something else.
			return fmt.Errorf("%s: %w: %w", f, errChanged, cause)
		}
	}
	if refusal := (*failure)(nil); errors.As(cause, &refusal) && refusal.missed() {
		return fmt.Errorf("%s: %w: %w", f, errChanged, cause)
	}
	return fmt.Errorf("%s: %w", f, cause)
}

// verify reads back what was written.
func (s *session) verify(want map[ruleset.Family]program) error {
	now, err := s.read()
	if err != nil {
		return fmt.Errorf("the rules are written, but could not be read back: %w", err)
	}
	if diffs := s.differences(want, now); len(diffs) > 0 {
		text := make([]string, len(diffs))
		for i, d := range diffs {
			text[i] = d.String()
		}
		return fmt.Errorf("%w: %s", errNotHeld, strings.Join(text, "; "))
	}
	return nil
}

func (s *session) differences(want map[ruleset.Family]program, have map[ruleset.Family]listing) []ruleset.Difference {
	var diffs []ruleset.Difference
	for _, f := range families {
		for _, name := range tableNames {
			for _, d := range have[f].table(name).differences(want[f].table(name), s.o) {
				d.What = f.String() + ", " + d.What
				diffs = append(diffs, d)
			}
		}
	}
	return diffs
}

// Check compares the kernel with rs and returns the differences. None: it is
// as Apply leaves it. It changes nothing. Where there is nothing of ours the
// error is [ruleset.ErrNotIntercepted].
func (b *Backend) Check(rs ruleset.Ruleset) ([]ruleset.Difference, error) {
	want := map[ruleset.Family]program{}
	for _, f := range families {
		p, err := compile(rs, f, b.o.dialect())
		if err != nil {
			return nil, err
		}
		want[f] = p
	}
	s, have, err := b.look()
	if err != nil {
		return nil, err
	}
	return s.differences(want, have), nil
}

// look reads what is there, or says that nothing of it is ours.
func (b *Backend) look() (*session, map[ruleset.Family]listing, error) {
	s, err := b.begin()
	if err != nil {
		return nil, nil, err
	}
	defer s.end()
	have, err := s.read()
	if err != nil {
		return nil, nil, err
	}
	ours := false
	for _, f := range families {
		if err := have[f].foreign(f); err != nil {
			return nil, nil, err
		}
		ours = ours || have[f].isOurs()
	}
	if !ours {
		return nil, nil, ruleset.ErrNotIntercepted
	}
	return s, have, nil
}

// Remove takes our chains and the jumps to them out. It reports whether there
// were any. Of the legacy variant the tables stay, empty, since the kernel
// keeps them as long as the namespace.
func (b *Backend) Remove() (removed bool, err error) {
	s, err := b.begin()
	if err != nil {
		return false, err
	}
	defer s.end()
	before, err := s.read()
	if err != nil {
		return false, err
	}
	for _, f := range families {
		if err := before[f].foreign(f); err != nil {
			return false, err
		}
	}
	for _, f := range families {
		if !before[f].isOurs() {
			continue
		}
		if input := transition(before[f], program{family: f}, s.o); input != "" {
			if err := s.restore(f, input); err != nil {
				return false, s.undo(before, f, fmt.Errorf("remove the rules: %w", err))
			}
		}
		removed = true
	}
	for _, f := range families {
		if err := s.tidy(f, before[f], func(string) bool { return false }); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// Counters returns what the rules have counted since they were applied, in the
// order packets meet them. The many rules that one rule of the policy can be
// are added up. Where there is nothing of ours the error is
// [ruleset.ErrNotIntercepted].
func (b *Backend) Counters() ([]ruleset.Counter, error) {
	_, have, err := b.look()
	if err != nil {
		return nil, err
	}
	var counters []ruleset.Counter
	for _, f := range families {
		for _, name := range tableNames {
			for _, c := range inOrder(have[f].table(name).ours()) {
				for _, r := range c.rules {
					key := r.key()
					if key.Comment == plumbing {
						continue
					}
					chain, _ := partOf(c.name)
					k := ruleset.Counter{Chain: chain, Reason: r.spec, Family: f.String(), Packets: r.packets, Bytes: r.bytes}
					if id, reason := ruleset.ParseComment(key.Comment); id != "" {
						k.Rule, k.Line, k.Reason = id, id.Line(), reason
					}
					if n := len(counters); n > 0 && counters[n-1].Chain == k.Chain && counters[n-1].Rule == k.Rule &&
						counters[n-1].Reason == k.Reason && counters[n-1].Family == k.Family {
						counters[n-1].Packets += k.Packets
						counters[n-1].Bytes += k.Bytes
						continue
					}
					counters = append(counters, k)
				}
			}
		}
	}
	return counters, nil
}

// inOrder puts the parts of each chain into the order of their numbers. They
// are listed by name, NAME_10 before NAME_2.
func inOrder(chains []savedChain) []savedChain {
	return slices.SortedStableFunc(slices.Values(chains), func(a, b savedChain) int {
		nameA, numberA := partOf(a.name)
		nameB, numberB := partOf(b.name)
		return cmp.Or(cmp.Compare(nameA, nameB), cmp.Compare(numberA, numberB))
	})
}

// partOf returns the Ruleset's name of a chain or of a part of it, and the
// part's number.
func partOf(name string) (string, int) {
	name = strings.ToLower(strings.TrimPrefix(name, prefix))
	if i := strings.LastIndexByte(name, '_'); i >= 0 {
		if n, err := strconv.Atoi(name[i+1:]); err == nil {
			return name[:i], n
		}
	}
	return name, 0
}

// read lists both families.
func (s *session) read() (map[ruleset.Family]listing, error) {
	var errs []error
	running := map[ruleset.Family]*process{}
	for _, f := range families {
		there, err := s.mayHave(f)
		if err == nil && there {
			running[f], err = s.programs[f].save.start("", s.env, s.files, "-c")
		}
		errs = append(errs, err)
	}
	have := map[ruleset.Family]listing{}
	for _, f := range families {
		if running[f] == nil {
			continue
		}
		text, err := running[f].finish()
		if err == nil {
			have[f], err = parse(text)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("list the rules: %w", err)
	}
	return have, nil
}

// mayHave reports whether there can be anything of this variant.
func (s *session) mayHave(f ruleset.Family) (bool, error) {
	switch {
	case s.missing[f] != nil:
		return false, nil
	case s.o.Variant == Legacy:
		return legacyLoaded(f), nil
	case s.o.Objects == nil:
		return true, nil
	}
	tables, err := s.o.Objects.BaseChains(f)
	return len(tables) > 0, err
}

// legacyLoaded reports whether the namespace of the calling thread has any
// table of the legacy variant. It asks for none, so it brings none about.
func legacyLoaded(f ruleset.Family) bool {
	names, err := os.ReadFile("/proc/thread-self/net/" + namesFile(f))
	return err == nil && len(names) > 0
}

// restore loads a text.
func (s *session) restore(f ruleset.Family, input string) error {
	args := []string{"--noflush", "--counters"}
	if s.o.Variant == Legacy {
		args = append(args, "--wait="+strconv.Itoa(int(max(s.o.wait()/time.Second, 1))))
	}
	_, err := s.programs[f].restore.run(input, s.env, s.files, args...)
	if failed, ok := errors.AsType[*failure](err); ok && s.o.Variant == Legacy {
		failed.askForTable(f)
	}
	if errors.Is(err, ruleset.ErrLocked) {
		return fmt.Errorf("%w: the lock %s is held, %s", err, s.files[0].Name(), holder(s.files[0]))
	}
	return err
}

// remember adds to p the chains that say which objects of nf_tables are made
// for it.
func (s *session) remember(p program) (program, error) {
	if s.o.Variant != NFT || s.o.Objects == nil || len(p.tables) == 0 {
		return p, nil
	}
	there, err := s.o.Objects.BaseChains(p.family)
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

// tidy removes the objects of nf_tables that were made for rules which are
// gone, and the chains that say so, all of them of a table at once: whoever is
// killed before it leaves the chains, so that the next one does it.
func (s *session) tidy(f ruleset.Family, have listing, inUse func(table string) bool) error {
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
		if err := s.o.Objects.RemoveEmpty(f, t.name, chains, andTable); err != nil {
			return fmt.Errorf("remove what is left of table %s: %w", t.name, err)
		}
	}
	return nil
}

// same reports whether two listings have the same rules in the same chains.
// Tables without rules do not count: the kernel keeps those of the legacy
// variant once they were asked for.
func (l listing) same(other listing) bool {
	rules := func(l listing) (all []string) {
		for _, name := range tableNames {
			for _, c := range l.table(name).chains {
				if !c.builtin && !strings.HasPrefix(c.name, madePrefix) {
					all = append(all, name+" "+c.name)
				}
				for _, r := range c.rules {
					all = append(all, name+" "+c.name+" "+r.spec)
				}
			}
		}
		return all
	}
	return slices.Equal(rules(l), rules(other))
}
