package podspec

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
)

type annotations = map[string]string

func ours(pairs ...string) annotations {
	all := annotations{"kubernetes.io/config.seen": "2026-01-01T00:00:00Z"}
	for i := 0; i < len(pairs); i += 2 {
		all[DefaultPrefix+"/"+pairs[i]] = pairs[i+1]
	}
	return all
}

func equal(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

// TestNotOurs: no annotation of a pod that is left alone is looked at.
func TestNotOurs(t *testing.T) {
	for name, tt := range map[string]struct {
		annotations annotations
		want        Reason
	}{
		"none": {nil, NotAnnotated},
		"others'": {annotations{"intercept.mesh": "x", "intercept.meshes/enabled": "true",
			"a.intercept.mesh/enabled": "true"}, NotAnnotated},
		"disabled":               {ours(Enabled, "false", "nonsense", "x"), Disabled},
		"disabled, as a block":   {ours(Enabled, "false\n", "nonsense", "x"), Disabled},
		"an init container":      {ours(Init, "container", Enabled, "true", "dns", "x"), InitContainer},
		"only an init container": {ours(Init, "container"), InitContainer},
		"not injected":           {ours(Inject, "false", "inbound-mode", "off"), Disabled},
	} {
		got, err := Read(tt.annotations, Options{Defaults: intercept.Default()})
		if err != nil || got.Reason != tt.want {
			t.Errorf("%s: %+v, %v; want %s", name, got, err, tt.want)
		}
	}
}

func TestRead(t *testing.T) {
	defaults := intercept.Default()
	defaults.TunnelPort = 16000
	c := func(change func(*intercept.Config)) intercept.Config {
		c := defaults
		change(&c)
		return c
	}
	for name, tt := range map[string]struct {
		annotations annotations
		nameservers []netip.Addr
		want        Spec
	}{
		"enabled":              {ours(Enabled, "true"), nil, Spec{Reason: Asked, Config: defaults}},
		"a sidecar of its own": {ours(Inject, "false", Enabled, "true"), nil, Spec{Reason: Asked, Config: defaults}},
		"strict": {ours(Enabled, "strict", RuntimeClass, "runc"), nil, Spec{Reason: Asked, Strict: true, Config: defaults,
			RuntimeClass: "runc"}},
		"as blocks of YAML": {ours(Enabled, "strict # as all of ours\n", RuntimeClass, "runc\n", "dns", "all\n",
			"outbound-exclude-ports", "# the database's\n5432\n\t6000-6010,\n7000\r\n", "drop-invalid", "\ttrue\n",
			"outbound-exclude", "tcp 10.0.0.0/8:5432\nudp [fd00::/8]:53 # why\n"), nil,
			Spec{Reason: Asked, Strict: true, RuntimeClass: "runc", Config: c(func(c *intercept.Config) {
				c.DNS.Mode, c.Inbound.DropInvalid = intercept.DNSAll, true
				c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432), {First: 6000, Last: 6010}, intercept.Port(7000)}
				for _, text := range []string{"tcp 10.0.0.0/8:5432", "udp [fd00::/8]:53"} {
					e, err := intercept.ParseExclusion(text)
					if err != nil {
						t.Fatal(err)
					}
					c.Outbound.Exclude = append(c.Outbound.Exclude, e)
				}
			})}},
		"fields": {ours(Enabled, "true", "outbound-exclude-ports", "5432, 6000-6010", "inbound-mode", "off", "drop-invalid",
			"true"), nil,
			Spec{Reason: Asked, Config: c(func(c *intercept.Config) {
				c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432), {First: 6000, Last: 6010}}
				c.Inbound.Mode = intercept.InboundOff
				c.Inbound.DropInvalid = true
			})}},
		"a field before config, config before the defaults": {
			ours(Enabled, "true", ConfigField, `{"tunnelPort": 1, "dns": {"mode": "all", "port": 54}}`, "dns-port", "55"), nil,
			Spec{Reason: Asked, Config: c(func(c *intercept.Config) {
				c.TunnelPort, c.DNS.Mode, c.DNS.Port = 1,
					intercept.DNSAll, 55
			})}},
		"resolvconf": {ours(Enabled, "true", "dns", "resolvconf"), []netip.Addr{netip.MustParseAddr("10.96.0.10")},
			Spec{Reason: Asked, Config: c(func(c *intercept.Config) {
				c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, []netip.Addr{netip.MustParseAddr("10.96.0.10")}
			})}},
	} {
		got, err := Read(tt.annotations, Options{Defaults: defaults, Nameservers: tt.nameservers})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := equal(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := Read(annotations{"mesh.example.org/enabled": "true", "intercept.mesh/x": "1"},
		Options{Prefix: "mesh.example.org", Defaults: defaults}); err != nil {
		t.Error(err)
	}
}

// TestErrors: each names the annotation and the token, and all are there.
func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		annotations annotations
		want        []string
	}{
		"no enabled": {ours("dns", "all"), []string{"intercept.mesh/enabled: missing beside intercept.mesh/dns"}},
		"enabled": {ours(Enabled, "yes"), []string{`annotation intercept.mesh/enabled: "yes" is not one of true, false, ` +
			`strict`}},
		"empty": {ours(Enabled, ""), []string{`intercept.mesh/enabled: "" is not one of`}},
		"init":  {ours(Enabled, "true", Init, "yes"), []string{`intercept.mesh/init: "yes" is not container`}},
		"all at once": {ours(Enabled, "true", "outbound-exclude-ports", "80-70,,x", "dns", "yes", "proxy-uid", "root"),
			[]string{
				`intercept.mesh/outbound-exclude-ports: port range "80-70"`, `outbound-exclude-ports: empty item`,
				`outbound-exclude-ports: "x" is not`,
				`intercept.mesh/dns: "yes" is not one of off, resolvconf, all`,
				`intercept.mesh/proxy-uid: "root" is not a user or group ID`}},
		"unknown": {ours(Enabled, "true", "outbound-exclude-port", "80"),
			[]string{"intercept.mesh/outbound-exclude-port: unknown annotation; did you mean outbound-exclude-ports?"}},
		"quite unknown": {ours(Enabled, "true", "wibble", "80"),
			[]string{"intercept.mesh/wibble: unknown annotation; docs/cni.md"}},
		"an empty value": {ours(Enabled, "true", "outbound-exclude-cidrs", ""),
			[]string{`outbound-exclude-cidrs: empty value ""; leave it out for the default (none)`}},
		"no JSON": {ours(Enabled, "true", ConfigField, "outbound:"),
			[]string{"intercept.mesh/config: malformed JSON"}},
		"config's field": {ours(Enabled, "true", ConfigField, `{"outboud":{}}`),
			[]string{"intercept.mesh/config: outboud: unknown field; did you mean outbound?"}},
		"config's value": {ours(Enabled, "true", ConfigField, `{"proxy":{"uids":[0]}}`),
			[]string{"intercept.mesh/config: proxy.uids: 0: every process"}},
		"what it comes to": {ours(Enabled, "true", "proxy-uid", "0"),
			[]string{"annotation intercept.mesh/proxy-uid: proxy.uids: 0: every process"}},
		"nothing captured": {ours(Enabled, "true", "inbound-mode", "off", "outbound-include-cidrs", "none"),
			[]string{"captures nothing"}},
		"resolvconf": {ours(Enabled, "true", "dns", "resolvconf"),
			[]string{"intercept.mesh/dns: resolvconf, but the pod's name servers are not known"}},
		"runtime class": {ours(Enabled, "true", RuntimeClass, " "),
			[]string{`intercept.mesh/runtime-class: empty value " "`}},
	} {
		spec, err := Read(tt.annotations, Options{Defaults: intercept.Default(), NeedNameservers: true})
		if err == nil {
			t.Errorf("%s: %+v", name, spec)
			continue
		}
		all := strict.Flatten(err)
		if len(all) != len(tt.want) {
			t.Errorf("%s: %d errors, want %d:\n%v", name, len(all), len(tt.want), err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is missing of\n%v", name, want, err)
			}
		}
		for _, e := range all {
			if _, ok := errors.AsType[*Error](e); !ok {
				t.Errorf("%s: %T", name, e)
			}
		}
	}
}

