package tracing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/nfevents"
	"github.com/mesh-intercept/intercept/nft"
)

// Tracer follows packets in one network namespace.
type Tracer struct {
	table  *nft.Tracer
	events *nfevents.Stream
	// Notes say what it cannot do here.
	Notes []string
}

// Open begins, in the network namespace that the calling thread is in. legacy is whether rules of iptables-legacy are to
// be followed, too: their kernel part writes what packets meet to the log, which takes nfnetlink_log. The errors are
// [ruleset.ErrPermission], [ruleset.ErrUnsupported] and [ruleset.ErrLocked], or say what failed.
func Open(f Flow, legacy bool) (t *Tracer, err error) {
	t = &Tracer{}
	t.events, err = nfevents.Open(nfevents.Traces, nfevents.NewFlows, nfevents.ChangedFlows, nfevents.EndedFlows)
	if err != nil {
		return nil, err
	}
	if legacy {
		err = t.events.BindLog()
	}
	if err == nil {
		t.table, err = nft.OpenTracer(f.Chains())
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if !t.table.Owned() {
		t.Notes = append(t.Notes, fmt.Sprintf("this kernel is older than Linux 5.12: if mesh-init is killed (SIGKILL), its table inet %s "+
			"stays, and says which packets to trace, until the next mesh-init trace or remove", nft.TraceTable))
	}
	if err := conntrack.Supported(); err != nil {
		t.Notes = append(t.Notes, "what becomes of connections is not seen: "+err.Error())
	}
	return t, nil
}

// Close ends it, and leaves nothing. It takes a thread in the namespace.
func (t *Tracer) Close() (err error) {
	if t.table != nil {
		err = t.table.Close()
		t.table = nil
	}
	return errors.Join(err, t.events.Close())
}

// stop traces no more packets. What was traced is still told.
func (t *Tracer) stop() error {
	if t.table == nil {
		return nil
	}
	err := t.table.Close()
	t.table = nil
	return err
}

// Summary says how a trace went.
type Summary struct {
	// Packets are those that were told of, and Lost the events that the kernel had no room for.
	Packets int    `json:"packets"`
	Lost    uint64 `json:"lost"`
}

const (
	// turn is how long to wait for events at most, before looking at the clock.
	turn = 50 * time.Millisecond
	// flood is for how long what is on its way is read in the end, if connections of others begin all the time.
	flood = 2 * time.Second
)

// Run tells of packets until ctx ends, which is no error, or until it has told of count. names is asked for the rules'
// names at first and when a rule is met that has none; it may be slow.
func (t *Tracer) Run(ctx context.Context, count int, names func() (Names, error), tell func(Record) error) (s Summary, err error) {
	a := Assembler{}
	if a.Names, err = names(); err != nil {
		return s, err
	}
	told := 0
	out := func(records []Record) error {
		for _, r := range records {
			if r.Packet != nil {
				if told == count {
					continue
				}
				told++
			}
			if err := tell(r); err != nil {
				return err
			}
		}
		return nil
	}
	var last time.Time // when names were asked for
	var ending time.Time
	quiet := false // the last turn brought nothing
	for {
		now := time.Now()
		switch full := a.Begun >= count; {
		case ending.IsZero() && (full || ctx.Err() != nil):
			// What is on its way is told, too.
			if err := t.stop(); err != nil {
				return s, err
			}
			ending = time.Now().Add(idle) // stopping may have taken long
		case !ending.IsZero() && (quiet && now.After(ending) || now.After(ending.Add(flood))):
			s.Lost = t.events.Lost()
			err := out(a.Due(now, true))
			s.Packets = told
			return s, err
		}
		events, err := t.events.Next(now.Add(turn))
		if err != nil {
			return s, err
		}
		now, quiet = time.Now(), len(events) == 0
		for _, e := range events {
			if err := out(a.Add(now, e)); err != nil {
				return s, err
			}
		}
		if a.Unnamed > 0 && now.Sub(last) > time.Second { // rules have changed; what comes next has names
			last, a.Unnamed = now, 0
			if n, err := names(); err == nil {
				a.Names = n
			}
		}
		if err := out(a.Due(now, false)); err != nil {
			return s, err
		}
	}
}
