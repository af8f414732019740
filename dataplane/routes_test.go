//go:build linux

package dataplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// tproxy is the default configuration in mode tproxy.
func tproxy() intercept.Config {
	c := intercept.Default()
	c.Inbound.Mode = intercept.InboundTProxy
	return c
}

// routing are all routing rules and routes of a namespace, without those of
// link-local addresses, which come by themselves, and late, and those of bound
// sockets and of the proxy's source, which have tests of their own.
func routing(t *testing.T, netns string) string {
	t.Helper()
	return run(t, netns, "sh", "-ec",
		"for f in -4 -6; do ip -d $f rule; ip -d $f route show table all; done | grep -v -e fe80: -e 'table local proto 177' -e 'local ::6 dev lo'")
}

// routed says which families a namespace has our rule and our route of, and
// fails if it has half of it, or something twice.
func routed(t *testing.T, netns string) (families string) {
	t.Helper()
	for _, flag := range []string{"-4", "-6"} {
		rules := strings.Count(run(t, netns, "ip", flag, "rule"), "fwmark 0x539 lookup 133")
		routes := strings.Count(run(t, netns, "ip", flag, "route", "show", "table", "all"), "local default dev lo table 133")
		if rules != routes || rules > 1 {
			t.Errorf("ip %s: %d rules, %d routes:\n%s", flag, rules, routes, routing(t, netns))
		}
		if rules == 1 {
			families += flag
		}
	}
	return families
}

// eachBackend runs a test in a lab with a transparent sidecar, by each backend.
func eachBackend(t *testing.T, test func(*testing.T, *netlab.Lab, Pod)) {
	t.Helper()
	needPrograms(t)
	for _, b := range concrete() {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true, Forward: netlab.ForwardOriginalSource,
				ForwardMark: 1337}); err != nil {
				t.Fatal(err)
			}
			test(t, lab, Pod{NetNS: lab.Pod.Path(), Backend: b})
		})
	}
}

// TestRenderedTextIsWhatApplyMakes: who loads the text by hand, rules and routes, has what check and remove know as
// ours.
func TestRenderedTextIsWhatApplyMakes(t *testing.T) {
	eachBackend(t, func(t *testing.T, lab *netlab.Lab, target Pod) {
		for name, c := range map[string]intercept.Config{"tproxy": tproxy(), "masked": func() intercept.Config {
			c := tproxy()
			c.Inbound.TProxy.Mark, c.Inbound.TProxy.Table = intercept.Mark{Value: 0x700, Mask: 0xf00}, 7000
			c.DNS.Mode = intercept.DNSAll
			return c
		}()} {
			rs, err := intercept.Compile(c)
			if err != nil {
				t.Fatal(err)
			}
			text, err := target.Render(rs)
			if err != nil {
				t.Fatal(err)
			}
			load(t, lab.Pod.Path(), target.Backend, text)
			if diffs, err := target.Check(t.Context(), c); err != nil || len(diffs) > 0 {
				t.Errorf("%s: %q, %v, of\n%s", name, diffs, err, text)
			}
			if removed, err := target.Remove(t.Context()); err != nil || !removed {
				t.Errorf("%s: removed: %v, %v", name, removed, err)
			}
			if left := routed(t, lab.Pod.Path()); left != "" || strings.Contains(routing(t, lab.Pod.Path()), "7000") {
				t.Errorf("%s: left behind: %s", name, routing(t, lab.Pod.Path()))
			}
		}
	})
}

// load does with a rendered text what its comments say.
func load(t *testing.T, netns string, b Backend, text string) {
	t.Helper()
	rules, routes, _ := strings.Cut(text, "# ip(8): ")
	parts := []string{"# IPv4: nft -f -\n" + rules}
	if b != BackendNFT {
		parts = strings.SplitAfter(rules, "COMMIT\n# ")
	}
	for _, part := range parts {
		part = "# " + strings.TrimSuffix(strings.TrimPrefix(part, "# "), "# ")
		first, _, _ := strings.Cut(part, "\n")
		program, _, _ := strings.Cut(strings.SplitN(first, ": ", 2)[1], ",")
		program = strings.Replace(program, "tables-", "tables"+strings.TrimPrefix(string(b), "iptables")+"-", 1)
		file := filepath.Join(t.TempDir(), "rules")
		if err := os.WriteFile(file, []byte(part), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, netns, "sh", "-ec", program+" < "+file)
	}
	for _, command := range strings.Split(strings.TrimSpace(routes), "\n#   ")[1:] {
		run(t, netns, "sh", "-ec", command)
	}
}

