//go:build linux

package iptables

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestGolden: the text for some configurations, to be read by people.
// MESH_TEST_UPDATE=1 writes it anew.
func TestGolden(t *testing.T) {
	dns := intercept.Default()
	dns.DNS.Mode = intercept.DNSAll
	dns.Outbound.IncludeUIDs = must(ruleset.ParseIDs("1000,2000-2999"))
	dns.Outbound.ExcludePorts = must(ruleset.ParsePorts("3306,8000-8010"))
	dns.Outbound.ExcludeCIDRs = mustCIDRs("10.0.0.0/8,fd00::/8")
	for name, tt := range map[string]struct {
		config intercept.Config
		o      Options
	}{
		"default":         {intercept.Default(), Options{}},
		"default-last":    {intercept.Default(), Options{Jumps: JumpsLast}},
		"default-minimal": {fitting(intercept.Default(), Minimal), Options{Dialect: Minimal}},
		"dns-owners":      {dns, Options{}},
	} {
		inputs, err := Render(compileConfig(t, tt.config), tt.o)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, in := range inputs {
			fmt.Fprintf(&b, "# %s --noflush\n%s", in.Program(), in.Text)
		}
		path := filepath.Join("testdata", name+".rules")
		if os.Getenv("MESH_TEST_UPDATE") == "1" {
			if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(b.String()), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", path, diff)
		}
	}
}

// outputRules are the rules that one rule becomes in chain c of the nat table.
func outputRules(t *testing.T, d Dialect, match ...ruleset.Match) []string {
	t.Helper()
	rs := ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4}, Chains: []ruleset.Chain{{
		Name: "c", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain,
		Rules: []ruleset.Rule{{ID: "O1", Reason: "r", Match: match, Target: ruleset.Accept{}}}}}}
	var rules []string
	for line := range strings.Lines(textOf(t, rs, d, ruleset.IPv4)) {
		if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "); ok {
			rules = append(rules, strings.Replace(rule, ` -m comment --comment "O1: r"`, "", 1))
		}
	}
	return rules
}

// TestPortsInChunks: fifteen ports a rule, of which a range takes two.
func TestPortsInChunks(t *testing.T) {
	list := func(singles, ranges int) (p ruleset.Ports) {
		for i := range ranges {
			p = append(p, ruleset.PortRange{First: uint16(1000 + 10*i), Last: uint16(1004 + 10*i)})
		}
		for i := range singles {
			p = append(p, ruleset.Port(uint16(3*i+1)))
		}
		return p
	}
	tcp := ruleset.Proto{ruleset.TCP}
	for _, tt := range []struct{ singles, ranges, want int }{
		{1, 0, 1}, {2, 0, 1}, {15, 0, 1}, {16, 0, 2}, {30, 0, 2}, {31, 0, 3}, {0, 1, 1}, {0, 7, 1}, {0, 8, 2},
		{1, 7, 1}, {2, 7, 2}, {13, 1, 1}, {14, 1, 2}, {14, 7, 2}, {200, 100, 28},
	} {
		rules := outputRules(t, Standard, tcp, ruleset.DstPort(list(tt.singles, tt.ranges)))
		if len(rules) != tt.want {
			t.Errorf("%d ports and %d ranges are %d rules, want %d:\n%s", tt.singles, tt.ranges, len(rules), tt.want,
				strings.Join(rules, "\n"))
		}
		for _, rule := range rules {
			_, value, ok := strings.Cut(rule, "ports ")
			value, _, _ = strings.Cut(value, " ")
			if room := strings.Count(value, ",") + strings.Count(value, ":") + 1; ok && room > 15 {
				t.Errorf("multiport has room for 15, not for %d: %s", room, rule)
			}
		}
		if tt.singles+tt.ranges > 20 {
			continue
		}
		if got := len(outputRules(t, Minimal, tcp, ruleset.DstPort(list(tt.singles,
			tt.ranges)))); got != tt.singles+tt.ranges {
			t.Errorf("the minimal dialect makes %d rules of %d ports and %d ranges", got, tt.singles, tt.ranges)
		}
	}
	for _, tt := range []struct {
		match []ruleset.Match
		want  []string
	}{
		{[]ruleset.Match{tcp, ruleset.DstPort{{First: 60000, Last: 65535}}},
			[]string{"MESH_C -p tcp --dport 60000:65535 -j ACCEPT"}},
		{[]ruleset.Match{tcp, ruleset.Not{Match: ruleset.DstPort{ruleset.Port(1), ruleset.Port(2), ruleset.Port(7)}}},
			[]string{"MESH_C -p tcp -m multiport ! --dports 1:2,7 -j ACCEPT"}},
		{[]ruleset.Match{tcp, ruleset.SrcPort{ruleset.Port(1)}, ruleset.DstPort{ruleset.Port(5), ruleset.Port(7)}},
			[]string{"MESH_C -p tcp -m multiport --sports 1 -m multiport --dports 5,7 -j ACCEPT"}},
		{[]ruleset.Match{tcp, ruleset.Opens(), ruleset.Not{Match: ruleset.DstPort{ruleset.Port(5)}}},
			[]string{"MESH_C -p tcp --tcp-flags FIN,SYN,RST,ACK SYN ! --dport 5 -j ACCEPT"}},
		{[]ruleset.Match{ruleset.Not{Match: ruleset.Dst(ruleset.AllCIDRs())}}, nil},
		{[]ruleset.Match{ruleset.Dst(ruleset.AllCIDRs())}, []string{"MESH_C -j ACCEPT"}},
		{[]ruleset.Match{ruleset.Not{Match: ruleset.Dst(mustCIDRs("10.0.0.0/8,192.0.2.1"))}}, []string{
			`MESH_C -d 10.0.0.0/8 -m comment --comment "go on" -g MESH_C_1`,
			`MESH_C -d 192.0.2.1/32 -g MESH_C_1`, "MESH_C -j ACCEPT"}},
	} {
		if diff := cmp.Diff(tt.want, outputRules(t, Standard, tt.match...)); diff != "" {
			t.Errorf("%v:\n%s", tt.match, diff)
		}
	}
}

