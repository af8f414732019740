package answer_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/site/testing/vectors"
)

// ask asks a request, and reads the answer into to. It returns the problem, if that is the answer.
func ask(t *testing.T, r answer.Request, to any) *answer.Problem {
	t.Helper()
	request, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	text := answer.Ask(request)
	var failed struct{ Error *answer.Problem }
	if err := json.Unmarshal(text, &failed); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if to != nil {
		if err := json.Unmarshal(text, to); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return nil
}

// explained is what a test reads of an explanation.
type explained struct {
	Fate, ID, Words, Meaning, Command string
	Captured                          bool
	Steps                             []answer.Step
	Way                               []answer.Passed
	Change                            *answer.Rewrite
}

// TestScenarios: each case has the fate that it is shown for.
func TestScenarios(t *testing.T) {
	var all answer.Scenarios
	if p := ask(t, answer.Request{Op: "scenarios"}, &all); p != nil {
		t.Fatal(p)
	}
	names := map[string]bool{}
	for _, s := range all.Scenarios {
		if names[s.Name] || s.Title == "" || s.Says == "" {
			t.Errorf("%+v", s)
		}
		names[s.Name] = true
		// As the page has a configuration that it has read: so it knows the case again.
		var normal read
		if p := ask(t, answer.Request{Op: "read", Source: answer.Source{Fields: s.Fields}}, &normal); p != nil ||
			len(normal.Changed) != len(s.Fields) {
			t.Errorf("%s: %v are %d fields: %+v", s.Name, s.Fields, len(normal.Changed), p)
		}
		for path, text := range s.Fields {
			if normal.Fields[path] != text {
				t.Errorf("%s: %s is %q, which is written %q", s.Name, path, text, normal.Fields[path])
			}
		}
		var got explained
		if p := ask(t, answer.Request{Op: "explain", Source: answer.Source{Fields: s.Fields}, Packet: &s.Packet}, &got); p != nil {
			t.Errorf("%s: %+v", s.Name, p)
			continue
		}
		if got.Fate != s.Fate || got.ID != string(s.ID) {
			t.Errorf("%s: %s by %q, want %s by %q", s.Name, got.Fate, got.ID, s.Fate, s.ID)
		}
	}
}

// TestAnswersAreTheLibrarys: what becomes of random packets under random configurations is what the library's model says.
func TestAnswersAreTheLibrarys(t *testing.T) {
	all, err := vectors.Explain(30, 1000)
	if err != nil {
		t.Fatal(err)
	}
	fates := map[string]int{}
	for _, v := range all {
		var got struct {
			explained
			Error *answer.Problem
		}
		if err := json.Unmarshal(answer.Ask(v.Request), &got); err != nil || got.Error != nil {
			t.Fatalf("%s: %v, %+v", v.Request, err, got.Error)
		}
		if got.Fate != v.Fate || got.ID != string(v.ID) || len(got.Steps) != v.Steps {
			t.Errorf("%s: %s by %s in %d steps, want %s by %s in %d", v.Request, got.Fate, got.ID, len(got.Steps), v.Fate, v.ID,
				v.Steps)
		}
		kind, _, _ := strings.Cut(v.Fate, "(")
		fates[kind]++
	}
	for _, kind := range []string{"pass", "redirect", "dnat", "tproxy", "reject", "drop"} {
		if fates[kind] < 5 {
			t.Errorf("of %d packets these are the fates, which is too few of %s: %v", len(all), kind, fates)
		}
	}
}
