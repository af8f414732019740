package answer_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// read is what a test reads of the answer to read.
type read struct {
	Forms, Fields, Unsaid    map[string]string
	Changed, Warnings, Notes []string
	Families                 []string
}

// TestForms: a configuration is the same in every form. Of istio-iptables' flags it is so but for what they cannot say.
func TestForms(t *testing.T) {
	random := rand.New(rand.NewPCG(31, 31))
	written := map[string]int{}
	for range 200 {
		fields := permalink.Fields(gen.Config(random))
		var first read
		if p := ask(t, answer.Request{Op: "read", Source: answer.Source{Fields: fields}}, &first); p != nil {
			t.Fatalf("%v: %+v", fields, p)
		}
		for path, text := range fields {
			if first.Fields[path] != text || !slices.Contains(first.Changed, path) {
				t.Fatalf("%s is %q, want %q", path, first.Fields[path], text)
			}
		}
		if len(first.Changed) != len(fields) {
			t.Errorf("%q are changed, want those of %v", first.Changed, fields)
		}
		for _, form := range answer.Forms() {
			text, there := first.Forms[form]
			if form == answer.FormFields {
				continue
			}
			if !there && first.Unsaid[form] == "" {
				t.Errorf("there is no form %s, and no word on why", form)
			}
			if !there || first.Unsaid[form] != "" {
				continue
			}
			written[form]++
			var again read
			if p := ask(t, answer.Request{Op: "read", Source: answer.Source{Form: form, Text: text}}, &again); p != nil {
				t.Fatalf("%s: %s: %+v", form, text, p)
			}
			if diff := cmp.Diff(first.Fields, again.Fields); diff != "" {
				t.Errorf("%s:\n%s (-):\n%s", form, text, diff)
			}
			if again.Forms[form] != text {
				t.Errorf("%s: what was written is not left alone:\n%s", form, again.Forms[form])
			}
		}
	}
	for _, form := range []string{answer.FormYAML, answer.FormFlags, answer.FormAnnotations} {
		if written[form] != 200 {
			t.Errorf("%s is there %d times of 200", form, written[form])
		}
	}
}

// TestReadForms: each form is read as who writes it expects.
func TestReadForms(t *testing.T) {
	for _, tc := range []struct {
		form, text string
		want       map[string]string // the fields that are not as in the default
		note       string
	}{
		{answer.FormYAML, "", nil, ""},
		{answer.FormYAML, "# nothing yet\n", nil, ""},
		{answer.FormYAML, "{}", nil, ""},
		{answer.FormYAML, `{"dns": {"mode": "all"}}`, map[string]string{"dns.mode": "all"}, ""},
		{answer.FormFlags, "", nil, ""},
		{answer.FormFlags, "--dns all", map[string]string{"dns.mode": "all"}, ""},
		{answer.FormFlags, "mesh-init explain \\\n  --dns=all --udp 'reject'", map[string]string{"dns.mode": "all",
			"outbound.udp": "reject"}, ""},
		{answer.FormFlags, "/usr/local/bin/mesh-init --dns resolvconf", map[string]string{"dns.mode": "all"},
			"the name servers are those of the pod's resolv.conf"},
		{answer.FormAnnotations, "", nil, ""},
		{answer.FormAnnotations, "intercept.mesh/enabled: \"true\"\nintercept.mesh/dns: all\nother/x: y\n",
			map[string]string{"dns.mode": "all"}, ""},
		{answer.FormAnnotations, "kind: Pod\nmetadata:\n  annotations:\n    intercept.mesh/enabled: \"true\"\n" +
			"    intercept.mesh/outbound-exclude-ports: 5432\n", map[string]string{"outbound.excludePorts": "5432"}, ""},
		{answer.FormAnnotations, "spec:\n  template:\n    metadata:\n      annotations: {intercept.mesh/enabled: true, " +
			"intercept.mesh/udp: reject}\n", map[string]string{"outbound.udp": "reject"}, ""},
		{answer.FormAnnotations, "traffic.sidecar.istio.io/excludeOutboundPorts: \"5432\"\nsidecar.istio.io/status: " +
			"'{\"initContainers\":[\"istio-init\"],\"containers\":[\"istio-proxy\"]}'\n", map[string]string{
			"outbound.excludePorts": "5432", "inbound.captureForwarded": "true", "families": "ipv4"},
			"these are annotations of Istio, as mesh-cni reads them"},
		{answer.FormAnnotations, "metadata: {annotations: {linkerd.io/inject: enabled, config.linkerd.io/skip-outbound-ports: 25}}",
			map[string]string{"outbound.excludePorts": "25", "inbound.excludePorts": "4190,4191,4567,4568", "inbound.port": "4143",
				"outbound.port": "4140", "proxy.uids": "2102", "proxy.gids": "none", "tunnelPort": "0", "inbound.hairpin": "pass",
				"inbound.captureForwarded": "true"}, "these are annotations of Linkerd"},
		{answer.FormAnnotations, "intercept.mesh/enabled: true\nkuma.io/mesh: default\n", nil,
			"the annotations of Kuma are not read"},
		{answer.FormIstio, "istio-iptables -i '*' -b '*' -d 15020,15021,15090 --dual-stack",
			map[string]string{"inbound.captureForwarded": "true"}, ""},
		{answer.FormIstio, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=7 pilot-agent istio-iptables -i '*' -b '*' -d 15020,15021,15090 " +
			"--dual-stack --redirect-dns", map[string]string{"inbound.captureForwarded": "true", "dns.mode": "resolvconf",
			"dns.servers": "10.96.0.10", "outbound.excludeGIDs": "7"}, "10.96.0.10 stands for its name servers"},
	} {
		var got read
		if p := ask(t, answer.Request{Op: "read", Source: answer.Source{Form: tc.form, Text: tc.text}}, &got); p != nil {
			t.Errorf("%s: %q: %+v", tc.form, tc.text, p)
			continue
		}
		changed := map[string]string{}
		for _, path := range got.Changed {
			changed[path] = got.Fields[path]
		}
		if diff := cmp.Diff(tc.want, changed); diff != "" && len(tc.want)+len(changed) > 0 {
			t.Errorf("%s: %q (-):\n%s", tc.form, tc.text, diff)
		}
		if notes := strings.Join(got.Notes, "; "); !strings.Contains(notes, tc.note) || tc.note == "" && notes != "" {
			t.Errorf("%s: %q: the notes are %q, want %q", tc.form, tc.text, notes, tc.note)
		}
	}
	var got read
	if p := ask(t, answer.Request{Op: "read", Source: answer.Source{Fields: map[string]string{"outbound.excludeCIDRs": "*"}}},
		&got); p != nil || len(got.Warnings) == 0 || len(got.Families) != 2 {
		t.Errorf("%+v, %+v", p, got)
	}
}