func expectApply(t *testing.T, target Pod, c intercept.Config, want intercept.Outcome) {
	t.Helper()
	if got, err := target.Apply(t.Context(), c); err != nil || got.Outcome != want {
		t.Fatalf("Apply: %+v, %v; want %s", got, err, want)
	}
	if diffs, err := target.Check(t.Context(), c); err != nil || len(diffs) > 0 {
		t.Errorf("Check after Apply: %v, %v", diffs, err)
	}
}

// expectTProxy sends a call through the sidecar, from and to its client's own
// address: without the routes it gets no answer.
func expectTProxy(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	for src, dst := range map[string]string{"203.0.113.9:0": "10.244.0.5:8080", "[2001:db8::9]:0": "[fd00:244::5]:8080"} {
		f := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Src: netip.MustParseAddrPort(src),
			Dst: netip.MustParseAddrPort(dst)}
		got, err := lab.Send(f)
		if err != nil || got.Fate.Action != intercept.Transparent || got.Role != netlab.RoleApp ||
			got.Client.Addr() != f.Src.Addr() {
			t.Errorf("%s: %s, %v", f, got, err)
		}
	}
}

// TestRoutes: routes and routing rules come and go with mode tproxy, by every
// backend, and leave others' alone.
func TestRoutes(t *testing.T) {
	eachBackend(t, func(t *testing.T, lab *netlab.Lab, target Pod) {
		netns := lab.Pod.Path()
		run(t, netns, "sh", "-ec", `for f in -4 -6; do
			ip $f rule add pref 7 fwmark 0x539 lookup 77
			ip $f route add local default dev lo table 77
			ip $f rule add fwmark 0x53b lookup 133
		done`)
		before := routing(t, netns)
		expectApply(t, target, intercept.Default(), intercept.Created)
		if got := routing(t, netns); got != before {
			t.Errorf("mode redirect changes routes:\n%s", cmp.Diff(before, got))
		}
		run(t, netns, "sh", "-ec", "for f in -4 -6; do ip $f rule del pref 7; ip $f route flush table 77; done")
		before = routing(t, netns)

		expectApply(t, target, tproxy(), intercept.Replaced)
		made := routing(t, netns)
		if got := routed(t, netns); got != "-4-6" {
			t.Errorf("mode tproxy has routes for %q:\n%s", got, made)
		}
		expectTProxy(t, lab)
		expectApply(t, target, tproxy(), intercept.Unchanged)
		excluded := tproxy()
		excluded.Inbound.ExcludePorts = append(excluded.Inbound.ExcludePorts, intercept.Port(9000))
		expectApply(t, target, excluded, intercept.Replaced)
		if diff := cmp.Diff(made, routing(t, netns)); diff != "" {
			t.Errorf("twice is not once:\n%s", diff)
		}

		other := tproxy()
		other.Inbound.TProxy.Table = 134
		other.Inbound.TProxy.Mark = intercept.Mark{Value: 0x100, Mask: 0xf00}
		other.Inbound.TProxy.SelfMark = intercept.Mark{Value: 0x200, Mask: 0xf00}
		expectApply(t, target, other, intercept.Replaced)
		if got := routing(t, netns); strings.Count(got, "fwmark 0x100/0xf00 lookup 134") != 2 ||
			strings.Count(got, "local default dev lo table 134") != 2 || strings.Count(got, "proto 177") != 4 {
			t.Errorf("another mark and table:\n%s", got)
		}

		ipv4 := tproxy()
		ipv4.Families = intercept.FamiliesIPv4
		expectApply(t, target, ipv4, intercept.Replaced)
		if got := routed(t, netns); got != "-4" {
			t.Errorf("IPv4 alone has routes for %q", got)
		}
		ipv4.OtherFamily = intercept.TreatmentReject
		expectApply(t, target, ipv4, intercept.Replaced)
		routed(t, netns)

		off := intercept.Default()
		off.Inbound.Mode = intercept.InboundOff
		for _, c := range []intercept.Config{intercept.Default(), off} {
			expectApply(t, target, tproxy(), intercept.Replaced)
			expectApply(t, target, c, intercept.Replaced)
			if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
				t.Errorf("mode %s leaves routes: -before +after\n%s", c.Inbound.Mode, diff)
			}
		}
		expectApply(t, target, tproxy(), intercept.Replaced)
		if removed, err := target.Remove(t.Context()); err != nil || !removed {
			t.Errorf("Remove: %v, %v", removed, err)
		}
		if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
			t.Errorf("Remove leaves routes: -before +after\n%s", diff)
		}
	})
}

