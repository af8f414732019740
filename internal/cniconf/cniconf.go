// Package cniconf reads the plugin mesh-cni's entry of a CNI configuration
// list: the plugin, from standard input, and the agent, which writes it.
package cniconf

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// PluginType is the name of the plugin's binary, and the entry's type.
const PluginType = "mesh-cni"

// Versions are those of the CNI specification that the plugin speaks. Lists of
// plugins came with 0.3.0.
func Versions() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// AnnotationsCapability is the capability by which containerd and CRI-O give a
// plugin the pod's annotations, in runtimeConfig.
const AnnotationsCapability = "io.kubernetes.cri.pod-annotations"

// Policy is what becomes of a pod that may be ours, if it cannot be found out
// what it asks for or its rules cannot be put in force.
type Policy string

// The policies.
const (
	PolicyFail  Policy = "fail"  // it does not start
	PolicyAllow Policy = "allow" // it starts without its rules
)

// Conf is the entry. The zero Conf is not valid; [Default] is.
type Conf struct {
	Backend           dataplane.Backend
	BesideOtherMesh   bool
	FailurePolicy     Policy
	ExcludeNamespaces []string
	// AgentSocket is where the node's agent listens. Empty: there is none.
	AgentSocket  string
	AgentTimeout time.Duration
	// AgentPod is the agent's own pod, NAMESPACE/NAME, as a glob.
	AgentPod         string
	AnnotationPrefix string
	// Dialects are whose annotations are read, in the order in which they are asked whether a pod is theirs.
	Dialects []pods.Dialect
	// AnnotationLimits are those that the entry gives; [Conf.Limits] has the others, too.
	AnnotationLimits podspec.Limits
	// Defaults is the configuration that annotations are laid over.
	Defaults intercept.Config
	// Runtime is the container runtime of all pods whose list this is, if
	// known, and RefuseRuntimes are globs of those that are refused.
	Runtime        string
	RefuseRuntimes []string
	// LogFile is the path of the log. Empty: there is none.
	LogFile    string
	LogLevel   string
	LogMaxSize int64
	// Capabilities are those that the entry declares.
	Capabilities map[string]bool
}

// Default returns the Conf of an entry that says nothing.
func Default() Conf {
	return Conf{
		Backend:           dataplane.BackendAuto,
		FailurePolicy:     PolicyFail,
		ExcludeNamespaces: []string{"kube-system"},
		AgentTimeout:      2 * time.Second,
		AgentPod:          "mesh-system/mesh-cni-agent-*",
		AnnotationPrefix:  podspec.DefaultPrefix,
		Dialects:          []pods.Dialect{pods.Intercept},
		Defaults:          intercept.Default(),
		RefuseRuntimes:    podspec.RefusedRuntimes(),
		LogFile:           "/var/log/mesh-cni/mesh-cni.log",
		LogLevel:          "info",
		LogMaxSize:        10 << 20,
	}
}

// A Field is one field of the entry that is ours.
type Field struct {
	Name string
	Form string
	// Initial is the value that holds if none is given, as JSON.
	Initial string
	Usage   string
	set     func(*Conf, strict.Node) error
}

