//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// names is where "ip netns" and container runtimes keep namespaces by name.
const names = "/run/netns/"

// target is what to open, what it was called, and the process whose it is if
// that was found by a search.
type target struct {
	spec, path string
	owner      process
}

// parse finds out what file a spec stands for.
func parse(spec string) (target, error) {
	t := target{spec: spec}
	if number, is := strings.CutPrefix(spec, "pid:"); is {
		pid, err := strconv.ParseUint(number, 10, 31)
		if err != nil || pid == 0 || number[0] == '+' {
			return t, t.no(Malformed, nil, "%q is not the number of a process", number)
		}
		t.path = pathOf(int(pid))
		return t, nil
	}
	if id, is := strings.CutPrefix(spec, "container:"); is {
		return findContainer(t, id)
	}
	// As in containerStatuses[].containerID of a pod.
	if _, id, is := strings.Cut(spec, "://"); is {
		return findContainer(t, id)
	}
	switch {
	case strings.Contains(spec, "/"):
		t.path = spec
	case spec == ".", spec == "..":
		return t, t.no(Malformed, nil, "a path has a slash in it, and this is no name")
	default:
		t.path = names + spec
	}
	return t, nil
}

func pathOf(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// open opens what is to be a network namespace. The library opens whatever is
// there, and so hangs at a FIFO and starts a watchdog: a look comes first, by a
// descriptor that does nothing to the file.
func (t target) open() (*NetNS, error) {
	path, err := unix.Open(t.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, t.refused(err)
	}
	defer func() { _ = unix.Close(path) }() // nothing was written
	var stat unix.Stat_t
	if err := unix.Fstat(path, &stat); err != nil {
		return nil, t.refused(err)
	}
	const another = "it is a file of another kind; use a path such as /run/netns/NAME or /proc/PID/ns/net"
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, t.no(Other, nil, another)
	}
	handle, err := netns.GetFromPath(fmt.Sprintf("/proc/thread-self/fd/%d", path))
	if err != nil {
		return nil, t.refused(err)
	}
	if kind, err := unix.IoctlRetInt(int(handle), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = handle.Close() // nothing was written
		return nil, t.no(Other, nil, another)
	}
	n := &NetNS{t.spec, t.path, os.NewFile(uintptr(handle), t.path)}
	// Its number may be another process's by now.
	if now, _ := readProcess(t.owner.pid); t.owner.pid != 0 && now != t.owner {
		return nil, errors.Join(t.no(Gone, nil, "its processes have just ended"), n.Close())
	}
	return n, nil
}

// refused explains why a file cannot be opened.
func (t target) refused(err error) error {
	_, isPID := strings.CutPrefix(t.spec, "pid:")
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return failed("open", t, err, "the namespaces of another user's process take CAP_SYS_PTRACE")
	case errors.Is(err, unix.ENOENT) && isPID, errors.Is(err, unix.ESRCH):
		return t.no(Gone, err, "there is no such process; the pod may be gone")
	case errors.Is(err, unix.ENOENT) && t.path == names+t.spec:
		hint := "ip netns list has no such name; a path has a slash in it"
		if _, err := strconv.ParseUint(t.spec, 10, 31); err == nil {
			hint += ", and a process is pid:" + t.spec
		}
		return t.no(Gone, err, "%s", hint)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG),
		errors.Is(err, unix.EINVAL):
		return t.no(Other, err, "")
	case errors.Is(err, unix.ENOENT):
		return t.no(Gone, err, "there is no such file; the pod may be gone")
	}
	return failed("open", t, err, "")
}

// failed is the error of a system call. The hint is about permission.
func failed(op string, t target, err error, hint string) *Error {
	e := &Error{Op: op, Spec: t.spec, Path: t.path, Err: err}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		e.Kind, e.Hint = Forbidden, hint
	}
	return e
}

// no is the error of a spec by which there is no namespace.
func (t target) no(kind Kind, err error, hint string, args ...any) *Error {
	return &Error{Op: "open", Spec: t.spec, Path: t.path, Kind: kind, Err: err, Hint: fmt.Sprintf(hint, args...)}
}
