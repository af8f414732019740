// Package kubeapi is an API server over HTTPS for tests of what watches pods.
// It keeps pods in memory and speaks list and watch as kube-apiserver does:
// resource versions, bookmarks, streamed lists, expiry (410 Gone), bearer
// tokens; and it can be away. It takes events, and patches of a node's taints. It has
// DaemonSets, as far as whether they are there, and, if asked to, objects of every kind.
package kubeapi

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TB is the part of [testing.TB] that this package uses.
type TB interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Fatal(args ...any)
	Errorf(format string, args ...any)
}

// Options say what kind of server it is.
type Options struct {
	// StreamLists is whether a watch can begin with a list (WatchList, the
	// default since Kubernetes 1.34). Older servers refuse it.
	StreamLists bool
	// GoneInStream is whether an old resource version is refused within the
	// stream, and not by the response's status: servers do both.
	GoneInStream bool
	// Objects is whether it keeps objects of every kind, as in objects.go.
	Objects bool
	// Reviews answers TokenReviews and SubjectAccessReviews: nil, and nobody may ask for one.
	Reviews http.Handler
}

// Stats counts what clients have asked for.
type Stats struct {
	Lists, Watches, Streamed, Unauthorized, Gone, Refused int
	Sets                                                  int // DaemonSets that were read
	Selectors                                             []string
}

// Server is a running API server.
type Server struct {
	// URL, TokenFile and CAFile are what a client needs.
	URL, TokenFile, CAFile string

	o    Options
	http *httptest.Server

	mu       sync.Mutex
	news     chan struct{} // closed when anything changes
	drops    int           // how often watches were ended
	away     bool
	token    string
	rv, old  uint64
	pods     map[string]*corev1.Pod
	changes  []change
	events   []*eventsv1.Event
	node     *corev1.Node
	sets     map[string]*metav1.PartialObjectMetadata // by namespace/name; nil: reading them is forbidden
	stats    Stats
	bookmark uint64
	objects  map[string]map[string]any // see objects.go
	history  []edit
}

type change struct {
	rv   uint64
	kind string
	pod  *corev1.Pod
}

// New starts a server that ends with the test.
func New(t TB, o Options) *Server {
	t.Helper()
	s := &Server{o: o, news: make(chan struct{}), rv: 100, pods: map[string]*corev1.Pod{}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.EnableHTTP2 = true
	s.http.Config.ErrorLog = nil
	s.http.StartTLS()
	t.Cleanup(func() {
		s.Away(true)
		s.http.CloseClientConnections()
		s.http.Close()
	})
	dir := t.TempDir()
	s.URL, s.TokenFile, s.CAFile = s.http.URL, filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	if err := os.WriteFile(s.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Rotate("first"); err != nil {
		t.Fatal(err)
	}
	return s
}

// change runs f on the state and wakes the watches.
func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.news)
	s.news = make(chan struct{})
}

// Put creates a pod, or changes it.
func (s *Server) Put(p corev1.Pod) {
	s.change(func() {
		key, kind := p.Namespace+"/"+p.Name, "ADDED"
		if _, ok := s.pods[key]; ok {
			kind = "MODIFIED"
		}
		s.rv++
		p.ResourceVersion = strconv.FormatUint(s.rv, 10)
		s.pods[key] = &p
		s.changes = append(s.changes, change{s.rv, kind, &p})
	})
}

// Delete deletes a pod.
func (s *Server) Delete(namespace, name string) {
	s.change(func() {
		if p, ok := s.pods[namespace+"/"+name]; ok {
			s.rv++
			gone := p.DeepCopy()
			gone.ResourceVersion = strconv.FormatUint(s.rv, 10)
			delete(s.pods, namespace+"/"+name)
			s.changes = append(s.changes, change{s.rv, "DELETED", gone})
		}
	})
}

// SetNode sets the node that can be read and patched.
func (s *Server) SetNode(n corev1.Node) { s.change(func() { s.node = &n }) }

// Node returns the node.
func (s *Server) Node() corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.node.DeepCopy()
}

// SetDaemonSets sets the DaemonSets that there are, by namespace/name, and whether
// each is being deleted. Nil: nobody may read them. A name that ends with a slash is a
// namespace; others nobody may read.
func (s *Server) SetDaemonSets(deleting map[string]bool) {
	s.change(func() {
		s.sets = nil
		if deleting != nil {
			s.sets = map[string]*metav1.PartialObjectMetadata{}
		}
		for key, gone := range deleting {
			o := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}}
			o.Namespace, o.Name, _ = strings.Cut(key, "/")
			if gone {
				now := metav1.Now()
				o.DeletionTimestamp = &now
			}
			s.sets[key] = o
		}
	})
}

