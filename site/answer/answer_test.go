package answer_test

import (
	"encoding/json"
	"testing"

	"github.com/mesh-intercept/intercept/site/answer"
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
	Nodes                             []string
	Change                            *answer.Change
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
