package netns

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPodUID: what the control groups of pods say of them, by each of kubelet's drivers.
func TestPodUID(t *testing.T) {
	const uid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	under := strings.ReplaceAll(uid, "-", "_")
	const hash = "0123456789abcdef0123456789abcdef" // of a static pod
	for cgroup, want := range map[string]string{
		"0::/kubepods/besteffort/pod" + uid + "/3f2a\n": uid,
		"0::/kubepods/pod" + uid + "\n":                 uid,
		"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under +
			".slice/cri-containerd-3f2a.scope\n": uid,
		"0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-3f2a.scope/container\n": uid,
		"0::/../../pod" + uid + "/3f2a\n":                                                uid,
		"0::/../cri-containerd-3f2a.scope\n":                                             "",
		"12:pids:/kubepods/burstable/pod" + uid + "/3f2a\n1:name=systemd:/x\n":           uid,
		"1:name=systemd:/x\n12:cpu,cpuacct:/kubepods/pod" + hash + "/3f2a\n":             hash,
		"0::/system.slice/podman.service\n":                                              "",
		"0::/user/pod1234\n":                                                             "",
		"0::/xpod" + uid + "\n":                                                          "",
		"":                                                                               "",
		"0::/pod" + uid[:35] + "\n":                                                      "",
		"0::/pod" + uid[:35] + "g\n":                                                     "",
		"0::/pod" + uid[1:] + "0-\n":                                                     "",
		"0::/pod" + uid + "/pod" + hash + "/3f2a\n":                                      uid, // the outermost
		"garbage": "",
	} {
		if got := PodUID(cgroup); got != want {
			t.Errorf("%q: %q, want %q", cgroup, got, want)
		}
	}
}

// TestPodNames: the directories of kubelet's logs name pods; what else is there names none.
func TestPodNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"shop_web-7d4_0f1e", "kube-system_etcd-node_0123", "a_b", "a_b_c_d", "lost+found"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]PodName{"0f1e": {"shop", "web-7d4"}, "0123": {"kube-system", "etcd-node"}}
	if diff := cmp.Diff(want, PodNames(dir)); diff != "" {
		t.Error(diff)
	}
	if names := PodNames(filepath.Join(dir, "none")); len(names) > 0 {
		t.Errorf("%v", names)
	}
}
