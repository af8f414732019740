package netlab

import "net/netip"

// words stand for an address of each family.
var words = map[string][2]string{
	"outside":     {"203.0.113.10", "2001:db8::10"},  // somewhere beyond eth0
	"other":       {"192.0.2.7", "2001:db9::7"},      // elsewhere beyond eth0
	"cluster":     {"10.96.5.5", "fd00:96::5"},       // a service of the cluster
	"dns":         {"10.96.0.10", "fd00:96::a"},      // its name server
	"pod":         {"10.244.0.5", "fd00:244::5"},     // the pod, on eth0
	"pod2":        {"10.245.0.5", "fd00:245::5"},     // the pod, on net1
	"peer":        {"10.244.0.1", "fd00:244::1"},     // the pod's neighbour
	"client":      {"172.16.5.5", "2001:db8:7::7"},   // somebody who calls the pod
	"management":  {"198.51.100.9", "2001:db8:1::9"}, // somewhere beyond net1
	"localhost":   {"127.0.0.1", "::1"},
	"passthrough": {"127.0.0.6", "::6"},
	"bridge":      {"10.246.0.1", "fd00:246::1"}, // the pod, on the VM's bridge
}

// Addresses returns the addresses that a word of tables of flows stands for, the IPv4 one first: outside, other,
// cluster, dns, pod, pod2, peer, client, management, localhost, passthrough and bridge, of which [Options] bring pod2,
// management and bridge. Anything else is read as an address, and an error where it is none.
func Addresses(word string) ([]netip.Addr, error) {
	if both, ok := words[word]; ok {
		return []netip.Addr{netip.MustParseAddr(both[0]), netip.MustParseAddr(both[1])}, nil
	}
	a, err := netip.ParseAddr(word)
	if err != nil {
		return nil, err
	}
	return []netip.Addr{a}, nil
}
