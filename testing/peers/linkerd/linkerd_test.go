//go:build linux

package linkerd_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	linkerdflags "github.com/mesh-intercept/intercept/internal/peers/linkerd"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/peers"
	"github.com/mesh-intercept/intercept/testing/peers/linkerd"
)

// base are the flags without which the program does nothing, chart those that the injector writes.
const (
	base  = "-p 4143 -o 4140 -u 2102"
	chart = "--ipv6=false --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 " +
		"--inbound-ports-to-ignore 4190,4191,4567,4568 --outbound-ports-to-ignore 4567,4568"
)

func peer() peers.Peer {
	proxy := intercept.Owner{UID: 2102, GID: 2102}
	return peers.Peer{
		Record:  "testdata/fates.txt",
		Proxy:   proxy,
		Sidecar: *sidecar(proxy),
		Flows:   flows(),
		Sets:    sets(),
		Rules: func(s peers.Set) []peers.Command {
			return linkerd.Rules(append(slices.Clone(s.Before), s.Args)...)
		},
		Read:        linkerdflags.Parse,
		Differences: differences(),
	}
}

// sidecar listens at the ports of the base.
func sidecar(owner intercept.Owner) *netlab.SidecarConfig {
	return &netlab.SidecarConfig{Outbound: intercept.Port(4140), Inbound: intercept.Port(4143), Owner: &owner}
}

func TestFates(t *testing.T) { peer().Test(t) }

func flows() []string {
	return []string{
		"tcp app>outside:80", "tcp app>outside:22", "tcp app>outside:443", "tcp app>outside:3306", "tcp app>outside:4567",
		"tcp app>outside:8080", "tcp app>outside:9090", "tcp app>outside:9500", "tcp app>outside:15001",
		"tcp app>outside:15006", "tcp app>outside:15008", "tcp app>outside:4140", "tcp app>outside:4143",
		"tcp app>outside:65535", "tcp app>other:443", "tcp app>cluster:80", "tcp app>peer:80", "tcp app>management:80",
		"tcp app>dns:53", "udp app>dns:53", "udp app>outside:443", "udp app>outside:9090", "udp app>pod:9999",
		"tcp root>outside:80", "tcp root>cluster:443", "tcp root>pod:8080", "tcp root>dns:53",
		"tcp 1337:1337>outside:80", "tcp 1337:1000>outside:80", "tcp 1000:1337>outside:80",
		"tcp 1337:1337>pod:8080", "tcp 4000000000:4000000000>outside:80", "tcp 1000:2000>outside:80",
		"tcp proxy>outside:80", "tcp proxyuid>outside:80", "tcp proxygid>outside:80", "tcp proxy>dns:53",
		"udp proxy>dns:53", "tcp proxy>cluster:443",
		"tcp proxy>pod:8080", "tcp proxy>pod2:8080", "tcp proxy>pod:4190", "tcp proxy>pod:15008", "tcp proxy>localhost:8080",
		"tcp proxy>127.0.0.2:8080", "tcp proxy(passthrough)>pod:8080", "tcp proxygid>pod:8080",
		"tcp app>pod:8080", "tcp app>pod2:8080", "tcp app>pod:53", "tcp app>localhost:8080", "tcp app>localhost:4140",
		"tcp app>localhost:4191", "tcp app>127.0.0.2:8080", "tcp app(passthrough)>pod:8080", "tcp app>passthrough:8080",
		"tcp peer>pod:8080", "tcp peer>pod:80", "tcp peer>pod:22", "tcp peer>pod:443", "tcp peer>pod:3306",
		"tcp peer>pod:4140", "tcp peer>pod:4143", "tcp peer>pod:4190", "tcp peer>pod:4191", "tcp peer>pod:4567",
		"tcp peer>pod:9090", "tcp peer>pod:9500", "tcp peer>pod:53", "tcp peer>pod:15001", "tcp peer>pod:15006",
		"tcp peer>pod:15008", "tcp peer>pod:15020", "tcp peer>pod:15021", "tcp peer>pod:15090", "tcp peer>pod:65535",
		"tcp peer>pod2:8080", "tcp peer(client)>pod:8080", "tcp peer(client)>pod:9090", "tcp peer(cluster)>pod:8080",
		"udp peer>pod:53", "udp peer>pod:8080", "udp peer(client)>pod:9090",
		"tcp vm>outside:80", "tcp vm>bridge:8080", "udp vm>outside:53",
	}
}

