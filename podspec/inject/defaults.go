package inject

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// defaults are the fields that the API server sets, by type: FIELD=VALUE.
const defaults = `
Container terminationMessagePath=/dev/termination-log terminationMessagePolicy=File resources={}
ContainerPort protocol=TCP
Probe timeoutSeconds=1 periodSeconds=10 successThreshold=1 failureThreshold=3
GRPCAction service=
HTTPGetAction path=/ scheme=HTTP
ObjectFieldSelector apiVersion=v1
ConfigMapVolumeSource defaultMode=420
SecretVolumeSource defaultMode=420
DownwardAPIVolumeSource defaultMode=420
ProjectedVolumeSource defaultMode=420
ServiceAccountTokenProjection expirationSeconds=3600
HostPathVolumeSource type=
`

// complete sets what the API server would set in a value of a type, so that a pod
// reads back as it was written.
func (s schema) complete(typ string, n *yaml.Node) {
	typ, _, _ = strings.Cut(typ, "/")
	item, list := strings.CutPrefix(typ, "[]")
	for _, v := range yamldoc.Items(n) {
		if list {
			s.complete(item, v)
		}
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		s.complete(s[typ][n.Content[i].Value], n.Content[i+1])
	}
	for line := range strings.Lines(defaults) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != typ {
			continue
		}
		for _, w := range words[1:] {
			field, text, _ := strings.Cut(w, "=")
			initially(n, field, valueOf(s[typ][field], text))
		}
	}
	switch typ {
	case "Container":
		initially(n, "imagePullPolicy", yamldoc.String(pullPolicy(yamldoc.Text(yamldoc.Get(n, "image")))))
	case "ResourceRequirements": // what is limited is also requested
		if limits := yamldoc.Get(n, "limits"); limits != nil {
			requests := mapping(n, "requests")
			for i := 0; i+1 < len(limits.Content); i += 2 {
				initially(requests, limits.Content[i].Value, yamldoc.Copy(limits.Content[i+1]))
			}
		}
	case "Volume":
		if len(n.Content) == 2 { // a name alone
			yamldoc.Set(n, "emptyDir", valueOf("EmptyDirVolumeSource", "{}"))
		}
	}
}

// valueOf returns a value of a type from its text.
func valueOf(typ, text string) *yaml.Node {
	n := yamldoc.String(text)
	switch {
	case typ == "int":
		n.Tag = "!!int"
	case text == "{}":
		n = yamldoc.Map()
		n.Style = yaml.FlowStyle
	}
	return n
}

// initially sets a field that is not there.
func initially(n *yaml.Node, key string, value *yaml.Node) {
	if yamldoc.Get(n, key) == nil {
		yamldoc.Set(n, key, value)
	}
}

func pullPolicy(image string) string {
	_, tag, tagged := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	if !strings.Contains(image, "@") && (!tagged || tag == "latest") {
		return "Always"
	}
	return "IfNotPresent"
}
