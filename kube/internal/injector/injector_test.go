package injector

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	admissionreg "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	runtimelog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/kube/internal/injector/certs"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

func TestMain(m *testing.M) {
	runtimelog.SetLogger(logr.Discard())
	log.SetOutput(io.Discard) // of net/http, about those who trust no certificate
	os.Exit(m.Run())
}

const (
	configs    = "/apis/admissionregistration.k8s.io/v1/"
	mutating   = configs + "mutatingwebhookconfigurations"
	validating = configs + "validatingwebhookconfigurations"
	secrets    = "/api/v1/namespaces/mesh-injector/secrets"
	maps       = "/api/v1/namespaces/mesh-injector/configmaps"
	namespaces = "/api/v1/namespaces"
)

// mesh is an injector beside an API server.
type mesh struct {
	*testing.T
	api      *kubeapi.Server
	settings Settings
	log      *lockedBuffer
	drained  func(time.Duration) <-chan time.Time // nil: by the clock
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// manifests are the objects of deploy/mesh-injector.yaml, by kind.
func manifests(t *testing.T) map[string]map[string]any {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/mesh-injector.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]any{}
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var o map[string]any
		if err := yaml.Unmarshal(part, &o); err != nil {
			t.Fatal(err)
		}
		all[o["kind"].(string)] = o
	}
	return all
}

// freePort is one that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newMesh starts an API server with the objects of deploy/, and no injector yet.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{T: t, api: kubeapi.New(t, kubeapi.Options{Objects: true}), log: &lockedBuffer{}}
	all := manifests(t)
	m.api.Apply(mutating, all["MutatingWebhookConfiguration"])
	m.api.Apply(validating, all["ValidatingWebhookConfiguration"])
	m.namespace("mesh-injector", nil)
	m.namespace("demo", map[string]any{"intercept.mesh/inject": "enabled"})
	m.settings = Settings{
		API: &rest.Config{Host: m.api.URL, BearerTokenFile: m.api.TokenFile, QPS: -1,
			TLSClientConfig: rest.TLSClientConfig{CAFile: m.api.CAFile},
			ContentConfig:   rest.ContentConfig{ContentType: runtime.ContentTypeJSON}},
		Namespace: "mesh-injector", Name: "mesh-injector", CertSecret: "mesh-injector-certs", Profile: "haproxy",
		Webhook: freePort(t), Listen: freePort(t), Every: time.Second, Lease: 3 * time.Second,
	}
	return m
}

func (m *mesh) namespace(name string, labels map[string]any) {
	m.api.Apply(namespaces, map[string]any{"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name, "labels": labels}})
}

// start starts an injector. It returns what ends it.
func (m *mesh) start() (stop func()) {
	m.Helper()
	ctx, cancel := context.WithCancel(m.Context())
	ended := make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(m.log, nil))
	after := m.drained
	if after == nil {
		after = time.After
	}
	go func() { ended <- run(ctx, m.settings, log, after) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.Errorf("the injector: %v", err)
		}
	})
	m.Cleanup(func() {
		stop()
		if m.Failed() {
			m.Log(m.log.String())
		}
	})
	return stop
}

// await waits for something.
func (m *mesh) await(what string, is func() bool) {
	m.Helper()
	deadline := time.After(time.Minute)
	for !is() {
		select {
		case <-deadline:
			m.Fatalf("waited in vain for %s\n%s", what, m.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *mesh) ready() {
	m.Helper()
	m.await("the injector", func() bool {
		_, err := m.get("/readyz")
		return err == nil
	})
	m.await("the CA bundle", func() bool { return len(m.bundle(mutating)) > 0 && len(m.bundle(validating)) > 0 })
}

// get asks for health or metrics.
func (m *mesh) get(path string) (string, error) {
	r, err := http.Get("http://" + m.settings.Listen + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK {
		return string(text), fmt.Errorf("%s: %s", r.Status, text)
	}
	return string(text), err
}

func (m *mesh) metric(want string) {
	m.Helper()
	m.await(want, func() bool {
		text, err := m.get("/metrics")
		return err == nil && strings.Contains("\n"+text, "\n"+want+"\n")
	})
}

// bundle is what API servers trust: that of the first webhook.
func (m *mesh) bundle(list string) []byte {
	o := m.api.Object(list + "/mesh-injector")
	var c admissionreg.MutatingWebhookConfiguration
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &c); err != nil {
		m.Fatal(err)
	}
	for _, w := range c.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, c.Webhooks[0].ClientConfig.CABundle) {
			return nil
		}
	}
	return c.Webhooks[0].ClientConfig.CABundle
}

// post sends the webhook a body, as an API server does that trusts a bundle.
func (m *mesh) post(path string, bundle []byte, body string) (int, []byte, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots,
		ServerName: "mesh-injector.mesh-injector.svc"}}
	defer transport.CloseIdleConnections()
	r, err := (&http.Client{Transport: transport}).Post("https://"+m.settings.Webhook+path, "application/json",
		strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, text, err
}

