package verify

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Outcome is what became of a connection or a datagram.
type Outcome string

// The outcomes. The zero one: nobody waited for it.
const (
	Accepted    Outcome = "accepted"
	Answered    Outcome = "answered" // a lookup
	Refused     Outcome = "refused"
	Reset       Outcome = "reset"       // once it was accepted
	Unreachable Outcome = "unreachable" // a router said so
	TimedOut    Outcome = "timed out"
)

// Seen is what was seen of a [Probe].
type Seen struct {
	// Err is why it could not be opened. Nil: it was.
	Err     error
	Outcome Outcome
	// Tracked is whether conntrack can be asked, and Entry what it has of the connection. Nil: nothing.
	Tracked bool
	Entry   *Entry
	// Sent is where its packets have gone once NAT was asked, as far as that was seen: also of what conntrack has forgotten.
	Sent []netip.AddrPort
	// Translators are the chains of others that translate at the hook, and Before and After those that discard there, by name:
	// before ours, and after.
	Translators []Translator
	Before      []string
	After       []string
	// Untrackers are the chains of others there that keep packets from conntrack, by name.
	Untrackers []string
	// At is where a connection has arrived in the pod, if that could be seen.
	At netip.AddrPort
	// Returned is how many connections of others to the same destination were captured meanwhile.
	Returned int
	// Answer says what a resolver has answered, if not that there is such a name, or none: SERVFAIL or REFUSED.
	Answer string
	// Looped is how many connections of others were opened meanwhile to where it has arrived.
	Looped int
	// Counts is whether the rules' counters could be read, and Counted how often the rule that has to decide has
	// counted meanwhile.
	Counts  bool
	Counted uint64
	// RefusedBy is a rule of ours that refuses or discards, and has counted meanwhile. Empty: none has.
	RefusedBy ruleset.RuleID
	// Replied is true of a connection for which nobody waits if an answer came, whatever it says.
	Replied bool
	// By is who accepted it, or, of a lookup over UDP, who hears it, or, of what is refused, who listens all the same.
	// Nil: not known.
	By []Holder
	// Pending is true of a connection that the kernel has accepted and no process has taken.
	Pending bool
	// Unserved are those of several destinations at which nobody waits.
	Unserved []netip.AddrPort
	// Nearby are the sockets that wait at the same port.
	Nearby []Socket
}

// Translator is a chain of another's that translates destinations.
type Translator struct {
	Name string
	// Ports are those of this host to which it sends packets. Empty: they are not known, or it sends them to others, too.
	Ports []uint16
	// Rest is true if it sends all that comes to it to this host.
	Rest bool
}

// Entry is what conntrack has of a connection.
type Entry struct {
	// To is where its packets go.
	To   netip.AddrPort
	Mark uint32
	Zone uint16
}

// Judge says what was proven of a probe.
func Judge(c intercept.Config, p Probe, s Seen) Verdict {
	v := Verdict{What: p.What, Tried: p.tried(), Rule: p.Trace.Rule, Reason: p.Trace.Reason}
	j := &judge{c, p, s}
	switch p.Trace.Fate.Action {
	case ruleset.Redirected, ruleset.Translated, ruleset.Transparent:
		v.Verdict, v.Found, v.Remedy = j.captured()
	case ruleset.Rejected:
		v.Verdict, v.Found, v.Remedy = j.rejected()
	case ruleset.Pass, ruleset.Dropped:
		v.Verdict, v.Found, v.Remedy = j.passed()
	}
	if v.Verdict == Failed && p.Loopback != "" {
		v.Found += "; " + p.Loopback
		v.Remedy = "set lo up, with its addresses 127.0.0.1 and ::1, and run verify again"
	}
	return v
}

type judge struct {
	c intercept.Config
	p Probe
	s Seen
}

// by names the rule that decides.
func (j *judge) by() string { return fmt.Sprintf("by %s (%s)", j.p.Trace.Rule, j.p.Trace.Reason) }

// isTaken reports whether the connection goes where the rule sends it.
func (j *judge) isTaken() bool {
	if !j.s.Tracked {
		return j.s.Counted > 0 || j.hasArrived()
	}
	if j.s.Entry == nil {
		// Of what is refused, or discarded, conntrack keeps nothing.
		return j.s.Counted > 0
	}
	to := j.s.Entry.To
	switch f := j.p.Trace.Fate; f.Action {
	case ruleset.Redirected:
		return ruleset.Ports{f.Ports}.Contains(to.Port()) && to != j.p.Packet.Dst
	case ruleset.Translated:
		return to == f.To
	case ruleset.Transparent:
		return j.c.Inbound.TProxy.SelfMark.Matches(j.s.Entry.Mark)
	case ruleset.Pass, ruleset.Rejected, ruleset.Dropped:
	}
	return false
}

