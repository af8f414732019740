//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/ruleset"
)

func dial() (*netlink.Conn, error) { return dialWith(bufferSize) }

func dialWith(buffers int) (*netlink.Conn, error) {
	sock, err := nlsock.Dial(unix.NETLINK_NETFILTER, buffers)
	return sock, explain(err, "open a netlink socket")
}

// maxAttempts bounds how often a change starts over because somebody else
// changed the tables meanwhile.
const maxAttempts = 100

func (conn *Conn) apply(ctx context.Context, rs ruleset.Ruleset, lay layout) (ruleset.Outcome, error) {
	prog, err := compile(rs, lay)
	if err != nil {
		return "", err
	}
	var unheard ruleset.Outcome // that of an attempt to which the kernel's answer was lost
	missed := 0
	for range maxAttempts {
		if err := ctx.Err(); err != nil {
			return unheard, err
		}
		outcome, err := conn.attempt(prog, rs.KeptNote)
		missing, isMissing := errors.AsType[*missingError](err)
		switch {
		case errors.Is(err, errChanged):
		case isMissing:
			if missed++; missed > maxMissed {
				return "", conn.blame(prog, missing.err)
			}
		case errors.Is(err, errUnheard):
			unheard = outcome
		case outcome == ruleset.Unchanged && unheard != "":
			return unheard, err
		default:
			return outcome, err
		}
	}
	if unheard != "" {
		return unheard, fmt.Errorf("apply the rules: %w, %d times: they may be in force", errUnheard, maxAttempts)
	}
	return "", fmt.Errorf("apply the rules: the tables changed under %d attempts; another program keeps writing them",
		maxAttempts)
}

// errChanged reports that the tables changed between looking and writing.
var errChanged = errors.New("the tables changed meanwhile")

// errUnheard reports that the kernel's answer was lost, so that nobody knows whether it has done what it was asked.
var errUnheard = errors.New("the kernel's answer was lost (ENOBUFS): there is no memory for it")

// missingError reports that the kernel has not what a replacement asks for: an expression, or a set that was there when
// its table was looked at. A look at the moment when another change comes into force can show what was before it, in
// the generation that is after it. Then the next look, for which the change has to be over, shows what is there.
type missingError struct{ err error }

func (e *missingError) Error() string { return e.err.Error() }

// maxMissed bounds how often a replacement starts over because something was missing.
const maxMissed = 3

func (conn *Conn) attempt(prog program, note func() (string, error)) (ruleset.Outcome, error) {
	// What is written below holds only for what was looked at: a table of
	// another family that came up meanwhile would otherwise stay beside ours.
	st, generation, err := conn.find()
	if err != nil {
		return "", err
	}
	outcome := ruleset.Created
	if len(st) > 0 {
		outcome = ruleset.Replaced
		if err := conn.refuseForeign(st, generation); err != nil {
			return "", err
		}
		same, err := conn.holds(prog, st)
		if err != nil {
			return "", err
		}
		if same {
			return ruleset.Unchanged, nil
		}
	}
	text, err := note()
	if err == nil {
		err = prog.keep(text, conn.seen.older())
	}
	if err != nil {
		return "", err
	}
	if err := conn.write(prog, st, generation); err != nil {
		switch {
		case isChange(err):
			return "", errChanged
		case errors.Is(err, unix.ENOBUFS):
			return outcome, errUnheard
		case outcome == ruleset.Replaced && errors.Is(err, unix.ENOENT):
			return "", &missingError{err}
		}
		return "", conn.blame(prog, err)
	}
	if outcome == ruleset.Created {
		// The kernel acknowledges the last of the messages when it has committed all of them, and there is nothing of ours
		// beside them (nfnetlink_rcv_batch in net/netfilter/nfnetlink.c).
		return outcome, nil
	}
	return outcome, conn.verify(prog)
}

// refuseForeign reports a table of our name that is not ours. One that was
// replaced between the look at the tables and the look at their chains looks
// like it, too, so the generation has to be the one from before.
func (conn *Conn) refuseForeign(st state, generation uint32) error {
	foreign := st.foreign()
	if foreign == nil {
		return nil
	}
	now, err := conn.generation()
	switch {
	case err != nil:
		return err
	case now != generation:
		return errChanged
	}
	return foreign
}

// holds reports whether the kernel has exactly the program.
func (conn *Conn) holds(prog program, st state) (bool, error) {
	if len(st) != len(prog) || !prog.isIn(st) {
		return false, nil
	}
	if err := conn.load(st); err != nil {
		return false, err
	}
	return len(prog.differences(st)) == 0, nil
}

