package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/arguments"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/whynot"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// WhyNot is what would give a packet the other fate. docs/explain.schema.json describes it.
type WhyNot struct {
	// Captured is true of a packet that goes to the proxy. The changes then let it go; else they send it there.
	Captured bool             `json:"captured"`
	Fate     intercept.Fate   `json:"fate"`
	ID       intercept.RuleID `json:"id"`
	Reason   string           `json:"reason"`
	Packet   Packet           `json:"packet"`
	// Changes are those of the configuration, the one that changes least first.
	Changes []WhyNotChange `json:"changes"`
}

// WhyNotChange is a change of the configuration that gives the packet the other fate.
type WhyNotChange struct {
	// Flags are those to write in place of, or beside, the ones that there are; YAML is the same for a file.
	Flags []string `json:"flags"`
	YAML  string   `json:"yaml"`
	// Lists are what that changes in lists, item by item: in one of thousands they are what to look for.
	Lists  []ListChange     `json:"lists,omitempty"`
	Fate   intercept.Fate   `json:"fate"`
	ID     intercept.RuleID `json:"id"`
	Reason string           `json:"reason"`
	// Flows and Others count the classes of packets that have another fate then: of those that begin a flow, and of the
	// others. This packet's is among them.
	Flows  int `json:"flows"`
	Others int `json:"others"`
	// Which are the flows, one text for each class.
	Which []string `json:"which"`
}

// ListChange is how a list changes.
type ListChange struct {
	Flag    string   `json:"flag"`
	Field   string   `json:"field"`
	Removed []string `json:"removed,omitempty"`
	Added   []string `json:"added,omitempty"`
}

// String says what to do with a list that is too long to be written down.
func (l ListChange) String() string {
	of := fmt.Sprintf("%s (%s)", l.Flag, l.Field)
	removed, added := Shorten(strings.Join(l.Removed, ",")), Shorten(strings.Join(l.Added, ","))
	switch {
	case added == "":
		return "take " + removed + " out of " + of
	case removed == "":
		return "add " + added + " to " + of
	}
	return "write " + added + " in place of " + removed + " in " + of
}

// longest is how long the flags of a change are at most that are written down, in bytes, to be used as they are.
const longest = 300

// How says the change: its flags, and what a file has. Of long lists it says what becomes of their items alone.
func (c WhyNotChange) How() (what string, yaml []string) {
	if text := strings.Join(c.Flags, " "); len(text) <= longest {
		return text, strings.Split(strings.TrimRight(c.YAML, "\n"), "\n")
	}
	var all []string
	for _, flag := range c.Flags {
		at := slices.IndexFunc(c.Lists, func(l ListChange) bool {
			return strings.HasPrefix(strings.TrimLeft(flag, "'"), l.Flag+"=")
		})
		if at >= 0 && len(flag) > longest/2 {
			flag = c.Lists[at].String()
		}
		all = append(all, flag)
	}
	return strings.Join(all, ", and "), nil
}

// Why finds the smallest changes of a configuration that would give the packet the other fate. The errors are those of
// [Ask], or a [*classes.TooManyError].
func Why(c intercept.Config, q Question) (WhyNot, error) {
	a, err := Ask(c, q)
	if err != nil {
		return WhyNot{}, err
	}
	found, err := whynot.Find(c, a.Packet)
	if err != nil {
		return WhyNot{}, err
	}
	e := a.Explain(c, q)
	out := WhyNot{whynot.Captured(a.Trace.Fate), a.Trace.Fate, a.Trace.Rule, whyNot(c, a.Packet, a.Trace, e.Reason),
		e.Packet, []WhyNotChange{}}
	for _, f := range found {
		change, err := changeOf(c, f, a.Packet)
		if err != nil {
			return WhyNot{}, err
		}
		out.Changes = append(out.Changes, change)
	}
	return out, nil
}

func changeOf(from intercept.Config, c whynot.Change, p intercept.Packet) (WhyNotChange, error) {
	settings, node := decode.Changed(from, c.Config)
	text, err := yamldoc.Format(node)
	if err != nil {
		return WhyNotChange{}, err
	}
	out := WhyNotChange{YAML: string(text), Fate: c.Trace.Fate, ID: c.Trace.Rule,
		Reason: Of(c.Config, p, c.Trace).Reason, Flags: []string{}, Which: []string{}}
	for _, s := range settings {
		out.Flags = append(out.Flags, arguments.Quote(s.Arg()))
	}
	for _, l := range decode.ChangedItems(from, c.Config) {
		out.Lists = append(out.Lists, ListChange{"--" + l.Field.Name, l.Field.Path, l.Removed, l.Added})
	}
	for _, change := range c.Changes {
		if !change.First {
			out.Others++
			continue
		}
		out.Flows++
		out.Which = append(out.Which, fmt.Sprintf("%s becomes %s: %s", change.Before.Fate, change.After.Fate,
			Box(change.Boxes[0].Conditions(classes.Beginning()...)).String()))
	}
	return out, nil
}

// whyNot is the reason of a rule, with what the rule does not know: who passes as the proxy, which protocol is not captured
// at all, or that a lookup is of a server that nobody has listed.
func whyNot(c intercept.Config, p intercept.Packet, trace intercept.Trace, reason string) string {
	dns := c.DNS
	switch {
	case trace.Line == "O4" && p.Owner != nil:
		return fmt.Sprintf("%s: user %d, group %d is the proxy; an app has to be another user, and of another group", reason,
			p.Owner.UID, p.Owner.GID)
	case trace.Line != "O14" && trace.Line != "I8":
		return reason
	case p.Protocol == intercept.ICMP || p.Protocol == intercept.ICMPv6:
		return reason + ": of ICMP nothing is captured"
	case p.Protocol == intercept.TCP && trace.Line == "O14":
		return fmt.Sprintf("%s: no included network has %s, and port %d is not an included one", reason, p.Dst.Addr(), p.Dst.Port())
	case p.Protocol == intercept.UDP && (trace.Line == "I8" || p.Dst.Port() != 53):
		return reason + ": of UDP nothing is captured but lookups that the pod sends to port 53 (--dns); --udp reject keeps it " +
			"from going past the proxy"
	case p.Protocol == intercept.UDP && dns.Mode == intercept.DNSOff:
		return reason + ": lookups are not captured (--dns off)"
	case p.Protocol != intercept.UDP || dns.Mode != intercept.DNSResolvConf:
		return reason
	}
	listed := make([]string, len(dns.Servers))
	for i, a := range dns.Servers {
		listed[i] = a.String()
	}
	return fmt.Sprintf("%s is none of the servers whose lookups are captured (%s)", p.Dst.Addr(),
		cmp.Or(strict.Clip(strings.Join(listed, ", ")), "none"))
}
