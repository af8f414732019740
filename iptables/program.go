package iptables

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mesh-intercept/intercept/ruleset"
)

// A program is what stands in the kernel for a Ruleset in one address family:
// chains of our own in the tables of xtables, and jumps to them from the
// built-in chains. It is data; text.go writes it, backend.go loads it.
type program struct {
	family ruleset.Family
	tables []table // in the order of tableNames
}

// tableNames are the tables in the order they are written in. NAT comes last,
// so that what it redirects finds its conntrack zones.
var tableNames = []string{"raw", "mangle", "filter", "nat"}

type table struct {
	name   string
	chains []chain
	jumps  []jump
}

type chain struct {
	name  string
	rules []rule
}

// rule is what follows `-A CHAIN`.
type rule struct {
	words   []string // conditions and target, without the comment
	comment string
}

// jump is a rule of a built-in chain that sends packets to a chain of ours.
type jump struct {
	builtin, chain string
	comment        string
}

const (
	// prefix begins the names of all our chains.
	prefix = "MESH_"
	// specPrefix begins the name of an empty chain that every table of ours
	// has. The rest is the fingerprint of the table's content. A MESH_ chain
	// in a table without it is somebody else's.
	specPrefix = prefix + "SPEC_"
	// madePrefix begins the names of empty chains that say what of nf_tables
	// was made for our sake, and goes with the rest: the table itself, or a
	// base chain of it.
	madePrefix = prefix + "MADE_"
	madeTable  = madePrefix + "TABLE"
	// maxChainName is XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h,
	// less the final zero.
	maxChainName = 28
)

// compile lowers a Ruleset for one family. It decides nothing about packets.
func compile(rs ruleset.Ruleset, f ruleset.Family, d Dialect) (program, error) {
	if err := rs.Check(); err != nil {
		return program{}, err
	}
	if len(rs.Routes) > 0 {
		return program{}, fmt.Errorf("%w for routes here: package dataplane writes them", ruleset.ErrUnsupported)
	}
	p := program{family: f}
	if !slices.Contains(rs.Families, f) {
		return p, nil
	}
	homes, err := homes(rs)
	if err != nil {
		return program{}, err
	}
	for _, name := range tableNames {
		l := lowering{family: f, dialect: d, table: table{name: name}}
		for _, c := range rs.Chains {
			l.hooks = homes[c.Name][name]
			if len(l.hooks) == 0 {
				continue
			}
			if err := l.chain(c); err != nil {
				return program{}, err
			}
			if c.Hook == 0 {
				continue
			}
			if slices.ContainsFunc(l.table.jumps, func(j jump) bool { return j.builtin == builtin(c.Hook) }) {
				return program{}, fmt.Errorf("chain %s: %w for a second base chain at hook %s, priority %d", c.Name, ruleset.ErrUnsupported, c.Hook, c.Priority)
			}
			l.table.jumps = append(l.table.jumps, jump{builtin: builtin(c.Hook), chain: chainName(c.Name), comment: l.comment("Intercept")})
		}
		if l.zones && l.others != nil {
			// xt_CT leaves a packet alone that has a zone, so the first one
			// counts; but evaluation goes on, and other targets have effect.
			return program{}, fmt.Errorf("%w: xtables goes on after it has chosen a zone, so %s cannot be in its raw table, too", ruleset.ErrUnsupported, l.others)
		}
		if len(l.table.chains) == 0 {
			continue
		}
		if size := l.table.size(f); d == Minimal && size > maxMinimal {
			return program{}, fmt.Errorf("%s, table %s: %w: its rules take %d bytes, and kernels that need the minimal dialect take %d; exclude fewer ports and CIDRs, or use another backend",
				f, name, ruleset.ErrUnsupported, size, maxMinimal)
		}
		l.table.chains = append(l.table.chains, chain{name: specPrefix + fingerprint(l.table)})
		p.tables = append(p.tables, l.table)
	}
	return p, nil
}

func chainName(name string) string { return prefix + strings.ToUpper(name) }

