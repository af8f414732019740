package decode

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// A Field is one field of a configuration as people set it: by a flag, by an
// environment variable or by an annotation.
type Field struct {
	// Name is that of the flag, without its dashes.
	Name string
	// Form stands for the value in help. Words joined by | are all the values
	// there are; "" makes the field a switch.
	Form  string
	Group Group
	// Path is the field of intercept.Config, as in JSON.
	Path string
	// Initial is the text of the value that holds if none is given.
	Initial string
	// Usage is what the field means, in lines that fit the help.
	Usage string
	// Again says, after Usage, how a flag sets several, if it can.
	Again string
	// Deprecated are names that it had before. They still work.
	Deprecated []string
}

// Names are the field's names, the deprecated ones last.
func (f Field) Names() []string { return append([]string{f.Name}, f.Deprecated...) }

// EnvPrefix is how the variables of the fields begin.
const EnvPrefix = "MESH_"

// Env is the name of the field's environment variable: MESH_OUTBOUND_PORT.
func (f Field) Env() string { return EnvName(f.Name) }

// EnvName is the name of the environment variable for a flag.
func EnvName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Group is a heading in the help.
type Group string

// The groups of fields.
const (
	GroupPorts    Group = "The proxy's ports"
	GroupProxy    Group = "Who the proxy is"
	GroupInbound  Group = "Inbound: connections arriving in the pod"
	GroupOutbound Group = "Outbound: connections opened in the pod"
	GroupOwners   Group = "Outbound, by the user or group that opens the connection"
	GroupDNS      Group = "Name lookups"
	GroupNetwork  Group = "Interfaces, addresses, families"
)

