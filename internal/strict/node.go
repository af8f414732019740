package strict

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a [Node] is.
type Kind string

// The kinds. The zero Kind is that of null, and of nothing at all.
const (
	Null    Kind = ""
	Scalar  Kind = "a value"
	List    Kind = "a list"
	Mapping Kind = "a mapping"
)

// Node is a piece of a document: of JSON, YAML or the like.
type Node struct {
	Kind Kind
	// Text is a scalar as it is written: YAML's off is "off", 0010 is "0010".
	Text string
	// Bare is whether a scalar stands without quotes: a number, true, a word.
	Bare bool
	// Line counts from 1. Zero: it is not known.
	Line   int
	Items  []Node
	Fields []Field
	// Long yields the items of a list that is too long for each to be a Node for long; Items has none then. Only who asks
	// for it gets it, as from [ParseLongJSON]. Nil: the items are Items.
	Long iter.Seq[Node]
}

// each yields the items.
func (n Node) each() iter.Seq[Node] {
	if n.Long != nil {
		return n.Long
	}
	return slices.Values(n.Items)
}

// isEmpty reports whether a list has no items.
func (n Node) isEmpty() bool { return n.Long == nil && len(n.Items) == 0 }

// Field is one field of a mapping.
type Field struct {
	Name  string
	Line  int
	Value Node
}

// Value returns the field of that name. It is of kind [Null] if there is none.
func (n Node) Value(name string) Node {
	for _, f := range n.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return Node{}
}

// At returns what the node has at a path such as "outbound.exclude[1].ports".
// Where the path goes on below a value that has no fields, it is that value.
func (n Node) At(path string) Node {
	for name := range strings.SplitSeq(path, ".") {
		name, index, _ := strings.Cut(name, "[")
		if n.Kind != Mapping {
			return n
		}
		n = n.Value(name)
		i, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
		for item := range n.each() {
			if i--; err == nil && i < 0 {
				n = item
				break
			}
		}
	}
	return n
}

// AsString returns the text of a string, which stands in quotes.
func (n Node) AsString() (string, error) {
	if n.Kind != Scalar || n.Bare {
		return "", fmt.Errorf("%s is not a string", n.Quote())
	}
	return n.Text, nil
}

// Quote is the node as an error quotes it.
func (n Node) Quote() string {
	switch {
	case n.Kind == Null:
		return "null"
	case n.Kind == List && n.isEmpty():
		return "[]"
	case n.Kind != Scalar:
		return string(n.Kind)
	case n.Bare:
		return Clip(n.Text)
	}
	return fmt.Sprintf("%q", Clip(n.Text))
}

// A Builder puts the fields of one mapping together.
type Builder struct {
	// Path is that of the mapping, for errors.
	Path string
	node Node
	line map[string]int
}

// Add adds a field. It refuses a name that is there already.
func (b *Builder) Add(f Field) error {
	switch first, twice := b.line[f.Name]; {
	case twice && first == 0:
		return &Error{Join(b.Path, f.Name), 0, fmt.Errorf("%q is there twice", Clip(f.Name))}
	case twice:
		return &Error{Join(b.Path, f.Name), f.Line, fmt.Errorf("%q is there twice, first on line %d", Clip(f.Name), first)}
	}
	if b.line == nil {
		b.line = map[string]int{}
	}
	b.line[f.Name] = f.Line
	b.node.Fields = append(b.node.Fields, f)
	return nil
}

// Has reports whether there is a field of that name.
func (b *Builder) Has(name string) bool { _, ok := b.line[name]; return ok }

// Mapping returns the mapping, which begins on a line.
func (b *Builder) Mapping(line int) Node {
	b.node.Kind, b.node.Line = Mapping, line
	return b.node
}
