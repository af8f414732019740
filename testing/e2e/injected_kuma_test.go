//go:build linux

package e2e_test

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// manifest is what the tests need to know of an injected workload, or of a ConfigMap beside it.
type manifest struct {
	Kind     string
	Metadata metadata
	Data     map[string]string
	Spec     struct {
		Template struct {
			Metadata metadata
			Spec     struct {
				InitContainers []peerContainer `yaml:"initContainers"`
				Volumes        []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
					Downward  struct {
						Items []struct {
							Path     string
							FieldRef struct {
								FieldPath string `yaml:"fieldPath"`
							} `yaml:"fieldRef"`
						}
					} `yaml:"downwardAPI"`
				}
			}
		}
	}
}

type metadata struct {
	Name        string
	Annotations map[string]string
}

type peerContainer struct {
	Name          string
	Image         string
	Command, Args []string
	Env           []struct{ Name, Value string }
	Mounts        []struct {
		Name string
		Path string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	Security struct {
		Capabilities struct{ Add, Drop []string }
		User         int  `yaml:"runAsUser"`
		Group        int  `yaml:"runAsGroup"`
		ReadOnly     bool `yaml:"readOnlyRootFilesystem"`
	} `yaml:"securityContext"`
}

// readInjected reads a workload with what stands beside it.
func readInjected(t *testing.T, path string) []manifest {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []manifest
	for d := yaml.NewDecoder(f); ; {
		var m manifest
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, m)
	}
}

// withImage makes the container of that name as kubelet would, of an image that has mesh-init alone: its environment,
// its user, its capabilities, and what is mounted into it.
func withImage(t *testing.T, all []manifest, name string) (container, []string) {
	t.Helper()
	workload := all[len(all)-1].Spec.Template
	i := slices.IndexFunc(workload.Spec.InitContainers, func(c peerContainer) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no init container %s", name)
	}
	injected := workload.Spec.InitContainers[i]
	c := container{Root: scratch(t), UID: injected.Security.User, GID: injected.Security.Group}
	if !injected.Security.ReadOnly || !slices.Equal(injected.Security.Capabilities.Drop, []string{"ALL"}) {
		t.Fatalf("%s: these tests know containers that may do less: %+v", name, injected.Security)
	}
	for _, capability := range injected.Security.Capabilities.Add {
		number, known := map[string]uintptr{"NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW}[capability]
		if !known {
			t.Fatalf("%s: capability %s", name, capability)
		}
		c.Capabilities = append(c.Capabilities, number)
	}
	for _, e := range injected.Env {
		c.Env = append(c.Env, e.Name+"="+e.Value)
	}
	// As in make image.
	for _, path := range peers.Programs() {
		put(t, c.Root, path, func(path string) error { return os.Symlink("/mesh-init", path) })
	}
	write := func(path, text string) {
		put(t, c.Root, path, func(path string) error { return os.WriteFile(path, []byte(text), 0o644) })
	}
	write("/etc/resolv.conf", "nameserver 10.96.0.10\n")
	annotation := regexp.MustCompile(`^metadata\.annotations\['(.*)'\]$`)
	for _, mount := range injected.Mounts {
		for _, v := range workload.Spec.Volumes {
			if v.Name != mount.Name {
				continue
			}
			for _, item := range v.Downward.Items {
				m := annotation.FindStringSubmatch(item.FieldRef.FieldPath)
				write(filepath.Join(mount.Path, item.Path), workload.Metadata.Annotations[m[1]])
			}
			for _, beside := range all {
				if beside.Kind == "ConfigMap" && beside.Metadata.Name == v.ConfigMap.Name {
					for key, text := range beside.Data {
						write(filepath.Join(mount.Path, key), text)
					}
				}
			}
		}
	}
	return c, append(injected.Command, injected.Args...)
}

// put makes something at a path of an image.
func put(t *testing.T, root, path string, do func(string) error) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), do(path)); err != nil {
		t.Fatal(err)
	}
}

