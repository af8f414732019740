package probes

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Rewritten is what [Rewrite] did to a container.
type Rewritten struct {
	// Probes are what the relay has to carry out, and Originals what they replaced.
	Probes    []Probe
	Originals Originals
	// Left are the probes and hooks that were left as they are.
	Left []Left
}

// Left is a probe or hook that is not relayed.
type Left struct {
	Container string
	Kind      Kind
	// Reason says why, in a few words.
	Reason string
}

// Error is something wrong with a probe or hook.
type Error struct {
	// Path is the field, as in "readinessProbe.httpGet.port".
	Path string
	// Line is where it stands, from 1. Zero: it is not known.
	Line int
	Err  error
}

func (e *Error) Error() string {
	text := e.Err.Error()
	if e.Path != "" {
		text = e.Path + ": " + text
	}
	if e.Line > 0 {
		text += fmt.Sprintf(" (line %d)", e.Line)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Errors that an [Error] is of.
var (
	// ErrLost is of a probe that points at the relay, and whose original nobody kept.
	ErrLost = errors.New("it points at the relay, and the annotation " + Annotation + " does not have the original; " +
		"write the original probe again")
	// ErrAlias is of an anchor, alias or merge key where something would be changed:
	// another place may share it.
	ErrAlias = errors.New("anchors, aliases and merge keys (&, *, <<) cannot be rewritten here; write the fields out")
)

// place is where a kind of probe or hook stands in a container.
type place struct {
	kind   Kind
	fields []string
}

func places() []place {
	return []place{
		{Startup, []string{"startupProbe"}},
		{Readiness, []string{"readinessProbe"}},
		{Liveness, []string{"livenessProbe"}},
		{PostStart, []string{"lifecycle", "postStart"}},
		{PreStop, []string{"lifecycle", "preStop"}},
	}
}

// Rewrite points the probes and hooks of a container at the relay's port, in
// place. The container is a mapping of Kubernetes' Container. kept are the
// originals of what has been rewritten before: with them a second Rewrite changes
// nothing, and says the same as the first. What has been rewritten in a container of
// another name, before it was renamed or copied, is rewritten anew.
//
// Left as they are: exec probes and sleep hooks; probes with a host, which kubelet
// asks and not the pod; probes of the relay's own port. The errors joined are of
// type [*Error]; with one, nothing has been changed.
func Rewrite(container *yaml.Node, port uint16, kept Originals) (Rewritten, error) {
	done := Rewritten{Originals: Originals{}}
	c, err := newContainer(container, port, kept)
	if err != nil {
		return done, err
	}
	var errs strict.Errors
	var changes []func()
	for _, at := range places() {
		h, err := c.find(at)
		if err != nil || h == nil {
			errs.Add(err)
			continue
		}
		original, err := c.before(h)
		if err != nil {
			errs.Add(err)
			continue
		}
		p, why, err := c.read(h, original)
		switch {
		case err != nil:
			errs.Add(err)
			continue
		case why != "":
			done.Left = append(done.Left, Left{c.name, at.kind, why})
			continue
		}
		if original.text == "" {
			if original.text, err = original.write(); err != nil {
				errs.Add(h.fail("", nil, err))
				continue
			}
		}
		done.Probes, done.Originals[p.At()] = append(done.Probes, p), original.text
		changes = append(changes, func() { h.point(c.port) })
	}
	if err := errs.Err(); err != nil {
		return Rewritten{}, err
	}
	for _, change := range changes {
		change()
	}
	return done, nil
}

// Restore puts the originals of a container's probes and hooks back, in place. A
// probe that points elsewhere than [Rewrite] left it is somebody's later change,
// and stays. The errors joined are of type [*Error]; with one, nothing has been
// changed.
func Restore(container *yaml.Node, kept Originals) error {
	c, err := newContainer(container, DefaultPort, kept)
	if err != nil {
		return err
	}
	var errs strict.Errors
	var changes []func()
	for _, at := range places() {
		h, err := c.find(at)
		if err != nil || h == nil || h.asks == "" {
			errs.Add(err)
			continue
		}
		original, err := c.before(h)
		if err != nil {
			errs.Add(err)
			continue
		}
		changes = append(changes, func() { h.put(original) })
	}
	if err := errs.Err(); err != nil {
		return err
	}
	for _, change := range changes {
		change()
	}
	return nil
}

// container is one whose probes are looked at.
type container struct {
	node *yaml.Node
	name string
	port uint16 // the relay's
	kept Originals
}

func newContainer(n *yaml.Node, port uint16, kept Originals) (container, error) {
	if port == 0 {
		port = DefaultPort
	}
	if n == nil || n.Kind != yaml.MappingNode {
		return container{}, &Error{Err: errors.New("a container is a mapping")}
	}
	_, name, err := field(n, "", "name")
	switch {
	case err != nil:
		return container{}, err
	case name == nil:
		return container{}, &Error{Path: "name", Line: n.Line, Err: errors.New("missing: a container has a name")}
	case name.Kind == yaml.AliasNode:
		name = name.Alias
	}
	if err := checkName(name.Value); err != nil || name.Kind != yaml.ScalarNode {
		return container{}, &Error{Path: "name", Line: name.Line, Err: checkName(name.Value)}
	}
	return container{node: n, name: name.Value, port: port, kept: kept}, nil
}

// handler is the one handler of a probe or hook, where it stands.
type handler struct {
	probe      *yaml.Node // the mapping that has the handler
	key, value *yaml.Node
	path       string // of the probe
	kind       Kind
	container  string
	// asks is the relay's path that it asks, if Rewrite wrote it.
	asks string
}

// original is a handler as it was before it was rewritten.
type original struct {
	name, value *yaml.Node
	// text is it as the annotation has it; "" if that does not have it yet.
	text string
}

// write makes the text for the annotation.
func (o original) write() (string, error) {
	key := yaml.Node{Kind: yaml.ScalarNode, Value: o.name.Value, Style: o.name.Style, Tag: o.name.Tag}
	value := *o.value // comments around it stay where they are
	value.HeadComment, value.LineComment, value.FootComment = "", "", ""
	text, err := yaml.Marshal(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{&key, &value}})
	if err != nil {
		return "", err
	}
	// What cannot be read again must not be taken away.
	if _, err := parseOriginal(string(text)); err != nil {
		return "", err
	}
	return string(text), nil
}

// parseOriginal reads what [original.write] wrote. The text is of an annotation, which
// anybody may have written.
func parseOriginal(text string) (o original, err error) {
	defer func() { // the parser does not foresee everything
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed YAML: %v", r)
		}
	}()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return o, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode ||
		len(doc.Content[0].Content) != 2 || !isRelayed(doc.Content[0].Content[0].Value) {
		return o, errors.New("an original is one of httpGet, tcpSocket, grpc")
	}
	if err := plain(doc.Content[0], strict.MaxDepth); err != nil {
		return o, err
	}
	return original{doc.Content[0].Content[0], doc.Content[0].Content[1], text}, nil
}

