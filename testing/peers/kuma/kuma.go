//go:build linux

// Package kuma is kumactl install transparent-proxy as its documentation tells it: which rules its flags, its
// environment and its files make.
package kuma

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/testing/peers"
)

// flow is what there is for each direction.
type flow struct {
	Enabled bool     `yaml:"enabled"`
	Port    int      `yaml:"port"`
	Include []int    `yaml:"includePorts"`
	Exclude []int    `yaml:"excludePorts"`
	IPs     []string `yaml:"excludePortsForIPs"`
	UIDs    []string `yaml:"excludePortsForUIDs"`
	Insert  bool     `yaml:"insertRedirectInsteadOfAppend"`
}

// config is its configuration, as far as it concerns rules.
type config struct {
	User     string `yaml:"kumaDPUser"`
	Families string `yaml:"ipFamilyMode"`
	Redirect struct {
		In  flow `yaml:"inbound"`
		Out flow `yaml:"outbound"`
		DNS struct {
			Enabled    bool   `yaml:"enabled"`
			All        bool   `yaml:"captureAll"`
			Port       int    `yaml:"port"`
			NoZones    bool   `yaml:"skipConntrackZoneSplit"`
			ResolvConf string `yaml:"resolvConfigPath"`
		} `yaml:"dns"`
		VNet struct {
			Networks []string `yaml:"networks"`
		} `yaml:"vnet"`
	} `yaml:"redirect"`
	DropInvalid bool `yaml:"dropInvalidPackets"`
	legacy      bool
}

// parse reads files, the environment and flags, the weakest first.
func parse(s peers.Set, args []string) (config, error) {
	var c config
	c.Redirect.In, c.Redirect.Out = flow{Enabled: true, Port: 15006}, flow{Enabled: true, Port: 15001}
	c.Redirect.DNS.Port, c.Redirect.DNS.ResolvConf = 15053, "/etc/resolv.conf"
	r := &c.Redirect
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.ParseErrorsAllowlist.UnknownFlags = true
	files := set.StringSlice("config", nil, "")
	programs := set.String("iptables-executables", "", "")
	byFlag := config{}
	f := &byFlag.Redirect
	set.StringVar(&byFlag.User, "kuma-dp-user", "", "")
	set.StringVar(&byFlag.Families, "ip-family-mode", "", "")
	set.IntVar(&f.Out.Port, "redirect-outbound-port", 0, "")
	set.IntVar(&f.In.Port, "redirect-inbound-port", 0, "")
	set.BoolVar(&f.In.Enabled, "redirect-inbound", true, "")
	in, out := set.String("exclude-inbound-ports", "", ""), set.String("exclude-outbound-ports", "", "")
	set.BoolVar(&f.DNS.Enabled, "redirect-dns", false, "")
	set.BoolVar(&f.DNS.All, "redirect-all-dns-traffic", false, "")
	set.IntVar(&f.DNS.Port, "redirect-dns-port", 0, "")
	set.BoolVar(&f.DNS.NoZones, "skip-dns-conntrack-zone-split", false, "")
	set.BoolVar(&byFlag.DropInvalid, "drop-invalid-packets", false, "")
	set.StringArrayVar(&f.Out.UIDs, "exclude-outbound-ports-for-uids", nil, "")
	set.StringArrayVar(&f.VNet.Networks, "vnet", nil, "")
	set.StringArrayVar(&f.In.IPs, "exclude-inbound-ips", nil, "")
	set.StringArrayVar(&f.Out.IPs, "exclude-outbound-ips", nil, "")
	set.BoolVar(&f.In.Insert, "redirect-inbound-insert-instead-of-append", false, "")
	set.BoolVar(&f.Out.Insert, "redirect-outbound-insert-instead-of-append", false, "")
	if err := set.Parse(args); err != nil {
		return c, err
	}
	for _, file := range *files {
		if err := yaml.Unmarshal([]byte(s.Files[file]), &c); err != nil {
			return c, err
		}
	}
	for _, e := range s.Environ {
		name, text, _ := strings.Cut(e, "=")
		switch strings.TrimPrefix(name, "KUMA_TRANSPARENT_PROXY_") {
		case "KUMA_DP_USER":
			c.User = text
		case "IP_FAMILY_MODE":
			c.Families = text
		case "REDIRECT_INBOUND_ENABLED":
			r.In.Enabled = text == "true"
		case "REDIRECT_INBOUND_EXCLUDE_PORTS":
			r.In.Exclude = numbers(text)
		case "REDIRECT_OUTBOUND_EXCLUDE_PORTS":
			r.Out.Exclude = numbers(text)
		case "REDIRECT_OUTBOUND_EXCLUDE_PORTS_FOR_IPS":
			r.Out.IPs = []string{text}
		case "REDIRECT_DNS_ENABLED":
			r.DNS.Enabled = text == "true"
		case "REDIRECT_DNS_CAPTURE_ALL":
			r.DNS.All = text == "true"
		default:
			return c, fmt.Errorf("the variable %s is not worked out here", name)
		}
	}
	for name, take := range map[string]func(){
		"kuma-dp-user":                               func() { c.User = byFlag.User },
		"ip-family-mode":                             func() { c.Families = byFlag.Families },
		"redirect-outbound-port":                     func() { r.Out.Port = f.Out.Port },
		"redirect-inbound-port":                      func() { r.In.Port = f.In.Port },
		"redirect-inbound":                           func() { r.In.Enabled = f.In.Enabled },
		"exclude-inbound-ports":                      func() { r.In.Exclude = numbers(*in) },
		"exclude-outbound-ports":                     func() { r.Out.Exclude = numbers(*out) },
		"redirect-dns":                               func() { r.DNS.Enabled = f.DNS.Enabled },
		"redirect-all-dns-traffic":                   func() { r.DNS.Enabled, r.DNS.All = f.DNS.All, f.DNS.All },
		"redirect-dns-port":                          func() { r.DNS.Port = f.DNS.Port },
		"skip-dns-conntrack-zone-split":              func() { r.DNS.NoZones = f.DNS.NoZones },
		"drop-invalid-packets":                       func() { c.DropInvalid = byFlag.DropInvalid },
		"exclude-outbound-ports-for-uids":            func() { r.Out.UIDs = f.Out.UIDs },
		"vnet":                                       func() { r.VNet.Networks = f.VNet.Networks },
		"exclude-inbound-ips":                        func() { r.In.IPs = f.In.IPs },
		"exclude-outbound-ips":                       func() { r.Out.IPs = f.Out.IPs },
		"redirect-inbound-insert-instead-of-append":  func() { r.In.Insert = f.In.Insert },
		"redirect-outbound-insert-instead-of-append": func() { r.Out.Insert = f.Out.Insert },
	} {
		if set.Changed(name) {
			take()
		}
	}
	c.legacy = strings.Contains(*programs, "legacy")
	return c, c.user(s)
}