// verify reads back what was committed. Another apply may have replaced it
// since; that is no failure of this one.
func (conn *Conn) verify(prog program) error {
	// A plain reading is enough if it shows what it should.
	diffs, err := conn.compareIfThere(prog, conn.read)
	if err == nil && len(diffs) > 0 || errors.Is(err, errChanged) {
		diffs, err = conn.compareIfThere(prog, conn.readAtOnce)
	}
	switch {
	case err != nil:
		return fmt.Errorf("the rules are written, but could not be read back: %w", err)
	case len(diffs) == 0:
		return nil
	}
	return fmt.Errorf("the kernel does not hold what it was given: %s", joinDifferences(diffs))
}

func (conn *Conn) compareIfThere(prog program, read func() (state, uint32, error)) ([]ruleset.Difference, error) {
	st, _, err := read()
	if err != nil || !prog.isIn(st) {
		return nil, err
	}
	return prog.differences(st), nil
}

// read returns the content of our tables. If they are replaced meanwhile it is
// a mixture, or errChanged. It is whole if the rules are of the generation afterwards, too.
func (conn *Conn) read() (state, uint32, error) {
	st, generation, err := conn.find()
	if err == nil {
		err = conn.load(st)
	}
	return st, generation, err
}

// readAtOnce returns the content of our tables as it was at one moment.
func (conn *Conn) readAtOnce() (state, uint32, error) {
	for range maxAttempts {
		st, before, err := conn.read()
		if errors.Is(err, errChanged) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		after, err := conn.generation()
		if err != nil {
			return nil, 0, err
		}
		if after == before {
			return st, after, nil
		}
	}
	return nil, 0, fmt.Errorf("read the rules: the tables changed during %d attempts; another program keeps writing them",
		maxAttempts)
}

func joinDifferences(diffs []ruleset.Difference) string {
	s := make([]string, len(diffs))
	for i, d := range diffs {
		s[i] = d.String()
	}
	return strings.Join(s, "; ")
}

// write sends the program in one transaction, after the removal of what is
// there. What is not there is not removed: removing anything makes the closing
// of the socket wait for the kernel (5 to 15 ms).
//
// Where rules are replaced, the sets of ranges come before them, in a transaction of their own: the kernel brings the
// rules of a transaction into force before its sets of ranges (nft_set_commit_update in net/netfilter/nf_tables_api.c),
// and in between each set is empty.
func (conn *Conn) write(prog program, old state, generation uint32) error {
	if prog.canFollow(old) {
		return conn.replace(prog, old, generation)
	}
	var t batch
	for _, kt := range old {
		t.deleteTable(kt.family, Table)
	}
	for _, tab := range prog {
		t.addTable(tab, Table, func(*rule) bool { return true })
	}
	return conn.commit(&t, generation)
}

// canFollow reports whether the program can take the place of what is there in the tables that are there: they are the
// same, and NAT asks no other's chain before ours.
func (p program) canFollow(old state) bool {
	return len(old) == len(p) && !slices.ContainsFunc(old, func(kt kernelTable) bool {
		return kt.flags != 0 || slices.ContainsFunc(kt.first, func(l firstChain) bool { return l.newer }) ||
			!slices.ContainsFunc(p, func(t table) bool { return t.family == kt.family })
	})
}

// replace sends first the sets of ranges that are not there yet, then the rest.
func (conn *Conn) replace(prog program, old state, generation uint32) error {
	var first, undo, rest batch
	for _, kt := range old {
		t := prog[slices.IndexFunc(prog, func(t table) bool { return t.family == kt.family })]
		there, err := conn.sets(kt.family, Table)
		if err != nil {
			return orChanged(err)
		}
		kept := map[string]bool{}
		var sets []set // that come with the rules
		for i, s := range t.sets {
			if !s.key.isInterval() {
				sets = append(sets, s)
				continue
			}
			kept[s.name] = true
			at := slices.IndexFunc(there, func(ks kernelSet) bool { return ks.name == s.name })
			if at < 0 {
				first.addSet(t.family, Table, s, uint32(i+1))
				undo.deleteSet(t.family, Table, s.name)
				continue
			}
			elements, err := conn.elements(kt.family, s.name)
			if err != nil {
				return orChanged(err)
			}
			if !s.isOfType(there[at]) || !elements.equal(s.elements()) { // somebody has changed it
				kept[s.name] = false
				sets = append(sets, s)
			}
		}
		rest.deleteRules(kt.family, Table)
		for _, c := range kt.chains {
			rest.deleteChain(kt.family, Table, c.name)
		}
		for _, ks := range there {
			if !kept[ks.name] {
				rest.deleteSet(kt.family, Table, ks.name)
			}
		}
		rest.fillTable(t, Table, sets, every)
	}
	if len(first.messages) == 0 {
		return conn.commit(&rest, generation)
	}
	if err := conn.commit(&first, generation); err != nil {
		return err
	}
	err := conn.commit(&rest, max(generation+1, 1)) // zero is no generation
	if err != nil && !isChange(err) && !errors.Is(err, unix.ENOBUFS) {
		_, left := conn.insist(&undo)
		err = errors.Join(err, left)
	}
	return err
}

