// Package kuma reads the command lines of Kuma's kumactl that are about a transparent proxy: install
// transparent-proxy, uninstall transparent-proxy, install transparent-proxy-validator. docs/migrate-kuma.md has what
// becomes of each setting, and where this differs from kumactl on purpose.
package kuma

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Parse says what a command line asks for. The words of the command may be left out: without them it is install
// transparent-proxy. All errors are joined.
func Parse(args []string, w peers.World) (peers.Request, error) {
	r := reader{world: w}
	for _, s := range settings() {
		r.rows = append(r.rows, row{setting: s})
	}
	r.Config, r.Action = intercept.Default(), peers.Apply
	flags, err := r.line(args)
	if err != nil {
		return r.Request, err
	}
	r.take(flags, keyHelp, keyLenient, keyConfig, keyValidatorConfig)
	if r.on(keyHelp) {
		r.Action, r.Text = peers.Help, r.help()
		return r.Request, nil
	}
	r.Lenient = r.on(keyLenient)
	for _, file := range split(append(r.row(keyConfig).texts, r.row(keyValidatorConfig).texts...), ",") {
		r.file(file)
	}
	r.environment()
	r.take(flags)
	r.understand()
	return r.Request, r.errs.Err()
}

// row is a setting and what was written for it. A stronger source writes over what a weaker one has.
type row struct {
	setting
	texts []string
	// source is as an error names it: a flag, a variable, a field of a file with its line.
	source string
	byFlag bool
}

// set takes what a source has.
func (w *row) set(texts []string, source string) {
	if w.form == programs {
		texts = append(w.texts, texts...)
	}
	w.texts, w.source = texts, source
}

// reader puts together what is given.
type reader struct {
	peers.Request
	world   peers.World
	command command
	rows    []row
	unknown int // how many fields and variables are not known
	errs    strict.Errors
}

// wrong adds what is wrong with what a source has, or warns of it, where --lenient accepts it.
func (r *reader) wrong(source string, err error, lenient bool) {
	for _, e := range strict.Flatten(err) {
		f := &peers.FlagError{Flag: source, Err: e, Lenient: lenient && !r.Lenient}
		if lenient && r.Lenient {
			r.Warn("%s", f)
			continue
		}
		r.errs.Add(f)
	}
}

// row returns that of a key.
func (r *reader) row(key string) *row {
	i := 0
	for r.rows[i].key() != key { // all that the code asks for are there
		i++
	}
	return &r.rows[i]
}

// value is that of a flag: all that was given for it.
type value struct {
	row *row
	all []string
}

// String is part of [pflag.Value].
func (*value) String() string { return "" }

// Set is part of [pflag.Value].
func (v *value) Set(s string) error {
	v.all = append(v.all, s)
	return nil
}

// Type is part of [pflag.Value].
func (*value) Type() string { return "" }

// line reads the flags, and the words among them.
func (r *reader) line(args []string) (*pflag.FlagSet, error) {
	flags := pflag.NewFlagSet("kuma", pflag.ContinueOnError)
	var names []string
	for i := range r.rows {
		s := &r.rows[i]
		if s.flag == "" {
			continue
		}
		if s.flag != keyHost { // nobody is talked into that
			names = append(names, "--"+s.flag)
		}
		short := ""
		if s.flag == keyHelp || s.flag == "mesh" {
			short = s.flag[:1]
		}
		f := flags.VarPF(&value{row: s}, s.flag, short, "")
		if s.form == truth {
			f.NoOptDefVal = "true"
		}
	}
	err := flags.Parse(args)
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		hint := strict.Hint("--"+unknown.GetSpecifiedName(), names, "mesh-init kuma --help lists the flags")
		return nil, fmt.Errorf("%w; %s", err, hint)
	}
	if err == nil {
		err = r.words(flags.Args())
	}
	return flags, err
}

// take takes what the flags have, or some of them.
func (r *reader) take(flags *pflag.FlagSet, some ...string) {
	flags.Visit(func(f *pflag.Flag) {
		v, _ := f.Value.(*value)
		w, source, last := v.row, "--"+f.Name, v.all[len(v.all)-1]
		switch {
		case len(some) > 0 && !slices.Contains(some, f.Name):
			return
		case !w.has(r.command) && len(some) == 0:
			r.wrong(source, fmt.Errorf("%s has no such flag", r.command), false)
			return
		case w.form == list:
			w.set(split(v.all, ";"), source) // as the documentation writes several exclusions
		case w.form == programs:
			w.set(v.all, source)
		default:
			w.set([]string{last}, source)
			if len(v.all) > 1 {
				r.Warn("%s is given %d times; the last one counts: %s", source, len(v.all), strict.Clip(last))
			}
		}
		w.byFlag = true
	})
}