// numbers are those of a comma-separated list.
func numbers(text string) (all []int) {
	for item := range strings.SplitSeq(text, ",") {
		if n, err := strconv.Atoi(strings.TrimSpace(item)); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// user makes a number of the user: it is looked up by its number, and then by its name.
func (c *config) user(s peers.Set) error {
	wanted := []string{c.User}
	if c.User == "" {
		wanted = []string{"5678", "kuma-dp"}
	}
	for _, w := range wanted {
		for _, field := range []int{2, 0} {
			for line := range strings.Lines(s.Files["/etc/passwd"]) {
				if f := strings.Split(strings.TrimSpace(line), ":"); f[field] == w {
					c.User = f[2]
					return nil
				}
			}
		}
	}
	return fmt.Errorf("no user %q", wanted)
}

// Rules returns what runs of the program leave in force, of which the set's own is the last. A run replaces what an
// earlier one made, in the same variant of iptables and in the families that it has.
func Rules(s peers.Set) []peers.Command {
	inForce := map[string]string{}
	for _, args := range append(s.Before, s.Args) {
		c, err := parse(s, args)
		if err != nil {
			panic(err)
		}
		variant := "nft"
		if c.legacy {
			variant = "legacy"
		}
		inForce["iptables-"+variant] = c.text(s, false)
		if c.Families != "ipv4" { // in any other case it is dualstack
			inForce["ip6tables-"+variant] = c.text(s, true)
		}
	}
	return append(peers.Restore("nft", inForce["iptables-nft"], inForce["ip6tables-nft"]),
		peers.Restore("legacy", inForce["iptables-legacy"], inForce["ip6tables-legacy"])...)
}

// table is the text of one table. What is inserted comes in its order before what is appended.
type table struct{ chains, inserted, appended strings.Builder }

func (t *table) add(format string, args ...any) { fmt.Fprintf(&t.appended, "-A "+format+"\n", args...) }

func (t *table) insert(chain string, at int, format string, args ...any) {
	fmt.Fprintf(&t.inserted, "-I %s %d "+format+"\n", append([]any{chain, at}, args...)...)
}

func (t *table) text(name string) string {
	if t.inserted.Len()+t.appended.Len() == 0 {
		return ""
	}
	return "*" + name + "\n" + t.chains.String() + t.inserted.String() + t.appended.String() + "COMMIT\n"
}

// text returns the rules of one family.
func (c config) text(s peers.Set, v6 bool) string {
	return c.nat(s, v6) + c.raw(s, v6) + c.mangle()
}

// servers are the name servers of a family whose lookups are captured; all: of every server.
func (c config) servers(s peers.Set, v6 bool) (some []string, all bool) {
	if dns := c.Redirect.DNS; !dns.Enabled || dns.All {
		return nil, dns.Enabled
	}
	for line := range strings.Lines(s.Files[c.Redirect.DNS.ResolvConf]) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && of(f[1], v6) {
			some = append(some, f[1])
		}
	}
	return some, false
}

// of reports whether an address or a network is of a family.
func of(text string, v6 bool) bool {
	address, _, _ := strings.Cut(strings.TrimSpace(text), "/")
	a, err := netip.ParseAddr(address)
	return err == nil && a.Is6() == v6
}

// addresses are those of a family in lists of them.
func addresses(lists []string, v6 bool) (all []string) {
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if of(item, v6) {
				all = append(all, strings.TrimSpace(item))
			}
		}
	}
	return all
}

