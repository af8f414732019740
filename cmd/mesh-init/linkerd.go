package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/peers/linkerd"
)

func linkerdInit() dropIn {
	return dropIn{
		name: "linkerd-init", does: "as linkerd2-proxy-init", called: []string{"proxy-init", "linkerd2-proxy-init"},
		flag: "--incoming-proxy-port", mesh: "linkerd", program: "linkerd2-proxy-init", changes: linkerd.Changes,
		netns: "--netns", read: linkerd.Parse,
	}
}

func linkerdValidator() dropIn {
	return dropIn{
		name: "linkerd-validator", does: "as linkerd2-network-validator",
		called: []string{"linkerd-network-validator", "linkerd2-network-validator"},
		read:   linkerd.ParseValidator, after: program.arrive,
		exits: []cli.Exit{{Code: 95, Err: errNotArrived}},
	}
}

// errNotArrived reports that a validator's connection was not captured.
var errNotArrived = errors.New("interception does not work")

// otherFamily is how long a validator waits for the family that it was not asked about.
const otherFamily = time.Second

// arrive is the work of validators, which know no configuration and have no privilege: a connection that they open has
// to be captured. The other family is tried, too, where there is one, and a leak there is said.
func (p program) arrive(j job, r peers.Request) error {
	if r.Arrival == nil {
		return nil // help was asked for
	}
	ctx, cancel := context.WithTimeout(j.ctx, r.Arrival.Timeout)
	defer cancel()
	if err := j.plane.Arrive(ctx, r.Arrival.Listen, r.Arrival.To); err != nil {
		return fmt.Errorf("%w: %w%s", errNotArrived, err, j.inForce())
	}
	listen, to := netip.MustParseAddr("::"), netip.MustParseAddr("2001:db8::2")
	if r.Arrival.To.Addr().Is6() {
		listen, to = netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("192.0.2.2")
	}
	ctx, cancel = context.WithTimeout(j.ctx, otherFamily)
	defer cancel()
	err := j.plane.Arrive(ctx, netip.AddrPortFrom(listen, r.Arrival.Listen.Port()),
		netip.AddrPortFrom(to, r.Arrival.To.Port()))
	if away, is := errors.AsType[dataplane.AstrayError](err); is && !errors.Is(away, syscall.ENETUNREACH) {
		j.log.WarnContext(j.ctx, away.Error()+": that family goes past the proxy")
	}
	_, err = fmt.Fprintf(p.stdout, "captured: a connection to %s came to %s\n", r.Arrival.To, r.Arrival.Listen)
	return err
}

// inForce says which rules of ours are in force, where that can be seen.
func (j job) inForce() string {
	switch status, err := j.plane.Status(j.ctx); {
	case errors.Is(err, intercept.ErrNotIntercepted):
		return "; no rules of mesh-init are in force"
	case err == nil:
		return fmt.Sprintf("; rules are in force by %s: mesh-init verify says what does not work", status.Backends)
	}
	return ""
}
