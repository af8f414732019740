//go:build linux

package pods

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mesh-intercept/intercept/verify"
)

// schema reads docs/verify.schema.json.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("../../docs/verify.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// isOfSchema holds a result against the schema.
func isOfSchema(t *testing.T, s *jsonschema.Schema, result any) error {
	t.Helper()
	text, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// TestSchema: it knows every field, and refuses what verify never says.
func TestSchema(t *testing.T) {
	s := schema(t)
	full := func() verify.Report {
		return verify.Conclude([]verify.Verdict{
			{What: "a", Verdict: verify.OK, Tried: "b", Found: "c", Rule: "O12", Reason: "d"},
			{What: "a", Verdict: verify.Failed, Tried: "b", Found: "c", Rule: "O12", Reason: "d", Remedy: "e"}},
			verify.Coverage{Rules: 2, Tried: 1, NotTried: []verify.NotTried{{Rule: "O1", Reason: "f", Because: "g"}}},
			[]string{"h"})
	}
	if err := isOfSchema(t, s, full()); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*verify.Report){
		"another word":        func(r *verify.Report) { r.Verdict = "good" },
		"ok with a remedy":    func(r *verify.Report) { r.Verdicts[0].Remedy = "i" },
		"failed without":      func(r *verify.Report) { r.Verdicts[1].Remedy = "" },
		"nothing found":       func(r *verify.Report) { r.Verdicts[0].Found = "" },
		"no notes":            func(r *verify.Report) { r.Notes = nil },
		"a rule untried":      func(r *verify.Report) { r.Coverage.NotTried[0].Because = "" },
		"less than none":      func(r *verify.Report) { r.Coverage.Tried = -1 },
		"a verdict of nobody": func(r *verify.Report) { r.Verdicts[1].What = "" },
	} {
		r := full()
		change(&r)
		if isOfSchema(t, s, r) == nil {
			t.Errorf("%s: the schema accepts %+v", name, r)
		}
	}
	for _, of := range []struct {
		value any
		at    *jsonschema.Schema
	}{
		{verify.Report{}, s}, {verify.Verdict{}, s.Properties["verdicts"].Items2020.Ref},
		{verify.Coverage{}, s.Properties["coverage"].Ref},
	} {
		typ := reflect.TypeOf(of.value)
		for field := range typ.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if of.at.Properties[name] == nil {
				t.Errorf("the schema does not know %s of %s", name, typ)
			}
		}
	}
}