// String is the command's name.
func (c command) String() string {
	name := "install transparent-proxy"
	if c == uninstall {
		name = "un" + name
	}
	if c == validate {
		name += "-validator"
	}
	return name
}

// words finds the command in what is not a flag.
func (r *reader) words(words []string) error {
	r.command = install
	if len(words) > 0 && (words[0] == "install" || words[0] == "uninstall") {
		if words[0] == "uninstall" {
			r.command = uninstall
		}
		words = words[1:]
	}
	if len(words) > 0 && strings.HasPrefix(words[0], "transparent-proxy") {
		if r.command == install && words[0] != "transparent-proxy" {
			r.command = validate
		}
		words = words[1:]
	}
	for _, w := range words {
		if _, err := isTrue(w); err != nil {
			return fmt.Errorf("%q is left over: mesh-init stands in for kumactl with %s, %s and %s", strict.Clip(w),
				install, uninstall, validate)
		}
		r.Warn("%q is left over and has no effect: a switch's value is written --switch=%s", w, w)
	}
	return nil
}

// split splits each text at a separator, and leaves out what is empty.
func split(all []string, separator string) (items []string) {
	for _, text := range all {
		more := true
		for item := ""; more; {
			item, text, more = strings.Cut(text, separator)
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	}
	return items
}

// environment reads the variables.
func (r *reader) environment() {
	names := make([]string, len(r.rows))
	for i := range r.rows {
		if w := &r.rows[i]; w.path != "" {
			names[i] = w.env()
		}
	}
	for _, e := range r.world.Environ {
		name, text, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) || r.command == uninstall {
			continue
		}
		i := slices.Index(names, name)
		if i < 0 {
			if r.notKnown(name, name, names); r.unknown > strict.Most {
				return
			}
			continue
		}
		switch w := &r.rows[i]; {
		case w.form == list:
			w.set(split([]string{text}, ","), name)
		case text != "" || w.form == ports || w.form == word:
			w.set([]string{text}, name)
		}
	}
}

// notKnown is about a field or a variable that there is not. kumactl passes over it in silence. Where it may be one by
// which traffic is captured, that would leave it outside: it is one of those known that its name is like, or is below it.
func (r *reader) notKnown(source, name string, known []string, below ...string) {
	if r.unknown++; r.unknown > strict.Most {
		r.wrong(source, fmt.Errorf("it is not known, as %d before it: is this a configuration of Kuma's?", strict.Most), false)
		return
	}
	hint := strict.Hint(name, known, "")
	text := "it is not known, and has no effect."
	if hint != "" {
		text = strings.TrimSuffix(text, ".") + "; " + hint
	}
	meant := strings.ToLower(strings.ReplaceAll(hint, "_", "") + strings.Join(below, " "))
	for _, name := range []string{"enabled", "captureall", "networks"} {
		if strings.Contains(meant, name) {
			r.wrong(source, errors.New(text+" Something may stay outside that is to be captured: correct it, or leave it out"), true)
			return
		}
	}
	r.Warn("%s: %s", source, text)
}

// isTrue reads a switch as kumactl does, in a file also as YAML 1.1 writes it.
func isTrue(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "t", "1", "yes", "y", "on":
		return true, nil
	case "", "false", "f", "0", "no", "n", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", strict.Clip(text))
}

// help lists the command's flags.
func (r *reader) help() string {
	text := []string{fmt.Sprintf("mesh-init kuma does what kumactl does, with its flags: %s.\n"+
		"docs/migrate-kuma.md says what becomes of each. A flag goes before the environment\n"+
		"(%s…), and that before the files of --config.\n", r.command, envPrefix)}
	for i := range r.rows {
		if w := &r.rows[i]; w.has(r.command) {
			text = append(text, "  --"+w.flag+" "+string(w.form))
		}
	}
	return strings.Join(append(text, ""), "\n")
}
