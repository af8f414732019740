package inject

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

// Cluster is what has to be known of where a pod will run. The zero Cluster is one of
// a current version, without Pod Security.
type Cluster struct {
	// Minor is the minor version of Kubernetes: 29 of 1.29. Zero: a current one.
	Minor int
	// PodSecurity is the level that the pod's namespace enforces (its label
	// pod-security.kubernetes.io/enforce). Empty: none.
	PodSecurity string
	// Job is whether the pod belongs to a Job.
	Job bool
}

// nativeSidecars is the minor version from which init containers can be restarted
// always without a feature gate.
const nativeSidecars = 29

// oldest is the minor version that has what sidecars need: startup probes.
const oldest = 20

// ParseVersion reads a version of Kubernetes, such as 1.28 or v1.28.3, and returns its
// minor version.
func ParseVersion(text string) (minor int, err error) {
	major, rest, _ := strings.Cut(strings.TrimPrefix(text, "v"), ".")
	digits, _, _ := strings.Cut(rest, ".")
	n, err := strconv.ParseUint(digits, 10, 16)
	switch {
	case major != "1" || err != nil:
		return 0, fmt.Errorf("%q is not a version; write one such as 1.28", strict.Clip(text))
	case n < oldest:
		return 0, fmt.Errorf("%q has no startup probes, which sidecars need; write one from 1.%d on", strict.Clip(text), oldest)
	}
	return int(n), nil
}

func (c Cluster) native() bool { return c.Minor == 0 || c.Minor >= nativeSidecars }

// Result is what became of a pod.
type Result struct {
	// Pod is the pod as it is to be. The one that was given is unchanged.
	Pod *yaml.Node
	// Skipped says why nothing was injected. Empty: something was.
	Skipped string
	// SkippedBy is a word for that, which never changes: declined, disabled, init-container,
	// host-network, windows, mirror, or, of [Remove], removed.
	SkippedBy string
	// Mode is who writes the rules: ModeInit or ModeCNI.
	Mode Mode
	// Changes are what was done, and why.
	Changes []Change
	// Warnings are what somebody should know.
	Warnings []string
}

// Change is one thing that was done to a pod.
type Change struct{ What, Why string }

func fieldError(path string, n *yaml.Node, format string, args ...any) error {
	e := &strict.Error{Path: path, Err: fmt.Errorf(format, args...)}
	if n != nil {
		e.Line = n.Line
	}
	return e
}

// Inject adds a profile's sidecar to a pod: a mapping with metadata and spec, as a Pod
// or a template has them. The errors joined are of type [*intercept.FieldError], or of
// type [*podspec.Error] where an annotation is to blame; with any of them there is no
// Result.
func Inject(pod *yaml.Node, p Profile, in Cluster) (Result, error) {
	i, err := begin(pod, in)
	if err != nil {
		return Result{}, fieldErrors(err)
	}
	i.p = p
	if i.SkippedBy, i.Skipped = i.skip(); i.Skipped != "" {
		return i.Result, nil
	}
	if name := i.get(podspec.Profile); name != "" && name != p.Name {
		i.warn("it gets profile %s, and its annotation %s/%s names %s", p.Name, podspec.DefaultPrefix, podspec.Profile,
			strict.OneLine(strict.Clip(name)))
	}
	if annotations := yamldoc.Get(i.Pod, "metadata", "annotations"); yamldoc.Get(annotations, probesKey) != nil {
		i.errs.Add(restore(i.spec, annotations)) // they were moved without the rest of an injection
	}
	i.config()
	i.check()
	if err := i.errs.Err(); err != nil {
		return Result{}, fieldErrors(err)
	}
	i.assemble()
	if err := i.errs.Err(); err != nil {
		return Result{}, fieldErrors(err)
	}
	return i.Result, nil
}

// Skipped says why a pod is left alone whatever the profile, as the fields SkippedBy and
// Skipped of a [Result] do. Both are empty if it is not.
func Skipped(pod *yaml.Node) (by, says string) {
	i, err := begin(pod, Cluster{})
	if err != nil {
		return "", ""
	}
	return i.skip()
}

// Remove takes from a pod what Inject has added.
func Remove(pod *yaml.Node) (Result, error) {
	i, err := begin(pod, Cluster{})
	if err != nil {
		return Result{}, fieldErrors(err)
	}
	i.SkippedBy, i.Skipped = "removed", "what was injected is taken out"
	return i.Result, nil
}

