package diagram

import (
	"strings"
	"testing"

	"golang.org/x/net/html"
)

const example = `flowchart LR
    accTitle: From here to there
    in["flags · <file>"]
    subgraph pure["no I/O"]
        direction TB
        config["Config"] -- "Compile" --> rules(["Ruleset"])
    end
    subgraph effects["effects"]
        nft["nft"] --> kernel[("kernel")]
        kernel --> proxy[/"the proxy's port"/]
    end
    in ==>|"O12"| config
    rules -. "by netlink" .-> nft
    kernel -- "read back" --> effects
    config --> ask{{"two<br/>lines"}} --> rules
`

func TestParse(t *testing.T) {
	c, err := parse(example)
	if err != nil {
		t.Fatal(err)
	}
	var edges []string
	for _, e := range c.edges {
		edges = append(edges, strings.Join([]string{e.from, e.to, e.label, e.style}, " | "))
	}
	want := `config | rules | Compile | 
nft | kernel |  | 
kernel | proxy |  | 
in | config | O12 | bold
rules | nft | by netlink | dashed
kernel | effects | read back | 
config | ask |  | 
ask | rules |  | `
	if got := strings.Join(edges, "\n"); got != want {
		t.Errorf("edges\n%s\nwant\n%s", got, want)
	}
	for id, want := range map[string]string{"rules": "pure", "kernel": "effects", "in": ""} {
		got := ""
		if g := c.find(id).group; g != nil {
			got = g.id
		}
		if got != want {
			t.Errorf("%s is in %q, want %q", id, got, want)
		}
	}
	if c.title != "From here to there" || c.find("effects") != nil || c.find("ask").label != "two<br/>lines" {
		t.Errorf("%+v", c)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"sequenceDiagram":               "line 1: ",
		"flowchart TB\n  a --> b\n  a[": `line 3: "[" is no arrow`,
		"flowchart TB\n  a[\"b":         `line 2: "[\"b" has no "\"]"`,
		"flowchart TB\n  a ~~~ b":       `line 2: " ~~~ b" is no arrow`,
		"flowchart TB\n  a --> ":        `line 2: "" does not begin with a name`,
		"flowchart TB\n  style a fill":  `line 2: " a fill" is no arrow`,
	} {
		if _, err := (&Painter{}).SVG(text, "d"); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v; want %s", text, err, want)
		}
	}
}

// TestSVG: all words are in the picture, the page's styles paint it, and it is the same every time.
func TestSVG(t *testing.T) {
	p := &Painter{}
	defer p.Close()
	svg, err := p.SVG(example, "d1")
	if err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(strings.NewReader(svg))
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for n := range root.Descendants() {
		if n.Type == html.TextNode && n.Parent.Data == "text" {
			words = append(words, strings.TrimSpace(n.Data))
		}
		for _, a := range n.Attr {
			switch a.Key {
			case "style", "fill", "stroke", "font-family":
				t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
			case "id":
				if !strings.HasPrefix(a.Val, "d1-") {
					t.Errorf("the ID %q may be another picture's, too", a.Val)
				}
			}
		}
	}
	for _, want := range []string{"flags · <file>", "no I/O", "Config", "Compile", "O12", "by netlink", "two", "lines", "the proxy's port"} {
		if !strings.Contains("\n"+strings.Join(words, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("it does not say %q, but %q", want, words)
		}
	}
	if !strings.Contains(svg, "<title id=\"d1-title\">From here to there</title>") ||
		!strings.Contains(svg, "Config, Compile, to Ruleset") {
		t.Error("it does not say in words what it shows")
	}
	other := &Painter{}
	defer other.Close()
	if again, err := other.SVG(example, "d1"); err != nil || again != svg {
		t.Errorf("another picture the second time: %v", err)
	}
}
