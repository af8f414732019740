package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/kube/internal/agent"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
)

// settings is what the command line says.
type settings struct {
	agent.Settings
	verb     string
	json     bool
	logLevel slog.Level
}

var errHelp = errors.New("help")

// verbs are what can be done; the first if nothing is said.
var verbs = []string{"run", "uninstall", "doctor", "version", "help"}

// raw is the command line as texts.
type raw struct {
	settings
	socket, pluginConf, initNames, listen, taint string
	dryRun, noRepair                             bool
}

// flags are the command line's, with their initial values.
func (r *raw) flags() *flag.FlagSet {
	f := flag.NewFlagSet("mesh-cni-agent", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&r.Place.Conf.Path, "cni-conf-dir", "/etc/cni/net.d", "`DIR` of the node's CNI configuration")
	f.StringVar(&r.Place.Bin.Path, "cni-bin-dir", "/opt/cni/bin", "`DIR` of the node's CNI plugins")
	f.StringVar(&r.Place.Source, "plugin", besideUs(), "the plugin to install, a `FILE`")
	f.StringVar(&r.pluginConf, "plugin-conf", "", "`FILE` with fields of the plugin's entry, as JSON (docs/cni.md)")
	f.StringVar(&r.socket, "socket", "/run/mesh-cni/agent.sock", "`PATH` of the UNIX socket for the plugin; the node and this pod have to call it the same")
	f.StringVar(&r.Node, "node", "", "`NAME` of the node; initially that in NODE_NAME")
	f.StringVar(&r.API.Server, "api-server", "", "`URL` of the API server; initially as kubelet tells pods")
	f.StringVar(&r.API.TokenFile, "token-file", kube.TokenFile, "`FILE` with the service account's token")
	f.StringVar(&r.API.CAFile, "ca-file", kube.CAFile, "`FILE` with the API server's certificate authority")
	f.StringVar(&r.listen, "listen", ":9992", "`ADDRESS` of /healthz, /readyz and /metrics")
	f.StringVar(&r.initNames, "init-containers", "mesh-init,intercept", "`GLOBS` of names or images of init containers that intercept, by commas")
	f.StringVar(&r.taint, "startup-taint", "", "`KEY` of a taint to take off the node once ready; it needs the right to patch nodes")
	f.BoolVar(&r.noRepair, "no-repair", false, "do not look at running pods")
	f.BoolVar(&r.dryRun, "dry-run", false, "say what would be repaired, and repair nothing")
	f.DurationVar(&r.Every, "repair-interval", 5*time.Minute, "`DURATION` after which running pods are looked at even if nothing changed")
	f.StringVar(&r.Proc, "proc", "/proc", "`DIR` with the node's processes")
	f.BoolVar(&r.KeepOnExit, "keep-on-exit", false, "leave plugin and entry in place at the end, as for an upgrade")
	f.BoolVar(&r.KeepBinary, "keep-binary", false, "never delete the plugin: CRI-O asks it about the end of pods that it started (docs/agent.md)")
	f.BoolVar(&r.json, "json", false, "doctor: print JSON")
	f.TextVar(&r.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return f
}

// besideUs is the plugin of the same image.
func besideUs() string {
	self, err := os.Executable()
	if err != nil {
		return "/" + cniconf.PluginType
	}
	return filepath.Join(filepath.Dir(self), cniconf.PluginType)
}

// parse reads the command line, and reports all that is wrong with it.
func parse(args, env []string) (settings, error) {
	var r raw
	r.verb = verbs[0]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		r.verb, args = args[0], args[1:]
	}
	if !slices.Contains(verbs, r.verb) {
		return settings{}, fmt.Errorf("%q is not a verb; %s", r.verb, decode.Hint(r.verb, verbs, "the verbs are "+strings.Join(verbs, ", ")))
	}
	f := r.flags()
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) || r.verb == "help" {
		return settings{}, errHelp
	}
	if err == nil && f.NArg() > 0 {
		return settings{}, fmt.Errorf("%q is no flag; %s --help lists them", f.Arg(0), f.Name())
	}
	if err != nil {
		return settings{}, explain(f, err)
	}
	return r.settle(env)
}

