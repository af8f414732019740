//go:build linux

package iptables

import (
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestMeaningWithSets: rules that ask sets, as soon as there are two on a list, do with packets what Trace foretells.
func TestMeaningWithSets(t *testing.T) {
	t.Parallel()
	asking, fates := 0, map[ruleset.Action]int{}
	for seed := range uint64(1500) {
		r := rand.New(rand.NewPCG(seed, 31))
		rs := randomRuleset(r, 9, Standard)
		if seed%3 == 0 {
			c := gen.Config(r)
			c.Backstop, c.Outbound.OtherProtocols = intercept.BackstopOn, intercept.TreatmentPass
			rs = compileConfig(t, c)
		}
		all, err := machinesOf(rs, Options{Variant: []Variant{NFT, Legacy}[seed%2], sets: 2})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, m := range all {
			for _, table := range m.tables {
				for _, rules := range table {
					for _, r := range rules {
						if strings.Contains(r.text, matchSet) {
							asking++
						}
					}
				}
			}
		}
		for range 16 {
			fates[compare(t, rs, all, aimed(r, rs)).Fate.Action]++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if asking < 1000 || len(fates) < 4 {
		t.Errorf("%d rules asked sets; fates: %v", asking, fates)
	}
}

// TestLongListsAreSets: there is a set for each long list, no rule for each item, and a list that is short is none.
func TestLongListsAreSets(t *testing.T) {
	c := intercept.Default()
	list := func(n int) (all ruleset.CIDRs) {
		for i := range n {
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 17))
		}
		return all
	}
	for n, want := range map[int]int{setFrom - 1: 0, setFrom: 1, 5000 / 20: 1} {
		c.Outbound.ExcludeCIDRs = list(n)
		p := must(compile(compileConfig(t, c), ruleset.IPv4, Options{Variant: Legacy, sets: setFrom}, everyone()))
		if len(p.sets) != want || want == 1 && (p.sets[0].rule != "O10" && p.sets[0].rule.Line() != "O10" || p.sets[0].Len() != n) {
			t.Errorf("%d networks: %+v", n, p.sets)
		}
		if rules := len(p.table("nat").chain("MESH_OUTPUT").rules); rules > 60 {
			t.Errorf("%d networks are %d rules", n, rules)
		}
	}
	// Every address is no set: the kernel's have no /0.
	c.Outbound.ExcludeCIDRs = ruleset.CIDRs{netip.MustParsePrefix("0.0.0.0/0")}
	c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs, list(100)...)
	if p := must(compile(compileConfig(t, c), ruleset.IPv4, Options{sets: 2}, everyone())); slices.ContainsFunc(p.sets,
		func(a asked) bool { return a.rule.Line() == "O10" }) {
		t.Errorf("%+v", p.sets)
	}
	halves := ruleset.CIDRs{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/2")}
	c.Outbound.ExcludeCIDRs = halves
	if p := must(compile(compileConfig(t, c), ruleset.IPv4, Options{sets: 2}, everyone())); !slices.ContainsFunc(p.sets,
		func(a asked) bool { return a.Len() == 2 && a.rule.Line() == "O10" }) {
		t.Errorf("%+v", p.sets)
	}
}

// setNames are the names of our sets.
func (s site) setNames(t testing.TB) []string { return slices.Sorted(maps.Keys(s.sets(t))) }

// TestSetsInTheKernel: what becomes of sets from the first apply to the removal, beside sets of others.
func TestSetsInTheKernel(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		foreign := []string{"mine", "MESH_mine"}
		inNS := func(f func() error) {
			t.Helper()
			if err := s.Do(f); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range foreign {
			inNS(func() error { return netlink.IpsetCreate(name, "hash:net", netlink.IpsetCreateOptions{}) })
		}
		was := s.everything(t)
		rs := compileConfig(t, many())
		s.mustApply(t, rs, ruleset.Created)
		s.mustBe(t, rs)
		first := s.sets(t)
		if len(first) != 2 {
			t.Fatalf("%v", first)
		}
		for name, n := range first {
			if n == 0 {
				t.Errorf("no rule asks %s", name)
			}
		}
		before := s.everything(t)
		s.mustApply(t, rs, ruleset.Unchanged)
		if diff := cmp.Diff(before, s.everything(t)); diff != "" {
			t.Errorf("changed:\n%s", diff)
		}

		// What others do to a set is seen, said and mended.
		spoilt := s.setNames(t)[0]
		inNS(func() error { return netlink.IpsetFlush(spoilt) })
		diffs, err := s.check(rs)
		if err != nil || len(diffs) != 1 || !strings.Contains(diffs[0].String(), "set "+spoilt+" of rule") ||
			!strings.HasSuffix(string(diffs[0].Rule), "O10.cidrs") {
			t.Errorf("%v, %v", diffs, err)
		}
		s.mustApply(t, rs, ruleset.Replaced)
		s.mustBe(t, rs)
		if diff := cmp.Diff(before, s.everything(t)); diff != "" {
			t.Errorf("mending a set changed more:\n%s", diff)
		}

		// A list that changes gets another set, and one that does not keeps its own.
		c := many()
		c.Outbound.ExcludeCIDRs = c.Outbound.ExcludeCIDRs[1:]
		other := compileConfig(t, c)
		s.mustApply(t, other, ruleset.Replaced)
		s.mustBe(t, other)
		second := s.sets(t)
		kept := 0
		for name := range second {
			if _, was := first[name]; was {
				kept++
			}
		}
		if len(second) != len(first) || kept == 0 || kept == len(first) {
			t.Errorf("first %v, then %v", first, second)
		}
		if diffs, err := s.check(rs); err != nil || len(diffs) == 0 {
			t.Errorf("%v, %v", diffs, err)
		}

		// Somebody was killed before there were rules that ask.
		s.withSets(t, func(c *ipset.Conn) error {
			_, err := c.Make(ipset.Addresses(ruleset.IPv6, mustCIDRs("2001:db8::/64,2001:db8:1::/64")))
			return err
		})
		s.mustApply(t, other, ruleset.Unchanged)
		if diff := cmp.Diff(second, s.sets(t)); diff != "" {
			t.Error(diff)
		}
		plain := compileConfig(t, intercept.Default())
		s.mustApply(t, plain, ruleset.Replaced)
		s.mustBe(t, plain)
		if left := s.sets(t); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		s.mustApply(t, rs, ruleset.Replaced)
		s.mustRemove(t)
		checkRestored(t, s, was)
		inNS(func() error {
			all, err := netlink.IpsetListAll()
			if len(all) != len(foreign) {
				t.Errorf("%d sets are left", len(all))
			}
			return err
		})
	})
}