// Fields is the one table of the entry's fields that are ours.
func Fields() []Field {
	return []Field{
		{"backend", decode.Form(dataplane.Backends()), `"auto"`,
			"how rules get into the kernel, as mesh-init's --backend",
			setChoice(func(c *Conf) *dataplane.Backend { return &c.Backend }, dataplane.Backends()...)},
		{"beside", "nobody|other-mesh", `"nobody"`,
			"other-mesh: rules of another mesh in a pod are no error, as mesh-init's --beside",
			setBeside},
		{"failurePolicy", "fail|allow", `"fail"`,
			"what becomes of a pod that may be ours, if nobody can say what it asks for, or if the kernel does not take its " +
				"rules; allow: it starts without them. A mistake in its annotations always fails it",
			setChoice(func(c *Conf) *Policy { return &c.FailurePolicy }, PolicyFail, PolicyAllow)},
		{"excludeNamespaces", "list of names", `["kube-system"]`,
			"Kubernetes namespaces whose pods are left alone, annotated or not",
			func(c *Conf, n strict.Node) error { return setNames(&c.ExcludeNamespaces, n, validName) }},
		{"agentSocket", "PATH", `""`,
			"UNIX socket of the node's agent, asked for the annotations if the runtime does not give them, and for a meshed " +
				"pod's RuntimeClass",
			func(c *Conf, n strict.Node) error { return setPath(&c.AgentSocket, n, cniwire.MaxPath) }},
		{"agentTimeout", "DURATION", `"2s"`, "how long to wait for the agent, from 10ms to 1m",
			func(c *Conf, n strict.Node) error { return setDuration(&c.AgentTimeout, n) }},
		{"agentPod", "NAMESPACE/NAME", `"mesh-system/mesh-cni-agent-*"`,
			"the agent's own pod, left alone so that it can start; * stands for any ending",
			func(c *Conf, n strict.Node) error { return setPod(&c.AgentPod, n) }},
		{"annotationPrefix", "DNS name", `"intercept.mesh"`, "what stands before the slash of our annotations",
			func(c *Conf, n strict.Node) error {
				return setString(&c.AnnotationPrefix, n, podspec.ValidatePrefix)
			}},
		{"dialects", "list of " + decode.Form(pods.Dialects()), `["intercept"]`,
			"whose annotations are read: ours, and those of other meshes, as their own plugins read them; the first of which a " +
				"pod has any decides",
			setDialects},
		{"annotationLimits", "object", `{}`,
			"how far a pod's annotations may go, by their names; what is not named keeps the limit in the table below",
			func(c *Conf, n strict.Node) error { return setLimits(&c.AnnotationLimits, n) }},
		{"defaults", "configuration", `{}`,
			"the fields of mesh-init's configuration file; a pod's annotations go before them",
			func(c *Conf, n strict.Node) error { return setDefaults(&c.Defaults, n) }},
		{"runtime", "NAME", `""`,
			"the runtime of the pods that this list is for, where each has its own (containerd's cni_conf_dir of a runtime)",
			func(c *Conf, n strict.Node) error { return setString(&c.Runtime, n, validName) }},
		{"refuseRuntimes", "list of globs", `["gvisor*","runsc*","kata*"]`,
			"runtimes and RuntimeClasses that bring a network stack of their own: a pod that asks for interception fails there",
			func(c *Conf, n strict.Node) error { return setNames(&c.RefuseRuntimes, n, validGlob) }},
		{"logFile", "PATH", `"/var/log/mesh-cni/mesh-cni.log"`, "log, one JSON object a line; \"\": none",
			func(c *Conf, n strict.Node) error { return setPath(&c.LogFile, n, 4095) }},
		{"logLevel", "debug|info|warn|error", `"info"`, "debug: also of pods that are left alone",
			setChoice(func(c *Conf) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
		{"logMaxSize", "NUMBER", "10485760", "bytes at which the log is renamed to PATH.1, in place of the one before",
			func(c *Conf, n strict.Node) error { return setSize(&c.LogMaxSize, n) }},
	}
}

func setDialects(c *Conf, n strict.Node) error {
	var names []string
	if err := setNames(&names, n, func(s string) error { return oneOf(pods.Dialect(s), pods.Dialects()) }); err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("an empty list: no pod would be intercepted")
	}
	c.Dialects = nil
	for _, name := range names {
		if slices.Contains(c.Dialects, pods.Dialect(name)) {
			return fmt.Errorf("%s is there twice", name)
		}
		c.Dialects = append(c.Dialects, pods.Dialect(name))
	}
	return nil
}

// standard reports whether a field is the CNI specification's, or one that
// libcni and runtimes put into every entry.
func standard(name string) bool {
	switch name {
	case "cniVersion", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult", "dns", "ipam":
		return true
	}
	return strings.HasPrefix(name, "cni.dev/")
}

// Error is one thing wrong with an entry.
type Error struct {
	Field string
	// Unknown is whether there is no such field.
	Unknown bool
	// Line is the field's in the entry. Zero: the entry is on one line.
	Line int
	Err  error
}

func (e *Error) Error() string {
	s := e.Field + ": " + e.Err.Error()
	if e.Line > 0 {
		s += fmt.Sprintf(" (line %d)", e.Line)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Parse reads an entry, as a JSON object. All that is wrong with it is reported
// at once: the errors joined are of type [*Error]. What is returned besides has
// what could be read, and the defaults for the rest.
func Parse(data []byte) (Conf, error) {
	members, err := strict.Members(data)
	if err != nil {
		return Default(), &Error{Field: "the entry", Err: err}
	}
	return Read(members)
}

// Read is [Parse] of an entry that has been taken apart.
func Read(members []strict.Member) (Conf, error) {
	c := Default()
	var errs strict.Errors
	fail := func(m strict.Member, err error) {
		for _, e := range strict.Flatten(err) {
			line := m.Line
			if _, inside := errors.AsType[*intercept.FieldError](e); inside {
				line = 0 // it has one of its own
			}
			errs.Add(&Error{Field: m.Name, Line: line, Err: e})
		}
	}
	known := append(Fields(), capabilities())
	seen := map[string]bool{}
	for _, m := range members {
		i := slices.IndexFunc(known, func(f Field) bool { return f.Name == m.Name })
		switch {
		case i >= 0 && seen[m.Name]:
			fail(m, errors.New("it is there twice"))
		case i >= 0:
			seen[m.Name] = true
			n, err := m.Node()
			if err == nil {
				err = known[i].set(&c, n)
			}
			fail(m, err)
		case standard(m.Name):
		case errs.Full():
			errs.Omit()
		default:
			errs.Add(unknown(m))
		}
	}
	return c, errs.Err()
}

func unknown(m strict.Member) *Error {
	var names []string
	for _, f := range Fields() {
		names = append(names, f.Name)
	}
	return &Error{m.Name, true, m.Line, fmt.Errorf("unknown field, with the value %s; %s", strict.Clip(string(m.Raw)),
		strict.Hint(m.Name, names, "the fields of "+PluginType+" are "+strings.Join(names, ", ")))}
}

// capabilities is the one field of the CNI specification that we look at.
func capabilities() Field {
	return Field{Name: "capabilities", set: func(c *Conf, n strict.Node) error {
		of := map[string]bool{}
		for _, f := range n.Fields {
			if !f.Value.Bare || f.Value.Text != "true" && f.Value.Text != "false" {
				return fmt.Errorf("%s is %s, not true or false", f.Name, f.Value.Quote())
			}
			of[f.Name] = f.Value.Text == "true"
		}
		if n.Kind != strict.Mapping && n.Kind != strict.Null {
			return fmt.Errorf("%s is not an object of true and false", n.Quote())
		}
		c.Capabilities = of
		return nil
	}}
}

func setBeside(c *Conf, n strict.Node) error {
	const otherMesh = "other-mesh"
	var who string
	err := setChoice(func(*Conf) *string { return &who }, "nobody", otherMesh)(c, n)
	c.BesideOtherMesh = who == otherMesh
	return err
}

func setString(to *string, n strict.Node, validate func(string) error) error {
	s, err := n.AsString()
	if err == nil {
		err = validate(s)
	}
	if err != nil {
		return err
	}
	*to = s
	return nil
}

func setChoice[S ~string](to func(*Conf) *S, choices ...S) func(*Conf, strict.Node) error {
	return func(c *Conf, n strict.Node) error {
		s, err := n.AsString()
		if err != nil {
			return err
		}
		if err := oneOf(S(s), choices); err != nil {
			return err
		}
		*to(c) = S(s)
		return nil
	}
}

// oneOf reports a text that is none of the choices.
func oneOf[S ~string](s S, choices []S) error {
	if slices.Contains(choices, s) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s", strict.Clip(string(s)), strings.ReplaceAll(decode.Form(choices), "|", ", "))
}

func setNames(to *[]string, n strict.Node, validate func(string) error) error {
	if n.Kind != strict.List {
		return fmt.Errorf("%s is not a list of strings", n.Quote())
	}
	list := []string{}
	var errs strict.Errors
	for _, item := range n.Items {
		s, err := item.AsString()
		if err == nil {
			err = validate(s)
		}
		errs.Add(err)
		list = append(list, s)
	}
	if !errs.None() {
		return errs.Err()
	}
	*to = list
	return nil
}

func validName(s string) error {
	if s == "" || len(s) > 253 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return fmt.Errorf("%q is not a name", s)
	}
	return nil
}

func validGlob(s string) error {
	if err := validName(s); err != nil {
		return err
	}
	if _, err := path.Match(s, ""); err != nil {
		return fmt.Errorf("%q is not a glob: %w", s, err)
	}
	return nil
}

func setPod(to *string, n strict.Node) error {
	return setString(to, n, func(s string) error {
		namespace, name, ok := strings.Cut(s, "/")
		if !ok || errors.Join(validGlob(namespace), validGlob(name)) != nil {
			return fmt.Errorf("%q is not NAMESPACE/NAME", s)
		}
		return nil
	})
}

func setPath(to *string, n strict.Node, most int) error {
	return setString(to, n, func(s string) error {
		switch {
		case s == "":
			return nil
		case !path.IsAbs(s) || strings.HasSuffix(s, "/") || strings.ContainsRune(s, 0):
			return fmt.Errorf("%q is not the absolute path of a file", s)
		case len(s) > most:
			return fmt.Errorf("%q is longer than %d bytes", s, most)
		}
		return nil
	})
}

func setDuration(to *time.Duration, n strict.Node) error {
	s, err := n.AsString()
	if err != nil {
		return fmt.Errorf("%w; write one like \"2s\" or \"500ms\"", err)
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 10*time.Millisecond || d > time.Minute {
		return fmt.Errorf("%q is not a duration from 10ms to 1m", strict.Clip(s))
	}
	*to = d
	return nil
}

func setSize(to *int64, n strict.Node) error {
	const least = 64 << 10
	size, err := strconv.ParseInt(n.Text, 10, 64)
	if err != nil || !n.Bare || size < least || size > 1<<40 {
		return fmt.Errorf("%s is not a number of bytes from %d to %d", n.Quote(), least, int64(1)<<40)
	}
	*to = size
	return nil
}

// Limits are how far annotations may go from the Defaults: where the entry gives
// no bound, those of [podspec.DefaultLimits].
func (c Conf) Limits() podspec.Limits {
	all := podspec.DefaultLimits()
	maps.Copy(all, c.AnnotationLimits)
	return all
}

// allOthers stands for the annotations that an entry does not name.
const allOthers = "*"

func setLimits(to *podspec.Limits, n strict.Node) error {
	if n.Kind != strict.Mapping {
		return fmt.Errorf("%s is not an object of limits", n.Quote())
	}
	given, others := podspec.Limits{}, podspec.Bound(nil)
	var errs strict.Errors
	for _, f := range n.Fields {
		b, err := bound(f.Value)
		if err == nil && f.Name == allOthers {
			switch others = b; b.(type) {
			case podspec.Free, podspec.Fixed:
			default:
				err = fmt.Errorf("%s is not a limit of all annotations; write %q or %q", b, podspec.FreeWord, podspec.FixedWord)
			}
		} else if err == nil {
			given[f.Name] = b
		}
		errs.Add(strict.Under(strict.Clip(f.Name), err))
	}
	errs.Add(given.Validate())
	for _, f := range decode.Fields() {
		if _, ok := given[f.Name]; !ok && others != nil {
			given[f.Name] = others
		}
	}
	if !errs.None() {
		return errs.Err()
	}
	*to = given
	return nil
}

// bound reads one bound: a word, a number, a prefix length or a list.
func bound(n strict.Node) (podspec.Bound, error) {
	length, isLength := strings.CutPrefix(n.Text, "/")
	number, err := strconv.ParseUint(strings.TrimPrefix(n.Text, "/"), 10, 64)
	switch {
	case n.Kind == strict.List && len(n.Items) > 0:
		return boundList(n)
	case n.Kind != strict.Scalar:
	case n.Bare && err == nil && !isLength:
		return podspec.Most(number), nil
	case n.Bare:
	case isLength && err == nil && len(length) <= 3:
		return podspec.Network(number), nil
	case n.Text == podspec.FreeWord:
		return podspec.Free{}, nil
	case n.Text == podspec.FixedWord:
		return podspec.Fixed{}, nil
	case n.Text == podspec.ByPropertyWord:
		return podspec.ByProperty{}, nil
	}
	return nil, fmt.Errorf(`%s is not a limit; write %q, %q, a number, a prefix length ("/8") or a list of strings`,
		n.Quote(), podspec.FreeWord, podspec.FixedWord)
}

func boundList(n strict.Node) (podspec.Bound, error) {
	var there, not []string
	for _, item := range n.Items {
		s, err := item.AsString()
		if err != nil {
			return nil, err
		}
		if name, is := strings.CutPrefix(s, "!"); is {
			not = append(not, name)
		} else {
			there = append(there, s)
		}
	}
	switch {
	case len(not) == 0:
		return podspec.OneOf(there), nil
	case len(there) == 0:
		return podspec.NoneOf(not), nil
	}
	return nil, fmt.Errorf("%q says what there may be, and %q what there may not be; write one or the other",
		strict.Clip(there[0]), "!"+strict.Clip(not[0]))
}

// setDefaults reads a configuration. What it lacks and only annotations can
// give, such as the name servers of mode resolvconf, is judged with a pod's.
func setDefaults(to *intercept.Config, n strict.Node) error {
	layers := decode.Over(*to)
	layers.Document("", n, nil)
	c, err := layers.Done()
	if err != nil {
		return err
	}
	*to = c
	return nil
}

// WithoutPod is Defaults as far as it can be judged, and tried, without a pod:
// all lookups stand for those to name servers that only a pod has.
func (c Conf) WithoutPod() intercept.Config { return decode.WithoutPod(c.Defaults) }
