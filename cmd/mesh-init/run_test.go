package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/verify"
)

// result is what a run left behind.
type result struct {
	code        int
	out, stderr string
}

func (r result) lines() []string {
	return strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
}

// noKernel is a plane that must not be reached.
type noKernel struct{ t *testing.T }

func (k noKernel) Apply(context.Context, intercept.Config) (dataplane.Result, error) {
	k.t.Error("apply reached the kernel")
	return dataplane.Result{}, errors.New("unreachable")
}

func (k noKernel) Check(context.Context, intercept.Config) ([]intercept.Difference, error) {
	k.t.Error("check reached the kernel")
	return nil, errors.New("unreachable")
}

func (k noKernel) Remove(context.Context) (bool, error) {
	k.t.Error("remove reached the kernel")
	return false, errors.New("unreachable")
}

func (k noKernel) Status(context.Context) (dataplane.Status, error) {
	k.t.Error("status reached the kernel")
	return dataplane.Status{}, errors.New("unreachable")
}

func (k noKernel) Overview(context.Context) (dataplane.Overview, error) {
	k.t.Error("status reached the kernel")
	return dataplane.Overview{}, errors.New("unreachable")
}

func (k noKernel) InForce(context.Context) (dataplane.InForce, error) {
	k.t.Error("a look at what is in force reached the kernel")
	return dataplane.InForce{}, errors.New("unreachable")
}

func (k noKernel) Verify(context.Context, intercept.Config) (verify.Report, error) {
	k.t.Error("verify reached the kernel")
	return verify.Report{}, errors.New("unreachable")
}

func (k noKernel) Foreign(context.Context) (dataplane.Foreign, error) {
	k.t.Error("looking for others reached the kernel")
	return dataplane.Foreign{}, errors.New("unreachable")
}

func (k noKernel) RemoveForeign(context.Context, beside.Mesh, bool) (dataplane.Removal, error) {
	k.t.Error("remove reached the kernel")
	return dataplane.Removal{}, errors.New("unreachable")
}

func (k noKernel) Trace(context.Context, dataplane.TraceOptions) (dataplane.TraceSummary, error) {
	k.t.Error("trace reached the kernel")
	return dataplane.TraceSummary{}, errors.New("unreachable")
}

func (k noKernel) Watch(context.Context, dataplane.WatchOptions) (dataplane.WatchSummary, error) {
	k.t.Error("watch reached the kernel")
	return dataplane.WatchSummary{}, errors.New("unreachable")
}

func (k noKernel) Arrive(context.Context, netip.AddrPort, netip.AddrPort) error {
	k.t.Error("a validator reached the kernel")
	return errors.New("unreachable")
}

func (k noKernel) Do(context.Context, func() error) error {
	k.t.Error("support reached the kernel")
	return errors.New("unreachable")
}

func (k noKernel) Probe(context.Context, intercept.Config) (dataplane.Report, error) {
	k.t.Error("doctor reached the kernel")
	return dataplane.Report{}, errors.New("unreachable")
}

// invoke runs the command without a kernel beneath it.
func invoke(t *testing.T, stdin string, env []string, args ...string) result {
	t.Helper()
	return invokeOn(t, noKernel{t}, stdin, env, args...)
}

func invokeOn(t *testing.T, p plane, stdin string, env []string, args ...string) result {
	t.Helper()
	var out, stderr bytes.Buffer
	prog := program{strings.NewReader(stdin), &out, &stderr, func(dataplane.Pod) plane { return p }}
	code := prog.run(t.Context(), args, env)
	return result{code, out.String(), stderr.String()}
}

// configOf returns the configuration that flags, environment and file come to.
func configOf(t *testing.T, file string, env []string, args ...string) map[string]any {
	t.Helper()
	args = append([]string{"render", "-o", "json"}, args...)
	if file != "" {
		args = append(args, "--config", "-")
	}
	r := invoke(t, file, env, args...)
	if r.code != cli.ExitDone {
		t.Fatalf("mesh-init %q: exit code %d\n%s", args, r.code, r.stderr)
	}
	var v struct {
		Config map[string]any `json:"config"`
	}
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatal(err)
	}
	return v.Config
}

