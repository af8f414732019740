package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// cluster is an API server with a pod on each of three nodes, of which node-3 has no agent.
type cluster struct {
	t          *testing.T
	kubeconfig string

	mu     sync.Mutex
	denied string   // a request that is forbidden: method and path's end
	asked  []string // what agents were asked
	patch  []byte   // of ephemeral containers
	waits  string   // why an ephemeral container waits for ever
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, kubeconfig: filepath.Join(t.TempDir(), "config")}
	agents := map[string]string{}
	for _, node := range []string{"node-1", "node-2"} {
		s := httptest.NewTLSServer(c.agent(node))
		t.Cleanup(s.Close)
		agents["agent-"+node] = s.Listener.Addr().String()
	}
	api := httptest.NewTLSServer(c.api(agents))
	t.Cleanup(api.Close)
	config := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: x,
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}],
users: [{name: u, user: {token: mine}}],
contexts: [{name: x, context: {cluster: c, user: u, namespace: shop}}]}`, api.URL)
	if err := os.WriteFile(c.kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(w http.ResponseWriter, v any) { sendAs(w, http.StatusOK, v) }

func sendAs(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

func onNode(name, node string, labels map[string]string) corev1.Pod {
	return corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
}

// api is the API server.
func (c *cluster) api(agents map[string]string) http.Handler {
	mux := http.NewServeMux()
	pods := map[string]corev1.Pod{"web": onNode("web", "node-1", nil), "cart": onNode("cart", "node-2", nil),
		"far": onNode("far", "node-3", nil), "new": onNode("new", "", nil)}
	mux.HandleFunc("GET /api/v1/namespaces/shop/pods/{name}", func(w http.ResponseWriter, r *http.Request) {
		p, ok := pods[r.PathValue("name")]
		if !ok {
			status := apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, r.PathValue("name")).Status()
			status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
			sendAs(w, http.StatusNotFound, status)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.patch != nil {
			var patch struct {
				Spec struct{ EphemeralContainers []corev1.EphemeralContainer }
			}
			if err := json.Unmarshal(c.patch, &patch); err != nil || len(patch.Spec.EphemeralContainers) != 1 {
				c.t.Errorf("%v: %s", err, c.patch)
			}
			s := corev1.ContainerStatus{Name: patch.Spec.EphemeralContainers[0].Name}
			if s.State.Terminated = (&corev1.ContainerStateTerminated{ExitCode: 18}); c.waits != "" {
				s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: c.waits, Message: "because"}}
			}
			p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{s}
		}
		send(w, p)
	})
	const far = "/api/v1/namespaces/shop/pods/far/"
	mux.HandleFunc("PATCH "+far+"ephemeralcontainers", func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.patch, _ = io.ReadAll(r.Body)
		send(w, pods["far"])
	})
	mux.HandleFunc("GET "+far+"log", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "failed  of %s\n", r.FormValue("container")[:len("intercept-")])
	})
	names := func(w http.ResponseWriter, r *http.Request, all ...string) {
		if !strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadataList") {
			c.t.Errorf("%s asks for more than names", r.URL)
		}
		l := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1",
			Kind: "PartialObjectMetadataList"}}
		for _, name := range all {
			l.Items = append(l.Items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		send(w, l)
	}
	mux.HandleFunc("GET /api/v1/namespaces/shop/pods", func(w http.ResponseWriter, r *http.Request) {
		names(w, r, "web", "web-2", "cart")
	})
	mux.HandleFunc("GET /api/v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		names(w, r, "node-1", "node-2", "node-3")
	})
	mux.HandleFunc("GET /api/v1/namespaces/mesh-system/pods", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("labelSelector") != "app=mesh-cni-agent" {
			c.t.Errorf("agents by %q", r.FormValue("labelSelector"))
		}
		l := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
		for _, node := range []string{"node-1", "node-2"} {
			if of := r.FormValue("fieldSelector"); of == "" || of == "spec.nodeName="+node {
				l.Items = append(l.Items, onNode("agent-"+node, node, nil))
			}
		}
		send(w, l)
	})
	mux.HandleFunc("POST /api/v1/namespaces/mesh-system/serviceaccounts/kubectl-intercept/token",
		func(w http.ResponseWriter, r *http.Request) {
			var request authenticationv1.TokenRequest
			if err := json.NewDecoder(r.Body).Decode(&request); err != nil || request.Spec.Audiences[0] != answers.Audience ||
				*request.Spec.ExpirationSeconds != 600 {
				c.t.Errorf("%v: a token for %+v", err, request.Spec)
			}
			request.Status.Token = "for agents"
			request.TypeMeta = metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}
			send(w, request)
		})
	mux.HandleFunc("POST /api/v1/namespaces/mesh-system/pods/{agent}/portforward",
		func(w http.ResponseWriter, r *http.Request) { c.forward(w, r, agents[r.PathValue("agent")]) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		denied := c.denied
		c.mu.Unlock()
		method, end, _ := strings.Cut(denied, " ")
		switch {
		case r.Header.Get("Authorization") != "Bearer mine":
			c.t.Errorf("%s %s by %q", r.Method, r.URL, r.Header.Get("Authorization"))
		case denied != "" && r.Method == method && strings.HasSuffix(r.URL.Path, end):
			sendAs(w, http.StatusForbidden, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
				Status: "Failure", Code: 403, Reason: metav1.StatusReasonForbidden, Message: "you cannot " + denied})
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// forward forwards to an agent, as kubelet does.
func (c *cluster) forward(w http.ResponseWriter, r *http.Request, to string) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		c.t.Error(err)
	}
	streams := make(chan httpstream.Stream, 2)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		c.t.Error("no upgrade")
		return
	}
	defer conn.Close()
	errs, data := <-streams, <-streams
	if port := data.Headers().Get(corev1.PortHeader); port != "9993" {
		fmt.Fprintf(errs, "nobody listens at port %s", port)
		errs.Close()
		<-conn.CloseChan()
		return
	}
	agent, err := net.Dial("tcp", to)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer agent.Close()
	go func() { _, _ = io.Copy(agent, data) }()
	_, _ = io.Copy(data, agent)
	errs.Close()
	data.Close()
	<-conn.CloseChan()
}

// agent is the agent of a node.
func (c *cluster) agent(node string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer for agents" {
			c.t.Errorf("an agent was asked by %q", got)
		}
		c.mu.Lock()
		c.asked = append(c.asked, node+": "+r.Method+" "+r.URL.String())
		denied := c.denied == "agent"
		c.mu.Unlock()
		row := answers.Row{Namespace: "shop", Name: "web", Node: node, State: answers.Intercepting}
		switch {
		case denied:
			sendAs(w, http.StatusForbidden, answers.Refuse(http.StatusForbidden, "you may not"))
		case r.URL.Path == "/v1/pods":
			rows := []answers.Row{row}
			if node == "node-2" {
				rows = []answers.Row{{Namespace: "shop", Name: "cart", Node: node, State: answers.LeftAlone},
					{Namespace: "shop", Name: "db", Node: node, State: answers.NotIntercepted, Why: "none is there"}}
			}
			send(w, answers.List{Pods: rows})
		case strings.HasSuffix(r.URL.Path, "/watch"): // which ends too early
			send(w, answers.Part{Stdout: "first\n"})
		case strings.HasSuffix(r.URL.Path, "/trace"):
			row.State, row.Why = answers.Unserved, "nobody listens"
			for _, p := range []answers.Part{{Stdout: "first\n"}, {Stdout: "second\n"}, {Stderr: "mesh-init: no packet\n"},
				{End: &answers.Answer{Row: row, Exit: 22}}} {
				send(w, p)
			}
		case strings.HasSuffix(r.URL.Path, "/verify"):
			send(w, answers.Answer{Row: row, Exit: 18, Stdout: "failed  an app\n", Stderr: "mesh-init: it does not work\n"})
		default:
			if node == "node-2" {
				row.Name, row.State, row.Why = "cart", answers.NotIntercepted, "none is there"
			}
			send(w, answers.Answer{Row: row, Stdout: "the counters\n"})
		}
	})
}

// run runs the plugin. Standard error is what is in front of the "|".
func (c *cluster) run(args ...string) (code int, text string) {
	c.t.Helper()
	var out, errOut bytes.Buffer
	code = run(c.t.Context(), append([]string{"--kubeconfig", c.kubeconfig}, args...), &out, &errOut)
	return code, errOut.String() + "|" + out.String()
}

func (c *cluster) expect(code int, text string, args ...string) {
	c.t.Helper()
	if gotCode, got := c.run(args...); gotCode != code || got != text {
		c.t.Errorf("%q: %d\n%s\nwant %d\n%s", args, gotCode, got, code, text)
	}
}

// has is expect of a part of the text.
func (c *cluster) has(code int, part string, args ...string) {
	c.t.Helper()
	if gotCode, got := c.run(args...); gotCode != code || !strings.Contains(got, part) {
		c.t.Errorf("%q: %d\n%s\nwant %d and %q", args, gotCode, got, code, part)
	}
}

func (c *cluster) deny(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denied = what
}

// TestAsk: the node's agent is asked, and what it says is said with its exit code.
func TestAsk(t *testing.T) {
	c := newCluster(t)
	c.expect(0, "|the counters\n", "status", "web")
	c.expect(0, "|the counters\n", "status", "pod/web", "-n", "shop")
	c.expect(0, "|shop/cart: not intercepted: none is there\nthe counters\n", "status", "cart")
	c.expect(0, "|the counters\n", "status", "cart", "-o", "json")
	c.expect(0, "|the counters\n", "support", "cart", "--mask")
	c.expect(18, "mesh-init: it does not work\n|failed  an app\n", "verify", "web", "--allow-unproven", "--wait", "2s")
	c.expect(0, "|the counters\n", "explain", "web", "--dst", "10.1.2.3:443", "--to-self")
	if got, want := strings.Join(c.asked, "\n"), `node-1: GET /v1/namespaces/shop/pods/web/status
