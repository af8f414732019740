//go:build linux

package conformance

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var (
	randomConfigs = flag.Uint64("random.configs", 300,
		"how many random configurations to compare with the kernel, by each backend")
	randomSeed = flag.Uint64("random.seed", 1, "the seed of the first one; the others follow")
)

const (
	randomWorkers = 4
	randomFlows   = 16
)

// TestRandom applies random configurations to a kernel, by each backend, sends
// random flows, and holds what happens against what Trace foretold.
func TestRandom(t *testing.T) {
	netlab.Require(t)
	requireIPTables(t)
	var next, sent, captured atomic.Uint64
	next.Store(*randomSeed)
	t.Run("workers", func(t *testing.T) {
		for w := range randomWorkers {
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				t.Parallel()
				// A namespace for each backend: they all see the same flows.
				pods := make([]pod, len(backends))
				for i, backend := range backends {
					lab := netlab.NewT(t, netlab.Options{SecondInterface: true, VM: true})
					if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
						t.Fatal(err)
					}
					pods[i] = pod{lab, dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}}
				}
				for {
					seed := next.Add(1) - 1
					if seed >= *randomSeed+*randomConfigs || t.Failed() {
						return
					}
					s, c := compareRandom(t, pods, seed)
					sent.Add(s)
					captured.Add(c)
				}
			})
		}
	})
	t.Logf("%d configurations, %d flows through each of %d backends, %d of them captured", *randomConfigs, sent.Load(),
		len(backends), captured.Load())
	if !t.Failed() && (sent.Load() < *randomConfigs*randomFlows || captured.Load()*10 < sent.Load()) {
		t.Error("too few flows, or too few of them captured, to mean anything")
	}
}

type pod struct {
	lab    *netlab.Lab
	target dataplane.Pod
}

func compareRandom(t *testing.T, pods []pod, seed uint64) (sent, captured uint64) {
	r := rand.New(rand.NewPCG(seed, 42))
	c := gen.Config(r)
	if seed%5 == 0 {
		lengthen(&c)
	}
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Errorf("seed %d: %v", seed, err)
		return
	}
	reproduce := fmt.Sprintf("reproduce: go test ./testing/conformance -run TestRandom -random.configs 1 -random.seed %d",
		seed)
	for _, p := range pods {
		if _, err := p.target.Apply(t.Context(), c); err != nil {
			t.Errorf("%s: %v\nconfiguration: %+v\n%s", p.target.Backend, err, c, reproduce)
			return
		}
	}
	for range randomFlows {
		f := flowOf(r, gen.Packet(r))
		trace, err := rs.Trace(f.Packet(pods[0].lab))
		if err != nil {
			t.Fatal(err)
		}
		sent++
		if trace.Fate.Action != intercept.Pass {
			captured++
		}
		for _, p := range pods {
			got, err := p.lab.Send(f)
			if err == nil && got.Is(trace.Fate) {
				continue
			}
			t.Errorf("%s: by %s the kernel says %s (%v), Trace %s by %s (%s)\nconfiguration: %+v\n%s\n%s",
				f, p.target.Backend, got, err, trace.Fate, trace.Line, trace.Reason, c, listing(p.target), reproduce)
			return
		}
	}
	return
}

// lengthen makes the lists so long that the backends of iptables have sets for them.
func lengthen(c *intercept.Config) {
	nets := func(list *intercept.CIDRs) {
		for i := byte(0); len(*list) > 0 && i < 40; i++ {
			*list = append(*list, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, i, 0}), 25),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xee, i}), 25+int(i%8)))
		}
	}
	ports := func(list *intercept.Ports) {
		for i := uint16(0); len(*list) > 0 && !list.All() && i < 300; i++ {
			*list = append(*list, intercept.PortRange{First: 30000 + 3*i, Last: 30001 + 3*i})
		}
	}
	nets(&c.Outbound.IncludeCIDRs)
	nets(&c.Outbound.ExcludeCIDRs)
	ports(&c.Outbound.ExcludePorts)
	ports(&c.Inbound.ExcludePorts)
	ports(&c.Inbound.IncludePorts)
	for i := range c.Outbound.Exclude {
		nets(&c.Outbound.Exclude[i].CIDRs)
		ports(&c.Outbound.Exclude[i].Ports)
	}
}

// flowOf is the flow that a generated packet begins. Some go by the second
// interface.
func flowOf(r *rand.Rand, p intercept.Packet) netlab.Flow {
	f := netlab.Flow{Protocol: p.Protocol, Dst: p.Dst, Owner: p.Owner, Mark: p.Mark}
	if p.Interface == "br-vm" {
		f.From = netlab.FromVM
		return f
	}
	second := r.IntN(6) == 0
	if p.Hook == intercept.Prerouting {
		f.From = netlab.FromPeer
		f.Src = netip.AddrPortFrom(p.Src.Addr(), 0)
		if second {
			f.Dst = netip.AddrPortFrom(word("pod2", p.Dst.Addr()), p.Dst.Port())
		}
		return f
	}
	if p.Src.Addr() == word("passthrough", p.Dst.Addr()) {
		f.Src = netip.AddrPortFrom(p.Src.Addr(), 0)
	}
	if second && !gen.IsLocal(p.Dst.Addr()) {
		f.Dst = netip.AddrPortFrom(word("management", p.Dst.Addr()), p.Dst.Port())
	}
	return f
}

// word returns the address that a word of the table stands for, in the family
// of like.
func word(s string, like netip.Addr) netip.Addr {
	if like.Is4() {
		return named(s)[0]
	}
	return named(s)[1]
}

// named returns the addresses of a word, which stands for one of each family.
func named(word string) []netip.Addr {
	both, err := netlab.Addresses(word)
	if err != nil {
		panic(err)
	}
	return both
}
