package inject

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
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

func (c Cluster) native() bool { return c.Minor == 0 || c.Minor >= nativeSidecars }

// Result is what became of a pod.
type Result struct {
	// Pod is the pod as it is to be. The one that was given is unchanged.
	Pod *yaml.Node
	// Skipped says why nothing was injected. Empty: something was.
	Skipped string
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
	if i.Skipped = i.skip(); i.Skipped != "" {
		return i.Result, nil
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

// Remove takes from a pod what Inject has added.
func Remove(pod *yaml.Node) (Result, error) {
	i, err := begin(pod, Cluster{})
	if err != nil {
		return Result{}, fieldErrors(err)
	}
	i.Skipped = "what was injected is taken out"
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
	resolved, err := yamldoc.Resolve(pod, maxDepth)
	if err != nil {
		return nil, err
	}
	i.Pod = resolved
	var errs strict.Errors
	readSchema().check(&errs, "", "Pod", resolved)
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

// skip says why a pod is left alone.
func (i *injection) skip() string {
	wanted, label := i.get(podspec.Inject), yamldoc.Get(i.Pod, "metadata", "labels", podspec.DefaultPrefix+"/"+podspec.Inject)
	where := "annotation"
	if wanted == "" && label != nil {
		wanted, where = yamldoc.Text(label), "label"
	}
	text := func(path ...string) string { return yamldoc.Text(yamldoc.Get(i.spec, path...)) }
	switch declined := podspec.Declined(i.annotations, ""); {
	case wanted != "" && wanted != "true" && wanted != "false":
		i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/" + podspec.Inject,
			Err: fmt.Errorf("%q is not one of true, false", strict.Clip(wanted))})
		return ""
	case wanted == "false":
		return "its " + where + " " + podspec.DefaultPrefix + "/" + podspec.Inject + " is false"
	case declined == podspec.Disabled:
		return "its annotation " + podspec.DefaultPrefix + "/" + podspec.Enabled + " is false"
	case declined == podspec.InitContainer:
		return "another init container of it intercepts: its annotation " + podspec.DefaultPrefix + "/" + podspec.Init
	case text("hostNetwork") == "true":
		return "it shares the node's network (hostNetwork)"
	case text("os", "name") == "windows" || text("nodeSelector", "kubernetes.io/os") == "windows":
		return "it runs on Windows"
	case i.annotations["kubernetes.io/config.mirror"] != "":
		return "it is the mirror of a static pod, which the API server does not run"
	}
	return ""
}

// config is how the pod is to be intercepted.
func (i *injection) config() {
	annotations := maps.Clone(i.annotations)
	enabled := podspec.DefaultPrefix + "/" + podspec.Enabled
	if annotations[enabled] == "" {
		annotations[enabled] = "true"
	}
	spec, err := podspec.ReadUnlimited(annotations, podspec.Options{Defaults: i.p.Config})
	i.errs.Add(err)
	if i.rules = spec.Config; err != nil {
		i.rules = i.p.Config // to see what else is wrong
		return
	}
	i.relied()
	if i.rules.DNS.Mode != intercept.DNSOff && i.p.Resolver == "" && len(i.rules.DNS.Target) == 0 {
		i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/dns", Err: fmt.Errorf(
			"%s, and profile %s has no resolver; choose one that has", i.rules.DNS.Mode, i.p.Name)})
	}
	// What the profile leaves alone, its health port above all, stays so whatever the pod adds.
	for _, r := range i.p.Config.Inbound.ExcludePorts {
		i.exclude(r)
	}
	i.probes()
}

// exclude leaves inbound ports alone, and reports whether they were not yet.
func (i *injection) exclude(r intercept.PortRange) bool {
	all := i.rules.Inbound.ExcludePorts
	more := append(slices.Clone(all), r).Merge()
	if more.Count() == all.Merge().Count() {
		return false
	}
	i.rules.Inbound.ExcludePorts = more
	return true
}

// relied refuses other values of the fields that the profile's sidecars rely on.
func (i *injection) relied() {
	was := decode.Settings(i.p.Config, true)
	for k, s := range decode.Settings(i.rules, true) {
		switch s.Field.Name {
		case "outbound-port", "inbound-port", "inbound-mode", "dns-port", "proxy-uid", "proxy-gid", "proxy-mark",
			"allow-root-proxy", "tproxy-mark", "tproxy-self-mark", "passthrough-sources":
			if s.Text != was[k].Text && s.Text != string(intercept.InboundOff) {
				i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/" + s.Field.Name, Err: fmt.Errorf(
					"%s, and the sidecar of profile %s is made for %s; leave the annotation out, or write a profile", s.Text, i.p.Name,
					was[k].Text)})
			}
		}
	}
}

