package inject

import (
	_ "embed" // for the profiles
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
)

// Mode says who writes a pod's rules.
type Mode string

const (
	// ModeAuto is ModeInit, and ModeCNI where Pod Security admits no init container
	// with NET_ADMIN.
	ModeAuto Mode = "auto"
	// ModeInit is an init container that runs mesh-init.
	ModeInit Mode = "init"
	// ModeCNI is the plugin mesh-cni, on the node.
	ModeCNI Mode = "cni"
)

func modes() []Mode { return []Mode{ModeAuto, ModeInit, ModeCNI} }

// Profile is what to inject. The zero Profile is none: [ParseProfile] makes one.
type Profile struct {
	// Name is for people.
	Name string
	// Mode is who writes the rules.
	Mode Mode
	// Config is how the pod's traffic is intercepted where its annotations say
	// nothing else. It is valid.
	Config intercept.Config
	// Resolver is the container that answers name lookups. Empty: none of them does.
	Resolver string
	// Relay is the container that carries out kubelet's probes (mesh-probe). Empty: the
	// ports that kubelet asks are not captured.
	Relay string

	base     *yaml.Node // the container that writes the rules
	init     *yaml.Node // fields of it that the profile has
	settings []decode.Setting
	sidecars []*yaml.Node // containers
	volumes  []*yaml.Node // of the pod
	files    []file
	hold     map[string]*yaml.Node // the command that ends when a container has started, by its name
	schema   schema
}

// file is one of a profile's files, which stands in an annotation.
type file struct{ annotation, text string }

// Sidecars are the names of the containers that the profile adds, in the order in
// which they start.
func (p Profile) Sidecars() []string { return namesOf(p.sidecars) }

func nameOf(n *yaml.Node) string { return yamldoc.Text(yamldoc.Get(n, "name")) }

// The profiles that come with the package.
var (
	//go:embed profiles/haproxy.yaml
	haproxyText string
	//go:embed profiles/haproxy-dns.yaml
	haproxyDNSText string
	//go:embed profiles/envoy.yaml
	envoyText string
)

// Shipped are the names of the profiles that come with the package.
func Shipped() []string { return []string{"haproxy", "haproxy-dns", "envoy"} }

// ShippedText returns the file of a profile that comes with the package, or "".
func ShippedText(name string) string {
	switch name {
	case "haproxy":
		return haproxyText
	case "haproxy-dns":
		return haproxyDNSText
	case "envoy":
		return envoyText
	}
	return ""
}

// maxDepth is how deep a manifest may be nested. Kubernetes' own types need some 20.
const maxDepth = 100

const (
	filesVolume = "mesh-files"
	// filesPrefix is that of the annotations that hold a profile's files.
	filesPrefix = "files.intercept.mesh"
	initName    = "mesh-init"
)

// ParseProfile reads a profile. source names its text in errors, which are joined and
// of type [*intercept.FieldError].
func ParseProfile(source string, text []byte) (Profile, error) {
	p, errs := parseProfile(source, text)
	var all []error
	for _, e := range strict.Flatten(errs) {
		if at, ok := errors.AsType[*strict.Error](e); ok {
			e = &intercept.FieldError{Field: at.Path, Source: source, Line: at.Line, Err: at.Err}
		}
		all = append(all, e)
	}
	return p, errors.Join(all...)
}

func parseProfile(source string, text []byte) (Profile, error) {
	docs, err := yamldoc.Stream(text, maxDepth)
	if err != nil {
		return Profile{}, &intercept.FieldError{Source: source, Err: err}
	}
	if len(docs) != 1 {
		return Profile{}, &strict.Error{Err: fmt.Errorf("%d documents; a profile is one", len(docs))}
	}
	root, err := yamldoc.Resolve(docs[0], maxDepth)
	if err != nil {
		return Profile{}, err
	}
	r := profileReader{root: root, p: Profile{
		Name: strings.TrimSuffix(source[strings.LastIndexByte(source, '/')+1:], ".yaml"), Mode: ModeAuto,
		schema: readSchema(),
		hold:   map[string]*yaml.Node{},
	}}
	if kind := yamldoc.Get(root, "kind"); kind != nil && yamldoc.Get(root, "apiVersion") != nil {
		r.fail("", kind, "a manifest (%s), and no profile; a profile has sidecars", strict.Clip(yamldoc.Text(kind)))
		return Profile{}, r.errs.Err()
	}
	r.p.schema.check(&r.errs, "", "Profile", root)
	if !r.errs.None() {
		return Profile{}, r.errs.Err()
	}
	r.p.base, err = initBase()
	r.errs.Add(err)
	r.read(source)
	r.p.settings = decode.Settings(r.p.Config, true)
	for _, n := range slices.Concat(r.p.sidecars, r.p.volumes, []*yaml.Node{r.p.init},
		slices.Collect(maps.Values(r.p.hold))) {
		plain(n)
	}
	return r.p, r.errs.Err()
}

// plain takes away what a value has from the file in which it stands.
func plain(n *yaml.Node) {
	n.Line, n.Column, n.HeadComment, n.LineComment, n.FootComment = 0, 0, "", "", ""
	for _, c := range n.Content {
		plain(c)
	}
}

