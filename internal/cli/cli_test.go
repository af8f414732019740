package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
)

var (
	errAway  = errors.New("away")
	errOther = errors.New("other")
)

// kitchen is a program: cook takes flags, and clean fewer.
func kitchen(out, errOut io.Writer, ran *Line) Program {
	flag := func(name, form, short string) Flag {
		return Flag{Field: decode.Field{Name: name, Form: form, Group: "Food", Usage: "for " + name}, Short: short}
	}
	run := func(_ context.Context, line Line) int { *ran = line; return ExitDone }
	salt := flag("salt", "", "s")
	salt.Initial = "false"
	rule := flag("spice", "RULE", "")
	rule.Again = "; again for another"
	return Program{
		Console: Console{Name: "kitchen", Stdout: out, Stderr: errOut,
			Exits: append(CommonExits(), Exit{Code: 10, Err: errAway, Meaning: "the cook is away", Remedy: "wait"})},
		Does: "makes food", Start: "cook",
		Verbs: []Verb{
			{Name: "cook", Does: "make food", Also: []string{"bake"}, Run: run,
				Flags: func() []Flag { return []Flag{salt, rule, flag("oven-heat", "DEGREES", ""), flag("pot", "PATH", "p")} }},
			{Name: "clean", Does: "make it clean", Run: run, Flags: func() []Flag { return []Flag{flag("pot", "PATH", "p")} }},
		},
		Flags: []Flag{OutputFlag(OldName{Name: "format"}, OldName{Name: "json", Means: "json"})},
	}
}

// TestLine holds what arguments come to: the flags, or every mistake.
func TestLine(t *testing.T) {
	for args, want := range map[string][]string{
		"cook":                       {},
		"cook -s -p x -o json":       {"--salt=true", "--pot=x", "--output=json"},
		"cook -s=false -p=x -o=json": {"--salt=false", "--pot=x", "--output=json"},
		"cook -ojson":                {"--output=json"},
		"cook -p=":                   {`error --pot: empty value ""; leave it out, or write PATH`},
		"cook -output json":          {"error -output: unknown flag; did you mean --output?"},
		"cook -oxml":                 {"error -oxml: unknown flag; kitchen cook --help lists them"},
		"cook -px":                   {"error -px: unknown flag; kitchen cook --help lists them"},
		"cook -ss":                   {"error -ss: unknown flag; kitchen cook --help lists them"},
		"cook -é x":                  {"error -é: unknown flag; kitchen cook --help lists them"},
		"cook --oven_heat 180":       {"--oven-heat=180"},
		"cook --oven-heat -s": {`error --oven-heat: a value is missing: "-s" looks like a flag; write ` +
			`--oven-heat DEGREES`, "--salt=true"},
		"clean --pot --salt": {`error --pot: a value is missing: "--salt" looks like a flag; write --pot PATH`,
			"error --salt: clean does not use it; it is for cook"},
		"clean --oven-heat 180 --salt x": {"error --oven-heat: clean does not use it; it is for cook",
			"error --salt: clean does not use it; it is for cook",
			`error "x" is left over: clean takes flags only (kitchen clean --help lists them)`},
		"cook --spice a --spice b": {"--spice=a;b"},
		"cook --pot a -p b":        {`error --pot: given twice, "a" and "b": give it once`},
		"cook --format json":       {"--output=json", "note --format is deprecated: write --output (-o)"},
		"cook --json":              {"--output=json", "note --json is deprecated: write --output json"},
		"cook --json -o json": {`error --output: given twice, "json" and "json": give it once`,
			"note --json is deprecated: write --output json"},
		"cook --format": {"error --format: a value is missing: write --format text|json|yaml"},
		"cook -o xml":   {`error --output: "xml" is not one of text, json, yaml`},
		"cook -s true": {"--salt=true",
			`error --salt: "true" is left over: a switch's value is written --salt=true`},
		"cook -- -s": {`error "-s" is left over: cook takes flags only (kitchen cook --help lists them)`},
		"cook --=1 ---": {"error --: unknown flag; kitchen cook --help lists them",
			"error ---: unknown flag; kitchen cook --help lists them"},
		"cook --sald x --salt -o yaml -s=": {"error --sald: unknown flag; did you mean --salt?",
			`error --salt: given twice, "true" and "": give it once`, "--output=yaml"},
	} {
		var line Line
		p := kitchen(io.Discard, io.Discard, &line)
		if code := p.Run(t.Context(), strings.Fields(args)); code != ExitDone {
			t.Errorf("%s: exit code %d", args, code)
		}
		got := []string{}
		for _, err := range line.Errs {
			got = append(got, "error "+err.Error())
		}
		for _, g := range line.Given {
			got = append(got, g.Source+"="+g.Text)
		}
		for _, note := range line.Notes {
			got = append(got, "note "+note)
		}
		sorted := cmp.Transformer("set", func(list []string) map[string]bool {
			set := map[string]bool{}
			for _, s := range list {
				set[s] = true
			}
			return set
		})
		if diff := cmp.Diff(want, got, sorted); diff != "" || len(want) != len(got) {
			t.Errorf("%s (-want +got):\n%s", args, diff)
		}
	}
}

