package inject

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

// A Finding is something in a manifest of which it is certain that it will go wrong.
type Finding struct {
	// ID is a word for it, which never changes.
	ID string `json:"id"`
	// File and Line say where. Object is as kubectl names it, and Field is a path in it.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Object string `json:"object"`
	Field  string `json:"field"`
	// Happens says what will go wrong, and Remedy what to write instead.
	Happens string `json:"happens"`
	Remedy  string `json:"remedy,omitempty"`
}

// String returns the finding on one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s:%d: %s: %s: %s", f.File, f.Line, f.Object, f.Field, f.Happens)
	if f.Remedy != "" {
		s += "; " + f.Remedy
	}
	return s
}

// A Source is a text of manifests, and what names it.
type Source struct {
	Name string
	Text []byte
}

// Lint looks at the pods in manifests that ask for interception, by annotations or by asking for a sidecar, and says
// what will go wrong with them. pods is how many there are. The Services of all sources are known to all. The error is
// that of sources that cannot be read.
func Lint(sources []Source) (all []Finding, pods int, err error) {
	var objects []linted
	var errs strict.Errors
	for _, s := range sources {
		roots, err := yamldoc.Stream(s.Text, maxDepth)
		if err != nil {
			errs.Add(from(s.Name, err))
			continue
		}
		for _, root := range roots {
			// What stands by itself can be looked at; what does not, no cluster takes either.
			n, err := yamldoc.Resolve(root, maxDepth)
			if err != nil {
				errs.Add(from(s.Name, err))
				continue
			}
			list := []*yaml.Node{n}
			if isList(n) {
				list = yamldoc.Items(yamldoc.Get(n, "items"))
			}
			for _, o := range list {
				objects = append(objects, linted{source: s.Name, object: o})
			}
		}
	}
	if len(objects) == 0 && len(sources) > 0 {
		errs.Add(fmt.Errorf("%s: nothing was read: there is no manifest in it", sources[0].Name))
	}
	if err := errs.Err(); err != nil {
		return nil, 0, err
	}
	services := slices.DeleteFunc(slices.Clone(objects), func(o linted) bool { return !o.translates() })
	for _, o := range objects {
		w := find(o.object)
		if w == nil {
			continue
		}
		pod := yamldoc.Get(o.object, w.pod...)
		if o.prefix = strings.Join(w.pod, "."); !o.read(pod) {
			continue
		}
		pods++
		o.services = services
		o.all()
		all = append(all, o.found...)
	}
	// As they stand in the manifests: what is wrong with one object may be found in another.
	file := map[string]int{}
	for i, s := range sources {
		file[s.Name] = i
	}
	sort.SliceStable(all, func(i, j int) bool {
		a, b := all[i], all[j]
		return file[a.File] < file[b.File] || a.File == b.File && a.Line < b.Line
	})
	return all, pods, nil
}

// linted is an object that is looked at.
type linted struct {
	source, prefix string
	object         *yaml.Node
	pod, spec      *yaml.Node
	annotations    map[string]string
	// relayed is whether an injector moves the probes to a relay, or has.
	relayed bool
	// waits is whether the sidecar is still to be added, and added are the names of the containers that were.
	waits  bool
	added  []string
	config intercept.Config
	// services are the headless ones that have another port than their pods.
	services []linted
	found    []Finding
}

func (o *linted) find(id, field string, at *yaml.Node, remedy, format string, args ...any) {
	f := Finding{ID: id, File: o.source, Line: o.object.Line, Object: o.name(), Field: field,
		Happens: strict.OneLine(fmt.Sprintf(format, args...)), Remedy: remedy}
	if field != "" {
		f.Field = strings.TrimPrefix(o.prefix+"."+field, ".")
	}
	if at != nil {
		f.Line = at.Line
	}
	o.found = append(o.found, f)
}

func (o *linted) name() string {
	meta := yamldoc.Get(o.object, "metadata")
	return strict.OneLine(strict.Clip(Object{Kind: yamldoc.Text(yamldoc.Get(o.object, "kind")),
		Namespace: yamldoc.Text(yamldoc.Get(meta, "namespace")), Name: nameOf(meta)}.String()))
}