// TestEveryFieldHasAnAnnotation: the same text means the same as a flag's.
func TestEveryFieldHasAnAnnotation(t *testing.T) {
	seen := annotations{}
	for _, a := range Annotations() {
		if _, twice := seen[a.Name]; twice || a.Meaning == "" || a.Form == "" || strings.ContainsAny(a.Meaning, "\n") ||
			strings.Contains(a.Meaning, "--") {
			t.Errorf("%+v", a)
		}
		seen[a.Name] = a.Field
		if len(a.Name) > 63 {
			t.Errorf("%s is too long for an annotation", a.Name)
		}
	}
	for _, f := range decode.Fields() {
		if seen[f.Name] != f.Path {
			t.Errorf("%s has no annotation", f.Name)
		}
		spec, err := Read(ours(Enabled, "true", f.Name, f.Initial), Options{Defaults: intercept.Default()})
		if err != nil {
			t.Errorf("%s=%s: %v", f.Name, f.Initial, err)
		} else if diff := equal(intercept.Default(), spec.Config); diff != "" {
			t.Errorf("%s=%s: %s", f.Name, f.Initial, diff)
		}
	}
	whole, err := json.Marshal(intercept.Default())
	if err != nil {
		t.Fatal(err)
	}
	spec, err := Read(ours(Enabled, "true", ConfigField, string(whole)), Options{Defaults: intercept.Config{}})
	if diff := equal(intercept.Default(), spec.Config); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestForeign(t *testing.T) {
	refuse := RefusedRuntimes()
	for _, tt := range []struct {
		annotations annotations
		classes     []string
		want        string
	}{
		{nil, nil, ""},
		{nil, []string{"", "runc"}, ""},
		{nil, []string{"", "gvisor"}, "its runtime is gvisor"},
		{nil, []string{"runc", "kata-qemu"}, "its runtime is kata-qemu"},
		{annotations{"io.katacontainers.config.hypervisor.memory": "1"}, nil, "io.katacontainers.config"},
		{annotations{"io.katacontainers.config.hypervisor.memory": "1"}, []string{"runc"}, ""},
		{annotations{"dev.gvisor.spec.mount": "1"}, nil, "dev.gvisor"},
		{annotations{"io.kubernetes.cri.untrusted-workload": "true"}, nil, "untrusted-workload=true"},
		{annotations{"io.kubernetes.cri.untrusted-workload": "false"}, nil, ""},
	} {
		got := Foreign(tt.annotations, refuse, tt.classes...)
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%v %q: %q, want %q", tt.annotations, tt.classes, got, tt.want)
		}
	}
	if got := Foreign(nil, nil, "gvisor"); got != "" {
		t.Errorf("with nothing refused: %q", got)
	}
}

