//go:build linux && cluster

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/program"
)

// image is what `make image` writes.
const (
	imageArchive = "../../../bin/intercept-image.tar"
	imageName    = "localhost/intercept:dev"
	manifest     = "../../../deploy/mesh-cni-agent.yaml"
	injector     = "../../../deploy/mesh-injector.yaml"
)

// pod is a pod with a sidecar, of user 1337, and an app, of user 1000.
func pod(name, more string, annotations ...string) string {
	var b strings.Builder
	for i := 0; i < len(annotations); i += 2 {
		fmt.Fprintf(&b, "    intercept.mesh/%s: %q\n", annotations[i], annotations[i+1])
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  annotations:
    example.org/other: annotation
%sspec:
  terminationGracePeriodSeconds: 1
  %s
  containers:
    - name: sidecar
      image: localhost/part:1
      command: [/part, server, sidecar, "15001", "15006", "udp:127.0.0.1:15053"]
      securityContext: {runAsUser: 1337, runAsGroup: 1337, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    - name: app
      image: localhost/part:1
      command: [/part, server, app, "8080", "15021"]
      readinessProbe: {tcpSocket: {port: 15021}, periodSeconds: 1}
      securityContext: {runAsUser: 1000, runAsGroup: 1000, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, name, b.String(), more)
}

// job makes of a pod a Job, whose pod nobody starts again.
func job(pod string) string {
	head, spec, _ := strings.Cut(pod, "spec:\n")
	name := strings.Fields(head[strings.Index(head, "name:"):])[1]
	annotations := head[strings.Index(head, "  annotations:"):]
	indent := func(text, by string) string {
		return by + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+by) + "\n"
	}
	return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: " + name + "}\nspec:\n  template:\n    metadata:\n" +
		indent(annotations, "    ") + "    spec:\n      restartPolicy: Never\n" + indent(spec, "    ")
}

