package shipped

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/kube/internal/sbom"
	"github.com/mesh-intercept/intercept/testing/program"
)

// TestImage: what the image of a program is, and says.
func TestImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh-cni")
	if err := program.Build(path, "cmd/mesh-cni"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Image("localhost/x:1", "v1.2.3", map[string][]byte{"mesh-init": text})
	if err != nil {
		t.Fatal(err)
	}
	if p.Architecture != runtime.GOARCH || p.Entrypoint[0] != "/mesh-init" || p.Links["usr/bin/kumactl"]+
		p.Links["usr/local/bin/pilot-agent"] != "/mesh-init/mesh-init" {
		t.Errorf("for %s, starts %q, links %q", p.Architecture, p.Entrypoint, p.Links)
	}
	if !strings.Contains(string(p.Texts["licenses/THIRD_PARTY"]), "github.com/vishvananda/netns") {
		t.Error("it has no licences")
	}
	if p.Labels["org.opencontainers.image.version"] != "v1.2.3" {
		t.Errorf("labels: %q", p.Labels)
	}
	var types []string
	for _, s := range p.Statements {
		types = append(types, s.Type)
		if !json.Valid(s.Predicate) {
			t.Errorf("%s: %s", s.Type, s.Predicate)
		}
	}
	if want := []string{"https://spdx.dev/Document", "https://slsa.dev/provenance/v1"}; !slices.Equal(types, want) {
		t.Errorf("statements: %q", types)
	}
	if !strings.Contains(string(p.Statements[0].Predicate), "github.com/vishvananda/netns") {
		t.Errorf("the SBOM: %s", p.Statements[0].Predicate)
	}

	// Over layers of Debian's: each is there, and is said to be.
	p, err = Image("localhost/x-iptables:1", "v1.2.3", map[string][]byte{"mesh-init": text},
		Layer{Files: []byte("low"), Packages: []sbom.Package{{Name: "libc6", Version: "2.41-12", Architecture: "amd64", Sum: "c0ffee"}}},
		Layer{Files: []byte("high")})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Under) != 2 || string(p.Under[1]) != "high" || len(p.Env) != 1 || !strings.HasPrefix(p.Env[0], "PATH=") {
		t.Errorf("layers %q, variables %q", p.Under, p.Env)
	}
	for _, s := range p.Statements {
		if said := string(s.Predicate); !strings.Contains(said, "pkg:deb/debian/libc6@2.41-12?arch=amd64") ||
			!strings.Contains(said, "c0ffee") {
			t.Errorf("%s does not know of libc6: %s", s.Type, said)
		}
	}

	for name, programs := range map[string]map[string][]byte{
		"no programs": {}, "a text": {"mesh-init": []byte("text")},
		"built from": {"mesh-init": text, "mesh-cni": otherGo(t, text)},
	} {
		if _, err := Image("localhost/x:1", "v1.2.3", programs); err == nil || name == "built from" &&
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// otherGo is a program that says that it was built for another architecture.
func otherGo(t *testing.T, text []byte) []byte {
	t.Helper()
	other := strings.ReplaceAll(string(text), "GOARCH="+runtime.GOARCH, "GOARCH="+strings.Repeat("x", len(runtime.GOARCH)))
	if other == string(text) {
		t.Fatal("the program does not say what it was built for")
	}
	return []byte(other)
}

// TestProvenance: the commit is named only where nothing differed from it.
func TestProvenance(t *testing.T) {
	b := Build{Architecture: "arm64", Revision: "0f1e2d3c", Go: "go1.26.8", Time: time.Unix(1e9, 0)}
	labels := Labels("v1", b)
	if labels["org.opencontainers.image.revision"] != "0f1e2d3c" ||
		labels["org.opencontainers.image.created"] != "2001-09-09T01:46:40Z" {
		t.Errorf("labels: %q", labels)
	}
	for modified, want := range map[bool]map[string]string{false: {"gitCommit": "0f1e2d3c"}, true: nil} {
		b.Modified = modified
		p := provenanceOf("v1", b)
		if diff := cmp.Diff(want, p.BuildDefinition.ResolvedDependencies[0].Digest); diff != "" {
			t.Errorf("modified %v: %s", modified, diff)
		}
		if got := slices.Sorted(maps.Values(p.BuildDefinition.ExternalParameters)); !slices.Contains(got, "arm64") {
			t.Errorf("parameters: %q", got)
		}
	}
}
