//go:build linux

package iptables

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// variants runs a test with each variant.
func variants(t *testing.T, f func(*testing.T, Variant)) {
	t.Parallel()
	for _, v := range []Variant{NFT, Legacy} {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			require(t, v)
			f(t, v)
		})
	}
}

// require skips the test where there are no namespaces or no programs.
func require(t testing.TB, v Variant) {
	t.Helper()
	netlab.Require(t)
	for _, f := range []string{"iptables", "ip6tables"} {
		netlab.RequireProgram(t, f+"-"+string(v)+"-restore")
	}
}

// site is an empty network namespace and a Runner that acts in it.
type site struct {
	*netlab.Namespace
	b *Runner
	v Variant
}

func newSite(t testing.TB, o Options) site {
	t.Helper()
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	s := site{ns, nil, o.Variant}
	s.b = s.open(t, o)
	return s
}

// open returns another Runner for the site.
func (s site) open(t testing.TB, o Options) *Runner {
	t.Helper()
	if o.Variant == NFT {
		var sock *nft.Conn
		err := s.Do(func() (err error) {
			sock, err = nft.Open()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sock.Close() })
		o.Objects = objects{sock}
	}
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// objects gives a Runner the objects of nf_tables, as package dataplane does.
type objects struct{ *nft.Conn }

func (o objects) BaseChains(_ context.Context, f ruleset.Family) (map[string][]string, error) {
	chains, err := o.ForeignChains()
	if err != nil {
		return nil, err
	}
	base := map[string][]string{}
	for _, c := range chains {
		if (c.Family == "ip") != (f == ruleset.IPv4) || c.Family != "ip" && c.Family != "ip6" {
			continue
		}
		names := base[c.Table]
		if c.Base {
			names = append(names, c.Name)
		}
		base[c.Table] = names
	}
	return base, nil
}

func (o objects) CountRules(_ context.Context, f ruleset.Family, prefix string) (map[string]map[string]int, error) {
	return o.Conn.CountRules(f, prefix)
}

func (o objects) RemoveEmpty(_ context.Context, f ruleset.Family, table string, chains []string, andTable bool) error {
	return o.Conn.RemoveEmpty(f, table, chains, andTable)
}

func (s site) apply(rs ruleset.Ruleset) (out ruleset.Outcome, err error) {
	return s.applyIn(context.Background(), rs)
}

func (s site) applyIn(ctx context.Context, rs ruleset.Ruleset) (out ruleset.Outcome, err error) {
	err = s.Do(func() error { out, err = s.b.Apply(ctx, rs); return err })
	return out, err
}

func (s site) check(rs ruleset.Ruleset) (diffs []ruleset.Difference, err error) {
	err = s.Do(func() error { diffs, err = s.b.Check(context.Background(), rs); return err })
	return diffs, err
}

func (s site) remove() (removed bool, err error) {
	err = s.Do(func() error { removed, err = s.b.Remove(context.Background()); return err })
	return removed, err
}

func (s site) counters() ([]ruleset.Counter, error) { return s.countersLike(nil) }

func (s site) countersLike(like *ruleset.Ruleset) (counters []ruleset.Counter, err error) {
	err = s.Do(func() error { counters, err = s.b.Counters(context.Background(), like); return err })
	return counters, err
}

func (s site) mustApply(t testing.TB, rs ruleset.Ruleset, want ruleset.Outcome) {
	t.Helper()
	got, err := s.apply(rs)
	if err != nil {
		t.Fatal(err)
	}
	if want != "" && got != want {
		t.Fatalf("Apply %s, want %s", got, want)
	}
}

func (s site) mustBe(t testing.TB, rs ruleset.Ruleset) {
	t.Helper()
	diffs, err := s.check(rs)
	if err != nil || len(diffs) > 0 {
		t.Fatalf("Check: %s, %v", joinDifferences(diffs), err)
	}
}

func (s site) mustRemove(t testing.TB) {
	t.Helper()
	if removed, err := s.remove(); err != nil || !removed {
		t.Fatalf("Remove: %v, %v", removed, err)
	}
}

func joinDifferences(diffs []ruleset.Difference) string {
	s := make([]string, len(diffs))
	for i, d := range diffs {
		s[i] = d.String()
	}
	return strings.Join(s, "; ")
}

// program is the name of one of the variant's programs.
func (s site) program(f ruleset.Family, what string) string {
	name := "iptables-"
	if f == ruleset.IPv6 {
		name = "ip6tables-"
	}
	return strings.TrimSuffix(name+string(s.v)+"-"+what, "-")
}

// run runs a command in the namespace and returns what it prints. The lock
// file is its own: tests do not wait for each other, or for the host.
func (s site) run(t testing.TB, input string, name string, args ...string) string {
	t.Helper()
	netlab.RequireProgram(t, name)
	cmd := exec.Command(name, args...)
	cmd.Env = append(cmd.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "xtables.lock"))
	cmd.Stdin = strings.NewReader(input)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := s.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s%s\ninput:\n%s", cmd, err, out.String(), complaints.String(), input)
	}
	return out.String()
}

