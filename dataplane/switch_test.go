//go:build linux

package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// others are rules that other people have in a pod, by either variant of
// iptables and by nft, in tables and base chains that ours stand in, too.
const others = `*raw
:THEIRS - [0:0]
-A OUTPUT -p udp -j THEIRS
-A THEIRS -d 192.0.2.7/32 -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DOCKER
-A DOCKER -p tcp -j DNAT --to-destination 192.0.2.2:8080
-A OUTPUT -d 192.0.2.3/32 -m comment --comment "not MESH" -j ACCEPT
COMMIT
`

const others6 = `*nat
:DOCKER - [0:0]
-A PREROUTING -d 2001:db8:2::1/128 -p tcp -m tcp --dport 80 -j DOCKER
-A DOCKER -p tcp -j REDIRECT --to-ports 8080
COMMIT
`

const othersNFT = `table inet theirs { chain nat { type nat hook output priority -100; ip daddr 192.0.2.3 accept; }; }`

// putOthers puts them into a namespace.
func putOthers(t *testing.T, netns string) {
	t.Helper()
	for _, v := range []string{"nft", "legacy"} {
		load := func(program, text string) {
			run(t, netns, "sh", "-c", program+"-restore --wait=60 --noflush <<'END'\n"+text+"END")
		}
		load("iptables-"+v, others)
		load("ip6tables-"+v, others6)
	}
	run(t, netns, "nft", othersNFT)
}

// contents is all that is in a namespace, without what only says when it was
// listed or written, and without empty legacy tables, which the kernel keeps.
func contents(t *testing.T, netns string) string {
	t.Helper()
	var b strings.Builder
	for _, program := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		// A table is from its * to its COMMIT.
		for table := range strings.SplitSeq(run(t, netns, program), "COMMIT\n") {
			if !strings.Contains(table, "-A ") && !strings.Contains(table, " - [0:0]") {
				continue
			}
			for line := range strings.Lines(table) {
				if line[0] != '#' && !strings.Contains(line, `"note `) {
					b.WriteString(program + " " + line)
				}
			}
		}
	}
	for line := range strings.Lines(run(t, netns, "nft", "--stateless", "list", "ruleset")) {
		// Whose chains there were is of the moment of an apply: the empty tables of iptables-nft count.
		if line[0] != '#' && !strings.Contains(line, `"note `) && !strings.Contains(line, `comment "older chains:`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// marks are what each backend leaves in contents.
func marks(b Backend) string {
	return map[Backend]string{
		BackendNFT:            "table inet mesh_intercept",
		BackendIPTablesNFT:    "\tchain MESH_",
		BackendIPTablesLegacy: "tables-legacy-save :MESH_",
	}[b]
}

// TestSwitch: whatever backend was there before, after an Apply by another the
// namespace is as if it had been the first. Other people's rules stay, and
// Remove leaves them alone.
func TestSwitch(t *testing.T) {
	needPrograms(t)
	netlab.Require(t)
	for _, beside := range []bool{false, true} {
		start := func(t *testing.T) string {
			t.Helper()
			ns, err := netlab.NewNamespace()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.Close() })
			if beside {
				putOthers(t, ns.Path())
			}
			return ns.Path()
		}
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll // for the raw table
		apply := func(t *testing.T, netns string, b Backend, want intercept.Outcome) {
			t.Helper()
			if got, err := (Pod{NetNS: netns, Backend: b}).Apply(t.Context(), c); err != nil || got.Outcome != want {
				t.Fatalf("apply by %s: %+v, %v", b, got, err)
			}
		}
		for _, to := range concrete() {
			t.Run(fmt.Sprintf("to %s, beside others %t", to, beside), func(t *testing.T) {
				t.Parallel()
				netns := start(t)
				before := contents(t, netns)
				apply(t, netns, to, intercept.Created)
				want := contents(t, netns)
				for _, from := range concrete() {
					if strings.Contains(want, marks(from)) != (from == to) {
						t.Fatalf("by %s alone there is:\n%s", to, want)
					}
					if from == to {
						continue
					}
					netns := start(t)
					apply(t, netns, from, intercept.Created)
					apply(t, netns, to, intercept.Replaced)
					if diff := cmp.Diff(want, contents(t, netns)); diff != "" {
						t.Errorf("from %s: -never there +replaced\n%s", from, diff)
					}
					if removed, err := (Pod{NetNS: netns}).Remove(t.Context()); err != nil || !removed {
						t.Errorf("from %s: remove: %v, %v", from, removed, err)
					}
					if diff := cmp.Diff(before, contents(t, netns)); diff != "" {
						t.Errorf("from %s: -before all +removed\n%s", from, diff)
					}
				}
			})
		}
	}
}

