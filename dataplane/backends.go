package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Backend names a way to put rules into the kernel.
type Backend string

// The backends.
const (
	BackendAuto           Backend = "auto"            // choose, and say why
	BackendNFT            Backend = "nft"             // nftables over netlink
	BackendIPTables       Backend = "iptables"        // iptables, whichever variant works
	BackendIPTablesNFT    Backend = "iptables-nft"    // iptables, the variant on nf_tables
	BackendIPTablesLegacy Backend = "iptables-legacy" // iptables, the variant on ip_tables
)

// writer is what a backend can do in the namespace of the calling thread.
type writer interface {
	// Apply returns an outcome beside an error if the rules were written all the same, and then did not read as they
	// should.
	Apply(context.Context, ruleset.Ruleset) (ruleset.Outcome, error)
	Check(context.Context, ruleset.Ruleset) ([]ruleset.Difference, error)
	Remove(context.Context) (bool, error)
	// Counters names rules whose IDs the kernel does not hold by their places in those given, if these are in force.
	Counters(context.Context, *ruleset.Ruleset) ([]ruleset.Counter, error)
	// Hollow returns what is missing whatever the rules were made of.
	Hollow(context.Context) ([]ruleset.Difference, error)
	// Older returns the [ruleset.Ruleset.Older] of what is in force.
	Older(context.Context) ([]ruleset.Tuple, error)
	// Note returns the [ruleset.Ruleset.Note] of what is in force.
	Note(context.Context) (string, error)
}

// A backend is one row of the table of backends: all that the rest of the package knows of one.
type backend struct {
	name Backend
	// group is a name that stands for this backend and others, or "".
	group Backend
	// variant is the iptables that writes, or "".
	variant iptables.Variant
	// praise says how good it is if nothing speaks against it.
	praise string
	open   func(*space) (writer, error)
	// holds reports whether there is something under our names in the namespace. It runs no program.
	holds func(*space) (bool, error)
	// obstacle finds what stands in the way of the rules without trying them: nil if nothing is seen.
	obstacle func(*space, ruleset.Ruleset) error
	// begin begins to try the rules where nothing comes of it. What it returns goes on from there, in the namespace, and
	// says what was found.
	begin func(context.Context, *space, ruleset.Ruleset) func() Finding
	// modules are those of the kernel that provide what a need is about.
	modules func(need) []string
	// render returns rules as text, as the backend's program reads them. It does no I/O.
	render func(IPTables, ruleset.Ruleset) (string, error)
}

// try tries the rules where nothing comes of it.
func (b backend) try(ctx context.Context, s *space, rs ruleset.Ruleset) Finding {
	return b.begin(ctx, s, rs)()
}

// backends is the one table of backends, the best first.
func backends() []backend {
	return []backend{
		{
			name: BackendNFT, praise: "nftables over netlink needs no program and writes both families in one transaction",
			open: func(s *space) (writer, error) { return s.nft() }, holds: (*space).nftHolds,
			obstacle: (*space).nftObstacle,
			begin:    beginNFT,
			modules:  func(n need) []string { return n.nft },
			render:   func(_ IPTables, rs ruleset.Ruleset) (string, error) { return nft.Render(rs) },
		},
		ofIPTables(BackendIPTablesNFT, iptables.NFT, (*space).iptablesNFTHolds, func(n need) []string {
			all := append([]string{"nft_compat"}, n.nft...)
			for _, m := range n.iptables {
				if slices.ContainsFunc([]string{"xt_", "ipt_", "ip6t_", "ip_set"}, func(of string) bool {
					return strings.HasPrefix(m, of)
				}) {
					all = append(all, m)
				}
			}
			return all
		}),
		ofIPTables(BackendIPTablesLegacy, iptables.Legacy, (*space).iptablesLegacyHolds,
			func(n need) []string { return n.iptables }),
	}
}

// ofIPTables returns the row of a variant of iptables.
func ofIPTables(name Backend, v iptables.Variant, holds func(*space) (bool, error),
	modules func(need) []string) backend {
	return backend{
		name: name, group: BackendIPTables, variant: v, praise: string(name) + " works here",
		open: func(s *space) (writer, error) { return s.iptables(v) }, holds: holds,
		obstacle: func(s *space, rs ruleset.Ruleset) error { return s.iptablesObstacle(v, rs) },
		begin: func(ctx context.Context, s *space, rs ruleset.Ruleset) func() Finding {
			return s.beginElsewhere(ctx, name, v, rs)
		},
		modules: modules,
		render:  func(how IPTables, rs ruleset.Ruleset) (string, error) { return renderIPTables(v, how, rs) },
	}
}

// renderIPTables returns what each program reads, one after the other. The first line of each part names the program.
func renderIPTables(v iptables.Variant, how IPTables, rs ruleset.Ruleset) (string, error) {
	inputs, err := iptables.Render(rs, iptables.Options{Variant: v, Dialect: how.Dialect, Jumps: how.Jumps})
	var text strings.Builder
	for _, in := range inputs {
		text.WriteString(in.String())
	}
	return text.String(), err
}