// iptables runs iptables or ip6tables.
func (s site) iptables(t testing.TB, f ruleset.Family, command string) {
	t.Helper()
	s.run(t, "", s.program(f, ""), strings.Fields(command)...)
}

// restore writes rules as another program would. They are the same for both
// families.
func (s site) restore(t testing.TB, text string) {
	t.Helper()
	for _, f := range families() {
		s.run(t, text, s.program(f, "restore"), "--noflush", "--counters")
	}
}

// saved is what iptables-save prints for both families, with counters, but
// without comments, which hold the time. other also asks the other variant.
func (s site) saved(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, f := range families() {
		for line := range strings.Lines(s.run(t, "", s.program(f, "save"), "-c")) {
			if !strings.HasPrefix(line, "#") {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

var counts = regexp.MustCompile(`(?m)( )?\[\d+:\d+\]( )?`)

// rules is what iptables-save prints without counters, and without what
// depends on what there was before: the order of tables, tables and built-in
// chains without rules, and the notes on what was made.
func (s site) rules(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, f := range families() {
		text := counts.ReplaceAllString(s.run(t, "", s.program(f, "save")), "")
		tables := strings.Split(text, "*")[1:]
		slices.Sort(tables)
		for _, table := range tables {
			name, rest, _ := strings.Cut(table, "\n")
			for line := range strings.Lines(rest) {
				if strings.HasPrefix(line, "-A") || strings.HasSuffix(line, " -\n") && !strings.HasPrefix(line, ":"+madePrefix) {
					fmt.Fprintf(&b, "%s %s %s", f, name, line)
				}
			}
		}
	}
	return b.String()
}

// everything is all that can be seen of rules in the namespace: of this
// variant, with counters, and of nf_tables, with handles.
func (s site) everything(t testing.TB) string {
	t.Helper()
	other := NFT
	if s.v == NFT {
		other = Legacy
	}
	return s.saved(t) + site{s.Namespace, nil, other}.saved(t) + s.run(t, "", "nft", "-nn", "-a", "list", "ruleset") +
		fmt.Sprint(s.sets(t))
}

// sets are our sets, with how many rules ask each.
func (s site) sets(t testing.TB) (all map[string]int) {
	t.Helper()
	s.withSets(t, func(c *ipset.Conn) (err error) {
		all, err = c.References()
		return err
	})
	return all
}

// withSets calls f with what speaks with the kernel about sets.
func (s site) withSets(t testing.TB, f func(*ipset.Conn) error) {
	t.Helper()
	err := s.Do(func() error {
		c, err := ipset.Open()
		if err != nil {
			return err
		}
		return errors.Join(f(c), c.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func random(t testing.TB, seed uint64) ruleset.Ruleset {
	t.Helper()
	return compileConfig(t, randomConfig(seed))
}

func randomConfig(seed uint64) intercept.Config { return gen.Config(rand.New(rand.NewPCG(seed, 11))) }

// many has long lists of every kind.
func many() intercept.Config {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Inbound.DropInvalid = true
	for i := range 300 {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs,
			mustCIDRs(fmt.Sprintf("10.%d.%d.0/25,2001:db8:%x::/49", i/250, i%250, i))...)
	}
	for i := range uint16(100) {
		c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, ruleset.PortRange{First: 20000 + 10*i, Last: 20003 + 10*i})
	}
	e := intercept.Exclusion{}
	for i := range uint32(20) {
		e.Ports = append(e.Ports, ruleset.Port(uint16(2*i+1)))
		e.UIDs = append(e.UIDs, ruleset.ID(2*i))
		e.GIDs = append(e.GIDs, ruleset.ID(2*i))
	}
	e.CIDRs = c.Outbound.ExcludeCIDRs[:20]
	c.Outbound.Exclude = append(c.Outbound.Exclude, e)
	return c
}

// TestKernelTakesTheVocabulary: what xtables can say is accepted, and reads
// back as what it was.
func TestKernelTakesTheVocabulary(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, d := range []Dialect{Standard, Minimal} {
			t.Run(string(d), func(t *testing.T) {
				t.Parallel()
				for i, rs := range inDialect(t, vocabulary(), d) {
					s := newSite(t, Options{Variant: v, Dialect: d})
					s.mustApply(t, rs, ruleset.Created)
					s.mustBe(t, rs)
					s.mustApply(t, rs, ruleset.Unchanged)
					if i == 0 {
						s.mustRemove(t)
					}
				}
			})
		}
	})
}

// seedCounters gives every rule counters of its own. ip6tables-nft-restore
// 1.8.9 does not take any, so there they stay zero.
func (s site) seedCounters(t testing.TB) {
	t.Helper()
	for _, f := range families() {
		n := 0
		var text strings.Builder
		var builtin, rules []string
		for line := range strings.Lines(s.run(t, "", s.program(f, "save"))) {
			chain := strings.Fields(line + " -")[1]
			switch {
			case strings.HasPrefix(line, "-A"):
				n++
				rules = append(rules, fmt.Sprintf("[%d:%d] %s", n, 100*n, line))
				if slices.Contains(builtin, chain) {
					text.WriteString("-D" + strings.TrimPrefix(line, "-A"))
				}
			case line == "COMMIT\n":
				text.WriteString(strings.Join(rules, "") + line)
				builtin, rules = nil, nil
			case strings.HasPrefix(line, ":") && chain != "-":
				builtin = append(builtin, strings.Fields(line)[0][1:])
			case !strings.HasPrefix(line, "#"):
				text.WriteString(line)
			}
		}
		s.run(t, text.String(), s.program(f, "restore"), "--noflush", "--counters")
	}
}

// TestTwiceIsOnce: a second Apply writes nothing, not even a counter changes.
func TestTwiceIsOnce(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, o := range []Options{{}, {Dialect: Minimal}, {Jumps: JumpsLast}} {
			for _, c := range []intercept.Config{intercept.Default(), many(), randomConfig(1)} {
				rs := compileConfig(t, fitting(c, o.Dialect))
				o.Variant = v
				if _, err := Render(rs, o); isTooBig(o.Dialect, err) {
					continue
				}
				s := newSite(t, o)
				s.mustApply(t, rs, ruleset.Created)
				s.seedCounters(t)
				before := s.everything(t)
				if !strings.Contains(before, "[3:300]") {
					t.Fatalf("no counters:\n%s", before)
				}
				for range 2 {
					s.mustApply(t, rs, ruleset.Unchanged)
					s.mustBe(t, rs)
				}
				if _, err := s.counters(); err != nil {
					t.Error(err)
				}
				if diff := gocmp.Diff(before, s.everything(t)); diff != "" {
					t.Fatalf("the second Apply, Check or Counters changed something:\n%s", diff)
				}
			}
		}
	})
}

// TestTextLoadedByHandIsOurs: who loads the rendered text gets what Apply and
// Check know as ours.
func TestTextLoadedByHandIsOurs(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		rs := compileConfig(t, many())
		inputs, err := Render(rs, Options{Variant: v})
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range inputs {
			name := strings.Replace(in.Program(), "tables-", "tables-"+string(v)+"-", 1)
			s.run(t, in.Text, name, "--noflush")
		}
		s.mustBe(t, rs)
		s.mustApply(t, rs, ruleset.Unchanged)
		s.mustRemove(t)
	})
}

