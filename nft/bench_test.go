//go:build linux

package nft

import (
	"slices"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// BenchmarkApply is the time of Apply in process: to an empty namespace, and
// again.
func BenchmarkApply(b *testing.B) {
	for _, bb := range []struct {
		name   string
		config intercept.Config
	}{{"default", intercept.Default()}, {"many", many()}} {
		rs := compileConfig(b, bb.config)
		b.Run(bb.name+"/create", func(b *testing.B) {
			netlab.Require(b)
			var times []time.Duration
			for b.Loop() {
				ns, err := netlab.NewNamespace()
				if err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				backend, err := openIn(ns)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := backend.Apply(b.Context(), rs); err != nil {
					b.Fatal(err)
				}
				if err := backend.Close(); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(start))
				if err := ns.Close(); err != nil {
					b.Fatal(err)
				}
			}
			// The namespace is not part of it, and stopping the timer costs
			// more than what is measured.
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "ns/apply")
		})
		b.Run(bb.name+"/again", func(b *testing.B) {
			_, backend := namespace(b)
			apply(b, backend, rs, ruleset.Created)
			for b.Loop() {
				apply(b, backend, rs, ruleset.Unchanged)
			}
		})
	}
}
