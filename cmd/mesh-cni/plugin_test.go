package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/podspec"
)

// fakePlane records what is asked of it, and answers.
type fakePlane struct {
	applied *[]dataplane.Pod
	config  *intercept.Config
	err     error
	diffs   []intercept.Difference
}

func (f fakePlane) on(t dataplane.Pod) plane {
	*f.applied = append(*f.applied, t)
	return f
}

func (f fakePlane) Apply(_ context.Context, c intercept.Config) (dataplane.Result, error) {
	*f.config = c
	return dataplane.Result{Choice: dataplane.Choice{Backend: dataplane.BackendNFT}, Outcome: intercept.Created,
		Warnings: []string{"mind"}}, f.err
}

func (f fakePlane) Check(_ context.Context, c intercept.Config) ([]intercept.Difference, error) {
	*f.config = c
	return f.diffs, f.err
}

// ofPod is a call about the pod ns/web.
func ofPod(command string) call {
	return call{command: command, containerID: "c", netns: "/gone", ifName: "eth0", path: "/x",
		args: "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web"}
}

func entry(annotations, more string) string {
	return `{"cniVersion":"1.0.0","name":"n","logFile":"","prevResult":{"cniVersion":"1.0.0"},` +
		`"runtimeConfig":{"io.kubernetes.cri.pod-annotations":` + annotations + `}` + more + `}`
}

const asks = `{"intercept.mesh/enabled":"true"}`

// everybody is a pod that asks for interception, and captures nobody.
const everybody = `{"intercept.mesh/enabled":"true","intercept.mesh/proxy-uid":"1-4294967294"}`

// TestAdd: what each failure of the kernel makes of an ADD, and how it is
// applied.
func TestAdd(t *testing.T) {
	for name, tt := range map[string]struct {
		stdin   string
		err     error
		code    uint
		applied int
	}{
		"done":                     {entry(asks, ""), nil, 0, 1},
		"not ours":                 {entry(`{"a":"b"}`, ""), errors.New("x"), 0, 0},
		"not ours, a broken entry": {entry(`{"a":"b"}`, `,"logLevel":"debug","backend":5`), errors.New("x"), 0, 0},
		"the host's":               {entry(asks, ""), dataplane.ErrHostNetNS, 0, 1},
		"unsupported":              {entry(asks, ""), fmt.Errorf("a: %w", intercept.ErrUnsupported), codeKernel, 1},
		"permission":               {entry(asks, ""), intercept.ErrPermission, codePermission, 1},
		"foreign":                  {entry(asks, ""), intercept.ErrForeign, codeForeign, 1},
		"another mesh":             {entry(asks, ""), fmt.Errorf("a: %w", dataplane.ErrOtherMesh), codeOtherMesh, 1},
		"another mesh, insisted":   {entry(asks, `,"beside":"other-mesh"`), nil, 0, 1},
		"locked":                   {entry(asks, ""), intercept.ErrLocked, types.ErrTryAgainLater, 1},
		"gone":                     {entry(asks, ""), dataplane.ErrNotNetNS, types.ErrInvalidNetNS, 1},
		"something":                {entry(asks, ""), errors.New("x"), codeFailed, 1},
		"something, allowed":       {entry(asks, `,"failurePolicy":"allow"`), errors.New("x"), 0, 1},
		"something, strict": {entry(`{"intercept.mesh/enabled":"strict"}`, `,"failurePolicy":"allow"`),
			errors.New("x"), codeFailed, 1},
		"a broken entry":          {entry(asks, `,"x":1`), nil, types.ErrUnsupportedField, 0},
		"a broken entry, allowed": {entry(asks, `,"x":1,"failurePolicy":"allow"`), nil, 0, 0},
		"a broken entry, strict": {entry(`{"intercept.mesh/enabled":"strict"}`, `,"x":1,"failurePolicy":"allow"`), nil,
			types.ErrUnsupportedField, 0},
		"bad annotations, not lenient": {entry(`{"intercept.mesh/enabled":"x"}`, `,"failurePolicy":"allow"`), nil,
			codeAnnotations, 0},
		"all the proxy":              {entry(everybody, `,"failurePolicy":"allow"`), nil, codeAnnotations, 0},
		"all the proxy, by the node": {entry(everybody, `,"annotationLimits":{"proxy-uid":"free"}`), nil, 0, 1},
		"gVisor, not lenient":        {entry(asks, `,"failurePolicy":"allow","runtime":"runsc"`), nil, codeOtherNetwork, 0},
	} {
		f := fakePlane{applied: new([]dataplane.Pod), config: new(intercept.Config), err: tt.err}
		p := &plugin{plane: f.on}
		err := p.answer(t.Context(), ofPod("ADD"), strings.NewReader(tt.stdin))
		var e *types.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("%s: %T", name, err)
			continue
		}
		code := uint(0)
		if e != nil {
			code = e.Code
		}
		if code != tt.code || len(*f.applied) != tt.applied || (p.result == nil) != (code != 0) {
			t.Errorf("%s: %v, applied to %v, result %s", name, err, *f.applied, p.result)
		}
		if code == 0 && string(p.result) != `{"cniVersion":"1.0.0"}` {
			t.Errorf("%s: %s", name, p.result)
		}
		for _, target := range *f.applied {
			if target.NetNS != "/gone" || target.AllowHostNetNS || !target.SetSysctls ||
				target.BesideOtherMesh != strings.Contains(tt.stdin, "other-mesh") {
				t.Errorf("%s: %+v", name, target)
			}
		}
	}
}

