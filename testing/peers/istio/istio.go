//go:build linux

// Package istio is istio-iptables as its documentation tells it: which rules its flags and its environment make.
package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/testing/peers"
)

// flags are those that concern rules.
type flags struct {
	outbound, inbound, tunnel, uids, gids, mode string
	in, notIn, interfaces, virtual              string
	cidrs, notCIDRs, ports, notPorts            string
	mark, table                                 string
	dns, allDNS, dropInvalid, dualStack         bool
	env                                         map[string]string
}

func parse(s peers.Set) flags {
	f := flags{env: map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS": "*", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "127.0.0.1/32"}}
	for _, v := range s.Environ {
		name, value, _ := strings.Cut(v, "=")
		f.env[name] = value
	}
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.ParseErrorsAllowlist.UnknownFlags = true
	text := func(p *string, name, letter, usual string) { set.StringVarP(p, name, letter, usual, "") }
	text(&f.outbound, "envoy-port", "p", "15001")
	text(&f.inbound, "inbound-capture-port", "z", "15006")
	text(&f.tunnel, "inbound-tunnel-port", "e", "15008")
	text(&f.uids, "proxy-uid", "u", "")
	text(&f.gids, "proxy-gid", "g", "")
	text(&f.mode, "istio-inbound-interception-mode", "m", "")
	text(&f.in, "istio-inbound-ports", "b", "")
	text(&f.notIn, "istio-local-exclude-ports", "d", "")
	text(&f.interfaces, "istio-exclude-interfaces", "c", "")
	text(&f.cidrs, "istio-service-cidr", "i", "")
	text(&f.notCIDRs, "istio-service-exclude-cidr", "x", "")
	text(&f.ports, "istio-outbound-ports", "q", "")
	text(&f.notPorts, "istio-local-outbound-ports-exclude", "o", "")
	text(&f.virtual, "kube-virt-interfaces", "k", "")
	text(&f.mark, "istio-inbound-tproxy-mark", "t", "1337")
	text(&f.table, "istio-inbound-tproxy-route-table", "r", "133")
	for name, p := range map[string]*bool{
		"redirect-dns": &f.dns, "capture-all-dns": &f.allDNS, "drop-invalid": &f.dropInvalid, "dual-stack": &f.dualStack,
	} {
		set.BoolVar(p, name, false, "")
	}
	set.VisitAll(func(flag *pflag.Flag) {
		names := []string{strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))}
		switch flag.Name {
		case "envoy-port":
			names = nil
		case "redirect-dns":
			names = append(names, "ISTIO_META_DNS_CAPTURE")
		case "drop-invalid":
			names = append(names, "INVALID_DROP")
		case "dual-stack":
			names = append(names, "ISTIO_DUAL_STACK")
		}
		for _, name := range names {
			if v, ok := f.env[name]; ok {
				_ = flag.Value.Set(v) // what is wrong with a variable is passed over
			}
		}
	})
	if err := set.Parse(s.Args); err != nil {
		panic(err)
	}
	if f.uids == "" {
		f.uids = "1337"
	}
	if f.gids == "" {
		f.gids = f.uids
	}
	return f
}

func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })
}

// Rules returns the commands of the program, which is given a pod whose addresses are the set's.
func Rules(s peers.Set) []peers.Command {
	f := parse(s)
	v6 := f.dualStack // the pod has both, the IPv4 one first
	if s.Addresses != nil {
		has4 := slices.ContainsFunc(s.Addresses, netip.Addr.Is4)
		has6 := slices.ContainsFunc(s.Addresses, func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() })
		v6 = has6 && (f.dualStack || !has4)
	}
	var servers4, servers6 []string
	if f.dns && !f.allDNS {
		for line := range strings.Lines(s.Files["/etc/resolv.conf"]) {
			if words := strings.Fields(line); len(words) == 2 && words[0] == "nameserver" {
				if strings.Contains(words[1], ":") {
					servers6 = append(servers6, words[1])
				} else {
					servers4 = append(servers4, words[1])
				}
			}
		}
		f.dns = len(servers4)+len(servers6) > 0
	}
	text4 := f.text(family{loopback: f.env["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"], passthrough: "127.0.0.6/32",
		servers: servers4, cidr: func(p netip.Prefix) bool { return p.Addr().Is4() }})
	text6 := f.text(family{loopback: "::1/128", passthrough: "::6/128", servers: servers6,
		cidr: func(p netip.Prefix) bool { return p.Addr().Is6() }})
	families := []string{"-4"}
	if !v6 {
		text6 = ""
	} else {
		families = append(families, "-6")
	}
	commands := peers.Restore("nft", text4, text6)
	ip := func(words string) {
		commands = append(commands, peers.Command{Args: append([]string{"ip"}, strings.Fields(words)...)})
	}
	if v6 {
		ip("-6 addr add ::6/128 dev lo")
	}
	if f.mode == "TPROXY" && f.in != "" {
		for _, family := range families {
			ip(fmt.Sprintf("%s rule add fwmark %s lookup %s", family, f.mark, f.table))
			ip(fmt.Sprintf("%s route add local default dev lo table %s", family, f.table))
		}
	}
	return commands
}

