// Package istio reads the command line of istio-iptables, the program of Istio's init containers, and says what it asks
// for in this project's terms. docs/migrate-istio.md is its table, flag by flag.
package istio

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Name is the program's.
const Name = "istio-iptables"

// reader makes a Request of a line. It collects what is wrong with it.
type reader struct {
	*line
	world peers.World
	r     *peers.Request
	errs  strict.Errors
	// names are the users and groups of the files that were read.
	names map[string]map[string]string
}

// Parse reads a command line as istio-iptables does: a flag beats its variables, and these the default. It names
// everything that is wrong with it.
//
// What istio-iptables accepts is accepted, with the same meaning. What it accepts without an effect is said once, in
// Request.Warnings. What would leave traffic outside the mesh that its documentation says is captured is an error,
// unless --lenient is given.
func Parse(args []string, w peers.World) (peers.Request, error) {
	var r peers.Request
	l, err := gather(args, w, &r)
	if err != nil {
		return r, err
	}
	if l.help {
		return peers.Request{Action: peers.Help, Text: l.helpText()}, nil
	}
	p := &reader{line: l, world: w, r: &r, names: map[string]map[string]string{}}
	p.logs()
	p.notes()
	p.action()
	if r.Action != peers.Remove && !(r.Action == peers.Nothing && r.Validation == nil) {
		p.config()
	}
	return r, p.errs.Err()
}

// fail adds an error about a flag.
func (p *reader) fail(flag, format string, args ...any) {
	p.errs.Add(&peers.FlagError{Flag: p.from(flag), Err: fmt.Errorf(format, args...)})
}

// gap is what leaves traffic outside the mesh that should be in it.
func (p *reader) gap(source, format string, args ...any) {
	err := &peers.FlagError{Flag: source, Err: fmt.Errorf(format, args...)}
	if p.lenient {
		p.r.Warn("%s", err)
		return
	}
	err.Lenient = true
	p.errs.Add(err)
}

// action decides what is done, and where.
func (p *reader) action() {
	r := p.r
	r.Lenient = p.lenient
	r.Pod = dataplane.Pod{NetNS: p.netns, AllowHostNetNS: p.allowHost, LeaksSaid: true}
	switch {
	case p.nftables:
		r.Pod.Backend = dataplane.BackendNFT
	case p.forceBinary == "nft": // it writes to nf_tables, which takes no program
		r.Pod.Backend = dataplane.BackendNFT
	case p.forceBinary == "legacy":
		r.Pod.Backend = dataplane.BackendIPTablesLegacy
		if p.world.HasPrograms == nil || !p.world.HasPrograms(r.Pod.Backend) {
			r.Pod.Backend = dataplane.BackendAuto
			r.Warn("%s: legacy: there is no iptables-legacy-restore here: the backend is chosen as without the flag",
				p.from(forceBinaryFlag))
		}
	case p.forceBinary != "":
		p.fail(forceBinaryFlag, "%q is neither legacy nor nft", strict.Clip(p.forceBinary))
	}
	switch {
	case p.cleanup:
		r.Action = peers.Remove
	case p.skipApply:
		r.Action = peers.Nothing
	case p.dryRun:
		r.Action = peers.Render
	default:
		r.Action = peers.Apply
	}
	if p.validate && !p.dryRun {
		r.Validation = &peers.Validation{Timeout: p.probeTimeout, Port: p.probePort}
	}
	if p.dryRun && p.env[dryRunFileVar] != "" {
		r.Warn("%s: no file is written: --dry-run prints the rules", dryRunFileVar)
	}
}

// logs reads the flags about logs.
func (p *reader) logs() {
	if p.logAsJSON {
		p.r.LogFormat = "json"
	}
	for item := range strings.SplitSeq(p.logLevels, ",") {
		scope, level, scoped := strings.Cut(item, ":")
		if !scoped {
			scope, level = "default", item
		}
		switch {
		case scope != "default" || item == "":
		case slices.Contains([]string{"debug", "info", "warn", "error"}, level):
			p.r.LogLevel = level
		case level == "fatal" || level == "none":
			p.r.LogLevel = "error"
		default:
			p.r.Warn("--log_output_level: %q is not a level; levels are debug, info, warn, error, fatal and none",
				strict.Clip(level))
		}
	}
	for _, t := range p.logTargets {
		if t != "stderr" {
			p.r.Warn("--log_target: %q: logs go to standard error, results to standard output", strict.Clip(t))
		}
	}
}

