package intercept_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yaml3 "go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept"
)

// TestUnmarshalIsStrict: whatever library a program reads a Config with, a
// mistake in it is an error that names the field, in every part of it.
func TestUnmarshalIsStrict(t *testing.T) {
	libraries := map[string]func([]byte, any) error{
		"encoding/json":      func(b []byte, c any) error { return json.Unmarshal(b, c) },
		"sigs.k8s.io/yaml":   func(b []byte, c any) error { return sigsyaml.Unmarshal(b, c) },
		"go.yaml.in/yaml/v3": func(b []byte, c any) error { return yaml3.Unmarshal(b, c) },
		"within another struct": func(b []byte, c any) error {
			var outer struct {
				Mesh *intercept.Config `json:"mesh"`
			}
			outer.Mesh = c.(*intercept.Config)
			return json.Unmarshal([]byte(`{"mesh":`+string(b)+`}`), &outer)
		},
	}
	for text, want := range map[string]string{
		`{"outbound": {"excludePort": [80]}}`: "outbound.excludePort: unknown field; did you mean excludePorts?",
		`{"excludePorts": [80]}`: "excludePorts: unknown field; did you mean outbound.excludePorts " +
			"or inbound.excludePorts?",
		`{"Outbound": {}}`:                             "Outbound: unknown field; did you mean outbound?",
		`{"outbound": {"exclude": [{"port": 80}]}}`:    "outbound.exclude[0].port: unknown field; did you mean ports?",
		`{"inbound": {"tproxy": {"marks": 1}}}`:        "inbound.tproxy.marks: unknown field; did you mean mark?",
		`{"outbound": []}`:                             "outbound: a list where fields belong",
		`{"dns": {"servers": "x"}}`:                    `dns.servers: "x" is not an address`,
		`{"dns": {"servers": {"a": "x"}}}`:             "dns.servers: a mapping where a list belongs",
		`{"tunnelPort": "http"}`:                       `tunnelPort: "http" is not a port`,
		`{"outbound": {"excludePorts": [80, 443, 0]}}`: `outbound.excludePorts: port "0"`,
		`{"proxy": {"allowRoot": 1}}`:                  `proxy.allowRoot: "1" is not true or false`,
		`{"outbound": {"exclude": ["udp :0"]}}`:        `outbound.exclude[0]: ":0": port "0"`,
		`{"inbound": {"exclude": ["tcp :1"]}}`:         "inbound.exclude[0]: write clients and ports in one word",
		`{"outbound": {"excludeCIDRs": ["10.0.0.0"]}}`: `outbound.excludeCIDRs: "10.0.0.0" looks like a network, whose ` +
			`size is missing; write it, as in 10.0.0.0/8, or write 10.0.0.0/32`,
		`{"outbound": {"excludePorts": "80;443"}}`: `outbound.excludePorts: "80;443": commas separate the items of a ` +
			`list; write 80,443`,
		`{"families": {"ipv4": true}}`:                   "families: a mapping where one value belongs",
		`{"dns": {"servers": ["10.0.0.1", {"a": "b"}]}}`: "dns.servers[1]: a mapping where one value belongs",
	} {
		for name, unmarshal := range libraries {
			c := intercept.Default()
			err := unmarshal([]byte(text), &c)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v; want %q", name, text, err, want)
				continue
			}
			if field, ok := errors.AsType[*intercept.FieldError](err); !ok || field.Field == "" {
				t.Errorf("%s: %s: %T", name, text, err)
			}
		}
	}
	var c intercept.Config
	if err := json.Unmarshal([]byte(`{"tunnelPort": 1, "tunnelPort": 2}`), &c); err == nil ||
		!strings.Contains(err.Error(), `tunnelPort: "tunnelPort" is there twice`) {
		t.Errorf("a field twice: %v", err)
	}
	if err := yaml3.Unmarshal([]byte("tunnelPort: 1\ntunnelPort: 2\n"), &c); err == nil {
		t.Error("a field twice, in YAML")
	}
	err := json.Unmarshal([]byte("{\"dns\": {},\n\"proxy\": {\n\"uids\": [1,\n\"root\"]}}"), &c)
	if field, ok := errors.AsType[*intercept.FieldError](err); !ok || field.Line != 4 || field.Field != "proxy.uids" {
		t.Errorf("%+v", err)
	}
}

