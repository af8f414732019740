package kuma

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/iptables"
)

// understand says in this project's terms what is given.
func (r *reader) understand(c command) {
	r.idle()
	r.Pod.AllowHostNetNS = r.on(keyHost)
	r.LogLevel = r.text(keyLogLevel)
	if r.LogLevel == "off" {
		r.LogLevel = ""
	}
	if c == uninstall {
		r.Action, r.DryRun, r.Foreign = peers.Remove, r.on(keyDryRun), "kuma"
		return
	}
	switch {
	case c == validate:
		r.Action, r.Pod.StandIn = peers.Verify, true
	case r.on(keyDryRun):
		r.Action = peers.Render
	}
	r.Config.Proxy = r.proxy()
	r.Config.TunnelPort = 0
	r.families()
	r.inbound(c)
	r.outbound()
	r.dns()
	r.networks()
	r.backend()
}

// idle warns of what is given and has no effect. What a file says as it is anyway needs no word: Kuma's injector writes
// all fields.
func (r *reader) idle() {
	for _, s := range settings() {
		g, there := r.given[s.key()]
		if !there || !s.idle || !g.byFlag && slices.Equal(g.texts, []string{s.initial}) || s.form == list && len(g.texts) == 0 {
			continue
		}
		if err := plausible(g); err != nil {
			r.fail(g.source, "%w", err)
			continue
		}
		if on, _ := isTrue(strings.Join(g.texts, "")); s.form != truth || on {
			r.Warn("%s has no effect here: %s", g.source, strings.ReplaceAll(strings.TrimPrefix(s.becomes, "nothing: "), "`", ""))
		}
	}
}

