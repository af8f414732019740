package quickstart_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/testing/quickstart"
)

const root = "../.."

// pages are all of the project's pages, from the root.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*.md", "examples/*/*.md", ".github/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			all = append(all, strings.TrimPrefix(path, root+"/"))
		}
	}
	if len(all) < 30 {
		t.Fatalf("there are pages that are not found: %q", all)
	}
	return all
}

func read(t *testing.T, page string) quickstart.Page {
	t.Helper()
	return quickstart.Read(t, filepath.Join(root, page))
}

// ofExamples reports whether a page is tested in its own directory.
func ofExamples(page string) bool { return strings.HasPrefix(page, "examples/") }

// TestRead: what a page shows, in a list and out of it, is under the heading above it.
func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	text := "# Page\n\n## One\n\n```yaml\n# a.yaml\na: 1\n```\n\n" +
		"1. Type:\n\n   ```console\n   $ first\n   said\n\n   $ second\n   ```\n" +
		"\n### More\n\n```sh\n# why\nthird # as here\n```\n\n## Two\n\n```go\n// main.go\npackage main\n```\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	page := quickstart.Read(t, path)
	commands := []quickstart.Command{{Line: "first", Output: "said\n\n", Section: "One"}, {Line: "second", Section: "One"}}
	if diff := cmp.Diff(commands, page.Commands); diff != "" {
		t.Error(diff)
	}
	blocks := []quickstart.Block{
		{Language: "yaml", Body: "# a.yaml\na: 1\n", Line: 5, Section: "One"},
		{Language: "console", Body: "$ first\nsaid\n\n$ second\n", Line: 12, Section: "One"},
		{Language: "sh", Body: "# why\nthird # as here\n", Line: 21, Section: "One"},
		{Language: "go", Body: "// main.go\npackage main\n", Line: 28, Section: "Two"},
	}
	if diff := cmp.Diff(blocks, page.Blocks); diff != "" {
		t.Error(diff)
	}
	files := map[string]string{"a.yaml": blocks[0].Body, "main.go": blocks[3].Body}
	if diff := cmp.Diff(files, page.Files); diff != "" {
		t.Error(diff)
	}
	if got := blocks[2].First(); got != "third # as here" {
		t.Errorf("%q", got)
	}
}

// TestIndex: docs/index.md lists each page in docs/, and those that belong to them, once.
func TestIndex(t *testing.T) {
	const index = "docs/index.md"
	want := []string{"../CHANGELOG.md", "../CODE_OF_CONDUCT.md", "../CONTRIBUTING.md", "../README.md", "../SECURITY.md"}
	for _, page := range pages(t) {
		if name, ok := strings.CutPrefix(page, "docs/"); ok && page != index {
			want = append(want, name)
		} else if ofExamples(page) {
			want = append(want, "../"+page)
		}
	}
	item := regexp.MustCompile(`^- \[([^]]+)\]\(([^)]+)\): (.*[^.])$`)
	var got []string
	for i, line := range read(t, index).Prose {
		if m := item.FindStringSubmatch(line); m != nil {
			got = append(got, m[2])
		} else if strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "  ") {
			t.Errorf("%s, line %d: it is no item, which has a link, a colon and what the page is about, on one line", index, i+1)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s lacks (-), or lists although it is none or is twice (+):\n%s", index, diff)
	}
}

// TestHeadings: a page begins with its only heading of the first level, skips no level, and has no heading twice at the
// same place in the tree.
func TestHeadings(t *testing.T) {
	for _, page := range pages(t) {
		level := 0
		for i, heading := range read(t, page).Headings {
			n := len(heading) - len(strings.TrimLeft(heading, "#"))
			if (n == 1) != (i == 0) || n > level+1 {
				t.Errorf("%s: %s", page, heading)
			}
			level = n
		}
		if level == 0 && !strings.HasPrefix(page, ".github/") {
			t.Errorf("%s has no heading", page)
		}
	}
}

// languages are those of blocks. Only the first two are commands.
var languages = []string{
	"console", "sh", "dockerfile", "go", "haproxy", "ini", "json", "mermaid", "text", "toml", "yaml"}

// TestCommands: each block of commands is in the list of who runs it, and who is in the list is there.
func TestCommands(t *testing.T) {
	runs := quickstart.Runs()
	used := make([]bool, len(runs))
	for _, page := range pages(t) {
		for _, b := range read(t, page).Blocks {
			switch {
			case !slices.Contains(languages, b.Language):
				t.Errorf("%s, line %d: the language of a block is one of %q, and not %q", page, b.Line, languages, b.Language)
			case b.Language == "text" && strings.HasPrefix(b.Body, "$ "):
				t.Errorf("%s, line %d: a command with a prompt is in a block of the language console", page, b.Line)
			case slices.Index(languages, b.Language) > 1 || b.IsFile() || ofExamples(page):
			default:
				i := slices.IndexFunc(runs, func(r quickstart.Run) bool { return r.Covers(page, b) })
				if i < 0 {
					t.Errorf("%s, line %d: no test runs this: %s; runs.go has the list", page, b.Line, b.First())
					continue
				}
				used[i] = true
			}
		}
	}
	for i, r := range runs {
		switch {
		case !used[i]:
			t.Errorf("%s has no commands such as %+v", r.Page, r)
		case r.Test == "" && r.Why == "":
			t.Errorf("%s: neither a test nor a reason: %+v", r.Page, r)
		case r.Test != "":
			dir, name, _ := strings.Cut(r.Test, " ")
			source := sources(t, filepath.Join(root, dir))
			if !strings.Contains(source, "\nfunc "+name+"(") {
				t.Errorf("%s: there is no test %s", r.Page, r.Test)
			}
			if r.Why == "" && r.Test != quickstart.Shown && !strings.Contains(source, filepath.Base(r.Page)) {
				t.Errorf("%s: the tests in %s do not read it", r.Page, dir)
			}
		}
	}
}