// probes sees to kubelet's calls, which come from outside, like everybody's: they go to
// the relay, or their ports are left alone.
func (i *injection) probes() {
	if i.rules.Inbound.Mode == intercept.InboundOff {
		return
	}
	if i.p.Relay != "" {
		i.exclude(intercept.Port(probes.DefaultPort))
		i.relay()
		return
	}
	for _, c := range i.containers() {
		for _, port := range probedPorts(c) {
			if !i.rules.Inbound.IncludePorts.Contains(port) || !i.exclude(intercept.Port(port)) {
				continue
			}
			i.did(fmt.Sprintf("inbound port %d is left alone", port),
				fmt.Sprintf("kubelet asks container %s there how it is", nameOf(c)))
			i.warn("port %d of container %s goes past the proxy, because kubelet's probes do: whoever reaches the pod "+
				"reaches it without the proxy", port, nameOf(c))
		}
	}
}

// relay points the probes at the relay.
func (i *injection) relay() {
	i.originals = probes.Originals{}
	for _, c := range i.containers() {
		done, err := probes.Rewrite(c, probes.DefaultPort, nil)
		if err != nil {
			i.errs.Add(probeErrors(c, err))
			continue
		}
		i.relayed.Probes = append(i.relayed.Probes, done.Probes...)
		maps.Copy(i.originals, done.Originals)
		for _, p := range done.Probes {
			i.did(fmt.Sprintf("%s of container %s is asked of %s", p.Kind, p.Container, i.p.Relay),
				"it comes from outside, where the proxy would answer it in the app's place")
		}
		for _, l := range done.Left {
			i.did(fmt.Sprintf("%s of container %s stays as it is", l.Kind, l.Container), l.Reason)
		}
	}
}

// probedPorts are those at which kubelet calls a container.
func probedPorts(c *yaml.Node) []uint16 {
	var all []uint16
	for _, at := range [][]string{{"readinessProbe"}, {"livenessProbe"}, {"startupProbe"}, {"lifecycle", "postStart"},
		{"lifecycle", "preStop"}} {
		handler := yamldoc.Get(c, at...)
		for _, kind := range []string{"httpGet", "tcpSocket", "grpc"} {
			n := yamldoc.Get(handler, kind, "port")
			if n == nil || yamldoc.Text(yamldoc.Get(handler, kind, "host")) != "" { // another host is not the pod
				continue
			}
			if port := portOf(c, yamldoc.Text(n)); port != 0 && !slices.Contains(all, port) {
				all = append(all, port)
			}
		}
	}
	return all
}

// portOf is a port by its number or by its name in a container, or 0.
func portOf(c *yaml.Node, text string) uint16 {
	for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
		if yamldoc.Text(yamldoc.Get(p, "name")) == text {
			text = yamldoc.Text(yamldoc.Get(p, "containerPort"))
		}
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// containers are the pod's own, of every kind.
func (i *injection) containers() []*yaml.Node {
	var all []*yaml.Node
	for _, list := range []string{initSequence, containers, "ephemeralContainers"} {
		for _, c := range yamldoc.Items(yamldoc.Get(i.spec, list)) {
			if !slices.Contains(i.p.Sidecars(), nameOf(c)) && nameOf(c) != i.p.initName() {
				all = append(all, c)
			}
		}
	}
	return all
}

func (i *injection) did(what, why string) { i.Changes = append(i.Changes, Change{what, why}) }

func (i *injection) warn(format string, args ...any) {
	i.Warnings = append(i.Warnings, fmt.Sprintf(format, args...))
}

// check refuses pods that would not work, or would not be intercepted.
func (i *injection) check() {
	i.mode()
	security := yamldoc.Get(i.spec, "securityContext")
	reserved := i.reserved()
	for _, c := range i.containers() {
		at := "container " + nameOf(c)
		if runsAs(i.rules.Proxy, c, security) {
			i.errs.Add(fieldError(at, c, "it runs as the proxy (users %s, groups %s), and nothing that it sends would be "+
				"captured; give it another runAsUser and runAsGroup", i.rules.Proxy.UIDs, i.rules.Proxy.GIDs))
		}
		for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			n := yamldoc.Get(p, "containerPort")
			port, err := strconv.ParseUint(yamldoc.Text(n), 10, 16)
			if by := reserved[uint16(port)]; err == nil && by != "" {
				i.errs.Add(fieldError(at, n, "port %d is that of %s; let the app listen at another one", port, by))
			}
		}
	}
	if i.Mode == ModeCNI {
		class := yamldoc.Text(yamldoc.Get(i.spec, "runtimeClassName"))
		if why := podspec.Foreign(i.annotations, podspec.RefusedRuntimes(), class); why != "" {
			i.errs.Add(fieldError("spec.runtimeClassName", yamldoc.Get(i.spec, "runtimeClassName"),
				"%s, where rules of the node have no effect; choose mode init", why))
		}
	}
}