func TestPrecedence(t *testing.T) {
	const file = "outbound:\n  port: 1\n  excludePorts: [10]\ninbound:\n  excludePorts: []\ndns:\n  port: 4\n"
	env := []string{"MESH_OUTBOUND_PORT=2", "MESH_OUTBOUND_EXCLUDE_PORTS=20", "PATH=/bin"}
	for _, tc := range []struct {
		name string
		file string
		env  []string
		args []string
		want map[string]any // by path
	}{
		{"defaults", "", nil, nil, map[string]any{
			"outbound.port": 15001.0, "outbound.includeCIDRs": "*", "outbound.excludePorts": []any{},
			"inbound.excludePorts": []any{15020.0, 15021.0, 15090.0},
		}},
		{"a file before the defaults, its lists replacing theirs", file, nil, nil, map[string]any{
			"outbound.port": 1.0, "outbound.includeCIDRs": "*", "outbound.excludePorts": []any{10.0},
			"inbound.excludePorts": []any{}, "inbound.port": 15006.0, "dns.port": 4.0,
		}},
		{"the environment before the file", file, env, nil, map[string]any{
			"outbound.port": 2.0, "outbound.excludePorts": []any{20.0}, "dns.port": 4.0,
		}},
		{"flags before the environment", file, env, []string{"--outbound-port=3", "--outbound-exclude-ports", "none"},
			map[string]any{
				"outbound.port": 3.0, "outbound.excludePorts": []any{}, "dns.port": 4.0,
			}},
		{"a switch can be turned off again", "inbound: {dropInvalid: true}\nproxy: {allowRoot: true}",
			[]string{"MESH_DROP_INVALID=false"}, []string{"--allow-root-proxy=false"}, map[string]any{
				"inbound.dropInvalid": false, "proxy.allowRoot": false,
			}},
		{"a flag repeated replaces what the environment lists", "", []string{"MESH_OUTBOUND_EXCLUDE=tcp :1; udp :2"},
			[]string{"--outbound-exclude", "tcp :3", "--outbound-exclude", "uid=7"}, map[string]any{
				"outbound.exclude": []any{
					map[string]any{"protocol": "tcp", "ports": []any{3.0}},
					map[string]any{"uids": []any{7.0}},
				},
			}},
		{"an environment lists with semicolons", "", []string{"MESH_OUTBOUND_EXCLUDE=tcp :1; udp :2"}, nil, map[string]any{
			"outbound.exclude": []any{
				map[string]any{"protocol": "tcp", "ports": []any{1.0}},
				map[string]any{"protocol": "udp", "ports": []any{2.0}},
			},
		}},
		{"no tunnel port", "", nil, []string{"--tunnel-port", "none"}, map[string]any{"tunnelPort": 0.0}},
		{"spaces around the items of a list", "", nil, []string{"--exclude-interfaces", "net1, net2*"}, map[string]any{
			"excludeInterfaces": []any{"net1", "net2*"},
		}},
		// YAML 1.1 reads off as false, and decoders by way of JSON pass that on.
		{"YAML's off is a word here", "inbound: {mode: off}\ndns: {mode: off}", nil, nil, map[string]any{
			"inbound.mode": "off", "dns.mode": "off",
		}},
		{"JSON with tabs", "{\n\t\"dns\": {\n\t\t\"port\": 5353\n\t}\n}", nil, nil, map[string]any{"dns.port": 5353.0}},
		{"lists as text",
			`inbound: {excludePorts: "80,8000-8010"}` + "\n" + `outbound: {excludeCIDRs: ["10.0.0.0/8", "fd00::/8"], ` +
				`includeCIDRs: "*"}`, nil, nil, map[string]any{
				"inbound.excludePorts": []any{80.0, "8000-8010"}, "outbound.excludeCIDRs": []any{"10.0.0.0/8", "fd00::/8"},
			}},
		{"Kubernetes' variables for Services are not ours", "", []string{
			"MESH_SERVICE_HOST=10.0.0.1", "MESH_SERVICE_PORT=80", "MESH_SERVICE_PORT_HTTP=80",
			"MESH_PORT=tcp://10.0.0.1:80", "MESH_PORT_80_TCP=tcp://10.0.0.1:80", "MESH_PORT_80_TCP_PROTO=tcp",
			"MESH_PORT_80_TCP_PORT=80", "MESH_PORT_80_TCP_ADDR=10.0.0.1", "MESH_DNS_SERVERS_SERVICE_HOST=10.0.0.2",
			"MESH_TEST_REQUIRE=1",
		}, nil, map[string]any{"outbound.port": 15001.0}},
		{"a flag where a Service's variable has the flag's name", "", []string{"MESH_INBOUND_PORT=tcp://10.0.0.1:80"},
			[]string{"--inbound-port", "7"}, map[string]any{"inbound.port": 7.0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := configOf(t, tc.file, tc.env, tc.args...)
			for path, want := range tc.want {
				var v any = got
				for name := range strings.SplitSeq(path, ".") {
					v = v.(map[string]any)[name]
				}
				if diff := cmp.Diff(want, v); diff != "" {
					t.Errorf("%s (-want +got):\n%s", path, diff)
				}
			}
		})
	}
}

func TestServersOfResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("search x\nnameserver 10.0.0.10\nnameserver fd00::10%eth0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want []any
	}{
		{[]string{"--dns", "resolvconf", "--resolv-conf", path}, []any{"10.0.0.10", "fd00::10"}},
		{[]string{"--dns", "resolvconf", "--resolv-conf", path, "--dns-servers", "10.9.9.9"}, []any{"10.9.9.9"}},
		// Neither of these reads the file.
		{[]string{"--dns", "resolvconf", "--resolv-conf", "/nonexistent", "--dns-servers", "10.9.9.9"}, []any{"10.9.9.9"}},
		{[]string{"--dns", "all", "--resolv-conf", "/nonexistent"}, []any{}},
	} {
		got := configOf(t, "", nil, tc.args...)["dns"].(map[string]any)["servers"]
		if diff := cmp.Diff(any(tc.want), got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.args, diff)
		}
	}
}