func isRelayed(name string) bool {
	return slices.Contains([]Handler{HTTPGet, TCPSocket, GRPC}, Handler(name))
}

// find returns a container's probe or hook, or nil if there is none, or one
// without a handler that we know.
func (c container) find(at place) (*handler, error) {
	n, path := c.node, ""
	for _, name := range at.fields {
		key, value, err := field(n, path, name)
		if path = strict.Join(path, name); err != nil {
			return nil, err
		}
		if value == nil || isNull(value) {
			return nil, nil
		}
		if value.Kind == yaml.AliasNode || value.Anchor != "" || key.Anchor != "" {
			return nil, &Error{path, value.Line, ErrAlias}
		}
		if value.Kind != yaml.MappingNode {
			return nil, &Error{path, value.Line, errors.New("fields belong here")}
		}
		n = value
	}
	var found *handler
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			return nil, &Error{path, key.Line, ErrAlias}
		}
		if known := isRelayed(key.Value); !known && !isOther(key.Value) || isNull(value) {
			continue
		}
		if found != nil {
			return nil, &Error{path, key.Line, fmt.Errorf("%s and %s: there can be one handler", found.key.Value, key.Value)}
		}
		found = &handler{n, key, value, path, at.kind, c.name, ""}
		found.asks = c.asked(found)
	}
	return found, nil
}

// isOther reports whether a field is a handler that is not relayed.
func isOther(name string) bool { return name == "exec" || name == "sleep" }

// fail is an error about a field below the handler. Where at is nil or does not
// stand in the document, it is told where the handler stands.
func (h *handler) fail(below string, at *yaml.Node, err error) error {
	path := h.path + "." + h.key.Value
	if below != "" {
		path += "." + below
	}
	if at == nil || h.asks != "" {
		at = h.value
	}
	return &Error{path, at.Line, err}
}

// asked is the relay's path that a handler asks, if Rewrite wrote it, or "". Its own path may stand on whatever port,
// which may have changed since. That of another stands where a container was renamed or copied.
func (c container) asked(h *handler) string {
	if h.key.Value != string(HTTPGet) || h.value.Kind != yaml.MappingNode {
		return ""
	}
	_, path, err := field(h.value, "", "path")
	if err != nil || path == nil {
		return ""
	}
	_, port, _ := field(h.value, "", "port")
	_, kept := c.kept[path.Value]
	_, _, foreign := splitPath(path.Value)
	if kept || path.Value == Path(c.name, h.kind) ||
		foreign == nil && port != nil && port.Value == strconv.Itoa(int(c.port)) {
		return path.Value
	}
	return ""
}

