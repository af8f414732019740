package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// reviews is an API server's word: the token "reader" is a reader's, who may look, "writer" a writer's, who may do all,
// and "api" is good, but not for agents.
func reviews(t *testing.T, asked *lockedBuffer) http.Handler {
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		fmt.Fprintln(asked, "token")
		switch review.Spec.Token {
		case "reader", "writer":
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences,
				User: authenticationv1.UserInfo{Username: review.Spec.Token, Groups: []string{"people"}}}
		case "api": // an API server that knows no audiences
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true,
				User: authenticationv1.UserInfo{Username: "admin"}}
		}
		reply(w, review)
	})
	const access = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews"
	mux.HandleFunc(access, func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		a := review.Spec.ResourceAttributes
		fmt.Fprintf(asked, "%s %s %s/%s of %q/%q, %v\n", review.Spec.User, a.Verb, a.Resource, a.Subresource, a.Namespace,
			a.Name, review.Spec.Groups)
		review.Status.Allowed = review.Spec.User == "writer" || a.Verb == "get"
		reply(w, review)
	})
	return mux
}

// TestAnswers: what the agent says of pods, over its socket and over HTTPS.
func TestAnswers(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "nsenter")
	asked := &lockedBuffer{}
	h := newHostWith(t, kubeapi.Options{StreamLists: true, Reviews: reviews(t, asked)})
	meshInit, socket := filepath.Join(h.root, "mesh-init"), filepath.Join(h.root, "run", "answers.sock")
	if err := program.Build(meshInit, "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()

	const webUID, ownUID, plainUID = podUID, "1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "2f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	netns := h.unmeshed(t, webUID)
	ownNetNS := h.unmeshed(t, ownUID)
	h.unmeshed(t, plainUID)
	web, own, plain := meshed("web", webUID), meshed("own", ownUID), meshed("plain", plainUID)
	own.Annotations, plain.Annotations = nil, nil
	own.Spec.InitContainers = []corev1.Container{{Name: "mesh-init"}}
	host, bad, late := meshed("host", "h"), meshed("bad", "b"), meshed("late", "l")
	host.Spec.HostNetwork = true
	bad.Annotations["intercept.mesh/dns"] = "perhaps"
	for _, p := range []corev1.Pod{web, own, plain, host, bad, late} {
		h.api.Put(p)
	}
	h.start(t, "--dry-run", "--mesh-init", meshInit, "--answer-socket", socket, "--answers", at)
	until(t, "the pods are known", func() bool { code, _ := h.get("/readyz"); return code == 200 })

	byRoot := answers.AtSocket(socket)
	list := func() string {
		t.Helper()
		rows, err := byRoot.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, r := range rows {
			lines = append(lines, r.String())
		}
		return strings.Join(lines, "\n")
	}
	verb := func(name string) answers.Verb {
		v, ok := answers.Find(name)
		if !ok {
			t.Fatal(name)
		}
		return v
	}
	ask := func(name, pod string, flags map[string]string) answers.Answer {
		t.Helper()
		a, err := byRoot.Ask(t.Context(), verb(name), "default", pod, flags)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if got, want := list(), `default/own: not intercepted: its init container should have intercepted it, and has not
default/web: not intercepted: it asks for interception, and has no rules; the agent repairs that unless told not to
default/bad: waiting: it has no process yet
default/late: waiting: it has no process yet
default/host: left alone: it is in the node's own network (hostNetwork)
default/plain: left alone: no annotation of it asks for interception (intercept.mesh/enabled)`; got != want {
		t.Errorf("before:\n%s", got)
	}
	if a := ask("status", "web", nil); a.Exit != 10 || a.State != answers.NotIntercepted || a.Node != "node-a" ||
		!strings.Contains(a.Stderr, "mesh-init apply") {
		t.Errorf("no rules: %+v", a)
	}

	// A network that leads nowhere, and rules, of which mesh-init says more.
	if out, err := exec.Command("nsenter", "--net="+netns, "sh", "-ec", "ip link set lo up; "+
		"ip link add eth0 type veth peer far; ip link set far up; "+
		"ip address add 198.51.100.7/24 dev eth0; ip link set eth0 up; ip route add default via 198.51.100.1").
		CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := (dataplane.Pod{NetNS: netns}).Apply(t.Context(), intercept.Default()); err != nil {
		t.Fatal(err)
	}
	elsewhere := intercept.Default() // the proxy is no process of the pod, so nobody has to listen in it
	elsewhere.Outbound.Target = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.9:15001")}
	elsewhere.Families, elsewhere.Inbound.Mode = intercept.FamiliesIPv4, intercept.InboundOff
	if _, err := (dataplane.Pod{NetNS: ownNetNS}).Apply(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	if got := list(); !strings.HasPrefix(got, "default/web: unserved: nobody listens at TCP port 15001, ") ||
		!strings.Contains(got, "\ndefault/own: intercepting\n") {
		t.Errorf("with rules:\n%s", got)
	}
	if a := ask("status", "web", map[string]string{"output": "json"}); a.Exit != 0 || a.State != answers.Unserved ||
		!json.Valid([]byte(a.Stdout)) || !strings.Contains(a.Stdout, `"O12"`) {
		t.Errorf("status: %+v", a)
	}
	if a := ask("check", "web", nil); a.Exit != 0 {
		t.Errorf("check: %+v", a)
	}
	if a := ask("verify", "web", nil); a.Exit != 18 || !strings.Contains(strings.Join(strings.Fields(a.Stdout), " "),
		"nobody listens at 127.0.0.1:15001") {
		t.Errorf("verify, without a proxy: %d, %s%s", a.Exit, a.Stdout, a.Stderr)
	}
	if a := ask("explain", "web", map[string]string{"dst": "192.0.2.1:443"}); a.Exit != 0 ||
		!strings.HasPrefix(a.Stdout, "redirect(15001)") {
		t.Errorf("explain: %+v", a)
	}
	if a := ask("explain", "own", map[string]string{"dst": "192.0.2.1:443"}); a.Exit != 0 ||
		!strings.Contains(a.Stdout, "198.51.100.9:15001") {
		t.Errorf("explain, of what is kept beside the rules: %+v", a)
	}
	if a := ask("explain", "web", map[string]string{"dst": "nonsense"}); a.Exit != 2 ||
		!strings.Contains(a.Stderr, "nonsense") {
		t.Errorf("explain nonsense: %+v", a)
	}
	if a := ask("support", "web", map[string]string{"mask": "true"}); a.Exit != 0 || !json.Valid([]byte(a.Stdout)) ||
		!strings.Contains(a.Stdout, `"masked": true`) {
		t.Errorf("support: %d, %s", a.Exit, a.Stderr)
	}
	// Others than the pod asks for.
	other := intercept.Default()
	other.Outbound.Port = intercept.PortRange{First: 16001, Last: 16001}
	if _, err := (dataplane.Pod{NetNS: netns}).Apply(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if a := ask("check", "web", nil); a.Exit != 11 || a.State != answers.Changed ||
		!strings.Contains(a.Why, ", and ") {
		t.Errorf("other rules: %+v", a)
	}

	// What is refused.
	refused := func(c answers.Client, v answers.Verb, pod string, flags map[string]string, status int, what string) {
		t.Helper()
		_, err := c.Ask(t.Context(), v, "default", pod, flags)
		r, is := errors.AsType[*answers.Refusal](err)
		if !is || r.Status != status || !strings.Contains(r.Message, what) {
			t.Errorf("%s of %s, %v: %v; want %d, %q", v.Name, pod, flags, err, status, what)
		}
	}
	status, verify := verb("status"), verb("verify")
	refused(byRoot, status, "nobody", nil, 404, "node node-a has no pod default/nobody")
	refused(byRoot, status, "host", nil, 409, "hostNetwork")
	refused(byRoot, status, "late", nil, 409, "no process yet")
	refused(byRoot, verb("explain"), "plain", map[string]string{"dst": "192.0.2.1:443"}, 409, "no annotation of it asks")
	refused(byRoot, verify, "web", map[string]string{"config": "/etc/passwd"}, 400, `takes no "config"`)
	refused(byRoot, status, "web", map[string]string{"netns": "/proc/1/ns/net"}, 400, `takes no "netns"`)
	refused(byRoot, status, "web", map[string]string{"output": strings.Repeat("x", 5000)}, 400, "too long")

	// Over HTTPS.
	byToken := func(token string) answers.Client {
		return answers.Client{Base: "https://" + at, Token: token, HTTP: &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	}
	for _, token := range []string{"", "nonsense", "api"} {
		refused(byToken(token), status, "web", nil, 401, "--audience mesh-cni-agent")
	}
	refused(byToken("reader"), verify, "web", nil, 403, "reader may not create pods/intercept in namespace default")
	if a, err := byToken("reader").Ask(t.Context(), status, "default", "web", nil); err != nil ||
		a.State != answers.Changed {
		t.Errorf("a reader: %+v, %v", a, err)
	}
	if _, err := byToken("reader").List(t.Context(), ""); err == nil ||
		!strings.Contains(err.Error(), "may not list pods/intercept in all namespaces") {
		t.Errorf("a reader's list: %v", err)
	}
	if rows, err := byToken("writer").List(t.Context(), "default"); err != nil || len(rows) != 6 {
		t.Errorf("a writer's list: %v, %v", rows, err)
	}
	if a, err := byToken("writer").Ask(t.Context(), verify, "default", "web", nil); err != nil || a.Exit != 18 {
		t.Errorf("a writer: %+v, %v", a, err)
	}
	if got, want := asked.String(), `token
token
token
reader create pods/intercept of "default"/"web", [people]
reader get pods/intercept of "default"/"web", [people]
reader list pods/intercept of ""/"", [people]
token
writer list pods/intercept of "default"/"", [people]
writer create pods/intercept of "default"/"web", [people]
`; got != want {
		t.Errorf("the API server was asked\n%s", got)
	}
	_, counted := h.get("/metrics")
	for _, want := range []string{`{result="answered",verb="verify"} 2`, `{result="refused",verb="verify"} 2`,
		`{result="answered",verb="check"} 2`} {
		if !strings.Contains(counted, "mesh_cni_answers_total"+want+"\n") {
			t.Errorf("not counted: %s", want)
		}
	}
	resp, err := http.Get("http://" + at + "/v1/pods") // without TLS there is no answer
	if err == nil {
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(text), "web") {
			t.Errorf("without TLS: %s", text)
		}
	}
}