// TestPassedOn: a pod that is not ours gets the result of the plugins before, to the letter, and nothing is asked of
// the kernel; and a call that is not as the specification has it fails whatever the pod asks for.
func TestPassedOn(t *testing.T) {
	passed := 0
	for _, annotations := range []string{`{}`, `{"a":"b"}`, asks, `{"x.y/enabled":"true"}`, `null`, `[]`,
		`{"intercept.mesh\/enabled":"true"}`, `{"\u0069ntercept.mesh/enabled":"true"}`} {
		for _, more := range []string{"", `,"annotationPrefix":"x.y"`, `,"annotationPrefix":7`, `,"logLevel":"debug"`,
			`,"prevResult":{"cniVersion":"0.4.0","ips":[]}`, `,"prevResult":5`, `,"excludeNamespaces":["ns"]`,
			`,"typo":1`, `,"annotationPrefx":"x.y"`, `,"AnnotationPrefix":"x.y"`} {
			stdin := entry(annotations, more)
			f := fakePlane{applied: new([]dataplane.Pod), config: new(intercept.Config)}
			p := plugin{plane: f.on}
			err := p.answer(t.Context(), ofPod("ADD"), strings.NewReader(stdin))
			in, inErr := readInput(ofPod("ADD"), []byte(stdin))
			if inErr != nil {
				if err == nil {
					t.Errorf("%s: no error of %v", stdin, inErr)
				}
				continue
			}
			v, judged := in.judge(t.Context())
			want, wantErr := in.passed()
			if judged != nil || wantErr != nil || v.skip == "" {
				continue
			}
			passed++
			if err != nil || !bytes.Equal(p.result, want) || len(*f.applied) > 0 || p.after == nil {
				t.Errorf("%s: %v, %s, applied to %v", stdin, err, p.result, *f.applied)
			}
		}
	}
	if passed < 8 {
		t.Errorf("%d pods were passed on", passed)
	}
	for name, tt := range map[string]struct {
		change func(*call)
		stdin  string
	}{
		"container": {func(c *call) { c.containerID = "../x" }, entry(`{}`, "")},
		"interface": {func(c *call) { c.ifName = "a/b" }, entry(`{}`, "")},
		"namespace": {func(c *call) { c.netns = "" }, entry(`{}`, "")},
		"path":      {func(c *call) { c.path = "" }, entry(`{}`, "")},
		"network":   {func(*call) {}, strings.Replace(entry(`{}`, ""), `"name":"n"`, `"name":"n n"`, 1)},
		"version":   {func(*call) {}, strings.Replace(entry(`{}`, ""), `{"cniVersion":"1.0.0"`, `{"cniVersion":"1.0"`, 1)},
	} {
		c := ofPod("ADD")
		tt.change(&c)
		p := plugin{plane: func(dataplane.Pod) plane { panic("asked") }}
		var e *types.Error
		if err := p.answer(t.Context(), c, strings.NewReader(tt.stdin)); !errors.As(err, &e) || e.Code == types.ErrInternal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestJudge: what is wrong with the entry or with what the runtime says fails
// those pods alone that it can matter to.
func TestJudge(t *testing.T) {
	const no, byInit = `{"intercept.mesh/enabled":"false"}`,
		`{"intercept.mesh/enabled":"true","intercept.mesh/init":"container"}`
	const other, strange = `{"a/b":"true","a/enabled":"perhaps"}`, `{"mesh.example/enabled":"strict"}`
	servers := func(annotations, list string) string {
		return strings.Replace(entry(annotations, ""), `"runtimeConfig":{`, `"runtimeConfig":{"dns":{"servers":`+list+`},`, 1)
	}
	for name, tt := range map[string]struct {
		stdin, skip string // "": it fails
	}{
		"disabled, a broken entry":              {entry(no, `,"typo":1`), "disabled"},
		"an init container, a broken entry":     {entry(byInit, `,"typo":1`), "init-container"},
		"asks, a broken entry":                  {entry(asks, `,"typo":1`), ""},
		"another prefix, misspelt":              {entry(strange, `,"annotationPrefx":"mesh.example"`), ""},
		"another prefix, in capitals":           {entry(strange, `,"annotationprefix":"mesh.example"`), ""},
		"another prefix, invalid":               {entry(strange, `,"annotationPrefix":"Mesh.example"`), ""},
		"not ours, another prefix, misspelt":    {entry(other, `,"annotationPrefx":"mesh.example"`), "not-annotated"},
		"another's, nothing wrong":              {entry(strange, ""), "not-annotated"},
		"another's, something else wrong":       {entry(strange, `,"typo":1`), "not-annotated"},
		"not ours, a malformed server":          {servers(other, `["010.0.0.1"]`), "not-annotated"},
		"not ours, servers that are no list":    {servers(other, `5`), "not-annotated"},
		"disabled, annotations that are broken": {entry(`{"intercept.mesh/enabled":5}`, ""), ""},
	} {
		in, err := readInput(ofPod("ADD"), []byte(tt.stdin))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		v, err := in.judge(t.Context())
		if v.skip != tt.skip || (err == nil) != (tt.skip != "") {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	// Name servers are those of a resolv.conf, and read as mesh-init reads it.
	const resolv = `{"intercept.mesh/enabled":"true","intercept.mesh/dns":"resolvconf"}`
	in, err := readInput(ofPod("ADD"),
		[]byte(servers(resolv, `["10.0.0.1","fe80::1%eth0","::ffff:10.0.0.1","0.0.0.0","010.0.0.1"]`)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := in.judge(t.Context())
	if got := fmt.Sprint(v.spec.Config.DNS.Servers); err != nil || got != "[10.0.0.1 fe80::1]" {
		t.Errorf("name servers %s, %v", got, err)
	}
}

// TestPanic: a bug is an error that the runtime can read.
func TestPanic(t *testing.T) {
	p := &plugin{plane: func(dataplane.Pod) plane { panic("oh") }}
	err := p.answer(t.Context(), ofPod("ADD"), strings.NewReader(entry(asks, "")))
	var e *types.Error
	if !errors.As(err, &e) || e.Code != types.ErrInternal || !strings.Contains(e.Msg, "oh") {
		t.Errorf("%v", err)
	}
}

func TestSentence(t *testing.T) {
	var errs []error
	for i := range 100 {
		errs = append(errs, &podspec.Error{
			Annotation: fmt.Sprint("a/", i), Err: errors.New("is\nbad " + strings.Repeat("x", 50))})
	}
	got := sentence(errors.Join(errs...))
	if len(got) > 2*maxMessage || strings.ContainsRune(got, '\n') || !strings.Contains(got, `is\nbad`) ||
		!strings.HasSuffix(got, " more") {
		t.Errorf("%d: %s", len(got), got)
	}
	if got := sentence(errors.New(strings.Repeat("ä", 1000))); len(got) > maxMessage+4 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("%d: %s", len(got), got)
	}
}

// TestCodes: each is in the table once.
func TestCodes(t *testing.T) {
	seen := map[uint]bool{}
	for _, c := range codes() {
		if seen[c.code] || c.meaning == "" || c.reason == "" {
			t.Errorf("%+v", c)
		}
		seen[c.code] = true
	}
	for _, err := range []error{errDecode, errDrifted, errForeignRuntime, errUnknowable, intercept.ErrForeign,
		intercept.ErrLocked, intercept.ErrPermission,
		intercept.ErrUnsupported, intercept.ErrNotIntercepted, dataplane.ErrNotNetNS, &podspec.Error{Err: errDecode},
		&cniconf.Error{Err: errDecode}, &cniconf.Error{Err: errDecode, Unknown: true}, errors.New("x")} {
		if c, _ := classify(fmt.Errorf("x: %w", err)); !seen[c] {
			t.Errorf("%v: code %d is not in the table", err, c)
		}
	}
}

// TestAppendLine: a full log is renamed, once, and a link is not followed.
func TestAppendLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "log")
	for range 25 {
		if err := appendLine(path, 100, []byte("ten bytes\n")); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]int{path: 50, path + ".1": 100} {
		if b, err := os.ReadFile(file); err != nil || len(b) != want {
			t.Errorf("%s: %d bytes, %v", file, len(b), err)
		}
	}
	if err := appendLine(path, 100, []byte(strings.Repeat("x", 500))); err != nil {
		t.Error(err)
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := appendLine(link, 100, []byte("x")); err == nil {
		t.Error("followed a link")
	}
}

// FuzzReadInput holds that no standard input and no CNI_ARGS make a panic, and
// that a result that is passed on is JSON.
func FuzzReadInput(f *testing.F) {
	f.Add(entry(asks, ""), "K8S_POD_NAME=a;K8S_POD_NAMESPACE=b")
	f.Add(entry(`{"a":"b"}`, `,"defaults":{"dns":{"mode":"all"}},"agentTimeout":"1s"`), "IgnoreUnknown=1;;=;x")
	f.Add(`{"prevResult":{"cniVersion":"0.3.1"},"cniVersion":"1.1.0"}`, "")
	f.Add(`[]`, "")
	f.Fuzz(func(t *testing.T, stdin, args string) {
		c := ofPod("ADD")
		c.args = args
		in, err := readInput(c, []byte(stdin))
		if err != nil {
			return
		}
		in.conf.AgentSocket = ""
		if out, err := in.passed(); err == nil && !json.Valid(out) {
			t.Fatalf("%s", out)
		}
		if _, err := in.judge(t.Context()); err != nil {
			if e := failed(in.who(), err); e.Code == 0 || strings.ContainsAny(e.Msg, "\n") || len(e.Msg) > 4*maxMessage {
				t.Fatalf("%+v", e)
			}
		}
	})
}

const document = "../../docs/cni.md"

// TestDocument keeps the tables of docs/cni.md the same as the code. With
// MESH_TEST_UPDATE=1 it writes them instead.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	update := os.Getenv("MESH_TEST_UPDATE") == "1"
	for name, want := range map[string]string{"fields": fieldTable(),
		"limits": limitTable(), "warnings": warningTable(), "codes": codeTable()} {
		begin, end := strings.Index(text, "<!-- "+name+":"), strings.Index(text, "<!-- /"+name+" -->")
		if begin < 0 || end < begin {
			t.Fatalf("no place for the table of %s", name)
		}
		begin += strings.Index(text[begin:], "\n") + 1
		if update {
			text = text[:begin] + want + text[end:]
		} else if diff := cmp.Diff(want, text[begin:end]); diff != "" {
			t.Errorf("the table of %s differs from the code (-): "+
				"run MESH_TEST_UPDATE=1 go test ./cmd/mesh-cni -run Document\n%s", name, diff)
		}
	}
	if update {
		if err := os.WriteFile(document, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func fieldTable() string {
	var b strings.Builder
	b.WriteString("| field | value | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range cniconf.Fields() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, cell(f.Form), cell(f.Initial),
			strings.ReplaceAll(f.Usage, "|", `\|`))
	}
	return b.String()
}

func limitTable() string {
	var b strings.Builder
	b.WriteString("| annotation | limit |\n| --- | --- |\n")
	limits := podspec.DefaultLimits()
	for _, a := range podspec.Annotations() {
		if limit, ok := limits[a.Name]; ok {
			fmt.Fprintf(&b, "| `%s` | %s |\n", a.Name, cell(limit.String()))
		}
	}
	return b.String()
}

func warningTable() string {
	var b strings.Builder
	b.WriteString("| `warning` | what is possible | what to write |\n| --- | --- | --- |\n")
	for _, w := range podspec.Hazards() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", w.ID, w.Text, w.Remedy)
	}
	return b.String()
}

func codeTable() string {
	var b strings.Builder
	b.WriteString("| code | `reason` in the log | meaning |\n| --- | --- | --- |\n")
	for _, c := range codes() {
		fmt.Fprintf(&b, "| %d | `%s` | %s |\n", c.code, c.reason, c.meaning)
	}
	return b.String()
}

func cell(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}