// TestRandomWalk goes from each of some configurations to the next: what is
// there is always what a fresh namespace would have. Halfway short lists become sets, too.
func TestRandomWalk(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		was := s.everything(t)
		asked := 0
		for seed := range uint64(20) {
			rs := random(t, 100+seed)
			o := Options{Variant: v}
			if seed >= 10 {
				o.sets = 2
				s.b = s.open(t, o)
			}
			s.mustApply(t, rs, "")
			s.mustBe(t, rs)
			fresh := newSite(t, o)
			fresh.mustApply(t, rs, ruleset.Created)
			if diff := gocmp.Diff(fresh.rules(t), s.rules(t)); diff != "" {
				t.Fatalf("step %d: a fresh namespace (-) and this one (+) differ:\n%s", seed, diff)
			}
			sets := s.sets(t)
			if diff := gocmp.Diff(fresh.sets(t), sets); diff != "" {
				t.Fatalf("step %d: the sets of a fresh namespace (-) and of this one (+) differ:\n%s", seed, diff)
			}
			asked += len(sets)
			if s.rules(t) == "" {
				t.Fatal("nothing was compared")
			}
		}
		if asked < 5 {
			t.Errorf("there were %d sets in all", asked)
		}
		s.mustRemove(t)
		checkRestored(t, s, was)
	})
}

