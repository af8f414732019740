//go:build linux

package ipset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	vishvananda "github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// inside runs f in a new namespace with a Conn.
func inside(t *testing.T, f func(*Conn) error) {
	t.Helper()
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		c, err := Open()
		if err != nil {
			return err
		}
		return errors.Join(c.Can(), f(c), c.Close())
	})
	if err != nil {
		t.Error(err)
	}
}

// sorted are the names of our sets.
func sorted(t *testing.T, c *Conn) []string {
	t.Helper()
	all, err := c.References()
	if err != nil {
		t.Error(err)
	}
	return slices.Sorted(maps.Keys(all))
}

func nets(f ruleset.Family, n int) (all ruleset.CIDRs) {
	for i := range n {
		b := binary.BigEndian.AppendUint32([]byte{0x20, 1, 0xd, 0xb8}, uint32(i)<<8)
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 27)
		if f == ruleset.IPv6 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte(append(b, make([]byte, 8)...))), 57)
		}
		all = append(all, p)
	}
	return all
}

func ports(n int) (all ruleset.Ports) {
	for i := range n {
		all = append(all, ruleset.PortRange{First: uint16(1 + 3*i), Last: uint16(2 + 3*i)})
	}
	return all
}

// TestMake: sets of each kind hold what they should, to the last member, and are left as they are the second time.
func TestMake(t *testing.T) {
	inside(t, func(c *Conn) error {
		var all []Set
		for _, n := range []int{1, 2, 5000, 70_000} {
			all = append(all, Addresses(ruleset.IPv4, nets(ruleset.IPv4, n)), Addresses(ruleset.IPv6, nets(ruleset.IPv6, n)))
		}
		for _, n := range []int{1, 2, 20_000} {
			all = append(all, OfPorts(ports(n)))
		}
		all = append(all, OfPorts(ruleset.AllPorts()),
			Addresses(ruleset.IPv4, ruleset.CIDRs{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("192.0.2.1/32")}),
			Addresses(ruleset.IPv6, ruleset.CIDRs{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("8000::/1")}))
		var names []string
		for _, s := range all {
			for i, want := range []bool{true, false} {
				if changed, err := c.Make(s); err != nil || changed != want {
					t.Errorf("%s, time %d: %t, %v", s.name, i, changed, err)
				}
			}
			if found, err := c.Look(s); err != nil || found != Whole {
				t.Errorf("%s of %d: %d, %v", s.name, s.Len(), found, err)
			}
			if s.Len() > 5000 { // the other library takes seconds
			} else if kernel, err := vishvananda.IpsetList(s.name); err != nil || len(kernel.Entries) != s.Len() {
				t.Errorf("%s: another library counts %d of %d, %v", s.name, len(kernel.Entries), s.Len(), err)
			}
			names = append(names, s.name)
		}
		slices.Sort(names)
		if found := sorted(t, c); !slices.Equal(names, found) {
			t.Errorf("%v", found)
		}
		for _, name := range names {
			if err := c.Destroy(name); err != nil {
				t.Error(err)
			}
			if err := c.Destroy(name); err != nil {
				t.Errorf("again: %s", err)
			}
		}
		if found := sorted(t, c); len(found) > 0 {
			t.Errorf("left: %v", found)
		}
		return nil
	})
}

