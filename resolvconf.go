package intercept

import (
	"net/netip"
	"strings"
)

// ParseResolvConf returns the name servers of a resolv.conf(5), in order and
// each once. It reads the file as resolvers do: comments, other keywords and
// malformed addresses are passed over, and more than three servers are fine.
// The zone of a link-local address is left off, since rules match addresses.
func ParseResolvConf(text string) []netip.Addr {
	var servers []netip.Addr
	seen := map[netip.Addr]bool{}
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			continue
		}
		if a = a.Unmap().WithZone(""); !a.IsUnspecified() && !seen[a] {
			seen[a] = true
			servers = append(servers, a)
		}
	}
	return servers
}
