package kuma

import (
	"cmp"
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

// validationTime is for how long kumactl tries, about, and validationPort the first of the ports that it calls.
const validationTime, validationPort = 10 * time.Second, 20000

// understand says in this project's terms what is given.
func (r *reader) understand() {
	r.idle()
	r.Pod.AllowHostNetNS = r.on(keyHost)
	if r.LogLevel = r.text(keyLogLevel); r.LogLevel == "off" {
		r.LogLevel = ""
	}
	switch {
	case r.command == uninstall:
		r.Action, r.DryRun = peers.Remove, r.on(keyDryRun)
		return
	case r.command == validate:
		r.Action, r.Validation = peers.Nothing, &peers.Validation{Timeout: validationTime, Port: validationPort}
	case r.on(keyDryRun):
		r.Action = peers.Render
	}
	r.proxy()
	r.Config.TunnelPort = 0
	r.families()
	r.inbound()
	r.outbound()
	r.dns()
	r.networks()
	r.backend()
	if r.errs.None() {
		r.valid()
	}
}

// valid reports what is wrong with the whole by the names of the settings. That nothing is captured says who applies it.
func (r *reader) valid() {
	keys := map[string]string{"inbound.port": keyIn + keyPort, "outbound.port": keyOut + keyPort, "dns.port": keyDNSPort,
		"virtualInterfaces": keyNetworks, "virtualNetworks": keyNetworks, "outbound.exclude": keyOut + keyExcludeUIDs}
	for _, err := range strict.Flatten(r.Config.Validate()) {
		field, is := errors.AsType[*intercept.FieldError](err)
		switch {
		case is && keys[field.Field] != "":
			r.bad(keys[field.Field], field.Err)
		case is:
			r.errs.Add(err)
		}
	}
}

// idle warns of what is given and has no effect. What a file says as it is anyway needs no word: Kuma's injector
// writes all fields.
func (r *reader) idle() {
	for i := range r.rows {
		w := &r.rows[i]
		text := strings.Join(w.texts, ",")
		off := w.form == truth && text != "true"
		if w.idle != "" && text != "" && !off && (w.byFlag || text != w.initial) {
			r.Warn("%s has no effect here: %s", w.source, w.idle)
		}
	}
}

// text is a setting's value, or its initial one.
func (r *reader) text(key string) string {
	w := r.row(key)
	if len(w.texts) > 0 {
		return strings.TrimSpace(w.texts[0])
	}
	return w.initial
}

// bad adds an error about a setting's value.
func (r *reader) bad(key string, err error) {
	if err != nil {
		r.wrong(cmp.Or(r.row(key).source, key), err, false)
	}
}

func (r *reader) on(key string) bool {
	on, err := isTrue(r.text(key))
	r.bad(key, err)
	return on
}

func (r *reader) port(key string) intercept.PortRange {
	p, err := parsePorts(r.text(key))
	r.bad(key, err)
	return p
}

// ports reads single ports, and ranges as well, which kumactl refuses.
func (r *reader) ports(key string) (all intercept.Ports) {
	for _, item := range split([]string{r.text(key)}, ",") {
		p, err := parsePorts(item)
		r.bad(key, err)
		all = append(all, p)
	}
	return all.Merge()
}

// parsePorts takes zeros before a number, as kumactl does.
func parsePorts(text string) (intercept.PortRange, error) {
	if p, err := intercept.ParsePortRange(strings.TrimLeft(text, "0")); err == nil {
		return p, nil
	}
	return intercept.ParsePortRange(text) // the error has it as it is written
}

// proxy finds the user: by number, and by name in /etc/passwd. A number needs no entry there. The validator, which has
// no flag for it, is started as the proxy's user, unless as root.
func (r *reader) proxy() {
	const defaultUID, defaultUser = "5678", "kuma-dp"
	passwd, _ := r.world.ReadFile("/etc/passwd") // where there is none, as in an image of one program, nobody is known
	users := split([]string{string(passwd)}, "\n")
	name := r.text(keyUser)
	write := "--kuma-dp-user NUMBER"
	if r.command == validate {
		write = r.row(keyUser).env() + "=NUMBER into the environment"
		if name == "" && r.world.User != 0 {
			name = strconv.FormatUint(uint64(r.world.User), 10)
		}
	}
	uid, known := "", false
	for _, wanted := range split([]string{name, defaultUID, defaultUser}, "\n") {
		if uid, known = find(users, wanted); known || name != "" {
			break
		}
	}
	if !known {
		if uid = name; name == "" {
			uid = defaultUID
			r.Warn("the user that the proxy runs as is taken to be %s: /etc/passwd has neither that number nor a user %s. "+
				"If it is another, write %s", defaultUID, defaultUser, write)
		}
	}
	ids, err := intercept.ParseIDs(uid)
	if err != nil || len(ids) != 1 || ids[0].First != ids[0].Last {
		r.bad(keyUser, fmt.Errorf("/etc/passwd has no user %q; write the number of the user that the proxy runs as",
			strict.Clip(name)))
	}
	r.Config.Proxy = intercept.Proxy{UIDs: ids, AllowRoot: ids.Contains(0)}
	if r.Config.Proxy.AllowRoot {
		r.Warn("the proxy is root: whatever else runs as root in the pod passes, too")
	}
}

// find looks for a number among the lines of /etc/passwd, and then for a name.
func find(users []string, wanted string) (uid string, known bool) {
	for _, field := range []int{2, 0} {
		for _, line := range users {
			if f := strings.Split(line, ":"); len(f) > 2 && f[field] == wanted {
				return f[2], true
			}
		}
	}
	return "", false
}

func (r *reader) families() {
	switch mode := r.text(keyFamilies); {
	case mode == "ipv4":
		r.Config.Families = intercept.FamiliesIPv4
	case strings.EqualFold(mode, "ipv4"):
		r.Warn("%s: %q means dualstack to kumactl, and so it does here; write ipv4 for IPv4 alone",
			r.row(keyFamilies).source, mode)
	case mode != "" && !strings.EqualFold(mode, "dualstack"):
		r.bad(keyFamilies, fmt.Errorf("%q is neither dualstack nor ipv4", strict.Clip(mode)))
	}
}

func (r *reader) inbound() {
	in := &r.Config.Inbound
	in.DropInvalid, in.CaptureForwarded = r.on(keyInvalid), true
	if !r.on(keyIn + keyEnabled) {
		in.Mode = intercept.InboundOff
	}
	in.Port = r.port(keyIn + keyPort)
	if r.row(keyValidatorPort).byFlag {
		in.Port = r.port(keyValidatorPort)
	}
	in.ExcludeSources = r.cidrs(keyIn + keyExcludeIPs)
	in.ExcludePorts = r.ports(keyIn + keyExclude)
	if include := r.ports(keyIn + keyInclude); len(include) > 0 {
		r.apart(keyIn, include, in.ExcludePorts)
		in.IncludePorts, in.ExcludePorts = include, nil
	}
}

func (r *reader) outbound() {
	out := &r.Config.Outbound
	out.Port = r.port(keyOut + keyPort)
	exclude := r.ports(keyOut + keyExclude)
	if include := r.ports(keyOut + keyInclude); len(include) > 0 {
		r.apart(keyOut, include, exclude)
		out.IncludeCIDRs, out.IncludePorts, exclude = nil, include, nil
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
	for _, text := range r.row(keyOut + keyExcludeUIDs).texts {
		e, err := parseExclusion(text)
		r.bad(keyOut+keyExcludeUIDs, err)
		out.Exclude = append(out.Exclude, e)
	}
}

// apart reports ports that are included and excluded. The documentation says that the included ones win, and that the
// two are not to be used together. What is in one list alone is what it seems.
func (r *reader) apart(direction string, include, exclude intercept.Ports) {
	for i, j := 0, 0; i < len(include) && j < len(exclude); { // both are in order
		p, q := include[i], exclude[j]
		both := intercept.PortRange{First: max(p.First, q.First), Last: min(p.Last, q.Last)}
		if both.First <= both.Last {
			r.wrong(r.row(direction+keyExclude).source, fmt.Errorf("%s is in %s, too; by kumactl it is captured: take it out "+
				"of one of them", both, r.row(direction+keyInclude).source), true)
		}
		if p.Last < q.Last {
			i++
		} else {
			j++
		}
	}
}

// cidrs reads addresses and networks of both families. A network may have the bits of an address in it.
func (r *reader) cidrs(key string) (all intercept.CIDRs) {
	for _, text := range split(r.row(key).texts, ",") {
		p, err := netip.ParsePrefix(text)
		if a, bare := netip.ParseAddr(text); bare == nil && a.Zone() == "" {
			a = a.Unmap()
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			err = fmt.Errorf("%q is not an address or a network (as in 10.0.0.1, 10.0.0.0/8 or fd00::/8)", strict.Clip(text))
			r.bad(key, err)
		}
		all = append(all, p.Masked())
	}
	return all
}

// parseExclusion reads [protocols:][ports:]uids.
func parseExclusion(text string) (e intercept.Exclusion, err error) {
	parts := strings.Split(strings.ReplaceAll(text, " ", ""), ":")
	if len(parts) > 3 {
		return e, fmt.Errorf("%q: write [PROTOCOL:][PORTS:]UIDS, as in tcp:80,443:1000-1999", strict.Clip(text))
	}
	parts = append([]string{"*", "*"}[:3-len(parts)], parts...)
	words := "uid=" + parts[2]
	if parts[1] != "*" && parts[1] != "" {
		words += " :" + strings.ReplaceAll(","+parts[1], ",0-", ",1-")[1:] // 0 is no port, and kumactl takes it in a range
	}
	switch protocol := strings.ToLower(parts[0]); protocol {
	case "*", "", "tcp,udp", "udp,tcp":
	case "tcp", "udp":
		words += " " + protocol
	default:
		return e, fmt.Errorf("%q: %q is neither tcp nor udp", strict.Clip(text), strict.Clip(protocol))
	}
	if e, err = intercept.ParseExclusion(words); err == nil && len(e.UIDs) == 0 {
		err = fmt.Errorf("%q names no user", strict.Clip(text))
	}
	return e, err
}

// dns has lookups over UDP captured, of all servers or of those in resolv.conf. Those over TCP pass, in each family in
// which lookups are captured; not those of a guest.
func (r *reader) dns() {
	dns, file := &r.Config.DNS, r.text(keyResolvConf)
	var over intercept.Exclusion
	switch all := r.row(keyDNSAll); {
	case r.on(keyDNSAll) && (all.byFlag || r.on(keyDNS)):
		dns.Mode = intercept.DNSAll
	case r.on(keyDNSAll):
		r.Warn("%s has no effect without %s", all.source, keyDNS)
	case r.on(keyDNS):
		text, err := r.world.ReadFile(file)
		if r.bad(keyDNS, err); err != nil {
			return
		}
		named := intercept.ParseResolvConf(string(text))
		for _, a := range named {
			if a.Is4() || r.Config.Families != intercept.FamiliesIPv4 {
				dns.Servers = append(dns.Servers, a)
			}
		}
		for _, all := range intercept.AllCIDRs() {
			if slices.ContainsFunc(dns.Servers, all.Contains) {
				over.CIDRs = append(over.CIDRs, all)
			}
		}
		if dns.Mode = intercept.DNSResolvConf; over.CIDRs == nil {
			dns.Mode = intercept.DNSOff
			of := ""
			if len(named) > 0 {
				of = "IPv4 "
			}
			r.Warn("%s names no %sserver: no lookup is captured", file, of)
		}
	}
	if dns.Mode == intercept.DNSOff {
		return
	}
	dns.Port, dns.TCP = r.port(keyDNSPort).First, false
	if r.on(keyOut + keyInsert) {
		return // the outbound chain comes first then, and has those over TCP
	}
	over.Protocol, over.Ports = intercept.TCP, intercept.Ports{intercept.Port(53)}
	over.UIDs = intercept.IDs{{Last: 1<<32 - 2}} // everybody, and so no guest
	if over.CIDRs.All() {
		over.CIDRs = nil
	}
	r.Config.Outbound.Exclude = append(r.Config.Outbound.Exclude, over)
}

// networks are the virtual interfaces, each with the networks behind it.
func (r *reader) networks() {
	c, seen := &r.Config, map[string]bool{}
	for _, text := range r.row(keyNetworks).texts {
		name, network, _ := strings.Cut(text, ":")
		p, err := netip.ParsePrefix(network)
		if err != nil || name == "" {
			r.bad(keyNetworks, fmt.Errorf("%q: write INTERFACE:CIDR, as in docker0:172.17.0.0/16 or br+:172.18.0.0/16",
				strict.Clip(text)))
		}
		if prefix, any := strings.CutSuffix(name, "+"); any {
			name = prefix + "*"
		}
		if !seen[name] {
			seen[name] = true
			c.VirtualInterfaces = append(c.VirtualInterfaces, name)
		}
		behind := intercept.VirtualNetwork{Interface: name, CIDRs: intercept.CIDRs{p.Masked()}}
		c.VirtualNetworks = append(c.VirtualNetworks, behind)
	}
}

// backend is by the names of the programs, wherever they are. Where there are none, as in the image of mesh-init, rules
// need no program.
func (r *reader) backend() {
	wait, err := strconv.ParseUint(r.text(keyWait), 10, 16)
	if r.Pod.IPTables.Wait = time.Duration(wait) * time.Second; err != nil {
		r.bad(keyWait, fmt.Errorf("%q is not a number of seconds", strict.Clip(r.text(keyWait))))
	}
	if r.on(keyNoComments) {
		r.Pod.IPTables.Dialect = iptables.Minimal
	}
	file := ""
	for _, text := range split(r.row(keyPrograms).texts, ",") {
		name, at, ok := strings.Cut(text, ":")
		if !ok || !strings.Contains(name, "tables") {
			r.bad(keyPrograms, fmt.Errorf("%q: write NAME:PATH, as in iptables:/usr/sbin/iptables", strict.Clip(text)))
			return
		}
		if file == "" || name == "iptables-restore" {
			file = at
		}
	}
	if file == "" {
		return
	}
	name := path.Base(file)
	switch {
	case strings.Contains(name, "legacy"):
		r.Pod.Backend = dataplane.BackendIPTablesLegacy
	case strings.Contains(name, "nft"):
		r.Pod.Backend = dataplane.BackendIPTablesNFT
	default:
		r.Pod.Backend = dataplane.BackendIPTables
	}
	if !strings.Contains(name, "tables") || r.world.HasPrograms == nil || !r.world.HasPrograms(r.Pod.Backend) {
		r.Pod.Backend = dataplane.BackendAuto
		r.Warn("%s: there is no such program here; rules are written without one", r.row(keyPrograms).source)
	}
}
