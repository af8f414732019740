package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// ask sends a pod to the webhook, as the API server does.
func ask(t *testing.T, pod string) response {
	t.Helper()
	profile, err := inject.ParseProfile("haproxy", []byte(inject.ShippedText("haproxy")))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler(profile))
	defer server.Close()
	in, err := json.Marshal(review{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview",
		Request: &request{UID: "42", Object: json.RawMessage(pod)}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Post(server.URL, "application/json", bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var out review
	if err := json.NewDecoder(answer.Body).Decode(&out); err != nil {
		t.Fatalf("%s: %v", answer.Status, err)
	}
	if out.APIVersion != "admission.k8s.io/v1" || out.Kind != "AdmissionReview" || out.Response == nil ||
		out.Response.UID != "42" {
		t.Fatalf("it is no answer to the request: %+v", out)
	}
	return *out.Response
}

const web = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"ANNOTATIONS},
	"spec": {"containers": [{"name": "web", "image": "web:1"}]}}`

func pod(annotations string) string {
	if annotations != "" {
		annotations = `, "annotations": {` + annotations + `}`
	}
	return strings.Replace(web, "ANNOTATIONS", annotations, 1)
}

// TestInjected: a pod gets the profile's containers, mesh-init before the sidecar.
func TestInjected(t *testing.T) {
	got := ask(t, pod(""))
	if !got.Allowed || got.PatchType != "JSONPatch" {
		t.Fatalf("%+v", got)
	}
	var operations []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if err := json.Unmarshal(got.Patch, &operations); err != nil {
		t.Fatal(err)
	}
	for _, o := range operations {
		if o.Path != "/spec/initContainers" {
			continue
		}
		var containers []struct{ Name, RestartPolicy string }
		if err := json.Unmarshal(o.Value, &containers); err != nil {
			t.Fatal(err)
		}
		if len(containers) != 2 || containers[0].Name != "mesh-init" || containers[0].RestartPolicy != "" ||
			containers[1].Name != "haproxy" || containers[1].RestartPolicy != "Always" {
			t.Errorf("the pod gets %+v", containers)
		}
		return
	}
	t.Errorf("no container is added: %s", got.Patch)
}

// TestLeftAlone: a pod that wants none gets none.
func TestLeftAlone(t *testing.T) {
	if got := ask(t, pod(`"intercept.mesh/inject": "false"`)); !got.Allowed || len(got.Patch) > 0 {
		t.Errorf("%+v", got)
	}
}

// TestMistake: a pod with a mistake in an annotation is refused, and the message names it.
func TestMistake(t *testing.T) {
	got := ask(t, pod(`"intercept.mesh/outbound-exclude-ports": "80-70"`))
	if got.Allowed || len(got.Patch) > 0 || got.Status == nil || !strings.Contains(got.Status.Message, "80-70") {
		t.Errorf("%+v", got)
	}
}

// TestNoReview: what is no request of the API server's is no reason to fall over.
func TestNoReview(t *testing.T) {
	for _, body := range []string{"", "{}", "null", `{"request": 7}`, "pods"} {
		answer := httptest.NewRecorder()
		handler(inject.Profile{}).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		if answer.Code != http.StatusBadRequest {
			t.Errorf("%q: %d", body, answer.Code)
		}
	}
}
