// Package flowline reads flows from lines of text: its own form, and what tcpdump -n, conntrack -L, hubble observe and
// pwru print. It does no I/O.
package flowline

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// MaxLine is how many bytes a line may have.
const MaxLine = 16 << 10

// A Flow is what a line says of a flow: of the packet that began it.
type Flow struct {
	// Protocol is in lower case: tcp, udp, icmp (that of both families), sctp.
	Protocol string
	Src, Dst netip.AddrPort
	// Way is the direction in which the flow left or entered; empty: the line does not say.
	Way Way
	// Settings are the words NAME=VALUE that follow a flow in our own form.
	Settings []Setting
	// Interface is the one that the packet left or arrived by; empty: the line does not say.
	Interface string
}

// A Setting is a word NAME=VALUE.
type Setting struct{ Name, Value string }

// Way is a direction.
type Way string

// The directions.
const (
	Out Way = "out"
	In  Way = "in"
)

// ErrNoFlow reports a line that is empty, a comment, or the first of two that tcpdump -v writes of a packet.
var ErrNoFlow = errors.New("no flow")

// An AsideError reports a line that a program has written among those of flows, and that is of none: a packet of ARP, say.
type AsideError struct {
	// What it is instead.
	What What
}

func (e *AsideError) Error() string { return string(e.What) + ", which is no flow" }

// What a line is that is of no flow.
type What string

// All that lines can be.
const (
	ARP     What = "ARP"
	NotIP   What = "not IP"
	NotEcho What = "ICMP other than echo"
	Others  What = "protocols other than TCP, UDP and ICMP"
	Many    What = "packets to many hosts"
	Message What = "messages of the program"
)

// AllWhats are all of them.
func AllWhats() []What { return []What{ARP, NotIP, NotEcho, Others, Many, Message} }

// errForm is what cannot be read at all.
var errForm = errors.New("no flow is known by its form; write one like tcp 10.244.0.5:40000 -> 10.1.2.3:443, or lines of " +
	"tcpdump -n, conntrack -L, hubble observe --ip-translation=false or pwru")

// Parse reads a line. A packet that answers, or that goes on with a connection and comes from a server's port, stands for
// the flow that it belongs to: from the other end.
func Parse(line string) (Flow, error) {
	line = strings.TrimSpace(line)
	if len(line) > MaxLine {
		return Flow{}, fmt.Errorf("over %d bytes; no flow is so long", MaxLine)
	}
	if line == "" || strings.HasPrefix(line, "#") {
		return Flow{}, ErrNoFlow
	}
	words := strings.Fields(line)
	has := func(prefix string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, prefix) })
	}
	var p parsed
	var err error
	switch {
	case strings.HasPrefix(line, "{"):
		p, err = fromJSON(line)
	case has("src=") && has("dst="):
		p, err = fromConntrack(words)
	case isMessage(words):
		return Flow{}, &AsideError{Message}
	case slices.Contains(words, ">"):
		p, err = fromTcpdump(words)
	case slices.Contains(words, "->") || slices.Contains(words, "<-") || slices.Contains(words, "<>"):
		p, err = fromArrow(words)
	default:
		if err := asideOfTcpdump(words); err != nil {
			return Flow{}, err
		}
		p, err = fromPwru(words)
	}
	if err != nil {
		return Flow{}, err
	}
	if p.recorded && (p.Dst.Addr().IsMulticast() || p.Dst.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
		return Flow{}, &AsideError{Many}
	}
	if p.recorded && p.Protocol == "" {
		return Flow{}, &AsideError{Others}
	}
	return p.flow()
}

// isMessage reports whether tcpdump or conntrack says something about itself.
func isMessage(words []string) bool {
	switch first := words[0]; {
	case first == "tcpdump:", first == "listening" && len(words) > 1 && words[1] == "on",
		first == "reading" && len(words) > 2 && words[1] == "from" && words[2] == "file",
		first == "conntrack" && len(words) > 1 && strings.HasPrefix(words[1], "v"):
		return true
	default:
		_, err := strconv.ParseUint(first, 10, 64)
		return err == nil && len(words) > 2 && strings.HasPrefix(words[1], "packet") &&
			(words[2] == "captured" || words[2] == "received" || words[2] == "dropped")
	}
}

