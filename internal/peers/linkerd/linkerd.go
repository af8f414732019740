// Package linkerd reads the command line of linkerd2-proxy-init.
package linkerd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// options are the flags, as they were given.
type options struct {
	incoming, outgoing, uid, gid int
	redirect                     peers.List
	ignoreIn, ignoreOut, subnets peers.List
	simulate                     bool
	netns                        string
	wait                         bool
	closeWait                    int
	logFormat, logLevel          string
	mode                         string
	ipv6                         bool
	bin, saveBin                 string
	lenient, allowHost           bool
	help                         bool
}

// flags returns the flags, in the order of linkerd2-proxy-init's help.
func (o *options) flags() *pflag.FlagSet {
	set := pflag.NewFlagSet("linkerd-init", pflag.ContinueOnError)
	set.SortFlags = false
	set.IntVarP(&o.incoming, "incoming-proxy-port", "p", -1, "the proxy's port for what comes in")
	set.IntVarP(&o.outgoing, "outgoing-proxy-port", "o", -1, "the proxy's port for what goes out")
	set.IntVarP(&o.uid, "proxy-uid", "u", -1, "the proxy's user, whose traffic is left alone")
	set.IntVarP(&o.gid, "proxy-gid", "g", -1, "the proxy's group, whose traffic is left alone")
	set.VarP(&o.redirect, "ports-to-redirect", "r", "the inbound ports to capture; none: all")
	set.Var(&o.ignoreIn, "inbound-ports-to-ignore", "inbound ports, and ranges as 8000-8010, left alone")
	set.Var(&o.ignoreOut, "outbound-ports-to-ignore", "outbound ports, and ranges, left alone")
	set.Var(&o.subnets, "subnets-to-ignore", "the clients, as CIDRs, whose inbound connections are left alone")
	set.BoolVar(&o.simulate, "simulate", false, "print the rules, and change nothing")
	set.StringVar(&o.netns, "netns", "", "the network namespace; none: this one")
	set.BoolVarP(&o.wait, "use-wait-flag", "w", false, "without effect: where there is a lock, it is waited for")
	set.IntVar(&o.closeWait, "timeout-close-wait-secs", 0, "sets nf_conntrack_tcp_timeout_close_wait")
	set.StringVar(&o.logFormat, "log-format", "plain", "plain or json")
	set.StringVar(&o.logLevel, "log-level", "info", "panic, fatal, error, warn, info, debug or trace")
	set.StringVar(&o.mode, "iptables-mode", "", "without effect, whether legacy, nft or plain")
	set.BoolVar(&o.ipv6, "ipv6", true, "capture IPv6, too")
	set.StringVar(&o.bin, "firewall-bin-path", "", "without effect")
	set.StringVar(&o.saveBin, "firewall-save-bin-path", "", "without effect")
	set.BoolVar(&o.lenient, "lenient", false, "accept what is refused otherwise, as proxy-init does")
	set.BoolVar(&o.allowHost, "allow-host-netns", false, "act on the host's own network namespace, too")
	set.BoolVarP(&o.help, "help", "h", false, "this help")
	return set
}

// Parse says what a command line of linkerd2-proxy-init asks for. Of the errors joined, those about the value of a flag
// are of type [*peers.FlagError].
func Parse(args []string, w peers.World) (peers.Request, error) {
	o := &options{}
	set := o.flags()
	if err := set.Parse(args); err != nil {
		return peers.Request{}, err
	}
	if o.help {
		return peers.Request{Action: peers.Help, Text: "Usage: mesh-init linkerd-init [flags]\n\n" + set.FlagUsages()}, nil
	}
	r := peers.Request{Action: peers.Apply, Lenient: o.lenient, Config: intercept.Default()}
	r.Pod.NetNS, r.Pod.AllowHostNetNS = o.netns, o.allowHost
	if o.simulate {
		r.Action = peers.Render
	}
	if set.NArg() > 0 {
		r.Warn("%q: no argument has an effect but flags", set.Args())
	}
	p := parser{options: o, Request: &r}
	p.proxy()
	p.inbound()
	p.outbound()
	p.families(w)
	p.programs()
	p.logs()
	if len(p.errs) == 0 {
		p.validate()
	}
	return r, errors.Join(p.errs...)
}

// parser makes a Request of the flags.
type parser struct {
	*options
	*peers.Request
	errs []error
}

func (p *parser) fail(flag, value, format string, args ...any) {
	p.errs = append(p.errs, &peers.FlagError{Flag: flag, Value: value, Err: fmt.Errorf(format, args...)})
}

// nobody is a user that no process of a pod is: there is no greater one.
const nobody = intercept.MaxID

