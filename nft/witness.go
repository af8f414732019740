package nft

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A Witness notes who sends packets to some ports: a table of its own, with a set that its one chain adds to. It judges
// no packet. The kernel takes the table away with the socket, however the process ends (NFT_TABLE_F_OWNER, Linux 5.12).
type Witness struct {
	conn  *Conn
	table string
}

// Sender is whose a socket is that has sent to a port, over TCP or UDP. Of TCP only what is sent once a connection is
// open counts: before that it is the listening socket's, which another process may have opened.
type Sender struct {
	Protocol ruleset.Protocol
	Port     uint16
	Owner    ruleset.Owner
	Mark     uint32
}

// OpenWitness makes a witness in the network namespace that the calling thread is in. The error is
// [ruleset.ErrUnsupported] or [ruleset.ErrPermission] where there cannot be one.
func OpenWitness(ports ruleset.PortRange) (*Witness, error) {
	conn, err := Open()
	if err != nil {
		return nil, err
	}
	w := &Witness{conn, fmt.Sprintf("%s_verify_%08x", Table, rand.Uint32())}
	if err := w.create(ports); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return w, nil
}

// Senders returns who has sent so far.
func (w *Witness) Senders() ([]Sender, error) { return w.senders() }

// Close takes the table away.
func (w *Witness) Close() error { return errors.Join(w.remove(), w.conn.Close()) }
