package istio

import (
	"strconv"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
)

// Changes are where a command line's configuration differs from what istio-iptables does, on purpose.
func Changes(c intercept.Config) []peers.Change {
	all := peers.Changes(c, true)
	in := "redirect(" + c.Inbound.Port.String() + ")"
	if c.Proxy.UIDs.Count() > 1 || c.Proxy.UIDs.String() != c.Proxy.GIDs.String() {
		all = append(all, peers.Change{Traffic: "proxy to its own pod, of another user than the first", There: "pass", Here: in,
			Why: "whoever is named as the proxy is the proxy in every rule"})
	}
	if c.Inbound.Mode == intercept.InboundTProxy && c.TunnelPort != 0 {
		all = append(all, peers.Change{Traffic: "client to the pod, TCP " + strconv.Itoa(int(c.TunnelPort)) + " (tunnel)",
			There: "tproxy(" + c.Inbound.Port.String() + ")", Here: "pass", Why: "in mode TPROXY, too, the tunnel port is left alone"})
	}
	return all
}
