package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/whynot"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// whyNotJSON is what explain --why-not says.
type whyNotJSON struct {
	// Captured is true of a packet that goes to the proxy. The changes then let it go; else they send it there.
	Captured bool             `json:"captured"`
	Fate     intercept.Fate   `json:"fate"`
	ID       intercept.RuleID `json:"id"`
	Reason   string           `json:"reason"`
	Packet   explain.Packet   `json:"packet"`
	// Changes are those of the configuration, the one that changes least first.
	Changes []whyNotChange `json:"changes"`
}

// whyNotChange is a change of the configuration that gives the packet the other fate.
type whyNotChange struct {
	// Flags are those to write in place of, or beside, the ones that there are; YAML is the same for a file.
	Flags  []string         `json:"flags"`
	YAML   string           `json:"yaml"`
	Fate   intercept.Fate   `json:"fate"`
	ID     intercept.RuleID `json:"id"`
	Reason string           `json:"reason"`
	// Flows and Others count the classes of packets that have another fate then: of those that begin a flow, and of the
	// others. This packet's is among them.
	Flows  int `json:"flows"`
	Others int `json:"others"`
	// Which are the flows, one text for each class.
	Which []string `json:"which"`
}

// whyNotPacket is the packet that --why-not is about.
func (p packetFlags) whyNotPacket() packetFlags {
	p = maps.Clone(p)
	p[dstFlag] = p[whyNotFlag]
	return p
}

func (j job) explainWhyNot() error {
	flags := j.packet.whyNotPacket()
	question := flags.question()
	answer, err := explain.Ask(j.config, question)
	if of, is := errors.AsType[*explain.FlagError](err); is && of.Flag == dstFlag {
		err = fmt.Errorf("--%s: %w", whyNotFlag, of.Err)
	}
	if err != nil {
		return cli.UsageError{Err: err}
	}
	packet, trace := answer.Packet, answer.Trace
	found, err := whynot.Find(j.config, packet)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	e := answer.Explain(j.config, question)
	out := whyNotJSON{whynot.Captured(trace.Fate), trace.Fate, trace.Rule, whyNot(j.config.DNS, packet, trace, e.Reason),
		e.Packet, []whyNotChange{}}
	for _, c := range found {
		change, err := changeOf(j.config, c, packet)
		if err != nil {
			return err
		}
		out.Changes = append(out.Changes, change)
	}
	return j.print(out, func() string { return out.text(j.style) })
}

func changeOf(from intercept.Config, c whynot.Change, p intercept.Packet) (whyNotChange, error) {
	settings, node := decode.Changed(from, c.Config)
	text, err := yamldoc.Format(node)
	if err != nil {
		return whyNotChange{}, err
	}
	out := whyNotChange{YAML: string(text), Fate: c.Trace.Fate, ID: c.Trace.Rule,
		Reason: explain.Of(c.Config, p, c.Trace).Reason, Flags: []string{}, Which: []string{}}
	for _, s := range settings {
		out.Flags = append(out.Flags, cli.Quote(s.Arg()))
	}
	for _, change := range c.Changes {
		if !change.First {
			out.Others++
			continue
		}
		out.Flows++
		out.Which = append(out.Which, fmt.Sprintf("%s becomes %s: %s", change.Before.Fate, change.After.Fate,
			boxText(change.Boxes[0].Conditions(classes.Beginning()...))))
	}
	return out, nil
}

func (w whyNotJSON) text(style cli.Style) string {
	var b strings.Builder
	rule := w.Reason
	if w.ID != "" {
		rule = string(w.ID) + ": " + w.Reason
	}
	state, wanted := "not captured: ", "send it to the proxy"
	if w.Captured {
		state, wanted = "captured: ", "let it go"
	}
	b.WriteString(cli.Hang(style.Strong(state), len(state), w.Fate.String()+", by "+rule))
	b.WriteString("\n" + cli.Hang("packet: ", 8, strict.OneLine(w.Packet.String())))
	if len(w.Changes) == 0 {
		b.WriteString("\nNo change of a few fields would " + wanted + ".\n")
		return b.String()
	}
	b.WriteString("\nEach of these changes would " + wanted + ". The first one changes least.\n")
	for i, c := range w.Changes {
		b.WriteString("\n" + cli.Hang(fmt.Sprintf("%d. ", i+1), 3, shorten(strings.Join(c.Flags, " "))))
		lines := strings.Split(strings.TrimRight(c.YAML, "\n"), "\n")
		const mostLines = 8
		for k, line := range lines {
			if k == mostLines {
				fmt.Fprintf(&b, "     … (%d more lines)\n", len(lines)-k)
				break
			}
			b.WriteString("     " + line + "\n")
		}
		b.WriteString(cli.Hang("   then:    ", 12, c.Fate.String()+", by "+string(c.ID)+": "+c.Reason))
		label := "   changes: "
		for _, text := range c.Which {
			b.WriteString(cli.Hang(label, 12, text))
			label = "            "
		}
		if c.Flows+c.Others == 0 {
			b.WriteString(label + "too many classes of packets to tell them apart\n")
			continue
		}
		fmt.Fprintf(&b, "            (%s of new connections and flows, and %d of other packets)\n",
			count(c.Flows, "class"), c.Others)
	}
	return b.String()
}

// whyNot is the reason of a rule, or what the rule does not know: that a lookup is of a server that nobody has listed.
func whyNot(dns intercept.DNS, p intercept.Packet, trace intercept.Trace, reason string) string {
	if trace.Line != "O14" || p.Protocol != intercept.UDP || p.Dst.Port() != 53 || dns.Mode != intercept.DNSResolvConf {
		return reason
	}
	listed := make([]string, len(dns.Servers))
	for i, a := range dns.Servers {
		listed[i] = a.String()
	}
	return fmt.Sprintf("%s is none of the servers whose lookups are captured (%s)", p.Dst.Addr(),
		cmp.Or(strict.Clip(strings.Join(listed, ", ")), "none"))
}
