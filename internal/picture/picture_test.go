package picture_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/picture"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// rulesets are those of some configurations: the default, everything, and random ones.
func rulesets(t *testing.T) map[string]ruleset.Ruleset {
	t.Helper()
	all := map[string]ruleset.Ruleset{}
	add := func(name string, c intercept.Config) {
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = rs
	}
	add("default", intercept.Default())
	off := intercept.Default()
	off.Inbound.Mode, off.Backstop = intercept.InboundOff, intercept.BackstopOff
	add("outbound", off)
	random := rand.New(rand.NewPCG(7, 7))
	for i := range 100 {
		add(fmt.Sprint("random ", i), gen.Config(random))
	}
	hostile := ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4}, Chains: []ruleset.Chain{
		{Name: "output", Hook: ruleset.Output, Type: ruleset.NATChain, Rules: []ruleset.Rule{
			{ID: "O1", Reason: "\"]); <b>#&`\\l\n end ]]>", Target: ruleset.Jump{Chain: "a"}}}},
		{Name: "a", Rules: []ruleset.Rule{{ID: "O2", Reason: strings.Repeat("long ", 50), Target: ruleset.Goto{Chain: "a"}}}},
	}}
	for i := range 100 {
		hostile.Chains[1].Rules = append(hostile.Chains[1].Rules,
			ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("O3.%d", i)), Target: ruleset.Return{}})
	}
	all["hostile"] = hostile
	all["nothing"] = ruleset.Ruleset{}
	return all
}

// TestMermaid: each line is one of the grammar's that GitHub draws, blocks are closed, and ways lead between boxes.
func TestMermaid(t *testing.T) {
	// Quoted texts have no character that ends them, and nothing that is read as markup but <br/>.
	const text = `"(?:[^"<>&#` + "`" + `]|<br/>|#(?:35|96|quot|lt|gt|amp);)*"`
	boxes := regexp.MustCompile(`^        (n\d+)(?:\[` + text + `\]|\(\[` + text + `\]\)|\{\{` + text + `\}\}|\[\[` +
		text +
		`\]\]|\[/` + text + `/\])$`)
	ways := regexp.MustCompile(`^    (n\d+) (?:-->|-\.->\|(?:jump|goto)\||==>\|` + text + `\|) (n\d+)$`)
	group := regexp.MustCompile(`^    subgraph g\d+\[` + text + `\]$`)
	for name, rs := range rulesets(t) {
		got := picture.Mermaid(rs)
		drawn, open := map[string]bool{}, false
		for i, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
			switch {
			case i == 0 && line == "flowchart TB", i == 1 && strings.HasPrefix(line, "    accTitle: "):
			case group.MatchString(line) && !open:
				open = true
			case line == "        direction TB" && open:
			case line == "    end" && open:
				open = false
			case boxes.MatchString(line) && open:
				drawn[boxes.FindStringSubmatch(line)[1]] = true
			case ways.MatchString(line) && !open:
				if m := ways.FindStringSubmatch(line); !drawn[m[1]] || !drawn[m[2]] {
					t.Errorf("%s: %s leads to nothing", name, line)
				}
			default:
				t.Errorf("%s: line %d: %q", name, i+1, line)
			}
		}
		if open {
			t.Errorf("%s: a block is not closed", name)
		}
		for _, c := range rs.Chains {
			if n := strings.Count(got, `"`+c.Name+"<br/>"); len(c.Rules) > 0 && n != 1 {
				t.Errorf("%s: chain %s is drawn %d times\n%s", name, c.Name, n, got)
			}
		}
	}
}

