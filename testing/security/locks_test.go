//go:build linux

package security

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/nslock"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// holdVariable has this process hold what it can until its standard input is closed.
const holdVariable = "SECURITY_TEST_HOLD"

// hold takes all that an application can take of what apply locks by, and says so, or else what it could not.
func hold() {
	answers := map[string]bool{"held": true}
	// The namespace itself, which everybody may open.
	ns, err := os.Open("/proc/self/ns/net")
	if err == nil {
		err = unix.Flock(int(ns.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		answers["the namespace: "+said(err)] = true
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@mesh-intercept"})
	}
	if err != nil {
		answers["the socket: "+said(err)] = true
	}
	if _, err := nslock.Open(context.Background(), time.Millisecond, nil); !errors.Is(err, ruleset.ErrPermission) {
		answers["the lock is taken"] = true
	}
	c, err := nft.Open()
	if err == nil {
		var rs intercept.Ruleset
		if rs, err = intercept.Compile(intercept.Default()); err == nil {
			_, err = c.Apply(context.Background(), rs)
		}
	}
	if !errors.Is(err, ruleset.ErrPermission) {
		answers["a table is made"] = true
	}
	fmt.Println(oneOf(answers))
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(ns)
}

// holder starts an application that holds what it can until the test is over, and returns what it says.
func holder(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Pod.Start(cmd, &plain.owner); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// TestLocks: an application holds all that it can, and the rules are applied all the same.
func TestLocks(t *testing.T) {
	for _, m := range modes(false) {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			lab := noRules.pod(t)
			if got := holder(t, lab); got != "held" {
				t.Error(got)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := (dataplane.Pod{NetNS: lab.Pod.Path(), Backend: m.backend}).Apply(ctx, intercept.Default())
			if err != nil {
				t.Fatal(err)
			}
			f := netlab.Flow{Protocol: intercept.TCP, Dst: destination(0, 0), Owner: &plain.owner}
			if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleOutbound {
				t.Errorf("%s: %s, %v", f, got, err)
			}
		})
	}
}
