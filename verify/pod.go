package verify

import (
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Pod is what is known of a pod before anything is tried.
type Pod struct {
	// Interfaces are its network interfaces.
	Interfaces []Interface
	// Route says by which interface and from which address the pod sends to an address. The error says why it cannot.
	Route func(netip.Addr) (Route, error)
	// Networks are where its routes lead, the default routes left out.
	Networks []netip.Prefix
	// Sockets are those that wait for connections, and for datagrams from anybody.
	Sockets []Socket
	// Self is who the process is that tries, and AnyOwner whether it can be anybody else.
	Self     ruleset.Owner
	AnyOwner bool
	// Outside is why a client outside the pod cannot be made. Nil: it can.
	Outside error
	// Client is the interface of the pod that such a client comes by.
	Client string
}

// Interface is a network interface of a pod.
type Interface struct {
	Name  string
	Addrs []netip.Addr
}

// Route is how a packet leaves.
type Route struct {
	Interface string
	Src       netip.Addr
}

// Socket is one that waits.
type Socket struct {
	Protocol ruleset.Protocol
	Local    netip.AddrPort
	// V6Only is whether an IPv6 socket refuses IPv4.
	V6Only bool
	Holder Holder
}

// Serves reports whether the socket gets what is sent to an address and port of the pod.
func (s Socket) Serves(p ruleset.Protocol, to netip.AddrPort) bool {
	local := s.Local.Addr()
	return s.Protocol == p && s.Local.Port() == to.Port() && (local == to.Addr() ||
		local == netip.IPv4Unspecified() && to.Addr().Is4() ||
		local == netip.IPv6Unspecified() && (to.Addr().Is6() || !s.V6Only))
}

// Holder is whose a socket is.
type Holder struct {
	UID uint32
	// GID is nil if it could not be found out.
	GID  *uint32
	Mark uint32
	// Process is the name of a process that has it, and PID its number. Empty and zero: not known.
	Process string
	PID     int
}

// addr returns the pod's first address of a family by which others reach it, and its interface.
func (p Pod) addr(f ruleset.Family) (netip.Addr, string, bool) {
	for _, i := range p.Interfaces {
		if i.Name == ruleset.Loopback {
			continue
		}
		for _, a := range i.Addrs {
			if ruleset.FamilyOf(a) == f && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
				return a, i.Name, true
			}
		}
	}
	return netip.Addr{}, "", false
}

// own reports whether an address is one of the pod's.
func (p Pod) own(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	return slices.ContainsFunc(p.Interfaces, func(i Interface) bool { return slices.Contains(i.Addrs, a) })
}

// listens reports whether anybody waits at a port.
func (p Pod) listens(proto ruleset.Protocol, port uint16) bool {
	return slices.ContainsFunc(p.Sockets, func(s Socket) bool { return s.Protocol == proto && s.Local.Port() == port })
}
