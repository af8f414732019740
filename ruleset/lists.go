package ruleset

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// PortRange is a range of TCP or UDP ports, both ends included. First is at
// least 1 and at most Last in a valid one.
type PortRange struct{ First, Last uint16 }

// Port returns the range that holds p alone.
func Port(p uint16) PortRange { return PortRange{p, p} }

// String returns "80" or "8000-8010".
func (r PortRange) String() string { return rangeString(r.First, r.Last) }

func appendPorts(b []byte, r PortRange) []byte { return appendRange(b, r.First, r.Last) }

// ParsePortRange reads "80" or "8000-8010".
func ParsePortRange(s string) (PortRange, error) {
	first, last, err := parseRange(s, 16)
	if err != nil {
		return PortRange{}, fmt.Errorf("%q is not a port or a range of ports (1-65535, as in 80 or 8000-8010)",
			strict.Clip(s))
	}
	r := PortRange{uint16(first), uint16(last)}
	return r, r.Validate()
}

// Set makes the range a flag value (flag.Value).
func (r *PortRange) Set(s string) (err error) { *r, err = ParsePortRange(s); return err }

// MarshalJSON writes a number or a range.
func (r PortRange) MarshalJSON() ([]byte, error) {
	if r.First == r.Last {
		return json.Marshal(r.First)
	}
	return json.Marshal(r.String())
}

// UnmarshalJSON reads a number or a range.
func (r *PortRange) UnmarshalJSON(b []byte) error { return strict.UnmarshalJSON(b, r) }

// Ports is a list of port ranges. Its text form is "80,8000-8010", "*" for
// all ports, "none" for an empty list.
type Ports []PortRange

// AllPorts returns the list that holds every port: "*".
func AllPorts() Ports { return Ports{{1, 65535}} }

// All reports whether the list holds every port.
func (p Ports) All() bool { m := p.Merge(); return len(m) == 1 && m[0] == PortRange{1, 65535} }

