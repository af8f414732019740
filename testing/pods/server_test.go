//go:build linux

package pods

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// serverVariable has this binary serve, instead of testing.
const serverVariable = "PODS_TEST_SERVE"

func TestMain(m *testing.M) {
	if spec := os.Getenv(againVariable); spec != "" {
		if err := verifyAgain(spec); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	spec := os.Getenv(serverVariable)
	if spec == "" {
		m.Run()
		return
	}
	var p process
	if err := json.Unmarshal([]byte(spec), &p); err != nil {
		panic(err)
	}
	if err := p.serve(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// process is one that listens in a pod.
type process struct {
	Owner  intercept.Owner
	Listen []listener
	// Drop is who it becomes once it listens. Zero: it stays.
	Drop intercept.Owner
	// Stopped is true of one that is stopped (SIGSTOP) once it listens.
	Stopped bool
}

// listener is where it listens, and what it does there.
type listener struct {
	Protocol string // "tcp" or "udp"
	Addr     string
	Do       what
	// Both has an IPv6 socket take IPv4, too. Transparent, Mark and Reuse are options of the socket. Plain is true of one
	// without SO_REUSEADDR, which cannot listen where a connection lingers (TIME_WAIT). Defer is TCP_DEFER_ACCEPT of tcp(7).
	Both, Transparent, Reuse, ReusePort, Plain, Defer bool
	Mark                                              int
	// Device is the interface that the socket is bound to. Empty: to none.
	Device string
	// Fails has a resolver answer SERVFAIL.
	Fails bool
	// Upstream is where a resolver asks. Empty: it answers itself.
	Upstream string
}

// what a listener does with a connection or a datagram.
type what string

const (
	hold   what = "hold"   // accept, and say nothing
	hangUp what = "close"  // accept, and close at once
	greet  what = "greet"  // accept, speak first, and echo
	relay  what = "relay"  // accept, and go on to the original destination
	ignore what = "ignore" // never accept, never read
	answer what = "answer" // answer lookups
	reset  what = "reset"  // accept, and reset
	itself what = "itself" // accept, and connect to where it listens itself
)

// start starts the process in a pod, and waits until it listens.
func (p process) start(t *testing.T, pod *netlab.Namespace) {
	t.Helper()
	spec, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe") // another user may not enter the directories on the way
	cmd.Env = append(os.Environ(), serverVariable+"="+string(spec))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: p.capabilities()}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	owner := p.Owner
	if err := pod.Start(cmd, &owner); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%+v does not serve: %q, %v", p, line, err)
	}
	if p.Stopped {
		if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var status unix.Siginfo
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &status, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func (p process) capabilities() []uintptr {
	for _, l := range p.Listen {
		if l.Transparent || l.Mark != 0 {
			return []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}
		}
	}
	return nil
}

func (p process) serve() error {
	var loops []func() error
	for _, l := range p.Listen {
		loop, err := l.open()
		if err != nil {
			return fmt.Errorf("%+v: %w", l, err)
		}
		loops = append(loops, loop)
	}
	if p.Drop != (intercept.Owner{}) {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(int(p.Drop.GID), int(p.Drop.GID), int(p.Drop.GID)),
			syscall.Setresuid(int(p.Drop.UID), int(p.Drop.UID), int(p.Drop.UID))); err != nil {
			return err
		}
	}
	ended := make(chan error)
	for _, loop := range loops {
		go func() { ended <- loop() }()
	}
	fmt.Println("ready")
	return <-ended
}

// open opens the listener's socket. The function that it returns serves.
func (l listener) open() (func() error, error) {
	to := netip.MustParseAddrPort(l.Addr)
	domain, typ := unix.AF_INET6, unix.SOCK_STREAM
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if l.Protocol == "udp" {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	set := func(yes bool, level, option, value int) {
		if yes {
			err = errors.Join(err, unix.SetsockoptInt(fd, level, option, value))
		}
	}
	set(l.Protocol == "tcp" && !l.Plain || l.Reuse, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(l.ReusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	set(domain == unix.AF_INET6 && !l.Both, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	set(domain == unix.AF_INET6 && l.Both, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	set(domain == unix.AF_INET6 && l.Transparent, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
	set(domain == unix.AF_INET && l.Transparent, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	set(l.Defer, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30)
	set(l.Mark != 0, unix.SOL_SOCKET, unix.SO_MARK, l.Mark)
	if l.Device != "" {
		err = errors.Join(err, unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, l.Device))
	}
	if err = errors.Join(err, unix.Bind(fd, sa)); err == nil && typ == unix.SOCK_STREAM {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), l.Addr)
	if typ == unix.SOCK_DGRAM {
		conn, err := net.FilePacketConn(f)
		return func() error { return l.datagrams(conn) }, err
	}
	in, err := net.FileListener(f)
	return func() error { return l.connections(in) }, err
}

func (l listener) connections(in net.Listener) error {
	if l.Do == ignore {
		for { // A process of which every goroutine waits for another ends.
			_, _ = unix.Poll(nil, -1)
		}
	}
	for {
		conn, err := in.Accept()
		if err != nil {
			return err
		}
		go l.converse(conn.(*net.TCPConn))
	}
}

// relayed bounds how far a loop goes.
var relayed atomic.Int32

func (l listener) converse(conn *net.TCPConn) {
	defer conn.Close()
	switch l.Do {
	case hold:
		io.Copy(io.Discard, conn)
	case greet:
		io.WriteString(conn, "220 hello\r\n")
		io.Copy(conn, conn)
	case relay:
		to, ok := original(conn)
		if !ok || relayed.Add(1) > 100 {
			return
		}
		next, err := net.DialTimeout("tcp", to.String(), 2*time.Second)
		if err != nil {
			return
		}
		defer next.Close()
		io.Copy(conn, next)
	case answer:
		var length [2]byte
		for {
			if _, err := io.ReadFull(conn, length[:]); err != nil {
				return
			}
			q := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(conn, q); err != nil {
				return
			}
			if a := l.reply(q); a != nil {
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
		}
	case reset:
		conn.SetLinger(0)
	case itself:
		if relayed.Add(1) > 100 {
			return
		}
		next, err := net.DialTimeout("tcp", conn.LocalAddr().String(), 2*time.Second)
		if err != nil {
			return
		}
		defer next.Close()
		io.Copy(conn, next)
	case hangUp, ignore:
	}
}

func (l listener) datagrams(conn net.PacketConn) error {
	if l.Do == ignore {
		for { // A process of which every goroutine waits for another ends.
			_, _ = unix.Poll(nil, -1)
		}
	}
	b := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			continue // about an answer that nobody took
		}
		q := append([]byte(nil), b[:n]...)
		go func() {
			if a := l.reply(q); a != nil {
				conn.WriteTo(a, from)
			}
		}()
	}
}

// reply answers a lookup, itself or by what its server says.
func (l listener) reply(q []byte) []byte {
	if len(q) < 12 {
		return nil
	}
	if l.Upstream == "" {
		a := append([]byte(nil), q...)
		a[2], a[3] = 0x81, 0x83 // there is no such name
		if l.Fails {
			a[3] = 0x82
		}
		return a
	}
	conn, err := net.Dial("udp", l.Upstream)
	if err != nil {
		return nil
	}
	defer conn.Close()
	a := make([]byte, 4096)
	conn.SetDeadline(time.Now().Add(time.Second))
	conn.Write(q)
	n, err := conn.Read(a)
	if err != nil {
		return nil
	}
	return a[:n]
}

// original is where a connection was to go.
func original(conn *net.TCPConn) (to netip.AddrPort, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return to, false
	}
	raw.Control(func(fd uintptr) {
		to, ok = netlab.OriginalDst(int(fd), conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
	})
	return to, ok
}