// plausible reports a value that kumactl would refuse as well.
func plausible(g given) (err error) {
	for _, text := range g.texts {
		switch g.form {
		case truth:
			_, err = isTrue(text)
		case number:
			_, err = strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		case duration:
			_, err = parseDuration(text)
		case word, port, ports, list, programs:
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// text is a setting's value, or its initial one.
func (r *reader) text(key string) string {
	if g, there := r.given[key]; there && len(g.texts) > 0 {
		return strings.TrimSpace(g.texts[0])
	}
	return lookup(key).initial
}

// source is where a setting was given.
func (r *reader) source(key string) string {
	if g, there := r.given[key]; there {
		return g.source
	}
	return key
}

func (r *reader) on(key string) bool {
	text := r.text(key)
	if text == "" {
		return false
	}
	on, err := isTrue(text)
	if err != nil {
		r.fail(r.source(key), "%w", err)
	}
	return on
}

func (r *reader) port(key string) uint16 {
	p, err := parsePort(r.text(key))
	if err != nil {
		r.fail(r.source(key), "%w", err)
	}
	return p
}

func parsePort(text string) (uint16, error) {
	p, err := strconv.ParseUint(text, 10, 16)
	if err != nil || p == 0 {
		return 0, fmt.Errorf("%q is not a port (1-65535)", strict.Clip(text))
	}
	return uint16(p), nil
}

// ports reads single ports, and ranges as well, which kumactl refuses.
func (r *reader) ports(key string) (all intercept.Ports) {
	for item := range strings.SplitSeq(r.text(key), ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		p, err := parsePorts(item)
		if err != nil {
			r.fail(r.source(key), "%w", err)
			continue
		}
		all = append(all, p)
	}
	return all.Merge()
}

func parsePorts(text string) (p intercept.PortRange, err error) {
	first, last, isRange := strings.Cut(text, "-")
	if p.First, err = parsePort(strings.TrimSpace(first)); err != nil {
		return p, err
	}
	if p.Last = p.First; isRange {
		if p.Last, err = parsePort(strings.TrimSpace(last)); err != nil {
			return p, err
		}
	}
	return p, p.Validate()
}

// proxy finds the user: by number, and by name in /etc/passwd. A number needs no entry there.
func (r *reader) proxy() intercept.Proxy {
	users := r.users()
	name := r.text(keyUser)
	uid, known := users.find(name)
	number, err := strconv.ParseUint(name, 10, 32)
	switch {
	case known:
	case err == nil && number <= maxID:
		uid = uint32(number)
	case name != "":
		r.fail(r.source(keyUser), "/etc/passwd has no user %q; write the number of the user that the proxy runs as",
			strict.Clip(name))
		return intercept.Proxy{}
	default:
		if uid, known = users.find(defaultUID); !known {
			uid, known = users.find(defaultUser)
		}
		if !known {
			uid = 5678
			r.Warn("the user that the proxy runs as is taken to be %s: /etc/passwd has neither that number nor a user %s. "+
				"If it is another, write --kuma-dp-user NUMBER", defaultUID, defaultUser)
		}
	}
	if uid == 0 {
		r.Warn("the proxy is root: whatever else runs as root in the pod passes, too")
	}
	return intercept.Proxy{UIDs: intercept.IDs{intercept.ID(uid)}, AllowRoot: uid == 0}
}

const (
	defaultUID  = "5678"
	defaultUser = "kuma-dp"
	maxID       = 1<<32 - 2
)

// passwd has the lines of /etc/passwd, in fields.
type passwd [][]string

// users reads /etc/passwd. Where there is none, as in an image of one program, nobody is known.
func (r *reader) users() (all passwd) {
	data, err := r.world.ReadFile("/etc/passwd")
	if err != nil {
		return nil
	}
	for l := range strings.Lines(string(data)) {
		if fields := strings.Split(strings.TrimSpace(l), ":"); len(fields) > 2 {
			all = append(all, fields)
		}
	}
	return all
}

// find looks for a number, and then for a name.
func (p passwd) find(text string) (uint32, bool) {
	for _, field := range []int{2, 0} {
		for _, fields := range p {
			if text == "" || fields[field] != text {
				continue
			}
			if uid, err := strconv.ParseUint(fields[2], 10, 32); err == nil && uid <= maxID {
				return uint32(uid), true
			}
		}
	}
	return 0, false
}

func (r *reader) families() {
	switch mode := r.text(keyFamilies); {
	case mode == "ipv4":
		r.Config.Families = intercept.FamiliesIPv4
	case strings.EqualFold(mode, "ipv4"):
		r.Warn("%s: %q means dualstack to kumactl, and so it does here; write ipv4 for IPv4 alone", r.source(keyFamilies), mode)
	case mode != "" && !strings.EqualFold(mode, "dualstack"):
		r.fail(r.source(keyFamilies), "%q is neither dualstack nor ipv4", strict.Clip(mode))
	}
}

func (r *reader) inbound(c command) {
	in := &r.Config.Inbound
	in.DropInvalid = r.on(keyInvalid)
	in.ExcludePorts = nil
	if !r.on(keyIn + keyEnabled) {
		in.Mode = intercept.InboundOff
	}
	in.Port = intercept.Port(r.port(keyIn + keyPort))
	if _, given := r.given[keyValidatorPort]; c == validate && given {
		in.Port = intercept.Port(r.port(keyValidatorPort))
	}
	in.ExcludeSources = r.cidrs(keyIn + keyExcludeIPs)
	in.ExcludePorts = r.ports(keyIn + keyExclude)
	if include := r.ports(keyIn + keyInclude); len(include) > 0 {
		in.IncludePorts = include
		if in.ExcludePorts = r.left(keyIn, include, in.ExcludePorts); in.ExcludePorts == nil {
			in.ExcludePorts = intercept.Ports{}
		}
	}
}

func (r *reader) outbound() {
	out := &r.Config.Outbound
	out.Port = intercept.Port(r.port(keyOut + keyPort))
	exclude := r.ports(keyOut + keyExclude)
	if include := r.ports(keyOut + keyInclude); len(include) > 0 {
		out.IncludeCIDRs, out.IncludePorts = nil, include
		exclude = r.left(keyOut, include, exclude)
	}
	if !r.on(keyOut + keyEnabled) {
		out.IncludeCIDRs, out.IncludePorts = nil, nil
	}
	if len(exclude) > 0 {
		// Not ExcludePorts, which are those of UDP, too: lookups to an excluded port 53 are captured all the same.
		out.Exclude = append(out.Exclude, intercept.Exclusion{Protocol: intercept.TCP, Ports: exclude})
	}
	if ips := r.cidrs(keyOut + keyExcludeIPs); len(ips) > 0 {
		out.Exclude = append(out.Exclude, intercept.Exclusion{CIDRs: ips})
	}
	key := keyOut + keyExcludeUIDs
	for _, text := range r.given[key].texts {
		exclusions, err := parseExclusion(text)
		if err != nil {
			r.fail(r.source(key), "%q: %w", strict.Clip(text), err)
		}
		out.Exclude = append(out.Exclude, exclusions...)
	}
}

// left returns the excluded ports where there are included ones, too. The documentation says that these win, and that
// the two are not to be used together. What is in one list alone is what it seems.
func (r *reader) left(direction string, include, exclude intercept.Ports) intercept.Ports {
	var both intercept.Ports
	for _, p := range exclude {
		for _, q := range include {
			if first, last := max(p.First, q.First), min(p.Last, q.Last); first <= last {
				both = append(both, intercept.PortRange{First: first, Last: last})
			}
		}
	}
	switch {
	case len(both) == 0:
	case r.Lenient:
		r.Warn("%s: %s are included as well, and captured", r.source(direction+keyExclude), both)
	default:
		r.fail(r.source(direction+keyExclude), "%s is in %s, too: take it out of one of them (with --lenient it is captured, "+
			"as by kumactl)", both, r.source(direction+keyInclude))
	}
	return nil
}

// cidrs reads addresses and networks of both families. A network may have the bits of an address in it.
func (r *reader) cidrs(key string) (all intercept.CIDRs) {
	for _, text := range split(r.given[key].texts, ",") {
		p, err := parsePrefix(text)
		if err != nil {
			r.fail(r.source(key), "%w", err)
			continue
		}
		all = append(all, p)
	}
	return all
}

func parsePrefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an address or a network (as in 10.0.0.1, 10.0.0.0/8 or fd00::/8)",
			strict.Clip(text))
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// parseExclusion reads [protocols:][ports:]uids.
func parseExclusion(text string) ([]intercept.Exclusion, error) {
	parts := strings.Split(text, ":")
	if len(parts) > 3 {
		return nil, errors.New("write [PROTOCOL:][PORTS:]UIDS, as in tcp:80,443:1000-1999")
	}
	parts = append([]string{"*", "*"}[:3-len(parts)], parts...)
	var e intercept.Exclusion
	var errs strict.Errors
	if p := parts[1]; p != "*" && p != "" {
		for item := range strings.SplitSeq(p, ",") {
			ports, err := parsePorts(strings.TrimSpace(item))
			errs.Add(err)
			e.Ports = append(e.Ports, ports)
		}
	}
	var err error
	e.UIDs, err = intercept.ParseIDs(strings.ReplaceAll(parts[2], " ", ""))
	if len(e.UIDs) == 0 && err == nil {
		err = errors.New("it names no user")
	}
	errs.Add(err)
	switch protocols := strings.Split(strings.ToLower(parts[0]), ","); {
	case parts[0] == "*" || parts[0] == "":
	case len(protocols) == 2 && slices.Contains(protocols, "tcp") && slices.Contains(protocols, "udp"):
	case len(protocols) == 1:
		e.Protocol, err = intercept.ParseProtocol(strings.TrimSpace(protocols[0]))
		if err == nil && e.Protocol != intercept.TCP && e.Protocol != intercept.UDP {
			err = fmt.Errorf("%q is neither tcp nor udp", strict.Clip(parts[0]))
		}
		errs.Add(err)
	default:
		errs.Add(fmt.Errorf("%q is neither tcp nor udp", strict.Clip(parts[0])))
	}
	return []intercept.Exclusion{e}, errs.Err()
}

// dns has lookups over UDP captured, of all servers or of those in resolv.conf. Those over TCP pass, in each family in
// which lookups are captured; not those of a guest.
func (r *reader) dns() {
	all := r.on(keyDNSAll)
	if !all && !r.on(keyDNS) {
		return
	}
	dns := &r.Config.DNS
	dns.Port = r.port(keyDNSPort)
	dns.Mode = intercept.DNSAll
	captured := []netip.Prefix{allIPv4, allIPv6}
	if !all {
		dns.Mode = intercept.DNSResolvConf
		file := r.text(keyResolvConf)
		text, err := r.world.ReadFile(file)
		if err != nil {
			r.fail(r.source(keyDNS), "the name servers to capture: %w", err)
			return
		}
		dns.Servers = intercept.ParseResolvConf(string(text))
		of := func(p netip.Prefix) bool { return slices.ContainsFunc(dns.Servers, p.Contains) }
		if r.Config.Families == intercept.FamiliesIPv4 {
			dns.Servers = slices.DeleteFunc(dns.Servers, netip.Addr.Is6)
		}
		captured = slices.DeleteFunc(captured, func(p netip.Prefix) bool { return !of(p) })
		if len(captured) == 0 {
			dns.Mode = intercept.DNSOff
			r.Warn("%s names no server: no lookup is captured", file)
			return
		}
	}
	dns.TCP = false
	if r.on(keyOut + keyInsert) {
		return // the outbound chain comes first then, and has those over TCP
	}
	over := intercept.Exclusion{
		Protocol: intercept.TCP, Ports: intercept.Ports{intercept.Port(53)}, UIDs: intercept.IDs{{First: 0, Last: maxID}},
	}
	if len(captured) == 1 {
		over.CIDRs = captured
	}
	r.Config.Outbound.Exclude = append(r.Config.Outbound.Exclude, over)
}

// networks are the virtual interfaces, each with the networks behind it.
func (r *reader) networks() {
	c := &r.Config
	for _, text := range r.given[keyNetworks].texts {
		name, network, _ := strings.Cut(text, ":")
		p, err := netip.ParsePrefix(network)
		if err != nil || name == "" {
			r.fail(r.source(keyNetworks), "%q: write INTERFACE:CIDR, as in docker0:172.17.0.0/16 or br+:172.18.0.0/16",
				strict.Clip(text))
			continue
		}
		if prefix, any := strings.CutSuffix(name, "+"); any {
			name = prefix + "*"
		}
		i := slices.Index(c.VirtualInterfaces, name)
		if i < 0 {
			i = len(c.VirtualInterfaces)
			c.VirtualInterfaces = append(c.VirtualInterfaces, name)
			c.VirtualNetworks = append(c.VirtualNetworks, intercept.VirtualNetwork{Interface: name})
		}
		c.VirtualNetworks[i].CIDRs = append(c.VirtualNetworks[i].CIDRs, p.Masked())
	}
}

var (
	allIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	allIPv6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// backend is by the names of the programs, if they are there. If not, as in an image that has none, kumactl looks for
// others; here rules need no program.
func (r *reader) backend() {
	if wait, err := strconv.ParseUint(r.text(keyWait), 10, 16); err != nil {
		r.fail(r.source(keyWait), "%q is not a number of seconds", r.text(keyWait))
	} else {
		r.Pod.IPTables.Wait = time.Duration(wait) * time.Second
	}
	if r.on(keyNoComments) {
		r.Pod.IPTables.Dialect = iptables.Minimal
	}
	g, there := r.given[keyPrograms]
	if !there {
		return
	}
	file := ""
	known := []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"}
	for _, text := range split(g.texts, ",") {
		name, at, ok := strings.Cut(text, ":")
		switch {
		case !ok || !slices.Contains(known, name):
			r.fail(g.source, "%q: write NAME:PATH, where the name is one of %s", strict.Clip(text), strings.Join(known, ", "))
			continue
		case name == "iptables-restore" || file == "":
			file = at
		}
	}
	if file == "" {
		return
	}
	if _, err := r.world.ReadFile(file); err != nil {
		r.Warn("%s: %s is not there; rules are written by the best way there is, which takes no program", g.source,
			strict.OneLine(file))
		return
	}
	switch name := path.Base(file); {
	case strings.Contains(name, "legacy"):
		r.Pod.Backend = dataplane.BackendIPTablesLegacy
	case strings.Contains(name, "nft"):
		r.Pod.Backend = dataplane.BackendIPTablesNFT
	default:
		r.Pod.Backend = dataplane.BackendIPTables
	}
}
