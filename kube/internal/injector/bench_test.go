package injector

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
)

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

// BenchmarkPods is the real handler, from the request's bytes to those of the answer.
func BenchmarkPods(b *testing.B) {
	store, err := profiles.New()
	if err != nil {
		b.Fatal(err)
	}
	asked := hook(admit.Settings{Profiles: store, Default: "haproxy", Minor: func() int { return 0 },
		Labels: func(context.Context, string) (map[string]string, error) { return nil, nil },
		Report: func(context.Context, admit.Outcome) {}}.Pods())
	body := request("pods", "demo", large())
	b.SetBytes(int64(len(body)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/inject", strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			asked.ServeHTTP(w, r)
			if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte(`"patch":`)) {
				b.Fatalf("status %d: %.300s", w.Code, w.Body)
			}
		}
	})
}
