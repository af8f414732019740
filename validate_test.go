package intercept_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/gen"
)

func TestDefaultIsValid(t *testing.T) {
	if err := intercept.Default().Validate(); err != nil {
		t.Fatal(err)
	}
}

// TestZeroConfig: the zero Config is refused, with all that is wrong with it.
func TestZeroConfig(t *testing.T) {
	err := intercept.Config{}.Validate()
	for _, field := range []string{"proxy:", "outbound.port:", "inbound.mode:", "inbound.port:", "dns.mode:", "dns.port:",
		"loopback:", "families:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("no error about %s in:\n%v", field, err)
		}
	}
}

// TestInvalid changes one thing of the default and expects one error that
// names the field and the token.
func TestInvalid(t *testing.T) {
	type cfg = intercept.Config
	prefix := netip.MustParsePrefix
	tests := []struct {
		name   string
		change func(*cfg)
		field  string
		token  string
	}{
		{"outbound port 0", func(c *cfg) { c.Outbound.Port = intercept.Port(0) }, "outbound.port", `"0"`},
		{"range backwards", func(c *cfg) { c.Outbound.ExcludePorts = intercept.Ports{{First: 80, Last: 70}} },
			"outbound.excludePorts", `"80-70"`},
		{"port 0 in a list", func(c *cfg) { c.Inbound.IncludePorts = intercept.Ports{{First: 0, Last: 9}} },
			"inbound.includePorts", `"0-9"`},
		{"host bits", func(c *cfg) { c.Outbound.ExcludeCIDRs = intercept.CIDRs{prefix("10.0.0.1/8")} },
			"outbound.excludeCIDRs", `"10.0.0.1/8"`},
		{"IPv4 as IPv6", func(c *cfg) { c.Outbound.IncludeCIDRs = intercept.CIDRs{prefix("::ffff:10.0.0.0/104")} },
			"outbound.includeCIDRs", `"::ffff:10.0.0.0/104"`},
		{"zero prefix", func(c *cfg) { c.Inbound.ExcludeSources = intercept.CIDRs{{}} }, "inbound.excludeSources",
			"zero CIDR"},
		{"ID -1", func(c *cfg) { c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(1<<32 - 1)} }, "outbound.excludeUIDs",
			`"4294967295"`},
		{"IDs backwards", func(c *cfg) { c.Outbound.IncludeGIDs = intercept.IDs{{First: 2, Last: 1}} },
			"outbound.includeGIDs", `"2-1"`},
		{"proxy is root", func(c *cfg) { c.Proxy.UIDs = intercept.IDs{intercept.ID(0)} }, "proxy.uids", "0"},
		{"proxy group is root", func(c *cfg) { c.Proxy.GIDs = intercept.IDs{{First: 0, Last: 5}} }, "proxy.gids", "0"},
		{"no proxy", func(c *cfg) { c.Proxy = intercept.Proxy{} }, "proxy", "neither a UID nor a GID"},
		{"two roles", func(c *cfg) { c.Inbound.Port = intercept.Port(15001) }, "inbound.port", "15001"},
		{"two roles, range", func(c *cfg) { c.Outbound.Port = intercept.PortRange{First: 15001, Last: 15006} },
			"inbound.port", "15001-15006"},
		{"tunnel is outbound", func(c *cfg) { c.TunnelPort = 15001 }, "tunnelPort", "15001"},
		{"DNS is inbound", func(c *cfg) { c.DNS.Mode, c.DNS.Port = intercept.DNSAll, 15006 }, "dns.port", "15006"},
		{"inbound mode", func(c *cfg) { c.Inbound.Mode = "nat" }, "inbound.mode", `"nat"`},
		{"DNS mode", func(c *cfg) { c.DNS.Mode = "some" }, "dns.mode", `"some"`},
		{"families", func(c *cfg) { c.Families = "v4" }, "families", `"v4"`},
		{"no servers", func(c *cfg) { c.DNS.Mode = intercept.DNSResolvConf }, "dns.servers", "none"},
		{"servers for nothing", func(c *cfg) {
			c.DNS.Mode, c.DNS.Servers = intercept.DNSAll, []netip.Addr{netip.MustParseAddr("10.0.0.10")}
		}, "dns.servers", "10.0.0.10"},
		{"servers of the other family", func(c *cfg) {
			c.Families, c.DNS.Mode, c.DNS.Servers = intercept.FamiliesIPv6, intercept.DNSResolvConf,
				[]netip.Addr{netip.MustParseAddr("10.0.0.10")}
		}, "dns.servers", "10.0.0.10"},
		{"server with zone", func(c *cfg) {
			c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}
		}, "dns.servers", "fe80::1%eth0"},
		{"interface too long", func(c *cfg) { c.ExcludeInterfaces = []string{"sixteen-bytes-xx"} }, "excludeInterfaces",
			"sixteen-bytes-xx"},
		{"interface glob inside", func(c *cfg) { c.ExcludeInterfaces = []string{"e*0"} }, "excludeInterfaces", "e*0"},
		{"every interface", func(c *cfg) { c.ExcludeInterfaces = []string{"*"} }, "excludeInterfaces", `"*"`},
		{"no interface", func(c *cfg) { c.ExcludeInterfaces = []string{""} }, "excludeInterfaces", "empty"},
		{"interface as ip lists it", func(c *cfg) { c.ExcludeInterfaces = []string{"eth0.100@enp0s31f6"} },
			"excludeInterfaces",
			`its name is "eth0.100"`},
		{"virtual interface as ip lists it", func(c *cfg) { c.VirtualInterfaces = []string{"eth1@if7"} }, "virtualInterfaces",
			`its name is "eth1"`},
		{"network behind no virtual interface", func(c *cfg) {
			c.VirtualNetworks = []intercept.VirtualNetwork{{Interface: "docker0", CIDRs: intercept.CIDRs{prefix("10.0.0.0/8")}}}
		}, "virtualNetworks[0].interface", `"docker0" is not one of virtualInterfaces`},
		{"no network behind a virtual interface", func(c *cfg) {
			c.VirtualInterfaces = []string{"docker0"}
			c.VirtualNetworks = []intercept.VirtualNetwork{{Interface: "docker0"}}
		}, "virtualNetworks[0].cidrs", "no network"},
		{"interface with slash", func(c *cfg) { c.ExcludeInterfaces = []string{"a/b"} }, "excludeInterfaces", `"a/b"`},
		{"interface with quote", func(c *cfg) { c.ExcludeInterfaces = []string{`a"b`} }, "excludeInterfaces", `a\"b`},
		{"loopback elsewhere", func(c *cfg) { c.Loopback = append(c.Loopback, prefix("10.0.0.0/8")) }, "loopback",
			"10.0.0.0/8"},
		{"loopback too wide", func(c *cfg) { c.Loopback = intercept.CIDRs{prefix("126.0.0.0/7"), prefix("::1/128")} },
			"loopback", "126.0.0.0/7"},
		{"loopback without ::1", func(c *cfg) { c.Loopback = c.Loopback[:1] }, "loopback", "::1"},
		{"passthrough from localhost", func(c *cfg) { c.PassthroughSources = []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
			"passthroughSources", "127.0.0.1"},
		{"two passthroughs of a family", func(c *cfg) {
			c.PassthroughSources = []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("127.0.0.7")}
		}, "passthroughSources", "127.0.0.7"},
		{"empty exclusion", func(c *cfg) { c.Outbound.Exclude = []intercept.Exclusion{{}} }, "outbound.exclude[0]",
			"everything"},
		{"exclusion of a protocol", func(c *cfg) { c.Outbound.Exclude = []intercept.Exclusion{{Protocol: intercept.ICMP}} },
			"outbound.exclude[0].protocol", "icmp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := intercept.Default()
			tt.change(&c)
			err := c.Validate()
			if err == nil {
				t.Fatal("valid")
			}
			if _, cerr := intercept.Compile(c); cerr == nil {
				t.Error("Compile accepts it")
			}
			joined, ok := err.(interface{ Unwrap() []error })
			if !ok || !slices.ContainsFunc(joined.Unwrap(), func(e error) bool {
				var fe *intercept.FieldError
				return errors.As(e, &fe) && fe.Field == tt.field && strings.Contains(fe.Error(), tt.token)
			}) {
				t.Errorf("no error of field %s naming %s in:\n%v", tt.field, tt.token, err)
			}
		})
	}
}

