// Command mesh-probe runs in a pod's sidecar and carries out kubelet's probes
// inside the pod: see docs/probes.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/relay"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

func main() {
	log.SetOutput(io.Discard) // where net/http writes what an app says out of turn, for as long as it likes
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	console := cli.Console{Name: "mesh-probe", Stdout: stdout, Stderr: stderr, Exits: cli.CommonExits()}
	p := cli.Program{
		Console: console,
		Does:    "carries out kubelet's probes inside a pod, past its proxy",
		Start:   "run",
		Verbs: []cli.Verb{
			{Name: "run", Does: "answer probes until SIGTERM", Also: []string{"start", "serve"}, Flags: flags,
				Run: func(ctx context.Context, line cli.Line) int {
					s, listen, err := settle(line, env, stderr)
					if err != nil {
						return console.Fail(ctx, nil, cli.UsageError{Err: err})
					}
					if err := serve(ctx, s, listen); err != nil {
						return console.Fail(ctx, s.Log, err)
					}
					return cli.ExitDone
				}, Examples: `
  In the sidecar, with what an injector writes (docs/probes.md):
    mesh-probe run
`},
			{Name: "version", Does: "print the version", Run: func(ctx context.Context, line cli.Line) int {
				if err := errors.Join(line.Errs...); err != nil {
					return console.Fail(ctx, nil, cli.UsageError{Err: err})
				}
				return console.Print(ctx, "mesh-probe "+version.Get().String()+"\n")
			}, Flags: func() []cli.Flag { return nil }},
		},
		Notes: "What to probe is in the environment variable " + probes.Env + ", and the pod's addresses are in " +
			probes.PodIPs + ".",
	}
	return p.Run(ctx, args)
}

func flags() []cli.Flag {
	row := func(name, form string, initial, usage string) cli.Flag {
		return cli.Flag{Field: decode.Field{Name: name, Form: form, Group: "Probes", Initial: initial, Usage: usage}}
	}
	return []cli.Flag{
		row("listen", "ADDRESS", fmt.Sprintf(":%d", probes.DefaultPort), "address of probes, /healthz and /metrics"),
		row("passthrough-sources", "ADDRESSES", "127.0.0.6,::6",
			"sources that are not captured, as the rules have them;\none a family"),
		row("drain", "DURATION", "25s", "how long to wait for preStop hooks after SIGTERM"),
		{Field: decode.Field{Name: "log-level", Form: "debug|info|warn|error", Group: cli.GroupOutput, Initial: "info",
			Usage: "of the log on standard error"}},
	}
}

// settle makes settings of flags and environment, and reports all that is wrong.
func settle(line cli.Line, env func(string) string, stderr io.Writer) (s relay.Settings, listen string, err error) {
	errs := line.Errs
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	text := func(name string) string {
		f, _ := cli.Find(line.Flags, name)
		return line.Text(f)
	}
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(text("log-level"))) // a bad level is among the errors
	s.Log = slog.New(slog.NewJSONHandler(strict.EscapedJSON(stderr), &slog.HandlerOptions{Level: level}))
	if text := env(probes.Env); text == "" {
		fail("%s: not set, or empty; write the probes, or {\"probes\":[]} for none", probes.Env)
	} else if s.Probes, err = probes.Parse(text); err != nil {
		for _, e := range strict.Flatten(err) {
			fail("%s: %w", probes.Env, e)
		}
	}
	ips, err := addresses(env(probes.PodIPs))
	switch {
	case err != nil:
		fail("%s: %w", probes.PodIPs, err)
	case len(ips) == 0:
		fail("%s: empty; write the pod's addresses (fieldRef status.podIPs)", probes.PodIPs)
	default:
		s.Pod = ips[0]
	}
	if s.Passthrough, err = addresses(text("passthrough-sources")); err != nil {
		fail("--passthrough-sources: %w", err)
	}
	for i, a := range s.Passthrough {
		for _, b := range s.Passthrough[:i] {
			if a.Is4() == b.Is4() {
				fail("--passthrough-sources: %s and %s are of one family; write one of each", b, a)
			}
		}
	}
	if s.Drain, err = time.ParseDuration(text("drain")); err != nil || s.Drain < 0 {
		fail("--drain: %q is not a duration; write one like 30s or 5m", strict.Clip(text("drain")))
	}
	listen = text("listen")
	if _, _, err := net.SplitHostPort(listen); err != nil {
		fail("--listen: %q is not an address and a port, as in :%d", strict.Clip(listen), probes.DefaultPort)
	}
	return s, listen, errors.Join(errs...)
}

// addresses reads a list.
func addresses(text string) ([]netip.Addr, error) {
	var all []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" || part == "none" {
			continue
		}
		a, err := netip.ParseAddr(part)
		if err != nil || a.IsUnspecified() || a.Zone() != "" {
			return nil, fmt.Errorf("%q is not an address (as in 10.0.0.10 or fd00::10)", strict.Clip(part))
		}
		all = append(all, a.Unmap())
	}
	return all, nil
}

func serve(ctx context.Context, s relay.Settings, listen string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for probes: %w; --listen names another address", err)
	}
	s.Log.InfoContext(ctx, "answering probes", "version", version.Short(), "listen", l.Addr().String(), "pod", s.Pod,
		"probes", len(s.Probes.Probes))
	return relay.New(s).Serve(ctx, l)
}
