//go:build linux

package peers

import (
	"bytes"
	"cmp"
	"context"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// The least that a table has.
const minSets, minFlows = 40, 50

// sample is how many sets there are for one of which the oracle is asked again in every run.
const sample = 8

// Test holds what the program makes of each set against the record. With MESH_TEST_UPDATE=1 it writes the record
// instead, from the documented rules (make peers).
func (p Peer) Test(t *testing.T) {
	flows, err := p.flows()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Sets) < minSets || len(flows) < minFlows {
		t.Errorf("%d sets of flags and %d flows; there should be %d and %d", len(p.Sets), len(flows), minSets, minFlows)
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		p.record(t, flows)
		return
	}
	text, err := os.ReadFile(p.Record)
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := readRecord(string(text))
	if err != nil {
		t.Fatalf("%s: %v", p.Record, err)
	}
	for _, s := range p.Sets {
		if len(recorded[s.Name]) != len(flows) {
			t.Fatalf("%s: set %s has %d flows of %d: run make peers", p.Record, s.Name, len(recorded[s.Name]), len(flows))
		}
	}
	if len(recorded) != len(p.Sets) {
		t.Errorf("%s has %d sets of %d: run make peers", p.Record, len(recorded), len(p.Sets))
	}
	used := make([]int, len(p.Differences))
	for i, s := range p.Sets {
		want := p.expected(s, flows, recorded, used)
		t.Run("model/"+s.Name, func(t *testing.T) { p.model(t, s, flows, want) })
		t.Run("kernel/"+s.Name, func(t *testing.T) {
			t.Parallel()
			p.kernel(t, s, flows, want)
		})
		if i%sample != 0 {
			continue
		}
		t.Run("record/"+s.Name, func(t *testing.T) {
			t.Parallel()
			got := p.oracle(t, s, flows)
			for _, f := range flows {
				if is, was := got[f.name], recorded[s.Name][f.name]; is != was {
					t.Errorf("%s: %s under the documented rules, recorded is %s", f.name, is, was)
				}
			}
		})
	}
	for i, d := range p.Differences {
		if used[i] == 0 {
			t.Errorf("no flow differs as it is said of sets %s, flows %s: %s", d.Sets, d.Flows, d.Reason)
		}
	}
}

