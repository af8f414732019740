package pages

import (
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"
)

// group is a part of the navigation.
type group struct {
	Title string
	Pages []*page
}

// contents is the page whose headings and links are the navigation.
const contents = "docs/index.md"

// usual is the navigation of a repository without contents.
var usual = []struct {
	title   string
	sources []string
}{
	{"Start", []string{"README.md", "docs/getting-started.md", "docs/quickstart.md", "docs/scenario.md", "docs/sandbox.md"}},
	{"In a cluster", []string{"docs/helm.md", "docs/cni.md", "docs/agent.md", "docs/injection.md", "docs/injector.md",
		"docs/probes.md"}},
	{"From another mesh", []string{"docs/migrate-istio.md", "docs/migrate-linkerd.md", "docs/migrate-kuma.md"}},
	{"Reference", []string{"docs/policy.md", "docs/backends.md", "docs/compatibility.md", "docs/performance.md",
		"docs/operations.md"}},
	{"Project", []string{"docs/design.md", "CONTRIBUTING.md", "docs/release.md", "CHANGELOG.md", "SECURITY.md",
		"CODE_OF_CONDUCT.md"}},
}

// makeTree makes the navigation, in which every page is once.
func (s *site) makeTree() error {
	seen := map[*page]bool{}
	add := func(g *group, p *page, label string) {
		if p == nil || seen[p] {
			return
		}
		seen[p] = true
		if p.Label = label; label == "" {
			p.Label = p.Title
		}
		g.Pages = append(g.Pages, p)
	}
	var tree []group
	if index := s.pages[contents]; index != nil {
		groups, err := s.readTree(index, add)
		if err != nil {
			return err
		}
		tree = groups
	} else {
		for _, u := range usual {
			g := group{Title: u.title}
			for _, source := range u.sources {
				add(&g, s.pages[source], "")
			}
			tree = append(tree, g)
		}
	}
	examples, more := group{Title: "Examples"}, group{Title: "More"}
	for _, source := range slices.Sorted(maps.Keys(s.pages)) {
		if p := s.pages[source]; !seen[p] {
			rest := &more
			if strings.HasPrefix(source, "examples/") {
				rest = &examples
			}
			add(rest, p, "")
		}
	}
	s.tree = slices.DeleteFunc(append(tree, examples, more), func(g group) bool { return len(g.Pages) == 0 })
	return nil
}

// readTree reads the navigation: each heading of the second level is a group, and the links under it are its pages. The
// page itself comes first, and the README.
func (s *site) readTree(index *page, add func(*group, *page, string)) ([]group, error) {
	source, err := fs.ReadFile(s.Repository, index.source)
	if err != nil {
		return nil, err
	}
	var tree []group
	doc := markdown(blocks{}).Parser().Parse(text.NewReader(source))
	err = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			if n.Level != 2 {
				break
			}
			tree = append(tree, group{Title: plainText(n, source)})
			if len(tree) == 1 {
				add(&tree[0], index, "Overview")
				add(&tree[0], s.pages["README.md"], "In one page")
			}
		case *ast.Link:
			target, err := url.Parse(string(n.Destination))
			if err != nil {
				return ast.WalkStop, err
			}
			if target.Scheme == "" && target.Fragment == "" && tree != nil {
				file := path.Join(path.Dir(index.source), target.Path)
				p := s.pages[file]
				if p == nil {
					p = s.pages[path.Join(file, "README.md")]
				}
				add(&tree[len(tree)-1], p, plainText(n, source))
			}
		}
		return ast.WalkContinue, nil
	})
	return tree, err
}
