package yamldoc_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

const exampleFile = `# All that can be said.
proxy:
  uids: [1337, "2000-2999"]
  gids: 1337
  allowRoot: false
outbound:
  port: "15001-15004"
  includeCIDRs: "*"
  excludeCIDRs: [10.0.0.0/8, "fd00::/8"]
  includePorts: none
  excludePorts: [25, 8000-8010]
  exclude:
  - {protocol: udp, cidrs: 10.0.0.0/8, ports: [5000-6000], uids: 1000-1999}
  - gids: [7]
  includeUIDs: []
  includeGIDs: []
  excludeUIDs: [4294967294]
  excludeGIDs: []
inbound:
  mode: off
  port: 15006
  includePorts: []
  excludePorts: "15020,15021"
  excludeSources: 10.9.0.0/16
  dropInvalid: true
  hairpin: pass
dns:
  mode: resolvconf
  port: 15053
  servers: [10.0.0.10, "fd00::10"]
tunnelPort: 0
excludeInterfaces: [net1, "br-*"]
loopback: [127.0.0.0/8, "::1"]
passthroughSources: []
families: ipv4
`

// decodeFile reads a file over c.
func decodeFile(data []byte, c *intercept.Config) (unread []string, err error) {
	n, err := yamldoc.Parse(data)
	if err != nil {
		return []string{""}, err
	}
	return n.Into(c)
}

func equalConfigs(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{}))
}

