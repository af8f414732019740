package yamldoc

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// ErrExpand is of a document whose aliases stand for more than there is room for, or for themselves.
var ErrExpand = errors.New("its aliases stand for too much")

// maxAliasDepth is how deep a document may be nested once its aliases are written out.
const maxAliasDepth = 100

// Expand returns a copy of a document, or of a part of it, in which aliases and
// merge keys (<<) are written out and nothing is shared: what is changed in one place
// is then changed there alone. Comments and styles stay. The errors are [ErrExpand],
// and those of merge keys that stand for no mapping.
func Expand(n *yaml.Node) (*yaml.Node, error) {
	e := expander{}
	return e.node(n, maxAliasDepth)
}

type expander struct{ copied, inAlias int }

func (e *expander) node(n *yaml.Node, depth int) (*yaml.Node, error) {
	if e.inAlias > 0 {
		e.copied++
	}
	if depth == 0 || e.copied > maxCopied {
		return nil, fmt.Errorf("line %d: %w", n.Line, ErrExpand)
	}
	if n.Kind == yaml.AliasNode {
		e.inAlias++
		value, err := e.node(n.Alias, depth-1)
		e.inAlias--
		if err != nil {
			return nil, err
		}
		// Comments are about the place, not about what it stands for.
		value.HeadComment, value.LineComment, value.FootComment = n.HeadComment, n.LineComment, n.FootComment
		return value, nil
	}
	c := *n
	c.Anchor, c.Content = "", nil
	var merged []*yaml.Node
	for i, below := range n.Content {
		value, err := e.node(below, depth-1)
		if err != nil {
			return nil, err
		}
		switch {
		case n.Kind != yaml.MappingNode:
		case i%2 == 0 && below.ShortTag() == "!!merge":
			continue
		case i%2 == 1 && n.Content[i-1].ShortTag() == "!!merge":
			sources, err := mergeSources(value)
			if err != nil {
				return nil, err
			}
			merged = append(merged, sources...)
			continue
		}
		c.Content = append(c.Content, value)
	}
	merge(&c, merged)
	return &c, nil
}

func mergeSources(n *yaml.Node) ([]*yaml.Node, error) {
	all := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		all = n.Content
	}
	for _, m := range all {
		if m.Kind != yaml.MappingNode {
			return nil, fmt.Errorf("line %d: << takes in the fields of a mapping, or of a list of them", n.Line)
		}
	}
	return all, nil
}

// merge adds the fields that a mapping does not have itself: the first that has
// one goes before the others.
func merge(n *yaml.Node, sources []*yaml.Node) {
	if len(sources) == 0 {
		return
	}
	has := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		has[n.Content[i].Value] = true
	}
	for _, m := range sources {
		for i := 0; i+1 < len(m.Content); i += 2 {
			if name := m.Content[i].Value; !has[name] {
				has[name] = true
				n.Content = append(n.Content, m.Content[i], m.Content[i+1])
			}
		}
	}
}