// TestYAMLOff: YAML 1.1's words for false are words where the library leaves
// them so, and else an error that says what to do.
func TestYAMLOff(t *testing.T) {
	const text = "inbound: {mode: off}\n"
	c := intercept.Default()
	if err := yaml3.Unmarshal([]byte(text), &c); err != nil || c.Inbound.Mode != intercept.InboundOff {
		t.Errorf("go.yaml.in/yaml/v3: %v, mode %q", err, c.Inbound.Mode)
	}
	c = intercept.Default()
	err := sigsyaml.Unmarshal([]byte(text), &c)
	if err == nil || !strings.Contains(err.Error(), `inbound.mode: false where a word belongs`) ||
		!strings.Contains(err.Error(), `quote it, as in "off"`) {
		t.Errorf("sigs.k8s.io/yaml: %v, mode %q", err, c.Inbound.Mode)
	}
	if err := sigsyaml.Unmarshal([]byte(`inbound: {mode: "off"}`), &c); err != nil ||
		c.Inbound.Mode != intercept.InboundOff {
		t.Errorf("sigs.k8s.io/yaml, quoted: %v, mode %q", err, c.Inbound.Mode)
	}
	if err := yaml3.Unmarshal([]byte("tunnelPort: 0010"), &c); err == nil {
		t.Errorf("0010 is %d", c.TunnelPort)
	}
}

// TestExclusionForms: an exclusion may be written as text or as fields.
func TestExclusionForms(t *testing.T) {
	want := []intercept.Exclusion{
		{
			Protocol: intercept.UDP,
			CIDRs:    mustCIDRs(t, "10.0.0.0/8"),
			Ports:    intercept.Ports{{First: 5000, Last: 6000}},
			UIDs:     intercept.IDs{{First: 1000, Last: 1999}},
		},
	}
	const text, fields = `"udp 10.0.0.0/8:5000-6000 uid=1000-1999"`,
		`{"protocol": "udp", "cidrs": "10.0.0.0/8", "ports": ["5000-6000"], "uids": "1000-1999"}`
	for _, form := range []string{text, fields} {
		for name, unmarshal := range map[string]func([]byte, any) error{
			"json": json.Unmarshal, "v3": yaml3.Unmarshal, "sigs": func(b []byte, v any) error {
				return sigsyaml.Unmarshal(b,
					v)
			},
		} {
			var c intercept.Config
			var e intercept.Exclusion
			if err := errors.Join(unmarshal([]byte(`{"outbound": {"exclude": [`+form+`]}}`), &c), unmarshal([]byte(form),
				&e)); err != nil {
				t.Errorf("%s: %s: %v", name, form, err)
			}
			if diff := cmp.Diff(want, c.Outbound.Exclude, sameConfig) + cmp.Diff(want[0], e, sameConfig); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, form, diff)
			}
			var in intercept.InboundExclusion
			if err := unmarshal([]byte(`"[fd00::/8]:80"`), &in); err != nil || in.String() != "[fd00::/8]:80" {
				t.Errorf("%s: %v, %v", name, in, err)
			}
		}
	}
	if b, err := json.Marshal(want[0]); err != nil ||
		string(b) != `{"protocol":"udp","cidrs":["10.0.0.0/8"],"ports":["5000-6000"],"uids":["1000-1999"]}` {
		t.Errorf("%s, %v", b, err)
	}
}