func builtin(h ruleset.Hook) string { return strings.ToUpper(h.String()) }

// homes returns the tables that each chain stands in, and the hooks from which
// it is reached there: a base chain in the one with its hook and priority,
// another in those from which it is reached.
func homes(rs ruleset.Ruleset) (map[string]map[string][]ruleset.Hook, error) {
	out := map[string]map[string][]ruleset.Hook{}
	byName := map[string]ruleset.Chain{}
	for _, c := range rs.Chains {
		byName[c.Name] = c
	}
	var visit func(name, table string, from ruleset.Hook)
	visit = func(name, table string, from ruleset.Hook) {
		if slices.Contains(out[name][table], from) {
			return
		}
		if out[name] == nil {
			out[name] = map[string][]ruleset.Hook{}
		}
		out[name][table] = append(out[name][table], from)
		for _, r := range byName[name].Rules {
			if t, is := r.Target.(ruleset.Jump); is {
				visit(t.Chain, table, from)
			}
			if t, is := r.Target.(ruleset.Goto); is {
				visit(t.Chain, table, from)
			}
		}
	}
	for _, c := range rs.Chains {
		if c.Hook == 0 {
			continue
		}
		table, err := home(c)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		visit(c.Name, table, c.Hook)
	}
	return out, nil
}

// home returns the table whose built-in chain is at the hook and priority of c.
func home(c ruleset.Chain) (string, error) {
	switch {
	case c.Type == ruleset.NATChain && c.Priority == ruleset.PriorityDstNAT:
		return "nat", nil
	case c.Type == ruleset.FilterChain && c.Priority == ruleset.PriorityRaw:
		return "raw", nil
	case c.Type == ruleset.FilterChain && c.Priority == ruleset.PriorityMangle && c.Hook == ruleset.Prerouting,
		// In OUTPUT, xtables' mangle routes a packet again whose mark changed.
		c.Type == ruleset.RouteChain && c.Priority == ruleset.PriorityMangle && c.Hook == ruleset.Output:
		return "mangle", nil
	case c.Type == ruleset.FilterChain && c.Priority == ruleset.PriorityFilter && c.Hook != ruleset.Prerouting:
		return "filter", nil
	}
	return "", fmt.Errorf("%w: xtables has no table of type %s at hook %s, priority %d", ruleset.ErrUnsupported, c.Type, c.Hook, c.Priority)
}

// lowering builds one table.
type lowering struct {
	family  ruleset.Family
	dialect Dialect
	table   table
	hooks   []ruleset.Hook // from which the chain at hand is reached
	// zones is true if the table chooses zones, and others is a target that it
	// then cannot have.
	zones  bool
	others ruleset.Target
}

func (l *lowering) comment(s string) string {
	if l.dialect == Minimal {
		return ""
	}
	return s
}

// open begins a chain.
func (l *lowering) open(name string) (*chain, error) {
	switch {
	case len(name) > maxChainName:
		return nil, fmt.Errorf("chain name %s has %d bytes, over %d", name, len(name), maxChainName)
	case strings.HasPrefix(name, specPrefix) || strings.HasPrefix(name, madePrefix):
		return nil, fmt.Errorf("chain name %s is one that this backend needs", name)
	case !isPlain(name):
		return nil, fmt.Errorf("chain name %q: only letters, digits, _, - and . can be in it", name)
	}
	if slices.ContainsFunc(l.table.chains, func(c chain) bool { return c.name == name }) {
		return nil, fmt.Errorf("chain name %s is taken", name)
	}
	l.table.chains = append(l.table.chains, chain{name: name})
	return &l.table.chains[len(l.table.chains)-1], nil
}

// isPlain reports whether a name can stand in the text as it is.
func isPlain(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.", r)
	})
}