func TestNothingCaptured(t *testing.T) {
	c := intercept.Default()
	c.Outbound.IncludeCIDRs = nil
	if err := c.Validate(); err != nil {
		t.Fatalf("inbound alone: %v", err)
	}
	c.Inbound.IncludePorts = nil
	if err := c.Validate(); !errors.Is(err, intercept.ErrNothingCaptured) {
		t.Fatalf("nothing included: %v", err)
	}
	c.DNS.Mode = intercept.DNSAll
	if err := c.Validate(); err != nil {
		t.Fatalf("DNS alone: %v", err)
	}
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(53)}
	if err := c.Validate(); !errors.Is(err, intercept.ErrNothingCaptured) {
		t.Fatalf("DNS alone, and excluded: %v", err)
	}
}

func TestParseLists(t *testing.T) {
	type parse = func(string) (string, error)
	str := func(s interface{ String() string }, err error) (string, error) { return s.String(), err }
	ports := func(s string) (string, error) { l, err := intercept.ParsePorts(s); return str(l, err) }
	ids := func(s string) (string, error) { l, err := intercept.ParseIDs(s); return str(l, err) }
	cidrs := func(s string) (string, error) { l, err := intercept.ParseCIDRs(s); return str(l, err) }
	tests := []struct {
		parse    parse
		in, want string // want begins with "error:" and names the token
	}{
		{ports, "80", "80"},
		{ports, " 80 , 8000-8010 ", "80,8000-8010"},
		{ports, "*", "*"},
		{ports, "1-65535", "*"},
		{ports, "none", "none"},
		{ports, "", `error:write "none"`},
		{ports, "80,,90", `error:"80,,90"`},
		{ports, "80,", `error:"80,"`},
		{ports, "80,*", `error:"*"`},
		{ports, "80,none", `error:"none"`},
		{ports, "0", `error:"0"`},
		{ports, "65536", `error:"65536"`},
		{ports, "80-70", `error:70-80`},
		{ports, "http", `error:"http"`},
		{ports, "-b", `error:looks like a flag`},
		{ports, "+80", `error:"+80"`},
		{ports, "080", `error:"080"`},
		{ports, "80-", `error:"80-"`},
		{ports, "70000,90-80,x", `error:"x"`},
		{ids, "0,1337,2000-4294967294", "0,1337,2000-4294967294"},
		{ids, "-1", `error:"-1"`},
		{ids, "4294967295", `error:"4294967295"`},
		{ids, "99999999999", `error:"99999999999"`},
		{ids, "root", `error:names are not accepted`},
		{ids, "*", `error:"*"`},
		{cidrs, "10.0.0.0/8, fd00::/8,192.0.2.7", "10.0.0.0/8,fd00::/8,192.0.2.7"},
		{cidrs, "*", "*"},
		{cidrs, "0.0.0.0/0,::/0", "*"},
		{cidrs, "10.0.0.1/8", `error:write 10.0.0.0/8`},
		{cidrs, "::ffff:10.0.0.1", `error:"::ffff:10.0.0.1/128"`},
		{cidrs, "10.0.0.0/33", `error:"10.0.0.0/33"`},
		{cidrs, "fe80::1%eth0", `error:"%eth0"`},
		{cidrs, "example.com", `error:"example.com"`},
	}
	for _, tt := range tests {
		got, err := tt.parse(tt.in)
		if token, bad := strings.CutPrefix(tt.want, "error:"); bad {
			if err == nil || !strings.Contains(err.Error(), token) {
				t.Errorf("%q: error %v does not name %s", tt.in, err, token)
			}
		} else if err != nil || got != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	// All bad items are named, not the first alone.
	_, err := intercept.ParsePorts("70000,90-80,x")
	for _, token := range []string{"70000", "90-80", `"x"`} {
		if !strings.Contains(err.Error(), token) {
			t.Errorf("%v does not name %s", err, token)
		}
	}
}

func TestMerge(t *testing.T) {
	ports, err := intercept.ParsePorts("90,80-85,86,81,65535,100-200,150-160,65000-65534")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ports.Merge().String(), "80-86,90,100-200,65000-65535"; got != want {
		t.Errorf("ports: %s, want %s", got, want)
	}
	cidrs, err := intercept.ParseCIDRs(
		"10.128.0.0/9,10.0.0.0/9,192.0.2.1,192.0.2.2,fd00::/8,fc00::/8,255.255.255.255,10.1.0.0/16,::/128,ff00::/8")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range cidrs.Merge() {
		got = append(got, r.String())
	}
	if diff := cmp.Diff([]string{"10.0.0.0/8", "192.0.2.1-192.0.2.2", "255.255.255.255", "::", "fc00::/7", "ff00::/8"},
		got); diff != "" {
		t.Error(diff)
	}
}

// TestMergeKeepsMembers: a merged list holds what the list held.
func TestMergeKeepsMembers(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := gen.Config(r)
		list := slices.Concat(c.Outbound.ExcludeCIDRs, c.Outbound.IncludeCIDRs, c.Inbound.ExcludeSources)
		merged := list.Merge()
		for range 50 {
			a := gen.Packet(r).Dst.Addr()
			in := slices.ContainsFunc(merged, func(m intercept.AddrRange) bool {
				return intercept.FamilyOf(a) == intercept.FamilyOf(m.First) && m.First.Compare(a) <= 0 && a.Compare(m.Last) <= 0
			})
			if in != list.Contains(a) {
				t.Fatalf("%s: in %s %v, in %v %v", a, list, list.Contains(a), merged, in)
			}
		}
	}
}

