//go:build linux

package cni_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestAdd: a pod that asks gets its rules, another is not touched, and either
// way the result of the plugins before comes out as it went in, in every version.
func TestAdd(t *testing.T) {
	for _, v := range versions {
		pod, other := namespace(t), namespace(t)
		for range 2 { // again, as after a restart of the runtime
			call{command: "ADD", version: v, annotations: meshed, netns: pod.Path()}.run(t).passed(t, v, result(v))
		}
		if !intercepted(t, pod.Path(), intercept.Default()) {
			t.Errorf("%s: no rules", v)
		}
		log := filepath.Join(t.TempDir(), "log", "mesh-cni.log")
		call{command: "ADD", version: v, annotations: plain, netns: other.Path(), logs: log}.run(t).passed(t, v, result(v))
		if intercepted(t, other.Path(), intercept.Default()) {
			t.Errorf("%s: rules in a pod that did not ask", v)
		}
		if _, err := os.Stat(filepath.Dir(log)); err == nil {
			t.Errorf("%s: a pod that did not ask left a log", v)
		}
	}
}

// TestBackends: the entry's backend writes the rules.
func TestBackends(t *testing.T) {
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		netlab.RequireProgram(t, program)
	}
	for _, backend := range []dataplane.Backend{
		dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy} {
		pod := namespace(t)
		c := call{command: "ADD", annotations: meshed, netns: pod.Path(),
			entry: map[string]string{"backend": `"` + string(backend) + `"`}}
		c.run(t).passed(t, string(backend), result("1.0.0"))
		if diffs, err := (dataplane.Pod{NetNS: pod.Path(), Backend: backend}).Check(t.Context(),
			intercept.Default()); err != nil || len(diffs) > 0 {
			t.Errorf("%s: %v, %v", backend, diffs, err)
		}
		c.command = "CHECK"
		c.run(t).passed(t, string(backend), "")
	}
}

// TestResult: what ADD prints where the result before is of another version,
// or where there is none.
func TestResult(t *testing.T) {
	pod := namespace(t)
	for _, from := range versions {
		for _, to := range versions {
			o := call{command: "ADD", version: to, annotations: plain, netns: pod.Path(),
				entry: map[string]string{"prevResult": result(from)}}.run(t)
			var got struct {
				CNIVersion string `json:"cniVersion"`
				IPs        []struct {
					Address string `json:"address"`
				} `json:"ips"`
			}
			if err := json.Unmarshal([]byte(o.stdout), &got); err != nil || o.exit != 0 || got.CNIVersion != to ||
				len(got.IPs) != 1 || got.IPs[0].Address != "10.244.0.5/24" {
				t.Errorf("%s in a list of version %s: %s, %v", from, to, o.stdout, err)
			}
			if from == to {
				o.passed(t, from, result(from))
			}
		}
		call{command: "ADD", version: from, annotations: meshed, netns: pod.Path(), noResult: true}.run(t).passed(t, from,
			`{"cniVersion":"`+from+`"}`)
	}
}

// TestAnnotations: they decide what the rules are, over the entry's defaults.
func TestAnnotations(t *testing.T) {
	pod := namespace(t)
	want := intercept.Default()
	want.TunnelPort = 0
	want.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	want.DNS.Mode = intercept.DNSAll
	o := call{command: "ADD", netns: pod.Path(),
		entry: map[string]string{"defaults": `{"tunnelPort":0,"dns":{"mode":"resolvconf"}}`,
			"annotationPrefix": `"mesh.test"`},
		annotations: map[string]string{"mesh.test/enabled": "strict", "mesh.test/outbound-exclude-ports": "5432",
			"mesh.test/dns": "all", "intercept.mesh/enabled": "no"}}.run(t)
	o.passed(t, "annotations", result("1.0.0"))
	if !intercepted(t, pod.Path(), want) {
		t.Error("no rules")
	}
	// The pod's name servers come from the runtime.
	want.Outbound.ExcludePorts, want.DNS.Mode = nil, intercept.DNSResolvConf
	want.DNS.Servers = intercept.ParseResolvConf("nameserver 10.96.0.10\n")
	o = call{command: "ADD", netns: pod.Path(),
		entry: map[string]string{"defaults": `{"tunnelPort":0,"dns":{"mode":"resolvconf"}}`,
			"runtimeConfig": `{"io.kubernetes.cri.pod-annotations":{"intercept.mesh/enabled":"true"},` +
				`"dns":{"servers":["10.96.0.10"]}}`}}.run(t)
	o.passed(t, "resolvconf", result("1.0.0"))
	if !intercepted(t, pod.Path(), want) {
		t.Error("no rules")
	}
}

