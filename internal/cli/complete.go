package cli

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mesh-intercept/intercept/internal/arguments"
)

// shells are those for which there is completion.
const shells = "bash|zsh|fish"

// completion is the verb that prints a shell's script.
func (p Program) completion() Verb {
	return Verb{
		Name: "completion",
		Does: "print a shell's completion script, for bash, zsh or fish",
		More: "The script asks this program for verbs, flags and values: it needs no update.",
		Arg:  shells,
		Examples: fmt.Sprintf(`
  Complete %[1]s in this shell; write the line into ~/.bashrc for all shells:
    source <(%[1]s completion bash)
`, p.Name),
		Run: p.script,
	}
}

func (p Program) script(ctx context.Context, line Line) int {
	if len(line.Args) == 0 && len(line.Errs) == 0 {
		return p.usage(ctx, fmt.Errorf("a shell is missing: write %s completion %s", p.Name, shells))
	}
	code := ExitDone
	root, out := p.commands(ctx, &code, true), new(bytes.Buffer)
	var err error
	switch shell := strings.Join(line.Args, ""); {
	case len(line.Errs) > 0:
		err = line.Errs[0]
	case shell == "bash":
		out.WriteString(fallback)
		err = root.GenBashCompletionV2(out, true)
	case shell == "zsh":
		err = root.GenZshCompletion(out)
	case shell == "fish":
		err = root.GenFishCompletion(out, true)
	default:
		err = fmt.Errorf("%q is not one of %s", shell, strings.ReplaceAll(shells, "|", ", "))
	}
	if err != nil {
		return p.usage(ctx, err)
	}
	return p.Print(ctx, out.String())
}

// fallback stands in for the one function that the script wants of the package
// bash-completion, where that is not installed. Bash itself takes words apart at
// = and :, as in --dns=all; the line has them whole.
const fallback = `if ! declare -F _get_comp_words_by_ref >/dev/null; then
_get_comp_words_by_ref() {
	local line=${COMP_LINE:0:COMP_POINT}
	read -r -a words <<<"$line"
	[[ $line != *[[:space:]] ]] || words+=("")
	cword=$((${#words[@]} - 1))
	cur=${words[cword]}
	prev=
	((cword == 0)) || prev=${words[cword - 1]}
}
fi
`

// complete tells cobra the flags of a verb and their values.
func (p Program) complete(c *cobra.Command, v Verb) {
	all := p.flagsOf(v)
	arguments.Register(c.Flags(), all)
	for _, f := range all {
		switch {
		case f.IsSwitch():
		case f.Choices() != nil:
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(f.Choices(), cobra.ShellCompDirectiveNoFileComp))
		case !slices.Contains([]string{"PATH", "FILE", "DIR"}, f.Form):
			_ = c.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
		}
	}
	var args []string
	if v.Arg != "" {
		args = strings.Split(v.Arg, "|")
	}
	if v.Files != "" {
		return // the shell completes files
	}
	c.ValidArgsFunction = func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return args, cobra.ShellCompDirectiveNoFileComp
	}
}
