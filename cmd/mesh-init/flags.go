package main

import (
	"strings"

	"github.com/mesh-intercept/intercept/internal/decode"
)

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

// group is a heading of the help: one of decode, or of these.
type group string

const (
	groupSource group = "Configuration file"
	groupWhere  group = "Where and how"
	groupPacket group = "The packet to explain"
	groupOutput group = "Output"
)

// configures are the verbs that work from a configuration.
const configures = applyVerb | checkVerb | verifyVerb | renderVerb | explainVerb | doctorVerb

// touches are the verbs that look into a kernel.
const touches = applyVerb | checkVerb | verifyVerb | removeVerb | statusVerb | doctorVerb

// writes are the verbs for which it matters how rules are written.
const writes = touches | renderVerb

const everywhere = configures | touches | versionVerb

// flags is the one table of flags: those that set a field of the
// configuration, and mesh-init's own.
func flags() []flag {
	var all []flag
	for _, f := range decode.Fields() {
		all = append(all, flag{f.Name, f.Form, group(f.Group), configures, f.Path, f.Initial, f.Usage + f.Again})
		if f.Path == serversField {
			all = append(all, flag{resolvConfFlag, "PATH", group(decode.GroupDNS), configures, "", "/etc/resolv.conf",
				"read with --dns resolvconf if no server is named"})
		}
	}
	return append(all, []flag{
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
	}...)
}

// The flags that the code itself has to name.
const (
	backendFlag    = "backend"
	configFlag     = "config"
	helpFlag       = "help"
	logFormatFlag  = "log-format"
	logLevelFlag   = "log-level"
	resolvConfFlag = "resolv-conf"

	serversField = "dns.servers"
)

func (f flag) isSwitch() bool { return f.value == "" }

// repeats reports whether the flag can be given more than once.
func (f flag) repeats() bool { return f.value == "RULE" }

// asField is the flag as package decode sees it.
func (f flag) asField() decode.Field {
	return decode.Field{Name: f.name, Form: f.value, Path: f.field, Initial: f.initial}
}

// choices are all the values there are, or nil if they cannot be counted.
func (f flag) choices() []string { return f.asField().Choices() }

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
