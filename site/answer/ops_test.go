package answer_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestExplain: the way of a packet that is captured, of one inside the pod, and of one that is wrong.
func TestExplain(t *testing.T) {
	explain := func(source, packet string) (got explained, p *answer.Problem) {
		request := `{"op":"explain","source":{"form":"flags","text":"` + source + `"},"packet":` + packet + `}`
		text := answer.Ask([]byte(request))
		var failed struct{ Error *answer.Problem }
		if err := json.Unmarshal(text, &failed); err != nil {
			t.Fatal(err)
		}
		if failed.Error == nil {
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
		}
		return got, failed.Error
	}
	got, _ := explain("--outbound-port 15001-15004", `{"dst":"[fd00::1]:443"}`)
	if got.Change == nil || *got.Change != (answer.Rewrite{Before: "[fd00::1]:443", After: "[::1]:15001-15004"}) || !got.Captured ||
		got.Meaning != "outbound, to the proxy" {
		t.Errorf("%+v", got)
	}
	if got.Command != "mesh-init explain '--dst=[fd00::1]:443' --outbound-port=15001-15004" {
		t.Errorf("%s", got.Command)
	}
	last := got.Steps[len(got.Steps)-1]
	if last.Hook != "output" || last.Base != "output" || !last.Decided {
		t.Errorf("%+v", last)
	}
	got, _ = explain("--dns all", `{"dst":"10.244.1.7:8080","toSelf":true}`)
	var hooks []string
	for _, w := range got.Way {
		hooks = append(hooks, w.Hook)
	}
	if got.Captured || got.Change != nil || strings.Join(hooks, " ") != "output input" {
		t.Errorf("%q, %+v", hooks, got)
	}
	got, _ = explain("--inbound-mode tproxy", `{"from":"outside","dst":"10.244.1.7:8080"}`)
	if got.Change == nil || got.Change.Before != got.Change.After {
		t.Errorf("%+v", got)
	}
	got, _ = explain("--virtual-interfaces br-vm", `{"from":"outside","interface":"br-vm","dst":"203.0.113.9:443"}`)
	if got.Change == nil || got.Change.After != "the address of br-vm, port 15001" {
		t.Errorf("%+v", got)
	}
	if got, _ := explain("--dns all", `{"dst":"10.96.0.10:53","proto":"udp"}`); !slices.ContainsFunc(got.Steps,
		func(s answer.Step) bool { return s.Effect != "" && s.Base == "raw_output" }) {
		t.Errorf("no rule chooses the zone: %+v", got.Steps)
	}
	for packet, want := range map[string]answer.Problem{
		`{"dst":"10.1.2.3"}`:                                   {Field: "packet.dst", Text: "has no port"},
		`{"dst":"224.0.0.1:80"}`:                               {Field: "packet.dst", Text: "stands for many hosts"},
		`{"dst":"10.1.2.3:80","from":"moon"}`:                  {Field: "packet.from", Text: `"moon" is not one of`},
		`{"dst":"10.1.2.3:80","from":"outside","toSelf":true}`: {Field: "packet.toSelf", Text: "what comes from outside"},
		`null`: {Text: "packet: missing"},
	} {
		_, p := explain("", packet)
		if p == nil || p.Field != want.Field || !strings.Contains(p.Text, want.Text) || p.Of != "" {
			t.Errorf("%s: %+v, want %+v", packet, p, want)
		}
	}
}