// chain lowers a chain. A rule that xtables cannot say in a few plain ones
// ends its chain, and the rules after it stand in another: NAME_1, NAME_2, …
func (l *lowering) chain(c ruleset.Chain) error {
	name := chainName(c.Name)
	parts := 0
	part := func() string {
		parts++
		return name + "_" + strconv.Itoa(parts)
	}
	here := name
	if _, err := l.open(here); err != nil {
		return err
	}
	for _, r := range c.Rules {
		lowered, ok := r.For(l.family)
		if !ok {
			continue
		}
		alternatives, err := l.alternatives(lowered)
		if err == nil && strings.ContainsFunc(r.Comment(), unicode.IsControl) {
			err = errors.New("its comment has a control character, which would end the line")
		}
		if err == nil {
			here, err = l.rule(here, part, alternatives, l.comment(r.Comment()))
		}
		if err != nil {
			return &ruleset.RuleError{Chain: c.Name, Rule: r.ID, Err: err}
		}
	}
	return nil
}

func (l *lowering) add(chainName string, comment string, words ...[]string) {
	i := slices.IndexFunc(l.table.chains, func(c chain) bool { return c.name == chainName })
	l.table.chains[i].rules = append(l.table.chains[i].rules, rule{slices.Concat(words...), comment})
}

// lowered is a rule in the pieces that rules of xtables are put together from.
type lowered struct {
	// protos are the -p of each alternative protocol; one, maybe empty, at least.
	protos [][]string
	// fixed stands in every rule.
	fixed []string
	// lists are conditions of which any item will do, one item a rule.
	lists [][][]string
	// nots are conditions of which no item may hold, one item a rule.
	nots   [][]string
	target []string
	// twoPorts is true if the rule asks for source and destination port.
	twoPorts bool
	// never is true if no packet satisfies the rule.
	never bool
}

// maxProduct is up to how many rules two lists are multiplied out to. Beyond
// it they get a chain each, so that the rules add up instead.
const maxProduct = 8

// rule appends a rule to the chain here and returns the chain in which the next
// one goes.
func (l *lowering) rule(here string, part func() string, a lowered, comment string) (string, error) {
	if a.never {
		return here, nil
	}
	product := 1
	for _, list := range a.lists {
		product *= len(list)
	}
	if len(a.nots) == 0 && (len(a.lists) <= 1 || product <= maxProduct) {
		l.multiply(here, a, comment)
		return here, nil
	}
	// What is on a negated list, and what is on none of an asked for one, goes
	// on with the rules that follow. They get a chain of their own, since a rule
	// further down the way has to get there without coming back.
	chains := []string{here}
	for range max(len(a.lists)-1, 0) {
		chains = append(chains, part())
	}
	rest := part()
	for _, name := range append(chains[1:], rest) {
		if _, err := l.open(name); err != nil {
			return "", err
		}
	}
	follow := l.comment(plumbing)
	for _, p := range a.protos {
		for _, item := range a.nots {
			l.add(here, follow, p, item, []string{"-g", rest})
		}
	}
	for i, name := range chains {
		last := i == len(chains)-1
		switch {
		case last && len(a.lists) == 0:
			l.multiply(name, a, comment)
		case last:
			l.multiply(name, lowered{protos: a.protos, fixed: a.fixed, lists: a.lists[i:], target: a.target}, comment)
		default:
			l.multiply(name, lowered{protos: a.protos, fixed: a.fixed, lists: a.lists[i : i+1], target: []string{"-g", chains[i+1]}}, follow)
		}
		if !last || !a.unconditional() {
			l.add(name, follow, []string{"-g", rest})
		}
	}
	return rest, nil
}

// unconditional reports whether the rule decides about every packet that is on
// none of its negated lists.
func (a lowered) unconditional() bool {
	return len(a.protos) == 1 && len(a.protos[0]) == 0 && len(a.fixed) == 0 && len(a.lists) == 0 &&
		slices.Contains([]string{"RETURN", "ACCEPT", "DROP"}, a.target[1])
}

// plumbing is the comment of rules that only lead from one part of a chain to
// another.
const plumbing = "go on"

// multiply appends a rule for each combination of the items of the lists.
func (l *lowering) multiply(here string, a lowered, comment string) {
	combinations := [][]string{nil}
	for _, list := range a.lists {
		var longer [][]string
		for _, c := range combinations {
			for _, item := range list {
				longer = append(longer, slices.Concat(c, item))
			}
		}
		combinations = longer
	}
	for _, p := range a.protos {
		for _, c := range combinations {
			l.add(here, comment, p, a.fixed, c, a.target)
		}
	}
}

