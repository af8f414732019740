// Package nslock locks a network namespace against others of ours who would change its rules at the same time.
//
// The lock is a group of the netfilter log that no rule logs to: binding to a group takes CAP_NET_ADMIN in the user
// namespace that owns the network namespace, the kernel gives each group to one socket a network namespace, and takes
// it back when the socket closes, however its process ends (nfulnl_recv_config and nfulnl_rcv_nl_event in
// net/netfilter/nfnetlink_log.c). So nobody who could not change the rules anyway can hold the lock, it takes no file
// system, and nothing of it is left behind. A file or an abstract UNIX socket could be held by any process in the pod.
//
// Where the kernel has no netfilter log the lock is the abstract UNIX socket all the same (unix(7)), which keeps ours
// apart from each other, but not others from holding it.
package nslock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mesh-intercept/intercept/ruleset"
)

// group is the group of the netfilter log that stands for the lock: "mi" in ASCII. iptables' NFLOG and nft's log
// take numbers that people choose, mostly small ones.
const group = 'm'<<8 | 'i'

// name is the abstract UNIX socket that stands for it where there is no netfilter log.
const name = "@mesh-intercept"

// pause is how long to wait between two tries. Nothing tells when the lock is free.
const pause = 2 * time.Millisecond

// Error says why the lock could not be had. It is [ruleset.ErrLocked] where another held it all the time.
type Error struct {
	// Waited is how long another held the lock.
	Waited time.Duration
	// Holder is the process that held it, such as "process 4711 (mesh-init)". Empty: it is not visible from here.
	Holder string
	Err    error
}

func (e *Error) Error() string {
	if errors.Is(e.Err, ruleset.ErrLocked) {
		return fmt.Sprintf("the network namespace was %s for %s: by %s", ruleset.ErrLocked,
			e.Waited.Round(time.Millisecond), visible(e.Holder))
	}
	return "lock the network namespace: " + e.Err.Error()
}

func visible(holder string) string { return cmp.Or(holder, "a process that is not visible from here") }

func (e *Error) Unwrap() error { return e.Err }

// Open waits until nobody else holds the lock of the network namespace of the calling thread, for at most so long;
// zero: until ctx ends. The lock is the process's: close the file, from any thread, to release it. It is for programs
// that change rules, too: a child process that has the file holds the lock, and one that outlives its parent keeps
// others out until it has ended. tell, unless nil, is told once who holds the lock, as in Error, when that takes a second.
func Open(ctx context.Context, most time.Duration, tell func(holder string)) (*os.File, error) {
	begun := time.Now()
	var late <-chan time.Time // made when another holds the lock, which is seldom: a timer wakes a thread
	for take, holder := takeLogGroup, logGroupHolder; ; {
		fd, err := take()
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), "lock of the network namespace"), nil
		case errors.Is(err, errNoLog):
			take, holder = takeSocket, socketHolder
			continue
		case !errors.Is(err, errHeld):
			return nil, &Error{Err: err}
		}
		if most > 0 && late == nil {
			late = time.After(most)
		}
		if tell != nil && time.Since(begun) > time.Second {
			tell(visible(holder()))
			tell = nil
		}
		select {
		case <-late:
			return nil, &Error{most, holder(), errors.Join(ruleset.ErrLocked, context.DeadlineExceeded)}
		case <-ctx.Done():
			return nil, &Error{time.Since(begun), holder(), errors.Join(ruleset.ErrLocked, context.Cause(ctx))}
		case <-time.After(pause):
		}
	}
}

var (
	errHeld  = errors.New("another holds the lock")
	errNoLog = errors.New("the kernel has no netfilter log")
)