// TestNotOurs: whatever else is wrong, such a pod starts, and has no rules.
func TestNotOurs(t *testing.T) {
	broken := map[string]string{"defaults": `{"proxy":{"uids":[0]}}`, "nonsense": "1", "agentSocket": `"/gone"`}
	excluded := map[string]string{"CNI_ARGS": "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns"}
	for name, c := range map[string]call{
		"no annotation of ours, and a broken entry": {annotations: plain, entry: broken},
		"no annotations at all": {
			entry: map[string]string{"runtimeConfig": `{"io.kubernetes.cri.pod-annotations":null}`}},
		"disabled": {
			annotations: map[string]string{"intercept.mesh/enabled": "false", "intercept.mesh/dns": "x"}},
		"an init container": {
			annotations: map[string]string{"intercept.mesh/enabled": "true", "intercept.mesh/init": "container"}},
		"an excluded namespace": {annotations: map[string]string{"intercept.mesh/enabled": "nonsense"},
			env: excluded, entry: broken},
		"an excluded namespace, unknown": {env: excluded, entry: broken},
		"the agent's own pod": {
			env: map[string]string{"CNI_ARGS": "K8S_POD_NAMESPACE=mesh-system;K8S_POD_NAME=mesh-cni-agent-x2z"}, entry: broken},
		"no pod":                {env: map[string]string{"CNI_ARGS": "IgnoreUnknown=1;garbage"}, entry: broken},
		"host network":          {annotations: meshed, netns: "/proc/self/ns/net", entry: broken},
		"host network, unknown": {netns: "/proc/self/ns/net", entry: broken},
	} {
		t.Run(name, func(t *testing.T) {
			pod := namespace(t)
			c.command = "ADD"
			if c.netns == "" {
				c.netns = pod.Path()
			}
			c.run(t).passed(t, "ADD", result("1.0.0"))
			if intercepted(t, pod.Path(), intercept.Default()) {
				t.Error("there are rules")
			}
			c.command = "CHECK"
			c.run(t).passed(t, "CHECK", "")
		})
	}
	// A namespace that is gone is no concern of a pod that is not ours, either.
	call{command: "ADD", annotations: plain, netns: "/gone"}.run(t).passed(t, "gone", result("1.0.0"))
}