// hasArrived reports whether the connection is seen to have come to where the rule sends it. Of a lookup over UDP
// nothing is seen but its answer, which shows it where nobody else can have given it.
func (j *judge) hasArrived() bool {
	if j.p.Packet.Protocol == ruleset.UDP {
		return j.s.Outcome == Answered && !slices.Contains(j.c.DNS.Servers, j.p.Packet.Dst.Addr())
	}
	return j.s.At.IsValid() && j.s.At != j.p.Packet.Dst && slices.Contains(j.p.Destinations(), j.s.At)
}

// elsewhere is where another's rule has sent the connection, if one has.
func (j *judge) elsewhere() (netip.AddrPort, bool) {
	if j.s.Entry != nil {
		return j.s.Entry.To, j.s.Entry.To != j.p.Packet.Dst
	}
	// Of what is refused at once conntrack keeps nothing.
	for _, to := range j.s.Sent {
		if to != j.p.Packet.Dst {
			return to, true
		}
	}
	return netip.AddrPort{}, false
}

// canHaveSent reports whether a chain of another's can have sent it there.
func (t *Translator) canHaveSent(to netip.AddrPort) bool {
	return len(t.Ports) == 0 || slices.Contains(t.Ports, to.Port())
}

// sentTo says who has sent it there.
func (j *judge) sentTo(to netip.AddrPort) string {
	var names []string
	for i := range j.s.Translators {
		if t := &j.s.Translators[i]; t.canHaveSent(to) {
			names = append(names, t.Name)
		}
	}
	return "another's rule sends it to " + to.String() + in(names)
}

// in says in which chains of others a rule is.
func in(names []string) string {
	switch len(names) {
	case 0:
		return ""
	case 1:
		return " (in " + names[0] + ")"
	}
	return " (in " + strings.Join(names, ", or in ") + ")"
}

// isInPod reports whether an address is the pod's, as far as the packet shows.
func (j *judge) isInPod(a netip.Addr) bool {
	return a.IsLoopback() || a == j.p.At || !j.p.Outside() && a == j.p.Packet.Src.Addr()
}

// takesBack reports whether what has to leave the pod was sent to the pod itself, or what has to stay, or to arrive, by a
// chain that does so with all that comes to it.
func (j *judge) takesBack(to netip.AddrPort) bool {
	back := j.p.Packet.Hook == ruleset.Output && j.p.Packet.Interface != ruleset.Loopback
	for i := range j.s.Translators {
		t := &j.s.Translators[i]
		back = back || t.Rest && t.canHaveSent(to)
	}
	return back && j.isInPod(to.Addr())
}

const (
	applyAgain  = "run mesh-init check, which compares the rules, and mesh-init apply --live, which puts them right"
	seeOthers   = "mesh-init doctor lists the chains of others that are asked before ours"
	letPass     = "let the rule there leave it alone: mesh-init doctor lists the chains of others"
	startListen = "start the proxy, or let it listen there"
)

