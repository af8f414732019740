package main

import (
	"errors"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func checkVerb() verb {
	return verb{cli.Verb{
		Name: "check", Does: "compare the rules in force with the configuration",
		Also: []string{"diff", "compare", "test"},
		More: "Without a flag, variable or file of a configuration it is the one that the rules in force were\n" +
			"made of, which apply has kept beside them.",
		Flags: func() []cli.Flag { return append(append(configFlags(), kernelFlags()...), runFlags()...) },
		Examples: `
  Are the rules there that this configuration makes?
    mesh-init check --config mesh.yaml
`}, job.check}
}

func (j job) check() error {
	if err := j.kept(); err != nil {
		return err
	}
	type difference struct {
		What    string `json:"what"`
		Problem string `json:"problem"`
	}
	type result struct {
		OK          bool         `json:"ok"`
		Differences []difference `json:"differences"`
		// Foreign are the chains of others at the same hooks.
		Foreign dataplane.Foreign `json:"foreign,omitzero"`
	}
	differences, err := j.plane.Check(j.ctx, j.config)
	if err != nil && !errors.Is(err, intercept.ErrNotIntercepted) {
		return err
	}
	none := err
	others, err := j.foreignChains(none == nil)
	if err != nil {
		return err
	}
	if none != nil && j.output != cli.Text {
		err := j.print(result{false, []difference{{"the rules", "there are none of ours"}}, others}, nil)
		return errors.Join(err, j.bare(none))
	}
	if none != nil {
		return j.bare(none)
	}
	j.did.outcome = "ok"
	if len(differences) > 0 {
		j.did.outcome = "drifted"
	}
	list := make([]difference, len(differences))
	for i, d := range differences {
		list[i] = difference{d.What, d.Problem}
		j.did.causes = append(j.did.causes, d.String())
	}
	err = j.print(result{len(list) == 0, list, others}, func() string {
		if len(differences) == 0 {
			return j.style.Good("ok") + "\n" + foreignText(others)
		}
		var text strings.Builder
		for _, d := range differences {
			text.WriteString(strict.OneLine(d.String()) + "\n")
		}
		return text.String() + foreignText(others)
	})
	if len(differences) > 0 && err == nil {
		err = errDrifted
	}
	return err
}