node-1: GET /v1/namespaces/shop/pods/web/status
node-2: GET /v1/namespaces/shop/pods/cart/status
node-2: GET /v1/namespaces/shop/pods/cart/status?output=json
node-2: GET /v1/namespaces/shop/pods/cart/support?mask=true
node-1: POST /v1/namespaces/shop/pods/web/verify?allow-unproven=true&wait=2s
node-1: GET /v1/namespaces/shop/pods/web/explain?dst=10.1.2.3%3A443&to-self=true`; got != want {
		t.Errorf("agents were asked\n%s", got)
	}
}

// TestList: all agents are asked, and a node without one is named.
func TestList(t *testing.T) {
	c := newCluster(t)
	const noAgent = "kubectl intercept: node node-3 has no agent that runs: its pods are not shown\n"
	c.expect(1, noAgent+`|NAMESPACE  POD   NODE    STATE            WHY
shop       db    node-2  not intercepted  none is there
shop       web   node-1  intercepting
shop       cart  node-2  left alone
`, "status", "-A")
	c.has(1, `"pods"`, "status", "-o", "json")
	c.has(1, "state: not intercepted", "status", "-o", "yaml")
	if got := c.asked[len(c.asked)-1]; !strings.HasSuffix(got, "/v1/pods?namespace=shop") {
		t.Errorf("asked %s", got)
	}
	c.deny("GET nodes")
	c.has(1, "whether each node has an agent is not known: you cannot GET nodes", "status", "-A")
	c.deny("agent")
	for _, node := range []string{"node-1", "node-2"} {
		c.has(1, "kubectl intercept: node "+node+": you may not\n", "status", "-A")
	}
	c.has(1, noAgent+"|no pods\n", "status", "-A")
}

// TestContainer: where there is no agent, a container of the pod looks.
func TestContainer(t *testing.T) {
	c := newCluster(t)
	c.has(1, "node node-3 has no agent that runs (pods with app=mesh-cni-agent in namespace mesh-system); with --image",
		"verify", "far")
	c.expect(18, "|failed  of intercept-\n", "verify", "far", "--image", "example/intercept:1", "--allow-unproven")
	var patch struct {
		Spec struct{ EphemeralContainers []corev1.EphemeralContainer }
	}
	if err := json.Unmarshal(c.patch, &patch); err != nil {
		t.Fatal(err)
	}
	got := patch.Spec.EphemeralContainers[0]
	if got.Image != "example/intercept:1" || strings.Join(got.Command, " ") != "/mesh-init verify --allow-unproven=true" {
		t.Errorf("the container: %+v", got)
	}
	c.waits = "ErrImagePull"
	c.has(1, "wait for an ephemeral container of pod shop/far: ErrImagePull: because", "verify", "far", "--image", "x")
	c.waits = "ContainerCreating"
	c.has(1, "no answer within 1s (--timeout)", "verify", "far", "--image", "x", "--timeout", "1s")
	c.deny("PATCH ephemeralcontainers")
	c.has(1, "add an ephemeral container of pod shop/far: you cannot PATCH ephemeralcontainers",
		"verify", "far", "--image", "x")
}

// TestDenied: an error names the right that is missing.
func TestDenied(t *testing.T) {
	c := newCluster(t)
	for denied, want := range map[string]string{
		"GET pods/web":            "kubectl intercept: you cannot GET pods/web\n",
		"GET mesh-system/pods":    "look for agents in namespace mesh-system: you cannot GET mesh-system/pods\n",
		"POST token":              "of service account mesh-system/kubectl-intercept (--account): you cannot",
		"POST node-1/portforward": "port-forward to the agent mesh-system/agent-node-1: ",
		"agent":                   "kubectl intercept: you may not\n",
	} {
		c.deny(denied)
		c.has(1, want, "status", "web")
	}
	c.deny("POST node-1/portforward")
	c.has(1, "you cannot POST node-1/portforward", "status", "web")
	c.deny("")
	c.has(1, "the node could not connect to the agent: nobody listens at port 1", "status", "web", "--agent-port", "1")
	c.has(1, `pods "nobody" not found`, "status", "nobody")
	c.has(1, "pod shop/new is on no node yet", "status", "new")
}

// TestUsage: what is wrong with a command line.
func TestUsage(t *testing.T) {
	c := newCluster(t)
	c.has(2, "which pod? kubectl intercept verify POD", "verify")
	c.has(2, "2 pods; name one", "status", "a", "b")
	c.has(2, "leave out web", "status", "-A", "web")
	c.has(2, "--no-agent needs --image", "status", "web", "--no-agent")
	c.has(2, `"sttus" is no verb; verbs are status, check, verify, explain, support`, "sttus")
	c.has(2, "unknown flag: --nonsense", "status", "--nonsense")
	c.has(2, `"xml" is none of text, json, yaml`, "status", "-A", "-o", "xml")
	c.has(0, "kubectl intercept [command]", "--help")
	c.has(0, "kubectl-intercept ", "version")
	c.has(0, "|web\nweb-2\n:4\n", "__complete", "status", "we")
}

// TestFollow: what an agent tells is shown as it comes, and ends with the exit code of its end, or as an error without.
func TestFollow(t *testing.T) {
	c := newCluster(t)
	c.expect(22, "mesh-init: no packet\nshop/web: unserved: nobody listens\n|first\nsecond\n", "trace", "web", "--for", "1s",
		"--dst", "10.1.2.3:443")
	c.has(1, "first\n", "watch", "web")
	c.has(1, "kubectl intercept: the agent's answer was cut off", "watch", "web")
	if got, want := strings.Join(c.asked[:2], "\n"), `node-1: POST /v1/namespaces/shop/pods/web/trace?dst=10.1.2.3%3A443&for=1s