// captured judges what has to go to the proxy, or to a resolver.
func (j *judge) captured() (Word, string, string) {
	to := j.p.Trace.Fate.String()
	if j.s.Err != nil {
		return Failed, "could not be opened: " + j.s.Err.Error(), "see the pod's addresses and routes"
	}
	if !j.isTaken() {
		if other, is := j.elsewhere(); is {
			return Failed, fmt.Sprintf("not captured: %s; %s has to be its fate, %s", j.sentTo(other), to,
				j.by()), seeOthers
		}
		if j.isUntracked() {
			past := "goes past the proxy"
			if j.s.RefusedBy != "" {
				past = "is refused by " + string(j.s.RefusedBy)
			}
			return Failed, fmt.Sprintf("not captured: another's rule%s keeps it from conntrack, and it %s; %s has to be its "+
				"fate, %s", in(j.s.Untrackers), past, to, j.by()), letPass
		}
		if j.s.Outcome == Refused && j.s.RefusedBy != "" {
			remedy := applyAgain
			if len(j.s.Translators)+len(j.s.Before) > 0 {
				remedy = seeOthers
			}
			return Failed,
				fmt.Sprintf("not captured, and refused by %s, so that it does not go past the proxy; %s has to be its "+
					"fate, %s", j.s.RefusedBy, to, j.by()), remedy
		}
		if j.s.Outcome == Refused {
			return Failed, fmt.Sprintf("refused, and not captured: no rule of ours has counted it; %s has to be its fate, %s",
				to, j.by()), applyAgain
		}
		if j.s.Counts && j.s.Counted == 0 && !j.hasLeft() && len(j.s.Before) > 0 {
			return Failed, fmt.Sprintf("not captured: it has not come to our rules: another's rule%s discards it before, or "+
				"queues it; %s has to be its fate, %s", in(j.s.Before), to, j.by()), letPass
		}
		if j.s.Tracked && j.s.Entry == nil && j.s.Outcome != Accepted && j.s.Outcome != Answered {
			return Failed, fmt.Sprintf("not captured: no rule of ours and no conntrack has seen it; %s has to be its fate, %s",
					to, j.by()), "run mesh-init check, which says whether the rules are in force; else a rule of another's discards " +
					"it, or keeps conntrack from it: mesh-init doctor lists them"
		}
		return Failed, fmt.Sprintf("not captured: it goes past the proxy; %s has to be its fate, %s", to, j.by()), applyAgain
	}
	found := fmt.Sprintf("%s %s", to, j.by())
	if j.s.Counts && j.s.Counted == 0 {
		found = to + ", though our rule " + string(j.p.Trace.Rule) + " has not counted it: another's does the same before"
	}
	if j.p.Lenient && j.s.Outcome != Accepted {
		return OK, found, ""
	}
	if j.s.Looped >= loop {
		return Failed, fmt.Sprintf("%s; then who listens there connected to itself: %d more connections to %s. It does not "+
				"know the original destination", found, j.s.Looped, j.at()),
			"let the proxy ask for it (SO_ORIGINAL_DST), at a socket of its own for each family: 0.0.0.0 and ::"
	}
	switch j.s.Outcome {
	case Accepted, Answered:
		return j.accepted(found)
	case Reset:
		return j.reset(found)
	case Refused:
		if j.p.Trace.Fate.Action == ruleset.Redirected && len(j.p.Destinations()) == 1 && len(j.s.By) > 0 {
			stopped, remedy := j.stopped("rejects it")
			return Failed, fmt.Sprintf("%s, and refused, though %s listens at %s%s", found, j.s.By[len(j.s.By)-1], j.at(),
				stopped), cmp.Or(remedy, applyAgain)
		}
		if j.isBoundElsewhere() {
			return NotProven, found + ", and refused: " + j.nobody() + "; verify comes in by another interface",
				"connect to the pod by that interface, and see that the proxy gets it; or accept it with --allow-unproven"
		}
		return Failed, found + ", and refused: " + j.nobody(), startListen
	case Unreachable:
		return Failed, found + ", and a router says that it cannot be reached", "see the route to it"
	case TimedOut:
	}
	if stranger, is := j.stranger(); is {
		return j.notProxy(found+", and not answered in time", stranger)
	}
	if j.p.Lookup {
		return Failed, found + ", and not answered in time" + j.heard(),
			"see the resolver's log: its own lookups may come back to it, its servers may not answer, or it answers from " +
				"another address than " + j.at()
	}
	if j.p.Trace.Fate.Action == ruleset.Transparent {
		const remedy = "let the proxy listen there with IP_TRANSPARENT, and see that the reverse path filter lets marked packets in"
		if len(j.s.By) > 0 {
			return Failed, fmt.Sprintf("%s, and not accepted in time, though %s listens at %s: perhaps without IP_TRANSPARENT", found,
				j.s.By[0], j.at()), remedy
		}
		return Failed, found + ", and not accepted in time: " + j.nobody(), remedy
	}
	stopped, remedy := j.stopped("discards it")
	return Failed, found + ", and not accepted in time" + stopped,
		cmp.Or(remedy, "see whether the proxy still accepts, and the rules of others")
}

// stopped names the chains of others that can have stopped what ours have captured, if there are any, and what to do.
func (j *judge) stopped(how string) (text, remedy string) {
	if all := slices.Concat(j.s.Before, j.s.After); len(all) > 0 {
		return "; perhaps another's rule" + in(all) + " " + how, letPass + "; else see whether the proxy still accepts"
	}
	return "", ""
}