// TestMistakes holds that every mistake is reported, each on a line that
// names the token and where it stands, and that nothing is done.
func TestMistakes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.conf")
	if err := os.WriteFile(empty, []byte("search x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		verb string // apply, if none is said; "-": it is the first of args
		args []string
		env  []string
		file string   // given as --config -
		want []string // what the lines contain, in order
	}{
		{name: "unknown flag", args: []string{"--outbond-port", "15001"},
			want: []string{"--outbond-port: unknown flag; did you mean --outbound-port?"}},
		{name: "abbreviated flag", args: []string{"--outbound-p", "15001"}, want: []string{"--outbound-p: unknown flag"}},
		{name: "one dash", args: []string{"-dns=all"}, want: []string{"-dns: unknown flag; did you mean --dns?"}},
		{name: "one dash, and an h in it", args: []string{"-allow-host-netns"},
			want: []string{"-allow-host-netns: unknown flag; did you mean"}},
		{name: "one letter", args: []string{"-x", "-b"}, want: []string{"-x: unknown flag", "-b: unknown flag"}},
		{name: "a flag of go test", args: []string{"-test.v"}, want: []string{"-test.v: unknown flag"}},
		{name: "dashes alone", args: []string{"---", "--=x", "-"},
			want: []string{"---: unknown flag", "--: unknown flag", `"-" is left over`}},
		{name: "unknown variable", env: []string{"MESH_OUTBOND_PORT=15001"},
			want: []string{"MESH_OUTBOND_PORT: unknown variable; did you mean MESH_OUTBOUND_PORT?"}},
		{name: "a variable for what is no setting", env: []string{"MESH_DST=10.0.0.1:1", "MESH_DRY_RUN=true",
			"MESH_HELP=true"},
			want: []string{"MESH_DRY_RUN: unknown variable", "MESH_DST: unknown variable", "MESH_HELP: unknown variable"}},
		{name: "variables of others, and misspelt ones of ours", env: []string{"MESH_ID=1", "MESH_EXCLUDE_CIDR=10.0.0.0/8",
			"MESH_DN5=all", "MESH_INBUOND_PORT=1"},
			want: []string{"MESH_DN5: unknown variable; did you mean MESH_DNS?",
				"MESH_EXCLUDE_CIDR: unknown variable; did you mean MESH_OUTBOUND_EXCLUDE_CIDRS?",
				"MESH_INBUOND_PORT: unknown variable; did you mean MESH_INBOUND_PORT?"}},
		{name: "file of a later version", file: "outbound: {port: 15001}\napiVersion: intercept/v2\n",
			want: []string{"standard input: apiVersion: unknown field; the fields here are proxy, outbound"}},
		{name: "unknown field", file: "outbound: {excludePort: [80]}\nOutbound: {}\n",
			want: []string{"standard input: Outbound: unknown field; did you mean outbound?",
				"standard input: outbound.excludePort: unknown field; did you mean excludePorts?"}},
		{name: "field twice", file: "outbound:\n  port: 1\n  port: 2\n",
			want: []string{`standard input: outbound.port: "port" is there twice, first on line 2 (line 3)`}},
		{name: "positional", args: []string{"--drop-invalid", "foo"},
			want: []string{`"foo" is left over: apply takes flags only`}},
		{name: "after two dashes", args: []string{"--", "--dns", "all"},
			want: []string{`"--dns" is left over`, `"all" is left over`}},
		{name: "a switch's value apart", args: []string{"--drop-invalid", "false"},
			want: []string{`--drop-invalid: "false" is left over: a switch's value is written --drop-invalid=false`}},
		{name: "not a verb", verb: "-", args: []string{"aply"}, want: []string{`"aply" is not a verb; did you mean apply?`}},
		{name: "empty verb", verb: "-", args: []string{""}, want: []string{`"" is not a verb; the verbs are apply, remove`}},
		{name: "empty flag", args: []string{"--outbound-include-cidrs="},
			want: []string{`--outbound-include-cidrs: empty value ""; leave it out for the default (*), or write "none"`}},
		{name: "empty next argument", args: []string{"--netns", ""},
			want: []string{`--netns: empty value ""; leave it out, or write PATH`}},
		{name: "empty variable", env: []string{"MESH_DNS="},
			want: []string{`MESH_DNS: empty value ""; leave it out, or write off or resolvconf or all`}},
		{name: "empty switch", args: []string{"--drop-invalid="},
			want: []string{`--drop-invalid: empty value ""; leave it out, or write true or false`}},
		{name: "a flag for a value", args: []string{"--outbound-port", "--dns", "all"},
			want: []string{`--outbound-port: a value is missing: "--dns" looks like a flag`}},
		{name: "what looks like a flag for a value", args: []string{"--netns", "-b"},
			want: []string{`--netns: "-b" looks like a flag`}},
		{name: "value missing at the end", args: []string{"--outbound-port"},
			want: []string{"--outbound-port: a value is missing: write --outbound-port PORT"}},
		{name: "given twice", args: []string{"--outbound-exclude-ports", "80", "--outbound-exclude-ports=81"},
			want: []string{`--outbound-exclude-ports: given twice, "80" and "81"`}},
		{name: "switch twice", args: []string{"--drop-invalid", "--drop-invalid=false"},
			want: []string{`--drop-invalid: given twice, "true" and "false"`}},
		{name: "switch in words", env: []string{"MESH_DROP_INVALID=yes"},
			want: []string{`MESH_DROP_INVALID: "yes" is not one of true, false`}},
		{name: "wrong verb", verb: "check", args: []string{"--dry-run"},
			want: []string{"--dry-run: check does not use it; it is for apply"}},
		{name: "configuration for remove", verb: "remove", args: []string{"--dns", "all"},
			want: []string{"--dns: remove does not use it; it is for apply, check, render, explain"}},
		{name: "a namespace for explain", verb: "explain", args: []string{"--dst", "10.0.0.1:1", "--netns", "/x"},
			want: []string{"--netns: explain does not use it"}},
		{name: "choice", args: []string{"--dns", "on"}, env: []string{"MESH_BACKEND=ebpf"},
			want: []string{`--dns: "on" is not one of off, resolvconf, all`,
				`MESH_BACKEND: "ebpf" is not one of auto, nft, iptables, iptables-nft, iptables-legacy`}},

		{name: "port 0", args: []string{"--outbound-port", "0"}, want: []string{`--outbound-port: port "0"`}},
		{name: "port 65536", args: []string{"--inbound-port", "65536"},
			want: []string{`--inbound-port: "65536" is not a port`}},
		{name: "dns port 0", args: []string{"--dns-port", "0"},
			want: []string{`dns.port: port "0": 0 is not a port; ports are 1 to 65535 (from --dns-port)`}},
		{name: "range for one port", args: []string{"--tunnel-port", "1-2"},
			want: []string{`--tunnel-port: "1-2" is a range`}},
		{name: "range backwards", env: []string{"MESH_OUTBOUND_EXCLUDE_PORTS=80-70"},
			want: []string{`MESH_OUTBOUND_EXCLUDE_PORTS: port range "80-70" ends before it begins`}},
		{name: "two commas", args: []string{"--inbound-include-ports", "80,,90"},
			want: []string{`--inbound-include-ports: empty item in "80,,90"`}},
		{name: "several in a list", args: []string{"--inbound-include-ports", "80,x,0"},
			want: []string{`--inbound-include-ports: "x" is not a port`, `--inbound-include-ports: port "0"`}},
		{name: "host bits", args: []string{"--outbound-exclude-cidrs", "10.0.0.1/8"},
			want: []string{`--outbound-exclude-cidrs: CIDR "10.0.0.1/8" has host bits set; write 10.0.0.0/8`}},
		{name: "IPv4 as IPv6", args: []string{"--inbound-exclude-sources", "::ffff:10.0.0.0/104"},
			want: []string{`--inbound-exclude-sources: CIDR "::ffff:10.0.0.0/104" is IPv4 written as IPv6`}},
		{name: "long interface", args: []string{"--exclude-interfaces", "eth0,abcdefghijklmnop"},
			want: []string{`excludeInterfaces: interface "abcdefghijklmnop" has 16 bytes; a name has at most 15 (IFNAMSIZ) ` +
				`(from --exclude-interfaces)`}},
		{name: "empty interface", args: []string{"--exclude-interfaces", "eth0,,eth1,none"},
			want: []string{`--exclude-interfaces: empty item in "eth0,,eth1,none"`, `--exclude-interfaces: "none" in`}},
		{name: "UID -1", args: []string{"--proxy-uid", "-1"}, want: []string{`--proxy-uid: "-1" looks like a flag`}},
		{name: "UID too large", args: []string{"--proxy-uid", "4294967295", "--include-gids", "4294967296"},
			want: []string{`--proxy-uid: ID "4294967295" is over 4294967294`,
				`--include-gids: "4294967296" is not a user or group ID`}},
		{name: "user by name", args: []string{"--exclude-uids", "root"},
			want: []string{`--exclude-uids: "root" is not a user or group ID`}},
		{name: "address", args: []string{"--dns-servers", "10.0.0.10:53,x"},
			want: []string{`--dns-servers: "10.0.0.10:53" is not an address`, `--dns-servers: "x" is not an address`}},
		{name: "exclusions", args: []string{"--outbound-exclude", "tcp :0 foo=1", "--outbound-exclude", "fd00::1:53"},
			env: []string{"MESH_OUTBOUND_EXCLUDE=;"}, want: []string{
				`MESH_OUTBOUND_EXCLUDE: "": empty exclusion`, `MESH_OUTBOUND_EXCLUDE: "": empty exclusion`,
				`--outbound-exclude: "tcp :0 foo=1": ":0": port "0"`,
				`--outbound-exclude: "tcp :0 foo=1": "foo=1": unknown property`,
				`--outbound-exclude: "fd00::1:53": "fd00::1:53" can be an IPv6 address, or one and a port`,
			}},

		{name: "one port, two roles", args: []string{"--outbound-port", "15006"},
			want: []string{"inbound.port: port 15006 is also outbound.port (15006); give each its own"}},
		{name: "root proxy", args: []string{"--proxy-uid", "0"},
			want: []string{"proxy.uids: 0: every process that runs as root would escape interception; run the proxy as " +
				"another user, or allow it with --allow-root-proxy"}},
		{name: "no proxy", args: []string{"--proxy-uid", "none", "--proxy-gid", "none"},
			want: []string{"proxy: neither a UID nor a GID"}},
		{name: "nothing captured", args: []string{"--inbound-mode", "off", "--outbound-include-cidrs", "none"},
			want: []string{"this configuration captures nothing: --outbound-include-cidrs and --inbound-mode together leave"}},
		{name: "nothing captured, by an exclusion", args: []string{"--inbound-mode", "off", "--outbound-exclude", "tcp"},
			want: []string{"this configuration captures nothing: --outbound-exclude and --inbound-mode together leave nothing"}},
		{name: "an error hides its consequences only", args: []string{"--inbound-mode", "off", "--outbound-include-cidrs",
			"x", "--loopback", "10.0.0.0/8"},
			want: []string{`--outbound-include-cidrs: "x" is not an address`, "loopback: 10.0.0.0/8 is not inside",
				"loopback: 127.0.0.1 is missing", "loopback: ::1 is missing"}},
		{name: "an error hides no other's field with a longer name", args: []string{"--outbound-exclude", "x"},
			file: "excludeInterfaces: [\"\"]\noutbound: {exclude: [{}, {ports: x}]}\ninbound: {mode: x}\n",
			want: []string{`standard input: outbound.exclude[1].ports: "x" is not a port`,
				`--outbound-exclude: "x": neither a protocol`, `inbound.mode: "x" is not one of`,
				"excludeInterfaces: empty interface name"}},
		{name: "no server", args: []string{"--dns", "resolvconf", "--dns-servers", "none"},
			want: []string{"dns.servers: none, so mode resolvconf would capture no lookup"}},
		{name: "no resolv.conf", args: []string{"--dns", "resolvconf", "--resolv-conf", "/nonexistent"},
			want: []string{"--resolv-conf: open /nonexistent: no such file or directory; name the servers with --dns-servers"}},
		{name: "no server in resolv.conf", args: []string{"--dns", "resolvconf"}, env: []string{"MESH_RESOLV_CONF=" + empty},
			want: []string{"MESH_RESOLV_CONF: " + empty + " names no server; name the servers"}},

		{name: "no file", args: []string{"--config", "/nonexistent/mesh.yaml"},
			want: []string{"--config: open /nonexistent/mesh.yaml: no such file or directory"}},
		{name: "no file, by the environment", env: []string{"MESH_CONFIG=/nonexistent/mesh.yaml"},
			want: []string{"MESH_CONFIG: open /nonexistent/mesh.yaml"}},
		{name: "a directory", args: []string{"--config", "/"}, want: []string{"--config: read /: is a directory"}},
		{name: "empty file", file: "# nothing here\n", want: []string{"standard input: empty file"}},
		{name: "truncated JSON", file: `{"outbound": {"port": 1500`,
			want: []string{"standard input: line 1: did not find expected"}},
		{name: "truncated YAML", file: "inbound:\n  port: 1\noutbound:\n  excludePorts:",
			want: []string{"standard input: outbound.excludePorts: no value"}},
		{name: "YAML truncated in a name", file: "inbound:\n  port: 1\noutb", want: []string{"standard input: line "}},
		{name: "two documents", file: "inbound: {port: 1}\n---\ninbound: {port: 2}\n",
			want: []string{"standard input: more after the end of the first YAML document"}},
		{name: "not fields", file: "80",
			want: []string{"standard input: a value where fields belong (proxy, outbound, inbound"}},
		{name: "errors in a file and beside it", args: []string{"--dns-port", "x"}, env: []string{"MESH_DSN=1"},
			file: "dns: {servers: [x, 10.0.0.1], mode: {a: b}}\ninbound: {excludePorts: [80-70, {}], port: []}\noutbound: " +
				"{excludeCIDRs: [null], exclude: [{ports: 0, protocol: sctp}, {}]}\nexcludeInterfaces: {a: 1}\nvirtualNetworks: x\ntunnelPort: " +
				"0010\nproxy: {uids: [\"1,2\", 3], allowRoot: yes}\n",
			want: []string{
				"MESH_DSN: unknown variable; did you mean MESH_DNS?",
				`standard input: proxy.uids[0]: "1,2": write one item an entry`,
				`standard input: proxy.allowRoot: "yes" is not true or false`,
				"standard input: outbound.excludeCIDRs[0]: no value",
				`standard input: outbound.exclude[0].protocol: "sctp" is not a protocol`,
				`standard input: outbound.exclude[0].ports: port "0"`,
				"standard input: inbound.port: a list where one value belongs",
				"standard input: inbound.excludePorts[1]: a mapping where one value belongs",
				"standard input: dns.mode: a mapping where one value belongs",
				`standard input: dns.servers[0]: "x" is not an address`,
				`standard input: tunnelPort: "0010" is not a port`,
				"standard input: excludeInterfaces: a mapping where a list belongs",
				"standard input: virtualNetworks: ",
				`--dns-port: "x" is not a port`,
				"outbound.exclude[1]: no property given",
			}},

		{name: "explain nothing", verb: "explain", args: []string{}, want: []string{"--dst: missing"}},
		{name: "explain without a port", verb: "explain", args: []string{"--dst", "10.1.2.3"},
			want: []string{`--dst: "10.1.2.3" has no port, and rules for tcp look at it; write 10.1.2.3:443`}},
		{name: "explain what cannot be", verb: "explain",
			args: []string{"--dst", "10.1.2.3:443", "--from", "outside", "--uid", "1000", "--to-self", "--src", "fd00::1"},
			want: []string{"--src: fd00::1 and --dst 10.1.2.3 are of different families",
				"--uid: 1000: a packet from outside has no owner", "--to-self: "}},
		{name: "explain and a bad configuration", verb: "explain", args: []string{"--dst", "x", "--outbound-port", "0"},
			want: []string{`--outbound-port: port "0"`, `--dst: "x" is not an address and a port`}},

		{name: "control characters", args: []string{"--netns\n\x1b[2J", "x"},
			want: []string{`--netns\n\x1b[2J: unknown flag`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := tc.args
			if tc.verb == "" {
				tc.verb = "apply"
			}
			if tc.verb != "-" {
				args = append([]string{tc.verb}, args...)
			}
			if tc.file != "" {
				args = append(args, "--config", "-")
			}
			r := invoke(t, tc.file, tc.env, args...)
			if r.code != cli.ExitUsage || r.out != "" {
				t.Errorf("exit code %d, want %d; standard output %q, want none", r.code, cli.ExitUsage, r.out)
			}
			lines := slices.DeleteFunc(r.lines(), func(line string) bool { return strings.Contains(line, "level=WARN") })
			ok := len(lines) == len(tc.want)
			for i := range min(len(lines), len(tc.want)) {
				ok = ok && strings.HasPrefix(lines[i], "mesh-init: "+tc.want[i])
			}
			if !ok {
				t.Errorf("standard error:\n%s\nwant lines that begin with \"mesh-init: \" and:\n%s", r.stderr,
					strings.Join(tc.want, "\n"))
			}
		})
	}
}

