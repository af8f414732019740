package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/userns"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// space is what a session has open in its namespace. It is used on the thread that is in the namespace.
type space struct {
	netns    *netns.NetNS
	how      IPTables
	sock     *nft.Conn        // nil until it is needed
	chains   *[]beside.Chain  // in nf_tables; nil until they are needed
	bare     bool             // the legacy tables were looked at, and there are none
	routes   *markroute.Conn  // nil until it is needed
	lock     *os.File         // of the namespace, while it is held
	hidden   error            // why it is not known whether iptables-legacy holds rules of ours; nil: it is known
	gvisor   bool             // the kernel is gVisor's
	untold   string           // what an apply does not know of the connections that are there, as a warning
	switched bool             // an apply has taken away rules of another backend of ours, which chains has
	found    iptables.Dialect // what iptables-legacy can say here; empty until it is needed
}

// nft returns the namespace's nf_tables.
func (s *space) nft() (*nft.Conn, error) {
	if s.sock != nil {
		return s.sock, nil
	}
	if s.gvisor {
		return nil, fmt.Errorf("%w: gVisor has no nf_tables; use the backend iptables-legacy", ruleset.ErrUnsupported)
	}
	c, err := nft.Open()
	if err != nil {
		return nil, err
	}
	s.sock = c
	return c, nil
}

// forget has what is in the namespace looked at anew: others may have written there since.
func (s *space) forget() {
	s.chains, s.bare = nil, false
	if s.sock != nil {
		s.sock.Forget()
	}
	if s.routes != nil {
		s.routes.Forget()
	}
}

