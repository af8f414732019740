package classes

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

var (
	randomConfigs = flag.Uint64("random.configs", 400, "how many random configurations to try")
	randomSeed    = flag.Uint64("random.seed", 1, "the seed of the first one")
)

func compile(t testing.TB, c intercept.Config) ruleset.Ruleset {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestAgrees holds the classes against the evaluator: 100,000 random packets, under random configurations.
func TestAgrees(t *testing.T) {
	const packets = 250
	for seed := *randomSeed; seed < *randomSeed+*randomConfigs; seed++ {
		r := rand.New(rand.NewPCG(seed, 28))
		c := gen.Config(r)
		rs := compile(t, c)
		classes, err := New(nil, rs)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range packets {
			p := gen.Packet(r)
			if r.IntN(2) == 0 {
				gen.Believe(r, c, &p)
			}
			agree(t, seed, classes, 0, rs, Example{Packet: p, Older: p.Protocol == ruleset.TCP && r.IntN(8) == 0})
		}
		if t.Failed() {
			return
		}
	}
}

func agree(t *testing.T, seed uint64, classes *Classes, i int, rs ruleset.Ruleset, e Example) {
	t.Helper()
	p, err := e.Packet.Complete()
	if err != nil {
		return // there is no such packet
	}
	rs.Older = nil
	if e.Older {
		rs.Older = []ruleset.Tuple{{Src: p.Src, Dst: p.Dst}}
	}
	trace, err := rs.Trace(p)
	if err != nil {
		t.Fatal(err)
	}
	v, ok := classes.Of(i, e)
	if want := (Verdict{trace.Fate, trace.Rule}); !ok || v != want {
		t.Errorf("seed %d: %+v: the class has %v (%v), the packet %v", seed, e, v, ok, want)
	}
}

// TestMutations changes one constant of a random configuration. Wherever packets at the edges of both configurations'
// ranges have other fates, the difference is found; and where one is found, its example shows it.
func TestMutations(t *testing.T) {
	differ, seen := 0, 0
	for seed := *randomSeed; seed < *randomSeed+*randomConfigs/2; seed++ {
		r := rand.New(rand.NewPCG(seed, 29))
		before := gen.Config(r)
		after := mutated(r, before)
		a, b := compile(t, before), compile(t, after)
		classes, err := New(nil, a, b)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		changes, err := classes.Diff()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 100 {
			p := gen.Packet(r)
			if r.IntN(2) == 0 {
				gen.Believe(r, before, &p)
			}
			p = atEdge(r, before, after, p)
			x, err := a.Trace(p)
			if err != nil {
				continue
			}
			y, err := b.Trace(p)
			if err != nil || x.Fate == y.Fate {
				continue
			}
			seen++
			full, _ := p.Complete()
			if !slices.ContainsFunc(changes, func(c Change) bool {
				return c.Before.Fate == x.Fate && c.After.Fate == y.Fate && (c.More || c.contains(Example{Packet: full}))
			}) {
				t.Errorf("seed %d: %+v: %v becomes %v, which is not among the %d changes", seed, full, x.Fate, y.Fate, len(changes))
			}
		}
		if len(changes) > 0 {
			differ++
		}
		for _, c := range changes {
			checkChange(t, seed, a, b, c)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d configurations differ, and %d packets", differ, seen)
	if differ == 0 || seen == 0 {
		t.Error("no mutation made a difference")
	}
}

func checkChange(t *testing.T, seed uint64, a, b ruleset.Ruleset, c Change) {
	t.Helper()
	for _, box := range c.Boxes {
		e := box.Example()
		p, err := e.Packet.Complete()
		if err != nil {
			t.Errorf("seed %d: %+v: %v", seed, e, err)
			continue
		}
		for _, side := range []struct {
			rs   ruleset.Ruleset
			want Verdicts
		}{{a, c.Before}, {b, c.After}} {
			side.rs.Older = nil
			if e.Older {
				side.rs.Older = []ruleset.Tuple{{Src: p.Src, Dst: p.Dst}}
			}
			trace, err := side.rs.Trace(p)
			if err != nil || trace.Fate != side.want.Fate || trace.Line != side.want.Line ||
				trace.Rule != "" && !slices.Contains(side.want.Rules, trace.Rule) {
				t.Errorf("seed %d: %+v of %s: %v by %s, want %+v (%v)", seed, p, box, trace.Fate, trace.Rule, side.want, err)
			}
		}
		if e.Packet = p; !c.contains(e) {
			t.Errorf("seed %d: the example of %s is in none of the boxes: %+v", seed, box, e)
		}
	}
}

func (c Change) contains(e Example) bool {
	return slices.ContainsFunc(c.Boxes, func(b Box) bool {
		atoms, ok := b.space.atomsOf(e)
		if !ok || b.families&familyBit(ruleset.FamilyOf(e.Packet.Dst.Addr())) == 0 {
			return false
		}
		for f := range fieldCount {
			if f == Dst4 || f == Src4 || f == Dst6 || f == Src6 {
				if (f == Dst4 || f == Src4) != e.Packet.Dst.Addr().Is4() {
					continue
				}
			}
			if !b.all(f).has(atoms[f]) {
				return false
			}
		}
		for s := range senderCount {
			r := root{ruleset.FamilyOf(e.Packet.Dst.Addr()), s, e.Packet.Interface == ruleset.Loopback, 0}
			if b.isFrom(s) && r.is(e.Packet) {
				return true
			}
		}
		return false
	})
}

// mutated is a configuration with one constant changed.
func mutated(r *rand.Rand, c intercept.Config) intercept.Config {
	for {
		m := c
		o, i := &m.Outbound, &m.Inbound
		port := intercept.PortRange{First: uint16(1 + r.IntN(65000)), Last: 65001}
		if r.IntN(2) == 0 {
			port.Last = port.First
		}
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}),
			8+r.IntN(25)).Masked()
		id := intercept.ID(uint32(r.IntN(5000)))
		ports := func(l intercept.Ports) intercept.Ports { return changed(r, l, port) }
		cidrs := func(l intercept.CIDRs) intercept.CIDRs { return changed(r, l, cidr) }
		ids := func(l intercept.IDs) intercept.IDs { return changed(r, l, id) }
		for _, change := range []func(){
			func() { o.ExcludePorts = ports(o.ExcludePorts) },
			func() { o.IncludePorts = ports(o.IncludePorts) },
			func() { o.ExcludeCIDRs = cidrs(o.ExcludeCIDRs) },
			func() { o.IncludeCIDRs = cidrs(o.IncludeCIDRs) },
			func() { o.ExcludeUIDs = ids(o.ExcludeUIDs) },
			func() { o.IncludeGIDs = ids(o.IncludeGIDs) },
			func() { m.Proxy.UIDs = ids(m.Proxy.UIDs) },
			func() { i.ExcludePorts = ports(i.ExcludePorts) },
			func() { i.IncludePorts = ports(i.IncludePorts) },
			func() { i.ExcludeSources = cidrs(i.ExcludeSources) },
			func() { o.Exclude = append(slices.Clone(o.Exclude), intercept.Exclusion{CIDRs: intercept.CIDRs{cidr}}) },
			func() { o.Port = port },
			func() { i.Port = port },
			func() { m.TunnelPort = port.First },
			func() { m.ExcludeInterfaces = []string{"eth0"} },
			func() { i.DropInvalid = !i.DropInvalid },
			func() { i.Hairpin = intercept.HairpinPass },
			func() { m.DNS.Port = port.First },
			func() { m.DNS.Mode = intercept.DNSOff },
			func() { o.UDP = intercept.TreatmentReject },
			func() { o.QUIC = intercept.TreatmentReject },
			func() { m.Families = intercept.FamiliesIPv4 },
			func() { m.Backstop = intercept.BackstopOff },
		}[r.IntN(23):][:1] {
			change()
		}
		if m.Validate() == nil {
			return m
		}
	}
}

