//go:build linux

package e2e_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// The sidecar's configurations are those of docs/quickstart.md, which says why
// they are as they are. HAProxy's log says, at a connection's end: listener,
// client, original destination, and HAProxy's own end of the connection to it.

// startHAProxy starts HAProxy in the lab's pod.
func startHAProxy(t *testing.T, lab *netlab.Lab) *sidecar {
	t.Helper()
	return startHAProxyWith(t, lab, quickstart.Read(t, page).File(t, "haproxy.cfg"))
}

func startHAProxyWith(t *testing.T, lab *netlab.Lab, config string) *sidecar {
	t.Helper()
	cmd := exec.Command("haproxy", "-db", "-f", "/dev/stdin")
	cmd.Stdin = opened(t, config)
	return start(t, lab, cmd, "127.0.0.1:15001", "127.0.0.1:15006")
}

// startDNSMasq starts dnsmasq in the lab's pod. It knows names under mesh.test
// and asks 10.96.0.10 for all others.
func startDNSMasq(t *testing.T, lab *netlab.Lab) *sidecar {
	t.Helper()
	cmd := exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/stdin",
		"--no-resolv", "--server=10.96.0.10") // as the pod's resolv.conf would say
	cmd.Stdin = opened(t, quickstart.Read(t, page).File(t, "dnsmasq.conf"))
	return start(t, lab, cmd, "127.0.0.1:15053", "[::1]:15053")
}

// opened returns a file with the text. By its path the proxy's user may not
// enter the directory.
func opened(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sidecar is a program that runs in the pod as the proxy.
type sidecar struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has

	mu     sync.Mutex
	output strings.Builder
	more   chan struct{} // closed when there is more output
}

// start starts a program in the pod as user and group 1337, and waits until
// it listens at all of its addresses. It is killed when the test is over, if not before.
func start(t *testing.T, lab *netlab.Lab, cmd *exec.Cmd, addrs ...string) *sidecar {
	t.Helper()
	netlab.RequireProgram(t, cmd.Args[0])
	s := &sidecar{cmd: cmd, exited: make(chan struct{}), more: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s, s
	cmd.Dir = "/" // HAProxy returns to it; the clone may be in a directory that only root can enter
	if err := lab.Pod.Start(cmd, &intercept.Owner{UID: 1337, GID: 1337}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // it never ends well: it is killed, or says why it ends
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Args[0], s.log())
		}
	})

	deadline := time.After(10 * time.Second)
	for _, addr := range addrs {
		for !listens(lab, addr) {
			select {
			case <-time.After(time.Millisecond): // once more
			case <-s.exited:
				t.Fatalf("%s does not run: %s", cmd.Args[0], cmd.ProcessState)
			case <-deadline:
				t.Fatalf("%s does not listen at %s", cmd.Args[0], addr)
			}
		}
	}
	return s
}

// listens reports whether a TCP connection to addr in the pod is accepted.
func listens(lab *netlab.Lab, addr string) bool {
	conn, err := dial(lab, unix.SOCK_STREAM, netip.MustParseAddrPort(addr), nil)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// kill kills the program, unless it has ended, and returns when it is dead.
func (s *sidecar) kill() {
	_ = s.cmd.Process.Kill() // fails if it has ended
	<-s.exited
}

// Write takes the program's output.
func (s *sidecar) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.output.Write(text)
}

// log returns what the program has said.
func (s *sidecar) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

// awaitLog waits until the program's log has the line, or a line that ends in
// it.
func (s *sidecar) awaitLog(t *testing.T, line string) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		s.mu.Lock()
		more := s.more
		s.mu.Unlock()
		if strings.Contains(s.log(), line+"\n") {
			return
		}
		select {
		case <-more:
		case <-s.exited:
			t.Fatalf("%s ended; its log lacks %q", s.cmd.Args[0], line)
		case <-deadline:
			t.Fatalf("the log of %s lacks %q", s.cmd.Args[0], line)
		}
	}
}

// dial connects a socket in the pod that belongs to owner, and says nothing:
// [netlab.Lab.Dial] would ask who answers.
func dial(lab *netlab.Lab, typ int, to netip.AddrPort, owner *intercept.Owner) (net.Conn, error) {
	domain, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port())})
	if to.Addr().Is4() {
		addr.(*unix.SockaddrInet4).Addr = to.Addr().As4()
	} else {
		domain, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := lab.Pod.Socket(domain, typ, owner)
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(fd), "client")
	defer socket.Close()
	// Connecting waits, for as long as sending may take.
	err = errors.Join(
		unix.SetNonblock(fd, false),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}),
	)
	if err == nil {
		err = os.NewSyscallError("connect", unix.Connect(fd, addr))
	}
	if err != nil {
		return nil, err
	}
	return net.FileConn(socket)
}
