//go:build linux && release

package release

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/kube/testing/node"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// list is a network of pods.
const list = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
	"ipam": {"type": "host-local", "dataDir": "/run/ipam", "ranges": [[{"subnet": "10.88.0.0/16"}]],
	"routes": [{"dst": "0.0.0.0/0"}]}}]}`

// TestRun runs each image of the release by its digest, as the init container of a pod: rules are put in force and taken out
// by what is in the image alone.
func TestRun(t *testing.T) {
	part := filepath.Join(t.TempDir(), "part")
	if err := program.Build(part, "testing/part"); err != nil {
		t.Fatal(err)
	}
	n := node.New(t, node.Options{Part: part})
	if err := os.WriteFile(n.Path("net.d/10-pods.conflist"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Await("the network of pods", func() bool {
		ready, _, err := n.CRI.NetworkReady(t.Context())
		return err == nil && ready
	})
	byDigest := func(variant string) string {
		name := "ghcr.io/mesh-intercept/intercept" + variant + ":" + version(t)
		archive, err := filepath.Abs(dist + "/release/intercept" + variant + "-image.tar")
		if err != nil {
			t.Fatal(err)
		}
		n.Import(archive, name)
		return n.ByDigest(name, strings.TrimSpace(read(t, dist+"/release/intercept"+variant+"-image.digest")))
	}
	debug, withIPTables := byDigest("-debug"), byDigest("-iptables")
	for _, c := range []struct{ name, image, backend, shows string }{
		{"static", byDigest(""), "nft", "nft list ruleset | grep -q O12"},
		{"iptables", withIPTables, "iptables-nft", "iptables-save | grep -q O12 && ip6tables-save | grep -q O12"},
		{"legacy", withIPTables, "iptables-legacy", "iptables-legacy-save | grep -q O12"},
		{"debug", debug, "nft", "ps && ip address show lo && tcpdump --version && conntrack --version && " +
			"nft list ruleset | grep -q O12"},
	} {
		s := node.Sandbox{Namespace: "default", Name: c.name, UID: c.name}
		if err := n.CRI.Run(t.Context(), &s); err != nil {
			t.Fatal(err)
		}
		step := 0
		run := func(wanted int32, image string, command []string, args ...string) {
			t.Helper()
			step++
			code, err := n.CRI.Complete(t.Context(), s, node.Init{Name: "step-" + string(rune('a'+step)), Image: image,
				Command: command, Args: args, Capabilities: []string{"NET_ADMIN", "NET_RAW"}, Root: true})
			if err != nil || code != wanted {
				t.Errorf("%s: %q %q: exit code %d, want %d: %v", c.name, command, args, code, wanted, err)
			}
		}
		run(10, c.image, []string{"/mesh-init"}, "status")
		run(0, c.image, []string{"/mesh-init"}, "apply", "--backend", c.backend)
		run(0, c.image, []string{"/mesh-init"}, "status", "--backend", c.backend)
		run(0, debug, nil, "-ec", c.shows) // a shell is its entry point
		run(1, debug, []string{"/bin/sh"}, "-ec", "iptables-save | grep -q nothing-of-the-kind")
		run(0, c.image, []string{"/mesh-init"}, "remove")
		run(10, c.image, []string{"/mesh-init"}, "status")
		if err := errors.Join(n.CRI.Stop(context.WithoutCancel(t.Context()), s.ID),
			n.CRI.Remove(context.WithoutCancel(t.Context()), s.ID)); err != nil {
			t.Error(err)
		}
	}
}

// TestLayers: the programs of Debian's packages find all their libraries in the layers of their image, for each
// architecture, and some of those for arm64 run, in an emulator.
func TestLayers(t *testing.T) {
	netlab.RequireProgram(t, "qemu-aarch64-static")
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		have := map[string]bool{} // by their names, without directories
		needs := map[string][]string{}
		root := t.TempDir()
		for _, layer := range []string{"iptables", "debug"} {
			archive := dist + "/layers/" + layer + "_" + arch + ".tar"
			output(t, exec.Command("tar", "-C", root, "-xf", archive))
			for r := tar.NewReader(strings.NewReader(read(t, archive))); ; {
				h, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				var text []byte
				if err == nil {
					text, err = io.ReadAll(r)
				}
				if err != nil {
					t.Fatal(err)
				}
				if h.Uid != 0 || h.ModTime.Unix() != 0 || h.Mode&0o6022 != 0 && h.Typeflag != tar.TypeSymlink {
					t.Errorf("%s in %s: of user %d, at %s, mode %o", h.Name, layer, h.Uid, h.ModTime, h.Mode)
				}
				have[path.Base(h.Name)] = true
				if f, err := elf.NewFile(bytes.NewReader(text)); err == nil {
					if f.Machine != machine {
						t.Errorf("%s is for %s", h.Name, f.Machine)
					}
					libraries, err := f.ImportedLibraries()
					if err != nil {
						t.Fatal(err)
					}
					needs[h.Name] = libraries
				}
			}
			for name, libraries := range needs {
				for _, library := range libraries {
					if !have[library] {
						t.Errorf("%s, %s: %s needs %s, and no package has it", layer, arch, name, library)
					}
				}
			}
		}
		programs := slices.Collect(maps.Keys(needs))
		for _, wanted := range []string{"usr/sbin/xtables-nft-multi", "usr/sbin/xtables-legacy-multi", "usr/sbin/nft",
			"usr/bin/tcpdump", "usr/sbin/conntrack", "usr/bin/busybox"} {
			if !slices.Contains(programs, wanted) {
				t.Errorf("%s: there is no %s", arch, wanted)
			}
		}
		if arch == runtime.GOARCH {
			continue // TestRun runs them
		}
		// Those that speak netlink from their start on do not run in the emulator.
		for line, want := range map[string]string{"usr/sbin/xtables-legacy-multi iptables --version": "(legacy)",
			"usr/bin/tcpdump --version": "libpcap", "usr/bin/busybox sh -c echo$IFS$0": "sh"} {
			words := strings.Fields(line)
			run := append([]string{"-L", root, filepath.Join(root, words[0])}, words[1:]...)
			if got := output(t, exec.Command("qemu-aarch64-static", run...)); !strings.Contains(got, want) {
				t.Errorf("%s: %s: %s", arch, line, got)
			}
		}
	}
}
