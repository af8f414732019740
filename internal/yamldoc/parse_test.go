package yamldoc_test

import (
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// TestParseRefuses: what cannot be meant is an error that names the line.
func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":              "empty file",
		"# a comment\n": "empty file",
		"---\n":         "empty file",
		"null":          "empty file",
		"a: 1\n---\nb: 2\n": "more after the end of the first YAML document; a configuration is one document " +
			"(line 3)",
		"dns:\n  port: 1\n  port: 2\n": `dns.port: "port" is there twice, first on line 2 (line 3)`,
		"{\"a\": 1,\n\"a\": 2}":        `a: "a" is there twice, first on line 1 (line 2)`,
		"x: !!binary aGVsbG8=":         "the tag !!binary is not read here; leave it out (line 1)",
		"x: !mine y":                   "the tag !mine is not read here",
		"? {a: b}\n: c":                "a field's name is one word (line 1)",
		"? ~\n: c":                     "a field's name is one word (line 1)",
		"a: &a [*a]":                   "nested too deep",
		"a: *b":                        "unknown anchor",
		"a: 1\n<<: 5\n":                "<< takes in the fields of a mapping, or of a list of them (line 1)",
		"a:\n\t- 1\n":                  "line 2",
		"a: 1\n b: 2\n":                "line 2",
		"\xff\xfe\x00":                 "",
		"a: \"\\ud83d\\ude00\"\nb: [":  "",
		strings.Repeat("[", 20) + "1" + strings.Repeat("]", 20): "nested too deep",
	} {
		if n, err := yamldoc.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", text, n, err, want)
		}
	}
}

// TestParse: scalars are read as they are written, in YAML and in JSON.
func TestParse(t *testing.T) {
	port := intercept.Port
	for text, want := range map[string]func(*intercept.Config){
		"{}": func(*intercept.Config) {},
		"%YAML 1.1\n---\ninbound: {mode: off}\n...\n": func(c *intercept.Config) { c.Inbound.Mode = "off" },
		"\ufefftunnelPort: 1":                         func(c *intercept.Config) { c.TunnelPort = 1 },
		"{\n\t\"tunnelPort\":\t1\n}":                  func(c *intercept.Config) { c.TunnelPort = 1 },
		`{"tunnel\u0050ort": 1, "excludeInterfaces": ["a\/b"]}`: func(c *intercept.Config) {
			c.TunnelPort, c.ExcludeInterfaces = 1, []string{"a/b"}
		},
		`{"excludeInterfaces": ["\ud83d\ude00"]}`: func(c *intercept.Config) { c.ExcludeInterfaces = []string{"😀"} },
		"{tunnelPort: 1,}":                        func(c *intercept.Config) { c.TunnelPort = 1 },
		// YAML alone has this comma
		"tunnelPort: !!int 5": func(c *intercept.Config) { c.TunnelPort = 5 },
		"proxy: {mark: " +
			"0x539}": func(c *intercept.Config) {
			c.Proxy.Mark = intercept.Mark{Value: 0x539,
				Mask: 1<<32 - 1}
		},
		"outbound:\n  excludePorts: |\n    80,\n    " +
			"90\n": func(c *intercept.Config) { c.Outbound.ExcludePorts = intercept.Ports{port(80), port(90)} },
		"outbound: {exclude: [':53', {gids: 7}]}": func(c *intercept.Config) {
			c.Outbound.Exclude = []intercept.Exclusion{{Ports: intercept.Ports{port(53)}},
				{GIDs: intercept.IDs{intercept.ID(7)}}}
		},
		// Anchors, aliases and merge keys; a field that is there goes before one that is merged.
		"outbound: &o {excludePorts: &p [80]}\ninbound: {excludePorts: *p}\n": func(c *intercept.Config) {
			c.Outbound.ExcludePorts, c.Inbound.ExcludePorts = intercept.Ports{port(80)}, intercept.Ports{port(80)}
		},
		"outbound: &o {excludePorts: [80]}\ninbound:\n  <<: *o\n  includePorts: 90\n": func(c *intercept.Config) {
			c.Outbound.ExcludePorts, c.Inbound.ExcludePorts = intercept.Ports{port(80)}, intercept.Ports{port(80)}
			c.Inbound.IncludePorts = intercept.Ports{port(90)}
		},
		"inbound:\n  excludePorts: 1\n  <<: [{excludePorts: 2, port: 3}, {port: 4, mode: off}]\n": func(c *intercept.Config) {
			c.Inbound.ExcludePorts, c.Inbound.Port, c.Inbound.Mode = intercept.Ports{port(1)}, port(3), "off"
		},
	} {
		c, expected := intercept.Default(), intercept.Default()
		want(&expected)
		if _, err := decodeFile([]byte(text), &c); err != nil {
			t.Errorf("%q: %v", text, err)
		} else if diff := equalConfigs(expected, c); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

// TestFormat: what is written is read as the same node.
func TestFormat(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `{"a":{},"b":[],"c":null}`, `{"a":["off","80",80,true,"true","","~","a: b","- ` +
			`x","line\nbreak","tab\t","0010","1e3"," ","é"]}`,
		`[[1,[2]],{"off":{"80":"x"}}]`,
	} {
		n, err := strict.ParseJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		out, err := yamldoc.Format(n)
		if err != nil {
			t.Fatal(err)
		}
		back, err := yamldoc.Parse(out)
		if err != nil {
			t.Errorf("%s: %v\n%s", text, err, out)
		} else if diff := equalConfigs(bare(n), bare(back)); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", text, diff, out)
		}
	}
}

// bare is a node without lines, and with quotes where YAML need not have them.
func bare(n strict.Node) strict.Node {
	n.Line = 0
	n.Bare = n.Bare && strings.Trim(n.Text, "0123456789") == ""
	for i := range n.Items {
		n.Items[i] = bare(n.Items[i])
	}
	for i := range n.Fields {
		n.Fields[i].Line, n.Fields[i].Value = 0, bare(n.Fields[i].Value)
	}
	return n
}