// TestVariablesOfOthers: what a Service or another program has put into the environment is no mistake. One line says
// what was passed over.
func TestVariablesOfOthers(t *testing.T) {
	many := make([]string, 2000)
	for i := range many {
		many[i] = fmt.Sprintf("MESH_%s_%d=1", strings.Repeat("X", 100), i)
	}
	for name, tc := range map[string]struct {
		env  []string
		want string // in the warning
	}{
		"a Service named mesh": {[]string{"MESH_SERVICE_HOST=10.0.0.1", "MESH_SERVICE_PORT=80", "MESH_PORT=tcp://10.0.0.1:80",
			"MESH_PORT_80_TCP=tcp://10.0.0.1:80", "MESH_PORT_80_TCP_PROTO=tcp"},
			"since they are no settings of ours: MESH_PORT, "},
		"a Service named mesh-inbound": {[]string{"MESH_INBOUND_PORT=tcp://10.0.0.1:80"},
			"since it is no setting of ours: MESH_INBOUND_PORT (Kubernetes' address of a Service)"},
		"a Service of UDP": {[]string{"MESH_DNS_PORT=udp://[fd00::1]:53", "MESH_DNS_PORT_53_UDP=udp://[fd00::1]:53"},
			"MESH_DNS_PORT (Kubernetes' address of a Service), MESH_DNS_PORT_53_UDP"},
		"another program's": {[]string{"MESH_ID=mesh1", "MESH_CLUSTER_NAME=east", "MESH_GATEWAY_URL=http://gateway",
			"MESH_TRUST_DOMAIN=cluster.local", "MESH_PROXY_ID=7", "MESH_MODE=strict", "MESH_NAMESPACE=shop", "MESH_=1"},
			"MESH_, MESH_CLUSTER_NAME, MESH_GATEWAY_URL, MESH_ID, MESH_MODE, MESH_NAMESPACE, MESH_PROXY_ID, MESH_TRUST_DOMAIN"},
		"thousands": {many, " and 1992 more"},
	} {
		r := invoke(t, "", tc.env, "render", "--backend", "nft")
		bare := invoke(t, "", nil, "render", "--backend", "nft")
		if r.code != cli.ExitDone || r.out != bare.out || len(r.lines()) != 1 || !strings.Contains(r.stderr, tc.want) ||
			len(r.stderr) > 1024 {
			t.Errorf("%s: exit code %d, %q, want one line with %q", name, r.code, r.stderr, tc.want)
		}
	}
}

