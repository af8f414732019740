package kuma

import (
	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
)

// Changes are where a configuration differs from what kumactl does, on purpose.
func Changes(c intercept.Config) []peers.Change {
	all := peers.Changes(c, true)
	if c.Inbound.Mode == intercept.InboundOff {
		all = append(all, peers.Change{Traffic: "proxy to its own pod, TCP 8080",
			There: "redirect(" + c.Inbound.Port.String() + ")", Here: "pass", Why: "inbound is off, and nobody listens there"})
	}
	for _, name := range c.VirtualInterfaces {
		if c.DNS.Mode == intercept.DNSOff {
			all = append(all, peers.Change{Traffic: "from behind " + name + ", a lookup, UDP", There: "redirect(15053)",
				Here: "pass", Why: "lookups are left alone where DNS is not captured"})
			continue
		}
		all = append(all, peers.Change{Traffic: "from behind " + name + ", a lookup, UDP", There: "its answer is lost",
			Here: "redirect(" + intercept.Port(c.DNS.Port).String() + ")",
			Why:  "the answer to a lookup from behind the pod finds its way"})
	}
	return all
}