// FuzzLine holds that no token is swallowed: a command line has a mistake that is
// named, or comes to flags that are the same when they are written out again.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{
		"-s -p x -ojson", "--pot=a=b --salt=false", "--spice a --spice b", "-test.v -h", "--format json", "-p -s", "-- x",
		"--oven_heat=1", "-o=\x00", "- --",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parse := func(args []string) (Line, bool) {
			var line Line
			ran := false
			p := kitchen(io.Discard, io.Discard, &line)
			for i := range p.Verbs {
				run := p.Verbs[i].Run
				p.Verbs[i].Run = func(ctx context.Context, l Line) int { ran = true; return run(ctx, l) }
			}
			p.Run(t.Context(), append([]string{"cook"}, args...))
			return line, ran
		}
		args := strings.Split(text, " ")
		line, ran := parse(args)
		if !ran { // help
			if !strings.Contains(text, "-h") {
				t.Fatalf("%q: help", args)
			}
			return
		}
		if len(line.Errs) > 0 {
			return
		}
		var again []string
		for _, g := range line.Given {
			for part := range strings.SplitSeq(g.Text, ";") {
				if !g.Repeats() {
					part = g.Text
				}
				again = append(again, "--"+g.Name+"="+part)
				if !g.Repeats() {
					break
				}
			}
		}
		back, _ := parse(again)
		key := func(l Line) (s []string) {
			for _, g := range l.Given {
				s = append(s, g.Name+"="+g.Text)
			}
			return s
		}
		if diff := cmp.Diff(key(line), key(back)); diff != "" || len(back.Errs) > 0 {
			t.Fatalf("%q became %q: %v\n%s", args, again, back.Errs, diff)
		}
		if len(line.Given) == 0 && text != "--" {
			t.Fatalf("%q is nothing", args)
		}
	})
}

// TestVerb: what is said where a verb is missing, or another word stands for one.
func TestVerb(t *testing.T) {
	for args, want := range map[string]string{
		"bake":                 `"bake" is not a verb; did you mean cook?`,
		"coock":                `"coock" is not a verb; did you mean cook?`,
		"cl":                   `"cl" is not a verb; did you mean clean?`,
		"xyzzy":                `"xyzzy" is not a verb; the verbs are cook, clean, completion, help`,
		"--salt":               `no verb before "--salt": write kitchen cook --salt`,
		"--pot a$b cook -s":    `the verb comes first: write kitchen cook --pot 'a$b' -s`,
		"help cook clean":      `"clean" is left over: help takes one argument, cook|clean|completion|help`,
		"help baking":          `"baking" is not a verb`,
		"completion":           "a shell is missing: write kitchen completion bash|zsh|fish",
		"completion tcsh":      `"tcsh" is not one of bash, zsh, fish`,
		"completion bash fish": `"fish" is left over`,
		"-o json":              `no verb before "-o": write kitchen cook -o json`,
	} {
		var out, errOut bytes.Buffer
		var line Line
		code := kitchen(&out, &errOut, &line).Run(t.Context(), strings.Fields(args))
		if code != ExitUsage || out.Len() > 0 || !strings.HasPrefix(errOut.String(), "kitchen: "+want) ||
			strings.Count(errOut.String(), "\n") != 1 {
			t.Errorf("%s: exit code %d, output %q, standard error %q; want %q", args, code, &out, &errOut, want)
		}
	}
	var out, errOut bytes.Buffer
	if code := kitchen(&out, &errOut, new(Line)).Run(t.Context(), nil); code != ExitUsage || out.Len() > 0 ||
		!strings.Contains(errOut.String(), "Usage: kitchen VERB") ||
		!strings.HasSuffix(errOut.String(), "write kitchen cook, or another of the verbs above\n") {
		t.Errorf("exit code %d, output %q, standard error:\n%s", code, &out, &errOut)
	}
}