// TestEnds: the picture leads where the packet gets to.
func TestEnds(t *testing.T) {
	for _, test := range []struct {
		flags, packet string
		want          answer.End
	}{
		{"", `{"from":"outside","dst":"10.244.0.5:15021"}`, answer.EndProxy}, // past its port for inbound connections
		{"", `{"from":"outside","dst":"10.244.0.5:15008"}`, answer.EndProxy},
		{"--tunnel-port 16008", `{"from":"outside","dst":"10.244.0.5:16008"}`, answer.EndProxy},
		{"--tunnel-port 16008", `{"from":"outside","dst":"10.244.0.5:15008"}`, answer.EndProxy}, // by way of 15006
		{"--inbound-exclude-ports 8080", `{"from":"outside","dst":"10.244.0.5:8080"}`, answer.EndApp},
		{"", `{"from":"outside","dst":"10.244.0.5:8080"}`, answer.EndProxy},
		{"", `{"from":"outside","proto":"udp","dst":"10.244.0.5:15021"}`, answer.EndApp},
		{"", `{"from":"outside","proto":"icmp","dst":"10.244.0.5"}`, answer.EndApp},
		{"", `{"from":"outside","dst":"127.0.0.1:8080"}`, answer.EndDiscarded},
		{"--virtual-interfaces docker0", `{"from":"outside","interface":"docker0","dst":"10.1.2.3:53","proto":"udp"}`,
			answer.EndThrough},
		{"", `{"dst":"127.0.0.1:15021"}`, answer.EndProxy},
		{"", `{"dst":"127.0.0.1:8080"}`, answer.EndApp},
		{"--dns all", `{"dst":"127.0.0.1:15053","proto":"udp"}`, answer.EndProxy},
		{"", `{"dst":"127.0.0.1:15053","proto":"udp"}`, answer.EndApp},
		{"", `{"dst":"10.1.2.3:443","proto":"udp"}`, answer.EndNetwork},
		{"--udp reject", `{"dst":"10.1.2.3:443","proto":"udp"}`, answer.EndStopped},
		{"--dns all --families ipv4 --dns-target 169.254.20.10:53", `{"dst":"10.1.2.3:53","proto":"udp"}`, answer.EndElsewhere},
	} {
		var got struct {
			End   answer.End
			Error *answer.Problem
		}
		request := `{"op":"explain","source":{"form":"flags","text":"` + test.flags + `"},"packet":` + test.packet + `}`
		if err := json.Unmarshal(answer.Ask([]byte(request)), &got); err != nil || got.End != test.want {
			t.Errorf("%s %s: %s, want %s; %v %+v", test.flags, test.packet, got.End, test.want, err, got.Error)
		}
	}
}

// TestSpared: a rule that captures, and is not asked, is named where the packet fits it alone.
func TestSpared(t *testing.T) {
	for _, test := range []struct{ flags, packet, want string }{
		{"", `{"from":"outside","dst":"10.244.0.5:15021"}`, "I7"},
		{"", `{"from":"outside","dst":"10.244.0.5:15008"}`, "I7"},
		{"--inbound-include-ports 80", `{"from":"outside","dst":"10.244.0.5:15021"}`, ""},
		{"", `{"from":"proxy","dst":"10.1.2.3:443"}`, "O12"}, // by its user, by its group
		{"", `{"from":"proxy","dst":"10.1.2.3:443","proto":"udp"}`, ""},
		{"--outbound-exclude-ports 5432", `{"dst":"10.1.2.3:5432"}`, "O12"},
		{"--outbound-exclude-ports 5432 --outbound-include-cidrs 192.0.2.0/24", `{"dst":"10.1.2.3:5432"}`, ""},
		{"", `{"dst":"10.1.2.3:443"}`, ""}, // it is captured
		{"", `{"from":"outside","proto":"icmp","dst":"10.244.0.5"}`, ""},
	} {
		var got struct{ Spared *answer.Spared }
		request := `{"op":"explain","source":{"form":"flags","text":"` + test.flags + `"},"packet":` + test.packet + `}`
		if err := json.Unmarshal(answer.Ask([]byte(request)), &got); err != nil {
			t.Fatal(err)
		}
		var id string
		if got.Spared != nil {
			if id = string(got.Spared.ID); got.Spared.Reason == "" || got.Spared.Fate == "" {
				t.Errorf("%s %s: %+v", test.flags, test.packet, got.Spared)
			}
		}
		if id != test.want {
			t.Errorf("%s %s: %q, want %q", test.flags, test.packet, id, test.want)
		}
	}
}

// rendered is what mesh-init render prints for a backend.
func rendered(t *testing.T, c intercept.Config, backend string) string {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := dataplane.Pod{Backend: dataplane.Backend(backend)}.Render(rs) // the answer has the error
	return text
}

