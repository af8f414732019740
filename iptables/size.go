package iptables

import "github.com/mesh-intercept/intercept/ruleset"

// maxMinimal is how much of a table gVisor's kernel takes at once, in bytes: that of a socket option (maxOptLen of
// pkg/sentry/syscalls/linux/sys_socket.go) without struct ipt_replace, which stands before the table.
const maxMinimal = 32<<10 - 96

// size is what the table takes in legacy xtables, beside other people's rules: struct ipt_entry or ip6t_entry, then
// matches and a target, each with a header of 32 bytes and rounded up to 8 (linux/netfilter/x_tables.h).
func (t table) size(f ruleset.Family) int {
	entry := 112
	if f == ruleset.IPv6 {
		entry = 168
	}
	const header, standard, errorTarget = 32, 40, 64
	builtins := map[string]int{"raw": 2, "mangle": 5, "filter": 3, "nat": 4}[t.name]
	size := builtins*(entry+standard) + entry + errorTarget
	size += len(t.jumps) * (entry + standard)
	size += entry + errorTarget + entry + standard // the chain of the fingerprint
	for _, c := range t.chains {
		size += entry + errorTarget + entry + standard
		for _, r := range c.rules {
			size += entry + r.size(f, header, standard)
		}
	}
	return size
}

func (r rule) size(f ruleset.Family, header, standard int) int {
	matches, ports := 0, 0
	target := standard
	for i, w := range r.words {
		switch w {
		case "--sport", "--dport", "--tcp-flags", "--tcp-option":
			ports = header + 16 // one match, the protocol's
		case "--uid-owner", "--gid-owner":
			matches += header + 24
		case "--mark":
			matches += header + 16
		case "--ctstate", "--ctdir":
			matches += header + 168
		case "--u32":
			matches += header + 1984
		case "--nowildcard", "--transparent", "--dst-type", "--length", "--icmp-type", "--icmpv6-type":
			matches += header + 8
		case "-j":
			switch r.words[i+1] {
			case "REDIRECT":
				target = header + 24
				if f == ruleset.IPv6 {
					target = header + 40
				}
			case "DNAT":
				target = header + 48
			case "CT":
				target = header + 72
			case "MARK", "CONNMARK", "TPROXY", "REJECT":
				target = header + 40
			}
		}
	}
	return matches + ports + target
}