// Contains reports whether port is in one of the ranges.
func (p Ports) Contains(port uint16) bool {
	return slices.ContainsFunc(p, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// IDRange is a range of user or group IDs, both ends included.
type IDRange struct{ First, Last uint32 }

// ID returns the range that holds id alone.
func ID(id uint32) IDRange { return IDRange{id, id} }

// String returns "1337" or "1000-1999".
func (r IDRange) String() string { return rangeString(r.First, r.Last) }

func appendIDs(b []byte, r IDRange) []byte { return appendRange(b, r.First, r.Last) }

// MaxID is the greatest user or group ID. The one above it, 2^32-1, means
// "no change" to chown(2) and setreuid(2) and is nobody's.
const MaxID = 1<<32 - 2

// IDs is a list of user or group IDs. Its text form is "1337,2000-2999",
// "none" for an empty list. Names are refused: what they stand for depends on
// the file system the program happens to see.
type IDs []IDRange

// Contains reports whether id is in one of the ranges.
func (l IDs) Contains(id uint32) bool {
	return slices.ContainsFunc(l, func(r IDRange) bool { return r.First <= id && id <= r.Last })
}

// CIDRs is a list of address prefixes, IPv4 and IPv6 mixed. Its text form is
// "10.0.0.0/8,fd00::/8", "*" for all addresses, "none" for an empty list. A
// bare address stands for itself alone; one that looks like a network, such as
// 10.0.0.0, needs its size.
type CIDRs []netip.Prefix

var (
	allIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	allIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// AllCIDRs returns the list that holds every address: "*".
func AllCIDRs() CIDRs { return CIDRs{allIPv4, allIPv6} }

// All reports whether the list holds every address of both families.
func (c CIDRs) All() bool { return slices.Contains(c, allIPv4) && slices.Contains(c, allIPv6) }

// Contains reports whether addr is in one of the prefixes.
func (c CIDRs) Contains(addr netip.Addr) bool {
	for _, p := range c { // a long list is looked through several times
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// Of returns the prefixes of one family. Where those stand together it is a part of the list itself.
func (c CIDRs) Of(f Family) CIDRs {
	count, first, last := 0, 0, 0
	for i, p := range c {
		if FamilyOf(p.Addr()) == f {
			if count++; count == 1 {
				first = i
			}
			last = i
		}
	}
	switch count {
	case 0:
		return nil
	case last - first + 1:
		return c[first : last+1 : last+1]
	}
	out := make(CIDRs, 0, count)
	for _, p := range c[first : last+1] {
		if FamilyOf(p.Addr()) == f {
			out = append(out, p)
		}
	}
	return out
}

// Merge returns the same ports in ascending ranges that neither overlap nor
// touch.
func (p Ports) Merge() Ports {
	return merge(slices.Clone(p), func(r PortRange) (uint16, uint16) { return r.First, r.Last },
		func(a, b uint16) PortRange { return PortRange{a, b} }, nextInt, cmp.Compare)
}

// Merge returns the same IDs in ascending ranges that neither overlap nor touch.
func (l IDs) Merge() IDs {
	return merge(slices.Clone(l), func(r IDRange) (uint32, uint32) { return r.First, r.Last },
		func(a, b uint32) IDRange { return IDRange{a, b} }, nextInt, cmp.Compare)
}

// Count returns how many ports the list holds.
func (p Ports) Count() int {
	n := 0
	for _, r := range p.Merge() {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

// Count returns how many IDs the list holds.
func (l IDs) Count() uint64 {
	n := uint64(0)
	for _, r := range l.Merge() {
		n += uint64(r.Last) - uint64(r.First) + 1
	}
	return n
}

// AddrRange is a range of addresses of one family, both ends included.
type AddrRange struct{ First, Last netip.Addr }

// String returns "10.1.2.3", "10.0.0.0/8" or "10.0.0.1-10.0.0.5".
func (r AddrRange) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	if p, is := r.prefix(); is {
		return p.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// prefix returns the prefix that holds the same addresses, if there is one: it is as long as what both ends have in
// common.
func (r AddrRange) prefix() (p netip.Prefix, is bool) {
	p = netip.PrefixFrom(r.First, commonBits(r.First, r.Last))
	return p, p == p.Masked() && lastAddr(p) == r.Last
}

// Prefixes returns the fewest prefixes that hold the same addresses.
func (r AddrRange) Prefixes() CIDRs {
	if p, is := r.prefix(); is {
		return CIDRs{p}
	}
	var prefixes CIDRs
	for first := r.First; first.IsValid() && first.Compare(r.Last) <= 0; {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider.Masked().Addr() != first || lastAddr(wider).Compare(r.Last) > 0 {
				break
			}
			p = wider
		}
		prefixes = append(prefixes, p)
		first = lastAddr(p).Next()
	}
	return prefixes
}

// Merge returns the same addresses in ascending ranges that neither overlap
// nor touch, IPv4 before IPv6.
func (c CIDRs) Merge() []AddrRange {
	ranges := make([]AddrRange, len(c))
	for i, p := range c {
		ranges[i] = AddrRange{p.Masked().Addr(), lastAddr(p)}
	}
	return merge(ranges, func(r AddrRange) (netip.Addr, netip.Addr) { return r.First, r.Last },
		func(a, b netip.Addr) AddrRange { return AddrRange{a, b} }, netip.Addr.Next, netip.Addr.Compare)
}

// commonBits returns how many leading bits a and b share.
func commonBits(a, b netip.Addr) int {
	x, y := a.As16(), b.As16()
	skip := 128 - a.BitLen()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return 8*i + bits.LeadingZeros8(d) - skip
		}
	}
	return a.BitLen()
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As16()
	skip := 128 - p.Addr().BitLen()
	for i, bit := (p.Bits()+skip)/8, (p.Bits()+skip)%8; i < len(b); i, bit = i+1, 0 {
		b[i] |= 0xff >> bit
	}
	a := netip.AddrFrom16(b)
	if p.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

func nextInt[N uint16 | uint32](n N) N { return n + 1 }

// merge sorts the ranges that it is given and joins those that overlap or touch, in their place. next gives the
// value after one; after the greatest it gives one that is smaller, or invalid.
func merge[R any, V comparable](ranges []R, ends func(R) (V, V), join func(first, last V) R, next func(V) V,
	compare func(V, V) int) []R {
	before := func(i, j int) bool {
		x, _ := ends(ranges[i])
		y, _ := ends(ranges[j])
		return compare(x, y) < 0
	}
	if !sort.SliceIsSorted(ranges, before) { // most are, and long ones take their time
		sort.Slice(ranges, before)
	}
	out := ranges[:0]
	for _, r := range ranges {
		if len(out) > 0 {
			first, last := ends(out[len(out)-1])
			f, l := ends(r)
			if compare(f, last) <= 0 || f == next(last) {
				if compare(l, last) > 0 {
					out[len(out)-1] = join(first, l)
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// ParsePorts reads the text form of a port list.
func ParsePorts(s string) (Ports, error) {
	return strict.ParseList[PortRange, Ports](s, "port", AllPorts, ParsePortRange)
}

// ParseIDs reads the text form of a list of user or group IDs.
func ParseIDs(s string) (IDs, error) {
	return strict.ParseList[IDRange, IDs](s, "ID", nil, parseIDRange)
}

// ParseCIDRs reads the text form of an address list.
func ParseCIDRs(s string) (CIDRs, error) {
	return strict.ParseList[netip.Prefix, CIDRs](s, "CIDR", AllCIDRs, parsePrefix)
}

// Validate reports a range that holds no port.
func (r PortRange) Validate() error {
	switch {
	case r.First == 0:
		return fmt.Errorf("port %q: 0 is not a port; ports are 1 to 65535", r)
	case r.First > r.Last:
		return fmt.Errorf("port range %q ends before it begins; write %d-%d", r, r.Last, r.First)
	}
	return nil
}

func parseIDRange(s string) (IDRange, error) {
	first, last, err := parseRange(s, 32)
	if err != nil {
		return IDRange{}, fmt.Errorf("%q is not a user or group ID (a number from 0 to %d, or a range of them; names are "+
			"not accepted)", s, uint32(MaxID))
	}
	r := IDRange{uint32(first), uint32(last)}
	return r, r.Validate()
}

// Validate reports a range that holds no ID, or one that nobody can have.
func (r IDRange) Validate() error {
	switch {
	case r.Last > MaxID:
		return fmt.Errorf("ID %q is over %d, the greatest user or group ID", r, uint32(MaxID))
	case r.First > r.Last:
		return fmt.Errorf("ID range %q ends before it begins; write %d-%d", r, r.Last, r.First)
	}
	return nil
}

// parseRange reads "N" or "N-M" in plain decimal digits: no sign, no space,
// no leading zero, so that every range has one spelling.
func parseRange(s string, bits int) (first, last uint64, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = parseNumber(a, bits); err != nil || !isRange {
		return first, first, err
	}
	last, err = parseNumber(b, bits)
	return first, last, err
}

func parseNumber(s string, bits int) (uint64, error) {
	if len(s) > 1 && s[0] == '0' || strings.HasPrefix(s, "+") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, bits)
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, fmt.Errorf("%q is not a CIDR (as in 10.0.0.0/8 or fd00::/8)", s)
		}
		return p, ValidatePrefix(p)
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a CIDR (as in 10.1.2.3, 10.0.0.0/8 or fd00::/8)", s)
	case a.Zone() != "":
		return netip.Prefix{}, fmt.Errorf("%q has a zone; write it without %q", s, "%"+a.Zone())
	}
	if n := networkBits(a); n < a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("%q looks like a network, whose size is missing; write it, as in %s/%d, "+
			"or write %s/%d for the one address",
			s, a, n, a, a.BitLen())
	}
	p := netip.PrefixFrom(a, a.BitLen())
	return p, ValidatePrefix(p)
}

// networkBits is the least size, in whole bytes, of a network that an address
// without one may stand for: an IPv4 address that ends in .0, and an IPv6 one
// whose interface identifier is zero. For other addresses it is all their bits.
func networkBits(a netip.Addr) int {
	b := a.AsSlice()
	host := b[len(b)-len(b)/4:] // IPv4: the last byte
	if a.Is6() {
		host = b[8:]
	}
	if slices.ContainsFunc(host, func(b byte) bool { return b != 0 }) {
		return a.BitLen()
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return 8 * len(b)
}

// ValidatePrefix reports a prefix that cannot stand in a list: the zero one, IPv4 written as IPv6, and one with bits
// set that it does not cover.
func ValidatePrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("the zero CIDR is not a CIDR")
	case p.Addr().Is4In6():
		return fmt.Errorf("CIDR %q is IPv4 written as IPv6; write the IPv4 form", p)
	case p != p.Masked():
		return fmt.Errorf("CIDR %q has host bits set; write %s, or %s/%d for the one address",
			p, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return nil
}

func rangeString[N uint16 | uint32](first, last N) string {
	return string(appendRange(nil, first, last))
}

func appendRange[N uint16 | uint32](b []byte, first, last N) []byte {
	b = strconv.AppendUint(b, uint64(first), 10)
	if first != last {
		b = strconv.AppendUint(append(b, '-'), uint64(last), 10)
	}
	return b
}

// String returns the text form of the list.
func (p Ports) String() string {
	if p.All() {
		return "*"
	}
	return listString(p, appendPorts)
}

// String returns the text form of the list.
func (l IDs) String() string { return listString(l, appendIDs) }

// String returns the text form of the list.
func (c CIDRs) String() string {
	if len(c) == 2 && c.All() {
		return "*"
	}
	return listString(c, appendPrefix)
}

// prefixString writes a single address without its prefix length, if it can be
// read like that.
func prefixString(p netip.Prefix) string { return string(appendPrefix(nil, p)) }

func appendPrefix(b []byte, p netip.Prefix) []byte {
	if p.IsSingleIP() && networkBits(p.Addr()) == p.Bits() {
		return p.Addr().AppendTo(b)
	}
	return p.AppendTo(b)
}

func listString[E any](list []E, appendTo func([]byte, E) []byte) string {
	if len(list) == 0 {
		return "none"
	}
	var b []byte
	for i, e := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if cap(b)-len(b) < 64 { // more than an item takes
			b = slices.Grow(b, len(b)+64)
		}
		b = appendTo(b, e)
	}
	return string(b)
}

// Set makes the list a flag value (flag.Value).
func (p *Ports) Set(s string) (err error) { *p, err = ParsePorts(s); return err }

// Set makes the list a flag value (flag.Value).
func (l *IDs) Set(s string) (err error) { *l, err = ParseIDs(s); return err }

// Set makes the list a flag value (flag.Value).
func (c *CIDRs) Set(s string) (err error) { *c, err = ParseCIDRs(s); return err }

// MarshalJSON writes "*" for all ports, else a list of numbers and ranges.
func (p Ports) MarshalJSON() ([]byte, error) {
	return marshalList(p, p.String() == "*", func(r PortRange) any { return r })
}

// MarshalJSON writes a list of numbers and ranges.
func (l IDs) MarshalJSON() ([]byte, error) {
	return marshalList(l, false, func(r IDRange) any {
		if r.First == r.Last {
			return r.First
		}
		return r.String()
	})
}

// MarshalJSON writes "*" for all addresses, else a list of strings.
func (c CIDRs) MarshalJSON() ([]byte, error) {
	return marshalList(c, c.String() == "*", func(p netip.Prefix) any { return prefixString(p) })
}

// UnmarshalJSON reads a list of ports and ranges, or the text form of one.
func (p *Ports) UnmarshalJSON(b []byte) error { return strict.UnmarshalJSON(b, p) }

// UnmarshalJSON reads a list of IDs and ranges, or the text form of one.
func (l *IDs) UnmarshalJSON(b []byte) error { return strict.UnmarshalJSON(b, l) }

// UnmarshalJSON reads a list of addresses and CIDRs, or the text form of one.
func (c *CIDRs) UnmarshalJSON(b []byte) error { return strict.UnmarshalJSON(b, c) }

// MarshalText writes the text form.
func (r PortRange) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalText writes the text form.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// MarshalText writes the text form.
func (l IDs) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// MarshalText writes the text form.
func (c CIDRs) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the text form.
func (r *PortRange) UnmarshalText(b []byte) error { return r.Set(string(b)) }

// UnmarshalText reads the text form.
func (p *Ports) UnmarshalText(b []byte) error { return p.Set(string(b)) }

// UnmarshalText reads the text form.
func (l *IDs) UnmarshalText(b []byte) error { return l.Set(string(b)) }

// UnmarshalText reads the text form.
func (c *CIDRs) UnmarshalText(b []byte) error { return c.Set(string(b)) }

func marshalList[E any](list []E, all bool, item func(E) any) ([]byte, error) {
	if all {
		return []byte(`"*"`), nil
	}
	items := make([]any, len(list))
	for i, e := range list {
		items[i] = item(e)
	}
	return json.Marshal(items)
}