func TestErrorsAreLogLinesWithJSONLogs(t *testing.T) {
	r := invoke(t, "", nil, "apply", "--log-format", "json", "--dns", "x", "--foo")
	if r.code != cli.ExitUsage || len(r.lines()) != 2 {
		t.Fatalf("exit code %d, standard error:\n%s", r.code, r.stderr)
	}
	for _, line := range r.lines() {
		var v struct {
			Level, Msg string
			Exit       int
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil || v.Level != "ERROR" || v.Exit != cli.ExitUsage ||
			v.Msg == "" {
			t.Errorf("%s: %+v, %v", line, v, err)
		}
	}
}

// A stoppedPlane gets a signal while it applies, and fails as its context ends.
type stoppedPlane struct {
	fakePlane
	left []error
}

func (p stoppedPlane) Apply(ctx context.Context, _ intercept.Config) (dataplane.Result, error) {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return dataplane.Result{}, err
	}
	if err := self.Signal(syscall.SIGTERM); err != nil {
		return dataplane.Result{}, err
	}
	<-ctx.Done()
	err = fmt.Errorf("list the rules: %w", errors.Join(ctx.Err(), ctx.Err()))
	if p.left != nil {
		err = &dataplane.UndoError{Err: err, Left: p.left}
	}
	return dataplane.Result{}, err
}