// TestLibrariesWriteWhatTheyRead: a Config comes back as it was.
func TestLibrariesWriteWhatTheyRead(t *testing.T) {
	c := intercept.Default()
	c.Inbound.Mode = intercept.InboundOff
	c.Outbound.Exclude = []intercept.Exclusion{{Protocol: intercept.TCP, Ports: intercept.Ports{intercept.Port(53)}}}
	c.Inbound.Exclude = []intercept.InboundExclusion{{Sources: mustCIDRs(t, "fd00::/8")}}
	c.Outbound.Target = []netip.AddrPort{netip.MustParseAddrPort("[fd00::1]:1")}
	c.Proxy.Mark = intercept.Mark{Value: 0x700, Mask: 0xf00}
	for name, l := range map[string]struct {
		marshal   func(any) ([]byte, error)
		unmarshal func([]byte, any) error
	}{
		"encoding/json":      {json.Marshal, json.Unmarshal},
		"go.yaml.in/yaml/v3": {yaml3.Marshal, yaml3.Unmarshal},
		"sigs.k8s.io/yaml":   {sigsyaml.Marshal, func(b []byte, v any) error { return sigsyaml.UnmarshalStrict(b, v) }},
	} {
		b, err := l.marshal(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var back intercept.Config
		if err := l.unmarshal(b, &back); err != nil {
			t.Errorf("%s: %v\n%s", name, err, b)
		} else if diff := cmp.Diff(c, back, sameConfig); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", name, diff, b)
		}
	}
}

