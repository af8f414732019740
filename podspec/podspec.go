// Package podspec reads what a pod's annotations ask of interception.
//
// The annotations stand under a prefix, mostly [DefaultPrefix]:
// intercept.mesh/enabled says whether the pod's connections are intercepted at
// all, intercept.mesh/config is a whole configuration as JSON, and each field
// of one has an annotation named like mesh-init's flag for it. [Annotations]
// lists all.
package podspec

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// DefaultPrefix is what stands before the slash of our annotations.
const DefaultPrefix = "intercept.mesh"

// Names of annotations, after the slash, that are no field of a configuration.
const (
	Enabled      = "enabled"
	ConfigField  = "config"
	Init         = "init"
	RuntimeClass = "runtime-class"
)

// Names of annotations, after the slash, that whoever injects the sidecar reads
// (package podspec/inject). A pod that has no others asks nobody else for anything.
const (
	// Inject is also the name of a label.
	Inject = "inject"
	// Profile is also the name of a label of namespaces.
	Profile             = "profile"
	SidecarResources    = "sidecar-resources"
	SidecarVolumes      = "sidecar-volumes"
	SidecarVolumeMounts = "sidecar-volume-mounts"
	// Injected is what was injected, for who takes it out again.
	Injected = "injected"
	// OriginalProbes is that of package podspec/probes.
	OriginalProbes = "original-probes"
)

const (
	initContainer = "container" // the value of Init
	strictly      = "strict"    // a value of Enabled
)

// Reason says why a pod is intercepted, or why not, in a word or two.
type Reason string

// The reasons.
const (
	Asked         Reason = "enabled"        // it is intercepted
	NotAnnotated  Reason = "not annotated"  // it has none of our annotations
	Disabled      Reason = "disabled"       // enabled is false
	InitContainer Reason = "init container" // one of its containers sees to it
)

// Options say how to read a pod's annotations.
type Options struct {
	// Prefix of the annotations. Empty: DefaultPrefix.
	Prefix string
	// Defaults is the configuration that annotations are laid over. The zero
	// Config stands for [intercept.Default].
	Defaults intercept.Config
	// Limits are how far annotations may go from the Defaults. Nil: as far as they
	// like, as where whoever writes them may decide all; see [DefaultLimits].
	Limits Limits
	// Nameservers are the pod's own, where they are known: those of mode
	// resolvconf, if no annotation names any.
	Nameservers []netip.Addr
	// NeedNameservers makes it an error if mode resolvconf has none. It is for
	// who puts the rules in force from outside the pod. Otherwise mesh-init finds
	// them in the pod's resolv.conf, and the Spec says so.
	NeedNameservers bool
}

// Spec is what a pod asks for.
type Spec struct {
	// Reason is [Asked] if the pod is to be intercepted.
	Reason Reason
	// Strict is whether the pod must not start without its rules, whatever the
	// failure policy.
	Strict bool
	// Config is how to intercept. It is valid if the Reason is [Asked], but for
	// the name servers where NameserversInPod is set.
	Config intercept.Config
	// NameserversInPod is whether the configuration has mode resolvconf and no
	// name servers, because they stand in the pod's resolv.conf: mesh-init reads
	// them there when it gets this configuration.
	NameserversInPod bool
	// RuntimeClass is what the annotation of that name says.
	RuntimeClass string
}

// Error is one thing wrong with a pod's annotations.
type Error struct {
	// Annotation is the whole name, with its prefix, or empty where no one
	// annotation is to blame.
	Annotation string
	Err        error
}

