package intercept

import (
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Names of the chains that Compile makes. A backend may spell them in its own way (iptables: MESH_OUTPUT). These are
// for the zones of name lookups (compile_dns.go), before conntrack.
const (
	ChainRawPrerouting = "raw_prerouting"
	ChainRawOutput     = "raw_output"
	ChainRawVirtual    = "raw_virtual" // I2
)

// Names of chains for what arrives (compile_inbound.go).
const (
	ChainInvalid    = "invalid"    // I1, I3
	ChainPrerouting = "prerouting" // I1, I2, I4-I8
	ChainVirtual    = "virtual"    // I2: O5, O8-O14
)

// Names of chains for what arrives in mode tproxy (compile_tproxy.go).
const (
	ChainInbound        = "inbound"         // I1-I8
	ChainInboundCapture = "inbound_capture" // I7, O3: connections that go to the proxy
	ChainInboundDeliver = "inbound_deliver" // I7, O3: and their packets
	ChainMarks          = "marks"
	ChainMarksOpening   = "marks_opening" // O3, and a proxy that binds its client's address
	ChainMarksReplies   = "marks_replies" // replies to such a proxy
)

// Names of chains for what the pod sends (compile_outbound.go).
const (
	ChainOutput         = "output"          // O1-O14
	ChainOutputIncluded = "output_included" // O8-O14, for the owners included
)

// Names of chains for the second look, after NAT (compile_backstop.go).
const (
	ChainFilterOutput           = "filter_output"
	ChainFilterInput            = "filter_input"
	ChainFilterForward          = "filter_forward"
	ChainBackstopSyn            = "syn"             // B1, B2, B4, B6
	ChainBackstopSynIncluded    = "syn_included"    // for the owners included
	ChainBackstopTranslated     = "translated"      // B1
	ChainBackstopLoop           = "loop"            // B1
	ChainBackstopSubflow        = "subflow"         // B1
	ChainBackstopStream         = "stream"          // B3, B5, B6
	ChainBackstopStreamIncluded = "stream_included" // for the owners included
	ChainBackstopUnowned        = "unowned"         // B5
	ChainBackstopOther          = "other"           // B8
	ChainBackstopOtherSent      = "other_sent"      // B8
	ChainBackstopOtherIncluded  = "other_included"  // for the owners included
	ChainBackstopInput          = "syn_input"       // B9
	ChainBackstopDatagram       = "datagram"        // B7
	ChainBackstopVirtual        = "syn_virtual"     // B11

)

// Names of chains for what is rejected, after NAT (compile_reject.go): O13, and the family left out.
const (
	ChainRejectOutput   = "reject_output"
	ChainRejectIncluded = "reject_included" // for the owners included
	ChainRejectVirtual  = "reject_virtual"  // I2: O5, O8-O14
	ChainRejectInput    = "reject_input"
	ChainRejectForward  = "reject_forward"
)

const (
	dnsPort  = 53
	quicPort = 443
)

// Compile returns the Ruleset that enforces c, or everything that is wrong with c (see [Config.Validate]). It does no
// I/O and is the only place that holds the policy: backends translate what it returns.
//
// Each part of the policy is a file of its own. They come in the order in which packets meet their chains.
func Compile(c Config) (Ruleset, error) { return c.valid() }

// rules is Compile of a Config whose fields are valid.
func (c Config) rules() Ruleset {
	rs := Ruleset{Families: c.families()}
	for _, part := range [][]Chain{
		c.zones(),    // raw, -300: Z0-Z2
		c.invalid(),  // filter, -150: I1, I3
		c.tproxy(),   // filter and route, -150: I1-I8 and O3, in mode tproxy
		c.inbound(),  // nat, -199: I1, I2, I4-I8
		c.outbound(), // nat, -199: O1-O14
		c.filters(),  // filter, 0: B1-B11, O13, and the family left out
	} {
		rs.Chains = append(rs.Chains, part...)
	}
	if c.Inbound.Mode == InboundTProxy {
		rs.Routes = []MarkRoute{{Mark: c.Inbound.TProxy.Mark, Table: c.Inbound.TProxy.Table}}
	}
	rs.Sources = c.sources()
	if c.rejectsOtherFamily() {
		rs = withOtherFamily(rs, c.families()[0].Other())
	}
	return rs
}

func (c Config) families() []Family {
	switch c.Families {
	case FamiliesIPv4:
		return []Family{IPv4}
	case FamiliesIPv6:
		return []Family{IPv6}
	case FamiliesAuto, FamiliesDual:
	}
	return []Family{IPv4, IPv6}
}

// compatible are addresses of IPv6 that are nobody's (RFC 4291, section 2.5.5.1).
var compatible = netip.MustParsePrefix("::/96")

// sources are the passthrough sources that no pod has by itself, as it has all of 127.0.0.0/8, and that are nobody
// else's.
func (c Config) sources() []netip.Addr {
	if c.Inbound.Mode == InboundOff || !slices.Contains(c.families(), IPv6) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(c.PassthroughSources), func(a netip.Addr) bool { return !compatible.Contains(a) })
}

// scopeOfOther stands before the IDs of rules about the family that is not captured.
const scopeOfOther = "other-family"

// withOtherFamily makes of rules that were written for one family rules for both: the other one's packets leave the
// chains that capture at once.
func withOtherFamily(rs Ruleset, other Family) Ruleset {
	rs.Families = []Family{IPv4, IPv6}
	for i, c := range rs.Chains {
		if c.Hook == 0 || c.Priority == PriorityFilter {
			continue
		}
		line := RuleID("I8")
		if c.Hook == Output {
			line = "O14"
		}
		leave := rule((line + RuleID("."+c.Name)).In(scopeOfOther), other.String()+" is not captured",
			[]Match{IsFamily(other)}, Return{})
		rs.Chains[i].Rules = append([]Rule{leave}, c.Rules...)
	}
	return rs
}

// opens are the conditions of every redirect of TCP: a NAT chain sees the packets that conntrack calls new, and one
// that opens no connection is new only where conntrack was not active when its connection began. Redirecting it would
// hand it to a listening socket, which answers with a reset.
func opens() []Match { return []Match{Proto{TCP}, Opens()} }

// openers are the same in the order that is the quicker one for what opens none.
func openers() []Match { return []Match{Opens(), Proto{TCP}} }

// capture is a condition under which a connection goes to the proxy. It stands behind a protocol that has ports.
type capture struct {
	id     RuleID
	reason string
	match  []Match
}

// in returns rules as they stand where their lines are asked again: under a scope, and with a word on what for.
func in(scope, what string, rules []Rule) []Rule {
	for i := range rules {
		rules[i].ID = rules[i].ID.In(scope)
		if what != "" {
			rules[i].Reason = what + ": " + rules[i].Reason
		}
	}
	return rules
}

// leavingByLo matches what the pod sends to itself, arrivingByLo what it gets from itself.
const (
	leavingByLo  = OutInterface(ruleset.Loopback)
	arrivingByLo = InInterface(ruleset.Loopback)
)

// rule is one row of the policy's tables.
func rule(id RuleID, reason string, match []Match, target Target) Rule {
	return Rule{ID: id, Reason: reason, Match: match, Target: target}
}

// uncounted is a rule that nearly every packet meets.
func uncounted(r Rule) Rule {
	r.Uncounted = true
	return r
}

func not(m Match) Match { return Not{Match: m} }
