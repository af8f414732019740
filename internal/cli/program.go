package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mesh-intercept/intercept/internal/arguments"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// A Verb is one row of a table of verbs.
type Verb struct {
	Name string
	// Does says on one line what it does.
	Does string
	// More is said in its own help.
	More string
	// Arg stands for the one argument that it takes; "": it takes flags only.
	// Words joined by | are all there are.
	Arg string
	// Files are words for the files that it can take besides flags, as in "OLD NEW"; it says itself which it needs.
	Files string
	// Needs are the flags that it does not work without, for its own help.
	Needs string
	// Flags returns its own, besides those of the program; nil: it has none. It is
	// a function, since a run needs those of one verb.
	Flags func() []Flag
	// Examples are pairs of a question and the command that answers it.
	Examples string
	// Outputs are forms of its result, as in a flag's Form, besides those of all verbs.
	Outputs string
	// Also are words that people write for it.
	Also []string
	// Run does it, and returns the exit code.
	Run func(context.Context, Line) int
	// Raw, if it is there, does it instead, from the arguments as they stand: the command line is another program's.
	Raw func(ctx context.Context, args []string) int
	// InPlaceOf is whether it is there in place of that other program.
	InPlaceOf bool
}

// A Program is a table of verbs.
type Program struct {
	Console
	// Does says on one line what the program is for.
	Does string
	// Verbs are all but help and completion, which each program has.
	Verbs []Verb
	// Flags are those of all verbs.
	Flags []Flag
	// Start is the verb that those mean who write none.
	Start string
	// Notes are said in the general help, after the flags.
	Notes string
}

// The words of a table of flags, which package arguments reads.
type (
	Flag    = arguments.Flag
	OldName = arguments.OldName
	Line    = arguments.Line
)

// Find returns the flag of a name.
func Find(all []Flag, name string) (Flag, bool) { return arguments.Find(all, name) }

// Quote writes an argument as a shell reads it.
func Quote(arg string) string { return arguments.Quote(arg) }

const helpName = arguments.HelpName

// helpFlag is the one flag that every verb has.
func helpFlag() Flag {
	field := decode.Field{Name: helpName, Group: GroupOutput, Initial: "false", Usage: "this text"}
	return Flag{Field: field, Short: "h", Once: true}
}

// GroupOutput is the heading of the flags about results and logs.
const GroupOutput decode.Group = "Output"

// Run does what the arguments ask for, and returns the exit code.
func (p Program) Run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(p.Stderr, p.shortHelp()+"\n")
		return p.usage(ctx, fmt.Errorf("no verb given: write %s %s, or another of the verbs above", p.Name, p.Start))
	}
	switch first := args[0]; {
	case first == "-h" || first == "--help":
		args = append([]string{helpName}, args[1:]...)
	case first == "-v" || first == "--version":
		args = append([]string{"version"}, args[1:]...)
	case strings.HasPrefix(first, "-"):
		if slices.Contains(args, "-h") || slices.Contains(args, "--help") {
			return p.Print(ctx, p.generalHelp())
		}
		return p.usage(ctx, p.verbLast(args))
	}
	code := ExitDone
	root := p.commands(ctx, &code, strings.HasPrefix(args[0], cobra.ShellCompRequestCmd))
	if err := p.known(root, args[0]); err != nil {
		return p.usage(ctx, err)
	}
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return p.usage(ctx, err)
	}
	return code
}

func (p Program) usage(ctx context.Context, err error) int {
	return p.Fail(ctx, nil, UsageError{err})
}

// verbLast says where the verb belongs, if there is none before the flags.
func (p Program) verbLast(args []string) error {
	for i, arg := range args {
		if p.verb(arg) != nil {
			others := slices.Delete(slices.Clone(args), i, i+1)
			return fmt.Errorf("the verb comes first: write %s", p.line(append([]string{arg}, others...)))
		}
	}
	return fmt.Errorf("no verb before %q: write %s", args[0], p.line(append([]string{p.Start}, args...)))
}

