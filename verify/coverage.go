package verify

import (
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// universe are the rules that capture or exempt: those that decide about the first packet of a connection or a flow. It
// leaves out those that ask the same again behind NAT (the backstop), choose zones, or set marks.
func universe(rs ruleset.Ruleset) (all []ruleset.Rule) {
	known := map[ruleset.RuleID]bool{}
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			if decides(r) && !known[r.ID] {
				known[r.ID] = true
				all = append(all, r)
			}
		}
	}
	return all
}

func decides(r ruleset.Rule) bool {
	scope, _, scoped := cutLast(string(r.ID))
	switch {
	case !strings.HasPrefix(r.ID.Line(), "O") && !strings.HasPrefix(r.ID.Line(), "I"):
		return false
	case scoped && strings.HasPrefix(scope, "reject"):
		_, rejects := r.Target.(ruleset.Reject)
		return rejects
	case scoped && scope != "virtual" && scope != "invalid" && scope != "other-family":
		return false
	}
	if slices.ContainsFunc(r.Match, isOfLaterPackets) {
		return false
	}
	switch r.Target.(type) {
	case ruleset.Return, ruleset.Redirect, ruleset.DNAT, ruleset.TProxy, ruleset.Reject, ruleset.Goto, ruleset.Jump,
		ruleset.Accept:
		return true
	case ruleset.Drop, ruleset.Keep, ruleset.Divert, ruleset.SetMark, ruleset.SetConnMark, ruleset.CTZone:
	}
	return false
}

// isOfLaterPackets reports whether no first packet of a connection meets a rule with the condition.
func isOfLaterPackets(m ruleset.Match) bool {
	if n, is := m.(ruleset.Not); is {
		_, flags := n.Match.(ruleset.TCPFlags)
		return flags
	}
	_, marked := m.(ruleset.ConnMark)
	return marked
}

// cutLast cuts an ID behind its last scope.
func cutLast(id string) (scope, rest string, ok bool) {
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		return id[:i], id[i+1:], true
	}
	return "", id, false
}

// conclude counts which rules are met.
func (p *planner) conclude() {
	for _, r := range p.known {
		p.plan.Coverage.Rules++
		if slices.ContainsFunc(p.rs.Families, func(f ruleset.Family) bool { return p.met[met{r.ID, f}] }) {
			p.plan.Coverage.Tried++
			continue
		}
		p.plan.Coverage.NotTried = append(p.plan.Coverage.NotTried,
			NotTried{Rule: r.ID, Reason: r.Reason, Because: p.because(r)})
	}
}

// because says why no probe meets a rule.
func (p *planner) because(r ruleset.Rule) string {
	for _, m := range r.Match {
		if m == (ruleset.MPTCP{}) {
			return "verify opens no connections of Multipath TCP"
		}
		if in, is := m.(ruleset.InInterface); is && in != ruleset.Loopback {
			return p.byInterface(string(in), "only what is at its other end can send by it")
		}
		if out, is := m.(ruleset.OutInterface); is && out != ruleset.Loopback {
			return p.byInterface(string(out), "no route of the pod's leads there")
		}
		_, user := m.(ruleset.UID)
		_, group := m.(ruleset.GID)
		if (user || group) && !p.pod.AnyOwner {
			return "it takes CAP_SETUID and CAP_SETGID to be another user"
		}
		if f, is := m.(ruleset.IsFamily); is && p.reach[ruleset.Family(f)].why != "" {
			return ruleset.Family(f).String() + " is not reachable here"
		}
	}
	if p.pod.NoOutside != nil && strings.HasPrefix(r.ID.Line(), "I") {
		return "no client outside the pod can be made"
	}
	for _, f := range p.rs.Families {
		if p.reach[f].why == "" && strings.HasPrefix(r.ID.Line(), "I") {
			return "another rule decides before it about what a client of verify's can send to this pod"
		}
		if p.reach[f].why == "" {
			return "another rule decides before it about what verify can send here, or no route leads to what it is about"
		}
	}
	return "this pod reaches nothing"
}

func (p *planner) byInterface(pattern, why string) string {
	for _, i := range p.pod.Interfaces {
		if ruleset.InterfaceMatches(pattern, i.Name) {
			return why
		}
	}
	return "there is no such interface here"
}
