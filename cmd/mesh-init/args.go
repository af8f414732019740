package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
)

const envPrefix = "MESH_"

// A setting is a flag's value, and where it was given: "--dns" or "MESH_DNS".
type setting struct {
	cli.Flag
	source string
	text   string
	given  bool
}

// inputs is what the command line and the environment say, before any of it
// is understood.
type inputs struct {
	flags []cli.Flag // those of the verb
	given []setting  // those of the environment first
	notes []string
	errs  []error
}

func (in *inputs) fail(source, format string, args ...any) {
	in.errs = append(in.errs, fmt.Errorf("%s: %w", source, fmt.Errorf(format, args...)))
}

// gather reads the command line of a verb, and the environment. It never stops
// at an error, so that all can be reported together.
func gather(all func() []cli.Flag, line cli.Line, environ []string) inputs {
	in := inputs{flags: line.Flags, notes: line.Notes, errs: line.Errs}
	var fromArgs []setting
	for _, g := range line.Given {
		fromArgs = append(fromArgs, setting{g.Flag, g.Source, g.Text, true})
	}
	in.readEnv(all, environ, fromArgs)
	in.given = append(in.given, fromArgs...)
	return in
}

// uses reports whether the verb has a flag.
func (in inputs) uses(flag string) bool {
	_, ok := cli.Find(in.flags, flag)
	return ok
}

// sources are where the configuration was given: a file, flags, variables.
func (in inputs) sources() []string {
	all := []string{}
	for _, s := range in.given {
		switch {
		case s.Name == configFlag && s.text == "-":
			all = append(all, "standard input")
		case s.Name == configFlag:
			all = append(all, s.text)
		case s.Path != "":
			all = append(all, s.source)
		}
	}
	return all
}

// readEnv reads the MESH_ variables. Those of flags that the verb does not
// use are passed over, since a pod's environment is the same for all verbs.
func (in *inputs) readEnv(all func() []cli.Flag, environ []string, fromArgs []setting) {
	environ = slices.DeleteFunc(slices.Sorted(slices.Values(environ)), func(entry string) bool {
		return !strings.HasPrefix(entry, envPrefix) || strings.HasPrefix(entry, envPrefix+"TEST_")
	})
	if len(environ) == 0 {
		return
	}
	byName := map[string]cli.Flag{}
	var names []string
	for _, f := range all() {
		if env(f) == "" {
			continue
		}
		names = append(names, env(f))
		byName[env(f)] = f
		for _, o := range f.Old {
			byName[envName(o.Name)] = f
		}
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		f, known := byName[name]
		link := isServiceLink(name, value)
		switch {
		case !known && link:
		case !known:
			in.fail(name, "unknown variable; %s",
				decode.Hint(name, names, "unset it; mesh-init --help lists the flags, whose names these are"))
		case !in.uses(f.Name):
		case link && slices.ContainsFunc(fromArgs, func(s setting) bool { return s.Name == f.Name }):
			// The flag is the way out that the error below names.
		case link:
			in.fail(name, "%q is Kubernetes' address of a Service named %s, not a value for us; "+
				"give --%s, or set enableServiceLinks: false in the pod's spec", value, serviceOf(name), f.Name)
		default:
			if name != env(f) {
				in.notes = append(in.notes, name+" is deprecated: set "+env(f))
			}
			if err := f.Plausible(value); err != nil {
				in.fail(name, "%w", err)
				continue
			}
			in.given = append(in.given, setting{f, name, value, true})
		}
	}
}

// Kubernetes sets variables for the Services of a pod's namespace, in the
// style of Docker's links. Those of a Service named mesh-… begin like ours:
// MESH_X_SERVICE_HOST, MESH_X_SERVICE_PORT, MESH_X_SERVICE_PORT_NAME,
// MESH_X_PORT, MESH_X_PORT_80_TCP, MESH_X_PORT_80_TCP_ADDR (_PORT, _PROTO).
// (k8s.io/kubernetes/pkg/kubelet/envvars)
func isServiceLink(name, value string) bool {
	switch {
	case strings.HasSuffix(name, "_SERVICE_HOST"), strings.HasSuffix(name, "_SERVICE_PORT"),
		strings.Contains(name, "_SERVICE_PORT_"):
		return true
	case strings.HasSuffix(name, "_PORT") && isServiceURL(value):
		return true
	}
	// …_PORT_<digits>_<protocol>, and what may follow.
	_, rest, found := strings.Cut(name, "_PORT_")
	port, proto, hasProto := strings.Cut(rest, "_")
	if !found || !hasProto || strings.Trim(port, "0123456789") != "" {
		return false
	}
	proto, _, _ = strings.Cut(proto, "_")
	return proto == "TCP" || proto == "UDP" || proto == "SCTP"
}

func isServiceURL(value string) bool {
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://") || strings.HasPrefix(value, "sctp://")
}

// serviceOf returns the Service whose address is in a variable …_PORT.
func serviceOf(name string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(name, "_PORT"), "_", "-"))
}