// asideOfTcpdump says what a line of tcpdump is that has no ends of a flow, if it is one.
func asideOfTcpdump(words []string) error {
	rest := slices.DeleteFunc(slices.Clone(words[:min(len(words), 5)]), isDate)
	timed := len(rest) < min(len(words), 5)
	if len(rest) > 2 && slices.Contains([]string{"In", "Out", "B", "M", "P"}, rest[1]) {
		timed, rest = true, rest[2:]
	}
	switch {
	case len(rest) == 0:
		return nil
	case rest[0] == "ARP,":
		return &AsideError{ARP}
	case (rest[0] == "IP" || rest[0] == "IP6") && len(rest) > 1 && strings.HasPrefix(rest[1], "("):
		return ErrNoFlow
	case timed && !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "->") }):
		return &AsideError{NotIP}
	}
	return nil
}

// isDate reports whether a word is a time of the day, or a date, as tcpdump begins its lines with.
func isDate(word string) bool {
	day, _, _ := strings.Cut(word, ".")
	_, notTime := time.Parse(time.TimeOnly, day)
	_, notDate := time.Parse(time.DateOnly, word)
	return notTime == nil || notDate == nil
}

// parsed is a packet as a line has it.
type parsed struct {
	Flow
	// answers is true of a packet of the other end than the one that began the flow.
	answers bool
	// goesOn is true of one of which it is not said which end began the flow.
	goesOn bool
	// recorded is true of a line in which a program has written down what it has seen, whatever that was.
	recorded bool
}

// flow returns the flow that the packet belongs to.
func (p parsed) flow() (Flow, error) {
	f := p.Flow
	src, dst := f.Src.Addr(), f.Dst.Addr()
	switch {
	case src.Is4() != dst.Is4():
		return f, fmt.Errorf("%s and %s are of different families", src, dst)
	case f.Protocol == "":
		return f, errors.New("its protocol is not said; write it first, as in tcp 10.244.0.5:40000 -> 10.1.2.3:443")
	}
	if from, to := f.Src.Port(), f.Dst.Port(); p.goesOn &&
		(isClient(to) && !isClient(from) || isServer(from) && !isServer(to)) {
		p.answers = true
	}
	if p.answers {
		f.Src, f.Dst = f.Dst, f.Src
		switch f.Way {
		case Out:
			f.Way = In
		case In:
			f.Way = Out
		}
	}
	if (f.Protocol == "tcp" || f.Protocol == "udp") && f.Dst.Port() == 0 {
		return f, fmt.Errorf("%s has no port", f.Dst.Addr())
	}
	return f, nil
}

// isClient reports whether Linux gives the port to sockets that ask for none (net.ipv4.ip_local_port_range).
func isClient(port uint16) bool { return port >= 32768 && port <= 60999 }

// isServer reports whether a port is one of servers alone: of the system ports (RFC 6335) those that no client takes which
// asks for a reserved one (512 to 1023, rresvport(3)).
func isServer(port uint16) bool { return port > 0 && port < 512 }

// protocol returns the one of a name, in upper or lower case; "" of others.
func protocol(name string) string {
	switch name = strings.ToLower(strings.Trim(name, "(),:")); name {
	case "tcp", "udp", "icmp", "sctp", "dccp", "udplite":
		return name
	case "icmp6", "icmpv6", "icmpv4", "ipv6-icmp":
		return "icmp"
	}
	return ""
}

