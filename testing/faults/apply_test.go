//go:build linux

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// site is a namespace with an interface, in which mesh-init writes rules.
type site struct {
	*testing.T
	*netlab.Namespace
	meshInit string
	backend  dataplane.Backend
}

// sh runs lines of shell in the namespace.
func (s site) sh(lines string) string {
	s.Helper()
	var out strings.Builder
	cmd := exec.Command("sh", "-ec", lines)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := s.Start(cmd, nil)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		s.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}

// routing is all that there is to route by.
func (s site) routing() string {
	s.Helper()
	return s.sh(`for f in -4 -6; do ip $f rule; ip $f route show table all; done | grep -v fe80:`)
}

// contents are all routes and rules, without what they have counted.
func (s site) contents() string {
	s.Helper()
	return s.routing() + s.sh(`nft -s list ruleset
		for p in iptables ip6tables; do $p-legacy-save | grep -e ^-A -e '^:.* - ' | sed 's/\[.*\]//'; done || true`)
}

// run runs mesh-init, of which call n has a fault: none, if n is negative. It returns how many there
// were.
func (s site) run(n int, what Fault, verb string, c *intercept.Config) (out string, calls int, err error) {
	s.Helper()
	// What was lost is waited for, by programs that have no patience of their own.
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	args := []string{verb, "--netns", s.Path(), "--backend", string(s.backend)}
	cmd := exec.CommandContext(ctx, s.meshInit, args...)
	if c != nil {
		text, err := json.Marshal(c)
		if err != nil {
			s.Fatal(err)
		}
		cmd.Args = append(cmd.Args, "--config", "-")
		cmd.Stdin = bytes.NewReader(text)
	}
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	i := &Injector{Choose: func(c Call) Fault {
		if c.N != n {
			return None
		}
		return what
	}}
	err = i.Run(cmd, nil)
	return b.String(), int(i.Calls.Load()), err
}

// must runs mesh-init without a fault, and returns how many calls it has.
func (s site) must(verb string, c *intercept.Config) (calls int) {
	s.Helper()
	out, calls, err := s.run(-1, None, verb, c)
	if err != nil {
		s.Fatalf("%s: %v\n%s", verb, err, out)
	}
	return calls
}

// TestEachCall: whichever of mesh-init's netlink calls fails, in the end there is what it says that there is: all of
// what it was asked for, or what was there before, rules and routes.
func TestEachCall(t *testing.T) {
	netlab.Require(t)
	for _, name := range []string{"ip", "nft", "iptables-nft-restore", "iptables-legacy-restore"} {
		netlab.RequireProgram(t, name)
	}
	meshInit := filepath.Join(t.TempDir(), "mesh-init")
	if err := program.Build(meshInit, "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	first, second := intercept.Default(), intercept.Default()
	second.Inbound.Mode, second.DNS.Mode = intercept.InboundTProxy, intercept.DNSAll
	for i := range byte(40) { // so long that the backends of iptables have sets for them
		second.Outbound.ExcludeCIDRs = append(second.Outbound.ExcludeCIDRs,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, i, 0}), 25),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xee, i}), 25))
	}
	for _, b := range []dataplane.Backend{dataplane.BackendNFT, dataplane.BackendIPTablesNFT,
		dataplane.BackendIPTablesLegacy} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			ns, err := netlab.NewNamespace()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.Close() })
			s := site{t, ns, meshInit, b}
			s.sh("ip link set lo up; ip link add eth0 type veth peer name other; ip link set eth0 up")
			nothing := s.contents()
			want := map[*intercept.Config]string{}
			for _, c := range []*intercept.Config{&first, &second} {
				s.must("remove", nil)
				s.must("apply", c)
				want[c] = s.routing()
			}
			s.eachCall(Lost, &first, &second, want)
			s.eachCall(Interrupted, &second, &first, want)
			s.eachRemoval(&second, nothing)
		})
	}
}

// most is how many of the calls are tried: each takes two runs of mesh-init, of which one by iptables-nft has several
// hundred calls.
const most = 30

// each yields calls of all, those that are tried.
func each(all int) iter.Seq[int] {
	return func(yield func(int) bool) {
		step := all/most | 1 // odd, for most programs send and receive in turn
		for n := 0; n < all && yield(n); n += step {
		}
	}
}

// eachCall replaces one configuration by another.
func (s site) eachCall(what Fault, from, to *intercept.Config, want map[*intercept.Config]string) {
	s.Helper()
	s.must("apply", from)
	all := s.must("apply", to)
	tried, failed := 0, 0
	for n := range each(all) {
		s.must("apply", from)
		out, _, err := s.run(n, what, "apply", to)
		tried++
		in := to
		if err != nil {
			failed++
			in = from
		}
		should := want[in]
		if errors.Is(err, context.DeadlineExceeded) || err != nil && strings.TrimSpace(out) == "" {
			s.Errorf("call %d: %v, %q", n, err, out)
		}
		if strings.Contains(out, "are written") || strings.Contains(out, "could not be undone") ||
			strings.Contains(out, "does not hold") {
			continue // as it says
		}
		diffs, checkErr := dataplane.Pod{NetNS: s.Path(), Backend: s.backend}.Check(s.Context(), *in)
		if diff := cmp.Diff(should, s.routing()); diff != "" || len(diffs) > 0 || checkErr != nil {
			s.Fatalf("call %d of mesh-init fails with fault %d, and it says %q, %v: %v, %v; -expected +found\n%s", n, what, out,
				err, diffs, checkErr, diff)
		}
	}
	s.Logf("fault %d in each of %d calls, of which %d made it fail", what, tried, failed)
}

// eachRemoval removes a configuration.
func (s site) eachRemoval(c *intercept.Config, nothing string) {
	s.Helper()
	s.must("apply", c)
	for n := range each(s.must("remove", nil)) {
		s.must("apply", c)
		there := s.contents()
		out, _, err := s.run(n, Lost, "remove", nil)
		found := s.contents()
		if err == nil && found != nothing || err != nil && found == nothing {
			s.Fatalf("call %d of mesh-init remove fails, and it says %q, %v: -there +found\n%s", n, out, err,
				cmp.Diff(there, found))
		}
		if fmt.Sprint(err) != "<nil>" && strings.TrimSpace(out) == "" {
			s.Errorf("call %d: %v without a word", n, err)
		}
	}
}
