package conformance

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var (
	randomConfigs = flag.Uint64("random.configs", 1000, "how many random configurations to compare with the kernel")
	randomSeed    = flag.Uint64("random.seed", 1, "the seed of the first one; the others follow")
)

const (
	randomWorkers = 4
	randomFlows   = 16
)

// TestRandom applies random configurations to a kernel, sends random flows,
// and holds what happens against what Trace foretold.
func TestRandom(t *testing.T) {
	netlab.Require(t)
	var next, sent, captured atomic.Uint64
	next.Store(*randomSeed)
	t.Run("workers", func(t *testing.T) {
		for w := range randomWorkers {
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				t.Parallel()
				lab := netlab.NewT(t, Options())
				if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
					t.Fatal(err)
				}
				backend, err := nft.Open(lab.Pod.FD())
				if err != nil {
					t.Fatal(err)
				}
				defer backend.Close()
				for {
					seed := next.Add(1) - 1
					if seed >= *randomSeed+*randomConfigs || t.Failed() {
						return
					}
					s, c := compareRandom(t, lab, backend, seed)
					sent.Add(s)
					captured.Add(c)
				}
			})
		}
	})
	t.Logf("%d configurations, %d flows, %d of them captured", *randomConfigs, sent.Load(), captured.Load())
	if !t.Failed() && (sent.Load() < *randomConfigs*randomFlows || captured.Load()*10 < sent.Load()) {
		t.Error("too few flows, or too few of them captured, to mean anything")
	}
}

func compareRandom(t *testing.T, lab *netlab.Lab, backend *nft.Backend, seed uint64) (sent, captured uint64) {
	r := rand.New(rand.NewPCG(seed, 42))
	c := gen.Config(r)
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Errorf("seed %d: %v", seed, err)
		return
	}
	if _, err := backend.Apply(rs); err != nil {
		t.Errorf("seed %d: %v", seed, err)
		return
	}
	for range randomFlows {
		f := flowOf(r, gen.Packet(r))
		trace := rs.Trace(f.Packet(lab))
		got, err := lab.Send(f)
		sent++
		if got.Fate.Action == intercept.Redirected {
			captured++
		}
		if err == nil && got.Is(trace.Fate) {
			continue
		}
		t.Errorf("%s: the kernel says %s (%v), Trace %s by %s (%s)\nconfiguration: %+v\n%s\nreproduce: go test ./testing/conformance -run TestRandom -random.configs 1 -random.seed %d",
			f, got, err, trace.Fate, trace.Line, trace.Reason, c, listing(backend), seed)
		return
	}
	return
}

// flowOf is the flow that a generated packet begins. Some go by the second
// interface.
func flowOf(r *rand.Rand, p intercept.Packet) netlab.Flow {
	f := netlab.Flow{Protocol: p.Protocol, Dst: p.Dst, Owner: p.Owner}
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
		return netip.MustParseAddr(words[s][0])
	}
	return netip.MustParseAddr(words[s][1])
}
