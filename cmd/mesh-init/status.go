package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/verify"
)

const (
	watchFlag = "watch"
	// wideOutput and prometheusOutput are values of outputFlag.
	wideOutput       = "wide"
	prometheusOutput = "prometheus"

	groupStatus decode.Group = "How often"
)

func statusVerb() verb {
	return verb{cli.Verb{
		Name: "status", Does: "say whether traffic is intercepted, by which rules, and what they have counted",
		Also: []string{"list", "show", "get", "counters", "dump"},
		More: "The first line is the verdict: intercepting; unserved (nobody listens at the proxy's port);\n" +
			"full (connection tracking has no room); shared (an app runs as the proxy's user); partial\n" +
			"(part of the traffic is not captured); taken (another's rules come first); changed (not as\n" +
			"apply wrote them); asleep (the table is dormant). Below it are the configuration in force, the\n" +
			"proxy's ports, and what was counted, by what it means. With -o wide it also says where each\n" +
			"value came from, what each rule has counted, and which chains and rules of others are there\n" +
			"that are not in the way. NAT rules count connections, since they see the first packet of each\n" +
			"alone. With nftables, rules that nearly every packet meets have no counter (-).\n\n" +
			"With --all it looks into every network namespace of the node, and prints a line for each, the\n" +
			"most trouble first.",
		Flags: func() []cli.Flag {
			return append(append(kernelFlags(), once(
				row(allFlag, "", groupWhere, "false",
					"every network namespace of the node, a line for each, by\nthe names of pods"),
				row(watchFlag, "DURATION", groupStatus, "0s",
					"look again so often, and show how much was counted in\nbetween; 0s: look once"))...),
				timeoutRow())
		},
		Outputs: wideOutput + "|" + prometheusOutput,
		Examples: `
  What has been captured, and what has passed?
    mesh-init status -n /run/netns/pod
  By which rule?
    mesh-init status -n /run/netns/pod -o wide
  The same, every two seconds:
    mesh-init status -n /run/netns/pod --watch 2s
  Which pods of this node are in trouble?
    mesh-init status --all
`}, job.status}
}

func (j job) status() error {
	wide := j.output == wideOutput
	if wide {
		j.output = cli.Text
	}
	if j.all {
		return j.statusOfAll(wide)
	}
	if j.every > 0 {
		return j.watchStatus()
	}
	o, err := j.plane.Overview(j.ctx)
	if errors.Is(err, intercept.ErrNotIntercepted) && j.output != cli.Text && j.output != prometheusOutput {
		return errors.Join(j.print(none(o), nil), err)
	}
	if errors.Is(err, intercept.ErrPermission) && j.output == cli.Text && len(o.Ports) > 0 {
		return errors.Join(j.print(nil, func() string {
			return cli.Hang("", 2, string(o.Verdict)+": the rules may not be looked at; "+strict.OneLine(o.Summary)) + "\n" +
				cli.Table(portRows(o))
		}), err)
	}
	if err != nil {
		return err
	}
	if o.Uncounted {
		j.log.WarnContext(j.ctx, "this kernel, gVisor, counts nothing: each rule is in force, and each number is zero")
	}
	if j.output != cli.Text { // whose first lines say it
		for _, table := range o.Dormant {
			j.log.WarnContext(j.ctx, "table "+table+" is dormant: none of its rules is in force; mesh-init apply --live wakes it")
		}
		for _, w := range o.Foreign.Warnings() {
			j.log.WarnContext(j.ctx, w)
		}
	}
	if j.output == prometheusOutput {
		j.out.WriteString(metricsOf(o))
		return nil
	}
	return j.print(none(o), func() string { return j.overviewText(o, wide) })
}

// none has lists in place of nothing, as programs expect them.
func none(o dataplane.Overview) dataplane.Overview {
	if o.Counters == nil {
		o.Counters = []intercept.Counter{}
	}
	if o.Others.Rules == nil {
		o.Others.Rules = []iptables.OtherRule{}
	}
	if o.Backends == nil {
		o.Backends = []dataplane.Backend{}
	}
	return o
}

