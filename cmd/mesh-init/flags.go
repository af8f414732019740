package main

import "strings"

// A flag is one row of the table that the command line, the environment, the
// help and the tests share.
type flag struct {
	name string
	// value stands for the value in the help. Words joined by | are all the
	// values there are; "" makes the flag a switch.
	value string
	group group
	// verbs use the flag. The others refuse it: silence would mislead.
	verbs verbs
	// field is the field of intercept.Config that the flag sets, as in JSON.
	field string
	// initial is the value that holds if none is given.
	initial string
	usage   string
}

// group is a heading of the help.
type group string

const (
	groupPorts    group = "The proxy's ports"
	groupProxy    group = "Who the proxy is"
	groupInbound  group = "Inbound: connections arriving in the pod"
	groupOutbound group = "Outbound: connections opened in the pod"
	groupOwners   group = "Outbound, by the user or group that opens the connection"
	groupDNS      group = "Name lookups"
	groupNetwork  group = "Interfaces, addresses, families"
	groupSource   group = "Configuration file"
	groupWhere    group = "Where and how"
	groupPacket   group = "The packet to explain"
	groupOutput   group = "Output"
)

// configures are the verbs that work from a configuration.
const configures = applyVerb | checkVerb | verifyVerb | renderVerb | explainVerb | doctorVerb

// touches are the verbs that look into a kernel.
const touches = applyVerb | checkVerb | verifyVerb | removeVerb | statusVerb | doctorVerb

// writes are the verbs for which it matters how rules are written.
const writes = touches | renderVerb

const everywhere = configures | touches | versionVerb

