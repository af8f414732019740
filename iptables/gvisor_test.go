package iptables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// inGVisor are the options of a Runner there.
func inGVisor() Options { return Options{Variant: Legacy, Dialect: Minimal, gvisor: true} }

// fittingGVisor compiles a configuration as it is applied there: package dataplane leaves out the same.
func fittingGVisor(t testing.TB, c intercept.Config) ruleset.Ruleset {
	t.Helper()
	rs := compileConfig(t, fitting(c, Minimal))
	rs.Chains = slices.DeleteFunc(rs.Chains, func(c ruleset.Chain) bool { return strings.HasPrefix(c.Name, "raw_") })
	own := ruleset.Not{Match: ruleset.Dst(mustCIDRs("127.0.0.0/8,::1/128,fe80::/10,10.244.0.5/32,fd00:244::5/128"))}
	for i, c := range rs.Chains {
		rs.Chains[i].Rules = slices.Clone(c.Rules)
		for k, r := range rs.Chains[i].Rules {
			if at := slices.Index(r.Match, ruleset.Match(ruleset.Not{Match: ruleset.ToLocal{}})); at >= 0 {
				rs.Chains[i].Rules[k].Match = slices.Replace(slices.Clone(r.Match), at, at+1, ruleset.Match(own))
			}
		}
	}
	return rs
}

// gvisorMachines are the rules of a Ruleset as gVisor gets them.
func gvisorMachines(rs ruleset.Ruleset) (map[ruleset.Family]*machine, map[ruleset.Family]string, error) {
	all, texts := map[ruleset.Family]*machine{}, map[ruleset.Family]string{}
	for _, f := range rs.Families {
		p, err := compile(rs, f, inGVisor(), everyone())
		if err != nil {
			return nil, nil, err
		}
		texts[f] = transition(nil, p, inGVisor())
		if all[f], err = load(texts[f]); err != nil {
			return nil, nil, fmt.Errorf("%s: %w\n%s", f, err, texts[f])
		}
	}
	return all, texts, nil
}

// gvisorRefuses names what gVisor takes in no rule (pkg/sentry/socket/netfilter in gvisor.dev/gvisor).
func gvisorRefuses(line string) string {
	for _, words := range []string{"-g", "--comment", "addrtype", "conntrack", "connmark", "multiport", "u32", "socket",
		"--tcp-option", "! -p", "! -i", "! --", "TPROXY", "MARK", "CT", "--random", "*mangle", "*raw"} {
		if strings.Contains(line+" ", " "+words+" ") || line == words {
			return words
		}
	}
	words := strings.Fields(line)
	for i, w := range words {
		if strings.HasSuffix(w, "-owner") && strings.Contains(words[i+1], "-") {
			return "a range of owners"
		}
	}
	return ""
}

// TestMeaningInGVisor: what is written there of a configuration means what Trace says of it, in words that gVisor
// knows.
func TestMeaningInGVisor(t *testing.T) {
	t.Parallel()
	const configs = 1000
	judged, fates := 0, map[string]int{}
	for seed := uint64(0); judged < configs; seed++ {
		r := rand.New(rand.NewPCG(seed, 23))
		rs := fittingGVisor(t, gen.Config(r))
		all, texts, err := gvisorMachines(rs)
		if errors.Is(err, ruleset.ErrUnsupported) {
			continue // each reason has a test of its own
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		judged++
		for f, text := range texts {
			for line := range strings.Lines(text) {
				if what := gvisorRefuses(strings.TrimSpace(line)); what != "" {
					t.Fatalf("seed %d, %s: %s in %q", seed, f, what, line)
				}
			}
		}
		for range 16 {
			p := disturb(r, gen.Packet(r))
			if one(r, 2) {
				p = aimed(r, rs)
			}
			// There is no Multipath TCP, and what arrives by lo has met NAT when it was sent.
			p.MPTCP = false
			if p.Hook == ruleset.Prerouting && p.Interface == ruleset.Loopback {
				continue
			}
			fates[compare(t, rs, all, p).Fate.String()]++
		}
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, texts)
		}
	}
	for _, fate := range []string{"pass", "redirect(15001)", "redirect(15006)", "redirect(15053)"} {
		if fates[fate] < configs/20 {
			t.Errorf("the fate %s came up %d times only", fate, fates[fate])
		}
	}
}