// overviewText is the verdict, and what it comes from. The rules one by one, and those of others, are too much for most.
func (j job) overviewText(o dataplane.Overview, wide bool) string {
	if !wide { // what others have there is of interest where it is in the way
		o.Foreign.Chains = slices.DeleteFunc(slices.Clone(o.Foreign.Chains), func(c beside.Foreign) bool { return c.Warning() == "" })
		o.Others.Rules = slices.DeleteFunc(slices.Clone(o.Others.Rules), func(r iptables.OtherRule) bool { return !r.Earlier })
	}
	var text strings.Builder
	text.WriteString(headText(o, j.style))
	for _, table := range [][]cli.Row{configRows(o.InForce, wide), portRows(o), meaningRows(o.Meanings)} {
		if len(table) > 1 {
			text.WriteString("\n" + cli.Table(table))
		}
	}
	if len(o.Counters) > 0 && (wide || len(o.Meanings) == 0) { // where no rule has a meaning, there is nothing shorter
		text.WriteString("\n" + statusText(o.Counters))
	}
	return text.String() + foreignText(o.Foreign) + othersText(o.Others)
}

// verdictLine is the summary, with the verdict marked.
func verdictLine(o dataplane.Overview, style cli.Style) string {
	rest := strict.OneLine(strings.TrimPrefix(o.Summary, string(o.Verdict)))
	if o.Verdict == dataplane.Intercepting {
		return style.Good(string(o.Verdict)) + rest
	}
	return style.Bad(string(o.Verdict)) + rest
}

// configRows are the fields that differ from the default, and where they came from.
func configRows(f *dataplane.InForce, wide bool) (rows []cli.Row) {
	if f == nil {
		return nil
	}
	add := func(path, value, from string) {
		row := cli.Row{path, value}
		if wide {
			row = append(row, from)
		}
		rows = append(rows, row)
	}
	add("CONFIGURATION", "VALUE", "FROM")
	for _, s := range decode.Settings(f.Config, false) {
		add(s.Field.Path, strict.OneLine(s.Text), strict.OneLine(f.Origins[s.Field.Path]))
	}
	for _, path := range f.Omitted {
		add(path, "too long to be kept", strict.OneLine(f.Origins[path]))
	}
	if len(rows) == 1 {
		add("all of it", "the default", "")
	}
	return rows
}

func portRows(o dataplane.Overview) []cli.Row {
	rows := []cli.Row{{"PORT", "FOR", "WHO LISTENS"}}
	for _, p := range o.Ports {
		who := make([]string, len(p.Listeners))
		strangers := ""
		for i, l := range p.Listeners {
			who[i] = fmt.Sprintf("user %d", l.UID)
			if l.PID > 0 {
				who[i] += fmt.Sprintf(" (%s, process %d)", strict.OneLine(l.Process), l.PID)
			}
			if l.NotProxy {
				who[i] += ", not the proxy,"
				strangers = "; the proxy is " + verify.Identity(o.InForce.Config.Proxy) + ": mesh-init verify tries who gets " +
					"what comes here"
			}
			who[i] += " at " + l.Where()
			if l.Unreached {
				who[i] += ", where none of it comes"
			}
		}
		if len(who) == 0 {
			who = []string{"nobody"}
		}
		rows = append(rows, cli.Row{p.Port.String() + "/" + strings.ToLower(p.Protocol.String()), p.For,
			strings.Join(who, ", ") + strangers})
	}
	return rows
}

func meaningRows(counts []dataplane.Count) []cli.Row {
	rows := []cli.Row{{"PACKETS", "BYTES", "MEANING"}}
	for _, c := range counts {
		rows = append(rows, cli.Row{strconv.FormatUint(c.Packets, 10), strconv.FormatUint(c.Bytes, 10), string(c.Meaning)})
	}
	return rows
}

