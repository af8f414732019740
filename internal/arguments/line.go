// Package arguments reads a command line by a table of flags, and writes one as a shell reads it.
package arguments

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// A Line is what the arguments after a verb say, before any of it is understood.
type Line struct {
	// Flags are all that the verb has.
	Flags []Flag
	// Given are the flags, in the order in which each is first given.
	Given []Given
	// Args are the arguments that are no flags, of a verb that takes some.
	Args []string
	// Notes say which names are deprecated, and what to write instead.
	Notes []string
	// Errs are all the mistakes.
	Errs []error
	// Help is whether the verb's help is asked for.
	Help bool
}

// Given is a flag's value as it was given.
type Given struct {
	Flag
	// Source is where: "--dns", or the name of an environment variable.
	Source string
	Text   string
	// Texts are those that are joined in Text, of a flag that can be given again.
	Texts []string
}

// Text returns the value that a flag was given, or the one that holds otherwise.
func (l Line) Text(f Flag) string {
	for _, g := range l.Given {
		if g.Name == f.Name {
			return g.Text
		}
	}
	return f.Initial
}

// A Verb is what the arguments of one are read by.
type Verb struct {
	// Program and Name are the program's and the verb's.
	Program, Name string
	// Arg and Files stand for the arguments that it takes which are no flags, as in package cli's Verb.
	Arg, Files string
	// Flags are all that it has, help among them.
	Flags []Flag
	// All are the verbs that there are, this one among them: a flag that only others have is not taken for misspelt.
	// Nil: there are none.
	All func() []Verb
}

// HelpName is the name of the flag that asks for the verb's help.
const HelpName = "help"

// A reader reads the arguments of a verb.
type reader struct {
	verb Verb
	set  *pflag.FlagSet
	// others are the flags of all verbs, once they are asked for.
	others map[string]usage
	// omitted counts the mistakes that are not named.
	omitted int
	Line
}

// usage is who has a flag, and whether it takes a value.
type usage struct {
	verbs      []string
	takesValue bool
}

// used says who uses a flag of that name.
func (r *reader) used(name string) usage {
	if r.others == nil {
		r.others = map[string]usage{}
		if r.verb.All == nil {
			return usage{}
		}
		for _, v := range r.verb.All() {
			for _, f := range v.Flags {
				r.others[f.Name] = usage{append(r.others[f.Name].verbs, v.Name), !f.IsSwitch()}
			}
		}
	}
	return r.others[name]
}

// wrong adds a mistake, and counts it only where there are enough.
func (r *reader) wrong(err error) {
	if len(r.Errs) >= strict.Most {
		r.omitted++
		return
	}
	r.Errs = append(r.Errs, err)
}

// Read reads arguments: --flag VALUE, --flag=VALUE, --switch and their letters. It goes on
// after a mistake, so that all can be reported at once.
//
// pflag has the flags, and is given one at a time. Left to itself it stops at
// the first mistake, takes the next flag for a value, passes over -test.*, and
// reads -allow-host-netns as -a, -l … -h: help, a success that captures nothing.
func (v Verb) Read(args []string) Line {
	r := reader{verb: v, set: pflag.NewFlagSet(v.Name, pflag.ContinueOnError)}
	r.set.SetOutput(io.Discard)
	r.Flags = v.Flags
	if len(args) > 0 {
		Register(r.set, r.Flags)
	}
	var switched *pflag.Flag // the switch just read
	for len(args) > 0 {
		arg, last := args[0], switched
		switched = nil
		switch {
		case arg == "--":
			r.leftOver(args[1:]...)
			args = nil
		case last != nil && (arg == "true" || arg == "false"):
			r.fail("--"+last.Name, "%q is left over: a switch's value is written --%s=%s", arg, last.Name, arg)
			args = args[1:]
		case !strings.HasPrefix(arg, "-") || arg == "-":
			r.leftOver(arg)
			args = args[1:]
		default:
			var n int
			n, switched = r.flag(args)
			args = args[n:]
		}
	}
	r.finish()
	if r.omitted > 0 {
		r.Errs = append(r.Errs, strict.Omitted(r.omitted))
	}
	return r.Line
}

