//go:build linux

package kuma_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	ours "github.com/mesh-intercept/intercept/internal/peers/kuma"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/peers"
	"github.com/mesh-intercept/intercept/testing/peers/kuma"
)

func peer() peers.Peer {
	proxy := intercept.Owner{UID: 5678, GID: 5678}
	return peers.Peer{
		Record:      "testdata/fates.txt",
		Proxy:       proxy,
		Sidecar:     netlab.SidecarConfig{Owner: &proxy},
		Flows:       flows(),
		Sets:        sets(),
		Rules:       kuma.Rules,
		Read:        ours.Parse,
		Differences: differences(),
	}
}

func TestFates(t *testing.T) { peer().Test(t) }

// TestPage: docs/migrate-kuma.md has the reason of each difference.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../../docs/migrate-kuma.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]bool{}
	for _, d := range differences() {
		reasons[d.Reason] = true
	}
	for _, s := range refused() {
		reasons[s.Why] = true
	}
	for reason := range reasons {
		if !strings.Contains(string(text), "| "+reason+" |") {
			t.Errorf("the page lacks %q", reason)
		}
	}
}

func flows() []string {
	return []string{
		"tcp app>outside:80", "tcp app>outside:22", "tcp app>outside:443", "tcp app>outside:3306", "tcp app>outside:8080",
		"tcp app>outside:8085", "tcp app>outside:9090", "tcp app>outside:15001", "tcp app>outside:15006",
		"tcp app>outside:15008", "tcp app>outside:65535", "tcp app>other:443", "tcp app>other:3306", "tcp app>cluster:80",
		"tcp app>peer:80", "tcp app>management:80",
		"tcp app>dns:53", "udp app>dns:53", "tcp app>other:53", "udp app>other:53", "udp app>localhost:53",
		"tcp app>localhost:53", "udp app>outside:443", "udp app>outside:9090",
		"tcp root>outside:80", "tcp root>cluster:443", "tcp root>dns:53", "udp root>dns:53", "tcp root>pod:8080",
		"tcp 2002:2002>outside:443", "tcp 2002:2002>outside:80", "udp 2002:2002>dns:53", "tcp 2002:2002>dns:53",
		"tcp 2005:1000>outside:443", "udp 2005:1000>other:53", "tcp 2102:2102>outside:80", "tcp 2102:2102>pod:8080",
		"udp 2102:2102>dns:53", "tcp 1000650000:1>outside:80",
		"tcp proxy>outside:80", "tcp proxyuid>outside:80", "tcp proxygid>outside:80", "tcp proxy>dns:53", "udp proxy>dns:53",
		"udp proxygid>dns:53", "tcp proxygid>dns:53", "tcp proxy>cluster:443",
		"tcp proxy>pod:8080", "tcp proxy>pod2:8080", "tcp proxy>pod:53", "tcp proxy>pod:15008", "tcp proxy>pod:3306",
		"tcp proxy>pod:15006", "tcp proxy>localhost:8080", "tcp proxy>127.0.0.2:8080", "tcp proxy(passthrough)>pod:8080",
		"tcp app>pod:8080", "tcp app>pod2:8080", "tcp app>pod:53", "tcp app>localhost:8080", "tcp app>127.0.0.2:8080",
		"tcp app(passthrough)>pod:8080",
		"tcp peer>pod:8080", "tcp peer>pod:80", "tcp peer>pod:22", "tcp peer>pod:443", "tcp peer>pod:3306", "tcp peer>pod:53",
		"tcp peer>pod:8085", "tcp peer>pod:9090", "tcp peer>pod:15001", "tcp peer>pod:15006", "tcp peer>pod:15008",
		"tcp peer>pod:15020", "tcp peer>pod:15021", "tcp peer>pod:15090", "tcp peer>pod2:8080", "tcp peer(client)>pod:8080",
		"tcp peer(client)>pod:9090", "udp peer>pod:53", "udp peer>pod:8080",
		"tcp vm>outside:80", "tcp vm>outside:3306", "tcp vm>outside:443", "tcp vm>other:443", "tcp vm>dns:53",
		"udp vm>dns:53", "udp vm>other:53", "tcp vm>bridge:8080", "tcp vm>bridge:9090", "tcp vm>pod:8080",
		"udp vm>outside:443",
	}
}

// files are there in each set.
func files() map[string]string {
	return map[string]string{
		"/etc/passwd":      "root:x:0:0:root:/root:/bin/sh\nkuma-dp:x:5678:5678::/:\ndp:x:2102:2102::/:\n",
		"/etc/resolv.conf": "search cluster.local\nnameserver 10.96.0.10\n",
		"/both.conf":       "nameserver 10.96.0.10\nnameserver fd00:96::a\n",
		"/none.conf":       "options ndots:5\n",
	}
}

