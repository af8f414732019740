package yamldoc

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// whole returns a node in which no list is long.
func whole(n strict.Node) strict.Node {
	if n.Long != nil {
		n.Items, n.Long = slices.Collect(n.Long), nil
	}
	for i := range n.Items {
		n.Items[i] = whole(n.Items[i])
	}
	for i := range n.Fields {
		n.Fields[i].Value = whole(n.Fields[i].Value)
	}
	return n
}

func times(n int, text string) string { return strings.Repeat(text, n) }

// documents are those in which something stands that looks like a long list, and whether one may be left out.
func documents() map[string]bool {
	block, flow := times(minRun, "  - 10.0.0.0/8\n"), times(minRun, `"fd00::/8", `)
	return map[string]bool{
		"a:\n" + block:            true,
		"a:\n" + block + "b: 1\n": true,
		"a:\n" + times(minRun, "- 'fd00::/8' # why\n") + "b: 1\n":  true,
		"a:\n" + times(minRun, "-   80\n") + "- x:\n    y\n":       true,
		"# é\na:\n" + block + "  - - 1\n" + block + "b:\n" + block: true,
		"a: [" + flow + "]\nb: [\n" + times(minRun, "80,\n") + "]": true,
		"é: {a: [" + flow + "], b: [" + flow + "1]}":               true,
		"a: [" + flow + "[" + flow + "]]":                          true,
		"a:\n" + block + "  - 10.0.0.0/8\n     more\n":             true,
		"a: |\n" + block:                           false,
		"a: >\n" + block + "b: 1":                  false,
		"a: x\n" + block:                           false,
		"a: \"\n" + block + "\"":                   false,
		"a: '[" + flow + "]'":                      false,
		"a: # [" + flow + "]\n":                    false,
		"a: &a\n" + block + "b: *a\n":              false,
		"a: &a [" + flow + "]\nb: {<<: {c: *a}}\n": false,
		"a:\n" + block + "a:\n" + block:            false,
		"a:\n" + block + "---\nb: 1\n":             false,
		"a:\n" + block + "   - 1\n":                true,
		"a:\n" + block + "\t- 1\n":                 false,
		"a:\n" + times(minRun, "  - ::1\n"):        false,
		"a:\n" + times(minRun, "  - fd00::\n"):     false,
		"a:\n" + times(minRun, "  - null\n"):       false,
		"a:\n" + times(minRun, "  - \"1\" x\n"):    false,
		"a:\n" + times(minRun, "  - 1 #\x01\n"):    false,
		"a:\n" + times(minRun, "  - 1\r\n"):        false,
		"a: [" + flow + "] x":                      false,
		"- 1\n" + times(minRun, "- 1\n") + "x":     false,
		"[\n" + times(minRun, "- 1\n") + "]":       false,
		times(minRun, "- 1\n"):                     true,
		"{{ x }}\n" + block:                        false,
		"":                                         false,
	}
}

// TestParseLong: a document is read as it is without anything left out, and with the same mistakes; where a list is
// plain it is left out.
func TestParseLong(t *testing.T) {
	for text, short := range documents() {
		same(t, text)
		if _, err := parseShort([]byte(text)); (err == nil) != short {
			t.Errorf("%.40q…%q: %v, want it short: %v", text, text[max(0, len(text)-40):], err, short)
		}
	}
}

func same(t *testing.T, text string) {
	t.Helper()
	got, gotErr := ParseLong([]byte(text))
	want, wantErr := Parse([]byte(text))
	if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || gotErr == nil && !reflect.DeepEqual(whole(got), whole(want)) {
		t.Errorf("%q: %v, %v; whole: %v, %v", text, whole(got), gotErr, want, wantErr)
	}
}

// FuzzParseLong holds that nothing depends on what is left out.
func FuzzParseLong(f *testing.F) {
	for text := range documents() {
		f.Add(text, 0)
	}
	// Few lines are enough where they come again.
	f.Add("a:\n  - 1 # x\nb: [\"c\"]\n", 1)
	f.Fuzz(func(t *testing.T, text string, line int) {
		lines := strings.SplitAfter(text, "\n")
		if line > 0 && line < len(lines) {
			text = strings.Join(lines[:line], "") + times(minRun, lines[line]) + strings.Join(lines[line+1:], "")
		}
		if len(text) < 64<<10 {
			same(t, text)
		}
	})
}

// TestLongListIsCheap: an item of a long list costs no allocation.
func TestLongListIsCheap(t *testing.T) {
	const n = 10_000
	for name, text := range map[string]string{
		"block": "a:\n" + times(n, "  - 10.0.0.0/8\n"), "flow": "a: [" + times(n, `"10.0.0.0/8", `) + "]",
		"JSON": `{"a": [` + strings.TrimSuffix(times(n, `"10.0.0.0/8", `), ", ") + `]}`,
	} {
		data := []byte(text)
		allocs := testing.AllocsPerRun(3, func() {
			doc, err := ParseLong(data)
			if err != nil {
				t.Fatal(err)
			}
			items := 0
			for range doc.Value("a").Long {
				items++
			}
			if items != n {
				t.Fatalf("%d items", items)
			}
		})
		if allocs > 500 {
			t.Errorf("%s: %v allocations for %d items", name, allocs, n)
		}
	}
}
