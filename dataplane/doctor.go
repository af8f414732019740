package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Report is what Doctor finds out about a namespace and the system around it.
type Report struct {
	// Kernel is its release, as of uname(2).
	Kernel string `json:"kernel"`
	// HostNetNS is true for the host's own network namespace.
	HostNetNS bool `json:"hostNetNS"`
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
	// Backends is what each can do.
	Backends []Diagnosis `json:"backends"`
	// Choice is the backend that Apply takes for the configuration. Its
	// Backend is empty if there is none. Error says why, or why the one chosen
	// could not be tried.
	Choice Choice `json:"choice"`
	Error  string `json:"error,omitempty"`
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
	Capabilities []Capability `json:"capabilities"`
}

// Capability is one thing that rules need of a backend.
type Capability struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Needed is whether the configuration has need of it.
	Needed bool `json:"needed"`
	// Errno is the kernel's answer, such as ENOENT, if it gave one.
	Errno string `json:"errno,omitempty"`
	// Cause is the error in words.
	Cause string `json:"cause,omitempty"`
	// Modules are those that provide it, if it is missing.
	Modules []string `json:"modules,omitempty"`
}

// ModulesFile is where systemd-modules-load(8) and others read which kernel
// modules to load.
const ModulesFile = "/etc/modules-load.d/intercept.conf"