// request is one about an object that is written.
func request(resource, namespace, object string, edits ...func(*admissionv1.AdmissionRequest)) string {
	r := &admissionv1.AdmissionRequest{UID: "1", Operation: admissionv1.Create, Namespace: namespace,
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: resource}, Object: runtime.RawExtension{Raw: []byte(object)}}
	var named struct{ Metadata struct{ Name string } }
	_ = json.Unmarshal([]byte(object), &named)
	r.Name = named.Metadata.Name
	for _, edit := range edits {
		edit(r)
	}
	text, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: r})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// ask asks the webhook.
func (m *mesh) ask(path, body string) *admissionv1.AdmissionResponse {
	m.Helper()
	status, text, err := m.post(path, m.bundle(mutating), body)
	var review admissionv1.AdmissionReview
	if err == nil {
		err = json.Unmarshal(text, &review)
	}
	if err != nil || status != http.StatusOK || review.Response == nil {
		m.Fatalf("%v: status %d: %.300s\n%s", err, status, text, m.log)
	}
	return review.Response
}

// pod is a pod of a Deployment's ReplicaSet.
func pod(annotations string, more ...string) string {
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-1-","labels":{"app":"web"},"annotations":{` +
		annotations + `},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u1",` +
		`"controller":true}]},"spec":{` + strings.Join(append(more, ""), ",") + `"containers":[{"name":"web","image":"web:1",` +
		`"ports":[{"name":"http","containerPort":8080}],"readinessProbe":{"httpGet":{"port":"http"}}}]}}`
}

// patched is an object after an answer's patch.
func patched(t *testing.T, object string, r *admissionv1.AdmissionResponse) *corev1.Pod {
	t.Helper()
	if !r.Allowed || r.PatchType == nil || *r.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Fatalf("%+v", r)
	}
	patch, err := jsonpatch.DecodePatch(r.Patch)
	if err != nil {
		t.Fatal(err)
	}
	text, err := patch.Apply([]byte(object))
	if err != nil {
		t.Fatal(err)
	}
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(text, p); err != nil {
		t.Fatal(err)
	}
	return p
}

func names(list []corev1.Container) string {
	var all []string
	for _, c := range list {
		all = append(all, c.Name)
	}
	return strings.Join(all, " ")
}

// event waits for an event, and returns it.
func (m *mesh) event(reason, about string) (e *eventsv1.Event) {
	m.Helper()
	m.await("the event "+reason+" of "+about, func() bool {
		for _, e = range m.api.Events() {
			if e.Reason == reason && e.Regarding.Kind+"/"+e.Regarding.Name == about {
				return true
			}
		}
		return false
	})
	return e
}

