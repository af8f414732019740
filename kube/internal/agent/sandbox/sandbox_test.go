package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

const uid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"

func TestStartTime(t *testing.T) {
	for stat, want := range map[string]string{
		"7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0": "4711 true",
		"7 (a) Z 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0":    "0 false",
		"7 (a) S 1": "0 false",
		"":          "0 false",
	} {
		ticks, alive := startTime([]byte(stat))
		if got := fmt.Sprint(ticks, alive); got != want {
			t.Errorf("%q: %s, want %s", stat, got, want)
		}
	}
}

// fake adds a process to a /proc: a real one, under another cgroup and age.
func fake(t *testing.T, proc string, pid int, cgroup string, started int) {
	t.Helper()
	fakeAs(t, proc, pid, pid, cgroup, started)
}

// fakeAs is fake under another number.
func fakeAs(t *testing.T, proc string, pid, of int, cgroup string, started int) {
	t.Helper()
	dir := filepath.Join(proc, strconv.Itoa(pid))
	real := "/proc/" + strconv.Itoa(of)
	stat := fmt.Sprintf("%d (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0", pid, started)
	for _, err := range []error{
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o600),
		os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600),
		os.Symlink(real+"/ns", filepath.Join(dir, "ns")),
		os.Symlink(real+"/root", filepath.Join(dir, "root")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sleeper starts a process in a network namespace of its own.
func sleeper(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("cat") // it ends with the test, whatever happens
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		netlab.Skip(t, "needs root: "+err.Error())
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func sameNetNS(t *testing.T, path string, pid int) bool {
	t.Helper()
	a, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && os.SameFile(a, b)
}

// TestOldest: of a pod's processes the oldest is the sandbox; a nested
// namespace is not it, whatever its number is.
func TestOldest(t *testing.T) {
	proc := t.TempDir()
	sandbox, nested, other := sleeper(t), sleeper(t), sleeper(t)
	fake(t, proc, nested, "0::/kubepods/pod"+uid+"/app/docker/1\n", 500)
	fake(t, proc, sandbox, "0::/kubepods/pod"+uid+"/pause\n", 400)
	fake(t, proc, other, "0::/system.slice/sshd.service\n", 1)
	// A monitor of CRI-O's in the pod's cgroup is in the node's network, and older.
	const alone = "aaaaaaaa-4b5a-6978-8796-a5b4c3d2e1f0"
	node, monitor, early := sleeper(t), 0, 0
	for _, pid := range []*int{&monitor, &early} {
		netlab.RequireProgram(t, "nsenter")
		cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", node), "cat")
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		*pid = cmd.Process.Pid
		for deadline := time.Now().Add(10 * time.Second); !sameNetNS(t, fmt.Sprintf("/proc/%d/ns/net", *pid), node); {
			if time.Now().After(deadline) {
				t.Fatal("it does not enter the namespace")
			}
		}
	}
	fake(t, proc, monitor, "0::/kubepods/pod"+uid+"/crio-conmon-1.scope\n", 2)
	fake(t, proc, early, "0::/kubepods/pod"+alone+"/pause\n", 3)
	fakeAs(t, proc, 1, node, "0::/\n", 0)
	found, err := Finder{Proc: proc}.Find([]string{uid, "another", alone})
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	s := found[uid]
	if s.PID != sandbox || !sameNetNS(t, s.NetNS(), sandbox) || sameNetNS(t, s.NetNS(), nested) {
		t.Errorf("%+v, want that of %d", s, sandbox)
	}
	if _, err := s.ResolvConf(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestProc: a real cgroup of a pod's name, in the real /proc.
func TestProc(t *testing.T) {
	root, err := cgroupRoot()
	if err != nil {
		netlab.Skip(t, err.Error())
	}
	pod := filepath.Join(root, "mesh-test-kubepods", "pod"+uid)
	if err := os.MkdirAll(pod, 0o755); err != nil {
		netlab.Skip(t, "no cgroup can be made here: "+err.Error())
	}
	t.Cleanup(func() { _ = os.Remove(pod); _ = os.Remove(filepath.Dir(pod)) })
	pid := sleeper(t)
	if err := os.WriteFile(filepath.Join(pod, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		netlab.Skip(t, "no process can be moved into a cgroup here: "+err.Error())
	}
	t.Cleanup(func() { // an empty one can be removed
		_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	})
	found, err := Finder{Proc: "/proc"}.Find([]string{uid})
	if err != nil || found[uid].PID != pid || !sameNetNS(t, found[uid].NetNS(), pid) {
		t.Fatalf("%v, %v; want process %d", found, err, pid)
	}
	if err := found[uid].Close(); err != nil {
		t.Error(err)
	}
}

// cgroupRoot is a hierarchy in which cgroups can be made: of version 2, or of
// version 1 any.
func cgroupRoot() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified",
		"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/freezer"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cgroups are mounted here")
}