// proxy says who is exempt. As there, neither a negative number nor 0 is anybody. But where 0 is the only user named,
// the proxy runs as root: without an exemption it would call itself for ever.
func (p *parser) proxy() {
	c := &p.Config.Proxy
	*c = intercept.Proxy{}
	add := func(flag string, id int, ids *intercept.IDs) {
		switch {
		case int64(id) > intercept.MaxID:
			p.fail(flag, strconv.Itoa(id), "the greatest user and group is %d", uint32(intercept.MaxID))
		case id > 0:
			*ids = intercept.IDs{intercept.ID(uint32(id))}
		}
	}
	add("--proxy-uid", p.uid, &c.UIDs)
	add("--proxy-gid", p.gid, &c.GIDs)
	named := len(c.UIDs)+len(c.GIDs) > 0
	switch {
	case named && p.uid == 0:
		p.Warn("--proxy-uid 0 has no effect beside --proxy-gid: root's traffic is captured")
	case named && p.gid == 0:
		p.Warn("--proxy-gid 0 has no effect beside --proxy-uid: group 0's traffic is captured")
	case p.uid == 0:
		c.UIDs, c.AllowRoot = intercept.IDs{intercept.ID(0)}, true
		p.Warn("--proxy-uid 0: the proxy is root, and what any process of the pod sends as root goes past it")
	case !named && len(p.errs) == 0:
		c.UIDs = intercept.IDs{intercept.ID(nobody)}
		p.Refuse(&p.errs, "--proxy-uid", "", "it names no user, nor does --proxy-gid a group: "+
			"the proxy's own connections would come back to it for ever")
	}
}

// inbound says what is captured of what comes in. Ignored ports and subnets win over ports to redirect.
func (p *parser) inbound() {
	c := &p.Config.Inbound
	c.CaptureForwarded = true
	c.Hairpin = intercept.HairpinPass
	c.Port = p.listener("--incoming-proxy-port", p.incoming)
	p.Config.TunnelPort = 0
	if len(p.redirect) > 0 {
		c.IncludePorts = nil
	}
	for _, token := range p.redirect {
		port, err := strconv.ParseInt(strings.TrimSpace(token), 10, 64)
		if err != nil || port < 1 || port > 65535 {
			p.fail("--ports-to-redirect", token, "it is no port from 1 to 65535; there are no ranges")
			continue
		}
		c.IncludePorts = append(c.IncludePorts, intercept.Port(uint16(port)))
	}
	c.ExcludePorts = p.ports("--inbound-ports-to-ignore", p.ignoreIn)
	for _, token := range p.subnets {
		token = strings.TrimSpace(token)
		prefix, err := netip.ParsePrefix(token)
		if err != nil {
			p.fail("--subnets-to-ignore", token, "it is no CIDR, as 10.0.0.0/8 or fd00::/8")
			continue
		}
		c.ExcludeSources = append(c.ExcludeSources, prefix.Masked())
	}
}

func (p *parser) outbound() {
	c := &p.Config.Outbound
	c.Port = p.listener("--outgoing-proxy-port", p.outgoing)
	if p.outgoing == p.incoming && p.outgoing > 0 {
		p.fail("--outgoing-proxy-port", strconv.Itoa(p.outgoing), "it is --incoming-proxy-port, too; give each its own")
	}
	c.ExcludePorts = p.ports("--outbound-ports-to-ignore", p.ignoreOut)
}

// listener reads one of the proxy's ports, neither of which has a default.
func (p *parser) listener(flag string, port int) intercept.PortRange {
	switch {
	case port == -1:
		p.fail(flag, "", "it has to be given, as a port from 1 to 65535")
	case port < 1 || port > 65535:
		p.fail(flag, strconv.Itoa(port), "it is no port from 1 to 65535")
	default:
		return intercept.Port(uint16(port))
	}
	return intercept.PortRange{}
}

// ports reads a list of ports to ignore. Spaces do not matter. What is no port is left out, as there: more is captured
// then than was meant, and nothing less. Where nothing is left, the peer's program fails, too.
func (p *parser) ports(flag string, tokens peers.List) (ports intercept.Ports) {
	for _, token := range tokens {
		ports = append(ports, p.port(flag, strings.TrimSpace(token))...)
	}
	if len(tokens) > 0 && len(ports) == 0 {
		p.fail(flag, tokens.String(), "there is no port among these; name ports from 1 to 65535, or ranges as 8000-8010")
	}
	return ports
}

// port reads one item: a number, or two with a dash between. 0 is a number there; nothing is ever sent to that port.
func (p *parser) port(flag, token string) intercept.Ports {
	from, to, isRange := strings.Cut(token, "-")
	first, err := number(from)
	last := first
	if isRange && err == nil {
		last, err = number(to)
	}
	switch {
	case err != nil || last > 65535:
		p.Warn("%s: %q has no effect: it is neither a port from 1 to 65535 nor a range as 8000-8010", flag, token)
		return nil
	case last < first:
		p.Warn("%s: %q has no effect: its end is before its beginning", flag, token)
		return nil
	case last == 0:
		p.Warn("%s: %q has no effect: there is no port 0", flag, token)
		return nil
	}
	return intercept.Ports{{First: uint16(max(first, 1)), Last: uint16(last)}}
}