// on is a command line.
func on(name, args string) peers.Set {
	return peers.Set{Name: name, Args: strings.Fields(args), Files: files()}
}

// by is a configuration file, and flags beside it.
func by(name, file, args string) peers.Set {
	s := on(name, "--config /tp.yaml "+args)
	s.Files["/tp.yaml"] = file
	return s
}

// env is an environment of variables without their prefix, beside a file that says nothing, where it is read.
func env(name string, variables ...string) peers.Set {
	s := by(name, "{}", "")
	for _, v := range variables {
		s.Environ = append(s.Environ, "KUMA_TRANSPARENT_PROXY_"+v)
	}
	return s
}

// with is a set with another user's sidecar.
func with(s peers.Set, uid uint32) peers.Set {
	s.Sidecar = &netlab.SidecarConfig{Owner: &intercept.Owner{UID: uid, GID: uid}}
	return s
}

// after is a set after an earlier run.
func after(s peers.Set, earlier string) peers.Set {
	s.Before = [][]string{strings.Fields(earlier)}
	return s
}

func sets() []peers.Set {
	const vnet4, vnet6 = "--vnet br-vm:10.246.0.0/24 ", "--vnet br-vm:fd00:246::/64 "
	proxy := intercept.Owner{UID: 5678, GID: 5678}
	all := []peers.Set{
		on("default", ""),
		// What Kuma's injector writes, by flags and by files.
		on("injected", "--kuma-dp-user=5678 --exclude-inbound-ports=9000 --redirect-all-dns-traffic --verbose"),
		by("injected-file", injectedFile, ""),
		by("injected-files", injectedFile, "--config /custom.yaml"),
		{Name: "config-list", Args: []string{"--config", "/tp.yaml,/custom.yaml"}, Files: files()},
		on("gateway", "--redirect-inbound=false"),
		on("gateway-dns", "--redirect-inbound=false --redirect-all-dns-traffic"),
		by("outbound-off", "redirect: {outbound: {enabled: false}}", ""),
		by("outbound-off-dns", "redirect: {outbound: {enabled: false}, dns: {enabled: true, captureAll: true}}", ""),
		{Name: "ports", Args: strings.Fields("--redirect-outbound-port 12001 --redirect-inbound-port 12006 " +
			"--redirect-dns-port 12053 --redirect-all-dns-traffic"), Files: files(),
			Sidecar: &netlab.SidecarConfig{Outbound: intercept.Port(12001), Inbound: intercept.Port(12006), DNSPort: 12053,
				Owner: &proxy}},
		with(on("user-name", "--kuma-dp-user dp"), 2102),
		with(on("user-number", "--kuma-dp-user 2102"), 2102),
		with(on("user-root", "--kuma-dp-user root"), 0),
		with(on("user-dns", "--kuma-dp-user dp --redirect-all-dns-traffic"), 2102),
		on("exclude-in", "--exclude-inbound-ports 9090"),
		on("exclude-in-list", "--exclude-inbound-ports 22,443,,3306"),
		on("exclude-in-twice", "--exclude-inbound-ports 22 --exclude-inbound-ports 9090"),
		by("exclude-in-uids", "redirect: {inbound: {excludePortsForUIDs: ['1000', 'tcp:80:2000-3000']}}", ""),
		on("exclude-in-15", "--exclude-inbound-ports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,22,8080"),
		on("exclude-out", "--exclude-outbound-ports 443"),
		on("exclude-out-list", "--exclude-outbound-ports=22,3306,15001"),
		on("exclude-out-53", "--exclude-outbound-ports 53 --redirect-all-dns-traffic"),
		on("exclude-both", "--exclude-inbound-ports 22,9090 --exclude-outbound-ports 443,3306"),
		by("include-in", "redirect: {inbound: {includePorts: [8080, 443]}}", ""),
		by("include-out", "redirect: {outbound: {includePorts: [80, 443]}}", ""),
		by("include-and-exclude", "redirect: {inbound: {includePorts: [8080], excludePorts: [9000]}, "+
			"outbound: {includePorts: [443], excludePorts: [22]}}", ""),
		by("include-in-source", "redirect: {inbound: {includePorts: [8080, 9090], excludePortsForIPs: [172.16.0.0/12]}}", ""),
		on("exclude-in-ips", "--exclude-inbound-ips 172.16.5.5/12,2001:db8:7::7"),
		on("exclude-in-ips-twice", "--exclude-inbound-ips 10.244.0.1 --exclude-inbound-ips 2001:db8:7::/48"),
		on("exclude-out-ips", "--exclude-outbound-ips 203.0.113.0/24,2001:db8::/32"),
		on("exclude-out-ips-dns", "--exclude-outbound-ips 10.96.0.10 --exclude-outbound-ips fd00:96::a "+
			"--redirect-all-dns-traffic"),
		on("exclude-out-own", "--exclude-outbound-ips 10.244.0.5,fd00:244::5"),
		on("exclude-uid", "--exclude-outbound-ports-for-uids 2002"),
		on("exclude-uid-dns", "--exclude-outbound-ports-for-uids 2002 --redirect-all-dns-traffic"),
		on("exclude-uid-tcp", "--exclude-outbound-ports-for-uids tcp:*:2002 --redirect-all-dns-traffic"),
		on("exclude-uid-udp", "--exclude-outbound-ports-for-uids udp:53:2002-2005 --redirect-all-dns-traffic"),
		on("exclude-uid-ports", "--exclude-outbound-ports-for-uids tcp:22,80-88:2000-2010"),
		on("exclude-uids", "--exclude-outbound-ports-for-uids 443:2002 --exclude-outbound-ports-for-uids *:80:2005"),
		on("dns", "--redirect-dns"),
		on("dns-all", "--redirect-all-dns-traffic"),
		by("dns-both-families", "redirect: {dns: {enabled: true, resolvConfigPath: /both.conf}}", ""),
		by("dns-no-server", "redirect: {dns: {enabled: true, resolvConfigPath: /none.conf}}", ""),
		on("dns-no-zones", "--redirect-all-dns-traffic --skip-dns-conntrack-zone-split"),
		on("dns-ipv4", "--redirect-all-dns-traffic --ip-family-mode ipv4"),
		on("ipv4", "--ip-family-mode ipv4"),
		on("IPv4", "--ip-family-mode IPv4"),
		on("drop-invalid", "--drop-invalid-packets"),
		on("insert", "--redirect-inbound-insert-instead-of-append --redirect-outbound-insert-instead-of-append"),
		on("insert-dns", "--redirect-outbound-insert-instead-of-append --redirect-all-dns-traffic"),
		on("vnet", vnet4+vnet6),
		on("vnet-ipv4", vnet4),
		on("vnet-prefix", "--vnet br+:10.246.0.0/24 --vnet br+:fd00:246::/64"),
		on("vnet-dns", vnet4+vnet6+"--redirect-all-dns-traffic"),
		on("vnet-dns-servers", vnet4+"--redirect-dns"),
		on("vnet-two", vnet4+vnet6+"--vnet br-vm:203.0.113.0/24"),
		on("vnet-exclude", vnet4+vnet6+"--exclude-outbound-ports 3306 --exclude-outbound-ips 192.0.2.7,2001:db9::7"),
		on("vnet-exclude-in", vnet4+vnet6+"--exclude-inbound-ports 9090"),
		on("vnet-exclude-uid", vnet4+vnet6+"--exclude-outbound-ports-for-uids 2002"),
		on("vnet-other", "--vnet docker0:172.17.0.0/16"),
		with(env("env", "REDIRECT_INBOUND_EXCLUDE_PORTS=22,9090", "REDIRECT_OUTBOUND_EXCLUDE_PORTS=443",
			"KUMA_DP_USER=dp"), 2102),
		env("env-dns", "REDIRECT_DNS_ENABLED=true", "REDIRECT_DNS_CAPTURE_ALL=true", "IP_FAMILY_MODE=ipv4"),
		env("env-ips", "REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_IPS=203.0.113.0/24,2001:db8::/32",
			"REDIRECT_INBOUND_ENABLED=false"),
		on("legacy", "--iptables-executables iptables:/sbin/iptables-legacy --exclude-inbound-ports 22"),
		after(on("again", "--exclude-inbound-ports 22"), "--exclude-inbound-ports 9090 --exclude-outbound-ports 443"),
		after(on("again-ipv4", "--ip-family-mode ipv4"), "--redirect-all-dns-traffic"),
		after(on("after-legacy", "--exclude-inbound-ports 9090"),
			"--iptables-executables iptables:/sbin/iptables-legacy --exclude-inbound-ports 22"),
		after(on("again-no-dns", "--exclude-outbound-ports 22"), "--redirect-all-dns-traffic --drop-invalid-packets"),
	}
	for i := range all {
		if all[i].Name == "config-list" {
			all[i].Files["/tp.yaml"] = injectedFile
		}
		if strings.HasPrefix(all[i].Name, "config-") || all[i].Name == "injected-files" {
			all[i].Files["/custom.yaml"] = "redirect:\n  outbound:\n    excludePorts: [3306]\n" +
				"  inbound:\n    excludePorts: [9000, 22]\n"
		}
	}
	return append(all, refused()...)
}

