// Package yamledit changes what a text of YAML says and leaves every other byte as
// it is: order, comments, quotes and empty lines. It also says how two documents
// differ, as a JSON patch and as a unified diff.
package yamledit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// An Edit puts lines in the place of others.
type Edit struct {
	// First and Last are the lines that go, counted from 1. Last is one less than
	// First where none go: the new ones then come before First.
	First, Last int
	Lines       []string
}

// Doc is one document of a text, and what it is to say instead.
type Doc struct {
	// Root is as [yamldoc.Stream] has it.
	Root *yaml.Node
	// Before is Root resolved, and After what it is to become, resolved as well.
	// Where they are equal nothing is changed.
	Before, After *yaml.Node
}

// Edits returns how to change a text of documents. Where a document cannot be
// changed in its parts (it repeats itself by aliases in what changes), all of it is
// written anew.
func Edits(text []byte, docs []Doc, depth int) ([]Edit, error) {
	lines, _ := split(text)
	whole := make([]bool, len(docs))
	for again := false; ; again = true {
		var edits []Edit
		for i, d := range docs {
			next := len(lines) + 1
			if i+1 < len(docs) {
				next = docs[i+1].Root.Line
			}
			e, err := edit(lines, d, next, whole[i])
			if err != nil {
				return nil, err
			}
			edits = append(edits, e...)
		}
		wrong := differ(Apply(text, edits), docs, depth)
		switch {
		case len(wrong) == 0:
			return edits, nil
		case again:
			return nil, &strict.Error{Line: docs[wrong[0]].Root.Line, Err: errors.New(
				"the document that begins here cannot be changed; write it in block style, without tags")}
		}
		for _, i := range wrong {
			whole[i] = true
		}
	}
}

// differ returns the documents of which a text does not say what it should. Where
// nobody can tell those are all that have changed.
func differ(text []byte, docs []Doc, depth int) []int {
	roots, err := yamldoc.Stream(text, depth)
	unclear := err != nil || len(roots) != len(docs)
	var wrong []int
	for i, d := range docs {
		if yamldoc.Equal(d.Before, d.After) {
			continue
		}
		if !unclear {
			if got, err := yamldoc.Resolve(roots[i], depth); err == nil && yamldoc.Equal(got, d.After) {
				continue
			}
		}
		wrong = append(wrong, i)
	}
	return wrong
}

// Apply returns a text with edits made.
func Apply(text []byte, edits []Edit) []byte {
	lines, end := split(text)
	var out strings.Builder
	for l := range walk(lines, edits) {
		if l.op != '-' {
			out.WriteString(l.text)
			out.WriteString(end)
		}
	}
	s := out.String()
	if !bytes.HasSuffix(text, []byte("\n")) {
		s = strings.TrimSuffix(s, end)
	}
	return []byte(s)
}

// split returns a text's lines, and how the first one ends.
func split(text []byte) (lines []string, end string) {
	end = "\n"
	if first, _, ok := bytes.Cut(text, []byte("\n")); ok && bytes.HasSuffix(first, []byte("\r")) {
		end = "\r\n"
	}
	s := strings.TrimSuffix(string(text), end)
	return strings.Split(s, end), end
}

// line is one of a diff.
type line struct {
	op   byte // ' ', '-' or '+'
	text string
}

// walk yields all lines, the old ones and the new.
func walk(lines []string, edits []Edit) func(yield func(line) bool) {
	edits = slices.Clone(edits)
	sort.SliceStable(edits, func(i, j int) bool { // what is inserted, before what is replaced
		a, b := edits[i], edits[j]
		return cmp.Or(a.First-b.First, a.Last-b.Last) < 0
	})
	return func(yield func(line) bool) {
		at := 1
		give := func(op byte, some []string) bool {
			for _, s := range some {
				if !yield(line{op, s}) {
					return false
				}
			}
			return true
		}
		for _, e := range edits {
			from := min(max(e.First, at), len(lines)+1)
			if !give(' ', lines[at-1:from-1]) {
				return
			}
			at = min(max(e.Last+1, from), len(lines)+1)
			old, fresh := lines[from-1:at-1], e.Lines
			for len(old) > 0 && len(fresh) > 0 && old[0] == fresh[0] {
				if !give(' ', old[:1]) {
					return
				}
				old, fresh = old[1:], fresh[1:]
			}
			same := 0
			for same < len(old) && same < len(fresh) && old[len(old)-1-same] == fresh[len(fresh)-1-same] {
				same++
			}
			if !give('-', old[:len(old)-same]) || !give('+', fresh[:len(fresh)-same]) || !give(' ', old[len(old)-same:]) {
				return
			}
		}
		give(' ', lines[at-1:])
	}
}