// TestForeignRuleAsksOurSet: a set that somebody's rule asks cannot go. Who would take it out says so, and does nothing.
func TestForeignRuleAsksOurSet(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		rs, plain := compileConfig(t, many()), compileConfig(t, intercept.Default())
		s.mustApply(t, rs, ruleset.Created)
		set := s.setNames(t)[0]
		command := "-t filter -A OUTPUT -m set --match-set " + set + " dst -j ACCEPT"
		s.iptables(t, ruleset.IPv4, command)
		was := s.saved(t)
		for name, once := range map[string]func() error{
			"Remove":              func() error { _, err := s.remove(); return err },
			"Apply without lists": func() error { _, err := s.apply(plain); return err },
		} {
			err := once()
			ref, is := errors.AsType[*beside.ReferenceError](err)
			if !is || ref.Set != set || !strings.Contains(err.Error(), "asks set "+set+": delete that rule first") {
				t.Errorf("%s: %v", name, err)
			}
			if diff := cmp.Diff(was, s.saved(t)); diff != "" {
				t.Errorf("%s changed something:\n%s", name, diff)
			}
		}
		s.mustApply(t, rs, ruleset.Unchanged)
		s.iptables(t, ruleset.IPv4, strings.Replace(command, "-A", "-D", 1))
		s.mustApply(t, plain, ruleset.Replaced)
		if left := s.sets(t); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestSetsOfFailedApply: what an apply has made before it failed is gone, and what was there before is not.
func TestSetsOfFailedApply(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		c := many()
		c.Outbound.ExcludeCIDRs = c.Outbound.ExcludeCIDRs[:90]
		rs := compileConfig(t, c)
		s.mustApply(t, rs, ruleset.Created)
		was := s.everything(t)
		wrap(t, s.program(ruleset.IPv6, "restore"), `[ $n != 1 ] || { echo "it fails" >&2; exit 1; }; exec REAL "$@"`)
		s.b = s.open(t, Options{Variant: v})
		if _, err := s.apply(compileConfig(t, many())); err == nil || !strings.Contains(err.Error(), "it fails") {
			t.Fatal(err)
		}
		s.mustBe(t, rs)
		now := s.everything(t)
		if v == NFT { // handles and the counters of IPv6 begin anew
			was, now = "", ""
			if names := s.setNames(t); len(names) < 2 {
				t.Error(names)
			}
		}
		if diff := cmp.Diff(was, now); diff != "" {
			t.Error(diff)
		}
		for name, n := range s.sets(t) {
			if n == 0 {
				t.Errorf("left: %s", name)
			}
		}
	})
}