// reserved says whose the ports are that no app can have.
func (i *injection) reserved() map[uint16]string {
	all := map[uint16]string{}
	span := func(r intercept.PortRange, by string) {
		for port := int(r.First); port <= int(r.Last); port++ {
			all[uint16(port)] = by
		}
	}
	for _, c := range i.p.sidecars {
		for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			if port, err := strconv.ParseUint(yamldoc.Text(yamldoc.Get(p, "containerPort")), 10, 16); err == nil {
				all[uint16(port)] = "sidecar " + nameOf(c)
			}
		}
	}
	span(i.rules.Outbound.Port, "the proxy")
	span(i.rules.Inbound.Port, "the proxy")
	if i.rules.DNS.Mode != intercept.DNSOff {
		span(intercept.Port(i.rules.DNS.Port), "the resolver")
	}
	return all
}

// mode chooses who writes the rules.
func (i *injection) mode() {
	confined := i.in.PodSecurity == "baseline" || i.in.PodSecurity == "restricted"
	i.Mode = i.p.Mode
	switch {
	case i.Mode == ModeAuto && confined:
		i.Mode = ModeCNI
		i.did("the node writes the rules (mode cni)", fmt.Sprintf(
			"Pod Security %s of the namespace admits no init container with NET_ADMIN", i.in.PodSecurity))
	case i.Mode == ModeAuto:
		i.Mode = ModeInit
	case i.Mode == ModeInit && confined:
		i.errs.Add(fieldError("", nil, "Pod Security %s of the namespace admits no init container with NET_ADMIN; choose mode cni, "+
			"with mesh-cni on the nodes (docs/cni.md)", i.in.PodSecurity))
	}
	if confined && slices.ContainsFunc(i.p.sidecars, mayBeTransparent) {
		i.errs.Add(fieldError("", nil, "Pod Security %s of the namespace admits no sidecar with NET_ADMIN or NET_RAW, as profile %s "+
			"has; choose one without mode tproxy", i.in.PodSecurity, i.p.Name))
	}
}

// initText is the container that writes the rules, but for its arguments.
const initText = `
name: mesh-init
image: localhost/intercept:dev
args: []
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 128Mi}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  runAsNonRoot: false
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {add: [NET_ADMIN], drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
`

// initContainer is what writes the rules.
func (i *injection) initContainer() *yaml.Node {
	docs, err := yamldoc.Stream([]byte(initText), maxDepth)
	if err != nil || len(docs) != 1 {
		i.errs.Add(err)
		return yamldoc.Map()
	}
	plain(docs[0])
	args := yamldoc.List(yamldoc.String("apply"))
	for _, s := range decode.Settings(i.rules, false) {
		args.Content = append(args.Content, yamldoc.String(s.Arg()))
	}
	yamldoc.Set(docs[0], "args", args)
	return i.p.schema.merge("Container", docs[0], i.p.init)
}

// assemble puts the pod together.
func (i *injection) assemble() {
	i.record.Profile = i.p.Name
	i.volumes()
	sidecars := i.sidecars()
	starts, ends := sidecars, []*yaml.Node(nil) // of the init containers
	if !i.in.native() {
		starts = nil
		list := sequence(i.spec, containers)
		list.Content = append(sidecars, list.Content...)
		i.did("the sidecar stands before the pod's containers", fmt.Sprintf(
			"init containers that go on running need Kubernetes 1.%d", nativeSidecars))
		if i.in.Job {
			i.warn("the Job does not complete while its sidecar runs, because Kubernetes before 1.%d has no sidecars that end "+
				"with the pod's containers", nativeSidecars)
		}
	}
	if i.Mode == ModeInit {
		c := i.take(i.initContainer())
		i.p.schema.complete("Container", c)
		i.record.InitContainers = append(i.record.InitContainers, nameOf(c))
		if i.in.native() {
			starts = append([]*yaml.Node{c}, starts...)
			i.did("init container "+nameOf(c), "it writes the rules before anything else starts")
		} else {
			ends = append(ends, c)
			i.did("init container "+nameOf(c), "it writes the rules when other init containers, which have no proxy, are done")
		}
	}
	if len(starts)+len(ends) > 0 {
		list := sequence(i.spec, initSequence)
		list.Content = slices.Concat(starts, list.Content, ends)
	} else if i.Mode == ModeCNI && len(yamldoc.Items(yamldoc.Get(i.spec, initSequence))) > 0 {
		i.warn("init containers that call others fail, because the rules are there and the proxy is not, before Kubernetes 1.%d",
			nativeSidecars)
	}
	i.annotate()
}

