package picture

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Lengths in pixels.
const (
	letter  = 7 // the width of one, which fonts of fixed width keep below at this size
	lineGap = 16
	padding = 10
	gap     = 26
	indent  = 36 // of what is not on the way itself
	margin  = 40 // right of the boxes, for ways to the proxy; what is written on them comes behind it
)

// place is where a box is.
type place struct {
	Box
	x, y, width, height int
}

// SVG returns the picture as a document of its own, for light and dark pages.
func SVG(rs ruleset.Ruleset) string {
	p := Of(rs)
	places := map[string]place{}
	var body, words strings.Builder
	left, bottom, beside := padding, 0, margin+padding
	for _, w := range p.Ways {
		beside = max(beside, margin+padding+letter*utf8.RuneCountInString(w.Label))
	}
	for _, c := range p.Columns {
		width := letter * utf8.RuneCountInString(c.Title)
		for _, x := range c.Boxes {
			width = max(width, x.width()+x.indent())
		}
		y := 3 * lineGap
		fmt.Fprintf(&body, `<text class="head" x="%d" y="%d">%s</text>`+"\n", left, y-lineGap, xmlText(c.Title))
		fmt.Fprintf(&words, "%s: ", c.Title)
		for i, x := range c.Boxes {
			at := place{x, left + x.indent(), y, width - x.indent(), x.height()}
			places[x.ID] = at
			at.draw(&body)
			y += at.height + gap
			if i > 0 {
				words.WriteString(", ")
			}
			words.WriteString(x.Title)
		}
		words.WriteString(". ")
		bottom = max(bottom, y)
		left += width + beside
	}
	lanes := map[int]int{} // ways beside each column, by its right edge
	for _, w := range p.Ways {
		from, to := places[w.From], places[w.To]
		switch {
		case to.x+to.width != from.x+from.width: // in another column: the box says where
		case to.Kind == Proxy:
			right := from.x + from.width
			lanes[right]++
			x := right + 8*(1+(lanes[right]-1)%4)
			fmt.Fprintf(&body, `<path class="capture" %s d="M%d %dH%dV%dH%d" marker-end="url(#tip)"/>`+"\n", w.data(), right,
				from.y+lineGap/2+4*(lanes[right]%4), x, to.y+to.height/2, right+2)
			fmt.Fprintf(&body, `<text class="on" x="%d" y="%d">%s</text>`+"\n", right+margin, to.y+to.height/2+4,
				xmlText(w.Label))
		case to.Kind == Side:
			x := to.x - indent/2
			fmt.Fprintf(&body, `<path class="jump" %s d="M%d %dV%dH%d" marker-end="url(#tip)"/>`+"\n", w.data(), x,
				max(from.y+from.height, 0), to.y+lineGap, to.x-2)
		default:
			x := to.x + padding
			fmt.Fprintf(&body, `<path class="way" %s d="M%d %dV%d" marker-end="url(#tip)"/>`+"\n", w.data(), x, from.y+from.height,
				to.y-2)
		}
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" `+
		`aria-labelledby="title desc">
<title id="title">%s</title>
<desc id="desc">%s</desc>
<style>
svg{--ink:#1f2328;--paper:#fff;--box:#f6f8fa;--edge:#59636e;--proxy:#0550ae;background:var(--paper)}
@media (prefers-color-scheme:dark){svg{--ink:#f0f6fc;--paper:#0d1117;--box:#151b23;--edge:#9198a1;--proxy:#79c0ff}}
text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:var(--ink)}
.small,.on{font-size:10px;fill:var(--edge)}.name,.head{font-weight:bold}
rect{fill:var(--box);stroke:var(--edge)}.proxy{stroke:var(--proxy);stroke-width:2}.side{stroke-dasharray:4 3}
path{fill:none;stroke:var(--edge)}.capture{stroke:var(--proxy)}.jump{stroke-dasharray:4 3}#tip path{fill:var(--edge);stroke:none}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">`+
		`<path d="M0 0L8 4L0 8Z"/></marker></defs>
%s</svg>
`, left, bottom, left, bottom, xmlText(p.Title), xmlText(strings.TrimSpace(words.String())), body.String())
}

// indent is how far a box stands from the way, which passes it on the left.
func (x Box) indent() int {
	if x.Kind == Side || x.Kind == Proxy {
		return indent
	}
	return 0
}

func (x Box) texts() []string {
	if x.Under == "" {
		return append([]string{x.Title}, x.Lines...)
	}
	return append([]string{x.Title, x.Under}, x.Lines...)
}

func (x Box) width() (width int) {
	for _, l := range x.texts() {
		width = max(width, letter*utf8.RuneCountInString(l)+2*padding)
	}
	return width
}

func (x Box) height() int { return lineGap*len(x.texts()) + padding }

func (p place) draw(b *strings.Builder) {
	round := 4
	if p.Kind == Event || p.Kind == Track {
		round = 13
	}
	fmt.Fprintf(b, `<rect class="%s" data-node="%s" x="%d" y="%d" width="%d" height="%d" rx="%d"/>`+"\n", p.Kind, p.ID, p.x,
		p.y, p.width, p.height, round)
	first := len(p.texts()) - len(p.Lines) // of its rules
	for i, l := range p.texts() {
		class, rule := "rule", ""
		switch {
		case i == 0:
			class = "name"
		case i < first:
			class = "small"
		case i-first < len(p.Rules) && strings.HasPrefix(l, string(p.Rules[i-first])+" "):
			rule = fmt.Sprintf(` data-rule="%s"`, xmlText(string(p.Rules[i-first])))
		}
		fmt.Fprintf(b, `<text class="%s" data-node="%s"%s x="%d" y="%d">%s</text>`+"\n", class, p.ID, rule, p.x+padding,
			p.y+lineGap*(i+1), xmlText(l))
	}
}

// data says in a document between which boxes a way is.
func (w Way) data() string { return fmt.Sprintf(`data-from="%s" data-to="%s"`, w.From, w.To) }

func xmlText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}
