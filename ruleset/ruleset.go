package ruleset

import (
	"fmt"
	"net/netip"
	"time"
)

// Ruleset is everything interception needs from the kernel, as plain data.
// [Compile] makes one; the packages nft and iptables put it into the kernel;
// [Ruleset.Trace] says what it does to a packet.
type Ruleset struct {
	// Families are the address families the rules are written for. Packets of
	// another family meet none of them.
	Families []Family
	Chains   []Chain
	// Routes are marked packets to deliver locally. They need a routing rule
	// and a route beside the chains.
	Routes []MarkRoute
	// Sources are addresses that the proxy binds when it calls the app, and that no pod has by itself: it needs them on
	// lo, beside the chains, if it has other addresses of their family. Backends leave them alone.
	Sources []netip.Addr
	// Older are TCP connections, by addresses and ports of what the pod sends on them, that are older than the rules:
	// those that [Older] matches. A backend writes the list, and does not compare it afterwards: it is of one moment.
	Older []Tuple
	// Settling has [Older] match more than the list for a time. The backend iptables knows no such time.
	Settling Settling
	// Note returns a text that a backend keeps beside the rules, in comments, and does not compare: who has made the rules,
	// and of what. Most applies find their rules in force, so it is asked when rules are to be written. Nil, or an empty
	// text: there is none. The minimal dialect of iptables, which has no comments, keeps none.
	Note func() (string, error)
}

// Settling is about the connections that open between the making of [Ruleset.Older] and the rules: they are not on the
// list. Zero: there is no such time.
type Settling struct {
	// For is for how long after the rules are written [Older] matches them. Backends round it to milliseconds.
	For time.Duration
	// Tracked leaves it at those that conntrack has seen open.
	Tracked bool
}

// Family is an address family.
type Family uint8

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Other returns the other address family.
func (f Family) Other() Family {
	if f == IPv4 {
		return IPv6
	}
	return IPv4
}

// MarkRoute delivers packets that carry a mark to this host, whatever their
// destination (ip-rule(8) fwmark, and a route of type local in Table).
type MarkRoute struct {
	Mark  Mark
	Table uint32
}

// Loopback is the name of the interface by which a pod's traffic to itself leaves and arrives.
const Loopback = "lo"

// Chain is a list of rules. A base chain (one with a Hook) is where packets
// enter; another is reached by [Goto] or [Jump].
type Chain struct {
	Name     string
	Hook     Hook      // zero: not a base chain
	Priority Priority  // of a base chain
	Type     ChainType // NAT rules stand in NAT chains, base or not
	Rules    []Rule
}

// Hook is a point on a packet's way through the network stack.
type Hook uint8

// The hooks that interception uses (linux/netfilter.h).
const (
	Prerouting Hook = iota + 1 // a packet has arrived
	Input                      // it is for this host
	Forward                    // it is for another
	Output                     // a local process has sent a packet
)

// String returns nft's word for the hook.
func (h Hook) String() string {
	switch h {
	case Prerouting:
		return "prerouting"
	case Input:
		return "input"
	case Forward:
		return "forward"
	case Output:
		return "output"
	}
	return fmt.Sprintf("hook(%d)", uint8(h))
}

// Priority orders the base chains of one hook; the smallest comes first.
type Priority int32

// The priorities of the xtables of the same names (linux/netfilter_ipv4.h), and one for NAT chains alone.
// A chain at one of them can be expressed by every backend.
const (
	PriorityRaw    Priority = -300 // before conntrack, at -200
	PriorityMangle Priority = -150
	PriorityDstNAT Priority = -100
	PriorityFilter Priority = 0
	// PriorityFirstNAT is the smallest that the kernel takes for a NAT chain (nft_chain_validate in
	// net/netfilter/nf_tables_api.c). It asks all NAT chains of a hook at PriorityDstNAT, one after the other by their own
	// priorities, and the first that translates wins; of several at one priority it asks the one first that was
	// registered last (nf_hook_entries_grow in net/netfilter/core.c). In xtables NAT is at PriorityDstNAT.
	PriorityFirstNAT Priority = -199
)

// ChainType is nft's type of a chain.
type ChainType uint8

const (
	// FilterChain sees every packet.
	FilterChain ChainType = iota
	// NATChain sees the first packet of every connection. What it decides
	// holds for the connection, in both directions.
	NATChain
	// RouteChain sees every packet and has it routed again when its mark changed.
	RouteChain
)

// String returns nft's word for the type.
func (t ChainType) String() string {
	switch t {
	case FilterChain:
		return "filter"
	case NATChain:
		return "nat"
	case RouteChain:
		return "route"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// AsksForOwner reports whether any rule asks for the owner of a packet's socket.
func (rs Ruleset) AsksForOwner() bool {
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			for _, m := range r.Match {
				_, isUID := m.(UID)
				_, isGID := m.(GID)
				_, anybody := m.(HasSocket)
				if isUID || isGID || anybody {
					return true
				}
			}
		}
	}
	return false
}

// SendsToLoopback reports whether a rule may send what the pod sends to an address of the loopback network, as a
// redirect does. Sockets that are bound to an interface then need a route there.
func (rs Ruleset) SendsToLoopback() bool {
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			_, redirects := r.Target.(Redirect)
			to, translates := r.Target.(DNAT)
			if redirects || translates && to.To.Addr().IsLoopback() {
				return true
			}
		}
	}
	return false
}

// Count returns how many rules there are for the families: a rule that is about the other family alone is none, and one
// that a backend writes for each family is one.
func (rs Ruleset) Count() int {
	ids := map[RuleID]bool{}
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			for _, f := range rs.Families {
				if _, is := r.For(f); is {
					ids[r.ID] = true
				}
			}
		}
	}
	return len(ids)
}
