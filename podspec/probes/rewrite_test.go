package probes

import (
	"bytes"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// parse returns a container, and a function that writes it.
func parse(t *testing.T, text string) (*yaml.Node, func() string) {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Content[0], func() string {
		var b bytes.Buffer
		e := yaml.NewEncoder(&b)
		e.SetIndent(2)
		if err := e.Encode(&doc); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
}

const whole = `name: app
image: app:1
ports:
  - {name: web, containerPort: 8080}
  - name: grpc
    containerPort: 9000
# is it ready?
readinessProbe:
  # the page
  httpGet: # asked by kubelet
    path: /ready?full=1 # all of it
    port: web
    scheme: HTTPS
    # who we are
    httpHeaders:
      - name: Host
        value: app.example
      - name: X-Key
        value: "1"
  timeoutSeconds: 3
  periodSeconds: 5
livenessProbe:
  tcpSocket:
    port: 8081
  # often
  periodSeconds: 1
startupProbe:
  grpc: {port: 9000, service: 'db'}
  failureThreshold: 30
lifecycle:
  postStart:
    exec: {command: [warm]}
  preStop:
    httpGet:
      path: quit
      port: 8080
# the end
`

// TestRewrite: everything in one container: forwards, again, and back.
func TestRewrite(t *testing.T) {
	c, text := parse(t, whole)
	before := text()
	done, err := Rewrite(c, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = `name: app
image: app:1
ports:
  - {name: web, containerPort: 8080}
  - name: grpc
    containerPort: 9000
# is it ready?
readinessProbe:
  # the page
  httpGet: # asked by kubelet
    path: /probe/app/readiness
    port: 15020
    scheme: HTTP
  timeoutSeconds: 3
  periodSeconds: 5
livenessProbe:
  httpGet:
    path: /probe/app/liveness
    port: 15020
    scheme: HTTP
  # often
  periodSeconds: 1
startupProbe:
  httpGet: {path: /probe/app/startup, port: 15020, scheme: HTTP}
  failureThreshold: 30
lifecycle:
  postStart:
    exec: {command: [warm]}
  preStop:
    httpGet:
      path: /probe/app/preStop
      port: 15020
      scheme: HTTP
# the end
`
	if diff := cmp.Diff(want, text()); diff != "" {
		t.Error(diff)
	}
	probes := []Probe{
		{Container: "app", Kind: Startup, TimeoutSeconds: 1, Handler: GRPC, Port: 9000, Service: "db"},
		{Container: "app", Kind: Readiness, TimeoutSeconds: 3, Handler: HTTPGet, Port: 8080, Scheme: "HTTPS",
			Path: "/ready?full=1", Headers: []Header{{"Host", "app.example"}, {"X-Key", "1"}}},
		{Container: "app", Kind: Liveness, TimeoutSeconds: 1, Handler: TCPSocket, Port: 8081},
		{Container: "app", Kind: PreStop, Handler: HTTPGet, Port: 8080, Scheme: "HTTP", Path: "quit"},
	}
	if diff := cmp.Diff(probes, done.Probes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Left{{"app", PostStart, "exec needs no connection"}}, done.Left); diff != "" {
		t.Error(diff)
	}

	// By the variable and the annotation, as another process reads them.
	set, err := Set{done.Probes}.Text()
	if err != nil {
		t.Fatal(err)
	}
	if read, err := Parse(set); err != nil || !cmp.Equal(read.Probes, probes) {
		t.Errorf("%v: %s", err, set)
	}
	annotation, err := done.Originals.Text()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := ParseOriginals(annotation)
	if err != nil {
		t.Fatal(err)
	}

	again, err := Rewrite(c, 0, kept)
	if err != nil || !cmp.Equal(again, done) || text() != want {
		t.Errorf("%v: again: %s%s", err, cmp.Diff(done, again), text())
	}
	if moved, err := Rewrite(c, 16020, kept); err != nil || !cmp.Equal(moved, done) ||
		text() != strings.ReplaceAll(want, "15020", "16020") {
		t.Errorf("%v: another port: %s", err, text())
	}
	if err := Restore(c, kept); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, text()); diff != "" {
		t.Error(diff)
	}
	if err := Restore(c, kept); err != nil || text() != before {
		t.Errorf("%v: restored twice: %s", err, text())
	}
}

// TestForms: each form of a handler, by itself.
func TestForms(t *testing.T) {
	const http = "name: a\nreadinessProbe: {httpGet: {port: 80"
	get := Probe{Container: "a", Kind: Readiness, TimeoutSeconds: 1, Handler: HTTPGet, Port: 80, Scheme: "HTTP", Path: "/"}
	with := func(change func(*Probe)) *Probe {
		p := get
		change(&p)
		return &p
	}
	for text, want := range map[string]struct {
		probe *Probe
		left  string
	}{
		http + "}}": {probe: &get},
		http + `, path: "", scheme: "", host: "", httpHeaders: null}}`: {probe: &get},
		http + ", httpHeaders: []}, timeoutSeconds: 0}":                {probe: &get},
		http + ", protocol: HTTP1}}":                                   {probe: &get},
		http + ", protocol: HTTP2}}":                                   {probe: with(func(p *Probe) { p.HTTP2 = true })},
		http + ", scheme: HTTPS}, timeoutSeconds: 0x10}": {probe: with(func(p *Probe) {
			p.Scheme, p.TimeoutSeconds = "HTTPS", 16
		})},
		http + ", path: '/%zz?\\'}}": {probe: with(func(p *Probe) { p.Path = `/%zz?\` })},
		`{"name":"a","ports":[{"containerPort":80,"name":"p"}],"readinessProbe":{"httpGet":{"port":"p"}}}`: {probe: &get},
		"name: a\nports: [&p {name: x, containerPort: 80}, *p]\nreadinessProbe: {httpGet: {port: x}}":      {probe: &get},
		"name: a\nreadinessProbe: {grpc: {port: 1, mode: TLS}}": {probe: &Probe{Container: "a", Kind: Readiness,
			TimeoutSeconds: 1, Handler: GRPC, Port: 1, TLS: true}},
		"name: a\nreadinessProbe: {grpc: {port: 1, service: ''}, exec: null}": {probe: &Probe{Container: "a",
			Kind: Readiness, TimeoutSeconds: 1, Handler: GRPC, Port: 1}},
		"name: a\nlifecycle: {postStart: {tcpSocket: {port: 1}}}": {probe: &Probe{Container: "a", Kind: PostStart,
			Handler: TCPSocket, Port: 1}},

		http + ", host: 192.0.2.1}}":                              {left: "its host is 192.0.2.1, not the pod"},
		"name: a\nlivenessProbe: {tcpSocket: {port: 1, host: x}}": {left: "its host is x, not the pod"},
		"name: a\nlivenessProbe: {tcpSocket: {port: 15020}}":      {left: "it asks the relay's own port"},
		"name: a\nlivenessProbe: {exec: {command: [x]}}":          {left: "exec needs no connection"},
		"name: a\nlifecycle: {preStop: {sleep: {seconds: 5}}}":    {left: "sleep needs no connection"},
		"name: a\nlivenessProbe: {periodSeconds: 5}":              {},
		"name: a\nlivenessProbe: {newKind: {port: 5}}":            {},
		"name: a\nlivenessProbe: null\nlifecycle:":                {},
		"name: a\nlifecycle: {stopSignal: SIGTERM}":               {},
	} {
		c, out := parse(t, text)
		before := out()
		done, err := Rewrite(c, DefaultPort, nil)
		switch {
		case err != nil:
			t.Errorf("%s: %v", text, err)
			continue
		case want.probe == nil && len(done.Probes) != 0,
			want.probe != nil && !cmp.Equal([]Probe{*want.probe}, done.Probes):
			t.Errorf("%s: %+v", text, done.Probes)
		case want.left == "" && done.Left != nil,
			want.left != "" && (len(done.Left) != 1 || done.Left[0].Reason != want.left):
			t.Errorf("%s: left %v", text, done.Left)
		case want.probe == nil && out() != before:
			t.Errorf("%s: changed to %s", text, out())
		case want.probe != nil && !strings.Contains(out(), done.Probes[0].At()):
			t.Errorf("%s: left as it was: %s", text, out())
		}
		if err := Restore(c, done.Originals); err != nil || out() != before {
			t.Errorf("%s: %v, restored to %s", text, err, out())
		}
	}
}

// TestRefused: what is wrong is named by field and line, and nothing is changed.
func TestRefused(t *testing.T) {
	const live = "name: a\nlivenessProbe: "
	for text, want := range map[string]string{
		"[]":                    "a container is a mapping",
		"image: x":              "name: missing: a container has a name (line 1)",
		"name: ../x":            `name: container "../x" has no valid name; write small letters, digits and hyphens (line 1)`,
		"name: [a]":             "name: ",
		"name: a\nname: b":      "name: it is there twice, first on line 1 (line 2)",
		"name: a\nlifecycle: 5": "lifecycle: fields belong here (line 2)",
		"name: a\nlivenessProbe:\n  httpGet: {port: web}": `livenessProbe.httpGet.port: "web": the container names no ` +
			`ports; write the number, or name one under ports (line 3)`,
		"name: a\nports: [{name: webs, containerPort: 1}]\nlivenessProbe:\n  httpGet: {port: web}": `"web" is no port of ` +
			`the container; did you mean webs? (line 4)`,
		"name: a\nports: [{name: web, containerPort: 0}]\nlivenessProbe:\n  httpGet: {port: web}": `0 is not a number from 1`,
		live + "{httpGet: {port: '80'}}":                   `"80": the container names no ports`,
		live + "{httpGet: {port: 70000}}":                  `70000 is not a number from 1 to 65535`,
		live + "{httpGet: {port: 1.5}}":                    `1.5 is not a number`,
		live + "{httpGet: {}}":                             `livenessProbe.httpGet.port: missing (line 2)`,
		live + "{grpc: {port: web}}":                       `web is not a number`,
		live + "{grpc: {port: 1, host: x}}":                `grpc.host: unknown field`,
		"name: a\nlifecycle: {preStop: {grpc: {port: 1}}}": `a hook cannot be grpc`,
		live + "{httpGet: {port: 1, pth: /}}":              `livenessProbe.httpGet.pth: unknown field`,
		live + "{httpGet: {port: 1, port: 2}}":             `httpGet.port: it is there twice`,
		live + "{httpGet: {port: 1, path: 5}}":             `httpGet.path: 5 is not a string; quote it`,
		live + "{httpGet: {port: 1, scheme: ftp}}":         `scheme: "ftp" is not HTTP or HTTPS`,
		live + "{httpGet: {port: 1, protocol: HTTP3}}":     `"HTTP3" is not one of HTTP1, HTTP2`,
		live + "{httpGet: {port: 1, httpHeaders: [x]}}":    `a header has a name and a value, both strings`,
		live + "{httpGet: 80}":                             `livenessProbe.httpGet: fields belong here (line 2)`,
		live + "{httpGet: {port: 1}, timeoutSeconds: -1}":  `livenessProbe.timeoutSeconds: -1 is not a number`,
		live + "{httpGet: {port: 1}, timeoutSeconds: \"3\"}": `livenessProbe.timeoutSeconds: "3" is a text; leave the ` +
			`quotes out`,
		live + "{httpGet: {port: 15020, path: /probe/b/liveness}}": "livenessProbe.httpGet: it points at the relay",
		live + "{httpGet: {port: 1}, tcpSocket: {port: 1}}": `livenessProbe: httpGet and tcpSocket: there can ` +
			`be one handler (line 2)`,
		live + "{httpGet: {port: 1, httpHeaders: [{name: \"a\\nb\", value: c}]}}": `is not the name of a header`,
		live + "{httpGet: {port: 1, httpHeaders: [{name: a, value: \"b\\rc\"}]}}": `the value of a has a character`,
		live + "{httpGet: {port: 15020, path: /probe/a/liveness}}": "livenessProbe.httpGet: it points at " +
			"the relay, and the annotation original-probes does not have the original",
		live + "&p {httpGet: {port: 1}}\nreadinessProbe: *p":                          "livenessProbe: anchors, aliases",
		live + "{httpGet: &h {port: 1}}":                                              "livenessProbe.httpGet: anchors, aliases",
		"x: &h {httpGet: {port: 1}}\nname: a\nlivenessProbe: {<<: *h}":                "livenessProbe: anchors, aliases",
		live + "{httpGet: " + strings.Repeat("[", 99) + strings.Repeat("]", 99) + "}": "nested too deep",
	} {
		c, out := parse(t, text)
		before := out()
		done, err := Rewrite(c, DefaultPort, nil)
		if err == nil || !strings.Contains(err.Error(), want) || len(done.Probes) > 0 {
			t.Errorf("%s: %v, %v; want %s", text, done, err, want)
		}
		if _, is := errors.AsType[*Error](err); !is {
			t.Errorf("%s: %T", text, err)
		}
		if out() != before {
			t.Errorf("%s: half changed to %s", text, out())
		}
	}
}

// TestAllOrNothing: one probe that is wrong leaves the others as they are.
func TestAllOrNothing(t *testing.T) {
	c, out := parse(t, "name: a\nlivenessProbe: {tcpSocket: {port: 1}}\nlifecycle: {preStop: {httpGet: {port: x}}}")
	before := out()
	if _, err := Rewrite(c, 0, nil); err == nil || out() != before {
		t.Errorf("%v: %s", err, out())
	}
}

// TestRestoreKeepsLaterChanges: a probe that somebody has written since stays, and
// an annotation that is nonsense changes nothing.
func TestRestoreKeepsLaterChanges(t *testing.T) {
	c, out := parse(t, "name: a\nlivenessProbe: {tcpSocket: {port: 1}}\nreadinessProbe: {tcpSocket: {port: 2}}")
	done, err := Rewrite(c, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	rewritten := out()
	for _, bad := range []string{"", "x", "exec: {}", "tcpSocket: {port: 1}\ngrpc: {}", "tcpSocket: &x [*x]", "- 1", "{",
		"\t", "tcpSocket: " + strings.Repeat("{a: ", 50) + strings.Repeat("}", 50)} {
		kept := maps.Clone(done.Originals)
		kept[Path("a", Liveness)] = bad
		if bad == "" {
			delete(kept, Path("a", Liveness))
		}
		if err := Restore(c, kept); err == nil || out() != rewritten {
			t.Errorf("%q: %v: %s", bad, err, out())
		}
		if _, err := Rewrite(c, 0, kept); err == nil || out() != rewritten {
			t.Errorf("%q: %v: %s", bad, err, out())
		}
	}
	_, live, _ := field(c, "", "livenessProbe")
	live.Content[1].Content[1].Value = "/own"
	const want = "name: a\nlivenessProbe: {httpGet: {path: /own, port: 15020, scheme: HTTP}}\n" +
		"readinessProbe: {tcpSocket: {port: 2}}\n"
	if err := Restore(c, done.Originals); err != nil || out() != want {
		t.Errorf("%v: %s", err, out())
	}
}

// FuzzRewrite holds that any container is refused whole or rewritten whole: what
// the relay is told is valid, a second time changes nothing, and back is back.
func FuzzRewrite(f *testing.F) {
	f.Add(whole, uint16(15020), "{}")
	f.Add("name: a\nlivenessProbe: {httpGet: {port: 15020, path: /probe/a/liveness}}", uint16(0),
		`{"/probe/a/liveness":"tcpSocket: {port: 1}"}`)
	f.Add(`{"name":"a","startupProbe":{"grpc":{"port":1,"service":null}}}`, uint16(1), "")
	f.Add("name: a\nlivenessProbe: {? httpGet : {port: 1, # x\n path: |\n  /a\n }}", uint16(1), "")
	f.Fuzz(func(t *testing.T, text string, port uint16, annotation string) {
		var doc yaml.Node
		kept, err := ParseOriginals(annotation)
		if err != nil || len(text) > 4096 || !decodes(text, &doc) {
			return
		}
		before, err := yaml.Marshal(&doc)
		if err != nil {
			return
		}
		c := doc.Content[0]
		done, err := Rewrite(c, port, kept)
		after, _ := yaml.Marshal(&doc)
		if err != nil {
			if string(after) != string(before) {
				t.Fatalf("%v, and\n%s\nbecame\n%s", err, before, after)
			}
			return
		}
		if _, err := (Set{done.Probes}).Text(); err != nil {
			t.Fatal(err)
		}
		again, err := Rewrite(c, port, done.Originals)
		if twice, _ := yaml.Marshal(&doc); err != nil || !cmp.Equal(done, again) || string(twice) != string(after) {
			t.Fatalf("again: %v: %s\n%s\n%s", err, cmp.Diff(done, again), after, twice)
		}
		if len(kept) > 0 { // what was there was rewritten already
			return
		}
		if err := Restore(c, done.Originals); err != nil {
			t.Fatal(err)
		}
		if back, _ := yaml.Marshal(&doc); string(back) != string(before) {
			t.Fatalf("restored:\n%q\nwas\n%q", back, before)
		}
	})
}

func decodes(text string, doc *yaml.Node) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return yaml.Unmarshal([]byte(text), doc) == nil && doc.Kind == yaml.DocumentNode && len(doc.Content) == 1
}
