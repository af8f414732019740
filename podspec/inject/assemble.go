package inject

import (
	"errors"
	"fmt"
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

// initBase is the container that writes the rules, without its arguments.
func initBase() (*yaml.Node, error) {
	docs, err := yamldoc.Stream([]byte(initText), maxDepth)
	if err != nil {
		return nil, err
	}
	plain(docs[0])
	return docs[0], nil
}

// initContainer is what writes the rules.
func (i *injection) initContainer() *yaml.Node {
	c := yamldoc.Copy(i.p.base)
	args := yamldoc.List(yamldoc.String("apply"))
	for _, s := range decode.Settings(i.rules, false) {
		args.Content = append(args.Content, yamldoc.String(s.Arg()))
	}
	yamldoc.Set(c, "args", args)
	return i.p.schema.merge("Container", c, i.p.init)
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
				"with the pod's containers; leave it without (%s/%s: \"false\"), or let its container end the sidecar",
				nativeSidecars, podspec.DefaultPrefix, podspec.Inject)
		}
	}
	if i.Mode == ModeInit {
		base := i.initContainer()
		c := i.take(base)
		for _, f := range []string{"args", "restartPolicy"} {
			if n := yamldoc.Get(c, f); !yamldoc.Equal(n, yamldoc.Get(base, f)) {
				i.errs.Add(fieldError("container "+nameOf(c)+"."+f, n, "it follows from the configuration; leave it out"))
			}
		}
		i.complete(c, nil, nil)
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
		i.warn("init containers that call others fail, because the rules are there and the proxy is not, before Kubernetes "+
			"1.%d; choose mode init, which writes the rules after them", nativeSidecars)
	}
	if len(yamldoc.Items(yamldoc.Get(i.spec, containers))) == 0 {
		i.errs.Add(fieldError("spec."+containers, nil, "all have names of the profile's containers (%s), and would be merged "+
			"with those; give the app's another", strings.Join(append(i.p.Sidecars(), i.p.initName()), ", ")))
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
	held := i.in.native()
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
			i.patch(c, "env", env)
		}
		i.patch(c, "resources", yamldoc.Get(resources, name))
		i.patch(c, "volumeMounts", yamldoc.Get(mounts, name))
		if len(i.rules.Proxy.UIDs)+len(i.rules.Proxy.GIDs) > 0 && !runsAs(i.rules.Proxy, c, nil) {
			i.errs.Add(fieldError("container "+name, c, "it does not run as the proxy (users %s, groups %s), as a sidecar has "+
				"to; leave runAsUser and runAsGroup out", i.rules.Proxy.UIDs, i.rules.Proxy.GIDs))
		}
		if i.in.native() {
			yamldoc.Set(c, "restartPolicy", yamldoc.String("Always"))
			i.record.InitContainers = append(i.record.InitContainers, name)
			i.did("sidecar "+name, "it starts before the pod's containers, and ends after them")
		} else {
			i.record.Containers = append(i.record.Containers, name)
			i.did("sidecar "+name, "profile "+i.p.Name)
			held = i.hold(c) || held
		}
		i.complete(c, yamldoc.Get(resources, name), yamldoc.Get(mounts, name))
		all = append(all, c)
	}
	if !held {
		i.warn("the app may start before the sidecar does, and its first connections are refused then")
	}
	return all
}

// complete sets what the API server would set in a container, and refuses what it would
// refuse. resources and mounts are what annotations say of it.
func (i *injection) complete(c, resources, mounts *yaml.Node) {
	i.p.schema.complete("Container", c)
	var errs strict.Errors
	i.p.schema.sound(&errs, "", "Container", c)
	mounted(&errs, "", c, namesOf(yamldoc.Items(yamldoc.Get(i.spec, volumes))))
	for _, e := range strict.Flatten(errs.Err()) {
		at, is := errors.AsType[*strict.Error](e)
		switch {
		case !is:
		case resources != nil && strings.HasPrefix(at.Path, "resources."):
			e = &podspec.Error{Annotation: podspec.DefaultPrefix + "/" + podspec.SidecarResources, Err: &strict.Error{
				Path: nameOf(c) + strings.TrimPrefix(at.Path, "resources"), Err: at.Err}}
		case mounts != nil && strings.HasPrefix(at.Path, "volumeMounts["):
			e = &podspec.Error{Annotation: podspec.DefaultPrefix + "/" + podspec.SidecarVolumeMounts, Err: &strict.Error{
				Path: nameOf(c) + "." + at.Path, Err: at.Err}}
		default:
			at.Path = "container " + nameOf(c) + "." + at.Path
		}
		i.errs.Add(e)
	}
}

// patch lays something over a field of a container, if it is there.
func (i *injection) patch(c *yaml.Node, field string, patch *yaml.Node) {
	if patch != nil {
		yamldoc.Set(c, field, i.p.schema.merge(i.p.schema["Container"][field], yamldoc.Get(c, field), patch))
	}
}

// hold makes kubelet wait, before it starts the next container, until a sidecar has
// started. It returns whether it does.
func (i *injection) hold(c *yaml.Node) bool {
	command := i.p.hold[nameOf(c)]
	if own := yamldoc.Get(c, "lifecycle", "postStart"); command == nil || own != nil {
		return own != nil
	}
	yamldoc.Set(mapping(c, "lifecycle"), "postStart", yamldoc.Map(yamldoc.String("exec"),
		yamldoc.Map(yamldoc.String("command"), yamldoc.Copy(command))))
	return true
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
	own := namesOf(yamldoc.Items(yamldoc.Get(i.spec, volumes)))
	extra := yamldoc.Items(i.own(podspec.SidecarVolumes, "[]Volume"))
	var errs strict.Errors
	for k, v := range extra {
		v = yamldoc.Copy(v)
		i.p.schema.complete("Volume", v)
		i.p.schema.sound(&errs, "["+strconv.Itoa(k)+"]", "Volume", v)
		if name := nameOf(v); !isLabel(name) || slices.Contains(own, name) {
			errs.Add(&strict.Error{Path: "[" + strconv.Itoa(k) + "].name", Err: fmt.Errorf(
				"%q is no name, or that of another volume of the pod; write small letters, digits and dashes", strict.Clip(name))})
		}
		own = append(own, nameOf(v))
	}
	for _, e := range strict.Flatten(errs.Err()) {
		i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/" + podspec.SidecarVolumes, Err: e})
	}
	for _, v := range slices.Concat(extra, i.p.volumes) { // what the pod asks for goes first
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
		i.errs.Add(fieldError("metadata.annotations", annotations, "%d bytes with those of profile %s, and Kubernetes "+
			"takes %d; mount "+
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
