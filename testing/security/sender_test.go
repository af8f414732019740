//go:build linux

package security

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// The sender is a process of its own, with a user, groups and capabilities as a container has them: this test binary,
// started again. It makes the attempts of its kind, one after the other, and says what it hears.

const (
	kindVariable  = "SECURITY_TEST_KIND"  // the kind of sender that this process is
	sceneVariable = "SECURITY_TEST_SCENE" // the attempts that it makes
	askVariable   = "SECURITY_TEST_ASK"   // the destination that this process is to ask, and no more
	pidVariable   = "SECURITY_TEST_PROXY"
	dirVariable   = "SECURITY_TEST_DIR"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(askVariable) != "":
		fmt.Print(ask(netip.MustParseAddrPort(os.Getenv(askVariable))))
	case os.Getenv(kindVariable) != "":
		report()
	case os.Getenv(holdVariable) != "":
		hold()
	default:
		os.Exit(m.Run())
	}
}

// kind is a kind of process in the pod.
type kind struct {
	name   string
	owner  intercept.Owner
	groups []uint32
	caps   []uintptr
}

// The kinds. Docker and containerd give a container that asks for nothing those capabilities of which root has some
// below, NET_RAW among them; a process that is not root has none of them unless it is given them.
var (
	plain = kind{name: "app", owner: intercept.Owner{UID: 1000, GID: 1000}}
	raw   = kind{name: "app with NET_RAW", owner: plain.owner, caps: []uintptr{unix.CAP_NET_RAW}}
	// grouped is an app in a pod with fsGroup or supplementalGroups 1337.
	grouped = kind{name: "app with the proxy's supplementary group", owner: plain.owner, groups: []uint32{1337}}
	root    = kind{name: "root", caps: []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT}}
	limited = kind{name: "root without SETUID and SETGID", caps: []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE,
		unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT}}

	// namesake runs under the proxy's group, which an image or a pod can ask for.
	namesake = kind{name: "app under the proxy's group", owner: intercept.Owner{UID: 1000, GID: 1337}}
	admin    = kind{name: "root with NET_ADMIN", caps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW,
		unix.CAP_DAC_OVERRIDE}}

	kinds = []kind{plain, raw, grouped, namesake, root, limited, admin}
)

// Files that a sender is given: sockets that the proxy opened, of each family, and one by which it gets others.
const inherited4, inherited6, handedOver = 3, 4, 5

// heard is what a sender says of an attempt, by its number and family.
type heard map[string]string

func key(i, family int) string { return fmt.Sprintf("%d/%d", i, family) }

// start starts a sender in the pod and returns what it hears.
func (k kind) start(t *testing.T, s scene, lab *netlab.Lab, files []*os.File, env ...string) heard {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, kindVariable+"="+k.name, sceneVariable+"="+s.name)...)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: k.owner.UID, Gid: k.owner.GID, Groups: k.groups},
		AmbientCaps: k.caps,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := lab.Pod.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	var h heard
	if err := errors.Join(json.NewDecoder(out).Decode(&h), cmd.Wait()); err != nil {
		t.Fatalf("%s: %v", k.name, err)
	}
	return h
}

// report makes the attempts of this process's kind.
func report() {
	k := kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == os.Getenv(kindVariable) })]
	all := scenes()
	s := all[slices.IndexFunc(all, func(s scene) bool { return s.name == os.Getenv(sceneVariable) })]
	h := heard{}
	for i, a := range s.attempts {
		if a.by.name != k.name || a.from != nil {
			continue
		}
		for family := range 2 {
			h[key(i, family)] = k.alone(func() string { return a.do(destination(i, family)) })
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(h); err != nil {
		panic(err)
	}
}

// limit leaves this thread, and the programs that it starts, no other capabilities than these.
func limit(caps []uintptr) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for _, c := range caps {
		data[c/32].Permitted |= 1 << (c % 32)
	}
	for i := range data {
		data[i].Effective, data[i].Inheritable = data[i].Permitted, data[i].Permitted
	}
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		// One that the kernel does not know cannot be dropped.
		if slices.Contains(caps, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return unix.Capset(&header, &data[0])
}

// alone runs f on a thread of its own, which ends with it: what f makes of the thread's identity, nobody else has.
func (k kind) alone(f func() string) string {
	heard := make(chan string)
	go func() {
		runtime.LockOSThread()
		if k.owner.UID == 0 {
			if err := limit(k.caps); err != nil {
				heard <- said(err)
				return
			}
		}
		heard <- f()
	}()
	return <-heard
}

// patience is how long to wait for an answer. What is expected to hang is asked with less.
const patience, little = 5 * time.Second, 50 * time.Millisecond

// said returns what an error says: the name of its number.
func said(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "sent"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// option sets an option of a socket before it is connected.
type option func(fd int) error

func flag(level, name, value int) option {
	return func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) }
}