func (s *Server) daemonSet(w http.ResponseWriter, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource := schema.GroupResource{Group: "apps", Resource: "daemonsets"}
	key := strings.Replace(path, "/daemonsets/", "/", 1)
	o := s.sets[key]
	switch {
	case s.sets == nil, o == nil && strings.HasSuffix(key, "/"):
		fail(w, apierrors.NewForbidden(resource, key, errors.New("no right to")))
	case o == nil:
		fail(w, apierrors.NewNotFound(resource, key))
	default:
		if !strings.HasSuffix(key, "/") {
			s.stats.Sets++
		}
		w.Header().Set("Content-Type", "application/json")
		send(w, o)
	}
}

// Events returns the events that were written.
func (s *Server) Events() []*eventsv1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// Stats returns what has been counted.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Selectors = slices.Clone(out.Selectors)
	return out
}

// Rotate makes another token the only one that is taken, and puts it into the
// file as kubelet does.
func (s *Server) Rotate(token string) error {
	s.change(func() { s.token = token })
	next := s.TokenFile + ".next"
	return errors.Join(os.WriteFile(next, []byte(token), 0o600), os.Rename(next, s.TokenFile))
}

// Drop ends all watches, as servers do every few minutes.
func (s *Server) Drop() { s.change(func() { s.drops++ }) }

// Expire ends all watches and compacts the history: who asks for what came
// after an older change is told 410 Gone.
func (s *Server) Expire() { s.change(func() { s.rv++; s.old, s.changes = s.rv, nil; s.drops++ }) }

// Bookmark sends a bookmark to all watches.
func (s *Server) Bookmark() { s.change(func() { s.rv++; s.bookmark = s.rv }) }