func TestPods(t *testing.T) {
	m := newMesh(t)
	m.api.Apply("/apis/apps/v1/namespaces/demo/replicasets", map[string]any{"apiVersion": "apps/v1", "kind": "ReplicaSet",
		"metadata": map[string]any{"name": "web-1", "ownerReferences": []any{map[string]any{"apiVersion": "apps/v1",
			"kind": "Deployment", "name": "web", "uid": "d1", "controller": true}}}})
	m.namespace("guarded", map[string]any{"intercept.mesh/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted",
		"intercept.mesh/profile": "envoy"})
	m.start()
	m.ready()

	// Injected, by init container; a second time changes nothing.
	object := pod("")
	p := patched(t, object, m.ask(PathPods, request("pods", "demo", object)))
	if got := names(p.Spec.InitContainers); got != "mesh-init haproxy mesh-probe" {
		t.Error(got)
	}
	if got := p.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.String(); got != "15020" {
		t.Errorf("readiness is asked at %s", got)
	}
	again, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if r := m.ask(PathPods, request("pods", "demo", string(again))); !r.Allowed || len(r.Patch) > 0 {
		t.Errorf("a second time: %+v", r)
	}
	// Another webhook has added a container: its probe is the relay's, too.
	p.Spec.Containers = append(p.Spec.Containers, *p.Spec.Containers[0].DeepCopy())
	other := &p.Spec.Containers[1]
	other.Name, other.Ports = "other", nil
	other.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}}
	other.ReadinessProbe.TCPSocket.Port.IntVal = 9090
	if again, err = json.Marshal(p); err != nil {
		t.Fatal(err)
	}
	p = patched(t, string(again), m.ask(PathPods, request("pods", "demo", string(again))))
	if got := p.Spec.Containers[1].ReadinessProbe.HTTPGet; got == nil || got.Path != "/probe/other/readiness" {
		t.Errorf("%+v", got)
	}

	// By the node where Pod Security admits no init container, with the namespace's profile; by the pod's.
	p = patched(t, object, m.ask(PathPods, request("pods", "guarded", object)))
	if got := names(p.Spec.InitContainers); got != "envoy mesh-probe" || p.Annotations["intercept.mesh/enabled"] != "true" {
		t.Error(got, p.Annotations)
	}
	object = pod(`"intercept.mesh/profile":"haproxy-dns"`)
	p = patched(t, object, m.ask(PathPods, request("pods", "guarded", object)))
	if got := names(p.Spec.InitContainers); got != "dnsmasq haproxy mesh-probe" {
		t.Error(got)
	}

	// Left alone, and kubectl describe says why.
	r := m.ask(PathPods, request("pods", "demo", pod(`"intercept.mesh/enabled":"false"`)))
	if !r.Allowed || len(r.Patch) > 0 {
		t.Errorf("%+v", r)
	}
	if e := m.event("SidecarSkipped", "Deployment/web"); e.Note !=
		"Its pod has no sidecar: its annotation intercept.mesh/enabled is false" || e.Namespace != "demo" || e.Type != "Normal" {
		t.Errorf("%+v", e)
	}
	for _, ns := range []string{"kube-system", "mesh-injector"} {
		if r := m.ask(PathPods, request("pods", ns, pod(""))); !r.Allowed || len(r.Patch) > 0 {
			t.Errorf("%s: %+v", ns, r)
		}
	}

	// Refused, and so does it.
	says := "annotation intercept.mesh/outbound-exclude-port: unknown annotation; did you mean outbound-exclude-ports?"
	bad := pod(`"intercept.mesh/outbound-exclude-port":"80"`)
	dry := func(r *admissionv1.AdmissionRequest) { r.DryRun = new(bool); *r.DryRun = true }
	for _, body := range []string{request("pods", "demo", strings.ReplaceAll(bad, `"web-1"`, `"dry-1"`), dry),
		request("pods", "demo", bad)} {
		r := m.ask(PathPods, body)
		if r.Allowed || len(r.Patch) > 0 || r.Result.Message != says {
			t.Errorf("%+v", r)
		}
	}
	if e := m.event("SidecarRefused", "Deployment/web"); e.Note != "Its pod was refused: "+says || e.Type != "Warning" {
		t.Errorf("%+v", e)
	}
	if r := m.ask(PathPods, request("pods", "demo", pod(`"intercept.mesh/profile":"hapoxy"`))); r.Allowed ||
		r.Result.Message != `profile "hapoxy": there is no such profile; there are: envoy, haproxy, haproxy-dns` {
		t.Errorf("%+v", r)
	}
	if r := m.ask(PathPods, request("pods", "gone", pod(""))); r.Allowed || !strings.Contains(r.Result.Message,
		"labels of namespace gone are not known") {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{
		`mesh_injector_requests_total{reason="",result="injected",webhook="pods"} 5`,
		`mesh_injector_requests_total{reason="disabled",result="skipped",webhook="pods"} 1`,
		`mesh_injector_requests_total{reason="excluded",result="skipped",webhook="pods"} 2`,
		`mesh_injector_requests_total{reason="pod",result="refused",webhook="pods"} 2`,
		`mesh_injector_requests_total{reason="profile",result="refused",webhook="pods"} 1`,
		`mesh_injector_requests_total{reason="cluster",result="refused",webhook="pods"} 1`,
		`mesh_injector_request_seconds_count{webhook="pods"} 12`,
		`mesh_injector_ready 1`,
	} {
		m.metric(want)
	}
	for _, e := range m.api.Events() {
		if e.Regarding.Name == "dry-1" {
			t.Errorf("a dry run has an event: %+v", e)
		}
	}
}

