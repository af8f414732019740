package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/verify"
)

// The least that the three programs are called with.
const (
	asIstio   = "istio-iptables -b * -i *"
	asKuma    = "kuma --kuma-dp-user 5678"
	asLinkerd = "linkerd-init -p 4143 -o 4140 -u 2102"
)

// TestDropInsAdvise what can be done by the flags that they have.
func TestDropInsAdvise(t *testing.T) {
	istio, _ := beside.MeshOf("istio")
	host := fmt.Errorf("x: %w", dataplane.ErrHostNetNS)
	other := &dataplane.OtherMeshError{Meshes: []beside.Mesh{istio}}
	sysctl := &dataplane.SysctlError{}
	for _, tt := range []struct {
		line  string
		err   error
		code  int
		says  string
		never string
	}{
		{asIstio, host, 14, "with --network-namespace, or insist with --allow-host-netns", "--netns"},
		{"istio-iptables --cleanup-only", host, 14, "with --network-namespace, or insist with --allow-host-netns", "would capture"},
		{asKuma, host, 14, "run it in the pod's namespace, or insist with --allow-host-netns", "--netns"},
		{"kuma uninstall", host, 14, "run it in the pod's namespace, or insist with --allow-host-netns", "would capture"},
		{asLinkerd, host, 14, "with --netns, or insist with --allow-host-netns", "--network-namespace"},
		{asKuma, other, 20, "--take-over, or take them out with mesh-init remove --foreign istio", "--beside"},
		{asLinkerd, other, 20, "--take-over, or take them out with mesh-init remove --foreign istio", "--beside"},
		{"apply", other, 20, ", or insist with mesh-init apply --beside other-mesh", "--network-namespace"},
		{asIstio, sysctl, 12, "; set it", "--set-sysctls"},
		{asIstio, intercept.ErrLocked, 17, "; wait for it", "--iptables-wait"},
		{"kuma --netns x", nil, 2, "unknown flag: --netns; mesh-init kuma --help lists the flags", "did you mean"},
		{"apply --host-netns", nil, 2, "--host-netns: unknown flag", "--allow-host-netns"},
	} {
		r := invokeOn(t, fakePlane{err: tt.err}, "", nil, strings.Fields(tt.line)...)
		if r.code != tt.code || !strings.Contains(r.stderr, tt.says) || strings.Contains(r.stderr, tt.never) {
			t.Errorf("%s: %v: exit code %d, want %d, and to be said %q, and never %q\n%s", tt.line, tt.err, r.code, tt.code,
				tt.says, tt.never, r.stderr)
		}
	}
}

// hiddenPlane is one whose user may not see all rules of others.
type hiddenPlane struct{ fakePlane }

func (hiddenPlane) RemoveForeign(context.Context, beside.Mesh, bool) (dataplane.Removal, error) {
	return dataplane.Removal{}, fmt.Errorf("not all rules could be listed: %w: x", intercept.ErrPermission)
}

// TestCleanupOfWhatIsSeen: ours go, and of the mesh's own it is said that they were not looked for. Where some are seen
// that is a failure.
func TestCleanupOfWhatIsSeen(t *testing.T) {
	p := hiddenPlane{fakePlane{removed: true}}
	for line, mesh := range map[string]string{"istio-iptables --cleanup-only": "Istio", "kuma uninstall": "Kuma"} {
		p.foreign = dataplane.Foreign{}
		r := invokeOn(t, p, "", nil, strings.Fields(line)...)
		if r.code != 0 || r.out != "removed\n" || !strings.Contains(r.stderr, "rules of "+mesh+", if there are any, stay") {
			t.Errorf("%s: %+v", line, r)
		}
		p.foreign = dataplane.Foreign{Chains: []beside.Foreign{{Owners: []string{mesh}}}}
		r = invokeOn(t, p, "", nil, strings.Fields(line)...)
		if r.code != 13 || r.out != "removed\n" ||
			!strings.Contains(r.stderr, "the rules of "+mesh+" stay: not all rules could be listed") {
			t.Errorf("%s with rules of it: %+v", line, r)
		}
	}
}

// TestFailedValidation names a few of what failed. Where there are no rules, nothing is tried.
func TestFailedValidation(t *testing.T) {
	rules := func(found string, word verify.Word) []verify.Verdict {
		all := []verify.Verdict{{What: verify.Rules, Verdict: word, Found: found}}
		for i := range 20 {
			all = append(all, verify.Verdict{What: fmt.Sprintf("attempt %d", i), Verdict: verify.Failed, Found: "lost"})
		}
		return all
	}
	const invalid = "mesh-init istio-iptables: the rules are not in force; the workload is not ready for the mesh: failed: "
	for want, verdicts := range map[string][]verify.Verdict{
		"rules: 2 differences; attempt 0: lost; attempt 1: lost; and 18 more": rules("2 differences", verify.Failed),
		"attempt 0: lost; attempt 1: lost; attempt 2: lost; and 17 more":      rules("as made", verify.OK),
		"attempt 0: lost": rules("as made", verify.OK)[:2],
	} {
		r := invokeOn(t, fakePlane{verified: verify.Conclude(verdicts, verify.Coverage{}, nil)}, "", nil,
			strings.Fields(asIstio+" --run-validation --skip-rule-apply --probe-timeout 1ms")...)
		if r.code != 126 || !strings.HasSuffix(r.stderr, invalid+want+"\n") {
			t.Errorf("exit code %d, %q, want %q", r.code, r.stderr, want)
		}
	}
	r := invokeOn(t, fakePlane{err: intercept.ErrNotIntercepted}, "", nil,
		strings.Fields(asIstio+" --run-validation --skip-rule-apply --probe-timeout 1ms")...)
	if r.code != 126 || !strings.Contains(r.stderr, intercept.ErrNotIntercepted.Error()) {
		t.Errorf("no rules: exit code %d, %q", r.code, r.stderr)
	}
}

// TestNamespaceOfDropIns: a namespace that is not there has the exit code that it has elsewhere, unless something is
// wrong with a flag, too.
func TestNamespaceOfDropIns(t *testing.T) {
	for line, want := range map[string]int{
		"--network-namespace nosuch":           16,
		"--network-namespace pid:999999999":    16,
		"--network-namespace nosuch --dry-run": 16,
		"--network-namespace nosuch -d http":   2,
	} {
		if r := invoke(t, "", nil, strings.Fields(asIstio+" "+line)...); r.code != want {
			t.Errorf("%s: exit code %d, want %d: %s", line, r.code, want, r.stderr)
		}
	}
}
