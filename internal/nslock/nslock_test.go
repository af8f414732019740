//go:build linux

package nslock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

const holdVariable = "NSLOCK_TEST_HOLD"

// TestMain lets a test start this binary as a process that takes the lock, says so, and waits to be killed.
func TestMain(m *testing.M) {
	if os.Getenv(holdVariable) == "" {
		m.Run()
		return
	}
	_, err := acquire(200 * time.Millisecond)
	switch {
	case errors.Is(err, ruleset.ErrPermission):
		fmt.Println("no permission")
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println("held")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func acquire(wait time.Duration) (*os.File, error) { return Open(context.Background(), wait, nil) }

func newNamespace(t *testing.T) *netlab.Namespace {
	t.Helper()
	netlab.Require(t)
	n, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// other starts a process that takes the lock of a namespace, and returns what it says of that. Kill ends it.
func other(t *testing.T, n *netlab.Namespace, owner *intercept.Owner) (says string, kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // closed with this process
		t.Fatal(err)
	}
	if err := n.Start(cmd, owner); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestTake: one holds the lock at a time, each namespace has its own, and it is free when it is released.
func TestTake(t *testing.T) {
	for name, take := range map[string]func() (int, error){"log": takeLogGroup, "socket": takeSocket} {
		t.Run(name, func(t *testing.T) {
			here, there := newNamespace(t), newNamespace(t)
			err := here.Do(func() error {
				fd, err := take()
				if err != nil {
					return err
				}
				if _, err := take(); !errors.Is(err, errHeld) {
					return fmt.Errorf("a second time: %w", err)
				}
				holder := map[string]func() string{"log": logGroupHolder, "socket": socketHolder}[name]()
				if !strings.HasPrefix(holder, fmt.Sprintf("process %d (nslock.test", os.Getpid())) {
					t.Errorf("held by %q", holder)
				}
				if err := there.Do(func() error {
					fd, err := take()
					if err != nil {
						return err
					}
					return unix.Close(fd)
				}); err != nil {
					return fmt.Errorf("in another namespace: %w", err)
				}
				if err := unix.Close(fd); err != nil {
					return err
				}
				if fd, err = take(); err != nil {
					return fmt.Errorf("after the release: %w", err)
				}
				return unix.Close(fd)
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestHeld: whoever waits gives up when its context ends, and gets the lock of a process that is killed. Who waits long is
// told for whom.
func TestHeld(t *testing.T) {
	n := newNamespace(t)
	says, kill := other(t, n, nil)
	if says != "held\n" {
		t.Fatal(says)
	}
	err := n.Do(func() error { _, err := acquire(50 * time.Millisecond); return err })
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, ruleset.ErrLocked) || !errors.Is(err, context.DeadlineExceeded) ||
		e.Waited < 50*time.Millisecond {
		t.Errorf("held: %v", err)
	}
	got, told := make(chan error), make(chan string, 2)
	go func() {
		got <- n.Do(func() error {
			lock, err := Open(t.Context(), time.Minute, func(holder string) { told <- holder })
			if err != nil {
				return err
			}
			return lock.Close()
		})
	}()
	if holder := <-told; !strings.HasPrefix(holder, "process ") {
		t.Errorf("it waits for %q", holder)
	}
	kill()
	if err := <-got; err != nil || len(told) > 0 {
		t.Error(err, len(told))
	}
}

// TestChild: a child process that has the lock's file holds the lock when its parent has let go.
func TestChild(t *testing.T) {
	n := newNamespace(t)
	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = n.Do(func() error {
		f, err := Open(t.Context(), 0, nil)
		if err != nil {
			return err
		}
		child.ExtraFiles = []*os.File{f}
		return errors.Join(child.Start(), f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	self, other := fmt.Sprint(os.Getpid()), fmt.Sprint(child.Process.Pid)
	for _, both := range [][]string{{self, other}, {other, self}} {
		if got := first(both); got != self {
			t.Errorf("of %v, %s is named, want this process", both, got)
		}
	}
	err = n.Do(func() error { _, err := acquire(20 * time.Millisecond); return err })
	if holder := fmt.Sprintf("by process %d (cat)", child.Process.Pid); err == nil ||
		!strings.HasSuffix(err.Error(), holder) {
		t.Errorf("%v, want %q", err, holder)
	}
	if err := errors.Join(stdin.Close(), child.Wait()); err != nil {
		t.Fatal(err)
	}
	err = n.Do(func() error {
		lock, err := acquire(time.Second)
		if err != nil {
			return err
		}
		return lock.Close()
	})
	if err != nil {
		t.Error(err)
	}
}

// TestUnprivileged: a process without CAP_NET_ADMIN cannot take the lock, and is told why.
func TestUnprivileged(t *testing.T) {
	n := newNamespace(t)
	says, kill := other(t, n, &intercept.Owner{UID: 65534, GID: 65534})
	defer kill()
	if says != "no permission\n" {
		t.Error(says)
	}
	err := n.Do(func() error {
		lock, err := acquire(time.Second)
		if err != nil {
			return err
		}
		return lock.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkOpen(b *testing.B) {
	netlab.Require(b)
	n, err := netlab.NewNamespace()
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	err = n.Do(func() error {
		for b.Loop() {
			lock, err := acquire(time.Second)
			if err != nil {
				return err
			}
			if err := lock.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
