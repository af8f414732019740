//go:build linux

package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// namespace returns an empty network namespace and a Conn in it.
func namespace(t testing.TB) (*netlab.Namespace, *Conn) {
	t.Helper()
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	b, err := openIn(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return ns, b
}

// openIn opens the nf_tables of a namespace.
func openIn(ns *netlab.Namespace) (b *Conn, err error) {
	err = ns.Do(func() error {
		b, err = Open()
		return err
	})
	return b, err
}

// run runs a command in the namespace and returns what it prints.
func run(t testing.TB, ns *netlab.Namespace, input string, name string, args ...string) string {
	t.Helper()
	netlab.RequireProgram(t, name)
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s\ninput:\n%s", cmd, err, out.String(), input)
	}
	return out.String()
}

func list(t testing.TB, ns *netlab.Namespace) string {
	t.Helper()
	return run(t, ns, "", "nft", "-nn", "list", "ruleset")
}

func listWithHandles(t testing.TB, ns *netlab.Namespace) string {
	t.Helper()
	return run(t, ns, "", "nft", "-nn", "-a", "list", "ruleset")
}

func compileConfig(t testing.TB, c intercept.Config) ruleset.Ruleset {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	rs.Routes = nil // they are not this package's
	return rs
}

func random(t testing.TB, seed uint64) ruleset.Ruleset {
	t.Helper()
	return compileConfig(t, gen.Config(rand.New(rand.NewPCG(seed, 11))))
}

func apply(t testing.TB, b *Conn, rs ruleset.Ruleset, want ruleset.Outcome) {
	t.Helper()
	got, err := b.Apply(t.Context(), rs)
	if err != nil {
		t.Fatal(err)
	}
	if want != "" && got != want {
		t.Fatalf("Apply %s, want %s", got, want)
	}
}

func checkSame(t testing.TB, b *Conn, rs ruleset.Ruleset) {
	t.Helper()
	diffs, err := b.Check(t.Context(), rs)
	if err != nil || len(diffs) > 0 {
		t.Fatalf("Check: %v, %v", diffs, err)
	}
}

// many has 5,000 CIDRs of each family and 1,000 port ranges that do not merge.
func many() intercept.Config {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	for i := range 5000 {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs,
			must(ruleset.ParseCIDRs(fmt.Sprintf("10.%d.%d.0/25,2001:db8:%x::/49", i/250, i%250, i)))...)
	}
	for i := range uint16(1000) {
		c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, ruleset.PortRange{First: 20000 + 10*i, Last: 20003 + 10*i})
	}
	return c
}

// TestOracle: nft(8) makes of our text what the kernel makes of our messages.
func TestOracle(t *testing.T) {
	rulesets := map[string]ruleset.Ruleset{
		"vocabulary": vocabulary(),
		"default":    compileConfig(t, intercept.Default()),
		"many":       compileConfig(t, many()),
	}
	for seed := range uint64(40) {
		rulesets[fmt.Sprintf("random %d", seed)] = random(t, seed)
	}
	for name, rs := range rulesets {
		for _, lay := range []layout{oneTable, twoTables} {
			t.Run(fmt.Sprintf("%s/%d", name, lay), func(t *testing.T) {
				t.Parallel()
				ns, b := namespace(t)
				b.only = &lay
				apply(t, b, rs, ruleset.Created)
				checkSame(t, b, rs)
				other, _ := namespace(t)
				prog, err := compile(rs, lay)
				if err != nil {
					t.Fatal(err)
				}
				run(t, other, prog.render(), "nft", "-f", "-")
				if diff := cmp.Diff(list(t, other), list(t, ns)); diff != "" {
					t.Fatalf("nft -f of the text (-) and netlink (+) differ:\n%s", diff)
				}
				// The text is a whole replacement: again, it gives the same.
				run(t, other, prog.render(), "nft", "-f", "-")
				if diff := cmp.Diff(list(t, other), list(t, ns)); diff != "" {
					t.Fatalf("nft -f twice (-) and netlink (+) differ:\n%s", diff)
				}
			})
		}
	}
}