// flags is the one table of flags.
func flags() []flag {
	return []flag{
		{"outbound-port", "PORT", groupPorts, configures, "outbound.port", "15001",
			"where the proxy accepts outbound connections;\na range, 15001-15004, spreads them over its ports"},
		{"inbound-port", "PORT", groupPorts, configures, "inbound.port", "15006",
			"where the proxy accepts inbound connections, or a range"},
		{"tunnel-port", "PORT", groupPorts, configures, "tunnelPort", "15008",
			"where proxies talk to each other: inbound it is left\nalone; 0 or none: there is no such port"},
		{"dns-port", "PORT", groupPorts, configures, "dns.port", "15053",
			"where the resolver in the sidecar listens, UDP and TCP"},

		{"proxy-uid", "IDS", groupProxy, configures, "proxy.uids", "1337",
			"users the proxy runs as; a user or a group suffices"},
		{"proxy-gid", "IDS", groupProxy, configures, "proxy.gids", "1337",
			"groups the proxy runs as"},
		{"proxy-mark", "MARK", groupProxy, configures, "proxy.mark", "none",
			"mark the proxy sets on its sockets (SO_MARK), as in\n0x539/0xfff: the bits after / are those that count"},
		{"allow-root-proxy", "", groupProxy, configures, "proxy.allowRoot", "false",
			"permit 0 among them: whatever runs as root then escapes"},

		{"inbound-mode", "redirect|tproxy|off", groupInbound, configures, "inbound.mode", "redirect",
			"tproxy: the proxy sees both addresses as they are;\noff: leave them alone (an ingress controller)"},
		{"inbound-include-ports", "PORTS", groupInbound, configures, "inbound.includePorts", "*",
			"ports to capture"},
		{"inbound-exclude-ports", "PORTS", groupInbound, configures, "inbound.excludePorts", "15020,15021,15090",
			"ports to leave alone"},
		{"inbound-exclude-sources", "CIDRS", groupInbound, configures, "inbound.excludeSources", "none",
			"clients to leave alone"},
		{"inbound-exclude", "RULE", groupInbound, configures, "inbound.exclude", "none",
			"leave alone these clients at these ports:\n[CIDRS][:PORTS], as in 10.0.0.0/8:8080-8090; give it\nagain for another, or write ; between them"},
		{"tproxy-mark", "MARK", groupInbound, configures, "inbound.tproxy.mark", "0x539",
			"mark of what mode tproxy delivers to the pod"},
		{"tproxy-self-mark", "MARK", groupInbound, configures, "inbound.tproxy.selfMark", "0x53a",
			"mark of the proxy's own calls to its pod, and of\nthe connections that it has accepted"},
		{"tproxy-table", "NUMBER", groupInbound, configures, "inbound.tproxy.table", "133",
			"routing table that delivers what has the mark"},
		{"drop-invalid", "", groupInbound, configures, "inbound.dropInvalid", "false",
			"drop arriving packets that conntrack calls invalid"},

		{"outbound-include-cidrs", "CIDRS", groupOutbound, configures, "outbound.includeCIDRs", "*",
			"destinations to capture"},
		{"outbound-exclude-cidrs", "CIDRS", groupOutbound, configures, "outbound.excludeCIDRs", "none",
			"destinations to leave alone (not name lookups)"},
		{"outbound-include-ports", "PORTS", groupOutbound, configures, "outbound.includePorts", "none",
			"ports to capture besides the included destinations"},
		{"outbound-exclude-ports", "PORTS", groupOutbound, configures, "outbound.excludePorts", "none",
			"ports to leave alone, TCP and UDP"},
		{"outbound-exclude", "RULE", groupOutbound, configures, "outbound.exclude", "none",
			"leave alone what has all of a rule's properties:\n" +
				"[tcp|udp] [CIDRS][:PORTS] [uid=IDS] [gid=IDS]\n" +
				"as in 'udp 10.0.0.0/8:5000-6000 uid=1000-1999', or\n" +
				"'[fd00::/8]:53'; give it again for another, or write ;\nbetween them"},

		{"outbound-target", "ADDRESSES:PORT", groupOutbound, configures, "outbound.target", "none",
			"a proxy outside the pod, one address a family,\ninstead of --outbound-port"},
		{"udp", "pass|reject", groupOutbound, configures, "outbound.udp", "pass",
			"UDP to destinations that are captured; reject: its\nsender learns at once"},
		{"quic", "pass|reject", groupOutbound, configures, "outbound.quic", "pass",
			"the same of UDP port 443 alone: clients fall back to\nTCP"},

		{"include-uids", "IDS", groupOwners, configures, "outbound.includeUIDs", "none",
			"capture these users (and --include-gids) alone"},
		{"exclude-uids", "IDS", groupOwners, configures, "outbound.excludeUIDs", "none",
			"leave these users alone, name lookups included"},
		{"include-gids", "IDS", groupOwners, configures, "outbound.includeGIDs", "none",
			"capture these groups (and --include-uids) alone"},
		{"exclude-gids", "IDS", groupOwners, configures, "outbound.excludeGIDs", "none",
			"leave these groups alone, name lookups included"},

		{"dns", "off|resolvconf|all", groupDNS, configures, "dns.mode", "off",
			"lookups to capture: none, those to the servers of\nresolv.conf, or all"},
		{"dns-target", "ADDRESSES:PORT", groupDNS, configures, "dns.target", "none",
			"a resolver outside the sidecar, one address a family,\nas in 169.254.20.10:53, instead of --dns-port"},
		{"dns-servers", "ADDRESSES", groupDNS, configures, "dns.servers", "none",
			"the servers, instead of those in resolv.conf"},
		{resolvConfFlag, "PATH", groupDNS, configures, "", "/etc/resolv.conf",
			"read with --dns resolvconf if no server is named"},

		{"exclude-interfaces", "NAMES", groupNetwork, configures, "excludeInterfaces", "none",
			"interfaces to leave alone; net* for all that begin so"},
		{"virtual-interfaces", "NAMES", groupNetwork, configures, "virtualInterfaces", "none",
			"interfaces to a VM or container behind the pod, as in\nk6t-*,docker0: what comes from there is outbound"},
		{"loopback", "CIDRS", groupNetwork, configures, "loopback", "127.0.0.1,::1",
			"loopback addresses never captured; up to 127.0.0.0/8"},
		{"passthrough-sources", "ADDRESSES", groupNetwork, configures, "passthroughSources", "127.0.0.6,::6",
			"sources the proxy binds to reach the app, one a family"},
		{"families", "auto|ipv4|ipv6|dual", groupNetwork, configures, "families", "auto",
			"auto: what the kernel has; dual: fail unless both;\nthe family left out is not captured"},
		{"other-family", "pass|reject", groupNetwork, configures, "otherFamily", "pass",
			"what would be captured, of the family left out"},

		{configFlag, "FILE", groupSource, configures, "", "",
			"YAML or JSON; - for standard input; the fields are\nthose of \"config\" in render --format json"},

		{"netns", "PATH", groupWhere, touches, "", "",
			"network namespace, such as /run/netns/NAME or\n/proc/PID/ns/net, instead of the process's own"},
		{"allow-host-netns", "", groupWhere, touches, "", "false",
			"permit the host's own network namespace"},
		{backendFlag, "auto|nft|iptables|iptables-nft|iptables-legacy", groupWhere, writes, "", "auto",
			"how rules get into the kernel; nft: over netlink;\nauto: nft, and iptables where that is proven unable;\nwhat is asked for by name is never replaced"},
		{"iptables-dialect", "standard|minimal", groupWhere, writes, "", "standard",
			"minimal: no comments, one value a rule, for small\nkernels and gVisor"},
		{"iptables-jumps", "first|last", groupWhere, writes, "", "first",
			"of the built-in chains' rules, where ours are called"},
		{"iptables-wait", "DURATION", groupWhere, touches, "", "5s",
			"how long to wait for another program's lock"},
		{"set-sysctls", "", groupWhere, applyVerb, "", "false",
			"set the namespace's sysctls that the configuration\nneeds; else apply names them and fails"},
		{"dry-run", "", groupWhere, applyVerb, "", "false",
			"print what render prints, and change nothing"},

		{"from", "app|proxy|outside", groupPacket, explainVerb, "", "app",
			"who sends it; outside: it arrives in the pod"},
		{"dst", "ADDRESS:PORT", groupPacket, explainVerb, "", "",
			"where it goes, as in 10.1.2.3:443 or [fd00::1]:443"},
		{"src", "ADDRESS[:PORT]", groupPacket, explainVerb, "", "",
			"where it comes from"},
		{"proto", "tcp|udp|icmp", groupPacket, explainVerb, "", "tcp", "its protocol"},
		{"uid", "ID", groupPacket, explainVerb, "", "1000", "the app's user"},
		{"gid", "ID", groupPacket, explainVerb, "", "1000", "the app's group"},
		{"mark", "NUMBER", groupPacket, explainVerb, "", "0", "the mark of the sender's socket (SO_MARK)"},
		{"interface", "NAME", groupPacket, explainVerb, "", "",
			"the one it leaves or arrives by; if not given, lo for\na loopback address and with --to-self, else eth0"},
		{"to-self", "", groupPacket, explainVerb, "", "false",
			"the destination is the pod's own address"},
		{"state", "new|established|invalid", groupPacket, explainVerb, "", "new",
			"new: opens a connection; established: of one that was\nthere before the rules; invalid: conntrack calls it so"},

		{"format", "text|json", groupOutput, everywhere &^ removeVerb, "", "text", "of the result on standard output"},
		{logLevelFlag, "debug|info|warn|error", groupOutput, everywhere, "", "info", "of what is logged on standard error"},
		{logFormatFlag, "text|json", groupOutput, everywhere, "", "text", "of the log; json: errors, too"},
		{helpFlag, "", groupOutput, everywhere, "", "false", "this text"},
	}
}

// The flags that the code itself has to name.
const (
	backendFlag    = "backend"
	configFlag     = "config"
	helpFlag       = "help"
	logFormatFlag  = "log-format"
	logLevelFlag   = "log-level"
	resolvConfFlag = "resolv-conf"
)

func (f flag) isSwitch() bool { return f.value == "" }

// repeats reports whether the flag can be given more than once.
func (f flag) repeats() bool { return f.value == "RULE" }

// choices are all the values there are, or nil if they cannot be counted.
func (f flag) choices() []string {
	switch {
	case f.isSwitch():
		return []string{"true", "false"}
	case strings.Contains(f.value, "|"):
		return strings.Split(f.value, "|")
	}
	return nil
}

// env is the name of the environment variable, or "" if there is none: a
// packet to explain belongs to one call, and a variable forgotten in a
// manifest must not turn apply into nothing.
func (f flag) env() string {
	if f.group == groupPacket || f.name == "dry-run" || f.name == helpFlag {
		return ""
	}
	return envPrefix + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))
}

func findFlag(all []flag, name string) (flag, bool) {
	for _, f := range all {
		if f.name == name {
			return f, true
		}
	}
	return flag{}, false
}
