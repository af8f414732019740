package peers

import (
	"slices"
	"strconv"

	"github.com/mesh-intercept/intercept"
)

// A Change is a kind of traffic that meets another fate here than with the peer's program, on purpose.
type Change struct {
	Traffic string `json:"traffic"`
	There   string `json:"there"`
	Here    string `json:"here"`
	Why     string `json:"why"`
}

// to is the fate of a connection that the proxy gets.
func to(p intercept.PortRange) string { return "redirect(" + p.String() + ")" }

// Changes are those of a configuration that was made of the command line of a program which, if hairpin says so, looks
// at excluded outbound ports before the proxy's calls to its own pod.
func Changes(c intercept.Config, hairpin bool) (all []Change) {
	inbound := c.Inbound.Mode != intercept.InboundOff
	if ports := excludedTCP(c); hairpin && inbound && len(ports) > 0 && c.Inbound.Hairpin == intercept.HairpinCapture {
		all = append(all, Change{"proxy to its own pod, TCP " + strconv.Itoa(int(ports[0].First)) + " (excluded outbound port)",
			"pass", to(c.Inbound.Port), "an excluded outbound port does not take the proxy's calls past the inbound policy"})
	}
	if len(c.VirtualInterfaces) > 0 && len(excludedTCP(c)) > 0 {
		all = append(all, Change{"from behind " + c.VirtualInterfaces[0] + ", to an excluded port", to(c.Outbound.Port), "pass",
			"what is excluded is excluded for what is behind the pod, too"})
	}
	return all
}

// excludedTCP are the outbound ports that are excluded for everybody.
func excludedTCP(c intercept.Config) intercept.Ports {
	ports := slices.Clone(c.Outbound.ExcludePorts)
	for _, e := range c.Outbound.Exclude {
		if e.Protocol != intercept.UDP && len(e.CIDRs)+len(e.UIDs)+len(e.GIDs) == 0 {
			ports = append(ports, e.Ports...)
		}
	}
	return ports
}
