package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/infile"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/kube/internal/agent"
	"github.com/mesh-intercept/intercept/kube/internal/agent/cri"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
)

// settings is what the command line says.
type settings struct {
	agent.Settings
	output   cli.Format
	logLevel slog.Level
	// again makes them anew, of the same flags: a file may have changed.
	again func() (settings, error)
}

// The headings of the help.
const (
	groupNode    decode.Group = "The node"
	groupAPI     decode.Group = "The API server"
	groupRepair  decode.Group = "Running pods"
	groupAnswers decode.Group = "Questions about pods (docs/agent.md)"
	groupEnd     decode.Group = "Start and end"
)

func row(name, form string, group decode.Group, initial, usage string) cli.Flag {
	return cli.Flag{Field: decode.Field{Name: name, Form: form, Group: group, Initial: initial, Usage: usage}}
}

// agentFlags are those of run. The other verbs that look at a node take them,
// too: what they say holds for the agent that is started with the same flags.
func agentFlags() []cli.Flag {
	return []cli.Flag{
		row("cni-conf-dir", "DIR", groupNode, "/etc/cni/net.d", "the node's CNI configuration"),
		row("cni-bin-dir", "DIR", groupNode, "/opt/cni/bin", "the node's CNI plugins"),
		row("plugin", "FILE", groupNode, besideUs(cniconf.PluginType), "the plugin to install"),
		row("plugin-conf", "FILE", groupNode, "", "fields of the plugin's entry, as JSON (docs/cni.md)"),
		row("socket", "PATH", groupNode, "/run/mesh-cni/agent.sock",
			"UNIX socket for the plugin; the node and this pod\nhave to call it the same"),
		row("proc", "DIR", groupNode, "/proc", "the node's processes"),
		row("cri-socket", "PATH", groupNode, "auto",
			"where the container runtime is asked which directories\nit reads, as the node calls it; none: it is not asked"),

		row("node", "NAME", groupAPI, "", "name of the node; if not given, that in NODE_NAME"),
		row("api-server", "URL", groupAPI, "", "if not given, as kubelet tells pods"),
		row("token-file", "FILE", groupAPI, kube.TokenFile, "the service account's token"),
		row("ca-file", "FILE", groupAPI, kube.CAFile, "the API server's certificate authority"),

		row("init-containers", "GLOBS", groupRepair, "mesh-init,intercept",
			"names or images of init containers that intercept,\nby commas"),
		row("no-repair", "", groupRepair, "false", "do not look at running pods"),
		row("dry-run", "", groupRepair, "false", "say what would be repaired, and repair nothing"),
		row("repair-interval", "DURATION", groupRepair, "5m",
			"how often running pods are looked at even if nothing\nchanged"),

		row("listen", "ADDRESS", groupEnd, ":9992", "address of /healthz, /readyz and /metrics"),
		row("answers", "ADDRESS", groupAnswers, "none",
			"address at which questions about pods are answered over\nHTTPS, as in 127.0.0.1:9993; none: they are not"),
		row("answer-socket", "PATH", groupAnswers, "none",
			"UNIX socket at which root is answered; none: it is not"),
		row("mesh-init", "FILE", groupAnswers, besideUs("mesh-init"), "the program that looks into a pod"),
		row("startup-taint", "KEY", groupEnd, "",
			"taint to take off the node once ready; it needs the\nright to patch nodes"),
		row("keep-on-exit", "", groupEnd, "false", "leave plugin and entry in place at the end, as for\nan upgrade"),
		row("daemonset", "NAMESPACE/NAME", groupEnd, "",
			"the agent's own: once it is deleted, plugin and entry\nare taken out, whatever --keep-on-exit says"),
		row("keep-binary", "", groupEnd, "false",
			"never delete the plugin: CRI-O asks it about the end\nof pods that it started (docs/agent.md)"),
	}
}

// outputFlags are those of verbs with a result.
func outputFlags() []cli.Flag {
	return []cli.Flag{cli.OutputFlag(cli.OldName{Name: "json", Means: string(cli.JSON)})}
}

// besideUs is another program of the same image.
func besideUs(program string) string {
	self, err := os.Executable()
	if err != nil {
		return "/" + program
	}
	return filepath.Join(filepath.Dir(self), program)
}

