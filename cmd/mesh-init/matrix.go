package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/ruleset"
)

// cellJSON is what becomes of the first packets of one kind of flow: each is in one of the parts.
type cellJSON struct {
	From    classes.From    `json:"from"`
	Where   classes.Where   `json:"where"`
	Traffic classes.Traffic `json:"traffic"`
	Family  string          `json:"family"`
	Parts   []partJSON      `json:"parts"`
}

// partJSON is the flows of a cell that have one fate, by rules of one line of the policy.
type partJSON struct {
	verdictJSON
	// Which says which they are, of those that are in no part before: "the rest", of the last one.
	Which   string      `json:"which"`
	Packets packetsJSON `json:"packets"`
}

// verdictJSON is a fate and the rules that decide it. There are none where no rule does.
type verdictJSON struct {
	Fate   ruleset.Fate     `json:"fate"`
	Line   string           `json:"line"`
	Rules  []ruleset.RuleID `json:"rules"`
	Reason string           `json:"reason"`
}

// packetsJSON are packets: those that satisfy all conditions of one of the boxes. What no condition is about does not
// matter.
type packetsJSON struct {
	Boxes []boxJSON `json:"boxes"`
	// More is true if there are boxes beyond these.
	More    bool        `json:"more,omitempty"`
	Example exampleJSON `json:"example"`
}

type boxJSON []classes.Condition

// exampleJSON is one of the packets.
type exampleJSON struct {
	packetJSON
	Flags string `json:"flags,omitempty"`
	Older bool   `json:"olderThanRules,omitempty"`
	MPTCP bool   `json:"mptcp,omitempty"`
}

// reasons are those of a ruleset's rules.
type reasons map[ruleset.RuleID]string

func reasonsOf(rs ruleset.Ruleset) reasons {
	all := reasons{}
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			all[r.ID] = r.Reason
		}
	}
	return all
}

func (r reasons) verdict(v classes.Verdicts) verdictJSON {
	out := verdictJSON{v.Fate, v.Line, v.Rules, "no rule decides"}
	if len(v.Rules) > 0 {
		out.Reason = r[v.Rules[0]]
	} else {
		out.Rules = []ruleset.RuleID{}
	}
	return out
}

// rulesText names rules in a few columns: by the first, where they say the same for several.
func (v verdictJSON) rulesText() string {
	if len(v.Rules) == 1 {
		return string(v.Rules[0])
	}
	return v.Line
}

func packetsOf(boxes []classes.Box, more bool, e classes.Example, without ...classes.Field) packetsJSON {
	out := packetsJSON{More: more, Example: exampleOf(e), Boxes: make([]boxJSON, len(boxes))}
	for i, b := range boxes {
		out.Boxes[i] = append(boxJSON{}, b.Conditions(without...)...)
	}
	return out
}

func exampleOf(e classes.Example) exampleJSON {
	p := e.Packet
	from := "outside"
	switch {
	case p.Owner != nil:
		from = "process"
	case p.Hook == intercept.Output:
		from = "kernel"
	}
	out := exampleJSON{describe(p, from, e.Conntrack), "", e.Older, p.MPTCP}
	if p.Protocol == intercept.TCP {
		out.Flags = classes.FlagsText(p.Flags)
	}
	return out
}

// String says the packet, as far as it is not one that opens a connection, and is so.
func (e exampleJSON) String() string {
	all := []string{e.packetJSON.String()}
	for _, more := range []struct {
		is   bool
		text string
	}{
		{e.Flags != "" && e.Flags != "SYN", e.Flags}, {e.MPTCP, "MPTCP"}, {e.Older, "older than the rules"},
	} {
		if more.is {
			all = append(all, more.text)
		}
	}
	return strings.Join(all, ", ")
}

func (j job) explainMatrix() error {
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	proxy := classes.Proxy{UIDs: j.config.Proxy.UIDs, GIDs: j.config.Proxy.GIDs, Mark: j.config.Proxy.Mark}
	found, err := classes.Matrix(rs, proxy)
	if err != nil {
		return tooMany(err)
	}
	why := reasonsOf(rs)
	cells := make([]cellJSON, len(found))
	for i, c := range found {
		cells[i] = cellJSON{c.From, c.Where, c.Traffic, c.Family.String(), make([]partJSON, len(c.Parts))}
		for k, p := range c.Parts {
			v := why.verdict(p.Verdicts)
			if p.Line == "" && !slices.Contains(rs.Families, c.Family) {
				v.Reason = c.Family.String() + " is not captured"
			}
			cells[i].Parts[k] = partJSON{v, p.Which(), packetsOf(p.Boxes, p.More, p.Example, classes.Beginning()...)}
		}
	}
	return j.print(cells, func() string { return matrixText(cells) })
}

// tooMany makes of classes that are too many to be told apart a mistake in what was asked.
func tooMany(err error) error {
	if _, is := errors.AsType[*classes.TooManyError](err); is {
		return cli.UsageError{Err: err}
	}
	return err
}

// matrixText is the table. Kinds of traffic, and families, of which the same is said have one line.
func matrixText(cells []cellJSON) string {
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
			l.rows = append(l.rows, cli.Row{p.Fate.String(), p.rulesText(), shorten(p.Which), p.Reason})
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
	return "What becomes of the first packet of every flow. Of several lines for one kind of traffic the first\n" +
		"that fits says it. DNS is TCP and UDP to port 53, which TCP and UDP here leave out.\n\n" + cli.Table(table)
}

// heading says whose flows a cell has, and where they go.
func heading(c cellJSON) string {
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
