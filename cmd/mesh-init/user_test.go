//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/testing/netlab"
	builder "github.com/mesh-intercept/intercept/testing/program"
)

// built builds the program as it ships, where every user can run it.
func built(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mesh-init-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "mesh-init")
	if err := errors.Join(os.Chmod(dir, 0o755), builder.Build(path, "cmd/mesh-init")); err != nil {
		t.Fatal(err)
	}
	return path
}

// runAs runs a program in a namespace as a user, and group, who has these capabilities and no others.
func runAs(t *testing.T, ns *netlab.Namespace, uid uint32, caps []uintptr, program, args string, env ...string) (
	out, errOut string, code int) {
	t.Helper()
	cmd := exec.Command(program, strings.Fields(args)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, append(env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, AmbientCaps: caps}
	if err := ns.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// TestUnprivileged holds what a user without privilege is told, and what works
// for everybody.
func TestUnprivileged(t *testing.T) {
	netlab.Require(t)
	program := built(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for args, code := range map[string]int{
		"help": 0, "version -o yaml": 0, "render": 0, "explain --dst 10.1.2.3:443": 0, "completion bash": 0,
		"apply --dry-run": 0,
		"apply":           13, "remove": 13, "check": 13, "status": 13, "verify": 13, "doctor": 13,
		"trace": 13, "watch": 13, "explain --live --dst 10.1.2.3:443": 13,
		"apply -n /proc/1/ns/net": 13, "apply --dns on": 2,
	} {
		switch out, said, got := runAs(t, ns, 65534, nil, program, args); {
		case got != code:
			t.Errorf("%s: exit code %d, want %d\n%s%s", args, got, code, out, said)
		case code == cli.ExitDone && (said != "" || out == ""):
			t.Errorf("%s: output %q, standard error %q", args, out, said)
		case code != cli.ExitDone && (strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "mesh-init: ")):
			t.Errorf("%s: standard error %q", args, said)
		case args == "status" && (!strings.HasPrefix(out, "unknown: the rules may not be looked at; ") ||
			!strings.Contains(out, "15001/tcp  outbound  nobody\n")):
			t.Errorf("%s: output %q", args, out)
		case code == 13 && !strings.Contains(said, "permission"):
			t.Errorf("%s: standard error %q", args, said)
		}
	}
}

// TestClosedPipe holds that a reader who has gone ends the program as it ends
// others, by SIGPIPE and without a word.
func TestClosedPipe(t *testing.T) {
	program := built(t)
	for _, args := range [][]string{{"render"}, {"render", "-o", "yaml"}, {"help"}, {"version"}, {"completion", "bash"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd := exec.Command(program, args...)
		var errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &errOut
		_ = cmd.Run()
		w.Close()
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() || status.Signal() != syscall.SIGPIPE || errOut.Len() > 0 {
			t.Errorf("%q: %v, %q", args, cmd.ProcessState, &errOut)
		}
	}
}

// TestNetAdminAlone: with nftables CAP_NET_ADMIN is all that it takes, as any user; what another privilege is needed
// for is said.
func TestNetAdminAlone(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "iptables-nft-restore")
	netlab.RequireProgram(t, "iptables-legacy-restore")
	program := built(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	up := exec.Command("ip", "link", "set", "lo", "up")
	if err := errors.Join(ns.Start(up, nil), up.Wait()); err != nil {
		t.Fatal(err)
	}
	with := func(want int, caps []uintptr, args, says string) {
		t.Helper()
		out, errOut, got := runAs(t, ns, 65532, caps, program, args)
		if out += errOut; got != want || !strings.Contains(out, says) {
			t.Errorf("%s: exit code %d, want %d, and %q in\n%s", args, got, want, says, out)
		}
	}
	admin := []uintptr{unix.CAP_NET_ADMIN}
	for _, flags := range []string{"", " --backend nft", " --inbound-mode tproxy --dns all", " --backend iptables-nft"} {
		with(map[bool]int{true: 13}[strings.Contains(flags, "iptables")], admin, "doctor"+flags, "CAP_DAC_READ_SEARCH")
		with(0, admin, "apply"+flags, "created: ")
		with(0, admin, "apply"+flags, "unchanged: ")
		with(0, admin, "check"+flags, "ok")
		with(0, admin, "status -o wide", "O12")
		with(0, admin, "remove", "removed")
		with(10, admin, "status", "as far as can be seen: ")
		with(10, admin, "check"+flags, "CAP_DAC_READ_SEARCH")
		with(0, admin, "remove", "nothing to remove")
		with(0, admin, "remove", "that this user cannot see")
	}
	raw := append(admin, unix.CAP_NET_RAW)
	with(13, admin, "apply --backend iptables-legacy", "CAP_DAC_READ_SEARCH")
	with(13, append(admin, unix.CAP_DAC_READ_SEARCH), "apply --backend iptables-legacy", "CAP_NET_RAW")
	with(13, raw, "apply --backend iptables-legacy", "CAP_DAC_READ_SEARCH")
	with(13, raw, "apply --netns "+ns.Path(), "permission")
	with(10, append(raw, unix.CAP_DAC_READ_SEARCH), "status", "none of our rules")
	with(0, append(raw, unix.CAP_DAC_READ_SEARCH), "apply --backend iptables-legacy", "created: ")
	with(0, admin, "apply", "of an earlier apply, would stay")
	with(0, append(raw, unix.CAP_DAC_READ_SEARCH), "apply", "unchanged: ") // and the others are gone
	with(0, append(raw, unix.CAP_DAC_READ_SEARCH), "check", "ok")
}