func linesOf(text answer.Text) string {
	var b strings.Builder
	for _, l := range text.Lines {
		b.WriteString(l.Text + "\n")
	}
	return b.String()
}

// TestRules: every rule is in each text, on a line that knows whose it is, and every chain at its hook.
func TestRules(t *testing.T) {
	random := rand.New(rand.NewPCG(32, 32))
	for i := range 50 {
		c := gen.Config(random)
		if i == 0 {
			c = intercept.Default()
		}
		source := answer.Source{Fields: permalink.Fields(c)}
		var rules answer.Rules
		if p := ask(t, answer.Request{Op: "rules", Source: source}, &rules); p != nil {
			t.Fatal(p)
		}
		var drawn answer.Chains
		if p := ask(t, answer.Request{Op: "chains", Source: source}, &drawn); p != nil {
			t.Fatal(p)
		}
		for name, text := range map[string]answer.Text{"nft": rules.NFT, "iptables": rules.IPTables} {
			if want := rendered(t, c, name); text.Error == "" && linesOf(text) != want {
				t.Errorf("%v: %s (-):\n%s", source.Fields, name, cmp.Diff(want, linesOf(text)))
			}
			if text.Error != "" {
				if name == "nft" || len(text.Lines) > 0 {
					t.Errorf("%v: %s: %s", source.Fields, name, text.Error)
				}
				continue
			}
			all, on := map[string]bool{}, map[string]bool{}
			for _, c := range rules.Chains {
				for _, r := range c.Rules {
					all[string(r.ID)] = true
				}
			}
			for _, l := range text.Lines {
				if on[string(l.ID)] = true; l.ID != "" && !all[string(l.ID)] {
					t.Errorf("%v: %s: there is no rule %s: %s", source.Fields, name, l.ID, l.Text)
				}
			}
			// The connections that are older than the rules are listed when there are some. Of a family alone not every rule
			// is written, so that all are of the default alone.
			delete(all, "B3")
			for id := range all {
				if i == 0 && !on[id] {
					t.Errorf("%s: no line has %s", name, id)
				}
			}
		}
		var hooks, based []string
		for _, h := range drawn.Hooks {
			hooks = append(hooks, h.Name)
			based = append(based, h.Chains...)
		}
		if strings.Join(hooks, " ") != "prerouting input forward output postrouting" {
			t.Errorf("%q", hooks)
		}
		for _, c := range drawn.Chains {
			if slices.Contains(based, c.Name) != (c.Hook != "") {
				t.Errorf("%s is at %q, and not among %q", c.Name, c.Hook, based)
			}
		}
	}
}

// TestMatrixAndDiff: both are what mesh-init explain says; what has the same rules is the same.
func TestMatrixAndDiff(t *testing.T) {
	excluded := answer.Source{Form: answer.FormYAML, Text: "outbound: {excludePorts: [5432]}\n"}
	var matrix struct{ Cells []any }
	if p := ask(t, answer.Request{Op: "matrix", Source: excluded}, &matrix); p != nil || len(matrix.Cells) < 20 {
		t.Fatalf("%+v, %d cells", p, len(matrix.Cells))
	}
	var diff struct {
		Same    bool
		Changes []any
		Fields  []answer.Differing
	}
	if p := ask(t, answer.Request{Op: "diff", Other: excluded}, &diff); p != nil {
		t.Fatal(p)
	}
	if diff.Same || len(diff.Changes) == 0 || len(diff.Fields) != 1 ||
		diff.Fields[0] != (answer.Differing{Path: "outbound.excludePorts", Before: "none", After: "5432"}) {
		t.Errorf("%+v", diff)
	}
	if p := ask(t, answer.Request{Op: "diff", Source: excluded, Other: excluded}, &diff); p != nil || !diff.Same ||
		len(diff.Changes) > 0 || len(diff.Fields) > 0 {
		t.Errorf("%+v, %+v", p, diff)
	}
	p := ask(t, answer.Request{Op: "diff", Other: answer.Source{Form: answer.FormYAML, Text: "x: 1\n"}}, nil)
	if p == nil || p.Of != "other" || p.Field != "x" || p.Line != 1 {
		t.Errorf("%+v", p)
	}
	var why struct {
		Captured bool
		Changes  []struct {
			Flags []string
			Fate  string
		}
	}
	request := []byte(`{"op":"whynot","source":{"form":"flags","text":"--outbound-exclude-ports 5432"},"packet":{"dst":"10.1.2.3:5432"}}`)
	if err := json.Unmarshal(answer.Ask(request), &why); err != nil || why.Captured || len(why.Changes) == 0 ||
		why.Changes[0].Fate != "redirect(15001)" {
		t.Errorf("%v, %+v", err, why)
	}
}