// TestRefusedInGVisor: what it has no words for is refused by name, with what to do instead.
func TestRefusedInGVisor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*intercept.Config)
		rule   ruleset.RuleID
		says   []string
	}{
		"mode tproxy": {func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy }, "I7",
			[]string{"mangle", "--inbound-mode redirect"}},
		"drop-invalid": {func(c *intercept.Config) { c.Inbound.DropInvalid = true }, "I3",
			[]string{"mangle", "--drop-invalid"}},
		"several outbound ports": {func(c *intercept.Config) { c.Outbound.Port = intercept.PortRange{First: 15001, Last: 15004} },
			"O12", []string{"several ports", "--outbound-port"}},
		"udp reject": {func(c *intercept.Config) { c.Outbound.UDP = intercept.TreatmentReject }, "O14",
			[]string{"conntrack", "--udp reject"}},
		"many owners": {func(c *intercept.Config) { c.Outbound.ExcludeUIDs = ruleset.IDs{{First: 1000, Last: 1999}} }, "O7.uid",
			[]string{"1000-1999", "list fewer"}},
		"many owners, and destinations": {func(c *intercept.Config) {
			c.Outbound.Exclude = []intercept.Exclusion{{CIDRs: mustCIDRs("10.0.0.0/24,10.0.2.0/24,fd00:1::/64,fd00:3::/64"),
				UIDs: ruleset.IDs{{First: 1000, Last: 1999}, {First: 3000, Last: 3999}, {First: 5000, Last: 5999},
					{First: 7000, Last: 7999}, {First: 9000, Last: 9999}}}}
		}, "O5", []string{"1000-1999", "list fewer"}},
		"many exclusions": {func(c *intercept.Config) {
			for i := range 12 {
				c.Outbound.Exclude = append(c.Outbound.Exclude, intercept.Exclusion{
					CIDRs: mustCIDRs(fmt.Sprintf("10.%d.0.0/24,10.%d.2.0/24,10.%d.4.0/24", i, i, i)),
					UIDs:  ruleset.IDs{ruleset.ID(uint32(10 * i)), ruleset.ID(uint32(10*i + 2)), ruleset.ID(uint32(10*i + 4))}})
			}
		}, "", []string{"deep", "gVisor takes 16"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := intercept.Default()
			tt.change(&c)
			_, _, err := gvisorMachines(fittingGVisor(t, c))
			if !errors.Is(err, ruleset.ErrUnsupported) {
				t.Fatal(err)
			}
			if refused, ok := errors.AsType[*ruleset.RuleError](err); ok && refused.Rule.Line() != tt.rule.Line() {
				t.Errorf("rule %s: %v", refused.Rule, err)
			}
			for _, word := range tt.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("no %q in %v", word, err)
				}
			}
		})
	}
	if _, err := (&Runner{o: Options{Variant: Legacy, gvisor: true}}).compile(compileConfig(t, intercept.Default())); !errors.Is(
		err, ruleset.ErrUnsupported) || !strings.Contains(err.Error(), "minimal") {
		t.Errorf("the standard dialect: %v", err)
	}
}

// TestSizeInGVisor: the table with the most rules that is taken is one that a socket option of gVisor's holds, 32 KiB
// with struct ipt_replace before it.
func TestSizeInGVisor(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		most := 0
		for n := range 400 {
			c := intercept.Default()
			for i := range n {
				c.Outbound.ExcludeUIDs = append(c.Outbound.ExcludeUIDs, ruleset.ID(uint32(2000+2*i)))
			}
			p, err := compile(fittingGVisor(t, c), f, inGVisor(), everyone())
			if err != nil {
				if !errors.Is(err, ruleset.ErrUnsupported) || !strings.Contains(err.Error(), "bytes") {
					t.Fatal(err)
				}
				break
			}
			nat := p.table("nat")
			nat.chains = nat.chains[:len(nat.chains)-1] // that of the fingerprint is counted before it is there
			most = nat.size(f)
		}
		if room := 32<<10 - 96; most > room || most < room-400 {
			t.Errorf("%s: the largest table has %d bytes", f, most)
		}
	}
}