// TestSwitchListsNoneOfOurs: what another backend of ours had put there is none of others.
func TestSwitchListsNoneOfOurs(t *testing.T) {
	for _, from := range []Backend{BackendIPTablesNFT, BackendIPTablesLegacy} {
		t.Run(string(from), func(t *testing.T) {
			lab := netlab.NewT(t, netlab.Options{})
			for _, backend := range []Backend{from, BackendNFT} {
				pod := Pod{NetNS: lab.Pod.Path(), Backend: backend}
				r, err := pod.Apply(t.Context(), intercept.Default())
				if err != nil {
					t.Fatal(err)
				}
				if len(r.Foreign.Chains) > 0 || slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "chain ") }) {
					t.Errorf("after %s: %+v, %q", backend, r.Foreign.Chains, r.Warnings)
				}
			}
		})
	}
}

// TestSwitchUnderLoad: while one backend takes over from another, again and
// again, every new connection is captured, of either direction and family, and
// every lookup gets to the proxy's resolver.
func TestSwitchUnderLoad(t *testing.T) {
	needPrograms(t)
	lab, c := newLab(t), intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	apply := func(b Backend) {
		t.Helper()
		if got, err := (Pod{NetNS: lab.Pod.Path(), Backend: b}).Apply(t.Context(), c); err != nil ||
			got.Outcome == intercept.Unchanged {
			t.Fatalf("apply by %s: %+v, %v", b, got, err)
		}
	}
	apply(BackendNFT)

	flows := []expectation{}
	for _, e := range expectations(intercept.IPv4, intercept.IPv6) {
		if e.flow.Owner != proxy {
			flows = append(flows, e)
		}
	}
	flows = append(flows, expectation{
		netlab.Flow{Protocol: intercept.UDP, Dst: netip.MustParseAddrPort("10.96.0.10:53"), Owner: app},
		intercept.RedirectedTo(15053)})
	ctx, stop := context.WithCancel(t.Context())
	var captured atomic.Int64
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for _, e := range flows {
		clients.Go(func() {
			for ctx.Err() == nil && !t.Failed() {
				if got, err := lab.Send(e.flow); err != nil || got.Fate != e.fate {
					t.Errorf("%s: %s, %v; want %s", e.flow, got, err, e.fate)
				}
				captured.Add(1)
			}
		})
	}
	for range 2 {
		for _, b := range []Backend{BackendIPTablesLegacy, BackendIPTablesNFT, BackendNFT, BackendIPTablesNFT,
			BackendIPTablesLegacy, BackendNFT} {
			// Each takes over while there are connections.
			for goal := captured.Load() + 200; captured.Load() < goal && !t.Failed(); {
				<-time.After(time.Millisecond)
			}
			apply(b)
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d connections captured", captured.Load())
}

// TestPanicIsTheCallers: a panic in a namespace comes out where the caller can
// recover it, and the process is where it was.
func TestPanicIsTheCallers(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	s, err := Open(t.Context(), Pod{NetNS: ns.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "oh") ||
					!strings.Contains(fmt.Sprint(r), "switch_test.go") {
					t.Errorf("recovered %v", r)
				}
			}()
			_ = s.do(t.Context(), func() error { panic("oh") })
		}()
	}
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != before {
		t.Errorf("the process is in %s, %v", now, err)
	}
}