// TestRoutesOfFailures: an Apply that fails leaves the routes as they were.
func TestRoutesOfFailures(t *testing.T) {
	needPrograms(t)
	other := tproxy()
	other.Inbound.TProxy.Table = 134
	expectFailure := func(t *testing.T, netns string, apply func(context.Context, intercept.Config) (Result, error),
		is error) {
		t.Helper()
		before := routing(t, netns)
		for _, c := range []intercept.Config{tproxy(), other} {
			if got, err := apply(t.Context(), c); !errors.Is(err, is) {
				t.Errorf("%+v, %v; want %v", got, err, is)
			}
			if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
				t.Errorf("-before +after\n%s", diff)
			}
		}
	}
	for _, earlier := range []bool{false, true} {
		for _, b := range concrete() {
			t.Run(fmt.Sprintf("%s, routes before %t", b, earlier), func(t *testing.T) {
				t.Parallel()
				netns := netlab.NewT(t, netlab.Options{}).Pod.Path()
				if earlier {
					expectApply(t, Pod{NetNS: netns, Backend: BackendNFT}, tproxy(), intercept.Created)
				}
				kernel := surroundings{refusals: append(noIPTables(), noNFTables())}.start(t)
				expectFailure(t, netns, func(ctx context.Context, c intercept.Config) (Result, error) {
					r, err := kernel.ask(request{Verb: "apply", Pod: Pod{NetNS: netns, Backend: b}, Config: &c})
					return r.Result, err
				}, intercept.ErrUnsupported)
			})
		}
	}
	netns := netlab.NewT(t, netlab.Options{}).Pod.Path()
	target := Pod{NetNS: netns, Backend: BackendNFT}
	// Somebody else has the table's name.
	run(t, netns, "nft", "add table inet mesh_intercept; add chain inet mesh_intercept theirs")
	expectFailure(t, netns, target.Apply, intercept.ErrForeign)
	run(t, netns, "nft", "delete table inet mesh_intercept")
	// Or its table of routes.
	run(t, netns, "ip", "route", "add", "unreachable", "default", "table", "133")
	run(t, netns, "ip", "-6", "route", "add", "unreachable", "default", "metric", "1024", "table", "134")
	expectFailure(t, netns, target.Apply, syscall.EEXIST)
	if _, err := target.Check(t.Context(), tproxy()); !errors.Is(err, intercept.ErrNotIntercepted) {
		t.Errorf("there are rules without routes: %v", err)
	}
}

