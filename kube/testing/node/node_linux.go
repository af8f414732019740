package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// Image is that of pods' containers and of their sandboxes. It has one file,
// /part (see command part).
const Image = "localhost/part:1"

// nameserver is what pods have in their resolv.conf.
const nameserver = "10.96.0.10"

// Variable names a directory with another containerd than the machine's, its
// shim, runc, and plugins of the CNI project (make cluster).
const Variable = "MESH_TEST_CONTAINERD"

// Options say what a node has.
type Options struct {
	// Part is the program of package part.
	Part string
	// Plugins are programs in the node's /opt/cni/bin, besides bridge,
	// host-local and loopback.
	Plugins []string
	// Addresses are the node's, besides those of "outside".
	Addresses []string
	// Setup is a shell script that runs in the node's namespaces when it boots.
	// DISK is the directory of its disk, CGROUP the [Node]'s Cgroup.
	Setup string
	// Runtimes are runtimes with a directory of CNI lists of their own, on the
	// node's disk.
	Runtimes map[string]string
}

// Node is a node. See [New].
type Node struct {
	// Net is the node's own network namespace, in which it also has the
	// addresses that pods call.
	Net *netlab.Namespace
	// CRI speaks to its containerd.
	CRI CRI
	// Cgroup is the parent of all cgroups of the node.
	Cgroup string

	t          testing.TB
	o          Options
	dir        string
	init       int // PID 1 of the node, as seen from here
	boot       *exec.Cmd
	containerd *exec.Cmd
}

// New boots a node and has its containerd import [Image]. The test ends it.
func New(t testing.TB, o Options) *Node {
	t.Helper()
	netlab.Require(t)
	n := &Node{t: t, o: o, dir: t.TempDir(), Cgroup: fmt.Sprintf("/mesh-test-%d", os.Getpid())}
	for _, name := range []string{program("containerd"), program("runc"), "ctr", cniPlugin("bridge"), "ip", "mount",
		"nsenter", "unshare"} {
		netlab.RequireProgram(t, name)
	}
	n.CRI = newCRI(n.Path("containerd.sock"), n.Cgroup)
	for _, dir := range slices.AppendSeq([]string{"net.d", "bin", "etc", "etc.work"}, maps.Values(o.Runtimes)) {
		n.must(os.Mkdir(n.Path(dir), 0o755))
	}
	for _, p := range append([]string{cniPlugin("bridge"), cniPlugin("host-local"), cniPlugin("loopback")}, o.Plugins...) {
		n.must(os.Symlink(p, n.Path("bin/"+filepath.Base(p))))
	}
	n.must(os.WriteFile(n.Path("config.toml"), []byte(n.config()), 0o600))
	t.Cleanup(func() {
		n.Halt()
		n.removeCgroups()
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(n.Path("*.log"))
		for _, path := range logs {
			b, _ := os.ReadFile(path)
			t.Logf("%s ends with\n%s", filepath.Base(path), b[max(0, len(b)-4000):])
		}
	})
	n.Boot()
	part, err := os.ReadFile(o.Part)
	n.must(err)
	archive, err := image.Archive(image.Image{
		Name: Image, Architecture: runtime.GOARCH, Entrypoint: []string{"/part", "pause"},
		Files: map[string][]byte{"part": part},
	})
	n.must(err, os.WriteFile(n.Path("image.tar"), archive, 0o600))
	n.Import(n.Path("image.tar"), Image)
	return n
}

// program is the path of a program of the containerd that is used.
func program(name string) string { return filepath.Join(os.Getenv(Variable), name) }

// cniPlugin is the path of a plugin of the CNI project.
func cniPlugin(name string) string {
	if os.Getenv(Variable) != "" {
		return program(name)
	}
	return filepath.Join("/usr/lib/cni", name)
}

// CNIVersion is the newest version of CNI that containerd and the plugins of
// the CNI project speak.
func CNIVersion() string {
	if os.Getenv(Variable) != "" {
		return "1.1.0"
	}
	return "1.0.0"
}

