package main

import (
	"fmt"
	"strings"
)

// row is one of the page's tables: figures of which the least and the greatest are shown.
type row struct {
	what, aim string
	format    string // of a figure
	keys      []string
}

// each makes keys of the names that a name with a * stands for.
func each(key string, names ...string) (keys []string) {
	for _, name := range names {
		keys = append(keys, strings.ReplaceAll(key, "*", name))
	}
	return keys
}

func one(key string) []string { return []string{key} }

const times = "%.2f"

// table is that of whole runs and of new connections.
func table(f figures) (string, error) {
	return write(f, "| what | aim | measured |\n| --- | --- | --- |\n", []row{
		{"`mesh-init apply`, default rules, beside a hello world", "1.9", times, one("Process/apply x-hello")},
		{"the same again, unchanged", "1.6", times, one("Process/apply-again x-hello")},
		{"`mesh-init remove`", "", times, one("Process/remove x-hello")},
		{"`explain`, `render`", "1.5", times, one("Process/explain x-hello")},
		{"`mesh-cni`, ADD of a pod in the mesh", "2.3", times, one("Add/meshed x-hello")},
		{"`mesh-cni`, ADD of another pod", "1.2", times, one("Add/other x-hello")},
		{"`doctor`, ms", "80", "%.0f", one("Process/doctor ms")},
		{"5,000 excluded networks beside the default apply: by flag, `@FILE`, JSON, YAML", "5", times,
			each("Lists/apply/*-5000 x-default", "flag", "file", "json", "yaml")},
		{"unchanged, with 5,000, beside the default unchanged", "2", times,
			each("Lists/again/*-5000 x-default", "flag", "file")},
		{"memory at 50,000 (resident), MiB", "20", "%.0f", each("Lists/apply/*-50000 MiB", "file", "json", "yaml")},
		{"a new connection at 5,000 networks, beside one bare redirect: nftables", "1.05", times,
			each("NewConnection/nft/*/n=5000 x-bare", "IPv4", "IPv6")},
		{"a new connection at 5,000 networks, beside none: iptables-legacy", "1.1", times,
			each("NewConnectionIPTables/iptables-legacy/* x-5000", "IPv4", "IPv6")},
		{"the same: iptables-nft", "1.1", times, each("NewConnectionIPTables/iptables-nft/* x-5000", "IPv4", "IPv6")},
		{"apply with 5,000 by iptables-nft, beside one `iptables-nft-restore` of the same", "3", times,
			one("LongListsIPTables/apply-5000-cidrs/nft x-restore")},
		{"the same again, unchanged, beside that", "3", times, one("LongListsIPTables/apply-5000-cidrs-again/nft x-restore")},
	})
}

// packetTable is that of packets of established connections.
func packetTable(f figures) (string, error) {
	const ratio = "%.3f"
	return write(f, "| what | aim | measured |\n| --- | --- | --- |\n", []row{
		{"other UDP while lookups are captured", "1.02", ratio, one("BesideDNS/nft/IPv4/udp x-dns")},
		{"TCP that is not captured, while lookups are", "1.01", ratio, one("BesideDNS/nft/IPv4/excluded x-dns")},
		{"an empty chain at the same hook", "", ratio, each("BesideDNS/nft/IPv4/* x-empty", "udp", "excluded")},
		{"the backstop: captured", "1.03", ratio, one("Backstop/nft/IPv4/captured x-on")},
		{"the backstop: the proxy's own, excluded", "1.05", ratio, each("Backstop/nft/IPv4/* x-on", "proxy", "excluded")},
		{"empty chains at the same hooks", "", ratio, each("Backstop/nft/IPv4/* x-empty", "captured", "proxy", "excluded")},
		{"mode tproxy, beside Istio's nftables rules for it", "1.0", ratio, one("TProxy/nft/IPv4 x-0")},
		{"the same with 1,000 port ranges excluded", "1.0", ratio, one("TProxy/nft/IPv4 x-1000")},
	})
}

func write(f figures, head string, rows []row) (string, error) {
	for _, r := range rows {
		measured, err := f.span(r.format, r.keys...)
		if err != nil {
			return "", err
		}
		head += fmt.Sprintf("| %s | %s | %s |\n", r.what, r.aim, measured)
	}
	return head, nil
}

// podTable is that of pods that start at the same time.
func podTable(f figures) (string, error) {
	head, line, took, part := "| pods at once |", "| --- |", "| ms a pod |", "| of the rate of hello worlds |"
	for _, n := range []string{"1", "2", "4", "16", "64", "250"} {
		ms, err := f.span("%.2f", "AtOnce/n="+n+" ms/pod")
		if err != nil {
			return "", err
		}
		of, err := f.get("AtOnce/n=" + n + " of-hello")
		if err != nil {
			return "", err
		}
		head, line, took = head+" "+n+" |", line+" --- |", took+" "+ms+" |"
		part += fmt.Sprintf(" %.0f%% |", 100*of)
	}
	return strings.Join([]string{head, line, took, part}, "\n") + "\n", nil
}

// peerTable is that of other meshes' whole runs, in milliseconds.
func peerTable(f figures) (string, error) {
	text := "| whole runs, ms | default rules | again, unchanged | 5,000 excluded networks |\n| --- | --- | --- | --- |\n"
	for _, p := range append(peers(), peer{"hello", "*a Go hello world, in the same run*"}) {
		text += "| " + p.label
		for _, what := range applies() {
			cell := ""
			if v, err := f.get("Peer/" + p.key + "/" + what.key + " ms"); err == nil {
				cell = fmt.Sprintf("%.4g", v)
			}
			text += " | " + cell
		}
		text += " |\n"
	}
	return text, nil
}
