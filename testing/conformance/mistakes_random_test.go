//go:build linux

package conformance

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var (
	mistakeConfigs = flag.Uint64("mistakes.configs", 60,
		"how many random configurations to compare where conntrack errs, by each backend")
	mistakeSeed = flag.Uint64("mistakes.seed", 1, "the seed of the first one; the others follow")
)

const (
	mistakenFlows    = 8
	mistakenSegments = 24
)

// TestRandomMistakes has conntrack err about random flows and segments, under
// random configurations, and holds what happens against what Trace foretold.
func TestRandomMistakes(t *testing.T) {
	netlab.Require(t)
	requireIPTables(t)
	var next atomic.Uint64
	next.Store(*mistakeSeed)
	var met tally
	t.Run("workers", func(t *testing.T) {
		for w := range randomWorkers {
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				t.Parallel()
				pods := make([]mistaken, len(backends))
				for i, backend := range backends {
					pods[i] = newMistaken(t, backend, &met)
				}
				for {
					seed := next.Add(1) - 1
					if seed >= *mistakeSeed+*mistakeConfigs || t.Failed() {
						return
					}
					for i := range pods {
						pods[i].compare(t, seed)
					}
				}
			})
		}
	})
	t.Logf("%d configurations by each of %d backends: %s", *mistakeConfigs, len(backends), &met)
	if !t.Failed() && met.few(*mistakeConfigs*uint64(len(backends))) {
		t.Error("too few packets, or too few of them kept from getting past the proxy, to mean anything")
	}
}

// tally counts what has come of packets.
type tally struct{ flows, segments, passed, rejected, dropped, captured atomic.Uint64 }

func (c *tally) add(f intercept.Fate) {
	switch f.Action {
	case intercept.Pass:
		c.passed.Add(1)
	case intercept.Rejected:
		c.rejected.Add(1)
	case intercept.Dropped:
		c.dropped.Add(1)
	case intercept.Redirected, intercept.Translated, intercept.Transparent:
		c.captured.Add(1)
	}
}

func (c *tally) few(configs uint64) bool {
	sent := c.flows.Load() + c.segments.Load()
	return sent < configs*mistakenSegments ||
		c.rejected.Load()*16 < sent || c.passed.Load()*4 < sent || c.captured.Load()*50 < sent
}

func (c *tally) String() string {
	return fmt.Sprintf("%d flows and %d segments, of which %d passed, %d were captured, %d rejected and %d dropped",
		c.flows.Load(), c.segments.Load(), c.passed.Load(), c.captured.Load(), c.rejected.Load(), c.dropped.Load())
}

// mistaken is a pod in which conntrack errs.
type mistaken struct {
	pod
	met    *tally
	watch  *netlab.Watch
	belief *belief
	port   uint16 // the last one used
}

func newMistaken(t *testing.T, backend dataplane.Backend, met *tally) mistaken {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{SecondInterface: true, VM: true})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
		t.Fatal(err)
	}
	return mistaken{
		pod: pod{lab, dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}}, met: met,
		watch: watchPod(t, lab), belief: newBelief(t, lab),
	}
}

func (m *mistaken) compare(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 22))
	c := gen.Config(r)
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	complain := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s\nconfiguration: %+v\n%s\nreproduce: "+
			"go test ./testing/conformance -run TestRandomMistakes -mistakes.configs 1 -mistakes.seed %d",
			m.target.Backend, fmt.Sprintf(format, args...), c, listing(m.target), seed)
	}
	if _, err := m.target.Apply(t.Context(), c); err != nil {
		complain("%v", err)
		return
	}
	if err := m.lab.Pod.FlushEntries(); err != nil {
		t.Fatal(err)
	}
	mistake := randomMistake{m, r, c, rs, complain}
	for range mistakenFlows {
		if !mistake.flow(t) {
			return
		}
	}
	for range mistakenSegments {
		if !mistake.segment(t) {
			return
		}
	}
}

// randomMistake is what is random about mistakes in a pod, and how to say that it is not as foretold.
type randomMistake struct {
	*mistaken
	r        *rand.Rand
	c        intercept.Config
	rs       intercept.Ruleset
	complain func(format string, args ...any)
}

// source gives a packet a source port that nobody has had, from those of clients or from those of servers.
func (m *mistaken) source(a netip.Addr) netip.AddrPort {
	if m.port++; m.port < 45000 || m.port >= 60000 {
		m.port = 45000
	}
	return netip.AddrPortFrom(a, m.port)
}

