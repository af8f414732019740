//go:build linux

package containerd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/cri"
	"github.com/mesh-intercept/intercept/kube/testing/node"
)

// kubelet's own annotations, and what a pod asks for besides.
func asking(pairs ...string) map[string]string {
	all := map[string]string{
		"kubernetes.io/config.seen": "2026-01-01T00:00:00Z", "kubernetes.io/config.source": "api",
		"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat(`{"a":"b"},`, 300),
	}
	for i := 0; i < len(pairs); i += 2 {
		all["intercept.mesh/"+pairs[i]] = pairs[i+1]
	}
	return all
}

// pod runs a pod with a sidecar, of user 1337, and an app, of user 1000.
func (n *host) pod(name string, annotations map[string]string) (s node.Sandbox, app, sidecar, ip string) {
	n.t.Helper()
	ctx := n.t.Context()
	s = node.Sandbox{Namespace: "default", Name: name, UID: "uid-" + name, Annotations: annotations}
	n.must(n.CRI.Run(ctx, &s))
	sidecar, err := n.CRI.Start(ctx, s, "sidecar", 1337, "server", "sidecar", "15001", "15006", "udp:127.0.0.1:15053")
	n.must(err)
	app, err = n.CRI.Start(ctx, s, "app", 1000, "server", "app", "8080", "15021")
	n.must(err)
	ip, err = n.CRI.Address(ctx, s.ID)
	n.must(err)
	return s, app, sidecar, ip
}

// gone removes a pod as kubelet does: it stops it more than once.
func (n *host) gone(s node.Sandbox) {
	n.t.Helper()
	ctx := context.WithoutCancel(n.t.Context())
	n.must(n.CRI.Stop(ctx, s.ID), n.CRI.Stop(ctx, s.ID), n.CRI.Remove(ctx, s.ID))
}

// says waits until a program in a container prints what it should: servers
// take their time to listen.
func (n *host) says(want, container string, args ...string) {
	n.t.Helper()
	got := ""
	deadline := time.Now().Add(10 * time.Second)
	n.Await(fmt.Sprintf("%q of %q", want, args), func() bool {
		out, err := n.CRI.Exec(n.t.Context(), container, args...)
		got = fmt.Sprint(out, " ", err)
		return out == want || time.Now().After(deadline)
	})
	if !strings.HasPrefix(got, want+" ") {
		n.t.Errorf("%q: %s, want %s", args, got, want)
	}
}

// expectLeft waits until there is again what there was before.
func (n *host) expectLeft(before string) {
	n.t.Helper()
	now := ""
	deadline := time.Now().Add(20 * time.Second)
	n.Await("the end of pods", func() bool { now = n.Left(); return now == before || time.Now().After(deadline) })
	if now != before {
		n.t.Errorf("there was before:\n%s\nand is now:\n%s", before, now)
	}
}

func (n *host) arrives(want, addr string) {
	n.t.Helper()
	got := ""
	deadline := time.Now().Add(10 * time.Second)
	n.Await(want, func() bool {
		got = n.Inside(filepath.Join(plugins, "part"), "client", "tcp", addr)
		return got == want || time.Now().After(deadline)
	})
	if got != want {
		n.t.Errorf("to %s: %s, want %s", addr, got, want)
	}
}

