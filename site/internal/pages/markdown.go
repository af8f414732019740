package pages

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	east "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// anchors are the IDs of headings, as GitHub makes them: so links to them work in both places.
type anchors map[string]int

func (a anchors) Generate(value []byte, _ ast.NodeKind) []byte {
	var id strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(string(value))) {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			id.WriteRune(r)
		case r == ' ':
			id.WriteByte('-')
		}
	}
	name := id.String()
	a[name]++
	if n := a[name]; n > 1 {
		name = fmt.Sprintf("%s-%d", name, n-1)
	}
	return []byte(name)
}

func (a anchors) Put([]byte) {}

// markdown is what the documents are written in: GitHub's, as far as they use it. What is HTML in them is ours.
func markdown(b blocks) goldmark.Markdown {
	return goldmark.New(
		goldmark.WithExtensions(extension.Table, extension.Linkify),
		goldmark.WithParserOptions(parser.WithAutoHeadingID()),
		goldmark.WithRendererOptions(html.WithUnsafe(),
			renderer.WithNodeRenderers(util.Prioritized(b, 100))),
	)
}

// read parses a page's source.
func (s *site) read(p *page) (err error) {
	if p.text, err = fs.ReadFile(s.Repository, p.source); err != nil {
		return err
	}
	context := parser.NewContext(parser.WithIDs(anchors{}))
	p.parsed = markdown(blocks{}).Parser().Parse(text.NewReader(p.text), parser.WithContext(context))
	p.outline()
	if p.Title == "" {
		return fmt.Errorf("%s: it has no heading of the first level", p.source)
	}
	return nil
}

// render makes the page of what is parsed.
func (s *site) render(p *page) error {
	if err := s.rewrite(p); err != nil {
		return err
	}
	diagrams := 0
	md := markdown(blocks{func(text string) (string, error) {
		diagrams++
		return s.painter.SVG(text, fmt.Sprintf("diagram-%d", diagrams))
	}})
	var out bytes.Buffer
	if err := md.Renderer().Render(&out, p.text, p.parsed); err != nil {
		return fmt.Errorf("%s: %w", p.source, err)
	}
	p.Body = template.HTML(out.String()) //nolint:gosec // made of our own documents
	return nil
}

// sources are the pictures that HTML in a document names: of themes, with <picture>.
var sources = regexp.MustCompile(`\ssrc(?:set)?="([^"]*)"`)

// rewrite turns links to what the repository has into links to what the site has, and takes comments out.
func (s *site) rewrite(p *page) error {
	source := p.text
	var errs []error
	var comments []ast.Node
	to := func(destination *[]byte, image bool) {
		target, err := s.resolve(p, string(*destination), image)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", p.source, lineOf(source, string(*destination)), err))
		}
		*destination = []byte(target)
	}
	pictures := func(markup []byte) { // which lie in the site as they do in the repository
		for _, m := range sources.FindAllSubmatch(markup, -1) {
			to(&m[1], true)
		}
	}
	err := ast.Walk(p.parsed, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Link:
			s.name(p, n)
			to(&n.Destination, false)
		case *ast.Image:
			to(&n.Destination, true)
		case *ast.HTMLBlock:
			if n.HTMLBlockType == ast.HTMLBlockType2 {
				comments = append(comments, n)
			}
			pictures(n.Lines().Value(source))
		case *ast.RawHTML:
			if bytes.HasPrefix(n.Segments.Value(source), []byte("<!--")) {
				comments = append(comments, n)
			}
			pictures(n.Segments.Value(source))
		}
		return ast.WalkContinue, nil
	})
	for _, c := range comments {
		c.Parent().RemoveChild(c.Parent(), c)
	}
	return errors.Join(append(errs, err)...)
}

// name gives a link that says the name of a file the title of the page that is made of that file.
func (s *site) name(p *page, link *ast.Link) {
	file, anchor, _ := strings.Cut(string(link.Destination), "#")
	to := s.pages[path.Join(path.Dir(p.source), file)]
	if said := plainText(link, p.text); to == nil || said != file && said != string(link.Destination) {
		return
	}
	title := to.Title
	at := slices.IndexFunc(to.Headings, func(h heading) bool { return h.ID == anchor })
	if at >= 0 {
		title += ": " + to.Headings[at].Text
	}
	link.RemoveChildren(link)
	link.AppendChild(link, ast.NewString([]byte(title)))
}

