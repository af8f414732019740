package kube

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	m.Run()
}

const node = "node-a"

func pod(name, uid string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid), Annotations: map[string]string{
			"intercept.mesh/enabled": "true"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "x"}}},
	}
}

func client(t *testing.T, s *kubeapi.Server) *Client {
	t.Helper()
	c, err := NewClient(Access{Server: s.URL, TokenFile: s.TokenFile, CAFile: s.CAFile, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// watched starts watching a server's pods.
func watched(t *testing.T, s *kubeapi.Server, changed func(Pod)) *Pods {
	t.Helper()
	p := NewPods(client(t, s), node, []string{"mesh-init"}, changed)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func find(t *testing.T, p *Pods, name, uid string, wait time.Duration) cniwire.Facts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	f, err := p.Find(ctx, cniwire.Pod{Namespace: "default", Name: name, UID: uid})
	if err != nil {
		t.Error(err)
	}
	return f
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline, tick := time.After(12*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("not within twelve seconds: %s", what)
		case <-tick.C:
		}
	}
}

// TestWatch: the pods of this node, over all that happens to a watch, with
// servers of each kind.
func TestWatch(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]kubeapi.Options{
		"streamed lists":            {StreamLists: true},
		"streamed, gone in stream":  {StreamLists: true, GoneInStream: true},
		"older server":              {},
		"older, gone in its stream": {GoneInStream: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := kubeapi.New(t, o)
			s.Put(pod("first", "1"))
			other := pod("elsewhere", "2")
			other.Spec.NodeName = "node-b"
			s.Put(other)
			var changes atomic.Int32
			p := watched(t, s, func(Pod) { changes.Add(1) })
			if p.Ready() == nil && len(p.All()) == 0 {
				t.Error("ready before the list")
			}
			until(t, "listed", func() bool { return p.Ready() == nil })
			if f := find(t, p, "first", "1", time.Second); !f.Found || f.Annotations["intercept.mesh/enabled"] != "true" {
				t.Errorf("%+v", f)
			}
			if f := find(t, p, "elsewhere", "2", 20*time.Millisecond); f.Found {
				t.Error("another node's pod is known")
			}
			// One that comes while somebody waits for it.
			time.AfterFunc(50*time.Millisecond, func() { s.Put(pod("late", "3")) })
			if f := find(t, p, "late", "3", 10*time.Second); !f.Found {
				t.Error("it was not waited for")
			}
			// One of the same name, as of a StatefulSet.
			if f := find(t, p, "first", "other", 20*time.Millisecond); f.Found {
				t.Error("a pod with another UID is known")
			}
			time.AfterFunc(20*time.Millisecond, func() { s.Delete("default", "first"); s.Put(pod("first", "other")) })
			if f := find(t, p, "first", "other", 10*time.Second); !f.Found {
				t.Error("the next pod of that name is not known")
			}
			// The watch is ended by the server, which does not remember.
			s.Bookmark()
			s.Drop()
			s.Put(pod("after-drop", "4"))
			until(t, "known after the watch ended", func() bool { return find(t, p, "after-drop", "4", 0).Found })
			s.Away(true)
			s.Put(pod("meanwhile", "5"))
			s.Delete("default", "late")
			if !find(t, p, "first", "other", 0).Found || p.Ready() != nil {
				t.Error("what was known is forgotten while the server is away")
			}
			s.Away(false)
			until(t, "known once the server is back", func() bool { return find(t, p, "meanwhile", "5", 0).Found })
			until(t, "the deleted one is gone", func() bool { return !find(t, p, "late", "3", 0).Found })
			// The watch ends, and where it ended is forgotten.
			s.Put(pod("before-gone", "6"))
			until(t, "the watch is at work", func() bool { return find(t, p, "before-gone", "6", 0).Found })
			s.Expire()
			until(t, "410 Gone", func() bool { return s.Stats().Gone > 0 })
			s.Put(pod("after-gone", "6"))
			until(t, "known after 410 Gone", func() bool { return find(t, p, "after-gone", "6", 0).Found })
			stats := s.Stats()
			if stats.Gone == 0 ||
				slices.ContainsFunc(stats.Selectors, func(s string) bool { return s != "spec.nodeName="+node }) ||
				o.StreamLists != (stats.Streamed > 0) {
				t.Errorf("%+v", stats)
			}
			if changes.Load() < 5 {
				t.Errorf("told of %d changes", changes.Load())
			}
		})
	}
}

// TestRotation: the token is read again, and the old one is of no use.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := kubeapi.New(t, kubeapi.Options{StreamLists: true})
	p := watched(t, s, nil)
	until(t, "listed", func() bool { return p.Ready() == nil })
	if err := s.Rotate("second"); err != nil {
		t.Fatal(err)
	}
	s.Drop()
	until(t, "the old token is refused", func() bool { return s.Stats().Unauthorized > 0 })
	s.Put(pod("later", "2"))
	until(t, "known with the new token", func() bool { return find(t, p, "later", "2", 0).Found })
	if n := s.Stats().Unauthorized; n > 2 {
		t.Errorf("the old token was shown %d times", n)
	}
}

