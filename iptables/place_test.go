//go:build linux

package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestCountersByPlace: where the kernel has no comments, the places of the rules tell what they are, if it is known
// which Ruleset is in force.
func TestCountersByPlace(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		// Rule O<n> is of the ports 10n+1 to 10n+9, one rule each, so that the port tells its ID. Some go on in another
		// part of the chain.
		var rules []ruleset.Rule
		for n := range 4 {
			var ports ruleset.Ports
			for i := range 3 {
				ports = append(ports, ruleset.Port(uint16(10*(n+1)+2*i+1)))
			}
			match := []ruleset.Match{ruleset.Proto{ruleset.TCP}, ruleset.DstPort(ports)}
			if n%3 == 0 {
				match = append(match, ruleset.Not{Match: ruleset.Dst(mustCIDRs("192.0.2.0/24,198.51.100.0/24,fd00::/8,::1"))})
			}
			rules = append(rules, ruleset.Rule{ID: ruleset.RuleID(fmt.Sprintf("O%d.part", n+1)), Reason: "ports",
				Match: match, Target: ruleset.Return{}})
		}
		rs := ruleset.Ruleset{Families: families(), Chains: []ruleset.Chain{{Name: "output", Hook: ruleset.Output,
			Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain, Rules: rules}}}
		s := newSite(t, Options{Variant: v, Dialect: Minimal})
		s.mustApply(t, rs, ruleset.Created)
		s.seedCounters(t)
		var want []ruleset.Counter
		for _, f := range families() {
			sums := map[int]uint64{}
			for line := range strings.Lines(s.run(t, "", s.program(f, "save"), "-c")) {
				counts, rule, _ := strings.Cut(line, "] ")
				_, rest, of := strings.Cut(rule, "--dport ")
				packets, _, _ := strings.Cut(strings.TrimPrefix(counts, "["), ":")
				if port, _, _ := strings.Cut(rest, " "); of && strings.HasSuffix(line, "-j RETURN\n") {
					sums[must(strconv.Atoi(port))/10] += must(strconv.ParseUint(packets, 10, 64))
				}
			}
			for n, r := range rules {
				if sums[n+1] == 0 && (v == Legacy || f == ruleset.IPv4) {
					t.Fatalf("%s: rule %s has no counters", f, r.ID)
				}
				want = append(want, ruleset.Counter{Chain: "output", Rule: r.ID, Line: r.ID.Line(), Reason: "ports",
					Family: f.String(), Packets: sums[n+1], Bytes: 100 * sums[n+1]})
			}
		}
		got, err := s.countersLike(&rs)
		if diff := gocmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
		// Without a Ruleset, or with another one, a rule is called by what it says.
		other := rs
		other.Chains = []ruleset.Chain{rs.Chains[0]}
		other.Chains[0].Rules = rules[1:]
		for name, like := range map[string]*ruleset.Ruleset{"none": nil, "another": &other} {
			unknown, err := s.countersLike(like)
			if err != nil || len(unknown) < len(got) {
				t.Errorf("%s: %v, %v", name, unknown, err)
			}
			for _, c := range unknown {
				if c.Rule != "" || c.Line != "" || !strings.HasPrefix(c.Reason, "-") {
					t.Errorf("%s: %+v", name, c)
				}
			}
		}
		// Somebody puts a rule before ours: what is at another place is not told by it.
		s.restore(t, "*nat\n-I MESH_OUTPUT 3 -p tcp --dport 9999 -j RETURN\nCOMMIT\n")
		got, err = s.countersLike(&rs)
		if err != nil {
			t.Fatal(err)
		}
		known, alien := 0, false
		for _, c := range got {
			alien = alien || strings.Contains(c.Reason, "--dport 9999") && c.Rule == ""
			if i := strings.Index(c.Reason, "--dport "); c.Rule != "" {
				known++
			} else if i < 0 && !strings.Contains(c.Reason, "MESH_OUTPUT") {
				t.Errorf("%+v", c)
			}
		}
		if known < 4 || !alien {
			t.Errorf("%d rules are known, the alien %t", known, alien)
		}
	})
}

// TestDialectsCountAlike: in both dialects a configuration has the same counters, but for what has counted.
func TestDialectsCountAlike(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, c := range []intercept.Config{intercept.Default(), withDNS(), randomConfig(1), randomConfig(4)} {
			rs := compileConfig(t, fitting(c, Minimal))
			if _, err := Render(rs, Options{Dialect: Minimal}); err != nil {
				continue
			}
			var names [2][]ruleset.Counter
			for i, d := range []Dialect{Standard, Minimal} {
				s := newSite(t, Options{Variant: v, Dialect: d})
				s.mustApply(t, rs, ruleset.Created)
				got, err := s.countersLike(&rs)
				if err != nil || len(got) < 10 || slices.ContainsFunc(got, func(c ruleset.Counter) bool { return c.Rule == "" }) {
					t.Errorf("%s: %+v, %v", d, got, err)
				}
				names[i] = got
			}
			if diff := gocmp.Diff(names[0], names[1]); diff != "" {
				t.Errorf("standard (-) and minimal (+):\n%s", diff)
			}
		}
	})
}

