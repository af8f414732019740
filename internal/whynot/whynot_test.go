package whynot

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/testing/gen"
)

func call(dst string) intercept.Packet {
	return intercept.Packet{Hook: intercept.Output, Protocol: intercept.TCP, Interface: "eth0",
		Src: netip.MustParseAddrPort("10.244.0.5:40000"), Dst: netip.MustParseAddrPort(dst),
		Owner: &intercept.Owner{UID: 1000, GID: 1000}}
}

func arriving(dst string) intercept.Packet {
	p := call(dst)
	p.Hook, p.Owner = intercept.Prerouting, nil
	p.Src = netip.MustParseAddrPort("192.0.2.1:40000")
	return p
}

// TestFind holds which changes are found, the smallest first.
func TestFind(t *testing.T) {
	prefix := netip.MustParsePrefix
	for name, tc := range map[string]struct {
		change func(*intercept.Config)
		packet intercept.Packet
		want   []string
	}{
		"an excluded network": {
			func(c *intercept.Config) {
				c.Outbound.ExcludeCIDRs = intercept.CIDRs{prefix("10.0.0.0/8"), prefix("192.168.0.0/16")}
			},
			call("10.1.2.3:443"), []string{"--outbound-exclude-cidrs=192.168.0.0/16"},
		},
		"an excluded port, of a range": {
			func(c *intercept.Config) { c.Outbound.ExcludePorts = intercept.Ports{{First: 440, Last: 450}} },
			call("10.1.2.3:443"), []string{"--outbound-exclude-ports=440-442,444-450"},
		},
		"excluded thrice": {
			func(c *intercept.Config) {
				c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(443)}
				c.Outbound.ExcludeCIDRs = intercept.CIDRs{prefix("10.0.0.0/8")}
				c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(1000)}
			},
			call("10.1.2.3:443"),
			[]string{"--outbound-exclude-cidrs=none --outbound-exclude-ports=none --exclude-uids=none"},
		},
		"nothing is included": {
			func(c *intercept.Config) { c.Outbound.IncludeCIDRs = nil },
			call("10.1.2.3:443"), []string{"--outbound-include-cidrs=10.1.2.3", "--outbound-include-ports=443"},
		},
		"the user of the proxy": {
			func(*intercept.Config) {},
			func() intercept.Packet { p := call("10.1.2.3:443"); p.Owner.UID = 1337; return p }(),
			[]string{"--proxy-uid=none"},
		},
		"the family left out": {
			func(c *intercept.Config) { c.Families = intercept.FamiliesIPv6 },
			call("10.1.2.3:443"), []string{"--families=auto"},
		},
		"a captured call": {
			func(*intercept.Config) {},
			call("10.1.2.3:443"), []string{
				"--outbound-exclude=tcp 10.1.2.3:443 uid=1000", "--outbound-exclude=tcp 10.1.2.3:443",
				"--outbound-exclude-cidrs=10.1.2.3", "--exclude-uids=1000", "--outbound-exclude-ports=443",
				"--outbound-include-cidrs=::/0", "--exclude-interfaces=eth0",
			},
		},
		"a client's call": {
			func(*intercept.Config) {},
			arriving("10.244.0.5:8080"), []string{
				"--inbound-exclude=192.0.2.1:8080", "--inbound-exclude-sources=192.0.2.1",
				"--inbound-exclude-ports=15020,15021,15090,8080",
				"--inbound-include-ports=1-8079,8081-65535", "--inbound-mode=off", "--exclude-interfaces=eth0",
			},
		},
		"a probe": {
			func(*intercept.Config) {},
			arriving("10.244.0.5:15021"), []string{"--inbound-exclude-ports=15020,15090"},
		},
		"what no proxy takes": {
			func(*intercept.Config) {},
			func() intercept.Packet { p := call("10.1.2.3:443"); p.Protocol = intercept.UDP; return p }(),
			nil,
		},
	} {
		c := intercept.Default()
		tc.change(&c)
		found, err := Find(c, tc.packet)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, f := range found {
			settings, _ := decode.Changed(c, f.Config)
			args := ""
			for i, s := range settings {
				if i > 0 {
					args += " "
				}
				args += s.Arg()
			}
			got = append(got, args)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestFindRandom: what is found for random packets is valid, gives the packet the other fate, and has that among all
// that it changes.
func TestFindRandom(t *testing.T) {
	found := 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 30))
		c, p := gen.Config(r), gen.Packet(r)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		before, err := rs.Trace(p)
		if err != nil {
			continue
		}
		all, err := Find(c, p)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, change := range all {
			found++
			rs, err := intercept.Compile(change.Config)
			if err != nil {
				t.Errorf("seed %d: %v", seed, err)
				continue
			}
			after, err := rs.Trace(p)
			if err != nil || Captured(after.Fate) == Captured(before.Fate) || after.Fate != change.Trace.Fate {
				t.Errorf("seed %d: %v becomes %v (%v)", seed, before.Fate, after.Fate, err)
			}
			if change.Steps < 1 || change.Share <= 0 || len(change.Changes) == 0 {
				t.Errorf("seed %d: %d steps, a share of %v, %d changes", seed, change.Steps, change.Share, len(change.Changes))
			}
		}
		if !slices.IsSortedFunc(all, func(a, b Change) int {
			if a.Share < b.Share {
				return -1
			}
			return 0
		}) {
			t.Errorf("seed %d: not the smallest first", seed)
		}
	}
	if found < 20 {
		t.Errorf("%d changes found", found)
	}
}

// TestFindAmongMany: where there are too many classes to say what else a change changes, it is found all the same.
func TestFindAmongMany(t *testing.T) {
	c := intercept.Default()
	for i := range 1500 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		c.Outbound.Exclude = append(c.Outbound.Exclude, intercept.Exclusion{CIDRs: intercept.CIDRs{netip.PrefixFrom(a, 32)},
			Ports: intercept.Ports{intercept.Port(uint16(1000 + i))}, UIDs: intercept.IDs{intercept.ID(uint32(2000 + i))}})
	}
	found, err := Find(c, call("10.1.2.3:443"))
	if err != nil || len(found) < 3 || found[0].Changes != nil {
		t.Errorf("%d found (%v)", len(found), err)
	}
}
