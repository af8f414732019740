package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/ruleset"
)

func explainVerb() verb {
	return verb{cli.Verb{
		Name: "explain", Does: "say what happens to a packet and why; no privilege needed",
		Also: []string{"why", "what", "describe"},
		More: "It follows the rules that this configuration makes, not those in a kernel. With --live it\n" +
			"takes the configuration that is in force in a network namespace, and its first line says\n" +
			"whether the rules are as they were written, and in force.",
		Files: "OLD NEW",
		Needs: "[--live] {--dst ADDRESS:PORT [--from app|proxy|outside] | --matrix |\n" +
			"         --why-not ADDRESS:PORT | --flows FILE} | --diff {OLD | --live} NEW",
		Flags: explainFlags,
		Examples: `
  Why does this call of the app (not) go to the proxy?
    mesh-init explain --dst 10.1.2.3:443 --uid 1000 --config mesh.yaml
  The proxy calls its own pod by the pod's address; a client calls port 8080:
    mesh-init explain --from proxy --to-self --dst 10.244.1.7:8080
    mesh-init explain --from outside --src 10.244.2.9 --dst 10.244.1.7:8080
  What becomes of each kind of traffic?
    mesh-init explain --matrix --config mesh.yaml
  Which change would send this call to the proxy, or let it go?
    mesh-init explain --why-not 10.1.2.3:443 --config mesh.yaml
  What becomes of the flows that tcpdump shows?
    tcpdump -nr pod.pcap | mesh-init explain --flows - --config mesh.yaml
  Which packets have another fate with a new configuration?
    mesh-init explain --diff mesh.yaml new.yaml
  Why does this pod's call (not) go to the proxy? What would a new configuration change in it?
    mesh-init explain --live -n /run/netns/pod --dst 10.1.2.3:443
    mesh-init explain --diff --live -n /run/netns/pod new.yaml
`}, job.explain}
}

func explainFlags() []cli.Flag {
	from := append(configFlags(), once(liveRow())...)
	return append(append(append(from, netnsFlags()...), packetRows()...), once(
		row("state", "new|established|invalid", groupPacket, "new",
			"new: opens a connection; established: of one that was\nthere before the rules; invalid: conntrack calls it so"),
		row(matrixFlag, "", groupPacket, "false",
			"what becomes of all traffic, kind by kind: proven, not\nsampled"),
		row(flowsFlag, "FILE", groupPacket, "",
			"what becomes of many flows, one a line: tcp ADDRESS:PORT\n-> ADDRESS:PORT, or lines of tcpdump -n, conntrack -L,\n"+
				"hubble observe, pwru; - for standard input"),
		row(whyNotFlag, "ADDRESS:PORT", groupPacket, "",
			"the smallest changes of the configuration that would\nsend this packet to the proxy, or let it go"),
		diffRow(),
	)...)
}

// packetRows are the flags that describe a packet, to explain or to trace. The defaults are those of a packet to explain.
func packetRows() []cli.Flag {
	return once(
		row("from", "app|proxy|outside", groupPacket, "app", "who sends it; outside: it arrives in the pod"),
		row(dstFlag, "ADDRESS:PORT", groupPacket, "", "where it goes, as in 10.1.2.3:443 or [fd00::1]:443"),
		row("src", "ADDRESS[:PORT]", groupPacket, "", "where it comes from"),
		row("proto", "tcp|udp|icmp", groupPacket, "tcp", "its protocol; icmp: an echo request, as ping sends it"),
		row("uid", "ID", groupPacket, "1000", "the app's user"),
		row("gid", "ID", groupPacket, "1000", "the app's group"),
		row("mark", "NUMBER", groupPacket, "0", "the mark of the sender's socket (SO_MARK)"),
		row("interface", "NAME", groupPacket, "",
			"the one it leaves or arrives by; if not given, lo for\na loopback address and with --to-self, else eth0"),
		row("to-self", "", groupPacket, "false", "the destination is the pod's own address"),
	)
}

// A question is a flag of explain that asks for something else than what becomes of one packet.
type question struct {
	flag, about string
	// with are the flags of a packet that it goes with.
	with []string
}

// packetNames are the flags that describe a packet which begins a flow, without where it goes.
func packetNames() []string {
	return []string{"from", "src", "proto", "uid", "gid", "mark", "interface", "to-self"}
}

func questions() []question {
	return []question{
		{matrixFlag, "is of all", nil},
		{diffFlag, "is of all", nil},
		{flowsFlag, "has its own", flowFlags()},
		{whyNotFlag, "names where it goes", packetNames()},
	}
}

