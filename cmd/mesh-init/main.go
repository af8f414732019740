// A run is over before a limit on its processors changes, so no goroutine looks for it. The runtime reads it once in any
// case: with containermaxprocs=0, too, only to count that it ignores it.
//
//go:debug updatemaxprocs=0

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
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/verify"
)

func main() {
	collectLate()
	dataplane.TakeUpCapabilities()
	cli.Fit(os.Stdout)
	os.Exit(run(context.Background(), calledAs(os.Args), os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is the command without the process around it. env is as from
// [os.Environ]. It returns the exit code.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := program{stdin, stdout, stderr, func(p dataplane.Pod) plane { return p }}
	return p.run(ctx, args, env)
}

// program is what a run acts on.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	plane          func(dataplane.Pod) plane
}

// plane is what a [dataplane.Pod] can do; tests put another in its place.
type plane interface {
	Apply(context.Context, intercept.Config) (dataplane.Result, error)
	Check(context.Context, intercept.Config) ([]intercept.Difference, error)
	Remove(context.Context) (bool, error)
	Status(context.Context) (dataplane.Status, error)
	Overview(context.Context) (dataplane.Overview, error)
	InForce(context.Context) (dataplane.InForce, error)
	Verify(context.Context, intercept.Config) (verify.Report, error)
	Probe(context.Context, intercept.Config) (dataplane.Report, error)
	Foreign(context.Context) (dataplane.Foreign, error)
	RemoveForeign(ctx context.Context, m beside.Mesh, dryRun bool) (dataplane.Removal, error)
	Arrive(ctx context.Context, listen, to netip.AddrPort) error
	Do(ctx context.Context, fn func() error) error
	Trace(context.Context, dataplane.TraceOptions) (dataplane.TraceSummary, error)
	Watch(context.Context, dataplane.WatchOptions) (dataplane.WatchSummary, error)
}

// job is one verb's work: what it is to do, and where its result goes.
type job struct {
	settings
	ctx   context.Context
	plane plane
	log   *slog.Logger
	out   *bytes.Buffer
	style cli.Style
	// sources are where the configuration was given; none: it is the default.
	sources []string
	// on is the plane of another pod.
	on func(dataplane.Pod) plane
	// now writes before the verb ends, for one that goes on.
	now func(text string) error
	// live is how it is with the rules in force, where something is explained by their configuration. Nil: it is not.
	live *liveJSON
	// sameBackend is true if the backend is that of the rules in force, and nobody has asked for it.
	sameBackend bool
	// did is where the verb says what came of it, for the log and the metrics.
	did *did
}

// kept takes the configuration that the rules in force were made of, if no other was given: mesh-init apply has kept it
// beside them. Where it has not, the default stays.
func (j *job) kept() error {
	if len(j.sources) > 0 {
		return nil
	}
	f, err := j.plane.InForce(j.ctx)
	switch {
	case errors.Is(err, dataplane.ErrNotKept), errors.Is(err, intercept.ErrNotIntercepted):
		return nil
	case err != nil:
		return err
	}
	if err := whole(f); err != nil {
		return err
	}
	j.config, j.target = f.Config, f.On(j.target)
	j.plane = j.on(j.target)
	return nil
}

// bare adds to [intercept.ErrNotIntercepted], if that is all that an error says, what else there is to see in the
// namespace.
func (j job) bare(err error) error {
	if !errors.Is(err, intercept.ErrNotIntercepted) || err.Error() != intercept.ErrNotIntercepted.Error() {
		return err
	}
	if _, more := j.plane.Overview(j.ctx); errors.Is(more, intercept.ErrNotIntercepted) {
		return more
	}
	return err
}

// giveAgain is what to do where the configuration in force is not known.
const giveAgain = "give this verb the flags, the environment and the file that apply was given"

// whole is an error if not all of the configuration in force is known.
func whole(f dataplane.InForce) error {
	if len(f.Omitted) == 0 {
		return nil
	}
	return cli.UsageError{Err: fmt.Errorf("the rules in force have lists that are too long to be kept beside them (%s): %s",
		strings.Join(f.Omitted, ", "), giveAgain)}
}

// begin is for a verb that tells as it goes on: what it logs is not held back.
func (j job) begin() { _ = j.now("") } // nothing is written

// print writes a verb's result.
func (j job) print(v any, text func() string) error {
	if j.live != nil {
		return j.live.print(j, v, text)
	}
	return j.output.Write(j.out, v, text)
}

func (p program) console() cli.Console {
	return cli.Console{Name: "mesh-init", Stdout: p.stdout, Stderr: p.stderr, Exits: exits()}
}

func (p program) run(ctx context.Context, args, env []string) int {
	return p.commandLine(env).Run(ctx, args)
}

// do does what one verb is asked for, and returns the exit code.
func (p program) do(ctx context.Context, v verb, line cli.Line, env []string) int {
	in := gather(func() []cli.Flag { return p.commandLine(nil).AllFlags() }, line, env)
	s, err := in.settings(p.stdin)
	e := p.execution(ctx, s, in.notes)
	e.verb = v.Name
	if err != nil {
		return e.fail(cli.UsageError{Err: err})
	}
	e.sources = in.sources()
	return e.run(in.uses(netnsFlag), v.run)
}

// execution is how what a command line asks for is done.
type execution struct {
	p       program
	s       settings
	ctx     context.Context
	console cli.Console
	log     *slog.Logger
	// late has what is logged until there is a result.
	late *late
	// sources are the job's.
	sources []string
	// verb is the verb's name, and did what came of it.
	verb string
	did  *did
}

// execution begins one: it says the warnings that there are.
func (p program) execution(ctx context.Context, s settings, warnings []string) execution {
	e := execution{p: p, s: s, ctx: ctx, console: p.console(), late: &late{to: p.stderr, open: s.logFormat == "json"},
		did: &did{start: time.Now()}}
	e.log = newLogger(s.logFormat, s.logLevel, e.late)
	for _, w := range warnings {
		e.log.WarnContext(ctx, w)
	}
	return e
}

// fail reports an error, in the log's form if that is JSON, and returns the exit code.
func (e execution) fail(err error) int {
	e.late.end()
	code := e.report(err)
	e.late.release()
	e.finish(code, err)
	return code
}

// late is a log for people that begins when they have read what matters more: the result, or the error. Else on a
// terminal the first that they see are warnings. Who waits longer than patience reads them meanwhile: what the run waits
// for may be among them, and a run that is killed says nothing later.
type late struct {
	to   io.Writer
	mu   sync.Mutex
	open bool
	over bool // the result, or the error, is about to be written
	held bytes.Buffer
}

// patience is how long a log for people is held back.
const patience = time.Second

// Write writes now, or holds it back.
func (l *late) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open {
		return l.to.Write(text)
	}
	if l.held.Len() == 0 {
		time.AfterFunc(patience, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.over {
				l.write()
			}
		})
	}
	return l.held.Write(text)
}

