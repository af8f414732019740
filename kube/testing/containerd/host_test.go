//go:build linux

package containerd_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/mesh-intercept/intercept/kube/testing/node"
)

// A host is a node whose pods get mesh-cni.
type host struct {
	*node.Node
	t testing.TB
}

// newNode starts one, with more fields of the entry.
func newNode(t testing.TB, entry map[string]any) *host {
	t.Helper()
	n := &host{t: t, Node: node.New(t, node.Options{
		Part: filepath.Join(plugins, "part"), Plugins: []string{filepath.Join(plugins, "mesh-cni")},
		Runtimes: map[string]string{"gvisor": "gvisor.d"},
	})}
	n.writeList("net.d", entry)
	n.writeList("gvisor.d", map[string]any{"runtime": "runsc"})
	n.awaitNetwork(true)
	return n
}

// awaitNetwork waits until the runtime says that pods have a network, or that
// they have none, and returns why.
func (n *host) awaitNetwork(want bool) (why string) {
	n.t.Helper()
	n.Await("the network", func() bool {
		ready, because, err := n.CRI.NetworkReady(n.t.Context())
		why = because
		return err == nil && ready == want
	})
	return why
}

func (n *host) must(errs ...error) {
	n.t.Helper()
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
}

// writeList writes the conflist, as an installer does: in one step. The file
// is first written beside: containerd 1.6 reads its directory again when it is
// told of a write there or of the old name of a file, but not of a new one.
func (n *host) writeList(dir string, entry map[string]any) {
	n.t.Helper()
	ours := map[string]any{
		"type": "mesh-cni", "capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true, "dns": true},
		"logFile": n.Path("mesh-cni.log"), "logLevel": "debug",
	}
	maps.Copy(ours, entry)
	list := map[string]any{"cniVersion": node.CNIVersion(), "name": "pods", "plugins": []any{
		map[string]any{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": map[string]any{
			"type": "host-local", "dataDir": "/run/ipam", "ranges": [][]map[string]string{{{"subnet": "10.88.0.0/16"}}},
			"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		}},
		ours,
	}}
	b, err := json.Marshal(list)
	n.must(err, os.WriteFile(n.Path(dir+"/new"), b, 0o600), os.Rename(n.Path(dir+"/new"), n.Path(dir+"/10-pods.conflist")))
}
