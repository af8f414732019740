// Package whynot finds the smallest changes of a configuration that give a packet the other fate: that send it to the
// proxy, or that let it go. It does no I/O.
package whynot

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/ruleset"
)

// A Change is a configuration that gives the packet the other fate.
type Change struct {
	Config intercept.Config
	// Trace is what then becomes of the packet.
	Trace intercept.Trace
	// Steps is how many fields differ.
	Steps int
	// Changes are all packets that have another fate then, the one in question among them. None: they are too many to
	// be told apart.
	Changes []classes.Change
	// Share is which part of all that begins a flow they are, by fields.
	Share float64
}

// The bounds of a search.
const (
	mostSteps = 3
	mostTries = 400
	most      = 8 // changes of which it is said what else they change
)

// unknownShare is that of a change of which it would take too long to say what else it changes: more than all.
const unknownShare = 2

// Captured reports whether a fate is that of what goes to the proxy.
func Captured(f intercept.Fate) bool {
	switch f.Action {
	case intercept.Redirected, intercept.Translated, intercept.Transparent:
		return true
	case intercept.Pass, intercept.Rejected, intercept.Dropped:
	}
	return false
}

// Find returns the changes, the smallest first. There are none if no few fields make the difference. The packet is one
// that Trace takes; the configuration is valid.
func Find(c intercept.Config, p intercept.Packet) ([]Change, error) {
	before, err := intercept.Compile(c)
	if err != nil {
		return nil, err
	}
	trace, err := before.Trace(p)
	if err != nil {
		return nil, err
	}
	s := search{packet: p, capture: !Captured(trace.Fate), left: mostTries}
	// What one change does not do, several may: each has to take out of the way what decided before.
	at := []attempt{{config: c, rule: trace.Rule}}
	for step := 1; step <= mostSteps && len(s.found) == 0; step++ {
		var next []attempt
		for _, a := range at {
			next = append(next, s.from(a, step)...)
		}
		at = next
	}
	found := s.found
	for i := range found {
		if i == most+most/2 {
			found = found[:i]
			break
		}
		after, err := intercept.Compile(found[i].Config)
		if err != nil {
			return nil, err
		}
		all, err := classes.New(nil, before, after)
		if err == nil {
			found[i].Changes, err = all.Diff()
		}
		if found[i].Share = classes.Share(found[i].Changes); err != nil {
			found[i].Share = unknownShare // there are too many classes: the change does what it does all the same
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].Share < found[j].Share })
	return found[:min(most, len(found))], nil
}

type attempt struct {
	config intercept.Config
	rule   intercept.RuleID
}

type search struct {
	packet  intercept.Packet
	capture bool
	left    int
	found   []Change
}

// from tries all changes of one field. It returns those that do not do, and after which another rule decides.
func (s *search) from(a attempt, step int) (more []attempt) {
	for _, edit := range edits(a.config, s.packet, s.capture) {
		if s.left--; s.left < 0 {
			return nil
		}
		c := a.config
		edit(&c)
		rs, err := intercept.Compile(c)
		if err != nil {
			continue // the change is none that can be made
		}
		trace, err := rs.Trace(s.packet)
		if err != nil {
			continue
		}
		switch {
		case Captured(trace.Fate) == s.capture:
			s.found = append(s.found, Change{Config: c, Trace: trace, Steps: step})
		case trace.Rule != a.rule:
			more = append(more, attempt{c, trace.Rule})
		}
	}
	return more
}

type edit = func(*intercept.Config)

// edits are the changes of one field that can matter to a packet: each takes it out of a list, or puts it on one.
func edits(c intercept.Config, p intercept.Packet, capture bool) []edit {
	if p.Hook == intercept.Output {
		if capture {
			return captureOutbound(c, p)
		}
		return passOutbound(c, p)
	}
	if capture {
		return append(captureInbound(c, p), captureOutbound(c, p)...) // from behind the pod it is outbound
	}
	return append(passInbound(c, p), passOutbound(c, p)...)
}