func (c config) nat(s peers.Set, v6 bool) string {
	var t table
	for _, chain := range []string{"INBOUND", "OUTBOUND", "INBOUND_REDIRECT", "OUTBOUND_REDIRECT"} {
		fmt.Fprintf(&t.chains, ":KUMA_MESH_%s - [0:0]\n", chain)
	}
	r := c.Redirect
	c.output(&t, s, v6)
	c.prerouting(&t, v6)
	in := "KUMA_MESH_INBOUND"
	if r.In.Enabled {
		for _, a := range addresses(r.In.IPs, v6) {
			t.add("%s -s %s -j RETURN", in, a)
		}
		for range r.In.UIDs { // a user says nothing of what arrives
			t.add("%s -j RETURN", in)
		}
		for _, port := range r.In.Include {
			t.add("%s -p tcp --dport %d -j KUMA_MESH_INBOUND_REDIRECT", in, port)
		}
		if len(r.In.Include) == 0 {
			for _, port := range r.In.Exclude {
				t.add("%s -p tcp --dport %d -j RETURN", in, port)
			}
			t.add("%s -p tcp -j KUMA_MESH_INBOUND_REDIRECT", in)
		}
	}
	if r.Out.Enabled {
		c.outbound(&t, v6)
	}
	t.add("KUMA_MESH_INBOUND_REDIRECT -p tcp -j REDIRECT --to-ports %d", r.In.Port)
	t.add("KUMA_MESH_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports %d", r.Out.Port)
	return t.text("nat")
}

// outbound are the rules of the chain for TCP that is sent.
func (c config) outbound(t *table, v6 bool) {
	const out = "KUMA_MESH_OUTBOUND"
	passthrough, localhost := "127.0.0.6/32", "127.0.0.1/32"
	if v6 {
		passthrough, localhost = "::6/128", "::1/128"
	}
	r := c.Redirect
	if len(r.Out.Include) == 0 {
		for _, port := range r.Out.Exclude {
			t.add("%s -p tcp --dport %d -j RETURN", out, port)
		}
	}
	t.add("%s -s %s -o lo -j RETURN", out, passthrough)
	t.add("%s -p tcp -o lo ! -d %s -m owner --uid-owner %s -j KUMA_MESH_INBOUND_REDIRECT", out, localhost, c.User)
	t.add("%s -p tcp -o lo -m owner ! --uid-owner %s -j RETURN", out, c.User)
	t.add("%s -m owner --uid-owner %s -j RETURN", out, c.User)
	t.add("%s -d %s -j RETURN", out, localhost)
	for _, port := range r.Out.Include {
		t.add("%s -p tcp --dport %d -j KUMA_MESH_OUTBOUND_REDIRECT", out, port)
	}
	if len(r.Out.Include) == 0 {
		t.add("%s -j KUMA_MESH_OUTBOUND_REDIRECT", out)
	}
}