// at is where the connection has to be accepted.
func (j *judge) at() string {
	if j.s.Entry != nil && j.p.Trace.Fate.Action != ruleset.Transparent {
		return j.s.Entry.To.String()
	}
	var all []string
	for _, to := range j.p.Destinations() {
		all = append(all, to.String())
	}
	return strings.Join(all, " or ")
}

// nobody says who listens at the port, if not where the connection goes.
func (j *judge) nobody() string {
	s := "nobody listens at " + j.at()
	var others []string
	for _, o := range j.s.Nearby {
		others = append(others, fmt.Sprintf("%s at %s", o.Holder, o.Where()))
	}
	if len(others) > 0 {
		s += "; there is " + strings.Join(others, ", ")
	}
	return s
}

// isBoundElsewhere reports whether who listens for what arrives does so by an interface of the pod's own, by which verify
// does not come in.
func (j *judge) isBoundElsewhere() bool {
	return j.p.Outside() && slices.ContainsFunc(j.s.Nearby, func(s Socket) bool {
		return s.Device != "" && s.Device != ruleset.Loopback
	})
}

// heard says who hears a lookup.
func (j *judge) heard() string {
	var all []string
	for _, h := range j.s.By {
		all = append(all, h.String())
	}
	switch len(all) {
	case 0:
		return ""
	case 1:
		return "; it is heard by " + all[0]
	}
	return "; these share the port, and one of them hears it: " + strings.Join(all, ", ")
}

// String says whose a socket is: "user 1337, group 1337 (envoy, process 12)".
func (h Holder) String() string {
	s := fmt.Sprintf("user %d", h.UID)
	if h.GID != nil {
		s += fmt.Sprintf(", group %d", *h.GID)
	}
	if h.Mark != 0 {
		s += fmt.Sprintf(", mark %#x", h.Mark)
	}
	if h.PID != 0 {
		s += fmt.Sprintf(" (%s, process %d)", h.Process, h.PID)
	}
	return s
}

// isProxy says whether a holder is the proxy, by the rules. known is false if that takes its group, which is not known.
func isProxy(p intercept.Proxy, h Holder) (is, known bool) {
	switch {
	case p.UIDs.Contains(h.UID), p.Mark.Matches(h.Mark):
		return true, true
	case len(p.GIDs) == 0:
		return false, true
	case h.GID == nil:
		return false, false
	}
	return p.GIDs.Contains(*h.GID), true
}

// accepted judges who has accepted, and whether it comes back.
func (j *judge) accepted(found string) (Word, string, string) {
	if j.s.Pending {
		return Failed, found + ", and no process has accepted it", "see whether the proxy hangs, or is stopped"
	}
	found += ", and " + string(j.s.Outcome)
	if j.s.Answer != "" {
		found += " (" + j.s.Answer + ")"
	}
	if len(j.s.Unserved) > 0 {
		return Failed, fmt.Sprintf("%s; but nobody listens at %s, to which others are sent", found, j.s.Unserved[0]),
			startListen
	}
	if j.p.Trace.Fate.Action == ruleset.Translated && len(j.s.By) == 0 {
		return OK, found, ""
	}
	if len(j.s.By) > 0 {
		found += " by " + j.s.By[0].String()
	}
	if stranger, is := j.stranger(); is {
		return j.notProxy(found, stranger)
	}
	if j.s.Returned > 0 {
		return Failed, fmt.Sprintf("%s; then it came back: %d more connections to the same destination were captured", found,
			j.s.Returned), "run the proxy as " + Identity(j.c.Proxy)
	}
	unknown := func(h Holder) bool { _, known := isProxy(j.c.Proxy, h); return !known }
	if len(j.s.By) == 0 || slices.ContainsFunc(j.s.By, unknown) {
		return NotProven, found + "; whether that is the proxy (" + Identity(j.c.Proxy) + ") could not be found out",
			"run verify as root on the node, or name the proxy's user with --proxy-uid"
	}
	return OK, found, ""
}

// loop is how many connections to itself make a loop: somebody else's check of a listener is none.
const loop = 4

