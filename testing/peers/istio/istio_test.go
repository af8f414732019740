//go:build linux

package istio_test

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	read "github.com/mesh-intercept/intercept/internal/peers/istio"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/peers"
	"github.com/mesh-intercept/intercept/testing/peers/istio"
)

// template are the arguments that Istio's injector writes, but for the last.
const template = "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x \"\" -b * -d 15090,15021,15020 " +
	"--log_output_level=default:info"

func peer() peers.Peer {
	return peers.Peer{
		Record: "testdata/fates.txt",
		Proxy:  intercept.Owner{UID: 1337, GID: 1337},
		Flows:  flows(),
		Sets:   sets(),
		Rules:  istio.Rules,
		Read:   read.Parse,
	}
}

func TestFates(t *testing.T) {
	p := peer()
	p.Sets = append(p.Sets, injected(t)...)
	p.Differences = differences(p.Sets)
	p.Test(t)
}

// TestPage: the page on switching has each difference, and why a set is refused.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/migrate-istio.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(page), "`", "")
	for _, d := range differences(sets()) {
		if !strings.Contains(text, "| "+d.Reason+" |") {
			t.Errorf("docs/migrate-istio.md does not say: %s", d.Reason)
		}
	}
}

// injected are the command lines that Istio's own injector writes, once each.
func injected(t *testing.T) (all []peers.Set) {
	t.Helper()
	seen := map[string]bool{}
	for _, i := range peers.ReadInjected(t, "testdata/injected.yaml") {
		s := set("injected-"+i.Name, "")
		s.Args = i.Container.Args[1:]
		for _, v := range i.Container.Env {
			s.Environ = append(s.Environ, v.Name+"="+v.Value)
		}
		if slices.Contains(s.Args, "TPROXY") {
			s.Sidecar = &netlab.SidecarConfig{Transparent: true}
		}
		key := strings.Join(append(s.Args, s.Environ...), " ")
		if i.Container.Args[0] != read.Name {
			t.Errorf("%s: %q", i.Name, i.Container.Args)
		}
		if i.Container.Name == "istio-init" && !seen[key] {
			all = append(all, s)
			seen[key] = true
		}
	}
	return all
}

func flows() []string {
	return []string{
		"tcp app>outside:80", "tcp app>outside:443", "tcp app>outside:8080", "tcp app>outside:3306", "tcp app>outside:1500",
		"tcp app>outside:22", "tcp app>outside:15001", "tcp app>outside:15006", "tcp app>outside:15008",
		"tcp app>outside:15020", "tcp app>outside:53", "tcp app>other:443", "tcp app>cluster:80", "tcp app>cluster:3306",
		"tcp app>peer:80", "tcp app>management:80", "udp app>outside:443", "udp app>outside:3306", "udp app>cluster:9999",
		"tcp root>outside:80", "tcp root>cluster:443", "tcp root>pod:8080", "tcp root>localhost:8080",
		"tcp 1000:2000>outside:80", "tcp 1000:50>outside:80", "tcp 1000:2000>pod:8080",
		"tcp app>dns:53", "udp app>dns:53", "udp app>outside:53", "udp root>dns:53", "tcp root>dns:53",
		"udp 1000:2000>dns:53", "udp app>localhost:53", "tcp app>localhost:53", "udp app>pod:53", "tcp app>pod:53",
		"udp app>127.0.0.53:53", "tcp app>127.0.0.53:53",
		"tcp proxy>outside:80", "tcp proxy>cluster:443", "tcp proxy>dns:53", "udp proxy>dns:53", "udp proxy>outside:53",
		"tcp proxyuid>outside:80", "tcp proxygid>outside:80", "udp proxygid>dns:53",
		"tcp proxy>pod:8080", "tcp proxy>pod2:8080", "tcp proxy>pod:53", "tcp proxy>pod:3306", "tcp proxy>pod:15008",
		"tcp proxy>pod:15020", "tcp proxy>localhost:8080", "tcp proxy>127.0.0.2:8080", "tcp proxy(passthrough)>pod:8080",
		"tcp proxyuid>pod:8080", "tcp proxygid>pod:8080", "tcp 3:3>pod:8080", "tcp 4:4>pod:8080", "tcp 4:4>outside:80",
		"tcp 3:3>outside:80",
		"tcp app>pod:8080", "tcp app>pod2:8080", "tcp app>pod:15020", "tcp app>localhost:8080", "tcp app>localhost:15020",
		"tcp app>127.0.0.2:8080", "tcp app(passthrough)>pod:8080", "tcp app>passthrough:8080",
		"tcp peer>pod:8080", "tcp peer>pod:80", "tcp peer>pod:443", "tcp peer>pod:3306", "tcp peer>pod:1500",
		"tcp peer>pod:15001", "tcp peer>pod:15006", "tcp peer>pod:15008", "tcp peer>pod:15020", "tcp peer>pod:15021",
		"tcp peer>pod:15090", "tcp peer>pod:15053", "tcp peer>pod:53", "tcp peer>pod2:8080", "tcp peer(client)>pod:8080",
		"tcp peer(client)>pod:80", "tcp peer(cluster)>pod:8080", "udp peer>pod:53", "udp peer>pod:8080",
		"tcp vm>outside:80", "tcp vm>outside:3306", "tcp vm>cluster:80", "tcp vm>bridge:8080", "udp vm>outside:443",
		"udp vm>dns:53", "tcp vm>dns:53",
	}
}

