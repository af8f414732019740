// Package picture draws the way of packets through a Ruleset: as a flowchart of Mermaid, which GitHub shows, as a graph
// for Graphviz, and as an SVG. It is a pure function of the rules.
package picture

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Kind is what a box stands for.
type Kind string

// The kinds of boxes.
const (
	Event Kind = "event" // where a packet comes from, or gets to
	Track Kind = "track" // conntrack
	Base  Kind = "chain" // a base chain
	Side  Kind = "side"  // a chain that another jumps to
	Proxy Kind = "proxy" // where captured packets go
)

// Box is one thing that packets come to.
type Box struct {
	ID    string `json:"id"`
	Kind  Kind   `json:"kind"`
	Title string `json:"title"` // of a chain, its name
	// Under is what is said of it in small letters.
	Under string `json:"under,omitempty"`
	// Lines are its rules, in short: the IDs come first. Of very many the last line counts the rest.
	Lines []string `json:"lines,omitempty"`
	// Rules are the IDs of all of them, in their order.
	Rules []ruleset.RuleID `json:"rules,omitempty"`
}

// Way leads from a box to another.
type Way struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Label is "jump" or "goto", or the IDs of the rules that send packets this way. Empty: all go this way.
	Label string `json:"label,omitempty"`
}

// Column is the way of the packets of one origin, from top to bottom.
type Column struct {
	Title string `json:"title"`
	Boxes []Box  `json:"boxes"`
}

// Picture is what there is to draw.
type Picture struct {
	Title   string   `json:"title"`
	Columns []Column `json:"columns"`
	Ways    []Way    `json:"ways"`
}

// maxLines is how many rules of a chain are shown, and maxLine how long a line may be, in letters, but for a long
// target.
const (
	maxLines = 16
	maxLine  = 64
)

// Of is the picture of rules.
func Of(rs ruleset.Ruleset) Picture {
	var families []string
	for _, f := range rs.Families {
		families = append(families, f.String())
	}
	p := Picture{Title: "The way of packets through the rules, " + strings.Join(families, " and ")}
	d := drawing{rs: rs, p: &p, drawn: map[string]string{}}
	d.column("a process in the pod sends", "a packet of a process", ruleset.Output, "leaves the pod")
	last := d.column("a packet arrives in the pod", "a packet from the network or from lo", ruleset.Prerouting, "")
	d.goOn(last, ruleset.Input, "the app, or whoever has the port")
	if len(d.at(ruleset.Forward)) > 0 {
		start := d.column("a packet is for what is behind the pod", "from prerouting", 0, "")
		d.goOn(start, ruleset.Forward, "goes on to what is behind the pod")
	}
	return p
}

// drawing is a picture in the making.
type drawing struct {
	rs    ruleset.Ruleset
	p     *Picture
	drawn map[string]string // chains' IDs by their names
	count int
}

// at are the base chains of a hook in the order in which packets meet them.
func (d *drawing) at(h ruleset.Hook) (all []ruleset.Chain) {
	for _, c := range d.rs.Chains {
		if h != 0 && c.Hook == h {
			all = append(all, c)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Asked() < all[j].Asked() })
	return all
}

// add adds a box to the last column, and returns its ID.
func (d *drawing) add(b Box) string {
	d.count++
	b.ID = fmt.Sprintf("n%d", d.count)
	c := &d.p.Columns[len(d.p.Columns)-1]
	c.Boxes = append(c.Boxes, b)
	return b.ID
}

func (d *drawing) way(from, to, label string) {
	if w := (Way{from, to, label}); !slices.Contains(d.p.Ways, w) {
		d.p.Ways = append(d.p.Ways, w)
	}
}

// conntrackPriority is where the kernel begins to track a connection (NF_IP_PRI_CONNTRACK).
const conntrackPriority = -200

