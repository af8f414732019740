package iptables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// validate does what the kernel does to make sure of a table (nft_table_validate and nft_chain_validate of
// net/netfilter/nf_tables_api.c): from each built-in chain it follows every jump and every goto, and a chain again each
// time. It remembers what a chain took, for the numbers can be too big to count.
func (m *machine) validate(table string) (visits, depth int, err error) {
	type cost struct{ visits, depth int }
	known := map[string]cost{}
	var chain func(name string, level int) (cost, error)
	chain = func(name string, level int) (cost, error) {
		if level > 100 {
			return cost{}, errors.New("it goes round in circles")
		}
		if c, ok := known[name]; ok {
			return c, nil
		}
		c := cost{depth: 1}
		for _, r := range m.tables[table][name] {
			c.visits++
			if strings.HasPrefix(r.target[1], "MESH_") {
				below, err := chain(r.target[1], level+1)
				if err != nil {
					return cost{}, err
				}
				c.visits, c.depth = min(c.visits+below.visits, 1<<50), max(c.depth, below.depth+1)
			}
		}
		known[name] = c
		return c, nil
	}
	for name := range m.tables[table] {
		if strings.HasPrefix(name, "MESH_") {
			continue
		}
		c, err := chain(name, 0)
		if err != nil {
			return 0, 0, err
		}
		visits, depth = visits+c.visits, max(depth, c.depth)
	}
	return visits, depth, nil
}

// rules counts those of a table.
func (m *machine) rules(table string) (n int) {
	for _, rules := range m.tables[table] {
		n += len(rules)
	}
	return n
}

// owned returns exclusions of so many CIDRs of each family and so many users each, none of them in two of them.
func owned(exclusions, cidrs, users int) []intercept.Exclusion {
	var all []intercept.Exclusion
	for k := range exclusions {
		var e intercept.Exclusion
		for i := range cidrs {
			e.CIDRs = append(e.CIDRs,
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(k), byte(i / 100), byte(2 * (i % 100))}), 32),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(k), 14: byte(i / 100), 15: byte(2 * (i % 100))}), 128))
		}
		for i := range users {
			e.UIDs = append(e.UIDs, ruleset.ID(uint32(5000+1000*k+2*i)))
		}
		all = append(all, e)
	}
	return all
}

// rich is a random configuration with more of what multiplies: exclusions of long lists, several identities of the
// proxy, owners to capture, interfaces, and everything that adds chains.
func rich(r *rand.Rand) intercept.Config {
	c := gen.Config(r)
	c.Backstop = pick(r, []intercept.Backstop{intercept.BackstopOn, intercept.BackstopOn, intercept.BackstopSyn})
	c.Outbound.Exclude = append(c.Outbound.Exclude, owned(r.IntN(12), 1+r.IntN(30), r.IntN(30))...)
	for i := range c.Outbound.Exclude {
		e := &c.Outbound.Exclude[i]
		if one(r, 2) {
			e.Ports = somePorts(r, 20)
		}
		if one(r, 3) {
			e.GIDs = someIDs(r, 20)
		}
		if one(r, 5) {
			e.CIDRs = nil
		}
		if len(e.CIDRs)+len(e.UIDs)+len(e.GIDs)+len(e.Ports) == 0 {
			e.Ports = somePorts(r, 20)
		}
	}
	for range r.IntN(8) {
		c.Inbound.Exclude = append(c.Inbound.Exclude,
			intercept.InboundExclusion{Sources: someCIDRs(r, 10), Ports: somePorts(r, 20)})
	}
	if one(r, 3) {
		c.Proxy.UIDs, c.Proxy.GIDs = append(c.Proxy.UIDs, someIDs(r, 9)...), append(c.Proxy.GIDs, someIDs(r, 9)...)
	}
	if one(r, 3) {
		c.Outbound.IncludeUIDs, c.Outbound.IncludeGIDs = someIDs(r, 30), someIDs(r, 30)
	}
	if one(r, 3) {
		c.Outbound.IncludeCIDRs, c.Outbound.ExcludeCIDRs = someCIDRs(r, 30), someCIDRs(r, 30)
	}
	if one(r, 2) {
		c.VirtualInterfaces, c.ExcludeInterfaces = []string{"br-vm", "docker0", "vm*"}, []string{"net1", "net2"}
	}
	if one(r, 2) {
		c.Outbound.UDP = intercept.TreatmentReject
	}
	return c
}

