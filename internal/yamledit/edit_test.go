package yamledit_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/internal/yamledit"
)

const depth = 50

// document reads a text of one document.
func document(t testing.TB, text string) yamledit.Doc {
	t.Helper()
	roots, err := yamldoc.Stream([]byte(text), depth)
	if err != nil || len(roots) != 1 {
		t.Fatalf("%d documents, %v: %s", len(roots), err, text)
	}
	before, err := yamldoc.Resolve(roots[0], depth)
	if err != nil {
		t.Fatal(err)
	}
	return yamledit.Doc{Root: roots[0], Before: before, After: before}
}

// block makes flow style block style.
func block(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	for _, c := range n.Content {
		block(c)
	}
}

// TestEdits: what changes is written, and every other byte stays.
func TestEdits(t *testing.T) {
	for name, c := range map[string]struct{ text, after, want string }{
		"a field at the end of a block": {
			"a:   1 # one\n\nb:\n    c: \"x\"   # x\n\n# the end\n", "{a: 1, b: {c: x, d: z}}",
			"a:   1 # one\n\nb:\n    c: \"x\"   # x\n    d: z\n\n# the end\n"},
		"items before, between and behind": {
			"l:\n# first\n- name: b   # b\n  v: 1\n\n# second\n- name: d\n", "{l: [{name: a}, {name: b, v: 1}, {name: c}, " +
				"{name: d}, {name: e}]}",
			"l:\n- name: a\n# first\n- name: b   # b\n  v: 1\n- name: c\n\n# second\n- name: d\n- name: e\n"},
		"lists that are indented": {
			"l:\n  - a\n  - b\nm: 1\n", "{l: [a, b, c], m: 1}", "l:\n  - a\n  - b\n  - c\nm: 1\n"},
		"a field that goes": {
			"a: 1\nb: # gone\n  c: 1\n\n# about d\nd: 2\n", "{a: 1, d: 2}", "a: 1\n\n# about d\nd: 2\n"},
		"an item that goes": {
			"- a: 1\n- b: 2\n  c: 3\n# about d\n- d: 4\n", "[{a: 1}, {d: 4}]", "- a: 1\n# about d\n- d: 4\n"},
		"the first field of an item goes": {
			"- a: 1\n  b: 2\n- c: 3\n", "[{b: 2}, {c: 3}]", "- b: 2\n- c: 3\n"},
		"a block of text is not looked into": {
			"a: |\n  # no comment\n\n  text\n\n  # nor this\n# but this\nb: 1\n", "{a: \"# no comment\\n\\ntext\\n\\n# nor " +
				"this\\n\", x: 1, b: 1}",
			"a: |\n  # no comment\n\n  text\n\n  # nor this\n# but this\nb: 1\nx: 1\n"},
		"a value behind a block of text": {
			"m:\n  a: >-\n    folded\n    # text\n\n  # comment\nb: 1\n", "{m: {a: 'folded # text', c: 2}, b: 1}",
			"m:\n  a: >-\n    folded\n    # text\n  c: 2\n\n  # comment\nb: 1\n"},
		"flow style is written anew as a whole": {
			"a: {b: 1,   c: 2}  # why\nd: [1,\n  2]\n", "{a: {b: 1, c: 2}, d: [1, 2, 3]}",
			"a: {b: 1,   c: 2}  # why\nd:\n- 1\n- 2\n- 3\n"},
		"a comment behind flow style": {
			"a: {b: 1}   # why\nc:\n- [1]  # one\n", "{a: {b: 2}, c: [[2]]}", "a: {b: 2}   # why\nc:\n- [2]  # one\n"},
		"null becomes a mapping": {
			"a:\nb: 1\n", "{a: {c: 1}, b: 1}", "a:\n  c: 1\nb: 1\n"},
		"a value by an alias stands by itself": {
			"a: &x\n  k: 1\nb: *x\n", "{a: {k: 1}, b: {k: 1, l: 2}}", "a: &x\n  k: 1\nb:\n  k: 1\n  l: 2\n"},
		"what others are aliases of": {
			"a: &x\n  k: 1   # k\nb: *x\n", "{a: {k: 1, l: 2}, b: {k: 1}}", "a:\n  k: 1\n  l: 2\nb:\n  k: 1\n"},
		"a field goes before what << takes in": {
			"x: &x {k: 1, l: 2}\nb:\n  <<: *x   # all\n", "{x: {k: 1, l: 2}, b: {k: 3, l: 2}}",
			"x: &x {k: 1, l: 2}\nb:\n  <<: *x   # all\n  k: 3\n"},
		"the ends of lines of Windows": {
			"a: 1\r\nb:\r\n  c: 1\r\n", "{a: 1, b: {c: 1, d: 2}}", "a: 1\r\nb:\r\n  c: 1\r\n  d: 2\r\n"},
		"no end of the last line": {"a: 1", "{a: 1, b: 2}", "a: 1\nb: 2"},
		"JSON":                    {"{\n\t\"a\": 1\n}\n", "{a: 1, b: [2]}", "{\n\t\"a\": 1,\n\t\"b\": [\n\t\t2\n\t]\n}\n"},
		"JSON on one line":        {`{"a":1}`, "{a: 1, b: 2}", `{"a":1,"b":2}`},
		"JSON with a pair of surrogates": {
			`{"a":"\ud83d\ude00"}`, "{a: 😀, b: 2}", `{"a":"😀","b":2}`},
		"the end of the document is marked": {
			"---\na: 1\n# end\n...\n", "{a: 1, b: 2}", "---\na: 1\nb: 2\n# end\n...\n"},
	} {
		t.Run(name, func(t *testing.T) {
			d := document(t, c.text)
			d.After = document(t, c.after).After
			if name != "a comment behind flow style" {
				block(d.After)
			} else { // as who changes a copy of what was there
				d.After = yamldoc.Copy(d.Before)
				yamldoc.Get(d.After, "a", "b").Value = "2"
				yamldoc.Get(d.After, "c").Content[0].Content[0].Value = "2"
			}
			edits, err := yamledit.Edits([]byte(c.text), []yamledit.Doc{d}, depth)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(yamledit.Apply([]byte(c.text), edits))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDocuments: the documents around the one that changes stay as they are, whatever
// they are.
func TestDocuments(t *testing.T) {
	const text = "# first\na:   [ 1,2 ]\n--- # second\nb: 1\n# behind it\n---\n\n---\nc: !x  y\n"
	roots, err := yamldoc.Stream([]byte(text), depth)
	if err != nil || len(roots) != 3 {
		t.Fatal(len(roots), err)
	}
	var docs []yamledit.Doc
	for _, root := range roots {
		before, err := yamldoc.Resolve(root, depth)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, yamledit.Doc{Root: root, Before: before, After: before})
	}
	docs[1].After = document(t, "{b: 1, d: 2}").After
	edits, err := yamledit.Edits([]byte(text), docs, depth)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(text, "b: 1\n", "b: 1\nd: 2\n", 1)
	if diff := cmp.Diff(want, string(yamledit.Apply([]byte(text), edits))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const shown = `--- x.yaml
+++ x.yaml
@@ -2,6 +2,7 @@
 a:   [ 1,2 ]
 --- # second
 b: 1
+d: 2
 # behind it
 ---
 
`
	if diff := cmp.Diff(shown, yamledit.Unified("x.yaml", []byte(text), edits)); diff != "" {
		t.Errorf("the diff (-want +got):\n%s", diff)
	}
}

// TestDocumentsOfJSON: of several objects of JSON the one that changes is written as it was, and the others stay.
func TestDocumentsOfJSON(t *testing.T) {
	for text, want := range map[string]string{
		"{\"a\": 1 }\n{\"b\": 1}\n{\"c\":   1}\n": "{\"a\": 1 }\n{\"b\":1,\"d\":2}\n{\"c\":   1}\n",
		"{\"a\":1}\n{\n   \"b\": 1\n}\n{\n}":      "{\"a\":1}\n{\n   \"b\": 1,\n   \"d\": 2\n}\n{\n}",
	} {
		roots, err := yamldoc.Stream([]byte(text), depth)
		if err != nil || len(roots) != 3 {
			t.Fatal(len(roots), err)
		}
		var docs []yamledit.Doc
		for _, root := range roots {
			docs = append(docs, yamledit.Doc{Root: root, Before: root, After: root})
		}
		docs[1].After = document(t, "{b: 1, d: 2}").After
		edits, err := yamledit.Edits([]byte(text), docs, depth)
		if got := string(yamledit.Apply([]byte(text), edits)); err != nil || got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// TestPatch: a patch says what changes, by RFC 6902.
func TestPatch(t *testing.T) {
	before := document(t, "{a: 1, 'b/~': [x, {name: y, v: 1}, z], gone: {}, w: [1]}").After
	after := document(t, "{a: 2, 'b/~': [q, x, {name: y, v: 1, u: [1]}], new: {n: null}, w: {}}").After
	ops, err := yamledit.Patch(before, after)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range ops {
		got = append(got, strings.TrimSpace(o.Op+" "+o.Path+" "+string(o.Value)))
	}
	want := []string{
		`replace /a 2`, `add /b~1~0/0 "q"`, `add /b~1~0/2/u [1]`, `remove /b~1~0/3`, `remove /gone`, `replace /w {}`,
		`add /new {"n":null}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzEdits holds that any text can be made to say anything, or refuses with a
// reason; and that what is said already changes no byte.
func FuzzEdits(f *testing.F) {
	for _, seed := range [][2]string{
		{"a: 1\nb:\n- c\n- d: |\n    x\n", "{a: 2, b: [c, e]}"},
		{"a: &x [1]\nb: *x\n", "{a: [2], b: [1]}"},
		{"x: &x {k: 1}\ny:\n  <<: *x\n", "{x: {k: 1}}"},
		{"- - a\n  - b\n- ? c\n  : d\n", "[[a], {c: e}]"},
		{"a: \"x\n\n  # y\"\n", "{a: 1, b: 2}"},
		{"{a: 1}", "[1]"}, {"{\"a\": 1}", "{b: 1}"}, {"--- |\n x\n", "{a: 1}"}, {"a: # c\n  # d\n  b\n...\n", "{a: b, c: d}"},
		{"a:\n- b\n\t\n", "{a: [b, c]}"}, {"!!map {a: !!str 1}", "{a: 1}"},
		{"{\"a\": 1}\n{\n  \"b\": 1}", "{b: yes}"}, {"{a: 2026-01-01, b: {c: on}}", "{a: 2026-01-01, c: \"y\"}"}, {"a: >\n\n  x\n\n y\n", "{b: 1}"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		roots, err := yamldoc.Stream([]byte(text), depth)
		others, err2 := yamldoc.Stream([]byte(other), depth)
		if err != nil || err2 != nil || len(others) == 0 {
			return
		}
		var docs []yamledit.Doc
		for _, root := range roots {
			before, err := yamldoc.Resolve(root, depth)
			if err != nil {
				return
			}
			docs = append(docs, yamledit.Doc{Root: root, Before: before, After: before})
		}
		edits, err := yamledit.Edits([]byte(text), docs, depth)
		if err != nil || len(edits) > 0 {
			t.Fatalf("nothing changes, and %v, %v", edits, err)
		}
		if len(docs) == 0 {
			return
		}
		after, err := yamldoc.Resolve(others[0], depth)
		if err != nil {
			return
		}
		docs[0].After = after
		edits, err = yamledit.Edits([]byte(text), docs, depth)
		if err != nil {
			return
		}
		roots, err = yamldoc.Stream(yamledit.Apply([]byte(text), edits), depth)
		if err != nil || len(roots) != len(docs) {
			t.Fatalf("%d of %d documents, %v", len(roots), len(docs), err)
		}
		for i, root := range roots {
			if got, err := yamldoc.Resolve(root, depth); err != nil || !yamldoc.Equal(got, docs[i].After) {
				t.Fatalf("document %d is another, %v", i, err)
			}
		}
		_ = yamledit.Unified("x", []byte(text), edits)
	})
}
