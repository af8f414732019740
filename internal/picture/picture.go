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

// kind is what a box stands for.
type kind string

const (
	event kind = "event" // where a packet comes from, or gets to
	track kind = "track" // conntrack
	chain kind = "chain" // a base chain
	side  kind = "side"  // a chain that another jumps to
	proxy kind = "proxy" // where captured packets go
)

// box is one thing that packets come to.
type box struct {
	id    string
	kind  kind
	title string
	under string   // what is said of it in small letters
	lines []string // its rules
}

// way leads from a box to another.
type way struct {
	from, to string
	label    string
}

// column is the way of the packets of one origin, from top to bottom.
type column struct {
	title string
	boxes []box
}

// picture is what there is to draw.
type picture struct {
	title   string
	columns []column
	ways    []way
}

// maxLines is how many rules of a chain are shown, and maxLine how long a line may be, in letters, but for a long
// target.
const (
	maxLines = 16
	maxLine  = 64
)

// of is the picture of rules.
func of(rs ruleset.Ruleset) picture {
	var families []string
	for _, f := range rs.Families {
		families = append(families, f.String())
	}
	p := picture{title: "The way of packets through the rules, " + strings.Join(families, " and ")}
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
	p     *picture
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
	sort.SliceStable(all, func(i, j int) bool { return all[i].Priority < all[j].Priority })
	return all
}

// add adds a box to the last column, and returns its ID.
func (d *drawing) add(b box) string {
	d.count++
	b.id = fmt.Sprintf("n%d", d.count)
	c := &d.p.columns[len(d.p.columns)-1]
	c.boxes = append(c.boxes, b)
	return b.id
}

func (d *drawing) way(from, to, label string) {
	if w := (way{from, to, label}); !slices.Contains(d.p.ways, w) {
		d.p.ways = append(d.p.ways, w)
	}
}

// conntrackPriority is where the kernel begins to track a connection (NF_IP_PRI_CONNTRACK).
const conntrackPriority = -200

// column begins a column with the chains of a hook, and ends it if it has an end. It returns the last box on the way.
func (d *drawing) column(title, start string, h ruleset.Hook, end string) (last string) {
	d.p.columns = append(d.p.columns, column{title: title})
	last = d.add(box{kind: event, title: start})
	if h == 0 {
		return last
	}
	tracked := false
	follow := func() {
		if !tracked {
			at := d.add(box{kind: track, title: "conntrack", under: fmt.Sprint(conntrackPriority)})
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
		d.way(last, d.add(box{kind: event, title: end}), "")
	}
	return last
}

// goOn goes on below a box with the chains of another hook, to the end.
func (d *drawing) goOn(last string, h ruleset.Hook, end string) {
	for _, c := range d.at(h) {
		last = d.chain(last, c)
	}
	d.way(last, d.add(box{kind: event, title: end}), "")
}

// chain adds a base chain, what it jumps to, and where it sends captured packets.
func (d *drawing) chain(last string, c ruleset.Chain) string {
	id := d.add(box{kind: chain, title: c.Name, under: fmt.Sprintf("%s, %s, %d", c.Type, c.Hook, c.Priority),
		lines: linesOf(c)})
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
				to = "the proxy's port " + t.Ports.String()
			case ruleset.TProxy:
				to = fmt.Sprintf("the proxy's port %d", t.Port)
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
		d.way(id, d.add(box{kind: proxy, title: to}), strings.Join(rules, " "))
	}
	return id
}

// sideChain adds a chain that another jumps to, once.
func (d *drawing) sideChain(from, name, how string, visit func(string, ruleset.Chain)) {
	if id, there := d.drawn[name]; there {
		d.way(from, id, how)
		return
	}
	for _, c := range d.rs.Chains {
		if c.Name == name {
			id := d.add(box{kind: side, title: c.Name, lines: linesOf(c)})
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
