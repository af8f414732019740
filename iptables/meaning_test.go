package iptables

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// machine does what xtables does with the text that Render writes: it knows
// built-in chains, -j and -g, what RETURN goes back to, and what each option
// asks. It shares nothing with the code under test, and refuses every word and
// every order of words that iptables-restore would refuse.
type machine struct {
	tables map[string]map[string][]xrule
	// standard is true if rules have comments.
	standard bool
	// sets are the lists of the rules that are sets, by their names.
	sets map[string]ruleset.Match
}

// xrule is a rule, taken apart.
type xrule struct {
	text       string
	conditions []xcondition
	comment    string
	target     []string // -j or -g, its name, and its options
}

type xcondition struct {
	module, option string
	// match is which -m of the rule it belongs to, and state is true if that one asks for conntrack's state, too.
	match   int
	state   bool
	values  []string
	negated bool
}

// load reads the input of one family.
func load(text string) (*machine, error) {
	m := &machine{tables: map[string]map[string][]xrule{}}
	var table map[string][]xrule
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		fail := func(why string) error { return fmt.Errorf("%s: %q", why, line) }
		switch {
		case strings.HasPrefix(line, "*"):
			if m.tables[line[1:]] != nil {
				return nil, fail("a table twice")
			}
			table = map[string][]xrule{}
			m.tables[line[1:]] = table
		case strings.HasPrefix(line, ":"):
			name, rest, _ := strings.Cut(line[1:], " ")
			if rest != "- [0:0]" || !strings.HasPrefix(name, "MESH_") || len(name) > 28 {
				return nil, fail("not a chain of ours")
			}
			if _, dup := table[name]; dup {
				return nil, fail("a chain twice")
			}
			table[name] = nil
		case line == "COMMIT":
			for name, rules := range table {
				for _, r := range rules {
					if to := r.target[1]; strings.HasPrefix(to, "MESH_") {
						if _, ok := table[to]; !ok {
							return nil, fmt.Errorf("%s leads to %s, which is not there", name, to)
						}
					}
				}
			}
			table = nil
		default:
			words, err := shellWords(line)
			if err != nil {
				return nil, fail(err.Error())
			}
			chain, rest := words[1], words[2:]
			switch {
			case words[0] == "-A":
				if _, ok := table[chain]; !ok {
					return nil, fail("no such chain")
				}
			case words[0] == "-I" && words[2] == "1":
				rest = words[3:]
			default:
				return nil, fail("neither -A nor -I first")
			}
			r, err := readRule(rest)
			if err != nil {
				return nil, fail(err.Error())
			}
			r.text = line
			if r.comment != "" {
				m.standard = true
			} else if n := len(table[chain]); n > 0 && slices.Equal(table[chain][n-1].target, r.target) {
				r.comment = table[chain][n-1].comment // another item of its list
			}
			table[chain] = append(table[chain], r)
		}
	}
	return m, nil
}

// parts counts the chains that hold the rest of another one.
func (m *machine) parts() (n int) {
	for _, table := range m.tables {
		for name := range table {
			if i := strings.LastIndexByte(name, '_'); name[i+1] >= '1' && name[i+1] <= '9' && !strings.Contains(name, "SPEC") {
				n++
			}
		}
	}
	return n
}

// shellWords splits as iptables-restore does.
func shellWords(line string) ([]string, error) {
	var words []string
	for line != "" {
		switch line[0] {
		case ' ':
			line = line[1:]
		case '"':
			word, i := "", 1
			for ; i < len(line) && line[i] != '"'; i++ {
				if line[i] == '\\' {
					i++
				}
				word += line[i : i+1]
			}
			if i >= len(line) {
				return nil, errors.New("a quote that does not end")
			}
			words, line = append(words, word), line[i+1:]
		default:
			word, rest, _ := strings.Cut(line, " ")
			words, line = append(words, word), rest
		}
	}
	return words, nil
}

func readRule(words []string) (xrule, error) {
	var r xrule
	module := ""
	proto := ""
	modules := map[string]bool{}
	seen := map[string]bool{}
	match := 0
	bare := "" // a match that has not been asked anything
	for i := 0; i < len(words); {
		if words[i] == "-j" || words[i] == "-g" {
			if bare != "" {
				return r, fmt.Errorf("-m %s without a condition", bare)
			}
			r.target = words[i:]
			for i, c := range r.conditions {
				r.conditions[i].state = slices.ContainsFunc(r.conditions, func(o xcondition) bool {
					return o.option == "--ctstate" && o.match == c.match
				})
			}
			return r, nil
		}
		c := xcondition{}
		if words[i] == "!" {
			c.negated = true
			i++
		}
		c.option = words[i]
		i++
		n := 1
		switch c.option {
		case "--tcp-flags", "--match-set":
			n = 2
		case "--nowildcard", "--transparent":
			n = 0
		}
		if i+n > len(words) {
			return r, fmt.Errorf("%s without its value", c.option)
		}
		c.values = words[i : i+n]
		i += n
		needs := map[string]string{
			"--dports": "multiport", "--sports": "multiport", "--uid-owner": "owner", "--gid-owner": "owner",
			"--ctstate": "conntrack", "--ctdir": "conntrack", "--comment": "comment", "--match-set": "set",
			"--nowildcard": "socket", "--transparent": "socket", "--dst-type": "addrtype", "--length": "length",
			"--u32": "u32", "--icmp-type": "icmp", "--icmpv6-type": "icmp6",
		}[c.option]
		switch c.option {
		case "-m":
			if bare != "" && bare != "multiport" {
				return r, fmt.Errorf("-m %s without a condition", bare)
			}
			module = c.values[0]
			modules[module] = true
			match++
			bare = module
			continue
		case "-p":
			if !c.negated {
				proto = c.values[0]
			}
		case "-s", "-d", "-i", "-o":
		case "--comment":
			r.comment = c.values[0]
			if module != needs {
				return r, errors.New("a comment without its module")
			}
			bare = ""
			continue
		case "--dport", "--sport", "--dports", "--sports":
			if proto != "tcp" && proto != "udp" {
				return r, errors.New("a port without a protocol before it")
			}
			// getopt_long(3) takes the beginning of an option for the option, as
			// long as the protocol's module, which has this one, is not there.
			if needs == "" && modules["multiport"] && !modules[proto] {
				return r, errors.New("a port that multiport would take for its own")
			}
			if needs == "" {
				modules[proto] = true
			}
			if needs != "" && seen["multiport"] {
				return r, errors.New("two conditions for one multiport")
			}
		case "--tcp-flags", "--tcp-option":
			if proto != "tcp" {
				return r, errors.New("what is TCP's without the protocol")
			}
			modules[proto] = true
		case "--icmp-type", "--icmpv6-type":
			if want := map[string]string{"--icmp-type": "icmp", "--icmpv6-type": "ipv6-icmp"}[c.option]; proto != want {
				return r, fmt.Errorf("%s without its protocol before it", c.option)
			}
		case "--nowildcard", "--transparent":
			if c.negated {
				return r, errors.New("a negated flag")
			}
		case "--uid-owner", "--gid-owner", "--ctstate", "--ctdir", "--dst-type", "--length", "--u32", "--match-set":
		case "--mark":
			if module != "mark" && module != "connmark" {
				return r, errors.New("a mark of what?")
			}
		default:
			return r, fmt.Errorf("unknown option %s", c.option)
		}
		if needs != "" && module != needs {
			return r, fmt.Errorf("%s after -m %q", c.option, module)
		}
		c.module, c.match = module, match
		if needs != "" || c.option == "--mark" {
			bare = ""
		}
		key := c.option
		switch key {
		case "--mark":
			key = module + key
		case "--ctstate", "--uid-owner", "--match-set": // each match of conntrack has one, and each of owner
			key += strconv.Itoa(match)
		}
		if seen[key] {
			return r, fmt.Errorf("%s twice", key)
		}
		seen[key] = true
		r.conditions = append(r.conditions, c)
	}
	return r, errors.New("no target")
}

