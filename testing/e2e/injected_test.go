//go:build linux

package e2e_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/peers"
	"github.com/mesh-intercept/intercept/testing/peers/istio"
)

// image makes an image of ours as a container of a pod sees it: with the name servers that kubelet writes.
func image(t *testing.T) string {
	t.Helper()
	root := scratch(t)
	err := errors.Join(os.Chmod(root, 0o755), os.Chmod(filepath.Dir(root), 0o755),
		os.Mkdir(filepath.Join(root, "etc"), 0o755),
		os.WriteFile(filepath.Join(root, "etc/resolv.conf"), []byte("nameserver 10.96.0.10\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// started is a container as a runtime starts it of what an injector wrote, with only the image changed.
func started(t *testing.T, root string, i peers.Injected) container {
	t.Helper()
	c := container{Root: root, UID: i.Container.SecurityContext.RunAsUser, GID: i.Container.SecurityContext.RunAsGroup}
	for _, v := range i.Container.Env {
		c.Env = append(c.Env, v.Name+"="+v.Value)
	}
	byName := map[string]uintptr{"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW}
	for _, name := range i.Container.SecurityContext.Capabilities.Add {
		capability, known := byName[name]
		if !known {
			t.Fatalf("capability %s", name)
		}
		c.Capabilities = append(c.Capabilities, capability)
	}
	if c.Privileged = i.Container.SecurityContext.Privileged; c.Privileged {
		for capability := range uintptr(unix.CAP_LAST_CAP + 1) {
			c.Capabilities = append(c.Capabilities, capability)
		}
	} else if !slices.Contains(i.Container.SecurityContext.Capabilities.Drop, "ALL") {
		// What containerd and Docker give where nothing is said.
		c.Capabilities = append(c.Capabilities, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER,
			unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP,
			unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE)
	}
	return c
}

// TestIstiosPods: the init containers that Istio's own injector writes start from our image, with their command line,
// environment, user and capabilities. What their rules do to packets is tested in testing/peers/istio.
func TestIstiosPods(t *testing.T) {
	t.Parallel()
	netlab.Require(t)
	all := peers.ReadInjected(t, "../peers/istio/testdata/injected.yaml")
	// The one value that docs/migrate-istio.md changes is this image.
	usual, ours := all[0], all[1]
	if usual.Name != "deployment" || ours.Name != "our-image" || ours.Container.Image != "registry.example/intercept:v1" {
		t.Errorf("%+v", all[:2])
	}
	ours.Name, ours.Container.Image = usual.Name, usual.Container.Image
	if diff := cmp.Diff(usual, ours); diff != "" {
		t.Errorf("another image changes more than that: %s", diff)
	}
	root := image(t)
	for _, i := range all {
		t.Run(i.Name, func(t *testing.T) {
			t.Parallel()
			c, args := started(t, root, i), i.Container.Args
			validates := i.Container.Name == "istio-validation"
			lab := netlab.NewT(t, netlab.Options{SecondInterface: true, VM: true})
			if !validates {
				c.expect(t, lab, 0, []string{"created: ", " by nft "}, args...)
				c.expect(t, lab, 0, []string{"unchanged: "}, args...)
				c.expect(t, lab, 0, []string{"the rules are in force"}, append(args, "--run-validation", "--skip-rule-apply")...)
				return
			}
			// The CNI plugin has not been there: Istio's repair knows the pod by this exit code.
			c.expect(t, lab, 126, []string{"the rules are not in force"}, append(args, "--probe-timeout=300ms")...)
			config := intercept.Default()
			args = append(args, "--dual-stack") // ::6 is on lo then
			if slices.Contains(args, "TPROXY") {
				config.Inbound.Mode = intercept.InboundTProxy
			}
			pod := dataplane.Pod{NetNS: lab.Pod.Path()}
			if _, err := pod.Apply(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			c.expect(t, lab, 0, []string{"the rules are in force"}, args...)
			if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: config.Inbound.Mode == intercept.InboundTProxy}); err != nil {
				t.Fatal(err)
			}
			c.expect(t, lab, 0, []string{"the rules are in force"}, args...) // again, when the proxy is up already

			// And where Istio's own plugin is still there.
			theirs := netlab.NewT(t, netlab.Options{})
			for _, command := range istio.Rules(peers.Set{Args: args[1:]}) {
				peers.Run(t, theirs.Pod, command)
			}
			c.expect(t, theirs, 0, []string{"the rules are in force"}, args...)
		})
	}
}