// reset judges what was accepted and closed at once.
func (j *judge) reset(found string) (Word, string, string) {
	if stranger, is := j.stranger(); is {
		return j.notProxy(found+", and closed at once", stranger)
	}
	who := "whoever listens at " + j.at()
	if len(j.s.By) > 0 {
		who = fmt.Sprintf("%s, who listens at %s", j.s.By[len(j.s.By)-1], j.at()) // the last is the socket that listens
	}
	return Failed, found + ", and closed at once by " + who,
		"see the proxy's log: its own rules may refuse this destination; or it does not know the original destination, " +
			"as with one socket for both families, and refuses to connect to itself"
}

// stranger is a holder who is not the proxy.
func (j *judge) stranger() (Holder, bool) {
	for _, h := range j.s.By {
		if is, known := isProxy(j.c.Proxy, h); known && !is {
			return h, true
		}
	}
	return Holder{}, false
}

// notProxy says that somebody else has the proxy's port.
func (j *judge) notProxy(found string, h Holder) (Word, string, string) {
	return Failed, fmt.Sprintf("%s; %s is not the proxy (%s): what it sends on comes back to it, or it is somebody else, "+
			"who gets what is the proxy's", found, h, Identity(j.c.Proxy)), "run the proxy as that, or name who it is with " +
			"--proxy-uid or --proxy-gid"
}

// Identity says who the proxy is.
func Identity(p intercept.Proxy) string {
	var all []string
	if len(p.UIDs) > 0 {
		all = append(all, "user "+p.UIDs.String())
	}
	if len(p.GIDs) > 0 {
		all = append(all, "group "+p.GIDs.String())
	}
	if p.Mark.Mask != 0 {
		all = append(all, "mark "+p.Mark.String())
	}
	return strings.Join(all, " or ")
}

// rejected judges what has to be refused.
func (j *judge) rejected() (Word, string, string) {
	switch {
	case j.s.Err != nil:
		return Failed, "could not be opened: " + j.s.Err.Error(), "see the pod's addresses and routes"
	case j.s.Outcome != Refused:
		return Failed, "not rejected; " + j.by() + " it has to be", applyAgain
	case j.s.Counts && j.s.Counted == 0:
		return Failed, "refused, but our rule " + string(j.p.Trace.Rule) + " has not counted it", applyAgain
	}
	return OK, "rejected " + j.by(), ""
}

// passed judges what has to be left alone.
func (j *judge) passed() (Word, string, string) {
	if j.s.Err != nil {
		return NotProven, "could not be opened: " + j.s.Err.Error(), "see the pod's addresses and routes"
	}
	to, translated := j.elsewhere()
	if translated && j.isOurs(to) && j.s.Counts && j.s.Counted > 0 {
		return j.takenBack(to)
	}
	if translated && j.isOurs(to) {
		return Failed, fmt.Sprintf("it is sent to %s; %s it has to be left alone", to, j.by()), applyAgain
	}
	if j.c.Inbound.Mode == intercept.InboundTProxy && j.p.Outside() && j.s.Entry != nil &&
		j.c.Inbound.TProxy.SelfMark.Matches(j.s.Entry.Mark) {
		return Failed, "it is captured; " + j.by() + " it has to be left alone", applyAgain
	}
	if j.s.Outcome == Refused && j.s.RefusedBy != "" {
		remedy := applyAgain
		if j.s.Counted > 0 {
			remedy = "a rule of another's may send it to us once ours have let it go: " + seeOthers
		}
		return Failed, fmt.Sprintf("refused by %s; %s it has to be left alone", j.s.RefusedBy, j.by()), remedy
	}
	if j.isUntracked() {
		return NotProven, fmt.Sprintf("it is left alone, as another's rule%s keeps it from conntrack: our rule %s was not asked",
			in(j.s.Untrackers), j.p.Trace.Rule), letPass
	}
	if translated && j.takesBack(to) {
		return j.takenBack(to)
	}
	if translated {
		return OK, fmt.Sprintf("left alone %s; %s", j.by(), j.sentTo(to)), ""
	}
	if !j.s.Counts && !j.s.Tracked {
		return j.untouched()
	}
	if j.s.Counts && j.s.Counted == 0 && !j.hasLeft() && len(j.s.Before) > 0 {
		return Failed, fmt.Sprintf("it has not come to our rules: another's rule%s discards it before, or queues it; %s "+
			"it has to be left alone", in(j.s.Before), j.by()), letPass
	}
	if j.s.Counts && j.s.Counted == 0 {
		return Failed, "it is left alone, but our rule " + string(j.p.Trace.Rule) + " has not counted it", applyAgain
	}
	if j.s.Tracked && j.s.Entry == nil && !j.hasAnswer() && !j.isForwarded() {
		found := "left alone " + j.by() + ", and discarded in the pod: conntrack has no connection that has left, or has arrived"
		if len(j.s.After) > 0 {
			return Failed, found + "; perhaps another's rule" + in(j.s.After) + " discards it", letPass
		}
		return Failed, found, "a rule of another's discards it: see nft list ruleset, and iptables-save"
	}
	if k := j.p.Packet; k.Hook == ruleset.Output && k.Protocol == ruleset.TCP && k.Interface == ruleset.Loopback &&
		!j.s.Replied && j.s.Outcome != Refused {
		return Failed, "left alone " + j.by() + ", and the pod does not answer itself",
			"see whether lo is up, and the rules of others"
	}
	return OK, "left alone " + j.by(), ""
}

