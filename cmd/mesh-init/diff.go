package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// errDiffers reports that explain --diff found packets of another fate.
var errDiffers = errors.New("the two configurations differ: packets have another fate")

// diffJSON is what explain --diff says.
type diffJSON struct {
	// Same is true if no packet's fate differs: that is proven, not sampled.
	Same    bool             `json:"same"`
	Changes []explain.Change `json:"changes"`
}

func (j job) explainDiff() error {
	all, err := explain.Diff(j.before, j.config)
	if err != nil {
		return cli.UsageError{Err: err}
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

func diffText(all []explain.Change) string {
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
			fmt.Sprintf("%s becomes %s", verdictText(c.Before), verdictText(c.After))))
		b.WriteString(cli.Hang("   for example: ", 16, c.Packets.Example.String()))
		label := "   which:       "
		for _, box := range c.Packets.Boxes {
			b.WriteString(cli.Hang(label, 16, box.String()))
			label = "   or:          "
		}
		if c.Packets.More {
			b.WriteString(label + "and more, of which too many parts would have to be named\n")
		}
		b.WriteString("\n")
	}
	return b.String() + fmt.Sprintf("Another fate: %s of new connections and flows, and %d of other packets.\n",
		strict.Count(begin, "class"), len(all)-begin)
}

func verdictText(v explain.Verdict) string {
	if len(v.Rules) == 0 {
		return v.Fate.String() + " (" + v.Reason + ")"
	}
	return v.Fate.String() + " (" + v.RulesText() + ": " + v.Reason + ")"
}