// family is what differs between IPv4 and IPv6.
type family struct {
	loopback, passthrough string
	servers               []string
	cidr                  func(netip.Prefix) bool
}

// of returns the networks of a list that are of the family, and whether the list has a part of loopback in any family.
func (v family) of(cidrs string) (own []string, loopback bool) {
	if cidrs == "*" {
		return nil, false
	}
	for _, s := range list(cidrs) {
		p := netip.MustParsePrefix(s)
		if v.cidr(p) {
			own = append(own, s)
		}
		loopback = loopback || p.Addr().IsLoopback()
	}
	return own, loopback
}

// text returns the rules of one family, in the order of the program.
func (f flags) text(v family) string {
	rules := map[string][]string{}
	add := func(table, format string, args ...any) {
		rules[table] = append(rules[table], "-A "+fmt.Sprintf(format, args...))
	}
	insert := func(table, chain string, at int, format string, args ...any) {
		rules[table] = append(rules[table], fmt.Sprintf("-I %s %d ", chain, at)+fmt.Sprintf(format, args...))
	}
	tproxy := f.mode == "TPROXY"

	for _, name := range list(f.interfaces) {
		add("nat", "PREROUTING -i %s -j RETURN", name)
		add("nat", "OUTPUT -o %s -j RETURN", name)
		if tproxy {
			add("mangle", "PREROUTING -i %s -j RETURN", name)
			add("mangle", "OUTPUT -o %s -j RETURN", name)
		}
	}
	for _, name := range list(f.virtual) {
		insert("nat", "PREROUTING", 1, "-i %s -j RETURN", name)
	}
	if f.dropInvalid {
		add("mangle", "PREROUTING -m conntrack --ctstate INVALID -j ISTIO_DROP")
		add("mangle", "ISTIO_DROP -j DROP")
	}
	add("nat", "ISTIO_INBOUND -p tcp --dport %s -j RETURN", f.tunnel)
	add("nat", "ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports %s", f.outbound)
	add("nat", "ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports %s", f.inbound)
	if f.in != "" {
		table, target := "nat", "ISTIO_IN_REDIRECT"
		if tproxy {
			table, target = "mangle", "ISTIO_TPROXY"
			add(table, "ISTIO_DIVERT -j MARK --set-mark %s", f.mark)
			add(table, "ISTIO_DIVERT -j ACCEPT")
			add(table, "ISTIO_TPROXY ! -d %s -p tcp -j TPROXY --tproxy-mark %s/0xffffffff --on-port %s", v.loopback, f.mark,
				f.inbound)
		}
		add(table, "PREROUTING -p tcp -j ISTIO_INBOUND")
		ports := []string{""}
		if f.in != "*" {
			ports = list(f.in)
		} else {
			for _, port := range list(f.notIn) {
				add(table, "ISTIO_INBOUND -p tcp --dport %s -j RETURN", port)
			}
		}
		for _, port := range ports {
			if port != "" {
				port = " --dport " + port
			}
			if tproxy {
				add(table, "ISTIO_INBOUND -p tcp%s -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT", port)
			}
			add(table, "ISTIO_INBOUND -p tcp%s -j %s", port, target)
		}
	}

	add("nat", "OUTPUT -j ISTIO_OUTPUT")
	for _, port := range list(f.notPorts) {
		add("nat", "ISTIO_OUTPUT -p tcp --dport %s -j RETURN", port)
		add("nat", "ISTIO_OUTPUT -p udp --dport %s -j RETURN", port)
	}
	add("nat", "ISTIO_OUTPUT -o lo -s %s -j RETURN", v.passthrough)
	own, loopback := v.of(f.cidrs)
	proxy := func(option, id, tunnel string) {
		add("nat", "ISTIO_OUTPUT -o lo ! -d %s -p tcp %s -m owner --%s %s -j ISTIO_IN_REDIRECT", v.loopback, tunnel, option, id)
		if !loopback {
			inside := ""
			if f.dns {
				inside = "-p tcp ! --dport 53 "
			}
			add("nat", "ISTIO_OUTPUT -o lo %s-m owner ! --%s %s -j RETURN", inside, option, id)
		}
		add("nat", "ISTIO_OUTPUT -m owner --%s %s -j RETURN", option, id)
	}
	tunnel := "! --dport " + f.tunnel
	for _, id := range list(f.uids) {
		if f.dns {
			proxy("uid-owner", id, "-m multiport ! --dports 53,"+f.tunnel)
		} else {
			proxy("uid-owner", id, tunnel)
		}
	}
	for _, id := range list(f.gids) {
		proxy("gid-owner", id, tunnel)
	}
	if groups := f.env["ISTIO_OUTBOUND_OWNER_GROUPS"]; groups == "*" {
		for _, id := range list(f.env["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"]) {
			add("nat", "ISTIO_OUTPUT -m owner --gid-owner %s -j RETURN", id)
		}
	} else {
		var none []string
		for _, id := range list(groups) {
			none = append(none, "-m owner ! --gid-owner "+id)
		}
		add("nat", "ISTIO_OUTPUT %s -j RETURN", strings.Join(none, " "))
	}
	if f.dns {
		f.lookups(v, add)
	}
	add("nat", "ISTIO_OUTPUT -d %s -j RETURN", v.loopback)
	not, _ := v.of(f.notCIDRs)
	for _, cidr := range not {
		add("nat", "ISTIO_OUTPUT -d %s -j RETURN", cidr)
	}
	for _, port := range list(f.ports) {
		add("nat", "ISTIO_OUTPUT -p tcp --dport %s -j ISTIO_REDIRECT", port)
	}
	if f.cidrs == "*" {
		add("nat", "ISTIO_OUTPUT -j ISTIO_REDIRECT")
		for _, name := range list(f.virtual) {
			insert("nat", "PREROUTING", 1, "-i %s -j ISTIO_REDIRECT", name)
		}
	}
	for _, cidr := range own {
		for _, name := range list(f.virtual) {
			insert("nat", "PREROUTING", 1, "-i %s -d %s -j ISTIO_REDIRECT", name, cidr)
		}
		add("nat", "ISTIO_OUTPUT -d %s -j ISTIO_REDIRECT", cidr)
	}

	if tproxy {
		add("mangle", "PREROUTING -p tcp -m mark --mark %s -j CONNMARK --save-mark", f.mark)
		add("mangle", "OUTPUT -p tcp -o lo -m mark --mark %s -j RETURN", f.mark)
		for option, ids := range map[string]string{"uid-owner": f.uids, "gid-owner": f.gids} {
			for _, id := range list(ids) {
				add("mangle", "OUTPUT ! -d %s -p tcp -o lo -m owner --%s %s -j MARK --set-mark 1338", v.loopback, option, id)
			}
		}
		add("mangle", "OUTPUT -p tcp -m connmark --mark %s -j CONNMARK --restore-mark", f.mark)
		for i, match := range []string{"-m mark --mark " + f.mark, "-s " + v.passthrough + " -i lo", "-i lo -m mark ! --mark 1338"} {
			insert("mangle", "ISTIO_INBOUND", i+1, "-p tcp %s -j RETURN", match)
		}
	}
	return restore(rules)
}

