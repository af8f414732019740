// Package pods reads what the pods of other meshes say of interception: each mesh's injector writes annotations of its
// own, from which its CNI plugin makes the rules. What is read is put as the command line of the mesh's own program, so
// that a pod gets the same by the plugin as by an init container.
package pods

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// Dialect is whose annotations are read.
type Dialect string

// The dialects.
const (
	Intercept Dialect = "intercept" // our own, which package podspec reads
	Istio     Dialect = "istio"
	Linkerd   Dialect = "linkerd"
	Kuma      Dialect = "kuma"
	Consul    Dialect = "consul"
)

// Dialects are all there are.
func Dialects() []Dialect { return []Dialect{Intercept, Istio, Linkerd, Kuma, Consul} }

// Pod is what a dialect looks at.
type Pod struct {
	Annotations map[string]string
	Labels      map[string]string
	// Containers are those of the pod that a mesh has injected ([ContainerNames]).
	Containers []Container
	// Known is whether Labels and Containers are known. A container runtime gives a plugin annotations alone.
	Known bool
	// Addresses are the pod's. AnyPod is true if they are such as most have, and nobody knows the pod's own.
	Addresses []netip.Addr
	AnyPod    bool
	// Document reads the annotations of [Documents], as in peers.World. Nil: they are JSON, as the agent makes them.
	Document func([]byte) (strict.Node, error)
}

// Documents are the annotations that hold YAML.
func Documents() []string { return []string{istioConfig, kumaConfig} }

func (p Pod) document(text []byte) (strict.Node, error) {
	if p.Document != nil {
		return p.Document(text)
	}
	n, err := strict.ParseJSON(text)
	if err != nil {
		err = fmt.Errorf("it is YAML, which the plugin cannot read; with an agentSocket, the agent makes JSON of it: %w", err)
	}
	return n, err
}

// Container is a container that a mesh has injected.
type Container = cniwire.Container

// ContainerNames are the containers that dialects look at, and Variables the variables of theirs.
func ContainerNames() []string {
	return []string{istioProxy, istioInit, linkerdProxy, linkerdInit, kumaInit, consulInit}
}

// Variables are the environment variables of those containers that dialects look at.
func Variables() []string {
	return []string{dnsCaptureVar, dualStackVar, invalidDropVar, disableEnvoyVar}
}

func (p Pod) container(name string) (Container, bool) {
	i := slices.IndexFunc(p.Containers, func(c Container) bool { return c.Name == name })
	if i < 0 {
		return Container{}, false
	}
	return p.Containers[i], true
}

// has reports whether a container of that name is there.
func (p Pod) has(name string) bool {
	_, ok := p.container(name)
	return ok
}

// Answer is what a pod asks for.
type Answer struct {
	podspec.Spec
	// Warnings are what is accepted without an effect, and what is left outside the mesh as the peer leaves it.
	Warnings []string
}

// NoProxy is why a pod is left alone into which no proxy was injected.
const NoProxy podspec.Reason = "no proxy"

// leftAlone is the answer for a pod that is not to be intercepted.
func leftAlone(why podspec.Reason) Answer { return Answer{Spec: podspec.Spec{Reason: why}} }

// asked is the answer for one that is.
func asked(c intercept.Config, warnings []string) Answer {
	return Answer{podspec.Spec{Reason: podspec.Asked, Config: c}, warnings}
}

// dialect is how the pods of one mesh are read.
type dialect struct {
	// claims reports whether a pod is the mesh's, by its annotations.
	claims func(annotations map[string]string) bool
	read   func(Pod) (Answer, error)
	// domain is what all prefixes of the mesh's annotations and labels are, or end in.
	domain string
}

