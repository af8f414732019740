//go:build linux

package trial

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/ruleset"
)

// self is who the calling thread is for the sockets that it opens.
func self() ruleset.Owner {
	return ruleset.Owner{UID: uint32(unix.Geteuid()), GID: uint32(unix.Getegid())}
}

// as runs f with owner as the user and group of this thread that count for files: a socket remembers those of the
// thread that opened or accepted it.
func as(owner ruleset.Owner, f func() error) error {
	own := self()
	if owner == own {
		return f()
	}
	runtime.LockOSThread()
	err := become(owner)
	if err == nil {
		err = f()
	}
	if back := become(own); back != nil {
		return errors.Join(err, back) // locked still: the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// become makes the thread another user and group for sockets.
func become(o ruleset.Owner) error {
	if !gvisor.Here() {
		return becomeForFiles(o)
	}
	// It has no users for files, and a socket there remembers the effective ones. The others stay, to come back by.
	const keep = ^uintptr(0)
	for _, call := range [][2]uintptr{{unix.SYS_SETRESGID, uintptr(o.GID)}, {unix.SYS_SETRESUID, uintptr(o.UID)}} {
		if _, _, errno := unix.RawSyscall(call[0], keep, call[1], keep); errno != 0 {
			return fmt.Errorf("become user %d and group %d for sockets: %w", o.UID, o.GID,
				os.NewSyscallError("setresuid", errno))
		}
	}
	return nil
}

// becomeForFiles calls setfsgid(2) and setfsuid(2), which report no errors: they return what there was, changed or not.
func becomeForFiles(o ruleset.Owner) error {
	// To change them makes the whole process undumpable, so that others could no longer open what is its own in /proc.
	was, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err == nil && was == 1 {
		defer func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }() // as it was
	}
	const keep = 1<<32 - 1
	set := func(call uintptr, id uint32) uint32 {
		_, _, _ = unix.RawSyscall(call, uintptr(id), 0, 0) // the next call says what came of it
		now, _, _ := unix.RawSyscall(call, keep, 0, 0)
		return uint32(now)
	}
	gid, uid := set(unix.SYS_SETFSGID, o.GID), set(unix.SYS_SETFSUID, o.UID)
	if uid != o.UID || gid != o.GID {
		return fmt.Errorf("become user %d and group %d for sockets: %w", o.UID, o.GID,
			os.NewSyscallError("setfsuid", unix.EPERM))
	}
	return nil
}

// canBe reports whether the calling thread can open sockets as anybody else.
func canBe(owner ruleset.Owner) bool { return as(owner, func() error { return nil }) == nil }