// before is the handler before it was rewritten: itself if it never was.
func (c container) before(h *handler) (original, error) {
	if h.asks == "" {
		return original{name: h.key, value: h.value}, nil
	}
	text, ok := c.kept[h.asks]
	if !ok {
		return original{}, h.fail("", nil, ErrLost)
	}
	o, err := parseOriginal(text)
	if err != nil {
		return o, h.fail("", nil, fmt.Errorf("its original in the annotation %s cannot be read: %w", Annotation, err))
	}
	return o, nil
}

// put replaces the handler. Comments beside its name stay.
func (h *handler) put(o original) {
	h.key.Value, h.key.Style, h.key.Tag = o.name.Value, o.name.Style, o.name.Tag
	value := *o.value
	value.HeadComment, value.LineComment, value.FootComment = h.value.HeadComment, h.value.LineComment, h.value.FootComment
	*h.value = value
}

// point makes the handler one that asks the relay, in the style of the one that
// stands there. All that the API server would default is set.
func (h *handler) point(port uint16) {
	word := func(s string) *yaml.Node {
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
		if h.key.Style == yaml.DoubleQuotedStyle { // JSON
			n.Style = yaml.DoubleQuotedStyle
		}
		return n
	}
	number := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(int(port))}
	h.put(original{
		name: &yaml.Node{Kind: yaml.ScalarNode, Tag: h.key.Tag, Style: h.key.Style, Value: string(HTTPGet)},
		value: &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: h.value.Style, Line: h.value.Line,
			Content: []*yaml.Node{word("path"), word(Path(h.container, h.kind)), word("port"), number,
				word("scheme"), word("HTTP")}},
	})
}

// read makes a probe of a handler, or says why it is left as it is.
func (c container) read(h *handler, o original) (p Probe, why string, err error) {
	if isOther(o.name.Value) {
		return p, o.name.Value + " needs no connection", nil
	}
	if err := plain(o.value, strict.MaxDepth); err != nil {
		return p, "", h.fail("", nil, err)
	}
	p = Probe{Container: c.name, Kind: h.kind, Handler: Handler(o.name.Value)}
	r := reader{c: c, h: h, fields: map[string]*yaml.Node{}}
	r.open(o.value)
	host := r.text("host", "")
	switch p.Handler {
	case HTTPGet:
		p.Scheme, p.Path, p.Port = r.text("scheme", "HTTP"), r.text("path", "/"), r.port(true)
		p.Headers, p.HTTP2 = r.headers(), r.choice("protocol", "HTTP1", "HTTP2") == "HTTP2"
	case TCPSocket:
		p.Port = r.port(true)
	case GRPC:
		if host != "" {
			r.fail("host", nil, errors.New("unknown field"))
		}
		p.Port, p.Service, p.TLS = r.port(false), r.text("service", ""), r.choice("mode", "Plaintext", "TLS") == "TLS"
	}
	r.unknown()
	if !h.kind.IsHook() {
		p.TimeoutSeconds = r.timeout()
	}
	if err := r.errs.Err(); err != nil {
		return p, "", err
	}
	switch {
	case host != "":
		return p, "its host is " + strict.OneLine(strict.Clip(host)) + ", not the pod", nil
	case p.Port == c.port:
		return p, "it asks the relay's own port", nil
	}
	for _, err := range p.problems() {
		r.errs.Add(h.fail("", nil, err))
	}
	return p, "", r.errs.Err()
}

// reader reads the fields of one handler.
type reader struct {
	c      container
	h      *handler
	fields map[string]*yaml.Node
	errs   strict.Errors
}

func (r *reader) fail(name string, at *yaml.Node, err error) { r.errs.Add(r.h.fail(name, at, err)) }

func (r *reader) open(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.fail("", n, errors.New("fields belong here"))
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := strict.OneLine(strict.Clip(n.Content[i].Value))
		if r.fields[name] != nil {
			r.fail(name, n.Content[i], errors.New("it is there twice"))
		}
		r.fields[name] = n.Content[i+1]
	}
}

// take returns a field that is to be read, or nil. null stands for none.
func (r *reader) take(name string) *yaml.Node {
	n := r.fields[name]
	if n != nil {
		delete(r.fields, name)
		if isNull(n) {
			return nil
		}
	}
	return n
}

func (r *reader) text(name, otherwise string) string {
	n := r.take(name)
	switch {
	case n == nil:
		return otherwise
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		r.fail(name, n, fmt.Errorf("%s is not a string; quote it", strict.OneLine(strict.Clip(n.Value))))
	case n.Value == "":
		return otherwise
	}
	return n.Value
}

func (r *reader) choice(name string, all ...string) string {
	at := r.fields[name]
	v := r.text(name, all[0])
	if !slices.Contains(all, v) {
		r.fail(name, at, fmt.Errorf("%q is not one of %s", strict.Clip(v), strings.Join(all, ", ")))
	}
	return v
}

