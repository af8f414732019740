package ruleset

import (
	"slices"
	"strings"
)

// Rule applies Target to the packets that satisfy all of Match.
type Rule struct {
	// ID names the rule. It is unique in a Ruleset.
	ID RuleID
	// Reason says in a few words why the rule exists.
	Reason string
	Match  []Match
	Target Target
	// Uncounted is true of a rule that nearly every packet meets, so that to count them costs more than it tells. A
	// backend that can leaves its counter out.
	Uncounted bool
}

// Comment is what stands beside the rule in the kernel: its ID and its reason. [ParseComment] reads it back.
func (r Rule) Comment() string { return string(r.ID) + ": " + r.Reason }

// ParseComment takes a rule's comment apart. Of one that is not of Compile's making the ID is empty and the reason is
// the whole text.
func ParseComment(s string) (id RuleID, reason string) {
	before, after, found := strings.Cut(s, ": ")
	if !found || RuleID(before).validate() != nil {
		return "", s
	}
	return RuleID(before), after
}

// MaxComment is the greatest length of a rule's comment in bytes. nft(8)
// refuses longer ones (NFTNL_UDATA_COMMENT_MAXLEN in libnftnl).
const MaxComment = 128

// OnlyTCP reports whether the rule is of TCP alone.
func (r Rule) OnlyTCP() bool {
	return slices.ContainsFunc(r.Match, func(m Match) bool {
		p, is := m.(Proto)
		return is && len(p) == 1 && p[0] == TCP
	})
}

// For returns the rule as it reads for packets of one family: address lists
// hold that family's items only, and a condition that always holds is gone.
// ok is false if the rule can match no packet of the family.
func (r Rule) For(f Family) (_ Rule, ok bool) {
	match := make([]Match, 0, len(r.Match))
	for _, m := range r.Match {
		inner, negated := m, false
		if n, is := m.(Not); is {
			inner, negated = n.Match, true
		}
		always, never := false, false
		switch in := inner.(type) {
		case Src:
			in = Src(CIDRs(in).Of(f))
			never, inner = len(in) == 0, in
		case Dst:
			in = Dst(CIDRs(in).Of(f))
			never, inner = len(in) == 0, in
		case IsFamily:
			always, never = Family(in) == f, Family(in) != f
		case Proto, SrcPort, DstPort, InInterface, OutInterface, UID, GID, HasSocket, SocketOpen, MetaMark, ConnMark,
			CTState, CTDNAT, CTDirection, ToLocal, Length, TCPFlags, TCPHeader, MPTCP, ICMPEcho, ICMPQuote, Older, Not:
			// They ask the same of both families.
		}
		if negated {
			always, never = never, always
			inner = Not{inner}
		}
		switch {
		case never:
			return Rule{}, false
		case always:
		default:
			match = append(match, inner)
		}
	}
	if t, is := r.Target.(DNAT); is && FamilyOf(t.To.Addr()) != f {
		return Rule{}, false
	}
	r.Match = match
	return r, true
}

// IsFamilySpecific reports whether the rule reads differently for IPv4 and IPv6.
func (r Rule) IsFamilySpecific() bool {
	switch r.Target.(type) {
	case DNAT, Keep:
		return true
	case Accept, Return, Drop, Reject, Jump, Goto, Redirect, TProxy, Divert, SetMark, SetConnMark, CTZone:
	}
	return slices.ContainsFunc(r.Match, func(m Match) bool {
		if n, is := m.(Not); is {
			m = n.Match
		}
		switch m.(type) {
		case Src, Dst, IsFamily, ICMPEcho, ICMPQuote, Older:
			return true
		case Proto, SrcPort, DstPort, InInterface, OutInterface, UID, GID, HasSocket, SocketOpen, MetaMark, ConnMark,
			CTState, CTDNAT, CTDirection, ToLocal, Length, TCPFlags, TCPHeader, MPTCP, Not:
		}
		return false
	})
}
