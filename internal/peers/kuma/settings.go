package kuma

import (
	"strings"
	"unicode"
)

// command is which of kumactl's commands a line is of.
type command uint8

const (
	install command = 1 << iota
	uninstall
	validate
	every = install | uninstall | validate
)

// form is how the text of a setting is read.
type form string

const (
	word   form = "TEXT"
	truth  form = "true|false"
	port   form = "PORT"
	ports  form = "PORTS"
	number form = "NUMBER"
	// list can be given again: with flags each is an item, in a file it is a list.
	list form = "LIST"
	// programs are NAME:PATH, in a file also a mapping. Those of a later source are added.
	programs form = "NAME:PATH,..."
)

// A setting is one thing that can be asked for: by a flag, by a variable of the environment, by a field of a file.
type setting struct {
	_ [0]func() // nobody compares two of them; without this the program has two kilobytes that could
	// flag is its name without dashes; "": it has none.
	flag string
	// path is that of the field; "": it has none, and no variable.
	path    string
	form    form
	initial string
	// of are the commands that have the flag; none: install alone.
	of command
	// idle says why it has no effect here; "": it has one.
	idle string
}

// key is the name of a setting, whatever it is given by.
func (s *setting) key() string {
	if s.path != "" {
		return s.path
	}
	return s.flag
}

// has reports whether a command has the setting's flag.
func (s *setting) has(c command) bool {
	return s.flag != "" && (s.of&c != 0 || s.of == 0 && c == install)
}

const envPrefix = "KUMA_TRANSPARENT_PROXY_"

