package answer

import (
	"slices"

	"github.com/mesh-intercept/intercept"
)

// End is where a packet gets to.
type End string

// The ends there are.
const (
	EndProxy     End = "proxy"     // the proxy, which was sent it or listens where it goes
	EndApp       End = "app"       // somebody else in the pod
	EndNetwork   End = "network"   // out of the pod
	EndThrough   End = "through"   // out of the pod, into which it has come
	EndElsewhere End = "elsewhere" // out of the pod, to another destination than it was sent to
	EndStopped   End = "stopped"   // nowhere: a rule has discarded it
	EndDiscarded End = "discarded" // nowhere: no rule has, and the kernel does
)

// endOf is where a packet gets to with a fate.
func endOf(c intercept.Config, p intercept.Packet, f intercept.Fate) End {
	switch f.Action {
	case intercept.Redirected, intercept.Transparent:
		return EndProxy
	case intercept.Translated:
		return EndElsewhere
	case intercept.Rejected, intercept.Dropped:
		return EndStopped
	case intercept.Pass:
	}
	switch arrives := p.Hook == intercept.Prerouting; {
	case !arrives && p.Interface != "lo":
		return EndNetwork
	case arrives && p.Interface != "lo" && (p.Dst.Addr().IsLoopback() || p.Src.Addr().IsLoopback()):
		return EndDiscarded // a martian, as ip_route_input_slow in net/ipv4/route.c has it
	case arrives && p.Foreign:
		return EndThrough
	case isOwn(c, p):
		return EndProxy
	}
	return EndApp
}

// isOwn reports whether a packet goes to a port that is the proxy's own: one that it takes connections at, by the
// configuration, or one that is left alone by default because the proxy, or what is beside it, listens there.
func isOwn(c intercept.Config, p intercept.Packet) bool {
	port := p.Dst.Port()
	if p.Protocol == intercept.UDP {
		return c.DNS.Mode != intercept.DNSOff && port == c.DNS.Port
	}
	own := slices.Concat(intercept.Ports{c.Outbound.Port, c.Inbound.Port, intercept.Port(c.TunnelPort)},
		intercept.Default().Inbound.ExcludePorts)
	if c.DNS.Mode != intercept.DNSOff {
		own = append(own, intercept.Port(c.DNS.Port))
	}
	return p.Protocol == intercept.TCP && port != 0 && own.Contains(port)
}