// TestProblems: what is wrong is said where it is, in every form.
func TestProblems(t *testing.T) {
	form := func(pairs ...string) answer.Source {
		fields := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			fields[pairs[i]] = pairs[i+1]
		}
		return answer.Source{Form: answer.FormFields, Fields: fields}
	}
	text := func(form, text string) answer.Source { return answer.Source{Form: form, Text: text} }
	for name, tc := range map[string]struct {
		source answer.Source
		want   []answer.Problem // Text is a part of it
	}{
		"a field": {form("dns.mode", "some"), []answer.Problem{{Field: "dns.mode", Text: `"some" is not one of off, resolvconf, all`}}},
		"two fields": {form("dns.mode", "some", "tunnelPort", "x"),
			[]answer.Problem{{Field: "tunnelPort", Text: `"x" is not a port`}, {Field: "dns.mode", Text: `"some" is not one of`}}},
		"no field":    {form("dns.moda", "all"), []answer.Problem{{Field: "dns.moda", Text: "unknown field; did you mean dns.mode?"}}},
		"valid alone": {form("proxy.uids", "0"), []answer.Problem{{Field: "proxy.uids", Text: "0"}}},
		"nothing":     {form("outbound.includeCIDRs", "none", "inbound.mode", "off"), []answer.Problem{{Text: "captures nothing"}}},
		"YAML": {text(answer.FormYAML, "dns:\n  mode: some\n  port: 99999\n"),
			[]answer.Problem{{Field: "dns.mode", Line: 2, Text: "is not one of"}, {Field: "dns.port", Line: 3, Text: `"99999"`}}},
		"no YAML": {text(answer.FormYAML, "dns: [\n"), []answer.Problem{{Line: 1, Text: "did not find"}}},
		"flags": {text(answer.FormFlags, "--dns some --udp=x --outbound-exclude-port 1"), []answer.Problem{
			{Source: "--outbound-exclude-port", Text: "unknown flag; did you mean --outbound-exclude-ports?"},
			{Source: "--dns", Field: "dns.mode", Text: `"some" is not one of`},
			{Source: "--udp", Field: "outbound.udp", Text: `"x" is not one of`}}},
		"a file":   {text(answer.FormFlags, "--outbound-exclude-cidrs @x"), []answer.Problem{{Source: "--outbound-exclude-cidrs", Field: "outbound.excludeCIDRs", Text: "a page reads no files"}}},
		"no words": {text(answer.FormFlags, "--dns 'all"), []answer.Problem{{Text: "a quote is not closed"}}},
		"annotations": {text(answer.FormAnnotations, "intercept.mesh/enabled: \"true\"\nintercept.mesh/dns: some\n"),
			[]answer.Problem{{Source: "intercept.mesh/dns", Field: "dns.mode", Line: 2, Text: `"some" is not one of`}}},
		"not intercepted": {text(answer.FormAnnotations, "intercept.mesh/enabled: \"false\"\n"),
			[]answer.Problem{{Text: "this pod is not intercepted: disabled"}}},
		"another mesh's": {text(answer.FormAnnotations, "linkerd.io/inject: enabled\nconfig.linkerd.io/skip-inbound-ports: a\n"),
			[]answer.Problem{{Source: "config.linkerd.io/skip-inbound-ports", Line: 2, Text: `"a"`}}},
		"nobody's": {text(answer.FormAnnotations, "app.kubernetes.io/name: x\n"), []answer.Problem{{Text: "such a pod is not intercepted"}}},
		"a pod without": {text(answer.FormAnnotations, "kind: Pod\nmetadata: {name: x}\n"),
			[]answer.Problem{{Text: "such a pod is not intercepted"}}},
		"words":    {text(answer.FormAnnotations, "please capture all"), []answer.Problem{{Text: "neither a list of annotations"}}},
		"a list":   {text(answer.FormAnnotations, "- intercept.mesh/enabled: true"), []answer.Problem{{Text: "neither a list of annotations"}}},
		"istio":    {text(answer.FormIstio, "-p x -i '*'"), []answer.Problem{{Source: "--envoy-port (-p)", Text: `"x" is not a port`}}},
		"no rules": {text(answer.FormIstio, "--cleanup-only"), []answer.Problem{{Text: "this asks for no rules"}}},
		"no form":  {text("toml", "x"), []answer.Problem{{Text: "form: "}}},
	} {
		p := ask(t, answer.Request{Op: "read", Source: tc.source}, nil)
		if p == nil {
			t.Errorf("%s: it is taken", name)
			continue
		}
		all := p.All
		if all == nil {
			all = []answer.Problem{*p}
		}
		if len(all) != len(tc.want) {
			t.Errorf("%s: %+v", name, all)
			continue
		}
		for _, want := range tc.want {
			if !slices.ContainsFunc(all, func(got answer.Problem) bool {
				return got.Field == want.Field && got.Source == want.Source && got.Line == want.Line && got.Of == "source" &&
					strings.Contains(got.Text, want.Text)
			}) {
				t.Errorf("%s: there is no %+v among %+v", name, want, all)
			}
		}
	}
}

