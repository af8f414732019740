package main

import (
	"errors"
	"strconv"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func statusVerb() verb {
	return verb{cli.Verb{
		Name: "status", Does: "show the rules in force and what each has counted",
		Also: []string{"list", "show", "get", "counters", "dump"},
		More: "NAT rules count connections, since they see the first packet of each alone. The text also\n" +
			"lists other people's chains at the same hooks, and their rules in the same chains of iptables.",
		Flags: kernelFlags,
		Examples: `
  What has been captured, and what has passed, by which rule?
    mesh-init status -n /run/netns/pod
`}, job.status}
}

func (j job) status() error {
	status, err := j.plane.Status(j.ctx)
	if errors.Is(err, intercept.ErrNotIntercepted) && j.output != cli.Text {
		return errors.Join(j.print([]intercept.Counter{}, nil), err)
	}
	if err != nil {
		return err
	}
	counters := status.Counters
	if counters == nil {
		counters = []intercept.Counter{}
	}
	for _, table := range status.Dormant {
		j.log.WarnContext(j.ctx, "table "+table+" is dormant: none of its rules is in force; mesh-init apply says more")
	}
	if status.Uncounted {
		j.log.WarnContext(j.ctx, "this kernel, gVisor, counts nothing: each rule is in force, and each number is zero")
	}
	for _, w := range status.Foreign.Warnings() {
		j.log.WarnContext(j.ctx, w)
	}
	return j.print(counters, func() string {
		return statusText(counters) + foreignText(status.Foreign) + othersText(status.Others)
	})
}

// statusText is one table, so that the columns of all chains agree.
func statusText(counters []intercept.Counter) string {
	rows := []cli.Row{{"PACKETS", "BYTES", "RULE", "FAMILY", "REASON"}}
	for i, c := range counters {
		if i == 0 || counters[i-1].Chain != c.Chain {
			rows = append(rows, cli.Row{strict.OneLine(c.Chain) + ":"})
		}
		rows = append(rows, cli.Row{
			strconv.FormatUint(c.Packets, 10), strconv.FormatUint(c.Bytes, 10),
			strict.OneLine(string(c.Rule)), c.Family, strict.OneLine(c.Reason),
		})
	}
	return cli.Table(rows)
}
