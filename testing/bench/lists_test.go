//go:build linux

package bench

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// measure runs a command and prints how long it took, how much memory it had at most, and its minor page faults. What
// starts a program by vfork lends it its own memory for a moment, so this one, which is small, does.
const measure = `package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stderr = os.Stderr
	begun := time.Now()
	err := cmd.Run()
	took := time.Since(begun)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Println(took.Nanoseconds(), used.Maxrss<<10, used.Minflt)
}
`

// cost is what one run took.
type cost struct {
	took           time.Duration
	memory, faults int64
}

// meter runs mesh-init.
type meter struct{ measure, meshInit string }

func newMeter(tb testing.TB) meter {
	tb.Helper()
	netlab.Require(tb)
	dir := tb.TempDir()
	m := meter{filepath.Join(dir, "measure"), filepath.Join(dir, "mesh-init")}
	cmd := exec.Command("go", "build", "-o", m.measure, m.measure+".go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	err := os.WriteFile(m.measure+".go", []byte(measure), 0o600)
	if err == nil {
		err = cmd.Run()
	}
	if err := errors.Join(err, program.Build(m.meshInit, "cmd/mesh-init")); err != nil {
		tb.Fatal(err)
	}
	return m
}

// apply is what the last of some applies in a new namespace takes.
func (m meter) apply(tb testing.TB, times int, args ...string) (c cost) {
	tb.Helper()
	ns, err := netlab.NewNamespace()
	if err != nil {
		tb.Fatal(err)
	}
	defer ns.Close()
	for range times {
		var out, stderr strings.Builder
		cmd := exec.Command(m.measure, append([]string{m.meshInit, "apply"}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &stderr
		if err := ns.Start(cmd, nil); err != nil {
			tb.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			tb.Fatalf("%v: %s", err, stderr.String())
		}
		if _, err := fmt.Sscan(out.String(), &c.took, &c.memory, &c.faults); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

// maxArgument is the length of an argument that the kernel takes (MAX_ARG_STRLEN).
const maxArgument = 128 << 10

// waysOf are the ways to exclude n networks: by a flag, if an argument has room for them, by a list's file, and by a
// configuration.
func waysOf(tb testing.TB, n int) map[string][]string {
	tb.Helper()
	var list []string
	for i := range n / 2 {
		c := cidr(i)
		list = append(list, c[0], c[1])
	}
	dir := tb.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	const flag = "--outbound-exclude-cidrs"
	ways := map[string][]string{
		"file": {flag, "@" + file("list", strings.Join(list, "\n"))},
		"yaml": {"--config", file("yaml", "outbound:\n  excludeCIDRs:\n  - "+strings.Join(list, "\n  - ")+"\n")},
		"json": {"--config", file("json", `{"outbound": {"excludeCIDRs": ["`+strings.Join(list, `", "`)+`"]}}`)},
	}
	if text := strings.Join(list, ","); len(text) < maxArgument {
		ways["flag"] = []string{flag, text}
	}
	return ways
}

// BenchmarkLists applies longer and longer lists of excluded networks, given in each way, and the default in turn: once
// into an empty namespace, and again. The metric x-default is the ratio of the medians; MiB and faults are memory and
// page faults of the median run.
func BenchmarkLists(b *testing.B) {
	m := newMeter(b)
	for _, n := range []int{100, 1000, 5000, 50_000} {
		ways := waysOf(b, n)
		for _, way := range []string{"flag", "file", "json", "yaml"} {
			if ways[way] == nil {
				continue
			}
			for times, name := range []string{"", "apply", "again"} {
				if times == 0 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%s-%d", name, way, n), func(b *testing.B) {
					var ours, defaults, memory, faults []time.Duration
					for b.Loop() {
						c := m.apply(b, times, ways[way]...)
						ours = append(ours, c.took)
						memory, faults = append(memory, time.Duration(c.memory)), append(faults, time.Duration(c.faults))
						defaults = append(defaults, m.apply(b, times).took)
					}
					b.ReportMetric(float64(median(ours))/float64(time.Millisecond), "ms")
					b.ReportMetric(float64(median(ours))/float64(median(defaults)), "x-default")
					b.ReportMetric(float64(median(memory))/(1<<20), "MiB")
					b.ReportMetric(float64(median(faults)), "faults")
				})
			}
		}
	}
}

// BenchmarkExclusions applies lists of excluded networks by each backend, from a file with one a line: once into an empty
// namespace, and again, in turn with a hello world. The metrics x-hello and again-x-hello are the ratios of the medians.
func BenchmarkExclusions(b *testing.B) {
	netlab.Require(b)
	dir := b.TempDir()
	programs(b, dir)
	for _, backend := range []dataplane.Backend{
		dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy} {
		for _, n := range []int{0, 100, 1000, 5000, 50_000} {
			args := []string{"apply", "--backend", string(backend)}
			if n > 0 {
				args = append(args, waysOf(b, n)["file"]...)
			}
			b.Run(fmt.Sprintf("backend=%s/n=%d", backend, n), func(b *testing.B) {
				var took [3][]time.Duration
				for b.Loop() {
					ns, err := netlab.NewNamespace()
					if err != nil {
						b.Fatal(err)
					}
					for i, run := range [][]string{append([]string{"mesh-init"}, args...), append([]string{"mesh-init"}, args...),
						{"hello"}} {
						took[i] = append(took[i], process(b, ns, filepath.Join(dir, run[0]), run[1:]...))
					}
					if err := ns.Close(); err != nil {
						b.Fatal(err)
					}
				}
				first, again, hello := median(took[0]), median(took[1]), median(took[2])
				b.ReportMetric(float64(first)/float64(time.Millisecond), "ms")
				b.ReportMetric(float64(first)/float64(hello), "x-hello")
				b.ReportMetric(float64(again)/float64(time.Millisecond), "again-ms")
				b.ReportMetric(float64(again)/float64(hello), "again-x-hello")
			})
		}
	}
}

// TestMemoryOfLongLists: a list of 50,000 networks takes no more memory than a container has, whichever way it is given.
func TestMemoryOfLongLists(t *testing.T) {
	m := newMeter(t)
	for way, args := range waysOf(t, 50_000) {
		for times := 1; times <= 2; times++ {
			c := m.apply(t, times, args...)
			t.Logf("%s, apply %d: %d KiB, %d page faults", way, times, c.memory>>10, c.faults)
			if most := int64(20 << 20); c.memory > most {
				t.Errorf("%s, apply %d: %d KiB, over %d", way, times, c.memory>>10, most>>10)
			}
		}
	}
}
