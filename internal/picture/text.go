package picture

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Mermaid returns the picture as a flowchart of Mermaid, without a fence around it.
func Mermaid(rs ruleset.Ruleset) string {
	p := Of(rs)
	var b strings.Builder
	b.WriteString("flowchart TB\n")
	fmt.Fprintf(&b, "    accTitle: %s\n", mermaidText(p.Title))
	for i, c := range p.Columns {
		fmt.Fprintf(&b, "    subgraph g%d[\"%s\"]\n        direction TB\n", i+1, mermaidText(c.Title))
		for _, x := range c.Boxes {
			open, end := "[", "]"
			switch x.Kind {
			case Event:
				open, end = "([", "])"
			case Track:
				open, end = "{{", "}}"
			case Side:
				open, end = "[[", "]]"
			case Proxy:
				open, end = "[/", "/]"
			case Base:
			}
			fmt.Fprintf(&b, "        %s%s\"%s\"%s\n", x.ID, open, label(x, "<br/>", mermaidText), end)
		}
		b.WriteString("    end\n")
	}
	for _, w := range p.Ways {
		switch {
		case w.Label == "":
			fmt.Fprintf(&b, "    %s --> %s\n", w.From, w.To)
		case w.isJump():
			fmt.Fprintf(&b, "    %s -.->|%s| %s\n", w.From, w.Label, w.To)
		default:
			fmt.Fprintf(&b, "    %s ==>|\"%s\"| %s\n", w.From, mermaidText(w.Label), w.To)
		}
	}
	return b.String()
}

func (w Way) isJump() bool { return w.Label == "jump" || w.Label == "goto" }

// mermaidText is a text within quotes: what Mermaid, or HTML, would read is written by its number.
func mermaidText(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n",
		" ").Replace(s)
}

// label is all that stands in a box.
func label(x Box, newline string, escape func(string) string) string {
	lines := []string{escape(x.Title)}
	if x.Under != "" {
		lines = append(lines, escape(x.Under))
	}
	for _, l := range x.Lines {
		lines = append(lines, escape(l))
	}
	return strings.Join(lines, newline)
}

// DOT returns the picture as a graph for the programs of Graphviz.
func DOT(rs ruleset.Ruleset) string {
	p := Of(rs)
	var b strings.Builder
	fmt.Fprintf(&b,
		"digraph intercept {\n    label=\"%s\"\n    rankdir=TB\n    node [shape=box, fontname=\"monospace\"]\n",
		dotText(p.Title))
	for i, c := range p.Columns {
		fmt.Fprintf(&b, "    subgraph cluster_%d {\n        label=\"%s\"\n", i+1, dotText(c.Title))
		for _, x := range c.Boxes {
			shape := map[Kind]string{Event: "oval", Track: "hexagon", Side: "component", Proxy: "cds", Base: "box"}[x.Kind]
			fmt.Fprintf(&b, "        %s [shape=%s, label=\"%s\\l\"]\n", x.ID, shape, label(x, `\l`, dotText))
		}
		b.WriteString("    }\n")
	}
	for _, w := range p.Ways {
		style := "solid"
		if w.isJump() {
			style = "dashed"
		}
		fmt.Fprintf(&b, "    %s -> %s [style=%s, label=\"%s\"]\n", w.From, w.To, style, dotText(w.Label))
	}
	b.WriteString("}\n")
	return b.String()
}

func dotText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s)
}
