package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	} {
		if r := invoke(t, "a: [", nil, append([]string{"inject"}, args...)...); r.code != cli.ExitUsage || r.out != "" ||
			!strings.Contains(r.stderr, want) {
			t.Errorf("%q: %+v", args, r)
		}
	}
}
