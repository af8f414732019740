//go:build linux

package netlab_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// The tests of this file look at the whole process or the whole host. They are
// not parallel, so that they have the process to themselves.

// TestMain runs the tests, or what a child process of a test is there for.
func TestMain(m *testing.M) {
	switch os.Getenv("NETLAB_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "hold":
		hold()
	case "require":
		netlab.Require(printer{})
	}
}

// child returns a command that is this program in another role.
func child(role string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), "NETLAB_TEST_CHILD="+role), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// watch reports when namespaces are gone. The kernel lets one namespace know
// others by numbers, which hold nothing, and announces when it takes a number
// back because its namespace is no more.
type watch struct {
	in     *netlab.Namespace
	socket *nl.NetlinkSocket
}

func newWatch(t *testing.T) *watch {
	t.Helper()
	netlab.Require(t)
	in, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	w := &watch{in: in}
	if err := in.Do(func() (err error) {
		w.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_NSID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.socket.Close)
	return w
}

// add numbers the namespace at path.
func (w *watch) add(t *testing.T, path string, number int) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := w.in.Do(func() error { return netlink.SetNetNsIdByFd(int(file.Fd()), number) }); err != nil {
		t.Fatal(err)
	}
}

// wait waits until n of the numbered namespaces are gone.
func (w *watch) wait(t *testing.T, n int) {
	t.Helper()
	timeout := unix.NsecToTimeval(int64(30 * time.Second))
	if err := w.socket.SetReceiveTimeout(&timeout); err != nil {
		t.Fatal(err)
	}
	for n > 0 {
		msgs, _, err := w.socket.Receive()
		if err != nil {
			t.Fatalf("%d namespaces are still there: %v", n, err)
		}
		for _, m := range msgs {
			if m.Header.Type == unix.RTM_DELNSID {
				n--
			}
		}
	}
}

// TestClose uses a lab in all ways and closes it.
func TestClose(t *testing.T) {
	w := newWatch(t)
	use := func(number int) {
		lab, err := netlab.New(netlab.Options{SecondInterface: true, VM: true})
		if err != nil {
			t.Fatal(err)
		}
		defer lab.Close()
		if number > 0 {
			w.add(t, lab.Pod.Path(), number)
			w.add(t, lab.Peer.Path(), number+1)
			w.add(t, lab.VM.Path(), number+2)
		}
		if _, err := lab.StartSidecar(netlab.SidecarConfig{Forward: netlab.ForwardPassthrough}); err != nil {
			t.Fatal(err)
		}
		caller := &intercept.Owner{UID: 1001, GID: 1001}
		redirectUser(t, lab, caller.UID, 15006)
		for _, dst := range []string{"203.0.113.7:80", "[::1]:80", "10.244.0.5:15001"} {
			for _, proto := range []intercept.Protocol{tcp, udp} {
				conn, _, err := lab.Dial(netlab.Flow{Protocol: proto, Dst: addr(dst), Owner: app})
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
		}
		for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "10.244.0.5:80"} {
			conn, _, err := lab.Dial(netlab.Flow{From: netlab.FromVM, Protocol: tcp, Dst: addr(dst)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		conn, d, err := lab.Dial(netlab.Flow{Protocol: tcp, Dst: addr("10.244.0.5:80"), Owner: caller})
		if err != nil || d.Via.Role != netlab.RoleInbound {
			t.Fatal(d, err)
		}
		defer conn.Close()
		for range 3 {
			if err := lab.Pod.Start(exec.Command("sleep", "1000"), app); err != nil {
				t.Fatal(err)
			}
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if err := lab.Close(); err != nil {
			t.Errorf("closing again: %v", err)
		}
		if _, err := lab.Send(netlab.Flow{Protocol: tcp, Dst: addr("203.0.113.7:80")}); err == nil {
			t.Error("a closed lab sends")
		}
		if err := lab.Pod.Start(exec.Command("true"), nil); err == nil {
			t.Error("a closed namespace starts processes")
		}
	}
	use(0) // the first one opens what the runtime keeps
	before := openFiles(t)
	use(1)
	w.wait(t, 3)
	// Less may be open: the runtime closes some of what the first one opened later.
	open := strings.Split(before, "\n")
	for file := range strings.SplitSeq(openFiles(t), "\n") {
		if !slices.Contains(open, file) {
			t.Errorf("left open: %s; open before:\n%s", file, before)
		}
	}
	noThreadsInside(t)
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("child %d is left, %v", pid, err)
	}
}

// openFiles lists the process's open files.
func openFiles(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for _, e := range entries {
		path := filepath.Join("/proc/self/fd", e.Name())
		if target, err := os.Readlink(path); err == nil { // the directory's own is closed
			fmt.Fprintln(&list, e.Name(), target)
		}
	}
	return list.String()
}

// noThreadsInside fails if a thread stays in a namespace that is not the
// process's. Threads end a moment after the goroutine that was locked to them.
func noThreadsInside(t *testing.T) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		links, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil || len(links) == 0 {
			t.Fatal("no threads: ", err)
		}
		inside := 0
		for _, link := range links {
			if ns, err := os.Readlink(link); err == nil && ns != home {
				inside++
			}
		}
		if inside == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads are in other namespaces", inside)
		}
	}
}