// env is the variable of a setting that has a field: of redirect.dns.captureAll it is …_REDIRECT_DNS_CAPTURE_ALL.
func (s *setting) env() string {
	var b strings.Builder
	for _, r := range strings.NewReplacer("UIDs", "Uids", "IPs", "Ips", "DPUser", "DpUser", ".", "_").Replace(s.path) {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return envPrefix + b.String()
}

// The keys of settings that the code asks for.
const (
	keyUser            = "kumaDPUser"
	keyFamilies        = "ipFamilyMode"
	keyIn              = "redirect.inbound."
	keyOut             = "redirect.outbound."
	keyEnabled         = "enabled"
	keyPort            = "port"
	keyInclude         = "includePorts"
	keyExclude         = "excludePorts"
	keyExcludeIPs      = "excludePortsForIPs"
	keyExcludeUIDs     = "excludePortsForUIDs"
	keyInsert          = "insertRedirectInsteadOfAppend"
	keyDNS             = "redirect.dns.enabled"
	keyDNSAll          = "redirect.dns.captureAll"
	keyDNSPort         = "redirect.dns.port"
	keyResolvConf      = "redirect.dns.resolvConfigPath"
	keyNetworks        = "redirect.vnet.networks"
	keyInvalid         = "dropInvalidPackets"
	keyPrograms        = "iptablesExecutables"
	keyNoComments      = "comments.disabled"
	keyWait            = "wait"
	keyDryRun          = "dryRun"
	keyConfig          = "config"
	keyValidatorConfig = "transparent-proxy-config"
	keyValidatorPort   = "validation-server-port"
	keyLogLevel        = "log-level"
	keyLenient         = "lenient"
	keyHost            = "allow-host-netns"
	keyHelp            = "help"

	noRetry  = "the rules are in force at once, or the command fails"
	kumactls = "it is about kumactl itself"
)

// settings is the one table of them: flags in the order of kumactl's help, those of its other commands, those of
// kumactl itself, ours, and then what has no flag.
func settings() []setting {
	return []setting{
		{flag: "dry-run", path: keyDryRun, form: truth, initial: "false", of: install | uninstall},
		{flag: "verbose", path: "verbose", form: truth, initial: "false", of: install | uninstall,
			idle: "there is one form of rules, with comments"},
		{flag: "ip-family-mode", path: keyFamilies, form: word, initial: "dualstack", of: install | validate},
		{flag: "redirect-outbound-port", path: keyOut + keyPort, form: port, initial: "15001"},
		{flag: "redirect-inbound", path: keyIn + keyEnabled, form: truth, initial: "true"},
		{flag: "redirect-inbound-port", path: keyIn + keyPort, form: port, initial: "15006"},
		{flag: "exclude-inbound-ports", path: keyIn + keyExclude, form: ports},
		{flag: "exclude-outbound-ports", path: keyOut + keyExclude, form: ports},
		{flag: "kuma-dp-user", path: keyUser, form: word},
		{flag: "redirect-dns", path: keyDNS, form: truth, initial: "false"},
		{flag: "redirect-all-dns-traffic", path: keyDNSAll, form: truth, initial: "false"},
		{flag: "redirect-dns-port", path: keyDNSPort, form: port, initial: "15053"},
		{flag: "store-firewalld", path: "storeFirewalld", form: truth, initial: "false",
			idle: "to have the rules after a restart, run the command at each start"},
		{flag: "skip-dns-conntrack-zone-split", path: "redirect.dns.skipConntrackZoneSplit", form: truth, initial: "false",
			idle: "lookups have their zone, or those from one port would go astray"},
		{flag: "drop-invalid-packets", path: keyInvalid, form: truth, initial: "false"},
		{flag: "exclude-outbound-ports-for-uids", path: keyOut + keyExcludeUIDs, form: list},
		{flag: "vnet", path: keyNetworks, form: list},
		{flag: "wait", path: keyWait, form: number, initial: "5"},
		{flag: "wait-interval", path: "waitInterval", form: number, initial: "0", idle: "the lock is waited for"},
		{flag: "max-retries", path: "retry.maxRetries", form: number, initial: "4", idle: noRetry},
		{flag: "sleep-between-retries", path: "retry.sleepBetweenRetries", form: word, initial: "2s", idle: noRetry},
		{flag: "iptables-logs", path: "log.enabled", form: truth, initial: "false",
			idle: "mesh-init status shows what each rule has counted (-o wide), mesh-init explain a packet's way"},
		{flag: "disable-comments", path: keyNoComments, form: truth, initial: "false"},
		{flag: "exclude-inbound-ips", path: keyIn + keyExcludeIPs, form: list},
		{flag: "exclude-outbound-ips", path: keyOut + keyExcludeIPs, form: list},
		{flag: "redirect-inbound-insert-instead-of-append", path: keyIn + keyInsert, form: truth, initial: "false"},
		{flag: "redirect-outbound-insert-instead-of-append", path: keyOut + keyInsert, form: truth, initial: "false"},
		{flag: "iptables-executables", path: keyPrograms, form: programs},
		{flag: keyConfig, form: list, of: every},
		{flag: keyHelp, form: truth, initial: "false", of: every},

		{flag: keyValidatorConfig, form: list, of: install | validate},
		{flag: keyValidatorPort, form: port, of: validate},

		{flag: "config-file", form: word, of: every, idle: kumactls},
		{flag: "mesh", form: word, of: every, idle: kumactls},
		{flag: "api-timeout", form: word, of: every, idle: kumactls},
		{flag: "no-config", form: truth, of: every, idle: kumactls},
		{flag: keyLogLevel, form: word, of: every},

		{flag: keyLenient, form: truth, initial: "false", of: every},
		{flag: keyHost, form: truth, initial: "false", of: every},

		{path: keyOut + keyEnabled, form: truth, initial: "true"},
		{path: keyIn + keyInclude, form: ports},
		{path: keyOut + keyInclude, form: ports},
		{path: keyIn + keyExcludeUIDs, form: list, idle: "what arrives belongs to no user, so it is captured"},
		{path: keyResolvConf, form: word, initial: "/etc/resolv.conf"},
		{path: "log.level", form: number, initial: "7", idle: "there are no rules that log"},
		{path: "cniMode", form: truth, initial: "false"},
		{path: "ebpf", form: word, idle: "the rules are those of nftables or iptables"},
	}
}
