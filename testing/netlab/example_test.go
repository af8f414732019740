//go:build linux

package netlab_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/example"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// A test of one's own: rules in a pod, real connections, and where they went.
// In a test, NewT makes the lab, skips without root and closes it.
func Example() {
	lab, err := netlab.New(netlab.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lab.Close()
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		fmt.Println(err)
		return
	}

	config := intercept.Default()
	config.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	pod := dataplane.Pod{NetNS: lab.Pod.Path()}
	if _, err := pod.Apply(context.Background(), config); err != nil {
		fmt.Println(err)
		return
	}

	for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "203.0.113.7:5432"} {
		got, err := lab.Send(netlab.Flow{
			Protocol: intercept.TCP,
			Dst:      netip.MustParseAddrPort(dst),
			Owner:    &intercept.Owner{UID: 1000, GID: 1000},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s, answered by %s\n", dst, got.Fate, got.Role)
	}
}

func TestExample(t *testing.T) {
	netlab.Require(t)
	example.Expect(t, Example, `203.0.113.7:80: redirect(15001), answered by outbound
[2001:db8::7]:80: redirect(15001), answered by outbound
203.0.113.7:5432: pass, answered by peer
`)
}