// entries are what conntrack can have of a packet from src to dst.
func entries(p intercept.Protocol, src, dst netip.AddrPort) []netlab.Entry {
	return []netlab.Entry{
		{Protocol: p, Src: src, Dst: dst},
		{Protocol: p, Src: src, Dst: dst, Answered: true},
		{Protocol: p, Src: dst, Dst: src},
		{Protocol: p, Src: dst, Dst: src, TCP: netlab.TCPSynSent},
	}
}

// first says what conntrack takes the first packet of a flow for that finds one of the entries.
func first(p *intercept.Packet, entry int) {
	p.Known = true
	switch {
	case entry == 1:
		p.State = intercept.CTEstablished
	case entry == 2 && p.Protocol == intercept.TCP: // a SYN in the other direction of an established connection
		p.State = intercept.CTInvalid
	case entry >= 2:
		p.State, p.Reply = intercept.CTEstablished, true
	}
}

// flow sends a flow of which conntrack has an entry.
func (m randomMistake) flow(t *testing.T) (ok bool) {
	t.Helper()
	r, c, rs := m.r, m.c, m.rs
	f := flowOf(r, gen.Packet(r))
	p := f.Packet(m.lab)
	f.Src = m.source(p.Src.Addr())
	p.Src = f.Src
	before, err := rs.Trace(p)
	if err != nil {
		t.Fatal(err)
	}
	all := entries(f.Protocol, f.Src, f.Dst)
	translated := p.Interface == "eth0" && p.Hook == intercept.Output && f.Protocol == intercept.TCP &&
		len(c.Outbound.Target) == 0 && len(before.Steps) > 0 && r.IntN(4) == 0
	which := r.IntN(len(all))
	switch {
	case translated:
		e := all[0]
		e.TCP, e.To = netlab.TCPSynSent, netip.AddrPortFrom(localhost(f.Dst.Addr()), c.Outbound.Port.First)
		all, which = []netlab.Entry{e}, 0
		p.DNAT, p.Known, p.Dst = true, true, e.To
	case which >= 2 && (c.Inbound.DropInvalid || p.Hook == intercept.Prerouting || p.Interface == "lo"):
		// What answers it would be judged by the entry as well, and it is where its server looks for its destination.
		which = r.IntN(2)
		fallthrough
	default:
		if before.Zone == 0 || which >= 2 { // else it has another entry, unless it answers
			first(&p, which)
		}
	}
	if err := m.lab.Pod.AddEntry(all[which]); err != nil {
		t.Fatal(err)
	}
	trace, err := rs.Trace(p)
	if err != nil {
		t.Fatal(err)
	}
	if trace.Fate.Action == intercept.Dropped {
		return true // it takes its time
	}
	got, err := m.lab.Send(f)
	is := err == nil && got.Is(trace.Fate)
	if translated && trace.Fate == passed {
		is = err == nil && got.Fate == intercept.RedirectedTo(c.Outbound.Port.First)
	}
	if !is {
		m.complain("%s with the entry %+v: the kernel says %s (%v), Trace %s by %s (%s)",
			f, all[which], got, err, trace.Fate, trace.Rule, trace.Reason)
		return false
	}
	m.met.flows.Add(1)
	m.met.add(trace.Fate)
	return true
}

