package nft

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// Tracking keeps connection tracking at work in a namespace, also when no rules ask for it any more: the kernel then
// still tells of new connections. It is a table of its own, with a rule that asks for the state of connections, in a chain
// that no packet meets. The kernel takes the table away with the socket, however the process ends.
type Tracking struct {
	conn  *Conn
	table string
}

// OpenTracking keeps connection tracking at work in the network namespace that the calling thread is in. The error is
// [ruleset.ErrPermission], or [ruleset.ErrUnsupported] where the kernel would leave the table behind, as before Linux 5.12.
func OpenTracking() (*Tracking, error) {
	conn, err := Open()
	if err != nil {
		return nil, err
	}
	t := &Tracking{conn, fmt.Sprintf("%s_watch_%08x", Table, rand.Uint32())}
	if err := t.create(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t, nil
}

// Table is the name of the table, which is of family inet.
func (t *Tracking) Table() string { return t.table }

// Close takes the table away.
func (t *Tracking) Close() error { return errors.Join(t.remove(), t.conn.Close()) }