// TestAway: without a server nobody is kept waiting, and the reason is said.
func TestAway(t *testing.T) {
	t.Parallel()
	s := kubeapi.New(t, kubeapi.Options{})
	s.Away(true)
	p := watched(t, s, nil)
	until(t, "it was tried", func() bool { return s.Stats().Refused > 0 })
	if err := p.Ready(); err == nil || !strings.Contains(err.Error(), "not been listed") {
		t.Errorf("%v", err)
	}
	begun := time.Now()
	if f := find(t, p, "x", "", 50*time.Millisecond); f.Found || time.Since(begun) > 5*time.Second {
		t.Errorf("%+v after %v", f, time.Since(begun))
	}
	s.Put(pod("x", "1"))
	s.Away(false)
	until(t, "it is known once the server is back",
		func() bool { return p.Ready() == nil && find(t, p, "x", "", 0).Found })
}

func TestPodOf(t *testing.T) {
	class := "kata"
	p := pod("x", "mirror")
	p.Annotations[configMirror], p.Annotations[configHash] = "h", "abc"
	p.Spec.RuntimeClassName, p.Spec.HostNetwork = &class, true
	p.Spec.InitContainers = []corev1.Container{{Name: "setup", Image: "registry:5000/a/mesh-init:v1@sha256:00"}}
	p.Status.Phase = corev1.PodFailed
	slimmed, err := slim(&p)
	if err != nil {
		t.Fatal(err)
	}
	want := Pod{Namespace: "default", Name: "x", UID: "mirror", RuntimeUID: "abc", NodeName: node, Finished: true,
		Facts: cniwire.Facts{Found: true, Annotations: p.Annotations, RuntimeClass: "kata", HostNetwork: true,
			InitContainer: true}}
	for _, in := range []*corev1.Pod{&p, slimmed.(*corev1.Pod)} {
		if diff := cmp.Diff(want, podOf(in, []string{"mesh-init"})); diff != "" {
			t.Error(diff)
		}
	}
	for name, is := range map[string]bool{"mesh-init": true, "mesh-initial": false, "init": false} {
		q := pod("y", "1")
		q.Spec.InitContainers = []corev1.Container{{Name: name, Image: "busybox"}}
		if got := podOf(&q, []string{"mesh-init"}).Facts.InitContainer; got != is {
			t.Errorf("init container %s: %v", name, got)
		}
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := kubeapi.New(t, kubeapi.Options{})
	var dropped atomic.Int32
	c := client(t, s)
	c.timeout = 2 * time.Second
	e := NewEvents(c, node, slog.New(slog.NewTextHandler(io.Discard, nil)), func() { dropped.Add(1) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	about := pod(strings.Repeat("n", 253), "7")
	e.Write(Event{Pod: podOf(&about, nil), Warning: true, Action: "Repair", Reason: "RepairFailed",
		Note: strings.Repeat("é", 2000)})
	until(t, "the event is there", func() bool { return len(s.Events()) == 1 })
	got := s.Events()[0]
	if got.Regarding.UID != "7" || got.Type != "Warning" || got.ReportingController != Controller || len(got.Name) > 253 ||
		!strings.HasSuffix(got.Note, "é…") {
		t.Errorf("%+v", got)
	}
	mirror := about
	mirror.Annotations = map[string]string{configMirror: "h", configHash: "h"}
	e.Write(Event{Pod: podOf(&mirror, nil), Action: "a", Reason: "b"})
	until(t, "the event of a static pod is there", func() bool { return len(s.Events()) == 2 })
	if got := s.Events()[1]; got.Regarding.UID != "h" {
		t.Errorf("of a static pod: %+v", got)
	}
	s.Away(true)
	e.Write(Event{Pod: podOf(&about, nil), Action: "a", Reason: "b"})
	until(t, "it is given up", func() bool { return dropped.Load() == 1 })
	cancel()
	<-done
	for range 300 {
		e.Write(Event{})
	}
	if dropped.Load() < 40 {
		t.Errorf("%d were dropped", dropped.Load())
	}
}

func TestTaint(t *testing.T) {
	t.Parallel()
	s := kubeapi.New(t, kubeapi.Options{})
	c := client(t, s)
	keep := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule}
	ours := corev1.Taint{Key: "intercept.mesh/starting", Value: "x", Effect: corev1.TaintEffectNoExecute}
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{ours, keep, {Key: ours.Key, Effect: corev1.TaintEffectNoSchedule}}}}
	s.SetNode(n)
	for _, want := range []bool{true, false} {
		removed, err := c.RemoveTaint(t.Context(), node, ours.Key)
		if err != nil || removed != want || !slices.Equal(s.Node().Spec.Taints, []corev1.Taint{keep}) {
			t.Errorf("removed %v, %v; left %v", removed, err, s.Node().Spec.Taints)
		}
	}
	if _, err := c.RemoveTaint(t.Context(), "gone", ours.Key); err == nil || !strings.Contains(err.Error(), "node gone") {
		t.Errorf("a node that is not there: %v", err)
	}
}
