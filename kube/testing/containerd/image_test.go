//go:build linux

package containerd_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/kube/internal/shipped"
	"github.com/mesh-intercept/intercept/kube/testing/node"
	"github.com/mesh-intercept/intercept/testing/program"
)

// TestContainerdInit: linkerd's init containers, which are not root, run from our image under a real runtime. The image
// is as make image and make images make it, and is also run by its digest.
func TestContainerdInit(t *testing.T) {
	n := newNode(t, nil)
	ctx := t.Context()
	built := filepath.Join(t.TempDir(), "mesh-init")
	n.must(program.Build(built, "cmd/mesh-init"))
	text, err := os.ReadFile(built)
	n.must(err)
	const name = "localhost/mesh/init:1"
	made, err := shipped.Image(name, "v0", map[string][]byte{"mesh-init": text})
	n.must(err)
	archive, err := image.Archive(made.Image)
	n.must(err, os.WriteFile(n.Path("mesh-init.tar"), archive, 0o600))
	n.Import(n.Path("mesh-init.tar"), name)
	// The same as registries have it, for another architecture, too.
	const released = "localhost/mesh/released:1"
	made.Name = released
	elsewhere := made
	elsewhere.Architecture, elsewhere.Files = "s390x", map[string][]byte{"mesh-init": []byte("not for here")}
	var index bytes.Buffer
	digest, err := image.Index(&index, made.Labels, elsewhere, made)
	n.must(err, os.WriteFile(n.Path("released.tar"), index.Bytes(), 0o600))
	n.Import(n.Path("released.tar"), released)
	byDigest := n.ByDigest(released, digest)

	meshed, app, _, _ := n.pod("linkerd", asking())
	validator := node.Init{Name: "validator", Image: byDigest, Command: []string{"/usr/lib/linkerd/linkerd2-network-validator"},
		Args: []string{"--timeout", "200ms", "--listen-addr", "0.0.0.0:15002"}}
	inits := []node.Init{
		{Name: "entry-point", Image: name, Capabilities: []string{"NET_ADMIN", "NET_RAW"}},
		{Name: "command", Image: byDigest, Capabilities: []string{"NET_ADMIN", "NET_RAW"},
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
