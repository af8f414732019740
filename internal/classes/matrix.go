package classes

import (
	"sort"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Proxy is who the proxy is: a socket whose user or group is listed, or that carries the mark. See intercept.Proxy.
type Proxy struct {
	UIDs, GIDs ruleset.IDs
	Mark       ruleset.Mark
}

// From is who begins a flow.
type From string

// Who begins flows.
const (
	FromApp     From = "app"     // a process that is not the proxy
	FromProxy   From = "proxy"   // a process that is
	FromKernel  From = "kernel"  // no process: a subflow of Multipath TCP, an answer
	FromOutside From = "outside" // another pod or host
)

// Where is where a flow goes.
type Where string

// Where flows go.
const (
	Outbound Where = "outbound" // out of the pod
	Self     Where = "self"     // to an address of the pod's own
	Loopback Where = "loopback" // to a loopback address
	Inbound  Where = "inbound"  // into the pod
	Through  Where = "through"  // through the pod, to somebody else's address
)

// Traffic is a kind of flow.
type Traffic string

// The kinds.
const (
	TCP   Traffic = "TCP" // but for port 53
	UDP   Traffic = "UDP" // but for port 53
	DNS   Traffic = "DNS" // TCP and UDP port 53
	Other Traffic = "other"
)

// A Cell is the flows of one kind, and what becomes of them: each of them is in one of the parts.
type Cell struct {
	From    From
	Where   Where
	Traffic Traffic
	Family  ruleset.Family
	Parts   []Part
}

// A Part is the flows of a cell that have one fate, by rules of one line of the policy.
type Part struct {
	Verdicts
	// Rest is true of the last part: the flows that are in no other.
	Rest bool
	// Boxes are the flows. Their conditions are those beyond what all of the cell have in common.
	Boxes   []Box
	More    bool
	Example Example
	// left are the boxes without conditions that say nothing of flows which are in no part before.
	left []Box
}

// Which says which flows of its cell a part is, of those that are in no part before it.
func (p Part) Which() string {
	if p.Rest {
		return "the rest"
	}
	var all []string
	for _, b := range p.left {
		all = append(all, b.Beginning())
	}
	if p.More {
		all = append(all, "and more")
	}
	return strings.Join(all, ", or ")
}

const dnsPort = 53

// Matrix returns what becomes of the first packet of every flow. The error is a [*TooManyError].
func Matrix(rs ruleset.Ruleset, proxy Proxy) (_ []Cell, err error) {
	dns := ruleset.DstPort{ruleset.Port(dnsPort)}
	more := []ruleset.Match{ruleset.Proto{ruleset.UDP}, dns}
	var known []ruleset.Match
	if len(proxy.UIDs) > 0 {
		known = append(known, ruleset.UID(proxy.UIDs))
	}
	if len(proxy.GIDs) > 0 {
		known = append(known, ruleset.GID(proxy.GIDs))
	}
	if proxy.Mark.Mask != 0 {
		known = append(known, ruleset.MetaMark(proxy.Mark))
	}
	c, err := New(append(more, known...), rs)
	if err != nil {
		return nil, err
	}
	defer bounded(&err)
	s := c.space

	// The proxy is known by any of its properties, and the app has none of them.
	var app cell
	var isProxy []cell
	for _, m := range known {
		yes, no := s.split(m, ruleset.IPv4)
		isProxy = append(isProxy, app.with(yes))
		app = app.with(no)
	}
	tcp, notTCP := s.split(ruleset.Proto{ruleset.TCP}, ruleset.IPv4)
	udp, notUDP := s.split(ruleset.Proto{ruleset.UDP}, ruleset.IPv4)
	lookup, noLookup := s.split(dns, ruleset.IPv4)
	first := s.flows()
	order := map[ruleset.RuleID]int{}
	for _, chain := range rs.Chains {
		for _, r := range chain.Rules {
			order[r.ID] = len(order)
		}
	}

	kinds := []Traffic{TCP, UDP, DNS, Other}
	traffic := [][]cell{
		{first[0].cell.with(tcp, noLookup)},
		{first[1].cell.with(udp, noLookup)},
		{first[0].cell.with(tcp, lookup), first[1].cell.with(udp, lookup)},
		{first[1].cell.with(notTCP, notUDP)},
	}
	var cells []Cell
	for _, row := range []struct {
		from   From
		sender Sender
		where  Where
	}{
		{FromApp, Process, Outbound}, {FromApp, Process, Self}, {FromApp, Process, Loopback},
		{FromProxy, Process, Outbound}, {FromProxy, Process, Self}, {FromProxy, Process, Loopback},
		{FromKernel, Kernel, Outbound}, {FromKernel, Kernel, Self}, {FromKernel, Kernel, Loopback},
		{FromOutside, Arriving, Inbound}, {FromOutside, Forwarded, Through},
	} {
		who := []cell{nil}
		switch row.from {
		case FromApp:
			who = []cell{app}
		case FromProxy:
			who = isProxy
		case FromKernel, FromOutside:
		}
		for k, kind := range kinds {
			for _, r := range c.roots[0] {
				if r.sender != row.sender || r.lo != (row.where == Self || row.where == Loopback) {
					continue
				}
				to, far := s.split(ruleset.Dst(loopback()), r.family)
				if row.where != Loopback {
					to = far
				}
				var starts []Box
				for _, by := range who {
					for _, what := range traffic[k] {
						if b, can := s.start(r).within(by.with(to, what)); can {
							starts = append(starts, b)
						}
					}
				}
				cells = append(cells, Cell{row.from, row.where, kind, r.family, s.parts(r, starts, order)})
			}
		}
	}
	return cells, nil
}

// parts returns what becomes of the packets of some boxes of a root, in the order of the rules.
func (s *space) parts(r root, starts []Box, order map[ruleset.RuleID]int) []Part {
	type key struct {
		fate ruleset.Fate
		line string
	}
	never := s.end(nil)
	lines := s.mapped(r.ref, func(end any) ref {
		o := end.(outcome)
		if o.never {
			return never
		}
		return s.end(key{o.fate, o.rule.Line()})
	})
	var parts []Part
	index := map[key]int{}
	for _, b := range starts {
		s.endsOf(r.ref, b.in, func(end any) {
			o := end.(outcome)
			if o.never {
				return
			}
			k := key{o.fate, o.rule.Line()}
			i, is := index[k]
			if !is {
				i = len(parts)
				index[k] = i
				parts = append(parts, Part{Verdicts: Verdicts{Fate: k.fate, Line: k.line}})
			}
			parts[i].add(o.rule)
		})
	}
	hull := make(cell, fieldCount) // what the packets have in common, field by field
	for f := range fieldCount {
		hull[f] = newSet(len(s.axes[f].atoms))
		for _, b := range starts {
			hull[f] = hull[f].or(b.all(f))
		}
	}
	for k, i := range index {
		for _, b := range starts {
			b.base = hull
			s.gather(lines, b, k, &parts[i].Boxes, &parts[i].More)
		}
	}
	for i := range parts {
		sortBoxes(parts[i].Boxes)
		parts[i].Example = parts[i].Boxes[0].Example()
	}
	sort.SliceStable(parts, func(i, j int) bool { return parts[i].asked(order) < parts[j].asked(order) })
	before := map[any]bool{nil: true}
	for i := range parts {
		for _, b := range parts[i].Boxes {
			for f := range fieldCount {
				if b.in[f] == nil || !s.decided(lines, b, f, starts, before) {
					continue
				}
				b.in = b.in.but(f, nil)
			}
			parts[i].left = append(parts[i].left, b)
		}
		parts[i].left = merged(parts[i].left)
		parts[i].Rest = i == len(parts)-1
		before[key{parts[i].Fate, parts[i].Line}] = true
	}
	return parts
}

// asked is the place of the first rule of the part.
func (p Part) asked(order map[ruleset.RuleID]int) int {
	least := len(order) // no rule decides on what none matches
	for _, id := range p.Rules {
		least = min(least, order[id])
	}
	return least
}

// decided reports whether the packets that only the condition on a field keeps out of a box have one of the ends, as far
// as they are in one of the boxes to start from.
func (s *space) decided(r ref, b Box, f Field, starts []Box, ends map[any]bool) bool {
	b.in = b.in.but(f, s.axes[f].all().without(b.in[f]))
	for _, start := range starts {
		more, can := start.within(b.in)
		if !can {
			continue
		}
		other := false
		s.endsOf(r, more.in, func(end any) { other = other || !ends[end] })
		if other {
			return false
		}
	}
	return true
}

// split returns the packets that satisfy a condition, and the others.
func (s *space) split(m ruleset.Match, family ruleset.Family) (yes, no cell) {
	f, key := fieldOf(m, family)
	in := s.axes[f].on[key]
	return yes.but(f, in), no.but(f, s.axes[f].all().without(in))
}
