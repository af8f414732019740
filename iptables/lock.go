package iptables

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// lockNamespace keeps others of us out of the namespace of the calling thread.
// What is read in order to write it must still hold when it is written, and the
// lock of xtables covers no more than one program's run. The lock is on the
// namespace itself (flock(2) on the file of nsfs): it takes no file system to
// write to, pods do not share it, and it goes with the process and those of its
// children that have the file. Closing the file unlocks.
func lockNamespace(wait time.Duration) (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("lock the network namespace: %w", err)
	}
	for end := time.Now().Add(wait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock the network namespace: %w", err), f.Close())
		case time.Now().After(end):
			err := fmt.Errorf("the network namespace was %w for %s: %s", ruleset.ErrLocked, wait, holder(f))
			return nil, errors.Join(err, f.Close())
		}
		<-time.After(2 * time.Millisecond)
	}
}

// holder names the process that holds a lock on the file, from /proc/locks.
func holder(f *os.File) string {
	var st unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(int(f.Fd()), &st) != nil {
		return "its holder is unknown"
	}
	// 1: FLOCK  ADVISORY  WRITE 4711 00:1a:12345 0 EOF
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] == "->" || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(st.Ino, 10)) {
			continue
		}
		name, err := os.ReadFile("/proc/" + fields[4] + "/comm")
		if err != nil {
			return "by process " + fields[4]
		}
		return fmt.Sprintf("by process %s (%s)", fields[4], strings.TrimSpace(string(name)))
	}
	return "its holder is not visible from here"
}

// defaultLock is where iptables-legacy keeps its lock.
const defaultLock = "/run/xtables.lock"

// xtablesLock returns what XTABLES_LOCKFILE has to be for the children, and
// the file, to be closed after them. The system's lock is for namespaces whose
// other writers share it. In another's it would make pods wait for each other;
// and where it cannot be written, for want of a writable file system or of
// room on it, there is none to share. Then the lock is a file in memory.
func (o Options) xtablesLock() (path string, f *os.File, err error) {
	if o.SharedLock && o.Variant == Legacy { // the other takes none
		path = os.Getenv("XTABLES_LOCKFILE")
		if path == "" {
			path = defaultLock
		}
		f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
		if err == nil {
			return path, f, nil
		}
	}
	f, err = memory("xtables.lock", "")
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/3", f, nil // see command.run
}
