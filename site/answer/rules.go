package answer

import (
	"cmp"
	"errors"
	"slices"
	"sort"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// compiled are the rules of a source.
func compiled(of string, s Source) (intercept.Config, intercept.Ruleset, error) {
	c, _, err := s.config()
	if err != nil {
		return c, intercept.Ruleset{}, in(of, err)
	}
	rs, err := intercept.Compile(c)
	if err != nil {
		return c, rs, in(of, err)
	}
	return c, rs, nil
}

func familyNames(rs intercept.Ruleset) (names []string) {
	for _, f := range rs.Families {
		names = append(names, f.String())
	}
	return names
}

func rules(r Request) (any, error) {
	_, rs, err := compiled("source", r.Source)
	if err != nil {
		return nil, err
	}
	out := Rules{Chains: explain.Chains(rs), Families: familyNames(rs)}
	routes := markroute.WantOf(rs).Comment()
	rs.Routes = nil
	text, err := nft.Render(rs)
	out.NFT = linesOf(text+routes, err)
	inputs, err := iptables.Render(rs, iptables.Options{Variant: iptables.NFT})
	var b strings.Builder
	for _, in := range inputs {
		b.WriteString(in.String())
	}
	out.IPTables = linesOf(b.String()+routes, err)
	return out, nil
}

// linesOf are a text's lines, with the rules that they have: the comment of a rule begins with its ID.
func linesOf(text string, err error) Text {
	out := Text{Lines: []Line{}}
	if err != nil {
		out.Error = err.Error()
		return out
	}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		l := Line{Text: line}
		if _, after, found := strings.Cut(line, `comment "`); found {
			comment, _, _ := strings.Cut(after, `"`)
			l.ID, _ = ruleset.ParseComment(comment)
		}
		out.Lines = append(out.Lines, l)
	}
	return out
}

func chains(r Request) (any, error) {
	_, rs, err := compiled("source", r.Source)
	if err != nil {
		return nil, err
	}
	return Chains{Hooks: hooksOf(rs), Chains: explain.Chains(rs)}, nil
}

// hooksOf are netfilter's hooks with our base chains. There is none of ours at postrouting: a packet's source stays.
func hooksOf(rs intercept.Ruleset) (hooks []Hook) {
	for _, h := range []ruleset.Hook{ruleset.Prerouting, ruleset.Input, ruleset.Forward, ruleset.Output, 0} {
		hook := Hook{Name: "postrouting", Chains: []string{}}
		if h != 0 {
			hook.Name = h.String()
			bases := slices.DeleteFunc(slices.Clone(rs.Chains), func(c ruleset.Chain) bool { return c.Hook != h })
			sort.SliceStable(bases, func(i, j int) bool { return bases[i].Asked() < bases[j].Asked() })
			for _, c := range bases {
				hook.Chains = append(hook.Chains, c.Name)
			}
		}
		hooks = append(hooks, hook)
	}
	return hooks
}

func matrix(r Request) (any, error) {
	c, rs, err := compiled("source", r.Source)
	if err != nil {
		return nil, err
	}
	cells, err := explain.Matrix(c)
	if err != nil {
		return nil, in("source", err)
	}
	out := Matrix{make([]Cell, len(cells))}
	for i, cell := range cells {
		out.Cells[i] = Cell{cell, make([]Part, len(cell.Parts))}
		for k, part := range cell.Parts {
			out.Cells[i].Parts[k].Part = part
			if q, ok := part.Packets.Example.Question(rs, c); ok {
				out.Cells[i].Parts[k].Ask = &q
			}
		}
	}
	return out, nil
}

func diff(r Request) (any, error) {
	before, rulesBefore, err := compiled("source", r.Source)
	after, rulesAfter, errAfter := compiled("other", r.Other)
	if err := cmp.Or(err, errAfter); err != nil {
		return nil, err
	}
	changes, err := explain.Diff(before, after)
	if err != nil {
		return nil, err
	}
	out := Diff{Same: len(changes) == 0, Changes: make([]Change, len(changes)), Fields: []Differing{}}
	for i, change := range changes {
		out.Changes[i].Change = change
		// The page asks about it under the configuration after.
		q, ok := change.Packets.Example.Question(rulesAfter, after)
		if !ok {
			continue
		}
		if was, err := explain.Follow(rulesBefore, before, q); err == nil && was.Trace.Fate == change.Before.Fate {
			out.Changes[i].Ask = &q
		}
	}
	was, is := textsOf(before), textsOf(after)
	for i, f := range was {
		if f.Text != is[i].Text {
			out.Fields = append(out.Fields, Differing{f.Field.Path, f.Text, is[i].Text})
		}
	}
	return out, nil
}

func whyNot(r Request) (any, error) {
	c, _, err := r.Source.config()
	if err != nil {
		return nil, in("source", err)
	}
	if r.Packet == nil {
		return nil, errNoPacket
	}
	return explain.Why(c, *r.Packet)
}

var errNoPacket = errors.New("packet: missing")
