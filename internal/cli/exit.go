package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// The exit codes that all programs have.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// An Exit is one way to end: its code, the error that leads to it, and what
// to do about it where the error does not say so itself.
type Exit struct {
	Code    int
	Err     error
	Meaning string
	Remedy  string
	// Instead says what to do in place of Remedy about an error that is more than Err. Empty: it is none such. Nil: none is.
	Instead func(error) string
}

func (e Exit) remedy(err error) string {
	if e.Instead != nil {
		return cmp.Or(e.Instead(err), e.Remedy)
	}
	return e.Remedy
}

// CommonExits are the exits of all programs, with which a table begins.
func CommonExits() []Exit {
	return []Exit{
		{Code: ExitDone, Meaning: "done"},
		{Code: ExitFailed, Meaning: "failed"},
		{Code: ExitUsage, Meaning: "bad usage or configuration; nothing was touched"},
	}
}

// UsageError marks what the caller has to correct.
type UsageError struct{ Err error }

// Error is that of the error within.
func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the error within.
func (e UsageError) Unwrap() error { return e.Err }

// ExitFor returns the exit for an error: the table's first that it is.
func ExitFor(table []Exit, err error) Exit {
	code := ExitFailed
	if _, usage := errors.AsType[UsageError](err); usage {
		code = ExitUsage
	} else {
		for _, e := range table {
			if e.Err != nil && errors.Is(err, e.Err) {
				return e
			}
		}
	}
	if err == nil {
		code = ExitDone
	}
	for _, e := range table {
		if e.Code == code {
			return e
		}
	}
	return Exit{Code: code}
}

// Console is where the results and errors of a program go.
type Console struct {
	// Name is the program's, which comes before each error.
	Name           string
	Stdout, Stderr io.Writer
	Exits          []Exit
}

// Print writes a result. One that nobody can read is a failure. It returns the
// exit code.
func (c Console) Print(ctx context.Context, text string) int {
	if _, err := io.WriteString(c.Stdout, text); err != nil {
		return c.Fail(ctx, nil, fmt.Errorf("the result could not be written: %w", err))
	}
	return ExitDone
}

// Lines are what Fail says of an error, without the program's name: a line for each of those joined, with what to do.
func (c Console) Lines(err error) (lines []string) {
	exit := ExitFor(c.Exits, err)
	for _, e := range flatten(err) {
		line := strict.Sentence(e)
		if remedy := exit.remedy(e); remedy != "" && errors.Is(e, exit.Err) {
			line += "; " + remedy
		}
		lines = append(lines, line)
	}
	return lines
}

// Fail reports an error, each of those joined on a line of its own, and
// returns the exit code for it. log is nil unless logs are JSON: then errors
// are, too, so that all of standard error can be parsed.
func (c Console) Fail(ctx context.Context, log *slog.Logger, err error) int {
	exit := ExitFor(c.Exits, err)
	for _, line := range c.Lines(err) {
		if log != nil {
			log.LogAttrs(ctx, slog.LevelError, line, slog.Int("exit", exit.Code))
		} else {
			fmt.Fprintln(c.Stderr, c.Name+": "+strict.OneLine(line))
		}
	}
	return exit.Code
}

// flatten returns the errors that errors.Join has joined, at any depth: the first
// ones, and how many more there are.
func flatten(err error) []error {
	if usage, ok := errors.AsType[UsageError](err); ok {
		err = usage.Err
	}
	var errs strict.Errors
	errs.Add(err)
	return strict.Flatten(errs.Err())
}