// edit changes one document. The line of the next one is that of its content.
func edit(lines []string, d Doc, next int, whole bool) ([]Edit, error) {
	if yamldoc.Equal(d.Before, d.After) {
		return nil, nil
	}
	if d.Root.Column == 0 { // JSON
		first := min(max(d.Root.Line, 1), len(lines))
		out, err := indented(lines[first-1:max(next-1, first)], d.After)
		return []Edit{{first, next - 1, out}}, err
	}
	limit := d.Root.Line + 1
	for limit <= len(lines) && !isMark(lines[limit-1], "---") && !isMark(lines[limit-1], "...") {
		limit++
	}
	s := splicer{lines: lines, compact: isCompact(d.Root)}
	root := slot{line: d.Root.Line, column: d.Root.Column, head: d.Root.Line - 1, limit: limit, indent: -1,
		render: s.encode}
	if whole {
		s.replace(root, d.Root, d.After)
	} else {
		s.value(root, d.Root, d.Before, d.After)
	}
	return s.edits, s.err
}

func isMark(line, mark string) bool {
	rest, ok := strings.CutPrefix(line, mark)
	return ok && (rest == "" || rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r')
}

// indented writes JSON as lines of it are written.
func indented(lines []string, n *yaml.Node) ([]string, error) {
	out, err := yamldoc.JSON(n)
	if err != nil {
		return nil, err
	}
	if len(lines) > 1 && strings.TrimSpace(lines[1]) != "" {
		indent := lines[1][:len(lines[1])-len(strings.TrimLeft(lines[1], " \t"))]
		var b bytes.Buffer
		if err := json.Indent(&b, out, "", indent); err != nil {
			return nil, err
		}
		out = b.Bytes()
	}
	return strings.Split(string(out), "\n"), nil
}

// isCompact reports whether lists begin in the column of their key.
func isCompact(n *yaml.Node) bool {
	compact, known := true, false
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		for i, v := range n.Content {
			if known {
				return
			}
			if n.Kind == yaml.MappingNode && i%2 == 1 && isBlock(v, yaml.SequenceNode) {
				compact, known = v.Column == n.Column, true
			}
			look(v)
		}
	}
	look(n)
	return compact
}

func isBlock(n *yaml.Node, kind yaml.Kind) bool {
	return n.Kind == kind && n.Style&yaml.FlowStyle == 0 && len(n.Content) > 0
}

// splicer collects the edits of one document.
type splicer struct {
	lines   []string
	compact bool
	edits   []Edit
	err     error
}

// line is a line of the text. The parser counts some that are none, such as those that
// a lone carriage return ends; [Edits] sees whether the outcome is right.
func (s *splicer) line(number int) string {
	if number < 1 || number > len(s.lines) {
		return ""
	}
	return s.lines[number-1]
}

// slot is where a value stands with what belongs to it: its key, or the dash before
// an item.
type slot struct {
	line, column int // where that begins
	head         int // the line after which the value's content may begin
	limit        int // the line of what comes next
	indent       int // columns before what the slot is a part of
	render       func(*yaml.Node) []string
}

func (s *splicer) value(at slot, o, before, after *yaml.Node) {
	switch {
	case yamldoc.Equal(before, after):
	case isBlock(o, yaml.MappingNode) && after.Kind == yaml.MappingNode && len(after.Content) > 0 && s.mapping(at, o,
		before, after):
	case isBlock(o, yaml.SequenceNode) && after.Kind == yaml.SequenceNode && len(after.Content) > 0:
		s.sequence(at, o, before, after)
	default:
		s.replace(at, o, after)
	}
}

// replace writes a slot anew.
func (s *splicer) replace(at slot, o, after *yaml.Node) {
	fresh := s.render(at, after)
	prefix := s.line(at.line)
	prefix = prefix[:min(len(prefix), at.column-1)]
	last := s.last(o, at.indent, at.limit)
	if c := o.LineComment; c != "" { // as far behind the value as it was
		old, end := s.line(last), &fresh[len(fresh)-1]
		before, _, found := strings.Cut(old, c)
		if value, ok := strings.CutSuffix(*end, " "+c); ok && found {
			*end = value + before[len(strings.TrimRight(before, " \t")):] + c
		}
	}
	fresh[0] = prefix + fresh[0]
	s.edits = append(s.edits, Edit{at.line, last, fresh})
}

func (s *splicer) render(at slot, n *yaml.Node) []string {
	n = yamldoc.Copy(n)
	uncomment(n)
	return indent(at.render(n), at.column-1)
}

// uncomment takes away the comments around a node, which stand in lines that stay.
func uncomment(n *yaml.Node) {
	first, last := n, n
	for first.HeadComment = ""; len(first.Content) > 0; first.HeadComment = "" {
		first = first.Content[0]
	}
	for last.FootComment = ""; len(last.Content) > 0; last.FootComment = "" {
		last = last.Content[len(last.Content)-1]
	}
}

