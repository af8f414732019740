//go:build linux

package conformance

import (
	"context"
	"fmt"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

func cases(t *testing.T) []Case {
	t.Helper()
	cases, err := Cases()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestTableIsLarge keeps the table from shrinking, and every line of the
// policy in it.
func TestTableIsLarge(t *testing.T) {
	flows, lines := 0, map[string]bool{}
	all := cases(t)
	for _, c := range all {
		flows += len(c.Flows)
		for _, f := range c.Flows {
			lines[f.Line] = true
		}
	}
	if len(all) < 25 || flows < 240 {
		t.Errorf("%d configurations, %d flows", len(all), flows)
	}
	// I3 is of packets that no client sends; its tests are elsewhere.
	for _, line := range []string{"O1", "O2", "O3", "O4", "O5", "O6", "O7", "O8", "O9", "O10", "O11", "O12", "O13", "O14",
		"I1", "I4", "I5", "I6", "I7", "I8"} {
		if !lines[line] {
			t.Errorf("no flow for line %s", line)
		}
	}
}

// TestTrace judges the table without a kernel.
func TestTrace(t *testing.T) {
	for _, c := range cases(t) {
		lab := netlab.OnPaper(c.Options())
		rs, err := intercept.Compile(c.Config)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range c.Flows {
			trace, err := rs.Trace(f.Packet(lab))
			if err != nil {
				t.Fatal(err)
			}
			if trace.Fate.String() != f.Fate || trace.Line != f.Line {
				t.Errorf("%s: %s: Trace says %s by %q (%s), the table says %s by %q",
					c.Name, f.Flow, trace.Fate, trace.Line, trace.Reason, f.Fate, f.Line)
			}
		}
	}
}

// backends are the ways into the kernel, all of which have to give the same.
var backends = []dataplane.Backend{dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy}

// TestKernel sends the table's flows through the kernel, for each backend: what
// Trace foretells is what happens.
func TestKernel(t *testing.T) {
	for _, backend := range backends {
		for _, c := range cases(t) {
			t.Run(string(backend)+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				requireIPTables(t)
				lab := netlab.NewT(t, c.Options())
				if _, err := lab.StartSidecar(c.Sidecar); err != nil {
					t.Fatal(err)
				}
				rs, err := intercept.Compile(c.Config)
				if err != nil {
					t.Fatal(err)
				}
				target := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}
				if _, err := target.Apply(t.Context(), c.Config); err != nil {
					t.Fatal(err)
				}
				for _, f := range c.Flows {
					trace, err := rs.Trace(f.Packet(lab))
					if err != nil {
						t.Fatal(err)
					}
					got, err := lab.Send(f.Flow)
					if err != nil {
						t.Errorf("%s: %v", f.Flow, err)
					} else if got.Fate.String() != f.Fate || !got.Is(trace.Fate) {
						t.Errorf("%s: the kernel says %s, Trace %s, the table %s", f.Flow, got, trace.Fate, f.Fate)
					}
				}
				if t.Failed() {
					t.Log(listing(target))
				}
			})
		}
	}
}

// requireIPTables skips the test where there is no iptables.
func requireIPTables(t *testing.T) {
	t.Helper()
	for _, v := range []iptables.Variant{iptables.NFT, iptables.Legacy} {
		netlab.RequireProgram(t, "iptables-"+string(v)+"-restore")
		netlab.RequireProgram(t, "ip6tables-"+string(v)+"-restore")
	}
}

// listing shows the rules with what they have counted.
func listing(target dataplane.Pod) string {
	status, err := target.Status(context.Background())
	if err != nil {
		return err.Error()
	}
	s := "the kernel's rules and counts:\n"
	for _, c := range status.Counters {
		s += fmt.Sprintf("%8d  %-16s %s: %s %s\n", c.Packets, c.Chain, c.Line, c.Reason, c.Family)
	}
	return s
}