// Away makes the server drop every connection, until it is back.
func (s *Server) Away(away bool) {
	s.change(func() { s.away = away; s.drops++ })
	if away {
		s.http.CloseClientConnections()
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	away, authorized := s.away, r.Header.Get("Authorization") == "Bearer "+s.token
	if away {
		s.stats.Refused++
	} else if !authorized {
		s.stats.Unauthorized++
	}
	s.mu.Unlock()
	switch {
	case away:
		panic(http.ErrAbortHandler)
	case !authorized:
		fail(w, apierrors.NewUnauthorized("Unauthorized"))
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/pods" && r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/pods":
		s.list(w, r)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/apis/events.k8s.io/v1/namespaces/"):
		s.event(w, r)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/apis/apps/v1/namespaces/") && !s.o.Objects:
		s.daemonSet(w, strings.TrimPrefix(r.URL.Path, "/apis/apps/v1/namespaces/"))
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/") && !s.o.Objects:
		s.daemonSet(w, strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/")+"/")
	case strings.HasPrefix(r.URL.Path, "/api/v1/nodes/"):
		s.patchNode(w, r)
	case strings.HasPrefix(r.URL.Path, "/apis/auth") && s.o.Reviews != nil:
		s.o.Reviews.ServeHTTP(w, r)
	case s.o.Objects:
		s.object(w, r)
	default:
		fail(w, apierrors.NewForbidden(schema.GroupResource{}, r.URL.Path, errors.New("this test server has no such thing")))
	}
}

func fail(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	send(w, status)
}

func send(w io.Writer, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	_ = err // the client has gone
}

// selected reports whether a pod is one of a request's.
func selected(r *http.Request, p *corev1.Pod) bool {
	selector := r.URL.Query().Get("fieldSelector")
	node, ok := strings.CutPrefix(selector, "spec.nodeName=")
	return selector == "" || ok && p.Spec.NodeName == node
}

func typed(p *corev1.Pod) *corev1.Pod {
	p = p.DeepCopy()
	p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	return p
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Lists++
	s.stats.Selectors = append(s.stats.Selectors, r.URL.Query().Get("fieldSelector"))
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	list.ResourceVersion = strconv.FormatUint(s.rv, 10)
	for _, p := range s.pods {
		if selected(r, p) {
			list.Items = append(list.Items, *p)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	send(w, list)
}

func event(kind string, p *corev1.Pod) any {
	return struct {
		Type   string `json:"type"`
		Object any    `json:"object"`
	}{kind, typed(p)}
}

func mark(rv uint64, initial bool) any {
	p := &corev1.Pod{}
	p.ResourceVersion = strconv.FormatUint(rv, 10)
	if initial {
		p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return event("BOOKMARK", p)
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	streamed := q.Get("sendInitialEvents") == "true"
	s.mu.Lock()
	s.stats.Watches++
	s.stats.Selectors = append(s.stats.Selectors, q.Get("fieldSelector"))
	from, _ := strconv.ParseUint(q.Get("resourceVersion"), 10, 64)
	gone := !streamed && from != 0 && from < s.old
	expired := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", from, s.old))
	if gone {
		s.stats.Gone++
	}
	if streamed && s.o.StreamLists {
		s.stats.Streamed++
	}
	s.mu.Unlock()
	switch {
	case streamed && !s.o.StreamLists:
		fail(w, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "", nil))
		return
	case gone && !s.o.GoneInStream:
		fail(w, expired)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	_ = flusher.Flush()
	if gone {
		status := expired.Status()
		status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		send(w, struct {
			Type   string        `json:"type"`
			Object metav1.Status `json:"object"`
		}{"ERROR", status})
		return
	}
	s.mu.Lock()
	drops := s.drops
	if streamed {
		for _, p := range s.pods {
			if selected(r, p) {
				send(w, event("ADDED", p))
			}
		}
		from = s.rv
		send(w, mark(from, true))
	}
	s.mu.Unlock()
	marked := from
	for {
		s.mu.Lock()
		news, dropped := s.news, s.drops != drops
		for _, c := range s.changes {
			if c.rv > from && selected(r, c.pod) {
				send(w, event(c.kind, c.pod))
			}
			from = max(from, c.rv)
		}
		if s.bookmark > marked && q.Get("allowWatchBookmarks") == "true" {
			marked = s.bookmark
			from = max(from, marked)
			send(w, mark(marked, false))
		}
		s.mu.Unlock()
		if dropped || flusher.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-news:
		}
	}
}

func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	e := &eventsv1.Event{}
	if err := json.NewDecoder(r.Body).Decode(e); err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	// What kube-apiserver insists on (pkg/apis/core/validation, events.go).
	for name, missing := range map[string]bool{
		"metadata.name": e.Name == "", "eventTime": e.EventTime.IsZero(), "reportingController": e.ReportingController == "",
		"reportingInstance": e.ReportingInstance == "", "action": e.Action == "", "reason": e.Reason == "",
		"type": e.Type != "Normal" && e.Type != "Warning", "note": len(e.Note) > 1024,
		"regarding.namespace": e.Regarding.Namespace != e.Namespace || !strings.Contains(r.URL.Path, "/"+e.Namespace+"/"),
	} {
		if missing {
			fail(w, apierrors.NewBadRequest(name))
			return
		}
	}
	s.change(func() { s.events = append(s.events, e) })
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	e.TypeMeta = metav1.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"}
	send(w, e)
}

func (s *Server) patchNode(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/api/v1/nodes/")
	if s.node == nil || s.node.Name != name {
		fail(w, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, name))
		return
	}
	if r.Method == http.MethodPatch {
		if err := s.applyPatch(r); err != nil {
			fail(w, apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, name, nil))
			return
		}
	}
	n := s.node.DeepCopy()
	n.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	w.Header().Set("Content-Type", "application/json")
	send(w, n)
}

// applyPatch knows a test of all taints and the removal of one.
func (s *Server) applyPatch(r *http.Request) error {
	if got := r.Header.Get("Content-Type"); got != "application/json-patch+json" {
		return fmt.Errorf("content type %q", got)
	}
	var steps []struct {
		Op, Path string
		Value    []corev1.Taint
	}
	if err := json.NewDecoder(r.Body).Decode(&steps); err != nil {
		return err
	}
	taints := slices.Clone(s.node.Spec.Taints)
	for _, step := range steps {
		index, err := strconv.Atoi(strings.TrimPrefix(step.Path, "/spec/taints/"))
		switch {
		case step.Op == "test" && step.Path == "/spec/taints":
			if !slices.Equal(step.Value, taints) {
				return errors.New("the test failed")
			}
		case step.Op == "remove" && err == nil && index < len(taints):
			taints = slices.Delete(taints, index, index+1)
		default:
			return fmt.Errorf("%s %s is not known here", step.Op, step.Path)
		}
	}
	s.node.Spec.Taints = taints
	return nil
}
