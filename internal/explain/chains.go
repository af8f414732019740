package explain

import "github.com/mesh-intercept/intercept"

// Chain is a chain of rules, as mesh-init render -o json has it.
type Chain struct {
	Name     string `json:"name"`
	Hook     string `json:"hook,omitempty"`     // of a base chain
	Priority *int32 `json:"priority,omitempty"` // of a base chain
	Type     string `json:"type"`
	Rules    []Rule `json:"rules"`
}

// Rule is one of its rules.
type Rule struct {
	ID     intercept.RuleID `json:"id"`
	Line   string           `json:"line"`
	Reason string           `json:"reason"`
	Match  []string         `json:"match"`
	Target string           `json:"target"`
}

// Chains are the chains of a ruleset.
func Chains(rs intercept.Ruleset) []Chain {
	chains := make([]Chain, len(rs.Chains))
	for i, c := range rs.Chains {
		out := Chain{Name: c.Name, Type: c.Type.String(), Rules: []Rule{}}
		if c.Hook != 0 {
			priority := int32(c.Priority)
			out.Hook, out.Priority = c.Hook.String(), &priority
		}
		for _, r := range c.Rules {
			match := make([]string, len(r.Match))
			for k, m := range r.Match {
				match[k] = m.String()
			}
			out.Rules = append(out.Rules, Rule{r.ID, r.ID.Line(), r.Reason, match, r.Target.String()})
		}
		chains[i] = out
	}
	return chains
}