// config is the configuration of containerd 1 or 2.
func (n *Node) config() string {
	out, err := exec.Command(program("containerd"), "--version").Output()
	n.must(err)
	version, cri, bin := 3, "io.containerd.cri.v1.runtime", `bin_dirs = ["/opt/cni/bin"]`
	text := fmt.Sprintf("[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = %q\n[plugins.'%s']\n", Image,
		cri)
	if strings.Contains(string(out), " 1.") {
		version, cri, bin = 2, "io.containerd.grpc.v1.cri", `bin_dir = "/opt/cni/bin"`
		text = fmt.Sprintf("[plugins.'%s']\nsandbox_image = %q\ndisable_tcp_service = true\n", cri, Image)
	}
	text = fmt.Sprintf(`version = %d
root = %q
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp"
]
[grpc]
address = %q
%srestrict_oom_score_adj = true
[plugins.'%[5]s'.cni]
%s
conf_dir = "/etc/cni/net.d"
[plugins.'%[5]s'.containerd]
default_runtime_name = "runc"
[plugins.'%[5]s'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`, version, n.Path("root"), n.Path("containerd.sock"), text, cri, bin)
	for name, dir := range n.o.Runtimes {
		text += fmt.Sprintf(
			"[plugins.'%s'.containerd.runtimes.%s]\nruntime_type = \"io.containerd.runc.v2\" # in name only\n"+
				"cni_conf_dir = %q\n", cri, name, n.Path(dir))
	}
	return text
}

// For is the node for a part of its test, which fails in its place.
func (n *Node) For(t testing.TB) *Node {
	part := *n
	part.t = t
	return &part
}

// Root is the node's file system, as processes outside of it reach it.
func (n *Node) Root() string { return fmt.Sprintf("/proc/%d/root", n.init) }

// Path is that of a file on the node's disk. net.d and bin are also
// /etc/cni/net.d and /opt/cni/bin of the node.
func (n *Node) Path(name string) string { return filepath.Join(n.dir, name) }

func (n *Node) must(errs ...error) {
	n.t.Helper()
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
}

// Boot starts the node and its containerd: all but its disk is new.
func (n *Node) Boot() {
	n.t.Helper()
	net, err := netlab.NewNamespace()
	n.must(err)
	n.Net = net
	n.Inside("/sbin/ip", "link", "set", "lo", "up")
	for _, addr := range append([]string{"203.0.113.7", nameserver}, n.o.Addresses...) {
		n.Inside("/sbin/ip", "addr", "add", addr+"/32", "dev", "lo")
	}
	n.must(n.Net.Start(exec.Command(n.o.Part, "server", "outside", "80", "5432", "udp:"+nameserver+":53"), nil))
	n.boot = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation",
		"private", "/bin/sh", "-ec", `
		mount -t tmpfs tmpfs /run; mkdir /run/lock /run/netns
		mount -t tmpfs tmpfs /var/lib
		mount -t tmpfs tmpfs /var/log
		mount -t overlay -o "lowerdir=/etc,upperdir=$DISK/etc,workdir=$DISK/etc.work" overlay /etc
		mkdir -p /etc/cni/net.d; mount --bind "$DISK/net.d" /etc/cni/net.d
		mount -t tmpfs tmpfs /opt
		mkdir -p /opt/cni/bin; mount --bind "$DISK/bin" /opt/cni/bin
		`+n.o.Setup+`
		exec "$PART" init`)
	n.boot.Env = append(os.Environ(), "DISK="+n.dir, "CGROUP="+n.Cgroup, "PART="+n.o.Part)
	log := n.Log("boot")
	defer log.Close()
	n.boot.Stdout, n.boot.Stderr = log, log
	n.must(n.Net.Start(n.boot, nil))
	n.Await("the node", func() bool {
		var err error
		if n.init, err = child(n.boot); err != nil {
			return false
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.init))
		return err == nil && exe == n.o.Part
	})
	n.StartContainerd()
}

// Command is a program that will run in all of the node's namespaces. Start it
// with Start of Net.
func (n *Node) Command(program string, args ...string) *exec.Cmd {
	return exec.Command("nsenter",
		append([]string{"--target", fmt.Sprint(n.init), "--mount", "--pid", program}, args...)...)
}