// run is one packet's way through the tables.
type run struct {
	*machine
	p      ruleset.Packet
	out    ruleset.Trace
	silent bool
	zoned  bool
	steps  int
	// builtin is the chain of xtables' own that led here.
	builtin string
}

// trace says what xtables does with the packet.
func (m *machine) trace(p ruleset.Packet) (ruleset.Trace, error) {
	r, err := m.follow(p)
	return r.out, err
}

// follow takes the packet through the tables.
func (m *machine) follow(p ruleset.Packet) (run, error) {
	if p.State == 0 {
		p.State = ruleset.CTNew
	}
	if p.Flags == 0 {
		p.Flags = ruleset.SYN
	}
	// A packet that says nothing of its lengths has no options and no data.
	p.TCPHeader = cmp.Or(p.TCPHeader, 5)
	if ip := 20; p.Length == 0 {
		if p.Dst.Addr().Is6() {
			ip = 40
		}
		p.Length = uint16(ip) + 4*uint16(p.TCPHeader)
	}
	r := run{machine: m, p: p}
	type stop struct{ table, chain string }
	way := []stop{{"raw", "PREROUTING"}, {"mangle", "PREROUTING"}, {"nat", "PREROUTING"}}
	switch dst := p.Dst.Addr(); {
	case p.Hook == ruleset.Output:
		way = []stop{{"raw", "OUTPUT"}, {"mangle", "OUTPUT"}, {"nat", "OUTPUT"}, {"filter", "OUTPUT"}}
		if p.Interface == "lo" {
			way = append(way, stop{"mangle", "PREROUTING"}, stop{"filter", "INPUT"})
		}
	case p.Interface != "lo" && dst == netip.IPv6Loopback():
		way = nil // ip6_rcv_core drops it before all hooks
	case p.Interface != "lo" && dst.IsLoopback():
		// A martian: ip_route_input_slow drops it here.
	case p.Foreign:
		way = append(way, stop{"filter", "FORWARD"})
	default:
		way = append(way, stop{"filter", "INPUT"})
	}
	for i, s := range way {
		arrived := p.Hook == ruleset.Output && i >= 4
		switch {
		case s.table == "nat" && (p.State&(ruleset.CTNew|ruleset.CTRelated) == 0 || p.Known || p.DNAT):
			continue // asked once for an entry
		case i < 2 && p.DNAT && !p.Reply:
			continue // its destination was another one here
		}
		if arrived {
			r.p.Hook, r.p.Owner = ruleset.Prerouting, nil
		}
		r.silent = arrived || s.table == "raw" || s == stop{"mangle", "OUTPUT"} || s.table == "filter" && r.out.Rule != ""
		r.builtin = s.chain
		v, err := r.chain(m.tables[s.table], s.chain)
		if err != nil {
			return r, fmt.Errorf("table %s: %w", s.table, err)
		}
		if v == stops {
			break
		}
	}
	return r, nil
}

type ends uint8

const (
	returns ends = iota // to where the last -j was
	accepts             // the table lets the packet on
	stops               // the packet's way is over
)

func (r *run) chain(table map[string][]xrule, name string) (ends, error) {
	for _, rule := range table[name] {
		if r.steps++; r.steps > 100_000 {
			return 0, errors.New("it goes round in circles")
		}
		ok := true
		for _, c := range rule.conditions {
			holds, err := r.holds(c)
			if err != nil {
				return 0, fmt.Errorf("%q: %w", rule.text, err)
			}
			if holds == c.negated {
				ok = false
				break
			}
		}
		if !ok {
			continue
		}
		v, done, err := r.target(table, rule)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", rule.text, err)
		}
		if done {
			return v, nil
		}
	}
	return returns, nil
}

// onPort returns the port at which a table's transparent sockets listen.
func onPort(table map[string][]xrule) ruleset.PortRange {
	port := ruleset.Port(15006)
	for _, rules := range table {
		for _, r := range rules {
			if i := slices.Index(r.target, "--on-port"); i >= 0 {
				port, _ = ruleset.ParsePortRange(r.target[i+1])
			}
		}
	}
	return port
}

func (r *run) decide(rule xrule, f ruleset.Fate) {
	r.out.Fate = f
	r.out.Rule, r.out.Reason = ruleset.ParseComment(rule.comment)
}