// TestMinimalDialect: it has one value a rule, and no module that small kernels
// lack, and says so when that makes too much of it.
func TestMinimalDialect(t *testing.T) {
	rs := compileConfig(t, fitting(intercept.Default(), Minimal))
	for _, f := range rs.Families {
		text := textOf(t, rs, Minimal, f)
		for _, word := range []string{"comment", "multiport", `"`, ","} {
			if strings.Contains(strings.ReplaceAll(text, "FIN,SYN,RST,ACK SYN", ""), word) {
				t.Errorf("the minimal dialect has %q:\n%s", word, text)
			}
		}
	}
	c := fitting(intercept.Default(), Minimal)
	for i := range 100 {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs, mustCIDRs("192.0.2."+strconv.Itoa(2*i+1))...)
	}
	if _, err := Render(compileConfig(t, c), Options{}); err != nil {
		t.Error(err)
	}
	older := ruleset.Ruleset{Families: families(), Chains: []ruleset.Chain{{Name: "c", Hook: ruleset.Output,
		Priority: ruleset.PriorityFilter,
		Rules: []ruleset.Rule{{ID: "B3", Match: []ruleset.Match{ruleset.Proto{ruleset.TCP}, ruleset.Older{}},
			Target: ruleset.Return{}}}}}}
	if _, err := Render(older, Options{}); err != nil {
		t.Error(err)
	}
	_, err := Render(older, Options{Dialect: Minimal})
	var refused *ruleset.RuleError
	if !errors.Is(err, ruleset.ErrUnsupported) || !errors.As(err, &refused) || refused.Rule != "B3" {
		t.Errorf("connections older than the rules, in the minimal dialect: %v", err)
	}
	// 32 KiB of a socket option hold some hundred rules beside our own.
	if _, err := Render(compileConfig(t, c), Options{Dialect: Minimal}); err != nil {
		t.Error(err)
	}
	for i := range 100 {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs, mustCIDRs("198.51.100."+strconv.Itoa(2*i+1))...)
	}
	_, err = Render(compileConfig(t, c), Options{Dialect: Minimal})
	if !errors.Is(err, ruleset.ErrUnsupported) || !strings.Contains(err.Error(), "IPv4, table nat") ||
		!strings.Contains(err.Error(), "32672") {
		t.Errorf("too much for the minimal dialect: %v", err)
	}
}

