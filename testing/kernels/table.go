package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/dataplane"
)

// A machine is what was seen on one.
type machine struct {
	release string
	here    bool // the host's kernel, and the release's programs
	// Versions.
	kernel, nft, iptables string
	report                dataplane.Report
	results               []result // as packages
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
	m.kernel = version(`(?m)^([0-9]+\.[0-9]+)\.[0-9]+\S*\r?$`)
	m.nft, m.iptables = version(`nftables v(\S+)`), version(`iptables v(\S+)`)
}

// A result is that of the tests of a package.
type result struct {
	pkg    string
	failed []string // by their names, as in TestKilled/nft
	// cut is what it said last, if it did not come to an end.
	cut string
}

func (r result) String() string {
	switch {
	case r.cut != "":
		return "did not come to an end: " + r.cut
	case len(r.failed) > 0:
		return "failed: " + strings.Join(r.failed, ", ")
	}
	return "ok"
}

// read takes the result of a package from what its tests say with -test.v, and a last line of their exit code.
func read(pkg, said string) result {
	r := result{pkg: pkg}
	for _, found := range regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`).FindAllStringSubmatch(said, -1) {
		r.failed = append(r.failed, found[1])
	}
	// Of those that failed because one of theirs did, the latter.
	all := slices.Clone(r.failed)
	r.failed = slices.DeleteFunc(r.failed, func(name string) bool {
		return slices.ContainsFunc(all, func(other string) bool { return strings.HasPrefix(other, name+"/") })
	})
	slices.Sort(r.failed)
	lines := strings.Split(strings.TrimSpace(said), "\n")
	want := "PASS\nexit code 0"
	if len(r.failed) > 0 {
		want = "FAIL\nexit code 1"
	}
	if last := strings.Join(lines[max(0, len(lines)-2):], "\n"); last != want {
		r.cut = fmt.Sprintf("%q", last)
	}
	return r
}

// A cause says why a test fails on a machine, and that this is how it is.
type cause struct {
	machine, test *regexp.Regexp // of the machine's name, and of package and test, as in nft.TestKilled
	why           string
}

// causes are the failures that have been looked into and stay.
func causes() []cause {
	return []cause{
		{regexp.MustCompile(`^bullseye`), regexp.MustCompile(`^nft\.(TestOracle|TestTextLoadedByHandIsOurs)\b`),
			"nft 0.9.8 does not know `tcp option mptcp` and `icmpx` without `type`, so it cannot read the text of `render`"},
	}
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
			if r.cut != "" {
				red = append(red, fmt.Sprintf("%s: %s %s", m.name(), r.pkg, r))
				continue
			}
			for _, test := range r.failed {
				if explained(m, r.pkg, test, causes) == "" {
					red = append(red, fmt.Sprintf("%s: %s.%s", m.name(), r.pkg, test))
				}
			}
		}
	}
	return red
}

// tables returns what was seen as the tables of the document.
func tables(machines []machine, causes []cause) string {
	var t strings.Builder
	row := func(cells ...string) { fmt.Fprintf(&t, "| %s |\n", strings.Join(cells, " | ")) }
	columns := func(first string, cell func(machine) string) {
		cells := []string{first}
		for _, m := range machines {
			cells = append(cells, cell(m))
		}
		row(cells...)
	}
	columns("Linux", func(m machine) string { return m.kernel })
	columns("---", func(machine) string { return "---" })
	columns("programs of Debian", func(m machine) string { return m.release })
	columns("nft", func(m machine) string { return m.nft })
	columns("iptables", func(m machine) string { return m.iptables })
	for i, r := range machines[0].results {
		columns("tests of "+r.pkg, func(m machine) string { return cell(m, m.results[i], causes) })
	}
	for i, d := range machines[0].report.Backends {
		for j, c := range d.Capabilities {
			columns(fmt.Sprintf("%s: %s", d.Backend, c.Name), func(m machine) string {
				if all := m.report.Backends[i].Capabilities; j < len(all) && all[j].State == dataplane.StateOK {
					return "yes"
				}
				return "no"
			})
		}
	}
	return t.String()
}

// cell is a result as the table has it: of what fails, the tests and the cause, each once.
func cell(m machine, r result, causes []cause) string {
	var whys []string
	tests := map[string][]string{}
	for _, test := range r.failed {
		why := explained(m, r.pkg, test, causes)
		name, _, _ := strings.Cut(test, "/")
		if !slices.Contains(whys, why) {
			whys = append(whys, why)
		}
		if !slices.Contains(tests[why], name) {
			tests[why] = append(tests[why], name)
		}
	}
	if len(whys) == 0 {
		return "ok"
	}
	for i, why := range whys {
		whys[i] = fmt.Sprintf("ok but for %s: %s", strings.Join(tests[why], ", "), why)
	}
	return strings.Join(whys, "; ")
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