func (e *Error) Error() string {
	if e.Annotation == "" {
		return e.Err.Error()
	}
	return "annotation " + e.Annotation + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Annotation describes one annotation.
type Annotation struct {
	Name    string // after the slash
	Form    string // what stands for its value
	Field   string // of the configuration, as in JSON
	Initial string
	Meaning string
}

// Annotations is the table of all annotations: our own, and one a field.
func Annotations() []Annotation {
	all := own()
	for _, f := range decode.Fields() {
		form := f.Form
		if f.IsSwitch() {
			form = "true|false"
		}
		all = append(all, Annotation{f.Name, form, f.Path, f.Initial, f.Meaning()})
	}
	return all
}

// own are the annotations that are no field of a configuration.
func own() []Annotation {
	return []Annotation{
		{Enabled, "true|false|strict", "", "false", "intercept the pod's connections; strict: the pod does not start " +
			"without its rules even where failurePolicy is allow"},
		{ConfigField, "JSON", "", "", "a whole configuration, with the fields of mesh-init's configuration file; the " +
			"annotations below go before it"},
		{Init, initContainer, "", "",
			"set by an injector that adds an init container which intercepts: the plugin then leaves " +
				"the pod to it"},
		{RuntimeClass, "NAME", "", "", "set by the sidecar's injector: the pod's spec.runtimeClassName, which a " +
			"container runtime does not tell a plugin"},
		{Inject, "true|false", "", "", "whether mesh-init inject, or the webhook, adds the sidecar; also a label"},
		{Profile, "NAME", "", "", "which profile the webhook injects (docs/injector.md)"},
		{SidecarResources, "JSON", "", "",
			`resources of the sidecar's containers: {"haproxy": {"limits": {"memory": "256Mi"}}}`},
		{SidecarVolumes, "JSON", "", "", "more volumes of the pod, for the sidecar: a list"},
		{SidecarVolumeMounts, "JSON", "", "", `where the sidecar's containers have them: {"haproxy": [{"name": "certs", ` +
			`"mountPath": "/certs"}]}`},
		{OriginalProbes, "JSON", "", "", "set by mesh-init inject: the probes that the relay carries out"},
		{Injected, "JSON", "", "", "set by mesh-init inject: what it has added, to be replaced or taken out again"},
	}
}

// ofInjector reports whether an annotation is read by who injects alone.
func ofInjector(name string) bool {
	switch name {
	case Inject, Profile, SidecarResources, SidecarVolumes, SidecarVolumeMounts, Injected, OriginalProbes:
		return true
	}
	return false
}

// Read says what annotations ask for. All that is wrong with them is reported
// at once: the errors joined are of type [*Error]. Of a pod that is not to be
// intercepted no annotation is read but those that say so.
func Read(annotations map[string]string, o Options) (Spec, error) {
	return read(annotations, o, o.Limits.judge)
}

// ReadUnlimited is [Read] without the Limits.
func ReadUnlimited(annotations map[string]string, o Options) (Spec, error) {
	return read(annotations, o, nil)
}

// read has the judge of what annotations may ask for, if there is one, as a value: so
// that who has none does not link it.
func read(annotations map[string]string, o Options, judge func(defaults, c intercept.Config) error) (Spec, error) {
	defaults := o.Defaults
	if reflect.ValueOf(defaults).IsZero() {
		defaults = intercept.Default()
	}
	r := reader{prefix(o.Prefix), annotations, decode.Over(defaults)}
	r.layers.Name = func(f decode.Field) string { return r.name(f.Name) }
	if judge != nil {
		r.layers.Also = func(c intercept.Config) error { return judge(defaults, c) }
	}
	return r.read(o)
}

// Declined returns [Disabled] or [InitContainer] if annotations say that the pod
// is not to be intercepted, or "". Nothing else of them is read.
func Declined(annotations map[string]string, under string) Reason {
	enabled, given := annotations[prefix(under)+"/"+Enabled]
	switch {
	case strict.Tidy(enabled) == "false":
		return Disabled
	case !given && strict.Tidy(annotations[prefix(under)+"/"+Inject]) == "false": // it has no sidecar
		return Disabled
	case strict.Tidy(annotations[prefix(under)+"/"+Init]) == initContainer:
		return InitContainer
	}
	return ""
}

// MayAsk reports whether any annotation, of whatever prefix, is one that asks
// for interception. It is for callers that do not know the prefix.
func MayAsk(annotations map[string]string) bool {
	for name, value := range annotations {
		if strings.HasSuffix(name, "/"+Enabled) {
			if value = strict.Tidy(value); value == "true" || value == strictly {
				return true
			}
		}
	}
	return false
}

// IsStrict reports whether annotations say that the pod must not start without its
// rules. Nothing else of them is read.
func IsStrict(annotations map[string]string, under string) bool {
	return strict.Tidy(annotations[prefix(under)+"/"+Enabled]) == strictly
}

// Mentioned reports whether any annotation stands under the prefix, other than those
// that are for who injects the sidecar.
func Mentioned(annotations map[string]string, under string) bool {
	for name := range annotations {
		if own, ok := strings.CutPrefix(name, prefix(under)+"/"); ok && !ofInjector(own) {
			return true
		}
	}
	return false
}

// ValidatePrefix reports why a prefix cannot be that of annotations: it has to
// be a DNS subdomain (Kubernetes, "Annotations: syntax and character set").
func ValidatePrefix(s string) error {
	bad := s == "" || len(s) > 253
	for label := range strings.SplitSeq(s, ".") {
		bad = bad || label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-")
	}
	if bad {
		return fmt.Errorf("%q is not a prefix of annotations; write a DNS name in small letters, such as %s",
			s, DefaultPrefix)
	}
	return nil
}

func prefix(s string) string {
	if s == "" {
		return DefaultPrefix
	}
	return s
}

// reader reads one pod's annotations and collects everything that is wrong.
type reader struct {
	prefix string
	all    map[string]string
	layers *decode.Layers
}

func (r *reader) name(of string) string { return r.prefix + "/" + of }

func (r *reader) get(of string) (string, bool) {
	v, ok := r.all[r.name(of)]
	return v, ok
}

func (r *reader) fail(annotation string, err error) { r.layers.Errs.Add(&Error{annotation, err}) }

func (r *reader) read(o Options) (Spec, error) {
	if !Mentioned(r.all, r.prefix) {
		return Spec{Reason: NotAnnotated}, nil
	}
	if reason := Declined(r.all, r.prefix); reason != "" {
		return Spec{Reason: reason}, nil
	}
	spec := r.own()
	if text, ok := r.get(ConfigField); ok {
		doc, err := strict.ParseJSON([]byte(text))
		r.layers.Document(r.name(ConfigField), doc, err)
	}
	for _, f := range decode.Fields() {
		for _, name := range slices.Backward(f.Names()) { // the deprecated first
			if text, ok := r.get(name); ok {
				r.layers.Text(r.name(name), f, text)
			}
		}
	}
	r.unknown()
	if r.layers.NeedsServers() {
		switch {
		case len(o.Nameservers) > 0:
			r.layers.Servers(o.Nameservers)
		case o.NeedNameservers:
			r.layers.ServersUnreadable(r.name("dns"), errors.New("resolvconf, but the pod's name servers are not known here: "+
				"the runtime gives them to a plugin that declares the capability dns; "+
				"name them with "+r.name("dns-servers")+", or write all"))
		default:
			spec.NameserversInPod = true
		}
	}
	config, err := r.layers.Done()
	if err != nil {
		return Spec{}, annotationErrors(err)
	}
	spec.Config = config
	return spec, nil
}

// own reads the annotations that are no field of a configuration.
func (r *reader) own() Spec {
	enabled, given := r.get(Enabled)
	enabled = strict.Tidy(enabled)
	if by, ok := r.get(Init); ok {
		r.fail(r.name(Init), fmt.Errorf("%q is not %s; leave the annotation out if no init container intercepts",
			by, initContainer))
	}
	spec := Spec{Reason: Asked, Strict: enabled == strictly}
	switch {
	case !given:
		r.fail(r.name(Enabled), fmt.Errorf("missing beside %s; write %q to intercept the pod, or %q (who injects the "+
			"sidecar writes it: has this pod been injected?)", r.first(), "true", "false"))
	case enabled != "true" && !spec.Strict:
		r.fail(r.name(Enabled), fmt.Errorf("%q is not one of true, false, strict", enabled))
	}
	if class, ok := r.get(RuntimeClass); ok {
		spec.RuntimeClass = strict.Tidy(class)
		if spec.RuntimeClass == "" {
			r.fail(r.name(RuntimeClass), fmt.Errorf("empty value %q; write the name of the pod's RuntimeClass, or leave the "+
				"annotation out", class))
		}
	}
	return spec
}

// first is an annotation of ours that is there.
func (r *reader) first() string {
	for _, name := range slices.Sorted(maps.Keys(r.all)) {
		if own, ok := strings.CutPrefix(name, r.prefix+"/"); ok && !ofInjector(own) {
			return name
		}
	}
	return ""
}

// unknown refuses annotations of our prefix that nobody reads.
func (r *reader) unknown() {
	var known []string
	for _, a := range own() {
		known = append(known, a.Name)
	}
	for _, f := range decode.Fields() {
		known = append(known, f.Names()...)
	}
	for _, name := range slices.Sorted(maps.Keys(r.all)) {
		own, ok := strings.CutPrefix(name, r.prefix+"/")
		switch {
		case !ok || slices.Contains(known, own):
		case r.layers.Errs.Full():
			r.layers.Errs.Omit()
		default:
			r.fail(name, fmt.Errorf("unknown annotation; %s", strict.Hint(own, known, "docs/cni.md lists those there are")))
		}
	}
}

// annotationErrors makes an Error of each.
func annotationErrors(err error) error {
	var errs []error
	for _, e := range strict.Flatten(err) {
		if _, is := errors.AsType[*Error](e); !is {
			source, rest := decode.Split(e)
			e = &Error{source, rest}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