// lookups adds the rules for DNS.
func (f flags) lookups(v family, add func(table, format string, args ...any)) {
	to := func(option string) (all []string) {
		if f.allDNS {
			return []string{""}
		}
		for _, s := range v.servers {
			all = append(all, " "+option+" "+s)
		}
		return all
	}
	add("raw", "OUTPUT -j ISTIO_OUTPUT_DNS")
	if len(to("-d")) > 0 {
		add("nat", "ISTIO_OUTPUT -j ISTIO_OUTPUT_DNS")
		add("raw", "PREROUTING -j ISTIO_INBOUND")
	}
	for _, protocol := range []string{"tcp", "udp"} {
		for _, server := range to("-d") {
			add("nat", "ISTIO_OUTPUT_DNS -p %s --dport 53%s -j REDIRECT --to-ports 15053", protocol, server)
		}
	}
	zones := func(option, ids string) {
		for _, id := range list(ids) {
			add("raw", "ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --%s %s -j CT --zone 1", option, id)
			add("raw", "ISTIO_OUTPUT_DNS -p udp --sport 15053 -m owner --%s %s -j CT --zone 2", option, id)
		}
	}
	zones("uid-owner", f.uids)
	zones("gid-owner", f.gids)
	for _, server := range to("-d") {
		add("raw", "ISTIO_OUTPUT_DNS -p udp --dport 53%s -j CT --zone 2", server)
	}
	for _, server := range to("-s") {
		add("raw", "ISTIO_INBOUND -p udp --sport 53%s -j CT --zone 1", server)
	}
}

// restore returns what iptables-restore reads.
func restore(rules map[string][]string) string {
	var b strings.Builder
	for _, table := range []string{"mangle", "nat", "raw"} {
		if len(rules[table]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", table)
		var chains []string
		for _, rule := range rules[table] {
			for word := range strings.FieldsSeq(rule) {
				if strings.HasPrefix(word, "ISTIO_") && !slices.Contains(chains, word) {
					chains = append(chains, word)
				}
			}
		}
		for _, chain := range chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
		}
		for _, rule := range rules[table] {
			b.WriteString(rule + "\n")
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