// TestHostile: a request that nobody should send is refused, and the next is answered.
func TestHostile(t *testing.T) {
	m := newMesh(t)
	m.start()
	m.ready()
	deep := strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	for name, c := range map[string]struct{ object, says string }{
		"3 MiB":       {pod(`"a":"` + strings.Repeat("x", 3<<20) + `"`), "bytes, and may have 2097152"},
		"deep":        {deep, "nested too deep"},
		"duplicate":   {`{"spec":{},"spec":{}}`, "spec: "},
		"no object":   {`[]`, "no JSON object"},
		"null":        {`null`, ""},
		"no spec":     {`{}`, "spec.containers: none"},
		"wrong kinds": {`{"spec":{"containers":"x"}}`, "spec.containers: "},
		"null fields": {`{"metadata":null,"spec":{"containers":[null]}}`, "spec.containers[0]"},
	} {
		r := m.ask(PathPods, request("pods", "demo", c.object))
		if r.Allowed || len(r.Patch) > 0 || !strings.Contains(r.Result.Message, c.says) {
			t.Errorf("%s: %.300s", name, fmt.Sprintf("%+v", r))
		}
	}
	for name, body := range map[string]string{"not JSON": "pod: web", "empty": "", "cut off": request("pods", "demo", pod(""))[:200],
		"no request":   `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`,
		"null request": `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`,
		"no review":    "{}",
		"deep":         deep} {
		status, text, err := m.post(PathPods, m.bundle(mutating), body)
		var review admissionv1.AdmissionReview
		if err != nil || json.Unmarshal(text, &review) != nil || review.Response == nil || review.Response.Allowed ||
			len(review.Response.Patch) > 0 {
			t.Errorf("%s: %v: status %d: %.300s", name, err, status, text)
		}
	}
	if status, _, err := m.post(PathPods, m.bundle(mutating), strings.Repeat(" ", 5<<20)); err == nil &&
		status != http.StatusRequestEntityTooLarge {
		t.Errorf("5 MiB: status %d, %v", status, err)
	}
	object := pod("")
	patched(t, object, m.ask(PathPods, request("pods", "demo", object)))
	if text, err := m.get("/metrics"); err != nil || !strings.Contains(text, "controller_runtime_webhook_panics_total 0") {
		t.Error(err, "a request made the webhook panic")
	}
}

// TestDrain: once it is to end it is not ready, and answers all the same until API servers have had time to notice.
func TestDrain(t *testing.T) {
	m := newMesh(t)
	asked, over := make(chan time.Duration, 1), make(chan time.Time)
	m.settings.Drain = 7 * time.Second
	m.drained = func(d time.Duration) <-chan time.Time {
		asked <- d
		return over
	}
	stop := m.start()
	m.ready()
	bundle := m.bundle(mutating)
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	if d := <-asked; d != m.settings.Drain {
		t.Error(d)
	}
	if text, err := m.get("/readyz"); err == nil || !strings.Contains(text, "it is ending") {
		t.Errorf("%q, %v", text, err)
	}
	for range 3 { // on new connections
		if status, text, err := m.post(PathPods, bundle, request("pods", "demo", pod(""))); err != nil ||
			!strings.Contains(string(text), `"patch":`) {
			t.Errorf("status %d, %v: %.300s", status, err, text)
		}
	}
	close(over)
	<-stopped
	if _, _, err := m.post(PathPods, bundle, "{}"); err == nil {
		t.Error("it answers for ever")
	}
}

