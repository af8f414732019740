package main

import (
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
)

func (j job) explainMatrix() error {
	cells, err := explain.Matrix(j.config)
	if err != nil {
		return cli.UsageError{Err: err} // a mistake in what was asked, too, if classes are too many to be told apart
	}
	return j.print(cells, func() string { return matrixText(cells) })
}

// matrixText is the table. Kinds of traffic, and families, of which the same is said have one line.
func matrixText(cells []explain.Cell) string {
	type line struct {
		heading string
		traffic []string
		family  string
		rows    []cli.Row
	}
	same := func(a, b []cli.Row, without int) bool {
		return slices.EqualFunc(a, b, func(a, b cli.Row) bool {
			for i := range a {
				if i != without && a[i] != b[i] {
					return false
				}
			}
			return true
		})
	}
	const which = 2
	var lines []line
	for _, c := range cells {
		l := line{heading: heading(c), traffic: []string{string(c.Traffic)}, family: c.Family}
		for _, p := range c.Parts {
			l.rows = append(l.rows, cli.Row{p.Fate.String(), p.RulesText(), explain.Shorten(p.Which), p.Reason})
		}
		if len(lines) > 0 { // the other family of the same traffic
			last := &lines[len(lines)-1]
			if last.heading == l.heading && last.traffic[0] == l.traffic[0] && same(last.rows, l.rows, which) {
				last.family = "both"
				for i, row := range l.rows {
					if is := last.rows[i]; is[which] != row[which] {
						is[which] += ", or " + row[which]
					}
				}
				continue
			}
		}
		lines = append(lines, l)
	}
	var joined []line
	for _, l := range lines {
		i := slices.IndexFunc(joined, func(o line) bool {
			return o.heading == l.heading && o.family == l.family && same(o.rows, l.rows, -1)
		})
		if i < 0 {
			joined = append(joined, l)
			continue
		}
		joined[i].traffic = append(joined[i].traffic, l.traffic...)
	}
	table := []cli.Row{{"TRAFFIC", "FAMILY", "FATE", "RULE", "WHICH", "REASON"}}
	for i, l := range joined {
		if i == 0 || joined[i-1].heading != l.heading {
			table = append(table, cli.Row{l.heading + ":"})
		}
		for k, row := range l.rows {
			first := cli.Row{"", ""}
			if k == 0 {
				first = cli.Row{strings.Join(l.traffic, ", "), l.family}
			}
			table = append(table, append(first, row...))
		}
	}
	return "What becomes of the first packet of every flow. Where a kind of traffic has several lines, the first\n" +
		"that fits the packet says it. DNS is TCP and UDP to port 53; the lines of TCP and UDP are about all\n" +
		"other ports.\n\n" + cli.Table(table)
}

// heading says whose flows a cell has, and where they go.
func heading(c explain.Cell) string {
	who := map[classes.From]string{
		classes.FromApp: "the app", classes.FromProxy: "the proxy", classes.FromKernel: "no process (the kernel)",
		classes.FromOutside: "outside",
	}[c.From]
	where := map[classes.Where]string{
		classes.Outbound: "out of the pod", classes.Self: "to the pod's own address", classes.Loopback: "to loopback",
		classes.Inbound: "into the pod", classes.Through: "through the pod, to another's address",
	}[c.Where]
	return "from " + who + " " + where
}
