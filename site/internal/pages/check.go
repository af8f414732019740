package pages

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"strings"

	"golang.org/x/net/html"
)

// document is what check reads of a page that is made.
type document struct {
	ids   map[string]bool
	links []string
	errs  []error
}

// check follows each link within the site, and holds each page to what its Content-Security-Policy lets it do.
func (s *site) check() error {
	documents := map[string]document{}
	for _, name := range Paths(s.files) {
		if path.Ext(name) != ".html" {
			continue
		}
		d, err := parse(s.files[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		documents[name] = d
	}
	var errs []error
	for _, name := range Paths(s.files) {
		d, is := documents[name]
		if !is {
			continue
		}
		for _, err := range d.errs {
			errs = append(errs, fmt.Errorf("%s: %w", s.place(name, ""), err))
		}
		for _, link := range d.links {
			if err := s.follow(documents, name, link); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.place(name, link), err))
			}
		}
	}
	for _, name := range Paths(s.files) {
		if path.Ext(name) != ".js" || s.Program[name] != nil {
			continue
		}
		for _, m := range imports.FindAllSubmatch(s.files[name], -1) {
			if wanted := path.Join(path.Dir(name), string(m[1])); s.files[wanted] == nil {
				errs = append(errs, fmt.Errorf("%s: it imports %s, and the site has no %s", name, m[1], wanted))
			}
		}
	}
	return errors.Join(errs...)
}

// imports are the modules that a script names.
var imports = regexp.MustCompile(`(?:\bfrom|\bimport)\s*\(?\s*"(\.[^"]+)"`)

// place names the source of a page, with the line that has a link's fragment.
func (s *site) place(name, link string) string {
	source := strings.TrimSuffix(name, ".html") + ".md"
	if s.pages[source] == nil {
		return name
	}
	_, anchor, found := strings.Cut(link, "#")
	content, err := fs.ReadFile(s.Repository, source)
	if !found || err != nil {
		return source
	}
	return fmt.Sprintf("%s:%d", source, lineOf(content, "#"+anchor))
}

// follow says what is wrong with a link of a page.
func (s *site) follow(documents map[string]document, from, link string) error {
	u, err := url.Parse(link)
	if err != nil {
		return err
	}
	if u.Scheme != "" || u.Host != "" {
		if u.Scheme != "https" && u.Scheme != "mailto" {
			return fmt.Errorf("it links to %s, which is not https", link)
		}
		return nil
	}
	target := from
	switch {
	case strings.HasPrefix(u.Path, s.Base) && from == "404.html":
		target = strings.TrimPrefix(u.Path, s.Base)
	case u.Path != "":
		target = path.Join(path.Dir(from), u.Path)
	}
	if target == "." || target == "" || strings.HasSuffix(u.Path, "/") {
		target = path.Join(target, "index.html")
	}
	if _, exists := s.files[target]; !exists {
		return fmt.Errorf("it links to %s, and the site has no %s", link, target)
	}
	if d, is := documents[target]; is && u.Fragment != "" && !d.ids[u.Fragment] {
		return fmt.Errorf("it links to %s, and %s has no heading or anchor of that name", link, target)
	}
	return nil
}

// parse reads a page.
func parse(content []byte) (document, error) {
	root, err := html.Parse(bytes.NewReader(content))
	if err != nil {
		return document{}, err
	}
	d := document{ids: map[string]bool{"top": true}}
	policy, first := false, 0
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if n.Data == "h1" {
			first++
		}
		if (n.Data == "script" || n.Data == "style") && n.FirstChild != nil {
			d.errs = append(d.errs, fmt.Errorf("<%s> with something in it, which the policy refuses", n.Data))
		}
		for _, a := range n.Attr {
			switch a.Key {
			case "id":
				if d.ids[a.Val] {
					d.errs = append(d.errs, fmt.Errorf("two elements have the ID %q", a.Val))
				}
				d.ids[a.Val] = true
			case "href", "src", "srcset":
				if n.Data != "a" && strings.Contains(a.Val, "//") {
					d.errs = append(d.errs, fmt.Errorf("<%s> asks %s", n.Data, a.Val))
				}
				if n.Data != "use" {
					d.links = append(d.links, a.Val)
				}
			case "style":
				d.errs = append(d.errs, fmt.Errorf("<%s> has a style of its own, which the policy refuses", n.Data))
			case "http-equiv":
				policy = policy || a.Val == "Content-Security-Policy"
			default:
				if strings.HasPrefix(a.Key, "on") {
					d.errs = append(d.errs, fmt.Errorf("<%s> has %s, which the policy refuses", n.Data, a.Key))
				}
			}
		}
	}
	if !policy {
		d.errs = append(d.errs, errors.New("it has no Content-Security-Policy"))
	}
	if first != 1 {
		d.errs = append(d.errs, fmt.Errorf("it has %d headings of the first level", first))
	}
	return d, nil
}
