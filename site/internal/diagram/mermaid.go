// Package diagram draws the flowcharts of the documents, which GitHub draws from the same text by a script.
package diagram

import (
	"fmt"
	"regexp"
	"strings"
)

// chart is a flowchart.
type chart struct {
	direction string // TB or LR
	title     string
	nodes     []*node
	groups    []*group
	edges     []edge
}

type node struct {
	id, label, shape string
	group            *group // nil: of none
}

type group struct {
	id, label string
}

type edge struct {
	from, to, label, style string
}

// shapes are the ways to write a node, the longest first, with Graphviz's names.
var shapes = []struct{ begin, end, name string }{
	{`(["`, `"])`, "oval"},
	{`[("`, `")]`, "cylinder"},
	{`[/"`, `"/]`, "parallelogram"},
	{`{{"`, `"}}`, "hexagon"},
	{`["`, `"]`, "box"},
	{`("`, `")`, "round"},
}

var (
	name = regexp.MustCompile(`^[A-Za-z_]\w*`)
	// An arrow is plain, thick or dotted, with what is written on it in bars behind it or in quotation marks within.
	arrow    = regexp.MustCompile(`^\s*(?:(-->|==>|-\.->)(?:\|"([^"]*)"\|)?|(--|==|-\.)\s*"([^"]*)"\s*(?:-->|==>|\.->))\s*`)
	subgraph = regexp.MustCompile(`^subgraph (\w+)\["([^"]*)"\]$`)
	first    = regexp.MustCompile(`^flowchart (TB|LR)$`)
)

// parse reads what the documents use of Mermaid's language, and refuses the rest.
func parse(text string) (*chart, error) {
	c := &chart{}
	var within *group
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		line = strings.TrimSpace(line)
		title, isTitle := strings.CutPrefix(line, "accTitle: ")
		opened, kind := subgraph.FindStringSubmatch(line), first.FindStringSubmatch(line)
		switch {
		case i == 0 && kind != nil:
			c.direction = kind[1]
		case i == 0:
			return nil, fmt.Errorf("line 1: %q is no flowchart, of TB or LR", line)
		case line == "" || strings.HasPrefix(line, "%%") || strings.HasPrefix(line, "direction "):
		case isTitle:
			c.title = title
		case opened != nil && within == nil:
			within = &group{opened[1], opened[2]}
			c.groups = append(c.groups, within)
		case line == "end" && within != nil:
			within = nil
		default:
			if err := c.statement(line, within); err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
		}
	}
	return c, nil
}

// statement reads nodes with arrows between them.
func (c *chart) statement(line string, within *group) error {
	from, rest, err := c.node(line, within)
	if err != nil {
		return err
	}
	for rest != "" {
		m := arrow.FindStringSubmatch(rest)
		if m == nil {
			return fmt.Errorf("%q is no arrow", rest)
		}
		to, after, err := c.node(rest[len(m[0]):], within)
		if err != nil {
			return err
		}
		style := map[string]string{"=": "bold", ".": "dashed"}[(m[1] + m[3])[1:2]]
		c.edges = append(c.edges, edge{from, to, m[2] + m[4], style})
		from, rest = to, after
	}
	return nil
}

// node reads one, and what comes after it. Where it is first written it belongs.
func (c *chart) node(text string, within *group) (id, rest string, err error) {
	id = name.FindString(text)
	if id == "" {
		return "", "", fmt.Errorf("%q does not begin with a name", text)
	}
	rest = text[len(id):]
	n := c.find(id)
	isGroup := false
	for _, g := range c.groups {
		isGroup = isGroup || g.id == id
	}
	if n == nil && !isGroup {
		n = &node{id: id, label: id, shape: "box", group: within}
		c.nodes = append(c.nodes, n)
	}
	for _, s := range shapes {
		inside, is := strings.CutPrefix(rest, s.begin)
		if !is || n == nil {
			continue
		}
		label, after, closed := strings.Cut(inside, s.end)
		if !closed {
			return "", "", fmt.Errorf("%q has no %q", rest, s.end)
		}
		n.label, n.shape = label, s.name
		return id, after, nil
	}
	return id, rest, nil
}

func (c *chart) find(id string) *node {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}
