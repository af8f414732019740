package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/internal/cli"
)

// errDiffers reports that explain --diff found packets of another fate.
var errDiffers = errors.New("the two configurations differ: packets have another fate")

// diffJSON is what explain --diff says.
type diffJSON struct {
	// Same is true if no packet's fate differs: that is proven, not sampled.
	Same    bool         `json:"same"`
	Changes []changeJSON `json:"changes"`
}

// changeJSON is packets that have one fate before and another one after, by rules of one line of the policy each.
type changeJSON struct {
	Before verdictJSON `json:"before"`
	After  verdictJSON `json:"after"`
	// Begins is true of packets that begin a connection or a flow; the others are of one that is there, or that
	// conntrack takes for another's.
	Begins  bool        `json:"begins"`
	Packets packetsJSON `json:"packets"`
}

// difference is what two configurations do differently.
func difference(before, after intercept.Config) ([]classes.Change, []changeJSON, error) {
	a, err := intercept.Compile(before)
	if err != nil {
		return nil, nil, cli.UsageError{Err: err}
	}
	b, err := intercept.Compile(after)
	if err != nil {
		return nil, nil, cli.UsageError{Err: err}
	}
	c, err := classes.New(nil, a, b)
	if err != nil {
		return nil, nil, tooMany(err)
	}
	changes, err := c.Diff()
	if err != nil {
		return nil, nil, tooMany(err)
	}
	was, is := reasonsOf(a), reasonsOf(b)
	all := make([]changeJSON, len(changes))
	for i, c := range changes {
		var without []classes.Field
		if c.First {
			without = classes.Beginning()
		}
		all[i] = changeJSON{was.verdict(c.Before), is.verdict(c.After), c.First,
			packetsOf(c.Boxes, c.More, c.Example, without...)}
	}
	return changes, all, nil
}

func (j job) explainDiff() error {
	_, all, err := difference(j.before, j.config)
	if err != nil {
		return err
	}
	err = j.print(diffJSON{len(all) == 0, all}, func() string {
		if len(all) == 0 {
			return j.style.Good("same") + ": no packet's fate differs\n"
		}
		return diffText(all)
	})
	if len(all) > 0 && err == nil {
		err = errDiffers
	}
	return err
}

func diffText(all []changeJSON) string {
	begin := 0
	for _, c := range all {
		if c.Begins {
			begin++
		}
	}
	var b strings.Builder
	for i, c := range all {
		switch {
		case c.Begins && i == 0:
			b.WriteString("New connections and flows:\n\n")
		case i == begin:
			b.WriteString("Packets of connections that are there, or that conntrack takes for another's:\n\n")
		}
		b.WriteString(cli.Hang(fmt.Sprintf("%d. ", i+1), 3,
			fmt.Sprintf("%s becomes %s", c.Before.text(), c.After.text())))
		b.WriteString(cli.Hang("   for example: ", 16, c.Packets.Example.String()))
		label := "   which:       "
		for _, box := range c.Packets.Boxes {
			b.WriteString(cli.Hang(label, 16, box.text()))
			label = "   or:          "
		}
		if c.Packets.More {
			b.WriteString(label + "and more, of which too many parts would have to be named\n")
		}
		b.WriteString("\n")
	}
	return b.String() + fmt.Sprintf("%s of new connections and flows, and %d of other packets, have another fate.\n",
		count(begin, "class"), len(all)-begin)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ses", n, what)
}

func (v verdictJSON) text() string {
	if len(v.Rules) == 0 {
		return v.Fate.String() + " (" + v.Reason + ")"
	}
	return v.Fate.String() + " (" + v.rulesText() + ": " + v.Reason + ")"
}

func (b boxJSON) text() string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = shorten(c.String())
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, "; ")
}
