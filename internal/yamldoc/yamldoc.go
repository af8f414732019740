// Package yamldoc reads and writes documents of YAML and JSON as nodes of
// package strict.
package yamldoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// ErrEmpty is the error about a document that says nothing.
var ErrEmpty = errors.New("empty file; write the fields that differ from the defaults, or leave the file out")

// Parse reads one document, JSON or YAML.
//
// It reads scalars as they are written. Decoders that go through JSON take
// YAML 1.1's off for false, 0010 for 8, OUTBOUND for outbound, and nothing at
// all for the second of two documents.
func Parse(data []byte) (strict.Node, error) {
	var n strict.Node
	var err error
	if json.Valid(data) { // YAML would refuse some of its escapes
		n, err = strict.ParseJSON(data)
	} else {
		n, err = parseYAML(data)
	}
	if errors.Is(err, io.EOF) || err == nil && n.Kind == strict.Null {
		err = ErrEmpty
	}
	return n, err
}

// Document is [Parse], and of a document that says nothing a Null.
func Document(data []byte) (strict.Node, error) {
	n, err := Parse(data)
	if errors.Is(err, ErrEmpty) {
		return strict.Node{Kind: strict.Null}, nil
	}
	return n, err
}

// parseYAML reads one YAML document. With none there is io.EOF.
func parseYAML(data []byte) (strict.Node, error) {
	if err := bounded(data); err != nil {
		return strict.Node{}, err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	root, err := decode(d)
	if err != nil {
		return strict.Node{}, located(err, data)
	}
	if second, err := decode(d); !errors.Is(err, io.EOF) {
		e := &strict.Error{Err: errors.New("more after the end of the first YAML document; a configuration is one document")}
		if second != nil {
			e.Line = second.Line
		}
		return strict.Node{}, e
	}
	var c converter
	n, err := c.node("", root, strict.MaxDepth)
	if err != nil {
		return strict.Node{}, err
	}
	return n, c.errs.Err()
}

// bounded refuses a document of which the library would make too much.
func bounded(data []byte) error { return strict.Bounded(data, "\n", ",", "- ", ": ", "[", "{") }

// decode parses the next document. The parser panics on some malformed input
// that it does not foresee; that is an error like others.
func decode(d *yaml.Decoder) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf(panicked+"%v", r)
		}
	}()
	var n yaml.Node
	if err := d.Decode(&n); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, err
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		return n.Content[0], nil
	}
	return &n, nil
}

// located adds the line to an error of the parser, which does not say the first, nor where it could not read the text,
// and counts from 0 where it, and not its scanner, finds the mistake.
func located(err error, data []byte) error {
	text := err.Error()
	place, what, _ := strings.Cut(text, ": ")
	if line, bad := strconv.Atoi(strings.TrimPrefix(place, "line ")); bad == nil && slices.ContainsFunc(
		[]string{"node content", "',' or", "'-' indicator", "key", "<"},
		func(s string) bool { return strings.HasPrefix(what, "did not find expected "+s) }) {
		lines := bytes.Count(data, []byte("\n"))
		if !bytes.HasSuffix(data, []byte("\n")) {
			lines++
		}
		err = fmt.Errorf("line %d: %s", min(line+1, lines), what)
	}
	if strings.Contains(text, "cannot start any token") && bytes.Contains(data, []byte("\n\t")) {
		err = fmt.Errorf("%w; indent with spaces: YAML takes no tab there", err)
	}
	if bytes.Contains(data, []byte("{{")) && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w; render a template first, as helm template does", err)
	}
	unread := func(what string) bool { return strings.Contains(text, what) }
	switch {
	case errors.Is(err, io.EOF) || strings.HasPrefix(text, "line ") || strings.HasPrefix(text, panicked):
		return err
	case slices.ContainsFunc([]string{"UTF-16", "surrogate", "input error"}, unread):
		return err // the text is not UTF-8, which most are
	case slices.ContainsFunc([]string{"octet", "Unicode character", "control characters"}, unread):
		at := 0
		for at < len(data) {
			r, size := utf8.DecodeRune(data[at:])
			if r == utf8.RuneError && size == 1 || r > '\ufffd' && r <= '\uffff' ||
				unicode.IsControl(r) && !strings.ContainsRune("\t\n\r\u0085", r) {
				break
			}
			at += size
		}
		return &strict.Error{Line: 1 + bytes.Count(data[:at], []byte("\n")), Err: err}
	}
	return &strict.Error{Line: 1, Err: err}
}

const panicked = "malformed YAML: "

