package tracing

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/nfevents"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Record is one thing to tell: a packet and what it met, or what became of the connection of one that was traced.
type Record struct {
	Packet     *Packet     `json:"packet,omitempty"`
	Connection *Connection `json:"connection,omitempty"`
}

// Packet is one that was followed.
type Packet struct {
	At       time.Time        `json:"at"`
	Protocol ruleset.Protocol `json:"protocol"`
	// Src and Dst are what the packet came in with, before all NAT.
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
	// Hook is where it came in: output or prerouting. Interface is the one that it was to leave or arrived by.
	Hook      string `json:"hook"`
	Interface string `json:"interface,omitempty"`
	// Flags are those of TCP, as in "SYN,ACK".
	Flags  string `json:"flags,omitempty"`
	Length int    `json:"length"`
	Mark   uint32 `json:"mark,omitempty"`
	// Fate is as the rules say it: pass, redirect(15001), dnat(10.0.0.1:53), tproxy, reject or drop.
	Fate string `json:"fate"`
	// By is the rule that decided it, or for a foreign rule its place. Empty: none did.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// After are source and destination after NAT, if they are others.
	After *Ends `json:"after,omitempty"`
	// Answers is where conntrack expects answers from, if that is not Dst: the first packet of a connection tells.
	Answers netip.AddrPort `json:"answersFrom,omitzero"`
	Steps   []Step         `json:"steps"`

	header nfevents.Header
}

// Ends are addresses and ports.
type Ends struct {
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
}

// Step is one rule that a packet matched, or the end of a chain.
type Step struct {
	// Rule is the rule's ID, if it is ours, and Reason what stands beside it: of a foreign rule its comment.
	Rule   ruleset.RuleID `json:"rule,omitempty"`
	Reason string         `json:"reason,omitempty"`
	// Family, Table and Chain are where it is, and Handle its number in the table; with iptables-legacy, Number is its place
	// in the chain. Both are zero at the end of a chain.
	Family string `json:"family"`
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Handle uint64 `json:"handle,omitempty"`
	Number int    `json:"number,omitempty"`
	// Verdict is accept, drop, continue, return, jump or goto; with iptables-legacy it is not told, and empty.
	Verdict string `json:"verdict,omitempty"`
	To      string `json:"to,omitempty"`
	// Policy is true of the end of a chain, where no rule has decided.
	Policy bool `json:"policy,omitempty"`
	// Text is what is known of a rule that is not ours: with iptables-legacy the rule as iptables-save prints it, else what
	// it does.
	Text string `json:"text,omitempty"`

	does []string
}

// Connection is what became of the connection of a packet that was traced.
type Connection struct {
	At time.Time `json:"at"`
	// Change is new, changed or ended.
	Change   string           `json:"change"`
	Protocol ruleset.Protocol `json:"protocol"`
	Src      netip.AddrPort   `json:"src"`
	Dst      netip.AddrPort   `json:"dst"`
	// Answers is where answers come from: Dst, or where NAT sends the connection.
	Answers netip.AddrPort `json:"answersFrom"`
	State   string         `json:"state,omitempty"`
	Mark    uint32         `json:"mark,omitempty"`
	Zone    uint16         `json:"zone,omitempty"`
}

// Names says what rules are called.
type Names struct {
	NFT    map[nft.Place]nft.Words
	Legacy map[iptables.Place]iptables.Text
	// Interface names one by its number.
	Interface func(uint32) string
}

const (
	// idle is for how long nothing has to be heard of a packet for it to be complete.
	idle = 200 * time.Millisecond
	// maxPending bounds the packets that are incomplete, maxSteps what is kept of each, and maxKnown the connections of
	// which changes are told.
	maxPending, maxSteps, maxKnown = 1024, 400, 4096
)

// Assembler makes packets of events. The zero Assembler is ready.
type Assembler struct {
	Names   Names
	pending []*assembly
	known   map[conntrack.Ends]bool
	// Begun counts packets, and Unnamed the rules that Names did not know.
	Begun, Unnamed int
}

// assembly is a packet that is not complete.
type assembly struct {
	Packet
	same  string
	id    uint32
	hooks []string // at which it was seen to come in
	first conntrack.Ends
	last  conntrack.Ends
	heard time.Time
	after []Record // what is told after it
}