// explain says what to do about an error of package flag.
func explain(f *flag.FlagSet, err error) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return fmt.Errorf("%w; %s --help lists the flags", err, f.Name())
	}
	var names []string
	f.VisitAll(func(f *flag.Flag) { names = append(names, "--"+f.Name) })
	return fmt.Errorf("--%s is no flag; %s", name, decode.Hint("--"+name, names, f.Name()+" --help lists them"))
}

// settle makes settings of texts.
func (r raw) settle(env []string) (settings, error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	fields := map[string]json.RawMessage{}
	if r.pluginConf != "" {
		text, err := os.ReadFile(r.pluginConf)
		if err == nil {
			d := json.NewDecoder(bytes.NewReader(text))
			if err = d.Decode(&fields); err == nil && d.More() {
				err = errors.New("there is more after the object")
			}
		}
		if err != nil {
			fail("--plugin-conf %s: %w", r.pluginConf, err)
		}
	}
	entry, conf, err := agent.Entry(fields, r.socket)
	for _, e := range decode.Flatten(err) {
		if strings.HasPrefix(e.Error(), "agentSocket: ") {
			fail("--socket: %w", e)
		} else {
			fail("--plugin-conf %s: %w", r.pluginConf, e)
		}
	}
	if err == nil && conf.AgentSocket == "" {
		fail("--socket: empty; write the path of a socket")
	}
	r.Place.Entry, r.Conf = entry, conf
	for name, dir := range map[string]string{"cni-conf-dir": r.Place.Conf.Path, "cni-bin-dir": r.Place.Bin.Path} {
		if !filepath.IsAbs(dir) {
			fail("--%s: %q is not an absolute path", name, dir)
		}
	}
	if r.verb == "run" {
		if r.Node == "" {
			for _, pair := range env {
				if name, value, _ := strings.Cut(pair, "="); name == "NODE_NAME" {
					r.Node = value
				}
			}
		}
		if r.Node == "" {
			fail("--node: empty, and NODE_NAME is not set; write the node's name (fieldRef spec.nodeName)")
		}
		if _, _, err := net.SplitHostPort(r.listen); err != nil {
			fail("--listen: %q is not an address and a port, as in :9992", r.listen)
		}
		if r.Every < time.Second {
			fail("--repair-interval: %v is less than 1s", r.Every)
		}
	}
	for name := range strings.SplitSeq(r.initNames, ",") {
		name = strings.TrimSpace(name)
		if _, err := filepath.Match(name, ""); err != nil {
			fail("--init-containers: %q: %w", name, err)
		}
		if name != "" {
			r.InitNames = append(r.InitNames, name)
		}
	}
	r.Listen, r.Taint, r.Repair, r.DryRun = r.listen, r.taint, !r.noRepair, r.dryRun
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return r.settings, errors.Join(errs...)
}

// help is the text for who asks.
func help() string {
	var b strings.Builder
	b.WriteString(`mesh-cni-agent keeps the CNI plugin mesh-cni installed on a node, answers its
questions and repairs running pods.

  mesh-cni-agent [run] [flags]   until SIGTERM; then it takes out what it put in
  mesh-cni-agent uninstall       take out entry and plugin, without an API server
  mesh-cni-agent doctor          say what is amiss; exit code 10 if anything is
  mesh-cni-agent version

`)
	var r raw
	r.flags().VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		line := "  --" + f.Name + " " + value
		initial := ""
		if f.DefValue != "" && f.DefValue != "false" {
			initial = " (" + f.DefValue + ")"
		}
		fmt.Fprintf(&b, "%-28s %s%s\n", line, usage, initial)
	})
	return b.String()
}
