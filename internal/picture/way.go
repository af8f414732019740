package picture

import (
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Follow returns the IDs of the boxes to which a packet comes, in order, and of each of its trace's steps that of the box
// which has the rule. The trace is one of the rules that the picture is of.
func (p Picture) Follow(packet ruleset.Packet, t ruleset.Trace) (nodes, steps []string) {
	f := follower{p: p}
	f.enter(column(packet.Hook))
	for _, s := range t.Steps {
		at, box := p.chain(s.Chain)
		if at > f.column {
			f.enter(at)
		}
		if box.Kind == Base {
			f.passTrack(box.ID)
		}
		f.add(box.ID)
		steps = append(steps, box.ID)
	}
	switch t.Fate.Action {
	case ruleset.Redirected, ruleset.Translated, ruleset.Transparent:
		f.add(p.proxy(f.column, steps, t.Fate))
	case ruleset.Pass:
		f.leave(packet)
	case ruleset.Rejected, ruleset.Dropped:
	}
	return f.nodes, steps
}

// The columns of a picture, in their order.
const (
	sends = iota
	arrives
	forwards
)

func column(h ruleset.Hook) int {
	if h == ruleset.Output {
		return sends
	}
	return arrives
}

type follower struct {
	p      Picture
	column int
	nodes  []string
}

func (f *follower) add(id string) {
	if n := len(f.nodes); id != "" && (n == 0 || f.nodes[n-1] != id) {
		f.nodes = append(f.nodes, id)
	}
}

// enter goes to the first box of a column, through the rest of the one before.
func (f *follower) enter(at int) {
	if len(f.nodes) > 0 {
		f.passTrack("")
		if f.column == sends {
			f.add(f.p.end(sends))
		}
	}
	f.column = at
	if boxes := f.boxes(); len(boxes) > 0 {
		f.add(boxes[0].ID)
	}
}

func (f *follower) boxes() []Box {
	if f.column < len(f.p.Columns) {
		return f.p.Columns[f.column].Boxes
	}
	return nil
}

// passTrack comes by conntrack, if it stands before a box, or anywhere in the column.
func (f *follower) passTrack(before string) {
	for _, b := range f.boxes() {
		if b.ID == before {
			return
		}
		if b.Kind == Track && !slices.Contains(f.nodes, b.ID) {
			f.add(b.ID)
		}
	}
}

// leave goes from where the last rule was to where a packet gets that nothing stops.
func (f *follower) leave(packet ruleset.Packet) {
	inside := packet.Interface == ruleset.Loopback || packet.Dst.Addr().IsUnspecified()
	if f.column == sends && inside {
		f.enter(arrives)
	}
	f.passTrack("")
	if f.column == arrives && !inside && packet.Dst.Addr().IsLoopback() {
		return // the kernel discards it
	}
	if f.column == arrives && packet.Foreign {
		if len(f.p.Columns) <= forwards {
			return // the kernel forwards it, or discards it: no rule of ours is asked
		}
		f.enter(forwards)
	}
	f.add(f.p.end(f.column))
}

// end is the last box of a column's way.
func (p Picture) end(column int) string {
	if column < len(p.Columns) {
		for _, b := range slices.Backward(p.Columns[column].Boxes) {
			if b.Kind == Event {
				return b.ID
			}
		}
	}
	return ""
}

// chain is the box of a chain, and the column that it is in.
func (p Picture) chain(name string) (column int, _ Box) {
	for i, c := range p.Columns {
		for _, b := range c.Boxes {
			if b.Title == name && (b.Kind == Base || b.Kind == Side) {
				return i, b
			}
		}
	}
	return 0, Box{}
}

// proxy is the box that stands for where a packet is sent: the one to which a way leads from the base chain in which that
// was decided, or one of the same column.
func (p Picture) proxy(column int, steps []string, f ruleset.Fate) (found string) {
	title := proxyAt + f.Ports.String()
	if f.Action == ruleset.Translated {
		title = f.To.String()
	}
	base := ""
	for _, b := range p.Columns[column].Boxes {
		switch {
		case b.Kind == Base && slices.Contains(steps, b.ID):
			base = b.ID // the last of them
		case b.Kind == Proxy && b.Title == title:
			if found == "" || slices.ContainsFunc(p.Ways, func(w Way) bool { return w.From == base && w.To == b.ID }) {
				found = b.ID
			}
		}
	}
	return found
}
