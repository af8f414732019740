// Package ipset makes the sets that rules of xtables ask for addresses and ports (xt_set), over netlink.
//
// A set's name is the sum of what is in it. So a list that has not changed is known by its name, and one that has gets
// another set: rules go from one to the other in the transaction that replaces them.
package ipset

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Set is a set of networks of one family, or of ports.
type Set struct {
	name   string
	family ruleset.Family // 0: of ports
	nets   ruleset.CIDRs  // ascending; none holds another
	ports  ruleset.Ports  // ascending
}

// Prefix begins the names of all sets of ours, and of chains of ours.
const Prefix = "MESH_"

// Addresses returns the set of a list of networks of a family, ascending, of which none holds another. It is not every
// address: the kernel's sets of networks (hash:net) have no /0.
func Addresses(f ruleset.Family, nets ruleset.CIDRs) Set {
	s := Set{family: f, nets: nets}
	sum := fnv.New64a()
	var b []byte
	for _, p := range s.nets {
		b, _ = p.AppendBinary(b[:0]) // which never fails
		_, _ = sum.Write(b)          // nor does a hash.Hash
	}
	s.name = Prefix + f.String() + "_" + hex.EncodeToString(sum.Sum(nil))
	return s
}

// OfPorts returns the set of a list of ports.
func OfPorts(ports ruleset.Ports) Set {
	s := Set{ports: ports.Merge()}
	sum := fnv.New64a()
	for _, r := range s.ports {
		_, _ = sum.Write([]byte{byte(r.First >> 8), byte(r.First), byte(r.Last >> 8), byte(r.Last)})
	}
	s.name = Prefix + portKind + "_" + hex.EncodeToString(sum.Sum(nil))
	return s
}

const portKind = "PORTS"

// Name is that of the set in the kernel.
func (s Set) Name() string { return s.name }

// Len is how many members the set has in the kernel, which counts ports one by one.
func (s Set) Len() int {
	n := len(s.nets)
	for _, r := range s.ports {
		n += int(r.Last-r.First) + 1
	}
	return n
}

// has reports whether a network is a member.
func (s Set) has(p netip.Prefix) bool {
	i, found := slices.BinarySearchFunc(s.nets, p.Addr(), func(q netip.Prefix, a netip.Addr) int {
		return q.Addr().Compare(a)
	})
	return found && s.nets[i] == p
}

// hasPort reports whether a port is a member.
func (s Set) hasPort(port uint16) bool {
	_, found := slices.BinarySearchFunc(s.ports, port, func(r ruleset.PortRange, port uint16) int {
		switch {
		case r.Last < port:
			return -1
		case r.First > port:
			return 1
		}
		return 0
	})
	return found
}

// spare is the name of a set that is made to take the place of another.
func spare(name string) string { return name + "_" }

// IsOurs reports whether a name is one that this package gives.
func IsOurs(name string) bool {
	name = strings.TrimSuffix(name, "_")
	rest, ours := strings.CutPrefix(name, Prefix)
	kind, sum, ok := strings.Cut(rest, "_")
	b, err := hex.DecodeString(sum)
	return ours && ok && err == nil && len(b) == 8 && strings.ToLower(sum) == sum &&
		slices.Contains([]string{ruleset.IPv4.String(), ruleset.IPv6.String(), portKind}, kind)
}

// ErrBusy reports a set that cannot be destroyed, for a rule asks it.
var ErrBusy = errors.New("a rule asks this set")

// Content says what is in the set of a name.
type Content int

// What Look finds.
const (
	Missing Content = iota // there is no set of the name
	Whole                  // it holds what it should
	Other                  // it holds something else, or members that expire
)

func (s Set) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s the set %s: %w", what, s.name, err)
}
