package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
)

// backend is what all backends can do.
type backend interface {
	// Apply returns an outcome beside an error if the rules were written all the
	// same, and then did not read as they should.
	Apply(intercept.Ruleset) (intercept.Outcome, error)
	Check(intercept.Ruleset) ([]intercept.Difference, error)
	Remove() (bool, error)
	Counters() ([]intercept.Counter, error)
}

// space is an open network namespace and the backends in it. It is used on the
// thread that is in the namespace, by [Target.open].
type space struct {
	netns
	how    IPTables
	sock   *nft.Backend    // nil until it is needed
	chains *[]nft.Chain    // others' in nf_tables; nil until they are needed
	routes *markroute.Conn // nil until it is needed
}

// nft returns the namespace's nf_tables.
func (s *space) nft() (*nft.Backend, error) {
	if s.sock != nil {
		return s.sock, nil
	}
	b, err := nft.Open()
	if err != nil {
		return nil, err
	}
	s.sock = b
	return b, nil
}

// othersChains lists the chains of nf_tables that are not of our table, once.
func (s *space) othersChains() ([]nft.Chain, error) {
	if s.chains != nil {
		return *s.chains, nil
	}
	b, err := s.nft()
	if err != nil {
		return nil, err
	}
	chains, err := b.Chains()
	if err == nil {
		s.chains = &chains
	}
	return chains, err
}

// routing returns the namespace's routes and rules.
func (s *space) routing() (*markroute.Conn, error) {
	if s.routes != nil {
		return s.routes, nil
	}
	c, err := markroute.Open()
	if err != nil {
		return nil, err
	}
	s.routes = c
	return c, nil
}

func (s *space) close() (err error) {
	if s.sock != nil {
		err = s.sock.Close()
	}
	if s.routes != nil {
		err = errors.Join(err, s.routes.Close())
	}
	return err
}

// backend returns a backend that acts on the namespace.
func (s *space) backend(b Backend) (backend, error) {
	if b == BackendNFT {
		return s.nft()
	}
	r, err := s.iptables(b)
	return runner{r}, err
}

// runner is an iptables.Runner as a backend.
type runner struct{ *iptables.Runner }

func (r runner) Apply(rs intercept.Ruleset) (intercept.Outcome, error) {
	return r.Runner.Apply(context.Background(), rs)
}

func (r runner) Check(rs intercept.Ruleset) ([]intercept.Difference, error) {
	return r.Runner.Check(context.Background(), rs)
}

func (r runner) Remove() (bool, error) { return r.Runner.Remove(context.Background()) }

func (r runner) Counters() ([]intercept.Counter, error) {
	return r.Runner.Counters(context.Background(), nil)
}

func (s *space) iptables(b Backend) (*iptables.Runner, error) {
	o := iptables.Options{
		Variant: b.variant(), Dialect: s.how.Dialect, Last: s.how.Last, Wait: s.how.Wait,
		// Others' programs in a pod have another file system, and the node's
		// write to other namespaces.
		SharedLock: s.file == nil,
	}
	if b == BackendIPTablesNFT {
		o.Objects = objects{s}
	}
	return iptables.Open(o)
}

// objects are the objects of nf_tables that iptables-nft makes.
type objects struct{ *space }

func (o objects) BaseChains(_ context.Context, f intercept.Family) (map[string][]string, error) {
	b, err := o.nft()
	if err != nil {
		return nil, err
	}
	chains, err := b.Chains()
	if err != nil {
		return nil, err
	}
	base := map[string][]string{}
	for _, c := range chains {
		if (c.Family == "ip") != (f == intercept.IPv4) || c.Family != "ip" && c.Family != "ip6" {
			continue
		}
		names := base[c.Table]
		if c.Base {
			names = append(names, c.Name)
		}
		base[c.Table] = names
	}
	return base, nil
}

func (o objects) RemoveEmpty(_ context.Context, f intercept.Family, table string, chains []string, andTable bool) error {
	b, err := o.nft()
	if err != nil {
		return err
	}
	return b.RemoveEmpty(f, table, chains, andTable)
}