// Add takes an event, and returns what is to be told at once.
func (a *Assembler) Add(at time.Time, e nfevents.Event) []Record {
	switch {
	case e.Trace != nil:
		return a.trace(at, e.Trace)
	case e.Log != nil:
		return a.log(at, e.Log)
	case e.Flow != nil:
		return a.flow(at, e.Flow)
	}
	return nil
}

func (a *Assembler) trace(at time.Time, t *nfevents.Trace) (out []Record) {
	marker := t.Table == nft.TraceTable
	var p *assembly
	if len(t.Header.Network) > 0 {
		hook := ""
		if marker {
			hook = t.Chain
		}
		if p, out = a.of(at, t.Header, hook); p == nil {
			return out
		}
		p.id = t.ID
	} else if p = a.find(func(p *assembly) bool { return p.id == t.ID }); p == nil {
		return nil
	}
	p.heard = at
	if marker || t.Handle == 0 && t.Kind != nfevents.Policy { // a chain that was called has come to its end
		return out
	}
	s := Step{Family: nfevents.FamilyName(t.Family), Table: t.Table, Chain: t.Chain, Verdict: t.Verdict.String(), To: t.To,
		Policy: t.Kind == nfevents.Policy}
	if t.Kind == nfevents.Return {
		s.Verdict = nfevents.Returned.String()
	}
	if t.Handle != 0 {
		s.Handle = t.Handle
		words, known := a.Names.NFT[nft.Place{Family: t.Family, Table: t.Table, Handle: t.Handle}]
		if !known {
			a.Unnamed++
		}
		s.Rule, s.Reason = ruleset.ParseComment(words.Comment)
		s.does = words.Does
		if s.Rule == "" {
			s.Text = strings.Join(words.Does, ", ")
		}
	}
	p.step(s)
	return out
}

func (a *Assembler) log(at time.Time, l *nfevents.Log) []Record {
	p, out := a.of(at, l.Header, "")
	if p == nil {
		return out
	}
	p.heard = at
	s := Step{Family: "ip", Table: l.Table, Chain: l.Chain, Policy: l.Kind == nfevents.Policy}
	place := iptables.Place{Family: ruleset.IPv4, Table: l.Table, Chain: l.Chain, Number: l.Number}
	if p.Src.Addr().Is6() {
		s.Family, place.Family = "ip6", ruleset.IPv6
	}
	switch l.Kind {
	case nfevents.Return:
		s.Verdict, s.Number = nfevents.Returned.String(), l.Number
	case nfevents.Rule:
		s.Number = l.Number
	case nfevents.Policy:
	}
	if s.Number != 0 {
		text, known := a.Names.Legacy[place]
		switch {
		case !known && l.Kind == nfevents.Return: // a chain that was called has come to its end
			return out
		case !known:
			a.Unnamed++
		}
		s.Rule, s.Reason = ruleset.ParseComment(text.Comment)
		s.Text = text.Rule
		s.does = doesOf(text.Rule)
	}
	p.step(s)
	return out
}

// doesOf says of a rule of iptables what [nft.Words] say of others.
func doesOf(rule string) []string {
	words := strings.Fields(rule)
	at := slices.Index(words, "-j")
	if at < 0 || at+1 == len(words) {
		return nil
	}
	switch t := words[at+1]; t {
	case "REDIRECT":
		return []string{string(beside.Redirect)}
	case "DNAT":
		return []string{string(beside.DNAT)}
	case "TPROXY":
		return []string{string(beside.TProxy)}
	case "DROP":
		return []string{string(beside.Discard)}
	case "REJECT":
		return []string{string(beside.Discard), nft.Rejects}
	default:
		return []string{t}
	}
}