// TestLinks: a link has what the page shows, and shows it again.
func TestLinks(t *testing.T) {
	packet := map[string]any{"dst": "10.1.2.3:443", "uid": "1000", "toSelf": true}
	request, err := json.Marshal(map[string]any{"op": "link", "source": answer.Source{Form: answer.FormYAML,
		Text: "dns:\n  mode: all # of the sidecar\n"}, "other": answer.Source{Form: answer.FormFlags, Text: "--udp reject"},
		"compare": true, "packet": packet, "view": "matrix"})
	if err != nil {
		t.Fatal(err)
	}
	var link answer.Link
	if err := json.Unmarshal(answer.Ask(request), &link); err != nil || link.URL != permalink.Page+"#"+link.Text ||
		link.Text != "1&dns=all&other=&other.udp=reject&packet.dst=10.1.2.3:443&packet.uid=1000&packet.to-self=true&form=yaml&view=matrix" {
		t.Errorf("%v, %+v", err, link)
	}
	var got answer.Unlink
	if p := ask(t, answer.Request{Op: "unlink", Text: link.URL}, &got); p != nil {
		t.Fatal(p)
	}
	if got.Source.Fields["dns.mode"] != "all" || got.Other == nil || got.Other.Fields["outbound.udp"] != "reject" ||
		got.Packet == nil || got.Packet.UID != "1000" || !got.Packet.ToSelf || got.View != "matrix" || got.Form != "yaml" {
		t.Errorf("%+v", got)
	}
	if p := ask(t, answer.Request{Op: "unlink", Text: "3&"}, nil); p == nil || !strings.Contains(p.Text, "a newer page") {
		t.Errorf("%+v", p)
	}
	if p := ask(t, answer.Request{Op: "link", View: "<b>"}, nil); p == nil || !strings.Contains(p.Text, "view") {
		t.Errorf("%+v", p)
	}
}