// take merges a container of the pod of the same name, and takes that out: what
// the pod says goes before what the profile says.
func (i *injection) take(c *yaml.Node) *yaml.Node {
	for _, key := range []string{initSequence, containers} {
		list := yamldoc.Get(i.spec, key)
		for at, own := range yamldoc.Items(list) {
			if nameOf(own) != nameOf(c) {
				continue
			}
			i.p.schema.check(&i.errs, fmt.Sprintf("spec.%s[%d]", key, at), "Container", own)
			text, err := yamldoc.JSON(own)
			i.errs.Add(err)
			i.record.Merged = append(i.record.Merged, merged{key, at, text})
			list.Content = slices.Delete(list.Content, at, at+1)
			i.did("container "+nameOf(c)+" is merged with the pod's own of that name", "what the pod says goes first")
			return i.p.schema.merge("Container", c, own)
		}
	}
	return c
}

// sidecars are the profile's containers, as this pod is to have them.
func (i *injection) sidecars() []*yaml.Node {
	resources := i.own(podspec.SidecarResources, "{}ResourceRequirements")
	mounts := i.own(podspec.SidecarVolumeMounts, "{}[]VolumeMount")
	var all []*yaml.Node
	for _, c := range i.p.sidecars {
		name := nameOf(c)
		if name == i.p.Relay && len(i.relayed.Probes) == 0 {
			i.did("no sidecar "+name, "no container has a probe for it")
			continue
		}
		c = i.take(yamldoc.Copy(c))
		if name == i.p.Relay {
			text, err := i.relayed.Text()
			i.errs.Add(err)
			env := yamldoc.List(yamldoc.Map(yamldoc.String("name"), yamldoc.String(probes.Env), yamldoc.String("value"),
				yamldoc.String(text)))
			yamldoc.Set(c, "env", i.p.schema.merge(i.p.schema["Container"]["env"], yamldoc.Get(c, "env"), env))
		}
		for field, of := range map[string]*yaml.Node{"resources": resources, "volumeMounts": mounts} {
			if v := yamldoc.Get(of, name); v != nil {
				typ := i.p.schema["Container"][field]
				yamldoc.Set(c, field, i.p.schema.merge(typ, yamldoc.Get(c, field), v))
			}
		}
		if len(i.rules.Proxy.UIDs)+len(i.rules.Proxy.GIDs) > 0 && !runsAs(i.rules.Proxy, c, nil) {
			i.errs.Add(fieldError("container "+name, c, "it does not run as the proxy (users %s, groups %s), as a sidecar has to; "+
				"leave runAsUser and runAsGroup out", i.rules.Proxy.UIDs, i.rules.Proxy.GIDs))
		}
		if i.in.native() {
			yamldoc.Set(c, "restartPolicy", yamldoc.String("Always"))
			i.record.InitContainers = append(i.record.InitContainers, name)
			i.did("sidecar "+name, "it starts before the pod's containers, and ends after them")
		} else {
			i.record.Containers = append(i.record.Containers, name)
			i.did("sidecar "+name, "profile "+i.p.Name)
			i.hold(c)
		}
		i.p.schema.complete("Container", c)
		all = append(all, c)
	}
	return all
}

// hold makes kubelet wait, before it starts the next container, until a sidecar has started.
func (i *injection) hold(c *yaml.Node) {
	command := i.p.hold[nameOf(c)]
	if nameOf(c) == i.p.Relay { // the app does not call it
		return
	}
	if command == nil || yamldoc.Get(c, "lifecycle", "postStart") != nil {
		i.warn("the app may start before sidecar %s does, and its first connections are refused then", nameOf(c))
		return
	}
	yamldoc.Set(mapping(c, "lifecycle"), "postStart", yamldoc.Map(yamldoc.String("exec"),
		yamldoc.Map(yamldoc.String("command"), yamldoc.Copy(command))))
}