// explained says what is wrong with the packet to explain, or with what is asked in its place.
func (in inputs) explained(s settings) (errs []error) {
	errs = in.besideLive(s)
	diff, live := s.packet[diffFlag].text == "true", s.packet[liveFlag].text == "true"
	switch {
	case diff && live && len(in.args) != 1:
		errs = append(errs, fmt.Errorf("--%[1]s: with --%[2]s it compares what is in force with one file; write --%[1]s --%[2]s NEW",
			diffFlag, liveFlag))
	case diff && !live && len(in.args) != 2:
		errs = append(errs, fmt.Errorf("--%s: it compares two files; write --%s OLD NEW", diffFlag, diffFlag))
	case !diff && len(in.args) > 0:
		errs = append(errs, fmt.Errorf("%q is left over: files are for --%s OLD NEW", in.args[0], diffFlag))
	}
	asked := question{}
	for _, q := range questions() {
		if set := s.packet[q.flag]; !set.given || set.IsSwitch() && set.text != "true" {
			continue
		}
		if asked.flag != "" {
			errs = append(errs, fmt.Errorf("--%s: --%s asks something else; leave one of them out", q.flag, asked.flag))
			continue
		}
		asked = q
	}
	mistaken := slices.ContainsFunc(in.errs, func(err error) bool {
		return err != nil && slices.ContainsFunc(questions(), func(q question) bool {
			return strings.HasPrefix(err.Error(), "--"+q.flag+": ")
		})
	})
	switch {
	case asked.flag == "" && mistaken:
		return errs
	case asked.flag == whyNotFlag:
		if _, err := s.packet.whyNotPacket().packet(s.config); err != nil {
			errs = append(errs, strict.Reworded(err, "--"+dstFlag, "--"+whyNotFlag))
		}
	case asked.flag == "":
		if _, err := s.packet.packet(s.config); err != nil {
			errs = append(errs, err)
		}
		return errs
	}
	for _, g := range in.given {
		isQuestion := slices.ContainsFunc(questions(), func(q question) bool { return q.flag == g.Name })
		if g.Group == groupPacket && !isQuestion && !slices.Contains(asked.with, g.Name) {
			errs = append(errs, fmt.Errorf("%s: it describes one packet, and --%s %s; leave one of them out", g.source,
				asked.flag, asked.about))
		}
	}
	return errs
}

// packetFlags are the settings, by flag, that describe a packet.
type packetFlags map[string]setting

// The addresses a packet is given where none is said: documentation addresses
// (RFC 5737, RFC 3849), which no configuration means by accident.
var (
	elsewhere4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	elsewhere6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
)

const somePort = 40000

func elsewhere(f intercept.Family) netip.Addr {
	if f == intercept.IPv4 {
		return elsewhere4
	}
	return elsewhere6
}

