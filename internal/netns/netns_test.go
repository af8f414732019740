//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestThreadsComeBack: threads that looked into a namespace are back in their
// own, whatever happened inside.
func TestThreadsComeBack(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	n, err := Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			inside, err := "", n.Do(func() error { return errors.New("on purpose") })
			if err == nil || err.Error() != "on purpose" {
				t.Errorf("Do: %v", err)
			}
			err = n.Do(func() (err error) {
				inside, err = os.Readlink("/proc/thread-self/ns/net")
				return err
			})
			if err != nil || inside == own {
				t.Errorf("inside is %s, outside %s, %v", inside, own, err)
			}
			if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != own {
				t.Errorf("meanwhile the process is in %s, %v", now, err)
			}
		})
	}
	wg.Wait()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		if link, err := os.Readlink(task); err == nil && link != own {
			t.Errorf("%s is %s, not %s", task, link, own)
		}
	}
}

// TestPanicIsTheCallers: a panic in a namespace comes out where the caller can
// recover it, and the process is where it was.
func TestPanicIsTheCallers(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	n, err := Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		func() {
			defer func() {
				r := recover()
				if text := fmt.Sprint(r); !strings.Contains(text, "oh") || !strings.Contains(text, "netns_test.go") {
					t.Errorf("recovered %v", r)
				}
			}()
			n.Do(func() error { panic("oh") })
		}()
	}
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != before {
		t.Errorf("the process is in %s, %v", now, err)
	}
}