func (r *run) target(table map[string][]xrule, rule xrule) (_ ends, done bool, _ error) {
	options := map[string]string{}
	for i := 2; i < len(rule.target); i++ {
		name := rule.target[i]
		options[name] = ""
		if i+1 < len(rule.target) && !strings.HasPrefix(rule.target[i+1], "--") {
			i++
			options[name] = rule.target[i]
		}
	}
	switch name := rule.target[1]; name {
	case "ACCEPT":
		for i := range rule.conditions {
			if rule.conditions[i].option == "--transparent" {
				r.decide(rule, ruleset.Fate{Action: ruleset.Transparent, Ports: onPort(table)})
				return stops, true, nil
			}
		}
		r.decide(rule, ruleset.Fate{})
		return accepts, true, nil
	case "RETURN":
		if !r.silent && rule.comment != plumbing { // which comes back from what a rule asks in a chain of its own
			r.decide(rule, ruleset.Fate{})
		}
		return returns, true, nil
	case "DROP":
		r.decide(rule, ruleset.Fate{Action: ruleset.Dropped})
		return stops, true, nil
	case "REJECT":
		if reset := options["--reject-with"] == "tcp-reset"; reset &&
			(!strings.Contains(rule.text, "-p tcp ") || strings.Contains(rule.text, "! -p tcp ")) {
			return 0, false, errors.New("a reset of what may not be TCP")
		}
		r.decide(rule, ruleset.Fate{Action: ruleset.Rejected})
		return stops, true, nil
	case "REDIRECT":
		ports, err := ruleset.ParsePortRange(options["--to-ports"])
		if _, random := options["--random"]; random != (ports.First != ports.Last) {
			err = errors.New("spread over one port, or not over several")
		}
		r.decide(rule, ruleset.Fate{Action: ruleset.Redirected, Ports: ports})
		return stops, true, err
	case "DNAT":
		if options["--to-destination"] == ":1-65535" { // stays as it is
			r.decide(rule, ruleset.Fate{})
			return accepts, true, nil
		}
		to, err := netip.ParseAddrPort(options["--to-destination"])
		r.decide(rule, ruleset.Fate{Action: ruleset.Translated, To: to})
		return stops, true, err
	case "TPROXY":
		port, err := ruleset.ParsePortRange(options["--on-port"])
		r.decide(rule, ruleset.Fate{Action: ruleset.Transparent, Ports: port})
		return stops, true, err
	case "CT":
		zone, err := strconv.ParseUint(options["--zone-orig"], 10, 16)
		if !r.zoned && !r.p.Reply { // xt_ct_target of net/netfilter/xt_CT.c; an answer is found without it
			r.out.Zone = uint16(zone)
		}
		r.zoned = true
		return 0, false, err
	case "MARK":
		// --set-xmark clears the bits of the mask and flips those of the value.
		value, mask, err := markOf(options["--set-xmark"])
		r.p.Mark = r.p.Mark&^mask ^ value
		return 0, false, err
	case "CONNMARK":
		value, mask, err := markOf(options["--set-xmark"])
		r.p.ConnMark = r.p.ConnMark&^mask ^ value
		return 0, false, err
	default:
		if !strings.HasPrefix(name, "MESH_") {
			return 0, false, fmt.Errorf("unknown target %s", name)
		}
		if id, _ := ruleset.ParseComment(rule.comment); id != "" && isFlipper(table[name]) && !r.silent {
			r.decide(rule, ruleset.Fate{}) // it leaves, and takes the flag away
		}
		v, err := r.chain(table, name)
		// After -g a chain that returns does so for the one it was reached from.
		return v, v != returns || rule.target[0] == "-g", err
	}
}

// isFlipper tells the chain that does nothing but flip a bit of the mark.
func isFlipper(rules []xrule) bool {
	return len(rules) == 1 && rules[0].target[1] == "MARK" && rules[0].comment == plumbing
}

// markOf reads VALUE or VALUE/MASK.
func markOf(s string) (value, mask uint32, err error) {
	v, m, hasMask := strings.Cut(s, "/")
	a, err1 := strconv.ParseUint(v, 0, 32)
	b := uint64(1<<32 - 1)
	var err2 error
	if hasMask {
		b, err2 = strconv.ParseUint(m, 0, 32)
	}
	return uint32(a), uint32(b), errors.Join(err1, err2)
}

// wire returns the packet as it stands in the kernel: an IP header without options, and behind it the transport's, and
// what an ICMP error quotes.
func (r *run) wire() []byte {
	p := r.p
	var transport []byte
	switch p.Protocol {
	case ruleset.TCP:
		transport = make([]byte, 4*max(int(p.TCPHeader), 5))
		transport[12], transport[13] = p.TCPHeader<<4, p.Flags
	case ruleset.UDP:
		transport = make([]byte, 8)
	case ruleset.ICMP, ruleset.ICMPv6:
		// An echo request, an error, or the answer to a request.
		kinds := map[ruleset.Protocol][4]byte{ruleset.ICMP: {8, 3, 0, 42}, ruleset.ICMPv6: {128, 1, 129, 160}}[p.Protocol]
		transport = make([]byte, 8)
		switch {
		case p.Echo:
			transport[0] = kinds[0]
		case p.ExtendedEcho:
			transport[0] = kinds[3]
		case p.Quotes != 0:
			transport[0] = kinds[1]
			datagram := make([]byte, 8)
			binary.BigEndian.PutUint16(datagram, p.Quotes)
			transport = append(transport, header(p.Dst.Addr(), p.Src.Addr(), ruleset.UDP, 0, datagram)...)
		default:
			transport[0] = kinds[2]
		}
	}
	if p.Protocol == ruleset.TCP || p.Protocol == ruleset.UDP {
		binary.BigEndian.PutUint16(transport, p.Src.Port())
		binary.BigEndian.PutUint16(transport[2:], p.Dst.Port())
	}
	return header(p.Src.Addr(), p.Dst.Addr(), p.Protocol, p.Length, transport)
}

// header puts an IP header before content. length is that of the whole, as the header says it; zero: as it is.
func header(src, dst netip.Addr, proto ruleset.Protocol, length uint16, content []byte) []byte {
	var ip []byte
	if src.Is4() {
		ip = make([]byte, 12)
		ip[0], ip[8], ip[9] = 0x45, 64, byte(proto)
		binary.BigEndian.PutUint16(ip[2:], cmp.Or(length, uint16(20+len(content))))
	} else {
		ip = make([]byte, 8)
		ip[0], ip[6], ip[7] = 0x60, byte(proto), 64
		binary.BigEndian.PutUint16(ip[4:], cmp.Or(length, uint16(40+len(content)))-40)
	}
	return slices.Concat(ip, src.AsSlice(), dst.AsSlice(), content)
}

// length is what xt_length compares.
func length(packet []byte) uint64 {
	if packet[0]>>4 == 4 {
		return uint64(binary.BigEndian.Uint16(packet[2:]))
	}
	return 40 + uint64(binary.BigEndian.Uint16(packet[4:]))
}

// u32 does what net/netfilter/xt_u32.c does: TEST && TEST …, a TEST being LOCATION = RANGE, RANGE …, and a LOCATION a
// place in the packet and what to do with the four bytes there.
func u32(tests string, packet []byte) (bool, error) {
	number := func(s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 0, 32)
		return uint32(n), err
	}
	all := true
	parts := strings.Split(tests, "&&")
	if len(parts) > 11 {
		return false, errors.New("more tests than there is room for")
	}
	for _, test := range parts {
		location, ranges, ok := strings.Cut(test, "=")
		if !ok {
			return false, errors.New("a test without a value")
		}
		// What is outside the packet makes the test fail, but the rest of it has to be readable all the same.
		at, inside := uint64(0), true
		read := func(offset uint32) (value uint32) {
			if from := at + uint64(offset); from+4 <= uint64(len(packet)) {
				return binary.BigEndian.Uint32(packet[from:])
			}
			inside = false
			return 0
		}
		value, first, operations := uint32(0), true, 0
		for op := ""; ; operations++ {
			end := strings.IndexAny(location, "&<>@")
			word := location
			if end >= 0 {
				word = location[:end]
			}
			n, err := number(word)
			if err != nil {
				return false, err
			}
			switch {
			case first:
				value, first = read(n), false
			case op == "&":
				value &= n
			case op == "<<":
				value <<= n
			case op == ">>":
				value >>= n
			case op == "@":
				at += uint64(value)
				value = read(n)
			default:
				return false, fmt.Errorf("unknown operation %q", op)
			}
			if end < 0 {
				break
			}
			size := 1
			if strings.ContainsAny(location[end:end+1], "<>") {
				size = 2
			}
			op, location = location[end:min(end+size, len(location))], location[min(end+size, len(location)):]
		}
		if operations > 10 {
			return false, errors.New("more operations than there is room for")
		}
		among := false
		for part := range strings.SplitSeq(ranges, ",") {
			low, high, isRange := strings.Cut(part, ":")
			if !isRange {
				high = low
			}
			a, err1 := number(low)
			b, err2 := number(high)
			if err := errors.Join(err1, err2); err != nil {
				return false, err
			}
			among = among || a <= value && value <= b
		}
		all = all && inside && among
	}
	return all, nil
}

