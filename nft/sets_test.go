//go:build linux

package nft

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestAddressKeys: the keys of a list are the ranges that it merges to.
func TestAddressKeys(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var list ruleset.CIDRs
		for range r.IntN(12) {
			// Few and wide, so that they overlap, touch, and reach both ends.
			addr, bits := netip.AddrFrom4([4]byte{byte(r.IntN(4) * 85), byte(r.IntN(2) * 255), 255, byte(r.IntN(256))}), r.IntN(33)
			if r.IntN(2) == 0 {
				addr, bits = netip.AddrFrom16([16]byte{byte(r.IntN(4) * 85), 255, 15: byte(r.IntN(256))}), r.IntN(129)
			}
			list = append(list, netip.PrefixFrom(addr, bits).Masked())
		}
		for _, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
			var want ranges
			for _, m := range list.Of(f).Merge() {
				want.add(m.First.AsSlice(), m.Last.AsSlice())
			}
			if got := addressKeys(list, f); !slices.Equal(got.bytes, want.bytes) {
				t.Fatalf("%s of %s: %x, not %x", f, list, got.bytes, want.bytes)
			}
		}
	}
}

// TestElementsAreCompared: elements are the same in whatever order the kernel lists them, and one that is missing, new
// or elsewhere is seen.
func TestElementsAreCompared(t *testing.T) {
	t.Parallel()
	list, err := ruleset.ParseCIDRs("10.0.0.0/8,10.64.0.1,192.168.0.0/16,255.255.255.0/24")
	if err != nil {
		t.Fatal(err)
	}
	s := set{key: keyIPv4, ranges: addressKeys(list, ruleset.IPv4)}
	want := s.elements()
	if want.Len() != 5 {
		t.Fatalf("%d elements of three ranges, of which one has no end", want.Len())
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 0, 1, 4, 3}} {
		for _, change := range []struct {
			do      func(e *elements)
			problem string
		}{
			{func(*elements) {}, ""},
			{func(e *elements) { e.add(make([]byte, 4), true) }, ""}, // the mark of nft(8)
			{func(e *elements) { e.bytes = e.bytes[:len(e.bytes)-e.size] }, "not the same"},
			{func(e *elements) { e.add([]byte{9, 9, 9, 9}, false) }, "0 ranges missing, 1 not ours"},
			{func(e *elements) { e.bytes[2]++ }, "not the same"},
			{func(e *elements) { e.add([]byte{1}, false) }, "not the same"},
		} {
			var have elements
			for _, i := range order {
				at := want.at(i)
				have.add(at[:4], at[4] == ends)
			}
			change.do(&have)
			have.sort()
			if got := have.equal(want); got != (change.problem == "") {
				t.Errorf("%v: equal: %v, want %q", order, got, change.problem)
			}
			if problem := elementsProblem(want, have); change.problem != "" && change.problem != "not the same" &&
				problem != change.problem {
				t.Errorf("%v: %s, want %s", order, problem, change.problem)
			}
		}
	}
}

// long is a configuration with so many excluded networks of both families, which do not merge.
func longList(n int) intercept.Config {
	c := intercept.Default()
	for i := range uint32(n / 2) {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 15), byte(i >> 7), byte(i << 1)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 16), byte(i >> 8), byte(i)}), 41).Masked())
	}
	return c
}

// TestLongListIsCheap: what a list's items cost each, in allocations and in bytes of a transaction, does not depend on
// how many there are. Neither depends on the machine.
func TestLongListIsCheap(t *testing.T) {
	const few, many = 1000, 20_000
	type cost struct{ allocs, bytes float64 }
	costOf := func(n int) (c cost) {
		rs := compileConfig(t, longList(n))
		c.allocs = testing.AllocsPerRun(2, func() {
			prog, err := compile(rs, oneTable)
			if err != nil {
				t.Fatal(err)
			}
			var b batch
			b.addTable(prog[0], Table, every)
			c.bytes = 0
			for _, m := range b.messages {
				c.bytes += float64(len(m.Data))
			}
			for _, s := range prog[0].sets {
				if e := s.elements(); !e.equal(s.elements()) {
					t.Error("a set is not itself")
				}
			}
		})
		return c
	}
	a, b := costOf(few), costOf(many)
	if more := (b.allocs - a.allocs) / (many - few); more > 0.01 {
		t.Errorf("%.3f allocations for each item: %v for %d, %v for %d", more, a.allocs, few, b.allocs, many)
	}
	// 16 bytes and 24 for the ends of a range of IPv4, 28 and 36 for one of IPv6; and the heads of messages.
	if more := (b.bytes - a.bytes) / (many - few); more > 52.5 {
		t.Errorf("%.1f bytes for each item: %v for %d, %v for %d", more, a.bytes, few, b.bytes, many)
	}
}

