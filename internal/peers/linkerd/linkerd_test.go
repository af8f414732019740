package linkerd

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
)

// base is the least that has to be given.
const base = "-p 4143 -o 4140 -u 2102"

func world(addrs ...string) peers.World {
	return peers.World{Addresses: func(dataplane.Pod) (all []netip.Addr, err error) {
		for _, a := range addrs {
			all = append(all, netip.MustParseAddr(a))
		}
		return all, nil
	}}
}

// TestFlags: every flag of linkerd2-proxy-init, with its shorthand and its default, and --lenient beside them.
func TestFlags(t *testing.T) {
	want := []string{
		"incoming-proxy-port p -1", "outgoing-proxy-port o -1", "proxy-uid u -1", "proxy-gid g -1",
		"ports-to-redirect r ", "inbound-ports-to-ignore  ", "outbound-ports-to-ignore  ", "subnets-to-ignore  ",
		"simulate  false", "netns  ", "use-wait-flag w false", "timeout-close-wait-secs  0", "log-format  plain",
		"log-level  info", "iptables-mode  ", "ipv6  true", "firewall-bin-path  ", "firewall-save-bin-path  ",
		"lenient  false", "allow-host-netns  false", "help h false",
	}
	var got []string
	new(options).flags().VisitAll(func(f *pflag.Flag) {
		got = append(got, strings.Join([]string{f.Name, f.Shorthand, f.DefValue}, " "))
	})
	if !slices.Equal(got, want) {
		t.Errorf("the flags are\n%q, should be\n%q", got, want)
	}
}

// TestRequest: what flags ask for beside rules.
func TestRequest(t *testing.T) {
	for _, test := range []struct {
		args string
		want func(peers.Request) bool
	}{
		{"", func(r peers.Request) bool {
			return r.Action == peers.Apply && r.Pod.NetNS == "" && len(r.Warnings) == 0
		}},
		{"--simulate", func(r peers.Request) bool { return r.Action == peers.Render }},
		{"--simulate=false", func(r peers.Request) bool { return r.Action == peers.Apply }},
		{"-h", func(r peers.Request) bool {
			return r.Action == peers.Help && strings.Contains(r.Text, "--subnets-to-ignore")
		}},
		{"--netns /run/netns/a", func(r peers.Request) bool { return r.Pod.NetNS == "/run/netns/a" }},
		{"--timeout-close-wait-secs 3600", func(r peers.Request) bool { return r.Pod.CloseWait == time.Hour }},
		{"--log-level trace", func(r peers.Request) bool { return r.LogLevel == "debug" && r.LogFormat == "text" }},
		{"--log-format json", func(r peers.Request) bool { return r.LogLevel == "info" && r.LogFormat == "json" }},
		{"--log-level WARNING", func(r peers.Request) bool { return r.LogLevel == "warn" && r.LogFormat == "text" }},
		{"--log-level fatal", func(r peers.Request) bool { return r.LogLevel == "error" }},
		{"--ipv6=false", func(r peers.Request) bool { return r.Config.Families == intercept.FamiliesIPv4 }},
		{"--iptables-mode nft", func(r peers.Request) bool { return r.Pod.Backend == "" }},
		{"--allow-host-netns", func(r peers.Request) bool { return r.Pod.AllowHostNetNS }},
		{"--lenient", func(r peers.Request) bool { return r.Lenient }},
	} {
		r, err := Parse(strings.Fields(base+" "+test.args), world("10.1.2.3", "fe80::1"))
		if err != nil || !test.want(r) {
			t.Errorf("%s: %v, %+v", test.args, err, r)
		}
	}
}

// TestSpaces: spaces in lists do not matter.
func TestSpaces(t *testing.T) {
	r, err := Parse(append(strings.Fields(base), "-r", "80, 443"), world())
	if got := r.Config.Inbound.IncludePorts.String(); err != nil || got != "80,443" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWarnings: what has no effect is said, once and by name, and nothing else is.
func TestWarnings(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"-w --log-level debug --firewall-bin-path= --iptables-mode=", ""},
		{"--iptables-mode legacy --iptables-mode nft", "--iptables-mode is without effect"},
		{"--firewall-bin-path iptables-nft", "--firewall-bin-path is without effect"},
		{"--firewall-save-bin-path iptables-save", "--firewall-save-bin-path is without effect"},
		{"--inbound-ports-to-ignore 22,http,http", `--inbound-ports-to-ignore: "http" has no effect`},
		{"--outbound-ports-to-ignore 22,70000", `--outbound-ports-to-ignore: "70000" has no effect`},
		{"--outbound-ports-to-ignore 22,9-5", `--outbound-ports-to-ignore: "9-5" has no effect`},
		{"--outbound-ports-to-ignore 22,1-2-3", `--outbound-ports-to-ignore: "1-2-3" has no effect`},
		{"--outbound-ports-to-ignore 22,0", `--outbound-ports-to-ignore: "0" has no effect`},
		{"-g 0", "--proxy-gid 0 has no effect"},
		{"-g 5 -u 0", "--proxy-uid 0 has no effect"},
		{"-u 0", "the proxy is root"},
		{"--inbound-ports-to-ignore 1-65535 --outbound-ports-to-ignore 1-65535", "nothing is captured"},
		{"--ipv6=false", "leaves IPv6 outside the mesh"},
		{"--log-format ansi", `--log-format "ansi"`},
		{"start", `["start"]`},
	} {
		r, err := Parse(strings.Fields(base+" "+test.args), world("10.1.2.3", "fd00::5"))
		said := strings.Join(r.Warnings, "\n")
		if err != nil || !strings.Contains(said, test.want) || len(r.Warnings) > 1 || test.want == "" && said != "" {
			t.Errorf("%s: error %v, warnings %q, should have %q", test.args, err, r.Warnings, test.want)
		}
	}
	// The proxy's own source, which an apply has put on lo, is no address of the pod's. Of a pod that nobody knows nothing is
	// said.
	anyPod := world("10.1.2.3", "fd00::5")
	anyPod.AnyPod = true
	for name, w := range map[string]peers.World{"::6": world("10.1.2.3", "::6"), "any pod": anyPod} {
		if r, err := Parse(strings.Fields(base+" --ipv6=false"), w); err != nil || len(r.Warnings) > 0 {
			t.Errorf("%s: %v, %q", name, err, r.Warnings)
		}
	}
}

