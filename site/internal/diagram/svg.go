package diagram

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"regexp"
	"strings"

	"github.com/goccy/go-graphviz"
)

// Painter draws. It holds Graphviz, which takes a second to start.
type Painter struct {
	graphviz *graphviz.Graphviz
}

// Close gives back what the painter holds.
func (p *Painter) Close() error {
	if p.graphviz == nil {
		return nil
	}
	return p.graphviz.Close()
}

// SVG is a flowchart of Mermaid as an element to stand in a page, whose styles give it its colours. Its ID makes those
// within it the only ones of the page.
func (p *Painter) SVG(text, id string) (string, error) {
	c, err := parse(text)
	if err != nil {
		return "", err
	}
	if p.graphviz == nil {
		if p.graphviz, err = graphviz.New(context.Background()); err != nil {
			return "", err
		}
	}
	drawn, err := p.draw(c)
	if err != nil {
		return "", err
	}
	if drawn.width > page && c.direction == "LR" {
		c.direction = "TB"
		if drawn, err = p.draw(c); err != nil {
			return "", err
		}
	}
	return drawn.element(id, c), nil
}

// page is how wide a page is at most, in pixels. What is wider runs from top to bottom, whatever it says.
const page = 780

// picture is what Graphviz draws, without what the page's styles say.
type picture struct {
	width, height int
	box, body     string
}

func (p *Painter) draw(c *chart) (picture, error) {
	graph, err := graphviz.ParseBytes([]byte(c.dot()))
	if err != nil {
		return picture{}, err
	}
	var out bytes.Buffer
	err = p.graphviz.Render(context.Background(), graph, graphviz.SVG, &out)
	if err := errors.Join(err, graph.Close()); err != nil {
		return picture{}, err
	}
	return clean(out.String())
}

// dot is the chart in Graphviz's language.
func (c *chart) dot() string {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph {\nrankdir=%s; compound=true; nodesep=.3; ranksep=.45; pad=.05\n", c.direction)
	// The letters of Helvetica are narrower than those of some systems' fonts: the boxes have room for these.
	b.WriteString("node [fontname=Helvetica fontsize=14 margin=\"0.2,0.09\" height=0.4]\n")
	b.WriteString("edge [fontname=Helvetica fontsize=13 arrowsize=.7]\ngraph [fontname=\"Helvetica-Bold\" fontsize=14]\n")
	inside := map[string]string{} // a node of each group
	write := func(g *group) {
		for _, n := range c.nodes {
			if n.group != g {
				continue
			}
			shape, style := n.shape, ""
			switch shape {
			case "oval":
				shape, style = "box", "rounded"
			case "round":
				shape, style = "box", "rounded"
			}
			fmt.Fprintf(&b, "%s [label=%s shape=%s style=%q class=%q]\n", n.id, label(n.label), shape, style, n.shape)
			if g != nil && inside[g.id] == "" {
				inside[g.id] = n.id
			}
		}
	}
	for _, g := range c.groups {
		fmt.Fprintf(&b, "subgraph cluster_%s {\nlabel=%s; labeljust=l; margin=12\n", g.id, label(g.label))
		write(g)
		b.WriteString("}\n")
	}
	write(nil)
	for _, e := range c.edges {
		from, to, more := e.from, e.to, ""
		if n := inside[from]; n != "" {
			from, more = n, more+" ltail=cluster_"+e.from
		}
		if n := inside[to]; n != "" {
			to, more = n, more+" lhead=cluster_"+e.to
		}
		style := e.style
		if style == "" {
			style = "solid"
		}
		on := ""
		if e.label != "" {
			on = " " + e.label + " "
		}
		fmt.Fprintf(&b, "%s -> %s [label=%s class=%q style=%s%s]\n", from, to, label(on), style, style, more)
	}
	b.WriteString("}\n")
	return b.String()
}

// label is a text of one or more lines. A list is at the left.
func label(text string) string {
	lines := strings.Split(html.UnescapeString(text), "<br/>")
	end := `\n`
	if len(lines) > 3 {
		end = `\l`
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.Join(lines, "\n"))
	quoted = strings.ReplaceAll(quoted, "\n", end)
	if len(lines) > 1 {
		quoted += end
	}
	return `"` + quoted + `"`
}

var (
	// What Graphviz writes and the page's styles say: colours, letters, tooltips.
	painted = regexp.MustCompile(` (?:fill|stroke|stroke-width|stroke-dasharray|font-family|font-weight)="[^"]*"`)
	tooltip = regexp.MustCompile(`(?s)\n?<title>.*?</title>|<!--.*?-->\n?`)
	ids     = regexp.MustCompile(` id="([^"]*)"`)
	size    = regexp.MustCompile(`<svg width="(\d+)pt" height="(\d+)pt"\s+viewBox="([^"]*)"[^>]*>`)
	ground  = regexp.MustCompile(`(<g class="graph"[^>]*>\n)<polygon [^>]*/>\n`)
)

// clean leaves of Graphviz's document what a page needs.
func clean(document string) (p picture, err error) {
	m := size.FindStringSubmatchIndex(document)
	if m == nil {
		return picture{}, errors.New("graphviz writes another SVG than that of its version 12")
	}
	p.box = document[m[6]:m[7]]
	if _, err := fmt.Sscan(document[m[2]:m[3]]+" "+document[m[4]:m[5]], &p.width, &p.height); err != nil {
		return picture{}, err
	}
	p.body = tooltip.ReplaceAllString(document[m[1]:], "")
	p.body = ground.ReplaceAllString(ids.ReplaceAllString(painted.ReplaceAllString(p.body, ""), ""), "$1")
	return p, nil
}

// element is the picture with what it shows in words.
func (p picture) element(id string, c *chart) string {
	title := c.title
	if title == "" {
		title = "Diagram"
	}
	class := ""
	if p.width > page {
		class = ` class="wide"`
	}
	return fmt.Sprintf(`<svg role="img"%[8]s aria-labelledby="%[1]s-title %[1]s-desc" width="%[2]d" height="%[3]d" viewBox="%[4]s">`+
		"\n"+`<title id="%[1]s-title">%[5]s</title><desc id="%[1]s-desc">%[6]s</desc>%[7]s`, id, p.width, p.height, p.box,
		escape(title), escape(c.words()), strings.TrimSpace(p.body), class)
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}

// words say what the picture shows.
func (c *chart) words() string {
	name := func(id string) string {
		text := id
		if n := c.find(id); n != nil {
			text = n.label
		}
		for _, g := range c.groups {
			if g.id == id {
				text = g.label
			}
		}
		line, _, _ := strings.Cut(html.UnescapeString(text), "<br/>")
		return line
	}
	var said []string
	for _, e := range c.edges {
		on := ""
		if e.label != "" {
			on = ", " + html.UnescapeString(e.label) + ","
		}
		said = append(said, name(e.from)+on+" to "+name(e.to))
	}
	return strings.Join(said, "; ") + "."
}
