package explain

import (
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Cell is what becomes of the first packets of one kind of flow: each is in one of the parts.
type Cell struct {
	From    classes.From    `json:"from"`
	Where   classes.Where   `json:"where"`
	Traffic classes.Traffic `json:"traffic"`
	Family  string          `json:"family"`
	Parts   []Part          `json:"parts"`
}

// Part is the flows of a cell that have one fate, by rules of one line of the policy.
type Part struct {
	Verdict
	// Which says which they are, of those that are in no part before: "the rest", of the last one.
	Which   string  `json:"which"`
	Packets Packets `json:"packets"`
}

// Verdict is a fate and the rules that decide it. There are none where no rule does.
type Verdict struct {
	Fate   ruleset.Fate     `json:"fate"`
	Line   string           `json:"line"`
	Rules  []ruleset.RuleID `json:"rules"`
	Reason string           `json:"reason"`
}

// Packets are packets: those that satisfy all conditions of one of the boxes. What no condition is about does not
// matter.
type Packets struct {
	Boxes []Box `json:"boxes"`
	// More is true if there are boxes beyond these.
	More    bool    `json:"more,omitempty"`
	Example Example `json:"example"`
}

// Box is conditions that packets satisfy, all of them.
type Box []classes.Condition

// String is them in short.
func (b Box) String() string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = Shorten(c.String())
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, "; ")
}

// Example is one of the packets.
type Example struct {
	Packet
	Flags string `json:"flags,omitempty"`
	Older bool   `json:"olderThanRules,omitempty"`
	MPTCP bool   `json:"mptcp,omitempty"`
	is    classes.Example
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

func (r reasons) verdict(v classes.Verdicts) Verdict {
	out := Verdict{v.Fate, v.Line, v.Rules, "no rule decides"}
	if len(v.Rules) > 0 {
		all := make([]string, len(v.Rules))
		for i, id := range v.Rules {
			all[i] = r[id]
		}
		out.Reason = joined(all)
	} else {
		out.Rules = []ruleset.RuleID{}
	}
	return out
}

// joined is what several reasons say: where they differ in a word, the others once.
func joined(reasons []string) string {
	slices.Sort(reasons)
	if reasons = slices.Compact(reasons); len(reasons) == 1 {
		return reasons[0]
	}
	words := make([][]string, len(reasons))
	shortest := len(reasons[0])
	for i, r := range reasons {
		// What stands in parentheses is a word of its own.
		words[i] = strings.Fields(strings.NewReplacer("(", "( ", ")", " )", ",", " ,").Replace(r))
		shortest = min(shortest, len(words[i]))
	}
	same := func(at func([]string) string) bool {
		return !slices.ContainsFunc(words, func(w []string) bool { return at(w) != at(words[0]) })
	}
	first, last := 0, 0
	for first < shortest-1 && same(func(w []string) string { return w[first] }) {
		first++
	}
	for last < shortest-first-1 && same(func(w []string) string { return w[len(w)-1-last] }) {
		last++
	}
	var differ []string
	for _, w := range words {
		if len(w) != first+1+last {
			return strings.Join(reasons, " or ")
		}
		differ = append(differ, w[first])
	}
	all := append(slices.Clone(words[0][:first]), strings.Join(differ, " or "))
	text := strings.Join(append(all, words[0][len(words[0])-last:]...), " ")
	return strings.NewReplacer("( ", "(", " )", ")", " ,", ",").Replace(text)
}

// RulesText names rules in a few columns: by the first, where they say the same for several.
func (v Verdict) RulesText() string {
	if len(v.Rules) == 1 {
		return string(v.Rules[0])
	}
	return v.Line
}

func packetsOf(boxes []classes.Box, more bool, e classes.Example, without ...classes.Field) Packets {
	out := Packets{More: more, Example: exampleOf(e), Boxes: make([]Box, len(boxes))}
	for i, b := range boxes {
		out.Boxes[i] = append(Box{}, b.Conditions(without...)...)
	}
	return out
}

func exampleOf(e classes.Example) Example {
	p := e.Packet
	from := "outside"
	switch {
	case p.Owner != nil:
		from = "process"
	case p.Hook == intercept.Output:
		from = "kernel"
	}
	out := Example{Describe(p, from, e.Conntrack), "", e.Older, p.MPTCP, e}
	if p.Protocol == intercept.TCP {
		out.Flags = classes.FlagsText(p.Flags)
	}
	return out
}

// String says the packet, as far as it is not one that opens a connection, and is so.
func (e Example) String() string {
	all := []string{e.Packet.String()}
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

// Change is packets that have one fate before and another one after, by rules of one line of the policy each.
type Change struct {
	Before Verdict `json:"before"`
	After  Verdict `json:"after"`
	// Begins is true of packets that begin a connection or a flow; the others are of one that is there, or that
	// conntrack takes for another's.
	Begins  bool    `json:"begins"`
	Packets Packets `json:"packets"`
}

// Matrix is what becomes of the first packets of every flow under a configuration. The error is one of
// [intercept.Compile], or a [*classes.TooManyError].
func Matrix(c intercept.Config) ([]Cell, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return nil, err
	}
	found, err := classes.Matrix(rs, classes.Proxy{UIDs: c.Proxy.UIDs, GIDs: c.Proxy.GIDs, Mark: c.Proxy.Mark})
	if err != nil {
		return nil, err
	}
	why := reasonsOf(rs)
	cells := make([]Cell, len(found))
	for i, c := range found {
		cells[i] = Cell{c.From, c.Where, c.Traffic, c.Family.String(), make([]Part, len(c.Parts))}
		for k, p := range c.Parts {
			v := why.verdict(p.Verdicts)
			if p.Line == "" && !slices.Contains(rs.Families, c.Family) {
				v.Reason = c.Family.String() + " is not captured"
			}
			cells[i].Parts[k] = Part{v, p.Which(), packetsOf(p.Boxes, p.More, p.Example, classes.Beginning()...)}
		}
	}
	return cells, nil
}

// Diff is which packets have another fate under the one configuration than under the other. The error is one of
// [intercept.Compile], or a [*classes.TooManyError].
func Diff(before, after intercept.Config) ([]Change, error) {
	a, err := intercept.Compile(before)
	if err != nil {
		return nil, err
	}
	b, err := intercept.Compile(after)
	if err != nil {
		return nil, err
	}
	c, err := classes.New(nil, a, b)
	if err != nil {
		return nil, err
	}
	changes, err := c.Diff()
	if err != nil {
		return nil, err
	}
	was, is := reasonsOf(a), reasonsOf(b)
	all := make([]Change, len(changes))
	for i, c := range changes {
		var without []classes.Field
		if c.First {
			without = classes.Beginning()
		}
		all[i] = Change{was.verdict(c.Before), is.verdict(c.After), c.First,
			packetsOf(c.Boxes, c.More, c.Example, without...)}
	}
	return all, nil
}
