// Package pages makes the documentation's site of a repository: files, by their paths, from files. The same repository
// makes the same bytes.
package pages

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/yuin/goldmark/ast"

	"github.com/mesh-intercept/intercept/site/internal/diagram"
)

//go:embed layout/*.html
var layouts embed.FS

// Options say what a site is made of.
type Options struct {
	// Repository has README.md and docs/.
	Repository fs.FS
	// Assets are laid out at the site's root as they are. The HTML among them is a template, as those of this package are.
	Assets fs.FS
	// Version is what the documentation is of. Empty: the pages do not say.
	Version string
	// URL is where the repository is to be seen, and Ref the commit or tag of it that the site is made of.
	URL, Ref string
	// Base is the path that the site is served at, with a slash at both ends. Only 404.html needs it, which is shown in
	// place of any path.
	Base string
	// Program are files beside the assets, by their paths: what is built of the playground.
	Program map[string][]byte
	// Finish changes the files when all are made, before links are followed. Nil: nothing does.
	Finish func(files map[string][]byte) error
}

// page is one document.
type page struct {
	source   string // in the repository
	Path     string // in the site
	Title    string
	Label    string // in the navigation, where Title is too long
	Summary  string
	Headings []heading
	Body     template.HTML
	sections []section
	text     []byte // of the source
	parsed   ast.Node
}

// heading is one that the table of contents shows.
type heading struct {
	Level    int
	ID, Text string
}

// Build makes the site. Its error lists every broken link.
func Build(o Options) (files map[string][]byte, err error) {
	if !strings.HasPrefix(o.Base, "/") || !strings.HasSuffix(o.Base, "/") {
		return nil, fmt.Errorf("the base path %q: it begins and ends with a slash, as in /intercept/", o.Base)
	}
	sources, err := documents(o.Repository)
	if err != nil {
		return nil, err
	}
	s := &site{Options: o, pages: map[string]*page{}, files: map[string][]byte{}, painter: &diagram.Painter{}}
	defer func() { err = errors.Join(err, s.painter.Close()) }()
	maps.Copy(s.files, o.Program)
	for _, source := range sources {
		s.pages[source] = &page{source: source, Path: strings.TrimSuffix(source, ".md") + ".html"}
	}
	var errs []error
	for _, source := range sources {
		errs = append(errs, s.read(s.pages[source]))
	}
	for _, source := range sources { // whose links name the titles of others
		errs = append(errs, s.render(s.pages[source]))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := s.makeTree(); err != nil {
		return nil, err
	}
	if err := s.write(); err != nil {
		return nil, err
	}
	if o.Finish != nil {
		if err := o.Finish(s.files); err != nil {
			return nil, err
		}
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s.files, nil
}

// site is one that is being made.
type site struct {
	Options
	pages map[string]*page // by their sources
	tree  []group
	files map[string][]byte
	// painter draws the diagrams.
	painter *diagram.Painter
}

// documents are the pages' sources: what people read, wherever the repository has it.
func documents(repository fs.FS) ([]string, error) {
	var found []string
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/README.md", "examples/*/README.md"} {
		matches, err := fs.Glob(repository, pattern)
		if err != nil {
			return nil, err
		}
		found = append(found, matches...)
	}
	slices.Sort(found)
	if !slices.Contains(found, "README.md") {
		return nil, errors.New("no README.md: is this the repository's root?")
	}
	return found, nil
}

// ordered are the pages in the order of the navigation.
func (s *site) ordered() []*page {
	var all []*page
	for _, g := range s.tree {
		all = append(all, g.Pages...)
	}
	return all
}

// view is what a template shows.
type view struct {
	*site
	*page
	Previous, Next *page
	Root           string // the way from the page to the site's root
	Script         string // what scripts may do besides those of the site itself
}

// Tree is the navigation.
func (v view) Tree() []group { return v.tree }

// To is the way from the page to a path of the site.
func (v view) To(target string) string { return v.Root + target }

// At is where people look at a file of the repository.
func (v view) At(file string) (string, error) {
	if _, err := fs.Stat(v.Repository, file); err != nil {
		return "", err
	}
	return v.fileURL(file, "blob"), nil
}

// Source is what the page is made of.
func (v view) Source() string { return v.source }

// Docs is where the documentation begins.
func (v view) Docs() string { return v.ordered()[0].Path }

// Picture is what the front page shows: the first picture of README.md that is a file.
func (v view) Picture() template.HTML {
	body := string(v.pages["README.md"].Body)
	return template.HTML(picture.FindString(body)) //nolint:gosec // made of our own document
}

var picture = regexp.MustCompile(`(?s)<picture>.*?</picture>|<img [^>]*>`)

// Playground is where the playground is, if the site has it.
func (v view) Playground() string {
	if _, err := fs.Stat(v.Assets, "playground/index.html"); err != nil {
		return ""
	}
	return "playground/index.html"
}

func (s *site) fileURL(file, kind string) string {
	return strings.TrimSuffix(s.URL+"/"+kind+"/"+s.Ref+"/"+file, "/.")
}

// up is the way from a path to the root.
func up(from string) string { return strings.Repeat("../", strings.Count(from, "/")) }

// write fills s.files.
func (s *site) write() error {
	templates, err := template.New("").ParseFS(layouts, "layout/*.html")
	if err != nil {
		return err
	}
	add := func(name, layout string, v view) error {
		var out bytes.Buffer
		v.site = s
		if v.Root == "" {
			v.Root = up(name)
		}
		if err := templates.ExecuteTemplate(&out, layout, v); err != nil {
			return err
		}
		s.files[name] = out.Bytes()
		return nil
	}
	if err := fs.WalkDir(s.Assets, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(s.Assets, name)
		if err != nil {
			return err
		}
		if path.Ext(name) != ".html" {
			s.files[name] = content
			return nil
		}
		if _, err := templates.New(name).Parse(string(content)); err != nil {
			return err
		}
		return add(name, name, view{page: &page{Path: name}, Script: " 'wasm-unsafe-eval'"})
	}); err != nil {
		return err
	}
	all := s.ordered()
	for i, p := range all {
		v := view{page: p}
		if i > 0 {
			v.Previous = all[i-1]
		}
		if i < len(all)-1 {
			v.Next = all[i+1]
		}
		if err := add(p.Path, "document", v); err != nil {
			return err
		}
	}
	if err := add("index.html", "front", view{page: &page{Path: "index.html"}}); err != nil {
		return err
	}
	if err := add("404.html", "missing", view{page: &page{Path: "404.html"}, Root: s.Base}); err != nil {
		return err
	}
	if path := (view{site: s}).Playground(); path != "" {
		all = append(all, playgroundSection(path))
	}
	s.files["search.json"], err = index(all)
	return err
}

// Paths are those of a site's files, in order.
func Paths(files map[string][]byte) []string { return slices.Sorted(maps.Keys(files)) }
