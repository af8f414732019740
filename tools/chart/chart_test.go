package chart_test

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

const (
	deploy   = "../../deploy/"
	chartDir = deploy + "chart"
	// newest is the version of Kubernetes that manifests are written for.
	newest = "v1.37.2"
)

// object is an object of Kubernetes as JSON has it.
type object = map[string]any

// render is what helm template says of values, as --set has them: the text of each template, by its name.
func render(t *testing.T, kubernetes string, values ...string) (map[string]string, error) {
	t.Helper()
	return renderOf(t, chartDir, kubernetes, values...)
}

// renderOf is the same of a chart that is elsewhere, or packed.
func renderOf(t *testing.T, path, kubernetes string, values ...string) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	with := map[string]any{}
	for _, v := range values {
		if err := strvals.ParseInto(v, with); err != nil {
			t.Fatalf("%s: %v", v, err)
		}
	}
	version, err := common.ParseKubeVersion(kubernetes)
	if err != nil {
		t.Fatal(err)
	}
	caps := *common.DefaultCapabilities
	caps.KubeVersion = *version
	release := common.ReleaseOptions{Name: "intercept", Namespace: "kube-system", IsInstall: true}
	all, err := util.ToRenderValues(c, with, release, &caps)
	if err != nil {
		return nil, err
	}
	texts, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		return nil, err
	}
	return byName(texts), nil
}

// byName takes the folders off the names of templates.
func byName(texts map[string]string) map[string]string {
	named := map[string]string{}
	for file, text := range texts {
		named[path.Base(file)] = text
	}
	return named
}

// objects are those that values make, in the order of the templates' names.
func objects(t *testing.T, kubernetes string, values ...string) []object {
	t.Helper()
	texts, err := render(t, kubernetes, values...)
	if err != nil {
		t.Fatalf("%q: %v", values, err)
	}
	var all []object
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if strings.HasSuffix(name, ".yaml") {
			all = append(all, parse(t, name, texts[name])...)
		}
	}
	return all
}

// parse reads the objects of a text. A field that is there twice is an error.
func parse(t *testing.T, name, text string) []object {
	t.Helper()
	var all []object
	r := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		doc, err := r.Read()
		if err == io.EOF {
			return all
		}
		var o object
		if err := errors.Join(err, sigsyaml.UnmarshalStrict(doc, &o)); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, doc)
		}
		if o != nil {
			all = append(all, o)
		}
	}
}
