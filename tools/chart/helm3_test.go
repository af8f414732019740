package chart_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"helm.sh/helm/v3/pkg/strvals"
)

// render3 is what render is, of Helm 3.
func render3(t *testing.T, kubernetes string, values ...string) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	with := map[string]any{}
	for _, v := range values {
		if err := strvals.ParseInto(v, with); err != nil {
			t.Fatalf("%s: %v", v, err)
		}
	}
	caps := *chartutil.DefaultCapabilities
	caps.KubeVersion = chartutil.KubeVersion{Version: kubernetes, Major: "1", Minor: strings.Split(kubernetes, ".")[1]}
	release := chartutil.ReleaseOptions{Name: "intercept", Namespace: "kube-system", IsInstall: true}
	all, err := chartutil.ToRenderValues(c, with, release, &caps)
	if err != nil {
		return nil, err
	}
	texts, err := engine.Engine{Strict: true}.Render(c, all)
	if err != nil {
		return nil, err
	}
	return byName(texts), nil
}

// TestHelm3: Helm 3 makes of each profile what Helm 4 makes of it, refuses what that refuses, and its lint has nothing to
// say but that there is no icon.
func TestHelm3(t *testing.T) {
	for _, profile := range profiles(t) {
		for _, more := range [][]string{nil, everything} {
			values := append([]string{"profile=" + profile}, more...)
			for _, kubernetes := range versions {
				want, err4 := render(t, kubernetes, values...)
				got, err3 := render3(t, kubernetes, values...)
				if diff := cmp.Diff(want, got); err4 != nil || err3 != nil || diff != "" {
					t.Errorf("%q for Kubernetes %s: %v, %v: Helm 4 (-) and Helm 3 (+): %s", values, kubernetes, err4, err3, diff)
				}
				if !slices.Contains(slices.Collect(maps.Keys(got)), "agent.yaml") {
					t.Errorf("%q makes no agent", values)
				}
			}
		}
	}
	for _, value := range []string{"profile=k4s", "agnet.enabled=false"} {
		if _, err := render3(t, newest, value); err == nil || !strings.Contains(err.Error(), value[:5]) {
			t.Errorf("%s: %v", value, err)
		}
	}
	version := chartutil.KubeVersion{Version: newest, Major: "1", Minor: strings.Split(newest, ".")[1]}
	for _, m := range lint.AllWithKubeVersion(chartDir, nil, "default", &version).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m.Error())
		}
	}
}
