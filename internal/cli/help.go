package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/decode"
)

// help answers the verb help: of everything, or of the verb that is named.
func (p Program) help(ctx context.Context, line Line) int {
	if len(line.Errs) > 0 {
		return p.usage(ctx, line.Errs[0])
	}
	if len(line.Args) == 0 {
		return p.Print(ctx, p.generalHelp())
	}
	code := ExitDone
	if err := p.known(p.commands(ctx, &code, false), line.Args[0]); err != nil {
		return p.usage(ctx, err)
	}
	v := *p.verb(line.Args[0])
	if v.Raw != nil {
		return v.Raw(ctx, []string{"--" + helpName})
	}
	return p.Print(ctx, p.verbHelp(v))
}

// shortHelp is what is printed without any argument.
func (p Program) shortHelp() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s.\n\nUsage: %s VERB [flags]\n\nVerbs:\n", p.Name, p.Does, p.Name)
	var others []Verb
	for _, v := range p.all() {
		if v.InPlaceOf {
			others = append(others, v)
			continue
		}
		fmt.Fprintf(&b, "  %-10s  %s\n", v.Name, v.Does)
	}
	if len(others) > 0 {
		b.WriteString("\nIn place of other programs, with their flags:\n")
	}
	for _, v := range others {
		fmt.Fprintf(&b, "  %-17s  %s\n", v.Name, v.Does)
	}
	fmt.Fprintf(&b, "\n%s help lists the flags, and %s help VERB those of a verb.\n", p.Name, p.Name)
	return b.String()
}

// generalHelp is what a person needs who meets the command for the first time.
func (p Program) generalHelp() string {
	var b strings.Builder
	b.WriteString(p.shortHelp())
	writeFlags(&b, p.AllFlags())
	b.WriteString(p.Notes + "\nExit codes:\n")
	for _, e := range p.Exits {
		fmt.Fprintf(&b, "  %2d  %s\n", e.Code, e.Meaning)
	}
	b.WriteString("\nExamples:\n")
	for _, v := range p.all() {
		b.WriteString(strings.TrimPrefix(v.Examples, "\n"))
	}
	return b.String()
}

// verbHelp is the help of one verb.
func (p Program) verbHelp(v Verb) string {
	if v.Name == helpName {
		return p.generalHelp()
	}
	usage := []string{p.Name, v.Name, v.Arg, v.Needs}
	if v.Arg == "" {
		usage = append(usage, "[flags]")
	}
	usage = slices.DeleteFunc(usage, func(word string) bool { return word == "" })
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s\n\nUsage: %s\n", p.Name, v.Name, v.Does, strings.Join(usage, " "))
	if v.More != "" {
		fmt.Fprintf(&b, "\n%s\n", v.More)
	}
	writeFlags(&b, p.flagsOf(v))
	fmt.Fprintf(&b, "\nValues, environment and exit codes: %s help\n", p.Name)
	if v.Examples != "" {
		b.WriteString("\nExamples:\n" + strings.TrimPrefix(v.Examples, "\n"))
	}
	return b.String()
}

// The meaning of a flag begins in column usageColumn and is usageWidth wide.
const (
	usageColumn = 38
	usageWidth  = 62
)

func writeFlags(b *strings.Builder, all []Flag) {
	var heading decode.Group
	for _, f := range all {
		if f.Group != heading {
			heading = f.Group
			fmt.Fprintf(b, "\n%s:\n", heading)
		}
		left := "  --" + f.Name
		if f.Short != "" {
			left = "  -" + f.Short + ", --" + f.Name
		}
		if !f.IsSwitch() {
			left += " " + f.Form
		}
		if len(left) >= usageColumn {
			b.WriteString(left + "\n")
			left = ""
		}
		lines := strings.Split(f.Usage+f.Again, "\n")
		if f.Initial != "" && !f.IsSwitch() {
			last := &lines[len(lines)-1]
			if initial := "(default " + f.Initial + ")"; len(*last)+len(initial) < usageWidth {
				*last += " " + initial
			} else {
				lines = append(lines, initial)
			}
		}
		for _, line := range lines {
			fmt.Fprintf(b, "%-*s%s\n", usageColumn, left, line)
			left = ""
		}
	}
}
