//go:build linux

package cni_test

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

const hello = `package main

import "fmt"

func main() { fmt.Println("hello, world") }
`

// BenchmarkAdd runs mesh-cni and a Go hello world in turn, from start to exit.
// The metric x-hello is the ratio of the medians: at most 3 is asked for of a
// pod that is intercepted, and 1.5 of another.
func BenchmarkAdd(b *testing.B) {
	netlab.Require(b)
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hello.go"), []byte(hello), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := goBuild(filepath.Join(dir, "built"), filepath.Join(dir, "hello.go")); err != nil {
		b.Fatal(err)
	}
	// The page cache holds a file that was copied, as an installer does, in
	// larger pieces than one that the linker wrote: both start faster for it.
	if err := errors.Join(copyProgram(filepath.Join(dir, "built"), filepath.Join(dir, "hello")),
		copyProgram(filepath.Join(plugins, "mesh-cni"), filepath.Join(dir, "mesh-cni"))); err != nil {
		b.Fatal(err)
	}
	// As large as kubelet's are.
	seen := map[string]string{
		"kubernetes.io/config.seen":                        "2026-01-01T00:00:00Z",
		"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat(`{"a":"b"},`, 300)}
	asks := map[string]string{"intercept.mesh/enabled": "true", "intercept.mesh/outbound-exclude-ports": "5432,6000-6010"}
	maps.Copy(asks, seen)
	socket := map[string]string{"agentSocket": strconv.Quote(agent(b, cniwire.Server{}))}
	for _, bb := range []struct {
		name  string
		call  call
		fresh bool // a namespace of its own each time
	}{
		{"meshed", call{command: "ADD", annotations: asks, logs: filepath.Join(dir, "log")}, true},
		{"other", call{command: "ADD", annotations: seen, logs: filepath.Join(dir, "log")}, false},
		// The agent counts it.
		{"other-counted", call{command: "ADD", annotations: seen, entry: socket, logs: filepath.Join(dir, "log")}, false},
		{"del", call{command: "DEL", annotations: asks, noResult: true}, false},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var ours, theirs []time.Duration
			// They are closed in the end: the kernel takes long to take one apart,
			// and does so beside what is measured.
			var pod *netlab.Namespace
			for b.Loop() {
				if pod == nil || bb.fresh {
					pod = namespace(b)
				}
				c := bb.call
				c.netns = pod.Path()
				cmd := c.cmd(b.Context())
				cmd.Path = filepath.Join(dir, "mesh-cni")
				// Not a pipe, which measures how soon this process writes to it.
				stdin := filepath.Join(dir, "stdin")
				if err := os.WriteFile(stdin, []byte(c.input()), 0o600); err != nil {
					b.Fatal(err)
				}
				file, err := os.Open(stdin)
				if err != nil {
					b.Fatal(err)
				}
				cmd.Stdin = file
				ours = append(ours, elapsed(b, cmd))
				file.Close()
				theirs = append(theirs, elapsed(b, exec.Command(filepath.Join(dir, "hello"))))
			}
			b.ReportMetric(float64(median(ours).Microseconds())/1000, "ms")
			b.ReportMetric(float64(median(ours))/float64(median(theirs)), "x-hello")
		})
	}
}

func elapsed(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begun)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
