//go:build linux

package trial

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// attempt is a probe on its way.
type attempt struct {
	verify.Probe
	fd        int
	flow      conntrack.Ends
	seen      verify.Seen
	question  []byte
	sent      time.Time
	accepted  time.Time
	asked     bool // the question was sent over TCP
	released  bool // it is on its way to the target, whatever the number of hops
	resumed   int  // how often it was begun again
	done      bool
	opening   bool             // the pod's end has not seen the handshake's last packet
	holders   []sockets.Socket // who has accepted it, or hears it
	got       []byte
	listeners []sockets.Socket // which wait at the ports that it could have come to
	nearby    []sockets.Socket // which wait at the same port, and do not get it
}

// Run tries probes. The thread is in the pod's namespace, and stays there. The error is one that concerns all of them.
func Run(ctx context.Context, probes []verify.Probe, o Options) (seen []verify.Seen, err error) {
	r := &run{ctx: ctx, o: o, probes: probes}
	defer func() { err = errors.Join(err, r.close()) }()
	// Where nf_tables can note who answers, it does; sock_diag(7) and /proc know less.
	r.witness, err = nft.OpenWitness(verify.SourcePorts)
	if err != nil && !errors.Is(err, ruleset.ErrUnsupported) && !errors.Is(err, ruleset.ErrPermission) {
		return nil, err
	}
	before, canTrack, err := tracked(probes)
	if err != nil {
		return nil, err
	}
	r.conntrack, r.looked = canTrack, time.Now()
	if err := r.open(before.ports()); err != nil {
		return nil, err
	}
	if err := r.fire(); err != nil {
		return nil, err
	}
	if err := r.release(); err != nil {
		return nil, err
	}
	if err := r.wait(); err != nil {
		return nil, err
	}
	after, _, err := tracked(probes)
	if err != nil {
		return nil, err
	}
	if err := r.identify(); err != nil {
		return nil, err
	}
	var sent []nft.Sent
	if r.witness != nil {
		if sent, err = r.witness.Sent(); err != nil {
			return nil, err
		}
	}
	for _, a := range r.attempts {
		for _, s := range sent {
			if (conntrack.Ends{Protocol: s.Protocol, Src: s.Src, Dst: s.Dst}) == a.flow {
				a.seen.Sent = append(a.seen.Sent, s.To)
			}
		}
		if !a.Waits && a.seen.Err == nil && a.seen.Outcome == "" {
			a.seen.Replied = a.replied()
		}
		a.seen.Tracked = r.conntrack
		a.noteEntry(after)
		a.seen.Returned = returned(after, a) - returned(before, a)
		a.seen.Looped = looped(before, after, a)
		seen = append(seen, a.seen)
	}
	return seen, nil
}

type run struct {
	ctx      context.Context
	o        Options
	probes   []verify.Probe
	witness  *nft.Witness // nil: there is none
	outside  []*outside
	attempts []*attempt
	// conntrack is whether it can be asked, and looked is when it was.
	conntrack bool
	looked    time.Time
	// patience is what is left of it for counters that come late, and settling for what a rule may yet refuse.
	patience, settling time.Duration
}

