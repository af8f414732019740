package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Foreign are the base chains of others at the hooks where rules of ours are, or would be.
type Foreign struct {
	// Chains are in the order in which the kernel asks them.
	Chains []beside.Foreign `json:"chains"`
	// Error says why not all could be listed.
	Error string `json:"error,omitempty"`
}

// Warnings says of which chains connections can go elsewhere than our rules say.
func (f Foreign) Warnings() []string {
	var warn []string
	for _, c := range f.Chains {
		if w := c.Warning(); w != "" {
			warn = append(warn, w)
		}
	}
	return warn
}

// ErrOtherMesh reports rules of another mesh: two of them in one namespace take each other's connections.
var ErrOtherMesh = errors.New("rules of another mesh are in the namespace")

// OtherMeshError says which mesh's rules Apply has found, and where. It is [ErrOtherMesh].
type OtherMeshError struct {
	Meshes []beside.Mesh
	// Chains are those from which packets come to its rules.
	Chains []beside.Foreign
	// Because says why they were not taken over. Empty: nobody asked.
	Because string
}

// Error names the meshes and the chains.
func (e *OtherMeshError) Error() string {
	var titles, chains []string
	for _, m := range e.Meshes {
		titles = append(titles, m.Title)
	}
	const most = 3
	for i, c := range e.Chains {
		if i == most {
			chains = append(chains, fmt.Sprintf("and from %d more", len(e.Chains)-most))
			break
		}
		chains = append(chains, c.Name())
	}
	text := fmt.Sprintf("%s: %s, asked from %s", ErrOtherMesh, strings.Join(titles, ", "), strings.Join(chains, ", "))
	if e.Because != "" {
		text += " (" + e.Because + ")"
	}
	return text
}

// Is makes it [ErrOtherMesh].
func (e *OtherMeshError) Is(target error) bool { return target == ErrOtherMesh }

// Foreign lists the base chains of others, of nf_tables and of both variants of iptables. Where there are no rules of
// ours it says what would be so if the pod's backend wrote some.
func (s *Session) Foreign(ctx context.Context) (all Foreign, err error) {
	wanted, err := candidates(s.pod.Backend)
	if err != nil {
		return all, err
	}
	err = s.do(ctx, func() error {
		holding, err := s.space.holding()
		if err != nil && !errors.Is(err, ruleset.ErrPermission) {
			return err
		}
		all = s.space.foreign(firstOf(wanted, holding))
		return nil
	})
	return all, err
}

// foreign lists the chains of others beside rules of a backend.
func (s *space) foreign(b Backend) Foreign {
	chains, err := s.allForeign()
	return foreignTo(b, chains, err)
}

// foreignTo says what chains of others are to rules of a backend.
func foreignTo(b Backend, chains []beside.Chain, err error) Foreign {
	ours := beside.Ours{NAT: int32(ruleset.PriorityFirstNAT), IsOurs: iptables.HasOurName}
	if v := backendOf(b).variant; v != "" {
		ours.NAT, ours.Shared, ours.Legacy = int32(ruleset.PriorityDstNAT), true, v == iptables.Legacy
	}
	all := Foreign{Chains: beside.Survey(chains, ours)}
	if err != nil {
		all.Error = strict.InLine(err)
		if all.Chains == nil {
			all.Chains = []beside.Foreign{} // for programs: it is a list that is not whole
		}
	}
	return all
}

// allForeign lists all chains of others with their rules. Beside an error it returns what could be listed.
func (s *space) allForeign() (all []beside.Chain, err error) {
	var errs []error
	add := func(err error) {
		if err != nil && !errors.Is(err, ruleset.ErrUnsupported) { // else there are none
			errs = append(errs, err)
		}
	}
	chains, err := s.foreignChains()
	add(err)
	all = slices.Clone(chains)
	if slices.ContainsFunc(all, func(c beside.Chain) bool { return c.Base }) {
		c, err := s.nft()
		if err == nil {
			err = c.ForeignRules(all)
		}
		add(err)
	}
	s.bare = true
	for _, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		chains, err := iptables.LegacyChains(f)
		add(err)
		all = append(all, chains...)
		s.bare = s.bare && err == nil && len(chains) == 0
		if errors.Is(err, iptables.ErrHidden) { // and so are those of the other family
			break
		}
	}
	return all, joinLine(errs)
}

// otherMesh says which rules of other meshes are in force. Nil: none are.
func otherMesh(all Foreign) *OtherMeshError {
	meshes := beside.Meshes(all.Chains)
	if len(meshes) == 0 {
		return nil
	}
	return &OtherMeshError{Meshes: meshes, Chains: slices.DeleteFunc(slices.Clone(all.Chains), func(c beside.Foreign) bool {
		return !c.IsOfMesh() || c.Effect == beside.Asleep
	})}
}

