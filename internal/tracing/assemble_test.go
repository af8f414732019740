package tracing

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/nfevents"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// udp is the header of a datagram to 10.0.0.2, or to 127.0.0.1 after NAT.
func udp(id uint16, port uint16, after bool) nfevents.Header {
	n := make([]byte, 20)
	n[0], n[3], n[9] = 0x45, 36, byte(ruleset.UDP)
	binary.BigEndian.PutUint16(n[4:], id)
	copy(n[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	if after {
		copy(n[16:], []byte{127, 0, 0, 1})
	}
	tr := binary.BigEndian.AppendUint16([]byte{0x9c, 0x40}, port)
	return nfevents.Header{Network: n, Transport: append(tr, 0, 16, 0, 0, 1, 2, 3, 4), Out: 2}
}

func names() Names {
	return Names{NFT: map[nft.Place]nft.Words{
		{Family: 1, Table: nft.Table, Handle: 7}:  {Comment: "O8.all: name lookup", Does: []string{"redirect"}},
		{Family: 1, Table: "theirs", Handle: 3}:   {Comment: "no", Does: []string{"discard", nft.Rejects}},
		{Family: 2, Table: "theirs", Handle: 3}:   {Comment: "another family's"},
		{Family: 1, Table: "theirs", Handle: 300}: {},
	}}
}

func begin(h nfevents.Header, id uint32) nfevents.Event {
	return nfevents.Event{Trace: &nfevents.Trace{ID: id, Family: 1, Table: nft.TraceTable, Chain: "output", Header: h,
		Kind: nfevents.Policy, Verdict: nfevents.Accept}}
}

func rule(h nfevents.Header, id uint32, table, chain string, handle uint64, v nfevents.Verdict) nfevents.Event {
	kind := nfevents.Rule
	if handle == 0 {
		kind = nfevents.Policy
	}
	return nfevents.Event{Trace: &nfevents.Trace{ID: id, Family: 1, Table: table, Chain: chain, Handle: handle, Kind: kind,
		Verdict: v, Header: h}}
}

func packets(records []Record) (all []*Packet) {
	for _, r := range records {
		if r.Packet != nil {
			all = append(all, r.Packet)
		}
	}
	return all
}

// TestAssemble: what decides is told, whatever the kernel's numbers of packets are.
func TestAssemble(t *testing.T) {
	a := Assembler{Names: names()}
	at := time.Unix(100, 0)
	var out []Record
	add := func(events ...nfevents.Event) {
		for _, e := range events {
			out = append(out, a.Add(at, e)...)
		}
	}
	first, second := udp(1, 53, false), udp(2, 53, false)
	add(begin(first, 9), begin(second, 8),
		rule(first, 9, nft.Table, "output", 7, nfevents.Accept),
		rule(second, 8, "theirs", "late", 3, nfevents.Drop),
		// The header is another after NAT; the number is another on the other side of lo.
		rule(udp(1, 15053, true), 10, "theirs", "in", 0, nfevents.Accept),
		rule(nfevents.Header{}, 11, "theirs", "in", 3, nfevents.Drop), // of no packet that is known
	)
	if len(out) != 0 || a.Begun != 2 {
		t.Fatalf("%d packets, %+v", a.Begun, out)
	}
	if early := a.Due(at.Add(idle/2), false); len(early) > 0 {
		t.Errorf("not complete: %+v", early)
	}
	got := packets(a.Due(at.Add(idle), false))
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	if p := got[0]; p.Fate != "redirect(15053)" || p.By != "O8.all" || p.After == nil || p.After.Dst.Port() != 15053 ||
		p.Dst.Port() != 53 || len(p.Steps) != 2 || !p.Steps[1].Policy {
		t.Errorf("%+v", p)
	}
	if p := got[1]; p.Fate != "reject" || p.By != "inet theirs late handle 3" || p.Reason != "no" {
		t.Errorf("%+v", p)
	}
	// The same datagram once more, with the same number: another packet.
	add(begin(first, 9), begin(first, 9))
	if n := len(packets(out)); n != 1 || a.Begun != 4 {
		t.Errorf("%d told, %d begun", n, a.Begun)
	}
	// A rule that nobody knows is said so.
	add(rule(first, 9, "theirs", "in", 300, nfevents.Continue))
	if a.Unnamed != 0 {
		t.Errorf("%d unnamed", a.Unnamed)
	}
	add(rule(first, 9, "theirs", "in", 301, nfevents.Continue))
	if a.Unnamed != 1 {
		t.Errorf("%d unnamed", a.Unnamed)
	}
}

// TestConnections: what conntrack says follows the packet that it is about, and is told of traced ones alone.
func TestConnections(t *testing.T) {
	a := Assembler{Names: names()}
	at := time.Unix(100, 0)
	h := udp(1, 53, false)
	ends, _ := h.Ends()
	flow := func(c nfevents.Change) nfevents.Event {
		return nfevents.Event{Flow: &nfevents.Flow{Change: c, Entry: conntrack.Entry{Original: ends, Reply: ends.Reverse()}}}
	}
	if out := a.Add(at, flow(nfevents.Began)); out != nil {
		t.Errorf("of nobody: %+v", out)
	}
	a.Add(at, begin(h, 9))
	if out := a.Add(at, flow(nfevents.Began)); out != nil {
		t.Errorf("before the packet: %+v", out)
	}
	out := a.Due(at, true)
	if len(out) != 2 || out[0].Packet == nil || out[1].Connection == nil || out[1].Connection.Change != "new" {
		t.Errorf("%+v", out)
	}
	if out := a.Add(at, flow(nfevents.Ended)); len(out) != 1 || out[0].Connection.Change != "ended" {
		t.Errorf("%+v", out)
	}
	if out := a.Add(at, flow(nfevents.Ended)); out != nil {
		t.Errorf("twice: %+v", out)
	}
}

// TestBounds: any number of packets that never come to an end, and one that never ends, take bounded memory.
func TestBounds(t *testing.T) {
	a := Assembler{Names: names()}
	at := time.Unix(100, 0)
	told := 0
	for i := range 10 * maxPending {
		h := udp(uint16(i), uint16(i>>16), false)
		told += len(packets(a.Add(at, begin(h, uint32(i)))))
	}
	if len(a.pending) != maxPending || told != 9*maxPending {
		t.Errorf("%d pending, %d told", len(a.pending), told)
	}
	if len(a.known) > maxKnown {
		t.Errorf("%d connections are known", len(a.known))
	}
	h := udp(1, 1, false)
	for range 10 * maxSteps {
		a.Add(at, rule(h, 1, "theirs", "in", 3, nfevents.Continue))
	}
	for _, p := range packets(a.Due(at, true)) {
		if len(p.Steps) > maxSteps {
			t.Errorf("%d steps", len(p.Steps))
		}
		if c := p.Comment(); strings.Contains(c, "\n") {
			t.Errorf("%q", c)
		}
	}
}
