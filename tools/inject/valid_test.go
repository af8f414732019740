package inject_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// manifests are those of the library's own tests.
func manifests(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../podspec/inject/testdata/kinds/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(filepath.Base(f), "other") {
			all[filepath.Base(f)] = string(text)
		}
	}
	return all
}

// each injects every profile into every manifest in every mode, and hands over what
// Kubernetes reads of the outcome.
func each(t *testing.T, check func(t *testing.T, mode inject.Mode, object runtime.Object)) {
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	for name, text := range manifests(t) {
		for _, profile := range inject.Shipped() {
			for _, mode := range []inject.Mode{inject.ModeInit, inject.ModeCNI} {
				for _, minor := range []int{0, 28} {
					t.Run(fmt.Sprintf("%s/%s/%s/%d", name, profile, mode, minor), func(t *testing.T) {
						p, err := inject.ParseProfile(profile, []byte(inject.ShippedText(profile)))
						if err != nil {
							t.Fatal(err)
						}
						p.Mode = mode
						m, err := inject.Read(name, []byte(text), p, inject.Cluster{Minor: minor})
						if err != nil {
							t.Fatal(err)
						}
						documents, err := m.JSON()
						if err != nil {
							t.Fatal(err)
						}
						for _, d := range documents {
							if strings.Contains(string(d), "example.com/v1") {
								continue
							}
							object, _, err := codecs.UniversalDeserializer().Decode(d, nil, nil)
							if err != nil {
								t.Fatalf("%v: %s", err, d)
							}
							list, ok := object.(*v1.List)
							if !ok {
								check(t, mode, object)
								continue
							}
							for _, item := range list.Items {
								object, _, err := codecs.UniversalDeserializer().Decode(item.Raw, nil, nil)
								if err != nil {
									t.Fatalf("%v: %s", err, item.Raw)
								}
								check(t, mode, object)
							}
						}
					})
				}
			}
		}
	}
}

// podOf is the pod that an object has, or makes.
func podOf(object runtime.Object) *v1.Pod {
	var t v1.PodTemplateSpec
	switch o := object.(type) {
	case *v1.Pod:
		return o
	case *v1.ReplicationController:
		t = *o.Spec.Template
	case *apps.Deployment:
		t = o.Spec.Template
	case *apps.StatefulSet:
		t = o.Spec.Template
	case *apps.DaemonSet:
		t = o.Spec.Template
	case *apps.ReplicaSet:
		t = o.Spec.Template
	case *batch.Job:
		t = o.Spec.Template
	case *batch.CronJob:
		t = o.Spec.JobTemplate.Spec.Template
	default:
		return nil
	}
	pod := v1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	pod.Name = "x"
	if set, ok := object.(*apps.StatefulSet); ok { // the volumes that its controller adds
		for _, c := range set.Spec.VolumeClaimTemplates {
			pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: c.Name, VolumeSource: v1.VolumeSource{
				PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name},
			}})
		}
	}
	return &pod
}

// TestValid: the API server takes what inject writes: no field is unknown to it, and
// its own validation finds nothing.
func TestValid(t *testing.T) {
	seen := 0
	each(t, func(t *testing.T, _ inject.Mode, object runtime.Object) {
		pod := podOf(object)
		if pod == nil {
			return
		}
		seen++
		pod.Namespace = "default"
		legacyscheme.Scheme.Default(pod)
		var internal core.Pod
		if err := legacyscheme.Scheme.Convert(pod, &internal, nil); err != nil {
			t.Fatal(err)
		}
		options := podutil.GetValidationOptionsFromPodSpecAndMeta(&internal.Spec, nil, &internal.ObjectMeta, nil)
		for _, err := range validation.ValidatePodCreate(&internal, options) {
			t.Error(err)
		}
	})
	if seen < 100 {
		t.Errorf("%d pods", seen)
	}
}

