package picture

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Mermaid returns the picture as a flowchart of Mermaid, without a fence around it.
func Mermaid(rs ruleset.Ruleset) string {
	p := of(rs)
	var b strings.Builder
	b.WriteString("flowchart TB\n")
	fmt.Fprintf(&b, "    accTitle: %s\n", mermaidText(p.title))
	for i, c := range p.columns {
		fmt.Fprintf(&b, "    subgraph g%d[\"%s\"]\n        direction TB\n", i+1, mermaidText(c.title))
		for _, x := range c.boxes {
			open, end := "[", "]"
			switch x.kind {
			case event:
				open, end = "([", "])"
			case track:
				open, end = "{{", "}}"
			case side:
				open, end = "[[", "]]"
			case proxy:
				open, end = "[/", "/]"
			case chain:
			}
			fmt.Fprintf(&b, "        %s%s\"%s\"%s\n", x.id, open, label(x, "<br/>", mermaidText), end)
		}
		b.WriteString("    end\n")
	}
	for _, w := range p.ways {
		switch {
		case w.label == "":
			fmt.Fprintf(&b, "    %s --> %s\n", w.from, w.to)
		case w.isJump():
			fmt.Fprintf(&b, "    %s -.->|%s| %s\n", w.from, w.label, w.to)
		default:
			fmt.Fprintf(&b, "    %s ==>|\"%s\"| %s\n", w.from, mermaidText(w.label), w.to)
		}
	}
	return b.String()
}

func (w way) isJump() bool { return w.label == "jump" || w.label == "goto" }

// mermaidText is a text within quotes: what Mermaid, or HTML, would read is written by its number.
func mermaidText(s string) string {
	return strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n",
		" ").Replace(s)
}

// label is all that stands in a box.
func label(x box, newline string, escape func(string) string) string {
	lines := []string{escape(x.title)}
	if x.under != "" {
		lines = append(lines, escape(x.under))
	}
	for _, l := range x.lines {
		lines = append(lines, escape(l))
	}
	return strings.Join(lines, newline)
}

// DOT returns the picture as a graph for the programs of Graphviz.
func DOT(rs ruleset.Ruleset) string {
	p := of(rs)
	var b strings.Builder
	fmt.Fprintf(&b,
		"digraph intercept {\n    label=\"%s\"\n    rankdir=TB\n    node [shape=box, fontname=\"monospace\"]\n",
		dotText(p.title))
	for i, c := range p.columns {
		fmt.Fprintf(&b, "    subgraph cluster_%d {\n        label=\"%s\"\n", i+1, dotText(c.title))
		for _, x := range c.boxes {
			shape := map[kind]string{event: "oval", track: "hexagon", side: "component", proxy: "cds", chain: "box"}[x.kind]
			fmt.Fprintf(&b, "        %s [shape=%s, label=\"%s\\l\"]\n", x.id, shape, label(x, `\l`, dotText))
		}
		b.WriteString("    }\n")
	}
	for _, w := range p.ways {
		style := "solid"
		if w.isJump() {
			style = "dashed"
		}
		fmt.Fprintf(&b, "    %s -> %s [style=%s, label=\"%s\"]\n", w.from, w.to, style, dotText(w.label))
	}
	b.WriteString("}\n")
	return b.String()
}

func dotText(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s)
}
