// Package beside says what others have in the kernel at the hooks where rules of ours stand: whose it is, in which
// order packets meet it, and what it does to the connections that ours capture. It is data and functions without
// effects; packages nft and iptables read it from kernels.
package beside

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// Act is something that a rule does to a packet, of what can concern rules of ours.
type Act string

// What rules do.
const (
	DNAT     Act = "dnat"     // translates the destination
	Redirect Act = "redirect" // translates it to a port of this host
	TProxy   Act = "tproxy"   // gives the packet to a socket of its choice
	NoTrack  Act = "notrack"  // keeps it from conntrack, and so from all NAT
	Rewrite  Act = "rewrite"  // writes into its headers, without conntrack
	Zone     Act = "zone"     // chooses its conntrack zone
	Queue    Act = "queue"    // hands it to a program
	Forward  Act = "fwd"      // sends it out by another interface
	Discard  Act = "discard"  // drops or rejects it
)

// Chain is a chain of somebody else's table.
type Chain struct {
	// Legacy is true of the legacy variant of xtables (ip_tables), false of nf_tables, iptables-nft's chains included.
	Legacy bool
	// Family is nft's word for the table's: ip, ip6, inet, … A table has an entry without a Name, too.
	Family, Table, Name string
	// Dormant is true of a table that sleeps (nft's flag dormant): its chains have no hooks.
	Dormant bool
	// Registered is when a NAT chain at the first priority of all was registered, where ours are in nf_tables.
	Registered Registered
	// Base is true if it has a hook. Type, Hook, Priority and Drops (its policy) are of those alone. Type and Hook are
	// nft's words; the Hook is empty if it is none of package ruleset's, nor of those of network devices.
	Base       bool
	Type, Hook string
	Priority   int32
	Drops      bool
	// Rules are those that do something or lead on, in the order in which packets meet them.
	Rules []Rule
	// Idle are rules of a base chain that do no more than what some meshes' rules without a name of theirs do: they return,
	// or mark packets or connections.
	Idle []Rule
	// Else has what its rules do that is neither an Act nor leads on nor returns (see Rule.Else).
	Else []string
}

// Registered is when a chain was registered, as seen from ours.
type Registered string

// When a chain at the priority of ours was registered. Of several the kernel asks the one first that was registered last.
const (
	BeforeOurs Registered = "before"
	AfterOurs  Registered = "after"
	// PerhapsAfterOurs is of a chain in a table that is older than ours, where nobody has noted which chains were there.
	PerhapsAfterOurs Registered = "perhaps after"
)

// Rule is what a rule does, and where it leads.
type Rule struct {
	// Handle tells the rules of a table apart: nf_tables' number, and of the legacy variant one that holds until the table
	// is changed.
	Handle  uint64
	Comment string
	Acts    []Act
	// Ports are the ports of this host to which it sends packets, as far as they are known.
	Ports []uint16
	// Local is true if it translates destinations to this host: REDIRECT, or DNAT to loopback.
	Local bool
	// Called are ports that packets have to go to for it to match, as far as they are known: of a range the first.
	Called []uint16
	// Dst is true if packets have to go to some addresses for it to match, and Dsts are such, as far as they are known.
	Dst  bool
	Dsts []netip.Addr
	// ByUser is true if it asks who sends: a socket's user or group.
	ByUser bool
	// To are the chains to which it leads. Mapped is true if a map says to which, so that it can be any of the table.
	To     []string
	Mapped bool
	// Idle is true of a rule that only returns or marks (see Chain.Idle).
	Idle bool
	// Else is something else that it does, of no concern to rules of ours: ACCEPT, or a target as iptables names it, like LOG
	// or MARK. Empty: nothing.
	Else string
	// Interfaces are those by which packets have to arrive for it to match: names, or patterns like eth*. A set of them is
	// [SomeInterfaces]. Empty: any.
	Interfaces []string
}

// SomeInterfaces stands for interfaces of which the names are not read: those of a set, and the devices of a chain.
const SomeInterfaces = "some interfaces"