// alternatives takes a rule apart.
func (l *lowering) alternatives(r ruleset.Rule) (lowered, error) {
	a := lowered{protos: [][]string{nil}}
	kinds := map[reflect.Type]bool{}
	kindOf := func(m ruleset.Match) reflect.Type {
		if n, is := m.(ruleset.Not); is {
			m = n.Match
		}
		return reflect.TypeOf(m)
	}
	ports := 0
	for _, m := range r.Match {
		if kind := kindOf(m); kind == reflect.TypeFor[ruleset.SrcPort]() || kind == reflect.TypeFor[ruleset.DstPort]() {
			ports++
		}
	}
	a.twoPorts = ports == 2
	for _, m := range r.Match {
		kind := kindOf(m)
		if kinds[kind] {
			// xtables refuses the second -d, and iptables-nft 1.8.9 drops a second --dport.
			return lowered{}, fmt.Errorf("%w for two conditions %s in a rule", ruleset.ErrUnsupported, kind)
		}
		kinds[kind] = true
		if err := l.match(&a, m); err != nil {
			return lowered{}, err
		}
	}
	var err error
	a.target, err = l.target(r)
	return a, err
}

// match lowers a condition into a.
func (l *lowering) match(a *lowered, m ruleset.Match) error {
	negated := false
	if n, is := m.(ruleset.Not); is {
		m, negated = n.Match, true
	}
	// fix is for what one rule can say either way.
	fix := func(module, option string, values ...string) {
		if module != "" {
			a.fixed = append(a.fixed, "-m", module)
		}
		if negated {
			a.fixed = append(a.fixed, "!")
		}
		a.fixed = append(append(a.fixed, option), values...)
	}
	// list is for what takes a rule for each item.
	list := func(items [][]string, one func(item []string)) {
		switch {
		case len(items) == 1:
			one(items[0])
		case negated:
			a.nots = append(a.nots, items...)
		default:
			a.lists = append(a.lists, items)
		}
	}
	switch m := m.(type) {
	case ruleset.Proto:
		var items [][]string
		for _, p := range slices.Compact(slices.Sorted(slices.Values(m))) {
			if _, err := strconv.Atoi(p.String()); err == nil {
				// -p 0 is every protocol, and others are listed by names that
				// the system has for them.
				return fmt.Errorf("%w for protocol %s: this backend knows TCP, UDP and ICMP", ruleset.ErrUnsupported, p)
			}
			items = append(items, []string{"-p", protocolName(p)})
		}
		switch {
		case len(items) == 1:
			fix("", "-p", items[0][1])
		case negated:
			a.nots = append(a.nots, items...)
		default:
			a.protos = items
		}
	case ruleset.SrcPort:
		l.ports(a, "sport", ruleset.Ports(m), negated)
	case ruleset.DstPort:
		l.ports(a, "dport", ruleset.Ports(m), negated)
	case ruleset.Src:
		l.addresses(a, "-s", ruleset.CIDRs(m), negated)
	case ruleset.Dst:
		l.addresses(a, "-d", ruleset.CIDRs(m), negated)
	case ruleset.InInterface:
		name, err := interfaceName(string(m))
		if err != nil {
			return err
		}
		fix("", "-i", name)
	case ruleset.OutInterface:
		name, err := interfaceName(string(m))
		if err != nil {
			return err
		}
		fix("", "-o", name)
	case ruleset.UID:
		list(owners("--uid-owner", ruleset.IDs(m)), func(item []string) { a.fixed = append(a.fixed, item...) })
	case ruleset.GID:
		list(owners("--gid-owner", ruleset.IDs(m)), func(item []string) { a.fixed = append(a.fixed, item...) })
	case ruleset.MetaMark:
		fix("mark", "--mark", masked(m.Value, m.Mask))
	case ruleset.ConnMark:
		fix("connmark", "--mark", masked(m.Value, m.Mask))
	case ruleset.CTState:
		if all := ruleset.CTInvalid | ruleset.CTNew | ruleset.CTRelated | ruleset.CTEstablished; m == 0 || m&^all != 0 {
			return fmt.Errorf("%w for connection state %#x", ruleset.ErrUnsupported, uint8(m))
		}
		fix("conntrack", "--ctstate", states(m))
	case ruleset.TCPFlags:
		if (m.Mask|m.Value)&^63 != 0 {
			return fmt.Errorf("%w for TCP flags %#x: xtables knows six", ruleset.ErrUnsupported, m.Mask|m.Value)
		}
		// Not -m tcp: -p loads it, and iptables-nft 1.8.9 makes one of two.
		fix("", "--tcp-flags", flagNames(m.Mask), flagNames(m.Value))
	case ruleset.IsFamily, ruleset.Not:
		return fmt.Errorf("%w for match %T here", ruleset.ErrUnsupported, m) // Rule.For has taken the one out, the lines above the other
	default:
		return fmt.Errorf("%w for match %T", ruleset.ErrUnsupported, m)
	}
	return nil
}