// line is a command line to write, as a shell reads it.
func (p Program) line(args []string) string {
	words := []string{p.Name}
	for _, arg := range args {
		words = append(words, arguments.Quote(arg))
	}
	const most = 200
	if s := strings.Join(words, " "); len(s) <= most {
		return s
	}
	return strings.Join(words[:2], " ") + " and then the flags"
}

// all are the verbs, with those that each program has.
func (p Program) all() []Verb {
	var names []string
	for _, v := range p.Verbs {
		names = append(names, v.Name)
	}
	verbs := append(slices.Clone(p.Verbs), p.completion())
	names = append(names, "completion", helpName)
	help := Verb{Name: helpName, Does: "print this text, or that of a verb", Arg: strings.Join(names, "|"), Run: p.help}
	return append(verbs, help)
}

func (p Program) verb(name string) *Verb {
	for _, v := range p.all() {
		if v.Name == name {
			return &v
		}
	}
	return nil
}

// known says which verb may be meant by a word that is none.
func (p Program) known(root *cobra.Command, word string) error {
	for _, c := range root.Commands() {
		if c.Name() == word {
			return nil
		}
	}
	if p.verb(word) != nil || strings.HasPrefix(word, cobra.ShellCompRequestCmd) {
		return nil
	}
	hint := "the verbs are "
	for i, v := range p.all() {
		if i > 0 {
			hint += ", "
		}
		hint += v.Name
	}
	if like := root.SuggestionsFor(word); word != "" && len(like) > 0 {
		hint = "did you mean " + strings.Join(like, " or ") + "?"
	}
	return fmt.Errorf("%q is not a verb; %s", word, hint)
}

// commands are the verbs as cobra's commands. Cobra reads their flags only to
// complete them.
func (p Program) commands(ctx context.Context, code *int, completing bool) *cobra.Command {
	root := &cobra.Command{
		Use: p.Name, Short: p.Does, SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	for _, v := range p.all() {
		c := &cobra.Command{
			Use: v.Name, Short: v.Does, SuggestFor: v.Also, DisableFlagParsing: !completing,
			RunE: func(_ *cobra.Command, args []string) error {
				if v.Raw != nil {
					*code = v.Raw(ctx, args)
					return nil
				}
				line := p.read(v, args)
				if line.Help {
					*code = p.Print(ctx, p.verbHelp(v))
					return nil
				}
				*code = v.Run(ctx, line)
				return nil
			},
		}
		if completing {
			p.complete(c, v)
		}
		root.AddCommand(c)
		if v.Name == helpName {
			root.SetHelpCommand(c)
		}
	}
	return root
}

// read reads the arguments of a verb.
func (p Program) read(v Verb, args []string) Line {
	known := func(v Verb) arguments.Verb {
		return arguments.Verb{Program: p.Name, Name: v.Name, Arg: v.Arg, Files: v.Files, Flags: p.flagsOf(v)}
	}
	verb := known(v)
	verb.All = func() (all []arguments.Verb) {
		for _, v := range p.all() {
			all = append(all, known(v))
		}
		return all
	}
	return verb.Read(args)
}

// flagsOf are all flags of a verb, in the order of the help.
func (p Program) flagsOf(v Verb) []Flag {
	if v.Raw != nil {
		return nil
	}
	var all []Flag
	if v.Flags != nil {
		all = v.Flags()
	}
	if v.Arg == "" {
		all = append(all, p.Flags...)
	}
	for i := range all {
		if v.Outputs != "" && all[i].Name == outputName {
			all[i].Form += "|" + v.Outputs
		}
	}
	return append(all, helpFlag())
}

// AllFlags are the flags of all verbs, in the order of the help.
func (p Program) AllFlags() []Flag {
	var all, output []Flag
	for _, v := range p.Verbs {
		if v.Flags == nil {
			continue
		}
		for _, f := range v.Flags() {
			to := &all
			if f.Group == GroupOutput {
				to = &output
			}
			if _, twice := Find(*to, f.Name); !twice {
				*to = append(*to, f)
			}
		}
	}
	return append(slices.Concat(all, output, p.Flags), helpFlag())
}
