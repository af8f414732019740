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
	return c.interceptWhile("", dir, args...)
}

// interceptWhile is the same while a script runs again and again.
func (c *cluster) interceptWhile(script, dir string, args ...string) (code int, text string) {
	c.t.Helper()
	ask := `dir=$1; PATH=$dir:$PATH; shift; kubectl intercept "$@" 2>&1 || echo "exit $?"`
	if script != "" {
		ask = `dir=$1; PATH=$dir:$PATH; shift; rm -f "$dir/done"
			{ kubectl intercept "$@" 2>&1 || echo "exit $?"; touch "$dir/done"; } &
			until [ -e "$dir/done" ]; do { ` + script + `; } >&2 || sleep 1; done; wait`
	}
	out, err := c.Output("/bin/sh", append([]string{"-c", ask, "sh", dir}, args...)...)
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
	older, err := filepath.Abs("../../../testing/traffic/testdata/older/3a3f8b8.nft")
	if err != nil {
		t.Fatal(err)
	}
	broken := []struct{ name, breaks, says string }{
		{"edited", "nft delete rule inet mesh_intercept output handle $(nft -a list chain inet mesh_intercept output | " +
			`sed -n 's/.*"O12:.*# handle //p')`, "changed: chain output, rule O12: missing"},
		{"older", "nft delete table inet mesh_intercept; nft -f " + older, "changed: written by mesh-init "},
		{"translated", "nft add table ip a; nft add chain ip a b '{ type nat hook output priority -199; }'; " +
			"nft add rule ip a b tcp dport 80 dnat to 10.88.0.1:8080",
			"changed: table ip a, chain b: was registered after ours at priority -199"},
	}
	for _, b := range broken {
		c.apply(pod(b.name, "", "enabled", "true"))
	}
	c.apply(strings.Replace(pod("clash", "", "enabled", "true"), "{runAsUser: 1000,", "{runAsUser: 1337,", 1))
	c.apply(pod("lost", "", "enabled", "true", "outbound-exclude-cidrs", "10.0.0.0/8", "dns", "resolvconf"))
	for _, name := range []string{"web", "stripped", "deaf", "plain", "edited", "older", "translated", "clash", "lost"} {
		c.ready(name)
	}
	c.strip("stripped")
	for _, b := range broken {
		c.breaks(b.name, b.breaks)
	}

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

	// Rows of docs/operations.md, "From symptom to command": the first line names the cause.
	first := func(want string, args ...string) {
		t.Helper()
		if code, text := c.intercept(dir, args...); !strings.HasPrefix(text, "default/"+args[1]+": "+want) &&
			!strings.HasPrefix(text, want) {
			t.Errorf("kubectl intercept %q: %d: begins with\n%.200s\nand not with %q", args, code, text, want)
		}
	}
	for _, b := range broken {
		first(b.says, "status", b.name)
	}
	expect(0, "runs as the proxy's user 1337, but not in its container", "status", "clash")
	expect(10, "default clash node-1 shared", "status")
	first("not captured: pass, by O10.cidrs: excluded destination", "explain", "lost", "--why-not", "10.1.2.3:443")
	first("not captured: pass, by O14: 8.8.8.8 is none of the servers whose lookups are captured", "explain", "lost",
		"--why-not", "8.8.8.8:53", "--proto", "udp")
	c.kubectl("annotate", "pod", "lost", "intercept.mesh/outbound-exclude-ports=5432")
	expect(11, "made from another configuration", "check", "lost")
	c.breaks("plain", `nft 'table ip nat { chain ISTIO_OUTPUT { meta skuid != 1337 meta l4proto tcp redirect to :15001; };
		chain OUTPUT { type nat hook output priority -100; jump ISTIO_OUTPUT; }; }'`)
	expect(10, "rules of another mesh are in the namespace: Istio", "status", "plain")

	// What happens, while it does.
	call := "kubectl exec web -c app -- /part client tcp 203.0.113.7:80"
	if code, text := c.interceptWhile(call, dir, "trace", "web", "--dst", "203.0.113.7:80", "--from", "app", "--count", "1",
		"--for", "60s"); code != 0 || !strings.Contains(text, "redirect(15001) by O12 (every destination is included)") {
		t.Errorf("trace: %d: %s", code, text)
	}
	change := call + "; nsenter --target " + c.process("web") + " --net sh -c " +
		"'nft add table ip somebody; nft delete table ip somebody'"
	if code, text := c.interceptWhile(change, dir, "watch", "web", "--for", "10s"); code != 0 ||
		!strings.Contains(text, "-> 203.0.113.7:80 TCP captured by port 15001: O12") ||
		!strings.Contains(text, "rules changed by nft") {
		t.Errorf("watch: %d: %s", code, text)
	}
	if code, text := c.intercept(dir, "support", "web", "--mask"); code != 0 || !strings.HasPrefix(text, "{") ||
		!strings.Contains(text, "O12") || strings.Contains(text, "10.88.") {
		t.Errorf("support: %d: %s", code, text)
	}

	// Without an agent a container of the pod looks.
	c.kubectl("delete", "daemonset", "-n", "mesh-system", "mesh-cni-agent", "--timeout=60s")
	expect(1, "node node-1 has no agent that runs", "status", "web")
	expect(0, "intercepting: ", "status", "web", "--image", imageName)
	expect(18, "nobody listens at 127.0.0.1:15001", "verify", "deaf", "--image", imageName)
	expect(10, "", "status", "stripped", "--image", imageName)
	c.kubectl("delete", "pods", "--all", "--timeout=60s")
}
