package netlab

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"sync"

	"github.com/mesh-intercept/intercept"
)

// SidecarConfig says where a [Sidecar] listens and who it is. The zero
// SidecarConfig fits [intercept.Default].
type SidecarConfig struct {
	// Outbound and Inbound are the ports for what the pod sends and for what
	// comes to it. Zero stands for 15001 and 15006.
	Outbound, Inbound intercept.PortRange
	// DNSPort is the resolver's port. Zero stands for 15053.
	DNSPort uint16
	// Owner is the user and group it runs as. Nil stands for 1337 and 1337.
	Owner *intercept.Owner
	// Transparent makes the inbound listeners accept connections that tproxy
	// gives them with their addresses unchanged (IP_TRANSPARENT).
	Transparent bool
	// Forward is what it does with the connections that come to its inbound
	// ports.
	Forward Forward
	// ForwardMark is the mark of the connections that it opens to pass others
	// on (SO_MARK).
	ForwardMark uint32
}

// Sidecar is the listening side of a proxy in the pod. It accepts connections
// to its outbound and inbound ports on all of the pod's addresses, and DNS
// over UDP and TCP on 127.0.0.1 and ::1, and answers them itself, unless
// [SidecarConfig].Forward says otherwise.
//
// With a VM it serves DNS on the bridge's addresses as well: there arrives what
// is redirected as it comes from the VM.
type Sidecar struct {
	lab     *Lab
	sockets group
	once    sync.Once
}

// StartSidecar starts a sidecar in the pod. It fails if one of its ports is in
// use, which an app's becomes by a flow to it: start the sidecar before
// sending. It ends with the lab, if not closed before.
func (l *Lab) StartSidecar(c SidecarConfig) (*Sidecar, error) {
	outbound := cmp.Or(c.Outbound, intercept.Port(15001))
	inbound := cmp.Or(c.Inbound, intercept.Port(15006))
	dnsPort := cmp.Or(c.DNSPort, 15053)
	owner := intercept.Owner{UID: 1337, GID: 1337}
	if c.Owner != nil {
		owner = *c.Owner
	}

	var servers []server
	add := func(r Role, p intercept.Protocol, addr netip.AddrPort) *server {
		servers = append(servers, server{endpoint: endpoint{p, addr}, role: r, in: l.Pod, owner: owner})
		return &servers[len(servers)-1]
	}
	var pass *relay
	if c.Forward != ForwardNothing {
		pass = &relay{lab: l, from: c.Forward, mark: c.ForwardMark, owner: owner}
	}
	for port := range ports(outbound) {
		for _, addr := range anyAddr(port) {
			add(RoleOutbound, intercept.TCP, addr)
		}
	}
	for port := range ports(inbound) {
		for _, addr := range anyAddr(port) {
			s := add(RoleInbound, intercept.TCP, addr)
			s.transparent, s.relay = c.Transparent, pass
		}
	}
	resolvers := []netip.Addr{loopback4, netip.IPv6Loopback()}
	for _, c := range l.cables {
		if c.far != FromVM {
			continue
		}
		for _, e := range c.ends {
			resolvers = append(resolvers, e.pod.Addr())
		}
	}
	for _, addr := range resolvers {
		for _, p := range []intercept.Protocol{intercept.UDP, intercept.TCP} {
			add(RoleDNS, p, netip.AddrPortFrom(addr, dnsPort))
		}
	}

	s := &Sidecar{lab: l}
	l.mu.Lock()
	if c.Forward == ForwardPassthrough {
		if err := l.Pod.Do(addPassthrough); err != nil {
			l.mu.Unlock()
			return nil, fmt.Errorf("netlab: start a sidecar: %w", err)
		}
	}
	l.sidecars = append(l.sidecars, s)
	for _, server := range servers {
		if err := server.start(&s.sockets); err != nil {
			l.mu.Unlock()
			s.Close()
			return nil, fmt.Errorf("netlab: start a sidecar: %w", err)
		}
		l.listening[server.endpoint] = &s.sockets
	}
	l.mu.Unlock()
	return s, nil
}

// Close ends the sidecar and the connections it has accepted. Closing again
// does nothing.
func (s *Sidecar) Close() {
	s.once.Do(func() {
		s.sockets.close()
		s.lab.mu.Lock()
		defer s.lab.mu.Unlock()
		maps.DeleteFunc(s.lab.listening, func(_ endpoint, g *group) bool { return g == &s.sockets })
	})
}

// ports yields the ports of a range.
func ports(r intercept.PortRange) func(yield func(uint16) bool) {
	return func(yield func(uint16) bool) {
		for p := int(r.First); p <= int(r.Last) && yield(uint16(p)); p++ {
		}
	}
}
