package linkerd

import (
	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
)

// Changes are where a command line's configuration differs from what linkerd2-proxy-init does, on purpose.
func Changes(c intercept.Config) []peers.Change {
	all := peers.Changes(c, false)
	if c.Families != intercept.FamiliesIPv4 && len(c.Inbound.ExcludeSources) > 0 {
		all = append(all, peers.Change{Traffic: "IPv6, in and out, where --subnets-to-ignore has a subnet", There: "pass",
			Here: "as IPv4", Why: "subnets are taken by their family, and the other family is captured; there the command fails"})
	}
	if c.Proxy.AllowRoot {
		all = append(all, peers.Change{Traffic: "root to elsewhere, TCP 80", There: "redirect(" + c.Outbound.Port.String() + ")",
			Here: "pass", Why: "root is the proxy; there it has no rule, and its calls come back to it"})
	}
	return all
}