// output are the rules in OUTPUT: exclusions by user and by address, lookups, and the jump.
func (c config) output(t *table, s peers.Set, v6 bool) {
	at := 0
	insert := func(format string, args ...any) {
		at++
		t.insert("OUTPUT", at, format, args...)
	}
	r := c.Redirect
	for _, text := range r.Out.UIDs {
		parts := strings.Split(text, ":")
		parts = append([]string{"*", "*"}[:3-len(parts)], parts...)
		ports := parts[1]
		if ports == "*" || ports == "" {
			ports = "1-65535"
		}
		for _, protocol := range []string{"tcp", "udp"} {
			if parts[0] == "*" || parts[0] == "" || strings.Contains(parts[0], protocol) {
				insert("-p %s -m multiport --dports %s -m owner --uid-owner %s -j RETURN", protocol,
					strings.ReplaceAll(ports, "-", ":"), parts[2])
			}
		}
	}
	for _, a := range addresses(r.Out.IPs, v6) {
		insert("-d %s -j RETURN", a)
	}
	servers, all := c.servers(s, v6)
	if all || len(servers) > 0 {
		insert("-p udp --dport 53 -m owner --uid-owner %s -j RETURN", c.User)
		if all {
			insert("-p udp --dport 53 -j REDIRECT --to-ports %d", r.DNS.Port)
		}
		for _, server := range servers {
			insert("-d %s -p udp --dport 53 -j REDIRECT --to-ports %d", server, r.DNS.Port)
		}
		t.add("OUTPUT -p tcp --dport 53 -m owner ! --uid-owner %s -j RETURN", c.User)
	}
	if r.Out.Insert {
		insert("-p tcp -j KUMA_MESH_OUTBOUND")
	} else {
		t.add("OUTPUT -p tcp -j KUMA_MESH_OUTBOUND")
	}
}

// prerouting are the rules for what arrives from behind the pod, and the jump.
func (c config) prerouting(t *table, v6 bool) {
	at := 0
	insert := func(format string, args ...any) {
		at++
		t.insert("PREROUTING", at, format, args...)
	}
	var names []string
	networks := map[string]string{} // of several for one interface the last
	for _, text := range c.Redirect.VNet.Networks {
		name, network, _ := strings.Cut(text, ":")
		if !of(network, v6) {
			continue
		}
		if networks[name] == "" {
			names = append(names, name)
		}
		networks[name] = network
	}
	for _, name := range names {
		insert("-i %s -p udp --dport 53 -j REDIRECT --to-ports %d", name, c.Redirect.DNS.Port)
		insert("! -d %s -i %s -p tcp -j REDIRECT --to-ports %d", networks[name], name, c.Redirect.Out.Port)
	}
	if len(names) > 0 || c.Redirect.In.Insert {
		insert("-p tcp -j KUMA_MESH_INBOUND")
	} else {
		t.add("PREROUTING -p tcp -j KUMA_MESH_INBOUND")
	}
}

// raw are the conntrack zones of lookups.
func (c config) raw(s peers.Set, v6 bool) string {
	servers, all := c.servers(s, v6)
	if c.Redirect.DNS.NoZones || !all && len(servers) == 0 {
		return ""
	}
	var t table
	t.add("OUTPUT -p udp --dport 53 -m owner --uid-owner %s -j CT --zone 1", c.User)
	t.add("OUTPUT -p udp --sport %d -m owner --uid-owner %s -j CT --zone 2", c.Redirect.DNS.Port, c.User)
	if all {
		t.add("OUTPUT -p udp --dport 53 -j CT --zone 2")
		t.add("PREROUTING -p udp --sport 53 -j CT --zone 1")
	}
	for _, server := range servers {
		t.add("OUTPUT -d %s -p udp --dport 53 -j CT --zone 2", server)
		t.add("PREROUTING -d %s -p udp --sport 53 -j CT --zone 1", server)
	}
	return t.text("raw")
}

// mangle drops what conntrack calls invalid.
func (c config) mangle() string {
	if !c.DropInvalid {
		return ""
	}
	return "*mangle\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
}
