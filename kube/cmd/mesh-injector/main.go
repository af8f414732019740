// Command mesh-injector is the admission webhook that gives pods their sidecar: see
// docs/injector.md.
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	runtimelog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/injector"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command without the process around it. It returns the exit code.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	return program(cli.Console{Name: "mesh-injector", Stdout: stdout, Stderr: stderr, Exits: cli.CommonExits()}, env,
		injector.Run).Run(ctx, args)
}

// program is the command line, around what it starts.
func program(
	console cli.Console, env []string, start func(context.Context, injector.Settings, *slog.Logger) error,
) cli.Program {
	return cli.Program{
		Console: console,
		Does:    "gives pods their sidecar when they are created: an admission webhook of Kubernetes",
		Start:   "run",
		Verbs: []cli.Verb{
			{Name: "run", Does: "answer the API server until SIGTERM", Also: []string{"start", "serve"}, Flags: flags,
				Run: func(ctx context.Context, line cli.Line) int {
					s, level, err := settle(line, env)
					if err != nil {
						return console.Fail(ctx, nil, cli.UsageError{Err: err})
					}
					log := logger(console.Stderr, level)
					log.InfoContext(ctx, "starting", "version", version.Short(), "namespace", s.Namespace,
						"webhook", s.Webhook)
					if err := start(ctx, s, log); err != nil {
						return console.Fail(ctx, log, err)
					}
					return cli.ExitDone
				}, Examples: `
  In a cluster, as a Deployment does (deploy/mesh-injector.yaml):
    mesh-injector run
`},
			{Name: "version", Does: "print the version", Run: func(ctx context.Context, line cli.Line) int {
				if err := errors.Join(line.Errs...); err != nil {
					return console.Fail(ctx, nil, cli.UsageError{Err: err})
				}
				return console.Print(ctx, "mesh-injector "+version.Get().String()+"\n")
			}, Flags: func() []cli.Flag { return nil }},
		},
		Notes: "The namespace of its own is in POD_NAMESPACE, if --namespace does not say it.",
	}
}

// logger writes JSON, what the libraries have to say as well.
func logger(stderr io.Writer, level slog.Level) *slog.Logger {
	log := slog.New(slog.NewJSONHandler(strict.EscapedJSON(stderr), &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(log)
	runtimelog.SetLogger(logr.FromSlogHandler(log.Handler()))
	slog.SetLogLoggerLevel(slog.LevelDebug) // net/http, of clients that do not trust the certificate
	slog.SetDefault(log)
	return log
}
