//go:build linux

package dataplane

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestResolversInPod: where every lookup is captured, apply names the servers in the pod whose own lookups are, too.
func TestResolversInPod(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	const docker, resolved, wildcard, later, sidecar = "127.0.0.11:41053", "127.0.0.53:53", "[::]:53", "127.0.0.1:5353",
		"127.0.0.1:15053"
	err := lab.Pod.Do(func() error {
		for _, at := range []string{docker, resolved, wildcard, later, sidecar} {
			network := "udp4"
			if at == wildcard {
				network = "udp6" // which leaves IPv4's to others
			}
			conn, err := net.ListenPacket(network, at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*intercept.Config)
		want   []string
	}{
		"all": {func(c *intercept.Config) {}, []string{docker, resolved, wildcard}},
		"resolvconf": {func(c *intercept.Config) {
			c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf,
				c.PassthroughSources
		}, nil},
		"off":             {func(c *intercept.Config) { c.DNS.Mode = intercept.DNSOff }, nil},
		"root excluded":   {func(c *intercept.Config) { c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(0)} }, nil},
		"others included": {func(c *intercept.Config) { c.Outbound.IncludeUIDs = intercept.IDs{intercept.ID(1000)} }, nil},
		"port 53 excluded": {func(c *intercept.Config) {
			c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(53)}
		}, nil},
		"the sidecar's at port 53": {func(c *intercept.Config) { c.DNS.Port = 53 }, []string{docker}},
	} {
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll
		test.change(&c)
		got, err := Pod{NetNS: lab.Pod.Path(), Backend: BackendNFT}.Apply(t.Context(), c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, at := range []string{docker, resolved, wildcard, later, sidecar} {
			named := slices.ContainsFunc(got.Warnings, func(w string) bool {
				return strings.Contains(w,
					"name server at "+at+" ")
			})
			if named != slices.Contains(test.want, at) {
				t.Errorf("%s: %s is named: %t; %q", name, at, named, got.Warnings)
			}
		}
	}
}
