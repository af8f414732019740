package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Addresses are those of the namespace's interfaces, of lo too.
func (s *Session) Addresses(ctx context.Context) (all []netip.Addr, err error) {
	err = s.do(ctx, func() error {
		interfaces, err := links.List()
		for _, l := range interfaces {
			all = append(all, l.Addrs...)
		}
		return err
	})
	return all, err
}

// networkWarnings warns of what the network of the calling thread's namespace makes of c.
func (s *space) networkWarnings(c intercept.Config, p Pod) ([]string, error) {
	all, err := s.interfaces()
	if err != nil {
		return nil, err
	}
	var warn []string
	for _, w := range p.networkWarnings(c, all) {
		warn = append(warn, w.text)
	}
	return warn, nil
}

// interfaces lists those of the calling thread's namespace.
func (s *space) interfaces() ([]links.Link, error) {
	routing, err := s.routing()
	if err != nil {
		return nil, err
	}
	return routing.Links()
}

// networkWarnings warns of what a network makes of c. Where it is unfinished, nothing is said of lo.
func (p Pod) networkWarnings(c intercept.Config, all []links.Link) []networkWarning {
	if p.LeaksSaid {
		c.OtherFamily = intercept.TreatmentReject // nothing of it leaks that is not known
	}
	return ofNetwork(c, all, p.Unfinished)
}

// networkWarning is one of them.
type networkWarning struct {
	text string
	// flags are those with which apply puts it right, if there are such.
	flags string
}

// inForce is what to say of rules in force.
func (w networkWarning) inForce() string {
	if w.flags == "" {
		return w.text
	}
	return w.text + ": mesh-init apply --live " + w.flags
}

// families are those of which a configuration captures something.
func families(c intercept.Config) []intercept.Family {
	return slices.DeleteFunc([]intercept.Family{intercept.IPv4, intercept.IPv6}, func(f intercept.Family) bool {
		return c.Families == intercept.FamiliesIPv4 && f == intercept.IPv6 ||
			c.Families == intercept.FamiliesIPv6 && f == intercept.IPv4
	})
}

// ofNetwork says what of a network leads past the proxy, or keeps connections from it.
func ofNetwork(c intercept.Config, all []links.Link, unfinished bool) (warn []networkWarning) {
	add := func(flags string, texts ...string) {
		for _, text := range texts {
			warn = append(warn, networkWarning{text, flags})
		}
	}
	add("", otherNames(c, all)...)
	add("", allExcluded(c, all)...)
	captured := families(c)
	if other := captured[0].Other(); len(captured) == 1 && c.OtherFamily != intercept.TreatmentReject {
		if addr := globalAddr(all, other, c.PassthroughSources); addr.IsValid() {
			add("--families auto", fmt.Sprintf(
				"%s is not captured, and the namespace has the address %s: such connections go past the proxy; use families "+
					"auto, or other-family reject", other, addr))
		}
	}
	captured = slices.DeleteFunc(captured, func(f intercept.Family) bool {
		return !globalAddr(all, f, c.PassthroughSources).IsValid()
	})
	if !unfinished {
		add("", atLoopback(all, captured)...)
	}
	add("--inbound-mode tproxy", onLoopbackAlone(c, all, captured)...)
	return warn
}

// loIsDown warns of a namespace in which nothing comes to the proxy.
const loIsDown = "lo is down: what the pod sends does not come to the proxy, nor anything else inside the pod to its end; set " +
	"it up: ip link set lo up"

