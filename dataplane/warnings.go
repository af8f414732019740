package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/userns"
)

// warnings returns what may surprise about c in the namespace. The error is
// intercept.ErrUnsupported if c asks for a family the kernel does not have.
func (s *space) warnings(c intercept.Config) ([]string, error) {
	warn := intercept.Lint(c)
	others, err := otherNames(c)
	if err != nil {
		return nil, err
	}
	warn = append(warn, others...)
	switch c.Families {
	case intercept.FamiliesDual:
		if !hasIPv6() {
			return nil, fmt.Errorf("families dual: %w: it has no IPv6 (ipv6.disable=1); use families auto or ipv4",
				intercept.ErrUnsupported)
		}
	case intercept.FamiliesIPv4, intercept.FamiliesIPv6:
		other := intercept.IPv6
		if c.Families == intercept.FamiliesIPv6 {
			other = intercept.IPv4
		}
		addr, err := globalAddr(other)
		if err != nil {
			return nil, err
		}
		if addr.IsValid() && c.OtherFamily != intercept.TreatmentReject {
			warn = append(warn, fmt.Sprintf(
				"%s is not captured, and the namespace has the address %s: such connections go past the proxy; use families "+
					"auto, or other-family reject", other, addr))
		}
	case intercept.FamiliesAuto:
	}
	if s.netns.IsOwn() {
		warn = append(warn, unmapped(userns.UIDs, c.Proxy.UIDs)...)
		warn = append(warn, unmapped(userns.GIDs, c.Proxy.GIDs)...)
	}
	return warn, nil
}

// globalAddr returns an address of the family by which the namespace of the
// calling thread could reach others, or the zero Addr.
func globalAddr(f intercept.Family) (found netip.Addr, err error) {
	interfaces, err := links.List()
	for _, l := range interfaces {
		for _, a := range l.Addrs {
			if intercept.FamilyOf(a) == f && a.IsGlobalUnicast() {
				found = a
			}
		}
	}
	return found, err
}

// otherNames warns of interfaces that c calls by a name that the kernel's rules do not know them by.
func otherNames(c intercept.Config) (warn []string, err error) {
	named := append(slices.Clone(c.ExcludeInterfaces), c.VirtualInterfaces...)
	if len(named) == 0 {
		return nil, nil
	}
	interfaces, err := links.List()
	for _, l := range interfaces {
		for _, name := range l.AltNames {
			if slices.Contains(named, name) {
				warn = append(warn, fmt.Sprintf(
					"%s is another name (altname) of the interface %s: rules know it as %s alone, so name that",
					name, l.Name, l.Name))
			}
		}
	}
	return warn, err
}

// unmapped warns of proxy IDs that no process in the user namespace can have:
// nothing is then known as the proxy, and its connections come back to it.
func unmapped(kind userns.Kind, ids intercept.IDs) []string {
	mapped := userns.Mapped(kind)
	var warn []string
	for _, r := range ids {
		if !mapped.Contains(r.First) || !mapped.Contains(r.Last) {
			warn = append(warn, fmt.Sprintf(
				"proxy %s %s is not mapped in this user namespace (/proc/self/%s_map): no process here can be the proxy",
				strings.ToUpper(string(kind)), r, kind))
		}
	}
	return warn
}