// TestInjectedByKuma: a pod of Kuma's injector starts with another image alone, and its packets meet the fates that
// they meet with Kuma's.
//
// The pods are written by hand after the injector's documentation: the proxy for Go modules does not serve Kuma's, so it
// cannot be run here.
func TestInjectedByKuma(t *testing.T) {
	t.Parallel()
	netlab.Require(t)
	tcp := func(from netlab.Side, dst string, uid uint32) netlab.Flow {
		return netlab.Flow{From: from, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst),
			Owner: &intercept.Owner{UID: uid, GID: uid}}
	}
	lookup := tcp(netlab.FromPod, "10.96.0.10:53", 1000)
	lookup.Protocol = intercept.UDP
	const app, out, in, dns = 1000, 15001, 15006, 15053
	// To where a flow is redirected; 0: nowhere.
	type fates map[netlab.Flow]uint16
	with := func(usual, special fates) fates {
		all := fates{}
		for _, some := range []fates{usual, special} {
			for f, port := range some {
				for known := range all {
					if known.String() == f.String() {
						delete(all, known)
					}
				}
				all[f] = port
			}
		}
		return all
	}
	usual := fates{
		tcp(netlab.FromPod, "203.0.113.10:80", app):     out,
		tcp(netlab.FromPod, "[2001:db8::10]:80", app):   out,
		tcp(netlab.FromPod, "203.0.113.10:443", app):    out,
		tcp(netlab.FromPod, "203.0.113.10:80", 5678):    0,
		tcp(netlab.FromPod, "10.244.0.5:8080", 5678):    in,
		tcp(netlab.FromPeer, "10.244.0.5:8080", app):    in,
		tcp(netlab.FromPeer, "[fd00:244::5]:8080", app): in,
		tcp(netlab.FromPeer, "10.244.0.5:9000", app):    0,
		tcp(netlab.FromPeer, "[fd00:244::5]:9000", app): 0,
		lookup: 0,
		tcp(netlab.FromPod, "10.96.0.10:53", app):       out,
		tcp(netlab.FromPod, "203.0.113.10:5432", app):   out,
		tcp(netlab.FromPod, "203.0.113.10:3306", app):   out,
		tcp(netlab.FromPod, "203.0.113.10:8085", 2002):  out,
		tcp(netlab.FromPod, "192.0.2.7:8000", app):      out,
		tcp(netlab.FromPeer, "10.244.0.5:9090", app):    in,
		tcp(netlab.FromPeer, "10.244.0.5:22", app):      in,
		tcp(netlab.FromPod, "127.0.0.1:8080", app):      0,
		tcp(netlab.FromPod, "[2001:db8::10]:443", 5678): 0,
	}
	captured := fates{lookup: dns, tcp(netlab.FromPod, "10.96.0.10:53", app): 0}
	cases := map[string]fates{
		"deployment":     usual,
		"native-sidecar": usual,
		"dns":            with(usual, captured),
		"job":            with(usual, captured),
		"flags":          with(usual, captured),
		"statefulset":    with(usual, fates{tcp(netlab.FromPod, "203.0.113.10:5432", app): 0}),
		"configmap":      with(usual, with(captured, fates{tcp(netlab.FromPod, "203.0.113.10:3306", app): 0})),
		"gateway": with(usual, with(captured, fates{
			tcp(netlab.FromPod, "10.244.0.5:8080", 5678): 0, tcp(netlab.FromPeer, "10.244.0.5:8080", app): 0,
			tcp(netlab.FromPeer, "[fd00:244::5]:8080", app): 0, tcp(netlab.FromPeer, "10.244.0.5:9090", app): 0,
			tcp(netlab.FromPeer, "10.244.0.5:22", app): 0})),
		"ipv4": with(usual, with(captured, fates{
			tcp(netlab.FromPod, "[2001:db8::10]:80", app): 0, tcp(netlab.FromPeer, "[fd00:244::5]:8080", app): 0})),
		"excluded-ports": with(usual, with(captured, fates{
			tcp(netlab.FromPod, "203.0.113.10:443", app): 0, tcp(netlab.FromPod, "203.0.113.10:8085", 2002): 0,
			tcp(netlab.FromPod, "192.0.2.7:8000", app): 0, tcp(netlab.FromPeer, "10.244.0.5:9090", app): 0,
			tcp(netlab.FromPeer, "10.244.0.5:22", app): 0})),
	}
	files, err := filepath.Glob("testdata/injected/kuma-*.yaml")
	if err != nil || len(files) != len(cases)+1 {
		t.Errorf("%d pods, %d of them known, and one of the CNI plugin's: %v", len(files), len(cases), err)
	}
	for name, flows := range cases {
		t.Run(name, func(t *testing.T) {
			lab := kumaPod(t)
			c, args := withImage(t, readInjected(t, "testdata/injected/kuma-"+name+".yaml"), "kuma-init")
			if out, code := c.start(t, lab, args...); code != 0 || !strings.Contains(out, "created: ") {
				t.Fatalf("%q: exit code %d\n%s", args, code, out)
			}
			for f, port := range flows {
				want := intercept.Fate{}
				if port != 0 {
					want = intercept.RedirectedTo(port)
				}
				if got, err := lab.Send(f); err != nil || got.Fate != want {
					t.Errorf("%s: %s, %v; want %s", f, got, err, want)
				}
			}
		})
	}
}

// kumaPod is a pod with a sidecar under Kuma's user.
func kumaPod(t *testing.T) *netlab.Lab {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Owner: &intercept.Owner{UID: 5678, GID: 5678}}); err != nil {
		t.Fatal(err)
	}
	return lab
}

// TestInjectedByKumaCNI: the init container of a pod whose rules a CNI plugin makes ends if they are there, and fails
// if not. It runs as the proxy, before that, and has no privilege.
func TestInjectedByKumaCNI(t *testing.T) {
	t.Parallel()
	netlab.Require(t)
	all := readInjected(t, "testdata/injected/kuma-cni.yaml")
	c, args := withImage(t, all, "kuma-validation")
	lab := netlab.NewT(t, netlab.Options{})
	if out, code := c.start(t, lab, args...); code == 0 || !strings.Contains(out, "the rules are not in force") {
		t.Errorf("without rules: exit code %d\n%s", code, out)
	}
	rules, _ := withImage(t, readInjected(t, "testdata/injected/kuma-dns.yaml"), "kuma-init")
	rules.expect(t, lab, 0, []string{"created: "}, "kuma", "--config", "/tmp/transparent-proxy/base/config.yaml")
	if out, code := c.start(t, lab, args...); code != 0 {
		t.Errorf("with rules: exit code %d\n%s", code, out)
	}
}
