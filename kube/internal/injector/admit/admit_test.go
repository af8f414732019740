package admit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	runtimelog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
)

func TestMain(m *testing.M) {
	runtimelog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

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

func create(object []byte) admission.Request {
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{Operation: admissionv1.Create, Namespace: "demo",
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Object: runtime.RawExtension{Raw: object}}}
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
	return append(all, []byte(large()))
}

// large is a pod as charts make them: four containers with probes, env and volumes.
func large() string {
	container := `{"name":"NAME","image":"registry.example/app:1","ports":[{"name":"p-NAME","containerPort":PORT}],"env":[` +
		strings.Repeat(`{"name":"SOME_VARIABLE","value":"and a value that takes some room"},`, 20) +
		`{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}}],"resources":{"limits":{"memory":"1Gi"}},` +
		`"readinessProbe":{"httpGet":{"port":"p-NAME","path":"/ready"}},"livenessProbe":{"tcpSocket":{"port":PORT}},` +
		`"volumeMounts":[{"name":"data","mountPath":"/data"}]}`
	var all []string
	for name, port := range map[string]string{"a": "8080", "b": "8081", "c": "8082", "d": "8083"} {
		all = append(all, strings.NewReplacer("NAME", name, "PORT", port).Replace(container))
	}
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-","labels":{"app":"web"},"ownerReferences":[{` +
		`"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u","controller":true}]},"spec":{"containers":[` +
		strings.Join(all, ",") + `],"volumes":[{"name":"data","emptyDir":{}}]}}`
}

// FuzzPod: whatever is sent, the webhook does not panic; what it does not inject it does
// not touch; and a pod that it has injected it leaves as it is.
func FuzzPod(f *testing.F) {
	for _, p := range pods(f) {
		f.Add(p, "")
		f.Add(p, "restricted")
	}
	f.Add([]byte(`{"spec":{"containers":[{"name":"a"}]},"metadata":{"annotations":{"intercept.mesh/injected":"{}"}}}`), "")
	f.Fuzz(func(t *testing.T, object []byte, level string) {
		s := settings(t, map[string]string{"pod-security.kubernetes.io/enforce": level})
		r := s.Pods().Handle(t.Context(), create(object))
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
		again := s.Pods().Handle(t.Context(), create(after))
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

// BenchmarkPods is the real handler, from the request's bytes to those of the answer.
func BenchmarkPods(b *testing.B) {
	hook := &admission.Webhook{Handler: settings(b, nil).Pods()}
	request := create([]byte(large())).AdmissionRequest
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request:  &request})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/inject", bytes.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			hook.ServeHTTP(w, r)
			if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte(`"patch":`)) {
				b.Fatalf("status %d: %.300s", w.Code, w.Body)
			}
		}
	})
}
