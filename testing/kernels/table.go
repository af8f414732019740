package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A machine is what was seen on one.
type machine struct {
	release string
	here    bool // the host's kernel, and the release's programs
	kept
}

// kept is what is remembered of a machine.
type kept struct {
	Linux, NFT, IPTables string // versions; empty of a machine that was never looked at
	Can                  []capability
	Results              map[string]result // by package
}

// A capability is something that rules of a backend need, as mesh-init doctor has tried it.
type capability struct {
	Backend, Name string
	OK            bool
}

// name tells machines apart.
func (m machine) name() string {
	if m.here {
		return m.release + "-here"
	}
	return m.release
}

// read takes the versions from what uname, nft and iptables say.
func (m *machine) read(said string) {
	version := func(pattern string) string {
		if found := regexp.MustCompile(pattern).FindStringSubmatch(said); found != nil {
			return found[1]
		}
		return ""
	}
	m.Linux = version(`(?m)^([0-9]+\.[0-9]+)\.[0-9]+\S*\r?$`)
	m.NFT, m.IPTables = version(`nftables v(\S+)`), version(`iptables v(\S+)`)
}

// A result is that of the tests of a package.
type result struct {
	Commit string   // of the tests, as git describes it
	Tests  int      // how many there are
	Failed []string `json:",omitempty"` // by their names, as in TestKilled/nft
	// NotRun are how many did not come to an end.
	NotRun int `json:",omitempty"`

	missing []string // those
}

func (r result) String() string {
	switch {
	case len(r.missing) > 0:
		return "no end of " + strings.Join(r.missing, ", ")
	case len(r.Failed) > 0:
		return "failed: " + strings.Join(r.Failed, ", ")
	}
	return "ok"
}

// read takes the results of a package's tests from what they have said in one run or more. A line of its exit code ends
// each, unless it was cut off. Of a test that has run twice the later result counts. A run whose code is not what its
// tests say counts for nothing.
func read(tests []string, said string) result {
	failed := map[string][]string{} // by test; none of one that passed
	code, passed := regexp.MustCompile(`(?m)^exit code ([0-9]+)$`), regexp.MustCompile(`(?m)^PASS$`)
	for rest := said; rest != ""; {
		run, end := rest, code.FindStringSubmatchIndex(rest)
		if rest = ""; end != nil {
			zero := run[end[2]:end[3]] == "0"
			run, rest = run[:end[0]], run[end[1]:]
			if zero != passed.MatchString(run) {
				continue
			}
		}
		maps.Copy(failed, failures(run))
	}
	r := result{Tests: len(tests)}
	for _, test := range tests {
		all, ended := failed[test]
		if !ended {
			r.missing = append(r.missing, test)
		}
		r.Failed = append(r.Failed, all...)
	}
	slices.Sort(r.Failed)
	r.NotRun = len(r.missing)
	return r
}