func (r *run) holds(c xcondition) (bool, error) {
	value := strings.Join(c.values[:min(len(c.values), 1)], "")
	port := func(p uint16) (bool, error) {
		parts := strings.Split(value, ",")
		room := 0
		for _, part := range parts {
			room++
			if strings.Contains(part, ":") {
				room++
			}
		}
		if many := strings.HasSuffix(c.option, "s"); room > 15 || !many && len(parts) > 1 {
			return false, errors.New("more ports than there is room for")
		}
		for _, part := range parts {
			first, last, isRange := strings.Cut(part, ":")
			if !isRange {
				last = first
			}
			from, err1 := strconv.ParseUint(first, 10, 16)
			to, err2 := strconv.ParseUint(last, 10, 16)
			if err := errors.Join(err1, err2); err != nil || from > to {
				return false, fmt.Errorf("ports %s: %w", part, err)
			}
			if from <= uint64(p) && uint64(p) <= to {
				return true, nil
			}
		}
		return false, nil
	}
	owner := func(id func(ruleset.Owner) uint32) (bool, error) {
		ids, err := ruleset.ParseIDs(value)
		if err != nil || r.p.Owner == nil || len(ids) != 1 {
			return false, err
		}
		return ids.Contains(id(*r.p.Owner)), nil
	}
	prefix := func(a netip.Addr) (bool, error) {
		p, err := netip.ParsePrefix(value)
		if err == nil && p.Addr().Is4() != a.Is4() {
			err = errors.New("of another family")
		}
		return p.Contains(a), err
	}
	iface := func(hook ruleset.Hook) (bool, error) {
		name := r.p.Interface
		if r.p.Hook != hook {
			name = ""
		}
		if stem, glob := strings.CutSuffix(value, "+"); glob {
			return strings.HasPrefix(name, stem), nil
		}
		return name == value, nil
	}
	switch c.option {
	case "-p":
		number, known := map[string]ruleset.Protocol{"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58}[value]
		if !known {
			return false, errors.New("unknown protocol")
		}
		return r.p.Protocol == number, nil
	case "--match-set":
		end := map[string]netip.AddrPort{"src": r.p.Src, "dst": r.p.Dst}[c.values[1]]
		switch list := any(r.sets[value]).(type) {
		case ruleset.Dst:
			return ruleset.CIDRs(list).Contains(end.Addr()), nil
		case ruleset.DstPort:
			return ruleset.Ports(list).Contains(end.Port()), nil
		}
		return false, errors.New("an unknown set")
	case "-s":
		return prefix(r.p.Src.Addr())
	case "-d":
		return prefix(r.p.Dst.Addr())
	case "-i":
		return iface(ruleset.Prerouting)
	case "-o":
		return iface(ruleset.Output)
	case "--sport", "--sports":
		return port(r.p.Src.Port())
	case "--dport", "--dports":
		return port(r.p.Dst.Port())
	case "--uid-owner":
		return owner(func(o ruleset.Owner) uint32 { return o.UID })
	case "--gid-owner":
		return owner(func(o ruleset.Owner) uint32 { return o.GID })
	case "--mark":
		v, mask, err := markOf(value)
		mark := r.p.Mark
		if c.module == "connmark" {
			mark = r.p.ConnMark
		}
		return mark&mask == v, err
	case "--ctstate":
		for name := range strings.SplitSeq(value, ",") {
			if name == "DNAT" {
				if r.p.DNAT && r.p.State != ruleset.CTInvalid { // what is invalid has no entry
					return true, nil
				}
				continue
			}
			bit, known := map[string]ruleset.CTState{"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8}[name]
			if !known {
				return false, errors.New("unknown state")
			}
			if r.p.State&bit != 0 {
				return true, nil
			}
		}
		return false, nil
	case "--ctdir":
		reply, known := map[string]bool{"ORIGINAL": false, "REPLY": true}[value]
		switch {
		case !known:
			return false, errors.New("unknown direction")
		case r.p.State == ruleset.CTInvalid:
			// conntrack_mt of net/netfilter/xt_conntrack.c: without an entry nothing but the state is asked for.
			return c.state != c.negated, nil
		}
		return r.p.Reply == reply, nil
	case "--nowildcard", "--transparent":
		if r.builtin != "PREROUTING" && r.builtin != "INPUT" { // net/netfilter/xt_socket.c
			return false, errors.New("the socket match, where the kernel does not have it")
		}
		return r.p.Transparent || c.option == "--nowildcard" && r.p.Listening, nil
	case "--dst-type":
		if value != "LOCAL" || r.p.Hook == ruleset.Output {
			return false, errors.New("a packet does not say this of its destination")
		}
		return !r.p.Foreign, nil
	case "--length":
		low, high, isRange := strings.Cut(value, ":")
		if !isRange {
			high = low
		}
		a, err1 := strconv.ParseUint(low, 10, 16)
		b, err2 := strconv.ParseUint(high, 10, 16)
		n := length(r.wire())
		return a <= n && n <= b, errors.Join(err1, err2)
	case "--u32":
		return u32(value, r.wire())
	case "--icmp-type", "--icmpv6-type":
		kind, err := strconv.ParseUint(value, 10, 8)
		packet, ip := r.wire(), 20
		if c.option == "--icmpv6-type" {
			ip = 40
		}
		if packet[0]>>4 == 4 != (ip == 20) {
			err = errors.New("of another family")
		}
		return err == nil && packet[ip] == byte(kind), err
	case "--tcp-option":
		if value != "30" {
			return false, errors.New("a packet does not say this of its options")
		}
		return r.p.MPTCP, nil
	case "--tcp-flags":
		flags := func(s string) (all uint8, err error) {
			for name := range strings.SplitSeq(s, ",") {
				bit, known := map[string]uint8{"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "NONE": 0}[name]
				if !known {
					return 0, errors.New("unknown flag")
				}
				all |= bit
			}
			return all, nil
		}
		mask, err1 := flags(value)
		want, err2 := flags(c.values[1])
		return r.p.Flags&mask == want, errors.Join(err1, err2)
	}
	return false, errors.New("unknown condition")
}

// machines renders a Ruleset and loads what comes out, by family.
func machines(rs ruleset.Ruleset, d Dialect) (map[ruleset.Family]*machine, error) {
	return machinesOf(rs, Options{Dialect: d})
}

// machinesOf loads what Render makes of the rules.
func machinesOf(rs ruleset.Ruleset, o Options) (map[ruleset.Family]*machine, error) {
	inputs, err := Render(rs, o)
	if err != nil {
		return nil, err
	}
	all := map[ruleset.Family]*machine{}
	for _, in := range inputs {
		if all[in.Family], err = load(in.Text); err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", in.Family, err, in.Text)
		}
		all[in.Family].sets = setsFor(rs, in.Family)
	}
	return all, nil
}

// merged are the prefixes of a list, ascending.
func merged(list ruleset.CIDRs) (all ruleset.CIDRs) {
	for _, r := range list.Merge() {
		all = append(all, r.Prefixes()...)
	}
	return all
}

// setsFor are the lists of the rules by the names that sets of them have.
func setsFor(rs ruleset.Ruleset, f ruleset.Family) map[string]ruleset.Match {
	all := map[string]ruleset.Match{}
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			for _, m := range r.Match {
				if n, is := m.(ruleset.Not); is {
					m = n.Match
				}
				switch m := any(m).(type) {
				case ruleset.Src:
					of := ruleset.CIDRs(m).Of(f)
					all[ipset.Addresses(f, merged(of)).Name()] = ruleset.Dst(of)
				case ruleset.Dst:
					of := ruleset.CIDRs(m).Of(f)
					all[ipset.Addresses(f, merged(of)).Name()] = ruleset.Dst(of)
				case ruleset.SrcPort:
					all[ipset.OfPorts(ruleset.Ports(m)).Name()] = ruleset.DstPort(m)
				case ruleset.DstPort:
					all[ipset.OfPorts(ruleset.Ports(m)).Name()] = m
				}
			}
		}
	}
	return all
}