// open opens all sockets, at ports that are not taken.
func (r *run) open(taken map[uint16]bool) error {
	r.patience, r.settling = time.Second, time.Second/2
	by := map[string][]*attempt{}
	for _, p := range r.probes {
		a := &attempt{Probe: p, fd: -1}
		// Where nothing is counted, what becomes of a connection that is left alone shows that it is.
		a.Waits = p.Waits || r.o.Count == nil && p.Packet.Protocol == ruleset.TCP
		r.attempts = append(r.attempts, a)
		if p.Outside() {
			by[p.Packet.Interface] = append(by[p.Packet.Interface], a)
		} else {
			a.fd, a.seen.Err = open(p, taken)
		}
	}
	for _, w := range r.o.Ways {
		if len(by[w.Interface]) == 0 {
			continue
		}
		o, err := makeOutside(r.ctx, w, by[w.Interface])
		if err != nil {
			return err
		}
		r.outside = append(r.outside, o)
		err = o.ns.Do(func() error {
			for _, a := range o.attempts {
				a.fd, a.seen.Err = open(a.Probe, taken)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) close() (err error) {
	flows := map[conntrack.Ends]bool{}
	for _, a := range r.attempts {
		if a.fd < 0 {
			continue
		}
		if a.Packet.Protocol == ruleset.TCP {
			// The other end has to be gone, too: what it sent later would be a new connection to conntrack.
			_ = unix.SetsockoptLinger(a.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		_ = unix.Close(a.fd) // what was opened ends here
		if a.flow.Src.IsValid() {
			flows[a.flow] = true
		}
	}
	for _, o := range r.outside {
		err = errors.Join(err, o.close())
	}
	if r.conntrack {
		err = errors.Join(err, forget(flows))
	}
	if r.witness != nil {
		err = errors.Join(err, r.witness.Close())
	}
	return err
}

// fire begins all connections, one after the other, and reads after each what has counted it.
func (r *run) fire() error {
	var before Counts
	if r.o.Count != nil {
		var err error
		if before, err = r.o.Count(); err != nil {
			return err
		}
	}
	for _, a := range r.attempts {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if a.seen.Err == nil {
			a.begin()
		}
		if before == nil {
			continue
		}
		after, err := r.counted(before, a)
		if err != nil {
			return err
		}
		a.seen.Counts, a.seen.Counted = true, after[a.Trace.Rule]-before[a.Trace.Rule]
		a.seen.RefusedBy = r.refusedBy(before, after)
		if !a.Waits && a.seen.Err == nil && a.Packet.Protocol == ruleset.TCP && a.refused() {
			a.seen.Outcome = verify.Refused
		}
		if slices.Contains(r.o.Discards, a.seen.RefusedBy) && !a.isSettled() {
			a.giveUp()
		}
		before = after
		if err := r.lookOften(); err != nil {
			return err
		}
	}
	return nil
}

// lookOften asks conntrack while a slow machine still begins connections: at the end it may have forgotten the first, a
// datagram after 30 s (nf_conntrack_udp_timeout).
func (r *run) lookOften() error {
	const often = 2 * time.Second
	if !r.conntrack || time.Since(r.looked) < often {
		return nil
	}
	now, _, err := tracked(r.probes)
	for _, a := range r.attempts {
		a.noteEntry(now)
	}
	r.looked = time.Now()
	return err
}

// noteEntry keeps what conntrack has of the connection.
func (a *attempt) noteEntry(all entries) {
	if e, known := all[a.flow]; known {
		a.seen.Entry = &e
	}
}

// release lets what the rules send to a target outside the pod go as far as that is. It was begun with a hop limit that
// ends at the first router: only once it is seen to be on its way to the target, and to nobody else, it gets the usual
// one. Conntrack sends to the same target what the same socket sends from then on.
func (r *run) release() error {
	var now entries
	for _, a := range r.attempts {
		if a.Trace.Fate.Action != ruleset.Translated || a.seen.Err != nil || a.fd < 0 {
			continue
		}
		if now == nil && r.conntrack {
			var err error
			if now, _, err = tracked(r.probes); err != nil {
				return err
			}
		}
		e, known := now[a.flow]
		if r.conntrack && (!known || e.To != a.Trace.Fate.To) || !r.conntrack && a.seen.Counted == 0 {
			continue
		}
		if a.seen.Err = hops(a.fd, a.Packet.Dst.Addr(), usualHops); a.seen.Err != nil {
			continue
		}
		a.released = true
		if a.Packet.Protocol == ruleset.UDP && !a.done {
			a.ask() // nobody sends again what a router has discarded
		}
	}
	return nil
}

// refused reports whether the connection is refused already.
func (a *attempt) refused() bool {
	errno, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && unix.Errno(errno) == unix.ECONNREFUSED
}

// counted reads the counters once the rule that has to decide has counted. What arrives is counted by another thread of
// the kernel, so that it may take a moment; and a rule that is asked later may refuse it, which must not be taken for what
// becomes of the next. It reads ever less often: by some backends each reading runs programs.
func (r *run) counted(before Counts, a *attempt) (Counts, error) {
	const longest = 64 * time.Millisecond
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, longest) {
		settled := !a.Outside() || a.isSettled()
		after, err := r.o.Count()
		left := &r.patience
		counted := after[a.Trace.Rule] > before[a.Trace.Rule]
		if counted {
			left = &r.settling
			settled = settled || r.refusedBy(before, after) != ""
		}
		if err != nil || counted && settled || *left <= 0 || a.seen.Err != nil {
			return after, err
		}
		*left -= pause
		select {
		case <-r.ctx.Done():
			return nil, r.ctx.Err()
		case <-time.After(pause):
		}
	}
}

// refusedBy is a rule of ours that refuses or discards, and has counted.
func (r *run) refusedBy(before, after Counts) ruleset.RuleID {
	for _, id := range r.o.Refuses {
		if after[id] > before[id] {
			return id
		}
	}
	return ""
}

// giveUp ends a connection of which nothing will come: what the kernel sent of it again would be counted beside the next.
func (a *attempt) giveUp() {
	_ = unix.Shutdown(a.fd, unix.SHUT_RDWR)                         // ends it where it has not begun (inet_shutdown in net/ipv4/af_inet.c)
	_, _ = unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR) // which is no answer
	if a.Waits {
		a.seen.Outcome, a.done = verify.TimedOut, true
	}
}

// isSettled reports whether a connection is open, or has failed. A datagram always is.
func (a *attempt) isSettled() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT}}, 0)
	return n > 0 || err != nil
}