// TestSchema: it has all fields that there are, in the words of the table that decodes them.
func TestSchema(t *testing.T) {
	var got answer.Schema
	if p := ask(t, answer.Request{Op: "schema"}, &got); p != nil {
		t.Fatal(p)
	}
	document, err := os.ReadFile("../../docs/config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var want, is any
	if err := json.Unmarshal(document, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got.Document, &is); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, is); diff != "" {
		t.Errorf("docs/config.schema.json (-):\n%s", diff)
	}
	var defaults read
	if p := ask(t, answer.Request{Op: "read"}, &defaults); p != nil {
		t.Fatal(p)
	}
	if len(got.Fields) != len(defaults.Fields) {
		t.Errorf("%d fields, want %d", len(got.Fields), len(defaults.Fields))
	}
	for _, f := range got.Fields {
		if defaults.Fields[f.Path] != f.Default || f.Meaning == "" || !slices.Contains(got.Sections, f.Section) ||
			(f.Kind == "choice" || f.Kind == "switch") != (f.Choices != nil) {
			t.Errorf("%+v, and its default is %q", f, defaults.Fields[f.Path])
		}
	}
	packet := map[string]any{}
	for _, f := range got.Packet {
		packet[f.Path] = f.Default
		if f.Kind == "switch" {
			packet[f.Path] = false
		}
	}
	packet["dst"], packet["src"] = "10.1.2.3:443", "10.244.1.7"
	packet["interface"] = "eth0"
	request, err := json.Marshal(map[string]any{"op": "explain", "packet": packet})
	if err != nil {
		t.Fatal(err)
	}
	if text := answer.Ask(request); !strings.Contains(string(text), `"fate":"redirect(15001)"`) {
		t.Errorf("%s: %s", request, text)
	}
}
