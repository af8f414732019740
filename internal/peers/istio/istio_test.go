package istio

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
)

// injected is what Istio's template gives its init container, with its defaults.
const injected = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -b * -d 15090,15021,15020 --log_output_level=default:info"

// world is a pod with an address of each family, the IPv4 one first, unless others are given.
func world(environ []string, addrs ...string) peers.World {
	if addrs == nil {
		addrs = []string{"127.0.0.1", "::1", "10.244.0.5", "fe80::1", "fd00:244::5"}
	}
	files := map[string]string{
		"/etc/passwd":      "root:x:0:0::/:\nistio-proxy:x:1444:1445::/:\nenvoy:x:1555:1555::/:\n",
		"/etc/group":       "root:x:0:\nstaff:x:50:\n",
		"/etc/resolv.conf": "search x\nnameserver 10.96.0.10\nnameserver fd00:96::a\n",
	}
	return peers.World{
		Environ: environ,
		ReadFile: func(name string) ([]byte, error) {
			if text, ok := files[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		Addresses: func(dataplane.Pod) (all []netip.Addr, err error) {
			for _, a := range addrs {
				all = append(all, netip.MustParseAddr(a))
			}
			return all, nil
		},
	}
}

// TestMeaning holds what command lines come to: what of the configuration differs from that of the template's.
func TestMeaning(t *testing.T) {
	type env = []string
	for _, tc := range []struct {
		args string // words, with "" for an empty one
		env  env
		addr []string
		want string // the difference: fields in JSON, or what a warning or an error has
		warn []string
		fail string
	}{
		{args: ""},
		{args: "-b 80,443", want: `inbound.excludePorts "" inbound.includePorts "80,443"`},
		{args: "-b 80,443 -d http", want: `inbound.excludePorts "" inbound.includePorts "80,443"`},
		{args: "-b 80,443 -d 22,443", want: `inbound.excludePorts "" inbound.includePorts "80,443"`,
			warn: []string{"(-d): 443 is captured all the same"}},
		{args: `-b ""`, want: `inbound.excludePorts "" inbound.includePorts ""`},
		{args: `-i ""`, want: `outbound.includeCIDRs ""`},
		{args: `-i 10.0.0.1/8,fd00::/8 -x 10.9.9.9/16`,
			want: `outbound.excludeCIDRs "10.9.0.0/16" outbound.includeCIDRs "10.0.0.0/8,fd00::/8"`},
		{args: `-o 80,1000:2000,80-90,:7,65000: -q 0x1F`,
			want: `outbound.excludePorts "80,1000-2000,80-90,1-7,65000-65535" outbound.includePorts "31"`},
		{args: `-o 0,22`, want: `outbound.excludePorts "22"`, warn: []string{"0 is no port"}},
		{args: "-m TPROXY -t 7 -r 9",
			want: `inbound.mode "tproxy" inbound.tproxy.mark "0x7" inbound.tproxy.table 9`},
		{args: `-m TPROXY -b ""`, want: `inbound.excludePorts "" inbound.includePorts ""`},
		{args: "-m tproxy", warn: []string{`"tproxy" is taken for REDIRECT`}},
		{args: "-u 3,4", want: `proxy.gids "3,4" proxy.uids "3,4"`},
		{args: "-u 3 -g 5-7", want: `proxy.gids "5-7" proxy.uids "3"`},
		{args: `-u ""`, want: `proxy.gids "1444" proxy.uids "1444"`},
		{args: `-u ""`, env: env{"ENVOY_USER=envoy"}, want: `proxy.gids "1555" proxy.uids "1555"`},
		{args: `-u ""`, env: env{"ENVOY_USER=nobody-has-it"}},
		{args: "-u envoy -g staff", want: `proxy.gids "50" proxy.uids "1555"`},
		{args: "-u 0", want: `proxy.allowRoot true proxy.gids "0" proxy.uids "0"`},
		{args: "-c eth1,net+ -k tap0", want: `dns.virtual false excludeInterfaces "eth1,net*" virtualInterfaces "tap0"`},
		{args: "-c net*", warn: []string{`"net*"`}},
		{args: "--native-nftables -c net*", want: `excludeInterfaces "net*"`},
		{args: "--drop-invalid", want: `inbound.dropInvalid true`},
		{env: env{"INVALID_DROP=1"}, want: `inbound.dropInvalid true`},
		{args: "--drop-invalid=false", env: env{"DROP_INVALID=true"}},
		{env: env{"DROP_INVALID=true", "INVALID_DROP=false"}},
		{env: env{"DROP_INVALID=maybe", "ISTIO_DUAL_STACK="}, warn: []string{`DROP_INVALID: "maybe"`}},
		{args: "--dual-stack", want: `families "auto"`},
		{args: "--dual-stack", addr: []string{"10.0.0.1"}},
		{env: env{"ISTIO_DUAL_STACK=true"}, want: `families "auto"`},
		{addr: []string{"fd00::5", "::1", "127.0.0.1"}, want: `families "auto"`},
		{addr: []string{"fd00::5", "169.254.1.1"}, want: `families "auto"`},
		{addr: []string{"::6", "10.0.0.1"}}, // the proxy's own source, which an apply has put on lo
		{addr: []string{"fd00::5", "10.0.0.1"}, warn: []string{"IPv6 is outside the mesh"}},
		{args: "--redirect-dns", want: `dns.mode "resolvconf" dns.servers "10.96.0.10,fd00:96::a"`},
		{args: "--redirect-dns --capture-all-dns", want: `dns.mode "all"`},
		{args: "--capture-all-dns", warn: []string{"no effect without --redirect-dns"}},
		{env: env{"ISTIO_META_DNS_CAPTURE=true", "CAPTURE_ALL_DNS=true"}, want: `dns.mode "all"`},
		{env: env{"ISTIO_OUTBOUND_OWNER_GROUPS=staff,2000"}, want: `outbound.includeGIDs "50,2000"`},
		{env: env{"ISTIO_OUTBOUND_OWNER_GROUPS="}, want: `outbound.includeCIDRs ""`, warn: []string{"nothing outbound"}},
		{env: env{"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=staff"}, want: `outbound.excludeGIDs "50"`},
		{env: env{"ISTIO_OUTBOUND_OWNER_GROUPS=7", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=8"},
			want: `outbound.includeGIDs "7"`, warn: []string{"no effect beside"}},
		{env: env{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.1/8"}, want: `loopback "127.0.0.0/8,::1"`},
		{args: "-e 0", want: `tunnelPort 0`},
		{args: "-p 15001-15004", want: `outbound.port "15001-15004"`},
		{env: env{"ENVOY_PORT=1"}}, // the one flag without a variable
		{env: env{"INBOUND_CAPTURE_PORT=7"}},
		{args: `-b "" -i ""`,
			want: `inbound.excludePorts "" inbound.includePorts "" outbound.includeCIDRs "240.0.0.0/32"`,
			warn: []string{"nothing is captured but the proxy's calls"}},
		{args: "sidecar now", warn: []string{`"sidecar now"`}},
		{args: "--cni-mode --reconcile --force-apply=false --vklog=3",
			warn: []string{"--cni-mode has no meaning here", "--reconcile has", "--vklog has"}},
		{args: "--log_target stdout --log_output_level=default:loud", warn: []string{"--log_target", `"loud"`}},

		{args: "-b *,80", fail: "--istio-inbound-ports (-b): \"*,80\": * is all ports only where it stands alone"},
		{args: "-d *", fail: "--istio-local-exclude-ports (-d): * is not a list of ports"},
		{args: "-o http", fail: `--istio-local-outbound-ports-exclude (-o): "http" is neither a port`},
		{args: "-z 70000", fail: `--inbound-capture-port (-z): "70000" is not a port`},
		{args: "-z 15001", fail: "--inbound-capture-port (-z): port 15001 is also"},
		{args: "-i 10.0.0.1", fail: `--istio-service-cidr (-i): "10.0.0.1" is not a CIDR`},
		{args: "-x *", fail: "--istio-service-exclude-cidr (-x): * would exclude everything"},
		{args: "-u nobody-has-it", fail: `--proxy-uid (-u): "nobody-has-it" is no number of a user`},
		{args: "-c a-name-that-is-too-long", fail: "--istio-exclude-interfaces (-c): interface"},
		{args: "-m TPROXY -t x", fail: `--istio-inbound-tproxy-mark (-t): "x" is not a number`},
		{args: "-m TPROXY -t 1338", fail: "--istio-inbound-tproxy-mark (-t): "},
		{args: "-m TPROXY -r 254", fail: "--istio-inbound-tproxy-route-table (-r): 254 is the kernel's own"},
		{args: "--force-iptables-binary new", fail: `--force-iptables-binary: "new" is neither legacy nor nft`},
		{args: "--no-such-flag", fail: "unknown flag: --no-such-flag"},
		{args: "--dual-stack=banana", fail: "invalid argument"},
		{env: env{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=10.0.0.0/8"}, fail: "is not a part of 127.0.0.0/8"},
		{env: env{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.2/32"}, fail: "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: 127.0.0.1 is"},
	} {
		name := strings.Join(append(tc.env, tc.args), " ")
		r, err := Parse(append(strings.Fields(injected), words(tc.args)...), world(tc.env, tc.addr...))
		if tc.fail != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fail) {
				t.Errorf("%s: error %v, should have %q", name, err, tc.fail)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := differences(t, r.Config); got != tc.want {
			t.Errorf("%s:\n%s\nshould be\n%s", name, got, tc.want)
		}
		warnings := slices.DeleteFunc(slices.Clone(r.Warnings), func(w string) bool { return strings.HasPrefix(w, "IPv6 is outside") })
		if tc.addr != nil {
			warnings = r.Warnings
		}
		if len(warnings) != len(tc.warn) {
			t.Errorf("%s: warnings %q", name, warnings)
		}
		for _, part := range tc.warn {
			if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, part) }) {
				t.Errorf("%s: warnings %q, one should have %q", name, warnings, part)
			}
		}
	}
}

func words(line string) []string {
	all := strings.Fields(line)
	for i, w := range all {
		if w == `""` {
			all[i] = ""
		}
	}
	return all
}

// differences returns the fields that are not as the template has them.
func differences(t *testing.T, c intercept.Config) string {
	t.Helper()
	usual := intercept.Default()
	usual.Inbound.CaptureForwarded = true // in all
	usual.Families = intercept.FamiliesIPv4
	a, b := map[string]string{}, map[string]string{}
	for into, config := range map[*map[string]string]intercept.Config{&a: usual, &b: c} {
		text, err := json.Marshal(config)
		var tree any
		if err == nil {
			err = json.Unmarshal(text, &tree)
		}
		if err != nil {
			t.Fatal(err)
		}
		flatten(*into, "", tree)
	}
	var parts []string
	for path, value := range b {
		if value != a[path] && !(path == "inbound.excludePorts" && value == `"15090,15021,15020"`) {
			parts = append(parts, path+" "+value)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func flatten(into map[string]string, path string, v any) {
	if m, is := v.(map[string]any); is {
		for k, v := range m {
			flatten(into, strings.TrimPrefix(path+"."+k, "."), v)
		}
		return
	}
	text, _ := json.Marshal(v)
	into[path] = string(text)
	if _, is := v.([]any); is {
		into[path] = `"` + strings.NewReplacer("[", "", "]", "", `"`, "").Replace(string(text)) + `"`
	}
}

// TestActions: what is to be done, and where.
func TestActions(t *testing.T) {
	for args, want := range map[string]peers.Request{
		"":                           {Action: peers.Apply},
		"-n":                         {Action: peers.Render},
		"--cleanup-only":             {Action: peers.Remove},
		"--cleanup-only --dry-run":   {Action: peers.Remove},
		"--skip-rule-apply":          {Action: peers.Nothing},
		"--run-validation":           {Action: peers.Apply, Validation: &peers.Validation{Timeout: 5 * time.Second, Port: 15002}},
		"--log_as_json":              {Action: peers.Apply, LogFormat: "json"},
		"--log_output_level=error":   {Action: peers.Apply, LogLevel: "error"},
		"--log_output_level=a:debug": {Action: peers.Apply},
		"--skip-rule-apply --run-validation --iptables-probe-port 9 --probe-timeout 2m": {Action: peers.Nothing,
			Validation: &peers.Validation{Timeout: 2 * time.Minute, Port: 9}},
		"--network-namespace /run/netns/x":   {Action: peers.Apply, Pod: dataplane.Pod{NetNS: "/run/netns/x"}},
		"--native-nftables":                  {Action: peers.Apply, Pod: dataplane.Pod{Backend: dataplane.BackendNFT}},
		"--force-iptables-binary nft":        {Action: peers.Apply, Pod: dataplane.Pod{Backend: dataplane.BackendNFT}},
		"--force-iptables-binary=legacy":     {Action: peers.Apply, Pod: dataplane.Pod{Backend: dataplane.BackendIPTablesLegacy}},
		"--allow-host-netns --lenient -b 80": {Action: peers.Apply, Pod: dataplane.Pod{AllowHostNetNS: true}, Lenient: true},
	} {
		w := world(nil, "10.0.0.1")
		w.HasPrograms = func(dataplane.Backend) bool { return true }
		got, err := Parse(append([]string{"-b", "*"}, strings.Fields(args)...), w)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		want.Pod.LeaksSaid = true
		got.Config, got.Warnings = want.Config, want.Warnings
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b intercept.Config) bool { return true })); diff != "" {
			t.Errorf("%s: -expected +found\n%s", args, diff)
		}
	}
	r, err := Parse([]string{"-b", "*", "--force-iptables-binary=legacy"}, world(nil, "10.0.0.1"))
	if err != nil || r.Pod.Backend != dataplane.BackendAuto || len(r.Warnings) != 1 {
		t.Errorf("without programs: %v, %+v", err, r)
	}
	if r, err := Parse([]string{"--help"}, world(nil)); err != nil || r.Action != peers.Help ||
		!strings.Contains(r.Text, "-p, --envoy-port") {
		t.Errorf("help: %v, %+v", err, r)
	}
}

// TestLookupsOfNobody: DNS capture that would capture nothing is refused, and --lenient leaves DNS alone as the peer.
func TestLookupsOfNobody(t *testing.T) {
	for resolv, want := range map[string]string{
		"search x\n": "--redirect-dns: /etc/resolv.conf names no server, so no lookup would be captured; use " +
			"--capture-all-dns; --lenient accepts it all the same",
		"nameserver fd00:96::a\n": "--redirect-dns: /etc/resolv.conf names IPv6 servers alone, and IPv6 is not captured; " +
			"use --dual-stack or --capture-all-dns; --lenient accepts it all the same",
	} {
		w := world(nil, "10.0.0.1")
		w.ReadFile = func(string) ([]byte, error) { return []byte(resolv), nil }
		args := []string{"-b", "*", "-u", "1337", "--redirect-dns"}
		if _, err := Parse(args, w); err == nil || err.Error() != want {
			t.Errorf("%q: %v", resolv, err)
		}
		r, err := Parse(append(args, "--lenient"), w)
		if err != nil || r.Config.DNS.Mode != intercept.DNSOff || len(r.Warnings) != 1 {
			t.Errorf("%q: --lenient: %v, %+v", resolv, err, r)
		}
	}
}

// TestManyMistakes: however long what is wrong, it is refused at once, in a text that can be read.
func TestManyMistakes(t *testing.T) {
	many := func(pattern string) string {
		var all []string
		for i := range 20_000 {
			all = append(all, strings.ReplaceAll(pattern, "#", strconv.Itoa(i)))
		}
		return strings.Join(all, ",")
	}
	for _, args := range [][]string{
		{"-o", many("x#")}, {"-b", many("x#")}, {"-i", many("x#")}, {"-x", many("10.#")}, {"-u", many("x#")},
		{"-c", many("a-name-that-is-far-too-long#")}, {"-k", many("x#*")}, {"-b", many("80"), "-d", many("80")},
		{"--" + many("x#")}, {"--dual-stack=" + many("x#")}, {"--log_output_level", many("default:x#")},
		{many("x#")}, {"-z", many("1#")}, {"-m", many("1#")}, {"--force-iptables-binary", many("1#")},
	} {
		r, err := Parse(append([]string{"-i", "*"}, args...), world([]string{"DROP_INVALID=" + many("x#")}))
		text := strings.Join(r.Warnings, "\n")
		if err != nil {
			text += err.Error()
		}
		if len(text) > 8<<10 || err == nil && len(r.Warnings) == 0 {
			t.Errorf("%.40q: %d bytes: %.400s", args, len(text), text)
		}
	}
}

// TestFlags: the parser has the peer's flags, in its order, with its letters and defaults, and ours at the end.
func TestFlags(t *testing.T) {
	text, err := os.ReadFile("testdata/flags")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			want = append(want, strings.Join(strings.Fields(line), " "))
		}
	}
	l := &line{}
	l.define()
	l.flags.VisitAll(func(f *pflag.Flag) {
		words := []string{"--" + f.Name}
		if f.Shorthand != "" {
			words = append(words, "-"+f.Shorthand)
		}
		if f.DefValue != "" {
			words = append(words, "="+f.DefValue)
		}
		if !strings.Contains(f.Name, "_") && f.Name != "help" && f.Name != "vklog" {
			words = append(words, variables(f.Name)...)
		}
		got = append(got, strings.Join(words, " "))
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-testdata/flags +parser\n%s", diff)
	}
}

// TestPage: the page on switching has a row for each flag, with its variables.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/migrate-istio.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, " | "); len(cells) == 3 && strings.HasPrefix(line, "| `--") {
			for word := range strings.SplitSeq(strings.TrimPrefix(cells[0], "| "), ", ") {
				rows[strings.Trim(word, "`")] = cells[1]
			}
		}
	}
	l := &line{}
	l.define()
	l.flags.VisitAll(func(f *pflag.Flag) {
		var want []string
		if !strings.Contains(f.Name, "_") && f.Name != "help" && f.Name != "vklog" {
			want = variables(f.Name)
		}
		found, row := rows["--"+f.Name]
		_, letter := rows["-"+f.Shorthand]
		if !row || f.Shorthand != "" && !letter {
			t.Errorf("docs/migrate-istio.md has no row for --%s, -%s", f.Name, f.Shorthand)
		}
		if got := strings.ReplaceAll(found, "`", ""); got != "none" && got != strings.Join(want, ", ") ||
			got == "none" && want != nil {
			t.Errorf("docs/migrate-istio.md: --%s: variables %q, should be %q", f.Name, got, want)
		}
	})
}

// FuzzParse: no line and no variable makes it panic, and what it accepts compiles.
func FuzzParse(f *testing.F) {
	f.Add(injected, "ISTIO_OUTBOUND_OWNER_GROUPS=1")
	f.Add("-m TPROXY -b 80,443 -k tap0 -c net+", "ISTIO_META_DNS_CAPTURE=true")
	f.Fuzz(func(t *testing.T, args, env string) {
		r, err := Parse(words(args), world(strings.Split(env, "\n")))
		if err != nil || r.Action != peers.Apply {
			return
		}
		if _, err := intercept.Compile(r.Config); err != nil {
			t.Error(err)
		}
	})
}
