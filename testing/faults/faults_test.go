//go:build linux

package faults

import (
	"fmt"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestRun: a program that lists interfaces hears of the fault that one of its calls has, and of no other.
func TestRun(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "ip")
	netlab.RequireProgram(t, "nft")
	list := func(i *Injector, command string) (string, error) {
		var out strings.Builder
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command+"; exit $?")
		cmd.Stdout, cmd.Stderr = &out, &out
		err := i.Run(cmd, nil)
		return out.String(), err
	}
	none := &Injector{Choose: func(Call) Fault { return None }}
	want, err := list(none, "ip link show lo")
	if err != nil || !strings.Contains(want, "lo:") || none.Calls.Load() < 2 {
		t.Fatalf("%d calls, %v\n%s", none.Calls.Load(), err, want)
	}
	lost := &Injector{Choose: func(c Call) Fault {
		if c.Receives {
			return Lost
		}
		return None
	}}
	out, err := list(lost, "nft list tables")
	if err == nil || !strings.Contains(out, "No buffer space available") || lost.Lost.Load() == 0 {
		t.Errorf("%d answers lost: %v\n%s", lost.Lost.Load(), err, out)
	}
	// ip tries again.
	interrupted := &Injector{Choose: func(c Call) Fault {
		if c.Receives && c.N%2 == 1 {
			return Interrupted
		}
		return None
	}}
	if out, err := list(interrupted, "ip link show lo"); err != nil || out != want || interrupted.Interrupted.Load() == 0 {
		t.Errorf("%d calls interrupted: %v\n%s", interrupted.Interrupted.Load(), err, out)
	}
}

// TestRunAtOnce: programs that are started at the same time leave the garbage collector on.
func TestRunAtOnce(t *testing.T) {
	const percent = 90
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	i := &Injector{Choose: func(Call) Fault { return None }}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := i.Run(exec.CommandContext(t.Context(), "true"), nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := debug.SetGCPercent(percent); got != percent {
		t.Errorf("it is at %d %%", got)
	}
}

// TestProcessOf: the process is told by its line alone.
func TestProcessOf(t *testing.T) {
	if pid, err := processOf(fmt.Append(nil, "Name:\tx\nTgid:\t17\nPid:\t18\n")); pid != 17 || err != nil {
		t.Error(pid, err)
	}
	if _, err := processOf([]byte("Name:\tx\n")); err == nil {
		t.Error("a status without a process")
	}
}