func passOutbound(c intercept.Config, p intercept.Packet) []edit {
	addr, port := single(p.Dst.Addr()), p.Dst.Port()
	all := []edit{
		func(c *intercept.Config) {
			e := intercept.Exclusion{Protocol: p.Protocol, CIDRs: intercept.CIDRs{addr}, Ports: intercept.Ports{intercept.Port(port)}}
			c.Outbound.Exclude = with(c.Outbound.Exclude, e)
		},
		func(c *intercept.Config) {
			c.Outbound.ExcludePorts = with(c.Outbound.ExcludePorts, intercept.Port(port))
		},
		func(c *intercept.Config) { c.Outbound.ExcludeCIDRs = with(c.Outbound.ExcludeCIDRs, addr) },
		func(c *intercept.Config) {
			c.Outbound.IncludeCIDRs = without(c.Outbound.IncludeCIDRs, holds(p.Dst.Addr()))
		},
		func(c *intercept.Config) { c.Outbound.IncludePorts = less(c.Outbound.IncludePorts, port) },
		func(c *intercept.Config) { c.Inbound.Hairpin = intercept.HairpinPass },
		func(c *intercept.Config) { c.DNS.Mode = intercept.DNSOff },
		func(c *intercept.Config) { c.DNS.TCP = false },
		func(c *intercept.Config) { c.DNS.Servers = without(c.DNS.Servers, is(p.Dst.Addr())) },
	}
	if p.Owner != nil {
		uid, gid := p.Owner.UID, p.Owner.GID
		all = append(all,
			func(c *intercept.Config) {
				c.Outbound.Exclude = with(c.Outbound.Exclude, intercept.Exclusion{Protocol: p.Protocol, CIDRs: intercept.CIDRs{addr},
					Ports: intercept.Ports{intercept.Port(port)}, UIDs: intercept.IDs{intercept.ID(uid)}})
			},
			func(c *intercept.Config) { c.Outbound.ExcludeUIDs = with(c.Outbound.ExcludeUIDs, intercept.ID(uid)) },
			func(c *intercept.Config) { c.Outbound.IncludeUIDs = withoutID(c.Outbound.IncludeUIDs, uid) },
			func(c *intercept.Config) { c.Outbound.IncludeGIDs = withoutID(c.Outbound.IncludeGIDs, gid) },
		)
	}
	if p.Interface != ruleset.Loopback {
		all = append(all, func(c *intercept.Config) { c.ExcludeInterfaces = with(c.ExcludeInterfaces, p.Interface) })
	}
	return all
}

func passInbound(_ intercept.Config, p intercept.Packet) []edit {
	client, port := single(p.Src.Addr()), p.Dst.Port()
	return []edit{
		func(c *intercept.Config) {
			e := intercept.InboundExclusion{Sources: intercept.CIDRs{client}, Ports: intercept.Ports{intercept.Port(port)}}
			c.Inbound.Exclude = with(c.Inbound.Exclude, e)
		},
		func(c *intercept.Config) { c.Inbound.ExcludePorts = with(c.Inbound.ExcludePorts, intercept.Port(port)) },
		func(c *intercept.Config) { c.Inbound.ExcludeSources = with(c.Inbound.ExcludeSources, client) },
		func(c *intercept.Config) { c.Inbound.IncludePorts = less(c.Inbound.IncludePorts, port) },
		func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundOff },
		func(c *intercept.Config) { c.Inbound.CaptureForwarded = false },
	}
}

