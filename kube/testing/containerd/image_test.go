//go:build linux

package containerd_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/kube/testing/node"
	"github.com/mesh-intercept/intercept/testing/program"
)

// TestContainerdInit: linkerd's init containers, which are not root, run from our image under a real runtime. The image
// is as kube/deploy/image makes it.
func TestContainerdInit(t *testing.T) {
	n := newNode(t, nil)
	ctx := t.Context()
	built := filepath.Join(t.TempDir(), "mesh-init")
	n.must(program.Build(built, "cmd/mesh-init"))
	text, err := os.ReadFile(built)
	n.must(err)
	const netAdmin, netRaw, name = 12, 13, "localhost/mesh/init:1"
	i := image.Image{Name: name, Architecture: runtime.GOARCH, Entrypoint: []string{"/mesh-init"},
		Files: map[string][]byte{"mesh-init": text}, Grants: map[string][]int{"mesh-init": {netAdmin, netRaw}},
		Links: map[string]string{}}
	for _, path := range peers.Programs() {
		i.Links[strings.TrimPrefix(path, "/")] = "/mesh-init"
	}
	archive, err := image.Archive(i)
	n.must(err, os.WriteFile(n.Path("mesh-init.tar"), archive, 0o600))
	n.Import(n.Path("mesh-init.tar"), name)

	meshed, app, _, _ := n.pod("linkerd", asking())
	validator := node.Init{Name: "validator", Image: name, Command: []string{"/usr/lib/linkerd/linkerd2-network-validator"},
		Args: []string{"--timeout", "200ms", "--listen-addr", "0.0.0.0:15002"}}
	inits := []node.Init{
		{Name: "entry-point", Image: name, Capabilities: []string{"NET_ADMIN", "NET_RAW"}},
		{Name: "command", Image: name, Capabilities: []string{"NET_ADMIN", "NET_RAW"},
			Command: []string{"/usr/lib/linkerd/linkerd2-proxy-init"}},
	}
	if code, err := n.CRI.Complete(ctx, meshed, validator); err != nil || code != 95 {
		t.Errorf("without rules the validator ends with %d, %v", code, err)
	}
	for _, init := range inits {
		init.Args = strings.Fields("--ipv6=false --incoming-proxy-port 15006 --outgoing-proxy-port 15001 --proxy-uid 1337 " +
			"--inbound-ports-to-ignore 4190,4191")
		if code, err := n.CRI.Complete(ctx, meshed, init); err != nil || code != 0 {
			t.Errorf("%q: exit code %d, %v", init.Command, code, err)
		}
	}
	n.says("sidecar 15001 203.0.113.7:80", app, "client", "tcp", "203.0.113.7:80")
	n.gone(meshed)

	// As the rules would be for a validator's port.
	other := node.Sandbox{Namespace: "default", Name: "validated", UID: "v", Annotations: asking()}
	n.must(n.CRI.Run(ctx, &other))
	inits[0].Args = strings.Fields("--incoming-proxy-port 15006 --outgoing-proxy-port 15002 --proxy-uid 1337")
	if code, err := n.CRI.Complete(ctx, other, inits[0]); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	validator.Args[1] = "5s"
	if code, err := n.CRI.Complete(ctx, other, validator); err != nil || code != 0 {
		t.Errorf("with rules the validator ends with %d, %v", code, err)
	}
	n.gone(other)
}
