package kuma

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/iptables"
)

// world is one with these files and variables, and with iptables' programs but the plain ones.
func world(files map[string]string, env ...string) peers.World {
	programs := func(b dataplane.Backend) bool { return b != dataplane.BackendIPTables }
	return peers.World{Environ: env, Document: yamldoc.Document, HasPrograms: programs, ReadFile: func(name string) ([]byte, error) {
		text, there := files[name]
		if !there {
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return []byte(text), nil
	}}
}

// passwdFile has what kumactl's image has, and a user with a number for a name.
const passwdFile = "root:x:0:0:root:/root:/bin/sh\nkuma-dp:x:5678:5678::/:/bin/false\ndp:x:2102:7::/:\n" +
	"7000:x:7001:7::/:\n"

func parse(t *testing.T, files map[string]string, env []string, args ...string) (peers.Request, error) {
	t.Helper()
	all := map[string]string{"/etc/passwd": passwdFile}
	maps.Copy(all, files)
	return Parse(args, world(all, env...))
}

// kuma is what kumactl's defaults come to.
func kumaDefault() intercept.Config {
	c := intercept.Default()
	c.Proxy = intercept.Proxy{UIDs: intercept.IDs{intercept.ID(5678)}}
	c.TunnelPort, c.Inbound.CaptureForwarded = 0, true
	c.Inbound.ExcludePorts = nil
	return c
}

func must[T any](parse func(string) (T, error), text string) T {
	v, err := parse(text)
	if err != nil {
		panic(err)
	}
	return v
}

func exclusions(texts ...string) (all []intercept.Exclusion) {
	for _, text := range texts {
		all = append(all, must(intercept.ParseExclusion, text))
	}
	return all
}

func same(t *testing.T, want, got intercept.Config) {
	t.Helper()
	text := func(c intercept.Config) string {
		b, err := json.MarshalIndent(c, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

const lookupsOverTCP = "tcp :53 uid=0-4294967294"

// TestParse: what each setting comes to, by a flag, a variable or a field alike.
func TestParse(t *testing.T) {
	for _, tt := range []struct {
		flags, file string
		env         []string
		want        func(*intercept.Config)
	}{
		{"", "", nil, func(*intercept.Config) {}},
		{"--redirect-outbound-port 12345", "redirect: {outbound: {port: 12345}}",
			[]string{"REDIRECT_OUTBOUND_PORT=12345"}, func(c *intercept.Config) { c.Outbound.Port = intercept.Port(12345) }},
		{"--redirect-inbound-port=12346", "redirect: {inbound: {port: '12346'}}",
			[]string{"REDIRECT_INBOUND_PORT=12346"}, func(c *intercept.Config) { c.Inbound.Port = intercept.Port(12346) }},
		{"--redirect-inbound=false", "redirect:\n  inbound:\n    enabled: no\n",
			[]string{"REDIRECT_INBOUND_ENABLED=0"}, func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundOff }},
		{"", `{"redirect": {"outbound": {"enabled": false}}}`,
			[]string{"REDIRECT_OUTBOUND_ENABLED=false"}, func(c *intercept.Config) { c.Outbound.IncludeCIDRs = nil }},
		{"--exclude-inbound-ports 80,,8080,80", "redirect: {inbound: {excludePorts: [80, '8080']}}",
			[]string{"REDIRECT_INBOUND_EXCLUDE_PORTS= 80, 8080"},
			func(c *intercept.Config) { c.Inbound.ExcludePorts = must(intercept.ParsePorts, "80,8080") }},
		{"--exclude-inbound-ports 8000-8010", "redirect: {inbound: {excludePorts: 8000-8010}}", nil,
			func(c *intercept.Config) { c.Inbound.ExcludePorts = must(intercept.ParsePorts, "8000-8010") }},
		{"", "redirect: {inbound: {includePorts: [80], excludePorts: [9000]}}",
			[]string{"REDIRECT_INBOUND_INCLUDE_PORTS=80", "REDIRECT_INBOUND_EXCLUDE_PORTS=9000"},
			func(c *intercept.Config) {
				c.Inbound.IncludePorts, c.Inbound.ExcludePorts = must(intercept.ParsePorts, "80"), nil
			}},
		{"--exclude-outbound-ports 3306,443", "Redirect: {OUTBOUND: {excludeports: '443,3306'}}",
			[]string{"REDIRECT_OUTBOUND_EXCLUDE_PORTS=443,3306"},
			func(c *intercept.Config) { c.Outbound.Exclude = exclusions("tcp :443,3306") }},
		{"", "redirect: {outbound: {includePorts: [80, 443], excludePorts: [22]}}",
			[]string{"REDIRECT_OUTBOUND_INCLUDE_PORTS=80,443"}, func(c *intercept.Config) {
				c.Outbound.IncludeCIDRs, c.Outbound.IncludePorts = nil, must(intercept.ParsePorts, "80,443")
			}},
		{"--exclude-inbound-ips 10.0.0.1/8,fd00::1 --exclude-inbound-ips=192.168.0.0/16",
			"redirect: {inbound: {excludePortsForIPs: ['10.0.0.1/8,fd00::1', 192.168.0.0/16]}}",
			[]string{"REDIRECT_INBOUND_EXCLUDE_PORTS_FOR_IPS=10.0.0.1/8,fd00::1,192.168.0.0/16"},
			func(c *intercept.Config) {
				c.Inbound.ExcludeSources = must(intercept.ParseCIDRs, "10.0.0.0/8,fd00::1,192.168.0.0/16")
			}},
		{"--exclude-outbound-ips 1.2.3.4", "redirect: {outbound: {excludePortsForIPs: 1.2.3.4}}",
			[]string{"REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_IPS=1.2.3.4"},
			func(c *intercept.Config) { c.Outbound.Exclude = exclusions("1.2.3.4") }},
		{"--exclude-outbound-ports-for-uids tcp:22,80-88:1000-1002;udp:*:2000 --exclude-outbound-ports-for-uids 70000",
			"redirect: {outbound: {excludePortsForUIDs: ['tcp:22,80-88:1000-1002', 'udp::2000', 70000]}}",
			nil, func(c *intercept.Config) {
				c.Outbound.Exclude = exclusions("tcp :22,80-88 uid=1000-1002", "udp uid=2000", "uid=70000")
			}},
		{"--exclude-outbound-ports-for-uids 443,0-80:2002", "", nil,
			func(c *intercept.Config) { c.Outbound.Exclude = exclusions(":443,1-80 uid=2002") }},
		{"--exclude-outbound-ports-for-uids 443:2002,2003", "", nil,
			func(c *intercept.Config) { c.Outbound.Exclude = exclusions(":443 uid=2002,2003") }},
		{"--exclude-outbound-ports-for-uids tcp,udp:443:2002", "",
			[]string{"REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_UIDS=443:2002"},
			func(c *intercept.Config) { c.Outbound.Exclude = exclusions(":443 uid=2002") }},
		{"--exclude-outbound-ports-for-uids 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17:9", "", nil, func(c *intercept.Config) {
			c.Outbound.Exclude = exclusions(":1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17 uid=9")
		}},
		{"--redirect-all-dns-traffic --redirect-dns-port 1053",
			"redirect: {dns: {enabled: true, captureAll: true, port: 1053}}",
			[]string{"REDIRECT_DNS_ENABLED=true", "REDIRECT_DNS_CAPTURE_ALL=true", "REDIRECT_DNS_PORT=1053"},
			func(c *intercept.Config) {
				c.DNS = intercept.DNS{Mode: intercept.DNSAll, Port: 1053, Virtual: true}
				c.Outbound.Exclude = exclusions(lookupsOverTCP)
			}},
		{"--redirect-dns", "redirect: {dns: {enabled: true}}", []string{"REDIRECT_DNS_ENABLED=true"},
			func(c *intercept.Config) {
				c.DNS = intercept.DNS{Mode: intercept.DNSResolvConf, Port: 15053, Virtual: true,
					Servers: intercept.ParseResolvConf("nameserver 10.96.0.10")}
				c.Outbound.Exclude = exclusions("0.0.0.0/0:53 tcp uid=0-4294967294")
			}},
		{"", "redirect: {dns: {enabled: true, resolvConfigPath: /both}}",
			[]string{"REDIRECT_DNS_ENABLED=true", "REDIRECT_DNS_RESOLV_CONFIG_PATH=/both"},
			func(c *intercept.Config) {
				c.DNS = intercept.DNS{Mode: intercept.DNSResolvConf, Port: 15053, Virtual: true,
					Servers: intercept.ParseResolvConf("nameserver 10.96.0.10\nnameserver fd00::a")}
				c.Outbound.Exclude = exclusions(lookupsOverTCP)
			}},
		{"", "ipFamilyMode: ipv4\nredirect: {dns: {enabled: true, resolvConfigPath: /both}}", nil,
			func(c *intercept.Config) {
				c.Families = intercept.FamiliesIPv4
				c.DNS = intercept.DNS{Mode: intercept.DNSResolvConf, Port: 15053, Virtual: true,
					Servers: intercept.ParseResolvConf("nameserver 10.96.0.10")}
				c.Outbound.Exclude = exclusions("0.0.0.0/0:53 tcp uid=0-4294967294")
			}},
		{"--vnet docker0:172.17.0.1/16 --vnet br+:fd00:1::/64",
			"redirect: {vnet: {networks: ['docker0:172.17.0.0/16', 'br+:fd00:1::/64']}}",
			[]string{"REDIRECT_VNET_NETWORKS=docker0:172.17.0.0/16,br+:fd00:1::/64"},
			func(c *intercept.Config) {
				c.VirtualInterfaces = []string{"docker0", "br*"}
				c.VirtualNetworks = []intercept.VirtualNetwork{
					{Interface: "docker0", CIDRs: must(intercept.ParseCIDRs, "172.17.0.0/16")},
					{Interface: "br*", CIDRs: must(intercept.ParseCIDRs, "fd00:1::/64")},
				}
			}},
		{"--vnet eth9:172.17.0.0/16 --vnet eth9:fd00:1::/64", "", nil, func(c *intercept.Config) {
			c.VirtualInterfaces = []string{"eth9"}
			c.VirtualNetworks = []intercept.VirtualNetwork{
				{Interface: "eth9", CIDRs: must(intercept.ParseCIDRs, "172.17.0.0/16")},
				{Interface: "eth9", CIDRs: must(intercept.ParseCIDRs, "fd00:1::/64")},
			}
		}},
		{"--redirect-all-dns-traffic --redirect-outbound-insert-instead-of-append", "", nil,
			func(c *intercept.Config) { c.DNS.Mode, c.DNS.TCP = intercept.DNSAll, false }},
		{"--ip-family-mode ipv4", "ipFamilyMode: ipv4", []string{"IP_FAMILY_MODE=ipv4"},
			func(c *intercept.Config) { c.Families = intercept.FamiliesIPv4 }},
		{"--ip-family-mode DualStack", "", []string{"IP_FAMILY_MODE="}, func(*intercept.Config) {}},
		{"--drop-invalid-packets", "dropInvalidPackets: on", []string{"DROP_INVALID_PACKETS=1"},
			func(c *intercept.Config) { c.Inbound.DropInvalid = true }},
		{"--kuma-dp-user dp", "kumaDPUser: 2102", []string{"KUMA_DP_USER=dp"},
			func(c *intercept.Config) { c.Proxy.UIDs[0] = intercept.ID(2102) }},
		{"--kuma-dp-user 7000", "", nil, func(c *intercept.Config) { c.Proxy.UIDs[0] = intercept.ID(7001) }},
		{"--kuma-dp-user 1000650000", "kumaDPUser: '1000650000'", nil,
			func(c *intercept.Config) { c.Proxy.UIDs[0] = intercept.ID(1000650000) }},
		{"--redirect-inbound-insert-instead-of-append --redirect-outbound-insert-instead-of-append",
			"redirect: {inbound: {insertRedirectInsteadOfAppend: true}}", nil, func(*intercept.Config) {}},
	} {
		files := map[string]string{"/etc/resolv.conf": "nameserver 10.96.0.10\n",
			"/both":    "nameserver 10.96.0.10\nnameserver fd00::a\n",
			"/tp.yaml": tt.file}
		var env []string
		for _, e := range tt.env {
			env = append(env, envPrefix+e)
		}
		want := kumaDefault()
		tt.want(&want)
		for way, args := range map[string][]string{"flags": strings.Fields(tt.flags), "file": {"--config", "/tp.yaml"},
			"env": {}} {
			if way == "flags" && tt.flags == "" || way == "file" && tt.file == "" || way == "env" && tt.env == nil {
				continue
			}
			t.Run(fmt.Sprintf("%s %v", way, tt), func(t *testing.T) {
				given := env
				if way != "env" {
					given = nil
				}
				r, err := parse(t, files, given, args...)
				if err != nil || len(r.Warnings) > 0 || r.Action != peers.Apply {
					t.Errorf("%s, %v, warnings %q", r.Action, err, r.Warnings)
				}
				same(t, want, r.Config)
				if _, err := intercept.Compile(r.Config); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestRequest: what a line asks for besides a configuration.
func TestRequest(t *testing.T) {
	validation := &peers.Validation{Timeout: 10 * time.Second, Port: 20000}
	for line, want := range map[string]peers.Request{
		"":                          {Action: peers.Apply},
		"install transparent-proxy": {Action: peers.Apply},
		"transparent-proxy":         {Action: peers.Apply},
		"install":                   {Action: peers.Apply},
		"--no-config install transparent-proxy --log-level=debug --wait 7": {Action: peers.Apply, LogLevel: "debug",
			Pod: dataplane.Pod{IPTables: dataplane.IPTables{Wait: 7 * time.Second}}},
		"install transparent-proxy --dry-run":            {Action: peers.Render},
		"install transparent-proxy --dry-run=false":      {Action: peers.Apply},
		"uninstall transparent-proxy":                    {Action: peers.Remove},
		"uninstall --dry-run":                            {Action: peers.Remove, DryRun: true},
		"uninstall transparent-proxy --allow-host-netns": {Action: peers.Remove, Pod: dataplane.Pod{AllowHostNetNS: true}},
		"install transparent-proxy-validator": {Action: peers.Nothing,
			Validation: validation},
		"transparent-proxy-validator --ip-family-mode=ipv4": {Action: peers.Nothing,
			Validation: validation},
		"--disable-comments": {Action: peers.Apply,
			Pod: dataplane.Pod{IPTables: dataplane.IPTables{Dialect: iptables.Minimal}}},
		"--iptables-executables iptables-restore:/l/iptables-legacy-restore,iptables:/x": {Action: peers.Apply,
			Pod: dataplane.Pod{Backend: dataplane.BackendIPTablesLegacy}},
		"--iptables-executables iptables:/l/iptables-nft": {Action: peers.Apply,
			Pod: dataplane.Pod{Backend: dataplane.BackendIPTablesNFT}},
	} {
		t.Run(line, func(t *testing.T) {
			got, err := parse(t, nil, nil, strings.Fields(line)...)
			noted := strings.Contains(line, "--no-config") && len(got.Warnings) == 1
			if err != nil || len(got.Warnings) > 0 && !noted {
				t.Errorf("%v, warnings %q", err, got.Warnings)
			}
			if want.Action != peers.Remove && want.Pod.IPTables.Wait == 0 {
				want.Pod.IPTables.Wait = 5 * time.Second
			}
			want.Config, got.Config, got.Warnings = intercept.Config{}, intercept.Config{}, nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, line := range []string{"-h", "--help", "uninstall transparent-proxy --help",
		"install transparent-proxy-validator -h"} {
		if r, err := parse(t, nil, nil, strings.Fields(line)...); err != nil || r.Action != peers.Help ||
			!strings.Contains(r.Text, "--config") {
			t.Errorf("%s: %s, %v", line, r.Action, err)
		}
	}
	r, err := parse(t, nil, nil, "install", "transparent-proxy-validator", "--validation-server-port", "15016")
	if err != nil || r.Config.Inbound.Port != intercept.Port(15016) {
		t.Errorf("%v, %v", r.Config.Inbound.Port, err)
	}
}

// TestSources: a flag goes before the environment, and that before the files, of which a later one goes before an
// earlier one, field by field.
func TestSources(t *testing.T) {
	files := map[string]string{
		"/a": "kumaDPUser: '1'\nredirect: {inbound: {port: 1001}, outbound: {port: 1002, excludePorts: [1, 2]}, " +
			"dns: {port: 1003}}",
		"/b": "redirect: {outbound: {port: 2002, excludePorts: []}, dns: {port: 2003}}",
		"-":  `{"redirect": {"inbound": {"port": 3001}}}`, "/empty": "# nothing\n",
	}
	for _, args := range [][]string{
		{"--config", "/a", "--config=/b", "--config", "-"}, {"--config", "/a, /b,-"},
		{"--transparent-proxy-config=/a,/empty,/b", "--transparent-proxy-config", "-"},
	} {
		r, err := parse(t, files, nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		want := kumaDefault()
		want.Proxy.UIDs[0] = intercept.ID(1)
		want.Inbound.Port, want.Outbound.Port = intercept.Port(3001), intercept.Port(2002)
		same(t, want, r.Config)
	}
	env := []string{envPrefix + "REDIRECT_DNS_PORT=4003", envPrefix + "REDIRECT_OUTBOUND_PORT=4002",
		envPrefix + "REDIRECT_DNS_CAPTURE_ALL=true", envPrefix + "REDIRECT_DNS_ENABLED=true", "OTHER=1"}
	r, err := parse(t, files, env, "--config", "/a", "--redirect-outbound-port", "5002", "--exclude-outbound-ports=")
	if err != nil {
		t.Fatal(err)
	}
	want := kumaDefault()
	want.Proxy.UIDs[0], want.Inbound.Port, want.Outbound.Port = intercept.ID(1), intercept.Port(1001), intercept.Port(5002)
	want.DNS = intercept.DNS{Mode: intercept.DNSAll, Port: 4003, Virtual: true}
	want.Outbound.Exclude = exclusions(lookupsOverTCP)
	same(t, want, r.Config)
}

// TestUser: the user is looked for by number and by name, and without a flag it is 5678, or kuma-dp.
func TestUser(t *testing.T) {
	for passwd, want := range map[string]uint32{
		passwdFile: 5678, "kuma-dp:x:99:99::/:\n": 99, "other:x:5678:1::/:\nkuma-dp:x:99:99::/:\n": 5678, "": 5678, "x": 5678,
	} {
		r, err := Parse(nil, world(map[string]string{"/etc/passwd": passwd}))
		if err != nil || !slices.Equal(r.Config.Proxy.UIDs, intercept.IDs{intercept.ID(want)}) {
			t.Errorf("%q: %v, %v", passwd, r.Config.Proxy.UIDs, err)
		}
		if said := len(r.Warnings) > 0; said != (len(passwd) < 2) {
			t.Errorf("%q: warnings %q", passwd, r.Warnings)
		}
	}
}

// TestUserOfValidator: nobody tells the validator of the proxy's user but a file or the environment. It runs as that
// user, unless as root.
func TestUserOfValidator(t *testing.T) {
	for _, tt := range []struct {
		runs     uint32
		env      []string
		want     uint32
		warnings string
	}{
		{runs: 7777, want: 7777},
		{runs: 7777, env: []string{envPrefix + "KUMA_DP_USER=99"}, want: 99},
		{want: 5678, warnings: "If it is another, write " + envPrefix + "KUMA_DP_USER=NUMBER into the environment"},
	} {
		w := world(nil, tt.env...)
		w.User = tt.runs
		r, err := Parse([]string{"install", "transparent-proxy-validator"}, w)
		said := strings.Join(r.Warnings, "\n")
		if err != nil || !slices.Equal(r.Config.Proxy.UIDs, intercept.IDs{intercept.ID(tt.want)}) ||
			(said != "") != (tt.warnings != "") || !strings.Contains(said, tt.warnings) {
			t.Errorf("%+v: %v, %v, %q", tt, r.Config.Proxy.UIDs, err, said)
		}
		if r, err = Parse(nil, w); err != nil || len(tt.env) == 0 && !r.Config.Proxy.UIDs.Contains(5678) {
			t.Errorf("%+v: install: %v, %v", tt, r.Config.Proxy.UIDs, err)
		}
	}
}

// TestBadInput: what is refused, and what is said about what has no effect.
func TestBadInput(t *testing.T) {
	files := map[string]string{
		"/etc/resolv.conf": "search x\n",
		"/typo":            "redirect:\n  inbound:\n    excludPorts: [80]\n",
		"/dns":             "redirect:\n  dns:\n    captureAl: true\n",
		"/dnsoff":          "redirect:\n  dns:\n    captureAl: false\n",
		"/section":         "redirct:\n  dns: {enabled: true}\n",
		"/ebpf":            "ebpf: {enabled: true}\n",
		"/both":            "redirect: {inbound: {includePorts: [80, 8000-9000], excludePorts: [80, 8080, 22]}}\n",
		"/in-uids":         "redirect:\n  inbound:\n    excludePortsForUIDs: ['1000']\n",
		"/all-dns":         "redirect: {dns: {enabled: false, captureAll: true}}",
		"/list":            "redirect:\n- a\n",
		"/twice":           "wait: 1\nwait: 2\n",
		"/all": "retry: {maxRetries: 4, sleepBetweenRetries: 2s}\nwait: 5\nwaitInterval: 0\nverbose: false\n" +
			"redirect: {dns: {skipConntrackZoneSplit: false}}\n",
		"/retry": "retry: {maxRetries: 9}\n",
		"/text":  "just text",
		"/hex":   "redirect: {inbound: {port: 0x3a99}}\n",
		"/six":   "nameserver fd00::a\n",
		"/ipv6":  "redirect: {dns: {enabled: true, resolvConfigPath: /six}}\nipFamilyMode: ipv4\n",
		"/lost":  "redirect: {dns: {enabled: true, resolvConfigPath: /nosuch}}\n",
	}
	for _, tt := range []struct{ line, warns, fails string }{
		{"--config /typo", "/typo: redirect.inbound.excludPorts (line 3): it is not known, and has no effect; " +
			"did you mean excludePorts?", ""},
		{"--config /dns", "", "/dns: redirect.dns.captureAl (line 3): it is not known, and has no effect; " +
			"did you mean captureAll? " +
			"Something may stay outside that is to be captured: correct it, or leave it out; --lenient accepts it all the same"},
		{"--config /dns --lenient", "/dns: redirect.dns.captureAl (line 3): it is not known", ""},
		{"--config /dnsoff", "", "/dnsoff: redirect.dns.captureAl (line 3): it is not known"},
		{"--config /section", "", "/section: redirct (line 1): it is not known"},
		{"--config /ebpf", "/ebpf: ebpf (line 1) has no effect here", ""},
		{"--config /both", "", "redirect.inbound.excludePorts (line 1): 80 is in /both: redirect.inbound.includePorts"},
		{"--config /both --lenient", "8080 is in /both: redirect.inbound.includePorts (line 1), too; by kumactl it is captured", ""},
		{"--config /all-dns", "/all-dns: redirect.dns.captureAll (line 1) has no effect without redirect.dns.enabled", ""},
		{"--config /in-uids", "what arrives belongs to no user, so it is captured", ""},
		{"--config /list", "", "/list: redirect (line 1): a list where fields belong"},
		{"--config /twice", "", `/twice: wait: "wait" is there twice`},
		{"--config /text", "", "/text: a value where fields belong"},
		{"--config /none", "", "--config: open /none: file does not exist"},
		{"--config /all", "", ""},
		{"--config /retry", "/retry: retry.maxRetries (line 1) has no effect here: the rules are in force at once", ""},
		{"--max-retries 4", "--max-retries has no effect here", ""},
		{"--sleep-between-retries 1s", "--sleep-between-retries has no effect here", ""},
		{`--sleep-between-retries "1s"`, "--sleep-between-retries has no effect here", ""},
		{"--iptables-logs", "--iptables-logs has no effect here: mesh-init status shows", ""},
		{"--iptables-logs=false", "", ""},
		{"--skip-dns-conntrack-zone-split", "--skip-dns-conntrack-zone-split has no effect here", ""},
		{"--store-firewalld --verbose", "--store-firewalld has no effect here", ""},
		{"--iptables-executables iptables:/nowhere/iptables", "--iptables-executables: there is no such program here", ""},
		{"--iptables-executables nft:/x", "", `"nft:/x": write NAME:PATH`},
		{"--ip-family-mode IPv4", `"IPv4" means dualstack to kumactl`, ""},
		{"--ip-family-mode ipv6", "", `"ipv6" is neither dualstack nor ipv4`},
		{"--redirect-inbound false", `"false" is left over and has no effect`, ""},
		{"--exclude-inbound-ports 80 --exclude-inbound-ports 90",
			"--exclude-inbound-ports is given 2 times; the last one counts: 90", ""},
		{"--exclude-inbound-ports http", "", `--exclude-inbound-ports: "http" is not a port or a range of ports`},
		{"--exclude-inbound-ports 9005-9000", "", "ends before it begins"},
		{"--redirect-inbound-port 0", "", `--redirect-inbound-port: port "0": 0 is not a port`},
		{"--redirect-dns", "/etc/resolv.conf names no server: no lookup is captured", ""},
		{"--redirect-dns=maybe", "", `--redirect-dns: "maybe" is neither true nor false`},
		{"--kuma-dp-user nobody", "", `--kuma-dp-user: /etc/passwd has no user "nobody"`},
		{"--kuma-dp-user root", "the proxy is root", ""},
		{"--exclude-outbound-ports-for-uids icmp:*:1", "", `"icmp" is`},
		{"--exclude-outbound-ports-for-uids *", "", `"*"`},
		{"--exclude-outbound-ports-for-uids 80:name", "", `"name" is not a user or group ID`},
		{"--exclude-outbound-ports-for-uids a:b:c:d", "", "write [PROTOCOL:][PORTS:]UIDS"},
		{"--exclude-outbound-ips host", "", `"host" is not an address or a network`},
		{"--vnet docker0", "", `"docker0": write INTERFACE:CIDR`},
		{"--wait soon", "", `--wait: "soon" is not a number of seconds`},
		{"--config-file x", "--config-file has no effect here: it is about kumactl itself", ""},
		{"--redirect-inbound-port-v6 15010", "",
			"unknown flag: --redirect-inbound-port-v6; did you mean --redirect-inbound-port?"},
		{"--ebpf-enabled", "", "unknown flag: --ebpf-enabled"},
		{"--exclude-inbound-port 80", "", "did you mean --exclude-inbound-ports?"},
		{"get meshes", "", `"get" is left over: mesh-init stands in for kumactl with install transparent-proxy`},
		{"uninstall transparent-proxy --vnet x", "", "--vnet: uninstall transparent-proxy has no such flag"},
		{"--config /hex", "", `/hex: redirect.inbound.port (line 1): "0x3a99" is not`},
		{"--config /ipv6", "/six names no IPv4 server: no lookup is captured", ""},
		{"--config /lost", "", "/nosuch: file does not exist"},
		{"--redirect-inbound-port 15001", "", "--redirect-inbound-port: port 15001 is also"},
		{"--vnet a-name-that-is-too-long:10.0.0.0/8", "", `--vnet: interface`},
		{"--validation-server-port 1", "", "--validation-server-port: install transparent-proxy has no such flag"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			r, err := parse(t, files, nil, strings.Fields(tt.line)...)
			if text := fmt.Sprint(err); tt.fails == "" && err != nil || !strings.Contains(text, tt.fails) {
				t.Errorf("error %v, want %q", err, tt.fails)
			}
			if all := strings.Join(r.Warnings, "\n"); tt.warns == "" && all != "" || !strings.Contains(all, tt.warns) {
				t.Errorf("warnings %q, want %q", r.Warnings, tt.warns)
			}
		})
	}
	for _, line := range []string{"--validation-server-port 3", "--config /lost"} {
		r, err := parse(t, files, nil, strings.Fields(line)...)
		if err == nil || strings.Contains(err.Error(), "\n") || len(r.Warnings) > 0 {
			t.Errorf("%s: not one error alone: %v, warnings %q", line, err, r.Warnings)
		}
	}
	w := world(map[string]string{"/etc/passwd": passwdFile})
	w.HasPrograms = func(dataplane.Backend) bool { return true }
	if r, err := Parse([]string{"--iptables-executables", "iptables:/nosuch"}, w); err != nil || len(r.Warnings) != 1 {
		t.Errorf("a program of a name that is none: %v, %q", err, r.Warnings)
	}
	for variable, want := range map[string]string{
		"REDIRECT_DNS_CAPTUREALL=true": "CAPTURE_ALL", "REDIRECT_INBOUND_EXCLUDE_PORT=80": "", "NOTHING=1": "",
	} {
		r, err := parse(t, nil, []string{envPrefix + variable})
		if want != "" && !strings.Contains(fmt.Sprint(err), want) || want == "" && (err != nil || len(r.Warnings) != 1) {
			t.Errorf("%s: %v, %q", variable, err, r.Warnings)
		}
	}
}

// lines are those of a file of test data, in words.
func lines(t *testing.T, name string) (all [][]string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 0 && f[0] != "#" {
			all = append(all, f)
		}
	}
	return all
}

// TestEverySetting: kumactl's flags, in its order, its fields and its variables are all known.
func TestEverySetting(t *testing.T) {
	var flags, fields [][]string
	for _, s := range settings() {
		if want := len(lines(t, "testdata/flags.txt")); s.has(install) && len(flags) < want {
			row := []string{"--" + s.flag}
			if s.initial != "" {
				row = append(row, s.initial)
			}
			flags = append(flags, row)
		}
		if s.path != "" && s.path != "ebpf" {
			fields = append(fields, []string{s.path, strings.TrimPrefix(s.env(), envPrefix)})
		}
	}
	if diff := cmp.Diff(lines(t, "testdata/flags.txt"), flags); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
	order := func(a, b []string) int { return strings.Compare(a[0], b[0]) }
	want := lines(t, "testdata/fields.txt")
	slices.SortFunc(want, order)
	slices.SortFunc(fields, order)
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// TestPage: docs/migrate-kuma.md has each setting, in the order of the table.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../../docs/migrate-kuma.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(text), "<!-- settings:")
	page, _, _ = strings.Cut(page, "<!-- /settings -->")
	var shown, want [][]string
	for l := range strings.Lines(page) {
		if cells := strings.Split(l, "|"); len(cells) > 5 && !strings.Contains(l, "---") && !strings.Contains(l,
			" flag | field") {
			row := make([]string, 4)
			for i := range row {
				row[i] = strings.Trim(cells[i+1], " `")
			}
			if nothing := strings.HasPrefix(row[3], "nothing"); nothing {
				row[3] = "nothing"
			} else if row[3] != "" {
				row[3] = "something"
			}
			shown = append(shown, row)
		}
	}
	for _, s := range settings() {
		row := []string{"", s.path, "", "something"}
		if s.flag != "" {
			row[0] = "--" + s.flag
		}
		if s.path != "" {
			row[2] = strings.TrimPrefix(s.env(), envPrefix)
		}
		if s.idle != "" {
			row[3] = "nothing"
		}
		want = append(want, row)
	}
	want = append(want, []string{"--take-over", "", "", "something"}) // of all drop-ins: mesh-init reads it itself
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("the page lacks (-), and has (+):\n%s", diff)
	}
}

// TestBounds: what hostile people write is not answered at length.
func TestBounds(t *testing.T) {
	var unknown, odd, even strings.Builder
	for i := range 30000 {
		fmt.Fprintf(&unknown, "x%d: 1\n", i)
		fmt.Fprintf(&odd, "%d,", 2*i+1)
		fmt.Fprintf(&even, "%d,", 2*i+2)
	}
	for name, file := range map[string]string{
		"unknown fields": unknown.String(),
		"bad addresses":  "redirect: {inbound: {excludePortsForIPs: [" + strings.Repeat("x,", 30000) + "]}}",
		"the same ports": "redirect: {inbound: {includePorts: [" + odd.String() + "], excludePorts: [" + odd.String() + "]}}",
		"other ports":    "redirect: {inbound: {includePorts: [" + odd.String() + "], excludePorts: [" + even.String() + "]}}",
	} {
		for _, flag := range []string{"--lenient", "--lenient=false"} {
			r, err := parse(t, map[string]string{"/f": file}, nil, "--config", "/f", flag)
			if len(r.Warnings) > 51 || len(fmt.Sprint(err)) > 5000 {
				t.Errorf("%s, %s: %d warnings, an error of %d bytes", name, flag, len(r.Warnings), len(fmt.Sprint(err)))
			}
		}
	}
	if _, err := parse(t, map[string]string{"/f": unknown.String()}, nil, "--config", "/f", "--lenient"); err == nil {
		t.Error("a file of nothing that is known passes for a configuration of Kuma's")
	}
}

// FuzzParse: any line and any file ends without a panic, and what is accepted compiles or is refused by Compile alone.
func FuzzParse(f *testing.F) {
	f.Add("--redirect-all-dns-traffic --vnet docker0:172.17.0.0/16", "redirect: {inbound: {excludePorts: [80]}}",
		"VERBOSE=1")
	f.Add("uninstall --iptables-executables a:b,c", "{\"wait\": [1]}", "REDIRECT_VNET_NETWORKS=,")
	f.Add("--exclude-outbound-ports-for-uids tcp:1-2:3;;", "iptablesExecutables: {iptables: [x]}", "X")
	f.Fuzz(func(_ *testing.T, line, file, env string) {
		w := world(map[string]string{"/f": file, "/etc/passwd": passwdFile, "/etc/resolv.conf": file}, envPrefix+env)
		r, err := Parse(append(strings.Fields(line), "--config", "/f"), w)
		if err == nil && r.Action != peers.Help {
			_, _ = intercept.Compile(r.Config)
		}
	})
}
