// Package watching tells what happens in a network namespace while it happens: who changes rules, whether ours are still
// as their configuration makes them, and what becomes of new connections.
//
// [Judge] says what becomes of a connection, and does no I/O. [Watch] is the effect.
package watching

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/nfevents"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Record is one thing to tell: one of its fields is set.
type Record struct {
	Rules *Rules `json:"rules,omitempty"`
	State *State `json:"state,omitempty"`
	Flow  *Flow  `json:"flow,omitempty"`
	More  *More  `json:"more,omitempty"`
	Lost  *Lost  `json:"lost,omitempty"`
}

// Rules says that somebody has changed rules of nf_tables, those of iptables-nft included.
type Rules struct {
	At time.Time `json:"at"`
	// By is the name of the program, and PID its number as the kernel's first PID namespace counts.
	By  string `json:"by"`
	PID uint32 `json:"pid"`
	// Generation is that of the rules from then on.
	Generation uint32  `json:"generation"`
	Tables     []Table `json:"tables"`
}

// Table is a table in which something was changed.
type Table struct {
	Family string `json:"family"`
	Name   string `json:"name"`
	// Added and Removed count rules.
	Added   int `json:"added"`
	Removed int `json:"removed"`
}

// State is how our rules are, told when that changes.
type State struct {
	At time.Time `json:"at"`
	// State is one of the words below.
	State string `json:"state"`
	// Differences are the first of those from the configuration, and More how many others there are.
	Differences []string `json:"differences,omitempty"`
	More        int      `json:"more,omitempty"`
	// Detail is the outcome or the error of a repair, who has applied a configuration, or what it means that they are gone.
	Detail string `json:"detail,omitempty"`
}

// What a [State] can be.
const (
	OK       = "ok"
	Drifted  = "drifted"
	Gone     = "gone"
	Replaced = "replaced" // another configuration was applied
	Repaired = "repaired"
	Failed   = "failed" // to repair them
)

// Flow is a new connection, as conntrack has it.
type Flow struct {
	At       time.Time        `json:"at"`
	Protocol ruleset.Protocol `json:"protocol"`
	Src      netip.AddrPort   `json:"src"`
	Dst      netip.AddrPort   `json:"dst"`
	// Resumed is whether conntrack has picked it up in its midst: it had forgotten it, or was not at work when it began. It
	// is not known then who has opened it, and nothing else is said of it but where the packet went that was seen.
	Resumed bool `json:"resumed,omitempty"`
	// Direction is outbound, inbound or inside (the pod to itself).
	Direction string `json:"direction"`
	// Sender is who has opened the socket that sends. Nil: it is not known.
	Sender *Sender `json:"sender,omitempty"`
	// Captured is whether it goes to the proxy, and To where NAT has sent it.
	Captured bool           `json:"captured"`
	To       netip.AddrPort `json:"to,omitzero"`
	// Fate is as the rules say it, and Rule and Reason are those of the rule that decides, by the configuration in force.
	// They are empty where that is not known.
	Fate   string         `json:"fate,omitempty"`
	Rule   ruleset.RuleID `json:"rule,omitempty"`
	Reason string         `json:"reason,omitempty"`
	// Uncaptured is true of what goes past the proxy although its sender is one whose connections are captured, and
	// Unexpected if the configuration asks for it to be captured.
	Uncaptured bool `json:"uncaptured,omitempty"`
	Unexpected bool `json:"unexpected,omitempty"`
	// Rules is how our rules are, where that is why it is unexpected: drifted or gone. Empty: another's rule came first, or
	// the connection is older than they are.
	Rules string `json:"rules,omitempty"`
}

// Sender is who has a socket. PID and Program are empty, and GID is nil, if the process cannot be seen.
type Sender struct {
	UID     uint32  `json:"uid"`
	GID     *uint32 `json:"gid,omitempty"`
	PID     int     `json:"pid,omitempty"`
	Program string  `json:"program,omitempty"`
	Mark    uint32  `json:"mark,omitempty"`
}

// More counts connections of which nothing else is told, for there are too many.
type More struct {
	At       time.Time `json:"at"`
	Captured int       `json:"captured"`
	Passed   int       `json:"passed"`
}

// Lost counts the events that the kernel had no room for, since the last record of them.
type Lost struct {
	At     time.Time `json:"at"`
	Events uint64    `json:"events"`
}

// Directions of a [Flow].
const (
	Outbound = "outbound"
	Inbound  = "inbound"
	Inside   = "inside"
)

// Judge says what becomes of connections. The zero Judge knows no configuration.
type Judge struct {
	config intercept.Config
	rules  *ruleset.Ruleset
	// addrs are the pod's own addresses, and the interfaces that have them.
	addrs map[netip.Addr]string
}

// Use takes the configuration in force. Nil: it is not known.
func (j *Judge) Use(c *intercept.Config) error {
	if j.rules = nil; c == nil {
		return nil
	}
	rs, err := intercept.Compile(*c)
	if err != nil {
		return fmt.Errorf("the configuration in force: %w", err)
	}
	j.config, j.rules = *c, &rs
	return nil
}

