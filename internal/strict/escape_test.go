package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"
)

// acting are characters by which terminals act: ESC, CSI of one byte, DEL, the
// line separator, what turns the direction of writing, and a tag.
const acting = "\x1b[2J \u009b2J \x7f \u2028 \u202e \U000E0041 \r\n\t"

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"a é 漢 \u00a0": "a é 漢 \u00a0",
		acting:         `\x1b[2J \u009b2J \x7f \u2028 \u202e \U000e0041 \r\n\t`,
		"\x9b2J\xffa":  `\x9b2J\xffa`,
		"\ufffd":       "\ufffd",
	} {
		if got := OneLine(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzOneLine holds that nothing is left by which a terminal acts, and that what
// has nothing of the kind stays as it is.
func FuzzOneLine(f *testing.F) {
	f.Add(acting)
	f.Add("\x9b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := OneLine(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, acts) || OneLine(got) != got {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

// TestEscapedJSON: a log's lines mean what they meant, and move no cursor.
func TestEscapedJSON(t *testing.T) {
	var plain, escaped bytes.Buffer
	for _, h := range []slog.Handler{slog.NewJSONHandler(&plain, nil), slog.NewJSONHandler(EscapedJSON(&escaped), nil)} {
		slog.New(h).Error("m "+acting, "pod", acting, "err", &Error{Path: acting, Err: errors.New("x")})
	}
	var a, b map[string]any
	if err := json.Unmarshal(escaped.Bytes(), &b); err != nil {
		t.Fatalf("%v: %s", err, escaped.Bytes())
	}
	if err := json.Unmarshal(plain.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a["msg"] != b["msg"] || a["pod"] != b["pod"] || a["err"] != b["err"] {
		t.Errorf("%v became %v", a, b)
	}
	if line := strings.TrimSuffix(escaped.String(), "\n"); strings.ContainsFunc(line, acts) {
		t.Errorf("%q", line)
	}
}

// FuzzEscapeJSON holds that the JSON means the same.
func FuzzEscapeJSON(f *testing.F) {
	f.Add(acting, "k")
	f.Add("\xff\x9b", "\U000E0001\ud7ff")
	f.Fuzz(func(t *testing.T, a, b string) {
		text, err := json.Marshal(map[string]string{a: b, b: a})
		if err != nil {
			t.Fatal(err) // any string has JSON
		}
		got := EscapeJSON(text)
		var was, is map[string]string
		if err := json.Unmarshal(got, &is); err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		if err := json.Unmarshal(text, &was); err != nil {
			t.Fatal(err)
		}
		if len(was) != len(is) {
			t.Fatalf("%q became %q", was, is)
		}
		for k, v := range was {
			if is[k] != v {
				t.Fatalf("%q became %q", was, is)
			}
		}
		if bytes.ContainsFunc(got, acts) {
			t.Fatalf("%q", got)
		}
	})
}
