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

// page tells the scenario, and sets it up.
const page = "../../../docs/scenario.md"

// visitor is a pod that nobody intercepts.
const visitor = `
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: visitor, image: ` + appImage + `, args: [pause]}]
`

// late is a pod that is admitted where Pod Security is restricted, with more labels.
const late = `
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late%s}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: late
    image: ` + appImage + `
    args: [pause]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`

// modes are ways to write the rules, and what Pod Security the namespaces are to
// enforce in which a shop has them.
var modes = map[string]string{"init": "privileged", "cni": "restricted"}

// TestScenario is a mesh in a cluster, from its first pod to its last, with each
// kube-proxy and each way to get sidecars: a shop that knows of no mesh, with rules that
// an init container writes, and one with rules of the node's.
func TestScenario(t *testing.T) {
	part := filepath.Join(t.TempDir(), "part")
	if err := program.Build(part, "testing/part"); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]options{
		"inject-iptables":  {proxy: "iptables"},
		"webhook-nftables": {proxy: "nftables", webhook: true},
	} {
		t.Run(name, func(t *testing.T) { scenario(newCluster(t, part, o)) })
	}
}

func scenario(c *cluster) {
	c.importImages()
	c.apply(c.file("testdata/coredns.yaml"))
	c.kubectl("rollout", "status", "-n", "kube-system", "deploy/coredns", "--timeout=120s")
	before := c.everything()
	if c.o.webhook { // as the page says
		c.setUp(page, map[string]string{"shop.yaml": c.file("testdata/shop.yaml")})
		c.rollout()
	} else {
		c.apply(c.file(manifest))
		c.rollout()
		c.apply(visitor)
	}

	var namespaces []string
	for mode, level := range modes {
		s := shop{c, "shop-" + mode}
		if !c.o.webhook {
			c.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + s.ns +
				"\n  labels: {pod-security.kubernetes.io/enforce: " + level + "}\n")
			s.inject("haproxy-dns")
		}
		namespaces = append(namespaces, s.ns)
	}
	c.t.Run("shops", func(t *testing.T) {
		for _, ns := range namespaces {
			t.Run(ns, func(t *testing.T) {
				t.Parallel()
				s := shop{c.in(t), ns}
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
	step := func(name string, do func(*cluster, []shop)) {
		c.t.Run(name, func(t *testing.T) {
			var shops []shop
			for _, ns := range namespaces {
				shops = append(shops, shop{c.in(t), ns})
			}
			do(c.in(t), shops)
		})
	}
	step("names", names)
	if c.o.webhook {
		step("page", func(c *cluster, shops []shop) {
			c.typePage(page, map[string]string{"shop.yaml": shops[0].manifests()})
		})
		step("refusals", refusals)
		step("absence", absence)
	}
	step("removed", func(_ *cluster, shops []shop) {
		for _, s := range shops {
			removed(s)
		}
	})
	step("uninstall", func(c *cluster, _ []shop) { uninstall(c, before) })
}

func (c *cluster) file(path string) string {
	c.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
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

// inject applies objects of the shop: as mesh-init writes them, or as they are where the
// webhook sees to it.
func (s shop) inject(profile string, names ...string) {
	s.t.Helper()
	if s.o.webhook {
		s.send("apply", s.manifests(names...))
		return
	}
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
	file := s.ns + ".yaml"
	s.write(file, strings.ReplaceAll(profile, was, is))
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
	if s.o.webhook {
		s.kubectl("create", "configmap", "-n", "mesh-injector", s.ns, "--from-file=profile.yaml="+s.Path(file))
		s.kubectl("label", "configmap", "-n", "mesh-injector", s.ns, "intercept.mesh/profile=")
		s.kubectl("label", "namespace", s.ns, "--overwrite", "intercept.mesh/profile="+s.ns)
		s.Await("the new profile to be in force", func() bool {
			out, err := s.tryWith(fmt.Sprintf(late, ""), "create", "-n", s.ns, "--dry-run=server", "-o", "json", "-f", "-")
			return err == nil && strings.Contains(out, is)
		})
		s.k("rollout", "restart", "deploy/web")
	} else {
		s.inject(s.Path(file), "web")
	}
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
	if s.o.webhook {
		s.kubectl("label", "namespace", s.ns, "--overwrite", "intercept.mesh/profile=haproxy-dns")
	}
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
	plain := strings.Replace(s.manifests(), `inbound-mode: "off"`,
		`inbound-mode: "off", intercept.mesh/inject: "false"`, 1)
	switch {
	case s.o.webhook:
		s.kubectl("label", "namespace", s.ns, "intercept.mesh/inject-")
		s.k("delete", "job", "order")
		s.send("apply", plain)
		for workload := range strings.FieldsSeq(s.k("get", "deployments,statefulsets", "-o", "name")) {
			s.k("rollout", "restart", workload)
		}
	case s.ns == "shop-init":
		s.k("delete", "job", "order")
		s.send("apply", plain)
	default:
		s.Await("objects that nobody changes meanwhile", func() bool {
			injected := s.k("get", "deployments,statefulsets,cronjobs", "-o", "json")
			freed := strings.Replace(s.meshInit(injected, "inject", "--uninject", "-f", "-"), `inbound-mode": "off"`,
				`inbound-mode": "off", "intercept.mesh/inject": "false"`, 1)
			_, err := s.tryWith(freed, "replace", "-n", s.ns, "-f", "-")
			return err == nil
		})
	}
	s.settled()
	s.Await("the end of the pods with sidecars", func() bool {
		return !strings.Contains(s.k("get", "pods", "--field-selector=status.phase=Running", "-o",
			"jsonpath={.items[*].spec.initContainers[*].name}"), "haproxy")
	})
	if s.o.webhook {
		return // which has left the manifests as they were
	}
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

// refusals: what is wrong is refused by the sentence that mesh-init prints, when it is
// applied.
func refusals(c *cluster, shops []shop) {
	for _, s := range shops {
		wrong := strings.Replace(s.manifests("ingress"), "inbound-mode", "inbound-mod", 1)
		_, err := s.tryWith(wrong, "apply", "-n", s.ns, "-f", "-")
		const want = "annotation intercept.mesh/inbound-mod: unknown annotation; did you mean inbound-mode?"
		if err == nil || !strings.Contains(err.Error(), want) {
			c.t.Errorf("%v, not %q", err, want)
		}
	}
}

// absence: without the injector no pod starts that should have a sidecar, and all others
// do.
func absence(c *cluster, shops []shop) {
	c.kubectl("scale", "-n", "mesh-injector", "deploy/mesh-injector", "--replicas=0")
	c.kubectl("wait", "-n", "mesh-injector", "--for=delete", "pod", "-l", "app=mesh-injector", "--timeout=60s")
	for _, s := range shops {
		s.Await("a refusal", func() bool {
			out, err := s.tryWith(fmt.Sprintf(late, ""), "create", "-n", s.ns, "-f", "-")
			if err == nil {
				s.t.Fatalf("the pod was admitted: %s", out)
			}
			return strings.Contains(err.Error(), "failed calling webhook")
		})
		s.send("apply", fmt.Sprintf(late, `, intercept.mesh/inject: "false"`))
		s.await("late", "condition=Ready")
		s.k("delete", "deploy/web", "--cascade=orphan")
		s.k("delete", "pods", "-l", "app=web", "--wait=false")
	}
	c.apply(strings.ReplaceAll(visitor, "visitor", "second"))
	c.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/second")
	c.kubectl("scale", "-n", "mesh-injector", "deploy/mesh-injector", "--replicas=2")
	c.kubectl("rollout", "status", "-n", "mesh-injector", "deploy/mesh-injector", "--timeout=120s")
	for _, s := range shops { // and goes on when it is back
		s.inject("haproxy-dns", "web")
		s.k("rollout", "status", "deploy/web", "--timeout=240s")
		s.get("deploy/client", "web/hostname")
	}
}

// everything is what the API server has, by name, but for events and what CoreDNS and the
// control plane make for themselves.
func (c *cluster) everything() []string {
	c.t.Helper()
	kinds := slices.DeleteFunc(strings.Fields(c.kubectl("api-resources", "--verbs=list", "-o", "name")),
		func(kind string) bool { return strings.HasPrefix(kind, "events") })
	all := strings.Fields(c.kubectl("get", strings.Join(kinds, ","), "-A", "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{"\n"}{end}`))
	all = slices.DeleteFunc(all, func(name string) bool { return strings.Contains(name, "/kube-") })
	slices.Sort(all)
	return all
}

// uninstall takes all out, and expects that nothing is left.
func uninstall(c *cluster, before []string) {
	c.kubectl("delete", "namespace", "shop-init", "shop-cni", "--timeout=120s")
	c.kubectl("delete", "pods", "--all", "--timeout=60s")
	for _, path := range []string{injector, manifest} {
		if out, err := c.tryWith(c.file(path), "delete", "--ignore-not-found", "--timeout=120s", "-f", "-"); err != nil {
			c.t.Errorf("%s%v", out, err)
		}
		if path == injector { // which takes nothing of the agent's along
			c.rollout()
		}
	}
	last := ""
	c.Await("the API server to have what it had", func() bool {
		left := slices.DeleteFunc(c.everything(), func(name string) bool {
			_, found := slices.BinarySearch(before, name)
			return found
		})
		if said := strings.Join(left, " "); said != last {
			last = said
			c.t.Logf("left: %s", left)
		}
		return len(left) == 0
	})
	if got := c.list(); got != list {
		c.t.Errorf("left behind: %s", got)
	}
	for dir, want := range map[string]string{"/opt/cni/bin": "bridge\nhost-local\nloopback", "/run/mesh-cni": ""} {
		if out, err := c.Output("/bin/ls", "-A", dir); err != nil || out != want {
			c.t.Errorf("left behind in %s: %v %s", dir, err, out)
		}
	}
}
