package intercept

import (
	"slices"
	"strings"
)

// A Meaning is what it means for a packet or a connection that the rule of some line of the policy decides about it.
type Meaning string

// The meanings, in the order in which people ask for them.
const (
	MeaningOutbound      Meaning = "outbound, to the proxy"
	MeaningInbound       Meaning = "inbound, to the proxy"
	MeaningLookup        Meaning = "name lookups, to the resolver"
	MeaningProxy         Meaning = "the proxy's own"
	MeaningExcludedPort  Meaning = "left alone: excluded port"
	MeaningExcludedCIDR  Meaning = "left alone: excluded network"
	MeaningExcludedOwner Meaning = "left alone: excluded owner"
	MeaningExcludedRule  Meaning = "left alone: exclusion rule"
	MeaningExcludedIface Meaning = "left alone: excluded interface"
	MeaningTunnel        Meaning = "left alone: tunnel port"
	MeaningInsidePod     Meaning = "left alone: inside the pod"
	MeaningNotTheirs     Meaning = "left alone: arrives for an address that is not the pod's"
	MeaningUncapturedOut Meaning = "outbound, not captured"
	MeaningUncapturedIn  Meaning = "inbound, not captured"
	MeaningRejected      Meaning = "rejected: UDP or another protocol"
	MeaningPastProxy     Meaning = "rejected: on its way past the proxy"
	MeaningInvalid       Meaning = "dropped: invalid"
	MeaningOlder         Meaning = "of a connection that is older than the rules"
	MeaningOtherFamily   Meaning = "of the family left out"
	meaningOnItsWay      Meaning = "" // the rule decides nothing
)

// Meanings are all of them, in their order.
func Meanings() []Meaning {
	return []Meaning{MeaningOutbound, MeaningInbound, MeaningLookup, MeaningProxy, MeaningExcludedPort, MeaningExcludedCIDR,
		MeaningExcludedOwner, MeaningExcludedRule, MeaningExcludedIface, MeaningTunnel, MeaningInsidePod, MeaningNotTheirs,
		MeaningUncapturedOut, MeaningUncapturedIn, MeaningRejected, MeaningPastProxy, MeaningInvalid, MeaningOlder,
		MeaningOtherFamily}
}

// MeaningOf returns what it means for a packet that a rule has counted it: "" if the rule decides nothing about where the
// packet goes, or asks again what another has decided. rejects is whether the rule's target is to reject or to drop.
func MeaningOf(id RuleID, rejects bool) Meaning {
	scope, rest := "", string(id)
	if i := strings.LastIndexByte(rest, '/'); i >= 0 {
		scope, rest = rest[:i], rest[i+1:]
	}
	line, detail, _ := strings.Cut(rest, ".")
	switch {
	case rejects && line == "O13":
		return MeaningRejected
	case scope == "other-family", rejects && strings.HasPrefix(scope, "reject"):
		return MeaningOtherFamily
	case scope != "" && scope != "virtual":
		return meaningOnItsWay
	}
	switch line {
	case "I7", "O14":
		detail, _, _ = strings.Cut(detail, ".")
		if slices.Contains([]string{"known", "divert", "client", "reply", "mark", "keep"}, detail) {
			return meaningOnItsWay // of a connection that was counted before
		}
	}
	switch line {
	case "O1", "I1":
		return MeaningExcludedIface
	case "O2", "O4":
		return MeaningProxy
	case "O3":
		return MeaningInbound
	case "O5", "I5", "I6":
		return exclusionMeaning(detail)
	case "O6", "O9":
		return MeaningInsidePod
	case "O7":
		return MeaningExcludedOwner
	case "O8":
		return MeaningLookup
	case "O10":
		return MeaningExcludedCIDR
	case "O11", "O12":
		return MeaningOutbound
	case "O14":
		return MeaningUncapturedOut
	case "I3":
		return MeaningInvalid
	case "I4":
		return MeaningTunnel
	case "I7":
		return MeaningInbound
	case "I8":
		return MeaningUncapturedIn
	case "I9":
		return MeaningNotTheirs
	case "B3":
		return MeaningOlder
	}
	switch {
	case rejects && (line == "B7" || line == "B8"):
		return MeaningRejected
	case rejects && strings.HasPrefix(line, "B"):
		return MeaningPastProxy
	}
	return meaningOnItsWay
}

// exclusionMeaning is that of a rule which excludes by the detail of its ID.
func exclusionMeaning(detail string) Meaning {
	switch detail {
	case "", "ports":
		return MeaningExcludedPort
	case "cidrs":
		return MeaningExcludedCIDR
	}
	return MeaningExcludedRule
}