// Matters reports whether the rule leads on or does something, or is known by its comment to be somebody's.
func (r Rule) Matters() bool {
	return len(r.Acts) > 0 || len(r.To) > 0 || r.Mapped || len(ownersOf(name{comment: r.Comment})) > 0
}

// Ours says where rules of ours stand.
type Ours struct {
	// NAT is the priority of our NAT chains.
	NAT int32
	// Shared is true if our rules are reached from chains that others use too, those of xtables: of its legacy variant
	// if Legacy is.
	Shared, Legacy bool
	// IsOurs reports whether a chain of a shared table is ours, by its name.
	IsOurs func(name string) bool
}

// Asked says when packets meet a chain, seen from our rules that capture.
type Asked string

// When packets meet a chain. At the priority of ours the kernel asks the chain first that was registered last, and does
// not tell which one that is: see [Registered].
const (
	Before     Asked = "before"
	After      Asked = "after"
	MaybeFirst Asked = "before or after"
)

// Effect is what a chain does to the connections that our rules capture.
type Effect string

// The effects, the worst first.
const (
	// Takes: what it translates, or gives to a socket, does not come to the proxy.
	Takes Effect = "takes"
	// MayTake is Takes if the chain is asked before ours.
	MayTake Effect = "may take"
	// Untracks: what it keeps from conntrack is not captured. The backstop refuses it.
	Untracks Effect = "untracks"
	// MayDiscard: it drops, rejects or queues packets, perhaps captured ones.
	MayDiscard Effect = "may discard"
	// Zones: it chooses conntrack zones, where original destinations are not found, and lookups lose their answers.
	Zones Effect = "zones"
	// NeverReached: what ours capture never comes to it. It translates some of what ours let go.
	NeverReached Effect = "never reached"
	// TakesRest: what ours capture never comes to it. It sends what ours let go to this host, whatever its destination, or
	// whatever port it arrives at: what the proxy sends, and what is excluded.
	TakesRest Effect = "takes the rest"
	// Asleep: its table is dormant, and it is not asked.
	Asleep Effect = "asleep"
	// Harmless: it does nothing to where packets go.
	Harmless Effect = "harmless"
)

// Foreign is a base chain of somebody else's at a hook where rules of ours are, or would be.
type Foreign struct {
	// Owners are those whose rules the chain has, or leads to, as far as they are known.
	Owners []string `json:"owners,omitempty"`
	// Legacy is true of the legacy variant of xtables.
	Legacy   bool   `json:"legacy,omitempty"`
	Family   string `json:"family"` // nft's word: ip, ip6, inet or netdev
	Table    string `json:"table"`
	Chain    string `json:"chain"`
	Hook     string `json:"hook"`
	Type     string `json:"type"`
	Priority int32  `json:"priority"`
	Asked    Asked  `json:"asked"`
	// Acts are what its rules, and those to which it leads, do to packets.
	Acts   []Act  `json:"acts,omitempty"`
	Effect Effect `json:"effect"`
	// Interfaces are those of the conditions of its rules, and of those to which it leads.
	Interfaces []string `json:"-"`
	// ByUser is true if some of these ask who sends.
	ByUser bool `json:"-"`
	// Registered is that of the [Chain].
	Registered Registered `json:"-"`
	// Ports are those of this host to which its rules send packets, and Called and Dsts are those of their conditions.
	Ports  []uint16     `json:"-"`
	Called []uint16     `json:"-"`
	Dsts   []netip.Addr `json:"-"`
	mesh   []string
}

// natType is nft's word for the type of a NAT chain.
const natType = "nat"

// natAsked is when the kernel asks NAT chains of their destinations: one after the other, by their own priorities.
const natAsked = -100

// conntrackAt is when conntrack looks at a packet.
const conntrackAt = -200

// The hooks of network devices: what arrives by one passes the first before all of ours, and what leaves by one passes
// the last after them.
const (
	Ingress = "ingress"
	Egress  = "egress"
)

// hooks are those where rules of ours stand, and those of network devices, as packets pass them.
func hooks() []string { return []string{Ingress, "prerouting", "input", "forward", "output", Egress} }