// record writes the fates of all sets under the documented rules.
func (p Peer) record(t *testing.T, flows []flow) {
	var mu sync.Mutex
	all := map[string]fates{}
	t.Run("sets", func(t *testing.T) {
		for _, s := range p.Sets {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				got := p.oracle(t, s, flows)
				mu.Lock()
				defer mu.Unlock()
				all[s.Name] = got
			})
		}
	})
	if t.Failed() {
		return
	}
	head := "// What became of flows under the rules that the peer documents. make peers writes it, and\n" +
		"// testing/peers/record.go says how to read it.\n"
	if err := os.WriteFile(p.Record, []byte(writeRecord(head, p.Sets, all, flows)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// lab makes a laboratory for a set, with its sidecar.
func (p Peer) lab(t *testing.T, s Set) *netlab.Lab {
	lab := netlab.NewT(t, p.options())
	if _, err := lab.StartSidecar(*cmp.Or(s.Sidecar, &p.Sidecar)); err != nil {
		t.Fatal(err)
	}
	return lab
}

func (p Peer) options() netlab.Options { return netlab.Options{SecondInterface: true, VM: true} }

// oracle sends the flows under the documented rules.
func (p Peer) oracle(t *testing.T, s Set, flows []flow) fates {
	lab := p.lab(t, s)
	for _, c := range p.Rules(s) {
		Run(t, lab.Pod, c)
	}
	return p.send(t, lab, flows)
}

// Run runs a command in a namespace; the test fails if the command does.
func Run(t *testing.T, n *netlab.Namespace, c Command) {
	t.Helper()
	netlab.RequireProgram(t, c.Args[0])
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	// Else the lock would be one file for all pods of these tests, which run beside each other.
	cmd.Env = append(cmd.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock"))
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.Stdin), &out, &out
	err := n.Start(cmd, nil)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", strings.Join(c.Args, " "), err, &out, c.Stdin)
	}
}

// send sends the flows and says what became of them.
func (p Peer) send(t *testing.T, lab *netlab.Lab, flows []flow) fates {
	t.Helper()
	got := fates{}
	for _, f := range flows {
		d, err := lab.Send(f.Flow)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		got[f.name] = d.Fate.String()
	}
	return got
}

// expected returns the fates that a set has to have here: those recorded, but for the differences. It counts the flows
// for which each difference makes one.
func (p Peer) expected(s Set, flows []flow, recorded map[string]fates, used []int) fates {
	want := maps.Clone(recorded[s.Name])
	for i, d := range p.Differences {
		if !matches(d.Sets, s.Name) {
			continue
		}
		for _, f := range flows {
			if !matches(d.Flows, f.name) {
				continue
			}
			ours := cmp.Or(d.Fate, recorded[d.Like][f.name])
			if want[f.name] != ours {
				used[i]++
			}
			want[f.name] = ours
		}
	}
	return want
}

// matches reports whether one of the patterns, separated by ", ", is a name's.
func matches(patterns, name string) bool {
	for pattern := range strings.SplitSeq(patterns, ", ") {
		if ok, err := path.Match(pattern, name); ok || err != nil {
			return true
		}
	}
	return false
}

// read returns what the program makes of a set: the requests of its earlier command lines, and its own.
func (p Peer) read(t *testing.T, s Set) []peers.Request {
	t.Helper()
	args := s.Args
	if s.Refused != "" {
		r, err := p.Read(args, s.world())
		if err == nil || !strings.Contains(err.Error(), s.Refused) {
			t.Errorf("it should be refused, by an error with %q: %v, %+v", s.Refused, err, r)
		}
		args = append(slices.Clone(args), "--lenient")
	}
	var all []peers.Request
	for _, args := range append(slices.Clone(s.Before), args) {
		r, err := p.Read(args, s.world())
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		if r.Action != peers.Apply {
			t.Fatalf("%q asks for %q", args, r.Action)
		}
		all = append(all, r)
	}
	return all
}

// world is what a set is read in.
func (s Set) world() peers.World {
	return peers.World{
		Document: yamldoc.Document,
		Environ:  s.Environ,
		ReadFile: func(name string) ([]byte, error) {
			text, ok := s.Files[name]
			if !ok {
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			return []byte(text), nil
		},
		Addresses: func(dataplane.Pod) ([]netip.Addr, error) {
			if s.Addresses != nil {
				return s.Addresses, nil
			}
			return netlab.Addresses("pod")
		},
	}
}

// model judges the flows on paper, by the set's own command line.
func (p Peer) model(t *testing.T, s Set, flows []flow, want fates) {
	requests := p.read(t, s)
	rs, err := intercept.Compile(requests[len(requests)-1].Config)
	if err != nil {
		t.Fatal(err)
	}
	lab := netlab.OnPaper(p.options())
	for _, f := range flows {
		trace, err := rs.Trace(f.Packet(lab))
		if err != nil {
			t.Fatal(err)
		}
		if got := arrives(trace.Fate, f); got != want[f.name] {
			t.Errorf("%s: %s on paper by %q (%s), should be %s", f.name, got, trace.Line, trace.Reason, want[f.name])
		}
	}
}

// arrives returns what is seen of a fate: what goes to the very port of the proxy to which it is redirected arrives
// where it was sent.
func arrives(fate intercept.Fate, f flow) string {
	local := f.From == netlab.FromPeer || f.Dst.Addr().IsLoopback()
	toPort := fate.Action == intercept.Redirected || fate.Action == intercept.Transparent
	if toPort && local && (intercept.Ports{fate.Ports}).Contains(f.Dst.Port()) {
		return intercept.Fate{}.String()
	}
	return fate.String()
}

// backends are the ways into the kernel, all of which have to give the same.
var backends = []dataplane.Backend{dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy}

// kernel judges them in the kernel, with each backend.
func (p Peer) kernel(t *testing.T, s Set, flows []flow, want fates) {
	for _, program := range []string{"iptables-nft-restore", "iptables-legacy-restore"} {
		netlab.RequireProgram(t, program)
	}
	requests := p.read(t, s)
	lab := p.lab(t, s)
	for _, backend := range backends {
		for _, r := range requests {
			r.Pod.NetNS, r.Pod.Backend = lab.Pod.Path(), backend
			if _, err := r.Pod.Apply(t.Context(), r.Config); err != nil {
				t.Fatalf("%s: %v", backend, err)
			}
		}
		got := p.send(t, lab, flows)
		for _, f := range flows {
			if got[f.name] != want[f.name] {
				t.Errorf("%s: %s: %s, should be %s", backend, f.name, got[f.name], want[f.name])
			}
		}
		pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}
		if removed, err := pod.Remove(context.Background()); err != nil || !removed {
			t.Fatalf("%s: removed %v: %v", backend, removed, err)
		}
	}
}
