package pages

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/net/html"
)

// small is a repository with one of each.
func small() fstest.MapFS {
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"README.md": "# Intercept\n\nIt intercepts. And more.\n\n## In Go\n\n## Cards\n\n" +
			"<picture><source media=\"(prefers-color-scheme: dark)\" srcset=\"docs/img/b.svg\"><img src=\"docs/img/a.svg\" alt=\"drawn\"></picture>\n\n" +
			"See [docs/a.md](docs/a.md), [docs/a.md](docs/a.md#more-than-that) and [the code](nft/nft.go#L3).\n",
		"docs/a.md": "<!-- nobody reads this -->\n# First\n\nA [table](#more-than-that), [home](../README.md#in-go), " +
			"[code](../nft), [elsewhere](https://example.com/).\n\n![drawn](img/a.svg)\n\n## More than *that*\n\n" +
			"| a | b |\n| --- | ---: |\n| `x` | 1 |\n\n```yaml\nkey: \"value\" # why\n```\n\n### More than that\n\n" +
			"```mermaid\nflowchart TB\n  a --> b\n```\n\n## Größe_1: what?\n",
		"docs/probes.md":   "# Probes\n",
		"docs/concepts.md": "# Concepts\n\n## Hooks, chains and rules\n",
		"docs/b.md":        "# Second\n\nSee [examples](../examples/x/).\n",
		"docs/getting-started.md": "# Start\n\n## In a cluster\n\n## With an init container\n\n## From the node\n\n" +
			"## From a Go program\n\n## On a bare host\n",
		"kube/internal/notices/third_party.txt": "of others",
		"docs/img/a.svg":                        "<svg/>",
		"docs/img/b.svg":                        "<svg></svg>",
		"examples/x/README.md":                  "# An example\n",
		"nft/nft.go":                            "package nft\n",
		"LICENSE":                               "of a kind",
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

func options(repository fs.FS) Options {
	return Options{
		Program: map[string][]byte{"playground/wasm_exec.js": {}},
		Finish: func(files map[string][]byte) error {
			files["playground/first.js"] = []byte{}
			return nil
		},
		Repository: repository, Assets: os.DirFS("../../assets"), Version: "v1.2.3",
		URL: "https://example.com/us", Ref: "v1.2.3", Base: "/base/",
	}
}

func build(t *testing.T, o Options) map[string][]byte {
	t.Helper()
	files, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestRepository: the site of this repository has each document, no broken link, and the same bytes every time.
func TestRepository(t *testing.T) {
	o := options(os.DirFS("../../.."))
	files := build(t, o)
	again := build(t, o)
	for _, name := range Paths(files) {
		if !bytes.Equal(files[name], again[name]) {
			t.Errorf("%s is not the same the second time", name)
		}
	}
	docs, err := fs.Glob(o.Repository, "docs/*.md")
	if err != nil || len(docs) < 10 {
		t.Fatal(docs, err)
	}
	for _, doc := range append(docs, "README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md") {
		if files[strings.TrimSuffix(doc, ".md")+".html"] == nil {
			t.Errorf("%s is not in the site", doc)
		}
	}
}

func TestPage(t *testing.T) {
	files := build(t, options(small()))
	page := string(files["docs/a.html"])
	for _, want := range []string{
		`<title>First – Intercept</title>`,
		`<a href="../README.html#in-go">home</a>`,
		`<a href="https://example.com/us/tree/v1.2.3/nft">code</a>`,
		`<img src="img/a.svg" alt="drawn">`,
		`<h2 id="more-than-that">`, `<h3 id="more-than-that-1">`, `<h2 id="größe_1-what">`,
		`<li class="l2"><a href="#more-than-that">More than that</a></li>`,
		`<td align="right">1</td>`,
		`<span class="n">key</span>: <span class="s">&quot;value&quot;</span> <span class="c"># why</span>`,
		`<figure class="diagram"><svg role="img"`,
		`href="https://example.com/us/blob/v1.2.3/docs/a.md"`,
		`aria-current="page">First</a>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(page, "nobody reads this") {
		t.Error("comments are in the page")
	}
	if t.Failed() {
		t.Log(page)
	}
	readme := string(files["README.html"])
	for _, want := range []string{
		`<a href="docs/a.html">First</a>`, `<a href="docs/a.html#more-than-that">First: More than that</a>`,
		`<a href="https://example.com/us/blob/v1.2.3/nft/nft.go#L3">the code</a>`,
		`<meta name="description" content="It intercepts.">`,
	} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.html has no %s", want)
		}
	}
	if b := string(files["docs/b.html"]); !strings.Contains(b, `<a href="../examples/x/README.html">examples</a>`) {
		t.Error("a link to a folder does not lead to its README")
	}
	if missing := string(files["404.html"]); !strings.Contains(missing, `href="/base/site.css"`) {
		t.Errorf("404.html finds its styles at the site's root alone:\n%s", missing)
	}
	if front := string(files["index.html"]); !strings.Contains(front, `<figure><a href="playground/index.html"><picture><source media=`) {
		t.Error("the front page does not have README's picture")
	}
	if string(files["docs/img/a.svg"]) != "<svg/>" || files["docs/img/b.svg"] == nil {
		t.Error("the picture is not in the site")
	}
}

// TestBroken: a link that leads nowhere is named with its file and line, all of them at once.
func TestBroken(t *testing.T) {
	for text, want := range map[string]string{
		"# A\n\n[x](c.md)":                     "docs/a.md:3: it links to c.md, which does not exist",
		"# A\n\n[x](../nft/c.go)":              "docs/a.md:3: it links to ../nft/c.go, which does not exist",
		"# A\n\n[x](../../etc/passwd)":         "docs/a.md:3: it links to ../../etc/passwd, which does not exist",
		"# A\n\n\n[x](b.md#none)":              "docs/a.md:4: it links to b.html#none, and docs/b.html has no heading or anchor of that name",
		"# A\n\n[x](#none)":                    "docs/a.md:3: it links to #none, and docs/a.html has no heading or anchor of that name",
		"# A\n\n![x](img/none.svg)":            "docs/a.md:3: it links to img/none.svg, which does not exist",
		"# A\n\n![x](https://example.com/a.x)": "docs/a.md:3: the picture https://example.com/a.x is not of the repository, and the site asks nobody else",
		"# A\n\n<img src=\"img/none.svg\">":    "docs/a.md:3: it links to img/none.svg, which does not exist",
		"# A\n\n[x](http://example.com)":       "docs/a.md: it links to http://example.com, which is not https",
		"no heading":                           "docs/a.md: it has no heading of the first level",
		"# A\n\n# B":                           "docs/a.md: it has 2 headings of the first level",
		"# A\n\n<a id=\"a\"></a>":              `docs/a.md: two elements have the ID "a"`,
		"# A\n\n<b style=\"x\">b</b>":          "docs/a.md: <b> has a style of its own, which the policy refuses",
		"# A\n\n<script>x</script>":            "docs/a.md: <script> with something in it, which the policy refuses",
		"# A\n\n<img src=\"//x.example/a\">":   "docs/a.md:3: the picture //x.example/a is not of the repository, and the site asks nobody else",
		"# A\n\n<link href=\"//x.example/a\">": "docs/a.md: <link> asks //x.example/a",
		"# A\n\n<b onclick=\"x\">b</b>":        "docs/a.md: <b> has onclick, which the policy refuses",
		"# A\n\n```mermaid\npie\n```":          `docs/a.md: a diagram: line 1: "pie" is no flowchart, of TB or LR`,
	} {
		files := small()
		files["docs/a.md"] = &fstest.MapFile{Data: []byte(text)}
		files["README.md"] = &fstest.MapFile{Data: []byte("# Intercept\n\n## In Go\n")}
		_, err := Build(options(files))
		if err == nil || !slices.Contains(strings.Split(err.Error(), "\n"), want) {
			t.Errorf("%q:\n%v\nwant\n%s", text, err, want)
		}
	}
	scripts := options(small())
	scripts.Finish = nil
	scripts.Program = map[string][]byte{"playground/wasm_exec.js": []byte(`import "./x.js"`)}
	scripts.Assets = fstest.MapFS{
		"site.css": {}, "theme.js": {}, "icon.svg": {}, "site.js": {Data: []byte(`import a from "./none.js"; await import("./theme.js")`)},
	}
	if _, err := Build(scripts); err == nil || err.Error() != "site.js: it imports ./none.js, and the site has no none.js" {
		t.Errorf("a script imports what is not there: %v", err)
	}
	if _, err := Build(Options{Base: "base"}); err == nil {
		t.Error("a base path without slashes is taken")
	}
	if _, err := Build(options(fstest.MapFS{})); err == nil {
		t.Error("an empty folder is taken for the repository")
	}
}

// TestAnchors: as GitHub makes them.
func TestAnchors(t *testing.T) {
	a := anchors{}
	for _, test := range []struct{ heading, want string }{
		{"From kubectl", "from-kubectl"},
		{"What is in force?", "what-is-in-force"},
		{"`mesh-init`: a_b, c.d & e", "mesh-init-a_b-cd--e"},
		{"O1 … O14", "o1--o14"},
		{"From kubectl", "from-kubectl-1"},
		{"From kubectl", "from-kubectl-2"},
	} {
		if got := string(a.Generate([]byte(test.heading), 0)); got != test.want {
			t.Errorf("%q: %q, want %q", test.heading, got, test.want)
		}
	}
}

// TestTree: the navigation is that of docs/index.md, and what is not there comes last.
func TestTree(t *testing.T) {
	files := small()
	files[contents] = &fstest.MapFile{Data: []byte("# Docs\n\nSee [this](a.md).\n\n## One\n\n- [The first](a.md): what it is\n- [again](a.md)\n" +
		"- [part](b.md#x)\n\n## Two\n\n| do | read |\n| --- | --- |\n| it | [B](b.md) |\n\n[x](https://example.com)\n")}
	files["docs/b.md"] = &fstest.MapFile{Data: []byte("# Second\n\n## X\n")}
	page := string(build(t, options(files))["docs/b.html"])
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for n := range root.Descendants() {
		if n.Data != "nav" || !slices.Contains(n.Attr, html.Attribute{Key: "id", Val: "pages"}) {
			continue
		}
		for w := range n.Descendants() {
			if w.Type == html.TextNode && strings.TrimSpace(w.Data) != "" {
				said = append(said, w.Data)
			}
		}
	}
	want := []string{"One", "Overview", "In one page", "The first", "Two", "B",
		"Examples", "An example", "More", "Concepts", "Start", "Probes"}
	if !slices.Equal(said, want) {
		t.Errorf("the navigation is %q, want %q", said, want)
	}
	for _, want := range []string{`<a rel="prev" href="../docs/a.html">`, `<a rel="next" href="../examples/x/README.html">`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestIndex: what search.js finds is each heading with its text.
func TestIndex(t *testing.T) {
	var got struct {
		Pages    []struct{ URL, Title string }
		Sections [][4]any
	}
	if err := json.Unmarshal(build(t, options(small()))["search.json"], &got); err != nil {
		t.Fatal(err)
	}
	var said []string
	played := false
	for _, s := range got.Sections {
		p := got.Pages[int(s[0].(float64))]
		if p.URL == "playground/index.html" && strings.Contains(s[3].(string), "The playground") {
			played = true
		}
		if path.Base(p.URL) == "a.html" {
			said = append(said, strings.Join([]string{p.Title, s[1].(string), s[2].(string), s[3].(string)}, " | "))
		}
	}
	want := []string{
		"First |  | First | A table, home, code, elsewhere. drawn",
		`First | more-than-that | More than that | a b x 1 key: "value" # why`,
		"First | more-than-that-1 | More than that | ",
		"First | größe_1-what | Größe_1: what? | ",
	}
	if !slices.Equal(said, want) {
		t.Errorf("%q\nwant\n%q", said, want)
	}
	if !played {
		t.Error("the playground is not among what is found")
	}
}
