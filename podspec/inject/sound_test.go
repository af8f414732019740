package inject_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// TestSoundProfile: what the API server would refuse in every pod is refused in the
// profile, with its field and line; and what makes no sense as well.
func TestSoundProfile(t *testing.T) {
	for _, c := range []struct{ old, fresh, want string }{
		{"15021", "15020", "sidecars[1].ports[0].containerPort: 15020 is also that of sidecar haproxy; all containers of a pod " +
			"share its ports (from mine, line 44)"},
		{"mode: auto", "init: {args: [render]}", "init.args: it follows from the configuration; leave it out (from mine, line 4)"},
		{"mode: auto", "init: {restartPolicy: Always}", "init.restartPolicy: it follows from the configuration; leave it out"},
		{"mode: auto", "init: {securityContext: {privileged: yes}}",
			"init.securityContext.privileged: true, and allowPrivilegeEscalation is false; leave privileged out"},
		{"mode: auto", "init: {image: ''}", "init.image: missing"},
		{"memory: 256Mi", "memory: 25Mi",
			"sidecars[0].resources.requests.memory: 64Mi is more than the limit, 25Mi; give both (from mine, line 26)"},
		{"cpu: 50m", "cpu: -50m", "sidecars[0].resources.requests.cpu: -50m is negative"},
		{"failureThreshold: 60", "failureThreshold: -1",
			"sidecars[0].startupProbe.failureThreshold: -1 is not a number from 0 to 2147483647"},
		{"failureThreshold: 60", "successThreshold: 2", "sidecars[0].startupProbe.successThreshold: 2 is not 1"},
		{"containerPort: 15021", "containerPort: 70000", "sidecars[0].ports[0].containerPort: 70000 is not a number from 1 to 65535"},
		{"httpGet: {port: 15021}", "httpGet: {scheme: http}", `httpGet.scheme: "http" is not one of HTTP, HTTPS`},
		{"httpGet: {port: 15021}", "httpGet: {path: /}", "httpGet.port: missing"},
		{"httpGet: {port: 15021}", "{httpGet: {port: 1}, exec: {command: [a]}}", ""},
		{"mesh-files, mountPath", "mesh-file, mountPath", `volumeMounts[0].name: there is no volume "mesh-file"; did you mean mesh-files?`},
		{"relay: ", "volumes: [{name: a, secret: {}}]\nrelay: ", "volumes[0].secret.secretName: missing"},
	} {
		text := inject.ShippedText("haproxy")
		if c.want == "" {
			c.fresh, c.want = strings.Trim(c.fresh, "{}")+"}", "it has 2 handlers (httpGet, exec), and needs one"
			c.fresh = strings.Replace(c.fresh, ", exec", "\n    exec", 1)
		}
		_, err := inject.ParseProfile("mine", []byte(strings.ReplaceAll(text, c.old, c.fresh)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", c.fresh, err, c.want)
		}
	}
}

// TestSoundPod: so is what a pod's annotations and containers make of the sidecar.
func TestSoundPod(t *testing.T) {
	for text, want := range map[string]string{
		pod(`intercept.mesh/sidecar-resources: '{"haproxy":{"limits":{"memory":"1Mi"}}}'`, ""): "annotation " +
			"intercept.mesh/sidecar-resources: haproxy.requests.memory: 64Mi is more than the limit, 1Mi; give both (from app.yaml, " +
			"line 6)",
		pod(`intercept.mesh/sidecar-volume-mounts: '{"haproxy":[{"name":"certs","mountPath":"/c"}]}'`, ""): "annotation " +
			`intercept.mesh/sidecar-volume-mounts: haproxy.volumeMounts[1].name: there is no volume "certs"; there are: mesh-files`,
		pod(`intercept.mesh/sidecar-volumes: '[{"name":"a"},{"name":"a"}]'`, ""): `[1].name: "a" is no name, or that of another ` +
			"volume of the pod",
		pod(`intercept.mesh/sidecar-volumes: '[{"name":"own"}]'`, "volumes: [{name: own}]"): `[0].name: "own" is no name, or that`,
		plainPod + "  - {name: haproxy, imagePullPolicy: never}\n": "container haproxy.imagePullPolicy: \"never\" is not one of " +
			"Always, IfNotPresent, Never (from app.yaml, line 9)",
		plainPod + "  - {name: mesh-init, args: [render]}\n": "container mesh-init.args: it follows from the configuration",
	} {
		m, err := inject.Read("app.yaml", []byte(text), shipped(t, "haproxy"), inject.Cluster{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s\n%s", err, want, m.Text())
		}
	}
	// Limits and requests that are the same, in other words.
	for _, pair := range [][2]string{{"300m", "0.3"}, {"1.1k", "1100"}, {"1Gi", "1048576Ki"}, {"1e3", "1k"}, {"700u", "700000n"}} {
		for _, p := range [][2]string{pair, {pair[1], pair[0]}} {
			read(t, pod(fmt.Sprintf(`intercept.mesh/sidecar-resources: '{"haproxy":{"limits":{"a/b":"%s"},"requests":{"a/b":"%s"}}}'`,
				p[0], p[1]), ""), shipped(t, "haproxy"), inject.Cluster{})
		}
	}
	// A volume of an annotation goes before one of the profile's, as one of the pod's does.
	m := read(t, pod(`intercept.mesh/sidecar-volumes: '[{"name":"mesh-files","configMap":{"name":"mine"}}]'`, ""),
		shipped(t, "haproxy"), inject.Cluster{})
	if text := string(m.Text()); !strings.Contains(text, "configMap:") || strings.Contains(text, "downwardAPI") {
		t.Error(text)
	}
}

// TestBooleans: Kubernetes reads YAML 1.1, in which there are more words for true.
func TestBooleans(t *testing.T) {
	for _, yes := range []string{"true", "True", "TRUE", "yes", "on", "On", "y"} {
		for _, text := range []string{pod("", "hostNetwork: "+yes), "{apiVersion: v1, kind: Pod, spec: {hostNetwork: " + yes +
			", containers: [{name: a}]}}"} {
			m := read(t, text, shipped(t, "haproxy"), inject.Cluster{})
			if m.Objects[0].SkippedBy != "host-network" || string(m.Text()) != text {
				t.Errorf("%s: %+v", text, m.Objects[0].Result)
			}
			if out, err := m.JSON(); err != nil || !strings.Contains(string(out[0]), `"hostNetwork":true`) {
				t.Errorf("%s, %v", out, err)
			}
		}
	}
	m := read(t, pod("", "hostNetwork: no\n  automountServiceAccountToken: off"), shipped(t, "haproxy"), inject.Cluster{})
	if out, err := m.JSON(); err != nil || m.Objects[0].Skipped != "" || !strings.Contains(string(out[0]),
		`"hostNetwork":false,"automountServiceAccountToken":false`) {
		t.Errorf("%+v: %s, %v", m.Objects[0].Result, out, err)
	}
}

// TestFlow: what is written anew because it changes means what it meant.
func TestFlow(t *testing.T) {
	const text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, creationTimestamp: 2026-01-01T00:00:00Z, labels: {a: \"yes\", b: 'n'}}\n" +
		"spec: {containers: [{name: web, image: x, tty: yes, env: [{name: T, value: 2026-01-01}, {name: Y, value: \"on\"}]}]}\n"
	m := read(t, text, shipped(t, "haproxy"), inject.Cluster{})
	for _, want := range []string{`creationTimestamp: "2026-01-01T00:00:00Z"`, `{a: "yes", b: 'n'}`, `value: "2026-01-01"`,
		`tty: true`, `value: "on"`} {
		if !strings.Contains(string(m.Text()), want) {
			t.Errorf("%s is not in\n%s", want, m.Text())
		}
	}
	out, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := read(t, string(out[0]), shipped(t, "haproxy"), inject.Cluster{}).YAML()
	if err != nil || !strings.Contains(string(asYAML), `a: "yes"`) || !strings.Contains(string(asYAML), `value: "on"`) {
		t.Errorf("%v\n%s", err, asYAML)
	}
}

// TestProbesOfOthers: a container that has been renamed or copied since keeps its
// probe, and one whose original nobody kept is refused.
func TestProbesOfOthers(t *testing.T) {
	const probe = "    readinessProbe: {httpGet: {port: 8080, path: /ready}}\n"
	injected := string(read(t, plainPod+probe, shipped(t, "haproxy"), inject.Cluster{}).Text())

	renamed := strings.Replace(injected, "  - name: web\n", "  - name: webb\n", 1)
	again := string(read(t, renamed, shipped(t, "haproxy"), inject.Cluster{}).Text())
	if !strings.Contains(again, "/probe/webb/readiness, port: 15020") || !strings.Contains(again, `"path":"/ready"`) ||
		strings.Contains(again, "/probe/web/") || !strings.Contains(again, "- name: mesh-probe") {
		t.Errorf("renamed:\n%s", again)
	}
	back, err := inject.ReadInjected("app.yaml", []byte(renamed))
	if want := strings.Replace(plainPod+probe, "  - name: web\n", "  - name: webb\n", 1); err != nil || string(back.Text()) != want {
		t.Errorf("%v:\n%s", err, back.Text())
	}

	_, rest, _ := strings.Cut(injected, "  containers:\n")
	own, _, _ := strings.Cut(rest, "  volumes:\n")
	copied := strings.Replace(injected, own, own+strings.Replace(own, "name: web", "name: copy", 1), 1)
	m := read(t, copied, shipped(t, "haproxy"), inject.Cluster{})
	if text := string(m.Text()); !strings.Contains(text, "/probe/copy/readiness, port: 15020") ||
		!strings.Contains(text, `{"container":"copy","kind":"readiness"`) || !strings.Contains(text, `{"container":"web","kind":"readiness"`) {
		t.Errorf("copied:\n%s", text)
	}

	lines := strings.Split(injected, "\n")
	for k, l := range lines {
		if strings.Contains(l, "/original-probes:") {
			lines[k] = "    x: y"
		}
	}
	for _, text := range []string{strings.Join(lines, "\n"), strings.Replace(plainPod+probe, "8080, path: /ready",
		"15020, path: /probe/gone/readiness", 1)} {
		if _, err := inject.Read("app.yaml", []byte(text), shipped(t, "haproxy"), inject.Cluster{}); err == nil ||
			!strings.Contains(err.Error(), "does not have the original") {
			t.Errorf("%v\n%s", err, text)
		}
	}
	if _, err := inject.ReadInjected("app.yaml", []byte(strings.Join(lines, "\n"))); err == nil {
		t.Error("the original is nowhere, and nobody says so")
	}

	empty := string(read(t, pod(`intercept.mesh/original-probes: "{}"`, ""), shipped(t, "haproxy"), inject.Cluster{}).Text())
	if twice := read(t, empty, shipped(t, "haproxy"), inject.Cluster{}); twice.Diff() != "" {
		t.Errorf("a second time:\n%s", twice.Diff())
	}
}