// TestDOT: each line is one of a grammar that the programs of Graphviz read; where they are, they read it.
func TestDOT(t *testing.T) {
	const text = `"(?:[^"\\]|\\[l"\\])*"`
	line := regexp.MustCompile(`^(digraph intercept \{|    label=` + text +
		`|    rankdir=TB|    node \[shape=box, fontname="monospace"\]|` +
		`    subgraph cluster_\d+ \{|        label=` + text + `|        n\d+ \[shape=[a-z]+, label=` + text + `\]|` +
		`    n\d+ -> n\d+ \[style=(?:solid|dashed), label=` + text + `\]|    \}|\})$`)
	program, err := exec.LookPath("dot")
	for name, rs := range rulesets(t) {
		got := picture.DOT(rs)
		for i, l := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
			if !line.MatchString(l) {
				t.Errorf("%s: line %d: %q", name, i+1, l)
			}
		}
		if err == nil {
			cmd := exec.Command(program, "-Tcanon")
			cmd.Stdin = strings.NewReader(got)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	}
}

// TestSVG: it is well-formed, has a title and a description, and no box covers another or is smaller than its text.
func TestSVG(t *testing.T) {
	type rect struct{ x, y, w, h int }
	for name, rs := range rulesets(t) {
		got := picture.SVG(rs)
		var view, last rect
		var rects []rect
		titles, texts := 0, 0
		d := xml.NewDecoder(strings.NewReader(got))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			start, is := token.(xml.StartElement)
			if !is {
				continue
			}
			attr := map[string]string{}
			for _, a := range start.Attr {
				attr[a.Name.Local] = a.Value
			}
			number := func(name string) int {
				n, _ := strconv.Atoi(attr[name])
				return n
			}
			switch start.Name.Local {
			case "svg":
				view = rect{0, 0, number("width"), number("height")}
				if attr["role"] != "img" || attr["aria-labelledby"] != "title desc" {
					t.Errorf("%s: %v", name, attr)
				}
			case "title", "desc":
				titles++
			case "rect":
				last = rect{number("x"), number("y"), number("width"), number("height")}
				for _, r := range rects {
					if last.x < r.x+r.w && r.x < last.x+last.w && last.y < r.y+r.h && r.y < last.y+last.h {
						t.Errorf("%s: %v covers %v", name, last, r)
					}
				}
				if last.x < 0 || last.x+last.w > view.w || last.y+last.h > view.h {
					t.Errorf("%s: %v is not within %v", name, last, view)
				}
				rects = append(rects, last)
			case "text":
				var s string
				if err := d.DecodeElement(&s, &start); err != nil {
					t.Fatal(err)
				}
				texts++
				class := attr["class"]
				if class == "head" || class == "on" {
					if number("x")+len([]rune(s))*6 > view.w {
						t.Errorf("%s: %q does not fit", name, s)
					}
					continue
				}
				// Fonts of fixed width are 0.6 as wide as high.
				if number("x") < last.x || number("x")+len([]rune(s))*66/10 > last.x+last.w || number("y") > last.y+last.h {
					t.Errorf("%s: %q does not fit into %v", name, s, last)
				}
			}
		}
		if titles != 2 || texts < 4 {
			t.Errorf("%s: %d titles, %d texts", name, titles, texts)
		}
		for _, want := range []string{"prefers-color-scheme:dark", `<title id="title">The way`,
			"a process in the pod sends"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: there is no %s", name, want)
			}
		}
	}
}

// TestReadmePicture keeps the README's picture: that of a few flags. With MESH_TEST_UPDATE=1 it writes it.
func TestReadmePicture(t *testing.T) {
	c := intercept.Default()
	c.Backstop = intercept.BackstopOff
	c.DNS.Mode = intercept.DNSAll
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "README.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	const begin, end = "<!-- picture: a test keeps it current -->\n", "<!-- /picture -->"
	before, rest, found := strings.Cut(text, begin)
	old, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("there is no place for the picture")
	}
	want := "```mermaid\n" + picture.Mermaid(rs) + "```\n"
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, old); diff != "" {
		t.Errorf("the README's picture is not what render makes (-): run MESH_TEST_UPDATE=1 go test ./internal/picture\n%s", diff)
	}
}
