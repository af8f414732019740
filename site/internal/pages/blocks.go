package pages

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/chroma/v2"
	"github.com/alecthomas/chroma/v2/lexers"
	"github.com/yuin/goldmark/ast"
	east "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/util"
)

// blocks renders what goldmark would render otherwise: code with its colours, tables that scroll in a box of their own,
// headings that link to themselves, diagrams.
type blocks struct {
	// draw is the picture of a diagram's text.
	draw func(mermaid string) (string, error)
}

func (b blocks) RegisterFuncs(r renderer.NodeRendererFuncRegisterer) {
	r.Register(ast.KindFencedCodeBlock, b.code)
	r.Register(ast.KindCodeBlock, b.code)
	r.Register(ast.KindCodeSpan, b.span)
	r.Register(ast.KindHeading, b.heading)
	r.Register(east.KindTable, b.table)
	r.Register(east.KindTableHeader, b.row)
	r.Register(east.KindTableRow, b.row)
	r.Register(east.KindTableCell, b.cell)
}

// language is what a block of code says it is.
func language(n ast.Node, source []byte) string {
	if fenced, is := n.(*ast.FencedCodeBlock); is {
		return string(fenced.Language(source))
	}
	return ""
}

func (b blocks) code(w util.BufWriter, source []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	lang := language(n, source)
	if lang == "mermaid" {
		picture, err := b.draw(string(n.Lines().Value(source)))
		if err != nil {
			return ast.WalkStop, fmt.Errorf("a diagram: %w", err)
		}
		_, err = fmt.Fprintf(w, "<figure class=\"diagram\">%s</figure>\n", picture)
		return ast.WalkSkipChildren, err
	}
	code, err := highlight(lang, string(n.Lines().Value(source)))
	if err != nil {
		return ast.WalkStop, err
	}
	if lang == "" {
		lang = "text"
	}
	_, err = fmt.Fprintf(w, "<div class=\"code\"><pre><code class=\"language-%s\">%s</code></pre></div>\n", lang, code)
	return ast.WalkSkipChildren, err
}

// span is code in a line. What is short is not broken: a flag would lose its hyphens to the line before.
func (blocks) span(w util.BufWriter, source []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	code := strings.ReplaceAll(plainText(n, source), "\n", " ")
	class := ""
	if utf8.RuneCountInString(code) > 28 {
		class = ` class="long"`
	}
	_, err := fmt.Fprintf(w, "<code%s>%s</code>", class, util.EscapeHTML([]byte(code)))
	return ast.WalkSkipChildren, err
}

func (blocks) heading(w util.BufWriter, source []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	h := n.(*ast.Heading)
	id, _ := h.AttributeString("id")
	if entering {
		_, err := fmt.Fprintf(w, "<h%d id=\"%s\">", h.Level, id)
		return ast.WalkContinue, err
	}
	if h.Level > 1 {
		fmt.Fprintf(w, " <a class=\"anchor\" href=\"#%s\" aria-label=\"Link to “%s”\">#</a>", id,
			util.EscapeHTML([]byte(plainText(n, source))))
	}
	_, err := fmt.Fprintf(w, "</h%d>\n", h.Level)
	return ast.WalkContinue, err
}

func (blocks) table(w util.BufWriter, _ []byte, _ ast.Node, entering bool) (ast.WalkStatus, error) {
	tag := "</tbody>\n</table></div>\n"
	if entering {
		tag = "<div class=\"table\"><table>\n"
	}
	_, err := w.WriteString(tag)
	return ast.WalkContinue, err
}

// row is one of a table. A header that says nothing is left out.
func (blocks) row(w util.BufWriter, _ []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	_, isHeader := n.(*east.TableHeader)
	said := false
	for c := n.FirstChild(); c != nil; c = c.NextSibling() {
		said = said || c.HasChildren()
	}
	var tag string
	switch {
	case isHeader && !said && entering:
		_, err := w.WriteString("<tbody>\n")
		return ast.WalkSkipChildren, err
	case isHeader && !said:
	case isHeader && entering:
		tag = "<thead>\n<tr>\n"
	case isHeader:
		tag = "</tr>\n</thead>\n<tbody>\n"
	case entering:
		tag = "<tr>\n"
	default:
		tag = "</tr>\n"
	}
	_, err := w.WriteString(tag)
	return ast.WalkContinue, err
}

// cell is one of a row. What has no text heads nothing.
func (blocks) cell(w util.BufWriter, _ []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	tag := "td"
	if n.Parent().Kind() == east.KindTableHeader && n.HasChildren() {
		tag = "th"
	}
	if !entering {
		_, err := fmt.Fprintf(w, "</%s>\n", tag)
		return ast.WalkContinue, err
	}
	align := ""
	if a := n.(*east.TableCell).Alignment; a != east.AlignNone {
		align = fmt.Sprintf(` align="%s"`, a)
	}
	_, err := fmt.Fprintf(w, "<%s%s>", tag, align)
	return ast.WalkContinue, err
}

// highlight is code as HTML, each token in a span with its class where the styles have a colour for it.
func highlight(lang, code string) (string, error) {
	var out strings.Builder
	lexer := lexers.Get(lang)
	if lang == "" || lexer == nil {
		return string(util.EscapeHTML([]byte(code))), nil
	}
	tokens, err := chroma.Coalesce(lexer).Tokenise(nil, code)
	if err != nil {
		return "", fmt.Errorf("code in %s: %w", lang, err)
	}
	for _, token := range tokens.Tokens() {
		text := string(util.EscapeHTML([]byte(token.Value)))
		if class := classOf(token.Type); class != "" && strings.TrimSpace(token.Value) != "" {
			fmt.Fprintf(&out, `<span class="%s">%s</span>`, class, text)
			continue
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

// classOf is the class of a token: one of five, or none.
func classOf(t chroma.TokenType) string {
	switch {
	case t == chroma.GenericPrompt:
		return "gp"
	case t == chroma.NameTag, t == chroma.NameAttribute, t == chroma.NameProperty:
		return "n"
	case t.InCategory(chroma.Comment):
		return "c"
	case t.InCategory(chroma.Keyword):
		return "k"
	case t.InSubCategory(chroma.LiteralString):
		return "s"
	}
	return ""
}
