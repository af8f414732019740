//go:build linux && cluster

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/program"
)

// visitor is a pod that nobody intercepts.
const visitor = `
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: visitor, image: ` + appImage + `, args: [pause]}]
`

// modes are ways to write the rules, and what Pod Security the namespaces are to
// enforce in which a shop has them.
var modes = map[string]string{"init": "privileged", "cni": "restricted"}

// TestScenario is a mesh in a cluster, from its first pod to its last, with each
// kube-proxy: a shop that knows of no mesh, with rules that an init container writes,
// and one with rules of the node's.
func TestScenario(t *testing.T) {
	part := filepath.Join(t.TempDir(), "part")
	if err := program.Build(part, "testing/part"); err != nil {
		t.Fatal(err)
	}
	for _, proxy := range []string{"iptables", "nftables"} {
		t.Run(proxy, func(t *testing.T) { scenario(newCluster(t, part, options{proxy: proxy})) })
	}
}

func scenario(c *cluster) {
	c.importImages()
	core, err := os.ReadFile("testdata/coredns.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	c.apply(string(core))
	c.apply(deploy(c.t))
	c.apply(visitor)
	c.kubectl("rollout", "status", "-n", "kube-system", "deploy/coredns", "--timeout=120s")
	c.rollout()

	var shops []shop
	for mode, level := range modes {
		s := shop{c, "shop-" + mode}
		c.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + s.ns +
			"\n  labels: {pod-security.kubernetes.io/enforce: " + level + "}\n")
		s.inject("haproxy-dns")
		shops = append(shops, s)
	}
	c.t.Run("shops", func(t *testing.T) {
		for _, s := range shops {
			t.Run(s.ns, func(t *testing.T) {
				t.Parallel()
				s := shop{c.in(t), s.ns}
				s.settled()
				s.run("services", services)
				s.run("startup", startup)
				s.run("readiness", readiness)
				s.run("liveness", liveness)
				s.run("stateful", stateful)
				s.run("ingress", ingress)
				s.run("jobs", jobs)
				s.run("update", update)
			})
		}
	})
	in := func(c *cluster) (all []shop) {
		for _, s := range shops {
			all = append(all, shop{c, s.ns})
		}
		return all
	}
	c.t.Run("names", func(t *testing.T) { c := c.in(t); names(c, in(c)) })
	c.t.Run("removed", func(t *testing.T) {
		for _, s := range in(c.in(t)) {
			removed(s)
		}
	})
	c.t.Run("uninstall", func(t *testing.T) { uninstall(c.in(t)) })
}

// meshInit runs mesh-init, which has to succeed.
func (c *cluster) meshInit(stdin string, args ...string) string {
	c.t.Helper()
	program, err := filepath.Abs("../../../bin/mesh-init")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := c.Command(program, args...)
	var out, said strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	if err := c.Net.Start(cmd, nil); err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		c.t.Fatalf("mesh-init %s: %v: %s", args, err, &said)
	}
	return out.String()
}

// inject applies objects of the shop as mesh-init writes them.
func (s shop) inject(profile string, names ...string) {
	s.t.Helper()
	_, mode, _ := strings.Cut(s.ns, "-")
	s.send("apply", s.meshInit(s.manifests(names...), "inject", "--profile", profile, "--inject-mode", mode, "-f", "-"))
}

// send gives manifests to a verb of kubectl.
func (s shop) send(verb, yaml string) {
	s.t.Helper()
	if out, err := s.tryWith(yaml, verb, "-n", s.ns, "-f", "-"); err != nil {
		s.t.Fatalf("kubectl %s: %s%v", verb, out, err)
	}
}

// names: the sidecars answer lookups. They know names while the cluster's servers are
// away, which the visitor then cannot ask.
func names(c *cluster, shops []shop) {
	core := func(replicas string, wait ...string) {
		c.kubectl("scale", "-n", "kube-system", "deploy/coredns", "--replicas="+replicas)
		c.kubectl(append(wait, "-n", "kube-system", "--timeout=60s")...)
	}
	for _, s := range shops { // a name that none of them has asked for, so that it is as new as can be
		s.get("deploy/client", "ingress")
	}
	core("0", "wait", "--for=delete", "pod", "-l", "k8s-app=kube-dns")
	for _, s := range shops {
		s.get("deploy/client", "ingress")
		if out, err := c.try("exec", "visitor", "--", "curl", "-sS", "--max-time", "6", "http://ingress."+s.ns); err == nil {
			c.t.Errorf("somebody else answers: %s", out)
		}
	}
	core("1", "rollout", "status", "deploy/coredns")
}

