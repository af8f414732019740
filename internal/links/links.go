// Package links lists the network interfaces of the calling thread's network
// namespace, with their addresses.
package links

import "net/netip"

// Link is a network interface.
type Link struct {
	Name string
	// AltNames are what it can be called, too (ip-link(8), altname). Rules and
	// sysctls know it by its Name alone.
	AltNames []string
	// Addrs are its own addresses, not those of a peer.
	Addrs []netip.Addr
	// Up is whether it has been set up (IFF_UP), by ip link set up.
	Up bool
}