// read reads a pod's annotations, and reports whether it asks for interception.
func (o *linted) read(pod *yaml.Node) bool {
	o.pod, o.spec = pod, yamldoc.Get(pod, "spec")
	o.annotations = texts(yamldoc.Get(pod, "metadata", "annotations"))
	get := func(name string) string { return strict.Tidy(o.annotations[podspec.DefaultPrefix+"/"+name]) }
	inject := get(podspec.Inject) == "true" ||
		texts(yamldoc.Get(pod, "metadata", "labels"))[podspec.DefaultPrefix+"/"+podspec.Inject] == "true"
	o.waits = inject && get(podspec.Injected) == ""
	o.added = added(o.annotations[injectedKey])
	o.relayed = inject || get(podspec.Injected) != "" || get(podspec.OriginalProbes) != ""
	if get(podspec.Enabled) == "" && o.relayed {
		o.annotations[podspec.DefaultPrefix+"/"+podspec.Enabled] = "true"
	}
	delete(o.annotations, podspec.DefaultPrefix+"/"+podspec.Init) // which says who sees to it
	spec, err := podspec.ReadUnlimited(o.annotations, podspec.Options{})
	o.config = spec.Config
	if err != nil {
		o.config = readable(o.annotations, err)
	}
	for _, e := range strict.Flatten(err) {
		of, _ := errors.AsType[*podspec.Error](e)
		if of == nil || of.Annotation == "" {
			o.find("annotation", "metadata.annotations", nil, "", "%v", e)
			continue
		}
		o.find("annotation", "metadata.annotations."+of.Annotation,
			yamldoc.Get(pod, "metadata", "annotations", of.Annotation), "", "%v", of.Err)
	}
	return err != nil || spec.Reason == podspec.Asked
}

// readable is the configuration of annotations without those that an error is about, to see what else is wrong.
func readable(annotations map[string]string, err error) intercept.Config {
	const enabled = podspec.DefaultPrefix + "/" + podspec.Enabled
	left := maps.Clone(annotations)
	left[enabled] = "true"
	for {
		before := len(left)
		for _, e := range strict.Flatten(err) {
			if of, is := errors.AsType[*podspec.Error](e); is && of.Annotation != enabled {
				delete(left, of.Annotation)
			}
		}
		var spec podspec.Spec
		if spec, err = podspec.ReadUnlimited(left, podspec.Options{}); err == nil {
			return spec.Config
		}
		if len(left) == before {
			return intercept.Default() // it is about all of them
		}
	}
}

// texts are the texts of a mapping.
func texts(n *yaml.Node) map[string]string {
	all := map[string]string{}
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		all[n.Content[i].Value] = yamldoc.Text(n.Content[i+1])
	}
	return all
}

// containers are those that run beside each other, and where they stand.
func (o *linted) containers() (all []*yaml.Node, at []string) {
	for _, list := range []string{initSequence, containers} {
		for i, c := range yamldoc.Items(yamldoc.Get(o.spec, list)) {
			if list == containers || yamldoc.Text(yamldoc.Get(c, "restartPolicy")) == "Always" {
				all, at = append(all, c), append(at, fmt.Sprintf("spec.%s[%d]", list, i))
			}
		}
	}
	return all, at
}

// captured reports whether whoever calls a port of the pod gets to the proxy.
func (o *linted) captured(port uint16) bool {
	in := o.config.Inbound
	return in.Mode != intercept.InboundOff && len(in.ExcludeSources) == 0 && len(in.Exclude) == 0 &&
		in.IncludePorts.Contains(port) && !in.ExcludePorts.Contains(port) && port != o.config.TunnelPort
}

func (o *linted) all() {
	// A pod with the node's network has nothing of its own to capture.
	if n := yamldoc.Get(o.spec, "hostNetwork"); yamldoc.Text(n) == "true" {
		o.find("host-network", "spec.hostNetwork", n, "leave out hostNetwork",
			"the pod shares the node's network, where nothing is intercepted")
		return
	}
	o.users()
	o.probes()
	o.ports()
	o.nameservers()
	o.headless()
	o.speaksFirst()
}

