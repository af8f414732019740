package nft

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A Witness notes who sends packets to some ports, and where NAT sends those from these ports: a table of its own, with
// sets that its chains add to. It judges no packet. The kernel takes the table away with the socket, however the process
// ends (NFT_TABLE_F_OWNER, Linux 5.12). Before, that of a process that is killed is left until [OpenWitness] is called ten
// minutes later, or [Conn.Remove].
type Witness struct {
	conn  *Conn
	table string
}

// witnessPrefix begins the names of witnesses' tables. When it was made follows, in seconds since 1970, in base 16.
const witnessPrefix = Table + "_verify_"

// isLeft reports whether a table is that of a witness that cannot be at work any more.
func isLeft(name string, now time.Time) bool {
	const longest = 10 * time.Minute
	text, is := strings.CutPrefix(name, witnessPrefix)
	at, _, _ := strings.Cut(text, "_")
	seconds, err := strconv.ParseInt(at, 16, 64)
	return is && err == nil && now.Sub(time.Unix(seconds, 0)).Abs() > longest
}

// Sender is whose a socket is that has sent to a port, over TCP or UDP. A SYN of TCP does not count: it is the listening
// socket's, which another process may have opened. So is, rarely, an acknowledgement before the handshake is over: it has no
// owner before Linux 6.13.
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
	now := time.Now()
	w := &Witness{conn, fmt.Sprintf("%s%x_%08x", witnessPrefix, now.Unix(), rand.Uint32())}
	if err := w.create(ports, now); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return w, nil
}

// Sent is where a packet goes, once all NAT has been asked.
type Sent struct {
	Protocol ruleset.Protocol
	// Src and Dst are from where to where it was sent, and To is where it goes.
	Src, Dst, To netip.AddrPort
}

// Sent returns where packets from the ports have been sent so far.
func (w *Witness) Sent() ([]Sent, error) { return w.sent() }

// Senders returns who has sent so far.
func (w *Witness) Senders() ([]Sender, error) { return w.senders() }

// Close takes the table away.
func (w *Witness) Close() error { return errors.Join(w.remove(), w.conn.Close()) }