// deploy is the manifest as somebody would edit it.
func deploy(t *testing.T, edits ...string) string {
	t.Helper()
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("%s has no %q", manifest, edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

// says waits until a program in a container prints what it should.
func (c *cluster) says(want, pod, container string, args ...string) {
	c.t.Helper()
	got := ""
	c.Await(fmt.Sprintf("%q of %s/%s %q", want, pod, container, args), func() bool {
		out, err := c.try(append([]string{"exec", pod, "-c", container, "--", "/part"}, args...)...)
		if said := fmt.Sprint(out, " ", err); said != got {
			got = said
			c.t.Logf("%s/%s %q: %s", pod, container, args, got)
		}
		return out == want
	})
}

// intercepted expects the fates of a pod that is intercepted, or of another.
func (c *cluster) intercepted(pod string, is bool) {
	c.t.Helper()
	out, lookup := "outside 80 -", "outside 10.96.0.10:53 udp"
	if is {
		out, lookup = "sidecar 15001 203.0.113.7:80", "sidecar 127.0.0.1:15053 udp"
	}
	c.says(out, pod, "app", "client", "tcp", "203.0.113.7:80")
	c.says(lookup, pod, "app", "client", "udp", "10.96.0.10:53")
	c.says("outside 80 -", pod, "sidecar", "client", "tcp", "203.0.113.7:80")
	said := ""
	c.Await("what arrives in "+pod, func() bool {
		// After a reboot another pod has its address, until its status says so.
		addr := c.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}") + ":8080"
		in := "app 8080 -"
		if is {
			in = "sidecar 15006 " + addr
		}
		got := c.Inside(c.part, "client", "tcp", addr)
		if got != said {
			said = got
			c.t.Logf("to %s at %s: %s", pod, addr, got)
		}
		return got == in
	})
}

func (c *cluster) ready(pod string) {
	c.t.Helper()
	c.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/"+pod)
}

// event waits for an event of a pod, and returns what it says.
func (c *cluster) event(pod, reason string) (note string) {
	c.t.Helper()
	c.Await("the event "+reason+" of "+pod, func() bool {
		note = c.kubectl("get", "events", "--field-selector", "involvedObject.name="+pod+",reason="+reason, "-o",
			"jsonpath={.items[*].message}")
		return note != ""
	})
	return note
}

// metric waits until the agent counts something.
func (c *cluster) metric(want string) {
	c.t.Helper()
	c.Await(want, func() bool {
		name := c.kubectl("get", "pods", "-n", "mesh-system", "-o", "jsonpath={.items[0].metadata.name}")
		text, err := c.try("get", "--raw", "/api/v1/namespaces/mesh-system/pods/http:"+name+":9992/proxy/metrics")
		return err == nil && strings.Contains(text, want+"\n")
	})
}

// process is one of a pod, as the node numbers it.
func (c *cluster) process(pod string) string {
	c.t.Helper()
	uid := c.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	pid, err := c.Output("/bin/sh", "-ec", "grep -l 'pod"+uid+"' /proc/[0-9]*/cgroup | head -n 1 | cut -d / -f 3")
	if err != nil || pid == "" {
		c.t.Fatalf("no process of %s: %v", pod, err)
	}
	return pid
}

// breaks runs a script in the network namespace of a pod, as somebody would on the node.
func (c *cluster) breaks(pod, script string) {
	c.t.Helper()
	if out, err := c.Output("nsenter", "--target", c.process(pod), "--net", "/bin/sh", "-euc", script); err != nil {
		c.t.Fatalf("%s: %s: %v: %s", pod, script, err, out)
	}
}

// strip takes the rules of a pod out.
func (c *cluster) strip(pod string) {
	c.t.Helper()
	program, err := filepath.Abs("../../../bin/mesh-init")
	if err != nil {
		c.t.Fatal(err)
	}
	if out, err := c.Output(program, "remove", "--netns", "/proc/"+c.process(pod)+"/ns/net"); err != nil {
		c.t.Fatalf("mesh-init remove: %v: %s", err, out)
	}
}

func (c *cluster) rollout() {
	c.t.Helper()
	_, err := c.try("rollout", "status", "-n", "mesh-system", "daemonset/mesh-cni-agent", "--timeout=90s")
	if err != nil {
		log, _ := c.try("logs", "-n", "mesh-system", "daemonset/mesh-cni-agent", "--tail=40")
		c.t.Fatalf("the agent is not ready: %v\n%s", err, log)
	}
}

// logged is whether the plugin's log, which a reboot empties, has a result of a pod.
func (c *cluster) logged(pod, result string) bool {
	c.t.Helper()
	log, err := c.Output("/bin/cat", "/var/log/mesh-cni/mesh-cni.log")
	if err != nil {
		return false
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"podName":"`+pod+`"`) && strings.Contains(line, `"result":"`+result+`"`) {
			return true
		}
	}
	return false
}

func (c *cluster) list() string {
	c.t.Helper()
	b, err := os.ReadFile(c.Path("net.d/10-pods.conflist"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// TestCluster is a life of the agent on a node, with all that is around it.
func TestCluster(t *testing.T) {
	part := filepath.Join(t.TempDir(), "part")
	if err := program.Build(part, "testing/part"); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, part, options{taint: taint})
	c.Import(imageArchive, imageName)

	// Before the agent: a Job's pod and a static pod that ask for interception,
	// and are started without; and one that the taint holds back.
	meshed := []string{"enabled", "true", "dns", "resolvconf", "outbound-exclude-ports", "5432"}
	c.apply(job(pod("early", "tolerations: [{operator: Exists}]", meshed...)))
	early := ""
	c.Await("the Job's pod", func() bool {
		early = c.kubectl("get", "pods", "-l", "job-name=early", "-o", "jsonpath={.items[*].metadata.name}")
		return early != ""
	})
	c.ready(early)
	c.intercepted(early, false)
	c.write("static/first.yaml", pod("first", "", meshed...))
	c.Await("the static pod", func() bool { _, err := c.try("get", "pod", "first-"+nodeName); return err == nil })
	c.ready("first-" + nodeName)
	c.intercepted("first-"+nodeName, false)
	c.apply(pod("web", "", meshed...))

	c.apply(deploy(t,
		"            - --keep-on-exit\n", "            - --keep-on-exit\n            - --startup-taint="+taint+
			"\n            - --repair-interval=2s\n",
		"  # - apiGroups: [\"\"]\n  #   resources: [nodes]\n  #   verbs: [get, patch]\n",
		"  - apiGroups: [\"\"]\n    resources: [nodes]\n    verbs: [get, patch]\n"))
	c.rollout()

	// The pod that was held back, the one that was not, and others.
	c.ready("web")
	c.intercepted("web", true)
	c.says("outside 5432 -", "web", "app", "client", "tcp", "203.0.113.7:5432")
	for _, name := range []string{early, "first-" + nodeName} {
		if note := c.event(name, "RulesRepaired"); !strings.Contains(note, "had none of the rules") {
			t.Error(note)
		}
		if out := c.kubectl("describe", "pod", name); !strings.Contains(out, "RulesRepaired") {
			t.Errorf("kubectl describe has no event: %s", out)
		}
		c.intercepted(name, true)
		if n := c.kubectl("get", "pod", name, "-o", "jsonpath={.status.containerStatuses[*].restartCount}"); n != "0 0" {
			t.Errorf("%s: restarted %s", name, n)
		}
	}
	if out, err := c.try("exec", "-n", "mesh-system", "daemonset/mesh-cni-agent", "--", "/mesh-cni-agent", "doctor",
		"--plugin-conf=/etc/mesh-cni/plugin.json"); err != nil || strings.Count(out, " ok ") != 5 {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	c.apply(pod("plain", ""))
	c.apply(pod("bad", "", "enabled", "true", "outbound-exclude-ports", "80-70"))
	c.ready("plain")
	c.intercepted("plain", false)
	if note := c.event("bad", "FailedCreatePodSandBox"); !strings.Contains(note,
		`pod default/bad: annotation intercept.mesh/outbound-exclude-ports: port range "80-70" ends before it begins`) {
		t.Error(note)
	}
	c.kubectl("delete", "pod", "bad", "--timeout=60s")
	c.metric(`mesh_cni_adds_total{reason="enabled",result="intercepted"} 1`)
	c.metric(`mesh_cni_adds_total{reason="not-annotated",result="skipped"} 1`)
	c.metric(`mesh_cni_repairs_total{result="repaired"} 2`)

	// The users of a pod with hostUsers: false are others on the node; its rules
	// know them by the numbers that they have in the pod.
	c.apply(pod("boxed", "hostUsers: false", meshed...))
	c.ready("boxed")
	c.intercepted("boxed", true)

	// Somebody takes rules out.
	for _, name := range []string{"web", "boxed"} {
		c.strip(name)
		if note := c.event(name, "RulesRepaired"); !strings.Contains(note, "had none of the rules") {
			t.Error(note)
		}
		c.intercepted(name, true)
	}
	c.metric(`mesh_cni_repairs_total{result="repaired"} 4`)

	// The owner of the list writes it again, as Calico's does when it restarts.
	c.write("net.d/10-pods.conflist", list)
	c.Await("our entry in the list again", func() bool { return strings.Contains(c.list(), "mesh-cni") })
	c.metric(`mesh_cni_conflist_writes_total{reason="restored"} 1`)

	// An agent that is replaced leaves no gap.
	c.kubectl("delete", "pods", "-n", "mesh-system", "-l", "app=mesh-cni-agent", "--wait=false")
	c.apply(pod("during", "", meshed...))
	c.ready("during")
	c.intercepted("during", true)
	if !strings.Contains(c.list(), "mesh-cni") {
		t.Error("the entry is gone: ", c.list())
	}
	c.rollout()

	// Without an API server pods start as usual: static ones, for example.
	c.kill("kube-apiserver")
	c.write("static/static.yaml", pod("static", "", meshed...))
	c.Await("a static pod without an API server", func() bool {
		return c.logged("static-"+nodeName, "intercepted")
	})
	c.startAPI()
	c.ready("static-" + nodeName)
	c.intercepted("static-"+nodeName, true)

	// The power fails. Pods start again before the agent does.
	c.Halt()
	c.Boot()
	c.startKubernetes()
	for _, name := range []string{"web", "plain", "boxed", "static-" + nodeName} {
		c.ready(name)
		c.intercepted(name, name != "plain")
	}
	for _, name := range []string{"web", "during", "boxed", "static-" + nodeName} {
		if !c.logged(name, "intercepted") {
			t.Errorf("after the reboot %s was not intercepted when it started", name)
		}
	}
	c.rollout()

	// Uninstalled, as docs/agent.md says.
	c.kubectl("delete", "daemonset", "-n", "mesh-system", "mesh-cni-agent", "--timeout=60s")
	c.Await("the agent's end", func() bool { return c.kubectl("get", "pods", "-n", "mesh-system", "-o", "name") == "" })
	if got := c.list(); got != list {
		t.Errorf("left behind: %s", got)
	}
	if out, err := c.Output("/bin/ls", "/opt/cni/bin"); err != nil || out != "bridge\nhost-local\nloopback" {
		t.Errorf("left behind: %v %s", err, out)
	}
	if out, err := c.Output("/bin/ls", "-A", "/run/mesh-cni"); err != nil || out != "" {
		t.Errorf("left behind: %v %s", err, out)
	}
	c.intercepted("web", true) // as long as it lives
	c.apply(pod("after", "", meshed...))
	c.ready("after")
	c.intercepted("after", false)

	// And everything can go.
	for _, name := range []string{"first", "static"} {
		os.Remove(c.Path("static/" + name + ".yaml"))
	}
	c.kubectl("delete", "jobs,pods", "--all", "--timeout=60s")
}
