package main

import (
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// foreignChains returns other people's chains at our hooks. Where there are rules of ours it warns of those that matter to
// them.
func (j job) foreignChains(ours bool) (dataplane.Foreign, error) {
	all, err := j.plane.Foreign(j.ctx)
	if ours {
		for _, w := range all.Warnings() {
			j.log.WarnContext(j.ctx, w)
		}
	}
	return all, err
}

// foreignText is a table of other people's chains at our hooks, in the order in which the kernel asks them, or nothing
// if there are none.
func foreignText(all dataplane.Foreign) string {
	text := ""
	if len(all.Chains) > 0 {
		rows := []cli.Row{{"HOOK", "PRIORITY", "CHAIN OF OTHERS", "OWNER", "TO WHAT OURS CAPTURE"}}
		for _, c := range all.Chains {
			table := c.Family + " " + c.Table
			if c.Legacy {
				table += " (legacy)"
			}
			rows = append(rows, cli.Row{c.Hook, strconv.Itoa(int(c.Priority)), strict.OneLine(table + " " + c.Chain),
				strings.Join(c.Owners, ", "), string(c.Effect) + ": " + c.Says()})
		}
		text = "\n" + cli.Table(rows)
	}
	if all.Error != "" {
		text += "\n" + cli.Hang("", 2, "Not all chains of others could be listed: "+strict.OneLine(all.Error))
	}
	return text
}
