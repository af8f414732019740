package dataplane

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// longLists is the need of lists that the backends of iptables have sets for, where the kernel has sets.
const longLists = "long lists"

// long returns the shortest such list of both families.
func long() ruleset.CIDRs {
	var v4, v6 ruleset.CIDRs
	for i := byte(0); !iptables.IsLong(ruleset.Dst(v4)); i += 2 { // next to each other they would be one
		v4 = append(v4, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 32))
		v6 = append(v6, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: i}), 128))
	}
	return slices.Concat(v4, v6)
}

// hasLong reports whether a rule has a long list.
func hasLong(_ ruleset.Chain, r ruleset.Rule) bool {
	return slices.ContainsFunc(r.Match, iptables.IsLong)
}

// sets says how long lists are written, and which modules there are to be for a better way.
func (s *space) sets(v iptables.Variant) (how string, modules []string) {
	err := s.noSets(v)
	if err == nil {
		return "as sets", nil
	}
	if lacks, ok := errors.AsType[*ruleset.ModulesError](err); ok {
		modules = lacks.Modules
	}
	return "as a rule for each item: " + err.Error(), modules
}

// noSets returns why a variant of iptables has no sets here, if it has none.
func (s *space) noSets(v iptables.Variant) error {
	r, err := s.iptables(v)
	if err != nil {
		return err
	}
	return r.Sets()
}

// slowLists warns of long lists that have to be a rule for each item. Of the minimal dialect that is known.
func (s *space) slowLists(p plan, b Backend) []string {
	variant := backendOf(b).variant
	if variant == "" || s.dialect(variant) == iptables.Minimal {
		return nil
	}
	isLong := slices.ContainsFunc(p.rules.Chains, func(c ruleset.Chain) bool {
		return slices.ContainsFunc(c.Rules, func(r ruleset.Rule) bool { return hasLong(c, r) })
	})
	if !isLong {
		return nil
	}
	if err := s.noSets(variant); err != nil {
		return []string{"a long list is a rule for each item, with which each new connection is compared: " + err.Error()}
	}
	return nil
}