// TestCheckByPlace: what differs has its ID, with comments and without.
func TestCheckByPlace(t *testing.T) {
	c := intercept.Default()
	c.Outbound.ExcludePorts = must(ruleset.ParsePorts("8080,9090"))
	rs := compileConfig(t, fitting(c, Minimal))
	variants(t, func(t *testing.T, v Variant) {
		for name, tt := range map[string]struct {
			change func(line string) string // of each rule; empty: it goes
			want   []string                 // IDs and problems
		}{
			"a rule is gone": {func(line string) string {
				if strings.Contains(line, "--uid-owner 1337 -j RETURN") {
					return ""
				}
				return line
			}, []string{"O4.uid missing"}},
			"a port is another": {func(line string) string { return strings.Replace(line, "--dport 8080", "--dport 8081", 1) },
				[]string{"O5.ports missing", "O5.ports has other conditions, another target or another comment"}},
			"a rule is new": {func(line string) string {
				if strings.Contains(line, "--dport 8080") {
					return line + "-A MESH_OUTPUT -p tcp -m tcp --dport 1 -j ACCEPT\n"
				}
				return line
			}, []string{" not ours"}},
		} {
			s := newSite(t, Options{Variant: v, Dialect: Minimal})
			s.mustApply(t, rs, ruleset.Created)
			for _, f := range families() {
				input := "*nat\n:MESH_OUTPUT - [0:0]\n"
				for line := range strings.Lines(s.run(t, "", s.program(f, "save"))) {
					if strings.HasPrefix(line, "-A MESH_OUTPUT ") {
						input += tt.change(line)
					}
				}
				s.run(t, input+"COMMIT\n", s.program(f, "restore"), "--noflush")
			}
			diffs, err := s.check(rs)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range diffs {
				got = append(got, string(d.Rule)+" "+d.Problem)
			}
			if want := append(tt.want, tt.want...); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q in both families", name, got, tt.want)
			}
		}
	})
}

// TestRefusedRuleIsNamed: the error holds the ID of the rule that the program refused, its line and what was said.
func TestRefusedRuleIsNamed(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, d := range []Dialect{Standard, Minimal} {
			s := newSite(t, Options{Variant: v, Dialect: d})
			rs := ruleset.Ruleset{Families: families(), Chains: []ruleset.Chain{
				{Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain,
					Rules: []ruleset.Rule{
						{ID: "O1", Reason: "fine", Match: []ruleset.Match{ruleset.Proto{ruleset.TCP, ruleset.UDP}},
							Target: ruleset.Return{}},
						{ID: "O2.long", Reason: "culprit", Match: []ruleset.Match{ruleset.OutInterface("longer-than-fifteen")},
							Target: ruleset.Return{}},
					}}}}
			_, err := s.apply(rs)
			var rule *ruleset.RuleError
			if !errors.As(err, &rule) || rule.Chain != "output" || rule.Rule != "O2.long" {
				t.Errorf("%s: %v", d, err)
			}
			var program *ProgramError
			if !errors.As(err, &program) || program.Line == 0 || !strings.Contains(program.Text, "longer-than-fifteen") ||
				!strings.Contains(program.Program, "iptables-") || program.Said == "" {
				t.Errorf("%s: %+v", d, program)
			}
		}
	})
}

// TestRuleAt: a line of the input is known by its place.
func TestRuleAt(t *testing.T) {
	p := program{tables: []table{
		{name: "raw", chains: []chain{{name: "MESH_A", rules: []rule{{id: "O1"}}}}},
		{name: "nat", chains: []chain{{name: "MESH_A", rules: []rule{{id: "O2"}, {}, {id: "O3"}}},
			{name: "MESH_A_1", rules: []rule{{id: "O4"}}}}},
	}}
	input := "*raw\n-A MESH_A x\nCOMMIT\n*nat\n:MESH_A - [0:0]\n-A MESH_A x\n-A MESH_A y\n-A MESH_A z\n-A MESH_A_1 x\n-A OUTPUT -j MESH_A\nCOMMIT\n"
	want := map[int]ruleset.RuleID{2: "O1", 6: "O2", 8: "O3", 9: "O4"}
	for line := range 14 {
		chain, r, ok := p.ruleAt(input, line)
		if r.id != want[line] || ok != (want[line] != "") || ok && chain != "a" {
			t.Errorf("line %d: chain %q, rule %q, %t", line, chain, r.id, ok)
		}
	}
}
