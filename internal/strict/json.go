package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxDepth is how deep a document may be nested: more than a configuration needs.
const MaxDepth = 16

// ParseJSON reads one JSON document. A field that is there twice is an error,
// and so is what follows the document. What is written on one line has no line
// numbers: it is most likely a part of something longer.
func ParseJSON(data []byte) (Node, error) { return ParseJSONFrom(data, firstLine(data)) }

func firstLine(data []byte) int {
	if !bytes.Contains(data, []byte{'\n'}) {
		return 0
	}
	return 1
}

// ParseJSONFrom is [ParseJSON] of a document that begins on a line of another; 0
// for no line numbers.
func ParseJSONFrom(data []byte, line int) (Node, error) { return ParseJSONWithin(data, line, MaxDepth) }

// ParseJSONWithin is [ParseJSONFrom] of a document that may be nested so deep.
func ParseJSONWithin(data []byte, line, depth int) (Node, error) {
	p := newParser(data, line)
	n, err := p.node("", depth)
	if err != nil {
		return Node{}, err
	}
	if _, err := p.d.Token(); !errors.Is(err, io.EOF) {
		return Node{}, p.fail(errors.New("more after the end of the JSON"))
	}
	return n, p.errs.Err()
}

// Member is one field of a JSON object whose value has not been looked at.
type Member struct {
	Name string
	Line int
	Raw  json.RawMessage
}

// Members takes a JSON object apart, for a caller that reads some of its fields and hands
// others on as they are.
func Members(data []byte) ([]Member, error) {
	p := newParser(data, firstLine(data))
	if t, err := p.d.Token(); err != nil || t != json.Delim('{') {
		return nil, &Error{Err: errors.New("not a JSON object")}
	}
	var all []Member
	for p.d.More() {
		key, err := p.d.Token()
		if err != nil {
			return nil, p.malformed(err)
		}
		name, _ := key.(string)
		m := Member{Name: name, Line: p.line()}
		if err := p.d.Decode(&m.Raw); err != nil {
			return nil, p.malformed(err)
		}
		all = append(all, m)
	}
	if _, err := p.d.Token(); err != nil {
		return nil, p.malformed(err)
	}
	if _, err := p.d.Token(); !errors.Is(err, io.EOF) {
		return nil, p.fail(errors.New("more after the end of the JSON"))
	}
	return all, nil
}

// Node parses the value.
func (m Member) Node() (Node, error) { return ParseJSONFrom(m.Raw, m.Line) }

type parser struct {
	data []byte
	d    *json.Decoder
	errs Errors // fields that are there twice
	// seen is how many bytes the line at has been counted up to. Lines are not
	// counted if that is 0.
	seen, at int
}

func newParser(data []byte, line int) *parser {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return &parser{data: data, d: d, at: line}
}

// line is where the token ends that was read last.
func (p *parser) line() int {
	if p.at == 0 {
		return 0
	}
	end := min(int(p.d.InputOffset()), len(p.data))
	p.at += bytes.Count(p.data[p.seen:end], []byte{'\n'})
	p.seen = end
	return p.at
}

func (p *parser) node(path string, depth int) (Node, error) {
	token, err := p.d.Token()
	if err != nil {
		return Node{}, p.malformed(err)
	}
	line := p.line()
	switch t := token.(type) {
	case nil:
		return Node{Line: line}, nil
	case bool:
		return Node{Kind: Scalar, Text: fmt.Sprint(t), Bare: true, Line: line}, nil
	case json.Number:
		return Node{Kind: Scalar, Text: t.String(), Bare: true, Line: line}, nil
	case string:
		return Node{Kind: Scalar, Text: t, Line: line}, nil
	}
	if depth == 0 {
		return Node{}, p.fail(errors.New("nested too deep"))
	}
	n := Node{Kind: List, Line: line}
	if token == json.Delim('{') {
		n, err = p.mapping(path, line, depth)
	} else {
		for p.d.More() {
			var item Node
			if item, err = p.node(path, depth-1); err != nil {
				break
			}
			n.Items = append(n.Items, item)
		}
	}
	if err != nil {
		return Node{}, err
	}
	if _, err := p.d.Token(); err != nil { // the closing bracket
		return Node{}, p.malformed(err)
	}
	return n, nil
}

func (p *parser) mapping(path string, line, depth int) (Node, error) {
	b := Builder{Path: path}
	for p.d.More() {
		key, err := p.d.Token()
		if err != nil {
			return Node{}, p.malformed(err)
		}
		f := Field{Line: p.line()}
		f.Name, _ = key.(string)
		if f.Value, err = p.node(Join(path, f.Name), depth-1); err != nil {
			return Node{}, err
		}
		p.errs.Add(b.Add(f))
	}
	return b.Mapping(line), nil
}

func (p *parser) fail(err error) error { return &Error{Line: p.line(), Err: err} }

func (p *parser) malformed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return p.fail(errors.New("malformed JSON: it ends too early"))
	}
	return p.fail(fmt.Errorf("malformed JSON at byte %d: %w", p.d.InputOffset(), err))
}
