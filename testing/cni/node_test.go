//go:build linux

package cni_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// image has one file, /part.
const image = "localhost/part:1"

// A node runs containerd for itself: in a network, a mount and a PID namespace
// of its own, so that nothing of it is left however the test ends. Its disk is
// a directory; what a reboot forgets is on tmpfs.
type node struct {
	t   testing.TB
	dir string
	// net is the node's own network namespace, in which it also has the
	// addresses that pods call.
	net        *netlab.Namespace
	cgroup     string
	init       int // PID 1 of the node, as seen from here
	boot       *exec.Cmd
	containerd *exec.Cmd
	cri        cri
}

// newNode starts a node whose pods get mesh-cni with more fields of the entry.
func newNode(t testing.TB, entry map[string]any) *node {
	t.Helper()
	netlab.Require(t)
	for _, program := range []string{"containerd", "runc", "ctr", "/usr/lib/cni/bridge"} {
		netlab.RequireProgram(t, program)
	}
	n := &node{t: t, dir: t.TempDir(), cgroup: fmt.Sprintf("/mesh-cni-test-%d", os.Getpid())}
	n.cri = newCRI(n.path("containerd.sock"))
	n.must(os.MkdirAll(n.path("net.d"), 0o755), os.MkdirAll(n.path("gvisor.d"), 0o755), os.MkdirAll(n.path("bin"), 0o755))
	for _, p := range []string{"/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/lib/cni/loopback", filepath.Join(plugins, "mesh-cni")} {
		n.must(os.Symlink(p, n.path("bin/"+filepath.Base(p))))
	}
	n.writeList("net.d", entry)
	n.writeList("gvisor.d", map[string]any{"runtime": "runsc"})
	n.must(writeImage(filepath.Join(plugins, "first"), n.path("image.tar")))
	n.must(os.WriteFile(n.path("config.toml"), fmt.Appendf(nil, `version = 2
root = %q
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = %q
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %q
conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor]
runtime_type = "io.containerd.runc.v2" # in name only
cni_conf_dir = %q
`, n.path("root"), n.path("containerd.sock"), image, n.path("bin"), n.path("net.d"), n.path("gvisor.d")), 0o600))

	t.Cleanup(func() {
		n.halt()
		n.removeCgroups()
		if t.Failed() {
			b, _ := os.ReadFile(n.path("containerd.log"))
			t.Logf("containerd's log ends with\n%s", b[max(0, len(b)-4000):])
		}
	})
	n.start()
	out, err := exec.Command("ctr", "--address", n.path("containerd.sock"), "-n", "k8s.io", "images", "import", n.path("image.tar")).CombinedOutput()
	if err != nil {
		t.Fatalf("import the image: %v: %s", err, out)
	}
	n.await("the image", func() bool {
		f, err := n.cri.call(t.Context(), "ImageService/ImageStatus", message{}.sub(1, message{}.text(1, image)))
		return err == nil && f.text(1) != ""
	})
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) must(errs ...error) {
	n.t.Helper()
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
}

// writeList writes the conflist, as an installer does: in one step. The file
// is first written beside: containerd 1.6 reads its directory again when it is
// told of a write there or of the old name of a file, but not of a new one.
func (n *node) writeList(dir string, entry map[string]any) {
	n.t.Helper()
	ours := map[string]any{
		"type": "mesh-cni", "capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true, "dns": true},
		"logFile": n.path("mesh-cni.log"), "logLevel": "debug",
	}
	maps.Copy(ours, entry)
	list := map[string]any{"cniVersion": "1.0.0", "name": "pods", "plugins": []any{
		map[string]any{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": map[string]any{
			"type": "host-local", "dataDir": "/run/ipam", "ranges": [][]map[string]string{{{"subnet": "10.88.0.0/16"}}}, "routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		}},
		ours,
	}}
	b, err := json.Marshal(list)
	n.must(err, os.WriteFile(n.path(dir+"/new"), b, 0o600), os.Rename(n.path(dir+"/new"), n.path(dir+"/10-pods.conflist")))
}

// start boots the node: all but its disk is new.
func (n *node) start() {
	n.t.Helper()
	net, err := netlab.NewNamespace()
	n.must(err)
	n.net = net
	n.inside("/sbin/ip", "link", "set", "lo", "up")
	for _, addr := range []string{"203.0.113.7/32", "10.96.0.10/32"} {
		n.inside("/sbin/ip", "addr", "add", addr, "dev", "lo")
	}
	n.must(n.net.Start(exec.Command(filepath.Join(plugins, "first"), "server", "outside", "80", "5432", "udp:10.96.0.10:53"), nil))
	n.boot = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "/bin/sh", "-ec",
		`mount -t tmpfs tmpfs /run; mkdir /run/lock; mount -t tmpfs tmpfs /var/lib; exec "$0" init`, filepath.Join(plugins, "first"))
	n.must(n.net.Start(n.boot, nil))
	n.await("the node", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", n.boot.Process.Pid))
		if err != nil {
			return false
		}
		if _, err := fmt.Sscan(string(b), &n.init); err != nil {
			return false
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.init))
		return err == nil && filepath.Base(exe) == "first"
	})
	n.startContainerd()
}