func fieldErrors(err error) error {
	var all []error
	for _, e := range strict.Flatten(err) {
		if at, ok := e.(*strict.Error); ok { //nolint:errorlint // not one that an annotation's error is around
			e = &intercept.FieldError{Field: at.Path, Line: at.Line, Err: at.Err}
		}
		all = append(all, e)
	}
	return errors.Join(all...)
}

// injection is what is known while one pod is changed.
type injection struct {
	Result
	p           Profile
	in          Cluster
	errs        strict.Errors
	spec        *yaml.Node
	annotations map[string]string
	rules       intercept.Config
	relayed     probes.Set
	originals   probes.Originals
	record      record
}

// begin reads a pod, and takes out what was injected before.
func begin(pod *yaml.Node, in Cluster) (*injection, error) {
	i := &injection{in: in, annotations: map[string]string{}}
	if pod.Kind == yaml.DocumentNode && len(pod.Content) == 1 {
		pod = pod.Content[0]
	}
	resolved, err := yamldoc.Resolve(pod, maxDepth)
	if err != nil {
		return nil, err
	}
	i.Pod = resolved
	var errs strict.Errors
	types := schema{}
	types.read(ownText, "", ":")
	types.check(&errs, "", "Pod", resolved)
	if i.spec = yamldoc.Get(resolved, "spec"); errs.None() && len(yamldoc.Items(yamldoc.Get(i.spec, containers))) == 0 {
		errs.Add(fieldError("spec.containers", resolved, "none; a pod has one at least"))
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	if err := strip(resolved); err != nil {
		return nil, err
	}
	annotations := yamldoc.Get(resolved, "metadata", "annotations")
	for k := 0; annotations != nil && k+1 < len(annotations.Content); k += 2 {
		key, v := annotations.Content[k].Value, annotations.Content[k+1]
		if strings.HasPrefix(key, podspec.DefaultPrefix+"/") && (v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str") {
			errs.Add(fieldError("metadata.annotations."+key, v, "%s is not a text; write it in quotes", strict.Clip(v.Value)))
		}
		i.annotations[key] = yamldoc.Text(v)
	}
	return i, errs.Err()
}

func (i *injection) get(name string) string {
	return strict.Tidy(i.annotations[podspec.DefaultPrefix+"/"+name])
}

// skip says why a pod is left alone, in a word and in a sentence.
func (i *injection) skip() (by, says string) {
	wanted, label := i.get(podspec.Inject), yamldoc.Get(i.Pod, "metadata", "labels",
		podspec.DefaultPrefix+"/"+podspec.Inject)
	where := "annotation"
	if wanted == "" && label != nil {
		wanted, where = yamldoc.Text(label), "label"
	}
	text := func(path ...string) string { return yamldoc.Text(yamldoc.Get(i.spec, path...)) }
	switch declined := podspec.Declined(i.annotations, ""); {
	case wanted != "" && wanted != "true" && wanted != "false" && where == "label":
		i.errs.Add(fieldError("metadata.labels."+podspec.DefaultPrefix+"/"+podspec.Inject, label,
			"%q is not one of true, false", strict.Clip(wanted)))
		return "", ""
	case wanted != "" && wanted != "true" && wanted != "false":
		i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/" + podspec.Inject,
			Err: fmt.Errorf("%q is not one of true, false", strict.Clip(wanted))})
		return "", ""
	case wanted == "false":
		return "declined", "its " + where + " " + podspec.DefaultPrefix + "/" + podspec.Inject + " is false"
	case declined == podspec.Disabled:
		return "disabled", "its annotation " + podspec.DefaultPrefix + "/" + podspec.Enabled + " is false"
	case declined == podspec.InitContainer:
		return "init-container", "another init container of it intercepts: its annotation " + podspec.DefaultPrefix + "/" + podspec.Init
	case text("hostNetwork") == "true":
		return "host-network", "it shares the node's network (hostNetwork)"
	case text("os", "name") == "windows" || text("nodeSelector", "kubernetes.io/os") == "windows":
		return "windows", "it runs on Windows"
	case i.annotations["kubernetes.io/config.mirror"] != "":
		return "mirror", "it is the mirror of a static pod, which the API server does not run"
	}
	return "", ""
}

func (i *injection) did(what, why string) { i.Changes = append(i.Changes, Change{what, why}) }

func (i *injection) warn(format string, args ...any) {
	i.Warnings = append(i.Warnings, fmt.Sprintf(format, args...))
}