// dormant returns the tables with rules of ours, of the backends named, that sleep, as nft names them.
func (s *space) dormant(holding []Backend) (names []string, err error) {
	if slices.Contains(holding, BackendNFT) {
		c, err := s.nft()
		if err == nil {
			names, err = c.Dormant()
		}
		if err != nil {
			return nil, err
		}
	}
	if !slices.Contains(holding, BackendIPTablesNFT) {
		return names, nil
	}
	chains, err := s.foreignChains()
	for _, c := range chains {
		if c.Dormant && iptables.IsOurs(c.Name) {
			names = append(names, c.Family+" "+c.Table)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), err
}

// references are rules of others in nf_tables that lead to chains of iptables-nft of ours, where its programs do not
// see them: in base chains that are not as those of iptables.
func (s *space) references() (errs []error) {
	s.chains = nil
	chains, err := s.allForeign()
	if err != nil {
		return nil // it is no more than a help
	}
	for _, c := range chains {
		if c.Legacy || !c.Base || iptables.IsBuiltin(c) {
			continue
		}
		for _, r := range c.Rules {
			if i := slices.IndexFunc(r.To, iptables.HasOurName); i >= 0 {
				errs = append(errs, beside.ReferenceTo(c, r.To[i]))
			}
		}
	}
	return errs
}

// dormantTable is the difference that a table makes that sleeps.
func dormantTable(name string) ruleset.Difference {
	return ruleset.Difference{What: "table " + name,
		Problem: "is dormant: none of its rules is in force; wake it with `nft add table " + name + "`"}
}

// refuseDormant reports tables of xtables that sleep: rules that are written there by iptables-nft are not in force.
// They are not ours to wake.
func (s *space) refuseDormant() error {
	chains, err := s.foreignChains()
	if err != nil {
		return nil //nolint:nilerr // who writes says so
	}
	for _, c := range chains {
		if c.Dormant && c.Name == "" && (c.Family == "ip" || c.Family == "ip6") && iptables.IsTable(c.Table) {
			return fmt.Errorf("%w: %s; or use the backend nft", ruleset.ErrUnsupported, dormantTable(c.Family+" "+c.Table))
		}
	}
	return nil
}

// Removal is what RemoveForeign takes out, a line for each part.
type Removal struct {
	Parts []string `json:"parts"`
	// Removed is false after a dry run, and where there is nothing.
	Removed bool `json:"removed"`
}

// RemoveForeign takes the rules of another mesh out of the namespace, by the names that its chains, tables and comments
// have: of all tables and families, or of none. What has no name of its own stays. A dry run says what would go. The
// error is a [*beside.ReferenceError] if somebody else's rule leads to a chain of the mesh.
func (s *Session) RemoveForeign(ctx context.Context, m beside.Mesh, dryRun bool) (out Removal, err error) {
	err = s.locked(ctx, func() error {
		chains, err := s.space.allForeign()
		if err != nil {
			return fmt.Errorf("not all rules could be listed, so none is removed: %w", err)
		}
		r, err := m.Removal(chains, iptables.HasOurName)
		out.Parts = append([]string{}, r.Lines()...)
		if err != nil || dryRun || r.IsEmpty() {
			return err
		}
		out.Removed = true
		return s.space.removeForeign(ctx, m, r)
	})
	out.Removed = out.Removed && err == nil
	return out, err
}

// removeLegacy takes out the rules that a mesh has in legacy xtables, by its programs, or where there are none without.
func (s *space) removeLegacy(ctx context.Context, m beside.Mesh) (undo func(context.Context) error, err error) {
	x, err := s.iptables(iptables.Legacy)
	if err == nil {
		return x.RemoveForeign(ctx, m)
	}
	back, err := iptables.RemoveLegacy(func(chains []beside.Chain) (beside.Removal, error) {
		return m.Removal(chains, iptables.HasOurName)
	})
	return func(context.Context) error { return back() }, err
}

// removeForeign takes out the part of legacy xtables, which can be put back, and then that of nf_tables in one
// transaction.
func (s *space) removeForeign(ctx context.Context, m beside.Mesh, r beside.Removal) error {
	var done effects
	if !r.Of(true).IsEmpty() {
		undo, err := s.removeLegacy(ctx, m)
		if err != nil {
			return err
		}
		done = append(done, effect{"the removal of rules of iptables-legacy", undo})
	}
	if r.Of(false).IsEmpty() {
		return nil
	}
	c, err := s.nft()
	if err == nil {
		_, err = c.RemoveForeign(ctx, func(chains []beside.Chain) (beside.Removal, error) {
			return m.Removal(chains, iptables.HasOurName)
		})
	}
	if err != nil {
		return done.undo(err)
	}
	return nil
}
