package main

import (
	"fmt"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/nft"
)

func (j job) render() error {
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return usageError{err}
	}
	for _, w := range intercept.Lint(j.config) {
		j.log.WarnContext(j.ctx, w)
	}
	if j.json {
		return j.printJSON(struct {
			Config   intercept.Config `json:"config"`
			Families []string         `json:"families"`
			Chains   []chainJSON      `json:"chains"`
		}{j.config, familyNames(rs), chainsJSON(rs)})
	}
	switch j.target.Backend {
	case dataplane.BackendIPTables, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy:
		return j.renderIPTables(rs)
	case dataplane.BackendAuto, dataplane.BackendNFT:
	}
	text, err := nft.Render(rs)
	j.out.WriteString(text)
	return err
}

// renderIPTables prints what each program reads, one after the other: the first
// line of each part names it.
func (j job) renderIPTables(rs intercept.Ruleset) error {
	inputs, err := iptables.Render(rs, iptables.Options{Dialect: j.target.IPTables.Dialect, Last: j.target.IPTables.Last})
	for _, in := range inputs {
		fmt.Fprintf(j.out, "# %s: %s --noflush, in a namespace that has none of these rules\n%s", in.Family, in.Program(), in.Text)
	}
	return err
}

type chainJSON struct {
	Name     string     `json:"name"`
	Hook     string     `json:"hook,omitempty"`     // of a base chain
	Priority *int32     `json:"priority,omitempty"` // of a base chain
	Type     string     `json:"type"`
	Rules    []ruleJSON `json:"rules"`
}

type ruleJSON struct {
	Line   string   `json:"line"`
	Reason string   `json:"reason"`
	Match  []string `json:"match"`
	Target string   `json:"target"`
}

func chainsJSON(rs intercept.Ruleset) []chainJSON {
	chains := make([]chainJSON, len(rs.Chains))
	for i, c := range rs.Chains {
		out := chainJSON{Name: c.Name, Type: c.Type.String(), Rules: []ruleJSON{}}
		if c.Hook != 0 {
			priority := int32(c.Priority)
			out.Hook, out.Priority = c.Hook.String(), &priority
		}
		for _, r := range c.Rules {
			match := make([]string, len(r.Match))
			for k, m := range r.Match {
				match[k] = m.String()
			}
			out.Rules = append(out.Rules, ruleJSON{r.ID.Line(), r.Reason, match, r.Target.String()})
		}
		chains[i] = out
	}
	return chains
}
