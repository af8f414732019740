//go:build linux

package security

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// insidePort is where an application of the pod listens.
const insidePort = 9000

// linkLocal is the neighbour's link-local address that ends as a destination does.
func linkLocal(to netip.AddrPort) netip.AddrPort {
	if to.Addr().Is4() {
		a := to.Addr().As4()
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 9, a[3]}), to.Port())
	}
	a := netip.MustParseAddr("fe80::9:0").As16()
	a[15] = to.Addr().As16()[15]
	return netip.AddrPortFrom(netip.AddrFrom16(a).WithZone("eth0"), to.Port())
}

// closesAtOnce connects, and closes the socket before anything is answered.
func closesAtOnce(to netip.AddrPort) string {
	fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return said(err)
	}
	if err := unix.Connect(fd, netlab.Sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return said(err)
	}
	return said(unix.Close(fd))
}

// routed sets a routing header with the destination as the segment that is next.
func routed(to netip.AddrPort) option {
	return func(fd int) error {
		// RFC 8754: two segments, of which one is left, the destination.
		header := "\x00\x04\x04\x01\x01\x00\x00\x00" + string(to.Addr().AsSlice()) + string(to.Addr().AsSlice())
		return unix.SetsockoptString(fd, unix.SOL_IPV6, unix.IPV6_RTHDR, header)
	}
}

func fastOpen(to netip.AddrPort, wait time.Duration, options ...option) string {
	const noCookie = 34 // TCP_FASTOPEN_NO_COOKIE
	fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(patient(fd, wait), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, noCookie, 1)); err != nil {
		return said(err)
	}
	for _, set := range options {
		if err := set(fd); err != nil {
			return said(err)
		}
	}
	if err := unix.Sendto(fd, []byte("whoami\n"), unix.MSG_FASTOPEN, netlab.Sockaddr(to)); err != nil {
		return said(err)
	}
	return answerer(fd)
}

// sign has a connection signed (RFC 2385).
func sign(fd int, to netip.AddrPort) error {
	address, _ := rawSockaddr(to)
	key := unix.TCPMD5Sig{Keylen: 3, Key: [80]uint8{'k', 'e', 'y'}}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&key.Addr)), len(address)), address)
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &key)
}

// congestion is the algorithm that asks for congestion notification, where users may choose it.
func congestion() string {
	allowed, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err == nil && slices.Contains(strings.Fields(string(allowed)), "dctcp") {
		return "dctcp"
	}
	return "reno" // the pod asks for it by tcp_ecn
}

// mapped is a user namespace in which the sender is the proxy's user and group.
func mapped(flags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1337, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1337, HostID: os.Getgid(), Size: 1}},
	}
}

// takesSocket takes the proxy's socket from its process.
func takesSocket(to netip.AddrPort) string {
	pid, err := strconv.Atoi(os.Getenv(pidVariable))
	if err != nil {
		return err.Error()
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(process)
	number := map[bool]int{true: inherited4, false: inherited6}[to.Addr().Is4()]
	fd, err := unix.PidfdGetfd(process, number, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	return askBy(fd, netlab.Sockaddr(to), patience)
}

// programOf asks by a program of the image's that has a bit set.
func programOf(bit string, to netip.AddrPort) string {
	return program(filepath.Join(os.Getenv(dirVariable), bit), to, nil)
}

// ownProgram makes a program, gives it to a user and a group, and asks by it with their identities.
func ownProgram(to netip.AddrPort, uid, gid int) string {
	path := filepath.Join(os.Getenv(dirVariable), fmt.Sprintf("own-%d-%d-%s", os.Getpid(), uid, to.Addr()))
	if err := copyProgram(path); err != nil {
		return said(err)
	}
	bits := os.ModeSetgid
	if uid >= 0 {
		bits |= os.ModeSetuid
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, bits|0o755)); err != nil {
		return said(err)
	}
	return program(path, to, nil)
}

// copyProgram copies this program.
func copyProgram(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, self)
	return errors.Join(err, file.Close())
}

// becomes has this thread take the proxy's identity for its sockets.
func becomes(to netip.AddrPort) string {
	for _, call := range []uintptr{unix.SYS_SETFSGID, unix.SYS_SETFSUID} {
		_, _, _ = unix.RawSyscall(call, 1337, 0, 0) // they tell no errors
	}
	return ask(to)
}

