// Package nft puts a Ruleset into the kernel as nftables rules, over netlink
// and without the nft program. On other systems than Linux everything in it
// but [Render] fails with [ruleset.ErrNeedsLinux].
package nft

import (
	"context"
	"errors"

	"github.com/mdlayher/netlink"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Table is the name of the one table this package writes. It never touches another.
const Table = "mesh_intercept"

// Conn speaks nf_tables with one network namespace, over one socket. It is
// for one goroutine at a time.
type Conn struct {
	sock *netlink.Conn
	// only restricts Apply to one layout of tables. Nil: oneTable, and
	// twoTables where the kernel cannot do that.
	only *layout
	// seen is what was listed last. Nil: nothing was.
	seen *listing
}

// bufferSize is the limit of the socket's buffers: room for the replies to the
// largest transaction. The kernel takes memory only for what is there.
const bufferSize = 64 << 20

// layout says which tables hold the rules of both families.
type layout uint8

const (
	// oneTable is one inet table. NAT in it needs Linux 5.2.
	oneTable layout = iota
	// twoTables are an ip and an ip6 table, for older kernels.
	twoTables
)

// Open connects to the nf_tables of the network namespace that the calling
// thread is in. It needs no privilege; what follows does.
func Open() (*Conn, error) {
	sock, err := dial()
	if err != nil {
		return nil, err
	}
	return &Conn{sock: sock}, nil
}

// Forget has the next call look at the tables anew. Else tables and chains that were listed are not listed again while
// the rules are of the same generation, which can be that of a change that was just being made.
func (conn *Conn) Forget() { conn.seen = nil }

// Close closes the socket.
func (conn *Conn) Close() error { return conn.sock.Close() }

// Apply makes the kernel's rules those of rs, in one transaction for both
// families: afterwards, and at every moment before, the rules are the old ones
// or the new ones. Where the same rules are in place it writes nothing, and
// their counters go on. What has replaced other rules it reads back.
//
// The errors are [ruleset.ErrPermission], [ruleset.ErrUnsupported] and
// [ruleset.ErrForeign], ctx's, or others that say what failed. An outcome beside an
// error says what was written all the same: it then did not read as it should.
func (conn *Conn) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Outcome, error) {
	lay := oneTable
	if conn.only != nil {
		lay = *conn.only
	}
	outcome, err := conn.apply(ctx, rs, lay)
	if conn.only == nil && len(rs.Families) == 2 && errors.Is(err, ruleset.ErrUnsupported) {
		// Before Linux 5.2 there is no NAT in an inet table.
		return conn.apply(ctx, rs, twoTables)
	}
	return outcome, err
}

// Settle ends what [ruleset.Ruleset.Settling] of the rules in force began: from then on only the connections of
// rs.Older count as older. rs is otherwise as Apply was given it. If the tables have other rules by now the error is
// [ruleset.ErrNotIntercepted] or says so, and nothing has changed.
func (conn *Conn) Settle(ctx context.Context, rs ruleset.Ruleset) error { return conn.settle(ctx, rs) }

// Check compares the kernel with rs and returns the differences. None: it is
// as Apply leaves it. It changes nothing. Where there is nothing of ours the
// error is [ruleset.ErrNotIntercepted].
func (conn *Conn) Check(ctx context.Context, rs ruleset.Ruleset) ([]ruleset.Difference, error) {
	return conn.check(ctx, rs)
}

// Remove takes our tables out, in one transaction. It reports whether there
// were any, and leaves nothing behind.
func (conn *Conn) Remove(ctx context.Context) (removed bool, err error) { return conn.remove(ctx) }

// Holds reports whether there is a table of our name.
func (conn *Conn) Holds() (bool, error) { return conn.holdsTable() }

// Dormant returns those of our tables that are dormant, as nft(8) names them: none of their rules is in force.
func (conn *Conn) Dormant() ([]string, error) { return conn.dormant() }

// Counters returns what the rules have counted since they were applied, in the
// order packets meet them. Where there is nothing of ours the error is
// [ruleset.ErrNotIntercepted]. The kernel holds the rules' IDs, so that it takes
// no Ruleset to name them by.
func (conn *Conn) Counters(ctx context.Context, _ *ruleset.Ruleset) ([]ruleset.Counter, error) {
	return conn.counters(ctx)
}

// Hollow returns what is missing in our tables whatever they were made of: base chains without rules.
func (conn *Conn) Hollow(context.Context) ([]ruleset.Difference, error) { return conn.hollow() }

// Older returns the connections that our rules were given as older than they are ([ruleset.Ruleset.Older]).
func (conn *Conn) Older(context.Context) ([]ruleset.Tuple, error) { return conn.olderInForce() }

// Note returns the [ruleset.Ruleset.Note] that is kept beside our rules. Empty: none is.
func (conn *Conn) Note(ctx context.Context) (string, error) { return conn.note(ctx) }

// Probe asks the kernel whether it takes the rules of rs, in a transaction that
// ends in an error on purpose, so that nothing of it comes to be. The answer
// is nil, [ruleset.ErrPermission] or [ruleset.ErrUnsupported] with the
// rule that is refused.
func (conn *Conn) Probe(rs ruleset.Ruleset) error {
	lays := []layout{oneTable}
	if conn.only != nil {
		lays = []layout{*conn.only}
	} else if len(rs.Families) == 2 {
		lays = append(lays, twoTables)
	}
	var err error
	for _, lay := range lays {
		if err = conn.probe(rs, lay); err == nil || !errors.Is(err, ruleset.ErrUnsupported) {
			return err
		}
	}
	return err // of two tables: where there is NAT in an inet table it is the same
}

// ForeignChains returns all chains in tables that are not ours, without their rules, in the order in which the tables
// were made. A table has an entry without a Name, too.
func (conn *Conn) ForeignChains() ([]beside.Chain, error) { return conn.foreignChains() }

// ForeignRules fills in the rules of chains that ForeignChains has returned.
func (conn *Conn) ForeignRules(chains []beside.Chain) error { return conn.foreignRules(chains) }

// CountRules returns, for each table of a family that is not ours, how many rules there are in each chain whose name
// begins with a prefix, and how many in each other chain that lead to one of those, if any.
func (conn *Conn) CountRules(f ruleset.Family, prefix string) (map[string]map[string]int, error) {
	return conn.countRules(f, prefix)
}

// RemoveForeign takes out what plan chooses from the chains of others, in one transaction. They are listed with their
// rules, and are the same when it is taken out. It returns what that was.
func (conn *Conn) RemoveForeign(ctx context.Context,
	plan func([]beside.Chain) (beside.Removal, error)) (beside.Removal, error) {
	return conn.removeForeign(ctx, plan)
}

// RemoveEmpty removes those of the named chains of a table that have no rules
// and, if asked to, the table if nothing is left in it. What is not there is
// no failure.
func (conn *Conn) RemoveEmpty(f ruleset.Family, table string, chains []string, andTable bool) error {
	return conn.removeEmpty(f, table, chains, andTable)
}