// TestRefused: what is wrong is said by flag and token.
func TestRefused(t *testing.T) {
	for _, test := range []struct {
		args string
		want []string
	}{
		{"", []string{
			"--incoming-proxy-port: it has to be given", "--outgoing-proxy-port: it has to be given", "--proxy-uid: ",
		}},
		{"-p 0 -o 4140 -u 1", []string{`--incoming-proxy-port "0": it is no port from 1 to 65535`}},
		{"-p 4143 -o 65536 -u 1", []string{`--outgoing-proxy-port "65536": it is no port`}},
		{"-p 4143 -o x -u 1", []string{"outgoing-proxy-port", `"x"`}},
		{"-p 4143 -o 4143 -u 1", []string{"--outgoing-proxy-port", "4143"}},
		{base + " -r 80,http", []string{`--ports-to-redirect "http": it is no port`}},
		{base + " -r 80-90", []string{`--ports-to-redirect "80-90": it is no port`, "no ranges"}},
		{base + " --inbound-ports-to-ignore http", []string{`--inbound-ports-to-ignore "http": there is no port`}},
		{base + " --subnets-to-ignore 10.0.0.1", []string{`--subnets-to-ignore "10.0.0.1": it is no CIDR`}},
		{base + " --proxy-gid 4294967295", []string{`--proxy-gid "4294967295": the greatest`}},
		{base + " --iptables-mode bpf", []string{`--iptables-mode "bpf": it is none of legacy, nft, plain`}},
		{base + " --firewall-bin-path /sbin/iptables", []string{`--firewall-bin-path "/sbin/iptables"`}},
		{base + " --timeout-close-wait-secs -1", []string{`--timeout-close-wait-secs "-1"`}},
		{base + " --log-level loud", []string{`--log-level "loud": it is none of`}},
		{base + " --subnet 10.0.0.0/8", []string{"--subnet"}},
	} {
		_, err := Parse(strings.Fields(test.args), world())
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, should have %q", test.args, err, want)
			}
		}
	}
}

// TestLenient: what --lenient accepts it says to accept.
func TestLenient(t *testing.T) {
	args := strings.Fields("-p 4143 -o 4140 -u -5")
	_, err := Parse(args, world())
	if e, is := errors.AsType[*peers.FlagError](err); !is || e.Flag != "--proxy-uid" || !e.Lenient {
		t.Errorf("%v", err)
	}
	r, err := Parse(append(args, "--lenient"), world())
	if err != nil || len(r.Warnings) != 1 || r.Config.Validate() != nil {
		t.Errorf("%v, %+v", err, r)
	}
}

// FuzzParse: any command line is refused, or asks for what can be carried out.
func FuzzParse(f *testing.F) {
	f.Add(base + " --inbound-ports-to-ignore 4190,4191 --subnets-to-ignore fd00::/8")
	f.Add("-p0x10 -o 4140 -u 0 -r 1,2 --lenient")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := Parse(strings.Split(line, " "), world())
		if err != nil || r.Action == peers.Help {
			return
		}
		if _, err := intercept.Compile(r.Config); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	})
}

// TestPage: the page on switching has a row for each flag, in the order of the help, with its default.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/migrate-linkerd.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "<!-- flags:")
	table, _, _ = strings.Cut(table, "<!-- /flags -->")
	var got, want []string
	for line := range strings.Lines(table) {
		if columns := strings.Split(line, "|"); len(columns) > 3 && strings.Contains(columns[1], "`--") {
			got = append(got, strings.TrimSpace(columns[1])+" "+strings.TrimSpace(columns[2]))
		}
	}
	new(options).flags().VisitAll(func(f *pflag.Flag) {
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		want = append(want, name+" "+f.DefValue)
	})
	if !slices.Equal(got, want) {
		t.Errorf("it has the flags\n%q, should have\n%q", got, want)
	}
}
