//go:build linux

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/faults"
	"github.com/mesh-intercept/intercept/testing/program"
)

// tools are the programs, as they ship, and where they are short of memory.
type tools struct {
	dir    string
	cgroup string
}

func newTools(t *testing.T) *tools {
	t.Helper()
	x := &tools{dir: t.TempDir()}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", x.path("mesh-cni-agent"),
		"github.com/mesh-intercept/intercept/kube/cmd/mesh-cni-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"mesh-init", "mesh-cni"} {
		if err := program.Build(x.path(name), "cmd/"+name); err != nil {
			t.Fatal(err)
		}
	}
	x.cgroup = newCgroup(t)
	return x
}

func (x *tools) path(name string) string { return filepath.Join(x.dir, name) }

// newCgroup makes a cgroup that can limit memory, of either version, and returns where it is.
func newCgroup(t *testing.T) string {
	t.Helper()
	parent := "/sys/fs/cgroup"
	if _, err := os.Stat(parent + "/cgroup.controllers"); err != nil {
		parent += "/memory"
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(own)) {
			if _, path, ok := strings.Cut(line, ":memory:"); ok {
				parent = filepath.Join(parent, strings.TrimSpace(path))
			}
		}
	}
	dir, err := os.MkdirTemp(parent, "mesh-soak-")
	if err != nil {
		t.Fatal("no memory can be limited: ", err)
	}
	t.Cleanup(func() {
		// It is empty when the last that ran there has ended.
		for range 100 {
			if err = os.Remove(dir); err == nil {
				return
			}
			<-time.After(50 * time.Millisecond)
		}
		t.Errorf("a program is left in %s: %v", dir, err)
	})
	return dir
}

// limit limits the memory of all that are in the cgroup.
func (x *tools) limit(bytes int) error {
	name := "memory.max"
	if _, err := os.Stat(filepath.Join(x.cgroup, name)); err != nil {
		name = "memory.limit_in_bytes"
	}
	err := os.WriteFile(filepath.Join(x.cgroup, name), fmt.Append(nil, bytes), 0o644)
	if errors.Is(err, syscall.EBUSY) {
		return nil // who runs there has more: it keeps the limit that it has
	}
	return err
}

// A mishap befalls a program that writes rules.
type mishap uint8

const (
	none     mishap = iota
	kill            // at some moment
	fault           // netlink calls fail
	noMemory        // it may have little
)

// result is how a program ended.
type result struct {
	exit   int // -1: killed
	output string
}

func (r result) ok() bool     { return r.exit == 0 }
func (r result) killed() bool { return r.exit < 0 }

// usual is how long programs take that nothing befalls, in nanoseconds: the last of each backend counts half.
type usual struct{ atomic.Int64 }

func (u *usual) note(d time.Duration) { u.Store((u.Load() + int64(d)) / 2) }

// run runs a program, and counts what befalls it.
func (p *pod) run(r *rand.Rand, u *usual, m mishap, cmd *exec.Cmd) result {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	began := time.Now()
	var err error
	switch m {
	case none:
		err = cmd.Run()
		u.note(time.Since(began))
	case kill:
		after := time.Duration(r.Int64N(max(u.Load(), 1)))
		if err = cmd.Start(); err == nil {
			timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
			err = cmd.Wait()
			timer.Stop()
		}
	case fault:
		err = p.fail(r, cmd)
	case noMemory:
		p.add(starved, 1)
		cmd.Args = append([]string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec "$@"`, p.tools.cgroup, cmd.Path},
			cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		err = cmd.Run()
	}
	exit, is := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return result{0, out.String()}
	case !is:
		p.violated("%s: %v", cmd, err)
		return result{exit: 1}
	}
	if exit.ExitCode() == 137 { // a shell's word for it
		return result{-1, out.String()}
	}
	return result{exit.ExitCode(), out.String()}
}

// fail runs a program of which one netlink call in some fails.
func (p *pod) fail(r *rand.Rand, cmd *exec.Cmd) error {
	var mu sync.Mutex
	often := 3 << r.IntN(9) // mesh-init has some 60, iptables-nft several hundred
	choice := rand.New(rand.NewPCG(r.Uint64(), 1))
	i := &faults.Injector{Choose: func(faults.Call) faults.Fault {
		mu.Lock()
		defer mu.Unlock()
		return chooseFault(often, choice)
	}}
	err := i.Run(cmd, nil)
	p.add(lostCalls, i.Lost.Load())
	p.add(interrupted, i.Interrupted.Load())
	return err
}

// chooseFault returns a fault for one call in some; for none if often is 0.
func chooseFault(often int, r *rand.Rand) faults.Fault {
	switch {
	case often == 0 || r.IntN(often) > 0:
		return faults.None
	case r.IntN(2) == 0:
		return faults.Interrupted
	}
	return faults.Lost
}

// longestRun is how long a program may take on a machine that is busy. What netlink lost is waited for a minute by
// some.
const longestRun = 3 * time.Minute

// meshInit is a command of mesh-init for the pod.
func (p *pod) meshInit(verb string, c *intercept.Config) (cmd *exec.Cmd, done context.CancelFunc) {
	ctx, done := context.WithTimeout(context.Background(), longestRun)
	args := []string{verb, "--netns", p.lab.Pod.Path(), "--backend", string(p.backend), "--iptables-wait", "60s"}
	var stdin []byte
	if c != nil {
		args = append(args, "--config", "-")
		stdin = must(file(*c))
	}
	cmd = exec.CommandContext(ctx, p.tools.path("mesh-init"), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd, done
}

// meshCNI is a call of the plugin for the pod.
func (p *pod) meshCNI(command string, c intercept.Config) (cmd *exec.Cmd, done context.CancelFunc) {
	ctx, done := context.WithTimeout(context.Background(), longestRun)
	cmd = exec.CommandContext(ctx, p.tools.path("mesh-cni"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + command, "CNI_CONTAINERID=0123456789ab",
		"CNI_NETNS=" + p.lab.Pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + p.tools.dir,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_UID=u1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + p.name}
	cmd.Stdin = bytes.NewReader(must(json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "pods", "type": "mesh-cni", "logFile": "", "backend": p.backend,
		"defaults":     json.RawMessage(must(file(c))),
		"capabilities": map[string]bool{annotations: true},
		"runtimeConfig": map[string]any{annotations: map[string]string{
			"kubernetes.io/config.source": "api", "intercept.mesh/enabled": "true"}},
		"prevResult": map[string]any{"cniVersion": "1.0.0", "ips": []any{map[string]string{"address": "10.244.0.5/24"}}},
	})))
	return cmd, done
}

const annotations = "io.kubernetes.cri.pod-annotations"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