// of returns the packet of a header, and begins one if there is none, or if this one comes in where that has come in
// already.
func (a *Assembler) of(at time.Time, h nfevents.Header, hook string) (p *assembly, out []Record) {
	ends, ok := h.Ends()
	if !ok {
		return nil, nil
	}
	same := h.Same()
	p = a.find(func(p *assembly) bool { return p.same == same })
	if p != nil && hook != "" && slices.Contains(p.hooks, hook) {
		out = a.end(p)
		p = nil
	}
	if p == nil {
		if len(a.pending) >= maxPending {
			out = append(out, a.end(a.pending[0])...)
		}
		p = &assembly{same: same, first: ends, last: ends}
		p.Packet = Packet{At: at, Protocol: ends.Protocol, Src: ends.Src, Dst: ends.Dst, Length: h.Length(), Mark: h.Mark,
			Flags: flagsOf(h), Steps: []Step{}, header: clone(h)}
		p.Hook, p.Interface = ruleset.Prerouting.String(), a.name(h.In)
		if h.In == 0 {
			p.Hook, p.Interface = ruleset.Output.String(), a.name(h.Out)
		}
		a.Begun++
		a.pending = append(a.pending, p)
	}
	if hook != "" {
		p.hooks = append(p.hooks, hook)
	}
	p.last = ends
	return p, out
}

func (a *Assembler) name(index uint32) string {
	if index == 0 || a.Names.Interface == nil {
		return ""
	}
	return a.Names.Interface(index)
}

func (a *Assembler) find(is func(*assembly) bool) *assembly {
	var last *assembly
	for _, p := range a.pending {
		if is(p) {
			last = p
		}
	}
	return last
}

func (p *assembly) step(s Step) {
	if len(p.Steps) < maxSteps {
		p.Steps = append(p.Steps, s)
	}
}

func (a *Assembler) flow(at time.Time, f *nfevents.Flow) []Record {
	p := a.find(func(p *assembly) bool { return p.first == f.Original })
	if p != nil {
		if to, translated := f.Translated(); translated && f.Change == nfevents.Began {
			p.Answers = to
		}
		a.know(f.Original)
	} else if !a.known[f.Original] {
		return nil
	}
	c := Connection{At: at, Change: "changed", Protocol: f.Original.Protocol, Src: f.Original.Src, Dst: f.Original.Dst,
		Answers: f.Reply.Src, State: f.TCPState, Mark: f.Mark, Zone: f.Zone}
	switch f.Change {
	case nfevents.Began:
		c.Change = "new"
	case nfevents.Ended:
		c.Change = "ended"
		delete(a.known, f.Original)
	case nfevents.Changed:
	}
	const most = 16
	if p != nil && len(p.after) < most {
		p.after = append(p.after, Record{Connection: &c})
		return nil
	}
	return []Record{{Connection: &c}}
}

func (a *Assembler) know(e conntrack.Ends) {
	if a.known == nil {
		a.known = map[conntrack.Ends]bool{}
	}
	if len(a.known) < maxKnown {
		a.known[e] = true
	}
}

// Due returns the packets of which nothing has been heard for a while. With all it returns the others, too.
func (a *Assembler) Due(now time.Time, all bool) (out []Record) {
	for _, p := range append([]*assembly(nil), a.pending...) {
		if all || now.Sub(p.heard) >= idle {
			out = append(out, a.end(p)...)
		}
	}
	return out
}

// end completes a packet.
func (a *Assembler) end(p *assembly) []Record {
	i := slices.Index(a.pending, p)
	a.pending = append(a.pending[:i:i], a.pending[i+1:]...)
	a.know(p.first)
	if p.last != p.first {
		p.After = &Ends{p.last.Src, p.last.Dst}
	}
	p.decide()
	return append([]Record{{Packet: &p.Packet}}, p.after...)
}