// TestProgramWithoutSets: iptables without libxt_set, and a process without CAP_NET_RAW, have rules instead.
func TestProgramWithoutSets(t *testing.T) {
	aloneEach(t, func(t *testing.T, v Variant) {
		dirs, err := filepath.Glob("/usr/lib/*/xtables")
		if err != nil || len(dirs) == 0 {
			t.Fatal("where are the extensions of iptables?")
		}
		dir := t.TempDir()
		all, err := filepath.Glob(dirs[0] + "/*.so")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range all {
			if name := filepath.Base(file); name != "libxt_set.so" {
				if err := os.Symlink(file, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Setenv("XTABLES_LIBDIR", dir)
		s := newSite(t, Options{Variant: v})
		was := s.everything(t)
		rs := compileConfig(t, many())
		s.mustApply(t, rs, ruleset.Created)
		s.mustBe(t, rs)
		if sets := s.sets(t); len(sets) > 0 || !strings.Contains(s.saved(t), "-d 10.0.200.0/25") {
			t.Errorf("%v", sets)
		}
		s.mustApply(t, rs, ruleset.Unchanged)

		// Rules that are in force stay as they are where there are sets: packets meet the same.
		t.Setenv("XTABLES_LIBDIR", dirs[0])
		s.mustBe(t, rs)
		s.mustApply(t, rs, ruleset.Unchanged)
		c := many()
		c.Outbound.ExcludeCIDRs = c.Outbound.ExcludeCIDRs[2:]
		s.mustApply(t, compileConfig(t, c), ruleset.Replaced)
		if sets := s.sets(t); len(sets) < 2 || strings.Contains(s.saved(t), "-d 10.0.200.0/25") {
			t.Errorf("%v", sets)
		}
		s.mustRemove(t)
		checkRestored(t, s, was)
	})
}

// TestSetsHere: this kernel has sets for both variants, and the minimal dialect does without.
func TestSetsHere(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		err := s.Do(func() error { return s.b.Sets() })
		if err != nil {
			t.Error(err)
		}
		minimal := s.open(t, Options{Variant: v, Dialect: Minimal})
		if err := s.Do(func() error { return minimal.Sets() }); !errors.Is(err, ruleset.ErrUnsupported) {
			t.Error(err)
		}
	})
}

// TestSetsCount: a rule that asks a set counts the packets to all that is on the list, in both families, for lists of
// addresses and of ports, plain and negated.
func TestSetsCount(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		for _, command := range []string{"link set lo up", "route add local 10.0.0.0/8 dev lo", "route add local fd00::/8 dev lo"} {
			s.run(t, "", "ip", strings.Fields(command)...)
		}
		var list ruleset.CIDRs
		var ports ruleset.Ports
		for i := range byte(100) {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, i, 0, 0}), 17),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, i}), 25))
		}
		for i := range uint16(400) {
			ports = append(ports, ruleset.PortRange{First: 1000 + 3*i, Last: 1001 + 3*i})
		}
		udp := ruleset.Proto{ruleset.UDP}
		rs := ruleset.Ruleset{Families: families(), Chains: []ruleset.Chain{{Name: "output", Hook: ruleset.Output,
			Priority: ruleset.PriorityFilter, Rules: []ruleset.Rule{
				{ID: "O1", Reason: "none of the networks", Match: []ruleset.Match{udp, ruleset.Not{Match: ruleset.Dst(list)}},
					Target: ruleset.Return{}},
				{ID: "O2", Reason: "the ports", Match: []ruleset.Match{udp, ruleset.DstPort(ports)}, Target: ruleset.Return{}},
				{ID: "O3", Reason: "the networks", Match: []ruleset.Match{udp, ruleset.Dst(list),
					ruleset.Not{Match: ruleset.DstPort(ports)}}, Target: ruleset.Return{}},
				{ID: "O4", Reason: "nothing comes here", Match: []ruleset.Match{udp}, Target: ruleset.Return{}}}}}}
		s.mustApply(t, rs, ruleset.Created)
		if len(s.sets(t)) != 3 {
			t.Fatalf("%v", s.sets(t))
		}
		want := map[ruleset.RuleID]uint64{}
		for to, id := range map[string]ruleset.RuleID{
			"10.0.0.1:999": "O3", "10.0.128.1:999": "O1", "10.99.127.255:9999": "O3", "10.100.0.1:1000": "O1", "10.99.0.1:1000": "O2",
			"10.5.0.1:1001": "O2", "10.5.0.1:1002": "O3", "10.5.0.1:2198": "O2", "10.5.0.1:2199": "O3", "10.5.0.1:65535": "O3",
			"[fd00::1]:999": "O3", "[fd00:80::1]:999": "O1", "[fd00:6300::1]:2197": "O2", "[fd00:6300::1]:2196": "O3",
			"[fd00:6400::1]:1000": "O1", "[fd00:7fff::]:7": "O1",
		} {
			dst := netip.MustParseAddrPort(to)
			domain, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16()})
			if dst.Addr().Is4() {
				domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}
			}
			fd, err := s.Socket(domain, unix.SOCK_DGRAM, &intercept.Owner{UID: 1000, GID: 1000})
			if err == nil {
				err = errors.Join(unix.Sendto(fd, []byte("x"), 0, sa), unix.Close(fd))
			}
			if err != nil {
				t.Fatal(err)
			}
			want[id]++
		}
		got := map[ruleset.RuleID]uint64{}
		counters, err := s.counters()
		for _, c := range counters {
			if c.Packets > 0 {
				got[c.Rule] += c.Packets
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s%v", diff, err)
		}
	})
}

// TestSweepSets takes out the sets that no rule asks, and names the others.
func TestSweepSets(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		sweep := func() (swept bool, left []string) {
			t.Helper()
			if err := s.Do(func() (err error) { swept, left, err = SweepSets(t.Context(), false); return err }); err != nil {
				t.Fatal(err)
			}
			return swept, left
		}
		if swept, left := sweep(); swept || len(left) > 0 {
			t.Errorf("%t, %v", swept, left)
		}
		s.mustApply(t, compileConfig(t, many()), ruleset.Created)
		names := s.setNames(t)
		s.withSets(t, func(c *ipset.Conn) error {
			_, err := c.Make(ipset.OfPorts(ruleset.Ports{ruleset.Port(7)}))
			return err
		})
		if swept, left := sweep(); !swept || !slices.Equal(left, names) {
			t.Errorf("%t, %v", swept, left)
		}
		s.mustRemove(t)
		if swept, left := sweep(); swept || len(left) > 0 {
			t.Errorf("%t, %v", swept, left)
		}
	})
}
