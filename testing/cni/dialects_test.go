//go:build linux

package cni_test

import (
	"net/netip"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/peers/istio"
	"github.com/mesh-intercept/intercept/internal/peers/kuma"
	"github.com/mesh-intercept/intercept/internal/peers/linkerd"
)

// TestOtherMeshes: a pod of another mesh gets the rules that the mesh's own program would have made, CHECK knows them,
// and a node that does not speak the mesh's dialect leaves the pod alone.
func TestOtherMeshes(t *testing.T) {
	type parse func([]string, peers.World) (peers.Request, error)
	w := peers.World{
		Addresses: func(dataplane.Pod) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.244.0.5")}, nil },
		ReadFile:  func(string) ([]byte, error) { return nil, nil },
	}
	consul := intercept.Default()
	consul.Proxy = intercept.Proxy{UIDs: intercept.IDs{intercept.ID(5995)}}
	consul.Inbound.Port, consul.Inbound.ExcludePorts = intercept.Port(20000), intercept.Ports{intercept.Port(21000)}
	consul.TunnelPort, consul.Inbound.Hairpin = 0, intercept.HairpinPass
	consul.Inbound.CaptureForwarded = true
	consul.Families = intercept.FamiliesIPv4
	for name, tt := range map[string]struct {
		annotations map[string]string
		parse       parse
		args        []string
		config      intercept.Config
	}{
		"istio": {map[string]string{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`,
			"traffic.sidecar.istio.io/excludeOutboundPorts": "5432"}, istio.Parse,
			[]string{"-i", "*", "-b", "*", "-d", "15020,15021,15090", "-o", "5432"}, consul},
		"linkerd": {map[string]string{"linkerd.io/proxy-version": "edge", "config.linkerd.io/skip-inbound-ports": "22"},
			linkerd.Parse, []string{"-p", "4143", "-o", "4140", "-u", "2102", "--inbound-ports-to-ignore",
				"4190,4191,4567,4568,22", "--outbound-ports-to-ignore", "4567,4568"}, consul},
		"kuma": {map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/exclude-outbound-ports": "5432"},
			kuma.Parse, []string{"--exclude-outbound-ports", "5432"}, consul},
		"consul": {map[string]string{"consul.hashicorp.com/connect-inject-status": "injected",
			"consul.hashicorp.com/transparent-proxy-status": "enabled",
			"consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000,` +
				`"ExcludeInboundPorts":["21000"]}`}, nil, nil, consul},
	} {
		want := tt.config
		if tt.parse != nil {
			r, err := tt.parse(tt.args, w)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			want = r.Config
		}
		pod := namespace(t)
		c := call{command: "ADD", netns: pod.Path(), annotations: tt.annotations}
		c.run(t).passed(t, name+", unknown", result("1.0.0"))
		if intercepted(t, pod.Path(), want) {
			t.Errorf("%s: it has rules, and the entry does not have the dialect", name)
		}
		c.entry = map[string]string{"dialects": `["intercept","istio","linkerd","kuma","consul"]`}
		c.run(t).passed(t, name, result("1.0.0"))
		if !intercepted(t, pod.Path(), want) {
			t.Errorf("%s: no rules", name)
		}
		c.command = "CHECK"
		if o := c.run(t); o.exit != 0 {
			t.Errorf("%s: CHECK: %s", name, o.stdout)
		}
	}
}