func localhost(f intercept.Family) netip.Addr {
	if f == intercept.IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func (p packetFlags) given(name string) bool { return p[name].given }

// packet makes the packet that the flags describe, or says everything that is
// wrong with the description.
func (p packetFlags) packet(c intercept.Config) (intercept.Packet, error) {
	var errs []error
	fail := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{name}, args...)...))
	}
	out := intercept.Packet{Hook: intercept.Output, Interface: p["interface"].text}
	var dst, src netip.AddrPort
	var err error
	proto := p["proto"].text
	if dst, err = parseEndpoint(p[dstFlag].text, proto, proto != "icmp"); err != nil {
		fail(dstFlag, "%w", err)
	}
	if p.given("src") {
		if src, err = parseEndpoint(p["src"].text, proto, false); err != nil {
			fail("src", "%w", err)
		} else if dst.IsValid() && src.Addr().Is4() != dst.Addr().Is4() {
			fail("src", "%s and --dst %s are of different families", src.Addr(), dst.Addr())
		}
	}
	switch proto {
	case "tcp":
		out.Protocol = intercept.TCP
	case "udp":
		out.Protocol = intercept.UDP
	default:
		out.Protocol = intercept.ICMP
		if dst.Addr().Is6() {
			out.Protocol = intercept.ICMPv6
		}
		out.Echo = true
	}
	switch from := p["from"].text; from {
	case "outside":
		out.Hook = intercept.Prerouting
		for _, name := range []string{"uid", "gid"} {
			if p.given(name) {
				fail(name, "%s: a packet from outside has no owner; leave it out", p[name].text)
			}
		}
		if p["to-self"].text == "true" {
			fail("to-self", "what comes from outside has left the pod it came from; use --from app or --from proxy")
		}
	case "proxy":
		out.Owner = &intercept.Owner{UID: first(c.Proxy.UIDs), GID: first(c.Proxy.GIDs)}
		out.Mark = c.Proxy.Mark.Value
		for _, name := range []string{"uid", "gid"} {
			if p.given(name) {
				fail(name, "%s: the proxy's is configured (--proxy-%s); leave it out", p[name].text, name)
			}
		}
	default:
		out.Owner = &intercept.Owner{
			UID: p.id("uid", c.Proxy.UIDs, fail),
			GID: p.id("gid", c.Proxy.GIDs, fail),
		}
	}
	if p.given("mark") {
		mark, err := strconv.ParseUint(p["mark"].text, 0, 32)
		if err != nil {
			fail("mark", "%q is not a mark (a number, as in 1337 or 0x539)", p["mark"].text)
		}
		if p["from"].text == "outside" {
			fail("mark", "%s: a packet from outside has no socket that could mark it; leave it out", p["mark"].text)
		}
		out.Mark = uint32(mark)
	}
	if out.Hook == intercept.Output && dst.Addr().IsUnspecified() {
		// There the kernel sends what goes to 0.0.0.0 or ::.
		dst = netip.AddrPortFrom(localhost(intercept.FamilyOf(dst.Addr())), dst.Port())
	}
	toSelf := p["to-self"].text == "true"
	inside := toSelf || out.Hook == intercept.Output && dst.Addr().IsLoopback()
	switch {
	case p.given("interface"):
		err := ruleset.ValidateInterface(out.Interface)
		if err == nil && strings.HasSuffix(out.Interface, "*") {
			err = fmt.Errorf("%q stands for several; name one", out.Interface)
		}
		if err != nil {
			fail("interface", "%w", err)
		}
		if toSelf && out.Interface != "lo" {
			fail("interface", "%q: what goes to the pod itself leaves by lo; leave it out", out.Interface)
		}
	case inside:
		out.Interface = "lo"
	default:
		out.Interface = "eth0"
	}
	out.Listening = out.Hook == intercept.Prerouting
	// Behind a virtual interface are machines that send to the world.
	out.Foreign = out.Hook == intercept.Prerouting && slices.ContainsFunc(c.VirtualInterfaces, func(name string) bool {
		return ruleset.InterfaceMatches(name, out.Interface)
	})
	switch p["state"].text {
	case "established":
		// NAT has forgotten nothing: it never knew. For a connection that
		// conntrack knows, what it decided on the first packet still holds.
		if out.Protocol != intercept.TCP {
			fail("state", "established: only a TCP packet shows that it opens nothing; use --proto tcp")
		}
		out.Flags = intercept.ACK
	case "invalid":
		out.State = intercept.CTInvalid
	}
	if err := errors.Join(errs...); err != nil {
		return intercept.Packet{}, err
	}
	out.Dst, out.Src = dst, p.source(src, dst, inside)
	return out, nil
}

// source completes the source: a packet inside the pod comes from the address
// it goes to, unless it is said to come from another.
func (p packetFlags) source(src, dst netip.AddrPort, inside bool) netip.AddrPort {
	addr, port := src.Addr(), src.Port()
	switch {
	case addr.IsValid():
	case inside:
		addr = dst.Addr()
	default:
		addr = elsewhere(intercept.FamilyOf(dst.Addr()))
	}
	if port == 0 && dst.Port() != 0 {
		port = somePort
	}
	return netip.AddrPortFrom(addr, port)
}

func (p packetFlags) id(name string, proxy intercept.IDs, fail func(name, format string, args ...any)) uint32 {
	text := p[name].text
	ids, err := intercept.ParseIDs(text)
	switch {
	case err != nil:
		fail(name, "%w", err)
		return 0
	case len(ids) != 1 || ids[0].First != ids[0].Last:
		fail(name, "%q is not one ID; a packet has one owner", text)
		return 0
	case !p.given(name) && proxy.Contains(ids[0].First):
		fail(name, "the default, %s, is the proxy's here; give the app's", text)
	}
	return ids[0].First
}

// first returns the first ID of a list. If there is none, nobody's: the packet
// is known by its other ID.
func first(ids intercept.IDs) uint32 {
	if len(ids) == 0 {
		return 65534
	}
	return ids[0].First
}