// TestFail holds that errors come one on a line, without what would break it,
// with the remedy, and not by the thousand.
func TestFail(t *testing.T) {
	var out bytes.Buffer
	c := kitchen(io.Discard, &out, nil).Console
	if code := c.Fail(t.Context(), nil, fmt.Errorf("pot \"\x1b[2J\n\": %w", errAway)); code != 10 ||
		out.String() != "kitchen: pot \"\\x1b[2J\\n\": away; wait\n" {
		t.Errorf("exit code %d, %q", code, &out)
	}
	var many []error
	for i := range 25 {
		many = append(many, fmt.Errorf("mistake %d", i+1))
	}
	for n, last := range map[int]string{20: "mistake 20", 21: "mistake 21", 22: "and 2 more errors",
		25: "and 5 more errors"} {
		out.Reset()
		code := c.Fail(t.Context(), nil, UsageError{errors.Join(many[:n]...)})
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if code != ExitUsage || len(lines) != min(n, 21) || lines[len(lines)-1] != "kitchen: "+last {
			t.Errorf("%d errors: exit code %d, %d lines, the last %q", n, code, len(lines), lines[len(lines)-1])
		}
		out.Reset()
		c.Fail(t.Context(), slog.New(slog.NewJSONHandler(&out, nil)), UsageError{errors.Join(many[:n]...)})
		for line := range strings.Lines(out.String()) {
			var v struct {
				Level, Msg string
				Exit       int
			}
			if err := json.Unmarshal([]byte(line), &v); err != nil || v.Level != "ERROR" || v.Exit != ExitUsage || v.Msg == "" {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
	if code := c.Fail(t.Context(), nil, errOther); code != ExitFailed {
		t.Errorf("exit code %d for an error that is in no table", code)
	}
}

// TestFormats holds that JSON and YAML say the same, in the same order, to readers
// of YAML 1.1, too.
func TestFormats(t *testing.T) {
	type inner struct {
		Zeta  string   `json:"zeta"`
		Alpha []string `json:"alpha"`
	}
	v := []struct {
		Words []string         `json:"words"`
		Inner inner            `json:"inner"`
		Big   uint64           `json:"big"`
		None  *int             `json:"none"`
		Map   map[string]inner `json:"map"`
	}{{
		Words: []string{"off", "yes", "null", "~", "", "1e3", "0x10", "0o7", "1_000", "12:30:45", "2001-01-01", "::1", "a: b",
			"- a", "#x", "<&>", "\u2028\u0085", "\x00\x1b", "tab\t", "line\nbreak\n",
			" space ", "%", "@", "`", "\"'", strings.Repeat("long ", 60), "é世界🙂", "!!str", "&a *a", "=", "<<", "."},
		Inner: inner{"z", []string{}}, Big: 1<<63 + 3, Map: map[string]inner{"no": {}},
	}}
	var j, y bytes.Buffer
	if err := errors.Join(JSON.Write(&j, v, nil), YAML.Write(&y, v, nil)); err != nil {
		t.Fatal(err)
	}
	if strings.Index(y.String(), "zeta") > strings.Index(y.String(), "alpha") {
		t.Errorf("the fields have another order:\n%s", &y)
	}
	var document any
	if err := yaml.Unmarshal(y.Bytes(), &document); err != nil {
		t.Fatalf("%v\n%s", err, &y)
	}
	yaml12, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	yaml11, err := sigsyaml.YAMLToJSON(y.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, &y)
	}
	for version, text := range map[string][]byte{"1.1": yaml11, "1.2": yaml12} {
		if diff := cmp.Diff(decodeJSON(t, j.Bytes()), decodeJSON(t, text)); diff != "" {
			t.Errorf("JSON and YAML, as readers of %s see it, differ:\n%s", version, diff)
		}
	}
	var back []struct{ Words []string }
	if err := json.Unmarshal(j.Bytes(), &back); err != nil || cmp.Diff(v[0].Words, back[0].Words) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(v[0].Words, back[0].Words))
	}
	var text bytes.Buffer
	if err := Text.Write(&text, v, func() string { return "text\n" }); err != nil || text.String() != "text\n" {
		t.Errorf("%v, %q", err, &text)
	}
}