// families are those of tables whose chains IP packets meet.
func families() []string { return []string{"ip", "ip6", "inet", "netdev"} }

// Survey returns the base chains that have rules, or drop what they have no rule for, at our hooks and at those of
// network devices, in the order in which the kernel asks them: hook by hook, by priority, and of those at one priority
// the one of the latest table first.
func Survey(chains []Chain, ours Ours) []Foreign {
	t := newTables(chains)
	var all []Foreign
	for _, c := range slices.Backward(chains) {
		if !c.Base || !slices.Contains(hooks(), c.Hook) || !slices.Contains(families(), c.Family) {
			continue
		}
		before, after, shared := c.split(ours)
		for i, rules := range [][]Rule{before, after} {
			drops := c.Drops && i == 1 // at its end
			if len(rules) == 0 && !drops {
				continue
			}
			part := t.reach(c, rules)
			if part.asked = c.asked(ours); shared {
				part.asked = []Asked{Before, After}[i]
			}
			all = append(all, part.foreign(c, drops))
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return slices.Compare(all[i].order(), all[j].order()) < 0 })
	return all
}

// order is a key to sort by.
func (n Foreign) order() []int {
	at := n.Priority
	if n.Type == natType {
		at = natAsked
	}
	return []int{slices.Index(hooks(), n.Hook), int(at), int(n.Priority)}
}

// Meshes returns the meshes whose rules are in force.
func Meshes(all []Foreign) []Mesh {
	var found []Mesh
	for _, m := range meshes() {
		if slices.ContainsFunc(all, func(n Foreign) bool { return slices.Contains(n.mesh, m.Name) && n.Effect != Asleep }) {
			found = append(found, m)
		}
	}
	return found
}

// split returns the rules of a chain before the one that leads to ours, and those behind it. Where none leads there,
// they are all in after, and shared is false.
func (c Chain) split(ours Ours) (before, after []Rule, shared bool) {
	if !ours.Shared || c.Legacy != ours.Legacy {
		return nil, c.Rules, false
	}
	i := slices.IndexFunc(c.Rules, func(r Rule) bool { return slices.ContainsFunc(r.To, ours.IsOurs) })
	if i < 0 {
		return nil, c.Rules, false
	}
	rest := slices.DeleteFunc(slices.Clone(c.Rules[i:]),
		func(r Rule) bool { return slices.ContainsFunc(r.To, ours.IsOurs) })
	return c.Rules[:i], rest, true
}

// asked says when a chain is asked that has no rules of ours.
func (c Chain) asked(ours Ours) Asked {
	at, our := c.Priority, int32(natAsked)
	if c.Type == natType {
		our = ours.NAT
	}
	switch {
	case c.Hook == Ingress:
		return Before
	case c.Hook == Egress:
		return After
	case at < our:
		return Before
	case at > our:
		return After
	case !ours.Shared && c.Registered == BeforeOurs:
		return After
	case !ours.Shared && c.Registered == AfterOurs:
		return Before
	}
	return MaybeFirst
}

// tables are chains by their names, table by table.
type tables map[tableKey]map[string]Chain

type tableKey struct {
	legacy        bool
	family, table string
}

func newTables(chains []Chain) tables {
	t := tables{}
	for _, c := range chains {
		k := tableKey{c.Legacy, c.Family, c.Table}
		if t[k] == nil {
			t[k] = map[string]Chain{}
		}
		if c.Name != "" {
			t[k][c.Name] = c
		}
	}
	return t
}

// part is what a chain, or a part of it, does.
type part struct {
	asked  Asked
	acts   []Act
	owners []string
	meshes []string
	by     []string
	// wide is true if a rule translates to this host whatever the destination is, or of what arrives the port.
	wide, byUser  bool
	ports, called []uint16
	dsts          []netip.Addr
}

// mostExamples is up to how many ports and addresses of conditions are kept: they are to be tried.
const mostExamples = 64