// parseEndpoint reads an address and a port, as in 10.1.2.3:443 or
// [fd00::1]:443. Without needPort it can be an address alone.
func parseEndpoint(s, proto string, needPort bool) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, errors.New("missing; write where the packet goes, as in --dst 10.1.2.3:443")
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	addr, err := netip.ParseAddr(bare)
	to := netip.AddrPortFrom(addr, 0)
	if err != nil {
		to, err = netip.ParseAddrPort(s)
	}
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("%q is not an address and a port (as in 10.1.2.3:443 or [fd00::1]:443)", s)
	case to.Addr().Is4In6():
		unmapped := netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
		return netip.AddrPort{}, fmt.Errorf("%q is IPv4 written as IPv6; write %s", s, unmapped)
	case to.Addr().Zone() != "":
		return netip.AddrPort{}, fmt.Errorf("%q has a zone; leave it off and name the interface with --interface", s)
	case needPort && to.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("%q has no port, and rules for %s look at it; write %s",
			s, proto, netip.AddrPortFrom(to.Addr(), 443))
	case proto == "icmp" && to.Port() != 0:
		return netip.AddrPort{}, fmt.Errorf("%q has a port, and icmp has none; write %s", s, to.Addr())
	}
	return to, nil
}

// explanation is what explain says of a packet.
type explanation struct {
	Fate   intercept.Fate `json:"fate"`
	Words  string         `json:"words"`
	Packet packetJSON     `json:"packet"`
	// ID, Line and Reason are those of the rule that decided; empty if none did.
	ID     intercept.RuleID `json:"id"`
	Line   string           `json:"line"`
	Reason string           `json:"reason"`
	Zone   uint16           `json:"conntrackZone,omitempty"`
	// Sources are where the configuration was given: a file, flags, variables. It
	// is the default if there are none.
	Sources []string   `json:"sources"`
	Steps   []stepJSON `json:"steps"`
}

type packetJSON struct {
	From      string         `json:"from"`
	UID       *uint32        `json:"uid,omitempty"`
	GID       *uint32        `json:"gid,omitempty"`
	Protocol  string         `json:"protocol"`
	Src       netip.AddrPort `json:"src"`
	Dst       netip.AddrPort `json:"dst"`
	Interface string         `json:"interface"`
	State     string         `json:"state"`
	Mark      uint32         `json:"mark,omitempty"`
}

type stepJSON struct {
	Chain   string           `json:"chain"`
	ID      intercept.RuleID `json:"id"`
	Line    string           `json:"line"`
	Reason  string           `json:"reason"`
	Matched bool             `json:"matched"`
	Decided bool             `json:"decided,omitempty"`
	Target  string           `json:"target,omitempty"` // of a rule that matched
	Because string           `json:"because,omitempty"`
}

