package admit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
)

// settings are those of a cluster with one namespace, which enforces Pod Security or not.
func settings(tb testing.TB, labels map[string]string) admit.Settings {
	tb.Helper()
	store, err := profiles.New()
	if err != nil {
		tb.Fatal(err)
	}
	return admit.Settings{Profiles: store, Default: "haproxy", Minor: func() int { return 0 },
		Labels: func(context.Context, string) (map[string]string, error) { return labels, nil },
		Report: func(context.Context, admit.Outcome) {}}
}

func create(object []byte) *admissionv1.AdmissionRequest {
	return &admissionv1.AdmissionRequest{Operation: admissionv1.Create, Namespace: "demo",
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Object: runtime.RawExtension{Raw: object}}
}

// pods are the pods of the library's own manifests, as JSON.
func pods(tb testing.TB) [][]byte {
	tb.Helper()
	files, err := filepath.Glob("../../../../podspec/inject/testdata/kinds/*")
	if err != nil || len(files) == 0 {
		tb.Fatal(files, err)
	}
	var all [][]byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
			object, err := yaml.YAMLToJSON(part)
			var kind struct{ Kind string }
			if err == nil && json.Unmarshal(object, &kind) == nil && kind.Kind == "Pod" {
				all = append(all, object)
			}
		}
	}
	return all
}

// FuzzPod: whatever is sent, the webhook does not panic; what it does not inject it does
// not touch; and a pod that it has injected it leaves as it is.
func FuzzPod(f *testing.F) {
	for _, p := range pods(f) {
		f.Add(p, "")
		f.Add(p, "restricted")
	}
	f.Add([]byte(`{"spec":{"containers":[{"name":"a"}]},"metadata":{"annotations":{"intercept.mesh/injected":"{}"}}}`), "")
	webhook := settings(f, nil)
	f.Fuzz(func(t *testing.T, object []byte, level string) {
		s := webhook
		s.Labels = func(context.Context, string) (map[string]string, error) {
			return map[string]string{"pod-security.kubernetes.io/enforce": level}, nil
		}
		r := s.Pods()(t.Context(), create(object))
		if !r.Allowed {
			if len(r.Patch) > 0 || r.Result.Message == "" {
				t.Fatalf("refused with a patch, or without a reason: %+v", r)
			}
			return
		}
		if len(r.Patch) == 0 {
			return
		}
		after := apply(t, object, r.Patch)
		again := s.Pods()(t.Context(), create(after))
		if !again.Allowed || len(again.Patch) > 0 {
			t.Fatalf("a second time: %v %v: %s", again.Allowed, again.Result, again.Patch)
		}
	})
}

func apply(tb testing.TB, object, patch []byte) []byte {
	tb.Helper()
	steps, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		tb.Fatal(err)
	}
	after, err := steps.Apply(object)
	if err != nil {
		tb.Fatalf("%v: %s", err, patch)
	}
	return after
}
