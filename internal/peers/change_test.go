package peers_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/peers/istio"
	"github.com/mesh-intercept/intercept/internal/peers/kuma"
	"github.com/mesh-intercept/intercept/internal/peers/linkerd"
)

// TestChanges: of each command line those differences are named that it has, and no others.
func TestChanges(t *testing.T) {
	type parse func([]string, peers.World) (peers.Request, error)
	type changes func(intercept.Config) []peers.Change
	w := peers.World{
		Addresses: func(dataplane.Pod) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.244.0.5")}, nil },
		ReadFile:  func(string) ([]byte, error) { return []byte("nameserver 10.96.0.10\n"), nil },
	}
	for _, tc := range []struct {
		parse   parse
		changes changes
		args    string
		want    []string
	}{
		{istio.Parse, istio.Changes, "-i * -b *", nil},
		{istio.Parse, istio.Changes, "-i *", nil},
		{istio.Parse, istio.Changes, "-i * -b * -o 5432", []string{"proxy to its own pod, TCP 5432 (excluded outbound port)"}},
		{istio.Parse, istio.Changes, "-i * -b * -m TPROXY", []string{"client to the pod, TCP 15008 (tunnel)"}},
		{istio.Parse, istio.Changes, "-i * -b * -u 1,2 -g 1", []string{"proxy to its own pod, of another user than the first"}},
		{istio.Parse, istio.Changes, "-i * -b * -k net1 -o 22", []string{"proxy to its own pod, TCP 22 (excluded outbound port)",
			"from behind net1, to an excluded port"}},
		{linkerd.Parse, linkerd.Changes, "-p 4143 -o 4140 -u 2102 --outbound-ports-to-ignore 25", nil},
		{linkerd.Parse, linkerd.Changes, "-p 4143 -o 4140 -u 0", []string{"root to elsewhere, TCP 80"}},
		{linkerd.Parse, linkerd.Changes, "-p 4143 -o 4140 -u 1 --subnets-to-ignore 10.0.0.0/8",
			[]string{"IPv6, in and out, where --subnets-to-ignore has a subnet"}},
		{kuma.Parse, kuma.Changes, "--kuma-dp-user 5678", nil},
		{kuma.Parse, kuma.Changes, "--redirect-inbound=false", []string{"proxy to its own pod, TCP 8080"}},
		{kuma.Parse, kuma.Changes, "--vnet docker0:172.17.0.0/16", []string{"from behind docker0, a lookup, UDP"}},
	} {
		r, err := tc.parse(strings.Fields(tc.args), w)
		if err != nil {
			t.Errorf("%s: %v", tc.args, err)
			continue
		}
		var got []string
		for _, c := range tc.changes(r.Config) {
			got = append(got, c.Traffic)
			if c.There == c.Here || c.Why == "" {
				t.Errorf("%s: %+v", tc.args, c)
			}
		}
		if strings.Join(got, "; ") != strings.Join(tc.want, "; ") {
			t.Errorf("%s: %q, want %q", tc.args, got, tc.want)
		}
	}
}
