//go:build linux

package dataplane_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/example"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// A session enters a network namespace once, and does there all that is asked.
func ExampleSession() {
	namespace, err := netlab.NewNamespace() // stands for a pod's; this takes root
	if err != nil {
		fmt.Println(err)
		return
	}
	defer namespace.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	session, err := dataplane.Open(ctx, dataplane.Pod{NetNS: namespace.Path()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer session.Close()

	config := intercept.Default()
	for range 2 { // the second time there is nothing to do
		result, err := session.Apply(ctx, config)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("apply:", result.Outcome, "by", result.Backend)
	}

	config.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	differences, err := session.Check(ctx, config) // changes nothing
	fmt.Println("check:", err)
	for _, d := range differences {
		if d.Rule != "" {
			fmt.Println("  rule", d.Rule, "is", d.Problem)
		}
	}

	removed, err := session.Remove(ctx)
	fmt.Println("removed:", removed, err)
}

// TestExamples runs the example that needs root.
func TestExamples(t *testing.T) {
	netlab.Require(t)
	example.Expect(t, ExampleSession, `apply: created by nft
apply: unchanged by nft
check: <nil>
  rule O5.ports is missing
  rule syn/O5.ports is missing
  rule stream/O5.ports is missing
removed: true <nil>
`)
}
