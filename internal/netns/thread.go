//go:build linux

package netns

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// apart runs fn on a goroutine of its own that is locked to its thread, and
// gives the thread back if fn has restored it; else the thread ends with the
// goroutine. It is never the main thread, whose namespaces are what /proc/self
// shows of the process, and which the runtime cannot end. If fn panics, so does
// apart, with a text of what and where.
func apart(fn func() (err error, restored bool)) error {
	type end struct {
		err   error
		panic any
	}
	done := make(chan end)
	go func() {
		runtime.LockOSThread()
		var e end
		restored := true
		if unix.Gettid() == unix.Getpid() {
			// While the main thread is locked here, another goroutine runs on
			// another thread.
			e.panic, e.err = caught(func() error { return apart(fn) })
		} else {
			e.panic, e.err = caught(func() (err error) {
				restored = false
				err, restored = fn()
				return err
			})
		}
		if restored {
			runtime.UnlockOSThread()
		}
		done <- e
	}()
	e := <-done
	if e.panic != nil {
		panic(e.panic) // where the caller can recover it
	}
	return e.err
}

// caught runs fn and returns what it panics with, and where.
func caught(fn func() error) (what any, err error) {
	defer func() {
		if r := recover(); r != nil {
			what = fmt.Sprintf("%v\n%s", r, debug.Stack())
		}
	}()
	return nil, fn()
}