// notes says which flags have no meaning: here, or beside the others.
func (p *reader) notes() {
	for _, name := range sortedKeys(p.without) {
		if p.on(name) {
			p.r.Warn("%s has no meaning here: %s", p.from(name), p.without[name])
		}
	}
	if args := p.flags.Args(); len(args) > 0 {
		p.r.Warn("%q: words that are no flags are passed over, as by istio-iptables", strict.Clip(strings.Join(args, " ")))
	}
	if p.allDNS && !p.dns {
		p.r.Warn("%s has no effect without --%s", p.from(allDNSFlag), dnsFlag)
	}
	if p.mode != "" && p.mode != "REDIRECT" && p.mode != tproxyMode {
		p.r.Warn("%s: %q is taken for REDIRECT, as by istio-iptables; modes are REDIRECT and TPROXY", p.from(modeFlag),
			strict.Clip(p.mode))
	}
	for _, flag := range []string{markFlag, tableFlag} {
		if _, given := p.source[flag]; given && p.mode != tproxyMode {
			p.r.Warn("%s has no effect without -m TPROXY", p.from(flag))
		}
	}
	if p.env[excludeGroupsVar] != "" && p.includeGroups() != "*" {
		p.r.Warn("%s has no effect beside %s", excludeGroupsVar, includeGroupsVar)
	}
}

const tproxyMode = "TPROXY"

// config reads what the rules depend on.
func (p *reader) config() {
	c := intercept.Default()
	p.identity(&c.Proxy)
	c.Outbound.Port = p.port(outboundPortFlag, p.outboundPort)
	c.Outbound.IncludeCIDRs = p.cidrs(includeCIDRsFlag, p.includeCIDRs)
	if p.includeCIDRs == "*" {
		c.Outbound.IncludeCIDRs = intercept.AllCIDRs()
	}
	c.Outbound.ExcludeCIDRs = p.cidrs(excludeCIDRsFlag, p.excludeCIDRs)
	c.Outbound.IncludePorts = p.ports(includeOutboundFlag, p.includeOutbound)
	c.Outbound.ExcludePorts = p.ports(excludeOutboundFlag, p.excludeOutbound)
	c.TunnelPort = p.tunnel()
	c.ExcludeInterfaces = p.interfaces(excludeInterfacesFlag, p.excludeInterfaces)
	c.VirtualInterfaces = p.interfaces(virtualFlag, p.virtualInterfaces)
	p.inbound(&c.Inbound)
	p.loopback(&c)
	p.groups(&c.Outbound)
	p.families(&c)
	p.lookups(&c)
	if p.includeGroups() == "" {
		c.Outbound.IncludeCIDRs, c.Outbound.IncludePorts, c.DNS.Mode = nil, nil, intercept.DNSOff
		p.r.Warn("%s is empty: nothing outbound is captured", includeGroupsVar)
	}
	if p.errs.None() {
		p.valid(&c)
	}
	p.r.Config = c
}

func (p *reader) inbound(in *intercept.Inbound) {
	in.Port = p.port(inboundPortFlag, p.inboundPort)
	in.ExcludePorts, in.CaptureForwarded = nil, true
	in.DropInvalid = p.dropInvalid
	switch p.includeInbound {
	case "*":
		in.IncludePorts = intercept.AllPorts()
		in.ExcludePorts = p.ports(excludeInboundFlag, p.excludeInbound)
	default:
		in.IncludePorts = p.ports(includeInboundFlag, p.includeInbound)
		unused := reader{line: p.line, r: new(peers.Request)} // whatever it is, istio-iptables does not look at it
		included := in.IncludePorts.Merge()
		for _, e := range unused.ports(excludeInboundFlag, p.excludeInbound).Merge() {
			if slices.ContainsFunc(included, func(i intercept.PortRange) bool { return i.First <= e.Last && e.First <= i.Last }) {
				p.r.Warn("%s: %s is captured all the same: nothing is excluded from a list of ports (-b)",
					p.from(excludeInboundFlag), e)
			}
		}
	}
	if p.mode != tproxyMode || p.includeInbound == "" {
		return // the proxy's calls to its own pod are redirected in any case
	}
	in.Mode = intercept.InboundTProxy
	in.TProxy.Mark.Value = p.number(markFlag, p.mark)
	in.TProxy.Table = p.number(tableFlag, p.table)
}

// loopback reads the part of the loopback network that is left alone.
func (p *reader) loopback(c *intercept.Config) {
	text, given := p.env[loopbackVar]
	if !given {
		return
	}
	l, err := netip.ParsePrefix(text)
	if err != nil || !l.Addr().Is4() || !l.Addr().IsLoopback() || l.Bits() < 8 {
		p.errs.Add(&peers.FlagError{Flag: loopbackVar, Err: fmt.Errorf(
			"%q is not a part of 127.0.0.0/8; write 127.0.0.1/32 or 127.0.0.0/8", strict.Clip(text))})
		return
	}
	c.Loopback[0] = l.Masked()
}