// segment sends a segment from the pod, of any kind.
func (m randomMistake) segment(t *testing.T) (ok bool) {
	t.Helper()
	r, rs := m.r, m.rs
	p := gen.Packet(r)
	for p.Protocol != intercept.TCP || p.Hook != intercept.Output || p.Interface != "eth0" {
		p = gen.Packet(r)
	}
	p.Src = m.source(p.Src.Addr())
	if r.IntN(4) == 0 {
		p.Src = netip.AddrPortFrom(p.Src.Addr(), gen.ServerPort(r))
	}
	flags, options, data := gen.Segment(r)
	gen.Carry(&p, flags, options, data)
	var with []netlab.Entry
	if all := entries(intercept.TCP, p.Src, p.Dst); r.IntN(5) > 0 {
		with = append(with, all[r.IntN(len(all))])
	}
	for _, e := range with {
		// An earlier segment from a server's port may have left one.
		if err := m.lab.Pod.AddEntry(e); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
		p.Known = true
	}
	if len(with) == 0 && p.Src.Port() < 45000 {
		if err := m.lab.Pod.FlushEntries(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.watch.SoFar(); err != nil {
		t.Fatal(err)
	}
	m.belief.reset(t)
	segment := netlab.Segment{
		Src: p.Src, Dst: p.Dst, Flags: flags, Seq: mistakenSequence, Ack: 2000, Data: make([]byte, data),
		Options: slices.Repeat([]byte{1}, options), // which say nothing
	}
	if join := []byte{30, 12, 0x10}; options > 12 { // of Multipath TCP, as for a subflow
		p.MPTCP = true
		copy(segment.Options[options-12:], append(join, make([]byte, 9)...))
	}
	if flags&intercept.ACK == 0 {
		segment.Ack = 0
	}
	err := m.lab.Inject(netlab.FromPod, segment, netlab.Injection{Owner: p.Owner, Mark: p.Mark})
	if err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
	asked := p
	m.belief.tell(t, &asked)
	trace, err := rs.Trace(asked)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := m.watch.SoFar()
	if err != nil {
		t.Fatal(err)
	}
	got := fateIn(seen, p.Src, p.Dst)
	ports := intercept.Ports{trace.Fate.Ports}
	if got.Action == intercept.Redirected && ports.Contains(got.Ports.First) {
		got.Ports = trace.Fate.Ports
	}
	if got != trace.Fate {
		m.complain("%+v owner %+v with %+v: the kernel says %s, Trace %s by %s (%s)\nseen: %s",
			asked, p.Owner, with, got, trace.Fate, trace.Rule, trace.Reason, seen)
		return false
	}
	m.met.segments.Add(1)
	m.met.add(got)
	return true
}

// fateIn says what the pod has done with a segment that one of its processes
// has sent, by what its interfaces have sent since.
func fateIn(seen []netlab.Seen, src, dst netip.AddrPort) intercept.Fate {
	for _, p := range seen {
		switch {
		case !p.Sent:
		case p.Src == src && p.Dst == dst:
			return passed
		case p.Src == src && p.Dst.Addr() == localhost(dst.Addr()):
			return intercept.RedirectedTo(p.Dst.Port())
		case p.Src == src && p.Dst != dst:
			return intercept.Fate{Action: intercept.Translated, To: p.Dst}
		case p.Interface == "lo" && p.Src == dst && p.Dst == src && p.Flags&intercept.RST != 0:
			return rejected
		}
	}
	return dropped
}

// belief counts, in a table of its own, what conntrack takes packets for that the pod sends.
type belief struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	was   []uint64
}

const (
	mistakenSequence = 0x6d697374 // the sequence number by which the table knows a segment
	believesReply    = 4          // the rule behind those of the four states
)

func newBelief(t *testing.T, lab *netlab.Lab) *belief {
	t.Helper()
	b := &belief{}
	err := lab.Pod.Do(func() (err error) { b.conn, err = nftables.New(nftables.AsLasting()); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.conn.CloseLasting() })
	b.table = b.conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "belief"})
	just := new(*nftables.ChainPriorityFilter - 1)
	b.chain = b.conn.AddChain(&nftables.Chain{
		Name: "sent", Table: b.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: just,
	})
	add := func(e ...expr.Any) {
		ours := []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 4, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint32(mistakenSequence)},
		}
		exprs := slices.Concat(ours, e, []expr.Any{&expr.Counter{}})
		b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: b.chain, Exprs: exprs})
	}
	for _, state := range []uint32{
		expr.CtStateBitNEW, expr.CtStateBitESTABLISHED, expr.CtStateBitRELATED, expr.CtStateBitINVALID,
	} {
		mask := binaryutil.NativeEndian.PutUint32(state)
		add(&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	add(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}})
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *belief) counts(t *testing.T) (counts []uint64) {
	t.Helper()
	rules, err := b.conn.GetRules(b.table, b.chain)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if c, is := e.(*expr.Counter); is {
				counts = append(counts, c.Packets)
			}
		}
	}
	return counts
}

func (b *belief) reset(t *testing.T) {
	t.Helper()
	b.was = b.counts(t)
}

// tell says of the one packet that was sent since reset what conntrack believes.
func (b *belief) tell(t *testing.T, p *intercept.Packet) {
	t.Helper()
	now := b.counts(t)
	states := []intercept.CTState{intercept.CTNew, intercept.CTEstablished, intercept.CTRelated, intercept.CTInvalid}
	p.State = 0
	for i, n := range now {
		switch n - b.was[i] {
		case 0:
		case 1:
			if i == believesReply {
				p.Reply = true
			} else {
				p.State |= states[i]
			}
		default:
			t.Fatalf("%d packets were sent instead of one", n-b.was[i])
		}
	}
	if p.State == 0 {
		t.Fatalf("%+v has no state", p)
	}
}