// TestTextLoadedByHandIsOurs: who loads the rendered text with nft(8) gets
// what Check, Apply and Remove know as ours.
func TestTextLoadedByHandIsOurs(t *testing.T) {
	ns, b := namespace(t)
	rs := compileConfig(t, many())
	text, err := Render(rs)
	if err != nil {
		t.Fatal(err)
	}
	run(t, ns, text, "nft", "-f", "-")
	checkSame(t, b, rs)
	apply(t, b, rs, ruleset.Unchanged)
}

// TestTwiceIsOnce: a second Apply writes nothing; not even a handle changes.
func TestTwiceIsOnce(t *testing.T) {
	for _, rs := range []ruleset.Ruleset{compileConfig(t, intercept.Default()), compileConfig(t, many()), random(t, 1),
		vocabulary()} {
		ns, b := namespace(t)
		apply(t, b, rs, ruleset.Created)
		before := listWithHandles(t, ns)
		generation, err := b.generation()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			apply(t, b, rs, ruleset.Unchanged)
		}
		if diff := cmp.Diff(before, listWithHandles(t, ns)); diff != "" {
			t.Fatalf("the second Apply changed the kernel:\n%s", diff)
		}
		if again, err := b.generation(); err != nil || again != generation {
			t.Fatalf("the generation went from %d to %d, %v", generation, again, err)
		}
	}
}

// TestRandomWalk goes from each of twenty configurations to the next: what is
// there is always what a fresh namespace would have.
func TestRandomWalk(t *testing.T) {
	ns, b := namespace(t)
	for seed := range uint64(20) {
		rs := random(t, 100+seed)
		apply(t, b, rs, "")
		checkSame(t, b, rs)
		fresh, fb := namespace(t)
		apply(t, fb, rs, ruleset.Created)
		if diff := cmp.Diff(sortedSets(list(t, fresh)), sortedSets(list(t, ns))); diff != "" {
			t.Fatalf("step %d: a fresh namespace (-) and this one (+) differ:\n%s", seed, diff)
		}
	}
}

// sortedSets is a listing with its sets in the order of their names: those that are there already keep their place.
func sortedSets(listing string) string {
	var sets, rest []string
	for part := range strings.SplitSeq(strings.ReplaceAll(listing, " {\n\tset ", " {\n\n\tset "), "\n\n") {
		if strings.HasPrefix(part, "\tset ") {
			sets = append(sets, part)
		} else {
			rest = append(rest, part)
		}
	}
	slices.Sort(sets)
	return strings.Join(append(rest, sets...), "\n\n")
}

// TestLayoutsReplaceEachOther: two tables of an older kernel become one, and
// one family's table becomes both's.
func TestLayoutsReplaceEachOther(t *testing.T) {
	ns, b := namespace(t)
	two := twoTables
	b.only = &two
	rs := compileConfig(t, intercept.Default())
	apply(t, b, rs, ruleset.Created)
	if l := list(t, ns); !strings.Contains(l, "table ip mesh_intercept") ||
		!strings.Contains(l, "table ip6 mesh_intercept") {
		t.Fatal(l)
	}
	checkSame(t, b, rs)
	b.only = nil
	apply(t, b, rs, ruleset.Replaced)
	only4 := intercept.Default()
	only4.Families = intercept.FamiliesIPv4
	apply(t, b, compileConfig(t, only4), ruleset.Replaced)
	if l := list(t, ns); strings.Count(l, "table ") != 1 || !strings.Contains(l, "table ip mesh_intercept") {
		t.Fatal(l)
	}
	if removed, err := b.Remove(t.Context()); err != nil || !removed {
		t.Fatal(removed, err)
	}
	if l := list(t, ns); l != "" {
		t.Fatalf("left behind:\n%s", l)
	}
}

// foreign are other people's rules: what Docker and kube-proxy write, and a
// table whose name only begins like ours.
const foreign = `
table ip nat {
	chain DOCKER { iifname "docker0" counter return; tcp dport 8080 counter dnat to 172.17.0.2:80; }
	chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local counter jump DOCKER; }
}
table ip kube-proxy {
	set ips { type ipv4_addr; flags interval; elements = { 10.96.0.0/12 } }
	chain services { type filter hook output priority -110; ip daddr @ips counter comment "theirs"; }
}
table inet mesh_intercept_not {
	chain output { type filter hook output priority 0; counter; }
}
table ip6 filter {
	chain INPUT { type filter hook input priority 0; policy accept; tcp dport 22 counter accept; }
}
`