// differences are where the program is not copied, with the reasons that docs/migrate-linkerd.md gives.
func differences() []peers.Difference {
	const (
		subnets = "subnets are taken by their family, and the other family is captured"
		trimmed = "spaces in lists do not matter"
		later   = "the later run's flags hold"
	)
	fate := func(sets, flows, fate, reason string) peers.Difference {
		return peers.Difference{Sets: sets, Flows: flows, Fate: fate, Reason: reason}
	}
	like := func(sets, flows, like, reason string) peers.Difference {
		return peers.Difference{Sets: sets, Flows: flows, Like: like, Reason: reason}
	}
	return []peers.Difference{
		like("subnet", "*", "default", subnets),
		fate("subnet", "tcp4 peer(client)>*", "pass", subnets),
		like("subnet-ipv6, subnet-both", "*", "default", subnets),
		fate("subnet-ipv6, subnet-both", "tcp6 peer(client)>*", "pass", subnets),
		fate("subnet-both", "tcp4 peer(client)>*", "pass", subnets),
		fate("uid-0", "tcp? root>outside:80, tcp? root>cluster:443, tcp? root>dns:53", "pass", "root is the proxy"),
		fate("ignore-in-space", "tcp? peer>pod:3306", "pass", trimmed),
		fate("ignore-out-space", "tcp? app>o*:443, tcp? *>cluster:443", "pass", trimmed),
		like("again-ipv4", "*", "ipv4", later),
		like("again-nft", "*", "nft-alone", later),
	}
}

// on adds flags to the base.
func on(name, args string) peers.Set {
	return peers.Set{Name: name, Args: append(strings.Fields(base), strings.Fields(args)...)}
}

