//go:build linux

package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// What is counted. Each of them has to happen in a soak.
const (
	rounds      = "rounds"
	applies     = "applies"
	replaces    = "replaces"
	repairs     = "repairs by hand"
	agentFixes  = "repairs by the agent"
	removes     = "removes"
	refusals    = "applies that failed, and said so"
	killedInit  = "kills of mesh-init"
	killedCNI   = "kills of mesh-cni"
	killedAgent = "kills of mesh-cni-agent"
	starved     = "runs under a limit of memory"
	killedByOOM = "runs that had not enough"
	flushes     = "flushes of conntrack"
	flaps       = "flaps of interfaces"
	lostCalls   = "netlink answers lost (ENOBUFS)"
	interrupted = "netlink calls interrupted (EINTR)"
	checked     = "flows checked"
	cut         = "flows that an accident ended"
	bytesSent   = "bytes of the app's to the proxy"
	seenOutside = "packets seen outside"
)

func everything() []string {
	return []string{rounds, applies, replaces, repairs, agentFixes, removes, refusals, killedInit, killedCNI, killedAgent,
		starved, killedByOOM, flushes, flaps, lostCalls, interrupted, checked, cut, bytesSent, seenOutside}
}

// counts counts, and takes note of what must not be.
type counts struct {
	mu         sync.Mutex
	all        map[string]int64
	violations []string
}

func (c *counts) add(what string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]int64{}
	}
	c.all[what] += n
}

// mostViolations is how many are shown.
const mostViolations = 20

// violated notes what must not be. What follows it is often its consequence: the first are kept.
func (c *counts) violated(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.violations) < mostViolations {
		c.violations = append(c.violations, fmt.Sprintf(format, args...))
	}
}

func (c *counts) bad() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.violations) > 0
}

// report prints what was counted, and fails the test if something must not be, or has never been.
func (c *counts) report(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	names := everything()
	for _, name := range slices.Sorted(maps.Keys(c.all)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		fmt.Fprintf(&b, "%12d  %s\n", c.all[name], name)
		if c.all[name] == 0 {
			t.Errorf("there were no %s", name)
		}
	}
	fmt.Fprintf(&b, "%12d  violations\n", len(c.violations))
	t.Logf("\n%s", &b)
	for _, v := range c.violations {
		t.Errorf("violation: %s", v)
	}
}
