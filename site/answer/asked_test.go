package answer_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// asked is what a test reads of a line of all traffic, and of a comparison's.
type asked struct {
	Fate, Line    string
	Before, After struct{ Fate, Line string }
	Packets       struct{ Example json.RawMessage }
	Ask           *explain.Question
}

// TestAskedFromALine: who asks about a line's packet is answered what the line says, of the packet that it shows.
func TestAskedFromALine(t *testing.T) {
	check := func(source answer.Source, where string, line asked, fate, of string) {
		var got struct {
			explained
			Packet, Line json.RawMessage
		}
		if p := ask(t, answer.Request{Op: "explain", Source: source, Packet: line.Ask}, &got); p != nil {
			t.Errorf("%v %s: %+v: %+v", source.Fields, where, *line.Ask, p)
			return
		}
		var shown, example map[string]any
		for text, to := range map[*json.RawMessage]*map[string]any{&got.Packet: &shown, &line.Packets.Example: &example} {
			if err := json.Unmarshal(*text, to); err != nil {
				t.Fatal(err)
			}
		}
		for _, field := range []string{"protocol", "src", "dst", "interface", "uid", "gid", "mark"} {
			if shown[field] != example[field] {
				t.Errorf("%v %s: %s is %v, not %v", source.Fields, where, field, shown[field], example[field])
			}
		}
		if got.Fate != fate || string(got.Line) != `"`+of+`"` {
			t.Errorf("%v %s: %+v: %s by %s, not %s by %s", source.Fields, where, *line.Ask, got.Fate, got.Line, fate, of)
		}
		if short := line.Ask.Short(); short != *line.Ask {
			t.Errorf("%s: %+v says more than %+v", where, *line.Ask, short)
		}
	}
	random := rand.New(rand.NewPCG(33, 33))
	lines, asks, before := 0, 0, answer.Source{}
	for range 12 {
		source := answer.Source{Fields: permalink.Fields(gen.Config(random))}
		var matrix struct {
			Cells []struct {
				From, Where, Traffic, Family string
				Parts                        []asked
			}
		}
		if p := ask(t, answer.Request{Op: "matrix", Source: source}, &matrix); p != nil {
			continue // of too many classes
		}
		for _, cell := range matrix.Cells {
			where := cell.From + " " + cell.Where + " " + cell.Traffic + " " + cell.Family
			for _, part := range cell.Parts {
				lines++
				if part.Ask == nil {
					continue
				}
				if asks++; cell.From == "kernel" {
					t.Errorf("%s: %+v: the kernel's packets are not a process's", where, *part.Ask)
				}
				check(source, where, part, part.Fate, part.Line)
			}
		}
		var diff struct{ Changes []asked }
		if p := ask(t, answer.Request{Op: "diff", Source: before, Other: source}, &diff); p != nil {
			continue
		}
		for _, change := range diff.Changes {
			lines++
			if change.Ask == nil {
				continue
			}
			asks++
			check(source, "after", change, change.After.Fate, change.After.Line)
			var was explained
			if p := ask(t, answer.Request{Op: "explain", Source: before, Packet: change.Ask}, &was); p != nil ||
				was.Fate != change.Before.Fate {
				t.Errorf("before: %+v: %s, not %s; %+v", *change.Ask, was.Fate, change.Before.Fate, p)
			}
		}
		before = source
	}
	if t.Logf("%d lines, %d to ask about", lines, asks); asks < lines/3 || asks == lines {
		t.Errorf("of %d lines %d can be asked about", lines, asks)
	}
}

// TestLinesWithoutAQuestion: what goes through the pod is not what arrives in it, and what the kernel sends has no owner.
func TestLinesWithoutAQuestion(t *testing.T) {
	var matrix struct {
		Cells []struct {
			From, Where, Traffic string
			Parts                []asked
		}
	}
	if p := ask(t, answer.Request{Op: "matrix"}, &matrix); p != nil {
		t.Fatal(p)
	}
	for _, cell := range matrix.Cells {
		without := slices.ContainsFunc(cell.Parts, func(p asked) bool { return p.Ask == nil })
		if want := cell.From == "kernel" || cell.Where == "through"; without != want {
			t.Errorf("%s %s %s: %t", cell.From, cell.Where, cell.Traffic, without)
		}
	}
}