func captureOutbound(c intercept.Config, p intercept.Packet) []edit {
	dst, port := p.Dst.Addr(), p.Dst.Port()
	all := []edit{
		func(c *intercept.Config) { c.Families = intercept.FamiliesAuto },
		func(c *intercept.Config) { c.Outbound.ExcludePorts = less(c.Outbound.ExcludePorts, port) },
		func(c *intercept.Config) { c.Outbound.ExcludeCIDRs = without(c.Outbound.ExcludeCIDRs, holds(dst)) },
		func(c *intercept.Config) { c.Outbound.IncludeCIDRs = with(c.Outbound.IncludeCIDRs, single(dst)) },
		func(c *intercept.Config) {
			c.Outbound.IncludePorts = with(c.Outbound.IncludePorts, intercept.Port(port))
		},
		func(c *intercept.Config) { c.DNS.Mode = intercept.DNSAll },
		func(c *intercept.Config) { c.DNS.Servers = with(c.DNS.Servers, dst) },
		func(c *intercept.Config) { c.DNS.TCP = true },
		func(c *intercept.Config) { c.DNS.Virtual = true },
		func(c *intercept.Config) { c.Loopback = intercept.Default().Loopback },
		func(c *intercept.Config) { c.Inbound.Hairpin = intercept.HairpinCapture },
		func(c *intercept.Config) {
			c.PassthroughSources = without(c.PassthroughSources, is(p.Src.Addr()))
		},
		func(c *intercept.Config) {
			c.ExcludeInterfaces = without(c.ExcludeInterfaces, func(s string) bool {
				return ruleset.InterfaceMatches(s, p.Interface)
			})
		},
	}
	for i := range c.Outbound.Exclude {
		all = append(all, func(c *intercept.Config) {
			c.Outbound.Exclude = slices.Delete(slices.Clone(c.Outbound.Exclude), i, i+1)
		})
	}
	if p.Owner == nil {
		return all
	}
	uid, gid := p.Owner.UID, p.Owner.GID
	return append(all,
		func(c *intercept.Config) { c.Outbound.ExcludeUIDs = withoutID(c.Outbound.ExcludeUIDs, uid) },
		func(c *intercept.Config) { c.Outbound.ExcludeGIDs = withoutID(c.Outbound.ExcludeGIDs, gid) },
		func(c *intercept.Config) { c.Outbound.IncludeUIDs = with(c.Outbound.IncludeUIDs, intercept.ID(uid)) },
		func(c *intercept.Config) { c.Outbound.IncludeGIDs = with(c.Outbound.IncludeGIDs, intercept.ID(gid)) },
		func(c *intercept.Config) { c.Proxy.UIDs = withoutID(c.Proxy.UIDs, uid) },
		func(c *intercept.Config) { c.Proxy.GIDs = withoutID(c.Proxy.GIDs, gid) },
		func(c *intercept.Config) { c.Proxy.Mark = intercept.Mark{} },
	)
}

func captureInbound(c intercept.Config, p intercept.Packet) []edit {
	src, port := p.Src.Addr(), p.Dst.Port()
	all := []edit{
		func(c *intercept.Config) { c.Families = intercept.FamiliesAuto },
		func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundRedirect },
		func(c *intercept.Config) { c.Inbound.ExcludePorts = less(c.Inbound.ExcludePorts, port) },
		func(c *intercept.Config) { c.Inbound.ExcludeSources = without(c.Inbound.ExcludeSources, holds(src)) },
		func(c *intercept.Config) { c.Inbound.IncludePorts = with(c.Inbound.IncludePorts, intercept.Port(port)) },
		func(c *intercept.Config) { c.Inbound.CaptureForwarded = true },
		func(c *intercept.Config) {
			if c.TunnelPort == port {
				c.TunnelPort = 0
			}
		},
	}
	for i := range c.Inbound.Exclude {
		all = append(all, func(c *intercept.Config) {
			c.Inbound.Exclude = slices.Delete(slices.Clone(c.Inbound.Exclude), i, i+1)
		})
	}
	return all
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func holds(a netip.Addr) func(netip.Prefix) bool {
	return func(p netip.Prefix) bool { return p.Contains(a) }
}

func is(a netip.Addr) func(netip.Addr) bool { return func(b netip.Addr) bool { return a == b } }

// with is a list with one item more. The list that is all has it.
func with[L ~[]E, E any](list L, item E) L { return append(slices.Clip(list), item) }

func without[L ~[]E, E any](list L, has func(E) bool) L {
	return slices.DeleteFunc(slices.Clone(list), has)
}

// less is a list of ports without one of them.
func less(list intercept.Ports, port uint16) (out intercept.Ports) {
	for _, r := range list {
		if port < r.First || port > r.Last {
			out = append(out, r)
			continue
		}
		if r.First < port {
			out = append(out, intercept.PortRange{First: r.First, Last: port - 1})
		}
		if port < r.Last {
			out = append(out, intercept.PortRange{First: port + 1, Last: r.Last})
		}
	}
	return out
}

// withoutID is a list of IDs without one of them.
func withoutID(list intercept.IDs, id uint32) (out intercept.IDs) {
	for _, r := range list {
		if id < r.First || id > r.Last {
			out = append(out, r)
			continue
		}
		if r.First < id {
			out = append(out, intercept.IDRange{First: r.First, Last: id - 1})
		}
		if id < r.Last {
			out = append(out, intercept.IDRange{First: id + 1, Last: r.Last})
		}
	}
	return out
}