// Place takes the interfaces of the pod.
func (j *Judge) Place(all []links.Link) {
	j.addrs = map[netip.Addr]string{}
	for _, l := range all {
		for _, a := range l.Addrs {
			j.addrs[a] = l.Name
		}
	}
}

func (j *Judge) isOwn(a netip.Addr) bool { return a.IsLoopback() || j.addrs[a] != "" }

// Sends reports whether a flow is sent in the pod, so that there is a sender.
func (j *Judge) Sends(f nfevents.Flow) bool { return j.isOwn(f.Original.Src.Addr()) }

// Knows reports whether both addresses are such as it can place: one of them is the pod's.
func (j *Judge) Knows(f nfevents.Flow) bool {
	return j.isOwn(f.Original.Src.Addr()) || j.isOwn(f.Original.Dst.Addr())
}

// Flow judges a new connection.
func (j *Judge) Flow(at time.Time, f nfevents.Flow, sender *Sender) Flow {
	o := f.Original
	out := Flow{At: at, Protocol: o.Protocol, Src: o.Src, Dst: o.Dst, Sender: sender, Direction: Inbound}
	p := ruleset.Packet{Hook: ruleset.Prerouting, Protocol: o.Protocol, Src: o.Src, Dst: o.Dst, Listening: true,
		Interface: j.addrs[o.Dst.Addr()], Echo: o.Protocol == ruleset.ICMP || o.Protocol == ruleset.ICMPv6}
	if p.Interface == "" {
		p.Interface, p.Foreign = "eth0", true
	}
	if j.Sends(f) {
		out.Direction, p.Hook, p.Listening, p.Foreign = Outbound, ruleset.Output, false, false
		if p.Interface = j.addrs[o.Src.Addr()]; j.isOwn(o.Dst.Addr()) {
			out.Direction, p.Interface = Inside, ruleset.Loopback
		} else if p.Interface == "" || p.Interface == ruleset.Loopback {
			p.Interface = "eth0"
		}
		if sender != nil {
			p.Mark = sender.Mark
			p.Owner = &ruleset.Owner{UID: sender.UID, GID: sender.UID} // as it mostly is, where the group is not known
			if sender.GID != nil {
				p.Owner.GID = *sender.GID
			}
		}
	}
	if out.Resumed = isResumed(f); out.Resumed {
		return out
	}
	if to, translated := f.Translated(); translated {
		out.To = to
		out.Captured = j.isOurs(to)
	}
	if j.rules == nil || out.Direction != Inbound && sender == nil {
		return out
	}
	t, err := j.rules.Trace(p)
	if err != nil { // of a packet that the policy does not speak of
		return out
	}
	wants := t.Fate.Action == ruleset.Redirected || t.Fate.Action == ruleset.Translated || t.Fate.Action == ruleset.Transparent
	if wants != (out.Captured || out.To.IsValid()) && t.Fate.Action != ruleset.Transparent {
		out.Unexpected = wants
		if !wants { // somebody else's NAT, or a connection that is older than the rules
			return out
		}
	}
	out.Captured = out.Captured || t.Fate.Action == ruleset.Transparent
	out.Rule, out.Reason = t.Rule, t.Reason
	if out.Fate = t.Fate.String(); out.Unexpected {
		out.Fate = ruleset.Fate{}.String()
	}
	out.Uncaptured = out.Direction == Outbound && !out.Captured && !out.To.IsValid() && t.Fate.Action != ruleset.Rejected &&
		t.Fate.Action != ruleset.Dropped && !isExempt(t.Line)
	return out
}

// isResumed reports whether the flow begins with another packet than those that open a connection. Conntrack takes it for
// open then (tcp_new in net/netfilter/nf_conntrack_proto_tcp.c; net.netfilter.nf_conntrack_tcp_loose).
func isResumed(f nfevents.Flow) bool {
	switch f.TCPState {
	case "", "NONE", "SYN_SENT", "SYN_SENT2", "SYN_RECV":
		return false
	}
	return f.Original.Protocol == ruleset.TCP
}

// isOurs reports whether NAT has sent something to the proxy.
func (j *Judge) isOurs(to netip.AddrPort) bool {
	if j.rules == nil {
		return j.isOwn(to.Addr())
	}
	for _, c := range j.rules.Chains {
		for _, r := range c.Rules {
			switch t := r.Target.(type) { //nolint:gochecksumtype // the others do not translate
			case ruleset.Redirect:
				if j.isOwn(to.Addr()) && to.Port() >= t.Ports.First && to.Port() <= t.Ports.Last {
					return true
				}
			case ruleset.DNAT:
				if t.To == to {
					return true
				}
			}
		}
	}
	return false
}

// isExempt reports whether a line lets go of what its sender, and not its destination, makes an exception: the proxy's
// own, and that of excluded owners; or what does not leave the pod.
func isExempt(line string) bool {
	switch line {
	case "O1", "O2", "O4", "O6", "O7", "O9":
		return true
	}
	return false
}