// changed is a list with one item more or less, or another.
func changed[E any](r *rand.Rand, list []E, item E) []E {
	list = slices.Clone(list)
	switch {
	case len(list) == 0 || r.IntN(3) == 0:
		return append(list, item)
	case r.IntN(2) == 0:
		return slices.Delete(list, 0, 1)
	}
	list[r.IntN(len(list))] = item
	return list
}

// atEdge moves a packet to the edge of one of the ranges of two configurations.
func atEdge(r *rand.Rand, a, b intercept.Config, p ruleset.Packet) ruleset.Packet {
	var ports []uint16
	var addrs []netip.Addr
	var ids []uint32
	for _, c := range []intercept.Config{a, b} {
		for _, l := range []intercept.Ports{c.Outbound.ExcludePorts, c.Outbound.IncludePorts, c.Inbound.ExcludePorts,
			c.Inbound.IncludePorts, {intercept.Port(max(1, c.TunnelPort))}} {
			for _, x := range l {
				ports = append(ports, x.First, x.Last, max(1, x.First-1))
			}
		}
		for _, l := range []intercept.CIDRs{c.Outbound.ExcludeCIDRs, c.Outbound.IncludeCIDRs, c.Inbound.ExcludeSources} {
			for _, x := range l {
				addrs = append(addrs, x.Addr(), x.Addr().Next())
			}
		}
		for _, l := range []intercept.IDs{c.Proxy.UIDs, c.Outbound.ExcludeUIDs, c.Outbound.IncludeGIDs} {
			for _, x := range l {
				ids = append(ids, x.First, x.Last)
			}
		}
	}
	if r.IntN(2) == 0 && p.Dst.Port() != 0 {
		p.Dst = netip.AddrPortFrom(p.Dst.Addr(), ports[r.IntN(len(ports))])
	}
	if len(addrs) > 0 && r.IntN(2) == 0 && p.Interface != ruleset.Loopback && p.Hook == ruleset.Output {
		if a := addrs[r.IntN(len(addrs))]; a.IsValid() && a.Is4() == p.Src.Addr().Is4() {
			p.Dst = netip.AddrPortFrom(a, p.Dst.Port())
		}
	}
	if len(ids) > 0 && r.IntN(3) == 0 && p.Owner != nil {
		p.Owner = &ruleset.Owner{UID: ids[r.IntN(len(ids))], GID: 1000}
	}
	return p
}