func (j job) explain() error {
	if j.packet[liveFlag].text == "true" {
		if err := j.takeLive(); err != nil {
			return err
		}
	}
	switch {
	case j.packet[matrixFlag].text == "true":
		return j.explainMatrix()
	case j.packet[diffFlag].text == "true":
		return j.explainDiff()
	case j.packet.given(flowsFlag):
		return j.explainFlows()
	case j.packet.given(whyNotFlag):
		return j.explainWhyNot()
	}
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	packet, err := j.packet.packet(j.config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	if j.packet["state"].text == "established" {
		rs.Older = []ruleset.Tuple{{Src: packet.Src, Dst: packet.Dst}}
	}
	trace, err := rs.Trace(packet)
	if of, is := errors.AsType[*ruleset.PacketError](err); is && of.Field == "Dst" {
		err = fmt.Errorf("--%s: %s", dstFlag, of.Problem)
	}
	if err != nil {
		return cli.UsageError{Err: err}
	}
	e := explain(j.config, packet, trace)
	e.Packet = describe(packet, j.packet["from"].text, j.packet["state"].text)
	e.Sources = j.sources
	return j.print(e, func() string { return e.text(j.style, j.configText()) })
}

func explain(c intercept.Config, p intercept.Packet, t intercept.Trace) explanation {
	e := explanation{
		Fate: t.Fate, Words: words(c, t.Fate), ID: t.Rule, Line: t.Line, Reason: t.Reason, Zone: t.Zone, Steps: []stepJSON{},
	}
	if e.Reason == "" {
		e.Reason = "no rule decides on such a packet"
		if p.State == intercept.CTInvalid {
			e.Reason = "redirecting rules are not asked about an invalid packet, and --drop-invalid is off"
		}
	}
	for _, s := range t.Steps {
		step := stepJSON{
			Chain: s.Chain, ID: s.Rule.ID, Line: s.Rule.ID.Line(), Reason: s.Rule.Reason, Matched: s.Matched, Decided: s.Decided,
		}
		if s.Matched {
			step.Target = s.Rule.Target.String()
		} else {
			step.Because = contrary(s.Failed)
		}
		e.Steps = append(e.Steps, step)
	}
	return e
}

// contrary says what is the case if a condition does not hold.
func contrary(m intercept.Match) string {
	if not, ok := m.(intercept.Not); ok {
		return not.Match.String()
	}
	return "not " + m.String()
}

// words says a fate to someone who does not know the ports by heart.
func words(c intercept.Config, f intercept.Fate) string {
	switch f.Action {
	case intercept.Pass:
		return "goes on untouched, past the proxy"
	case intercept.Redirected:
		to := "one of the proxy's ports " + f.Ports.String()
		if f.Ports.First == f.Ports.Last {
			to = "the proxy's port " + f.Ports.String()
		}
		switch f.Ports {
		case c.Outbound.Port:
			return "goes to " + to + " for outbound connections"
		case c.Inbound.Port:
			return "goes to " + to + " for inbound connections"
		case intercept.Port(c.DNS.Port):
			return "goes to " + to + " for name lookups"
		}
		return "goes to " + to
	case intercept.Translated:
		return "goes to " + f.To.String() + " instead"
	case intercept.Transparent:
		return "goes to the proxy's port " + f.Ports.String() + ", addresses unchanged"
	case intercept.Rejected:
		return "is discarded, and its sender told"
	case intercept.Dropped:
		return "is discarded"
	}
	return "has an unknown fate"
}

func describe(p intercept.Packet, from, state string) packetJSON {
	out := packetJSON{
		From: from, Protocol: p.Protocol.String(), Src: p.Src, Dst: p.Dst, Interface: p.Interface, State: state, Mark: p.Mark,
	}
	if p.Owner != nil {
		out.UID, out.GID = &p.Owner.UID, &p.Owner.GID
	}
	return out
}

func (p packetJSON) String() string {
	end := func(a netip.AddrPort) string {
		if a.Port() == 0 {
			return a.Addr().String()
		}
		return a.String()
	}
	s := fmt.Sprintf("%s %s -> %s", p.Protocol, end(p.Src), end(p.Dst))
	if p.Mark != 0 {
		s += fmt.Sprintf(" mark %#x", p.Mark)
	}
	if p.State != "new" {
		s += " (" + p.State + ")"
	}
	if p.From == "kernel" {
		return s + ", leaving by " + p.Interface + ", without a process"
	}
	if p.UID == nil {
		return s + ", arriving by " + p.Interface
	}
	return s + ", leaving by " + p.Interface + ", from the " + p.From +
		" (UID " + strconv.FormatUint(uint64(*p.UID), 10) + ", GID " + strconv.FormatUint(uint64(*p.GID), 10) + ")"
}

func (e explanation) text(style cli.Style, config string) string {
	decided := e.Reason
	if e.ID != "" {
		decided = string(e.ID) + ": " + e.Reason
	}
	fate := e.Fate.String() + ": "
	text := cli.Hang(style.Strong(fate), len(fate), e.Words) + "\n" +
		cli.Hang("packet:  ", 9, strict.OneLine(e.Packet.String())) +
		cli.Hang("config:  ", 9, strict.OneLine(config)) +
		cli.Hang("decided: ", 9, decided)
	if len(e.Steps) == 0 {
		return text
	}
	rows := []cli.Row{{"RULE", "REASON", "MATCH"}}
	for i, s := range e.Steps {
		if i == 0 || e.Steps[i-1].Chain != s.Chain {
			rows = append(rows, cli.Row{s.Chain + ":"})
		}
		match := "no: " + s.Because
		if s.Matched {
			match = "yes: " + s.Target
		}
		rows = append(rows, cli.Row{string(s.ID), s.Reason, shorten(match)})
	}
	return text + "\n" + cli.Table(rows)
}

// shorten cuts a list of thousands to what fits beside a rule.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	cut := most
	if i := strings.LastIndexByte(s[:most], ','); i > 0 {
		cut = i
	}
	return fmt.Sprintf("%s, … (%d more)", s[:cut], strings.Count(s[cut:], ","))
}