// TestWays: whatever the configuration, the kernel has not to follow many ways through the chains, and the chains are
// not deeper than it takes.
func TestWays(t *testing.T) {
	t.Parallel()
	const configs = 150
	judged, flagged, most, deepest := 0, 0, 0, 0
	for seed := uint64(0); judged < configs; seed++ {
		r := rand.New(rand.NewPCG(seed, 24))
		config := rich(r)
		if config.Validate() != nil {
			continue
		}
		judged++
		rs := compileConfig(t, config)
		rs.Older = someTuples(r)
		all, err := machines(rs, Standard)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for f, m := range all {
			for _, name := range tableNames() {
				visits, depth, err := m.validate(name)
				if err != nil {
					t.Fatalf("seed %d, %s, table %s: %v", seed, f, name, err)
				}
				// A few times what it takes to read them once, unless that is little.
				if visits > max(20_000, 32*m.rules(name)) || depth > 16 {
					t.Errorf("seed %d, %s, table %s: %d rules are %d on all ways, %d deep", seed, f, name, m.rules(name), visits,
						depth)
				}
				if strings.Contains(fmt.Sprint(m.tables[name]), "--set-xmark 0x80000000/0x0") {
					flagged++
				}
				most, deepest = max(most, visits), max(deepest, depth)
			}
		}
	}
	if flagged < configs/10 {
		t.Errorf("%d tables only had so many ways that they were written with a flag", flagged)
	}
	t.Logf("up to %d rules on all ways, up to %d chains deep", most, deepest)
}

// write lowers a Ruleset with a flag wherever there can be one, or nowhere.
func write(t *testing.T, rs ruleset.Ruleset, f ruleset.Family, flag bool) program {
	t.Helper()
	at, err := homes(rs)
	if err != nil {
		t.Fatal(err)
	}
	p := program{family: f}
	for _, name := range tableNames() {
		l := lowering{family: f, dialect: Standard, users: everyone(), flag: flag}
		if err := l.fill(name, rs, at); err != nil {
			t.Fatal(err)
		}
		if len(l.table.chains) > 0 {
			p.tables = append(p.tables, l.table)
		}
	}
	return p
}

// TestMeaningWithFlag: a chain that is written with a flag does what it does in parts, and the packet keeps its mark.
func TestMeaningWithFlag(t *testing.T) {
	t.Parallel()
	const rulesets = 150
	written := func(rs ruleset.Ruleset, flag bool) map[ruleset.Family]*machine {
		all := map[ruleset.Family]*machine{}
		for _, f := range rs.Families {
			text := transition(nil, write(t, rs, f, flag), Options{})
			var err error
			if all[f], err = load(text); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
		}
		return all
	}
	flagged, judged := 0, 0
	for seed := range uint64(rulesets) {
		r := rand.New(rand.NewPCG(seed, 25))
		rs := randomRuleset(r, 9, Standard)
		if one(r, 2) {
			config := rich(r)
			if config.Validate() != nil {
				continue
			}
			rs = compileConfig(t, config)
		}
		inParts, withFlag := written(rs, false), written(rs, true)
		for _, m := range withFlag {
			if strings.Contains(fmt.Sprint(m.tables), "--set-xmark 0x80000000/0x0") {
				flagged++
			}
		}
		for range 40 {
			p := aimed(r, rs)
			if one(r, 2) {
				p.Mark |= flagBit
			}
			compare(t, rs, withFlag, p)
			compare(t, rs, inParts, p)
			m := withFlag[ruleset.FamilyOf(p.Dst.Addr())]
			if m == nil {
				continue
			}
			judged++
			got, err := m.follow(p)
			want, err2 := inParts[ruleset.FamilyOf(p.Dst.Addr())].follow(p)
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			if got.p.Mark != want.p.Mark || got.p.ConnMark != want.p.ConnMark {
				t.Errorf("seed %d: %+v: its marks are %#x, %#x, and would be %#x, %#x", seed, p, got.p.Mark, got.p.ConnMark,
					want.p.Mark, want.p.ConnMark)
			}
		}
		if t.Failed() {
			for _, f := range rs.Families {
				t.Logf("seed %d, %s:\n%s", seed, f, transition(nil, write(t, rs, f, true), Options{}))
			}
			t.FailNow()
		}
	}
	if flagged < rulesets/2 || judged < 20*rulesets {
		t.Errorf("%d flagged, %d packets judged", flagged, judged)
	}
}

