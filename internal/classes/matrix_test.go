package classes

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// holds reports whether a packet is in one of the boxes. Both are of one family.
func holds(boxes []Box, e Example) bool { return Change{Boxes: boxes}.contains(e) }

// cellOf is the kind of flow that a packet begins.
func cellOf(c intercept.Config, p ruleset.Packet) (from From, where Where, traffic Traffic) {
	switch {
	case p.Hook == ruleset.Prerouting && p.Foreign:
		from, where = FromOutside, Through
	case p.Hook == ruleset.Prerouting:
		from, where = FromOutside, Inbound
	case p.Owner == nil:
		from = FromKernel
	case c.Proxy.UIDs.Contains(p.Owner.UID) || c.Proxy.GIDs.Contains(p.Owner.GID) ||
		c.Proxy.Mark.Mask != 0 && p.Mark&c.Proxy.Mark.Mask == c.Proxy.Mark.Value:
		from = FromProxy
	default:
		from = FromApp
	}
	switch {
	case where != "":
	case p.Interface != ruleset.Loopback:
		where = Outbound
	case p.Dst.Addr().IsLoopback():
		where = Loopback
	default:
		where = Self
	}
	switch {
	case p.Protocol != ruleset.TCP && p.Protocol != ruleset.UDP:
		traffic = Other
	case p.Dst.Port() == 53:
		traffic = DNS
	case p.Protocol == ruleset.TCP:
		traffic = TCP
	default:
		traffic = UDP
	}
	return from, where, traffic
}

// TestMatrix: each flow is in one part of its cell, which has its fate; and so has the first part whose words fit it.
func TestMatrix(t *testing.T) {
	several := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 31))
		c := gen.Config(r)
		rs := compile(t, c)
		cells, err := Matrix(rs, Proxy{c.Proxy.UIDs, c.Proxy.GIDs, c.Proxy.Mark})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 150 {
			p := gen.Packet(r)
			if r.IntN(8) == 0 && p.Hook == ruleset.Output {
				p.Owner = nil
			}
			if p.Hook == ruleset.Output && p.Interface != ruleset.Loopback && p.Dst.Addr().IsLoopback() ||
				p.Hook == ruleset.Prerouting && p.Dst.Addr().IsLoopback() {
				continue // the kernel does not send it so, or discards it
			}
			p, err := p.Complete()
			if err != nil {
				continue
			}
			trace, err := rs.Trace(p)
			if err != nil {
				continue
			}
			from, where, traffic := cellOf(c, p)
			i := slices.IndexFunc(cells, func(c Cell) bool {
				return c.From == from && c.Where == where && c.Traffic == traffic && c.Family == ruleset.FamilyOf(p.Dst.Addr())
			})
			if i < 0 {
				t.Fatalf("seed %d: no cell for %+v", seed, p)
			}
			parts := cells[i].Parts
			if len(parts) > 1 {
				several++
			}
			in, first := 0, -1
			for k, part := range parts {
				if holds(part.Boxes, Example{Packet: p}) || part.More && part.Fate == trace.Fate && part.Line == trace.Line {
					in++
					if part.Fate != trace.Fate || part.Line != trace.Line {
						t.Errorf("seed %d: %+v is in %v %s, and has %v %s", seed, p, part.Fate, part.Line, trace.Fate, trace.Line)
					}
				}
				if first < 0 && (part.Rest || holds(part.left, Example{Packet: p})) {
					first = k
				}
			}
			if in != 1 {
				t.Errorf("seed %d: %+v is in %d parts", seed, p, in)
			}
			if parts[first].Fate != trace.Fate || parts[first].Line != trace.Line {
				t.Errorf("seed %d: %+v: the words of %v %s fit first, and it has %v %s: %s", seed, p, parts[first].Fate,
					parts[first].Line, trace.Fate, trace.Line, parts[first].Which())
			}
		}
		if t.Failed() {
			return
		}
	}
	if several == 0 {
		t.Error("no flow of a kind that has several fates")
	}
}

// many is a list of so many networks.
func many(n int) (all intercept.CIDRs) {
	for i := range n {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0}), 24))
	}
	return all
}

