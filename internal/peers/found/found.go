// Package found finds, in a manifest, what it asks of another mesh's interception: in the init container of a pod, its
// annotations, an injector's ConfigMap, or the values of a Helm chart.
package found

import (
	"errors"
	"fmt"

	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// Ask is one thing that asks for interception.
type Ask struct {
	// Where says what it is, as in "init container istio-init of deployment/web".
	Where string
	// Args and Environ are those of the mesh's program, where there is a command line.
	Args, Environ []string
	// Files are what the command line reads, by name.
	Files map[string]string
	// Pod is a pod that asks by its annotations, where there is no command line.
	Pod *pods.Pod
	// Unknown are the variables that say how to intercept, and whose values are not in the text (valueFrom).
	Unknown []string
}

// ErrNothing reports a text that asks for nothing.
var ErrNothing = errors.New("nothing in it asks for interception")

// maxDepth is how deep a text may nest.
const maxDepth = 100

// Find returns what a text asks for in one mesh's terms. The error is [ErrNothing] if that is nothing.
func Find(mesh pods.Dialect, text []byte) ([]Ask, error) {
	roots, err := yamldoc.Stream(text, maxDepth)
	if err != nil {
		return nil, err
	}
	f := finder{mesh: mesh}
	for _, root := range roots {
		if err := f.document(root); err != nil {
			return nil, err
		}
	}
	if len(f.asks) == 0 {
		return nil, ErrNothing
	}
	return f.asks, nil
}

type finder struct {
	mesh pods.Dialect
	asks []Ask
}

// document finds what one document asks for.
func (f *finder) document(n *yaml.Node) error {
	kind := yamldoc.Text(yamldoc.Get(n, "kind"))
	name := strings.ToLower(kind) + "/" + yamldoc.Text(yamldoc.Get(n, "metadata", "name"))
	switch {
	case kind == "" && yamldoc.Get(n, "apiVersion") == nil:
		f.values("the chart's values", n)
	case strings.HasSuffix(kind, "List"):
		for _, item := range yamldoc.Items(yamldoc.Get(n, "items")) {
			if err := f.document(item); err != nil {
				return err
			}
		}
	case kind == "ConfigMap":
		return f.configMap(name, yamldoc.Get(n, "data"))
	case kind == "Pod":
		f.pod(name, n)
	case kind == "CronJob":
		f.pod(name, yamldoc.Get(n, "spec", "jobTemplate", "spec", "template"))
	case yamldoc.Get(n, "spec", "template", "spec") != nil:
		f.pod(name, yamldoc.Get(n, "spec", "template"))
	}
	return nil
}

// configMap finds what an injector's configuration asks for.
func (f *finder) configMap(name string, data *yaml.Node) error {
	keys := map[pods.Dialect]string{pods.Istio: "values", pods.Linkerd: "values", pods.Kuma: "config.yaml"}
	key := keys[f.mesh]
	text := yamldoc.Text(yamldoc.Get(data, key))
	if text == "" {
		return nil
	}
	if f.mesh == pods.Kuma {
		f.asks = append(f.asks, Ask{Where: name, Args: []string{"--config", name}, Files: map[string]string{name: text}})
		return nil
	}
	roots, err := yamldoc.Stream([]byte(text), maxDepth)
	if err != nil {
		return fmt.Errorf("%s: data.%s: %w", name, key, err)
	}
	for _, root := range roots {
		f.values(name, root)
	}
	return nil
}

// programs are the containers that run a mesh's program, by the mesh: their names, and the words that stand before its
// flags.
func programs() map[pods.Dialect][]string {
	return map[pods.Dialect][]string{
		pods.Istio:   {"istio-init", "istio-validation"},
		pods.Linkerd: {"linkerd-init"},
		pods.Kuma:    {"kuma-init"},
	}
}

// pod finds what a pod asks for: by a container, else by its annotations.
func (f *finder) pod(name string, pod *yaml.Node) {
	for _, field := range []string{"initContainers", "containers"} {
		for _, c := range yamldoc.Items(yamldoc.Get(pod, "spec", field)) {
			if n := yamldoc.Text(yamldoc.Get(c, "name")); slices.Contains(programs()[f.mesh], n) {
				f.asks = append(f.asks, Ask{
					Where: fmt.Sprintf("container %s of %s", n, name), Args: f.args(c), Environ: environ(c), Unknown: unknown(c),
				})
				return
			}
		}
	}
	p := pods.Pod{Annotations: texts(yamldoc.Get(pod, "metadata", "annotations")),
		Labels: texts(yamldoc.Get(pod, "metadata", "labels"))}
	// A workload's template has what people write alone; the injector's marks are on its pods.
	p.Known = pods.Claims([]pods.Dialect{f.mesh}, "", p.Annotations) != ""
	if !p.Known && !pods.Mentions(f.mesh, p.Annotations) && !pods.Mentions(f.mesh, p.Labels) {
		return
	}
	for _, field := range []string{"initContainers", "containers"} {
		for _, c := range yamldoc.Items(yamldoc.Get(pod, "spec", field)) {
			p.Containers = append(p.Containers, container(c))
		}
	}
	f.asks = append(f.asks, Ask{Where: "annotations of " + name, Pod: &p})
}

// args are the words after the program's own: a manifest may give them in command or in args.
func (f *finder) args(c *yaml.Node) (args []string) {
	for _, field := range []string{"command", "args"} {
		for _, word := range yamldoc.Items(yamldoc.Get(c, field)) {
			args = append(args, yamldoc.Text(word))
		}
	}
	first := func(word string) bool { return strings.HasPrefix(word, "-") }
	if i := slices.IndexFunc(args, first); i >= 0 {
		return args[i:]
	}
	return nil
}

// unknown are the variables of a container that say how to intercept, and have no value here.
func unknown(c *yaml.Node) (names []string) {
	for _, v := range yamldoc.Items(yamldoc.Get(c, "env")) {
		name := yamldoc.Text(yamldoc.Get(v, "name"))
		if yamldoc.Get(v, "valueFrom") != nil && (slices.Contains(pods.Variables(), name) ||
			strings.HasPrefix(name, "ISTIO_OUTBOUND_") || strings.HasPrefix(name, "KUMA_TRANSPARENT_PROXY_")) {
			names = append(names, name)
		}
	}
	return names
}

// environ are the variables of a container that are given as they are.
func environ(c *yaml.Node) (all []string) {
	for _, v := range yamldoc.Items(yamldoc.Get(c, "env")) {
		if value := yamldoc.Get(v, "value"); value != nil {
			all = append(all, yamldoc.Text(yamldoc.Get(v, "name"))+"="+yamldoc.Text(value))
		}
	}
	return all
}

func container(c *yaml.Node) cniwire.Container {
	out := cniwire.Container{Name: yamldoc.Text(yamldoc.Get(c, "name")), Env: map[string]string{}}
	id := func(key string) *int64 {
		n, err := strconv.ParseInt(yamldoc.Text(yamldoc.Get(c, "securityContext", key)), 10, 64)
		if err != nil {
			return nil
		}
		return &n
	}
	out.UID, out.GID = id("runAsUser"), id("runAsGroup")
	for _, v := range environ(c) {
		name, value, _ := strings.Cut(v, "=")
		out.Env[name] = value
	}
	return out
}

// texts are the entries of a mapping.
func texts(n *yaml.Node) map[string]string {
	all := map[string]string{}
	if n == nil || n.Kind != yaml.MappingNode {
		return all
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		all[n.Content[i].Value] = n.Content[i+1].Value
	}
	return all
}

// A value is a value of a chart, and the flag that the injector makes of it.
type value struct {
	path, flag string
}

// values finds what the values of a mesh's chart ask for.
func (f *finder) values(where string, n *yaml.Node) {
	switch f.mesh {
	case pods.Istio:
		f.istioValues(where, n)
	case pods.Linkerd:
		f.linkerdValues(where, n)
	case pods.Kuma:
		if config := at(n, "transparentProxy.configMap.config"); config != nil {
			if text, err := yamldoc.JSON(config); err == nil {
				f.asks = append(f.asks, Ask{Where: where, Args: []string{"--config", where},
					Files: map[string]string{where: string(text)}})
			}
		}
	case pods.Intercept, pods.Consul:
	}
}

// at returns the node of a path with dots.
func at(n *yaml.Node, path string) *yaml.Node { return yamldoc.Get(n, strings.Split(path, ".")...) }

// args makes flags of those values that are there.
func flags(n *yaml.Node, all []value) (args []string) {
	for _, v := range all {
		found := at(n, v.path)
		if yamldoc.IsNull(found) {
			continue
		}
		text := yamldoc.Text(found)
		if found.Kind == yaml.SequenceNode {
			var items []string
			for _, item := range found.Content {
				if cidr := yamldoc.Get(item, "cidr"); cidr != nil { // linkerd's skipSubnets
					item = cidr
				}
				items = append(items, yamldoc.Text(item))
			}
			text = strings.Join(items, ",")
		}
		if text != "" {
			args = append(args, v.flag+"="+text)
		}
	}
	return args
}

// istioValues reads the values of Istio's charts, and those of its injector.
func (f *finder) istioValues(where string, n *yaml.Node) {
	if at(n, "global.proxy") == nil && at(n, "meshConfig.defaultConfig") == nil {
		return
	}
	args := []string{"--istio-inbound-ports=*", "--istio-service-cidr=*", "--istio-local-exclude-ports=15090,15021,15020"}
	args = append(args, flags(n, []value{
		{"meshConfig.defaultConfig.interceptionMode", "--istio-inbound-interception-mode"},
		{"global.proxy.includeIPRanges", "--istio-service-cidr"},
		{"global.proxy.excludeIPRanges", "--istio-service-exclude-cidr"},
		{"global.proxy.includeInboundPorts", "--istio-inbound-ports"},
		{"global.proxy.includeOutboundPorts", "--istio-outbound-ports"},
		{"global.proxy.excludeOutboundPorts", "--istio-local-outbound-ports-exclude"},
	})...)
	if more := yamldoc.Text(at(n, "global.proxy.excludeInboundPorts")); more != "" {
		args = append(args, "--istio-local-exclude-ports="+more+",15090,15021,15020")
	}
	var environ []string
	for name, text := range texts(at(n, "meshConfig.defaultConfig.proxyMetadata")) {
		environ = append(environ, name+"="+text)
	}
	slices.Sort(environ)
	f.asks = append(f.asks, Ask{Where: where, Args: args, Environ: environ})
}

// linkerdValues reads the values of Linkerd's chart, and those that its ConfigMap linkerd-config keeps.
func (f *finder) linkerdValues(where string, n *yaml.Node) {
	if at(n, "proxyInit") == nil && at(n, "proxy") == nil {
		return
	}
	args := []string{"--incoming-proxy-port=4143", "--outgoing-proxy-port=4140", "--proxy-uid=2102"}
	args = append(args, flags(n, []value{
		{"proxy.ports.inbound", "--incoming-proxy-port"},
		{"proxy.ports.outbound", "--outgoing-proxy-port"},
		{"proxy.uid", "--proxy-uid"},
		{"proxy.gid", "--proxy-gid"},
		{"proxyInit.skipSubnets", "--subnets-to-ignore"},
		{"proxyInit.iptablesMode", "--iptables-mode"},
		{"proxyInit.closeWaitTimeoutSecs", "--timeout-close-wait-secs"},
	})...)
	list := func(path, initial string) string {
		if text := strings.ReplaceAll(yamldoc.Text(at(n, path)), " ", ""); text != "" {
			return text
		}
		return initial
	}
	args = append(args, "--inbound-ports-to-ignore=4190,4191,"+list("proxyInit.ignoreInboundPorts", "4567,4568"),
		"--outbound-ports-to-ignore="+list("proxyInit.ignoreOutboundPorts", "4567,4568"))
	if yamldoc.Text(at(n, "disableIPv6")) != "false" { // the chart's default is true
		args = append(args, "--ipv6=false")
	}
	f.asks = append(f.asks, Ask{Where: where, Args: args})
}
