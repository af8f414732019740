package decode

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Layers puts a configuration together from the places where its fields can be
// set, the weakest first: a field that a later one has replaces that of the
// earlier, a list the whole list. It collects everything that is wrong.
type Layers struct {
	config intercept.Config
	layers []layer
	// unread are the fields that could not be read, and touched all fields that
	// those are a part of.
	unread, touched map[string]bool
	// Errs is what is wrong.
	Errs strict.Errors
	// Name is how a field is set by those who read the errors: "--dns". Nil: they
	// know its path.
	Name func(Field) string
	// Also reports, as Validate does, what else there is against the configuration.
	// Nil: nothing.
	Also func(intercept.Config) error
}

// layer is one place that has set fields.
type layer struct {
	source string
	path   string      // of the one field, or
	doc    strict.Node // all that it has
}

// Origin is where a field's value came from.
type Origin struct {
	// Source is "--dns", "MESH_DNS", a file's name, an annotation. Empty: nobody
	// has set the field, and it has its default.
	Source string
	// Line is the value's line in a file. Zero: it has none.
	Line int
}

// Over begins with the configuration that holds where nothing is set.
func Over(defaults intercept.Config) *Layers {
	return &Layers{config: defaults, unread: map[string]bool{}, touched: map[string]bool{}}
}

const serversPath = "dns.servers"

// Document lays the fields of a document over what is there. A document that
// could not be parsed comes with the error instead.
func (l *Layers) Document(source string, doc strict.Node, err error) {
	unread := []string{""}
	if err == nil {
		l.layers = append(l.layers, layer{source: source, doc: doc})
		unread, err = doc.Into(&l.config)
	}
	l.mark(unread...)
	for _, e := range strict.Flatten(err) {
		field := &intercept.FieldError{Source: source, Err: e}
		if at, ok := errors.AsType[*strict.Error](e); ok {
			field.Field, field.Line, field.Err = at.Path, at.Line, at.Err
		}
		l.Errs.Add(&unreadable{field: field})
	}
}

// Text lays one field over what is there, in its text form.
func (l *Layers) Text(source string, f Field, text string) {
	l.layers = append(l.layers, layer{source: source, path: f.Path})
	err := f.Plausible(text)
	if err == nil {
		err = SetField(&l.config, f.Path, text)
	}
	l.Unreadable(source, f.Path, err)
}

// Unreadable says why a field could not be read from its source, if err is not
// nil. What is wrong in consequence is not reported.
func (l *Layers) Unreadable(source, path string, err error) {
	for _, e := range strict.Flatten(err) {
		l.mark(path)
		field := &intercept.FieldError{Field: path, Source: source, Err: e}
		if at, ok := errors.AsType[*strict.Error](e); ok {
			field.Line, field.Err = at.Line, at.Err
		}
		l.Errs.Add(&unreadable{field, true})
	}
}

// SetField sets the field of c at a path such as "outbound.excludePorts" from
// its text form. On error it leaves the field as it is.
func SetField(c *intercept.Config, path, text string) error {
	v := fieldOf(c, path)
	fresh := reflect.New(v.Type())
	if err := strict.SetText(fresh.Interface(), text); err != nil {
		return err
	}
	v.Set(fresh.Elem())
	return nil
}

// NeedsServers reports whether mode resolvconf lacks the name servers, which
// only the pod's resolv.conf has. An empty list that was asked for stays empty,
// for Validate to refuse.
func (l *Layers) NeedsServers() bool {
	d := l.config.DNS
	return d.Mode == intercept.DNSResolvConf && len(d.Servers) == 0 && l.Origin(serversPath).Source == "" &&
		!l.isUnread(serversPath)
}

// Servers sets the name servers that NeedsServers asks for.
func (l *Layers) Servers(servers []netip.Addr) { l.config.DNS.Servers = slices.Clone(servers) }

// ServersUnreadable says why they could not be found.
func (l *Layers) ServersUnreadable(source string, err error) { l.Unreadable(source, serversPath, err) }

// Done returns the configuration, which is valid if there is no error; if it
// still needs name servers, it will be once it has them. The errors joined name
// everything that is wrong and where it comes from: they are
// [*intercept.FieldError], [*intercept.NothingCapturedError], or were added.
func (l *Layers) Done() (intercept.Config, error) {
	c := l.config
	if l.NeedsServers() {
		c = WithoutPod(c)
	}
	all := strict.Flatten(c.Validate())
	if l.Also != nil {
		all = append(all, strict.Flatten(l.Also(l.config))...)
	}
	for _, err := range all {
		field, ok := errors.AsType[*intercept.FieldError](err)
		switch {
		case !ok && !l.Errs.None(): // nothing is captured, most likely in consequence
			continue
		case ok && l.isUnread(field.Field):
			continue
		case ok && !l.Errs.Full():
			from := l.Origin(field.Field)
			field.Source, field.Line = from.Source, from.Line
			l.rename(field)
		}
		if nothing, is := errors.AsType[*intercept.NothingCapturedError](err); is {
			l.name(nothing.Fields)
		}
		l.Errs.Add(err)
	}
	return l.config, l.Errs.Err()
}

// rename lets an error name the other field, which can put it right, as people
// set it.
func (l *Layers) rename(e *intercept.FieldError) {
	for _, f := range Fields() {
		if l.Name != nil && e.Other == f.Path {
			e.Err = errors.New(strings.ReplaceAll(e.Err.Error(), f.Path, l.Name(f)))
		}
	}
}

// name makes of fields' paths what people set them by.
func (l *Layers) name(paths []string) {
	for _, f := range Fields() {
		if at := slices.Index(paths, f.Path); l.Name != nil && at >= 0 {
			paths[at] = l.Name(f)
		}
	}
}

// WithoutPod is a configuration as far as it can be judged, and tried, without a
// pod: all lookups stand for those to name servers that only a pod has.
func WithoutPod(c intercept.Config) intercept.Config {
	if c.DNS.Mode == intercept.DNSResolvConf && len(c.DNS.Servers) == 0 {
		c.DNS.Mode = intercept.DNSAll
	}
	return c
}

// Origin returns where the value of the field at a path came from, of a part of
// it or of what it is a part of.
func (l *Layers) Origin(path string) Origin {
	for _, from := range slices.Backward(l.layers) {
		if from.path != "" {
			if isPart(path, from.path) || isPart(from.path, path) {
				return Origin{Source: from.source}
			}
			continue
		}
		if n := from.doc.At(path); n.Kind != strict.Null {
			return Origin{from.source, n.Line}
		}
	}
	return Origin{}
}

// mark remembers that fields could not be read.
func (l *Layers) mark(paths ...string) {
	for _, path := range paths {
		l.unread[path] = true
		for of := range parts(path) {
			l.touched[of] = true
		}
	}
}

// isUnread reports whether a field, a part of it or what it is a part of could
// not be read.
func (l *Layers) isUnread(path string) bool {
	if l.touched[path] {
		return true
	}
	for of := range parts(path) {
		if l.unread[of] {
			return true
		}
	}
	return false
}

// parts yields the path and what it is a part of: outbound.exclude[1],
// outbound.exclude, outbound, and the whole.
func parts(path string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for {
			if !yield(path) || path == "" {
				return
			}
			path = path[:max(0, strings.LastIndexAny(path, ".["))]
		}
	}
}

// isPart reports whether the field at path is the one at of, or inside it.
func isPart(path, of string) bool {
	rest, ok := strings.CutPrefix(path, of)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
