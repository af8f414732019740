// Package support puts together what a bug report needs to know, as one document for programs to read: its parts, what
// bounds them, and what hides addresses and names in them. It is given what others have read.
package support

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Version is that of the document's form. It changes when a program that reads it has to.
const Version = 1

// Document is what there is to say. docs/support.schema.json describes it.
type Document struct {
	Version int `json:"version"`
	// At is when it was made, in UTC.
	At time.Time `json:"at"`
	// Masked is whether addresses, names and secrets in the parts are hidden.
	Masked bool `json:"masked"`
	// Tool is the version of the program that made it.
	Tool any `json:"tool"`
	// Parts are by their names.
	Parts map[string]*Part `json:"parts"`
}

// Part is what was read of one thing. It has a Value or an Error, or both if not all could be read.
type Part struct {
	Value *Tree  `json:"value,omitempty"`
	Error string `json:"error,omitempty"`
	// Omitted says how many items were left out of long lists, by their paths.
	Omitted map[string]int `json:"omitted,omitempty"`
}

// Tree is a piece of JSON.
type Tree struct{ strict.Node }

// MarshalJSON writes it as it was read.
func (t Tree) MarshalJSON() ([]byte, error) {
	switch t.Kind {
	case strict.Null:
		return []byte("null"), nil
	case strict.Scalar:
		if t.Bare {
			return []byte(t.Text), nil
		}
		return json.Marshal(t.Text)
	case strict.List:
		items := make([]Tree, len(t.Items))
		for i, n := range t.Items {
			items[i] = Tree{n}
		}
		return json.Marshal(items)
	case strict.Mapping:
		return marshalFields(t.Fields)
	}
	return nil, fmt.Errorf("%q is no kind of JSON", t.Kind)
}

func marshalFields(fields []strict.Field) ([]byte, error) {
	out := []byte{'{'}
	for i, f := range fields {
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		value, err := Tree{f.Value}.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, name...), ':'), value...)
	}
	return append(out, '}'), nil
}

// The bounds of a part: items of a list, bytes of a text, and of all of it. A list that makes a part too long is cut to
// fewItems.
const (
	maxItems = 256
	fewItems = 16
	maxText  = 4096
	maxPart  = 512 << 10
)

// NewPart is a part of a value that JSON can say. err is why it, or some of it, could not be read.
func NewPart(value any, err error) *Part {
	p := &Part{}
	if err != nil {
		p.Error = strict.OneLine(clip(err.Error()))
	}
	if value == nil {
		return p
	}
	text, err := json.Marshal(value)
	if err != nil {
		return &Part{Error: err.Error()}
	}
	for _, most := range []int{maxItems, fewItems} {
		p.Omitted = map[string]int{}
		node, err := p.cut("", text, most)
		if err != nil {
			return &Part{Error: err.Error()}
		}
		p.Value = &Tree{node}
		if text, err := json.Marshal(p.Value); err == nil && len(text) <= maxPart {
			return p
		}
	}
	return &Part{Error: fmt.Sprintf("it is longer than %d bytes", maxPart)}
}

// cut reads JSON but for what is too long, and counts what it leaves out.
func (p *Part) cut(path string, text json.RawMessage, most int) (n strict.Node, err error) {
	left := 0
	switch text[0] {
	case '[':
		var items []json.RawMessage
		if err := json.Unmarshal(text, &items); err != nil {
			return n, err
		}
		n.Kind, left = strict.List, len(items)-most
		for i, item := range items[:min(len(items), most)] {
			value, err := p.cut(path+"["+strconv.Itoa(i)+"]", item, most)
			if err != nil {
				return n, err
			}
			n.Items = append(n.Items, value)
		}
	case '{':
		fields, err := strict.Members(text)
		if err != nil {
			return n, err
		}
		n.Kind, left = strict.Mapping, len(fields)-most
		for _, f := range fields[:min(len(fields), most)] {
			value, err := p.cut(strict.Join(path, f.Name), f.Raw, most)
			if err != nil {
				return n, err
			}
			n.Fields = append(n.Fields, strict.Field{Name: f.Name, Value: value})
		}
	default:
		n, err = strict.ParseJSON(text)
		n.Text = clip(n.Text)
	}
	if left > 0 {
		p.Omitted[path] = left
	}
	return n, err
}

func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return text[:maxText] + "…"
}