func (n *node) startContainerd() {
	n.t.Helper()
	log, err := os.OpenFile(n.path("containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	n.must(err)
	defer log.Close()
	n.containerd = exec.Command("nsenter", "--target", fmt.Sprint(n.init), "--mount", "--pid", "containerd", "--config", n.path("config.toml"))
	n.containerd.Stdout, n.containerd.Stderr = log, log
	n.must(n.net.Start(n.containerd, nil))
	n.await("containerd", func() bool {
		ready, err := n.cri.networkReady(n.t.Context())
		return err == nil && ready
	})
}

// killContainerd ends containerd alone; its pods go on.
func (n *node) killContainerd() {
	n.t.Helper()
	// nsenter's child.
	var pid int
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", n.containerd.Process.Pid))
	n.must(err)
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		n.t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	n.must(err, p.Kill())
	n.containerd.Wait()
	n.cri.client.CloseIdleConnections()
}

// halt ends everything at once, as a power failure does.
func (n *node) halt() {
	if n.net == nil {
		return
	}
	if p, err := os.FindProcess(n.init); err == nil && n.init > 1 {
		p.Kill() // and with PID 1 all of the namespace
	}
	n.boot.Wait()
	n.must(n.net.Close())
	n.net = nil
	n.cri.client.CloseIdleConnections()
}

func (n *node) removeCgroups() {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(root + n.cgroup)
		for _, top := range tops {
			var dirs []string
			filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			slices.Reverse(dirs)
			for _, dir := range dirs {
				n.await("the end of "+dir, func() bool { err := os.Remove(dir); return err == nil || errors.Is(err, fs.ErrNotExist) })
			}
		}
	}
}

// inside runs a program in the node's network namespace and returns what it prints.
func (n *node) inside(program string, args ...string) string {
	n.t.Helper()
	cmd := exec.Command(program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	n.must(n.net.Start(cmd, nil))
	if err := cmd.Wait(); err != nil {
		return strings.TrimSpace(out.String()) + " (" + err.Error() + ")"
	}
	return strings.TrimSpace(out.String())
}

// await waits for what happens by itself.
func (n *node) await(what string, is func() bool) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			n.t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

// left is what pods leave behind if they leave anything.
func (n *node) left() string {
	var all []string
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.init))
	n.must(err)
	for line := range strings.Lines(string(mounts)) {
		all = append(all, "mount "+strings.Fields(line)[4])
	}
	root := fmt.Sprintf("/proc/%d/root", n.init)
	for _, dir := range []string{"/run/netns", "/run/ipam", "/run/containerd/s", "/run/containerd/io.containerd.runtime.v2.task", "/var/lib/cni/results"} {
		filepath.WalkDir(root+dir, func(path string, d fs.DirEntry, err error) error {
			// host-local keeps a lock and the address it gave out last.
			if err == nil && !d.IsDir() && d.Name() != "lock" && !strings.HasPrefix(d.Name(), "last_reserved_ip") {
				all = append(all, strings.TrimPrefix(path, root))
			}
			return nil
		})
	}
	processes, err := filepath.Glob(root + "/proc/[0-9]*/comm")
	n.must(err)
	for _, p := range processes {
		if comm, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(comm), "containerd-shim") {
			all = append(all, "a shim")
		}
	}
	all = append(all, "links: "+n.inside("/bin/sh", "-c", "/sbin/ip -o link | /usr/bin/grep -c veth || true"))
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// writeImage writes a docker-archive of one file, which is the entry point.
func writeImage(program, to string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive := func(files map[string][]byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}))
			_, werr := w.Write(files[name])
			err = errors.Join(err, werr)
		}
		err = errors.Join(err, w.Close())
		return b.Bytes()
	}
	layer := archive(map[string][]byte{"part": binary})
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/part","pause"]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, sha256.Sum256(layer))
	manifest := fmt.Appendf(nil, `[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, image)
	return errors.Join(err, os.WriteFile(to, archive(map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer}), 0o600))
}
