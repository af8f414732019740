package chart_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/resource"
	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/yaml"
)

// versions are those of Kubernetes whose schemas the output has to fit: the oldest that this is for, one between, the
// newest.
var versions = []string{"v1.28.15", "v1.33.6", newest}

// foreign are kinds that are not Kubernetes' own, so that it has no schema of them.
var foreign = map[string]struct{}{
	"SecurityContextConstraints": {}, "ServiceMonitor": {}, "PrometheusRule": {}, "Issuer": {}, "Certificate": {},
}

// profiles are the distributions.
func profiles(t *testing.T) []string {
	t.Helper()
	for _, p := range properties(t) {
		if p.name() == "profile" {
			return p.Enum
		}
	}
	t.Fatal("there are no profiles")
	return nil
}

// everything are values that make all that can be made.
var everything = []string{
	"agent.startupTaint=example.org/not-ready", "agent.image.repository=example.org/agent", "agent.podLabels.a=b",
	"agent.podAnnotations.a=b", "agent.nodeSelector.a=b", "image.pullSecrets={one,two}", "image.pullPolicy=Always",
	"injector.evict=true", "injector.certManager=true", "injector.networkPolicy.enabled=true",
	"injector.networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.a=b", "injector.tolerations[0].operator=Exists",
	"injector.profiles.mine=name: mine", "injector.webhookPort=10250", "labels.a=b",
	"monitoring.serviceMonitor.enabled=true",
	"monitoring.prometheusRule.enabled=true", "monitoring.dashboard.enabled=true",
}

// schemas writes the schemas of kinds that are wanted, of a version of Kubernetes, as its module has them, in the form
// that kubeconform reads.
func schemas(t *testing.T, version string, wanted map[string]bool) (dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "k8s.io/kubernetes@"+version)
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if failed := json.Unmarshal(out, &module); err != nil || failed != nil || module.Error != "" {
		t.Fatalf("%v: %v %v %s", cmd.Args, err, failed, module.Error)
	}
	text, err := os.ReadFile(filepath.Join(module.Dir, "api/openapi-spec/swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var swagger struct {
		Definitions map[string]object `json:"definitions"`
	}
	if err := json.Unmarshal(text, &swagger); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, definition := range swagger.Definitions {
		// A field that is not there is a mistake.
		if _, has := definition["properties"]; has && definition["additionalProperties"] == nil {
			definition["additionalProperties"] = false
		}
		if definition["format"] == "int-or-string" || strings.HasSuffix(name, "api.resource.Quantity") {
			definition["type"] = []string{"string", "number"}
		}
		delete(definition, "format")
	}
	for name, definition := range swagger.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			kind := k.(object)
			if !wanted[kind["kind"].(string)] {
				continue
			}
			suffix := kind["version"].(string)
			if group := kind["group"].(string); group != "" {
				first, _, _ := strings.Cut(group, ".")
				suffix = first + "-" + suffix
			}
			// Alone with what it refers to, since each is read and compiled as a whole.
			needs := map[string]object{}
			reach(swagger.Definitions, name, needs)
			b, err := json.Marshal(object{"$ref": "#/definitions/" + name, "definitions": needs})
			file := strings.ToLower(kind["kind"].(string) + "-" + suffix + ".json")
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, file), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// reach collects a definition and all that it refers to.
func reach(all map[string]object, name string, needs map[string]object) {
	if _, is := needs[name]; is {
		return
	}
	needs[name] = all[name]
	var look func(any)
	look = func(what any) {
		switch what := what.(type) {
		case object:
			if ref, is := what["$ref"].(string); is {
				reach(all, strings.TrimPrefix(ref, "#/definitions/"), needs)
			}
			for _, v := range what {
				look(v)
			}
		case []any:
			for _, v := range what {
				look(v)
			}
		}
	}
	look(all[name])
}

// TestConform: what every profile makes, with all options and with none, fits three versions of Kubernetes.
func TestConform(t *testing.T) {
	wanted := map[string]bool{}
	for _, o := range objects(t, newest, everything...) {
		wanted[o["kind"].(string)] = true
	}
	for _, version := range versions {
		at := schemas(t, version, wanted)
		check, err := validator.New([]string{at + "/{{.ResourceKind}}{{.KindSuffix}}.json"},
			validator.Opts{Strict: true, SkipKinds: foreign, KubernetesVersion: strings.TrimPrefix(version, "v")})
		if err != nil {
			t.Fatal(err)
		}
		judged := map[string]string{}
		judge := func(o object) string {
			b, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, known := judged[string(b)]; !known {
				judged[string(b)] = ""
				if r := check.ValidateResource(resource.Resource{Bytes: b}); r.Status != validator.Valid &&
					r.Status != validator.Skipped {
					judged[string(b)] = fmt.Sprint("status ", r.Status, ": ", r.Err)
				}
			}
			return judged[string(b)]
		}
		for _, profile := range profiles(t) {
			for _, values := range [][]string{nil, everything} {
				all := objects(t, version, append([]string{"profile=" + profile}, values...)...)
				if len(all) < 20 {
					t.Errorf("%s: %d objects", profile, len(all))
				}
				for _, o := range all {
					if message := judge(o); message != "" {
						t.Errorf("%s, %s, %s: %s", version, profile, o["kind"], message)
					}
				}
			}
		}
		// That it sees mistakes.
		for wrong, o := range map[string]object{
			"is not of a field":  {"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": object{"selectors": object{}}},
			"is of another type": {"apiVersion": "v1", "kind": "Service", "spec": object{"ports": []any{object{"port": "x"}}}},
			"is of no kind":      {"apiVersion": "v1", "kind": "Sevice"},
		} {
			if judge(o) == "" {
				t.Errorf("%s: what %s is taken", version, wrong)
			}
		}
	}
}