// Doctor finds out what each backend can do here for c, and which one Apply
// would take. It tries rules for real, but where nothing comes of it: in a
// transaction of nf_tables that ends in an error, and for iptables in a network
// namespace of its own. It is no failure if something is missing.
func (t Target) Doctor(c intercept.Config) (Report, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return Report{}, err
	}
	r := Report{IPv6: hasIPv6(), Kernel: release(), Privileges: privileges(), Present: []Backend{}, Modules: []string{}}
	rs = forKernel(rs, c.Families, r.IPv6)
	rs.Routes = nil
	t.AllowHostNetNS = true // nothing is written
	err = t.open(func(s *space) error {
		// What cannot be found out is not so.
		r.HostNetNS, _ = isHost()
		own, err := s.IsOfOwnUser()
		r.ForeignUserNS = err == nil && !own
		if present, err := s.holding(); err == nil {
			r.Present = append(r.Present, present...)
		}
		probe := s.prober(rs)
		found := map[Backend]Finding{}
		for _, b := range concrete() {
			found[b] = probe(b)
			d := Diagnosis{Finding: found[b], Capabilities: s.capabilities(b, rs)}
			r.Backends = append(r.Backends, d)
		}
		r.Choice, err = choose(t.Backend, func(b Backend) Finding { return found[b] })
		if err != nil {
			r.Error = err.Error()
		} else if f := found[r.Choice.Backend]; f.State == StateUnknown {
			r.Error = f.Reason
		}
		return nil
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
			if c.State == StateMissing {
				all = append(all, c.Modules...)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func privileges() []Privilege {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	held := func(capability uint) bool { return data[0].Effective&(1<<capability) != 0 }
	if unix.Capget(&header, &data[0]) != nil {
		data = [2]unix.CapUserData{}
	}
	return []Privilege{
		{"CAP_NET_ADMIN", held(unix.CAP_NET_ADMIN), "rules of any kind"},
		{"CAP_NET_RAW", held(unix.CAP_NET_RAW), "iptables-legacy"},
		{"CAP_SYS_ADMIN", held(unix.CAP_SYS_ADMIN), "entering another network namespace, and trying iptables without writing"},
	}
}

// A need is one thing that rules can need of a kernel: the least Ruleset that
// has need of it, and the modules that provide it.
type need struct {
	name  string
	chain intercept.Chain
	// of tells whether a rule needs it.
	of            func(intercept.Chain, intercept.Rule) bool
	nft, iptables []string
}

// needs is the table of what rules can need.
func needs() []need {
	tcp := intercept.Proto{intercept.TCP}
	in := func(typ intercept.ChainType, hook intercept.Hook, priority intercept.Priority, target intercept.Target, match ...intercept.Match) intercept.Chain {
		return intercept.Chain{Name: "probe", Hook: hook, Priority: priority, Type: typ,
			Rules: []intercept.Rule{{ID: "O14.probe", Reason: "probe", Match: match, Target: target}}}
	}
	hasTarget := func(like intercept.Target) func(intercept.Chain, intercept.Rule) bool {
		return func(_ intercept.Chain, r intercept.Rule) bool {
			return fmt.Sprintf("%T", r.Target) == fmt.Sprintf("%T", like)
		}
	}
	hasMatch := func(like ...intercept.Match) func(intercept.Chain, intercept.Rule) bool {
		return func(_ intercept.Chain, r intercept.Rule) bool {
			return slices.ContainsFunc(r.Match, func(m intercept.Match) bool {
				if n, is := m.(intercept.Not); is {
					m = n.Match
				}
				return slices.ContainsFunc(like, func(l intercept.Match) bool { return fmt.Sprintf("%T", l) == fmt.Sprintf("%T", m) })
			})
		}
	}
	pass, drop := intercept.Return{}, intercept.Drop{}
	const (
		filter, nat, route = intercept.FilterChain, intercept.NATChain, intercept.RouteChain
		output, arriving   = intercept.Output, intercept.Prerouting
	)
	return []need{
		{"tables", in(filter, output, intercept.PriorityFilter, pass),
			func(intercept.Chain, intercept.Rule) bool { return true },
			[]string{"nf_tables"}, []string{"ip_tables", "ip6_tables", "iptable_filter", "ip6table_filter"}},
		{"NAT", in(nat, output, intercept.PriorityDstNAT, pass),
			func(c intercept.Chain, _ intercept.Rule) bool { return c.Type == nat },
			[]string{"nft_chain_nat", "nf_nat"}, []string{"iptable_nat", "ip6table_nat"}},
		{"redirect", in(nat, output, intercept.PriorityDstNAT, intercept.Redirect{Ports: intercept.Port(15001)}, tcp),
			hasTarget(intercept.Redirect{}), []string{"nft_redir"}, []string{"xt_REDIRECT"}},
		{"owners", in(filter, output, intercept.PriorityFilter, pass, intercept.UID{intercept.ID(1337)}, intercept.GID{intercept.ID(1337)}),
			hasMatch(intercept.UID{}, intercept.GID{}), []string{"nf_tables"}, []string{"xt_owner"}},
		{"lists of ports", in(filter, output, intercept.PriorityFilter, pass, tcp, intercept.DstPort{intercept.Port(1), intercept.Port(3), {First: 5, Last: 7}}),
			hasMatch(intercept.DstPort{}, intercept.SrcPort{}), []string{"nf_tables"}, []string{"xt_multiport", "xt_tcpudp"}},
		{"conntrack zones", in(filter, output, intercept.PriorityRaw, intercept.CTZone{Zone: 1}),
			hasTarget(intercept.CTZone{}), []string{"nft_ct", "nf_conntrack"}, []string{"iptable_raw", "ip6table_raw", "xt_CT"}},
		{"conntrack states", in(filter, arriving, intercept.PriorityMangle, drop, intercept.CTInvalid),
			hasMatch(intercept.CTInvalid), []string{"nft_ct", "nf_conntrack"}, []string{"iptable_mangle", "ip6table_mangle", "xt_conntrack"}},
		{"marks", in(route, output, intercept.PriorityMangle, intercept.SetConnMark{Value: 1, Mask: 1}, intercept.MetaMark{Value: 1, Mask: 1}, intercept.ConnMark{Value: 1, Mask: 1}),
			func(c intercept.Chain, r intercept.Rule) bool {
				return hasMatch(intercept.MetaMark{}, intercept.ConnMark{})(c, r) || hasTarget(intercept.SetMark{})(c, r) || hasTarget(intercept.SetConnMark{})(c, r)
			}, []string{"nft_ct"}, []string{"xt_mark", "xt_connmark"}},
		{"TPROXY", in(filter, arriving, intercept.PriorityMangle, intercept.TProxy{Port: 15006, Mark: intercept.Mark{Value: 1, Mask: 1}}, tcp),
			hasTarget(intercept.TProxy{}), []string{"nft_tproxy", "nf_tproxy_ipv4", "nf_tproxy_ipv6"}, []string{"xt_TPROXY"}},
		{"reject", in(filter, output, intercept.PriorityFilter, intercept.Reject{}),
			hasTarget(intercept.Reject{}), []string{"nft_reject_inet"}, []string{"ipt_REJECT", "ip6t_REJECT"}},
		{"translation to another address", in(nat, output, intercept.PriorityDstNAT, intercept.DNAT{To: netip.MustParseAddrPort("192.0.2.1:53")}, intercept.Proto{intercept.UDP}, intercept.IsFamily(intercept.IPv4)),
			hasTarget(intercept.DNAT{}), []string{"nft_nat"}, []string{"xt_nat"}},
	}
}

// capabilities tries each need by itself. There is nothing to try without the
// program or the privilege, of which the backend's own finding speaks.
func (s *space) capabilities(b Backend, rs intercept.Ruleset) []Capability {
	all := []Capability{}
	if f := s.quickProbe(b, rs); f.State == StateMissing {
		return all
	}
	for _, n := range needs() {
		c := Capability{Name: n.name, State: StateOK}
		for _, chain := range rs.Chains {
			c.Needed = c.Needed || slices.ContainsFunc(chain.Rules, func(r intercept.Rule) bool { return n.of(chain, r) })
		}
		f := s.prober(intercept.Ruleset{Families: rs.Families, Chains: []intercept.Chain{n.chain}})(b)
		if f.State == StateUnknown {
			return all
		}
		if f.State != StateOK {
			c.State, c.Cause = f.State, f.Reason
			if errno, ok := errors.AsType[unix.Errno](f.err); ok {
				c.Errno = unix.ErrnoName(errno)
			}
		}
		if f.State == StateMissing {
			c.Modules = n.iptables
			if b == BackendNFT || b == BackendIPTablesNFT {
				c.Modules = n.nft
			}
			if b == BackendIPTablesNFT {
				c.Modules = append(append([]string{"nft_compat"}, n.nft...), slices.DeleteFunc(slices.Clone(n.iptables), func(m string) bool { return !strings.HasPrefix(m, "xt_") })...)
			}
		}
		all = append(all, c)
	}
	return all
}
