// Package cniconf reads the plugin mesh-cni's entry of a CNI configuration
// list: the plugin, from standard input, and the agent, which writes it.
package cniconf

import (
	"bytes"
	"encoding/json"
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
	"github.com/mesh-intercept/intercept/podspec"
)

// PluginType is the name of the plugin's binary, and the entry's type.
const PluginType = "mesh-cni"

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
	FailurePolicy     Policy
	ExcludeNamespaces []string
	// AgentSocket is where the node's agent listens. Empty: there is none.
	AgentSocket  string
	AgentTimeout time.Duration
	// AgentPod is the agent's own pod, NAMESPACE/NAME, as a glob.
	AgentPod         string
	AnnotationPrefix string
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
	set     func(*Conf, json.RawMessage) error
}

// Fields is the one table of the entry's fields that are ours.
func Fields() []Field {
	return []Field{
		{"backend", "auto|nft|iptables|iptables-nft|iptables-legacy", `"auto"`,
			"how rules get into the kernel, as mesh-init's --backend", setChoice(func(c *Conf) *dataplane.Backend { return &c.Backend }, dataplane.Backends()...)},
		{"failurePolicy", "fail|allow", `"fail"`,
			"what becomes of a pod that may be ours, if nobody can say what it asks for, or if the kernel does not take its rules; allow: it starts without them. A mistake in its annotations always fails it",
			setChoice(func(c *Conf) *Policy { return &c.FailurePolicy }, PolicyFail, PolicyAllow)},
		{"excludeNamespaces", "list of names", `["kube-system"]`,
			"Kubernetes namespaces whose pods are left alone, annotated or not",
			func(c *Conf, raw json.RawMessage) error { return setNames(&c.ExcludeNamespaces, raw, validName) }},
		{"agentSocket", "PATH", `""`,
			"UNIX socket of the node's agent, asked for the annotations if the runtime does not give them, and for a meshed pod's RuntimeClass",
			func(c *Conf, raw json.RawMessage) error { return setPath(&c.AgentSocket, raw, cniwire.MaxPath) }},
		{"agentTimeout", "DURATION", `"2s"`, "how long to wait for the agent, from 10ms to 1m",
			func(c *Conf, raw json.RawMessage) error { return setDuration(&c.AgentTimeout, raw) }},
		{"agentPod", "NAMESPACE/NAME", `"mesh-system/mesh-cni-agent-*"`,
			"the agent's own pod, left alone so that it can start; * stands for any ending",
			func(c *Conf, raw json.RawMessage) error { return setPod(&c.AgentPod, raw) }},
		{"annotationPrefix", "DNS name", `"intercept.mesh"`, "what stands before the slash of our annotations",
			func(c *Conf, raw json.RawMessage) error {
				return setString(&c.AnnotationPrefix, raw, podspec.ValidatePrefix)
			}},
		{"defaults", "configuration", `{}`,
			"the fields of mesh-init's configuration file; a pod's annotations go before them",
			func(c *Conf, raw json.RawMessage) error { return setDefaults(&c.Defaults, raw) }},
		{"runtime", "NAME", `""`,
			"the runtime of the pods that this list is for, where each has its own (containerd's cni_conf_dir of a runtime)",
			func(c *Conf, raw json.RawMessage) error { return setString(&c.Runtime, raw, validName) }},
		{"refuseRuntimes", "list of globs", `["gvisor*","runsc*","kata*"]`,
			"runtimes and RuntimeClasses that bring a network stack of their own: a pod that asks for interception fails there",
			func(c *Conf, raw json.RawMessage) error { return setNames(&c.RefuseRuntimes, raw, validGlob) }},
		{"logFile", "PATH", `"/var/log/mesh-cni/mesh-cni.log"`, "log, one JSON object a line; \"\": none",
			func(c *Conf, raw json.RawMessage) error { return setPath(&c.LogFile, raw, 4095) }},
		{"logLevel", "debug|info|warn|error", `"info"`, "debug: also of pods that are left alone",
			setChoice(func(c *Conf) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
		{"logMaxSize", "NUMBER", "10485760", "bytes at which the log is renamed to PATH.1, in place of the one before",
			func(c *Conf, raw json.RawMessage) error { return setSize(&c.LogMaxSize, raw) }},
	}
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
	// Unknown is whether nobody knows the field.
	Unknown bool
	Err     error
}

func (e *Error) Error() string { return e.Field + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Parse reads an entry, as a JSON object. All that is wrong with it is reported
// at once: the errors joined are of type [*Error]. What is returned besides has
// what could be read, and the defaults for the rest.
func Parse(data []byte) (Conf, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return Default(), &Error{Field: "the entry", Err: fmt.Errorf("not a JSON object: %w", err)}
	}
	return Read(fields)
}

// Read is [Parse] of an entry that has been taken apart.
func Read(fields map[string]json.RawMessage) (Conf, error) {
	c := Default()
	var errs []error
	known := Fields()
	for _, f := range known {
		raw, ok := fields[f.Name]
		if !ok {
			continue
		}
		for _, err := range decode.Flatten(f.set(&c, raw)) {
			errs = append(errs, &Error{Field: f.Name, Err: err})
		}
	}
	if raw, ok := fields["capabilities"]; ok {
		if err := json.Unmarshal(raw, &c.Capabilities); err != nil {
			errs = append(errs, &Error{Field: "capabilities", Err: fmt.Errorf("%s is not an object of true and false", clip(raw))})
		}
	}
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.Name
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !standard(name) && !slices.Contains(names, name) {
			errs = append(errs, &Error{name, true, fmt.Errorf("unknown field, with the value %s; %s", clip(fields[name]),
				decode.Hint(name, names, "the fields of "+PluginType+" are "+strings.Join(names, ", ")))})
		}
	}
	return c, errors.Join(errs...)
}

// clip is a value as it is quoted in an error.
func clip(raw json.RawMessage) string {
	const most = 60
	raw = bytes.TrimSpace(raw)
	if len(raw) > most {
		return strings.ToValidUTF8(string(raw[:most]), "") + "…"
	}
	return string(raw)
}

func text(raw json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is not a string", clip(raw))
	}
	return *s, nil
}