func mustCIDRs(t *testing.T, s string) intercept.CIDRs {
	t.Helper()
	c, err := intercept.ParseCIDRs(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDecodeFile(t *testing.T) {
	c := intercept.Default()
	if _, err := decodeFile([]byte(exampleFile), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	port := intercept.Port
	defaults := intercept.Default()
	want := intercept.Config{
		OtherFamily: intercept.TreatmentPass,
		Proxy: intercept.Proxy{
			UIDs: intercept.IDs{intercept.ID(1337), {First: 2000, Last: 2999}},
			GIDs: intercept.IDs{intercept.ID(1337)},
		},
		Outbound: intercept.Outbound{
			Port:         intercept.PortRange{First: 15001, Last: 15004},
			IncludeCIDRs: intercept.AllCIDRs(),
			ExcludeCIDRs: mustCIDRs(t, "10.0.0.0/8,fd00::/8"),
			ExcludePorts: intercept.Ports{port(25), {First: 8000, Last: 8010}},
			Exclude: []intercept.Exclusion{
				{
					Protocol: intercept.UDP,
					CIDRs:    mustCIDRs(t, "10.0.0.0/8"),
					Ports:    intercept.Ports{{First: 5000, Last: 6000}},
					UIDs:     intercept.IDs{{First: 1000, Last: 1999}},
				},
				{GIDs: intercept.IDs{intercept.ID(7)}},
			},
			ExcludeUIDs: intercept.IDs{intercept.ID(intercept.MaxID)},
			UDP:         intercept.TreatmentPass,
			QUIC:        intercept.TreatmentPass,

			OtherProtocols: intercept.TreatmentPass,
		},
		Inbound: intercept.Inbound{
			Mode: intercept.InboundOff, Port: port(15006), TProxy: defaults.Inbound.TProxy,
			ExcludePorts: intercept.Ports{
				port(15020),
				port(15021),
			}, ExcludeSources: mustCIDRs(t, "10.9.0.0/16"), DropInvalid: true, Hairpin: intercept.HairpinPass,
		},
		DNS:               intercept.DNS{Mode: intercept.DNSResolvConf, Port: 15053, TCP: true, Virtual: true},
		ExcludeInterfaces: []string{"net1", "br-*"},
		Loopback:          mustCIDRs(t, "127.0.0.0/8,::1"),
		Backstop:          intercept.BackstopOn,
		Families:          intercept.FamiliesIPv4,
	}
	for _, p := range mustCIDRs(t, "10.0.0.10,fd00::10") {
		want.DNS.Servers = append(want.DNS.Servers, p.Addr())
	}
	if diff := equalConfigs(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDecodeFileReplacesLists holds that an exclusion of a file does
// not inherit what another had in its place.
func TestDecodeFileReplacesLists(t *testing.T) {
	c := intercept.Default()
	c.Outbound.Exclude = []intercept.Exclusion{
		{Protocol: intercept.TCP, Ports: intercept.AllPorts()},
		{Protocol: intercept.UDP},
	}
	if _, err := decodeFile([]byte("outbound: {exclude: [{uids: 5}]}\npassthroughSources: [127.0.0.9]\n"),
		&c); err != nil {
		t.Fatal(err)
	}
	if diff := equalConfigs([]intercept.Exclusion{{UIDs: intercept.IDs{intercept.ID(5)}}},
		c.Outbound.Exclude); diff != "" {
		t.Errorf("exclusions (-want +got):\n%s", diff)
	}
	if len(c.PassthroughSources) != 1 {
		t.Errorf("passthrough sources %v: the default's are still there", c.PassthroughSources)
	}
}

func marshal(t *testing.T, c intercept.Config) []byte {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("null")) {
		t.Fatalf("null in %s", b)
	}
	return b
}

// FuzzDecodeFile holds that any bytes give an error or a configuration, and
// that a valid one comes back as it was after being written out.
func FuzzDecodeFile(f *testing.F) {
	f.Add([]byte(exampleFile))
	f.Add([]byte(`{"outbound": {"exclude": [{"protocol": "tcp", "ports": [1, "2-3"]}]}, "families": "dual"}`))
	for _, seed := range []string{
		"", "a", "- 1", "outbound:", "outbound: {port: 1", "a: &a [*a]", "x: !!binary aGVsbG8=", "proxy: {uids: 0x10}",
		"? {a: b}\n: c",
		"<<: {tunnelPort: 1}", "tunnelPort: 1\n---\ntunnelPort: 2", "dns: {servers: [[], {}, ~]}",
		"excludeInterfaces: ['a\\nb', \"\\x00\"]",
		"inbound: {port: 1, port: 2}", "inbound: [{port: 1, port: 2}]", "tunnelPort: !!int 5", "\xff\xfe",
		"%YAML 1.1\n---\ntunnelPort: 1\n...\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := intercept.Default()
		fields, err := decodeFile(data, &c)
		if err != nil {
			for _, e := range strict.Flatten(err) {
				if strings.TrimSpace(e.Error()) == "" {
					t.Fatalf("an empty error among %q", err)
				}
			}
			return
		}
		if fields != nil {
			t.Fatalf("no error, but %q could not be read", fields)
		}
		if c.Validate() != nil {
			return
		}
		first := marshal(t, c)
		var back intercept.Config
		if _, err := decodeFile(first, &back); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second := marshal(t, back); !bytes.Equal(first, second) {
			t.Fatalf("%s became %s", first, second)
		}
		var std intercept.Config
		if err := json.Unmarshal(first, &std); err != nil {
			t.Fatalf("%s: the library itself: %v", first, err)
		}
		if third := marshal(t, std); !bytes.Equal(first, third) {
			t.Fatalf("%s became %s in the library", first, third)
		}
	})
}

// TestMalformedHasALine: what cannot be parsed is said with its line, the first one too.
func TestMalformedHasALine(t *testing.T) {
	for text, line := range map[string]string{
		"tunnelPort: 1\nfamilies: \xff\n":    "line 2",
		"families: \"\xc3(\"\n":              "line 1",
		"tunnelPort: 1\n\nfamilies: a\x01\n": "line 3",
		"\x00":                               "line 1",
		"a: \u0085\n\x7f: 1\n":               "line 2",
		"families: ipv4\n" + strings.Repeat("a: 1\n", 3000) + "\xfe": "line 3002",
		strings.Repeat("[", 20000):                                   "line 1",
		"tunnelPort: 1\nx: " + strings.Repeat("[", 20000):            "line 2",
		"{a: ":    "line 1",
		"a: 'b":   "line 1",
		"a: b: c": "line 1",
	} {
		_, err := yamldoc.Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%.40q: %v; want %s", text, err, line)
		}
	}
}
