package main

import (
	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/picture"
)

func renderVerb() verb {
	return verb{cli.Verb{
		Name: "render", Does: "print the rules for the configuration; no privilege needed",
		Also: []string{"print", "preview", "generate", "export", "save"},
		More: "The text is for people and for nft -f; with --backend iptables, -nft or -legacy, for\n" +
			"iptables-restore --noflush. Routes that go with them are commands of ip in comments.\n" +
			"With iptables a list is a rule for each item, so that it takes no other program to\n" +
			"load. apply makes sets of long lists where the kernel has them; check takes either.\n" +
			"With -o mermaid, dot or svg it is a picture: the chains in the order in which packets meet\n" +
			"them, their rules, and the proxy's ports.",
		Flags:   func() []cli.Flag { return append(configFlags(), backendFlags()...) },
		Outputs: "mermaid|dot|svg",
		Examples: `
  The rules as text, without touching anything:
    mesh-init render --outbound-include-cidrs 10.0.0.0/8,fd00::/8
  The way of packets through them, as a picture:
    mesh-init render --dns all -o svg > rules.svg
`}, job.render}
}

func (j job) render() error {
	config, warnings := j.target.Fit(j.config)
	rs, err := intercept.Compile(config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	for _, w := range append(intercept.Lint(j.config), warnings...) {
		j.log.WarnContext(j.ctx, w)
	}
	if draw := map[cli.Format]func(intercept.Ruleset) string{
		"mermaid": picture.Mermaid, "dot": picture.DOT, "svg": picture.SVG}[j.output]; draw != nil {
		j.out.WriteString(draw(rs))
		return nil
	}
	if j.output == cli.Text {
		text, err := j.target.Render(rs)
		j.out.WriteString(text)
		return err
	}
	return j.print(struct {
		Config   intercept.Config `json:"config"`
		Families []string         `json:"families"`
		Chains   []chainJSON      `json:"chains"`
	}{j.config, familyNames(rs), chainsJSON(rs)}, nil)
}

type chainJSON struct {
	Name     string     `json:"name"`
	Hook     string     `json:"hook,omitempty"`     // of a base chain
	Priority *int32     `json:"priority,omitempty"` // of a base chain
	Type     string     `json:"type"`
	Rules    []ruleJSON `json:"rules"`
}

type ruleJSON struct {
	ID     intercept.RuleID `json:"id"`
	Line   string           `json:"line"`
	Reason string           `json:"reason"`
	Match  []string         `json:"match"`
	Target string           `json:"target"`
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
			out.Rules = append(out.Rules, ruleJSON{r.ID, r.ID.Line(), r.Reason, match, r.Target.String()})
		}
		chains[i] = out
	}
	return chains
}
