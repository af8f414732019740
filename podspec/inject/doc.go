// Package inject adds a sidecar to a pod, and what sends the pod's traffic through
// it. What the sidecar is, a [Profile] says: any proxy, with a resolver or without.
// [Inject] is a pure function of a pod, a profile and what is known of the cluster;
// [Read] does it for all pods in a stream of manifests.
//
// Injecting twice is injecting once: what was injected stands in the annotation
// intercept.mesh/injected, is taken out first, and nothing else is.
package inject

import (
	_ "embed" // for the table of fields
	"strings"
)

// fieldsText are the fields that containers and volumes have in Kubernetes, one type
// a line: its name, and FIELD:TYPE of each. A test writes it from Kubernetes' own
// types.
//
//go:embed fields.txt
var fieldsText string

// ownText has, in the same form, the types that are ours, and what of a pod is looked
// at. A field * stands for all others, and a type with ? may be null.
const ownText = `
Profile name:string mode:string config:any init:Container sidecars:[]Container volumes:[]Volume files:{}string ` +
	`resolver:string relay:string holdApplicationUntilProxyStarts:{}[]string
Pod metadata:PodMeta? spec:PodSpec *:any
PodMeta annotations:{}any? labels:{}any? *:any
PodSpec containers:[]Named initContainers:[]Named? ephemeralContainers:[]Named? volumes:[]Named? ` +
	`securityContext:{}any? *:any
Named name:string *:any
`

// schema has the fields' types, by type and name, and under boundsOf the rules for them.
type schema map[string]map[string]string

// boundsOf is before the name of a type whose rules are meant.
const boundsOf = "!"

func readSchema() schema {
	s := schema{}
	s.read(fieldsText+ownText, "", ":")
	s.read(bounds, boundsOf, "=!")
	return s
}

// read adds the types of a text, or, with a prefix, the rules for them.
func (s schema) read(text, prefix, separators string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		fields := make(map[string]string, len(words)-1)
		for _, w := range words[1:] {
			at := strings.IndexAny(w, separators)
			fields[w[:at]] = strings.TrimPrefix(w[at:], separators[:1])
		}
		s[prefix+words[0]] = fields
	}
}
