package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDepth is more than a configuration needs.
const maxDepth = 16

// ParseJSON reads one JSON document. Like the reader of YAML it refuses a key
// that is there twice, and what follows the document.
func ParseJSON(data []byte) (Node, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n, err := parseNode(d, maxDepth)
	if err != nil {
		return Node{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Node{}, fmt.Errorf("more after the end of the JSON, at byte %d", d.InputOffset())
	}
	return n, nil
}

func parseNode(d *json.Decoder, depth int) (Node, error) {
	token, err := d.Token()
	if err != nil {
		return Node{}, malformed(d, err)
	}
	switch t := token.(type) {
	case nil:
		return Node{}, nil
	case bool:
		return Node{kind: scalar, text: fmt.Sprint(t)}, nil
	case json.Number:
		return Node{kind: scalar, text: t.String()}, nil
	case string:
		return Node{kind: scalar, text: t}, nil
	}
	if depth == 0 {
		return Node{}, fmt.Errorf("nested too deep at byte %d", d.InputOffset())
	}
	n := Node{kind: list}
	if token == json.Delim('{') {
		n = Node{kind: mapping, fields: map[string]Node{}}
	}
	for d.More() {
		key := ""
		if n.kind == mapping {
			token, err := d.Token()
			if err != nil {
				return Node{}, malformed(d, err)
			}
			key, _ = token.(string)
			if _, twice := n.fields[key]; twice {
				return Node{}, fmt.Errorf("%q is there twice, again at byte %d", key, d.InputOffset())
			}
		}
		item, err := parseNode(d, depth-1)
		if err != nil {
			return Node{}, err
		}
		if n.kind == mapping {
			n.fields[key] = item
		} else {
			n.items = append(n.items, item)
		}
	}
	if _, err := d.Token(); err != nil { // the closing bracket
		return Node{}, malformed(d, err)
	}
	return n, nil
}

func malformed(d *json.Decoder, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("malformed JSON: it ends too early")
	}
	return fmt.Errorf("malformed JSON at byte %d: %w", d.InputOffset(), err)
}
