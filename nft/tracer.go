package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/mesh-intercept/intercept/ruleset"
)

// TraceTable is the name of the table that a [Tracer] makes, of family inet.
const TraceTable = Table + "_trace"

// ErrTraced reports that another [Tracer] is at work in the namespace. It is [ruleset.ErrLocked].
var ErrTraced = fmt.Errorf("another mesh-init trace is at work in this namespace (table inet %s): %w", TraceTable,
	ruleset.ErrLocked)

// PriorityTrace is that of a tracer's chains: packets meet them before all that rules of ours, or of xtables, are in.
const PriorityTrace = ruleset.PriorityRaw - 10

// NotTraced is the ID of a rule in a tracer's chains whose packets are not traced. It stands before the others.
const NotTraced ruleset.RuleID = "T0"

// A Tracer has the kernel tell of each step of some packets through its rules (meta nftrace): a table of its own asks
// which. It judges no packet. The kernel takes the table away with the socket, however the process ends
// (NFT_TABLE_F_OWNER, Linux 5.12).
type Tracer struct {
	conn  *Conn
	owned bool
}

// OpenTracer traces the packets that match any rule of the chains, which are base chains at [PriorityTrace] whose rules
// return. The error is [ruleset.ErrUnsupported] or [ruleset.ErrPermission], or [ErrTraced].
func OpenTracer(chains []ruleset.Chain) (*Tracer, error) {
	conn, err := Open()
	if err != nil {
		return nil, err
	}
	t := &Tracer{conn: conn}
	if err := t.create(chains); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t, nil
}

// Owned reports whether the table goes with the process however that ends. Kernels before Linux 5.12 leave it if the
// process is killed, until the next [OpenTracer] or [Conn.Remove].
func (t *Tracer) Owned() bool { return t.owned }

// Close takes the table away.
func (t *Tracer) Close() error { return errors.Join(t.remove(), t.conn.Close()) }

// Traces reports whether there is a table of a [Tracer].
func (conn *Conn) Traces() (bool, error) { return conn.hasTrace() }

// Place is where a rule of nf_tables is: what a traced packet is told to have met. Family is as in nfproto of
// linux/netfilter.h.
type Place struct {
	Family uint8
	Table  string
	Handle uint64
}

// Words are what a rule says of itself, and what it does, as far as that is read.
type Words struct {
	Comment string
	Does    []string
}

// Rejects stands among what a rule does if the sender of what it discards is told.
const Rejects = "reject"

// Words returns the words of all rules in nf_tables.
func (conn *Conn) Words(ctx context.Context) (map[Place]Words, error) { return conn.words(ctx) }