// release writes what was held back, and all that follows at once.
func (l *late) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
}

func (l *late) write() {
	if l.open = true; l.held.Len() > 0 {
		_, _ = l.held.WriteTo(l.to) // as of any log, nobody would hear of it
	}
}

// end has nothing written any more before the result.
func (l *late) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (e execution) report(err error) int {
	errorLog := e.log
	if e.s.logFormat != "json" {
		errorLog = nil
	}
	return e.console.Fail(e.ctx, errorLog, err)
}

// run does some work, prints its result, and returns the exit code. inKernel is whether the work may change a namespace.
func (e execution) run(inKernel bool, work func(job) error) int {
	e.s.target.By = e.console.Name + " " + version.Short()
	e.s.target.LockedBy = func(holder string) {
		e.log.InfoContext(e.ctx, "another changes the rules of the namespace, "+holder+": waiting until it has ended")
	}
	j := job{
		settings: e.s, ctx: e.ctx, plane: e.p.plane(e.s.target), log: e.log, out: new(bytes.Buffer),
		style: cli.StyleFor(e.p.stdout), sources: e.sources, on: e.p.plane, did: e.did,
		now: func(text string) error {
			_, err := io.WriteString(e.p.stdout, text)
			e.late.release()
			return err
		},
	}
	if b := e.s.target.Backend; inKernel && b != "" && b != dataplane.BackendAuto && b != dataplane.BackendNFT {
		// A signal ends the run as its context ends: what iptables does in several steps is undone. By nftables even a
		// kill leaves the old rules or the new ones, and an apply is spared the third of a millisecond that this takes.
		var stop func()
		j.ctx, stop = signal.NotifyContext(e.ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	defer e.late.release()
	err := work(j)
	if err != nil && j.ctx.Err() != nil && e.ctx.Err() == nil {
		err = interrupted{err}
	}
	e.late.end()
	if code := e.console.Print(e.ctx, j.out.String()); code != cli.ExitDone && err == nil {
		return code
	}
	if err != nil {
		return e.fail(err)
	}
	e.late.release()
	e.finish(cli.ExitDone, nil)
	return cli.ExitDone
}

// interrupted is an error of a run that a signal has ended.
type interrupted struct{ error }

func (e interrupted) Error() string {
	text := "interrupted by a signal"
	if undone, is := errors.AsType[*dataplane.UndoError](e.error); is {
		text += strings.TrimPrefix(undone.Error(), undone.Err.Error())
	}
	return text + ": mesh-init status says what is in force"
}

func (e interrupted) Unwrap() error { return e.error }

func newLogger(format, level string, w io.Writer) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo // a bad level is among the errors to be reported
	}
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(strict.EscapedJSON(w), opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
