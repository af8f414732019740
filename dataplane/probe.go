package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/moby/sys/capability"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Report is what Probe finds out about a namespace and the system around it.
type Report struct {
	// Kernel is its release, as of uname(2).
	Kernel string `json:"kernel"`
	// GVisor is true if it is gVisor's.
	GVisor bool `json:"gvisor,omitempty"`
	// HostNetNS is true for the host's own network namespace, and for that of a node that is a container.
	HostNetNS bool `json:"hostNetNS"`
	// HostReason says why it is taken for that.
	HostReason string `json:"hostReason,omitempty"`
	// ForeignUserNS is true if the network namespace belongs to another user
	// namespace than the process.
	ForeignUserNS bool `json:"foreignUserNS"`
	// IPv6 is whether the kernel has it.
	IPv6 bool `json:"ipv6"`
	// Privileges are the capabilities(7) that matter, and whether the process
	// has them in its user namespace.
	Privileges []Privilege `json:"privileges"`
	// Present are the backends that have rules of ours in the namespace.
	Present []Backend `json:"present"`
	// Unseen says why more of them than Present may have rules of ours. Empty: none has.
	Unseen string `json:"unseen,omitempty"`
	// Backends is what each can do.
	Backends []Diagnosis `json:"backends"`
	// Others are others' rules in the chains of iptables where rules of ours stand, or would.
	Others Others `json:"others"`
	// Foreign are the chains of others at the hooks where rules of ours stand, or would.
	Foreign Foreign `json:"foreign,omitzero"`
	// Warnings are what of the namespace's interfaces leads past the proxy, or keeps connections from it, and what of the
	// kernel keeps verbs from seeing connections.
	Warnings []string `json:"warnings,omitempty"`
	// Choice is the backend that Apply takes for the configuration. Its
	// Backend is empty if there is none. Error says why, or why the one chosen
	// could not be tried.
	Choice Choice `json:"choice"`
	// Without is what Apply leaves out, since that backend cannot have it here.
	Without []string `json:"without,omitempty"`
	Error   string   `json:"error,omitempty"`
	// Modules are the kernel modules that may mend what is missing.
	Modules []string `json:"modules"`
}

// Privilege is a capability of capabilities(7).
type Privilege struct {
	Name string `json:"name"`
	Held bool   `json:"held"`
	// For is what it is needed for.
	For string `json:"for"`
}

// Diagnosis is what one backend can do.
type Diagnosis struct {
	// Finding is about the configuration as a whole.
	Finding
	// Programs are those that it runs.
	Programs     []iptables.Program `json:"programs,omitempty"`
	Capabilities []Capability       `json:"capabilities"`
}

// Capability is one thing that rules need of a backend.
type Capability struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Needed is whether the configuration has need of it.
	Needed bool `json:"needed"`
	// Errno is the kernel's answer, such as ENOENT, if it gave one.
	Errno string `json:"errno,omitempty"`
	// Cause is the error in words, or how it is done if there are several ways.
	Cause string `json:"cause,omitempty"`
	// Modules are those that provide it, if it is missing, or a better way to do it: those that the kernel was asked for in
	// vain, or else those that are known to.
	Modules []string `json:"modules,omitempty"`
}

// ModulesFile is where systemd-modules-load(8) and others read which kernel
// modules to load.
const ModulesFile = "/etc/modules-load.d/intercept.conf"

// Probe finds out what each backend can do here for c, and which one Apply
// would take. It tries rules for real, but where nothing comes of it: in a
// transaction of nf_tables that ends in an error, and for iptables in a network
// namespace of its own. It is no failure if something is missing.
func (s *Session) Probe(ctx context.Context, c intercept.Config) (Report, error) {
	want, err := newPlan(c)
	if err != nil {
		return Report{}, err
	}
	r := Report{IPv6: hasIPv6(), Kernel: release(), GVisor: s.space.gvisor, Privileges: privileges(), Present: []Backend{},
		Modules: []string{}}
	err = s.do(ctx, func() error {
		// What cannot be found out is not so.
		if err := s.space.refuseHost(s.pod); errors.Is(err, ErrHostNetNS) {
			r.HostNetNS, r.HostReason = true, err.Error()
		}
		own, err := s.netns.IsOfOwnUser()
		r.ForeignUserNS = err == nil && !own
		present, err := s.space.holding()
		if r.Present = append(r.Present, present...); err != nil {
			r.Unseen = strict.InLine(err)
		}
		found := map[Backend]Finding{}
		for _, diagnosis := range s.space.diagnose(ctx, want) {
			d := diagnosis()
			found[d.Backend] = d.Finding
			r.Backends = append(r.Backends, d)
		}
		r.Choice, err = choose(s.pod.Backend, func(b Backend) Finding { return found[b] })
		for _, b := range present {
			if _, failed := s.space.present(b); err == nil && failed != nil {
				r.Choice.Backend, err = "", failed
			}
		}
		if err != nil {
			r.Error = strict.InLine(err)
		} else if f := found[r.Choice.Backend]; f.State == StateUnknown {
			r.Error = f.Reason
		}
		b := r.Choice.Backend
		if b == "" {
			b = BackendNFT
		}
		r.Without = s.space.warning(want, b)
		wanted, _ := candidates(s.pod.Backend) // choose has said what is wrong
		r.Foreign = s.space.foreign(firstOf(append([]Backend{b}, wanted...), present))
		if warn, err := s.space.networkWarnings(c, s.pod); err == nil {
			r.Warnings = warn
		}
		if err := conntrack.Supported(); errors.Is(err, ruleset.ErrUnsupported) && !s.space.gvisor {
			r.Warnings = append(r.Warnings, "verify, watch and trace see less of connections, and apply does not know which of those "+
				"that are there are captured: "+strict.InLine(err))
		}
		r.Others, err = s.space.others(ctx)
		return err
	})
	r.Modules = append(r.Modules, modules(r)...)
	return r, err
}