// TestMain lets tests start this binary again, as another user or with one
// thread for all goroutines.
func TestMain(m *testing.M) {
	run := map[string]func() error{"nobody": nobody, "main": mainThread}[os.Getenv(elsewhereVariable)]
	if run == nil {
		m.Run()
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const elsewhereVariable = "NETNS_TEST_ELSEWHERE"

// elsewhere starts this binary again. The namespace is its file 3.
func elsewhere(t *testing.T, what string, attr *syscall.SysProcAttr) {
	t.Helper()
	netlab.Require(t)
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	// Not by its name: another user may not enter the directories on the way.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), elsewhereVariable+"="+what, "GOMAXPROCS=1")
	cmd.SysProcAttr, cmd.ExtraFiles = attr, []*os.File{n.file}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestPermission: who has no privilege is told so, by the one error for that.
func TestPermission(t *testing.T) {
	elsewhere(t, "nobody", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
}

func nobody() error {
	_, openErr := Open("pid:1")
	_, newErr := New()
	n, err := Open("/proc/self/fd/3")
	if err != nil {
		return err
	}
	enterErr := n.Do(func() error { return errors.New("it was entered") })
	for want, err := range map[string]error{
		"pid:1 (/proc/1/ns/net): ":                openErr,
		"make a network namespace: ":              newErr,
		"enter network namespace /proc/self/fd/3": enterErr,
	} {
		e, is := errors.AsType[*Error](err)
		if !is || e.Kind != Forbidden || !errors.Is(err, ruleset.ErrPermission) || errors.Is(err, ErrNotNetNS) ||
			!strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "CAP_SYS_") {
			return fmt.Errorf("%q, not %q", err, want)
		}
	}
	return n.Close()
}

// TestMainThread: it never enters a namespace, even where the goroutine for that
// is started on it.
func TestMainThread(t *testing.T) { elsewhere(t, "main", nil) }

func mainThread() error {
	if unix.Gettid() != unix.Getpid() {
		return errors.New("main does not begin on the main thread")
	}
	n, err := Open("/proc/self/fd/3")
	if err != nil {
		return err
	}
	for range 100 {
		err = errors.Join(err, n.Do(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("the main thread is in the namespace")
			}
			return nil
		}))
	}
	return errors.Join(err, n.Close())
}

// TestForms: every way to name a namespace leads to it.
func TestForms(t *testing.T) {
	netlab.Require(t)
	n := newNetNS(t)
	pid := startIn(t, n)
	name := fmt.Sprintf("intercept-test-%d", os.Getpid())
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/run/netns/"+name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove("/run/netns/" + name) })
	if err := unix.Mount(n.Path(), "/run/netns/"+name, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount("/run/netns/"+name, unix.MNT_DETACH) })
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/run/netns/"+name, link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(link))
	for spec, path := range map[string]string{
		n.Path():                            n.Path(),
		link:                                link,
		"./link":                            "./link",
		name:                                "/run/netns/" + name,
		fmt.Sprintf("/proc/%d/ns/net", pid): fmt.Sprintf("/proc/%d/ns/net", pid),
		fmt.Sprintf("pid:%d", pid):          fmt.Sprintf("/proc/%d/ns/net", pid),
	} {
		found, err := Open(spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if !found.Same(n) || found.Path() != path || found.IsOwn() {
			t.Errorf("%s is %s", spec, found.Path())
		}
		if is, err := found.IsOfOwnUser(); err != nil || !is {
			t.Errorf("%s is of our user namespace: %v, %v", spec, is, err)
		}
		if err := found.Do(func() error { return expectNetNS("/proc/thread-self/ns/net", n) }); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		if err := errors.Join(found.Close()); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}

	// An open namespace stays what it is when the path leads somewhere else.
	found, err := Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	if err := errors.Join(os.Remove(link), os.Symlink("/proc/self/ns/net", link)); err != nil {
		t.Fatal(err)
	}
	now, err := Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if found.Same(now) || !found.Same(n) || !now.Same(&NetNS{}) {
		t.Error("what was open has changed with its path")
	}
}

// TestOwn: no name is the namespace of the thread that asks.
func TestOwn(t *testing.T) {
	netlab.Require(t)
	own, err := Open("")
	if err != nil || !own.IsOwn() || own.Path() != "" {
		t.Fatalf("%+v, %v", own, err)
	}
	n := newNetNS(t)
	inside := func() error {
		if !own.Same(n) {
			return errors.New("it is not the thread's")
		}
		return own.Do(func() error { return expectNetNS("/proc/thread-self/ns/net", n) })
	}
	if err := n.Do(inside); err != nil {
		t.Error(err)
	}
	if own.Same(n) {
		t.Error("it is still that of another thread")
	}
	if is, err := own.IsOfOwnUser(); err != nil || !is {
		t.Errorf("it is of our user namespace: %v, %v", is, err)
	}
	if err := own.Close(); err != nil {
		t.Error(err)
	}
}

// TestClosed: what is closed is not entered by the number that it had.
func TestClosed(t *testing.T) {
	netlab.Require(t)
	n, other := newNetNS(t), newNetNS(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Do(func() error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do: %v", err)
	}
	if err := n.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Close: %v", err)
	}
	if n.Same(other) || other.Same(n) {
		t.Error("it is the same as another")
	}
}

// TestRefused: what is no namespace is refused by its name and its kind,
// nothing hangs, and no text speaks of a command line.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	ended := exec.Command("true")
	if err := errors.Join(os.WriteFile(path("file"), nil, 0o600), unix.Mkfifo(path("fifo"), 0o600),
		os.Symlink("fifo", path("link")), os.Symlink("loop", path("loop")), ended.Run()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec string
		kind Kind
		says string
	}{
		{path("file"), Other, "/run/netns/NAME"},
		{path("fifo"), Other, "/run/netns/NAME"},
		{path("link"), Other, "/run/netns/NAME"},
		{path("loop"), Other, "symbolic links"},
		{dir, Other, "/run/netns/NAME"},
		{"/dev/null", Other, "/run/netns/NAME"},
		{"/proc/self/ns/mnt", Other, "/run/netns/NAME"},
		{"/proc/self/ns/net/x", Other, "not a directory"},
		{"a/" + strings.Repeat("x", 5000), Other, "too long"},
		{"nul\x00", Other, "invalid argument"},
		{path("gone"), Gone, "the pod may be gone"},
		{"../" + filepath.Base(path("gone")), Gone, "no such file"},
		{"no-such-name", Gone, "a path has a slash"},
		{"2147483647", Gone, "pid:2147483647"},
		{fmt.Sprintf("pid:%d", ended.Process.Pid), Gone, "no such process"},
		{"..", Malformed, "no name"},
		{".", Malformed, "no name"},
		{"pid:", Malformed, "process"},
		{"pid:0", Malformed, "process"},
		{"pid:-1", Malformed, "process"},
		{"pid:+1", Malformed, "process"},
		{"pid:self", Malformed, "process"},
		{"pid:99999999999", Malformed, "process"},
		{"pid:1/../self", Malformed, "process"},
		{"container:", Malformed, "12 to 64"},
		{"container:0123456789a", Malformed, "12 to 64"},
		{"container:0123456789xx", Malformed, "12 to 64"},
		{"containerd://" + strings.Repeat("0", 65), Malformed, "12 to 64"},
		{"container:" + strings.Repeat("0", 64), Gone, "hostPID"},
	} {
		n, err := Open(c.spec)
		if e, is := errors.AsType[*Error](err); n != nil || !is || e.Kind != c.kind || e.Spec != c.spec {
			t.Errorf("%.80q: %+v", c.spec, err)
			continue
		}
		if !errors.Is(err, ErrNotNetNS) || errors.Is(err, ruleset.ErrPermission) {
			t.Errorf("%.80q: %v", c.spec, err)
		}
		text := err.Error()
		if !strings.HasPrefix(text, c.spec) || !strings.Contains(text, c.says) || strings.Contains(text, "--") {
			t.Errorf("%.80q: %s", c.spec, text)
		}
	}
}

// TestCannotReturn: a thread that cannot go back ends.
func TestCannotReturn(t *testing.T) {
	netlab.Require(t)
	n := newNetNS(t)
	var tid int
	err := n.Do(func() error {
		tid = unix.Gettid()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		return errors.Join(errors.New("on purpose"), unix.Capset(&header, &none[0]))
	})
	e, is := errors.AsType[*Error](err)
	if !is || e.Op != "leave" || e.Kind != Forbidden || !strings.Contains(err.Error(), "on purpose") {
		t.Errorf("Do: %v", err)
	}
	gone := time.After(10 * time.Second)
	for task := fmt.Sprintf("/proc/self/task/%d", tid); ; {
		if _, err := os.Stat(task); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-gone:
			t.Fatal("the thread is still there")
		case <-time.After(time.Millisecond):
		}
	}
}