// atLoopback warns where the proxy cannot be reached by lo, to which rules of outbound traffic redirect.
func atLoopback(all []links.Link, captured []intercept.Family) (warn []string) {
	at := slices.IndexFunc(all, func(l links.Link) bool { return l.Name == ruleset.Loopback })
	if at < 0 || len(captured) == 0 {
		return nil
	}
	if !all[at].Up {
		return []string{loIsDown}
	}
	for _, f := range captured {
		self, remedy := netip.AddrFrom4([4]byte{127, 0, 0, 1}), "add it: ip address add 127.0.0.1/8 dev lo"
		if f == intercept.IPv6 {
			self, remedy = netip.IPv6Loopback(), "add it: set the sysctl net.ipv6.conf.lo.disable_ipv6 to 0, then ip address "+
				"add ::1/128 dev lo; or disable IPv6 on all interfaces"
		}
		if !slices.Contains(all[at].Addrs, self) {
			warn = append(warn, fmt.Sprintf("lo has no %s: what the pod sends over %s does not come to the proxy; %s", self, f,
				remedy))
		}
	}
	return warn
}

// onLoopbackAlone warns of a pod whose IPv4 address is on lo, and none on another interface: the kernel redirects what
// arrives to the interface's own address, and drops it if there is none (nf_nat_redirect_ipv4 in
// net/netfilter/nf_nat_redirect.c).
func onLoopbackAlone(c intercept.Config, all []links.Link, captured []intercept.Family) []string {
	if c.Inbound.Mode != intercept.InboundRedirect || !slices.Contains(captured, intercept.IPv4) {
		return nil
	}
	var own netip.Addr
	for _, l := range all {
		for _, a := range l.Addrs {
			switch {
			case a.Is4() && l.Name != ruleset.Loopback:
				return nil
			case a.Is4() && a.IsGlobalUnicast():
				own = a
			}
		}
	}
	return []string{fmt.Sprintf("the pod's address %s is on lo alone: what arrives over IPv4 is lost, for the kernel "+
		"redirects it to the address of the interface by which it comes, which has none; use inbound-mode tproxy", own)}
}

// globalAddr returns an address of the family by which others could be reached, or the zero Addr. Those on lo that apply
// has put there for the proxy to dial from are none.
func globalAddr(all []links.Link, f intercept.Family, passthrough []netip.Addr) (found netip.Addr) {
	for _, l := range all {
		for _, a := range l.Addrs {
			if intercept.FamilyOf(a) == f && a.IsGlobalUnicast() &&
				!(l.Name == ruleset.Loopback && slices.Contains(passthrough, a)) {
				found = a
			}
		}
	}
	return found
}

// excludes reports whether an interface is excluded.
func excludes(c intercept.Config, name string) bool {
	for _, pattern := range c.ExcludeInterfaces {
		if ruleset.InterfaceMatches(pattern, name) {
			return true
		}
	}
	return false
}

// allExcluded warns of a namespace of which every interface is excluded.
func allExcluded(c intercept.Config, all []links.Link) []string {
	var names []string
	for _, l := range all {
		switch {
		case l.Name == ruleset.Loopback:
		case !excludes(c, l.Name):
			return nil
		default:
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("every interface is excluded (%s): nothing that the pod sends to others or hears from them is "+
		"captured; leave one out of exclude-interfaces", strings.Join(names, ", "))}
}

// otherNames warns of interfaces that c calls by a name that the kernel's rules do not know them by.
func otherNames(c intercept.Config, all []links.Link) (warn []string) {
	for _, pattern := range append(slices.Clone(c.ExcludeInterfaces), c.VirtualInterfaces...) {
		for _, l := range all {
			for _, name := range l.AltNames {
				switch {
				case !ruleset.InterfaceMatches(pattern, name) || ruleset.InterfaceMatches(pattern, l.Name):
				case pattern == name:
					warn = append(warn, fmt.Sprintf(
						"%s is another name (altname) of the interface %s: rules know it as %s alone, so name that",
						name, l.Name, l.Name))
				default:
					warn = append(warn, fmt.Sprintf(
						"%s does not match %s, which is another name (altname) of the interface %s: rules know it as %s alone, "+
							"so name that", pattern, name, l.Name, l.Name))
				}
			}
		}
	}
	return warn
}
