package decode

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// FuzzParseJSON holds that any bytes give an error or a configuration, which
// is then the same as encoding/json makes of what it is written as.
func FuzzParseJSON(f *testing.F) {
	for _, seed := range []string{
		`{"outbound": {"exclude": [{"protocol": "tcp", "ports": [1, "2-3"]}]}, "families": "dual"}`, `{"a":1,"a":2}`,
		`{} {}`, `[`, `{"x":`, `nul`, "\xff",
		`{"tunnelPort":1e3}`, `{"dns":{"servers":[null,{},[]]}}`,
		`{"inbound":{"dropInvalid":true,"tproxy":{"table":4294967295}}}`, strings.Repeat("[", 100), `{"proxy":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := strict.ParseJSON(data)
		if err == nil && !json.Valid(data) {
			t.Fatalf("%q is no JSON", data)
		}
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
		n, err = strict.ParseJSON(first)
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
		if _, err := strict.ParseJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
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
		n, err := strict.ParseJSON([]byte(text))
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