// TestDefaults: the API server sets no field of what was added, so nothing reads as
// drift.
func TestDefaults(t *testing.T) {
	each(t, func(t *testing.T, _ inject.Mode, object runtime.Object) {
		pod := podOf(object)
		if pod == nil {
			return
		}
		full := pod.DeepCopy()
		legacyscheme.Scheme.Default(full)
		ours := []string{"mesh-init", "haproxy", "dnsmasq", "envoy", "mesh-probe", "mesh-files"}
		compare := func(name string, was, is any) {
			if !slices.Contains(ours, name) {
				return
			}
			if diff := cmp.Diff(asYAML(t, was), asYAML(t, is)); diff != "" {
				t.Errorf("%s: what was written (-) becomes (+):\n%s", name, diff)
			}
		}
		for i, c := range pod.Spec.InitContainers {
			compare(c.Name, c, full.Spec.InitContainers[i])
		}
		for i, c := range pod.Spec.Containers {
			compare(c.Name, c, full.Spec.Containers[i])
		}
		for i, v := range pod.Spec.Volumes {
			compare(v.Name, v, full.Spec.Volumes[i])
		}
	})
}

func asYAML(t *testing.T, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPodSecurity: in mode cni what was added is admitted where Pod Security is
// restricted; in mode init it is not, which is why inject refuses that.
func TestPodSecurity(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, mode inject.Mode, object runtime.Object) {
		pod := podOf(object)
		if pod == nil {
			return
		}
		var apps []string
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list { // the apps themselves are as they should be
				if c := &list[i]; !slices.Contains([]string{"mesh-init", "haproxy", "dnsmasq", "envoy", "mesh-probe"}, c.Name) {
					yes, no := true, false
					c.SecurityContext = &v1.SecurityContext{
						RunAsNonRoot: &yes, AllowPrivilegeEscalation: &no,
						Capabilities:   &v1.Capabilities{Drop: []v1.Capability{"ALL"}},
						SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault},
					}
					apps = append(apps, c.Name)
				}
			}
		}
		if len(apps) == 0 {
			t.Fatal("no app")
		}
		for _, level := range []api.Level{api.LevelBaseline, api.LevelRestricted} {
			allowed := true
			for _, r := range evaluator.EvaluatePod(api.LevelVersion{Level: level, Version: api.LatestVersion()},
				&pod.ObjectMeta, &pod.Spec) {
				if !r.Allowed {
					allowed = false
					if mode == inject.ModeCNI {
						t.Errorf("%s: %s: %s", level, r.ForbiddenReason, r.ForbiddenDetail)
					}
				}
			}
			if allowed && mode == inject.ModeInit {
				t.Errorf("%s admits an init container with NET_ADMIN, and inject refuses it", level)
			}
		}
	})
}

// TestScalars: the program reads what stands in YAML as Kubernetes does.
func TestScalars(t *testing.T) {
	p, err := inject.ParseProfile("haproxy", []byte(inject.ShippedText("haproxy")))
	if err != nil {
		t.Fatal(err)
	}
	for _, scalar := range []string{"true", "True", "TRUE", "tRue", "yes", "Yes", "YES", "yEs", "y", "Y", "on", "On", "ON", "no",
		"No", "n", "N", "off", "Off", "OFF", "'yes'", `"on"`, "!!str yes", "!!bool yes", "!!bool 'no'", "~", "null", "Null", "",
		"2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01 10:00:00", "!!timestamp 2026-01-01", "1e3", "12e4567", "0x1F", "0o17",
		"017", "0644", "1_000", "0b11", "1.5", ".5", "+1", "1:30", "=", "<", "a?b"} {
		for _, text := range []string{"kind: X\nv: " + scalar + "\nl:\n- " + scalar + "\n", "{kind: X, v: " + scalar + ", l: [" + scalar + "]}"} {
			want, err := yaml.YAMLToJSON([]byte(text))
			m, err2 := inject.Read("x.yaml", []byte(text), p, inject.Cluster{})
			if err != nil || err2 != nil {
				if (err == nil) != (err2 == nil) {
					t.Errorf("%q: %v, and in Kubernetes %v", text, err2, err)
				}
				continue
			}
			got, err := m.JSON()
			if err != nil || len(got) != 1 {
				t.Errorf("%q: %v", text, err)
				continue
			}
			if same, err := yaml.YAMLToJSON(got[0]); err != nil || string(same) != string(want) {
				t.Errorf("%q is %s, and in Kubernetes %s", text, got[0], want)
			}
		}
	}
}
