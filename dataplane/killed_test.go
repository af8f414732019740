//go:build linux

package dataplane

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestKilledBesideSockets: a pod has sockets, so that who applies has something to do after the rules are written. It
// is killed at any moment, and leaves one of the two configurations, whole. It is about nftables: a policy of iptables
// is several transactions.
func TestKilledBesideSockets(t *testing.T) {
	netlab.Require(t)
	lab := netlab.NewT(t, netlab.Options{})
	err := lab.Pod.Do(func() error {
		l, err := net.Listen("tcp", "0.0.0.0:15001")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, got, err := lab.Dial(netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("203.0.113.10:80")})
	if err != nil {
		t.Fatal(got, err)
	}
	defer conn.Close()
	target := Pod{NetNS: lab.Pod.Path(), Backend: BackendNFT}
	other := intercept.Default()
	other.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	configs := []intercept.Config{intercept.Default(), other}
	var took time.Duration
	for i := range configs {
		start := time.Now()
		if _, err := target.Apply(t.Context(), configs[i]); err != nil {
			t.Fatal(err)
		}
		took = time.Since(start)
	}
	const times = 40
	for i := range times {
		killWhileApplying(t, target, configs, 1+i%2, took*time.Duration(i)/times)
		whole := 0
		for _, c := range configs {
			diffs, err := target.Check(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if len(diffs) == 0 {
				whole++
			}
		}
		if whole != 1 {
			t.Errorf("killed after %v: %d configurations are in force", took*time.Duration(i)/times, whole)
		}
	}
}