// sources are those of a directory's tests.
func sources(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	return all
}

// TestKubernetes: pages that say which Kubernetes the chart or what it installs needs say what the chart does.
func TestKubernetes(t *testing.T) {
	chart, err := os.ReadFile(filepath.Join(root, "deploy/chart/Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	needs := regexp.MustCompile(`(?m)^kubeVersion: ">=(1\.\d+)\.0-0"$`).FindSubmatch(chart)
	if needs == nil {
		t.Fatalf("the chart does not say what it needs: %s", chart)
	}
	for page, begins := range map[string]string{
		"docs/getting-started.md": "You have a cluster (Kubernetes ",
		"docs/helm.md":            "It needs Kubernetes ",
		"docs/injector.md":        "It needs Kubernetes ",
	} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		if want := begins + string(needs[1]) + " or "; !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %q", page, want)
		}
	}
}

// TestNames: the targets of make, and the files of the repository, that commands name exist.
func TestNames(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{"": true}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	target := regexp.MustCompile(`(?m)(?:^|&& |\(|env "PATH=\$PATH" |run )make ([a-z-]+)`)
	file := regexp.MustCompile(`(?m)(?:^|[\s"(=])(?:\./)?` +
		`((?:cmd|kube|packaging|testing|tools)/[\w./-]+|deploy/[\w-]+(?:/[\w./-]+|\.yaml))`)
	span := regexp.MustCompile("`([^`]+)`")
	for _, page := range pages(t) {
		p := read(t, page)
		commands := ""
		for _, b := range p.Blocks {
			if b.Language == "sh" || b.Language == "console" {
				commands += b.Body
			}
		}
		spans := span.FindAllStringSubmatch(strings.Join(p.Prose, "\n"), -1)
		for _, m := range spans {
			commands += m[1] + "\n"
		}
		for _, m := range target.FindAllStringSubmatch(commands, -1) {
			if !targets[m[1]] {
				t.Errorf("%s: make has no target %s", page, m[1])
			}
		}
		for _, m := range file.FindAllStringSubmatch(commands, -1) {
			if strings.Contains(m[1], "...") || strings.Contains(m[1], "VERB") || ofExamples(page) {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, strings.TrimRight(m[1], "."))); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// TestLinks: each link to a file of the repository, and to a heading in one, leads somewhere.
func TestLinks(t *testing.T) {
	anchors := map[string][]string{}
	found := 0
	for _, page := range pages(t) {
		prose := regexp.MustCompile("`[^`]*`").ReplaceAllString(strings.Join(read(t, page).Prose, "\n"), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			found++
			path, anchor, has := strings.Cut(m[1], "#")
			to := filepath.Join(filepath.Dir(page), path)
			if path == "" {
				to = page
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil || strings.HasPrefix(to, "..") {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
				continue
			}
			if !has {
				continue
			}
			if _, known := anchors[to]; !known {
				anchors[to] = anchorsOf(read(t, to).Headings)
			}
			if !slices.Contains(anchors[to], anchor) {
				t.Errorf("%s: %s has no heading #%s", page, to, anchor)
			}
		}
	}
	if found < 200 {
		t.Errorf("only %d links were found", found)
	}
}

// anchorsOf are the names that GitHub gives headings: in lower case, without punctuation, and numbered where there are
// several of one name.
func anchorsOf(headings []string) (all []string) {
	seen := map[string]int{}
	for _, heading := range headings {
		text := strings.TrimSpace(strings.TrimLeft(heading, "#"))
		text = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")
		text = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`).ReplaceAllString(strings.ToLower(text), "")
		anchor := strings.ReplaceAll(text, " ", "-")
		if n := seen[anchor]; n > 0 {
			all = append(all, anchor+"-"+string(rune('0'+n)))
		} else {
			all = append(all, anchor)
		}
		seen[anchor]++
	}
	return all
}

// TestFigures: what docs/comparison.md says of the speed of others is what was measured.
func TestFigures(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/comparison.md")
	if err != nil {
		t.Fatal(err)
	}
	measured, err := os.ReadFile(root + "/docs/img/peers.txt")
	if err != nil {
		t.Fatal(err)
	}
	figure := regexp.MustCompile(`\b\d+ ms\b|\b\d+\.\d\d\b`)
	_, speed, _ := strings.Cut(string(text), "\nSpeed: ")
	speed, _, _ = strings.Cut(speed, "\n\n")
	found := figure.FindAllString(speed, -1)
	for _, f := range found {
		if !strings.Contains(string(measured), " 1 "+f) {
			t.Errorf("%s is none of the figures in docs/img/peers.txt", f)
		}
	}
	if len(found) != 3 {
		t.Errorf("the page has the figures %q", found)
	}
}

// TestWords: no word stands twice where it cannot.
func TestWords(t *testing.T) {
	twice := regexp.MustCompile(`(?i)\b(a a|an an|and and|are are|as as|be be|by by|for for|has has|is is|of of|on on|` +
		`the the|to to|with with)\b`)
	for _, page := range pages(t) {
		text := strings.Join(read(t, page).Prose, " ")
		for _, found := range twice.FindAllString(regexp.MustCompile("`[^`]*`|\\s+").ReplaceAllString(text, " "), -1) {
			t.Errorf("%s: %q", page, found)
		}
	}
}

// TestAnchors holds that to examples.
func TestAnchors(t *testing.T) {
	got := anchorsOf([]string{"# Title", "## `outbound.port`", "## Is it on?", "## A, b: c", "## Title"})
	want := []string{"title", "outboundport", "is-it-on", "a-b-c", "title-1"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
