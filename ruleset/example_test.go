package ruleset_test

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mesh-intercept/intercept/ruleset"
)

// rules sends all TCP of a pod to port 15001, except the proxy's own. Package
// intercept makes such a Ruleset of a configuration; this one is by hand.
func rules() ruleset.Ruleset {
	return ruleset.Ruleset{
		Families: []ruleset.Family{ruleset.IPv4, ruleset.IPv6},
		Chains: []ruleset.Chain{{
			Name: "output", Hook: ruleset.Output, Priority: ruleset.PriorityDstNAT, Type: ruleset.NATChain,
			Rules: []ruleset.Rule{{
				ID:     "O4.uid",
				Reason: "from the proxy (by user)",
				Match:  []ruleset.Match{ruleset.UID{ruleset.ID(1337)}},
				Target: ruleset.Return{},
			}, {
				ID:     "O12",
				Reason: "every destination is included",
				Match:  []ruleset.Match{ruleset.Proto{ruleset.TCP}, ruleset.Opens()},
				Target: ruleset.Redirect{Ports: ruleset.Port(15001)},
			}},
		}},
	}
}

// What happens to a packet, and by which rule.
func ExampleRuleset_Trace() {
	for _, uid := range []uint32{1000, 1337} {
		trace, err := rules().Trace(ruleset.Packet{
			Hook:      ruleset.Output,
			Protocol:  ruleset.TCP,
			Src:       netip.MustParseAddrPort("10.244.0.5:40000"),
			Dst:       netip.MustParseAddrPort("203.0.113.10:443"),
			Interface: "eth0",
			Owner:     &ruleset.Owner{UID: uid, GID: uid},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("user %d: %s by %s, %s\n", uid, trace.Fate, trace.Rule, trace.Reason)
	}
	// Output:
	// user 1000: redirect(15001) by O12, every destination is included
	// user 1337: pass by O4.uid, from the proxy (by user)
}

// A packet that says too little is an error, not a guess.
func ExampleRuleset_Trace_errors() {
	_, err := rules().Trace(ruleset.Packet{Hook: ruleset.Output, Dst: netip.MustParseAddrPort("203.0.113.10:443")})
	if packet, ok := errors.AsType[*ruleset.PacketError](err); ok {
		fmt.Println("field", packet.Field)
	}
	// Output:
	// field Protocol
}

// Check finds what no backend could write, and names the rule.
func ExampleRuleset_Check() {
	rs := rules()
	fmt.Println("as it is:", rs.Check())

	redirect := &rs.Chains[0].Rules[1]
	redirect.ID, redirect.Match = "O4.uid", nil
	err := rs.Check()
	fmt.Println(err)
	if rule, ok := errors.AsType[*ruleset.RuleError](err); ok {
		fmt.Println("the first is about rule", rule.Rule, "in chain", rule.Chain)
	}
	// Output:
	// as it is: <nil>
	// chain output, rule O4.uid: redirect to :15001 without exactly one protocol that has ports
	// chain output, rule O4.uid: there is another rule with this ID
	// the first is about rule O4.uid in chain output
}