// replied reports whether a connection that nobody has waited for was accepted, refused, or discarded by a router: it
// has left. A datagram is of one if a router or its destination says so: its socket is connected at once.
func (a *attempt) replied() bool {
	errno, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || errno != 0 {
		return true
	}
	_, err = unix.Getpeername(a.fd)
	return err == nil && a.Packet.Protocol == ruleset.TCP
}

// begin sends the first packet.
func (a *attempt) begin() {
	a.sent = time.Now()
	err := a.asSender(func() error { return unix.Connect(a.fd, a.destination()) })
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		a.settle(err)
	}
	a.flow = conntrack.Ends{Protocol: a.Packet.Protocol, Src: local(a.fd), Dst: a.Packet.Dst}
	if a.Packet.Protocol == ruleset.UDP && err == nil {
		a.ask()
	}
	if a.Lookup && a.question == nil {
		a.question = question()
	}
}

// destination is where to connect. A link-local address is one of an interface's alone (RFC 4007): that by which the
// pod's route to it leads.
func (a *attempt) destination() unix.Sockaddr {
	to := sockaddr(a.Packet.Dst)
	if to, is := to.(*unix.SockaddrInet6); is && !a.Outside() && a.Packet.Dst.Addr().IsLinkLocalUnicast() {
		if link, err := netlink.LinkByName(a.Packet.Interface); err == nil { // else connecting says what is wrong
			to.ZoneId = uint32(link.Attrs().Index)
		}
	}
	return to
}

// ask sends a datagram.
func (a *attempt) ask() {
	if a.question == nil {
		a.question = question()
	}
	a.sent = time.Now()
	err := a.asSender(func() error { return unix.Send(a.fd, a.question, unix.MSG_NOSIGNAL) })
	if err != nil {
		a.settle(err)
	}
}

// askOverTCP sends the question. Who accepts may hang up with the answer, and is looked for before.
func (a *attempt) askOverTCP() {
	if a.meet(); a.unseen() && time.Since(a.accepted) < time.Second {
		return
	}
	a.asked = true
	if _, err := unix.Write(a.fd, framed(a.question)); err != nil {
		a.settle(err)
	}
}

// unseen reports whether it may yet be seen where the connection has arrived: gVisor shows a connection once a process
// has accepted it.
func (a *attempt) unseen() bool { return gvisor.Here() && !a.seen.At.IsValid() }

// asSender runs f as the owner of the probe, where packets are not those of whoever opened the socket: gVisor asks who
// the thread that did is now.
func (a *attempt) asSender(f func() error) error {
	if a.Packet.Owner == nil || !gvisor.Here() {
		return f()
	}
	return as(*a.Packet.Owner, f)
}

// settle says what an error of a socket's means.
func (a *attempt) settle(err error) {
	a.done = true
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		a.seen.Outcome = verify.Reset
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EPERM) && a.fd >= 0:
		a.seen.Outcome = verify.Refused // a datagram that a rule rejects cannot be sent
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ETIMEDOUT):
		a.seen.Outcome = verify.Unreachable
	default:
		a.seen.Err = err
	}
}

