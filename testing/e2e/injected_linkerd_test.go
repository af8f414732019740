//go:build linux

package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	inside "github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/peers"
	"github.com/mesh-intercept/intercept/testing/peers/linkerd"
)

// TestLinkerdsPods: the init containers that linkerd's injector writes start from our image, with their command, user and
// capabilities: most of them are not root. What their rules do to packets is tested in testing/peers/linkerd.
func TestLinkerdsPods(t *testing.T) {
	t.Parallel()
	netlab.Require(t)
	root := image(t)
	for _, path := range inside.Programs() {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/mesh-init", filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	// NET_ADMIN and NET_RAW, permitted, as the image has it (kube/internal/image).
	grants := []byte("\x00\x00\x00\x02\x00\x30\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	if err := unix.Setxattr(filepath.Join(root, "mesh-init"), "security.capability", grants, 0); err != nil {
		t.Fatal(err)
	}
	for _, i := range peers.ReadInjected(t, "../peers/linkerd/testdata/injected.yaml") {
		t.Run(i.Name, func(t *testing.T) {
			t.Parallel()
			c := started(t, root, i)
			command := append(slices.Clone(i.Container.Command), i.Container.Args...)
			if len(i.Container.Command) == 0 {
				command = append([]string{"/mesh-init"}, command...) // the image's entry point
			}
			lab := netlab.NewT(t, netlab.Options{})
			ends := func(code int, words ...string) {
				t.Helper()
				out, got := c.start(t, lab, command...)
				for _, w := range words {
					if got != code || !strings.Contains(out, w) {
						t.Errorf("exit code %d, should be %d with %q\n%s", got, code, w, out)
					}
				}
			}
			if i.Container.Name != "linkerd-network-validator" {
				ends(0, "created: ", " by nft ")
				ends(0, "unchanged: ")
				if i.Name != "root" { // others do not see legacy tables
					return
				}
				// Linkerd's own has run before, as it does by default; the image has no program to remove its rules with.
				lab = netlab.NewT(t, netlab.Options{})
				for _, command := range linkerd.Rules(i.Container.Args) {
					peers.Run(t, lab.Pod, command)
				}
				ends(0, "created: ", "taken out: chain PROXY_INIT_OUTPUT of legacy table ip nat")
				ends(0, "unchanged: ")
				return
			}
			// The CNI plugin has not been there: linkerd's repair knows the pod by this exit code.
			ends(95, "interception does not work")
			config := intercept.Default()
			config.Outbound.Port, config.Inbound.Port = intercept.Port(4140), intercept.Port(4143)
			if _, err := (dataplane.Pod{NetNS: lab.Pod.Path()}).Apply(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			ends(0, "captured: ")
		})
	}
}
