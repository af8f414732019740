package istio

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// line is what a command line and its environment say, with the peer's defaults, before any of it is understood.
type line struct {
	outboundPort, inboundPort, tunnelPort                               string
	proxyUIDs, proxyGIDs                                                string
	mode, mark, table                                                   string
	includeInbound, excludeInbound                                      string
	includeCIDRs, excludeCIDRs, includeOutbound, excludeOutbound        string
	excludeInterfaces, virtualInterfaces                                string
	netns, forceBinary                                                  string
	dryRun, skipApply, validate, cleanup                                bool
	dns, allDNS, dropInvalid, dualStack, nftables                       bool
	cniMode, reconcile, forceApply, allowHost, lenient, help, logAsJSON bool
	probePort                                                           uint16
	probeTimeout                                                        time.Duration
	logLevels                                                           string
	logTargets                                                          []string

	// source says where a flag's value was given: "--dry-run", "DRY_RUN". A flag that was not given is not there.
	source map[string]string
	// env is the environment by name.
	env map[string]string
	// flags are those of the peer and ours.
	flags *pflag.FlagSet
	// without are those that have no meaning here, and why.
	without map[string]string
}

// The flags that are named more than once.
const (
	outboundPortFlag      = "envoy-port"
	inboundPortFlag       = "inbound-capture-port"
	tunnelPortFlag        = "inbound-tunnel-port"
	proxyUIDFlag          = "proxy-uid"
	proxyGIDFlag          = "proxy-gid"
	modeFlag              = "istio-inbound-interception-mode"
	includeInboundFlag    = "istio-inbound-ports"
	excludeInboundFlag    = "istio-local-exclude-ports"
	excludeInterfacesFlag = "istio-exclude-interfaces"
	includeCIDRsFlag      = "istio-service-cidr"
	excludeCIDRsFlag      = "istio-service-exclude-cidr"
	includeOutboundFlag   = "istio-outbound-ports"
	excludeOutboundFlag   = "istio-local-outbound-ports-exclude"
	virtualFlag           = "kube-virt-interfaces"
	markFlag              = "istio-inbound-tproxy-mark"
	tableFlag             = "istio-inbound-tproxy-route-table"
	probePortFlag         = "iptables-probe-port"
	dnsFlag               = "redirect-dns"
	allDNSFlag            = "capture-all-dns"
	dualStackFlag         = "dual-stack"
	netnsFlag             = "network-namespace"
	forceBinaryFlag       = "force-iptables-binary"
	lenientFlag           = "lenient"
)

// Variables that have no flag.
const (
	envoyUserVar     = "ENVOY_USER"
	includeGroupsVar = "ISTIO_OUTBOUND_OWNER_GROUPS"
	excludeGroupsVar = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
	loopbackVar      = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"
	dryRunFileVar    = "DRY_RUN_FILE_PATH"
)

// variables returns the names of a flag's variables, the later the stronger.
func variables(flag string) []string {
	own := strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	switch flag {
	case outboundPortFlag: // the one that has none
		return nil
	case dnsFlag:
		return []string{own, "ISTIO_META_DNS_CAPTURE"}
	case "drop-invalid":
		return []string{own, "INVALID_DROP"}
	case dualStackFlag:
		return []string{own, "ISTIO_DUAL_STACK"}
	case lenientFlag, "allow-host-netns": // ours
		return []string{"MESH_" + own}
	}
	return []string{own}
}