// update: another version of the profile takes the place of the first while users ask
// all the time, and none of them notices.
func update(s shop) {
	profile := s.meshInit("", "inject", "--profile", "haproxy-dns", "--print-profile")
	const was, is = "timeout connect 5s", "timeout connect 4s"
	if !strings.Contains(profile, was) {
		s.t.Fatal(profile)
	}
	s.write(s.ns+".yaml", strings.ReplaceAll(profile, was, is))
	var load strings.Builder
	cmd := s.Command(s.program, "kubectl", "--kubeconfig", s.Path("admin.kubeconfig"), "exec", "-n", s.ns, "deploy/client",
		"--", "sh", "-c", `asked=0 failed=0
		until [ -e /dev/shm/stop ]; do
			curl -fsS -o /dev/null --max-time 20 http://web/hostname || failed=$((failed+1)); asked=$((asked+1))
		done
		echo $asked $failed`)
	cmd.Stdout, cmd.Stderr = &load, &load
	if err := s.Net.Start(cmd, nil); err != nil {
		s.t.Fatal(err)
	}
	s.inject(s.Path(s.ns+".yaml"), "web")
	_, rolled := s.try("-n", s.ns, "rollout", "status", "deploy/web", "--timeout=240s")
	s.inApp("deploy/client", "sh", "-c", ": >/dev/shm/stop")
	if err := errors.Join(rolled, cmd.Wait()); err != nil {
		s.t.Errorf("%v: %s", err, &load)
	}
	var asked, failed int
	if _, err := fmt.Sscan(load.String(), &asked, &failed); err != nil || asked < 10 || failed > 0 {
		s.t.Errorf("users: %v %s", err, &load)
	}
	s.t.Logf("asked %d times, %d failures", asked, failed)
	s.Await("the end of the pods with the older profile", func() bool {
		return !strings.Contains(s.field("web", ".items[*].metadata.annotations"), was)
	})
	if got := s.field("web", ".items[*].metadata.annotations"); !strings.Contains(got, is) {
		s.t.Errorf("no pod has the new profile: %s", got)
	}
}

// removed: nothing of the sidecars stays in the shop, whether its own manifests are
// applied again or what is in the cluster is freed of them. Nodes go on intercepting: to
// run without a sidecar the ingress controller, which says how, has to say that, too.
func removed(s shop) {
	plain := strings.Replace(s.manifests(), `inbound-mode: "off"`, `inbound-mode: "off", intercept.mesh/inject: "false"`, 1)
	if s.ns == "shop-init" {
		s.k("delete", "job", "order")
		s.send("apply", plain)
	} else {
		injected := s.k("get", "deployments,statefulsets,cronjobs", "-o", "json")
		freed := s.meshInit(injected, "inject", "--uninject", "-f", "-")
		s.send("replace", strings.Replace(freed, `inbound-mode": "off"`, `inbound-mode": "off", "intercept.mesh/inject": "false"`, 1))
	}
	s.settled()
	const template = `{.kind} {.metadata.name} {.spec.template}{.spec.jobTemplate}{"\n"}`
	got := s.k("get", "deployments,statefulsets,cronjobs", "-o", "jsonpath={range .items[*]}"+template+"{end}")
	for line := range strings.Lines(got) {
		if strings.Contains(line, "mesh-") || strings.Contains(line, "haproxy-dns") {
			s.t.Errorf("left behind: %s", line)
		}
	}
	was := map[string]bool{}
	out, err := s.tryWith(strings.ReplaceAll(plain, "\nmetadata: {name: ", "\nmetadata: {name: x-"), "create",
		"--dry-run=server", "-n", s.ns, "-f", "-", "-o", "jsonpath="+template)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(strings.ReplaceAll(out, " x-", " ")) {
		was[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(got) {
		if !was[strings.TrimSpace(line)] {
			s.t.Errorf("not as it was: %s\n%s", line, out)
		}
	}
}

// uninstall takes the agent out, and expects that nothing is left.
func uninstall(c *cluster) {
	c.kubectl("delete", "namespace", "shop-init", "shop-cni", "--timeout=120s")
	if out, err := c.tryWith(deploy(c.t), "delete", "--timeout=120s", "-f", "-"); err != nil {
		c.t.Errorf("%s%v", out, err)
	}
	if got := c.list(); got != list {
		c.t.Errorf("left behind: %s", got)
	}
	if out, err := c.Output("/bin/ls", "/opt/cni/bin"); err != nil || out != "bridge\nhost-local\nloopback" {
		c.t.Errorf("left behind: %v %s", err, out)
	}
	if out := c.kubectl("api-resources", "--verbs=list", "-o", "name"); out != "" {
		kinds := strings.Join(slices.DeleteFunc(strings.Fields(out), func(kind string) bool {
			return strings.HasPrefix(kind, "events")
		}), ",")
		for name := range strings.Lines(c.kubectl("get", kinds, "-A", "-o", "name")) {
			if strings.Contains(name, "mesh") {
				c.t.Errorf("left behind: %s", name)
			}
		}
	}
}