// TestErrorsInOrder: the errors of a Config are in the order of its fields,
// each time.
func TestErrorsInOrder(t *testing.T) {
	c := intercept.Default()
	c.Families, c.TunnelPort, c.Outbound.UDP, c.Proxy = "x", 15001, "x", intercept.Proxy{}
	c.Inbound.Mode, c.Inbound.TProxy = intercept.InboundTProxy, intercept.TProxyMarks{}
	c.DNS.Target = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}
	want := []string{
		"proxy",
		"outbound.udp",
		"inbound.tproxy.mark",
		"inbound.tproxy.selfMark",
		"inbound.tproxy.selfMark",
		"inbound.tproxy.table",
		"dns.target",
		"dns.target",
		"dns.target",
		"tunnelPort",
		"families",
	}
	for range 20 {
		var got []string
		for _, err := range c.Validate().(interface{ Unwrap() []error }).Unwrap() {
			got = append(got, err.(*intercept.FieldError).Field)
			if strings.Contains(err.Error(), "--") {
				t.Errorf("%v: the library has no flags", err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

// TestLint: what is advised can be written so.
func TestLint(t *testing.T) {
	c := intercept.Default()
	c.DNS = intercept.DNS{
		Mode:    intercept.DNSResolvConf,
		Port:    15053,
		Servers: []netip.Addr{netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("fd00::")},
	}
	c.Outbound.ExcludeCIDRs = mustCIDRs(t, "10.0.0.0/8,fd00::/8")
	warnings := intercept.Lint(c)
	if len(warnings) != 2 {
		t.Fatalf("%q", warnings)
	}
	for i, w := range warnings {
		_, advice, _ := strings.Cut(w, `add "`)
		advice, _, _ = strings.Cut(advice, `"`)
		e, err := intercept.ParseExclusion(advice)
		if err != nil || !e.CIDRs.Contains(c.DNS.Servers[i]) || !e.Ports.Contains(53) {
			t.Errorf("%s: %v, %v", w, e, err)
		}
	}
}

// TestLintDirections: where nothing of a direction is captured, although something is included, that is said once.
func TestLintDirections(t *testing.T) {
	exclude := func(text string) func(*intercept.Config) {
		return func(c *intercept.Config) {
			e, err := intercept.ParseExclusion(text)
			if err != nil {
				t.Fatal(err)
			}
			c.Outbound.Exclude = append(c.Outbound.Exclude, e)
		}
	}
	for _, test := range []struct {
		want   string
		change func(*intercept.Config)
	}{
		{"", exclude("tcp :1-65534")},
		{"", exclude("tcp :1-65535 uid=7")},
		{"", func(c *intercept.Config) { c.Outbound.IncludeCIDRs = nil }},
		{"", func(c *intercept.Config) { c.Outbound.IncludeCIDRs = mustCIDRs(t, "10.0.0.0/8") }},
		{"", func(c *intercept.Config) { c.Inbound.IncludePorts = nil }},
		{"", func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundOff }},
		{"no outbound connection is captured: all", exclude("tcp :1-65535")},
		{"no outbound connection is captured: all", exclude("0.0.0.0/0,::/0")},
		{"no outbound connection over IPv4 is captured: all", exclude("0.0.0.0/0")},
		{"no outbound connection is captured: all", func(c *intercept.Config) {
			c.Outbound.ExcludePorts = intercept.AllPorts()
		}},
		{"no outbound connection is captured: all", func(c *intercept.Config) {
			c.Outbound.IncludeCIDRs, c.Families = mustCIDRs(t, "fd00::/8"), intercept.FamiliesIPv4
		}},
		{"no inbound connection over IPv4 is captured: all", func(c *intercept.Config) {
			c.Inbound.ExcludeSources = mustCIDRs(t, "0.0.0.0/0")
		}},
		{"no inbound connection is captured: all", func(c *intercept.Config) {
			c.Inbound.ExcludeSources, c.Families = mustCIDRs(t, "0.0.0.0/0"), intercept.FamiliesIPv4
		}},
	} {
		c := intercept.Default()
		test.change(&c)
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(intercept.Lint(c), "\n")
		if !strings.HasPrefix(got, test.want) || test.want == "" && got != "" || strings.Contains(got, "\n") {
			t.Errorf("%q; want %q", got, test.want)
		}
	}
}

// TestLintProxy: who else can pass as the proxy by what a configuration calls it.
func TestLintProxy(t *testing.T) {
	for want, change := range map[string]func(*intercept.Proxy){
		"": func(p *intercept.Proxy) { p.UIDs = mustIDs(t, "1337,2000-2014") },
		"proxy.uids has 17 users: nothing is captured": func(p *intercept.Proxy) { p.UIDs = mustIDs(t, "1-17,5") },
		"proxy.gids has 4294967294 groups: nothing is": func(p *intercept.Proxy) { p.GIDs = mustIDs(t, "1-4294967294") },
		"proxy.uids has 0: nothing is captured of what runs as root": func(p *intercept.Proxy) {
			p.UIDs, p.AllowRoot = mustIDs(t, "0"), true
		},
	} {
		c := intercept.Default()
		change(&c.Proxy)
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(intercept.Lint(c), "\n")
		if !strings.HasPrefix(got, want) || want == "" && got != "" || strings.Contains(got, "\n") {
			t.Errorf("%s; want %s", got, want)
		}
	}
}

func mustIDs(t *testing.T, s string) intercept.IDs {
	t.Helper()
	ids, err := intercept.ParseIDs(s)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestInterfaceNames: a name that stands for something else in a list is refused.
func TestInterfaceNames(t *testing.T) {
	for name, want := range map[string]string{
		"none": "empty list", "a b": `" " cannot be in`, "/a": "cannot be in", ";a": "cannot be in", "eth0:1": `":" cannot`,
		"a,b": "by its beginning: a*", `we$ird;"x`: "by its beginning: we$ird*", "blau\u00e4": "by its beginning: blau*",
	} {
		c := intercept.Default()
		c.ExcludeInterfaces = []string{name}
		field, ok := errors.AsType[*intercept.FieldError](c.Validate())
		if !ok || field.Field != "excludeInterfaces" || !strings.Contains(field.Error(), want) {
			t.Errorf("%q: %v", name, c.Validate())
		}
	}
}