// A fakePlane answers as told.
type fakePlane struct {
	foreign     dataplane.Foreign
	dormant     []string
	removal     dataplane.Removal
	report      dataplane.Report
	verified    verify.Report
	result      dataplane.Result
	differences []intercept.Difference
	removed     bool
	counters    []intercept.Counter
	live        *dataplane.Overview
	err         error
}

func (p fakePlane) Apply(context.Context, intercept.Config) (dataplane.Result, error) {
	return p.result, p.err
}
func (p fakePlane) Check(context.Context, intercept.Config) ([]intercept.Difference, error) {
	return p.differences, p.err
}
func (p fakePlane) Trace(context.Context, dataplane.TraceOptions) (dataplane.TraceSummary, error) {
	return dataplane.TraceSummary{}, p.err
}
func (p fakePlane) Watch(context.Context, dataplane.WatchOptions) (dataplane.WatchSummary, error) {
	return dataplane.WatchSummary{}, p.err
}
func (p fakePlane) Remove(context.Context) (bool, error) { return p.removed, p.err }
func (p fakePlane) Status(context.Context) (dataplane.Status, error) {
	return dataplane.Status{Counters: p.counters, Foreign: p.foreign, Dormant: p.dormant}, p.err
}
func (p fakePlane) Overview(context.Context) (dataplane.Overview, error) {
	if p.err != nil {
		return dataplane.Overview{Verdict: dataplane.NotIntercepted}, p.err
	}
	if p.live != nil {
		return *p.live, nil
	}
	return dataplane.Overview{Verdict: dataplane.Intercepting, Summary: "intercepting: as told",
		Status: dataplane.Status{Counters: p.counters, Foreign: p.foreign, Dormant: p.dormant}}, p.err
}
func (p fakePlane) InForce(context.Context) (dataplane.InForce, error) {
	if p.live != nil && p.live.InForce != nil {
		return *p.live.InForce, nil
	}
	return dataplane.InForce{}, dataplane.ErrNotKept
}
func (p fakePlane) Verify(context.Context, intercept.Config) (verify.Report, error) {
	return p.verified, p.err
}
func (p fakePlane) Arrive(context.Context, netip.AddrPort, netip.AddrPort) error { return p.err }

func (p fakePlane) Do(_ context.Context, fn func() error) error { return fn() }

func (p fakePlane) Probe(context.Context, intercept.Config) (dataplane.Report, error) {
	return p.report, p.err
}

func (p fakePlane) RemoveForeign(context.Context, beside.Mesh, bool) (dataplane.Removal, error) {
	return p.removal, p.err
}

func (p fakePlane) Foreign(context.Context) (dataplane.Foreign, error) { return p.foreign, nil }

// TestDoctor: what holds, what does not and why, and what mends it.
func TestDoctor(t *testing.T) {
	nothing := dataplane.Report{
		Kernel: "6.1.0", HostNetNS: true, ForeignUserNS: true,
		Privileges: []dataplane.Privilege{{Name: "CAP_NET_RAW", For: "iptables-legacy"}},
		Backends: []dataplane.Diagnosis{{Finding: dataplane.Finding{Backend: dataplane.BackendNFT,
			State: dataplane.StateMissing, Reason: "no redirect"},
			Capabilities: []dataplane.Capability{{Name: "redirect", State: dataplane.StateMissing, Needed: true, Errno: "ENOENT",
				Cause: "no such file", Modules: []string{"nft_redir"}}}}},
		Error:   "the kernel lacks support: no backend works here",
		Modules: []string{"nft_redir"},
	}
	r := invokeOn(t, fakePlane{report: nothing}, "", nil, "doctor")
	for _, want := range []string{"\nthe host's network namespace     yes      apply refuses it",
		"\nCAP_NET_RAW                      no       for iptables-legacy\n",
		"\nrules of ours now                none\n",
		"\nnft                              missing  no redirect\n  redirect                       missing  ENOENT no " +
			"such file\n",
		"\napply would fail: the kernel lacks support: no backend works here\n",
		"/etc/modules-load.d/intercept.conf:\nnft_redir\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("not in the report: %q\n%s", want, r.out)
		}
	}
	if r.code != 12 || !strings.Contains(r.stderr, "lacks support: no backend works here") {
		t.Errorf("exit code %d, %q", r.code, r.stderr)
	}
	fine := dataplane.Report{Present: []dataplane.Backend{dataplane.BackendNFT},
		Choice: dataplane.Choice{Backend: dataplane.BackendNFT, Reason: "it works"}, Modules: []string{}}
	r = invokeOn(t, fakePlane{report: fine}, "", nil, "doctor")
	if r.code != cli.ExitDone || !strings.HasSuffix(r.out, "\napply takes nft: it works\n") || r.stderr != "" {
		t.Errorf("exit code %d, %q, %q", r.code, r.out, r.stderr)
	}
	r = invokeOn(t, fakePlane{report: fine}, "", nil, "doctor", "-o", "json")
	var got dataplane.Report
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fine, got, cmp.AllowUnexported(dataplane.Finding{})); diff != "" {
		t.Error(diff)
	}
}

