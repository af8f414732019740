package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/decode"
)

const envPrefix = "MESH_"

// A setting is a flag's value, and where it was given: "--dns" or "MESH_DNS".
type setting struct {
	flag
	source string
	text   string
	given  bool
}

// inputs is what the command line and the environment say, before any of it
// is understood.
type inputs struct {
	verb  verbRow
	given []setting // those of the environment first
	help  bool
	errs  []error
}

func (in *inputs) fail(source, format string, args ...any) {
	in.errs = append(in.errs, fmt.Errorf("%s: %w", source, fmt.Errorf(format, args...)))
}

// gather reads the arguments after the verb, and the environment. It never
// stops at an error, so that all can be reported together.
func gather(v verbRow, args, env []string) inputs {
	in := inputs{verb: v}
	all := flags()
	fromArgs := in.readArgs(all, args)
	in.readEnv(all, env, fromArgs)
	in.given = append(in.given, fromArgs...)
	return in
}

// readArgs reads --flag VALUE, --flag=VALUE and --switch. There are neither
// abbreviations nor single letters (but -h).
//
// It is not pflag, which stops at the first error, takes the next flag for a
// value and passes over -test.*; told to go on past what it does not know, it
// reads -allow-host-netns as -a, -l … -h: help, a success that captured nothing.
func (in *inputs) readArgs(all []flag, args []string) []setting {
	values := map[string][]string{}
	var order []flag
	last := "" // the switch just read
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		wasSwitch := last
		last = ""
		switch {
		case arg == "--":
			for _, rest := range args {
				in.leftOver(rest)
			}
			args = nil
			continue
		case arg == "-h":
			arg = "--" + helpFlag
		case wasSwitch != "" && (arg == "true" || arg == "false"):
			in.fail("--"+wasSwitch, "%q is left over: a switch's value is written --%s=%s", arg, wasSwitch, arg)
			continue
		case !strings.HasPrefix(arg, "-") || arg == "-":
			in.leftOver(arg)
			continue
		}
		token, value, inline := strings.Cut(arg, "=")
		f, ok := findFlag(all, strings.TrimPrefix(token, "--"))
		if !ok || !strings.HasPrefix(token, "--") {
			in.unknownFlag(all, token)
			if !inline && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
				args = args[1:] // most likely its value: no error of its own
			}
			continue
		}
		switch {
		case inline:
		case f.isSwitch():
			value, last = "true", f.name
		case len(args) == 0:
			in.fail(token, "a value is missing: write %s %s", token, f.value)
			continue
		case isFlag(all, args[0]):
			in.fail(token, "a value is missing: %q looks like a flag; write %s %s", args[0], token, f.value)
			continue
		default:
			value, args = args[0], args[1:]
		}
		if f.verbs&in.verb.verb == 0 {
			in.fail(token, "%s does not use it; it is for %s", in.verb.name, f.verbs)
			continue
		}
		if _, again := values[f.name]; !again {
			order = append(order, f)
		}
		values[f.name] = append(values[f.name], value)
	}
	var out []setting
	for _, f := range order {
		given := values[f.name]
		source := "--" + f.name
		if len(given) > 1 && !f.repeats() {
			in.fail(source, "given twice, %q and %q: give it once", given[0], given[1])
			continue
		}
		if !in.plausible(f, source, given) {
			continue
		}
		if f.name == helpFlag && given[0] == "true" {
			in.help = true
			continue
		}
		out = append(out, setting{f, source, strings.Join(given, ";"), true})
	}
	return out
}

func (in *inputs) leftOver(arg string) {
	in.errs = append(in.errs, fmt.Errorf("%q is left over: %s takes flags only (mesh-init %s --help lists them)", arg, in.verb.name, in.verb.name))
}

func (in *inputs) unknownFlag(all []flag, token string) {
	var names []string
	for _, f := range all {
		if f.verbs&in.verb.verb != 0 {
			names = append(names, "--"+f.name)
		}
	}
	in.fail(token, "unknown flag; %s", decode.Hint("--"+strings.TrimLeft(token, "-"), names, "mesh-init "+in.verb.name+" --help lists them"))
}

// isFlag reports whether an argument is one of our flags.
func isFlag(all []flag, arg string) bool {
	name, ok := strings.CutPrefix(arg, "--")
	if !ok {
		return false
	}
	name, _, _ = strings.Cut(name, "=")
	_, ok = findFlag(all, name)
	return ok
}

// readEnv reads the MESH_ variables. Those of flags that the verb does not
// use are passed over, since a pod's environment is the same for all verbs.
func (in *inputs) readEnv(all []flag, env []string, fromArgs []setting) {
	var names []string
	for _, f := range all {
		if name := f.env(); name != "" {
			names = append(names, name)
		}
	}
	for _, entry := range slices.Sorted(slices.Values(env)) {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || strings.HasPrefix(name, envPrefix+"TEST_") {
			continue
		}
		i := slices.IndexFunc(all, func(f flag) bool { return f.env() == name })
		link := isServiceLink(name, value)
		switch {
		case i < 0 && link:
		case i < 0:
			in.fail(name, "unknown variable; %s", decode.Hint(name, names, "unset it; mesh-init --help lists the flags, whose names these are"))
		case all[i].verbs&in.verb.verb == 0:
		case link && slices.ContainsFunc(fromArgs, func(s setting) bool { return s.name == all[i].name }):
			// The flag is the way out that the error below names.
		case link:
			in.fail(name, "%q is Kubernetes' address of a Service named %s, not a value for us; give --%s, or set enableServiceLinks: false in the pod's spec",
				value, serviceOf(name), all[i].name)
		case in.plausible(all[i], name, []string{value}):
			in.given = append(in.given, setting{all[i], name, value, true})
		}
	}
}

// plausible refuses values that are most likely a mistake.
func (in *inputs) plausible(f flag, source string, values []string) bool {
	before := len(in.errs)
	for _, v := range values {
		if err := f.asField().Plausible(v); err != nil {
			in.fail(source, "%w", err)
		}
	}
	return len(in.errs) == before
}

// Kubernetes sets variables for the Services of a pod's namespace, in the
// style of Docker's links. Those of a Service named mesh-… begin like ours:
// MESH_X_SERVICE_HOST, MESH_X_SERVICE_PORT, MESH_X_SERVICE_PORT_NAME,
// MESH_X_PORT, MESH_X_PORT_80_TCP, MESH_X_PORT_80_TCP_ADDR (_PORT, _PROTO).
// (k8s.io/kubernetes/pkg/kubelet/envvars)
func isServiceLink(name, value string) bool {
	switch {
	case strings.HasSuffix(name, "_SERVICE_HOST"), strings.HasSuffix(name, "_SERVICE_PORT"), strings.Contains(name, "_SERVICE_PORT_"):
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

// chooseVerb splits the verb from the arguments: apply, if there is none.
func chooseVerb(args []string) (verbRow, []string, error) {
	all := verbTable()
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return all[0], args, nil
	}
	for _, v := range all {
		if v.name == args[0] {
			return v, args[1:], nil
		}
	}
	var names []string
	for _, v := range all {
		names = append(names, v.name)
	}
	return verbRow{}, nil, fmt.Errorf("%q is not a verb; %s", args[0], decode.Hint(args[0], names, "the verbs are "+strings.Join(names, ", ")))
}
