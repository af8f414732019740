package answer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
)

// mesh is another mesh whose annotations the CNI plugin reads, too.
type mesh struct {
	name    string
	dialect pods.Dialect
}

func meshes() []mesh {
	return []mesh{
		{"Istio", pods.Istio}, {"Linkerd", pods.Linkerd}, {"Kuma", pods.Kuma}, {"Consul", pods.Consul},
	}
}

var errNoAnnotations = errors.New("this is neither a list of annotations (NAME: VALUE, one a line) nor a pod's YAML")

func readAnnotations(s Source) (intercept.Config, []string, error) {
	doc, err := yamldoc.Document([]byte(s.Text))
	switch {
	case err != nil:
		return intercept.Config{}, nil, err
	case doc.Kind == strict.Null, doc.Kind == strict.Scalar && doc.Text == "": // an empty editor: the defaults
		return intercept.Default(), nil, nil
	case doc.Kind != strict.Mapping:
		return intercept.Config{}, nil, errNoAnnotations
	}
	for _, path := range []string{"spec.template.metadata.annotations", "metadata.annotations", "annotations"} {
		if n := doc.At(path); n.Kind == strict.Mapping {
			doc = n
			break
		}
	}
	all, lines := map[string]string{}, map[string]int{}
	for _, f := range doc.Fields {
		if f.Value.Kind == strict.Scalar {
			all[f.Name], lines[f.Name] = f.Value.Text, f.Value.Line
		}
	}
	others := slices.DeleteFunc(meshes(), func(m mesh) bool { return !pods.Mentions(m.dialect, all) })
	var c intercept.Config
	var notes []string
	switch {
	case podspec.Mentioned(all, ""):
		c, notes, err = ownAnnotations(all)
		for _, m := range others {
			notes = append(notes, "the annotations of "+m.name+" are not read: a pod has those of one mesh, and the ones of "+
				podspec.DefaultPrefix+" go first")
		}
	case len(others) > 0:
		c, notes, err = others[0].read(all)
	default:
		err = fmt.Errorf("no annotation here says how to intercept, neither one of %s nor of Istio, Linkerd, Kuma or Consul: by "+
			"itself, such a pod is not intercepted", podspec.DefaultPrefix)
	}
	if err != nil {
		return intercept.Config{}, nil, annotated{err, lines}
	}
	return decode.WithoutPod(c), notes, nil
}

// ownAnnotations reads those of [podspec.DefaultPrefix].
func ownAnnotations(all map[string]string) (intercept.Config, []string, error) {
	spec, err := podspec.ReadUnlimited(all, podspec.Options{})
	if err != nil {
		return intercept.Config{}, nil, err
	}
	if spec.Reason != podspec.Asked {
		return intercept.Config{}, nil, notIntercepted(spec.Reason)
	}
	return spec.Config, ofPod(spec), nil
}

func notIntercepted(why podspec.Reason) error {
	return errors.New("this pod is not intercepted: " + string(why))
}

// ofPod says what of a pod is not known here.
func ofPod(spec podspec.Spec) []string {
	if !spec.NameserversInPod {
		return nil
	}
	return []string{"the name servers are those of the pod's resolv.conf, which is not known here: all lookups stand for " +
		"those to them"}
}

// read reads annotations as mesh-cni reads those of a pod of the mesh.
func (m mesh) read(all map[string]string) (intercept.Config, []string, error) {
	// With Istio's init container a pod is left alone by the plugin: the page asks what the annotations say, whoever reads them.
	delete(all, pods.IstioStatus)
	a, err := pods.Read(m.dialect, pods.Pod{Annotations: all, Addresses: []netip.Addr{podIPv4, podIPv6},
		Document: yamldoc.Document})
	switch {
	case err != nil:
		return intercept.Config{}, nil, err
	case a.Reason != podspec.Asked:
		return intercept.Config{}, nil, notIntercepted(a.Reason)
	}
	notes := []string{"these are annotations of " + m.name + ", as mesh-cni reads them. What is said elsewhere, in " + m.name +
		"'s own settings and containers, is as in its defaults"}
	return a.Config, append(append(notes, a.Warnings...), ofPod(a.Spec)...), nil
}