// compare fails unless xtables does with the packet what Trace foretells.
func compare(t *testing.T, rs ruleset.Ruleset, all map[ruleset.Family]*machine, p ruleset.Packet) ruleset.Trace {
	t.Helper()
	want, err := rs.Trace(p)
	if err != nil {
		t.Fatal(err)
	}
	m := all[ruleset.FamilyOf(p.Dst.Addr())]
	if m == nil {
		return want
	}
	got, err := m.trace(p)
	if err != nil {
		t.Fatal(err)
	}
	same := got.Fate == want.Fate && got.Zone == want.Zone
	if m.standard {
		same = same && got.Rule == want.Rule && got.Reason == want.Reason
	}
	if !same {
		owner := "nobody"
		if p.Owner != nil {
			owner = fmt.Sprintf("%+v", *p.Owner)
		}
		t.Errorf("%+v, owner %s: the text says %s by %s: %s, zone %d; Trace says %s by %s: %s, zone %d",
			p, owner, got.Fate, got.Line, got.Reason, got.Zone, want.Fate, want.Line, want.Reason, want.Zone)
	}
	return want
}

// TestMeaningOfConfigs: what is rendered of a configuration means to xtables
// what Trace says of it, in both dialects.
func TestMeaningOfConfigs(t *testing.T) {
	t.Parallel()
	const configs = 2000
	fates := map[string]int{}
	backstops := []intercept.Backstop{intercept.BackstopOn, intercept.BackstopOn, intercept.BackstopSyn,
		intercept.BackstopOff}
	judged := map[Dialect]int{}
	// Not every configuration fits into what the minimal dialect has room for.
	for seed := uint64(0); judged[Minimal] < configs; seed++ {
		r := rand.New(rand.NewPCG(seed, 21))
		config := gen.Config(r)
		for _, d := range []Dialect{Standard, Minimal} {
			if judged[d] >= configs {
				continue
			}
			config.Backstop, config.Outbound.OtherProtocols = pick(r, backstops), intercept.TreatmentPass
			if config.Backstop == intercept.BackstopOn && one(r, 3) {
				config.Outbound.OtherProtocols = intercept.TreatmentReject
			}
			rs := compileConfig(t, fitting(config, d))
			rs.Older = someTuples(r)
			all, err := machines(rs, d)
			if isTooBig(d, err) {
				continue
			}
			judged[d]++
			if err != nil {
				t.Fatalf("seed %d, %s: %v", seed, d, err)
			}
			for range 8 {
				p := disturb(r, gen.Packet(r))
				fates[compare(t, rs, all, p).Fate.String()]++
			}
			for range 8 {
				fates[compare(t, rs, all, aimed(r, rs)).Fate.String()]++
			}
			if t.Failed() {
				for _, f := range rs.Families {
					t.Logf("seed %d, %s, %s:\n%s", seed, d, f, textOf(t, rs, d, f))
				}
				t.FailNow()
			}
		}
	}
	for _, fate := range []string{"pass", "redirect(15001)", "redirect(15006)", "redirect(15053)", "drop", "reject"} {
		if fates[fate] < configs/20 {
			t.Errorf("the fate %s came up %d times only", fate, fates[fate])
		}
	}
}

func isTooBig(d Dialect, err error) bool {
	return d == Minimal && errors.Is(err, ruleset.ErrUnsupported) &&
		(strings.Contains(err.Error(), "bytes") || strings.Contains(err.Error(), "on all ways together"))
}

// TestMeaningOfRules: the same for rules that no configuration has: several
// long lists in one rule, plain and negated, and every target.
func TestMeaningOfRules(t *testing.T) {
	for _, d := range []Dialect{Standard, Minimal} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			rulesets, longest := 2600, 9
			if d == Minimal {
				rulesets, longest = 8000, 2 // all has to fit in 32 KiB
			}
			fates := map[ruleset.Action]int{}
			apart, judged, zones := 0, 0, map[uint16]int{}
			for seed := range uint64(rulesets) {
				r := rand.New(rand.NewPCG(seed, 22))
				rs := randomRuleset(r, longest, d)
				if err := rs.Check(); err != nil {
					t.Fatal(err)
				}
				all, err := machines(rs, d)
				if isTooBig(d, err) {
					continue
				}
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				judged++
				apart += all[ruleset.IPv4].parts()
				for i := range 32 {
					p := disturb(r, gen.Packet(r))
					if i >= 6 {
						p = aimed(r, rs)
					}
					trace := compare(t, rs, all, p)
					fates[trace.Fate.Action]++
					zones[trace.Zone]++
				}
				if t.Failed() {
					for _, f := range rs.Families {
						t.Logf("seed %d, %s, %s:\n%s", seed, d, f, textOf(t, rs, d, f))
					}
					for _, c := range rs.Chains {
						for _, r := range c.Rules {
							t.Logf("%s: %s: %v %s", c.Name, r.Comment(), r.Match, r.Target)
						}
					}
					t.FailNow()
				}
			}
			for a := ruleset.Pass; a <= ruleset.Dropped; a++ {
				if fates[a] < 100 {
					t.Errorf("fate %v came up %d times only", ruleset.Fate{Action: a}, fates[a])
				}
			}
			if zones[1] < 100 || zones[2] < 100 {
				t.Errorf("zones came up too seldom: %v", zones)
			}
			if judged < 1000 || apart < judged {
				t.Errorf("%d rulesets judged, with %d chains made of parts of others", judged, apart)
			}
		})
	}
}