// recorded returns what gVisor (v0.0.0-20260905035102) returned of a table.
func recorded(t testing.TB, name string) (f ruleset.Family, table string, info, entries []byte) {
	t.Helper()
	all, err := os.ReadFile(filepath.Join("testdata", "gvisor", name))
	if err != nil {
		t.Fatal(err)
	}
	f = ruleset.IPv4
	if strings.Contains(name, "ipv6") {
		f = ruleset.IPv6
	}
	table, _, _ = strings.Cut(name, "-")
	return f, table, all[:84], all[84:]
}

// TestDecode: what gVisor returns reads as what it was given, with its owners, marks and ports.
func TestDecode(t *testing.T) {
	t.Parallel()
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Outbound.ExcludeCIDRs = mustCIDRs("10.0.0.0/8,fd00::/8")
	c.Outbound.ExcludeUIDs, c.Outbound.IncludeGIDs = ruleset.IDs{{First: 7, Last: 9}}, ruleset.IDs{ruleset.ID(5)}
	rs := fittingGVisor(t, c)
	for _, f := range families() {
		_, table, info, entries := recorded(t, "nat-"+strings.ToLower(f.String())+".bin")
		got, err := decode(f, table, info, entries)
		if err != nil {
			t.Fatal(err)
		}
		p, err := compile(rs, f, inGVisor(), everyone())
		if err != nil {
			t.Fatal(err)
		}
		if diffs := got.differences(p.table("nat"), inGVisor()); len(diffs) > 0 {
			t.Errorf("%s: %v", f, diffs)
		}
		if !got.chain("POSTROUTING").builtin || len(got.chain("POSTROUTING").rules) != 0 {
			t.Errorf("%s: %+v", f, got.chain("POSTROUTING"))
		}
	}
	want := map[string]map[string][]string{
		"filter-ipv4.bin": {
			"INPUT": {"-p udp --dport 53 -j REJECT --reject-with icmp-port-unreachable"}, "FORWARD": {"-j OTHER"},
			"OUTPUT": {"-p tcp -m multiport --dports 80,443,8000:8010 -j DROP", "-m mark --mark 0x5/0xff -j ACCEPT",
				"-p tcp ! --sport 5:6 -j REJECT --reject-with tcp-reset"},
			"OTHER": {"-s 10.0.0.0/8 ! -d 10.1.0.0/16 ! -o eth+ -j RETURN"},
		},
		"filter-ipv6.bin": {"INPUT": nil, "FORWARD": nil,
			"OUTPUT": {"-d fd00::/8 -p udp -j REJECT --reject-with icmp6-port-unreachable"}},
	}
	for name, chains := range want {
		f, table, info, entries := recorded(t, name)
		got, err := decode(f, table, info, entries)
		if err != nil {
			t.Fatal(err)
		}
		have := map[string][]string{}
		for _, c := range got.chains {
			have[c.name] = nil
			for _, r := range c.rules {
				have[c.name] = append(have[c.name], r.spec)
			}
		}
		if diff := cmp.Diff(chains, have); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
	for name, to := range map[string]string{"nat-ipv4.bin": "10.9.9.9:80", "nat-ipv6.bin": "[fd00::1]:80"} {
		f, table, info, entries := recorded(t, name)
		got, err := decode(f, table, info, entries)
		spec := "-p tcp --dport 99 -j DNAT --to-destination " + to
		if err != nil || !slices.ContainsFunc(got.chain("PREROUTING").rules,
			func(r savedRule) bool { return r.spec == spec }) {
			t.Errorf("%s: %+v, %v", name, got.chain("PREROUTING"), err)
		}
	}
}

// FuzzDecode: whatever a kernel returns is read or refused, in the time that its size takes.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"nat-ipv4.bin", "nat-ipv6.bin", "filter-ipv4.bin", "filter-ipv6.bin"} {
		family, _, info, entries := recorded(f, name)
		f.Add(family == ruleset.IPv6, info, entries)
	}
	f.Fuzz(func(t *testing.T, ipv6 bool, info, entries []byte) {
		family := ruleset.IPv4
		if ipv6 {
			family = ruleset.IPv6
		}
		got, err := decode(family, "nat", info, entries)
		if err != nil {
			return
		}
		size := 0
		for _, c := range got.chains {
			for _, r := range c.rules {
				size += len(r.spec)
				_ = r.key()
			}
		}
		// A byte that is not known is two digits, and an entry has a head of 112 bytes at least.
		if size > 4*len(entries) {
			t.Errorf("%d bytes are read as %d", len(entries), size)
		}
	})
}