// wait waits for what has to answer.
func (r *run) wait() error {
	deadline := time.Now().Add(r.o.Patience)
	for {
		var fds []unix.PollFd
		var waiting []*attempt
		for _, a := range r.attempts {
			if a.Waits && !a.done && a.seen.Err == nil {
				events := int16(unix.POLLOUT)
				if a.asked || a.Packet.Protocol == ruleset.UDP {
					events = unix.POLLIN
				}
				if !a.accepted.IsZero() && !a.asked {
					events = 0
				}
				fds, waiting = append(fds, unix.PollFd{Fd: int32(a.fd), Events: events}), append(waiting, a)
			}
		}
		if len(waiting) == 0 || time.Now().After(deadline) {
			for _, a := range waiting {
				if a.seen.Outcome == "" {
					a.seen.Outcome = verify.TimedOut
				}
			}
			return r.ctx.Err()
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if _, err := unix.Poll(fds, 5); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for i, a := range waiting {
			a.advance(fds[i].Revents)
		}
	}
}

// advance does what the socket is ready for.
func (a *attempt) advance(events int16) {
	switch {
	case !a.accepted.IsZero() && !a.asked && a.Lookup:
		a.askOverTCP()
		return
	case !a.accepted.IsZero() && !a.asked:
		a.who()
		return
	case events == 0:
		if a.Packet.Protocol == ruleset.UDP && a.Lookup && time.Since(a.sent) > time.Second {
			a.ask()
		}
		return
	}
	if errno, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		if a.released && a.resumed < mostResumed && unix.Errno(errno) == unix.EHOSTUNREACH && a.Packet.Protocol == ruleset.TCP {
			a.resume()
			return
		}
		a.settle(unix.Errno(errno))
		return
	}
	if events&(unix.POLLIN|unix.POLLOUT) == 0 {
		// What a router said of a connection that goes on is kept until it is read (ip_icmp_error in net/ipv4/ip_sockglue.c).
		_, _, _, _, _ = unix.Recvmsg(a.fd, nil, nil, unix.MSG_ERRQUEUE)
		return
	}
	switch {
	case a.Packet.Protocol == ruleset.UDP:
		a.hear()
	case a.asked:
		a.hear()
	case a.Lookup:
		a.accepted = time.Now()
		a.askOverTCP()
	default:
		a.accepted, a.seen.Outcome = time.Now(), verify.Accepted
		a.who()
	}
}

// mostResumed is how often a connection is begun again. On a slow machine the kernel has sent several packets with the low
// hop limit before that is raised, and a router speaks of each.
const mostResumed = 3

// resume begins a connection again that was discarded by a router when its hop limit was low.
func (a *attempt) resume() {
	a.resumed++
	err := unix.Connect(a.fd, a.destination())
	if errors.Is(err, unix.ECONNABORTED) { // about the former connection (inet_stream_connect in net/ipv4/af_inet.c)
		err = unix.Connect(a.fd, a.destination())
	}
	// EALREADY: over IPv4 the connection may go on, and the kernel soon sends its first packet again.
	if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EALREADY) {
		a.settle(err)
	}
}

// hear reads an answer.
func (a *attempt) hear() {
	b := make([]byte, 4096)
	n, err := unix.Read(a.fd, b)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case err != nil:
		a.settle(err)
		return
	case n == 0 && a.asked:
		a.done = true // it hung up without an answer
		a.seen.Outcome = verify.TimedOut
		return
	}
	if !a.Lookup {
		a.seen.Outcome, a.done = verify.Answered, true
		return
	}
	message := b[:n]
	if a.asked {
		a.got = append(a.got, message...)
		if len(a.got) < 2 || len(a.got) < 2+int(binary.BigEndian.Uint16(a.got)) {
			return
		}
		message = a.got[2:]
	}
	if answers(a.question, message) {
		if a.asked {
			a.who()
		}
		a.seen.Outcome, a.seen.Answer, a.done = verify.Answered, failure(message), true
	}
}

// who finds out who has accepted: the socket at the other end, in the pod. What then acknowledges our end is sent by
// that socket: the witness sees whose it is. Before, a proxy has a moment to refuse it.
func (a *attempt) who() {
	const (
		moment = 100 * time.Millisecond
		// The kernel begins again after a second. A listening socket may wait for data besides (TCP_DEFER_ACCEPT of tcp(7)).
		handshake = 2 * time.Second
	)
	a.meet()
	if a.seen.Pending || a.unseen() || a.opening && time.Since(a.accepted) < handshake {
		return
	}
	if errno, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		a.settle(unix.Errno(errno))
		return
	}
	if !a.Lookup {
		if time.Since(a.accepted) < moment {
			return
		}
		_ = unix.Shutdown(a.fd, unix.SHUT_WR) // it may have been reset
		a.done = true
	}
}

// meet looks at the socket at the other end, if it is in the pod and known.
func (a *attempt) meet() {
	s, ok := peer(a)
	a.seen.Pending, a.opening = ok && s.Pending, ok && s.Opening
	if ok {
		a.seen.At = s.Local
	}
	if ok && !s.Pending && s.Inode != 0 {
		a.holders = []sockets.Socket{s}
	}
}