// TestRoutesTampered: a rule or a route that somebody has taken away, or that
// a process that was killed has left behind, is named by Check and put right
// by Apply, the rules being as they should.
func TestRoutesTampered(t *testing.T) {
	eachBackend(t, func(t *testing.T, lab *netlab.Lab, target Pod) {
		netns := lab.Pod.Path()
		before := routing(t, netns)
		if _, err := target.Apply(t.Context(), tproxy()); err != nil {
			t.Fatal(err)
		}
		made := routing(t, netns)
		expect := func(c intercept.Config, want ...string) {
			t.Helper()
			diffs, err := target.Check(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range diffs {
				got = append(got, d.String())
			}
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Check: -expected +found\n%s", diff)
			}
		}
		for _, tampering := range []struct {
			lines string
			want  []string
		}{
			{"ip rule del fwmark 1337 lookup 133", []string{"IPv4 rule fwmark 0x539/0xffffffff lookup 133: missing"}},
			{"ip -6 rule del fwmark 1337 lookup 133", []string{"IPv6 rule fwmark 0x539/0xffffffff lookup 133: missing"}},
			{"ip route flush table 133", []string{"IPv4 route local default dev lo table 133: missing"}},
			{"ip -6 route flush table 133; ip rule del fwmark 1337",
				[]string{"IPv6 route local default dev lo table 133: missing",
					"IPv4 rule fwmark 0x539/0xffffffff lookup 133: missing"}},
		} {
			run(t, netns, "sh", "-ec", tampering.lines)
			expect(tproxy(), tampering.want...)
			if _, err := target.Apply(t.Context(), tproxy()); err != nil {
				t.Fatal(err)
			}
			expect(tproxy())
			if diff := cmp.Diff(made, routing(t, netns)); diff != "" {
				t.Errorf("%s: -before +put right\n%s", tampering.lines, diff)
			}
		}
		expectTProxy(t, lab)

		// Killed between the rules, which are new, and the old routes.
		leftover := func(c intercept.Config) {
			t.Helper()
			run(t, netns, "sh", "-ec", `for f in -4 -6; do
				ip $f route add local default dev lo table 133 proto 177
				ip $f rule add pref 100 fwmark 1337 lookup 133 proto 177
			done`)
			if diff := cmp.Diff(made, routing(t, netns)); diff != "" {
				t.Fatalf("that is not what is left behind:\n%s", diff)
			}
			if c.Inbound.Mode == "" {
				return
			}
			expect(c, "IPv4 rule fwmark 0x539/0xffffffff lookup 133: not part of this configuration",
				"IPv4 route local default dev lo table 133: not part of this configuration",
				"IPv6 rule fwmark 0x539/0xffffffff lookup 133: not part of this configuration",
				"IPv6 route local default dev lo table 133: not part of this configuration")
			if _, err := target.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			expect(c)
			if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
				t.Errorf("mode %s: Apply keeps what was left behind:\n%s", c.Inbound.Mode, diff)
			}
		}
		if _, err := target.Apply(t.Context(), intercept.Default()); err != nil {
			t.Fatal(err)
		}
		leftover(intercept.Default())
		if _, err := target.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Killed between the rules, which are gone, and their routes.
		leftover(intercept.Config{})
		if removed, err := target.Remove(t.Context()); err != nil || !removed {
			t.Errorf("Remove of routes alone: %v, %v", removed, err)
		}
		if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
			t.Errorf("Remove keeps what was left behind:\n%s", diff)
		}
		leftover(intercept.Config{})
		if _, err := target.Apply(t.Context(), intercept.Default()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
			t.Errorf("the first Apply keeps what was left behind:\n%s", diff)
		}
	})
}

// TestRoutesOfAnother: to remove the rules of one backend, which has none,
// takes no routes away from another's.
func TestRoutesOfAnother(t *testing.T) {
	needPrograms(t)
	lab := netlab.NewT(t, netlab.Options{})
	netns := lab.Pod.Path()
	expectApply(t, Pod{NetNS: netns, Backend: BackendIPTablesLegacy}, tproxy(), intercept.Created)
	if removed, err := (Pod{NetNS: netns, Backend: BackendNFT}).Remove(t.Context()); err != nil || removed {
		t.Errorf("Remove: %v, %v", removed, err)
	}
	if diffs, err := (Pod{NetNS: netns, Backend: BackendIPTablesLegacy}).Check(t.Context(), tproxy()); err != nil ||
		len(diffs) > 0 {
		t.Errorf("Check: %v, %v", diffs, err)
	}
}

// TestRoutesKilled: whenever a process is killed while it applies, the next
// Apply leaves what it would have left without that, and Remove nothing.
func TestRoutesKilled(t *testing.T) {
	eachBackend(t, func(t *testing.T, lab *netlab.Lab, target Pod) {
		netns := lab.Pod.Path()
		configs, want := []intercept.Config{intercept.Default(), tproxy()}, []string{routing(t, netns), ""}
		var took time.Duration
		for i := range configs {
			start := time.Now()
			if _, err := target.Apply(t.Context(), configs[i]); err != nil {
				t.Fatal(err)
			}
			took = time.Since(start)
			want[i] = routing(t, netns)
		}
		for i := range 12 {
			killWhileApplying(t, target, configs, 1+i%3, took*time.Duration(i)/12)
			n := i / 3 % 2
			if _, err := target.Apply(t.Context(), configs[n]); err != nil {
				t.Fatal(err)
			}
			if diffs, err := target.Check(t.Context(), configs[n]); err != nil || len(diffs) > 0 {
				t.Errorf("killed %d times, mode %s: %v, %v", i+1, configs[n].Inbound.Mode, diffs, err)
			}
			if diff := cmp.Diff(want[n], routing(t, netns)); diff != "" {
				t.Errorf("killed %d times, mode %s: -expected +found\n%s", i+1, configs[n].Inbound.Mode, diff)
			}
		}
		killWhileApplying(t, target, configs, 2, took/2)
		if _, err := target.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[0], routing(t, netns)); diff != "" {
			t.Errorf("Remove: -before +after\n%s", diff)
		}
	})
}