// TestErrors: every code of the table, one sentence each.
func TestErrors(t *testing.T) {
	netlab.RequireProgram(t, "unshare")
	pod := namespace(t)
	foreign := namespace(t)
	conn, err := nftables.New(nftables.WithNetNSFd(foreign.FD()))
	if err != nil {
		t.Fatal(err)
	}
	conn.AddTable(&nftables.Table{Name: nft.Table, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	entry := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	with := func(pairs ...string) map[string]string {
		m := entry(pairs...)
		m["intercept.mesh/enabled"] = "true"
		return m
	}
	for _, tt := range []struct {
		name  string
		call  call
		code  uint
		parts []string
	}{
		{"an old version", call{version: "0.2.0"}, 1, []string{"incompatible", `the list "pods" is of cniVersion 0.2.0, `,
			"speaks 0.3.0, 0.3.1, ", "write one of these"}},
		{"no version", call{entry: entry("cniVersion", "-")}, 1,
			[]string{`the list "pods" names no cniVersion, which means 0.1.0`}},
		{"a version to come", call{version: "9.9.9"}, 1, nil},
		{"CHECK before there was one", call{command: "CHECK", version: "0.3.1"}, 1, nil},
		{"STATUS before there was one", call{command: "STATUS", version: "1.0.0"}, 1, nil},
		{"an unknown field", call{entry: entry("failurePolice", `"allow"`)}, 2,
			[]string{`failurePolice: unknown field, with the value "allow"; did you mean failurePolicy?`}},
		{"CHECK of a pod that is gone", call{command: "CHECK", netns: "/proc/1/ns/gone"}, 3,
			[]string{"pod default/web: /proc/1/ns/gone"}},
		{"no container", call{env: entry("CNI_CONTAINERID", "-")}, 4, []string{"CNI_CONTAINERID"}},
		{"no namespace", call{env: entry("CNI_NETNS", "")}, 4, []string{"CNI_NETNS"}},
		{"a bad interface", call{env: entry("CNI_IFNAME", "a/b")}, 4, nil},
		{"an unknown command", call{command: "DANCE"}, 4, []string{"DANCE"}},
		{"no JSON", call{stdin: "{"}, 6, nil},
		{"a result that is none", call{entry: entry("prevResult", `"x"`)}, 6, []string{"prevResult"}},
		{"a result of an unknown version", call{entry: entry("prevResult", `{"cniVersion":"7.0.0"}`)}, 6,
			[]string{`version "7.0.0"`}},
		{"annotations that are none", call{entry: entry("runtimeConfig", `{"io.kubernetes.cri.pod-annotations":["x"]}`)}, 6,
			[]string{"io.kubernetes.cri.pod-annotations"}},
		{"no network's name", call{entry: entry("name", "-")}, 7, []string{"missing network name"}},
		{"a bad value", call{entry: entry("backend", `"ebpf"`)}, 7, []string{`backend: "ebpf" is not one of auto, nft`}},
		{"many bad values", call{
			entry: entry("agentTimeout", `5`, "logMaxSize", `"x"`, "defaults", `{"proxy":{"uids":[0]}}`, "x", "1")}, 7,
			[]string{"agentTimeout: 5 is not a string", "logMaxSize", "defaults: proxy.uids: 0", "x: unknown field"}},
		{"no such namespace", call{netns: "/proc/1/ns/gone"}, 8,
			[]string{"/proc/1/ns/gone: not a network namespace: there is no such file"}},
		{"not a namespace", call{netns: file}, 8, []string{file}},
		{"the annotations are unknown", call{annotations: nil, entry: entry("runtimeConfig", "-")}, 11,
			[]string{"there is no agentSocket", "declare the capability"}},
		{"a bad annotation", call{annotations: with("intercept.mesh/outbound-exclude-ports", "80-70")}, 100,
			[]string{`pod default/web: annotation intercept.mesh/outbound-exclude-ports: port range "80-70"`}},
		{"bad annotations", call{
			annotations: with("intercept.mesh/dns", "a\nb", "intercept.mesh/nonsense", "x", "intercept.mesh/proxy-uid", "0")},
			100,
			[]string{`"a\nb" is not one of`, "intercept.mesh/nonsense: unknown", "proxy.uids: 0"}},
		{"bad annotations under allow",
			call{annotations: with("intercept.mesh/dns", "x"), entry: entry("failurePolicy", `"allow"`)}, 100, nil},
		{"no program to write rules with", call{entry: entry("backend", `"iptables"`), hidden: true}, 101,
			[]string{"mesh-init doctor"}},
		{"the same, strict under allow",
			call{annotations: map[string]string{"intercept.mesh/enabled": "strict"},
				entry: entry("backend", `"iptables"`, "failurePolicy", `"allow"`), hidden: true}, 101, nil},
		{"someone else's table", call{netns: foreign.Path()}, 103, []string{nft.Table}},
		{"CHECK without rules", call{command: "CHECK"}, 105, []string{"not intercepted"}},
		{"a gVisor pod, by the injector", call{annotations: with("intercept.mesh/runtime-class", "gvisor")}, 106,
			[]string{"its runtime is gvisor", "init container"}},
		{"a Kata pod, by the list", call{entry: entry("runtime", `"kata-qemu"`)}, 106, []string{"its runtime is kata-qemu"}},
		{"a Kata pod, by its annotations", call{annotations: with("io.katacontainers.config.hypervisor.default_vcpus", "2")},
			106, []string{"io.katacontainers.config"}},
		{"no agent, and the runtime gives nothing",
			call{command: "STATUS", version: "1.1.0", entry: entry("capabilities", "{}")}, 50,
			[]string{"agentSocket", "io.kubernetes.cri.pod-annotations"}},
		{"STATUS without programs", call{command: "STATUS", version: "1.1.0", entry: entry("backend", `"iptables-legacy"`),
			hidden: true}, 50, []string{"backend iptables-legacy"}},
		{"STATUS of a bad entry", call{command: "STATUS", version: "1.1.0", entry: entry("logLevel", `"loud"`)}, 7,
			[]string{`logLevel: "loud" is not one of`}},
		{"STATUS with an agent that is gone",
			call{command: "STATUS", version: "1.1.0", entry: entry("capabilities", "{}", "agentSocket", `"/gone.sock"`)}, 50,
			[]string{"/gone.sock: no agent"}},
	} {
		c := tt.call
		if c.command == "" {
			c.command = "ADD"
		}
		if c.netns == "" {
			c.netns = pod.Path()
		}
		if c.annotations == nil && c.command != "STATUS" {
			if _, given := c.entry["runtimeConfig"]; !given {
				c.annotations = meshed
			}
		}
		o := c.run(t)
		o.refused(t, tt.name, tt.code, tt.parts...)
		if o.stderr != "" {
			t.Errorf("%s: standard error %q", tt.name, o.stderr)
		}
	}
	if intercepted(t, pod.Path(), intercept.Default()) {
		t.Error("a failure left rules")
	}

	// Standard input that cannot be read.
	cmd := call{command: "ADD", netns: pod.Path()}.cmd(t.Context())
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd.Stdin = dir
	finish(t, cmd).refused(t, "a directory as standard input", 5)

	// Without the capability to write rules.
	netlab.RequireProgram(t, "setpriv")
	cmd = call{command: "ADD", annotations: meshed, netns: pod.Path()}.cmd(t.Context())
	cmd.Args = append([]string{"setpriv", "--bounding-set=-net_admin", cmd.Path}, cmd.Args[1:]...)
	if cmd.Path, err = exec.LookPath("setpriv"); err != nil {
		t.Fatal(err)
	}
	finish(t, cmd).refused(t, "without NET_ADMIN", 102)
}

// TestAllow: what is not the pod's fault lets it through, if the policy says
// so, and the log says that it did.
func TestAllow(t *testing.T) {
	netlab.RequireProgram(t, "unshare")
	pod := namespace(t)
	log := filepath.Join(t.TempDir(), "log")
	for name, c := range map[string]call{
		"no agent":   {},
		"no backend": {annotations: meshed, hidden: true},
	} {
		c.command, c.netns, c.logs = "ADD", pod.Path(), log
		c.entry = map[string]string{"failurePolicy": `"allow"`, "backend": `"iptables"`}
		c.run(t).passed(t, name, result("1.0.0"))
	}
	if records := readLog(t, log); len(records) != 2 || records[0].Result != cniwire.ResultAllowed ||
		records[0].Level != "ERROR" || records[1].Error == "" {
		t.Errorf("%+v", records)
	}
}

// readLog reads a log file, of which every line has to be a whole record.
func readLog(t *testing.T, files ...string) (records []cniwire.Record) {
	t.Helper()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		for line := range bytes.Lines(b) {
			var r cniwire.Record
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			records = append(records, r)
		}
	}
	return records
}

// TestDel: it succeeds, says nothing, and is quick, whatever there is not.
func TestDel(t *testing.T) {
	pod := namespace(t)
	for name, c := range map[string]call{
		"as after ADD":            {annotations: meshed, netns: pod.Path()},
		"an empty namespace":      {annotations: meshed, noResult: true},
		"a namespace that's gone": {annotations: meshed, netns: "/run/netns/gone"},
		"the host's":              {annotations: meshed, netns: "/proc/self/ns/net"},
		"no variable": {
			env: map[string]string{"CNI_NETNS": "-", "CNI_CONTAINERID": "-", "CNI_IFNAME": "-", "CNI_PATH": "-",
				"CNI_ARGS": "-"}},
		"a broken entry":   {entry: map[string]string{"nonsense": "1", "backend": "[]"}},
		"a future version": {version: "9.9.9"},
		"no version":       {entry: map[string]string{"cniVersion": "-"}},
		"no JSON":          {stdin: "x"},
		"bad annotations":  {annotations: map[string]string{"intercept.mesh/enabled": "x"}},
	} {
		c.command = "DEL"
		for range 2 {
			c.run(t).passed(t, name, "")
		}
	}
}

// TestDelStorm: kubelet repeats DEL, with an empty namespace, of many pods at once.
func TestDelStorm(t *testing.T) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for range 200 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			call{command: "DEL", annotations: meshed, noResult: true}.run(t).passed(t, "DEL", "")
		})
	}
	wg.Wait()
}

