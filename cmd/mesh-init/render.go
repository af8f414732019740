package main

import (
	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
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
		Chains   []explain.Chain  `json:"chains"`
	}{j.config, familyNames(rs), explain.Chains(rs)}, nil)
}