// endpoint reads an address and perhaps a port: 10.0.0.1:80, [fd00::1]:80, fd00::1, or as tcpdump has it 10.0.0.1.80.
func endpoint(s string, dotted bool) (netip.AddrPort, error) {
	s = strings.TrimRight(s, ":,")
	wrong := fmt.Errorf("%q is not an address, or one and a port", strict.Clip(s))
	if !strings.ContainsAny(s, ".:") || strings.ContainsAny(s, "/") {
		return netip.AddrPort{}, fmt.Errorf("%q is a name; flows are explained by addresses (tcpdump -n, hubble observe "+
			"--ip-translation=false)", strict.Clip(s))
	}
	addr, port := s, ""
	switch i := strings.LastIndexByte(s, '.'); {
	case strings.HasPrefix(s, "["):
		inside, rest, closed := strings.Cut(s[1:], "]")
		if !closed || rest != "" && !strings.HasPrefix(rest, ":") {
			return netip.AddrPort{}, wrong
		}
		addr, port = inside, strings.TrimPrefix(rest, ":")
	case dotted && (strings.Count(s, ".") == 4 || i > 0 && strings.Contains(s[:i], ":") && strings.Count(s, ".") == 1):
		addr, port = s[:i], s[i+1:]
	case strings.Count(s, ":") == 1:
		addr, port, _ = strings.Cut(s, ":")
	}
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return netip.AddrPort{}, wrong
	}
	n := uint64(0)
	if port != "" {
		if n, err = strconv.ParseUint(port, 10, 16); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q: %q is not a number of a port (tcpdump -n)", strict.Clip(s),
				strict.Clip(port))
		}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// ends sets both ends of the packet.
func (p *parsed) ends(src, dst string, dotted bool) (err error) {
	if p.Src, err = endpoint(src, dotted); err != nil {
		return err
	}
	p.Dst, err = endpoint(dst, dotted)
	return err
}

// opening says of a TCP packet by its flags whether it answers, or goes on with a connection.
func (p *parsed) opening(syn, ack bool) {
	p.answers = syn && ack
	p.goesOn = !syn
}

// fromTcpdump reads "12:00:00.000000 eth0 Out IP 10.0.0.1.40000 > 10.1.2.3.443: Flags [S], seq 1, …".
func fromTcpdump(words []string) (p parsed, err error) {
	i := slices.Index(words, ">")
	if i == 0 || i+1 == len(words) {
		return p, errForm
	}
	for k, w := range words[:i-1] {
		if k > 0 && (w == "In" || w == "Out") {
			p.Way, p.Interface = Way(strings.ToLower(w)), words[k-1]
		}
	}
	// With -e, what the packet is stands between the addresses of its frame and its own.
	if at := slices.Index(words, "ethertype"); at > i {
		k := slices.Index(words[at:], ">")
		switch {
		case at+1 < len(words) && words[at+1] == "ARP":
			return p, &AsideError{ARP}
		case k < 0:
			return p, &AsideError{NotIP}
		}
		i = at + k
	}
	if i+1 == len(words) {
		return p, errForm
	}
	if err := p.ends(words[i-1], words[i+1], true); err != nil {
		return p, err
	}
	p.recorded = true
	rest := words[i+2:]
	switch {
	case len(rest) > 1 && rest[0] == "Flags":
		p.Protocol = "tcp"
		p.opening(strings.Contains(rest[1], "S"), strings.Contains(rest[1], "."))
	case len(rest) > 0 && protocol(rest[0]) != "":
		p.Protocol = protocol(rest[0])
		p.answers = p.Protocol == "icmp" && slices.Contains(rest, "reply,")
		if p.Protocol == "icmp" && !slices.Contains(rest, "echo") {
			return p, &AsideError{NotEcho}
		}
	case p.Src.Port() != 0: // tcpdump says what is in it instead
		p.Protocol = "udp"
	}
	// A lookup's answer comes from port 53 to a client's.
	if p.Protocol == "udp" {
		p.goesOn = true
	}
	return p, nil
}

// fromConntrack reads "tcp 6 431999 ESTABLISHED src=10.0.0.1 dst=10.1.2.3 sport=40000 dport=443 src=…": the direction in
// which the connection was opened comes first.
func fromConntrack(words []string) (p parsed, err error) {
	p.recorded = true
	fields := map[string]string{}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			if _, again := fields[name]; !again {
				fields[name] = value
			}
			continue
		}
		if name := protocol(w); name != "" && p.Protocol == "" {
			p.Protocol = name
		}
	}
	for _, end := range []struct {
		to         *netip.AddrPort
		addr, port string
	}{{&p.Src, "src", "sport"}, {&p.Dst, "dst", "dport"}} {
		text := fields[end.addr]
		if port, ok := fields[end.port]; ok {
			text = "[" + text + "]:" + port
		}
		if *end.to, err = endpoint(text, false); err != nil {
			return p, err
		}
	}
	return p, nil
}

