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
	// Outside is the way by which a client outside comes in, and NoOutside why there cannot be one. Nil: there can.
	Outside   Way
	NoOutside error
	// Behind are the ways by which machines and containers behind the pod come in.
	Behind []Way
	// Others are what chains of others translate of what ours let go.
	Others []Other
}

// Other is a chain of another's that translates what ours let go: what its rules ask of packets, as far as that is known.
type Other struct {
	// Families are of whose packets it gets any, and Hook is where it stands.
	Families []ruleset.Family
	Hook     string
	// Captured is true if it acts on what ours capture, and false if it acts on what they let go.
	Captured bool
	// Ports and Dsts are to which packets have to go for some of its rules to match.
	Ports []uint16
	Dsts  []netip.Addr
}

// Way is how a client that is made for it comes into the pod: by a veth pair.
type Way struct {
	// Interface is by which the client's packets arrive, for the rules.
	Interface string
	// Pair is the name of the pod's end of the veth pair, and Bridge the bridge that it is put into. Without a bridge it
	// is the Interface.
	Pair, Bridge string
	// Own are the addresses of the pod on the interface, at most one of each family.
	Own []netip.Addr
	// Clients are addresses that the client can have.
	Clients []netip.Addr
	// Forwards is true of what is behind the pod: its packets go to others.
	Forwards bool
}

func (w Way) isOutside() bool { return !w.Forwards }

// own is the address on the interface, of a family.
func (w Way) own(f ruleset.Family) netip.Addr {
	for _, a := range w.Own {
		if ruleset.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// Interface is a network interface of a pod.
type Interface struct {
	Name  string
	Addrs []netip.Addr
	// Down is true if it is not set up.
	Down bool
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
	// Device is the interface that it is bound to. Empty: to none.
	Device string
	Holder Holder
}

// Serves reports whether the socket gets what is sent to an address and port of the pod.
func (s Socket) Serves(p ruleset.Protocol, to netip.AddrPort) bool {
	local := s.Local.Addr()
	return s.Protocol == p && s.Local.Port() == to.Port() && (local == to.Addr() ||
		local == netip.IPv4Unspecified() && to.Addr().Is4() ||
		local == netip.IPv6Unspecified() && (to.Addr().Is6() || !s.V6Only))
}

// Where says at which address the socket is, and to which interface it is bound.
func (s Socket) Where() string {
	if s.Device != "" {
		return s.Local.String() + ", bound to " + s.Device
	}
	return s.Local.String()
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

// addr returns the pod's first address of a family by which others reach it.
func (p Pod) addr(f ruleset.Family) (netip.Addr, bool) {
	for _, i := range p.Interfaces {
		if i.Name == ruleset.Loopback {
			continue
		}
		for _, a := range i.Addrs {
			if ruleset.FamilyOf(a) == f && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// onLoopback returns the pod's first address of a family that lo alone has: others reach the pod by it where they have
// a route.
func (p Pod) onLoopback(f ruleset.Family) (netip.Addr, bool) {
	for _, i := range p.Interfaces {
		for _, a := range i.Addrs {
			if i.Name == ruleset.Loopback && ruleset.FamilyOf(a) == f && a.IsGlobalUnicast() {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// brokenLoopback says what is wrong with lo, by which the pod reaches itself, for a family.
func (p Pod) brokenLoopback(f ruleset.Family) string {
	for _, i := range p.Interfaces {
		switch {
		case i.Name != ruleset.Loopback:
		case i.Down:
			return "lo is down"
		case len(i.Addrs) > 0 && !slices.Contains(i.Addrs, localhost(f)):
			return "lo has no " + localhost(f).String()
		}
	}
	return ""
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