// dialects is the one table of them.
func dialects() map[Dialect]dialect {
	return map[Dialect]dialect{
		Istio:   {given(IstioStatus), readIstio, "istio.io"},
		Linkerd: {given(linkerdVersion), readLinkerd, "linkerd.io"},
		Kuma:    {saying(kumaInjected, "true", "enabled"), readKuma, "kuma.io"},
		Consul:  {consulClaims, readConsul, "consul.hashicorp.com"},
	}
}

// Claims returns the first of the dialects of whose mesh a pod is by its annotations, or "". prefix is that of our own.
func Claims(among []Dialect, prefix string, annotations map[string]string) Dialect {
	all := dialects()
	for _, d := range among {
		claims := all[d].claims
		if d == Intercept && podspec.Mentioned(annotations, prefix) || claims != nil && claims(annotations) {
			return d
		}
	}
	return ""
}

// Mentions reports whether names of annotations or labels are of another mesh's, whatever they say.
func Mentions(d Dialect, names map[string]string) bool {
	domain := dialects()[d].domain
	for name := range names {
		prefix, _, _ := strings.Cut(name, "/")
		if domain != "" && (prefix == domain || strings.HasSuffix(prefix, "."+domain)) {
			return true
		}
	}
	return false
}

// Read says what a pod of a mesh asks for. The errors joined are of type [*podspec.Error].
func Read(d Dialect, p Pod) (Answer, error) {
	read := dialects()[d].read
	if read == nil {
		return Answer{}, fmt.Errorf("no dialect %q", d)
	}
	return read(p)
}

func given(name string) func(map[string]string) bool {
	return func(annotations map[string]string) bool {
		_, ok := annotations[name]
		return ok
	}
}

func saying(name string, values ...string) func(map[string]string) bool {
	return func(annotations map[string]string) bool { return slices.Contains(values, annotations[name]) }
}

// line makes a command line of annotations, and collects what is wrong with them.
type line struct {
	pod  Pod
	args []string
	errs strict.Errors
}

// kind is what the value of an annotation has to be.
type kind func(text string) error

func ports(text string) error {
	_, err := intercept.ParsePorts(text)
	return err
}

func cidrs(text string) error {
	_, err := intercept.ParseCIDRs(text)
	return err
}

func switchValue(text string) error {
	if text != "true" && text != "false" {
		return fmt.Errorf("%q is not true or false", strict.Clip(text))
	}
	return nil
}

// withoutStar refuses "all", where it would mean to leave everything alone.
func withoutStar(of kind) kind {
	return func(text string) error {
		if text == "*" {
			return errors.New("it would leave everything outside the mesh; take the pod out of the mesh instead")
		}
		return of(text)
	}
}

// add adds text as a word of the command line, if text is not empty and is what it has to be.
func (l *line) add(flag, text, from string, of kind) {
	if text == "" {
		return
	}
	if of != nil {
		if err := of(text); err != nil {
			l.errs.Add(&podspec.Error{Annotation: from, Err: err})
			return
		}
	}
	l.args = append(l.args, flag+"="+text)
}

// run reads the command line by the reader of the mesh's program.
func (l *line) run(parse func([]string, peers.World) (peers.Request, error), read func(string) ([]byte, error)) (Answer,
	error) {
	if !l.errs.None() {
		return Answer{}, l.errs.Err()
	}
	r, err := parse(l.args, peers.World{
		ReadFile:  read,
		Document:  l.pod.document,
		Addresses: func(dataplane.Pod) ([]netip.Addr, error) { return l.pod.Addresses, nil },
		AnyPod:    l.pod.AnyPod,
	})
	if err != nil {
		return Answer{}, &podspec.Error{Err: err}
	}
	return asked(r.Config, r.Warnings), nil
}

// noFile is for command lines that name no file.
func noFile(name string) ([]byte, error) {
	return nil, fmt.Errorf("a plugin reads no file of the pod's, and so not %s", name)
}

// joinLists joins lists of which each item may be written with spaces.
func joinLists(lists ...string) string {
	var items []string
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	}
	return strings.Join(items, ",")
}