// refused are sets that contradict themselves: kumactl lets one half win, in silence.
func refused() []peers.Set {
	s := by("include-wins", "redirect: {inbound: {includePorts: [8080, 9090], excludePorts: [9090]}}", "")
	s.Refused, s.Why = "is in /tp.yaml: redirect.inbound.includePorts", "the same port is included and excluded"
	return []peers.Set{s}
}

// injectedFile is the configuration that Kuma's injector writes into a pod.
const injectedFile = `ipFamilyMode: dualstack
kumaDPUser: "5678"
redirect:
  dns:
    captureAll: true
    enabled: true
    port: 15053
    resolvConfigPath: /etc/resolv.conf
    skipConntrackZoneSplit: false
  inbound:
    enabled: true
    excludePorts:
    - 9000
    port: 15006
  outbound:
    enabled: true
    port: 15001
retry:
  maxRetries: 4
  sleepBetweenRetries: 2s
wait: 5
waitInterval: 0
`

// differences are where mesh-init does not do as kumactl does, on purpose. docs/migrate-kuma.md has them in words.
func differences() []peers.Difference {
	const self = "tcp? proxy>pod:*, tcp? proxy>pod2:*, tcp4 proxy>127.0.0.2:8080"
	return []peers.Difference{
		differ("exclude-in-uids", "tcp? peer*>pod*, tcp? vm>*", "redirect(15006)", "a user says nothing of what arrives"),
		differ("exclude-in-uids", "tcp? peer>pod:15006", "pass", "a user says nothing of what arrives"),
		differ("injected-files, config-list, exclude-out-list, exclude-both, vnet-exclude", "tcp? proxy>pod:3306",
			"redirect(15006)",
			"what is excluded outbound says nothing of what comes in"),
		differ("exclude-out-own", "tcp? proxy>pod:*", "redirect(15006)",
			"what is excluded outbound says nothing of what comes in"),
		differ("exclude-out-53", "tcp? proxy>pod:53", "redirect(15006)",
			"what is excluded outbound says nothing of what comes in"),
		differ("outbound-off, outbound-off-dns", self, "redirect(15006)",
			"inbound is on, for the proxy's calls to its pod, too"),
		differ("gateway, gateway-dns, env-ips", self, "pass", "inbound is off, and nobody listens there"),
		differ("after-legacy", "tcp? peer*>pod:9090, tcp? vm>bridge:9090", "pass",
			"only the last command line counts, whatever wrote the rules"),
		differ("vnet, vnet-ipv4, vnet-prefix, vnet-two, vnet-exclude, vnet-exclude-in, vnet-exclude-uid", "udp? vm>*:53",
			"pass",
			"lookups are left alone where DNS is not captured"),
		differ("vnet-dns", "udp? vm>*:53", "redirect(15053)", "the answer to a lookup from behind the pod finds its way"),
		differ("vnet-dns-servers", "udp4 vm>dns:53", "redirect(15053)",
			"the answer to a lookup from behind the pod finds its way"),
		differ("vnet-dns-servers", "udp4 vm>other:53", "pass", "only lookups to the servers in resolv.conf are captured"),
		differ("vnet-ipv4, vnet-dns-servers", "tcp6 vm>*", "redirect(15001)",
			"an interface is virtual in both families, and what is behind it is said for each"),
		differ("vnet-two", "tcp4 vm>bridge:*", "redirect(15006)",
			"all networks of an interface count, not the last one alone"),
		differ("vnet-exclude", "tcp? vm>outside:3306, tcp? vm>other:443", "pass",
			"what is excluded is excluded for what is behind the pod, too"),
		differ("again-ipv4", "tcp6 *, udp6 *", "pass", "only the last command line counts"),
	}
}

func differ(sets, flows, fate, reason string) peers.Difference {
	return peers.Difference{Sets: sets, Flows: flows, Fate: fate, Reason: reason}
}

// TestSwitch: by its comments kuma knows its own rules in built-in chains.
func TestSwitch(t *testing.T) {
	p := peer()
	p.Rules = func(s peers.Set) []peers.Command {
		commands := kuma.Rules(s)
		for i := range commands {
			commands[i].Stdin = regexp.MustCompile(`(?m)^(-[AI] .*)$`).ReplaceAllString(commands[i].Stdin,
				"$1 -m comment --comment kuma/mesh/transparent/proxy/rule")
		}
		if s.Name != "ipv4" {
			commands = append(commands, peers.Command{Args: strings.Fields("ip address add ::6/128 dev lo")})
		}
		return commands
	}
	p.Switch(t, "kuma", "default", "injected", "exclude-out-ips-dns", "dns-all", "drop-invalid", "vnet", "legacy", "ipv4")
}