// own reads an annotation that is JSON.
func (i *injection) own(name, typ string) *yaml.Node {
	text := i.get(name)
	if text == "" {
		return nil
	}
	fail := func(errs error) {
		for _, e := range strict.Flatten(errs) {
			i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/" + name, Err: e})
		}
	}
	n, err := yamldoc.FromJSON([]byte(text), strict.MaxDepth)
	if err != nil {
		fail(err)
		return nil
	}
	var errs strict.Errors
	i.p.schema.check(&errs, "", typ, n)
	if strings.HasPrefix(typ, "{}") && n.Kind == yaml.MappingNode {
		for k := 0; k+1 < len(n.Content); k += 2 {
			if key := n.Content[k].Value; !slices.Contains(i.p.Sidecars(), key) {
				errs.Add(fmt.Errorf("%q is none of the sidecars: %s", strict.Clip(key), strings.Join(i.p.Sidecars(), ", ")))
			}
		}
	}
	fail(errs.Err())
	return n
}

// volumes adds the profile's volumes, and those that the pod asks for. A volume of the
// pod of the same name stays as it is.
func (i *injection) volumes() {
	more := slices.Clone(i.p.volumes)
	extra := i.own(podspec.SidecarVolumes, "[]Volume")
	more = append(more, yamldoc.Items(extra)...)
	for _, v := range more {
		own := yamldoc.Items(yamldoc.Get(i.spec, volumes))
		if slices.ContainsFunc(own, func(o *yaml.Node) bool { return nameOf(o) == nameOf(v) }) {
			i.did("volume "+nameOf(v)+" stays the pod's own", "it has the name of one of the profile's")
			continue
		}
		v = yamldoc.Copy(v)
		i.p.schema.complete("Volume", v)
		list := sequence(i.spec, volumes)
		list.Content = append(list.Content, v)
		i.record.Volumes = append(i.record.Volumes, nameOf(v))
	}
}

// maxAnnotations is how many bytes a pod's annotations may have together (Kubernetes,
// apimachinery/pkg/api/validation: TotalAnnotationSizeLimitB).
const maxAnnotations = 256 << 10

// annotate writes what the node, kubectl and the next injection are to know.
func (i *injection) annotate() {
	annotations := mapping(mapping(i.Pod, "metadata"), "annotations")
	add := func(name, value string) {
		if yamldoc.Get(annotations, name) == nil {
			yamldoc.Set(annotations, name, yamldoc.String(value))
			i.record.Annotations = append(i.record.Annotations, name)
		}
	}
	if i.Mode == ModeInit {
		add(podspec.DefaultPrefix+"/"+podspec.Init, "container")
	} else {
		add(podspec.DefaultPrefix+"/"+podspec.Enabled, "true")
		i.annotateRules(annotations, add)
	}
	for _, c := range yamldoc.Items(yamldoc.Get(i.spec, containers)) {
		if !slices.Contains(i.p.Sidecars(), nameOf(c)) {
			add("kubectl.kubernetes.io/default-container", nameOf(c))
			break
		}
	}
	for _, f := range i.p.files {
		add(f.annotation, f.text)
	}
	if len(i.originals) > 0 {
		text, err := i.originals.Text()
		i.errs.Add(err)
		yamldoc.Set(annotations, probesKey, yamldoc.String(text))
	}
	i.errs.Add(i.record.write(annotations))
	size := 0
	for _, n := range annotations.Content {
		size += len(n.Value)
	}
	if size > maxAnnotations {
		i.errs.Add(fieldError("metadata.annotations", annotations, "%d bytes with those of profile %s, and Kubernetes takes %d; mount "+
			"large files from a ConfigMap: a volume of the pod with the name %s goes before the profile's", size, i.p.Name,
			maxAnnotations, filesVolume))
	}
}

// annotateRules tells the plugin on the node how to intercept. What the sidecar relies
// on is said even where it is our default, for the node may have others.
func (i *injection) annotateRules(annotations *yaml.Node, add func(name, value string)) {
	said := map[string]bool{
		"proxy-uid": true, "proxy-gid": true, "outbound-port": true,
		"inbound-mode": true, "inbound-port": i.rules.Inbound.Mode != intercept.InboundOff,
		"dns-port": i.rules.DNS.Mode != intercept.DNSOff,
	}
	for _, s := range decode.Settings(i.rules, false) {
		said[s.Field.Name] = true
	}
	for _, s := range decode.Settings(i.rules, true) {
		if !said[s.Field.Name] {
			continue
		}
		name := podspec.DefaultPrefix + "/" + s.Field.Name
		own, given := i.annotations[name]
		if given && s.Field.Path == "inbound.excludePorts" && own != s.Text { // with the ports of probes
			i.record.Replaced = map[string]string{name: own}
			yamldoc.Set(annotations, name, yamldoc.String(s.Text))
		}
		add(name, s.Text) // or what is there, which was read
	}
	if class := yamldoc.Text(yamldoc.Get(i.spec, "runtimeClassName")); class != "" {
		add(podspec.DefaultPrefix+"/"+podspec.RuntimeClass, class)
	}
}
