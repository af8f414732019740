package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaOf compiles one of the schemas of docs, such as status.schema.json, or a part of it, such as
// explain.schema.json#/$defs/matrix.
func schemaOf(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestExplainSchema holds what explain prints against docs/explain.schema.json, and each form of it against its own part.
func TestExplainSchema(t *testing.T) {
	schema := func(part string) *jsonschema.Schema { return schemaOf(t, "explain.schema.json"+part) }
	all := schema("")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"old": "outbound: {}\n", "new": "outbound: {excludePorts: [5432], udp: reject}\ndns: {mode: all}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		part  string
		args  string
		stdin string
	}{
		{"explanation", "--dst 10.1.2.3:443", ""},
		{"explanation", "--dst [fd00::1]:443 --families ipv4", ""},
		{"explanation", "--dst 10.1.2.3:53 --proto udp --dns all --mark 5", ""},
		{"matrix", "--matrix", ""},
		{"matrix", "--matrix --families ipv6 --dns all --udp reject --virtual-interfaces br-*", ""},
		{"diff", "--diff " + dir + "/old.yaml " + dir + "/old.yaml", ""},
		{"diff", "--diff " + dir + "/old.yaml " + dir + "/new.yaml", ""},
		{"diff", "--diff " + dir + "/old.yaml " + dir + "/new.yaml --inbound-mode tproxy", ""},
		{"whyNot", "--why-not 10.1.2.3:443", ""},
		{"whyNot", "--why-not 10.1.2.3:443 --families ipv6", ""},
		{"whyNot", "--why-not 10.1.2.3:443 --proto udp", ""},
		{"link", "--link", ""},
		{"link", "--link --dst 10.1.2.3:443 --dns all", ""},
		{"live", "--live --link --dst 10.1.2.3:443", ""},
		{"live", "--live --dst 10.1.2.3:443", ""},
		{"live", "--live --matrix", ""},
		{"live", "--live --why-not 10.1.2.3:5432", ""},
		{"live", "--live --diff " + dir + "/new.yaml", ""},
		{"flow", "--flows -", "tcp 10.0.0.1:1 -> 10.0.0.2:2\nx\nudp [fd00::1]:1 -> [fd00::2]:2 from=outside\n"},
	} {
		plane := plane(noKernel{t})
		if tc.part == "live" {
			plane = fakePlane{live: changed()}
		}
		r := invokeOn(t, plane, tc.stdin, nil, append([]string{"explain", "-o", "json"}, strings.Fields(tc.args)...)...)
		docs := []string{r.out}
		if tc.part == "flow" {
			docs = strings.Split(strings.TrimSpace(r.out), "\n")
		}
		for _, text := range docs {
			doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
			if err != nil {
				t.Errorf("%s: %v, %s", tc.args, err, r.stderr)
				continue
			}
			for _, s := range []*jsonschema.Schema{all, schema("#/$defs/" + tc.part)} {
				if err := s.Validate(doc); err != nil {
					t.Errorf("%s: %v", tc.args, err)
				}
			}
			for _, other := range []string{"explanation", "matrix", "diff", "whyNot", "link", "flow", "live"} {
				if other != tc.part && schema("#/$defs/"+other).Validate(doc) == nil {
					t.Errorf("%s is taken for a result of the kind %s", tc.args, other)
				}
			}
		}
	}
}
