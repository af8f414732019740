//go:build linux

package dataplane

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// toLoopback sends lookups from behind the pod to a resolver at a loopback
// address.
func toLoopback() intercept.Config {
	c := intercept.Default()
	c.Families = intercept.FamiliesIPv4
	c.VirtualInterfaces = []string{"br-*"}
	c.DNS.Mode = intercept.DNSAll
	c.DNS.Target = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15053")}
	return c
}

// TestSysctls: a sysctl that is not as the configuration needs it is named,
// with what to do, before anything is changed. It is set if that is allowed,
// where it is needed, and nowhere else.
func TestSysctls(t *testing.T) {
	needPrograms(t)
	netlab.Require(t)
	for _, b := range concrete() {
		t.Run(string(b), func(t *testing.T) {
			ns, err := netlab.NewNamespace()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.Close() })
			target := Pod{NetNS: ns.Path(), Backend: b}
			run(t, ns.Path(), "sh", "-ec", `ip link set lo up
				for i in br-a br-b.5 other; do ip link add $i type bridge; done`)
			values := func() string {
				return run(t, ns.Path(), "sh", "-c", "cd /proc/sys/net/ipv4/conf && grep . */route_localnet")
			}
			before := values()
			if got, err := target.Apply(t.Context(), toLoopback()); err == nil {
				t.Errorf("Apply: %+v", got)
			} else {
				says(t, "Apply", err, intercept.ErrUnsupported, "net/ipv4/conf/br-a/route_localnet is 0",
					"net/ipv4/conf/br-b.5/route_localnet is 0",
					"has to be 1", "127.0.0.0/8", "has to be 1")
				if strings.Contains(err.Error(), "other") {
					t.Errorf("Apply: %v", err)
				}
			}
			untouched(t, ns.Path(), "an Apply that wants a sysctl")
			if got := values(); got != before {
				t.Errorf("an Apply that may not has set sysctls:\n%s", got)
			}

			target.SetSysctls = true
			expectApply(t, target, toLoopback(), intercept.Created)
			if got := values(); strings.Count(got, ":1\n") != 2 || !strings.Contains(got, "br-a/route_localnet:1\n") ||
				!strings.Contains(got, "br-b.5/route_localnet:1\n") {
				t.Errorf("Apply has set:\n%s", got)
			}
			target.SetSysctls = false
			expectApply(t, target, toLoopback(), intercept.Unchanged)

			// The kernel asks whether it is set for the interface or for all.
			run(t, ns.Path(), "sh", "-ec", "cd /proc/sys/net/ipv4/conf; echo 0 > br-a/route_localnet; echo 1 > "+
				"all/route_localnet; echo 0 > br-b.5/route_localnet")
			expectApply(t, target, toLoopback(), intercept.Unchanged)
			run(t, ns.Path(), "sh", "-ec", "echo 0 > /proc/sys/net/ipv4/conf/all/route_localnet")

			for name, change := range map[string]func(*intercept.Config){
				"the pod's own lookups": func(c *intercept.Config) { c.VirtualInterfaces = nil },
				"another interface":     func(c *intercept.Config) { c.VirtualInterfaces = []string{"docker0"} },
				"a target elsewhere": func(c *intercept.Config) {
					c.DNS.Target = []netip.AddrPort{netip.MustParseAddrPort("169.254.20.10:53")}
				},
				"no target": func(c *intercept.Config) { c.DNS.Target = nil },
			} {
				c := toLoopback()
				change(&c)
				if _, err := target.Apply(t.Context(), c); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			c := intercept.Default()
			c.Families = intercept.FamiliesIPv4
			c.Inbound.Mode = intercept.InboundOff
			c.VirtualInterfaces = []string{"other"}
			c.Outbound.Target = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15001")}
			if _, err := target.Apply(t.Context(), c); err == nil {
				t.Error("a proxy at a loopback address needs no sysctl")
			} else {
				says(t, "Apply", err, intercept.ErrUnsupported, "net/ipv4/conf/other/route_localnet is 0")
			}
		})
	}
}

// TestCloseWait: it is set with the rules and not put back with them, and where the rules fail it is as before.
func TestCloseWait(t *testing.T) {
	needPrograms(t)
	for _, b := range concrete() {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			ns, err := netlab.NewNamespace()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.Close() })
			value := func() string { return strings.TrimSpace(run(t, ns.Path(), "cat", "/proc/sys/"+closeWait)) }
			was := value()
			target := Pod{NetNS: ns.Path(), Backend: b, CloseWait: time.Hour + time.Second}
			if was == "3601" {
				t.Fatal("it is so by itself")
			}
			expectApply(t, target, intercept.Default(), intercept.Created)
			if got := value(); got != "3601" {
				t.Errorf("it is %s", got)
			}
			target.CloseWait = 0
			expectApply(t, target, intercept.Default(), intercept.Unchanged)
			if _, err := target.Remove(t.Context()); err != nil || value() != "3601" {
				t.Errorf("%v; it is %s", err, value())
			}
			target.CloseWait = time.Millisecond
			if _, err := target.Apply(t.Context(), intercept.Default()); err == nil {
				t.Error("a millisecond is no number of seconds")
			}
			target.CloseWait = time.Minute
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := target.Apply(ctx, intercept.Default()); err == nil || value() != "3601" {
				t.Errorf("a failure: %v; it is %s", err, value())
			}
		})
	}
}

// TestSysctlIsNeeded: with the sysctl a machine behind the pod is answered
// from a loopback address of the pod's, and without it not.
func TestSysctlIsNeeded(t *testing.T) {
	needPrograms(t)
	for _, b := range concrete() {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{VM: true})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			target := Pod{NetNS: lab.Pod.Path(), Backend: b, SetSysctls: true}
			if _, err := target.Apply(t.Context(), toLoopback()); err != nil {
				t.Fatal(err)
			}
			for _, p := range []intercept.Protocol{intercept.UDP, intercept.TCP} {
				f := netlab.Flow{From: netlab.FromVM, Protocol: p, Dst: netip.MustParseAddrPort("10.96.0.10:53")}
				if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleDNS || got.Local.String() != "127.0.0.1:15053" {
					t.Errorf("%s: %s, %v", f, got, err)
				}
				run(t, lab.Pod.Path(), "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/br-vm/route_localnet")
				f.Timeout = 100 * time.Millisecond
				if got, err := lab.Send(f); err != nil || got.Fate.Action != intercept.Dropped {
					t.Errorf("%s without the sysctl: %s, %v", f, got, err)
				}
				run(t, lab.Pod.Path(), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/br-vm/route_localnet")
			}
		})
	}
}
