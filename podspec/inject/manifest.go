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
	"github.com/mesh-intercept/intercept/internal/yamledit"
	"github.com/mesh-intercept/intercept/podspec"
)

// workload is a kind of object that has a pod, and where.
type workload struct {
	group, kind string
	pod         []string
	job         bool
}

// workloads is the one table of kinds.
func workloads() []workload {
	template := []string{"spec", "template"}
	return []workload{
		{"", "Pod", nil, false},
		{"", "ReplicationController", template, false},
		{"apps", "Deployment", template, false},
		{"apps", "StatefulSet", template, false},
		{"apps", "DaemonSet", template, false},
		{"apps", "ReplicaSet", template, false},
		{"batch", "Job", template, true},
		{"batch", "CronJob", []string{"spec", "jobTemplate", "spec", "template"}, true},
	}
}

// Object is one object with a pod.
type Object struct {
	APIVersion, Kind, Namespace, Name string
	Result
	before, after *yaml.Node
}

// String returns the object as kubectl names it.
func (o Object) String() string {
	return strings.ToLower(o.Kind) + "/" + strings.TrimPrefix(o.Namespace+"/"+o.Name, "/")
}

// Changed reports whether the object is to be another.
func (o Object) Changed() bool { return !yamldoc.Equal(o.before, o.after) }

// Patch returns the JSON patch that makes the object what it is to be.
func (o Object) Patch() ([]yamledit.Operation, error) { return yamledit.Patch(o.before, o.after) }

// Manifests are the objects of a text. All of it but their pods stays as it is.
type Manifests struct {
	// Objects are those with a pod, in the order of the text.
	Objects []Object
	// Others are the objects without a pod that inject knows, which stay as they are: as in "Service (v1)".
	Others []string
	source string
	text   []byte
	docs   []yamledit.Doc
	edits  []yamledit.Edit
}

// Read reads a stream of objects in YAML or JSON, and injects a profile into each of
// their pods. Namespaces of the stream that say which level of Pod Security they
// enforce are heard. source names the text in errors; with any there are no Manifests.
func Read(source string, text []byte, p Profile, in Cluster) (Manifests, error) {
	return read(source, text, in, func(pod *yaml.Node, in Cluster) (Result, error) { return Inject(pod, p, in) })
}

// ReadInjected reads a stream as [Read] does, and takes out what was injected.
func ReadInjected(source string, text []byte) (Manifests, error) {
	return read(source, text, Cluster{}, func(pod *yaml.Node, _ Cluster) (Result, error) { return Remove(pod) })
}

func read(source string, text []byte, in Cluster, change func(*yaml.Node, Cluster) (Result, error)) (Manifests, error) {
	roots, err := yamldoc.Stream(text, maxDepth)
	if err != nil {
		return Manifests{}, from(source, err)
	}
	r := reader{m: Manifests{source: source, text: text}, in: in, change: change, levels: map[string]string{}}
	for _, root := range roots {
		r.namespaces(root)
	}
	for _, root := range roots {
		r.document(root)
	}
	if err := r.errs.Err(); err != nil {
		return Manifests{}, err
	}
	if r.m.edits, err = yamledit.Edits(text, r.m.docs, maxDepth); err != nil {
		return Manifests{}, from(source, err)
	}
	return r.m, nil
}

// from is an error about a text.
func from(source string, err error) error {
	if at, ok := errors.AsType[*strict.Error](err); ok {
		return &intercept.FieldError{Source: source, Field: at.Path, Line: at.Line, Err: at.Err}
	}
	return &intercept.FieldError{Source: source, Err: err}
}

// Text is the changed text.
func (m Manifests) Text() []byte {
	if len(m.edits) == 0 {
		return m.text
	}
	return yamledit.Apply(m.text, m.edits)
}

// Diff is what has changed in the text, as diff -u writes it; "" if nothing has.
func (m Manifests) Diff() string { return yamledit.Unified(m.source, m.text, m.edits) }

// YAML is all of the text as YAML, and JSON as documents of JSON, which kubectl takes.
func (m Manifests) YAML() ([]byte, error) {
	if len(m.docs) == 0 || m.docs[0].Root.Column != 0 {
		return m.Text(), nil
	}
	var all []byte
	for i, d := range m.docs {
		out, err := yamledit.Encode(d.After, true)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			all = append(all, "---\n"...)
		}
		all = append(all, out...)
	}
	return all, nil
}

// JSON is all of the text as documents of JSON, of which kubectl takes a stream.
func (m Manifests) JSON() ([][]byte, error) {
	var all [][]byte
	for _, d := range m.docs {
		out, err := yamldoc.JSON(d.After)
		if err != nil {
			return nil, err
		}
		all = append(all, out)
	}
	return all, nil
}

type reader struct {
	m      Manifests
	in     Cluster
	change func(*yaml.Node, Cluster) (Result, error)
	levels map[string]string // of Pod Security, by namespace
	errs   strict.Errors
}

// isList reports whether an object is a list of others.
func isList(n *yaml.Node) bool {
	return yamldoc.Text(yamldoc.Get(n, "kind")) == "List" && yamldoc.Text(yamldoc.Get(n, "apiVersion")) == "v1"
}