// flag reads one flag and returns how many arguments that takes, and the flag
// if it is a switch without a value.
func (r *reader) flag(args []string) (n int, switched *pflag.Flag) {
	token, text, inline := strings.Cut(args[0], "=")
	f := r.lookup(token)
	if f == nil && !inline && len(token) > 2 { // -ojson
		if f = r.lookup(token[:2]); f != nil && slices.Contains(choices(f), token[2:]) {
			token, text, inline = token[:2], token[2:], true
		} else {
			f = nil
		}
	}
	switch {
	case f == nil:
		takes := r.unknown(token)
		if takes && !inline && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
			return 2, nil // most likely its value: no error of its own
		}
		return 1, nil
	case inline:
		n = 1
	case f.NoOptDefVal != "":
		n, text, switched = 1, f.NoOptDefVal, f
	case len(args) == 1:
		r.fail(token, "a value is missing: write %s %s", token, flagOf(f).Form)
		return 1, nil
	case r.isFlag(args[1]):
		r.fail(token, "a value is missing: %q looks like a flag; write %s %s", args[1], token, flagOf(f).Form)
		return 1, nil
	default:
		n, text = 2, args[1]
	}
	if err := r.set.Set(f.Name, text); err != nil {
		r.fail(token, "%w", err)
	}
	return n, switched
}

// lookup returns the flag of --name or of -n.
func (r *reader) lookup(token string) *pflag.Flag {
	if name, long := strings.CutPrefix(token, "--"); long {
		return r.set.Lookup(name)
	}
	if len(token) != 2 {
		return nil
	}
	return r.set.ShorthandLookup(token[1:])
}

// isFlag reports whether an argument is a flag of this verb or of another.
func (r *reader) isFlag(arg string) bool {
	token, _, _ := strings.Cut(arg, "=")
	if !strings.HasPrefix(token, "-") {
		return false
	}
	return r.lookup(token) != nil || len(r.used(strings.TrimPrefix(token, "--")).verbs) > 0
}

func flagOf(f *pflag.Flag) Flag {
	switch v := f.Value.(type) {
	case *value:
		return v.flag
	case oldValue:
		return v.flag
	}
	return Flag{}
}

func choices(f *pflag.Flag) []string {
	if f.NoOptDefVal != "" {
		return nil
	}
	return flagOf(f).Choices()
}

// finish takes from pflag what it was given.
func (r *reader) finish() {
	seen := map[string]bool{}
	r.set.Visit(func(p *pflag.Flag) {
		if p.Deprecated != "" {
			r.Notes = append(r.Notes, fmt.Sprintf("--%s is deprecated: %s", p.Name, p.Deprecated))
		}
		f := flagOf(p)
		if seen[f.Name] {
			return
		}
		seen[f.Name] = true
		v, _ := r.set.Lookup(f.Name).Value.(*value)
		source, given := "--"+f.Name, v.given
		if len(given) > 1 && !f.Repeats() {
			r.fail(source, "given twice, %q and %q: give it once", given[0], given[1])
			return
		}
		before := len(r.Errs) + r.omitted
		for _, text := range given {
			if err := f.Plausible(text); err != nil {
				r.fail(source, "%w", err)
			}
		}
		switch {
		case len(r.Errs)+r.omitted > before:
		case f.Name == HelpName:
			r.Help = given[0] == "true"
		default:
			r.Given = append(r.Given, Given{f, source, v.String(), given})
		}
	})
}

func (r *reader) fail(source, format string, args ...any) {
	r.wrong(fmt.Errorf("%s: %w", source, fmt.Errorf(format, args...)))
}

func (r *reader) leftOver(args ...string) {
	for _, arg := range args {
		if r.verb.Arg != "" && len(r.Args) == 0 || len(r.Args) < len(strings.Fields(r.verb.Files)) {
			r.Args = append(r.Args, arg)
			continue
		}
		takes := "flags only"
		if r.verb.Files != "" {
			takes = "flags, and " + r.verb.Files
		}
		if r.verb.Arg != "" {
			takes = "one argument, " + r.verb.Arg
		}
		r.wrong(fmt.Errorf("%q is left over: %s takes %s (%s %s --help lists them)",
			arg, r.verb.Name, takes, r.verb.Program, r.verb.Name))
	}
}

// unknown says what to do about a flag that the verb does not have, and returns
// whether it takes a value, as far as is known.
func (r *reader) unknown(token string) (takes bool) {
	if name, long := strings.CutPrefix(token, "--"); long {
		if use := r.used(name); len(use.verbs) > 0 {
			r.fail(token, "%s does not use it; it is for %s", r.verb.Name, strings.Join(use.verbs, ", "))
			return use.takesValue
		}
	}
	if len(r.Errs) >= strict.Most {
		r.omitted++
		return true
	}
	var names []string
	for _, f := range r.Flags {
		if !f.Unasked || f.Name == strings.TrimLeft(token, "-") {
			names = append(names, "--"+f.Name)
		}
	}
	r.fail(token, "unknown flag; %s",
		strict.Hint("--"+strings.TrimLeft(token, "-"), names, r.verb.Program+" "+r.verb.Name+" --help lists them"))
	return true
}
