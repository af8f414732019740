//go:build linux

package peers

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// during are the flows that go on while one set of rules takes the place of another.
const during = "tcp? app>outside:80, tcp? root>outside:80, tcp? proxy>outside:80, tcp? peer>pod:8080"

// Switch proves that the program takes over from the peer's own rules for sets of flags, of the mesh named, in traffic:
// no flow meets another fate at any time, and in the end there is nothing left of either.
func (p Peer) Switch(t *testing.T, mesh string, sets ...string) {
	flows, err := p.flows()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Sets {
		if !slices.Contains(sets, s.Name) {
			continue
		}
		for _, backend := range backends {
			t.Run(s.Name+"/"+string(backend), func(t *testing.T) {
				t.Parallel()
				p.takeOver(t, mesh, backend, s, flows)
			})
		}
	}
}

func (p Peer) takeOver(t *testing.T, mesh string, backend dataplane.Backend, s Set, flows []flow) {
	lab := p.lab(t, s)
	for _, c := range p.Rules(s) {
		Run(t, lab.Pod, c)
	}
	flows = slices.DeleteFunc(slices.Clone(flows), func(f flow) bool { return !matches(during, f.name) })
	want := p.send(t, lab, flows)

	requests := p.read(t, s)
	r := requests[len(requests)-1]
	r.Pod.NetNS, r.Pod.Backend = lab.Pod.Path(), backend
	if _, err := r.Pod.Apply(t.Context(), r.Config); !errors.Is(err, dataplane.ErrOtherMesh) {
		t.Fatalf("who is not the mesh's drop-in applies beside its rules: %v", err)
	}
	r.Pod.InPlaceOf = mesh

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var going sync.WaitGroup
	begun := make(chan struct{}, len(flows))
	for _, f := range flows {
		going.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				got, err := lab.Send(f.Flow)
				if err != nil || got.Fate.String() != want[f.name] {
					t.Errorf("%s: %s, %v; should be %s all the time", f.name, got, err, want[f.name])
				}
				if n == 0 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range flows {
		<-begun
	}
	result, err := r.Pod.Apply(t.Context(), r.Config)
	if err != nil {
		t.Error(err)
	}
	if len(result.TakenOver) == 0 {
		t.Error("nothing is said of what was taken out")
	}
	after := p.send(t, lab, flows)
	stop()
	going.Wait()
	for _, f := range flows {
		if after[f.name] != want[f.name] {
			t.Errorf("%s: %s, should be %s as before", f.name, after[f.name], want[f.name])
		}
	}
	if result, err = r.Pod.Apply(t.Context(), r.Config); err != nil || len(result.TakenOver) > 0 {
		t.Errorf("once more: %v, %+v", err, result)
	}
	if removed, err := r.Pod.Remove(t.Context()); err != nil || !removed {
		t.Errorf("removed %v: %v", removed, err)
	}
	nothingLeft(t, lab.Pod)
}

// nothingLeft looks for chains that are not built in, rules, routes by marks and addresses of lo in a namespace.
func nothingLeft(t *testing.T, n *netlab.Namespace) {
	const shown = `ip rule | grep fwmark; ip -6 rule | grep fwmark; ip route show table all | grep 'local default'
		ip -6 route show table all | grep 'local default'; ip address show dev lo | grep ' ::6/'`
	cmd := exec.Command("sh", "-c", shown)
	var left bytes.Buffer
	cmd.Stdout, cmd.Stderr = &left, &left
	if err := n.Start(cmd, nil); err != nil {
		t.Error(err)
	} else if _ = cmd.Wait(); left.Len() > 0 {
		t.Errorf("there is still:\n%s", &left)
	}
	for _, program := range []string{
		"iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save",
	} {
		netlab.RequireProgram(t, program)
		cmd := exec.Command(program)
		var out bytes.Buffer
		cmd.Stdout = &out
		err := n.Start(cmd, nil)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Errorf("%s: %v", program, err)
		}
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":") && strings.Contains(line, " - [") {
				t.Errorf("%s has still: %s", program, line)
			}
		}
	}
}