// users: what the proxy's user or group sends is not captured. Of a pod's own containers one may be the proxy, if there
// are others, and no sidecar was or is to be added.
func (o *linted) users() {
	all, at := o.containers()
	var names []string
	last := 0
	for i, c := range all {
		if name := nameOf(c); !slices.Contains(o.added, name) &&
			runsAs(o.config.Proxy, c, yamldoc.Get(o.spec, "securityContext")) {
			names, last = append(names, strict.Clip(name)), i
		}
	}
	if len(names) > 1 || len(names) == 1 && (len(all) == 1 || o.waits || len(o.added) > 0) {
		o.find("proxy-identity", at[last]+".securityContext", all[last], "give apps another runAsUser and runAsGroup",
			"%s: what runs as the proxy's user or group (users %s, groups %s) is not captured", strings.Join(names, ", "),
			o.config.Proxy.UIDs, o.config.Proxy.GIDs)
	}
}

// probes: kubelet comes from outside, like everybody.
func (o *linted) probes() {
	if o.relayed {
		return
	}
	all, at := o.containers()
	for i, c := range all {
		for _, kind := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			probe := yamldoc.Get(c, kind)
			for _, handler := range []probes.Handler{probes.HTTPGet, probes.TCPSocket, probes.GRPC} {
				n := yamldoc.Get(probe, string(handler), "port")
				port := portOf(c, yamldoc.Text(n))
				if n == nil || port == 0 || yamldoc.Text(yamldoc.Get(probe, string(handler), "host")) != "" || !o.captured(port) {
					continue
				}
				o.find("probe-captured", fmt.Sprintf("%s.%s.%s.port", at[i], kind, handler), n,
					fmt.Sprintf("let mesh-init inject add the relay, or exclude the port: %s/inbound-exclude-ports: \"%d\"",
						podspec.DefaultPrefix, port),
					"kubelet's call to port %d is captured: the proxy refuses it, or answers in the app's place", port)
			}
		}
	}
}

// ports: one that is left alone by name, and that nobody has, was meant to be another.
func (o *linted) ports() {
	all, _ := o.containers()
	declared := map[uint16]bool{}
	for _, c := range all {
		for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			declared[portOf(c, yamldoc.Text(yamldoc.Get(p, "containerPort")))] = true
		}
		for _, port := range probedPorts(c) {
			declared[port] = true
		}
	}
	name := podspec.DefaultPrefix + "/inbound-exclude-ports"
	if o.annotations[name] == "" || len(declared) == 0 {
		return
	}
	usual := intercept.Default().Inbound.ExcludePorts
	for _, r := range o.config.Inbound.ExcludePorts {
		if r.First == r.Last && !declared[r.First] && !usual.Contains(r.First) {
			o.find("excluded-port", "metadata.annotations."+name, yamldoc.Get(o.pod, "metadata", "annotations", name),
				"exclude the port that the container has (ports.containerPort), not the one of a Service",
				"port %d is excluded, and no container has it", r.First)
		}
	}
}

// nameservers: with dnsPolicy None the pod's are known.
func (o *linted) nameservers() {
	policy := yamldoc.Get(o.spec, "dnsPolicy")
	if o.config.DNS.Mode != intercept.DNSResolvConf || yamldoc.Text(policy) != "None" {
		return
	}
	list := yamldoc.Get(o.spec, "dnsConfig", "nameservers")
	if len(yamldoc.Items(list)) == 0 {
		o.find("no-nameserver", "spec.dnsPolicy", policy, "name them in spec.dnsConfig.nameservers",
			"dnsPolicy None without dnsConfig.nameservers: resolv.conf names no server, and dns resolvconf finds none to capture")
	}
	for i, n := range yamldoc.Items(list) {
		a, err := netip.ParseAddr(yamldoc.Text(n))
		if err == nil && len(o.config.DNS.Servers) > 0 && !slices.Contains(o.config.DNS.Servers, a) {
			o.find("nameserver-missed", fmt.Sprintf("spec.dnsConfig.nameservers[%d]", i), n,
				"leave the annotation dns-servers out, or name it there",
				"lookups to %s go past the resolver: dns resolvconf captures those to the servers of %s/dns-servers alone", a,
				podspec.DefaultPrefix)
		}
	}
}

