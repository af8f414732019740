package main

import (
	"strconv"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// othersText is a table of other people's rules, or nothing if there are none.
func othersText(others dataplane.Others) string {
	text := ""
	if len(others.Rules) > 0 {
		rows := []cli.Row{{"PACKETS", "BYTES", "PLACE", "FAMILY", "TABLE", "CHAIN", "RULE OF OTHERS"}}
		for _, r := range others.Rules {
			place := ""
			if r.Earlier {
				place = "before ours"
			}
			rows = append(rows, cli.Row{strconv.FormatUint(r.Packets, 10), strconv.FormatUint(r.Bytes, 10), place,
				r.Family, strict.OneLine(r.Table), strict.OneLine(r.Chain), strict.OneLine(r.Rule)})
		}
		text = "\n" + cli.Table(rows)
	}
	if others.Error != "" {
		text += "\n" + cli.Hang("", 2, "Not all rules of others could be listed: "+strict.OneLine(others.Error))
	}
	return text
}