// handed asks by a socket that somebody hands over.
func handed(to netip.AddrPort) string {
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(handedOver, make([]byte, 1), rights, 0)
	if err != nil {
		return said(err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Sprint("no socket: ", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Sprint("no socket: ", err)
	}
	defer unix.Close(fds[0])
	return askBy(fds[0], netlab.Sockaddr(to), patience)
}

// rawTCP sends segments by a socket whose IP header is the kernel's.
func rawTCP(to netip.AddrPort) string {
	fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	var errs []error
	for _, f := range combinations(0, intercept.RST) {
		p := segment(to, 25000+uint16(f), f).Packet()
		tcp := p[20:]
		if to.Addr().Is6() {
			tcp = p[40:]
		}
		errs = append(errs, unix.Sendto(fd, tcp, 0, netlab.Sockaddr(netip.AddrPortFrom(to.Addr(), 0))))
	}
	return refusedOnly(errs...)
}

// noDefrag sends fragments of a SYN and of what would follow it, which the kernel does not put together.
func noDefrag(to netip.AddrPort) string {
	var errs []error
	for i, at := range []int{8, 24} {
		s := segment(to, uint16(26000+i), intercept.SYN)
		s.Data = make([]byte, 64)
		for _, f := range fragments(s.Packet(), at, uint16(2000+i)) {
			errs = append(errs, sendRaw(f, to, leaveFragments(to, 1)))
		}
	}
	return refusedOnly(errs...)
}

// marksOfTProxy sends an acknowledgment with a mark, and then connects from the same port with it; bound to the
// interface, too, for else the routes of the mark lead back.
func marksOfTProxy(to netip.AddrPort) string {
	answers := map[string]bool{}
	for i, mark := range []int{1337, 1338} {
		for j, set := range [][]option{{}, {device("eth0")}} {
			s := segment(to, uint16(29000+2*i+j), intercept.ACK)
			s.Options = netlab.MD5Option()
			set = append(set, flag(unix.SOL_SOCKET, unix.SO_MARK, mark))
			if err := sendRaw(s.Packet(), to, set...); err != nil && !errors.Is(err, unix.EPERM) {
				return said(err)
			}
			answers[askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little, append(set, fromPort(s.Src))...)] = true
		}
	}
	return oneOf(answers)
}

// bothOpen has the pod and its peer open one connection from both ends.
func bothOpen(t *testing.T, lab *netlab.Lab, to netip.AddrPort) string {
	t.Helper()
	src := netip.AddrPortFrom(here(to), 27001)
	fd, err := lab.Pod.Socket(netlab.Domain(to.Addr()), unix.SOCK_STREAM, &plain.owner)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	syn := netlab.Segment{Src: to, Dst: src, Flags: intercept.SYN, Seq: 1}
	err = errors.Join(unix.SetNonblock(fd, false), unix.Bind(fd, netlab.Sockaddr(src)),
		lab.Inject(netlab.FromPeer, syn, netlab.Injection{}))
	if err != nil {
		t.Fatal(err)
	}
	return askBy(fd, netlab.Sockaddr(to), patience)
}

// lateFromLetIn sends on a captured connection from an excluded inbound port, after connection tracking has forgotten
// it.
func lateFromLetIn(t *testing.T, lab *netlab.Lab, to netip.AddrPort) string {
	t.Helper()
	fd, err := lab.Pod.Socket(netlab.Domain(to.Addr()), unix.SOCK_STREAM, &plain.owner)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = errors.Join(unix.SetNonblock(fd, false), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, netlab.Sockaddr(netip.AddrPortFrom(here(to), 15021))))
	if err != nil {
		t.Fatal(err)
	}
	if by := askBy(fd, netlab.Sockaddr(to), patience); by != "outbound" {
		return by
	}
	if err := lab.Pod.FlushEntries(); err != nil {
		t.Fatal(err)
	}
	_, err = unix.Write(fd, []byte("late"))
	return said(err)
}

// listens takes the proxy's ports at the pod's own address, which is more exact than the proxy's.
func listens(to netip.AddrPort) string {
	answers := map[string]bool{}
	for _, port := range []uint16{15001, 15006, 15053} {
		fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return said(err)
		}
		at := here(to)
		if port == 15053 {
			at = netip.MustParseAddr(map[bool]string{true: "127.0.0.1", false: "::1"}[at.Is4()])
		}
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		if err == nil {
			err = unix.Bind(fd, netlab.Sockaddr(netip.AddrPortFrom(at, port)))
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		answers[said(err)] = true
		unix.Close(fd)
	}
	return oneOf(answers)
}

// removes removes the rules, and connects.
func removes(to netip.AddrPort) string {
	if _, err := (dataplane.Pod{NetNS: "/proc/thread-self/ns/net"}).Remove(context.Background()); err != nil {
		return err.Error()
	}
	return ask(to)
}