type profileReader struct {
	root *yaml.Node
	p    Profile
	errs strict.Errors
}

func (r *profileReader) fail(at string, n *yaml.Node, format string, args ...any) {
	e := &strict.Error{Path: at, Err: fmt.Errorf(format, args...)}
	if n != nil {
		e.Line = n.Line
	}
	r.errs.Add(e)
}

func (r *profileReader) read(source string) {
	if n := yamldoc.Get(r.root, "name"); n != nil {
		r.p.Name = yamldoc.Text(n)
	}
	if !isLabel(r.p.Name) {
		r.fail("name", yamldoc.Get(r.root, "name"), "%q is not a name; write small letters, digits and dashes",
			strict.Clip(r.p.Name))
	}
	if n := yamldoc.Get(r.root, "mode"); n != nil {
		r.p.Mode = Mode(yamldoc.Text(n))
		if !slices.Contains(modes(), r.p.Mode) {
			r.fail("mode", n, "%q is not one of auto, init, cni", strict.Clip(n.Value))
		}
	}
	r.config(source)
	r.containers()
	r.files()
	r.p.Resolver, r.p.Relay = r.sidecar("resolver"), r.sidecar("relay")
	if r.p.Config.DNS.Mode != intercept.DNSOff && r.p.Resolver == "" && len(r.p.Config.DNS.Target) == 0 {
		r.fail("config.dns.mode", yamldoc.Get(r.root, "config", "dns", "mode"),
			"%s, and no resolver; name the sidecar that answers in `resolver`", r.p.Config.DNS.Mode)
	}
	r.holding()
	r.sound()
}

// sound refuses what the API server would refuse in every pod.
func (r *profileReader) sound() {
	whole := func(path, typ string, n *yaml.Node) *yaml.Node {
		n = yamldoc.Copy(n)
		r.p.schema.complete(typ, n)
		r.p.schema.sound(&r.errs, path, typ, n)
		return n
	}
	for _, f := range []string{"args", "restartPolicy"} {
		if n := yamldoc.Get(r.p.init, f); n != nil {
			r.fail("init."+f, n, "it follows from the configuration; leave it out")
		}
	}
	whole("init", "Container", r.p.schema.merge("Container", r.p.base, r.p.init))
	ports := map[string]string{}
	for i, c := range r.p.sidecars {
		at := "sidecars[" + strconv.Itoa(i) + "]"
		c = whole(at, "Container", c)
		mounted(&r.errs, at+".", c, namesOf(r.p.volumes))
		for k, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			n := yamldoc.Get(p, "containerPort")
			port := yamldoc.Text(n) + "/" + yamldoc.Text(yamldoc.Get(p, "protocol"))
			if by := ports[port]; by != "" && n != nil {
				r.fail(fmt.Sprintf("%s.ports[%d].containerPort", at, k), n, "%s is also that of sidecar %s; all containers of a pod "+
					"share its ports", strict.Clip(n.Value), by)
			}
			ports[port] = nameOf(c)
		}
	}
	for i, v := range r.p.volumes {
		whole("volumes["+strconv.Itoa(i)+"]", "Volume", v)
	}
}

// sidecar reads the name of one of the sidecars.
func (r *profileReader) sidecar(field string) string {
	n := yamldoc.Get(r.root, field)
	name := yamldoc.Text(n)
	if n != nil && !slices.Contains(r.p.Sidecars(), name) {
		r.fail(field, n, "%q is none of the sidecars: %s", strict.Clip(name), strings.Join(r.p.Sidecars(), ", "))
	}
	return name
}

// config reads the configuration.
func (r *profileReader) config(source string) {
	layers := decode.Over(intercept.Default())
	if n := yamldoc.Get(r.root, "config"); n != nil {
		doc, err := yamldoc.Strict("", n)
		layers.Document(source, doc, err)
	}
	config, err := layers.Done()
	for _, e := range strict.Flatten(err) {
		if at, ok := errors.AsType[*intercept.FieldError](e); ok {
			e = &strict.Error{Path: strings.TrimSuffix("config."+at.Field, "."), Line: at.Line, Err: at.Err}
		}
		r.errs.Add(e)
	}
	r.p.Config = config
}

