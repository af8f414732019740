package kuma

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// command is which of kumactl's commands a line is of.
type command string

const (
	install   command = "install transparent-proxy"
	uninstall command = "uninstall transparent-proxy"
	validate  command = "install transparent-proxy-validator"
)

// form is how the text of a setting is read.
type form string

const (
	word     form = "TEXT"
	truth    form = "true|false"
	port     form = "PORT"
	ports    form = "PORTS"
	number   form = "NUMBER"
	duration form = "DURATION"
	// list can be given again: with flags each is an item, in a file it is a list.
	list form = "LIST"
	// programs are NAME:PATH, in a file also a mapping. Those of a later source are added.
	programs form = "NAME:PATH,..."
)

// A setting is one thing that can be asked for: by a flag, by a variable of the environment, by a field of a file.
type setting struct {
	// flag is its name without dashes; "": it has none.
	flag string
	// path is that of the field; "": it has none, and no variable.
	path    string
	form    form
	initial string
	// becomes is what it is here, for the help and for docs/migrate-kuma.md.
	becomes string
	// idle is whether that is nothing, which is said where it is given.
	idle bool
	// commands have the flag; none: install alone.
	commands []command
}

// key is the name of a setting, whatever it is given by.
func (s setting) key() string {
	if s.path != "" {
		return s.path
	}
	return s.flag
}

const envPrefix = "KUMA_TRANSPARENT_PROXY_"

