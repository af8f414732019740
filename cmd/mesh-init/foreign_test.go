package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/verify"
)

// others are a Docker that is asked first, and a mesh.
var others = dataplane.Foreign{
	Chains: []beside.Foreign{
		{Owners: []string{"Docker"}, Family: "ip", Table: "nat", Chain: "PREROUTING", Hook: "prerouting", Type: "nat",
			Priority: -200,
			Asked:    beside.Before, Acts: []beside.Act{beside.DNAT}, Effect: beside.Takes},
		{Owners: []string{"Istio", "Kuma"}, Legacy: true, Family: "ip6", Table: "nat", Chain: "a\nb", Hook: "output",
			Type:     "nat",
			Priority: -100, Asked: beside.After, Acts: []beside.Act{beside.Redirect}, Effect: beside.NeverReached},
	},
	Error: "IPv6: no permission",
}

// TestForeignText: others' chains in the order in which the kernel asks them, in at most 100 columns.
func TestForeignText(t *testing.T) {
	if text := foreignText(dataplane.Foreign{}); text != "" {
		t.Errorf("%q", text)
	}
	text := foreignText(others)
	for _, want := range []string{
		"\nHOOK        PRIORITY  CHAIN OF OTHERS        OWNER        TO WHAT OURS CAPTURE\n",
		"\nprerouting  -200      ip nat PREROUTING      Docker       takes: is asked before ours: what it",
		"\noutput      -100      ip6 nat (legacy) ",
		"Not all chains of others could be listed: IPv6: no permission\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not in the text: %q\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 101 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

// TestOthersAreTold by every verb that looks into a kernel: in the text, in the log and in JSON.
func TestOthersAreTold(t *testing.T) {
	p := fakePlane{foreign: others, report: dataplane.Report{Foreign: others}, dormant: []string{"inet mesh_intercept"},
		result:   dataplane.Result{Outcome: "created", Foreign: others, Warnings: others.Warnings()},
		verified: verify.Conclude([]verify.Verdict{{What: "an app's connection", Verdict: verify.OK}}, verify.Coverage{}, nil)}
	for _, name := range []string{"apply", "check", "verify", "doctor", "status"} {
		r := invokeOn(t, p, "", nil, name)
		if r.code != 0 || !strings.Contains(r.out, "ip nat PREROUTING") || !strings.Contains(r.out, "Docker") {
			t.Errorf("%s: %+v", name, r)
		}
		if warned := strings.Contains(r.stderr,
			"chain PREROUTING of table ip nat (Docker; nat at hook prerouting, priority -200) "+
				"is asked before ours"); warned != (name != "doctor" && name != "status") { // whose text says it
			t.Errorf("%s warns: %q", name, r.stderr)
		}
		r = invokeOn(t, p, "", nil, name, "-o", "json")
		if dormant := strings.Contains(r.stderr, "table inet mesh_intercept is dormant"); dormant != (name == "status") {
			t.Errorf("%s: %q", name, r.stderr)
		}
		if told := strings.Contains(r.out, `"chain": "PREROUTING"`); r.code != 0 || !told {
			t.Errorf("%s in JSON: %+v", name, r)
		}
	}
}

// TestOtherMeshIsRefused with the name of the mesh and both remedies.
func TestOtherMeshIsRefused(t *testing.T) {
	mesh, _ := beside.MeshOf("linkerd")
	err := fmt.Errorf("x: %w", &dataplane.OtherMeshError{Meshes: []beside.Mesh{mesh}, Chains: others.Chains[:1]})
	r := invokeOn(t, fakePlane{err: err}, "", nil, "apply")
	for _, want := range []string{"Linkerd", "chain PREROUTING of table ip nat", "mesh-init remove --foreign linkerd",
		"--beside other-mesh"} {
		if r.code != 20 || !strings.Contains(r.stderr, want) {
			t.Errorf("%+v", r)
		}
	}
	if !configTarget(t, "apply", "--beside", "other-mesh").BesideOtherMesh || configTarget(t, "apply").BesideOtherMesh {
		t.Error("--beside does not reach apply")
	}
}

// configTarget returns the pod that a command acts on.
func configTarget(t *testing.T, args ...string) (pod dataplane.Pod) {
	t.Helper()
	var out, stderr strings.Builder
	prog := program{strings.NewReader(""), &out, &stderr, func(p dataplane.Pod) plane { pod = p; return fakePlane{} }}
	if code := prog.run(t.Context(), args, nil); code != 0 {
		t.Fatal(code, stderr.String())
	}
	return pod
}

// TestRemoveForeign shows what goes, and says whether it has gone.
func TestRemoveForeign(t *testing.T) {
	parts := []string{"chain ISTIO_OUTPUT of table ip nat, with its rules"}
	for _, tt := range []struct {
		args    []string
		removal dataplane.Removal
		want    string
	}{
		{[]string{"--foreign", "istio"}, dataplane.Removal{Parts: parts, Removed: true}, parts[0] + "\nremoved, all of it: the rules of Istio\n"},
		{[]string{"--foreign", "istio", "--dry-run"}, dataplane.Removal{Parts: parts},
			parts[0] + "\nnothing was removed (--dry-run)\n"},
		{[]string{"--foreign", "istio"}, dataplane.Removal{}, "nothing of Istio to remove\n"},
		{[]string{"--dry-run"}, dataplane.Removal{}, "nothing to remove\n"},
	} {
		r := invokeOn(t, fakePlane{removal: tt.removal}, "", nil, append([]string{"remove"}, tt.args...)...)
		if r.code != 0 || r.out != tt.want {
			t.Errorf("%q: %+v", tt.args, r)
		}
	}
	ref := &beside.ReferenceError{In: "chain FOO of table ip nat", To: "ISTIO_OUTPUT"}
	if r := invokeOn(t, fakePlane{err: ref}, "", nil, "remove", "--foreign", "istio"); r.code != 1 ||
		!strings.Contains(r.stderr, "chain FOO of table ip nat is somebody else's and leads to chain ISTIO_OUTPUT") {
		t.Errorf("%+v", r)
	}
	if r := invokeOn(t, fakePlane{err: errors.New("x")}, "", nil, "remove", "--dry-run"); r.code != 1 {
		t.Errorf("%+v", r)
	}
	if r := invoke(t, "", nil, "remove", "--foreign", "envoy"); r.code != 2 ||
		!strings.Contains(r.stderr, `"envoy" is not one of`) {
		t.Errorf("%+v", r)
	}
}
