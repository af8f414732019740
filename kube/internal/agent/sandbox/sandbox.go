// Package sandbox finds the network namespaces of pods from /proc, with no
// container runtime's help: by the pod's UID, which kubelet makes part of the
// names of cgroups.
package sandbox

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/netns"
)

// Sandbox is a pod's network namespace, held open.
type Sandbox struct {
	// UID is the pod's, as kubelet has it.
	UID string
	// PID is that of the process it was found by: the pod's oldest.
	PID   int
	space *os.File // the namespace
	root  *os.File // of the file system of that process
}

// NetNS is the path of the namespace, as long as the Sandbox is open.
func (s Sandbox) NetNS() string { return fmt.Sprintf("/proc/self/fd/%d", s.space.Fd()) }

// Close lets go of the namespace.
func (s Sandbox) Close() error { return errors.Join(s.space.Close(), s.root.Close()) }

// ErrNoFile reports something in a pod that is no file to read: reading could wait for the pod for ever.
var ErrNoFile = errors.New("not a regular file")

// ResolvConf is the pod's /etc/resolv.conf, as far as its first 64 KiB.
func (s Sandbox) ResolvConf() (string, error) {
	// The root of a container is its owner's: no link leads out of it.
	fd, err := unix.Openat2(int(s.root.Fd()), "etc/resolv.conf", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("/etc/resolv.conf of process %d: %w", s.PID, err)
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	text, err := readOnce(fd, 64<<10)
	if err != nil {
		err = fmt.Errorf("/etc/resolv.conf of process %d: %w", s.PID, err)
	}
	return text, err
}

// readOnce reads a regular file that its owner may have made to wait, such as one of /proc: what is not there at once
// (the descriptor does not block) is an error.
func readOnce(fd, most int) (string, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", ErrNoFile
	}
	text := make([]byte, 0, most)
	for len(text) < most {
		n, err := unix.Read(fd, text[len(text):most])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return "", err
		case n == 0:
			return string(text), nil
		}
		text = text[:len(text)+n]
	}
	return string(text), nil
}

// Finder finds sandboxes.
type Finder struct {
	// Proc is where the node's processes are, mostly /proc. The agent's pod has
	// to share the node's process IDs (hostPID).
	Proc string
}

// process is a process of a pod.
type process struct {
	pid     int
	started uint64 // in clock ticks after the boot
	uid     string
}

// Error is why a pod that has processes has no sandbox among those found.
type Error struct {
	UID string
	Err error
}

func (e *Error) Error() string { return "the pod with UID " + e.UID + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Find opens the sandboxes of pods, by UID. A pod that is not among them has no
// process yet, or none any more, or there is an [*Error] of it. The oldest
// process of a pod is taken that is not in the node's own network: the container
// runtime starts the sandbox first, after the network is set up; what makes
// namespaces of its own inside the pod comes later. In the node's network are
// the monitors that CRI-O can put into a pod's cgroup, and what runc starts
// there shortly before it enters the pod's namespaces. Close them all.
func (f Finder) Find(uids []string) (found map[string]Sandbox, err error) {
	oldest, err := f.processes(func(uid string) bool { return slices.Contains(uids, uid) })
	if err != nil {
		return nil, err
	}
	found = map[string]Sandbox{}
	var errs []error
	for uid, p := range oldest {
		s, err := f.open(p)
		switch {
		case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESRCH):
			// It has ended since.
		case errors.Is(err, os.ErrPermission):
			errs = append(errs, &Error{
				uid, fmt.Errorf("the namespace of process %d: %w; the agent needs CAP_SYS_PTRACE", p.pid, err)})
		case err != nil:
			errs = append(errs, &Error{uid, fmt.Errorf("the namespace of process %d: %w", p.pid, err)})
		default:
			found[uid] = s
		}
	}
	return found, errors.Join(errs...)
}

// processes returns the oldest process of each pod.
func (f Finder) processes(wanted func(uid string) bool) (map[string]process, error) {
	dir, err := os.Open(f.Proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	node, err := os.Stat(f.path(1, "ns/net"))
	if err != nil {
		node = nil // then all processes count
	}
	oldest := map[string]process{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := f.process(pid)
		if err != nil || p.uid == "" || !wanted(p.uid) {
			continue // a kernel's, a pod's of someone else, or gone
		}
		if own, err := os.Stat(f.path(pid, "ns/net")); err == nil && node != nil && os.SameFile(own, node) {
			continue
		}
		if before, ok := oldest[p.uid]; !ok ||
			cmp.Or(cmp.Compare(p.started, before.started), cmp.Compare(p.pid, before.pid)) < 0 {
			oldest[p.uid] = p
		}
	}
	return oldest, nil
}

func (f Finder) path(pid int, name string) string {
	return filepath.Join(f.Proc, strconv.Itoa(pid), name)
}

func (f Finder) process(pid int) (process, error) {
	cgroup, err := os.ReadFile(f.path(pid, "cgroup"))
	if err != nil {
		return process{}, err
	}
	p := process{pid: pid, uid: netns.PodUID(string(cgroup))}
	if p.uid == "" {
		return p, nil
	}
	stat, err := os.ReadFile(f.path(pid, "stat"))
	if err != nil {
		return process{}, err
	}
	var alive bool
	if p.started, alive = startTime(stat); !alive {
		return process{}, os.ErrNotExist
	}
	return p, nil
}

// open opens a process's namespace, if it is still the same process then: its
// number may have become another's.
func (f Finder) open(p process) (Sandbox, error) {
	space, err := os.Open(f.path(p.pid, "ns/net"))
	if err != nil {
		return Sandbox{}, err
	}
	root, err := os.OpenFile(f.path(p.pid, "root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return Sandbox{}, errors.Join(err, space.Close())
	}
	s := Sandbox{UID: p.uid, PID: p.pid, space: space, root: root}
	now, err := f.process(p.pid)
	if err == nil && now != p {
		err = os.ErrNotExist
	}
	if err != nil {
		return Sandbox{}, errors.Join(err, s.Close())
	}
	return s, nil
}

// startTime reads field 22 of /proc/PID/stat, and whether the process lives.
func startTime(stat []byte) (ticks uint64, alive bool) {
	// The command, in parentheses, can have anything in it.
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	fields := strings.Fields(string(stat[i+1:]))
	const state, start = 0, 19 // of which the manual's numbers are 3 and 22
	if len(fields) <= start || fields[state] == "Z" || fields[state] == "X" {
		return 0, false
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	return ticks, err == nil
}