// foreignChains lists the chains of nf_tables that are not of our table, once.
func (s *space) foreignChains() ([]beside.Chain, error) {
	if s.chains != nil {
		return *s.chains, nil
	}
	c, err := s.nft()
	if err != nil {
		return nil, err
	}
	chains, err := c.ForeignChains()
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

// writer returns a backend that acts on the namespace.
func (s *space) writer(b Backend) (writer, error) { return backendOf(b).open(s) }

// present is the writer of a backend that has rules in force: no other can take them out.
func (s *space) present(b Backend) (writer, error) {
	w, err := s.writer(b)
	if err != nil {
		err = fmt.Errorf("the rules of %s cannot be taken out: %w", b,
			strict.Reworded(err, ", or use the backend nft, which needs no program", ""))
	}
	return w, err
}

func (s *space) iptables(v iptables.Variant) (*iptables.Runner, error) {
	o := iptables.Options{
		Variant: v, Dialect: s.dialect(v), Jumps: s.how.Jumps, Wait: s.how.Wait, Lock: s.lock,
		// Others' programs in a pod have another file system, and the node's write to other namespaces.
		SharedLock: s.netns.IsOwn(),
	}
	if v == iptables.NFT {
		o.Objects = objects{s}
	}
	return iptables.Open(o)
}

// dialect returns how much of xtables a variant's rules use here.
func (s *space) dialect(v iptables.Variant) iptables.Dialect {
	switch {
	case s.how.Dialect != "":
		return s.how.Dialect
	case v != iptables.Legacy:
		return iptables.Standard
	case s.found == "":
		s.found = iptables.DialectHere()
	}
	return s.found
}

// objects are the objects of nf_tables that iptables-nft makes.
type objects struct{ *space }

func (o objects) BaseChains(_ context.Context, f ruleset.Family) (map[string][]string, error) {
	c, err := o.nft()
	if err != nil {
		return nil, err
	}
	chains, err := c.ForeignChains()
	if err != nil {
		return nil, err
	}
	base := map[string][]string{}
	for _, c := range chains {
		if (c.Family == "ip") != (f == ruleset.IPv4) || c.Family != "ip" && c.Family != "ip6" {
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

func (o objects) CountRules(_ context.Context, f ruleset.Family, prefix string) (map[string]map[string]int, error) {
	c, err := o.nft()
	if err != nil {
		return nil, err
	}
	return c.CountRules(f, prefix)
}

func (o objects) RemoveEmpty(_ context.Context, f ruleset.Family, table string, chains []string, andTable bool) error {
	c, err := o.nft()
	if err != nil {
		return err
	}
	return c.RemoveEmpty(f, table, chains, andTable)
}

// holding returns the backends that have something under our names in the namespace. It reads, and runs no program.
func (s *space) holding() (all []Backend, err error) {
	s.chains, s.bare = nil, false
	return s.holdingBeside("")
}

// holdingBeside is holding, but for one backend. It goes by what was listed before, if it was.
func (s *space) holdingBeside(known Backend) (all []Backend, err error) {
	for _, b := range backends() {
		if b.name == known {
			continue
		}
		holds, err := b.holds(s)
		if errors.Is(err, iptables.ErrHidden) {
			// nf_tables takes CAP_NET_ADMIN and no more. Rules that a process like this one wrote are not there, either.
			s.hidden, holds, err = err, false, nil
		}
		if err != nil {
			return nil, err
		}
		if holds {
			all = append(all, b.name)
		}
	}
	return all, nil
}

// notIntercepted adds to [ruleset.ErrNotIntercepted] what could not be seen.
func (s *space) notIntercepted(err error) error {
	if errors.Is(err, ruleset.ErrNotIntercepted) && s.hidden != nil {
		return fmt.Errorf("%w, as far as can be seen: %w", err, s.hidden)
	}
	return err
}

// In nf_tables there is nothing of ours where there is no nf_tables.
func inNFTables(holds bool, err error) (bool, error) {
	if errors.Is(err, ruleset.ErrUnsupported) {
		return false, nil
	}
	return holds, err
}

func (s *space) nftHolds() (bool, error) {
	c, err := s.nft()
	if err != nil {
		return inNFTables(false, err)
	}
	return inNFTables(c.Holds())
}

func (s *space) iptablesNFTHolds() (bool, error) {
	chains, err := s.foreignChains()
	for _, c := range chains {
		if iptables.IsOurs(c.Name) {
			return true, nil
		}
	}
	return inNFTables(false, err)
}

func (s *space) iptablesLegacyHolds() (bool, error) {
	if s.bare {
		return false, nil
	}
	for _, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		if holds, err := iptables.LegacyHolds(f); err != nil || holds {
			return holds, err
		}
	}
	return false, nil
}

// probe tries the rules for real, where nothing comes of it.
func (s *space) probe(ctx context.Context, b Backend, rs ruleset.Ruleset) Finding {
	row := backendOf(b)
	if err := row.obstacle(s, rs); err != nil {
		return missing(b, err)
	}
	return row.try(ctx, s, rs)
}

// quickProbe looks at what stands in the way of a backend without trying it.
func (s *space) quickProbe(b Backend, rs ruleset.Ruleset) Finding {
	row := backendOf(b)
	if err := row.obstacle(s, rs); err != nil {
		return missing(b, err)
	}
	reason := row.praise
	if b != BackendNFT {
		reason = "asked for"
	}
	return Finding{Backend: b, State: StateUnknown, Reason: reason}
}

// nftObstacle reports a kernel that is known to have no nf_tables. Others are asked.
func (s *space) nftObstacle(ruleset.Ruleset) error {
	if !s.gvisor {
		return nil
	}
	_, err := s.nft()
	return err
}

// beginNFT tries the rules in a transaction that fails in the end.
func beginNFT(_ context.Context, s *space, rs ruleset.Ruleset) func() Finding {
	return func() Finding {
		c, err := s.nft()
		if err == nil {
			err = c.Probe(rs)
		}
		return finding(BackendNFT, err)
	}
}

// iptablesObstacle reports programs that are not there, and owners that they cannot match.
func (s *space) iptablesObstacle(v iptables.Variant, rs ruleset.Ruleset) error {
	if _, err := s.iptables(v); err != nil {
		return err
	}
	if v == iptables.NFT {
		if err := s.refuseDormant(); err != nil {
			return err
		}
	}
	own, err := s.netns.IsOfOwnUser()
	if err == nil && !own && rs.AsksForOwner() {
		return fmt.Errorf("%w: the network namespace belongs to another user namespace than this process "+
			"(hostUsers: false), "+
			"and the kernel takes the owner match of iptables from processes of its own user namespace alone (xt_owner, "+
			"EINVAL); use the backend nft, which has no such limit", ruleset.ErrUnsupported)
	}
	return refuseUnmapped(rs, userns.Mapped(userns.UIDs), userns.Mapped(userns.GIDs))
}

// refuseUnmapped reports an owner that rules ask for and that is not mapped in the user namespace of the process. The
// kernel refuses the owner match of iptables that begins or ends with such an ID (owner_check in
// net/netfilter/xt_owner.c).
func refuseUnmapped(rs ruleset.Ruleset, uids, gids ruleset.IDs) error {
	refuse := func(kind userns.Kind, asked, mapped ruleset.IDs) error {
		for _, r := range asked {
			if !mapped.Contains(r.First) || !mapped.Contains(r.Last) {
				return fmt.Errorf("%w: %s %s is not mapped in this user namespace (/proc/self/%s_map), and the kernel does not "+
					"take it in an owner match of iptables (xt_owner, EINVAL); map it, or use the backend nft",
					ruleset.ErrUnsupported, strings.ToUpper(string(kind)), r, kind)
			}
		}
		return nil
	}
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			for _, m := range r.Match {
				users, _ := m.(ruleset.UID)
				groups, _ := m.(ruleset.GID)
				err := cmp.Or(refuse(userns.UIDs, ruleset.IDs(users), uids), refuse(userns.GIDs, ruleset.IDs(groups), gids))
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// beginElsewhere begins to apply the rules in a network namespace made for it, so that nothing is written where they are
// to be: to ask legacy xtables for a table is to have it from then on. What it returns waits for the end.
func (s *space) beginElsewhere(ctx context.Context, b Backend, v iptables.Variant, rs ruleset.Ruleset) func() Finding {
	x, err := iptables.Open(iptables.Options{Variant: v, Dialect: s.dialect(v), Wait: s.how.Wait, Lock: s.lock})
	if err != nil {
		return func() Finding { return missing(b, err) }
	}
	var made, applied error
	done := make(chan struct{})
	go func() {
		defer close(done)
		var n *netns.NetNS
		if n, made = netns.New(); made != nil {
			return
		}
		applied = n.Do(func() error {
			_, err := x.Apply(ctx, rs)
			return err
		})
		applied = errors.Join(applied, n.Close())
	}()
	return func() Finding {
		<-done
		switch isRefused := errors.Is(made, syscall.EPERM); {
		case isRefused && s.gvisor:
			return finding(b, x.Ask(ctx, rs))
		case isRefused:
			// To list the rules takes no other namespace, and writes nothing.
			if _, err := x.Counters(ctx, nil); errors.Is(err, ruleset.ErrUnsupported) {
				return missing(b, err)
			}
			return Finding{Backend: b, State: StateUnknown,
				Reason: fmt.Sprintf(
					"%s is here; it was not tried, since that takes a network namespace of its own, and CAP_SYS_ADMIN", b)}
		case made != nil:
			return finding(b, made)
		}
		return finding(b, applied)
	}
}