// protocolName is what iptables-save calls a protocol.
func protocolName(p ruleset.Protocol) string { return p.String() }

// interfaceName writes a glob the way xtables does. A name that ends in its
// own sign for one would match more than itself, and others would not be read
// as one word.
func interfaceName(pattern string) (string, error) {
	stem, isGlob := strings.CutSuffix(pattern, "*")
	if stem == "" || strings.HasPrefix(stem, "-") || strings.HasSuffix(stem, "+") ||
		strings.ContainsFunc(stem, func(r rune) bool { return r <= ' ' || strings.ContainsRune("\"\\'!*", r) }) {
		return "", fmt.Errorf("%w for interface %q", ruleset.ErrUnsupported, pattern)
	}
	if isGlob {
		stem += "+"
	}
	return stem, nil
}

func masked(value, mask uint32) string {
	if mask == 1<<32-1 {
		return fmt.Sprintf("%#x", value)
	}
	return fmt.Sprintf("%#x/%#x", value, mask)
}

func states(s ruleset.CTState) string {
	var names []string
	for _, b := range []struct {
		bit  ruleset.CTState
		name string
	}{{ruleset.CTInvalid, "INVALID"}, {ruleset.CTNew, "NEW"}, {ruleset.CTRelated, "RELATED"}, {ruleset.CTEstablished, "ESTABLISHED"}} {
		if s&b.bit != 0 {
			names = append(names, b.name)
		}
	}
	return strings.Join(names, ",")
}

func flagNames(f uint8) string {
	var names []string
	for _, b := range tcpFlags {
		if f&b.bit != 0 {
			names = append(names, b.name)
		}
	}
	if len(names) == 0 {
		return "NONE"
	}
	return strings.Join(names, ",")
}

var tcpFlags = []struct {
	bit  uint8
	name string
}{{ruleset.FIN, "FIN"}, {ruleset.SYN, "SYN"}, {ruleset.RST, "RST"}, {ruleset.PSH, "PSH"}, {ruleset.ACK, "ACK"}, {1 << 5, "URG"}}