func (r *profileReader) containers() {
	r.p.init = yamldoc.Map()
	if n := yamldoc.Get(r.root, "init"); n != nil {
		r.p.init = n
	}
	list := yamldoc.Get(r.root, "sidecars")
	if len(yamldoc.Items(list)) == 0 {
		r.fail("sidecars", list, "none; name the containers to add, the proxy at least")
	}
	r.p.sidecars = r.named("sidecars", map[string]bool{r.p.initName(): true})
	for i, c := range r.p.sidecars {
		at := "sidecars[" + strconv.Itoa(i) + "]"
		if yamldoc.Text(yamldoc.Get(c, "image")) == "" {
			r.fail(at+".image", c, "missing")
		}
		if yamldoc.Get(c, "restartPolicy") != nil {
			r.fail(at+".restartPolicy", c, "it follows from the cluster's version; leave it out")
		}
		proxy := r.p.Config.Proxy // by its mark alone, perhaps
		if len(proxy.UIDs)+len(proxy.GIDs) > 0 && !runsAs(proxy, c, nil) {
			r.fail(at+".securityContext", c, "it does not run as the proxy (config.proxy: users %s, groups %s), so what it "+
				"sends would come back to it; set runAsUser and runAsGroup", proxy.UIDs, proxy.GIDs)
		}
	}
	r.p.volumes = r.named("volumes", map[string]bool{filesVolume: true})
	if r.p.Config.Inbound.Mode == intercept.InboundTProxy && !slices.ContainsFunc(r.p.sidecars, mayBeTransparent) {
		r.fail("config.inbound.mode", yamldoc.Get(r.root, "config", "inbound", "mode"), "tproxy, but no sidecar may have "+
			"transparent sockets: add NET_ADMIN or NET_RAW to the capabilities of the one that takes inbound connections")
	}
}

// initName is the name of the container that writes the rules.
func (p Profile) initName() string {
	if name := nameOf(p.init); name != "" {
		return name
	}
	return initName
}

// named reads a list of things with names.
func (r *profileReader) named(field string, taken map[string]bool) []*yaml.Node {
	var all []*yaml.Node
	for i, n := range yamldoc.Items(yamldoc.Get(r.root, field)) {
		at := field + "[" + strconv.Itoa(i) + "].name"
		switch name := nameOf(n); {
		case !isLabel(name):
			r.fail(at, n, "%q is not a name; write small letters, digits and dashes", strict.Clip(name))
		case taken[name]:
			r.fail(at, n, "%q is there twice", name)
		default:
			taken[name] = true
			all = append(all, n)
		}
	}
	return all
}

// files are annotations of the pod, which a volume has as files. So they need no
// ConfigMap in each namespace.
func (r *profileReader) files() {
	files := yamldoc.Get(r.root, "files")
	if files == nil {
		return
	}
	items := yamldoc.List()
	for i := 0; i+1 < len(files.Content); i += 2 {
		name := files.Content[i].Value
		if !isFileName(name) {
			r.fail("files."+strict.Clip(name), files.Content[i], "not a file's name; write letters, digits, dots and dashes, "+
				"at most 63")
			continue
		}
		f := file{filesPrefix + "/" + name, yamldoc.Text(files.Content[i+1])}
		r.p.files = append(r.p.files, f)
		items.Content = append(items.Content, yamldoc.Map(
			yamldoc.String("path"), yamldoc.String(name),
			yamldoc.String("fieldRef"), yamldoc.Map(yamldoc.String("fieldPath"),
				yamldoc.String("metadata.annotations['"+f.annotation+"']"))))
	}
	r.p.volumes = append(r.p.volumes, yamldoc.Map(
		yamldoc.String("name"), yamldoc.String(filesVolume),
		yamldoc.String("downwardAPI"), yamldoc.Map(yamldoc.String("items"), items)))
}

// holding reads the commands by which kubelet knows that a container has started.
func (r *profileReader) holding() {
	n := yamldoc.Get(r.root, "holdApplicationUntilProxyStarts")
	for i := 0; n != nil && i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		if !slices.Contains(r.p.Sidecars(), name) {
			r.fail("holdApplicationUntilProxyStarts", n.Content[i], "%q is none of the sidecars: %s", strict.Clip(name),
				strings.Join(r.p.Sidecars(), ", "))
		}
		r.p.hold[name] = n.Content[i+1]
	}
}

// isLabel reports whether a text is a DNS label, as names of containers and volumes are.
func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' &&
		s[len(s)-1] != '-'
}

// isFileName reports whether a text can be an annotation's name and a file's.
func isFileName(s string) bool {
	alphanumeric := func(c byte) bool {
		return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
	}
	if s == "" || len(s) > 63 || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && !strings.Contains("-_.", s[i:i+1]) {
			return false
		}
	}
	return true
}

// mayBeTransparent reports whether a container has a capability for IP_TRANSPARENT.
func mayBeTransparent(c *yaml.Node) bool {
	return slices.ContainsFunc(yamldoc.Items(yamldoc.Get(c, "securityContext", "capabilities", "add")),
		func(n *yaml.Node) bool {
			return n.Value == "NET_ADMIN" || n.Value == "NET_RAW"
		})
}

// runsAs reports whether a container runs as the proxy, by its user or its group. What
// its own securityContext does not say, that of the pod does.
func runsAs(proxy intercept.Proxy, c, podSecurity *yaml.Node) bool {
	has := func(field string, ids intercept.IDs) bool {
		n := yamldoc.Get(c, "securityContext", field)
		if yamldoc.IsNull(n) {
			n = yamldoc.Get(podSecurity, field)
		}
		id, err := strconv.ParseUint(yamldoc.Text(n), 10, 32)
		return err == nil && ids.Contains(uint32(id))
	}
	return has("runAsUser", proxy.UIDs) || has("runAsGroup", proxy.GIDs)
}