// checkRestored fails unless the namespace looks as it did. The kernel keeps
// tables of the legacy variant, so of those rules are compared.
func checkRestored(t testing.TB, s site, was string) {
	t.Helper()
	now := s.everything(t)
	if s.v == Legacy {
		was, now = withoutEmpty(was), withoutEmpty(now)
	}
	if diff := gocmp.Diff(was, now); diff != "" {
		t.Errorf("before (-) and after (+) differ:\n%s", diff)
	}
}

// withoutEmpty leaves out the tables that have no rules and no chains but
// built-in ones.
func withoutEmpty(saved string) string {
	var b, table strings.Builder
	used := true
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, "*") {
			used = false
		}
		table.WriteString(line)
		if strings.Contains(line, "-A ") || strings.HasPrefix(line, ":") && strings.Contains(line, " - ") {
			used = true
		}
		if line == "COMMIT\n" {
			if used {
				b.WriteString(table.String())
			}
			table.Reset()
			used = true
		}
	}
	return b.String() + table.String()
}

// foreign are other people's rules, as Docker and kube-proxy write them: with
// jumps of their own, and names that look a little like ours.
const foreign = `*nat
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:NOT_MESH_OUTPUT - [0:0]
[1:60] -A PREROUTING -m comment --comment "kubernetes service portals, not MESH_OUTPUT" -j KUBE-SERVICES
[2:120] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[3:180] -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[4:240] -A OUTPUT ! -o lo -j NOT_MESH_OUTPUT
[5:300] -A DOCKER -i docker0 -j RETURN
[6:360] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
[7:420] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[8:480] -A KUBE-SERVICES -p udp -m comment --comment "say \"MESH_\" -j MESH_OUTPUT" -j KUBE-MARK-MASQ
[9:540] -A NOT_MESH_OUTPUT -m comment --comment MESH_SPEC_0 -j RETURN
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
[10:600] -A OUTPUT -j KUBE-FIREWALL
[11:660] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[12:720] -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
`

// theirs are the lines of what is saved that are not ours.
func theirs(saved string) string {
	var b strings.Builder
	for line := range strings.Lines(saved) {
		if !strings.HasPrefix(line, ":MESH_") && !strings.Contains(line, "-A MESH_") &&
			!strings.HasSuffix(line, "--comment Intercept -j MESH_OUTPUT\n") &&
			!regexp.MustCompile(`-j MESH_[A-Z_]+\n$`).MatchString(line) {
			b.WriteString(line)
		}
	}
	return withoutEmpty(b.String())
}

