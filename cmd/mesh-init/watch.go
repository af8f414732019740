package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/watching"
)

const (
	repairFlag = "repair"
)

func watchVerb() verb {
	return verb{cli.Verb{
		Name: "watch", Does: "tell of changed rules and of new connections as they happen",
		Also: []string{"events", "live", "tail", "observe"},
		More: "It says who changes rules, whether ours are still as their configuration makes them, and\n" +
			"where each new connection goes. What goes past the proxy although its sender's connections\n" +
			"are captured is marked, with the user, the process and the rule.",
		Flags: func() []cli.Flag {
			return append(append(kernelFlags(), forFlags()...), once(
				row(repairFlag, "", groupTrace, "false",
					"apply the configuration that is kept beside the rules\nagain when they are not as it makes them, removed too"))...)
		},
		Examples: `
  Who changes the rules of this pod, and what goes past the proxy?
    mesh-init watch -n pid:4711
  Keep the rules as they are, and log what happens, as lines of JSON:
    mesh-init watch -n pid:4711 --repair -o json
`}, job.watchNamespace}
}

// watchNamespace tells of events, and at the end how many there were.
func (j job) watchNamespace() error {
	j.begin()
	ctx, stop := signal.NotifyContext(j.ctx, endings()...)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, j.observation.during)
	defer cancel()
	kept, err := j.plane.InForce(ctx)
	switch {
	case errors.Is(err, dataplane.ErrNotKept):
		j.log.WarnContext(ctx, "it is neither seen whether the rules are as they should be, nor by which rule connections pass",
			"why", err.Error())
	case err == nil && len(kept.Omitted) > 0:
		j.log.WarnContext(ctx, "lists too long to be kept beside the rules are not known: the rules are not compared, nor repaired",
			"fields", strings.Join(kept.Omitted, ", "))
	}
	summary, err := j.plane.Watch(ctx, dataplane.WatchOptions{
		Repair: j.observation.repair,
		Tell:   func(r dataplane.WatchRecord) error { return j.tell(r, func() string { return watchText(r, j.style) }) },
		Note:   func(text string) { j.log.WarnContext(ctx, text) },
	})
	if errors.Is(err, syscall.EPIPE) {
		return nil // a reader that has enough
	}
	if err != nil {
		return j.bare(err)
	}
	text := fmt.Sprintf("%s captured, %d passed", strict.Count(summary.Captured, "new connection"), summary.Passed)
	if summary.Unseen {
		text = "new connections were not seen"
	}
	if summary.Uncaptured > 0 {
		least := ""
		if summary.Unjudged > 0 {
			least = "at least "
		}
		text += fmt.Sprintf(" (%s%d of them past the proxy, of senders whose others are captured)", least, summary.Uncaptured)
	}
	if summary.Resumed > 0 {
		text += fmt.Sprintf("; %d went on that had begun before conntrack knew them", summary.Resumed)
	}
	switch summary.Changes {
	case 0:
		text += "; nobody changed rules"
	case 1:
		text += "; rules were changed once"
	default:
		text += fmt.Sprintf("; rules were changed %d times", summary.Changes)
	}
	if summary.Lost > 0 {
		text += "; lost: " + strict.Count(int(summary.Lost), "event")
	}
	j.log.InfoContext(j.ctx, text)
	switch summary.State {
	case watching.Drifted, watching.Failed:
		return errDrifted
	case watching.Gone:
		return j.bare(intercept.ErrNotIntercepted)
	}
	return nil
}

// watchText says an event in a line, and its details in lines below.
func watchText(r dataplane.WatchRecord, style cli.Style) string {
	switch {
	case r.Rules != nil:
		tables := make([]string, len(r.Rules.Tables))
		for i, t := range r.Rules.Tables {
			if tables[i] = t.Family + " " + strict.OneLine(t.Name); t.Added+t.Removed > 0 {
				tables[i] += fmt.Sprintf(" (%s added, %d removed)", strict.Count(t.Added, "rule"), t.Removed)
			}
		}
		return fmt.Sprintf("%s rules changed by %s (process %d on the node): table %s\n", r.Rules.At.Format(clock),
			strict.OneLine(r.Rules.By), r.Rules.PID, strings.Join(tables, ", "))
	case r.State != nil:
		s := r.State
		text := s.At.Format(clock) + " our rules: "
		if s.State == watching.OK || s.State == watching.Repaired {
			text += style.Good(s.State)
		} else {
			text += style.Bad(s.State)
		}
		if s.Detail != "" {
			text += ": " + strict.OneLine(s.Detail)
		}
		lines := []string{text + "\n"}
		for _, d := range s.Differences {
			lines = append(lines, cli.Hang("  ", 2, strict.OneLine(d)))
		}
		if s.More > 0 {
			lines = append(lines, fmt.Sprintf("  and %d more\n", s.More))
		}
		return strings.Join(lines, "")
	case r.Flow != nil:
		return flowText(*r.Flow, style)
	case r.More != nil:
		return fmt.Sprintf("%s and in the last second more connections: %d captured, %d passed\n", r.More.At.Format(clock),
			r.More.Captured, r.More.Passed)
	case r.Lost != nil:
		return fmt.Sprintf("%s lost: %s; there were more than could be read\n", r.Lost.At.Format(clock),
			strict.Count(int(r.Lost.Events), "event"))
	}
	return ""
}

func flowText(f dataplane.WatchFlow, style cli.Style) string {
	from := endText(f.Src)
	if f.Sender != nil {
		from = "user " + strconv.FormatUint(uint64(f.Sender.UID), 10)
		if f.Sender.PID != 0 {
			from += fmt.Sprintf(" (%s, process %d)", strict.OneLine(f.Sender.Program), f.Sender.PID)
		}
	}
	text := fmt.Sprintf("%s %s -> %s %s ", f.At.Format(clock), from, endText(f.Dst), strings.ToUpper(f.Protocol.String()))
	fate := "passed"
	switch {
	case f.Resumed:
		fate = "goes on; it began before conntrack knew it"
	case f.Captured && f.To.IsValid():
		fate = "captured by port " + strconv.Itoa(int(f.To.Port()))
	case f.Captured:
		fate = "captured, " + f.Fate
	case f.To.IsValid():
		fate = "sent to " + f.To.String() + " by another's NAT"
	}
	if f.Uncaptured {
		text += style.Bad(fate)
	} else {
		text += fate
	}
	switch {
	case f.Unexpected:
		why := "another's rule came first, or the connection is older than the rules"
		switch f.Rules {
		case watching.Gone:
			why = "our rules are gone"
		case watching.Drifted:
			why = "our rules have drifted"
		}
		text += ", although " + string(f.Rule) + " captures it (" + f.Reason + "): " + why
	case f.Rule != "":
		text += ": " + string(f.Rule) + " (" + f.Reason + ")"
	}
	return text + "\n"
}