// Log opens the log of a program, to append to it. A test that fails shows how
// it ends.
func (n *Node) Log(name string) *os.File {
	n.t.Helper()
	log, err := os.OpenFile(n.Path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	n.must(err)
	return log
}

// StartContainerd starts containerd and waits until it takes pods.
func (n *Node) StartContainerd() {
	n.t.Helper()
	log := n.Log("containerd")
	defer log.Close()
	n.containerd = n.Command(program("containerd"), "--config", n.Path("config.toml"))
	n.containerd.Stdout, n.containerd.Stderr = log, log
	// It looks for its shim there.
	n.containerd.Env = append(os.Environ(), "PATH="+os.Getenv(Variable)+":"+os.Getenv("PATH"))
	n.must(n.Net.Start(n.containerd, nil))
	n.Await("containerd", func() bool {
		_, _, err := n.CRI.NetworkReady(n.t.Context())
		return err == nil
	})
}

// KillContainerd ends containerd alone; its pods go on.
func (n *Node) KillContainerd() {
	n.t.Helper()
	n.must(KillChild(n.containerd))
	n.CRI.client.CloseIdleConnections()
}

// KillChild kills what a [Node.Command] runs, and waits for its end.
func KillChild(cmd *exec.Cmd) error {
	pid, err := child(cmd) // of nsenter
	if err != nil {
		return err
	}
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	cmd.Wait()
	return err
}

// child is the one child of a process.
func child(cmd *exec.Cmd) (pid int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err == nil {
		_, err = fmt.Sscan(string(b), &pid)
	}
	return pid, err
}

// Halt ends everything at once, as a power failure does.
func (n *Node) Halt() {
	if n.Net == nil {
		return
	}
	if p, err := os.FindProcess(n.init); err == nil && n.init > 1 {
		p.Kill() // and with PID 1 all of the namespace
	}
	n.boot.Wait()
	n.must(n.Net.Close())
	n.Net = nil
	n.CRI.client.CloseIdleConnections()
}

func (n *Node) removeCgroups() {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(root + n.Cgroup)
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
				n.Await("the end of "+dir,
					func() bool { err := os.Remove(dir); return err == nil || errors.Is(err, fs.ErrNotExist) })
			}
		}
	}
}

// Import gives containerd an image, and waits until pods can have it.
func (n *Node) Import(archive, name string) {
	n.t.Helper()
	out, err := exec.Command("ctr", "--address", n.Path("containerd.sock"), "-n", "k8s.io", "images", "import",
		archive).CombinedOutput()
	if err != nil {
		n.t.Fatalf("import the image %s: %v: %s", name, err, out)
	}
	n.awaitImage(name)
}

// ByDigest makes an image that was imported known by its digest, as if it had been pulled by that, and returns that name. It
// fails if the image has another digest.
func (n *Node) ByDigest(name, digest string) string {
	n.t.Helper()
	repository, _, _ := strings.Cut(name, ":")
	as := repository + "@" + digest
	ctr := []string{"--address", n.Path("containerd.sock"), "-n", "k8s.io", "images"}
	list, err := exec.Command("ctr", append(ctr, "list", "name=="+name)...).CombinedOutput()
	if err != nil || !strings.Contains(string(list), digest) {
		n.t.Fatalf("the image %s has not the digest %s: %v: %s", name, digest, err, list)
	}
	if out, err := exec.Command("ctr", append(ctr, "tag", name, as)...).CombinedOutput(); err != nil {
		n.t.Fatalf("name %s by its digest: %v: %s", name, err, out)
	}
	n.awaitImage(as)
	return as
}

func (n *Node) awaitImage(name string) {
	n.t.Helper()
	n.Await("the image "+name, func() bool {
		f, err := n.CRI.call(n.t.Context(), "ImageService/ImageStatus", message{}.sub(1, message{}.text(1, name)))
		return err == nil && f.text(1) != ""
	})
}

// Inside runs a program in the node's network namespace and returns what it prints.
func (n *Node) Inside(program string, args ...string) string {
	n.t.Helper()
	text, err := n.output(exec.Command(program, args...))
	if err != nil {
		return text + " (" + err.Error() + ")"
	}
	return text
}

// Output runs a program in all of the node's namespaces and returns what it
// prints.
func (n *Node) Output(program string, args ...string) (string, error) {
	n.t.Helper()
	return n.output(n.Command(program, args...))
}

func (n *Node) output(cmd *exec.Cmd) (string, error) {
	n.t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	n.must(n.Net.Start(cmd, nil))
	err := cmd.Wait()
	return strings.TrimSpace(out.String()), err
}

// Await waits for what happens by itself, for half a minute at most.
func (n *Node) Await(what string, is func() bool) {
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

// Left is what pods leave behind if they leave anything.
func (n *Node) Left() string {
	var all []string
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.init))
	n.must(err)
	for line := range strings.Lines(string(mounts)) {
		all = append(all, "mount "+strings.Fields(line)[4])
	}
	root := fmt.Sprintf("/proc/%d/root", n.init)
	for _, dir := range []string{
		"/run/netns", "/run/ipam", "/run/containerd/s", "/run/containerd/io.containerd.runtime.v2.task",
		"/var/lib/cni/results"} {
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
	all = append(all, "links: "+n.Inside("/bin/sh", "-c", "/sbin/ip -o link | /usr/bin/grep -c veth || true"))
	slices.Sort(all)
	return strings.Join(all, "\n")
}
