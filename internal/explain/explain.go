// Package explain says what rules do to packets, for people and programs: to one packet, and why; to all, kind by kind;
// and which packets have another fate under another configuration. It is a function of configurations.
package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Explanation is what becomes of a packet. docs/explain.schema.json describes it.
type Explanation struct {
	Fate   intercept.Fate `json:"fate"`
	Words  string         `json:"words"`
	Packet Packet         `json:"packet"`
	// ID, Line and Reason are those of the rule that decided; empty if none did.
	ID     intercept.RuleID `json:"id"`
	Line   string           `json:"line"`
	Reason string           `json:"reason"`
	Zone   uint16           `json:"conntrackZone,omitempty"`
	// Sources are where the configuration was given: a file, flags, variables. It
	// is the default if there are none.
	Sources []string `json:"sources"`
	Steps   []Step   `json:"steps"`
}

// Packet is a packet as an Explanation has it.
type Packet struct {
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

// Step is one rule's look at the packet.
type Step struct {
	Chain   string           `json:"chain"`
	ID      intercept.RuleID `json:"id"`
	Line    string           `json:"line"`
	Reason  string           `json:"reason"`
	Matched bool             `json:"matched"`
	Decided bool             `json:"decided,omitempty"`
	Target  string           `json:"target,omitempty"` // of a rule that matched
	Because string           `json:"because,omitempty"`
}

// Answer is a Question's, with what it was made of.
type Answer struct {
	Rules  intercept.Ruleset
	Packet intercept.Packet
	Trace  intercept.Trace
}

// Ask follows the packet that is described through the rules of a configuration. The errors joined are those of
// [intercept.Compile], or of type [*FlagError].
func Ask(c intercept.Config, q Question) (Answer, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return Answer{}, err
	}
	return Follow(rs, c, q)
}

// Follow is [Ask] of rules that have been made of the configuration.
func Follow(rs intercept.Ruleset, c intercept.Config, q Question) (Answer, error) {
	packet, err := q.Packet(c)
	if err != nil {
		return Answer{}, err
	}
	if q.State == StateEstablished {
		rs.Older = []ruleset.Tuple{{Src: packet.Src, Dst: packet.Dst}}
	}
	trace, err := rs.Trace(packet)
	if of, is := errors.AsType[*ruleset.PacketError](err); is && of.Field == "Dst" {
		err = &FlagError{"dst", errors.New(of.Problem)}
	}
	return Answer{rs, packet, trace}, err
}

// Explain puts an answer into words.
func (a Answer) Explain(c intercept.Config, q Question) Explanation {
	e := Of(c, a.Packet, a.Trace)
	q = q.complete()
	from := q.From
	if o := a.Packet.Owner; from == FromApp && o != nil && (c.Proxy.UIDs.Contains(o.UID) || c.Proxy.GIDs.Contains(o.GID) ||
		c.Proxy.Mark.Matches(a.Packet.Mark)) {
		from = FromProxy // by who it is, whatever it is called
	}
	e.Packet = Describe(a.Packet, from, q.State)
	return e
}

// Of puts a packet's trace into words. It does not describe the packet, nor say where the configuration is from.
func Of(c intercept.Config, p intercept.Packet, t intercept.Trace) Explanation {
	e := Explanation{
		Fate: t.Fate, Words: words(c, t.Fate), ID: t.Rule, Line: t.Line, Reason: t.Reason, Zone: t.Zone,
		Sources: []string{}, Steps: []Step{},
	}
	if e.Reason == "" {
		e.Reason = "no rule decides on such a packet"
		if p.State == intercept.CTInvalid {
			e.Reason = "redirecting rules are not asked about an invalid packet, and --drop-invalid is off"
		}
	}
	for _, s := range t.Steps {
		step := Step{
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
		return "goes on untouched: it is not captured"
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

// Describe is a packet as people see it: who sends it, and what conntrack makes of it.
func Describe(p intercept.Packet, from, state string) Packet {
	out := Packet{
		From: from, Protocol: p.Protocol.String(), Src: p.Src, Dst: p.Dst, Interface: p.Interface, State: state, Mark: p.Mark,
	}
	if p.Owner != nil {
		out.UID, out.GID = &p.Owner.UID, &p.Owner.GID
	}
	return out
}

// String is the packet on one line.
func (p Packet) String() string {
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
	who := "the " + p.From
	if p.From == "process" { // that may be the proxy's by one configuration, and an app's by the other
		who = "a process"
	}
	return s + ", leaving by " + p.Interface + ", from " + who +
		" (UID " + strconv.FormatUint(uint64(*p.UID), 10) + ", GID " + strconv.FormatUint(uint64(*p.GID), 10) + ")"
}

// Shorten cuts a list of thousands to what fits beside a rule.
func Shorten(s string) string {
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