// column begins a column with the chains of a hook, and ends it if it has an end. It returns the last box on the way.
func (d *drawing) column(title, start string, h ruleset.Hook, end string) (last string) {
	d.p.Columns = append(d.p.Columns, Column{Title: title})
	last = d.add(Box{Kind: Event, Title: start})
	if h == 0 {
		return last
	}
	tracked := false
	follow := func() {
		if !tracked {
			at := d.add(Box{Kind: Track, Title: "conntrack", Under: fmt.Sprint(conntrackPriority)})
			d.way(last, at, "")
			last, tracked = at, true
		}
	}
	for _, c := range d.at(h) {
		if c.Priority > conntrackPriority {
			follow()
		}
		last = d.chain(last, c)
	}
	follow()
	if end != "" {
		d.way(last, d.add(Box{Kind: Event, Title: end}), "")
	}
	return last
}

// goOn goes on below a box with the chains of another hook, to the end.
func (d *drawing) goOn(last string, h ruleset.Hook, end string) {
	for _, c := range d.at(h) {
		last = d.chain(last, c)
	}
	d.way(last, d.add(Box{Kind: Event, Title: end}), "")
}

// chain adds a base chain, what it jumps to, and where it sends captured packets.
func (d *drawing) chain(last string, c ruleset.Chain) string {
	id := d.add(Box{Kind: Base, Title: c.Name, Under: fmt.Sprintf("%s, %s, %d", c.Type, c.Hook, c.Priority),
		Lines: linesOf(c), Rules: idsOf(c)})
	d.way(last, id, "")
	d.drawn[c.Name] = id
	captures := map[string][]string{} // IDs of rules by where they send to
	var order []string
	var visit func(from string, c ruleset.Chain)
	visit = func(from string, c ruleset.Chain) {
		for _, r := range c.Rules {
			to := ""
			switch t := r.Target.(type) {
			case ruleset.Redirect:
				to = proxyAt + t.Ports.String()
			case ruleset.TProxy:
				to = proxyAt + ruleset.Port(t.Port).String()
			case ruleset.DNAT:
				to = t.To.String()
			case ruleset.Jump:
				d.sideChain(from, t.Chain, "jump", visit)
			case ruleset.Goto:
				d.sideChain(from, t.Chain, "goto", visit)
			case ruleset.Accept, ruleset.Return, ruleset.Drop, ruleset.Reject, ruleset.Keep, ruleset.SetMark,
				ruleset.SetConnMark, ruleset.CTZone, ruleset.Divert:
			}
			if to == "" {
				continue
			}
			if captures[to] == nil {
				order = append(order, to)
			}
			if line := string(r.ID); !slices.Contains(captures[to], line) {
				captures[to] = append(captures[to], line)
			}
		}
	}
	visit(id, c)
	for _, to := range order {
		rules := captures[to]
		if len(rules) > 2 {
			rules = []string{rules[0], "…", rules[len(rules)-1]}
		}
		d.way(id, d.add(Box{Kind: Proxy, Title: to}), strings.Join(rules, " "))
	}
	return id
}

// proxyAt begins the title of a box that stands for a port of the proxy.
const proxyAt = "the proxy's port "

// sideChain adds a chain that another jumps to, once.
func (d *drawing) sideChain(from, name, how string, visit func(string, ruleset.Chain)) {
	if id, there := d.drawn[name]; there {
		d.way(from, id, how)
		return
	}
	for _, c := range d.rs.Chains {
		if c.Name == name {
			id := d.add(Box{Kind: Side, Title: c.Name, Lines: linesOf(c), Rules: idsOf(c)})
			d.drawn[name] = id
			d.way(from, id, how)
			visit(id, c)
		}
	}
}

// linesOf are a chain's rules, in short.
func linesOf(c ruleset.Chain) (lines []string) {
	for i, r := range c.Rules {
		if i == maxLines && len(c.Rules) > maxLines+1 {
			return append(lines, fmt.Sprintf("and %d more", len(c.Rules)-maxLines))
		}
		id, reason, target := string(r.ID), []rune(r.Reason), r.Target.String()
		if room := max(maxLine-len(id)-len(target)-3, 8); len(reason) > room {
			reason = append(reason[:room-1], '…')
		}
		lines = append(lines, id+" "+string(reason)+": "+target)
	}
	return lines
}

func idsOf(c ruleset.Chain) (ids []ruleset.RuleID) {
	for _, r := range c.Rules {
		ids = append(ids, r.ID)
	}
	return ids
}