func TestResults(t *testing.T) {
	applied := fakePlane{result: dataplane.Result{
		Choice:   dataplane.Choice{Backend: dataplane.BackendNFT, Reason: "asked for"},
		Outcome:  intercept.Created,
		Rules:    56,
		Warnings: []string{"IPv6 is not captured"},
	}}
	unproven := fakePlane{verified: verify.Conclude(
		[]verify.Verdict{{What: "a lookup", Verdict: verify.NotProven, Found: "no server"}}, verify.Coverage{}, nil)}
	counted := fakePlane{counters: []intercept.Counter{
		{Chain: "prerouting", Rule: "I4", Line: "I4", Reason: "the tunnel port", Packets: 1, Bytes: 60},
		{Chain: "output", Rule: "O9", Line: "O9", Reason: "the exempt loopback range", Family: "IPv4", Packets: 12345,
			Bytes: 740700},
		{Chain: "output", Rule: "O14", Line: "O14", Reason: "not included"},
	}}
	drifted := fakePlane{differences: []intercept.Difference{{What: "chain output", Problem: "missing"},
		{What: "set ports_1", Problem: "changed"}}}
	for _, tc := range []struct {
		plane plane
		args  []string
		code  int
		out   string
		log   string // a part of standard error
	}{
		{applied, []string{"apply"}, 0, "created: 56 rules, IPv4 and IPv6, by nft (asked for)\n",
			`level=WARN msg="IPv6 is not captured"`},
		{applied, []string{"apply", "--families", "ipv4"}, 0, "created: 56 rules, IPv4, by nft (asked for)\n", "WARN"},
		{applied, []string{"apply", "--log-level", "error"}, 0, "created: 56 rules, IPv4 and IPv6, by nft (asked for)\n", ""},
		{stoppedPlane{}, []string{"apply", "--backend", "iptables"}, 1, "",
			"mesh-init: interrupted by a signal: mesh-init status says what is in force\n"},
		{stoppedPlane{left: []error{errors.New("routes: busy")}}, []string{"apply", "--backend", "iptables"}, 1, "",
			"mesh-init: interrupted by a signal; what could not be undone: routes: busy: mesh-init status says what is in force\n"},
		{fakePlane{removed: true}, []string{"remove"}, 0, "removed\n", ""},
		{fakePlane{}, []string{"remove"}, 0, "nothing to remove\n", ""},
		{fakePlane{}, []string{"check"}, 0, "ok\n", ""},
		{fakePlane{}, []string{"check", "-o", "json"}, 0, "{\n  \"ok\": true,\n  \"differences\": []\n}\n", ""},
		{drifted, []string{"check"}, 11, "chain output: missing\nset ports_1: changed\n", "mesh-init: drifted: "},
		{drifted, []string{"check", "-o", "json"}, 11, `{
  "ok": false,
  "differences": [
    {
      "what": "chain output",
      "problem": "missing"
    },
    {
      "what": "set ports_1",
      "problem": "changed"
    }
  ]
}
`, "mesh-init: drifted: "},
		{fakePlane{verified: verify.Conclude([]verify.Verdict{{What: "rules", Verdict: verify.OK, Found: "as they should"},
			{What: "an app's connection", Verdict: verify.OK, Found: "captured"}}, verify.Coverage{Rules: 1, Tried: 1}, nil)}, []string{"verify"}, 0,
			"ok          rules: as they should\nok          an app's connection: captured\n            rules tried, of those that capture or exempt: 1 of 1\n", ""},
		{fakePlane{verified: verify.Conclude([]verify.Verdict{{What: "rules", Verdict: verify.OK, Found: "there"},
			{What: "a lookup", Verdict: verify.NotProven, Tried: "nothing", Found: "no server"},
			{What: "port", Verdict: verify.Failed, Found: "nobody", Remedy: "listen"}},
			verify.Coverage{Rules: 2, Tried: 1, NotTried: []verify.NotTried{{Rule: "O1.net1", Reason: "excluded interface",
				Because: "it is not there"}}},
			[]string{"IPv6: not reachable here"})},
			[]string{"verify"}, 18, "ok          rules: there\n" +
				"not proven  a lookup: nothing: no server\n" +
				"failed      port: nobody; listen\n" +
				"            IPv6: not reachable here\n" +
				"            rules tried, of those that capture or exempt: 1 of 2; not tried: O1.net1 (excluded\n            interface), because it is not there\n",
			"interception does not work"},
		{unproven, []string{"verify"}, 19, "not proven  a lookup: no server\n            rules tried, of those that capture or exempt: 0 of 0\n",
			"--allow-unproven"},
		{unproven, []string{"verify", "--allow-unproven"}, 0,
			"not proven  a lookup: no server\n            rules tried, of those that capture or exempt: 0 of 0\n",
			""},
		{counted, []string{"status"}, 0, "intercepting: as told\n\n" +
			"PACKETS  BYTES   RULE  FAMILY  REASON\n" +
			"prerouting:\n" +
			"1        60      I4            the tunnel port\n" +
			"output:\n" +
			"12345    740700  O9    IPv4    the exempt loopback range\n" +
			"0        0       O14           not included\n", ""},
		{fakePlane{}, []string{"status", "-o", "json"}, 0, "{\n  \"verdict\": \"intercepting\",\n" +
			"  \"summary\": \"intercepting: as told\",\n  \"backends\": [],\n  \"counters\": [],\n" +
			"  \"others\": {\n    \"rules\": []\n  }\n}\n", ""},
		// Where there are no rules of ours, what is asked for as JSON is JSON all the same.
		{fakePlane{err: intercept.ErrNotIntercepted}, []string{"status"}, 10, "", "mesh-init: not intercepted: "},
		{fakePlane{err: intercept.ErrNotIntercepted}, []string{"status", "-o", "json"}, 10,
			"{\n  \"verdict\": \"not intercepted\",\n  \"summary\": \"\",\n  \"backends\": [],\n  \"counters\": [],\n" +
				"  \"others\": {\n    \"rules\": []\n  }\n}\n", "mesh-init: not intercepted: "},
		{fakePlane{err: intercept.ErrNotIntercepted}, []string{"status", "-o", "yaml"}, 10,
			"verdict: not intercepted\nsummary: \"\"\nbackends: []\ncounters: []\nothers:\n  rules: []\n",
			"mesh-init: not intercepted: "},
		{fakePlane{err: intercept.ErrNotIntercepted}, []string{"check"}, 10, "", "mesh-init: not intercepted: "},
		{fakePlane{err: intercept.ErrNotIntercepted}, []string{"check", "-o", "yaml"}, 10,
			"ok: false\ndifferences:\n  - what: the rules\n    problem: there are none of ours\n",
			"mesh-init: not intercepted: "},
	} {
		r := invokeOn(t, tc.plane, "", nil, tc.args...)
		if r.code != tc.code || r.out != tc.out || !strings.Contains(r.stderr, tc.log) || tc.log == "" && r.stderr != "" {
			t.Errorf("%q: exit code %d, want %d; standard error %q, want %q; output (-want +got):\n%s", tc.args, r.code, tc.code,
				r.stderr, tc.log, cmp.Diff(tc.out, r.out))
		}
	}

	r := invokeOn(t, applied, "", nil, "apply", "-o", "json")
	var got map[string]any
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"backend": "nft", "reason": "asked for", "outcome": "created", "warnings": []any{"IPv6 is not captured"},
		"rules": 56.0, "families": []any{"IPv4", "IPv6"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("apply -o json (-want +got):\n%s", diff)
	}
}