// TestRemoveRestores: after Apply and Remove the namespace's listing is what
// it was, byte for byte, and other people's rules were never touched.
func TestRemoveRestores(t *testing.T) {
	for _, before := range []string{"", foreign} {
		ns, b := namespace(t)
		run(t, ns, before, "nft", "-f", "-")
		was := listWithHandles(t, ns)
		for seed := range uint64(5) {
			apply(t, b, random(t, 200+seed), "")
			if !strings.Contains(listWithHandles(t, ns), was) {
				t.Fatal("Apply changed other people's tables")
			}
		}
		removed, err := b.Remove(t.Context())
		if err != nil || !removed {
			t.Fatalf("Remove: %v, %v", removed, err)
		}
		if diff := cmp.Diff(was, listWithHandles(t, ns)); diff != "" {
			t.Fatalf("Remove left something or took something:\n%s", diff)
		}
		if removed, err := b.Remove(t.Context()); err != nil || removed {
			t.Fatalf("Remove again: %v, %v", removed, err)
		}
		if _, err := b.Check(t.Context(), random(t, 1)); !errors.Is(err, ruleset.ErrNotIntercepted) {
			t.Fatalf("Check of nothing: %v", err)
		}
		if _, err := b.Counters(t.Context(), nil); !errors.Is(err, ruleset.ErrNotIntercepted) {
			t.Fatalf("Counters of nothing: %v", err)
		}
	}
}

