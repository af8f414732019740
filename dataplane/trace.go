package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/mesh-intercept/intercept/internal/tracing"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TraceTable is the table of nf_tables that a trace makes, of family inet.
const TraceTable = nft.TraceTable

// ErrTraced reports that another trace is at work in the namespace. It is [ruleset.ErrLocked].
var ErrTraced = nft.ErrTraced

// What a trace is asked for, and what it tells: see package tracing.
type (
	TraceFlow    = tracing.Flow
	TraceRecord  = tracing.Record
	TraceSummary = tracing.Summary
)

// TraceOptions say what to trace, and how much.
type TraceOptions struct {
	Flow TraceFlow
	// Count is how many packets to tell of at most.
	Count int
	// Tell takes what there is to tell, in the order in which it happened; the trace ends with its error. Note takes what
	// cannot be done here, and Ready is called when packets are followed from then on; nil: nobody is told. All are called by
	// one goroutine.
	Tell  func(TraceRecord) error
	Note  func(string)
	Ready func()
}

// Trace follows real packets of a flow through the rules of the namespace, everybody's, until ctx ends, which is no error.
// What it needs in the kernel vanishes with it, however the process ends. Without nf_tables, or for rules of
// iptables-legacy without nfnetlink_log, the error is [ruleset.ErrUnsupported].
func (s *Session) Trace(ctx context.Context, o TraceOptions) (summary TraceSummary, err error) {
	var t *tracing.Tracer
	var legacy bool
	err = s.do(ctx, func() error {
		if s.space.gvisor {
			return fmt.Errorf("%w: gVisor cannot trace packets; mesh-init status counts what each rule has met, and mesh-init "+
				"explain says what they do", ruleset.ErrUnsupported)
		}
		holding, err := s.space.holding()
		if err != nil {
			return err
		}
		legacy = slices.Contains(holding, BackendIPTablesLegacy)
		t, err = tracing.Open(o.Flow, legacy)
		return err
	})
	if err != nil {
		return summary, err
	}
	defer func() {
		// ctx may have ended.
		err = errors.Join(err, s.do(context.WithoutCancel(ctx), t.Close))
	}()
	for _, n := range t.Notes {
		if o.Note != nil {
			o.Note(n)
		}
	}
	if o.Ready != nil {
		o.Ready()
	}
	names := func() (n tracing.Names, err error) {
		err = s.do(context.WithoutCancel(ctx), func() error {
			n, err = s.space.names(context.WithoutCancel(ctx), legacy)
			return err
		})
		return n, err
	}
	return t.Run(ctx, o.Count, names, o.Tell)
}

// names asks for what rules and interfaces are called.
func (s *space) names(ctx context.Context, legacy bool) (n tracing.Names, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return n, fmt.Errorf("list interfaces: %w", err)
	}
	interfaces := map[uint32]string{}
	for _, i := range all {
		interfaces[uint32(i.Index)] = i.Name
	}
	n.Interface = func(i uint32) string {
		if name, ok := interfaces[i]; ok {
			return name
		}
		return "interface " + strconv.FormatUint(uint64(i), 10)
	}
	conn, err := s.nft()
	if err != nil {
		return n, err
	}
	if n.NFT, err = conn.Words(ctx); err != nil || !legacy {
		return n, err
	}
	w, err := s.iptables(iptables.Legacy)
	if err != nil {
		return n, err
	}
	n.Legacy, err = w.Texts(ctx)
	if errors.Is(err, ruleset.ErrNotIntercepted) { // they went meanwhile
		err = nil
	}
	return n, err
}

// Trace is [Session.Trace] in a session of its own.
func (p Pod) Trace(ctx context.Context, o TraceOptions) (TraceSummary, error) {
	return once(ctx, p, func(s *Session) (TraceSummary, error) { return s.Trace(ctx, o) })
}
