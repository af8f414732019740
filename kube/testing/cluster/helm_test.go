//go:build linux && cluster

package cluster

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/program"
)

// helm runs Helm itself.
func (c *cluster) helm(args ...string) (string, error) {
	c.t.Helper()
	helm := []string{"-c", `exec "$@" 2>&1`, "sh", filepath.Join(filepath.Dir(c.program), "helm"),
		"--kubeconfig", c.Path("admin.kubeconfig"), "--namespace", "kube-system"}
	return c.Output("/bin/sh", append(helm, args...)...)
}

// release runs Helm, which has to succeed and to wait until all of the release is ready.
func (c *cluster) release(args ...string) string {
	c.t.Helper()
	out, err := c.helm(append(args, "--wait", "--timeout", "5m")...)
	if err != nil {
		log, _ := c.try("logs", "-n", "mesh-system", "daemonset/mesh-cni-agent", "--tail=40")
		c.t.Fatalf("helm %q: %v: %s\n%s", args, err, out, log)
	}
	c.t.Logf("helm %q: %s", args, out)
	return out
}

// gone waits until the cluster has what it had before, and the node its list and its plugins.
func (c *cluster) gone(before []string) {
	c.t.Helper()
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

// TestHelm installs, upgrades, rolls back and uninstalls the chart with Helm itself, and runs the commands of
// docs/helm.md, which do the same with kustomize. Nothing may be left each time.
func TestHelm(t *testing.T) {
	part := filepath.Join(t.TempDir(), "part")
	if err := program.Build(part, "testing/part"); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, part, options{proxy: "iptables"})
	c.Import(imageArchive, imageName)
	c.Await("the service account of pods", func() bool {
		_, err := c.try("get", "serviceaccount", "default")
		return err == nil
	})
	before := c.everything()
	chart, err := filepath.Abs("../../../deploy/chart") // Helm runs elsewhere
	if err != nil {
		t.Fatal(err)
	}

	c.release("install", "intercept", chart)
	if !strings.Contains(c.list(), "mesh-cni") {
		t.Errorf("it waits for less than the plugin: %s", c.list())
	}
	c.apply(pod("web", "", "enabled", "true", "dns", "all"))
	c.ready("web")
	c.intercepted("web", true)
	c.kubectl("label", "namespace", "default", "intercept.mesh/inject=enabled")
	injected := func() string {
		t.Helper()
		return c.kubectl("run", "x", "--image=localhost/part:1", "--dry-run=server", "-o",
			"jsonpath={.spec.initContainers[*].name}")
	}
	if names := injected(); !strings.Contains(names, "haproxy") {
		t.Errorf("a pod that is created has the init containers %q", names)
	}

	// What changes with an upgrade is in force, and with a rollback no longer. The plugin stays all the while.
	arguments := func() string {
		return c.kubectl("get", "daemonset", "-n", "mesh-system", "mesh-cni-agent", "-o",
			"jsonpath={.spec.template.spec.containers[0].args}")
	}
	was := arguments()
	c.release("upgrade", "intercept", chart, "--set", "agent.logLevel=debug", "--set", "injector.replicas=1", "--set",
		"labels.team=mesh", "--set", "agent.podLabels.tier=node")
	if now := arguments(); !strings.Contains(now, "--log-level=debug") {
		t.Errorf("after the upgrade the agent runs with %s", now)
	}
	if names := injected(); !strings.Contains(names, "haproxy") {
		t.Errorf("after the upgrade a pod has the init containers %q", names)
	}
	if out, err := c.helm("upgrade", "intercept", chart, "--set", "profile=k4s"); err == nil ||
		!strings.Contains(out, "/profile") {
		t.Errorf("an upgrade to a distribution that there is not: %v: %s", err, out)
	}
	c.release("rollback", "intercept", "1")
	if now := arguments(); now != was {
		t.Errorf("after the rollback the agent runs with %s, not %s", now, was)
	}
	n := c.kubectl("get", "deployment", "-n", "mesh-injector", "mesh-injector", "-o", "jsonpath={.spec.replicas}")
	if n != "2" {
		t.Errorf("after the rollback there are %s injectors", n)
	}
	if !strings.Contains(c.list(), "mesh-cni") {
		t.Errorf("the entry is gone: %s", c.list())
	}
	c.intercepted("web", true)

	c.kubectl("label", "namespace", "default", "intercept.mesh/inject-")
	c.kubectl("delete", "pod", "web", "--timeout=60s")
	c.release("uninstall", "intercept")
	c.gone(before)

	// As docs/helm.md says, which ends with nothing installed, too.
	c.runScripts(c.scripts("../../../docs/helm.md"), nil)
	c.gone(before)
}
