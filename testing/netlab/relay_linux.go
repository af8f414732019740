package netlab

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Forward is what a [Sidecar] does with connections to its inbound ports that
// were on their way to another one, as proxies dial their app. Those to an
// inbound port itself it answers, and so its own if they are captured again.
type Forward uint8

// The ways to forward. The sidecar dials the original destination as its own
// owner, and copies bytes both ways: it is who listens there that answers, and
// whose Client is the sidecar's end.
const (
	// ForwardNothing answers.
	ForwardNothing Forward = iota
	// ForwardPassthrough dials from the passthrough source, 127.0.0.6 or ::6.
	ForwardPassthrough
	// ForwardOriginalSource dials from the client's address (IP_TRANSPARENT).
	// For replies to come back, rules and routes have to deliver them in the
	// pod. The port is another than the client's: from the same one to the same
	// destination, connection tracking would take both connections for one.
	ForwardOriginalSource
)

// relay passes connections on.
type relay struct {
	lab   *Lab
	from  Forward
	mark  uint32
	owner intercept.Owner
}

// dialTimeout is how long a relay tries to reach the app. Its client mostly
// gives up earlier.
const dialTimeout = 5 * time.Second

// takes reports whether a connection is one to pass on.
func (r *relay) takes(b Banner) bool {
	return b.Original.Port() != b.Port && !r.lab.isRelay(b.Client)
}

// run passes one connection on until both sides are done.
func (r *relay) run(g *group, conn *os.File, b Banner) {
	app, source, err := r.socket(b)
	if err != nil {
		r.fail(conn, b, err)
		return
	}
	if !g.hold(app) {
		return
	}
	defer g.release(app)
	defer r.lab.remember(&b, source)()

	if err := connect(app, b.Original, time.Now().Add(dialTimeout)); err != nil {
		HangUp(app)
		r.fail(conn, b, err)
		return
	}
	if err := app.SetDeadline(time.Time{}); err != nil {
		r.fail(conn, b, err)
		return
	}
	var back sync.WaitGroup
	back.Go(func() { pass(conn, app) })
	pass(app, conn)
	back.Wait()
}

// fail tells a client why it gets no answer. The client's error quotes it.
func (r *relay) fail(conn *os.File, b Banner, err error) {
	fmt.Fprintf(conn, "%s cannot reach %s: %v\n", b.Role, b.Original, err)
}

// socket opens the socket to the app and binds its source.
func (r *relay) socket(b Banner) (_ *os.File, source netip.AddrPort, err error) {
	from, transparent := b.Client.Addr(), true
	if r.from == ForwardPassthrough {
		from, transparent = passthrough4, false
		if b.Original.Addr().Is6() {
			from = passthrough6
		}
	}
	fd, err := r.lab.Pod.Socket(Domain(from), unix.SOCK_STREAM, &r.owner)
	if err != nil {
		return nil, source, err
	}
	if err = setMark(fd, r.mark); err == nil {
		source, err = r.lab.bindNext(fd, intercept.TCP, from, transparent)
	}
	if err != nil {
		unix.Close(fd)
		return nil, source, err
	}
	return os.NewFile(uintptr(fd), "relay"), source, nil
}

// pass copies what from sends until it ends, and ends to in the same way.
func pass(to, from *os.File) {
	if _, err := io.Copy(to, from); err != nil {
		HangUp(to)
		HangUp(from)
		return
	}
	finish(to)
}

// finish says on a connection that no more will be sent.
func finish(conn syscall.Conn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) }) // fails if the other side was first
}

// relays are the connections being passed on. The zero relays are none.
type relays struct {
	mu      sync.Mutex
	clients map[clientFlow]*Banner
	sources map[netip.AddrPort]bool // of the connections to the app
}

// clientFlow is a connection as its client sees it.
type clientFlow struct{ client, dst netip.AddrPort }

// remember notes that a connection is passed on from source. The function it
// returns forgets it.
func (l *Lab) remember(b *Banner, source netip.AddrPort) (forget func()) {
	r, flow := &l.relays, clientFlow{b.Client, b.Original}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients == nil {
		r.clients, r.sources = map[clientFlow]*Banner{}, map[netip.AddrPort]bool{}
	}
	r.clients[flow], r.sources[source] = b, true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.sources, source)
		if r.clients[flow] == b { // else the client has used its port again
			delete(r.clients, flow)
		}
	}
}

// relayOf returns who passes on a flow, or a zero Banner if nobody does.
func (l *Lab) relayOf(client, dst netip.AddrPort) Banner {
	l.relays.mu.Lock()
	defer l.relays.mu.Unlock()
	if b := l.relays.clients[clientFlow{client, dst}]; b != nil {
		return *b
	}
	return Banner{}
}

// isRelay reports whether a connection's client is a sidecar that passes
// another one on.
func (l *Lab) isRelay(client netip.AddrPort) bool {
	l.relays.mu.Lock()
	defer l.relays.mu.Unlock()
	return l.relays.sources[client]
}
