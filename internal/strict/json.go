package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// MaxDepth is how deep a document may be nested: more than a configuration needs.
const MaxDepth = 16

// maxValues is how many values a document can have.
const maxValues = 2 * MaxItems

func tooMany() error { return fmt.Errorf("there are over %d values", maxValues) }

// Bounded refuses a document that may have more values than there can be, before anything is made of them. before are
// texts of which one stands before each value, and another may stand behind it.
func Bounded(data []byte, before ...string) error {
	count := 0
	for _, b := range before {
		count += bytes.Count(data, []byte(b))
	}
	if count > 2*maxValues {
		return &Error{Err: tooMany()}
	}
	return nil
}

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
	return withFlats(data, line).whole(depth)
}

// ParseLongJSON is [ParseJSON] for who reads [Node.Long].
func ParseLongJSON(data []byte) (Node, error) {
	p := withFlats(data, firstLine(data))
	p.long = true
	return p.whole(MaxDepth)
}

func withFlats(data []byte, line int) *parser {
	p := newParser(data, line)
	p.flats = flats(data, false)
	p.d = decoderOf(&withoutFlats{data: data, flats: p.flats})
	return p
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
	// flats are the flat arrays that have not come yet.
	flats []flat
	long  bool // they become Node.Long
	count int  // of values
}

func newParser(data []byte, line int) *parser {
	return &parser{data: data, at: line, d: decoderOf(bytes.NewReader(data))}
}

func decoderOf(r io.Reader) *json.Decoder {
	d := json.NewDecoder(r)
	d.UseNumber()
	return d
}

// whole reads the one value that there is.
func (p *parser) whole(depth int) (Node, error) {
	n, err := p.node("", depth)
	if err != nil {
		return Node{}, err
	}
	if _, err := p.d.Token(); !errors.Is(err, io.EOF) {
		return Node{}, p.fail(errors.New("more after the end of the JSON"))
	}
	return n, p.errs.Err()
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
	if p.count++; p.count > maxValues {
		return Node{}, p.fail(tooMany())
	}
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
	} else if at := int(p.d.InputOffset()) - 1; len(p.flats) > 0 && p.flats[0].begin == at {
		if p.count += p.flats[0].count; p.count > maxValues {
			return Node{}, p.fail(tooMany())
		}
		if n.Long = p.flats[0].items(p.data, line); !p.long {
			n.Items, n.Long = slices.AppendSeq(make([]Node, 0, p.flats[0].count), n.Long), nil
		}
		p.flats = p.flats[1:]
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
