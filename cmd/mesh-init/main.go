// Command mesh-init sends a pod's traffic through its sidecar proxy. It runs
// once, as an init container or by an operator's hand, and is the tool that
// says afterwards what is in force and why: see mesh-init --help.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// Signals are not caught: what changes the kernel is one transaction, so a
// kill leaves the old rules or the new ones.
func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is the command without the process around it. env is as from
// [os.Environ]. It returns the exit code.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := program{stdin, stdout, stderr, func(t dataplane.Target) plane { return t }}
	return p.run(ctx, args, env)
}

// program is what a run acts on.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	plane          func(dataplane.Target) plane
}

// plane is what a [dataplane.Target] can do; tests put another in its place.
type plane interface {
	Apply(intercept.Config) (dataplane.Result, error)
	Check(intercept.Config) ([]intercept.Difference, error)
	Remove() (bool, error)
	Counters() ([]intercept.Counter, error)
	Verify(intercept.Config) ([]dataplane.Verdict, error)
	Doctor(intercept.Config) (dataplane.Report, error)
}

// job is one verb's work: what it is to do, and where its result goes.
type job struct {
	settings
	ctx   context.Context
	plane plane
	log   *slog.Logger
	out   *bytes.Buffer
}

func (p program) run(ctx context.Context, args, env []string) int {
	explicit := len(args) > 0 && !strings.HasPrefix(args[0], "-")
	v, args, err := chooseVerb(args)
	if err != nil {
		return p.fail(ctx, nil, usageError{err})
	}
	if v.verb == helpVerb {
		return p.help(ctx, args)
	}
	in := gather(v, args, env)
	if in.help {
		return p.print(ctx, helpFor(v, explicit))
	}
	s, err := in.settings(p.stdin)
	log := newLogger(s.logFormat, s.logLevel, p.stderr)
	errorLog := log
	if s.logFormat != "json" {
		errorLog = nil
	}
	if err != nil {
		return p.fail(ctx, errorLog, usageError{err})
	}
	j := job{settings: s, ctx: ctx, plane: p.plane(s.target), log: log, out: new(bytes.Buffer)}
	err = v.run(j)
	if code := p.print(ctx, j.out.String()); code != exitDone && err == nil {
		return code
	}
	if err != nil {
		return p.fail(ctx, errorLog, err)
	}
	return exitDone
}

// print writes a result. One that nobody can read is a failure.
func (p program) print(ctx context.Context, text string) int {
	if _, err := io.WriteString(p.stdout, text); err != nil {
		return p.fail(ctx, nil, fmt.Errorf("the result could not be written: %w", err))
	}
	return exitDone
}

// fail reports an error, each of those joined on a line of its own, and
// returns the exit code for it. log is nil unless logs are JSON: then errors
// are, too, so that all of stderr can be parsed.
func (p program) fail(ctx context.Context, log *slog.Logger, err error) int {
	exit := exitFor(err)
	for _, e := range flatten(err) {
		line := e.Error()
		if exit.remedy != "" && errors.Is(e, exit.err) {
			line += "; " + exit.remedy
		}
		if log != nil {
			log.LogAttrs(ctx, slog.LevelError, line, slog.Int("exit", exit.code))
			continue
		}
		fmt.Fprintln(p.stderr, "mesh-init: "+decode.OneLine(line))
	}
	return exit.code
}

// flatten returns the errors that errors.Join has joined, at any depth.
func flatten(err error) []error {
	if usage, ok := errors.AsType[usageError](err); ok {
		err = usage.error
	}
	return decode.Flatten(err)
}

func newLogger(format, level string, w io.Writer) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo // a bad level is among the errors to be reported
	}
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