// port reads a number, or the name of one of the container's ports.
func (r *reader) port(named bool) uint16 {
	n := r.take("port")
	switch {
	case n == nil:
		r.fail("port", nil, errors.New("missing"))
		return 0
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && named:
		port, err := r.c.named(n.Value)
		if err != nil {
			r.fail("port", n, err)
		}
		return port
	}
	port, err := number(n, 1, math.MaxUint16)
	if err != nil {
		r.fail("port", n, err)
	}
	return uint16(port)
}

// number reads a YAML integer.
func number(n *yaml.Node, least, most int64) (int64, error) {
	var v int64
	if _, err := strconv.Atoi(n.Value); err == nil && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		return 0, fmt.Errorf("%q is a text; leave the quotes out", strict.Clip(n.Value))
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Decode(&v) != nil || v < least || v > most {
		return 0, fmt.Errorf("%s is not a number from %d to %d", strict.OneLine(strict.Clip(n.Value)), least, most)
	}
	return v, nil
}

// named is the number of a port of the container that has a name.
func (c container) named(name string) (uint16, error) {
	_, list, err := field(c.node, "", "ports")
	if err != nil {
		return 0, err
	}
	list = target(list)
	var names []string
	if list != nil && list.Kind == yaml.SequenceNode {
		for _, item := range list.Content {
			item = target(item)
			if item.Kind != yaml.MappingNode {
				continue
			}
			_, own, _ := field(item, "", "name")
			_, port, _ := field(item, "", "containerPort")
			own, port = target(own), target(port)
			if own == nil || port == nil {
				continue
			}
			if names = append(names, own.Value); own.Value == name {
				n, err := number(port, 1, math.MaxUint16)
				return uint16(n), err
			}
		}
	}
	if len(names) == 0 {
		return 0, fmt.Errorf("%q: the container names no ports; write the number, or name one under ports", strict.Clip(name))
	}
	return 0, fmt.Errorf("%q is no port of the container; %s", strict.Clip(name),
		strict.Hint(name, names, "it names "+strict.OneLine(strict.Clip(strings.Join(names, ", ")))))
}

func (r *reader) headers() []Header {
	n := r.take("httpHeaders")
	if n == nil {
		return nil
	}
	wrong := func(n *yaml.Node) {
		r.fail("httpHeaders", n, errors.New("a header has a name and a value, both strings"))
	}
	if n.Kind != yaml.SequenceNode {
		wrong(n)
		return nil
	}
	var all []Header
	for _, item := range n.Content {
		if item.Kind != yaml.MappingNode || len(item.Content) != 4 {
			wrong(item)
			continue
		}
		var h Header
		for i := 0; i < 4; i += 2 {
			key, value := item.Content[i].Value, item.Content[i+1]
			switch {
			case value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str":
				wrong(value)
			case key == "name":
				h.Name = value.Value
			case key == "value":
				h.Value = value.Value
			default:
				wrong(item.Content[i])
			}
		}
		all = append(all, h)
	}
	return all
}

// timeout reads the probe's, of which Kubernetes' default is a second.
func (r *reader) timeout() uint32 {
	_, n, err := field(r.h.probe, r.h.path, "timeoutSeconds")
	if err != nil {
		r.errs.Add(err)
	}
	if n = target(n); n == nil || isNull(n) {
		return 1
	}
	v, err := number(n, 0, math.MaxInt32)
	if err != nil {
		r.errs.Add(&Error{r.h.path + ".timeoutSeconds", n.Line, err})
	}
	return uint32(max(v, 1))
}

// unknown refuses fields that nobody read: the relay would leave out what they ask for.
func (r *reader) unknown() {
	for _, name := range slices.Sorted(maps.Keys(r.fields)) {
		r.fail(name, r.fields[name], errors.New("unknown field; the relay could not do what it says"))
	}
}

// field returns a field of a mapping, or nil. There can be one of that name.
func field(n *yaml.Node, path, name string) (key, value *yaml.Node, err error) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != name {
			continue
		}
		if key != nil {
			return nil, nil, &Error{strict.Join(path, name), n.Content[i].Line,
				fmt.Errorf("it is there twice, first on line %d", key.Line)}
		}
		key, value = n.Content[i], n.Content[i+1]
	}
	return key, value, nil
}

// target is what an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// plain refuses what is nested too deep, or shared with another place.
func plain(n *yaml.Node, depth int) error {
	switch {
	case depth == 0:
		return errors.New("nested too deep")
	case n.Kind == yaml.AliasNode || n.Anchor != "" || n.ShortTag() == "!!merge":
		return ErrAlias
	}
	for _, below := range n.Content {
		if err := plain(below, depth-1); err != nil {
			return err
		}
	}
	return nil
}