// TestCheckNamesDifferences tampers with the rules by hand.
func TestCheckNamesDifferences(t *testing.T) {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Outbound.ExcludeCIDRs = must(ruleset.ParseCIDRs("10.0.0.0/8,192.0.2.0/24"))
	rs := compileConfig(t, c)
	handle := func(t *testing.T, ns *netlab.Namespace, comment string) string {
		for line := range strings.Lines(listWithHandles(t, ns)) {
			if strings.Contains(line, comment) {
				_, h, _ := strings.Cut(strings.TrimSpace(line), "# handle ")
				return h
			}
		}
		t.Fatalf("no rule %q", comment)
		return ""
	}
	tests := []struct {
		name, script string // lines, one transaction each; HANDLE stands for the handle of rule O4 (by user)
		want         string
	}{
		{"rule deleted", "delete rule inet mesh_intercept output handle HANDLE", `rule O4.uid: missing`},
		{"rule added", "add rule inet mesh_intercept output tcp dport 1 counter drop", "a rule without comment: not ours"},
		{"rule added with a comment of ours",
			`insert rule inet mesh_intercept output counter accept comment "O4.uid: from the proxy (by user)"`,
			`rule O4.uid: has other conditions, another target or another comment`},
		{"an expression the library does not know",
			`insert rule inet mesh_intercept output numgen inc mod 2 0 counter accept`, "a rule without comment: not ours"},
		{"rules swapped",
			`delete rule inet mesh_intercept output handle HANDLE; ` +
				`add rule inet mesh_intercept output meta skuid 1337 counter return ` +
				`comment "O4.uid: from the proxy (by user)"`, "its rules stand in another order"},
		{"chain flushed", "flush chain inet mesh_intercept prerouting", `rule I8: missing`},
		{"element added", "add element inet mesh_intercept EXCLUDED { 198.51.100.0/24 }",
			"set EXCLUDED: 0 ranges missing, 1 not ours"},
		{"element deleted", "delete element inet mesh_intercept EXCLUDED { 10.0.0.0/8 }",
			"set EXCLUDED: 1 ranges missing, 0 not ours"},
		{"element narrowed",
			"delete element inet mesh_intercept EXCLUDED { 10.0.0.0/8 }\n" +
				"add element inet mesh_intercept EXCLUDED { 10.0.0.0/9 }",
			"set EXCLUDED: its ranges end elsewhere"},
		{"set added", "add set inet mesh_intercept more { type ipv4_addr; }", "set more: not ours"},
		{"chain added", "add chain inet mesh_intercept more { type filter hook output priority 5; }", "chain more: not ours"},
		{"table made dormant", "add table inet mesh_intercept { flags dormant; }",
			"table inet mesh_intercept: is dormant: none of its rules is in force"},
		{"priority changed", "delete chain inet mesh_intercept prerouting; " +
			"add chain inet mesh_intercept prerouting { type nat hook prerouting priority -100; }",
			"chain prerouting: has priority -100, not -199"},
		{"policy changed", "add chain inet mesh_intercept filter_output { policy drop; }",
			"chain filter_output: has policy drop"},
		{"a set that forgets",
			"flush table inet mesh_intercept; delete set inet mesh_intercept EXCLUDED; " +
				"add set inet mesh_intercept EXCLUDED { type ipv4_addr; flags interval, timeout; }",
			"set EXCLUDED: is of another type"},
		{"a NAT chain registered later at the same priority",
			"add table ip later; add chain ip later o { type nat hook output priority -199; }",
			"table ip later, chain o: was registered after ours at priority -199, so the kernel asks it first"},
		{"table of another family added", "add table ip mesh_intercept; add chain ip mesh_intercept spec_x",
			"table ip mesh_intercept: not part of this configuration"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns, b := namespace(t)
			apply(t, b, rs, ruleset.Created)
			script := strings.ReplaceAll(tt.script, "HANDLE", handle(t, ns, "O4.uid: from the proxy (by user)"))
			excluded := regexp.MustCompile(`set (ipv4_\w+) \{[^}]*10\.0\.0\.0/8`).FindStringSubmatch(list(t, ns))[1]
			script = strings.ReplaceAll(script, "EXCLUDED", excluded)
			tt.want = strings.ReplaceAll(tt.want, "EXCLUDED", excluded)
			for line := range strings.Lines(script) {
				run(t, ns, line, "nft", "-f", "-")
			}
			before := listWithHandles(t, ns)
			diffs, err := b.Check(t.Context(), rs)
			if err != nil {
				t.Fatal(err)
			}
			if got := joinDifferences(diffs); !strings.Contains(got, tt.want) {
				t.Errorf("Check says %q, want %q", got, tt.want)
			}
			if diff := cmp.Diff(before, listWithHandles(t, ns)); diff != "" {
				t.Errorf("Check changed the kernel:\n%s", diff)
			}
			// The hash alone would call it unchanged; the content does not.
			apply(t, b, rs, ruleset.Replaced)
			checkSame(t, b, rs)
		})
	}
	t.Run("another configuration", func(t *testing.T) {
		_, b := namespace(t)
		apply(t, b, random(t, 5), ruleset.Created)
		diffs, err := b.Check(t.Context(), rs)
		if got := joinDifferences(diffs); err != nil || !strings.Contains(got, "made from another configuration") {
			t.Errorf("%s, %v", got, err)
		}
	})
}

// TestOrderOfRegistration: an apply notes which NAT chains at the priority of ours are older. Of rules that somebody has
// written without that note it is not known.
func TestOrderOfRegistration(t *testing.T) {
	const chain = "chain ip older o { type nat hook output priority -199; }"
	rs := compileConfig(t, intercept.Default())
	text, err := Render(rs)
	if err != nil {
		t.Fatal(err)
	}
	write := func(ns *netlab.Namespace, b *Conn) { apply(t, b, rs, ruleset.Created) }
	for _, tt := range []struct {
		name string
		// before and after are what another does before and after write has written ours.
		before, after string
		write         func(*netlab.Namespace, *Conn)
		want          beside.Registered
	}{
		{"older", "add table ip older; add " + chain, "", write, beside.BeforeOurs},
		{"added later to an older table", "add table ip older", "add " + chain, write, beside.AfterOurs},
		{"another of the same name", "add table ip older; add " + chain, "delete chain ip older o; add " + chain, write,
			beside.AfterOurs},
		{"in a table that has slept", "add table ip older { flags dormant; }; add " + chain, "add table ip older", write,
			beside.AfterOurs},
		{"in a newer table", "", "add table ip older; add " + chain, write, beside.AfterOurs},
		{"of rules without the note", "add table ip older; add " + chain, "",
			func(ns *netlab.Namespace, _ *Conn) { run(t, ns, text, "nft", "-f", "-") }, beside.PerhapsAfterOurs},
		{"before there are any of ours", "add table ip older; add " + chain, "", func(*netlab.Namespace, *Conn) {}, beside.BeforeOurs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns, b := namespace(t)
			run(t, ns, tt.before, "nft", "-f", "-")
			tt.write(ns, b)
			run(t, ns, tt.after, "nft", "-f", "-")
			chains, err := b.ForeignChains()
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(chains, func(c beside.Chain) bool { return c.Name == "o" })
			if i < 0 || chains[i].Registered != tt.want {
				t.Errorf("%+v, want %s", chains, tt.want)
			}
			if tt.want != beside.AfterOurs {
				return
			}
			apply(t, b, rs, ruleset.Replaced)
			if chains, err = b.ForeignChains(); err != nil || chains[i].Registered != beside.BeforeOurs {
				t.Errorf("%+v, %v", chains, err)
			}
			apply(t, b, rs, ruleset.Unchanged)
		})
	}
}