// failures are what failed of each test that came to an end in a run.
func failures(run string) map[string][]string {
	ended := map[string][]string{}
	for _, f := range regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+)`).FindAllStringSubmatch(run, -1) {
		test, _, within := strings.Cut(f[2], "/") // those within a test are listed after it
		if !within {
			ended[test] = nil
		}
		if _, ok := ended[test]; ok && f[1] == "FAIL" {
			ended[test] = append(ended[test], f[2])
		}
	}
	for test, all := range ended { // of those that failed because one of theirs did, the latter
		ended[test] = slices.DeleteFunc(slices.Clone(all), func(name string) bool {
			return slices.ContainsFunc(all, func(other string) bool { return strings.HasPrefix(other, name+"/") })
		})
	}
	return ended
}

// A cause says why a test fails on a machine, and that this is how it is.
type cause struct {
	machine, test *regexp.Regexp // of the machine's name, and of package and test, as in nft.TestKilled
	why           string
}

// causes are the failures that have been looked into and stay.
func causes() (all []cause) {
	for _, c := range [][3]string{
		{"^bullseye", `^(nft\.(TestOracle|TestTextLoadedByHandIsOurs|TestOrderOfRegistration/of_rules_without_the_note)|` +
			`dataplane\.TestRenderedTextIsWhatApplyMakes/nft|testing/traffic\.TestOlder/nft)\b`,
			"nft 0.9.8 does not know `tcp option mptcp`, `tcp flags` with a mask, and `icmpx` without `type`, so it cannot read " +
				"the text of `render`, nor rules that a test has kept of an older version"},
		{"^bullseye", `^(nft\.TestForeignDevices|dataplane\.TestVerifyLeaving)$`,
			"nft 0.9.8 and Linux before 5.16 have no hook `egress`, in which the tests put a rule of others"},
		{"^bullseye", `^iptables\.TestNoPrivilege/nft$`,
			"iptables-nft 1.8.7 says of a missing NET_ADMIN that it cannot load a match, and apply repeats that"},
		{"^bullseye", `^dataplane\.TestReferenceUnseen$`,
			"iptables-nft-save 1.8.7 crashes (\"double free\") where a table has two chains at one hook; " +
				"apply and remove say so, and change nothing"},
		{"^bullseye$", `^(dataplane\.TestWatchWithoutRules/|nft\.TestTrackingGoes$)`,
			"Linux before 5.12 has no tables that go with their process; so where there are no rules, watch does not have " +
				"connections tracked, sees none, and says so"},
		{"^bullseye$", `^testing/traffic\.(TestOpenings/MPTCP/|TestSubflow)`,
			"Debian's Linux 5.10 is built without Multipath TCP (CONFIG_MPTCP)"},
	} {
		all = append(all, cause{regexp.MustCompile(c[0]), regexp.MustCompile(c[1]), c[2]})
	}
	return all
}

// explained returns the cause of a failure; "" if there is none.
func explained(m machine, pkg, test string, causes []cause) string {
	for _, c := range causes {
		if c.machine.MatchString(m.name()) && c.test.MatchString(pkg+"."+test) {
			return c.why
		}
	}
	return ""
}

// unexplained returns the failures without a cause.
func unexplained(machines []machine, causes []cause) (red []string) {
	for _, m := range machines {
		for _, pkg := range packages() {
			for _, test := range m.Results[pkg].Failed {
				if explained(m, pkg, test, causes) == "" {
					red = append(red, fmt.Sprintf("%s: %s.%s", m.name(), pkg, test))
				}
			}
		}
	}
	return red
}

// tables returns what was seen as the tables of the document.
func tables(machines []machine, causes []cause) string {
	var t strings.Builder
	row := func(first string, cells ...string) {
		fmt.Fprintf(&t, "| %s |\n", strings.Join(append([]string{first}, cells...), " | "))
	}
	rows := func(first string, cell func(machine) string) {
		var cells []string
		for _, m := range machines {
			cells = append(cells, cell(m))
		}
		row(first, cells...)
	}
	rows("Linux", func(m machine) string { return cmp.Or(m.Linux, "not run") })
	rows("---", func(machine) string { return "---" })
	rows("programs of Debian", func(m machine) string { return m.release })
	rows("nft", func(m machine) string { return m.NFT })
	rows("iptables", func(m machine) string { return m.IPTables })
	all := notes(machines, causes)
	for _, pkg := range packages() {
		rows("tests of "+pkg, func(m machine) string { return cell(m, pkg, causes, all) })
	}
	for i, n := range all {
		fmt.Fprintf(&t, "\n%d. %s: %s.", i+1, strings.Join(n.tests, ", "), n.why)
	}
	if len(all) > 0 {
		t.WriteString("\n")
	}
	t.WriteString("\n")
	var backends, names, lines []string // in their order
	for _, m := range machines {
		for _, c := range m.Can {
			if !slices.Contains(backends, c.Backend) {
				backends, lines = append(backends, c.Backend), append(lines, "---")
			}
			if !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	row("what rules need", backends...)
	row("---", lines...)
	for _, name := range names {
		var cells []string
		for _, backend := range backends {
			cells = append(cells, everywhere(machines, capability{backend, name, true}))
		}
		row(name, cells...)
	}
	return t.String()
}

// A note says why tests fail.
type note struct {
	why   string
	tests []string
}

// notes are those of all failures, in the order in which the table comes to them.
func notes(machines []machine, causes []cause) (all []note) {
	for _, pkg := range packages() {
		for _, m := range machines {
			for _, test := range m.Results[pkg].Failed {
				why := explained(m, pkg, test, causes)
				i := slices.IndexFunc(all, func(n note) bool { return n.why == why })
				if i < 0 {
					i, all = len(all), append(all, note{why: why})
				}
				if name, _, _ := strings.Cut(test, "/"); !slices.Contains(all[i].tests, name) {
					all[i].tests = append(all[i].tests, name)
				}
			}
		}
	}
	return all
}

// cell is a result as the table has it: how many passed, the numbers of the notes that say what failed and why, and how
// many did not run.
func cell(m machine, pkg string, causes []cause, notes []note) string {
	r := m.Results[pkg]
	failed := map[string]bool{}
	numbers := map[int]bool{}
	for _, test := range r.Failed {
		name, _, _ := strings.Cut(test, "/")
		failed[name] = true
		why := explained(m, pkg, test, causes)
		numbers[slices.IndexFunc(notes, func(n note) bool { return n.why == why })+1] = true
	}
	switch {
	case r.NotRun == r.Tests:
		return "not run"
	case r.NotRun+len(failed) == 0:
		return fmt.Sprintf("all %d", r.Tests)
	}
	text := fmt.Sprintf("%d of %d", r.Tests-len(failed)-r.NotRun, r.Tests)
	if len(numbers) > 0 {
		list := fmt.Sprint(slices.Sorted(maps.Keys(numbers))) // as in [1 2]
		text += fmt.Sprintf(" (%s)", strings.ReplaceAll(strings.Trim(list, "[]"), " ", ", "))
	}
	if r.NotRun > 0 {
		text += fmt.Sprintf(", %d not run", r.NotRun)
	}
	return text
}

// everywhere says on which machines there is a capability, of those that were looked at.
func everywhere(machines []machine, c capability) string {
	var not []string
	seen := 0
	for _, m := range machines {
		if m.Linux == "" {
			continue
		}
		if seen++; !slices.Contains(m.Can, c) {
			not = append(not, fmt.Sprintf("%s (%s)", m.Linux, m.release))
		}
	}
	switch len(not) {
	case 0:
		return "yes"
	case seen:
		return "no"
	}
	return "not on " + strings.Join(not, ", ")
}

// remembered returns all machines, with what a file knows of them.
func remembered(name string) (all []machine, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var by map[string]kept
	if err := json.Unmarshal(text, &by); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, release := range releases() {
		for _, here := range []bool{false, true} {
			m := machine{release: release, here: here}
			if m.kept = by[m.name()]; m.Results == nil {
				m.Results = map[string]result{}
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// remember writes that file, which is whole at any time.
func remember(name string, all []machine) error {
	by := map[string]kept{}
	for _, m := range all {
		by[m.name()] = m.kept
	}
	text, err := json.MarshalIndent(by, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Lines of the document that the tables stand between.
const begin, end = "<!-- kernels: make kernels writes this -->\n", "<!-- /kernels -->\n"

// update puts the tables into the document.
func update(document, tables string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s has no lines %q and %q", document, begin, end)
	}
	return os.WriteFile(document, []byte(before+begin+"\n"+tables+"\n"+end+after), 0o644)
}