// TestListsFit: lists that no transaction has room for are refused before the kernel is asked, by the rule.
func TestListsFit(t *testing.T) {
	t.Parallel()
	prog, err := compile(compileConfig(t, longList(1000)), oneTable)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	var b batch
	for _, s := range prog[0].sets {
		size += s.size()
		b.addElements(nftables.TableFamilyINet, Table, s)
	}
	sent := 0
	for _, m := range b.messages {
		sent += len(m.Data)
	}
	if size > sent || size < sent*95/100 {
		t.Errorf("%d bytes, of which %d are sent", size, sent)
	}
	if err := prog.fits(size); err != nil {
		t.Error(err)
	}
	err = prog.fits(size - 1)
	if rule, is := errors.AsType[*ruleset.RuleError](err); !is || rule.Rule != "O10.cidrs" ||
		!strings.Contains(err.Error(), "its list has 500 ranges") {
		t.Errorf("%v", err)
	}
}

// TestListIsReadWithoutAllocations: what the kernel lists is taken apart in place.
func TestListIsReadWithoutAllocations(t *testing.T) {
	prog, err := compile(compileConfig(t, longList(5000)), oneTable)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range prog[0].sets {
		var b batch
		b.addElements(nftables.TableFamilyINet, Table, s)
		if s.ranges.len() < long {
			continue
		}
		e := elements{}
		allocs := testing.AllocsPerRun(2, func() {
			e.bytes = e.bytes[:0]
			for _, m := range b.messages {
				for typ, list, rest, ok := nlattr.Cut(m.Data[4:]); ok; typ, list, rest, ok = nlattr.Cut(rest) {
					if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
						continue
					}
					for _, elem, rest, ok := nlattr.Cut(list); ok; _, elem, rest, ok = nlattr.Cut(rest) {
						e.add(element(elem))
					}
				}
			}
		})
		e.sort() // they are sent from the least to the greatest
		if allocs > 0 || !e.equal(s.elements()) {
			t.Errorf("set %s: %v allocations; equal: %v", s.name, allocs, e.equal(s.elements()))
		}
	}
}

// TestLongListInTheKernel: a list of several messages is put there whole. Where it is as it should be nothing is
// written; where somebody has taken one element out, check says so, and the next apply puts it back.
func TestLongListInTheKernel(t *testing.T) {
	t.Parallel()
	_, conn := namespace(t)
	rs := compileConfig(t, longList(6000))
	apply(t, conn, rs, ruleset.Created)
	apply(t, conn, rs, ruleset.Unchanged)
	check := func(want string) {
		t.Helper()
		diffs, err := conn.Check(t.Context(), rs)
		if err != nil || len(diffs) > 1 || (len(diffs) == 1) != (want != "") || len(diffs) == 1 && diffs[0].Problem != want {
			t.Fatalf("%v, %v; want %q", diffs, err, want)
		}
	}
	check("")
	prog, err := compile(rs, oneTable)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range prog[0].sets {
		if s.ranges.len() < long {
			continue
		}
		one := set{name: s.name, key: s.key}
		at := s.ranges.at(1234)
		one.ranges.add(at.first, at.last)
		var b batch
		b.addElements(nftables.TableFamilyINet, Table, one)
		for i := range b.messages {
			b.messages[i].Header.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM
		}
		if err := conn.commit(&b, 0); err != nil {
			t.Fatal(err)
		}
		check("1 ranges missing, 0 not ours")
		apply(t, conn, rs, ruleset.Replaced)
		check("")
	}
}
