//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestIstioIPTables: the program is istio-iptables by its file's name, by its verb, and by the first word where it is
// called pilot-agent; and what it needs no privilege for it does without.
func TestIstioIPTables(t *testing.T) {
	netlab.Require(t)
	program := built(t)
	dir := filepath.Dir(program)
	for _, name := range []string{"istio-iptables", "pilot-agent"} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	run := func(line string, env ...string) (stdout, stderr string, code int) {
		t.Helper()
		name, args, _ := strings.Cut(line, " ")
		return runAs(t, ns, 65534, nil, filepath.Join(dir, name), args, env...)
	}

	var rules []string
	for _, line := range []string{"istio-iptables -b * -i * -n", "mesh-init istio-iptables -b * -i * --dry-run",
		"pilot-agent istio-iptables -b * -i * --dry-run=true"} {
		out, errOut, code := run(line)
		if code != 0 || !strings.Contains(out, "O12: every destination is included") {
			t.Errorf("%s: exit code %d\n%s%s", line, code, out, errOut)
		}
		rules = append(rules, out)
	}
	if rules[0] != rules[1] || rules[0] != rules[2] {
		t.Error("one program under three names, and three outcomes")
	}
	if out, errOut, code := run("istio-iptables", "DRY_RUN=1", "ISTIO_INBOUND_PORTS=*", "ISTIO_SERVICE_CIDR=*"); out != rules[0] {
		t.Errorf("by the environment: exit code %d\n%s%s", code, out, errOut)
	}

	for line, want := range map[string]struct {
		code int
		said string
	}{
		"istio-iptables --help":            {0, ""},
		"istio-iptables --skip-rule-apply": {0, ""},
		"istio-iptables -b * -i * -d http": {2, "mesh-init istio-iptables: --istio-local-exclude-ports (-d): \"http\" is"},
		"istio-iptables --bananas":         {2, "unknown flag: --bananas; istio-iptables --help lists the flags"},
		"istio-iptables -b * -i *":         {13, "permission"},
		"istio-iptables --cleanup-only":    {13, "permission"},
		"istio-iptables -b * --skip-rule-apply --run-validation": {126, "user 65534, group 65534, is not the proxy, and has no " +
			"privilege; run it as the proxy, user 1337"},
		"istio-iptables -b * --skip-rule-apply --run-validation --log_as_json": {126, `"exit":126`},
		"istio-iptables -u 65534 -b * --skip-rule-apply --run-validation --probe-timeout 1ms": {126,
			"the pod has no address of a family that is captured"},
	} {
		out, errOut, code := run(line)
		if code != want.code || !strings.Contains(errOut, want.said) {
			t.Errorf("%s: exit code %d, want %d, and to be said %q\n%s%s", line, code, want.code, want.said, out, errOut)
		}
	}
}
