package dataplane

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/userns"
)

// warnings returns what may surprise about c in the namespace. The error is
// intercept.ErrUnsupported if c asks for a family the kernel does not have.
func (s *space) warnings(c intercept.Config, p Pod) ([]string, error) {
	warn := intercept.Lint(c)
	network, err := s.networkWarnings(c, p)
	if err != nil {
		return nil, err
	}
	warn = append(warn, network...)
	if c.Families == intercept.FamiliesDual && !hasIPv6() {
		return nil, fmt.Errorf("families dual: %w: it has no IPv6 (ipv6.disable=1); use families auto or ipv4",
			intercept.ErrUnsupported)
	}
	if s.netns.IsOwn() {
		warn = append(warn, unmapped(userns.UIDs, c.Proxy.UIDs)...)
		warn = append(warn, unmapped(userns.GIDs, c.Proxy.GIDs)...)
	}
	return warn, nil
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
