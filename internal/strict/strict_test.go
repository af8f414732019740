package strict

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

type word string

type inner struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	Word word   `json:"word"`
}

type outer struct {
	Inner inner            `json:"inner"`
	Port  uint16           `json:"port"`
	Table uint32           `json:"table"`
	List  []string         `json:"list"`
	Addrs []netip.Addr     `json:"addrs"`
	To    []netip.AddrPort `json:"to"`
	Many  []inner          `json:"many"`
}

func errorsOf(err error) (all []string) {
	for _, e := range Flatten(err) {
		all = append(all, e.Error())
	}
	return all
}

// TestIntoLists: a list is a list, or a text with commas, whatever is in it.
func TestIntoLists(t *testing.T) {
	for text, want := range map[string]outer{
		`{"list": "a", "addrs": "10.0.0.1", "to": "10.0.0.1:80"}`: {List: []string{"a"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, To: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:80")}},
		`{"list": "a,b", "addrs": "10.0.0.1, fd00::1"}`: {List: []string{"a", "b"},
			Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}},
		`{"list": "none", "addrs": []}`: {},
	} {
		n, err := ParseJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var v outer
		if _, err := n.Into(&v); err != nil || fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v", text, v, err)
		}
	}
}

// TestInto: every mistake of a document is there, in order, with its path and line.
func TestInto(t *testing.T) {
	n, err := ParseJSON([]byte(`{
  "innr": {},
  "inner": {"name": "a", "on": "yes", "word": true,
    "nme": 1},
  "port": 70000,
  "table": -1,
  "list": {"a": 1},
  "addrs": ["10.0.0.1", "x",
    null],
  "to": [{}],
  "many": [{"name": []}, 7]
}`))
	if err != nil {
		t.Fatal(err)
	}
	v := outer{Port: 5}
	unread, err := n.Into(&v)
	want := []string{
		"innr: unknown field; did you mean inner? (line 2)",
		"inner.nme: unknown field; did you mean name? (line 4)",
		`inner.on: "yes" is not true or false (line 3)`,
		`inner.word: true where a word belongs: YAML 1.1 takes an unquoted on, yes, off or no for it; quote it, as in ` +
			`"off" (line 3)`,
		`port: "70000" is not a port (a number from 1 to 65535) (line 5)`,
		`table: "-1" is not a number from 0 to 4294967295 (line 6)`,
		"list: a mapping where a list belongs (line 7)",
		`addrs[1]: "x" is not an address (as in 10.0.0.10 or fd00::10) (line 8)`,
		"addrs[2]: no value: write one, [] for an empty list, or leave the field out for its default (line 9)",
		"to[0]: a mapping where one value belongs (line 10)",
		"many[0].name: a list where one value belongs (line 11)",
		"many[1]: a value where fields belong (name, on, word) (line 11)",
	}
	if got := errorsOf(err); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(unread) != len(want)-2 || v.Port != 5 || v.Inner.Name != "a" {
		t.Errorf("unread %q, %+v", unread, v)
	}
}

