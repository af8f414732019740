// Command mesh-cni-agent runs on every node. It keeps the CNI plugin mesh-cni
// installed, answers its questions about pods, repairs pods whose rules are
// missing, and says how it is: see docs/agent.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/kube/internal/agent"
	"github.com/mesh-intercept/intercept/kube/internal/agent/metrics"
)

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitIll    = 10 // doctor found something amiss
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command without the process around it. It returns the exit code.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	s, err := parse(args, env)
	switch {
	case errors.Is(err, errHelp):
		return print(stdout, stderr, help())
	case err != nil:
		for _, e := range decode.Flatten(err) {
			fmt.Fprintln(stderr, "mesh-cni-agent: "+decode.OneLine(e.Error()))
		}
		return exitUsage
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: s.logLevel}))
	switch s.verb {
	case "version":
		version, revision, goVersion := metrics.Version()
		return print(stdout, stderr, fmt.Sprintf("mesh-cni-agent %s (%s, %s)\n", version, revision, goVersion))
	case "doctor":
		return doctor(ctx, s, stdout, stderr)
	case "uninstall":
		err = agent.Remove(s.Place, s.KeepBinary, log)
	default:
		err = serve(ctx, s, log)
	}
	if err != nil {
		log.ErrorContext(ctx, decode.OneLine(err.Error()))
		return exitFailed
	}
	return exitDone
}

func serve(ctx context.Context, s settings, log *slog.Logger) error {
	klog.SetSlogLogger(log) // what client-go has to say
	version, revision, _ := metrics.Version()
	s.API.UserAgent = "mesh-cni-agent/" + version
	a, err := agent.New(s.Settings, log)
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "starting", "version", version, "revision", revision, "node", s.Node)
	return a.Run(ctx)
}

func doctor(ctx context.Context, s settings, stdout, stderr io.Writer) int {
	all := agent.Doctor(ctx, s.Place, s.Conf)
	text, code := "", exitDone
	for _, d := range all {
		state := "ok"
		if !d.OK {
			state, code = "NOT OK", exitIll
		}
		text += fmt.Sprintf("%-20s %-7s %s\n", d.What, state, decode.OneLine(d.Says))
	}
	if s.json {
		b, err := json.Marshal(all)
		if err != nil {
			fmt.Fprintln(stderr, "mesh-cni-agent:", err)
			return exitFailed
		}
		text = string(b) + "\n"
	}
	if done := print(stdout, stderr, text); done != exitDone {
		return done
	}
	return code
}

// print writes a result. One that nobody can read is a failure.
func print(stdout, stderr io.Writer, text string) int {
	if _, err := io.WriteString(stdout, text); err != nil {
		fmt.Fprintln(stderr, "mesh-cni-agent: the result could not be written:", err)
		return exitFailed
	}
	return exitDone
}