// define makes the flags, with the peer's letters and defaults.
func (l *line) define() {
	f := pflag.NewFlagSet(Name, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.Usage = func() {}
	f.StringVarP(&l.outboundPort, outboundPortFlag, "p", "15001", "the proxy's port for outbound connections")
	f.StringVarP(&l.inboundPort, inboundPortFlag, "z", "15006", "its port for inbound ones")
	f.StringVarP(&l.tunnelPort, tunnelPortFlag, "e", "15008", "the port of the tunnel between proxies, never captured")
	f.StringVarP(&l.proxyUIDs, proxyUIDFlag, "u", "", "the proxy's users (default that of $ENVOY_USER, or 1337)")
	f.StringVarP(&l.proxyGIDs, proxyGIDFlag, "g", "", "the proxy's groups (default as the users)")
	f.StringVarP(&l.mode, modeFlag, "m", "", "REDIRECT or TPROXY")
	f.StringVarP(&l.includeInbound, includeInboundFlag, "b", "", "ports to capture inbound, or *; empty: none")
	f.StringVarP(&l.excludeInbound, excludeInboundFlag, "d", "", "ports to leave alone inbound, with -b '*'")
	f.StringVarP(&l.excludeInterfaces, excludeInterfacesFlag, "c", "", "interfaces to leave alone, in and out")
	f.StringVarP(&l.includeCIDRs, includeCIDRsFlag, "i", "", "destinations to capture, or *; empty: none")
	f.StringVarP(&l.excludeCIDRs, excludeCIDRsFlag, "x", "", "destinations to leave alone")
	f.StringVarP(&l.includeOutbound, includeOutboundFlag, "q", "", "ports to capture outbound besides")
	f.StringVarP(&l.excludeOutbound, excludeOutboundFlag, "o", "", "ports to leave alone outbound, TCP and UDP")
	f.StringVarP(&l.virtualInterfaces, virtualFlag, "k", "", "interfaces behind which is a virtual machine")
	f.StringVarP(&l.mark, markFlag, "t", "1337", "the mark of packets for the proxy, in mode TPROXY")
	f.StringVarP(&l.table, tableFlag, "r", "133", "the routing table of that mark")
	f.BoolVarP(&l.dryRun, "dry-run", "n", false, "print the rules, and change nothing")
	f.Uint16Var(&l.probePort, probePortFlag, 15002, "the port that validation calls")
	f.DurationVar(&l.probeTimeout, "probe-timeout", 5*time.Second, "how long validation tries")
	f.BoolVar(&l.skipApply, "skip-rule-apply", false, "do not apply rules")
	f.BoolVar(&l.validate, "run-validation", false, "see whether the rules work; exit code 126 if they do not")
	f.BoolVar(&l.dns, dnsFlag, false, "capture lookups to the servers of /etc/resolv.conf")
	f.BoolVar(&l.allDNS, allDNSFlag, false, "capture lookups to all servers, with --redirect-dns")
	f.BoolVar(&l.dropInvalid, "drop-invalid", false, "drop what conntrack calls invalid")
	f.BoolVar(&l.dualStack, dualStackFlag, false, "capture IPv6, too, where the pod's first address is IPv4")
	f.StringVar(&l.netns, netnsFlag, "", "the network namespace to act on")
	f.BoolVar(&l.cniMode, "cni-mode", false, "no meaning here")
	f.BoolVar(&l.reconcile, "reconcile", false, "no meaning here")
	f.BoolVar(&l.cleanup, "cleanup-only", false, "take the rules out")
	f.BoolVar(&l.forceApply, "force-apply", false, "no meaning here")
	f.BoolVar(&l.nftables, "native-nftables", false, "write rules with nftables")
	f.StringVar(&l.forceBinary, forceBinaryFlag, "", "legacy or nft")

	f.StringVar(&l.logLevels, "log_output_level", "", "the least level of what is logged: default:LEVEL")
	f.BoolVar(&l.logAsJSON, "log_as_json", false, "log in JSON")
	f.StringArrayVar(&l.logTargets, "log_target", nil, "no meaning here")
	l.without = map[string]string{
		"cni-mode":    "there is no lock of xtables to share",
		"reconcile":   "every run puts the rules right, whatever there was",
		"force-apply": "every run puts the rules right, whatever there was",
	}
	for _, name := range []string{"log_caller", "log_stacktrace_level", "log_rotate", "log_rotate_max_age",
		"log_rotate_max_backups", "log_rotate_max_size", "vklog"} {
		f.String(name, "", "no meaning here")
		l.without[name] = "logs are lines on standard error"
	}

	f.BoolVar(&l.lenient, lenientFlag, false, "ours: accept what leaves traffic outside the mesh that should be in it")
	f.BoolVar(&l.allowHost, "allow-host-netns", false, "ours: act on the host's own network namespace, too")
	f.BoolVarP(&l.help, "help", "h", false, "this text")
	l.flags = f
}

// gather reads the environment, and the command line over it. What is wrong with a variable is passed over, as by the
// peer, with a warning.
func gather(args []string, w peers.World, r *peers.Request) (*line, error) {
	l := &line{source: map[string]string{}, env: map[string]string{}}
	for _, v := range w.Environ {
		if name, value, ok := strings.Cut(v, "="); ok {
			l.env[name] = value
		}
	}
	l.define()
	l.flags.VisitAll(func(f *pflag.Flag) {
		if strings.Contains(f.Name, "_") || f.Name == "help" || f.Name == "vklog" { // the flags of logs have none
			return
		}
		for _, name := range variables(f.Name) {
			value, given := l.env[name]
			if !given {
				continue
			}
			if err := f.Value.Set(value); err == nil {
				l.source[f.Name] = name
			} else if value != "" {
				r.Warn("%s: %q is not a value that --%s takes: passed over, as istio-iptables does", name,
					strict.Clip(value), f.Name)
			}
		}
	})
	if err := l.flags.Parse(args); err != nil {
		return l, fmt.Errorf("%w; %s --help lists the flags", strict.Reworded(err, err.Error(), clip(err.Error())), Name)
	}
	l.flags.Visit(func(f *pflag.Flag) {
		l.source[f.Name] = "--" + f.Name
		if f.Shorthand != "" {
			l.source[f.Name] += " (-" + f.Shorthand + ")"
		}
	})
	return l, nil
}

// clip is the beginning of a text that may have a whole value in it.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// from says where a flag's value comes from, for errors about it.
func (l *line) from(flag string) string {
	if s, ok := l.source[flag]; ok {
		return s
	}
	return "--" + flag
}

// on reports whether a switch without a meaning is on, or another such flag given.
func (l *line) on(flag string) bool {
	if _, given := l.source[flag]; !given {
		return false
	}
	f := l.flags.Lookup(flag)
	return f.Value.Type() != "bool" || f.Value.String() == "true"
}

func (l *line) helpText() string {
	return "Sets up interception from the flags and the environment of istio-iptables.\n\n" +
		"Usage:\n  mesh-init " + Name + " [flags]\n\n" + l.flags.FlagUsages() +
		"\nA flag that is not given is taken from the environment, --dry-run from DRY_RUN and so on\n" +
		"(not --envoy-port); a few have a second name there. docs/migrate-istio.md has all of them.\n"
}