// TestContainerd: pods of a real runtime, with real processes in them.
func TestContainerd(t *testing.T) {
	n := newNode(t, nil)
	ctx := t.Context()
	clean := n.Left()

	meshed, app, sidecar, ip := n.pod("web", asking("enabled", "true", "dns", "all", "outbound-exclude-ports", "5432"))
	n.says("sidecar 15001 203.0.113.7:80", app, "client", "tcp", "203.0.113.7:80")
	n.says("outside 5432 -", app, "client", "tcp", "203.0.113.7:5432")
	n.says("outside 80 -", sidecar, "client", "tcp", "203.0.113.7:80")
	n.says("sidecar 127.0.0.1:15053 udp", app, "client", "udp", "10.96.0.10:53")
	n.says("outside 10.96.0.10:53 udp", sidecar, "client", "udp", "10.96.0.10:53")
	n.arrives("sidecar 15006 "+ip+":8080", ip+":8080")
	n.arrives("app 15021 -", ip+":15021") // a probe

	// A pod that does not ask is not touched.
	plain, app2, _, ip2 := n.pod("plain", asking())
	n.says("outside 80 -", app2, "client", "tcp", "203.0.113.7:80")
	n.says("outside 10.96.0.10:53 udp", app2, "client", "udp", "10.96.0.10:53")
	n.arrives("app 8080 -", ip2+":8080")

	// A bad annotation reaches kubelet as a sentence, and leaves nothing.
	for range 3 {
		bad := node.Sandbox{
			Namespace: "default", Name: "bad", UID: "b",
			Annotations: asking("enabled", "true", "outbound-exclude-ports", "80-70")}
		if err := n.CRI.Run(ctx, &bad); err == nil ||
			!strings.Contains(err.Error(),
				`plugin type="mesh-cni" failed (add): pod default/bad: annotation `+
					`intercept.mesh/outbound-exclude-ports: port range "80-70"`) {
			t.Errorf("a bad annotation: %v", err)
		}
	}

	// A runtime of its own kind can have a list of its own, which says so.
	foreign := node.Sandbox{Namespace: "default", Name: "boxed", UID: "g", Annotations: asking("enabled", "true"),
		Handler: "gvisor"}
	if err := n.CRI.Run(ctx, &foreign); err == nil ||
		!strings.Contains(err.Error(), "pod default/boxed: the rules would not be asked: its runtime is runsc") {
		t.Errorf("a runtime with a network stack of its own: %v", err)
	}
	foreign.Annotations = asking()
	n.must(n.CRI.Run(ctx, &foreign))
	n.gone(foreign)

	// containerd is killed and comes back: its pods never notice, and it can
	// take them down.
	n.KillContainerd()
	n.arrives("sidecar 15006 "+ip+":8080", ip+":8080")
	n.StartContainerd()
	n.says("sidecar 15001 203.0.113.7:80", app, "client", "tcp", "203.0.113.7:80")

	// The list loses the capability, and there is no agent: what may be ours
	// fails, what is excluded starts, and what runs can be taken down.
	n.writeList("net.d", map[string]any{"capabilities": map[string]bool{}, "agentSocket": n.Path("agent.sock"),
		"agentTimeout": "200ms"})
	n.Await("the new list", func() bool {
		s := node.Sandbox{Namespace: "default", Name: "unknown", UID: "u", Annotations: asking()}
		err := n.CRI.Run(ctx, &s)
		if err == nil {
			n.gone(s)
			return false
		}
		return strings.Contains(err.Error(), "pod default/unknown: nobody can say whether the pod asks for interception") &&
			strings.Contains(err.Error(), "no agent listens there")
	})
	system := node.Sandbox{Namespace: "kube-system", Name: "dns", UID: "d", Annotations: asking()}
	n.must(n.CRI.Run(ctx, &system))
	n.gone(system)

	// The entry is broken: no more pods of ours, but every pod can go.
	n.writeList("net.d", map[string]any{"nonsense": true})
	n.Await("the broken list", func() bool {
		s := node.Sandbox{Namespace: "default", Name: "broken", UID: "u", Annotations: asking("enabled", "true")}
		err := n.CRI.Run(ctx, &s)
		if err == nil {
			n.gone(s)
		}
		return err != nil && strings.Contains(err.Error(), "nonsense: unknown field")
	})
	other := node.Sandbox{Namespace: "default", Name: "other", UID: "o", Annotations: asking()}
	n.must(n.CRI.Run(ctx, &other))
	n.gone(other)
	n.gone(meshed)
	n.gone(plain)
	n.expectLeft(clean)
}

// TestContainerdReboot: after a node has lost everything but its disk, the
// pods of before can be removed and new ones start.
func TestContainerdReboot(t *testing.T) {
	n := newNode(t, nil)
	ctx := t.Context()
	n.pod("web", asking("enabled", "true"))
	n.pod("plain", asking())
	n.Halt()
	n.Boot()
	ids, err := n.CRI.Sandboxes(ctx)
	if err != nil || len(ids) != 2 {
		t.Fatalf("pods of before: %v, %v", ids, err)
	}
	for _, id := range ids {
		for range 5 { // as kubelet does
			n.must(n.CRI.Stop(ctx, id))
		}
		n.must(n.CRI.Remove(ctx, id))
	}
	_, app, _, ip := n.pod("web", asking("enabled", "true"))
	n.says("sidecar 15001 203.0.113.7:80", app, "client", "tcp", "203.0.113.7:80")
	n.arrives("sidecar 15006 "+ip+":8080", ip+":8080")
}

