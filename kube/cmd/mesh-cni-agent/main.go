// Command mesh-cni-agent runs on every node. It keeps the CNI plugin mesh-cni
// installed, answers its questions about pods, repairs pods whose rules are
// missing, and says how it is: see docs/agent.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/agent"
	"github.com/mesh-intercept/intercept/kube/internal/conflist"
)

// errIll reports that doctor found something wrong.
var errIll = errors.New("something is wrong on this node")

const exitIll = 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command without the process around it. It returns the exit code.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	c := commands{env, cli.Console{
		Name: "mesh-cni-agent", Stdout: stdout, Stderr: stderr,
		Exits: append(cli.CommonExits(), cli.Exit{Code: exitIll, Err: errIll, Meaning: "doctor found something wrong"}),
	}}
	return c.program().Run(ctx, args)
}

// commands are what the verbs need beside their flags.
type commands struct {
	env     []string
	console cli.Console
}

func (c commands) program() cli.Program {
	looking := func() []cli.Flag { return append(agentFlags(), outputFlags()...) }
	return cli.Program{
		Console: c.console,
		Does:    "keeps the CNI plugin mesh-cni installed on a node, answers it and repairs running pods",
		Start:   "run",
		Flags: []cli.Flag{row("log-level", "debug|info|warn|error", cli.GroupOutput, "info",
			"of the log on standard error")},
		Verbs: []cli.Verb{
			{Name: "run", Does: "work until SIGTERM; then take out what it put in", Also: []string{"start", "serve", "install"},
				Flags: agentFlags, Run: c.verb(true, c.serve), Examples: `
  On a node, as a DaemonSet does (deploy/mesh-cni-agent.yaml):
    mesh-cni-agent run --plugin-conf /etc/mesh-cni/plugin.json
`},
			{Name: "uninstall", Does: "take out entry and plugin, without an API server", Also: []string{"remove", "delete"},
				Flags: agentFlags, Run: c.verb(false, c.uninstall)},
			{Name: "doctor", Does: "say what is wrong on this node, with the flags of run", Also: []string{"check", "status"},
				Flags: looking, Run: c.verb(false, c.doctor)},
			{Name: "version", Does: "print the version", Flags: outputFlags, Run: c.verb(false, c.version)},
		},
	}
}

// verb is a verb's work with its settings made, and with its errors reported.
func (c commands) verb(
	running bool, do func(context.Context, settings, *slog.Logger) error,
) func(context.Context, cli.Line) int {
	return func(ctx context.Context, line cli.Line) int {
		again := func() (settings, error) { return settle(line, running, c.env) }
		s, err := again()
		s.again = again
		if err != nil {
			return c.console.Fail(ctx, nil, cli.UsageError{Err: err})
		}
		log := slog.New(slog.NewJSONHandler(strict.EscapedJSON(c.console.Stderr), &slog.HandlerOptions{Level: s.logLevel}))
		for _, note := range line.Notes {
			log.WarnContext(ctx, note)
		}
		if err := do(ctx, s, log); err != nil {
			return c.console.Fail(ctx, log, err)
		}
		return cli.ExitDone
	}
}

func (c commands) serve(ctx context.Context, s settings, log *slog.Logger) error {
	klog.SetSlogLogger(log) // what client-go has to say
	v := version.Get()
	for {
		s.API.UserAgent = "mesh-cni-agent/" + v.Version
		s.Reread = func() (conflist.Entry, error) {
			now, err := s.again()
			return now.Place.Entry, err
		}
		a, err := agent.New(s.Settings, log)
		if err != nil {
			return err
		}
		log.InfoContext(ctx, "starting", "version", v.Version, "revision", v.Revision, "node", s.Node)
		if err := a.Run(ctx); !errors.Is(err, agent.ErrSettings) {
			return err
		}
		again := s.again
		if s, err = again(); err != nil {
			return cli.UsageError{Err: err} // they were good a moment ago
		}
		s.again = again
	}
}

func (c commands) uninstall(_ context.Context, s settings, log *slog.Logger) error {
	return agent.Remove(s.Place, s.KeepBinary, log)
}

func (c commands) version(_ context.Context, s settings, _ *slog.Logger) error {
	v := version.Get()
	return c.print(s, v, func() string { return "mesh-cni-agent " + v.String() + "\n" })
}

func (c commands) doctor(ctx context.Context, s settings, _ *slog.Logger) error {
	all := agent.Doctor(ctx, s.Place, s.Conf)
	ill := error(nil)
	style := cli.StyleFor(c.console.Stdout)
	var text strings.Builder
	for _, d := range all {
		state := style.Good("ok") + "    "
		if !d.OK {
			state, ill = style.Bad("NOT OK"), errIll
		}
		text.WriteString(cli.Hang(fmt.Sprintf("%-20s %s  ", d.What, state), 29, strict.OneLine(d.Says)))
	}
	if err := c.print(s, all, text.String); err != nil {
		return err
	}
	return ill
}

// print writes a verb's result.
func (c commands) print(s settings, v any, text func() string) error {
	if err := s.output.Write(c.console.Stdout, v, text); err != nil {
		return fmt.Errorf("the result could not be written: %w", err)
	}
	return nil
}
