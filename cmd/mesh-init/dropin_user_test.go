//go:build linux

package main

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestDropInsWithLess: what users with few privileges can do under the names of other meshes' programs.
func TestDropInsWithLess(t *testing.T) {
	netlab.Require(t)
	program := built(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for _, line := range []string{"link set lo up", "address add 10.9.9.9/32 dev lo"} {
		cmd := exec.Command("ip", strings.Fields(line)...)
		if err := errors.Join(ns.Start(cmd, nil), cmd.Wait()); err != nil {
			t.Fatal(err)
		}
	}
	run := func(uid uint32, want int, line, says string, caps ...uintptr) {
		t.Helper()
		out, errOut, got := runAs(t, ns, uid, caps, program, line)
		if out += errOut; got != want || !strings.Contains(out, says) {
			t.Errorf("%s: exit code %d, want %d, and %q in\n%s", line, got, want, says, out)
		}
	}
	const admin = unix.CAP_NET_ADMIN
	run(0, 0, "kuma --kuma-dp-user 7777", "created", admin)
	run(7777, 0, "kuma install transparent-proxy-validator", "the rules are in force")
	run(65534, 0, "kuma uninstall transparent-proxy", "rules of Kuma, if there are any, stay", admin)
	run(65534, 0, asIstio, "created", admin)
	run(65534, 0, "istio-iptables --cleanup-only", "rules of Istio, if there are any, stay", admin, unix.CAP_NET_RAW)
	run(65534, 10, "status", "none of our rules", admin)
	run(65534, 13, asIstio+" --network-namespace "+ns.Path(), "no permission", admin)
	run(65534, 13, "istio-iptables --cleanup-only --network-namespace "+ns.Path(), "no permission", admin)
}