// reach follows the rules of a chain to all that they can lead to.
func (t tables) reach(c Chain, rules []Rule) part {
	var p part
	in := t[tableKey{c.Legacy, c.Family, c.Table}]
	p.add(ownersOf(name{table: c.Table}))
	// A chain to which rules lead for some destinations alone is looked at again where one leads there for all.
	type way struct {
		to  string
		dst bool
	}
	type step struct {
		rules []Rule
		dst   bool
	}
	seen, mapped := map[way]bool{}, map[bool]bool{}
	todo := []step{{rules, false}}
	visit := func(w way) {
		if next, there := in[w.to]; there && !seen[w] {
			seen[w] = true
			p.add(ownersOf(name{chain: w.to}))
			todo = append(todo, step{next.Rules, w.dst})
		}
	}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		for _, r := range s.rules {
			// What arrives has come to the pod. A port of it that is sent to another is somebody's own.
			dst := s.dst || r.Dst || c.Hook == "prerouting" && len(r.Called) > 0
			p.add(ownersOf(name{comment: r.Comment}))
			p.by = append(p.by, r.Interfaces...)
			p.ports = append(p.ports, r.Ports...)
			if len(p.called) < mostExamples && len(p.dsts) < mostExamples {
				p.called, p.dsts = append(p.called, r.Called...), append(p.dsts, r.Dsts...)
			}
			p.wide = p.wide || r.Local && !dst
			p.byUser = p.byUser || r.ByUser
			for _, a := range r.Acts {
				if !slices.Contains(p.acts, a) {
					p.acts = append(p.acts, a)
				}
			}
			for _, to := range r.To {
				visit(way{to, dst})
			}
			if r.Mapped && !mapped[dst] {
				mapped[dst] = true
				for to, next := range in {
					if !next.Base {
						visit(way{to, dst})
					}
				}
			}
		}
	}
	slices.Sort(p.acts)
	slices.Sort(p.owners)
	p.owners = slices.Compact(p.owners)
	slices.Sort(p.by)
	p.by = slices.Compact(p.by)
	return p
}

func (p *part) add(owners []owner) {
	for _, o := range owners {
		p.owners = append(p.owners, o.name)
		if o.mesh != "" {
			p.meshes = append(p.meshes, o.mesh)
		}
	}
}

func (p part) foreign(c Chain, drops bool) Foreign {
	if drops && !slices.Contains(p.acts, Discard) {
		p.acts = append(p.acts, Discard)
	}
	if c.Hook == Ingress {
		p.by = []string{SomeInterfaces}
	}
	return Foreign{Owners: p.owners, Legacy: c.Legacy, Family: c.Family, Table: c.Table, Chain: c.Name, Hook: c.Hook,
		Type: c.Type, Priority: c.Priority, Asked: p.asked, Acts: p.acts, Effect: p.effect(c),
		Interfaces: p.by, ByUser: p.byUser, mesh: p.meshes, Registered: c.Registered, Ports: p.ports, Called: p.called, Dsts: p.dsts}
}

// effect says what a part does to the connections that ours capture.
func (p part) effect(c Chain) Effect {
	does := func(acts ...Act) bool {
		return slices.ContainsFunc(acts, func(a Act) bool { return slices.Contains(p.acts, a) })
	}
	translates := c.Type == natType && (c.Hook == "prerouting" || c.Hook == "output") && does(DNAT, Redirect)
	switch {
	case c.Dormant:
		return Asleep
	case c.Hook == Egress: // what ours capture stays in the pod
		if does(Discard) {
			return MayDiscard
		}
		return Harmless
	case translates && p.asked == Before, does(TProxy, Forward), does(Rewrite) && c.Type != natType:
		return Takes
	case translates && p.asked == MaybeFirst:
		return MayTake
	case does(NoTrack) && c.Priority < conntrackAt:
		return Untracks
	case does(Discard, Queue):
		return MayDiscard
	case does(Zone) && c.Priority < conntrackAt:
		return Zones
	case translates && p.wide:
		return TakesRest
	case translates:
		return NeverReached
	}
	return Harmless
}

// Translates reports whether the chain translates destinations.
func (f *Foreign) Translates() bool {
	return f.Effect != Asleep && f.Type == natType && (slices.Contains(f.Acts, DNAT) || slices.Contains(f.Acts, Redirect))
}