// TestContainerdMany: many pods at once, and nothing is left of them.
func TestContainerdMany(t *testing.T) {
	count := 24
	if s := os.Getenv("MESH_TEST_PODS"); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, map[string]any{"logMaxSize": 64 << 20})
	ctx := t.Context()
	clean := n.Left()
	warm := node.Sandbox{Namespace: "default", Name: "warm", UID: "w", Annotations: asking("enabled", "true")}
	n.must(n.CRI.Run(ctx, &warm))
	n.gone(warm)
	before := readLog(t, n.Path("mesh-cni.log"))

	begun := time.Now()
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			s := node.Sandbox{Namespace: "default", Name: fmt.Sprint("pod-", i), UID: fmt.Sprint("uid-", i),
				Annotations: asking()}
			if i%2 == 0 {
				s.Annotations = asking("enabled", "true")
			}
			if err := n.CRI.Run(ctx, &s); err != nil {
				t.Error(err)
				return
			}
			for range 3 {
				if err := n.CRI.Stop(ctx, s.ID); err != nil {
					t.Error(err)
				}
			}
			if err := n.CRI.Remove(ctx, s.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	var meshed []time.Duration
	skipped := 0
	for _, r := range readLog(t, n.Path("mesh-cni.log"))[len(before):] {
		switch {
		case r.Command != "ADD":
		case r.Result == cniwire.ResultIntercepted:
			meshed = append(meshed, time.Duration(r.Seconds*float64(time.Second)))
		case r.Result == cniwire.ResultSkipped:
			skipped++
		default:
			t.Errorf("%+v", r)
		}
	}
	slices.Sort(meshed)
	if len(meshed) != (count+1)/2 || skipped != count/2 {
		t.Errorf("%d pods intercepted and %d not, of %d", len(meshed), skipped, count)
	} else {
		t.Logf("%d pods in %v; ADD of those that were intercepted: median %v, at most %v", count,
			took.Round(time.Millisecond), meshed[len(meshed)/2], meshed[len(meshed)-1])
	}
	n.expectLeft(clean)
}

// TestContainerdStatus: a node whose next pod could not be intercepted says so
// before there is such a pod, if its runtime asks (STATUS, CNI 1.1).
func TestContainerdStatus(t *testing.T) {
	n := newNode(t, nil)
	asks := node.CNIVersion() == "1.1.0"
	for what, entry := range map[string]map[string]any{
		"no agent listens there":  {"capabilities": map[string]bool{}, "agentSocket": n.Path("agent.sock")},
		"nonsense: unknown field": {"nonsense": true},
	} {
		n.writeList("net.d", entry)
		if why := n.awaitNetwork(!asks); asks && !strings.Contains(why, what) {
			t.Errorf("%q does not say %q", why, what)
		}
		n.writeList("net.d", nil)
		n.awaitNetwork(true)
	}
}

// TestContainerdSaysWhatItReads: the agent's question has an answer, and tells the
// node's directories from others.
func TestContainerdSaysWhatItReads(t *testing.T) {
	n := newNode(t, nil)
	runtime := cri.Node{Root: n.Root(), Socket: n.Path("containerd.sock")}
	elsewhere, err := runtime.Compare(t.Context(), n.Path("net.d"), n.Path("bin"))
	if err != nil || len(elsewhere) != 1 || !strings.HasSuffix(elsewhere[0], "/root/opt/cni/bin") {
		t.Errorf("%q, %v", elsewhere, err)
	}
	for flag, dirs := range map[string][2]string{
		"--cni-conf-dir": {n.Path("gvisor.d"), n.Path("bin")}, "--cni-bin-dir": {n.Path("net.d"), n.Path("gvisor.d")},
	} {
		if _, err := runtime.Compare(t.Context(), dirs[0], dirs[1]); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v: %v", dirs, err)
		}
	}
}