// families decides whether IPv6 is captured, as istio-iptables does: if the pod's first address is one, or with
// --dual-stack any. What the kernel lists first is IPv4, where there is any.
func (p *reader) families(c *intercept.Config) {
	addrs, err := p.world.Addresses(p.r.Pod)
	if err != nil {
		p.errs.Add(err)
		return
	}
	var v4, v6 netip.Addr
	for _, a := range addrs {
		switch a = a.Unmap(); {
		case a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast():
		case slices.Contains(c.PassthroughSources, a): // which an apply has put on lo, for the proxy to dial from
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		}
	}
	switch {
	case v6.IsValid() && (p.dualStack || !v4.IsValid()):
		return // both
	case p.world.AnyPod:
	case v6.IsValid():
		p.r.Warn("IPv6 is outside the mesh, in and out, as with istio-iptables: the pod has %s, and %s first; capture it "+
			"with --%s (ISTIO_DUAL_STACK=true), where the proxy listens on IPv6", v6, v4, dualStackFlag)
	case !v4.IsValid() && p.r.Action == peers.Apply:
		p.r.Warn("the pod has no address yet: IPv4 alone is captured")
	}
	c.Families = intercept.FamiliesIPv4
}

const resolvConf = "/etc/resolv.conf"

func (p *reader) lookups(c *intercept.Config) {
	if len(c.VirtualInterfaces) > 0 {
		c.DNS.Virtual = false // Istio's resolver listens at 127.0.0.1 and ::1, to which a guest's lookups cannot go
	}
	switch {
	case !p.dns:
		return
	case p.allDNS:
		c.DNS.Mode = intercept.DNSAll
		return
	}
	text, err := p.world.ReadFile(resolvConf)
	if err != nil {
		p.fail(dnsFlag, "%w; capture the lookups to all servers with --%s", err, allDNSFlag)
		return
	}
	servers := intercept.ParseResolvConf(string(text))
	captured := slices.ContainsFunc(servers, func(a netip.Addr) bool {
		return c.Families != intercept.FamiliesIPv4 || a.Is4()
	})
	switch {
	case captured:
		c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, servers
	case len(servers) == 0:
		p.gap(p.from(dnsFlag), "%s names no server, so no lookup would be captured; use --%s", resolvConf, allDNSFlag)
	default:
		p.gap(p.from(dnsFlag), "%s names IPv6 servers alone, and IPv6 is not captured; use --%s or --%s", resolvConf,
			dualStackFlag, allDNSFlag)
	}
}

// nowhere is an address that nobody has: all of 240.0.0.0/4 is reserved (RFC 6890).
var nowhere = netip.MustParsePrefix("240.0.0.0/32")

// valid makes sure that c can be compiled, and names the flags of what is wrong.
func (p *reader) valid(c *intercept.Config) {
	if slices.ContainsFunc(c.Proxy.UIDs, holdsRoot) || slices.ContainsFunc(c.Proxy.GIDs, holdsRoot) {
		c.Proxy.AllowRoot = true
	}
	err := c.Validate()
	if errors.Is(err, intercept.ErrNothingCaptured) {
		// The proxy's calls to its own pod are captured all the same, for which there have to be rules.
		c.Outbound.IncludeCIDRs, c.Outbound.IncludePorts = intercept.CIDRs{nowhere}, nil
		c.Outbound.ExcludeCIDRs = nil
		if err = c.Validate(); err == nil {
			p.r.Warn("nothing is captured but the proxy's calls to its own pod: inbound with -b, outbound with -i")
		}
	}
	flags := map[string]string{
		"outbound.port": outboundPortFlag, "inbound.port": inboundPortFlag, "tunnelPort": tunnelPortFlag,
		"proxy": proxyUIDFlag, "proxy.uids": proxyUIDFlag, "proxy.gids": proxyGIDFlag,
		"excludeInterfaces": excludeInterfacesFlag, "virtualInterfaces": virtualFlag,
		"inbound.tproxy.mark": markFlag, "inbound.tproxy.selfMark": markFlag, "inbound.tproxy.table": tableFlag,
		"dns.port": dnsFlag, "dns.servers": dnsFlag,
	}
	for _, e := range strict.Flatten(err) {
		field, is := errors.AsType[*intercept.FieldError](e)
		switch {
		case !is:
			p.errs.Add(e)
		case field.Field == "loopback":
			p.errs.Add(&peers.FlagError{Flag: loopbackVar, Err: field.Err})
		case flags[field.Field] != "":
			p.errs.Add(&peers.FlagError{Flag: p.from(flags[field.Field]), Err: field.Err})
		default:
			p.errs.Add(e)
		}
	}
}

func holdsRoot(r intercept.IDRange) bool { return r.First == 0 }
