package probes

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// TestParse: what is wrong with the variable is named, and nothing of it is used.
func TestParse(t *testing.T) {
	const good = `"container":"a","kind":"readiness","timeoutSeconds":1,"handler":"httpGet","port":80,` +
		`"scheme":"HTTP","path":"/"`
	for text, want := range map[string]string{
		"":                                  "not the JSON that Intercept writes",
		"{":                                 "not the JSON that Intercept writes",
		"5":                                 "where fields belong",
		"{}":                                "probes: missing; write [] for none",
		`{"probes":5}`:                      "probes: a value where a list belongs",
		`{"probes":[null]}`:                 "probes[0]: no value",
		`{"probes":[],"probes":[]}`:         `"probes" is there twice`,
		`{"probe":[]}`:                      "unknown field; did you mean probes?",
		`{"probes":[{` + good + `,"x":1}]}`: "probes[0].x: unknown field",
		`{"probes":[{` + good + `},{` + good + `}]}`:                               "probes[1]: /probe/a/readiness is there twice",
		`{"probes":[{"container":"a/b"}]}`:                                         `container "a/b" has no valid name`,
		`{"probes":[{}]}`:                                                          `kind "" is not one of`,
		`{"probes":[{"kind":"x"}]}`:                                                `kind "x" is not one of`,
		`{"probes":[{"port":70000}]}`:                                              `"70000" is not a port`,
		`{"probes":[{"handler":"exec"}]}`:                                          `handler "exec" is not one of httpGet, tcpSocket, grpc`,
		`{"probes":[{` + good + `,"service":"x"}]}`:                                "httpGet has fields of another handler",
		`{"probes":[{` + good + `,"headers":[{}]}]}`:                               `"" is not the name of a header`,
		`{"probes":[{"timeoutSeconds":4294967295}]}`:                               "4294967295 is not a number of seconds",
		`{"probes":[{"timeoutSeconds":-1}]}`:                                       "probes[0].timeoutSeconds",
		`{"probes":[{"kind":"preStop","timeoutSeconds":1}]}`:                       "timeoutSeconds: a hook has none",
		strings.Repeat(" ", MaxText) + "{}":                                        "65538 bytes of probes",
		`{"probes":[` + strings.Repeat(`{},`, MaxProbes) + `{}]}`:                  "257 of them, and there may be 256",
		`{"probes":` + strings.Repeat(`[`, 3000) + strings.Repeat(`]`, 3000) + `}`: "nested too deep",
	} {
		s, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || len(s.Probes) > 0 {
			t.Errorf("%.200s: %v, %v; want %s", text, s, err, want)
			continue
		}
		for _, e := range strict.Flatten(err) {
			if _, is := errors.AsType[strict.Omitted](e); is {
				continue
			}
			if _, is := errors.AsType[*strict.Error](e); !is {
				t.Errorf("%.200s: %T", text, e)
			}
		}
	}
	if s, err := Parse(`{"probes":[]}`); err != nil || len(s.Probes) > 0 {
		t.Errorf("%v, %v", s, err)
	}
}

func TestParseOriginals(t *testing.T) {
	for text, want := range map[string]string{
		"[]":                              "not a JSON object",
		"{":                               "original probes: ",
		`{"/probe/a/readiness":5}`:        "5 is not a string",
		`{"/probe/a/ready":""}`:           `"/probe/a/ready" is not a path of the relay, such as /probe/app/readiness`,
		`{"/healthz":""}`:                 "is not a path of the relay",
		`{"probe/a/readiness":""}`:        "is not a path of the relay",
		`{"/probe/../readiness":""}`:      "is not a path of the relay",
		strings.Repeat(" ", MaxText+1):    "65537 bytes of original probes",
		`{"/probe/a/x":"","/probe/b":""}`: "/probe/b",
	} {
		if _, err := ParseOriginals(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v; want %s", text, err, want)
		}
	}
	if o, err := ParseOriginals(""); err != nil || len(o) != 0 {
		t.Errorf("%v, %v", o, err)
	}
}

// FuzzParse holds that a Set that can be read is written and read as itself.
func FuzzParse(f *testing.F) {
	f.Add(`{"probes":[{"container":"a","kind":"readiness","timeoutSeconds":1,"handler":"httpGet","port":80,` +
		`"scheme":"HTTP","path":"/","headers":[{"name":"Host","value":"x"}],"http2":true}]}`)
	f.Add(`{"probes":[{"container":"a","kind":"preStop","handler":"tcpSocket","port":80}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := s.Text()
		if err != nil {
			if len(text) > MaxText/8 { // escapes take more room
				return
			}
			t.Fatal(err)
		}
		if read, err := Parse(again); err != nil || !cmp.Equal(s, read) {
			t.Fatalf("%v: %s", err, cmp.Diff(s, read))
		}
	})
}