// decide finds the fate and what decided it.
func (p *assembly) decide() {
	did := func(acts ...string) *Step {
		for i := len(p.Steps) - 1; i >= 0; i-- {
			for _, act := range acts {
				if slices.Contains(p.Steps[i].does, act) {
					return &p.Steps[i]
				}
			}
		}
		return nil
	}
	p.Fate = ruleset.Fate{}.String()
	by := (*Step)(nil)
	if n := len(p.Steps); n > 0 {
		last := &p.Steps[n-1]
		legacy := last.Verdict == "" && !last.Policy && slices.Contains(last.does, string(beside.Discard))
		if last.Verdict == nfevents.Drop.String() || legacy {
			by = last
			p.Fate = ruleset.Fate{Action: ruleset.Dropped}.String()
			if slices.Contains(last.does, nft.Rejects) {
				p.Fate = ruleset.Fate{Action: ruleset.Rejected}.String()
			}
		}
	}
	switch {
	case by != nil:
	case p.last.Dst != p.first.Dst:
		by = did(string(beside.Redirect), string(beside.DNAT))
		p.Fate = ruleset.Fate{Action: ruleset.Translated, To: p.last.Dst}.String()
		redirects := p.last.Dst.Addr().IsLoopback() || p.last.Dst.Addr() == p.first.Dst.Addr()
		if by != nil {
			redirects = slices.Contains(by.does, string(beside.Redirect))
		}
		if redirects {
			p.Fate = ruleset.RedirectedTo(p.last.Dst.Port()).String()
		}
	default:
		if by = did(string(beside.TProxy)); by != nil {
			p.Fate = "tproxy"
			break
		}
		// What lets it go is the first rule of ours that does not go on: the chains that look again come later.
		for i := range p.Steps {
			s := &p.Steps[i]
			if s.Rule != "" && (s.Verdict == nfevents.Returned.String() || s.Verdict == nfevents.Accept.String() ||
				s.Verdict == "" && slices.Contains(s.does, "RETURN")) && strings.HasPrefix(s.Rule.Line(), lineOf(p.Hook)) {
				by = s
				break
			}
		}
	}
	if by == nil {
		p.Reason = "no rule decides on it"
		if p.last.Dst != p.first.Dst {
			p.Reason = "as conntrack remembers from the first packet of the connection"
		}
		return
	}
	p.By, p.Reason = string(by.Rule), by.Reason
	if by.Rule == "" {
		p.By = by.place()
		if by.Policy {
			p.Reason = "the policy of the chain"
		}
	}
}

// lineOf begins the IDs of the rules that decide on what comes in at a hook.
func lineOf(hook string) string {
	if hook == ruleset.Output.String() {
		return "O"
	}
	return "I"
}

// Data is the beginning of the packet as it came in, its headers.
func (p Packet) Data() []byte { return slices.Concat(p.header.Network, p.header.Transport) }

// Comment says in one line what became of the packet and which rules it met.
func (p Packet) Comment() string {
	text := p.Verdict()
	if p.After != nil {
		text += fmt.Sprintf("; NAT: %s -> %s", p.After.Src, p.After.Dst)
	}
	steps := make([]string, len(p.Steps))
	for i, s := range p.Steps {
		steps[i] = s.String()
	}
	if len(steps) > 0 {
		text += "; path: " + strings.Join(steps, " | ")
	}
	return text
}

// Verdict says the fate and what decided it.
func (p Packet) Verdict() string {
	text := p.Fate
	if p.By != "" {
		text += " by " + p.By
	}
	if p.Reason != "" {
		text += " (" + p.Reason + ")"
	}
	return text
}

// place says where a step was.
func (s Step) place() string {
	at := s.Family + " " + s.Table + " " + s.Chain
	switch {
	case s.Handle != 0:
		return at + " handle " + strconv.FormatUint(s.Handle, 10)
	case s.Number != 0 && !s.Policy:
		return at + " rule " + strconv.Itoa(s.Number)
	}
	return at
}

// String says a step in one line.
func (s Step) String() string {
	text := s.place()
	switch {
	case s.Rule != "":
		text = s.Chain + ": " + string(s.Rule)
	case s.Policy && s.Table == nft.Table:
		text = s.Chain
	}
	if s.Reason != "" {
		text += fmt.Sprintf(" (%s)", s.Reason)
	}
	if s.Rule == "" && s.Text != "" {
		text += " [" + s.Text + "]"
	}
	if s.Policy {
		text += ": end of the chain"
	}
	if s.Verdict != "" {
		text += ", " + s.Verdict
	}
	if s.To != "" {
		text += " " + s.To
	}
	return text
}

func flagsOf(h nfevents.Header) string {
	flags, ok := h.TCPFlags()
	if !ok {
		return ""
	}
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"} {
		if flags&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

func clone(h nfevents.Header) nfevents.Header {
	h.Network, h.Transport = slices.Clone(h.Network), slices.Clone(h.Transport)
	return h
}
