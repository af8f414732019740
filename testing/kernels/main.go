// Command kernels runs the tests of what speaks with the kernel on the Linux and with the programs of several releases
// of Debian, and writes what it sees into docs/compatibility.md. See testing/kernels/machine.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept/dataplane"
)

// releases of Debian, the oldest first.
func releases() []string { return []string{"bullseye", "bookworm", "trixie", "forky"} }

// A suite is the tests of a package.
type suite struct {
	pkg string // a folder of the repository
	// pure are its tests that ask nothing of the kernel, and are left out: names, as go test -skip has it.
	pure string
	// emulated are flags for a machine in qemu, which computes ten times as long.
	emulated string
}

// suites are those that run.
func suites() []suite {
	return []suite{
		{pkg: "nft", pure: "^Fuzz"},
		{pkg: "iptables", pure: "^(TestMeaning|TestWays|TestSize|TestGolden|TestVocabulary|Fuzz)"},
		{pkg: "dataplane"}, {pkg: "internal/markroute", pure: "^Fuzz"}, {pkg: "internal/links"},
		{pkg: "internal/ipset"}, {pkg: "internal/conntrack"}, {pkg: "internal/sockets"},
		{pkg: "testing/conformance", emulated: "-random.configs 100 -mistakes.configs 20"},
		{pkg: "testing/traffic", emulated: "-spread.connections 2000"}, {pkg: "testing/pods"},
	}
}

// packages are those whose tests run.
func packages() (names []string) {
	for _, s := range suites() {
		names = append(names, s.pkg)
	}
	return names
}