// statusText is one table, so that the columns of all chains agree.
func statusText(counters []intercept.Counter) string {
	rows := []cli.Row{{"PACKETS", "BYTES", "RULE", "FAMILY", "REASON"}}
	for i, c := range counters {
		if i == 0 || counters[i-1].Chain != c.Chain {
			rows = append(rows, cli.Row{strict.OneLine(c.Chain) + ":"})
		}
		packets, bytes := strconv.FormatUint(c.Packets, 10), strconv.FormatUint(c.Bytes, 10)
		if c.Uncounted {
			packets, bytes = "-", "-"
		}
		rows = append(rows, cli.Row{
			packets, bytes, strict.OneLine(string(c.Rule)), c.Family, strict.OneLine(c.Reason),
		})
	}
	return cli.Table(rows)
}

// metricsOf is an overview in Prometheus' text format.
func metricsOf(o dataplane.Overview) string {
	var text strings.Builder
	intercepting := 0
	if o.Verdict == dataplane.Intercepting {
		intercepting = 1
	}
	text.WriteString("# HELP mesh_intercepting Whether nothing is seen that keeps rules from intercepting.\n" +
		"# TYPE mesh_intercepting gauge\n" + fmt.Sprintf("mesh_intercepting{verdict=%q} %d\n", o.Verdict, intercepting))
	for _, m := range []struct {
		name, help string
		of         func(dataplane.Count) uint64
	}{
		{"mesh_packets_total", "Packets that rules have counted, by meaning; of NAT rules the first of each connection alone.",
			func(c dataplane.Count) uint64 { return c.Packets }},
		{"mesh_bytes_total", "Bytes of these packets.", func(c dataplane.Count) uint64 { return c.Bytes }},
	} {
		text.WriteString("# HELP " + m.name + " " + m.help + "\n# TYPE " + m.name + " counter\n")
		for _, c := range o.Meanings {
			fmt.Fprintf(&text, "%s{meaning=%q} %d\n", m.name, c.Meaning, m.of(c))
		}
	}
	return text.String()
}

// watchStatus shows again and again what is counted, until a signal comes or the rules are gone.
func (j job) watchStatus() error {
	ctx, stop := signal.NotifyContext(j.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var before *dataplane.Overview
	last := time.Now()
	for {
		o, err := j.plane.Overview(ctx)
		if ctx.Err() != nil && j.ctx.Err() == nil {
			return nil // somebody has seen enough
		}
		if err != nil {
			return err
		}
		now := time.Now()
		if err := j.now(j.style.Clear() + j.watchText(o, before, now.Sub(last))); err != nil {
			return err
		}
		before, last = &o, now
		select {
		case <-ctx.Done():
			return context.Cause(j.ctx)
		case <-time.After(j.every):
		}
	}
}

// watchText is the verdict, and what was counted since the last look, by meaning and by rule.
func (j job) watchText(o dataplane.Overview, before *dataplane.Overview, since time.Duration) string {
	text := cli.Hang("", 2, verdictLine(o, j.style))
	old := map[string]uint64{}
	key := func(c intercept.Counter) string {
		return c.Chain + "\n" + string(c.Rule) + "\n" + c.Family + "\n" + c.Reason
	}
	if before != nil {
		for _, m := range before.Meanings {
			old[string(m.Meaning)] = m.Packets
		}
		for _, c := range before.Counters {
			old[key(c)] = c.Packets
		}
	}
	rate := func(name string, packets uint64) string {
		was, known := old[name]
		if !known || packets < was || since <= 0 { // replaced since
			return "-"
		}
		return strconv.FormatFloat(float64(packets-was)/since.Seconds(), 'f', 1, 64)
	}
	rows := []cli.Row{{"PACKETS", "PER SECOND", "MEANING"}}
	for _, m := range o.Meanings {
		rows = append(rows, cli.Row{strconv.FormatUint(m.Packets, 10), rate(string(m.Meaning), m.Packets), string(m.Meaning)})
	}
	text += "\n" + cli.Table(rows)
	rows = []cli.Row{{"PACKETS", "PER SECOND", "RULE", "FAMILY", "REASON"}}
	for _, c := range o.Counters {
		if c.Packets > 0 {
			rows = append(rows, cli.Row{strconv.FormatUint(c.Packets, 10), rate(key(c), c.Packets),
				strict.OneLine(string(c.Rule)), c.Family, strict.OneLine(c.Reason)})
		}
	}
	return text + "\n" + cli.Table(rows) + "\n"
}
