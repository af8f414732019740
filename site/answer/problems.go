package answer

import (
	"errors"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// within is an error of one of a request's sources.
type within struct {
	of string
	error
}

func (e within) Unwrap() error { return e.error }

func in(of string, err error) error { return within{of, err} }

// annotated is an error of annotations, with the lines on which they stand.
type annotated struct {
	error
	lines map[string]int
}

func (e annotated) Unwrap() error { return e.error }

// problemOf says what is wrong.
func problemOf(err error) Problem {
	of := ""
	if w, is := err.(within); is { //nolint:errorlint // it is not wrapped
		of, err = w.of, w.error
	}
	var lines map[string]int
	if a, is := err.(annotated); is { //nolint:errorlint // it is not wrapped
		lines, err = a.lines, a.error
	}
	var all []Problem
	for _, e := range strict.Flatten(err) {
		p := Problem{Of: of}
		source, rest := decode.Split(e)
		p.Source, p.Text = source, rest.Error()
		if a, is := errors.AsType[*podspec.Error](e); is {
			p.Source, p.Text, p.Line = a.Annotation, a.Err.Error(), lines[a.Annotation]
			for _, f := range decode.Fields() {
				if strings.HasSuffix(a.Annotation, "/"+f.Name) {
					p.Field = f.Path
				}
			}
		}
		if f, is := errors.AsType[*intercept.FieldError](e); is {
			p.Field, p.Text = f.Field, f.Err.Error()
			if f.Line > 0 && p.Line == 0 {
				p.Line = f.Line
			}
		} else if at, is := errors.AsType[*strict.Error](e); is {
			p.Field, p.Line, p.Text = at.Path, at.Line, at.Err.Error()
		}
		if f, is := errors.AsType[*peers.FlagError](e); is {
			p.Source, p.Text = f.Flag, strings.TrimPrefix(f.Error(), f.Flag+": ")
		}
		// Those of a parser of YAML begin with the line.
		if place, rest, found := strings.Cut(p.Text, ": "); found && p.Line == 0 {
			if n, err := strconv.Atoi(strings.TrimPrefix(place, "line ")); err == nil && strings.HasPrefix(place, "line ") {
				p.Line, p.Text = n, rest
			}
		}
		// Errors of a command line begin with the flag.
		if flag, rest, found := strings.Cut(p.Text, ": "); found && p.Source == "" && strings.HasPrefix(flag, "--") &&
			!strings.Contains(flag, " ") {
			p.Source, p.Text = flag, rest
			for _, f := range decode.Fields() {
				if flag == "--"+f.Name {
					p.Field = f.Path
				}
			}
		}
		if f, is := errors.AsType[*explain.FlagError](e); is {
			p.Field, p.Text, p.Source, p.Of = "packet."+packetField(f.Flag), f.Err.Error(), "", ""
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return Problem{Text: "unknown"}
	}
	first := all[0]
	if len(all) > 1 {
		first.All = all
	}
	return first
}