// apply puts routes, then rules, in place, and removes what others of ours had
// there: no rule ever marks packets that nothing delivers.
func (s *space) apply(want Backend, rs intercept.Ruleset) (choice Choice, outcome intercept.Outcome, err error) {
	routes := rs.Routes
	rs.Routes = nil
	c, err := s.routing()
	if err != nil {
		return choice, "", err
	}
	added, undo, err := c.Add(routes, rs.Families)
	if err != nil {
		return choice, "", err
	}
	if choice, outcome, err = s.applyRules(want, rs); err != nil {
		if outcome == "" {
			err = errors.Join(err, undo())
		} // else there are rules in force that lead to the routes
		return choice, outcome, err
	}
	if _, err = s.removeOthers(choice.Backend); err != nil {
		return choice, outcome, err
	}
	// Whatever the outcome: somebody who was killed may have left some.
	removed, err := c.Keep(routes, rs.Families)
	if outcome == intercept.Unchanged && (added || removed) {
		outcome = intercept.Replaced
	}
	return choice, outcome, err
}

// applyRules chooses a backend and applies with it. That nftables works is
// proven by using it, and so is what could not be tried before. What the
// kernel then refuses is proven missing, and the next is chosen, unless the
// backend was asked for by name.
func (s *space) applyRules(want Backend, rs intercept.Ruleset) (choice Choice, outcome intercept.Outcome, err error) {
	all, err := candidates(want)
	if err != nil {
		return choice, "", err
	}
	probe := s.prober(rs)
	refused := map[Backend]Finding{}
	for {
		choice, err = choose(want, func(b Backend) Finding {
			f, is := refused[b]
			switch {
			case is:
				return f
			case len(all) == 1, b == BackendNFT:
				return s.quickProbe(b, rs)
			}
			return probe(b)
		})
		if err != nil {
			return choice, "", err
		}
		var b backend
		if b, err = s.backend(choice.Backend); err == nil {
			outcome, err = b.Apply(rs)
		}
		if len(all) == 1 || !errors.Is(err, intercept.ErrUnsupported) {
			return choice, outcome, err
		}
		refused[choice.Backend] = missing(choice.Backend, err)
	}
}

// removeOthers takes out what backends other than the one in use have there.
func (s *space) removeOthers(inUse Backend) (removed bool, err error) {
	holding, err := s.holdingBeside(inUse)
	if err != nil {
		return false, err
	}
	for _, other := range holding {
		if other == inUse {
			continue
		}
		if err := s.remove(other); err != nil {
			return removed, fmt.Errorf("the rules are in force by %s, but those that %s had put there are still there, too: %w", inUse, other, err)
		}
		removed = true
	}
	return removed, nil
}

func (s *space) remove(b Backend) error {
	x, err := s.backend(b)
	if err == nil {
		_, err = x.Remove()
	}
	return err
}

// removeFrom takes out our rules, of one backend or of all that have some.
func (s *space) removeFrom(want Backend) (removed bool, err error) {
	removed, err = s.removeRules(want)
	if err != nil {
		return removed, err
	}
	// The rules of a backend that was not asked for still need their routes.
	if holding, err := s.holding(); err != nil || len(holding) > 0 {
		return removed, err
	}
	c, err := s.routing()
	if err != nil {
		return removed, err
	}
	routes, err := c.Keep(nil, nil)
	return removed || routes, err
}

func (s *space) removeRules(want Backend) (removed bool, err error) {
	wanted, err := candidates(want)
	if err != nil {
		return false, err
	}
	if len(wanted) == 1 {
		b, err := s.backend(want)
		if err != nil {
			return false, err
		}
		return b.Remove()
	}
	holding, err := s.holding()
	if err != nil {
		return false, err
	}
	for _, b := range wanted {
		if !slices.Contains(holding, b) {
			continue
		}
		if err := s.remove(b); err != nil {
			return removed, fmt.Errorf("backend %s: %w", b, err)
		}
		removed = true
	}
	return removed, nil
}