// TestAddStorm: many pods at once, and one pod many times at once.
func TestAddStorm(t *testing.T) {
	one := namespace(t)
	log := filepath.Join(t.TempDir(), "log")
	var pods []*netlab.Namespace
	for range 50 {
		pods = append(pods, namespace(t))
	}
	var wg sync.WaitGroup
	var again atomic.Int64
	for i, pod := range pods {
		wg.Go(func() {
			call{command: "ADD", annotations: meshed, netns: pod.Path(), logs: log}.run(t).passed(t, fmt.Sprint("pod ", i),
				result("1.0.0"))
		})
		if i >= 20 {
			continue // each waits for those before it, and none waits for long
		}
		wg.Go(func() {
			add := call{command: "ADD", annotations: meshed, netns: one.Path(), logs: log}
			o := add.run(t)
			// Where the machine stands still for as long as a call waits, it is to be made again, as runtimes do.
			for range 3 {
				if !strings.Contains(o.stdout, tryAgain) {
					break
				}
				again.Add(1)
				o = add.run(t)
			}
			o.passed(t, "the one pod", result("1.0.0"))
		})
	}
	wg.Wait()
	for i, pod := range append(pods, one) {
		if !intercepted(t, pod.Path(), intercept.Default()) {
			t.Errorf("pod %d has no rules", i)
		}
	}
	if records := readLog(t, log); len(records) != 70+int(again.Load()) {
		t.Errorf("%d records, with %d calls made again", len(records), again.Load())
	}
}