// number reads a number as the peer does, which takes a sign.
func number(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, peers.ErrNotNumber
	}
	return n, nil
}

// families says whether IPv6 is captured. Where it is not, it passes, and a pod with an IPv6 address has a way past
// the proxy.
func (p *parser) families(w peers.World) {
	if p.ipv6 {
		return
	}
	p.Config.Families = intercept.FamiliesIPv4
	if w.Addresses == nil {
		return
	}
	addrs, err := w.Addresses(p.Pod)
	if err != nil {
		return // the pod says so itself when it is asked for more
	}
	if slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return a.Is6() && a.IsGlobalUnicast() && !slices.Contains(p.Config.PassthroughSources, a)
	}) && !w.AnyPod {
		p.Pod.LeaksSaid = true
		p.Warn("--ipv6=false leaves IPv6 outside the mesh, and the pod has an IPv6 address; without it IPv6 is captured")
	}
}

// maxCloseWait is in seconds: the kernel takes less than 2^31 of its ticks, of which there are at most 1000 a second.
const maxCloseWait = 2_147_483

// programs accepts what chooses among iptables' programs. The rules are written by nftables, without a program; where
// the kernel has no nftables, by those of iptables that are there.
func (p *parser) programs() {
	const native = "without effect: rules are written by nftables without a program, " +
		"and by iptables where the kernel has no nftables"
	known := func(flag, value string, names ...string) {
		switch {
		case value == "":
		case slices.Contains(names, value):
			p.Warn("%s is %s", flag, native)
		default:
			p.fail(flag, value, "it is none of %s", strings.Join(names, ", "))
		}
	}
	known("--iptables-mode", p.mode, "legacy", "nft", "plain")
	known("--firewall-bin-path", p.bin, "iptables", "iptables-nft", "iptables-legacy")
	known("--firewall-save-bin-path", p.saveBin, "iptables-save", "iptables-nft-save", "iptables-legacy-save")
	if p.closeWait < 0 || p.closeWait > maxCloseWait {
		p.fail("--timeout-close-wait-secs", strconv.Itoa(p.closeWait), "it is not from 0 to %d", maxCloseWait)
	}
	p.Pod.CloseWait = time.Duration(p.closeWait) * time.Second
}

// logs reads the flags of logs, which have more levels there.
func (p *parser) logs() {
	levels := map[string]string{
		"panic": "error", "fatal": "error", "error": "error", "warn": "warn", "warning": "warn",
		"info": "info", "debug": "debug", "trace": "debug",
	}
	level, ok := levels[strings.ToLower(p.logLevel)]
	if !ok {
		p.fail("--log-level", p.logLevel, "it is none of panic, fatal, error, warn, info, debug, trace")
	}
	p.LogLevel, p.LogFormat = level, "text"
	switch p.logFormat {
	case "json":
		p.LogFormat = "json"
	case "plain":
	default:
		p.Warn("--log-format %q is neither plain nor json; it is plain", p.logFormat)
	}
}

// nowhere is an address that nobody has: all of 240.0.0.0/4 is reserved (RFC 6890).
var nowhere = netip.MustParsePrefix("240.0.0.0/32")

// validate reports what is wrong with the whole, by the names of the flags. Where all is ignored there are rules all the
// same, which capture what is sent nowhere.
func (p *parser) validate() {
	err := p.Config.Validate()
	if errors.Is(err, intercept.ErrNothingCaptured) {
		p.Config.Outbound.IncludeCIDRs, p.Config.Outbound.ExcludePorts = intercept.CIDRs{nowhere}, nil
		if err = p.Config.Validate(); err == nil {
			p.Warn("nothing is captured: all ports are ignored, inbound and outbound")
		}
	}
	flags := map[string]string{
		"inbound.port": "--incoming-proxy-port", "outbound.port": "--outgoing-proxy-port",
		"proxy.uids": "--proxy-uid", "proxy.gids": "--proxy-gid",
		"inbound.includePorts": "--ports-to-redirect", "inbound.excludePorts": "--inbound-ports-to-ignore",
		"outbound.excludePorts": "--outbound-ports-to-ignore", "inbound.excludeSources": "--subnets-to-ignore",
	}
	for _, err := range strict.Flatten(err) {
		if field, is := errors.AsType[*intercept.FieldError](err); is && flags[field.Field] != "" {
			err = &peers.FlagError{Flag: flags[field.Field], Err: field.Err}
		}
		p.errs = append(p.errs, err)
	}
}