// TestMend: what somebody has done to a set is seen, and mended in one step, what another of ours had left on the way to
// that, too; and sets of others are not ours.
func TestMend(t *testing.T) {
	s := Addresses(ruleset.IPv4, nets(ruleset.IPv4, 100))
	p := OfPorts(ports(100))
	in := func(cidr string, bits uint8) *vishvananda.IPSetEntry {
		return &vishvananda.IPSetEntry{IP: netip.MustParseAddr(cidr).AsSlice(), CIDR: bits, Replace: true}
	}
	forever := uint32(0)
	for name, spoil := range map[string]func(*Conn) error{
		"a member more": func(c *Conn) error { // of a set that is made anew, for this one is full
			more := Addresses(ruleset.IPv4, nets(ruleset.IPv4, 101))
			return errors.Join(c.Destroy(s.name), c.fill(more, s.name))
		},
		"a member less": func(*Conn) error { return vishvananda.IpsetDel(s.name, in("10.0.0.0", 27)) },
		"another": func(*Conn) error {
			return errors.Join(vishvananda.IpsetDel(s.name, in("10.0.0.0", 27)), vishvananda.IpsetAdd(s.name, in("10.0.0.0", 26)))
		},
		"none": func(*Conn) error { return vishvananda.IpsetFlush(s.name) },
		"another port": func(c *Conn) error {
			other := OfPorts(append(ports(99), ruleset.PortRange{First: 299, Last: 300}))
			return errors.Join(c.Destroy(p.name), c.fill(other, p.name))
		},
		"gone": func(c *Conn) error { return errors.Join(c.Destroy(s.name), c.Destroy(p.name)) },
		"members that expire": func(c *Conn) error {
			err := c.Destroy(s.name)
			return errors.Join(err, vishvananda.IpsetCreate(s.name, hashNet, vishvananda.IpsetCreateOptions{Timeout: &forever}))
		},
		"killed on the way": func(c *Conn) error {
			return errors.Join(vishvananda.IpsetFlush(s.name), c.fill(Addresses(ruleset.IPv4, nets(ruleset.IPv4, 7)), spare(s.name)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inside(t, func(c *Conn) error {
				foreign := []string{"mine", "MESH_mine", "MESH_IPv4_mine", s.name + "__"}
				for _, name := range foreign {
					if err := vishvananda.IpsetCreate(name, hashNet, vishvananda.IpsetCreateOptions{}); err != nil {
						return err
					}
				}
				for _, set := range []Set{s, p} {
					if _, err := c.Make(set); err != nil {
						return err
					}
				}
				if err := spoil(c); err != nil {
					return err
				}
				seen := 0
				for _, set := range []Set{s, p} {
					found, err := c.Look(set)
					if err != nil {
						return err
					}
					if found != Whole {
						seen++
					}
					if changed, err := c.Make(set); err != nil || changed != (found != Whole) {
						t.Errorf("%s: %t, %v", set.name, changed, err)
					}
					if found, err := c.Look(set); err != nil || found != Whole {
						t.Errorf("%s then: %d, %v", set.name, found, err)
					}
				}
				if names := sorted(t, c); seen == 0 || len(names) != 2 {
					t.Errorf("%d were seen to be wrong; ours are %v", seen, names)
				}
				all, err := vishvananda.IpsetListAll()
				if len(all) != 2+len(foreign) {
					t.Errorf("there are %d sets", len(all))
				}
				return err
			})
		})
	}
}

// TestOtherType: what another type of set has under a name of ours cannot be swapped, and is left.
func TestOtherType(t *testing.T) {
	s := Addresses(ruleset.IPv6, nets(ruleset.IPv6, 10))
	inside(t, func(c *Conn) error {
		if err := vishvananda.IpsetCreate(s.name, "list:set", vishvananda.IpsetCreateOptions{}); err != nil {
			return err
		}
		_, err := c.Make(s)
		if err == nil {
			t.Error("it was made")
		}
		if names := sorted(t, c); !slices.Equal(names, []string{s.name}) {
			t.Errorf("%v", names)
		}
		return nil
	})
}

// TestNames: names are short enough for the kernel, tell contents apart, and those of ports do not depend on the order.
func TestNames(t *testing.T) {
	a, b := nets(ruleset.IPv6, 50), nets(ruleset.IPv6, 51)
	if x, y := Addresses(ruleset.IPv6, a), Addresses(ruleset.IPv6, b); x.name == y.name {
		t.Error(x.name)
	}
	x, p := Addresses(ruleset.IPv6, b), ports(9)
	slices.Reverse(p)
	if a, b := OfPorts(ports(9)), OfPorts(p); a.name != b.name {
		t.Errorf("%s and %s", a.name, b.name)
	}
	const most = 31 // IPSET_MAXNAMELEN, less the final zero
	for _, name := range []string{x.name, OfPorts(ports(3)).name} {
		if !IsOurs(name) || !IsOurs(spare(name)) || len(spare(name)) > most {
			t.Errorf("%s", name)
		}
	}
	for _, name := range []string{"", "MESH_", "MESH_OUTPUT", "MESH_IPv4_", "MESH_IPv4_0123456789abcde", "MESH_IPv4_0123456789abcdeg",
		"MESH_IPv4_0123456789ABCDEF", "IPv4_0123456789abcdef", "MESH_SPEC_0123456789abcdef"} {
		if IsOurs(name) {
			t.Errorf("%q is not ours", name)
		}
	}
}

// BenchmarkSets makes a set and takes it out, and compares one with what it should be.
func BenchmarkSets(b *testing.B) {
	netlab.Require(b)
	for _, n := range []int{5000, 50_000} {
		s := Addresses(ruleset.IPv4, nets(ruleset.IPv4, n))
		for name, once := range map[string]func(*Conn) error{
			"make": func(c *Conn) error { return errors.Join(c.fill(s, s.name), c.Destroy(s.name)) },
			"look": func(c *Conn) error { _, err := c.Look(s); return err },
		} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				ns, err := netlab.NewNamespace()
				if err != nil {
					b.Fatal(err)
				}
				err = ns.Do(func() error {
					c, err := Open()
					if err == nil && name == "look" {
						_, err = c.Make(s)
					}
					b.ReportAllocs()
					for b.Loop() && err == nil {
						err = once(c)
					}
					return errors.Join(err, c.Close())
				})
				if err := errors.Join(err, ns.Close()); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