// orChanged is the error of a look at what has been there: if it is gone (ENOENT), somebody else has changed the tables.
func orChanged(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return errChanged
	}
	return err
}

// isChange reports whether a transaction failed because somebody else changed
// the tables first: they are of another generation (ERESTART), our table is
// there already (EEXIST), or it or something in it is gone (ENOENT from its removal).
// Both are met in the right generation, too (see missingError).
func isChange(err error) bool {
	return errors.Is(err, errChanged) || errors.Is(err, unix.ERESTART) || errors.Is(err, unix.EEXIST) ||
		errors.Is(err, unix.ENOENT) && isDeletion(err)
}

// trial is a table that never comes to be.
const trial = Table + "_trial"

// blame finds the rule that the kernel refused: the error of a transaction
// does not say. Each rule is tried in a transaction of its own that ends in
// creating its table twice, so that it always fails and changes nothing.
func (conn *Conn) blame(prog program, failure error) error {
	if errors.Is(failure, unix.EPERM) || errors.Is(failure, unix.EACCES) {
		return explain(failure, "apply the rules")
	}
	try := func(t table, only *rule) error { return conn.try(func(r *rule) bool { return r == only }, t) }
	for _, t := range prog {
		if err := try(t, nil); err != nil {
			return explain(conn.lacking(t, nil, err),
				fmt.Sprintf("apply the table %s %s, its sets and chains", familyName(t.family), Table))
		}
		for _, c := range t.chains {
			for i := range c.rules {
				if err := try(t, &c.rules[i]); err != nil {
					err = explain(conn.lacking(t, &c.rules[i], err), "apply it")
					return &ruleset.RuleError{Chain: c.name, Rule: c.rules[i].id, Err: err}
				}
			}
		}
	}
	return explain(failure, "apply the rules")
}

// try asks the kernel whether it takes tables with those of their rules that pass the filter, in a transaction that
// always fails. Nil: it does.
func (conn *Conn) try(filter func(*rule) bool, tables ...table) error {
	var b batch
	for _, t := range tables {
		b.addTable(t, trial, filter)
	}
	b.createTable(tables[0].family, trial) // once more
	if _, err := conn.insist(&b); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// every is the filter that all rules pass.
func every(*rule) bool { return true }

func (conn *Conn) settle(ctx context.Context, rs ruleset.Ruleset) error {
	var failure error
	for range maxAttempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, generation, err := conn.find()
		if err != nil {
			return err
		}
		prog, err := compile(rs, st.layout(rs))
		switch {
		case err != nil:
			return err
		case len(st) == 0:
			return ruleset.ErrNotIntercepted
		case len(st) != len(prog) || !prog.isIn(st):
			return errors.New("other rules have taken the place of those that were applied")
		}
		var b batch
		for _, t := range prog {
			for _, s := range t.sets {
				switch {
				case s.key == keySettling:
					b.emptySet(t.family, Table, s.name)
				case s.key.isOfOneMoment():
					b.addElements(t.family, Table, s)
				}
			}
		}
		if len(b.messages) == 0 {
			return nil
		}
		// Where the answer was lost they may be listed: to list them again changes nothing.
		if failure = conn.commit(&b, generation); !isChange(failure) && !errors.Is(failure, unix.ENOBUFS) {
			return explain(failure, "list the connections that are older than the rules")
		}
	}
	return fmt.Errorf("list the connections that are older than the rules: %d attempts have failed: %w", maxAttempts,
		failure)
}

func (conn *Conn) check(ctx context.Context, rs ruleset.Ruleset) ([]ruleset.Difference, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st, err := conn.ours()
	if err != nil {
		return nil, err
	}
	prog, err := compile(rs, st.layout(rs))
	if err != nil {
		return nil, err
	}
	return prog.differences(st), nil
}

// layout returns the one in which the tables hold rules like these.
func (st state) layout(rs ruleset.Ruleset) layout {
	if len(rs.Families) == 2 &&
		!slices.ContainsFunc(st, func(t kernelTable) bool { return t.family == nftables.TableFamilyINet }) {
		return twoTables
	}
	return oneTable
}