// peer finds the socket at the other end of a connection, wherever it was sent to.
func peer(a *attempt) (sockets.Socket, bool) {
	if s, ok, err := sockets.FindPeer(ruleset.TCP, a.flow.Src); err == nil && ok {
		return s, true
	}
	ends := a.Destinations()
	if a.Trace.Fate.Action == ruleset.Transparent {
		ends = []netip.AddrPort{a.Packet.Dst} // both ends are what they were
	}
	for _, to := range ends {
		if s, ok, err := sockets.Find(ruleset.TCP, to, a.flow.Src); err == nil && ok {
			return s, true
		}
	}
	return sockets.Socket{}, false
}

// returned counts the connections to the destination of an outbound probe that others have opened meanwhile, and that
// conntrack sends elsewhere: nobody else has anything to do there.
func returned(all entries, a *attempt) (n int) {
	if a.Outside() || a.Lookup || a.Packet.Interface == ruleset.Loopback {
		return 0
	}
	for f, e := range all {
		if f.Protocol == ruleset.TCP && f.Dst == a.Packet.Dst && e.To != f.Dst && !isOurs(f.Src) {
			n++
		}
	}
	return n
}

// looped counts the connections to where a probe has been redirected to that others have opened meanwhile.
func looped(before, after entries, a *attempt) (n int) {
	if a.Lookup || a.Trace.Fate.Action != ruleset.Redirected {
		return 0
	}
	ends := a.Destinations()
	for f := range after {
		if _, known := before[f]; !known && f.Protocol == ruleset.TCP && slices.Contains(ends, f.Dst) && !isOurs(f.Src) {
			n++
		}
	}
	return n
}

// identify says whose the sockets are that accepted or hear a probe, and which others wait at the same port.
func (r *run) identify() error {
	waiting := map[ruleset.Protocol][]sockets.Socket{}
	for _, p := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		all, err := sockets.List(p)
		if err != nil {
			return err
		}
		waiting[p] = all
	}
	if gvisor.Here() {
		// It does not show who hears UDP over IPv6. Who has the port for TCP is known.
		for _, s := range waiting[ruleset.TCP] {
			if s.Local.Addr().Is6() {
				waiting[ruleset.UDP] = append(waiting[ruleset.UDP], s)
			}
		}
	}
	inodes := map[uint64]bool{}
	for _, a := range r.attempts {
		all := a.Destinations()
		mine := slices.DeleteFunc(slices.Clone(waiting[a.Packet.Protocol]), a.comesPast)
		for _, to := range all {
			if len(all) == 1 {
				// Who has got it shows. It may be one of several that get them by turns (SO_REUSEPORT).
				// And of what was refused, or reset, or not taken for want of IP_TRANSPARENT, it shows by these alone.
				ended := a.seen.Outcome == verify.Refused || a.seen.Outcome == verify.Reset ||
					a.seen.Outcome == verify.TimedOut && a.Trace.Fate.Action == ruleset.Transparent
				if same := sharing(mine, to); a.Packet.Protocol == ruleset.TCP &&
					(len(same) > 1 || ended) {
					if ended {
						a.holders = nil
					}
					a.listeners = append(a.listeners, same...)
				}
				break
			}
			i := slices.IndexFunc(mine, func(s sockets.Socket) bool { return s.Serves(to) })
			if i < 0 {
				a.seen.Unserved = append(a.seen.Unserved, to)
			} else {
				a.listeners = append(a.listeners, mine[i])
			}
		}
		for _, s := range waiting[a.Packet.Protocol] {
			for _, to := range all {
				switch {
				case s.Local.Port() != to.Port():
				case s.Serves(to) && !a.comesPast(s):
					if a.Packet.Protocol == ruleset.UDP {
						a.holders = append(a.holders, s)
					}
				default:
					a.nearby = append(a.nearby, s)
				}
			}
		}
		for _, s := range slices.Concat(a.holders, a.listeners, a.nearby) {
			inodes[s.Inode] = true
		}
	}
	processes := sockets.Processes(inodes)
	senders, err := r.senders()
	if err != nil {
		return err
	}
	for _, a := range r.attempts {
		sent := senders[a.sentTo()]
		for _, s := range a.holders {
			h := r.holder(s, processes)
			for _, w := range sent {
				if w.UID == h.UID {
					h.GID = &w.GID
				}
			}
			a.seen.By = append(a.seen.By, h)
		}
		for _, w := range sent {
			if a.Packet.Protocol == ruleset.TCP && len(a.holders) > 0 {
				break // what others have sent the listening socket has, which since Linux 6.13 is named as well
			}
			if !slices.ContainsFunc(a.seen.By, func(h verify.Holder) bool { return h.UID == w.UID }) {
				a.seen.By = append(a.seen.By, verify.Holder{UID: w.UID, GID: &w.GID, Mark: w.mark})
			}
		}
		for _, s := range a.listeners {
			// A process that has dropped its privileges since accepts as who it is now.
			if p, ok := processes[s.Inode]; ok && !r.isStandIn(p) {
				s.UID = p.UID
			}
			a.seen.By = append(a.seen.By, r.holder(s, processes))
		}
		for _, s := range a.nearby {
			a.seen.Nearby = append(a.seen.Nearby,
				verify.Socket{Protocol: a.Packet.Protocol, Local: s.Local, V6Only: s.V6Only, Device: s.Device,
					Holder: holder(s, processes)})
		}
	}
	return nil
}

