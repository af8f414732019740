package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/flowline"
	"github.com/mesh-intercept/intercept/internal/infile"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/ruleset"
)

// The bounds of explain --flows: some seconds, and some hundred megabytes.
const (
	maxFlowsFile = 32 << 20
	maxFlows     = 100_000
)

// flowFlags are the flags of a packet that hold for all flows whose lines say nothing else.
func flowFlags() []string { return []string{"from", "uid", "gid", "mark", "interface", "state"} }

// flowJSON is what becomes of the flow of one line, or why the line cannot be read.
type flowJSON struct {
	// Number is that of the first line of the flow in its file, from 1 on, and Lines is how many there are of it. 0: one.
	Number int               `json:"number"`
	Lines  int               `json:"lines,omitempty"`
	Fate   *intercept.Fate   `json:"fate,omitempty"`
	ID     *intercept.RuleID `json:"id,omitempty"`
	Reason string            `json:"reason,omitempty"`
	Packet *explain.Packet   `json:"packet,omitempty"`
	Error  string            `json:"error,omitempty"`
}

// readFlows reads the file that --flows names.
func readFlows(from setting, stdin io.Reader) ([]byte, error) {
	data, err := yamldoc.ReadWithin(from.text, stdin, maxFlowsFile)
	if errors.Is(err, infile.ErrTooLarge) {
		err = fmt.Errorf("%w; give it in parts", err)
	}
	return data, strict.Under(from.source, err)
}

func (j job) explainFlows() error {
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	var all []flowJSON
	var unread []string
	number := 0
	asides, seen := map[flowline.What]int{}, map[string]int{}
	for line := range strings.Lines(string(j.flows)) {
		number++
		if len(all) == maxFlows {
			return cli.UsageError{Err: fmt.Errorf("--%s: over %d flows; give them in parts", flowsFlag, maxFlows)}
		}
		f, err := flowline.Parse(line)
		if aside, is := errors.AsType[*flowline.AsideError](err); is {
			asides[aside.What]++
			continue
		}
		if errors.Is(err, flowline.ErrNoFlow) {
			continue
		}
		explained := flowJSON{Number: number}
		if err == nil {
			err = j.explainFlow(rs, f, &explained)
		}
		if err != nil {
			explained.Error = strict.OneLine(err.Error())
			unread = append(unread, strconv.Itoa(number))
		}
		if explained.Packet != nil { // a capture has many packets of a flow
			key := explained.Packet.String()
			if at, again := seen[key]; again {
				all[at].Lines = max(all[at].Lines, 1) + 1
				continue
			}
			seen[key] = len(all)
		}
		all = append(all, explained)
	}
	if err := j.printFlows(all, asides); err != nil {
		return err
	}
	if n := len(unread); n > 0 {
		const most = 10
		lines := strings.Join(unread[:min(n, most)], ", ")
		if n > most {
			lines += ", …"
		}
		word := "line"
		if n > 1 {
			word = "lines"
		}
		return cli.UsageError{Err: fmt.Errorf("--%s: %d of %s cannot be read: %s %s", flowsFlag, n,
			strict.Count(len(all), "flow"), word, lines)}
	}
	return nil
}

// explainFlow says what becomes of the packet that begins a flow.
func (j job) explainFlow(rs intercept.Ruleset, f flowline.Flow, to *flowJSON) error {
	p := packetFlags{}
	maps.Copy(p, j.packet)
	set := func(name, text string) {
		s := p[name]
		s.text, s.given = text, true
		p[name] = s
	}
	if f.Protocol != "tcp" && f.Protocol != "udp" && f.Protocol != "icmp" {
		return fmt.Errorf("protocol %s; explain knows tcp, udp and icmp", f.Protocol)
	}
	set("proto", f.Protocol)
	dst, src := f.Dst.String(), f.Src.String()
	if f.Protocol == "icmp" {
		dst, src = f.Dst.Addr().String(), f.Src.Addr().String()
	}
	set(dstFlag, dst)
	set("src", src)
	switch from := p["from"].text; {
	case f.Way == flowline.In && f.Interface != ruleset.Loopback:
		set("from", "outside")
		for _, name := range []string{"uid", "gid", "mark"} { // they are for those flows that the pod sends
			p[name] = setting{Flag: p[name].Flag, text: p[name].Initial}
		}
	case f.Way != "" && from == "outside":
		set("from", "app")
	}
	if f.Interface != "" {
		set("interface", f.Interface)
	}
	for _, s := range f.Settings {
		if !slices.Contains(flowFlags(), s.Name) {
			return fmt.Errorf("%q is not one of %s", strict.Clip(s.Name), strings.Join(flowFlags(), ", "))
		}
		if err := p[s.Name].Plausible(s.Value); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		set(s.Name, s.Value)
	}
	if f.Src.Addr() == f.Dst.Addr() && !p.given("interface") && p["from"].text != "outside" {
		set("interface", ruleset.Loopback)
	}
	if j.live != nil {
		p.toOwn(j.live.own, f.Dst.Addr())
	}
	answer, err := explain.Follow(rs, j.config, p.question())
	if err != nil {
		return errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "--"), "\n--", "; "))
	}
	e := answer.Explain(j.config, p.question())
	to.Fate, to.ID, to.Reason, to.Packet = &e.Fate, &e.ID, e.Reason, &e.Packet
	return nil
}

// printFlows prints the flows, one a line: those of JSON, too.
func (j job) printFlows(all []flowJSON, asides map[flowline.What]int) error {
	if len(all) == 0 {
		j.log.WarnContext(j.ctx, "there is no flow in what was read")
	}
	if j.output != cli.Text {
		if j.live != nil {
			if err := j.output.WriteLine(j.out, *j.live); err != nil {
				return err
			}
		}
		for _, f := range all {
			if err := j.output.WriteLine(j.out, f); err != nil {
				return err
			}
		}
		if note := asidesText(asides); note != "" {
			j.log.InfoContext(j.ctx, note)
		}
		return nil
	}
	var b strings.Builder
	row := func(line, fate, rule, flow string) { fmt.Fprintf(&b, "%-6s %-17s %-14s %s\n", line, fate, rule, flow) }
	row("LINE", "FATE", "RULE", "FLOW")
	for _, f := range all {
		if f.Error != "" {
			row(strconv.Itoa(f.Number), "-", "-", "cannot be read: "+f.Error)
			continue
		}
		flow := strict.OneLine(f.Packet.String())
		if f.Lines > 1 {
			flow += fmt.Sprintf(" (%d lines)", f.Lines)
		}
		row(strconv.Itoa(f.Number), f.Fate.String(), cmp.Or(string(*f.ID), "-"), flow)
	}
	if note := asidesText(asides); note != "" {
		b.WriteString("\n" + cli.Hang("", 2, note))
	}
	return j.print(nil, b.String)
}

// asidesText says how many lines were left out, and what they are.
func asidesText(asides map[flowline.What]int) string {
	var all []string
	n := 0
	for _, what := range flowline.AllWhats() {
		if asides[what] > 0 {
			all = append(all, fmt.Sprintf("%d of %s", asides[what], what))
			n += asides[what]
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s of no flow: %s", strict.Count(n, "line"), strings.Join(all, ", "))
}
