package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

const podManifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n    " +
	"image: web:1\n"

// TestInject: manifests come from a file or from standard input, and go out in the form
// that is asked for; what is said about them goes elsewhere.
func TestInject(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(podManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	text := invoke(t, "", nil, "inject", "-f", file)
	if text.code != cli.ExitDone || !strings.HasPrefix(text.out, podManifest[:len("apiVersion: v1\nkind: Pod\n")]) ||
		!strings.Contains(text.stderr, "pod/web: injected") {
		t.Fatalf("%+v", text)
	}
	if piped := invoke(t, podManifest, nil, "inject", "-f", "-"); piped.out != text.out {
		t.Errorf("from standard input: %+v", piped)
	}
	asJSON := invoke(t, podManifest, nil, "inject", "-f", "-", "-o", "json")
	if !json.Valid([]byte(asJSON.out)) || !strings.Contains(asJSON.out, `"name": "mesh-init"`) {
		t.Errorf("%+v", asJSON)
	}
	if asYAML := invoke(t, asJSON.out, nil, "inject", "-f", "-", "-o", "yaml"); json.Valid([]byte(asYAML.out)) ||
		!strings.Contains(asYAML.out, "- name: mesh-init\n") {
		t.Errorf("%+v", asYAML)
	}
	if again := invoke(t, asJSON.out, nil, "inject", "-f", "-"); again.out != asJSON.out {
		t.Errorf("JSON does not stay as it is: %+v", again)
	}
	several := invoke(t, podManifest+"---\n"+podManifest, nil, "inject", "-f", "-", "-o", "json")
	if again := invoke(t, several.out, nil, "inject", "-f", "-"); again.code != cli.ExitDone || again.out != several.out {
		t.Errorf("several objects of JSON: %+v", again)
	}
	if asYAML := invoke(t, several.out, nil, "inject", "-f", "-", "-o", "yaml"); strings.Count(asYAML.out,
		"- name: mesh-init\n") != 2 || !strings.Contains(asYAML.out, "\n---\napiVersion: v1\n") {
		t.Errorf("%+v", asYAML)
	}
	patch := invoke(t, podManifest, nil, "inject", "-f", "-", "-o", "patch")
	if !json.Valid([]byte(patch.out)) || !strings.HasPrefix(patch.out,
		`{"apiVersion":"v1","kind":"Pod","name":"web","patch":[{"op":"add"`) {
		t.Errorf("%+v", patch)
	}
	diff := invoke(t, podManifest, nil, "inject", "-f", "-", "--diff")
	if !strings.HasPrefix(diff.out, "--- standard input\n+++ standard input\n@@ -1,7 +1,") || strings.Contains(diff.out,
		"\n-spec") {
		t.Errorf("%+v", diff)
	}
	if cni := invoke(t, podManifest, nil, "inject", "-f", "-", "--inject-mode", "cni"); strings.Contains(cni.out,
		"mesh-init") ||
		!strings.Contains(cni.out, "intercept.mesh/enabled: \"true\"") {
		t.Errorf("%+v", cni)
	}
	if out := invoke(t, text.out, nil, "inject", "-f", "-", "--uninject"); strings.Contains(out.out, "mesh") {
		t.Errorf("%+v", out)
	}
	skipped := invoke(t, podManifest+"  hostNetwork: true\n", nil, "inject", "-f", "-")
	if !strings.Contains(skipped.stderr, "pod/web is left alone: it shares the node's network (hostNetwork)") {
		t.Errorf("%+v", skipped)
	}
}

// TestInjectProfile: a profile is a shipped one, which can be printed, or a file, in
// which mistakes are named.
func TestInjectProfile(t *testing.T) {
	for _, name := range inject.Shipped() {
		printed := invoke(t, "", nil, "inject", "--profile", name, "--print-profile")
		if printed.code != cli.ExitDone || printed.out != inject.ShippedText(name) {
			t.Errorf("%+v", printed)
		}
		file := filepath.Join(t.TempDir(), "mine.yaml")
		if err := os.WriteFile(file, []byte(printed.out), 0o600); err != nil {
			t.Fatal(err)
		}
		own := invoke(t, podManifest, nil, "inject", "-f", "-", "--profile", file)
		if shipped := invoke(t, podManifest, nil, "inject", "-f", "-", "--profile", name); own.out != shipped.out {
			t.Errorf("%s from a file: %+v", name, own)
		}
		if err := os.WriteFile(file, []byte(printed.out+"mod: cni\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		wrong := invoke(t, podManifest, nil, "inject", "-f", "-", "--profile", file)
		if wrong.code != cli.ExitUsage || wrong.out != "" || !strings.Contains(wrong.stderr,
			"mod: unknown field; did you mean mode?") {
			t.Errorf("%+v", wrong)
		}
	}
}

// TestInjectSays: what is said is what helps.
func TestInjectSays(t *testing.T) {
	twice := invoke(t, podManifest, nil, "inject", "-f", "-", "-f", "-")
	if !strings.Contains(twice.stderr, "given twice") || strings.Contains(twice.stderr, "missing") {
		t.Errorf("%+v", twice)
	}
	const others = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\n---\napiVersion: v1\nkind: pod\n---\n" +
		"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Secret}, {apiVersion: v1, kind: Secret}]\n"
	none := invoke(t, others, nil, "inject", "-f", "-")
	if none.code != cli.ExitDone || none.out != others || !strings.Contains(none.stderr, "no pods in standard input; all "+
		`stays as it is" kinds="Rollout (argoproj.io/v1alpha1), Secret (v1), pod (v1)"`) {
		t.Errorf("%+v", none)
	}
	if empty := invoke(t, "", nil, "inject", "-f", "-"); !strings.Contains(empty.stderr, "no pods in standard input") {
		t.Errorf("%+v", empty)
	}
	if some := invoke(t, others+"---\n"+podManifest, nil, "inject", "-f", "-"); strings.Contains(some.stderr, "no pods") {
		t.Errorf("%+v", some)
	}
	file := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(file, []byte(podManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	if wrong := invoke(t, "", nil, "inject", "-f", file, "--profile", file); !strings.Contains(wrong.stderr,
		"a manifest (Pod), and no profile; a profile has sidecars") || strings.Contains(wrong.stderr, "unknown field") {
		t.Errorf("%+v", wrong)
	}
	if piped := invoke(t, inject.ShippedText("envoy"), nil, "inject", "-f", file, "--profile", "-"); !strings.Contains(piped.out,
		"- name: envoy\n") {
		t.Errorf("%+v", piped)
	}
	if help := invoke(t, "", nil, "inject", "--help"); !strings.Contains(help.out, "ReplicationControllers") {
		t.Errorf("%+v", help)
	}
}

// TestInjectLong: manifests may be longer than a configuration, as what inject itself writes for many pods is. Too long
// ones are refused with what to do.
func TestInjectLong(t *testing.T) {
	for size, want := range map[int]int{5 << 20: cli.ExitDone, maxManifests: cli.ExitUsage} {
		text := podManifest + "#" + strings.Repeat("x", size) + "\n"
		file := filepath.Join(t.TempDir(), "long.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, r := range []result{invoke(t, text, nil, "inject", "-f", "-"), invoke(t, "", nil, "inject", "-f", file)} {
			if r.code != want || want == cli.ExitUsage && !strings.Contains(r.stderr, "too large: over 33554432 bytes; inject it in parts") {
				t.Errorf("%d bytes: %d, %s", size, r.code, r.stderr)
			}
		}
	}
}

// TestInjectUsage: all that is wrong with a command is said at once, and nothing is
// written.
func TestInjectUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"--filename: missing: write -f FILE, or -f - for standard input":       {},
		"those that there are without a file: haproxy, haproxy-dns, envoy":     {"-f", "-", "--profile", "nginx"},
		`--kubernetes-version: "2.0" is not a version; write one such as 1.28`: {"-f", "-", "--kubernetes-version", "2.0"},
		`--inject-mode: "node" is not one of auto, init, cni`:                  {"-f", "-", "--inject-mode", "node"},
		"line 1: did not find expected node content (from standard input)":     {"-f", "-"},
		"no such file": {"-f", "/none"},
		`--kubernetes-version: "1.2" has no startup probes, which sidecars need; write one from 1.20 on`: {"-f", "-",
			"--kubernetes-version", "1.2"},
		"--print-profile: it prints the profile's file, and does nothing else": {"--print-profile", "-o", "json"},
		"--diff: it is a text; leave --output out":                             {"-f", "-", "--diff", "-o", "json"},
	} {
		if r := invoke(t, "a: [", nil, append([]string{"inject"}, args...)...); r.code != cli.ExitUsage || r.out != "" ||
			!strings.Contains(r.stderr, want) {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// TestInjectFiles: several files become one stream, in their order.
func TestInjectFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: app, image: app}]}\n",
		"b.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec: {containers: [{name: app, image: app}]}", // without an end
		"c.json": `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"},"spec":{"containers":[{"name":"app","image":"app"}]}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for form, documents := range map[string]int{"": 3, "yaml": 3} {
		args := []string{"inject", "-f", at("a.yaml"), "-f", at("b.yaml"), "--filename=" + at("c.json")}
		if form != "" {
			args = append(args, "-o", form)
		}
		r := invoke(t, "", nil, args...)
		var names []string
		d := yaml.NewDecoder(strings.NewReader(r.out))
		for {
			var pod struct {
				Metadata struct{ Name string }
				Spec     struct {
					InitContainers []any `yaml:"initContainers"`
				}
			}
			err := d.Decode(&pod)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, r.out)
			}
			if names = append(names, pod.Metadata.Name); len(pod.Spec.InitContainers) == 0 {
				t.Errorf("%s has no sidecar", pod.Metadata.Name)
			}
		}
		if r.code != 0 || len(names) != documents || strings.Join(names, "") != "abc" {
			t.Errorf("%q: exit code %d, %q: %s", form, r.code, names, r.stderr)
		}
	}
	if r := invoke(t, "", nil, "inject", "-f", at("a.yaml"), "-f", at("a.yaml")); r.code != 2 ||
		!strings.Contains(r.stderr, "is given twice") {
		t.Errorf("%+v", r)
	}
}
