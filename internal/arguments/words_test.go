package arguments_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/arguments"
)

// TestWords: a command line is split as a shell splits it.
func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                      nil,
		"  a\tb\r\nc ":                          {"a", "b", "c"},
		"a 'b c' \"d e\"":                       {"a", "b c", "d e"},
		"--x='a b'\"c\"d":                       {"--x=a bc" + "d"},
		"a '' \"\" b":                           {"a", "", "", "b"},
		"a \\\n  b\\ c":                         {"a", "b c"},
		`"a\"b\\c\$d\e"`:                        {`a"b\c$d\e`},
		`'a\b'`:                                 {`a\b`},
		"'it'\\''s'":                            {"it's"},
		"a \\\r\n  b":                           {"a", "b"},
		"# first\na#b 'c#' # all of it\n  #\nd": {"a#b", "c#", "d"},
		"--outbound-exclude='udp :53' *":        {"--outbound-exclude=udp :53", "*"},
	} {
		got, err := arguments.Words(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-):\n%s", text, diff)
		}
	}
	for _, text := range []string{"'a", `a "b`, `"`} {
		if got, err := arguments.Words(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// FuzzWords: what is quoted is one word, which is what it was.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "a", "it's", "a b\n\t", `\`, "--x=[::]:1", "'\"'", "\x00é"} {
		f.Add(s, "b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		a, b = strings.ToValidUTF8(a, ""), strings.ToValidUTF8(b, "")
		text := arguments.Quote(a) + " " + arguments.Quote(b)
		if got, err := arguments.Words(text); err != nil || !slices.Equal(got, []string{a, b}) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	})
}