// env is the variable of a setting that has a field: of redirect.dns.captureAll it is …_REDIRECT_DNS_CAPTURE_ALL.
func (s setting) env() string {
	if s.path == "" {
		return ""
	}
	var b strings.Builder
	path := strings.NewReplacer("UIDs", "Uids", "IPs", "Ips", "DPUser", "DpUser").Replace(s.path)
	for _, r := range path {
		switch {
		case r == '.':
			r = '_'
		case unicode.IsUpper(r):
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return envPrefix + b.String()
}

// has reports whether a command has the setting's flag.
func (s setting) has(c command) bool {
	return s.flag != "" && (slices.Contains(s.commands, c) || len(s.commands) == 0 && c == install)
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
	keyVerbose         = "verbose"
	keyDryRun          = "dryRun"
	keyConfig          = "config"
	keyValidatorConfig = "transparent-proxy-config"
	keyValidatorPort   = "validation-server-port"
	keyLogLevel        = "log-level"
	keyLenient         = "lenient"
	keyHost            = "allow-host-netns"
	keyHelp            = "help"
)

const noRetry = "nothing: the rules are in force at once, or the command fails"

// settings is the one table of them: flags in the order of kumactl's help, and then what has no flag there.
func settings() []setting {
	every := []command{install, uninstall, validate}
	return []setting{
		{flag: "dry-run", path: keyDryRun, form: truth, initial: "false", commands: []command{install, uninstall},
			becomes: "the rules are printed, and nothing changes"},
		{flag: "verbose", path: keyVerbose, form: truth, initial: "false", commands: []command{install, uninstall},
			becomes: "nothing: there is one form of rules, with comments", idle: true},
		{flag: "ip-family-mode", path: keyFamilies, form: word, initial: "dualstack", commands: []command{install, validate},
			becomes: "`--families`: dualstack is auto, ipv4 is ipv4"},
		{flag: "redirect-outbound-port", path: keyOut + keyPort, form: port, initial: "15001", becomes: "`--outbound-port`"},
		{flag: "redirect-inbound", path: keyIn + keyEnabled, form: truth, initial: "true",
			becomes: "false: `--inbound-mode off`"},
		{flag: "redirect-inbound-port", path: keyIn + keyPort, form: port, initial: "15006", becomes: "`--inbound-port`"},
		{flag: "exclude-inbound-ports", path: keyIn + keyExclude, form: ports, becomes: "`--inbound-exclude-ports`"},
		{flag: "exclude-outbound-ports", path: keyOut + keyExclude, form: ports,
			becomes: "`--outbound-exclude 'tcp :PORTS'`"},
		{flag: "kuma-dp-user", path: keyUser, form: word,
			becomes: "`--proxy-uid`, by number or by name in /etc/passwd; `--proxy-gid none`"},
		{flag: "kuma-dp-uid", form: word, becomes: "as `--kuma-dp-user`, its newer name"},
		{flag: "redirect-dns", path: keyDNS, form: truth, initial: "false",
			becomes: "`--dns resolvconf`, over UDP alone; lookups over TCP pass"},
		{flag: "redirect-all-dns-traffic", path: keyDNSAll, form: truth, initial: "false",
			becomes: "`--dns all`, over UDP alone; lookups over TCP pass"},
		{flag: "redirect-dns-port", path: keyDNSPort, form: port, initial: "15053", becomes: "`--dns-port`"},
		{flag: "store-firewalld", path: "storeFirewalld", form: truth, initial: "false",
			becomes: "nothing: to have rules after a restart, run the command at each start", idle: true},
		{flag: "skip-dns-conntrack-zone-split", path: "redirect.dns.skipConntrackZoneSplit", form: truth, initial: "false",
			becomes: "nothing: without zones lookups from one port go astray, and zones here need no module", idle: true},
		{flag: "drop-invalid-packets", path: keyInvalid, form: truth, initial: "false", becomes: "`--drop-invalid`"},
		{flag: "exclude-outbound-ports-for-uids", path: keyOut + keyExcludeUIDs, form: list,
			becomes: "`--outbound-exclude 'PROTOCOL :PORTS uid=IDS'`, each"},
		{flag: "vnet", path: keyNetworks, form: list, becomes: "`--virtual-interfaces IF --virtual-networks IF:CIDR`, + as *"},
		{flag: "wait", path: keyWait, form: number, initial: "5", becomes: "`--iptables-wait`, in seconds"},
		{flag: "wait-interval", path: "waitInterval", form: number, initial: "0",
			becomes: "nothing: the lock is waited for", idle: true},
		{flag: "max-retries", path: "retry.maxRetries", form: number, initial: "4", becomes: noRetry, idle: true},
		{flag: "sleep-between-retries", path: "retry.sleepBetweenRetries", form: duration, initial: "2s",
			becomes: noRetry, idle: true},
		{flag: "iptables-logs", path: "log.enabled", form: truth, initial: "false",
			becomes: "nothing: `mesh-init status` shows what each rule counts, `mesh-init explain` a packet's way", idle: true},
		{flag: "disable-comments", path: keyNoComments, form: truth, initial: "false",
			becomes: "`--iptables-dialect minimal`; nftables has comments all the same"},
		{flag: "exclude-inbound-ips", path: keyIn + keyExcludeIPs, form: list, becomes: "`--inbound-exclude-sources`"},
		{flag: "exclude-outbound-ips", path: keyOut + keyExcludeIPs, form: list, becomes: "`--outbound-exclude CIDRS`"},
		{flag: "redirect-inbound-insert-instead-of-append", path: keyIn + keyInsert, form: truth, initial: "false",
			becomes: "what is so anyway: `--iptables-jumps first`"},
		{flag: "redirect-outbound-insert-instead-of-append", path: keyOut + keyInsert, form: truth, initial: "false",
			becomes: "what is so anyway, `--iptables-jumps first`; lookups over TCP go to the outbound port then"},
		{flag: "iptables-executables", path: keyPrograms, form: programs,
			becomes: "`--backend`: iptables-legacy, iptables-nft or iptables, by the names; auto if the files are not there"},
		{flag: keyConfig, form: list, commands: every,
			becomes: "read, file by file; a later one goes before an earlier one, field by field"},
		{flag: keyValidatorConfig, form: list, commands: []command{install, validate}, becomes: "as `--config`"},
		{flag: keyHelp, form: truth, initial: "false", commands: every, becomes: "this text"},

		{flag: keyValidatorPort, form: port, commands: []command{validate},
			becomes: "`--inbound-port`, of `mesh-init verify --listen`"},

		// Those of kumactl itself.
		{flag: "config-file", form: word, commands: every, becomes: "nothing: kumactl's own settings", idle: true},
		{flag: "mesh", form: word, commands: every, becomes: "nothing: kumactl's own settings", idle: true},
		{flag: "api-timeout", form: word, commands: every, becomes: "nothing: kumactl's own settings", idle: true},
		{flag: "no-config", form: truth, commands: every, becomes: "nothing: kumactl's own settings", idle: true},
		{flag: keyLogLevel, form: word, commands: every, becomes: "`--log-level`; off is info"},

		// Ours.
		{flag: keyLenient, form: truth, initial: "false", commands: every,
			becomes: "a flag of ours: accept as kumactl does what leaves traffic outside that its documentation says is captured"},
		{flag: keyHost, form: truth, initial: "false", commands: every,
			becomes: "a flag of ours: act on the machine's own network namespace, as on a virtual machine"},

		{path: keyOut + keyEnabled, form: truth, initial: "true", becomes: "false: `--outbound-include-cidrs none`"},
		{path: keyIn + keyInclude, form: ports, becomes: "`--inbound-include-ports`"},
		{path: keyOut + keyInclude, form: ports, becomes: "`--outbound-include-cidrs none --outbound-include-ports`"},
		{path: keyIn + keyExcludeUIDs, form: list, idle: true,
			becomes: "nothing: what arrives belongs to no user, so it is captured"},
		{path: keyResolvConf, form: word, initial: "/etc/resolv.conf", becomes: "`--resolv-conf`"},
		{path: "log.level", form: number, initial: "7", becomes: "nothing: there are no rules that log", idle: true},
		{path: "cniMode", form: truth, initial: "false",
			becomes: "a user's number need not be in /etc/passwd: so it is here always"},
		{path: "ebpf", form: word, becomes: "nothing: the rules are those of nftables or iptables", idle: true},
	}
}

// lookup returns the setting of a key.
func lookup(key string) setting {
	for _, s := range settings() {
		if s.key() == key {
			return s
		}
	}
	panic(fmt.Sprintf("there is no setting %q", key)) // a constant of this package's that the table has not
}