func isNull(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// converter makes a strict.Node of a yaml.Node.
type converter struct {
	errs strict.Errors // fields that are there twice
	// copied is how many nodes aliases have stood for.
	copied, inAlias int
	// cuts are what has been left out of lists, and mended is how many of them are back.
	cuts   []cut
	mended int
}

// maxCopied is more than a file needs that repeats its lists by aliases. Ten
// aliases of ten aliases, and so on, stand for more than memory has room for.
const maxCopied = 100_000

func (c *converter) node(path string, y *yaml.Node, depth int) (strict.Node, error) {
	fail := func(format string, args ...any) (strict.Node, error) {
		return strict.Node{}, &strict.Error{Path: path, Line: y.Line, Err: fmt.Errorf(format, args...)}
	}
	if c.inAlias > 0 {
		if c.copied++; c.copied > maxCopied {
			return fail("aliases stand for over %d values", maxCopied)
		}
	}
	if y.Style&yaml.TaggedStyle != 0 && !slices.Contains(
		[]string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!seq", "!!map"}, y.ShortTag()) {
		return fail("the tag %s is not read here; leave it out", strict.Clip(y.Tag))
	}
	n := strict.Node{Line: y.Line}
	switch y.Kind {
	case yaml.AliasNode:
		if len(c.cuts) > 0 {
			return n, errNotShort // a list that is there twice would be mended once
		}
		if depth == 0 { // it may be inside what it stands for
			return fail("nested too deep")
		}
		c.inAlias++
		defer func() { c.inAlias-- }()
		return c.node(path, y.Alias, depth-1)
	case yaml.ScalarNode:
		if isNull(y) {
			return n, nil
		}
		n.Kind, n.Text = strict.Scalar, y.Value
		n.Bare = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
		return n, nil
	case yaml.SequenceNode:
		if depth == 0 {
			return fail("nested too deep")
		}
		n.Kind, n.Items = strict.List, make([]strict.Node, len(y.Content))
		for i, item := range y.Content {
			var err error
			if n.Items[i], err = c.node(path, item, depth-1); err != nil {
				return n, err
			}
		}
		return c.mend(y, n), nil
	case yaml.MappingNode:
		if depth == 0 {
			return fail("nested too deep")
		}
		return c.mapping(path, y, depth)
	default: // a document is not inside another
		return fail("not a value")
	}
}

// mapping reads fields. Those of a merge key (<<: *base) are there if the
// mapping has none of that name itself.
func (c *converter) mapping(path string, y *yaml.Node, depth int) (strict.Node, error) {
	b := strict.Builder{Path: path}
	var merged []strict.Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.Kind != yaml.ScalarNode || isNull(key) {
			return strict.Node{}, &strict.Error{Path: path, Line: key.Line, Err: errors.New("a field's name is one word")}
		}
		v, err := c.node(strict.Join(path, key.Value), value, depth-1)
		switch {
		case err != nil:
			return strict.Node{}, err
		case key.ShortTag() == "!!merge" && v.Kind == strict.List:
			merged = append(merged, v.Items...)
		case key.ShortTag() == "!!merge":
			merged = append(merged, v)
		default:
			c.errs.Add(b.Add(strict.Field{Name: key.Value, Line: key.Line, Value: v}))
		}
	}
	for _, m := range merged {
		if m.Kind != strict.Mapping {
			return strict.Node{}, &strict.Error{Path: path, Line: y.Line,
				Err: errors.New("<< takes in the fields of a mapping, or of a list of them")}
		}
		for _, f := range m.Fields {
			if !b.Has(f.Name) {
				c.errs.Add(b.Add(f))
			}
		}
	}
	return b.Mapping(y.Line), nil
}

// Format writes a node as YAML.
func Format(n strict.Node) ([]byte, error) {
	if n.Kind == strict.Mapping && len(n.Fields) == 0 {
		return []byte("{}\n"), nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(toYAML(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

func toYAML(n strict.Node) *yaml.Node {
	switch n.Kind {
	case strict.Mapping:
		y := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range n.Fields {
			y.Content = append(y.Content, toYAML(strict.Node{Kind: strict.Scalar, Text: f.Name}), toYAML(f.Value))
		}
		return y
	case strict.List:
		y := &yaml.Node{Kind: yaml.SequenceNode}
		if len(n.Items) == 0 {
			y.Style = yaml.FlowStyle
		}
		for _, item := range n.Items {
			y.Content = append(y.Content, toYAML(item))
		}
		return y
	case strict.Scalar:
		if n.Bare {
			return &yaml.Node{Kind: yaml.ScalarNode, Value: n.Text}
		}
		y := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: n.Text} // in quotes where YAML 1.2 needs them
		if !isWord(n.Text) {
			y.Style = yaml.DoubleQuotedStyle
		}
		return y
	case strict.Null:
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
}

// isWord reports whether a text begins like a word that YAML 1.1 takes for no
// number, date or the like, and is none of its words for true, false and null.
func isWord(s string) bool {
	switch strings.ToLower(s) {
	case "", "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return false
	}
	return (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z'
}
