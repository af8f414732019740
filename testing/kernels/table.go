package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/dataplane"
)

// A machine is what was seen on one.
type machine struct {
	release string
	here    bool // the host's kernel, and the release's programs
	seen    seen
	results []result // as packages
}

// seen is what a machine says of itself.
type seen struct {
	Linux, NFT, IPTables string // versions
	Report               dataplane.Report
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
	m.seen.Linux = version(`(?m)^([0-9]+\.[0-9]+)\.[0-9]+\S*\r?$`)
	m.seen.NFT, m.seen.IPTables = version(`nftables v(\S+)`), version(`iptables v(\S+)`)
}

// A result is that of the tests of a package.
type result struct {
	pkg    string
	tests  int      // how many there are
	failed []string // by their names, as in TestKilled/nft
	// missing are those that did not come to an end.
	missing []string
}

func (r result) String() string {
	switch {
	case len(r.missing) > 0:
		return "no end of " + strings.Join(r.missing, ", ")
	case len(r.failed) > 0:
		return "failed: " + strings.Join(r.failed, ", ")
	}
	return "ok"
}

// read takes the results of a package's tests from what they have said in one run or more. A line of its exit code ends
// each, unless it was cut off. Of a test that has run twice the later result counts. A run whose code is not what its
// tests say counts for nothing.
func read(pkg string, tests []string, said string) result {
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
	r := result{pkg: pkg, tests: len(tests)}
	for _, test := range tests {
		all, ended := failed[test]
		if !ended {
			r.missing = append(r.missing, test)
		}
		r.failed = append(r.failed, all...)
	}
	slices.Sort(r.failed)
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
		{"^bullseye", `^(nft\.(TestOracle|TestTextLoadedByHandIsOurs)|dataplane\.TestRenderedTextIsWhatApplyMakes/nft)\b`,
			"nft 0.9.8 does not know `tcp option mptcp` and `icmpx` without `type`, so it cannot read the text of `render`"},
		{"^bullseye", `^nft\.TestForeignDevices$`,
			"nft 0.9.8 and Linux before 5.16 have no hook `egress`, in which the test puts a rule of others"},
		{"^bullseye", `^iptables\.TestNoPrivilege/nft$`,
			"iptables-nft 1.8.7 says of a missing NET_ADMIN that it cannot load a match, and apply repeats that"},
		{"^bullseye", `^dataplane\.TestReferenceUnseen$`,
			"iptables-nft-save 1.8.7 crashes (\"double free\") where a table has two chains at one hook; " +
				"apply and remove say so, and change nothing"},
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
		for _, r := range m.results {
			for _, test := range r.failed {
				if explained(m, r.pkg, test, causes) == "" {
					red = append(red, fmt.Sprintf("%s: %s.%s", m.name(), r.pkg, test))
				}
			}
		}
	}
	return red
}

// unfinished returns the tests without a result.
func unfinished(machines []machine) (red []string) {
	for _, m := range machines {
		for _, r := range m.results {
			for _, test := range r.missing {
				red = append(red, fmt.Sprintf("%s: %s.%s did not come to an end", m.name(), r.pkg, test))
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
	rows("Linux", func(m machine) string { return m.seen.Linux })
	rows("---", func(machine) string { return "---" })
	rows("programs of Debian", func(m machine) string { return m.release })
	rows("nft", func(m machine) string { return m.seen.NFT })
	rows("iptables", func(m machine) string { return m.seen.IPTables })
	var notes []string
	for i, r := range machines[0].results {
		rows("tests of "+r.pkg, func(m machine) string { return cell(m, m.results[i], causes, &notes) })
	}
	for i, note := range notes {
		fmt.Fprintf(&t, "\n%d. %s", i+1, note)
	}
	if len(notes) > 0 {
		t.WriteString("\n")
	}
	t.WriteString("\n")
	backends := machines[0].seen.Report.Backends
	var names, lines []string
	for _, d := range backends {
		names, lines = append(names, string(d.Backend)), append(lines, "---")
	}
	row("what rules need", names...)
	row("---", lines...)
	for j, c := range backends[0].Capabilities {
		var cells []string
		for i := range backends {
			cells = append(cells, everywhere(machines, i, j))
		}
		row(c.Name, cells...)
	}
	return t.String()
}

// cell is a result as the table has it: how many passed, the numbers of the notes that say what failed and why, and how
// many did not run.
func cell(m machine, r result, causes []cause, notes *[]string) string {
	tests := map[string][]string{} // by cause
	failed := map[string]bool{}
	for _, test := range r.failed {
		name, _, _ := strings.Cut(test, "/")
		failed[name] = true
		if why := explained(m, r.pkg, test, causes); !slices.Contains(tests[why], name) {
			tests[why] = append(tests[why], name)
		}
	}
	switch {
	case len(r.missing) == r.tests:
		return "not run"
	case len(r.missing)+len(failed) == 0:
		return fmt.Sprintf("all %d", r.tests)
	}
	var numbers []string
	for _, why := range slices.Sorted(maps.Keys(tests)) {
		note := fmt.Sprintf("%s: %s.", strings.Join(tests[why], ", "), why)
		if !slices.Contains(*notes, note) {
			*notes = append(*notes, note)
		}
		numbers = append(numbers, strconv.Itoa(slices.Index(*notes, note)+1))
	}
	text := fmt.Sprintf("%d of %d", r.tests-len(failed)-len(r.missing), r.tests)
	if len(numbers) > 0 {
		text += fmt.Sprintf(" (%s)", strings.Join(numbers, ", "))
	}
	if len(r.missing) > 0 {
		text += fmt.Sprintf(", %d not run", len(r.missing))
	}
	return text
}

// everywhere says on which machines a backend has a capability.
func everywhere(machines []machine, backend, capability int) string {
	var not []string
	for _, m := range machines {
		all := m.seen.Report.Backends[backend].Capabilities
		if capability >= len(all) || all[capability].State != dataplane.StateOK {
			not = append(not, fmt.Sprintf("%s (%s)", m.seen.Linux, m.release))
		}
	}
	switch len(not) {
	case 0:
		return "yes"
	case len(machines):
		return "no"
	}
	return "not on " + strings.Join(not, ", ")
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
