// Command kernels runs the tests of what speaks with the kernel on the Linux and with the programs of several releases of
// Debian, and writes what it sees into docs/compatibility.md. See testing/kernels/machine.
package main

import (
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
	"slices"
	"strings"
	"time"
)

// releases of Debian, the oldest first.
func releases() []string { return []string{"bullseye", "bookworm", "trixie", "forky"} }

// packages are those whose tests run: each is a folder of the repository.
func packages() []string {
	return []string{"nft", "iptables", "dataplane", "internal/markroute", "internal/links", "testing/conformance",
		"testing/traffic"}
}

// document is what the results are written into, between lines of their own.
const document = "docs/compatibility.md"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var w work
	flag.Func("releases", "only these, as in bullseye,forky", list(&w.releases, releases()))
	flag.Func("packages", "only these, as in nft,testing/traffic", list(&w.packages, packages()))
	flag.StringVar(&w.run, "run", "", "only tests that match, as go test -run has it")
	flag.StringVar(&w.out, "o", "", "a folder that keeps what the machines have said; unless set, it is removed")
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
	run, out           string
}

// isWhole is whether all of it was asked for, so that the document can be written.
func (w work) isWhole() bool {
	return w.run == "" && len(w.releases) == len(releases()) && len(w.packages) == len(packages())
}

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
	var machines []machine
	for _, release := range w.releases {
		for _, here := range []bool{false, true} {
			m, err := w.on(ctx, release, here)
			if err != nil {
				return err
			}
			machines = append(machines, m)
		}
	}
	if red := unexplained(machines, causes()); len(red) > 0 {
		return fmt.Errorf("these fail, and nothing says why that is right:\n%s", strings.Join(red, "\n"))
	}
	if !w.isWhole() {
		return nil
	}
	return update(document, tables(machines, causes()))
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

// on runs all that is asked for on a machine.
func (w work) on(ctx context.Context, release string, here bool) (machine, error) {
	m := machine{release: release, here: here}
	said, code, err := w.boot(ctx, m, 5*time.Minute, look)
	if err != nil {
		return m, err
	}
	report, err := os.ReadFile(filepath.Join(w.out, "report"))
	if err == nil {
		err = json.Unmarshal(report, &m.report)
	}
	if m.read(said); err != nil || m.kernel == "" {
		return m, fmt.Errorf("the machine of %s does not say what it is (exit code %d): %w\n%s", release, code, err, said)
	}
	for _, pkg := range w.packages {
		log := filepath.Join(w.out, m.name()+"-"+path.Base(pkg)+".log")
		command := fmt.Sprintf("cd %s && MESH_TEST_REQUIRE=1 /share/bin/%s.test -test.v -test.timeout %s -test.run '%s' >/share/%s 2>&1",
			pkg, path.Base(pkg), limit, w.run, filepath.Base(log))
		said, code, err := w.boot(ctx, m, limit+time.Minute, command)
		if err != nil {
			return m, err
		}
		text, err := os.ReadFile(log)
		if err != nil {
			return m, fmt.Errorf("%s: %w\n%s", m.name(), err, said)
		}
		r := read(pkg, string(text), code)
		m.results = append(m.results, r)
		fmt.Printf("%-16s %-20s %s\n", m.name(), pkg, r)
	}
	return m, nil
}

// limit is how long the tests of a package may take on an emulated processor.
const limit = 40 * time.Minute

// boot runs a command of sh on a machine. Its folder /share is w.out.
func (w work) boot(ctx context.Context, m machine, limit time.Duration, command string) (said string, code int,
	err error) {
	cmd := exec.CommandContext(ctx, "testing/kernels/machine", m.release, "sh", "-c", command)
	cmd.Env = append(os.Environ(), "MACHINE_SHARE="+w.out, fmt.Sprintf("MACHINE_LIMIT=%d", int(limit.Seconds())))
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