// Fields is the one table of fields.
func Fields() []Field {
	return []Field{
		{"outbound-port", "PORT", GroupPorts, "outbound.port", "15001",
			"where the proxy accepts outbound connections;\na range, 15001-15004, spreads them over its ports", "", nil},
		{"inbound-port", "PORT", GroupPorts, "inbound.port", "15006",
			"where the proxy accepts inbound connections, or a range", "", nil},
		{"tunnel-port", "PORT", GroupPorts, "tunnelPort", "15008",
			"port of connections between proxies: those that arrive\nare left alone; 0 or none: there is no such port", "", nil},
		{"dns-port", "PORT", GroupPorts, "dns.port", "15053",
			"where the resolver in the sidecar listens, UDP and TCP", "", nil},

		{"proxy-uid", "IDS", GroupProxy, "proxy.uids", "1337",
			"users the proxy runs as; a user or a group is enough", "", nil},
		{"proxy-gid", "IDS", GroupProxy, "proxy.gids", "1337",
			"groups the proxy runs as", "", nil},
		{"proxy-mark", "MARK", GroupProxy, "proxy.mark", "none",
			"mark the proxy sets on its sockets (SO_MARK), as in\n0x539/0xfff: the bits after / are those that count", "", nil},
		{"allow-root-proxy", "", GroupProxy, "proxy.allowRoot", "false",
			"permit user or group 0 as the proxy: then everything\nthat runs as root is left alone", "", nil},

		{"inbound-mode", "redirect|tproxy|off", GroupInbound, "inbound.mode", "redirect",
			"tproxy: the proxy sees source and destination unchanged;\n" +
				"off: capture nothing that arrives (for an ingress\ncontroller)", "", nil},
		{"inbound-include-ports", "PORTS", GroupInbound, "inbound.includePorts", "*",
			"ports to capture", "", nil},
		{"inbound-exclude-ports", "PORTS", GroupInbound, "inbound.excludePorts", "15020,15021,15090",
			"ports to leave alone", "", nil},
		{"inbound-exclude-sources", "CIDRS", GroupInbound, "inbound.excludeSources", "none",
			"clients to leave alone", "", nil},
		{"inbound-exclude", "RULE", GroupInbound, "inbound.exclude", "none",
			"leave alone these clients at these ports:\n[CIDRS][:PORTS], as in 10.0.0.0/8:8080-8090",
			"; give it\nagain for another, or write ; between them", nil},
		{"hairpin", "capture|pass", GroupInbound, "inbound.hairpin", "capture",
			"the proxy's calls to its own pod's address: capture,\nas inbound; pass: straight to the app", "", nil},
		{"capture-forwarded", "", GroupInbound, "inbound.captureForwarded", "false",
			"connections that the pod forwards for others are\ninbound, too, where they are not outbound", "", nil},
		{"tproxy-mark", "MARK", GroupInbound, "inbound.tproxy.mark", "0x539",
			"mark of packets that mode tproxy delivers to the proxy", "", nil},
		{"tproxy-self-mark", "MARK", GroupInbound, "inbound.tproxy.selfMark", "0x53a",
			"mark of the proxy's own calls to its pod, and of\nthe connections that it has accepted", "", nil},
		{"tproxy-table", "NUMBER", GroupInbound, "inbound.tproxy.table", "133",
			"routing table that delivers packets with the mark", "", nil},
		{"drop-invalid", "", GroupInbound, "inbound.dropInvalid", "false",
			"drop arriving packets that conntrack calls invalid", "", nil},

		{"outbound-include-cidrs", "CIDRS", GroupOutbound, "outbound.includeCIDRs", "*",
			"destinations to capture", "", nil},
		{"outbound-exclude-cidrs", "CIDRS", GroupOutbound, "outbound.excludeCIDRs", "none",
			"destinations to leave alone (not name lookups)", "", nil},
		{"outbound-include-ports", "PORTS", GroupOutbound, "outbound.includePorts", "none",
			"ports to capture besides the included destinations", "", nil},
		{"outbound-exclude-ports", "PORTS", GroupOutbound, "outbound.excludePorts", "none",
			"ports to leave alone, TCP and UDP", "", nil},
		{"outbound-exclude", "RULE", GroupOutbound, "outbound.exclude", "none",
			"leave alone packets with all of a rule's properties:\n" +
				"[tcp|udp] [CIDRS][:PORTS] [uid=IDS] [gid=IDS]\n" +
				"as in 'udp 10.0.0.0/8:5000-6000 uid=1000-1999', or\n" +
				"'[fd00::/8]:53'", "; give it again for another, or write ;\nbetween them", nil},
		{"outbound-target", "ADDRESSES:PORT", GroupOutbound, "outbound.target", "none",
			"a proxy outside the pod, one address a family,\ninstead of --outbound-port", "", nil},
		{"udp", "pass|reject", GroupOutbound, "outbound.udp", "pass",
			"UDP to destinations that are captured; reject: the\nsender is told at once", "", nil},
		{"quic", "pass|reject", GroupOutbound, "outbound.quic", "pass",
			"the same of UDP port 443 alone: clients fall back to\nTCP", "", nil},
		{"other-protocols", "pass|reject", GroupOutbound, "outbound.otherProtocols", "pass",
			"neither TCP nor UDP (SCTP, raw IP, ping), from those\nwhose TCP is captured; the proxy does not take it", "", nil},

		{"include-uids", "IDS", GroupOwners, "outbound.includeUIDs", "none",
			"capture only these users (and --include-gids)", "", nil},
		{"exclude-uids", "IDS", GroupOwners, "outbound.excludeUIDs", "none",
			"leave these users alone, name lookups included", "", nil},
		{"include-gids", "IDS", GroupOwners, "outbound.includeGIDs", "none",
			"capture only these groups (and --include-uids)", "", nil},
		{"exclude-gids", "IDS", GroupOwners, "outbound.excludeGIDs", "none",
			"leave these groups alone, name lookups included", "", nil},

		{"dns", "off|resolvconf|all", GroupDNS, "dns.mode", "off",
			"lookups to capture: none, those to the servers of\nresolv.conf, or all", "", nil},
		{"dns-target", "ADDRESSES:PORT", GroupDNS, "dns.target", "none",
			"a resolver outside the sidecar, one address a family,\nas in 169.254.20.10:53, instead of --dns-port", "", nil},
		{"dns-servers", "ADDRESSES", GroupDNS, "dns.servers", "none",
			"the servers, instead of those in resolv.conf", "", nil},
		{"dns-tcp", "", GroupDNS, "dns.tcp", "true",
			"lookups over TCP are captured, too; with --dns-tcp=false\nTCP port 53 is a port like any other", "", nil},
		{"dns-virtual", "", GroupDNS, "dns.virtual", "true",
			"lookups from behind the pod are captured, too; with\n--dns-virtual=false the pod forwards them", "", nil},

		{"exclude-interfaces", "NAMES", GroupNetwork, "excludeInterfaces", "none",
			"interfaces to leave alone; net* for all that start with net", "", nil},
		{"virtual-interfaces", "NAMES", GroupNetwork, "virtualInterfaces", "none",
			"interfaces to a VM or container behind the pod, as in\nk6t-*,docker0: what comes from there is outbound", "", nil},
		{"virtual-networks", "RULE", GroupNetwork, "virtualNetworks", "none",
			"networks behind a virtual interface: TCP from there to\nthem is inbound; INTERFACE:CIDRS, as in\ndocker0:172.17.0.0/16",
			"; give it again for another, or\nwrite ; between them", nil},
		{"loopback", "CIDRS", GroupNetwork, "loopback", "127.0.0.1,::1",
			"loopback addresses never captured; up to 127.0.0.0/8", "", nil},
		{"passthrough-sources", "ADDRESSES", GroupNetwork, "passthroughSources", "127.0.0.6,::6",
			"sources the proxy binds to reach the app, one a family", "", nil},
		{"backstop", "on|syn|off", GroupNetwork, "backstop", "on",
			"a second look behind NAT, where conntrack is wrong;\nsyn: at what opens connections", "", nil},
		{"families", "auto|ipv4|ipv6|dual", GroupNetwork, "families", "auto",
			"auto: what the kernel has; dual: fail unless both;\nthe family left out is not captured", "", nil},
		{"other-family", "pass|reject", GroupNetwork, "otherFamily", "pass",
			"connections of the family left out that would be captured", "", nil},
	}
}

