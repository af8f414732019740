package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

const (
	calico = "{\n  \"name\": \"k8s-pod-network\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      " +
		"\"type\": \"calico\"\n    }\n  ]\n}\n"
	podUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
)

// host is a node: its directories, its API server, an agent.
type host struct {
	root, list, plugin, socket, url string
	api                             *kubeapi.Server
	args                            []string
	log                             *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newHost(t *testing.T) *host {
	t.Helper()
	return newHostWith(t, kubeapi.Options{StreamLists: true})
}

func newHostWith(t *testing.T, o kubeapi.Options) *host {
	t.Helper()
	root := t.TempDir()
	h := &host{root: root, api: kubeapi.New(t, o), log: &lockedBuffer{}}
	h.list, h.plugin, h.socket = filepath.Join(root, "net.d", "10-calico.conflist"),
		filepath.Join(root, "bin", "mesh-cni"), filepath.Join(root, "run", "agent.sock")
	source, conf := filepath.Join(root, "mesh-cni"), filepath.Join(root, "plugin.json")
	for _, err := range []error{
		os.Mkdir(filepath.Dir(h.list), 0o755), os.Mkdir(filepath.Dir(h.plugin), 0o755),
		os.Mkdir(filepath.Join(root, "proc"), 0o755),
		os.WriteFile(h.list, []byte(calico), 0o644), os.WriteFile(filepath.Join(root, "bin", "calico"), nil, 0o755),
		os.WriteFile(conf, fmt.Appendf(nil, `{"logFile":%q,"logLevel":"debug"}`, filepath.Join(root, "log")), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := program.Build(source, "cmd/mesh-cni"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	h.url = "http://" + l.Addr().String()
	h.args = []string{"--cni-conf-dir", filepath.Dir(h.list), "--cni-bin-dir", filepath.Dir(h.plugin), "--plugin", source,
		"--plugin-conf", conf, "--socket", h.socket}
	return h
}

// start runs the agent, and returns what ends it and returns its exit code.
func (h *host) start(t *testing.T, more ...string) (stop func() int) {
	t.Helper()
	args := append(append([]string{"run"}, h.args...), "--node", "node-a", "--api-server", h.api.URL, "--token-file",
		h.api.TokenFile, "--ca-file", h.api.CAFile,
		"--listen", strings.TrimPrefix(h.url, "http://"), "--proc", filepath.Join(h.root, "proc"))
	args = append(args, more...)
	ctx, cancel := context.WithCancel(t.Context())
	code, once := make(chan int, 1), sync.Once{}
	go func() { code <- run(ctx, args, nil, io.Discard, h.log) }()
	last := -1
	stop = func() int {
		once.Do(func() { cancel(); last = <-code })
		return last
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Log(h.log.String())
		}
	})
	return stop
}

func (h *host) get(path string) (int, string) {
	resp, err := http.Get(h.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func (h *host) command(verb string) (int, string) {
	var out, errOut bytes.Buffer
	code := run(context.Background(), append([]string{verb}, h.args...), nil, &out, &errOut)
	return code, strings.Join(strings.Fields(out.String()+errOut.String()), " ") // as if no line were broken
}

func (h *host) ask(t *testing.T, name string) (cniwire.Facts, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return cniwire.Ask(ctx, h.socket, cniwire.Pod{Namespace: "default", Name: name})
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("not within twenty seconds: %s", what)
		case <-tick.C:
		}
	}
}

// unmeshed starts a process in a network namespace without rules, which /proc
// has under the cgroup of a pod.
func (h *host) unmeshed(t *testing.T, uid string) (netns string) {
	t.Helper()
	cmd := exec.Command("cat") // it ends with the test, whatever happens
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid := strconv.Itoa(cmd.Process.Pid)
	real, dir := "/proc/"+pid, filepath.Join(h.root, "proc", pid)
	stat, err := os.ReadFile(real + "/stat")
	for _, err := range []error{
		err, os.Mkdir(dir, 0o755), os.Symlink(real+"/ns", dir+"/ns"), os.Symlink(real+"/root", dir+"/root"),
		os.WriteFile(dir+"/stat", stat, 0o600),
		os.WriteFile(dir+"/cgroup", []byte("0::/kubepods/besteffort/pod"+uid+"/3f2a\n"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return real + "/ns/net"
}

func meshed(name, uid string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid),
			Annotations: map[string]string{"intercept.mesh/enabled": "true"}},
		Spec: corev1.PodSpec{NodeName: "node-a"},
	}
}

// TestLife: an agent from start to end, with the real plugin.
func TestLife(t *testing.T) {
	netlab.Require(t)
	h := newHost(t)
	taint := corev1.Taint{Key: "intercept.mesh/not-ready", Effect: corev1.TaintEffectNoSchedule}
	h.api.SetNode(corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a"},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}}})
	h.api.Away(true)
	if code, out := h.command("doctor"); code != exitIll || !strings.Contains(out, "our entry NOT OK") ||
		!strings.Contains(out, "the plugin NOT OK") {
		t.Errorf("doctor before: %d\n%s", code, out)
	}
	stop := h.start(t, "--startup-taint", taint.Key)

	// Without the API server the plugin is installed, and nobody is told lies.
	until(t, "the plugin is in place and tried", func() bool {
		code, text := h.get("/readyz")
		return code == 503 && strings.HasPrefix(text, "pods: the pods of this node have not been listed yet")
	})
	if code, _ := h.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	if _, err := h.ask(t, "web"); !errors.Is(err, cniwire.ErrRefused) || !strings.Contains(err.Error(), "not ready") {
		t.Errorf("asked too early: %v", err)
	}
	if info, err := os.Stat(h.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if len(h.api.Node().Spec.Taints) == 0 {
		t.Error("the taint is gone already")
	}
	h.api.Away(false)
	until(t, "ready", func() bool { code, _ := h.get("/readyz"); return code == 200 })
	until(t, "the taint is gone", func() bool { return len(h.api.Node().Spec.Taints) == 0 })

	// A pod that was started without its rules.
	netns := h.unmeshed(t, podUID)
	h.api.Put(meshed("web", podUID))
	until(t, "it is repaired, and that is an event", func() bool {
		all := h.api.Events()
		return len(all) == 1 && all[0].Reason == "RulesRepaired" && all[0].Regarding.Name == "web"
	})
	if diffs, err := (dataplane.Pod{NetNS: netns}).Check(t.Context(), intercept.Default()); err != nil || len(diffs) > 0 {
		t.Errorf("its rules: %v, %v", diffs, err)
	}

	// A runtime that gives no annotations: the plugin asks.
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h.api.Put(meshed("api", "other"))
	text, err := os.ReadFile(h.list)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Plugins []map[string]any }
	if err := json.Unmarshal(text, &list); err != nil || len(list.Plugins) != 2 {
		t.Fatalf("%v\n%s", err, text)
	}
	entry := list.Plugins[1]
	entry["cniVersion"], entry["name"], entry["prevResult"] = "0.3.1", "k8s-pod-network",
		map[string]any{"cniVersion": "0.3.1"}
	input, err := json.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	add := exec.Command(h.plugin)
	add.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_PATH=/", "CNI_NETNS=" + ns.Path(),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=api;K8S_POD_UID=other"}
	add.Stdin = bytes.NewReader(input)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if diffs, err := (dataplane.Pod{NetNS: ns.Path()}).Check(t.Context(), intercept.Default()); err != nil ||
		len(diffs) > 0 {
		t.Errorf("its rules: %v, %v", diffs, err)
	}

	// Another writer.
	if err := os.WriteFile(h.list, []byte(calico), 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "the entry is back", func() bool {
		b, _ := os.ReadFile(h.list)
		return strings.Contains(string(b),
			"mesh-cni")
	})
	if code, out := h.command("doctor"); code != cli.ExitDone {
		t.Errorf("doctor: %d\n%s", code, out)
	}
	until(t, "all of it is counted", func() bool {
		_, text := h.get("/metrics")
		for _, want := range []string{
			`mesh_cni_adds_total{reason="enabled",result="intercepted"} 1`, `mesh_cni_add_seconds_count{result="intercepted"} 1`,
			`mesh_cni_repairs_total{result="repaired"} 1`,
			`mesh_cni_drift_total{kind="missing"} 1`, `mesh_cni_conflist_writes_total{reason="installed"} 1`,
			`mesh_cni_conflist_writes_total{reason="restored"} 1`,
			`mesh_cni_pods{state=`, "mesh_cni_ready 1", "mesh_cni_build_info{",
		} {
			if !strings.Contains(text, want) {
				return false
			}
		}
		return true
	})

	// The end, with the API server away.
	h.api.Away(true)
	if code := stop(); code != cli.ExitDone {
		t.Errorf("exit code %d", code)
	}
	if b, err := os.ReadFile(h.list); err != nil || string(b) != calico {
		t.Errorf("left behind: %v\n%s", err, b)
	}
	for _, path := range []string{h.plugin, h.socket} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("left behind: %s", path)
		}
	}
	for line := range strings.Lines(h.log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

// TestKeep: an upgrade leaves all in place, and uninstall takes it out.
func TestKeep(t *testing.T) {
	netlab.Require(t)
	h := newHost(t)
	netns := h.unmeshed(t, podUID)
	h.api.Put(meshed("web", podUID))
	stop := h.start(t, "--keep-on-exit", "--dry-run")
	until(t, "ready", func() bool { code, _ := h.get("/readyz"); return code == 200 })
	until(t, "it would be repaired", func() bool {
		all := h.api.Events()
		return len(all) == 1 && all[0].Reason == "RulesDrifted"
	})
	if _, err := (dataplane.Pod{NetNS: netns}).Status(t.Context()); !errors.Is(err, intercept.ErrNotIntercepted) {
		t.Errorf("a dry run: %v", err)
	}
	if code := stop(); code != cli.ExitDone {
		t.Errorf("exit code %d", code)
	}
	if code, out := h.command("doctor"); code != exitIll || strings.Count(out, "NOT OK") != 1 ||
		!strings.Contains(out, "no agent listens there") {
		t.Errorf("doctor without an agent: %d\n%s", code, out)
	}
	for range 2 {
		if code, out := h.command("uninstall"); code != cli.ExitDone {
			t.Errorf("uninstall: %d\n%s", code, out)
		}
	}
	b, _ := os.ReadFile(h.list)
	if _, err := os.Stat(h.plugin); string(b) != calico || err == nil {
		t.Errorf("left behind: %v\n%s", err, b)
	}
}

// TestMended: what somebody takes away from a running agent is noticed, said and mended.
func TestMended(t *testing.T) {
	netlab.Require(t)
	h := newHost(t)
	h.api.SetDaemonSets(map[string]bool{"mesh-system/mesh-cni-agent": false})
	stop := h.start(t, "--keep-on-exit", "--daemonset", "mesh-system/mesh-cni-agent")
	ready := func() bool { code, _ := h.get("/readyz"); return code == 200 }
	until(t, "ready", ready)

	// Its socket.
	if err := os.Remove(h.socket); err != nil {
		t.Fatal(err)
	}
	until(t, "the socket is back", func() bool { _, err := h.ask(t, "web"); return err == nil })
	until(t, "ready again", ready)

	// A socket that cannot be put back.
	if err := errors.Join(os.RemoveAll(filepath.Dir(h.socket)),
		os.WriteFile(filepath.Dir(h.socket), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	until(t, "it is said", func() bool {
		code, text := h.get("/readyz")
		return code == 503 && strings.HasPrefix(text, "socket: ")
	})
	if err := os.Remove(filepath.Dir(h.socket)); err != nil {
		t.Fatal(err)
	}
	until(t, "ready once more", ready)

	// Its settings: with a mistake they are said, without they are in force.
	conf := filepath.Join(h.root, "plugin.json")
	was, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(conf+".new", []byte(text), 0o600), os.Rename(conf+".new", conf)); err != nil {
			t.Fatal(err)
		}
	}
	edit(`{"failurePolcy":"allow"}`)
	until(t, "the mistake is said", func() bool {
		code, text := h.get("/readyz")
		return code == 503 && strings.HasPrefix(text, "settings: ") && strings.Contains(text, "failurePolcy: unknown field")
	})
	edit(strings.Replace(string(was), "{", `{"failurePolicy":"allow",`, 1))
	until(t, "the entry has them", func() bool {
		b, _ := os.ReadFile(h.list)
		return strings.Contains(string(b), `"failurePolicy"`)
	})
	until(t, "ready with them", ready)

	// A pod whose network came without us: the runtime reads other lists.
	pod := meshed("lost", "77777777-4b5a-6978-8796-a5b4c3d2e1f0")
	h.api.Put(pod)
	until(t, "it is known", func() bool { facts, _ := h.ask(t, "lost"); return facts.Found })
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.244.0.9"}}
	h.api.Put(pod)
	until(t, "it is said that nobody asked for it", func() bool {
		code, text := h.get("/readyz")
		return code == 503 && strings.Contains(text, "runtime: pod default/lost has got its network")
	})

	// The end of the DaemonSet is the end of what it put there, its update is not.
	if code := stop(); code != cli.ExitDone {
		t.Errorf("exit code %d", code)
	}
	if b, _ := os.ReadFile(h.list); !strings.Contains(string(b), "mesh-cni") {
		t.Errorf("an update: %s", b)
	}
	for name, gone := range map[string]map[string]bool{
		"deleted": {}, "being deleted": {"mesh-system/mesh-cni-agent": true}, "with its rights": nil,
		"with its namespace": {"mesh-system/mesh-cni-agent": false, "mesh-system/": true},
	} {
		h.api.SetDaemonSets(map[string]bool{"mesh-system/mesh-cni-agent": false})
		h.log = &lockedBuffer{}
		before := h.api.Stats().Sets
		stop := h.start(t, "--keep-on-exit", "--daemonset", "mesh-system/mesh-cni-agent", "--no-repair")
		until(t, "it knows its DaemonSet", func() bool { return h.api.Stats().Sets > before })
		until(t, "ready", ready)
		h.api.SetDaemonSets(gone)
		if code := stop(); code != cli.ExitDone {
			t.Errorf("%s: exit code %d", name, code)
		}
		b, err := os.ReadFile(h.list)
		if _, left := os.Stat(h.plugin); err != nil || string(b) != calico || left == nil {
			t.Errorf("%s: left behind: %v\n%s\n%s", name, err, b, h.log)
		}
	}
	// Whoever never had the right to know leaves all in place.
	stop = h.start(t, "--keep-on-exit", "--daemonset", "mesh-system/mesh-cni-agent", "--no-repair")
	until(t, "ready", ready)
	if code := stop(); code != cli.ExitDone {
		t.Errorf("exit code %d", code)
	}
	if b, _ := os.ReadFile(h.list); !strings.Contains(string(b), "mesh-cni") {
		t.Errorf("without the right: %s", b)
	}
}

// TestFlags: every mistake is said, with its flag.
func TestFlags(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.json")
	if err := os.WriteFile(bad, []byte(`{"type":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(dir, "wrong.json")
	if err := os.WriteFile(wrong, []byte(`{"backend":"ebpf","failurePolcy":"allow"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"instal"}, []string{`"instal" is not a verb; `, "uninstall"}},
		{[]string{"run"}, []string{"--node: empty, and NODE_NAME is not set"}},
		{[]string{"run", "--node", "n", "extra"}, []string{`"extra" is left over: run takes flags only`}},
		{[]string{"run", "--nodes", "n"}, []string{"--nodes: unknown flag; did you mean --node?"}},
		{[]string{"run", "--node", "n", "--repair-interval", "5"}, []string{`--repair-interval: "5" is not a duration`}},
		{[]string{"run", "--node", "n", "--plugin-conf", bad}, []string{"bad.json: type: the agent sets it"}},
		{[]string{"run", "--node", "n", "--plugin-conf", wrong},
			[]string{`wrong.json: backend: "ebpf" is not one of`, "failurePolcy: unknown field"}},
		{[]string{"run", "--plugin-conf", filepath.Join(dir, "gone"), "--socket", "relative", "--cni-conf-dir", "x",
			"--listen", "9992", "--repair-interval", "1ms", "--init-containers", "["},
			[]string{"--node: empty", "gone: no such file", `--socket: agentSocket: "relative" is not the absolute path`,
				`--cni-conf-dir: "x"`, `--listen: "9992" is not an address`, "--repair-interval: 1ms", `--init-containers: "["`}},
		{[]string{"run", "--node", "n", "--socket", ""}, []string{"--socket: empty"}},
		{[]string{"run", "--node", "n", "--daemonset", "x", "--cri-socket", "run/c.sock"},
			[]string{`--daemonset: "x" is not NAMESPACE/NAME`, `--cri-socket: "run/c.sock" is not an absolute path`}},
	} {
		var errOut bytes.Buffer
		code := run(t.Context(), tt.args, nil, io.Discard, &errOut)
		if code != cli.ExitUsage {
			t.Errorf("%v: exit code %d", tt.args, code)
		}
		for _, want := range tt.want {
			if !strings.Contains(errOut.String(), want) {
				t.Errorf("%v: %s\nwant %s", tt.args, errOut.String(), want)
			}
		}
	}
	var out bytes.Buffer
	for args, want := range map[string]string{
		"": "write mesh-cni-agent run", "--node n": "write mesh-cni-agent run --node n",
		"--socket x doctor": "write mesh-cni-agent doctor --socket x",
	} {
		var errOut bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), nil, &out, &errOut); code != cli.ExitUsage ||
			!strings.Contains(errOut.String(), want) {
			t.Errorf("%q: %d, %s", args, code, &errOut)
		}
	}
	if code := run(t.Context(), []string{"--help"}, nil, &out, io.Discard); code != cli.ExitDone ||
		!strings.Contains(out.String(), "--keep-on-exit") {
		t.Errorf("help: %d\n%s", code, out.String())
	}
	if code := run(t.Context(), []string{"run", "--api-server", "https://127.0.0.1:1", "--token-file",
		filepath.Join(dir, "none"), "--socket", filepath.Join(dir, "s")}, []string{"NODE_NAME=n"}, io.Discard,
		&out); code != cli.ExitFailed || !strings.Contains(out.String(), "the service account's token") {
		t.Errorf("no token: %d\n%s", code, out.String())
	}
}