// TestRemoveRestores: after Apply and Remove the namespace's listings are what
// they were, byte for byte, and other people's rules were never touched.
func TestRemoveRestores(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for name, before := range map[string]string{"empty": "", "beside others": foreign} {
			for _, o := range []Options{{}, {Jumps: JumpsLast}, {Jumps: JumpsLastInbound}, {Jumps: JumpsLastOutbound},
				{Dialect: Minimal}} {
				t.Run(fmt.Sprintf("%s, jumps %s, %s", name, o.Jumps, o.dialect()), func(t *testing.T) {
					t.Parallel()
					o.Variant = v
					s := newSite(t, o)
					if before != "" {
						s.restore(t, before)
					}
					was := s.everything(t)
					wasTheirs := withoutEmpty(s.saved(t))
					steps := 0
					for seed := uint64(0); steps < 4; seed++ {
						rs := compileConfig(t, fitting(randomConfig(200+seed), o.Dialect))
						if _, err := Render(rs, o); isTooBig(o.Dialect, err) {
							continue
						}
						steps++
						s.mustApply(t, rs, "")
						saved := s.saved(t)
						if diff := gocmp.Diff(wasTheirs, theirs(saved)); diff != "" {
							t.Fatalf("Apply changed other people's rules:\n%s", diff)
						}
						checkPlaces(t, saved, o.Jumps)
					}
					// Somebody puts rules before and after ours.
					if before != "" {
						s.iptables(t, ruleset.IPv4, "-t nat -I OUTPUT 1 -j DOCKER")
						s.iptables(t, ruleset.IPv4, "-t nat -A OUTPUT -j KUBE-MARK-MASQ")
					}
					s.mustRemove(t)
					if before != "" {
						s.iptables(t, ruleset.IPv4, "-t nat -D OUTPUT -j DOCKER")
						s.iptables(t, ruleset.IPv4, "-t nat -D OUTPUT -j KUBE-MARK-MASQ")
					}
					checkRestored(t, s, was)
					if removed, err := s.remove(); err != nil || removed {
						t.Fatalf("Remove again: %v, %v", removed, err)
					}
					if _, err := s.check(compileConfig(t, fitting(intercept.Default(), o.Dialect))); !errors.Is(err,
						ruleset.ErrNotIntercepted) {
						t.Fatalf("Check of nothing: %v", err)
					}
					if _, err := s.counters(); !errors.Is(err, ruleset.ErrNotIntercepted) {
						t.Fatalf("Counters of nothing: %v", err)
					}
				})
			}
		}
	})
}

// checkPlaces fails unless every built-in chain that leads to ours does so once,
// by its first rule or its last.
func checkPlaces(t *testing.T, saved string, jumps Jumps) {
	t.Helper()
	var builtin []string
	name, found := "", 0
	end := func() {
		for i, line := range builtin {
			if strings.HasPrefix(line[strings.LastIndexByte(line, ' ')+1:], "MESH_") {
				found++
				sent := name == "OUTPUT"
				last := jumps == JumpsLast || jumps == JumpsLastInbound && !sent || jumps == JumpsLastOutbound && sent
				if place := map[bool]int{false: 0, true: len(builtin) - 1}[last]; i != place {
					t.Errorf("rule %d of %d leads to us: %s", i+1, len(builtin), line)
				}
			}
		}
		builtin = nil
	}
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		_, rule, isRule := strings.Cut(line, "] -A ")
		chain, _, _ := strings.Cut(rule, " ")
		if !isRule || chain != name {
			end()
		}
		name = chain
		if isRule && slices.Contains([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT"}, chain) {
			builtin = append(builtin, line)
		}
	}
	if found == 0 {
		t.Error("nothing leads to us")
	}
}

// TestOneFamilyOnly: what is no longer for a family is gone from it.
func TestOneFamilyOnly(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll
		s.mustApply(t, compileConfig(t, c), ruleset.Created)
		c.Families = intercept.FamiliesIPv4
		only4 := compileConfig(t, c)
		s.mustApply(t, only4, ruleset.Replaced)
		s.mustBe(t, only4)
		if left := s.run(t, "", s.program(ruleset.IPv6, "save")); strings.Contains(left, "MESH_") || v == NFT && left != "" {
			t.Errorf("left in IPv6:\n%s", left)
		}
		if l := s.run(t, "", "nft", "list", "ruleset"); strings.Contains(l, "ip6") {
			t.Errorf("left in IPv6:\n%s", l)
		}
		// And tables that are no longer needed.
		c.DNS.Mode = intercept.DNSOff
		s.mustApply(t, compileConfig(t, c), ruleset.Replaced)
		if l := s.saved(t); strings.Contains(l, "MESH_RAW") || v == NFT && strings.Contains(l, "*raw") {
			t.Errorf("left in raw:\n%s", l)
		}
	})
}