// TestLongLists: thousands of networks are two values of a field, and one of them more is a difference.
func TestLongLists(t *testing.T) {
	a := intercept.Default()
	a.Outbound.ExcludeCIDRs = many(5000)
	b := a
	b.Outbound.ExcludeCIDRs = slices.Clone(a.Outbound.ExcludeCIDRs)
	slices.Reverse(b.Outbound.ExcludeCIDRs)
	for _, tc := range []struct {
		more intercept.CIDRs
		same bool
	}{
		{nil, true},
		{intercept.CIDRs{netip.MustParsePrefix("10.0.0.64/26")}, true}, // a part of one that is on the list
		{intercept.CIDRs{netip.MustParsePrefix("10.0.1.77/32")}, false},
	} {
		c := b
		c.Outbound.ExcludeCIDRs = slices.Concat(b.Outbound.ExcludeCIDRs, tc.more)
		classes, err := New(nil, compile(t, a), compile(t, c))
		if err != nil {
			t.Fatal(err)
		}
		changes, err := classes.Diff()
		if err != nil || (len(changes) == 0) != tc.same {
			t.Errorf("%v: %d changes (%v)", tc.more, len(changes), err)
		}
		for _, c := range changes {
			if c.Example.Packet.Dst.Addr() != netip.MustParseAddr("10.0.1.77") {
				t.Errorf("%v", c.Example)
			}
		}
	}
}

// TestTooMany: lists that overlap in too many ways are refused in time.
func TestTooMany(t *testing.T) {
	c := intercept.Default()
	for i, p := range many(2000) {
		c.Outbound.Exclude = append(c.Outbound.Exclude, intercept.Exclusion{CIDRs: intercept.CIDRs{p},
			Ports: intercept.Ports{intercept.Port(uint16(1000 + i))}, UIDs: intercept.IDs{intercept.ID(uint32(i))}})
	}
	_, err := New(nil, compile(t, c))
	if _, is := errors.AsType[*TooManyError](err); !is {
		t.Errorf("%v", err)
	}
	c = intercept.Default()
	c.VirtualInterfaces = []string{"br-*", "br-vm", "eth*", "eth0"}
	if _, err := New(nil, compile(t, c)); err != nil {
		t.Error(err)
	}
}

// TestMarks: there is a mark for each combination of conditions that there can be.
func TestMarks(t *testing.T) {
	tests := []ruleset.Mark{{Value: 0x539, Mask: ruleset.AllBits}, {Value: 0x500, Mask: 0xf00}, {Value: 1, Mask: 1},
		{Value: 0x700, Mask: 0xf00}, {Value: 0x539, Mask: 0xfff}}
	values := markValues(tests)
	signature := func(v uint32) (s int) {
		for i, m := range tests {
			if v&m.Mask == m.Value {
				s |= 1 << i
			}
		}
		return s
	}
	known := map[int]bool{}
	for _, v := range values {
		if known[signature(v)] {
			t.Errorf("%#x: twice", v)
		}
		known[signature(v)] = true
	}
	for v := range uint32(1 << 16) {
		for _, high := range []uint32{0, 1 << 31} {
			if !known[signature(v|high)] {
				t.Fatalf("%#x is of none", v|high)
			}
		}
	}
	if len(values) != len(known) || len(values) != 8 {
		t.Errorf("%d marks: %#x", len(values), values)
	}
}

// TestInterfaceNames: each name matches other patterns, and the usual one is first.
func TestInterfaceNames(t *testing.T) {
	for _, tc := range []struct{ patterns, want []string }{
		{[]string{"lo"}, []string{"eth0", "lo"}},
		{[]string{"lo", "eth0", "net*", "net1"}, []string{"eth1", "lo", "eth0", "net0", "net1", "a0"}},
		{[]string{"lo", "e*", "eth*"}, []string{"eth0", "lo", "e0", "a0"}},
	} {
		got := interfaceNames(tc.patterns)
		signatures := map[string]bool{}
		for _, name := range got {
			s := ""
			for _, p := range tc.patterns {
				if ruleset.InterfaceMatches(p, name) {
					s += p + " "
				}
			}
			signatures[s] = true
		}
		if len(signatures) != len(got) {
			t.Errorf("%q: %q", tc.patterns, got)
		}
		for _, name := range tc.want {
			s := ""
			for _, p := range tc.patterns {
				if ruleset.InterfaceMatches(p, name) {
					s += p + " "
				}
			}
			if !signatures[s] {
				t.Errorf("%q: none like %s among %q", tc.patterns, name, got)
			}
		}
	}
}