// fromArrow reads our own form, "tcp 10.0.0.1:40000 -> 10.1.2.3:443 uid=1000", and Hubble's, "Jun  1 12:00:00.000:
// 10.0.0.1:40000 (ID:1) -> 10.1.2.3:443 (world) to-stack FORWARDED (TCP Flags: SYN)".
func fromArrow(words []string) (p parsed, err error) {
	i := slices.IndexFunc(words, func(w string) bool { return w == "->" || w == "<-" || w == "<>" })
	// What stands in parentheses says more of an end.
	before := slices.DeleteFunc(slices.Clone(words[:i]), func(w string) bool { return strings.HasPrefix(w, "(") })
	if len(before) == 0 || i+1 == len(words) {
		return p, errForm
	}
	src, dst := before[len(before)-1], words[i+1]
	if words[i] == "<-" { // the right end answers
		src, dst = dst, src
		p.answers = true
	}
	if err := p.ends(src, dst, false); err != nil {
		return p, err
	}
	hubble := false
	for k, w := range words {
		name, value, isSetting := strings.Cut(w, "=")
		switch {
		case k < i && protocol(w) != "" && p.Protocol == "":
			p.Protocol = protocol(w)
		case k > i+1 && isSetting:
			p.Settings = append(p.Settings, Setting{name, value})
		case k > i+1 && strings.HasPrefix(w, "(") && protocol(w) != "":
			p.Protocol, hubble = protocol(w), true
		case k > i+1 && !strings.HasPrefix(w, "(") && !hubble && before[0] == p.Protocol:
			return p, fmt.Errorf("%q after a flow; write NAME=VALUE there", strict.Clip(w))
		}
	}
	if n := len(words); hubble && n > 1 && strings.HasPrefix(words[n-2], "Flags") && words[i] != "<-" {
		p.opening(strings.Contains(words[n-1], "SYN"), strings.Contains(words[n-1], "ACK"))
	}
	return p, nil
}

// fromPwru reads a line with a word like 10.0.0.1:40000->10.1.2.3:443(tcp).
func fromPwru(words []string) (p parsed, err error) {
	for _, w := range words {
		ends, rest, _ := strings.Cut(w, "(")
		src, dst, ok := strings.Cut(ends, "->")
		if !ok || src == "" || dst == "" {
			continue
		}
		p.Protocol = protocol(rest)
		p.goesOn = true // any packet of a flow is printed
		return p, p.ends(src, dst, false)
	}
	return p, errForm
}

// fromJSON reads a flow as hubble observe -o json prints it: the message flow.Flow of Cilium's API.
func fromJSON(line string) (p parsed, err error) {
	type ports struct {
		Source      uint16 `json:"source_port"`
		Destination uint16 `json:"destination_port"`
		Flags       struct {
			SYN, ACK bool
		} `json:"flags"`
	}
	type flow struct {
		IP struct {
			Source      string `json:"source"`
			Destination string `json:"destination"`
		} `json:"IP"`
		L4      map[string]ports `json:"l4"`
		IsReply bool             `json:"is_reply"`
	}
	var doc struct {
		flow
		Flow *flow `json:"flow"`
	}
	if err := json.Unmarshal([]byte(line), &doc); err != nil {
		return p, fmt.Errorf("not the JSON of a flow (hubble observe -o json): %s", strict.Clip(err.Error()))
	}
	f := doc.flow
	if doc.Flow != nil {
		f = *doc.Flow
	}
	if f.IP.Source == "" || f.IP.Destination == "" {
		return p, errors.New("no addresses in the JSON (hubble observe -o json has IP.source and IP.destination)")
	}
	if len(f.L4) != 1 {
		return p, errors.New("not one protocol in the JSON (hubble observe -o json has it in l4)")
	}
	for name, l4 := range f.L4 {
		p.Protocol = protocol(name)
		src, dst := "["+f.IP.Source+"]", "["+f.IP.Destination+"]"
		if l4.Destination != 0 {
			src += ":" + strconv.Itoa(int(l4.Source))
			dst += ":" + strconv.Itoa(int(l4.Destination))
		}
		if err := p.ends(src, dst, false); err != nil {
			return p, err
		}
		if p.Protocol == "tcp" {
			p.opening(l4.Flags.SYN, l4.Flags.ACK)
		}
	}
	p.answers = p.answers || f.IsReply
	return p, nil
}
