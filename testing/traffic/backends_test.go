//go:build linux

package traffic

import (
	"context"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// way is a way into the kernel. What people feel is the same by all.
type way string

const (
	byNFT    way = "nft"
	byXTNFT  way = "iptables-nft"
	byLegacy way = "iptables-legacy"
)

// each runs a test for every way.
func each(t *testing.T, test func(*testing.T, way)) {
	for _, w := range []way{byNFT, byXTNFT, byLegacy} {
		t.Run(string(w), func(t *testing.T) { test(t, w) })
	}
}

type backend interface {
	Apply(intercept.Ruleset) (intercept.Outcome, error)
	Remove() (bool, error)
	Counters() ([]intercept.Counter, error)
}

// open returns the backend in the lab's pod.
func (w way) open(t testing.TB, lab *netlab.Lab) backend {
	t.Helper()
	if w == byNFT {
		var b *nft.Conn
		err := lab.Pod.Do(func() (err error) {
			b, err = nft.Open()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		return overNetlink{b}
	}
	variant := iptables.NFT
	if w == byLegacy {
		variant = iptables.Legacy
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		netlab.RequireProgram(t, program+"-"+string(variant)+"-restore")
	}
	b, err := iptables.Open(iptables.Options{Variant: variant})
	if err != nil {
		t.Fatal(err)
	}
	return inPod{lab, b}
}

// overNetlink is a socket of nf_tables, which stays in the pod.
type overNetlink struct{ b *nft.Conn }

func (n overNetlink) Apply(rs intercept.Ruleset) (intercept.Outcome, error) {
	return n.b.Apply(context.Background(), rs)
}

func (n overNetlink) Remove() (bool, error) { return n.b.Remove(context.Background()) }

func (n overNetlink) Counters() ([]intercept.Counter, error) {
	return n.b.Counters(context.Background(), nil)
}

// inPod runs a backend that acts on its thread's namespace in the pod's.
type inPod struct {
	lab *netlab.Lab
	b   *iptables.Runner
}

func (p inPod) Apply(rs intercept.Ruleset) (out intercept.Outcome, err error) {
	err = p.lab.Pod.Do(func() error { out, err = p.b.Apply(context.Background(), rs); return err })
	return out, err
}

func (p inPod) Remove() (removed bool, err error) {
	err = p.lab.Pod.Do(func() error { removed, err = p.b.Remove(context.Background()); return err })
	return removed, err
}

func (p inPod) Counters() (counters []intercept.Counter, err error) {
	err = p.lab.Pod.Do(func() error { counters, err = p.b.Counters(context.Background(), nil); return err })
	return counters, err
}

// labWithSidecar returns a lab with the sidecar that fits the default
// configuration, and the backend of its pod.
func labWithSidecar(t testing.TB, w way) (*netlab.Lab, backend) {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	return lab, w.open(t, lab)
}

func apply(t testing.TB, b backend, rs intercept.Ruleset) {
	t.Helper()
	if _, err := b.Apply(rs); err != nil {
		t.Fatal(err)
	}
}
