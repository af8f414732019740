//go:build linux && cluster

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/program"
)

// intercept runs kubectl intercept, as kubectl finds it, and returns its exit code and what it says.
func (c *cluster) intercept(dir string, args ...string) (code int, text string) {
	c.t.Helper()
	out, err := c.Output("/bin/sh", append([]string{"-c", `dir=$1; shift; PATH=$dir:$PATH kubectl ` +
		`intercept "$@" 2>&1 || echo "exit $?"`, "sh", dir}, args...)...)
	if err != nil {
		c.t.Fatalf("kubectl intercept %q: %v", args, err)
	}
	if text, last, failed := cutLast(out, "exit "); failed {
		if _, err := fmt.Sscan(last, &code); err != nil {
			c.t.Fatalf("kubectl intercept %q: %s", args, out)
		}
		out = text
	}
	out = strings.Join(strings.Fields(out), " ") // as if no line were broken
	c.t.Logf("kubectl intercept %q: %d: %s", args, code, out)
	return code, out
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 || i > 0 && s[i-1] != '\n' {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// TestKubectlIntercept: of pods that are broken in one way each, kubectl intercept names the cause first.
func TestKubectlIntercept(t *testing.T) {
	dir := t.TempDir()
	part := filepath.Join(dir, "part")
	plugin, err := filepath.Abs("../../../bin/kubectl-intercept")
	if err := errors.Join(err, program.Build(part, "testing/part")); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, part, options{})
	kubectl := "#!/bin/sh\nexport KUBECONFIG=" + c.Path("admin.kubeconfig") + "\nexec " + c.program + " kubectl \"$@\"\n"
	if err := errors.Join(os.Symlink(plugin, filepath.Join(dir, "kubectl-intercept")),
		os.WriteFile(filepath.Join(dir, "kubectl"), []byte(kubectl), 0o755)); err != nil {
		t.Fatal(err)
	}
	c.Import(imageArchive, imageName)
	c.Await("the service account of pods", func() bool {
		_, err := c.try("get", "serviceaccount", "default")
		return err == nil
	})
	c.apply(pod("early", "", "enabled", "true")) // before the plugin is there
	c.ready("early")
	c.apply(deploy(t, "            - --keep-on-exit\n", "            - --keep-on-exit\n            - --dry-run\n"))
	c.rollout()
	c.apply(pod("web", "", "enabled", "true"))
	c.apply(pod("stripped", "", "enabled", "true"))
	c.apply(strings.Replace(pod("deaf", "", "enabled", "true"), `"15001", "15006"`, `"16001", "16006"`, 1))
	c.apply(pod("plain", ""))
	for _, name := range []string{"web", "stripped", "deaf", "plain"} {
		c.ready(name)
	}
	c.strip("stripped")

	expect := func(wantCode int, want string, args ...string) {
		t.Helper()
		if code, text := c.intercept(dir, args...); code != wantCode || !strings.Contains(text, want) {
			t.Errorf("kubectl intercept %q: %d: %s\nwant %d, %q", args, code, text, wantCode, want)
		}
	}
	const none = "not intercepted"
	if code, text := c.intercept(dir, "status"); code != 10 ||
		!strings.HasPrefix(text, "NAMESPACE POD NODE STATE WHY default early node-1 "+none) ||
		!strings.Contains(text, "default stripped node-1 "+none) ||
		!strings.Contains(text, "default web node-1 intercepting") ||
		!strings.Contains(text, "default plain node-1 left alone") {
		t.Errorf("status: %d: %s", code, text)
	}
	expect(10, "mesh-system mesh-cni-agent-", "status", "-A")
	for _, name := range []string{"early", "stripped"} {
		expect(10, "default/"+name+": "+none+": it asks for interception, and has no rules", "status", name)
	}
	expect(10, "default deaf node-1 unserved nobody listens at TCP port 15001", "status")
	expect(0, "unserved: nobody listens at TCP port 15001", "status", "deaf")
	expect(18, "default/deaf: unserved: nobody listens at TCP port 15001", "verify", "deaf")
	expect(0, "redirect(15001)", "explain", "web", "--dst", "203.0.113.7:80")
	expect(1, "default/plain: left alone: no annotation of it asks for interception", "explain", "plain", "--dst",
		"203.0.113.7:80")
	expect(1, `User "nobody" cannot get resource "pods"`, "status", "web", "--as", "nobody")

	// Without an agent a container of the pod looks.
	c.kubectl("delete", "daemonset", "-n", "mesh-system", "mesh-cni-agent", "--timeout=60s")
	expect(1, "node node-1 has no agent that runs", "status", "web")
	expect(0, "intercepting: ", "status", "web", "--image", imageName)
	expect(18, "nobody listens at 127.0.0.1:15001", "verify", "deaf", "--image", imageName)
	expect(10, "", "status", "stripped", "--image", imageName)
	c.kubectl("delete", "pods", "--all", "--timeout=60s")
}