// TestContainer finds containers by cgroups of the kernel's own, as runtimes
// make them.
func TestContainer(t *testing.T) {
	netlab.Require(t)
	mount := t.TempDir()
	if err := unix.Mount("none", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	root := filepath.Join(mount, fmt.Sprintf("intercept-test-%d", os.Getpid()))
	id := func(prefix string) string { return prefix + strings.Repeat("0", 64-len(prefix)) }
	a, b, c := id("aaaaaaaaaaaaaaaa"), id("bbbbbbbbbbbbbbbb1"), id("bbbbbbbbbbbbbbbb2")
	pod, nested := newNetNS(t), newNetNS(t)
	var cgroups []string
	t.Cleanup(func() { // after the processes have been waited for
		for _, c := range slices.Backward(cgroups) {
			if err := os.Remove(c); err != nil {
				t.Error(err)
			}
		}
	})
	put := func(cgroup string, n *NetNS) {
		t.Helper()
		path := root
		for _, part := range append([]string{""}, strings.Split(cgroup, "/")...) {
			path = filepath.Join(path, part)
			if err := os.Mkdir(path, 0o755); err == nil {
				cgroups = append(cgroups, path)
			} else if !errors.Is(err, os.ErrExist) {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path+"/cgroup.procs", []byte(strconv.Itoa(startIn(t, n))), 0); err != nil {
			t.Fatal(err)
		}
	}
	put("kubepods.slice/crio-conmon-"+a+".scope", nested) // older, and not of it
	put("kubepods.slice/cri-containerd-"+a+".scope/init.scope", pod)
	// What the container started has namespaces of its own, and containers.
	put("kubepods.slice/cri-containerd-"+a+".scope/app", nested)
	put("kubepods.slice/cri-containerd-"+a+".scope/docker/"+b, nested)
	put("kubepods/burstable/pod1/"+c, pod)
	for spec, want := range map[string]*NetNS{
		"container:" + a:      pod,
		"container:" + a[:12]: pod,
		"containerd://" + a:   pod,
		"cri-o://" + a:        pod,
		"container:" + b:      nested,
		"docker://" + c:       pod,
		"container:" + c[:17]: pod,
	} {
		n, err := Open(spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if !n.Same(want) {
			t.Errorf("%s is another namespace", spec)
		}
		n.Close()
	}
	_, err := Open("container:" + b[:16])
	e, is := errors.AsType[*Error](err)
	if !is || e.Kind != Ambiguous || !strings.Contains(e.Hint, b) || !strings.Contains(e.Hint, c) {
		t.Errorf("two containers of an id: %v", err)
	}
}

// TestContainerCgroup: what processes of various runtimes say of themselves.
func TestContainerCgroup(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	const kubelet = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/"
	for _, c := range []struct{ line, want, below string }{
		{"0::", "", "/"},
		{"0::", "", "/user.slice/user-1000.slice/session-1.scope"},
		{"0::", "/system.slice/docker-" + id + ".scope", ""},
		{"0::", kubelet + "crio-" + id + ".scope", "/container"},
		{"0::", kubelet + "cri-containerd-" + id + ".scope", "/init.scope"},
		{"0::", "/machine.slice/libpod-" + id + ".scope", "/container"},
		{"0::", "", "/machine.slice/libpod-conmon-" + id + ".scope"},
		{"0::", "/../../cri-containerd-" + id + ".scope", ""},
		{"12:pids:/\n5:memory:", "/kubepods/pod1/" + id, "\n0::/"},
		{"3:cpu,cpuacct:", "/kubepods-burstable-pod1.slice:cri-containerd:" + id, ""},
		{"0::", "", "/pod" + id},
		{"0::", "", "/" + id[:63]},
		{"0::", "", "no-slash"},
		{"", "", "garbage"},
	} {
		if text := c.line + c.want + c.below + "\n"; containerCgroup(text) != c.want {
			t.Errorf("%q: %q, not %q", text, containerCgroup(text), c.want)
		}
	}
}

func newNetNS(t *testing.T) *NetNS {
	t.Helper()
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// startIn starts a process in a namespace that ends with the test.
func startIn(t *testing.T, n *NetNS) (pid int) {
	t.Helper()
	cmd := exec.Command("cat")
	start(t, n, cmd)
	return cmd.Process.Pid
}

// start starts a command in a namespace that ends when nothing more comes by its standard input, as it does with the test.
func start(t *testing.T, n *NetNS, cmd *exec.Cmd) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
}

// expectNetNS compares what a path leads to with a namespace.
func expectNetNS(path string, n *NetNS) error {
	found, err := Open(path)
	if err != nil {
		return err
	}
	defer found.Close()
	if !found.Same(n) {
		return fmt.Errorf("%s is another namespace than %s", path, n.Path())
	}
	return nil
}
