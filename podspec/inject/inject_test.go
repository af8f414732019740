package inject_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

// shipped is a profile that comes with the package.
func shipped(t testing.TB, name string) inject.Profile {
	t.Helper()
	p, err := inject.ParseProfile(name, []byte(inject.ShippedText(name)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kinds are manifests with all kinds of objects that have a pod, and with others.
func kinds(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/kinds/*")
	if err != nil || len(files) < 9 {
		t.Fatal(files, err)
	}
	all := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = string(text)
	}
	return all
}

// TestKinds: whatever has a pod gets the sidecar, twice is once, another profile takes
// the place of the one before, and what is taken out leaves no trace: not a byte.
func TestKinds(t *testing.T) {
	for name, text := range kinds(t) {
		for _, profile := range inject.Shipped() {
			for _, mode := range []inject.Mode{inject.ModeInit, inject.ModeCNI} {
				for _, minor := range []int{0, 28} {
					t.Run(fmt.Sprintf("%s/%s/%s/%d", name, profile, mode, minor), func(t *testing.T) {
						p := shipped(t, profile)
						p.Mode = mode
						in := inject.Cluster{Minor: minor}
						once := read(t, text, p, in)
						if strings.HasPrefix(name, "other") != (len(once.Objects) == 0) {
							t.Errorf("%d objects", len(once.Objects))
						}
						for _, o := range once.Objects {
							if o.Skipped != "" || !o.Changed() || o.Mode != mode || len(o.Changes) == 0 {
								t.Errorf("%s: %+v", o, o.Result)
							}
						}
						injected := string(once.Text())
						if twice := read(t, injected, p, in); twice.Diff() != "" {
							t.Errorf("a second time:\n%s", twice.Diff())
						}
						other := shipped(t, "haproxy-dns")
						again := read(t, string(read(t, injected, other, inject.Cluster{}).Text()), p, in)
						if diff := cmp.Diff(meaning(t, read(t, injected, p, in)), meaning(t, again)); diff != "" {
							t.Errorf("by another profile and back (-want +got):\n%s", diff)
						}
						back, err := inject.ReadInjected(name, []byte(injected))
						if err != nil {
							t.Fatal(err)
						}
						if strings.HasPrefix(name, "flow") { // it is written anew where it changes
							was, err := inject.ReadInjected(name, []byte(text))
							if diff := cmp.Diff(meaning(t, was), meaning(t, back)); diff != "" || err != nil {
								t.Errorf("taken out again, %v (-want +got):\n%s", err, diff)
							}
							return
						}
						if diff := cmp.Diff(text, string(back.Text())); diff != "" {
							t.Errorf("taken out again (-want +got):\n%s", diff)
						}
					})
				}
			}
		}
	}
}

func read(t testing.TB, text string, p inject.Profile, in inject.Cluster) inject.Manifests {
	t.Helper()
	m, err := inject.Read("app.yaml", []byte(text), p, in)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// meaning is what manifests say, without what is empty.
func meaning(t testing.TB, m inject.Manifests) []any {
	t.Helper()
	docs, err := m.JSON()
	if err != nil {
		t.Skip(err) // a document of YAML that is none of JSON
	}
	var all []any
	for _, text := range docs {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, prune(v))
	}
	return all
}

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if v[key] = prune(value); v[key] == nil {
				delete(v, key)
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = prune(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	}
	return v
}

const plainPod = `apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
    image: web:1
`

// pod is a pod with annotations and fields of its spec, each on a line of its own.
func pod(annotations, spec string) string {
	text := plainPod
	if annotations != "" {
		text = strings.Replace(text, "  name: web\n", "  name: web\n  annotations:\n    "+annotations+"\n", 1)
	}
	if spec != "" {
		text = strings.Replace(text, "spec:\n", "spec:\n  "+spec+"\n", 1)
	}
	return text
}

// TestSkipped: pods that cannot have a sidecar, or are not to, stay as they are, and
// it is said why.
func TestSkipped(t *testing.T) {
	for why, text := range map[string]string{
		"it shares the node's network (hostNetwork)": pod("", "hostNetwork: true"),
		"it runs on Windows":                         pod("", "os: {name: windows}"),
		"it runs on Windows ": pod("",
			"nodeSelector: {kubernetes.io/os: windows}"),
		"its annotation intercept.mesh/inject is false": pod(`intercept.mesh/inject: "false"`,
			""),
		"its label intercept.mesh/inject is false": strings.Replace(plainPod,
			"  name: web\n", "  name: web\n  labels: {intercept.mesh/inject: \"false\"}\n", 1),
		"its annotation intercept.mesh/enabled is false": pod(`intercept.mesh/enabled: "false"`,
			""),
		"another init container of it intercepts: its annotation intercept.mesh/init": pod("intercept.mesh/init: container",
			""),
		"it is the mirror of a static pod, which the API server does not run": pod("kubernetes.io/config.mirror: abc",
			""),
	} {
		m := read(t, text, shipped(t, "haproxy"), inject.Cluster{})
		if len(m.Objects) != 1 || m.Objects[0].Skipped != strings.TrimSpace(why) || string(m.Text()) != text {
			t.Errorf("%q: %+v\n%s", why, m.Objects, m.Text())
		}
	}
	// What was injected before goes.
	injected := string(read(t, plainPod, shipped(t, "haproxy"), inject.Cluster{}).Text())
	injected = strings.Replace(injected, "  annotations:\n", "  annotations:\n    intercept.mesh/inject: \"false\"\n", 1)
	if m := read(t, injected, shipped(t, "haproxy"), inject.Cluster{}); strings.Contains(string(m.Text()), "haproxy") {
		t.Errorf("skipped, and still:\n%s", m.Text())
	}
}

// TestWarned: what works, and may not do what somebody believes, is said.
func TestWarned(t *testing.T) {
	for text, c := range map[string]struct {
		in   inject.Cluster
		want string
	}{
		plainPod: {inject.Cluster{PodSecurity: "baseline"}, "mode cni: nothing is intercepted on nodes without mesh-cni; `kubectl " +
			"get daemonset -n mesh-system mesh-cni-agent` shows whether all have it"},
		pod("intercept.mesh/profile: envoy", ""): {inject.Cluster{}, "it gets profile haproxy, and its annotation " +
			"intercept.mesh/profile names envoy"},
		pod("intercept.mesh/profile: haproxy", ""): {inject.Cluster{}, ""},
		"apiVersion: batch/v1\nkind: Job\nspec: {template: {spec: {containers: [{name: a}]}}}\n": {inject.Cluster{Minor: 28},
			"the Job does not complete while its sidecar runs, because Kubernetes before 1.29 has no sidecars that end with the " +
				"pod's containers; leave it without (intercept.mesh/inject: \"false\"), or let its container end the sidecar"},
	} {
		m := read(t, text, shipped(t, "haproxy"), c.in)
		if got := strings.Join(m.Objects[0].Warnings, "\n"); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestRefused: what would not work is an error that names the object, the place and a
// remedy, and nothing is changed.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		profile string
		in      inject.Cluster
		text    string
		want    []string
	}{
		"an app that runs as the proxy": {text: pod("", "securityContext: {runAsUser: 1337}"), want: []string{
			"pod/web: container web: it runs as the proxy (users 1337, groups 1337), and nothing that it sends would be " +
				"captured; " +
				"give it another runAsUser and runAsGroup (from app.yaml, line 8)"}},
		"an init container that does, by its group": {text: pod("", "initContainers: [{name: first, image: x:1, "+
			"securityContext: {runAsGroup: 1337}}]"),
			want: []string{"pod/web: container first: it runs as the proxy (users 1337, groups 1337), and nothing that it " +
				"sends " +
				"would be captured; give it another runAsUser and runAsGroup (from app.yaml, line 6)"}},
		"an app that listens where the proxy does": {text: plainPod + "    ports: [{containerPort: 15001}, {containerPort: " +
			"15021}]\n", want: []string{
			"pod/web: container web: port 15001 is that of the proxy; let the app listen at another one (from app.yaml, line 9)",
			"pod/web: container web: port 15021 is that of sidecar haproxy; let the app listen at another one (from app.yaml, " +
				"line 9)"}},
		"a misspelt annotation": {text: pod(`intercept.mesh/outbound-exclude-port: "1"`, ""), want: []string{
			"pod/web: annotation intercept.mesh/outbound-exclude-port: unknown annotation; did you mean " +
				"outbound-exclude-ports? (from app.yaml, line 6)"}},
		"an annotation that is no text": {text: pod("intercept.mesh/inject: true", ""), want: []string{
			"pod/web: metadata.annotations.intercept.mesh/inject: true is not a text; write it in quotes (from app.yaml, line " +
				"6)"}},
		"an annotation that is neither": {text: pod(`intercept.mesh/inject: "no"`, ""), want: []string{
			`pod/web: annotation intercept.mesh/inject: "no" is not one of true, false (from app.yaml, line 6)`}},
		"an annotation that is a boolean of YAML 1.1": {text: pod("intercept.mesh/inject: no", ""), want: []string{
			"pod/web: metadata.annotations.intercept.mesh/inject: false is not a text; write it in quotes (from app.yaml, line " +
				"6)"}},
		"original probes that cannot be read": {text: pod("intercept.mesh/original-probes: zzz", ""), want: []string{
			"pod/web: metadata.annotations.intercept.mesh/original-probes: original probes: malformed JSON at byte 0: invalid " +
				"character 'z' looking for beginning of value; take the annotation out, and write the probes again that ask the " +
				"relay (from app.yaml, line 6)"}},
		"a label that is neither": {text: strings.Replace(plainPod, "  name: web\n", "  name: web\n  labels:\n    "+
			"intercept.mesh/inject: \"yes\"\n", 1), want: []string{`pod/web: metadata.labels.intercept.mesh/inject: "yes" is not ` +
			`one of true, false (from app.yaml, line 6)`}},
		"both families, of which the profile serves one": {text: pod("intercept.mesh/families: dual", ""), want: []string{
			"pod/web: annotation intercept.mesh/families: profile haproxy has otherFamily: reject, but IPv4 and IPv6 are both " +
				"captured; name the one to capture with intercept.mesh/families, or choose another profile (from app.yaml, line 6)"}},
		"what the sidecar relies on": {text: pod(`intercept.mesh/outbound-port: "16001"`, ""), want: []string{
			"pod/web: annotation intercept.mesh/outbound-port: 16001, and the sidecar of profile haproxy is made for 15001; " +
				"leave the annotation out, or write a profile (from app.yaml, line 6)"}},
		"lookups without a resolver": {text: pod("intercept.mesh/dns: all", ""), want: []string{
			"pod/web: annotation intercept.mesh/dns: all, and profile haproxy has no resolver; choose one that has (from " +
				"app.yaml, line 6)"}},
		"resources of nobody": {text: pod(`intercept.mesh/sidecar-resources: '{"haprox": {"limit": {"cpu": "1x"}}}'`, ""),
			want: []string{
				`pod/web: annotation intercept.mesh/sidecar-resources: haprox.limit: unknown field; did you mean limits? (from ` +
					`app.yaml, line 6)`,
				`pod/web: annotation intercept.mesh/sidecar-resources: "haprox" is none of the sidecars: haproxy, mesh-probe ` +
					`(from app.yaml, line 6)`}},
		"a quantity": {text: pod(`intercept.mesh/sidecar-resources: '{"haproxy": {"limits": {"cpu": "1x"}}}'`, ""),
			want: []string{
				`pod/web: annotation intercept.mesh/sidecar-resources: haproxy.limits.cpu: "1x" is not a quantity; write one ` +
					`such ` +
					`as ` +
					`100m, 0.5 or 64Mi (from app.yaml, line 6)`}},
		"Pod Security": {profile: "name: x\nmode: init\n", in: inject.Cluster{PodSecurity: "baseline"}, text: plainPod,
			want: []string{
				"pod/web: Pod Security baseline of the namespace admits no init container with NET_ADMIN; choose mode cni, with " +
					"mesh-cni " +
					"on the nodes (docs/cni.md) (from app.yaml, line 1)"}},
		"a runtime with a kernel of its own": {profile: "name: x\nmode: cni\n", text: pod("", "runtimeClassName: gvisor"),
			want: []string{
				"pod/web: spec.runtimeClassName: its runtime is gvisor, where rules of the node have no effect; choose mode init " +
					"(from app.yaml, line 6)"}},
		"annotations that are too long": {text: pod("x: "+strings.Repeat("y", 262000), ""), want: []string{
			"pod/web: metadata.annotations: 263042 bytes with those of profile haproxy, and Kubernetes takes 262144; mount " +
				"large files " +
				"from a ConfigMap: a volume of the pod with the name mesh-files goes before the profile's (from app.yaml, line " +
				"6)"}},
		"no pod": {text: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", want: []string{
			"deployment/a: spec.template: missing: there is no pod (from app.yaml, line 1)"}},
		"no containers": {text: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n", want: []string{
			"pod/a: spec.containers: none; a pod has one at least (from app.yaml, line 1)"}},
		"a key that is there twice": {text: plainPod + "    image: web:2\n", want: []string{
			`spec.containers[0].image: "image" is there twice, first on line 8 (from app.yaml, line 9)`}},
		"containers that are none": {text: "apiVersion: v1\nkind: Pod\nspec: {containers: web}\n", want: []string{
			"pod/: spec.containers: a value where a list belongs (from app.yaml, line 3)"}},
		"what is deep": {text: "apiVersion: v1\nkind: Pod\nspec: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) +
			"\n", want: []string{
			"spec" + strings.Repeat("[0]", 99) + ": nested too deep (from app.yaml, line 3)"}},
		"not YAML": {text: "a: [\n", want: []string{"line 1: did not find expected node content (from app.yaml)"}},
		"a broken record": {text: pod(`intercept.mesh/injected: '{'`, ""), want: []string{
			"pod/web: metadata.annotations.intercept.mesh/injected: it cannot be read (unexpected end of JSON input); take it " +
				"out, and " +
				"what was injected (from app.yaml, line 6)"}},
		"a sidecar made to run as another": {text: plainPod + "  - name: haproxy\n    securityContext: {runAsUser: 1, " +
			"runAsGroup: 2}\n", want: []string{
			"pod/web: container haproxy: it does not run as the proxy (users 1337, groups 1337), as a sidecar has to; leave " +
				"runAsUser " +
				"and runAsGroup out (from app.yaml, line 1)"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := shipped(t, "haproxy")
			if c.profile != "" {
				text := inject.ShippedText("haproxy")
				_, rest, _ := strings.Cut(text, "mode: auto\n")
				var err error
				if p, err = inject.ParseProfile("x", []byte(c.profile+rest)); err != nil {
					t.Fatal(err)
				}
			}
			m, err := inject.Read("app.yaml", []byte(c.text), p, c.in)
			var got []string
			for _, e := range strict.Flatten(err) {
				got = append(got, e.Error())
				if _, is := errors.AsType[*intercept.FieldError](e); !is {
					t.Errorf("%T: %v", e, e)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(m.Objects) > 0 || len(m.Text()) > 0 {
				t.Errorf("an error, and %d objects", len(m.Objects))
			}
		})
	}
}

// injectedPod is what becomes of a pod.
func injectedPod(t testing.TB, text string, p inject.Profile, in inject.Cluster) (inject.Result,
	func(path ...string) string) {
	t.Helper()
	m := read(t, text, p, in)
	if len(m.Objects) != 1 {
		t.Fatal(len(m.Objects))
	}
	pod := m.Objects[0].Pod
	return m.Objects[0].Result, func(path ...string) string {
		n := yamldoc.Get(pod, path...)
		if n == nil {
			return ""
		}
		text, err := yamldoc.JSON(n)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

// names are those of a list of containers or the like, in order.
func names(t testing.TB, list string) string {
	t.Helper()
	n, err := yamldoc.FromJSON([]byte(list), 100)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, item := range yamldoc.Items(n) {
		all = append(all, yamldoc.Text(yamldoc.Get(item, "name")))
	}
	return strings.Join(all, " ")
}

// TestOrder: what starts first is what the others need.
func TestOrder(t *testing.T) {
	text := pod("", "initContainers: [{name: migrate, image: x:1}]")
	for _, c := range []struct {
		mode             inject.Mode
		minor            int
		inits, container string
		warnings         int
	}{
		{inject.ModeInit, 29, "mesh-init dnsmasq haproxy migrate", "web", 0},
		{inject.ModeCNI, 0, "dnsmasq haproxy migrate", "web", 0},
		{inject.ModeInit, 28, "migrate mesh-init", "dnsmasq haproxy web", 0},
		{inject.ModeCNI, 28, "migrate", "dnsmasq haproxy web", 1},
	} {
		p := shipped(t, "haproxy-dns")
		p.Mode = c.mode
		result, get := injectedPod(t, text, p, inject.Cluster{Minor: c.minor})
		inits, containers := names(t, get("spec", "initContainers")), names(t, get("spec", "containers"))
		if inits != c.inits || containers != c.container || len(result.Warnings) != c.warnings {
			t.Errorf("%s, 1.%d: %s; %s; %q", c.mode, c.minor, inits, containers, result.Warnings)
		}
		if held := strings.Count(get("spec", "containers"), "postStart"); (held == 1) != (c.minor == 28) {
			t.Errorf("%s, 1.%d: %d containers hold the next", c.mode, c.minor, held)
		}
		if got := get("metadata", "annotations", "kubectl.kubernetes.io/default-container"); got != `"web"` {
			t.Errorf("kubectl's container is %s", got)
		}
	}
}

// TestJob: a Job whose sidecar would keep it from completing is one that somebody is
// told about.
func TestJob(t *testing.T) {
	job := kinds(t)["job.yaml"]
	for minor, warned := range map[int]bool{28: true, 29: false} {
		m := read(t, job, shipped(t, "haproxy"), inject.Cluster{Minor: minor})
		if got := strings.Contains(strings.Join(m.Objects[0].Warnings, "\n"), "does not complete"); got != warned {
			t.Errorf("1.%d: %q", minor, m.Objects[0].Warnings)
		}
	}
}

// TestPodSecurity: the level that a namespace of the stream enforces decides who writes
// the rules.
func TestPodSecurity(t *testing.T) {
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: " +
		"{pod-security.kubernetes.io/enforce: restricted}\n---\n"
	text := strings.Replace(plainPod, "  name: web\n", "  name: web\n  namespace: shop\n", 1)
	for stream, mode := range map[string]inject.Mode{namespace + text: inject.ModeCNI, text: inject.ModeInit, namespace +
		plainPod: inject.ModeInit} {
		if m := read(t, stream, shipped(t, "haproxy"), inject.Cluster{}); m.Objects[0].Mode != mode {
			t.Errorf("%s, not %s:\n%s", m.Objects[0].Mode, mode, stream)
		}
	}
}

// TestMerged: a container of the pod that has a sidecar's name says what the sidecar is
// to be, annotations add to it, and all of it goes with the sidecar.
func TestMerged(t *testing.T) {
	text := pod(`intercept.mesh/sidecar-resources: '{"haproxy": {"requests": {"memory": "1Gi"}}}'
    intercept.mesh/sidecar-volumes: '[{"name": "certs", "secret": {"secretName": "c"}}]'
    intercept.mesh/sidecar-volume-mounts: '{"haproxy": [{"name": "certs", "mountPath": "/certs"}]}'`, "") + `  - name: haproxy
    image: mine:1
    resources: {limits: {memory: 2Gi}}
    startupProbe: {tcpSocket: {port: 15021}}
    env:
    - {name: A, value: b}
  - name: last
    image: last:1
`
	m := read(t, text, shipped(t, "haproxy"), inject.Cluster{})
	init := yamldoc.Items(yamldoc.Get(m.Objects[0].Pod, "spec", "initContainers"))[1]
	got, err := yamldoc.JSON(init)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"haproxy","image":"mine:1","command":["haproxy","-db","-f","/etc/mesh/haproxy.cfg"],` +
		`"ports":[{"name":"mesh-health","containerPort":15021,"protocol":"TCP"}],` +
		`"startupProbe":{"periodSeconds":1,"failureThreshold":60,"tcpSocket":{"port":15021},"timeoutSeconds":1,"successThreshold":1},` +
		`"readinessProbe":{"httpGet":{"port":15021,"path":"/","scheme":"HTTP"},"periodSeconds":5,"timeoutSeconds":1,"successThreshold":1,` +
		`"failureThreshold":3},"resources":{"requests":{"cpu":"50m","memory":"1Gi"},"limits":{"memory":"2Gi"}},` +
		`"securityContext":{"runAsUser":1337,"runAsGroup":1337,"runAsNonRoot":true,"privileged":false,"allowPrivilegeEscalation":false,` +
		`"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"RuntimeDefault"}},` +
		`"volumeMounts":[{"name":"mesh-files","mountPath":"/etc/mesh","readOnly":true},{"name":"certs","mountPath":"/certs"}],` +
		`"env":[{"name":"A","value":"b"}],"restartPolicy":"Always","terminationMessagePath":"/dev/termination-log",` +
		`"terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	back, err := inject.ReadInjected("x", m.Text())
	if err != nil {
		t.Fatal(err)
	}
	same := func(text []byte) string {
		roots, err := yamldoc.Stream(text, 100)
		if err != nil {
			t.Fatal(err)
		}
		n, err := yamldoc.JSON(roots[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(n)
	}
	if diff := cmp.Diff(same([]byte(text)), same(back.Text())); diff != "" {
		t.Errorf("taken out again (-want +got):\n%s", diff)
	}
}

const probed = `    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {port: http}}
    livenessProbe: {tcpSocket: {port: 8081}}
    startupProbe: {exec: {command: ["true"]}}
    lifecycle: {preStop: {httpGet: {port: 8082, host: other.example}}, postStart: {tcpSocket: {port: 8083}}}
`

// withoutRelay is a shipped profile whose relay is taken out.
func withoutRelay(t testing.TB, name string) inject.Profile {
	t.Helper()
	text := strings.Replace(inject.ShippedText(name), "relay: mesh-probe\n", "", 1)
	a, b := strings.Index(text, "- name: mesh-probe"), strings.Index(text, "# Before Kubernetes 1.29")
	p, err := inject.ParseProfile(name, []byte(text[:a]+text[b:]))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProbes: without a relay the ports that kubelet asks are left alone, and somebody
// is told what that opens; by name, and in both modes.
func TestProbes(t *testing.T) {
	text := pod(`intercept.mesh/inbound-exclude-ports: "9090"`, "") + probed
	for mode, where := range map[inject.Mode]string{inject.ModeInit: "initContainers", inject.ModeCNI: "metadata"} {
		p := withoutRelay(t, "haproxy")
		p.Mode = mode
		result, get := injectedPod(t, text, p, inject.Cluster{})
		all := get("spec", where) + get(where)
		if !strings.Contains(all, "8080-8081,8083,9090,15020-15021,15090") || len(result.Warnings) != 3 ||
			strings.Contains(all, "mesh-probe") {
			t.Errorf("%s: %s\n%q", mode, all, result.Warnings)
		}
		back, err := inject.ReadInjected("x", read(t, text, p, inject.Cluster{}).Text())
		if err != nil || string(back.Text()) != text {
			t.Errorf("%s: taken out again, %v:\n%s", mode, err, back.Text())
		}
	}
}

// TestRelay: with a relay the probes go there, it knows them, and no port of the app is
// left alone. Without a probe for it there is no relay.
func TestRelay(t *testing.T) {
	text := plainPod + probed
	result, get := injectedPod(t, text, shipped(t, "haproxy"), inject.Cluster{})
	for _, want := range []string{
		`"readinessProbe":{"httpGet":{"path":"/probe/web/readiness","port":15020,"scheme":"HTTP"}}`,
		`"livenessProbe":{"httpGet":{"path":"/probe/web/liveness","port":15020,"scheme":"HTTP"}}`,
		`"startupProbe":{"exec":{"command":["true"]}}`, `"host":"other.example"`,
	} {
		if got := get("spec", "containers"); !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	inits := get("spec", "initContainers")
	if names(t, inits) != "mesh-init haproxy mesh-probe" || len(result.Warnings) != 0 ||
		!strings.Contains(inits, `"value":"{\"probes\":[{\"container\":\"web\",\"kind\":\"readiness\"`) ||
		strings.Contains(inits, "--inbound-exclude-ports") {
		t.Errorf("%q: %s", result.Warnings, inits)
	}
	back, err := inject.ReadInjected("x", read(t, text, shipped(t, "haproxy"), inject.Cluster{}).Text())
	if err != nil || string(back.Text()) != text {
		t.Errorf("taken out again, %v:\n%s", err, back.Text())
	}
	if _, get := injectedPod(t, plainPod, shipped(t, "haproxy"), inject.Cluster{}); names(t, get("spec",
		"initContainers")) !=
		"mesh-init haproxy" {
		t.Errorf("a relay of no probe: %s", get("spec", "initContainers"))
	}
	const unknown = "    readinessProbe: {httpGet: {port: web}}\n"
	_, err = inject.Read("app.yaml", []byte(plainPod+unknown), shipped(t, "haproxy"), inject.Cluster{})
	const want = "pod/web: container web.readinessProbe.httpGet.port: "
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), "(from app.yaml, line 9)") {
		t.Errorf("%v, not %s...", err, want)
	}
}

// TestCNI: the plugin reads of the pod what the profile says, and what the pod says.
func TestCNI(t *testing.T) {
	p := shipped(t, "haproxy-dns")
	p.Mode = inject.ModeCNI
	_, get := injectedPod(t, pod(`intercept.mesh/outbound-exclude-ports: "5432"`, "runtimeClassName: runc"), p,
		inject.Cluster{})
	for name, want := range map[string]string{
		"enabled": "true", "dns": "all", "families": "ipv4", "other-family": "reject", "outbound-exclude-ports": "5432",
		"outbound-port": "15001", "inbound-port": "15006", "proxy-uid": "1337", "proxy-gid": "1337", "dns-port": "15053",
		"runtime-class": "runc", "inbound-mode": "redirect", "outbound-include-cidrs": "", "init": "",
	} {
		if got := strings.Trim(get("metadata", "annotations", "intercept.mesh/"+name), `"`); got != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
}

// TestTProxy: mode tproxy takes a sidecar with the capability for it, which only
// namespaces without Pod Security admit.
func TestTProxy(t *testing.T) {
	text := strings.Replace(inject.ShippedText("haproxy"), "config:\n", "config:\n  inbound: {mode: tproxy}\n", 1)
	text = strings.Replace(text, "runAsUser: 1337", "runAsUser: 0", 1) // HAProxy drops it, and keeps the capability
	text = strings.Replace(text, "runAsNonRoot: true", "runAsNonRoot: false", 1)
	text = strings.Replace(text, "capabilities: {drop: [ALL]}", "capabilities: {drop: [ALL], add: [NET_ADMIN]}", 1)
	p, err := inject.ParseProfile("transparent.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	_, get := injectedPod(t, plainPod, p, inject.Cluster{})
	if args := get("spec", "initContainers"); !strings.Contains(args, `"--inbound-mode=tproxy"`) {
		t.Error(args)
	}
	_, err = inject.Read("x", []byte(plainPod), p, inject.Cluster{PodSecurity: "restricted"})
	if err == nil || !strings.Contains(err.Error(), "admits no sidecar with NET_ADMIN or NET_RAW") {
		t.Error(err)
	}
	// A pod may do without, and not choose it for a sidecar that is not made for it.
	if _, err := inject.Read("x", []byte(pod("intercept.mesh/inbound-mode: tproxy", "")), shipped(t, "haproxy"),
		inject.Cluster{}); err == nil {
		t.Error("a sidecar without transparent sockets gets packets for them")
	}
	_, get = injectedPod(t, pod(`intercept.mesh/inbound-mode: "off"`, ""), shipped(t, "haproxy"), inject.Cluster{})
	if args := get("spec", "initContainers"); !strings.Contains(args, `"--inbound-mode=off"`) {
		t.Error(args)
	}
}

// TestRecordIsNotTrusted: a record takes out what it names of the lists that it may
// name, and nothing is read beyond them.
func TestRecordIsNotTrusted(t *testing.T) {
	for _, record := range []string{
		`{"merged":[{"list":"containers","index":-5,"container":{"name":"x"}}]}`,
		`{"merged":[{"list":"containers","index":99,"container":{"name":"x"}}]}`,
		`{"annotations":["a","a"],"volumes":["none"],"replaced":{"b":"c"}}`,
	} {
		if _, err := inject.ReadInjected("x", []byte(pod("intercept.mesh/injected: '"+record+"'", ""))); err != nil {
			t.Errorf("%s: %v", record, err)
		}
	}
	text := pod(`intercept.mesh/injected: '{"merged":[{"list":"volumes","container":{}}]}'`, "")
	if _, err := inject.ReadInjected("x", []byte(text)); err == nil {
		t.Error("a container among the volumes")
	}
}

// TestProfileRefused: each mistake in a profile is named, with its field and line.
func TestProfileRefused(t *testing.T) {
	const good = "sidecars:\n- name: p\n  image: p:1\n  securityContext: {runAsUser: 1337}\n"
	for text, want := range map[string][]string{
		good + "mod: init\n":     {"mod: unknown field; did you mean mode? (from my.yaml, line 5)"},
		good + "mode: sidecar\n": {`mode: "sidecar" is not one of auto, init, cni (from my.yaml, line 5)`},
		good + "name: My Profile\n": {`name: "My Profile" is not a name; write small letters, digits and ` +
			`dashes (from my.yaml, line 5)`},
		"sidecars: []\n": {"sidecars: none; name the containers to add, the proxy at least (from " +
			"my.yaml, line 1)"},
		good + "config: {outbound: {port: x}}\n": {`config.outbound.port: "x" is not a port or a range of ports (1-65535, ` +
			`as in 80 or 8000-8010) (from my.yaml, line 5)`},
		good + "config: {dns: {mode: all}}\n": {"config.dns.mode: all, and no resolver; name the sidecar that answers " +
			"in `resolver` (from my.yaml, line 5)"},
		good + "resolver: q\n": {`resolver: "q" is none of the sidecars: p (from my.yaml, line 5)`},
		good + "files: {a/b: x}\n": {"files.a/b: not a file's name; write letters, digits, dots and dashes, " +
			"at most 63 (from my.yaml, line 5)"},
		good + "config: {inbound: {mode: tproxy}}\n": {"config.inbound.mode: tproxy, but no sidecar may have transparent " +
			"sockets: add NET_ADMIN or " +
			"NET_RAW to the capabilities of the one that takes inbound connections (from my.yaml, line 5)"},
		good + "holdApplicationUntilProxyStarts: {q: [a]}\n": {`holdApplicationUntilProxyStarts: "q" is ` +
			`none of the sidecars: p (from my.yaml, line 5)`},
		good + "- name: p\n  image: q\n  securityContext: {runAsUser: 1337}\n": {`sidecars[1].name: "p" is there twice ` +
			`(from my.yaml, line 5)`},
		"sidecars:\n- name: p\n  image: p:1\n  imagePullPolcy: Always\n": {
			"sidecars[0].imagePullPolcy: unknown field; did you mean imagePullPolicy? (from my.yaml, line 4)"},
		"sidecars:\n- name: p\n  image: p:1\n": {"sidecars[0].securityContext: it does not run as the proxy (config.proxy: " +
			"users 1337, " +
			"groups 1337), so what it sends would come back to it; set runAsUser and runAsGroup (from my.yaml, line 2)"},
		"sidecars:\n- {name: p, image: 5, securityContext: {runAsUser: '1337'}}\n": {
			"sidecars[0].image: 5 where a text belongs; write it in quotes (from my.yaml, line 2)",
			`sidecars[0].securityContext.runAsUser: "1337" is not a number (from my.yaml, line 2)`},
		"":                {"0 documents; a profile is one (from my.yaml)"},
		"a: 1\n---\na: 1": {"2 documents; a profile is one (from my.yaml)"},
		"- a":             {"a list where fields belong (from my.yaml, line 1)"},
	} {
		_, err := inject.ParseProfile("my.yaml", []byte(text))
		var got []string
		for _, e := range strict.Flatten(err) {
			got = append(got, e.Error())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s(-want +got):\n%s", text, diff)
		}
	}
}

// BenchmarkRead is what a pod costs an admission webhook, with its JSON and its patch.
func BenchmarkRead(b *testing.B) {
	p, text := shipped(b, "haproxy-dns"), []byte(kinds(b)["pod.json"])
	for b.Loop() {
		m, err := inject.Read("the request", text, p, inject.Cluster{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Objects[0].Patch(); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzRead holds that any manifests are changed or refused; that what was injected is
// injected once, and taken out again leaves what was there.
func FuzzRead(f *testing.F) {
	for _, text := range kinds(f) {
		f.Add(text)
	}
	f.Add(pod(`intercept.mesh/injected: '{"containers":["web"],"merged":[{"list":"containers","container":{"name":"x"}}]}'`, ""))
	f.Add(pod(`intercept.mesh/sidecar-volumes: '[{"name":"mesh-files","emptyDir":{}}]'`, "volumes: [{name: mesh-files}]"))
	f.Add("kind: List\napiVersion: v1\nitems: [{kind: Pod, apiVersion: v1, spec: &s {containers: [{name: a}]}}, {kind: " +
		"Pod, apiVersion: v1, spec: *s}]\n")
	p := shipped(f, "haproxy-dns")
	f.Fuzz(func(t *testing.T, text string) {
		once, err := inject.Read("x", []byte(text), p, inject.Cluster{})
		if err != nil {
			return
		}
		twice, err := inject.Read("x", once.Text(), p, inject.Cluster{})
		if err != nil || twice.Diff() != "" {
			t.Fatalf("a second time: %v\n%s", err, twice.Diff())
		}
		if strings.Contains(text, "injected") {
			return // it may have been
		}
		back, err := inject.ReadInjected("x", once.Text())
		if err != nil {
			t.Fatal(err)
		}
		before, err1 := inject.ReadInjected("x", []byte(text))
		if err1 != nil {
			t.Fatal(err1)
		}
		if diff := cmp.Diff(meaning(t, before), meaning(t, back)); diff != "" {
			t.Fatalf("taken out again (-want +got):\n%s", diff)
		}
	})
}