// TestText: what is set from a text form has it.
func TestText(t *testing.T) {
	for _, tt := range []struct {
		target any
		text   string
		want   string // "": as the text
	}{
		{new(uint16), "80", ""}, {new(uint16), "none", "0"}, {new(uint16), "0", ""}, {new(uint32), "4294967295", ""},
		{new(bool), "true", ""}, {new(string), "a b", ""}, {new(word), "off", ""},
		{new(netip.Addr), "fd00::1", ""}, {new(netip.AddrPort), "[fd00::1]:53", ""},
		{new([]netip.Addr), "10.0.0.1, fd00::1", "10.0.0.1,fd00::1"}, {new([]netip.AddrPort), "10.0.0.1:1", ""},
		{new([]string), "a,b", ""}, {new([]string), "none", ""},
	} {
		err := SetText(tt.target, tt.text)
		want := tt.want
		if want == "" {
			want = tt.text
		}
		if got := Text(reflect.ValueOf(tt.target).Elem().Interface()); got != want || err != nil {
			t.Errorf("%T %q: %q, %v", tt.target, tt.text, got, err)
		}
	}
	for _, tt := range []struct {
		target any
		text   string
		want   string
	}{
		{new(uint16), "080", "is not a port"}, {new(uint16), "1-2", "is a range"}, {new(uint16), "", "is not a port"},
		{new(bool), "1", "is not true or false"}, {new([]string), "a,", "remove the extra comma"}, {new([]string), "a;b",
			"commas separate"},
		{new([]string), `we$ird;"x`, "or we$ird* for an interface that has the semicolon in its name"},
		{new([]netip.Addr), "10.0.0.1 10.0.0.2", "commas separate the items of a list; write 10.0.0.1,10.0.0.2"},
		{new([]string), "a,none", "stands alone"}, {new([]string), "-a", "looks like a flag"}, {new([]string), "",
			"empty name list"},
		{new(struct{}), "x", "no text form"}, {new([]int), "1", "no text form"},
	} {
		if err := SetText(tt.target, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%T %q: %v, want %q", tt.target, tt.text, err, tt.want)
		}
	}
}

