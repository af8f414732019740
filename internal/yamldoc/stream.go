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

// Stream parses documents of YAML that follow each other, or one of JSON, which may
// be nested so deep. Their lines count from the beginning of the stream. An empty
// document is left out.
func Stream(data []byte, depth int) ([]*yaml.Node, error) {
	if json.Valid(data) { // YAML would refuse some of its escapes
		root, err := FromJSON(data, depth)
		return []*yaml.Node{root}, err
	}
	var all []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		root, err := decode(d)
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case !isNull(root):
			all = append(all, root)
		}
	}
}

// Resolve returns a copy of a node in which each value stands by itself: an alias
// is replaced by what it stands for, and a merge key (<<) by the fields that it
// takes in. Scalars, lines and comments stay as they are. A key that is there
// twice, what is nested deeper than depth and aliases without bound are errors, of
// type [*strict.Error].
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
	case yaml.ScalarNode, yaml.AliasNode, yaml.DocumentNode:
	}
	return &c, nil
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
			return fail("a field's name is one word")
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