func sets() []peers.Set {
	many := "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,22,443,3306,9000-9999"
	all := []peers.Set{
		on("default", ""),
		{Name: "chart", Args: strings.Fields(chart)},
		{Name: "chart-ipv6", Args: strings.Fields(strings.Replace(chart, "false", "true", 1))},
		{Name: "long-flags", Args: strings.Fields("--incoming-proxy-port=4143 --outgoing-proxy-port=4140 --proxy-uid=2102")},
		{Name: "shorthands-joined", Args: strings.Fields("-p4143 -o4140 -u2102 -w")},
		on("uid-1337", "-u 1337"),
		{Name: "gid", Args: strings.Fields("-p 4143 -o 4140 -g 2102")},
		on("uid-gid", "-g 1337"),
		on("uid-negative-gid", "-g -5"),
		{Name: "uid-0-gid", Args: strings.Fields("-p 4143 -o 4140 -u 0 -g 2102")},
		{Name: "uid-0", Args: strings.Fields("-p 4143 -o 4140 -u 0")},
		{Name: "gid-0", Args: strings.Fields("-p 4143 -o 4140 -g 0 -u 2102")},
		{
			Name: "nobody", Args: strings.Fields("-p 4143 -o 4140"),
			Refused: "the proxy's own connections would come back to it", Why: "the proxy's own connections would come back to it for ever",
		},
		on("uid-huge", "-u 4000000000"),
		on("last-uid-wins", "-u 1000 -u 1337"),
		on("redirect-one", "-r 8080"),
		on("redirect-list", "--ports-to-redirect 8080,9090 -r 443"),
		on("redirect-and-ignore", "-r 8080,9090 --inbound-ports-to-ignore 9090"),
		on("redirect-and-subnet", "-r 8080,9090 --subnets-to-ignore 172.16.0.0/12 --ipv6=false"),
		on("ignore-in", "--inbound-ports-to-ignore 9090"),
		on("ignore-in-list", "--inbound-ports-to-ignore=22,443,3306 --inbound-ports-to-ignore 4190-4191"),
		on("ignore-in-range", "--inbound-ports-to-ignore 9000-9999"),
		on("ignore-in-all", "--inbound-ports-to-ignore 1-65535"),
		on("ignore-in-from-0", "--inbound-ports-to-ignore 0-4999"),
		on("ignore-in-many", "--inbound-ports-to-ignore "+many),
		on("ignore-in-one-range", "--inbound-ports-to-ignore 9090-9090"),
		on("ignore-in-empty", "--inbound-ports-to-ignore="),
		on("ignore-in-zeros", "--inbound-ports-to-ignore 00022,+443"),
		on("ignore-out", "--outbound-ports-to-ignore 443"),
		on("ignore-out-list", "--outbound-ports-to-ignore 22,443,3306,4567"),
		on("ignore-out-range", "--outbound-ports-to-ignore 9000-9999,3306"),
		on("ignore-out-53", "--outbound-ports-to-ignore 53"),
		on("ignore-out-all", "--outbound-ports-to-ignore 1-65535"),
		on("ignore-out-many", "--outbound-ports-to-ignore "+many),
		on("ignore-all", "--inbound-ports-to-ignore 1-65535 --outbound-ports-to-ignore 1-65535"),
		on("ignore-both", "--inbound-ports-to-ignore 22,3306 --outbound-ports-to-ignore 443,3306"),
		{Name: "ignore-in-space", Args: append(strings.Fields(base), "--inbound-ports-to-ignore", "22, 3306")},
		{Name: "ignore-out-space", Args: append(strings.Fields(base), "--outbound-ports-to-ignore", "22, 443")},
		on("ignore-in-name", "--inbound-ports-to-ignore 22,http"),
		on("ignore-in-too-large", "--inbound-ports-to-ignore 70000,22"),
		on("ignore-out-backwards", "--outbound-ports-to-ignore 9999-9000,443"),
		on("subnet", "--subnets-to-ignore 172.16.0.0/12"),
		on("subnet-ipv4", "--ipv6=false --subnets-to-ignore 172.16.0.0/12"),
		on("subnet-all", "--ipv6=false --subnets-to-ignore 0.0.0.0/0"),
		on("subnet-host-bits", "--ipv6=false --subnets-to-ignore 172.16.9.9/12"),
		{Name: "subnet-space", Args: append(strings.Fields(base), "--ipv6=false",
			"--subnets-to-ignore", "10.96.0.0/16, 172.16.0.0/12")},
		on("subnet-ipv6", "--subnets-to-ignore 2001:db8:7::/48"),
		on("subnet-both", "--subnets-to-ignore 172.16.0.0/12,2001:db8:7::/48"),
		on("subnet-outside", "--ipv6=false --subnets-to-ignore 203.0.113.0/24"),
		on("ipv4", "--ipv6=false"),
		on("ipv6", "--ipv6"),
		on("mode-nft", "--iptables-mode nft"),
		on("mode-plain", "--iptables-mode plain"),
		on("mode-legacy", "--iptables-mode legacy"),
		on("bin-path", "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save"),
		on("wait-and-logs", "-w --log-format json --log-level debug"),
		on("again", "--inbound-ports-to-ignore 22"),
		on("again-ipv4", "--ipv6=false"),
		on("again-nft", "--iptables-mode nft --inbound-ports-to-ignore 22 --outbound-ports-to-ignore 443"),
		on("nft-alone", "--iptables-mode nft --inbound-ports-to-ignore 22 --outbound-ports-to-ignore 443"),
		{Name: "other-ports", Args: strings.Fields("-p 15006 -o 15001 -u 2102"), Sidecar: &netlab.SidecarConfig{
			Outbound: intercept.Port(15001), Inbound: intercept.Port(15006), Owner: &intercept.Owner{UID: 2102, GID: 2102},
		}},
	}
	// Who the sidecar is, which the answers of its ports depend on. Nobody's is the user that --lenient names.
	runsAs := map[string]uint32{
		"uid-1337": 1337, "uid-huge": 4000000000, "last-uid-wins": 1337, "uid-0": 0, "nobody": intercept.MaxID,
	}
	for i, s := range all {
		if uid, ok := runsAs[s.Name]; ok {
			all[i].Sidecar = sidecar(intercept.Owner{UID: uid, GID: uid})
		}
		if strings.HasPrefix(s.Name, "again") {
			all[i].Before = [][]string{strings.Fields(base + " --inbound-ports-to-ignore 9090 --outbound-ports-to-ignore 3306")}
		}
	}
	return all
}

func TestSwitch(t *testing.T) {
	peer().Switch(t, "linkerd", "default", "chart-ipv6", "mode-nft", "subnet-ipv4")
}

// TestPage: docs/migrate-linkerd.md gives the reason for each difference and refusal.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/migrate-linkerd.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons := []string{}
	for _, d := range peer().Differences {
		reasons = append(reasons, d.Reason)
	}
	for _, s := range peer().Sets {
		reasons = append(reasons, s.Why)
	}
	for _, reason := range reasons {
		if !strings.Contains(string(page), reason) {
			t.Errorf("it does not say %q", reason)
		}
	}
}
