package iptables

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// defaultLock is where iptables-legacy keeps its lock.
const defaultLock = "/run/xtables.lock"

// xtablesLock returns what XTABLES_LOCKFILE has to be for the children, and the file, to be closed after them. The
// system's lock is for namespaces whose other writers share it. In another's it would make pods wait for each other;
// and where it cannot be written, for want of a writable file system or of room on it, there is none to share. Then the
// lock is a file in memory.
func (o Options) xtablesLock() (path string, f *os.File, err error) {
	if o.SharedLock && o.Variant == Legacy { // the other takes none
		path = systemLock()
		f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|nonBlock, 0o600)
		if err == nil && isFIFO(f.Stat()) {
			return "", nil, errors.Join(lockIsFIFO(path), f.Close())
		}
		if err == nil {
			return path, f, nil
		}
	}
	f, err = memory("xtables.lock", "")
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/3", f, nil // the first of the session's files, see command.start
}

// systemLock is the path of the lock that all programs of iptables-legacy share.
func systemLock() string { return cmp.Or(os.Getenv("XTABLES_LOCKFILE"), defaultLock) }

// ErrLockFIFO reports a FIFO in place of the lock of xtables. To open it, every program of iptables-legacy waits for
// somebody to write into it.
var ErrLockFIFO = errors.New("a FIFO, at which every iptables-legacy waits for ever")

func lockIsFIFO(path string) error {
	return fmt.Errorf("the lock of xtables, %s, is %w; remove it", path, ErrLockFIFO)
}

func isFIFO(info fs.FileInfo, err error) bool {
	return err == nil && info.Mode().Type() == fs.ModeNamedPipe
}

// holder names the process that holds a lock on the file, from /proc/locks.
func holder(f *os.File) string {
	locks, err := os.ReadFile("/proc/locks")
	number, err2 := inode(f)
	if err != nil || err2 != nil {
		return "its holder is unknown"
	}
	pid := lockedBy(string(locks), number)
	if pid == "" {
		return "its holder is not visible from here"
	}
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "by process " + pid
	}
	return fmt.Sprintf("by process %s (%s)", pid, strings.TrimSpace(string(name)))
}

// lockedBy returns the process that holds a lock on the file of an inode, of what /proc/locks says, or "".
func lockedBy(locks string, inode uint64) string {
	// 1: FLOCK  ADVISORY  WRITE 4711 00:1a:12345 0 EOF
	for line := range strings.Lines(locks) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] == "->" || !strings.HasSuffix(fields[5], ":"+strconv.FormatUint(inode, 10)) {
			continue
		}
		if _, err := strconv.ParseUint(fields[4], 10, 31); err == nil {
			return fields[4]
		}
	}
	return ""
}