// Results are kept in record, each of its last run, and written into document, between lines of their own.
const (
	record   = "testing/kernels/record.json"
	document = "docs/compatibility.md"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var w work
	flag.Func("releases", "only these, as in bullseye,forky", list(&w.releases, releases()))
	flag.Func("packages", "the tests of these alone, as in nft,testing/traffic; or none", list(&w.packages, packages()))
	flag.StringVar(&w.run, "run", "", "only tests that match, as go test -run has it, and these again")
	flag.StringVar(&w.out, "o", "", "a folder that keeps what the machines have said, so that a test that came to an end "+
		"is not run again; unless set, it is removed")
	flag.BoolVar(&w.write, "write", false, "run no tests, and keep what -o has of them, however much that is")
	flag.Parse()
	if err := w.do(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// list is a flag that takes names of those that there are.
func list(to *[]string, all []string) func(string) error {
	*to = all
	return func(text string) error {
		if *to = nil; text == "none" {
			return nil
		}
		*to = strings.Split(text, ",")
		for _, name := range *to {
			if !slices.Contains(all, name) {
				return fmt.Errorf("%s is not one of %s", name, strings.Join(all, ", "))
			}
		}
		return nil
	}
}

// work is what is asked for.
type work struct {
	releases, packages []string
	run, out, commit   string
	write              bool
}

func (w work) wants(release string) bool { return slices.Contains(w.releases, release) }

func (w work) do(ctx context.Context) (err error) {
	if w.out == "" {
		if w.out, err = os.MkdirTemp("", "kernels-"); err != nil {
			return err
		}
		defer os.RemoveAll(w.out)
	}
	for _, pkg := range w.packages {
		if err := compile(ctx, w.out, "test", "-c", "./"+pkg); err != nil {
			return err
		}
	}
	if err := compile(ctx, w.out, "build", "./cmd/mesh-init"); err != nil {
		return err
	}
	if w.commit, err = commit(ctx); err != nil {
		return err
	}
	machines, err := remembered(record)
	if err != nil {
		return err
	}
	var red []string
	for i, m := range machines {
		if !w.wants(m.release) {
			continue
		}
		missing, err := w.on(ctx, &machines[i], func() error { return remember(record, machines) })
		if err != nil {
			return err
		}
		red = append(red, missing...)
	}
	red = append(red, unexplained(machines, causes())...)
	if err := update(document, tables(machines, causes())); err != nil {
		return err
	}
	if w.run == "" && !w.write {
		wrong, err := w.tryLacks(ctx)
		if err != nil {
			return err
		}
		red = append(red, wrong...)
	}
	if len(red) > 0 {
		return fmt.Errorf("these fail, and nothing says why that is right:\n%s", strings.Join(red, "\n"))
	}
	return nil
}

// commit is what the tests are of; with a + there are changes besides those of the results.
func commit(ctx context.Context) (string, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	id, err := git("rev-parse", "--short", "HEAD")
	if err != nil {
		return "", err
	}
	changes, err := git("status", "--porcelain", "--untracked-files=no", "--", ":!"+record, ":!"+document)
	if changes != "" {
		id += "+"
	}
	return id, err
}

// compile builds a program of the repository into the folder bin of dir.
func compile(ctx context.Context, dir, verb string, args ...string) error {
	output := filepath.Join(dir, "bin", path.Base(args[len(args)-1]))
	if verb == "test" {
		output += ".test"
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{verb, "-o", output}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// look has the machine say what it is, and what the backends can do there.
const look = `uname -r; nft --version; iptables --version
ip netns add compatibility && /share/bin/mesh-init doctor --netns compatibility -o json >/share/report`

// on runs all that is asked for on a machine, keeps the results, and returns the tests that did not come to an end.
func (w work) on(ctx context.Context, m *machine, keep func() error) (missing []string, err error) {
	if !w.write {
		if err := w.look(ctx, m); err != nil {
			return nil, err
		}
	}
	for _, suite := range suites() {
		if !slices.Contains(w.packages, suite.pkg) {
			continue
		}
		r, err := w.test(ctx, *m, suite)
		if err != nil {
			return nil, err
		}
		fmt.Printf("%-16s %-20s %s\n", m.name(), suite.pkg, r)
		if w.write {
			if r.NotRun == r.Tests {
				continue
			}
		} else {
			for _, test := range r.missing {
				missing = append(missing, fmt.Sprintf("%s: %s.%s did not come to an end", m.name(), suite.pkg, test))
			}
		}
		if w.run == "" { // else these are some of them only
			r.Commit = w.commit
			m.Results[suite.pkg] = r
		}
		if err := keep(); err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// look takes what there is to see of a machine.
func (w work) look(ctx context.Context, m *machine) error {
	said, code, err := w.boot(ctx, *m, 5*time.Minute, look)
	if err != nil {
		return err
	}
	var report dataplane.Report
	text, err := os.ReadFile(filepath.Join(w.out, "report"))
	if err == nil {
		err = json.Unmarshal(text, &report)
	}
	if m.read(said); err != nil || m.Linux == "" {
		return fmt.Errorf("the machine of %s does not say what it is (exit code %d): %w\n%s", m.name(), code, err, said)
	}
	m.Can = nil
	for _, backend := range report.Backends {
		for _, c := range backend.Capabilities {
			m.Can = append(m.Can, capability{string(backend.Backend), c.Name, c.State == dataplane.StateOK})
		}
	}
	return nil
}

// test runs the tests of a suite that have no result yet. What is too much for one boot goes on in the next, as long as
// each of them brings results.
func (w work) test(ctx context.Context, m machine, s suite) (result, error) {
	program := path.Base(s.pkg) + ".test"
	log := filepath.Join(w.out, m.name()+"-"+path.Base(s.pkg)+".log")
	names, err := w.names(ctx, program, s)
	if err != nil {
		return result{}, err
	}
	flags := s.emulated
	if m.here {
		flags = ""
	}
	for again := w.run != ""; ; again = false {
		text, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return result{}, err
		}
		r := read(names, string(text))
		todo := r.missing
		if again {
			todo = names
		}
		if len(todo) == 0 || w.write {
			return r, nil
		}
		// From memory, as tests run themselves again as programs.
		command := fmt.Sprintf("cp /share/bin/%[2]s /tmp && cd %[1]s && exec >>/share/%[3]s 2>&1 && "+
			"MESH_TEST_REQUIRE=1 /tmp/%[2]s -test.v -test.timeout %[4]s -test.run '^(%[5]s)$' %[6]s; "+
			"code=$?; echo; echo exit code $code",
			s.pkg, program, filepath.Base(log), limit, strings.Join(todo, "|"), flags)
		said, _, err := w.boot(ctx, m, limit+time.Minute, command)
		if err != nil {
			return r, err
		}
		if text, err = os.ReadFile(log); err != nil {
			return r, fmt.Errorf("%s: %w\n%s", m.name(), err, said)
		}
		if r = read(names, string(text)); len(r.missing) == len(todo) {
			return r, nil
		}
	}
}

// names lists the tests of a suite that are asked for.
func (w work) names(ctx context.Context, program string, s suite) (names []string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(w.out, "bin", program), "-test.list", cmp.Or(w.run, "."))
	cmd.Stderr = os.Stderr
	listed, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	pure, err := regexp.Compile(cmp.Or(s.pure, "^$"))
	for name := range strings.Lines(string(listed)) {
		if name = strings.TrimSpace(name); !strings.HasPrefix(name, "Benchmark") && !pure.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, err
}

// limit is how long a machine runs tests before it is booted anew.
const limit = 40 * time.Minute

// boot runs a command of sh on a machine. Its folder /share is w.out.
func (w work) boot(ctx context.Context, m machine, limit time.Duration, command string,
	env ...string) (said string, code int, err error) {
	cmd := exec.CommandContext(ctx, "testing/kernels/machine", m.release, "sh", "-c", command)
	cmd.Env = append(os.Environ(), "MACHINE_SHARE="+w.out, fmt.Sprintf("MACHINE_LIMIT=%d", int(limit.Seconds())))
	cmd.Env = append(cmd.Env, env...)
	if m.here {
		cmd.Env = append(cmd.Env, "MACHINE_KERNEL=here")
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.CombinedOutput()
	const noMachine = 125
	code = cmd.ProcessState.ExitCode()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && code != noMachine && ctx.Err() == nil {
		err = nil // the command's own
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", m.name(), err, out)
	}
	return string(out), code, err
}