func decodeJSON(t *testing.T, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return v
}

// TestStyle holds that nothing is marked but on a terminal whose user wants it.
func TestStyle(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for _, tc := range []struct {
		w             io.Writer
		noColor, term string
		want          string
	}{
		{terminal, "", "xterm", "\x1b[32mok\x1b[0m"},
		{terminal, "1", "xterm", "ok"},
		{terminal, "", "dumb", "ok"},
		{&bytes.Buffer{}, "", "xterm", "ok"},
	} {
		t.Setenv("NO_COLOR", tc.noColor)
		t.Setenv("TERM", tc.term)
		if got := StyleFor(tc.w).Good("ok"); got != tc.want {
			t.Errorf("NO_COLOR=%s TERM=%s: %q, want %q", tc.noColor, tc.term, got, tc.want)
		}
	}
}

func TestTable(t *testing.T) {
	got := Table([]Row{
		{"RULE", "REASON", "MATCH"},
		{"output:"},
		{"O1", "é", "no"},
		{"O10.cidrs", strings.Repeat("word ", 12), "no: not destination " + strings.TrimSuffix(strings.Repeat("10.0.0.0/8,",
			9), ",")},
	})
	want := `RULE       REASON                                       MATCH
output:
O1         é                                            no
O10.cidrs  word word word word word word word word      no: not destination 10.0.0.0/8,10.0.0.0/8,
           word word word word                          10.0.0.0/8,10.0.0.0/8,10.0.0.0/8,10.0.0.0/8,
                                                        10.0.0.0/8,10.0.0.0/8,10.0.0.0/8
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzTable holds that a table loses nothing but spaces, and is no wider than
// Width unless a single word is.
func FuzzTable(f *testing.F) {
	f.Add("a", "b c", "d,e,f")
	f.Add(strings.Repeat("x ", 200), strings.Repeat("y,", 200), "")
	f.Add("", " ", "\u00a0é")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		for _, s := range []string{a, b, c} {
			if !utf8.ValidString(s) || strict.OneLine(s) != s {
				return
			}
		}
		text := Table([]Row{{a, b, c}, {"heading"}, {c, a}})
		letters := func(s string) map[rune]int {
			n := map[rune]int{}
			for _, r := range s {
				if !unicode.IsSpace(r) {
					n[r]++
				}
			}
			return n
		}
		if diff := cmp.Diff(letters(a+b+c+"heading"+c+a), letters(text)); diff != "" {
			t.Fatalf("%s\n%s", diff, text)
		}
		longest := 0
		for _, word := range strings.FieldsFunc(a+" "+b+" "+c, func(r rune) bool { return unicode.IsSpace(r) || r == ',' }) {
			longest = max(longest, utf8.RuneCountInString(word))
		}
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > Width && longest < 20 {
				t.Fatalf("%d columns: %s", n, line)
			}
		}
	})
}