// TestCheckNamesDifferences tampers with the rules by hand. Check names what
// is amiss and changes nothing; Apply puts it right.
func TestCheckNamesDifferences(t *testing.T) {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Outbound.ExcludePorts = must(ruleset.ParsePorts("8080"))
	rs := compileConfig(t, c)
	const (
		byUser = `-m owner --uid-owner 1337 -m comment --comment "O4.uid: from the proxy (by user)" -j RETURN`
		port   = `-p tcp -m tcp --dport 8080 -m comment --comment "O5.ports: excluded port" -j RETURN`
		jump   = `-m comment --comment Intercept -j MESH_OUTPUT`
	)
	tests := []struct{ name, script, want string }{
		{"rule deleted", "-D MESH_OUTPUT " + byUser, `table nat, chain MESH_OUTPUT, rule O4.uid: missing`},
		{"rule added", "-A MESH_OUTPUT -p tcp --dport 1 -j ACCEPT", "a rule without comment: not ours"},
		{"rule added with a comment of ours",
			`-I MESH_OUTPUT 1 -m comment --comment "O4.uid: from the proxy (by user)" -j ACCEPT`,
			`rule O4.uid: has other conditions, another target or another comment`},
		{"rules swapped", "-D MESH_OUTPUT " + byUser + "\n-A MESH_OUTPUT " + byUser, "its rules stand in another order"},
		{"chain flushed", "-F MESH_PREROUTING", `rule I8: missing`},
		{"port changed", "-D MESH_OUTPUT " + port + "\n-I MESH_OUTPUT 6 " + strings.Replace(port, "8080", "8081", 1),
			`rule O5.ports: has other conditions, another target or another comment`},
		{"chain added", ":MESH_MORE - [0:0]", "chain MESH_MORE: not part of this configuration"},
		{"mark of content changed", ":MESH_SPEC_0 - [0:0]", "chain MESH_SPEC_0: made from another configuration"},
		{"jump deleted", "-D OUTPUT " + jump,
			"table nat, chain OUTPUT: does not lead to our chain exactly once, first of its rules"},
		{"jump twice", "-A OUTPUT " + jump, "table nat, chain OUTPUT: does not lead to our chain exactly once"},
		{"jump three times", "-A OUTPUT " + jump + "\n-I OUTPUT 1 " + jump, "does not lead to our chain exactly once"},
		{"jump moved", "-I OUTPUT 1 -p tcp --dport 1 -j ACCEPT",
			"does not lead to our chain exactly once, first of its rules"},
		{"another's rule first", "-I OUTPUT 1 -p tcp --dport 1 -j ACCEPT",
			"first of its rules; another's is first: -p tcp -m tcp --dport 1 -j ACCEPT"},
		{"jump with a condition", "-D OUTPUT " + jump + "\n-I OUTPUT 1 -p tcp " + jump,
			"does not lead to our chain exactly once"},
		{"jump to another chain of ours",
			"-D OUTPUT " + jump + "\n-I OUTPUT 1 -m comment --comment Intercept -j MESH_PREROUTING",
			"does not lead to our chain exactly once"},
		{"goto", "-D OUTPUT " + jump + "\n-I OUTPUT 1 -m comment --comment Intercept -g MESH_OUTPUT",
			"does not lead to our chain exactly once"},
		{"jump from elsewhere", "-A POSTROUTING -j MESH_MORE\n:MESH_MORE - [0:0]",
			"chain POSTROUTING: leads to a chain of ours, but should not"},
	}
	variants(t, func(t *testing.T, v Variant) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, Options{Variant: v})
				s.mustApply(t, rs, ruleset.Created)
				clean := s.rules(t)
				lines := strings.Split(tt.script, "\n")
				slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(b[:1], a[:1]) }) // chains first
				s.restore(t, "*nat\n"+strings.Join(lines, "\n")+"\nCOMMIT\n")
				before := s.everything(t)
				diffs, err := s.check(rs)
				if err != nil {
					t.Fatal(err)
				}
				if got := joinDifferences(diffs); !strings.Contains(got, "IPv4, ") || !strings.Contains(got, "IPv6, ") ||
					!strings.Contains(got, tt.want) {
					t.Errorf("Check says %q, want %q in both families", got, tt.want)
				}
				if diff := gocmp.Diff(before, s.everything(t)); diff != "" {
					t.Errorf("Check changed the kernel:\n%s", diff)
				}
				s.mustApply(t, rs, ruleset.Replaced)
				s.mustBe(t, rs)
				// What was added to a built-in chain is not ours to take away.
				now := regexp.MustCompile(`(?m)^.* -A OUTPUT -p tcp -m tcp --dport 1 -j ACCEPT\n`).ReplaceAllString(s.rules(t), "")
				if diff := gocmp.Diff(clean, now); diff != "" {
					t.Errorf("after Apply:\n%s", diff)
				}
			})
		}
		t.Run("another configuration", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			s.mustApply(t, random(t, 5), ruleset.Created)
			diffs, err := s.check(rs)
			if got := joinDifferences(diffs); err != nil || !strings.Contains(got, "made from another configuration") {
				t.Errorf("%s, %v", got, err)
			}
		})
		t.Run("a mark for a connection's", func(t *testing.T) {
			s := newSite(t, Options{Variant: v})
			of := func(m ruleset.Match) ruleset.Ruleset {
				return ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4},
					Chains: []ruleset.Chain{{Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityFilter,
						Rules: []ruleset.Rule{{ID: "O1", Reason: "marked", Match: []ruleset.Match{m}, Target: ruleset.Drop{}}}}}}
			}
			s.mustApply(t, of(ruleset.MetaMark{Value: 1, Mask: 1}), ruleset.Created)
			s.run(t, "*filter\n:MESH_OUTPUT - [0:0]\n-A MESH_OUTPUT -m connmark --mark 1/1 "+
				"-m comment --comment \"O1: marked\" -j DROP\nCOMMIT\n", s.program(ruleset.IPv4, "restore"), "--noflush")
			diffs, err := s.check(of(ruleset.MetaMark{Value: 1, Mask: 1}))
			if got := joinDifferences(diffs); err != nil || !strings.Contains(got, `rule O1: has other conditions`) {
				t.Errorf("%s, %v", got, err)
			}
		})
	})
}

