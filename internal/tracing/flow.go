// Package tracing follows packets through the rules of a network namespace, as the kernel tells of them, and says what
// they met in the IDs of our rules.
//
// What to trace is a [Flow], which [Flow.Chains] makes rules of; [Assembler] makes packets of the kernel's events; both do
// no I/O. [Tracer] is the effect.
package tracing

import (
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Flow says which packets to trace. The zero Flow is what opens connections: each SYN of TCP, and each packet of other
// protocols but ICMP.
type Flow struct {
	// Hook is where the packets come in: [ruleset.Output] if a process of the pod sends them, [ruleset.Prerouting] if they
	// arrive. Zero: either.
	Hook ruleset.Hook
	// Protocol is theirs. Zero: any.
	Protocol ruleset.Protocol
	// Src and Dst are the addresses and ports. Invalid or zero parts stand for any.
	Src, Dst netip.AddrPort
	// Senders are conditions on the socket that sends: all of any one list have to hold. None: anybody's.
	Senders [][]ruleset.Match
	// Except are such lists, of which none may hold.
	Except [][]ruleset.Match
	// Interface is the one they leave or arrive by. Empty: any.
	Interface string
	// ToSelf is whether they go to an address of the pod's.
	ToSelf bool
}

// reason stands beside the rules of a flow in the kernel.
const reason = "mesh-init trace follows this packet"

// Chains are the rules that match the flow, for [nft.OpenTracer]. There is a chain at both hooks, so that each packet is
// seen to come in at each hook that it passes.
func (f Flow) Chains() (chains []ruleset.Chain) {
	for _, hook := range []ruleset.Hook{ruleset.Prerouting, ruleset.Output} {
		c := ruleset.Chain{Name: hook.String(), Hook: hook, Priority: nft.PriorityTrace, Type: ruleset.FilterChain}
		if f.Hook == 0 || f.Hook == hook {
			for _, m := range f.Except {
				c.Rules = append(c.Rules, ruleset.Rule{ID: nft.NotTraced, Reason: "mesh-init trace leaves this packet out",
					Match: m, Target: ruleset.Return{}})
			}
			for _, match := range f.matches(hook) {
				c.Rules = append(c.Rules, ruleset.Rule{ID: "T1", Reason: reason, Match: match, Target: ruleset.Return{}})
			}
		}
		chains = append(chains, c)
	}
	return chains
}

// matches are the conditions of each rule.
func (f Flow) matches(hook ruleset.Hook) [][]ruleset.Match {
	var all []ruleset.Match
	add := func(asked bool, m ruleset.Match) {
		if asked {
			all = append(all, m)
		}
	}
	add(f.Protocol != 0, ruleset.Proto{f.Protocol})
	add(f.Dst.Addr().IsValid(), ruleset.Dst{host(f.Dst.Addr())})
	add(f.Src.Addr().IsValid(), ruleset.Src{host(f.Src.Addr())})
	add(f.Dst.Port() != 0, ruleset.DstPort{{First: f.Dst.Port(), Last: f.Dst.Port()}})
	add(f.Src.Port() != 0, ruleset.SrcPort{{First: f.Src.Port(), Last: f.Src.Port()}})
	add(f.Interface != "" && hook == ruleset.Output, ruleset.OutInterface(f.Interface))
	add(f.Interface != "" && hook == ruleset.Prerouting, ruleset.InInterface(f.Interface))
	add(f.ToSelf, ruleset.ToLocal{})
	if len(f.Senders) > 0 {
		var each [][]ruleset.Match
		for _, s := range f.Senders {
			each = append(each, slices.Concat(all, s))
		}
		return each
	}
	if len(all) > 0 {
		return [][]ruleset.Match{all}
	}
	const opens = ruleset.FIN | ruleset.SYN | ruleset.RST | ruleset.ACK
	return [][]ruleset.Match{
		{ruleset.Proto{ruleset.TCP}, ruleset.TCPFlags{Mask: opens, Value: ruleset.SYN}},
		{ruleset.Not{Match: ruleset.Proto{ruleset.TCP, ruleset.ICMP, ruleset.ICMPv6}}},
	}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
