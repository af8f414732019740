package dataplane

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// replaced returns the meshes whose rules Apply takes out once its own are in force: all that there are with
// Pod.TakeOver, and that of Pod.InPlaceOf where each of its rules is one that its programs write for this proxy. The
// error is an [*OtherMeshError].
func (p Pod) replaced(all Foreign, chains []beside.Chain, c intercept.Config) ([]beside.Mesh, error) {
	other := otherMesh(all)
	if other == nil {
		return nil, nil
	}
	if all.Error != "" {
		other.Because = "not all rules could be listed: " + all.Error
		return nil, other
	}
	if p.TakeOver {
		return other.Meshes, nil
	}
	for _, m := range other.Meshes {
		if m.Name != p.InPlaceOf {
			return nil, other
		}
		if other.Because = m.Strange(chains, ports(c), c.Inbound.DropInvalid); other.Because != "" {
			return nil, other
		}
	}
	return other.Meshes, nil
}

// ports are those at which the proxy of a configuration listens.
func ports(c intercept.Config) (all []uint16) {
	all = []uint16{c.DNS.Port}
	for _, r := range []intercept.PortRange{c.Outbound.Port, c.Inbound.Port} {
		for p := int(r.First); p <= int(r.Last); p++ {
			all = append(all, uint16(p))
		}
	}
	return all
}

// leftBehind are the routes and the addresses of lo that a mesh's programs make beside rules.
func leftBehind(m beside.Mesh, c intercept.Config) (routes []ruleset.MarkRoute, sources []netip.Addr) {
	passthrough := []netip.Addr{netip.MustParseAddr("::6")}
	switch m.Name {
	case "istio":
		usual, own := intercept.Default().Inbound.TProxy, c.Inbound.TProxy
		routes = []ruleset.MarkRoute{{Mark: own.Mark, Table: own.Table}, {Mark: usual.Mark, Table: usual.Table}}
		return routes, passthrough
	case "kuma":
		return nil, passthrough
	}
	return nil, nil
}

// takeOut removes the rules of meshes, and returns what was removed, a line for each part.
func (s *space) takeOut(ctx context.Context, meshes []beside.Mesh, want plan) (parts []string, err error) {
	for _, m := range meshes {
		s.chains = nil
		chains, err := s.allForeign()
		if err != nil {
			return parts, fmt.Errorf("list the rules of %s: %w", m.Title, err)
		}
		r, err := m.Removal(chains, iptables.HasOurName)
		if err == nil && !r.IsEmpty() {
			err = s.removeForeign(ctx, m, r)
		}
		if err != nil {
			return parts, fmt.Errorf("the rules of %s could not be taken out: %w", m.Title, err)
		}
		parts = append(parts, r.Lines()...)
		routes, sources := leftBehind(m, want.config)
		if len(routes)+len(sources) == 0 {
			continue
		}
		routing, err := s.routing()
		if err == nil {
			err = routing.TakeOver(routes, sources, want.routes)
		}
		if err != nil {
			return parts, fmt.Errorf("the rules of %s are taken out, but not the routes beside them: %w", m.Title, err)
		}
	}
	s.chains = nil
	return parts, nil
}