// TestForeignTable: a table of our name that is not ours is refused by every
// verb, and stays as it is.
func TestForeignTable(t *testing.T) {
	for _, text := range []string{
		"table inet mesh_intercept {\n chain mine { type filter hook output priority 0; counter; }\n}",
		"table inet mesh_intercept { }",
		"table ip mesh_intercept { }",
	} {
		ns, b := namespace(t)
		run(t, ns, text, "nft", "-f", "-")
		before := listWithHandles(t, ns)
		rs := compileConfig(t, intercept.Default())
		_, aerr := b.Apply(t.Context(), rs)
		_, cerr := b.Check(t.Context(), rs)
		_, rerr := b.Remove(t.Context())
		_, nerr := b.Counters(t.Context(), nil)
		for _, err := range []error{aerr, cerr, rerr, nerr} {
			if !errors.Is(err, ruleset.ErrForeign) || !strings.Contains(err.Error(), "nft delete table") {
				t.Errorf("%s: %v", text, err)
			}
		}
		if diff := cmp.Diff(before, listWithHandles(t, ns)); diff != "" {
			t.Errorf("changed:\n%s", diff)
		}
	}
}

// TestRefusedRuleIsNamed: the kernel refuses one rule of many. The error names
// it, and nothing is written.
func TestRefusedRuleIsNamed(t *testing.T) {
	ns, b := namespace(t)
	old := compileConfig(t, intercept.Default())
	apply(t, b, old, ruleset.Created)
	before := listWithHandles(t, ns)

	dns := intercept.Default()
	dns.DNS.Mode = intercept.DNSAll
	rs := compileConfig(t, dns)
	for i, c := range rs.Chains {
		if c.Name == intercept.ChainRawOutput {
			// nft_tproxy works on arriving packets alone.
			rs.Chains[i].Rules = append([]ruleset.Rule{}, c.Rules...)
			rs.Chains[i].Rules[2] = ruleset.Rule{ID: "O3", Reason: "the culprit",
				Match:  []ruleset.Match{ruleset.Proto{ruleset.TCP}},
				Target: ruleset.TProxy{Port: 1, Mark: ruleset.Mark{Value: 1, Mask: 1}}}
		}
	}
	_, err := b.Apply(t.Context(), rs)
	if !errors.Is(err, ruleset.ErrUnsupported) || !strings.Contains(err.Error(), `rule O3: `) {
		t.Errorf("Apply: %v", err)
	}
	if diff := cmp.Diff(before, listWithHandles(t, ns)); diff != "" {
		t.Errorf("a failed Apply changed the kernel:\n%s", diff)
	}
	checkSame(t, b, old)
}

// TestNoPrivilege: without CAP_NET_ADMIN the error says so and how to get it.
func TestNoPrivilege(t *testing.T) {
	ns, b := namespace(t)
	result := make(chan error)
	go func() {
		// The thread gives up its capabilities and dies with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
				return err
			}
			_, err := b.Apply(t.Context(), compileConfig(t, intercept.Default()))
			return err
		}()
	}()
	if err := <-result; !errors.Is(err, ruleset.ErrPermission) || !strings.Contains(err.Error(), "NET_ADMIN") {
		t.Errorf("Apply: %v", err)
	}
	if l := list(t, ns); l != "" {
		t.Errorf("written:\n%s", l)
	}
}