func TestValidatePrefix(t *testing.T) {
	for _, good := range []string{DefaultPrefix, "x", "a-b.c1"} {
		if err := ValidatePrefix(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a/b", "A.b", "a..b", ".a", "-a", "a_b", strings.Repeat("a", 64)} {
		if ValidatePrefix(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// FuzzRead holds that any annotations give an error or a spec and not both, and
// that a configuration that is accepted compiles.
func FuzzRead(f *testing.F) {
	f.Add("enabled", "true", "dns", "all", "config", "{}")
	f.Add(
		"enabled",
		"strict",
		"outbound-exclude",
		"udp :53; 10.0.0.0/8:1-2 uid=3",
		"config",
		`{"outbound":{"exclude":[{"ports":"*"}]}}`,
	)
	f.Add("enabled", "true", "dns", "resolvconf", "dns-servers", "fd00::1,10.0.0.1")
	f.Add("init", "container", "x", "y", "", "")
	f.Add("enabled", "true", "tproxy-mark", "0x1/0x1", "inbound-mode", "tproxy")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3 string) {
		all := ours(k1, v1, k2, v2, k3, v3)
		spec, err := Read(all, Options{Defaults: intercept.Default()})
		if err != nil {
			if spec.Reason != "" {
				t.Fatalf("both %+v and %v", spec, err)
			}
			for _, e := range strict.Flatten(err) {
				if strings.TrimSpace(e.Error()) == "" {
					t.Fatalf("an empty error among %v", err)
				}
			}
			return
		}
		if spec.Reason == "" {
			t.Fatal("neither a reason nor an error")
		}
		if spec.Reason != Asked {
			return
		}
		if _, err := intercept.Compile(spec.Config); err != nil {
			t.Fatalf("%v is accepted, but %v", all, err)
		}
	})
}
