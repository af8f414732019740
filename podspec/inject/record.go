package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

const (
	probesKey    = podspec.DefaultPrefix + "/" + podspec.OriginalProbes
	injectedKey  = podspec.DefaultPrefix + "/" + podspec.Injected
	maxRecord    = 64 << 10 // bytes: more than any that we write
	containers   = "containers"
	initSequence = "initContainers"
	volumes      = "volumes"
)

// record is what was injected, as the annotation has it. By it the pod becomes again
// what it was.
type record struct {
	Profile string `json:"profile"`
	// Names of what was added.
	InitContainers []string `json:"initContainers,omitempty"`
	Containers     []string `json:"containers,omitempty"`
	Volumes        []string `json:"volumes,omitempty"`
	Annotations    []string `json:"annotations,omitempty"`
	// Replaced are annotations of the pod that have another value now, with their own.
	Replaced map[string]string `json:"replaced,omitempty"`
	// Merged are the pod's own containers that sidecars have taken in.
	Merged []merged `json:"merged,omitempty"`
}

type merged struct {
	List      string          `json:"list"`
	Index     int             `json:"index"`
	Container json.RawMessage `json:"container"`
}

// added are the names of the containers that a record lists. One that cannot be read lists none.
func added(text string) []string {
	var r record
	if len(text) > maxRecord || json.Unmarshal([]byte(text), &r) != nil {
		return nil
	}
	return slices.Concat(r.InitContainers, r.Containers)
}

// strip takes from a pod what was injected.
func strip(pod *yaml.Node) error {
	annotations := yamldoc.Get(pod, "metadata", "annotations")
	n := yamldoc.Get(annotations, injectedKey)
	if n == nil {
		return nil
	}
	var r record
	text := yamldoc.Text(n)
	if len(text) > maxRecord {
		return fieldError("metadata.annotations."+injectedKey, n, "%d bytes, which is more than was written", len(text))
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fieldError("metadata.annotations."+injectedKey, n, "it cannot be read (%w); take it out, and what was "+
			"injected", err)
	}
	spec := yamldoc.Get(pod, "spec")
	if err := restore(spec, annotations); err != nil {
		return err
	}
	remove(spec, initSequence, r.InitContainers)
	remove(spec, containers, r.Containers)
	remove(spec, volumes, r.Volumes)
	for _, name := range append(r.Annotations, injectedKey) {
		yamldoc.Delete(annotations, name)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Replaced)) {
		if annotations != nil && yamldoc.Get(annotations, name) != nil {
			yamldoc.Set(annotations, name, yamldoc.String(r.Replaced[name]))
		}
	}
	for _, m := range slices.Backward(r.Merged) {
		c, err := yamldoc.FromJSON(m.Container, maxDepth)
		if err != nil || m.List != containers && m.List != initSequence {
			return fieldError("metadata.annotations."+injectedKey, n, "it names no container of %q; take it out, and what "+
				"was injected", m.List)
		}
		list := sequence(spec, m.List)
		at := min(max(m.Index, 0), len(list.Content))
		list.Content = slices.Insert(list.Content, at, c)
	}
	for _, key := range []string{initSequence, volumes} {
		deleteEmpty(spec, key)
	}
	deleteEmpty(yamldoc.Get(pod, "metadata"), "annotations")
	deleteEmpty(pod, "metadata")
	return nil
}

// restore puts the probes back that the relay carries out. One whose original is not in the annotation is an error.
func restore(spec, annotations *yaml.Node) error {
	n := yamldoc.Get(annotations, probesKey)
	kept, err := probes.ParseOriginals(yamldoc.Text(n))
	if err != nil {
		return fieldError("metadata.annotations."+probesKey, n, "%w; take the annotation out, and write the probes again that "+
			"ask the relay", err)
	}
	yamldoc.Delete(annotations, probesKey)
	for _, list := range []string{initSequence, containers} {
		for _, c := range yamldoc.Items(yamldoc.Get(spec, list)) {
			if err := probes.Restore(c, kept); err != nil {
				return probeErrors(c, err)
			}
		}
	}
	return nil
}

// probeErrors are those of package probes about a container.
func probeErrors(c *yaml.Node, err error) error {
	var all []error
	for _, e := range strict.Flatten(err) {
		at, ok := errors.AsType[*probes.Error](e)
		if !ok {
			at = &probes.Error{Err: e}
		}
		all = append(all, &strict.Error{Path: strict.Join("container "+strict.Clip(nameOf(c)), at.Path), Line: at.Line,
			Err: at.Err})
	}
	return errors.Join(all...)
}

// deleteEmpty takes away what has no content any more.
func deleteEmpty(n *yaml.Node, key string) {
	if v := yamldoc.Get(n, key); v != nil && len(v.Content) == 0 {
		yamldoc.Delete(n, key)
	}
}

func remove(spec *yaml.Node, key string, names []string) {
	if list := yamldoc.Get(spec, key); list != nil {
		list.Content = slices.DeleteFunc(list.Content, func(n *yaml.Node) bool { return slices.Contains(names, nameOf(n)) })
	}
}

// write puts the record into a pod's annotations.
func (r record) write(annotations *yaml.Node) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", injectedKey, err)
	}
	yamldoc.Set(annotations, injectedKey, yamldoc.String(string(text)))
	return nil
}

// sequence returns a list of a mapping, which is made where there is none.
func sequence(n *yaml.Node, key string) *yaml.Node { return child(n, key, yamldoc.List) }

// mapping returns a mapping of a mapping, which is made where there is none.
func mapping(n *yaml.Node, key string) *yaml.Node { return child(n, key, yamldoc.Map) }

func child(n *yaml.Node, key string, empty func(...*yaml.Node) *yaml.Node) *yaml.Node {
	c := yamldoc.Get(n, key)
	if yamldoc.IsNull(c) {
		c = empty()
		yamldoc.Set(n, key, c)
	}
	return c
}
