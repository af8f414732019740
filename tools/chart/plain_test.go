package chart_test

import (
	"os"
	"strings"
	"testing"
)

// plain are the manifests for those who have no Helm: each is made of templates, with the chart's own values.
var plain = []struct {
	file, head, part string
	templates        []string
}{
	{"mesh-cni-agent.yaml", `# The node's agent of mesh-cni, and nothing else. make image writes its image;
# docs/agent.md says how to go about it. MESH_TEST_UPDATE=1 make chart writes this
# file, from deploy/chart.
`, "agent", []string{"agent-namespace.yaml", "agent-rbac.yaml", "agent.yaml", "kubectl-intercept.yaml"}},
	{"mesh-injector.yaml", `# The admission webhook that gives pods their sidecar, and nothing else. make image writes
# its image; docs/injector.md says how to go about it. MESH_TEST_UPDATE=1 make chart writes
# this file, from deploy/chart.
`, "injector", []string{"injector-namespace.yaml", "injector-rbac.yaml", "injector.yaml", "injector-webhooks.yaml"}},
}

// same compares a file with what it should be. MESH_TEST_UPDATE=1 writes it.
func same(t *testing.T, path, want string) {
	t.Helper()
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not what the chart makes (%v): MESH_TEST_UPDATE=1 make chart", path, err)
	}
}

// manifest is one of the plain manifests.
type manifest struct{ file, part, text string }

func manifests(t *testing.T) (all []manifest) {
	t.Helper()
	texts, err := render(t, newest)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plain {
		var parts []string
		for _, name := range p.templates {
			parts = append(parts, strings.TrimSpace(texts[name])+"\n")
		}
		all = append(all, manifest{p.file, p.part, p.head + strings.Join(parts, "---\n")})
	}
	return all
}

// TestManifests: deploy/ has the plain manifests as the chart makes them.
func TestManifests(t *testing.T) {
	for _, m := range manifests(t) {
		same(t, deploy+m.file, m.text)
	}
}