// TestNoProfile: an injector that would refuse all pods is not ready, and says why; pods that get no sidecar whatever
// the profile are not refused for it.
func TestNoProfile(t *testing.T) {
	m := newMesh(t)
	m.settings.Profile = "nope"
	m.start()
	says := `--profile: profile "nope": there is no such profile; there are: envoy, haproxy, haproxy-dns`
	m.await("the certificate", func() bool {
		text, _ := m.get("/readyz")
		return text == says+"\n"
	})
	m.metric("mesh_injector_ready 0")
	if !strings.Contains(m.log.String(), "pods that name no profile are refused") {
		t.Error(m.log)
	}
	m.await("the CA bundle", func() bool { return len(m.bundle(mutating)) > 0 })
	for more, by := range map[string]string{`"hostNetwork":true`: "host-network", `"os":{"name":"windows"}`: "windows"} {
		if r := m.ask(PathPods, request("pods", "demo", pod("", more))); !r.Allowed || len(r.Patch) > 0 {
			t.Errorf("%s: %+v", more, r)
		}
		m.metric(`mesh_injector_requests_total{reason="` + by + `",result="skipped",webhook="pods"} 1`)
	}
	if r := m.ask(PathPods, request("pods", "demo", pod(`"intercept.mesh/inject":"false"`))); !r.Allowed {
		t.Errorf("%+v", r)
	}
	if r := m.ask(PathPods, request("pods", "demo", pod(""))); r.Allowed || !strings.Contains(r.Result.Message, "no such profile") {
		t.Errorf("%+v", r)
	}
	m.api.Apply(maps, map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "nope",
		"namespace": "mesh-injector", "labels": map[string]any{"intercept.mesh/profile": "true"}},
		"data": map[string]any{"profile.yaml": inject.ShippedText("envoy")}})
	m.ready()
	m.api.Remove(maps + "/nope") // later it is ready, for those who name another
	m.await("its end", func() bool { return strings.Count(m.log.String(), "pods that name no profile are refused") == 2 })
	m.metric("mesh_injector_ready 1")
}

