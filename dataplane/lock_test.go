//go:build linux

package dataplane

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestConcurrent: of several who apply at once, one mode or another, by one
// backend or another, all succeed, and what one of them wanted is there at the
// end, whole.
func TestConcurrent(t *testing.T) {
	needPrograms(t)
	type wish struct {
		b Backend
		c intercept.Config
	}
	modes := map[string][]wish{"backends": nil}
	for _, b := range concrete() {
		modes[string(b)] = []wish{{b, tproxy()}, {b, intercept.Default()}}
		modes["backends"] = append(modes["backends"], wish{b, tproxy()})
	}
	for name, wishes := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			patient := IPTables{Wait: time.Minute} // four take turns, on a machine as slow as it may be
			netns := netlab.NewT(t, netlab.Options{}).Pod.Path()
			for round := range 8 {
				var appliers sync.WaitGroup
				start := make(chan struct{})
				for i := range 4 {
					w := wishes[i%len(wishes)]
					appliers.Go(func() {
						<-start
						if _, err := (Pod{NetNS: netns, Backend: w.b, IPTables: patient}).Apply(t.Context(), w.c); err != nil {
							t.Errorf("round %d: %v", round, err)
						}
					})
				}
				close(start)
				appliers.Wait()
				var problems []string
				for _, w := range wishes {
					diffs, err := Pod{NetNS: netns, Backend: w.b}.Check(t.Context(), w.c)
					if err == nil && len(diffs) == 0 {
						problems = nil
						break
					}
					problems = append(problems, fmt.Sprintf("%s by %s: %v, %v", w.c.Inbound.Mode, w.b, diffs, err))
				}
				if problems != nil {
					t.Fatalf("round %d: nobody has what was wanted:\n%s", round, strings.Join(problems, "\n"))
				}
			}
		})
	}
}
