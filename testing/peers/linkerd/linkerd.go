//go:build linux

// Package linkerd is linkerd2-proxy-init as its documentation tells it: which rules its flags make.
package linkerd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/testing/peers"
)

// flags are those that concern rules, with their defaults.
type flags struct {
	incoming, outgoing, uid, gid int
	redirect                     []int
	ignoreIn, ignoreOut, subnets []string
	mode                         string
	ipv6                         bool
}

func parse(args []string) (flags, error) {
	var f flags
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.ParseErrorsAllowlist.UnknownFlags = true
	set.IntVarP(&f.incoming, "incoming-proxy-port", "p", -1, "")
	set.IntVarP(&f.outgoing, "outgoing-proxy-port", "o", -1, "")
	set.IntVarP(&f.uid, "proxy-uid", "u", -1, "")
	set.IntVarP(&f.gid, "proxy-gid", "g", -1, "")
	set.IntSliceVarP(&f.redirect, "ports-to-redirect", "r", nil, "")
	set.StringSliceVar(&f.ignoreIn, "inbound-ports-to-ignore", nil, "")
	set.StringSliceVar(&f.ignoreOut, "outbound-ports-to-ignore", nil, "")
	set.StringSliceVar(&f.subnets, "subnets-to-ignore", nil, "")
	set.StringVar(&f.mode, "iptables-mode", "", "")
	set.BoolVar(&f.ipv6, "ipv6", true, "")
	return f, set.Parse(args)
}

// Rules returns what runs of the program leave in force, of which the last has the arguments given last.
//
// A run replaces what an earlier one made, in the same backend and in the families that it has. With subnets of one
// family alone, and both families on, the program fails in the other: IPv4's rules stay, of IPv6 none are in force.
func Rules(runs ...[]string) []peers.Command {
	// By the program's name, as a later run replaces an earlier one's.
	inForce := map[string]string{}
	for _, args := range runs {
		f, err := parse(args)
		if err != nil {
			panic(err)
		}
		variant := "legacy-"
		if f.mode == "nft" || f.mode == "plain" {
			variant = "nft-"
		}
		v4, v6 := "iptables-"+variant+"restore", "ip6tables-"+variant+"restore"
		switch {
		case f.has(netip.Addr.Is6): // the IPv4 pass ends there
			continue
		case f.ipv6 && !f.has(netip.Addr.Is4):
			inForce[v6] = f.text()
		}
		inForce[v4] = f.text()
	}
	var commands []peers.Command
	for _, program := range []string{
		"iptables-legacy-restore", "ip6tables-legacy-restore", "iptables-nft-restore", "ip6tables-nft-restore",
	} {
		if text := inForce[program]; text != "" {
			commands = append(commands, peers.Command{Args: []string{program, "--noflush"}, Stdin: text})
		}
	}
	return commands
}

// has reports whether there is a subnet of a family.
func (f flags) has(family func(netip.Addr) bool) bool {
	for _, s := range f.subnets {
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && family(p.Addr()) {
			return true
		}
	}
	return false
}

// text returns the rules of one family.
func (f flags) text() string {
	var b strings.Builder
	rule := func(comment, format string, args ...any) {
		fmt.Fprintf(&b, "-A "+format+" -m comment --comment proxy-init/%s\n", append(args, comment)...)
	}
	b.WriteString("*nat\n:PROXY_INIT_REDIRECT - [0:0]\n:PROXY_INIT_OUTPUT - [0:0]\n")
	ignore := func(chain string, tokens []string) {
		for _, ports := range multiport(tokens) {
			rule("ignore-port-"+ports, "%s -p tcp -m multiport --dports %s -j RETURN", chain, ports)
		}
	}
	ignore("PROXY_INIT_REDIRECT", f.ignoreIn)
	for _, s := range f.subnets {
		rule("ignore-subnet-"+strings.TrimSpace(s), "PROXY_INIT_REDIRECT -s %s -j RETURN", strings.TrimSpace(s))
	}
	if len(f.redirect) == 0 {
		rule("redirect-all-incoming-to-proxy-port", "PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-ports %d", f.incoming)
	}
	for _, port := range f.redirect {
		rule(fmt.Sprintf("redirect-port-%d-to-proxy-port", port),
			"PROXY_INIT_REDIRECT -p tcp -m tcp --dport %d -j REDIRECT --to-ports %d", port, f.incoming)
	}
	rule("install-proxy-init-prerouting", "PREROUTING -j PROXY_INIT_REDIRECT")

	if f.uid > 0 {
		rule("ignore-proxy-user-id", "PROXY_INIT_OUTPUT -m owner --uid-owner %d -j RETURN", f.uid)
	}
	if f.gid > 0 {
		rule("ignore-proxy-group-id", "PROXY_INIT_OUTPUT -m owner --gid-owner %d -j RETURN", f.gid)
	}
	rule("ignore-loopback", "PROXY_INIT_OUTPUT -o lo -j RETURN")
	ignore("PROXY_INIT_OUTPUT", f.ignoreOut)
	rule("redirect-all-outgoing-to-proxy-port", "PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-ports %d", f.outgoing)
	rule("install-proxy-init-output", "OUTPUT -j PROXY_INIT_OUTPUT")
	b.WriteString("COMMIT\n")
	return b.String()
}

// multiport returns the arguments of the rules for ignored ports: at most 15 ports each, of which a range takes two.
// What is neither a port nor a range in order is left out.
func multiport(tokens []string) []string {
	var rules []string
	var ports []string
	n := 0
	for _, token := range tokens {
		from, to, isRange := strings.Cut(token, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first > 65535 {
			continue
		}
		last, needs := first, 1
		if isRange {
			if last, err = strconv.Atoi(to); err != nil || last < first || last > 65535 {
				continue
			}
		}
		port := strconv.Itoa(first)
		if last != first {
			port, needs = fmt.Sprintf("%d:%d", first, last), 2
		}
		if n+needs > 15 {
			rules, ports, n = append(rules, strings.Join(ports, ",")), nil, 0
		}
		ports, n = append(ports, port), n+needs
	}
	if len(ports) > 0 {
		rules = append(rules, strings.Join(ports, ","))
	}
	return rules
}