// indent puts columns before all lines but the first.
func indent(lines []string, columns int) []string {
	for i := 1; i < len(lines); i++ {
		if lines[i] != "" {
			lines[i] = strings.Repeat(" ", columns) + lines[i]
		}
	}
	return lines
}

// mapping changes fields of a block. It returns false if it has to be written anew.
func (s *splicer) mapping(at slot, o, before, after *yaml.Node) bool {
	own := map[string]bool{}
	for i := 0; i+1 < len(o.Content); i += 2 {
		own[o.Content[i].Value] = true
	}
	for i := 0; i+1 < len(before.Content); i += 2 {
		if key := before.Content[i].Value; yamldoc.Get(after, key) == nil {
			if !own[key] || !s.isFirst(o, key) {
				return false // taken in by <<, or it shares its line
			}
		}
	}
	for i := 0; i+1 < len(o.Content); i += 2 {
		key, v := o.Content[i], o.Content[i+1]
		if key.ShortTag() == "!!merge" {
			continue
		}
		limit := at.limit
		if i+2 < len(o.Content) {
			limit = o.Content[i+2].Line
		}
		column := o.Column - 1
		field := slot{key.Line, key.Column, key.Line, limit, column, func(n *yaml.Node) []string { return s.field(key, n) }}
		if n := yamldoc.Get(after, key.Value); n != nil {
			s.value(field, v, yamldoc.Get(before, key.Value), n)
		} else {
			s.edits = append(s.edits, Edit{key.Line, s.last(v, column, limit), nil})
		}
	}
	var added []string
	for i := 0; i+1 < len(after.Content); i += 2 {
		key, v := after.Content[i], after.Content[i+1]
		if !own[key.Value] && !yamldoc.Equal(yamldoc.Get(before, key.Value), v) {
			added = append(added, s.added(o.Column-1, s.field(key, v))...)
		}
	}
	s.insert(s.last(o, at.indent, at.limit)+1, added)
	return true
}

// isFirst reports whether a field of a block is the first in its line.
func (s *splicer) isFirst(o *yaml.Node, key string) bool {
	for i := 0; i < len(o.Content); i += 2 {
		if k := o.Content[i]; k.Value == key {
			line := s.line(k.Line)
			return strings.Trim(line[:min(len(line), k.Column-1)], " ") == ""
		}
	}
	return false
}

func (s *splicer) sequence(at slot, o, before, after *yaml.Node) {
	end := at.head
	for _, p := range align(before.Content, after.Content) {
		switch {
		case p.old < 0:
			s.insert(end+1, s.added(o.Column-1, s.item(after.Content[p.fresh])))
		default:
			item := o.Content[p.old]
			limit := at.limit
			if p.old+1 < len(o.Content) {
				limit = o.Content[p.old+1].Line
			}
			column := o.Column - 1
			if p.fresh < 0 {
				s.edits = append(s.edits, Edit{item.Line, s.last(item, column, limit), nil})
			} else {
				place := slot{item.Line, item.Column, item.Line, limit, column, s.encode}
				s.value(place, item, before.Content[p.old], after.Content[p.fresh])
			}
			end = s.last(item, column, limit)
		}
	}
}

func (s *splicer) insert(line int, lines []string) {
	if len(lines) > 0 {
		s.edits = append(s.edits, Edit{line, line - 1, lines})
	}
}

// added are lines of their own.
func (s *splicer) added(columns int, lines []string) []string {
	lines = indent(lines, columns)
	lines[0] = strings.Repeat(" ", columns) + lines[0]
	return lines
}

func (s *splicer) field(key, value *yaml.Node) []string {
	k := *key
	k.HeadComment, k.FootComment, k.Anchor = "", "", ""
	return s.encode(yamldoc.Map(&k, value))
}

func (s *splicer) item(n *yaml.Node) []string {
	lines := indent(s.encode(n), 2)
	lines[0] = "- " + lines[0]
	return lines
}

func (s *splicer) encode(n *yaml.Node) []string {
	out, err := Encode(n, s.compact)
	if err != nil && s.err == nil {
		s.err = err
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// Encode writes a resolved node as YAML; compact: lists begin in the column of
// their key.
func Encode(n *yaml.Node, compact bool) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if compact {
		e.CompactSeqIndent()
	}
	if err := e.Encode(n); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// last is the last line of a value. What comes next begins at limit, and has
// comments and empty lines before it.
func (s *splicer) last(n *yaml.Node, indent, limit int) int {
	for isBlock(n, yaml.MappingNode) || isBlock(n, yaml.SequenceNode) {
		indent, n = n.Column-1, n.Content[len(n.Content)-1]
	}
	block := n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0
	for l := limit - 1; l > n.Line; l-- {
		text := strings.TrimLeft(s.line(l), " ")
		if text != "" && (text[0] != '#' || block && len(s.line(l))-len(text) > indent) {
			return l
		}
	}
	return n.Line
}