// modules are those that the best backend lacks: the one chosen, or what would
// have been chosen first.
func modules(r Report) []string {
	var all []string
	for _, d := range r.Backends {
		if d.Backend != BackendNFT && d.Backend != r.Choice.Backend {
			continue
		}
		for _, c := range d.Capabilities {
			if c.State == StateMissing || c.Needed { // of those that are not missing, some would be better with them
				all = append(all, c.Modules...)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Names of capabilities(7).
const netAdmin, netRaw = "CAP_NET_ADMIN", "CAP_NET_RAW"

func privileges() []Privilege {
	mine, err := capability.NewPid2(0)
	if err == nil {
		_ = mine.Load() // what cannot be found out is not held
	}
	held := func(c capability.Cap) bool { return err == nil && mine.Get(capability.EFFECTIVE, c) }
	return []Privilege{
		{netAdmin, held(capability.CAP_NET_ADMIN), "rules of any kind"},
		{netRaw, held(capability.CAP_NET_RAW), "iptables-legacy"},
		{"CAP_SYS_ADMIN", held(capability.CAP_SYS_ADMIN),
			"entering another network namespace, and trying iptables without writing"},
		{"CAP_DAC_READ_SEARCH", held(capability.CAP_DAC_READ_SEARCH) || held(capability.CAP_DAC_OVERRIDE),
			"iptables-legacy as another user than root: the names of its tables; CAP_DAC_OVERRIDE will do, too"},
		{"CAP_SYS_PTRACE", held(capability.CAP_SYS_PTRACE), "opening the network namespace of another user's process"},
	}
}

// A need is one thing that rules can need of a kernel: the least Ruleset that
// has need of it, and the modules that provide it.
type need struct {
	name  string
	chain ruleset.Chain
	// of tells whether a rule needs it.
	of            func(ruleset.Chain, ruleset.Rule) bool
	nft, iptables []string
}

// needs is the table of what rules can need.
func needs() []need {
	tcp := ruleset.Proto{ruleset.TCP}
	in := func(typ ruleset.ChainType, hook ruleset.Hook, priority ruleset.Priority, target ruleset.Target,
		match ...ruleset.Match) ruleset.Chain {
		return ruleset.Chain{Name: "probe", Hook: hook, Priority: priority, Type: typ,
			Rules: []ruleset.Rule{{ID: "O14.probe", Reason: "probe", Match: match, Target: target}}}
	}
	hasTarget := func(like ruleset.Target) func(ruleset.Chain, ruleset.Rule) bool {
		return func(_ ruleset.Chain, r ruleset.Rule) bool {
			return fmt.Sprintf("%T", r.Target) == fmt.Sprintf("%T", like)
		}
	}
	hasMatch := func(like ...ruleset.Match) func(ruleset.Chain, ruleset.Rule) bool {
		return func(_ ruleset.Chain, r ruleset.Rule) bool {
			return slices.ContainsFunc(r.Match, func(m ruleset.Match) bool {
				if n, is := m.(ruleset.Not); is {
					m = n.Match
				}
				return slices.ContainsFunc(like, func(l ruleset.Match) bool { return fmt.Sprintf("%T", l) == fmt.Sprintf("%T", m) })
			})
		}
	}
	pass, drop := ruleset.Return{}, ruleset.Drop{}
	const (
		filter, nat, route = ruleset.FilterChain, ruleset.NATChain, ruleset.RouteChain
		output, arriving   = ruleset.Output, ruleset.Prerouting
	)
	return []need{
		{"tables", in(filter, output, ruleset.PriorityFilter, pass),
			func(ruleset.Chain, ruleset.Rule) bool { return true },
			[]string{"nf_tables", "nft_counter"},
			[]string{"ip_tables", "ip6_tables", "iptable_filter", "ip6table_filter"}},
		{"NAT", in(nat, output, ruleset.PriorityDstNAT, pass),
			func(c ruleset.Chain, _ ruleset.Rule) bool { return c.Type == nat },
			[]string{"nft_chain_nat", "nf_nat"}, []string{"iptable_nat", "ip6table_nat"}},
		{"redirect", in(nat, output, ruleset.PriorityDstNAT, ruleset.Redirect{Ports: ruleset.Port(15001)}, tcp),
			hasTarget(ruleset.Redirect{}), []string{"nft_redir"}, []string{"xt_REDIRECT"}},
		{"owners", in(filter, output, ruleset.PriorityFilter, pass, ruleset.UID{ruleset.ID(1337)},
			ruleset.GID{ruleset.ID(1337)}),
			hasMatch(ruleset.UID{}, ruleset.GID{}), []string{"nf_tables"}, []string{"xt_owner"}},
		{"lists of ports", in(filter, output, ruleset.PriorityFilter, pass, tcp,
			ruleset.DstPort{ruleset.Port(1), ruleset.Port(3), {First: 5, Last: 7}}),
			hasMatch(ruleset.DstPort{}, ruleset.SrcPort{}), []string{"nf_tables"}, []string{"xt_multiport", "xt_tcpudp"}},
		{longLists, in(filter, output, ruleset.PriorityFilter, pass, ruleset.Proto{ruleset.TCP}, ruleset.Dst(long())),
			hasLong, []string{"nf_tables"}, []string{"xt_set", "ip_set", "ip_set_hash_net", "ip_set_bitmap_port"}},
		{"conntrack zones", in(filter, output, ruleset.PriorityRaw, ruleset.CTZone{Zone: 1}),
			hasTarget(ruleset.CTZone{}), []string{"nft_ct", "nf_conntrack"}, []string{"iptable_raw", "ip6table_raw", "xt_CT"}},
		{"conntrack states", in(filter, arriving, ruleset.PriorityMangle, drop, ruleset.CTInvalid),
			hasMatch(ruleset.CTInvalid), []string{"nft_ct", "nf_conntrack"},
			[]string{"iptable_mangle", "ip6table_mangle", "xt_conntrack"}},
		{"marks", in(route, output, ruleset.PriorityMangle, ruleset.SetConnMark{Value: 1, Mask: 1},
			ruleset.MetaMark{Value: 1, Mask: 1}, ruleset.ConnMark{Value: 1, Mask: 1}),
			func(c ruleset.Chain, r ruleset.Rule) bool {
				return hasMatch(ruleset.MetaMark{}, ruleset.ConnMark{})(c, r) || hasTarget(ruleset.SetMark{})(c, r) ||
					hasTarget(ruleset.SetConnMark{})(c, r)
			}, []string{"nft_ct"}, []string{"xt_mark", "xt_connmark"}},
		{"TPROXY", in(filter, arriving, ruleset.PriorityMangle,
			ruleset.TProxy{Port: 15006, Mark: ruleset.Mark{Value: 1, Mask: 1}}, tcp),
			hasTarget(ruleset.TProxy{}), []string{"nft_tproxy", "nf_tproxy_ipv4", "nf_tproxy_ipv6"}, []string{"xt_TPROXY"}},
		{"reject", in(filter, output, ruleset.PriorityFilter, ruleset.Reject{}),
			hasTarget(ruleset.Reject{}), []string{"nft_reject_inet"}, []string{"ipt_REJECT", "ip6t_REJECT"}},
		{"open sockets", in(filter, ruleset.Input, ruleset.PriorityFilter, drop, ruleset.SocketOpen{}),
			hasMatch(ruleset.SocketOpen{}), []string{"nft_socket", "nf_socket_ipv4", "nf_socket_ipv6"}, []string{"xt_socket"}},
		{"errors about packets", in(filter, output, ruleset.PriorityFilter, pass,
			ruleset.Proto{ruleset.ICMP, ruleset.ICMPv6}, ruleset.ICMPQuote{SrcPort: 53}),
			hasMatch(ruleset.ICMPQuote{}), []string{"nf_tables"}, []string{"xt_u32"}},
		{"destinations that stay", in(nat, output, ruleset.PriorityDstNAT, ruleset.Keep{}, tcp),
			hasTarget(ruleset.Keep{}), []string{"nft_nat"}, []string{"xt_nat"}},
		{"translation to another address", in(nat, output, ruleset.PriorityDstNAT,
			ruleset.DNAT{To: netip.MustParseAddrPort("192.0.2.1:53")}, ruleset.Proto{ruleset.UDP},
			ruleset.IsFamily(ruleset.IPv4)),
			hasTarget(ruleset.DNAT{}), []string{"nft_nat"}, []string{"xt_nat"}},
	}
}

// diagnose returns what finds out about each backend, the best first. The programs of all backends are at work at the
// same time, and most of the time goes into their starting: so rules that need everything are tried first, which most
// often shows that all is there, and what is missing is looked for only where they are refused.
func (s *space) diagnose(ctx context.Context, want plan) (all []func() Diagnosis) {
	for _, b := range backends() {
		rs := s.rulesFor(want, b.name)
		programs := s.programs(ctx, b.variant)
		whole := func() Finding { return Finding{State: StateUnknown} }
		if b.obstacle(s, rs) == nil {
			whole = b.begin(ctx, s, withNeeds(rs, needs()))
		}
		all = append(all, func() Diagnosis {
			if f := whole(); f.State == StateOK {
				return Diagnosis{f, programs(), s.capabilities(ctx, b, rs, true)}
			}
			return Diagnosis{s.probe(ctx, b.name, rs), programs(), s.capabilities(ctx, b, rs, false)}
		})
	}
	return all
}

// withNeeds adds rules that have all those needs: to the base chain at their hook, if there is one, since xtables has no
// second.
func withNeeds(rs ruleset.Ruleset, all []need) ruleset.Ruleset {
	rs.Chains = slices.Clone(rs.Chains)
	for i, n := range all {
		c := n.chain
		c.Name, c.Rules = fmt.Sprintf("%s_%d", c.Name, i), slices.Clone(c.Rules)
		for j := range c.Rules {
			c.Rules[j].ID += ruleset.RuleID(fmt.Sprintf("-%d", i))
		}
		at := slices.IndexFunc(rs.Chains, func(o ruleset.Chain) bool {
			return o.Hook == c.Hook && o.Type == c.Type && (o.Priority == c.Priority || o.Type == ruleset.NATChain)
		})
		if at < 0 {
			rs.Chains = append(rs.Chains, c)
		} else {
			rs.Chains[at].Rules = slices.Concat(rs.Chains[at].Rules, c.Rules)
		}
	}
	return rs
}

// missingNeeds tries needs together, and those that are refused in two halves each, and tells what was found of those
// that were tried by themselves. ok is false where it cannot be found out.
func (s *space) missingNeeds(ctx context.Context, b backend, families []ruleset.Family, all []need,
	found map[string]Finding) (ok bool) {
	if len(all) == 0 {
		return true
	}
	f := b.try(ctx, s, withNeeds(ruleset.Ruleset{Families: families}, all))
	switch {
	case f.State == StateOK:
	case f.State == StateUnknown:
		return false
	case len(all) == 1:
		found[all[0].name] = f
	default:
		half := len(all) / 2
		return s.missingNeeds(ctx, b, families, all[:half], found) &&
			s.missingNeeds(ctx, b, families, all[half:], found)
	}
	return true
}

// capabilities says which needs are met. There is nothing to try without the
// program or the privilege, of which the backend's own finding speaks, nor where everything is known to be there.
func (s *space) capabilities(ctx context.Context, b backend, rs ruleset.Ruleset, everything bool) []Capability {
	all := []Capability{}
	found := map[string]Finding{} // where something is missing
	if !everything && (b.obstacle(s, rs) != nil || !s.missingNeeds(ctx, b, rs.Families, needs(), found)) {
		return all
	}
	for _, n := range needs() {
		c := Capability{Name: n.name, State: StateOK}
		for _, chain := range rs.Chains {
			c.Needed = c.Needed || slices.ContainsFunc(chain.Rules, func(r ruleset.Rule) bool { return n.of(chain, r) })
		}
		f, isMissing := found[n.name]
		if !isMissing {
			f.State = StateOK
		}
		if f.State != StateOK {
			c.State, c.Cause = f.State, f.Reason
			c.Errno = errnoName(f.err)
		}
		if lacks, ok := errors.AsType[*ruleset.ModulesError](f.err); ok {
			c.Modules, c.Cause = lacks.Modules, lacks.Error()
		} else if f.State == StateMissing && !s.gvisor {
			c.Modules = b.modules(n)
		}
		if n.name == longLists && c.State == StateOK && b.variant != "" {
			c.Cause, c.Modules = s.sets(b.variant)
		}
		all = append(all, c)
	}
	return all
}