// TestSupport: of a document the page has the configuration that was in force, to ask packets against, what rules have
// counted, and whose chains there are besides.
func TestSupport(t *testing.T) {
	document, err := os.ReadFile("testdata/support.json")
	if err != nil {
		t.Fatal(err)
	}
	// One part could not be read.
	var parts map[string]any
	if err := json.Unmarshal(document, &parts); err != nil {
		t.Fatal(err)
	}
	parts["parts"].(map[string]any)["doctor"] = map[string]any{"error": "it was not read within 30s"}
	if document, err = json.Marshal(parts); err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.JSONToYAML(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(document), string(asYAML)} {
		var got answer.Support
		if p := ask(t, answer.Request{Op: "support", Text: text}, &got); p != nil {
			t.Fatal(p)
		}
		if got.From != "inForce" || got.Source.Fields["outbound.excludePorts"] != "5432" || got.By != "mesh-init v0.1.0" ||
			got.Origins["outbound.excludePorts"] != "--outbound-exclude-ports" || got.Backend != "nft" || got.Verdict == "" {
			t.Errorf("%+v", got)
		}
		if got.Counters["O12"].Packets != 1 || got.Counters["O5.ports"].Packets != 1 || len(got.Foreign) != 1 ||
			len(got.Others) != 1 || got.Others[0].Chain != "OUTPUT" || len(got.Meanings) < 10 {
			t.Errorf("%+v", got)
		}
		if strings.Join(got.Addresses, " ") != "10.244.0.5 fd00:244::5" || got.Unread["doctor"] == "" {
			t.Errorf("%q, %q", got.Addresses, got.Unread)
		}
		var fate explained
		request, err := json.Marshal(map[string]any{"op": "explain", "source": got.Source,
			"packet": map[string]any{"dst": "10.244.0.9:5432"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(answer.Ask(request), &fate); err != nil || fate.ID != "O5.ports" {
			t.Errorf("%v, %+v", err, fate)
		}
	}
	var doc map[string]any
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	doc["parts"].(map[string]any)["inForce"] = map[string]any{"error": "there are no rules"}
	withoutRules, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var got answer.Support
	if p := ask(t, answer.Request{Op: "support", Text: string(withoutRules)}, &got); p != nil || got.From != "given" ||
		got.Why != "there are no rules" || got.None || got.Source.Fields["dns.mode"] != "" {
		t.Errorf("%+v, %+v", p, got)
	}
	// What mesh-init says of a namespace in which nothing is.
	doc["parts"].(map[string]any)["inForce"] = map[string]any{"error": "not intercepted: the namespace has none of our rules"}
	if withoutRules, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	if p := ask(t, answer.Request{Op: "support", Text: string(withoutRules)}, &got); p != nil || !got.None {
		t.Errorf("%+v, %+v", p, got)
	}
	for text, want := range map[string]string{
		"":                            "this is no document of mesh-init support",
		"hello":                       "this is no document of mesh-init support",
		"[1]":                         "this is no document of mesh-init support",
		`{"version": 1}`:              "this is no document of mesh-init support",
		`{"version": 7, "parts": {}}`: "this document is of version 7, and 1 is known here",
		`{"version": 1, "parts": {}}`: "the document has no configuration",
		`{"version": 1, "parts": {"given": {"value": {"config": {"dns": 7}}}}}`: "a value where fields belong",
		`{"version": 1, "parts": {"given": {"value": []}}}`:                     "parts.given: ",
	} {
		if p := ask(t, answer.Request{Op: "support", Text: text}, nil); p == nil || !strings.Contains(p.Text, want) {
			t.Errorf("%s: %+v, want %s", text, p, want)
		}
	}
}

// TestRequests: whatever is wrong with a request is said.
func TestRequests(t *testing.T) {
	for request, want := range map[string]string{
		"":                                  "the request is no JSON",
		"[]":                                "the request is no JSON",
		`{"op":"explian"}`:                  "did you mean explain?",
		`{}`:                                "op: ",
		`{"op":"read","source":{"form":7}}`: "the request is no JSON",
	} {
		var failed answer.Failure
		if err := json.Unmarshal(answer.Ask([]byte(request)), &failed); err != nil || !strings.Contains(failed.Error.Text, want) {
			t.Errorf("%s: %v, %+v", request, err, failed)
		}
	}
}

// FuzzAsk: to any bytes there is an answer, which is JSON and no fault of the program.
func FuzzAsk(f *testing.F) {
	document, err := os.ReadFile("testdata/support.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, op := range answer.Ops() {
		for _, source := range []answer.Source{
			{}, {Form: answer.FormYAML, Text: "dns: {mode: all}"}, {Form: answer.FormFlags, Text: "mesh-init apply --dns 'all'"},
			{Form: answer.FormAnnotations, Text: "intercept.mesh/enabled: true"}, {Form: answer.FormIstio, Text: "A=b -i '*' -b 80"},
			{Fields: map[string]string{"outbound.excludeCIDRs": "10.0.0.0/8,fd00::/8"}},
		} {
			request, err := json.Marshal(answer.Request{Op: op, Source: source, Text: "1&dns=all", View: "x"})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(request)
		}
	}
	request, err := json.Marshal(answer.Request{Op: "support", Text: string(document)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Add([]byte(`{"op":"explain","packet":{"dst":"[::]:1","from":"proxy","state":"established"}}`))
	f.Fuzz(func(t *testing.T, request []byte) {
		if strings.Contains(string(request), "matrix") || strings.Contains(string(request), "whynot") ||
			strings.Contains(string(request), "diff") {
			return // each takes a while, and all that they are given the others are, too
		}
		text := answer.Ask(request)
		if !json.Valid(text) || strings.Contains(string(text), answer.Fault) {
			t.Errorf("%q: %s", request, text)
		}
	})
}