// set returns the template's arguments with others, which win.
func set(name, args string, environ ...string) peers.Set {
	return peers.Set{Name: name, Args: words(template + " " + args), Environ: environ,
		Files: map[string]string{"/etc/resolv.conf": "search cluster.local\nnameserver 10.96.0.10\nnameserver fd00:96::a\n"}}
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

func sets() []peers.Set {
	transparent := &netlab.SidecarConfig{Transparent: true}
	all := []peers.Set{
		set("template", ""),
		set("dual-stack", "--dual-stack"),
		set("dual-stack-env", "", "ISTIO_DUAL_STACK=true"),
		set("dual-stack-own-env", "", "DUAL_STACK=true"),
		set("dual-stack-banana", "", "DUAL_STACK=banana"),
		set("dual-stack-flag-beats-env", "--dual-stack=false", "ISTIO_DUAL_STACK=true"),
		{Name: "bare", Args: []string{}},
		{Name: "environment", Args: []string{}, Environ: []string{"ISTIO_INBOUND_PORTS=*", "ISTIO_SERVICE_CIDR=*",
			"INBOUND_CAPTURE_PORT=15006", "PROXY_UID=1337", "ENVOY_PORT=1", "ISTIO_LOCAL_EXCLUDE_PORTS=15020,3306",
			"ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE=3306", "DUAL_STACK=true"}},
		set("in-none", `-b "" --dual-stack`),
		set("in-list", "-b 80,8080 --dual-stack"),
		set("in-list-excluded", "-b 80,8080,3306 -d 8080"),
		set("in-range", "-b 1000:2000,80"),
		set("in-not", "-d 3306,15020,15021,15090"),
		set("in-not-range", "-d 1000:2000"),
		set("in-not-nothing", `-d "" --dual-stack`),
		set("out-none", `-i ""`),
		set("out-none-dns", `-i "" --redirect-dns --capture-all-dns --dual-stack`),
		set("out-list", "-i 10.96.0.0/12,fd00:96::/32 --dual-stack"),
		set("out-list-v6-only", "-i fd00:96::/32 --dual-stack"),
		set("out-host-bits", "-i 10.99.9.9/12"),
		set("out-none-port", `-i "" -q 3306,80`),
		set("out-list-port", "-i 10.96.0.0/12 -q 3306"),
		set("out-not-cidr", "-x 10.96.0.0/12,2001:db8::/32 --dual-stack"),
		set("out-not-cidr-port", "-x 10.96.0.0/12 -q 3306"),
		set("out-not-cidr-list", "-i 10.0.0.0/8 -x 10.96.0.0/12"),
		set("out-not-port", "-o 3306,443 --dual-stack"),
		set("out-not-range", "-o 1000:2000,22"),
		set("out-not-port-hairpin", "-o 8080"),
		set("out-not-53-dns", "-o 53 --redirect-dns --capture-all-dns"),
		set("both-none", `-b "" -i ""`),
		set("loopback-included", "-i *,127.0.0.0/8"),
		set("loopback-list", "-i 10.96.0.0/12,127.0.0.2/32 --dual-stack"),
		set("loopback-list-v6", "-i ::1/128,10.96.0.0/12 --dual-stack"),
		set("loopback-8", "", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR=127.0.0.1/8"),
		set("uids", "-u 3,4"),
		set("uid-3", "-u 3"),
		set("uid-gid", "-u 3 -g 4"),
		set("gid-other", "-g 2000"),
		set("groups", "", "ISTIO_OUTBOUND_OWNER_GROUPS=2000,50"),
		set("groups-dns", "--redirect-dns --capture-all-dns", "ISTIO_OUTBOUND_OWNER_GROUPS=2000"),
		set("groups-not", "", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=2000,50"),
		set("groups-not-dns", "", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=2000", "ISTIO_META_DNS_CAPTURE=true",
			"CAPTURE_ALL_DNS=true"),
		set("groups-none", "", "ISTIO_OUTBOUND_OWNER_GROUPS="),
		set("interfaces", "-c net1 --dual-stack"),
		set("interfaces-any-ending", "-c net+"),
		set("virtual", "-k br-vm --dual-stack"),
		set("virtual-list", "-k br-vm -i 10.96.0.0/12"),
		set("virtual-none", `-k br-vm -i ""`),
		set("virtual-excluded", "-k br-vm -o 3306 -x 10.96.0.0/12"),
		set("virtual-port", `-k br-vm -i "" -q 3306`),
		set("virtual-dns", "-k br-vm --redirect-dns --capture-all-dns"),
		set("dns", "--redirect-dns --dual-stack"),
		set("dns-v4", "--redirect-dns"),
		set("dns-all", "--redirect-dns --capture-all-dns --dual-stack"),
		set("dns-env", "", "ISTIO_META_DNS_CAPTURE=true", "ISTIO_DUAL_STACK=true"),
		set("dns-all-alone", "--capture-all-dns"),
		set("dns-local", "--redirect-dns"),
		set("dns-no-server", "--redirect-dns"),
		set("dns-v6-server", "--redirect-dns"),
		set("drop-invalid", "--drop-invalid --dual-stack"),
		set("mode-unknown", "-m tproxy"),
		set("tproxy", "-m TPROXY --dual-stack"),
		set("tproxy-v4", "-m TPROXY"),
		set("tproxy-list", "-m TPROXY -b 80,8080"),
		set("tproxy-none", `-m TPROXY -b ""`),
		set("tproxy-mark", "-m TPROXY -t 77 -r 200"),
		set("tproxy-dns", "-m TPROXY --redirect-dns --capture-all-dns"),
		set("tproxy-interfaces", "-m TPROXY -c net1"),
		set("tproxy-virtual", "-m TPROXY -k br-vm"),
		set("tproxy-drop-invalid", "-m TPROXY --drop-invalid"),
		set("other-ports", "-p 16001 -z 16006 -e 16008"),
		set("no-tunnel", "-e 0"),
		set("ipv6-pod", ""),
		set("ipv4-pod", "--dual-stack"),
		set("all-of-it", "-c net1 -k br-vm -o 22 -x 192.0.2.0/24,2001:db9::/32 -d 3306 --drop-invalid --redirect-dns "+
			"--capture-all-dns --dual-stack", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=50"),
	}
	three := intercept.Owner{UID: 3, GID: 3}
	for i, s := range all {
		resolv := func(text string) { all[i].Files = map[string]string{"/etc/resolv.conf": text} }
		switch s.Name {
		case "dns-local":
			resolv("nameserver 127.0.0.53\n")
		case "dns-no-server":
			resolv("search cluster.local\n")
			all[i].Refused = "names no server, so no lookup would be captured; use --capture-all-dns"
			all[i].Why = "lookups would go past the proxy"
		case "dns-v6-server":
			resolv("nameserver fd00:96::a\n")
			all[i].Refused = "names IPv6 servers alone"
			all[i].Why = "lookups would go past the proxy"
		case "uids", "uid-3", "uid-gid":
			all[i].Sidecar = &netlab.SidecarConfig{Owner: &three}
		case "other-ports":
			all[i].Sidecar = &netlab.SidecarConfig{Outbound: intercept.Port(16001), Inbound: intercept.Port(16006)}
		case "ipv6-pod":
			all[i].Addresses = []netip.Addr{netip.MustParseAddr("fd00:244::5"), netip.MustParseAddr("fe80::1")}
		case "ipv4-pod":
			all[i].Addresses = []netip.Addr{netip.MustParseAddr("10.244.0.5")}
		case "loopback-included":
			all[i].Args = words(strings.Replace(template, "-i *", "-i 0.0.0.0/0,127.0.0.0/8", 1))
		}
		if strings.HasPrefix(s.Name, "tproxy") && s.Name != "tproxy-none" {
			all[i].Sidecar = transparent
		}
	}
	return all
}

// differences are those that docs/migrate-istio.md names.
func differences(sets []peers.Set) []peers.Difference {
	var redirect, redirect6, tproxy []string
	for _, s := range sets {
		args := strings.Join(s.Args, " ")
		both := s.Name == "ipv6-pod" || s.Name != "ipv4-pod" && strings.HasSuffix(args, "--dual-stack") ||
			slices.Contains(s.Environ, "DUAL_STACK=true") ||
			slices.Contains(s.Environ, "ISTIO_DUAL_STACK=true") && !strings.Contains(args, "--dual-stack=false")
		switch {
		case strings.HasPrefix(s.Name, "uid"), s.Name == "gid-other", s.Name == "other-ports":
		case s.Sidecar != nil && s.Sidecar.Transparent:
			tproxy = append(tproxy, s.Name)
		case both:
			redirect6 = append(redirect6, s.Name)
			fallthrough
		default:
			redirect = append(redirect, s.Name)
		}
	}
	names := func(list []string) string { return strings.Join(list, ", ") }
	const (
		manyProxies = "whoever is named as the proxy is the proxy in every rule; there the first user takes the others' calls " +
			"to the pod for an app's"
		hairpinMark = "in mode TPROXY the proxy's calls to its own pod keep their addresses, as others' do; there they are " +
			"redirected, which comes to the same port"
		tunnel = "in mode TPROXY, too, the tunnel port is left alone"
		policy = "an excluded outbound port does not take the proxy's calls to its own pod past the inbound port"
		guest  = "what comes from a guest is outbound in everything: exclusions and included ports hold for it"
	)
	return []peers.Difference{
		{Sets: names(redirect), Flows: "tcp4 proxygid>pod:8080", Fate: "redirect(15006)", Reason: manyProxies},
		{Sets: names(redirect6), Flows: "tcp6 proxygid>pod:8080", Fate: "redirect(15006)", Reason: manyProxies},
		{Sets: "other-ports", Flows: "tcp4 proxygid>pod:8080", Fate: "redirect(16006)", Reason: manyProxies},
		{Sets: "uids, uid-gid", Flows: "tcp4 4:4>pod:8080", Fate: "redirect(15006)", Reason: manyProxies},
		{Sets: "gid-other", Flows: "tcp4 1000:2000>pod:8080", Fate: "redirect(15006)", Reason: manyProxies},

		{Sets: names(tproxy), Flows: "tcp4 proxy>pod:8080, tcp4 proxy>pod2:8080, tcp4 proxy>pod:3306, tcp4 proxy>pod:15020, " +
			"tcp4 proxy>127.0.0.2:8080, tcp4 proxyuid>pod:8080", Fate: "tproxy(15006)", Reason: hairpinMark},
		{Sets: "tproxy", Flows: "tcp6 proxy>pod:8080, tcp6 proxy>pod2:8080, tcp6 proxy>pod:3306, tcp6 proxy>pod:15020, " +
			"tcp6 proxyuid>pod:8080, tcp6 proxy>pod:53", Fate: "tproxy(15006)", Reason: hairpinMark},
		{Sets: names(slices.DeleteFunc(slices.Clone(tproxy), func(s string) bool { return s == "tproxy-dns" })),
			Flows: "tcp4 proxy>pod:53", Fate: "tproxy(15006)", Reason: hairpinMark},
		{Sets: "tproxy-dns", Flows: "tcp4 proxy>pod:53", Fate: "pass",
			Reason: "in mode TPROXY, too, the proxy's lookups in its own pod pass while lookups are captured"},
		{Sets: names(tproxy), Flows: "tcp4 proxy>pod:15008, tcp4 peer>pod:15008", Fate: "pass", Reason: tunnel},
		{Sets: "tproxy", Flows: "tcp6 proxy>pod:15008, tcp6 peer>pod:15008", Fate: "pass", Reason: tunnel},

		{Sets: "environment, out-not-port, virtual-excluded, injected-excluded-ports", Flows: "tcp4 proxy>pod:3306", Fate: "redirect(15006)",
			Reason: policy},
		{Sets: "environment, out-not-port", Flows: "tcp6 proxy>pod:3306", Fate: "redirect(15006)", Reason: policy},
		{Sets: "out-not-port-hairpin", Flows: "tcp4 proxy>pod:8080, tcp4 proxy>pod2:8080, tcp4 proxy>127.0.0.2:8080, " +
			"tcp4 proxyuid>pod:8080", Fate: "redirect(15006)", Reason: policy},

		{Sets: "virtual-excluded", Flows: "tcp4 vm>outside:3306, tcp4 vm>cluster:80, tcp4 vm>dns:53", Fate: "pass",
			Reason: guest},
		{Sets: "virtual-port", Flows: "tcp4 vm>outside:3306", Fate: "redirect(15001)", Reason: guest},
		{Sets: "tproxy-virtual", Flows: "tcp4 vm>*", Fate: "redirect(15001)",
			Reason: "in mode TPROXY, too, what comes from a guest is outbound"},

		{Sets: "dns-v6-server", Flows: "tcp4 app>pod:53, tcp4 app>127.0.0.53:53", Fate: "pass",
			Reason: "--lenient leaves all of DNS alone where no lookup would be captured"},
		{Sets: "dns-v6-server", Flows: "tcp4 proxy>pod:53", Fate: "redirect(15006)",
			Reason: "--lenient leaves all of DNS alone where no lookup would be captured"},
	}
}

func TestSwitch(t *testing.T) {
	peer().Switch(t, "istio", "template", "dual-stack", "in-list", "dns-all", "tproxy", "tproxy-interfaces", "virtual-dns")
}