// Meaning is what the field means, on one line and for text without flags.
func (f Field) Meaning() string {
	s := strings.ReplaceAll(strings.ReplaceAll(f.Usage, "\n", " "), "--", "")
	if f.Again != "" {
		s += "; write ; between several"
	}
	return s
}

// IsSwitch reports whether the field is true or false.
func (f Field) IsSwitch() bool { return f.Form == "" }

// Repeats reports whether a flag can be given more than once.
func (f Field) Repeats() bool { return f.Again != "" }

// Choices are all the values there are, or nil if they cannot be counted.
func (f Field) Choices() []string {
	switch {
	case f.IsSwitch():
		return []string{"true", "false"}
	case strings.Contains(f.Form, "|"):
		return strings.Split(f.Form, "|")
	}
	return nil
}

// Form is that of a field with these values, all there are.
func Form[S ~string](values []S) string {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = string(v)
	}
	return strings.Join(names, "|")
}

// Placeholder is what stands for a value in messages.
func (f Field) Placeholder() string {
	if f.IsSwitch() {
		return "true or false"
	}
	return strings.ReplaceAll(f.Form, "|", " or ")
}

// Tidy leaves out of a value what means nothing ([strict.Tidy]), unless it is the
// name of a file or the like, where it may mean something.
func (f Field) Tidy(text string) string {
	if f.Path == "" && f.Choices() == nil {
		return text
	}
	return strict.Tidy(text)
}

// Plausible refuses values that are most likely a mistake in the quoting or
// the templating around us.
func (f Field) Plausible(text string) error {
	choices := f.Choices()
	text = f.Tidy(text)
	switch {
	case strings.TrimSpace(text) == "" && f.Path != "" && choices == nil:
		return fmt.Errorf(`empty value %q; leave it out for the default (%s), or write "none" for an empty list`,
			strict.Clip(text), f.Initial)
	case strings.TrimSpace(text) == "":
		return fmt.Errorf("empty value %q; leave it out, or write %s", strict.Clip(text), f.Placeholder())
	case strings.HasPrefix(text, "-") && text != "-":
		return fmt.Errorf("%q looks like a flag, not a value; write %s", strict.Clip(text), f.Placeholder())
	case choices != nil && !slices.Contains(choices, text):
		return fmt.Errorf("%q is not one of %s", strict.Clip(text), strings.Join(choices, ", "))
	}
	return nil
}