// ports lowers a list of ports. multiport has room for fifteen, and a range
// takes the room of two (XT_MULTI_PORTS of linux/netfilter/xt_multiport.h).
func (l *lowering) ports(a *lowered, option string, ports ruleset.Ports, negated bool) {
	words := func(p ruleset.PortRange) string {
		if p.First == p.Last {
			return strconv.Itoa(int(p.First))
		}
		return fmt.Sprintf("%d:%d", p.First, p.Last)
	}
	const room = 15
	var chunks [][]string
	used := room
	for _, p := range ports.Merge() {
		size := 1
		if p.First != p.Last {
			size = 2
		}
		if l.dialect == Minimal || used+size > room {
			chunks = append(chunks, nil)
			used = 0
		}
		chunks[len(chunks)-1] = append(chunks[len(chunks)-1], words(p))
		used += size
	}
	not := []string{}
	if negated && len(chunks) == 1 {
		not = []string{"!"}
	}
	var items [][]string
	for _, chunk := range chunks {
		if len(chunk) == 1 && (!a.twoPorts || l.dialect == Minimal) {
			// The module of a port is the protocol's, which -p loads. But after
			// multiport, --sport would be taken for the beginning of --sports.
			items = append(items, append(slices.Clone(not), "--"+option, chunk[0]))
		} else {
			items = append(items, slices.Concat([]string{"-m", "multiport"}, not, []string{"--" + option + "s", strings.Join(chunk, ",")}))
		}
	}
	switch {
	case len(items) == 1:
		a.fixed = append(a.fixed, items[0]...)
	case negated:
		// The protocol has to stand before the port in these rules, too.
		p := protoWords(a.fixed)
		for _, item := range items {
			a.nots = append(a.nots, slices.Concat(p, item))
		}
	default:
		a.lists = append(a.lists, items)
	}
}

// protoWords returns the -p of the words, if there is one.
func protoWords(words []string) []string {
	if i := slices.Index(words, "-p"); i >= 0 && (i == 0 || words[i-1] != "!") {
		return words[i : i+2]
	}
	return nil
}

// addresses lowers a list of prefixes of the family.
func (l *lowering) addresses(a *lowered, option string, cidrs ruleset.CIDRs, negated bool) {
	var items [][]string
	for _, r := range cidrs.Merge() {
		for _, p := range r.Prefixes() {
			items = append(items, []string{option, p.String()})
		}
	}
	switch {
	case len(items) == 1 && strings.HasSuffix(items[0][1], "/0"):
		// Every address. xtables keeps no condition for it.
		a.never = a.never || negated
	case len(items) == 1 && negated:
		a.fixed = append(a.fixed, "!", option, items[0][1])
	case len(items) == 1:
		a.fixed = append(a.fixed, items[0]...)
	case negated:
		a.nots = append(a.nots, items...)
	default:
		a.lists = append(a.lists, items)
	}
}

func owners(option string, ids ruleset.IDs) [][]string {
	var items [][]string
	for _, r := range ids.Merge() {
		items = append(items, []string{"-m", "owner", option, r.String()})
	}
	return items
}

// target lowers what happens to a packet.
func (l *lowering) target(r ruleset.Rule) ([]string, error) {
	t := r.Target
	switch t.(type) {
	case ruleset.Accept, ruleset.Return, ruleset.Goto, ruleset.CTZone:
	case ruleset.Drop, ruleset.Reject, ruleset.Jump, ruleset.Redirect, ruleset.DNAT, ruleset.TProxy,
		ruleset.SetMark, ruleset.SetConnMark:
		if l.table.name == "raw" {
			l.others = t
		}
	}
	switch t := t.(type) {
	case ruleset.Accept:
		return []string{"-j", "ACCEPT"}, nil
	case ruleset.Return:
		return []string{"-j", "RETURN"}, nil
	case ruleset.Drop:
		if l.table.name == "nat" {
			return nil, fmt.Errorf("%w: xtables does not drop in its nat table", ruleset.ErrUnsupported)
		}
		return []string{"-j", "DROP"}, nil
	case ruleset.Reject:
		if l.table.name != "filter" {
			return nil, fmt.Errorf("%w: xtables rejects in its filter table alone", ruleset.ErrUnsupported)
		}
		switch {
		case r.OnlyTCP():
			return []string{"-j", "REJECT", "--reject-with", "tcp-reset"}, nil
		case l.family == ruleset.IPv4:
			return []string{"-j", "REJECT", "--reject-with", "icmp-port-unreachable"}, nil
		}
		return []string{"-j", "REJECT", "--reject-with", "icmp6-port-unreachable"}, nil
	case ruleset.Jump:
		return []string{"-j", chainName(t.Chain)}, nil
	case ruleset.Goto:
		return []string{"-g", chainName(t.Chain)}, nil
	case ruleset.Redirect:
		words := []string{"-j", "REDIRECT", "--to-ports", t.Ports.String()}
		if t.Ports.First != t.Ports.Last {
			// Without it all connections get the first port.
			words = append(words, "--random")
		}
		return words, nil
	case ruleset.DNAT:
		return []string{"-j", "DNAT", "--to-destination", t.To.String()}, nil
	case ruleset.TProxy:
		if l.table.name != "mangle" || slices.Contains(l.hooks, ruleset.Output) {
			return nil, fmt.Errorf("%w: xtables has TPROXY in its mangle table's PREROUTING alone", ruleset.ErrUnsupported)
		}
		return []string{"-j", "TPROXY", "--on-port", strconv.Itoa(int(t.Port)), "--tproxy-mark", setMark(t.Mark.Value, t.Mark.Mask)}, nil
	case ruleset.SetMark:
		return []string{"-j", "MARK", "--set-xmark", setMark(t.Value, t.Mask)}, nil
	case ruleset.SetConnMark:
		return []string{"-j", "CONNMARK", "--set-xmark", setMark(t.Value, t.Mask)}, nil
	case ruleset.CTZone:
		if l.table.name != "raw" {
			return nil, fmt.Errorf("%w: xtables chooses zones in its raw table alone", ruleset.ErrUnsupported)
		}
		l.zones = true
		return []string{"-j", "CT", "--zone", strconv.Itoa(int(t.Zone))}, nil
	}
	return nil, fmt.Errorf("%w for target %T", ruleset.ErrUnsupported, t)
}

