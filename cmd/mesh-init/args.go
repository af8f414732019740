package main

import (
	"fmt"
	"slices"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// A setting is a flag's value, and where it was given: "--dns" or "MESH_DNS".
type setting struct {
	cli.Flag
	source string
	text   string
	given  bool
	// texts are those that are joined in text. Nil: it is no flag that was given.
	texts []string
}

// inputs is what the command line and the environment say, before any of it
// is understood.
type inputs struct {
	flags []cli.Flag // those of the verb
	given []setting  // those of the environment first
	args  []string   // those that are no flags
	notes []string
	errs  []error
}

// gather reads the command line of a verb, and the environment. It never stops
// at an error, so that all can be reported together.
func gather(all func() []cli.Flag, line cli.Line, environ []string) inputs {
	in := inputs{flags: line.Flags, args: line.Args, notes: line.Notes, errs: line.Errs}
	var fromArgs []setting
	for _, g := range line.Given {
		fromArgs = append(fromArgs, setting{g.Flag, g.Source, g.Text, true, g.Texts})
	}
	in.readEnv(all, environ, fromArgs)
	in.given = append(in.given, fromArgs...)
	return in
}

// uses reports whether the verb has a flag.
func (in inputs) uses(flag string) bool {
	_, ok := cli.Find(in.flags, flag)
	return ok
}

// sources are where the configuration was given: a file, flags, variables.
func (in inputs) sources() []string {
	all := []string{}
	for _, s := range in.given {
		switch {
		case s.Name == configFlag && s.text == "-":
			all = append(all, "standard input")
		case s.Name == configFlag:
			all = append(all, s.text)
		case s.Path != "":
			all = append(all, s.source)
		}
	}
	return all
}

// readEnv reads the MESH_ variables. Those of flags that the verb does not
// use are passed over, since a pod's environment is the same for all verbs.
func (in *inputs) readEnv(all func() []cli.Flag, environ []string, fromArgs []setting) {
	byName := map[string]cli.Flag{}
	variables, note, err := decode.Environ(environ, func() (flags decode.Flags) {
		for _, f := range all() {
			if f.Once {
				flags.Once = append(flags.Once, f.Name)
				continue
			}
			flags.Names = append(flags.Names, f.Name)
			byName[f.Name] = f
			for _, o := range f.Old {
				flags.Names = append(flags.Names, o.Name)
				byName[o.Name] = f
			}
		}
		return flags
	}, func(name string) bool {
		f := byName[name]
		return !in.uses(f.Name) || slices.ContainsFunc(fromArgs, func(s setting) bool { return s.Name == f.Name })
	})
	in.errs = append(in.errs, err)
	if note != "" {
		in.notes = append(in.notes, note)
	}
	for _, v := range variables {
		f := byName[v.Flag]
		if !in.uses(f.Name) {
			continue
		}
		if v.Flag != f.Name {
			in.notes = append(in.notes, v.Name+" is deprecated: set "+f.Env())
		}
		text := f.Tidy(v.Text)
		if err := f.Plausible(text); err != nil {
			in.errs = append(in.errs, fmt.Errorf("%s: %w", v.Name, err))
			continue
		}
		in.given = append(in.given, setting{f, v.Name, text, true, nil})
	}
}