// comesPast reports whether a socket is bound to another interface than that by which the packet comes to it: lo, if the pod
// has sent it.
func (a *attempt) comesPast(s sockets.Socket) bool {
	by := ruleset.Loopback
	if a.Outside() {
		by = a.Packet.Interface
	}
	return s.Device != "" && s.Device != by
}

// sharing are the sockets among which the kernel chooses for an address and port: those at the address, without any
// those at all addresses of the family, and then those at all addresses.
func sharing(waiting []sockets.Socket, to netip.AddrPort) []sockets.Socket {
	for _, at := range []netip.Addr{to.Addr(), unspecified(to.Addr()), netip.IPv6Unspecified()} {
		same := slices.DeleteFunc(slices.Clone(waiting), func(s sockets.Socket) bool {
			return s.Local.Addr() != at || !s.Serves(to)
		})
		if len(same) > 0 {
			return same
		}
	}
	return nil
}

// isStandIn reports whether a process is this one, which has no other sockets that wait.
func (r *run) isStandIn(p sockets.Process) bool { return r.o.StandIn != nil && p.PID == os.Getpid() }

// holder is whose a socket is. A stand-in's group is not its process's.
func (r *run) holder(s sockets.Socket, processes map[uint64]sockets.Process) verify.Holder {
	h := holder(s, processes)
	if r.isStandIn(processes[s.Inode]) {
		h.GID = &r.o.StandIn.GID
	}
	return h
}

func holder(s sockets.Socket, processes map[uint64]sockets.Process) verify.Holder {
	h := verify.Holder{UID: s.UID, Mark: s.Mark}
	if p, ok := processes[s.Inode]; ok {
		h.GID, h.Process, h.PID = &p.GID, p.Name, p.PID
	}
	return h
}

// sentTo is one of our source ports.
type sentTo struct {
	protocol ruleset.Protocol
	port     uint16
}

// sender is who sent it.
type sender struct {
	ruleset.Owner
	mark uint32
}

// senders asks the witness. Of a connection that the proxy has accepted, and whose socket is not known otherwise, it sees
// what acknowledges our end; that may be late by TCP_DELACK_MAX (200 ms, include/net/tcp.h), and by as long as the proxy does
// not run.
func (r *run) senders() (map[sentTo][]sender, error) {
	const late = time.Second
	if r.witness == nil {
		return nil, nil
	}
	deadline := time.Now().Add(late)
	for {
		all, err := r.witness.Senders()
		if err != nil {
			return nil, err
		}
		by := map[sentTo][]sender{}
		for _, s := range all {
			to := sentTo{s.Protocol, s.Port}
			by[to] = append(by[to], sender{s.Owner, s.Mark})
		}
		missing := func(a *attempt) bool { return a.isAnonymous() && by[a.sentTo()] == nil }
		if !slices.ContainsFunc(r.attempts, missing) || time.Now().After(deadline) {
			return by, nil
		}
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		_, _ = unix.Poll(nil, 5)
	}
}

// sentTo is where answers to the probe are sent to.
func (a *attempt) sentTo() sentTo { return sentTo{a.Packet.Protocol, a.flow.Src.Port()} }

// isAnonymous reports whether the proxy should have accepted, and its socket is not known.
func (a *attempt) isAnonymous() bool {
	action := a.Trace.Fate.Action
	return a.Packet.Protocol == ruleset.TCP && a.seen.Outcome == verify.Accepted && len(a.holders) == 0 &&
		(action == ruleset.Redirected || action == ruleset.Transparent)
}