// TestMembers: an object is taken apart, and its values handed on as they are.
func TestMembers(t *testing.T) {
	all, err := Members([]byte("{\"a\": {\"x\":1,\"x\":2},\n \"b\": [ 1 ]\n}\n"))
	if err != nil || len(all) != 2 || all[0].Name != "a" || string(all[0].Raw) != `{"x":1,"x":2}` || all[1].Line != 2 ||
		string(all[1].Raw) != "[ 1 ]" {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := all[0].Node(); err == nil {
		t.Error("x twice is accepted")
	}
	for _, bad := range []string{"", "[]", "null", `"a"`, "{", `{"a"`, `{"a":`, `{"a":1`, `{"a":1}}`, `{"a":1,}`,
		`{1:1}`} {
		if all, err := Members([]byte(bad)); err == nil || json.Valid([]byte(bad)) && bad[0] == '{' {
			t.Errorf("%s: %v, %v", bad, all, err)
		}
	}
}

// FuzzMembers holds that an object is accepted if, and only if, it is one.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":[{}]}`, `{"a":1,}`, `{}x`, `{"a" 1}`, "{\"\\ud800\":\"\xff\"}",
		` {"a":01}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := Members(data)
		var std map[string]json.RawMessage
		stdErr := json.Unmarshal(data, &std)
		if (err == nil) != (stdErr == nil && std != nil) {
			t.Fatalf("%q: %v, but encoding/json: %v", data, err, stdErr)
		}
		for _, m := range all {
			if err == nil && len(std[m.Name]) == 0 {
				t.Fatalf("%q: %s is not there", data, m.Name)
			}
		}
	})
}

// TestErrors: the first ones are named, and the others counted once.
func TestErrors(t *testing.T) {
	var errs Errors
	for i := range 3 * Most {
		errs.Add(errors.Join(fmt.Errorf("%d", i)), nil)
	}
	var again Errors
	again.Add(errs.Err(), errors.New("one"))
	for _, err := range []error{errs.Err(), again.Err()} {
		all := Flatten(err)
		var omitted Omitted
		if len(all) != Most+1 || !errors.As(err, &omitted) || int(omitted) < 2*Most {
			t.Errorf("%d errors, %d omitted: %v", len(all), omitted, err)
		}
	}
	var few Errors
	for i := range Most + 1 {
		few.Add(fmt.Errorf("%d", i))
	}
	if all := Flatten(few.Err()); len(all) != Most+1 || all[Most].Error() != fmt.Sprint(Most) {
		t.Errorf("%q: one more is named, too", all)
	}
	var none Errors
	if none.Add(nil); none.Err() != nil || !none.None() {
		t.Error(none.Err())
	}
}

// TestSentence: errors that are joined within another are told apart, and what a token has is not touched.
func TestSentence(t *testing.T) {
	token := errors.New("a\nb")
	joined := errors.Join(errors.New("one"), fmt.Errorf("two: %w", errors.Join(token, errors.New("three"))))
	for _, tt := range []struct {
		err  error
		want string
	}{
		{token, "a\nb"}, {joined, "one; two: a\nb; three"}, {fmt.Errorf("list: %w", joined), "list: one; two: a\nb; three"},
		{fmt.Errorf("%w, since %w", errors.New("no"), joined), "no, since one; two: a\nb; three"},
		{errors.Join(token), "a\nb"},
	} {
		if got := Sentence(tt.err); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// TestAt: a node is found by the path that errors name.
func TestAt(t *testing.T) {
	n, err := ParseJSON([]byte("{\"a\": {\"b\": [\n{\"c\": 1}, {\"c\":\n2}]}}"))
	if err != nil {
		t.Fatal(err)
	}
	for path, line := range map[string]int{"a": 1, "a.b[0].c": 2, "a.b[1].c": 3, "a.b[7].c": 1, "a.x": 0, "x.y": 0} {
		if got := n.At(path).Line; got != line {
			t.Errorf("%s: line %d, want %d", path, got, line)
		}
	}
}

// TestSeveralLines: the end of a line separates items, and what is there for readers means nothing.
func TestSeveralLines(t *testing.T) {
	for _, tc := range []struct {
		target any
		text   string
		want   string // as Text writes it; "": an error
	}{
		{new(bool), "true\n", "true"}, {new(bool), " \ttrue\r\n", "true"}, {new(bool), "true # for now\n", "true"},
		{new(bool), "true\nfalse\n", ""}, {new(uint16), "\n15001\n\n", "15001"}, {new(word), "all\n", "all"},
		{new(word), "# why\nall", "all"}, {new(uint32), "7 #8", "7"}, {new(uint32), "7#8", ""},
		{new([]string), "a\nb\n", "a,b"}, {new([]string), "a,\nb", "a,b"}, {new([]string), "a\n,b", "a,b"},
		{new([]string), "a,\n\n\t# the others\n  b # this one\r\n", "a,b"}, {new([]string), "none\n", "none"},
		{new([]string), "a#b\n#c", "a#b"}, {new([]string), "a,\n,b", ""}, {new([]string), "a\n\n\nb", "a,b"},
		{new([]string), "a\nnone", ""}, {new([]string), "a\tb", ""}, {new([]string), "a\tb\nc", ""},
		{new([]string), "# nothing else", ""}, {new([]string), "\n", ""}, {new([]string), "- a\n- b", ""},
		{new([]netip.Addr), "10.0.0.1 # a\nfd00::1\n", "10.0.0.1,fd00::1"},
		{new(string), " as # it is\n", " as # it is\n"},
	} {
		err := SetText(tc.target, tc.text)
		if (err == nil) != (tc.want != "") {
			t.Errorf("%T of %q: %v", tc.target, tc.text, err)
		} else if got := Text(reflect.ValueOf(tc.target).Elem().Interface()); err == nil && got != tc.want {
			t.Errorf("%T of %q is %q, want %q", tc.target, tc.text, got, tc.want)
		}
	}
	// An item of a document's list is one item, and a comment in it ends with it.
	var list struct {
		Names listOfNames `json:"names"`
	}
	for doc, want := range map[string]string{
		`{"names":["a # x","b\n"]}`: "a,b", `{"names":["a\nb"]}`: "", `{"names":["","b"]}`: "", `{"names":["#a","b"]}`: "",
		`{"names":"a # x\nb"}`: "a,b",
	} {
		err := UnmarshalJSON([]byte(doc), &list)
		if (err == nil) != (want != "") || err == nil && strings.Join(list.Names, ",") != want {
			t.Errorf("%s: %q, %v", doc, list.Names, err)
		}
	}
}

// listOfNames is a list with a text form, as those of ports are.
type listOfNames []string

func (l *listOfNames) Set(text string) error { return SetText((*[]string)(l), text) }