// TakesLetGo reports whether the chain translates what ours let go.
func (f Foreign) TakesLetGo() bool { return f.Effect == NeverReached || f.Effect == TakesRest }

// Mistracks reports whether conntrack does not have, or has in a zone of its own, what the chain acts on: our rules do not
// capture that as they should.
func (f Foreign) Mistracks() bool { return f.Effect == Untracks || f.Effect == Zones }

// TakesCaptured reports whether the chain translates, or may translate, what ours are to capture.
func (f Foreign) TakesCaptured() bool { return f.Effect == Takes || f.Effect == MayTake }

// Name says which chain it is, as nft and iptables name it.
func (f Foreign) Name() string {
	return Chain{Legacy: f.Legacy, Family: f.Family, Table: f.Table, Name: f.Chain}.name()
}

func (c Chain) name() string {
	table := "table"
	if c.Legacy {
		table = "legacy table"
	}
	return fmt.Sprintf("chain %s of %s %s %s", c.Name, table, c.Family, c.Table)
}

// IsOfMesh reports whether rules of another mesh are in it.
func (f Foreign) IsOfMesh() bool { return len(f.mesh) > 0 }

// Says says what the chain does to what our rules capture.
func (f Foreign) Says() string {
	does := func(a Act) bool { return slices.Contains(f.Acts, a) }
	switch f.Effect {
	case Takes:
		switch {
		case does(TProxy):
			return "gives packets to sockets of its choice (TPROXY): those do not come to the proxy"
		case does(Forward):
			return "sends packets out by another interface: those do not come to the proxy"
		case f.Type != natType:
			return "writes into the headers of packets: they are captured by what it writes, or not at all"
		}
		return "is asked before ours: what it translates is not captured"
	case MayTake:
		if f.Registered == PerhapsAfterOurs {
			return "is asked before ours if it was added to its table after the last apply: what it translates is then not " +
				"captured"
		}
		return "is asked before ours if it was registered later: what it translates is then not captured"
	case Untracks:
		return "keeps packets from conntrack: those are not captured, and the backstop refuses them"
	case MayDiscard:
		if f.Hook == Egress {
			return "drops or queues what leaves the pod: what ours let go, and what the proxy sends"
		}
		return "drops, rejects or queues packets, perhaps on their way to the proxy"
	case Zones:
		return "chooses conntrack zones: in one, the proxy does not find the original destination, and a lookup can " +
			"lose its answer"
	case NeverReached:
		if f.IsOfMesh() {
			return "captures what ours let go, for a proxy of its own"
		}
		return "translates only what ours let go"
	case TakesRest:
		if f.IsOfMesh() {
			return "captures what ours let go, for a proxy of its own"
		}
		return "comes after ours, and sends what ours let go to a port of this pod: what is excluded, and perhaps what the " +
			"proxy sends"
	case Asleep:
		return "is of a dormant table, and not asked"
	case Harmless:
	}
	return "does nothing to where packets go"
}

// Parts reports whether the chain can stop or take what arrives by some of the interfaces alone.
func (f Foreign) Parts() bool {
	switch f.Effect {
	case Takes, MayTake, Untracks, MayDiscard:
		return len(f.Interfaces) > 0 && slices.Contains([]string{Ingress, "prerouting", "input"}, f.Hook)
	case NeverReached, TakesRest, Zones, Asleep, Harmless:
	}
	return false
}

// Warning says what to know of a chain because of which connections can go elsewhere than ours say, or nothing.
func (f Foreign) Warning() string {
	switch f.Effect {
	case Takes, MayTake, Untracks, TakesRest:
	case NeverReached:
		if !f.IsOfMesh() {
			return ""
		}
	case MayDiscard, Zones, Asleep, Harmless:
		return ""
	}
	of := ""
	if len(f.Owners) > 0 {
		of = strings.Join(f.Owners, ", ") + "; "
	}
	return fmt.Sprintf("%s (%s%s at hook %s, priority %d) %s", f.Name(), of, f.Type, f.Hook, f.Priority, f.Says())
}
