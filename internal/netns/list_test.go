//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// keep gives a namespace a name, as "ip netns" does.
func keep(t *testing.T, n *NetNS, name string) (path string) {
	t.Helper()
	path = fmt.Sprintf("/run/netns/intercept-test-%d-%s", os.Getpid(), name)
	if err := errors.Join(os.MkdirAll("/run/netns", 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if n == nil {
		return path
	}
	if err := unix.Mount(n.Path(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// find returns what List says of a namespace.
func find(t *testing.T, n *NetNS) (found []Found) {
	t.Helper()
	all, _, err := List() // some can be hidden by others than users
	if err != nil {
		t.Fatal(err)
	}
	id, err := inodeOf(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.id == id {
			found = append(found, f)
		}
	}
	return found
}

// TestList: each namespace is there once, whether a file keeps it, processes are in it, or both.
func TestList(t *testing.T) {
	netlab.Require(t)
	byFile, byProcess, byBoth := newNetNS(t), newNetNS(t), newNetNS(t)
	paths := map[*NetNS]string{byFile: keep(t, byFile, "file"), byBoth: keep(t, byBoth, "both")}
	keep(t, byBoth, "twice")
	stale := keep(t, nil, "stale")
	pids := map[*NetNS]int{byProcess: startIn(t, byProcess), byBoth: startIn(t, byBoth)}
	startIn(t, byBoth)
	for _, n := range []*NetNS{byFile, byProcess, byBoth} {
		found := find(t, n)
		process := map[bool]string{true: "cat"}[pids[n] != 0]
		if len(found) != 1 || found[0].Path != paths[n] || found[0].PID != pids[n] || found[0].Process != process || !found[0].IsThere() {
			t.Errorf("%s, process %d: %+v", paths[n], pids[n], found)
			continue
		}
		opened, err := Open(found[0].Spec())
		if err != nil {
			t.Error(err)
			continue
		}
		if !opened.Same(n) {
			t.Errorf("%s is another namespace", found[0].Spec())
		}
		opened.Close()
	}
	all, _, err := List()
	if err != nil || slices.ContainsFunc(all, func(f Found) bool { return f.Path == stale }) {
		t.Errorf("%v, %+v", err, all)
	}
	own := 0
	for _, f := range all {
		if id, err := inodeOf("/proc/self/ns/net"); err == nil && f.id == id {
			own++
		}
	}
	if own != 1 {
		t.Errorf("this process's own is there %d times", own)
	}
}

// TestListGone: what has ended, or is another's by now, is not there any more.
func TestListGone(t *testing.T) {
	netlab.Require(t)
	n := newNetNS(t)
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	found := find(t, n)
	if len(found) != 1 || !found[0].IsThere() {
		t.Fatalf("%+v", found)
	}
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil || found[0].IsThere() {
		t.Errorf("the process has ended, %v, and the namespace is there: %t", err, found[0].IsThere())
	}
	other := found[0]
	other.PID = startIn(t, newNetNS(t)) // as if the number were used again
	if other.IsThere() {
		t.Error("another's namespace is taken for it")
	}
}

// TestListWhose: a process of a pod says whose a namespace is, whoever else is in it.
func TestListWhose(t *testing.T) {
	netlab.Require(t)
	mount := t.TempDir()
	if err := unix.Mount("none", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	const uid = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	id := strings.Repeat("ab", 32)
	root := filepath.Join(mount, fmt.Sprintf("intercept-test-%d", os.Getpid()))
	pod, container := filepath.Join(root, "pod"+uid, id), filepath.Join(root, id)
	t.Cleanup(func() { // after the processes have been waited for
		for _, dir := range []string{pod, filepath.Dir(pod), container, root} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if err := errors.Join(os.MkdirAll(pod, 0o755), os.MkdirAll(container, 0o755)); err != nil {
		t.Fatal(err)
	}
	put := func(pid int, cgroup string) int {
		t.Helper()
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	ofPod, ofContainer := newNetNS(t), newNetNS(t)
	startIn(t, ofPod)
	put(startIn(t, ofPod), container)
	first := put(startIn(t, ofPod), pod)
	put(startIn(t, ofPod), pod)
	startIn(t, ofContainer)
	second := put(startIn(t, ofContainer), container)
	if f := find(t, ofPod); len(f) != 1 || f[0].PID != first || f[0].PodUID != uid || f[0].Container != id {
		t.Errorf("%+v, not process %d", f, first)
	}
	if f := find(t, ofContainer); len(f) != 1 || f[0].PID != second || f[0].PodUID != "" || f[0].Container != id {
		t.Errorf("%+v, not process %d", f, second)
	}
}

// TestHostname: the name that a pod has for itself is read, and the process's own is none. No thread stays elsewhere.
func TestHostname(t *testing.T) {
	netlab.Require(t)
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	n := newNetNS(t)
	cmd := exec.Command("sh", "-c", "echo shop-web > /proc/sys/kernel/hostname && echo && exec cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, n, cmd)
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if found := find(t, n); len(found) != 1 || found[0].Hostname() != "shop-web" {
		t.Errorf("%+v", found)
	}
	plain := newNetNS(t)
	startIn(t, plain)
	if found := find(t, plain); len(found) != 1 || found[0].Hostname() != "" {
		t.Errorf("%+v has this process's own name", found)
	}
	for _, f := range []Found{{}, {PID: 1 << 30}} {
		if name := f.Hostname(); name != "" {
			t.Errorf("%+v: %q", f, name)
		}
	}
	for range 50 {
		if now, err := os.Hostname(); err != nil || now != own {
			t.Fatalf("this process is called %q, %v", now, err)
		}
	}
}
