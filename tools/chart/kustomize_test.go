package chart_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gomodules.xyz/jsonpatch/v2"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	kustomize = deploy + "kustomize/"
	written   = "# MESH_TEST_UPDATE=1 make chart writes this file, from deploy/chart.\n"
)

// kustomization is a file of kustomize.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources"`
	Patches    []patch  `json:"patches,omitempty"`
}

type patch struct {
	Target struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"target"`
	Patch string `json:"patch"`
}

// key names an object.
func key(o object) string {
	meta := o["metadata"].(object)
	return fmt.Sprint(o["kind"], " ", meta["namespace"], " ", meta["name"])
}

// byKey are objects by their names.
func byKey(all []object) map[string]object {
	named := map[string]object{}
	for _, o := range all {
		named[key(o)] = o
	}
	return named
}

func marshal(t *testing.T, what any) string {
	t.Helper()
	b, err := yaml.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// overlay is what makes of the plain manifests what a profile has. more are objects that only the profile has.
func overlay(t *testing.T, profile string) (k kustomization, more []object) {
	t.Helper()
	k = kustomization{APIVersion: "kustomize.config.k8s.io/v1beta1", Kind: "Kustomization", Resources: []string{"../base"}}
	was, is := byKey(objects(t, newest)), byKey(objects(t, newest, "profile="+profile))
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if was[name] == nil {
			more = append(more, is[name])
			continue
		}
		before, err1 := json.Marshal(was[name])
		after, err2 := json.Marshal(is[name])
		operations, err := jsonpatch.CreatePatch(before, after)
		if err1 != nil || err2 != nil || err != nil {
			t.Fatal(err1, err2, err)
		}
		if len(operations) == 0 {
			continue
		}
		// Later operations may need what earlier ones leave, so only those at different places change places.
		slices.SortStableFunc(operations, func(a, b jsonpatch.Operation) int { return strings.Compare(a.Path, b.Path) })
		var p patch
		p.Target.Kind = is[name]["kind"].(string)
		p.Target.Name = is[name]["metadata"].(object)["name"].(string)
		p.Patch = marshal(t, operations)
		k.Patches = append(k.Patches, p)
	}
	if len(was) != len(is)-len(more) {
		t.Fatalf("%s lacks objects of the plain manifests", profile)
	}
	if len(more) > 0 {
		k.Resources = append(k.Resources, "more.yaml")
	}
	return k, more
}

// TestKustomize: the base is the plain manifests, and there is an overlay for each profile that differs from them;
// kustomize makes of it what Helm makes of the profile.
func TestKustomize(t *testing.T) {
	dirs := []string{"base"}
	plain := kustomization{APIVersion: "kustomize.config.k8s.io/v1beta1", Kind: "Kustomization",
		Resources: []string{"agent", "injector"}}
	files := map[string]string{"base/kustomization.yaml": written + marshal(t, plain)}
	for _, part := range manifests(t) {
		plain.Resources = []string{part.file}
		files["base/"+part.part+"/kustomization.yaml"] = written + marshal(t, plain)
		files["base/"+part.part+"/"+part.file] = part.text
	}
	for _, profile := range profiles(t) {
		k, more := overlay(t, profile)
		if len(k.Patches)+len(more) == 0 {
			continue
		}
		dirs = append(dirs, profile)
		files[profile+"/kustomization.yaml"] = written + marshal(t, k)
		var texts []string
		for _, o := range more {
			texts = append(texts, marshal(t, o))
		}
		if len(texts) > 0 {
			files[profile+"/more.yaml"] = written + strings.Join(texts, "---\n")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if os.Getenv("MESH_TEST_UPDATE") == "1" {
			if err := os.MkdirAll(filepath.Dir(kustomize+path), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		same(t, kustomize+path, files[path])
	}
	found, err := filepath.Glob(kustomize + "*")
	if err != nil || len(found) != len(dirs) {
		t.Errorf("%v %v: there are others than %q", found, err, dirs)
	}
	for _, dir := range dirs {
		built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), kustomize+dir)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		text, err := built.AsYaml()
		if err != nil {
			t.Fatal(err)
		}
		profile := strings.Replace(dir, "base", "kubeadm", 1)
		if diff := cmp.Diff(byKey(objects(t, newest, "profile="+profile)), byKey(parse(t, dir, string(text)))); diff != "" {
			t.Errorf("%s: Helm (-) and kustomize (+) differ: %s", dir, diff)
		}
	}
}
