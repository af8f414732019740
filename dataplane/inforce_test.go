//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestInForce: what the rules were made of is kept beside them, whoever asks, and it changes nothing else.
func TestInForce(t *testing.T) {
	for _, b := range []Backend{BackendNFT, BackendIPTablesNFT, BackendIPTablesLegacy} {
		t.Run(string(b), func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			ctx, pod := t.Context(), Pod{NetNS: lab.Pod.Path(), Backend: b}
			if _, err := pod.InForce(ctx); !errors.Is(err, ruleset.ErrNotIntercepted) {
				t.Errorf("before Apply: %v", err)
			}
			c := intercept.Default()
			c.Outbound.ExcludePorts = ruleset.Ports{{First: 25, Last: 25}, {First: 5432, Last: 5432}}
			c.DNS.Mode = intercept.DNSAll
			pod.By, pod.Origins = "the test", map[string]string{"outbound.excludePorts": "--outbound-exclude-ports",
				"dns.port": "of a default, which is not kept"}
			began := time.Now()
			if _, err := pod.Apply(ctx, c); err != nil {
				t.Fatal(err)
			}
			other := Pod{NetNS: pod.NetNS, Backend: b} // that knows nothing
			got, err := other.InForce(ctx)
			want := InForce{Config: c, At: began, By: "the test", Backend: b,
				Origins: map[string]string{"outbound.excludePorts": "--outbound-exclude-ports"}}
			if diff := cmp.Diff(want, got, cmpopts.EquateApproxTime(time.Minute), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{}),
				cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
			if diffs, err := other.Check(ctx, c); err != nil || len(diffs) > 0 {
				t.Errorf("Check: %v, %v", diffs, err)
			}
			status, err := other.Status(ctx)
			for _, counter := range status.Counters {
				if counter.Rule == "" || strings.Contains(strings.ToLower(counter.Chain), "spec") {
					t.Errorf("a counter of none of the rules: %+v", counter)
				}
			}
			if err != nil || len(status.Counters) == 0 {
				t.Errorf("Status: %v", err)
			}

			// Nothing is written for its sake.
			pod.By = "another"
			if res, err := pod.Apply(ctx, c); err != nil || res.Outcome != ruleset.Unchanged {
				t.Errorf("again: %s, %v", res.Outcome, err)
			}
			c.Outbound.ExcludePorts = nil
			if _, err := pod.Apply(ctx, c); err != nil {
				t.Fatal(err)
			}
			if got, err = other.InForce(ctx); err != nil || got.By != "another" || len(got.Config.Outbound.ExcludePorts) > 0 {
				t.Errorf("after another configuration: %+v, %v", got, err)
			}
			if removed, err := other.Remove(ctx); err != nil || !removed {
				t.Errorf("Remove: %t, %v", removed, err)
			}
			if _, err := other.InForce(ctx); !errors.Is(err, ruleset.ErrNotIntercepted) {
				t.Errorf("after Remove: %v", err)
			}
		})
	}
}

// TestInForceOfAny: every configuration comes back as it was, but for what is said to be left out.
func TestInForceOfAny(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		c := gen.Config(r)
		if c.Validate() != nil {
			continue
		}
		note, err := Pod{}.note(c, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got, err := readKept(note)
		if err != nil {
			t.Fatalf("%v: %s", err, note)
		}
		want, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := intercept.Compile(got.Config)
		if diff := cmp.Diff(want, rs, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()); len(got.Omitted) == 0 &&
			(err != nil || diff != "") {
			t.Fatalf("%v: %s\n%s", err, note, diff)
		}
		if back := ruleset.ReadNote(ruleset.NoteComments(note, ruleset.MaxComment)); back != note {
			t.Fatalf("%q comes back as %q", note, back)
		}
	}
}

// TestInForceIsBounded: what is too long is left out by name, and what somebody else has written there is an error.
func TestInForceIsBounded(t *testing.T) {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	for i := range 5000 {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs,
			netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/25", i/256, i%256)))
	}
	note, err := Pod{}.note(c, time.Now())
	if err != nil || len(note) > 2*maxKept {
		t.Fatalf("%d bytes, %v", len(note), err)
	}
	got, err := readKept(note)
	if err != nil || len(got.Omitted) != 1 || got.Omitted[0] != "outbound.excludeCIDRs" || got.Config.DNS.Mode != intercept.DNSAll {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"{", `{"at":"yesterday"}`, `{"at":"2026-11-29T00:00:00Z","set":{"no.field":"1"}}`,
		`{"at":"2026-11-29T00:00:00Z","set":{"dns.port":"many"}}`, `{"at":"2026-11-29T00:00:00Z","set":{"outbound.port":"0"}}`} {
		if _, err := readKept(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// TestInForceBesideOthers: rules without it, of the minimal dialect or after somebody has taken it out, and rules that
// somebody has put beside it. What is kept survives a listing that is loaded again.
func TestInForceBesideOthers(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	ctx, c := t.Context(), intercept.Default()
	in := func(script string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		out := new(strings.Builder)
		cmd.Stdout, cmd.Stderr = out, out
		if err := lab.Pod.Start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	minimal := Pod{NetNS: lab.Pod.Path(), Backend: BackendIPTablesLegacy, IPTables: IPTables{Dialect: iptables.Minimal}}
	if _, err := minimal.Apply(ctx, c); err != nil {
		t.Fatal(err)
	}
	if _, err := minimal.InForce(ctx); !errors.Is(err, ErrNotKept) {
		t.Errorf("the minimal dialect: %v", err)
	}
	pod := Pod{NetNS: lab.Pod.Path(), Backend: BackendNFT, By: "the test"}
	if _, err := pod.Apply(ctx, c); err != nil {
		t.Fatal(err)
	}
	in(`f=$(mktemp); nft list ruleset >"$f"; nft flush ruleset; nft -f "$f"; rm "$f"`)
	if got, err := pod.InForce(ctx); err != nil || got.By != "the test" {
		t.Errorf("after a listing was loaded: %+v, %v", got, err)
	}
	if _, err := pod.Apply(ctx, c); err != nil { // nft writes some of them otherwise
		t.Fatal(err)
	}
	spec := `$(nft list chains | sed -n 's/.*chain \(spec_[0-9a-f]*\).*/\1/p')`
	in(`nft add rule inet mesh_intercept ` + spec + ` counter accept`)
	if diffs, err := pod.Check(ctx, c); err != nil || len(diffs) != 1 || !strings.Contains(diffs[0].String(), "1 rules") {
		t.Errorf("a rule beside it: %v, %v", diffs, err)
	}
	in(`nft flush chain inet mesh_intercept ` + spec)
	if _, err := pod.InForce(ctx); !errors.Is(err, ErrNotKept) {
		t.Errorf("taken out: %v", err)
	}
	if diffs, err := pod.Check(ctx, c); err != nil || len(diffs) > 0 {
		t.Errorf("taken out: Check: %v, %v", diffs, err)
	}
}