// TestWaysAdd: twice as many exclusions are twice as many ways.
func TestWaysAdd(t *testing.T) {
	count := func(n, cidrs, users int) (visits, rules, depth int) {
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll
		c.Outbound.UDP = intercept.TreatmentReject
		c.Outbound.Exclude = owned(n, cidrs, users)
		all, err := machines(compileConfig(t, c), Standard)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tableNames() {
			v, d, err := all[ruleset.IPv4].validate(name)
			if err != nil {
				t.Fatal(err)
			}
			visits, rules, depth = visits+v, rules+all[ruleset.IPv4].rules(name), max(depth, d)
		}
		return visits, rules, depth
	}
	few, _, depth := count(10, 20, 20)
	many, rules, deeper := count(20, 20, 20)
	if many > 2*few || deeper > depth || many > 10*rules {
		t.Errorf("10 exclusions are %d rules on all ways, %d deep, and 20 are %d, %d deep, of %d rules", few, depth, many,
			deeper, rules)
	}
	if visits, rules, _ := count(1, 1000, 20); visits > 10*rules {
		t.Errorf("1,000 CIDRs and 20 users are %d rules on all ways, of %d", visits, rules)
	}
}

// inARow returns so many chains, each of which leads to the next.
func inARow(n int) ruleset.Ruleset {
	rs := ruleset.Ruleset{Families: families()}
	for i := range n {
		c := ruleset.Chain{Name: fmt.Sprintf("c%d", i), Rules: []ruleset.Rule{{ID: ruleset.RuleID(fmt.Sprintf("O1.%d", i)),
			Reason: "down", Target: ruleset.Return{}}}}
		if i == 0 {
			c.Hook, c.Priority = ruleset.Output, ruleset.PriorityFilter
		}
		if i+1 < n {
			c.Rules[0].Target = ruleset.Jump{Chain: fmt.Sprintf("c%d", i+1)}
		}
		rs.Chains = append(rs.Chains, c)
	}
	return rs
}

// TestTooMuchIsNamed: what the kernel would refuse, or be busy with for long, is refused before it is asked, by name.
func TestTooMuchIsNamed(t *testing.T) {
	if _, err := Render(inARow(maxDepth-1), Options{Variant: NFT}); err != nil {
		t.Error(err)
	}
	wide := inARow(8) // by ten ways each
	for i := range wide.Chains {
		r := wide.Chains[i].Rules[0]
		wide.Chains[i].Rules = nil
		for j := range 10 {
			r.ID, r.Match = ruleset.RuleID(fmt.Sprintf("O1.%d.%d", i, j)), []ruleset.Match{ruleset.Length(j)}
			wide.Chains[i].Rules = append(wide.Chains[i].Rules, r)
		}
	}
	long := func(net int) (all ruleset.CIDRs) {
		for i := range 1500 {
			all = append(all, mustCIDRs(fmt.Sprintf("10.%d.%d.%d/32,fd00::%d:%x", net, i/100, 2*(i%100), net, 2*i))...)
		}
		return all
	}
	lists := inARow(1)
	lists.Chains[0].Rules = []ruleset.Rule{
		{ID: "O5.exclude.1", Reason: "exclusion 1", Match: []ruleset.Match{ruleset.Dst(mustCIDRs("10.0.0.0/8,192.0.2.0/24"))},
			Target: ruleset.Return{}},
		{ID: "O5.exclude.2", Reason: "exclusion 2", Match: []ruleset.Match{ruleset.Src(long(1)), ruleset.Dst(long(2))},
			Target: ruleset.Drop{}}}
	for name, tt := range map[string]struct {
		rs          ruleset.Ruleset
		chain, want string
	}{
		"deep":  {inARow(maxDepth), "c0", "17 deep"},
		"wide":  {wide, "c0", "through 111111111 rules"},
		"lists": {lists, "c0", "O5.exclude.2 (exclusion 2, 3000 items)"},
	} {
		_, err := Render(tt.rs, Options{Variant: NFT})
		var rule *ruleset.RuleError
		if !errors.Is(err, ruleset.ErrUnsupported) || !errors.As(err, &rule) || rule.Chain != tt.chain ||
			!strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "IPv4, table filter") ||
			!strings.Contains(err.Error(), "use the backend nft or iptables-legacy") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Render(tt.rs, Options{Variant: Legacy}); err != nil {
			t.Errorf("%s, legacy: %v", name, err)
		}
	}
}