func (r *reader) namespaces(n *yaml.Node) {
	if isList(n) {
		for _, item := range yamldoc.Items(yamldoc.Get(n, "items")) {
			if !isList(item) {
				r.namespaces(item)
			}
		}
	}
	if yamldoc.Text(yamldoc.Get(n, "kind")) == "Namespace" && yamldoc.Text(yamldoc.Get(n, "apiVersion")) == "v1" {
		r.levels[yamldoc.Text(yamldoc.Get(n, "metadata", "name"))] =
			yamldoc.Text(yamldoc.Get(n, "metadata", "labels", "pod-security.kubernetes.io/enforce"))
	}
}

// document changes the objects of one document. Those that have no pod need not be
// right: nobody looks at them.
func (r *reader) document(root *yaml.Node) {
	d := yamledit.Doc{Root: root, Before: root, After: root}
	if isList(root) || find(root) != nil {
		var err error
		if d.Before, err = yamldoc.Resolve(root, maxDepth); err != nil {
			r.fail("", root, err)
			return
		}
		d.After = yamldoc.Copy(d.Before)
		r.object("", d.Before, d.After)
	} else {
		r.other(root)
		if resolved, err := yamldoc.Resolve(root, maxDepth); err == nil {
			d.Before, d.After = resolved, resolved
		}
	}
	r.m.docs = append(r.m.docs, d)
}

func (r *reader) other(n *yaml.Node) {
	r.m.Others = append(r.m.Others, strict.Clip(yamldoc.Text(yamldoc.Get(n, "kind")))+" ("+
		strict.Clip(yamldoc.Text(yamldoc.Get(n, "apiVersion")))+")")
}

// find returns the kind of an object that has a pod, or nil.
func find(n *yaml.Node) *workload {
	group, _, grouped := strings.Cut(yamldoc.Text(yamldoc.Get(n, "apiVersion")), "/")
	if !grouped {
		group = ""
	}
	for _, w := range workloads() {
		if w.group == group && w.kind == yamldoc.Text(yamldoc.Get(n, "kind")) {
			return &w
		}
	}
	return nil
}

// PodOf returns the pod of an object, or the template of the pods that it makes, and
// whether they are those of a Job. It returns nil for all other kinds.
func PodOf(object *yaml.Node) (pod *yaml.Node, job bool) {
	w := find(object)
	if w == nil {
		return nil, false
	}
	if len(w.pod) == 0 {
		return object, false
	}
	return yamldoc.Get(object, w.pod...), w.job
}

func (r *reader) object(path string, before, after *yaml.Node) {
	if isList(after) && path == "" {
		was := yamldoc.Items(yamldoc.Get(before, "items"))
		for i, item := range yamldoc.Items(yamldoc.Get(after, "items")) {
			r.object("items["+strconv.Itoa(i)+"]", was[i], item)
		}
		return
	}
	w := find(after)
	if w == nil {
		r.other(after)
		return
	}
	o := Object{
		APIVersion: yamldoc.Text(yamldoc.Get(after, "apiVersion")), Kind: w.kind,
		Namespace: yamldoc.Text(yamldoc.Get(after, "metadata", "namespace")),
		Name:      yamldoc.Text(yamldoc.Get(after, "metadata", "name")),
		before:    before, after: after,
	}
	if o.Name == "" {
		o.Name = yamldoc.Text(yamldoc.Get(after, "metadata", "generateName"))
	}
	pod := yamldoc.Get(after, w.pod...)
	if yamldoc.IsNull(pod) {
		r.fail(o.String(), after, &strict.Error{Path: strict.Join(path, strings.Join(w.pod, ".")), Line: after.Line,
			Err: errors.New("missing: there is no pod")})
		return
	}
	in := r.in
	in.Job = w.job
	if level, there := r.levels[o.Namespace]; there && in.PodSecurity == "" {
		in.PodSecurity = level
	}
	result, err := r.change(pod, in)
	if err != nil {
		r.fail(o.String(), pod, err)
		return
	}
	o.Result = result
	if len(w.pod) == 0 {
		*after = *result.Pod
	} else {
		yamldoc.Set(yamldoc.Get(after, w.pod[:len(w.pod)-1]...), w.pod[len(w.pod)-1], result.Pod)
	}
	r.m.Objects = append(r.m.Objects, o)
}

// fail adds what is wrong with an object, with the line in which it is.
func (r *reader) fail(object string, at *yaml.Node, err error) {
	for _, e := range strict.Flatten(err) {
		out := &intercept.FieldError{Source: r.m.source, Line: at.Line, Err: e}
		line := 0
		if of, ok := errors.AsType[*podspec.Error](e); ok {
			if n := yamldoc.Get(at, "metadata", "annotations", of.Annotation); n != nil {
				line = n.Line
			}
		} else if field, ok := errors.AsType[*intercept.FieldError](e); ok {
			out.Field, out.Err, line = field.Field, field.Err, field.Line
		} else if field, ok := errors.AsType[*strict.Error](e); ok {
			out.Field, out.Err, line = field.Path, field.Err, field.Line
		}
		if line > 0 {
			out.Line = line
		}
		if object == "" {
			r.errs.Add(out)
		} else {
			r.errs.Add(fmt.Errorf("%s: %w", strict.Clip(object), out))
		}
	}
}