func textOf(t *testing.T, rs ruleset.Ruleset, d Dialect, f ruleset.Family) string {
	t.Helper()
	inputs, err := Render(rs, Options{Dialect: d})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(inputs, func(in Input) bool { return in.Family == f })
	return inputs[i].Text
}

// The worlds that random rules and packets are drawn from. They are small, so
// that the two meet.
var (
	worldPorts    = []uint16{1, 22, 53, 80, 81, 82, 85, 90, 443, 1000, 1500, 8080, 8081, 9000, 15008, 40000, 65534, 65535}
	worldPrefixes = mustCIDRs("10.0.0.0/8,10.96.0.0/12,10.96.0.10,192.0.2.0/24,192.0.2.128/25,203.0.113.10,127.0.0.0/8,127.0.0.1,0.0.0.0/1,128.0.0.0/1,224.0.0.0/3,10.244.0.5,172.16.0.0/12," +
		"fd00::/8,fd00:96::/32,2001:db8::/32,2001:db8::10,2001:db8:0:1::/64,8000::/1,::/1,::1,fd00:244::5,2001:db8:7::7")
	worldIDs        = []uint32{0, 1, 5, 1000, 1001, 1500, 1337, 1338, 2000, 65534, 4294967294}
	worldInterfaces = []string{"lo", "eth0", "net1", "eth*", "n*"}
	worldMarks      = []uint32{0, 1, 2, 3, 5, 7}
	worldLengths    = []uint16{40, 52, 60, 72, 1500}
	worldHeaders    = []uint8{5, 8, 15}
	worldQuotes     = []uint16{53, 5353}
)

func mustCIDRs(s string) ruleset.CIDRs { return must(ruleset.ParseCIDRs(s)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func pick[E any](r *rand.Rand, from []E) E { return from[r.IntN(len(from))] }

// one is true once in n times.
func one(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// several returns 1 to most items, often 1.
func several[E any](r *rand.Rand, most int, item func() E) []E {
	n := 1
	if !one(r, 3) {
		n += r.IntN(most)
	}
	var out []E
	for range n {
		out = append(out, item())
	}
	return out
}

func somePorts(r *rand.Rand, most int) ruleset.Ports {
	return several(r, 3*most, func() ruleset.PortRange {
		a, b := pick(r, worldPorts), pick(r, worldPorts)
		if one(r, 3) && min(a, b)+2000 > max(a, b) { // wide ranges swallow the rest
			return ruleset.PortRange{First: min(a, b), Last: max(a, b)}
		}
		if one(r, 3) {
			return ruleset.Port(uint16(100 + 2*r.IntN(100))) // they do not merge
		}
		return ruleset.Port(a)
	})
}

func someIDs(r *rand.Rand, most int) ruleset.IDs {
	return several(r, most, func() ruleset.IDRange {
		a, b := pick(r, worldIDs), pick(r, worldIDs)
		if one(r, 4) && min(a, b)+600 > max(a, b) {
			return ruleset.IDRange{First: min(a, b), Last: max(a, b)}
		}
		return ruleset.ID(a)
	})
}

func someCIDRs(r *rand.Rand, most int) ruleset.CIDRs {
	return several(r, 2*most, func() netip.Prefix {
		if one(r, 2) {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(2 * r.IntN(8)), 3}), 32)
		}
		return pick(r, worldPrefixes)
	})
}

// someTuples returns connections of both families, often ones that random packets belong to.
func someTuples(r *rand.Rand) (out []ruleset.Tuple) {
	for range r.IntN(4) {
		for p := gen.Packet(r); ; p = gen.Packet(r) {
			if p.Hook == ruleset.Output {
				out = append(out, ruleset.Tuple{Src: p.Src, Dst: p.Dst})
				break
			}
		}
	}
	return out
}

// someMatches returns conditions of different kinds, several of them long lists, for a chain that is reached from the
// base given.
func someMatches(r *rand.Rand, longest int, base ruleset.Chain, d Dialect) (match []ruleset.Match,
	proto ruleset.Proto) {
	negations, rare := 3, 1
	if d == Minimal {
		// Some conditions take much of the room that others want, too, and less room is left for what ends a chain.
		negations, rare = 2, 8
	}
	add := func(m ruleset.Match, negatable bool) {
		if negatable && one(r, negations) {
			m = ruleset.Not{Match: m}
		}
		match = append(match, m)
	}
	protos := []ruleset.Proto{{ruleset.TCP}, {ruleset.UDP}, {ruleset.TCP, ruleset.UDP}, {ruleset.ICMP, ruleset.ICMPv6},
		{ruleset.UDP, ruleset.UDP, ruleset.ICMP}}
	switch r.IntN(10) {
	case 0:
	case 1:
		add(ruleset.Not{Match: pick(r, protos)}, false)
	case 2:
		add(pick(r, []ruleset.Proto{{ruleset.ICMP, ruleset.ICMPv6}, {ruleset.ICMP, ruleset.ICMPv6}, {ruleset.ICMP},
			{ruleset.ICMPv6}}), false)
		if one(r, 2) {
			add(ruleset.ICMPEcho{Extended: one(r, 3)}, true)
		}
		if one(r, 2*rare) {
			add(ruleset.ICMPQuote{SrcPort: pick(r, worldQuotes)}, true)
		}
	default:
		proto = pick(r, protos[:3])
		add(proto, false)
	}
	onlyTCP := len(proto) == 1 && proto[0] == ruleset.TCP
	if onlyTCP && one(r, 5*rare) {
		add(ruleset.TCPHeader(pick(r, worldHeaders)), true)
	}
	if onlyTCP && one(r, 6) {
		add(ruleset.MPTCP{}, true)
	}
	older := onlyTCP && d == Standard && one(r, 8)
	if older {
		add(ruleset.Older{}, false)
	}
	if proto != nil && !older {
		if one(r, 3) {
			add(ruleset.DstPort(somePorts(r, longest)), true)
		}
		if one(r, 5) {
			add(ruleset.SrcPort(somePorts(r, longest)), true)
		}
		if onlyTCP && one(r, 4) {
			add(pick(r, []ruleset.TCPFlags{ruleset.Opens(), {Mask: ruleset.RST, Value: ruleset.RST},
				{Mask: ruleset.PSH | ruleset.ACK}}), true)
		}
	}
	if !older { // which takes no other list beside it
		if one(r, 3) {
			add(ruleset.Dst(someCIDRs(r, longest)), true)
		}
		if one(r, 4) {
			add(ruleset.Src(someCIDRs(r, longest)), true)
		}
		if one(r, 4) {
			add(ruleset.UID(someIDs(r, longest)), false)
		}
		if one(r, 4) {
			add(ruleset.GID(someIDs(r, longest)), false)
		}
	}
	if one(r, 8) {
		add(ruleset.HasSocket{}, false)
	}
	if one(r, 8*rare) {
		add(ruleset.CTDNAT{}, false)
	}
	if one(r, 6*rare) {
		add(pick(r, []ruleset.CTDirection{ruleset.CTOriginal, ruleset.CTReply}), false)
	}
	if one(r, 8) {
		add(ruleset.Length(pick(r, worldLengths)), true)
	}
	if base.Hook == ruleset.Prerouting && one(r, 4) {
		add(ruleset.ToLocal{}, true)
	}
	if (base.Hook == ruleset.Prerouting || base.Hook == ruleset.Input) && one(r, 4) {
		add(ruleset.SocketOpen{Transparent: base.Type != ruleset.NATChain && one(r, 2)}, false)
	}
	if one(r, 6) {
		add(ruleset.OutInterface(pick(r, worldInterfaces)), true)
	}
	if one(r, 6) {
		add(ruleset.InInterface(pick(r, worldInterfaces)), true)
	}
	if one(r, 5) {
		mask := pick(r, []uint32{1, 3, 7, 1<<32 - 1})
		add(ruleset.MetaMark{Value: pick(r, worldMarks) & mask, Mask: mask}, true)
	}
	if one(r, 6) {
		mask := pick(r, []uint32{1, 3, 7, 1<<32 - 1})
		add(ruleset.ConnMark{Value: pick(r, worldMarks) & mask, Mask: mask}, true)
	}
	if one(r, 8) {
		add(pick(r, []ruleset.CTState{ruleset.CTNew, ruleset.CTInvalid, ruleset.CTEstablished | ruleset.CTRelated, 15}), true)
	}
	if one(r, 10) {
		add(pick(r, []ruleset.IsFamily{ruleset.IsFamily(ruleset.IPv4), ruleset.IsFamily(ruleset.IPv6)}), true)
	}
	return match, proto
}

