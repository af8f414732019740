package podspec

import (
	"errors"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// limited reads annotations under limits, beside the one that enables interception.
func limited(l Limits, defaults intercept.Config, pairs ...string) error {
	_, err := Read(ours(append([]string{Enabled, "true"}, pairs...)...),
		Options{Defaults: defaults, Limits: l, NeedNameservers: true})
	return err
}

// TestDefaultLimits: what sidecars are configured with in earnest is allowed, and
// what captures nobody is refused, however it is written.
func TestDefaultLimits(t *testing.T) {
	if err := DefaultLimits().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, pairs := range map[string][]string{
		"proxy IDs":     {"proxy-uid", "2102", "proxy-gid", "2102,1337"},
		"a mark":        {"proxy-mark", "0x539/0xfff"},
		"Istio's kinds": {"outbound-exclude-ports", "3306,6379,8000-9000", "outbound-include-cidrs", "10.96.0.0/12"},
		"private networks": {"outbound-exclude-cidrs",
			"10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7"},
		"a gateway":              {"inbound-mode", "off", "dns", "all"},
		"probes":                 {"inbound-exclude-ports", "15020,8080", "inbound-exclude-sources", "10.0.0.0/8"},
		"exclusions":             {"outbound-exclude", "udp :53; tcp 10.0.0.0/8:1-65535; uid=1000-1999; 0.0.0.0/0:5432"},
		"inbound exclusions":     {"inbound-exclude", "0.0.0.0/0:9090; 10.0.0.0/8"},
		"users":                  {"exclude-uids", "1000-1999", "include-gids", "1-4000000000"},
		"interfaces":             {"exclude-interfaces", "net*,eth1", "virtual-interfaces", "k6t-*"},
		"no root proxy, said":    {"allow-root-proxy", "false"},
		"the whole of the RTP":   {"outbound-exclude-ports", "10000-20000"},
		"all that defaults have": {ConfigField, `{"proxy":{"uids":[1337],"gids":[1337]}}`},
	} {
		if err := limited(DefaultLimits(), intercept.Default(), pairs...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct {
		pairs []string
		want  string
	}{
		"everybody the proxy": {[]string{"proxy-uid", "0-4294967294", "allow-root-proxy", "true"},
			`annotation intercept.mesh/proxy-uid: proxy.uids: "0-4294967294" is 4294967295 IDs, and annotations may name 16; ` +
				`ask for less, or have the node's operator set "proxy-uid" in annotationLimits (docs/cni.md), where it is 16`},
		"all but root": {[]string{"proxy-uid", "1-4294967294"}, `is 4294967294 IDs`},
		"by their groups": {[]string{"proxy-gid", "1000-2000"},
			`intercept.mesh/proxy-gid: proxy.gids: "1000-2000" is 1001 IDs`},
		"in two halves": {[]string{"proxy-uid", "1-10,11-20"}, `is 20 IDs`},
		"by config": {[]string{ConfigField, `{"proxy":{"uids":["5-4294967294"]}}`},
			"intercept.mesh/config: proxy.uids: "},
		"a root proxy": {[]string{"allow-root-proxy", "true", "proxy-uid", "0"},
			"proxy.allowRoot: \"true\" is not for annotations"},
		"all ports":        {[]string{"outbound-exclude-ports", "*"}, `"*" is 65535 ports, and annotations may name 16384`},
		"ports one by one": {[]string{"outbound-exclude-ports", oneByOne(1, 20000)}, "is 20000 ports"},
		"inbound ports":    {[]string{"inbound-exclude-ports", "1-65535"}, "is 65535 ports"},
		"all networks":     {[]string{"outbound-exclude-cidrs", "*"}, "is more of IPv4 than annotations may name"},
		"halves of IPv4": {[]string{"outbound-exclude-cidrs", "0.0.0.0/1,128.0.0.0/1"},
			"together as many addresses as a /6"},
		"all of IPv6":      {[]string{"outbound-exclude-cidrs", "::/0"}, "is more of IPv6"},
		"all clients":      {[]string{"inbound-exclude-sources", "0.0.0.0/0"}, "inbound.excludeSources: "},
		"all users":        {[]string{"exclude-uids", "0-4294967294"}, "outbound.excludeUIDs: "},
		"all groups":       {[]string{"exclude-gids", "1000-3000"}, "is 2001 IDs"},
		"an exclusion":     {[]string{"outbound-exclude", "tcp"}, `outbound.exclude: "tcp" leaves too much alone`},
		"of all addresses": {[]string{"outbound-exclude", "0.0.0.0/0; ::/0"}, `"0.0.0.0/0" leaves too much alone`},
		"many exclusions": {[]string{"outbound-exclude", "tcp :1-16000; tcp :16001-32000; tcp :32001-48000"},
			`together leaves too much alone: its part in outbound-exclude-ports is 48000 ports`},
		"inbound": {[]string{"inbound-exclude", ":1-65535"}, `inbound.exclude: ":*" leaves too much alone`},
		"eth0":    {[]string{"exclude-interfaces", "net1,eth0"}, `excludeInterfaces: "eth0" is not for annotations to name`},
		"e*":      {[]string{"exclude-interfaces", "e*"}, `"e*" is not for annotations to name`},
		"a VM":    {[]string{"virtual-interfaces", "eth*"}, `virtualInterfaces: "eth*"`},
	} {
		err := limited(DefaultLimits(), intercept.Default(), tt.pairs...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", name, err, tt.want)
			continue
		}
		for _, e := range strict.Flatten(err) {
			limit, is := errors.AsType[*LimitError](e)
			if annotation, ok := errors.AsType[*Error](e); !ok || annotation.Annotation == "" || !is ||
				DefaultLimits()[limit.Name] == nil {
				t.Errorf("%s: %T, %v", name, e, e)
			}
		}
		// Whoever may decide all has no limits.
		if err := limited(nil, intercept.Default(), tt.pairs...); err != nil {
			if _, is := errors.AsType[*LimitError](err); is {
				t.Errorf("%s, without limits: %v", name, err)
			}
		}
	}
}

// oneByOne writes each port of a range by itself.
func oneByOne(from, to uint16) string {
	var all []string
	for p := from; p <= to; p++ {
		all = append(all, intercept.Port(p).String())
	}
	return strings.Join(all, ",")
}

// TestLimits: each kind of bound, on each kind of field.
func TestLimits(t *testing.T) {
	wide := intercept.Default()
	wide.Proxy.UIDs = intercept.IDs{{First: 1000, Last: 65535}}
	wide.Outbound.Exclude = []intercept.Exclusion{{Protocol: intercept.TCP}}
	for name, tt := range map[string]struct {
		limits   Limits
		defaults intercept.Config
		pairs    []string
		want     string // "": it is allowed
	}{
		"fixed": {Limits{"dns": Fixed{}}, intercept.Default(), []string{"dns", "all"},
			`"all" is not for annotations to choose, and the node has off`},
		"fixed, as it is": {Limits{"dns": Fixed{}}, intercept.Default(), []string{"dns", "off"}, ""},
		"free":            {Limits{"proxy-uid": Free{}}, intercept.Default(), []string{"proxy-uid", "1-9999"}, ""},
		"wide defaults":   {DefaultLimits(), wide, nil, ""},
		"said again":      {DefaultLimits(), wide, []string{"proxy-uid", "1000-65535", "outbound-exclude", "tcp"}, ""},
		"and one more":    {DefaultLimits(), wide, []string{"proxy-uid", "999-65535"}, "is 64537 IDs"},
		"rule beside":     {DefaultLimits(), wide, []string{"outbound-exclude", "tcp; :80"}, ""},
		"one of": {Limits{"inbound-mode": OneOf{"redirect", "tproxy"}}, intercept.Default(),
			[]string{"inbound-mode", "off", "dns", "all"}, `"off" is not one of those`},
		"one of, and it": {Limits{"inbound-mode": OneOf{"redirect", "tproxy"}}, intercept.Default(),
			[]string{"inbound-mode", "tproxy"}, ""},
		"none of": {Limits{"backstop": NoneOf{"off"}}, intercept.Default(), []string{"backstop", "off"},
			`"off" is not for annotations`},
		"none of, another": {Limits{"backstop": NoneOf{"off"}}, intercept.Default(), []string{"backstop", "syn"}, ""},
		"names": {Limits{"exclude-interfaces": OneOf{"net*", "lo0"}}, intercept.Default(),
			[]string{"exclude-interfaces", "net1,net2*,lo0"}, ""},
		"other names": {Limits{"exclude-interfaces": OneOf{"net*"}}, intercept.Default(),
			[]string{"exclude-interfaces", "net1,n*"}, `"n*" is not one of`},
		"a rule by fixed": {Limits{"outbound-exclude": ByProperty{}, "outbound-exclude-ports": Fixed{}}, intercept.Default(),
			[]string{"outbound-exclude", ":80"}, `":80" leaves too much alone`},
		"a rule by free": {Limits{"outbound-exclude": ByProperty{}}, intercept.Default(),
			[]string{"outbound-exclude", ":*"}, ""},
		"beside a mistake": {DefaultLimits(), intercept.Default(), []string{"proxy-uid", "1-99", "dns", "x"},
			`intercept.mesh/dns: "x" is not one of`},
		"and both are said": {DefaultLimits(), intercept.Default(), []string{"proxy-uid", "1-99", "dns", "x"}, "is 99 IDs"},
		"what cannot be read has no limit": {DefaultLimits(), intercept.Default(), []string{"proxy-uid", "1-99,x"},
			`"x" is not a user or group ID`},
	} {
		err := limited(tt.limits, tt.defaults, tt.pairs...)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

// TestLimitsValidate: a bound that a field cannot have is refused, and each field
// has one that it can.
func TestLimitsValidate(t *testing.T) {
	for want, l := range map[string]Limits{
		"proxy-uuid: no annotation of a field; did you mean proxy-uid?": {"proxy-uuid": Fixed{}},
		`enabled: no annotation of a field`:                             {"enabled": Fixed{}},
		`proxy-uid: "/6" is no bound of this annotation; write "free", "fixed", a number`: {
			"proxy-uid": Network(6)},
		`outbound-exclude-cidrs: 6 is no bound`:         {"outbound-exclude-cidrs": Most(6)},
		`outbound-exclude-cidrs: "/33" is not`:          {"outbound-exclude-cidrs": Network(33)},
		`inbound-mode: "on" is not one of redirect`:     {"inbound-mode": OneOf{"on"}},
		`tunnel-port: ["!1"] is no bound`:               {"tunnel-port": NoneOf{"1"}},
		`outbound-exclude: 5 is no bound`:               {"outbound-exclude": Most(5)},
		`outbound-exclude-ports: "by-property" is no b`: {"outbound-exclude-ports": ByProperty{}},
	} {
		if err := l.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: %v; want %s", l, err, want)
		}
	}
	for _, f := range decode.Fields() {
		for _, b := range []Bound{Free{}, Fixed{}} {
			if err := (Limits{f.Name: b}).Validate(); err != nil {
				t.Error(err)
			}
		}
	}
}

// FuzzLimits holds that under the default limits no annotations make the proxy
// more than a few, or leave alone more than a part of what there is.
func FuzzLimits(f *testing.F) {
	f.Add("proxy-uid", "0-4294967294", "outbound-exclude-cidrs", "10.0.0.0/8,::/0", "config", "{}")
	f.Add("outbound-exclude", "udp :53; 10.0.0.0/8:1-2 uid=3", "exclude-uids", "1-9", "inbound-exclude", "10.0.0.0/8:9")
	f.Add("config", `{"proxy":{"gids":["1-9"]},"outbound":{"exclude":[{"ports":"*"}]}}`,
		"exclude-interfaces", "e*", "dns", "all")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3 string) {
		spec, err := Read(ours(Enabled, "true", k1, v1, k2, v2, k3, v3),
			Options{Defaults: intercept.Default(), Limits: DefaultLimits()})
		if err != nil || spec.Reason != Asked {
			return
		}
		c := spec.Config
		for _, ids := range []intercept.IDs{c.Proxy.UIDs, c.Proxy.GIDs} {
			if n, _ := count(ids); n > 16 {
				t.Fatalf("%s are the proxy", ids)
			}
		}
		if c.Proxy.AllowRoot {
			t.Fatal("root may be the proxy")
		}
		var ports intercept.Ports
		ports = append(ports, c.Outbound.ExcludePorts...)
		for _, e := range c.Outbound.Exclude {
			if len(e.CIDRs) == 0 && len(e.UIDs) == 0 && len(e.GIDs) == 0 {
				if len(e.Ports) == 0 {
					t.Fatalf("%s excludes everything", e)
				}
				ports = append(ports, e.Ports...)
			}
		}
		if n, _ := count(ports); n > 2*16384 {
			t.Fatalf("%d ports are left alone", n)
		}
		if c.Outbound.ExcludeCIDRs.All() || c.Inbound.ExcludeSources.All() {
			t.Fatal("all addresses are left alone")
		}
	})
}
