//go:build !linux

package nft

import (
	"context"
	"time"

	"github.com/mdlayher/netlink"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// listing is none.
type listing struct{}

func dial() (*netlink.Conn, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) apply(context.Context, ruleset.Ruleset, layout) (ruleset.Outcome, error) {
	return "", ruleset.ErrNeedsLinux
}

func (*Conn) settle(context.Context, ruleset.Ruleset) error { return ruleset.ErrNeedsLinux }

func (*Conn) check(context.Context, ruleset.Ruleset) ([]ruleset.Difference, error) {
	return nil, ruleset.ErrNeedsLinux
}

func (*Conn) remove(context.Context) (bool, error) { return false, ruleset.ErrNeedsLinux }

func (*Conn) holdsTable() (bool, error) { return false, ruleset.ErrNeedsLinux }

func (*Conn) olderInForce() ([]ruleset.Tuple, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) dormant() ([]string, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) counters(context.Context) ([]ruleset.Counter, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) note(context.Context) (string, error) { return "", ruleset.ErrNeedsLinux }

func (*Conn) probe(ruleset.Ruleset, layout) error { return ruleset.ErrNeedsLinux }

func (*Conn) foreignChains() ([]beside.Chain, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) foreignRules([]beside.Chain) error { return ruleset.ErrNeedsLinux }

func (*Conn) countRules(ruleset.Family, string) (map[string]map[string]int, error) {
	return nil, ruleset.ErrNeedsLinux
}

func (*Conn) hollow() ([]ruleset.Difference, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) removeForeign(context.Context, func([]beside.Chain) (beside.Removal, error)) (beside.Removal, error) {
	return beside.Removal{}, ruleset.ErrNeedsLinux
}

func (*Conn) removeEmpty(ruleset.Family, string, []string, bool) error { return ruleset.ErrNeedsLinux }

func (*Tracking) create() error { return ruleset.ErrNeedsLinux }

func (*Tracking) remove() error { return ruleset.ErrNeedsLinux }

func (*Witness) create(ruleset.PortRange, time.Time) error { return ruleset.ErrNeedsLinux }

func (*Witness) senders() ([]Sender, error) { return nil, ruleset.ErrNeedsLinux }

func (*Witness) sent() ([]Sent, error) { return nil, ruleset.ErrNeedsLinux }

func (*Witness) remove() error { return ruleset.ErrNeedsLinux }

func (*Tracer) create([]ruleset.Chain) error { return ruleset.ErrNeedsLinux }

func (*Tracer) remove() error { return ruleset.ErrNeedsLinux }

func (*Conn) words(context.Context) (map[Place]Words, error) { return nil, ruleset.ErrNeedsLinux }

func (*Conn) hasTrace() (bool, error) { return false, ruleset.ErrNeedsLinux }
