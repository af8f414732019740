package iptables

import (
	"slices"
	"sort"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// An extension is a match or a target of xtables, which the kernel looks up by its name.
type extension struct {
	name   string
	target bool
}

func (e extension) String() string {
	if e.target {
		return "target " + e.name
	}
	return "match " + e.name
}

// extensions returns what the program asks of xtables, each once, sorted.
func (p program) extensions() (all []extension) {
	for _, t := range p.tables {
		for _, c := range t.chains {
			for _, r := range c.rules {
				all = append(all, r.extensions()...)
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].String() < all[j].String() })
	return slices.Compact(all)
}

func (r rule) extensions() (all []extension) {
	if r.comment != "" {
		all = append(all, extension{name: "comment"})
	}
	ports := false
	protocol := ""
	for i, word := range r.words[:max(len(r.words)-1, 0)] {
		next := r.words[i+1]
		switch word {
		case "-p":
			protocol = next
		case "--dport", "--sport", "--tcp-flags", "--syn", "--tcp-option", "--icmp-type", "--icmpv6-type":
			ports = true
		case "-m":
			all = append(all, extension{name: next})
		case "-j":
			if !isChain(next) {
				all = append(all, extension{next, true})
			}
		}
	}
	if ports && protocol != "" { // iptables adds -m by itself
		all = append(all, extension{name: protocol})
	}
	return all
}

// isChain is whether what -j names is a chain of ours or a verdict, which takes no module.
func isChain(name string) bool {
	return strings.HasPrefix(name, prefix) || slices.Contains([]string{"ACCEPT", "DROP", "RETURN"}, name)
}

// modules returns those that provide an extension, to rules of a family.
func (e extension) modules(f ruleset.Family) []string {
	switch e {
	case extension{name: "tcp"}, extension{name: "udp"}:
		return []string{"xt_tcpudp"}
	case extension{name: "icmp"}:
		return []string{"ip_tables", "xt_tcpudp"} // since Linux 6.4 the latter
	case extension{name: "icmp6"}, extension{name: "icmpv6"}, extension{name: "ipv6-icmp"}:
		return []string{"ip6_tables", "xt_tcpudp"}
	case extension{"REJECT", true}:
		if f == ruleset.IPv6 {
			return []string{"ip6t_REJECT"}
		}
		return []string{"ipt_REJECT"}
	case extension{"DNAT", true}:
		return []string{"xt_nat"}
	case extension{"MARK", true}, extension{"CONNMARK", true}:
		return []string{"xt_" + strings.ToLower(e.name)}
	}
	return []string{"xt_" + e.name}
}

// lacking adds to a refusal which modules the kernel lacks, if they are the reason: it is asked for each extension of
// the program. ask returns whether the kernel has one; what cannot be found out it has.
func (p program) lacking(refusal error, ask func(extension) bool) error {
	var what string
	var modules []string
	for _, e := range p.extensions() {
		if ask(e) {
			continue
		}
		if what != "" {
			what += ", "
		}
		what += e.String()
		modules = append(modules, e.modules(p.family)...)
	}
	if what == "" {
		return refusal
	}
	slices.Sort(modules)
	return &ruleset.ModulesError{What: what, Modules: slices.Compact(modules), Err: refusal}
}
