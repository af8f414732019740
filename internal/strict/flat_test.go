package strict

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzFlat holds that arrays that are read in one piece are read as any others, with the same lines and mistakes.
func FuzzFlat(f *testing.F) {
	long := func(items string) string { return strings.TrimSuffix(strings.Repeat(items+",", minFlat), ",") }
	for _, s := range []string{
		`{"a":[` + long(`"10.0.0.0/8"`) + `],"b":{"c":[` + long(`80`) + `]}}`,
		"{\"a\": [\n" + long("  \"fd00::/8\"\n") + "]\n, \"a\": 1}", `[` + long(`"a"`) + `,{}]`, `[` + long(`"\u0061"`) + `]`,
		`[` + long(`01`) + `]`, `[` + long(`1`) + `,]`, `[` + long(`1`), `[` + long(`"é"`) + `]`, `["[", ` + long(`"]"`) + `]`,
		`"[` + long(`1`) + `]"`, `[` + long(`[`+long(`1`)+`]`) + `]`, `[` + long(`1 2`) + `]`, `x[` + long(`1`) + `]`,
		`["\"[` + long(`1`) + `]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		data := []byte(text)
		got, gotErr := ParseJSON(data)
		p := newParser(data, firstLine(data))
		want, wantErr := p.whole(MaxDepth)
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || gotErr == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v; one by one: %v, %v", text, got, gotErr, want, wantErr)
		}
		read, err := io.ReadAll(iotest.HalfReader(&withoutFlats{data: data, flats: flats(data, false)}))
		if err != nil || !bytes.Equal(read, blank(data)) {
			t.Errorf("%q is read as %q, %v", text, read, err)
		}
	})
}

func blank(data []byte) []byte {
	data = []byte(string(data))
	for _, f := range flats(data, false) {
		copy(data[f.begin+1:f.end-1], strings.Repeat(" ", f.end-f.begin-2))
	}
	return data
}

// TestFlat: a long list costs no allocation an item, and what is no list of plain values is none.
func TestFlat(t *testing.T) {
	const n = 10_000
	text := func(item string) []byte {
		return []byte(`{"list": [` + strings.TrimSuffix(strings.Repeat(item+", ", n), ", ") + `]}`)
	}
	for item, most := range map[string]float64{`"10.0.0.0/8"`: 100, `8080`: 100} {
		data := text(item)
		if got := testing.AllocsPerRun(3, func() {
			if _, err := ParseJSON(data); err != nil {
				t.Fatal(err)
			}
		}); got > most {
			t.Errorf("a list of %d %s: %v allocations, more than %v", n, item, got, most)
		}
	}
	for _, item := range []string{`"\n"`, `"é"`, "0", "1.5", "-1", "true", "null", "{}", "[]"} {
		if all := flats(text(item), false); len(all) > 0 {
			t.Errorf("a list of %s is flat: %v", item, all)
		}
	}
	if _, err := ParseJSON([]byte("[" + strings.Repeat("1,", maxValues) + "1]")); err == nil ||
		!strings.Contains(err.Error(), "values") {
		t.Errorf("too many values: %v", err)
	}
}