// setMark writes a mark to set. xtables clears the bits of the mask and then
// flips those of the value: those outside the mask would depend on what was there.
func setMark(value, mask uint32) string { return fmt.Sprintf("%#x/%#x", value, mask|value) }

// fingerprint need not withstand an adversary: who can write the table can
// write its fingerprint, and the content is compared as well.
func fingerprint(t table) string {
	h := fnv.New64a()
	var b strings.Builder
	t.write(&b, false)
	_, _ = io.WriteString(h, b.String()) // a hash.Hash never fails
	return fmt.Sprintf("%016x", h.Sum64())
}

// maxMinimal is how much of a table gVisor's kernel takes at once, in bytes
// (setsockopt of IPT_SO_SET_REPLACE).
const maxMinimal = 8 << 10

// size is what the table takes in legacy xtables, beside other people's rules:
// struct ipt_entry or ip6t_entry, then matches and a target, each with a
// header of 32 bytes and rounded up to 8 (linux/netfilter/x_tables.h).
func (t table) size(f ruleset.Family) int {
	entry := 112
	if f == ruleset.IPv6 {
		entry = 168
	}
	const header, standard, errorTarget = 32, 40, 64
	builtins := map[string]int{"raw": 2, "mangle": 5, "filter": 3, "nat": 4}[t.name]
	size := builtins*(entry+standard) + entry + errorTarget
	size += len(t.jumps) * (entry + standard)
	size += entry + errorTarget + entry + standard // the chain of the fingerprint
	for _, c := range t.chains {
		size += entry + errorTarget + entry + standard
		for _, r := range c.rules {
			size += entry + r.size(f, header, standard)
		}
	}
	return size
}

func (r rule) size(f ruleset.Family, header, standard int) int {
	matches, ports := 0, 0
	target := standard
	for i, w := range r.words {
		switch w {
		case "--sport", "--dport", "--tcp-flags":
			ports = header + 16 // one match, the protocol's
		case "--uid-owner", "--gid-owner":
			matches += header + 24
		case "--mark":
			matches += header + 16
		case "--ctstate":
			matches += header + 168
		case "-j":
			switch r.words[i+1] {
			case "REDIRECT":
				target = header + 24
				if f == ruleset.IPv6 {
					target = header + 40
				}
			case "DNAT":
				target = header + 48
			case "CT":
				target = header + 72
			case "MARK", "CONNMARK", "TPROXY", "REJECT":
				target = header + 40
			}
		}
	}
	return matches + ports + target
}
