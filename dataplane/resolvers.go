package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/ruleset"
)

// resolversInPod warns of name servers that apps in the pod ask, where every lookup is captured: theirs are, too. If
// the sidecar's resolver asks such a server about a name that it has to ask others about, that lookup comes back to the
// sidecar's, and never ends.
func resolversInPod(p plan) (warn []string) {
	if p.config.DNS.Mode != intercept.DNSAll {
		return nil
	}
	waiting, err := sockets.List(ruleset.UDP)
	if err != nil {
		return nil // nobody can tell
	}
	// Docker's embedded server listens there on some port, to which rules of NAT lead.
	docker := netip.AddrFrom4([4]byte{127, 0, 0, 11})
	for _, s := range waiting {
		isServer := s.Local.Addr() == docker ||
			s.Local.Port() == 53 && (s.Local.Addr().IsLoopback() || s.Local.Addr().IsUnspecified())
		if !isServer || s.Local.Addr() != docker && isSidecars(p.config.DNS, s.Local.Port()) || !p.capturesLookupsOf(s.UID) {
			continue
		}
		warn = append(warn,
			fmt.Sprintf("the name server at %s (user %d) is in the pod: with dns all the lookups that it sends are "+
				"captured, too, and a resolver in the sidecar that asks it can wait for itself; use dns resolvconf, or exclude "+
				"its user from interception", s.Local, s.UID))
	}
	slices.Sort(warn)
	return slices.Compact(warn)
}

// isSidecars reports whether captured lookups go to a port.
func isSidecars(dns intercept.DNS, port uint16) bool {
	if len(dns.Target) == 0 {
		return port == dns.Port
	}
	return slices.ContainsFunc(dns.Target, func(to netip.AddrPort) bool { return to.Port() == port })
}

// capturesLookupsOf reports whether lookups by a user are captured. A user's group most often has the same number.
func (p plan) capturesLookupsOf(uid uint32) bool {
	trace, err := p.rules.Trace(ruleset.Packet{
		Hook: ruleset.Output, Protocol: ruleset.UDP, Interface: "eth0", Owner: &ruleset.Owner{UID: uid, GID: uid},
		Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("198.51.100.1:53"),
	})
	return err == nil && trace.Line == "O8"
}