// TestDo returns, fails and panics inside, and stays out afterwards.
func TestDo(t *testing.T) {
	netlab.Require(t)
	n, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	failure := fmt.Errorf("this one")
	if err := n.Do(func() error {
		inside, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		if inside == home {
			t.Error("not inside")
		}
		if viaPath, err := os.Readlink(n.Path()); err != nil || viaPath != inside {
			t.Errorf("Path leads to %s, %v; want %s", viaPath, err, inside)
		}
		return failure
	}); err != failure {
		t.Errorf("Do returns %v", err)
	}
	if err := n.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do returns no error after Goexit")
	}
	noThreadsInside(t)
}

// TestStart runs a program inside, under an owner.
func TestStart(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	cmd := exec.Command("sh", "-c", "id -u; id -g; id -G; readlink /proc/self/ns/net")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := lab.Pod.Start(cmd, &intercept.Owner{UID: 1000, GID: 2000}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	inside, err := os.Readlink(lab.Pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	if want := "1000\n2000\n2000\n" + inside + "\n"; out.String() != want {
		t.Errorf("got %q; want %q", out.String(), want)
	}
	if err := lab.Pod.Start(exec.Command("/nonexistent"), nil); err == nil {
		t.Error("a program that is not there starts")
	}
}

// TestSocketOwner leaves the process as it was.
func TestSocketOwner(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := lab.Pod.Socket(unix.AF_INET, unix.SOCK_STREAM, &intercept.Owner{UID: 1000, GID: 2000})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Uid != 1000 || stat.Gid != 2000 {
		t.Errorf("the socket belongs to %d:%d, %v", stat.Uid, stat.Gid, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Error("the socket is not closed on exec")
	}
	if after, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || after != before {
		t.Errorf("PR_GET_DUMPABLE is %d, %v; it was %d", after, err, before)
	}
	statuses, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range statuses {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // the thread is gone
		}
		for line := range strings.Lines(string(status)) {
			isID := strings.HasPrefix(line, "Uid:") || strings.HasPrefix(line, "Gid:")
			if ids := strings.Fields(line); isID && (slices.Contains(ids, "1000") || slices.Contains(ids, "2000")) {
				t.Errorf("a thread kept the owner: %s", line)
			}
		}
	}
}

// hold holds a lab, with a process and a connection in it, until it is killed.
func hold() {
	lab, err := netlab.New(netlab.Options{VM: true})
	if err == nil {
		_, err = lab.StartSidecar(netlab.SidecarConfig{})
	}
	if err == nil {
		_, _, err = lab.Dial(netlab.Flow{Protocol: tcp, Dst: addr("203.0.113.7:80"), Owner: app})
	}
	if err == nil {
		_, _, err = lab.Dial(netlab.Flow{From: netlab.FromVM, Protocol: tcp, Dst: addr("203.0.113.7:80")})
	}
	sleep := exec.Command("sleep", "1000")
	if err == nil {
		err = lab.Pod.Start(sleep, nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(lab.Pod.Path(), lab.Peer.Path(), lab.VM.Path())
	select {}
}

// TestKill kills a process that holds a lab.
func TestKill(t *testing.T) {
	w := newWatch(t)
	cmd := child("hold")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range strings.Fields(line) {
		w.add(t, path, i+1)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	w.wait(t, 3)
}

// TestHost watches the host's namespace for interfaces while labs come and go.
func TestHost(t *testing.T) {
	netlab.Require(t)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd,
		&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		lab, err := netlab.New(netlab.Options{SecondInterface: true, VM: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}
	// What was announced is waiting to be read.
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			link, err := netlink.LinkDeserialize((*unix.NlMsghdr)(&m.Header), m.Data)
			if err != nil {
				t.Fatal(err)
			}
			name := link.Attrs().Name
			cable := link.Type() == "veth" && (name == "eth0" || name == "net1" || name == "vm0")
			if cable || link.Type() == "bridge" && name == "br-vm" {
				t.Errorf("%s was seen in the host's namespace", name)
			}
		}
	}
}

// printer is a test that prints what becomes of it.
type printer struct{}

func (printer) Helper()        {}
func (printer) Cleanup(func()) {}
func (printer) Error(a ...any) { fmt.Print("error: ", fmt.Sprint(a...)) }
func (printer) Fatal(a ...any) { fmt.Print("fatal: ", fmt.Sprint(a...)) }
func (printer) Skip(a ...any)  { fmt.Print("skip: ", fmt.Sprint(a...)) }

// TestRequire requires what an ordinary user does not have.
func TestRequire(t *testing.T) {
	if os.Getuid() != 0 {
		netlab.Require(t)
	}
	for required, want := range map[string]string{"": "skip: ", "1": "fatal: "} {
		cmd := child("require", "MESH_TEST_REQUIRE="+required)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(out); !strings.HasPrefix(got, want) || !strings.Contains(got, "sudo env") {
			t.Errorf("MESH_TEST_REQUIRE=%s: %q; want %q and the command to run", required, got, want)
		}
	}
}