func setString(to *string, raw json.RawMessage, validate func(string) error) error {
	s, err := text(raw)
	if err == nil {
		err = validate(s)
	}
	if err != nil {
		return err
	}
	*to = s
	return nil
}

func setChoice[S ~string](to func(*Conf) *S, choices ...S) func(*Conf, json.RawMessage) error {
	return func(c *Conf, raw json.RawMessage) error {
		s, err := text(raw)
		if err != nil {
			return err
		}
		if !slices.Contains(choices, S(s)) {
			names := make([]string, len(choices))
			for i, choice := range choices {
				names[i] = string(choice)
			}
			return fmt.Errorf("%q is not one of %s", s, strings.Join(names, ", "))
		}
		*to(c) = S(s)
		return nil
	}
}

func setNames(to *[]string, raw json.RawMessage, validate func(string) error) error {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || items == nil {
		return fmt.Errorf("%s is not a list of strings", clip(raw))
	}
	list := []string{}
	var errs []error
	for _, item := range items {
		s, err := text(item)
		if err == nil {
			err = validate(s)
		}
		errs = append(errs, err)
		list = append(list, s)
	}
	if err := errors.Join(errs...); err != nil {
		return err
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

func setPod(to *string, raw json.RawMessage) error {
	return setString(to, raw, func(s string) error {
		namespace, name, ok := strings.Cut(s, "/")
		if !ok || errors.Join(validGlob(namespace), validGlob(name)) != nil {
			return fmt.Errorf("%q is not NAMESPACE/NAME", s)
		}
		return nil
	})
}

func setPath(to *string, raw json.RawMessage, most int) error {
	return setString(to, raw, func(s string) error {
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

func setDuration(to *time.Duration, raw json.RawMessage) error {
	s, err := text(raw)
	if err != nil {
		return fmt.Errorf("%w; write one like \"2s\" or \"500ms\"", err)
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 10*time.Millisecond || d > time.Minute {
		return fmt.Errorf("%q is not a duration from 10ms to 1m", s)
	}
	*to = d
	return nil
}

func setSize(to *int64, raw json.RawMessage) error {
	const least = 64 << 10
	n, err := strconv.ParseInt(string(bytes.TrimSpace(raw)), 10, 64)
	if err != nil || n < least || n > 1<<40 {
		return fmt.Errorf("%s is not a number of bytes from %d to %d", clip(raw), least, int64(1)<<40)
	}
	*to = n
	return nil
}

// setDefaults reads a configuration. What it lacks and only annotations can
// give, such as the name servers of mode resolvconf, is judged with a pod's.
func setDefaults(to *intercept.Config, raw json.RawMessage) error {
	node, err := decode.ParseJSON(raw)
	if err != nil {
		return err
	}
	c := *to
	if _, err := node.Into(&c); err != nil {
		return err
	}
	if err := withoutPod(c).Validate(); err != nil {
		return err
	}
	*to = c
	return nil
}

// WithoutPod is Defaults as far as it can be judged, and tried, without a pod:
// all lookups stand for those to name servers that only a pod has.
func (c Conf) WithoutPod() intercept.Config { return withoutPod(c.Defaults) }

func withoutPod(c intercept.Config) intercept.Config {
	if c.DNS.Mode == intercept.DNSResolvConf && len(c.DNS.Servers) == 0 {
		c.DNS.Mode = intercept.DNSAll
	}
	return c
}
