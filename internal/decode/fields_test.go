package decode

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
)

// equalConfigs compares configurations, empty lists like absent ones.
func equalConfigs(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

// leaves calls fn with the path of every field of a configuration that can be
// set, and with its value.
func leaves(path string, v reflect.Value, fn func(path string, v reflect.Value)) {
	if v.Kind() != reflect.Struct || !isConfigStruct(v.Type()) {
		fn(path, v)
		return
	}
	for _, name := range fieldNames(v.Type()) {
		leaves(join(path, name), fieldByName(v, name), fn)
	}
}

// TestEveryFieldIsInTheTable holds the table against the configuration: each field
// is in one row, and the default that the help names is the field's default.
func TestEveryFieldIsInTheTable(t *testing.T) {
	byField := map[string]Field{}
	for _, f := range Fields() {
		if _, twice := byField[f.Path]; twice && f.Path != "" {
			t.Errorf("%s has two rows", f.Path)
		}
		byField[f.Path] = f
	}
	delete(byField, "")
	defaults := intercept.Default()
	leaves("", reflect.ValueOf(&defaults).Elem(), func(path string, want reflect.Value) {
		f, ok := byField[path]
		if !ok {
			t.Errorf("%s has no row", path)
			return
		}
		delete(byField, path)
		var c intercept.Config
		if err := SetField(&c, path, f.Initial); err != nil {
			t.Errorf("--%s %s: %v", f.Name, f.Initial, err)
			return
		}
		leaves("", reflect.ValueOf(&c).Elem(), func(p string, got reflect.Value) {
			if p == path {
				if diff := equalConfigs(want.Interface(), got.Interface()); diff != "" {
					t.Errorf("--%s: the default in the help is not that of %s (-default +help):\n%s", f.Name, path, diff)
				}
			}
		})
	})
	for field, f := range byField {
		t.Errorf("--%s sets %s, which is no field", f.Name, field)
	}
}

// TestPlausible: what is refused before it is read, and the initial values are not.
func TestPlausible(t *testing.T) {
	for _, f := range Fields() {
		if err := f.Plausible(f.Initial); err != nil || f.Usage == "" || f.Name != strings.ToLower(f.Name) || strings.Contains(f.Meaning(), "\n") {
			t.Errorf("%s: %v, %q", f.Name, err, f.Meaning())
		}
		for _, bad := range []string{"", " ", "-x", "--dns"} {
			if err := f.Plausible(bad); err == nil {
				t.Errorf("%s: %q is accepted", f.Name, bad)
			}
		}
		if c := f.Choices(); c != nil && (!slices.Contains(c, f.Initial) || f.Plausible("other") == nil) {
			t.Errorf("%s: choices %q", f.Name, c)
		}
	}
}

// FuzzParseJSON holds that any bytes give an error or a configuration, which
// is then the same as encoding/json makes of what it is written as.
func FuzzParseJSON(f *testing.F) {
	for _, seed := range []string{
		`{"outbound": {"exclude": [{"protocol": "tcp", "ports": [1, "2-3"]}]}, "families": "dual"}`, `{"a":1,"a":2}`, `{} {}`, `[`, `{"x":`, `nul`, "\xff",
		`{"tunnelPort":1e3}`, `{"dns":{"servers":[null,{},[]]}}`, `{"inbound":{"dropInvalid":true,"tproxy":{"table":4294967295}}}`, strings.Repeat("[", 100), `{"proxy":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ParseJSON(data)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatal("an empty error")
			}
			return
		}
		c := intercept.Default()
		if fields, err := n.Into(&c); (err != nil) != (len(fields) > 0) && !strings.Contains(err.Error(), "unknown field") {
			t.Fatalf("%v, and unread %q", err, fields)
		} else if err != nil || c.Validate() != nil {
			return
		}
		first, err := c.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		n, err = ParseJSON(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		var back intercept.Config
		if _, err := n.Into(&back); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if diff := equalConfigs(c, back); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestParseJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{"tunnelPort":1,"tunnelPort":2}`: `"tunnelPort" is there twice`,
		`{"tunnelPort":1} x`:              "more after the end",
		`{"tunnelPort":`:                  "ends too early",
		``:                                "ends too early",
		`{"tunnelPort" 1}`:                "malformed JSON at byte",
		strings.Repeat("[", 50):           "nested too deep",
	} {
		if _, err := ParseJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`{"outboud":{}}`:                    "outboud: unknown field; did you mean outbound?",
		`{"outbound":{"excludePorts":[0]}}`: `outbound.excludePorts: port "0"`,
		`{"dns":{"mode":null}}`:             "dns.mode: no value",
		`{"inbound":[]}`:                    "inbound: a list where fields belong",
		`[]`:                                "a list where fields belong",
	} {
		n, err := ParseJSON([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		c := intercept.Default()
		if _, err := n.Into(&c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