// resolve is the link of the site that stands for one of a document.
func (s *site) resolve(p *page, destination string, image bool) (string, error) {
	target, err := url.Parse(destination)
	if err != nil {
		return "", err
	}
	if target.Scheme != "" || target.Host != "" {
		if image {
			return "", fmt.Errorf("the picture %s is not of the repository, and the site asks nobody else", destination)
		}
		return destination, nil
	}
	if target.Path == "" {
		return destination, nil
	}
	file := path.Join(path.Dir(p.source), target.Path)
	if to := s.pages[file]; to != nil {
		target.Path = relative(p.Path, to.Path)
		return target.String(), nil
	}
	info, err := fs.Stat(s.Repository, file)
	if err != nil {
		return "", fmt.Errorf("it links to %s, which does not exist", destination)
	}
	if image {
		if s.files[file], err = fs.ReadFile(s.Repository, file); err != nil {
			return "", err
		}
		return target.String(), nil
	}
	if !info.IsDir() {
		return s.fileURL(file, "blob") + fragment(target), nil
	}
	if to := s.pages[path.Join(file, "README.md")]; to != nil {
		target.Path = relative(p.Path, to.Path)
		return target.String(), nil
	}
	return s.fileURL(file, "tree"), nil
}

func fragment(u *url.URL) string {
	if u.Fragment == "" {
		return ""
	}
	return "#" + u.EscapedFragment()
}

// relative is the way from one path of the site to another.
func relative(from, to string) string {
	rel, err := filepath.Rel(path.Dir(from), to)
	if err != nil { // of two relative paths there is always one
		panic(err)
	}
	return filepath.ToSlash(rel)
}

// lineOf is the first line that has a text.
func lineOf(source []byte, text string) int {
	before, _, _ := bytes.Cut(source, []byte(text))
	return 1 + bytes.Count(before, []byte("\n"))
}

// outline takes the page's title, its headings, its first sentences and what search finds out of the document.
func (p *page) outline() {
	source := p.text
	p.sections = []section{{}}
	add := func(s string) {
		last := &p.sections[len(p.sections)-1]
		last.text = append(last.text, strings.Fields(s)...)
	}
	for n := p.parsed.FirstChild(); n != nil; n = n.NextSibling() {
		plain := plainText(n, source)
		h, isHeading := n.(*ast.Heading)
		if !isHeading {
			if _, is := n.(*ast.Paragraph); is && p.Summary == "" {
				p.Summary = firstSentence(plain)
			}
			add(plain)
			continue
		}
		id, _ := h.AttributeString("id")
		anchor, _ := id.([]byte)
		if h.Level == 1 && p.Title == "" {
			p.Title = plain
			p.sections[0] = section{heading: plain}
			continue
		}
		p.sections = append(p.sections, section{heading: plain, anchor: string(anchor)})
		if h.Level <= 3 {
			p.Headings = append(p.Headings, heading{h.Level, string(anchor), plain})
		}
	}
}

// firstSentence is a text up to its first full stop.
func firstSentence(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if before, _, found := strings.Cut(s, ". "); found {
		return before + "."
	}
	return s
}

// plainText is what is left of a node without its markup.
func plainText(node ast.Node, source []byte) string {
	var out strings.Builder
	_ = ast.Walk(node, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // no error of ours
		switch n := n.(type) {
		case *ast.Text:
			if entering {
				out.Write(n.Segment.Value(source))
				if n.SoftLineBreak() || n.HardLineBreak() {
					out.WriteByte(' ')
				}
			}
		case *ast.String:
			if entering {
				out.Write(n.Value)
			}
		case *ast.AutoLink:
			if entering {
				out.Write(n.Label(source))
			}
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			if entering && language(n, source) != "mermaid" {
				out.Write(n.Lines().Value(source))
			}
			return ast.WalkSkipChildren, nil
		case *ast.Paragraph, *ast.TextBlock, *east.TableCell:
			if !entering {
				out.WriteByte(' ')
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.TrimSpace(out.String())
}