// ours returns the content of our tables, or says that there are none or that
// they are not ours.
func (conn *Conn) ours() (state, error) {
	st, _, err := conn.readAtOnce()
	if err != nil {
		return nil, err
	}
	if len(st) == 0 {
		return nil, ruleset.ErrNotIntercepted
	}
	return st, st.foreign()
}

func (conn *Conn) remove(ctx context.Context) (removed bool, err error) {
	left := func(name string) bool { return isTrace(name) || strings.HasPrefix(name, witnessPrefix) }
	if err := conn.removeLeft(left); err != nil {
		return false, err
	}
	for range maxAttempts {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		st, generation, err := conn.find()
		if err != nil || len(st) == 0 {
			return removed, err
		}
		if err := conn.refuseForeign(st, generation); errors.Is(err, errChanged) {
			continue
		} else if err != nil {
			return removed, err
		}
		var t batch
		for _, kt := range st {
			t.deleteTable(kt.family, Table)
		}
		err = conn.commit(&t, generation)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.ENOBUFS):
			removed = true // or not: the next look tells
		case !isChange(err):
			return false, explain(err, "remove the rules")
		}
	}
	return false, fmt.Errorf("remove the rules: the tables changed under %d attempts; another program keeps writing them",
		maxAttempts)
}

func (conn *Conn) olderInForce() (all []ruleset.Tuple, err error) {
	tables, _, err := conn.find()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		sets, err := conn.sets(t.family, Table)
		for _, s := range sets {
			if err == nil && (strings.HasPrefix(s.name, keyTuple4.prefix()) || strings.HasPrefix(s.name, keyTuple6.prefix())) {
				err = conn.eachElement(t.family, Table, s.name, func(key []byte, _ bool) {
					if tuple, ok := tupleOf(key); ok {
						all = append(all, tuple)
					}
				})
			}
		}
		if err != nil {
			return nil, explain(err, "list the connections that are older than the rules")
		}
	}
	return all, nil
}

func (conn *Conn) holdsTable() (bool, error) {
	st, _, err := conn.find()
	return len(st) > 0, err
}

func (conn *Conn) dormant() (names []string, err error) {
	st, _, err := conn.find()
	for _, t := range st {
		if t.isDormant() {
			names = append(names, familyName(t.family)+" "+t.name)
		}
	}
	return names, err
}

func (conn *Conn) counters(ctx context.Context) ([]ruleset.Counter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st, err := conn.ours()
	if err != nil {
		return nil, err
	}
	var counters []ruleset.Counter
	for _, t := range st {
		family, err := familyOfRules(t.family)
		if err != nil {
			return nil, err
		}
		for _, c := range t.chains {
			for _, r := range t.rules[c.name] {
				if r.isNote() {
					continue
				}
				id, reason := ruleset.ParseComment(r.comment)
				counters = append(counters, ruleset.Counter{
					Chain: c.name, Rule: id, Line: id.Line(), Reason: reason, Family: family(r),
					Packets: r.packets, Bytes: r.bytes, Uncounted: !r.is,
				})
			}
		}
	}
	return counters, nil
}

func (conn *Conn) hollow() (all []ruleset.Difference, err error) {
	st, err := conn.ours()
	if err != nil {
		return nil, err
	}
	for _, t := range st {
		hooked := false
		for _, c := range t.chains {
			if hooked = hooked || c.base; c.base && len(t.rules[c.name]) == 0 {
				all = append(all, ruleset.Difference{What: "chain " + c.name, Problem: "has no rules"})
			}
		}
		if !hooked {
			all = append(all, ruleset.Difference{What: "table " + t.name, Problem: "has no chain at a hook"})
		}
	}
	return all, nil
}

func (conn *Conn) note(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	st, err := conn.ours()
	if err != nil {
		return "", err
	}
	for _, t := range st {
		var comments []string
		for _, r := range t.rules[t.spec] {
			comments = append(comments, r.comment)
		}
		if note := ruleset.ReadNote(comments); note != "" {
			return note, nil
		}
	}
	return "", nil
}

// explain translates what the kernel said into the cause and the remedy.
func explain(err error, attempted string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: %w", attempted, ruleset.NoNetAdmin(err))
	case errors.Is(err, unix.EMSGSIZE):
		return fmt.Errorf("%s: %w: the transaction is larger than this process may send at once; raise the sysctl "+
			"net.core.wmem_max of the node, or apply with CAP_NET_ADMIN in its user namespace, as mesh-cni does", attempted, err)
	case errors.Is(err, ruleset.ErrUnsupported):
		return fmt.Errorf("%s: %w", attempted, err)
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) ||
		errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: %w (%w): load the module nf_tables on the node, or use a newer kernel (nftables NAT needs "+
			"Linux 4.18)", attempted, ruleset.ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", attempted, err)
}
