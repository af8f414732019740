//go:build linux

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/nslock"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
)

func openSession(t *testing.T, p Pod) *Session {
	t.Helper()
	s, err := Open(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestSession: one session does all that can be asked, in the namespace that it has entered, even once nobody else has
// a name for it.
func TestSession(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	ctx, c := t.Context(), intercept.Default()
	s := openSession(t, Pod{NetNS: lab.Pod.Path()})
	if _, err := s.Status(ctx); !errors.Is(err, ruleset.ErrNotIntercepted) {
		t.Errorf("Status before Apply: %v", err)
	}
	for _, want := range []ruleset.Outcome{ruleset.Created, ruleset.Unchanged} {
		if got, err := s.Apply(ctx, c); err != nil || got.Outcome != want {
			t.Fatalf("Apply: %+v, %v; want %s", got, err, want)
		}
	}
	if diffs, err := s.Check(ctx, c); err != nil || len(diffs) > 0 {
		t.Errorf("Check: %v, %v", diffs, err)
	}
	report, err := s.Verify(ctx, c)
	if err != nil || report.Verdict != verify.OK || len(report.Verdicts) < 5 {
		t.Errorf("Verify: %+v, %v", report, err)
	}
	for _, v := range report.Verdicts {
		if v.Verdict != verify.OK {
			t.Errorf("Verify: %+v", v)
		}
	}
	status, err := s.Status(ctx)
	if err != nil || len(status.Backends) != 1 || status.Backends[0] != BackendNFT || len(status.Counters) < 10 {
		t.Errorf("Status: %+v, %v", status, err)
	}
	for _, c := range status.Counters {
		if c.Rule == "" || c.Rule.Line() != c.Line {
			t.Errorf("a counter of no rule: %+v", c)
		}
	}
	if r, err := s.Probe(ctx, c); err != nil || r.Choice.Backend != BackendNFT || r.HostNetNS {
		t.Errorf("Probe: %+v, %v", r, err)
	}
	if removed, err := s.Remove(ctx); err != nil || !removed {
		t.Errorf("Remove: %t, %v", removed, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, c); !errors.Is(err, errClosed) {
		t.Errorf("Apply after Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

// TestOpenNew: what is tried in a namespace of its own shows that it works, mode tproxy's routes too, and leaves
// nothing.
func TestOpenNew(t *testing.T) {
	netlab.Require(t)
	s, err := OpenNew(t.Context(), Pod{NetNS: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []intercept.Config{intercept.Default(), tproxy()} {
		if got, err := s.Apply(t.Context(), c); err != nil || got.Outcome == ruleset.Unchanged {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestEnds: every call ends with its context, whoever holds the lock, and says so.
func TestEnds(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	s := openSession(t, Pod{NetNS: ns.Path()})
	ended, end := context.WithCancel(t.Context())
	end()
	for what, err := range map[string]error{
		"Open":   func() error { _, err := Open(ended, Pod{NetNS: ns.Path()}); return err }(),
		"Apply":  func() error { _, err := s.Apply(ended, intercept.Default()); return err }(),
		"Check":  func() error { _, err := s.Check(ended, intercept.Default()); return err }(),
		"Verify": func() error { _, err := s.Verify(ended, intercept.Default()); return err }(),
		"Remove": func() error { _, err := s.Remove(ended); return err }(),
		"Status": func() error { _, err := s.Status(ended); return err }(),
		"Probe":  func() error { _, err := s.Probe(ended, intercept.Default()); return err }(),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	release := make(chan struct{})
	held := make(chan error)
	go func() {
		held <- ns.Do(func() error {
			lock, err := nslock.Open(t.Context(), 0, nil)
			if err != nil {
				return err
			}
			held <- nil
			<-release
			return lock.Close()
		})
	}()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Apply(soon, intercept.Default()); !errors.Is(err, ruleset.ErrLocked) ||
		!errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Apply while another holds the lock: %v", err)
	}
	if _, err := s.Check(t.Context(), intercept.Default()); !errors.Is(err, ruleset.ErrNotIntercepted) {
		t.Errorf("Check while another holds the lock: %v", err)
	}
	told := make(chan string, 2)
	waits := openSession(t, Pod{NetNS: ns.Path(), LockedBy: func(holder string) {
		told <- holder
		close(release)
	}})
	if _, err := waits.Apply(t.Context(), intercept.Default()); err != nil {
		t.Errorf("Apply once the other has let go: %v", err)
	}
	if err := <-held; err != nil {
		t.Error(err)
	}
	if holder := <-told; len(told) > 0 || !strings.HasPrefix(holder, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("it waits for %q, and is told %d times more", holder, len(told))
	}
}

// TestUndo: an apply that fails in its last step leaves nothing of what it did before, and what it could not undo is in
// the error.
func TestUndo(t *testing.T) {
	needPrograms(t)
	lab := netlab.NewT(t, netlab.Options{})
	netns := lab.Pod.Path()
	// Rules by iptables-legacy, which then cannot be removed: its programs fail.
	expectApply(t, Pod{NetNS: netns, Backend: BackendIPTablesLegacy}, intercept.Default(), intercept.Created)
	before := strings.Join([]string{run(t, netns, "nft", "list", "ruleset"), run(t, netns, "iptables-legacy-save"),
		routing(t, netns)}, "\n")
	broken := t.TempDir()
	for _, name := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore"} {
		if err := os.WriteFile(broken+"/"+name, []byte("#!/bin/sh\necho broken on purpose >&2\nexit 1\n"),
			0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", broken+":"+os.Getenv("PATH"))
	s := openSession(t, Pod{NetNS: netns, Backend: BackendNFT})
	if got, err := s.Apply(t.Context(), tproxy()); err == nil || !strings.Contains(err.Error(), "broken on purpose") {
		t.Fatalf("%+v, %v", got, err)
	}
	after := strings.Join([]string{run(t, netns, "nft", "list", "ruleset"), run(t, netns, "iptables-legacy-save"),
		routing(t, netns)}, "\n")
	if withoutCounts(before) != withoutCounts(after) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}

	e := effects{
		{"the first", func(context.Context) error { return unix.EBUSY }},
		{"the second", func(context.Context) error { return nil }},
	}
	err := e.undo(unix.EEXIST)
	undo, ok := errors.AsType[*UndoError](err)
	if !ok || !errors.Is(err, unix.EEXIST) || len(undo.Left) != 1 ||
		!strings.Contains(err.Error(), "the first: device or resource busy") {
		t.Errorf("%v", err)
	}
}

// withoutCounts takes out what changes by itself in a listing: times and counts.
func withoutCounts(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if before, _, is := strings.Cut(line, " ["); is {
			line = before
		}
		kept = append(kept, strings.TrimSpace(line))
	}
	return strings.Join(kept, "\n")
}

// TestLockIsOurs: nothing that an unprivileged process in the pod can hold keeps rules from being applied.
func TestLockIsOurs(t *testing.T) {
	needPrograms(t)
	lab := netlab.NewT(t, netlab.Options{})
	netns := lab.Pod.Path()
	// It holds the lock on the file of the namespace, and says so.
	holder := exec.Command("flock", "--exclusive", "/proc/self/ns/net", "sh", "-c", "echo held; exec cat")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Pod.Start(holder, app); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = holder.Wait()
	})
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil || word != "held" {
		t.Fatalf("%q, %v", word, err)
	}
	// And the abstract name of a UNIX socket that once was the lock.
	fd, err := lab.Pod.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, app)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@mesh-intercept"}); err != nil {
		t.Fatal(err)
	}
	for _, b := range concrete() {
		p := Pod{NetNS: netns, Backend: b, IPTables: IPTables{Wait: time.Second}}
		if got, err := p.Apply(t.Context(), intercept.Default()); err != nil {
			t.Errorf("%s: %+v, %v", b, got, err)
		}
	}
}