// namespace is the object's. Where none is named it is most likely that which has no other name.
func (o *linted) namespace() string {
	return cmp.Or(textAt(o.object, "metadata", "namespace"), "default")
}

func textAt(n *yaml.Node, keys ...string) string { return yamldoc.Text(yamldoc.Get(n, keys...)) }

// translates reports whether an object is a Service that would have to translate a port, and does not.
func (o *linted) translates() bool {
	spec := yamldoc.Get(o.object, "spec")
	return textAt(o.object, "kind") == "Service" && textAt(spec, "clusterIP") == "None" &&
		slices.ContainsFunc(yamldoc.Items(yamldoc.Get(spec, "ports")), func(p *yaml.Node) bool {
			target := yamldoc.Text(yamldoc.Get(p, "targetPort"))
			return target != "" && target != yamldoc.Text(yamldoc.Get(p, "port"))
		})
}

// headless: a Service without an address translates no port, so clients come to the pod at the Service's.
func (o *linted) headless() {
	all, _ := o.containers()
	for _, s := range o.services {
		spec := yamldoc.Get(s.object, "spec")
		if s.namespace() != o.namespace() ||
			!selects(texts(yamldoc.Get(spec, "selector")), texts(yamldoc.Get(o.pod, "metadata", "labels"))) {
			continue
		}
		for i, p := range yamldoc.Items(yamldoc.Get(spec, "ports")) {
			target, n := yamldoc.Text(yamldoc.Get(p, "targetPort")), yamldoc.Get(p, "port")
			port, err := strconv.ParseUint(yamldoc.Text(n), 10, 16)
			if err != nil || target == "" || !o.captured(uint16(port)) {
				continue
			}
			has := func(text string) bool {
				return slices.ContainsFunc(all, func(c *yaml.Node) bool {
					return slices.ContainsFunc(yamldoc.Items(yamldoc.Get(c, "ports")), func(d *yaml.Node) bool {
						return yamldoc.Text(yamldoc.Get(d, "containerPort")) == text || yamldoc.Text(yamldoc.Get(d, "name")) == text
					})
				})
			}
			if has(target) && !has(yamldoc.Text(n)) {
				s := s // what is wrong stands in the Service
				s.prefix, s.found = "", nil
				s.find("headless-port", fmt.Sprintf("spec.ports[%d].port", i), n,
					"give the Service the port that the container has",
					"a headless Service translates no port: clients of %s come to port %d of its pods, which is captured, and where "+
						"no container listens", o.name(), port)
				o.found = append(o.found, s.found...)
			}
		}
	}
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

// linkerdOpaque is the variable that has the ports at which Linkerd's proxy waits for nothing.
const linkerdOpaque = "LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION"

// speaksFirst: a proxy that finds out the protocol by what the client says waits for it, and the client for the server.
func (o *linted) speaksFirst() {
	all, at := o.containers()
	var opaque intercept.Ports
	detects := false
	for _, c := range all {
		for _, e := range yamldoc.Items(yamldoc.Get(c, "env")) {
			if nameOf(e) == linkerdOpaque {
				// What cannot be read may be any port.
				detects = strict.SetText(&opaque, yamldoc.Text(yamldoc.Get(e, "value"))) == nil
			}
		}
	}
	for i, c := range all {
		image, _, _ := strings.Cut(yamldoc.Text(yamldoc.Get(c, "image")), "@")
		image = image[strings.LastIndex(image, "/")+1:]
		if image, _, _ = strings.Cut(image, ":"); !detects || !slices.Contains([]string{"mysql", "mariadb", "percona"},
			image) {
			continue
		}
		for k, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			n := yamldoc.Get(p, "containerPort")
			if port := portOf(c, yamldoc.Text(n)); port != 0 && o.captured(port) && !opaque.Contains(port) {
				o.find("server-speaks-first", fmt.Sprintf("%s.ports[%d].containerPort", at[i], k), n,
					fmt.Sprintf("add %d to config.linkerd.io/opaque-ports, or to %s/inbound-exclude-ports", port,
						podspec.DefaultPrefix),
					"%s speaks first at port %d, and the proxy waits there for the client to say which protocol it is: each "+
						"connection stands still until that times out", image, port)
			}
		}
	}
}