// tryAgain is in an answer with the code by which a runtime is asked to come again (the CNI specification, "Error").
const tryAgain = `"code":11,`

// TestKilled: an ADD that is killed leaves the rules or none, and the next one
// is as if there had been none before.
func TestKilled(t *testing.T) {
	whole, none := 0, 0
	for i := range 40 {
		pod := namespace(t)
		cmd := call{command: "ADD", annotations: meshed, netns: pod.Path()}.cmd(t.Context())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Up to a whole run's time.
		timer := time.AfterFunc(time.Duration(rand.IntN(6000))*time.Microsecond, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if intercepted(t, pod.Path(), intercept.Default()) {
			whole++
		} else {
			none++
		}
		if i%4 == 0 {
			call{command: "ADD", annotations: meshed, netns: pod.Path()}.run(t).passed(t, "the next", result("1.0.0"))
			if !intercepted(t, pod.Path(), intercept.Default()) {
				t.Error("the next ADD made no rules")
			}
		}
	}
	t.Logf("%d times whole, %d times nothing", whole, none)
}

// TestCheck: it compares, and names the differences.
func TestCheck(t *testing.T) {
	pod := namespace(t)
	for _, v := range versions[2:] {
		add := call{command: "ADD", version: v, annotations: meshed, netns: pod.Path()}
		add.run(t).passed(t, v, result(v))
		check := add
		check.command = "CHECK"
		check.run(t).passed(t, v, "")
		other := intercept.Default()
		other.TunnelPort = 0
		if _, err := (dataplane.Pod{NetNS: pod.Path()}).Apply(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		check.run(t).refused(t, v, 104, "the rules are not what the pod asks for: ")
		if _, err := (dataplane.Pod{NetNS: pod.Path()}).Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		check.run(t).refused(t, v, 105, "restart the pod")
	}
}

// TestOtherCommands: VERSION, GC, and STATUS where all is well; STATUS writes
// nothing.
func TestOtherCommands(t *testing.T) {
	netlab.Require(t)
	o := call{command: "VERSION"}.run(t)
	if o.exit != 0 || !strings.Contains(o.stdout, `"supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("VERSION: %+v", o)
	}
	gc := map[string]string{"cni.dev/valid-attachments": `[{"containerID":"a","ifname":"eth0"}]`,
		"cni.dev/attachments": "[]"}
	call{command: "GC", version: "1.1.0", entry: gc}.run(t).passed(t, "GC", "")
	call{command: "STATUS", version: "1.1.0"}.run(t).passed(t, "STATUS", "")
	// Each pod brings its name servers.
	call{command: "STATUS", version: "1.1.0", entry: map[string]string{"defaults": `{"dns":{"mode":"resolvconf"}}`}}.run(
		t).passed(t, "STATUS with defaults that want a pod", "")
	socket := agent(t, cniwire.Server{})
	call{command: "STATUS", version: "1.1.0",
		entry: map[string]string{"capabilities": "{}", "agentSocket": `"` + socket + `"`}}.run(t).passed(t,
		"STATUS with an agent", "")
	cmd := call{}.cmd(t.Context())
	cmd.Env = nil
	cmd.Env = append(cmd.Env, "A=b")
	if o := finish(t, cmd); o.exit != 0 || o.stdout != "" || !strings.Contains(o.stderr, "docs/cni.md") {
		t.Errorf("by hand: %+v", o)
	}
}

// TestAgent: what the agent says about a pod, where the runtime says nothing.
func TestAgent(t *testing.T) {
	records := make(chan cniwire.Record, 100)
	release := make(chan struct{})
	defer close(release)
	socket := agent(t, cniwire.Server{
		Log: func(r cniwire.Record, _ json.RawMessage) { records <- r },
		Pod: func(ctx context.Context, pod cniwire.Pod) (cniwire.Facts, error) {
			if pod.Namespace != "default" || pod.UID != "u1" || pod.ContainerID == "" {
				t.Errorf("asked about %+v", pod)
			}
			switch pod.Name {
			case "web":
				return cniwire.Facts{Found: true, Annotations: meshed}, nil
			case "bad":
				return cniwire.Facts{Found: true, Annotations: map[string]string{"intercept.mesh/enabled": "maybe"}}, nil
			case "plain":
				return cniwire.Facts{Found: true, Annotations: plain}, nil
			case "host":
				return cniwire.Facts{Found: true, Annotations: meshed, HostNetwork: true}, nil
			case "init":
				return cniwire.Facts{Found: true, Annotations: meshed, InitContainer: true}, nil
			case "gvisor":
				return cniwire.Facts{Found: true, Annotations: meshed, RuntimeClass: "gvisor"}, nil
			case "broken":
				return cniwire.Facts{}, errors.New("the list has failed")
			}
			<-ctx.Done()
			return cniwire.Facts{}, nil
		},
	})
	ask := func(name string) (call, string) {
		pod := namespace(t)
		return call{command: "ADD", netns: pod.Path(),
			env:   map[string]string{"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_UID=u1;K8S_POD_NAME=" + name},
			entry: map[string]string{"agentSocket": `"` + socket + `"`, "agentTimeout": `"500ms"`}}, pod.Path()
	}
	for name, reason := range map[string]string{
		"plain": "not-annotated", "host": "host-network", "init": "init-container"} {
		c, netns := ask(name)
		c.run(t).passed(t, name, result("1.0.0"))
		if intercepted(t, netns, intercept.Default()) {
			t.Errorf("%s: there are rules", name)
		}
		// The agent counts them, whatever the level of the log.
		if r := <-records; r.Result != cniwire.ResultSkipped || r.Command != "ADD" || r.PodName != name ||
			r.Reason != reason {
			t.Errorf("%s: %+v", name, r)
		}
	}
	told := call{command: "ADD", netns: namespace(t).Path(), annotations: plain,
		entry: map[string]string{"agentSocket": `"` + socket + `"`}}
	told.run(t).passed(t, "annotations by the runtime", result("1.0.0"))
	if r := <-records; r.Result != cniwire.ResultSkipped || r.Reason != "not-annotated" || r.PodName != "web" ||
		r.PodNamespace != "default" || r.PodUID != "u1" {
		t.Errorf("annotations by the runtime: %+v", r)
	}
	c, netns := ask("web")
	c.run(t).passed(t, "web", result("1.0.0"))
	if !intercepted(t, netns, intercept.Default()) {
		t.Error("web: no rules")
	}
	if r := <-records; r.Result != cniwire.ResultIntercepted || r.Command != "ADD" || r.PodName != "web" ||
		r.Backend != "nft" || r.Outcome != "created" || r.Seconds <= 0 {
		t.Errorf("%+v", r)
	}
	c, _ = ask("bad")
	c.run(t).refused(t, "bad", 100, "pod default/bad: annotation intercept.mesh/enabled")
	if r := <-records; r.Result != cniwire.ResultFailed || r.Reason != "annotations" || r.Code != 100 || r.Error == "" {
		t.Errorf("%+v", r)
	}
	c, _ = ask("broken")
	c.run(t).refused(t, "broken", 11, "the list has failed")
	c, _ = ask("late")
	begun := time.Now()
	c.run(t).refused(t, "late", 11, "does not know the pod after 500ms")
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("late: %v", d)
	}
	// Of a pod whose annotations the runtime gives, it is asked for the RuntimeClass.
	for name, code := range map[string]uint{"gvisor": 106, "web": 0} {
		c, _ = ask(name)
		c.annotations = meshed
		if code == 0 {
			c.run(t).passed(t, name, result("1.0.0"))
		} else {
			c.run(t).refused(t, name, code, "its runtime is gvisor")
		}
	}
}

// TestBadAgent: an agent that is away, slow or mad fails the pods that may be
// ours, in time, and no other.
func TestBadAgent(t *testing.T) {
	pod := namespace(t)
	dir := t.TempDir()
	listen := func(name string, serve func(net.Conn)) string {
		path := filepath.Join(dir, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				serve(conn)
			}
		}()
		return path
	}
	dead := filepath.Join(dir, "dead")
	if l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"}); err != nil {
		t.Fatal(err)
	} else {
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	var held []net.Conn
	var mu sync.Mutex
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range held {
			c.Close()
		}
	}()
	for name, tt := range map[string]struct {
		socket string
		part   string
	}{
		"away": {filepath.Join(dir, "away"), "no agent listens there"},
		"dead": {dead, "no agent listens there"},
		"slow": {listen("slow", func(c net.Conn) { mu.Lock(); held = append(held, c); mu.Unlock() }),
			"did not answer in time"},
		"mad": {listen("mad", func(c net.Conn) { io.WriteString(c, "\x00\x01{{{\n"); c.Close() }),
			"is not an agent's answer"},
		"rude": {listen("rude", func(c net.Conn) { c.Close() }), "is not an agent's answer"},
		"new": {listen("new", func(c net.Conn) {
			bufio.NewReader(c).ReadString('\n')
			io.WriteString(c, `{"version":99}`+"\n")
			c.Close()
		}), "version 99"},
	} {
		entry := map[string]string{"agentSocket": `"` + tt.socket + `"`, "agentTimeout": `"300ms"`}
		begun := time.Now()
		call{command: "ADD", netns: pod.Path(), entry: entry}.run(t).refused(t, name, 11, tt.part, "pod default/web")
		if d := time.Since(begun); d > 5*time.Second {
			t.Errorf("%s: it took %v", name, d)
		}
		call{command: "ADD", netns: pod.Path(), entry: entry, annotations: plain}.run(t).passed(t,
			name+", a pod that does not ask", result("1.0.0"))
		call{command: "DEL", netns: pod.Path(), entry: entry}.run(t).passed(t, name+", DEL", "")
	}
	if intercepted(t, pod.Path(), intercept.Default()) {
		t.Error("there are rules")
	}
	// What the runtime says suffices.
	entry := map[string]string{"agentSocket": `"` + filepath.Join(dir, "slow") + `"`}
	call{command: "ADD", netns: pod.Path(), entry: entry, annotations: meshed}.run(t).passed(t, "meshed", result("1.0.0"))
	if !intercepted(t, pod.Path(), intercept.Default()) {
		t.Error("no rules")
	}
}

// TestLog: the log is bounded, and no line of it is lost in two by others.
func TestLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "deep", "down", "log")
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	const limit = 64 << 10
	for range 300 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			call{command: "ADD", netns: "/gone", logs: log, annotations: map[string]string{
				"intercept.mesh/enabled": strings.Repeat("x", 500)},
				entry: map[string]string{"logMaxSize": fmt.Sprint(limit)}}.run(t)
		})
	}
	wg.Wait()
	records := readLog(t, log, log+".1")
	if len(records) < 50 {
		t.Errorf("%d records", len(records))
	}
	for _, file := range []string{log, log + ".1"} {
		if info, err := os.Stat(file); err != nil || info.Size() > limit*5/4 || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(log)); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	// Nowhere to log to fails no pod.
	pod := namespace(t)
	for _, bad := range []string{"/dev/full", "/proc/nowhere/log", filepath.Dir(log)} {
		call{command: "ADD", netns: pod.Path(), logs: bad, annotations: meshed}.run(t).passed(t, bad, result("1.0.0"))
	}
}

// TestByHand: who runs it in a terminal reads what it is, and is not kept
// waiting for standard input.
func TestByHand(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := call{env: map[string]string{"CNI_COMMAND": "-"}}.cmd(ctx)
	cmd.Stdin = r
	if o := finish(t, cmd); o.exit != 0 || !strings.Contains(o.stderr, "docs/cni.md") {
		t.Errorf("%+v", o)
	}
}