// holding returns the backends that have something under our names in the
// namespace. It reads, and runs no program.
func (s *space) holding() (all []Backend, err error) {
	s.chains = nil
	return s.holdingBeside("")
}

// holdingBeside is holding, but for one backend. Of nf_tables it goes by what
// was listed before, if it was.
func (s *space) holdingBeside(known Backend) (all []Backend, err error) {
	has := map[Backend]bool{}
	chains, err := s.othersChains()
	if err == nil && known != BackendNFT {
		var b *nft.Backend
		if b, err = s.nft(); err == nil {
			has[BackendNFT], err = b.Holds()
		}
	}
	for _, c := range chains {
		has[BackendIPTablesNFT] = has[BackendIPTablesNFT] || iptables.IsOurs(c.Name)
	}
	// Where there is no nf_tables, there is nothing of ours in it.
	if err != nil && !errors.Is(err, intercept.ErrUnsupported) {
		return nil, err
	}
	for _, f := range []intercept.Family{intercept.IPv4, intercept.IPv6} {
		legacy, err := iptables.LegacyHolds(f)
		if err != nil {
			return nil, err
		}
		has[BackendIPTablesLegacy] = has[BackendIPTablesLegacy] || legacy
	}
	return slices.DeleteFunc(concrete(), func(b Backend) bool { return !has[b] }), nil
}

// prober returns what choose asks: it tries the rules for real, where nothing
// comes of it.
func (s *space) prober(rs intercept.Ruleset) func(Backend) Finding {
	return func(b Backend) Finding {
		if b == BackendNFT {
			x, err := s.nft()
			if err == nil {
				err = x.Probe(rs)
			}
			return finding(b, err, b.praise())
		}
		if f := s.quickProbe(b, rs); f.State == StateMissing {
			return f
		}
		return s.tryElsewhere(b, rs)
	}
}

// finding judges the outcome of a try. What could not be tried for want of
// privilege is not proven to be missing.
func finding(b Backend, err error, works string) Finding {
	switch {
	case err == nil:
		return Finding{Backend: b, State: StateOK, Reason: works}
	case errors.Is(err, intercept.ErrUnsupported):
		return missing(b, err)
	}
	return Finding{Backend: b, State: StateUnknown, Reason: err.Error()}
}

// quickProbe looks at what stands in the way of an iptables backend without
// trying it.
func (s *space) quickProbe(b Backend, rs intercept.Ruleset) Finding {
	if b == BackendNFT {
		return Finding{Backend: b, State: StateUnknown, Reason: b.praise()}
	}
	if _, err := s.iptables(b); err != nil {
		return missing(b, err)
	}
	own, err := s.isOfOwnUser()
	if err == nil && !own && rs.AsksForOwner() {
		return missing(b, errForeignUser())
	}
	return Finding{Backend: b, State: StateUnknown, Reason: "asked for"}
}

// tryElsewhere applies the rules in a network namespace made for it, so that
// nothing is written where they are to be: to ask legacy xtables for a table
// is to have it from then on.
func (s *space) tryElsewhere(b Backend, rs intercept.Ruleset) Finding {
	x, err := iptables.Open(iptables.Options{Variant: b.variant(), Dialect: s.how.Dialect, Wait: s.how.Wait})
	if err != nil {
		return missing(b, err)
	}
	err = elsewhere(func() error {
		_, err := x.Apply(context.Background(), rs)
		return err
	})
	if errors.Is(err, unix.EPERM) && !errors.Is(err, intercept.ErrPermission) {
		// To list the rules takes no other namespace, and writes nothing.
		if _, err := x.Counters(context.Background(), nil); errors.Is(err, intercept.ErrUnsupported) {
			return missing(b, err)
		}
		return Finding{Backend: b, State: StateUnknown, Reason: fmt.Sprintf("%s is here; it was not tried, since that takes a network namespace of its own, and CAP_SYS_ADMIN", b)}
	}
	return finding(b, err, b.praise())
}
