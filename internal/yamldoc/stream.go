package yamldoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Stream parses documents of YAML that follow each other, or of JSON, of which each
// begins on a line of its own. They may be nested so deep. Their lines count from the
// beginning of the stream. An empty document is left out.
func Stream(data []byte, depth int) ([]*yaml.Node, error) {
	if json.Valid(data) { // YAML would refuse some of its escapes
		root, err := FromJSON(data, depth)
		return []*yaml.Node{root}, err
	}
	if all, err := streamJSON(data, depth); len(all) > 0 || err != nil {
		return all, err
	}
	var all []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		root, err := decode(d)
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, located(err, data)
		case !isNull(root):
			all = append(all, root)
		}
	}
}

// streamJSON parses objects of JSON that follow each other. There are none where the
// text is not that.
func streamJSON(data []byte, depth int) ([]*yaml.Node, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		return nil, nil
	}
	var all []*yaml.Node
	line, end := 1, 0
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var object json.RawMessage
		if err := d.Decode(&object); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, nil //nolint:nilerr // it may be YAML in flow style
		}
		from := int(d.InputOffset()) - len(object)
		apart := bytes.Count(data[end:from], []byte{'\n'})
		if end > 0 && apart == 0 {
			return nil, &strict.Error{Line: line, Err: errors.New("two objects of JSON on one line; let each begin on its own")}
		}
		root, err := fromJSON(object, line+apart, depth)
		if err != nil {
			return nil, err
		}
		all = append(all, root)
		end = from + len(object)
		line += apart + bytes.Count(object, []byte{'\n'})
	}
}

// Resolve returns a copy of a node in which each value stands by itself: an alias
// is replaced by what it stands for, and a merge key (<<) by the fields that it
// takes in. Scalars are what Kubernetes takes them for: it reads YAML 1.1, where yes
// and on are booleans, too, and takes times for texts. Lines and comments stay as they
// are. A key that is there twice, what is nested deeper than depth and aliases without
// bound are errors, of type [*strict.Error].
func Resolve(n *yaml.Node, depth int) (*yaml.Node, error) {
	r := resolver{}
	return r.node("", n, depth)
}

type resolver struct{ copied, inAlias int }

func (r *resolver) node(path string, n *yaml.Node, depth int) (*yaml.Node, error) {
	if r.inAlias > 0 {
		if r.copied++; r.copied > maxCopied {
			return nil, &strict.Error{Path: path, Line: n.Line, Err: fmt.Errorf("aliases stand for over %d values", maxCopied)}
		}
	}
	if depth == 0 {
		return nil, &strict.Error{Path: path, Line: n.Line, Err: errors.New("nested too deep")}
	}
	if n.Kind == yaml.AliasNode {
		r.inAlias++
		defer func() { r.inAlias-- }()
		return r.node(path, n.Alias, depth-1)
	}
	c := *n
	c.Anchor, c.Content = "", nil
	switch n.Kind {
	case yaml.SequenceNode:
		for i, item := range n.Content {
			v, err := r.node(path+"["+strconv.Itoa(i)+"]", item, depth-1)
			if err != nil {
				return nil, err
			}
			c.Content = append(c.Content, v)
		}
	case yaml.MappingNode:
		return &c, r.mapping(path, n, &c, depth)
	case yaml.ScalarNode:
		settle(&c)
	case yaml.AliasNode, yaml.DocumentNode:
	}
	return &c, nil
}

// quoted are the styles of scalars that are texts, whatever they look like.
const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

// settle makes a scalar what Kubernetes takes it for (sigs.k8s.io/yaml, by go.yaml.in/yaml/v2).
func settle(n *yaml.Node) {
	word, isBool := boolean(n.Value)
	switch tag := n.ShortTag(); {
	case tag == "!!timestamp":
		n.Tag, n.Style = "!!str", n.Style&^yaml.TaggedStyle
	case isBool && (tag == "!!bool" || tag == "!!str" && n.Style&(quoted|yaml.TaggedStyle) == 0):
		n.Tag, n.Value, n.Style = "!!bool", word, n.Style&^(quoted|yaml.TaggedStyle)
	}
}

// boolean returns true or false for a word that stands for it in YAML 1.1.
func boolean(s string) (word string, ok bool) {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE":
		return "true", true
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE":
		return "false", true
	}
	return "", false
}

// mapping copies the fields of n to c.
func (r *resolver) mapping(path string, n, c *yaml.Node, depth int) error {
	lines := map[string]int{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		fail := func(format string, args ...any) error {
			return &strict.Error{Path: strict.Join(path, strict.Clip(key.Value)), Line: key.Line, Err: fmt.Errorf(format,
				args...)}
		}
		if key.Kind != yaml.ScalarNode {
			return fail("a field's name is one word, and no braces or brackets; render a template first")
		}
		v, err := r.node(strict.Join(path, key.Value), value, depth-1)
		first, twice := lines[key.Value]
		switch {
		case err != nil:
			return err
		case key.ShortTag() == "!!merge" && v.Kind == yaml.SequenceNode:
			merged = append(merged, v.Content...)
		case key.ShortTag() == "!!merge":
			merged = append(merged, v)
		case twice:
			return fail("%q is there twice, first on line %d", strict.Clip(key.Value), first)
		default:
			lines[key.Value] = key.Line
			k := *key
			c.Content = append(c.Content, &k, v)
		}
	}
	for _, m := range merged {
		if m.Kind != yaml.MappingNode {
			return &strict.Error{Path: path, Line: n.Line,
				Err: errors.New("<< takes in the fields of a mapping, or of a list of them")}
		}
		for i := 0; i+1 < len(m.Content); i += 2 {
			if _, there := lines[m.Content[i].Value]; !there {
				lines[m.Content[i].Value] = m.Content[i].Line
				c.Content = append(c.Content, m.Content[i], m.Content[i+1])
			}
		}
	}
	return nil
}

// Strict returns a node of package strict for one of YAML, which is at a path.
func Strict(path string, n *yaml.Node) (strict.Node, error) {
	var c converter
	s, err := c.node(path, n, strict.MaxDepth)
	if err != nil {
		return s, err
	}
	return s, c.errs.Err()
}