// settle makes settings of what a verb is given, and reports all that is wrong.
func settle(line cli.Line, running bool, env []string) (settings, error) {
	var s settings
	errs := line.Errs
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	text := func(name string) string {
		f, _ := cli.Find(line.Flags, name)
		return line.Text(f)
	}
	is := func(name string) bool { return text(name) == "true" }
	s.output = cli.Format(text("output"))
	if s.logLevel.UnmarshalText([]byte(text("log-level"))) != nil {
		s.logLevel = slog.LevelInfo // a bad level is among the errors
	}
	if _, looks := cli.Find(line.Flags, "cni-conf-dir"); !looks {
		return s, errors.Join(errs...)
	}
	s.Place.Conf.Path, s.Place.Bin.Path, s.Place.Source = text("cni-conf-dir"), text("cni-bin-dir"), text("plugin")
	s.API = kube.Access{Server: text("api-server"), TokenFile: text("token-file"), CAFile: text("ca-file")}
	s.Node, s.Proc, s.Listen, s.Taint = text("node"), text("proc"), text("listen"), text("startup-taint")
	s.Repair, s.DryRun = !is("no-repair"), is("dry-run")
	s.KeepOnExit, s.KeepBinary = is("keep-on-exit"), is("keep-binary")

	if set := text("daemonset"); set != "" {
		namespace, name, ok := strings.Cut(set, "/")
		if s.DaemonSet = (kube.Name{Namespace: namespace, Name: name}); !ok || namespace == "" || name == "" ||
			strings.Contains(name, "/") {
			fail("--daemonset: %q is not NAMESPACE/NAME, as in mesh-system/mesh-cni-agent", strict.Clip(set))
		}
	}
	if socket := text("cri-socket"); socket != "none" {
		node := cri.Node{Root: filepath.Join(s.Proc, "1", "root")}
		if socket != "auto" {
			node.Socket = socket
			if !filepath.IsAbs(socket) {
				fail("--cri-socket: %q is not an absolute path", strict.Clip(socket))
			}
		}
		s.Place.Runtime = func(ctx context.Context) ([]string, error) {
			return node.Compare(ctx, s.Place.Conf.Path, s.Place.Bin.Path)
		}
	}
	fields, err := pluginConf(text("plugin-conf"))
	if err != nil {
		fail("--plugin-conf %s: %w", text("plugin-conf"), err)
	}
	entry, conf, err := agent.Entry(fields, text("socket"))
	for _, e := range strict.Flatten(err) {
		if strings.HasPrefix(e.Error(), "agentSocket: ") {
			fail("--socket: %w", e)
		} else {
			fail("--plugin-conf %s: %w", text("plugin-conf"), e)
		}
	}
	s.Place.Entry, s.Conf = entry, conf
	for _, name := range []string{"cni-bin-dir", "cni-conf-dir"} {
		if !filepath.IsAbs(text(name)) {
			fail("--%s: %q is not an absolute path", name, text(name))
		}
	}
	if s.Every, err = time.ParseDuration(text("repair-interval")); err != nil {
		fail("--repair-interval: %q is not a duration; write one like 30s or 5m", text("repair-interval"))
	} else if s.Every < time.Second {
		fail("--repair-interval: %v is less than 1s", s.Every)
	}
	for name := range strings.SplitSeq(text("init-containers"), ",") {
		name = strings.TrimSpace(name)
		if _, err := filepath.Match(name, ""); err != nil {
			fail("--init-containers: %q: %w", name, err)
		}
		if name != "" {
			s.InitNames = append(s.InitNames, name)
		}
	}
	if !running {
		return s, errors.Join(errs...)
	}
	if _, _, err := net.SplitHostPort(s.Listen); err != nil {
		fail("--listen: %q is not an address and a port, as in :9992", s.Listen)
	}
	if i := slices.IndexFunc(env, func(pair string) bool { return strings.HasPrefix(pair, "NODE_NAME=") }); s.Node == "" &&
		i >= 0 {
		s.Node = strings.TrimPrefix(env[i], "NODE_NAME=")
	}
	if s.AnswerListen = strings.TrimPrefix(text("answers"), "none"); s.AnswerListen != "" {
		if _, _, err := net.SplitHostPort(s.AnswerListen); err != nil {
			fail("--answers: %q is not an address and a port, as in 127.0.0.1:9993", s.AnswerListen)
		}
	}
	if s.AnswerSocket = strings.TrimPrefix(text("answer-socket"), "none"); s.AnswerSocket != "" &&
		!filepath.IsAbs(s.AnswerSocket) {
		fail("--answer-socket: %q is not an absolute path", s.AnswerSocket)
	}
	s.MeshInit = text("mesh-init")
	if s.Node == "" {
		fail("--node: empty, and NODE_NAME is not set; write the node's name (fieldRef spec.nodeName)")
	}
	return s, errors.Join(errs...)
}

// pluginConf reads the fields of the plugin's entry, if there is a file of them.
func pluginConf(path string) (map[string]json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if path == "" {
		return fields, nil
	}
	text, err := infile.Read(path, yamldoc.MaxFile)
	if err != nil {
		return fields, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&fields); err != nil {
		return fields, err
	}
	if d.More() {
		return fields, errors.New("there is more after the object")
	}
	return fields, nil
}