// noTidying are objects that cannot be removed: as if the process ended there.
type noTidying struct{ Objects }

func (noTidying) RemoveEmpty(context.Context, ruleset.Family, string, []string, bool) error {
	return errors.New("the end")
}

// TestEndsBeforeTidying: what was made of nf_tables for rules that are gone is
// still there. The next one of us takes it away.
func TestEndsBeforeTidying(t *testing.T) {
	t.Parallel()
	require(t, NFT) // the tables of the legacy variant stay
	plain := compileConfig(t, intercept.Default())
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	for name, next := range map[string]func(*testing.T, site){
		"Apply again":   func(t *testing.T, s site) { s.mustApply(t, plain, ruleset.Unchanged) },
		"Apply another": func(t *testing.T, s site) { s.mustApply(t, compileConfig(t, many()), ruleset.Replaced) },
		"Remove":        func(*testing.T, site) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Options{Variant: NFT})
			was := s.everything(t)
			s.mustApply(t, compileConfig(t, c), ruleset.Created)
			dead := s
			dead.b = &Runner{s.b.o, s.b.users, s.b.programs, s.b.missing}
			dead.b.o.Objects = noTidying{s.b.o.Objects}
			if _, err := dead.apply(plain); err == nil ||
				!strings.Contains(err.Error(), "remove what is left of table raw: the end") {
				t.Fatal(err)
			}
			s.mustBe(t, plain)
			next(t, s)
			if l := s.saved(t); name == "Apply again" && strings.Contains(l, "*raw") {
				t.Errorf("left:\n%s", l)
			}
			// And the same when everything is removed.
			if _, err := dead.remove(); err == nil {
				t.Fatal("no error")
			}
			if l := s.saved(t); strings.Contains(l, "-A ") || !strings.Contains(l, ":MESH_MADE_TABLE") ||
				!IsOurs("MESH_MADE_TABLE") {
				t.Fatalf("left:\n%s", l)
			}
			s.mustRemove(t)
			checkRestored(t, s, was)
		})
	}
}

// TestLegacyHolds: it finds our chains, and brings no table about.
func TestLegacyHolds(t *testing.T) {
	t.Parallel()
	require(t, Legacy)
	s := newSite(t, Options{Variant: Legacy})
	holds := func(want bool) {
		t.Helper()
		for _, f := range families() {
			err := s.Do(func() error {
				if got, err := LegacyHolds(f); err != nil || got != want {
					return fmt.Errorf("%s: %t, %v", f, got, err)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	holds(false)
	if err := s.Do(func() error {
		for _, f := range families() {
			if tables, err := legacyTables(f); err != nil || len(tables) > 0 {
				return fmt.Errorf("LegacyHolds made tables: %v, %v", tables, err)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.restore(t, foreign)
	s.restore(t, "*nat\n:NOT_MESH_SPEC - [0:0]\nCOMMIT\n")
	holds(false)
	s.mustApply(t, compileConfig(t, many()), ruleset.Created)
	holds(true)
	s.mustRemove(t)
	holds(false)
}
