package yamldoc

import (
	"bytes"
	"encoding/json"
	"fmt"

	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Get returns what a mapping has for a key, or nil. Of several keys it follows the
// path.
func Get(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		n = get(n, key)
	}
	return n
}

func get(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// Set gives a mapping a field, at its end if it has none of that name.
func Set(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, String(key), value)
}

// Delete takes a field from a mapping.
func Delete(n *yaml.Node, key string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content = append(n.Content[:i:i], n.Content[i+2:]...)
			return
		}
	}
}

// Text is a scalar's value, and "" of everything else.
func Text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || isNull(n) {
		return ""
	}
	return n.Value
}

// IsNull reports whether there is no value.
func IsNull(n *yaml.Node) bool { return n == nil || isNull(n) }

// Items are those of a list.
func Items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	return n.Content
}

// String returns a scalar for a text.
func String(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if _, isBool := boolean(s); isBool { // the encoder would leave some of them without quotes
		n.Style = yaml.DoubleQuotedStyle
	} else if strings.Contains(s, "\n") {
		n.Style = yaml.LiteralStyle
	}
	return n
}

// List returns a list.
func List(items ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Content: items}
}

// Map returns a mapping of keys and values by turns.
func Map(content ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: content}
}

// Copy returns a copy of a node that [Resolve] has returned.
func Copy(n *yaml.Node) *yaml.Node {
	if n == nil {
		return nil
	}
	c := *n
	c.Content = nil
	for _, item := range n.Content {
		c.Content = append(c.Content, Copy(item))
	}
	return &c
}

// Equal reports whether two resolved nodes mean the same: neither the order of
// fields counts, nor how a scalar is written. No node and null are the same.
func Equal(a, b *yaml.Node) bool {
	switch {
	case a == b:
		return true
	case IsNull(a) || IsNull(b):
		return IsNull(a) && IsNull(b)
	case a.Kind != b.Kind || len(a.Content) != len(b.Content):
		return false
	case a.Kind == yaml.ScalarNode:
		return a.Value == b.Value && a.ShortTag() == b.ShortTag()
	case a.Kind == yaml.MappingNode:
		of := make(map[string]*yaml.Node, len(b.Content)/2)
		for i := 0; i+1 < len(b.Content); i += 2 {
			of[b.Content[i].Value] = b.Content[i+1]
		}
		for i := 0; i+1 < len(a.Content); i += 2 {
			if v, there := of[a.Content[i].Value]; !there || !Equal(a.Content[i+1], v) {
				return false
			}
		}
		return true
	}
	for i := range a.Content {
		if !Equal(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}

// JSON writes a resolved node, with its fields in their order.
func JSON(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	if err := writeJSON(&b, n); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeJSON(b *bytes.Buffer, n *yaml.Node) error {
	text := func(s string) error {
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		err := e.Encode(s)
		b.Truncate(b.Len() - 1) // the end of the line
		return err
	}
	switch {
	case IsNull(n):
		b.WriteString("null")
	case n.Kind == yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := writeJSON(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case n.Kind == yaml.MappingNode:
		b.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := text(n.Content[i].Value); err != nil {
				return err
			}
			b.WriteByte(':')
			if err := writeJSON(b, n.Content[i+1]); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	case n.ShortTag() == "!!str" || n.ShortTag() == "!!binary":
		return text(n.Value)
	default:
		var v any
		if err := n.Decode(&v); err != nil {
			return &strict.Error{Line: n.Line, Err: err}
		}
		out, err := json.Marshal(v)
		if err != nil {
			return &strict.Error{Line: n.Line, Err: fmt.Errorf("%s has no form in JSON: %w", strict.Clip(n.Value), err)}
		}
		b.Write(out)
	}
	return nil
}

// FromJSON parses a document of JSON that may be nested so deep. Its nodes are
// resolved, have no columns, and are written as YAML is.
func FromJSON(data []byte, depth int) (*yaml.Node, error) {
	line := 0 // of one line: it is a part of something longer
	if bytes.Contains(data, []byte{'\n'}) {
		line = 1
	}
	return fromJSON(data, line, depth)
}

func fromJSON(data []byte, line, depth int) (*yaml.Node, error) {
	n, err := strict.ParseJSONWithin(data, line, depth)
	if err != nil {
		return nil, err
	}
	return fromStrict(n), nil
}

func fromStrict(n strict.Node) *yaml.Node {
	var y *yaml.Node
	switch n.Kind {
	case strict.Mapping:
		y = Map()
		for _, f := range n.Fields {
			y.Content = append(y.Content, String(f.Name), fromStrict(f.Value))
			y.Content[len(y.Content)-2].Line = f.Line
		}
	case strict.List:
		y = List()
		for _, item := range n.Items {
			y.Content = append(y.Content, fromStrict(item))
		}
	case strict.Scalar:
		if y = String(n.Text); n.Bare { // a number, true or false
			y = &yaml.Node{Kind: yaml.ScalarNode, Value: n.Text}
			y.Tag = y.ShortTag()
		}
	case strict.Null:
		y = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
	y.Line = n.Line
	return y
}