// TestValidating: what is wrong is refused when it is written, and not what has been there.
func TestValidating(t *testing.T) {
	m := newMesh(t)
	m.start()
	m.ready()
	deployment := func(annotation string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"template":{"metadata":` +
			`{"annotations":{` + annotation + `}},"spec":{"containers":[{"name":"web","image":"web:1"}]}}}}`
	}
	good, bad := deployment(""), deployment(`"intercept.mesh/outbound-exclude-port":"80"`)
	update := func(old string) func(*admissionv1.AdmissionRequest) {
		return func(r *admissionv1.AdmissionRequest) {
			r.Operation, r.OldObject = admissionv1.Update, runtime.RawExtension{Raw: []byte(old)}
		}
	}
	cron := `{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"c"},"spec":{"jobTemplate":{"spec":{"template":` +
		`{"spec":{"containers":[{"name":"a","image":"a:1","securityContext":{"runAsUser":1337}}]}}}}}}`
	profile := func(text string) string {
		o, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "mine",
			"labels": map[string]any{"intercept.mesh/profile": "true"}}, "data": map[string]any{"profile.yaml": text}})
		if err != nil {
			t.Fatal(err)
		}
		return string(o)
	}
	for _, c := range []struct{ name, path, body, says string }{
		{"good", PathWorkloads, request("deployments", "demo", good), ""},
		{"misspelt", PathWorkloads, request("deployments", "demo", bad), "did you mean outbound-exclude-ports?"},
		{"good becomes misspelt", PathWorkloads, request("deployments", "demo", bad, update(good)), "did you mean"},
		{"misspelt, as before", PathWorkloads, request("deployments", "demo", bad, update(bad)), ""},
		{"as the proxy", PathWorkloads, request("cronjobs", "demo", cron), "container a: it runs as the proxy"},
		{"less than is requested", PathWorkloads, request("deployments", "demo", deployment(
			`"intercept.mesh/sidecar-resources":"{\"haproxy\":{\"limits\":{\"memory\":\"1Mi\"}}}"`)),
			"haproxy.requests.memory: 64Mi is more than the limit, 1Mi"},
		{"no pods", PathWorkloads, request("services", "demo", `{"apiVersion":"v1","kind":"Service"}`), ""},
		{"no object", PathWorkloads, request("deployments", "demo", `{"spec":{},"spec":{}}`), "cannot be read"},
		{"profile", PathProfiles, request("configmaps", "mesh-injector", profile(inject.ShippedText("envoy"))), ""},
		{"bad profile", PathProfiles, request("configmaps", "mesh-injector", profile("mode: ini\nsidecar: []")),
			"sidecar: unknown field; did you mean sidecars? (from profile.yaml, line 2)"},
		{"a profile that Kubernetes would refuse in each pod", PathProfiles, request("configmaps", "mesh-injector", profile(
			strings.Replace(inject.ShippedText("haproxy"), "memory: 256Mi", "memory: 25Mi", 1))),
			"sidecars[0].resources.requests.memory: 64Mi is more than the limit, 25Mi; give both (from profile.yaml, line 26)"},
		{"other map", PathProfiles, request("configmaps", "mesh-injector", `{"metadata":{"name":"x"}}`), ""},
		{"no map", PathProfiles, request("configmaps", "mesh-injector", `{"data":[]}`), "cannot be read"},
	} {
		r := m.ask(c.path, c.body)
		if r.Allowed != (c.says == "") || !strings.Contains(r.Result.Message, c.says) || len(r.Patch) > 0 {
			t.Errorf("%s: %v %q", c.name, r.Allowed, r.Result.Message)
		}
	}
}

// TestProfiles: a profile changes without a restart; a bad one does not take its place.
func TestProfiles(t *testing.T) {
	m := newMesh(t)
	put := func(text string) {
		m.api.Apply(maps, map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "mine",
			"namespace": "mesh-injector", "labels": map[string]any{"intercept.mesh/profile": "true"}},
			"data": map[string]any{"profile.yaml": text}})
	}
	object := pod(`"intercept.mesh/profile":"mine"`)
	image := func() string {
		r := m.ask(PathPods, request("pods", "demo", object))
		if !r.Allowed {
			return r.Result.Message
		}
		p := patched(t, object, r)
		return p.Spec.InitContainers[1].Image
	}
	text := inject.ShippedText("haproxy")
	first, second := strings.Replace(text, "haproxy:3.2", "haproxy:first", 1), strings.Replace(text, "haproxy:3.2", "haproxy:second", 1)
	put(first)
	m.settings.Minor = 29
	m.start()
	m.ready()
	if got := image(); got != "docker.io/library/haproxy:first" { // once it is ready it has read them
		t.Fatal(got)
	}
	m.event("ProfileTaken", "ConfigMap/mine")
	put(second)
	m.await("the second", func() bool { return strings.HasSuffix(image(), ":second") })
	put(strings.Replace(second, "sidecars:", "sidcars:", 1))
	if e := m.event("ProfileRefused", "ConfigMap/mine"); !strings.Contains(e.Note, "sidcars: unknown field; did you mean sidecars?") {
		t.Errorf("%+v", e)
	}
	m.metric("mesh_injector_bad_profiles 1")
	if got := image(); !strings.HasSuffix(got, ":second") {
		t.Error(got)
	}
	put(first)
	m.await("the first again", func() bool { return strings.HasSuffix(image(), ":first") })
	m.metric("mesh_injector_bad_profiles 0")
	m.api.Remove(maps + "/mine")
	m.await("its end", func() bool { return strings.Contains(image(), "there is no such profile") })
}

// TestCertificates: what somebody changes is put back, and an API server that was away
// finds the webhook as it was.
func TestCertificates(t *testing.T) {
	m := newMesh(t)
	stop := m.start()
	m.ready()
	works := func() bool {
		status, _, err := m.post(PathPods, m.bundle(mutating), request("pods", "demo", pod("")))
		return err == nil && status == http.StatusOK
	}
	if !works() {
		t.Fatal("the API server does not trust the webhook")
	}
	secret := m.api.Object(secrets + "/mesh-injector-certs")

	// Somebody applies the manifests again, with no bundle or with another.
	for i, list := range []string{mutating, validating, mutating} {
		c := m.api.Object(list + "/mesh-injector")
		hooks := c.Object["webhooks"].([]any)
		config := hooks[1].(map[string]any)["clientConfig"].(map[string]any)
		delete(config, "caBundle")
		if i == 2 {
			config["caBundle"] = "Zm9v"
		}
		c.SetResourceVersion("")
		c.SetAnnotations(map[string]string{"somebody": "was here"})
		m.api.Apply(list, c.Object)
		m.await("the bundle", func() bool { return len(m.bundle(list)) > 3 })
		if c := m.api.Object(list + "/mesh-injector"); c.GetAnnotations()["somebody"] == "" {
			t.Error("what else was changed is gone")
		}
	}
	m.await("five writes", func() bool {
		text, err := m.get("/metrics")
		_, after, _ := strings.Cut(text, "\nmesh_injector_ca_bundle_writes_total ")
		n, bad := strconv.Atoi(strings.SplitN(after, "\n", 2)[0])
		return err == nil && bad == nil && n >= 5
	})

	// The configurations are deleted, and created again.
	for kind, list := range map[string]string{"MutatingWebhookConfiguration": mutating, "ValidatingWebhookConfiguration": validating} {
		m.api.Remove(list + "/mesh-injector")
		m.api.Apply(list, manifests(t)[kind])
		m.await("the bundle", func() bool { return len(m.bundle(list)) > 3 })
	}
	if !works() {
		t.Error("the API server does not trust the webhook any more")
	}

	// The API server was away, for longer than the lease.
	m.api.Away(true)
	m.await("the end of the lease", func() bool { return strings.Contains(m.log.String(), "does not lead any more") })
	if _, err := m.get("/readyz"); err != nil {
		t.Error(err)
	}
	m.api.Away(false)
	m.await("another lease", func() bool { return strings.Count(m.log.String(), "this replica leads") == 2 })
	if !works() {
		t.Error("the API server does not trust the webhook any more")
	}

	// And once more; meanwhile the injector starts.
	m.api.Away(true)
	stop()
	m.start()
	if _, err := m.get("/readyz"); err == nil {
		t.Error("it is ready without an API server")
	}
	m.api.Away(false)
	m.ready()
	if after := m.api.Object(secrets + "/mesh-injector-certs"); after.GetResourceVersion() != secret.GetResourceVersion() {
		t.Error("the certificates are others")
	}
	if !works() {
		t.Error("the API server does not trust the webhook after it was away")
	}

	// The Secret is deleted.
	m.api.Remove(secrets + "/mesh-injector-certs")
	m.await("another Secret", func() bool { return m.api.Object(secrets+"/mesh-injector-certs") != nil })
	m.await("trust", works)
}

// TestCertDir: with the certificate of somebody else, nothing is written.
func TestCertDir(t *testing.T) {
	m := newMesh(t)
	m.settings.CertDir = t.TempDir()
	write := func() []byte {
		data, _, err := certs.NewMaker("mesh-injector.mesh-injector.svc").Next(nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{certs.Key, certs.Cert} {
			if err := os.WriteFile(filepath.Join(m.settings.CertDir, key), data[key], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return data[certs.Bundle]
	}
	bundle := write()
	m.start()
	works := func(bundle []byte) bool {
		status, _, err := m.post(PathPods, bundle, request("pods", "demo", pod("")))
		return err == nil && status == http.StatusOK
	}
	m.await("the webhook", func() bool { _, err := m.get("/readyz"); return err == nil })
	if !works(bundle) {
		t.Error("it shows another certificate")
	}
	bundle = write()
	m.await("the next certificate", func() bool { return works(bundle) })
	if m.api.Object(secrets+"/mesh-injector-certs") != nil || len(m.bundle(mutating)) > 0 {
		t.Error("it keeps certificates of its own")
	}
	m.settings.CertDir, m.settings.Webhook, m.settings.Listen = t.TempDir(), freePort(t), freePort(t)
	if err := Run(t.Context(), m.settings, slog.New(slog.DiscardHandler)); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestTwo: the second replica serves as the first does, and takes over.
func TestTwo(t *testing.T) {
	m := newMesh(t)
	stop := m.start()
	m.ready()
	first := m.settings
	m.settings.Webhook, m.settings.Listen = freePort(t), freePort(t)
	m.start()
	m.ready()
	object := pod("")
	for _, s := range []Settings{first, m.settings} {
		m.settings.Webhook = s.Webhook
		patched(t, object, m.ask(PathPods, request("pods", "demo", object)))
	}
	stop()
	c := m.api.Object(mutating + "/mesh-injector")
	for _, w := range c.Object["webhooks"].([]any) {
		delete(w.(map[string]any)["clientConfig"].(map[string]any), "caBundle")
	}
	c.SetResourceVersion("")
	m.api.Apply(mutating, c.Object)
	m.await("the second to put the bundle back", func() bool { return len(m.bundle(mutating)) > 0 })
}

// running is a pod that runs.
func running(name, namespace string, annotations map[string]any, more ...func(*corev1.Pod)) map[string]any {
	p := &corev1.Pod{}
	if err := json.Unmarshal([]byte(pod("")), p); err != nil {
		panic(err)
	}
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	p.GenerateName, p.Name, p.UID, p.Namespace = "", name, types.UID("uid-"+name), namespace
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady,
		Status: corev1.ConditionTrue}}}
	p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
	for k, v := range annotations {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, k, v.(string))
	}
	for _, f := range more {
		f(p)
	}
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p)
	if err != nil {
		panic(err)
	}
	return o
}

// TestSweep: pods that have no sidecar are found, told of, and evicted one by one.
func TestSweep(t *testing.T) {
	m := newMesh(t)
	m.namespace("other", nil)
	at := func(ns string) string { return "/api/v1/namespaces/" + ns + "/pods" }
	m.api.Apply(at("demo"), running("good", "demo", map[string]any{"intercept.mesh/injected": "{}"}))
	m.api.Apply(at("demo"), running("lost", "demo", nil))
	m.api.Apply(at("demo"), running("lost-too", "demo", nil))
	m.api.Apply(at("demo"), running("alone", "demo", nil, func(p *corev1.Pod) { p.OwnerReferences = nil }))
	m.api.Apply(at("demo"), running("host", "demo", nil, func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
	m.api.Apply(at("demo"), running("passed-by", "demo", nil, func(p *corev1.Pod) { p.Labels["intercept.mesh/inject"] = "false" }))
	m.api.Apply(at("demo"), running("bad", "demo", map[string]any{"intercept.mesh/outbound-port": "x"}))
	m.api.Apply(at("demo"), running("done", "demo", nil, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	m.api.Apply(at("other"), running("unasked", "other", nil))
	stop := m.start()
	m.ready()
	for want, n := range map[string]int{"injected": 1, "missing": 3, "skipped": 2, "refused": 1} {
		m.metric(fmt.Sprintf(`mesh_injector_pods{state=%q} %d`, want, n))
	}
	for name, says := range map[string]string{"lost": "the webhook was not asked when it was created; delete it",
		"alone": "the webhook was not asked when it was created; delete it, and create it again", "bad": "would be refused if it was created now: annotation intercept.mesh/outbound-port"} {
		if e := m.event("SidecarMissing", "Pod/"+name); !strings.Contains(e.Note, says) || e.Type != "Warning" {
			t.Errorf("%+v", e)
		}
	}
	if e := m.event("SidecarSkipped", "Pod/host"); !strings.Contains(e.Note, "hostNetwork") {
		t.Errorf("%+v", e)
	}
	if m.api.Object(at("demo")+"/lost") == nil || m.api.Object(at("demo")+"/lost-too") == nil {
		t.Fatal("a pod is evicted, and nobody said so")
	}
	stop()

	// One that has just been replaced and is not ready yet: nobody is evicted.
	fresh := func(p *corev1.Pod) { p.Status.Conditions = nil }
	m.api.Apply(at("demo"), running("good", "demo", map[string]any{"intercept.mesh/injected": "{}"}, fresh))
	m.settings.Evict = true
	m.start()
	m.ready()
	m.metric(`mesh_injector_pods{state="missing"} 3`)
	left := func() int {
		n := 0
		for _, name := range []string{"lost", "lost-too"} {
			if m.api.Object(at("demo")+"/"+name) != nil {
				n++
			}
		}
		return n
	}
	if left() != 2 {
		t.Fatal("a pod is evicted while another of its workload is not ready")
	}
	m.api.Apply(at("demo"), running("good", "demo", map[string]any{"intercept.mesh/injected": "{}"}))
	m.await("the eviction of the first", func() bool { return left() == 1 })
	// Its replacement comes without a sidecar, too: that leads nowhere.
	m.api.Apply(at("demo"), running("next", "demo", nil, func(p *corev1.Pod) {
		p.CreationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
	}))
	m.metric(`mesh_injector_pods{state="missing"} 3`)
	if left() != 1 {
		t.Error("it goes on though new pods have no sidecar either")
	}
	m.api.Remove(at("demo") + "/next")
	m.await("the eviction of the second", func() bool { return left() == 0 })
	m.metric(`mesh_injector_evictions_total{result="evicted"} 2`)
	if m.api.Object(at("demo")+"/alone") == nil {
		t.Error("a pod is evicted that nobody makes again")
	}
	if !slices.ContainsFunc(m.api.Events(), func(e *eventsv1.Event) bool { return e.Reason == "SidecarEviction" }) {
		t.Error("no event of the eviction")
	}
}