// randomRuleset returns rules of every kind that xtables has, in two base chains
// of a hook and in chains that those lead to.
func randomRuleset(r *rand.Rand, longest int, d Dialect) ruleset.Ruleset {
	rs := ruleset.Ruleset{Families: []ruleset.Family{ruleset.IPv4, ruleset.IPv6}, Older: someTuples(r)}
	bases := []ruleset.Chain{
		{Name: "raw_output", Hook: ruleset.Output, Priority: ruleset.PriorityRaw},
		{Name: "raw_prerouting", Hook: ruleset.Prerouting, Priority: ruleset.PriorityRaw},
		{Name: "mangle_output", Hook: ruleset.Output, Priority: ruleset.PriorityMangle, Type: ruleset.RouteChain},
		{Name: "mangle_prerouting", Hook: ruleset.Prerouting, Priority: ruleset.PriorityMangle},
		{Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain},
		{Name: "prerouting", Hook: ruleset.Prerouting, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain},
		{Name: "filter_output", Hook: ruleset.Output, Priority: ruleset.PriorityFilter},
		{Name: "filter_input", Hook: ruleset.Input, Priority: ruleset.PriorityFilter},
		{Name: "filter_forward", Hook: ruleset.Forward, Priority: ruleset.PriorityFilter},
	}
	r.Shuffle(len(bases), func(i, j int) { bases[i], bases[j] = bases[j], bases[i] })
	line, zones := 0, one(r, 2)
	for _, base := range bases[:1+r.IntN(3)] {
		subs := []string{base.Name + "_x", base.Name + "_y"}
		chain := func(c ruleset.Chain, next []string) {
			for range 1 + r.IntN(6) {
				line++
				match, proto := someMatches(r, longest, base, d)
				rule := ruleset.Rule{ID: ruleset.RuleID("O" + strconv.Itoa(line)), Reason: `rule "` + c.Name + `"`, Match: match}
				rule.Target = someTarget(r, base, proto, zones, next)
				if rule.Target == (ruleset.Accept{}) && slices.Contains(match,
					ruleset.Match(ruleset.SocketOpen{Transparent: true})) {
					rule.Target = ruleset.Divert{Port: 15006}
				}
				if to, is := rule.Target.(ruleset.DNAT); is {
					rule.Match = slices.DeleteFunc(rule.Match, func(m ruleset.Match) bool {
						return strings.Contains(m.String(),
							"IPv")
					})
					rule.Match = append(rule.Match, ruleset.IsFamily(ruleset.FamilyOf(to.To.Addr())))
				}
				c.Rules = append(c.Rules, rule)
			}
			rs.Chains = append(rs.Chains, c)
		}
		chain(base, subs)
		chain(ruleset.Chain{Name: subs[0], Type: base.Type}, subs[1:])
		chain(ruleset.Chain{Name: subs[1], Type: base.Type}, nil)
	}
	return rs
}

func someTarget(r *rand.Rand, base ruleset.Chain, proto ruleset.Proto, zones bool, next []string) ruleset.Target {
	targets := []ruleset.Target{ruleset.Return{}, ruleset.Return{}}
	if len(next) > 0 {
		targets = append(targets, ruleset.Goto{Chain: pick(r, next)})
	}
	isRaw := base.Priority == ruleset.PriorityRaw
	if isRaw && zones {
		// In xtables evaluation goes on after a zone: no more than this may follow.
		targets = append(targets, ruleset.CTZone{Zone: 1}, ruleset.CTZone{Zone: 2})
		return pick(r, targets)
	}
	if len(next) > 0 {
		targets = append(targets, ruleset.Jump{Chain: pick(r, next)}, ruleset.Jump{Chain: pick(r, next)})
	}
	mask := pick(r, []uint32{1, 6, 7, 1<<32 - 1})
	targets = append(targets, ruleset.Accept{}, ruleset.SetMark{Value: pick(r, worldMarks), Mask: mask},
		ruleset.SetConnMark{Value: pick(r, worldMarks), Mask: mask})
	hasPorts := len(proto) == 1
	switch {
	case base.Type == ruleset.NATChain && hasPorts:
		targets = append(targets, ruleset.Keep{}, ruleset.Redirect{Ports: ruleset.Port(15001)},
			ruleset.Redirect{Ports: ruleset.PortRange{First: 15001, Last: 15004}},
			ruleset.DNAT{To: netip.MustParseAddrPort("192.0.2.53:53")},
			ruleset.DNAT{To: netip.MustParseAddrPort("[2001:db8::53]:5353")})
	case base.Type != ruleset.NATChain:
		targets = append(targets, ruleset.Drop{})
	}
	if base.Priority == ruleset.PriorityFilter {
		targets = append(targets, ruleset.Reject{}, ruleset.Reject{})
	}
	if base.Priority == ruleset.PriorityMangle && base.Hook == ruleset.Prerouting && hasPorts {
		for range 3 {
			targets = append(targets, ruleset.TProxy{Port: 15006, Mark: ruleset.Mark{Value: 5, Mask: 5}})
		}
	}
	return pick(r, targets)
}