func device(name string) option { return func(fd int) error { return unix.BindToDevice(fd, name) } }

func from(addr string) option { return fromPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)) }

func fromPort(a netip.AddrPort) option {
	return func(fd int) error { return unix.Bind(fd, netlab.Sockaddr(a)) }
}

// byFamily chooses an option by the family of an address.
func byFamily(to netip.AddrPort, four, six option) option {
	if to.Addr().Is4() {
		return four
	}
	return six
}

// ask connects by TCP and says who answers, or why nobody does.
func ask(to netip.AddrPort, options ...option) string {
	return askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), patience, options...)
}

func askOf(domain int, to unix.Sockaddr, wait time.Duration, options ...option) string {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	for _, set := range options {
		if err := set(fd); err != nil {
			return said(err)
		}
	}
	return askBy(fd, to, wait)
}

// askBy is ask by a socket that is there.
func askBy(fd int, to unix.Sockaddr, wait time.Duration) string {
	if err := patient(fd, wait); err != nil {
		return said(err)
	}
	err := unix.Connect(fd, to)
	if errors.Is(err, unix.EINTR) {
		// It goes on (connect(2)).
		err = connected(fd, wait)
	}
	if errors.Is(err, unix.EINPROGRESS) {
		return "silence"
	} else if err != nil {
		return said(err)
	}
	if _, err := unix.Write(fd, []byte("whoami\n")); err != nil {
		return said(err)
	}
	return answerer(fd)
}

// connected waits until a socket is connected.
func connected(fd int, wait time.Duration) error {
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(wait.Milliseconds()))
	}
	if err == nil && n == 0 {
		err = unix.EINPROGRESS
	}
	if err != nil {
		return err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

func patient(fd int, wait time.Duration) error {
	d := unix.NsecToTimeval(int64(wait))
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &d),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &d))
}

// askUDP sends a datagram and says who answers, or why nobody does.
func askUDP(protocol int, to netip.AddrPort, wait time.Duration, options ...option) string {
	fd, err := unix.Socket(netlab.Domain(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return said(err)
	}
	defer unix.Close(fd)
	for _, set := range append(options, func(fd int) error { return patient(fd, wait) }) {
		if err := set(fd); err != nil {
			return said(err)
		}
	}
	if err := unix.Connect(fd, netlab.Sockaddr(to)); err != nil {
		return said(err)
	}
	if _, err := unix.Write(fd, []byte("whoami\n")); err != nil {
		return said(err)
	}
	return answerer(fd)
}

// answerer reads who answers.
func answerer(fd int) string {
	line, err := bufio.NewReader(reader(fd)).ReadBytes('\n')
	if errors.Is(err, unix.EAGAIN) {
		return "silence"
	} else if err != nil {
		return said(err)
	}
	var b netlab.Banner
	if err := json.Unmarshal(line, &b); err != nil {
		return err.Error()
	}
	return string(b.Role)
}

type reader int

func (r reader) Read(b []byte) (int, error) {
	n, err := unix.Read(int(r), b)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(int(r), b)
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// program asks by another program, started by this thread.
func program(path string, to netip.AddrPort, attr *syscall.SysProcAttr) string {
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), askVariable+"="+to.String())
	cmd.SysProcAttr = attr
	out, err := cmd.Output()
	if err != nil {
		return said(err)
	}
	return strings.TrimSpace(string(out))
}

// noNewPrivileges is what allowPrivilegeEscalation: false makes of a thread.
func noNewPrivileges() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }
