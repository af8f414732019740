//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
)

var (
	app   = &intercept.Owner{UID: 1000, GID: 1000}
	proxy = &intercept.Owner{UID: 1337, GID: 1337}
)

var program string // the proxy's

// TestMain builds the proxy, in a folder that its user may enter. Those of t.TempDir are root's.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "own-proxy")
	if err != nil {
		log.Fatal(err)
	}
	program = filepath.Join(dir, "own-proxy")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	if err := errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		log.Fatalf("%v\n%s", err, out)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// pod is one with the proxy in it, and rules in force.
type pod struct {
	*netlab.Lab
	proxy *exec.Cmd
	lines *bufio.Scanner // that the proxy logs
}

func newPod(t *testing.T, config intercept.Config) pod {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	cmd := exec.Command(program)
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := lab.Pod.Start(cmd, proxy); err != nil { // it is killed with the lab
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the proxy says %q", lines.Text())
	}
	if _, err := (dataplane.Pod{NetNS: lab.Pod.Path()}).Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	return pod{lab, cmd, lines}
}

// TestThroughProxy: what an app opens, and what a client opens to the app, is answered by whom they call, and by way
// of the proxy: its log has both ends, and who is called sees the proxy's.
func TestThroughProxy(t *testing.T) {
	pod := newPod(t, intercept.Default())
	for _, loopback := range []string{"127.0.0.1:8080", "[::1]:8080"} { // the app listens there from now on
		f := netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(loopback), Owner: app}
		if got, err := pod.Send(f); err != nil || got.Role != netlab.RoleApp {
			t.Fatalf("%s: %s, %v", f, got, err)
		}
	}
	for _, f := range []netlab.Flow{
		{Dst: netip.MustParseAddrPort("203.0.113.7:80"), Owner: app},
		{Dst: netip.MustParseAddrPort("[2001:db8::7]:80"), Owner: app},
		{Dst: netip.MustParseAddrPort("10.244.0.5:8080"), From: netlab.FromPeer},
		{Dst: netip.MustParseAddrPort("[fd00:244::5]:8080"), From: netlab.FromPeer},
	} {
		f.Protocol = intercept.TCP
		conn, got, err := pod.Dial(f)
		if err != nil || conn == nil {
			t.Errorf("%s: %s, %v", f, got, err)
			continue
		}
		want := netlab.RolePeer
		if f.From == netlab.FromPeer {
			want = netlab.RoleApp
		}
		if got.Role != want || got.Local.Port() != f.Dst.Port() {
			t.Errorf("%s: %s answers; want one of the %s", f, got, want)
		}
		line := fmt.Sprintf("%s to %s by %s", conn.LocalAddr(), f.Dst, got.Client)
		if !pod.lines.Scan() || pod.lines.Text() != line {
			t.Errorf("%s: the proxy logs %q, want %q", f, pod.lines.Text(), line)
		}
		conn.Close()
	}
}

// TestMultipath: an app that opens a connection of Multipath TCP gets one of TCP, to the proxy.
func TestMultipath(t *testing.T) {
	pod := newPod(t, intercept.Default())
	fd, err := pod.Pod.SocketOf(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, app)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		netlab.Skip(t, "the kernel has no Multipath TCP (CONFIG_MPTCP)")
	}
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "app")
	defer socket.Close()
	server := netip.MustParseAddrPort("203.0.113.7:80")
	if err := errors.Join(unix.SetNonblock(fd, false), unix.Connect(fd, netlab.Sockaddr(server))); err != nil {
		t.Fatal(err)
	}
	if want := " to 203.0.113.7:80 by 10.244.0.5:"; !pod.lines.Scan() || !strings.Contains(pod.lines.Text(), want) {
		t.Errorf("the proxy logs %q, want %q in it", pod.lines.Text(), want)
	}
}

// TestPastProxy: what is excluded goes past the proxy, and nothing else does. When the proxy is dead all else is
// refused.
func TestPastProxy(t *testing.T) {
	config := intercept.Default()
	config.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	pod := newPod(t, config)
	send := func(dst string) netlab.Delivery {
		t.Helper()
		got, err := pod.Send(netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst), Owner: app})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, dst := range []string{"203.0.113.7:5432", "[2001:db8::7]:5432"} {
		if got := send(dst); got.Role != netlab.RolePeer || got.Client != got.Source {
			t.Errorf("%s: %s", dst, got)
		}
	}
	if err := pod.proxy.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	pod.proxy.Wait() // says that it was killed
	for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80"} {
		if got := send(dst); got.Fate.Action != intercept.Rejected {
			t.Errorf("%s, without the proxy: %s", dst, got)
		}
	}
}

// TestVerify: the library's own proof. It opens connections as an app, the proxy and a client do, and follows each.
func TestVerify(t *testing.T) {
	pod := newPod(t, intercept.Default())
	report, err := (dataplane.Pod{NetNS: pod.Pod.Path()}).Verify(t.Context(), intercept.Default())
	if err != nil || report.Verdict != verify.OK {
		t.Errorf("%s, %v", report.Verdict, err)
	}
	for _, v := range report.Verdicts {
		if v.Verdict != verify.OK {
			t.Errorf("%s: %s", v.Verdict, v)
		}
	}
}