// disturb makes of a packet one that gen does not make: without a socket, in
// the midst of a connection, marked.
func disturb(r *rand.Rand, p ruleset.Packet) ruleset.Packet {
	if one(r, 6) {
		p.Owner = nil
	}
	if one(r, 6) {
		p.Flags = pick(r, []uint8{ruleset.SYN | ruleset.ACK, ruleset.ACK, ruleset.RST,
			ruleset.FIN | ruleset.ACK | ruleset.PSH})
	}
	if one(r, 6) {
		p.State = pick(r, []ruleset.CTState{ruleset.CTEstablished, ruleset.CTInvalid, ruleset.CTRelated})
	}
	if one(r, 10) {
		p.Protocol = pick(r, []ruleset.Protocol{ruleset.ICMP, ruleset.ICMPv6})
		p.Src, p.Dst = netip.AddrPortFrom(p.Src.Addr(), 0), netip.AddrPortFrom(p.Dst.Addr(), 0)
	}
	p.Mark, p.ConnMark = pick(r, worldMarks), pick(r, worldMarks)
	p.Reply, p.DNAT = one(r, 3), one(r, 3)
	p.Listening, p.Foreign, p.MPTCP = one(r, 2), one(r, 4), one(r, 3)
	p.Echo, p.ExtendedEcho, p.Quotes = one(r, 2), one(r, 3), pick(r, worldQuotes)
	if one(r, 3) {
		p.Length, p.TCPHeader = pick(r, worldLengths), pick(r, worldHeaders)
	}
	return possible(p)
}

// possible takes from a packet what no packet of its kind has.
func possible(p ruleset.Packet) ruleset.Packet {
	if p.Hook == ruleset.Output {
		p.Listening, p.Foreign = false, false
	}
	p.MPTCP = p.MPTCP && p.Protocol == ruleset.TCP
	if a := p.Dst.Addr(); a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		// Trace knows where it goes instead, or that it does not go.
		host := netip.MustParseAddr("203.0.113.9")
		if a.Is6() {
			host = netip.MustParseAddr("2001:db8::9")
		}
		p.Dst = netip.AddrPortFrom(host, p.Dst.Port())
	}
	switch {
	case p.Protocol != ruleset.ICMP && p.Protocol != ruleset.ICMPv6:
		p.Echo, p.ExtendedEcho, p.Quotes = false, false, 0
		return p
	case p.Dst.Addr().Is4():
		p.Protocol = ruleset.ICMP
	default:
		p.Protocol = ruleset.ICMPv6
	}
	p.ExtendedEcho = p.ExtendedEcho && !p.Echo
	if p.Echo || p.ExtendedEcho {
		p.Quotes = 0
	}
	return p
}

// aimed returns a packet that satisfies many of the conditions of one rule. At
// random, packets hardly ever meet a rule of many conditions.
func aimed(r *rand.Rand, rs ruleset.Ruleset) ruleset.Packet {
	p := gen.Packet(r)
	chain := pick(r, rs.Chains)
	if len(chain.Rules) == 0 {
		return p
	}
	if chain.Hook != 0 {
		for (p.Hook == ruleset.Output) != (chain.Hook == ruleset.Output) {
			p = gen.Packet(r)
		}
	}
	if one(r, 4) {
		p = disturb(r, p)
	}
	for _, m := range pick(r, chain.Rules).Match {
		if one(r, 12) {
			continue // to miss one condition is of interest, too
		}
		negated := false
		if n, is := m.(ruleset.Not); is {
			m, negated = n.Match, true
		}
		if negated && !one(r, 3) {
			continue
		}
		src, dst := p.Src, p.Dst
		switch m := m.(type) {
		case ruleset.Proto:
			p.Protocol = pick(r, m)
		case ruleset.SrcPort:
			p.Src = netip.AddrPortFrom(src.Addr(), edge(r, pick(r, m)))
		case ruleset.DstPort:
			p.Dst = netip.AddrPortFrom(dst.Addr(), edge(r, pick(r, m)))
		case ruleset.Src:
			if of := ruleset.CIDRs(m).Of(ruleset.FamilyOf(src.Addr())); len(of) > 0 {
				p.Src = netip.AddrPortFrom(pick(r, of).Addr(), src.Port())
			}
		case ruleset.Dst:
			if of := ruleset.CIDRs(m).Of(ruleset.FamilyOf(dst.Addr())); len(of) > 0 {
				p.Dst = netip.AddrPortFrom(pick(r, of).Addr(), dst.Port())
			}
		case ruleset.UID:
			if p.Owner != nil {
				p.Owner.UID = edgeID(r, pick(r, m))
			}
		case ruleset.GID:
			if p.Owner != nil {
				p.Owner.GID = edgeID(r, pick(r, m))
			}
		case ruleset.InInterface:
			p.Interface = strings.Replace(string(m), "*", "7", 1)
		case ruleset.OutInterface:
			p.Interface = strings.Replace(string(m), "*", "7", 1)
		case ruleset.MetaMark:
			p.Mark = m.Value
		case ruleset.ConnMark:
			p.ConnMark = m.Value
		case ruleset.CTState:
			for p.State = 1; p.State&m == 0; {
				p.State <<= 1
			}
		case ruleset.TCPFlags:
			p.Flags = m.Value
		case ruleset.CTDNAT:
			p.DNAT = true
		case ruleset.CTDirection:
			p.Reply = m == ruleset.CTReply
		case ruleset.HasSocket:
			if p.Owner == nil && p.Hook == ruleset.Output {
				p.Owner = &ruleset.Owner{UID: pick(r, worldIDs), GID: pick(r, worldIDs)}
			}
		case ruleset.SocketOpen:
			p.Listening, p.Transparent = !m.Transparent, m.Transparent
		case ruleset.ToLocal:
			p.Foreign = false
		case ruleset.Length:
			p.Length = uint16(m)
		case ruleset.TCPHeader:
			p.TCPHeader = uint8(m)
		case ruleset.MPTCP:
			p.MPTCP = true
		case ruleset.ICMPEcho:
			p.Echo, p.ExtendedEcho = !m.Extended, m.Extended
		case ruleset.ICMPQuote:
			p.Quotes, p.Echo = m.SrcPort, false
			p.ExtendedEcho = false
		case ruleset.Older:
			for _, older := range rs.Older {
				if older.Src.Addr().Is4() == src.Addr().Is4() {
					p.Src, p.Dst = older.Src, older.Dst
				}
			}
		case ruleset.IsFamily, ruleset.Not:
		}
	}
	return possible(p)
}

func edge(r *rand.Rand, p ruleset.PortRange) uint16 { return pick(r, []uint16{p.First, p.Last}) }

func edgeID(r *rand.Rand, p ruleset.IDRange) uint32 { return pick(r, []uint32{p.First, p.Last}) }

// fitting returns a configuration as a dialect can have it: the minimal one has no backstop.
func fitting(c intercept.Config, d Dialect) intercept.Config {
	if d == Minimal {
		c.Backstop, c.Outbound.OtherProtocols = intercept.BackstopOff, intercept.TreatmentPass
	}
	return c
}

func compileConfig(t testing.TB, c intercept.Config) ruleset.Ruleset {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	rs.Routes = nil // they are not this package's
	return rs
}