// TestSize: the size that the minimal dialect counts is what the kernel takes,
// or a little more, never less.
func TestSize(t *testing.T) {
	t.Parallel()
	require(t, Legacy)
	rulesets := inDialect(t, vocabulary(), Minimal)
	rulesets = append(rulesets, compileConfig(t, fitting(intercept.Default(), Minimal)))
	compared := 0
	for _, rs := range rulesets {
		s := newSite(t, Options{Variant: Legacy, Dialect: Minimal})
		s.mustApply(t, rs, ruleset.Created)
		for _, f := range rs.Families {
			p, err := compile(rs, f, Options{Variant: Legacy, Dialect: Minimal}, everyone())
			if err != nil {
				t.Fatal(err)
			}
			domain, level := unix.AF_INET, unix.SOL_IP
			if f == ruleset.IPv6 {
				domain, level = unix.AF_INET6, unix.SOL_IPV6
			}
			fd, err := s.Socket(domain, unix.SOCK_DGRAM, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, table := range p.tables {
				_, entries, err := content(fd, level, table.name)
				if err != nil {
					t.Fatal(err)
				}
				// The chain of the fingerprint is counted before it is there.
				table.chains = table.chains[:len(table.chains)-1]
				if size := table.size(f); size < len(entries) || size > len(entries)*11/10 {
					t.Errorf("%s, table %s: %d bytes are counted, and the kernel takes %d\n%s", f, table.name, size, len(entries),
						textOf(t, rs, Minimal, f))
				}
				compared++
			}
			unix.Close(fd)
		}
	}
	if compared < 10 {
		t.Errorf("%d tables compared", compared)
	}
}

// TestCanonical: what programs of different versions print of one rule is one
// rule, and what is another one is not.
func TestCanonical(t *testing.T) {
	same := [][]string{
		{"-p tcp --dport 1:1023 -j RETURN", "-p tcp -m tcp --dport 1:1023 -j RETURN", "-p 6 -m tcp --dport 1:1023 -j RETURN"},
		{"-p tcp --dport 0:1023 -j RETURN", "-p tcp -m tcp --dport :1023 -j RETURN"},
		{"-p udp --sport 60000:65535 -j RETURN", "-p udp -m udp --sport 60000: -j RETURN"},
		{"-d 127.0.0.0/8 -j RETURN", "-d 127.0.0.0/255.0.0.0 -j RETURN", "-d 127.0.0.0/8  -j RETURN"},
		{"-s 127.0.0.6/32 -o lo -j RETURN", "-o lo -s 127.0.0.6 -j RETURN", "-s 127.0.0.6/255.255.255.255 -o lo -j RETURN"},
		{"! -d fd00::/8 -j RETURN", "! -d fd00::/ff00:: -j RETURN"},
		{"-s ::6/128 -j RETURN", "-s 0::6 -j RETURN", "-s ::6/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff -j RETURN"},
		{"-m mark --mark 0x7 -j RETURN", "-m mark --mark 0x7/0xffffffff -j RETURN", "-m mark --mark 7 -j RETURN"},
		{"-m connmark ! --mark 0x7/0xff -j RETURN", "-m connmark ! --mark 7/255 -j RETURN"},
		{"-j MARK --set-xmark 0x539/0xffffffff", "-j MARK --set-xmark 0x539", "-j MARK --set-xmark 1337/0xffffffff"},
		{"-p ipv6-icmp -j RETURN", "-p icmpv6 -j RETURN", "-p 58 -j RETURN"},
		{"-m conntrack --ctstate NEW,RELATED -j RETURN", "-m conntrack --ctstate RELATED,NEW -j RETURN"},
		{"-p tcp --tcp-flags FIN,SYN,RST,ACK SYN --dport 5 -j RETURN",
			"-p tcp -m tcp --dport 5 --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN"},
		{"-j TPROXY --on-port 1 --tproxy-mark 0x1/0x1", "-j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1",
			"-j TPROXY --on-port 1 --on-ip :: --tproxy-mark 0x1/0x1"},
		{`-m comment --comment "a \"b\" \\c it's" -j RETURN`, `-m comment --comment "a \"b\" \\c it\'s" -j RETURN`,
			`-j RETURN -m comment --comment "a \"b\" \\c it's"`},
		{`-m comment --comment word -j RETURN`, `-m comment --comment "word" -j RETURN`,
			`--match comment --comment word -j RETURN`},
		{`-m comment --comment "-j DROP" -j RETURN`},
		{"-p tcp -j REDIRECT --to-ports 1-4 --random", "-p tcp -j REDIRECT --random --to-ports 1-4"},
		// None of these is the same as any other.
		{"-m mark --mark 0x7/0xff -j RETURN"}, {"-m connmark --mark 0x7/0xff -j RETURN"},
		{"-m mark ! --mark 0x7/0xff -j RETURN"},
		{"-d 127.0.0.0/9 -j RETURN"}, {"-s 127.0.0.0/8 -j RETURN"}, {"-d 127.0.0.0/255.0.255.0 -j RETURN"},
		{"! -d 127.0.0.0/8 -j RETURN"},
		{"-d 127.0.0.0/8 -g RETURN"}, {"-d 127.0.0.0/8 -j ACCEPT"}, {"-d 127.0.0.0/8"}, {"-j RETURN"}, {""},
		{"-p udp --dport 1:1023 -j RETURN"}, {"-p tcp --sport 1:1023 -j RETURN"}, {"-p tcp ! --dport 1:1023 -j RETURN"},
		{"! -p tcp -j RETURN"},
		{"-p tcp -j REDIRECT --to-ports 1-4"}, {"-i lo -j RETURN"}, {"-o lo -j RETURN"}, {"-o lo+ -j RETURN"},
		{"-m conntrack ! --ctstate NEW,RELATED -j RETURN"}, {"-p tcp --tcp-flags FIN,SYN,RST,ACK NONE --dport 5 -j RETURN"},
		{"-m comment --comment -j -j RETURN"}, {`-m comment --comment "" -j RETURN -m other`,
			`-m comment --comment "" -j RETURN`},
	}
	of := map[any]int{}
	for i, group := range same {
		for _, spec := range group {
			key := savedRule{spec: spec}.key()
			if j, known := of[key]; known && j != i && !(same[j][0] == "-j RETURN" && strings.Contains(spec, `""`)) {
				t.Errorf("%q is the same as %q: %+v", spec, same[j][0], key)
			} else if !known && spec != group[0] {
				t.Errorf("%q is not the same as %q:\n%+v\n%+v", spec, group[0], key, savedRule{spec: group[0]}.key())
			}
			of[key] = i
		}
	}
}

// TestParse reads what different programs print.
func TestParse(t *testing.T) {
	l, err := parse(`# Generated by iptables-nft-save v1.8.9 (nf_tables) on Sun Nov 22 20:00:00 2026
*nat
:PREROUTING ACCEPT [1:2]
:OUTPUT ACCEPT [0:0]
:MESH_OUTPUT - [0:0]
[3:4] -A OUTPUT -m comment --comment Intercept -j MESH_OUTPUT
[18446744073709551615:0] -A MESH_OUTPUT -j RETURN
[0:0] -A OUTPUT
COMMIT
# Completed
# Table ` + "`security' is incompatible, use 'nft' tool.\n")
	if err != nil {
		t.Fatal(err)
	}
	want := listing{{"nat", []savedChain{
		{"PREROUTING", true, nil},
		{"OUTPUT", true, []savedRule{{"-m comment --comment Intercept -j MESH_OUTPUT", 3, 4}, {}}},
		{"MESH_OUTPUT", false, []savedRule{{"-j RETURN", 1<<64 - 1, 0}}},
	}}}
	if !reflect.DeepEqual(l, want) {
		t.Errorf("%+v", l)
	}
	for text, why := range map[string]string{
		"# Table `nat' is incompatible, use 'nft' tool.\n":        "table nat has rules that iptables cannot list",
		":OUTPUT ACCEPT [0:0]\n":                                  "no table before it",
		"*nat\n:OUTPUT\n":                                         "a chain without a policy",
		"*nat\n-A OUTPUT -j RETURN\n":                             "neither a table nor a chain nor a rule",
		"*nat\n:OUTPUT ACCEPT [0:0]\n[0] -A OUTPUT -j RETURN\n":   "a rule without counters",
		"*nat\n:OUTPUT ACCEPT [0:0]\n[a:0] -A OUTPUT -j RETURN\n": "bad counters",
		"*nat\n[0:0] -A OUTPUT -j RETURN\n":                       "a rule of no chain",
		"*nat\n:A - [0:0]\nCOMMIT\n*raw\n[0:0] -A A -j RETURN\n":  "a rule of no chain",
	} {
		if l, err := parse(text); err == nil || !strings.Contains(err.Error(), why) || l != nil {
			t.Errorf("%q: %v, %v", text, l, err)
		}
	}
}

// TestIsJump: what leads to us, and what only looks like it.
func TestIsJump(t *testing.T) {
	for spec, want := range map[string]bool{
		"-j MESH_OUTPUT": true,
		"-g MESH_OUTPUT": true,
		"-p tcp -m comment --comment Intercept -j MESH_X":   true,
		"-j NOT_MESH_OUTPUT":                                false,
		`-m comment --comment "-j MESH_OUTPUT" -j RETURN`:   false,
		`-m comment --comment MESH_OUTPUT -j DOCKER`:        false,
		`-m comment --comment "a \"b\" -j" -j MESH_OUTPUT`:  true,
		`-m comment --comment "x -j MESH_OUTPUT" -j DOCKER`: false,
		"-i MESH_0": false,
		"":          false,
	} {
		if got := (savedRule{spec: spec}).isJump(); got != want {
			t.Errorf("%q: %t", spec, got)
		}
	}
}

// FuzzListing: whatever a program prints, it is read or refused; and what was
// read can be compared, and written back, without a panic.
func FuzzListing(f *testing.F) {
	f.Add("*nat\n:OUTPUT ACCEPT [0:0]\n:MESH_OUTPUT - [0:0]\n[3:4] -A OUTPUT -m comment --comment Intercept -j MESH_OUTPUT\n[1:1] -A MESH_OUTPUT -p tcp ! --dport :53 -j RETURN\nCOMMIT\n")
	f.Add("*raw\n:MESH_SPEC_0 - [0:0]\n:MESH_MADE_OUTPUT - [0:0]\n[0:0] -A MESH_SPEC_0 ! -s 10.0.0.0/255.0.255.0 -m mark --mark 1/2 -j CT --zone 1\n")
	f.Add("*nat\n:A - [0:0]\n[0:0] -A A -m comment --comment \"a \\\"b\\\\\" ! ! -j -g\n")
	f.Add("# Table `raw' is incompatible, use 'nft' tool.\n")
	rs, err := intercept.Compile(intercept.Default())
	if err != nil {
		f.Fatal(err)
	}
	p, err := compile(rs, ruleset.IPv4, Options{}, everyone())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parse(text)
		if err != nil {
			if l != nil {
				t.Error("an error and a value")
			}
			return
		}
		_ = l.foreign(ruleset.IPv4)
		_ = l.isOurs()
		if !l.same(l) {
			t.Error("it is not the same as itself")
		}
		for _, table := range l {
			if !table.sameOurs(table) {
				t.Error("a table is not the same as itself")
			}
			for _, c := range table.chains {
				for _, r := range c.rules {
					// What a rule is does not depend on the order of its words' origin.
					if k := r.key(); k != canonical(split(r.spec)) {
						t.Errorf("%q: %v", r.spec, k)
					}
				}
			}
		}
		for _, o := range []Options{{}, {Jumps: JumpsLast}} {
			if input := transition(l, p, o); !slices.ContainsFunc([]string{"", "*"},
				func(s string) bool { return input == s || s != "" && strings.HasPrefix(input, s) }) {
				t.Errorf("%q", input)
			}
			_ = transition(l, program{}, o)
		}
		_ = restoration(l, nil, Options{})
		_ = restoration(nil, l, Options{})
	})
}

// TestMissed: a line that is refused may be about a rule that is no longer there if it deletes one, or if it ends a table
// in which one is deleted and the program does not say more.
func TestMissed(t *testing.T) {
	const input = "*nat\n-A OUTPUT -j MESH_OUTPUT\nCOMMIT\n*filter\n-D OUTPUT 1\n-A OUTPUT -j MESH_FILTER\nCOMMIT\n"
	for line, want := range map[int]bool{2: false, 3: false, 5: true, 6: false, 7: true} {
		said := fmt.Sprintf("iptables-nft-restore: line %d failed", line)
		if got := newProgramError("iptables-nft-restore", errors.New("exit status 1"), said, input).missed(); got != want {
			t.Errorf("%s: %t", said, got)
		}
	}
}