// TestConcurrentApplies: eight at once end in one of the eight, whole.
func TestConcurrentApplies(t *testing.T) {
	for round := range uint64(10) {
		ns, b := namespace(t)
		if round%2 == 1 {
			apply(t, b, random(t, 999), ruleset.Created)
		}
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range 8 {
			wg.Go(func() {
				own, err := openIn(ns)
				if err == nil {
					_, err = own.Apply(t.Context(), random(t, 300+uint64(i)))
					err = errors.Join(err, own.Close())
				}
				errs[i] = err
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		isOneOf(t, b, 300, 8)
	}
}

// isOneOf fails unless the kernel holds exactly one of the random rulesets.
func isOneOf(t testing.TB, b *Conn, first uint64, count int) {
	t.Helper()
	var all []string
	for i := range count {
		diffs, err := b.Check(t.Context(), random(t, first+uint64(i)))
		if err != nil {
			t.Fatal(err)
		}
		if len(diffs) == 0 {
			return
		}
		all = append(all, joinDifferences(diffs))
	}
	t.Fatalf("the kernel holds none of them:\n%s", strings.Join(all, "\n"))
}

// TestManyNamespaces: 64 namespaces are programmed at once.
func TestManyNamespaces(t *testing.T) {
	var wg sync.WaitGroup
	for i := range uint64(64) {
		_, b := namespace(t)
		rs := random(t, 400+i)
		wg.Go(func() {
			if got, err := b.Apply(t.Context(), rs); err != nil || got != ruleset.Created {
				t.Errorf("namespace %d: %s, %v", i, got, err)
				return
			}
			if diffs, err := b.Check(t.Context(), rs); err != nil || len(diffs) > 0 {
				t.Errorf("namespace %d: %v, %v", i, diffs, err)
			}
		})
	}
	wg.Wait()
}

const applierEnv = "MESH_TEST_APPLIER"

// TestMain makes of the test binary, if asked, a program that applies rules
// until it is killed.
func TestMain(m *testing.M) {
	if os.Getenv(applierEnv) != "" {
		applyForever()
	}
	os.Exit(m.Run())
}

func applyForever() {
	b, err := Open()
	if err == nil {
		fmt.Println("ready")
		for i := uint64(0); err == nil; i++ {
			var rs ruleset.Ruleset
			rs, err = intercept.Compile(gen.Config(rand.New(rand.NewPCG(500+i%4, 11))))
			rs.Routes = nil
			if err == nil {
				_, err = b.Apply(context.Background(), rs)
			}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// TestKilled: a program that applies rules is killed at random moments. What
// it leaves is always a whole configuration.
func TestKilled(t *testing.T) {
	ns, b := namespace(t)
	apply(t, b, random(t, 500), ruleset.Created)
	// How long it takes here to apply each of the configurations. The one that is killed starts by compiling its own.
	// The first time the kernel may have to load modules.
	var span time.Duration
	for range 2 {
		begun := time.Now()
		for i := range uint64(4) {
			apply(t, b, random(t, 500+(i+1)%4), ruleset.Replaced)
		}
		span = max(20*time.Millisecond, 2*time.Since(begun))
	}
	r := rand.New(rand.NewPCG(9, 9))
	outcomes := map[string]int{}
	for range 40 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), applierEnv+"=1")
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := ns.Start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 100)
		n, err := stdout.Read(line)
		if err != nil || string(line[:n]) != "ready\n" {
			t.Fatalf("%q, %v", line[:n], err)
		}
		// The moment is what varies; nothing is waited for.
		<-time.After(time.Duration(r.Int64N(int64(span))))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the program ended by itself: %v", err)
		}
		isOneOf(t, b, 500, 4)
		outcomes[list(t, ns)]++
	}
	if len(outcomes) < 2 {
		t.Errorf("the rules were never replaced before the kill")
	}
}
