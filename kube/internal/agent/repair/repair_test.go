package repair

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/agent/sandbox"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// room is a sandbox of a test.
type room struct {
	netns, resolv string
	closed        *int
}

func (r room) NetNS() string               { return r.netns }
func (r room) ResolvConf() (string, error) { return r.resolv, nil }
func (r room) Close() error                { *r.closed++; return nil }

func pod(name string, annotations ...string) kube.Pod {
	all := map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		all["intercept.mesh/"+annotations[i]] = annotations[i+1]
	}
	return kube.Pod{Namespace: "default", Name: name, UID: "api-" + name, RuntimeUID: name,
		Facts: cniwire.Facts{Found: true, Annotations: all}}
}

// one is the finding of the only pod.
func one(t *testing.T, r Repairer, p kube.Pod) Finding {
	t.Helper()
	all, err := r.Run(t.Context(), []kube.Pod{p})
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

// inNamespace is a Repairer of one pod, in a namespace of its own.
func inNamespace(t *testing.T, closed *int) (r Repairer, netns string) {
	t.Helper()
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return Repairer{Conf: cniconf.Default(), Find: func(uids []string) (map[string]Sandbox, error) {
		return map[string]Sandbox{uids[0]: room{ns.Path(), "nameserver 10.96.0.10\n", closed}}, nil
	}}, ns.Path()
}

// TestRepair: a pod without rules gets them, one with others gets its own, and
// nobody touches what is right.
func TestRepair(t *testing.T) {
	closed := 0
	r, netns := inNamespace(t, &closed)
	dry := r
	dry.DryRun = true
	target := dataplane.Pod{NetNS: netns}
	p := pod("web", "enabled", "true", "dns", "resolvconf")
	expect := func(r Repairer, p kube.Pod, state State, result Result, event string) {
		t.Helper()
		f := one(t, r, p)
		e, ok := f.Event()
		if f.State != state || f.Result != result || ok != (event != "") || e.Reason != event {
			t.Errorf("%s %s (%v), event %+v; want %s %s, event %s", f.State, f.Result, f.Err, e, state, result, event)
		}
	}
	expect(dry, p, Missing, DryRun, "RulesDrifted")
	if _, err := target.Status(t.Context()); !errors.Is(err, intercept.ErrNotIntercepted) {
		t.Errorf("a dry run: %v", err)
	}
	expect(r, p, Missing, Repaired, "RulesRepaired")
	expect(r, p, Converged, None, "")
	// Other rules, and other annotations.
	if _, err := target.Apply(t.Context(), intercept.Default()); err != nil {
		t.Fatal(err)
	}
	expect(dry, p, Changed, DryRun, "RulesDrifted")
	expect(r, p, Changed, Repaired, "RulesRepaired")
	p = pod("web", "enabled", "true", "tunnel-port", "16000")
	expect(r, p, Changed, Repaired, "RulesRepaired")
	if _, err := target.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(r, p, Missing, Repaired, "RulesRepaired")
	expect(r, p, Converged, None, "")
	// What cannot be done touches nothing.
	expect(r, pod("web", "enabled", "perhaps"), Refused, None, "InterceptionRefused")
	expect(r, pod("web", "enabled", "true", "proxy-uid", "1-4294967294"), Refused, None, "InterceptionRefused")
	kata := p
	kata.Facts.RuntimeClass = "kata-qemu"
	expect(r, kata, Refused, None, "InterceptionRefused")
	expect(r, p, Converged, None, "")
	if closed != 12 {
		t.Errorf("%d of 12 sandboxes were closed", closed)
	}
}

// TestOtherMesh: a pod of another mesh that slipped by gets what that mesh's own plugin would have made of it.
func TestOtherMesh(t *testing.T) {
	closed := 0
	r, _ := inNamespace(t, &closed)
	uid := int64(2024)
	p := pod("web")
	p.Addresses = []netip.Addr{netip.MustParseAddr("10.244.0.5")}
	p.Facts.Annotations["sidecar.istio.io/status"] = "{}"
	p.Facts.Injected = []cniwire.Container{{Name: "istio-proxy", UID: &uid}}
	if all, err := r.Run(t.Context(), []kube.Pod{p}); err != nil || len(all) > 0 {
		t.Errorf("it is nobody's whose dialect is spoken: %+v, %v", all, err)
	}
	r.Conf.Dialects = []pods.Dialect{pods.Intercept, pods.Istio}
	if f := one(t, r, p); f.Result != Repaired || f.Config.Proxy.UIDs.String() != "2024" {
		t.Errorf("%+v", f)
	}
	if f := one(t, r, p); f.State != Converged {
		t.Errorf("%+v", f)
	}
	p.Facts.Injected = append(p.Facts.Injected, cniwire.Container{Name: "istio-init", Init: true})
	if all, err := r.Run(t.Context(), []kube.Pod{p}); err != nil || len(all) > 0 {
		t.Errorf("its own init container intercepts: %+v, %v", all, err)
	}
}

// TestNotOurs: the plugin would have left them alone, and so does the agent.
func TestNotOurs(t *testing.T) {
	r := Repairer{Conf: cniconf.Default(), Find: func(uids []string) (map[string]Sandbox, error) {
		t.Errorf("%v was looked for", uids)
		return nil, nil
	}}
	with := func(change func(*kube.Pod)) kube.Pod {
		p := pod("x", "enabled", "true")
		change(&p)
		return p
	}
	all, err := r.Run(t.Context(), []kube.Pod{
		pod("plain"),
		with(func(p *kube.Pod) { p.Facts.HostNetwork = true }),
		with(func(p *kube.Pod) { p.Facts.InitContainer = true }),
		with(func(p *kube.Pod) { p.Finished = true }),
		with(func(p *kube.Pod) { p.Namespace = "kube-system" }),
	})
	if err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	// Ones that say so in their annotations.
	closed := 0
	r.Find = func(uids []string) (map[string]Sandbox, error) {
		return map[string]Sandbox{"off": room{"/nonexistent", "", &closed}}, errors.New("one could not be read")
	}
	r2 := r
	r2.Find = func(uids []string) (map[string]Sandbox, error) {
		return nil, errors.Join(&sandbox.Error{UID: uids[0], Err: errors.New("no permission")})
	}
	if f := one(t, r2, pod("closed", "enabled", "true")); f.State != Unknown || f.Err == nil {
		t.Errorf("a namespace that cannot be opened: %+v", f)
	}
	all, err = r.Run(t.Context(), []kube.Pod{pod("off", "enabled", "false"), pod("pending", "enabled", "true")})
	if len(all) != 1 || all[0].State != Waiting || err == nil || closed != 1 {
		t.Errorf("%+v, %v, closed %d", all, err, closed)
	}
}
