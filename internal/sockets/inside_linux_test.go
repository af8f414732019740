package sockets

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestBeside: a process of the namespace in another container is found, and none of the same container, of another
// namespace, or of another user.
func TestBeside(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	other, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range []*netlab.Namespace{ns, other} {
			if err := n.Close(); err != nil { // which ends its processes
				t.Error(err)
			}
		}
	})
	start := func(in *netlab.Namespace, uid uint32, flags uintptr) int {
		cmd := exec.Command("cat")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags}
		if _, err := cmd.StdinPipe(); err != nil { // kept open: it waits
			t.Fatal(err)
		}
		if err := in.Start(cmd, &intercept.Owner{UID: uid, GID: 1000}); err != nil {
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	find := func(of ...int) (p Process) {
		if err := ns.Do(func() error {
			p = Beside(of, func(p Process) bool { return p.UID == 1337 })
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	proxy := start(ns, 1337, 0)
	start(ns, 1337, 0)
	start(ns, 1000, syscall.CLONE_NEWNS)
	start(other, 1337, syscall.CLONE_NEWNS)
	if p := find(proxy); p.PID != 0 {
		t.Errorf("%+v is in another container", p)
	}
	app := start(ns, 1337, syscall.CLONE_NEWNS)
	p := find(proxy)
	for deadline := time.Now().Add(10 * time.Second); p.PID == app && p.Name != "cat" && time.Now().Before(deadline); {
		p = find(proxy) // a process that has become another program has its name a moment later
	}
	if p.PID != app || p.Name != "cat" || p.UID != 1337 || p.GID != 1000 {
		t.Errorf("%+v, not process %d", p, app)
	}
	if p := find(proxy, app); p.PID != 0 {
		t.Errorf("%+v is in another container", p)
	}
	if p := find(proxy, 1<<30); p.PID != 0 {
		t.Errorf("%+v beside a process that has ended", p)
	}
}