func TestResolvConf(t *testing.T) {
	text := "# a comment\nsearch a.b c.d\nnameserver 10.96.0.10\nnameserver\t fd00::10 # why\n nameserver 10.96.0.10\n" +
		"nameserver fe80::1%eth0\nnameserver nonsense\nnameserver\noptions ndots:5\nnameserver 127.0.0.53\nnameserver " +
		"::ffff:192.0.2.1\nnameserver 0.0.0.0\n;nameserver 9.9.9.9\nnameserver 192.0.2.5"
	var got []string
	for _, a := range intercept.ParseResolvConf(text) {
		got = append(got, a.String())
	}
	if diff := cmp.Diff([]string{"10.96.0.10", "fd00::10", "fe80::1", "127.0.0.53", "192.0.2.1", "192.0.2.5"},
		got); diff != "" {
		t.Error(diff)
	}
	if got := intercept.ParseResolvConf(""); got != nil {
		t.Errorf("empty file: %v", got)
	}
}

var sameConfig = cmp.Options{
	cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{})}

// TestConfigRoundTrip: what is written as JSON is read back the same.
func TestConfigRoundTrip(t *testing.T) {
	for seed := range uint64(1000) {
		c := gen.Config(rand.New(rand.NewPCG(seed, 2)))
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "null") {
			t.Fatalf("mesh-init would refuse the null in %s", b)
		}
		got := intercept.Default()
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := cmp.Diff(c, got, sameConfig); diff != "" {
			t.Fatalf("%s\n%s", b, diff)
		}
	}
}

// FuzzDecode: any bytes decode to an error or to a value, never both, and
// without a panic; a value survives being written and read.
func FuzzDecode(f *testing.F) {
	b, err := json.Marshal(intercept.Default())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(b), `{}`, `null`, `{"outbound":{"excludePorts":[80,"90-99"]}}`,
		`{"outbound":{"excludePorts":"80,,"}}`,
		`{"proxy":{"uids":null}}`, `{"outbound":{"includeCIDRs":[null]}}`, `{"dns":{"servers":["x"]}}`,
		`{"outbound":{"exclude":[{"protocol":"udp"}]}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := intercept.Default()
		if err := json.Unmarshal(b, &c); err != nil {
			return
		}
		rs, err := intercept.Compile(c)
		if (err == nil) == reflect.ValueOf(rs).IsZero() {
			t.Fatalf("Compile returned %v and %v", rs, err)
		}
		if err != nil {
			return
		}
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again := intercept.Default()
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if diff := cmp.Diff(c, again, sameConfig); diff != "" {
			t.Fatal(diff)
		}
	})
}