// TestExitCodes holds that each error of the table ends in its code, for each
// verb, and on one line.
func TestExitCodes(t *testing.T) {
	seen := map[int]bool{}
	for _, e := range exits() {
		if seen[e.Code] || e.Meaning == "" {
			t.Errorf("exit code %d: twice in the table, or without a meaning", e.Code)
		}
		seen[e.Code] = true
		if e.Err == nil {
			continue
		}
		for _, verb := range []string{"apply", "check", "verify", "remove", "status", "doctor"} {
			r := invokeOn(t, fakePlane{err: fmt.Errorf("attempt: %w (%w)", e.Err, errors.New("cause"))}, "", nil, verb)
			if r.code != e.Code || r.out != "" || len(r.lines()) != 1 || !strings.Contains(r.stderr, e.Err.Error()) ||
				!strings.Contains(r.stderr, e.Remedy) {
				t.Errorf("%s, %v: exit code %d, want %d; output %q, standard error %q", verb, e.Err, r.code, e.Code, r.out,
					r.stderr)
			}
		}
	}
	if r := invokeOn(t, fakePlane{err: errors.New("anything else")}, "", nil, "apply"); r.code != cli.ExitFailed {
		t.Errorf("exit code %d for an error that is not in the table, want %d", r.code, cli.ExitFailed)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestResultThatCannotBeWritten(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"render"}, {"--help"}, {"help"}} {
		var stderr bytes.Buffer
		p := program{strings.NewReader(""), brokenPipe{}, &stderr, nil}
		p.plane = func(dataplane.Pod) plane { return noKernel{t} }
		if code := p.run(t.Context(), args, nil); code != cli.ExitFailed ||
			!strings.Contains(stderr.String(), "broken pipe") {
			t.Errorf("%q: exit code %d, want %d; standard error %q", args, code, cli.ExitFailed, stderr.String())
		}
	}
}

// TestTarget holds that where and how get to the dataplane.
func TestTarget(t *testing.T) {
	var got dataplane.Pod
	p := program{strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}, func(target dataplane.Pod) plane {
		got = target
		return fakePlane{}
	}}
	standard := dataplane.IPTables{Wait: iptables.DefaultWait, Jumps: iptables.JumpsFirst}
	for _, tc := range []struct {
		args, env []string
		want      dataplane.Pod
	}{
		{[]string{"apply"}, nil, dataplane.Pod{Backend: dataplane.BackendAuto, IPTables: standard}},
		{[]string{"remove", "--netns", "/a", "--allow-host-netns", "--backend=nft"}, []string{"MESH_NETNS=/b"},
			dataplane.Pod{NetNS: "/a", AllowHostNetNS: true, Backend: dataplane.BackendNFT, IPTables: standard}},
		{[]string{"status"}, []string{"MESH_NETNS=/b", "MESH_ALLOW_HOST_NETNS=true", "MESH_DNS=nonsense of another verb"},
			dataplane.Pod{NetNS: "/b", AllowHostNetNS: true, Backend: dataplane.BackendAuto, IPTables: standard}},
		{[]string{"check", "--backend", "iptables-legacy", "--iptables-dialect", "minimal", "--iptables-jumps", "last",
			"--iptables-wait", "1m"}, nil,
			dataplane.Pod{Backend: dataplane.BackendIPTablesLegacy,
				IPTables: dataplane.IPTables{Dialect: iptables.Minimal, Jumps: iptables.JumpsLast, Wait: time.Minute}}},
	} {
		if code := p.run(t.Context(), tc.args, tc.env); code != cli.ExitDone {
			t.Errorf("%q: exit code %d", tc.args, code)
		}
		if !strings.HasPrefix(got.By, "mesh-init ") {
			t.Errorf("%q: by %q", tc.args, got.By)
		}
		if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(dataplane.Pod{}, "By", "Origins", "LockedBy")); diff != "" {
			t.Errorf("%q %q (-want +got):\n%s", tc.args, tc.env, diff)
		}
	}
}

func TestDryRunTouchesNothing(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		dry := invoke(t, "", nil, "apply", "--dry-run", "--output", format)
		rendered := invoke(t, "", nil, "render", "--output", format)
		if dry.code != cli.ExitDone || dry.out == "" || dry.out != rendered.out {
			t.Errorf("%s: exit code %d; not what render prints:\n%s", format, dry.code, cmp.Diff(rendered.out, dry.out))
		}
	}
}

// TestRemedyOfTwoTraces: no flag of a lock helps who finds another trace at work.
func TestRemedyOfTwoTraces(t *testing.T) {
	r := invokeOn(t, fakePlane{err: dataplane.ErrTraced}, "", nil, "status")
	if r.code != 17 || !strings.HasSuffix(r.stderr, "; wait until it ends\n") || strings.Contains(r.stderr, "--iptables-wait") {
		t.Errorf("%+v", r)
	}
}

// TestResultFirst: on a terminal the first line is the result, or the error; what is logged comes after it.
func TestResultFirst(t *testing.T) {
	warned := fakePlane{result: dataplane.Result{Outcome: intercept.Created, Warnings: []string{"IPv6 is not captured"}}}
	refused := warned
	refused.err = intercept.ErrLocked
	for _, tc := range []struct {
		plane fakePlane
		args  []string
		lines []string // how they begin
	}{
		{warned, []string{"apply"}, []string{"created: ", "time="}},
		{refused, []string{"apply", "--dns_port", "1053", "--proxy-uids", "7"}, []string{"mesh-init: "}},
		{warned, []string{"apply", "--log-format", "json"}, []string{"{", "created: ", "{"}},
	} {
		var terminal strings.Builder
		p := program{strings.NewReader(""), &terminal, &terminal, func(dataplane.Pod) plane { return tc.plane }}
		p.run(t.Context(), tc.args, nil)
		lines := strings.Split(terminal.String(), "\n")
		for i, want := range tc.lines {
			if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
				t.Errorf("%q: line %d does not begin with %q:\n%s", tc.args, i+1, want, terminal.String())
			}
		}
	}
}