// untouched judges what has to be left alone by where it has arrived, if at all. What is captured would be accepted by
// the proxy: whether that accepts, other probes show.
func (j *judge) untouched() (Word, string, string) {
	switch {
	case j.p.Packet.Protocol != ruleset.TCP || j.s.Outcome == "":
		return NotProven, "neither conntrack nor counters can be read", "mesh-init doctor says what is missing"
	case j.s.At.IsValid() && j.isOurs(j.s.At) && j.s.At != j.p.Packet.Dst:
		return Failed, fmt.Sprintf("it is sent to %s; %s it has to be left alone", j.s.At, j.by()), applyAgain
	case j.s.Outcome == Accepted && j.s.At.IsValid():
		return OK, fmt.Sprintf("left alone %s: it has arrived at %s", j.by(), j.s.At), ""
	}
	return OK, fmt.Sprintf("left alone %s: %s", j.by(), j.s.Outcome), ""
}

// takenBack says who has sent to the pod what ours let go, or were not asked about.
func (j *judge) takenBack(to netip.AddrPort) (Word, string, string) {
	if j.s.Counts && j.s.Counted == 0 {
		return Failed, fmt.Sprintf("it has not come to our rules: %s; %s it has to be left alone", j.sentTo(to), j.by()), seeOthers
	}
	found := fmt.Sprintf("our rule %s has let it go, and %s", j.p.Trace.Rule, j.sentTo(to))
	if j.s.RefusedBy != "" {
		found += ", where it is refused by " + string(j.s.RefusedBy)
	}
	return Failed, found + "; " + j.by() + " it has to be left alone",
		"mesh-init doctor lists the chains of others that translate what ours let go: let the rule there leave it alone"
}

// isUntracked reports whether another's rule keeps the packet from conntrack, and so from our rules that translate.
func (j *judge) isUntracked() bool {
	return j.s.Tracked && j.s.Entry == nil && len(j.s.Untrackers) > 0 && j.s.Counts && j.s.Counted == 0
}

// hasAnswer reports whether somebody has answered or refused, who may be far away: of a connection that is refused conntrack
// keeps nothing. A datagram is refused where it is sent, or conntrack has it.
func (j *judge) hasAnswer() bool {
	return j.s.Replied || j.s.Outcome == Refused && j.p.Packet.Protocol == ruleset.TCP
}

// isForwarded reports whether the packet goes on only where the pod forwards, which it need not: what is for others, or a
// datagram from behind the pod.
func (j *judge) isForwarded() bool {
	return j.p.Packet.Foreign || j.p.Packet.Protocol == ruleset.UDP && j.p.Outside() && j.p.Hops > 1
}

// hasLeft reports whether anything shows that the packet came past the chains before ours.
func (j *judge) hasLeft() bool { return j.s.Entry != nil || j.s.Replied || len(j.s.Sent) > 0 }

// isOurs reports whether a rule of ours sends connections to an address and port.
func (j *judge) isOurs(to netip.AddrPort) bool {
	if slices.Contains(slices.Concat(j.c.Outbound.Target, j.c.DNS.Target), to) {
		return true
	}
	ports := ruleset.Ports{j.c.Outbound.Port, j.c.Inbound.Port, ruleset.Port(j.c.DNS.Port)}
	return ports.Contains(to.Port()) && (to.Addr().IsLoopback() || to.Addr() == j.p.Packet.Dst.Addr() ||
		to.Addr() == j.p.At)
}