node-1: GET /v1/namespaces/shop/pods/web/watch`; got != want {
		t.Errorf("agents were asked\n%s", got)
	}
}

// TestPlace: an answer's first line says what is wrong, once.
func TestPlace(t *testing.T) {
	for _, test := range []struct {
		verb   string
		output string
		state  answers.State
		begins string
		want   where
	}{
		{"verify", "", answers.Unserved, "ok", before},
		{"verify", "", answers.Intercepting, "ok", nowhere},
		{"verify", "json", answers.Unserved, "{", nowhere},
		{"status", "", answers.Unserved, "unserved: nobody listens", nowhere},
		{"status", "", answers.Changed, "changed: written by another version", nowhere},
		{"status", "wide", answers.Changed, "intercepting: 14 rules", before}, // as they were written, but not as is asked
		{"status", "", answers.NotIntercepted, "", before},
		{"explain", "", answers.NotIntercepted, "redirect(15001)", before}, // which it is not
		{"explain", "", answers.Unserved, "redirect(15001)", aside},
		{"trace", "", answers.NotIntercepted, "", aside},
		{"support", "", answers.NotIntercepted, "{", nowhere},
	} {
		i := slices.IndexFunc(answers.Verbs(), func(v answers.Verb) bool { return v.Name == test.verb })
		flags := map[string]string{}
		if test.output != "" {
			flags["output"] = test.output
		}
		a := answers.Answer{Row: answers.Row{State: test.state}, Stdout: test.begins}
		if got := place(answers.Verbs()[i], flags, a); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
	}
}
