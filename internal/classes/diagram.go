package classes

import (
	"encoding/binary"
	"fmt"
)

// A ref is a part of a diagram: a node, or an end if it is negative.
type ref int32

// A node asks for the atom of a field, and goes on with one part for each.
type node struct {
	field Field
	kids  []ref
}

// A diagram holds decision diagrams that share their equal parts: two of them are the same function exactly if their
// refs are the same. Along each way the fields come in the order of their numbers.
type diagram struct {
	nodes  []node
	unique map[string]ref
	ends   []any
	endOf  map[any]ref
	slots  int
	// left are the operations that may still be done.
	left int
	key  []byte
}

// The bounds of a diagram, which is some seconds and 200 MB: how many ways its nodes have, and how many operations make
// it.
const (
	mostSlots      = 16_000_000
	mostOperations = 100_000_000
)

// TooManyError reports rules whose conditions cut packets into more classes than can be told apart in seconds.
type TooManyError struct{}

func (*TooManyError) Error() string {
	return fmt.Sprintf("the lists of these rules overlap in too many ways to look at each (over %d ranges); "+
		"explain one packet at a time, or join exclusions that say the same of many ports or addresses", mostSlots)
}

func newDiagram() *diagram {
	return &diagram{unique: map[string]ref{}, endOf: map[any]ref{}, left: mostOperations}
}

// bounded is a function's way out of a diagram that has grown too large.
func bounded(err *error) {
	switch r := recover().(type) {
	case nil:
	case *TooManyError:
		*err = r
	default:
		panic(r)
	}
}

func (d *diagram) spend(n int) {
	if d.left -= n; d.left < 0 {
		panic(&TooManyError{})
	}
}

// end returns the part that is an end.
func (d *diagram) end(v any) ref {
	r, is := d.endOf[v]
	if !is {
		d.ends = append(d.ends, v)
		r = ref(-len(d.ends))
		d.endOf[v] = r
	}
	return r
}

// at returns the end of a ref that is one.
func (d *diagram) at(r ref) any { return d.ends[-r-1] }

// node returns the part that asks for a field. It takes kids.
func (d *diagram) node(f Field, kids []ref) ref {
	same := true
	d.key = append(d.key[:0], byte(f))
	for _, k := range kids {
		same = same && k == kids[0]
		d.key = binary.NativeEndian.AppendUint32(d.key, uint32(k))
	}
	if same {
		return kids[0]
	}
	r, is := d.unique[string(d.key)]
	if !is {
		if d.slots += len(kids) + 8; d.slots > mostSlots {
			panic(&TooManyError{})
		}
		r = ref(len(d.nodes))
		d.nodes = append(d.nodes, node{f, kids})
		d.unique[string(d.key)] = r
	}
	return r
}

// field is what a part asks for first; noField of an end.
func (d *diagram) field(r ref) Field {
	if r < 0 {
		return noField
	}
	return d.nodes[r].field
}

// kid is the part that r goes on with for an atom of a field that is not after its own.
func (d *diagram) kid(r ref, f Field, atom int) ref {
	if d.field(r) != f {
		return r
	}
	return d.nodes[r].kids[atom]
}

// width is how many atoms a field has, by one of the parts that ask for it.
func (d *diagram) width(f Field, parts ...ref) int {
	for _, r := range parts {
		if d.field(r) == f {
			return len(d.nodes[r].kids)
		}
	}
	return 0
}

// A literal is a condition on one field.
type literal struct {
	field Field
	in    set
	atoms int
}

// choose returns yes where all of the conditions hold, and no elsewhere. The conditions are in the order of their
// fields, each field once.
func (d *diagram) choose(all []literal, yes, no ref) ref {
	type key struct {
		literals int
		yes, no  ref
	}
	memo := map[key]ref{}
	var walk func(i int, yes, no ref) ref
	walk = func(i int, yes, no ref) ref {
		if i == len(all) || yes == no {
			return yes
		}
		k := key{i, yes, no}
		if r, is := memo[k]; is {
			return r
		}
		f := min(d.field(yes), d.field(no), all[i].field)
		n := d.width(f, yes, no)
		if n == 0 {
			n = all[i].atoms
		}
		d.spend(n)
		kids := make([]ref, n)
		for a := range kids {
			y, n := d.kid(yes, f, a), d.kid(no, f, a)
			switch {
			case all[i].field != f:
				kids[a] = walk(i, y, n)
			case all[i].in.has(a):
				kids[a] = walk(i+1, y, n)
			default:
				kids[a] = n
			}
		}
		r := d.node(f, kids)
		memo[k] = r
		return r
	}
	return walk(0, yes, no)
}

// mapped returns r with each of its ends replaced.
func (d *diagram) mapped(r ref, by func(end any) ref) ref {
	memo := map[ref]ref{}
	var walk func(r ref) ref
	walk = func(r ref) ref {
		if out, is := memo[r]; is {
			return out
		}
		out := ref(0)
		if r < 0 {
			out = by(d.at(r))
		} else {
			n := d.nodes[r]
			d.spend(len(n.kids))
			kids := make([]ref, len(n.kids))
			for i, k := range n.kids {
				kids[i] = walk(k)
			}
			out = d.node(n.field, kids)
		}
		memo[r] = out
		return out
	}
	return walk(r)
}

// assigned returns r as it is after a field's value has changed: for an atom it is what it was for to[atom].
func (d *diagram) assigned(r ref, f Field, to []int) ref {
	memo := map[ref]ref{}
	var walk func(r ref) ref
	walk = func(r ref) ref {
		if d.field(r) > f {
			return r
		}
		if out, is := memo[r]; is {
			return out
		}
		n := d.nodes[r]
		d.spend(len(n.kids))
		kids := make([]ref, len(n.kids))
		for i := range n.kids {
			if n.field == f {
				kids[i] = n.kids[to[i]]
			} else {
				kids[i] = walk(n.kids[i])
			}
		}
		out := d.node(n.field, kids)
		memo[r] = out
		return out
	}
	return walk(r)
}

// joined returns the part that ends in what by makes of the ends of a and b.
func (d *diagram) joined(a, b ref, by func(a, b any) ref) ref {
	type key struct{ a, b ref }
	memo := map[key]ref{}
	var walk func(a, b ref) ref
	walk = func(a, b ref) ref {
		k := key{a, b}
		if out, is := memo[k]; is {
			return out
		}
		f, out := min(d.field(a), d.field(b)), ref(0)
		if f == noField {
			out = by(d.at(a), d.at(b))
		} else {
			kids := make([]ref, d.width(f, a, b))
			d.spend(len(kids))
			for i := range kids {
				kids[i] = walk(d.kid(a, f, i), d.kid(b, f, i))
			}
			out = d.node(f, kids)
		}
		memo[k] = out
		return out
	}
	return walk(a, b)
}

// endsOf calls f for each end that r can come to, once, for packets that satisfy the cell.
func (d *diagram) endsOf(r ref, cell cell, f func(end any)) {
	known := map[ref]bool{}
	var walk func(r ref)
	walk = func(r ref) {
		if known[r] {
			return
		}
		known[r] = true
		if r < 0 {
			f(d.at(r))
			return
		}
		n := d.nodes[r]
		for i, k := range n.kids {
			if in := cell.of(n.field); in == nil || in.has(i) {
				walk(k)
			}
		}
	}
	walk(r)
}