// Render returns rules as text, as the program of the pod's backend reads them: nft -f for [BackendNFT] and
// [BackendAuto], iptables-restore and ip6tables-restore for the others. Routes that go with them are commands of ip(8)
// in comments at the end. It does no I/O.
func (p Pod) Render(rs ruleset.Ruleset) (string, error) {
	all, err := candidates(p.Backend)
	if err != nil {
		return "", err
	}
	routes := markroute.WantOf(rs).Comment()
	rs.Routes = nil
	text, err := backendOf(all[0]).render(p.IPTables, rs)
	if err != nil {
		return text, err
	}
	return text + routes, nil
}

// backendOf returns the row of a backend that is no choice among others.
func backendOf(name Backend) backend {
	all := backends()
	return all[slices.IndexFunc(all, func(b backend) bool { return b.name == name })]
}

// Backends returns all that can be asked for.
func Backends() []Backend {
	all := []Backend{BackendAuto}
	for _, b := range backends() {
		if b.group != "" && !slices.Contains(all, b.group) {
			all = append(all, b.group)
		}
		all = append(all, b.name)
	}
	return all
}

// candidates are the backends that a wish leaves, the best first.
func candidates(want Backend) ([]Backend, error) {
	var all []Backend
	for _, b := range backends() {
		if want == "" || want == BackendAuto || want == b.name || want == b.group {
			all = append(all, b.name)
		}
	}
	if len(all) > 0 {
		return all, nil
	}
	names := make([]string, len(Backends()))
	for i, b := range Backends() {
		names[i] = string(b)
	}
	return nil, fmt.Errorf("backend %q is not one of %s", string(want), strings.Join(names, ", "))
}

// HasPrograms reports whether the programs by which a backend writes are here. [BackendNFT] needs none.
func (b Backend) HasPrograms() bool {
	all, err := candidates(b)
	return err == nil && slices.ContainsFunc(all, func(b Backend) bool {
		variant := backendOf(b).variant
		if variant == "" {
			return true
		}
		_, err := iptables.Open(iptables.Options{Variant: variant})
		return err == nil
	})
}

// State says whether a backend can do what is asked of it.
type State string

// The states. Only what is proven missing makes auto turn to another backend.
const (
	StateOK      State = "ok"      // tried, and it works
	StateMissing State = "missing" // tried, and it does not; or its program is not there
	StateUnknown State = "unknown" // could not be tried, or was not
)

// Finding is what is known of a backend, and how.
type Finding struct {
	Backend Backend `json:"backend"`
	State   State   `json:"state"`
	Reason  string  `json:"reason"`
	err     error   // of StateMissing
}

// Choice is the backend chosen, the reason for it, and what was found of it and of those that were preferred to it.
type Choice struct {
	Backend  Backend   `json:"backend"`
	Reason   string    `json:"reason"`
	Findings []Finding `json:"findings,omitempty"`
}

// choose picks the first backend that is not proven to be unable. It asks the probe about no more of them than it has
// to. A backend given by name is taken or refused, and never replaced by another.
func choose(want Backend, probe func(Backend) Finding) (Choice, error) {
	all, err := candidates(want)
	if err != nil {
		return Choice{}, err
	}
	var choice Choice
	var errs []error
	for _, b := range all {
		f := probe(b)
		choice.Findings = append(choice.Findings, f)
		if f.State == StateMissing {
			errs = append(errs, fmt.Errorf("backend %s: %w", b, f.err))
			continue
		}
		choice.Backend = b
		switch {
		case len(all) == 1:
			choice.Reason = "asked for"
		case len(errs) > 0:
			unable := choice.Findings[len(errs)-1]
			choice.Reason = fmt.Sprintf("%s, after %s was found to be unable: %s", f.Reason, unable.Backend, unable.Reason)
		default:
			choice.Reason = f.Reason
		}
		return choice, nil
	}
	if len(all) == 1 {
		return choice, errors.Join(errs...)
	}
	return choice, fmt.Errorf("no backend works here: %w", joinLine(errs))
}

// joinLine joins errors in one sentence.
func joinLine(errs []error) error {
	var joined error
	for _, e := range errs {
		switch {
		case joined == nil:
			joined = e
		case e != nil:
			joined = fmt.Errorf("%w; %w", joined, e)
		}
	}
	return joined
}

// missing is the finding that a backend is unable.
func missing(b Backend, err error) Finding {
	return Finding{Backend: b, State: StateMissing, Reason: err.Error(), err: err}
}

// finding judges the outcome of a try. What could not be tried for want of privilege is not proven to be missing.
func finding(b Backend, err error) Finding {
	switch {
	case err == nil:
		return Finding{Backend: b, State: StateOK, Reason: backendOf(b).praise}
	case errors.Is(err, ruleset.ErrUnsupported):
		return missing(b, err)
	}
	return Finding{Backend: b, State: StateUnknown, Reason: err.Error()}
}