// TestRoutesHalfMade: who is killed between a route and its rule, or after the
// routes and before the rules of packets, leaves nothing for good.
func TestRoutesHalfMade(t *testing.T) {
	eachBackend(t, func(t *testing.T, lab *netlab.Lab, target Pod) {
		netns := lab.Pod.Path()
		expectApply(t, target, intercept.Default(), intercept.Created)
		before := routing(t, netns)
		for _, left := range []string{
			"ip route add local default dev lo table 133 proto 177",
			"ip -6 route add local default dev lo table 133 proto 177",
			"ip rule add fwmark 0x539 lookup 133 priority 100 protocol 177",
		} {
			run(t, netns, "sh", "-ec", left)
			expectApply(t, target, intercept.Default(), intercept.Replaced)
			if diff := cmp.Diff(before, routing(t, netns)); diff != "" {
				t.Errorf("%s: -before +after\n%s", left, diff)
			}
		}
	})
}

// TestRoutesStayWithRules: rules that were written, and then changed by somebody
// before they were read back, still have the routes that they lead to.
func TestRoutesStayWithRules(t *testing.T) {
	needPrograms(t)
	lab := netlab.NewT(t, netlab.Options{})
	real, err := exec.LookPath("iptables-legacy-save")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := "#!/bin/sh\nXTABLES_LOCKFILE=" + dir +
		"/theirs iptables-legacy -t nat -D OUTPUT -m comment --comment Intercept -j MESH_OUTPUT 2>/dev/null\nexec " + real +
		" \"$@\"\n"
	if err := os.WriteFile(dir+"/iptables-legacy-save", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	got, err := Pod{NetNS: lab.Pod.Path(), Backend: BackendIPTablesLegacy}.Apply(t.Context(), tproxy())
	if err == nil || !strings.Contains(err.Error(), "does not hold what it was given") {
		t.Errorf("Apply: %+v, %v", got, err)
	}
	if families := routed(t, lab.Pod.Path()); families != "-4-6" {
		t.Errorf("routes of %q", families)
	}
}

// killWhileApplying has a process apply configurations in turn, lets it finish
// some, and kills it a while later.
func killWhileApplying(t *testing.T, target Pod, configs []intercept.Config, finished int, later time.Duration) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), elsewhereVariable+"=1")
	var requests bytes.Buffer
	for i := range finished + 20 {
		if err := json.NewEncoder(&requests).Encode(
			request{Verb: "apply", Pod: target, Config: &configs[i%len(configs)]}); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Stdin = &requests
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	replies := json.NewDecoder(out)
	for range finished {
		var r reply
		if err := replies.Decode(&r); err != nil || r.Error != "" {
			t.Errorf("apply: %s, %v", r.Error, err)
		}
	}
	<-time.After(later)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it was not killed in time: %v", err)
	}
}

// TestSource: a proxy can call the app from ::6 where the pod has IPv6, as soon as there are rules and for as long as there
// are. What it is called by then is not captured.
func TestSource(t *testing.T) {
	eachBackend(t, func(t *testing.T, lab *netlab.Lab, target Pod) {
		addresses := func() string {
			t.Helper()
			return run(t, lab.Pod.Path(), "ip", "-6", "address", "show", "dev", "lo")
		}
		before := addresses()
		outbound := intercept.Default()
		outbound.Inbound.Mode = intercept.InboundOff
		ipv4 := intercept.Default()
		ipv4.Families = intercept.FamiliesIPv4
		for _, c := range []intercept.Config{outbound, ipv4} {
			if _, err := target.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got := addresses(); got != before {
				t.Errorf("inbound %s, families %s: lo has %s", c.Inbound.Mode, c.Families, got)
			}
		}
		for _, c := range []intercept.Config{intercept.Default(), tproxy()} {
			if _, err := target.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got := addresses(); strings.Count(got, "inet6 ::6/128") != 1 {
				t.Errorf("mode %s: lo has %s", c.Inbound.Mode, got)
			}
			got, err := lab.Send(netlab.Flow{Protocol: intercept.TCP, Src: netip.MustParseAddrPort("[::6]:0"),
				Dst: netip.MustParseAddrPort("[fd00:244::5]:8080"), Owner: &intercept.Owner{UID: 1337, GID: 1337}})
			if err != nil || got.Fate.Action != intercept.Pass {
				t.Errorf("mode %s: %v, %v", c.Inbound.Mode, got, err)
			}
		}
		if _, err := target.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := addresses(); got != before {
			t.Errorf("after Remove lo has %s", got)
		}
	})
}
